package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

// record is written beside libtch.so as libtch.json: what it was built from.
type record struct {
	SchemaVersion int       `json:"schema_version"`
	Stamp         string    `json:"stamp"` // digest of everything the library depends on
	Gotch         string    `json:"gotch"`
	Libtorch      *libtorch `json:"libtorch"`
	Compiler      string    `json:"compiler"`
	Standard      string    `json:"standard"` // C++ standard the headers accepted
	Functions     int       `json:"functions"`
	Missing       []string  `json:"missing"` // functions this libtorch lacks; calling one is an error
}

const maxRounds = 10

// Own kernels do arithmetic: they are optimised, and parallel as libtorch's are.
const kernelPrefix = "af_kernels_"

var kernelFlags = []string{"-O3", "-fopenmp", "-fno-math-errno", "-fno-trapping-math"}

func fit(ctx context.Context, o options, log io.Writer) error {
	root, err := filepath.Abs(o.root)
	if err != nil {
		return err
	}
	sources := o.sources
	if sources == "" {
		sources = filepath.Join(root, "build", "shim", "src")
	}
	out := o.out
	if out == "" {
		out = filepath.Join(root, "build", "lib")
	}
	if !o.shimOnly {
		gotchDir, err := gotchSource(ctx, root)
		if err != nil {
			return err
		}
		if err := writeShimSources(gotchDir, sources); err != nil {
			return err
		}
		if err := writeModule(gotchDir, filepath.Join(root, "build", "gotch")); err != nil {
			return err
		}
		if err := writeWork(root); err != nil {
			return err
		}
	}
	if o.goOnly {
		return nil
	}
	dir := o.libtorch
	if dir == "" {
		dir = os.Getenv("LIBTORCH")
	}
	torch, err := findLibtorch(dir)
	if err != nil {
		return err
	}
	b := &shimBuild{torch: torch, sources: sources, work: filepath.Join(filepath.Dir(sources), "work"), out: out, log: log}
	return b.run(ctx, o.force, o.verbose)
}

// shimBuild builds libtch.so from the shim sources.
type shimBuild struct {
	torch    *libtorch
	sources  string // pristine sources
	work     string // stubbed copies and objects
	out      string
	log      io.Writer
	compiler string   // path of g++
	version  string   // its first --version line
	standard string   // -std= value
	missing  []string // functions stubbed so far
	total    int
}

func (b *shimBuild) run(ctx context.Context, force, verbose bool) error {
	started := time.Now()
	if err := b.findCompiler(ctx); err != nil {
		return err
	}
	files, err := readSources(b.sources)
	if err != nil {
		return err
	}
	stamp, err := b.stamp(files)
	if err != nil {
		return err
	}
	recordPath := filepath.Join(b.out, "libtch.json")
	library := filepath.Join(b.out, "libtch.so")
	if old, err := readRecord(recordPath); err == nil && old.Stamp == stamp && isFile(library) && !force {
		fmt.Fprintf(b.log, "libtch.so is up to date for libtorch %s (%s)\n", b.torch.Version, b.torch.LibDir)
		return nil
	}
	for _, dir := range []string{b.work, b.out} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	fmt.Fprintf(b.log, "fitting gotch %s to libtorch %s (%s)\n", gotchVersion, b.torch.Version, b.torch.LibDir)
	if err := b.compileAndLink(ctx, files, library); err != nil {
		return err
	}
	text, err := json.MarshalIndent(record{
		SchemaVersion: 1, Stamp: stamp, Gotch: gotchVersion, Libtorch: b.torch, Compiler: b.version,
		Standard: b.standard, Functions: b.total, Missing: b.missing,
	}, "", "  ")
	if err != nil {
		return err
	}
	if err := writeIfChanged(recordPath, append(text, '\n')); err != nil {
		return err
	}
	fmt.Fprintf(b.log, "libtch.so built in %.0f s: %d of %d functions are not in libtorch %s (listed in %s)\n",
		time.Since(started).Seconds(), len(b.missing), b.total, b.torch.Version, recordPath)
	if verbose {
		for _, name := range b.missing {
			fmt.Fprintf(b.log, "  %s\n", name)
		}
	}
	return nil
}

