// Package gradcheck compares the gradients of a stage with finite differences.
package gradcheck

import (
	"context"
	"errors"
	"fmt"
	"maps"
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
	// Directions per input; 0 means 4. They take turns in its two halves, so that a gradient
	// that is right on one of them does not outweigh the other.
	Directions int
	// Edges adds two directions in each first and last slab of each axis, where slices that
	// are off by one leave a gradient out.
	Edges bool
	// FirstContext is the first context number used; Check uses them upwards from there.
	FirstContext uint64
	// Wanted on-request outputs, which then take part.
	Wanted map[string]bool
}

// Result is one input and direction: the derivative of
// L = Σ ⟨output, random⟩ + Σ loss along a random unit direction, both ways. Each output and
// loss is weighed so that its gradient by the inputs is as long as the longest: none outweighs
// another.
type Result struct {
	Input string
	// Part of the input in which the direction lies, in the order of Halves and Edges.
	Part               int
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
		o.Directions = 4
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
	if err := c.balance(ctx, inputs, needs); err != nil {
		return nil, err
	}
	grads, err := s.Backward(ctx, &sdk.BackwardRequest{Context: id, OutputGrads: c.outputGrads, LossWeights: c.lossWeights})
	if err != nil {
		return nil, err
	}
	var out []Result
	for _, name := range names {
		parts := Halves(inputs[name].Len())
		tries := make([]int, 0, o.Directions)
		for k := range o.Directions {
			tries = append(tries, k%len(parts))
		}
		if o.Edges {
			for range 2 {
				for k := range Edges(inputs[name].Shape) {
					tries = append(tries, len(parts)+k)
				}
			}
			parts = append(parts, Edges(inputs[name].Shape)...)
		}
		for _, k := range tries {
			r, err := c.direction(ctx, inputs, name, parts[k], grads.InputGrads[name])
			if err != nil {
				return nil, err
			}
			r.Part = k
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

// mostWeight bounds by how much a term is weighed up: a derivative that is almost nothing
// must not bring the rounding of the others' with it.
const mostWeight = 1e3

// Balance are the factors that make terms with gradients of these norms weigh the same; a term
// without a gradient keeps its weight.
func Balance(norms map[string]float64) map[string]float64 {
	out, longest := map[string]float64{}, 0.0
	for _, n := range norms {
		longest = max(longest, n)
	}
	for name, n := range norms {
		if out[name] = 1; n > 0 {
			out[name] = min(longest/n, mostWeight)
		}
	}
	return out
}

// balance weighs the terms of L by the gradients that each has by itself.
func (c *checker) balance(ctx context.Context, inputs map[string]*tensor.Tensor, needs map[string]bool) error {
	if len(c.outputGrads)+len(c.lossWeights) < 2 {
		return nil
	}
	norms := map[string]float64{}
	alone := func(term string, req *sdk.BackwardRequest) error {
		_, id, err := c.forward(ctx, inputs, needs)
		if err != nil {
			return err
		}
		req.Context = id
		back, err := c.Backward(ctx, req)
		if err != nil {
			return err
		}
		var square float64
		for _, t := range back.InputGrads {
			values, _ := t.Float32s()
			for _, v := range values {
				square += float64(v) * float64(v)
			}
		}
		norms[term] = math.Sqrt(square)
		return nil
	}
	for name, g := range c.outputGrads {
		if err := alone("output "+name, &sdk.BackwardRequest{OutputGrads: map[string]*tensor.Tensor{name: g}}); err != nil {
			return err
		}
	}
	for name := range c.lossWeights {
		if err := alone("loss "+name, &sdk.BackwardRequest{LossWeights: map[string]float64{name: 1}}); err != nil {
			return err
		}
	}
	factors := Balance(norms)
	for name, g := range c.outputGrads {
		values, _ := g.Float32s()
		for i := range values {
			values[i] *= float32(factors["output "+name])
		}
		c.outputGrads[name] = tensor.OfFloat32s(values, g.Shape...)
	}
	for name := range c.lossWeights {
		c.lossWeights[name] = factors["loss "+name]
	}
	return nil
}

// scalar is L, with the sum of its terms' sizes, of which rounding leaves a part open.
func (c *checker) scalar(resp *sdk.ForwardResponse) (sum, terms float64, err error) {
	for name, g := range c.outputGrads {
		y, err := resp.Outputs[name].Float32s()
		if err != nil {
			return 0, 0, fmt.Errorf("output %q: %w", name, err)
		}
		weights, _ := g.Float32s()
		if len(y) != len(weights) {
			return 0, 0, fmt.Errorf("output %q changed its size between two runs on inputs of one shape", name)
		}
		for i := range y {
			sum += float64(y[i]) * float64(weights[i])
			terms += math.Abs(float64(y[i]) * float64(weights[i]))
		}
	}
	for name, w := range c.lossWeights {
		sum += w * resp.Losses[name]
		terms += math.Abs(w * resp.Losses[name])
	}
	return sum, terms, nil
}

// Steps are relative to the size of what is moved and fall from firstStep by halves; single
// precision leaves the smallest ones noisy and the largest ones curved.
const (
	firstStep = 0.2
	halvings  = 14
)

// rounding of single precision in a difference, per unit of the terms that it is made of.
const rounding = 2e-7

// agreement of neighbouring estimates beyond which smaller steps are not tried.
const agreement = 1e-3

// Derivative estimates f' at 0 by central differences whose step is chosen where three
// neighbours agree best: two may by chance. Scale is the size of what moves; at returns f at
// a step, and the step that rounding left of it. Step is half the distance of the two places
// compared in the end, spread how far the neighbours lie apart.
func Derivative(scale float64, at func(step float64) (value, made float64, err error)) (slope, step, spread float64, err error) {
	// Richardson's step removes the error of second order.
	return settle(scale, 4, func(h float64) (float64, error) { return between(at, -h, h) })
}

// Left is Derivative from below alone: at a corner the derivative that central differences
// lead to is the mean of two, and a gradient is either.
func Left(scale float64, at func(step float64) (value, made float64, err error)) (slope, step, spread float64, err error) {
	slope, step, spread, err = settle(scale, 2, func(h float64) (float64, error) { return between(at, -h, 0) })
	return slope, step / 2, spread, err
}

// Right is Left from above.
func Right(scale float64, at func(step float64) (value, made float64, err error)) (slope, step, spread float64, err error) {
	slope, step, spread, err = settle(scale, 2, func(h float64) (float64, error) { return between(at, 0, h) })
	return slope, step / 2, spread, err
}

// between is the slope of f from one place to another.
func between(at func(step float64) (value, made float64, err error), from, to float64) (float64, error) {
	above, up, err := at(to)
	if err != nil {
		return 0, err
	}
	below, down, err := at(from)
	return (above - below) / (up - down), err
}

// settle halves a step whose error falls by this factor until neighbouring estimates agree.
func settle(scale, falls float64, estimate func(step float64) (float64, error)) (slope, step, spread float64, err error) {
	spread = math.Inf(1)
	var estimates []float64
	for k := range halvings {
		h := firstStep * scale / float64(int(1)<<k)
		e, err := estimate(h)
		if err != nil {
			return 0, 0, 0, err
		}
		estimates = append(estimates, e)
		if k < 2 {
			continue
		}
		a, b, c := estimates[k-2], estimates[k-1], estimates[k]
		if most := max(math.Abs(a-b), math.Abs(b-c)); most < spread {
			slope, step, spread = (falls*c-b)/(falls-1), h, most
			if most <= agreement*math.Abs(slope) {
				break
			}
		}
	}
	return slope, step, spread, nil
}

// Part is some of a tensor's numbers, by their place in row-major order.
type Part func(i int) bool

// Halves are the first and the second half of n numbers; one number is one part.
func Halves(n int) []Part {
	if n < 2 {
		return []Part{func(int) bool { return true }}
	}
	return []Part{func(i int) bool { return i < n/2 }, func(i int) bool { return i >= n/2 }}
}

// Edges are the first and the last slab of a shape along each of its axes that has more
// than one place, but those that are halves.
func Edges(shape []int64) (out []Part) {
	inner := 1
	for axis := len(shape) - 1; axis >= 0; axis-- {
		size, stride := int(shape[axis]), inner
		if inner *= size; size < 2 || axis == 0 && size == 2 {
			continue
		}
		for _, place := range []int{0, size - 1} {
			out = append(out, func(i int) bool { return i/stride%size == place })
		}
	}
	return out
}

// Direction is a unit vector in a part of the space of a gradient's numbers. Along a purely
// random direction of many dimensions the derivative is small and drowns in rounding: half
// of it follows the gradient.
func Direction(gradient []float64, part Part, random *rand.Rand) []float64 {
	d := make([]float64, len(gradient))
	var places []int
	for i := range d {
		if part(i) {
			places = append(places, i)
		}
	}
	var length, follows, along float64
	for _, i := range places {
		d[i] = random.NormFloat64()
		length += d[i] * d[i]
		follows += gradient[i] * gradient[i]
		along += d[i] * gradient[i]
	}
	// The random part points where the gradient does: they never cancel.
	length = math.Copysign(math.Sqrt(length), along)
	var total float64
	for _, i := range places {
		d[i] /= length
		if follows > 0 {
			d[i] += gradient[i] / math.Sqrt(follows)
		}
		total += d[i] * d[i]
	}
	for _, i := range places {
		d[i] /= math.Sqrt(total)
	}
	return d
}

func (c *checker) direction(ctx context.Context, inputs map[string]*tensor.Tensor, name string, part Part, grad *tensor.Tensor) (Result, error) {
	x, err := inputs[name].Float32s()
	if err != nil {
		return Result{}, err
	}
	g, err := grad.Float32s()
	if err != nil {
		return Result{}, fmt.Errorf("gradient of %q: %w", name, err)
	}
	gradient, square := make([]float64, len(g)), 0.0
	for i, v := range g {
		gradient[i] = float64(v)
		square += float64(x[i]) * float64(x[i])
	}
	scale := math.Sqrt(square)
	if scale == 0 {
		scale = 1
	}
	d, r := Direction(gradient, part, c.random), Result{Input: name}
	for i := range d {
		r.Analytic += d[i] * gradient[i]
	}
	var terms float64
	r.Numeric, r.Step, r.NumericUncertainty, err = Derivative(scale, func(step float64) (value, made float64, err error) {
		values := make([]float32, len(x))
		for i := range x {
			values[i] = float32(float64(x[i]) + step*d[i])
			made += (float64(values[i]) - float64(x[i])) * d[i]
		}
		changed := maps.Clone(inputs)
		changed[name] = tensor.OfFloat32s(values, inputs[name].Shape...)
		resp, id, err := c.forward(ctx, changed, nil)
		if err == nil {
			err = c.Release(ctx, id)
		}
		if err == nil {
			value, terms, err = c.scalar(resp)
		}
		return value, made, err
	})
	if err != nil {
		return r, err
	}
	r.NumericUncertainty += rounding * terms / r.Step
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
