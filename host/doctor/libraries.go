package doctor

import (
	"bufio"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sort"
	"strings"

	"github.com/alignedfusion/alignedfusion/host/plughost"
)

// The shim that a plugin linking libtorch needs, and what it was built from.
const (
	shimLibrary = "libtch.so"
	shimRecord  = "libtch.json"
)

// closure is the set of shared libraries a program loads.
type closure struct {
	// paths maps a library's name to the file the loader takes.
	paths map[string]string
	// missing maps a library that is nowhere to the file that wants it.
	missing map[string]string
}

// resolve finds a program's shared libraries as the dynamic loader does: DT_RPATH of the
// file that wants it and of those that brought it in, unless it has a DT_RUNPATH;
// LD_LIBRARY_PATH, which plugins inherit; DT_RUNPATH; the system's folders.
func (m machine) resolve(program string) (*closure, error) {
	c := &closure{paths: map[string]string{}, missing: map[string]string{}}
	system := m.libraryDirs()
	type item struct {
		file  string
		rpath []string // DT_RPATH of the files that led here
	}
	queue := []item{{file: program}}
	for len(queue) > 0 {
		next := queue[0]
		queue = queue[1:]
		needed, rpath, runpath, err := dynamic(next.file)
		if err != nil {
			return nil, err
		}
		inherited := append(slices.Clone(rpath), next.rpath...)
		dirs := append(filepath.SplitList(os.Getenv("LD_LIBRARY_PATH")), runpath...)
		if len(runpath) == 0 {
			dirs = append(slices.Clone(inherited), dirs...)
		}
		for _, name := range needed {
			if c.paths[name] != "" {
				continue
			}
			found := ""
			for _, dir := range append(slices.Clone(dirs), system...) {
				if candidate := filepath.Join(dir, name); isLibrary(candidate) {
					found = candidate
					break
				}
			}
			if found == "" {
				if _, known := c.missing[name]; !known {
					c.missing[name] = next.file
				}
				continue
			}
			c.paths[name] = found
			queue = append(queue, item{found, inherited})
		}
	}
	return c, nil
}

// dynamic reads what a file's dynamic section asks for, $ORIGIN filled in.
func dynamic(file string) (needed, rpath, runpath []string, err error) {
	f, err := elf.Open(file)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("%s: %w", file, err)
	}
	defer f.Close()
	if needed, err = f.ImportedLibraries(); err != nil {
		return nil, nil, nil, fmt.Errorf("%s: %w", file, err)
	}
	real, err := filepath.EvalSymlinks(file)
	if err != nil {
		return nil, nil, nil, err
	}
	origin := filepath.Dir(real)
	read := func(tag elf.DynTag) []string {
		values, err := f.DynString(tag)
		if err != nil {
			return nil // no dynamic section: a static program
		}
		var dirs []string
		for _, value := range values {
			for dir := range strings.SplitSeq(value, ":") {
				dirs = append(dirs, strings.NewReplacer("$ORIGIN", origin, "${ORIGIN}", origin).Replace(dir))
			}
		}
		return dirs
	}
	return needed, read(elf.DT_RPATH), read(elf.DT_RUNPATH), nil
}

// libraryDirs lists the system's library folders: those of ld.so.conf, then the
// loader's built-in ones.
func (m machine) libraryDirs() []string {
	dirs := m.readLoaderConfig(m.path("etc", "ld.so.conf"), 0)
	for _, dir := range []string{"lib", "usr/lib", "lib64", "usr/lib64"} {
		multiarch, err := filepath.Glob(m.path(dir, "*-linux-gnu"))
		if err == nil {
			dirs = append(dirs, multiarch...)
		}
		dirs = append(dirs, m.path(dir))
	}
	return dirs
}

func (m machine) readLoaderConfig(file string, depth int) []string {
	f, err := os.Open(file)
	if err != nil || depth > 4 {
		return nil
	}
	defer f.Close()
	var dirs []string
	scanner := bufio.NewScanner(f)
	for scanner.Scan() {
		line, _, _ := strings.Cut(scanner.Text(), "#")
		line = strings.TrimSpace(line)
		pattern, include := strings.CutPrefix(line, "include ")
		switch {
		case line == "":
		case include:
			pattern = strings.TrimSpace(pattern)
			if filepath.IsAbs(pattern) {
				pattern = m.path(pattern)
			} else {
				pattern = filepath.Join(filepath.Dir(file), pattern)
			}
			files, err := filepath.Glob(pattern)
			if err != nil {
				continue
			}
			for _, name := range files {
				dirs = append(dirs, m.readLoaderConfig(name, depth+1)...)
			}
		default:
			dirs = append(dirs, m.path(line))
		}
	}
	return dirs
}

