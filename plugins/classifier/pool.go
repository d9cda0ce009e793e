package classifier

import (
	"cmp"
	"slices"

	"github.com/sugarme/gotch"
	"github.com/sugarme/gotch/ts"

	"github.com/alignedfusion/alignedfusion/sdk/fusion/transformer"
	"github.com/alignedfusion/alignedfusion/sdk/torchstage"
)

// pool makes one summary [N,C] of a modality's tokens h [N,T,C], and says how much each token
// counts: weights [N,T] that sum to 1 over the tokens, nil where that cannot be said.
type pool interface {
	apply(s *torchstage.Scope, h *ts.Tensor) (summary, weights *ts.Tensor)
}

// newPool declares the pool of tokens of size c; prefix is that of its parameters.
func newPool(b *torchstage.Build, set headSettings, prefix string, c int64) pool {
	p := b.Params
	switch set.Pool {
	case "max":
		return maxPool{}
	case "gated":
		normal := torchstage.XavierUniform()
		return gatedPool{
			p.Parameter(prefix+".v.weight", []int64{set.PoolWidth, c}, normal),
			p.Parameter(prefix+".u.weight", []int64{set.PoolWidth, c}, normal),
			p.Parameter(prefix+".w.weight", []int64{1, set.PoolWidth}, normal),
		}
	case "topk":
		return topPool{transformer.Linear(p, prefix+".score", c, 1), set.TopK, b.Device}
	}
	return meanPool{b.Device}
}

// meanPool weighs all tokens alike.
type meanPool struct{ device gotch.Device }

func (m meanPool) apply(s *torchstage.Scope, h *ts.Tensor) (summary, weights *ts.Tensor) {
	n, t := s.Dim(h, 0), s.Dim(h, 1)
	if s.Err() != nil {
		return h, nil
	}
	return s.Mean(h, []int64{1}, false), s.Full(m.device, 1/float64(t), n, t)
}

// maxPool takes the greatest value of each feature, from whatever token.
type maxPool struct{}

func (maxPool) apply(s *torchstage.Scope, h *ts.Tensor) (summary, weights *ts.Tensor) {
	for t := s.Dim(h, 1); t > 1 && s.Err() == nil; t = s.Dim(h, 1) { // the better one of each two
		half := t / 2
		better := s.Maximum(s.Narrow(h, 1, 0, half), s.Narrow(h, 1, half, half))
		if t%2 == 1 {
			better = s.Cat([]*ts.Tensor{better, s.Narrow(h, 1, t-1, 1)}, 1)
		}
		h = better
	}
	return s.Squeeze(h, 1), nil
}

// gatedPool is gated attention (Ilse et al. 2018, "Attention-based Deep Multiple Instance
// Learning", eqs. 7 and 9):
//
//	z = sum_k a_k h_k,  a_k = softmax_k(w (tanh(V h_k) * sigmoid(U h_k)))
type gatedPool struct{ v, u, w *ts.Tensor }

func (g gatedPool) apply(s *torchstage.Scope, h *ts.Tensor) (summary, weights *ts.Tensor) {
	gate := s.Mul(s.Tanh(s.Linear(h, g.v, nil)), s.Sigmoid(s.Linear(h, g.u, nil)))
	return weighted(s, h, s.Linear(gate, g.w, nil))
}

// topPool scores every token by a linear layer and takes the k best alone, weighed by the
// softmax of their scores, through which the scores learn.
type topPool struct {
	score  transformer.Affine
	k      int64
	device gotch.Device
}

func (p topPool) apply(s *torchstage.Scope, h *ts.Tensor) (summary, weights *ts.Tensor) {
	score := p.score.Apply(s, h) // [N,T,1]
	n, t := s.Dim(score, 0), s.Dim(score, 1)
	values := s.Float32s(score)
	if s.Err() != nil {
		return h, nil
	}
	const never = -1e9 // its exponential is 0
	out := make([]float32, len(values))
	order := make([]int, t)
	for i := range n {
		own := values[i*t : (i+1)*t]
		for k := range order {
			order[k] = k
		}
		slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(own[b], own[a]) })
		for _, k := range order[min(p.k, t):] {
			out[i*t+int64(k)] = never
		}
	}
	return weighted(s, h, s.Add(score, s.To(s.FromFloat32s(out, n, t, 1), p.device)))
}

// weighted is the mean of tokens h [N,T,C] by the softmax of their scores [N,T,1].
func weighted(s *torchstage.Scope, h, score *ts.Tensor) (summary, weights *ts.Tensor) {
	a := s.Softmax(score, 1)
	return s.Sum(s.Mul(h, a), []int64{1}, false), s.Squeeze(a, 2)
}
