package onestage

import (
	"context"
	"slices"

	"github.com/alignedfusion/alignedfusion/host/pipeline"
	"github.com/alignedfusion/alignedfusion/internal/stat"
	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/ports"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

// BenchReport is the outcome of Bench and the JSON of `stage bench`.
type BenchReport struct {
	SchemaVersion          int                `json:"schema_version"`
	Plugin                 string             `json:"plugin"`
	Stage                  string             `json:"stage"`
	Mode                   string             `json:"mode"`
	Steps                  int                `json:"steps"`
	Threads                int                `json:"threads"`
	WholeStep              bool               `json:"whole_step"`
	SharedMemory           bool               `json:"shared_memory"`
	Inputs                 map[string][]int64 `json:"inputs"`
	StartSeconds           float64            `json:"start_seconds"`
	MedianSeconds          float64            `json:"median_seconds"`
	MinSeconds             float64            `json:"min_seconds"`
	MaxSeconds             float64            `json:"max_seconds"`
	MedianComputeSeconds   float64            `json:"median_compute_seconds"`
	MedianTransportSeconds float64            `json:"median_transport_seconds"`
	MinTransportSeconds    float64            `json:"min_transport_seconds"`
	PeakRSSBytes           int64              `json:"peak_rss_bytes"`
}

// BenchOptions of Bench.
type BenchOptions struct {
	Warmup, Steps int // steps before the measured ones; one or more measured ones
	// WholeStep adds the calls around Forward and Backward to a step of a training stage.
	WholeStep bool
}

// Bench measures the stage: a step is one Forward and, when training, one Backward; of a head
// that is given targets a whole one has both in one call, as in a training.
func (s *Stage) Bench(ctx context.Context, o BenchOptions) (*BenchReport, error) {
	var wall, compute, transport []float64
	mode := "eval"
	if s.train {
		mode = "train"
	}
	report := &BenchReport{SchemaVersion: 1, Plugin: s.plugin.Manifest().Name, Stage: s.manifest.Name, Mode: mode, Steps: o.Steps, Threads: s.threads,
		WholeStep: o.WholeStep, SharedMemory: s.plugin.SharedMemory(), StartSeconds: s.started.Seconds(), Inputs: map[string][]int64{}}
	for name, t := range s.inputs {
		report.Inputs[name] = t.Shape
	}
	for step := range o.Warmup + o.Steps {
		cost, err := s.step(ctx, uint64(step+1), o.WholeStep)
		if err != nil {
			return nil, s.refusal(err)
		}
		report.PeakRSSBytes = max(report.PeakRSSBytes, cost.PeakRSSBytes)
		if step >= o.Warmup {
			wall = append(wall, cost.Wall.Seconds())
			compute = append(compute, cost.Compute.Seconds())
			transport = append(transport, cost.Transport().Seconds())
		}
	}
	report.MinSeconds, report.MaxSeconds = slices.Min(wall), slices.Max(wall)
	report.MedianSeconds, report.MedianComputeSeconds, report.MedianTransportSeconds = stat.Median(wall), stat.Median(compute), stat.Median(transport)
	report.MinTransportSeconds = slices.Min(transport)
	return report, nil
}

// step is one Forward and, when training, one Backward; a whole one has the optimizer's
// step as well.
func (s *Stage) step(ctx context.Context, id uint64, whole bool) (pipeline.Cost, error) {
	needs := map[string]bool{}
	for name, t := range s.inputs {
		if p := sdk.FindPort(s.manifest.Inputs, name); s.train && p != nil && p.Differentiable && t.DType == tensor.FP32 {
			needs[name] = true
		}
	}
	if s.train && !whole {
		if err := s.instance.ZeroGrad(ctx); err != nil {
			return pipeline.Cost{}, err
		}
	}
	before := s.instance.Cost()
	forward := &sdk.ForwardRequest{Context: id, Train: s.train, Seed: s.seed, Inputs: s.inputs, NeedsGrad: needs, Wanted: s.wanted}
	var resp *sdk.ForwardResponse
	var err error
	if whole && s.manifest.Kind == sdk.KindHead && s.targeted() {
		weights := map[string]float64{}
		for _, name := range s.manifest.Losses {
			weights[name] = 1
		}
		resp, _, err = s.instance.ForwardBackward(ctx, forward, &sdk.BackwardRequest{Context: id, LossWeights: weights, GradNorm: true})
		if err == nil {
			err = s.Finite(resp)
		}
	} else {
		resp, err = s.instance.Forward(ctx, forward)
		if err == nil {
			err = s.Finite(resp)
		}
		if err == nil && s.train {
			_, err = s.instance.Backward(ctx, s.ones(id, resp, whole))
		}
	}
	if err == nil && whole {
		err = s.instance.Step(ctx, &sdk.StepRequest{Values: map[string]float64{"learning_rate": 0}, GradientScale: 1, ZeroGrad: true})
	}
	return s.instance.Cost().Sub(before), err
}

// targeted reports whether the stage computes losses, all of which the manifest names.
func (s *Stage) targeted() bool {
	given := false
	for name := range s.inputs {
		given = given || ports.Target(name)
	}
	return given && len(s.manifest.Losses) > 0 && !slices.ContainsFunc(s.manifest.Losses, func(name string) bool { _, family := sdk.Family(name); return family })
}

// ones asks for the gradients of the sum of all outputs and losses.
func (s *Stage) ones(id uint64, resp *sdk.ForwardResponse, whole bool) *sdk.BackwardRequest {
	back := &sdk.BackwardRequest{Context: id, OutputGrads: map[string]*tensor.Tensor{}, LossWeights: map[string]float64{}, GradNorm: whole}
	for name, t := range resp.Outputs {
		if p := sdk.FindPort(s.instance.Outputs(), name); p == nil || !p.Differentiable {
			continue
		}
		ones := t.Clone()
		if values, err := ones.Float32s(); err == nil {
			for i := range values {
				values[i] = 1
			}
		}
		back.OutputGrads[name] = ones
	}
	for name := range resp.Losses {
		back.LossWeights[name] = 1
	}
	return back
}
