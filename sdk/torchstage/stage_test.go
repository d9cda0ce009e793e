package torchstage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/sugarme/gotch"
	"github.com/sugarme/gotch/ts"

	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/safetensors"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

// The network of testdata/reference.py: y = w2 gelu(w1 x + b1).
type network struct{ w1, b1, w2 *ts.Tensor }

func of(values ...float32) Init {
	return func(out []float32, _ []int64, _ *rand.Rand) { copy(out, values) }
}

func buildNetwork(b *Build) (Module, error) {
	n := &network{
		b.Params.Parameter("w1", []int64{2, 3}, of(0.5, -0.25, 0.75, -0.5, 0.3, 0.1)),
		b.Params.Parameter("b1", []int64{2}, of(0.1, -0.2)),
		b.Params.Parameter("w2", []int64{1, 2}, of(1.5, -0.7)),
	}
	return n, nil
}

func (n *network) Forward(s *Scope, in *Inputs) *Outputs {
	x := in.Tensors["x"]
	y := s.Linear(s.Gelu(s.Linear(x, n.w1, n.b1)), n.w2, nil)
	out := &Outputs{Tensors: map[string]*ts.Tensor{"y": y}, Losses: map[string]*ts.Tensor{}}
	if t := in.Tensors["target"]; t != nil {
		d := s.Sub2(y, t)
		out.Losses["mse"] = s.Mean(s.Mul(d, d), []int64{0, 1}, false)
	}
	return out
}

