package plughost

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"

	"github.com/alignedfusion/alignedfusion/internal/process"
)

// passed names the variables of the host's environment that a plugin gets, families by
// their beginning: where to find programs, libraries and folders, language and time, and
// what libtorch, its mathematics, GPUs and cluster jobs are told by. Nothing else passes:
// no secrets, and nothing that loads code into every program (LD_PRELOAD).
var passed = []string{
	"PATH", "HOME", "USER", "TMPDIR", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "LD_LIBRARY_PATH", "LIBTORCH",
	"CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "CUDA_LAUNCH_BLOCKING", "CUDA_MODULE_LOADING", "CUBLAS_WORKSPACE_CONFIG",
	"HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "MALLOC_*", "TORCH_*", "PYTORCH_*", "NVIDIA_*", "OMP_*", "GOMP_*", "KMP_*",
	"OPENBLAS_*", "MKL_*", "ONEDNN_*", "DNNL_*", "SLURM_*",
}

// isPassed reports whether a variable is in a list of names and families.
func isPassed(name string, list []string) bool {
	return slices.ContainsFunc(list, func(p string) bool {
		family, found := strings.CutSuffix(p, "*")
		return name == p || found && strings.HasPrefix(name, family)
	})
}

// EnvPass names further variables to pass on, separated by commas; NAME* is a family.
const EnvPass = "ALIGNEDFUSION_PASS_ENV"

// environment builds a plugin's environment.
func environment(threads int, extra []string) []string {
	list := slices.Clone(passed)
	for name := range strings.SplitSeq(os.Getenv(EnvPass), ",") {
		list = append(list, strings.TrimSpace(name))
	}
	// Waiting threads of OpenMP and OpenBLAS would spin on the cores that others, of this
	// process or another, need. The user's own word, which follows, counts.
	out := []string{"OMP_WAIT_POLICY=passive", "OPENBLAS_THREAD_TIMEOUT=4", "PYTHONUNBUFFERED=1", "PYTHONDONTWRITEBYTECODE=1"}
	for _, variable := range os.Environ() {
		if name, _, _ := strings.Cut(variable, "="); isPassed(name, list) {
			out = append(out, variable)
		}
	}
	// A fixed count is what determinism needs.
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
	cmd.SysProcAttr = process.Leader()
	return cmd
}
