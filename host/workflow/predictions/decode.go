package predictions

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/alignedfusion/alignedfusion/host/config"
	"github.com/alignedfusion/alignedfusion/host/dataset"
	"github.com/alignedfusion/alignedfusion/host/pipeline"
	"github.com/alignedfusion/alignedfusion/host/report/schema"
	"github.com/alignedfusion/alignedfusion/internal/box"
	"github.com/alignedfusion/alignedfusion/internal/stat"
	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/ports"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

// Box is a detection in pixels of the original image.
type Box = box.Detection

// Prediction is what the pipeline says about a case.
type Prediction struct {
	Case *dataset.Case
	// Boxes of a detector, best first.
	Boxes []Box
	// Probabilities of a classifier, per label set; of a set that asks for a number, that.
	Probabilities [][]float64
	Reconstructed []Reconstructed
	// Own are the head's own metrics of the case, by the port's name; none where it has none.
	Own map[string]float64
	// Maps over the picture that were asked for, by the port's name.
	Maps map[string]Map
	// Weights are how much each patch of a slide counts, by the port's name and the patch's
	// number; those of a port sum to 1.
	Weights map[string]map[int]float64
}

// Case is a prediction without its case, as JSON holds it exactly.
type Case struct {
	ID            string             `json:"id"`
	Boxes         []Box              `json:"boxes,omitempty"`
	Probabilities [][]float64        `json:"probabilities,omitempty"`
	Reconstructed []Reconstructed    `json:"reconstructed,omitempty"`
	Own           map[string]float64 `json:"own,omitempty"`
}

// Bare are predictions without their cases.
func Bare(all []Prediction) []Case {
	out := make([]Case, len(all))
	for i, p := range all {
		out[i] = Case{p.Case.ID, p.Boxes, p.Probabilities, p.Reconstructed, p.Own}
	}
	return out
}

// Of is the prediction for its case.
func (c Case) Of(of *dataset.Case) Prediction {
	return Prediction{Case: of, Boxes: c.Boxes, Probabilities: c.Probabilities, Reconstructed: c.Reconstructed, Own: c.Own}
}

// Decoder reads predictions from what the stages of a pipeline answer.
type Decoder struct {
	Task   string
	Labels []sdk.LabelSet
	// MaxBoxes per image; 0 sets no bound.
	MaxBoxes int
	// Head makes boxes or logits, Fusion the reconstructions.
	Head, Fusion *pipeline.Member
	// Schema of the attributes; nil when the pipeline reads none.
	Schema *schema.Schema
	// Priors of the attributes' values in training (see Priors); may be nil.
	Priors map[string][]float64
	// Temperature of the reported reconstructions; 0 leaves them as they come.
	Temperature float64
}

// Decode reads the predictions of a batch; cells are those of a case's attributes, by
// its id.
func (d *Decoder) Decode(run *pipeline.Run, b *dataset.Batch, cells func(id string) []schema.Cell) ([]Prediction, error) {
	out := make([]Prediction, len(b.Cases))
	var err error
	if d.Task == config.Detect {
		err = d.boxes(run, b, out)
	} else {
		err = d.probabilities(run, out)
	}
	if err == nil && d.Schema != nil {
		err = d.reconstructions(run, b, cells, out)
	}
	return out, err
}

// boxes reads boxes, scores, labels and image, and maps them to the original images.
func (d *Decoder) boxes(run *pipeline.Run, b *dataset.Batch, out []Prediction) error {
	boxes, err1 := run.Outputs[ports.Boxes.Name].Float32s()
	scores, err2 := run.Outputs[ports.Scores.Name].Float32s()
	image, err3 := run.Outputs[ports.BoxImage.Name].Int32s()
	if err := errors.Join(err1, err2, err3); err != nil {
		return d.Head.WrongOutput("outputs boxes, scores and image: %w", err)
	}
	labels := make([]int64, len(scores))
	if t := run.Outputs[ports.BoxLabels.Name]; t != nil {
		given, err := t.Int64s()
		if err != nil {
			return d.Head.WrongOutput("output labels: %w", err)
		}
		labels = given
	}
	if len(boxes) != 4*len(scores) || len(image) != len(scores) || len(labels) != len(scores) {
		return d.Head.WrongOutput("%d boxes, %d scores, %d labels, %d images; want as many of each", len(boxes)/4, len(scores), len(labels), len(image))
	}
	for k, at := range image {
		v := boxes[4*k : 4*k+4]
		for _, x := range append([]float32{scores[k]}, v...) {
			if math.IsNaN(float64(x)) || math.IsInf(float64(x), 0) {
				return d.Head.WrongOutput("box %d of case %q is %v with score %v, want finite numbers", k, b.Cases[0].ID, v, scores[k])
			}
		}
		if at < 0 || int(at) >= len(b.Cases) {
			return d.Head.WrongOutput("box %d belongs to image %d of a batch of %d", k, at, len(b.Cases))
		}
		if n := len(d.Labels[0].Classes); labels[k] < 0 || labels[k] >= int64(n) {
			return d.Head.WrongOutput("box %d has label %d, there are %d classes", k, labels[k], n)
		}
		found := Box{Score: float64(scores[k]), Class: int(labels[k])}
		found.X1, found.Y1, found.X2, found.Y2 = b.Geometry[at].BoxToOriginal(float64(v[0]), float64(v[1]), float64(v[2]), float64(v[3]))
		if !found.Valid() {
			return d.Head.WrongOutput("box %d is %v, want x1 <= x2 and y1 <= y2", k, v)
		}
		out[at].Boxes = append(out[at].Boxes, found)
	}
	limit := d.MaxBoxes
	for i := range out {
		slices.SortStableFunc(out[i].Boxes, func(a, b Box) int { return cmp.Compare(b.Score, a.Score) })
		if limit > 0 && len(out[i].Boxes) > limit {
			out[i].Boxes = out[i].Boxes[:limit]
		}
	}
	return nil
}

