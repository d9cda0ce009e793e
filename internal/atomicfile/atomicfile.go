// Package atomicfile writes whole files and folders or none.
//
// The well-kept library for this, google/renameio, flushes no folder and refuses
// to build for Windows; around it would stand more code than it replaces.
package atomicfile

import (
	"bufio"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
)

// Write writes path by way of a temporary file in its folder, which takes the
// name when everything is on disk: a failed call leaves the old file as it was.
// The umask decides on the permissions. A symbolic link stays and its target is
// written. What is there and no regular file (a pipe, a terminal, /dev/stdout) is
// written to directly: a rename would put a file in the device's place. A full
// disk is found with errors.Is and syscall.ENOSPC.
func Write(path string, write func(io.Writer) error) error {
	return put(path, 0o666, write)
}

// WriteBytes is Write of content that is at hand.
func WriteBytes(path string, data []byte) error {
	return put(path, 0o666, bytesOf(data))
}

// WriteBytesSoon is WriteBytes that does not wait for the disk. Readers see the old file or the
// whole new one, also after this process is killed; a power cut before flush has returned may
// leave the file empty.
func WriteBytesSoon(path string, data []byte) (flush func() error, err error) {
	temporary := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+"."+rand.Text()[:8]+".tmp")
	err = os.WriteFile(temporary, data, 0o666)
	if err == nil {
		err = os.Rename(temporary, path)
	}
	if err != nil {
		_ = os.Remove(temporary)
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return func() error {
		file, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		return errors.Join(file.Sync(), file.Close(), SyncDir(filepath.Dir(path)))
	}, nil
}

// WritePrivate is Write of a file that only its owner may read.
func WritePrivate(path string, write func(io.Writer) error) error {
	return put(path, 0o600, write)
}

// WritePrivateBytes is WritePrivate of content that is at hand.
func WritePrivateBytes(path string, data []byte) error {
	return put(path, 0o600, bytesOf(data))
}

func bytesOf(data []byte) func(io.Writer) error {
	return func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	}
}

func put(path string, mode fs.FileMode, write func(io.Writer) error) error {
	var err error
	if info, stat := os.Stat(path); stat == nil && !info.Mode().IsRegular() {
		err = direct(path, write)
	} else {
		err = replace(path, mode, write)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

func direct(path string, write func(io.Writer) error) error {
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	return errors.Join(buffered(file, write), file.Close())
}

func replace(path string, mode fs.FileMode, write func(io.Writer) error) (err error) {
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target
	}
	dir, name := filepath.Dir(path), filepath.Base(path)
	temporary := filepath.Join(dir, "."+name+"."+rand.Text()[:8]+".tmp")
	file, err := os.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	if err := errors.Join(buffered(file, write), file.Sync(), file.Close()); err != nil {
		return errors.Join(err, os.Remove(temporary))
	}
	if err := os.Rename(temporary, path); err != nil {
		return errors.Join(err, os.Remove(temporary))
	}
	return SyncDir(dir)
}

func buffered(file *os.File, write func(io.Writer) error) error {
	b := bufio.NewWriterSize(file, 1<<16)
	return errors.Join(write(b), b.Flush())
}

// SyncDir flushes a folder's entries to disk, so that a rename in it survives a
// power cut. Windows has no such call.
func SyncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// ErrNotEmpty is wrapped when Folder meets a folder with something in it, or a file.
var ErrNotEmpty = errors.New("exists and is not empty")

// Folder makes a folder whole or not at all: fill writes into a temporary one
// beside it, which then takes the name. The folder may be there when it is empty;
// its parents are made.
func Folder(path string, fill func(dir string) error) error {
	path = filepath.Clean(path)
	entries, err := os.ReadDir(path)
	if info, failed := os.Stat(path); failed == nil && !info.IsDir() {
		return fmt.Errorf("%s %w: it is a file; choose a new folder", path, ErrNotEmpty)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if len(entries) > 0 {
		return fmt.Errorf("%s %w: choose a new folder", path, ErrNotEmpty)
	}
	parent := filepath.Dir(path)
	if err := os.MkdirAll(parent, 0o777); err != nil {
		return err
	}
	temporary := filepath.Join(parent, "."+filepath.Base(path)+"."+rand.Text()[:8]+".tmp")
	if err := os.Mkdir(temporary, 0o777); err != nil {
		return err
	}
	defer os.RemoveAll(temporary) // after the rename there is nothing left to remove
	if err := fill(temporary); err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.Rename(temporary, path)
}
