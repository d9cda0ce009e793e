package conformance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/client"
	"github.com/alignedfusion/alignedfusion/sdk/gradcheck"
	"github.com/alignedfusion/alignedfusion/sdk/ports"
	"github.com/alignedfusion/alignedfusion/sdk/sample"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

// group is the group name of stages that share resident ports.
const group = "conformance"

// subject is a stage under test with inputs it takes.
type subject struct {
	*runner
	manifest *sdk.StageManifest
	label    string
	// providers are the stages of the same plugin that make the resident inputs.
	providers []*provider
	inputs    map[string]*tensor.Tensor
	// schema and constants are what a host sends with a report.
	schema    []byte
	constants map[string]*tensor.Tensor
	opened    []*chain
	groups    int
}

// provider is a stage whose resident outputs the subject needs.
type provider struct {
	manifest *sdk.StageManifest
	inputs   map[string]*tensor.Tensor
}

// chain is an instance of the subject together with the instances it depends on. It is
// called like a single instance.
type chain struct {
	*client.Instance
	subject  *subject
	before   []*client.Instance
	contexts map[uint64]bool
	// trainable is the number of parameters that the stage says it trains.
	trainable int64
	// promised are the losses that it says every training Forward returns.
	promised []string
}

var _ gradcheck.Stage = (*chain)(nil)

// prepare finds inputs the stage computes on.
func (s *subject) prepare(ctx context.Context) {
	s.inputs = map[string]*tensor.Tensor{}
	s.findProviders(ctx)
	s.makeInputs(s.manifest, s.inputs, nil)
	s.schema = s.options.AttributeSchema
	s.addReport(ctx)
	c := s.open(ctx, s.conn.InBand, opening{})
	resp := c.run(ctx, 1, false, s.inputs, nil)
	// Targets: their sizes often follow from the outputs.
	dims := map[string]int64{}
	for name, t := range resp.Outputs {
		if p := sdk.FindPort(s.manifest.Outputs, name); p != nil {
			for i, d := range p.Shape {
				if i < len(t.Shape) {
					dims[d] = t.Shape[i]
				}
			}
		}
	}
	with := maps.Clone(s.inputs)
	s.makeTargets(s.manifest, with, dims)
	if len(with) == len(s.inputs) {
		return
	}
	_, err := c.tryRun(ctx, 2, false, with, nil)
	var refused *sdk.Error
	if errors.As(err, &refused) && refused.Code == sdk.InvalidArgument {
		return // made-up targets do not suit it; do without
	}
	check(err)
	s.inputs = with
}

// sampleSchema has as many attributes as usual["A"].
const sampleSchema = `{"schema_version": 1, "attributes": [{"name": "margin", "kind": "binary", "values": ["no", "yes"]},
	{"name": "calcified", "kind": "binary", "values": ["no", "yes"]}, {"name": "shape", "kind": "categorical", "values": ["round", "oval", "irregular"]}]}`

// addReport gives a stage that can read one a report, with a schema made up for it: unless
// there is a schema, or the stage refuses this one.
func (s *subject) addReport(ctx context.Context) {
	if len(s.schema) > 0 || sdk.FindPort(s.manifest.Inputs, ports.ReportEmbedding.Name) == nil {
		return
	}
	dims := map[string]int64{}
	for name, t := range s.inputs {
		if p := sdk.FindPort(s.manifest.Inputs, name); p != nil && len(p.Shape) > 0 && len(t.Shape) > 0 {
			dims[p.Shape[0]] = t.Shape[0]
		}
	}
	without := s.inputs
	s.inputs = maps.Clone(without)
	for _, name := range []string{ports.ReportEmbedding.Name, ports.ReportState.Name, ports.ReportValue.Name} {
		if p := sdk.FindPort(s.manifest.Inputs, name); p != nil && s.inputs[name] == nil {
			s.inputs[name] = get(sample.Tensor(name, *p, defaultShape(*p, dims), s.options.Seed))
		}
	}
	embedding := s.inputs[ports.ReportEmbedding.Name]
	if len(embedding.Shape) != 3 || embedding.Shape[1] != usual["A"] {
		s.inputs = without // sizes of its author's
		return
	}
	values := sdk.Port{DType: tensor.FP32, Shape: []string{"A", "K", "E"}}
	s.schema = []byte(sampleSchema)
	s.constants = map[string]*tensor.Tensor{"value.embedding": get(sample.Tensor("value.embedding", values, []int64{usual["A"], 3, embedding.Shape[2]}, s.options.Seed))}
	err := attempt(func() { s.evaluate(ctx, s.open(ctx, s.conn.InBand, opening{}), 1) })
	var refused *sdk.Error
	if errors.As(err, &refused) && refused.Code == sdk.InvalidArgument {
		s.inputs, s.schema, s.constants = without, nil, nil
		return
	}
	check(err)
}

