package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestHeaderVersion(t *testing.T) {
	for _, test := range []struct{ name, text, moved, want string }{
		{name: "string", text: versionHeader, want: "9.8.7+test"},
		{name: "numbers only", text: "#define TORCH_VERSION_MAJOR 2\n#define TORCH_VERSION_MINOR 1\n#define TORCH_VERSION_PATCH 0\n", want: "2.1.0"},
		{name: "moved to headeronly", text: "#include <torch/headeronly/version.h>\n",
			moved: "#define TORCH_VERSION_MAJOR 2\n#define TORCH_VERSION_MINOR 9\n#define TORCH_VERSION_PATCH 1\n", want: "2.9.1"},
		{name: "none", text: "#pragma once\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			include := t.TempDir()
			if test.moved != "" {
				write(t, include, map[string]string{"torch/headeronly/version.h": test.moved})
			}
			got, err := headerVersion(include, test.text)
			if got != test.want || (err == nil) != (test.want != "") {
				t.Errorf("got %q, %v; want %q", got, err, test.want)
			}
		})
	}
}

func TestFindLibtorchKnowsTheLayouts(t *testing.T) {
	torch := tinyTorch(t, tinyHeader)
	found, err := findLibtorch(torch)
	if err != nil {
		t.Fatal(err)
	}
	if found.LibDir != filepath.Join(torch, "lib") || found.CUDA {
		t.Errorf("found %+v", found)
	}

	multiarch := filepath.Join(torch, "lib", "x86_64-linux-gnu")
	if err := os.Mkdir(multiarch, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"libc10.so", "libtorch.so", "libtorch_cpu.so"} {
		if err := os.Rename(filepath.Join(torch, "lib", name), filepath.Join(multiarch, name)); err != nil {
			t.Fatal(err)
		}
	}
	write(t, multiarch, map[string]string{"libtorch_cuda.so": "\x7fELF"})
	found, err = findLibtorch(torch)
	if err != nil {
		t.Fatal(err)
	}
	if found.LibDir != multiarch || !found.CUDA {
		t.Errorf("found %+v; want the Debian layout with CUDA", found)
	}

	// PyPI puts the headers of CUDA and NCCL beside torch.
	beside := filepath.Join(filepath.Dir(torch), "nvidia", "nccl", "include")
	write(t, beside, map[string]string{"nccl.h": ""})
	t.Cleanup(func() { os.RemoveAll(filepath.Join(filepath.Dir(torch), "nvidia")) })
	if found, err = findLibtorch(torch); err != nil || !slices.Contains(found.IncludeDirs, beside) {
		t.Errorf("%+v, %v; want %s among the headers", found, err, beside)
	}
}

// NCCL's part is asked for by a libtorch for CUDA alone.
func TestTheFolderOfNCCLIsKnownByItsHeader(t *testing.T) {
	for dir, want := range map[string]bool{"native": false, "native/nccl/native": true} {
		l, err := readKernels(filepath.Join("../../sdk/torchstage", dir))
		if err != nil || l.wantsNCCL() != want {
			t.Errorf("%s: %s, %v, %v", dir, l.name, l.wantsNCCL(), err)
		}
	}
}

func TestFindLibtorchSaysWhatIsWrong(t *testing.T) {
	empty := t.TempDir()
	if _, err := findLibtorch(empty); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("empty folder: %v", err)
	}
	if _, err := findLibtorch("libtorch_test.go"); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "holds no libtorch") {
		t.Errorf("a file: %v", err)
	}
	headers := t.TempDir()
	write(t, headers, map[string]string{"include/torch/csrc/api/include/torch/version.h": "#define TORCH_VERSION \"1.12.1\"\n"})
	if _, err := findLibtorch(headers); err == nil || !strings.Contains(err.Error(), "libtorch 1.12.1 in "+headers+" is too old") {
		t.Errorf("an old one: %v", err)
	}
	write(t, headers, map[string]string{"include/torch/csrc/api/include/torch/version.h": versionHeader})
	if _, err := findLibtorch(headers); err == nil || !strings.Contains(err.Error(), "no libtorch_cpu.so") {
		t.Errorf("headers without libraries: %v", err)
	}
	write(t, headers, map[string]string{"lib/libtorch_cpu.so": "x", "lib/libc10.so": "not an ELF file"})
	if _, err := findLibtorch(headers); err == nil || !strings.Contains(err.Error(), "libc10.so") {
		t.Errorf("a broken library: %v", err)
	}
	t.Cleanup(func(saved []string) func() { return func() { systemPrefixes = saved } }(systemPrefixes))
	systemPrefixes = []string{empty}
	if _, err := findLibtorch(""); err == nil || !strings.Contains(err.Error(), "LIBTORCH") {
		t.Errorf("no libtorch anywhere: %v; want a hint at LIBTORCH", err)
	}
}

func TestStringFlavourIsReadFromTheLibrary(t *testing.T) {
	lib := filepath.Join(tinyTorch(t, tinyHeader), "lib")
	for library, want := range map[string]bool{"libc10.so": true, "libtorch_cpu.so": false} {
		got, err := usesCXX11ABI(filepath.Join(lib, library))
		if err != nil || got != want {
			t.Errorf("%s: new std::string %v, %v; want %v", library, got, err, want)
		}
	}
}
