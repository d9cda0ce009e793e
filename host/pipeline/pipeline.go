package pipeline

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/alignedfusion/alignedfusion/host/fault"
	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/ports"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

// Pipeline is a row of opened stages. Its methods are not safe for concurrent use.
type Pipeline struct {
	Members []*Member
	// Notes name the inputs that nobody feeds and no catalogue knows, one line each.
	Notes []string
	// context is the number of the last run; all stages of a run share it.
	context uint64
}

// Open checks the manifests' ports, opens the stages in order (each is told the
// resolved ports that will feed it) and checks the resolved ports again. base gives
// what all OpenRequests share; Stage, Settings, Inputs and Seed are filled in per
// stage. On an error everything already opened is closed.
func Open(ctx context.Context, sources []Source, hostPorts []sdk.Port, base sdk.OpenRequest) (_ *Pipeline, err error) {
	if err := Check(sources, hostPorts, base.Task); err != nil {
		return nil, err
	}
	resolved := make([]sdk.Settings, len(sources))
	for i, s := range sources {
		if resolved[i], err = ResolveSettings(s.Stage.Settings, s.Settings); err != nil {
			return nil, &SettingsError{s.Role, s.Plugin, err}
		}
	}
	p := &Pipeline{}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.Close())
		}
	}()
	on := newOffers(hostPorts)
	before := ""
	for i, s := range sources {
		feeding, err := on.connect(s, s.Stage.Inputs, before)
		if err != nil {
			return nil, err
		}
		p.Notes = append(p.Notes, on.strangers(s, feeding)...)
		req := base
		req.Stage, req.Settings, req.Inputs = s.Stage.Name, resolved[i], feeding
		req.Seed, req.Frozen = Seed(base.Seed, "open", string(s.Role)), base.Train && s.Frozen
		req.AMP, req.FP16 = base.AMP && s.AMP && (s.FP16 || !base.FP16), base.FP16 && s.AMP && s.FP16
		req.Optimizer = s.optimizer(base.Optimizer)
		kept, err := on.kept(s, feeding)
		if err != nil {
			return nil, err
		}
		if req.Kept = kept; len(kept) == 0 {
			req.Kept = nil
		}
		if req.Keeps = keeps(sources, i); len(req.Keeps) > 0 {
			req.Keeper = string(s.Role)
		}
		instance, opened, err := s.Open(ctx, &req)
		if err != nil {
			return nil, &StageError{Role: s.Role, Plugin: s.Plugin, Call: "open", Err: err}
		}
		m := &Member{Source: s, Instance: instance, Opened: opened, Resolved: resolved[i], kept: kept}
		p.Members = append(p.Members, m)
		left := leftOut(s.Stage.Outputs, opened.Outputs)
		opened.Inputs = sdk.KnownPorts(s.Stage.Inputs, opened.Inputs)
		opened.Outputs = slices.DeleteFunc(sdk.KnownPorts(s.Stage.Outputs, opened.Outputs), func(p sdk.Port) bool { return left[p.Name] })
		if _, err := on.connect(s, opened.Inputs, before); err != nil {
			return nil, err
		}
		on.offer(s, opened.Inputs, opened.Outputs, req.Keeps)
		opened.Inputs, opened.Outputs = req.ResidentPorts(opened.Inputs, opened.Outputs)
		before = s.name()
	}
	return p, nil
}

// optimizer is the stage's own where it has one that counts, with the host's average of the
// weights.
func (s Source) optimizer(hosts sdk.Optimizer) sdk.Optimizer {
	if !s.OwnRules || s.Stage.Optimizer == "" {
		return hosts
	}
	own := sdk.Optimizer{Name: s.Stage.Optimizer}
	if d, averaged := hosts.Values[sdk.EMA]; averaged {
		own.Values = map[string]float64{sdk.EMA: d}
	}
	return own
}

// SettingsError is a `--set` that a stage refused.
type SettingsError struct {
	Role   sdk.Kind
	Plugin string
	Err    error
}

// Fault is fault.Usage.
func (e *SettingsError) Fault() fault.Kind { return fault.Usage }

