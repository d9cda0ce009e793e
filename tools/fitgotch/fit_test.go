package main

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// write creates files below dir.
func write(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

const versionHeader = `#pragma once
#define TORCH_VERSION_MAJOR 9
#define TORCH_VERSION_MINOR 8
#define TORCH_VERSION_PATCH 7
#define TORCH_VERSION \
  "9.8.7+test"
`

// tinyLibraries is the folder of tinyTorch's libraries, compiled once.
var tinyLibraries struct {
	sync.Once
	dir string
}

func TestMain(m *testing.M) {
	code := m.Run()
	if tinyLibraries.dir != "" {
		os.RemoveAll(tinyLibraries.dir)
	}
	os.Exit(code)
}

// tinyTorch is a libtorch of one function, relu; sigmoid is declared but in no library.
func tinyTorch(t *testing.T, header string) string {
	t.Helper()
	gxx, err := exec.LookPath("g++")
	if err != nil {
		t.Skip("no g++ on this machine")
	}
	tinyLibraries.Do(func() {
		dir, err := os.MkdirTemp("", "fitgotch-test-*")
		if err != nil {
			t.Fatal(err)
		}
		tinyLibraries.dir = dir
		write(t, dir, map[string]string{
			"c10.cpp": "namespace std { inline namespace __cxx11 { struct text; } }\nnamespace c10 { int length(const std::text &) { return 0; } }\n",
			"cpu.cpp": "namespace torch { int relu(int x) { return x > 0 ? x : 0; } }\n",
			"all.cpp": "",
		})
		for library, source := range map[string]string{"libc10.so": "c10.cpp", "libtorch_cpu.so": "cpu.cpp", "libtorch.so": "all.cpp"} {
			cmd := exec.Command(gxx, "-shared", "-fPIC", "-o", library, source)
			cmd.Dir = dir
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
		}
	})
	dir := t.TempDir()
	if err := os.CopyFS(filepath.Join(dir, "lib"), os.DirFS(tinyLibraries.dir)); err != nil {
		t.Fatal(err)
	}
	write(t, dir, map[string]string{
		"include/torch/csrc/api/include/torch/version.h": versionHeader,
		"include/torch/csrc/api/include/torch/torch.h":   header,
	})
	return dir
}

const tinyHeader = `#pragma once
#include <stdexcept>
namespace torch { int relu(int); int sigmoid(int); }
`

var tinyShim = map[string]string{
	"torch_api.h": `#include <torch/torch.h>
extern thread_local const char *torch_last_err;
#define PROTECT(x) try { x } catch (const std::exception &e) { torch_last_err = "failed"; }
`,
	"torch_api.cpp": `#include "torch_api.h"
thread_local const char *torch_last_err = nullptr;
extern "C" {
int atg_relu(int x) {
  PROTECT(return torch::relu(x);)
  return 0;
}
}
`,
	"af_twice.cpp": `extern "C" int af_twice(int x) { return 2 * x; }
`,
	"reach.json": `{"native": {"atg_relu": "plugins/a/a.go:3", "af_twice": "", "atg_gelu": "plugins/a/a.go:5", "atg_sigmoid": ""}}`,
}

// lacking is a shim source whose functions the tiny libtorch does not have: gelu is not
// declared, sigmoid in no library.
func lacking(call string) map[string]string {
	return map[string]string{"torch_api.cpp": tinyShim["torch_api.cpp"] + "extern \"C\" {\nvoid atg_" + call + "(int x) {\n  PROTECT(\n    torch::" + call + "(x);\n  )\n}\n}\n"}
}

func build(t *testing.T, torch, project string, flags ...string) (string, error) {
	t.Helper()
	t.Setenv("LIBTORCH", "")
	var log bytes.Buffer
	args := append([]string{"-root", project, "-libtorch", torch, "-shim-only"}, flags...)
	err := run(context.Background(), args, &log)
	return log.String(), err
}

func tinyProject(t *testing.T) string {
	t.Helper()
	project := t.TempDir()
	write(t, filepath.Join(project, "build", "shim", "src"), tinyShim)
	return project
}

func TestFitBuildsTheLibraryAndSaysFromWhat(t *testing.T) {
	torch, project := tinyTorch(t, tinyHeader), tinyProject(t)
	log, err := build(t, torch, project)
	if err != nil {
		t.Fatalf("%v\n%s", err, log)
	}
	got, err := readJSON[record](filepath.Join(project, "build", "lib", "libtch.json"))
	if err != nil {
		t.Fatal(err)
	}
	if got.Functions != 4 || got.Standard != "c++17" || got.Libtorch.Version != "9.8.7+test" || !got.Libtorch.CXX11ABI {
		t.Errorf("record = %+v, libtorch %+v", got, got.Libtorch)
	}
	if !isFile(filepath.Join(project, "build", "lib", "libtch.so")) {
		t.Error("no libtch.so")
	}
}

func TestFunctionThatLibtorchLacksEndsTheFitWithItsNameAndPlace(t *testing.T) {
	torch := tinyTorch(t, tinyHeader)
	for call, want := range map[string]string{"gelu": "cannot serve: atg_gelu, needed by plugins/a/a.go:5;", "sigmoid": "cannot serve: atg_sigmoid;"} {
		project := tinyProject(t)
		write(t, filepath.Join(project, "build", "shim", "src"), lacking(call))
		_, err := build(t, torch, project)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "atg_relu") {
			t.Errorf("%s: error %v; want %q", call, err, want)
		}
		if isFile(filepath.Join(project, "build", "lib", "libtch.so")) {
			t.Errorf("%s: a failed fit left a libtch.so", call)
		}
	}
}

