package main

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/alignedfusion/alignedfusion/internal/atomicfile"
)

// Portable libraries are compiled once for a series of libtorch releases and serve any of
// its folders: in place of a run path they hold runPathPlace, which installing overwrites.
// They name no OpenMP runtime, for a wheel's has a name of its own; libtorch brings it.

// runPathPlace stands for libtorch's folder; longer folders do not fit in.
var runPathPlace = "/" + strings.Repeat("place-of-libtorch/", 28)

var minorVersion = regexp.MustCompile(`^\d+\.\d+`)

// series names the releases that one portable library serves: a minor version, one
// std::string, and one way of naming libraries (distributions put the version into names).
func (l *libtorch) series() (string, error) {
	name := "torch-" + minorVersion.FindString(l.Version)
	if !l.CXX11ABI {
		name += "-oldabi"
	}
	f, err := elf.Open(filepath.Join(l.LibDir, "libtorch_cpu.so"))
	if err != nil {
		return "", err
	}
	defer f.Close()
	soname, err := f.DynString(elf.DT_SONAME)
	if err != nil {
		return "", fmt.Errorf("reading libtorch_cpu.so: %w", err)
	}
	if len(soname) > 0 && !strings.HasSuffix(soname[0], ".so") {
		name += "-distribution"
	}
	return name + "-" + strings.ToLower(strings.TrimPrefix(f.Machine.String(), "EM_")), nil
}

// installPrebuilt puts the libraries of dir that were compiled for torch's series into out.
// The error is fs.ErrNotExist where dir has none.
func installPrebuilt(torch *libtorch, dir, out string, log io.Writer) error {
	series, err := torch.series()
	if err != nil {
		return err
	}
	libraries, err := filepath.Glob(filepath.Join(dir, series, "*.so"))
	if err != nil {
		return err
	}
	if len(libraries) == 0 {
		var have []string
		entries, err := os.ReadDir(dir)
		if err != nil {
			return err
		}
		for _, e := range entries {
			have = append(have, e.Name())
		}
		return fmt.Errorf("no prebuilt libraries for %s (libtorch %s in %s), there are %s: %w",
			series, torch.Version, torch.LibDir, strings.Join(have, ", "), fs.ErrNotExist)
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	for _, library := range libraries {
		text, err := os.ReadFile(library)
		if err != nil {
			return err
		}
		if text, err = placeRunPath(text, torch.runPath()); err != nil {
			return fmt.Errorf("%s: %w", library, err)
		}
		name := strings.TrimSuffix(filepath.Base(library), ".so")
		r, err := readJSON[record](filepath.Join(dir, series, name+".json"))
		if err != nil {
			return err
		}
		r.Libtorch = torch
		if err := atomicfile.WriteBytes(filepath.Join(out, name+".so"), text); err != nil {
			return err
		}
		if err := writeJSON(filepath.Join(out, name+".json"), r); err != nil {
			return err
		}
		fmt.Fprintf(log, "%s.so for libtorch %s (%s)\n", name, torch.Version, torch.LibDir)
		if name == shimLibrary {
			sayUnused(out, log)
		}
	}
	return nil
}

// placeRunPath writes a run path into a portable library.
func placeRunPath(library []byte, path string) ([]byte, error) {
	if len(path) > len(runPathPlace) {
		return nil, fmt.Errorf("libtorch's folder has %d characters, at most %d fit in: make a shorter link to it", len(path), len(runPathPlace))
	}
	if !bytes.Contains(library, []byte(runPathPlace)) {
		return nil, errors.New("it has no place for libtorch's folder")
	}
	return bytes.ReplaceAll(library, []byte(runPathPlace), slices.Concat([]byte(path), make([]byte, len(runPathPlace)-len(path)))), nil
}
