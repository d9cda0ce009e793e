//go:build unix

package cli

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/alignedfusion/alignedfusion/host/fault"
	"github.com/alignedfusion/alignedfusion/host/group"
	"github.com/alignedfusion/alignedfusion/host/runs"
	"github.com/alignedfusion/alignedfusion/sdk/safetensors"
)

// training20 is 20 steps with 4 cases each, of that many processes together.
func training20(out string, processes int, more ...string) []string {
	args := slowTraining(out, false)
	for i, word := range args {
		if word == "train.batch_size=4" {
			args[i] = fmt.Sprintf("train.batch_size=%d", 4/processes)
		}
	}
	return append(args, more...)
}

// lastWeights are those of a run's last checkpoint, by role and name.
func lastWeights(t *testing.T, run string) map[string][]float64 {
	t.Helper()
	c, _, err := runs.Latest(run)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][]float64{}
	for _, role := range []string{"encoder", "head"} {
		f, err := safetensors.Open(filepath.Join(c.StageDir(role), "weights.safetensors"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		for _, name := range f.Names() {
			values, err := f.Tensor(name)
			if err != nil {
				t.Fatal(err)
			}
			if out[role+"."+name], err = values.Float64s(); err != nil {
				t.Fatal(err)
			}
		}
	}
	return out
}

// records of a run's steps and validations.
func records(t *testing.T, run string) []runs.Record {
	t.Helper()
	all, err := runs.ReadMetrics(run)
	if err != nil || len(all) == 0 {
		t.Fatalf("%v, %d records", err, len(all))
	}
	return all
}

func TestTwoProcessesTrainAsOneWithBothBatches(t *testing.T) {
	dir := t.TempDir()
	synthTable(t, dir)
	// Without noise, and without a fusion, whose loss is a mean over what reports mention.
	mustRun(t, dir, training20("one", 1, "--fusion", "none", "--set", "encoder.noise=0")...)
	mustRun(t, dir, training20("two", 2, "--fusion", "none", "--set", "encoder.noise=0", "--nproc", "2")...)
	one, two := records(t, filepath.Join(dir, "one")), records(t, filepath.Join(dir, "two"))
	if len(one) != len(two) {
		t.Fatalf("%d and %d lines of metrics", len(one), len(two))
	}
	if text, err := os.ReadFile(filepath.Join(dir, "two", runs.ManifestFile)); err != nil || !strings.Contains(string(text), "2 processes train together; gradients are averaged by rank 0 of the toy") {
		t.Errorf("%v: the run does not say what averages: %s", err, text)
	}
	for i, r := range one {
		if other := two[i]; r.Kind == "step" && (math.Abs(*r.Loss-*other.Loss) > 1e-6 || math.Abs(r.GradNorm-other.GradNorm) > 1e-6) {
			t.Errorf("step %d: loss %g and norm %g, of two processes %g and %g", r.Step, *r.Loss, r.GradNorm, *other.Loss, other.GradNorm)
		}
		for name, v := range r.Metrics {
			if math.Abs(v-two[i].Metrics[name]) > 1e-6 {
				t.Errorf("%s %d: %s is %g, of two processes %g", r.Kind, r.Step, name, v, two[i].Metrics[name])
			}
		}
	}
	other := lastWeights(t, filepath.Join(dir, "two"))
	for name, values := range lastWeights(t, filepath.Join(dir, "one")) {
		for i, v := range values {
			if math.Abs(v-other[name][i]) > 1e-6 {
				t.Fatalf("%s[%d] is %g, of two processes %g", name, i, v, other[name][i])
			}
		}
	}
}

// rank is a process of a group of two, as torchrun would start it.
func rank(t *testing.T, dir string, number, port int, more ...string) (*exec.Cmd, *bytes.Buffer) {
	t.Helper()
	cmd, stderr := program(t, dir, append(training20("run", 2, "--trust", "toy"), more...)...)
	cmd.Env = append(cmd.Env, fmt.Sprintf("RANK=%d", number), "WORLD_SIZE=2", "MASTER_ADDR=127.0.0.1", fmt.Sprintf("MASTER_PORT=%d", port),
		group.EnvSilence+"=1s")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	return cmd, stderr
}

// twoRanks are both processes of a group, once they have trained ten steps; words is what rank 0
// says.
func twoRanks(t *testing.T, dir string) (zero, one *exec.Cmd, words *bytes.Buffer) {
	t.Helper()
	port, err := group.FreePort("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	zero, words = rank(t, dir, 0, port, slow...)
	one, _ = rank(t, dir, 1, port, slow...)
	waitForStep(t, filepath.Join(dir, "run"), 10)
	return zero, one, words
}

// plugin is the process of a host's plugin.
func plugin(t *testing.T, host int) int {
	t.Helper()
	found, err := filepath.Glob("/proc/[0-9]*/exe")
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range found {
		if exe, err := os.Readlink(link); err == nil && strings.Contains(exe, fmt.Sprintf("/af-%d-", host)) {
			var pid int
			if _, err := fmt.Sscanf(link, "/proc/%d/exe", &pid); err == nil {
				return pid
			}
		}
	}
	t.Skip("this system does not list the processes")
	return 0
}

func exitCodeOf(cmd *exec.Cmd) int {
	_ = cmd.Wait()
	return cmd.ProcessState.ExitCode()
}

// slow makes step 11 last 2 seconds, so that what is done to a process meets the training.
var slow = []string{"--set", "encoder.fault=slow", "--set", "encoder.fault_call=11", "--set", "encoder.fault_count=2"}

func TestADeadOrHungProcessEndsAllAndIsNamed(t *testing.T) {
	for name, c := range map[string]struct {
		plugin bool
		signal syscall.Signal
		want   string
	}{
		"plugin killed":  {true, syscall.SIGKILL, "killed"},
		"plugin stopped": {true, syscall.SIGSTOP, "no sign of life"},
		"host killed":    {false, syscall.SIGKILL, "gone without a word"},
		"host stopped":   {false, syscall.SIGSTOP, "no sign of life"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			synthTable(t, dir)
			zero, one, words := twoRanks(t, dir)
			pid := one.Process.Pid
			if c.plugin {
				pid = plugin(t, pid)
			}
			began := time.Now()
			if err := syscall.Kill(pid, c.signal); err != nil {
				t.Fatal(err)
			}
			if code := exitCodeOf(zero); code != fault.Plugin.Code() {
				t.Errorf("rank 0 ended with %d\n%s", code, words)
			}
			if text := words.String(); !strings.Contains(text, "rank 1 (process "+fmt.Sprint(one.Process.Pid)) || !strings.Contains(text, c.want) {
				t.Errorf("rank 0 says after %v:\n%s", time.Since(began), text)
			}
			if !c.plugin {
				_ = one.Process.Kill()
			} else if code := exitCodeOf(one); code != fault.Plugin.Code() {
				t.Errorf("rank 1 ended with %d", code)
			}
			if checkpoint, warnings, err := runs.Latest(filepath.Join(dir, "run")); err != nil || len(warnings) > 0 || checkpoint.State.Step < 8 {
				t.Errorf("%v, %v, %v: want a checkpoint before it", checkpoint, warnings, err)
			}
		})
	}
}

// A signal to one process stops all after the same step, and another number goes on.
func TestASignalToOneProcessStopsAllAndAnotherNumberGoesOn(t *testing.T) {
	dir := t.TempDir()
	synthTable(t, dir)
	zero, one, words := twoRanks(t, dir)
	if err := one.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if a, b := exitCodeOf(zero), exitCodeOf(one); a != fault.Requeue || b != fault.Requeue {
		t.Fatalf("exit codes %d and %d, want %d\n%s", a, b, fault.Requeue, words)
	}
	mustRun(t, dir, "train", "--resume", "--out", "run", "--nproc", "1")
	c, _, err := runs.Latest(filepath.Join(dir, "run"))
	if err != nil {
		t.Fatal(err)
	}
	// 10 or 11 of 20 steps were taken by two processes; one needs two for each that was left.
	if s := c.State; s.Epoch != 4 || s.Batch != 0 || s.Ranks != 0 || s.Step < 27 || s.Step > 31 {
		t.Errorf("the run ended at %+v", s)
	}
}