// Error formats as `encoder a3d: unknown setting …`.
func (e *SettingsError) Error() string { return fmt.Sprintf("%s %s: %v", e.Role, e.Plugin, e.Err) }

// Unwrap returns the cause.
func (e *SettingsError) Unwrap() error { return e.Err }

// Member returns the stage that plays a role, nil when the pipeline has none.
func (p *Pipeline) Member(role sdk.Kind) *Member {
	for _, m := range p.Members {
		if m.Role == role {
			return m
		}
	}
	return nil
}

// Output returns the resolved port under which a name leaves the pipeline.
func (p *Pipeline) Output(name string) (sdk.Port, bool) {
	for _, m := range slices.Backward(p.Members) {
		if port := sdk.FindPort(m.Opened.Outputs, name); port != nil {
			return *port, true
		}
	}
	return sdk.Port{}, false
}

// Cost is what all calls of all stages took so far.
func (p *Pipeline) Cost() Cost {
	var c Cost
	for _, m := range p.Members {
		c = c.Add(m.Cost())
	}
	return c
}

// Requested are the ports of a family that stages give on request, by name.
func (p *Pipeline) Requested(family ports.Port) []string {
	names := map[string]bool{}
	for _, m := range p.Members {
		for _, port := range onRequest(m.Opened.Outputs, family) {
			names[port.Name] = true
		}
	}
	return slices.Sorted(maps.Keys(names))
}

// LossNames are the losses the stages declare.
func (p *Pipeline) LossNames() []string {
	names := map[string]bool{}
	for _, m := range p.Members {
		for _, l := range m.Stage.Losses {
			names[l] = true
		}
	}
	return slices.Sorted(maps.Keys(names))
}

// Close closes every stage, last first.
func (p *Pipeline) Close() error {
	var errs []error
	for _, m := range slices.Backward(p.Members) {
		errs = append(errs, m.fail("close", m.Instance.Close()))
	}
	p.Members = nil
	return errors.Join(errs...)
}

// Prefetch begins to hand over the inputs of a Forward to come, which will be given the same
// tensors, beside the run under way. What a stage refuses it will refuse then.
func (p *Pipeline) Prefetch(ctx context.Context, inputs map[string]*tensor.Tensor) error {
	for _, m := range p.Members {
		to, ok := m.Instance.(Prefetcher)
		if !ok || m.givenBy(inputs) {
			continue
		}
		own := map[string]*tensor.Tensor{}
		for name, t := range inputs {
			if port := sdk.FindPort(m.Opened.Inputs, name); port != nil && !port.Resident {
				own[name] = t
			}
		}
		var refused *sdk.Error
		if err := to.Prefetch(ctx, own); err != nil && !errors.As(err, &refused) {
			return m.fail("prefetch", err)
		}
	}
	return nil
}

// ForwardOptions say how a batch runs through the pipeline.
type ForwardOptions struct {
	Train bool
	// Seed of the batch; each stage gets its own, derived from it.
	Seed uint64
	// Wanted names on-request outputs.
	Wanted map[string]bool
	// Absent are the cases of which an encoder's output shows nothing, by port: of a case
	// without one of its pictures. The output is zero for them, as it is under a fusion's
	// modality_dropout, and no gradient goes back.
	Absent map[string][]bool
}

// visit is one stage's part of a Run.
type visit struct {
	member *Member
	// producers maps each input to the index of the stage that gave it, -1 for the host.
	producers map[string]int
	train     bool
	ended     bool     // the stage's context
	losses    []string // the ones this stage returned
	// back is what a Backward in the same call as the Forward answered.
	back *sdk.BackwardResponse
}

// Run is one batch that went through the pipeline. It ends with Backward (TRAIN mode
// only) or Release.
type Run struct {
	// Outputs are the ports as they left the pipeline. Data is valid until the run ends.
	Outputs map[string]*tensor.Tensor
	// Losses by name, not weighted.
	Losses  map[string]float64
	Metrics map[string]float64
	Notes   []string
	// GradNorms are the norms that Backward was asked for, by role.
	GradNorms map[sdk.Kind]float64

	context uint64
	absent  map[string][]bool
	visits  []visit
	done    bool
}