func (s *subject) findProviders(ctx context.Context) {
	for _, in := range s.manifest.Inputs {
		if !in.Resident || !in.Required {
			continue
		}
		var maker *sdk.StageManifest
		for i := range s.runner.manifest.Stages {
			m := &s.runner.manifest.Stages[i]
			if slices.ContainsFunc(m.Outputs, func(p sdk.Port) bool { return p.Resident && p.Name == in.Name }) {
				maker = m
			}
		}
		if maker == nil {
			fail("a stage of the same plugin that makes it", "the resident input %q is made by no stage", in.Name)
		}
		if slices.ContainsFunc(s.providers, func(p *provider) bool { return p.manifest.Name == maker.Name }) {
			continue
		}
		p := &provider{manifest: maker, inputs: map[string]*tensor.Tensor{}}
		s.makeInputs(maker, p.inputs, nil)
		s.providers = append(s.providers, p)
	}
	// What the providers make is what the subject gets, tokens for example.
	for _, p := range s.providers {
		inst, _, err := s.conn.InBand.Open(ctx, s.request(p.manifest, p.inputs, opening{group: group + " probe"}))
		check(err)
		resp, err := inst.Forward(ctx, &sdk.ForwardRequest{Context: 1, Seed: s.options.Seed, Inputs: p.inputs})
		check(errors.Join(err, inst.Close(ctx)))
		for name, t := range resp.Outputs {
			if sdk.FindPort(s.manifest.Inputs, name) != nil {
				s.inputs[name] = t
			}
		}
	}
}

// makeInputs fills in the required inputs of a stage that are not there yet.
func (s *subject) makeInputs(m *sdk.StageManifest, inputs map[string]*tensor.Tensor, dims map[string]int64) {
	maps.Copy(inputs, s.options.Inputs[m.Name])
	shapes := maps.Clone(s.options.Shapes[m.Name])
	if shapes == nil {
		shapes = map[string][]int64{}
	}
	for _, p := range m.Inputs {
		if !p.Required || p.Resident {
			continue
		}
		prefix, family := sdk.Family(p.Name)
		given := func(name string) bool { return name == p.Name || family && strings.HasPrefix(name, prefix) }
		have := false
		for name := range inputs {
			have = have || given(name)
		}
		for name := range shapes {
			have = have || given(name)
		}
		if have {
			continue
		}
		names := []string{p.Name}
		if family {
			names = []string{prefix + "image"}
			if m.Kind == sdk.KindFusion {
				names = append(names, prefix+"second")
			}
		}
		for _, name := range names {
			shapes[name] = defaultShape(p, dims)
		}
	}
	if len(shapes) == 0 && len(inputs) == 0 && len(m.Inputs) > 0 {
		// Nothing is required: the first input that is no target.
		for _, p := range m.Inputs {
			if !p.Resident && !ports.Target(p.Name) {
				name := p.Name
				if prefix, family := sdk.Family(name); family {
					name = prefix + "image"
				}
				shapes[name] = defaultShape(p, dims)
				break
			}
		}
	}
	check(sample.Inputs(m.Inputs, shapes, s.options.Seed, inputs))
}

func (s *subject) makeTargets(m *sdk.StageManifest, inputs map[string]*tensor.Tensor, dims map[string]int64) {
	for _, p := range m.Inputs {
		if !isTarget(p) || p.Required || inputs[p.Name] != nil {
			continue
		}
		name := p.Name
		if prefix, family := sdk.Family(name); family {
			name = prefix + s.labels(m)[0].Name
		}
		inputs[name] = get(sample.Tensor(name, p, defaultShape(p, dims), s.options.Seed))
	}
}

