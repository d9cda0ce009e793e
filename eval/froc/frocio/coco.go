package frocio

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"

	"github.com/alignedfusion/alignedfusion/eval/froc"
)

// jsonID is an id in JSON: a number or a string. Numbers that are equal are one id, however
// they are written.
type jsonID string

func (id *jsonID) UnmarshalJSON(raw []byte) error {
	text, err := scalar(raw)
	if len(raw) > 0 && raw[0] != '"' {
		if v, err := strconv.ParseFloat(text, 64); err == nil && v == math.Trunc(v) && math.Abs(v) < 1<<53 {
			text = strconv.FormatInt(int64(v), 10)
		}
	}
	*id = jsonID(text)
	return err
}

// jsonFlag is yes or no: true, false, or a number that is 0 or not.
type jsonFlag bool

func (f *jsonFlag) UnmarshalJSON(raw []byte) error {
	text, err := scalar(raw)
	if err != nil {
		return err
	}
	yes, err := flag(text)
	if err != nil {
		return fmt.Errorf("is %s, want 0, 1, true or false", clip(string(raw)))
	}
	*f = jsonFlag(yes)
	return nil
}

type cocoImage struct {
	ID       jsonID  `json:"id"`
	FileName string  `json:"file_name"`
	Patient  jsonID  `json:"patient"`
	Volume   jsonID  `json:"volume"`
	Split    string  `json:"split"`
	Width    float64 `json:"width"`
	Height   float64 `json:"height"`
}

type cocoBox struct {
	ImageID      jsonID          `json:"image_id"`
	FileName     string          `json:"file_name"` // of results without an id
	CategoryID   jsonID          `json:"category_id"`
	BBox         []float64       `json:"bbox"`
	BBoxMode     json.RawMessage `json:"bbox_mode"` // Detectron2's
	Segmentation json.RawMessage `json:"segmentation"`
	Score        *float64        `json:"score"`
	Area         float64         `json:"area"`
	IsCrowd      jsonFlag        `json:"iscrowd"`
	Ignore       jsonFlag        `json:"ignore"`
}

type cocoCategory struct {
	ID   jsonID `json:"id"`
	Name string `json:"name"`
}

// cocoRegion turns x, y, width, height into corners. Without a box it is that around the
// segmentation; with [Segm] it is the segmentation's pixels.
func (t *Truth) cocoRegion(b *cocoBox, image int) (froc.Region, error) {
	drawn := len(b.Segmentation) > 0 && string(b.Segmentation) != "null"
	switch {
	case t.options.IoUType == Segm && !drawn:
		return froc.Region{}, fmt.Errorf("no segmentation; --iou-type bbox compares boxes")
	case t.options.IoUType != Segm && (len(b.BBox) > 0 || !drawn):
		if len(b.BBox) != 4 {
			return froc.Region{}, fmt.Errorf("bbox has %d numbers, want 4 (x, y, width, height)", len(b.BBox))
		}
		o, err := boxMode(b.BBoxMode)
		if err != nil {
			return froc.Region{}, err
		}
		return boxOf(box2D, o, [6]float64(append(b.BBox[:4:4], 0, 0)))
	}
	s, err := readSegmentation(b.Segmentation)
	if err != nil {
		return froc.Region{}, err
	}
	if t.options.IoUType != Segm {
		t.uses.outlines = true
		return s.box()
	}
	id := t.Images[image].ID
	if size := t.sizes[id]; (size[0] == 0 || size[1] == 0) && s.height > 0 {
		t.sizes[id] = [2]float64{float64(s.width), float64(s.height)} // every other one of the image must have
	}
	size := t.sizes[id]
	width, height := int(size[0]), int(size[1])
	if !drawable(width, height) {
		return froc.Region{}, fmt.Errorf("image %q has %v x %v pixels: segmentations need width and height among the images", clip(id), size[0], size[1])
	}
	return s.mask(width, height)
}

// boxMode is what the numbers of a box are by Detectron2's BoxMode, x, y, width, height
// without one.
func boxMode(mode json.RawMessage) (order, error) {
	switch strings.ToLower(strings.Trim(string(mode), `"`)) {
	case "", "null", "1", "xywh", "xywh_abs", "boxmode.xywh_abs":
		return sizes, nil
	case "0", "xyxy", "xyxy_abs", "boxmode.xyxy_abs":
		return corners, nil
	}
	return sizes, fmt.Errorf("bbox_mode is %s, want XYWH_ABS (1) or XYXY_ABS (0): boxes in pixels", clip(string(mode)))
}

