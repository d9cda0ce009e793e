package plughost

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"

	"github.com/alignedfusion/alignedfusion/host/fault"
	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/client"
	"github.com/alignedfusion/alignedfusion/sdk/serve"
)

// debugTimeout bounds calls of a plugin under a debugger: whoever stands at a breakpoint
// is not hung.
const debugTimeout = 24 * time.Hour

// reattachments reads serve.EnvReattach.
func reattachments() (map[string]serve.Reattach, error) {
	return parseReattachments(os.Getenv(serve.EnvReattach))
}

// parseReattachments fails with fault.Usage: somebody has typed it.
func parseReattachments(text string) (map[string]serve.Reattach, error) {
	if text == "" {
		return nil, nil
	}
	wrong := func(err error) error {
		return fault.Errorf(fault.Usage, "$%s: %w; a plugin prints it when it is run with %s", serve.EnvReattach, err, serve.DebugFlag)
	}
	var out map[string]serve.Reattach
	d := json.NewDecoder(strings.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&out); err != nil {
		return nil, wrong(err)
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, wrong(errors.New("something follows its closing brace"))
	}
	for _, name := range slices.Sorted(maps.Keys(out)) {
		if err := checkReattach(name, out[name]); err != nil {
			return nil, wrong(err)
		}
	}
	return out, nil
}

// checkReattach looks at what would be signalled and dialled: process 0 and those below are
// whole groups of processes.
func checkReattach(name string, r serve.Reattach) error {
	switch {
	case name == "":
		return errors.New("a plugin without a name")
	case r.PID < 1:
		return fmt.Errorf("%s: pid is %d, want that of a process", name, r.PID)
	case !filepath.IsAbs(r.Address):
		return fmt.Errorf("%s: address is %q, want the absolute path of a socket", name, r.Address)
	}
	return nil
}

func (h *Host) attachOnce(ctx context.Context, name string, r serve.Reattach) (*Plugin, error) {
	if p := h.plugins[r.Address]; p != nil && p.alive() {
		return p, nil
	}
	p, err := h.attach(ctx, name, r)
	if err != nil {
		return nil, err
	}
	h.plugins[r.Address] = p
	h.order = append(h.order, p)
	return p, nil
}

// attach connects to a plugin that somebody else has started. Its tensors travel
// in-band, its calls have no deadline to speak of, and it outlives the host.
func (h *Host) attach(ctx context.Context, name string, r serve.Reattach) (*Plugin, error) {
	fail := func(err error) error {
		return &Failure{Plugin: name, Call: "attach", Reason: firstSentence(err), Err: err}
	}
	if r.Protocol != sdk.ProtocolMajor {
		return nil, fail(fmt.Errorf("it speaks version %d of the stage protocol, this host version %d", r.Protocol, sdk.ProtocolMajor))
	}
	options := h.options
	options.CallTimeout = debugTimeout
	host := &Host{options: options, dir: h.dir}
	p := &Plugin{running: &running{host: host, log: &logRing{name: name, tee: h.options.Log}}, found: &Found{Name: name, Path: r.Address}, status: Trusted}
	watched, detach := context.WithCancel(context.WithoutCancel(ctx))
	p.detach = detach
	var err error
	if p.runner, err = attachTo(watched, r.PID, p.log); err != nil {
		detach()
		return nil, fail(err)
	}
	p.goplugin = plugin.NewClient(&plugin.ClientConfig{
		HandshakeConfig: plugin.HandshakeConfig(serve.Handshake), AllowedProtocols: []plugin.Protocol{plugin.ProtocolGRPC},
		Plugins: plugin.PluginSet{serve.GRPCName: clientPlugin{}}, GRPCDialOptions: client.DialOptions(),
		Logger: hclog.New(&hclog.LoggerOptions{Name: "go-plugin", Level: hclog.Off}),
		Reattach: &plugin.ReattachConfig{Protocol: plugin.ProtocolGRPC, ProtocolVersion: r.Protocol, Pid: r.PID, Test: true,
			Addr: &net.UnixAddr{Name: r.Address, Net: "unix"}},
	})
	connected, err := p.goplugin.Client()
	if err == nil {
		var raw any
		if raw, err = connected.Dispense(serve.GRPCName); err == nil {
			p.conn = raw.(*grpc.ClientConn)
		}
	}
	if err != nil {
		detach()
		return nil, fail(err)
	}
	p.client = client.New(p.conn, client.Options{Plugin: name, MaxReplyBytes: options.MaxReplyBytes, MaxDetections: options.MaxDetections})
	p.watch = watchCalls(options.CallTimeout, p.runner.exited)
	err = p.call(ctx, "", "describe", func(ctx context.Context) (err error) {
		p.manifest, err = p.client.Describe(ctx)
		return err
	})
	if err != nil {
		detach()
		return nil, err
	}
	return p, nil
}