// Forward runs a batch through all stages; one whose every output is among the inputs
// (the cached tokens of a frozen encoder) is passed over. When a stage fails, the
// contexts already opened are released.
func (p *Pipeline) Forward(ctx context.Context, o ForwardOptions, inputs map[string]*tensor.Tensor) (*Run, error) {
	return p.forward(ctx, o, inputs, nil)
}

// BackwardOptions say how losses are weighed and what is asked for besides.
type BackwardOptions struct {
	// LossWeights by name; a loss without one counts once. All are multiplied by Scale.
	LossWeights map[string]float64
	Scale       float64
	// GradNorms asks for the gradient norm of every stage that is updated.
	GradNorms bool
	// Average has each of them begin to average its gradients over the group (Join) while
	// those before it still compute theirs.
	Average bool
	// Always back-propagates losses that are no numbers too: other processes wait for this
	// one's part of it.
	Always bool
}

func (o *BackwardOptions) weight(loss string) float64 { return weightOf(o.LossWeights, loss) * o.Scale }

// Learn is Forward in TRAIN mode and Backward, in as few calls as can be. A run whose
// losses are not all numbers is released instead, unless o.Always: see Run.Finite.
func (p *Pipeline) Learn(ctx context.Context, f ForwardOptions, inputs map[string]*tensor.Tensor, o BackwardOptions) (*Run, error) {
	f.Train = true
	r, err := p.forward(ctx, f, inputs, &o)
	if err != nil {
		return nil, err
	}
	if !r.Finite() && !o.Always {
		return r, r.Release(ctx)
	}
	return r, r.Backward(ctx, o)
}

// forward lets the last stage go backwards in the same call where back says how.
func (p *Pipeline) forward(ctx context.Context, o ForwardOptions, inputs map[string]*tensor.Tensor, back *BackwardOptions) (*Run, error) {
	r := &Run{
		Outputs: maps.Clone(inputs), Losses: map[string]float64{}, Metrics: map[string]float64{}, GradNorms: map[sdk.Kind]float64{},
		context: p.context + 1, absent: o.Absent,
	}
	p.context++
	if r.Outputs == nil {
		r.Outputs = map[string]*tensor.Tensor{}
	}
	producer := map[string]int{}
	for name := range inputs {
		producer[name] = -1
	}
	// learns[i]: a gradient that arrives at stage i's outputs is of use to someone.
	learns := make([]bool, len(p.Members))
	for i, m := range p.Members {
		if m.givenBy(inputs) {
			r.visits = append(r.visits, visit{member: m}) // producers are numbered by stage
			continue
		}
		v := visit{member: m, producers: map[string]int{}, train: o.Train && m.Stage.Trainable}
		req := &sdk.ForwardRequest{
			Context: r.context, Train: v.train, Seed: Seed(o.Seed, string(m.Role)),
			Inputs: map[string]*tensor.Tensor{}, NeedsGrad: map[string]bool{}, Wanted: map[string]bool{},
			NewOutput: newOutput,
		}
		learns[i] = v.train && m.Opened.TrainableCount > 0
		for name, t := range r.Outputs {
			port := sdk.FindPort(m.Opened.Inputs, name)
			if port == nil || port.Resident {
				continue
			}
			req.Inputs[name] = t
			from := producer[name]
			v.producers[name] = from
			if v.train && from >= 0 && port.Differentiable && learns[from] && p.Members[from].gives(name).Differentiable {
				req.NeedsGrad[name] = true
				learns[i] = true
			}
		}
		for _, maker := range m.kept { // its gradient stays in the process, too
			from := slices.IndexFunc(p.Members, func(m *Member) bool { return string(m.Role) == maker })
			learns[i] = learns[i] || v.train && from >= 0 && learns[from]
		}
		for name := range o.Wanted {
			if port := sdk.FindPort(m.Opened.Outputs, name); port != nil && port.OnRequest {
				req.Wanted[name] = true
			}
		}
		var resp *sdk.ForwardResponse
		var err error
		if back != nil && i == len(p.Members)-1 && v.train && r.Finite() && m.namesLosses() && !back.Always {
			v.ended = true
			resp, v.back, err = m.Instance.ForwardBackward(ctx, req, r.backwardRequest(m, m.Stage.Losses, nil, *back))
		} else {
			resp, err = m.Instance.Forward(ctx, req)
		}
		if err != nil {
			return nil, errors.Join(m.fail("forward", err), r.Release(context.WithoutCancel(ctx)))
		}
		v.losses = slices.Collect(maps.Keys(resp.Losses))
		r.visits = append(r.visits, v)
		if m.Role == sdk.KindEncoder {
			if err := blank(resp.Outputs, o.Absent); err != nil {
				return nil, errors.Join(m.fail("forward", err), r.Release(context.WithoutCancel(ctx)))
			}
		}
		for name, t := range resp.Outputs {
			r.Outputs[name] = t
			producer[name] = i
		}
		maps.Copy(r.Losses, resp.Losses)
		maps.Copy(r.Metrics, resp.Metrics)
		r.Notes = append(r.Notes, resp.Notes...)
	}
	return r, nil
}

