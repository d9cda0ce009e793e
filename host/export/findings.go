// Package export writes what a detector found in the formats of other programs: DICOM
// structured reports and segmentations, label volumes, 3D Slicer, COCO, nnDetection; and what
// a run is as the cards that model collections ask for.
package export

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/alignedfusion/alignedfusion/host/dataset"
	"github.com/alignedfusion/alignedfusion/internal/box"
	"github.com/alignedfusion/alignedfusion/internal/digest"
	"github.com/alignedfusion/alignedfusion/internal/nearest"
	"github.com/alignedfusion/alignedfusion/internal/problem"
	"github.com/alignedfusion/alignedfusion/internal/table"
)

// Finding is a box on the slices Z1 to Z2 of a volume, or of one image.
type Finding struct {
	box.Box
	Z1, Z2 int
	Score  float64
	Label  string
	// Key is the slice with the best box.
	Key *dataset.Case
}

// Volume is the id of the volume, or of the image that belongs to none.
func (f *Finding) Volume() string { return cmp.Or(f.Key.Stack, f.Key.ID) }

// place is where the finding lies in the patient; nil where its volume does not say.
func (f *Finding) place() *dataset.Place { return f.Key.Place(f.X1, f.Y1, f.X2, f.Y2, f.Z1, f.Z2) }

// Findings are read from one file.
type Findings struct {
	Path string
	List []Finding
	// SHA256 is the file's, Modified its time in UTC: what is written of equal findings is equal.
	SHA256   string
	Modified time.Time
}

// row is a finding as a file names it.
type row struct {
	line int
	// image is a volume or an image, key the key slice or "".
	image, key, label     string
	x1, y1, x2, y2, score float64
	// z1 and z2 are nil where the file has none.
	z1, z2 *float64
}

// ReadFindings reads what `predict` writes with --findings or, for detection, --out, as .csv or
// .json, or any table image,x1,y1,x2,y2,score[,label][,z1,z2], and finds the cases in the data.
// Problems come together as problem.List. Findings below a score of least are left out.
func ReadFindings(path string, d *dataset.Dataset, least float64) (*Findings, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, problem.File(path, err)
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, problem.File(path, err)
	}
	var problems problem.List
	var rows []row
	switch strings.ToLower(filepath.Ext(path)) {
	case ".csv":
		rows, err = csvRows(path, raw, &problems)
	case ".json":
		rows, err = jsonRows(path, raw)
	default:
		err = problem.At(path, 0, "", "the ending is %q, want .csv or .json as predict writes them", filepath.Ext(path))
	}
	if err != nil {
		return nil, err
	}
	out := &Findings{Path: path, SHA256: digest.Of(raw), Modified: info.ModTime().UTC()}
	index := newIndex(d)
	for _, r := range rows {
		f, err := index.finding(r)
		if err != nil {
			problems.AddError(path, r.line, "", err)
		} else if f.Score >= least {
			out.List = append(out.List, f)
		}
	}
	slices.SortStableFunc(out.List, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.Volume(), b.Volume()), cmp.Compare(b.Score, a.Score))
	})
	return out, problems.Err()
}

// csvRows reads a table.
func csvRows(path string, raw []byte, problems *problem.List) ([]row, error) {
	t, err := table.Parse(path, raw)
	if err != nil {
		return nil, err
	}
	if err := t.Need("image", "x1", "y1", "x2", "y2", "score"); err != nil {
		return nil, err
	}
	var rows []row
	for _, line := range t.Rows {
		r := row{line: line.Line, image: t.Get(line, "image"), key: t.Get(line, "key_image"), label: t.Get(line, "label")}
		number := func(column string) float64 {
			v, err := table.Number(t.Get(line, column))
			if err != nil {
				problems.AddError(path, line.Line, column, err)
			}
			return v
		}
		r.x1, r.y1, r.x2, r.y2, r.score = number("x1"), number("y1"), number("x2"), number("y2"), number("score")
		if t.Has("z1") && t.Has("z2") {
			z1, z2 := number("z1"), number("z2")
			r.z1, r.z2 = &z1, &z2
		}
		rows = append(rows, r)
	}
	return rows, problems.Err()
}

// jsonBox is a box in predict's JSON.
type jsonBox struct {
	Image  string   `json:"image"`
	Volume string   `json:"volume"`
	Label  string   `json:"label"`
	X1     *float64 `json:"x1"`
	Y1     *float64 `json:"y1"`
	X2     *float64 `json:"x2"`
	Y2     *float64 `json:"y2"`
	Z1     *float64 `json:"z1"`
	Z2     *float64 `json:"z2"`
	Score  *float64 `json:"score"`
}

