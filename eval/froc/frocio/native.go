package frocio

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/alignedfusion/alignedfusion/eval/froc"
	"github.com/alignedfusion/alignedfusion/internal/nifti"
)

// monaiCase is one image of MONAI's detection: boxes are centre and sides (cccwhd, in
// millimetres in its LUNA16 tutorial).
type monaiCase struct {
	Image  string
	Box    json.RawMessage
	Label  []jsonID
	Scores []float64

	key string // the list it stands in: training, validation, test
}

// UnmarshalJSON takes the names that MONAI's detectors, its tutorials and their users give.
func (c *monaiCase) UnmarshalJSON(raw []byte) error {
	var document map[string]json.RawMessage
	if err := json.Unmarshal(raw, &document); err != nil {
		return err
	}
	get := func(into any, keys ...string) error {
		for _, key := range keys {
			if given := document[key]; given != nil {
				if err := json.Unmarshal(given, into); err != nil {
					return fmt.Errorf("%s: %s", key, plainJSON(err).Error())
				}
				return nil
			}
		}
		return nil
	}
	return errors.Join(get(&c.Image, "image"), get(&c.Box, "box", "boxes", "pred_box", "pred_boxes"), get(&c.Label, "label", "labels", "pred_label", "pred_labels"),
		get(&c.Scores, "label_scores", "labels_scores", "score", "scores", "pred_score", "pred_scores"))
}

// boxes are the case's boxes; MONAI writes an empty list, or one empty box, for none.
func (c *monaiCase) boxes() ([][]float64, error) {
	if len(c.Box) == 0 || string(c.Box) == "null" {
		return nil, nil
	}
	var out [][]float64
	if err := json.Unmarshal(c.Box, &out); err != nil {
		return nil, fmt.Errorf("box: %w", err)
	}
	return slices.DeleteFunc(out, func(b []float64) bool { return len(b) == 0 }), nil
}

// monaiCases returns the cases of a document of lists; nil where it is none. Options.Split
// chooses the list.
func (t *Truth) monaiCases(path string, document map[string]json.RawMessage) ([]monaiCase, error) {
	out := []monaiCase(nil)
	found := false
	for _, key := range slices.Sorted(maps.Keys(document)) {
		var probe []map[string]json.RawMessage
		if json.Unmarshal(document[key], &probe) != nil || len(probe) > 0 && probe[0]["image"] == nil {
			continue
		}
		var list []monaiCase
		if err := json.Unmarshal(document[key], &list); err != nil {
			return nil, fmt.Errorf("%s: %s: %w", path, key, plainJSON(err))
		}
		if found = true; t.wants() && key != t.options.Split {
			for _, c := range list {
				t.left[c.Image] = true
				t.list = append(t.list, c.Image)
			}
			continue
		}
		for _, c := range list {
			c.key = key
			out = append(out, c)
			t.splits[key]++
		}
	}
	if found && out == nil {
		out = []monaiCase{}
	}
	t.uses.split = t.uses.split || found && t.wants()
	return out, nil
}

// region makes a box of the numbers of a case.
func monaiRegion(b []float64) (froc.Region, error) {
	switch len(b) {
	case 4:
		return boxOf(box2D, centres, [6]float64{b[0], b[1], b[2], b[3]})
	case 6:
		return boxOf(box3D, centres, [6]float64(b))
	}
	return froc.Region{}, fmt.Errorf("box has %d numbers, want 4 or 6 (the centre, then the sides)", len(b))
}

func (t *Truth) addMONAI(path string, cases []monaiCase) error {
	t.note("%s: MONAI detection: boxes are centre and sides", path)
	for n, c := range cases {
		where := fmt.Sprintf("%s: %s[%d]", path, c.key, n)
		boxes, err := c.boxes()
		if err != nil {
			return fmt.Errorf("%s: %w", where, err)
		}
		i, ok := t.image(t.fileOrName(c.Image), where)
		if !ok {
			continue
		}
		if len(c.Label) != 0 && len(c.Label) != len(boxes) {
			t.problems.row(where, "lists of two lengths", "%d boxes, %d labels", len(boxes), len(c.Label))
			continue
		}
		for k, b := range boxes {
			l := froc.Lesion{Image: i, Class: froc.AnyClass}
			if l.Region, err = monaiRegion(b); err != nil {
				t.problems.row(where, "bad coordinates", "%v", err)
				continue
			}
			if len(c.Label) > 0 {
				l.Class = t.class(string(c.Label[k]))
			}
			t.Lesions = append(t.Lesions, l)
		}
	}
	return nil
}

// fileOrName is the listed image of a file name, or the name itself where images are not listed.
func (t *Truth) fileOrName(name string) string {
	if id := t.fileID(name); t.listed || t.left[id] {
		return id
	}
	return name
}

func (t *Truth) addMONAIMarks(path string, cases []monaiCase, p *Predictions, problems *problems) error {
	row := 0
	for n, c := range cases {
		where := func() string { return fmt.Sprintf("%s: %s[%d]", path, c.key, n) }
		boxes, err := c.boxes()
		if err != nil {
			return fmt.Errorf("%s: %w", where(), err)
		}
		if len(boxes) != len(c.Scores) || len(c.Label) != 0 && len(c.Label) != len(boxes) {
			problems.row(where(), "lists of two lengths", "%d boxes, %d label_scores (or score), %d labels", len(boxes), len(c.Scores), len(c.Label))
			continue
		}
		for k, b := range boxes {
			class := ""
			if len(c.Label) > 0 {
				class = string(c.Label[k])
			}
			region, err := monaiRegion(b)
			t.addListed(t.fileID(c.Image), region, err, c.Scores[k], class, row, where, p, problems)
			row++
		}
	}
	return nil
}

