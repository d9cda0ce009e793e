package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"sort"
	"strings"

	"github.com/alignedfusion/alignedfusion/internal/atomicfile"
)

const (
	gotchModule  = "github.com/sugarme/gotch"
	gotchVersion = "v0.9.1"
)

// extra holds what is added to gotch: own C++ sources for the shim (*.cpp, *.h)
// and the Go file that calls them (ts_*.go.txt, copied into package ts).
//
//go:embed extra
var extra embed.FS

// edit is one replacement in the copied files that match a path.Match pattern.
// The module version is pinned, so a text that is not found is a fault, never
// skipped. With upTo set, everything from old to the end of upTo is replaced;
// with all set, every occurrence.
type edit struct {
	file, old, upTo, new string
	all                  bool
}

// moduleEdits mend the Go side of gotch where it stands in a plugin's way.
var moduleEdits = []edit{
	// Creating ~/.cache/gotch at import time ends the process when the home
	// folder is missing or read-only; nothing here uses that folder.
	{file: "init.go", old: "\n\tif _, err := os.Stat(CachedDir)", upTo: "\n\t}\n", new: ""},
	{file: "init.go", old: "\t\"log\"\n", new: ""},
	// 100 kB of Go heap per tensor exist to make the collector run finalizers;
	// memory is released by explicit scopes instead.
	{file: "ts/tensor.go", old: "lots [1e5]byte // 100k - always on host memory.", new: "lots [1]byte"},
	// Reading eight bytes of a four-byte C int.
	{file: "libtch/tensor.go", old: "return *(*int)(unsafe.Pointer(&cint))", new: "return int(cint)"},
	{file: "libtch/tensor.go", old: "return *(*int)(unsafe.Pointer(&cretVal))", new: "return int(cretVal)"},
	{file: "libtch/device.go", old: "return *(*int)(unsafe.Pointer(&t))", new: "return int(t)"},
	{file: "libtch/device.go", old: "import (\n\t\"unsafe\"\n)\n", new: ""},
	// RunBackward wrote all results behind the first one's memory and read all
	// inputs behind the first one's pointer.
	{file: "ts/tensor.go", old: "\t// NOTE: outputs is a slice of tensors with length = len(inputs)", upTo: "inputsPtr := (*lib.Ctensor)(unsafe.Pointer(&cinput))\n", new: `	outputs := make([]lib.Ctensor, len(inputs))
	var croots, cinputs []lib.Ctensor
	for _, t := range tensors {
		croots = append(croots, t.ctensor)
	}
	for _, t := range inputs {
		cinputs = append(cinputs, t.ctensor)
	}
`},
	{file: "ts/tensor.go", old: "lib.AtRunBackward(tensorsPtr, len(tensors), inputsPtr, len(inputs), outputsPtr[0], keepGraph, createGraph)",
		new: "lib.AtRunBackward(unsafe.SliceData(croots), len(croots), unsafe.SliceData(cinputs), len(cinputs), unsafe.SliceData(outputs), keepGraph, createGraph)"},
	{file: "ts/tensor.go", old: "\t\toutputPtr := outputsPtr[i]\n\t\toTensors = append(oTensors, newTensor(*outputPtr))", new: "\t\toTensors = append(oTensors, newTensor(outputs[i]))"},
	// Every operator leaked the C memory that receives its results, and those
	// with four results or more wrote past its end.
	{file: "ts/*.go", old: "(*lib.Ctensor)(unsafe.Pointer(C.malloc(0)))", new: "newOutputs()", all: true},
	// An in-place operator returns a second handle of its own tensor, and gotch lost the
	// first one: the tensor was never freed.
	{file: "ts/tensor-generated.go", old: "ts.ctensor = *ptr", new: "lib.AtFree(*ptr)", all: true},
	// Drop did nothing: scalars waited for the collector, and these small live blocks
	// between freed tensors kept the heap growing until it ran.
	{file: "ts/scalar.go", old: "func (sc *Scalar) Drop() (err error) {", upTo: "\n}\n", new: `func (sc *Scalar) Drop() error {
	if sc.cscalar == nil {
		return nil
	}
	runtime.SetFinalizer(sc, nil)
	err := freeCScalar(sc)
	sc.cscalar = nil
	return err
}
`},
	{file: "ts/patch.go", old: "\tif err = TorchErr(); err != nil {\n\t\treturn retVal, err\n\t}\n\n\tcurrentPtr := ctensorsPtr", new: "\tdefer C.free(unsafe.Pointer(ctensorsPtr))\n\tif err = TorchErr(); err != nil {\n\t\treturn retVal, err\n\t}\n\n\tcurrentPtr := ctensorsPtr", all: true},
	// Sizes and strides went through C memory and reflection.
	{file: "ts/tensor.go", old: "\tszPtr, err := DataAsPtr(sz)", upTo: "shape := decodeSize(szPtr, dim)\n\n\treturn shape, nil", new: "\tlib.AtShape(ts.ctensor, unsafe.Pointer(unsafe.SliceData(sz)))\n\treturn sz, TorchErr()"},
	{file: "ts/tensor.go", old: "\tszPtr, err := DataAsPtr(sz)", upTo: "strides := decodeSize(szPtr, dim)\n\n\treturn strides, nil", new: "\tlib.AtStride(ts.ctensor, unsafe.Pointer(unsafe.SliceData(sz)))\n\treturn sz, TorchErr()"},
	{file: "ts/tensor.go", old: "func decodeSize(", upTo: "\n}\n", new: ""},
	{file: "ts/tensor.go", old: "\t\"bytes\"\n", new: ""},
	// NoGrad switched recording on at its end whatever it was before.
	{file: "ts/tensor.go", old: "\tMustGradSetEnabled(false)\n\n\tfn()\n\n\t// Switch on Grad\n\tMustGradSetEnabled(true)", new: "\tprevious := MustGradSetEnabled(false)\n\tdefer MustGradSetEnabled(previous)\n\n\tfn()"},
}

