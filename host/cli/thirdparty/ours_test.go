package thirdparty

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/alignedfusion/alignedfusion/sdk/safetensors"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

// Our own plugins are held to what strangers' are, as programs: the cases about a process
// are left out by the suite inside their own tests. They are as small as there, so that their
// gradients are looked at in little time.
func TestOurPluginsKeepTheProtocol(t *testing.T) {
	t.Parallel()
	needGotch(t)
	dir, err := ourPlugins()
	if err != nil {
		t.Fatal(err)
	}
	programs, err := filepath.Glob(filepath.Join(dir, "alignedfusion-plugin-*"))
	if err != nil || len(programs) < 6 {
		t.Fatalf("programs are %q, error %v", programs, err)
	}
	for _, program := range programs {
		name := strings.TrimPrefix(filepath.Base(program), "alignedfusion-plugin-")
		if slices.Contains([]string{"concat", "gated", "film", "crossattn", "lowrank", "late", "mbt", "hyper"}, name) {
			continue // a stage of fusions, too
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			args := []string{"plugin", "validate", "--quiet", program}
			args = append(args, map[string][]string{
				"a3d":        {"--iterations", "40"}, // as many calls as it makes in the time there is
				"classifier": {"--set", "encoder.width=4", "--set", "encoder.layers=2", "--shape", "encoder.image.photo=2x3x16x16"},
				"fusions":    {"--stage", "gated", "--set", "gated.width=8"}, // its equations and gradients are compared with PyTorch besides
				"itfusion":   {"--set", "fusion.width=8", "--set", "fusion.layers=1", "--set", "fusion.heads=2", "--set", "fusion.dropout=0"},
				"selfattn":   {"--set", "fusion.width=8", "--set", "fusion.layers=1", "--set", "fusion.heads=2", "--set", "fusion.dropout=0"},
				"sum":        {"--set", "fusion.width=8"},
			}[name]...)
			if name == "bert" {
				args = append(args, "--set", "text.model="+smallBERT(t))
			}
			if out, err := exec.Command("alignedfusion", args...).CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

// smallBERT writes a checkpoint of one layer in the Hugging Face layout.
func smallBERT(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	const width, hidden, positions = 8, 16, 32
	vocab := []string{"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}
	for c := 'a'; c <= 'z'; c++ {
		vocab = append(vocab, string(c), "##"+string(c))
	}
	config, err := json.Marshal(map[string]any{"model_type": "bert", "vocab_size": len(vocab), "hidden_size": width, "num_hidden_layers": 1,
		"num_attention_heads": 2, "intermediate_size": hidden, "max_position_embeddings": positions, "type_vocab_size": 2, "hidden_act": "gelu",
		"layer_norm_eps": 1e-12})
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"config.json": string(config), "vocab.txt": strings.Join(vocab, "\n") + "\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	weights := map[string]*tensor.Tensor{}
	add := func(name string, shape ...int64) {
		n := int64(1)
		for _, d := range shape {
			n *= d
		}
		values := make([]float32, n)
		for i := range values {
			values[i] = float32(math.Sin(float64(i + len(name))))
		}
		weights[name] = tensor.OfFloat32s(values, shape...)
	}
	linear := func(name string, out, in int64) {
		add(name+".weight", out, in)
		add(name+".bias", out)
	}
	norm := func(name string) {
		add(name+".weight", width)
		add(name+".bias", width)
	}
	add("embeddings.word_embeddings.weight", int64(len(vocab)), width)
	add("embeddings.position_embeddings.weight", positions, width)
	add("embeddings.token_type_embeddings.weight", 2, width)
	norm("embeddings.LayerNorm")
	const layer = "encoder.layer.0."
	for _, part := range []string{"query", "key", "value"} {
		linear(fmt.Sprintf("%sattention.self.%s", layer, part), width, width)
	}
	linear(layer+"attention.output.dense", width, width)
	norm(layer + "attention.output.LayerNorm")
	linear(layer+"intermediate.dense", hidden, width)
	linear(layer+"output.dense", width, hidden)
	norm(layer + "output.LayerNorm")
	if err := safetensors.Write(filepath.Join(dir, "model.safetensors"), weights, nil); err != nil {
		t.Fatal(err)
	}
	return dir
}

// Encoder, fusion and head in one process keep their tensors there: weights and answers are those
// of three stages that send them, to the last bit. A stage of another program is named.
func TestColocatedStagesComputeWhatTheyWouldApart(t *testing.T) {
	t.Parallel()
	needGotch(t)
	dir, home := t.TempDir(), t.TempDir()
	has(t, home, "a3d", "classifier", "itfusion")
	plugins, err := ourPlugins()
	if err != nil {
		t.Fatal(err)
	}
	shell(t, dir, home, `
alignedfusion data synth --layout deeplesion --patients 12 --size 96 --seed 1 --missing 0.3 --out ct
alignedfusion data synth --layout table --patients 24 --size 32 --seed 1 --out photos
for how in apart colocate; do
	with=; [ $how = apart ] || with=--colocate
	alignedfusion train $with --task detect --data deeplesion:ct --fusion itfusion --seed 1 --threads 1 --set train.max_steps=3 --set train.batch_size=2 --out d-$how
	alignedfusion predict $with --run d-apart --threads 1 --out d-$how.csv
	alignedfusion train $with --task classify --data table:photos/data.csv --fusion none --seed 1 --threads 1 --set train.max_steps=3 --set encoder.width=4 --set encoder.layers=2 --out c-$how
done
for stage in d/encoder d/fusion d/head c/encoder c/head; do
	cmp ${stage%/*}-apart/checkpoints/step-3/${stage#*/}/weights.safetensors ${stage%/*}-colocate/checkpoints/step-3/${stage#*/}/weights.safetensors
done
cmp d-apart.csv d-colocate.csv
mkdir other; (cat `+plugins+`/alignedfusion-plugin-sum; echo another program) > other/alignedfusion-plugin-sum; chmod +x other/alignedfusion-plugin-sum
code=0; alignedfusion train --colocate --plugin-dir other --task detect --data deeplesion:ct --fusion sum --threads 1 --out no 2> no.log || code=$?
cat no.log
[ $code = 2 ]
grep -q -e '--colocate: fusion sum runs in a process of its own: it is another program than encoder a3d' no.log`)
}
