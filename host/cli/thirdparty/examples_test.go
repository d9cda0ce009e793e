package thirdparty

import (
	"bufio"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/alignedfusion/alignedfusion/host/plughost"
	"github.com/alignedfusion/alignedfusion/host/scaffold"
	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/sample"
	"github.com/alignedfusion/alignedfusion/sdk/serve"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

// The examples are what they claim to be: programs that keep every rule of the protocol
// and know nothing of the host.
func TestPythonExamplesKeepTheProtocol(t *testing.T) {
	t.Parallel()
	needPython(t)
	for example, flags := range map[string][]string{
		"python-head":   {"--shape", "head.tokens.ct=2x5x8", "--shape", "head.joint=2x6"},
		"python-fusion": {"--shape", "fusion.tokens.ct=2x5x8", "--shape", "fusion.report.embedding=2x3x10", "--shape", "fusion.report.state=2x3"},
	} {
		t.Run(example, func(t *testing.T) {
			t.Parallel()
			args := append([]string{"plugin", "validate", "--quiet"}, append(flags, pythonPlugin(t, root+"/examples/"+example))...)
			if out, err := exec.Command("alignedfusion", args...).CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

func TestGoExampleKeepsTheProtocol(t *testing.T) {
	t.Parallel()
	needGotch(t)
	cmd := exec.Command("go", "test", "./...")
	cmd.Dir = root + "/examples/go-head"
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// examples/README.md says how: the folder is copied, and its go.work is the one shown there.
func TestGoExampleBuildsOutsideTheCheckout(t *testing.T) {
	t.Parallel()
	needGotch(t)
	checkout, err := filepath.Abs(root)
	if err != nil {
		t.Fatal(err)
	}
	readme, err := os.ReadFile(root + "/examples/README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, work, found := strings.Cut(string(readme), "```text\n")
	work, _, closed := strings.Cut(work, "```")
	if !found || !closed {
		t.Fatal("examples/README.md shows no go.work")
	}
	dir := t.TempDir()
	for _, name := range []string{"Makefile", "go.mod", "main.go", "main_test.go"} {
		text, err := os.ReadFile(root + "/examples/go-head/" + name)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), text, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	work = strings.ReplaceAll(work, "/path/to/alignedfusion", checkout)
	if err := os.WriteFile(filepath.Join(dir, "go.work"), []byte(work), 0o644); err != nil {
		t.Fatal(err)
	}
	build := exec.Command("make", "fit", "build")
	build.Dir = dir
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if out, err := exec.Command("alignedfusion", "plugin", "validate", "--quiet", filepath.Join(dir, "bin", "go-head")).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	trainsElsewhere(t, dir, checkout)
}

// trainsElsewhere packs the plugin that was built in a folder, and installs and trains it as
// docs/how-to/publish-a-plugin.md says on another machine: a home, and a PATH on which there
// is this program alone. Where the kernel lets it, the folders that it was built in and with
// are empty there.
func trainsElsewhere(t *testing.T, built, checkout string) {
	plugins, err := ourPlugins()
	if err != nil {
		t.Fatal(err)
	}
	machine := t.TempDir()
	shell(t, machine, machine, `
alignedfusion data synth --layout table --out data --patients 30 --size 32
alignedfusion plugin pack `+filepath.Join(built, "bin", "go-head")+`
mkdir bin bin/plugins lib empty
cp "$(command -v alignedfusion)" bin/
cp `+plugins+`/alignedfusion-plugin-classifier bin/plugins/
cp `+checkout+`/build/lib/libtch.* lib/
`)
	commands := `set -e
export HOME=` + machine + `/home PATH=` + machine + `/bin
alignedfusion plugin install go-head-*.afp
alignedfusion train --task classify --data table:data/data.csv --encoder classifier --head go-head --epochs 1 --set data.size=32 --out run
`
	away := "mount --bind empty " + built + "; mount --bind empty " + checkout + "; exec /bin/sh -c \"$1\""
	train := exec.Command("unshare", "--map-root-user", "--mount", "sh", "-e", "-c", away, "sh", commands)
	if exec.Command("unshare", "--map-root-user", "--mount", "true").Run() != nil {
		train = exec.Command("/bin/sh", "-c", commands)
	}
	train.Dir, train.Env = machine, []string{"PATH=" + os.Getenv("PATH"), "OMP_WAIT_POLICY=passive"}
	if out, err := train.CombinedOutput(); err != nil || !strings.Contains(string(out), "made for libtorch") {
		t.Errorf("%v\n%s", err, out)
	}
}

// A plugin in Python under a debugger serves hosts it was not started by, until it is interrupted:
// in the background of a script, too, whose programs are born ignoring that.
func TestReattachToAPythonPlugin(t *testing.T) {
	t.Parallel()
	needPython(t)
	dir := pythonPlugin(t, root+"/examples/python-head")
	debugged := exec.Command("sh", "-c", `trap "" INT; exec "$@"`, "sh", debianPython, "plugin.py", serve.DebugFlag)
	sdk, err := exec.Command("alignedfusion", "plugin", "sdk").Output() // as docs/how-to/write-a-plugin.md says
	if err != nil {
		t.Fatal(err)
	}
	debugged.Dir, debugged.Stderr, debugged.Env = dir, os.Stderr, append(os.Environ(), "PYTHONPATH="+strings.TrimSpace(string(sdk)))
	out, err := debugged.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := debugged.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	setting, ok := strings.CutPrefix(strings.TrimSpace(line), "export "+serve.EnvReattach+"=")
	if !ok {
		t.Errorf("it printed %q", line)
	}
	for range 2 {
		host := exec.Command("alignedfusion", "stage", "bench", "--plugin", "python-head", "--labels", "type=a,b", "--shape", "tokens.ct=2x3x4",
			"--shape", "joint=2x5", "--shape", "target.label=2", "--mode", "train", "--steps", "2", "--json")
		host.Env = append(os.Environ(), serve.EnvReattach+"="+strings.Trim(setting, "'"))
		if text, err := host.CombinedOutput(); err != nil || !strings.Contains(string(text), `"shared_memory": false`) {
			t.Errorf("%v\n%s", err, text)
		}
	}
	if err := debugged.Process.Signal(os.Interrupt); err != nil {
		t.Error(err) // a host has ended it
	}
	if err := debugged.Wait(); err != nil {
		t.Errorf("it ended with %v", err)
	}
}

// The same head in Go and in Python, with the same weights: equal outputs, losses and
// gradients.
func TestTheHeadsInGoAndPythonAreTheSame(t *testing.T) {
	t.Parallel()
	needGotch(t)
	needPython(t)
	sdkDir, err := filepath.Abs(root)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, language := range []string{"go", "python"} {
		if _, err := scaffold.Write(scaffold.Options{Kind: "head", Dir: filepath.Join(dir, language), Language: language, SDK: sdkDir, Python: debianPython, Host: "alignedfusion"}); err != nil {
			t.Fatal(err)
		}
	}
	build := exec.Command("go", "build", "-buildvcs=false", "-o", "head", ".")
	build.Dir = filepath.Join(dir, "go")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	host, err := plughost.New(plughost.Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := host.Close(); err != nil {
			t.Error(err)
		}
	}()
	inputs := map[string]*tensor.Tensor{"target.label": tensor.OfInt64s([]int64{2, 0, -1, 1})}
	ports := []sdk.Port{{Name: "tokens.*", DType: tensor.FP32}, {Name: "joint", DType: tensor.FP32}}
	if err := sample.Inputs(ports, map[string][]int64{"tokens.ct": {4, 9, 16}, "joint": {4, 6}}, 3, inputs); err != nil {
		t.Fatal(err)
	}
	weights := t.TempDir()
	var outputs, grads []map[string]*tensor.Tensor
	var losses []float64
	for _, ref := range []string{filepath.Join(dir, "go", "head"), filepath.Join(dir, "python")} {
		p, err := host.Start(t.Context(), ref)
		if err != nil {
			t.Fatal(err)
		}
		i, _, err := p.Open(t.Context(), &sdk.OpenRequest{Stage: "head", Train: true, Device: "cpu", Threads: 1, Inputs: sample.Feeding(ports, inputs),
			Labels:    []sdk.LabelSet{{Name: "type", Classes: []string{"a", "b", "c"}}},
			Optimizer: sdk.Optimizer{Name: "adamw", Values: map[string]float64{"beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.01}}})
		if err != nil {
			t.Fatal(err)
		}
		if len(outputs) == 0 {
			_, err = i.Save(t.Context(), weights)
		} else {
			err = i.Load(t.Context(), weights, true)
		}
		if err != nil {
			t.Fatal(err)
		}
		resp, err := i.Forward(t.Context(), &sdk.ForwardRequest{Context: 1, Train: true, Inputs: inputs, NeedsGrad: map[string]bool{"tokens.ct": true, "joint": true}})
		if err != nil {
			t.Fatal(err)
		}
		ones := make([]float32, resp.Outputs["logits"].Len())
		for k := range ones {
			ones[k] = float32(k%3) - 0.5
		}
		back, err := i.Backward(t.Context(), &sdk.BackwardRequest{Context: 1, LossWeights: map[string]float64{"classification": 1},
			OutputGrads: map[string]*tensor.Tensor{"logits": tensor.OfFloat32s(ones, resp.Outputs["logits"].Shape...)}})
		if err != nil {
			t.Fatal(err)
		}
		outputs, grads, losses = append(outputs, resp.Outputs), append(grads, back.InputGrads), append(losses, resp.Losses["classification"])
	}
	near := func(what string, a, b map[string]*tensor.Tensor) {
		for name := range a {
			x, errX := a[name].Float32s()
			y, errY := b[name].Float32s()
			if errX != nil || errY != nil || len(x) != len(y) {
				t.Fatalf("%s %q: %v in Go, %v in Python", what, name, a[name], b[name])
			}
			for k := range x {
				if d := math.Abs(float64(x[k]) - float64(y[k])); d > 1e-5 {
					t.Fatalf("%s %q differs by %g at %d", what, name, d, k)
				}
			}
		}
	}
	near("output", outputs[0], outputs[1])
	near("gradient", grads[0], grads[1])
	if math.Abs(losses[0]-losses[1]) > 1e-5 || losses[0] == 0 {
		t.Errorf("loss is %g in Go, %g in Python", losses[0], losses[1])
	}
}
