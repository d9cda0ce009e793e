package frocio

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/alignedfusion/alignedfusion/eval/froc"
)

// Every usual way to write a box is read as the box [10 20 14 28].
func TestBoxesAreReadAsWhatTheirColumnsSay(t *testing.T) {
	for _, c := range []struct {
		header, row string
		options     Options
	}{
		{"image,x1,y1,x2,y2", "a,10,20,14,28", Options{}},
		{"Image Index,x_min,y_min,x_max,y_max", "a,10,20,14,28", Options{}},
		{"filename,width,height,class,xmin,ymin,xmax,ymax", "a,512,512,m,10,20,14,28", Options{}},
		{"img_id,XMin,XMax,YMin,YMax", "a,10,14,20,28", Options{}},
		{"patientId,x,y,width,height,Target", "a,10,20,4,8,1", Options{}},
		{"uid,left,top,w,h", "a,10,20,4,8", Options{}},
		{"name,xmin,ymin,width,height", "a,10,20,4,8", Options{}},
		{"scan,cx,cy,w,h", "a,12,24,4,8", Options{}},
		{"case_id,x_center,y_center,width,height", "a,12,24,4,8", Options{}},
		{"image,x0,y0,x1,y1", "a,10,20,14,28", Options{}},
		{"image,x,y,x2,y2", "a,10,20,14,28", Options{}},
		{"image,x_top_left,y_top_left,x_bottom_right,y_bottom_right", "a,10,20,14,28", Options{}},
		{"image,xywh", `a,"[10, 20, 4, 8]"`, Options{}},
		{"image,x1 y1 x2 y2", "a,10 20 14 28", Options{}},
		{`image,"bbox [x1,y1,x2,y2]"`, `a,"10,20,14,28"`, Options{}},
		{"Image Index,Finding Label,Bbox [x,y,w,h],,,", "a,Mass,10,20,4,8,,,", Options{}},
		{"image,bbox", `a,"[10, 20, 4, 8]"`, Options{}}, // cannot be corners
		{"image,bbox", `a,"[10, 20, 14, 28]"`, Options{Columns: map[string]string{"xyxy": "bbox"}}},
		{"image,bbox", `a,"[12, 24, 4, 8]"`, Options{Columns: map[string]string{"cxcywh": "bbox"}}},
		{"image,a,b,c,d", "a,10,20,4,8", Options{Columns: map[string]string{"x": "a", "y": "b", "w": "c", "h": "d"}}},
		{"image,x,y,width,height", "a,12,24,4,8", Options{Columns: map[string]string{"cx": "x", "cy": "y"}}},
		{"image\tx1\ty1\tx2\ty2\torgan", "a\t10\t20\t14\t28\t", Options{}},
		{"image;x1;y1;x2;y2", "a;10;20;14;28", Options{}},
		{"image;x1;y1;x2;y2", "a;10,0;20,0;14,0;28,0", Options{DecimalComma: true}},
		{"image x1 y1 x2 y2", "a 10 20 14 28 ", Options{}},
		{",image,x1,y1,x2,y2,", "0,a,10,20,14,28,", Options{}},
		{"\xef\xbb\xbfimage ,x1,y1,x2,y2", "a ,10 , 20,14,28 ", Options{}},
	} {
		dir := write(t, map[string]string{"t.csv": c.header + "\n" + c.row + "\n"})
		truth, err := ReadTruth(Source{GroundTruth: filepath.Join(dir, "t.csv")}, c.options)
		if err != nil {
			t.Errorf("%s: %v", c.header, err)
			continue
		}
		if got := truth.Lesions[0].Region.String(); got != "box [10 20 14 28]" || truth.Images[0].ID != "a" {
			t.Errorf("%s: %s of image %q", c.header, got, truth.Images[0].ID)
		}
	}
}

