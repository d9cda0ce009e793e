package fusions

import (
	"github.com/sugarme/gotch/ts"

	"github.com/alignedfusion/alignedfusion/sdk/fusion"
	"github.com/alignedfusion/alignedfusion/sdk/fusion/transformer"
	"github.com/alignedfusion/alignedfusion/sdk/torchstage"
)

// hypernetwork makes the weights of a layer on the modalities' tokens from the report, for
// each case its own: Ha et al. 2017 ("HyperNetworks"), for images with tables Duenias et al.
// 2025 ("HyperFusion", Medical Image Analysis). With c as in FiLM,
//
//	[A_m; a_m] = H_m c + g_m   (A_m of rank × d),   x_t ← x_t + U_m GELU(A_m x_t + a_m) + u_m.
//
// The report stays as it is. It assumes that the report decides what is to be read from the
// image, and not only how strongly.
type hypernetwork struct {
	*fusion.Frame
	rank           int64
	generator, out []transformer.Affine // one for each modality: d → rank·(d+1), rank → d
}

type hyperSettings struct {
	plain
	Rank int64 `setting:"rank" default:"8" min:"1" max:"1024" help:"hidden units of the layer whose weights the report makes"`
}

func hyper() entry {
	return place("hyper", "the report makes the weights of a layer on every modality's tokens", "Ha et al. 2017, Duenias et al. 2025 (HyperFusion).",
		func(b *torchstage.Build, f *fusion.Frame, set hyperSettings) (method, error) {
			m := &hypernetwork{Frame: f, rank: set.Rank}
			for _, modality := range f.Modalities {
				m.generator = append(m.generator, transformer.Linear(b.Params, "generator."+modality.Name, f.Width, set.Rank*(f.Width+1)))
				m.out = append(m.out, transformer.Linear(b.Params, "out."+modality.Name, set.Rank, f.Width))
			}
			f.Joint(b, f.Width)
			return m, nil
		})
}

func (m *hypernetwork) fuse(s *torchstage.Scope, in *torchstage.Inputs, streams []*ts.Tensor, out *torchstage.Outputs) *ts.Tensor {
	c := condition(s, m.Frame, streams)
	n := s.Dim(c, 0)
	for i, g := range m.generator {
		made := g.Apply(s, c)
		weight := s.Reshape(s.Narrow(made, 1, 0, m.rank*m.Width), n, m.rank, m.Width)
		bias := s.Unsqueeze(s.Narrow(made, 1, m.rank*m.Width, m.rank), 1) // [N,1,rank]
		y := s.Gelu(s.Add(s.BMM(streams[i], s.Transpose(weight, 1, 2)), bias))
		streams[i] = s.Add(streams[i], m.out[i].Apply(s, y))
	}
	return m.Finish(s, in, streams, out.Tensors)
}
