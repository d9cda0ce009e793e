package pipeline

import (
	"context"
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/plugintest/toy"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

// source wraps a stage of the toy plugin.
func source(role sdk.Kind, stage string, settings map[string]string) Source {
	m := toy.Manifest()
	for _, s := range m.Stages {
		if s.Name == stage {
			return Source{
				Role: role, Plugin: "toy", Process: "toy", Stage: s, Settings: settings,
				Open: func(ctx context.Context, req *sdk.OpenRequest) (Instance, *sdk.OpenResponse, error) {
					return toy.Open(ctx, req)
				},
			}
		}
	}
	panic("no stage " + stage)
}

var (
	imagePort = sdk.Port{Name: "image.rgb", DType: tensor.FP32, Shape: []string{"N", "3", "32", "32"}}
	hostPorts = []sdk.Port{
		imagePort,
		{Name: "image.depth", DType: tensor.FP32, Shape: []string{"N", "3", "32", "32"}},
		{Name: "report.state", DType: tensor.Int8, Shape: []string{"N", "2"}},
		{Name: "report.value", DType: tensor.Int64, Shape: []string{"N", "2"}},
		{Name: "target.label", DType: tensor.Int64, Shape: []string{"N"}},
	}
	base = sdk.OpenRequest{
		Task: "classify", Seed: 3, Train: true, Group: "test",
		Labels:    []sdk.LabelSet{{Name: "diagnosis", Classes: []string{"a", "b", "c"}}},
		Optimizer: sdk.Optimizer{Name: "sgd", Values: map[string]float64{"momentum": 0.9}},
	}
)

func openClassifier(t *testing.T, fusion bool, encoder map[string]string) *Pipeline {
	t.Helper()
	sources := []Source{source(sdk.KindEncoder, "encoder", encoder)}
	if fusion {
		sources = append(sources, source(sdk.KindFusion, "fusion", nil))
	}
	sources = append(sources, source(sdk.KindHead, "classifier", nil))
	req := base
	req.Constants = map[string]*tensor.Tensor{"value.embedding": tensor.OfFloat32s(make([]float32, 2*3*4), 2, 3, 4)}
	p, err := Open(t.Context(), sources, hostPorts, req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// batch makes n cases whose numbers are a function of seed.
func batch(n int, seed uint64) Batch {
	pixels := func(part string) *tensor.Tensor {
		v := make([]float32, n*3*32*32)
		for i := range v {
			v[i] = float32(Seed(seed, part, i)%1000) / 1000
		}
		return tensor.OfFloat32s(v, int64(n), 3, 32, 32)
	}
	var ids []string
	var states []int8
	var values, labels []int64
	for i := range n {
		ids = append(ids, string(rune('a'+i)))
		for a := range 2 {
			states = append(states, int8(Seed(seed, "state", i, a)%4))
			values = append(values, int64(Seed(seed, "value", i, a)%4)-1)
		}
		labels = append(labels, int64(Seed(seed, "label", i)%3))
	}
	return Batch{IDs: ids, Inputs: map[string]*tensor.Tensor{
		"image.rgb": pixels("rgb"), "image.depth": pixels("depth"),
		"report.state": tensor.OfInt8s(states, int64(n), 2), "report.value": tensor.OfInt64s(values, int64(n), 2),
		"target.label": tensor.OfInt64s(labels, int64(n)),
	}}
}

// lossAndNorm runs forward and backward once and returns the loss and the gradient norm.
func lossAndNorm(t *testing.T, p *Pipeline, b Batch, weights map[string]float64) (float64, float64) {
	t.Helper()
	s := &Stepper{Pipeline: p, Seed: 1, LossWeights: weights}
	values := map[sdk.Kind]map[string]float64{}
	for _, m := range p.Members {
		values[m.Role] = map[string]float64{"learning_rate": 0}
	}
	r, err := s.Step(t.Context(), 0, []Batch{b}, values)
	if err != nil {
		t.Fatal(err)
	}
	return r.Loss, r.GradNorm
}

// A step of length e along -gradient lowers the loss by e*norm to first order: the
// gradient that went head -> fusion -> encoder is that of the whole pipeline.
func TestGradientOfTheWholePipelineEqualsFiniteDifference(t *testing.T) {
	for _, fusion := range []bool{false, true} {
		const e = 1e-3
		b := batch(3, 5)
		weights := map[string]float64{"reconstruction": 0.7}
		p := openClassifier(t, fusion, map[string]string{"noise": "0"})
		before, norm := lossAndNorm(t, p, b, weights)
		p = openClassifier(t, fusion, map[string]string{"noise": "0"}) // the same weights, no momentum yet
		values := map[sdk.Kind]map[string]float64{}
		for _, m := range p.Members {
			values[m.Role] = map[string]float64{"learning_rate": e / norm}
		}
		s := &Stepper{Pipeline: p, Seed: 1, LossWeights: weights}
		if _, err := s.Step(t.Context(), 0, []Batch{b}, values); err != nil {
			t.Fatal(err)
		}
		after, _ := lossAndNorm(t, p, b, weights)
		if got := (before - after) / e; math.Abs(got-norm) > 0.02*norm {
			t.Errorf("fusion %v: loss fell by %g per unit along the gradient, norm is %g", fusion, got, norm)
		}
	}
}

// One step on two micro-batches of 2 is one step on their 4 cases: the loss is a mean.
func TestAccumulationEqualsTheLargerBatch(t *testing.T) {
	settings := map[string]string{"noise": "0"}
	whole, parts := openClassifier(t, false, settings), openClassifier(t, false, settings)
	b := batch(4, 9)
	half := func(from int64) Batch {
		out := Batch{IDs: b.IDs[from : from+2], Inputs: map[string]*tensor.Tensor{}}
		for name, x := range b.Inputs {
			row := int64(len(x.Data)) / 4
			shape := append([]int64{2}, x.Shape[1:]...)
			out.Inputs[name] = (&tensor.Tensor{DType: x.DType, Shape: shape, Data: x.Data[from*row : (from+2)*row]}).Clone()
		}
		return out
	}
	values := map[sdk.Kind]map[string]float64{"encoder": {"learning_rate": .1}, "head": {"learning_rate": .1}}
	for step := range 3 {
		a, err := (&Stepper{Pipeline: whole, Seed: 1}).Step(t.Context(), step, []Batch{b}, values)
		if err != nil {
			t.Fatal(err)
		}
		c, err := (&Stepper{Pipeline: parts, Seed: 1}).Step(t.Context(), step, []Batch{half(0), half(2)}, values)
		if err != nil {
			t.Fatal(err)
		}
		if math.Abs(a.Loss-c.Loss) > 1e-6 || math.Abs(a.GradNorm-c.GradNorm) > 1e-6 {
			t.Fatalf("step %d: loss %g norm %g, in two parts %g and %g", step, a.Loss, a.GradNorm, c.Loss, c.GradNorm)
		}
	}
}

func TestGlobalNormClippingScalesEveryStageByOneNumber(t *testing.T) {
	b := batch(3, 2)
	free, clipped := openClassifier(t, true, nil), openClassifier(t, true, nil)
	lr := map[string]float64{"learning_rate": 1}
	values := map[sdk.Kind]map[string]float64{"encoder": lr, "fusion": lr, "head": lr}
	a, err := (&Stepper{Pipeline: free, Seed: 1}).Step(t.Context(), 0, []Batch{b}, values)
	if err != nil {
		t.Fatal(err)
	}
	c, err := (&Stepper{Pipeline: clipped, Seed: 1, ClipNorm: a.GradNorm / 4}).Step(t.Context(), 0, []Batch{b}, values)
	if err != nil {
		t.Fatal(err)
	}
	if a.Scale != 1 || math.Abs(c.Scale-0.25) > 1e-12 || a.GradNorm != c.GradNorm {
		t.Errorf("scale %g and %g, norms %g and %g; want 1 and 0.25 and equal norms", a.Scale, c.Scale, a.GradNorm, c.GradNorm)
	}
}

func TestNotFiniteIsSkippedOnceThenStopsWithTheIDs(t *testing.T) {
	for _, c := range []struct {
		count   string
		stopsAt int // -1: never
	}{{"1", -1}, {"2", 3}} {
		p := openClassifier(t, true, map[string]string{"fault": "nan", "fault_call": "3", "fault_count": c.count})
		s := &Stepper{Pipeline: p, Seed: 1}
		lr := map[string]float64{"learning_rate": 0.01}
		values := map[sdk.Kind]map[string]float64{"encoder": lr, "fusion": lr, "head": lr}
		for step := range 6 {
			r, err := s.Step(t.Context(), step, []Batch{batch(2, uint64(step))}, values)
			if step == c.stopsAt {
				if !errors.Is(err, ErrNotFinite) || !strings.Contains(err.Error(), "cases a, b") || !strings.Contains(err.Error(), "of head toy") {
					t.Fatalf("step %d: %v, want ErrNotFinite with the stage and the cases", step, err)
				}
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if skipped := step == 2 || (c.stopsAt > 0 && step == 3); r.Skipped != skipped {
				t.Errorf("step %d: skipped %v", step, r.Skipped)
			}
			if !r.Skipped && math.IsNaN(r.Loss) {
				t.Errorf("step %d: a skipped step left NaN behind", step)
			}
		}
	}
}

func TestPortsThatDoNotFitNameBothPlugins(t *testing.T) {
	encoder, fusion, head := source(sdk.KindEncoder, "encoder", nil), source(sdk.KindFusion, "fusion", nil), source(sdk.KindHead, "classifier", nil)
	other := func(s Source, change func(*sdk.StageManifest)) Source {
		s.Plugin, s.Process = "other", "other"
		s.Stage.Inputs = append([]sdk.Port(nil), s.Stage.Inputs...)
		change(&s.Stage)
		return s
	}
	for _, c := range []struct {
		name    string
		sources []Source
		task    string
		want    []string
	}{
		{"rank", []Source{encoder, fusion, other(head, func(m *sdk.StageManifest) { m.Inputs[1].Shape = []string{"N", "T", "C"} })}, "classify",
			[]string{"head other", `"joint" is FP32 [N C] from fusion toy`, "want FP32 [N T C]"}},
		{"dtype", []Source{encoder, other(head, func(m *sdk.StageManifest) { m.Inputs[0].DType = tensor.FP64 })}, "classify",
			[]string{"head other", `"tokens.depth" is FP32 [N T C] from encoder toy`, "want FP64"}},
		{"missing", []Source{encoder, other(head, func(m *sdk.StageManifest) { m.Inputs[1].Required = true })}, "classify",
			[]string{"head other", `"joint" is given by nothing before it, which is encoder toy`, "on offer: grid, image.depth"}},
		{"task", []Source{encoder, source(sdk.KindHead, "detector", nil)}, "classify", []string{"made for detect, not for classify"}},
		{"kind", []Source{{Role: sdk.KindHead, Plugin: "toy", Stage: fusion.Stage}}, "classify", []string{"of kind fusion, want head"}},
		{"resident", []Source{encoder, other(source(sdk.KindHead, "detector", nil), func(*sdk.StageManifest) {})}, "detect",
			[]string{"head other", `"grid" is INT64 [4] from encoder toy`, "same plugin"}},
	} {
		opened := 0
		for i := range c.sources {
			c.sources[i].Open = func(context.Context, *sdk.OpenRequest) (Instance, *sdk.OpenResponse, error) {
				opened++
				return nil, nil, errors.New("opened")
			}
		}
		req := base
		req.Task = c.task
		_, err := Open(t.Context(), c.sources, hostPorts, req)
		if err == nil {
			t.Errorf("%s: accepted", c.name)
			continue
		}
		for _, w := range c.want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: %v; want it to say %q", c.name, err, w)
			}
		}
		if opened > 0 {
			t.Errorf("%s: a stage was opened before the ports were checked", c.name)
		}
	}
}

func TestSizesAreCheckedAgainAfterOpening(t *testing.T) {
	head := source(sdk.KindHead, "classifier", nil)
	open := head.Open
	head.Open = func(ctx context.Context, req *sdk.OpenRequest) (Instance, *sdk.OpenResponse, error) {
		in, resp, err := open(ctx, req)
		if err == nil {
			resp.Inputs[0].Shape = []string{"N", "T", "7"}
		}
		return in, resp, err
	}
	_, err := Open(t.Context(), []Source{source(sdk.KindEncoder, "encoder", nil), head}, hostPorts, base)
	var ports *PortError
	if !errors.As(err, &ports) || ports.Given != "FP32 [N T 6]" || !strings.HasPrefix(ports.Wanted, "FP32 [N T 7]") {
		t.Errorf("%v; want a PortError about 6 and 7", err)
	}
}

// The toy encoder declares tokens.* and says only when opened that it makes tokens.ct.
func TestFamilyWhoseMembersAreKnownAfterOpening(t *testing.T) {
	ports := []sdk.Port{
		{Name: "volume", DType: tensor.FP32, Shape: []string{"N", "1", "D", "H", "W"}},
		{Name: "report.state", DType: tensor.Int8, Shape: []string{"N", "2"}},
		{Name: "target.boxes", DType: tensor.FP32, Shape: []string{"M", "4"}},
		{Name: "target.image", DType: tensor.Int32, Shape: []string{"M"}},
	}
	exact := source(sdk.KindHead, "detector", nil)
	exact.Stage.Inputs = append([]sdk.Port(nil), exact.Stage.Inputs...)
	exact.Stage.Inputs[0].Name = "tokens.ct"
	for _, head := range []Source{source(sdk.KindHead, "detector", nil), exact} {
		req := base
		req.Task = "detect"
		req.Constants = map[string]*tensor.Tensor{"value.embedding": tensor.OfFloat32s(make([]float32, 2*3*4), 2, 3, 4)}
		p, err := Open(t.Context(), []Source{source(sdk.KindEncoder, "encoder", nil), source(sdk.KindFusion, "fusion", nil), head}, ports, req)
		if err != nil {
			t.Fatal(err)
		}
		pixels := make([]float32, 2*32*48)
		for i := range pixels {
			pixels[i] = float32(Seed(1, i)%100) / 100
		}
		b := Batch{IDs: []string{"a", "b"}, Inputs: map[string]*tensor.Tensor{
			"volume":       tensor.OfFloat32s(pixels, 2, 1, 1, 32, 48),
			"target.boxes": tensor.OfFloat32s([]float32{4, 4, 12, 12}, 1, 4), "target.image": tensor.OfInt32s([]int32{1}),
			"report.state": tensor.OfInt8s([]int8{0, 1, 1, 2}, 2, 2),
		}}
		if _, norm := lossAndNorm(t, p, b, nil); !(norm > 0) {
			t.Errorf("gradient norm %g", norm)
		}
		delete(b.Inputs, "target.boxes") // images without lesions train too
		delete(b.Inputs, "target.image")
		run, err := p.Forward(t.Context(), ForwardOptions{}, b.Inputs)
		if err != nil {
			t.Fatal(err)
		}
		if got := run.Outputs["boxes"].String(); got != "FP32 [12 4]" {
			t.Errorf("boxes are %s, want one per cell", got)
		}
		if err := run.Release(t.Context()); err != nil {
			t.Error(err)
		}
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestUnknownSettingSuggestsTheNearest(t *testing.T) {
	_, err := Open(t.Context(), []Source{source(sdk.KindEncoder, "encoder", map[string]string{"widht": "3"}), source(sdk.KindHead, "classifier", nil)}, hostPorts, base)
	var settings *SettingsError
	if !errors.As(err, &settings) || !strings.Contains(err.Error(), `encoder toy: unknown setting "widht", did you mean "width"`) {
		t.Error(err)
	}
}

// refusing is a stage that takes no batch.
type refusing struct{ Instance }

func (refusing) ForwardBackward(context.Context, *sdk.ForwardRequest, *sdk.BackwardRequest) (*sdk.ForwardResponse, *sdk.BackwardResponse, error) {
	return nil, nil, sdk.Errorf(sdk.Internal, "diverged")
}

func TestRefusedBatchIsNamed(t *testing.T) {
	p := openClassifier(t, false, nil)
	head := p.Member(sdk.KindHead)
	head.Instance = refusing{head.Instance}
	_, err := (&Stepper{Pipeline: p, Seed: 1}).Step(t.Context(), 4, []Batch{batch(2, 1)}, nil)
	if err == nil || !strings.HasPrefix(err.Error(), "step 5, the batch with cases a, b: head toy: forward: ") {
		t.Errorf("%v; want it to name step and cases", err)
	}
	var stage *StageError
	if !errors.As(err, &stage) || stage.Role != sdk.KindHead {
		t.Errorf("%v hides the head's error", err)
	}
}

func TestFailingForwardReleasesTheOpenContexts(t *testing.T) {
	p := openClassifier(t, false, nil)
	b := batch(2, 1)
	b.Inputs["target.label"] = tensor.OfFloat32s([]float32{1, 2}, 2) // a dtype the head cannot read
	_, err := p.Forward(t.Context(), ForwardOptions{Train: true}, b.Inputs)
	var stage *StageError
	if !errors.As(err, &stage) || stage.Role != sdk.KindHead || stage.Call != "forward" {
		t.Fatalf("%v; want a StageError of the head's forward", err)
	}
	_, err = p.Member(sdk.KindEncoder).Instance.Backward(t.Context(), &sdk.BackwardRequest{Context: 1})
	if sdk.CodeOf(err) != sdk.NotFound {
		t.Errorf("the encoder's context is still open: %v", err)
	}
}

func TestSeedsDifferByEveryPart(t *testing.T) {
	seen := map[uint64]string{}
	for run := range uint64(20) {
		for step := range 20 {
			for _, role := range []string{"encoder", "fusion", "head"} {
				s := Seed(run, "step", step, role)
				at := role
				if _, dup := seen[s]; dup {
					t.Fatalf("seed %d twice", s)
				}
				seen[s] = at
			}
		}
	}
	if Seed(1, "a", "bc") == Seed(1, "ab", "c") {
		t.Error("names run together")
	}
}
