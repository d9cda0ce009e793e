// Package client is the host's end of the stage protocol: the requests and responses
// of package sdk over a gRPC connection, with tensors in shared memory or in-band.
package client

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/ports"
	"github.com/alignedfusion/alignedfusion/sdk/proto/stagev1"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

// Defaults of Options.
const (
	// DefaultMaxReplyBytes bounds a reply that travels in-band.
	DefaultMaxReplyBytes = 1 << 30
	// DefaultMaxDetections bounds the rows of a head's "boxes" in one answer.
	DefaultMaxDetections = 100_000
)

// inBandBytes is the size up to which a tensor travels inside the message.
const inBandBytes = 4 << 10

// firstSlotBytes is the room for the reply of a first call; later ones get what the
// call before them needed.
const firstSlotBytes = 1 << 20

// Options of a Client.
type Options struct {
	// Plugin names the plugin in errors.
	Plugin string
	// Arena is the shared memory; nil sends every tensor in-band. Attach must have told
	// the plugin about it.
	Arena *Arena
	// MaxReplyBytes bounds one reply; 0 means DefaultMaxReplyBytes.
	MaxReplyBytes int64
	// MaxDetections bounds the rows of the output "boxes"; 0 means DefaultMaxDetections.
	MaxDetections int64
}

// Cost is what a call took. Wall minus Compute is transport.
type Cost struct {
	Wall, Compute time.Duration
	// PeakRSSBytes is the plugin process's peak resident memory so far.
	PeakRSSBytes int64
}

// Transport is the time that was not spent computing.
func (c Cost) Transport() time.Duration { return max(c.Wall-c.Compute, 0) }

// ErrAnswer is in the chain of every error about an answer that breaks the protocol:
// undeclared or misshapen outputs, memory outside the slot, too many detections.
var ErrAnswer = errors.New("the plugin broke the stage protocol")

// Client speaks to one plugin process. Its methods may be called concurrently.
type Client struct {
	stub     stagev1.StageServiceClient
	options  Options
	manifest sdk.Manifest
}

// New returns a client over an open connection.
func New(conn grpc.ClientConnInterface, o Options) *Client {
	if o.MaxReplyBytes == 0 {
		o.MaxReplyBytes = DefaultMaxReplyBytes
	}
	if o.MaxDetections == 0 {
		o.MaxDetections = DefaultMaxDetections
	}
	return &Client{stub: stagev1.NewStageServiceClient(conn), options: o}
}

// DialOptions are the options every connection to a plugin needs: windows of a fixed
// size. To guess a better one, gRPC would send a ping with every large message.
func DialOptions() []grpc.DialOption {
	return []grpc.DialOption{grpc.WithStaticStreamWindowSize(sdk.WindowBytes), grpc.WithStaticConnWindowSize(sdk.WindowBytes)}
}

func (c *Client) limits() grpc.CallOption {
	return grpc.MaxCallRecvMsgSize(int(c.options.MaxReplyBytes))
}

// SharedMemory reports whether tensors travel through shared memory.
func (c *Client) SharedMemory() bool { return c.options.Arena != nil }

// err gives an error the plugin's name. gRPC's own refusal of a large reply wears the
// status code of a plugin that is out of memory.
func (c *Client) err(err error) error {
	if s, ok := status.FromError(err); ok && s.Code() == codes.ResourceExhausted && strings.HasPrefix(s.Message(), "grpc: received message larger") {
		return c.answer("", "", &sdk.Error{Err: fmt.Errorf("its reply exceeds the limit: %s", s.Message())})
	}
	return sdk.ErrorFromStatus(err, c.options.Plugin)
}

// answer is an error about what the plugin answered.
func (c *Client) answer(stage, call string, e *sdk.Error) error {
	e.Code, e.Plugin, e.Stage, e.Call = sdk.Internal, c.options.Plugin, stage, call
	if e.Err == nil {
		e.Err = ErrAnswer
	} else {
		e.Err = fmt.Errorf("%w: %w", e.Err, ErrAnswer)
	}
	return e
}

