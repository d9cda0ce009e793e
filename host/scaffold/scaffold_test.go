package scaffold

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Every project builds, passes its own test and validates with no edit. Those of heads on
// torch are tested with the guide, in host/cli/thirdparty.
func TestProjectsAreCompleteAsTheyAreBegun(t *testing.T) {
	if testing.Short() {
		t.Skip("builds plugins on libtorch")
	}
	sdk, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	host := filepath.Join(t.TempDir(), "alignedfusion")
	build := exec.Command("go", "build", "-buildvcs=false", "-o", host, modulePath+"/cmd/alignedfusion")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	const python = "/usr/bin/python3"
	lacks, noPython := exec.Command(python, "-c", "import torch, grpc, google.protobuf").CombinedOutput()
	for _, o := range []Options{
		{Kind: "head", Language: "go", Pure: true},
		{Kind: "detector", Language: "go"},
		{Kind: "fusion", Language: "go"},
		{Kind: "encoder", Language: "go"},
		{Kind: "text", Language: "go"},
		{Kind: "detector", Language: "python"},
		{Kind: "fusion", Language: "python"},
		{Kind: "encoder", Language: "python"},
		{Kind: "text", Language: "python"},
	} {
		name := o.Kind + " in " + o.Language
		if o.Pure {
			name += " without torch"
		}
		t.Run(name, func(t *testing.T) {
			torch := o.Language == "go" && !o.Pure && o.Kind != "text"
			if _, err := os.Stat(filepath.Join(sdk, "build/gotch/go.mod")); torch && err != nil {
				t.Skip("gotch is not fitted to this machine's libtorch; run `make setup`")
			}
			if o.Language == "python" && noPython != nil {
				t.Skipf("no torch, grpcio or protobuf for Python: %s", lacks)
			}
			o.Dir, o.SDK, o.Python, o.Host = filepath.Join(t.TempDir(), "mine"), sdk, python, host
			files, err := Write(o)
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range []string{"Makefile", "README.md"} {
				if _, err := os.Stat(filepath.Join(o.Dir, want)); err != nil {
					t.Errorf("no %s among %q", want, files)
				}
			}
			commands := "make build test validate"
			if o.Language == "go" {
				commands += " && go vet ./..."
			}
			cmd := exec.Command("sh", "-c", commands)
			cmd.Dir = o.Dir
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}
