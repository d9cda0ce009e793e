package cli

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestPluginScripts runs testdata/plugin/*.txtar: the plugin and stage commands.
func TestPluginScripts(t *testing.T) {
	plugins, err := toyPlugins()
	if err != nil {
		t.Fatal(err)
	}
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir:  "testdata/plugin",
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exitcode": exitCode, "flipbyte": flipByte, "nothingruns": nothingRuns},
		Setup: func(e *testscript.Env) error {
			e.Setenv("XDG_DATA_HOME", e.WorkDir+"/data")
			e.Setenv("ALIGNEDFUSION_PLUGIN_DIR", "")
			e.Setenv("PLUGINS", plugins)
			e.Setenv("HOST", filepath.Join(root, "host"))
			e.Setenv("ALIGNEDFUSION_SDK", root)
			for _, name := range []string{"GOMODCACHE", "GOCACHE", "GOPROXY", "GOTOOLCHAIN"} {
				if out, err := exec.Command("go", "env", name).Output(); err == nil {
					e.Setenv(name, strings.TrimSpace(string(out)))
				}
			}
			return nil
		},
	})
}

// runningIn lists the processes that run a program of a folder or stand in it. A plugin's
// children stand where it stood.
func runningIn(dir string) (out []string, err error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		for _, link := range []string{"exe", "cwd"} {
			at, err := os.Readlink(filepath.Join("/proc", e.Name(), link))
			if err == nil && (at == dir || strings.HasPrefix(at, dir+string(filepath.Separator))) {
				out = append(out, fmt.Sprintf("process %s: its %s is %s", e.Name(), link, at))
			}
		}
	}
	return out, nil
}

// nothingRuns fails while a process runs in the script's folder: nothingruns.
func nothingRuns(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) > 0 {
		ts.Fatalf("usage: nothingruns")
	}
	left, err := runningIn(ts.Getenv("WORK"))
	ts.Check(err)
	if len(left) > 0 {
		ts.Fatalf("left running: %s", strings.Join(left, "; "))
	}
}
