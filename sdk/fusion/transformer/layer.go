// Package transformer is the self-attention layer that the fusion stages, the
// vision transformer and BERT share.
package transformer

import (
	"math"

	"github.com/sugarme/gotch/ts"

	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/torchstage"
)

// Config describes a layer.
type Config struct {
	// Width is the tokens' size; it must be a multiple of Heads.
	Width, Heads int64
	// Hidden is the size of the feed-forward layer.
	Hidden int64
	// Dropout on the two branches and on the hidden layer.
	Dropout float64
	// PostNorm normalises after each sum (BERT) instead of before each branch.
	PostNorm bool
	// Eps of the layer norms; 0 means 1e-5.
	Eps float64
	// ZeroBranches starts both branches' last projections at zero: a new layer passes
	// tokens on as they are (Zhang et al. 2019, "Fixup"; Bachlechner et al. 2021, "ReZero").
	ZeroBranches bool
}

// Names are the parameters' names behind the layer's prefix. Query, Key and Value
// are used when InProjection is empty.
type Names struct {
	Norm1, Norm2                   string
	InProjection, InProjectionBias string
	Query, Key, Value              string
	OutProjection                  string
	Linear1, Linear2               string
}

// TorchNames are those of PyTorch's TransformerEncoderLayer.
var TorchNames = Names{
	Norm1: "norm1", Norm2: "norm2",
	InProjection: "self_attn.in_proj_weight", InProjectionBias: "self_attn.in_proj_bias",
	OutProjection: "self_attn.out_proj", Linear1: "linear1", Linear2: "linear2",
}

// Affine is a weight with its bias.
type Affine struct{ Weight, Bias *ts.Tensor }

// Linear declares name.weight [out,in] and name.bias [out].
func Linear(p *torchstage.Params, name string, in, out int64) Affine {
	return linear(p, name, in, out, torchstage.XavierUniform())
}

func linear(p *torchstage.Params, name string, in, out int64, weight torchstage.Init) Affine {
	return Affine{
		p.Parameter(name+".weight", []int64{out, in}, weight),
		p.Parameter(name+".bias", []int64{out}, torchstage.Zeros()),
	}
}

// Norm declares name.weight and name.bias [width] of a layer norm.
func Norm(p *torchstage.Params, name string, width int64) Affine {
	return Affine{
		p.Parameter(name+".weight", []int64{width}, torchstage.Ones()),
		p.Parameter(name+".bias", []int64{width}, torchstage.Zeros()),
	}
}

// Apply is x·Wᵀ + b over the last dimension.
func (a Affine) Apply(s *torchstage.Scope, x *ts.Tensor) *ts.Tensor {
	return s.Linear(x, a.Weight, a.Bias)
}

// Normalize is the layer norm over the last dimension, of size width.
func (a Affine) Normalize(s *torchstage.Scope, x *ts.Tensor, width int64, eps float64) *ts.Tensor {
	return s.LayerNorm(x, []int64{width}, a.Weight, a.Bias, eps)
}

// Layer is multi-head self-attention and a two-layer perceptron with GELU, each
// on a residual branch.
type Layer struct {
	Config
	norm1, norm2     Affine
	in               Affine
	query, key       Affine
	value            Affine
	out              Affine
	linear1, linear2 Affine
}

// New declares a layer's parameters under prefix.
func New(p *torchstage.Params, prefix string, c Config, n Names) *Layer {
	if c.Eps == 0 {
		c.Eps = 1e-5
	}
	l := &Layer{Config: c}
	l.norm1 = Norm(p, prefix+n.Norm1, c.Width)
	l.norm2 = Norm(p, prefix+n.Norm2, c.Width)
	if n.InProjection != "" {
		l.in = Affine{
			p.Parameter(prefix+n.InProjection, []int64{3 * c.Width, c.Width}, torchstage.XavierUniform()),
			p.Parameter(prefix+n.InProjectionBias, []int64{3 * c.Width}, torchstage.Zeros()),
		}
	} else {
		l.query = Linear(p, prefix+n.Query, c.Width, c.Width)
		l.key = Linear(p, prefix+n.Key, c.Width, c.Width)
		l.value = Linear(p, prefix+n.Value, c.Width, c.Width)
	}
	last := torchstage.XavierUniform()
	if c.ZeroBranches {
		last = torchstage.Zeros()
	}
	l.out = linear(p, prefix+n.OutProjection, c.Width, c.Width, last)
	l.linear1 = Linear(p, prefix+n.Linear1, c.Width, c.Hidden)
	l.linear2 = linear(p, prefix+n.Linear2, c.Hidden, c.Width, last)
	return l
}

