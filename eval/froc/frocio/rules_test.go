package frocio

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/alignedfusion/alignedfusion/eval/froc"
)

func TestRowsLeftAreGuessedFromTheBytes(t *testing.T) {
	for _, c := range []struct {
		done, size int64
		want       int
	}{{100, 400, 30}, {100, 100, 0}, {0, 400, 0}, {400, 100, 0}, {200, 300, 5}} {
		f := &rowFile{size: c.size, read: func() int64 { return c.done }}
		if got := f.rowsLeft(10); got != c.want {
			t.Errorf("10 rows in %d of %d bytes: %d are left, want %d", c.done, c.size, got, c.want)
		}
	}
}

// The marks of a map keep its whole grid.
func TestMarksOfAMapHaveItsGrid(t *testing.T) {
	abs, err := filepath.Abs("../../../internal/nifti/testdata")
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(filepath.Join(abs, "volumes.json"))
	if err != nil {
		t.Fatal(err)
	}
	var all map[string]struct {
		Size    []int
		Indices []int
	}
	if err := json.Unmarshal(raw, &all); err != nil {
		t.Fatal(err)
	}
	const name = "uint8.nii.gz"
	files := func(mark string) string {
		return write(t, map[string]string{"t.csv": "image,mask\na," + filepath.Join(abs, name) + "\n", "p.csv": "image,mask\na," + filepath.Join(abs, mark) + "\n"})
	}
	_, marks, err := read(files(name), "t.csv", "p.csv", Options{Candidates: CandidatesComponents})
	if err != nil {
		t.Fatal(err)
	}
	voxels, high := 0, [3]float64{}
	for _, m := range marks.Marks {
		voxels += m.Region.Mask().Voxels()
		_, top := m.Region.Bounds()
		for a := range high {
			high[a] = max(high[a], top[a])
		}
	}
	size, want := all[name].Size, [3]float64{}
	for _, i := range all[name].Indices {
		for a, x := range [3]int{i % size[0], i / size[0] % size[1], i / size[0] / size[1]} {
			want[a] = max(want[a], float64(x))
		}
	}
	if voxels != len(all[name].Indices) || high != want {
		t.Errorf("%d voxels up to %v, want %d up to %v", voxels, high, len(all[name].Indices), want)
	}
}

func TestNotesSayWhatWasLeftOut(t *testing.T) {
	const marks = "image,x,y,score\n"
	notes := func(o Options) string {
		truth, _, err := read(write(t, map[string]string{"t.csv": "image,x,y,radius,split\na,1,1,1,val\nb,1,1,1,train\n", "p.csv": marks}), "t.csv", "p.csv", o)
		if err != nil {
			t.Fatal(err)
		}
		return strings.Join(truth.Notes, "\n")
	}
	if got := notes(Options{Split: "val"}); !strings.Contains(got, "1 images left out") {
		t.Errorf("notes %q", got)
	}
	if got := notes(Options{}); strings.Contains(got, "left out") || !strings.Contains(got, "no list of images") {
		t.Errorf("notes %q", got)
	}
}

func TestColumnsOfTheListOfImagesThatNobodyUsesAreNamed(t *testing.T) {
	truth, _, err := read(write(t, map[string]string{"images.csv": "image,patient,width,height,spacing_x,slices,sample_weight\na,p,9,9,1,3,2\n",
		"t.csv": "image,x,y,radius\na,1,1,1\n", "p.csv": "image,x,y,score\n"}), "t.csv", "p.csv", Options{})
	if err != nil {
		t.Fatal(err)
	}
	if got := truth.Notes[0]; !strings.HasSuffix(got, "images.csv: columns not used: sample_weight; --columns image-weight=sample_weight makes each image count so many times") {
		t.Errorf("notes %q", truth.Notes)
	}
}

func TestAnEmptyImageIdIsLeftOutOfALenientList(t *testing.T) {
	truth, _, err := read(write(t, map[string]string{"images.csv": "image,patient\na,p\n,q\na,p\n", "t.csv": "image,x,y,radius\na,1,1,1\n", "p.csv": "image,x,y,score\n"}),
		"t.csv", "p.csv", Options{Lenient: true})
	if err != nil {
		t.Fatal(err)
	}
	if len(truth.Images) != 1 || truth.Images[0].ID != "a" {
		t.Errorf("images %+v, want a alone", truth.Images)
	}
}

func TestPredictionsThatAreNotThere(t *testing.T) {
	dir := write(t, map[string]string{"t.csv": "image,x,y,radius\na,1,1,1\n"})
	if _, _, err := read(dir, "t.csv", "absent.csv", Options{}); err == nil || !strings.Contains(err.Error(), "absent.csv") {
		t.Errorf("error %v", err)
	}
}

