package plughost

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/alignedfusion/alignedfusion/host/fault"
	"github.com/alignedfusion/alignedfusion/internal/process"
	"github.com/alignedfusion/alignedfusion/sdk"
)

// Defaults of Options.
const (
	DefaultStartTimeout    = 2 * time.Minute
	DefaultCallTimeout     = 30 * time.Minute
	DefaultShutdownTimeout = 5 * time.Second
)

// EnvInBand, when it is 1, sends all tensors in-band instead of through shared memory.
const EnvInBand = "ALIGNEDFUSION_IN_BAND"

// EnvAllowUnregistered, when it is 1, is Options.AllowUnregistered.
const EnvAllowUnregistered = "ALIGNEDFUSION_ALLOW_UNREGISTERED"

// Options of a Host. The zero value is ready to use.
type Options struct {
	// Dirs are searched for plugins before the standard folders (--plugin-dir).
	Dirs []string
	// AllowUnregistered runs plugins that a name finds and that were never installed;
	// $ALIGNEDFUSION_ALLOW_UNREGISTERED=1 does the same.
	AllowUnregistered bool
	// Threads each plugin may compute with; 0 leaves it to the plugin.
	Threads int
	// InBand sends all tensors inside the messages; $ALIGNEDFUSION_IN_BAND=1 does the same.
	InBand bool
	// ArenaBytes is the size of the shared memory of each plugin; 0 means
	// client.DefaultArenaBytes, or an eighth of the isolation's MemoryBytes. The memory
	// is sparse. Where the process may not reserve as much, it is smaller.
	ArenaBytes int64
	// StartTimeout bounds the time from exec to handshake; 0 means DefaultStartTimeout.
	StartTimeout time.Duration
	// CallTimeout bounds every call; 0 means DefaultCallTimeout. A plugin that does not
	// answer in time is taken for hung and killed.
	CallTimeout time.Duration
	// ShutdownTimeout is what Close gives a plugin to end in order; 0 means
	// DefaultShutdownTimeout.
	ShutdownTimeout time.Duration
	// MaxReplyBytes and MaxDetections bound answers; 0 means the client's defaults.
	MaxReplyBytes int64
	MaxDetections int64
	// Colocate runs plugins of one program in one process, where they can keep tensors for each
	// other (--colocate).
	Colocate bool
	// Isolation limits what the plugins can do.
	Isolation Isolation
	// Trust names plugins to which network, files and processes are open (--trust).
	Trust []string
	// Env is added to the plugins' environment, as NAME=value.
	Env []string
	// Log receives the plugins' standard error line by line as it comes; nil keeps only
	// the last lines, for error messages.
	Log io.Writer
}

// Host starts plugins and ends them. Its methods may be called concurrently.
type Host struct {
	options Options
	// dir holds the sockets; its name has the host's process id.
	dir string

	mu      sync.Mutex
	plugins map[string]*Plugin
	order   []*Plugin
	closed  bool
}

// New prepares a host; it starts nothing.
func New(o Options) (*Host, error) {
	if o.StartTimeout == 0 {
		o.StartTimeout = DefaultStartTimeout
	}
	if o.CallTimeout == 0 {
		o.CallTimeout = DefaultCallTimeout
	}
	if o.ShutdownTimeout == 0 {
		o.ShutdownTimeout = DefaultShutdownTimeout
	}
	o.InBand = o.InBand || os.Getenv(EnvInBand) == "1"
	o.AllowUnregistered = o.AllowUnregistered || os.Getenv(EnvAllowUnregistered) == "1"
	hide()
	dir, err := socketDir()
	if err != nil {
		return nil, err
	}
	return &Host{options: o, dir: dir, plugins: map[string]*Plugin{}}, nil
}

const socketDirPrefix = "af-"

// maxSocketDir keeps the path of a socket below the 108 bytes the kernel allows, with
// go-plugin's own folder and file name behind it.
const maxSocketDir = 50

// socketDir makes a private folder with a short path, and removes the ones that dead
// hosts have left.
func socketDir() (string, error) {
	base := os.Getenv("XDG_RUNTIME_DIR")
	probe, err := os.MkdirTemp(base, "probe-")
	if err == nil {
		err = os.Remove(probe)
	}
	if base == "" || err != nil || runsNothing(base) || len(base) > maxSocketDir-20 {
		base = os.TempDir()
	}
	if len(base) > maxSocketDir-20 {
		base = "/tmp"
	}
	if runsNothing(base) {
		return "", fault.Errorf(fault.Resource, "plugins run as copies in %s, which is mounted noexec; set TMPDIR to a folder whose programs may run", base)
	}
	stale, _ := filepath.Glob(filepath.Join(base, socketDirPrefix+"*"))
	for _, dir := range stale {
		pid, err := strconv.Atoi(strings.SplitN(strings.TrimPrefix(filepath.Base(dir), socketDirPrefix), "-", 2)[0])
		if err == nil && pid > 0 && !process.Alive(pid) && process.Owns(dir) {
			_ = os.RemoveAll(dir)
		}
	}
	dir, err := os.MkdirTemp(base, fmt.Sprintf("%s%d-", socketDirPrefix, os.Getpid()))
	if err != nil {
		return "", fmt.Errorf("folder for sockets: %w", err)
	}
	return dir, nil
}

