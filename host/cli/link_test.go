//go:build linux

package cli

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/alignedfusion/alignedfusion/host/fault"
	"github.com/alignedfusion/alignedfusion/host/group"
	"github.com/alignedfusion/alignedfusion/host/runs"
)

// twoMachines are two network namespaces that a cable joins, at 10.213.77.1 and .2; cut pulls
// it out. Only root can make them.
func twoMachines(t *testing.T) (names [2]string, cut func()) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("network namespaces need root")
	}
	ip := func(args ...string) error {
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, out)
		}
		return nil
	}
	for i := range names {
		names[i] = fmt.Sprintf("af%d-%d", os.Getpid(), i)
		if err := ip("netns", "add", names[i]); err != nil {
			t.Skip(err)
		}
		t.Cleanup(func() { _ = ip("netns", "delete", names[i]) })
	}
	ends := [2]string{"left", "right"}
	commands := [][]string{{"-n", names[0], "link", "add", ends[0], "type", "veth", "peer", "name", ends[1], "netns", names[1]}}
	for i, name := range names {
		commands = append(commands, []string{"-n", name, "address", "add", fmt.Sprintf("10.213.77.%d/24", i+1), "dev", ends[i]},
			[]string{"-n", name, "link", "set", ends[i], "up"}, []string{"-n", name, "link", "set", "lo", "up"})
	}
	for _, c := range commands {
		if err := ip(c...); err != nil {
			t.Skip(err)
		}
	}
	return names, func() {
		if err := ip("-n", names[1], "link", "set", ends[1], "down"); err != nil {
			t.Fatal(err)
		}
	}
}

// No packet comes any more, not even one that says so.
func TestACutLinkEndsAllAndIsNamed(t *testing.T) {
	machines, cut := twoMachines(t)
	dir := t.TempDir()
	synthTable(t, dir)
	var ranks [2]*exec.Cmd
	var words [2]*bytes.Buffer
	for i := range ranks {
		cmd, stderr := program(t, dir, append(training20("run", 2, "--trust", "toy"), slow...)...)
		cmd.Env = append(cmd.Env, fmt.Sprintf("RANK=%d", i), "WORLD_SIZE=2", "MASTER_ADDR=10.213.77.1", "MASTER_PORT=29511", group.EnvSilence+"=2s")
		enter, err := exec.LookPath("nsenter")
		if err != nil {
			t.Skip(err)
		}
		cmd.Args = append([]string{enter, "--net=/run/netns/" + machines[i], cmd.Path}, cmd.Args[1:]...)
		cmd.Path = enter
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill() })
		ranks[i], words[i] = cmd, stderr
	}
	waitForStep(t, filepath.Join(dir, "run"), 10)
	cut()
	for i, cmd := range ranks {
		code := exitCodeOf(cmd)
		if text := words[i].String(); code != fault.Plugin.Code() || !strings.Contains(text, fmt.Sprintf("rank %d", 1-i)) || !strings.Contains(text, "no sign of life") {
			t.Errorf("rank %d ended with %d and does not say that the other cannot be reached:\n%s", i, code, text)
		}
	}
	if checkpoint, warnings, err := runs.Latest(filepath.Join(dir, "run")); err != nil || len(warnings) > 0 || checkpoint.State.Step < 8 {
		t.Errorf("%v, %v, %v: want a checkpoint before it", checkpoint, warnings, err)
	}
}