// emptySlice finds `&data[0]` handed to C, which panics for an empty list: the
// shape of a scalar, "all dimensions".
var emptySlice = regexp.MustCompile(`unsafe\.Pointer\(&(\w+Data|dims)\[0\]\)`)

// shimEdits let more than one C++ file include the shim's header, and let it do with
// ATen where nothing needs more.
var shimEdits = []edit{
	{file: "torch_api.h", old: "thread_local char *torch_last_err = nullptr;", new: "extern thread_local char *torch_last_err;"},
	{file: "torch_api.h", old: "c10::optional", new: "shim::optional", all: true},
	{file: "torch_api.h", old: "#include <torch/torch.h>", new: "#include \"libtorch.h\""},
	{file: "torch_api.h", old: "typedef torch::optim::Optimizer *optimizer;", upTo: "typedef torch::jit::IValue *ivalue;", new: `#ifdef SHIM_WHOLE_TORCH
typedef torch::optim::Optimizer *optimizer;
typedef torch::jit::script::Module *module;
typedef torch::jit::IValue *ivalue;
#else
typedef void *optimizer;
typedef void *module;
typedef void *ivalue;
#endif`},
}

// libGo replaces gotch's lib.go, which links CUDA libraries unconditionally. The
// run path finds libtch.so beside an installed tree first, then where it was built.
const libGo = `// Written by fitgotch.
package libtch

// #cgo CFLAGS: -I${SRCDIR} -O1 -Wno-unused-variable -Wno-unused-function
// #cgo LDFLAGS: -L${SRCDIR}/../../lib -ltch
// #cgo LDFLAGS: -Wl,-rpath,$ORIGIN/../../build/lib -Wl,-rpath,$ORIGIN/../build/lib
// #cgo LDFLAGS: -Wl,-rpath,$ORIGIN/../../lib -Wl,-rpath,$ORIGIN/../lib -Wl,-rpath,$ORIGIN
// #cgo LDFLAGS: -Wl,-rpath,${SRCDIR}/../../lib
import "C"
`

// shimFiles are the C and C++ sources of the shim inside gotch's libtch folder.
var shimFiles = []string{
	"torch_api.cpp", "torch_api.h", "torch_api_generated.cpp.h", "torch_api_generated.h",
	"stb_image.h", "stb_image_resize.h", "stb_image_write.h",
}

