// Package onestage runs one stage of a plugin by itself, without a pipeline: a forward pass on
// given arrays, a measurement, a check of its gradients.
package onestage

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/alignedfusion/alignedfusion/host/fault"
	"github.com/alignedfusion/alignedfusion/host/pipeline"
	"github.com/alignedfusion/alignedfusion/host/plughost"
	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/gradcheck"
	"github.com/alignedfusion/alignedfusion/sdk/ports"
	"github.com/alignedfusion/alignedfusion/sdk/sample"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

// Options of [Open].
type Options struct {
	Host plughost.Options
	// Plugin is a plugin's name or path; Stage may be empty when it has one stage.
	Plugin, Stage string
	// Settings are as written by people: texts by key.
	Settings map[string]string
	Labels   []sdk.LabelSet
	Schema   []byte // attribute schema, JSON
	Device   string // empty: cpu
	Threads  int    // 0: one per processor
	Seed     uint64 // of the stage and of made-up inputs
	Train    bool
	// Inputs are the caller's own arrays by port. Those that are missing, all where it is
	// nil, are made up by Sizes.
	Inputs map[string]*tensor.Tensor
	Sizes  map[string][]int64
	// Wanted are extra outputs that are computed on request.
	Wanted []string
}

// Stage is one opened stage; Close ends its plugin.
type Stage struct {
	host     *plughost.Host
	plugin   *plughost.Plugin
	manifest *sdk.StageManifest
	instance *plughost.Instance
	inputs   map[string]*tensor.Tensor
	wanted   map[string]bool
	train    bool
	seed     uint64
	threads  int
	// own says that the inputs are the caller's.
	own bool
	// started is how long the plugin took from its start to its manifest.
	started time.Duration
}

// Open starts the plugin, makes the inputs that are missing and opens the stage for them.
func Open(ctx context.Context, o Options) (_ *Stage, err error) {
	if o.Device == "" {
		o.Device = "cpu"
	}
	if o.Threads == 0 {
		o.Threads = runtime.NumCPU()
	}
	s := &Stage{inputs: map[string]*tensor.Tensor{}, wanted: map[string]bool{}, train: o.Train, seed: o.Seed, threads: o.Threads, own: o.Inputs != nil}
	maps.Copy(s.inputs, o.Inputs)
	for _, name := range o.Wanted {
		s.wanted[name] = true
	}
	o.Host.Threads = o.Threads
	if s.host, err = plughost.New(o.Host); err != nil {
		return nil, err
	}
	if err := s.open(ctx, o); err != nil {
		return nil, errors.Join(err, s.host.Close())
	}
	return s, nil
}

func (s *Stage) open(ctx context.Context, o Options) (err error) {
	begin := time.Now()
	if s.plugin, err = s.host.Start(ctx, o.Plugin); err != nil {
		return err
	}
	s.started = time.Since(begin)
	if s.manifest, err = oneStage(s.plugin.Manifest(), o.Stage); err != nil {
		return fault.Wrap(fault.Usage, err)
	}
	req := &sdk.OpenRequest{Stage: s.manifest.Name, Seed: o.Seed, Device: o.Device, Threads: o.Threads, Train: o.Train,
		Labels: o.Labels, AttributeSchema: o.Schema, Constants: map[string]*tensor.Tensor{},
		Optimizer: sdk.Optimizer{Name: "sgd", Values: map[string]float64{"momentum": 0, "weight_decay": 0, "nesterov": 0}}}
	if req.Settings, err = pipeline.ResolveSettings(s.manifest.Settings, o.Settings); err != nil {
		return fault.Errorf(fault.Usage, "stage %s of plugin %s: %w", s.manifest.Name, s.plugin.Name(), err)
	}
	for name, t := range s.inputs {
		if sdk.FindPort(s.manifest.Inputs, name) == nil && name == "value.embedding" {
			req.Constants[name] = t
			delete(s.inputs, name)
		}
	}
	if err := sample.Inputs(s.manifest.Inputs, o.Sizes, o.Seed, s.inputs); err != nil {
		return fault.Errorf(fault.Usage, "%w", err)
	}
	req.Inputs = sample.Feeding(s.manifest.Inputs, s.inputs)
	s.instance, _, err = s.plugin.Open(ctx, req)
	return err
}

// Close ends the plugin.
func (s *Stage) Close() error { return s.host.Close() }

// refusal maps what a stage refuses in a call: with the user's own arrays it is the
// data's fault, with made-up ones the fault of what was asked for.
func (s *Stage) refusal(err error) error {
	var refused *sdk.Error
	if plughost.IsFailure(err) || !errors.As(err, &refused) || refused.Code != sdk.InvalidArgument {
		return err
	}
	if s.own {
		return fault.Mark(fault.Data, err)
	}
	return fault.Mark(fault.Usage, err)
}