// isTarget reports whether a port may be what a stage's loss is about: a target, or an
// optional port of the stage's own.
func isTarget(p sdk.Port) bool {
	own := ports.Find(p.Name) == nil && !p.Differentiable && !p.Resident && !p.Required
	return ports.Target(p.Name) || own
}

func (s *subject) isTarget(name string) bool {
	p := sdk.FindPort(s.manifest.Inputs, name)
	return p != nil && isTarget(*p)
}

// usual sizes of dimension names; others get 4. Pictures are wider than high, so that an
// axis taken for the other shows, and the tokens are their cells of 16 by 16 pixels.
var usual = map[string]int64{"N": 2, "T": 24, "C": 16, "A": 3, "E": 16, "M": 3, "D": 3, "H": 64, "W": 96}

func defaultShape(p sdk.Port, dims map[string]int64) []int64 {
	shape := make([]int64, len(p.Shape))
	for i, d := range p.Shape {
		if n, err := strconv.ParseInt(d, 10, 64); err == nil && n >= 0 {
			shape[i] = n
			continue
		}
		n, ok := dims[d]
		if !ok {
			if n, ok = usual[d]; !ok {
				n = 4
			}
		}
		if m := p.SizeMultiple; m > 1 && i >= len(shape)-2 {
			n = (n + m - 1) / m * m
		}
		shape[i] = n
	}
	return shape
}

// opening says how an instance differs from the usual one.
type opening struct {
	train     bool
	frozen    bool
	group     string
	seed      uint64
	optimizer sdk.Optimizer
	device    string
	settings  map[string]string
	amp, fp16 bool
}

func (s *subject) labels(m *sdk.StageManifest) []sdk.LabelSet {
	if given := s.options.Labels[m.Name]; len(given) > 0 {
		return given
	}
	if slices.Contains(m.Tasks, "detect") {
		return []sdk.LabelSet{{Name: "lesion", Classes: []string{"lesion"}}}
	}
	return []sdk.LabelSet{{Name: "label", Classes: []string{"first", "second", "third"}}}
}

func (s *subject) request(m *sdk.StageManifest, inputs map[string]*tensor.Tensor, o opening) *sdk.OpenRequest {
	req := &sdk.OpenRequest{
		Stage: m.Name, Settings: s.options.Settings[m.Name], Seed: s.options.Seed + o.seed, Device: s.options.Device,
		Threads: s.options.Threads, Train: o.train, Frozen: o.frozen, AMP: o.amp, FP16: o.fp16, Group: o.group, Inputs: sample.Feeding(m.Inputs, inputs),
		AttributeSchema: s.schema, Constants: s.constants, Labels: s.labels(m), Optimizer: o.optimizer, Task: "classify",
	}
	if slices.Contains(m.Tasks, "detect") {
		req.Task = "detect"
	}
	if o.device != "" {
		req.Device = o.device
	}
	if len(o.settings) > 0 {
		req.Settings = maps.Clone(o.settings)
		maps.Copy(req.Settings, s.options.Settings[m.Name])
	}
	if req.Optimizer.Name == "" {
		req.Optimizer = sdk.Optimizer{Name: "sgd", Values: map[string]float64{"momentum": 0.9, "weight_decay": 0, "nesterov": 0}}
	}
	return req
}

// plainSGD has no memory and no decay: a step is the gradient alone.
var plainSGD = sdk.Optimizer{Name: "sgd", Values: map[string]float64{"momentum": 0, "weight_decay": 0, "nesterov": 0}}

// open opens the stage, and the stages before it in a group of their own.
func (s *subject) open(ctx context.Context, c *client.Client, o opening) *chain {
	out := &chain{subject: s, contexts: map[uint64]bool{}}
	if len(s.providers) > 0 {
		s.groups++
		o.group = fmt.Sprintf("%s %d", group, s.groups)
	}
	s.opened = append(s.opened, out)
	for _, p := range s.providers {
		inst, _, err := c.Open(ctx, s.request(p.manifest, p.inputs, o))
		check(err)
		out.before = append(out.before, inst)
	}
	inst, opened, err := c.Open(ctx, s.request(s.manifest, s.inputs, o))
	check(err)
	out.Instance, out.trainable, out.promised = inst, opened.TrainableCount, opened.Losses
	if opened.TrainableCount > opened.ParameterCount || opened.TrainableCount < 0 {
		fail("at most as many", "%d trainable of %d parameters", opened.TrainableCount, opened.ParameterCount)
	}
	return out
}

