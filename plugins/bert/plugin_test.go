package bert_test

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/alignedfusion/alignedfusion/plugins/bert"
	"github.com/alignedfusion/alignedfusion/plugins/internal/stagetest"
	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

// folder lays a fixture out as a checkpoint; rename gives the file's names.
func folder(t testing.TB, f *stagetest.Fixture, rename func(string) string) string {
	t.Helper()
	dir := t.TempDir()
	var vocab []string
	if err := json.Unmarshal([]byte(f.Metadata["vocab"]), &vocab); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"config.json": f.Metadata["config"], "vocab.txt": strings.Join(vocab, "\n") + "\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Rename(f.FormulaWeights(rename), filepath.Join(dir, "model.safetensors")); err != nil {
		t.Fatal(err)
	}
	return dir
}

func texts(t testing.TB, f *stagetest.Fixture) []string {
	t.Helper()
	var out []string
	if err := json.Unmarshal([]byte(f.Metadata["texts"]), &out); err != nil {
		t.Fatal(err)
	}
	return out
}

func open(t testing.TB, settings map[string]string) *stagetest.Stage {
	t.Helper()
	return stagetest.Open(t, bert.Plugin(), sdk.OpenRequest{Stage: "text", Settings: settings})
}

func embed(s *stagetest.Stage, texts ...string) *sdk.ForwardResponse {
	return s.Eval(map[string]*tensor.Tensor{"text": tensor.OfStrings(texts...)})
}

func TestEmbeddingAgreesWithPyTorch(t *testing.T) {
	for _, name := range []string{"bert_2x128", "bert_12x768"} {
		if name == "bert_12x768" && testing.Short() {
			continue
		}
		f := stagetest.Read(t, "testdata/"+name+".safetensors")
		dir := folder(t, f, nil)
		for _, batch := range []string{"32", "2"} { // padded together, and in pieces
			s := open(t, map[string]string{"model": dir, "batch": batch})
			got := embed(s, texts(t, f)...).Outputs["embedding"]
			stagetest.Near(t, name+" batch="+batch, got, f.Tensors["embedding"], 2e-5)
		}
	}
}

func TestNamesOfOlderAndOtherCheckpointsAreRead(t *testing.T) {
	f := stagetest.Read(t, "testdata/bert_2x128.safetensors")
	for what, rename := range map[string]func(string) string{
		"prefix": func(n string) string { return "bert." + n },
		"gamma and beta": func(n string) string {
			return strings.NewReplacer("LayerNorm.weight", "LayerNorm.gamma", "LayerNorm.bias", "LayerNorm.beta").Replace("bert." + n)
		},
	} {
		s := open(t, map[string]string{"model": folder(t, f, rename)})
		stagetest.Near(t, what, embed(s, texts(t, f)...).Outputs["embedding"], f.Tensors["embedding"], 2e-5)
	}
}

func TestDistilBERTIsBERTWithoutTokenTypes(t *testing.T) {
	// With the token type's vector added to every position, DistilBERT under its own
	// names must give what BERT gives.
	f := stagetest.Read(t, "testdata/bert_2x128.safetensors")
	dir := folder(t, f, nil)
	weights := stagetest.Read(t, filepath.Join(dir, "model.safetensors")).Tensors
	kind := stagetest.Floats(t, weights["embeddings.token_type_embeddings.weight"])
	position := stagetest.Floats(t, weights["embeddings.position_embeddings.weight"])
	for i := range position {
		position[i] += kind[i%128]
	}
	out := map[string]*tensor.Tensor{}
	for name, w := range weights {
		out["distilbert."+strings.NewReplacer("encoder.layer.", "transformer.layer.", "attention.output.LayerNorm", "sa_layer_norm",
			"attention.self.query", "attention.q_lin", "attention.self.key", "attention.k_lin", "attention.self.value", "attention.v_lin",
			"attention.output.dense", "attention.out_lin", "intermediate.dense", "ffn.lin1", "output.dense", "ffn.lin2",
			"output.LayerNorm", "output_layer_norm").Replace(name)] = w
	}
	delete(out, "distilbert.embeddings.token_type_embeddings.weight")
	out["distilbert.embeddings.position_embeddings.weight"] = tensor.OfFloat32s(position, 32, 128)
	if err := os.Rename(stagetest.WriteWeights(t, out), filepath.Join(dir, "model.safetensors")); err != nil {
		t.Fatal(err)
	}
	config := `{"model_type":"distilbert","vocab_size":64,"dim":128,"n_layers":2,"n_heads":2,"hidden_dim":512,"max_position_embeddings":32,"activation":"gelu"}`
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	stagetest.Near(t, "distilbert", embed(open(t, map[string]string{"model": dir}), texts(t, f)...).Outputs["embedding"], f.Tensors["embedding"], 2e-5)
}

