package runs

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// A small tmpfs is a disk that really runs full; only root may mount one.
func TestDiskFullWhileSaving(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=256k"); err != nil {
		t.Skipf("cannot mount a small tmpfs here: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	r, err := Create(filepath.Join(dir, "run"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	save := func(step, bytes int) error {
		return r.Save(State{Step: step}, []string{"encoder"}, func(_, dir string) error {
			return os.WriteFile(filepath.Join(dir, "weights.safetensors"), make([]byte, bytes), 0o666)
		})
	}
	if err := save(1, 100<<10); err != nil {
		t.Fatal(err)
	}
	if err := save(2, 400<<10); !errors.Is(err, ErrNoSpace) {
		t.Errorf("%v; want ErrNoSpace", err)
	}
	if err := WriteFile(filepath.Join(dir, "big"), make([]byte, 400<<10)); !errors.Is(err, ErrNoSpace) {
		t.Errorf("%v; want ErrNoSpace", err)
	}
	if c, _, err := Latest(r.Dir); err != nil || c.State.Step != 1 {
		t.Errorf("the old checkpoint: %+v, %v", c, err)
	}
	if err := save(3, 20<<10); err != nil {
		t.Errorf("what failed was not cleaned up: %v", err)
	}
}

func TestSaveRefusesWhatIsNoPlainFile(t *testing.T) {
	r := create(t)
	saveSteps(t, r, 0, 10)
	for name, make := range map[string]func(dir string) error{
		"link": func(dir string) error { return os.Symlink("weights.safetensors", filepath.Join(dir, "x")) },
		"pipe": func(dir string) error { return syscall.Mkfifo(filepath.Join(dir, "x"), 0o666) },
	} {
		err := r.Save(State{Step: 20}, roles, func(_, dir string) error { return make(dir) })
		if err == nil || !strings.Contains(err.Error(), "is not a plain file") || !strings.Contains(err.Error(), "step-20 was not saved") {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Folders inside a stage's folder are its own.
	if err := r.Save(State{Step: 30}, []string{"head"}, func(_, dir string) error {
		if err := os.MkdirAll(filepath.Join(dir, "deep"), 0o777); err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(dir, "deep", "w"), []byte("w"), 0o666)
	}); err != nil {
		t.Fatal(err)
	}
	m, err := readCheckpoint(checkpointPath(r.Dir, 30))
	if err != nil || m.Files["head/deep/w"].Bytes != 1 {
		t.Errorf("%+v, %v", m, err)
	}
}
