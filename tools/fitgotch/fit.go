package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/gofrs/flock"
	"golang.org/x/sync/errgroup"
)

// record is written beside a library as NAME.json: what it was built from.
type record struct {
	SchemaVersion int       `json:"schema_version"`
	Stamp         string    `json:"stamp"` // digest of everything the library depends on
	Gotch         string    `json:"gotch"`
	Libtorch      *libtorch `json:"libtorch"`
	Compiler      string    `json:"compiler"`
	Standard      string    `json:"standard"`  // C++ standard the headers accepted
	Functions     int       `json:"functions"` // of gotch's shim in the library
}

// Kernels do arithmetic; gotch's shim only passes calls on.
var (
	shimFlags   = []string{"-O1"}
	kernelFlags = []string{"-O3", "-fno-math-errno", "-fno-trapping-math"}
)

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
	if out, err = filepath.Abs(out); err != nil { // the linker runs elsewhere
		return err
	}
	unlock, err := lockFolder(ctx, filepath.Dir(sources), log)
	if err != nil {
		return err
	}
	defer unlock()
	if !o.shimOnly {
		base := o.base
		if base != "" {
			if base, err = filepath.Abs(base); err != nil {
				return err
			}
		}
		borrowed, err := writeGoSide(ctx, root, sources, base, o.packages, log)
		if err != nil || borrowed {
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
	if o.prebuilt != "" {
		err := installPrebuilt(torch, o.prebuilt, out, log)
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		fmt.Fprintf(log, "%v; compiling them\n", err)
	}
	if o.portable {
		series, err := torch.series()
		if err != nil {
			return err
		}
		out = filepath.Join(out, series)
	}
	b := &builder{torch: torch, portable: o.portable, work: filepath.Join(filepath.Dir(sources), "work"), out: out, log: log, standard: "c++17"}
	if err := b.findCompiler(ctx); err != nil {
		return err
	}
	shim, err := readShim(sources)
	if err != nil {
		return err
	}
	libraries := []library{shim}
	for i, dir := range slices.Concat(o.kernels, o.optional) {
		kernels, err := readKernels(dir)
		if err != nil {
			return err
		}
		if kernels.optional = i >= len(o.kernels); kernels.wantsNCCL() && !torch.CUDA {
			if err := errors.Join(remove(filepath.Join(out, kernels.name+".so")), remove(filepath.Join(out, kernels.name+".json"))); err != nil {
				return err
			}
			continue
		}
		libraries = append(libraries, kernels)
	}
	group, ctx := errgroup.WithContext(ctx)
	for _, l := range libraries {
		own := *b // each finds the standard of its headers
		group.Go(func() error {
			err := own.build(ctx, l, o.force)
			if err == nil || !l.optional || ctx.Err() != nil {
				return err
			}
			reason := strings.SplitN(strings.TrimSpace(err.Error()), "\n", 3)
			fmt.Fprintf(log, "%s.so is left out, this libtorch cannot serve it: %s\n", l.name, strings.Join(reason[:min(2, len(reason))], " "))
			return errors.Join(remove(filepath.Join(out, l.name+".so")), remove(filepath.Join(out, l.name+".json")))
		})
	}
	return group.Wait()
}

// library is a shared library to be built from C++ sources.
type library struct {
	name  string // without its ending
	files map[string][]byte
	flags []string
	// optional: the project does without where it cannot be built.
	optional bool
	// needs are the shim's functions with the places of the project that call them.
	needs map[string]string
}

// wantsNCCL tells a library that a libtorch without CUDA has no use for.
func (l library) wantsNCCL() bool {
	for _, text := range l.files {
		if bytes.Contains(text, []byte("#include <nccl.h>")) {
			return true
		}
	}
	return false
}

const (
	shimLibrary = "libtch"
	shimSources = "torch_api.cpp" // gotch's functions that are needed
	reachFile   = "reach.json"
)

// readShim reads the sources that writeGoSide has written.
func readShim(dir string) (library, error) {
	l := library{name: shimLibrary, flags: shimFlags}
	var err error
	if l.files, err = readSources(dir); err != nil {
		return l, fmt.Errorf("shim sources: %w; run without -shim-only on a machine with Go first, or name them with -sources", err)
	}
	if len(l.files[shimSources]) == 0 {
		return l, fmt.Errorf("%s holds no %s", dir, shimSources)
	}
	held, err := readJSON[reached](filepath.Join(dir, reachFile))
	if err != nil {
		return l, fmt.Errorf("shim sources: %w", err)
	}
	l.needs = held.Native
	return l, nil
}

// readKernels reads a plugin's folder of C++ sources that use libtorch. Its library is
// named after the folder that holds dir: plugins/NAME/native gives
// libalignedfusion_NAME.so.
func readKernels(dir string) (library, error) {
	full, err := filepath.Abs(dir)
	if err != nil {
		return library{}, err
	}
	l := library{name: "libalignedfusion_" + filepath.Base(filepath.Dir(full)), flags: kernelFlags}
	if l.files, err = readSources(full); err != nil {
		return l, fmt.Errorf("kernels: %w", err)
	}
	if !slices.ContainsFunc(slices.Collect(maps.Keys(l.files)), func(n string) bool { return filepath.Ext(n) == ".cpp" }) {
		return l, fmt.Errorf("kernels: %s holds no .cpp file", dir)
	}
	return l, nil
}

// builder builds libraries against one libtorch.
type builder struct {
	torch    *libtorch
	work     string // copies of the sources and objects, a folder a library
	out      string
	log      io.Writer
	portable bool   // for any folder with a libtorch of this series
	compiler string // path of g++
	version  string // its first --version line
	standard string // -std= value that libtorch's headers accept, as far as is known
	cuda     *cuda  // for a library with .cu sources; nil: they are left out
}

// build builds a library unless it is up to date.
func (b *builder) build(ctx context.Context, l library, force bool) error {
	started := time.Now()
	without := ""
	if !b.portable && slices.ContainsFunc(slices.Collect(maps.Keys(l.files)), func(n string) bool { return filepath.Ext(n) == ".cu" }) {
		b.cuda, without = findCUDA(ctx, b.torch)
	}
	base, err := b.base()
	if err != nil {
		return err
	}
	stamp := hashFiles(map[string][]byte{"base": []byte(base), "sources": []byte(hashFiles(l.files)), "flags": []byte(strings.Join(l.flags, " "))})
	recordPath, path, work := filepath.Join(b.out, l.name+".json"), filepath.Join(b.out, l.name+".so"), filepath.Join(b.work, l.name)
	if force {
		if err := os.RemoveAll(work); err != nil {
			return err
		}
	} else if old, err := readJSON[record](recordPath); err == nil && old.Stamp == stamp && isFile(path) {
		fmt.Fprintf(b.log, "%s.so is up to date for libtorch %s (%s)\n", l.name, b.torch.Version, b.torch.LibDir)
		return nil
	}
	for _, dir := range []string{work, b.out} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if err := b.make(ctx, l, work, path, base); err != nil {
		return err
	}
	if l.name == shimLibrary && !b.portable {
		sayUnused(b.out, b.log)
	}
	made := record{SchemaVersion: 2, Stamp: stamp, Gotch: gotchVersion, Libtorch: b.torch, Compiler: b.version, Standard: b.standard, Functions: len(l.needs)}
	if b.portable { // nothing of this machine
		made.Stamp, made.Libtorch = "", nil
	}
	if err := writeJSON(recordPath, made); err != nil {
		return err
	}
	kernels := ""
	if b.cuda != nil {
		kernels = ", with CUDA kernels by " + b.cuda.nvcc
	} else if b.torch.CUDA && without != "" {
		kernels = ", without CUDA kernels: " + without
	}
	fmt.Fprintf(b.log, "%s.so built in %.0f s for libtorch %s (%s)%s\n", l.name, time.Since(started).Seconds(), b.torch.Version, b.torch.LibDir, kernels)
	return nil
}

// make compiles and links. Headers that do not accept C++17 get C++20.
func (b *builder) make(ctx context.Context, l library, work, path, base string) error {
	objects, err := b.compile(ctx, l, work, base)
	if err != nil && b.standard == "c++17" && ctx.Err() == nil {
		b.standard = "c++20"
		objects, err = b.compile(ctx, l, work, base)
	}
	if err != nil {
		return err
	}
	return b.link(ctx, l, work, path, objects)
}

func (b *builder) findCompiler(ctx context.Context) error {
	name := os.Getenv("CXX")
	if name == "" {
		name = "g++"
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return fmt.Errorf("no C++ compiler: %w; install g++ or set CXX to one", err)
	}
	out, err := exec.CommandContext(ctx, path, "--version").Output()
	if err != nil {
		return fmt.Errorf("%s --version: %w", path, err)
	}
	b.compiler = path
	b.version, _, _ = strings.Cut(string(out), "\n")
	return nil
}

// base digests what every object depends on besides its sources: libtorch,
// compiler, and this tool's way of building.
func (b *builder) base() (string, error) {
	info, err := os.Stat(filepath.Join(b.torch.LibDir, "libtorch_cpu.so"))
	if err != nil {
		return "", err
	}
	torch, err := json.Marshal(b.torch)
	if err != nil {
		return "", err
	}
	return hashFiles(map[string][]byte{
		"libtorch": fmt.Appendf(torch, " %d %d", info.Size(), info.ModTime().UnixNano()),
		"compiler": []byte(b.compiler + "\n" + b.version + b.cuda.key()),
		"flags":    []byte(strings.Join(slices.Concat(b.compileFlags(), b.linkFlags("x.so", nil), b.portableLinkFlags("x.so", nil)), "\n")),
	}), nil
}

// remove deletes a file that may be missing.
func remove(path string) error {
	if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func readJSON[T any](path string) (*T, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	value := new(T)
	if err := json.Unmarshal(text, value); err != nil {
		return nil, err
	}
	return value, nil
}

func writeJSON(path string, value any) error {
	text, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return err
	}
	return writeIfChanged(path, append(text, '\n'))
}

// lockFolder makes runs on one build folder take turns.
func lockFolder(ctx context.Context, dir string, log io.Writer) (unlock func() error, err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	lock := flock.New(filepath.Join(dir, ".lock"))
	locked, err := lock.TryLock()
	if err == nil && !locked {
		fmt.Fprintln(log, "waiting for another fitgotch to finish")
		_, err = lock.TryLockContext(ctx, 200*time.Millisecond)
	}
	if err != nil {
		return nil, fmt.Errorf("locking %s: %w", dir, err)
	}
	return lock.Unlock, nil
}

// readSources reads the C, C++ and CUDA files of a folder.
func readSources(dir string) (map[string][]byte, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{}
	for _, e := range entries {
		if ext := filepath.Ext(e.Name()); ext == ".cpp" || ext == ".h" || ext == ".cu" {
			if files[e.Name()], err = os.ReadFile(filepath.Join(dir, e.Name())); err != nil {
				return nil, err
			}
		}
	}
	return files, nil
}

func (b *builder) compileFlags() []string {
	abi := 0
	if b.torch.CXX11ABI {
		abi = 1
	}
	flags := []string{"-fPIC", "-fopenmp", "-w", fmt.Sprintf("-D_GLIBCXX_USE_CXX11_ABI=%d", abi), "-I."}
	for _, dir := range b.torch.IncludeDirs {
		if b.portable {
			flags = append(flags, "-ffile-prefix-map="+dir+"=libtorch") // checks name their header
		}
		if dir != "/usr/include" { // named again, it would hide the C++ library's own wrappers
			flags = append(flags, "-isystem", dir)
		}
	}
	return flags
}

// linkFlags links every libtorch library that is present, needed or not: CUDA and ROCm
// kernels register themselves when theirs is loaded. The run path is the old kind
// (DT_RPATH) because it also serves the libraries' own dependencies.
func (b *builder) linkFlags(output string, objects []string) []string {
	flags := append([]string{"-shared", "-o", output}, objects...)
	flags = append(flags, "-L"+b.torch.LibDir, "-Wl,--disable-new-dtags,-rpath,"+b.torch.runPath(), "-Wl,-z,defs", "-Wl,--no-as-needed", "-ltorch", "-ltorch_cpu")
	for _, name := range accelerators {
		if isFile(filepath.Join(b.torch.LibDir, "lib"+name+".so")) {
			flags = append(flags, "-l"+name)
		}
	}
	flags = append(append(flags, "-lc10"), b.cuda.linkFlags()...)
	// A second OpenMP runtime in the process would have its own threads.
	if own, err := filepath.Glob(filepath.Join(b.torch.LibDir, "libgomp*.so*")); err == nil && len(own) > 0 && !b.torch.system() {
		return append(flags, own[0])
	}
	return append(flags, "-lgomp")
}

// accelerators are the libraries of libtorch's kernels for CUDA and ROCm.
var accelerators = []string{"torch_cuda", "c10_cuda", "torch_hip", "c10_hip"}

// portableLinkFlags leave out what differs within a series. libtorch itself brings the
// accelerators and the OpenMP runtime, so that not all names are defined here.
func (b *builder) portableLinkFlags(output string, objects []string) []string {
	flags := append([]string{"-shared", "-s", "-o", output}, objects...)
	return append(flags, "-L"+b.torch.LibDir, "-Wl,--disable-new-dtags,-rpath,"+runPathPlace, "-Wl,--no-as-needed", "-ltorch", "-ltorch_cpu", "-lc10")
}

// link makes a library of objects; the old one stays until the new one is whole.
func (b *builder) link(ctx context.Context, l library, work, path string, objects []string) error {
	tmp := path + ".tmp"
	defer os.Remove(tmp)
	output, err := b.command(ctx, work, b.compiler, b.linkFlags(tmp, objects)...)
	if err == nil && b.portable { // all that is needed is there: now for other folders
		output, err = b.command(ctx, work, b.compiler, b.portableLinkFlags(tmp, objects)...)
	}
	if err == nil {
		return os.Rename(tmp, path)
	}
	return b.fault(l, "linking "+filepath.Base(path), output, err)
}

// fault says why a compiler or linker failed, with the shim's functions that it blames:
// each is needed, so the library cannot do without.
func (b *builder) fault(l library, what, output string, err error) error {
	if output == "" {
		return fmt.Errorf("%s: %w", what, err)
	}
	if blamed := blamedFunctions(output, string(l.files[shimSources]), l.needs); len(blamed) > 0 {
		var names []string
		for _, name := range blamed {
			names = append(names, name+use{l.needs[name]}.text())
		}
		return fmt.Errorf("libtorch %s (%s) cannot serve: %s; take another libtorch (LIBTORCH=/path), or do without the function\n%s",
			b.torch.Version, b.torch.LibDir, strings.Join(names, "; "), excerpt(output))
	}
	return fmt.Errorf("%s against libtorch %s failed:\n%s", what, b.torch.Version, excerpt(output))
}

// compile compiles a library's sources, side by side, unless their objects are up to
// date, and returns the objects' names. A change of a header recompiles all of them.
func (b *builder) compile(ctx context.Context, l library, work, base string) ([]string, error) {
	common := map[string][]byte{"base": []byte(base + b.standard + strings.Join(l.flags, " "))}
	var names []string
	for name, text := range l.files {
		if filepath.Ext(name) == ".cpp" {
			names = append(names, name)
		} else if filepath.Ext(name) == ".cu" {
			if b.cuda != nil {
				names = append(names, name)
			}
		} else {
			common[name] = text
		}
		if err := writeIfChanged(filepath.Join(work, name), text); err != nil {
			return nil, err
		}
	}
	slices.Sort(names)
	digest := []byte(hashFiles(common))
	objects := make([]string, len(names))
	var group errgroup.Group
	group.SetLimit(runtime.NumCPU())
	for i, name := range names {
		objects[i] = name + ".o"
		key := hashFiles(map[string][]byte{"common": digest, "text": l.files[name]})
		group.Go(func() error { return b.compileOne(ctx, l, work, name, key) })
	}
	return objects, group.Wait()
}

// compileOne compiles one source unless the object beside it has the same key.
func (b *builder) compileOne(ctx context.Context, l library, work, name, key string) error {
	object := name + ".o"
	keyPath := filepath.Join(work, object+".key")
	if old, err := os.ReadFile(keyPath); err == nil && string(old) == key && isFile(filepath.Join(work, object)) {
		return nil
	}
	program, arguments := b.compiler, slices.Concat([]string{"-std=" + b.standard, "-c", name, "-o", object}, b.compileFlags(), b.cuda.flags(), l.flags)
	if filepath.Ext(name) == ".cu" {
		program, arguments = b.cuda.nvcc, b.cuda.compileArguments(b.compiler, b.standard, name, object)
	}
	output, err := b.command(ctx, work, program, arguments...)
	if err != nil {
		return b.fault(l, "compiling "+name, output, err)
	}
	return writeIfChanged(keyPath, []byte(key))
}

// command runs a compiler; output is what it said.
func (b *builder) command(ctx context.Context, dir, program string, args ...string) (output string, err error) {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	err = cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return "", err
	}
	return said.String(), err
}

func excerpt(output string) string {
	lines := strings.Split(strings.TrimSpace(output), "\n")
	if len(lines) > 20 {
		lines = append(lines[:20:20], fmt.Sprintf("… and %d more lines", len(lines)-20))
	}
	return strings.Join(lines, "\n")
}