// Finite holds a stage to its promise: finite answers to finite inputs.
func (s *Stage) Finite(resp *sdk.ForwardResponse) error {
	for _, t := range s.inputs {
		if _, v := notFinite(t); v != nil {
			return nil
		}
	}
	broken := func(format string, args ...any) error {
		return fault.Errorf(fault.Plugin, "plugin %s: %s %s: forward: %s for finite inputs", s.plugin.Name(), s.manifest.Kind, s.manifest.Name, fmt.Sprintf(format, args...))
	}
	for _, name := range slices.Sorted(maps.Keys(resp.Outputs)) {
		if i, v := notFinite(resp.Outputs[name]); v != nil {
			return broken("output %q is %v at %d", name, *v, i)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(resp.Losses)) {
		if v := resp.Losses[name]; math.IsNaN(v) || math.IsInf(v, 0) {
			return broken("loss %q is %v", name, v)
		}
	}
	return nil
}

// notFinite returns the first number of an FP32 tensor that is NaN or infinite, nil
// without one.
func notFinite(t *tensor.Tensor) (int, *float32) {
	values, err := t.Float32s()
	if err != nil {
		return 0, nil // another type
	}
	for i, v := range values {
		if math.IsNaN(float64(v)) || math.IsInf(float64(v), 0) {
			return i, &v
		}
	}
	return 0, nil
}

func oneStage(m sdk.Manifest, name string) (*sdk.StageManifest, error) {
	if name == "" && len(m.Stages) == 1 {
		return &m.Stages[0], nil
	}
	var names []string
	for _, s := range m.Stages {
		names = append(names, s.Name)
	}
	if name == "" {
		return nil, fmt.Errorf("plugin %s has stages %s; name one with --stage", m.Name, strings.Join(names, ", "))
	}
	s, err := m.Stage(name)
	if err != nil {
		return nil, fmt.Errorf("plugin %s has no stage %q; it has %s", m.Name, name, strings.Join(names, ", "))
	}
	return s, nil
}

// Forward runs the stage once and says what that cost.
func (s *Stage) Forward(ctx context.Context) (*sdk.ForwardResponse, pipeline.Cost, error) {
	resp, err := s.instance.Forward(ctx, &sdk.ForwardRequest{Context: 1, Train: s.train, Seed: s.seed, Inputs: s.inputs, Wanted: s.wanted})
	if err != nil {
		return nil, pipeline.Cost{}, s.refusal(err)
	}
	cost := s.instance.Cost()
	if s.train {
		err = s.instance.Release(ctx, 1)
	}
	return resp, cost, err
}

// Arrays are a response's outputs by name, with losses and metrics as the scalars loss.NAME and
// metric.NAME.
func Arrays(resp *sdk.ForwardResponse) map[string]*tensor.Tensor {
	arrays := maps.Clone(resp.Outputs)
	for prefix, values := range map[string]map[string]float64{"loss.": resp.Losses, ports.Metrics.Of("").Name: resp.Metrics} {
		for name, v := range values {
			arrays[prefix+name] = &tensor.Tensor{DType: tensor.FP64, Shape: []int64{}, Data: tensor.OfFloat64s([]float64{v}).Data}
		}
	}
	return arrays
}

// GradientReport is the outcome of Gradients and the JSON of `stage grad`.
type GradientReport struct {
	SchemaVersion int        `json:"schema_version"`
	Plugin        string     `json:"plugin"`
	Stage         string     `json:"stage"`
	Tolerance     float64    `json:"tolerance"`
	Passed        bool       `json:"passed"`
	Directions    []Gradient `json:"directions"`
}

// Gradient is the derivative along one direction of an input.
type Gradient struct {
	Input         string  `json:"input"`
	Analytic      float64 `json:"analytic"`
	Numeric       float64 `json:"numeric"`
	RelativeError float64 `json:"relative_error"`
}

// Gradients compares the stage's gradients with finite differences. Worst is the direction
// with the largest relative error, by which it passes or not.
func (s *Stage) Gradients(ctx context.Context, tolerance float64) (report *GradientReport, worst Gradient, err error) {
	results, err := gradcheck.Check(ctx, s.instance, s.inputs, gradcheck.Options{Seed: s.seed, FirstContext: 1, Wanted: s.wanted})
	if err != nil {
		return nil, worst, s.refusal(err)
	}
	report = &GradientReport{SchemaVersion: 1, Plugin: s.plugin.Manifest().Name, Stage: s.manifest.Name, Tolerance: tolerance}
	entry := func(x gradcheck.Result) Gradient { return Gradient{x.Input, x.Analytic, x.Numeric, x.RelativeError} }
	for _, x := range results {
		report.Directions = append(report.Directions, entry(x))
	}
	worst = entry(gradcheck.Worst(results))
	report.Passed = worst.RelativeError <= tolerance
	return report, worst, nil
}