func TestFitAgainDoesNothingUntilSomethingChanges(t *testing.T) {
	torch, project := tinyTorch(t, tinyHeader), tinyProject(t)
	if log, err := build(t, torch, project); err != nil {
		t.Fatalf("%v\n%s", err, log)
	}
	work := filepath.Join(project, "build", "shim", "work", "libtch")
	modified := func(name string) int64 {
		info, err := os.Stat(filepath.Join(work, name))
		if err != nil {
			t.Fatal(err)
		}
		return info.ModTime().UnixNano()
	}
	shim, own := modified("torch_api.cpp.o"), modified("af_twice.cpp.o")

	log, err := build(t, torch, project)
	if err != nil || !strings.Contains(log, "up to date") {
		t.Fatalf("second run: %v, %q; want up to date", err, log)
	}

	write(t, filepath.Join(project, "build", "shim", "src"), map[string]string{"af_twice.cpp": `extern "C" int af_twice(int x) { return x + x; }` + "\n"})
	if log, err = build(t, torch, project); err != nil || strings.Contains(log, "up to date") {
		t.Fatalf("after an edit of an own source: %v, %q; want a build", err, log)
	}
	if modified("torch_api.cpp.o") != shim {
		t.Error("an edit of an own source recompiled gotch's shim")
	}
	if modified("af_twice.cpp.o") == own {
		t.Error("an edited own source was not recompiled")
	}

	if err := os.Remove(filepath.Join(project, "build", "lib", "libtch.so")); err != nil {
		t.Fatal(err)
	}
	if log, err = build(t, torch, project); err != nil || !isFile(filepath.Join(project, "build", "lib", "libtch.so")) {
		t.Errorf("a deleted libtch.so was not built again: %v, %q", err, log)
	}

	shim = modified("torch_api.cpp.o")
	if log, err = build(t, torch, project, "-force"); err != nil {
		t.Fatalf("%v\n%s", err, log)
	}
	if modified("torch_api.cpp.o") == shim {
		t.Error("-force did not recompile")
	}
}

func TestFitSwitchesToAnotherLibtorch(t *testing.T) {
	project := tinyProject(t)
	if log, err := build(t, tinyTorch(t, tinyHeader), project); err != nil {
		t.Fatalf("%v\n%s", err, log)
	}
	other := tinyTorch(t, tinyHeader)
	if log, err := build(t, other, project); err != nil {
		t.Fatalf("%v\n%s", err, log)
	}
	got, err := readJSON[record](filepath.Join(project, "build", "lib", "libtch.json"))
	if err != nil {
		t.Fatal(err)
	}
	if got.Libtorch.LibDir != filepath.Join(other, "lib") {
		t.Errorf("built for %s, want %s", got.Libtorch.LibDir, other)
	}
}

func TestFitTakesCXX20WhenHeadersWantIt(t *testing.T) {
	torch := tinyTorch(t, "#if __cplusplus < 202002L\n#error C++20 or later compatible compiler is required\n#endif\n"+tinyHeader)
	project := tinyProject(t)
	if log, err := build(t, torch, project); err != nil {
		t.Fatalf("%v\n%s", err, log)
	}
	got, err := readJSON[record](filepath.Join(project, "build", "lib", "libtch.json"))
	if err != nil {
		t.Fatal(err)
	}
	if got.Standard != "c++20" {
		t.Errorf("standard %s; want c++20", got.Standard)
	}
}