// closeAll closes what the cases have opened.
func (s *subject) closeAll() {
	ctx, cancel := context.WithTimeout(context.Background(), s.options.CallTimeout)
	defer cancel()
	for _, c := range s.opened {
		if c.Instance != nil {
			_ = c.Close(ctx)
		}
		for _, b := range c.before {
			_ = b.Close(ctx)
		}
	}
	s.opened = nil
}

// Forward runs the stages before it, in the same context, and the stage itself.
func (c *chain) Forward(ctx context.Context, req *sdk.ForwardRequest) (*sdk.ForwardResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, c.subject.options.CallTimeout)
	defer cancel()
	if err := c.forwardBefore(ctx, req); err != nil {
		return nil, err
	}
	resp, err := c.Instance.Forward(ctx, req)
	if err != nil || !req.Train {
		err = errors.Join(err, c.releaseBefore(ctx, req.Context))
	}
	return resp, err
}

// ForwardBackward runs the stages before it, the stage itself in both directions, and
// drops the contexts before it.
func (c *chain) ForwardBackward(ctx context.Context, f *sdk.ForwardRequest, b *sdk.BackwardRequest) (*sdk.ForwardResponse, *sdk.BackwardResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, c.subject.options.CallTimeout)
	defer cancel()
	if err := c.forwardBefore(ctx, f); err != nil {
		return nil, nil, err
	}
	resp, back, err := c.Instance.ForwardBackward(ctx, f, b)
	return resp, back, errors.Join(err, c.releaseBefore(ctx, f.Context))
}

func (c *chain) forwardBefore(ctx context.Context, req *sdk.ForwardRequest) error {
	for i, b := range c.before {
		p := c.subject.providers[i]
		if _, err := b.Forward(ctx, &sdk.ForwardRequest{Context: req.Context, Train: req.Train, Seed: req.Seed, Inputs: p.inputs}); err != nil {
			return err
		}
	}
	return nil
}

func (c *chain) releaseBefore(ctx context.Context, contextID uint64) error {
	var all []error
	for _, b := range c.before {
		all = append(all, b.Release(ctx, contextID))
	}
	return errors.Join(all...)
}

// Backward goes backwards through the stage and drops the contexts before it.
func (c *chain) Backward(ctx context.Context, req *sdk.BackwardRequest) (*sdk.BackwardResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, c.subject.options.CallTimeout)
	defer cancel()
	resp, err := c.Instance.Backward(ctx, req)
	return resp, errors.Join(err, c.releaseBefore(ctx, req.Context))
}

// Release ends contexts of the stage and of those before it.
func (c *chain) Release(ctx context.Context, contextID uint64) error {
	ctx, cancel := context.WithTimeout(ctx, c.subject.options.CallTimeout)
	defer cancel()
	return errors.Join(c.Instance.Release(ctx, contextID), c.releaseBefore(ctx, contextID))
}

// tryRun is Forward with the usual seed.
func (c *chain) tryRun(ctx context.Context, id uint64, train bool, inputs map[string]*tensor.Tensor, needs map[string]bool) (*sdk.ForwardResponse, error) {
	return c.Forward(ctx, &sdk.ForwardRequest{Context: id, Train: train, Seed: c.subject.options.Seed, Inputs: inputs, NeedsGrad: needs})
}

// run is tryRun where it has to succeed.
func (c *chain) run(ctx context.Context, id uint64, train bool, inputs map[string]*tensor.Tensor, needs map[string]bool) *sdk.ForwardResponse {
	return get(c.tryRun(ctx, id, train, inputs, needs))
}

// differentiable returns the inputs whose gradient can be asked for.
func (s *subject) differentiable() map[string]bool {
	out := map[string]bool{}
	for name, t := range s.inputs {
		if p := sdk.FindPort(s.manifest.Inputs, name); p != nil && p.Differentiable && t.DType == tensor.FP32 {
			out[name] = true
		}
	}
	return out
}

