//go:build linux

package plughost

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/client"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

// named links a test program to another name, by which it misbehaves.
func named(t *testing.T, program, name string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.Link(filepath.Join(testBinaries, program), path); err != nil {
		t.Fatal(err)
	}
	return path
}

// gone waits for a process to end.
func gone(pid int, within time.Duration) bool {
	for deadline := time.Now().Add(within); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if errors.Is(unix.Kill(pid, 0), unix.ESRCH) || zombie(pid) {
			return true
		}
	}
	return false
}

// zombie reports a dead process whose parent (in a container often nobody who cares) has
// not collected it.
func zombie(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true
	}
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	return len(fields) > 0 && (fields[0] == "Z" || fields[0] == "X")
}

func wantFailure(t *testing.T, err error, words ...string) *Failure {
	t.Helper()
	var f *Failure
	if !errors.As(err, &f) {
		t.Fatalf("error is %v, want a *Failure", err)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error does not say %q:\n%v", w, err)
		}
	}
	return f
}

func TestPluginsThatDoNotStart(t *testing.T) {
	dir := t.TempDir()
	notExecutable := filepath.Join(dir, "not-executable")
	if err := os.WriteFile(notExecutable, []byte("#!/bin/sh\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	notAProgram := filepath.Join(dir, "not-a-program")
	if err := os.WriteFile(notAProgram, []byte{0x7f, 'E', 'L', 'F', 0, 0}, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		path  string
		words []string
	}{
		{named(t, "raw", "version-9"), []string{"version-9", "another version", "(9)", "version 1"}},
		{named(t, "faulty", "exits-at-once"), []string{"exit code 127", "before the handshake", "libfoo.so"}},
		{named(t, "faulty", "never-speaks"), []string{"no handshake within 2s"}},
		{notExecutable, []string{"not executable", "chmod +x"}},
		{notAProgram, []string{"is cut off after 6 bytes"}},
		{"/bin/false", []string{"exit code 1"}},
		{"/bin/echo", []string{"before the handshake"}},
	} {
		t.Run(filepath.Base(test.path), func(t *testing.T) {
			limit := time.Minute
			if filepath.Base(test.path) == "never-speaks" {
				limit = 2 * time.Second
			}
			h := newHost(t, Options{StartTimeout: limit})
			_, err := h.Start(t.Context(), test.path)
			wantFailure(t, err, test.words...)
		})
	}
	h := newHost(t, Options{})
	for _, ref := range []string{"no-such-plugin", "./no/such/plugin", ""} {
		if _, err := h.Start(t.Context(), ref); !errors.Is(err, ErrNotFound) {
			t.Errorf("%q: error %v, want ErrNotFound", ref, err)
		}
	}
}

func TestGarbageOnStandardOutputBeforeTheHandshakeIsTakenAway(t *testing.T) {
	// What Go code prints in main before Serve is not guarded, and named.
	h := newHost(t, Options{})
	_, err := h.Start(t.Context(), named(t, "faulty", "prints-first"))
	wantFailure(t, err, "[W] libfoo: hello from C", "nothing else may print there")
	_, err = h.Start(t.Context(), named(t, "faulty", "prints-megabyte"))
	wantFailure(t, err)
}

func openFaulty(t *testing.T, h *Host, fault string) (*Plugin, *Instance) {
	t.Helper()
	p := start(t, h, "faulty")
	i, _, err := p.Open(t.Context(), &sdk.OpenRequest{Stage: "faulty", Device: "cpu", Settings: map[string]string{"fault": fault}})
	if err != nil {
		t.Fatal(err)
	}
	return p, i
}

func TestFaultsDuringACall(t *testing.T) {
	for _, test := range []struct {
		fault string
		words []string
	}{
		{"exit", []string{"plugin faulty: head faulty: forward", "exit code 7", "about to exit"}},
		{"segfault", []string{"forward", "exit code 2", "unexpected fault address"}},
		{"kill", []string{"forward", `signal "killed"`}},
		{"hang", []string{"forward", "no answer within 3s", "killed"}},
		{"stop", []string{"forward", "no answer within 3s", "hung"}},
		{"past-slot", []string{"forward", "wrote past"}},
		{"boxes", []string{"forward", `"boxes" is FP32 [1000000 4]`, "at most 100000 rows"}},
	} {
		t.Run(test.fault, func(t *testing.T) {
			limit := time.Minute
			if test.fault == "hang" || test.fault == "stop" {
				limit = 3 * time.Second
			}
			h := newHost(t, Options{CallTimeout: limit})
			p, i := openFaulty(t, h, test.fault)
			_, err := i.Forward(t.Context(), &sdk.ForwardRequest{Inputs: map[string]*tensor.Tensor{"x": tensor.OfFloat32s(make([]float32, 40000), 100, 400)}})
			wantFailure(t, err, test.words...)
			pid := p.PID()
			if err := h.Close(); err != nil {
				t.Logf("close: %v", err)
			}
			if !gone(pid, time.Second) {
				t.Error("the plugin is still running")
			}
		})
	}
}

func TestFaultsThatAPluginSurvives(t *testing.T) {
	for _, test := range []struct {
		fault string
		code  sdk.Code
		words []string
	}{
		{"panic", sdk.Internal, []string{"head faulty", "a bug in the stage"}},
		{"shape", sdk.Internal, []string{`"y" is FP32 [3], want FP32 [2 4]`}},
		{"undeclared", sdk.Internal, []string{`"z"`, "y, boxes"}},
		{"error", sdk.ResourceExhausted, []string{"out of memory", "123456 bytes"}},
	} {
		t.Run(test.fault, func(t *testing.T) {
			h := newHost(t, Options{})
			p, i := openFaulty(t, h, test.fault)
			_, err := i.Forward(t.Context(), &sdk.ForwardRequest{Inputs: row4(2)})
			if IsFailure(err) {
				t.Fatalf("a healthy plugin was taken for a failed one: %v", err)
			}
			var refused *sdk.Error
			if !errors.As(err, &refused) || refused.Code != test.code || refused.Plugin != "faulty" {
				t.Fatalf("error is %+v", err)
			}
			for _, w := range test.words {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("error does not say %q: %v", w, err)
				}
			}
			if !p.Ping() {
				t.Error("the plugin does not answer any more")
			}
		})
	}
}

func row4(n int64) map[string]*tensor.Tensor {
	return map[string]*tensor.Tensor{"x": tensor.OfFloat32s(make([]float32, n*4), n, 4)}
}

func TestOutputFloodsDoNotHang(t *testing.T) {
	for _, fault := range []string{"stdout", "stderr", "stderr-line", "nan"} {
		t.Run(fault, func(t *testing.T) {
			h := newHost(t, Options{CallTimeout: 30 * time.Second})
			p, i := openFaulty(t, h, fault)
			resp, err := i.Forward(t.Context(), &sdk.ForwardRequest{Inputs: row4(2)})
			if err != nil {
				t.Fatal(err)
			}
			var kept int
			for _, line := range p.Stderr() {
				kept += len(line)
			}
			if kept > ringLines*ringLineSize {
				t.Errorf("%d bytes of log kept", kept)
			}
			if fault == "nan" {
				y, err := resp.Outputs["y"].Float32s()
				if err != nil || !math.IsNaN(float64(y[0])) {
					t.Errorf("NaN did not come through: %v, %v", y, err)
				}
			}
		})
	}
}

// A plugin without the SDK's guards: the host has to hold its own.
func TestAnswersThatBreakTheProtocol(t *testing.T) {
	for fault, words := range map[string][]string{
		"outside":  {`"y"`, "outside the slot"},
		"beyond":   {`"y"`, "outside the slot"},
		"short":    {`"y"`, "3 bytes"},
		"negative": {`"y"`, "negative"},
		"overflow": {`"y"`, "overflow"},
		"dtype":    {`"y"`, "FP12"},
		"rank":     {`"y" is FP32 [4], want FP32 [1 4]`},
		"batch":    {`"y" is FP32 [2 4], want FP32 [1 4]`},
		"name":     {`"z"`, "not a declared output"},
		"missing":  {`"y"`, "missing"},
		"twice":    {`"y"`, "twice"},
		"huge":     {"larger than max"},
	} {
		t.Run(fault, func(t *testing.T) {
			h := newHost(t, Options{MaxReplyBytes: 64 << 20, CallTimeout: 20 * time.Second})
			p := start(t, h, "raw")
			i, _, err := p.Open(t.Context(), &sdk.OpenRequest{Stage: "raw", Settings: map[string]string{"fault": fault}})
			if err != nil {
				t.Fatal(err)
			}
			_, err = i.Forward(t.Context(), &sdk.ForwardRequest{Inputs: row4(1)})
			wantFailure(t, err, append(words, "plugin raw: head raw: forward")...)
			if fault != "huge" && !errors.Is(err, client.ErrAnswer) {
				t.Errorf("%v is not an ErrAnswer", err)
			}
		})
	}
}

func TestAMegabyteOnAnUnguardedStandardOutputDoesNotHang(t *testing.T) {
	h := newHost(t, Options{CallTimeout: 10 * time.Second})
	p := start(t, h, "raw")
	i, _, err := p.Open(t.Context(), &sdk.OpenRequest{Stage: "raw", Settings: map[string]string{"fault": "stdout"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := i.Forward(t.Context(), &sdk.ForwardRequest{Inputs: row4(1)}); err != nil {
		t.Fatal(err)
	}
}

func TestKilledDuringACallFromOutside(t *testing.T) {
	h := newHost(t, Options{})
	p, i := openFaulty(t, h, "hang")
	go func() {
		time.Sleep(200 * time.Millisecond)
		_ = unix.Kill(p.PID(), unix.SIGKILL)
	}()
	_, err := i.Forward(t.Context(), &sdk.ForwardRequest{Inputs: row4(1)})
	wantFailure(t, err, "plugin faulty: head faulty: forward", "killed")
}

func TestCancelledCallIsNotTheFaultOfThePlugin(t *testing.T) {
	h := newHost(t, Options{ShutdownTimeout: time.Second})
	p, i := openFaulty(t, h, "hang")
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err := i.Forward(ctx, &sdk.ForwardRequest{Inputs: row4(1)})
	if !errors.Is(err, context.DeadlineExceeded) || IsFailure(err) {
		t.Errorf("error is %v, want the caller's own deadline", err)
	}
	if !p.Ping() {
		t.Error("the plugin was ended for it")
	}
}

func TestCallsDuringAndAfterCloseFail(t *testing.T) {
	h := newHost(t, Options{ShutdownTimeout: 100 * time.Millisecond})
	_, i := openFaulty(t, h, "hang")
	answered := make(chan error, 1)
	go func() {
		_, err := i.Forward(t.Context(), &sdk.ForwardRequest{Inputs: row4(5000)})
		answered <- err
	}()
	time.Sleep(100 * time.Millisecond)
	_ = h.Close()
	select {
	case err := <-answered:
		wantFailure(t, err)
	case <-time.After(5 * time.Second):
		t.Fatal("a call outlives its host")
	}
	_, err := i.Forward(t.Context(), &sdk.ForwardRequest{Inputs: row4(5000)})
	wantFailure(t, err, "stopped before the call")
}

// childPIDs waits for the two children that the plugin has written of (its log is read by
// another goroutine) and returns what numbers they have here: inside they have others.
func childPIDs(p *Plugin) (out []int) {
	for strings.Count(strings.Join(p.Stderr(), "\n"), "child ") < 2 {
		time.Sleep(10 * time.Millisecond)
	}
	for _, pid := range descendants(p.runner.cmd.Process.Pid) {
		if pid != p.PID() {
			out = append(out, pid)
		}
	}
	return out
}

func descendants(pid int) (out []int) {
	for _, child := range childrenOf(pid) {
		out = append(append(out, child), descendants(child)...)
	}
	return out
}

func TestChildrenOfAPluginEndWithIt(t *testing.T) {
	for _, how := range []string{"close", "kill"} {
		t.Run(how, func(t *testing.T) {
			h := newHost(t, Options{})
			p, i := openFaulty(t, h, "fork")
			if _, err := i.Forward(t.Context(), &sdk.ForwardRequest{Inputs: row4(1)}); err != nil {
				t.Fatal(err)
			}
			children := childPIDs(p)
			if len(children) != 2 {
				t.Fatalf("children are %v", children)
			}
			if how == "kill" {
				_ = unix.Kill(p.PID(), unix.SIGKILL)
				_, err := i.Forward(t.Context(), &sdk.ForwardRequest{Inputs: row4(1)})
				wantFailure(t, err, "killed")
			}
			if err := h.Close(); err != nil {
				t.Error(err)
			}
			for _, pid := range children {
				if !gone(pid, time.Second) {
					t.Errorf("child %d lives", pid)
				}
			}
		})
	}
}

func TestAPluginThatDoesNotCloseIsKilled(t *testing.T) {
	h := newHost(t, Options{ShutdownTimeout: 500 * time.Millisecond})
	p, _ := openFaulty(t, h, "hang-close")
	if err := h.Close(); !IsFailure(err) {
		t.Errorf("error is %v, want a *Failure", err)
	}
	if !gone(p.PID(), time.Second) {
		t.Error("the plugin is still running")
	}
}

// Closing is what comes after the results: a stage that hangs in it costs seconds.
func TestAStageThatHangsInCloseIsNotWaitedFor(t *testing.T) {
	h := newHost(t, Options{ShutdownTimeout: 500 * time.Millisecond})
	p, i := openFaulty(t, h, "hang-close")
	wantFailure(t, i.Close(), "head faulty: close", "no answer within 500ms")
	if !gone(p.PID(), time.Second) {
		t.Error("the plugin is still running")
	}
}

// envHostProcess makes the test program a host that is about to be killed.
const envHostProcess = "PLUGHOST_TEST_HOST"

func runHostProcess(dir string) {
	h, err := New(Options{})
	if err != nil {
		panic(err)
	}
	for _, name := range []string{"linear", "faulty", "raw"} {
		p, err := h.Start(context.Background(), filepath.Join(dir, name))
		if err != nil {
			panic(err)
		}
		fmt.Println("pid", p.PID())
		if name == "faulty" {
			i, _, err := p.Open(context.Background(), &sdk.OpenRequest{Stage: "faulty", Settings: map[string]string{"fault": "fork"}})
			if err != nil {
				panic(err)
			}
			if _, err := i.Forward(context.Background(), &sdk.ForwardRequest{Inputs: row4(1)}); err != nil {
				panic(err)
			}
			for _, child := range childPIDs(p) {
				fmt.Println("child", child)
			}
		}
		if name == "raw" { // stopped: it cannot read its lifeline, and has no SDK that would
			_ = unix.Kill(p.PID(), unix.SIGSTOP)
		}
	}
	fmt.Println("ready")
	select {}
}

func TestNoPluginOutlivesAKilledHost(t *testing.T) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), envHostProcess+"="+testBinaries)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var pids, children []int
	for scanner := bufio.NewScanner(out); scanner.Scan() && scanner.Text() != "ready"; {
		what, number, _ := strings.Cut(scanner.Text(), " ")
		pid, err := strconv.Atoi(number)
		if err != nil {
			t.Fatal(err)
		}
		if what == "pid" {
			pids = append(pids, pid)
		} else {
			children = append(children, pid)
		}
	}
	if len(pids) != 3 || len(children) != 2 {
		t.Fatalf("plugins %v, children %v", pids, children)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	for _, pid := range append(pids, children...) {
		if !gone(pid, 3*time.Second) {
			t.Errorf("process %d has outlived its host", pid)
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}
}
