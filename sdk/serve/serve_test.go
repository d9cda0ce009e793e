package serve_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/alignedfusion/alignedfusion/internal/process"
	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/client"
	"github.com/alignedfusion/alignedfusion/sdk/internal/wire"
	"github.com/alignedfusion/alignedfusion/sdk/plugintest/toy"
	"github.com/alignedfusion/alignedfusion/sdk/serve"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

// asPlugin in the environment makes the test binary the linear plugin.
const asPlugin = "ALIGNEDFUSION_SDK_TEST_PLUGIN"

func TestMain(m *testing.M) {
	if os.Getenv(asPlugin) == "" {
		os.Exit(m.Run())
	}
	p := toy.Linear()
	open := p.Open
	p.Open = func(ctx context.Context, req *sdk.OpenRequest) (sdk.Stage, *sdk.OpenResponse, error) {
		fmt.Println("printed while opening") // what a library would do
		return open(ctx, req)
	}
	serve.Plugin(p)
}

// program is the plugin as a process. Its standard output is read line by line.
type program struct {
	*exec.Cmd
	stdout *bufio.Reader
	stderr bytes.Buffer
}

// start starts the plugin with files from descriptor 3 on. It is killed with the test.
func start(t *testing.T, files []*os.File, environment []string, args ...string) *program {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &program{Cmd: exec.Command(self, args...)}
	p.Env = append(environment, asPlugin+"=1", "PATH="+os.Getenv("PATH"))
	p.ExtraFiles, p.Stderr = files, &p.stderr
	p.SysProcAttr = process.Leader()
	out, err := p.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.stdout = bufio.NewReader(out)
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = process.KillGroup(p.Process.Pid)
		_ = p.Wait()
	})
	return p
}

func hosted(dir string, more ...string) []string {
	return append([]string{serve.Handshake.MagicCookieKey + "=" + serve.Handshake.MagicCookieValue, "PLUGIN_PROTOCOL_VERSIONS=1", "PLUGIN_UNIX_SOCKET_DIR=" + dir}, more...)
}

