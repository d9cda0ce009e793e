package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// cuda compiles a library's .cu sources: with nvcc, where there is one and libtorch has CUDA.
// The kernels bring the CUDA runtime with them, so that nvcc need not be of libtorch's release.
type cuda struct {
	nvcc, version string
	include       string
	runtime       string // libcudart_static.a
	architectures []string
}

// cudaDefine is defined while sources are compiled beside kernels of CUDA.
const cudaDefine = "-DALIGNEDFUSION_CUDA"

// anyGPU are the architectures for a machine whose own is unknown: Ampere, Hopper, and by the
// driver's compiler whatever else is not older than Turing.
var anyGPU = []string{"-gencode=arch=compute_75,code=[sm_75,compute_75]", "-gencode=arch=compute_80,code=sm_80", "-gencode=arch=compute_90,code=sm_90"}

// findCUDA returns nil and why, where .cu sources must be left out.
func findCUDA(ctx context.Context, torch *libtorch) (found *cuda, missing string) {
	if !torch.CUDA {
		return nil, "this libtorch has no CUDA"
	}
	places := []string{os.Getenv("NVCC")}
	if path, err := exec.LookPath("nvcc"); err == nil {
		places = append(places, path)
	}
	for _, home := range cudaHomes() {
		places = append(places, filepath.Join(home, "bin", "nvcc"))
	}
	// Beside a Python wheel's torch, from the package nvidia-cuda-nvcc.
	if beside, err := filepath.Glob(filepath.Join(torch.LibDir, "..", "..", "nvidia", "cu*", "bin", "nvcc")); err == nil {
		places = append(places, beside...)
	}
	for _, place := range places {
		if place == "" || !isFile(place) {
			continue
		}
		said, err := exec.CommandContext(ctx, place, "--version").Output()
		if err != nil {
			return nil, fmt.Sprintf("%s --version: %v", place, err)
		}
		root := filepath.Dir(filepath.Dir(place))
		if real, err := filepath.EvalSymlinks(place); err == nil {
			root = filepath.Dir(filepath.Dir(real))
		}
		c := &cuda{nvcc: place, version: string(said), architectures: anyGPU}
		for _, dir := range []string{"", "targets/x86_64-linux", "targets/sbsa-linux", "targets/aarch64-linux"} { // Debian's and NVIDIA's places
			if c.include == "" && isFile(filepath.Join(root, dir, "include", "cuda_runtime_api.h")) {
				c.include = filepath.Join(root, dir, "include")
			}
			for _, lib := range []string{"lib64", "lib", "lib/x86_64-linux-gnu", "lib/aarch64-linux-gnu"} {
				if path := filepath.Join(root, dir, lib, "libcudart_static.a"); c.runtime == "" && isFile(path) {
					c.runtime = path
				}
			}
		}
		if c.include == "" || c.runtime == "" {
			return nil, fmt.Sprintf("%s has no cuda_runtime_api.h or libcudart_static.a beside it", place)
		}
		if exec.CommandContext(ctx, "nvidia-smi", "-L").Run() == nil {
			c.architectures = []string{"-arch=native"}
		}
		return c, ""
	}
	return nil, "no nvcc found: install CUDA's compiler or the Python package nvidia-cuda-nvcc of libtorch's CUDA release, or set NVCC"
}

// flags are those of sources compiled beside the kernels.
func (c *cuda) flags() []string {
	if c == nil {
		return nil
	}
	if c.include == "/usr/include" { // as in compileFlags
		return []string{cudaDefine}
	}
	return []string{cudaDefine, "-isystem", c.include}
}

// linkFlags keep the CUDA runtime's names inside: libtorch has its own.
func (c *cuda) linkFlags() []string {
	if c == nil {
		return nil
	}
	return []string{c.runtime, "-Wl,--exclude-libs," + filepath.Base(c.runtime), "-ldl", "-lrt", "-lpthread"}
}

// compileArguments compile one source. No product is fused with a sum: what is computed on a GPU
// is then what the same lines give elsewhere.
func (c *cuda) compileArguments(compiler, standard, source, object string) []string {
	return append([]string{"-ccbin", compiler, "-std=" + standard, "-O3", "-fmad=false", "-Xcompiler", "-fPIC,-w", "-c", source, "-o", object}, c.architectures...)
}

// key is what objects depend on.
func (c *cuda) key() string {
	if c == nil {
		return ""
	}
	return strings.Join(append([]string{c.nvcc, c.version, c.runtime}, c.architectures...), "\n")
}