// forwardBackward runs one context with output gradients made by gradient and every loss
// weighed by weight.
func (c *chain) forwardBackward(ctx context.Context, id uint64, gradient func(name string, i int) float32, weight float64) map[string]*tensor.Tensor {
	resp := c.run(ctx, id, true, c.subject.inputs, c.subject.differentiable())
	return c.back(ctx, id, resp, gradient, weight)
}

func (c *chain) back(ctx context.Context, id uint64, resp *sdk.ForwardResponse, gradient func(name string, i int) float32, weight float64) map[string]*tensor.Tensor {
	return get(c.Backward(ctx, c.backRequest(id, resp, gradient, weight))).InputGrads
}

func (c *chain) backRequest(id uint64, resp *sdk.ForwardResponse, gradient func(name string, i int) float32, weight float64) *sdk.BackwardRequest {
	req := &sdk.BackwardRequest{Context: id, OutputGrads: map[string]*tensor.Tensor{}, LossWeights: map[string]float64{}}
	for name, t := range resp.Outputs {
		if p := sdk.FindPort(c.Outputs(), name); p == nil || !p.Differentiable || t.DType != tensor.FP32 {
			continue
		}
		values := make([]float32, t.Len())
		for i := range values {
			values[i] = gradient(name, i)
		}
		req.OutputGrads[name] = tensor.OfFloat32s(values, t.Shape...)
	}
	for name := range resp.Losses {
		req.LossWeights[name] = weight
	}
	return req
}

// wave is a gradient that is the same in every run.
func wave(name string, i int) float32 {
	return float32(math.Sin(float64(i)*0.7 + float64(len(name))))
}

func zero(string, int) float32 { return 0 }

// trainSteps makes whole training steps, as a host does.
func (c *chain) trainSteps(ctx context.Context, first uint64, steps int, learningRate float64) {
	for k := range steps {
		check(c.ZeroGrad(ctx))
		c.forwardBackward(ctx, first+uint64(k), wave, 1)
		scale := 1.0
		if norm := get(c.GradNorm(ctx)); norm > 1 {
			scale = 1 / norm
		}
		check(c.Step(ctx, &sdk.StepRequest{Values: map[string]float64{"learning_rate": learningRate}, GradientScale: scale}))
	}
}

// equalTensors compares bit by bit.
func equalTensors(what string, got, want map[string]*tensor.Tensor) error {
	if !slices.Equal(slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want))) {
		return broken(fmt.Sprint(slices.Sorted(maps.Keys(want))), "%s: tensors %v", what, slices.Sorted(maps.Keys(got)))
	}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		g, w := got[name], want[name]
		if g.String() != w.String() {
			return broken(w.String(), "%s: %q is %s", what, name, g)
		}
		if !bytes.Equal(g.Data, w.Data) {
			return broken("equal bytes", "%s: %q differs, by %.3g at most", what, name, largestDifference(g, w))
		}
	}
	return nil
}

// same ends the case unless the tensors are equal.
func same(what string, got, want map[string]*tensor.Tensor) { check(equalTensors(what, got, want)) }

func largestDifference(a, b *tensor.Tensor) float64 {
	x, errX := a.Float32s()
	y, errY := b.Float32s()
	if errX != nil || errY != nil || len(x) != len(y) {
		return math.NaN()
	}
	var worst float64
	for i := range x {
		worst = max(worst, math.Abs(float64(x[i])-float64(y[i])))
	}
	return worst
}

// wantCode checks that err is a refusal with one of the codes that names word.
func wantCode(err error, what, word string, codes ...sdk.Code) {
	var names []string
	for _, c := range codes {
		names = append(names, c.String())
	}
	wanted := strings.Join(names, " or ")
	var refused *sdk.Error
	switch {
	case err == nil:
		fail(wanted, "%s was accepted", what)
	case !errors.As(err, &refused):
		fail(wanted, "%s: %v", what, err)
	case !slices.Contains(codes, refused.Code):
		fail(wanted, "%s: %s (%v)", what, refused.Code, err)
	case word != "" && !strings.Contains(err.Error(), word):
		fail(fmt.Sprintf("a message that names %q", word), "%s: %q", what, err.Error())
	}
}
