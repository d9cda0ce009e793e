package conformance

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/gradcheck"
	"github.com/alignedfusion/alignedfusion/sdk/ports"
	"github.com/alignedfusion/alignedfusion/sdk/safetensors"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

// weights are the floating-point tensors of what a stage has saved.
type weights struct {
	c   *chain
	dir string
	// saved are all tensors by file, files the metadata of each.
	saved map[string]map[string]*tensor.Tensor
	files map[string]map[string]string
}

// saveWeights saves a stage and reads what it wrote.
func (c *chain) saveWeights(ctx context.Context, dir string) *weights {
	w := &weights{c: c, dir: dir, saved: map[string]map[string]*tensor.Tensor{}, files: map[string]map[string]string{}}
	for _, name := range get(c.Save(ctx, dir)) {
		if filepath.Ext(name) != ".safetensors" {
			continue
		}
		f := get(safetensors.Open(filepath.Join(dir, name)))
		w.saved[name], w.files[name] = map[string]*tensor.Tensor{}, f.Metadata()
		for _, tensorName := range f.Names() {
			w.saved[name][tensorName] = get(f.Tensor(tensorName))
		}
		check(f.Close())
	}
	return w
}

// block is a tensor, or several that share their memory and are saved under each name.
type block struct {
	file   string
	names  []string
	dtype  tensor.DType
	shape  []int64
	values []float64
	// gradient is what Step moved it by, over the learning rate.
	gradient []float64
}

func floats(t *tensor.Tensor) []float64 {
	if values, err := t.Float64s(); err == nil {
		return slices.Clone(values)
	}
	values, err := t.Float32s()
	if err != nil {
		return nil
	}
	out := make([]float64, len(values))
	for i, v := range values {
		out[i] = float64(v)
	}
	return out
}

func size(values []float64) float64 {
	var squares float64
	for _, v := range values {
		squares += v * v
	}
	return math.Sqrt(squares)
}

// blocks are the tensors with what a step of a learning rate did to them. Running statistics
// are no parameters; in training they take no part in what is computed.
func (w *weights) blocks(after *weights, rate float64) []*block {
	var out []*block
	tied := map[string]*block{}
	for _, file := range slices.Sorted(maps.Keys(w.saved)) {
		for _, name := range slices.Sorted(maps.Keys(w.saved[file])) {
			t, moved := w.saved[file][name], after.saved[file][name]
			values := floats(t)
			if len(values) == 0 || moved == nil || strings.Contains(name, "running_") || strings.Contains(name, "num_batches") {
				continue
			}
			b := &block{file: file, names: []string{name}, dtype: t.DType, shape: t.Shape, values: values, gradient: floats(moved)}
			key := t.String() + string(t.Data) + string(moved.Data)
			if first := tied[key]; first != nil && size(values) > 0 && len(values) > 1 {
				first.names = append(first.names, name)
				continue
			}
			tied[key] = b
			for i, v := range b.gradient {
				b.gradient[i] = (values[i] - v) / rate
			}
			out = append(out, b)
		}
	}
	return out
}

// load gives the stage the weights, some blocks moved along directions, and returns how far
// they really moved.
func (w *weights) load(ctx context.Context, step float64, directions map[*block][]float64) (made float64) {
	changed := map[string]map[string]*tensor.Tensor{}
	for b, d := range directions {
		if changed[b.file] == nil {
			changed[b.file] = maps.Clone(w.saved[b.file])
		}
		values := slices.Clone(b.values)
		for i := range values {
			values[i] += step * d[i]
			if b.dtype == tensor.FP32 {
				values[i] = float64(float32(values[i]))
			}
			made += (values[i] - b.values[i]) * d[i]
		}
		for _, name := range b.names {
			t := w.saved[b.file][name].Clone()
			if into, err := t.Float64s(); err == nil {
				copy(into, values)
			} else {
				for i, into := 0, get(t.Float32s()); i < len(into); i++ {
					into[i] = float32(values[i])
				}
			}
			changed[b.file][name] = t
		}
	}
	for file, tensors := range changed {
		check(safetensors.Write(filepath.Join(w.dir, file), tensors, w.files[file]))
	}
	check(w.c.Load(ctx, w.dir, true))
	for file := range changed {
		check(safetensors.Write(filepath.Join(w.dir, file), w.saved[file], w.files[file]))
	}
	return made
}

// objective is Σ ⟨output, wave⟩ + Σ loss, each with its factor, of a training Forward, with
// the sum of its terms' sizes, of which rounding leaves a part open.
func (c *chain) objective(ctx context.Context, id uint64, factors map[string]float64) (value, terms float64) {
	resp := c.run(ctx, id, true, c.subject.inputs, nil)
	check(c.Release(ctx, id))
	req := c.weighed(id, resp, factors)
	for name, g := range req.OutputGrads {
		y := get(resp.Outputs[name].Float32s())
		for i, w := range get(g.Float32s()) {
			value += float64(w) * float64(y[i])
			terms += math.Abs(float64(w) * float64(y[i]))
		}
	}
	for name, l := range resp.Losses {
		value += req.LossWeights[name] * l
		terms += math.Abs(req.LossWeights[name] * l)
	}
	return value, terms
}

