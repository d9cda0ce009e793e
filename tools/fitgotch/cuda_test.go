package main

import (
	"context"
	"debug/elf"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Sources of CUDA become part of a library where nvcc is, and the other sources know of it;
// where it is not, the library is built without them and says what is missing.
func TestKernelsForCUDAAreCompiledWhereNvccIs(t *testing.T) {
	torch, project := tinyTorch(t, tinyHeader), tinyProject(t)
	libraries := filepath.Join(torch, "lib")
	text, err := os.ReadFile(filepath.Join(libraries, "libtorch.so"))
	if err != nil {
		t.Fatal(err)
	}
	write(t, libraries, map[string]string{"libtorch_cuda.so": string(text)})
	native, home := filepath.Join(project, "plugins", "toy", "native"), t.TempDir()
	write(t, native, map[string]string{
		"toy.cpp": "#ifdef ALIGNEDFUSION_CUDA\n#include <cuda_runtime_api.h>\nint twice(int);\nint toy() { return twice(kOne); }\n#else\nint toy() { return 2; }\n#endif\n",
		"toy.cu":  "int twice(int x) { return 2 * x; }\n",
	})
	write(t, home, map[string]string{
		"include/cuda_runtime_api.h": "constexpr int kOne = 1;\n",
		"lib64/libcudart_static.a":   "!<arch>\n",
		"bin/nvcc": `#!/bin/sh
[ "$1" != --version ] || { echo "release 13.0"; exit; }
while [ $# -gt 0 ]; do
	case $1 in -ccbin) compiler=$2 ;; -c) source=$2 ;; -o) object=$2 ;; esac
	shift
done
exec "$compiler" -fPIC -x c++ -c "$source" -o "$object"
`,
	})
	nvcc := filepath.Join(home, "bin", "nvcc")
	if err := os.Chmod(nvcc, 0o755); err != nil {
		t.Fatal(err)
	}
	library := filepath.Join(project, "build", "lib", "libalignedfusion_toy.so")
	holdsKernels := func() bool {
		f, err := elf.Open(library)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		symbols, err := f.DynamicSymbols()
		if err != nil {
			t.Fatal(err)
		}
		return slices.ContainsFunc(symbols, func(s elf.Symbol) bool { return strings.Contains(s.Name, "twice") })
	}
	t.Setenv("NVCC", nvcc)
	log, err := build(t, torch, project, "-kernels", native)
	if err != nil || !strings.Contains(log, "with CUDA kernels by "+nvcc) || !holdsKernels() {
		t.Fatalf("with nvcc: %v\n%s", err, log)
	}
	write(t, native, map[string]string{"toy.cu": "nonsense;\n"})
	if _, err = build(t, torch, project, "-kernels", native); err == nil || !strings.Contains(err.Error(), "compiling toy.cu") {
		t.Errorf("faulty kernels: %v", err)
	}
	if err := os.Remove(filepath.Join(home, "lib64", "libcudart_static.a")); err != nil {
		t.Fatal(err)
	}
	log, err = build(t, torch, project, "-kernels", native)
	if err != nil || !strings.Contains(log, "without CUDA kernels: "+nvcc+" has no") || holdsKernels() {
		t.Errorf("a compiler alone: %v\n%s", err, log)
	}
	t.Setenv("NVCC", "")
	if c, _ := findCUDA(context.Background(), &libtorch{CUDA: true, LibDir: libraries}); c != nil {
		t.Skip("this machine has an nvcc of its own")
	}
	log, err = build(t, torch, project, "-kernels", native, "-force")
	if err != nil || !strings.Contains(log, "without CUDA kernels: no nvcc found") {
		t.Errorf("without nvcc: %v\n%s", err, log)
	}
}
