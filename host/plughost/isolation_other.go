//go:build !linux

package plughost

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"

	"github.com/alignedfusion/alignedfusion/host/fault"
)

// IsolationSupport says that there is none: limits of another process, namespaces and
// Landlock are Linux's.
func IsolationSupport(context.Context) []Support {
	detail := "not on " + runtime.GOOS
	return []Support{{"resource limits", false, detail}, {"no network", false, detail}, {"read-only files", false, detail}}
}

// start starts cmd, unless a limit was asked for.
func (i Isolation) start(cmd *exec.Cmd, _ []string) error {
	if runtime.GOOS == "windows" {
		return fault.Errorf(fault.Usage, "plugins run on Linux and macOS: on Windows start alignedfusion inside WSL (wsl --install); "+
			"evaluation, data checks and attributes work here")
	}
	if i != (Isolation{}) {
		return fmt.Errorf("%w on %s: start without --plugin-memory-mib, --plugin-cpu-seconds, --plugin-no-network and --plugin-read-only", ErrIsolation, runtime.GOOS)
	}
	return cmd.Start()
}

// armLifeline has no help of this kernel: the plugin's SDK reads the pipe.
func armLifeline(*os.File, int) {}
