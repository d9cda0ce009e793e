package workflow

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
	"github.com/alignedfusion/alignedfusion/host/report/textembed"
	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

var (
	lesionSet = []sdk.LabelSet{{Name: "lesion", Classes: []string{"cyst", "tumour"}}}
	// half shrinks to half the size and moves by 3 pixels down.
	half = dataset.Geometry{A: [6]float64{0.5, 0, 0, 0, 0.5, 3}, Height: 100, Width: 80, NetHeight: 64, NetWidth: 64}
)

func fakeSession(t *testing.T, task string, labels []sdk.LabelSet, sets ...string) *Session {
	t.Helper()
	c, err := config.New(task)
	if err != nil {
		t.Fatal(err)
	}
	c.Data = "boxes:x"
	for _, s := range sets {
		if err := c.Set(s); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Resolve(); err != nil {
		t.Fatal(err)
	}
	return &Session{Options: Options{Config: c, Labels: labels}, Pipeline: &pipeline.Pipeline{Members: []*pipeline.Member{
		{Source: pipeline.Source{Role: sdk.KindFusion, Plugin: "fuser"}}, {Source: pipeline.Source{Role: sdk.KindHead, Plugin: "header"}},
	}}}
}

func detections(boxes, scores []float32, labels []int64, image []int32) map[string]*tensor.Tensor {
	return map[string]*tensor.Tensor{
		"boxes": tensor.OfFloat32s(boxes, int64(len(boxes)/4), 4), "scores": tensor.OfFloat32s(scores, int64(len(scores))),
		"labels": tensor.OfInt64s(labels, int64(len(labels))), "image": tensor.OfInt32s(image, int64(len(image))),
	}
}

func TestBoxesAreOriginalPixelsBestFirst(t *testing.T) {
	s := fakeSession(t, config.Detect, lesionSet, "data.max_boxes=2")
	b := &dataset.Batch{Cases: []dataset.Case{{ID: "a"}, {ID: "b"}}, Geometry: []dataset.Geometry{half, {A: [6]float64{1, 0, 0, 0, 1, 0}, Height: 50, Width: 50}}}
	out := make([]Prediction, 2)
	err := s.boxes(&pipeline.Run{Outputs: detections(
		[]float32{1, 4, 3, 8, 10, 10, 20, 20, 0, 3, 1, 4, 2, 2, 60, 30},
		[]float32{0.25, 0.5, 0.125, 0.75}, []int64{1, 0, 1, 0}, []int32{0, 0, 0, 1})}, b, out)
	if err != nil {
		t.Fatal(err)
	}
	// x = 2 xn, y = 2 (yn - 3), clipped to the image; the third box of a is over the cap.
	want := [][]Box{
		{{20, 14, 40, 34, 0.5, 0}, {2, 2, 6, 10, 0.25, 1}},
		{{2, 2, 49, 30, 0.75, 0}},
	}
	for i := range want {
		if diff := cmp.Diff(want[i], out[i].Boxes); diff != "" {
			t.Errorf("image %d: %s", i, diff)
		}
	}
}

func TestWhatAHeadMustNotAnswerIsBlamedOnIt(t *testing.T) {
	s := fakeSession(t, config.Detect, lesionSet)
	nan := float32(math.NaN())
	box := []float32{1, 1, 2, 2}
	for name, c := range map[string]struct {
		outputs map[string]*tensor.Tensor
		want    string
	}{
		"NaN box":      {detections([]float32{1, nan, 2, 2}, []float32{1}, []int64{0}, []int32{0}), "finite"},
		"NaN score":    {detections(box, []float32{nan}, []int64{0}, []int32{0}), "finite"},
		"image":        {detections(box, []float32{1}, []int64{0}, []int32{1}), "image 1 of a batch of 1"},
		"label":        {detections(box, []float32{1}, []int64{2}, []int32{0}), "label 2, there are 2 classes"},
		"counts":       {detections(box, []float32{1, 1}, []int64{0, 0}, []int32{0, 0}), "1 boxes, 2 scores"},
		"turned round": {detections([]float32{5, 1, 2, 2}, []float32{1}, []int64{0}, []int32{0}), ""},
		"missing":      {map[string]*tensor.Tensor{}, "nothing given"},
	} {
		b := &dataset.Batch{Cases: []dataset.Case{{ID: "a"}}, Geometry: []dataset.Geometry{half}}
		out := make([]Prediction, 1)
		err := s.boxes(&pipeline.Run{Outputs: c.outputs}, b, out)
		var stage *pipeline.StageError
		if c.want == "" { // the hull of the corners makes it a box again
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
	s := fakeSession(t, config.Classify, lesionSet)
	out := make([]Prediction, 2)
	logits := []float32{0, float32(math.Log(3)), 1000, 1000}
	if err := s.probabilities(&pipeline.Run{Outputs: map[string]*tensor.Tensor{"logits": tensor.OfFloat32s(logits, 2, 2)}}, out); err != nil {
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
		err := s.probabilities(&pipeline.Run{Outputs: map[string]*tensor.Tensor{"logits": logits}}, make([]Prediction, 2))
		if err == nil || !strings.Contains(err.Error(), "head header: forward") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func hashed(t *testing.T, dim int) textembed.Encoder {
	t.Helper()
	e, err := textembed.Hashed(dim)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

var reportSchema = &schema.Schema{Attributes: []schema.Attribute{
	{Name: "itch", Kind: schema.Binary, Values: []string{"no", "yes"}},
	{Name: "region", Kind: schema.Categorical, Values: []string{"face", "arm", "back"}},
}}

func TestReportPortsHoldStatesValuesAndEmbeddings(t *testing.T) {
	cases := []dataset.Case{
		{ID: "a", Attributes: map[string]string{"itch": "yes", "region": "arm"}},
		{ID: "b", Attributes: map[string]string{"itch": "no"}},
		{ID: "c", Attributes: map[string]string{"region": "possibly back", "itch": ""}},
	}
	r, err := newReports(reportSchema, cases, hashed(t, 16), textembed.Cache{}, "")
	if err != nil {
		t.Fatal(err)
	}
	inputs := map[string]*tensor.Tensor{}
	r.add(inputs, cases)
	states, _ := inputs["report.state"].Int8s()
	values, _ := inputs["report.value"].Int64s()
	if diff := cmp.Diff([]int8{1, 1, 2, 0, 0, 3}, states); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]int64{1, 1, 0, -1, -1, 2}, values); diff != "" {
		t.Error(diff)
	}
	embedding, err := inputs["report.embedding"].Float32s()
	if err != nil || len(embedding) != 3*2*16 {
		t.Fatalf("%d numbers, %v", len(embedding), err)
	}
	for i, state := range states {
		var squares float64
		for _, v := range embedding[i*16 : (i+1)*16] {
			squares += float64(v) * float64(v)
		}
		if (state == 0) != (squares == 0) {
			t.Errorf("cell %d with state %d has an embedding of norm %g", i, state, math.Sqrt(squares))
		}
	}
	constant, err := r.constant.Float32s()
	if err != nil || r.constant.String() != "FP32 [2 3 16]" {
		t.Fatalf("value embeddings are %s, %v", r.constant, err)
	}
	for _, v := range constant[2*16 : 3*16] { // itch has two values
		if v != 0 {
			t.Error("the place of a value that is not there is not zero")
		}
	}
	bad := []dataset.Case{{ID: "d", Origin: "data.csv:7", Attributes: map[string]string{"age": "old"}}}
	ages := &schema.Schema{Attributes: []schema.Attribute{{Name: "age", Kind: schema.Numeric, Values: []string{"a", "b"}, Edges: []float64{5}}}}
	if _, err := newReports(ages, bad, hashed(t, 16), textembed.Cache{}, ""); !errors.Is(err, dataset.ErrData) || !strings.Contains(err.Error(), "data.csv:7") {
		t.Errorf("%v; want ErrData with the row", err)
	}
}

func TestOnlyUnmentionedAttributesAreReconstructed(t *testing.T) {
	s := fakeSession(t, config.Classify, lesionSet)
	cases := []dataset.Case{{ID: "a", Attributes: map[string]string{"itch": "yes"}}, {ID: "b", Attributes: map[string]string{"region": "arm"}}}
	r, err := newReports(reportSchema, cases, hashed(t, 8), textembed.Cache{}, "")
	if err != nil {
		t.Fatal(err)
	}
	s.reports, s.Schema = r, reportSchema
	p := []float32{
		0.5, 0.5, 0, 0.25, 0.25, 0.5,
		0.125, 0.875, 0, 0.1, 0.1, 0.8,
	}
	out := make([]Prediction, 2)
	b := &dataset.Batch{Cases: cases}
	if err := s.reconstructions(&pipeline.Run{Outputs: map[string]*tensor.Tensor{"reconstruction": tensor.OfFloat32s(p, 2, 2, 3)}}, b, out); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]Reconstructed{{"region", []string{"face", "arm", "back"}, []float64{0.25, 0.25, 0.5}}}, out[0].Reconstructed); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]Reconstructed{{"itch", []string{"no", "yes"}, []float64{0.125, 0.875}}}, out[1].Reconstructed); diff != "" {
		t.Error(diff)
	}
	err = s.reconstructions(&pipeline.Run{Outputs: map[string]*tensor.Tensor{"reconstruction": tensor.OfFloat32s(p, 2, 3, 2)}}, b, out)
	if err == nil || !strings.Contains(err.Error(), "fusion fuser: forward") {
		t.Errorf("a wrong shape: %v", err)
	}
}

