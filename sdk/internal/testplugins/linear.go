// Package testplugins holds small plugins without torch for the tests of hosts and
// harnesses: one that does everything right, and ones that break single rules.
package testplugins

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"path/filepath"

	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/safetensors"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

type linearSettings struct {
	In  int `setting:"in" default:"4" min:"1" help:"width of x, when the pipeline does not say"`
	Out int `setting:"out" default:"3" min:"1" help:"width of y"`
}

// Linear is a plugin with one head: y = x·Wᵀ + b, its mean squared error, gradients by
// hand and SGD with momentum.
func Linear() sdk.Plugin {
	return sdk.Plugin{
		Manifest: sdk.Manifest{
			Name: "linear", Version: "1.0.0", License: "Apache-2.0",
			ModelCard: "A linear map for tests; takes any numbers.", Runtime: "Go",
			Capabilities: []string{"train"},
			Stages: []sdk.StageManifest{{
				Name: "linear", Kind: sdk.KindHead, Summary: "a linear map in plain Go", Trainable: true,
				Inputs: []sdk.Port{
					{Name: "x", DType: tensor.FP32, Shape: []string{"N", "C"}, Required: true, Differentiable: true},
					{Name: "desired", DType: tensor.FP32, Shape: []string{"N", "K"}},
				},
				Outputs: []sdk.Port{
					{Name: "y", DType: tensor.FP32, Shape: []string{"N", "K"}, Required: true, Differentiable: true},
					{Name: "square", DType: tensor.FP32, Shape: []string{"N", "K"}, Required: true, OnRequest: true},
				},
				Settings: sdk.SettingsOf(linearSettings{}),
				Losses:   []string{"mse"}, Metrics: []string{"mean_abs"},
			}},
		},
		Open: openLinear,
	}
}

func openLinear(_ context.Context, req *sdk.OpenRequest) (sdk.Stage, *sdk.OpenResponse, error) {
	set, err := sdk.DecodeSettings[linearSettings](req.Settings)
	if err != nil {
		return nil, nil, err
	}
	in, out := set.In, set.Out
	l := &linear{in: in, out: out, momentum: req.Optimizer.Values["momentum"], open: map[uint64]*linearRun{}}
	r := rand.New(rand.NewPCG(req.Seed, 1))
	n := in*out + out
	l.weights, l.grads, l.velocity = make([]float32, n), make([]float32, n), make([]float32, n)
	for i := range l.weights {
		l.weights[i] = float32(r.NormFloat64() / math.Sqrt(float64(in)))
	}
	opened := &sdk.OpenResponse{ParameterCount: int64(n), TrainableCount: int64(n)}
	if req.Frozen { // it has nothing that moves by itself
		opened.TrainableCount = 0
	}
	return l, opened, nil
}

type linear struct {
	in, out                  int
	momentum                 float64
	weights, grads, velocity []float32 // W [out, in], then b [out]
	open                     map[uint64]*linearRun
}

type linearRun struct {
	x, error []float32 // [N, in], [N, out]: y - target, nil without one
	rows     int
	needX    bool
}

func (l *linear) Forward(_ context.Context, req *sdk.ForwardRequest) (*sdk.ForwardResponse, error) {
	x, err := req.Inputs["x"].Float32s()
	if err != nil {
		return nil, err
	}
	rows := int(req.Inputs["x"].Shape[0])
	if got := int(req.Inputs["x"].Shape[1]); got != l.in {
		return nil, &sdk.Error{Code: sdk.InvalidArgument, Port: "x", Given: req.Inputs["x"].String(), Wanted: fmt.Sprintf("FP32 [%d %d]", rows, l.in)}
	}
	out, err := req.NewOutput("y", tensor.FP32, int64(rows), int64(l.out))
	if err != nil {
		return nil, err
	}
	y, err := out.Float32s()
	if err != nil {
		return nil, err
	}
	var sum float64
	for n := range rows {
		for k := range l.out {
			v := l.weights[l.in*l.out+k]
			for c := range l.in {
				v += l.weights[k*l.in+c] * x[n*l.in+c]
			}
			y[n*l.out+k] = v
			sum += math.Abs(float64(v))
		}
	}
	resp := &sdk.ForwardResponse{Outputs: map[string]*tensor.Tensor{"y": out}, Losses: map[string]float64{},
		Metrics: map[string]float64{"mean_abs": sum / float64(max(len(y), 1))}}
	if req.Wanted["square"] {
		square := make([]float32, len(y))
		for i := range y {
			square[i] = y[i] * y[i]
		}
		resp.Outputs["square"] = tensor.OfFloat32s(square, int64(rows), int64(l.out))
	}
	run := &linearRun{x: x, rows: rows, needX: req.NeedsGrad["x"]}
	if t := req.Inputs["desired"]; t != nil {
		target, err := t.Float32s()
		if err != nil {
			return nil, err
		}
		if len(target) != len(y) {
			return nil, &sdk.Error{Code: sdk.InvalidArgument, Port: "desired", Given: t.String(), Wanted: out.String()}
		}
		run.error = make([]float32, len(y))
		var loss float64
		for i := range y {
			run.error[i] = y[i] - target[i]
			loss += float64(run.error[i]) * float64(run.error[i])
		}
		resp.Losses["mse"] = loss / float64(max(len(y), 1))
	}
	if req.Train {
		l.open[req.Context] = run
	}
	return resp, nil
}