// Describe asks for the manifest; Open needs it first.
func (c *Client) Describe(ctx context.Context) (sdk.Manifest, error) {
	r, err := c.stub.Describe(ctx, &stagev1.DescribeRequest{}, c.limits())
	if err != nil {
		return sdk.Manifest{}, c.err(err)
	}
	if major := r.GetManifest().GetProtocolMajor(); major != sdk.ProtocolMajor {
		return sdk.Manifest{}, c.answer("", "describe", &sdk.Error{
			Err: fmt.Errorf("the manifest says protocol major %d", major), Wanted: fmt.Sprint(sdk.ProtocolMajor)})
	}
	c.manifest = sdk.ManifestFromProto(r.GetManifest())
	if c.options.Plugin == "" {
		c.options.Plugin = c.manifest.Name
	}
	return c.manifest, nil
}

// Attach tells the plugin the number that the arena's file has in its process.
func (c *Client) Attach(ctx context.Context, inheritedFD int) error {
	_, err := c.stub.Attach(ctx, &stagev1.AttachRequest{
		Size: uint64(c.options.Arena.Size()), How: &stagev1.AttachRequest_InheritedFd{InheritedFd: int32(inheritedFD)}})
	return c.err(err)
}

// AttachPath is Attach for a plugin that opens the memory itself, for example in the
// process of a test.
func (c *Client) AttachPath(ctx context.Context, path string) error {
	_, err := c.stub.Attach(ctx, &stagev1.AttachRequest{
		Size: uint64(c.options.Arena.Size()), How: &stagev1.AttachRequest_Path{Path: path}})
	return c.err(err)
}

// Detach stops using shared memory: all later tensors travel in-band.
func (c *Client) Detach() { c.options.Arena = nil }

// Shutdown asks the plugin to close its instances within the deadline and to end.
func (c *Client) Shutdown(ctx context.Context, deadline time.Duration) error {
	_, err := c.stub.Shutdown(ctx, &stagev1.ShutdownRequest{DeadlineMs: deadline.Milliseconds()})
	return c.err(err)
}

// Instance is an opened stage.
type Instance struct {
	client          *Client
	id              uint64
	label           string
	manifest        *sdk.StageManifest
	inputs, outputs []sdk.Port
	group           bool

	mu       sync.Mutex
	lent     map[uint64][]lending
	answered map[string]int64 // bytes of the largest answer, by call
}

// lending is memory that an open TRAIN context may still read.
type lending struct {
	region region
	bytes  int64
}

// Open makes an instance of a stage.
func (c *Client) Open(ctx context.Context, req *sdk.OpenRequest) (*Instance, *sdk.OpenResponse, Cost, error) {
	if c.manifest.Name == "" {
		if _, err := c.Describe(ctx); err != nil {
			return nil, nil, Cost{}, err
		}
	}
	manifest, err := c.manifest.Stage(req.Stage)
	if err != nil {
		return nil, nil, Cost{}, err
	}
	i := &Instance{client: c, label: string(manifest.Kind) + " " + manifest.Name, manifest: manifest,
		group: req.Group != "", lent: map[uint64][]lending{}, answered: map[string]int64{}}
	t := i.begin("open")
	p := req.Proto()
	if p.Constants, err = t.tensors(req.Constants, nil); err != nil {
		return nil, nil, Cost{}, err
	}
	start := time.Now()
	r, err := c.stub.Open(ctx, p, c.limits())
	wall := time.Since(start)
	if err := t.finish(err); err != nil {
		return nil, nil, Cost{Wall: wall}, err
	}
	i.id = r.GetInstance()
	resp := &sdk.OpenResponse{ParameterCount: r.GetParameterCount(), TrainableCount: r.GetTrainableCount(),
		Inputs: sdk.PortsFromProto(r.GetInputs()), Outputs: sdk.PortsFromProto(r.GetOutputs()), Notes: r.GetNotes()}
	i.inputs = sdk.KnownPorts(manifest.Inputs, resp.Inputs)
	i.outputs = sdk.KnownPorts(manifest.Outputs, resp.Outputs)
	return i, resp, costOf(wall, r.GetCost()), nil
}

// ID is the instance's number in the protocol.
func (i *Instance) ID() uint64 { return i.id }

// Manifest returns the manifest of the instance's stage.
func (i *Instance) Manifest() *sdk.StageManifest { return i.manifest }

// Inputs returns the input ports with the sizes that Open has filled in.
func (i *Instance) Inputs() []sdk.Port { return i.inputs }

