// Package stagetest opens a plugin's stages in the test's own process and compares
// them with reference values.
package stagetest

import (
	"context"
	"encoding/json"
	"math"
	"math/rand/v2"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"testing"

	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/ports"
	"github.com/alignedfusion/alignedfusion/sdk/safetensors"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

// Stage is an opened stage under test. Its methods end the test on an error.
type Stage struct {
	sdk.Stage
	Response *sdk.OpenResponse
	t        testing.TB
	context  uint64
}

// Open opens a stage with one thread on the CPU. req.Settings holds only what
// differs from the defaults.
func Open(t testing.TB, p sdk.Plugin, req sdk.OpenRequest) *Stage {
	t.Helper()
	s, err := TryOpen(t, p, req)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	return s
}

// TryOpen is Open for tests of errors.
func TryOpen(t testing.TB, p sdk.Plugin, req sdk.OpenRequest) (*Stage, error) {
	t.Helper()
	for _, m := range p.Manifest.Stages {
		if m.Name != req.Stage {
			continue
		}
		resolved, err := sdk.ResolveSettings(m.Settings, req.Settings)
		if err != nil {
			return nil, err
		}
		req.Settings = resolved
	}
	if req.Device == "" {
		req.Device = "cpu"
	}
	if req.Threads == 0 {
		req.Threads = 1
	}
	if req.Optimizer.Name == "" {
		req.Optimizer = sdk.Optimizer{Name: "sgd", Values: map[string]float64{"momentum": 0, "weight_decay": 0, "nesterov": 0}}
	}
	stage, resp, err := p.Open(context.Background(), &req)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() {
		if err := stage.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return &Stage{Stage: stage, Response: resp, t: t}, nil
}

func newOutput(_ string, dtype tensor.DType, shape ...int64) (*tensor.Tensor, error) {
	return tensor.New(dtype, shape...)
}

// TryForward runs the stage; a TRAIN context stays open.
func (s *Stage) TryForward(train bool, seed uint64, inputs map[string]*tensor.Tensor) (*sdk.ForwardResponse, error) {
	s.context++
	needs := map[string]bool{}
	for name, in := range inputs {
		if train && in.DType == tensor.FP32 && ports.Named(name).Differentiable {
			needs[name] = true
		}
	}
	return s.Forward(context.Background(), &sdk.ForwardRequest{
		Context: s.context, Train: train, Seed: seed, Inputs: inputs, NeedsGrad: needs, Wanted: map[string]bool{}, NewOutput: newOutput,
	})
}

// Eval runs the stage in EVAL mode.
func (s *Stage) Eval(inputs map[string]*tensor.Tensor) *sdk.ForwardResponse {
	s.t.Helper()
	r, err := s.TryForward(false, 1, inputs)
	if err != nil {
		s.t.Fatalf("forward: %v", err)
	}
	return r
}

// Train runs the stage in TRAIN mode and leaves the context open.
func (s *Stage) Train(seed uint64, inputs map[string]*tensor.Tensor) *sdk.ForwardResponse {
	s.t.Helper()
	r, err := s.TryForward(true, seed, inputs)
	if err != nil {
		s.t.Fatalf("forward: %v", err)
	}
	return r
}

// Backward closes the context of the last Train.
func (s *Stage) Backward(grads map[string]*tensor.Tensor, losses map[string]float64) map[string]*tensor.Tensor {
	s.t.Helper()
	r, err := s.Stage.(sdk.Trainer).Backward(context.Background(), &sdk.BackwardRequest{
		Context: s.context, OutputGrads: grads, LossWeights: losses, NewOutput: newOutput,
	})
	if err != nil {
		s.t.Fatalf("backward: %v", err)
	}
	return r.InputGrads
}

// Release closes the context of the last Train without gradients.
func (s *Stage) Release() {
	s.t.Helper()
	if err := s.Stage.(sdk.Trainer).Release(context.Background(), s.context); err != nil {
		s.t.Fatalf("release: %v", err)
	}
}

// Step applies the optimizer with a learning rate, and clears the gradients.
func (s *Stage) Step(rate float64) {
	s.t.Helper()
	trainer := s.Stage.(sdk.Trainer)
	err := trainer.Step(context.Background(), &sdk.StepRequest{Values: map[string]float64{"learning_rate": rate}, GradientScale: 1})
	if err == nil {
		err = trainer.ZeroGrad(context.Background())
	}
	if err != nil {
		s.t.Fatalf("step: %v", err)
	}
}

// StepsByGradients takes a step of plain SGD with rate 1, which moves every weight by its
// gradient, and fails unless it has moved those of before by the gradients that are wanted,
// by name; tolerance is Near's. It returns the weights after the step.
func (s *Stage) StepsByGradients(before, want map[string]*tensor.Tensor, tolerance float64) (after map[string]*tensor.Tensor) {
	s.t.Helper()
	s.Step(1)
	after = s.Weights()
	for name, gradient := range want {
		moved, left := Floats(s.t, before[name]), Floats(s.t, after[name])
		for i := range moved {
			moved[i] -= left[i]
		}
		Near(s.t, "gradient of "+name, tensor.OfFloat32s(moved, gradient.Shape...), gradient, tolerance)
	}
	return after
}

// Weights saves the stage and reads its weights back.
func (s *Stage) Weights() map[string]*tensor.Tensor {
	s.t.Helper()
	dir := s.t.TempDir()
	files, err := s.Stage.(sdk.Saver).Save(context.Background(), dir)
	if err != nil {
		s.t.Fatalf("save: %v", err)
	}
	out := map[string]*tensor.Tensor{}
	for _, name := range files {
		if strings.HasPrefix(name, "weights") && strings.HasSuffix(name, ".safetensors") {
			for k, v := range Read(s.t, filepath.Join(dir, name)).Tensors {
				out[k] = v
			}
		}
	}
	return out
}

// Fixture is a file of reference values written by fixture.py.
type Fixture struct {
	Tensors  map[string]*tensor.Tensor
	Metadata map[string]string
	t        testing.TB
}

// Read loads a file.
func Read(t testing.TB, path string) *Fixture {
	t.Helper()
	f, err := safetensors.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	out := &Fixture{Tensors: map[string]*tensor.Tensor{}, Metadata: f.Metadata(), t: t}
	for _, name := range f.Names() {
		if out.Tensors[name], err = f.Tensor(name); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// Settings parses the metadata entry settings.
func (f *Fixture) Settings() sdk.Settings {
	f.t.Helper()
	out := sdk.Settings{}
	if err := json.Unmarshal([]byte(f.Metadata["settings"]), &out); err != nil {
		f.t.Fatal(err)
	}
	return out
}

// Ports declares the tensors under "in." as inputs, with every size but the first known.
func (f *Fixture) Ports() []sdk.Port {
	var ports []sdk.Port
	for name, x := range f.Group("in.") {
		shape := []string{"N"}
		for _, n := range x.Shape[1:] {
			shape = append(shape, strconv.FormatInt(n, 10))
		}
		ports = append(ports, sdk.Port{Name: name, DType: x.DType, Shape: shape})
	}
	sort.Slice(ports, func(i, j int) bool { return ports[i].Name < ports[j].Name })
	return ports
}

// Group returns the tensors under a prefix, without the prefix.
func (f *Fixture) Group(prefix string) map[string]*tensor.Tensor {
	out := map[string]*tensor.Tensor{}
	for name, v := range f.Tensors {
		if rest, ok := strings.CutPrefix(name, prefix); ok {
			out[rest] = v
		}
	}
	return out
}

// WriteWeights stores tensors as a safetensors file and returns its path.
func WriteWeights(t testing.TB, tensors map[string]*tensor.Tensor) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "weights.safetensors")
	if err := safetensors.Write(path, tensors, nil); err != nil {
		t.Fatal(err)
	}
	return path
}

// Floats returns a copy of an FP32 tensor's values.
func Floats(t testing.TB, x *tensor.Tensor) []float32 {
	t.Helper()
	if x == nil {
		t.Fatal("no tensor, want FP32")
	}
	v, err := x.Float32s()
	if err != nil {
		t.Fatal(err)
	}
	return append([]float32(nil), v...)
}

// Near fails unless got and want agree within tolerance·(1 + largest |want|).
func Near(t testing.TB, name string, got, want *tensor.Tensor, tolerance float64) {
	t.Helper()
	if got == nil {
		t.Errorf("%s: nothing, want %v", name, want)
		return
	}
	if got.String() != want.String() {
		t.Errorf("%s: %v, want %v", name, got, want)
		return
	}
	g, w := Floats(t, got), Floats(t, want)
	var scale, worst float64
	at := 0
	for i := range w {
		scale = max(scale, math.Abs(float64(w[i])))
		if d := math.Abs(float64(g[i]) - float64(w[i])); !(d <= worst) {
			worst, at = d, i
		}
	}
	if !(worst <= tolerance*(1+scale)) {
		t.Errorf("%s: element %d is %g, want %g (largest value %g, tolerance %g)", name, at, g[at], w[at], scale, tolerance)
	}
}

// Same reports whether two tensors are equal bit for bit.
func Same(a, b *tensor.Tensor) bool {
	return a != nil && b != nil && a.String() == b.String() && string(a.Data) == string(b.Data)
}

// Random makes an FP32 tensor of normal deviates.
func Random(seed uint64, shape ...int64) *tensor.Tensor {
	rng := rand.New(rand.NewPCG(seed, 77))
	n, _ := tensor.Elements(shape)
	values := make([]float32, n)
	for i := range values {
		values[i] = float32(rng.NormFloat64())
	}
	return tensor.OfFloat32s(values, shape...)
}

// Formula returns values that depend on a name and a shape alone, the same as
// fixture.formula gives in Python.
func Formula(name string, shape []int64) *tensor.Tensor {
	seed := uint64(0xCBF29CE484222325)
	for _, b := range []byte(name) {
		seed = (seed ^ uint64(b)) * 0x100000001B3
	}
	n, _ := tensor.Elements(shape)
	fanIn := int64(1)
	for _, d := range shape[min(1, len(shape)):] {
		fanIn *= d
	}
	norm := false
	for _, ending := range []string{"norm.weight", "ln.weight", "ln_1.weight", "ln_2.weight", "norm1.weight", "norm2.weight", "0.2.weight", "LayerNorm.weight"} {
		norm = norm || strings.HasSuffix(name, ending)
	}
	scale := math.Sqrt(3 / float64(fanIn))
	values := make([]float32, n)
	for i := range values {
		z := seed + uint64(i+1)*0x9E3779B97F4A7C15
		z = (z ^ z>>30) * 0xBF58476D1CE4E5B9
		z = (z ^ z>>27) * 0x94D049BB133111EB
		z ^= z >> 31
		u := float64(z>>40) / (1 << 24)
		switch {
		case strings.HasPrefix(name, "in."):
			values[i] = float32(u)
		case len(shape) > 1:
			values[i] = float32((2*u - 1) * scale)
		case strings.HasSuffix(name, "running_var"):
			values[i] = float32(1 + u)
		case norm:
			values[i] = float32(1 + 0.1*(2*u-1))
		default:
			values[i] = float32(0.1 * (2*u - 1))
		}
	}
	return tensor.OfFloat32s(values, shape...)
}

// FormulaWeights writes the weights whose shapes the metadata entry shapes lists.
// rename maps their names to those of the file; nil keeps them.
func (f *Fixture) FormulaWeights(rename func(string) string) string {
	f.t.Helper()
	var shapes map[string][]int64
	if err := json.Unmarshal([]byte(f.Metadata["shapes"]), &shapes); err != nil {
		f.t.Fatal(err)
	}
	tensors := map[string]*tensor.Tensor{}
	for name, shape := range shapes {
		file := name
		if rename != nil {
			file = rename(name)
		}
		tensors[file] = Formula(name, shape)
	}
	return WriteWeights(f.t, tensors)
}
