// Package gradcheck compares the gradients of a stage with finite differences.
package gradcheck

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sort"

	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

// Stage is an opened instance in TRAIN mode: a *client.Instance or a host's own.
type Stage interface {
	Manifest() *sdk.StageManifest
	Inputs() []sdk.Port
	Outputs() []sdk.Port
	Forward(ctx context.Context, req *sdk.ForwardRequest) (*sdk.ForwardResponse, error)
	Backward(ctx context.Context, req *sdk.BackwardRequest) (*sdk.BackwardResponse, error)
	Release(ctx context.Context, contextID uint64) error
}

// Options of Check. The zero value is ready to use.
type Options struct {
	// Seed of the directions, the output gradients and the stage's own randomness.
	Seed uint64
	// Directions per input; 0 means 3.
	Directions int
	// FirstContext is the first context number used; Check uses them upwards from there.
	FirstContext uint64
	// Wanted on-request outputs, which then take part.
	Wanted map[string]bool
}

// Result is one input and direction: the derivative of
// L = Σ ⟨output, random⟩ + Σ loss along a random unit direction, both ways.
type Result struct {
	Input              string
	Analytic, Numeric  float64
	Step               float64
	RelativeError      float64
	NumericUncertainty float64
}

// ErrNothing is returned when the stage has no differentiable input among the given
// ones, or nothing that depends on it.
var ErrNothing = errors.New("gradcheck: no differentiable input and output to compare")

// Check runs the stage forwards and backwards at the given inputs and compares, for
// every differentiable FP32 input, the derivatives along random directions with central
// differences. The step of a difference is chosen where neighbouring steps agree best,
// without a look at the gradient under test.
func Check(ctx context.Context, s Stage, inputs map[string]*tensor.Tensor, o Options) ([]Result, error) {
	if o.Directions == 0 {
		o.Directions = 3
	}
	c := &checker{Stage: s, o: o, next: o.FirstContext, random: rand.New(rand.NewPCG(o.Seed, 0x67726164))}
	var names []string
	for name, t := range inputs {
		if p := sdk.FindPort(s.Inputs(), name); p != nil && p.Differentiable && t.DType == tensor.FP32 && t.Len() > 0 {
			names = append(names, name)
		}
	}
	sort.Strings(names)
	if len(names) == 0 {
		return nil, ErrNothing
	}
	needs := map[string]bool{}
	for _, name := range names {
		needs[name] = true
	}
	resp, id, err := c.forward(ctx, inputs, needs)
	if err != nil {
		return nil, err
	}
	if err := c.weigh(resp); err != nil {
		return nil, errors.Join(err, s.Release(ctx, id))
	}
	grads, err := s.Backward(ctx, &sdk.BackwardRequest{Context: id, OutputGrads: c.outputGrads, LossWeights: c.lossWeights})
	if err != nil {
		return nil, err
	}
	var out []Result
	for _, name := range names {
		for range o.Directions {
			r, err := c.direction(ctx, inputs, name, grads.InputGrads[name])
			if err != nil {
				return nil, err
			}
			out = append(out, r)
		}
	}
	return out, nil
}

// Worst returns the result with the largest relative error.
func Worst(results []Result) Result {
	return slices.MaxFunc(results, func(a, b Result) int {
		if a.RelativeError < b.RelativeError {
			return -1
		}
		return 1
	})
}

type checker struct {
	Stage
	o           Options
	next        uint64
	random      *rand.Rand
	outputGrads map[string]*tensor.Tensor
	lossWeights map[string]float64
}

func (c *checker) forward(ctx context.Context, inputs map[string]*tensor.Tensor, needs map[string]bool) (*sdk.ForwardResponse, uint64, error) {
	id := c.next
	c.next++
	resp, err := c.Forward(ctx, &sdk.ForwardRequest{Context: id, Train: true, Seed: c.o.Seed, Inputs: inputs, NeedsGrad: needs, Wanted: c.o.Wanted})
	return resp, id, err
}

// weigh draws the scalar L: a random gradient for every differentiable output, weight 1
// for every loss.
func (c *checker) weigh(resp *sdk.ForwardResponse) error {
	c.outputGrads, c.lossWeights = map[string]*tensor.Tensor{}, map[string]float64{}
	for _, name := range sortedKeys(resp.Outputs) {
		p := sdk.FindPort(c.Outputs(), name)
		if p == nil || !p.Differentiable || resp.Outputs[name].DType != tensor.FP32 {
			continue
		}
		values := make([]float32, resp.Outputs[name].Len())
		for i := range values {
			values[i] = float32(c.random.NormFloat64())
		}
		c.outputGrads[name] = tensor.OfFloat32s(values, resp.Outputs[name].Shape...)
	}
	for name := range resp.Losses {
		c.lossWeights[name] = 1
	}
	if len(c.outputGrads)+len(c.lossWeights) == 0 {
		return ErrNothing
	}
	return nil
}