// weighed is the Backward of the objective whose terms have these factors.
func (c *chain) weighed(id uint64, resp *sdk.ForwardResponse, factors map[string]float64) *sdk.BackwardRequest {
	req := c.backRequest(id, resp, wave, 1)
	for name, g := range req.OutputGrads {
		if factor, known := factors["output "+name]; known {
			for i, values := 0, get(g.Float32s()); i < len(values); i++ {
				values[i] *= float32(factor)
			}
		}
	}
	for name := range req.LossWeights {
		if factor, known := factors["loss "+name]; known {
			req.LossWeights[name] = factor
		}
	}
	return req
}

// balance finds the factors with which every output and loss has a gradient by the parameters
// that is as long as the longest: a loss that is detached does not hide behind large outputs.
func (c *chain) balance(ctx context.Context) map[string]float64 {
	terms := c.backRequest(1, c.run(ctx, 1, true, c.subject.inputs, nil), wave, 1)
	check(c.Release(ctx, 1))
	norms := map[string]float64{}
	alone := func(term string, req *sdk.BackwardRequest) {
		check(c.ZeroGrad(ctx))
		c.run(ctx, 1, true, c.subject.inputs, nil)
		req.Context = 1
		get(c.Backward(ctx, req))
		norms[term] = get(c.GradNorm(ctx))
	}
	for name, g := range terms.OutputGrads {
		alone("output "+name, &sdk.BackwardRequest{OutputGrads: map[string]*tensor.Tensor{name: g}})
	}
	for name := range terms.LossWeights {
		alone("loss "+name, &sdk.BackwardRequest{LossWeights: map[string]float64{name: 1}})
	}
	check(c.ZeroGrad(ctx))
	return gradcheck.Balance(norms)
}

// prober compares derivatives by parameters with finite differences.
type prober struct {
	c       *chain
	before  *weights
	context *uint64
	random  *rand.Rand
	rate    float64
	// norm of the gradients that the blocks hold.
	norm    float64
	factors map[string]float64
	end     clock
	// alone are the outputs and losses of a stage that selects, each by itself, with gradients
	// by the parameters' names.
	alone     []*prober
	gradients map[string][]float64
}

// Probing ends after this time; parameters are taken in an order drawn at random. On a busy
// machine it goes on until the stage has worked for a half of it, for four times as long at most.
const probingTime = 5 * time.Second

// clock ends a part of a case.
type clock struct {
	of     *Connection
	limit  time.Duration
	began  time.Time
	worked time.Duration
	known  bool
}

func (c *Connection) clock(limit time.Duration) clock {
	worked, known := c.worked()
	return clock{c, limit, time.Now(), worked, known}
}

func (c clock) over() bool {
	took := time.Since(c.began)
	if took < c.limit || !c.known {
		return took >= c.limit
	}
	worked, known := c.of.worked()
	return !known || worked-c.worked >= c.limit/2 || took >= 4*c.limit
}

// worked is the processor time of the plugin's process, where the system says it.
func (c *Connection) worked() (time.Duration, bool) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", c.PID))
	_, after, found := strings.Cut(string(text), ") ") // the name in brackets may hold blanks
	if c.PID == 0 || err != nil || !found {
		return 0, false
	}
	const tick = 10 * time.Millisecond // the kernel's unit towards programs
	var user, system int64
	fields := strings.Fields(after)
	if len(fields) < 13 {
		return 0, false
	}
	if _, err := fmt.Sscan(fields[11], &user); err != nil {
		return 0, false
	}
	if _, err := fmt.Sscan(fields[12], &system); err != nil {
		return 0, false
	}
	return time.Duration(user+system) * tick, true
}

// slope compares the derivative along directions with what the gradient says. Open is how
// much of the difference rounding and curvature may explain.
func (p *prober) slope(ctx context.Context, directions map[*block][]float64) (analytic, numeric, open float64) {
	return p.slopeBy(ctx, gradcheck.Derivative, directions)
}

// estimator is gradcheck.Derivative or one of its kind.
type estimator func(scale float64, at func(step float64) (value, made float64, err error)) (slope, step, spread float64, err error)

func (p *prober) slopeBy(ctx context.Context, estimate estimator, directions map[*block][]float64) (analytic, numeric, open float64) {
	var lengths, terms, rounding float64
	for b, d := range directions {
		lengths += size(b.values) * size(b.values)
		for i, g := range b.gradient {
			analytic += g * d[i]
			rounding += math.Abs(d[i]) * 6e-8 * (math.Abs(b.values[i])/p.rate + math.Abs(g))
		}
	}
	lengths = math.Sqrt(lengths)
	if lengths == 0 {
		lengths = 1
	}
	numeric, step, spread, err := estimate(lengths, func(step float64) (value, made float64, err error) {
		made = p.before.load(ctx, step, directions)
		value, terms = p.value(ctx)
		return value, made, nil
	})
	check(err)
	return analytic, numeric, rounding + 2*spread + 4e-7*terms/step
}