// Outputs returns the output ports with the sizes that Open has filled in.
func (i *Instance) Outputs() []sdk.Port { return i.outputs }

func costOf(wall time.Duration, c *stagev1.Cost) Cost {
	return Cost{Wall: wall, Compute: time.Duration(c.GetComputeNs()), PeakRSSBytes: c.GetPeakRssBytes()}
}

// transfer is the shared memory of one call.
type transfer struct {
	instance *Instance
	call     string
	arena    *Arena
	regions  []lending
	slot     *lending
}

func (i *Instance) begin(call string) *transfer {
	return &transfer{instance: i, call: call, arena: i.client.options.Arena}
}

// tensors lends tensors to the plugin: copied into the arena, or in-band when they are
// small or the arena is full.
func (t *transfer) tensors(given map[string]*tensor.Tensor, needsGrad map[string]bool) ([]*stagev1.Tensor, error) {
	names := make([]string, 0, len(given))
	for name := range given {
		names = append(names, name)
	}
	sort.Strings(names)
	var out []*stagev1.Tensor
	for _, name := range names {
		x := given[name]
		if x == nil {
			t.free()
			return nil, &sdk.Error{Code: sdk.InvalidArgument, Plugin: t.instance.client.options.Plugin,
				Stage: t.instance.label, Call: t.call, Port: name, Given: "given without a tensor"}
		}
		p := &stagev1.Tensor{Name: name, Dtype: string(x.DType), Shape: x.Shape, NeedsGrad: needsGrad[name]}
		if shared := t.lend(x.Data); shared != nil {
			p.Payload = &stagev1.Tensor_Shared{Shared: shared}
		} else {
			p.Payload = &stagev1.Tensor_Raw{Raw: x.Data}
		}
		out = append(out, p)
	}
	return out, nil
}

func (t *transfer) lend(data []byte) *stagev1.SharedRef {
	n := int64(len(data))
	if t.arena == nil || n <= inBandBytes {
		return nil
	}
	r, ok := t.arena.take(n)
	if !ok {
		return nil
	}
	copy(t.arena.bytes(r, n), data)
	t.arena.protect(r, n)
	t.regions = append(t.regions, lending{r, n})
	return &stagev1.SharedRef{Offset: uint64(r.offset), Size: uint64(n)}
}

// offer reserves the room for the reply.
func (t *transfer) offer(n int64) *stagev1.SharedRef {
	if t.arena == nil || n <= inBandBytes {
		return nil
	}
	r, ok := t.arena.take(n)
	if !ok {
		return nil
	}
	t.arena.protect(r, n)
	t.slot = &lending{r, n}
	return &stagev1.SharedRef{Offset: uint64(r.offset), Size: uint64(n)}
}

// finish translates a call's error and gives the memory back. Memory of a call that the
// plugin may still be working on is not reused; it goes with the process.
func (t *transfer) finish(err error) error {
	if err == nil {
		return nil
	}
	switch status.Code(err) {
	case codes.Canceled, codes.DeadlineExceeded, codes.Unavailable:
	default:
		t.free()
	}
	return t.instance.client.err(err)
}

// damaged reports writing behind the lent memory.
func (t *transfer) damaged() error {
	lent := t.regions
	if t.slot != nil {
		lent = append(slices.Clone(lent), *t.slot)
	}
	for _, l := range lent {
		if !t.arena.intact(l.region, l.bytes) {
			return t.instance.client.answer(t.instance.label, t.call, &sdk.Error{
				Err: fmt.Errorf("wrote past the %d bytes of shared memory it was lent", l.bytes)})
		}
	}
	return nil
}

func (t *transfer) freeSlot() {
	if t.slot != nil {
		t.arena.give(t.slot.region)
		t.slot = nil
	}
}

func (t *transfer) free() {
	t.freeSlot()
	for _, l := range t.regions {
		t.arena.give(l.region)
	}
	t.regions = nil
}

