package bert

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// config is what config.json of a BERT or DistilBERT checkpoint says.
type config struct {
	modelType                   string
	vocabulary, width, layers   int64
	heads, hidden, positions    int64
	tokenTypes                  int64
	eps                         float64
	activation                  string
	lowercase, lowercaseIsKnown bool
	stripAccents                *bool
}

// readConfig reads config.json and, if there is one, tokenizer_config.json.
func readConfig(dir string) (config, error) {
	var c config
	data, err := os.ReadFile(filepath.Join(dir, "config.json"))
	if err != nil {
		return c, fmt.Errorf("model folder %s: %w; want config.json, vocab.txt and model.safetensors", dir, err)
	}
	doc := struct {
		ModelType  string  `json:"model_type"`
		Vocabulary int64   `json:"vocab_size"`
		Width      int64   `json:"hidden_size"`
		Layers     int64   `json:"num_hidden_layers"`
		Heads      int64   `json:"num_attention_heads"`
		Hidden     int64   `json:"intermediate_size"`
		Positions  int64   `json:"max_position_embeddings"`
		TokenTypes int64   `json:"type_vocab_size"`
		Eps        float64 `json:"layer_norm_eps"`
		Activation string  `json:"hidden_act"`
		// DistilBERT's words for the same things.
		Dim       int64  `json:"dim"`
		NLayers   int64  `json:"n_layers"`
		NHeads    int64  `json:"n_heads"`
		HiddenDim int64  `json:"hidden_dim"`
		DistilAct string `json:"activation"`
	}{Eps: 1e-12, Positions: 512, TokenTypes: 2, Activation: "gelu"}
	if err := json.Unmarshal(data, &doc); err != nil {
		return c, fmt.Errorf("%s: %w", filepath.Join(dir, "config.json"), err)
	}
	c = config{
		modelType: doc.ModelType, vocabulary: doc.Vocabulary, width: doc.Width, layers: doc.Layers, heads: doc.Heads,
		hidden: doc.Hidden, positions: doc.Positions, tokenTypes: doc.TokenTypes, eps: doc.Eps, activation: doc.Activation,
	}
	switch doc.ModelType {
	case "", "bert": // old checkpoints do not say
		c.modelType = "bert"
	case "distilbert":
		c.width, c.layers, c.heads, c.hidden, c.tokenTypes = doc.Dim, doc.NLayers, doc.NHeads, doc.HiddenDim, 0
		if doc.DistilAct != "" {
			c.activation = doc.DistilAct
		}
	default:
		return c, fmt.Errorf("%s: model_type %q, want bert or distilbert", filepath.Join(dir, "config.json"), doc.ModelType)
	}
	for name, v := range map[string]int64{
		"vocab_size": c.vocabulary, "hidden size": c.width, "number of layers": c.layers, "number of heads": c.heads,
		"intermediate size": c.hidden, "max_position_embeddings": c.positions,
	} {
		if v < 1 || v > 1<<24 {
			return c, fmt.Errorf("%s: %s is %d, want a positive number", filepath.Join(dir, "config.json"), name, v)
		}
	}
	if c.width%c.heads != 0 {
		return c, fmt.Errorf("%s: size %d is not a multiple of %d heads", filepath.Join(dir, "config.json"), c.width, c.heads)
	}
	if c.activation != "gelu" {
		return c, fmt.Errorf("%s: activation %q, want gelu", filepath.Join(dir, "config.json"), c.activation)
	}
	data, err = os.ReadFile(filepath.Join(dir, "tokenizer_config.json"))
	if os.IsNotExist(err) {
		// The tokenizer everybody uses lower-cases when nothing is said.
		c.lowercase = true
		return c, nil
	}
	if err != nil {
		return c, err
	}
	var tokenizer struct {
		Lowercase    *bool `json:"do_lower_case"`
		StripAccents *bool `json:"strip_accents"`
	}
	if err := json.Unmarshal(data, &tokenizer); err != nil {
		return c, fmt.Errorf("%s: %w", filepath.Join(dir, "tokenizer_config.json"), err)
	}
	c.lowercase, c.lowercaseIsKnown = tokenizer.Lowercase == nil || *tokenizer.Lowercase, tokenizer.Lowercase != nil
	c.stripAccents = tokenizer.StripAccents
	return c, nil
}

var distilLayer = regexp.MustCompile(`^transformer\.layer\.(\d+)\.(.*)$`)

// rename turns the names of a checkpoint into BERT's without prefix: "bert." or
// "distilbert." in front, gamma and beta of old layer norms, DistilBERT's layers.
// "" leaves a tensor out: pooler and task heads are not used.
func rename(name string) string {
	name = strings.TrimPrefix(strings.TrimPrefix(name, "bert."), "distilbert.")
	if rest, ok := strings.CutSuffix(name, "LayerNorm.gamma"); ok {
		name = rest + "LayerNorm.weight"
	}
	if rest, ok := strings.CutSuffix(name, "LayerNorm.beta"); ok {
		name = rest + "LayerNorm.bias"
	}
	if m := distilLayer.FindStringSubmatch(name); m != nil {
		name = "encoder.layer." + m[1] + "." + strings.NewReplacer(
			"sa_layer_norm.", "attention.output.LayerNorm.", "output_layer_norm.", "output.LayerNorm.",
			"attention.q_lin.", "attention.self.query.", "attention.k_lin.", "attention.self.key.", "attention.v_lin.", "attention.self.value.",
			"attention.out_lin.", "attention.output.dense.", "ffn.lin1.", "intermediate.dense.", "ffn.lin2.", "output.dense.").Replace(m[2])
	}
	for _, head := range []string{"pooler.", "cls.", "classifier.", "pre_classifier.", "qa_outputs.", "vocab_"} {
		if strings.HasPrefix(name, head) {
			return ""
		}
	}
	if name == "embeddings.position_ids" {
		return ""
	}
	return name
}
