package runs

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/alignedfusion/alignedfusion/host/fault"
	"github.com/alignedfusion/alignedfusion/internal/atomicfile"
	"github.com/alignedfusion/alignedfusion/internal/digest"
)

// ErrCorrupt is returned when a checkpoint is not what was saved.
var ErrCorrupt = fault.New(fault.Data, "corrupt checkpoint")

// ErrNoCheckpoint is returned when a run has no checkpoint that can be used.
var ErrNoCheckpoint = fault.New(fault.Data, "no usable checkpoint")

const checkpointVersion = 1

// Best is the best validation so far; Step 0 means none yet.
type Best struct {
	Step   int     `json:"step"`
	Epoch  int     `json:"epoch"`
	Metric string  `json:"metric,omitempty"`
	Value  float64 `json:"value"`
}

// State is all that training needs besides what the stages save.
type State struct {
	// Step is the number of optimizer steps done.
	Step int `json:"step"`
	// Epoch (from 0) and Batch say which batch comes next, of each of Ranks processes (0: one).
	Epoch int `json:"epoch"`
	Batch int `json:"batch"`
	Ranks int `json:"ranks,omitempty"`
	// SkippedLast says that the last step had no finite loss.
	SkippedLast bool `json:"skipped_last,omitempty"`
	// LossScale of half precision, the steps since it has changed, and those that were skipped
	// for it; 0: nothing is scaled.
	LossScale      float64 `json:"loss_scale,omitempty"`
	LossScaleSteps int     `json:"loss_scale_steps,omitempty"`
	Overflows      int     `json:"overflows,omitempty"`
	// Unvalidated says that the validation at this step is still to be done.
	Unvalidated bool `json:"unvalidated,omitempty"`
	// Stale counts the validations since the best one.
	Stale int    `json:"stale,omitempty"`
	Best  Best   `json:"best"`
	Seed  uint64 `json:"seed"`
}

// Checkpoint is one that was verified.
type Checkpoint struct {
	Dir   string
	State State
}

// StageDir is the folder a stage saved into; role is encoder, fusion or head.
func (c *Checkpoint) StageDir(role string) string { return filepath.Join(c.Dir, role) }

type fileRecord struct {
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"`
}

type checkpointManifest struct {
	SchemaVersion int                   `json:"schema_version"`
	State         State                 `json:"state"`
	Files         map[string]fileRecord `json:"files"`
	// SHA256 is over the manifest itself with this field empty.
	SHA256 string `json:"sha256"`
}

func (m checkpointManifest) sum() (string, error) {
	m.SHA256 = ""
	data, err := json.Marshal(m)
	if err != nil {
		return "", err
	}
	return digest.Of(data), nil
}

// write puts the manifest into a checkpoint's folder, with its sum.
func (m *checkpointManifest) write(dir string) (err error) {
	if m.SHA256, err = m.sum(); err != nil {
		return err
	}
	return (&Run{Dir: dir}).WriteJSON(ManifestFile, m)
}

// readCheckpoint reads a checkpoint's manifest. It fails with ErrCorrupt.
func readCheckpoint(dir string) (*checkpointManifest, error) {
	path := filepath.Join(dir, ManifestFile)
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	var m checkpointManifest
	if err := json.Unmarshal(data, &m); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrCorrupt, path, err)
	}
	if m.SchemaVersion != checkpointVersion {
		return nil, fmt.Errorf("%s: schema_version is %d; this program reads %d", path, m.SchemaVersion, checkpointVersion)
	}
	if want, err := m.sum(); err != nil || want != m.SHA256 {
		return nil, fmt.Errorf("%w: %s was changed", ErrCorrupt, path)
	}
	return &m, nil
}

func checkpointPath(run string, step int) string {
	return filepath.Join(run, checkpointDir, fmt.Sprintf("step-%d", step))
}

