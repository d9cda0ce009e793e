package fusions_test

import (
	"bytes"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/alignedfusion/alignedfusion/plugins/fusions"
	"github.com/alignedfusion/alignedfusion/plugins/internal/stagetest"
	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/conformance"
	"github.com/alignedfusion/alignedfusion/sdk/plugintest"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

var labels = []sdk.LabelSet{{Name: "diagnosis", Classes: []string{"a", "b", "c"}}}

func names() (out []string) {
	for _, s := range fusions.Named("fusions").Manifest.Stages {
		out = append(out, s.Name)
	}
	return out
}

func open(t *testing.T, name string, more map[string]string) (*stagetest.Stage, *stagetest.Fixture) {
	t.Helper()
	f := stagetest.Read(t, "testdata/"+name+".safetensors")
	set := f.Settings()
	set["weights"] = stagetest.WriteWeights(t, f.Group("param."))
	maps.Copy(set, more)
	return stagetest.Open(t, fusions.Named(name), sdk.OpenRequest{Stage: "fusion", Settings: set, Train: true, Inputs: f.Ports(),
		AttributeSchema: []byte(f.Metadata["schema"]), Labels: labels}), f
}

// Every fusion is its equation: outputs, loss, and the gradients of inputs and of
// parameters, against PyTorch.
func TestEveryFusionAgreesWithItsEquationInPyTorch(t *testing.T) {
	for _, name := range names() {
		t.Run(name, func(t *testing.T) {
			s, f := open(t, name, nil)
			in := f.Group("in.")
			for mode, r := range map[string]*sdk.ForwardResponse{"eval": s.Eval(in), "train": s.Train(1, in)} {
				for port, want := range f.Group("out.") {
					stagetest.Near(t, mode+" "+port, r.Outputs[port], want, 1e-5)
				}
				if want, ok := f.Tensors["loss"]; ok {
					got := tensor.OfFloat32s([]float32{float32(r.Losses["decisions"])})
					stagetest.Near(t, mode+" loss", got, want, 1e-5)
				}
			}
			grads := s.Backward(f.Group("grad.out."), map[string]float64{"decisions": 1})
			for port, want := range f.Group("grad.in.") {
				stagetest.Near(t, "gradient of "+port, grads[port], want, 1e-4)
			}
			s.StepsByGradients(f.Group("param."), f.Group("grad.param."), 1e-4)
		})
	}
}

// The one with a loss and the one with layers of its own; `plugin validate fusions` takes
// all of them, a minute long.
func TestConformance(t *testing.T) {
	small := map[string]map[string]string{"late": {"width": "4"}, "crossattn": {"width": "4", "heads": "2", "layers": "1", "dropout": "0"}}
	for name := range small {
		t.Run(name, func(t *testing.T) {
			plugintest.Conformance(t, fusions.Named(name), conformance.Options{
				Settings: map[string]map[string]string{"fusion": small[name]},
				Shapes: map[string]map[string][]int64{"fusion": {
					"tokens.image": {2, 3, 4}, "tokens.other": {2, 2, 5},
					"report.embedding": {2, 2, 6}, "report.state": {2, 2}, "report.value": {2, 2},
				}},
				Labels:     map[string][]sdk.LabelSet{"fusion": labels},
				Iterations: 40,
				AttributeSchema: []byte(`{"schema_version": 1, "attributes": [
					{"name": "a", "kind": "binary", "values": ["no", "yes"]},
					{"name": "b", "kind": "categorical", "values": ["x", "y", "z"]}]}`),
			})
		})
	}
}

// Without a report, and with one modality alone, every fusion still fuses what there is.
func TestEveryFusionDoesWithOneStream(t *testing.T) {
	image := map[string]*tensor.Tensor{"tokens.image": tensor.OfFloat32s([]float32{1, 2, 3, 4, 5, 6}, 1, 3, 2)}
	for _, name := range names() {
		set := map[string]string{"width": "8"}
		s := stagetest.Open(t, fusions.Named(name), sdk.OpenRequest{Stage: "fusion", Settings: set, Labels: labels,
			Inputs: []sdk.Port{{Name: "tokens.image", DType: tensor.FP32, Shape: []string{"N", "3", "2"}}}})
		if got := s.Eval(image).Outputs["joint"]; got == nil || got.Shape[0] != 1 {
			t.Errorf("%s: joint is %v", name, got)
		}
	}
}

func TestLateGivesTheHeadItsDecisionAlone(t *testing.T) {
	s, f := open(t, "late", map[string]string{"alone": "true"})
	in := f.Group("in.")
	r := s.Eval(in)
	for port := range f.Group("out.") {
		zero := !slices.ContainsFunc(stagetest.Floats(t, r.Outputs[port]), func(v float32) bool { return v != 0 })
		if zero == (port == "joint") {
			t.Errorf("%s is zero: %v", port, zero)
		}
	}
	in["target.label"] = tensor.OfInt64s([]int64{-1, -1, -1}, 3)
	if loss, there := s.Eval(in).Losses["decisions"]; loss != 0 || !there {
		t.Errorf("nothing is known: loss %v (%v), want 0", loss, there)
	}
	in["target.label"] = tensor.OfInt64s([]int64{0, 3, 1}, 3)
	if _, err := s.TryForward(false, 1, in); err == nil || !strings.Contains(err.Error(), "case 1 is 3, want -1 (unknown) to 2") {
		t.Errorf("unknown class: %v", err)
	}
}

func TestSettingsThatKeepStreamsApartAreRefused(t *testing.T) {
	ports := []sdk.Port{{Name: "tokens.image", DType: tensor.FP32, Shape: []string{"N", "3", "2"}}}
	for _, c := range []struct{ name, key, value, want string }{
		{"mbt", "start_layer", "2", "want less than layers=2"},
		{"mbt", "heads", "7", "want a divisor of width=256"},
		{"crossattn", "heads", "7", "want a divisor of width=256"},
	} {
		_, err := stagetest.TryOpen(t, fusions.Named(c.name), sdk.OpenRequest{Stage: "fusion", Settings: map[string]string{c.key: c.value}, Inputs: ports})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s %s=%s: %v", c.name, c.key, c.value, err)
		}
	}
}

// The guide shows a further fusion as a program of its own, as it stands.
func TestTheNinthFusionOfTheGuideCompiles(t *testing.T) {
	program, err := os.ReadFile("testdata/ninth/main.go")
	if err != nil {
		t.Fatal(err)
	}
	guide, err := os.ReadFile("../../docs/how-to/write-a-plugin.md")
	if err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(program, []byte("\n")); n > 60 || !bytes.Contains(guide, append([]byte("```go\n"), program...)) {
		t.Errorf("%d lines, want at most 60 and these in docs/how-to/write-a-plugin.md", n)
	}
	if out, err := exec.Command("go", "vet", "./testdata/ninth").CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestLateWeighsDecisionsBetweenClassesAlone(t *testing.T) {
	for _, asked := range []string{sdk.AsksNumber, sdk.AsksTime} {
		request := sdk.OpenRequest{Stage: "fusion", Settings: map[string]string{"width": "8"},
			Labels: []sdk.LabelSet{labels[0], {Name: "size_mm", Question: asked}},
			Inputs: []sdk.Port{{Name: "tokens.image", DType: tensor.FP32, Shape: []string{"N", "3", "2"}}}}
		if _, err := stagetest.TryOpen(t, fusions.Named("late"), request); err == nil || !strings.Contains(err.Error(), `"size_mm" has no classes to decide between (`+asked) {
			t.Errorf("%s: %v", asked, err)
		}
	}
}
