package importer

import (
	"bytes"
	"fmt"
	"image"
	"image/png"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/alignedfusion/alignedfusion/internal/table"
)

// folderOf writes files; those ending in .png are pictures of 64 x 48 pixels.
func folderOf(t *testing.T, files map[string]string) string {
	t.Helper()
	var picture bytes.Buffer
	if err := png.Encode(&picture, image.NewGray(image.Rect(0, 0, 64, 48))); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, content := range files {
		if strings.HasSuffix(name, ".png") {
			content = picture.String()
		}
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// rowsOf are a table's rows, blanks between the cells of the columns named.
func rowsOf(t *testing.T, path string, columns ...string) []string {
	t.Helper()
	read, err := table.Read(path)
	if err != nil {
		t.Fatal(err)
	}
	var rows []string
	for _, r := range read.Rows {
		var cells []string
		for _, c := range columns {
			cells = append(cells, read.Get(r, c))
		}
		rows = append(rows, strings.Join(cells, " "))
	}
	return rows
}

const (
	coco = `{"images": [{"id": 7, "file_name": "a.png", "patient_id": "M"}, {"id": 9, "file_name": "b.png"}], "categories": [{"id": 3, "name": "mass"}],
"annotations": [{"id": 1, "image_id": 7, "category_id": 3, "bbox": [8, 12, 16, 24], "iscrowd": 0}, {"id": 2, "image_id": 7, "category_id": 3, "bbox": [1, 1, 4, 4], "iscrowd": 1}]}`
	voc = `<annotation><filename>a.png</filename><size><width>64</width></size>
<object><name>mass</name><difficult>0</difficult><bndbox><xmin>9</xmin><ymin>13</ymin><xmax>25</xmax><ymax>37</ymax></bndbox></object>
<object><name>mass</name><difficult>1</difficult><bndbox><xmin>2</xmin><ymin>2</ymin><xmax>6</xmax><ymax>6</ymax></bndbox></object></annotation>`
)

// TestPicturesWithBoxes: the same boxes from COCO, Pascal VOC and YOLO, in the folders that
// these come in.
func TestPicturesWithBoxes(t *testing.T) {
	for name, files := range map[string]map[string]string{
		"COCO": {"annotations/instances_train2017.json": coco, "train2017/a.png": "", "train2017/b.png": "", "val2017/a.png": "", "notes.json": "{}"},
		"VOC": {"Annotations/a.xml": voc, "Annotations/b.xml": "<annotation><filename>b.jpg</filename></annotation>", "JPEGImages/a.png": "", "JPEGImages/b.png": "",
			"ImageSets/Main/train.txt": "a\nb\n"},
		"YOLO":            {"train/images/a.png": "", "train/images/b.png": "", "train/labels/a.txt": "1 0.25 0.5 0.25 0.5\n", "data.yaml": "nc: 2\nnames: ['cyst', 'mass']\n"},
		"YOLO by numbers": {"images/train/a.png": "", "images/train/b.png": "", "labels/train/a.txt": "1 0.25 0.5 0.25 0.5\n", "set.yaml": "names:\n  0: cyst\n  1: mass\n"},
		"YOLO outlines":   {"train/a.png": "", "train/b.png": "", "train/a.txt": "1 0.125 0.25 0.375 0.4 0.2 0.75 0.3 0.5\n", "classes.txt": "cyst\nmass\n"},
	} {
		out := t.TempDir()
		o := Options{Source: folderOf(t, files), Out: out}
		s, err := importOf(t, o)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		images := rowsOf(t, filepath.Join(out, "images.csv"), "image", "split", "width", "height")
		boxes := rowsOf(t, filepath.Join(out, "boxes.csv"), "image", "x1", "y1", "x2", "y2", "class")
		if len(images) != 2 || !strings.HasSuffix(images[0], "a.png train 64 48") || !strings.HasSuffix(images[1], "b.png train 64 48") {
			t.Errorf("%s: images %q", name, images)
		}
		if len(boxes) != 1 || !strings.HasSuffix(boxes[0], "a.png 8 12 24 36 mass") {
			t.Errorf("%s: boxes %q", name, boxes)
		}
		if s.Spec != "boxes:"+out || s.Images != 2 || s.Written != 2 {
			t.Errorf("%s: %+v", name, s)
		}
		ignore := filepath.Join(out, "ignore.csv")
		if _, err := os.Stat(ignore); (err == nil) != !strings.HasPrefix(name, "YOLO") {
			t.Errorf("%s: %v", name, err)
		} else if err == nil && !strings.HasSuffix(rowsOf(t, ignore, "image", "x1", "y1", "x2", "y2")[0], "a.png 1 1 5 5") {
			t.Errorf("%s: %q", name, rowsOf(t, ignore, "image", "x1"))
		}
		// A split that was made since is kept, and nothing is copied twice.
		path := filepath.Join(out, "images.csv")
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, bytes.ReplaceAll(raw, []byte(",train,"), []byte(",test,")), 0o644); err != nil {
			t.Fatal(err)
		}
		if s, err = importOf(t, o); err != nil || s.Written != 0 {
			t.Errorf("%s: again %+v, %v", name, s, err)
		}
		if images := rowsOf(t, path, "split"); !slices.Equal(images, []string{"test", "test"}) {
			t.Errorf("%s: again %q", name, images)
		}
	}
}

// TestPicturesThatAreRefused: what is wrong is named by file, and nothing is written.
func TestPicturesThatAreRefused(t *testing.T) {
	change := func(old, new string) string { return strings.Replace(coco, old, new, 1) }
	for want, files := range map[string]map[string]string{
		`categories: the id 3 is that of "mass" and of "cyst"`:               {"c.json": change(`"name": "mass"}`, `"name": "mass"}, {"id": 3, "name": "cyst"}`), "a.png": "", "b.png": ""},
		`labels/b.txt: there is no picture of its boxes: none is called "b"`: {"images/a.png": "", "labels/a.txt": "0 .5 .5 .2 .2\n", "labels/b.txt": "0 .5 .5 .2 .2\n"},
		`a.txt:1: the box leaves its picture, -0.35, -0.35 to 0.55, 0.55`:    {"a.png": "", "a.txt": "0 .1 .1 .9 .9\n"},
		`data.yaml: is no YAML`:                    {"a.png": "", "a.txt": "0 .5 .5 .2 .2\n", "data.yaml": "names: [mass, cyst\n"},
		`the picture "b.png" is nowhere in`:        {"c.json": coco, "a.png": ""},
		`it is not clear which picture "a.png" is`: {"c.json": coco, "x/a.png": "", "y/a.png": "", "b.png": ""},
		"annotation 1 is of image 8":               {"c.json": change(`"image_id": 7`, `"image_id": 8`), "a.png": "", "b.png": ""},
		"annotation 1 has category 4":              {"c.json": change(`"category_id": 3`, `"category_id": 4`), "a.png": "", "b.png": ""},
		"is in shares of the sides":                {"c.json": change("[8, 12, 16, 24]", "[0.1, 0.2, 0.3, 0.4]"), "a.png": "", "b.png": ""},
		"leaves its 64 x 48 pixels":                {"c.json": change("[8, 12, 16, 24]", "[8, 12, 16, 240]"), "a.png": "", "b.png": ""},
		"has no area":                              {"c.json": change("[8, 12, 16, 24]", "[8, 12, 0, 24]"), "a.png": "", "b.png": ""},
		"c.json: is no JSON of COCO":               {"c.json": coco[:len(coco)-9], "a.png": "", "b.png": ""},
		"a.xml: is no XML of Pascal VOC":           {"a.xml": voc[:100], "a.png": ""},
		`a.txt:2: "30" is no share of a side`:      {"a.png": "", "a.txt": "0 .5 .5 .1 .1\n0 30 .5 .1 .1\n"},
		"a.txt:1: 4 numbers, want 5":               {"a.png": "", "a.txt": "0 .5 .5 .1\n"},
		`a.txt:1: the class "2" is none of 2`:      {"a.png": "", "a.txt": "2 .5 .5 .1 .1\n", "classes.txt": "cyst\nmass\n"},
		`a.txt:1: the class "-1" is none of 0`:     {"a.png": "", "a.txt": "-1 .5 .5 .1 .1\n"},
		`a.txt:1: the class "mass" is none of 0`:   {"a.png": "", "a.txt": "mass .5 .5 .1 .1\n"},
		"its annotations are for 128 x 96":         {"c.json": change(`"file_name"`, `"width": 128, "height": 96, "file_name"`), "a.png": "", "b.png": ""},
		"its annotations are for 48 x 64":          {"a.xml": strings.Replace(voc, "<object>", "<size><width>48</width><height>64</height></size><object>", 1), "a.png": ""},
		"an object of a.png has no name":           {"a.xml": regexp.MustCompile(`<name>[^<]*`).ReplaceAllString(voc, "<name>"), "a.png": ""},
		"c.json is no JSON: unexpected end":        {"c.json": `{"images": [{`, "a.png": ""},
		"1 names of pictures: no annotations":      {"a.png": ""},
		"is no picture, or damaged":                {"a.jpg": "x", "a.txt": "0 .5 .5 .1 .1\n"},
	} {
		out := filepath.Join(t.TempDir(), "out")
		_, err := importOf(t, Options{Source: folderOf(t, files), Out: out})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
		if _, err := os.Stat(out); err == nil {
			t.Errorf("%s: something was written", want)
		}
	}
	if _, err := importOf(t, Options{Source: folderOf(t, map[string]string{"a.png": ""})}); err == nil || !strings.Contains(err.Error(), "holds no scan") {
		t.Errorf("%v", fmt.Sprint(err))
	}
}
