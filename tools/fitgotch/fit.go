package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
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

// Own sources hold kernels that do arithmetic; gotch's shim only passes calls on.
var (
	shimFlags = []string{"-O1"}
	ownFlags  = []string{"-O3", "-fno-math-errno", "-fno-trapping-math"}
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
	unlock, err := lockFolder(ctx, filepath.Dir(sources), log)
	if err != nil {
		return err
	}
	defer unlock()
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
	if err := b.run(ctx, o.force, o.verbose); err != nil {
		return err
	}
	for _, dir := range o.kernels {
		if err := b.kernels(ctx, dir, o.force); err != nil {
			return err
		}
	}
	return nil
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
		return fmt.Errorf("shim sources: %w; run without -shim-only on a machine with Go first, or name them with -sources", err)
	}
	if len(files["torch_api.cpp"]) == 0 {
		return fmt.Errorf("%s holds no torch_api.cpp", b.sources)
	}
	base, err := b.base()
	if err != nil {
		return err
	}
	stamp := hashFiles(map[string][]byte{"base": []byte(base), "sources": []byte(hashFiles(files))})
	recordPath := filepath.Join(b.out, "libtch.json")
	library := filepath.Join(b.out, "libtch.so")
	if force {
		if err := os.RemoveAll(b.work); err != nil {
			return err
		}
	} else if old, err := readJSON[record](recordPath); err == nil && old.Stamp == stamp && isFile(library) {
		b.standard = old.Standard
		fmt.Fprintf(b.log, "libtch.so is up to date for libtorch %s (%s)\n", b.torch.Version, b.torch.LibDir)
		return nil
	}
	for _, dir := range []string{b.work, b.out} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	fmt.Fprintf(b.log, "fitting gotch %s to libtorch %s (%s)\n", gotchVersion, b.torch.Version, b.torch.LibDir)
	if err := b.compileAndLink(ctx, files, base, library); err != nil {
		return err
	}
	if err := writeJSON(recordPath, record{
		SchemaVersion: 1, Stamp: stamp, Gotch: gotchVersion, Libtorch: b.torch, Compiler: b.version,
		Standard: b.standard, Functions: b.total, Missing: b.missing,
	}); err != nil {
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

// base digests what every object depends on besides its sources: libtorch,
// compiler, and this tool's way of building.
func (b *shimBuild) base() (string, error) {
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
		"compiler": []byte(b.compiler + "\n" + b.version),
		"flags":    []byte(strings.Join(slices.Concat(b.compileFlags(), shimFlags, ownFlags, b.linkFlags("libtch.so", nil)), "\n")),
	}), nil
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

// readSources reads the C and C++ files of a folder.
func readSources(dir string) (map[string][]byte, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{}
	for _, e := range entries {
		if ext := filepath.Ext(e.Name()); ext == ".cpp" || ext == ".h" {
			if files[e.Name()], err = os.ReadFile(filepath.Join(dir, e.Name())); err != nil {
				return nil, err
			}
		}
	}
	return files, nil
}

func (b *shimBuild) compileFlags() []string {
	abi := 0
	if b.torch.CXX11ABI {
		abi = 1
	}
	flags := []string{"-fPIC", "-fopenmp", "-w", "-fmax-errors=0", fmt.Sprintf("-D_GLIBCXX_USE_CXX11_ABI=%d", abi), "-I."}
	for _, dir := range b.torch.IncludeDirs {
		if dir != "/usr/include" { // named again, it would hide the C++ library's own wrappers
			flags = append(flags, "-isystem", dir)
		}
	}
	return flags
}

// linkFlags links every libtorch library that is present, needed or not: CUDA
// kernels register themselves when libtorch_cuda is loaded. The run path is the
// old kind (DT_RPATH) because it also serves the libraries' own dependencies.
func (b *shimBuild) linkFlags(output string, objects []string) []string {
	flags := append([]string{"-shared", "-o", output}, objects...)
	flags = append(flags, "-L"+b.torch.LibDir, "-Wl,--disable-new-dtags,-rpath,"+b.torch.LibDir,
		"-Wl,-z,defs", "-Wl,--no-as-needed", "-ltorch", "-ltorch_cpu")
	if b.torch.CUDA {
		flags = append(flags, "-ltorch_cuda", "-lc10_cuda")
	}
	flags = append(flags, "-lc10")
	// A second OpenMP runtime in the process would have its own threads.
	if own, err := filepath.Glob(filepath.Join(b.torch.LibDir, "libgomp*.so*")); err == nil && len(own) > 0 && !b.torch.system() {
		return append(flags, own[0])
	}
	return append(flags, "-lgomp")
}

// isOwn tells the project's own sources from gotch's.
func isOwn(name string) bool { return strings.HasPrefix(name, "af_") }

const shimObject = "torch_api.o"

// fitted is what is kept about the shim's object between runs: the compiler's
// findings cost most of the time, and an edit of an own source changes nothing
// about them.
type fitted struct {
	Key      string   `json:"key"`
	Standard string   `json:"standard"`
	Missing  []string `json:"missing"`
}

