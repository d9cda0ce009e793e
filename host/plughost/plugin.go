package plughost

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	"github.com/hashicorp/go-plugin/runner"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/client"
	"github.com/alignedfusion/alignedfusion/sdk/serve"
)

// The numbers that inherited files have in a plugin's process.
const (
	lifelineFD = 3
	arenaFD    = 4
)

// Plugin is a plugin that runs, in a process that may run others of the same program besides.
type Plugin struct {
	*running
	found    *Found
	manifest sdk.Manifest
	hashes   map[string]string
	status   Status
	client   *client.Client
}

// running is a plugin's process.
type running struct {
	host *Host
	// dir is the plugin's own to write to, code the copy of its files that runs.
	dir, code string
	isolation Isolation

	log      *logRing
	runner   *childRunner
	goplugin *plugin.Client
	conn     *grpc.ClientConn
	arena    *client.Arena
	watch    *watch
	lifeline *os.File // closing it kills the process group
	mark     string

	// detach ends the watch of a process that was not started here; nil for others.
	detach context.CancelFunc

	// calls is held for reading by every call, for writing when the shared memory goes.
	calls sync.RWMutex
	gone  bool

	stop    sync.Once
	stopErr error
}

// clientPlugin hands go-plugin's connection out.
type clientPlugin struct{ plugin.NetRPCUnsupportedPlugin }

func (clientPlugin) GRPCServer(*plugin.GRPCBroker, *grpc.Server) error {
	return errors.New("the host side has no server")
}

func (clientPlugin) GRPCClient(_ context.Context, _ *plugin.GRPCBroker, conn *grpc.ClientConn) (any, error) {
	return conn, nil
}

// launch checks, starts and describes a plugin.
func (h *Host) launch(ctx context.Context, found *Found) (*Plugin, error) {
	p := &Plugin{running: &running{host: h, log: &logRing{name: found.Name, tee: h.options.Log}}, found: found}
	refuse := func(err error) error {
		if errors.Is(err, errLock) {
			return err
		}
		return &Failure{Plugin: found.Name, Call: "start", Reason: err.Error(), Err: err}
	}
	p.isolation = h.options.Isolation
	p.isolation.Trusted = p.isolation.Trusted || slices.Contains(h.options.Trust, found.Name)
	cmd, err := p.prepare()
	if err != nil {
		return nil, errors.Join(refuse(err), p.clean())
	}
	if p.status, err = found.compare(p.hashes, h.options.AllowUnregistered); err != nil {
		return nil, errors.Join(refuse(err), p.clean())
	}
	if err := found.LockedHere(p.hashes); err != nil {
		return nil, errors.Join(refuse(err), p.clean())
	}
	cmd.Env = append(cmd.Env, fmt.Sprintf("%s=%d", serve.EnvLifeline, lifelineFD))
	read, write, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(refuse(err), p.clean())
	}
	p.lifeline = write
	cmd.ExtraFiles = []*os.File{read}
	isolation := p.isolation
	if p.arena, err = h.newArena(&isolation, p.log); err != nil {
		return nil, errors.Join(err, read.Close(), write.Close(), p.clean())
	}
	if p.arena != nil {
		cmd.ExtraFiles = append(cmd.ExtraFiles, p.arena.File())
	}
	if err := p.start(ctx, cmd, isolation, read); err != nil {
		p.abandon()
		return nil, err
	}
	return p, nil
}

// prepare copies the plugin's files and makes the command that runs the copy.
func (p *Plugin) prepare() (cmd *exec.Cmd, err error) {
	if p.dir, err = os.MkdirTemp(p.host.dir, "d"); err != nil {
		return nil, err
	}
	if p.code, err = os.MkdirTemp(p.host.dir, "c"); err != nil {
		return nil, err
	}
	command, err := p.found.runnable(p.code)
	if err != nil {
		return nil, err
	}
	if p.hashes, err = p.found.copyTo(p.code); err != nil {
		return nil, err
	}
	if err := p.found.lendSDK(command, p.code); err != nil {
		return nil, err
	}
	p.mark = newMark()
	env := append(withLibraries(environment(p.host.options.Threads, p.host.options.Env), p.found.libraryFolders(p.code)), p.mark)
	if !p.isolation.Trusted {
		env = append(env, "TMPDIR="+p.dir)
	}
	dir := ""
	if p.found.Layout != nil {
		dir = p.code
	}
	return newCommand(command, dir, env), nil
}

