package classifier_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/alignedfusion/alignedfusion/plugins/classifier"
	"github.com/alignedfusion/alignedfusion/plugins/internal/stagetest"
	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/safetensors"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

// load puts weights into an opened stage by the way a checkpoint takes.
func load(t testing.TB, s *stagetest.Stage, weights map[string]*tensor.Tensor) {
	t.Helper()
	dir := t.TempDir()
	files, err := s.Stage.(sdk.Saver).Save(context.Background(), dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		if strings.HasPrefix(name, "weights") {
			if err := safetensors.Write(filepath.Join(dir, name), weights, nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := s.Stage.(sdk.Saver).Load(context.Background(), dir, true); err != nil {
		t.Fatal(err)
	}
}

func headRequest(t testing.TB, f *stagetest.Fixture, more map[string]string) sdk.OpenRequest {
	t.Helper()
	var labels []struct {
		Name    string
		Classes []string
		Weights []float64
	}
	if err := json.Unmarshal([]byte(f.Metadata["labels"]), &labels); err != nil {
		t.Fatal(err)
	}
	set := f.Settings()
	maps.Copy(set, more)
	req := sdk.OpenRequest{Stage: "head", Settings: set, Train: true, Inputs: f.Ports()}
	for _, l := range labels {
		req.Labels = append(req.Labels, sdk.LabelSet{Name: l.Name, Classes: l.Classes, ClassWeights: l.Weights})
	}
	return req
}

func TestEq11HeadAgreesWithPyTorch(t *testing.T) {
	for _, name := range []string{"head_linear", "head_mlp_tasks", "head_attributes"} {
		t.Run(name, func(t *testing.T) {
			f := stagetest.Read(t, "testdata/"+name+".safetensors")
			s := stagetest.Open(t, classifier.Plugin(), headRequest(t, f, nil))
			load(t, s, f.Group("param."))
			in := f.Group("in.")
			r := s.Train(1, in)
			for port, want := range f.Group("out.") {
				stagetest.Near(t, port, r.Outputs[port], want, 1e-5)
			}
			want := float64(stagetest.Floats(t, f.Tensors["loss"])[0])
			if got := r.Losses["classification"]; got < want-1e-5 || got > want+1e-5 {
				t.Errorf("loss %g, want %g", got, want)
			}
			grads := s.Backward(nil, map[string]float64{"classification": 1})
			for port, want := range f.Group("grad.in.") {
				stagetest.Near(t, "gradient of "+port, grads[port], want, 1e-5)
			}
			s.StepsByGradients(f.Group("param."), f.Group("grad.param."), 1e-5)
		})
	}
}

func TestEq11ModalitiesArePooledBeforeConcatenation(t *testing.T) {
	// Saying every visual token twice must change nothing: the report keeps its share.
	f := stagetest.Read(t, "testdata/head_linear.safetensors")
	s := stagetest.Open(t, classifier.Plugin(), headRequest(t, f, nil))
	in := f.Group("in.")
	x := in["tokens.photo"]
	n, tokens, c := int(x.Shape[0]), int(x.Shape[1]), int(x.Shape[2])
	v := stagetest.Floats(t, x)
	var twice []float32
	for i := range n {
		row := v[i*tokens*c : (i+1)*tokens*c]
		twice = append(append(twice, row...), row...)
	}
	want := s.Eval(in).Outputs["logits"]
	more := maps.Clone(in)
	more["tokens.photo"] = tensor.OfFloat32s(twice, int64(n), int64(2*tokens), int64(c))
	stagetest.Near(t, "logits", s.Eval(more).Outputs["logits"], want, 1e-5)
}

func TestBatchNormMakesPartsCountAlikeWhateverTheirScale(t *testing.T) {
	f := stagetest.Read(t, "testdata/head_linear.safetensors")
	for norm, alike := range map[string]bool{"batch": true, "layer": false} {
		s := stagetest.Open(t, classifier.Plugin(), headRequest(t, f, map[string]string{"norm": norm}))
		in := f.Group("in.")
		want := s.Train(1, in).Outputs["logits"].Clone()
		s.Release()
		v := stagetest.Floats(t, in["tokens.photo"])
		for i := range v {
			v[i] *= 100
		}
		large := maps.Clone(in)
		large["tokens.photo"] = tensor.OfFloat32s(v, in["tokens.photo"].Shape...)
		got := s.Train(1, large).Outputs["logits"]
		worst := 0.0
		for i, x := range stagetest.Floats(t, got) {
			worst = max(worst, math.Abs(float64(x-stagetest.Floats(t, want)[i])))
		}
		s.Release()
		if (worst < 1e-4) != alike {
			t.Errorf("norm=%s: logits of a photo with a hundred times larger tokens differ by %g", norm, worst)
		}
	}
}

func TestBatchNormRefusesATrainingBatchOfOne(t *testing.T) {
	f := stagetest.Read(t, "testdata/head_linear.safetensors")
	s := stagetest.Open(t, classifier.Plugin(), headRequest(t, f, map[string]string{"norm": "batch"}))
	one := map[string]*tensor.Tensor{}
	for name, x := range f.Group("in.") {
		size := len(x.Data) / int(x.Shape[0])
		shape := slices.Clone(x.Shape)
		shape[0] = 1
		one[name] = &tensor.Tensor{DType: x.DType, Shape: shape, Data: x.Data[:size]}
	}
	if _, err := s.TryForward(true, 1, one); err == nil || !strings.Contains(err.Error(), "want 2 or more") {
		t.Errorf("error %v", err)
	}
	if _, err := s.TryForward(false, 1, one); err != nil {
		t.Errorf("one case in EVAL mode: %v", err)
	}
}

func TestHeadWithoutKnownLabelsHasALossOfZero(t *testing.T) {
	f := stagetest.Read(t, "testdata/head_linear.safetensors")
	req := headRequest(t, f, nil)
	req.Labels[0].ClassWeights = []float64{1, 0, 1} // class b is absent from training
	s := stagetest.Open(t, classifier.Plugin(), req)
	for _, labels := range [][]int64{{-1, -1, -1, -1, -1}, {1, 1, -1, 1, 1}} {
		in := maps.Clone(f.Group("in."))
		in["target.label"] = tensor.OfInt64s(labels, 5)
		if loss, there := s.Eval(in).Losses["classification"]; loss != 0 || !there {
			t.Errorf("labels %v: loss %v (%v), want 0", labels, loss, there)
		}
	}
	in := maps.Clone(f.Group("in."))
	in["target.label"] = tensor.OfInt64s([]int64{0, 1, 2, 3, 0}, 5)
	if _, err := s.TryForward(false, 1, in); err == nil || !strings.Contains(err.Error(), "case 3 is 3, want -1 (unknown) to 2") {
		t.Errorf("unknown label: error %v", err)
	}
}

// The focal loss is Lin et al. 2017, eq. 5, with the class weights as alpha, computed here in
// float64 from the logits the head gives; its gradients are those of finite differences.
func TestFocalLossIsItsEquation(t *testing.T) {
	f := stagetest.Read(t, "testdata/head_linear.safetensors")
	labels := []int64{0, 1, 2, -1, 1}
	weights := []float64{1, 4, 0.5}
	for _, gamma := range []float64{1e-9, 0.5, 2} {
		req := headRequest(t, f, map[string]string{"focal_gamma": fmt.Sprint(gamma), "label_smoothing": "0", "dropout": "0"})
		req.Labels[0].ClassWeights = weights
		s := stagetest.Open(t, classifier.Plugin(), req)
		load(t, s, f.Group("param."))
		in := maps.Clone(f.Group("in."))
		in["target.label"] = tensor.OfInt64s(labels, 5)
		equation := func(logits []float32) float64 {
			loss, sum := 0.0, 0.0
			for i, label := range labels {
				if label < 0 {
					continue
				}
				total := 0.0
				for _, x := range logits[3*i : 3*i+3] {
					total += math.Exp(float64(x))
				}
				p := math.Exp(float64(logits[3*i+int(label)])) / total
				loss -= weights[label] * math.Pow(1-p, gamma) * math.Log(p)
				sum += weights[label]
			}
			return loss / sum
		}
		r := s.Train(1, in)
		want := equation(stagetest.Floats(t, r.Outputs["logits"]))
		if got := r.Losses["classification"]; math.Abs(got-want) > 1e-6 {
			t.Errorf("gamma %g: loss %g, want %g", gamma, got, want)
		}
		grads := s.Backward(nil, map[string]float64{"classification": 1})
		for port, grad := range grads {
			x := stagetest.Floats(t, in[port])
			moved := func(i int, by float32) float64 {
				there := maps.Clone(in)
				values := slices.Clone(x)
				values[i] += by
				there[port] = tensor.OfFloat32s(values, in[port].Shape...)
				return equation(stagetest.Floats(t, s.Eval(there).Outputs["logits"]))
			}
			for _, i := range []int{0, len(x) / 2, len(x) - 1} {
				const h = 1.0 / 64
				high, low := moved(i, h), moved(i, -h)
				if got, want := float64(stagetest.Floats(t, grad)[i]), (high-low)/(2*h); math.Abs(got-want) > 1e-4 {
					t.Errorf("gamma %g: d loss / d %s[%d] = %g, finite differences give %g", gamma, port, i, got, want)
				}
			}
		}
	}
	req := headRequest(t, f, map[string]string{"focal_gamma": "2", "label_smoothing": "0.1"})
	if _, err := stagetest.TryOpen(t, classifier.Plugin(), req); err == nil || !strings.Contains(err.Error(), "label_smoothing (0.1) cannot both be given") {
		t.Errorf("both: error %v", err)
	}
}
