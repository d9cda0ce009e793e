package runs

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func create(t *testing.T) *Run {
	t.Helper()
	r, err := Create(filepath.Join(t.TempDir(), "a run"))
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Write(ConfigFile, []byte("task: detect\n")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

func writer(content string) func(role, dir string) error {
	return func(role, dir string) error {
		return os.WriteFile(filepath.Join(dir, "weights.safetensors"), []byte(role+content), 0o666)
	}
}

var roles = []string{"encoder", "head"}

func saveSteps(t *testing.T, r *Run, best int, steps ...int) {
	t.Helper()
	for _, s := range steps {
		state := State{Step: s, Epoch: s / 10, Batch: s % 10}
		if best > 0 && s >= best {
			state.Best = Best{Step: best, Metric: "m", Value: 0.5}
		}
		if err := r.Save(state, roles, writer(strings.Repeat("x", s))); err != nil {
			t.Fatal(err)
		}
	}
}

func TestLastTwoAndBestCheckpointsAreKept(t *testing.T) {
	r := create(t)
	saveSteps(t, r, 20, 10, 20, 30, 40, 50)
	steps, err := checkpointSteps(r.Dir)
	if err != nil || !slices.Equal(steps, []int{20, 40, 50}) {
		t.Errorf("kept %v (%v), want 20 40 50", steps, err)
	}
	last, warnings, err := Latest(r.Dir)
	if err != nil || len(warnings) > 0 || last.State.Step != 50 || last.State.Epoch != 5 {
		t.Errorf("latest is %+v, %v, %v", last, warnings, err)
	}
	best, _, err := Find(r.Dir, "best")
	if err != nil || best.State.Step != 20 {
		t.Errorf("best is %+v, %v", best, err)
	}
	data, err := os.ReadFile(filepath.Join(best.StageDir("head"), "weights.safetensors"))
	if err != nil || string(data) != "head"+strings.Repeat("x", 20) {
		t.Errorf("the best head holds %q, %v", data, err)
	}
	if err := os.Remove(filepath.Join(best.StageDir("head"), "weights.safetensors")); err != nil {
		t.Fatal(err)
	}
	if c, warnings, err := Find(r.Dir, "best"); err != nil || c.State.Step != 50 || len(warnings) != 1 {
		t.Errorf("with the best damaged: %+v, %q, %v; want the last and a warning", c, warnings, err)
	}
	if _, _, err := Find(r.Dir, "30"); err == nil || !strings.Contains(err.Error(), "[20 40 50]") {
		t.Errorf("a pruned step: %v; want the steps there are", err)
	}
}

func TestDamagedCheckpointIsDetectedAndThePreviousOneUsed(t *testing.T) {
	weights := func(dir string) string { return filepath.Join(dir, "encoder", "weights.safetensors") }
	for name, damage := range map[string]func(dir string) error{
		"truncated":   func(dir string) error { return os.Truncate(weights(dir), 3) },
		"empty":       func(dir string) error { return os.Truncate(weights(dir), 0) },
		"missing":     func(dir string) error { return os.Remove(weights(dir)) },
		"no manifest": func(dir string) error { return os.Remove(filepath.Join(dir, ManifestFile)) },
		"bit flip": func(dir string) error {
			data, err := os.ReadFile(weights(dir))
			if err != nil {
				return err
			}
			data[4] ^= 1
			return os.WriteFile(weights(dir), data, 0o666)
		},
		"state edited": func(dir string) error {
			path := filepath.Join(dir, ManifestFile)
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			return os.WriteFile(path, bytes.Replace(data, []byte(`"epoch": 2`), []byte(`"epoch": 3`), 1), 0o666)
		},
	} {
		r := create(t)
		saveSteps(t, r, 0, 10, 20)
		dir := checkpointPath(r.Dir, 20)
		if err := damage(dir); err != nil {
			t.Fatal(err)
		}
		if _, err := Verify(dir); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: Verify gives %v", name, err)
		}
		c, warnings, err := Latest(r.Dir)
		if err != nil || c.State.Step != 10 || len(warnings) != 1 {
			t.Errorf("%s: latest is %+v with warnings %q, %v; want step 10 and one warning", name, c, warnings, err)
		}
		saveSteps(t, r, 0, 20) // training goes on over the damaged one
		if c, _, err := Latest(r.Dir); err != nil || c.State.Step != 20 {
			t.Errorf("%s: after saving again the latest is %+v, %v", name, c, err)
		}
	}
}

func TestNoUsableCheckpoint(t *testing.T) {
	r := create(t)
	if _, _, err := Latest(r.Dir + "s"); !errors.Is(err, ErrNotARun) || !strings.Contains(err.Error(), "did you mean") {
		t.Errorf("a folder that is not there: %v", err)
	}
	if _, _, err := Latest(r.Dir); !errors.Is(err, ErrNoCheckpoint) || !strings.Contains(err.Error(), "saved none yet") {
		t.Errorf("none: %v", err)
	}
	saveSteps(t, r, 0, 10, 20)
	if _, _, err := Find(r.Dir, "7"); !errors.Is(err, ErrNoCheckpoint) || !strings.Contains(err.Error(), "step 7; there are [10 20]") {
		t.Errorf("step 7: %v", err)
	}
	for _, step := range []int{10, 20} {
		if err := os.Truncate(filepath.Join(checkpointPath(r.Dir, step), ManifestFile), 5); err != nil {
			t.Fatal(err)
		}
	}
	_, _, err := Latest(r.Dir)
	if !errors.Is(err, ErrNoCheckpoint) || strings.Count(err.Error(), ManifestFile) != 2 || strings.Contains(err.Error(), "the checkpoint before it") {
		t.Errorf("all damaged: %v", err)
	}
}

func TestCheckpointPathsOutsideTheFolderAreRefused(t *testing.T) {
	r := create(t)
	saveSteps(t, r, 0, 1)
	dir := checkpointPath(r.Dir, 1)
	m := checkpointManifest{SchemaVersion: checkpointVersion, Files: map[string]fileRecord{"../../config.yaml": {}}}
	m.SHA256, _ = m.sum()
	if err := (&Run{Dir: dir}).WriteJSON(ManifestFile, m); err != nil {
		t.Fatal(err)
	}
	if _, err := Verify(dir); !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), "outside") {
		t.Error(err)
	}
}