// receive copies the tensors of a reply into memory of the host's own: a plugin that
// goes on writing to its slot changes nothing the host has seen.
func (t *transfer) receive(from []*stagev1.Tensor) (map[string]*tensor.Tensor, error) {
	i := t.instance
	bad := func(p *stagev1.Tensor, err error) error {
		return i.client.answer(i.label, t.call, &sdk.Error{Port: p.GetName(),
			Given: fmt.Sprintf("%s %v", p.GetDtype(), p.GetShape()), Err: err})
	}
	if err := t.damaged(); err != nil {
		return nil, err
	}
	out := map[string]*tensor.Tensor{}
	var total int64
	for _, p := range from {
		if _, twice := out[p.GetName()]; twice {
			return nil, bad(p, errors.New("answered twice"))
		}
		var memory []byte
		if shared := p.GetShared(); shared != nil {
			if t.slot == nil || int64(shared.GetOffset()) < t.slot.region.offset || shared.GetSize() > uint64(t.slot.bytes) ||
				int64(shared.GetOffset()+shared.GetSize()) > t.slot.region.offset+t.slot.bytes {
				return nil, bad(p, errors.New("lies outside the slot for the reply"))
			}
			memory = t.arena.memory
		}
		x, err := sdk.TensorFromProto(p, memory)
		if err != nil {
			return nil, bad(p, err)
		}
		total += int64(len(x.Data)) + tensor.Alignment
		if p.GetShared() != nil {
			x = x.Clone()
		}
		out[p.GetName()] = x
	}
	i.mu.Lock()
	i.answered[t.call] = max(i.answered[t.call], total)
	i.mu.Unlock()
	return out, nil
}

func (i *Instance) room(call string, atLeast int64) int64 {
	i.mu.Lock()
	defer i.mu.Unlock()
	if n, ok := i.answered[call]; ok {
		return max(n+n/8, atLeast)
	}
	return max(firstSlotBytes, atLeast)
}

// Forward runs the stage once. In TRAIN mode the context stays open until Backward,
// Release or Close. Req.NewOutput is not used.
func (i *Instance) Forward(ctx context.Context, req *sdk.ForwardRequest) (*sdk.ForwardResponse, Cost, error) {
	t := i.begin("forward")
	inputs, err := t.tensors(req.Inputs, req.NeedsGrad)
	if err != nil {
		return nil, Cost{}, err
	}
	p := &stagev1.ForwardRequest{Instance: i.id, Context: req.Context, Mode: stagev1.Mode_MODE_EVAL, Seed: req.Seed,
		Inputs: inputs, Slot: t.offer(i.room("forward", 0))}
	if req.Train {
		p.Mode = stagev1.Mode_MODE_TRAIN
	}
	for name, wanted := range req.Wanted {
		if wanted {
			p.Outputs = append(p.Outputs, name)
		}
	}
	sort.Strings(p.Outputs)
	start := time.Now()
	r, err := i.client.stub.Forward(ctx, p, i.client.limits())
	if err := t.finish(err); err != nil {
		return nil, Cost{Wall: time.Since(start)}, err
	}
	outputs, err := t.receive(r.GetOutputs())
	cost := costOf(time.Since(start), r.GetCost())
	t.freeSlot()
	if req.Train || i.resident() {
		i.mu.Lock()
		i.lent[req.Context] = append(i.lent[req.Context], t.regions...)
		i.mu.Unlock()
	} else {
		t.free()
	}
	if err != nil {
		return nil, cost, err
	}
	if err := i.checkOutputs(req, outputs); err != nil {
		return nil, cost, err
	}
	return &sdk.ForwardResponse{Outputs: outputs, Losses: r.GetLosses(), Metrics: r.GetMetrics(), Notes: r.GetNotes()}, cost, nil
}

func (i *Instance) resident() bool {
	return i.group && slices.ContainsFunc(i.manifest.Outputs, func(p sdk.Port) bool { return p.Resident })
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
	for _, l := range lent {
		i.client.options.Arena.give(l.region)
	}
}

