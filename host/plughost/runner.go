package plughost

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/alignedfusion/alignedfusion/internal/process"
)

// childRunner starts a plugin process in go-plugin's stead. go-plugin's own runner
// stops reading standard output after 64 KiB without a newline, waits for children of
// the plugin that keep its pipes open, and kills one process of a group; this one
// drains the pipes for ever, leads a process group and ends all of it.
type childRunner struct {
	cmd       *exec.Cmd
	isolation Isolation
	inside    *inside
	writable  []string // folders the process may change in spite of the isolation
	log       *logRing
	lifeline  *os.File // the child's end; closed here once the child has it

	handshakeReader *io.PipeReader
	handshakeWriter *io.PipeWriter
	outRead, errRead,
	outWrite, errWrite *os.File

	// attached: the process was not started here.
	attached bool

	mu        sync.Mutex
	firstLine string
	status    *syscall.WaitStatus // once it has ended
	exited    chan struct{}
}

// handshakeBytes is more than a handshake line ever needs, certificate included.
const handshakeBytes = 64 << 10

// drainTime is how long the pipes of a dead process are still read: a child of it may
// hold them open.
const drainTime = 300 * time.Millisecond

func newChildRunner(cmd *exec.Cmd, log *logRing, lifeline *os.File) (*childRunner, error) {
	r := &childRunner{cmd: cmd, log: log, lifeline: lifeline, exited: make(chan struct{})}
	r.handshakeReader, r.handshakeWriter = io.Pipe()
	var err error
	if r.outRead, r.outWrite, err = os.Pipe(); err != nil {
		return nil, err
	}
	if r.errRead, r.errWrite, err = os.Pipe(); err != nil {
		return nil, errors.Join(err, r.outRead.Close(), r.outWrite.Close())
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = nil, r.outWrite, r.errWrite
	return r, nil
}

// attachTo watches a process that runs already, until ctx ends.
func attachTo(ctx context.Context, pid int, log *logRing) (*childRunner, error) {
	found, err := os.FindProcess(pid)
	if err != nil {
		return nil, err
	}
	r := &childRunner{cmd: &exec.Cmd{Process: found}, log: log, attached: true, exited: make(chan struct{})}
	go func() {
		defer close(r.exited)
		for process.Alive(pid) {
			select {
			case <-ctx.Done():
				return
			case <-time.After(attachPoll):
			}
		}
	}()
	return r, nil
}

// attachPoll is how often a process that was not started here is looked at.
const attachPoll = 200 * time.Millisecond

// Start starts the process and the goroutines that read its output and wait for it.
func (r *childRunner) Start(context.Context) error {
	var err error
	r.inside, err = r.isolation.start(r.cmd, r.writable, lifelineFD)
	_ = r.outWrite.Close()
	_ = r.errWrite.Close()
	if err != nil {
		_ = r.outRead.Close()
		_ = r.errRead.Close()
		_ = r.lifeline.Close()
		close(r.exited)
		return err
	}
	armLifeline(r.lifeline, r.cmd.Process.Pid)
	_ = r.lifeline.Close()

	var drained sync.WaitGroup
	drained.Add(2)
	go func() {
		defer drained.Done()
		r.readStdout()
	}()
	go func() {
		defer drained.Done()
		_, _ = io.Copy(r.log, r.errRead)
	}()
	go func() {
		_ = r.cmd.Wait() // the status says it all
		status := r.inside.ended()
		_ = process.KillGroup(r.cmd.Process.Pid)
		deadline := time.Now().Add(drainTime)
		_ = r.outRead.SetReadDeadline(deadline)
		_ = r.errRead.SetReadDeadline(deadline)
		drained.Wait()
		_ = r.outRead.Close()
		_ = r.errRead.Close()
		r.mu.Lock()
		r.status = &status
		r.mu.Unlock()
		close(r.exited)
	}()
	return nil
}

// readStdout gives the first line to go-plugin and everything after it to the log.
func (r *childRunner) readStdout() {
	reader := bufio.NewReaderSize(r.outRead, handshakeBytes)
	line, err := reader.ReadSlice('\n')
	r.mu.Lock()
	r.firstLine = strings.TrimRight(string(line[:min(len(line), 200)]), "\r\n")
	r.mu.Unlock()
	if err == nil {
		_, _ = r.handshakeWriter.Write(line)
	}
	_ = r.handshakeWriter.Close()
	_, _ = io.Copy(r.log, reader)
}

// first returns the start of the first line on standard output.
func (r *childRunner) first() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.firstLine
}

// reason says how the process ended, "" while it runs.
func (r *childRunner) reason() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.status == nil {
		return ""
	}
	status := *r.status
	switch {
	case status.Signaled():
		hint := ""
		if status.Signal() == syscall.SIGKILL {
			hint = " (by someone, or by the kernel for lack of memory)"
		}
		return fmt.Sprintf("the process was killed by signal %q%s", status.Signal(), hint)
	case status.ExitStatus() == 0:
		return "the process ended by itself"
	default:
		return fmt.Sprintf("the process ended with exit code %d", status.ExitStatus())
	}
}

func (r *childRunner) Stdout() io.ReadCloser { return r.handshakeReader }

// Stderr is empty for go-plugin: the log has it.
func (r *childRunner) Stderr() io.ReadCloser { return io.NopCloser(strings.NewReader("")) }

func (r *childRunner) Name() string                    { return r.cmd.Path }
func (r *childRunner) Diagnose(context.Context) string { return "" }

// pid is the plugin's process.
func (r *childRunner) pid() int {
	if r.inside == nil {
		return r.cmd.Process.Pid
	}
	return r.inside.pid()
}

func (r *childRunner) ID() string {
	if r.cmd.Process == nil {
		return ""
	}
	return fmt.Sprint(r.cmd.Process.Pid)
}

func (r *childRunner) Wait(context.Context) error {
	<-r.exited
	return nil
}

// Kill ends the process group at once. A process that somebody else has started, a
// debugger for example, is left alone.
func (r *childRunner) Kill(context.Context) error {
	if r.cmd.Process == nil || r.attached {
		return nil
	}
	select {
	case <-r.exited:
		return nil
	default:
	}
	return process.KillGroup(r.cmd.Process.Pid)
}

func (r *childRunner) PluginToHost(network, address string) (string, string, error) {
	return network, address, nil
}

func (r *childRunner) HostToPlugin(network, address string) (string, string, error) {
	return network, address, nil
}
