package cli

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/alignedfusion/alignedfusion/host/fault"
	"github.com/alignedfusion/alignedfusion/host/runs"
	"github.com/alignedfusion/alignedfusion/sdk/plugintest/toy"
)

// toyPlugins builds the plugins without torch, once. The program tells by its name what it
// is.
var toyPlugins = sync.OnceValues(func() (string, error) {
	program, err := exec.LookPath("alignedfusion") // in a folder that testscript.Main removes
	if err != nil {
		return "", err
	}
	dir := filepath.Join(filepath.Dir(program), "toys")
	return dir, toy.Build(dir, "toy", "misfit", "forgetful", "linear", "faulty", "raw", "broken", "old")
})

// TestTrainScripts runs testdata/train/*.txtar with the toy plugins.
func TestTrainScripts(t *testing.T) {
	plugins, err := toyPlugins()
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir:  "testdata/train",
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exitcode": exitCode, "flipbyte": flipByte},
		Setup: func(e *testscript.Env) error {
			e.Setenv("XDG_DATA_HOME", e.WorkDir+"/data")
			scans, err := filepath.Abs("../dataset/importer/testdata/dicom")
			if err != nil {
				return err
			}
			e.Setenv("SCANS", scans)
			e.Setenv("ALIGNEDFUSION_PLUGIN_DIR", "")
			e.Setenv("TOY", plugins)
			return nil
		},
	})
}

// flipByte changes one bit of a file: flipbyte FILE.
func flipByte(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: flipbyte FILE")
	}
	path := ts.MkAbs(args[0])
	data, err := os.ReadFile(path)
	ts.Check(err)
	data[len(data)/2] ^= 1
	ts.Check(os.WriteFile(path, data, 0o666))
}

// program runs the test binary as alignedfusion.
func program(t *testing.T, dir string, args ...string) (*exec.Cmd, *bytes.Buffer) {
	t.Helper()
	plugins, err := toyPlugins()
	if err != nil {
		t.Fatal(err)
	}
	path, err := exec.LookPath("alignedfusion") // testscript.Main has put it there
	if err != nil {
		t.Fatal(err)
	}
	if args[0] == "train" || args[0] == "predict" {
		args = slices.Insert(slices.Clone(args), 1, "--plugin-dir", plugins)
	}
	cmd := exec.Command(path, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "XDG_DATA_HOME="+dir)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	return cmd, &stderr
}

func mustRun(t *testing.T, dir string, args ...string) {
	t.Helper()
	cmd, stderr := program(t, dir, args...)
	if err := cmd.Run(); err != nil {
		t.Fatalf("%q: %v\n%s", args, err, stderr)
	}
}

// slowTraining is 4 epochs of 5 steps with a second's pause in the 11th, so that a
// signal meets a training under way.
func slowTraining(out string, pause bool) []string {
	args := []string{"train", "--task", "classify", "--data", "table:data/data.csv", "--encoder", "toy", "--fusion", "toy", "--head", "toy",
		"--epochs", "4", "--seed", "3", "--set", "data.size=32", "--set", "train.batch_size=4", "--set", "train.optimizer=sgd", "--set", "train.lr=0.1",
		"--set", "train.checkpoint_every=2", "--out", out}
	if pause {
		args = append(args, "--set", "encoder.fault=slow", "--set", "encoder.fault_call=11", "--set", "encoder.fault_count=2")
	}
	return args
}

func synthTable(t *testing.T, dir string) {
	t.Helper()
	mustRun(t, dir, "data", "synth", "--layout", "table", "--out", "data", "--patients", "30", "--size", "32", "--seed", "5")
}

// steps are the loss lines of a run and the bytes of its last checkpoint's weights.
func steps(t *testing.T, run string) (losses []string, weights []byte) {
	t.Helper()
	records, err := runs.ReadMetrics(run)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range records {
		if r.Kind == "step" {
			losses = append(losses, fmt.Sprintf("%d %x %x", r.Step, *r.Loss, r.GradNorm))
		}
	}
	c, _, err := runs.Latest(run)
	if err != nil {
		t.Fatal(err)
	}
	for _, role := range []string{"encoder", "fusion", "head"} {
		for _, name := range []string{"weights.safetensors", "optimizer.safetensors"} {
			data, err := os.ReadFile(filepath.Join(c.StageDir(role), name))
			if err != nil {
				t.Fatal(err)
			}
			weights = append(weights, data...)
		}
	}
	return losses, weights
}

