// Package wire is the stage protocol behind package sdk: its messages from and to Go
// types, and the server that calls a plugin's stages.
package wire

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"github.com/alignedfusion/alignedfusion/internal/process"
	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/proto/stagev1"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

// Register adds the plugin's stage service to a gRPC server and returns a function
// that closes its instances. Serve does this for a program; harnesses call it directly.
func Register(registrar grpc.ServiceRegistrar, p sdk.Plugin) (closeAll func()) {
	s := NewServer(p)
	stagev1.RegisterStageServiceServer(registrar, s)
	return func() { _ = s.CloseAll(context.Background()) }
}

// Server is the stage protocol on one side and Stage values on the other.
type Server struct {
	stagev1.UnimplementedStageServiceServer
	plugin sdk.Plugin
	// Others are the plugins of the program that the process can serve as well, by name; nil: none.
	Others map[string]func() sdk.Plugin
	// Exit ends the process after Shutdown; nil inside a harness.
	Exit func()

	mu        sync.Mutex
	memory    []byte
	instances map[uint64]*instance
	last      uint64
	closing   bool
}

// NewServer serves a plugin that has no instances yet.
func NewServer(p sdk.Plugin) *Server {
	return &Server{plugin: p, instances: map[uint64]*instance{}}
}

// endedMemory is how many ended contexts an instance remembers, to tell "ended" from
// "never existed".
const endedMemory = 1024

// instance is an opened stage and the books of its contexts. mu serialises the calls.
type instance struct {
	mu              sync.Mutex
	manifest        *sdk.StageManifest
	label           string
	stage           sdk.Stage
	inputs, outputs []sdk.Port
	resident        bool
	train           bool
	closed          atomic.Bool
	maxOpen         int
	open            map[uint64]*openContext
	order           []uint64
	ended           []uint64
	// ahead is held by Prefetch, which does not wait for mu.
	ahead sync.Mutex
}

// openContext is a Forward that may still be followed by a Backward.
type openContext struct {
	train bool
	// shapes of the differentiable outputs and of the inputs whose gradient is wanted.
	outputs, gradients map[string]*tensor.Tensor
}

func cost(start time.Time) *stagev1.Cost {
	return &stagev1.Cost{ComputeNs: time.Since(start).Nanoseconds(), PeakRssBytes: process.PeakRSSBytes()}
}

// guard turns a panic of the author's code into an Internal error that names the stage.
func guard(label, call string, f func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			fmt.Fprintf(os.Stderr, "%s: %s: panic: %v\n%s", label, call, r, debug.Stack())
			err = &sdk.Error{Code: sdk.Internal, Stage: label, Call: call, Err: fmt.Errorf("panic: %v", r),
				Advice: "the plugin's log has the stack"}
		}
	}()
	return f()
}

// Describe answers the manifest.
func (s *Server) Describe(_ context.Context, r *stagev1.DescribeRequest) (*stagev1.DescribeResponse, error) {
	p, err := s.of(r.GetPlugin())
	if err != nil {
		return nil, StatusError(err, "", "describe")
	}
	return &stagev1.DescribeResponse{Manifest: ManifestToProto(s.manifest(p))}, nil
}

// of is the plugin of a name; "" is the one that the process was started as.
func (s *Server) of(name string) (sdk.Plugin, error) {
	if name == "" || name == s.plugin.Manifest.Name {
		return s.plugin, nil
	}
	if other := s.Others[name]; other != nil {
		return other(), nil
	}
	return sdk.Plugin{}, &sdk.Error{Code: sdk.InvalidArgument, Err: fmt.Errorf("this program has no plugin %q", name),
		Wanted: fmt.Sprintf("one of %v", append([]string{s.plugin.Manifest.Name}, slices.Sorted(maps.Keys(s.Others))...))}
}

// Manifest is that of the plugin the process was started as.
func (s *Server) Manifest() sdk.Manifest { return s.manifest(s.plugin) }

// manifest is a plugin's, with the capabilities that the server adds.
func (s *Server) manifest(p sdk.Plugin) sdk.Manifest {
	m := p.Manifest
	m.Capabilities = slices.Clone(m.Capabilities)
	added := sdk.Capabilities()
	if len(s.Others) > 0 {
		added = append(added, sdk.CapabilityTogether)
	}
	for _, c := range added {
		if !slices.Contains(m.Capabilities, c) {
			m.Capabilities = append(m.Capabilities, c)
		}
	}
	return m
}

// Attach maps the memory that the host lends.
func (s *Server) Attach(_ context.Context, r *stagev1.AttachRequest) (*stagev1.AttachResponse, error) {
	memory, err := mapShared(r)
	if err != nil {
		return nil, StatusError(err, "", "attach")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.memory != nil {
		_ = unmapShared(memory)
		return nil, StatusError(sdk.Errorf(sdk.FailedPrecondition, "shared memory is attached already"), "", "attach")
	}
	s.memory = memory
	return &stagev1.AttachResponse{}, nil
}

func (s *Server) shared() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.memory
}

