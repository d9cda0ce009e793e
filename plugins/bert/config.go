package bert

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/sugarme/gotch"
)

// config is what config.json of a checkpoint says.
type config struct {
	modelType                 string
	vocabulary, width, layers int64
	heads, hidden, positions  int64
	tokenTypes                int64
	eps                       float64
	activation                string
	// firstPosition is that of the first token: 0, or in RoBERTa what follows the padding's
	// id.
	firstPosition int64
	// mean pools over all tokens instead of taking [CLS]; normalize gives length 1.
	mean, normalize bool
	// maxLength is that of sentence-transformers, 0 for none.
	maxLength                   int
	lowercase, lowercaseIsKnown bool
	stripAccents                *bool
	device                      gotch.Device
	modern                      modernConfig
	deberta                     deberta
	// narrow is the width of the words where the layers' is another.
	narrow int64
}

// liteType is the model_type of what `alignedfusion models get use-lite` writes.
const liteType = "universal-sentence-encoder-lite"

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
		// Relative positions are parameters of their own.
		PositionType string `json:"position_embedding_type"`
		Pad          int64  `json:"pad_token_id"`
	}{Eps: 1e-12, Positions: 512, TokenTypes: 2, Activation: "gelu"}
	if err := json.Unmarshal(data, &doc); err != nil {
		return c, fmt.Errorf("%s: %w", filepath.Join(dir, "config.json"), err)
	}
	c = config{
		modelType: doc.ModelType, vocabulary: doc.Vocabulary, width: doc.Width, layers: doc.Layers, heads: doc.Heads,
		hidden: doc.Hidden, positions: doc.Positions, tokenTypes: doc.TokenTypes, eps: doc.Eps, activation: doc.Activation,
	}
	switch doc.ModelType {
	case "", "bert", "cxr-bert": // old checkpoints do not say
		c.modelType = "bert"
	case "roberta", "xlm-roberta", "camembert":
		c.modelType = "roberta"
		c.firstPosition = doc.Pad + 1
	case "distilbert":
		c.width, c.layers, c.heads, c.hidden, c.tokenTypes = doc.Dim, doc.NLayers, doc.NHeads, doc.HiddenDim, 0
		if doc.DistilAct != "" {
			c.activation = doc.DistilAct
		}
	case "modernbert":
		err = c.readModern(data)
	case "deberta-v2":
		err = c.readDeBERTa(data)
	case liteType:
		err = c.readLite(data)
	default:
		err = fmt.Errorf("model_type %q, want bert, distilbert, roberta (xlm-roberta, camembert), modernbert, deberta-v2 (v3 too), cxr-bert or %s", doc.ModelType, liteType)
	}
	if err != nil {
		return c, fmt.Errorf("%s: %w", filepath.Join(dir, "config.json"), err)
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
	if t := doc.PositionType; t != "" && t != "absolute" {
		return c, fmt.Errorf("%s: position_embedding_type %q, want absolute: relative positions would be left out silently", filepath.Join(dir, "config.json"), t)
	}
	if c.firstPosition < 0 || c.firstPosition+3 > c.positions {
		return c, fmt.Errorf("%s: pad_token_id %d leaves no room in %d positions", filepath.Join(dir, "config.json"), doc.Pad, c.positions)
	}
	if err := c.readPooling(dir); err != nil {
		return c, err
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

// readPooling reads how sentence-transformers makes one vector of a text's tokens, where
// the folder is one of its: modules.json, the Pooling module's config.json, and the
// longest text.
func (c *config) readPooling(dir string) error {
	var modules []struct{ Path, Type string }
	if found, err := readJSON(filepath.Join(dir, "modules.json"), &modules); !found {
		return err
	}
	for _, m := range modules {
		file := filepath.Join(dir, m.Path, "config.json")
		switch kind := m.Type[strings.LastIndexByte(m.Type, '.')+1:]; kind {
		case "Transformer":
		case "Normalize":
			c.normalize = true
		case "Pooling":
			modes := map[string]any{}
			found, err := readJSON(file, &modes)
			if err != nil {
				return err
			}
			if !found {
				return fmt.Errorf("%s: no such file; modules.json names it", file)
			}
			var on []string
			for name, v := range modes {
				if v == true && strings.HasPrefix(name, "pooling_mode_") {
					on = append(on, strings.TrimPrefix(name, "pooling_mode_"))
				}
			}
			slices.Sort(on)
			switch strings.Join(on, " ") {
			case "cls_token":
			case "mean_tokens":
				c.mean = true
			default:
				return fmt.Errorf("%s: pooling %q, want cls_token or mean_tokens", file, on)
			}
		default:
			return fmt.Errorf("%s: module %q, want Transformer, Pooling and Normalize", filepath.Join(dir, "modules.json"), kind)
		}
	}
	var sentence struct {
		MaxLength int `json:"max_seq_length"`
	}
	_, err := readJSON(filepath.Join(dir, "sentence_bert_config.json"), &sentence)
	c.maxLength = sentence.MaxLength
	return err
}

// readJSON reads a file that may be missing.
func readJSON(path string, v any) (found bool, err error) {
	data, err := os.ReadFile(path)
	if os.IsNotExist(err) {
		return false, nil
	}
	if err == nil {
		err = json.Unmarshal(data, v)
	}
	if err != nil {
		return false, fmt.Errorf("%s: %w", path, err)
	}
	return true, nil
}

var distilLayer = regexp.MustCompile(`^transformer\.layer\.(\d+)\.(.*)$`)

// prefixes stand in front of a text encoder's names: its own, that of a model it is part
// of (BiomedCLIP's text tower).
var prefixes = []string{"text.transformer.", "text_model.", "model.", "bert.", "distilbert.", "roberta.", "deberta."}

// rename turns the names of a checkpoint into BERT's without prefix: gamma and beta of old
// layer norms, DistilBERT's layers. "" leaves a tensor out: pooler, task heads and what
// sees images are not used.
func rename(name string) string {
	for _, p := range prefixes {
		name = strings.TrimPrefix(name, p)
	}
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
	for _, head := range []string{"pooler.", "cls.", "cls_projection_head.", "classifier.", "pre_classifier.", "qa_outputs.", "vocab_", "lm_head.", "head.", "decoder.", "lm_predictions.", "mask_predictions.", "visual", "text.proj.", "logit_scale", "logit_bias"} {
		if strings.HasPrefix(name, head) {
			return ""
		}
	}
	if name == "embeddings.position_ids" || name == "embeddings.token_type_ids" {
		return ""
	}
	return name
}