// readJSON reads a JSON object with lesions: COCO's, or MONAI's.
func (t *Truth) readJSON(in *input) error {
	var document map[string]json.RawMessage
	if err := decodeWhole(in.name, "a COCO ground truth", in, &document); err != nil {
		return err
	}
	if _, there := document["annotations"]; !there && document["images"] == nil {
		if cases, err := t.monaiCases(in.name, document); cases != nil || err != nil {
			if err != nil {
				return err
			}
			return t.addMONAI(in.name, cases)
		}
	}
	return t.readCOCO(in.name, document)
}

// part decodes one key of a document.
func part(path string, document map[string]json.RawMessage, key string, into any) error {
	if raw := document[key]; raw != nil {
		if err := json.Unmarshal(raw, into); err != nil {
			return fmt.Errorf("%s: %s: %w", path, key, plainJSON(err))
		}
	}
	return nil
}

// readCOCO reads images, annotations and categories.
func (t *Truth) readCOCO(path string, document map[string]json.RawMessage) error {
	var images []cocoImage
	var annotations []cocoBox
	var categories []cocoCategory
	if err := errors.Join(part(path, document, "images", &images), part(path, document, "annotations", &annotations),
		part(path, document, "categories", &categories)); err != nil {
		return err
	}
	if len(images) == 0 {
		return fmt.Errorf("%s: no images; want a COCO ground truth with images and annotations", path)
	}
	if !t.listed {
		for n, im := range images {
			where := fmt.Sprintf("%s: images[%d]", path, n)
			if _, twice := t.index[string(im.ID)]; twice || im.ID == "" || t.left[string(im.ID)] {
				t.problems.row(where, "image id twice or empty", "image id %q is empty or stands twice", clip(string(im.ID)))
				continue
			}
			if im.Split != "" {
				t.uses.split = true
				t.splits[im.Split]++
			}
			if t.wants() && im.Split != t.options.Split {
				t.left[string(im.ID)] = true
				t.list = append(t.list, string(im.ID))
				continue
			}
			t.sizes[string(im.ID)] = [2]float64{im.Width, im.Height}
			t.alias(im.FileName, t.addImage(froc.Image{ID: string(im.ID), Patient: string(im.Patient), Volume: string(im.Volume)}))
		}
		t.listed = true
	}
	t.uses.segments = true
	t.Strata = []string{"category"}
	t.classes.byID = map[string]int32{}
	for _, c := range categories {
		name := c.Name
		if name == "" {
			name = string(c.ID)
		}
		t.classes.byID[string(c.ID)] = t.class(name)
	}
	for n := range annotations {
		a := &annotations[n]
		where := fmt.Sprintf("%s: annotations[%d]", path, n)
		i, ok := t.image(string(a.ImageID), where)
		if !ok {
			continue
		}
		region, err := t.cocoRegion(a, i)
		if err != nil {
			t.problems.row(where, "bad coordinates", "%v", err)
			continue
		}
		class, name := t.classID(string(a.CategoryID)), ""
		if class != froc.AnyClass {
			name = t.Classes[class]
		}
		t.Lesions = append(t.Lesions, froc.Lesion{Image: i, Region: region, Ignore: bool(a.IsCrowd || a.Ignore), Strata: []string{name},
			Class: class, Area: a.Area})
	}
	return nil
}

// decodeObject reads a JSON object with marks: what `alignedfusion predict` writes,
// nnDetection's or MONAI's, or a COCO data set whose annotations have scores.
func (t *Truth) decodeObject(in *input, p *Predictions, problems *problems) error {
	var document map[string]json.RawMessage
	if err := decodeWhole(in.name, "JSON: an array of results or an object of predictions", in, &document); err != nil {
		return err
	}
	switch {
	case document["cases"] != nil:
		return t.decodeCases(in.name, document["cases"], p, problems)
	case document["pred_boxes"] != nil || document["boxes"] != nil:
		return t.addBoxLists(in.name, t.fileID(in.name), document, p, problems)
	case document["annotations"] != nil:
		if err := t.checkSameIDs(in.name, document); err != nil {
			return err
		}
		return t.decodeCOCOResults(in.name, bytes.NewReader(document["annotations"]), p, problems)
	}
	cases, err := t.monaiCases(in.name, document)
	if err != nil {
		return err
	}
	if cases != nil {
		return t.addMONAIMarks(in.name, cases, p, problems)
	}
	return fmt.Errorf("%s: want a JSON array of results, or an object with cases (alignedfusion predict), pred_boxes (nnDetection) or lists of "+
		"image, box and label_scores (MONAI)", in.name)
}

