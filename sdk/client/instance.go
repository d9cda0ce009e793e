package client

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"path/filepath"
	"regexp"
	"slices"
	"sort"
	"sync"
	"time"

	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/internal/wire"
	"github.com/alignedfusion/alignedfusion/sdk/ports"
	"github.com/alignedfusion/alignedfusion/sdk/proto/stagev1"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

// Instance is an opened stage. It is an sdk.Trainer and an sdk.Saver whose work is done
// elsewhere; what a plugin cannot do in one call is done in several.
type Instance struct {
	client          *Client
	id              uint64
	label           string
	manifest        *sdk.StageManifest
	inputs, outputs []sdk.Port
	group           bool
	shows           bool // inputs ahead of their Forward

	mu       sync.Mutex
	lent     map[uint64][]lending
	tickets  []ticket         // of Prefetch, not yet taken by a Forward
	last     uint64           // ticket
	answered map[string]int64 // bytes of the largest answer, by call
	cost     Cost
}

// Open makes an instance of a stage.
func (c *Client) Open(ctx context.Context, req *sdk.OpenRequest) (*Instance, *sdk.OpenResponse, error) {
	if c.manifest.Name == "" {
		if _, err := c.Describe(ctx); err != nil {
			return nil, nil, err
		}
	}
	manifest, err := c.manifest.Stage(req.Stage)
	if err != nil {
		return nil, nil, err
	}
	i := &Instance{client: c, label: string(manifest.Kind) + " " + manifest.Name, manifest: manifest,
		group: req.Group != "", shows: req.Device != "" && req.Device != "cpu" && c.can(sdk.CapabilityPrefetch), lent: map[uint64][]lending{}, answered: map[string]int64{}}
	t := i.begin("open")
	p := wire.OpenToProto(req)
	p.Plugin = c.options.Beside
	if p.Constants, err = t.tensors(req.Constants, nil); err != nil {
		return nil, nil, err
	}
	r, err := c.stub.Open(ctx, p, c.limits())
	if err != nil {
		return nil, nil, settingInWords(t.failed(err), manifest.Settings)
	}
	t.free()
	i.id = r.GetInstance()
	resp := &sdk.OpenResponse{ParameterCount: r.GetParameterCount(), TrainableCount: r.GetTrainableCount(),
		Inputs: wire.PortsFromProto(r.GetInputs()), Outputs: wire.PortsFromProto(r.GetOutputs()), Notes: r.GetNotes(), Losses: r.GetLosses()}
	i.inputs, i.outputs = req.ResidentPorts(sdk.KnownPorts(manifest.Inputs, resp.Inputs), sdk.KnownPorts(manifest.Outputs, resp.Outputs))
	return i, resp, nil
}

// settingInWords names the setting that an Open refused, for plugins from before 1.1: their
// Diagnostic cannot, they begin its words with it. A path leads to files, which are data.
func settingInWords(err error, declared []sdk.Setting) error {
	var e *sdk.Error
	if !errors.As(err, &e) || e.Code != sdk.InvalidArgument || e.Setting != "" || e.Err == nil {
		return err
	}
	if m := refusedSetting.FindStringSubmatch(e.Err.Error()); m != nil {
		if slices.ContainsFunc(declared, func(s sdk.Setting) bool { return s.Name == m[1] && s.Type != "path" }) {
			e.Setting = m[1]
		}
	}
	return err
}

var refusedSetting = regexp.MustCompile(`^settings? (\w+)`)

// ID is the instance's number in the protocol.
func (i *Instance) ID() uint64 { return i.id }

// Manifest returns the manifest of the instance's stage.
func (i *Instance) Manifest() *sdk.StageManifest { return i.manifest }

// Inputs returns the input ports with the sizes that Open has filled in.
func (i *Instance) Inputs() []sdk.Port { return i.inputs }

// Outputs returns the output ports with the sizes that Open has filled in.
func (i *Instance) Outputs() []sdk.Port { return i.outputs }

// Cost is what the instance's calls took so far.
func (i *Instance) Cost() Cost {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.cost
}

// spend books a call that began at start, with what its answer says.
func (i *Instance) spend(start time.Time, answers ...*stagev1.Cost) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.cost.Wall += time.Since(start)
	i.cost.Calls++
	for _, c := range answers {
		i.cost.Compute += time.Duration(c.GetComputeNs())
		i.cost.PeakRSSBytes = max(i.cost.PeakRSSBytes, c.GetPeakRssBytes())
	}
}

