// Package runs keeps a run directory:
//
//	config.yaml      the resolved configuration; training with it gives the run again
//	manifest.json    program, plugins with hashes, data hash, seed, start and end
//	schema.json      the attribute schema, when the pipeline has attributes
//	labels.json      the classes and their order
//	training.csv     the cases trained on, with hashes of what they show
//	modes.json       with data.impute=mode: what stands for a missing attribute
//	calibration.json the temperature of reconstructed probabilities
//	metrics.jsonl    one line per step and validation
//	checkpoints/     step-N/ with a folder per stage and a manifest of hashes
//	predictions/     one folder per split
//	lock             held by the process that writes here
//
// Files appear whole: they are written under a temporary name beside their place,
// flushed to disk and renamed.
package runs

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/gofrs/flock"

	"github.com/alignedfusion/alignedfusion/host/fault"
	"github.com/alignedfusion/alignedfusion/internal/atomicfile"
	"github.com/alignedfusion/alignedfusion/internal/nearest"
)

// Names of the files of a run directory.
const (
	ConfigFile    = "config.yaml"
	ManifestFile  = "manifest.json"
	SchemaFile    = "schema.json"
	LabelsFile    = "labels.json"
	TrainingFile  = "training.csv"
	MetricsFile   = "metrics.jsonl"
	PredictionDir = "predictions"
	checkpointDir = "checkpoints"
	lockFile      = "lock"
)

// Errors of run directories.
var (
	// ErrExists is returned by Create when the folder already holds a run.
	ErrExists = fault.New(fault.Usage, "the folder already holds a run")
	// ErrNotEmpty is returned by Create when the folder holds something that is no run.
	ErrNotEmpty = fault.New(fault.Usage, "the folder is not empty and holds no run")
	// ErrNotARun is returned when a folder holds no run.
	ErrNotARun = fault.New(fault.Usage, "the folder holds no run")
	// ErrDamaged is returned when a file of a run directory cannot be read.
	ErrDamaged = fault.New(fault.Data, "damaged run directory")
	// ErrLocked is returned when another process writes to the run.
	ErrLocked = errors.New("another process is using the run")
	// ErrNoSpace is returned when the disk is full; what was there before is intact.
	ErrNoSpace = fault.New(fault.Resource, "no space left on the disk")
	// ErrFileLimit is returned when a file outgrows the process's limit (ulimit -f);
	// what was there before is intact.
	ErrFileLimit = fault.New(fault.Resource, "a file outgrew this process's limit (ulimit -f)")
)

// Run is a run directory that this process may write to.
type Run struct {
	Dir     string
	lock    *flock.Flock
	metrics *os.File
	// follows: another process writes.
	follows bool
}

// Follow is a run directory that another process writes to: what is written to it is thrown
// away.
func Follow(dir string) *Run { return &Run{Dir: dir, follows: true} }

// CheckNew fails with ErrExists when a folder holds a run, and with ErrNotEmpty when it
// holds anything else but a run whose creation was interrupted.
func CheckNew(dir string) error {
	if IsRun(dir) {
		return fmt.Errorf("%s: %w; continue it with --resume, or choose another --out", dir, ErrExists)
	}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("run directory: %w", err)
	}
	for _, e := range entries {
		if e.Name() == lockFile {
			return nil
		}
	}
	if len(entries) > 0 {
		return fmt.Errorf("%s: %w (%s is in it); choose another --out", dir, ErrNotEmpty, entries[0].Name())
	}
	return nil
}

// Create makes a run directory and takes its lock. It fails as CheckNew does, and with
// ErrLocked when another process is making a run there.
func Create(dir string) (*Run, error) {
	if err := CheckNew(dir); err != nil && !errors.Is(err, ErrExists) { // who holds its lock matters more
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return nil, fmt.Errorf("run directory: %w", err)
	}
	r, err := lock(dir)
	if err != nil {
		return nil, err
	}
	if IsRun(dir) {
		r.Close()
		return nil, fmt.Errorf("%s: %w; continue it with --resume, or choose another --out", dir, ErrExists)
	}
	return r, nil
}