// value is the objective with the weights that the stage has.
func (p *prober) value(ctx context.Context) (value, terms float64) {
	*p.context++
	return p.c.objective(ctx, *p.context, p.factors)
}

// matter reports whether the objective depends on any of these tensors. What an optimizer
// keeps moves with a step as parameters do, and is nothing to Forward.
func (p *prober) matter(ctx context.Context, blocks []*block) (depends bool) {
	p.before.load(ctx, 0, nil)
	still, _ := p.value(ctx)
	if again, _ := p.value(ctx); again != still {
		skip("two equal requests have two answers")
	}
	directions := map[*block][]float64{}
	for _, b := range blocks {
		d := make([]float64, len(b.values))
		for i := range d {
			d[i] = p.random.NormFloat64() * (0.1*math.Abs(b.values[i]) + 0.01)
		}
		directions[b] = d
	}
	err := attempt(func() {
		p.before.load(ctx, 1, directions)
		moved, _ := p.value(ctx)
		depends = moved != still
	})
	return depends && err == nil
}

// parametersAmong leaves out the state of the optimizer: files that Forward does not depend
// on, and single tensors when what moved is more than the gradients are.
func (p *prober) parametersAmong(ctx context.Context, blocks []*block, norm, tolerance float64) []*block {
	files := map[string][]*block{}
	for _, b := range blocks {
		files[b.file] = append(files[b.file], b)
	}
	keep := blocks
	for file, of := range files {
		if len(files) > 1 && !p.matter(ctx, of) {
			keep = slices.DeleteFunc(slices.Clone(keep), func(b *block) bool { return b.file == file })
		}
	}
	end := p.c.subject.conn.clock(probingTime)
	for _, b := range keep {
		if moved := movedBy(keep); moved <= (1+tolerance)*norm || end.over() {
			break
		}
		if size(b.gradient) > 0 && !p.matter(ctx, []*block{b}) {
			keep = slices.DeleteFunc(slices.Clone(keep), func(other *block) bool { return other == b })
		}
	}
	return keep
}

// movedBy is the length of what a Step moved, over the learning rate.
func movedBy(blocks []*block) float64 {
	var squares float64
	for _, b := range blocks {
		squares += size(b.gradient) * size(b.gradient)
	}
	return math.Sqrt(squares)
}

// disagrees tries three directions, and along each the slopes of both sides, too: across a corner
// of a piecewise function the gradient is either, and a wrong one is neither along any.
func (p *prober) disagrees(ctx context.Context, b *block, part gradcheck.Part) (analytic, numeric, open float64, wrong bool) {
	agree := func(analytic, numeric, open float64) bool {
		return math.Abs(analytic-numeric) <= p.c.subject.options.GradientTolerance*max(math.Abs(analytic), math.Abs(numeric))+open
	}
	for range 3 {
		d := gradcheck.Direction(b.gradient, part, p.random)
		along := map[*block][]float64{b: d}
		if analytic, numeric, open = p.slope(ctx, along); agree(analytic, numeric, open) {
			return analytic, numeric, open, false
		}
		for _, side := range []estimator{gradcheck.Left, gradcheck.Right} {
			if a, n, o := p.slopeBy(ctx, side, along); agree(a, n, o) {
				return a, n, o, false
			}
		}
	}
	return analytic, numeric, open, true
}

func parameters(ctx context.Context, s *subject) {
	c := s.open(ctx, s.conn.InBand, opening{train: true, optimizer: plainSGD})
	if c.trainable == 0 {
		skip("it says that it trains no parameter")
	}
	factors := c.balance(ctx)
	resp := c.run(ctx, 1, true, s.inputs, s.differentiable())
	req := c.weighed(1, resp, factors)
	if len(req.OutputGrads)+len(req.LossWeights) == 0 {
		skip("no differentiable output and no loss from these inputs")
	}
	get(c.Backward(ctx, req))
	norm := get(c.GradNorm(ctx))
	if norm == 0 {
		fail("gradients of what it trains, or a trainable_count of 0", "%d parameters are trained and all their gradients are zero", c.trainable)
	}
	dirs := [2]string{get(os.MkdirTemp(s.conn.TempDir, "conformance-")), get(os.MkdirTemp(s.conn.TempDir, "conformance-"))}
	defer os.RemoveAll(dirs[0])
	defer os.RemoveAll(dirs[1])
	before := c.saveWeights(ctx, dirs[0])
	var all float64
	for _, b := range before.blocks(before, 1) {
		all += size(b.values) * size(b.values)
	}
	// Plain gradient descent is linear in its rate: a large one loses no digits of the gradient.
	context := uint64(2)
	p := &prober{c: c, before: before, context: &context, norm: norm, random: rand.New(rand.NewPCG(s.options.Seed, 5)), rate: max(math.Sqrt(all), 1) / norm, factors: factors}
	check(c.Step(ctx, &sdk.StepRequest{Values: map[string]float64{"learning_rate": p.rate}, GradientScale: 1}))
	tolerance := s.options.GradientTolerance
	blocks := p.parametersAmong(ctx, before.blocks(c.saveWeights(ctx, dirs[1]), p.rate), norm, tolerance)
	moved := movedBy(blocks)
	if math.Abs(moved-norm) > tolerance*norm {
		fail(fmt.Sprintf("%.6g, the norm of the gradients", norm), "a Step of learning rate 1 moves the parameters by %.6g", moved)
	}
	along := map[*block][]float64{}
	for _, b := range blocks {
		d := slices.Clone(b.gradient)
		for i := range d {
			d[i] /= moved
		}
		along[b] = d
	}
	// What a detector selects (proposals, samples) is a constant to its gradient, by custom.
	selects := sdk.FindPort(s.manifest.Outputs, ports.Boxes.Name) != nil
	if _, falls, open := p.slope(ctx, along); !selects && math.Abs(falls-norm) > tolerance*norm+open {
		fail(fmt.Sprintf("%.6g, its norm squared", norm*norm), "the objective falls by %.6g times the length of a short step along the gradient", falls*norm)
	}
	if selects {
		check(p.separate(ctx, blocks, dirs[1]))
	}
	p.random.Shuffle(len(blocks), func(i, j int) { blocks[i], blocks[j] = blocks[j], blocks[i] })
	blocks = p.mostSuspectFirst(ctx, blocks)
	p.end = s.conn.clock(probingTime)
	check(p.probe(ctx, blocks))
}

