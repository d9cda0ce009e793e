package frocio

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/alignedfusion/alignedfusion/internal/nifti"
)

// block writes a mask of 20 x 24 x 10 voxels whose labels are boxes: x from, x to (not included), and so on.
func block(t *testing.T, path string, boxes ...[6]int) {
	t.Helper()
	v := &nifti.Image{Dim: [3]int{20, 24, 10}, Affine: [12]float64{1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0}, Float32: make([]float32, 20*24*10)}
	for label, b := range boxes {
		for z := b[4]; z < b[5]; z++ {
			for y := b[2]; y < b[3]; y++ {
				for x := b[0]; x < b[1]; x++ {
					v.Float32[x+20*(y+24*z)] = float32(label + 1)
				}
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

// nnDetection's arrays are SimpleITK's, z first; its boxes are a voxel wider than the lesion,
// and a JSON beside the labels says the class of each (instances_to_boxes in its
// nndet/io/transforms/instances.py).
func TestNNDetectionBoxesLieAlongTheAxesOfItsArrays(t *testing.T) {
	dir := write(t, map[string]string{})
	block(t, filepath.Join(dir, "labels", "c1.nii"), [6]int{12, 16, 3, 8, 1, 3}, [6]int{2, 6, 12, 18, 5, 8})
	for name, text := range map[string]string{
		"labels/c1.json":      `{"instances":{"1":0,"2":1}}`,
		"boxes/c1_boxes.json": `{"pred_boxes":[[0,2,3,8,11,16]],"pred_scores":[0.9],"pred_labels":[1]}`,
		"none/c1_boxes.json":  `{"pred_boxes":[],"pred_scores":[],"pred_labels":[]}`,
	} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	truth, p, err := read(dir, "labels", "boxes", Options{})
	if err != nil {
		t.Fatal(err)
	}
	if mark, lesion := p.Marks[0].Region.String(), truth.Lesions[0].Region.String(); mark != "box [11 2 0 16 8 3]" || mark != lesion {
		t.Errorf("mark %s, lesion %s", mark, lesion)
	}
	if a, b := truth.Lesions[0].Class, truth.Lesions[1].Class; a == b || b != p.Marks[0].Class {
		t.Errorf("lesions of the classes %d and %d, a mark of the second's is of %d", a, b, p.Marks[0].Class)
	}
	if truth, _, err = read(dir, "labels", "none", Options{}); err != nil || truth.Lesions[0].Region.Mask() == nil {
		t.Errorf("without marks: %v", err)
	}
}

func TestMONAIResultsHaveTheNamesOfItsTutorialToo(t *testing.T) {
	const mark = "mark a box [10 20 14 28] score 0.9"
	for _, names := range [][3]string{{"box", "label", "score"}, {"box", "label", "label_scores"}, {"boxes", "labels", "labels_scores"}, {"pred_box", "pred_label", "pred_score"}} {
		text := `{"validation":[{"image":"/data/a/a.nii.gz","` + names[0] + `":[[12,24,4,8]],"` + names[1] + `":[0],"` + names[2] + `":[0.9]}]}`
		dir := write(t, map[string]string{"t.csv": "image,x1,y1,x2,y2\na,10,20,14,28\n", "p.json": text})
		truth, p, err := read(dir, "t.csv", "p.json", Options{})
		if err != nil {
			t.Errorf("%v: %v", names, err)
		} else if got := describe(truth, p)[2]; !strings.HasPrefix(got, mark) {
			t.Errorf("%v: %s", names, got)
		}
	}
}

func TestFilesOfOtherProgramsMayHaveAPostfix(t *testing.T) {
	box := [6]int{2, 5, 2, 5, 2, 5}
	for _, c := range []struct{ truth, marks string }{
		{"10_1.nii", "10_1_detection_map.nii"}, {"10_1_label.nii", "10_1_detection_map.nii"}, {"10_1_label.nii", "10_1_label.nii"}, {"10_1-label.nii", "10_1.nii"}, {"10_1.nii", "10_1_0000.nii"},
	} {
		dir := write(t, map[string]string{})
		block(t, filepath.Join(dir, "t", c.truth), box)
		block(t, filepath.Join(dir, "p", c.marks), box)
		if truth, p, err := read(dir, "t", "p", Options{}); err != nil || len(truth.Images) != 1 || len(p.Marks) != 1 {
			t.Errorf("%v: %v", c, err)
		}
	}
	dir := write(t, map[string]string{})
	block(t, filepath.Join(dir, "t", "a.nii"), box)
	block(t, filepath.Join(dir, "p", "a.nii"), box)
	block(t, filepath.Join(dir, "p", "a_detection_map.nii"), box)
	if _, _, err := read(dir, "t", "p", Options{}); err == nil || !strings.Contains(err.Error(), `two files of the image "a"`) {
		t.Errorf("two files of one image: %v", err)
	}
}

// What is read as it is meant, or at least said: there must be no number without a word.
func TestDoubtfulTablesAreReadAsMeantOrSaid(t *testing.T) {
	const box, marks = "image,x1,y1,x2,y2\na,1,1,2,2\n", "image,x1,y1,x2,y2,score\na,1,1,2,2,0.5\n"
	for _, c := range []struct {
		what, truth, marks, images string
		options                    Options
		lesions, found             int    // marks that were read
		said                       string // a warning or an error; "": neither
	}{
		{"missing values", "image,x1,y1,x2,y2\na,1,1,2,2\nb,NaN,nan,NA,None\n", marks + "b,,,,,\n", "", Options{}, 1, 1, ""},
		{"VinDr filled up", "image,class,x1,y1,x2,y2\na,Mass,1,1,2,2\nb,No finding,0,0,1,1\n", marks, "", Options{}, 1, 1, ""},
		{"a lesion of one pixel", "image,class,x1,y1,x2,y2\na,Mass,1,1,2,2\nb,Mass,0,0,1,1\n", marks, "", Options{}, 2, 1, ""},
		{"classes of pandas", "image,class,x1,y1,x2,y2\na,1.0,1,1,2,2\n", "image,class,x1,y1,x2,y2,score\na,1,1,1,2,2,0.5\n", "", Options{Category: "1"}, 1, 1, ""},
		{"scores in the truth", "image,x1,y1,x2,y2,score\na,1,1,2,2,1\n", marks, "", Options{}, 1, 1, `has a column "score": are these predictions?`},
		{"spelling of classes", "image,class,x1,y1,x2,y2\na,Mass,1,1,2,2\na,cyst,3,3,4,4\n", "image,class,x1,y1,x2,y2,score\na,mass,1,1,2,2,1\na,cyst,3,3,4,4,.5\n", "", Options{}, 2, 2,
			`marks are of the class "mass", lesions of "Mass"`},
		{"labels 0 and 1", "image,label,x1,y1,x2,y2\na,1,1,1,2,2\na,0,3,3,4,4\n", marks, "", Options{}, 2, 1, "--category 1 leaves it out"},
		{"splits together", box, marks, "image,split\na,test\nb,train\n", Options{}, 1, 1, "images of the splits test, train are evaluated together"},
		{"one split", box, marks, "image,split\na,test\nb,train\n", Options{Split: "test"}, 1, 1, ""},
		{"all splits", box, marks, "image,split\na,test\nb,train\n", Options{Split: "all"}, 1, 1, ""},
		{"numbers of rows", "id,patient_id,x1,y1,x2,y2\n1,a,1,1,2,2\n2,a,5,5,6,6\n", "id,patient_id,x1,y1,x2,y2,score\n1,a,5,5,6,6,1\n", "", Options{}, 0, 0, "--columns image=patient_id"},
		{"rows named", "id,patient_id,x1,y1,x2,y2\n1,a,1,1,2,2\n2,a,5,5,6,6\n", "id,patient_id,x1,y1,x2,y2,score\n1,a,5,5,6,6,1\n", "", Options{Columns: map[string]string{"image": "patient_id"}}, 2, 1, ""},
	} {
		files := map[string]string{"t.csv": c.truth, "p.csv": c.marks}
		if c.images != "" {
			files["images.csv"] = c.images
		}
		truth, p, err := read(write(t, files), "t.csv", "p.csv", c.options)
		said := ""
		if err != nil {
			said = err.Error()
		} else {
			said = strings.Join(append(truth.Warnings, p.Warnings...), "\n")
			if len(truth.Lesions) != c.lesions || len(p.Marks) != c.found {
				t.Errorf("%s: %d lesions, %d marks, want %d and %d", c.what, len(truth.Lesions), len(p.Marks), c.lesions, c.found)
			}
		}
		if c.said == "" && said != "" || !strings.Contains(said, c.said) {
			t.Errorf("%s: said %q, want %q", c.what, said, c.said)
		}
	}
}

func TestImagesInSeveralFilesOfASystemAreSaid(t *testing.T) {
	dir := write(t, map[string]string{"t.csv": "image,x1,y1,x2,y2\na,1,1,2,2\nb,1,1,2,2\n",
		"1.csv": "image,x1,y1,x2,y2,score\na,1,1,2,2,0.5\n", "2.csv": "image,x1,y1,x2,y2,score\nb,1,1,2,2,0.7\n", "3.csv": "image,x1,y1,x2,y2,score\na,1,1,2,2,0.6\n"})
	for files, want := range map[string]string{"1.csv 2.csv": "", "1.csv 2.csv 3.csv": "1 images have marks in several files of one system"} {
		truth, err := ReadTruth(Source{GroundTruth: filepath.Join(dir, "t.csv")}, Options{})
		if err != nil {
			t.Fatal(err)
		}
		var paths []string
		for _, name := range strings.Fields(files) {
			paths = append(paths, filepath.Join(dir, name))
		}
		p, err := truth.ReadPredictions(paths[0], paths[1:]...)
		if err != nil {
			t.Fatal(err)
		}
		if said := strings.Join(p.Warnings, "\n"); want == "" && said != "" || !strings.Contains(said, want) {
			t.Errorf("%s: %q, want %q", files, said, want)
		}
	}
}

func TestResultsWithListsOfTheirOwnNameTheSameThings(t *testing.T) {
	const truth = `{"images":[{"id":1,"file_name":"a.png"},{"id":2,"file_name":"b.png"}],"categories":[{"id":1,"name":"mass"},{"id":2,"name":"cyst"}],
		"annotations":[{"image_id":1,"category_id":1,"bbox":[1,1,2,2]}]}`
	const mark = `"annotations":[{"image_id":1,"category_id":1,"bbox":[1,1,2,2],"score":1}]`
	for _, c := range []struct{ marks, said string }{
		{`{` + mark + `,"images":[{"id":1,"file_name":"a.png"}],"categories":[{"id":1,"name":"mass"}]}`, ""},
		{`{` + mark + `,"images":[{"id":1,"file_name":"b.png"},{"id":2,"file_name":"a.png"}]}`, `images[0]: the file "b.png" has the id "1" here and "2" in the ground truth`},
		{`{` + mark + `,"categories":[{"id":1,"name":"cyst"},{"id":2,"name":"mass"}]}`, `categories[0]: 1 is "cyst" here and "mass" in the ground truth`},
		{`[{"file_name":"a.png","category_id":1,"bbox":[1,1,2,2],"score":1}]`, ""},
	} {
		_, p, err := read(write(t, map[string]string{"t.json": truth, "p.json": c.marks}), "t.json", "p.json", Options{})
		if c.said == "" && (err != nil || len(p.Marks) != 1) || c.said != "" && (err == nil || !strings.Contains(err.Error(), c.said)) {
			t.Errorf("%s: %v, want %q", c.marks, err, c.said)
		}
	}
}

// Labels of tissues and labels of lesions are written alike.
func TestALabelAroundAnotherIsSaid(t *testing.T) {
	for _, c := range []struct {
		boxes   [][6]int
		options Options
		want    string
	}{
		{[][6]int{{1, 19, 1, 19, 1, 9}, {8, 10, 8, 10, 4, 6}}, Options{}, "label 1 surrounds label 2"},
		{[][6]int{{1, 19, 1, 19, 1, 9}, {8, 10, 8, 10, 4, 6}}, Options{MaskLesions: MaskLabels}, ""},
		{[][6]int{{1, 5, 1, 5, 1, 5}, {8, 10, 8, 10, 4, 6}}, Options{}, ""},
		{[][6]int{{0, 20, 0, 24, 0, 10}}, Options{}, "100 % of the voxels of"},
		{[][6]int{{0, 20, 0, 24, 0, 10}}, Options{MaskLesions: MaskComponents}, "is the mask inverted?"},
		{[][6]int{{0, 20, 0, 24, 0, 8}}, Options{}, ""},
	} {
		dir := write(t, map[string]string{})
		block(t, filepath.Join(dir, "t", "a.nii"), c.boxes...)
		truth, err := ReadTruth(Source{GroundTruth: filepath.Join(dir, "t")}, c.options)
		if err != nil {
			t.Fatal(err)
		}
		if said := strings.Join(truth.Warnings, "\n"); c.want == "" && said != "" || !strings.Contains(said, c.want) {
			t.Errorf("%v: %q, want %q", c.boxes, said, c.want)
		}
	}
}

// RibFrac's tables name no mask: that of public_id lies beside them, of truth and marks alike.
func TestRibFracTablesAreAboutTheMasksBesideThem(t *testing.T) {
	dir := write(t, map[string]string{"info.csv": "public_id,label_id,label_code\nRibFrac1,0,0\nRibFrac1,1,1\nRibFrac1,2,-1\n"})
	block(t, filepath.Join(dir, "RibFrac1-label.nii"), [6]int{2, 6, 12, 18, 5, 8}, [6]int{12, 16, 3, 8, 1, 3})
	block(t, filepath.Join(dir, "pred", "RibFrac1.nii"), [6]int{2, 6, 12, 18, 5, 8})
	if err := os.WriteFile(filepath.Join(dir, "pred", "p.csv"), []byte("public_id,label_id,confidence,label_code\nRibFrac1,0,1,0\nRibFrac1,1,0.7,1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	truth, p, err := read(dir, "info.csv", "pred/p.csv", Options{})
	if err != nil {
		t.Fatal(err)
	}
	if len(truth.Lesions) != 2 || len(p.Marks) != 1 || p.Marks[0].Score != 0.7 {
		t.Errorf("%d lesions, want 2; marks %v", len(truth.Lesions), p.Marks)
	}
}
