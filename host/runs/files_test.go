package runs

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

func manifestFile(t *testing.T, content string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, ManifestFile), []byte(content), 0o666); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestManifestIsReadBackAsItWasWritten(t *testing.T) {
	r := create(t)
	want := Manifest{SchemaVersion: ManifestVersion, Program: "p", Version: "0.2.0", Task: "detect", Seed: 1 << 63, Threads: 3, Device: "cpu",
		DataSpec: "boxes:/x", DataSHA256: "ab", Attributes: []string{"age"}, Plugins: []PluginRecord{{Role: "head", SHA256: "cd", Parameters: 7, Trainable: 5}},
		StartedAt: Now(), Status: "running", Notes: []string{"n"}, Warnings: []string{"w"}}
	if err := r.WriteJSON(ManifestFile, want); err != nil {
		t.Fatal(err)
	}
	got, err := ReadManifest(r.Dir)
	if err != nil || !reflect.DeepEqual(*got, want) {
		t.Errorf("%+v (%v), want %+v", got, err, want)
	}
	if at, err := time.Parse(time.RFC3339, want.StartedAt); err != nil || !strings.HasSuffix(want.StartedAt, "Z") || time.Since(at) < -time.Second {
		t.Errorf("the time is %q (%v), want RFC 3339 in UTC", want.StartedAt, err)
	}
}

// The version is the first thing that is read: a manifest of the future is named, with what
// this program reads.
func TestManifestsOfOtherVersionsAreRefused(t *testing.T) {
	for _, version := range []string{"0", "2", "99"} {
		dir := manifestFile(t, `{"schema_version": `+version+`, "task": "detect"}`)
		if m, err := ReadManifest(dir); err == nil || !strings.Contains(err.Error(), "schema_version is "+version+"; this program reads 1") || !strings.Contains(err.Error(), dir) {
			t.Errorf("version %s: %+v, %v", version, m, err)
		}
	}
	if m, err := ReadManifest(manifestFile(t, `{"schema_version": 1, "task": "detect", "status": "done"}`)); err != nil || m.Task != "detect" {
		t.Errorf("version 1: %+v, %v", m, err)
	}
}

func TestDamagedManifestNamesItsFile(t *testing.T) {
	dir := manifestFile(t, `{"schema_version": 1, "seed": "x"`)
	if _, err := ReadManifest(dir); err == nil || !strings.Contains(err.Error(), filepath.Join(dir, ManifestFile)) {
		t.Errorf("no JSON: %v", err)
	}
	for text, want := range map[string]string{
		`null`:                  "schema_version is 0",
		`{"schema_version": 1}`: `status is "", want running, done, stopped, failed`,
		`{"schema_version": 1, "status": "finished"}`:                                                             `status is "finished"`,
		`{"schema_version": 1, "status": "done", "plugins": [{}]}`:                                                `plugins[0]: role ""`,
		`{"schema_version": 1, "status": "done", "plugins": [{"role": "head", "parameters": 1, "trainable": 2}]}`: "1 weights, 2 trained",
		`{"schema_version": 1, "status": "done"} {}`:                                                              "after top-level value",
	} {
		if m, err := ReadManifest(manifestFile(t, text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %+v, %v; want %q", text, m, err, want)
		}
	}
	if _, err := ReadManifest(t.TempDir()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no manifest: %v, want that it is not there", err)
	}
}

// What 0.1 wrote, byte for byte: its checkpoints have no field for validations to come.
func TestCheckpointsOf01AreIntact(t *testing.T) {
	dir := filepath.Join(t.TempDir(), checkpointDir, "step-3")
	if err := os.MkdirAll(filepath.Join(dir, "head"), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "head", "w"), []byte("weights"), 0o666); err != nil {
		t.Fatal(err)
	}
	const manifest = `{
  "schema_version": 1,
  "state": {"step": 3, "epoch": 1, "batch": 0, "best": {"step": 3, "epoch": 1, "metric": "m", "value": 0.5}, "seed": 9},
  "files": {"head/w": {"bytes": 7, "sha256": "9a129038f03ee07ac3c3d2fdd2b46a8cc0dd4aaf9fb7da1c0ec5cc2ed9b38aea"}},
  "sha256": "SUM"
}`
	var m checkpointManifest
	if err := json.Unmarshal([]byte(manifest), &m); err != nil {
		t.Fatal(err)
	}
	record, err := hashFile(filepath.Join(dir, "head", "w"), false)
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Replace(manifest, m.Files["head/w"].SHA256, record.SHA256, 1)
	// The sum of 0.1 is over these very bytes.
	m.Files["head/w"] = record
	old := `{"schema_version":1,"state":{"step":3,"epoch":1,"batch":0,"best":{"step":3,"epoch":1,"metric":"m","value":0.5},"seed":9},"files":{"head/w":{"bytes":7,"sha256":"` + record.SHA256 + `"}},"sha256":""}`
	now, err := json.Marshal(m)
	if err != nil || strings.Replace(string(now), `"sha256":"SUM"`, `"sha256":""`, 1) != old {
		t.Fatalf("a manifest of 0.1 is hashed over\n%s, want\n%s (%v)", now, old, err)
	}
	sum, err := m.sum()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, ManifestFile), []byte(strings.Replace(text, "SUM", sum, 1)), 0o666); err != nil {
		t.Fatal(err)
	}
	c, err := Verify(dir)
	if err != nil || c.State != (State{Step: 3, Epoch: 1, Best: Best{3, 1, "m", 0.5}, Seed: 9}) || c.StageDir("head") != filepath.Join(dir, "head") {
		t.Errorf("%+v, %v", c, err)
	}
}

