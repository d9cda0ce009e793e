package frocio

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/alignedfusion/alignedfusion/eval/froc"
	"github.com/alignedfusion/alignedfusion/internal/table"
)

// cocoID is an id of a COCO file: a number or a string.
type cocoID string

func (id *cocoID) UnmarshalJSON(raw []byte) error {
	text, err := scalar(raw)
	*id = cocoID(text)
	return err
}

type cocoImage struct {
	ID       cocoID `json:"id"`
	FileName string `json:"file_name"`
	Patient  cocoID `json:"patient"`
	Volume   cocoID `json:"volume"`
}

type cocoBox struct {
	ImageID    cocoID    `json:"image_id"`
	CategoryID cocoID    `json:"category_id"`
	BBox       []float64 `json:"bbox"`
	Score      *float64  `json:"score"`
	Area       float64   `json:"area"`
	IsCrowd    int       `json:"iscrowd"`
	Ignore     int       `json:"ignore"`
}

type cocoCategory struct {
	ID   cocoID `json:"id"`
	Name string `json:"name"`
}

// region turns x, y, width, height into corners.
func (b *cocoBox) region() (froc.Region, error) {
	if len(b.BBox) != 4 {
		return froc.Region{}, fmt.Errorf("bbox has %d numbers, want 4 (x, y, width, height)", len(b.BBox))
	}
	r := froc.Box(b.BBox[0], b.BBox[1], b.BBox[0]+b.BBox[2], b.BBox[1]+b.BBox[3])
	return r, r.Check()
}

// readCOCO reads images, annotations and categories.
func (t *Truth) readCOCO(path string) error {
	var images []cocoImage
	var annotations []cocoBox
	var categories []cocoCategory
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := json.NewDecoder(bufio.NewReaderSize(f, 1<<20)).Decode(&struct {
		Images      *[]cocoImage    `json:"images"`
		Annotations *[]cocoBox      `json:"annotations"`
		Categories  *[]cocoCategory `json:"categories"`
	}{&images, &annotations, &categories}); err != nil {
		return fmt.Errorf("%s: want a COCO ground truth: %w", path, err)
	}
	if len(images) == 0 {
		return fmt.Errorf("%s: no images; want a COCO ground truth with images and annotations", path)
	}
	if !t.listed {
		for n, im := range images {
			where := fmt.Sprintf("%s: images[%d]", path, n)
			if _, twice := t.index[string(im.ID)]; twice || im.ID == "" {
				t.problems.row(where, "image id twice or empty", "image id %q is empty or stands twice", im.ID)
				continue
			}
			t.addImage(froc.Image{ID: string(im.ID), Patient: string(im.Patient), Volume: string(im.Volume)})
		}
		t.listed = true
	}
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
		region, err := a.region()
		if err != nil {
			t.problems.row(where, "bad coordinates", "%v", err)
			continue
		}
		class, name := t.classID(string(a.CategoryID)), ""
		if class != froc.AnyClass {
			name = t.Classes[class]
		}
		t.Lesions = append(t.Lesions, froc.Lesion{Image: i, Region: region, Ignore: a.IsCrowd != 0 || a.Ignore != 0, Strata: []string{name},
			Class: class, Area: a.Area})
	}
	return nil
}

// readJSONPredictions reads COCO results (an array) or what `alignedfusion
// predict` writes (an object).
func (t *Truth) readJSONPredictions(path string, p *Predictions, problems *problems) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	r := table.SkipMark(f)
	for {
		start, err := r.Peek(1)
		if err != nil {
			return fmt.Errorf("%s: want JSON: %w", path, err)
		}
		switch start[0] {
		case ' ', '\t', '\r', '\n':
			if _, err := r.Discard(1); err != nil {
				return fmt.Errorf("%s: %w", path, err)
			}
		case '{':
			return t.decodeCases(path, r, p, problems)
		default:
			return t.decodeCOCOResults(path, r, p, problems)
		}
	}
}

// decodeCases reads {"cases": [{"id", "boxes": [{"x1", "y1", "x2", "y2", "score"}]}]}.
func (t *Truth) decodeCases(path string, r io.Reader, p *Predictions, problems *problems) error {
	var document struct {
		Cases []struct {
			ID    string `json:"id"`
			Boxes []struct {
				X1, Y1, X2, Y2 *float64
				Score          *float64 `json:"score"`
				Label          string   `json:"label"`
			} `json:"boxes"`
		} `json:"cases"`
	}
	if err := json.NewDecoder(r).Decode(&document); err != nil {
		return fmt.Errorf("%s: want COCO results or predictions with cases: %w", path, err)
	}
	if document.Cases == nil {
		return fmt.Errorf("%s: want a JSON array of results, or an object with cases", path)
	}
	row := 0
	for n, c := range document.Cases {
		for k, b := range c.Boxes {
			where := func() string { return fmt.Sprintf("%s: cases[%d].boxes[%d]", path, n, k) }
			row++
			i, ok := t.imageOf(c.ID, p, problems, where)
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
				class = t.class(b.Label)
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
	decoder := json.NewDecoder(bufio.NewReaderSize(r, 1<<20))
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
			return fmt.Errorf("%s: %w", where(), err)
		}
		class := t.classID(string(box.CategoryID))
		if !t.keeps(class) {
			continue
		}
		i, ok := t.imageOf(string(box.ImageID), p, problems, where)
		if !ok {
			continue
		}
		region, err := box.region()
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
	return nil
}
