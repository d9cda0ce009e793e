package cli

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// testPlugins builds the SDK's small plugins without torch, once.
var testPlugins = sync.OnceValues(func() (string, error) {
	program, err := exec.LookPath("alignedfusion") // in a folder that testscript.Main removes
	if err != nil {
		return "", err
	}
	dir := filepath.Join(filepath.Dir(program), "testplugins")
	cmd := exec.Command("go", "build", "-o", dir+"/", "github.com/alignedfusion/alignedfusion/sdk/internal/testplugins/cmd/...")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w\n%s", err, out)
	}
	return dir, nil
})

// TestPluginScripts runs testdata/plugin/*.txtar: the plugin and stage commands.
func TestPluginScripts(t *testing.T) {
	plugins, err := testPlugins()
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

// nothingRuns fails while a process runs a program of the script's folder or stands in it:
// nothingruns. A plugin's children stand where it stood.
func nothingRuns(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) > 0 {
		ts.Fatalf("usage: nothingruns")
	}
	entries, err := os.ReadDir("/proc")
	ts.Check(err)
	for _, e := range entries {
		for _, link := range []string{"exe", "cwd"} {
			at, err := os.Readlink(filepath.Join("/proc", e.Name(), link))
			if err == nil && strings.HasPrefix(at, ts.Getenv("WORK")+string(filepath.Separator)) || at == ts.Getenv("WORK") {
				ts.Fatalf("process %s runs on: its %s is %s", e.Name(), link, at)
			}
		}
	}
}

var fenced = regexp.MustCompile("(?s)```sh\n(.*?)```")

// guide returns the commands of a section of docs/write-a-plugin.md, as they stand.
func guide(t *testing.T, heading string) string {
	t.Helper()
	text, err := os.ReadFile("../../docs/write-a-plugin.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, ok := strings.Cut(string(text), "\n## "+heading+"\n")
	if !ok {
		t.Fatalf("the guide has no section %q", heading)
	}
	section, _, _ = strings.Cut(section, "\n## ")
	block := fenced.FindStringSubmatch(section)
	if block == nil {
		t.Fatalf("section %q has no commands", heading)
	}
	if n := strings.Count(strings.TrimSpace(block[1]), "\n") + 1; n > 8 {
		t.Errorf("section %q takes %d commands, want at most 8", heading, n)
	}
	return block[1]
}

// followGuide runs commands in an empty folder of a user who has nothing but this
// project's program and its classifier.
func followGuide(t *testing.T, dir, commands string) {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", "-e", "-x", "-c", commands)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "XDG_DATA_HOME="+filepath.Join(dir, "home"), "ALIGNEDFUSION_PLUGIN_DIR=", "ALIGNEDFUSION_SDK="+root)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// needGotch skips where nothing on libtorch can be built.
func needGotch(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("builds plugins on libtorch")
	}
	if _, err := os.Stat("../../build/gotch/go.mod"); err != nil {
		t.Skip("gotch is not fitted to this machine's libtorch; run `make setup`")
	}
}

// buildClassifier builds the project's own classifier plugin.
func buildClassifier(t *testing.T) (classifier string) {
	t.Helper()
	needGotch(t)
	classifier = filepath.Join(t.TempDir(), "classifier")
	build := exec.Command("go", "build", "-buildvcs=false", "-o", classifier, "github.com/alignedfusion/alignedfusion/plugins/classifier/cmd/alignedfusion-plugin-classifier")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return classifier
}

func TestTheGuideWordForWordInGo(t *testing.T) {
	classifier := buildClassifier(t)
	dir := t.TempDir()
	followGuide(t, dir, "alignedfusion plugin install "+classifier+"\n"+guide(t, "A head in Go"))
	// By name it has trained; by path it predicts and trains as well.
	followGuide(t, filepath.Join(dir), "cd my-head\nHOME="+dir+` XDG_DATA_HOME=`+dir+`/home alignedfusion train --task classify --data table:data/data.csv --encoder classifier --head ./bin/my-head --epochs 1 --set data.size=32 --out run-by-path
grep -q '"sha256"' run/manifest.json
cmp run/predictions/val/predictions.csv run-by-path/predictions/val/predictions.csv`)
}

func TestTheGuideWordForWordInPython(t *testing.T) {
	classifier := buildClassifier(t)
	needPython(t)
	followGuide(t, t.TempDir(), "alignedfusion plugin install "+classifier+"\n"+guide(t, "A head in Python"))
}