// gotchSource returns the folder of the pinned gotch in the module cache,
// downloading it when it is not there.
func gotchSource(ctx context.Context, root string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", "mod", "download", "-json", gotchModule+"@"+gotchVersion)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "GOWORK=off")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	var answer struct{ Dir, Error string }
	if jsonErr := json.Unmarshal(out, &answer); jsonErr == nil && answer.Error != "" {
		return "", fmt.Errorf("downloading gotch %s: %s", gotchVersion, answer.Error)
	}
	if err != nil {
		return "", fmt.Errorf("go mod download gotch %s: %w: %s", gotchVersion, err, strings.TrimSpace(stderr.String()))
	}
	return answer.Dir, nil
}

// writeGoSide writes the fitted copy of the Go module, go.work, and the shim's sources,
// all cut down to what the packages of the project reach. It does nothing while the
// project's Go files, and this program, are what they were. With a base, the build folder
// of another project, that one's copy and library serve where they hold all that is
// reached: go.work points there then, and borrowed is true.
func writeGoSide(ctx context.Context, root, sources, base string, packages []string, log io.Writer) (borrowed bool, err error) {
	target, err := writeWork(root)
	if err != nil {
		return false, err
	}
	own := target == ownCopy
	stamp, err := goStamp(root, base, packages)
	if err != nil {
		return false, err
	}
	dir := filepath.Join(root, "build", "gotch")
	stampPath := filepath.Join(filepath.Dir(sources), "reach.stamp")
	if old, err := os.ReadFile(stampPath); err == nil && string(old) == stamp && (!own || isFile(filepath.Join(dir, "go.mod")) && isFile(filepath.Join(sources, reachFile))) {
		return !own, nil
	}
	gotchDir, err := gotchSource(ctx, root)
	if err != nil {
		return false, err
	}
	module, err := fittedModule(gotchDir)
	if err != nil {
		return false, err
	}
	r, err := findReach(ctx, root, packages, module)
	if err != nil {
		return false, err
	}
	if base != "" {
		other, err := readJSON[reached](filepath.Join(base, "shim", "src", reachFile))
		if err != nil {
			return false, fmt.Errorf("the base: %w; run `make setup` there", err)
		}
		if other.covers(r.reached()) {
			if err := pointWork(root, filepath.Join(base, "gotch")); err != nil {
				return false, err
			}
			return true, writeIfChanged(stampPath, []byte(stamp))
		}
	}
	shim, err := r.shim(gotchDir)
	if err != nil {
		return false, err
	}
	if err := r.prune(module); err != nil {
		return false, err
	}
	if err := replaceTree(sources, shim); err != nil {
		return false, err
	}
	if err := replaceTree(dir, module); err != nil {
		return false, err
	}
	if err := pointWork(root, ownCopy); err != nil {
		return false, err
	}
	fmt.Fprintf(log, "gotch %s: the project reaches %d functions of its shim\n", gotchVersion, len(r.entryPoints()))
	return false, writeIfChanged(stampPath, []byte(stamp))
}

// reached is reach.json: what a fitted copy of gotch holds.
type reached struct {
	// Native are C functions, with the places of the project that need them.
	Native map[string]string `json:"native"`
	// Go are functions and methods by package.
	Go map[string][]string `json:"go"`
}

func (r *reach) reached() reached {
	out := reached{Native: map[string]string{}, Go: map[string][]string{}}
	for _, name := range r.entryPoints() {
		out.Native[name] = r.native[name].where
	}
	for pkg, names := range r.kept {
		out.Go[pkg] = slices.Sorted(maps.Keys(names))
	}
	return out
}

// covers reports whether r holds all of another one.
func (r *reached) covers(other reached) bool {
	for name := range other.Native {
		if _, there := r.Native[name]; !there {
			return false
		}
	}
	for pkg, names := range other.Go {
		for _, name := range names {
			if !slices.Contains(r.Go[pkg], name) {
				return false
			}
		}
	}
	return true
}