func TestFailedSaveLeavesTheOldCheckpointAndNoLeftovers(t *testing.T) {
	r := create(t)
	saveSteps(t, r, 0, 10)
	err := r.Save(State{Step: 20}, roles, func(role, dir string) error {
		if role == "head" {
			return errors.New("head a3d: save: rpc error: write weights: No space left on device")
		}
		return writer("")(role, dir)
	})
	if !errors.Is(err, ErrNoSpace) {
		t.Errorf("%v; want ErrNoSpace", err)
	}
	entries, err := os.ReadDir(r.Path(checkpointDir))
	if err != nil || len(entries) != 1 || entries[0].Name() != "step-10" {
		t.Errorf("checkpoints hold %v, %v", entries, err)
	}
}

// A plugin's error comes as text.
func TestLimitsOfThePluginAreKnownByTheirText(t *testing.T) {
	r := create(t)
	saveSteps(t, r, 0, 10)
	for text, want := range map[string]error{
		"plugin a3d: save: write w: file too large":             ErrFileLimit,
		"plugin a3d: save: write w: No space left on device":    ErrNoSpace,
		"plugin a3d: save: write w: disk quota exceeded":        ErrNoSpace,
		"plugin a3d: save: tensor too large for a file of this": nil,
	} {
		err := r.Save(State{Step: 20}, []string{"encoder"}, func(string, string) error { return errors.New(text) })
		if errors.Is(err, ErrFileLimit) != (want == ErrFileLimit) || errors.Is(err, ErrNoSpace) != (want == ErrNoSpace) || err == nil {
			t.Errorf("%q gives %v, want %v", text, err, want)
		}
	}
	if c, _, err := Latest(r.Dir); err != nil || c.State.Step != 10 {
		t.Errorf("the old checkpoint: %+v, %v", c, err)
	}
}

func TestSecondHostIsRefused(t *testing.T) {
	r := create(t)
	if _, err := Open(r.Dir); !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), "process ") {
		t.Errorf("%v; want ErrLocked with the holder", err)
	}
	if _, err := Create(r.Dir); !errors.Is(err, ErrLocked) {
		t.Errorf("%v; want ErrLocked", err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Create(r.Dir); !errors.Is(err, ErrExists) {
		t.Errorf("%v; want ErrExists", err)
	}
	again, err := Open(r.Dir)
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
	if _, err := Open(t.TempDir()); !errors.Is(err, ErrNotARun) {
		t.Errorf("%v; want ErrNotARun", err)
	}
}

func TestOpenRemovesWhatAnInterruptedSaveLeft(t *testing.T) {
	r := create(t)
	saveSteps(t, r, 0, 10)
	left := checkpointPath(r.Dir, 20) + ".tmp"
	if err := os.MkdirAll(filepath.Join(left, "encoder"), 0o777); err != nil {
		t.Fatal(err)
	}
	r.Close()
	again, err := Open(r.Dir)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if _, err := os.Stat(left); !os.IsNotExist(err) {
		t.Errorf("%s is still there", left)
	}
}

func TestRewindMetricsDropsLaterStepsAndAHalfLine(t *testing.T) {
	r := create(t)
	loss := 0.25
	for step := 1; step <= 5; step++ {
		if err := r.Append(Record{Kind: "step", Step: step, Epoch: 1, Loss: &loss, Losses: map[string]float64{"a": 0.1}}); err != nil {
			t.Fatal(err)
		}
	}
	f, err := os.OpenFile(r.Path(MetricsFile), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(`{"kind":"step","step":6,"ep`); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if err := r.RewindMetrics(State{Step: 3}); err != nil {
		t.Fatal(err)
	}
	if err := r.Append(Record{Kind: "step", Step: 4, Epoch: 1}); err != nil {
		t.Fatal(err)
	}
	records, err := ReadMetrics(r.Dir)
	if err != nil {
		t.Fatal(err)
	}
	var steps []int
	for _, rec := range records {
		steps = append(steps, rec.Step)
	}
	if !slices.Equal(steps, []int{1, 2, 3, 4}) || *records[2].Loss != loss {
		t.Errorf("steps %v", steps)
	}
}

// A folder that holds something else is not made a run; one whose creation was
// interrupted is.
func TestCreateLeavesOtherFoldersAlone(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "thesis.tex"), nil, 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := Create(dir); !errors.Is(err, ErrNotEmpty) || !strings.Contains(err.Error(), "thesis.tex") {
		t.Errorf("%v; want ErrNotEmpty naming the file", err)
	}
	if _, err := os.Stat(filepath.Join(dir, lockFile)); err == nil {
		t.Error("a lock was left in the folder")
	}
	interrupted := filepath.Join(t.TempDir(), "run")
	for range 2 {
		r, err := Create(interrupted)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(interrupted, ManifestFile), []byte("{}"), 0o666); err != nil {
			t.Fatal(err)
		}
		r.Close()
	}
}