// Forward maps x [N,T,Width] to [N,T,Width]. bias [N,1,1,T] is added to the
// attention logits (a large negative number hides a token); nil adds nothing.
// Temporaries are freed branch by branch: they are what bounds memory in EVAL.
func (l *Layer) Forward(s *torchstage.Scope, x, bias *ts.Tensor, train bool) *ts.Tensor {
	branch := func(x *ts.Tensor, norm Affine, f func(s *torchstage.Scope, x *ts.Tensor) *ts.Tensor) *ts.Tensor {
		return s.Sub(func(s *torchstage.Scope) *ts.Tensor {
			if l.PostNorm {
				return norm.Normalize(s, s.Add(x, f(s, x)), l.Width, l.Eps)
			}
			return s.Add(x, f(s, norm.Normalize(s, x, l.Width, l.Eps)))
		})
	}
	x = branch(x, l.norm1, func(s *torchstage.Scope, x *ts.Tensor) *ts.Tensor { return l.attend(s, x, bias, train) })
	return branch(x, l.norm2, func(s *torchstage.Scope, x *ts.Tensor) *ts.Tensor { return l.feed(s, x, train) })
}

func (l *Layer) attend(s *torchstage.Scope, x, bias *ts.Tensor, train bool) *ts.Tensor {
	shape := s.Shape(x)
	if len(shape) != 3 {
		s.Failf(sdk.Internal, "self-attention over a tensor of shape %v, want [N,T,%d]", shape, l.Width)
		return x
	}
	n, t, h := shape[0], shape[1], l.Width/l.Heads
	heads := func(y *ts.Tensor) *ts.Tensor { // [N,T,Width] → [N·Heads,T,h]
		return s.Reshape(s.Transpose(s.Reshape(y, n, t, l.Heads, h), 1, 2), n*l.Heads, t, h)
	}
	var q, k, v *ts.Tensor
	if l.in.Weight != nil {
		y := l.in.Apply(s, x) // [N,T,3·Width]
		q = heads(s.Narrow(y, 2, 0, l.Width))
		k = heads(s.Narrow(y, 2, l.Width, l.Width))
		v = heads(s.Narrow(y, 2, 2*l.Width, l.Width))
	} else {
		q, k, v = heads(l.query.Apply(s, x)), heads(l.key.Apply(s, x)), heads(l.value.Apply(s, x))
	}
	// Scaling the queries costs T·h products, scaling the logits T·T.
	q = s.MulScalar(q, 1/math.Sqrt(float64(h)))
	if bias != nil {
		bias = s.Reshape(s.Expand(bias, n, l.Heads, 1, t), n*l.Heads, 1, t)
	}
	y := Attention(s, q, k, v, bias) // [N·Heads,T,h]
	y = s.Reshape(s.Transpose(s.Reshape(y, n, l.Heads, t, h), 1, 2), n, t, l.Width)
	return s.Dropout(l.out.Apply(s, y), l.Dropout, train)
}

// chunkBytes bounds one piece of the attention matrix. The C library gives blocks of
// more than 32 MiB back to the system at once, and fetching them anew page by page
// costs more than the arithmetic; smaller ones stay and also fit the caches better.
const chunkBytes = 16 << 20

// Attention is softmax(q·kᵀ + bias)·v for q, k, v [B,T,h], q scaled already, and bias
// [B,1 or T,T] or nil, a few rows of B at a time.
func Attention(s *torchstage.Scope, q, k, v, bias *ts.Tensor) *ts.Tensor {
	b, t := s.Dim(q, 0), s.Dim(q, 1)
	size := max(1, chunkBytes/(4*max(1, t*t)))
	var parts []*ts.Tensor
	for from := int64(0); from < b && s.Err() == nil; from += size {
		count := min(size, b-from)
		parts = append(parts, s.Sub(func(s *torchstage.Scope) *ts.Tensor {
			part := func(x *ts.Tensor) *ts.Tensor {
				if count == b {
					return x
				}
				return s.Narrow(x, 0, from, count)
			}
			logits := s.BMM(part(q), s.Transpose(part(k), 1, 2))
			if bias != nil {
				logits = s.Add(logits, part(bias))
			}
			return s.BMM(s.Softmax(logits, 2), part(v))
		}))
	}
	if len(parts) == 1 {
		return parts[0]
	}
	return s.Cat(parts, 0)
}

func (l *Layer) feed(s *torchstage.Scope, x *ts.Tensor, train bool) *ts.Tensor {
	y := s.Dropout(s.Gelu(l.linear1.Apply(s, x)), l.Dropout, train)
	return s.Dropout(l.linear2.Apply(s, y), l.Dropout, train)
}
