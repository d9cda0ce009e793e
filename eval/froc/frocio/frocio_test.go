package frocio

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/alignedfusion/alignedfusion/eval/froc"
)

// write puts files into a folder of their own and returns it.
func write(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// read reads truth, predictions and, when there are such files, images and excluded.
func read(dir, truth, predictions string, o Options) (*Truth, *Predictions, error) {
	s := Source{GroundTruth: filepath.Join(dir, truth)}
	if _, err := os.Stat(filepath.Join(dir, "images.csv")); err == nil {
		s.Images = filepath.Join(dir, "images.csv")
	}
	if _, err := os.Stat(filepath.Join(dir, "excluded.csv")); err == nil {
		s.Excluded = filepath.Join(dir, "excluded.csv")
	}
	t, err := ReadTruth(s, o)
	if err != nil {
		return nil, nil, err
	}
	p, err := t.ReadPredictions(filepath.Join(dir, predictions))
	return t, p, err
}

// describe writes what was read in a form that is easy to compare.
func describe(t *Truth, p *Predictions) []string {
	var out []string
	for _, im := range t.Images {
		out = append(out, fmt.Sprintf("image %s patient %q volume %q", im.ID, im.Patient, im.Volume))
	}
	for _, l := range t.Lesions {
		ignored := ""
		if l.Ignore {
			ignored = " ignored"
		}
		out = append(out, fmt.Sprintf("lesion %s %s%s %q", t.Images[l.Image].ID, &l.Region, ignored, l.Strata))
	}
	for i, m := range p.Marks {
		out = append(out, fmt.Sprintf("mark %s %s score %g row %d", t.Images[m.Image].ID, &m.Region, m.Score, p.Rows[i]))
	}
	return out
}

func TestFormats(t *testing.T) {
	const boxes = "image,x1,y1,x2,y2,patient,ignore,organ\na,0,1,2,3,p,,lung\nb,1,1,4,4,q,1,liver\n"
	for _, c := range []struct {
		name        string
		files       map[string]string
		truth       string
		predictions string
		options     Options
		want        []string
	}{
		{"CSV boxes", map[string]string{
			"t.csv": boxes, "p.csv": "image,x1,y1,x2,y2,score\nb,0,0,1,1,0.5\na,0,0,1,1,2e-3\n",
		}, "t.csv", "p.csv", Options{}, []string{
			`image a patient "p" volume ""`, `image b patient "q" volume ""`,
			`lesion a box [0 1 2 3] ["lung"]`, `lesion b box [1 1 4 4] ignored ["liver"]`,
			`mark b box [0 0 1 1] score 0.5 row 2`, `mark a box [0 0 1 1] score 0.002 row 3`,
		}},
		{"byte order mark, spaces, quotes, capital letters", map[string]string{
			"t.csv": "\xef\xbb\xbfImage, X1,Y1,X2,Y2\n\"a,b\", 0 ,1,2,3\n", "p.csv": "image,x1,y1,x2,y2,Score\n\"a,b\",0,0,1,1, 0.5\n",
		}, "t.csv", "p.csv", Options{}, []string{
			`image a,b patient "" volume ""`, `lesion a,b box [0 1 2 3] []`, `mark a,b box [0 0 1 1] score 0.5 row 2`,
		}},
		{"3-D boxes, slice boxes as truth", map[string]string{
			"t.csv": "image,x1,y1,x2,y2,z,volume\na,0,1,2,3,7,v\n", "p.csv": "image,x1,y1,x2,y2,z1,z2,score\na,0,1,2,3,5,8,1\n",
		}, "t.csv", "p.csv", Options{}, []string{
			`image a patient "" volume "v"`, `lesion a box [0 1 2 3] on slice 7 []`, `mark a box [0 1 5 2 3 8] score 1 row 2`,
		}},
		{"circles and a list with a lesion-free image and a split", map[string]string{
			"images.csv": "image,patient,split,width\na,p,val,9\nb,p,train,9\nc,q,val,9\n", "excluded.csv": "image,cx,cy,radius\na,5,5,2\na,5,5,2\nb,1,1,1\n",
			"t.csv": "image,x,y,radius\na,1,2,3\nb,1,2,3\n", "p.csv": "image,x,y,score,label\na,1,1,1,x\nb,1,1,1,x\n",
		}, "t.csv", "p.csv", Options{Split: "val"}, []string{
			`image a patient "p" volume ""`, `image c patient "q" volume ""`,
			`lesion a point [1 2] radius 3 []`, `lesion a point [5 5] radius 2 ignored []`, `lesion a point [5 5] radius 2 ignored []`,
			`mark a point [1 1] radius 0 score 1 row 2`,
		}},
		{"a split column in the ground truth alone", map[string]string{
			"t.csv": "image,x,y,diameter,split\na,1,2,3,val\nb,1,2,3,train\n", "p.csv": "image,x,y,score\nb,1,1,1\na,1,1,1\n",
		}, "t.csv", "p.csv", Options{Split: "val"}, []string{
			`image a patient "" volume ""`, `lesion a point [1 2] radius 1.5 []`, `mark a point [1 1] radius 0 score 1 row 3`,
		}},
		{"LUNA16", map[string]string{
			"images.csv": "001\n002\n", "excluded.csv": "seriesuid,coordX,coordY,coordZ,diameter_mm\n001,1,2,3,-1\n",
			"t.csv": "seriesuid,coordX,coordY,coordZ,diameter_mm\n002,-1.5,2,3,8\n", "p.csv": "seriesuid,coordX,coordY,coordZ,probability\n001,1,2,3,0.5\n",
		}, "t.csv", "p.csv", Options{}, []string{
			`image 001 patient "" volume ""`, `image 002 patient "" volume ""`,
			`lesion 002 point [-1.5 2 3] radius 4 []`, `lesion 001 point [1 2 3] radius 5 ignored []`,
			`mark 001 point [1 2 3] radius 0 score 0.5 row 2`,
		}},
		{"a row without coordinates is a lesion-free image", map[string]string{
			"t.csv": "image,x1,y1,x2,y2\na,,,,\nb,0,0,1,1\n", "p.csv": "image,x1,y1,x2,y2,score\n",
		}, "t.csv", "p.csv", Options{}, []string{
			`image a patient "" volume ""`, `image b patient "" volume ""`, `lesion b box [0 0 1 1] []`,
		}},
		{"JSON Lines", map[string]string{
			"t.jsonl": `{"image":"a","x1":0,"y1":1,"x2":2,"y2":3,"ignore":true,"organ":null}` + "\n\n" + `{"image":"b","x1":0,"y1":1,"x2":2,"y2":3}` + "\n",
			"p.jsonl": `{"score":1.5,"image":"b","x1":0,"y1":1,"x2":2,"y2":3}`,
		}, "t.jsonl", "p.jsonl", Options{}, []string{
			`image a patient "" volume ""`, `image b patient "" volume ""`,
			`lesion a box [0 1 2 3] ignored [""]`, `lesion b box [0 1 2 3] [""]`, `mark b box [0 1 2 3] score 1.5 row 1`,
		}},
		{"COCO, one category", map[string]string{
			"t.json": `{"images":[{"id":7,"patient":"p"},{"id":"x"}],"categories":[{"id":1,"name":"n"},{"id":2,"name":"m"}],"annotations":[
				{"image_id":7,"category_id":1,"bbox":[1,2,3,4],"iscrowd":1},{"image_id":"x","category_id":2,"bbox":[1,2,3,4]}]}`,
			"p.json": `[{"image_id":7,"category_id":1,"bbox":[1,2,3,4],"score":0.5},{"image_id":7,"category_id":2,"bbox":[1,2,3,4],"score":0.5}]`,
		}, "t.json", "p.json", Options{Category: "n"}, []string{
			`image 7 patient "p" volume ""`, `image x patient "" volume ""`, `lesion 7 box [1 2 4 6] ignored ["n"]`,
			`mark 7 box [1 2 4 6] score 0.5 row 0`,
		}},
		{"predictions of this program", map[string]string{
			"t.csv":  boxes,
			"p.json": ` {"schema_version":1,"task":"detect","cases":[{"id":"a","boxes":[]},{"id":"b","patient":"q","boxes":[{"x1":0,"y1":1,"x2":2,"y2":3,"score":0.5,"label":"lesion"}]}]}`,
		}, "t.csv", "p.json", Options{}, []string{
			`image a patient "p" volume ""`, `image b patient "q" volume ""`,
			`lesion a box [0 1 2 3] ["lung"]`, `lesion b box [1 1 4 4] ignored ["liver"]`, `mark b box [0 1 2 3] score 0.5 row 0`,
		}},
		{"lenient drops what cannot be used", map[string]string{
			"t.csv": "image,x1,y1,x2,y2\na,0,0,1,1\na,0,0,1,1\na,5,0,1,1\na,1\n",
			"p.csv": "image,x1,y1,x2,y2,score\na,0,0,1,1,NaN\nz,0,0,1,1,1\na,0,0,1,1,1\n",
		}, "t.csv", "p.csv", Options{Lenient: true}, []string{
			`image a patient "" volume ""`, `lesion a box [0 0 1 1] []`, `mark a box [0 0 1 1] score 1 row 4`,
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			truth, predictions, err := read(write(t, c.files), c.truth, c.predictions, c.options)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(c.want, describe(truth, predictions)); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
}

const dlHeader = "File_name,Patient_index,Study_index,Series_ID,Key_slice_index,Bounding_boxes,Lesion_diameters_Pixel_," +
	"Coarse_lesion_type,Possibly_noisy,Spacing_mm_px_,Patient_gender,Train_Val_Test\n"

func dlRow(name string, noisy, split int) string {
	return fmt.Sprintf("%s,12,1,2,9,\"1, 2, 11, 22\",\"10, 5\",5,%d,\"0.5, 0.5, 5\",F,%d\n", name, noisy, split)
}

func TestDLInfo(t *testing.T) {
	files := map[string]string{
		"DL_info.csv": dlHeader + dlRow("a", 0, 3) + dlRow("b", 1, 3) + strings.Replace(dlRow("b", 0, 3), "1, 2, ", "3, 2, ", 1) + dlRow("c", 1, 3) + dlRow("d", 0, 1),
		"p.csv":       "image,x1,y1,x2,y2,score\na,0,0,1,1,1\nc,0,0,1,1,1\nd,0,0,1,1,1\n",
	}
	image := func(id string) string { return fmt.Sprintf(`image %s patient "12" volume "12_1_2"`, id) }
	lesion := func(id, rest string) string { return "lesion " + id + " " + rest + ` ["lung" "5" "5" "F"]` }
	for _, c := range []struct {
		options Options
		left    int
		want    []string
	}{
		{Options{}, 2, []string{image("a"), image("b"), lesion("a", "box [0 1 10 21]"), lesion("b", "box [2 1 10 21]"), "mark a box [0 0 1 1] score 1 row 2"}},
		{Options{Split: "train"}, 2, []string{image("d"), lesion("d", "box [0 1 10 21]"), "mark d box [0 0 1 1] score 1 row 4"}},
		{Options{Noisy: NoisyIgnore}, 1, []string{
			image("a"), image("b"), image("c"), lesion("a", "box [0 1 10 21]"), lesion("b", "box [0 1 10 21] ignored"), lesion("b", "box [2 1 10 21]"),
			lesion("c", "box [0 1 10 21] ignored"), "mark a box [0 0 1 1] score 1 row 2", "mark c box [0 0 1 1] score 1 row 3",
		}},
	} {
		truth, predictions, err := read(write(t, files), "DL_info.csv", "p.csv", c.options)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(c.want, describe(truth, predictions)); d != "" {
			t.Errorf("%+v (-want +got):\n%s", c.options, d)
		}
		if predictions.LeftOut != c.left {
			t.Errorf("%+v: %d predictions left out, want %d", c.options, predictions.LeftOut, c.left)
		}
	}
}

func TestBadFilesAreNamedWithTheirRow(t *testing.T) {
	const truth = "image,x1,y1,x2,y2\na,0,0,1,1\n"
	const marks = "image,x1,y1,x2,y2,score\n"
	coco := func(annotation string) string {
		return `{"images":[{"id":1},{"id":2}],"annotations":[` + annotation + `]}`
	}
	for _, c := range []struct {
		name  string
		files map[string]string
		want  string
	}{
		{"no ground truth", map[string]string{"p.csv": marks}, "no such file"},
		{"empty file", map[string]string{"t.csv": "", "p.csv": marks}, "t.csv: the table is empty"},
		{"no image column", map[string]string{"t.csv": "x1,y1,x2,y2\n", "p.csv": marks}, `t.csv:1: no column "image"; the header is "x1,y1,x2,y2"`},
		{"no coordinates", map[string]string{"t.csv": "image,x1\n", "p.csv": marks}, "t.csv:1: no coordinates"},
		{"column twice", map[string]string{"t.csv": "image,x,X,y\n", "p.csv": marks}, `t.csv:1: column "X" stands twice`},
		{"no score", map[string]string{"t.csv": truth, "p.csv": "image,x1,y1,x2,y2\n"}, `p.csv:1: no column "score"`},
		{"unknown image", map[string]string{"t.csv": truth, "p.csv": marks + "zz,0,0,1,1,1\n"}, `p.csv:2: image "zz" is not in the ground truth; list every searched image`},
		{"unknown image with a list", map[string]string{"images.csv": "image\na\n", "t.csv": truth, "p.csv": marks + "zz,0,0,1,1,1\n"}, `p.csv:2: image "zz" is not in the list of images`},
		{"lesion of an unlisted image", map[string]string{"images.csv": "image\nb\n", "t.csv": truth, "p.csv": marks}, `t.csv:2: image "a" is not in the list of images`},
		{"NaN score", map[string]string{"t.csv": truth, "p.csv": marks + "a,0,0,1,1,1\na,0,0,1,1,NaN\n"}, `p.csv:3: score is "NaN", want a finite number`},
		{"infinite coordinate", map[string]string{"t.csv": truth, "p.csv": marks + "a,0,0,inf,1,1\n"}, `p.csv:2: x2 is "inf", want a finite number`},
		{"no number", map[string]string{"t.csv": truth, "p.csv": marks + "a,0,0,one,1,1\n"}, `p.csv:2: x2 is "one", want a number`},
		{"exchanged corners", map[string]string{"t.csv": truth, "p.csv": marks + "a,5,0,1,1,1\n"}, `p.csv:2: x2=1 is less than x1=5`},
		{"too few fields", map[string]string{"t.csv": truth, "p.csv": marks + "a,5,0\n"}, `p.csv:2: 3 fields, the header has 6`},
		{"open quote", map[string]string{"t.csv": truth, "p.csv": marks + "\"a,5,0\n"}, "p.csv:"},
		{"lesion twice", map[string]string{"t.csv": truth + "a,0,0,1,1\n", "p.csv": marks}, `image "a" has the lesion box [0 0 1 1] twice`},
		{"bad ignore flag", map[string]string{"t.csv": "image,x,y,radius,ignore\na,0,0,1,maybe\n", "p.csv": marks}, `t.csv:2: ignore is "maybe"`},
		{"negative radius", map[string]string{"t.csv": "image,x,y,radius\na,0,0,-1\n", "p.csv": marks}, `t.csv:2: radius is -1`},
		{"two patients", map[string]string{"t.csv": "image,x,y,radius,patient\na,0,0,1,p\na,3,3,1,q\n", "p.csv": marks}, `t.csv:3: patient "q", but image "a" has "p"`},
		{"image id twice", map[string]string{"images.csv": "image\na\na\n", "t.csv": truth, "p.csv": marks}, `images.csv:3: image id "a" stands twice`},
		{"empty image id", map[string]string{"images.csv": "image,patient\na,p\n,q\n", "t.csv": truth, "p.csv": marks}, `images.csv:3: image is empty`},
		{"no such split", map[string]string{"images.csv": "image,split\na,train\n", "t.csv": truth, "p.csv": marks}, `no image of split "val"; there are [train]`},
		{"no split column", map[string]string{"images.csv": "image,patient\na,p\n", "t.csv": truth, "p.csv": marks}, `images.csv:1: no column "split"`},
		{"JSON Lines: no object", map[string]string{"t.jsonl": "[1]\n", "p.csv": marks}, `t.jsonl:1: want one JSON object per line`},
		{"JSON Lines: later key", map[string]string{"t.jsonl": `{"image":"a","x":1,"y":1,"radius":1}` + "\n" + `{"image":"a","x":1,"y":1,"raduis":1}`, "p.csv": marks}, `t.jsonl:2: key "raduis" is not in the first object`},
		{"JSON Lines: nested", map[string]string{"t.jsonl": `{"image":["a"],"x":1,"y":1}`, "p.csv": marks}, `key "image": want a number, a string or null`},
		{"COCO: no JSON", map[string]string{"t.json": "{", "p.csv": marks}, "t.json: want a COCO ground truth"},
		{"COCO: no images", map[string]string{"t.json": "{}", "p.csv": marks}, "t.json: no images"},
		{"COCO: unknown image", map[string]string{"t.json": coco(`{"image_id":3,"bbox":[0,0,1,1]}`), "p.csv": marks}, `t.json: annotations[0]: image "3" is not in the list`},
		{"COCO: negative width", map[string]string{"t.json": coco(`{"image_id":1,"bbox":[0,0,-1,1]}`), "p.csv": marks}, `annotations[0]: width is -1, want 0 or more`},
		{"COCO: short box", map[string]string{"t.json": coco(`{"image_id":1,"bbox":[0,0,1]}`), "p.csv": marks}, `bbox has 3 numbers, want 4`},
		{"COCO: id twice", map[string]string{"t.json": `{"images":[{"id":1},{"id":1}]}`, "p.csv": marks}, `images[1]: image id "1" is empty or stands twice`},
		{"JSON: no array, no cases", map[string]string{"t.json": coco(""), "p.json": "{}"}, "p.json: want a JSON array of results, or an object with cases"},
		{"JSON: a number", map[string]string{"t.json": coco(""), "p.json": " 7"}, "p.json: want JSON: an array"},
		{"JSON: nothing", map[string]string{"t.json": coco(""), "p.json": " "}, "p.json: want JSON"},
		{"JSON cases: no score", map[string]string{"t.csv": truth, "p.json": `{"cases":[{"id":"a","boxes":[{"x1":0,"y1":0,"x2":1,"y2":1}]}]}`}, "cases[0].boxes[0]: want x1, y1, x2, y2 and score"},
		{"JSON cases: exchanged corners", map[string]string{"t.csv": truth, "p.json": `{"cases":[{"id":"a","boxes":[{"x1":5,"y1":0,"x2":1,"y2":1,"score":1}]}]}`}, "cases[0].boxes[0]: x2=1 is less than x1=5"},
		{"JSON cases: unknown image", map[string]string{"t.csv": truth, "p.json": `{"cases":[{"id":"q","boxes":[{"x1":5,"y1":0,"x2":1,"y2":1,"score":1}]}]}`}, `cases[0].boxes[0]: image "q" is not in`},
		{"COCO results: no score", map[string]string{"t.json": coco(""), "p.json": `[{"image_id":1,"bbox":[0,0,1,1]}]`}, "p.json: [0]: no score"},
		{"COCO results: unknown image", map[string]string{"t.json": coco(""), "p.json": `[{"image_id":9,"bbox":[0,0,1,1],"score":1}]`}, `p.json: [0]: image "9" is not in`},
		{"COCO results: cut short", map[string]string{"t.json": coco(""), "p.json": `[{"image_id":1,"bbox":[0,0,1,1],"score":1}`}, "p.json"},
		{"DL_info: no test rows", map[string]string{"t.csv": dlHeader + dlRow("a", 0, 1), "p.csv": marks}, `no lesion of split "test"`},
		{"DL_info: bad box", map[string]string{"t.csv": dlHeader + strings.Replace(dlRow("a", 0, 3), "1, 2, 11, 22", "1, 2, 11", 1), "p.csv": marks}, `t.csv:2: Bounding_boxes: "1, 2, 11" has 3 numbers, want 4`},
		{"DL_info: bad split", map[string]string{"t.csv": dlHeader + dlRow("a", 0, 4), "p.csv": marks}, `t.csv:2: Train_Val_Test: "4"`},
		{"mask: no NIfTI", map[string]string{"t.csv": "image,mask\na,m.png\n", "p.csv": marks}, `t.csv:2: mask "m.png", want a .nii`},
		{"mask: no file", map[string]string{"t.csv": "image,mask\na,m.nii\n", "p.csv": marks}, `no such file`},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := write(t, c.files)
			truthFile, markFile := "t.csv", "p.csv"
			for name := range c.files {
				if strings.HasPrefix(name, "t.") {
					truthFile = name
				} else if strings.HasPrefix(name, "p.") {
					markFile = name
				}
			}
			o := Options{}
			if strings.Contains(c.name, "split column") || strings.Contains(c.name, "such split") {
				o.Split = "val"
			}
			_, _, err := read(dir, truthFile, markFile, o)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
}

func TestManyProblemsAreListedAndCounted(t *testing.T) {
	rows := "image,x1,y1,x2,y2\n"
	for i := range 25 {
		rows += fmt.Sprintf("a,%d,0,0,1\n", i+1)
	}
	_, err := ReadTruth(Source{GroundTruth: filepath.Join(write(t, map[string]string{"t.csv": rows}), "t.csv")}, Options{})
	if err == nil || strings.Count(err.Error(), "less than") != 2 || !strings.HasSuffix(err.Error(), "and 23 more") {
		t.Errorf("error %v, want two rows of the kind and \"and 23 more\"", err)
	}
}

func TestOptionsAreChecked(t *testing.T) {
	for _, o := range []Options{{Noisy: "x"}, {MaskLesions: "x"}, {Coordinates: "x"}} {
		if _, err := ReadTruth(Source{GroundTruth: "t.csv"}, o); err == nil || !strings.Contains(err.Error(), `"x", want one of`) {
			t.Errorf("%+v: error %v", o, err)
		}
	}
}

func TestNPZEqualsNumpy(t *testing.T) {
	for _, c := range []struct {
		truth, predictions string
		want               []string
	}{
		{"truth.npz", "predictions.npz", []string{
			`image a patient "" volume ""`, `image bé patient "" volume ""`, `image c patient "" volume ""`,
			`lesion a box [0 0 10 10] []`, `lesion bé box [5 5 9 9] ignored []`,
			`mark a box [0 0 10 9] score 0.8999999761581421 row 0`, `mark c box [1 1 2 2] score 0.5 row 1`, `mark bé box [5 5 9 9] score 0.25 row 2`,
		}},
		{"truth.npz", "predictions_named.npz", []string{
			`image a patient "" volume ""`, `image bé patient "" volume ""`, `image c patient "" volume ""`,
			`lesion a box [0 0 10 10] []`, `lesion bé box [5 5 9 9] ignored []`,
			`mark a box [0 0 0 0] score 0.9 row 0`, `mark c box [0 0 0 0] score 0.5 row 1`,
		}},
		{"truth.npz", "predictions_own_list.npz", []string{
			`image a patient "" volume ""`, `image bé patient "" volume ""`, `image c patient "" volume ""`,
			`lesion a box [0 0 10 10] []`, `lesion bé box [5 5 9 9] ignored []`, `mark c box [0 0 1 1] score 0.5 row 0`,
		}},
		{"truth_3d.npz", "predictions_3d.npz", []string{
			`image a patient "" volume ""`, `lesion a box [0 1 5 10 11 8] []`, `mark a box [0 1 5 10 11 8] score 1 row 0`,
		}},
		{"truth_points.npz", "predictions_points.npz", []string{
			`image a patient "" volume ""`, `image b patient "" volume ""`,
			`lesion b point [1 2 3] radius 4 []`, `mark b point [1 2 5] radius 0 score 1 row 0`,
		}},
	} {
		truth, predictions, err := read("testdata", c.truth, c.predictions, Options{})
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(c.want, describe(truth, predictions)); d != "" {
			t.Errorf("%s, %s (-want +got):\n%s", c.truth, c.predictions, d)
		}
	}
}

func TestBadNPZIsRefused(t *testing.T) {
	for name, want := range map[string]string{
		"bad_shape.npz": "boxes have shape [1 5], want [K,4] or [K,6]", "bad_rows.npz": "scores has shape [2], want [1]",
		"bad_nan.npz": "row 0: score is NaN", "bad_image.npz": "row 0: image row 3, want 0 to 2", "bad_type.npz": "floating-point array",
		"coco.py": "not a valid zip", "absent.npz": "no such file",
	} {
		if name == "coco.py" {
			name = copyAs(t, "testdata/coco.py", "x.npz")
		} else {
			name = filepath.Join("testdata", name)
		}
		_, _, err := read("", "testdata/truth.npz", name, Options{})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %q", name, err, want)
		}
	}
}

func copyAs(t *testing.T, from, name string) string {
	t.Helper()
	data, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(to, data, 0o644); err != nil {
		t.Fatal(err)
	}
	return to
}

// A filtered list still numbers its rows as written.
func TestNPZImageNumbersCountLeftOutImages(t *testing.T) {
	dir := write(t, map[string]string{
		"images.csv": "image,split\na,train\nb,val\nc,val\n", "t.csv": "image,x1,y1,x2,y2\na,0,0,1,1\nc,0,0,1,1\n",
	})
	truth, err := ReadTruth(Source{GroundTruth: filepath.Join(dir, "t.csv"), Images: filepath.Join(dir, "images.csv")}, Options{Split: "val"})
	if err != nil {
		t.Fatal(err)
	}
	p, err := truth.ReadPredictions("testdata/predictions.npz")
	if err != nil {
		t.Fatal(err)
	}
	if p.LeftOut != 1 || len(p.Marks) != 2 || truth.Images[p.Marks[0].Image].ID != "c" || truth.Images[p.Marks[1].Image].ID != "b" {
		t.Errorf("marks %+v, left out %d; want images c and b", p.Marks, p.LeftOut)
	}
}

func TestCOCOAveragePrecisionEqualsCOCOeval(t *testing.T) {
	truth, predictions, err := read("testdata", "coco_truth.json", "coco_results.json", Options{})
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile("testdata/coco_expected.json")
	if err != nil {
		t.Fatal(err)
	}
	var want []struct{ IoU, AP float64 }
	if err := json.Unmarshal(raw, &want); err != nil {
		t.Fatal(err)
	}
	var ious []float64
	for _, w := range want {
		ious = append(ious, w.IoU)
	}
	p := froc.COCO(0.5)
	p.Classes = froc.AnyClasses // the expected values are those of useCats = 0
	got, err := froc.AveragePrecisionAt(truth.Truth, predictions.Marks, p, ious)
	if err != nil {
		t.Fatal(err)
	}
	if len(want) != 10 {
		t.Fatalf("%d IoUs, want 10", len(want))
	}
	for i, w := range want {
		if math.Abs(got[i].AP-w.AP) > 1e-9 {
			t.Errorf("IoU %v: AP %v, want %v", w.IoU, got[i].AP, w.AP)
		}
	}
}

func TestMasks(t *testing.T) {
	const volumes = "../../../internal/nifti/testdata/"
	abs, err := filepath.Abs(volumes)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(volumes + "volumes.json")
	if err != nil {
		t.Fatal(err)
	}
	var all map[string]struct {
		Size       []int
		Indices    []int
		Values     []float64
		Components int
	}
	if err := json.Unmarshal(raw, &all); err != nil {
		t.Fatal(err)
	}
	const name = "uint8.nii.gz"
	v := all[name]
	labels := map[float64]int{}
	for i, value := range v.Values {
		labels[value] = v.Indices[i]
	}
	x, y, z := labels[2]%v.Size[0], labels[2]/v.Size[0]%v.Size[1], labels[2]/v.Size[0]/v.Size[1]
	dir := write(t, map[string]string{
		"t.csv":   "image,mask\na," + filepath.Join(abs, name) + "\n",
		"p.csv":   fmt.Sprintf("image,x,y,z,score\na,%d,%d,%d,0.5\na,-3,0,0,0.9\n", x, y, z),
		"map.csv": "image,mask\na," + filepath.Join(abs, name) + "\n",
	})
	truth, points, err := read(dir, "t.csv", "p.csv", Options{})
	if err != nil {
		t.Fatal(err)
	}
	if len(truth.Lesions) != len(labels) {
		t.Fatalf("%d lesions, want one for each of %d labels", len(truth.Lesions), len(labels))
	}
	p := froc.StrictProtocol()
	if p.Hit, err = froc.ParseHit("inside"); err != nil {
		t.Fatal(err)
	}
	p.IgnoreHit = nil
	r, err := froc.Evaluate(truth.Truth, points.Marks, p)
	if err != nil {
		t.Fatal(err)
	}
	if o := r.LesionOutcomes(); !o[1].Found || r.Counts.Found != 1 || r.Counts.FalsePositives != 1 {
		t.Errorf("outcomes %+v, counts %+v; want the lesion of label 2 found", o, r.Counts)
	}
	// the map of components against the components as lesions: every lesion is found exactly
	whole, maps, err := read(dir, "t.csv", "map.csv", Options{MaskLesions: MaskComponents, Candidates: CandidatesComponents})
	if err != nil {
		t.Fatal(err)
	}
	if r, err = froc.Evaluate(whole.Truth, maps.Marks, froc.PICAI()); err != nil {
		t.Fatal(err)
	}
	if r.Counts.Lesions != v.Components || r.Counts.Found != v.Components || r.Counts.FalsePositives != 0 {
		t.Errorf("%+v, want %d lesions, all found", r.Counts, v.Components)
	}
}

// Points in millimetres are moved into the mask's grid; DICOM's axes point the
// other way along x and y.
func TestPointsInMillimetresAreMovedIntoTheMask(t *testing.T) {
	raw, err := os.ReadFile("../../../internal/nifti/testdata/volumes.json")
	if err != nil {
		t.Fatal(err)
	}
	var all map[string]struct{ Voxel, Point [3]float64 }
	if err := json.Unmarshal(raw, &all); err != nil {
		t.Fatal(err)
	}
	const name = "uint8.nii.gz"
	abs, err := filepath.Abs("../../../internal/nifti/testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	want := all[name].Voxel
	for coordinates, sign := range map[Coordinates]float64{RAS: 1, LPS: -1} {
		at := all[name].Point
		dir := write(t, map[string]string{
			"t.csv": "image,mask\na," + abs + "\n",
			"p.csv": fmt.Sprintf("image,x,y,z,score\na,%g,%g,%g,0.5\n", sign*at[0], sign*at[1], at[2]),
		})
		_, p, err := read(dir, "t.csv", "p.csv", Options{Coordinates: coordinates})
		if err != nil {
			t.Fatal(err)
		}
		got := p.Marks[0].Region.Centre()
		for i := range got {
			if math.Abs(got[i]-want[i]) > 1e-4 {
				t.Errorf("%s: voxel %v, want %v", coordinates, got, want)
			}
		}
	}
}

func TestTablesOfOutcomes(t *testing.T) {
	dir := write(t, map[string]string{
		"t.csv": "image,x1,y1,x2,y2,organ\na,0,0,10,10,lung\nb,0,0,10,10,\n",
		"p.csv": "image,x1,y1,x2,y2,score\na,50,50,60,60,0.9\na,0,0,10,8,0.5\n",
	})
	truth, p, err := read(dir, "t.csv", "p.csv", Options{})
	if err != nil {
		t.Fatal(err)
	}
	r, err := froc.Evaluate(truth.Truth, p.Marks, froc.StrictProtocol())
	if err != nil {
		t.Fatal(err)
	}
	for want, write := range map[string]func(io.Writer) error{
		"threshold,fppi,sensitivity,lesions_found,false_positives\n0.9,0.5,0,0,1\n0.5,0.5,0.5,1,1\n": func(w io.Writer) error { return WriteCurve(w, r) },
		"image,patient,kind,x1,y1,z1,x2,y2,z2,radius,organ,found,prediction_row,score,rank,match\n" +
			"a,,2-D box,0,0,0,10,10,0,,lung,1,3,0.5,2,0.8\nb,,2-D box,0,0,0,10,10,0,,,0,,,,\n": func(w io.Writer) error { return WriteLesions(w, r, p.Rows) },
		"prediction_row,image,patient,kind,x1,y1,z1,x2,y2,z2,radius,score,rank,fate,lesion\n" +
			"2,a,,2-D box,50,50,0,60,60,0,,0.9,1,false positive,\n3,a,,2-D box,0,0,0,10,8,0,,0.5,2,true positive,0\n": func(w io.Writer) error { return WriteMarks(w, r, p.Rows, false) },
		"prediction_row,image,patient,kind,x1,y1,z1,x2,y2,z2,radius,score,rank,fate,lesion\n" +
			"2,a,,2-D box,50,50,0,60,60,0,,0.9,1,false positive,\n": func(w io.Writer) error { return WriteMarks(w, r, p.Rows, true) },
	} {
		var b bytes.Buffer
		if err := write(&b); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, b.String()); d != "" {
			t.Errorf("(-want +got):\n%s", d)
		}
	}
}

func TestReportWritesUndefinedAsNull(t *testing.T) {
	truth := &froc.Truth{Images: []froc.Image{{ID: "a"}}, Lesions: []froc.Lesion{{Region: froc.Box(0, 0, 1, 1)}}}
	r, err := froc.Evaluate(truth, nil, froc.StrictProtocol())
	if err != nil {
		t.Fatal(err)
	}
	s := NewSystem("", r, nil)
	var b bytes.Buffer
	if err := WriteJSON(&b, &Report{SchemaVersion: SchemaVersion, Protocol: NewProtocol(r.Protocol), System: &s}); err != nil {
		t.Fatal(err)
	}
	var got struct {
		Schema int `json:"schema_version"`
		Points []struct {
			Threshold *float64
			CI        *[2]float64
			Reached   bool
		} `json:"operating_points"`
		Merit map[string]struct{ Value *float64 } `json:"figures_of_merit"`
		Mean  float64                             `json:"mean_sensitivity"`
	}
	if err := json.Unmarshal(b.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if got.Schema != 1 || len(got.Points) != 7 || got.Points[0].Threshold != nil || got.Points[0].CI != nil || got.Points[0].Reached ||
		got.Merit["afroc"].Value != nil || got.Merit["afroc1"].Value == nil {
		t.Errorf("%+v in\n%s", got, b.String())
	}
}

func TestFailedWriteKeepsTheOldFile(t *testing.T) {
	dir := write(t, map[string]string{"out": "old"})
	path := filepath.Join(dir, "out")
	err := WriteFile(path, func(w io.Writer) error { return fmt.Errorf("half-way") })
	if err == nil || !strings.Contains(err.Error(), "half-way") {
		t.Errorf("error %v", err)
	}
	data, readErr := os.ReadFile(path)
	entries, dirErr := os.ReadDir(dir)
	if string(data) != "old" || readErr != nil || dirErr != nil || len(entries) != 1 {
		t.Errorf("%q and %d entries are left, want the old file alone", data, len(entries))
	}
}
