package fusions

import (
	"github.com/sugarme/gotch/ts"

	"github.com/alignedfusion/alignedfusion/sdk/fusion"
	"github.com/alignedfusion/alignedfusion/sdk/fusion/transformer"
	"github.com/alignedfusion/alignedfusion/sdk/torchstage"
)

// concatenation is the joint representation of Ngiam et al. 2011 ("Multimodal Deep
// Learning", ICML) without its pretraining: a hidden layer over the streams side by side,
//
//	h = GELU(W [mean(x_1); …; mean(x_M)] + b),   x_t ← x_t + h.
//
// It assumes that every stream is there: a missing one is a vector like any other.
type concatenation struct {
	*fusion.Frame
	hidden transformer.Affine
}

func concat() entry {
	return place("concat", "a hidden layer over the streams' means side by side", "Ngiam et al. 2011.",
		func(b *torchstage.Build, f *fusion.Frame, _ plain) (method, error) {
			f.Joint(b, f.Width)
			return &concatenation{f, transformer.Linear(b.Params, "hidden", int64(len(f.Streams()))*f.Width, f.Width)}, nil
		})
}

func (c *concatenation) fuse(s *torchstage.Scope, in *torchstage.Inputs, streams []*ts.Tensor, out *torchstage.Outputs) *ts.Tensor {
	h := s.Gelu(c.hidden.Apply(s, s.Cat(pooled(s, streams), 1)))
	c.Finish(s, in, spread(s, streams, h), out.Tensors)
	return h
}
