//go:build linux

package plughost

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/serve"
)

// A plugin under a debugger serves several hosts one after the other and is not ended
// by them.
func TestReattachToARunningPlugin(t *testing.T) {
	cmd := exec.Command(filepath.Join(testBinaries, "linear"), serve.DebugFlag)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	setting, ok := strings.CutPrefix(strings.TrimSpace(line), "export "+serve.EnvReattach+"=")
	if !ok {
		t.Fatalf("it printed %q", line)
	}
	t.Setenv(serve.EnvReattach, strings.Trim(setting, "'"))
	for range 2 {
		h := newHost(t, Options{CallTimeout: time.Nanosecond}) // no call of a debugged plugin is late
		p, err := h.Start(t.Context(), "linear")
		if err != nil {
			t.Fatal(err)
		}
		if again, err := h.Start(t.Context(), "linear"); err != nil || again != p || p.PID() != cmd.Process.Pid {
			t.Errorf("a second start gave another plugin (error %v)", err)
		}
		i := openLinear(t, p, nil)
		if _, err := i.Forward(t.Context(), &sdk.ForwardRequest{Inputs: row(1000)}); err != nil {
			t.Fatal(err)
		}
		if err := i.Close(); err != nil {
			t.Error(err)
		}
		if err := h.Close(); err != nil {
			t.Error(err)
		}
		if gone(cmd.Process.Pid, 100*time.Millisecond) {
			t.Fatal("the host has ended a plugin it did not start")
		}
	}
	if err := cmd.Process.Signal(unix.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("it ended with %v", err)
	}
	t.Setenv(serve.EnvReattach, "nonsense")
	if _, err := newHost(t, Options{}).Start(t.Context(), "linear"); err == nil || !strings.Contains(err.Error(), serve.EnvReattach) {
		t.Errorf("error is %v", err)
	}
}
