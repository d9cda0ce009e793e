package bert_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/alignedfusion/alignedfusion/internal/realdata"
	"github.com/alignedfusion/alignedfusion/plugins/bert"
	"github.com/alignedfusion/alignedfusion/plugins/internal/stagetest"
	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

// put writes files into a folder.
func put(t testing.TB, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// shard splits weights in two files with an index.
func shard(t testing.TB, dir, file string) {
	t.Helper()
	parts := [2]map[string]*tensor.Tensor{{}, {}}
	names := [2]string{"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"}
	index := map[string]string{}
	for name, w := range stagetest.Read(t, file).Tensors {
		k := len(index) % 2
		parts[k][name], index[name] = w, names[k]
	}
	for k, part := range parts {
		if err := os.Rename(stagetest.WriteWeights(t, part), filepath.Join(dir, names[k])); err != nil {
			t.Fatal(err)
		}
	}
	data, err := json.Marshal(map[string]any{"weight_map": index})
	if err != nil {
		t.Fatal(err)
	}
	put(t, dir, map[string]string{"model.safetensors.index.json": string(data)})
}

func TestRoBERTaWithByteLevelBPEAgreesWithTransformers(t *testing.T) {
	f := stagetest.Read(t, "testdata/roberta_2x32.safetensors")
	dir := t.TempDir()
	put(t, dir, map[string]string{"config.json": f.Metadata["config"], "tokenizer.json": f.Metadata["tokenizer"]})
	if err := os.Rename(f.FormulaWeights(func(n string) string { return "roberta." + n }), filepath.Join(dir, "model.safetensors")); err != nil {
		t.Fatal(err)
	}
	for _, batch := range []string{"32", "2"} {
		s := open(t, map[string]string{"model": dir, "batch": batch})
		stagetest.Near(t, "batch="+batch, embed(s, texts(t, f)...).Outputs["embedding"], f.Tensors["embedding"], 2e-5)
	}
	if _, err := stagetest.TryOpen(t, bert.Plugin(), sdk.OpenRequest{Stage: "text", Settings: sdk.Settings{"model": dir, "max_length": "39"}}); err == nil || !strings.Contains(err.Error(), "38 positions") {
		t.Errorf("39 tokens in a model of 40 positions, the first two unused: %v", err)
	}
}

func TestSentenceTransformersPoolingShardsAndTokenizerJSON(t *testing.T) {
	f := stagetest.Read(t, "testdata/sentence_2x32.safetensors")
	dir := t.TempDir()
	put(t, dir, map[string]string{
		"config.json": f.Metadata["config"], "tokenizer.json": f.Metadata["tokenizer"],
		"sentence_bert_config.json": `{"max_seq_length": 30}`,
		"modules.json": `[{"path":"","type":"sentence_transformers.models.Transformer"},{"path":"1_Pooling","type":"sentence_transformers.models.Pooling"},
			{"path":"2_Normalize","type":"sentence_transformers.models.Normalize"}]`,
		"1_Pooling/config.json": `{"word_embedding_dimension":32,"pooling_mode_cls_token":false,"pooling_mode_mean_tokens":true,"pooling_mode_max_tokens":false}`,
	})
	shard(t, dir, f.FormulaWeights(nil))
	for _, batch := range []string{"32", "2"} {
		s := open(t, map[string]string{"model": dir, "batch": batch})
		stagetest.Near(t, "batch="+batch, embed(s, texts(t, f)...).Outputs["embedding"], f.Tensors["embedding"], 2e-5)
	}
	for what, c := range map[string]struct {
		files map[string]string
		want  string
	}{
		"max pooling":   {map[string]string{"1_Pooling/config.json": `{"pooling_mode_max_tokens":true}`}, "want cls_token or mean_tokens"},
		"a Dense layer": {map[string]string{"modules.json": `[{"path":"2_Dense","type":"sentence_transformers.models.Dense"}]`}, `module "Dense"`},
		"a lost shard":  {map[string]string{"model.safetensors.index.json": `{"weight_map":{}}`}, "no shard holds"},
	} {
		broken := t.TempDir()
		if err := os.CopyFS(broken, os.DirFS(dir)); err != nil {
			t.Fatal(err)
		}
		put(t, broken, c.files)
		if _, err := stagetest.TryOpen(t, bert.Plugin(), sdk.OpenRequest{Stage: "text", Settings: sdk.Settings{"model": broken}}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q", what, err, c.want)
		}
	}
}

func TestModernBERTAndDeBERTaAgreeWithTransformers(t *testing.T) {
	for name, c := range map[string]struct{ prefix, pooling string }{
		"modernbert_4x32": {"model.", "mean"}, "modernbert_biases_4x32": {"", "cls"},
		"deberta_v3_3x32": {"deberta.", "cls"}, "deberta_v2_3x32": {"", "mean"},
	} {
		f := stagetest.Read(t, "testdata/"+name+".safetensors")
		dir := t.TempDir()
		put(t, dir, map[string]string{"config.json": f.Metadata["config"], "tokenizer.json": f.Metadata["tokenizer"]})
		if c.pooling == "mean" {
			put(t, dir, map[string]string{
				"modules.json":          `[{"path":"","type":"a.Transformer"},{"path":"1_Pooling","type":"a.Pooling"},{"path":"2_Normalize","type":"a.Normalize"}]`,
				"1_Pooling/config.json": `{"pooling_mode_mean_tokens":true}`,
			})
		}
		if err := os.Rename(f.FormulaWeights(func(n string) string { return c.prefix + n }), filepath.Join(dir, "model.safetensors")); err != nil {
			t.Fatal(err)
		}
		for _, batch := range []string{"32", "2"} {
			s := open(t, map[string]string{"model": dir, "batch": batch})
			stagetest.Near(t, name+" batch="+batch, embed(s, texts(t, f)...).Outputs["embedding"], f.Tensors["embedding"], 2e-5)
		}
	}
}

// TestUniversalSentenceEncoderLiteAgreesWithItsMakers compares with outputs of the original,
// which stand beside its weights.
func TestUniversalSentenceEncoderLiteAgreesWithItsMakers(t *testing.T) {
	var want struct {
		Texts     []string    `json:"s"`
		Embedding [][]float32 `json:"e"`
	}
	data, err := os.ReadFile(realdata.Path(t, "models", "use_lite_reference.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &want); err != nil {
		t.Fatal(err)
	}
	if data, err = os.ReadFile(realdata.Path(t, "models", "use_lite_vocab.json")); err != nil {
		t.Fatal(err)
	}
	var vocab [][2]any
	if err := json.Unmarshal(data, &vocab); err != nil {
		t.Fatal(err)
	}
	for i := 1; i < 6; i++ {
		vocab[i][1] = -1000 // reserved
	}
	vocab[5][0] = "<pad>"
	pieces, err := json.Marshal(vocab)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	put(t, dir, map[string]string{
		"config.json": `{"model_type":"universal-sentence-encoder-lite","vocab_size":8002,"embedding_size":256,"hidden_size":512,"intermediate_size":1536,
			"num_hidden_layers":2,"num_attention_heads":4,"max_position_embeddings":128,"layer_norm_eps":1e-6}`,
		"tokenizer.json": `{"normalizer":{"type":"NFKC"},"pre_tokenizer":{"type":"Metaspace","replacement":"▁","prepend_scheme":"always"},
			"post_processor":{"type":"TemplateProcessing","single":[{"Sequence":{"id":"A"}}]},"model":{"type":"Unigram","unk_id":0,"vocab":` + string(pieces) + `}}`,
	})
	if err := os.Symlink(realdata.Path(t, "models", "use_lite.safetensors"), filepath.Join(dir, "model.safetensors")); err != nil {
		t.Fatal(err)
	}
	reference := tensor.OfFloat32s(slices.Concat(want.Embedding...), int64(len(want.Texts)), 512)
	for _, batch := range []string{"32", "2"} {
		s := open(t, map[string]string{"model": dir, "batch": batch})
		stagetest.Near(t, "batch="+batch, embed(s, want.Texts...).Outputs["embedding"], reference, 2e-6)
	}
	if _, err := stagetest.TryOpen(t, bert.Plugin(), sdk.OpenRequest{Stage: "text", Settings: sdk.Settings{"model": dir, "pooling": "cls"}}); err == nil || !strings.Contains(err.Error(), "want auto or mean") {
		t.Errorf("pooling=cls: error %v", err)
	}
}

func TestBiomedCLIPsTextTowerIsReadOfTheWholeModel(t *testing.T) {
	f := stagetest.Read(t, "testdata/bert_2x128.safetensors")
	dir := folder(t, f, func(n string) string { return "text.transformer." + n })
	weights := stagetest.Read(t, filepath.Join(dir, "model.safetensors")).Tensors
	weights["visual.trunk.pos_embed"] = tensor.OfFloat32s(make([]float32, 4), 4)
	weights["text.proj.0.weight"] = tensor.OfFloat32s(make([]float32, 4), 2, 2)
	weights["logit_scale"] = tensor.OfFloat32s(make([]float32, 1), 1)
	if err := os.Rename(stagetest.WriteWeights(t, weights), filepath.Join(dir, "model.safetensors")); err != nil {
		t.Fatal(err)
	}
	stagetest.Near(t, "text tower", embed(open(t, map[string]string{"model": dir}), texts(t, f)...).Outputs["embedding"], f.Tensors["embedding"], 2e-5)
}

func TestWhatTheStageCannotDoIsRefused(t *testing.T) {
	f := stagetest.Read(t, "testdata/bert_2x128.safetensors")
	for _, c := range []struct{ file, content, want string }{
		{"config.json", strings.Replace(f.Metadata["config"], "{", `{"position_embedding_type": "relative_key",`, 1), "want absolute"},
		{"config.json", strings.Replace(f.Metadata["config"], `"bert"`, `"deberta"`, 1), `"deberta", want bert`},
		{"config.json", strings.Replace(f.Metadata["config"], `"bert"`, `"deberta-v2", "conv_kernel_size": 3`, 1), "conv_kernel_size 3"},
		{"config.json", strings.Replace(f.Metadata["config"], `"bert"`, `"deberta-v2", "pos_att_type": "c2p|p2p"`, 1), `"p2p", want c2p and p2c`},
		{"config.json", strings.Replace(f.Metadata["config"], `"bert"`, `"deberta-v2", "relative_attention": true, "position_buckets": 300`, 1), "position_buckets 300"},
		{"config.json", strings.Replace(f.Metadata["config"], `"bert"`, `"modernbert", "layer_types": ["linear_attention"]`, 1), `"linear_attention", want full_attention`},
		{"config.json", strings.Replace(f.Metadata["config"], `"bert"`, `"modernbert", "rope_parameters": {"full_attention": {"rope_type": "yarn"}}`, 1), `"yarn", want default`},
		{"config.json", strings.Replace(f.Metadata["config"], `"bert"`, `"modernbert", "local_attention": 0`, 1), "a window of 0"},
		{"tokenizer.json", `{"model":{"type":"WordLevel","vocab":{"a":0}}}`, `"WordLevel", want WordPiece, byte-level BPE or Unigram`},
		{"tokenizer.json", `{"model":{"type":"Unigram","vocab":[]}}`, "no unknown piece"},
		{"other.txt", "", "neither vocab.txt nor tokenizer.json"},
	} {
		dir := folder(t, f, nil)
		if c.file != "config.json" {
			if err := os.Remove(filepath.Join(dir, "vocab.txt")); err != nil {
				t.Fatal(err)
			}
		}
		put(t, dir, map[string]string{c.file: c.content})
		if _, err := stagetest.TryOpen(t, bert.Plugin(), sdk.OpenRequest{Stage: "text", Settings: sdk.Settings{"model": dir}}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q", c.file, err, c.want)
		}
	}
}