func (c *checker) scalar(resp *sdk.ForwardResponse) (float64, error) {
	var sum float64
	for name, g := range c.outputGrads {
		y, err := resp.Outputs[name].Float32s()
		if err != nil {
			return 0, fmt.Errorf("output %q: %w", name, err)
		}
		weights, _ := g.Float32s()
		if len(y) != len(weights) {
			return 0, fmt.Errorf("output %q changed its size between two runs on inputs of one shape", name)
		}
		for i := range y {
			sum += float64(y[i]) * float64(weights[i])
		}
	}
	for name, w := range c.lossWeights {
		sum += w * resp.Losses[name]
	}
	return sum, nil
}

// steps are relative to the input's root mean square; single precision leaves the
// smallest ones noisy and the largest ones curved.
var steps = []float64{0.2, 0.1, 0.05, 0.025, 0.0125, 0.006, 0.003}

func (c *checker) direction(ctx context.Context, inputs map[string]*tensor.Tensor, name string, grad *tensor.Tensor) (Result, error) {
	x, err := inputs[name].Float32s()
	if err != nil {
		return Result{}, err
	}
	g, err := grad.Float32s()
	if err != nil {
		return Result{}, fmt.Errorf("gradient of %q: %w", name, err)
	}
	d := make([]float64, len(x))
	var norm, square float64
	for i := range d {
		d[i] = c.random.NormFloat64()
		norm += d[i] * d[i]
		square += float64(x[i]) * float64(x[i])
	}
	norm = math.Sqrt(norm)
	scale := math.Sqrt(square)
	if scale == 0 {
		scale = 1
	}
	// Along a purely random direction of many dimensions the derivative is small and
	// drowns in rounding: half of the direction follows the gradient.
	var gnorm float64
	for i := range g {
		gnorm += float64(g[i]) * float64(g[i])
	}
	gnorm = math.Sqrt(gnorm)
	var total float64
	for i := range d {
		d[i] /= norm
		if gnorm > 0 {
			d[i] += float64(g[i]) / gnorm
		}
		total += d[i] * d[i]
	}
	total = math.Sqrt(total)
	r := Result{Input: name}
	for i := range d {
		d[i] /= total
		r.Analytic += d[i] * float64(g[i])
	}
	estimates := make([]float64, len(steps))
	for k, relative := range steps {
		step := relative * scale
		var at [2]float64
		var moved [2][]float64
		for side, sign := range []float64{1, -1} {
			values := make([]float32, len(x))
			moved[side] = make([]float64, len(x))
			for i := range x {
				values[i] = float32(float64(x[i]) + sign*step*d[i])
				moved[side][i] = float64(values[i])
			}
			changed := map[string]*tensor.Tensor{}
			for other, t := range inputs {
				changed[other] = t
			}
			changed[name] = tensor.OfFloat32s(values, inputs[name].Shape...)
			resp, id, err := c.forward(ctx, changed, nil)
			if err != nil {
				return r, err
			}
			if err := c.Release(ctx, id); err != nil {
				return r, err
			}
			if at[side], err = c.scalar(resp); err != nil {
				return r, err
			}
		}
		// What the rounding to single precision left of the step.
		var along float64
		for i := range d {
			along += (moved[0][i] - moved[1][i]) * d[i]
		}
		estimates[k] = (at[0] - at[1]) / along
	}
	best := math.Inf(1)
	for k := 1; k < len(estimates); k++ {
		if spread := math.Abs(estimates[k] - estimates[k-1]); spread < best || math.IsInf(best, 1) {
			best = spread
			// Richardson's step removes the error of second order.
			ratio := (steps[k-1] / steps[k]) * (steps[k-1] / steps[k])
			r.Numeric = (ratio*estimates[k] - estimates[k-1]) / (ratio - 1)
			r.Step, r.NumericUncertainty = steps[k], spread
		}
	}
	r.RelativeError = math.Abs(r.Analytic-r.Numeric) / max(math.Abs(r.Analytic), math.Abs(r.Numeric), 1e-6)
	if math.IsNaN(r.RelativeError) {
		r.RelativeError = math.Inf(1)
	}
	return r, nil
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}
