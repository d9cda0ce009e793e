package fusions

import (
	"github.com/sugarme/gotch/ts"

	"github.com/alignedfusion/alignedfusion/sdk/fusion"
	"github.com/alignedfusion/alignedfusion/sdk/fusion/transformer"
	"github.com/alignedfusion/alignedfusion/sdk/torchstage"
)

// factors are the low-rank form of the outer product of all streams of Liu et al. 2018
// ("Efficient Low-rank Multimodal Fusion with Modality-Specific Factors"), with
// the weights of the ranks and the bias of the authors' program:
//
//	h = Σ_r w_r · Π_m (W_m^(r) [mean(x_m); 1]) + b,   x_t ← x_t + h.
//
// The products are taken number by number. It assumes that what counts is what occurs in all
// streams together; a stream near zero silences the others.
type factors struct {
	*fusion.Frame
	rank    int64
	factors []transformer.Affine // one for each stream, d → rank·d
	weights *ts.Tensor           // [rank,1]
	bias    *ts.Tensor           // [d]
}

type rankSettings struct {
	plain
	Rank int64 `setting:"rank" default:"4" min:"1" max:"256" help:"number of rank-one terms whose sum stands for the outer product"`
}

func lowRank() entry {
	return place("lowrank", "product of all streams, as a sum of rank-one terms", "Liu et al. 2018 (LMF).",
		func(b *torchstage.Build, f *fusion.Frame, set rankSettings) (method, error) {
			m := &factors{Frame: f, rank: set.Rank}
			for _, name := range f.Streams() {
				m.factors = append(m.factors, transformer.Linear(b.Params, "factors."+name, f.Width, set.Rank*f.Width))
			}
			m.weights = b.Params.Parameter("rank.weight", []int64{set.Rank, 1}, torchstage.Constant(1/float64(set.Rank)))
			m.bias = b.Params.Parameter("rank.bias", []int64{f.Width}, torchstage.Zeros())
			f.Joint(b, f.Width)
			return m, nil
		})
}

func (m *factors) fuse(s *torchstage.Scope, in *torchstage.Inputs, streams []*ts.Tensor, out *torchstage.Outputs) *ts.Tensor {
	var product *ts.Tensor // [N,rank,d]
	for i, x := range pooled(s, streams) {
		y := s.Reshape(m.factors[i].Apply(s, x), s.Dim(x, 0), m.rank, m.Width)
		if product != nil {
			y = s.Mul(product, y)
		}
		product = y
	}
	h := s.Add(s.Sum(s.Mul(product, m.weights), []int64{1}, false), m.bias)
	m.Finish(s, in, spread(s, streams, h), out.Tensors)
	return h
}
