// Package client is the host's end of the stage protocol: the requests and responses
// of package sdk over a gRPC connection, with tensors in shared memory or in-band.
package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/internal/wire"
	"github.com/alignedfusion/alignedfusion/sdk/proto/stagev1"
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
	// Beside is the plugin's name where the process was started as another one of the same
	// program (sdk.CapabilityTogether).
	Beside string
	// Arena is the shared memory; nil sends every tensor in-band. Attach must have told
	// the plugin about it.
	Arena *Arena
	// MaxReplyBytes bounds one reply; 0 means DefaultMaxReplyBytes.
	MaxReplyBytes int64
	// MaxDetections bounds the rows of the output "boxes"; 0 means DefaultMaxDetections.
	MaxDetections int64
}

// Cost is what calls took: on the caller's clock, with all that lies between it and the
// plugin, and inside the plugin. The difference is transport.
type Cost struct {
	Wall, Compute time.Duration
	Calls         int64
	// PeakRSSBytes is the plugin process's peak resident memory so far.
	PeakRSSBytes int64
}

// Add returns the sum of two costs.
func (c Cost) Add(d Cost) Cost {
	return Cost{c.Wall + d.Wall, c.Compute + d.Compute, c.Calls + d.Calls, max(c.PeakRSSBytes, d.PeakRSSBytes)}
}

// Sub returns what was spent since an earlier reading d.
func (c Cost) Sub(d Cost) Cost {
	return Cost{c.Wall - d.Wall, c.Compute - d.Compute, c.Calls - d.Calls, c.PeakRSSBytes}
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
	// watch: what is lent is compared with what it was when a call returns.
	watch atomic.Bool
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

// Beside is a client for another plugin of the program that the process runs, in it. Describe
// comes first; Attach and Shutdown stay this client's.
func (c *Client) Beside(name string) *Client {
	o := c.options
	o.Plugin, o.Beside = name, name
	return &Client{stub: c.stub, options: o}
}

// DialOptions are the options every connection to a plugin needs: windows of a fixed
// size. To guess a better one, gRPC would send a ping with every large message.
func DialOptions() []grpc.DialOption {
	return []grpc.DialOption{grpc.WithStaticStreamWindowSize(wire.WindowBytes), grpc.WithStaticConnWindowSize(wire.WindowBytes)}
}

func (c *Client) limits() grpc.CallOption {
	return grpc.MaxCallRecvMsgSize(int(c.options.MaxReplyBytes))
}

// ManifestFromJSON reads what a plugin prints when it is asked to describe itself.
func ManifestFromJSON(text []byte) (sdk.Manifest, error) { return wire.ManifestFromJSON(text) }

// can reports whether the plugin has a capability.
func (c *Client) can(capability string) bool {
	return slices.Contains(c.manifest.Capabilities, capability)
}

// SharedMemory reports whether tensors travel through shared memory.
func (c *Client) SharedMemory() bool { return c.options.Arena != nil }

// err gives an error the plugin's name. gRPC's own refusal of a large reply wears the
// status code of a plugin that is out of memory.
func (c *Client) err(err error) error {
	if s, ok := status.FromError(err); ok && s.Code() == codes.ResourceExhausted && strings.HasPrefix(s.Message(), "grpc: received message larger") {
		return c.answer("", "", &sdk.Error{Err: fmt.Errorf("its reply exceeds the limit: %s", s.Message())})
	}
	return wire.ErrorFromStatus(err, c.options.Plugin)
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
	r, err := c.stub.Describe(ctx, &stagev1.DescribeRequest{Plugin: c.options.Beside}, c.limits())
	if err != nil {
		return sdk.Manifest{}, c.err(err)
	}
	if major := r.GetManifest().GetProtocolMajor(); major != sdk.ProtocolMajor {
		return sdk.Manifest{}, c.answer("", "describe", &sdk.Error{
			Err: fmt.Errorf("the manifest says protocol major %d", major), Wanted: fmt.Sprint(sdk.ProtocolMajor)})
	}
	c.manifest = wire.ManifestFromProto(r.GetManifest())
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

// WatchInputs makes every later call an error in which the plugin changes what it was lent.
// It costs a reading of all inputs.
func (c *Client) WatchInputs(on bool) { c.watch.Store(on) }

// Shutdown asks the plugin to close its instances within the deadline and to end.
func (c *Client) Shutdown(ctx context.Context, deadline time.Duration) error {
	_, err := c.stub.Shutdown(ctx, &stagev1.ShutdownRequest{DeadlineMs: deadline.Milliseconds()})
	return c.err(err)
}