// clean removes the plugin's folders.
func (p *Plugin) clean() error {
	if p.dir == "" {
		return nil // it was not started here
	}
	return errors.Join(os.RemoveAll(p.dir), os.RemoveAll(p.code))
}

func (p *Plugin) start(ctx context.Context, cmd *exec.Cmd, isolation Isolation, lifeline *os.File) error {
	logger := hclog.New(&hclog.LoggerOptions{Name: "go-plugin", Level: hclog.Off})
	p.goplugin = plugin.NewClient(&plugin.ClientConfig{
		HandshakeConfig:  plugin.HandshakeConfig(serve.Handshake),
		VersionedPlugins: map[int]plugin.PluginSet{sdk.ProtocolMajor: {serve.GRPCName: clientPlugin{}}},
		AllowedProtocols: []plugin.Protocol{plugin.ProtocolGRPC},
		SkipHostEnv:      true,
		StartTimeout:     p.host.options.StartTimeout,
		Logger:           logger,
		SyncStdout:       p.log,
		SyncStderr:       p.log,
		GRPCDialOptions:  client.DialOptions(),
		UnixSocketConfig: &plugin.UnixSocketConfig{TempDir: p.dir},
		RunnerFunc: func(_ hclog.Logger, spec *exec.Cmd, _ string) (runner.Runner, error) {
			cmd.Env = append(cmd.Env, spec.Env...) // the handshake's variables
			r, err := newChildRunner(cmd, p.log, lifeline)
			if err != nil {
				return nil, err
			}
			r.isolation, r.writable = isolation, []string{p.dir}
			p.runner = r
			return r, nil
		},
	})
	// Start knows no context: a cancelled one kills the process, which ends it.
	stop := context.AfterFunc(ctx, func() { _ = p.lifeline.Close() })
	protocol, err := p.goplugin.Client()
	if !stop() {
		return context.Cause(ctx)
	}
	if err != nil {
		return p.startFailure(err)
	}
	raw, err := protocol.Dispense(serve.GRPCName)
	if err != nil {
		return p.startFailure(err)
	}
	p.conn = raw.(*grpc.ClientConn)
	p.client = client.New(p.conn, client.Options{Plugin: p.found.Name, Arena: p.arena,
		MaxReplyBytes: p.host.options.MaxReplyBytes, MaxDetections: p.host.options.MaxDetections})
	p.watch = watchCalls(p.host.options.CallTimeout, p.runner.exited)
	err = p.call(ctx, "", "describe", func(ctx context.Context) (err error) {
		p.manifest, err = p.client.Describe(ctx)
		return err
	})
	if err != nil {
		return err
	}
	if err := p.found.agrees(p.manifest); err != nil {
		return &Failure{Plugin: p.found.Name, Call: "describe", Reason: err.Error(), Err: err}
	}
	if p.arena == nil {
		return nil
	}
	if !slices.Contains(p.manifest.Capabilities, sdk.CapabilitySharedMemory) {
		p.client.Detach()
		return nil
	}
	err = p.call(ctx, "", "attach", func(ctx context.Context) error { return p.client.Attach(ctx, arenaFD) })
	if code := sdk.CodeOf(err); !IsFailure(err) && (code == sdk.ResourceExhausted || code == sdk.Unimplemented) {
		// The plugin's address space is fuller than the host's.
		fmt.Fprintf(p.log, "tensors travel in the messages: %v\n", err)
		p.client.Detach()
		return nil
	}
	return err
}

// startFailure says in words why go-plugin could not start the process.
func (p *Plugin) startFailure(err error) error {
	f := &Failure{Plugin: p.found.Name, Call: "start", Reason: firstSentence(err), Err: err}
	if p.runner == nil || p.runner.cmd.Process == nil {
		return f
	}
	message := err.Error()
	first := p.runner.first()
	switch {
	case strings.Contains(message, "timeout while waiting"):
		f.Reason = fmt.Sprintf("no handshake within %v", p.host.options.StartTimeout)
	case strings.Contains(message, "incompatible API version"):
		f.Reason = fmt.Sprintf("it speaks another version of the stage protocol (%s), this host speaks version %d; get a plugin built for it",
			handshakeField(first, 1), sdk.ProtocolMajor)
	case strings.Contains(message, "incompatible core API version"), strings.Contains(message, "error parsing core protocol"),
		strings.Contains(message, "unsupported plugin protocol"), strings.Contains(message, "Unrecognized remote plugin message") && first != "":
		f.Reason = fmt.Sprintf("its first line on standard output is %q, want the handshake of the stage protocol; nothing else may print there", first)
	default:
		// Without a handshake the process is about to end, if it has not.
		select {
		case <-p.runner.exited:
		case <-time.After(time.Second):
		}
		if reason := p.runner.reason(); reason != "" {
			f.Reason = reason + " before the handshake"
		}
	}
	_ = p.runner.Kill(context.Background())
	<-p.runner.exited
	f.Stderr = p.log.tail(failureLines)
	return f
}