func (l *linear) Backward(_ context.Context, req *sdk.BackwardRequest) (*sdk.BackwardResponse, error) {
	run := l.open[req.Context]
	delete(l.open, req.Context)
	dy := make([]float32, run.rows*l.out)
	if g := req.OutputGrads["y"]; g != nil {
		given, err := g.Float32s()
		if err != nil {
			return nil, err
		}
		copy(dy, given)
	}
	if w := req.LossWeights["mse"]; w != 0 && run.error != nil {
		for i, e := range run.error {
			dy[i] += float32(w * 2 * float64(e) / float64(len(run.error)))
		}
	}
	dx, err := req.NewOutput("x", tensor.FP32, int64(run.rows), int64(l.in))
	if err != nil {
		return nil, err
	}
	values, err := dx.Float32s()
	if err != nil {
		return nil, err
	}
	for n := range run.rows {
		for k := range l.out {
			d := dy[n*l.out+k]
			l.grads[l.in*l.out+k] += d
			for c := range l.in {
				l.grads[k*l.in+c] += d * run.x[n*l.in+c]
				values[n*l.in+c] += d * l.weights[k*l.in+c]
			}
		}
	}
	resp := &sdk.BackwardResponse{InputGrads: map[string]*tensor.Tensor{}}
	if run.needX {
		resp.InputGrads["x"] = dx
	}
	return resp, nil
}

func (l *linear) Release(_ context.Context, id uint64) error {
	delete(l.open, id)
	return nil
}

func (l *linear) ZeroGrad(context.Context) error {
	clear(l.grads)
	return nil
}

func (l *linear) GradNorm(context.Context) (float64, error) {
	var sum float64
	for _, g := range l.grads {
		sum += float64(g) * float64(g)
	}
	return math.Sqrt(sum), nil
}

func (l *linear) Step(_ context.Context, req *sdk.StepRequest) error {
	for i, g := range l.grads {
		l.velocity[i] = float32(l.momentum)*l.velocity[i] + g*float32(req.GradientScale)
		l.weights[i] -= float32(req.Values["learning_rate"]) * l.velocity[i]
	}
	return nil
}

func (l *linear) Save(_ context.Context, dir string) ([]string, error) {
	n := int64(len(l.weights))
	return []string{"state.safetensors"}, safetensors.Write(filepath.Join(dir, "state.safetensors"), map[string]*tensor.Tensor{
		"weights": tensor.OfFloat32s(l.weights, n), "velocity": tensor.OfFloat32s(l.velocity, n)}, nil)
}

func (l *linear) Load(_ context.Context, dir string, weightsOnly bool) error {
	f, err := safetensors.Open(filepath.Join(dir, "state.safetensors"))
	if err != nil {
		return sdk.Errorf(sdk.InvalidArgument, "%w", err)
	}
	defer f.Close()
	read := func(name string, into []float32) error {
		t, err := f.Tensor(name)
		if err != nil {
			return sdk.Errorf(sdk.InvalidArgument, "%w", err)
		}
		values, err := t.Float32s()
		if err != nil {
			return err
		}
		if len(values) != len(into) {
			return sdk.Errorf(sdk.InvalidArgument, "%s has %d numbers, want %d", name, len(values), len(into))
		}
		copy(into, values)
		return nil
	}
	if err := read("weights", l.weights); err != nil || weightsOnly {
		return err
	}
	return read("velocity", l.velocity)
}

func (l *linear) Close() error { return nil }