// Backward computes the vector-Jacobian products of a TRAIN context and ends it.
func (i *Instance) Backward(ctx context.Context, req *sdk.BackwardRequest) (*sdk.BackwardResponse, Cost, error) {
	t := i.begin("backward")
	grads, err := t.tensors(req.OutputGrads, nil)
	if err != nil {
		return nil, Cost{}, err
	}
	i.mu.Lock()
	var inputBytes int64
	for _, l := range i.lent[req.Context] {
		inputBytes += l.bytes + tensor.Alignment
	}
	i.mu.Unlock()
	p := &stagev1.BackwardRequest{Instance: i.id, Context: req.Context, OutputGrads: grads, LossWeights: req.LossWeights,
		Slot: t.offer(i.room("backward", inputBytes))}
	start := time.Now()
	r, err := i.client.stub.Backward(ctx, p, i.client.limits())
	if err := t.finish(err); err != nil {
		return nil, Cost{Wall: time.Since(start)}, err
	}
	inputGrads, err := t.receive(r.GetInputGrads())
	cost := costOf(time.Since(start), r.GetCost())
	t.free()
	i.takeBack(req.Context)
	if err != nil {
		return nil, cost, err
	}
	for name := range inputGrads {
		if port := sdk.FindPort(i.inputs, name); port == nil || !port.Differentiable {
			return nil, cost, i.client.answer(i.label, "backward", &sdk.Error{Port: name, Given: "not a differentiable input"})
		}
	}
	return &sdk.BackwardResponse{InputGrads: inputGrads}, cost, nil
}

// Release ends contexts without gradients; ended and unknown ones are skipped.
func (i *Instance) Release(ctx context.Context, contexts ...uint64) error {
	_, err := i.client.stub.Release(ctx, &stagev1.ReleaseRequest{Instance: i.id, Contexts: contexts})
	if err == nil {
		for _, id := range contexts {
			i.takeBack(id)
		}
	}
	return i.client.err(err)
}

// ZeroGrad clears the accumulated parameter gradients.
func (i *Instance) ZeroGrad(ctx context.Context) (Cost, error) {
	start := time.Now()
	r, err := i.client.stub.ZeroGrad(ctx, &stagev1.ZeroGradRequest{Instance: i.id})
	return costOf(time.Since(start), r.GetCost()), i.client.err(err)
}

// GradNorm returns the L2 norm of the accumulated parameter gradients.
func (i *Instance) GradNorm(ctx context.Context) (float64, Cost, error) {
	start := time.Now()
	r, err := i.client.stub.GradNorm(ctx, &stagev1.GradNormRequest{Instance: i.id})
	return r.GetNorm(), costOf(time.Since(start), r.GetCost()), i.client.err(err)
}

// Step applies the optimizer once.
func (i *Instance) Step(ctx context.Context, req *sdk.StepRequest) (Cost, error) {
	start := time.Now()
	r, err := i.client.stub.Step(ctx, &stagev1.StepRequest{Instance: i.id, Values: req.Values, GradientScale: req.GradientScale})
	return costOf(time.Since(start), r.GetCost()), i.client.err(err)
}

// Save writes weights and optimizer state into the existing folder dir and returns the
// names of the files.
func (i *Instance) Save(ctx context.Context, dir string) ([]string, Cost, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, Cost{}, err
	}
	start := time.Now()
	r, err := i.client.stub.Save(ctx, &stagev1.SaveRequest{Instance: i.id, Dir: dir})
	cost := costOf(time.Since(start), r.GetCost())
	if err != nil {
		return nil, cost, i.client.err(err)
	}
	for _, name := range r.GetFiles() {
		if !fs.ValidPath(name) {
			return nil, cost, i.client.answer(i.label, "save", &sdk.Error{Err: fmt.Errorf("file name %q leaves the folder", name)})
		}
	}
	return r.GetFiles(), cost, nil
}

// Load reads what Save wrote; weightsOnly leaves the optimizer's state alone.
func (i *Instance) Load(ctx context.Context, dir string, weightsOnly bool) (Cost, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return Cost{}, err
	}
	start := time.Now()
	r, err := i.client.stub.Load(ctx, &stagev1.LoadRequest{Instance: i.id, Dir: dir, WeightsOnly: weightsOnly})
	return costOf(time.Since(start), r.GetCost()), i.client.err(err)
}

// Close ends the instance and frees what it was lent.
func (i *Instance) Close(ctx context.Context) error {
	_, err := i.client.stub.Close(ctx, &stagev1.CloseRequest{Instance: i.id})
	if err == nil {
		i.mu.Lock()
		var ids []uint64
		for id := range i.lent {
			ids = append(ids, id)
		}
		i.mu.Unlock()
		for _, id := range ids {
			i.takeBack(id)
		}
	}
	return i.client.err(err)
}