func handshakeField(line string, i int) string {
	fields := strings.Split(line, "|")
	if i >= len(fields) {
		return "unknown"
	}
	return fields[i]
}

func firstSentence(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line
}

// alive reports whether the process runs.
func (p *Plugin) alive() bool {
	select {
	case <-p.runner.exited:
		return false
	default:
		return true
	}
}

// Name is the name the plugin was found by.
func (p *Plugin) Name() string { return p.found.Name }

// Path is the program's or the folder's path.
func (p *Plugin) Path() string { return p.found.Path }

// Manifest says what the plugin serves.
func (p *Plugin) Manifest() sdk.Manifest { return p.manifest }

// Hashes holds the SHA-256 of the plugin's files by path, taken just before the start.
func (p *Plugin) Hashes() map[string]string { return p.hashes }

// SHA256 is the hash of a plugin of one file, or one over the hashes of several. It is
// the same before and after the plugin was installed.
func (p *Plugin) SHA256() string { return p.found.identity(p.hashes) }

// TempDir is the plugin's own folder, which it may write to. It goes with the plugin.
func (p *Plugin) TempDir() string { return p.dir }

// Isolation says what is kept from the plugin, for the run.
func (p *Plugin) Isolation() string {
	switch {
	case p.runner.attached:
		return "none: it was not started by the host"
	case p.isolation.Trusted:
		return "none: trusted"
	case len(p.runner.inside.missing) > 0:
		return "all but " + strings.Join(p.runner.inside.missing, ", ")
	}
	return "no network, read-only files, own processes"
}

// Warnings say what the plugin may do that plugins otherwise may not.
func (p *Plugin) Warnings() []string {
	switch {
	case p.runner.attached:
		return nil
	case p.isolation.Trusted:
		return []string{fmt.Sprintf("plugin %s is trusted: network, files and processes are open to it", p.Name())}
	case len(p.runner.inside.missing) > 0:
		return []string{"plugins run without " + strings.Join(p.runner.inside.missing, ", ")}
	}
	return nil
}

// Status says how far the plugin's files could be trusted when it was started.
func (p *Plugin) Status() Status { return p.status }

// Conn is the connection, for callers that speak the protocol themselves.
func (p *Plugin) Conn() grpc.ClientConnInterface { return p.conn }

// CutLifeline does to the plugin what the host's death does.
func (p *Plugin) CutLifeline() { _ = p.lifeline.Close() }

// Exited is closed when the process has ended.
func (p *Plugin) Exited() <-chan struct{} { return p.runner.exited }

// ShutDown asks the plugin to end, by its own Shutdown and go-plugin's, and kills
// nothing.
func (p *Plugin) ShutDown(ctx context.Context) error {
	if err := p.client.Shutdown(ctx, p.host.options.ShutdownTimeout); err != nil && sdk.CodeOf(err) != sdk.Unimplemented {
		return err
	}
	go p.goplugin.Kill()
	return nil
}

// PID is the process id.
func (p *Plugin) PID() int { return p.runner.pid() }

// Stderr returns the last lines of the plugin's standard error.
func (p *Plugin) Stderr() []string { return p.log.last() }

// SharedMemory reports whether tensors travel through shared memory.
func (p *Plugin) SharedMemory() bool { return p.client.SharedMemory() }

// Client is the protocol's client, for callers that make calls of their own.
func (p *Plugin) Client() *client.Client { return p.client }

