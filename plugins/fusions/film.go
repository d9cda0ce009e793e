package fusions

import (
	"github.com/sugarme/gotch/ts"

	"github.com/alignedfusion/alignedfusion/sdk/fusion"
	"github.com/alignedfusion/alignedfusion/sdk/fusion/transformer"
	"github.com/alignedfusion/alignedfusion/sdk/torchstage"
)

// modulation is the feature-wise linear modulation of Perez et al. 2018 ("FiLM: Visual
// Reasoning with a General Conditioning Layer"), with γ written as 1 + Δγ as its authors do:
//
//	[Δγ_m; β_m] = W_m c + b_m,   x_t ← (1 + Δγ_m) ⊙ x_t + β_m
//
// for every token of modality m; c is the report's mean, or without a report that of all
// modalities. The report stays as it is. It assumes that the report says how to look, not
// what is there.
type modulation struct {
	*fusion.Frame
	generator []transformer.Affine // one for each modality, d → 2d
}

func film() entry {
	return place("film", "the report scales and shifts the features of every modality", "Perez et al. 2018 (FiLM).",
		func(b *torchstage.Build, f *fusion.Frame, _ plain) (method, error) {
			m := &modulation{Frame: f}
			for _, modality := range f.Modalities {
				m.generator = append(m.generator, transformer.Linear(b.Params, "generator."+modality.Name, f.Width, 2*f.Width))
			}
			f.Joint(b, f.Width)
			return m, nil
		})
}

func (m *modulation) fuse(s *torchstage.Scope, in *torchstage.Inputs, streams []*ts.Tensor, out *torchstage.Outputs) *ts.Tensor {
	c := s.Unsqueeze(condition(s, m.Frame, streams), 1) // [N,1,d]
	for i, g := range m.generator {
		both := g.Apply(s, c)
		scale := s.AddScalar(s.Narrow(both, 2, 0, m.Width), 1)
		streams[i] = s.Add(s.Mul(scale, streams[i]), s.Narrow(both, 2, m.Width, m.Width))
	}
	return m.Finish(s, in, streams, out.Tensors)
}