// end waits for the program, which should end by itself.
func (p *program) end(t *testing.T) (stdout string, code int) {
	t.Helper()
	out, err := io.ReadAll(p.stdout)
	if err != nil {
		t.Fatal(err)
	}
	var exit *exec.ExitError
	if err := p.Wait(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return string(out), p.ProcessState.ExitCode()
}

// dial connects to the socket and returns a client that has the manifest.
func dial(t *testing.T, socket string) *client.Client {
	t.Helper()
	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	c := client.New(conn, client.Options{Plugin: "linear"})
	if _, err := c.Describe(t.Context()); err != nil {
		t.Fatal(err)
	}
	return c
}

func (p *program) line(t *testing.T) string {
	t.Helper()
	line, err := p.stdout.ReadString('\n')
	if err != nil {
		t.Fatalf("%v\n%s", err, p.stderr.String())
	}
	return strings.TrimSuffix(line, "\n")
}

func TestDescribePrintsTheManifestAndNothingElse(t *testing.T) {
	p := start(t, nil, nil, serve.DescribeFlag)
	out, code := p.end(t)
	m, err := wire.ManifestFromJSON([]byte(out))
	if err != nil || code != 0 || m.Name != "linear" || len(m.Stages) != 1 || !strings.Contains(strings.Join(m.Capabilities, " "), sdk.CapabilitySharedMemory) {
		t.Errorf("exit code %d, %v:\n%s", code, err, out)
	}
}

func TestAPersonIsToldHowAPluginIsUsed(t *testing.T) {
	p := start(t, nil, nil)
	out, code := p.end(t)
	for _, want := range []string{"This is linear 1.0.0", "head     linear: a linear map in plain Go", "`alignedfusion train --head " + p.Path + "`", serve.DescribeFlag, serve.DebugFlag} {
		if !strings.Contains(p.stderr.String(), want) {
			t.Errorf("standard error does not say %q:\n%s", want, p.stderr.String())
		}
	}
	if code != 1 || out != "" {
		t.Errorf("exit code %d, standard output %q; want 1 and nothing", code, out)
	}
}

// One line of handshake, whatever is printed; messages of any size; the end in order.
func TestAPluginServesItsHost(t *testing.T) {
	dir := t.TempDir()
	p := start(t, nil, hosted(dir))
	fields := strings.Split(p.line(t), "|")
	if len(fields) < 5 || fields[0] != "1" || fields[1] != "1" || fields[2] != "unix" || filepath.Dir(fields[3]) != dir || fields[4] != "grpc" {
		t.Fatalf("handshake is %q", fields)
	}
	c := dial(t, fields[3])
	i, _, err := c.Open(t.Context(), &sdk.OpenRequest{Stage: "linear", Device: "cpu", Threads: 1, Settings: map[string]string{"in": "1"}})
	if err != nil {
		t.Fatal(err)
	}
	const rows = 2 << 20 // 8 MiB, beyond gRPC's own limit
	resp, err := i.Forward(t.Context(), &sdk.ForwardRequest{Inputs: map[string]*tensor.Tensor{"x": tensor.OfFloat32s(make([]float32, rows), rows, 1)}})
	if err != nil || resp.Outputs["y"].Shape[0] != rows {
		t.Fatalf("%v, %v", resp, err)
	}
	if err := c.Shutdown(t.Context(), time.Second); err != nil {
		t.Fatal(err)
	}
	if out, code := p.end(t); code != 0 || out != "" {
		t.Errorf("exit code %d, standard output after the handshake %q", code, out)
	}
	if !strings.Contains(p.stderr.String(), "printed while opening") {
		t.Errorf("what the plugin prints is not on standard error: %q", p.stderr.String())
	}
}

// The plugin ends, with all it has started, when the host's end of the lifeline closes.
func TestAPluginDiesWithItsHost(t *testing.T) {
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer write.Close()
	p := start(t, []*os.File{read}, hosted(t.TempDir(), serve.EnvLifeline+"=3"))
	read.Close()
	p.line(t)
	info, err := os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/3", p.Process.Pid))
	if err != nil || !strings.Contains(string(info), "flags:\t02") { // O_CLOEXEC: no child keeps it
		t.Errorf("the lifeline is %q, %v; want it closed in children", info, err)
	}
	write.Close()
	if _, code := p.end(t); code != -1 {
		t.Errorf("exit code %d, want the process group killed", code)
	}
}

func TestABadLifelineIsSaid(t *testing.T) {
	for value, want := range map[string]string{"three": `linear: lifeline: ` + serve.EnvLifeline + ` is "three", want a file descriptor`, "77": "linear: lifeline: file descriptor 77: "} {
		p := start(t, nil, hosted(t.TempDir(), serve.EnvLifeline+"="+value))
		if out, code := p.end(t); code != 1 || out != "" || !strings.Contains(p.stderr.String(), want) {
			t.Errorf("%s: exit code %d, %q, standard error %q; want %q", value, code, out, p.stderr.String(), want)
		}
	}
}

func TestDebugServesUntilItIsInterrupted(t *testing.T) {
	p := start(t, nil, nil, serve.DebugFlag)
	line := p.line(t)
	text, ok := strings.CutPrefix(line, "export "+serve.EnvReattach+"='")
	var at map[string]serve.Reattach
	if err := json.Unmarshal([]byte(strings.TrimSuffix(text, "'")), &at); !ok || err != nil || at["linear"].PID != p.Process.Pid || at["linear"].Protocol != 1 {
		t.Fatalf("printed %q: %v", line, err)
	}
	dial(t, at["linear"].Address)
	if err := p.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if out, code := p.end(t); code != 0 || out != "" {
		t.Errorf("exit code %d, standard output %q\n%s", code, out, p.stderr.String())
	}
}
