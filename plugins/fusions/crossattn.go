package fusions

import (
	"fmt"

	"github.com/sugarme/gotch/ts"

	"github.com/alignedfusion/alignedfusion/sdk/fusion"
	"github.com/alignedfusion/alignedfusion/sdk/fusion/transformer"
	"github.com/alignedfusion/alignedfusion/sdk/torchstage"
)

// coattention lets every stream look at the others: the co-attention of Lu et al. 2019
// ("ViLBERT", Fig. 2b) and crossmodal attention of Tsai et al. 2019 ("MulT", Eq. 1), layers
// in pre-norm form. With c_m all tokens of the streams other than m side by side,
//
//	y_m = x_m + O·softmax(Q(x̂_m) K(ĉ_m)ᵀ / √h) V(ĉ_m),   x_m ← y_m + FFN(ŷ_m),
//
// where ^ is a layer norm. A stream that is alone looks at itself. It assumes that a token
// finds by itself what of the other streams belongs to it.
type coattention struct {
	*fusion.Frame
	config transformer.Config
	layers [][]crossLayer // by layer, then stream
}

type crossLayer struct {
	norm, normContext, normFeed transformer.Affine
	query, key, value, output   transformer.Affine
	linear1, linear2            transformer.Affine
}

type attentionSettings struct {
	plain
	fusion.AttentionSettings
}

func crossAttention() entry {
	return place("crossattn", "every stream's tokens attend to those of the other streams", "Lu et al. 2019 (ViLBERT), Tsai et al. 2019 (MulT).",
		func(b *torchstage.Build, f *fusion.Frame, set attentionSettings) (method, error) {
			config, err := set.Layer(f.Width)
			if err != nil {
				return nil, err
			}
			c := &coattention{Frame: f, config: config}
			p, d := b.Params, f.Width
			last := torchstage.XavierUniform()
			if config.ZeroBranches {
				last = torchstage.Zeros()
			}
			final := func(name string, in int64) transformer.Affine {
				return transformer.Affine{Weight: p.Parameter(name+".weight", []int64{d, in}, last), Bias: p.Parameter(name+".bias", []int64{d}, torchstage.Zeros())}
			}
			for l := range set.Layers {
				var layer []crossLayer
				for _, stream := range f.Streams() {
					at := fmt.Sprintf("layers.%d.%s.", l, stream)
					layer = append(layer, crossLayer{
						transformer.Norm(p, at+"norm", d), transformer.Norm(p, at+"norm_context", d), transformer.Norm(p, at+"norm_feed", d),
						transformer.Linear(p, at+"query", d, d), transformer.Linear(p, at+"key", d, d), transformer.Linear(p, at+"value", d, d), final(at+"output", d),
						transformer.Linear(p, at+"linear1", d, config.Hidden), final(at+"linear2", config.Hidden),
					})
				}
				c.layers = append(c.layers, layer)
			}
			f.Joint(b, d)
			return c, nil
		})
}

func (c *coattention) fuse(s *torchstage.Scope, in *torchstage.Inputs, streams []*ts.Tensor, out *torchstage.Outputs) *ts.Tensor {
	for _, layer := range c.layers {
		next := make([]*ts.Tensor, len(streams))
		for i, x := range streams {
			context := x
			if others := append(append([]*ts.Tensor(nil), streams[:i]...), streams[i+1:]...); len(others) > 0 {
				context = s.Cat(others, 1)
			}
			next[i] = layer[i].forward(s, x, context, c.config, in.Train)
		}
		streams = next
	}
	return c.Finish(s, in, streams, out.Tensors)
}

// forward is one layer for x [N,T,d] that looks at context [N,U,d].
func (l crossLayer) forward(s *torchstage.Scope, x, context *ts.Tensor, c transformer.Config, train bool) *ts.Tensor {
	const eps = 1e-5
	n, h := s.Dim(x, 0), c.Width/c.Heads
	heads := func(y *ts.Tensor) *ts.Tensor { // [N,T,d] → [N,heads,T,h]
		return s.Transpose(s.Reshape(y, n, s.Dim(y, 1), c.Heads, h), 1, 2)
	}
	context = l.normContext.Normalize(s, context, c.Width, eps)
	q := heads(l.query.Apply(s, l.norm.Normalize(s, x, c.Width, eps)))
	y := s.Attention(q, heads(l.key.Apply(s, context)), heads(l.value.Apply(s, context)), 0, train)
	y = l.output.Apply(s, s.Reshape(s.Transpose(y, 1, 2), n, s.Dim(x, 1), c.Width))
	x = s.Add(x, s.Dropout(y, c.Dropout, train))
	y = s.Dropout(s.Gelu(l.linear1.Apply(s, l.normFeed.Normalize(s, x, c.Width, eps))), c.Dropout, train)
	return s.Add(x, s.Dropout(l.linear2.Apply(s, y), c.Dropout, train))
}
