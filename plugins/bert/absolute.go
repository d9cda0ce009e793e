package bert

import (
	"strconv"

	"github.com/sugarme/gotch/ts"

	"github.com/alignedfusion/alignedfusion/sdk/fusion/transformer"
	"github.com/alignedfusion/alignedfusion/sdk/torchstage"
)

// absolute is BERT, DistilBERT and RoBERTa: learned vectors of the positions.
type absolute struct {
	config
	word, position, kind *ts.Tensor
	norm                 transformer.Affine
	encoder              []*transformer.Layer
}

var names = transformer.Names{
	Norm1: "attention.output.LayerNorm", Norm2: "output.LayerNorm",
	Query: "attention.self.query", Key: "attention.self.key", Value: "attention.self.value",
	OutProjection: "attention.output.dense", Linear1: "intermediate.dense", Linear2: "output.dense",
}

func newAbsolute(p *torchstage.Params, c config) *absolute {
	small := torchstage.Zeros() // every value comes from the file
	m := &absolute{config: c}
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
	return m
}

func (m *absolute) run(s *torchstage.Scope, ids, hide *ts.Tensor) *ts.Tensor {
	x := s.Embedding(m.word, ids)
	x = s.Add(x, s.Narrow(m.position, 0, m.firstPosition, s.Dim(ids, 1)))
	if m.kind != nil {
		x = s.Add(x, s.Select(m.kind, 0, 0))
	}
	x = m.norm.Normalize(s, x, m.width, m.eps)
	for _, l := range m.encoder {
		x = l.Forward(s, x, hide, false)
	}
	return x
}