func (b *shimBuild) findCompiler(ctx context.Context) error {
	name := os.Getenv("CXX")
	if name == "" {
		name = "g++"
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return fmt.Errorf("no C++ compiler: %w; install g++ or set CXX", err)
	}
	out, err := exec.CommandContext(ctx, path, "--version").Output()
	if err != nil {
		return fmt.Errorf("%s --version: %w", path, err)
	}
	b.compiler = path
	b.version, _, _ = strings.Cut(string(out), "\n")
	return nil
}

// stamp digests everything libtch.so depends on: sources, libtorch, compiler,
// and this tool's way of building (flags).
func (b *shimBuild) stamp(files map[string][]byte) (string, error) {
	info, err := os.Stat(filepath.Join(b.torch.LibDir, "libtorch_cpu.so"))
	if err != nil {
		return "", err
	}
	torch, err := json.Marshal(b.torch)
	if err != nil {
		return "", err
	}
	return hashFiles(map[string][]byte{
		"sources":  []byte(hashFiles(files)),
		"libtorch": fmt.Appendf(torch, " %d %d", info.Size(), info.ModTime().UnixNano()),
		"compiler": []byte(b.compiler + "\n" + b.version),
		"flags":    []byte(strings.Join(slices.Concat(b.compileFlags(), kernelFlags, b.linkFlags("libtch.so", nil)), "\n")),
	}), nil
}

func readRecord(path string) (*record, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	r := new(record)
	if err := json.Unmarshal(text, r); err != nil {
		return nil, err
	}
	return r, nil
}

// readSources reads the C and C++ files of a folder.
func readSources(dir string) (map[string][]byte, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("shim sources: %w; run without -shim-only on a machine with Go first, or name them with -sources", err)
	}
	files := map[string][]byte{}
	for _, e := range entries {
		if ext := filepath.Ext(e.Name()); ext == ".cpp" || ext == ".h" {
			if files[e.Name()], err = os.ReadFile(filepath.Join(dir, e.Name())); err != nil {
				return nil, err
			}
		}
	}
	if len(files["torch_api.cpp"]) == 0 {
		return nil, fmt.Errorf("%s holds no torch_api.cpp", dir)
	}
	return files, nil
}

func (b *shimBuild) compileFlags() []string {
	abi := 0
	if b.torch.CXX11ABI {
		abi = 1
	}
	flags := []string{"-O1", "-fPIC", "-w", "-fmax-errors=0", fmt.Sprintf("-D_GLIBCXX_USE_CXX11_ABI=%d", abi), "-I" + b.work}
	for _, dir := range b.torch.IncludeDirs {
		flags = append(flags, "-isystem", dir)
	}
	// /usr/include as -isystem would hide the C++ library's own wrappers.
	if i := slices.Index(flags, "/usr/include"); i > 0 {
		flags = slices.Delete(flags, i-1, i+1)
	}
	return flags
}

// linkFlags links every libtorch library that is present, needed or not: CUDA
// kernels register themselves when libtorch_cuda is loaded. The run path is the
// old kind (DT_RPATH) because it also serves the libraries' own dependencies.
func (b *shimBuild) linkFlags(output string, objects []string) []string {
	flags := append([]string{"-shared", "-fopenmp", "-o", output}, objects...)
	flags = append(flags, "-L"+b.torch.LibDir, "-Wl,--disable-new-dtags,-rpath,"+b.torch.LibDir,
		"-Wl,-z,defs", "-Wl,--no-as-needed", "-ltorch", "-ltorch_cpu")
	if b.torch.CUDA {
		flags = append(flags, "-ltorch_cuda", "-lc10_cuda")
	}
	return append(flags, "-lc10")
}

