package predictions

import (
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/alignedfusion/alignedfusion/eval/froc"
	"github.com/alignedfusion/alignedfusion/host/config"
	"github.com/alignedfusion/alignedfusion/host/dataset"
	"github.com/alignedfusion/alignedfusion/host/pipeline"
	"github.com/alignedfusion/alignedfusion/host/report/schema"
	"github.com/alignedfusion/alignedfusion/internal/box"
	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

var (
	lesionSet = []sdk.LabelSet{{Name: "lesion", Classes: []string{"cyst", "tumour"}}}
	// half shrinks to half the size and moves by 3 pixels down.
	half = dataset.Geometry{A: [6]float64{0.5, 0, 0, 0, 0.5, 3}, Height: 100, Width: 80, NetHeight: 64, NetWidth: 64}
)

// decoder reads the answers of a head "header" and a fusion "fuser".
func decoder(task string) *Decoder {
	return &Decoder{Task: task, Labels: lesionSet,
		Head:   &pipeline.Member{Source: pipeline.Source{Role: sdk.KindHead, Plugin: "header"}},
		Fusion: &pipeline.Member{Source: pipeline.Source{Role: sdk.KindFusion, Plugin: "fuser"}}}
}

func detections(boxes, scores []float32, labels []int64, image []int32) map[string]*tensor.Tensor {
	return map[string]*tensor.Tensor{
		"boxes": tensor.OfFloat32s(boxes, int64(len(boxes)/4), 4), "scores": tensor.OfFloat32s(scores, int64(len(scores))),
		"labels": tensor.OfInt64s(labels, int64(len(labels))), "image": tensor.OfInt32s(image, int64(len(image))),
	}
}

// found is a detection in short.
func found(x1, y1, x2, y2, score float64, class int) Box {
	return Box{Box: box.Box{X1: x1, Y1: y1, X2: x2, Y2: y2}, Score: score, Class: class}
}

func TestBoxesAreOriginalPixelsBestFirst(t *testing.T) {
	d := decoder(config.Detect)
	d.MaxBoxes = 2
	b := &dataset.Batch{Cases: []dataset.Case{{ID: "a"}, {ID: "b"}}, Geometry: []dataset.Geometry{half, {A: [6]float64{1, 0, 0, 0, 1, 0}, Height: 50, Width: 50}}}
	out := make([]Prediction, 2)
	err := d.boxes(&pipeline.Run{Outputs: detections(
		[]float32{1, 4, 3, 8, 10, 10, 20, 20, 0, 3, 1, 4, 2, 2, 60, 30},
		[]float32{0.25, 0.5, 0.125, 0.75}, []int64{1, 0, 1, 0}, []int32{0, 0, 0, 1})}, b, out)
	if err != nil {
		t.Fatal(err)
	}
	// x = 2 xn, y = 2 (yn - 3), clipped to the image; the third box of a is over the cap.
	want := [][]Box{
		{found(20, 14, 40, 34, 0.5, 0), found(2, 2, 6, 10, 0.25, 1)},
		{found(2, 2, 49, 30, 0.75, 0)},
	}
	for i := range want {
		if diff := cmp.Diff(want[i], out[i].Boxes); diff != "" {
			t.Errorf("image %d: %s", i, diff)
		}
	}
}

func TestWhatAHeadMustNotAnswerIsBlamedOnIt(t *testing.T) {
	d := decoder(config.Detect)
	nan := float32(math.NaN())
	corners := []float32{1, 1, 2, 2}
	for name, c := range map[string]struct {
		outputs map[string]*tensor.Tensor
		want    string
	}{
		"NaN corners":  {detections([]float32{1, nan, 2, 2}, []float32{1}, []int64{0}, []int32{0}), "finite"},
		"NaN score":    {detections(corners, []float32{nan}, []int64{0}, []int32{0}), "finite"},
		"image":        {detections(corners, []float32{1}, []int64{0}, []int32{1}), "image 1 of a batch of 1"},
		"label":        {detections(corners, []float32{1}, []int64{2}, []int32{0}), "label 2, there are 2 classes"},
		"counts":       {detections(corners, []float32{1, 1}, []int64{0, 0}, []int32{0, 0}), "1 boxes, 2 scores"},
		"turned round": {detections([]float32{5, 1, 2, 2}, []float32{1}, []int64{0}, []int32{0}), ""},
		"missing":      {map[string]*tensor.Tensor{}, "nothing given"},
	} {
		b := &dataset.Batch{Cases: []dataset.Case{{ID: "a"}}, Geometry: []dataset.Geometry{half}}
		out := make([]Prediction, 1)
		err := d.boxes(&pipeline.Run{Outputs: c.outputs}, b, out)
		var stage *pipeline.StageError
		if c.want == "" { // the hull of the corners makes it a corners again
			if err != nil || out[0].Boxes[0].X1 > out[0].Boxes[0].X2 {
				t.Errorf("%s: %v, %+v", name, err, out[0].Boxes)
			}
			continue
		}
		if !errors.As(err, &stage) || stage.Plugin != "header" || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v; want a StageError of the head with %q", name, err, c.want)
		}
	}
}

