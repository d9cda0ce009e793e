// Package atomicfile writes whole files or none.
package atomicfile

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// Write writes path by way of a temporary file in its folder, which is renamed
// when everything is on disk: a failed call leaves the old file as it was. A
// symbolic link stays and its target is written. What is there and no regular
// file (a pipe, a terminal, /dev/stdout) is written to directly: a rename would
// put a file in the device's place.
func Write(path string, write func(io.Writer) error) error {
	if err := put(path, write); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

func put(path string, write func(io.Writer) error) (err error) {
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		file, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		return errors.Join(buffered(file, write), file.Close())
	}
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target
	}
	file, err := os.CreateTemp(filepath.Dir(path), ".part-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(file.Name()))
		}
	}()
	if err = errors.Join(buffered(file, write), file.Chmod(0o644), file.Sync(), file.Close()); err != nil {
		return err
	}
	return os.Rename(file.Name(), path)
}

func buffered(file *os.File, write func(io.Writer) error) error {
	b := bufio.NewWriterSize(file, 1<<16)
	return errors.Join(write(b), b.Flush())
}