// probe compares the derivatives along directions in each half of each parameter, and then, as
// long as there is time, in its first and last slabs along each axis.
func (p *prober) probe(ctx context.Context, blocks []*block) error {
	detached := 0.0
	_, spare := p.untrained(blocks)
	for _, b := range blocks {
		analytic, numeric, wrong := p.anyDisagrees(ctx, b, gradcheck.Halves(len(b.values)))
		if wrong && size(b.gradient) > 0 {
			return derivativeIs(b, analytic, numeric)
		} else if wrong {
			// What it says it does not train may stay.
			if detached += float64(len(b.values)); detached > spare {
				return broken("a gradient for each of the parameters it says it trains", "parameter %q has none, though the objective depends on it", b.names[0])
			}
		}
	}
	for _, b := range blocks {
		if size(b.gradient) == 0 {
			continue
		}
		if analytic, numeric, wrong := p.anyDisagrees(ctx, b, gradcheck.Edges(b.shape)); wrong {
			return derivativeIs(b, analytic, numeric)
		}
	}
	return nil
}

// separate measures the gradients of each output and loss by itself, for a stage that selects.
// One that has none at all must not depend on the parameters.
func (p *prober) separate(ctx context.Context, blocks []*block, dir string) error {
	for _, name := range slices.Sorted(maps.Keys(p.factors)) {
		one := *p
		one.factors = map[string]float64{}
		for other := range p.factors {
			one.factors[other] = 0
		}
		one.factors[name] = p.factors[name]
		p.before.load(ctx, 0, nil)
		check(p.c.ZeroGrad(ctx))
		*p.context++
		resp := p.c.run(ctx, *p.context, true, p.c.subject.inputs, nil)
		get(p.c.Backward(ctx, p.c.weighed(*p.context, resp, one.factors)))
		norm := get(p.c.GradNorm(ctx))
		if norm == 0 {
			if numeric, depends := one.depends(ctx, blocks); depends {
				return broken("one", "%s has no gradient by any parameter, though its derivative along a direction of one is %.6g", name, numeric)
			}
			continue
		}
		one.rate *= p.norm / norm
		check(p.c.Step(ctx, &sdk.StepRequest{Values: map[string]float64{"learning_rate": one.rate}, GradientScale: 1}))
		one.gradients = map[string][]float64{}
		for _, b := range p.before.blocks(p.c.saveWeights(ctx, dir), one.rate) {
			for _, name := range b.names {
				one.gradients[name] = b.gradient
			}
		}
		p.alone = append(p.alone, &one)
	}
	return nil
}

// depends reports whether the objective, which is without gradients, has a derivative along each
// of three directions in one of the parameters.
func (p *prober) depends(ctx context.Context, blocks []*block) (numeric float64, depends bool) {
	end := p.c.subject.conn.clock(probingTime)
	for _, b := range blocks {
		still := *b
		still.gradient = make([]float64, len(b.values))
		depends = !end.over()
		for try := 0; depends && try < 3; try++ {
			var open float64
			d := gradcheck.Direction(still.gradient, func(int) bool { return true }, p.random)
			_, numeric, open = p.slope(ctx, map[*block][]float64{&still: d})
			depends = math.Abs(numeric) > open
		}
		if depends {
			return numeric, true
		}
	}
	return 0, false
}

// disagreesAlone is disagrees of a stage that selects: a part of a parameter has to agree by one
// of the outputs and losses that reach it, on which what is selected has no influence.
func (p *prober) disagreesAlone(ctx context.Context, b *block, part gradcheck.Part) (analytic, numeric float64, wrong bool) {
	for _, one := range p.alone {
		alone := *b
		alone.gradient = one.gradients[b.names[0]]
		if size(alone.gradient) == 0 && size(b.gradient) > 0 {
			continue
		}
		a, n, open, differs := one.disagrees(ctx, &alone, part)
		switch tells := max(math.Abs(a), math.Abs(n)) > 4*open; {
		case tells && differs:
			analytic, numeric, wrong = a, n, true
		case tells && size(b.gradient) > 0:
			return a, n, false
		}
	}
	return analytic, numeric, wrong
}