// goStamp digests what decides which functions are reached: the project's Go files and
// modules, this program, and what a base holds.
func goStamp(root, base string, packages []string) (string, error) {
	program, err := os.Executable()
	if err != nil {
		return "", err
	}
	own, err := os.ReadFile(program)
	if err != nil {
		return "", err
	}
	files := map[string][]byte{"program": own, "packages": []byte(strings.Join(packages, "\n"))}
	if base != "" {
		if files["base"], err = os.ReadFile(filepath.Join(base, "shim", "src", reachFile)); err != nil {
			return "", fmt.Errorf("the base: %w; run `make setup` there", err)
		}
	}
	err = filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && name != root && (strings.HasPrefix(d.Name(), ".") || name == filepath.Join(root, "build")) {
			return filepath.SkipDir
		}
		if ext := filepath.Ext(name); !d.Type().IsRegular() || ext != ".go" && ext != ".mod" {
			return nil
		}
		files[name], err = os.ReadFile(name)
		return err
	})
	return hashFiles(files), err
}

// entryPoints are the reached functions of gotch's shim and of the project's own part of
// it, in order.
func (r *reach) entryPoints() []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(r.native)), func(n string) bool {
		return !entryPoint.MatchString(n) && !strings.HasPrefix(n, "af_")
	})
}

// shim returns the sources of libtch.so: gotch's functions that are reached, the extra
// ones, and the list of both with the places that need them.
func (r *reach) shim(gotchDir string) (map[string][]byte, error) {
	files := map[string][]byte{}
	for _, name := range shimFiles {
		text, err := os.ReadFile(filepath.Join(gotchDir, "libtch", name))
		if err != nil {
			return nil, err
		}
		files[name] = text
	}
	if err := applyEdits(files, shimEdits); err != nil {
		return nil, err
	}
	own := ""
	entries, err := extra.ReadDir("extra")
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		text, err := extra.ReadFile("extra/" + e.Name())
		if err != nil {
			return nil, err
		}
		switch filepath.Ext(e.Name()) {
		case ".h":
			files[e.Name()] = text
		case ".cpp": // one source with gotch's: libtorch's headers take most of the time
			own += "\n" + string(text)
		}
	}
	source, err := shimSource([]string{string(files["torch_api.cpp"]), string(files["torch_api_generated.cpp.h"])}, own, r.native)
	if err != nil {
		return nil, err
	}
	delete(files, "torch_api_generated.cpp.h")
	files[shimSources], files["libtorch.h"] = []byte(source), []byte(libtorchHeader)
	for name := range files {
		if strings.HasPrefix(name, "stb_") && !strings.Contains(source, name) {
			delete(files, name)
		}
	}
	if files[reachFile], err = json.MarshalIndent(r.reached(), "", "  "); err != nil {
		return nil, err
	}
	return files, nil
}

// fittedModule is the whole fitted copy of the Go module, by file names.
func fittedModule(gotchDir string) (map[string][]byte, error) {
	files := map[string][]byte{}
	skip := map[string]bool{"example": true, "gen": true}
	err := filepath.WalkDir(gotchDir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(gotchDir, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			if skip[rel] {
				return filepath.SkipDir
			}
			return nil
		}
		switch {
		case strings.HasSuffix(rel, "_test.go"):
			return nil
		case filepath.Ext(rel) == ".go", rel == "go.mod", rel == "go.sum", rel == "LICENSE",
			rel == "libtch/torch_api.h", rel == "libtch/torch_api_generated.h":
			files[filepath.ToSlash(rel)], err = os.ReadFile(path)
			return err
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if err := applyEdits(files, moduleEdits); err != nil {
		return nil, err
	}
	for name, text := range files {
		if strings.HasPrefix(name, "libtch/") && strings.HasSuffix(name, ".go") {
			files[name] = emptySlice.ReplaceAll(text, []byte("unsafe.Pointer(unsafe.SliceData($1))"))
		}
	}
	files["libtch/lib.go"] = []byte(libGo)
	// Only what Go compiles: a change of another header must not recompile gotch.
	for source, target := range map[string]string{"af_extra.h": "ts/af_extra.h", "ts_extra.go.txt": "ts/ts_extra.go"} {
		if files[target], err = extra.ReadFile("extra/" + source); err != nil {
			return nil, err
		}
	}
	return files, nil
}

// applyEdits makes the edits in place; each must find its text.
func applyEdits(files map[string][]byte, edits []edit) error {
	for _, e := range edits {
		found := false
		for name, text := range files {
			match, err := path.Match(e.file, name)
			if err != nil {
				return err
			}
			if !match {
				continue
			}
			changed, ok := e.apply(string(text))
			if ok {
				found = true
				files[name] = []byte(changed)
			}
		}
		if !found {
			return fmt.Errorf("gotch %s: %s does not contain %q", gotchVersion, e.file, e.old)
		}
	}
	return nil
}

// apply returns the edited text and whether the edit applied.
func (e edit) apply(text string) (string, bool) {
	start := strings.Index(text, e.old)
	if start < 0 {
		return text, false
	}
	if e.all {
		return strings.ReplaceAll(text, e.old, e.new), true
	}
	end := start + len(e.old)
	if e.upTo != "" {
		length := strings.Index(text[end:], e.upTo)
		if length < 0 {
			return text, false
		}
		end += length + len(e.upTo)
	}
	return text[:start] + e.new + text[end:], true
}

// replaceTree makes dir hold exactly files. Files with equal content keep their
// modification time; the rest are written under a temporary name and renamed.
func replaceTree(dir string, files map[string][]byte) error {
	for name, content := range files {
		if err := writeIfChanged(filepath.Join(dir, filepath.FromSlash(name)), content); err != nil {
			return err
		}
	}
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if _, keep := files[filepath.ToSlash(rel)]; !keep {
			return os.Remove(path)
		}
		return nil
	})
}