func TestBoxesInSpaceAreReadAsWhatTheirColumnsSay(t *testing.T) {
	for _, c := range []struct{ header, row, want string }{
		{"image,x,y,z,w,h,d", "a,10,20,30,4,8,2", "box [10 20 30 14 28 32]"},
		{"seriesuid,coordX,coordY,coordZ,w,h,d", "a,12,24,31,4,8,2", "box [10 20 30 14 28 32]"},
		{"image,xmin,ymin,zmin,xmax,ymax,zmax", "a,10,20,30,14,28,32", "box [10 20 30 14 28 32]"},
		{"image,x,y,width,height,slice", "a,10,20,4,8,7", "box [10 20 14 28] on slice 7"},
		{"image,x1y1x2y2z1z2", `a,"10 20 14 28 30 32"`, "box [10 20 30 14 28 32]"},
	} {
		dir := write(t, map[string]string{"t.csv": c.header + "\n" + c.row + "\n"})
		truth, err := ReadTruth(Source{GroundTruth: filepath.Join(dir, "t.csv")}, Options{})
		if err != nil {
			t.Errorf("%s: %v", c.header, err)
		} else if got := truth.Lesions[0].Region.String(); got != c.want {
			t.Errorf("%s: %s, want %s", c.header, got, c.want)
		}
	}
}

func TestWhatFitsTwoWaysIsRefusedWithTheChoice(t *testing.T) {
	const truth = "image,x1,y1,x2,y2\na,0,0,1,1\n"
	for _, c := range []struct {
		truth, marks string
		options      Options
		want         string
	}{
		{"image,bbox\na,\"[1, 2, 30, 40]\"\n", "", Options{}, "--columns xyxy=bbox or --columns xywh=bbox"},
		{truth, "image,PredictionString\na,\n", Options{}, "say which: --columns score-xywh=PredictionString"},
		{truth, "a,10,20,30,40,0.9\n", Options{}, "the first row holds the numbers 10, 20, 30, 40, 0.9"},
		{truth, "image,x1,y1,x2,y2,p_value\na,0,0,1,1,1\n", Options{}, "--columns score=NAME"},
		{truth, "image;x1;y1;x2;y2;score\na;0;0;1;1;0,5\n", Options{}, "--decimal-comma"},
		{truth, "image,x1,y1,x2,y2,score\na,\"1,010\",0,\"1,030\",1,\"0,912\"\n", Options{DecimalComma: true}, `"1,010": a decimal comma or thousands?`},
		{truth, "image;x1;y1;x2;y2;score\na;0;0;1;1;1.000\n", Options{DecimalComma: true}, "decimal comma was declared"},
		{truth, "image,x1,y1,x2,y2,score\nA.png,0,0,1,1,1\n", Options{}, `did you mean "a"?`},
		{truth, "image,x1,y1,x2,y2,score\na,0,0,1,1,1\n", Options{Columns: map[string]string{"x": "nowhere"}}, `names a column "nowhere" that no file has`},
		{truth, "image,x1,y1,x2,y2,score\na,0,0,1,1,1\n", Options{Columns: map[string]string{"abscissa": "x1"}}, `"abscissa" is no role; the role stands first: did you mean x1=abscissa?`},
		{truth, "image,x1,y1,x2,y2,score\na,0,0,1,1,1\n", Options{Columns: map[string]string{"conf": "p"}}, `"conf" is no role; did you mean "score"?`},
		{truth, "image,x1,y1,x2,y2,score,likely\na,0,0,1,1,1,1\n", Options{Columns: map[string]string{"x": "likly"}}, `names a column "likly" that no file has; did you mean "likely"?`},
		{truth, "image,x1,y1,x2,y2,score\na,0,0,1,1,1\n", Options{Split: "val"}, "--split val: no file has a column of splits"},
		{truth, "image,x1,y1,x2,y2,score\na,0,0,1,1,1\n", Options{Noisy: NoisyKeep}, "--noisy is for DL_info.csv"},
		{truth, "image,x1,y1,x2,y2,score\na,0,0,1,1,1\n", Options{MaskLesions: MaskLabels}, "--mask-lesions is for masks"},
		{truth, "image,x1,y1,x2,y2,score\na,0,0,1,1,1\n", Options{Coordinates: LPS}, "--coordinates is for points"},
		{truth, "image,x1,y1,x2,y2,score\na,0,0,1,1,1\n", Options{IoUType: Segm}, "--iou-type is for COCO's JSON alone"},
		{cocoOf(`"bbox":[1,1,2,2]`, ""), "[]", Options{IoUType: Segm}, "no segmentation; --iou-type bbox compares boxes"},
		{cocoOf(`"segmentation":[[0,0,4,0,4,4]]`, ""), "[]", Options{IoUType: Segm}, "segmentations need width and height"},
		{cocoOf(`"segmentation":{"size":[4,5],"counts":"52207"}`, ""), `[{"image_id":1,"score":1,"segmentation":{"size":[5,4],"counts":"52207"}}]`, Options{IoUType: Segm},
			"the segmentation is of an image of 4 x 5 pixels, the image has 5 x 4"},
		{cocoOf(`"segmentation":[[0.1,0.1,0.2,0.1,0.2,0.2]]`, `,"width":9,"height":9`), "[]", Options{IoUType: Segm}, "the segmentation has no pixel"},
		{truth, "\x80\x04\x95 pickled", Options{}, "python3 -c"},
		{truth, "PAR1....", Options{}, "to_csv"},
		{truth, "<?xml version=\"1.0\"?><annotation></annotation>", Options{}, "as CSV, image,x1,y1,x2,y2,class"},
		{truth, "BZh91AY", Options{}, "packed by bzip2"},
		{"image,x1,y1,x2,y2\nct-1 a,0,0,1,1\n", "image,x1,y1,x2,y2,score\nCT_1_a_0000,0,0,1,1,1\n", Options{}, `did you mean "ct-1 a"?`},
	} {
		dir := write(t, map[string]string{"t.csv": c.truth, "p.csv": c.marks})
		if _, _, err := read(dir, "t.csv", "p.csv", c.options); err == nil || !strings.Contains(err.Error(), c.want) || len(err.Error()) > 2000 {
			t.Errorf("%q %q: error %v, want %q", c.truth, c.marks, err, c.want)
		}
	}
}

