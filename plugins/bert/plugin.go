// Package bert is the text stage: a frozen BERT, DistilBERT or RoBERTa in the Hugging Face
// layout, whose last layer embeds a prompt (Eq. 5): its [CLS], or the mean of its tokens
// where sentence-transformers says so.
package bert

import (
	"cmp"
	"math"
	"slices"
	"strconv"

	"github.com/sugarme/gotch"
	"github.com/sugarme/gotch/ts"

	"github.com/alignedfusion/alignedfusion/internal/release"
	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/fusion/transformer"
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
		ModelCard: "Any BERT, DistilBERT or RoBERTa checkpoint in the Hugging Face layout (Bio_ClinicalBERT, CXR-BERT, sentence-transformers), or BiomedCLIP's text tower. No weights are shipped.",
		Stages: []sdk.StageManifest{{
			Name: "text", Kind: sdk.KindText,
			Summary:  "frozen BERT or RoBERTa: [CLS] or mean of the last layer",
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

// model is a BERT encoder.
type model struct {
	config
	tokenizer tokenizer
	length    int
	batch     int
	device    gotch.Device

	word, position, kind *ts.Tensor
	norm                 transformer.Affine
	encoder              []*transformer.Layer
}

var names = transformer.Names{
	Norm1: "attention.output.LayerNorm", Norm2: "output.LayerNorm",
	Query: "attention.self.query", Key: "attention.self.key", Value: "attention.self.value",
	OutProjection: "attention.output.dense", Linear1: "intermediate.dense", Linear2: "output.dense",
}

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
	if set.Pooling != "auto" {
		c.mean = set.Pooling == "mean"
	}
	longest := int(c.positions - c.firstPosition)
	m := &model{config: c, batch: set.Batch, length: cmp.Or(set.MaxLength, min(cmp.Or(c.maxLength, longest), longest)), device: b.Device}
	if m.length < 3 || m.length > longest {
		return nil, sdk.RefuseSetting("max_length", "%d given, want 3 to the model's %d positions", m.length, longest)
	}
	if m.tokenizer, err = openTokenizer(dir, c); err != nil {
		return nil, sdk.Errorf(sdk.InvalidArgument, "model folder %s: %w", dir, err)
	}
	if n := int64(m.tokenizer.entries); n > c.vocabulary {
		return nil, sdk.Errorf(sdk.InvalidArgument, "model folder %s: the tokenizer has %d entries, config.json says %d: they belong to different models", dir, n, c.vocabulary)
	}
	p := b.Params
	small := torchstage.Zeros() // every value comes from the file
	m.word = p.Parameter("embeddings.word_embeddings.weight", []int64{c.vocabulary, c.width}, small)
	m.position = p.Parameter("embeddings.position_embeddings.weight", []int64{c.positions, c.width}, small)
	if c.tokenTypes > 0 {
		m.kind = p.Parameter("embeddings.token_type_embeddings.weight", []int64{c.tokenTypes, c.width}, small)
	}
	m.norm = transformer.Norm(p, "embeddings.LayerNorm", c.width)
	layer := transformer.Config{Width: c.width, Heads: c.heads, Hidden: c.hidden, PostNorm: true, Eps: c.eps}
	for i := range c.layers {
		m.encoder = append(m.encoder, transformer.New(p, "encoder.layer."+strconv.FormatInt(i, 10)+".", layer, names))
	}
	if err := loadWeights(b, dir); err != nil {
		return nil, err
	}
	p.Freeze("")
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
			y := s.Sub(func(s *torchstage.Scope) *ts.Tensor { return m.run(s, ids, part) })
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

// run embeds the texts of part together: [len(part), width].
func (m *model) run(s *torchstage.Scope, ids [][]int64, part []int) *ts.Tensor {
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
			bias[int64(j)*t+k] = -1e4 // exp gives 0: padding is not attended to
		}
	}
	x := s.Embedding(m.word, s.To(s.FromInt64s(flat, n, t), m.device))
	x = s.Add(x, s.Narrow(m.position, 0, m.firstPosition, t))
	if m.kind != nil {
		x = s.Add(x, s.Select(m.kind, 0, 0))
	}
	x = m.norm.Normalize(s, x, m.width, m.eps)
	hide := s.To(s.FromFloat32s(bias, n, 1, 1, t), m.device)
	for _, l := range m.encoder {
		x = l.Forward(s, x, hide, false)
	}
	if m.mean {
		return s.Sum(s.Mul(x, s.To(s.FromFloat32s(share, n, t, 1), m.device)), []int64{1}, false)
	}
	return s.Contiguous(s.Select(x, 1, 0))
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
