package atomicfile

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func text(s string) func(io.Writer) error {
	return func(w io.Writer) error {
		_, err := io.WriteString(w, s)
		return err
	}
}

func content(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestWriteReplacesAFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "out")
	for _, want := range []string{"first", "second"} {
		if err := Write(path, text(want)); err != nil {
			t.Fatal(err)
		}
		if got := content(t, path); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestFailedWriteKeepsTheOldFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "out")
	if err := Write(path, text("old")); err != nil {
		t.Fatal(err)
	}
	half := errors.New("half-way")
	if err := Write(path, func(io.Writer) error { return half }); !errors.Is(err, half) || !strings.Contains(err.Error(), path) {
		t.Errorf("error %v", err)
	}
	entries, err := os.ReadDir(dir)
	if got := content(t, path); got != "old" || err != nil || len(entries) != 1 {
		t.Errorf("%q and %d entries are left, want the old file alone", got, len(entries))
	}
}

func TestSymbolicLinkStays(t *testing.T) {
	dir := t.TempDir()
	target, link := filepath.Join(dir, "target"), filepath.Join(dir, "link")
	if err := os.WriteFile(target, []byte("old"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("target", link); err != nil {
		t.Fatal(err)
	}
	if err := Write(link, text("new")); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Lstat(link); err != nil || info.Mode()&os.ModeSymlink == 0 || content(t, target) != "new" {
		t.Errorf("link %v (%v), target %q", info.Mode(), err, content(t, target))
	}
}

func TestFolderIsRefused(t *testing.T) {
	dir := t.TempDir()
	if err := Write(dir, text("x")); err == nil {
		t.Error("no error for a folder")
	}
	if err := Write(filepath.Join(dir, "absent", "out"), text("x")); err == nil {
		t.Error("no error for a folder that is not there")
	}
}

func TestFullDiskIsRecognised(t *testing.T) {
	err := Write("/dev/full", text("x"))
	if errors.Is(err, os.ErrNotExist) {
		t.Skip("no /dev/full here")
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("error %v, want no space left", err)
	}
}

func TestFolderAppearsWholeOrNotAtAll(t *testing.T) {
	parent := t.TempDir()
	path := filepath.Join(parent, "deep", "out")
	half := errors.New("half-way")
	fill := func(err error) func(string) error {
		return func(dir string) error { return errors.Join(os.WriteFile(filepath.Join(dir, "a"), nil, 0o600), err) }
	}
	if err := Folder(path, fill(half)); !errors.Is(err, half) {
		t.Errorf("error %v, want that of fill", err)
	}
	if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) != 0 {
		t.Errorf("left behind: %v (%v)", entries, err)
	}
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := Folder(path, fill(nil)); err != nil {
		t.Errorf("an empty folder is refused: %v", err)
	}
	if _, err := os.Stat(filepath.Join(path, "a")); err != nil {
		t.Error(err)
	}
	if err := Folder(path, fill(nil)); !errors.Is(err, ErrNotEmpty) || !strings.Contains(err.Error(), path) {
		t.Errorf("error %v, want ErrNotEmpty", err)
	}
}

func TestWriteBytesSoonIsWholeAtOnceAndLeavesNothingBehind(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	for _, content := range []string{"one", "another"} {
		flush, err := WriteBytesSoon(path, []byte(content))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != content {
			t.Errorf("%q, %v before it is on disk, want %q", got, err, content)
		}
		if err := flush(); err != nil {
			t.Error(err)
		}
	}
	if _, err := WriteBytesSoon(filepath.Join(dir, "none", "file"), nil); err == nil {
		t.Error("a folder that is not there wants an error")
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("%v, %v, want one file", entries, err)
	}
}