// probedTogether are the parameters of which a fault in one shows in a derivative along all.
const probedTogether = 8

// mostSuspectFirst orders parameters of which there are too many to probe each. Of a stage that
// selects, a parameter is as suspect as by the output or loss that suspects it least. One without
// a gradient is not suspect as long as the stage says that it does not train it.
func (p *prober) mostSuspectFirst(ctx context.Context, blocks []*block) []*block {
	if len(blocks) <= 2*probedTogether {
		return blocks
	}
	p.end = p.c.subject.conn.clock(probingTime / 2)
	suspicion := map[string]float64{}
	if len(p.alone) == 0 {
		of := blocks
		if without, spare := p.untrained(blocks); without <= spare {
			of = slices.DeleteFunc(slices.Clone(blocks), func(b *block) bool { return size(b.gradient) == 0 })
		}
		suspicion = p.suspicion(ctx, of)
	}
	for _, one := range p.alone {
		var reached []*block
		for _, b := range blocks {
			alone := *b
			if alone.gradient = one.gradients[b.names[0]]; size(alone.gradient) > 0 {
				reached = append(reached, &alone)
			}
		}
		one.end = p.end
		for name, by := range one.suspicion(ctx, reached) {
			if least, known := suspicion[name]; !known || by < least {
				suspicion[name] = by
			}
		}
	}
	slices.SortStableFunc(blocks, func(a, b *block) int { return cmp.Compare(suspicion[b.names[0]], suspicion[a.names[0]]) })
	return blocks
}

// untrained are how many numbers have no gradient, and for how many a stage says that it does not
// train them.
func (p *prober) untrained(blocks []*block) (without, spare float64) {
	spare = -float64(p.c.trainable)
	for _, b := range blocks {
		spare += float64(len(b.values) * len(b.names))
		if size(b.gradient) == 0 {
			without += float64(len(b.values))
		}
	}
	return without, spare
}

// suspicion is by how much the derivative disagrees along a direction in which several
// parameters, whose gradients are about as long, take part with equal shares; those that have
// none are with each other.
func (p *prober) suspicion(ctx context.Context, blocks []*block) map[string]float64 {
	out := map[string]float64{}
	sorted := slices.SortedStableFunc(slices.Values(blocks), func(a, b *block) int { return cmp.Compare(size(b.gradient), size(a.gradient)) })
	with := slices.IndexFunc(append(sorted, &block{}), func(b *block) bool { return size(b.gradient) == 0 })
	groups := slices.Collect(slices.Chunk(sorted[with:], probedTogether))
	for _, group := range slices.AppendSeq(groups, slices.Chunk(sorted[:with], probedTogether)) {
		if p.end.over() {
			break
		}
		directions, length := map[*block][]float64{}, 0.0
		for _, b := range group {
			share := 0.0
			d := gradcheck.Direction(b.gradient, func(int) bool { return true }, p.random)
			for i := range d {
				share += d[i] * b.gradient[i]
			}
			if share <= 0 {
				share = 1
			}
			directions[b] = d
			length += 1 / (share * share)
			for i := range d {
				d[i] /= share
			}
		}
		for _, d := range directions {
			for i := range d {
				d[i] /= math.Sqrt(length)
			}
		}
		analytic, numeric, open := p.slope(ctx, directions)
		for b := range directions {
			out[b.names[0]] = math.Abs(analytic-numeric) / (p.c.subject.options.GradientTolerance*max(math.Abs(analytic), math.Abs(numeric)) + open)
		}
	}
	return out
}

func derivativeIs(b *block, analytic, numeric float64) error {
	return broken(fmt.Sprintf("%.6g by finite differences", numeric), "derivative along a direction of parameter %q is %.6g", b.names[0], analytic)
}

// anyDisagrees stops at the first part that does, or when time has run out.
func (p *prober) anyDisagrees(ctx context.Context, b *block, parts []gradcheck.Part) (analytic, numeric float64, wrong bool) {
	for _, part := range parts {
		if p.end.over() {
			return analytic, numeric, false
		}
		if len(p.alone) > 0 {
			analytic, numeric, wrong = p.disagreesAlone(ctx, b, part)
		} else {
			analytic, numeric, _, wrong = p.disagrees(ctx, b, part)
		}
		if wrong {
			return analytic, numeric, true
		}
	}
	return analytic, numeric, false
}

// ofCases reports whether a port has a row for each case of the batch.
func ofCases(declared []sdk.Port, name string) bool {
	p := sdk.FindPort(declared, name)
	return p != nil && len(p.Shape) > 0 && p.Shape[0] == "N"
}