// call makes one call and explains its failure.
func (p *Plugin) call(caller context.Context, stage, name string, f func(context.Context) error) error {
	p.calls.RLock()
	defer p.calls.RUnlock()
	if p.gone {
		return &Failure{Plugin: p.found.Name, Stage: stage, Call: name, Reason: "the plugin was stopped before the call", Stderr: p.log.tail(failureLines)}
	}
	ctx, done := p.watch.begin(caller)
	defer done()
	err := context.Cause(ctx)
	if err == nil {
		err = f(ctx)
	}
	if err == nil {
		return nil
	}
	cause := context.Cause(ctx)
	failure := &Failure{Plugin: p.found.Name, Stage: stage, Call: name, Err: err}
	var known *sdk.Error
	switch {
	case errors.Is(err, client.ErrAnswer):
		failure.Reason = err.Error()
		if errors.As(err, &known) {
			bare := *known
			bare.Plugin, bare.Stage, bare.Call = "", "", ""
			failure.Reason = bare.Error()
		}
	case errors.As(err, &known):
		return printableError(known) // a healthy plugin refused the request
	case cause == nil || cause == errExited || cause == errHung:
		limit := p.watch.limit
		if name == "close" {
			limit = p.host.options.ShutdownTimeout
		}
		failure.Reason = p.explain(err, limit, cause == errHung)
	default:
		return fmt.Errorf("plugin %s: %s: %w", p.found.Name, name, cause)
	}
	failure.Stderr = p.log.tail(failureLines)
	return failure
}

// explain says why a call failed, ending the process if it has not ended. late says that
// the host gave it up after limit.
func (p *Plugin) explain(err error, limit time.Duration, late bool) string {
	select {
	case <-p.runner.exited:
	case <-time.After(500 * time.Millisecond):
		if status.Code(err) == codes.Unavailable {
			// The connection is gone and the process is not: give it time to die.
			select {
			case <-p.runner.exited:
			case <-time.After(time.Second):
			}
		}
	}
	if reason := p.runner.reason(); reason != "" {
		return reason
	}
	reason := firstSentence(err)
	switch {
	case late && p.healthy():
		reason = fmt.Sprintf("no answer within %v; the process is healthy otherwise and was killed", limit)
	case late:
		reason = fmt.Sprintf("no answer within %v; the process hung and was killed", limit)
	case status.Code(err) == codes.Unavailable:
		reason = "the connection broke: " + reason
	}
	p.kill()
	return reason
}

// kill ends the process, if it is the host's, and waits for its end.
func (p *Plugin) kill() {
	_ = p.runner.Kill(context.Background())
	if !p.runner.attached {
		<-p.runner.exited
	}
}

// healthy asks go-plugin's health service, with a deadline of its own: its Ping has none.
func (p *Plugin) healthy() bool {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	r, err := grpc_health_v1.NewHealthClient(p.conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: plugin.GRPCServiceName})
	return err == nil && r.GetStatus() == grpc_health_v1.HealthCheckResponse_SERVING
}

// Ping reports whether the plugin's process answers, within a second.
func (p *Plugin) Ping() bool { return p.alive() && p.healthy() }

// Stop ends the plugin: its own Shutdown first, then go-plugin's, then SIGKILL to its
// whole process group. It is safe to call more than once.
func (p *Plugin) Stop() error {
	p.stop.Do(func() {
		if p.runner.attached {
			p.detach()
			p.stopErr = p.conn.Close()
			return
		}
		if p.alive() {
			limit := p.host.options.ShutdownTimeout
			ctx, cancel := context.WithTimeout(context.Background(), limit)
			err := p.client.Shutdown(ctx, limit)
			cancel()
			var refused *sdk.Error
			switch {
			case errors.As(err, &refused) && refused.Code == sdk.Unimplemented:
				// go-plugin's own Shutdown does for a plugin that has nothing to save.
			case errors.As(err, &refused):
				p.stopErr = err // an instance did not close well; the process ends all the same
			case err != nil && p.alive():
				p.stopErr = &Failure{Plugin: p.found.Name, Call: "shutdown", Reason: p.explain(err, limit, status.Code(err) == codes.DeadlineExceeded), Stderr: p.log.tail(failureLines), Err: err}
			}
		}
		// go-plugin's Shutdown has no deadline; a dead process ends it.
		late := time.AfterFunc(p.host.options.ShutdownTimeout, func() { _ = p.runner.Kill(context.Background()) })
		p.goplugin.Kill()
		late.Stop()
		p.abandon()
	})
	return p.stopErr
}

// abandon takes down whatever there is of the process and its memory.
func (p *Plugin) abandon() {
	if p.runner != nil {
		_ = p.runner.Kill(context.Background())
		<-p.runner.exited
		reapMarked(p.mark)
	}
	if p.goplugin != nil {
		p.goplugin.Kill()
	}
	_ = p.lifeline.Close()
	_ = p.clean()
	p.calls.Lock()
	defer p.calls.Unlock()
	p.gone = true
	if p.arena != nil {
		_ = p.arena.Close()
		p.arena = nil
	}
}