func (b *shimBuild) compileAndLink(ctx context.Context, files map[string][]byte, library string) error {
	b.missing, b.total = nil, 0
	text := map[string][]string{} // the two files whose functions can be stubbed
	for _, name := range []string{"torch_api.cpp", "torch_api_generated.cpp.h"} {
		text[name] = strings.Split(string(files[name]), "\n")
		b.total += len(parseFunctions(text[name]))
	}
	if err := replaceTree(b.work, files); err != nil {
		return err
	}
	var objects []string
	for name := range files {
		if filepath.Ext(name) == ".cpp" {
			objects = append(objects, strings.TrimSuffix(name, ".cpp")+".o")
		}
	}
	slices.Sort(objects)

	b.standard = "c++17"
	dirty := slices.Clone(objects)
	for round := 1; round <= maxRounds; round++ {
		functions := map[string][]function{}
		for name, lines := range text {
			functions[name] = parseFunctions(lines)
		}
		output, err := b.compile(ctx, dirty)
		stage := "compiling"
		if err == nil {
			tmp := library + ".tmp"
			output, err = b.command(ctx, b.linkFlags(tmp, objects)...)
			if err == nil {
				return os.Rename(tmp, library)
			}
			os.Remove(tmp)
			stage = "linking"
		}
		if output == "" || ctx.Err() != nil {
			return fmt.Errorf("%s the shim: %w", stage, err)
		}
		names, unexplained := faultyFunctions(output, functions)
		if len(unexplained) > 0 && b.standard == "c++17" {
			b.standard = "c++20"
			fmt.Fprintln(b.log, "these headers do not accept C++17: trying C++20")
			continue
		}
		if len(unexplained) > 0 || len(names) == 0 {
			return fmt.Errorf("%s the shim against libtorch %s failed outside its functions:\n%s",
				stage, b.torch.Version, excerpt(output, unexplained))
		}
		fmt.Fprintf(b.log, "round %d: %d functions are not in libtorch %s\n", round, len(names), b.torch.Version)
		for name, lines := range text {
			changed, stubbed := stub(lines, names)
			text[name] = changed
			b.missing = append(b.missing, stubbed...)
			if err := writeIfChanged(filepath.Join(b.work, name), []byte(strings.Join(changed, "\n"))); err != nil {
				return err
			}
		}
		slices.Sort(b.missing)
		dirty = []string{"torch_api.o"}
	}
	return fmt.Errorf("the shim still does not compile after %d rounds; missing so far: %s", maxRounds, strings.Join(b.missing, ", "))
}

// compile builds the named objects side by side and returns the output of the
// failing ones.
func (b *shimBuild) compile(ctx context.Context, objects []string) (string, error) {
	var group errgroup.Group
	group.SetLimit(runtime.NumCPU())
	outputs := make([]string, len(objects))
	for i, object := range objects {
		group.Go(func() error {
			args := append([]string{"-std=" + b.standard, "-c", strings.TrimSuffix(object, ".o") + ".cpp", "-o", object}, b.compileFlags()...)
			if strings.HasPrefix(object, kernelPrefix) {
				args = append(args, kernelFlags...)
			}
			out, err := b.command(ctx, args...)
			if err != nil {
				outputs[i] = out
			}
			return err
		})
	}
	err := group.Wait()
	return strings.Join(outputs, ""), err
}

func (b *shimBuild) command(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, b.compiler, args...)
	cmd.Dir = b.work
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return "", err
	}
	return output.String(), err
}

func excerpt(output string, lines []string) string {
	if len(lines) == 0 {
		lines = strings.Split(strings.TrimSpace(output), "\n")
	}
	if len(lines) > 20 {
		lines = append(lines[:20:20], fmt.Sprintf("… and %d more lines", len(lines)-20))
	}
	return strings.Join(lines, "\n")
}
