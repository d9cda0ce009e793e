package frocio

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/alignedfusion/alignedfusion/eval/froc"
	"github.com/alignedfusion/alignedfusion/internal/nifti"
)

// cubes writes a volume of 8 x 8 x 8 voxels with 3 x 3 x 3 of that value, 5 mm from slice to slice.
func cubes(t *testing.T, path string, value float32) {
	t.Helper()
	v := &nifti.Image{Dim: [3]int{8, 8, 8}, Affine: [12]float64{1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 5, 0}, Float32: make([]float32, 512)}
	for k := 2; k < 5; k++ {
		for j := 2; j < 5; j++ {
			for i := 2; i < 5; i++ {
				v.Float32[i+8*j+64*k] = value
			}
		}
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := nifti.Write(path, v); err != nil {
		t.Fatal(err)
	}
}

// An option about predictions is used or refused in every format they come in.
func TestOptionsOfPredictionsAreUsedOrRefusedInEveryFormat(t *testing.T) {
	dir := write(t, map[string]string{"images.csv": "image,width,height\na,8,8\n"})
	for name, value := range map[string]float32{"truth/a.nii": 1, "maps/a.nii": 0.9, "labels/a.nii": 1, "single/a.nii": 0.9} {
		cubes(t, filepath.Join(dir, name), value)
	}
	options := map[string]Options{
		"candidates threshold":  {Candidates: CandidatesThreshold, Threshold: 0.5},
		"candidates components": {Candidates: CandidatesComponents},
		"candidates dynamic":    {Candidates: CandidatesDynamic},
		"dynamic-v2":            {Candidates: CandidatesDynamicV2},
		"dynamic-fast":          {Candidates: CandidatesDynamicFast},
		"coordinates":           {Coordinates: LPS},
		"decimal comma":         {DecimalComma: true},
		"columns":               {Columns: map[string]string{"score": "sicher"}},
	}
	const maps, point, table, column = "candidates threshold|candidates components|candidates dynamic|dynamic-v2|dynamic-fast", "coordinates", "decimal comma", "columns"
	for _, c := range []struct {
		name string // of the predictions
		text string // "": a folder or file of volumes that is made below
		used string // options that it has a use for
	}{
		{"boxes.csv", "image,x1,y1,x2,y2,z,score\na,2,2,5,5,3,0.9\n", table},
		{"named.csv", "image;x1;y1;z1;x2;y2;z2;sicher\na;2;2;2;5;5;5;0,9\n", table + "|" + column},
		{"points.csv", "image,x,y,z,score\na,3,3,3,0.9\n", point + "|" + table},
		{"quoted.csv", "image,x,y,z,score\na,3,3,3,\"0,9\"\n", table},
		{"boxes.jsonl", `{"image":"a","x1":2,"y1":2,"x2":5,"y2":5,"z":3,"score":0.9}`, table},
		{"coco.json", `[{"image_id":"a","category_id":1,"bbox":[2,2,3,3],"score":0.9}]`, ""},
		{"predict.json", `{"cases":[{"id":"a","boxes":[{"x1":2,"y1":2,"x2":5,"y2":5,"score":0.9}]}]}`, ""},
		{"a_boxes.json", `{"pred_boxes":[[2,2,5,5,2,5]],"pred_scores":[0.9],"pred_labels":[0]}`, ""},
		{"monai.json", `{"test":[{"image":"a.nii.gz","box":[[3,3,3,3,3,3]],"label":[0],"label_scores":[0.9]}]}`, ""},
		{"a.txt", "0 0.4 0.4 0.3 0.3 0.9\n", ""},
		{"a.csv", "0.9,3,3\n", ""},
		{"rsna.csv", "patientId,PredictionString\na,0.9 2 2 3 3\n", table},
		{"scored.csv", "image,mask,label_id,score\na,labels/a.nii,1,0.9\n", table},
		{"maps.csv", "image,mask\na,maps/a.nii\n", maps + "|" + table},
		{"maps", "", maps},
		{"labels", "", maps},
		{"single/a.nii", "", maps},
		{"none.csv", "image,x,y,z,score\n", maps + "|" + point + "|" + table},
	} {
		if c.text != "" {
			if err := os.WriteFile(filepath.Join(dir, c.name), []byte(c.text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		// without a list of images nothing but the predictions may be a table
		truth := func(o Options) (*Truth, error) {
			s := Source{GroundTruth: filepath.Join(dir, "truth")}
			if c.name == "a.txt" {
				s.Images = filepath.Join(dir, "images.csv")
			}
			return ReadTruth(s, o)
		}
		for name, o := range options {
			used := false
			for _, one := range strings.Split(c.used, "|") {
				used = used || one == name
			}
			if c.name == "a.txt" && name == table || c.name == "named.csv" && name != column || c.name == "quoted.csv" && name != table {
				continue // the list is a table; these need their option to be read at all
			}
			if c.name == "named.csv" {
				o.DecimalComma = true
			}
			read, err := truth(o)
			if err != nil {
				t.Fatal(err)
			}
			_, err = read.ReadPredictions(filepath.Join(dir, c.name))
			if used && err != nil {
				t.Errorf("%s, %s: %v, want it used", c.name, name, err)
			} else if !used && (err == nil || !strings.Contains(err.Error(), "--"+flagOf(name))) {
				t.Errorf("%s, %s: error %v, want one that names the flag", c.name, name, err)
			}
		}
	}
}

func flagOf(option string) string {
	switch option {
	case "coordinates", "columns":
		return option
	case "decimal comma":
		return "decimal-comma"
	}
	return "candidates"
}

// What one of several systems has a use for is not refused for the sake of the others.
func TestAnOptionOfOneSystemIsNotRefusedForTheOthers(t *testing.T) {
	dir := write(t, map[string]string{"p.csv": "image,x,y,z,score\na,3,3,3,0.9\n", "q.csv": "image,x,y,z,sicher\na,3,3,3,0.9\n"})
	cubes(t, filepath.Join(dir, "truth/a.nii"), 1)
	cubes(t, filepath.Join(dir, "maps/a.nii"), 0.7)
	truth, err := ReadTruth(Source{GroundTruth: filepath.Join(dir, "truth")}, Options{Candidates: CandidatesDynamic, Columns: map[string]string{"score": "sicher"}})
	if err != nil {
		t.Fatal(err)
	}
	systems, err := truth.ReadSystems(t.Context(), []string{filepath.Join(dir, "p.csv")}, []string{filepath.Join(dir, "q.csv")}, []string{filepath.Join(dir, "maps")})
	if err != nil {
		t.Fatal(err)
	}
	for i, p := range systems {
		if len(p.Marks) != 1 {
			t.Errorf("system %d has %d marks, want 1", i, len(p.Marks))
		}
	}
}

func TestPointsInMillimetresAreMovedIntoVoxels(t *testing.T) {
	dir := write(t, map[string]string{"p.csv": "image,x,y,z,score\na,-3,-3,15,0.9\n", "q.csv": "image,x1,y1,z1,x2,y2,z2,score\na,2,2,2,5,5,5,0.9\n"})
	cubes(t, filepath.Join(dir, "truth/a.nii"), 1)
	truth, err := ReadTruth(Source{GroundTruth: filepath.Join(dir, "truth")}, Options{Coordinates: LPS})
	if err != nil {
		t.Fatal(err)
	}
	p, err := truth.ReadPredictions(filepath.Join(dir, "p.csv"))
	if err != nil {
		t.Fatal(err)
	}
	if got := p.Marks[0].Region.Centre(); got != [3]float64{3, 3, 3} {
		t.Errorf("the mark is at %v, want voxel 3, 3, 3", got)
	}
	if _, err := truth.ReadPredictions(filepath.Join(dir, "q.csv")); err == nil || !strings.Contains(err.Error(), "row 2: --coordinates lps is for points in space, and this mark is a 3-D box") {
		t.Errorf("a box: error %v", err)
	}
}

// Distances to masks are in millimetres by the masks' headers, unless other spacings are said.
func TestDistancesToMasksAreInMillimetres(t *testing.T) {
	dir := write(t, map[string]string{"p.csv": "image,x,y,z,score\na,3,3,5,0.9\n", "images.csv": "image,spacing_x,spacing_y,spacing_z\na,1,1,1\n"})
	cubes(t, filepath.Join(dir, "truth/a.nii"), 1) // its centre is voxel 3, 3, 3: 2 slices or 10 mm away
	for _, c := range []struct {
		images  string
		options Options
		found   int
	}{{"", Options{}, 0}, {"images.csv", Options{}, 1}, {"", Options{SpacingMM: [3]float64{1, 1, 2}}, 1}} {
		s := Source{GroundTruth: filepath.Join(dir, "truth")}
		if c.images != "" {
			s.Images = filepath.Join(dir, c.images)
		}
		truth, err := ReadTruth(s, c.options)
		if err != nil {
			t.Fatal(err)
		}
		p, err := truth.ReadPredictions(filepath.Join(dir, "p.csv"))
		if err != nil {
			t.Fatal(err)
		}
		protocol := froc.StrictProtocol()
		protocol.Hit, _ = froc.ParseHit("distance<=5")
		r, err := froc.Evaluate(truth.Truth, p.Marks, protocol)
		if err != nil {
			t.Fatal(err)
		}
		if r.Counts.Found != c.found {
			t.Errorf("%q %v: %d found, want %d", c.images, c.options.SpacingMM, r.Counts.Found, c.found)
		}
		if said := strings.Contains(strings.Join(truth.Notes, "\n"), "1 x 1 x 5 mm"); said != (c.found == 0) {
			t.Errorf("notes %q", truth.Notes)
		}
	}
}