func TestDetectionTableIsWhatTheCommandPromises(t *testing.T) {
	path := filepath.Join(t.TempDir(), "boxes.csv")
	predictions := []Prediction{
		{Case: &dataset.Case{ID: "a, b.png", Patient: "p1"}, Boxes: []Box{{1, 2.5, 3, 4, float64(float32(0.1)), 1}}},
		{Case: &dataset.Case{ID: "c.png"}},
	}
	if err := WritePredictions(path, config.Detect, lesionSet, predictions); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff("image,x1,y1,x2,y2,score,label,patient\n\"a, b.png\",1,2.5,3,4,0.1,tumour,p1\n", string(data)); diff != "" {
		t.Error(diff)
	}
	if err := WritePredictions(filepath.Join(t.TempDir(), "boxes.txt"), config.Detect, lesionSet, predictions); err == nil {
		t.Error("an unknown ending was accepted")
	}
}

func TestIgnoredRegionsNeitherCountNorHurt(t *testing.T) {
	cases := []dataset.Case{{ID: "a", Boxes: []dataset.Box{{X1: 10, Y1: 10, X2: 20, Y2: 20}},
		Ignore: []dataset.IgnoreRegion{{X: 50, Y: 50, Radius: 5}}}, {ID: "b"}}
	predictions := []Prediction{
		{Case: &cases[0], Boxes: []Box{{45, 45, 55, 55, 0.9, 0}, {10, 10, 20, 20, 0.8, 0}}},
		{Case: &cases[1], Boxes: []Box{{1, 1, 5, 5, 0.1, 0}}},
	}
	p := froc.DeepLesion()
	r, err := EvaluateBoxes(cases, predictions, p)
	if err != nil {
		t.Fatal(err)
	}
	if c := r.Counts; c.Lesions != 1 || c.Found != 1 || c.FalsePositives != 1 || c.IgnoredMarks != 1 || c.Images != 2 {
		t.Errorf("%+v; want 1 of 1 lesions, 1 false positive, 1 ignored", c)
	}
}
