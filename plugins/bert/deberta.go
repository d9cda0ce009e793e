package bert

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/sugarme/gotch/ts"

	"github.com/alignedfusion/alignedfusion/sdk/fusion/transformer"
	"github.com/alignedfusion/alignedfusion/sdk/torchstage"
)

// disentangled is DeBERTa of the second and third version (He et al. 2021, 2023): attention
// to what stands where by content and by the distance between tokens.
type disentangled struct {
	config
	word, position, kind *ts.Tensor
	norm                 transformer.Affine
	relative             *ts.Tensor
	relativeNorm         *transformer.Affine
	layers               []disentangledLayer
}

type disentangledLayer struct {
	query, key, value  transformer.Affine
	posKey, posQuery   transformer.Affine // of distances; query and key where shared
	out, in, back      transformer.Affine
	attention, feeding transformer.Affine // norms
}

func newDisentangled(p *torchstage.Params, c config) *disentangled {
	zeros := torchstage.Zeros() // every value comes from the file
	m := &disentangled{config: c}
	m.word = p.Parameter("embeddings.word_embeddings.weight", []int64{c.vocabulary, c.width}, zeros)
	if c.deberta.positions {
		m.position = p.Parameter("embeddings.position_embeddings.weight", []int64{c.positions, c.width}, zeros)
	}
	if c.tokenTypes > 0 {
		m.kind = p.Parameter("embeddings.token_type_embeddings.weight", []int64{c.tokenTypes, c.width}, zeros)
	}
	m.norm = transformer.Norm(p, "embeddings.LayerNorm", c.width)
	if c.deberta.relative {
		m.relative = p.Parameter("encoder.rel_embeddings.weight", []int64{2 * c.deberta.span, c.width}, zeros)
		if c.deberta.relativeNorm {
			norm := transformer.Norm(p, "encoder.LayerNorm", c.width)
			m.relativeNorm = &norm
		}
	}
	for i := range c.layers {
		prefix := "encoder.layer." + strconv.FormatInt(i, 10) + "."
		linear := func(name string, in, out int64) transformer.Affine {
			return transformer.Linear(p, prefix+name, in, out)
		}
		l := disentangledLayer{
			query: linear("attention.self.query_proj", c.width, c.width), key: linear("attention.self.key_proj", c.width, c.width),
			value: linear("attention.self.value_proj", c.width, c.width), out: linear("attention.output.dense", c.width, c.width),
			in: linear("intermediate.dense", c.width, c.hidden), back: linear("output.dense", c.hidden, c.width),
			attention: transformer.Norm(p, prefix+"attention.output.LayerNorm", c.width), feeding: transformer.Norm(p, prefix+"output.LayerNorm", c.width),
		}
		l.posKey, l.posQuery = l.key, l.query
		if !c.deberta.shared {
			if c.deberta.contentToPosition {
				l.posKey = linear("attention.self.pos_key_proj", c.width, c.width)
			}
			if c.deberta.positionToContent {
				l.posQuery = linear("attention.self.pos_query_proj", c.width, c.width)
			}
		}
		m.layers = append(m.layers, l)
	}
	return m
}

func (m *disentangled) run(s *torchstage.Scope, ids, hide *ts.Tensor) *ts.Tensor {
	t := s.Dim(ids, 1)
	x := s.Embedding(m.word, ids)
	if m.position != nil {
		x = s.Add(x, s.Narrow(m.position, 0, 0, t))
	}
	if m.kind != nil {
		x = s.Add(x, s.Select(m.kind, 0, 0))
	}
	x = m.norm.Normalize(s, x, m.width, m.eps)
	hide = perHead(s, hide, m.heads)
	var distances, ahead, back *ts.Tensor
	if m.relative != nil {
		distances = m.relative
		if m.relativeNorm != nil {
			distances = m.relativeNorm.Normalize(s, distances, m.width, m.eps)
		}
		distances = s.Unsqueeze(distances, 0)
		ahead, back = m.buckets(s, t, 1), m.buckets(s, t, -1)
	}
	for _, l := range m.layers {
		x = s.Sub(func(s *torchstage.Scope) *ts.Tensor {
			y := l.out.Apply(s, m.attend(s, l, x, hide, distances, ahead, back))
			return l.attention.Normalize(s, s.Add(x, y), m.width, m.eps)
		})
		x = s.Sub(func(s *torchstage.Scope) *ts.Tensor {
			y := l.back.Apply(s, s.Gelu(l.in.Apply(s, x)))
			return l.feeding.Normalize(s, s.Add(x, y), m.width, m.eps)
		})
	}
	return x
}