// addListed adds a mark of a JSON list, or says why it cannot be.
func (t *Truth) addListed(id string, region froc.Region, bad error, score float64, class string, row int, where func() string, p *Predictions, problems *problems) {
	i, ok := t.imageOf(id, p, problems, where)
	m := froc.Prediction{Image: i, Region: region, Score: score, Class: froc.AnyClass}
	if len(t.Classes) > 0 {
		m.Class = t.markClass(class)
	}
	switch {
	case !ok || !t.keeps(m.Class):
	case bad != nil:
		problems.row(where(), "bad coordinates", "%v", bad)
	default:
		p.add(m, row)
	}
}

// addBoxLists adds the marks of one image as nnDetection writes them: pred_boxes (x1 y1 x2 y2
// [z1 z2]), pred_scores, pred_labels.
func (t *Truth) addBoxLists(path, id string, document map[string]json.RawMessage, p *Predictions, problems *problems) error {
	var boxes [][]float64
	var scores []float64
	var labels []jsonID
	get := func(into any, keys ...string) error {
		for _, key := range keys {
			if document[key] != nil {
				return part(path, document, key, into)
			}
		}
		return nil
	}
	if err := errors.Join(get(&boxes, "pred_boxes", "boxes"), get(&scores, "pred_scores", "scores"), get(&labels, "pred_labels", "labels")); err != nil {
		return err
	}
	if len(boxes) != len(scores) || len(labels) != 0 && len(labels) != len(boxes) {
		return fmt.Errorf("%s: %d boxes, %d scores, %d labels; want as many of each", path, len(boxes), len(scores), len(labels))
	}
	for i, b := range boxes {
		var region froc.Region
		var err error
		switch len(b) {
		case 4:
			region = froc.Box(b[0], b[1], b[2], b[3])
		case 6:
			region = froc.Box3D(b[0], b[1], b[4], b[2], b[3], b[5])
		default:
			err = fmt.Errorf("box of %d numbers, want x1 y1 x2 y2 or x1 y1 x2 y2 z1 z2", len(b))
		}
		if err == nil {
			err = region.Check()
		}
		if k, known := t.index[id]; known && err == nil && document["pred_boxes"] != nil {
			region = t.arrayBox(region, k, p)
		}
		class := ""
		if len(labels) > 0 {
			class = string(labels[i])
		}
		t.addListed(id, region, err, scores[i], class, i, func() string { return fmt.Sprintf("%s: pred_boxes[%d]", path, i) }, p, problems)
	}
	return nil
}

// arrayBox turns a box of nnDetection, whose axes are those of the array (z, y, x), to the axes
// of the image's mask. Where no mask says what the axes are, a box stays as it is.
func (t *Truth) arrayBox(r froc.Region, image int, p *Predictions) froc.Region {
	if t.grids[image] == nil {
		return r
	}
	p.arrays = true
	low, high := r.Bounds()
	if r.Kind() == froc.KindBox3D {
		return froc.Box3D(low[2], low[1], low[0], high[2], high[1], high[0])
	}
	return froc.Box(low[1], low[0], high[1], high[0])
}

// boxMasks makes boxes of the lesions' masks as nnDetection does, where all marks are its boxes:
// a voxel wider to either side than the first and the last voxel's index.
func (t *Truth) boxMasks(path string, systems []*Predictions) {
	planar, marks := true, 0
	for _, p := range systems {
		if marks += len(p.Marks); len(p.Marks) > 0 && !p.arrays {
			return
		}
		for i := range p.Marks {
			planar = planar && p.Marks[i].Region.Kind() == froc.KindBox2D
		}
	}
	if marks == 0 {
		return
	}
	for i := range t.Lesions {
		l := &t.Lesions[i]
		if l.Region.Kind() != froc.KindMask {
			continue
		}
		low, high := l.Region.Bounds() // of voxels' indices
		if l.Region = froc.Box3D(low[0]-1, low[1]-1, low[2]-1, high[0]+1, high[1]+1, high[2]+1); planar {
			l.Region = froc.Box(low[0]-1, low[1]-1, high[0]+1, high[1]+1)
		}
	}
	systems[0].note("%s: nnDetection: boxes lie along z, y, x of the masks, and lesions are the boxes around their masks, as it compares them", path)
}

// instanceClasses are the classes of a mask's labels by nnDetection's JSON beside it; nil without one.
func instanceClasses(path string) (map[string]jsonID, error) {
	file := filepath.Join(filepath.Dir(path), stem(path)+".json")
	raw, err := os.ReadFile(file)
	if err == nil && !json.Valid(raw) {
		return nil, fmt.Errorf("%s: is no JSON; nnDetection writes there the class of each label", file)
	}
	var document struct {
		Instances map[string]jsonID `json:"instances"`
	}
	if err != nil || json.Unmarshal(raw, &document) != nil {
		return nil, nil // another program's
	}
	return document.Instances, nil
}

// instanceClass is the class of a lesion's voxels.
func (t *Truth) instanceClass(classes map[string]jsonID, v *nifti.Mask, indices []int) (int32, error) {
	class := ""
	for _, i := range indices {
		k, _ := slices.BinarySearch(v.Indices, i)
		label := strconv.FormatFloat(v.Values[k], 'g', -1, 64)
		switch one, known := classes[label]; {
		case !known:
			return 0, fmt.Errorf("label %s has no class among the instances of the JSON beside it", label)
		case class != "" && string(one) != class:
			return 0, fmt.Errorf("touching labels are of the classes %s and %s; --mask-lesions labels takes each for a lesion", clip(class), clip(string(one)))
		default:
			class = string(one)
		}
	}
	return t.class(class), nil
}
