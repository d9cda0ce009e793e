// Package bert is the text stage: a frozen BERT, DistilBERT, RoBERTa, ModernBERT or DeBERTa in
// the Hugging Face layout, whose last layer embeds a prompt (Eq. 5): its [CLS], or the mean of
// its tokens where sentence-transformers says so; or the Universal Sentence Encoder Lite.
package bert

import (
	"cmp"
	"math"
	"slices"
	"strconv"

	"github.com/sugarme/gotch/ts"

	"github.com/alignedfusion/alignedfusion/internal/release"
	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/ports"
	"github.com/alignedfusion/alignedfusion/sdk/torchstage"
)

type settings struct {
	Model     sdk.Path `setting:"model" help:"folder with config.json, vocab.txt or tokenizer.json, and model.safetensors (or its shards)"`
	Pooling   string   `setting:"pooling" default:"auto" choices:"auto,cls,mean" help:"auto: as sentence-transformers' modules.json says, [CLS] without it"`
	Lowercase string   `setting:"lowercase" default:"auto" choices:"auto,true,false" help:"auto: as tokenizer_config.json says, true without it"`
	MaxLength int      `setting:"max_length" default:"0" min:"0" max:"1048576" help:"longest text in tokens, the rest is cut off; 0: as many as the model has positions"`
	Batch     int      `setting:"batch" default:"32" min:"1" max:"4096" help:"texts that run through the network together"`
}

// Manifest describes the plugin.
func Manifest() sdk.Manifest {
	return sdk.Manifest{
		Name: "bert", Version: release.Version, License: "Apache-2.0", Runtime: "libtorch",
		ModelCard: "Any BERT, DistilBERT, RoBERTa, ModernBERT or DeBERTa (v2, v3) checkpoint in the Hugging Face layout (Bio_ClinicalBERT, CXR-BERT, sentence-transformers), BiomedCLIP's text tower, or the Universal Sentence Encoder Lite. No weights are shipped.",
		Stages: []sdk.StageManifest{{
			Name: "text", Kind: sdk.KindText,
			Summary:  "frozen BERT and its kin: [CLS] or mean of the last layer",
			Inputs:   []sdk.Port{ports.Text.Declare(ports.Required)},
			Outputs:  []sdk.Port{ports.Embedding.Declare(ports.Required)},
			Settings: sdk.SettingsOf(settings{}),
			Metrics:  []string{"truncated"},
		}},
	}
}

// Plugin is what the plugin's program serves.
func Plugin() sdk.Plugin {
	return sdk.Plugin{Manifest: Manifest(), Open: torchstage.Open(map[string]torchstage.Builder{"text": build})}
}

// model is a text encoder: a tokenizer before a network.
type model struct {
	config
	network
	tokenizer tokenizer
	length    int
	batch     int
}

// network maps the ids [N,T] of padded texts to tokens [N,T,width]. hide [N,1,1,T] is added to
// what is attended to.
type network interface {
	run(s *torchstage.Scope, ids, hide *ts.Tensor) *ts.Tensor
}

// hidden is added to the logits of what is not attended to: exp gives 0.
const hidden = -1e4

func build(b *torchstage.Build) (torchstage.Module, error) {
	set, err := sdk.DecodeSettings[settings](b.Request.Settings)
	if err != nil {
		return nil, err
	}
	dir := string(set.Model)
	if dir == "" {
		return nil, sdk.RefuseSetting("model", "nothing given, want a folder with config.json, vocab.txt and model.safetensors")
	}
	c, err := readConfig(dir)
	if err != nil {
		return nil, sdk.Errorf(sdk.InvalidArgument, "%w", err)
	}
	if set.Lowercase != "auto" {
		c.lowercase, c.lowercaseIsKnown = set.Lowercase == "true", true
	}
	if set.Pooling == "cls" && c.modelType == liteType {
		return nil, sdk.RefuseSetting("pooling", "cls given, want auto or mean: the model has no [CLS]")
	}
	if set.Pooling != "auto" {
		c.mean = set.Pooling == "mean"
	}
	c.device = b.Device
	longest := int(c.positions - c.firstPosition)
	m := &model{config: c, batch: set.Batch, length: cmp.Or(set.MaxLength, min(cmp.Or(c.maxLength, longest), longest))}
	if m.length < 3 || m.length > longest {
		return nil, sdk.RefuseSetting("max_length", "%d given, want 3 to the model's %d positions", m.length, longest)
	}
	if m.tokenizer, err = openTokenizer(dir, c); err != nil {
		return nil, sdk.Errorf(sdk.InvalidArgument, "model folder %s: %w", dir, err)
	}
	if n := int64(m.tokenizer.entries); n > c.vocabulary {
		return nil, sdk.Errorf(sdk.InvalidArgument, "model folder %s: the tokenizer has %d entries, config.json says %d: they belong to different models", dir, n, c.vocabulary)
	}
	switch c.modelType {
	case "modernbert":
		m.network = newModern(b.Params, c)
	case "deberta-v2":
		m.network = newDisentangled(b.Params, c)
	case liteType:
		m.network = newLite(b.Params, c)
	default:
		m.network = newAbsolute(b.Params, c)
	}
	if err := loadWeights(b, dir); err != nil {
		return nil, err
	}
	b.Params.Freeze("")
	b.Inputs = Manifest().Stages[0].Inputs
	b.Outputs = []sdk.Port{ports.Embedding.Declare(ports.Required, ports.Shape("N", strconv.FormatInt(c.width, 10)))}
	if m.tokenizer.guessed {
		b.Notes = append(b.Notes, "tokenizer_config.json does not say whether text is lower-cased: lower-casing; set lowercase=false for a cased model")
	}
	return m, nil
}