// taking returns inputs with the rows of other cases.
func taking(declared []sdk.Port, inputs map[string]*tensor.Tensor, cases []int) map[string]*tensor.Tensor {
	out := map[string]*tensor.Tensor{}
	for name, t := range inputs {
		if !ofCases(declared, name) || len(t.Shape) == 0 {
			out[name] = t
			continue
		}
		if t.DType == tensor.Bytes {
			whole := get(t.Strings())
			each := len(whole) / int(max(t.Shape[0], 1))
			var texts []string
			for _, k := range cases {
				texts = append(texts, whole[k*each:(k+1)*each]...)
			}
			out[name] = tensor.OfStrings(texts...)
			out[name].Shape = append([]int64{int64(len(cases))}, t.Shape[1:]...)
			continue
		}
		row := len(t.Data) / int(max(t.Shape[0], 1))
		taken := &tensor.Tensor{DType: t.DType, Shape: append([]int64{int64(len(cases))}, t.Shape[1:]...)}
		for _, k := range cases {
			taken.Data = append(taken.Data, t.Data[k*row:(k+1)*row]...)
		}
		out[name] = taken.Clone()
	}
	return out
}

// answer is what an EVAL run says of one case, by output.
func (s *subject) answer(resp *sdk.ForwardResponse, k int) map[string][]float64 {
	out := map[string][]float64{}
	var images []int32
	if t := resp.Outputs[ports.BoxImage.Name]; t != nil {
		images, _ = t.Int32s()
	}
	for name, t := range resp.Outputs {
		values := floats(t)
		if len(t.Shape) == 0 || t.Shape[0] == 0 || values == nil {
			continue
		}
		row := len(values) / int(t.Shape[0])
		switch {
		case ofCases(s.manifest.Outputs, name):
			out[name] = values[k*row : (k+1)*row]
		case name == ports.Scores.Name && len(images) == len(values):
			for i, image := range images {
				if int(image) == k {
					out[name] = append(out[name], values[i])
				}
			}
			// Rounding changes the order of boxes, and which of two alike is kept.
			slices.SortFunc(out[name], func(a, b float64) int { return cmp.Compare(b, a) })
		}
	}
	return out
}

// near compares the answers about a case: rounding alone may differ.
func near(what string, got, want map[string][]float64, tolerance float64) {
	for _, name := range slices.Sorted(maps.Keys(want)) {
		g, w := got[name], want[name]
		if apart := len(g) - len(w); apart != 0 && (name != ports.Scores.Name || max(apart, -apart) > 1+len(w)/20) {
			fail(fmt.Sprintf("%d numbers as before", len(w)), "%s: %q has %d numbers", what, name, len(g))
		}
		w = w[:min(len(g), len(w))]
		var largest, apart float64
		for i := range w {
			largest = max(largest, math.Abs(w[i]))
			if d := math.Abs(g[i] - w[i]); !(d <= apart) {
				apart = d
			}
		}
		if !(apart <= tolerance*(largest+0.01)) {
			fail(fmt.Sprintf("the same to within %g of the largest", tolerance), "%s: %q differs by %.3g, its largest number is %.3g", what, name, apart, largest)
		}
	}
}

// evaluateCases runs the stage, and the stages before it, on some cases of the sample.
func (s *subject) evaluateCases(ctx context.Context, c *chain, id uint64, inputs map[string]*tensor.Tensor, cases []int) *sdk.ForwardResponse {
	for _, p := range s.providers {
		whole := p.inputs
		p.inputs = taking(p.manifest.Inputs, whole, cases)
		defer func() { p.inputs = whole }()
	}
	return c.run(ctx, id, false, taking(s.manifest.Inputs, inputs, cases), nil)
}

func batch(ctx context.Context, s *subject) {
	inputs, n := map[string]*tensor.Tensor{}, int64(0)
	for name, t := range s.inputs {
		p := sdk.FindPort(s.manifest.Inputs, name)
		if s.isTarget(name) && (p == nil || !p.Required) {
			continue
		}
		if inputs[name] = t; ofCases(s.manifest.Inputs, name) {
			n = t.Shape[0]
		}
	}
	if n < 2 {
		skip("a batch of %d cases", n)
	}
	c := s.open(ctx, s.conn.InBand, opening{})
	every, other := make([]int, n), make([]int, n)
	for k := range every {
		every[k], other[k] = k, len(every)-1-k
	}
	whole := s.evaluateCases(ctx, c, 1, inputs, every)
	if len(s.answer(whole, 0)) == 0 {
		skip("no output belongs to a case")
	}
	turned := s.evaluateCases(ctx, c, 2, inputs, other)
	for k := range min(n, 4) {
		want := s.answer(whole, int(k))
		near(fmt.Sprintf("case %d in a batch in reverse order", k+1), s.answer(turned, other[k]), want, 1e-4)
		repeated := s.evaluateCases(ctx, c, uint64(3+k), inputs, slices.Repeat([]int{int(k)}, int(n)))
		near(fmt.Sprintf("case %d in a batch of nothing else", k+1), s.answer(repeated, 0), want, 1e-4)
		near(fmt.Sprintf("case %d in the last place of a batch of nothing else", k+1), s.answer(repeated, int(n)-1), want, 1e-4)
	}
	near("the first case by itself", s.answer(s.evaluateCases(ctx, c, 99, inputs, []int{0}), 0), s.answer(whole, 0), 1e-3)
}