// OwnMetrics asks the head for its own metrics of the cases of a run in EVAL mode, [N] each
// by the port's name. It is told the targets for it, which it was not for the run; nothing
// else that it answers is looked at. It is nil where the head has none.
func (p *Pipeline) OwnMetrics(ctx context.Context, r *Run, o ForwardOptions, targets map[string]*tensor.Tensor) (map[string]*tensor.Tensor, error) {
	m := p.Member(sdk.KindHead)
	if m == nil || len(m.Metrics()) == 0 {
		return nil, nil
	}
	req := &sdk.ForwardRequest{Context: r.context, Seed: Seed(o.Seed, string(m.Role)), Inputs: map[string]*tensor.Tensor{},
		NeedsGrad: map[string]bool{}, Wanted: map[string]bool{}, NewOutput: newOutput}
	for _, given := range []map[string]*tensor.Tensor{r.Outputs, targets} {
		for name, t := range given {
			if port := sdk.FindPort(m.Opened.Inputs, name); port != nil && !port.Resident {
				req.Inputs[name] = t
			}
		}
	}
	for _, port := range m.Metrics() {
		req.Wanted[port.Name] = true
	}
	resp, err := m.Instance.Forward(ctx, req)
	if err != nil {
		return nil, m.fail("forward", err)
	}
	out := map[string]*tensor.Tensor{}
	for name := range req.Wanted {
		if out[name] = resp.Outputs[name]; out[name] == nil {
			return nil, m.WrongOutput("%q was asked for and is not among the answers", name)
		}
	}
	return out, nil
}

// blank puts in the place of tensors copies that are zero for the absent cases.
func blank(tensors map[string]*tensor.Tensor, absent map[string][]bool) error {
	for name, rows := range absent {
		t := tensors[name]
		if t == nil || !slices.Contains(rows, true) {
			continue
		}
		if len(t.Shape) == 0 || t.Shape[0] != int64(len(rows)) {
			return fmt.Errorf("%q is %s for %d cases", name, t, len(rows))
		}
		out := &tensor.Tensor{DType: t.DType, Shape: t.Shape, Data: slices.Clone(t.Data)}
		size := len(out.Data) / len(rows)
		for i, yes := range rows {
			if yes {
				clear(out.Data[i*size : (i+1)*size])
			}
		}
		tensors[name] = out
	}
	return nil
}

// newOutput serves stages that live in this process; plugins get memory from their client.
func newOutput(_ string, dtype tensor.DType, shape ...int64) (*tensor.Tensor, error) {
	return tensor.New(dtype, shape...)
}

// Loss is the weighted sum of the losses; a loss without a weight counts once.
func (r *Run) Loss(weights map[string]float64) float64 {
	var sum float64
	for _, name := range slices.Sorted(maps.Keys(r.Losses)) {
		sum += weightOf(weights, name) * r.Losses[name]
	}
	return sum
}