func openStage(t *testing.T, o sdk.Optimizer, builders map[string]Builder, name string) *stage {
	t.Helper()
	st, _, err := Open(builders)(context.Background(), &sdk.OpenRequest{Stage: name, Optimizer: o, Threads: 1, Group: t.Name()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	return st.(*stage)
}

func open(t *testing.T, o sdk.Optimizer) *stage {
	return openStage(t, o, map[string]Builder{"net": buildNetwork}, "net")
}

var (
	inputX = tensor.OfFloat32s([]float32{1, 2, -1, 0.5, -0.3, 0.8, 0, 1, 1, -1, 0.2, 0.4}, 4, 3)
	inputY = tensor.OfFloat32s([]float32{1, -1, 0.5, 0}, 4, 1)
)

func newOutput(_ string, d tensor.DType, shape ...int64) (*tensor.Tensor, error) {
	return tensor.New(d, shape...)
}

func forward(t *testing.T, st *stage, id uint64, train bool, inputs map[string]*tensor.Tensor) *sdk.ForwardResponse {
	t.Helper()
	resp, err := st.Forward(context.Background(), &sdk.ForwardRequest{
		Context: id, Train: train, Seed: 7, Inputs: inputs, NeedsGrad: map[string]bool{"x": true}, NewOutput: newOutput,
	})
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

func backward(t *testing.T, st *stage, id uint64, grads map[string]*tensor.Tensor, weights map[string]float64) *sdk.BackwardResponse {
	t.Helper()
	resp, err := st.Backward(context.Background(), &sdk.BackwardRequest{Context: id, OutputGrads: grads, LossWeights: weights, NewOutput: newOutput})
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

func floats(t *testing.T, x *tensor.Tensor) []float32 {
	t.Helper()
	v, err := x.Float32s()
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func near(t *testing.T, what string, got []float32, want []float64, tolerance float64) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s has %d values, want %d", what, len(got), len(want))
	}
	for i := range got {
		if math.Abs(float64(got[i])-want[i]) > tolerance*(1+math.Abs(want[i])) {
			t.Errorf("%s[%d] = %g, want %g", what, i, got[i], want[i])
		}
	}
}

type trained struct {
	Losses [][2]float64
	Params [][]float64
}

func reference(t *testing.T) (ref struct {
	SGD, Nesterov, AdamW trained
	Gradient             struct {
		Y, X   []float64
		Params [][]float64
	}
}) {
	t.Helper()
	text, err := os.ReadFile("testdata/reference.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &ref); err != nil {
		t.Fatal(err)
	}
	return ref
}

func params(t *testing.T, st *stage) map[string][]float32 {
	t.Helper()
	dir := t.TempDir()
	if _, err := st.Save(context.Background(), dir); err != nil {
		t.Fatal(err)
	}
	f, err := safetensors.Open(filepath.Join(dir, weightsFile))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	out := map[string][]float32{}
	for _, name := range f.Names() {
		v, err := f.Tensor(name)
		if err != nil {
			t.Fatal(err)
		}
		out[name] = floats(t, v)
	}
	return out
}

func trainStep(t *testing.T, st *stage, id uint64, lr float64) (loss, norm float64) {
	t.Helper()
	ctx := context.Background()
	if err := st.ZeroGrad(ctx); err != nil {
		t.Fatal(err)
	}
	resp := forward(t, st, id, true, map[string]*tensor.Tensor{"x": inputX, "target": inputY})
	backward(t, st, id, nil, map[string]float64{"mse": 1})
	norm, err := st.GradNorm(ctx)
	if err != nil {
		t.Fatal(err)
	}
	err = st.Step(ctx, &sdk.StepRequest{Values: map[string]float64{"learning_rate": lr}, GradientScale: math.Min(1, 0.5/norm)})
	if err != nil {
		t.Fatal(err)
	}
	return resp.Losses["mse"], norm
}

func TestOptimizersEqualPyTorch(t *testing.T) {
	ref := reference(t)
	cases := []struct {
		name string
		o    sdk.Optimizer
		lr   float64
		want trained
	}{
		{"sgd", sdk.Optimizer{Name: "sgd", Values: map[string]float64{"momentum": 0.9, "weight_decay": 1e-2}}, 0.1, ref.SGD},
		{"nesterov", sdk.Optimizer{Name: "sgd", Values: map[string]float64{"momentum": 0.9, "weight_decay": 0, "nesterov": 1}}, 0.1, ref.Nesterov},
		{"adamw", sdk.Optimizer{Name: "adamw", Values: map[string]float64{"beta1": 0.8, "beta2": 0.95, "eps": 1e-6, "weight_decay": 0.1}}, 0.05, ref.AdamW},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			st := open(t, c.o)
			for i, want := range c.want.Losses {
				loss, norm := trainStep(t, st, uint64(i), c.lr)
				near(t, "loss and norm", []float32{float32(loss), float32(norm)}, want[:], 1e-5)
			}
			got := params(t, st)
			for i, name := range []string{"w1", "b1", "w2"} {
				near(t, name, got[name], c.want.Params[i], 1e-5)
			}
		})
	}
}

func TestBackwardEqualsPyTorch(t *testing.T) {
	ref := reference(t).Gradient
	st := open(t, sdk.Optimizer{})
	resp := forward(t, st, 1, true, map[string]*tensor.Tensor{"x": inputX, "target": inputY})
	near(t, "y", floats(t, resp.Outputs["y"]), ref.Y, 1e-6)
	back := backward(t, st, 1, map[string]*tensor.Tensor{"y": tensor.OfFloat32s([]float32{1, -2, 0.25, 3}, 4, 1)}, map[string]float64{"mse": 0.5})
	near(t, "x", floats(t, back.InputGrads["x"]), ref.X, 1e-5)
	sum := 0.0
	for _, p := range ref.Params {
		for _, v := range p {
			sum += v * v
		}
	}
	norm, err := st.GradNorm(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	near(t, "norm", []float32{float32(norm)}, []float64{math.Sqrt(sum)}, 1e-5)
}

func TestGradientsAccumulateUntilZeroGrad(t *testing.T) {
	st := open(t, sdk.Optimizer{})
	ctx := context.Background()
	in := map[string]*tensor.Tensor{"x": inputX, "target": inputY}
	forward(t, st, 1, true, in)
	forward(t, st, 2, true, in) // two contexts, ended in the other order
	backward(t, st, 2, nil, map[string]float64{"mse": 1})
	one, err := st.GradNorm(ctx)
	if err != nil {
		t.Fatal(err)
	}
	backward(t, st, 1, nil, map[string]float64{"mse": 1})
	two, err := st.GradNorm(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if math.Abs(two-2*one) > 1e-5*two {
		t.Errorf("norm after two backward passes = %g, want %g", two, 2*one)
	}
	if err := st.ZeroGrad(ctx); err != nil {
		t.Fatal(err)
	}
	if zero, err := st.GradNorm(ctx); err != nil || zero != 0 {
		t.Errorf("norm after ZeroGrad = %g, %v", zero, err)
	}
}

func TestSaveAndLoadContinueBitExactly(t *testing.T) {
	for what, o := range map[string]sdk.Optimizer{"sgd": {Name: "sgd"}, "adamw": {Name: "adamw"},
		"averaged": {Name: "adamw", Values: map[string]float64{sdk.EMA: 0.9}}} {
		t.Run(what, func(t *testing.T) {
			whole, first, second := open(t, o), open(t, o), open(t, o)
			for i := range 6 {
				trainStep(t, whole, uint64(i), 0.05)
			}
			for i := range 3 {
				trainStep(t, first, uint64(i), 0.05)
			}
			dir := t.TempDir()
			if _, err := first.Save(context.Background(), dir); err != nil {
				t.Fatal(err)
			}
			if err := second.Load(context.Background(), dir, true); err != nil { // as a validation does
				t.Fatal(err)
			}
			if err := second.Load(context.Background(), dir, false); err != nil {
				t.Fatal(err)
			}
			for i := range 3 {
				trainStep(t, second, uint64(i), 0.05)
			}
			want, got := params(t, whole), params(t, second)
			for name := range want {
				for i := range want[name] {
					if math.Float32bits(want[name][i]) != math.Float32bits(got[name][i]) {
						t.Errorf("%s[%d] = %x, want %x", name, i, got[name][i], want[name][i])
					}
				}
			}
		})
	}
}

// The average after five steps is the recurrence over the weights that the same training
// without it has after each, and is what the stage computes with once the weights alone are
// loaded. Training does not notice it.
func TestAveragedWeightsFollowTheRecurrence(t *testing.T) {
	const decay, lr = 0.4, 0.05
	averaged := open(t, sdk.Optimizer{Name: "adamw", Values: map[string]float64{sdk.EMA: decay}})
	plain := open(t, sdk.Optimizer{Name: "adamw"})
	want := map[string][]float64{}
	for name, w := range params(t, plain) {
		for _, v := range w {
			want[name] = append(want[name], float64(v))
		}
	}
	for n := 1; n <= 5; n++ {
		a, _ := trainStep(t, averaged, uint64(n), lr)
		b, _ := trainStep(t, plain, uint64(n), lr)
		if a != b {
			t.Errorf("loss of step %d is %g, want %g as without averages", n, a, b)
		}
		d := math.Min(decay, float64(1+n)/float64(10+n)) // 2/11, 3/12, 4/13, 5/14, then 0.4 (6/15)
		for name, w := range params(t, plain) {
			for i, v := range w {
				want[name][i] = d*want[name][i] + (1-d)*float64(v)
			}
		}
	}
	for name, got := range params(t, averaged) {
		near(t, name, got, want[name], 1e-6)
	}
	dir := t.TempDir()
	if _, err := averaged.Save(context.Background(), dir); err != nil {
		t.Fatal(err)
	}
	loaded := open(t, sdk.Optimizer{})
	if err := loaded.Load(context.Background(), dir, true); err != nil {
		t.Fatal(err)
	}
	for name, got := range params(t, loaded) {
		near(t, "loaded "+name, got, want[name], 1e-6)
	}
	for _, bad := range []float64{-0.1, 1, math.NaN()} {
		o := sdk.Optimizer{Values: map[string]float64{sdk.EMA: bad}}
		if _, _, err := Open(map[string]Builder{"net": buildNetwork})(context.Background(), &sdk.OpenRequest{Stage: "net", Optimizer: o}); sdk.CodeOf(err) != sdk.InvalidArgument {
			t.Errorf("ema %g: %v", bad, err)
		}
	}
}

func TestLoadFileListsMissingUnexpectedAndMismatched(t *testing.T) {
	st := open(t, sdk.Optimizer{})
	path := filepath.Join(t.TempDir(), "w.safetensors")
	write := func(tensors map[string]*tensor.Tensor) error {
		if err := safetensors.Write(path, tensors, nil); err != nil {
			t.Fatal(err)
		}
		return Run(func(s *Scope) error { return st.params.LoadFile(s, path, LoadOptions{}) })
	}
	err := write(map[string]*tensor.Tensor{
		"w1": tensor.OfFloat32s(make([]float32, 4), 2, 2), "other": tensor.OfFloat32s([]float32{1}), "w2": tensor.OfFloat32s([]float32{1, 2}, 1, 2),
	})
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{"missing (1): b1", "unexpected (1): other", "w1 is [2 2], want [2 3]"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q lacks %q", err, want)
		}
	}
	if sdk.CodeOf(err) != sdk.InvalidArgument {
		t.Errorf("code = %v", sdk.CodeOf(err))
	}
	good := map[string]*tensor.Tensor{
		"w1": {DType: tensor.BF16, Shape: []int64{2, 3}, Data: []byte{0x80, 0x3f, 0, 0xc0, 0, 0, 0, 0, 0, 0, 0, 0}},
		"b1": {DType: tensor.FP16, Shape: []int64{2}, Data: []byte{0, 0x3c, 0, 0xc4}},
		"w2": tensor.OfFloat32s([]float32{1, 2}, 1, 2),
	}
	if err := write(good); err != nil {
		t.Fatal(err)
	}
	got := params(t, st)
	near(t, "w1", got["w1"], []float64{1, -2, 0, 0, 0, 0}, 0)
	near(t, "b1", got["b1"], []float64{1, -4}, 0)
	good["w2"] = tensor.OfFloat32s([]float32{1, float32(math.NaN())}, 1, 2)
	if err := write(good); err == nil || !strings.Contains(err.Error(), "finite") {
		t.Errorf("NaN weights: %v", err)
	}
}

func TestOptionalParametersMayBeAbsentFromEitherSide(t *testing.T) {
	builder := func(extra bool) map[string]Builder {
		return map[string]Builder{"net": func(b *Build) (Module, error) {
			b.Params.Optional("extra.*")
			if extra {
				b.Params.Parameter("extra.weight", []int64{2}, of(3, 4))
			}
			return buildNetwork(b)
		}}
	}
	with, without := openStage(t, sdk.Optimizer{}, builder(true), "net"), openStage(t, sdk.Optimizer{}, builder(false), "net")
	ctx, a, b := context.Background(), t.TempDir(), t.TempDir()
	for st, dir := range map[*stage]string{with: a, without: b} {
		if _, err := st.Save(ctx, dir); err != nil {
			t.Fatal(err)
		}
	}
	for st, dir := range map[*stage]string{with: b, without: a} {
		if err := st.Load(ctx, dir, true); err != nil {
			t.Errorf("weights alone: %v", err)
		}
		if err := st.Load(ctx, dir, false); err == nil {
			t.Error("the whole state of another pipeline was accepted")
		}
	}
	near(t, "extra.weight", params(t, with)["extra.weight"], []float64{3, 4}, 0)
}

// A detector in small: the encoder keeps a map in the process, the head uses it.
type tinyEncoder struct{ w *ts.Tensor }

func (e *tinyEncoder) Forward(s *Scope, in *Inputs) *Outputs {
	m := s.Gelu(s.Linear(in.Tensors["x"], e.w, nil))
	return &Outputs{Tensors: map[string]*ts.Tensor{"map": m, "tokens": s.MulScalar(m, 2)}}
}

type tinyHead struct{}

func (tinyHead) Forward(s *Scope, in *Inputs) *Outputs {
	y := s.Mul(in.Resident["map"], in.Tensors["tokens"])
	return &Outputs{Tensors: map[string]*ts.Tensor{"y": y}, Losses: map[string]*ts.Tensor{"sum": s.Sum(s.Mul(y, y), nil, false)}}
}

func TestResidentGradientsReachTheStageThatMadeThem(t *testing.T) {
	builders := map[string]Builder{
		"encoder": func(b *Build) (Module, error) {
			b.Outputs = []sdk.Port{{Name: "map", Resident: true}, {Name: "tokens"}}
			return &tinyEncoder{b.Params.Parameter("w", []int64{2, 3}, of(0.5, -0.25, 0.75, -0.5, 0.3, 0.1))}, nil
		},
		"head": func(b *Build) (Module, error) {
			b.Inputs = []sdk.Port{{Name: "map", Resident: true}, {Name: "tokens"}}
			return tinyHead{}, nil
		},
	}
	encoder, head := openStage(t, sdk.Optimizer{}, builders, "encoder"), openStage(t, sdk.Optimizer{}, builders, "head")
	ctx := context.Background()
	loss := func(x *tensor.Tensor) float64 { // in EVAL mode
		tokens := forward(t, encoder, 9, false, map[string]*tensor.Tensor{"x": x}).Outputs["tokens"]
		return forward(t, head, 9, false, map[string]*tensor.Tensor{"tokens": tokens}).Losses["sum"]
	}
	run := func() *tensor.Tensor {
		tokens := forward(t, encoder, 5, true, map[string]*tensor.Tensor{"x": inputX}).Outputs["tokens"]
		resp, err := head.Forward(ctx, &sdk.ForwardRequest{Context: 5, Train: true, Inputs: map[string]*tensor.Tensor{"tokens": tokens}, NeedsGrad: map[string]bool{"tokens": true}, NewOutput: newOutput})
		if err != nil {
			t.Fatal(err)
		}
		_ = resp
		grads := backward(t, head, 5, nil, map[string]float64{"sum": 1})
		return backward(t, encoder, 5, map[string]*tensor.Tensor{"tokens": grads.InputGrads["tokens"]}, nil).InputGrads["x"]
	}
	got := floats(t, run())
	const h = 1e-2
	for i := range got {
		low, high := inputX.Clone(), inputX.Clone()
		floats(t, low)[i] -= h
		floats(t, high)[i] += h
		want := (loss(high) - loss(low)) / (2 * h)
		if math.Abs(float64(got[i])-want) > 2e-2*(1+math.Abs(want)) {
			t.Errorf("d/dx[%d] = %g, finite differences give %g", i, got[i], want)
		}
	}
	if len(encoder.group.contexts) > 1 {
		t.Errorf("%d contexts' maps are kept, want at most the last EVAL one", len(encoder.group.contexts))
	}
	_, err := head.Forward(ctx, &sdk.ForwardRequest{Context: 77, Train: true, Inputs: map[string]*tensor.Tensor{"tokens": inputX}, NewOutput: newOutput})
	if sdk.CodeOf(err) != sdk.FailedPrecondition {
		t.Errorf("head before encoder: %v", err)
	}
}

// tinyFusion makes other tokens of tokens, under the same name.
type tinyFusion struct{ w *ts.Tensor }

func (f *tinyFusion) Forward(s *Scope, in *Inputs) *Outputs {
	return &Outputs{Tensors: map[string]*ts.Tensor{"tokens": s.Gelu(s.Linear(in.Tensors["tokens"], f.w, nil))}}
}

// Three stages, of which the second takes and gives a port of one name: what is kept in the
// process is what would be sent, to the last bit, in both directions and both modes.
func TestKeptTensorsAreThoseThatWouldBeSent(t *testing.T) {
	builders := map[string]Builder{
		"encoder": func(b *Build) (Module, error) {
			b.Outputs = []sdk.Port{{Name: "map", Resident: true}, {Name: "tokens"}}
			return &tinyEncoder{b.Params.Parameter("w", []int64{2, 3}, of(0.5, -0.25, 0.75, -0.5, 0.3, 0.1))}, nil
		},
		"fusion": func(b *Build) (Module, error) {
			return &tinyFusion{b.Params.Parameter("w", []int64{2, 2}, of(0.7, -0.2, 0.4, 0.9))}, nil
		},
		"head": func(b *Build) (Module, error) {
			b.Inputs = []sdk.Port{{Name: "map", Resident: true}, {Name: "tokens"}}
			return tinyHead{}, nil
		},
	}
	kept := map[string]*sdk.OpenRequest{
		"encoder": {Keeps: []string{"tokens"}, Keeper: "encoder"},
		"fusion":  {Keeps: []string{"tok.*", "tokens"}, Keeper: "fusion", Kept: map[string]string{"tokens": "encoder"}},
		"head":    {Kept: map[string]string{"tokens": "fusion"}},
	}
	names := []string{"encoder", "fusion", "head"}
	run := func(group string, kept map[string]*sdk.OpenRequest) (grads [][]float32, loss, seen float64) {
		stages := map[string]*stage{}
		for _, name := range names {
			req := sdk.OpenRequest{}
			if kept[name] != nil {
				req = *kept[name]
			}
			req.Stage, req.Threads, req.Group, req.Optimizer = name, 1, group, sdk.Optimizer{Name: "sgd"}
			st, _, err := Open(builders)(t.Context(), &req)
			if err != nil {
				t.Fatal(err)
			}
			defer st.Close()
			stages[name] = st.(*stage)
		}
		pass := func(id uint64, train bool) float64 {
			between := map[string]*tensor.Tensor{"x": inputX}
			var last *sdk.ForwardResponse
			for _, name := range names {
				resp, err := stages[name].Forward(t.Context(), &sdk.ForwardRequest{Context: id, Train: train, Inputs: between,
					NeedsGrad: map[string]bool{"x": true, "tokens": true}, NewOutput: newOutput})
				if err != nil {
					t.Fatal(err)
				}
				if kept != nil && resp.Outputs["tokens"] != nil {
					t.Errorf("%s sends what it keeps", name)
				}
				between, last = resp.Outputs, resp
			}
			return last.Losses["sum"]
		}
		seen = pass(1, false)
		loss = pass(2, true)
		back := map[string]*tensor.Tensor{}
		var dx *tensor.Tensor
		for _, name := range []string{"head", "fusion", "encoder"} {
			resp := backward(t, stages[name], 2, back, map[string]float64{"sum": 1})
			back, dx = map[string]*tensor.Tensor{}, resp.InputGrads["x"]
			if g := resp.InputGrads["tokens"]; g != nil {
				back["tokens"] = g
			}
		}
		for _, name := range names[:2] {
			if err := stages[name].Step(t.Context(), &sdk.StepRequest{Values: map[string]float64{sdk.LearningRate: 1}, GradientScale: 1}); err != nil {
				t.Fatal(err)
			}
			grads = append(grads, params(t, stages[name])["w"])
		}
		if n := len(stages["encoder"].group.contexts); n > 1 {
			t.Errorf("tensors of %d contexts are kept, want at most the last EVAL one's", n)
		}
		for _, name := range []string{"fusion", "encoder"} {
			if err := stages[name].Release(t.Context(), 1); err != nil {
				t.Fatal(err)
			}
		}
		if n := len(stages["encoder"].group.contexts); n != 0 {
			t.Errorf("tensors of %d contexts are left", n)
		}
		return append(grads, floats(t, dx)), loss, seen
	}
	sent, sentLoss, sentSeen := run("sent", nil)
	there, loss, seen := run("kept", kept)
	if !slices.EqualFunc(sent, there, slices.Equal) || loss != sentLoss || seen != sentSeen {
		t.Errorf("kept: %v, loss %v, in EVAL mode %v; sent: %v, %v, %v", there, loss, seen, sent, sentLoss, sentSeen)
	}
}

func TestFirstErrorSticksAndNothingPanics(t *testing.T) {
	err := Run(func(s *Scope) error {
		a, b := s.FromFloat32s([]float32{1, 2, 3}), s.FromFloat32s([]float32{1, 2})
		c := s.Add(a, b)
		d := s.MatMul(s.Relu(c), s.Reshape(c, 5, 5))
		if v := s.Float32s(d); v != nil {
			t.Errorf("values after an error: %v", v)
		}
		return nil
	})
	if err == nil || !strings.Contains(err.Error(), "add") || strings.Contains(err.Error(), "goroutine") {
		t.Errorf("error = %v", err)
	}
	if err := OnThread(func() error { panic("model bug") }); err == nil || !strings.Contains(err.Error(), "model bug") {
		t.Errorf("panic became %v", err)
	}
}

func TestStepRefusesBadValues(t *testing.T) {
	st := open(t, sdk.Optimizer{})
	for _, req := range []*sdk.StepRequest{
		{GradientScale: 1},
		{Values: map[string]float64{"learning_rate": math.NaN()}, GradientScale: 1},
		{Values: map[string]float64{"learning_rate": 1}, GradientScale: math.Inf(1)},
	} {
		if err := st.Step(context.Background(), req); sdk.CodeOf(err) != sdk.InvalidArgument {
			t.Errorf("%+v: %v", req, err)
		}
	}
	if _, _, err := Open(map[string]Builder{"net": buildNetwork})(context.Background(), &sdk.OpenRequest{Stage: "net", Optimizer: sdk.Optimizer{Name: "lion"}}); sdk.CodeOf(err) != sdk.InvalidArgument {
		t.Errorf("unknown optimizer: %v", err)
	}
}

func TestEveryTensorIsFreed(t *testing.T) {
	st := open(t, sdk.Optimizer{Name: "adamw"})
	trainStep(t, st, 0, 0.01)
	before := ts.TensorCount
	live := func() int { return len(ts.ExistingTensors) }
	start := live()
	for i := range 50 {
		trainStep(t, st, uint64(i), 0.01)
		forward(t, st, 1000, false, map[string]*tensor.Tensor{"x": inputX})
	}
	if got := live(); got != start {
		t.Errorf("%d tensors live after 50 steps, %d before (%d made)", got, start, ts.TensorCount-before)
	}
}

func TestStridedPointwiseConvolutionOfThreeChannelsTrains(t *testing.T) {
	err := OnThread(func() error {
		restore, err := gradMode(true)
		if err != nil {
			return err
		}
		defer restore()
		s := newScope()
		defer s.end()
		values := make([]float32, 2*3*8*8)
		for i := range values {
			values[i] = float32(i % 7)
		}
		x := s.ChannelsLast(s.FromFloat32s(values, 2, 3, 8, 8))
		w := s.Leaf(s.FromFloat32s([]float32{1, 0, 0, 0, 1, -1}, 2, 3, 1, 1))
		y := s.Conv2d(x, w, nil, 2, 0, 1)
		s.Backprop(s.Sum(y, nil, false))
		got, grad := s.Float32s(y), s.Float32s(s.Grad(w))
		if s.err != nil {
			return s.err
		}
		at := func(n, c, h, w int) float32 { return values[((n*3+c)*8+h)*8+w] }
		sums := make([]float64, 6)
		for n := range 2 {
			for i := range 4 {
				for j := range 4 {
					a, b, c := at(n, 0, 2*i, 2*j), at(n, 1, 2*i, 2*j), at(n, 2, 2*i, 2*j)
					if g := got[((n*2+0)*4+i)*4+j]; g != a {
						t.Errorf("y[%d 0 %d %d] = %g, want %g", n, i, j, g, a)
					}
					if g := got[((n*2+1)*4+i)*4+j]; g != b-c {
						t.Errorf("y[%d 1 %d %d] = %g, want %g", n, i, j, g, b-c)
					}
					for k, v := range []float32{a, b, c, a, b, c} {
						sums[k] += float64(v)
					}
				}
			}
		}
		near(t, "d/dw", grad, sums, 1e-6)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Values and gradients are those of the functions, where they have some.
func TestElementaryFunctionsAndTheirGradients(t *testing.T) {
	x, other := []float32{-2, -0.5, 0.5, 3}, []float32{1, 1, 1, 1}
	type row struct {
		compute      func(s *Scope, x, y *ts.Tensor) *ts.Tensor
		value, slope func(x float64) float64
	}
	step := func(yes bool) float64 { return map[bool]float64{true: 1}[yes] }
	rows := map[string]row{
		"sub":     {(*Scope).Sub2, func(x float64) float64 { return x - 1 }, func(float64) float64 { return 1 }},
		"maximum": {(*Scope).Maximum, func(x float64) float64 { return max(x, 1) }, func(x float64) float64 { return step(x > 1) }},
		"minimum": {(*Scope).Minimum, func(x float64) float64 { return min(x, 1) }, func(x float64) float64 { return step(x < 1) }},
		"abs": {func(s *Scope, x, _ *ts.Tensor) *ts.Tensor { return s.Abs(x) }, math.Abs,
			func(x float64) float64 { return math.Copysign(1, x) }},
		"sqrt": {func(s *Scope, x, _ *ts.Tensor) *ts.Tensor { return s.Sqrt(x) }, math.Sqrt,
			func(x float64) float64 { return 0.5 / math.Sqrt(x) }},
	}
	for _, v := range []float64{0, 1, 2, 5, -1, -2, 0.5, 1.5, -0.5, 0.3, 2.2} {
		rows[fmt.Sprintf("pow %g", v)] = row{func(s *Scope, x, _ *ts.Tensor) *ts.Tensor { return s.Pow(x, v) },
			func(x float64) float64 { return math.Pow(x, v) }, func(x float64) float64 { return v * math.Pow(x, v-1) }}
	}
	for name, r := range rows {
		err := OnThread(func() error {
			restore, err := gradMode(true)
			if err != nil {
				return err
			}
			defer restore()
			s := newScope()
			defer s.end()
			in := s.Leaf(s.FromFloat32s(x, 4))
			out := r.compute(s, in, s.FromFloat32s(other, 4))
			values := s.Float32s(out)
			s.Backprop(s.Sum(out, nil, false))
			slopes := s.Float32s(s.Grad(in))
			if s.err != nil {
				return s.err
			}
			for i, at := range x {
				for what, pair := range map[string][2]float64{"value": {float64(values[i]), r.value(float64(at))}, "gradient": {float64(slopes[i]), r.slope(float64(at))}} {
					if got, want := pair[0], pair[1]; math.IsNaN(got) != math.IsNaN(want) || math.Abs(got-want) > 1e-5*(1+math.Abs(want)) {
						t.Errorf("%s at %g: %s %g, want %g", name, at, what, got, want)
					}
				}
			}
			return nil
		})
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func residentBytes(t *testing.T) int64 {
	t.Helper()
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Skip("no /proc")
	}
	var size, resident int64
	if _, err := fmt.Sscan(string(text), &size, &resident); err != nil {
		t.Fatal(err)
	}
	return resident * int64(os.Getpagesize())
}

// In-place operators once lost a handle of the tensor they worked on; a leaf made by
// one of them was never freed.
func TestMemoryOfAStepIsGivenBack(t *testing.T) {
	st := open(t, sdk.Optimizer{})
	const rows = 200_000
	x, err := tensor.New(tensor.FP32, rows, 3) // 2.4 MB, and as much for its gradient
	if err != nil {
		t.Fatal(err)
	}
	grad, err := tensor.New(tensor.FP32, rows, 1)
	if err != nil {
		t.Fatal(err)
	}
	step := func(i int) {
		forward(t, st, uint64(i), true, map[string]*tensor.Tensor{"x": x})
		backward(t, st, uint64(i), map[string]*tensor.Tensor{"y": grad}, nil)
	}
	for i := range 10 {
		step(i)
	}
	before := residentBytes(t)
	const steps = 60
	for i := range steps {
		step(10 + i)
	}
	if grown := residentBytes(t) - before; grown > steps*int64(len(x.Data))/2 {
		t.Errorf("resident memory grew by %d MB in %d steps whose input has %d MB", grown>>20, steps, len(x.Data)>>20)
	}
}

func TestEndingTheGoroutineOnTheThreadEndsTheCallersToo(t *testing.T) {
	ended, returned := make(chan struct{}), false
	go func() {
		defer close(ended)
		_ = OnThread(func() error { runtime.Goexit(); return nil })
		returned = true
	}()
	<-ended
	if returned {
		t.Error("the caller went on as if the call had returned")
	}
	if err := OnThread(func() error { return nil }); err != nil {
		t.Errorf("the call after it: %v", err)
	}
}

// A device that cannot be used is refused when the stage opens, in one line that names it.
func TestADeviceIsCheckedWhenAStageOpens(t *testing.T) {
	for text, want := range map[string]string{
		"torch: zeros: Could not run 'aten::empty.memory_format' with arguments from the 'CUDA' backend. This\nCPU: registered": "this libtorch has no CUDA",
		"torch: zeros: PyTorch is not linked with support for cuda devices\nException raised from getDeviceGuardImpl":           "this libtorch has no CUDA",
		"torch: zeros: CUDA error: invalid device ordinal\nCUDA kernel errors might be":                                         "torch: zeros: CUDA error: invalid device ordinal",
	} {
		if got := deviceProblem(text); got != want {
			t.Errorf("%q became %q, want %q", text, got, want)
		}
	}
	built := false
	open := Open(map[string]Builder{"s": func(*Build) (Module, error) { built = true; return nil, nil }})
	for _, device := range []string{"cuda:99", "cuda:", "cuda:1x", "cuda:-1", "gpu", "CPU"} {
		_, _, err := open(t.Context(), &sdk.OpenRequest{Stage: "s", Device: device})
		var refused *sdk.Error
		if !errors.As(err, &refused) || refused.Setting != "device" || strings.Contains(err.Error(), "\n") || !strings.Contains(err.Error(), device) {
			t.Errorf("%s: %v", device, err)
		}
	}
	if built {
		t.Error("a stage was built on a device that cannot be used")
	}
}

// meaning is the network with a rule of its own: half of what was kept of the gradients before,
// half of this one, and a learning rate that halves with every step.
type meaning struct{ *network }

func (meaning) OptimizerName() string { return "meaning" }

func (meaning) Update(s *Scope, u *Update) {
	mean := s.MulScalar(s.Add(u.State(s, "mean"), u.Gradient), 0.5)
	u.SetState(s, "mean", mean)
	u.Move(s, s.MulScalar(mean, -u.Rate*float64(u.Number)))
}

func (meaning) LearningRate(step, _ int, base float64) float64 {
	return base / math.Exp2(float64(step))
}

// A module's own rule moves the parameters as it says, at its own rate, and goes on where it was
// saved.
func TestAModulesOwnRuleAndSchedule(t *testing.T) {
	builders := map[string]Builder{"net": func(b *Build) (Module, error) {
		n, err := buildNetwork(b)
		return meaning{n.(*network)}, err
	}}
	a := openStage(t, sdk.Optimizer{Name: "meaning"}, builders, "net")
	read := func(st *stage, of func(s *Scope) *ts.Tensor) (out []float64) {
		if err := Run(func(s *Scope) error { out = s.Float64s(of(s)); return nil }); err != nil {
			t.Fatal(err)
		}
		return out
	}
	values := func(st *stage) []float64 {
		return read(st, func(*Scope) *ts.Tensor { return st.params.Get("b1") })
	}
	take := func(st *stage, step int) []float64 {
		forward(t, st, uint64(step+1), true, map[string]*tensor.Tensor{"x": inputX, "target": inputY})
		backward(t, st, uint64(step+1), nil, map[string]float64{"mse": 1})
		gradient := read(st, func(s *Scope) *ts.Tensor { return s.Grad(st.params.Get("b1")) })
		err := st.Step(t.Context(), &sdk.StepRequest{GradientScale: 1,
			Values: map[string]float64{sdk.LearningRate: 9, sdk.BaseRate: 0.2, sdk.StepNumber: float64(step), sdk.StepCount: 4}})
		if err := errors.Join(err, st.ZeroGrad(t.Context())); err != nil {
			t.Fatal(err)
		}
		return gradient
	}
	want, mean := values(a), make([]float64, 2)
	var b *stage
	for step := range 4 {
		if step == 2 {
			dir := t.TempDir()
			if _, err := a.Save(t.Context(), dir); err != nil {
				t.Fatal(err)
			}
			b = openStage(t, sdk.Optimizer{Name: "meaning"}, builders, "net")
			if err := b.Load(t.Context(), dir, false); err != nil {
				t.Fatal(err)
			}
		}
		for i, g := range take(a, step) {
			mean[i] = (mean[i] + g) / 2
			want[i] -= mean[i] * 0.2 / math.Exp2(float64(step)) * float64(step+1)
		}
		for i, v := range values(a) {
			if math.Abs(v-want[i]) > 1e-6 {
				t.Errorf("step %d: b1[%d] is %g, want %g", step, i, v, want[i])
			}
		}
		if b != nil {
			take(b, step)
		}
	}
	for i, v := range values(b) {
		if v != values(a)[i] {
			t.Errorf("after loading, b1[%d] is %g, want %g", i, v, values(a)[i])
		}
	}
	_, _, err := Open(builders)(t.Context(), &sdk.OpenRequest{Stage: "net", Optimizer: sdk.Optimizer{Name: "lion"}})
	if err == nil || !strings.Contains(err.Error(), "adamw or sgd or meaning") {
		t.Errorf("an unknown rule: %v", err)
	}
}

type product struct{ w *ts.Tensor }

func (p *product) Forward(s *Scope, in *Inputs) *Outputs {
	return &Outputs{Tensors: map[string]*ts.Tensor{"y": s.Linear(in.Tensors["x"], p.w, nil)}}
}

// With amp products are of numbers with eight bits; what leaves the stage is of single precision.
func TestAMPMultipliesInBfloat16(t *testing.T) {
	x := tensor.OfFloat32s([]float32{1, 1 + 1./512, 3. / 512}, 1, 3) // in bfloat16 1, 1 and 3/512
	for amp, want := range map[bool][2]float64{false: {2 + 6./512, 1 + 1./512}, true: {2, 1}} {
		st, _, err := Open(map[string]Builder{"net": func(b *Build) (Module, error) {
			return &product{b.Params.Parameter("w", []int64{1, 3}, of(1+1./512, 1+1./512, 1))}, nil
		}})(t.Context(), &sdk.OpenRequest{Stage: "net", AMP: amp, Threads: 1})
		if err != nil {
			t.Fatal(err)
		}
		resp := forward(t, st.(*stage), 1, true, map[string]*tensor.Tensor{"x": x})
		near(t, fmt.Sprintf("y with amp %v", amp), floats(t, resp.Outputs["y"]), []float64{want[0]}, 1e-5)
		back := backward(t, st.(*stage), 1, map[string]*tensor.Tensor{"y": tensor.OfFloat32s([]float32{1}, 1, 1)}, nil)
		near(t, fmt.Sprintf("gradient with amp %v", amp), floats(t, back.InputGrads["x"]), []float64{want[1], want[1], 1}, 1e-7)
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	}
}

// several has two losses, a metric and an output that are all computed.
type several struct{ w *ts.Tensor }

func buildSeveral(b *Build) (Module, error) {
	return &several{b.Params.Parameter("w", []int64{1, 3}, of(1, 2, 3))}, nil
}

func (m *several) Forward(s *Scope, in *Inputs) *Outputs {
	y := s.Linear(in.Tensors["x"], m.w, nil)
	d := s.Sub2(y, in.Tensors["target"])
	out := &Outputs{Tensors: map[string]*ts.Tensor{"y": y}, Metrics: map[string]float64{},
		Losses: map[string]*ts.Tensor{"mean": s.Mean(d, []int64{0, 1}, false), "square": s.Mean(s.Mul(d, d), []int64{0, 1}, false)}}
	s.Sub(func(s *Scope) *ts.Tensor { // its temporaries are freed before they are read
		out.Read(s, s.MulScalar(y, 2), func(values []float64) { out.Metrics["first"] = values[0] })
		return s.MulScalar(y, 0)
	})
	out.Metrics["known"] = float64(len(s.Float32s(in.Tensors["target"]))) // an input: the host has it
	return out
}

func TestAStepReadsBackAllLossesAndMetricsAtOnce(t *testing.T) {
	st := openStage(t, sdk.Optimizer{Name: "adamw"}, map[string]Builder{"s": buildSeveral}, "s")
	before := Reads()
	took := func(what string, want int64) {
		t.Helper()
		if n := Reads() - before; n != want {
			t.Errorf("%s: %d reads, want %d", what, n, want)
		}
		before = Reads()
	}
	resp, err := st.Forward(context.Background(), &sdk.ForwardRequest{Context: 1, Train: true, NewOutput: newOutput,
		Inputs: map[string]*tensor.Tensor{"x": inputX, "target": inputY}, NeedsGrad: map[string]bool{"x": true}})
	if err != nil {
		t.Fatal(err)
	}
	took("Forward: the output, and the rest together", 2)
	y := floats(t, resp.Outputs["y"])
	mean, square := 0.0, 0.0
	for i, v := range floats(t, inputY) {
		d := float64(y[i] - v)
		mean, square = mean+d/4, square+d*d/4
	}
	near(t, "losses and metrics", []float32{float32(resp.Losses["mean"]), float32(resp.Losses["square"]), float32(resp.Metrics["first"]), float32(resp.Metrics["known"])},
		[]float64{mean, square, 2 * float64(y[0]), 4}, 1e-6)
	backward(t, st, 1, nil, map[string]float64{"square": 1})
	took("Backward: the gradient of x", 1)
	if _, err := st.GradNorm(context.Background()); err != nil {
		t.Fatal(err)
	}
	took("GradNorm", 1)
	if err := st.Step(context.Background(), &sdk.StepRequest{GradientScale: 0.5, Values: map[string]float64{"learning_rate": 0.1}}); err != nil {
		t.Fatal(err)
	}
	if err := st.ZeroGrad(context.Background()); err != nil {
		t.Fatal(err)
	}
	took("Step and ZeroGrad", 0)
}

// An input is copied before its memory is given to the next call, pinned or, where the system
// gives no pinned memory (without a GPU it never does), not.
func TestAnInputIsCopiedOnItsWayToADevice(t *testing.T) {
	for _, pinned := range []bool{false, true} {
		in := tensor.OfFloat32s([]float32{1, 2, 3, 4, 5, 6}, 2, 3)
		err := Run(func(s *Scope) error {
			h := s.onHost(in, pinned)
			clear(in.Data)
			if got := s.Float32s(s.To(h, gotch.CPU)); !slices.Equal(got, []float32{1, 2, 3, 4, 5, 6}) || !slices.Equal(s.Shape(h), []int64{2, 3}) {
				t.Errorf("pinned %v: %v %v", pinned, s.Shape(h), got)
			}
			return s.Err()
		})
		if err != nil {
			t.Errorf("pinned %v: %v", pinned, err)
		}
	}
}

// How many parameters a kernel takes changes no bit.
func TestParametersStepAlikeInLotsOfAnySize(t *testing.T) {
	before := maps.Clone(lotElements)
	defer func() { lotElements = before }()
	for name, values := range map[string]map[string]float64{"adamw": {sdk.EMA: 0.9}, "sgd": {"nesterov": 1}} {
		var want map[string][]float32
		for _, most := range []int64{1, 5, 1 << 20} {
			lotElements = map[bool]int64{true: most}
			st := open(t, sdk.Optimizer{Name: name, Values: values})
			for range 3 {
				if _, err := st.Forward(context.Background(), &sdk.ForwardRequest{Context: 1, Train: true, NewOutput: newOutput,
					Inputs: map[string]*tensor.Tensor{"x": inputX, "target": inputY}}); err != nil {
					t.Fatal(err)
				}
				backward(t, st, 1, nil, map[string]float64{"mse": 1})
				if err := st.Step(context.Background(), &sdk.StepRequest{GradientScale: 0.3, Values: map[string]float64{"learning_rate": 0.1}}); err != nil {
					t.Fatal(err)
				}
				if err := st.ZeroGrad(context.Background()); err != nil {
					t.Fatal(err)
				}
			}
			if got := params(t, st); want == nil {
				want = got
			} else if !reflect.DeepEqual(got, want) {
				t.Errorf("%s in lots of %d elements: %v, want %v", name, most, got, want)
			}
			if err := st.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// What an open asks of the arithmetic holds for the process until the next one asks; nothing of
// it changes a bit on a CPU.
func TestArithmeticIsSetForTheProcess(t *testing.T) {
	t.Cleanup(func() {
		if err := OnThread(func() error { return useArithmetic(&sdk.Arithmetic{}) }); err != nil {
			t.Error(err)
		}
	})
	var first map[string][]float32
	last := sdk.Arithmetic{}
	for i, wanted := range []*sdk.Arithmetic{{}, {TF32: true}, nil, {Benchmark: true}, {Deterministic: true}, {TF32: true, Deterministic: true}, {}} {
		st, _, err := Open(map[string]Builder{"net": buildNetwork})(t.Context(), &sdk.OpenRequest{Stage: "net", Threads: 1, Arithmetic: wanted, Optimizer: sdk.Optimizer{Name: "adamw"}})
		if err != nil {
			t.Fatal(err)
		}
		if wanted != nil {
			last = *wanted
		}
		var got sdk.Arithmetic
		if err := OnThread(func() (err error) { got.TF32, got.Benchmark, got.Deterministic, err = ts.Arithmetic(); return err }); err != nil || got != last {
			t.Errorf("open %d: %+v, %v, want %+v", i, got, err, last)
		}
		trainStep(t, st.(*stage), 1, 0.1)
		if weights := params(t, st.(*stage)); first == nil {
			first = weights
		} else if !reflect.DeepEqual(weights, first) {
			t.Errorf("%+v: weights are %v, want %v", got, weights, first)
		}
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	}
	err := torchError("scatter", errors.New("Libtorch API Error: put_ does not have a deterministic implementation, but you set 'torch.use_deterministic_algorithms(True)'. You can turn off determinism"))
	if text := err.Error(); !strings.Contains(text, "put_ does not have") || strings.Contains(text, "You can") || !strings.Contains(text, "train.deterministic=false") {
		t.Error(text)
	}
}

// Half precision multiplies numbers of eleven bits where libtorch has it, and is refused by the
// setting's name where it has not.
func TestHalfPrecisionIsThereOrRefused(t *testing.T) {
	st, _, err := Open(map[string]Builder{"net": func(b *Build) (Module, error) {
		return &product{b.Params.Parameter("w", []int64{1, 3}, of(1, 1, 1))}, nil
	}})(t.Context(), &sdk.OpenRequest{Stage: "net", AMP: true, FP16: true, Threads: 1})
	if OnThread(func() error { return useHalf(gotch.CPU) }) != nil {
		var refused *sdk.Error
		if !errors.As(err, &refused) || refused.Setting != "train.amp" || !strings.Contains(err.Error(), "no half precision") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%v, want train.amp refused", err)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	x := tensor.OfFloat32s([]float32{1./1024 + 1./4096/1024, 1. / 1024, 0}, 1, 3) // the first is 1/1024 in half precision, and in bfloat16
	near(t, "y", floats(t, forward(t, st.(*stage), 1, true, map[string]*tensor.Tensor{"x": x}).Outputs["y"]), []float64{2. / 1024}, 1e-9)
	if err := st.Close(); err != nil {
		t.Error(err)
	}
}
