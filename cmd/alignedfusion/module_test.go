package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/mod/module"
	"golang.org/x/mod/zip"
)

var packed = module.Version{Path: "github.com/alignedfusion/alignedfusion", Version: "v0.2.0"}

// stranger is a plugin and an evaluation as somebody else's module would hold them.
const stranger = `package main

import (
	"context"
	"fmt"

	"github.com/alignedfusion/alignedfusion/eval/froc"
	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/serve"
)

func main() {
	fmt.Println(froc.DeepLesion().Name)
	serve.Plugin(sdk.Plugin{
		Manifest: sdk.Manifest{Name: "stranger", Version: "1", Stages: []sdk.StageManifest{{Name: "head", Kind: sdk.KindHead, Summary: "nothing"}}},
		Open: func(context.Context, *sdk.OpenRequest) (sdk.Stage, *sdk.OpenResponse, error) { return nil, nil, nil },
	})
}
`

// The module as the world gets it, packed from the checkout and served as files:
// somebody else's module builds against it, and go install gives the program.
func TestThePackedModuleServesStrangers(t *testing.T) {
	if testing.Short() {
		t.Skip("compiles the program once more")
	}
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	if err := exec.Command("git", "-C", root, "rev-parse", "HEAD").Run(); err != nil {
		t.Skip("not a git checkout")
	}
	proxy := t.TempDir()
	pack(t, root, filepath.Join(proxy, packed.Path, "@v"))
	cache, err := exec.Command("go", "env", "GOMODCACHE").Output()
	if err != nil {
		t.Fatal(err)
	}
	work := t.TempDir()
	// A module cache of its own: what is packed here must not stay in the user's.
	environment := append(os.Environ(), "GOWORK=off", "GOFLAGS=-mod=mod -modcacherw -trimpath", "CGO_ENABLED=0", "GOTOOLCHAIN=local",
		"GOSUMDB=off", "GOMODCACHE="+filepath.Join(work, "cache"), "GOBIN="+filepath.Join(work, "bin"),
		"GOPROXY=file://"+filepath.ToSlash(proxy)+",file://"+filepath.ToSlash(filepath.Join(strings.TrimSpace(string(cache)), "cache", "download")))
	run := func(dir, name string, args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), name, args...)
		cmd.Dir, cmd.Env = dir, environment
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	mine := filepath.Join(work, "mine")
	write(t, filepath.Join(mine, "go.mod"), fmt.Sprintf("module example.org/mine\n\ngo 1.26.0\n\nrequire %s %s\n", packed.Path, packed.Version))
	write(t, filepath.Join(mine, "main.go"), stranger)
	run(mine, "go", "build", "-o", "mine"+suffix(), ".")
	if out := run(mine, filepath.Join(mine, "mine"+suffix()), "--describe"); !strings.Contains(out, `"stranger"`) {
		t.Errorf("the stranger's plugin says %q", out)
	}
	run(work, "go", "install", packed.Path+"/cmd/alignedfusion@"+packed.Version)
	if out := run(work, filepath.Join(work, "bin", "alignedfusion"+suffix()), "--version"); !strings.Contains(out, "alignedfusion") {
		t.Errorf("the program says %q", out)
	}
}

func suffix() string {
	if runtime.GOOS == "windows" {
		return ".exe"
	}
	return ""
}

// tracked is a file of the checkout.
type tracked struct{ root, path string }

func (f tracked) Path() string                 { return f.path }
func (f tracked) Lstat() (os.FileInfo, error)  { return os.Lstat(filepath.Join(f.root, f.path)) }
func (f tracked) Open() (io.ReadCloser, error) { return os.Open(filepath.Join(f.root, f.path)) }

// pack writes the module as a proxy's folder.
func pack(t *testing.T, root, dir string) {
	t.Helper()
	mod, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	names, err := exec.Command("git", "-C", root, "ls-files", "-z").Output()
	if err != nil {
		t.Fatal(err)
	}
	var files []zip.File
	for name := range strings.SplitSeq(strings.TrimRight(string(names), "\x00"), "\x00") {
		if _, err := os.Lstat(filepath.Join(root, name)); err == nil {
			files = append(files, tracked{root, name})
		}
	}
	var archive bytes.Buffer
	if err := zip.Create(&archive, packed, files); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"list": packed.Version + "\n", packed.Version + ".mod": string(mod), packed.Version + ".zip": archive.String(),
		packed.Version + ".info": fmt.Sprintf(`{"Version":%q,"Time":"2026-01-01T00:00:00Z"}`, packed.Version)} {
		write(t, filepath.Join(dir, name), text)
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
		t.Fatal(err)
	}
}