func (i *Instance) room(call string, atLeast int64) int64 {
	i.mu.Lock()
	defer i.mu.Unlock()
	if n, ok := i.answered[call]; ok {
		return max(n+n/8, atLeast)
	}
	return max(firstSlotBytes, atLeast)
}

// ticket is what Prefetch has lent.
type ticket struct {
	number uint64
	lent   map[*tensor.Tensor]lending
	// told: the plugin knows of it.
	told bool
}

// Prefetch begins to hand over inputs that a Forward to come will be given, the same tensors. It
// may be called beside other methods.
func (i *Instance) Prefetch(ctx context.Context, inputs map[string]*tensor.Tensor) error {
	large := maps.Clone(inputs)
	maps.DeleteFunc(large, func(_ string, x *tensor.Tensor) bool { return x == nil || len(x.Data) <= inBandBytes })
	t := i.begin("prefetch")
	tensors, err := t.tensors(large, nil)
	if err != nil {
		return err
	}
	i.mu.Lock()
	i.last++
	made := ticket{i.last, map[*tensor.Tensor]lending{}, false}
	i.mu.Unlock()
	p := &stagev1.PrefetchRequest{Instance: i.id, Ticket: made.number}
	for _, x := range tensors {
		if x.GetShared() != nil { // else the arena is full
			made.lent[large[x.GetName()]] = t.regions[len(p.Inputs)]
			p.Inputs = append(p.Inputs, x)
		}
	}
	if len(p.Inputs) == 0 {
		return nil
	}
	if i.shows {
		_, err = i.client.stub.Prefetch(ctx, p)
		made.told = err == nil
	}
	i.mu.Lock()
	i.tickets = append(i.tickets, made)
	var old []ticket
	for len(i.tickets) > sdk.PrefetchedTickets {
		old, i.tickets = append(old, i.tickets[0]), i.tickets[1:]
	}
	i.mu.Unlock()
	for _, k := range old {
		t.arena.takeBack(maps.Values(k.lent))
	}
	return i.client.err(err)
}

// prefetched takes the ticket by which inputs were handed over; without one nothing is lent.
func (i *Instance) prefetched(inputs map[string]*tensor.Tensor) (found ticket) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for k, one := range i.tickets {
		for _, x := range inputs {
			if _, ok := one.lent[x]; ok {
				i.tickets = slices.Delete(i.tickets, k, k+1)
				return one
			}
		}
	}
	return ticket{}
}

// Forward runs the stage once. In TRAIN mode the context stays open until Backward,
// Release or Close. Req.NewOutput is not used.
func (i *Instance) Forward(ctx context.Context, req *sdk.ForwardRequest) (*sdk.ForwardResponse, error) {
	start := time.Now()
	t := i.begin("forward")
	p, err := t.forward(req)
	if err != nil {
		return nil, err
	}
	r, err := i.client.stub.Forward(ctx, p, i.client.limits())
	if err != nil {
		i.spend(start)
		return nil, t.failed(err)
	}
	outputs, err := t.receive(r.GetOutputs())
	t.freeSlot()
	if req.Train || i.resident() {
		i.mu.Lock()
		i.lent[req.Context] = append(i.lent[req.Context], t.regions...)
		i.mu.Unlock()
	} else {
		t.free()
	}
	if err == nil {
		err = i.checkOutputs(req, outputs)
	}
	i.spend(start, r.GetCost())
	if err != nil {
		return nil, err
	}
	return forwardResponse(r, outputs), nil
}

// forward makes the message of a Forward and lends it its tensors.
func (t *transfer) forward(req *sdk.ForwardRequest) (*stagev1.ForwardRequest, error) {
	i := t.instance
	ahead := i.prefetched(req.Inputs)
	t.ahead = ahead.lent
	inputs, err := t.tensors(req.Inputs, req.NeedsGrad)
	if err != nil {
		return nil, err
	}
	for _, l := range t.ahead { // of tensors that this Forward is not given
		t.regions = append(t.regions, l)
	}
	p := &stagev1.ForwardRequest{Instance: i.id, Context: req.Context, Mode: stagev1.Mode_MODE_EVAL, Seed: req.Seed,
		Inputs: inputs, Slot: t.offer(i.room("forward", 0))}
	if req.Train {
		p.Mode = stagev1.Mode_MODE_TRAIN
	}
	if ahead.told {
		p.Ticket = ahead.number
	}
	for name, wanted := range req.Wanted {
		if wanted {
			p.Outputs = append(p.Outputs, name)
		}
	}
	sort.Strings(p.Outputs)
	return p, nil
}