func waitForStep(t *testing.T, run string, step int) {
	t.Helper()
	for range 600 {
		records, err := runs.ReadMetrics(run)
		if err == nil && len(records) > 0 && records[len(records)-1].Step >= step {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Fatalf("%s did not reach step %d", run, step)
}

// pluginsAlive counts the processes that run what a host has copied into its private folder:
// its plugins, whose folder bears the host's number.
func pluginsAlive(t *testing.T, host int) (n int) {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		exe, err := os.Readlink(filepath.Join("/proc", e.Name(), "exe"))
		if err == nil && strings.Contains(exe, fmt.Sprintf("/af-%d-", host)) {
			n++
		}
	}
	return n
}

// Train 20 = train some, kill -9, resume: equal losses and weights, bit for bit. No
// plugin outlives its host.
func TestKilledTrainingResumesToTheSameWeights(t *testing.T) {
	dir := t.TempDir()
	synthTable(t, dir)
	mustRun(t, dir, slowTraining("whole", false)...)
	cmd, _ := program(t, dir, slowTraining("cut", true)...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	waitForStep(t, filepath.Join(dir, "cut"), 10)
	if pluginsAlive(t, cmd.Process.Pid) == 0 {
		t.Error("no plugins seen while the training runs")
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	for range 150 {
		if pluginsAlive(t, cmd.Process.Pid) == 0 {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if n := pluginsAlive(t, cmd.Process.Pid); n > 0 {
		t.Errorf("%d plugins outlived their host by 3 s", n)
	}
	c, _, err := runs.Latest(filepath.Join(dir, "cut"))
	if err != nil || c.State.Step >= 20 {
		t.Fatalf("the run was not cut off: %+v, %v", c, err)
	}
	mustRun(t, dir, "train", "--resume", "--out", "cut")
	wantLosses, wantWeights := steps(t, filepath.Join(dir, "whole"))
	losses, weights := steps(t, filepath.Join(dir, "cut"))
	if len(wantLosses) != 20 || !slices.Equal(wantLosses, losses) {
		t.Errorf("losses differ:\n%s\nwhole:\n%s", strings.Join(losses, "\n"), strings.Join(wantLosses, "\n"))
	}
	if !bytes.Equal(wantWeights, weights) {
		t.Error("weights differ")
	}
}

func TestSignalEndsTrainingAfterTheStepWithACheckpoint(t *testing.T) {
	dir := t.TempDir()
	synthTable(t, dir)
	for signal, code := range map[syscall.Signal]int{syscall.SIGTERM: fault.Requeue, syscall.SIGINT: 130} {
		out := fmt.Sprintf("run%d", code)
		cmd, stderr := program(t, dir, slowTraining(out, true)...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		waitForStep(t, filepath.Join(dir, out), 10)

		// A second host on the run is refused.
		second, secondErr := program(t, dir, "train", "--resume", "--out", out)
		var exit *exec.ExitError
		if err := second.Run(); !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.Contains(secondErr.String(), "another process is using the run (process ") {
			t.Errorf("second host: %v\n%s", err, secondErr)
		}

		if err := cmd.Process.Signal(signal); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != code {
			t.Errorf("%v: %v, want exit code %d\n%s", signal, err, code, stderr)
		}
		run := filepath.Join(dir, out)
		records, err := runs.ReadMetrics(run)
		if err != nil {
			t.Fatal(err)
		}
		c, _, err := runs.Latest(run)
		if err != nil || c.State.Step != records[len(records)-1].Step || c.State.Step >= 20 {
			t.Errorf("%v: checkpoint %+v (%v) after step %d", signal, c, err, records[len(records)-1].Step)
		}
		if m, err := runs.ReadManifest(run); err != nil || m.Status != "stopped" {
			t.Errorf("%v: manifest %+v, %v", signal, m, err)
		}
	}
}

// A plugin that dies in a validation costs nothing: the checkpoint of its epoch stands,
// and continued the run is the uninterrupted one.
func TestPluginThatDiesInValidationLosesNothing(t *testing.T) {
	dir := t.TempDir()
	synthTable(t, dir)
	mustRun(t, dir, slowTraining("whole", false)...)
	// Every process dies in its second batch of validation; a validation has one or more.
	cmd, stderr := program(t, dir, append(slowTraining("cut", false), "--set", "encoder.fault=crash-validation", "--set", "encoder.fault_call=2")...)
	tries := 0
	for ; cmd.Run() != nil; tries++ {
		c, _, err := runs.Latest(filepath.Join(dir, "cut"))
		// In the end it dies once more while the reconstruction is calibrated.
		if err != nil || !c.State.Unvalidated && c.State.Step < 20 || c.State.Step%5 != 0 || tries > 9 {
			t.Fatalf("try %d: checkpoint %+v, %v; want the end of an epoch, to be validated\n%s", tries, c, err, stderr)
		}
		cmd, stderr = program(t, dir, "train", "--resume", "--out", "cut")
	}
	if tries < 2 {
		t.Errorf("died %d times, want 2 or more", tries)
	}
	wantLosses, wantWeights := steps(t, filepath.Join(dir, "whole"))
	losses, weights := steps(t, filepath.Join(dir, "cut"))
	if !slices.Equal(wantLosses, losses) || !bytes.Equal(wantWeights, weights) {
		t.Error("losses or weights differ from those of the uninterrupted run")
	}
	whole, _, _ := runs.Latest(filepath.Join(dir, "whole"))
	cut, _, _ := runs.Latest(filepath.Join(dir, "cut"))
	if cut.State != whole.State {
		t.Errorf("state %+v, uninterrupted %+v", cut.State, whole.State)
	}
}

// Ctrl-C in a validation ends it within a batch, and the command it prints goes on.
func TestSignalEndsValidationAndNamesTheCommandThatGoesOn(t *testing.T) {
	dir := t.TempDir()
	synthTable(t, dir)
	out := filepath.Join(dir, "my run")
	cmd, stderr := program(t, dir, append(slowTraining(out, false), "--set", "encoder.fault=slow-validation", "--set", "encoder.fault_call=1", "--set", "encoder.fault_count=4",
		"--set", "data.predict_batch=1")...) // a signal in the last batch would find the validation done
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	waitForStep(t, out, 5)
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 130 {
		t.Fatalf("%v, want exit code 130\n%s", err, stderr)
	}
	c, _, err := runs.Latest(out)
	if err != nil || c.State.Step != 5 || !c.State.Unvalidated {
		t.Errorf("checkpoint %+v, %v; want step 5, to be validated", c, err)
	}
	_, command, found := strings.Cut(stderr.String(), "continue with: ")
	if !found {
		t.Fatalf("no command in:\n%s", stderr)
	}
	again := exec.Command("sh", "-c", command)
	again.Dir, again.Env = t.TempDir(), cmd.Env
	if text, err := again.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", command, err, text)
	}
	if m, err := runs.ReadManifest(out); err != nil || m.Status != "done" || m.Resumed != 1 {
		t.Errorf("%+v, %v", m, err)
	}
}

// Ctrl-C in a study leaves what is finished, and the command it prints goes on.
func TestSignalNamesTheCommandThatGoesOnWithAStudy(t *testing.T) {
	dir := t.TempDir()
	synthTable(t, dir)
	plugins, err := toyPlugins()
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "my study")
	cmd, stderr := program(t, dir, "study", "missing", "--plugin-dir", plugins, "--data", "table:"+filepath.Join(dir, "data", "data.csv"), "--encoder", "toy", "--head", "toy",
		"--methods", "none", "--seeds", "1", "--rates", "0", "--epochs", "4", "--bootstrap", "20", "--set", "data.size=32", "--set", "train.batch_size=4",
		"--set", "encoder.fault=slow", "--set", "encoder.fault_call=11", "--set", "encoder.fault_count=2", "--again", "--out", out)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	waitForStep(t, filepath.Join(out, "runs", "none_tr0_s1"), 10)
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 130 {
		t.Fatalf("%v, want exit code 130\n%s", err, stderr)
	}
	_, command, found := strings.Cut(stderr.String(), "continue with: ")
	if !found || strings.Contains(command, "--again") {
		t.Fatalf("no command, or one that begins anew, in:\n%s", stderr)
	}
	again := exec.Command("sh", "-c", command)
	again.Dir, again.Env = dir, cmd.Env
	if text, err := again.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", command, err, text)
	}
	if m, err := runs.ReadManifest(filepath.Join(out, "runs", "none_tr0_s1")); err != nil || m.Status != "done" || m.Resumed != 1 {
		t.Errorf("%+v, %v", m, err)
	}
}