// Save writes a checkpoint in two phases: save fills one folder per role inside a
// temporary folder; then everything is hashed, flushed to disk and renamed to
// step-N. On any error the temporary folder is removed and what was there before is
// untouched. Afterwards the last two checkpoints and the best one are kept.
func (r *Run) Save(state State, roles []string, save func(role, dir string) error) (err error) {
	if r.follows {
		return nil
	}
	final := checkpointPath(r.Dir, state.Step)
	temp := final + ".tmp"
	defer func() {
		if err != nil {
			os.RemoveAll(temp)
			err = diskError(fmt.Errorf("checkpoint %s was not saved: %w", final, err))
		}
	}()
	if err := os.RemoveAll(temp); err != nil {
		return err
	}
	for _, role := range roles {
		dir := filepath.Join(temp, role)
		if err := os.MkdirAll(dir, 0o777); err != nil {
			return err
		}
		if err := save(role, dir); err != nil {
			return err
		}
	}
	m := checkpointManifest{SchemaVersion: checkpointVersion, State: state, Files: map[string]fileRecord{}}
	dirs := []string{}
	err = filepath.WalkDir(temp, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			dirs = append(dirs, path)
			return nil
		}
		if !d.Type().IsRegular() {
			return fmt.Errorf("%s is not a plain file", path)
		}
		name, err := filepath.Rel(temp, path)
		if err != nil {
			return err
		}
		record, err := hashFile(path, true)
		if err != nil {
			return err
		}
		m.Files[filepath.ToSlash(name)] = record
		return nil
	})
	if err != nil {
		return err
	}
	if err := m.write(temp); err != nil {
		return err
	}
	for _, dir := range dirs {
		if err := atomicfile.SyncDir(dir); err != nil {
			return err
		}
	}
	// A folder of that name is a corrupt checkpoint that an earlier one replaced.
	if err := os.RemoveAll(final); err != nil {
		return err
	}
	if err := os.Rename(temp, final); err != nil {
		return err
	}
	if err := atomicfile.SyncDir(filepath.Dir(final)); err != nil {
		return err
	}
	return r.prune(state)
}

// Amend replaces the state of the checkpoint of state.Step, whose files stay as they are,
// and keeps the checkpoints that Save would keep.
func (r *Run) Amend(state State) error {
	if r.follows {
		return nil
	}
	dir := checkpointPath(r.Dir, state.Step)
	m, err := readCheckpoint(dir)
	if err != nil {
		return err
	}
	m.State = state
	if err := m.write(dir); err != nil {
		return err
	}
	return r.prune(state)
}

// prune removes all checkpoints but the last two and the best.
func (r *Run) prune(state State) error {
	steps, err := checkpointSteps(r.Dir)
	if err != nil {
		return err
	}
	keep := map[int]bool{state.Best.Step: true}
	for i, s := range steps {
		if i >= len(steps)-2 {
			keep[s] = true
		}
	}
	for _, s := range steps {
		if !keep[s] {
			if err := os.RemoveAll(checkpointPath(r.Dir, s)); err != nil {
				return err
			}
		}
	}
	return nil
}

// hashFile returns size and SHA-256 of a file, flushing it to disk first if asked.
func hashFile(path string, flush bool) (fileRecord, error) {
	f, err := os.Open(path)
	if err != nil {
		return fileRecord{}, err
	}
	defer f.Close()
	if flush {
		if err := f.Sync(); err != nil {
			return fileRecord{}, err
		}
	}
	h := sha256.New()
	n, err := io.Copy(h, f)
	return fileRecord{n, hex.EncodeToString(h.Sum(nil))}, err
}