func TestFitReportsErrorsOutsideFunctions(t *testing.T) {
	torch, project := tinyTorch(t, tinyHeader+"nonsense;\n"), tinyProject(t)
	_, err := build(t, torch, project)
	if err == nil || !strings.Contains(err.Error(), "nonsense") {
		t.Errorf("error %v; want one that quotes the header's line", err)
	}
	if isFile(filepath.Join(project, "build", "lib", "libtch.so")) {
		t.Error("a failed fit left a libtch.so")
	}
}

func TestFitReportsAFaultyOwnSource(t *testing.T) {
	torch, project := tinyTorch(t, tinyHeader), tinyProject(t)
	write(t, filepath.Join(project, "build", "shim", "src"), map[string]string{"af_twice.cpp": "nonsense;\n"})
	_, err := build(t, torch, project)
	if err == nil || !strings.Contains(err.Error(), "compiling af_twice.cpp") {
		t.Errorf("error %v; want one that names af_twice.cpp", err)
	}
}

func TestFitSaysWhatIsMissing(t *testing.T) {
	torch, project := tinyTorch(t, tinyHeader), tinyProject(t)
	t.Run("compiler", func(t *testing.T) {
		t.Setenv("CXX", "no-such-compiler")
		if _, err := build(t, torch, project); err == nil || !strings.Contains(err.Error(), "install g++ or set CXX") {
			t.Errorf("error %v; want a hint at g++", err)
		}
	})
	t.Run("sources", func(t *testing.T) {
		if _, err := build(t, torch, t.TempDir()); err == nil || !strings.Contains(err.Error(), "-sources") {
			t.Errorf("error %v; want a hint at -sources", err)
		}
	})
	t.Run("libtorch", func(t *testing.T) {
		if _, err := build(t, t.TempDir(), project); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "holds no libtorch") {
			t.Errorf("error %v; want one that says the folder holds no libtorch", err)
		}
	})
}

func TestRunRefusesBadArguments(t *testing.T) {
	for _, args := range [][]string{{"-shim-only", "-go-only"}, {"-shim-only", "./..."}, {"-unknown"}} {
		if err := run(context.Background(), args, &bytes.Buffer{}); err == nil {
			t.Errorf("%q: no error", args)
		}
	}
}

func TestKernelsAreALibraryBesideTheShimAndBuiltWhenTheyChange(t *testing.T) {
	torch, project := tinyTorch(t, tinyHeader), tinyProject(t)
	native := filepath.Join(project, "plugins", "toy", "native")
	write(t, native, map[string]string{"toy.cpp": "#include \"toy.h\"\n#include <torch/torch.h>\nint toy() { return torch::relu(kToy); }\n", "toy.h": "constexpr int kToy = 1;\n"})
	library := filepath.Join(project, "build", "lib", "libalignedfusion_toy.so")
	for _, step := range []struct {
		name, want string
		change     func()
	}{
		{"first", "libalignedfusion_toy.so built", func() {}},
		{"again", "libalignedfusion_toy.so is up to date", func() {}},
		{"changed header", "libalignedfusion_toy.so built", func() { write(t, native, map[string]string{"toy.h": "constexpr int kToy = 2;\n"}) }},
		{"deleted library", "libalignedfusion_toy.so built", func() { os.Remove(library) }},
	} {
		step.change()
		log, err := build(t, torch, project, "-kernels", native)
		if err != nil || !strings.Contains(log, step.want) || !isFile(library) {
			t.Fatalf("%s: %v, %q; want %q", step.name, err, log, step.want)
		}
	}
	for name, test := range map[string]struct{ text, want string }{
		"faulty": {"nonsense;\n", "compiling toy.cpp"},
		"void":   {"", "holds no .cpp file"},
	} {
		dir := filepath.Join(project, "plugins", name, "native")
		write(t, dir, map[string]string{"toy.h": ""})
		if test.text != "" {
			write(t, dir, map[string]string{"toy.cpp": test.text})
		}
		if _, err := build(t, torch, project, "-kernels", dir); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v; want %q", name, err, test.want)
		}
	}
	if _, err := build(t, torch, project, "-kernels", filepath.Join(project, "nowhere")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no folder: %v", err)
	}
}
