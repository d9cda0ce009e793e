// Package plugintest runs a plugin inside the process of a test: a fake host that
// speaks the real protocol over an in-memory connection.
//
//	func TestHead(t *testing.T) {
//		plugintest.EachTransport(t, plugin, func(t *testing.T, c *client.Client) {
//			head := plugintest.Open(t, c, &sdk.OpenRequest{Stage: "mlp", Train: true})
//			plugintest.CheckGradients(t, head, inputs, 1e-2)
//		})
//	}
package plugintest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/client"
	"github.com/alignedfusion/alignedfusion/sdk/conformance"
	"github.com/alignedfusion/alignedfusion/sdk/gradcheck"
	"github.com/alignedfusion/alignedfusion/sdk/internal/wire"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

// Transport is how tensors travel.
type Transport string

// The transports.
const (
	InBand       Transport = "in-band"
	SharedMemory Transport = "shared-memory"
)

// Start serves p and returns a client that has its manifest. Everything ends with the
// test.
func Start(t testing.TB, p sdk.Plugin, transport Transport) *client.Client {
	t.Helper()
	c, err := Serve(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if transport == SharedMemory {
		return c.Shared
	}
	return c.InBand
}

// Serve is Connect for a plugin.
func Serve(ctx context.Context, p sdk.Plugin) (*conformance.Connection, error) {
	return Connect(ctx, p.Manifest.Name, func(r grpc.ServiceRegistrar) func() { return wire.Register(r, p) })
}

// arenaBytes is the shared memory of a connection; it is sparse.
const arenaBytes = 1 << 30

// Connect serves in this process what register registers. Both clients have the manifest,
// and the shared memory is attached.
func Connect(ctx context.Context, name string, register func(grpc.ServiceRegistrar) (closeAll func())) (_ *conformance.Connection, err error) {
	listener, server := bufconn.Listen(1<<20), grpc.NewServer(wire.ServerOptions(nil)...)
	closeAll := register(server)
	go func() { _ = server.Serve(listener) }()
	undo := []func() error{func() error { server.Stop(); return nil }}
	shut := func() error {
		closeAll()
		var all error
		for _, f := range slices.Backward(undo) {
			all = errors.Join(all, f())
		}
		return all
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, shut())
		}
	}()
	arena, err := client.NewArena(arenaBytes)
	if err != nil {
		return nil, err
	}
	undo = slices.Insert(undo, 0, arena.Close)
	conn, err := grpc.NewClient("passthrough:///plugin", append(client.DialOptions(),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }),
		grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		return nil, err
	}
	undo = append(undo, conn.Close)
	c := &conformance.Connection{Conn: conn, Close: shut, InBand: client.New(conn, client.Options{Plugin: name}),
		Shared: client.New(conn, client.Options{Plugin: name, Arena: arena})}
	for _, x := range []*client.Client{c.InBand, c.Shared} {
		if _, err := x.Describe(ctx); err != nil {
			return nil, err
		}
	}
	return c, c.Shared.AttachPath(ctx, fmt.Sprintf("/proc/self/fd/%d", arena.File().Fd()))
}

// Conformance checks p against every rule of the stage protocol that can be seen inside
// one process, a subtest per rule.
func Conformance(t *testing.T, p sdk.Plugin, o conformance.Options) {
	t.Helper()
	report, err := conformance.Run(t.Context(), conformance.Target{
		Connect: func(ctx context.Context) (*conformance.Connection, error) {
			return Serve(ctx, p)
		},
	}, o)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range report.Results {
		t.Run(strings.TrimPrefix(r.Stage+"/"+r.Case, "/"), func(t *testing.T) {
			switch r.Status {
			case conformance.Fail:
				t.Error(r)
			case conformance.Skip:
				t.Skip(r.Seen)
			}
		})
	}
}

// EachTransport runs f as a subtest per transport: results must not depend on it.
func EachTransport(t *testing.T, p sdk.Plugin, f func(t *testing.T, c *client.Client)) {
	t.Helper()
	for _, transport := range []Transport{InBand, SharedMemory} {
		t.Run(string(transport), func(t *testing.T) { f(t, Start(t, p, transport)) })
	}
}

// Open opens a stage and closes it with the test. What req leaves out gets the values a
// host would send: CPU, one thread, an AdamW optimizer.
func Open(t testing.TB, c *client.Client, req *sdk.OpenRequest) *client.Instance {
	t.Helper()
	full := *req
	if full.Device == "" {
		full.Device = "cpu"
	}
	if full.Threads == 0 {
		full.Threads = 1
	}
	if full.Optimizer.Name == "" {
		full.Optimizer = sdk.Optimizer{Name: "adamw", Values: map[string]float64{"beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0}}
	}
	i, _, err := c.Open(t.Context(), &full)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = i.Close(context.Background()) })
	return i
}

// CheckGradients compares a stage's gradients with finite differences and fails the
// test when a relative error exceeds tolerance; 1e-2 suits single precision.
func CheckGradients(t testing.TB, s gradcheck.Stage, inputs map[string]*tensor.Tensor, tolerance float64) {
	t.Helper()
	results, err := gradcheck.Check(t.Context(), s, inputs, gradcheck.Options{Seed: 1, FirstContext: 1 << 40})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range results {
		if r.RelativeError > tolerance {
			t.Errorf("gradient of %q along a random direction is %g, finite differences say %g (relative error %.2g, want at most %g)",
				r.Input, r.Analytic, r.Numeric, r.RelativeError, tolerance)
		}
	}
}
