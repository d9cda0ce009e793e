package toy

import (
	"context"
	"errors"
	"maps"
	"math"
	"math/rand/v2"
	"path/filepath"
	"slices"

	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/safetensors"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

// module computes: it takes inputs from a call and gives it outputs and losses.
type module interface {
	forward(ctx context.Context, c *call) error
}

// param is a parameter with the memory of SGD with momentum.
type param struct {
	node
	shape    []int64
	velocity []float64
}

// Stage is a module with parameters, an optimizer and open contexts. It is a sdk.Trainer
// and a sdk.Saver, and an instance as a pipeline calls it with no process in between.
type Stage struct {
	module
	params   map[string]*param
	runs     map[uint64]*call
	seed     uint64
	momentum float64
	peers    peers
}

// call is one Forward.
type call struct {
	tape
	*sdk.ForwardRequest
	params          map[string]*param
	inputs, outputs map[string]*node
	losses          map[string]*node
	answer          *sdk.ForwardResponse
}

// in is a floating-point input.
func (c *call) in(name string) (*node, error) {
	values, err := c.Inputs[name].Float32s()
	if err != nil {
		return nil, err
	}
	c.inputs[name] = constant(widen(values))
	return c.inputs[name], nil
}

func (c *call) param(name string) *node { return &c.params[name].node }

// out answers a value as FP32.
func (c *call) out(name string, n *node, shape ...int64) error {
	t, err := c.NewOutput(name, tensor.FP32, shape...)
	if err != nil {
		return err
	}
	values, err := t.Float32s()
	for i := range values {
		values[i] = float32(n.v[i])
	}
	c.answer.Outputs[name], c.outputs[name] = t, n
	return err
}

func (c *call) loss(name string, n *node) {
	c.losses[name], c.answer.Losses[name] = n, n.v[0]
}

func widen(values []float32) []float64 {
	out := make([]float64, len(values))
	for i, v := range values {
		out[i] = float64(v)
	}
	return out
}

func (s *Stage) add(name string, scale float64, shape ...int) {
	p, n := &param{}, 1
	for _, d := range shape {
		p.shape = append(p.shape, int64(d))
		n *= d
	}
	rng := rand.New(rand.NewPCG(s.seed, uint64(len(name))))
	p.node, p.velocity = *constant(make([]float64, n)), make([]float64, n)
	for i := range p.v {
		p.v[i] = scale * rng.NormFloat64()
	}
	s.params[name] = p
}

// Forward computes; a TRAIN context stays open.
func (s *Stage) Forward(ctx context.Context, req *sdk.ForwardRequest) (*sdk.ForwardResponse, error) {
	c := &call{ForwardRequest: req, params: s.params, inputs: map[string]*node{}, outputs: map[string]*node{}, losses: map[string]*node{},
		answer: &sdk.ForwardResponse{Outputs: map[string]*tensor.Tensor{}, Losses: map[string]float64{}, Metrics: map[string]float64{}}}
	if c.NewOutput == nil {
		c.NewOutput = func(_ string, dtype tensor.DType, shape ...int64) (*tensor.Tensor, error) {
			return tensor.New(dtype, shape...)
		}
	}
	if err := s.forward(ctx, c); err != nil {
		return nil, err
	}
	if req.Train {
		s.runs[req.Context] = c
	}
	return c.answer, nil
}

// Backward goes back along the tape.
func (s *Stage) Backward(ctx context.Context, req *sdk.BackwardRequest) (*sdk.BackwardResponse, error) {
	c := s.runs[req.Context]
	if c == nil {
		return nil, sdk.Errorf(sdk.NotFound, "context %d is not open", req.Context)
	}
	delete(s.runs, req.Context)
	for name, t := range req.OutputGrads {
		given, err := t.Float32s()
		if err != nil {
			return nil, err
		}
		for i, g := range given {
			c.outputs[name].g[i] += float64(g)
		}
	}
	for name, weight := range req.LossWeights {
		if loss := c.losses[name]; loss != nil {
			loss.g[0] += weight
		}
	}
	c.backward()
	resp := &sdk.BackwardResponse{InputGrads: map[string]*tensor.Tensor{}}
	for name, n := range c.inputs {
		if !c.NeedsGrad[name] {
			continue
		}
		narrow := make([]float32, len(n.g))
		for i, g := range n.g {
			narrow[i] = float32(g)
		}
		resp.InputGrads[name] = tensor.OfFloat32s(narrow, c.Inputs[name].Shape...)
	}
	var err error
	if req.GradNorm {
		resp.GradNorm, err = s.GradNorm(ctx)
	}
	return resp, err
}

// ForwardBackward is one after the other, where the losses are numbers.
func (s *Stage) ForwardBackward(ctx context.Context, f *sdk.ForwardRequest, b *sdk.BackwardRequest) (*sdk.ForwardResponse, *sdk.BackwardResponse, error) {
	resp, err := s.Forward(ctx, f)
	if err != nil {
		return nil, nil, err
	}
	for _, l := range resp.Losses {
		if math.IsNaN(l) || math.IsInf(l, 0) {
			return resp, nil, s.Release(ctx, f.Context)
		}
	}
	grads, err := s.Backward(ctx, b)
	return resp, grads, err
}

// Release ends a context.
func (s *Stage) Release(_ context.Context, id uint64) error {
	delete(s.runs, id)
	return nil
}

// ZeroGrad clears the gradients.
func (s *Stage) ZeroGrad(context.Context) error {
	if err := s.settle(); err != nil {
		return err
	}
	for _, p := range s.params {
		clear(p.g)
	}
	return nil
}

// GradNorm is the L2 norm over all gradients.
func (s *Stage) GradNorm(context.Context) (float64, error) {
	if err := s.settle(); err != nil {
		return 0, err
	}
	var squares float64
	for _, name := range slices.Sorted(maps.Keys(s.params)) {
		for _, g := range s.params[name].g {
			squares += g * g
		}
	}
	return math.Sqrt(squares), nil
}

// Step is SGD with momentum.
func (s *Stage) Step(ctx context.Context, req *sdk.StepRequest) error {
	if err := s.settle(); err != nil {
		return err
	}
	for _, p := range s.params {
		for i, g := range p.g {
			p.velocity[i] = s.momentum*p.velocity[i] + req.GradientScale*g
			p.v[i] -= req.Values["learning_rate"] * p.velocity[i]
		}
	}
	if req.ZeroGrad {
		return s.ZeroGrad(ctx)
	}
	return nil
}

// Close does nothing.
func (s *Stage) Close() error { return nil }

// files are what Save writes: a tensor of each parameter.
var files = []struct {
	name string
	of   func(*param) []float64
}{
	{"weights.safetensors", func(p *param) []float64 { return p.v }},
	{"optimizer.safetensors", func(p *param) []float64 { return p.velocity }},
}

// Save writes weights.safetensors and optimizer.safetensors.
func (s *Stage) Save(_ context.Context, dir string) (names []string, err error) {
	if err := s.settle(); err != nil {
		return nil, err
	}
	for _, file := range files {
		tensors := map[string]*tensor.Tensor{}
		for name, p := range s.params {
			tensors[name] = tensor.OfFloat64s(file.of(p), p.shape...)
		}
		names = append(names, file.name)
		err = errors.Join(err, safetensors.Write(filepath.Join(dir, file.name), tensors, nil))
	}
	return names, err
}

// Load reads what Save wrote.
func (s *Stage) Load(_ context.Context, dir string, weightsOnly bool) error {
	if err := s.settle(); err != nil {
		return err
	}
	var ready []func()
	for i, file := range files {
		if i > 0 && weightsOnly {
			break
		}
		f, err := safetensors.Open(filepath.Join(dir, file.name))
		if err != nil {
			return sdk.Errorf(sdk.InvalidArgument, "%w", err)
		}
		defer f.Close()
		for name, p := range s.params {
			t, err := f.Tensor(name)
			if err != nil {
				return sdk.Errorf(sdk.InvalidArgument, "%w", err)
			}
			values, err := t.Float64s()
			if err != nil || len(values) != len(p.v) {
				return sdk.Errorf(sdk.InvalidArgument, "%s: %s is %v, want FP64 %v", file.name, name, t, p.shape)
			}
			ready = append(ready, func() { copy(file.of(p), values) })
		}
	}
	for _, replace := range ready {
		replace()
	}
	return nil
}