// checkpointSteps are the steps of the checkpoints there are, rising.
func checkpointSteps(run string) ([]int, error) {
	entries, err := os.ReadDir(filepath.Join(run, checkpointDir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var steps []int
	for _, e := range entries {
		text, ok := strings.CutPrefix(e.Name(), "step-")
		if n, err := strconv.Atoi(text); ok && err == nil && e.IsDir() {
			steps = append(steps, n)
		}
	}
	slices.Sort(steps)
	return steps, nil
}

// Verify reads a checkpoint and compares every file with its recorded size and hash.
// It fails with ErrCorrupt and names the file.
func Verify(dir string) (*Checkpoint, error) {
	m, err := readCheckpoint(dir)
	if err != nil {
		return nil, err
	}
	for _, name := range slices.Sorted(maps.Keys(m.Files)) {
		want := m.Files[name]
		if !filepath.IsLocal(filepath.FromSlash(name)) {
			return nil, fmt.Errorf("%w: file %q lies outside the checkpoint", ErrCorrupt, name)
		}
		path := filepath.Join(dir, filepath.FromSlash(name))
		got, err := hashFile(path, false)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
		}
		if got.Bytes != want.Bytes {
			return nil, fmt.Errorf("%w: %s has %d bytes, %d were saved", ErrCorrupt, path, got.Bytes, want.Bytes)
		}
		if got.SHA256 != want.SHA256 {
			return nil, fmt.Errorf("%w: %s has SHA-256 %s…, %s… was saved", ErrCorrupt, path, got.SHA256[:12], want.SHA256[:12])
		}
	}
	return &Checkpoint{dir, m.State}, nil
}

// Saved is the checkpoint of a step as Save has just written it: nobody reads it again to
// verify it. nil: there is none.
func Saved(run string, step int) *Checkpoint {
	dir := checkpointPath(run, step)
	if _, err := os.Stat(dir); err != nil {
		return nil
	}
	return &Checkpoint{dir, State{Step: step}}
}

// Latest returns the newest checkpoint that is intact, and a warning for each newer
// one that is not. It fails with ErrNoCheckpoint when there is none, with ErrNotARun when
// there is no such folder.
func Latest(run string) (*Checkpoint, []string, error) {
	steps, err := checkpointSteps(run)
	if err != nil {
		return nil, nil, err
	}
	var damage, warnings []string
	for _, s := range slices.Backward(steps) {
		c, err := Verify(checkpointPath(run, s))
		if err == nil {
			return c, warnings, nil
		}
		damage = append(damage, err.Error())
		warnings = append(warnings, fmt.Sprintf("%v; using the checkpoint before it", err))
	}
	if len(damage) > 0 {
		return nil, warnings, fmt.Errorf("%s: %w, train the run anew: %s", run, ErrNoCheckpoint, strings.Join(damage, "; "))
	}
	if _, err := os.Stat(run); err != nil {
		return nil, nil, notARun(run)
	}
	return nil, nil, fmt.Errorf("%s: %w: training has saved none yet", run, ErrNoCheckpoint)
}

// Find returns a checkpoint by name: "best" (by the validation metric; the last one
// when nothing was validated), "last", or a step number.
func Find(run, name string) (*Checkpoint, []string, error) {
	switch name {
	case "last":
		return Latest(run)
	case "", "best":
		last, warnings, err := Latest(run)
		if err != nil || last.State.Best.Step == 0 || last.State.Best.Step == last.State.Step {
			return last, warnings, err
		}
		best, err := Verify(checkpointPath(run, last.State.Best.Step))
		if errors.Is(err, ErrCorrupt) {
			return last, append(warnings, fmt.Sprintf("the best checkpoint cannot be used: %v; using the last one, of step %d", err, last.State.Step)), nil
		}
		return best, warnings, err
	}
	step, err := strconv.Atoi(name)
	if err != nil {
		return nil, nil, fmt.Errorf("checkpoint %q: want best, last or a step number", name)
	}
	c, err := Verify(checkpointPath(run, step))
	if errors.Is(err, fs.ErrNotExist) {
		steps, _ := checkpointSteps(run)
		return nil, nil, fmt.Errorf("%s: %w of step %d; there are %v", run, ErrNoCheckpoint, step, steps)
	}
	return c, nil, err
}