func untouchedInputs(ctx context.Context, s *subject) {
	if s.conn.Shared == nil {
		skip("the plugin has no shared memory")
	}
	s.conn.Shared.WatchInputs(true)
	defer s.conn.Shared.WatchInputs(false)
	get(s.conn.Shared.Describe(ctx))
	c := s.open(ctx, s.conn.Shared, opening{train: s.manifest.Trainable})
	s.evaluate(ctx, c, 1)
	if s.manifest.Trainable {
		c.forwardBackward(ctx, 2, wave, 1)
	}
}

// lowerPrecision finds the setting by which a stage says that it computes in less than
// single precision.
func (s *subject) lowerPrecision() (name, value string) {
	for _, d := range s.manifest.Settings {
		if d.Name == "amp" && d.Type == "bool" {
			return d.Name, "true"
		}
		for _, choice := range d.Choices {
			if choice == "bf16" || choice == "bfloat16" {
				return d.Name, choice
			}
		}
	}
	return "", ""
}

// Answers of another device differ by rounding in single precision, those of bfloat16 by its
// eight bits.
const (
	deviceTolerance   = 1e-2
	bfloat16Tolerance = 0.1
)

func parity(ctx context.Context, s *subject) {
	lower := map[string]opening{}
	if setting, value := s.lowerPrecision(); setting != "" {
		lower[fmt.Sprintf("with %s=%s", setting, value)] = opening{settings: map[string]string{setting: value}}
	}
	if slices.Contains(s.runner.manifest.Capabilities, sdk.CapabilityAMP) {
		lower["with amp"] = opening{amp: true}
	}
	if len(lower) == 0 && s.options.Device == cpu {
		skip("the stage claims no lower precision and runs on the CPU")
	}
	want := s.answers(ctx, opening{device: cpu})
	if s.options.Device != cpu {
		what := "on " + s.options.Device + ", against the CPU"
		near(what, s.answers(ctx, opening{}), want, deviceTolerance)
		if !s.draws(ctx) {
			s.sameStep(ctx, what, opening{}, deviceStepTolerance)
		}
	}
	for _, what := range slices.Sorted(maps.Keys(lower)) {
		near(what, s.answers(ctx, lower[what]), want, bfloat16Tolerance)
		s.sameStep(ctx, what, lower[what], stepTolerance)
	}
}

// halfPrecision is parity for half precision, which not every device has.
func halfPrecision(ctx context.Context, s *subject) {
	if !slices.Contains(s.runner.manifest.Capabilities, sdk.CapabilityFP16) {
		skip("the plugin claims no half precision")
	}
	half := opening{amp: true, fp16: true}
	err := attempt(func() { s.open(ctx, s.conn.InBand, half) })
	var refused *sdk.Error
	if errors.As(err, &refused) && refused.Code == sdk.InvalidArgument && refused.Setting == "train.amp" {
		skip("%v", refused.Err)
	}
	check(err)
	near("in half precision", s.answers(ctx, half), s.answers(ctx, opening{device: cpu}), bfloat16Tolerance)
	s.sameStep(ctx, "in half precision", half, stepTolerance)
}

// answers are what EVAL says of all cases, by output.
func (s *subject) answers(ctx context.Context, o opening) map[string][]float64 {
	out := map[string][]float64{}
	for name, t := range s.evaluate(ctx, s.open(ctx, s.conn.InBand, o), 1) {
		if ofCases(s.manifest.Outputs, name) {
			out[name] = floats(t)
		}
	}
	return out
}

