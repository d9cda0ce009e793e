package thirdparty

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/alignedfusion/alignedfusion/host/cli"
)

// root is the project's folder.
const root = "../../.."

// debianPython has what plugins in Python need: Debian's python3-torch and
// python3-grpcio belong to it.
const debianPython = "/usr/bin/python3"

// TestMain makes this test binary the program that the tests' commands call.
func TestMain(m *testing.M) {
	testscript.Main(whole{m}, map[string]func(){
		"alignedfusion": func() { os.Exit(cli.Main(os.Args, os.Stdout, os.Stderr)) },
	})
}

// ourPlugins makes the project's own plugins, which takes a second when that has just been done.
var ourPlugins = sync.OnceValues(func() (dir string, err error) {
	dir, err = filepath.Abs(root + "/bin/plugins")
	if err != nil {
		return "", err
	}
	if out, err := exec.Command("make", "-C", root, "plugins").CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w\n%s", err, out)
	}
	return dir, nil
})

// needGotch skips where nothing on libtorch can be built.
func needGotch(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("builds plugins on libtorch")
	}
	if _, err := os.Stat(root + "/build/gotch/go.mod"); err != nil {
		t.Skip("gotch is not fitted to this machine's libtorch; run `make setup`")
	}
}

func needPython(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("starts Python with torch")
	}
	if lacks := pythonLacks(); lacks != "" {
		t.Skipf("no torch, grpcio, protobuf or numpy for Python: %s", lacks)
	}
}

// pythonLacks is asked once: to import torch takes seconds.
var pythonLacks = sync.OnceValue(func() string {
	out, err := exec.Command(debianPython, "-c", "import torch, grpc, google.protobuf, numpy").CombinedOutput()
	if err != nil {
		return fmt.Sprintf("%v: %s", err, out)
	}
	return ""
})

// homes are where users have their plugins, by these plugins' names.
var homes struct {
	sync.Mutex
	of map[string]string
}

// has gives a user our plugins of these names, as `plugin install` does: it starts each plugin, so
// that a home is made once for all who have the same, and copied.
func has(t *testing.T, home string, names ...string) {
	t.Helper()
	plugins, err := ourPlugins()
	if err != nil {
		t.Fatal(err)
	}
	homes.Lock()
	defer homes.Unlock()
	key := strings.Join(names, " ")
	made := homes.of[key]
	if made == "" {
		made = filepath.Join(folder, strings.Join(names, "-"))
		if err := os.Mkdir(made, 0o755); err != nil {
			t.Fatal(err)
		}
		shell(t, made, made, "for name in "+key+"; do alignedfusion plugin install "+plugins+"/alignedfusion-plugin-$name; done")
		homes.of[key] = made
	}
	shell(t, made, home, "mkdir -p "+home+" && cp -a "+made+"/. "+home)
}

// folder is removed when all tests have run.
var folder string

// whole runs the tests with a folder of their own, and puts it away.
type whole struct{ *testing.M }

func (w whole) Run() int {
	var err error
	if folder, err = os.MkdirTemp("", "thirdparty-test-"); err != nil {
		panic(err)
	}
	defer os.RemoveAll(folder)
	homes.of = map[string]string{}
	return w.M.Run()
}

// user is a shell in dir as a user would have it who has nothing but this project's program;
// home is where the user's plugins are.
func user(t *testing.T, dir, home string, arguments ...string) *exec.Cmd {
	t.Helper()
	checkout, err := filepath.Abs(root)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", arguments...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "XDG_DATA_HOME="+home, "ALIGNEDFUSION_PLUGIN_DIR=", "ALIGNEDFUSION_SDK="+checkout)
	return cmd
}

// shell runs commands as user does, until one fails.
func shell(t *testing.T, dir, home, commands string) {
	t.Helper()
	if out, err := user(t, dir, home, "-e", "-x", "-c", commands).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// pythonPlugin copies a plugin in Python into a folder of its own.
func pythonPlugin(t *testing.T, source string) (dir string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), filepath.Base(source))
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"plugin.py", "plugin.yaml"} {
		text, err := os.ReadFile(filepath.Join(source, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// runningIn lists the processes that run a program of a folder or stand in it. A plugin's
// children stand where it stood.
func runningIn(t *testing.T, dir string) (out []string) {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		for _, link := range []string{"exe", "cwd"} {
			at, err := os.Readlink(filepath.Join("/proc", e.Name(), link))
			if err == nil && (at == dir || strings.HasPrefix(at, dir+string(filepath.Separator))) {
				out = append(out, fmt.Sprintf("process %s: its %s is %s", e.Name(), link, at))
			}
		}
	}
	return out
}