func writeIfChanged(name string, content []byte) error {
	old, err := os.ReadFile(name)
	if err == nil && bytes.Equal(old, content) {
		return nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	return atomicfile.WriteBytes(name, content)
}

const workName = "go.work"

var (
	goDirective  = regexp.MustCompile(`(?m)^go\s+(\S+)`)
	gotchReplace = regexp.MustCompile(`(?m)^replace ` + regexp.QuoteMeta(gotchModule) + `\b.*=> *(\S+) *$`)
)

// ownCopy is where go.work finds the fitted copy, unless a base lends its own.
const ownCopy = "./build/gotch"

// writeWork writes go.work so that plain `go` commands use the fitted copy, and returns
// where it looks for it. One that the project has of its own must name a copy.
func writeWork(root string) (target string, err error) {
	path := filepath.Join(root, workName)
	if old, err := os.ReadFile(path); err == nil {
		if m := gotchReplace.FindSubmatch(old); m != nil {
			return string(m[1]), nil
		}
		return "", fmt.Errorf("%s exists and is not fitgotch's: move it away, or add to it: replace %s %s => %s", path, gotchModule, gotchVersion, ownCopy)
	}
	mod, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		return "", err
	}
	m := goDirective.FindSubmatch(mod)
	if m == nil {
		return "", fmt.Errorf("%s has no go directive", filepath.Join(root, "go.mod"))
	}
	return ownCopy, writeIfChanged(path, fmt.Appendf(nil, "// Written by fitgotch; `make setup` makes it again.\ngo %s\n\nuse .\n\nreplace %s %s => %s\n",
		m[1], gotchModule, gotchVersion, ownCopy))
}

// pointWork makes go.work take a fitted copy. One that does already stays as it is,
// however it is written.
func pointWork(root, target string) error {
	path := filepath.Join(root, workName)
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if m := gotchReplace.FindSubmatch(text); m != nil && below(root, string(m[1])) == below(root, target) {
		return nil
	}
	line := fmt.Sprintf("replace %s %s => %s", gotchModule, gotchVersion, target)
	return writeIfChanged(path, gotchReplace.ReplaceAllLiteral(text, []byte(line)))
}

// below is a path as root sees it.
func below(root, path string) string {
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	return filepath.Join(root, path)
}

// hashFiles returns a digest over names and contents.
func hashFiles(files map[string][]byte) string {
	names := make([]string, 0, len(files))
	for name := range files {
		names = append(names, name)
	}
	sort.Strings(names)
	h := sha256.New()
	for _, name := range names {
		fmt.Fprintf(h, "%s %d\n", name, len(files[name]))
		h.Write(files[name])
	}
	return hex.EncodeToString(h.Sum(nil))
}