func TestCheckpointsOfOtherVersionsAreNeitherUsedNorCorrupt(t *testing.T) {
	r := create(t)
	saveSteps(t, r, 0, 10)
	dir := checkpointPath(r.Dir, 10)
	m, err := readCheckpoint(dir)
	if err != nil {
		t.Fatal(err)
	}
	m.SchemaVersion = checkpointVersion + 1
	if err := m.write(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := Verify(dir); err == nil || errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), "schema_version is 2; this program reads 1") {
		t.Errorf("%v; want the version, and not that it is corrupt", err)
	}
}

// Amend changes the state and nothing else, and lets go of what it no longer names best.
func TestAmendNotesAValidationInTheCheckpoint(t *testing.T) {
	r := create(t)
	saveSteps(t, r, 10, 10, 20, 30)
	state := State{Step: 40, Best: Best{Step: 10}, Unvalidated: true}
	if err := r.Save(state, roles, writer("w")); err != nil {
		t.Fatal(err)
	}
	before, err := readCheckpoint(checkpointPath(r.Dir, 40))
	if err != nil {
		t.Fatal(err)
	}
	state.Unvalidated, state.Best = false, Best{Step: 40, Value: 0.9}
	if err := r.Amend(state); err != nil {
		t.Fatal(err)
	}
	c, warnings, err := Latest(r.Dir)
	if err != nil || len(warnings) > 0 || c.State != state {
		t.Errorf("%+v, %q, %v; want %+v", c, warnings, err, state)
	}
	after, err := readCheckpoint(checkpointPath(r.Dir, 40))
	if err != nil || !reflect.DeepEqual(before.Files, after.Files) {
		t.Errorf("files %v (%v), were %v", after, err, before.Files)
	}
	if steps, err := checkpointSteps(r.Dir); err != nil || !reflect.DeepEqual(steps, []int{30, 40}) {
		t.Errorf("kept %v (%v), want 30 40", steps, err)
	}
	if err := r.Amend(State{Step: 7}); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a step without a checkpoint: %v", err)
	}
}