func forwardResponse(r *stagev1.ForwardResponse, outputs map[string]*tensor.Tensor) *sdk.ForwardResponse {
	return &sdk.ForwardResponse{Outputs: outputs, Losses: r.GetLosses(), Metrics: r.GetMetrics(), Notes: r.GetNotes()}
}

func (i *Instance) resident() bool {
	return i.group && slices.ContainsFunc(i.outputs, func(p sdk.Port) bool { return p.Resident })
}

func (i *Instance) checkOutputs(req *sdk.ForwardRequest, outputs map[string]*tensor.Tensor) error {
	check := sdk.NewPortCheck(i.inputs, i.outputs)
	// Only for the sizes of the dimension names: whether the inputs were right is the
	// plugin's to say, and it has.
	_ = check.Inputs(req.Inputs)
	var wrong *sdk.Error
	if err := check.Outputs(outputs, req.Wanted); errors.As(err, &wrong) {
		return i.client.answer(i.label, "forward", wrong)
	}
	if boxes := outputs[ports.Boxes.Name]; boxes != nil && len(boxes.Shape) > 0 && boxes.Shape[0] > i.client.options.MaxDetections {
		return i.client.answer(i.label, "forward", &sdk.Error{Port: ports.Boxes.Name, Given: boxes.String(),
			Wanted: fmt.Sprintf("at most %d rows", i.client.options.MaxDetections)})
	}
	return nil
}

// takeBack frees what was lent to a context.
func (i *Instance) takeBack(contextID uint64) {
	i.mu.Lock()
	lent := i.lent[contextID]
	delete(i.lent, contextID)
	i.mu.Unlock()
	i.client.options.Arena.takeBack(slices.Values(lent))
}

// Backward computes the vector-Jacobian products of a TRAIN context and ends it.
func (i *Instance) Backward(ctx context.Context, req *sdk.BackwardRequest) (*sdk.BackwardResponse, error) {
	start := time.Now()
	t := i.begin("backward")
	i.mu.Lock()
	var inputBytes int64
	t.kept = i.lent[req.Context]
	for _, l := range t.kept {
		inputBytes += l.bytes + tensor.Alignment
	}
	i.mu.Unlock()
	p, err := t.backward(req, inputBytes)
	if err != nil {
		return nil, err
	}
	r, err := i.client.stub.Backward(ctx, p, i.client.limits())
	if err != nil {
		i.spend(start)
		return nil, t.failed(err)
	}
	resp, err := t.backwardResponse(r)
	t.free()
	i.takeBack(req.Context)
	i.spend(start, r.GetCost())
	if err != nil {
		return nil, err
	}
	return i.withNorm(ctx, req, resp)
}

// backward makes the message of a Backward and lends it its tensors. inputBytes is the
// size of the inputs, and so that of the answer at most.
func (t *transfer) backward(req *sdk.BackwardRequest, inputBytes int64) (*stagev1.BackwardRequest, error) {
	i := t.instance
	grads, err := t.tensors(req.OutputGrads, nil)
	if err != nil {
		return nil, err
	}
	return &stagev1.BackwardRequest{Instance: i.id, Context: req.Context, OutputGrads: grads, LossWeights: req.LossWeights,
		GradNorm: req.GradNorm && i.client.can(sdk.CapabilityBackwardNorm), AverageNext: req.AverageNext, Slot: t.offer(i.room("backward", inputBytes))}, nil
}

func (t *transfer) backwardResponse(r *stagev1.BackwardResponse) (*sdk.BackwardResponse, error) {
	i := t.instance
	inputGrads, err := t.receive(r.GetInputGrads())
	if err != nil {
		return nil, err
	}
	for name := range inputGrads {
		if port := sdk.FindPort(i.inputs, name); port == nil || !port.Differentiable {
			return nil, i.client.answer(i.label, "backward", &sdk.Error{Port: name, Given: "not a differentiable input"})
		}
	}
	return &sdk.BackwardResponse{InputGrads: inputGrads, GradNorm: r.GetGradNorm()}, nil
}

// withNorm asks for the norm that a plugin could not answer with its gradients.
func (i *Instance) withNorm(ctx context.Context, req *sdk.BackwardRequest, resp *sdk.BackwardResponse) (_ *sdk.BackwardResponse, err error) {
	if req.GradNorm && !i.client.can(sdk.CapabilityBackwardNorm) {
		resp.GradNorm, err = i.GradNorm(ctx)
	}
	return resp, err
}