func TestCaseFollowsTheTokenizerConfiguration(t *testing.T) {
	f := stagetest.Read(t, "testdata/bert_2x128.safetensors")
	distance := func(settings map[string]string) float64 {
		v := stagetest.Floats(t, embed(open(t, settings), "arm", "ARM").Outputs["embedding"])
		d := 0.0
		for i := range 128 {
			d = max(d, math.Abs(float64(v[i]-v[128+i])))
		}
		return d
	}
	dir := folder(t, f, nil)
	write := func(text string) {
		if err := os.WriteFile(filepath.Join(dir, "tokenizer_config.json"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	check := func(what string, settings map[string]string, lower bool) {
		t.Helper()
		if got := distance(settings) < 1e-4; got != lower {
			t.Errorf("%s: ARM read as arm = %v, want %v", what, got, lower)
		}
	}
	check("no tokenizer_config.json", map[string]string{"model": dir}, true)
	check("override", map[string]string{"model": dir, "lowercase": "false"}, false)
	write(`{"do_lower_case": false}`)
	check("cased", map[string]string{"model": dir}, false)
	check("override", map[string]string{"model": dir, "lowercase": "true"}, true)
}

func TestLongTextsAreCutAndCounted(t *testing.T) {
	f := stagetest.Read(t, "testdata/bert_2x128.safetensors")
	s := open(t, map[string]string{"model": folder(t, f, nil), "max_length": "5"})
	r := embed(s, strings.Repeat("arm ", 100), "arm arm arm", "face")
	if r.Metrics["truncated"] != 1 {
		t.Errorf("%g texts cut, want 1", r.Metrics["truncated"])
	}
	v := stagetest.Floats(t, r.Outputs["embedding"])
	for i := range 128 {
		if math.Abs(float64(v[i]-v[128+i])) > 1e-5 {
			t.Fatal("a text cut to 3 words differs from those 3 words")
		}
	}
}

func TestBrokenFoldersAreNamed(t *testing.T) {
	f := stagetest.Read(t, "testdata/bert_2x128.safetensors")
	good := folder(t, f, nil)
	for _, c := range []struct {
		name, file, content, want string
	}{
		{"no vocabulary", "vocab.txt", "", "vocab.txt"},
		{"no weights", "model.safetensors", "", "weights import"},
		{"no configuration", "config.json", "", "config.json"},
		{"not JSON", "config.json", "{", "config.json"},
		{"other model", "config.json", `{"model_type":"gpt2"}`, "want bert, distilbert"},
		{"other size", "config.json", strings.Replace(f.Metadata["config"], `"hidden_size": 128`, `"hidden_size": 64`, 1), "do not fit"},
		{"other vocabulary", "config.json", strings.Replace(f.Metadata["config"], `"vocab_size": 64`, `"vocab_size": 5`, 1), "different models"},
		{"other activation", "config.json", strings.Replace(f.Metadata["config"], `"gelu"`, `"swish"`, 1), "want gelu"},
	} {
		dir := t.TempDir()
		for _, name := range []string{"config.json", "vocab.txt", "model.safetensors"} {
			if name == c.file {
				if c.content != "" {
					if err := os.WriteFile(filepath.Join(dir, name), []byte(c.content), 0o600); err != nil {
						t.Fatal(err)
					}
				}
				continue
			}
			if err := os.Symlink(filepath.Join(good, name), filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
		_, err := stagetest.TryOpen(t, bert.Plugin(), sdk.OpenRequest{Stage: "text", Settings: sdk.Settings{"model": dir}})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q", c.name, err, c.want)
		}
	}
	if _, err := stagetest.TryOpen(t, bert.Plugin(), sdk.OpenRequest{Stage: "text"}); err == nil {
		t.Error("no error without a model folder")
	}
}
