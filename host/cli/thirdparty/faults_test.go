package thirdparty

import (
	"bytes"
	"errors"
	"os/exec"
	"strings"
	"testing"
)

// What a stranger's Python may do: the host names the plugin and the reason, ends with
// its exit code, and leaves no process behind, children in sessions of their own included.
func TestFaultsOfAPythonPlugin(t *testing.T) {
	t.Parallel()
	needPython(t)
	for _, test := range []struct {
		fault string
		flags []string
		code  int
		says  string
	}{
		{fault: "none", code: 0},
		{fault: "fork", code: 0},
		{fault: "stderr", code: 0},
		{fault: "segfault", code: 4, says: `the process was killed by signal "segmentation fault"`},
		{fault: "exit", code: 4, says: "the process ended with exit code 7"},
		{fault: "exception", code: 4, says: "RuntimeError: a bug in the stage"},
		{fault: "shape", code: 4, says: `"y" is FP32 [3], want FP32 [100 400]`},
		{fault: "nan", code: 4, says: `output "y" is NaN at 0 for finite inputs`},
		{fault: "boxes", code: 4, says: `"boxes" is FP32 [1000000 4], want at most 100000 rows`},
		{fault: "past-slot", code: 4, says: "bytes of shared memory it was lent"},
		{fault: "hang", flags: []string{"--call-timeout", "8s"}, code: 4, says: "no answer within 8s"},
		// torch reports the limit in words: a lack of memory, not a broken plugin.
		{fault: "memory", flags: []string{"--plugin-memory-mib", "2048"}, code: 5, says: "can't allocate memory"},
	} {
		t.Run(test.fault, func(t *testing.T) {
			t.Parallel()
			dir := pythonPlugin(t, "testdata/faulty") // of its own: what is left running stands there
			args := append([]string{"stage", "bench", "--plugin", dir, "--set", "fault=" + test.fault, "--shape", "x=100x400",
				"--warmup", "0", "--steps", "1"}, test.flags...)
			cmd := exec.Command("alignedfusion", args...)
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			err := cmd.Run()
			var exit *exec.ExitError
			if err != nil && !errors.As(err, &exit) {
				t.Fatal(err)
			}
			if got := cmd.ProcessState.ExitCode(); got != test.code {
				t.Errorf("exit code %d, want %d\n%s", got, test.code, &stderr)
			}
			if test.says != "" && (!strings.Contains(stderr.String(), "plugin faulty: head faulty: forward: ") || !strings.Contains(stderr.String(), test.says)) {
				t.Errorf("it said %q, want plugin, stage, call and %q", &stderr, test.says)
			}
			if left := runningIn(t, dir); len(left) > 0 {
				t.Errorf("left running: %q", left)
			}
		})
	}
}