// ForwardBackward is Forward in TRAIN mode and Backward of its context, of a stage that
// nothing comes after. There is no Backward, and no answer of it, when a loss is no finite
// number: the context has then been released.
func (i *Instance) ForwardBackward(ctx context.Context, forward *sdk.ForwardRequest, backward *sdk.BackwardRequest) (*sdk.ForwardResponse, *sdk.BackwardResponse, error) {
	if !i.client.can(sdk.CapabilityForwardBackward) {
		return i.forwardThenBackward(ctx, forward, backward)
	}
	start := time.Now()
	there, back := i.begin("forward"), i.begin("backward")
	f, err := there.forward(forward)
	if err != nil {
		return nil, nil, err
	}
	var inputBytes int64
	for _, l := range there.regions {
		inputBytes += l.bytes + tensor.Alignment
	}
	b, err := back.backward(backward, inputBytes)
	if err != nil {
		there.free()
		return nil, nil, err
	}
	r, err := i.client.stub.ForwardBackward(ctx, &stagev1.ForwardBackwardRequest{Forward: f, Backward: b}, i.client.limits())
	if err != nil {
		i.spend(start)
		_ = back.failed(err)
		return nil, nil, there.failed(err)
	}
	outputs, err := there.receive(r.GetForward().GetOutputs())
	if err == nil {
		err = i.checkOutputs(forward, outputs)
	}
	var resp *sdk.BackwardResponse
	if err == nil && r.GetBackward() != nil {
		resp, err = back.backwardResponse(r.GetBackward())
	}
	there.free()
	back.free()
	i.spend(start, r.GetForward().GetCost(), r.GetBackward().GetCost())
	if err != nil {
		return nil, nil, err
	}
	if resp != nil {
		resp, err = i.withNorm(ctx, backward, resp)
	}
	return forwardResponse(r.GetForward(), outputs), resp, err
}

func (i *Instance) forwardThenBackward(ctx context.Context, forward *sdk.ForwardRequest, backward *sdk.BackwardRequest) (*sdk.ForwardResponse, *sdk.BackwardResponse, error) {
	resp, err := i.Forward(ctx, forward)
	if err != nil {
		return nil, nil, err
	}
	for _, l := range resp.Losses {
		if math.IsNaN(l) || math.IsInf(l, 0) {
			return resp, nil, i.Release(ctx, forward.Context)
		}
	}
	back := *backward
	back.LossWeights = maps.Clone(backward.LossWeights)
	maps.DeleteFunc(back.LossWeights, func(name string, _ float64) bool { _, returned := resp.Losses[name]; return !returned })
	grads, err := i.Backward(ctx, &back)
	return resp, grads, err
}

// Release ends a context without gradients; an ended or unknown one is skipped.
func (i *Instance) Release(ctx context.Context, contextID uint64) error {
	start := time.Now()
	_, err := i.client.stub.Release(ctx, &stagev1.ReleaseRequest{Instance: i.id, Contexts: []uint64{contextID}})
	i.spend(start)
	if err == nil {
		i.takeBack(contextID)
	}
	return i.client.err(err)
}

// ZeroGrad clears the accumulated parameter gradients.
func (i *Instance) ZeroGrad(ctx context.Context) error {
	start := time.Now()
	r, err := i.client.stub.ZeroGrad(ctx, &stagev1.ZeroGradRequest{Instance: i.id})
	i.spend(start, r.GetCost())
	return i.client.err(err)
}

// GradNorm returns the L2 norm of the accumulated parameter gradients.
func (i *Instance) GradNorm(ctx context.Context) (float64, error) {
	start := time.Now()
	r, err := i.client.stub.GradNorm(ctx, &stagev1.GradNormRequest{Instance: i.id})
	i.spend(start, r.GetCost())
	return r.GetNorm(), i.client.err(err)
}

// Step applies the optimizer once.
func (i *Instance) Step(ctx context.Context, req *sdk.StepRequest) error {
	start := time.Now()
	r, err := i.client.stub.Step(ctx, i.step(req))
	i.spend(start, r.GetCost())
	if err != nil || !req.ZeroGrad || i.client.can(sdk.CapabilityStepZeroGrad) {
		return i.client.err(err)
	}
	return i.ZeroGrad(ctx)
}