// Open makes an instance of a stage.
func (s *Server) Open(ctx context.Context, r *stagev1.OpenRequest) (*stagev1.OpenResponse, error) {
	start := time.Now()
	plugin, err := s.of(r.GetPlugin())
	if err != nil {
		return nil, StatusError(err, "", "open")
	}
	manifest, err := plugin.Manifest.Stage(r.GetStage())
	if err != nil {
		return nil, StatusError(err, "", "open")
	}
	label := string(manifest.Kind) + " " + manifest.Name
	fail := func(err error) (*stagev1.OpenResponse, error) { return nil, StatusError(err, label, "open") }

	req := openFromProto(r)
	if req.Settings, err = sdk.ResolveSettings(manifest.Settings, req.Settings); err != nil {
		return fail(err)
	}
	if req.Train && !manifest.Trainable {
		return fail(sdk.Errorf(sdk.Unimplemented, "the stage cannot be trained"))
	}
	if err := checkKept(plugin.Manifest, manifest, req); err != nil {
		return fail(err)
	}
	memory := s.shared()
	req.Constants = map[string]*tensor.Tensor{}
	for _, c := range r.GetConstants() {
		t, err := TensorFromProto(c, memory)
		if err != nil {
			return fail(&sdk.Error{Code: sdk.InvalidArgument, Port: c.GetName(), Given: "a bad constant", Err: err})
		}
		// Constants outlive the call, their place in shared memory does not.
		req.Constants[c.GetName()] = t.Clone()
	}
	var stage sdk.Stage
	var opened *sdk.OpenResponse
	err = guard(label, "open", func() (err error) {
		stage, opened, err = plugin.Open(ctx, req)
		return err
	})
	if err != nil {
		return fail(err)
	}
	if stage == nil {
		return fail(sdk.Errorf(sdk.Internal, "Open returned no stage and no error"))
	}
	if opened == nil {
		opened = &sdk.OpenResponse{}
	}
	i := &instance{
		manifest: manifest, label: label, stage: stage, train: req.Train,
		maxOpen: plugin.Manifest.OpenContexts(),
		open:    map[uint64]*openContext{},
	}
	i.inputs, i.outputs = req.ResidentPorts(sdk.KnownPorts(manifest.Inputs, opened.Inputs), sdk.KnownPorts(manifest.Outputs, opened.Outputs))
	i.resident = req.Group != "" && slices.ContainsFunc(i.outputs, func(p sdk.Port) bool { return p.Resident })
	if _, ok := stage.(sdk.Trainer); !ok && manifest.Trainable {
		_ = stage.Close()
		return fail(sdk.Errorf(sdk.Internal, "the manifest says trainable, the stage has no Backward (it does not implement sdk.Trainer)"))
	}
	promised, err := promisedLosses(manifest, opened.Losses)
	if err != nil {
		_ = stage.Close()
		return fail(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		_ = stage.Close()
		return fail(sdk.Errorf(sdk.FailedPrecondition, "the plugin is shutting down"))
	}
	s.last++
	s.instances[s.last] = i
	return &stagev1.OpenResponse{
		Instance: s.last, ParameterCount: opened.ParameterCount, TrainableCount: opened.TrainableCount,
		Inputs: PortsToProto(opened.Inputs), Outputs: PortsToProto(opened.Outputs), Notes: opened.Notes,
		Losses: promised, Cost: cost(start),
	}, nil
}

// checkKept refuses what cannot stay in the process.
func checkKept(plugin sdk.Manifest, stage *sdk.StageManifest, r *sdk.OpenRequest) error {
	if len(r.Keeps) == 0 && len(r.Kept) == 0 {
		return nil
	}
	if !slices.Contains(plugin.Capabilities, sdk.CapabilityKeep) {
		return sdk.Errorf(sdk.Unimplemented, "tensors cannot stay in the process: plugin %s does not have the capability %s", plugin.Name, sdk.CapabilityKeep)
	}
	wrong := func(name, given, wanted string) error {
		return &sdk.Error{Code: sdk.InvalidArgument, Port: name, Given: given, Wanted: wanted}
	}
	if r.Group == "" {
		return &sdk.Error{Code: sdk.InvalidArgument, Err: errors.New("tensors stay in the process for the stages of one group, and none is given")}
	}
	if len(r.Keeps) > 0 && r.Keeper == "" {
		return &sdk.Error{Code: sdk.InvalidArgument, Err: errors.New("outputs are to be kept, and no name to keep them under is given")}
	}
	for _, name := range r.Keeps {
		if !slices.ContainsFunc(stage.Outputs, func(p sdk.Port) bool { return p.Name == name && !p.Resident && !p.OnRequest }) {
			return wrong(name, "an output to be kept", "an output of the stage that it makes without being asked")
		}
	}
	for _, name := range slices.Sorted(maps.Keys(r.Kept)) {
		if p := sdk.FindPort(stage.Inputs, name); p == nil || p.Resident {
			return wrong(name, "an input that is kept", "an input of the stage")
		}
	}
	return nil
}

// run finds an instance and calls f with its lock held.
func (s *Server) run(id uint64, call string, f func(i *instance) error) error {
	s.mu.Lock()
	i := s.instances[id]
	s.mu.Unlock()
	if i == nil {
		return StatusError(sdk.Errorf(sdk.NotFound, "instance %d does not exist", id), "", call)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.closed.Load() {
		return StatusError(sdk.Errorf(sdk.NotFound, "instance %d is closed", id), i.label, call)
	}
	return StatusError(guard(i.label, call, func() error { return f(i) }), i.label, call)
}

// trainer is run for the calls of a Trainer.
func (s *Server) trainer(id uint64, call string, f func(i *instance, t sdk.Trainer) error) error {
	return s.run(id, call, func(i *instance) error {
		t, ok := i.stage.(sdk.Trainer)
		if !ok {
			return sdk.Errorf(sdk.Unimplemented, "the stage cannot be trained")
		}
		return f(i, t)
	})
}

// Prefetch shows a stage inputs of a Forward to come.
func (s *Server) Prefetch(ctx context.Context, r *stagev1.PrefetchRequest) (*stagev1.PrefetchResponse, error) {
	const call = "prefetch"
	s.mu.Lock()
	i, memory := s.instances[r.GetInstance()], s.memory
	s.mu.Unlock()
	if i == nil {
		return nil, StatusError(sdk.Errorf(sdk.NotFound, "instance %d does not exist", r.GetInstance()), "", call)
	}
	i.ahead.Lock()
	defer i.ahead.Unlock()
	p, ok := i.stage.(sdk.Prefetcher)
	if !ok || i.closed.Load() {
		return &stagev1.PrefetchResponse{}, nil
	}
	err := guard(i.label, call, func() error {
		req := &sdk.PrefetchRequest{Ticket: r.GetTicket(), Inputs: map[string]*tensor.Tensor{}}
		if err := readTensors(r.GetInputs(), memory, req.Inputs); err != nil {
			return err
		}
		return p.Prefetch(ctx, req)
	})
	if err != nil {
		return nil, StatusError(err, i.label, call)
	}
	return &stagev1.PrefetchResponse{}, nil
}

// Forward runs a stage in a context of its own.
func (s *Server) Forward(ctx context.Context, r *stagev1.ForwardRequest) (*stagev1.ForwardResponse, error) {
	out := &stagev1.ForwardResponse{}
	err := s.run(r.GetInstance(), "forward", func(i *instance) error { return s.forward(ctx, i, r, out) })
	if err != nil {
		return nil, err
	}
	return out, nil
}

func (s *Server) forward(ctx context.Context, i *instance, r *stagev1.ForwardRequest, out *stagev1.ForwardResponse) error {
	train := r.GetMode() == stagev1.Mode_MODE_TRAIN
	if !train && r.GetMode() != stagev1.Mode_MODE_EVAL {
		return sdk.Errorf(sdk.InvalidArgument, "mode %v given, want EVAL or TRAIN", r.GetMode())
	}
	// A call that was given up before its turn must not disturb what its caller has asked
	// for since: stages of one process share what a context leaves.
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := i.admit(ctx, r.GetContext(), train); err != nil {
		return err
	}
	memory := s.shared()
	req := &sdk.ForwardRequest{
		Context: r.GetContext(), Train: train, Seed: r.GetSeed(), Ticket: r.GetTicket(),
		Inputs: map[string]*tensor.Tensor{}, NeedsGrad: map[string]bool{}, Wanted: map[string]bool{},
	}
	if err := readTensors(r.GetInputs(), memory, req.Inputs); err != nil {
		return err
	}
	check := sdk.NewPortCheck(i.inputs, i.outputs)
	if err := check.Inputs(req.Inputs); err != nil {
		return err
	}
	for _, t := range r.GetInputs() {
		if !t.GetNeedsGrad() {
			continue
		}
		if !train || !sdk.FindPort(i.inputs, t.GetName()).Differentiable {
			return &sdk.Error{Code: sdk.InvalidArgument, Port: t.GetName(), Given: "an input whose gradient is wanted",
				Wanted: "TRAIN mode and a differentiable input"}
		}
		req.NeedsGrad[t.GetName()] = true
	}
	for _, name := range r.GetOutputs() {
		if p := sdk.FindPort(i.outputs, name); p == nil || p.Resident {
			return &sdk.Error{Code: sdk.InvalidArgument, Port: name, Given: "not an output of the stage", Wanted: "one of " + outputNames(i.outputs)}
		}
		req.Wanted[name] = true
	}
	slot := newSlot(memory, r.GetSlot())
	req.NewOutput = slot.tensor

	start := time.Now()
	resp, err := i.stage.Forward(ctx, req)
	if err != nil {
		return err
	}
	out.Cost = cost(start)
	if resp == nil {
		return sdk.Errorf(sdk.Internal, "Forward returned no response and no error")
	}
	abandon := func(err error) error {
		if t, ok := i.stage.(sdk.Trainer); ok && (train || i.resident) {
			_ = t.Release(ctx, r.GetContext())
		}
		return err
	}
	if err := check.Outputs(resp.Outputs, req.Wanted); err != nil {
		return abandon(err)
	}
	if err := declared(sdk.Internal, "loss", i.manifest.Losses, resp.Losses); err != nil {
		return abandon(err)
	}
	if err := declared(sdk.Internal, "metric", i.manifest.Metrics, resp.Metrics); err != nil {
		return abandon(err)
	}
	out.Outputs = slot.write(resp.Outputs)
	out.Losses, out.Metrics, out.Notes = resp.Losses, resp.Metrics, resp.Notes
	runtime.KeepAlive(resp)

	if train || i.resident {
		c := &openContext{train: train, outputs: map[string]*tensor.Tensor{}, gradients: map[string]*tensor.Tensor{}}
		for name, t := range resp.Outputs {
			if sdk.FindPort(i.outputs, name).Differentiable {
				c.outputs[name] = &tensor.Tensor{DType: t.DType, Shape: slices.Clone(t.Shape)}
			}
		}
		for name := range req.NeedsGrad {
			c.gradients[name] = &tensor.Tensor{DType: req.Inputs[name].DType, Shape: slices.Clone(req.Inputs[name].Shape)}
		}
		i.open[r.GetContext()] = c
		i.order = append(i.order, r.GetContext())
		i.ended = slices.DeleteFunc(i.ended, func(id uint64) bool { return id == r.GetContext() })
	}
	return nil
}

// admit says whether another context may open. EVAL runs of a stage with resident
// outputs keep those until Release; the oldest such run makes room for a new one.
func (i *instance) admit(ctx context.Context, id uint64, train bool) error {
	if train {
		if _, ok := i.stage.(sdk.Trainer); !ok {
			return sdk.Errorf(sdk.Unimplemented, "the stage cannot be trained")
		}
		if !i.train {
			return &sdk.Error{Code: sdk.FailedPrecondition, Err: errors.New("TRAIN mode on an instance opened for inference"), Advice: "open it with train set"}
		}
	}
	if !train && !i.resident {
		return nil
	}
	if _, ok := i.open[id]; ok {
		return &sdk.Error{Code: sdk.InvalidArgument, Err: fmt.Errorf("context %d is open already", id), Advice: "one context is one Forward"}
	}
	open := 0
	oldest, haveOldest := uint64(0), false
	for _, other := range i.order {
		if i.open[other].train == train {
			open++
		}
		if !i.open[other].train && !haveOldest {
			oldest, haveOldest = other, true
		}
	}
	if open < i.maxOpen {
		return nil
	}
	if train {
		return &sdk.Error{Code: sdk.FailedPrecondition, Err: fmt.Errorf("%d contexts are open, the most the plugin allows", open),
			Advice: "call Backward or Release first"}
	}
	return i.release(ctx, oldest)
}

func (i *instance) end(id uint64) {
	delete(i.open, id)
	i.order = slices.DeleteFunc(i.order, func(o uint64) bool { return o == id })
	i.ended = append(i.ended, id)
	if len(i.ended) > endedMemory {
		i.ended = slices.Delete(i.ended, 0, len(i.ended)-endedMemory)
	}
}

func (i *instance) release(ctx context.Context, id uint64) error {
	i.end(id)
	if t, ok := i.stage.(sdk.Trainer); ok {
		return t.Release(ctx, id)
	}
	return nil
}

// Backward ends a context with gradients.
func (s *Server) Backward(ctx context.Context, r *stagev1.BackwardRequest) (*stagev1.BackwardResponse, error) {
	out := &stagev1.BackwardResponse{}
	err := s.trainer(r.GetInstance(), "backward", func(i *instance, t sdk.Trainer) error { return s.backward(ctx, i, t, r, out) })
	if err != nil {
		return nil, err
	}
	return out, nil
}

func (s *Server) backward(ctx context.Context, i *instance, t sdk.Trainer, r *stagev1.BackwardRequest, out *stagev1.BackwardResponse) error {
	c := i.open[r.GetContext()]
	if c == nil && slices.Contains(i.ended, r.GetContext()) {
		return &sdk.Error{Code: sdk.FailedPrecondition, Err: fmt.Errorf("context %d has ended", r.GetContext()), Advice: "a context has one Backward"}
	}
	if c == nil {
		return sdk.Errorf(sdk.NotFound, "context %d does not exist", r.GetContext())
	}
	if !c.train {
		return sdk.Errorf(sdk.FailedPrecondition, "context %d is an EVAL run", r.GetContext())
	}
	memory := s.shared()
	req := &sdk.BackwardRequest{Context: r.GetContext(), OutputGrads: map[string]*tensor.Tensor{}, LossWeights: r.GetLossWeights(),
		AverageNext: r.GetAverageNext()}
	if err := readTensors(r.GetOutputGrads(), memory, req.OutputGrads); err != nil {
		return err
	}
	if err := sameTensors(req.OutputGrads, c.outputs, sdk.InvalidArgument, "a differentiable output of this context"); err != nil {
		return err
	}
	if err := declared(sdk.InvalidArgument, "loss", i.manifest.Losses, req.LossWeights); err != nil {
		return err
	}
	slot := newSlot(memory, r.GetSlot())
	req.NewOutput = slot.tensor
	i.end(r.GetContext())

	start := time.Now()
	resp, err := t.Backward(ctx, req)
	if err != nil {
		return err
	}
	if r.GetGradNorm() {
		if out.GradNorm, err = t.GradNorm(ctx); err != nil {
			return err
		}
	}
	out.Cost = cost(start)
	if resp == nil {
		resp = &sdk.BackwardResponse{}
	}
	if err := sameTensors(resp.InputGrads, c.gradients, sdk.Internal, "an input whose gradient was asked for"); err != nil {
		return err
	}
	for name, want := range c.gradients {
		if resp.InputGrads[name] == nil {
			return &sdk.Error{Code: sdk.Internal, Port: name, Given: "without a gradient", Wanted: want.String()}
		}
	}
	out.InputGrads = slot.write(resp.InputGrads)
	runtime.KeepAlive(resp)
	return nil
}

// ForwardBackward is Forward and, where its losses are numbers, Backward. Each speaks for
// itself when it fails.
func (s *Server) ForwardBackward(ctx context.Context, r *stagev1.ForwardBackwardRequest) (*stagev1.ForwardBackwardResponse, error) {
	out := &stagev1.ForwardBackwardResponse{Forward: &stagev1.ForwardResponse{}}
	id, run := r.GetForward().GetInstance(), r.GetForward().GetContext()
	finite := true
	err := s.trainer(id, "forward", func(i *instance, t sdk.Trainer) error {
		if r.GetForward().GetMode() != stagev1.Mode_MODE_TRAIN || r.GetBackward().GetInstance() != id || r.GetBackward().GetContext() != run {
			return sdk.Errorf(sdk.InvalidArgument, "Forward and Backward in one call want TRAIN mode, one instance and one context")
		}
		if err := declared(sdk.InvalidArgument, "loss", i.manifest.Losses, r.GetBackward().GetLossWeights()); err != nil {
			return err
		}
		if err := s.forward(ctx, i, r.GetForward(), out.Forward); err != nil {
			return err
		}
		for _, l := range out.Forward.GetLosses() {
			finite = finite && !math.IsNaN(l) && !math.IsInf(l, 0)
		}
		if !finite {
			return i.release(ctx, run)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if !finite {
		return out, nil
	}
	maps.DeleteFunc(r.GetBackward().GetLossWeights(), func(name string, _ float64) bool {
		_, returned := out.Forward.GetLosses()[name]
		return !returned
	})
	out.Backward = &stagev1.BackwardResponse{}
	err = s.trainer(id, "backward", func(i *instance, t sdk.Trainer) error {
		err := s.backward(ctx, i, t, r.GetBackward(), out.Backward)
		if err != nil && i.open[run] != nil {
			_ = i.release(ctx, run)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// sameTensors checks that every given tensor is one of want, with its dtype and shape.
func sameTensors(given, want map[string]*tensor.Tensor, code sdk.Code, what string) error {
	for _, name := range slices.Sorted(maps.Keys(given)) {
		g, w := given[name], want[name]
		if w == nil {
			return &sdk.Error{Code: code, Port: name, Given: "not " + what, Wanted: fmt.Sprintf("one of %v", slices.Sorted(maps.Keys(want)))}
		}
		if g == nil || g.DType != w.DType || !slices.Equal(g.Shape, w.Shape) {
			return &sdk.Error{Code: code, Port: name, Given: g.String(), Wanted: w.String()}
		}
		if err := g.Check(); err != nil {
			return &sdk.Error{Code: code, Port: name, Given: g.String(), Err: err}
		}
	}
	return nil
}

// declared checks names of losses and metrics; a declared name may be a family.
func declared[V any](code sdk.Code, what string, names []string, given map[string]V) error {
	for _, name := range slices.Sorted(maps.Keys(given)) {
		ports := make([]sdk.Port, len(names))
		for i, n := range names {
			ports[i].Name = n
		}
		if sdk.FindPort(ports, name) == nil {
			return &sdk.Error{Code: code, Err: fmt.Errorf("%s %q is not in the manifest", what, name), Wanted: fmt.Sprintf("one of %q", names)}
		}
	}
	return nil
}

// promisedLosses are what Open answers of a stage's losses: those that it says, and of a
// head that says nothing all that its manifest names in full.
func promisedLosses(m *sdk.StageManifest, said []string) ([]string, error) {
	if said == nil && m.Kind == sdk.KindHead {
		return slices.DeleteFunc(slices.Clone(m.Losses), func(name string) bool { _, family := sdk.Family(name); return family }), nil
	}
	set := map[string]bool{}
	for _, name := range said {
		set[name] = true
	}
	return said, declared(sdk.Internal, "loss", m.Losses, set)
}

func outputNames(ports []sdk.Port) string {
	var names []string
	for _, p := range ports {
		if !p.Resident {
			names = append(names, p.Name)
		}
	}
	return fmt.Sprint(names)
}

func readTensors(from []*stagev1.Tensor, memory []byte, into map[string]*tensor.Tensor) error {
	for _, p := range from {
		if _, twice := into[p.GetName()]; twice {
			return &sdk.Error{Code: sdk.InvalidArgument, Port: p.GetName(), Given: "given twice"}
		}
		t, err := TensorFromProto(p, memory)
		if err != nil {
			return &sdk.Error{Code: sdk.InvalidArgument, Port: p.GetName(), Given: fmt.Sprintf("%s %v", p.GetDtype(), p.GetShape()), Err: err}
		}
		into[p.GetName()] = t
	}
	return nil
}

// Release ends contexts; unknown and ended ones are skipped.
func (s *Server) Release(ctx context.Context, r *stagev1.ReleaseRequest) (*stagev1.ReleaseResponse, error) {
	err := s.run(r.GetInstance(), "release", func(i *instance) error {
		var all []error
		for _, id := range r.GetContexts() {
			if i.open[id] != nil {
				all = append(all, i.release(ctx, id))
			}
		}
		return errors.Join(all...)
	})
	if err != nil {
		return nil, err
	}
	return &stagev1.ReleaseResponse{}, nil
}

// ZeroGrad clears the gradients of an instance.
func (s *Server) ZeroGrad(ctx context.Context, r *stagev1.ZeroGradRequest) (*stagev1.ZeroGradResponse, error) {
	start := time.Now()
	err := s.trainer(r.GetInstance(), "zero_grad", func(_ *instance, t sdk.Trainer) error { return t.ZeroGrad(ctx) })
	if err != nil {
		return nil, err
	}
	return &stagev1.ZeroGradResponse{Cost: cost(start)}, nil
}

// GradNorm answers the norm of the gradients of an instance.
func (s *Server) GradNorm(ctx context.Context, r *stagev1.GradNormRequest) (*stagev1.GradNormResponse, error) {
	start := time.Now()
	out := &stagev1.GradNormResponse{}
	err := s.trainer(r.GetInstance(), "grad_norm", func(_ *instance, t sdk.Trainer) (err error) {
		out.Norm, err = t.GradNorm(ctx)
		return err
	})
	if err != nil {
		return nil, err
	}
	out.Cost = cost(start)
	return out, nil
}

// Step updates an instance.
func (s *Server) Step(ctx context.Context, r *stagev1.StepRequest) (*stagev1.StepResponse, error) {
	start := time.Now()
	if err := s.step(ctx, r); err != nil {
		return nil, err
	}
	return &stagev1.StepResponse{Cost: cost(start)}, nil
}

// StepAll updates several instances, in the order given.
func (s *Server) StepAll(ctx context.Context, r *stagev1.StepAllRequest) (*stagev1.StepAllResponse, error) {
	start := time.Now()
	for _, one := range r.GetSteps() {
		if err := s.step(ctx, one); err != nil {
			return nil, err
		}
	}
	return &stagev1.StepAllResponse{Cost: cost(start)}, nil
}

func (s *Server) step(ctx context.Context, r *stagev1.StepRequest) error {
	return s.trainer(r.GetInstance(), "step", func(_ *instance, t sdk.Trainer) error {
		if _, ok := r.GetValues()["learning_rate"]; !ok {
			return sdk.Errorf(sdk.InvalidArgument, "no value of learning_rate given")
		}
		req := &sdk.StepRequest{Values: r.GetValues(), GradientScale: r.GetGradientScale(), ZeroGrad: r.GetZeroGrad()}
		if err := t.Step(ctx, req); err != nil || !req.ZeroGrad {
			return err
		}
		return t.ZeroGrad(ctx)
	})
}

// parallel is run for the calls of a Parallel.
func (s *Server) parallel(id uint64, call string, f func(sdk.Parallel) error) error {
	return s.run(id, call, func(i *instance) error {
		p, ok := i.stage.(sdk.Parallel)
		if !ok {
			return sdk.Errorf(sdk.Unimplemented, "the stage cannot share its gradients with other processes")
		}
		return f(p)
	})
}

// Join makes an instance one of a group of processes.
func (s *Server) Join(ctx context.Context, r *stagev1.JoinRequest) (*stagev1.JoinResponse, error) {
	start := time.Now()
	by := ""
	err := s.parallel(r.GetInstance(), "join", func(p sdk.Parallel) error {
		if size, rank := r.GetSize(), r.GetRank(); rank < 0 || rank >= size {
			return sdk.Errorf(sdk.InvalidArgument, "rank %d of %d, want 0 to %d", rank, size, size-1)
		}
		return p.Join(ctx, &sdk.JoinRequest{Rank: int(r.GetRank()), Size: int(r.GetSize()), Store: r.GetStore(), Address: r.GetAddress(),
			Timeout: time.Duration(r.GetTimeoutMs()) * time.Millisecond, SyncBatchNorm: r.GetSyncBatchnorm(),
			AveragedBy: func(what string) { by = what }})
	})
	if err != nil {
		return nil, err
	}
	return &stagev1.JoinResponse{Cost: cost(start), AveragedBy: by}, nil
}

// Average begins to average the gradients of an instance over its group.
func (s *Server) Average(ctx context.Context, r *stagev1.AverageRequest) (*stagev1.AverageResponse, error) {
	start := time.Now()
	err := s.parallel(r.GetInstance(), "average", func(p sdk.Parallel) error { return p.Average(ctx) })
	if err != nil {
		return nil, err
	}
	return &stagev1.AverageResponse{Cost: cost(start)}, nil
}

func (s *Server) saver(id uint64, call, dir string, f func(sdk.Saver) error) error {
	return s.run(id, call, func(i *instance) error {
		saver, ok := i.stage.(sdk.Saver)
		if !ok {
			return sdk.Errorf(sdk.Unimplemented, "the stage has no state to save")
		}
		if info, err := os.Stat(dir); err != nil {
			return sdk.Errorf(sdk.InvalidArgument, "folder %q: %w", dir, err)
		} else if !info.IsDir() {
			return sdk.Errorf(sdk.InvalidArgument, "%q is not a folder", dir)
		}
		return f(saver)
	})
}

// Save writes the state of an instance into a folder.
func (s *Server) Save(ctx context.Context, r *stagev1.SaveRequest) (*stagev1.SaveResponse, error) {
	start := time.Now()
	out := &stagev1.SaveResponse{}
	err := s.saver(r.GetInstance(), "save", r.GetDir(), func(saver sdk.Saver) (err error) {
		if out.Files, err = saver.Save(ctx, r.GetDir()); err != nil {
			return err
		}
		for _, name := range out.Files {
			if !filepath.IsLocal(name) {
				return sdk.Errorf(sdk.Internal, "saved file %q lies outside the folder", name)
			}
			if _, err := os.Stat(filepath.Join(r.GetDir(), name)); err != nil {
				return sdk.Errorf(sdk.Internal, "saved file: %w", err)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	out.Cost = cost(start)
	return out, nil
}

// Load reads what Save wrote.
func (s *Server) Load(ctx context.Context, r *stagev1.LoadRequest) (*stagev1.LoadResponse, error) {
	start := time.Now()
	err := s.saver(r.GetInstance(), "load", r.GetDir(), func(saver sdk.Saver) error {
		return saver.Load(ctx, r.GetDir(), r.GetWeightsOnly())
	})
	if err != nil {
		return nil, err
	}
	return &stagev1.LoadResponse{Cost: cost(start)}, nil
}

// Close ends an instance.
func (s *Server) Close(_ context.Context, r *stagev1.CloseRequest) (*stagev1.CloseResponse, error) {
	err := s.run(r.GetInstance(), "close", func(i *instance) error {
		i.ahead.Lock()
		defer i.ahead.Unlock()
		i.closed.Store(true)
		s.mu.Lock()
		delete(s.instances, r.GetInstance())
		s.mu.Unlock()
		return i.stage.Close()
	})
	if err != nil {
		return nil, err
	}
	return &stagev1.CloseResponse{}, nil
}

// CloseAll closes every instance, giving up when ctx ends.
func (s *Server) CloseAll(ctx context.Context) error {
	s.mu.Lock()
	first := !s.closing
	s.closing = true
	open := maps.Clone(s.instances)
	s.mu.Unlock()
	done := make(chan error, 1)
	go func() {
		var all []error
		for id := range open {
			_, err := s.Close(ctx, &stagev1.CloseRequest{Instance: id})
			all = append(all, err)
		}
		if first && s.plugin.Shutdown != nil {
			all = append(all, guard(s.plugin.Manifest.Name, "shutdown", func() error { s.plugin.Shutdown(); return nil }))
		}
		done <- errors.Join(all...)
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Shutdown closes all instances and ends the process.
func (s *Server) Shutdown(ctx context.Context, r *stagev1.ShutdownRequest) (*stagev1.ShutdownResponse, error) {
	if ms := r.GetDeadlineMs(); ms > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(ms)*time.Millisecond)
		defer cancel()
	}
	err := s.CloseAll(ctx)
	if s.Exit != nil {
		s.Exit()
	}
	if err != nil {
		return nil, StatusError(err, "", "shutdown")
	}
	return &stagev1.ShutdownResponse{}, nil
}

// slot hands out pieces of the shared memory the host set aside for a reply.
type slot struct {
	mu     sync.Mutex
	memory []byte
	base   uint64
	used   uint64
	given  map[*byte]uint64
}

func newSlot(memory []byte, ref *stagev1.SharedRef) *slot {
	s := &slot{given: map[*byte]uint64{}}
	offset, size := ref.GetOffset(), ref.GetSize()
	if ref == nil || offset%tensor.Alignment != 0 || offset > uint64(len(memory)) || size > uint64(len(memory))-offset {
		return s
	}
	s.base, s.memory = offset, memory[offset:offset+size]
	return s
}

// tensor allocates in the slot, or in ordinary memory when the slot is full.
func (s *slot) tensor(_ string, dtype tensor.DType, shape ...int64) (*tensor.Tensor, error) {
	elements, err := tensor.Elements(shape)
	if err != nil {
		return nil, err
	}
	size := uint64(elements) * uint64(dtype.Size())
	if dtype.Size() == 0 || size == 0 || size/uint64(dtype.Size()) != uint64(elements) {
		return tensor.New(dtype, shape...)
	}
	data, _ := s.take(size)
	if data == nil {
		return tensor.New(dtype, shape...)
	}
	clear(data)
	return &tensor.Tensor{DType: dtype, Shape: slices.Clone(shape), Data: data}, nil
}

func (s *slot) take(size uint64) ([]byte, uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	start := (s.used + tensor.Alignment - 1) / tensor.Alignment * tensor.Alignment
	if start > uint64(len(s.memory)) || size > uint64(len(s.memory))-start || size == 0 {
		return nil, 0
	}
	s.used = start + size
	data := s.memory[start : start+size : start+size]
	s.given[&data[0]] = s.base + start
	return data, s.base + start
}

// inBandBytes is the size up to which a tensor costs less inside the message than
// through shared memory.
const inBandBytes = 4 << 10

// write makes the reply's tensors: what lies in the slot by reference, the rest copied
// into the slot while it has room, in-band otherwise.
func (s *slot) write(tensors map[string]*tensor.Tensor) []*stagev1.Tensor {
	var out []*stagev1.Tensor
	for _, name := range slices.Sorted(maps.Keys(tensors)) {
		t := tensors[name]
		p := &stagev1.Tensor{Name: name, Dtype: string(t.DType), Shape: t.Shape}
		var offset uint64
		placed := false
		if len(t.Data) > 0 {
			s.mu.Lock()
			offset, placed = s.given[&t.Data[0]]
			s.mu.Unlock()
		}
		if !placed && len(t.Data) > inBandBytes {
			if data, at := s.take(uint64(len(t.Data))); data != nil {
				copy(data, t.Data)
				offset, placed = at, true
			}
		}
		if placed {
			p.Payload = &stagev1.Tensor_Shared{Shared: &stagev1.SharedRef{Offset: offset, Size: uint64(len(t.Data))}}
		} else {
			p.Payload = &stagev1.Tensor_Raw{Raw: t.Data}
		}
		out = append(out, p)
	}
	return out
}

// WindowBytes is the size of HTTP/2's flow-control windows on both sides. It is fixed:
// gRPC's search for a better one costs a ping with every large message.
const WindowBytes = 8 << 20

// ServerOptions are the options every server of the stage protocol needs: no limit on
// message sizes but protobuf's own, and windows of a fixed size. stderr, when given, becomes os.Stdout and os.Stderr
// at the first call: go-plugin has by then replaced them by streams whose last lines
// would be lost when the process dies.
func ServerOptions(stderr *os.File) []grpc.ServerOption {
	var once sync.Once
	return []grpc.ServerOption{
		grpc.MaxRecvMsgSize(math.MaxInt32),
		grpc.MaxSendMsgSize(math.MaxInt32),
		grpc.StaticStreamWindowSize(WindowBytes),
		grpc.StaticConnWindowSize(WindowBytes),
		grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
			if stderr != nil {
				once.Do(func() { os.Stdout, os.Stderr = stderr, stderr })
			}
			return handler(ctx, req)
		}),
	}
}