func TestSaveStartsFromAnEmptyFolderEachTime(t *testing.T) {
	r := create(t)
	left := filepath.Join(checkpointPath(r.Dir, 10)+".tmp", "encoder", "old")
	if err := os.MkdirAll(filepath.Dir(left), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(left, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	saveSteps(t, r, 0, 10)
	if m, err := readCheckpoint(checkpointPath(r.Dir, 10)); err != nil || len(m.Files) != 2 {
		t.Errorf("%+v (%v), want two files", m, err)
	}
}

// Only folders called step-N are checkpoints.
func TestOtherNamesAreNoCheckpoints(t *testing.T) {
	r := create(t)
	saveSteps(t, r, 0, 10)
	for _, name := range []string{"step-x", "step-11.tmp", "epoch-12"} {
		if err := os.Mkdir(r.Path(checkpointDir, name), 0o777); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(r.Path(checkpointDir, "step-13"), nil, 0o666); err != nil {
		t.Fatal(err)
	}
	if steps, err := checkpointSteps(r.Dir); err != nil || !reflect.DeepEqual(steps, []int{10}) {
		t.Errorf("%v, %v; want 10 alone", steps, err)
	}
}

func TestFindKnowsLastBestAndSteps(t *testing.T) {
	r := create(t)
	saveSteps(t, r, 20, 10, 20, 30)
	for name, want := range map[string]int{"last": 30, "best": 20, "": 20, "20": 20, "30": 30} {
		if c, warnings, err := Find(r.Dir, name); err != nil || len(warnings) > 0 || c.State.Step != want {
			t.Errorf("%q: %+v, %q, %v; want step %d", name, c, warnings, err, want)
		}
	}
	if _, _, err := Find(r.Dir, "newest"); err == nil || !strings.Contains(err.Error(), `checkpoint "newest": want best, last or a step number`) {
		t.Errorf("%v", err)
	}
	if err := os.Truncate(filepath.Join(checkpointPath(r.Dir, 30), "head", "weights.safetensors"), 1); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Find(r.Dir, "30"); !errors.Is(err, ErrCorrupt) || errors.Is(err, ErrNoCheckpoint) {
		t.Errorf("a damaged step: %v", err)
	}
	if _, _, err := Find(t.TempDir(), "best"); !errors.Is(err, ErrNoCheckpoint) {
		t.Errorf("no checkpoints: %v", err)
	}
	unvalidated := create(t)
	saveSteps(t, unvalidated, 0, 10, 20)
	if c, warnings, err := Find(unvalidated.Dir, "best"); err != nil || len(warnings) > 0 || c.State.Step != 20 {
		t.Errorf("nothing was validated: %+v, %q, %v; want the last", c, warnings, err)
	}
}

func TestSizeAndContentAreChecked(t *testing.T) {
	r := create(t)
	saveSteps(t, r, 0, 10)
	path := filepath.Join(checkpointPath(r.Dir, 10), "head", "weights.safetensors")
	if err := os.WriteFile(path, []byte("head"), 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := Verify(filepath.Dir(filepath.Dir(path))); err == nil || !strings.Contains(err.Error(), "has 4 bytes, 14 were saved") {
		t.Errorf("a shorter file: %v", err)
	}
	if err := os.WriteFile(path, []byte("HEADxxxxxxxxxx"), 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := Verify(filepath.Dir(filepath.Dir(path))); err == nil || !regexp.MustCompile(`has SHA-256 [0-9a-f]{12}…, [0-9a-f]{12}… was saved`).MatchString(err.Error()) {
		t.Errorf("other bytes: %v", err)
	}
}

func TestRewindDropsTheLineOfAValidationToCome(t *testing.T) {
	lines := []Record{{Kind: "step", Step: 1}, {Kind: "validation", Step: 1}, {Kind: "step", Step: 2}, {Kind: "validation", Step: 2}, {Kind: "step", Step: 3}}
	for name, c := range map[string]struct {
		state State
		want  int
	}{"validated": {State{Step: 2}, 4}, "to be validated": {State{Step: 2, Unvalidated: true}, 3}, "nothing": {State{}, 0}} {
		r := create(t)
		for _, l := range lines {
			if err := r.Append(l); err != nil {
				t.Fatal(err)
			}
		}
		if err := r.RewindMetrics(c.state); err != nil {
			t.Fatal(err)
		}
		got, err := ReadMetrics(r.Dir)
		if err != nil || len(got) != c.want || c.want > 0 && !reflect.DeepEqual(got, lines[:c.want]) {
			t.Errorf("%s: %+v (%v), want the first %d", name, got, err, c.want)
		}
	}
}

func TestMetricsThatAreNoneNameTheLine(t *testing.T) {
	r := create(t)
	if records, err := ReadMetrics(r.Dir); err != nil || records != nil {
		t.Errorf("no file: %v, %v", records, err)
	}
	step := `{"kind":"step","step":1}`
	for text, bad := range map[string]bool{
		step + "\nnonsense\n" + step + "\n":                      true,
		step + "\nnonsense\n":                                    true, // whole, so not cut off
		step + "\nnonsense\n" + step[:9]:                         true,
		step + "\n{}\n":                                          true,
		step + "\n\n" + step + "\n":                              true,
		step + "\n{\"kind\":\"steps\",\"step\":2}\n":             true,
		step + "\n{\"kind\":\"step\",\"step\":-1}\n":             true,
		step + "\n{\"kind\":\"step\",\"step\":1,\"epoch\":-1}\n": true,
		step + "\n" + strings.Repeat("x", 1<<24) + "\n":          true,
		step + "\n" + step[:4]:                                   false,
		step:                                                     false,
	} {
		if err := r.Write(MetricsFile, []byte(text)); err != nil {
			t.Fatal(err)
		}
		records, err := ReadMetrics(r.Dir)
		if (err != nil) != bad || bad && !strings.Contains(err.Error(), MetricsFile+":2: ") || !bad && len(records) != 1 {
			t.Errorf("%.80q: %v, %v", text, records, err)
		}
		if bad && r.RewindMetrics(State{Step: 1}) == nil {
			t.Errorf("%q: was rewritten", text)
		}
	}
}

func TestLockTellsWhoHoldsIt(t *testing.T) {
	r := create(t)
	path := r.Path(lockFile)
	if err := os.WriteFile(path, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(r.Dir); !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), "(unknown process)") {
		t.Errorf("%v", err)
	}
	if err := os.WriteFile(path, []byte("process 7 on here\n"), 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(r.Dir); !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), "(process 7 on here)") {
		t.Errorf("%v", err)
	}
	blocked := filepath.Join(t.TempDir(), "run")
	if err := os.MkdirAll(filepath.Join(blocked, lockFile), 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := Create(blocked); err == nil || errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), "lock of the run directory") {
		t.Errorf("a lock that cannot be made: %v", err)
	}
}

func TestCheckNewTellsRunsFromOtherFolders(t *testing.T) {
	r := create(t)
	if err := CheckNew(r.Dir); !errors.Is(err, ErrExists) || !strings.Contains(err.Error(), "--resume") {
		t.Errorf("a run: %v", err)
	}
	for _, dir := range []string{t.TempDir(), filepath.Join(t.TempDir(), "not there")} {
		if err := CheckNew(dir); err != nil {
			t.Errorf("%s: %v", dir, err)
		}
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	if err := CheckNew(file); err == nil || errors.Is(err, ErrNotEmpty) {
		t.Errorf("a file: %v", err)
	}
	if _, err := Create(filepath.Join(file, "run")); err == nil {
		t.Error("a run was made inside a file")
	}
}

func TestCausesOfDiskErrorsAreKept(t *testing.T) {
	if diskError(nil) != nil {
		t.Error("no error became one")
	}
	for cause, want := range map[error]error{syscall.ENOSPC: ErrNoSpace, syscall.EDQUOT: ErrNoSpace, syscall.EFBIG: ErrFileLimit} {
		err := diskError(&fs.PathError{Op: "write", Path: "x", Err: cause})
		if !errors.Is(err, want) || !errors.Is(err, cause) || diskError(err) != err {
			t.Errorf("%v: %v, want %v once", cause, err, want)
		}
	}
	other := &fs.PathError{Op: "write", Path: "x", Err: syscall.EACCES}
	if diskError(other) != error(other) {
		t.Error("another cause was changed")
	}
	if err := WriteFile(filepath.Join(t.TempDir(), "no", "folder", "file"), nil); err == nil || !strings.Contains(err.Error(), "write 0 bytes") {
		t.Errorf("%v", err)
	}
}

func TestRunClosesItsMetricsAndGivesTheLockBack(t *testing.T) {
	r := create(t)
	if err := r.Append(Record{Kind: "step", Step: 1}); err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if r.metrics != nil {
		t.Error("metrics are still open")
	}
	again, err := Open(r.Dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Append(Record{Kind: "step", Step: 2}); err != nil {
		t.Fatal(err)
	}
	if err := again.Close(); err != nil {
		t.Fatal(err)
	}
	if records, err := ReadMetrics(r.Dir); err != nil || len(records) != 2 {
		t.Errorf("%v, %v; want both lines", records, err)
	}
}

// What JSON cannot hold, what cannot be flushed and what cannot be closed is an error, and
// nothing is left behind.
func TestFailuresAreNotSwallowed(t *testing.T) {
	r := create(t)
	saveSteps(t, r, 0, 10)
	if err := r.Save(State{Step: 20, Best: Best{Step: 20, Value: math.NaN()}}, roles, writer("w")); err == nil || !strings.Contains(err.Error(), "NaN") {
		t.Errorf("a state that is no number: %v", err)
	}
	if steps, err := checkpointSteps(r.Dir); err != nil || !reflect.DeepEqual(steps, []int{10}) {
		t.Errorf("%v, %v; want 10 alone", steps, err)
	}
	if err := r.WriteJSON("x.json", math.Inf(1)); err == nil {
		t.Error("infinity was written as JSON")
	}
	if _, err := os.Stat(r.Path("x.json")); err == nil {
		t.Error("a file that could not be written is there")
	}
	if err := r.Append(Record{Step: 1, GradNorm: math.NaN()}); err == nil || !strings.Contains(err.Error(), "metrics of step 1") {
		t.Errorf("a record that is no number: %v", err)
	}
	if _, err := hashFile(os.DevNull, true); err == nil {
		t.Error("a device that cannot be flushed has a hash")
	}
	if err := r.Append(Record{Kind: "step", Step: 1}); err != nil {
		t.Fatal(err)
	}
	if err := r.metrics.Close(); err != nil {
		t.Fatal(err)
	}
	if err := r.Append(Record{Kind: "step", Step: 2}); err == nil || !strings.Contains(err.Error(), MetricsFile) {
		t.Errorf("a closed file was written to: %v", err)
	}
	if r.RewindMetrics(State{}) == nil {
		t.Error("a file that cannot be closed was rewound")
	}
	lost := create(t)
	if err := os.Mkdir(lost.Path(MetricsFile), 0o777); err != nil {
		t.Fatal(err)
	}
	if lost.Append(Record{Step: 1}) == nil || lost.RewindMetrics(State{}) == nil {
		t.Error("a folder in the place of the metrics is no error")
	}
	if err := lost.Save(State{Step: 1}, roles, func(string, string) error { return os.RemoveAll(lost.Path(checkpointDir)) }); err == nil {
		t.Error("a checkpoint whose folder is gone was saved")
	}
	if err := os.WriteFile(lost.Path(checkpointDir), nil, 0o666); err != nil {
		t.Fatal(err)
	}
	if lost.Save(State{Step: 1}, roles, writer("")) == nil {
		t.Error("a checkpoint was saved into a file")
	}
	if _, _, err := Latest(lost.Dir); err == nil || errors.Is(err, ErrNoCheckpoint) {
		t.Errorf("a file in the place of the checkpoints: %v", err)
	}
	if err := lost.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(lost.Dir); err == nil {
		t.Error("a run with a file in the place of its checkpoints was opened")
	}
}

// What is read is what is written again: nothing of a manifest that was understood is lost.
func FuzzParseManifest(f *testing.F) {
	f.Add([]byte(`{"schema_version": 1, "status": "done", "plugins": [{"role": "head", "parameters": 7}], "notes": ["n"]}`))
	f.Add([]byte(`{"schema_version": 1, "seed": 18446744073709551615, "threads": 3, "status": "running"`))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := parseManifest(data)
		if err != nil {
			return
		}
		text, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		again, err := parseManifest(text)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		if second, err := json.Marshal(again); err != nil || string(second) != string(text) {
			t.Errorf("%s (%v), then %s", text, err, second)
		}
	})
}

// Lines that were understood are written back as lines that are; a file that ends in the
// middle of a line gives what stands before it.
func FuzzParseMetrics(f *testing.F) {
	f.Add([]byte("{\"kind\":\"step\",\"step\":1,\"loss\":0.5,\"losses\":{\"a\":1e-300}}\n{\"kind\":\"validation\",\"step\":1}\n{\"ki"))
	f.Add([]byte("{\"kind\":\"step\"}\r\n\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		records, line, err := parseMetrics(data)
		if err != nil {
			if line < 1 || line > bytes.Count(data, []byte("\n"))+1 {
				t.Errorf("the error is about line %d of %q", line, data)
			}
			return
		}
		var out bytes.Buffer
		for _, rec := range records {
			text, err := json.Marshal(rec)
			if err != nil {
				t.Fatal(err)
			}
			out.Write(append(text, '\n'))
		}
		if again, _, err := parseMetrics(out.Bytes()); err != nil || len(again) != len(records) {
			t.Fatalf("%d records, written as %q: %d (%v)", len(records), out.Bytes(), len(again), err)
		}
		if cut, _, err := parseMetrics(append(out.Bytes(), `{"kind":"st`...)); err != nil || len(cut) != len(records) {
			t.Errorf("%d records and a half-written line: %d (%v)", len(records), len(cut), err)
		}
	})
}
