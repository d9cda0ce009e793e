//go:build !linux

package plughost

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"

	"github.com/alignedfusion/alignedfusion/host/fault"
)

// IsolationSupport says that there is none: limits of another process, namespaces and
// Landlock are Linux's.
func IsolationSupport(context.Context) []Support {
	detail := "not on " + runtime.GOOS
	return []Support{{"resource limits", false, detail}, {"no network", false, detail}, {"read-only files", false, detail}, {"own processes", false, detail}}
}

// runsNothing is not asked here.
func runsNothing(string) bool { return false }

// hide does nothing here.
func hide() {}

// start starts cmd, unless a limit was asked for.
func (i Isolation) start(cmd *exec.Cmd, _ []string, _ int) (*inside, error) {
	if runtime.GOOS == "windows" {
		return nil, fault.Errorf(fault.Usage, "plugins run on Linux and macOS: on Windows start alignedfusion inside WSL (wsl --install); "+
			"evaluation, data checks and attributes work here")
	}
	if (i != Isolation{Trusted: i.Trusted}) {
		return nil, fmt.Errorf("%w on %s: start without --plugin-memory-mib, --plugin-cpu-seconds, --plugin-no-network and --plugin-read-only", ErrIsolation, runtime.GOOS)
	}
	return &inside{cmd: cmd, missing: []string{"isolation (there is none on " + runtime.GOOS + ")"}}, cmd.Start()
}

func (p *inside) ended() syscall.WaitStatus {
	status, _ := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	return status
}

func (p *inside) pid() int { return p.cmd.Process.Pid }

// armLifeline has no help of this kernel: the plugin's SDK reads the pipe.
func armLifeline(*os.File, int) {}