// probabilities are the softmax of the logits, or numbers in the unit of their column.
func (d *Decoder) probabilities(run *pipeline.Run, out []Prediction) error {
	for _, set := range d.Labels {
		name, width := ports.LabelLogits(d.Labels, set.Name).Name, len(set.Classes)
		if set.Asks() == sdk.AsksNumber {
			width = 1
		}
		logits, err := rows(run.Outputs[name], len(out), width)
		if err != nil {
			return d.Head.WrongOutput("output %q: %w", name, err)
		}
		for i, z := range logits {
			answer := stat.Softmax(z)
			if set.Asks() == sdk.AsksNumber {
				answer = []float64{float64(z[0]*set.SD) + set.Mean}
			}
			out[i].Probabilities = append(out[i].Probabilities, answer)
		}
	}
	return nil
}

// rows reads an FP32 [n, k] tensor of finite numbers.
func rows(t *tensor.Tensor, n, k int) ([][]float64, error) {
	values, err := t.Float32s()
	if err != nil {
		return nil, err
	}
	if len(t.Shape) != 2 || t.Shape[0] != int64(n) || t.Shape[1] != int64(k) {
		return nil, fmt.Errorf("is %s, want FP32 [%d %d]", t, n, k)
	}
	out := make([][]float64, n)
	for i := range out {
		for _, v := range values[i*k : (i+1)*k] {
			if math.IsNaN(float64(v)) || math.IsInf(float64(v), 0) {
				return nil, fmt.Errorf("holds %v, want finite numbers", v)
			}
			out[i] = append(out[i], float64(v))
		}
	}
	return out, nil
}

// reconstructions keeps the probabilities of the attributes a report does not mention.
func (d *Decoder) reconstructions(run *pipeline.Run, b *dataset.Batch, cellsOf func(id string) []schema.Cell, out []Prediction) error {
	t := run.Outputs[ports.Reconstruction.Name]
	if t == nil {
		return nil
	}
	p, err := t.Float32s()
	n, a := int64(len(out)), int64(len(d.Schema.Attributes))
	if err != nil || len(t.Shape) != 3 || t.Shape[0] != n || t.Shape[1] != a {
		return d.Fusion.WrongOutput("output \"reconstruction\" is %s, want FP32 [%d %d K]", t, n, a)
	}
	width := int(t.Shape[2])
	for i := range out {
		cells := cellsOf(b.Cases[i].ID)
		for k, attribute := range d.Schema.Attributes {
			if cells[k].State != schema.Unmentioned {
				continue
			}
			if width < len(attribute.Values) {
				return d.Fusion.WrongOutput("output \"reconstruction\" has %d values, attribute %q has %d", width, attribute.Name, len(attribute.Values))
			}
			r := Reconstructed{Attribute: attribute.Name, Values: attribute.Values}
			at := (i*int(a) + k) * width
			for _, v := range p[at : at+len(attribute.Values)] {
				if !(v >= 0 && v <= 1.001) {
					return d.Fusion.WrongOutput("output \"reconstruction\" holds %v, want probabilities", v)
				}
				r.Probabilities = append(r.Probabilities, float64(v))
			}
			if d.Temperature > 0 {
				r.Probabilities = temper(r.Probabilities, d.Temperature)
			}
			r.Prior = d.Priors[attribute.Name]
			r.Summary = r.summary()
			out[i].Reconstructed = append(out[i].Reconstructed, r)
		}
	}
	return nil
}
