package fusions

import (
	"github.com/sugarme/gotch/ts"

	"github.com/alignedfusion/alignedfusion/sdk/fusion"
	"github.com/alignedfusion/alignedfusion/sdk/fusion/transformer"
	"github.com/alignedfusion/alignedfusion/sdk/torchstage"
)

// gates are the Gated Multimodal Units of Arevalo et al. 2017 ("Gated Multimodal Units for
// Information Fusion", sec. 3.1, the form for any number of modalities), with biases:
//
//	h_m = tanh(W_m mean(x_m) + b_m)
//	z_m = σ(V_m [mean(x_1); …; mean(x_M)] + c_m)
//	h   = Σ_m z_m ⊙ h_m,   x_t ← x_t + h.
//
// It assumes that the streams together tell which of them to believe, feature by feature.
type gates struct {
	*fusion.Frame
	hidden, gate []transformer.Affine // one for each stream
}

func gated() entry {
	return place("gated", "gates from all streams say how much each counts", "Arevalo et al. 2017 (GMU).",
		func(b *torchstage.Build, f *fusion.Frame, _ plain) (method, error) {
			g := &gates{Frame: f}
			streams := f.Streams()
			for _, name := range streams {
				g.hidden = append(g.hidden, transformer.Linear(b.Params, "hidden."+name, f.Width, f.Width))
				g.gate = append(g.gate, transformer.Linear(b.Params, "gate."+name, int64(len(streams))*f.Width, f.Width))
			}
			f.Joint(b, f.Width)
			return g, nil
		})
}

func (g *gates) fuse(s *torchstage.Scope, in *torchstage.Inputs, streams []*ts.Tensor, out *torchstage.Outputs) *ts.Tensor {
	means := pooled(s, streams)
	all := s.Cat(means, 1)
	var parts []*ts.Tensor
	for i, x := range means {
		parts = append(parts, s.Mul(s.Sigmoid(g.gate[i].Apply(s, all)), s.Tanh(g.hidden[i].Apply(s, x))))
	}
	h := s.Sum(s.Stack(parts, 1), []int64{1}, false)
	g.Finish(s, in, spread(s, streams, h), out.Tensors)
	return h
}