func weightOf(weights map[string]float64, name string) float64 {
	if w, ok := weights[name]; ok {
		return w
	}
	return 1
}

// Finite reports whether every loss is a number.
func (r *Run) Finite() bool {
	for _, l := range r.Losses {
		if !finite(l) {
			return false
		}
	}
	return true
}

// Backward sends gradients from the last stage to the first and ends the run. A stage
// that two others lean on gets the sum of their gradients in one call.
func (r *Run) Backward(ctx context.Context, o BackwardOptions) error {
	if r.done {
		return errors.New("pipeline: backward on a run that has ended")
	}
	grads := make([]map[string]*tensor.Tensor, len(r.visits))
	for i := range grads {
		grads[i] = map[string]*tensor.Tensor{}
	}
	for i := len(r.visits) - 1; i >= 0; i-- {
		v := &r.visits[i]
		if !v.train {
			continue
		}
		m := v.member
		m.zeroed = !m.learns()
		resp := v.back
		if m.Role == sdk.KindEncoder {
			if err := blank(grads[i], r.absent); err != nil {
				return errors.Join(m.fail("backward", err), r.Release(context.WithoutCancel(ctx)))
			}
		}
		if resp == nil {
			var err error
			if resp, err = m.Instance.Backward(ctx, r.backwardRequest(m, v.losses, grads[i], o)); err != nil {
				return errors.Join(m.fail("backward", err), r.Release(context.WithoutCancel(ctx)))
			}
			v.ended = true
		}
		if o.GradNorms && m.Updates() {
			r.GradNorms[m.Role] = resp.GradNorm
		}
		if o.Average {
			if err := m.average(ctx); err != nil {
				return errors.Join(err, r.Release(context.WithoutCancel(ctx)))
			}
		}
		for name, g := range resp.InputGrads {
			from, ok := v.producers[name]
			if !ok || from < 0 {
				continue
			}
			var err error
			if grads[from][name], err = sum(grads[from][name], g); err != nil {
				err = m.fail("backward", fmt.Errorf("gradient of %q: %w", name, err))
				return errors.Join(err, r.Release(context.WithoutCancel(ctx)))
			}
		}
	}
	return r.Release(ctx) // resident tensors of stages that do not train
}

func (r *Run) backwardRequest(m *Member, losses []string, grads map[string]*tensor.Tensor, o BackwardOptions) *sdk.BackwardRequest {
	weights := map[string]float64{}
	for _, name := range losses {
		weights[name] = o.weight(name)
	}
	return &sdk.BackwardRequest{Context: r.context, OutputGrads: grads, LossWeights: weights,
		GradNorm: o.GradNorms && m.Updates(), AverageNext: o.Average && m.Updates(), NewOutput: newOutput}
}

// Release ends a run without gradients: TRAIN graphs, and in EVAL mode the resident
// tensors that stages of one plugin share. Releasing an ended run does nothing.
func (r *Run) Release(ctx context.Context) error {
	if r.done {
		return nil
	}
	r.done = true
	var errs []error
	for _, v := range slices.Backward(r.visits) {
		if !v.ended && (v.train || v.member.keepsResidents()) {
			errs = append(errs, v.member.fail("release", v.member.Instance.Release(ctx, r.context)))
		}
	}
	return errors.Join(errs...)
}

// sum adds FP32 tensors; neither argument is changed.
func sum(a, b *tensor.Tensor) (*tensor.Tensor, error) {
	if a == nil {
		return b, nil
	}
	x, err := a.Float32s()
	if err != nil {
		return nil, err
	}
	y, err := b.Float32s()
	if err != nil {
		return nil, err
	}
	if !slices.Equal(a.Shape, b.Shape) {
		return nil, fmt.Errorf("shapes %v and %v differ", a.Shape, b.Shape)
	}
	out, err := tensor.New(tensor.FP32, a.Shape...)
	if err != nil {
		return nil, err
	}
	z, err := out.Float32s()
	if err != nil {
		return nil, err
	}
	for i := range z {
		z[i] = x[i] + y[i]
	}
	return out, nil
}
