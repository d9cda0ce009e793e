package main

import (
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
)

// libtorch describes one installed libtorch.
type libtorch struct {
	Version     string   `json:"version"`
	LibDir      string   `json:"lib_dir"`
	IncludeDirs []string `json:"include_dirs"`
	CUDA        bool     `json:"cuda"`
	CXX11ABI    bool     `json:"cxx11_abi"` // std::string flavour the libraries were built with
}

// systemPrefixes are the places looked at when no folder is named. A prefix
// follows Debian's layout: headers under include/, libraries under
// lib/<triplet>/.
var systemPrefixes = []string{"/usr", "/usr/local"}

// findLibtorch returns the libtorch in dir, or, when dir is empty, the system's.
// dir may be the official zip's `libtorch` folder or a Python wheel's `torch`
// folder (include/ and lib/ inside), or a prefix with Debian's layout.
func findLibtorch(dir string) (*libtorch, error) {
	if dir != "" {
		abs, err := filepath.Abs(dir)
		if err != nil {
			return nil, err
		}
		return libtorchAt(abs)
	}
	for _, prefix := range systemPrefixes {
		found, err := libtorchAt(prefix)
		if err == nil {
			return found, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	return nil, fmt.Errorf("no libtorch found under %s: install libtorch-dev, or set LIBTORCH to a folder with include/ and lib/",
		strings.Join(systemPrefixes, ", "))
}

// cudaHeaders are the folders of CUDA's and NCCL's headers: what PyPI puts beside a libtorch, and
// an installed toolkit's.
func cudaHeaders(torch string) []string {
	found, err := filepath.Glob(filepath.Join(filepath.Dir(torch), "nvidia", "*", "include"))
	if err != nil {
		return nil
	}
	for _, home := range cudaHomes() {
		include := filepath.Join(home, "include")
		if isFile(filepath.Join(include, "cuda_runtime_api.h")) {
			return append(found, include)
		}
	}
	return found
}

// cudaHomes are where an installed toolkit may lie.
func cudaHomes() []string {
	if home := os.Getenv("CUDA_HOME"); home != "" {
		return []string{home, "/usr/local/cuda"}
	}
	return []string{"/usr/local/cuda"}
}

// system tells whether the libraries lie in a folder shared with other packages.
func (l *libtorch) system() bool {
	for _, prefix := range systemPrefixes {
		if l.LibDir == filepath.Join(prefix, "lib") || strings.HasPrefix(l.LibDir, filepath.Join(prefix, "lib")+"/") && strings.HasSuffix(l.LibDir, "-linux-gnu") {
			return true
		}
	}
	return false
}

func libtorchAt(dir string) (*libtorch, error) {
	include := filepath.Join(dir, "include")
	api := filepath.Join(include, "torch", "csrc", "api", "include")
	header := filepath.Join(api, "torch", "version.h")
	text, err := os.ReadFile(header)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return nil, fmt.Errorf("%s holds no libtorch: %s is missing; name the torch folder of a Python wheel, or the unpacked official zip: %w", dir, header, fs.ErrNotExist)
	}
	if err != nil {
		return nil, err
	}
	found := &libtorch{IncludeDirs: []string{include, api}}
	if found.Version, err = headerVersion(include, string(text)); err != nil {
		return nil, fmt.Errorf("%s: %w", header, err)
	}
	var major, minor int
	if _, err := fmt.Sscanf(found.Version, "%d.%d", &major, &minor); err != nil || major < 1 || major == 1 && minor < 13 {
		return nil, fmt.Errorf("libtorch %s in %s is too old: 1.13 and newer are served", found.Version, dir)
	}
	candidates := []string{filepath.Join(dir, "lib"), filepath.Join(dir, "lib64")}
	multiarch, err := filepath.Glob(filepath.Join(dir, "lib", "*-linux-gnu"))
	if err != nil {
		return nil, err
	}
	for _, lib := range append(candidates, multiarch...) {
		if isFile(filepath.Join(lib, "libtorch_cpu.so")) {
			found.LibDir = lib
			break
		}
	}
	if found.LibDir == "" {
		return nil, fmt.Errorf("%s has libtorch's headers but no libtorch_cpu.so under lib/", dir)
	}
	if found.CUDA = isFile(filepath.Join(found.LibDir, "libtorch_cuda.so")); found.CUDA {
		found.IncludeDirs = append(found.IncludeDirs, cudaHeaders(dir)...)
	}
	found.CXX11ABI, err = usesCXX11ABI(filepath.Join(found.LibDir, "libc10.so"))
	return found, err
}

var versionDefine = regexp.MustCompile(`(?m)^#define TORCH_VERSION\s*(?:\\\s*)?"([^"]+)"`)
var versionPart = regexp.MustCompile(`(?m)^#define TORCH_VERSION_(MAJOR|MINOR|PATCH)\s+(\d+)`)

// headerVersion reads the release from torch/version.h; newer releases define
// the numbers in headeronly/version.h and leave only includes behind.
func headerVersion(include, text string) (string, error) {
	texts := []string{text}
	if b, err := os.ReadFile(filepath.Join(include, "torch", "headeronly", "version.h")); err == nil {
		texts = append(texts, string(b))
	}
	for _, t := range texts {
		if m := versionDefine.FindStringSubmatch(t); m != nil {
			return m[1], nil
		}
	}
	for _, t := range texts {
		part := map[string]string{}
		for _, m := range versionPart.FindAllStringSubmatch(t, -1) {
			part[m[1]] = m[2]
		}
		if len(part) == 3 {
			return part["MAJOR"] + "." + part["MINOR"] + "." + part["PATCH"], nil
		}
	}
	return "", errors.New("no TORCH_VERSION in it")
}

// usesCXX11ABI tells with which std::string a libtorch was built: the new one
// leaves its namespace __cxx11 in the mangled names. Code linked against it must
// agree (_GLIBCXX_USE_CXX11_ABI).
func usesCXX11ABI(libc10 string) (bool, error) {
	f, err := elf.Open(libc10)
	if err != nil {
		return false, fmt.Errorf("reading %s: %w", libc10, err)
	}
	defer f.Close()
	symbols, err := f.DynamicSymbols()
	if err != nil {
		return false, fmt.Errorf("reading %s: %w", libc10, err)
	}
	for _, s := range symbols {
		if strings.HasPrefix(s.Name, "_ZN3c10") && strings.Contains(s.Name, "__cxx11") {
			return true, nil
		}
	}
	return false, nil
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}