// Open takes the lock of an existing run and removes what an interrupted save left.
func Open(dir string) (*Run, error) {
	if !IsRun(dir) {
		return nil, notARun(dir)
	}
	r, err := lock(dir)
	if err != nil {
		return nil, err
	}
	if err := r.removeLeftovers(); err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

func notARun(dir string) error {
	near := ""
	if _, err := os.Stat(dir); err != nil {
		near = nearest.File(dir)
	}
	return fmt.Errorf("%s: %w (no %s in it)%s", dir, ErrNotARun, ConfigFile, near)
}

// IsRun reports whether a folder holds a run.
func IsRun(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, ConfigFile))
	return err == nil
}

func lock(dir string) (*Run, error) {
	path := filepath.Join(dir, lockFile)
	l := flock.New(path)
	ok, err := l.TryLock()
	if err != nil {
		return nil, fmt.Errorf("lock of the run directory: %w", err)
	}
	if !ok {
		holder, _ := os.ReadFile(path)
		who := strings.TrimSpace(string(holder))
		if who == "" {
			who = "unknown process"
		}
		return nil, fmt.Errorf("%s: %w (%s)", dir, ErrLocked, who)
	}
	host, _ := os.Hostname()
	// The lock is the file lock; its text only tells people who holds it.
	_ = os.WriteFile(path, fmt.Appendf(nil, "process %d on %s\n", os.Getpid(), host), 0o666)
	return &Run{Dir: dir, lock: l}, nil
}

func (r *Run) removeLeftovers() error {
	entries, err := os.ReadDir(filepath.Join(r.Dir, checkpointDir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".tmp") {
			if err := os.RemoveAll(filepath.Join(r.Dir, checkpointDir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// Close gives the lock back.
func (r *Run) Close() error {
	if r.follows {
		return nil
	}
	var err error
	if r.metrics != nil {
		err = r.metrics.Close()
		r.metrics = nil
	}
	return errors.Join(err, r.lock.Close())
}

// Path is a path inside the run directory.
func (r *Run) Path(parts ...string) string {
	return filepath.Join(append([]string{r.Dir}, parts...)...)
}

// Write writes a file of the run directory whole or not at all.
func (r *Run) Write(name string, data []byte) error {
	if r.follows {
		return nil
	}
	return WriteFile(r.Path(name), data)
}

// WriteJSON writes v indented.
func (r *Run) WriteJSON(name string, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return r.Write(name, append(data, '\n'))
}

// WriteFile writes a file whole or not at all (see atomicfile). A full disk gives
// ErrNoSpace.
func WriteFile(path string, data []byte) error {
	if err := atomicfile.WriteBytes(path, data); err != nil {
		return diskError(fmt.Errorf("write %d bytes: %w", len(data), err))
	}
	return nil
}

// WriteFileSoon is WriteFile that does not wait for the disk, see atomicfile.WriteBytesSoon.
func WriteFileSoon(path string, data []byte) (flush func() error, err error) {
	toDisk, err := atomicfile.WriteBytesSoon(path, data)
	if err != nil {
		return nil, diskError(fmt.Errorf("write %d bytes: %w", len(data), err))
	}
	return func() error { return diskError(toDisk()) }, nil
}

// diskError adds ErrNoSpace where a full disk is the cause, ErrFileLimit where a limit
// is. A plugin's error comes as text, so its text is looked at too.
func diskError(err error) error {
	if err == nil || errors.Is(err, ErrNoSpace) || errors.Is(err, ErrFileLimit) {
		return err
	}
	is := func(cause syscall.Errno) bool {
		return errors.Is(err, cause) || strings.Contains(strings.ToLower(err.Error()), cause.Error())
	}
	switch {
	case is(syscall.ENOSPC), is(syscall.EDQUOT):
		return fmt.Errorf("%w: %w", ErrNoSpace, err)
	case is(syscall.EFBIG):
		return fmt.Errorf("%w: %w", ErrFileLimit, err)
	}
	return err
}