// checkSameIDs refuses results with lists of images or categories of their own, by which a number
// means another image or another class than in the ground truth.
func (t *Truth) checkSameIDs(path string, document map[string]json.RawMessage) error {
	var images []cocoImage
	var categories []cocoCategory
	if err := errors.Join(part(path, document, "images", &images), part(path, document, "categories", &categories)); err != nil {
		return err
	}
	for n, im := range images {
		if i, known := t.aliases[im.FileName]; known && i >= 0 && t.Images[i].ID != string(im.ID) {
			return fmt.Errorf("%s: images[%d]: the file %q has the id %q here and %q in the ground truth: want the same ids in both files",
				path, n, clip(im.FileName), clip(string(im.ID)), clip(t.Images[i].ID))
		}
	}
	for n, c := range categories {
		if k, known := t.classes.byID[string(c.ID)]; known && k >= 0 && c.Name != "" && t.Classes[k] != className(c.Name) {
			return fmt.Errorf("%s: categories[%d]: %s is %q here and %q in the ground truth: want the same numbers in both files",
				path, n, c.ID, clip(c.Name), clip(t.Classes[k]))
		}
	}
	return nil
}

// decodeCases reads [{"id", "boxes": [{"x1", "y1", "x2", "y2", "score"}]}].
func (t *Truth) decodeCases(path string, raw json.RawMessage, p *Predictions, problems *problems) error {
	var document struct {
		Cases []struct {
			ID    jsonID `json:"id"`
			Boxes []struct {
				X1, Y1, X2, Y2 *float64
				Score          *float64 `json:"score"`
				Label          jsonID   `json:"label"`
			} `json:"boxes"`
		}
	}
	if err := json.Unmarshal(raw, &document.Cases); err != nil {
		return fmt.Errorf("%s: cases: %w", path, err)
	}
	row := 0
	for n, c := range document.Cases {
		for k, b := range c.Boxes {
			where := func() string { return fmt.Sprintf("%s: cases[%d].boxes[%d]", path, n, k) }
			row++
			i, ok := t.imageOf(string(c.ID), p, problems, where)
			if !ok {
				continue
			}
			if b.X1 == nil || b.Y1 == nil || b.X2 == nil || b.Y2 == nil || b.Score == nil {
				problems.row(where(), "incomplete box", "want x1, y1, x2, y2 and score")
				continue
			}
			region := froc.Box(*b.X1, *b.Y1, *b.X2, *b.Y2)
			if err := region.Check(); err != nil {
				problems.row(where(), "bad coordinates", "%v", err)
				continue
			}
			class := int32(froc.AnyClass)
			if len(t.Classes) > 0 {
				class = t.markClass(string(b.Label))
			}
			if t.keeps(class) {
				p.add(froc.Prediction{Image: i, Region: region, Score: *b.Score, Class: class}, row-1)
			}
		}
	}
	return nil
}

// decodeCOCOResults reads an array of results one by one, so that a large file
// never stands in memory as JSON.
func (t *Truth) decodeCOCOResults(path string, r io.Reader, p *Predictions, problems *problems) error {
	decoder := json.NewDecoder(r)
	start, err := decoder.Token()
	if err != nil || start != json.Delim('[') {
		return fmt.Errorf("%s: want a JSON array of results", path)
	}
	n := 0
	where := func() string { return fmt.Sprintf("%s: [%d]", path, n) }
	box := cocoBox{}
	for ; decoder.More(); n++ {
		box = cocoBox{BBox: box.BBox[:0]}
		if err := decoder.Decode(&box); err != nil {
			return fmt.Errorf("%s: at byte %d: %w", where(), decoder.InputOffset(), plainJSON(err))
		}
		class := t.classID(string(box.CategoryID))
		if !t.keeps(class) {
			continue
		}
		i, ok := t.imageOf(cmp.Or(string(box.ImageID), box.FileName), p, problems, where)
		if !ok {
			continue
		}
		region, err := t.cocoRegion(&box, i)
		switch {
		case err != nil:
			problems.row(where(), "bad coordinates", "%v", err)
		case box.Score == nil:
			problems.row(where(), "bad score", "no score")
		default:
			p.add(froc.Prediction{Image: i, Region: region, Score: *box.Score, Class: class}, n)
		}
	}
	_, err = decoder.Token()
	if err != nil {
		return fmt.Errorf("%s: the array does not end: %w", path, err)
	}
	return atEnd(path, decoder)
}