// Forward embeds texts. Texts of like length share a batch, so that little of it
// is padding; each text's embedding is its own.
func (m *model) Forward(s *torchstage.Scope, in *torchstage.Inputs) *torchstage.Outputs {
	texts := in.Text[ports.Text.Name]
	out := &torchstage.Outputs{Tensors: map[string]*ts.Tensor{}, Metrics: map[string]float64{}}
	ids := make([][]int64, len(texts))
	order := make([]int, len(texts))
	truncated := 0
	for i, text := range texts {
		tokens, err := m.tokenizer.encode(text)
		if err != nil {
			s.Fail(sdk.Errorf(sdk.InvalidArgument, "text %d: %w", i, err))
			return out
		}
		if len(tokens) == 0 {
			s.Fail(sdk.Errorf(sdk.InvalidArgument, "text %d has no words", i))
			return out
		}
		if len(tokens) > m.length {
			tokens = append(tokens[:m.length-1], tokens[len(tokens)-1])
			truncated++
		}
		for _, id := range tokens {
			ids[i] = append(ids[i], int64(id))
		}
		order[i] = i
	}
	out.Metrics["truncated"] = float64(truncated)
	slices.SortStableFunc(order, func(a, b int) int { return len(ids[a]) - len(ids[b]) })
	result := make([]float32, int64(len(texts))*m.width)
	s.NoGrad(func() {
		for start := 0; start < len(order); start += m.batch {
			part := order[start:min(start+m.batch, len(order))]
			y := s.Sub(func(s *torchstage.Scope) *ts.Tensor { return m.embed(s, ids, part) })
			values := s.Float32s(y)
			s.Free(y)
			if s.Err() != nil {
				return
			}
			for j, i := range part {
				v := values[int64(j)*m.width : int64(j+1)*m.width]
				if m.normalize {
					unit(v)
				}
				copy(result[int64(i)*m.width:], v)
			}
		}
	})
	out.Tensors[ports.Embedding.Name] = s.FromFloat32s(result, int64(len(texts)), m.width)
	return out
}

// embed embeds the texts of part together: [len(part), width].
func (m *model) embed(s *torchstage.Scope, ids [][]int64, part []int) *ts.Tensor {
	n, t := int64(len(part)), int64(len(ids[part[len(part)-1]])) // the longest is last
	flat := make([]int64, n*t)
	bias, share := make([]float32, n*t), make([]float32, n*t)
	for j, i := range part {
		copy(flat[int64(j)*t:], ids[i])
		for k := range ids[i] {
			share[int64(j)*t+int64(k)] = 1 / float32(len(ids[i]))
		}
		for k := int64(len(ids[i])); k < t; k++ {
			flat[int64(j)*t+k] = m.tokenizer.pad
			bias[int64(j)*t+k] = hidden
		}
	}
	x := m.run(s, s.To(s.FromInt64s(flat, n, t), m.device), s.To(s.FromFloat32s(bias, n, 1, 1, t), m.device))
	if !m.mean {
		return s.Contiguous(s.Select(x, 1, 0))
	}
	x = s.Sum(s.Mul(x, s.To(s.FromFloat32s(share, n, t, 1), m.device)), []int64{1}, false)
	if last, ok := m.network.(*lite); ok {
		x = last.pooled(s, x)
	}
	return x
}

// unit gives v length 1.
func unit(v []float32) {
	sum := 0.0
	for _, x := range v {
		sum += float64(x) * float64(x)
	}
	for i := range v {
		v[i] = float32(float64(v[i]) / max(math.Sqrt(sum), 1e-12))
	}
}