// ownRule checks an optimizer of the stage's own, and a schedule, where it has one.
func ownRule(ctx context.Context, s *subject) {
	if s.manifest.Optimizer == "" && s.manifest.Schedule == "" {
		skip("no optimizer and no schedule of its own")
	}
	own := sdk.Optimizer{Name: cmp.Or(s.manifest.Optimizer, plainSGD.Name)}
	if s.manifest.Optimizer == "" {
		own = plainSGD
	}
	place := func(rate float64, step int) map[string]float64 {
		values := map[string]float64{sdk.LearningRate: rate}
		if s.manifest.Schedule != "" {
			values[sdk.BaseRate], values[sdk.StepNumber], values[sdk.StepCount] = rate, float64(step), ruleSteps
		}
		return values
	}
	take := func(c *chain, rate float64, from, to int) {
		for k := from; k < to; k++ {
			check(c.ZeroGrad(ctx))
			c.forwardBackward(ctx, uint64(k+1), wave, 1)
			check(c.Step(ctx, &sdk.StepRequest{Values: place(rate, k), GradientScale: 1}))
		}
	}
	c := s.open(ctx, s.conn.InBand, opening{train: true, optimizer: own})
	before, _ := c.objective(ctx, 100, nil)
	check(c.ZeroGrad(ctx))
	c.forwardBackward(ctx, 101, wave, 1)
	if get(c.GradNorm(ctx)) == 0 {
		skip("no parameter takes part")
	}
	check(c.Step(ctx, &sdk.StepRequest{Values: map[string]float64{sdk.LearningRate: 0}, GradientScale: 1}))
	if still, _ := c.objective(ctx, 102, nil); still != before {
		fail(fmt.Sprintf("%.8g as before", before), "a step with learning rate 0 leads the objective to %.8g", still)
	}
	// The shortest of the steps that shows: how long a rule's step is at a rate is its own.
	fell := false
	for _, rate := range []float64{1e-5, 1e-4, 1e-3, 1e-2} {
		c := s.open(ctx, s.conn.InBand, opening{train: true, optimizer: own})
		before, terms := c.objective(ctx, 100, nil)
		take(c, rate, 0, 1)
		after, _ := c.objective(ctx, 101, nil)
		if open := 1e-6 * terms; math.Abs(after-before) > open {
			if after > before {
				fail("less than before", "a first step of learning rate %g raises the objective from %.8g to %.8g", rate, before, after)
			}
			fell = true
			break
		}
		s.closeAll()
	}
	if !fell {
		fail("another value", "first steps of learning rates up to 0.01 leave the objective where it was")
	}
	if len(s.providers) > 0 {
		return // as in save-load
	}
	dir := get(os.MkdirTemp(s.conn.TempDir, "conformance-"))
	defer os.RemoveAll(dir)
	first := s.open(ctx, s.conn.InBand, opening{train: true, optimizer: own})
	take(first, 1e-3, 0, ruleSteps/2)
	get(first.Save(ctx, dir))
	take(first, 1e-3, ruleSteps/2, ruleSteps)
	second := s.open(ctx, s.conn.InBand, opening{train: true, optimizer: own, seed: 17})
	check(second.Load(ctx, dir, false))
	take(second, 1e-3, ruleSteps/2, ruleSteps)
	same(fmt.Sprintf("%d steps by its own rule, save, load, as many more, against %d", ruleSteps/2, ruleSteps), s.evaluate(ctx, second, 900), s.evaluate(ctx, first, 900))
}

// ruleSteps are the steps of a training by a stage's own rule.
const ruleSteps = 6

// stepTolerance is how far a step in lower precision may lead from one in single precision,
// over its length: roundings add up on their way back. A device rounds less.
const (
	stepTolerance       = 0.3
	deviceStepTolerance = 0.05
)

// sameStep compares where a step of plain gradient descent leads with where it leads in single
// precision on the CPU.
func (s *subject) sameStep(ctx context.Context, what string, o opening, tolerance float64) {
	if !s.manifest.Trainable {
		return
	}
	want, got := s.oneStep(ctx, opening{device: cpu}), s.oneStep(ctx, o)
	if apart := stepsApart(want, got); !(apart <= tolerance) {
		fail(fmt.Sprintf("at most %g", tolerance), "%s: a training step leads elsewhere by %.2g of its length", what, apart)
	}
}

// firstLossScale is what a host multiplies losses by in half precision, which has no numbers
// below 6e-8; it halves it until no gradient overflows.
const firstLossScale = 1 << 16

// oneStep are the tensors that a stage saves before and after a step of plain gradient descent.
func (s *subject) oneStep(ctx context.Context, o opening) []*block {
	o.train, o.optimizer = true, plainSGD
	c := s.open(ctx, s.conn.InBand, o)
	scale := 1.0
	if o.fp16 {
		scale = firstLossScale
	}
	for id := uint64(1); ; id++ {
		check(c.ZeroGrad(ctx))
		c.forwardBackward(ctx, id, func(name string, i int) float32 { return float32(scale) * wave(name, i) }, scale)
		if norm := get(c.GradNorm(ctx)); scale <= 1 || norm-norm == 0 {
			break
		}
		scale /= 2
	}
	dir := get(os.MkdirTemp(s.conn.TempDir, "conformance-"))
	defer os.RemoveAll(dir)
	before := c.saveWeights(ctx, dir)
	check(c.Step(ctx, &sdk.StepRequest{Values: map[string]float64{"learning_rate": 1}, GradientScale: 1 / scale}))
	return before.blocks(c.saveWeights(ctx, dir), 1)
}

// stepsApart is how far two steps lead apart, over the length of the first.
func stepsApart(want, got []*block) float64 {
	if len(want) != len(got) {
		return math.Inf(1)
	}
	var apart, length float64
	for k, b := range want {
		for i, g := range b.gradient {
			apart += (g - got[k].gradient[i]) * (g - got[k].gradient[i])
		}
		length += size(b.gradient) * size(b.gradient)
	}
	return math.Sqrt(apart / max(length, 1e-30))
}

// draws reports whether a training step depends on the request's seed. Another device draws
// other numbers, and takes another step by right.
func (s *subject) draws(ctx context.Context) bool {
	if !s.manifest.Trainable {
		return false
	}
	first := s.oneStep(ctx, opening{device: cpu})
	s.options.Seed++
	defer func() { s.options.Seed-- }()
	return stepsApart(first, s.oneStep(ctx, opening{device: cpu, seed: math.MaxUint64})) != 0 // seed-1: the same weights
}
