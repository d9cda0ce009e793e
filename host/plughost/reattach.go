package plughost

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"

	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/client"
	"github.com/alignedfusion/alignedfusion/sdk/serve"
)

// debugTimeout bounds calls of a plugin under a debugger: whoever stands at a breakpoint
// is not hung.
const debugTimeout = 24 * time.Hour

// reattachments reads serve.EnvReattach.
func reattachments() (map[string]serve.Reattach, error) {
	text := os.Getenv(serve.EnvReattach)
	if text == "" {
		return nil, nil
	}
	var out map[string]serve.Reattach
	if err := json.Unmarshal([]byte(text), &out); err != nil {
		return nil, fmt.Errorf("$%s: %w; a plugin prints it when it is run with %s", serve.EnvReattach, err, serve.DebugFlag)
	}
	return out, nil
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
	p := &Plugin{host: host, found: &Found{Name: name, Path: r.Address}, status: Trusted, log: &logRing{name: name, tee: h.options.Log}}
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