func isLibrary(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

func isELF(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	magic := make([]byte, len(elf.ELFMAG))
	_, err = io.ReadFull(f, magic)
	return err == nil && string(magic) == elf.ELFMAG
}

// torchPlugin is a plugin's program with the libraries it loads.
type torchPlugin struct {
	name    string
	program string
	closure *closure
}

// torchPlugins returns the plugins that link the shim; programs of other kinds
// (scripts, static programs) have nothing to resolve.
func (m machine) torchPlugins(plugins []plughost.Found) ([]torchPlugin, []Finding) {
	var out []torchPlugin
	var found []Finding
	for _, p := range plugins {
		if p.ShadowedBy != "" || !isELF(p.Command[0]) {
			continue
		}
		needed, _, _, err := dynamic(p.Command[0])
		if err != nil {
			found = append(found, Finding{"libraries of " + p.Name, Warn, err.Error(), startHint(p)})
			continue
		}
		if !slices.Contains(needed, shimLibrary) {
			continue
		}
		c, err := m.resolve(p.Command[0])
		if err != nil {
			found = append(found, Finding{"libraries of " + p.Name, Fail, err.Error(), "run `make setup` again"})
			continue
		}
		out = append(out, torchPlugin{p.Name, p.Command[0], c})
	}
	return out, found
}

// shimInfo is the part of libtch.json that matters here.
type shimInfo struct {
	Libtorch struct {
		Version string `json:"version"`
		LibDir  string `json:"lib_dir"`
		CUDA    bool   `json:"cuda"`
	} `json:"libtorch"`
	Functions int `json:"functions"`
}

func readShimInfo(shim string) (*shimInfo, error) {
	text, err := os.ReadFile(filepath.Join(filepath.Dir(shim), shimRecord))
	if err != nil {
		return nil, err
	}
	info := new(shimInfo)
	if err := json.Unmarshal(text, info); err != nil {
		return nil, fmt.Errorf("%s: %w", shimRecord, err)
	}
	return info, nil
}

// lacking are the plugins that cannot start for want of a library.
func lacking(torch []torchPlugin) []string {
	var names []string
	for _, p := range torch {
		if len(p.closure.missing) > 0 {
			names = append(names, p.name)
		}
	}
	return names
}

// libraries checks libtorch, its shim and its BLAS as the plugins will find them.
func libraries(torch []torchPlugin) (found []Finding) {
	shims := map[string][]string{} // shim's file to the plugins that load it
	var lacks [][]string           // what is nowhere
	without := map[string][]torchPlugin{}
	for _, p := range torch {
		if len(p.closure.missing) == 0 {
			shim := p.closure.paths[shimLibrary]
			shims[shim] = append(shims[shim], p.name)
			continue
		}
		names := slices.Sorted(maps.Keys(p.closure.missing))
		list := strings.Join(names, ", ")
		if without[list] == nil {
			lacks = append(lacks, names)
		}
		without[list] = append(without[list], p)
	}
	for _, names := range lacks {
		list := strings.Join(names, ", ")
		plugins := without[list]
		found = append(found, Finding{"libraries of " + strings.Join(lacking(plugins), ", "), Fail,
			fmt.Sprintf("%s, wanted by %s, is nowhere", list, plugins[0].closure.missing[names[0]]), missingHint(names)})
	}
	files := make([]string, 0, len(shims))
	for shim := range shims {
		files = append(files, shim)
	}
	sort.Strings(files)
	for _, shim := range files {
		found = append(found, libtorch(shim, shims[shim]))
	}
	for _, p := range torch {
		if f, lacks := kernels(p); lacks {
			found = append(found, f)
		}
	}
	for _, p := range torch {
		if len(p.closure.missing) == 0 {
			if f, any := blas(p.closure); any {
				found = append(found, f)
			}
			break
		}
	}
	return found
}

// kernelName is that of a library that tools/fitgotch builds of a plugin's own kernels; the
// plugin's program has it in it, and loads the library when it first computes.
var kernelName = regexp.MustCompile(`libalignedfusion_([a-zA-Z0-9-]+)\.so`)

// optionalKernels average gradients over NCCL; without them Gloo does (sdk/torchstage).
const optionalKernels = "libalignedfusion_nccl.so"

// kernels looks for a plugin's kernel libraries where the plugin will: beside the shim.
func kernels(p torchPlugin) (f Finding, lacks bool) {
	shim := p.closure.paths[shimLibrary]
	if shim == "" {
		return Finding{}, false
	}
	program, err := os.ReadFile(p.program)
	if err != nil {
		return Finding{"kernels of " + p.name, Fail, err.Error(), "make the file readable"}, true
	}
	for _, name := range kernelName.FindAllSubmatch(program, -1) {
		library := filepath.Join(filepath.Dir(shim), string(name[0]))
		if string(name[0]) != optionalKernels && !isLibrary(library) {
			return Finding{"kernels of " + p.name, Fail, library + " is not there, and the plugin computes with it",
				fmt.Sprintf("run `make kernels`, or build/fitgotch -shim-only -kernels plugins/%s/native where there is no Go", name[1])}, true
		}
	}
	return Finding{}, false
}

func missingHint(names []string) string {
	if slices.Contains(names, shimLibrary) {
		return "run `make setup`, or ./setup in an unpacked release: it makes libtch.so for this machine's libtorch"
	}
	for _, name := range names {
		if strings.HasPrefix(name, "libtorch") || strings.HasPrefix(name, "libc10") {
			return "libtorch has moved or was removed: run `make setup`, with LIBTORCH=/path for one of your own, or ./setup /path in an unpacked release"
		}
	}
	return "install the packages that hold them (apt-file search NAME tells which)"
}

func libtorch(shim string, plugins []string) Finding {
	info, err := readShimInfo(shim)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return Finding{"libtorch", Warn, shim + " has no " + shimRecord + " beside it: its libtorch is unknown", "run `make setup`"}
	case err != nil:
		return Finding{"libtorch", Warn, err.Error(), "run `make setup`"}
	}
	if !isLibrary(filepath.Join(info.Libtorch.LibDir, "libtorch_cpu.so")) {
		return Finding{"libtorch", Fail, fmt.Sprintf("%s was built for libtorch %s in %s, which is gone", shim, info.Libtorch.Version, info.Libtorch.LibDir),
			"run `make setup`, with LIBTORCH=/path for one of your own, or ./setup /path in an unpacked release"}
	}
	build := "CPU"
	if info.Libtorch.CUDA {
		build = "CUDA"
	}
	return Finding{Check: "libtorch", Status: OK, Detail: fmt.Sprintf("%s (%s) in %s; the shim holds %d functions; used by %s",
		info.Libtorch.Version, build, info.Libtorch.LibDir, info.Functions, strings.Join(plugins, ", "))}
}