func TestProbabilitiesAreTheSoftmaxOfTheLogits(t *testing.T) {
	d := decoder(config.Classify)
	out := make([]Prediction, 2)
	logits := []float32{0, float32(math.Log(3)), 1000, 1000}
	if err := d.probabilities(&pipeline.Run{Outputs: map[string]*tensor.Tensor{"logits": tensor.OfFloat32s(logits, 2, 2)}}, out); err != nil {
		t.Fatal(err)
	}
	for i, want := range [][]float64{{0.25, 0.75}, {0.5, 0.5}} {
		for k := range want {
			if math.Abs(out[i].Probabilities[0][k]-want[k]) > 1e-6 {
				t.Errorf("case %d: %v, want %v", i, out[i].Probabilities[0], want)
			}
		}
	}
	for name, logits := range map[string]*tensor.Tensor{
		"shape": tensor.OfFloat32s(logits, 1, 4), "dtype": tensor.OfInt64s([]int64{1, 2, 3, 4}, 2, 2),
		"NaN": tensor.OfFloat32s([]float32{1, 2, 3, float32(math.NaN())}, 2, 2), "missing": nil,
	} {
		err := d.probabilities(&pipeline.Run{Outputs: map[string]*tensor.Tensor{"logits": logits}}, make([]Prediction, 2))
		if err == nil || !strings.Contains(err.Error(), "head header: forward") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestOnlyUnmentionedAttributesAreReconstructed(t *testing.T) {
	d := decoder(config.Classify)
	cases := []dataset.Case{{ID: "a"}, {ID: "b"}}
	d.Schema = &schema.Schema{Attributes: []schema.Attribute{
		{Name: "itch", Kind: schema.Binary, Values: []string{"no", "yes"}},
		{Name: "region", Kind: schema.Categorical, Values: []string{"face", "arm", "back"}},
	}}
	d.Priors = map[string][]float64{"region": {0, 0.2, 0.8}}
	stated, unmentioned := schema.Cell{State: schema.Stated}, schema.Cell{Value: -1}
	cells := func(id string) []schema.Cell {
		return map[string][]schema.Cell{"a": {stated, unmentioned}, "b": {unmentioned, stated}}[id]
	}
	p := []float32{
		0.5, 0.5, 0, 0.25, 0.25, 0.5,
		0.125, 0.875, 0, 0.1, 0.1, 0.8,
	}
	out := make([]Prediction, 2)
	b := &dataset.Batch{Cases: cases}
	if err := d.reconstructions(&pipeline.Run{Outputs: map[string]*tensor.Tensor{"reconstruction": tensor.OfFloat32s(p, 2, 2, 3)}}, b, cells, out); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]Reconstructed{{"region", []string{"face", "arm", "back"}, []float64{0.25, 0.25, 0.5}, []float64{0, 0.2, 0.8}, "back 50 % (training 80 %), face 25 % (training <1 %)"}}, out[0].Reconstructed); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]Reconstructed{{"itch", []string{"no", "yes"}, []float64{0.125, 0.875}, nil, "yes 88 %, no 12 %"}}, out[1].Reconstructed); diff != "" {
		t.Error(diff)
	}
	err := d.reconstructions(&pipeline.Run{Outputs: map[string]*tensor.Tensor{"reconstruction": tensor.OfFloat32s(p, 2, 3, 2)}}, b, cells, out)
	if err == nil || !strings.Contains(err.Error(), "fusion fuser: forward") {
		t.Errorf("a wrong shape: %v", err)
	}
}

func TestDetectionTableIsWhatTheCommandPromises(t *testing.T) {
	path := filepath.Join(t.TempDir(), "boxes.csv")
	predictions := []Prediction{
		{Case: &dataset.Case{ID: "a, b.png", Patient: "p1"}, Boxes: []Box{found(1, 2.5, 3, 4, float64(float32(0.1)), 1)}},
		{Case: &dataset.Case{ID: "c.png"}},
	}
	if err := Write(path, Set{Task: config.Detect, Labels: lesionSet, Predictions: predictions}); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff("image,x1,y1,x2,y2,score,label,patient\n\"a, b.png\",1,2.5,3,4,0.1,tumour,p1\n", string(data)); diff != "" {
		t.Error(diff)
	}
	if err := Write(filepath.Join(t.TempDir(), "boxes.txt"), Set{Task: config.Detect, Labels: lesionSet}); err == nil {
		t.Error("an unknown ending was accepted")
	}
}

func TestIgnoredRegionsNeitherCountNorHurt(t *testing.T) {
	cases := []dataset.Case{{ID: "a", Boxes: []dataset.Box{{Box: box.Box{X1: 10, Y1: 10, X2: 20, Y2: 20}}},
		Ignore: []dataset.IgnoreRegion{{X: 50, Y: 50, Radius: 5}}}, {ID: "b"}}
	predictions := []Prediction{
		{Case: &cases[0], Boxes: []Box{found(45, 45, 55, 55, 0.9, 0), found(10, 10, 20, 20, 0.8, 0)}},
		{Case: &cases[1], Boxes: []Box{found(1, 1, 5, 5, 0.1, 0)}},
	}
	p := froc.DeepLesion()
	r, err := EvaluateBoxes(cases, predictions, lesionSet, p)
	if err != nil {
		t.Fatal(err)
	}
	if c := r.Counts; c.Lesions != 1 || c.Found != 1 || c.FalsePositives != 1 || c.IgnoredMarks != 1 || c.Images != 2 {
		t.Errorf("%+v; want 1 of 1 lesions, 1 false positive, 1 ignored", c)
	}
}