// jsonRows reads predict's JSON of findings or of boxes.
func jsonRows(path string, raw []byte) ([]row, error) {
	var doc struct {
		SchemaVersion int        `json:"schema_version"`
		Findings      *[]jsonBox `json:"findings"`
		Cases         *[]struct {
			ID    string     `json:"id"`
			Boxes *[]jsonBox `json:"boxes"`
		} `json:"cases"`
	}
	decoder := json.NewDecoder(bytes.NewReader(raw))
	if err := decoder.Decode(&doc); err != nil {
		return nil, problem.At(path, 0, "", "is no JSON of findings: %v", err)
	}
	if doc.SchemaVersion != 1 || (doc.Findings == nil) == (doc.Cases == nil) {
		return nil, problem.At(path, 0, "", "schema_version is %d; want 1 and findings (predict --findings) or cases (predict --out)", doc.SchemaVersion)
	}
	var boxes []jsonBox
	if doc.Findings != nil {
		boxes = *doc.Findings
	} else {
		for _, c := range *doc.Cases {
			if c.Boxes == nil {
				return nil, problem.At(path, 0, "", "case %q has no boxes: predictions of a classifier have no findings", problem.Clip(c.ID, 60))
			}
			for _, b := range *c.Boxes {
				b.Image = c.ID
				boxes = append(boxes, b)
			}
		}
	}
	var rows []row
	for n, b := range boxes {
		if b.X1 == nil || b.Y1 == nil || b.X2 == nil || b.Y2 == nil || b.Score == nil {
			return nil, problem.At(path, 0, "", "box %d of %q lacks one of x1, y1, x2, y2, score", n, problem.Clip(b.Image, 60))
		}
		rows = append(rows, row{label: b.Label, key: b.Image, image: cmp.Or(b.Volume, b.Image),
			x1: *b.X1, y1: *b.Y1, x2: *b.X2, y2: *b.Y2, z1: b.Z1, z2: b.Z2, score: *b.Score})
	}
	return rows, nil
}

// index finds cases by id, and slices by their volume.
type index struct {
	cases  map[string]*dataset.Case
	slices map[string]map[int]*dataset.Case
}

func newIndex(d *dataset.Dataset) *index {
	x := &index{map[string]*dataset.Case{}, map[string]map[int]*dataset.Case{}}
	for i := range d.Cases {
		c := &d.Cases[i]
		x.cases[c.ID] = c
		if c.Stack != "" {
			if x.slices[c.Stack] == nil {
				x.slices[c.Stack] = map[int]*dataset.Case{}
			}
			x.slices[c.Stack][c.KeySlice] = c
		}
	}
	return x
}

// finding checks a row and finds its case.
func (x *index) finding(r row) (Finding, error) {
	f := Finding{Box: box.Box{X1: r.x1, Y1: r.y1, X2: r.x2, Y2: r.y2}, Score: r.score, Label: cmp.Or(r.label, "lesion")}
	for _, v := range []float64{r.x1, r.y1, r.x2, r.y2, r.score} {
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return f, fmt.Errorf("%v is no finite number", v)
		}
	}
	if !(r.x1 < r.x2 && r.y1 < r.y2) {
		return f, fmt.Errorf("the box %s has no area: want x1 < x2 and y1 < y2", f.text())
	}
	stack := x.slices[r.image]
	if stack == nil { // one image
		if f.Key = x.cases[r.image]; f.Key == nil {
			return f, x.unknown(r.image)
		}
		f.Z1, f.Z2 = f.Key.KeySlice, f.Key.KeySlice
		return f, nil
	}
	if r.z1 == nil || r.z2 == nil {
		return f, fmt.Errorf("%q is a volume and the box has no z1 and z2", problem.Clip(r.image, 60))
	}
	for _, z := range []float64{*r.z1, *r.z2} {
		if z != math.Trunc(z) || stack[int(z)] == nil {
			return f, fmt.Errorf("%q has no slice %v", problem.Clip(r.image, 60), z)
		}
	}
	if f.Z1, f.Z2 = int(*r.z1), int(*r.z2); f.Z1 > f.Z2 {
		return f, fmt.Errorf("z1 is %d, z2 is %d: want z1 <= z2", f.Z1, f.Z2)
	}
	f.Key = stack[(f.Z1+f.Z2)/2]
	if r.key != "" && r.key != r.image {
		if f.Key = x.cases[r.key]; f.Key == nil || f.Key.Stack != r.image {
			return f, fmt.Errorf("the key image %q is no slice of %q", problem.Clip(r.key, 60), problem.Clip(r.image, 60))
		}
	}
	if f.Key == nil {
		f.Key = stack[f.Z1]
	}
	return f, nil
}

func (x *index) unknown(id string) error {
	var known []string
	for name := range x.slices {
		known = append(known, name)
	}
	for name := range x.cases {
		known = append(known, name)
	}
	slices.Sort(known)
	return fmt.Errorf("%q is no image and no volume of the data%s", problem.Clip(id, 60), nearest.Meant(id, known))
}

// text is the box as messages and identifiers hold it.
func (f *Finding) text() string {
	var parts []string
	for _, v := range []float64{f.X1, f.Y1, f.X2, f.Y2} {
		parts = append(parts, strconv.FormatFloat(v, 'g', -1, 32))
	}
	return strings.Join(parts, ",")
}

// byVolume are the findings of each volume, in the order of the volumes' ids.
func (f *Findings) byVolume() (volumes []string, of map[string][]Finding) {
	of = map[string][]Finding{}
	for _, one := range f.List {
		name := one.Volume()
		if of[name] == nil {
			volumes = append(volumes, name)
		}
		of[name] = append(of[name], one)
	}
	return volumes, of
}
