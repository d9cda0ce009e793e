package plughost

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/alignedfusion/alignedfusion/sdk"
)

func supported(t *testing.T, name string) {
	t.Helper()
	for _, s := range IsolationSupport(t.Context()) {
		if s.Name == name && !s.Available {
			t.Skipf("%s: %s", name, s.Detail)
		}
	}
}

// probe runs a shell as if it were a plugin: it never speaks the protocol, but says on
// standard error what it could do.
func probe(t *testing.T, i Isolation, script string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "probe")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	h := newHost(t, Options{Isolation: i})
	_, err := h.Start(t.Context(), path)
	return strings.Join(wantFailure(t, err).Stderr, "\n")
}

func TestEnvironmentIsClean(t *testing.T) {
	t.Setenv("SECRET_TOKEN", "hunter2")
	t.Setenv("LD_LIBRARY_PATH", "/somewhere")
	t.Setenv("ALSO", "passed on")
	t.Setenv(EnvPass, "ALSO")
	out := probe(t, Isolation{}, "env | grep -v -e PATH= -e PYTHON -e PLUGIN_M -e HOME= -e PWD= -e USER= >&2; env | grep LD_ >&2; ulimit -c >&2; ulimit -n >&2")
	if strings.Contains(out, "hunter2") || strings.Contains(out, "LD_LIBRARY_PATH") {
		t.Errorf("environment is\n%s", out)
	}
	for _, want := range []string{"ALSO=passed on", "OMP_WAIT_POLICY=passive", "PLUGIN_UNIX_SOCKET_DIR="} {
		if !strings.Contains(out, want) {
			t.Errorf("%s is missing in\n%s", want, out)
		}
	}
	if !strings.HasSuffix(out, "\n0\n4096") {
		t.Errorf("limits of core dumps and files are\n%s", out[max(0, len(out)-20):])
	}
}

func TestReadOnlyFiles(t *testing.T) {
	supported(t, "read-only files")
	dir := t.TempDir()
	script := "echo x > " + dir + "/file && echo WROTE >&2; rm -f " + dir + "/old && echo REMOVED >&2; echo y > $TMPDIR/mine && echo TEMPORARY >&2; cat " + dir + "/old >&2; echo > /dev/null && echo NULL >&2"
	if err := os.WriteFile(filepath.Join(dir, "old"), []byte("old content\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	out := probe(t, Isolation{ReadOnly: true}, script)
	if strings.Contains(out, "WROTE") || strings.Contains(out, "REMOVED\n") {
		t.Errorf("it changed files:\n%s", out)
	}
	for _, want := range []string{"TEMPORARY", "old content", "NULL"} {
		if !strings.Contains(out, want) {
			t.Errorf("%s is missing in\n%s", want, out)
		}
	}
}

func TestNoNetwork(t *testing.T) {
	supported(t, "no network")
	const script = "cat /proc/net/dev >&2; exit 3"
	with, without := probe(t, Isolation{}, script), probe(t, Isolation{NoNetwork: true}, script)
	if n := strings.Count(without, "\n"); n > 2 { // two lines of heading, lo
		t.Errorf("interfaces without network:\n%s", without)
	}
	if strings.Count(with, "\n") < strings.Count(without, "\n") {
		t.Errorf("interfaces with network:\n%s", with)
	}
}

func TestAnIsolatedPluginWorksAndSaves(t *testing.T) {
	supported(t, "no network")
	supported(t, "read-only files")
	h := newHost(t, Options{Isolation: Isolation{NoNetwork: true, ReadOnly: true, MemoryBytes: 1 << 30, CPUSeconds: 60}})
	i := openLinear(t, start(t, h, "linear"), nil)
	if _, err := i.Forward(t.Context(), &sdk.ForwardRequest{Inputs: row(5000)}); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for range 2 { // the second time over the first's files
		files, err := i.Save(t.Context(), dir)
		if err != nil {
			t.Fatal(err)
		}
		if len(files) != 2 {
			t.Errorf("files are %v", files)
		}
	}
	if err := i.Load(t.Context(), dir, false); err != nil {
		t.Error(err)
	}
}

func TestMemoryLimit(t *testing.T) {
	h := newHost(t, Options{CallTimeout: 30 * time.Second, Isolation: Isolation{MemoryBytes: 512 << 20}})
	_, i := openFaulty(t, h, "memory")
	_, err := i.Forward(t.Context(), &sdk.ForwardRequest{Inputs: row4(1)})
	wantFailure(t, err, "forward", "memory")
}

func TestCPULimit(t *testing.T) {
	h := newHost(t, Options{CallTimeout: 30 * time.Second, Isolation: Isolation{CPUSeconds: 1}})
	_, i := openFaulty(t, h, "spin")
	_, err := i.Forward(t.Context(), &sdk.ForwardRequest{Inputs: row4(1)})
	wantFailure(t, err, "forward", "killed by signal")
}

func TestIsolationThatIsNotThereIsAnError(t *testing.T) {
	if _, err := landlockABI(); err == nil {
		t.Skip("this kernel has Landlock")
	}
	h := newHost(t, Options{Isolation: Isolation{ReadOnly: true}})
	_, err := h.Start(t.Context(), filepath.Join(testBinaries, "linear"))
	if !errors.Is(err, ErrIsolation) {
		t.Errorf("error is %v, want ErrIsolation", err)
	}
}