// cocoOf is a ground truth with one finding; more is said of its image.
func cocoOf(finding, more string) string {
	return `{"images":[{"id":1` + more + `}],"categories":[{"id":1,"name":"m"}],"annotations":[{"image_id":1,"category_id":1,` + finding + `}]}`
}

func TestListsOfImagesHaveAHeaderUnderAnyUsualName(t *testing.T) {
	for _, header := range []string{"filename", "id", "name", "uid", "case_id", "patient", "scan", "Image ID", "SeriesInstanceUID", "File Name", "imageName", "StudyInstanceUID",
		"images", "image_ids", "Sample ID", "ImageFileName"} {
		dir := write(t, map[string]string{"images.csv": header + "\na\nb\n", "t.csv": "image,x1,y1,x2,y2\na,0,0,1,1\n"})
		truth, err := ReadTruth(Source{GroundTruth: filepath.Join(dir, "t.csv"), Images: filepath.Join(dir, "images.csv")}, Options{})
		if err != nil || len(truth.Images) != 2 {
			t.Errorf("%s: error %v, %+v", header, err, truth)
		}
	}
}

// The marks of other programs' files, read for a truth with images a and b.
func TestMarksOfOtherPrograms(t *testing.T) {
	const mark = "mark a box [10 20 14 28] score 0.9"
	for _, c := range []struct {
		name, text string
		options    Options
		want       string
	}{
		{"rsna.csv", "patientId,PredictionString\na,0.9 10 20 4 8\nb,\n", Options{}, mark},
		{"vindr.csv", "image_id,PredictionString\na,3 0.9 10 20 14 28\nb,14 1 0 0 1 1\n", Options{}, mark},
		{"a_boxes.json", `{"pred_boxes":[[10,20,14,28]],"pred_scores":[0.9],"pred_labels":[0]}`, Options{}, mark},
		{"monai.json", `{"validation":[{"image":"data/a.nii.gz","box":[[12,24,4,8]],"label":[0],"label_scores":[0.9]},{"image":"b.nii.gz","box":[],"label":[],"label_scores":[]}]}`, Options{}, mark},
		{"coco.json", `{"annotations":[{"image_id":"a","bbox":[10,20,4,8],"score":0.9}]}`, Options{}, mark},
		{"lines.json", `{"image":"a","bbox":[10,20,4,8],"score":0.9}` + "\n" + `{"image":"a","bbox":[10,20,4,8],"score":0.9}`, Options{}, mark},
		{"segment.json", `[{"image_id":"a","score":0.9,"segmentation":[[10,20,14,20,14,28]]}]`, Options{}, mark},
		{"none.jsonl", "", Options{}, ""},
		{"none.json", "[]", Options{}, ""},
		{"none.csv", "image,x1,y1,x2,y2,score\n", Options{}, ""},
	} {
		dir := write(t, map[string]string{"t.csv": "image,x1,y1,x2,y2\na,10,20,14,28\nb,,,,\n", c.name: c.text})
		truth, p, err := read(dir, "t.csv", c.name, c.options)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		got := describe(truth, p)[3:]
		if c.want == "" && len(got) != 0 || c.want != "" && (len(got) == 0 || !strings.HasPrefix(got[0], c.want)) {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func TestCAMELYONAndYOLOFilesAreNamedAfterTheirImage(t *testing.T) {
	dir := write(t, map[string]string{
		"images.csv": "image,width,height\na,100,200\nb,100,200\n", "t.csv": "image,x,y,radius\na,1000,2000,5\n", "a.csv": "0.9,1000,2000\n0.1,3,4\n",
		"b.csv": "x,y,Confidence score\n7,8,0.5\n", "c.csv": "x,y,score\n7,8,0.5\n",
		"boxes.csv": "image,x1,y1,x2,y2\na,10,20,30,60\n",
	})
	truth, p, err := read(dir, "t.csv", "a.csv", Options{})
	if err != nil {
		t.Fatal(err)
	}
	if got := describe(truth, p)[3]; got != "mark a point [1000 2000] radius 0 score 0.9 row 1" {
		t.Error(got)
	}
	if truth, p, err = read(dir, "t.csv", "b.csv", Options{}); err != nil || len(p.Marks) != 1 || truth.Images[p.Marks[0].Image].ID != "b" {
		t.Errorf("with a header: %+v, %v", p, err)
	}
	if _, _, err = read(dir, "t.csv", "c.csv", Options{}); err == nil || !strings.Contains(err.Error(), `no column "image"`) {
		t.Errorf("of a file that is called like no image: %v", err)
	}
	labels := filepath.Join(dir, "labels")
	if err := os.Mkdir(labels, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"a.txt": "0 0.2 0.2 0.2 0.2 0.7\n", "b.txt": "", "classes.txt": "mass\n"} {
		if err := os.WriteFile(filepath.Join(labels, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if truth, p, err = read(dir, "boxes.csv", "labels", Options{}); err != nil {
		t.Fatal(err)
	}
	if got := describe(truth, p)[3]; got != "mark a box [10 20 30 60] score 0.7 row 1" {
		t.Error(got)
	}
	if err := os.WriteFile(filepath.Join(dir, "images.csv"), []byte("image\na\nb\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, _, err = read(dir, "boxes.csv", "labels", Options{}); err == nil || !strings.Contains(err.Error(), "image,width,height") {
		t.Errorf("shares against pixels: %v", err)
	}
}

func TestYOLOBoxesThatLeaveTheirImageAreSaid(t *testing.T) {
	for name, c := range map[string]struct {
		truth, marks string
		said         bool
	}{
		"as they are":             {"0 0.9 0.5 0.2 0.2\n", "0 0.9 0.5 0.2 0.2 0.8\n", false},
		"score in second place":   {"0 0.9 0.5 0.2 0.2\n", "0 0.95 0.9 0.5 0.2 0.2\n", true},
		"corners as ground truth": {"0 0.8 0.4 0.98 0.6\n", "0 0.9 0.5 0.2 0.2 0.8\n", true},
	} {
		dir := write(t, map[string]string{"images.csv": "image,width,height\na,100,200\n", "a.txt": c.truth})
		if err := os.Mkdir(filepath.Join(dir, "p"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "p", "a.txt"), []byte(c.marks), 0o644); err != nil {
			t.Fatal(err)
		}
		truth, p, err := read(dir, "a.txt", "p", Options{})
		if err != nil {
			t.Fatal(err)
		}
		if said := strings.Contains(strings.Join(append(truth.Warnings, p.Warnings...), "\n"), "1 of 1 boxes leave their image"); said != c.said {
			t.Errorf("%s: %q, %q", name, truth.Warnings, p.Warnings)
		}
	}
}

func TestPackedTablesAreUnpacked(t *testing.T) {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = w.Write([]byte("image,x1,y1,x2,y2,score\na,0,0,1,1,0.5\n"))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	dir := write(t, map[string]string{"t.csv": "image,x1,y1,x2,y2\na,0,0,1,1\n", "p.csv": b.String(), "p.csv.gz": b.String()})
	for _, name := range []string{"p.csv", "p.csv.gz"} {
		if _, p, err := read(dir, "t.csv", name, Options{}); err != nil || len(p.Marks) != 1 {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Run lengths of a 4 x 5 image (height, width) whose pixels of columns 1 and 2, rows 1 and 2, are set; the text is
// pycocotools.mask.encode's.
func TestRunLengthsOfCOCO(t *testing.T) {
	for _, counts := range []string{"[5,2,2,2,9]", `"52207"`} {
		s, err := readSegmentation([]byte(`{"size":[4,5],"counts":` + counts + `}`))
		if err != nil {
			t.Fatal(err)
		}
		if r, err := s.box(); err != nil || r.String() != "box [1 1 3 3]" {
			t.Errorf("%s: %s, %v", counts, r.String(), err)
		}
		if r, err := s.mask(5, 4); err != nil || r.Mask().Voxels() != 4 {
			t.Errorf("%s: %s, %v", counts, r.String(), err)
		}
		if _, err := s.mask(4, 5); err == nil {
			t.Errorf("%s: the mask of an image of another size is taken", counts)
		}
	}
	for _, bad := range []string{`{"size":[4,5],"counts":[5,99]}`, `{"size":[4,5],"counts":"~"}`, `{"size":[4,5],"counts":[20]}`, `[[1,2,3,4]]`, `7`,
		`{"size":[1048576,1048576],"counts":[5,99]}`, `[[0,0,1e9,0,1e9,1e9]]`} {
		s, err := readSegmentation([]byte(bad))
		if err == nil {
			_, err = s.mask(5, 4)
		}
		if err == nil {
			t.Errorf("%s is read", bad)
		}
	}
}

// Polygons and packed run lengths have the pixels that pycocotools gives them.
func TestSegmentationsAreDrawnAsPycocotoolsDoes(t *testing.T) {
	raw, err := os.ReadFile("testdata/segments.json")
	if err != nil {
		t.Fatal(err)
	}
	var cases []struct {
		Height, Width    int
		Polygons, Packed json.RawMessage
		Pixels           []int
	}
	if err := json.Unmarshal(raw, &cases); err != nil || len(cases) != 150 {
		t.Fatalf("%d cases, %v", len(cases), err)
	}
	for n, c := range cases {
		want, err := froc.NewMask(c.Width, c.Height, 1, c.Pixels)
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range []json.RawMessage{c.Polygons, c.Packed} {
			s, err := readSegmentation(text)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := s.mask(c.Width, c.Height); err != nil || !reflect.DeepEqual(got.Mask(), want) {
				t.Errorf("case %d, %s: %v pixels, want %d (%v)", n, text, got.Mask(), want.Voxels(), err)
			}
		}
	}
}

func TestFindingsOfSeveralReadersAreOneLesionOnRequest(t *testing.T) {
	const truth = "image_id,rad_id,class_name,x_min,y_min,x_max,y_max\na,R1,Nodule,10,10,30,30\na,R2,Nodule,12,10,32,30\na,R3,Nodule,11,13,31,33\na,R1,Nodule,60,60,70,70\nb,R2,No finding,,,,\n"
	marks := "image,x1,y1,x2,y2,score\n"
	for _, c := range []struct {
		options Options
		want    []string
	}{
		{Options{Readers: ReadersUnion}, []string{"box [10 10 32 33]", "box [60 60 70 70]"}},
		{Options{Readers: ReadersFuse}, []string{"box [11 11 31 31]", "box [60 60 70 70]"}},
		{Options{Readers: ReadersVote, Votes: 2}, []string{"box [11 11 31 31]", "box [60 60 70 70] ignored"}},
	} {
		r, p, err := read(write(t, map[string]string{"t.csv": truth, "p.csv": marks}), "t.csv", "p.csv", c.options)
		if err != nil {
			t.Fatal(err)
		}
		got := describe(r, p)[2:]
		if len(got) != 2 || !strings.HasPrefix(got[0], "lesion a "+c.want[0]) || !strings.HasPrefix(got[1], "lesion a "+c.want[1]) {
			t.Errorf("%+v: %q, want %q", c.options, got, c.want)
		}
	}
	r, _, err := read(write(t, map[string]string{"t.csv": truth, "p.csv": marks}), "t.csv", "p.csv", Options{})
	if err != nil || len(r.Warnings) != 1 || !strings.Contains(r.Warnings[0], "2 findings of several readers") {
		t.Errorf("warnings %q, %v", r.Warnings, err)
	}
}

func TestDoubtfulMarksAreSaid(t *testing.T) {
	const truth = "image,x1,y1,x2,y2\na,0,0,1,1\n01,0,0,1,1\n1,0,0,1,1\n"
	r, p, err := read(write(t, map[string]string{"t.csv": truth, "p.csv": "image,x1,y1,x2,y2,score\na,0,0,1,1,1\na,0,0,1,1,1\n"}), "t.csv", "p.csv", Options{})
	if err != nil {
		t.Fatal(err)
	}
	all := strings.Join(append(r.Warnings, p.Warnings...), "\n")
	for _, want := range []string{`the images "01" and "1" differ only by`, "all 2 marks have the score 1", "1 marks repeat another"} {
		if !strings.Contains(all, want) {
			t.Errorf("warnings %q, want %q", all, want)
		}
	}
}

func TestNumbersInJSONAreOneIDHoweverWritten(t *testing.T) {
	r, p, err := read(write(t, map[string]string{
		"t.json": `{"images":[{"id":1}],"annotations":[{"image_id":1.0,"bbox":[0,0,1,1],"iscrowd":false}]}`, "p.json": `[{"image_id":1e0,"bbox":[0,0,1,1],"score":1}]`,
	}), "t.json", "p.json", Options{})
	if err != nil || len(p.Marks) != 1 || len(r.Lesions) != 1 || r.Lesions[0].Ignore {
		t.Errorf("%+v %+v %v", r, p, err)
	}
}

// JAFROC's workbook, a sheet a file: one system's marks on lesions and elsewhere are two files.
func TestJAFROCTablesNameTheLesionsThatAreHit(t *testing.T) {
	dir := write(t, map[string]string{
		"truth.csv": "CaseID,LesionID,Weight\n1,0,0\n2,1,0.5\n2,2,0.5\n",
		"TP.csv":    "ReaderID,ModalityID,CaseID,LesionID,TP_Rating\n1,1,2,2,5\n",
		"FP.csv":    "ReaderID,ModalityID,CaseID,FP_Rating\n1,1,1,2\n1,1,2,2\n",
		"two.csv":   "ReaderID,ModalityID,CaseID,LesionID,TP_Rating\n1,1,2,2,5\n2,1,2,2,5\n",
	})
	truth, err := ReadTruth(Source{GroundTruth: filepath.Join(dir, "truth.csv")}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	p, err := truth.ReadPredictions(filepath.Join(dir, "TP.csv"), filepath.Join(dir, "FP.csv"))
	if err != nil {
		t.Fatal(err)
	}
	r, err := froc.Evaluate(truth.Truth, p.Marks, froc.StrictProtocol())
	if err != nil {
		t.Fatal(err)
	}
	if n := r.Counts; n.Images != 2 || n.Lesions != 2 || n.Found != 1 || n.FalsePositives != 2 || !r.LesionOutcomes()[1].Found {
		t.Errorf("%+v, want the second of two lesions found and two false positives", n)
	}
	if _, err := truth.ReadPredictions(filepath.Join(dir, "two.csv")); err == nil || !strings.Contains(err.Error(), "froc mrmc") {
		t.Errorf("two readers in one file: %v", err)
	}
}

// What looks like a header that nobody knows is said, and --columns settles it.
func TestAFirstRowThatMayBeAHeaderIsSaid(t *testing.T) {
	dir := write(t, map[string]string{"images.csv": "Aufnahme\na1\na2\n", "t.csv": "image,x1,y1,x2,y2\na1,0,0,1,1\n"})
	source := Source{GroundTruth: filepath.Join(dir, "t.csv"), Images: filepath.Join(dir, "images.csv")}
	truth, err := ReadTruth(source, Options{})
	if err != nil || len(truth.Warnings) != 1 || !strings.Contains(truth.Warnings[0], "--columns image=Aufnahme") {
		t.Errorf("error %v, %+v", err, truth)
	}
	truth, err = ReadTruth(source, Options{Columns: map[string]string{"image": "Aufnahme"}})
	if err != nil || len(truth.Images) != 2 || len(truth.Warnings) != 0 {
		t.Errorf("declared: error %v, %+v", err, truth)
	}
}

// VinDr writes names of classes in the truth and their numbers in predictions.
func TestMarksMayCallClassesByTheirNumbers(t *testing.T) {
	for _, c := range []struct {
		truth, mark string
		class       string
	}{
		{"image,class_name,class_id,x1,y1,x2,y2\na,Mass,8,0,0,9,9\nb,Cyst,2,0,0,9,9\n", "image,class,x1,y1,x2,y2,score\na,8,0,0,9,9,1\n", "Mass"},
		{"image,class_name,class_id,x1,y1,x2,y2\na,2,8,0,0,9,9\nb,Cyst,2,0,0,9,9\n", "image,class,x1,y1,x2,y2,score\na,2,0,0,9,9,1\n", "2"},
		{"image,class,category_id,x1,y1,x2,y2\na,Mass,8,0,0,9,9\nb,Cyst,8,0,0,9,9\n", "image,class,x1,y1,x2,y2,score\na,8,0,0,9,9,1\n", "8"}, // nobody's number
	} {
		dir := write(t, map[string]string{"t.csv": c.truth, "p.csv": c.mark})
		truth, marks, err := read(dir, "t.csv", "p.csv", Options{})
		if err != nil {
			t.Fatal(err)
		}
		if got := truth.Classes[marks.Marks[0].Class]; got != c.class {
			t.Errorf("%q: class %q, want %q", c.truth, got, c.class)
		}
	}
}

func TestCOCOMarksMayNameTheFileOfTheirImage(t *testing.T) {
	const truth = `{"images":[{"id":1,"file_name":"ct/a.png"},{"id":2,"file_name":"b/same.png"},{"id":3,"file_name":"c/same.png"}],
		"annotations":[{"image_id":1,"category_id":1,"bbox":[0,0,9,9]}],"categories":[{"id":1,"name":"x"}]}`
	for name, want := range map[string]string{`"a"`: "", `"ct/a.png"`: "", `"same"`: "is not in the list", "1": ""} {
		dir := write(t, map[string]string{"t.json": truth, "p.json": `[{"image_id":` + name + `,"category_id":1,"bbox":[0,0,9,9],"score":1}]`})
		_, marks, err := read(dir, "t.json", "p.json", Options{})
		if want == "" && (err != nil || marks.Marks[0].Image != 0) || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: error %v, want %q", name, err, want)
		}
	}
}

func TestJSONErrorsSpeakOfJSON(t *testing.T) {
	const truth = "image,x1,y1,x2,y2\na,0,0,1,1\n"
	for text, want := range map[string]string{
		`[{"image_id":"a","bbox":[0,0,1,1],"score":"0.9"}]`: "score is a JSON string, want a number",
		`[{"image_id":"a","bbox":[0,0,1,1],"score":NaN}]`:   "JSON has neither NaN nor Infinity",
	} {
		dir := write(t, map[string]string{"t.csv": truth, "p.json": text})
		if _, _, err := read(dir, "t.csv", "p.json", Options{}); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "Go ") {
			t.Errorf("%s: error %v, want %q", text, err, want)
		}
	}
}

// A polygon stands for the box around it, with and without a score.
func TestYOLOPolygonsAreTheBoxAroundThem(t *testing.T) {
	dir := write(t, map[string]string{"i.csv": "image,width,height\na,100,100\nb,100,100\n"})
	for file, text := range map[string]string{"g/a.txt": "0 .1 .2 .14 .2 .14 .28\n", "p/a.txt": "0 .1 .2 .14 .2 .14 .28 .9\n"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, file)), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	truth, err := ReadTruth(Source{GroundTruth: filepath.Join(dir, "g"), Images: filepath.Join(dir, "i.csv")}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	marks, err := truth.ReadPredictions(filepath.Join(dir, "p"))
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range []froc.Region{truth.Lesions[0].Region, marks.Marks[0].Region} {
		if low, high := r.Bounds(); math.Abs(low[0]-10)+math.Abs(low[1]-20)+math.Abs(high[0]-14)+math.Abs(high[1]-28) > 1e-9 {
			t.Errorf("box %v", r.String())
		}
	}
	// the second image has no file
	if !strings.Contains(strings.Join(marks.Notes, "\n"), `no file for 1 of 2 images (the first: "b")`) {
		t.Errorf("notes %q", marks.Notes)
	}
}

// JAFROC's sheet of lesions may weigh them; elsewhere a column weight is a stratum.
func TestJAFROCWeightsAreRead(t *testing.T) {
	dir := write(t, map[string]string{
		"TRUTH.csv": "CaseID,LesionID,Weight\n1,0,0\n2,1,0.7\n2,2,0.3\n", "bad.csv": "CaseID,LesionID,Weight\n2,1,-1\n",
		"t.csv": "image,x1,y1,x2,y2,weight\na,0,0,1,1,80\n",
	})
	truth, err := ReadTruth(Source{GroundTruth: filepath.Join(dir, "TRUTH.csv")}, Options{})
	if err != nil || truth.Lesions[0].Weight != 0.7 || truth.Lesions[1].Weight != 0.3 {
		t.Errorf("error %v, %+v", err, truth)
	}
	if truth, err = ReadTruth(Source{GroundTruth: filepath.Join(dir, "t.csv")}, Options{}); err != nil || truth.Lesions[0].Weight != 0 || truth.Strata[0] != "weight" {
		t.Errorf("error %v, %+v", err, truth)
	}
	if _, err = ReadTruth(Source{GroundTruth: filepath.Join(dir, "bad.csv")}, Options{}); err == nil || !strings.Contains(err.Error(), `bad.csv:2: Weight "-1"`) {
		t.Errorf("error %v", err)
	}
}

// A map of shares or with a negative background would be a lesion for every value.
func TestAMapIsNoMaskOfLesions(t *testing.T) {
	path, err := filepath.Abs("../../../internal/nifti/testdata/int16_scaled.nii")
	if err != nil {
		t.Fatal(err)
	}
	dir := write(t, map[string]string{"t.csv": "image,mask\na," + path + "\n"})
	for _, rule := range []MaskRule{MaskLabels, MaskComponents} {
		_, err = ReadTruth(Source{GroundTruth: filepath.Join(dir, "t.csv")}, Options{MaskLesions: rule})
		if err == nil || !strings.Contains(err.Error(), "values from 0.5 to 1.5 beside 0, want whole numbers") {
			t.Errorf("%s: error %v", rule, err)
		}
	}
}

func TestPackedRunLengthsAreReadAsJSONReadsThem(t *testing.T) {
	for text, quick := range map[string]bool{
		`{"size":[4,5],"counts":"52207"}`:               true,
		` { "size" : [ 4 , 5 ] , "counts" : "52207" } `: true,
		`{"size":[4,5],"counts":"0\\\\"}`:               true,
		`{"size":[4,5],"counts":"0\u0030"}`:             false,
		`{"size":[4,5],"counts":"0\\\"1"}`:              false,
		`{"counts":"52207","size":[4,5]}`:               false,
		`{"size":[4,5],"counts":[5,2]}`:                 false,
		`{"size":[04,5],"counts":"5"}`:                  false,
		`{"size":[4,5],"counts":"5"`:                    false,
		`{"size":[4,5],"counts":"5","size":[1,1]}`:      false,
		`{"size":[4,-5],"counts":"5"}`:                  false,
	} {
		packed, height, width, ok := packedObject([]byte(text))
		if ok != quick {
			t.Errorf("%s: %v, want %v", text, ok, quick)
		}
		if !ok {
			continue
		}
		var want struct {
			Size   []int
			Counts string
		}
		if err := json.Unmarshal([]byte(text), &want); err != nil || want.Counts != packed || !slices.Equal(want.Size, []int{height, width}) {
			t.Errorf("%s: %q of %d x %d, want %+v, %v", text, packed, height, width, want, err)
		}
	}
}
