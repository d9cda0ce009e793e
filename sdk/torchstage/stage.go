package torchstage

import (
	"context"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"

	"github.com/sugarme/gotch"
	"github.com/sugarme/gotch/ts"

	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

// Module is a model: plain arithmetic on tensors. Forward runs on the torch thread;
// autograd records in TRAIN mode. Failures go to the scope.
type Module interface {
	Forward(s *Scope, in *Inputs) *Outputs
}

// Backwarder is a Module that runs its own backward pass (gradient checkpointing).
// It leaves gradients in the parameters and in the leaves of in.Tensors and
// in.Resident, exactly as autograd would. grads holds d l / d output, including those
// of resident outputs.
type Backwarder interface {
	Backward(s *Scope, in *Inputs, out *Outputs, grads map[string]*ts.Tensor, lossWeights map[string]float64)
}

// Optimizer is a Module with an update rule of its own, which its manifest names
// (sdk.StageManifest.Optimizer).
type Optimizer interface {
	OptimizerName() string
	// Update moves one parameter by its gradient. It runs without autograd.
	Update(s *Scope, u *Update)
}

// Scheduler is a Module with a learning rate of its own, which its manifest tells of
// (sdk.StageManifest.Schedule): that of step number step (from 0) of steps, where base is the
// rate without the host's schedule.
type Scheduler interface {
	LearningRate(step, steps int, base float64) float64
}

// Closer is a Module that holds more than Params.
type Closer interface {
	Close()
}

// Builder makes a Module on the torch thread. Failures may go to b.S or be returned.
type Builder func(b *Build) (Module, error)

// Build is what a Builder works with.
type Build struct {
	Request *sdk.OpenRequest
	Params  *Params
	Device  gotch.Device
	Group   *Group
	// S is for building only; what must stay is taken out with Keep.
	S *Scope
	// Inputs and Outputs are the ports with every size known after building.
	Inputs, Outputs []sdk.Port
	Notes           []string
	// Autocast runs the module in bfloat16 (with FP16 in half precision) where that is safe: at
	// first what the request's AMP says. A module that sees to its precision itself sets it to false.
	Autocast bool
	// Losses are as in sdk.OpenResponse.
	Losses []string
}

// Constant is one of the request's constants on the stage's device, which stays until the
// stage is closed or it is freed; nil where the request has none of that name.
func (b *Build) Constant(name string) *ts.Tensor {
	t := b.Request.Constants[name]
	if t == nil {
		return nil
	}
	return b.S.Keep(b.S.To(b.S.FromTensor(t), b.Device))
}

// Inputs of one Forward.
type Inputs struct {
	Train bool
	// Frozen stages must not change in TRAIN mode: running statistics are used and stay as
	// they are. Scope.BatchNorm sees to that by itself.
	Frozen  bool
	Context uint64
	// Seed is the source of randomness; torch's generators are seeded with it already.
	Seed uint64
	// Tensors by port name. Those whose gradient is wanted are autograd leaves.
	Tensors map[string]*ts.Tensor
	// Text holds the BYTES inputs.
	Text map[string][]string
	// Resident inputs by port name; autograd leaves in TRAIN mode.
	Resident map[string]*ts.Tensor
	// Wanted names the on-request outputs to compute.
	Wanted map[string]bool
}

// Outputs of one Forward.
type Outputs struct {
	// Tensors by port name, resident outputs included.
	Tensors map[string]*ts.Tensor
	// Losses are scalars.
	Losses  map[string]*ts.Tensor
	Metrics map[string]float64
	Notes   []string
	// Raw outputs were computed in Go.
	Raw map[string]*tensor.Tensor
	// State is the Module's own, for its Backwarder; if it has a method Free(), that is
	// called when the context ends.
	State any

	read []reading
}

// reading is a tensor and who waits for its values.
type reading struct {
	tensor *ts.Tensor
	use    func(values []float64)
}

// Read has the values of t read back, row-major, together with the losses, and calls use with
// them: for metrics and whatever else the module itself does not wait for.
func (o *Outputs) Read(s *Scope, t *ts.Tensor, use func(values []float64)) {
	d := s.Detach(t)
	if s.err == nil {
		o.read = append(o.read, reading{s.Keep(d), use})
	}
}

// endReading frees what was to be read.
func (o *Outputs) endReading() {
	for _, r := range o.read {
		_ = r.tensor.Drop()
	}
	o.read = nil
}

// Open makes an sdk.OpenFunc of builders by stage name.
func Open(builders map[string]Builder) sdk.OpenFunc {
	return func(_ context.Context, req *sdk.OpenRequest) (sdk.Stage, *sdk.OpenResponse, error) {
		build, ok := builders[req.Stage]
		if !ok {
			return nil, nil, sdk.Errorf(sdk.InvalidArgument, "no stage %q", req.Stage)
		}
		device, err := parseDevice(req.Device)
		if err != nil {
			return nil, nil, err
		}
		st := &stage{device: device, frozen: req.Frozen, open: map[uint64]*opened{}}
		var resp *sdk.OpenResponse
		err = OnThread(func() error {
			if req.Threads > 0 {
				if err := ts.SetNumThreads(req.Threads); err != nil {
					return torchError("set threads", err)
				}
			}
			if err := useArithmetic(req.Arithmetic); err != nil {
				return err
			}
			restore, err := gradMode(false)
			if err != nil {
				return err
			}
			defer restore()
			s := newScope()
			defer s.end()
			if err := useDevice(s, device, req.Device); err != nil {
				return err
			}
			if st.half = req.AMP && req.FP16; st.half {
				if err := useHalf(device); err != nil {
					return err
				}
			}
			st.params = newParams(s, req.Seed, device)
			st.group = joinGroup(req.Group)
			b := &Build{Request: req, Params: st.params, Device: device, Group: st.group, S: s, Autocast: req.AMP}
			st.module, err = build(b)
			st.amp = b.Autocast
			if err == nil {
				st.optimizer, err = resolveOptimizer(req.Optimizer, st.module)
			}
			if req.Frozen {
				st.params.Freeze("")
			}
			st.params.s = nil
			if err == nil {
				err = s.err
			}
			if err != nil {
				st.params.free()
				st.group.leave()
				return err
			}
			st.residency(b)
			all, trainable := st.params.counts()
			resp = &sdk.OpenResponse{ParameterCount: all, TrainableCount: trainable, Inputs: b.Inputs, Outputs: b.Outputs,
				Notes: b.Notes, Losses: b.Losses}
			return nil
		})
		if err != nil {
			return nil, nil, err
		}
		return st, resp, nil
	}
}

// opened is a TRAIN context between Forward and Backward.
type opened struct {
	scope *Scope
	in    *Inputs
	out   *Outputs
	leafs map[string]*ts.Tensor // inputs whose gradient is wanted
	left  map[string]*ts.Tensor // those whose gradient stays in the process, by the name in the group
}

func (o *opened) end() {
	if f, ok := o.out.State.(interface{ Free() }); ok {
		f.Free()
	}
	o.scope.end()
}

// stage is an sdk.Stage, Prefetcher, Trainer, Parallel and Saver around a Module.
type stage struct {
	module      Module
	params      *Params
	group       *Group
	optimizer   sdk.Optimizer
	device      gotch.Device
	frozen, amp bool
	half        bool   // amp is half precision
	peers       *peers // nil: trained in this process alone
	// takes and gives are what the stage exchanges with others in the process.
	takes []taken
	gives []given
	open  map[uint64]*opened
	ahead ahead
}

// taken is a resident input: its port, and its name in the group. One that is kept for the stage
// (OpenRequest.Kept) is an input like any other to the module.
type taken struct {
	port, name string
	kept       bool
}

// given is a resident output, or a family of them, and what stands before its name in the group.
type given struct{ port, before string }

// residency notes what the stage exchanges with others in the process.
func (st *stage) residency(b *Build) {
	for _, p := range b.Inputs {
		if p.Resident {
			st.takes = append(st.takes, taken{port: p.Name, name: p.Name})
		}
	}
	for _, p := range b.Outputs {
		if p.Resident {
			st.gives = append(st.gives, given{port: p.Name})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(b.Request.Kept)) {
		st.takes = append(st.takes, taken{port: name, name: b.Request.Kept[name] + "/" + name, kept: true})
	}
	for _, name := range b.Request.Keeps {
		st.gives = append(st.gives, given{port: name, before: b.Request.Keeper + "/"})
	}
}

// stays is the name in the group of an output that stays in the process; false for others.
func (st *stage) stays(output string) (string, bool) {
	for _, g := range st.gives {
		prefix, family := sdk.Family(g.port)
		if g.port == output || family && strings.HasPrefix(output, prefix) {
			return g.before + output, true
		}
	}
	return "", false
}

// ahead are the inputs that Prefetch has copied and no Forward has taken.
type ahead struct {
	sync.Mutex
	sets []uploaded
}

// uploaded are inputs by name, in the host's memory and on the device.
type uploaded struct {
	ticket      uint64
	scope       *Scope
	host, there map[string]*ts.Tensor
}

// Prefetch implements sdk.Prefetcher: on a thread of its own it copies inputs, and begins to copy
// them to the device, while others compute there.
func (st *stage) Prefetch(_ context.Context, req *sdk.PrefetchRequest) error {
	return uploads.run(func() error {
		set := uploaded{req.Ticket, newScope(), map[string]*ts.Tensor{}, map[string]*ts.Tensor{}}
		for name, t := range req.Inputs {
			if t.DType != tensor.Bytes {
				set.host[name], set.there[name] = set.scope.upload(t, st.device)
			}
		}
		if err := set.scope.err; err != nil {
			set.scope.end()
			return err
		}
		st.ahead.Lock()
		defer st.ahead.Unlock()
		st.ahead.sets = append(st.ahead.sets, set)
		for len(st.ahead.sets) > sdk.PrefetchedTickets {
			st.ahead.sets[0].scope.end()
			st.ahead.sets = st.ahead.sets[1:]
		}
		return nil
	})
}

// take hands the inputs of a ticket to a scope.
func (a *ahead) take(ticket uint64, s *Scope) (set uploaded) {
	a.Lock()
	defer a.Unlock()
	if i := slices.IndexFunc(a.sets, func(u uploaded) bool { return u.ticket == ticket }); ticket != 0 && i >= 0 {
		set = a.sets[i]
		a.sets = slices.Delete(a.sets, i, i+1)
		s.owned = append(s.owned, set.scope.owned...)
		set.scope.owned = nil
		set.scope.end()
	}
	return set
}

// Forward implements sdk.Stage.
func (st *stage) Forward(_ context.Context, req *sdk.ForwardRequest) (resp *sdk.ForwardResponse, err error) {
	err = st.onThread(func() error {
		if st.open[req.Context] != nil {
			return sdk.Errorf(sdk.FailedPrecondition, "context %d is open already", req.Context)
		}
		restore, err := gradMode(req.Train)
		if err != nil {
			return err
		}
		defer restore()
		if err := ts.ManualSeed(int64(req.Seed &^ (1 << 63))); err != nil {
			return torchError("seed", err)
		}
		s := newScope()
		s.frozen, s.amp = st.frozen, st.amp
		if st.peers != nil && st.peers.syncBatchNorm && req.Train {
			s.peers = st.peers
		}
		keep := false
		defer func() {
			if !keep {
				s.end()
			}
		}()
		in := &Inputs{
			Train: req.Train, Frozen: st.frozen, Context: req.Context, Seed: req.Seed, Wanted: req.Wanted,
			Tensors: map[string]*ts.Tensor{}, Resident: map[string]*ts.Tensor{}, Text: map[string][]string{},
		}
		leafs, onHost := map[string]*ts.Tensor{}, map[*ts.Tensor]*ts.Tensor{}
		shown := st.ahead.take(req.Ticket, s)
		for name, t := range req.Inputs {
			if t.DType == tensor.Bytes {
				if in.Text[name], err = t.Strings(); err != nil {
					return err
				}
				continue
			}
			h, v := shown.host[name], shown.there[name]
			if v == nil {
				h, v = s.upload(t, st.device)
			}
			if req.Train && req.NeedsGrad[name] {
				v = s.Leaf(v)
				leafs[name] = v
			}
			in.Tensors[name], onHost[v] = v, h
		}
		left, err := st.takeResidents(s, in)
		if err != nil {
			return err
		}
		if s.err != nil {
			return s.err
		}
		// Temporaries of the model go as soon as it has run; the graph keeps what it needs.
		inner := s.inner()
		inner.given = onHost
		out, err := st.compute(inner, in)
		s.Fail(err)
		s.Fail(inner.err)
		if s.err == nil && out == nil {
			s.Failf(sdk.Internal, "the module returned nothing")
		}
		if s.err == nil {
			resp = st.collect(s, req, out)
		}
		if out != nil {
			out.endReading()
		}
		if s.err == nil {
			for _, group := range []map[string]*ts.Tensor{out.Tensors, out.Losses} {
				for name, t := range group {
					if _, stays := st.stays(name); stays {
						continue // the group owns it
					}
					if req.Train {
						inner.moveTo(s, t)
					}
				}
			}
			st.giveResidents(inner, req, out)
		}
		for _, t := range inner.owned {
			_ = t.Drop()
		}
		if s.err != nil {
			if out != nil {
				if f, ok := out.State.(interface{ Free() }); ok {
					f.Free()
				}
			}
			return s.err
		}
		if req.Train {
			keep = true
			st.open[req.Context] = &opened{s, in, out, leafs, left}
		} else if f, ok := out.State.(interface{ Free() }); ok {
			f.Free()
		}
		return nil
	})
	return resp, err
}

// compute runs the module. With amp it computes in lower precision, and gives single precision.
func (st *stage) compute(s *Scope, in *Inputs) (*Outputs, error) {
	if !st.amp {
		return st.module.Forward(s, in), nil
	}
	restore, err := autocast(st.device, st.half)
	if err != nil {
		return nil, err
	}
	defer restore()
	out := st.module.Forward(s, in)
	if out != nil && s.err == nil {
		for _, group := range []map[string]*ts.Tensor{out.Tensors, out.Losses} {
			for name, t := range group {
				group[name] = s.full(t)
			}
		}
	}
	return out, nil
}

// moveTo hands t to another scope if this one owns it.
func (s *Scope) moveTo(to *Scope, t *ts.Tensor) {
	before := len(s.owned)
	s.Keep(t)
	if len(s.owned) < before {
		to.owned = append(to.owned, t)
	}
}

// takeResidents looks up this context's resident inputs; left are those whose gradient is to be
// left in the group, by their names there.
func (st *stage) takeResidents(s *Scope, in *Inputs) (left map[string]*ts.Tensor, err error) {
	left = map[string]*ts.Tensor{}
	for _, t := range st.takes {
		r := st.group.contexts[in.Context][t.name]
		if r == nil {
			return nil, &sdk.Error{Code: sdk.FailedPrecondition, Port: t.port, Given: "missing for this context",
				Wanted: "the stage that makes it to run first, in the same plugin process, group and context"}
		}
		var v *ts.Tensor
		if in.Train && isFloat(r.value.DType()) {
			v = s.Leaf(r.value)
			left[t.name] = v
		} else {
			v = s.Detach(r.value)
		}
		if t.kept {
			in.Tensors[t.port] = v
		} else {
			in.Resident[t.port] = v
		}
	}
	return left, nil
}

// giveResidents hands resident outputs to the group.
func (st *stage) giveResidents(inner *Scope, req *sdk.ForwardRequest, out *Outputs) {
	if len(st.gives) == 0 {
		return
	}
	if e := st.group.evalContext; e != nil && *e != req.Context {
		st.group.drop(*e)
		st.group.evalContext = nil
	}
	if !req.Train {
		id := req.Context
		st.group.evalContext = &id
	}
	for output, t := range out.Tensors {
		if name, stays := st.stays(output); stays && t != nil {
			inner.Keep(t)
			st.group.store(req.Context, name, t, st)
		}
	}
}

// collect turns outputs into what the host reads.
func (st *stage) collect(s *Scope, req *sdk.ForwardRequest, out *Outputs) *sdk.ForwardResponse {
	resp := &sdk.ForwardResponse{
		Outputs: map[string]*tensor.Tensor{}, Losses: map[string]float64{}, Notes: out.Notes,
	}
	for name, t := range out.Tensors {
		if _, stays := st.stays(name); stays {
			continue
		}
		resp.Outputs[name] = s.ToTensor(t, func(dtype tensor.DType, shape ...int64) (*tensor.Tensor, error) {
			return req.NewOutput(name, dtype, shape...)
		})
	}
	for name, t := range out.Raw {
		resp.Outputs[name] = t
	}
	names, back := sortedKeys(out.Losses), []*ts.Tensor{}
	for _, name := range names {
		back = append(back, out.Losses[name])
	}
	for _, r := range out.read {
		back = append(back, r.tensor)
	}
	for i, values := range s.Floats(back...) {
		switch {
		case s.err != nil:
		case i >= len(names):
			out.read[i-len(names)].use(values)
		case len(values) != 1:
			s.Failf(sdk.Internal, "loss %s has %d values, want one", names[i], len(values))
		default:
			resp.Losses[names[i]] = values[0]
		}
	}
	resp.Metrics = out.Metrics
	return resp
}

// Backward implements sdk.Trainer: one vector-Jacobian product through the graph,
// with the gradients that consumers left for resident outputs.
func (st *stage) Backward(_ context.Context, req *sdk.BackwardRequest) (resp *sdk.BackwardResponse, err error) {
	err = st.onThread(func() error {
		o := st.open[req.Context]
		if o == nil {
			return sdk.Errorf(sdk.NotFound, "context %d is not open", req.Context)
		}
		delete(st.open, req.Context)
		defer o.end()
		restore, err := gradMode(true)
		if err != nil {
			return err
		}
		defer restore()
		s := o.scope
		grads := map[string]*ts.Tensor{}
		for name, t := range req.OutputGrads {
			_, grads[name] = s.upload(t, st.device)
		}
		for output := range o.out.Tensors {
			name, stays := st.stays(output)
			if r := st.group.contexts[req.Context][name]; stays && r != nil && r.grad != nil {
				grads[output] = r.grad
			}
		}
		if req.AverageNext {
			if err := st.await(); err != nil {
				return err
			}
		}
		if b, ok := st.module.(Backwarder); ok {
			if st.amp {
				restore, err := autocast(st.device, st.half)
				if err != nil {
					return err
				}
				defer restore()
			}
			b.Backward(s, o.in, o.out, grads, req.LossWeights)
		} else {
			st.backward(s, o, grads, req.LossWeights, req.Context)
		}
		if s.err != nil {
			return s.err
		}
		st.group.dropOf(req.Context, st)
		st.leaveGrads(s, req.Context, o.left)
		resp = &sdk.BackwardResponse{InputGrads: map[string]*tensor.Tensor{}}
		for name, leaf := range o.leafs {
			g := s.Grad(leaf)
			if g == nil { // nothing depends on it
				g = s.Do("zeros_like", func() (*ts.Tensor, error) { return leaf.ZerosLike(false) })
			}
			resp.InputGrads[name] = s.ToTensor(g, func(dtype tensor.DType, shape ...int64) (*tensor.Tensor, error) {
				return req.NewOutput(name, dtype, shape...)
			})
		}
		return s.err
	})
	return resp, err
}

// backward runs autograd from every output and loss that has an incoming gradient.
func (st *stage) backward(s *Scope, o *opened, grads map[string]*ts.Tensor, lossWeights map[string]float64, context uint64) {
	var roots, seeds []*ts.Tensor
	root := func(t, g *ts.Tensor) {
		needs, err := t.RequiresGrad()
		if err != nil {
			s.Fail(torchError("requires_grad", err))
			return
		}
		if needs {
			roots, seeds = append(roots, t), append(seeds, g)
		}
	}
	for _, name := range sortedKeys(o.out.Tensors) {
		t := o.out.Tensors[name]
		if name, stays := st.stays(name); stays {
			r := st.group.contexts[context][name]
			if r == nil {
				continue
			}
			t = r.value
		}
		if g := grads[name]; g != nil && t != nil {
			root(t, g)
		}
	}
	for _, name := range sortedKeys(o.out.Losses) {
		if w := lossWeights[name]; w != 0 {
			t := o.out.Losses[name]
			root(t, s.Full(st.device, w, s.Shape(t)...))
		}
	}
	if len(roots) == 0 {
		return
	}
	s.Act("backward", func() error { return ts.BackwardWithGradients(roots, seeds, false) })
}

// leaveGrads leaves the gradients of resident inputs, by their names in the group, for the
// stages that made them.
func (st *stage) leaveGrads(s *Scope, context uint64, left map[string]*ts.Tensor) {
	for name, leaf := range left {
		r, g := st.group.contexts[context][name], s.Grad(leaf)
		if r == nil || g == nil {
			continue
		}
		if r.grad != nil {
			sum := s.Keep(s.Add(r.grad, g))
			_ = r.grad.Drop()
			r.grad = sum
		} else {
			r.grad = s.Keep(g)
		}
	}
}

// Release implements sdk.Trainer.
func (st *stage) Release(_ context.Context, id uint64) error {
	return OnThread(func() error {
		if o := st.open[id]; o != nil {
			delete(st.open, id)
			o.end()
		}
		st.group.dropOf(id, st)
		return nil
	})
}

// ZeroGrad implements sdk.Trainer.
func (st *stage) ZeroGrad(context.Context) error {
	return st.run(func(s *Scope) error { st.params.zeroGrad(s); return nil })
}

// GradNorm implements sdk.Trainer.
func (st *stage) GradNorm(context.Context) (norm float64, err error) {
	err = st.run(func(s *Scope) error { norm = st.params.gradNorm(s); return nil })
	return norm, err
}

// Step implements sdk.Trainer.
func (st *stage) Step(_ context.Context, req *sdk.StepRequest) error {
	lr, ok := req.Values[sdk.LearningRate]
	if base, own := req.Values[sdk.BaseRate]; own {
		if m, is := st.module.(Scheduler); is {
			lr = m.LearningRate(int(req.Values[sdk.StepNumber]), int(req.Values[sdk.StepCount]), base)
		}
	}
	if !ok || math.IsNaN(lr) || math.IsInf(lr, 0) || lr < 0 {
		return sdk.Errorf(sdk.InvalidArgument, "step needs a finite learning_rate of at least 0, given %v", req.Values)
	}
	if math.IsNaN(req.GradientScale) || math.IsInf(req.GradientScale, 0) {
		return sdk.Errorf(sdk.InvalidArgument, "gradient scale is %v, want a finite number", req.GradientScale)
	}
	return st.run(func(s *Scope) error { st.params.step(s, st.module, st.optimizer, lr, req.GradientScale); return nil })
}

// Save implements sdk.Saver.
func (st *stage) Save(_ context.Context, dir string) (files []string, err error) {
	err = st.run(func(s *Scope) (err error) { files, err = st.params.save(s, dir, st.optimizer); return err })
	return files, err
}

// Load implements sdk.Saver.
func (st *stage) Load(_ context.Context, dir string, weightsOnly bool) error {
	return st.run(func(s *Scope) error { return st.params.load(s, dir, st.optimizer, weightsOnly) })
}

// Close implements sdk.Stage.
func (st *stage) Close() error {
	return OnThread(func() error {
		for _, o := range st.open {
			o.end()
		}
		st.open = nil
		for _, set := range st.ahead.sets {
			set.scope.end()
		}
		if c, ok := st.module.(Closer); ok {
			c.Close()
		}
		st.leave()
		st.params.free()
		st.group.leave()
		return nil
	})
}

// onThread is OnThread once an average that was begun has ended.
func (st *stage) onThread(f func() error) error {
	return OnThread(func() error {
		if err := st.settle(); err != nil {
			return err
		}
		return f()
	})
}

// run is Run once an average that was begun has ended.
func (st *stage) run(f func(s *Scope) error) error {
	return Run(func(s *Scope) error {
		if err := st.settle(); err != nil {
			return err
		}
		return f(s)
	})
}

func isFloat(d gotch.DType) bool {
	return d == gotch.Float || d == gotch.Double || d == gotch.Half || d == gotch.BFloat16
}

func sortedKeys(m map[string]*ts.Tensor) []string { return slices.Sorted(maps.Keys(m)) }
