//go:build linux

package plughost

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/alignedfusion/alignedfusion/host/fault"
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
	t.Setenv("LD_PRELOAD_OTHER", "loaded")
	t.Setenv("SLURM", "no family")
	for _, name := range []string{"LD_LIBRARY_PATH", "PYTORCH_CUDA_ALLOC_CONF", "SLURM_JOB_ID", "CUBLAS_WORKSPACE_CONFIG", "CUDA_DEVICE_ORDER",
		"OPENBLAS_CORETYPE", "MKL_CBWR", "NVIDIA_TF32_OVERRIDE", "OMP_PROC_BIND", "ALSO", "MINE_A"} {
		t.Setenv(name, "x1")
	}
	t.Setenv("OMP_WAIT_POLICY", "active")
	t.Setenv(EnvPass, "ALSO, MINE_*")
	out := probe(t, Isolation{}, "env | grep -e =x1 -e =hunter2 -e =loaded -e '=no family' -e OMP -e SOCKET_DIR | sort | tr '\\n' ' ' >&2; echo >&2; ulimit -c >&2; ulimit -n >&2")
	for _, refused := range []string{"hunter2", "loaded", "no family"} {
		if strings.Contains(out, refused) {
			t.Errorf("%s is passed on: environment is\n%s", refused, out)
		}
	}
	for _, want := range []string{"ALSO=x1 ", "MINE_A=x1 ", "LD_LIBRARY_PATH=x1 ", "PYTORCH_CUDA_ALLOC_CONF=x1 ", "SLURM_JOB_ID=x1 ", "CUBLAS_WORKSPACE_CONFIG=x1 ",
		"CUDA_DEVICE_ORDER=x1 ", "OPENBLAS_CORETYPE=x1 ", "MKL_CBWR=x1 ", "NVIDIA_TF32_OVERRIDE=x1 ", "OMP_PROC_BIND=x1 ", "OMP_WAIT_POLICY=active ", "PLUGIN_UNIX_SOCKET_DIR="} {
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

func TestSharedMemoryCountsTowardsTheMemoryLimit(t *testing.T) {
	const script = "sleep 1; echo data $(ulimit -d) >&2" // the limit comes after the start
	if out := probe(t, Isolation{MemoryBytes: 1 << 30}, script); !strings.Contains(out, "data 917504") {
		t.Errorf("of 1 GiB an eighth is shared, %d KiB are left: %s", 917504, out)
	}
	h := newHost(t, Options{ArenaBytes: 1 << 30, Isolation: Isolation{MemoryBytes: 1 << 30}})
	if _, err := h.Start(t.Context(), filepath.Join(testBinaries, "linear")); fault.Of(err) != fault.Usage || !strings.Contains(err.Error(), "--plugin-shared-mib") {
		t.Errorf("all of the memory shared: %v", err)
	}
}

// Where no arena can be had, and where the plugin cannot map it, tensors travel in the
// messages, and the log says so.
func TestWithoutSharedMemoryTensorsTravelInTheMessages(t *testing.T) {
	var before unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &before); err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	h := newHost(t, Options{})
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: 0, Max: before.Max}); err != nil {
		t.Fatal(err)
	}
	arena, failed := h.newArena(&Isolation{}, &log)
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &before); err != nil {
		t.Fatal(err)
	}
	if arena != nil || failed != nil {
		t.Errorf("shared memory where no file may be written: %v, %v", arena, failed)
	}
	if !strings.Contains(log.String(), "tensors travel in the messages: arena") {
		t.Errorf("the log says %q", log.String())
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
