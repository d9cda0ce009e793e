package cli

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// The examples are what they claim to be: programs that keep every rule of the protocol
// and know nothing of the host.
func TestPythonExamplesKeepTheProtocol(t *testing.T) {
	if testing.Short() {
		t.Skip("starts Python with torch")
	}
	if out, err := exec.Command("/usr/bin/python3", "-c", "import torch, grpc, google.protobuf").CombinedOutput(); err != nil {
		t.Skipf("no torch, grpcio or protobuf for Python: %s", out)
	}
	for example, flags := range map[string][]string{
		"python-head":   {"--shape", "head.tokens.ct=2x5x8", "--shape", "head.joint=2x6"},
		"python-fusion": {"--shape", "fusion.tokens.ct=2x5x8", "--shape", "fusion.report.embedding=2x3x10", "--shape", "fusion.report.state=2x3"},
	} {
		t.Run(example, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), example)
			if err := os.CopyFS(filepath.Join(dir, "alignedfusion_sdk"), os.DirFS("../../sdk/python/alignedfusion_sdk")); err != nil {
				t.Fatal(err)
			}
			for _, name := range []string{"plugin.py", "plugin.yaml"} {
				text, err := os.ReadFile(filepath.Join("../../examples", example, name))
				if err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(dir, name), text, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			args := append([]string{"plugin", "validate", "--quiet"}, append(flags, dir)...)
			if out, err := exec.Command("alignedfusion", args...).CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

func TestGoExampleKeepsTheProtocol(t *testing.T) {
	needGotch(t)
	cmd := exec.Command("go", "test", "./...")
	cmd.Dir = "../../examples/go-head"
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