// blas tells a tuned BLAS from Debian's reference one, which libtorch takes as
// readily and which is many times slower.
func blas(c *closure) (Finding, bool) {
	path := c.paths["libblas.so.3"]
	if path == "" {
		return Finding{}, false // libtorch brings its own
	}
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return Finding{"BLAS", Warn, err.Error(), "apt-get install libopenblas0-pthread"}, true
	}
	for _, tuned := range []string{"openblas", "mkl", "blis", "atlas", "armpl"} {
		if strings.Contains(strings.ToLower(real), tuned) {
			return Finding{Check: "BLAS", Status: OK, Detail: real}, true
		}
	}
	return Finding{"BLAS", Warn, real + " is the reference BLAS, many times slower than a tuned one", "apt-get install libopenblas0-pthread"}, true
}

// gpu reports GPUs and whether libtorch can use them.
func (m machine) gpu(torch []torchPlugin) Finding {
	devices, driver := m.gpuDevices(), m.nvidiaDriver()
	if len(devices) == 0 {
		if driver != "" {
			return Finding{"GPU", Warn, "NVIDIA driver " + driver + ", but no /dev/nvidia* in reach", "pass the GPU into this container"}
		}
		return Finding{Check: "GPU", Status: OK, Detail: "none: plugins compute on the processor"}
	}
	detail := fmt.Sprintf("%d NVIDIA, driver %s", len(devices), driver)
	for _, p := range torch {
		if info, err := readShimInfo(p.closure.paths[shimLibrary]); err == nil && !info.Libtorch.CUDA {
			return Finding{"GPU", Warn, detail + "; libtorch " + info.Libtorch.Version + " was built without CUDA",
				"LIBTORCH=/path/to/torch make setup, with the torch folder of a CUDA wheel or the official CUDA zip"}
		}
	}
	return Finding{Check: "GPU", Status: OK, Detail: detail}
}
