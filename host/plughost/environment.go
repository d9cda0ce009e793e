package plughost

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
)

// passed names the variables of the host's environment that a plugin gets: where to
// find programs and folders, language and time, and which GPUs to use. Nothing else
// passes: no secrets, and no LD_LIBRARY_PATH that would change a plugin's libraries.
var passed = []string{
	"PATH", "HOME", "USER", "TMPDIR", "LANG", "LC_ALL", "LC_CTYPE", "TZ",
	"CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES",
}

// EnvPass names further variables to pass on, separated by commas.
const EnvPass = "ALIGNEDFUSION_PASS_ENV"

// environment builds a plugin's environment.
func environment(threads int, extra []string) []string {
	names := append([]string(nil), passed...)
	for _, name := range strings.Split(os.Getenv(EnvPass), ",") {
		if name = strings.TrimSpace(name); name != "" {
			names = append(names, name)
		}
	}
	var out []string
	for _, name := range names {
		if value, ok := os.LookupEnv(name); ok {
			out = append(out, name+"="+value)
		}
	}
	// Waiting threads of OpenMP and OpenBLAS would spin on the cores that others, of this
	// process or another, need; and a fixed count is what determinism needs.
	out = append(out, "OMP_WAIT_POLICY=passive", "OPENBLAS_THREAD_TIMEOUT=4", "PYTHONUNBUFFERED=1", "PYTHONDONTWRITEBYTECODE=1")
	if threads > 0 {
		for _, name := range []string{"OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"} {
			out = append(out, fmt.Sprintf("%s=%d", name, threads))
		}
	}
	return append(out, extra...)
}

// newCommand makes a plugin the leader of a process group, so that its children end with
// it, and keeps the terminal's Ctrl-C for the host.
func newCommand(command []string, dir string, env []string) *exec.Cmd {
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Dir, cmd.Env = dir, env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return cmd
}