// Find finds a plugin by name or path in the host's search path.
func (h *Host) Find(ref string) (*Found, error) { return Find(ref, h.options.Dirs) }

// Start starts the plugin that ref names (a name, or a path with a slash) and asks for
// its manifest. A plugin that runs already is returned as it is: all stages of one
// program live in one process.
func (h *Host) Start(ctx context.Context, ref string) (*Plugin, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil, errors.New("plughost: the host is closed")
	}
	running, err := reattachments()
	if err != nil {
		return nil, err
	}
	if r, ok := running[ref]; ok {
		return h.attachOnce(ctx, ref, r)
	}
	found, err := h.Find(ref)
	if err != nil {
		return nil, err
	}
	if p := h.plugins[found.Path]; p != nil && p.alive() {
		return p, nil
	}
	if p, err := h.beside(ctx, found); p != nil || err != nil {
		return p, err
	}
	p, err := h.launch(ctx, found)
	if err != nil {
		return nil, err
	}
	h.plugins[found.Path] = p
	h.order = append(h.order, p)
	return p, nil
}

// beside has a process that runs the same program serve another plugin of it, with
// Options.Colocate; nil where there is none.
func (h *Host) beside(ctx context.Context, found *Found) (*Plugin, error) {
	if !h.options.Colocate {
		return nil, nil
	}
	for _, other := range h.order {
		trusted := other.isolation.Trusted == (h.options.Isolation.Trusted || slices.Contains(h.options.Trust, found.Name))
		if !other.alive() || !trusted || !slices.Contains(other.manifest.Capabilities, sdk.CapabilityTogether) {
			continue
		}
		p := &Plugin{running: other.running, found: found, client: other.client.Beside(found.Name)}
		refuse := func(err error) error {
			return &Failure{Plugin: found.Name, Call: "start", Reason: err.Error(), Err: err}
		}
		var err error
		if p.status, p.hashes, err = found.Check(h.options.AllowUnregistered); err != nil {
			return nil, refuse(err)
		}
		if err := found.LockedHere(p.hashes); err != nil {
			return nil, refuse(err)
		}
		if p.SHA256() != other.SHA256() {
			continue
		}
		err = p.call(ctx, "", "describe", func(ctx context.Context) (err error) {
			p.manifest, err = p.client.Describe(ctx)
			return err
		})
		if err != nil {
			return nil, err
		}
		if err := found.agrees(p.manifest); err != nil {
			return nil, refuse(err)
		}
		h.plugins[found.Path] = p
		return p, nil
	}
	return nil, nil
}

// Plugins returns the plugins that were started, in that order.
func (h *Host) Plugins() []*Plugin {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]*Plugin(nil), h.order...)
}

// Watch returns with an error when a plugin gives no sign of life for limit, and with nil
// when ctx ends. A plugin that computes answers all the same.
func (h *Host) Watch(ctx context.Context, limit time.Duration) error {
	since := map[*Plugin]time.Time{}
	clock := time.NewTicker(limit / 6)
	defer clock.Stop()
	for {
		for _, p := range h.Plugins() {
			if since[p].IsZero() || !p.alive() || p.healthy() {
				since[p] = time.Now()
			}
			if silent := time.Since(since[p]); silent > limit {
				reason := fmt.Sprintf("no sign of life for %v: the process hangs", silent.Round(time.Second))
				return &Failure{Plugin: p.found.Name, Call: "health", Reason: reason, Stderr: p.log.tail(failureLines)}
			}
		}
		select {
		case <-clock.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// Close ends all plugins in order, killing the ones that do not, and removes what the
// host has made. Nothing of a plugin is left running.
func (h *Host) Close() error {
	h.mu.Lock()
	plugins := h.order
	h.order, h.closed = nil, true
	h.mu.Unlock()
	var wg sync.WaitGroup
	problems := make([]error, len(plugins))
	for i, p := range plugins {
		wg.Go(func() { problems[i] = p.Stop() })
	}
	wg.Wait()
	return errors.Join(append(problems, os.RemoveAll(h.dir))...)
}