// attend adds to the logits of what tokens say those of how far they are apart.
func (m *disentangled) attend(s *torchstage.Scope, l disentangledLayer, x, bias, distances, ahead, back *ts.Tensor) *ts.Tensor {
	n, t := s.Dim(x, 0), s.Dim(x, 1)
	parts := 1.0
	for _, on := range []bool{m.deberta.contentToPosition, m.deberta.positionToContent} {
		if on && distances != nil {
			parts++
		}
	}
	q := s.MulScalar(split(s, l.query.Apply(s, x), m.heads), 1/math.Sqrt(parts*float64(m.width/m.heads)))
	k, v := split(s, l.key.Apply(s, x), m.heads), split(s, l.value.Apply(s, x), m.heads)
	// by is what each token of y finds at its distances, [N·heads,T,T].
	by := func(y *ts.Tensor, a transformer.Affine, index *ts.Tensor) *ts.Tensor {
		p := split(s, a.Apply(s, distances), m.heads) // [heads,2·span,h]
		rows := s.Dim(p, 1)
		all := s.Reshape(s.Expand(s.Unsqueeze(p, 0), n, m.heads, rows, s.Dim(p, 2)), n*m.heads, rows, s.Dim(p, 2))
		return s.Gather(s.BMM(y, s.Transpose(all, 1, 2)), 2, s.Expand(index, n*m.heads, t, t))
	}
	if distances != nil && m.deberta.contentToPosition {
		bias = s.Add(bias, by(q, l.posKey, ahead))
	}
	if distances != nil && m.deberta.positionToContent {
		scaled := s.MulScalar(k, 1/math.Sqrt(parts*float64(m.width/m.heads)))
		bias = s.Add(bias, s.Transpose(by(scaled, l.posQuery, back), 1, 2))
	}
	return attend(s, q, k, v, bias, m.heads)
}

// buckets are the rows of the distances' vectors for every pair of tokens, [1,T,T]; sign -1
// looks from the other token.
func (m *disentangled) buckets(s *torchstage.Scope, t, sign int64) *ts.Tensor {
	out := make([]int64, t*t)
	for i := range t {
		for k := range t {
			out[i*t+k] = min(max(sign*m.deberta.bucket(i-k)+m.deberta.span, 0), 2*m.deberta.span-1)
		}
	}
	return s.To(s.FromInt64s(out, 1, t, t), m.device)
}

// deberta is what a configuration of DeBERTa says besides.
type deberta struct {
	relative, relativeNorm, shared, positions bool
	contentToPosition, positionToContent      bool
	// span is the number of distances in one direction that have a vector; beyond half of
	// bucketed ones they grow coarser, up to furthest.
	span, bucketed, furthest int64
}

// readDeBERTa reads what is DeBERTa's own of a config.json.
func (c *config) readDeBERTa(data []byte) error {
	doc := struct {
		Eps         float64         `json:"layer_norm_eps"`
		TokenTypes  int64           `json:"type_vocab_size"`
		Relative    bool            `json:"relative_attention"`
		Furthest    int64           `json:"max_relative_positions"`
		Buckets     int64           `json:"position_buckets"`
		Norm        string          `json:"norm_rel_ebd"`
		Shared      bool            `json:"share_att_key"`
		Kinds       json.RawMessage `json:"pos_att_type"`
		Positions   *bool           `json:"position_biased_input"`
		Convolution int64           `json:"conv_kernel_size"`
		Words       int64           `json:"embedding_size"`
	}{Eps: 1e-7, Buckets: -1, Furthest: -1}
	if err := json.Unmarshal(data, &doc); err != nil {
		return err
	}
	var kinds []string // a list, or a text with bars
	var joined string
	switch {
	case len(doc.Kinds) == 0 || string(doc.Kinds) == "null":
	case json.Unmarshal(doc.Kinds, &joined) == nil:
		kinds = strings.Split(joined, "|")
	case json.Unmarshal(doc.Kinds, &kinds) != nil:
		return errors.New(`pos_att_type: want c2p and p2c`)
	}
	c.eps, c.tokenTypes = doc.Eps, doc.TokenTypes
	c.deberta = deberta{
		relative: doc.Relative, relativeNorm: strings.Contains(doc.Norm, "layer_norm"), shared: doc.Shared, positions: doc.Positions == nil || *doc.Positions,
		bucketed: doc.Buckets, furthest: doc.Furthest,
	}
	for _, kind := range kinds {
		switch strings.TrimSpace(strings.ToLower(kind)) {
		case "c2p":
			c.deberta.contentToPosition = true
		case "p2c":
			c.deberta.positionToContent = true
		case "":
		default:
			return fmt.Errorf("pos_att_type %q, want c2p and p2c", kind)
		}
	}
	if c.deberta.furthest < 1 {
		c.deberta.furthest = c.positions
	}
	c.deberta.span = c.deberta.furthest
	if doc.Buckets > 0 {
		c.deberta.span = doc.Buckets
	}
	switch {
	case doc.Convolution > 0:
		return fmt.Errorf("conv_kernel_size %d, want 0: the convolution of the largest second version is not there", doc.Convolution)
	case doc.Words > 0 && doc.Words != c.width:
		return fmt.Errorf("embedding_size %d, want hidden_size %d", doc.Words, c.width)
	case doc.Relative && (c.deberta.span > 1<<16 || doc.Buckets > 0 && (doc.Buckets < 4 || c.deberta.furthest <= doc.Buckets/2+1)):
		return fmt.Errorf("position_buckets %d of %d positions: want 4 and more, and more positions than half of them", doc.Buckets, c.deberta.furthest)
	}
	return nil
}

// bucket is a distance as it is looked up, in single precision as the model's makers have it.
func (d deberta) bucket(distance int64) int64 {
	middle := d.bucketed / 2
	if d.bucketed < 1 || distance <= middle && distance >= -middle {
		return distance
	}
	ratio := float32(math.Log(float64(float32(max(distance, -distance))/float32(middle)))) / float32(math.Log(float64(float32(d.furthest-1)/float32(middle))))
	coarse := int64(math.Ceil(float64(ratio*float32(middle-1)))) + middle
	if distance < 0 {
		return -coarse
	}
	return coarse
}