func (b *shimBuild) compileAndLink(ctx context.Context, files map[string][]byte, base, library string) error {
	shim, own := map[string][]byte{}, map[string][]byte{}
	for name, text := range files {
		if isOwn(name) {
			own[name] = text
		} else {
			shim[name] = text
		}
	}
	key := hashFiles(map[string][]byte{"base": []byte(base), "sources": []byte(hashFiles(shim))})
	if err := b.fitShim(ctx, shim, key); err != nil {
		return err
	}
	objects, err := b.compileOwn(ctx, own, hashFiles(map[string][]byte{
		"base": []byte(base), "standard": []byte(b.standard), "shim": shim["torch_api.h"],
	}))
	if err != nil {
		return err
	}
	return b.link(ctx, library, append(objects, shimObject))
}

// link makes a library of objects; the old one stays until the new one is whole.
func (b *shimBuild) link(ctx context.Context, library string, objects []string) error {
	tmp := library + ".tmp"
	defer os.Remove(tmp)
	output, err := b.command(ctx, b.linkFlags(tmp, objects)...)
	if err == nil {
		return os.Rename(tmp, library)
	}
	if output == "" || ctx.Err() != nil {
		return fmt.Errorf("linking %s: %w", filepath.Base(library), err)
	}
	return fmt.Errorf("linking %s against libtorch %s failed:\n%s", filepath.Base(library), b.torch.Version, excerpt(output, nil))
}

// fitShim compiles gotch's shim. Functions that the compiler, or the linker,
// blames are stubbed, and it tries again, until nothing is left to blame.
func (b *shimBuild) fitShim(ctx context.Context, shim map[string][]byte, key string) error {
	text := map[string][]string{} // the two files whose functions can be stubbed
	b.total = 0
	for _, name := range []string{"torch_api.cpp", "torch_api_generated.cpp.h"} {
		text[name] = strings.Split(string(shim[name]), "\n")
		b.total += len(parseFunctions(text[name]))
	}
	statePath := filepath.Join(b.work, "fitted.json")
	if state, err := readJSON[fitted](statePath); err == nil && state.Key == key && isFile(filepath.Join(b.work, shimObject)) {
		b.standard, b.missing = state.Standard, state.Missing
		return nil
	}
	if err := os.Remove(statePath); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for name, content := range shim {
		if err := writeIfChanged(filepath.Join(b.work, name), content); err != nil {
			return err
		}
	}
	b.standard, b.missing = "c++17", []string{}
	probe := filepath.Join(b.work, "probe.so")
	defer os.Remove(probe)
	for round := 1; round <= maxRounds; round++ {
		functions := map[string][]function{}
		for name, lines := range text {
			functions[name] = parseFunctions(lines)
		}
		stage := "compiling"
		output, err := b.compile(ctx, shimObject, shimFlags)
		if err == nil {
			stage = "linking"
			if output, err = b.command(ctx, b.linkFlags(probe, []string{shimObject})...); err == nil {
				return writeJSON(statePath, fitted{Key: key, Standard: b.standard, Missing: b.missing})
			}
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
	}
	return fmt.Errorf("the shim still does not compile after %d rounds; missing so far: %s", maxRounds, strings.Join(b.missing, ", "))
}

// compileOwn compiles the project's own sources, side by side, unless their
// objects are up to date, and returns the objects' names. A change of a header
// recompiles all of them.
func (b *shimBuild) compileOwn(ctx context.Context, own map[string][]byte, base string) ([]string, error) {
	headers := map[string][]byte{"base": []byte(base)}
	var names []string
	for name, text := range own {
		if filepath.Ext(name) == ".cpp" {
			names = append(names, strings.TrimSuffix(name, ".cpp"))
		} else {
			headers[name] = text
		}
		if err := writeIfChanged(filepath.Join(b.work, name), text); err != nil {
			return nil, err
		}
	}
	slices.Sort(names)
	common := []byte(hashFiles(headers))
	objects := make([]string, len(names))
	var group errgroup.Group
	group.SetLimit(runtime.NumCPU())
	for i, name := range names {
		objects[i] = name + ".o"
		key := hashFiles(map[string][]byte{"common": common, "text": own[name+".cpp"]})
		group.Go(func() error { return b.compileOne(ctx, name, key) })
	}
	return objects, group.Wait()
}

// compileOne compiles one own source unless the object beside it has the same key.
func (b *shimBuild) compileOne(ctx context.Context, name, key string) error {
	object := name + ".o"
	keyPath := filepath.Join(b.work, object+".key")
	if old, err := os.ReadFile(keyPath); err == nil && string(old) == key && isFile(filepath.Join(b.work, object)) {
		return nil
	}
	output, err := b.compile(ctx, object, ownFlags)
	if err != nil && output != "" {
		return fmt.Errorf("compiling %s.cpp against libtorch %s:\n%s", name, b.torch.Version, excerpt(output, nil))
	}
	if err != nil {
		return fmt.Errorf("compiling %s.cpp: %w", name, err)
	}
	return writeIfChanged(keyPath, []byte(key))
}

// compile builds one object; output is what the compiler said, when it failed.
func (b *shimBuild) compile(ctx context.Context, object string, flags []string) (output string, err error) {
	source := strings.TrimSuffix(object, ".o") + ".cpp"
	return b.command(ctx, slices.Concat([]string{"-std=" + b.standard, "-c", source, "-o", object}, b.compileFlags(), flags)...)
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