func TestPairsNameEveryOperatingPoint(t *testing.T) {
	c := &froc.Comparison{Pairs: []froc.Pair{{A: "a", B: "b", Points: []froc.Difference{{Value: 1}, {Value: 2}, {Value: 3}}}}}
	got := NewPairs(c, []float64{0.5, 1, 4})
	if len(got) != 1 || len(got[0].Points) != 3 {
		t.Fatalf("%+v", got)
	}
	for i, fppi := range []float64{0.5, 1, 4} {
		if p := got[0].Points[i]; p.FPPI != fppi || p.Value != Number(i+1) {
			t.Errorf("point %d: %+v", i, p)
		}
	}
}

func TestImagesHaveWeights(t *testing.T) {
	dir := write(t, map[string]string{
		"truth.csv":    "image,x1,y1,x2,y2\na,0,0,9,9\nb,0,0,9,9\n",
		"weighed.csv":  "image,x1,y1,x2,y2,image_weight\na,0,0,9,9,3\n",
		"images.csv":   "image,Image Weight\na,3\nb,1\nc,10.0\n",
		"named.csv":    "image,stands for\na,3\nb,1\nc,10\n",
		"fraction.csv": "image,case_weight\na,2.5\nb,1\n",
		"zero.csv":     "image,case_weight\na,0\nb,\n",
	})
	read := func(truth, images string, o Options) (*Truth, error) {
		return ReadTruth(Source{GroundTruth: filepath.Join(dir, truth), Images: filepath.Join(dir, images)}, o)
	}
	for images, columns := range map[string]map[string]string{"images.csv": nil, "named.csv": {"image-weight": "stands for"}} {
		truth, err := read("truth.csv", images, Options{Columns: columns})
		if err != nil {
			t.Fatal(err)
		}
		if a, b, c := truth.Images[0].Weight, truth.Images[1].Weight, truth.Images[2].Weight; a != 3 || b != 1 || c != 10 {
			t.Errorf("%s: weights %d, %d, %d, want 3, 1, 10", images, a, b, c)
		}
		if !strings.Contains(strings.Join(truth.Notes, "\n"), "3 images stand for 14") {
			t.Errorf("%s: notes %q", images, truth.Notes)
		}
	}
	for want, files := range map[string][2]string{
		`fraction.csv:2: case_weight is "2.5", want the whole number`:        {"truth.csv", "fraction.csv"},
		`zero.csv:3: case_weight is "", want`:                                {"truth.csv", "zero.csv"},
		`weighed.csv:1: column "image_weight" weighs images; give it in the`: {"weighed.csv", "images.csv"},
	} {
		if _, err := read(files[0], files[1], Options{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
}

func TestBoxesOfCOCOAreWhatTheirModeSays(t *testing.T) {
	dir := write(t, map[string]string{
		"truth.json":  `{"images":[{"id":1}],"annotations":[{"image_id":1,"bbox":[2,3,12,23],"bbox_mode":0},{"image_id":1,"bbox":[30,3,10,20]}]}`,
		"marks.json":  `[{"image_id":1,"bbox":[2,3,10,20],"bbox_mode":"XYWH_ABS","score":1},{"image_id":1,"bbox":[30,3,40,23],"bbox_mode":"BoxMode.XYXY_ABS","score":2}]`,
		"other.json":  `[{"image_id":1,"bbox":[2,3,10,20],"bbox_mode":4,"score":1}]`,
		"turned.json": `[{"image_id":1,"bbox":[2,3,1,20],"bbox_mode":0,"score":1}]`,
		"list.json":   `[{"image":"1"}]`,
	})
	path := func(name string) string { return filepath.Join(dir, name) }
	truth, err := ReadTruth(Source{GroundTruth: path("truth.json")}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	marks, err := truth.ReadPredictions(path("marks.json"))
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []froc.Region{froc.Box(2, 3, 12, 23), froc.Box(30, 3, 40, 23)} {
		if truth.Lesions[i].Region != want || marks.Marks[i].Region != want {
			t.Errorf("lesion %v, mark %v, want %v", truth.Lesions[i].Region.String(), marks.Marks[i].Region.String(), want.String())
		}
	}
	for name, want := range map[string]string{"other.json": "bbox_mode is 4, want XYWH_ABS", "turned.json": "x2=1 is less than x1=2"} {
		if _, err := truth.ReadPredictions(path(name)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %q", name, err, want)
		}
	}
	if _, err := ReadTruth(Source{GroundTruth: path("truth.json"), Images: path("list.json")}, Options{}); err == nil || !strings.Contains(err.Error(), "is a JSON array, want a table") {
		t.Errorf("a list of images as an array: %v", err)
	}
}
