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
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sort"
	"strings"
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

// edit is one replacement in a copied file. The module version is pinned, so a
// text that is not found is a fault, never skipped.
type edit struct {
	file, old, new string
}

// moduleEdits mend the Go side of gotch where it stands in a plugin's way.
var moduleEdits = []edit{
	// Creating ~/.cache/gotch at import time ends the process when the home
	// folder is missing or read-only; nothing here uses that folder.
	{"init.go", `	if _, err := os.Stat(CachedDir); os.IsNotExist(err) {
		if err := os.MkdirAll(CachedDir, 0755); err != nil {
			log.Fatal(err)
		}
	}
`, ""},
	{"init.go", "\t\"log\"\n", ""},
	// 100 kB of Go heap per tensor exist to make the collector run finalizers;
	// memory is released by explicit scopes instead.
	{"ts/tensor.go", "lots [1e5]byte // 100k - always on host memory.", "lots [1]byte"},
	// Reading eight bytes of a four-byte C int.
	{"libtch/tensor.go", "return *(*int)(unsafe.Pointer(&cint))", "return int(cint)"},
	{"libtch/tensor.go", "return *(*int)(unsafe.Pointer(&cretVal))", "return int(cretVal)"},
	{"libtch/device.go", "return *(*int)(unsafe.Pointer(&t))", "return int(t)"},
	{"libtch/device.go", "import (\n\t\"unsafe\"\n)\n", ""},
}

// shimEdits let more than one C++ file include the shim's header: the error
// slot is declared there and defined in torch_api.cpp.
var shimEdits = []edit{
	{"torch_api.h", "thread_local char *torch_last_err = nullptr;", "extern thread_local char *torch_last_err;"},
	{"torch_api.cpp", "#include \"torch_api.h\"\n", "#include \"torch_api.h\"\nthread_local char *torch_last_err = nullptr;\n"},
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

// writeShimSources copies the shim's sources, edited, and the extra ones to dir.
func writeShimSources(gotchDir, dir string) error {
	files := map[string][]byte{}
	for _, name := range shimFiles {
		b, err := os.ReadFile(filepath.Join(gotchDir, "libtch", name))
		if err != nil {
			return err
		}
		files[name] = b
	}
	if err := applyEdits(files, shimEdits); err != nil {
		return err
	}
	entries, err := extra.ReadDir("extra")
	if err != nil {
		return err
	}
	for _, e := range entries {
		if ext := filepath.Ext(e.Name()); ext == ".cpp" || ext == ".h" {
			if files[e.Name()], err = extra.ReadFile("extra/" + e.Name()); err != nil {
				return err
			}
		}
	}
	return replaceTree(dir, files)
}

// writeModule writes the fitted copy of the Go module to dir.
func writeModule(gotchDir, dir string) error {
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
		return err
	}
	if err := applyEdits(files, moduleEdits); err != nil {
		return err
	}
	files["libtch/lib.go"] = []byte(libGo)
	entries, err := extra.ReadDir("extra")
	if err != nil {
		return err
	}
	for _, e := range entries {
		b, err := extra.ReadFile("extra/" + e.Name())
		if err != nil {
			return err
		}
		switch {
		case strings.HasSuffix(e.Name(), ".h"):
			files["libtch/"+e.Name()] = b
		case strings.HasSuffix(e.Name(), ".go.txt"):
			files["ts/"+strings.TrimSuffix(e.Name(), ".txt")] = b
		}
	}
	return replaceTree(dir, files)
}

func applyEdits(files map[string][]byte, edits []edit) error {
	for _, e := range edits {
		text, ok := files[e.file]
		if !ok || !bytes.Contains(text, []byte(e.old)) {
			return fmt.Errorf("gotch %s: %s does not contain %q", gotchVersion, e.file, e.old)
		}
		files[e.file] = bytes.Replace(text, []byte(e.old), []byte(e.new), 1)
	}
	return nil
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

func writeIfChanged(path string, content []byte) error {
	old, err := os.ReadFile(path)
	if err == nil && bytes.Equal(old, content) {
		return nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".fitgotch-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	if _, err := tmp.Write(content); err != nil {
		tmp.Close()
		return err
	}
	if err := tmp.Chmod(0o644); err != nil {
		tmp.Close()
		return err
	}
	if err := tmp.Close(); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}

const workHeader = "// Written by fitgotch; `make setup` makes it again."

var goDirective = regexp.MustCompile(`(?m)^go\s+(\S+)`)

// writeWork writes go.work so that plain `go` commands use the fitted copy.
func writeWork(root string) error {
	path := filepath.Join(root, "go.work")
	if old, err := os.ReadFile(path); err == nil && !bytes.HasPrefix(old, []byte(workHeader)) {
		return fmt.Errorf("%s exists and is not fitgotch's: move it away", path)
	}
	mod, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		return err
	}
	m := goDirective.FindSubmatch(mod)
	if m == nil {
		return fmt.Errorf("%s has no go directive", filepath.Join(root, "go.mod"))
	}
	return writeIfChanged(path, fmt.Appendf(nil, "%s\ngo %s\n\nuse .\n\nreplace %s %s => ./build/gotch\n",
		workHeader, m[1], gotchModule, gotchVersion))
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
