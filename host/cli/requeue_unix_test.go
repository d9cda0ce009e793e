//go:build unix

package cli

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/alignedfusion/alignedfusion/host/fault"
)

// A scheduler's signal goes to every process of a job: the host finishes its step, writes a
// checkpoint and asks to be queued again, and the run that went on is the uninterrupted one.
func TestSchedulersSignalGivesTheWholesWeightsAfterRequeue(t *testing.T) {
	dir := t.TempDir()
	synthTable(t, dir)
	mustRun(t, dir, slowTraining("whole", false)...)
	cmd, stderr := program(t, dir, append(slowTraining("cut", true), "--trust", "toy")...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	waitForStep(t, filepath.Join(dir, "cut"), 10)
	// Any thread may have started them.
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", cmd.Process.Pid))
	if err != nil || len(lists) == 0 {
		t.Skipf("this system does not list the children of a process: %v", err)
	}
	pids := []int{cmd.Process.Pid}
	for _, list := range lists {
		text, err := os.ReadFile(list)
		for _, word := range strings.Fields(string(text)) {
			pid, wrong := strconv.Atoi(word)
			if err = errors.Join(err, wrong); err == nil {
				pids = append(pids, pid)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if len(pids) < 2 {
		t.Fatal("no plugin is alive")
	}
	for _, pid := range pids {
		if err := syscall.Kill(pid, syscall.SIGUSR1); err != nil {
			t.Fatal(err)
		}
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != fault.Requeue {
		t.Fatalf("%v, want exit code %d\n%s", err, fault.Requeue, stderr)
	}
	mustRun(t, dir, "train", "--resume", "--out", "cut")
	wantLosses, wantWeights := steps(t, filepath.Join(dir, "whole"))
	losses, weights := steps(t, filepath.Join(dir, "cut"))
	if !slices.Equal(wantLosses, losses) || !bytes.Equal(wantWeights, weights) {
		t.Error("losses or weights differ from those of the uninterrupted run")
	}
}