func (i *Instance) step(req *sdk.StepRequest) *stagev1.StepRequest {
	return &stagev1.StepRequest{Instance: i.id, Values: req.Values, GradientScale: req.GradientScale,
		ZeroGrad: req.ZeroGrad && i.client.can(sdk.CapabilityStepZeroGrad)}
}

// StepAll is Step of several instances of one client, each with its own request. The first
// one's books have the cost.
func StepAll(ctx context.Context, instances []*Instance, requests []*sdk.StepRequest) error {
	c := instances[0].client
	if !c.can(sdk.CapabilityStepAll) {
		for k, i := range instances {
			if err := i.Step(ctx, requests[k]); err != nil {
				return err
			}
		}
		return nil
	}
	start := time.Now()
	p := &stagev1.StepAllRequest{}
	for k, i := range instances {
		p.Steps = append(p.Steps, i.step(requests[k]))
	}
	r, err := c.stub.StepAll(ctx, p)
	instances[0].spend(start, r.GetCost())
	if err != nil || c.can(sdk.CapabilityStepZeroGrad) {
		return c.err(err)
	}
	for k, i := range instances {
		if requests[k].ZeroGrad {
			if err := i.ZeroGrad(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// Join makes the instance one of a group of processes; the plugin must be able to.
func (i *Instance) Join(ctx context.Context, req *sdk.JoinRequest) error {
	lacks := func(ability, otherwise string) error {
		return &sdk.Error{Code: sdk.Unimplemented, Plugin: i.client.options.Plugin, Stage: i.label, Call: "join",
			Err: fmt.Errorf("the plugin lacks the ability %q", ability), Advice: "build it with a newer SDK, or train " + otherwise}
	}
	if !i.client.can(sdk.CapabilityDataParallel) {
		return lacks(sdk.CapabilityDataParallel, "in one process")
	}
	if req.SyncBatchNorm && !i.client.can(sdk.CapabilitySyncBatchNorm) {
		return lacks(sdk.CapabilitySyncBatchNorm, "without train.sync_batchnorm")
	}
	start := time.Now()
	r, err := i.client.stub.Join(ctx, &stagev1.JoinRequest{Instance: i.id, Rank: int32(req.Rank), Size: int32(req.Size),
		Store: req.Store, Address: req.Address, TimeoutMs: req.Timeout.Milliseconds(), SyncBatchnorm: req.SyncBatchNorm})
	i.spend(start, r.GetCost())
	if err == nil && req.AveragedBy != nil && r.GetAveragedBy() != "" {
		req.AveragedBy(r.GetAveragedBy())
	}
	return i.client.err(err)
}

// Average begins to average the gradients over the group.
func (i *Instance) Average(ctx context.Context) error {
	start := time.Now()
	r, err := i.client.stub.Average(ctx, &stagev1.AverageRequest{Instance: i.id})
	i.spend(start, r.GetCost())
	return i.client.err(err)
}

// Save writes weights and optimizer state into the existing folder dir and returns the
// names of the files.
func (i *Instance) Save(ctx context.Context, dir string) ([]string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	start := time.Now()
	r, err := i.client.stub.Save(ctx, &stagev1.SaveRequest{Instance: i.id, Dir: dir})
	i.spend(start, r.GetCost())
	if err != nil {
		return nil, i.client.err(err)
	}
	for _, name := range r.GetFiles() {
		if !fs.ValidPath(name) {
			return nil, i.client.answer(i.label, "save", &sdk.Error{Err: fmt.Errorf("file name %q leaves the folder", name)})
		}
	}
	return r.GetFiles(), nil
}

// Load reads what Save wrote; weightsOnly leaves the optimizer's state alone.
func (i *Instance) Load(ctx context.Context, dir string, weightsOnly bool) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	start := time.Now()
	r, err := i.client.stub.Load(ctx, &stagev1.LoadRequest{Instance: i.id, Dir: dir, WeightsOnly: weightsOnly})
	i.spend(start, r.GetCost())
	return i.client.err(err)
}

// Close ends the instance and frees what it was lent.
func (i *Instance) Close(ctx context.Context) error {
	_, err := i.client.stub.Close(ctx, &stagev1.CloseRequest{Instance: i.id})
	if err == nil {
		for id := range maps.Clone(i.lent) {
			i.takeBack(id)
		}
		for _, k := range i.tickets {
			i.client.options.Arena.takeBack(maps.Values(k.lent))
		}
		i.tickets = nil
	}
	return i.client.err(err)
}
