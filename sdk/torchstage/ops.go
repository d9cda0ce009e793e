package torchstage

import (
	"math"

	"github.com/sugarme/gotch"
	"github.com/sugarme/gotch/ts"

	"github.com/alignedfusion/alignedfusion/sdk"
)

// opt replaces nil by libtorch's "no tensor".
func opt(t *ts.Tensor) *ts.Tensor {
	if t == nil {
		return ts.None
	}
	return t
}

// scalar runs f with a libtorch scalar and frees it.
func (s *Scope) scalar(op string, v float64, f func(c *ts.Scalar) (*ts.Tensor, error)) *ts.Tensor {
	return s.Do(op, func() (*ts.Tensor, error) {
		c := ts.FloatScalar(v)
		defer func() { _ = c.Drop() }()
		return f(c)
	})
}

// Add returns x + y, broadcast.
func (s *Scope) Add(x, y *ts.Tensor) *ts.Tensor {
	return s.Do("add", func() (*ts.Tensor, error) { return x.Add(y, false) })
}

// Sub2 returns x - y, broadcast.
func (s *Scope) Sub2(x, y *ts.Tensor) *ts.Tensor {
	return s.Do("sub", func() (*ts.Tensor, error) { return x.Sub(y, false) })
}

// Mul returns x * y, broadcast.
func (s *Scope) Mul(x, y *ts.Tensor) *ts.Tensor {
	return s.Do("mul", func() (*ts.Tensor, error) { return x.Mul(y, false) })
}

// Div returns x / y, broadcast.
func (s *Scope) Div(x, y *ts.Tensor) *ts.Tensor {
	return s.Do("div", func() (*ts.Tensor, error) { return x.Div(y, false) })
}

// AddScalar returns x + v.
func (s *Scope) AddScalar(x *ts.Tensor, v float64) *ts.Tensor {
	return s.scalar("add", v, func(c *ts.Scalar) (*ts.Tensor, error) { return x.AddScalar(c, false) })
}

// MulScalar returns x * v.
func (s *Scope) MulScalar(x *ts.Tensor, v float64) *ts.Tensor {
	return s.scalar("mul", v, func(c *ts.Scalar) (*ts.Tensor, error) { return x.MulScalar(c, false) })
}

// Neg is -x.
func (s *Scope) Neg(x *ts.Tensor) *ts.Tensor { return s.MulScalar(x, -1) }

// Maximum is the larger of x and y, broadcast.
func (s *Scope) Maximum(x, y *ts.Tensor) *ts.Tensor {
	return s.Do("maximum", func() (*ts.Tensor, error) { return x.Maximum(y, false) })
}

// Minimum is the smaller of x and y, broadcast.
func (s *Scope) Minimum(x, y *ts.Tensor) *ts.Tensor { return s.Neg(s.Maximum(s.Neg(x), s.Neg(y))) }

// Abs is |x|; its gradient at 0 is 0.
func (s *Scope) Abs(x *ts.Tensor) *ts.Tensor { return s.Maximum(x, s.Neg(x)) }

// Sqrt is the square root; NaN below 0.
func (s *Scope) Sqrt(x *ts.Tensor) *ts.Tensor {
	x = s.full(x)
	return s.Do("sqrt", func() (*ts.Tensor, error) { return x.Sqrt(false) })
}

// Pow is x to the power of v. Of x <= 0 only whole and half powers have a gradient, and of
// x < 0 only whole ones a value.
func (s *Scope) Pow(x *ts.Tensor, v float64) *ts.Tensor {
	x = s.full(x)
	whole, rest := math.Modf(math.Abs(v))
	var out *ts.Tensor
	times := func(y *ts.Tensor) {
		if out == nil {
			out = y
		} else {
			out = s.Mul(out, y)
		}
	}
	switch {
	case rest == 0.5:
		times(s.Sqrt(x))
	case rest != 0 || whole > 1<<30:
		return s.Exp(s.MulScalar(s.Log(x), v))
	}
	for square, n := x, int(whole); n > 0; n >>= 1 {
		if n&1 == 1 {
			times(square)
		}
		if n > 1 {
			square = s.Mul(square, square)
		}
	}
	ones := s.AddScalar(s.MulScalar(x, 0), 1)
	switch {
	case out == nil:
		return ones
	case v < 0:
		return s.Div(ones, out)
	}
	return s.MulScalar(out, 1) // never x itself
}

// MatMul is torch.matmul.
func (s *Scope) MatMul(x, y *ts.Tensor) *ts.Tensor {
	return s.Do("matmul", func() (*ts.Tensor, error) { return x.Matmul(y, false) })
}

// BMM multiplies [B,n,m] by [B,m,p].
func (s *Scope) BMM(x, y *ts.Tensor) *ts.Tensor {
	return s.Do("bmm", func() (*ts.Tensor, error) { return x.Bmm(y, false) })
}

// Linear returns x w^T + b; w is [out, in], b may be nil.
func (s *Scope) Linear(x, w, b *ts.Tensor) *ts.Tensor {
	return s.Do("linear", func() (*ts.Tensor, error) { return ts.Linear(x, w, opt(b)) })
}

func pair(v int64) []int64 { return []int64{v, v} }

// Conv2d convolves [N,C,H,W] with w [out, C/groups, k, k]; b may be nil.
func (s *Scope) Conv2d(x, w, b *ts.Tensor, stride, padding, groups int64) *ts.Tensor {
	// A strided 1x1 convolution sees every stride-th pixel only. Taking these first is
	// equal, and keeps clear of a crash: oneDNN 2.7 (Debian 12) segfaults in the
	// backward pass of a strided 1x1 convolution of three channels-last channels.
	if stride > 1 && padding == 0 && s.Dim(w, 2) == 1 && s.Dim(w, 3) == 1 {
		for _, dim := range []int64{2, 3} {
			in := x
			x = s.Do("slice", func() (*ts.Tensor, error) { return in.Slice(dim, nil, nil, stride, false) })
		}
		stride = 1
	}
	return s.Do("conv2d", func() (*ts.Tensor, error) {
		return ts.Conv2d(x, w, opt(b), pair(stride), pair(padding), pair(1), groups)
	})
}

// Conv3d convolves [N,C,D,H,W] with w [out, C/groups, kd, kh, kw]; b may be nil.
func (s *Scope) Conv3d(x, w, b *ts.Tensor, stride, padding []int64, groups int64) *ts.Tensor {
	return s.Do("conv3d", func() (*ts.Tensor, error) {
		return ts.Conv3d(x, w, opt(b), stride, padding, []int64{1, 1, 1}, groups)
	})
}

// ConvTranspose2d is the transposed convolution with w [in, out/groups, k, k].
func (s *Scope) ConvTranspose2d(x, w, b *ts.Tensor, stride, padding int64) *ts.Tensor {
	return s.Do("conv_transpose2d", func() (*ts.Tensor, error) {
		return ts.ConvTranspose2d(x, w, opt(b), pair(stride), pair(padding), pair(0), 1, pair(1))
	})
}

// BatchNorm normalises over all but dimension 1. In training mode it uses the
// batch's statistics and updates mean and variance in place, unless the stage is frozen. A
// batch is that of all processes where the host asks for it (sdk.JoinRequest.SyncBatchNorm).
func (s *Scope) BatchNorm(x, w, b, mean, variance *ts.Tensor, train bool, momentum, eps float64) *ts.Tensor {
	x = s.full(x)
	return s.Do("batch_norm", func() (*ts.Tensor, error) {
		if train && s.SyncBatchNorm() {
			return s.peers.norm(x, w, b, mean, variance, momentum, eps)
		}
		return ts.BatchNorm(x, opt(w), opt(b), opt(mean), opt(variance), train && !s.frozen, momentum, eps, true)
	})
}

// FoldNorm is the weight and the bias of a convolution with the inference of a BatchNorm behind
// it, where it has the weight given and no bias: one pass over the map instead of two.
func (s *Scope) FoldNorm(weight, w, b, mean, variance *ts.Tensor, eps float64) (folded, bias *ts.Tensor) {
	scale := s.Mul(w, s.Do("rsqrt", func() (*ts.Tensor, error) { return s.AddScalar(variance, eps).Rsqrt(false) }))
	shape := s.Shape(scale)
	for range len(s.Shape(weight)) - len(shape) {
		shape = append(shape, 1)
	}
	return s.Mul(weight, s.Reshape(scale, shape...)), s.Sub2(b, s.Mul(mean, scale))
}

// LayerNorm normalises over the trailing dimensions shape.
func (s *Scope) LayerNorm(x *ts.Tensor, shape []int64, w, b *ts.Tensor, eps float64) *ts.Tensor {
	x = s.full(x)
	return s.Do("layer_norm", func() (*ts.Tensor, error) { return ts.LayerNorm(x, shape, opt(w), opt(b), eps, true) })
}

// GroupNorm normalises groups of channels.
func (s *Scope) GroupNorm(x *ts.Tensor, groups int64, w, b *ts.Tensor, eps float64) *ts.Tensor {
	x = s.full(x)
	return s.Do("group_norm", func() (*ts.Tensor, error) { return ts.GroupNorm(x, groups, opt(w), opt(b), eps, true) })
}

// Relu is max(x, 0).
func (s *Scope) Relu(x *ts.Tensor) *ts.Tensor {
	return s.Do("relu", func() (*ts.Tensor, error) { return x.Relu(false) })
}

// LeakyRelu is x for x > 0, slope*x otherwise (0 <= slope <= 1).
func (s *Scope) LeakyRelu(x *ts.Tensor, slope float64) *ts.Tensor {
	scaled := s.MulScalar(x, slope)
	return s.Do("leaky_relu", func() (*ts.Tensor, error) { return x.Maximum(scaled, false) })
}

// Gelu is the exact (erf) GELU.
func (s *Scope) Gelu(x *ts.Tensor) *ts.Tensor {
	return s.Do("gelu", func() (*ts.Tensor, error) { return x.Gelu("none", false) })
}

// Sigmoid is the logistic function.
func (s *Scope) Sigmoid(x *ts.Tensor) *ts.Tensor {
	return s.Do("sigmoid", func() (*ts.Tensor, error) { return x.Sigmoid(false) })
}

// Tanh is the hyperbolic tangent.
func (s *Scope) Tanh(x *ts.Tensor) *ts.Tensor {
	return s.Do("tanh", func() (*ts.Tensor, error) { return x.Tanh(false) })
}

// Exp is e^x.
func (s *Scope) Exp(x *ts.Tensor) *ts.Tensor {
	x = s.full(x)
	return s.Do("exp", func() (*ts.Tensor, error) { return x.Exp(false) })
}

// Log is the natural logarithm.
func (s *Scope) Log(x *ts.Tensor) *ts.Tensor {
	x = s.full(x)
	return s.Do("log", func() (*ts.Tensor, error) { return x.Log(false) })
}

// Softmax over dimension dim.
func (s *Scope) Softmax(x *ts.Tensor, dim int64) *ts.Tensor {
	x = s.full(x)
	return s.Do("softmax", func() (*ts.Tensor, error) { return x.Softmax(dim, x.DType(), false) })
}

// LogSoftmax over dimension dim.
func (s *Scope) LogSoftmax(x *ts.Tensor, dim int64) *ts.Tensor {
	x = s.full(x)
	return s.Do("log_softmax", func() (*ts.Tensor, error) { return x.LogSoftmax(dim, x.DType(), false) })
}

// Dropout zeroes elements with probability p in training mode and scales the rest.
func (s *Scope) Dropout(x *ts.Tensor, p float64, train bool) *ts.Tensor {
	if !train || p == 0 {
		return x
	}
	return s.Do("dropout", func() (*ts.Tensor, error) { return ts.Dropout(x, p, true) })
}

// MaxPool2d pools k x k windows.
func (s *Scope) MaxPool2d(x *ts.Tensor, kernel, stride, padding int64) *ts.Tensor {
	return s.Do("max_pool2d", func() (*ts.Tensor, error) {
		return x.MaxPool2d(pair(kernel), pair(stride), pair(padding), pair(1), false, false)
	})
}

// AvgPool2d averages k x k windows.
func (s *Scope) AvgPool2d(x *ts.Tensor, kernel, stride int64) *ts.Tensor {
	return s.Do("avg_pool2d", func() (*ts.Tensor, error) {
		return x.AvgPool2d(pair(kernel), pair(stride), pair(0), false, true, nil, false)
	})
}

// AdaptiveAvgPool2d averages to a map of h x w.
func (s *Scope) AdaptiveAvgPool2d(x *ts.Tensor, h, w int64) *ts.Tensor {
	return s.Do("adaptive_avg_pool2d", func() (*ts.Tensor, error) { return x.AdaptiveAvgPool2d([]int64{h, w}, false) })
}

// UpsampleNearest2d enlarges to h x w by repetition.
func (s *Scope) UpsampleNearest2d(x *ts.Tensor, h, w int64) *ts.Tensor {
	return s.Do("upsample_nearest2d", func() (*ts.Tensor, error) { return x.UpsampleNearest2d([]int64{h, w}, nil, nil, false) })
}

// Mean over dims.
func (s *Scope) Mean(x *ts.Tensor, dims []int64, keep bool) *ts.Tensor {
	x = s.full(x)
	return s.Do("mean", func() (*ts.Tensor, error) { return x.MeanDim(dims, keep, x.DType(), false) })
}

// Sum over dims; over everything without dims.
func (s *Scope) Sum(x *ts.Tensor, dims []int64, keep bool) *ts.Tensor {
	x = s.full(x)
	if len(dims) == 0 {
		return s.Do("sum", func() (*ts.Tensor, error) { return x.Sum(x.DType(), false) })
	}
	return s.Do("sum", func() (*ts.Tensor, error) { return x.SumDimIntlist(dims, keep, x.DType(), false) })
}

// Cat joins along dim.
func (s *Scope) Cat(xs []*ts.Tensor, dim int64) *ts.Tensor {
	return s.Do("cat", func() (*ts.Tensor, error) { return ts.Cat(xs, dim) })
}

// Stack joins along a new dimension dim.
func (s *Scope) Stack(xs []*ts.Tensor, dim int64) *ts.Tensor {
	return s.Do("stack", func() (*ts.Tensor, error) { return ts.Stack(xs, dim) })
}

// Reshape gives x another shape; one size may be -1.
func (s *Scope) Reshape(x *ts.Tensor, shape ...int64) *ts.Tensor {
	return s.Do("reshape", func() (*ts.Tensor, error) { return x.Reshape(shape, false) })
}

// Permute reorders dimensions.
func (s *Scope) Permute(x *ts.Tensor, dims ...int64) *ts.Tensor {
	return s.Do("permute", func() (*ts.Tensor, error) { return x.Permute(dims, false) })
}

// Transpose swaps two dimensions.
func (s *Scope) Transpose(x *ts.Tensor, a, b int64) *ts.Tensor {
	return s.Do("transpose", func() (*ts.Tensor, error) { return x.Transpose(a, b, false) })
}

// Contiguous copies x to row-major order if it is not.
func (s *Scope) Contiguous(x *ts.Tensor) *ts.Tensor {
	return s.Do("contiguous", func() (*ts.Tensor, error) { return x.Contiguous(false) })
}

// ChannelsLast lays [N,C,H,W] out as N,H,W,C in memory without changing its shape.
func (s *Scope) ChannelsLast(x *ts.Tensor) *ts.Tensor {
	return s.Permute(s.Contiguous(s.Permute(x, 0, 2, 3, 1)), 0, 3, 1, 2)
}

// Narrow is the slice [start, start+length) of dimension dim.
func (s *Scope) Narrow(x *ts.Tensor, dim, start, length int64) *ts.Tensor {
	return s.Do("narrow", func() (*ts.Tensor, error) { return x.Narrow(dim, start, length, false) })
}

// Select takes index i of dimension dim and removes the dimension.
func (s *Scope) Select(x *ts.Tensor, dim, i int64) *ts.Tensor {
	return s.Do("select", func() (*ts.Tensor, error) { return x.Select(dim, i, false) })
}

// IndexSelect takes the INT64 indices of dimension dim.
func (s *Scope) IndexSelect(x *ts.Tensor, dim int64, index *ts.Tensor) *ts.Tensor {
	return s.Do("index_select", func() (*ts.Tensor, error) { return x.IndexSelect(dim, index, false) })
}

// Gather is torch.gather.
func (s *Scope) Gather(x *ts.Tensor, dim int64, index *ts.Tensor) *ts.Tensor {
	return s.Do("gather", func() (*ts.Tensor, error) { return x.Gather(dim, index, false, false) })
}

// Unsqueeze inserts a dimension of size 1.
func (s *Scope) Unsqueeze(x *ts.Tensor, dim int64) *ts.Tensor {
	return s.Do("unsqueeze", func() (*ts.Tensor, error) { return x.Unsqueeze(dim, false) })
}

// Squeeze removes dimension dim of size 1.
func (s *Scope) Squeeze(x *ts.Tensor, dim int64) *ts.Tensor {
	return s.Do("squeeze", func() (*ts.Tensor, error) { return x.SqueezeDim(dim, false) })
}

// Expand repeats size-1 dimensions without copying.
func (s *Scope) Expand(x *ts.Tensor, shape ...int64) *ts.Tensor {
	return s.Do("expand", func() (*ts.Tensor, error) { return x.Expand(shape, false, false) })
}

// Where takes x where condition holds, y elsewhere.
func (s *Scope) Where(condition, x, y *ts.Tensor) *ts.Tensor {
	return s.Do("where", func() (*ts.Tensor, error) { return x.WhereSelf(condition, y, false) })
}

// Clamp limits x to [low, high].
func (s *Scope) Clamp(x *ts.Tensor, low, high float64) *ts.Tensor {
	return s.Do("clamp", func() (*ts.Tensor, error) {
		a, b := ts.FloatScalar(low), ts.FloatScalar(high)
		defer func() { _ = a.Drop(); _ = b.Drop() }()
		return x.Clamp(a, b, false)
	})
}

// Flip reverses dims.
func (s *Scope) Flip(x *ts.Tensor, dims ...int64) *ts.Tensor {
	return s.Do("flip", func() (*ts.Tensor, error) { return x.Flip(dims, false) })
}

// Roll shifts dims cyclically.
func (s *Scope) Roll(x *ts.Tensor, shifts, dims []int64) *ts.Tensor {
	return s.Do("roll", func() (*ts.Tensor, error) { return x.Roll(shifts, dims, false) })
}

// Pad adds zeros, in torch's order: last dimension first, before and after.
func (s *Scope) Pad(x *ts.Tensor, pads ...int64) *ts.Tensor {
	return s.Do("pad", func() (*ts.Tensor, error) { return x.ConstantPadNd(pads, false) })
}

// Embedding looks up rows of w.
func (s *Scope) Embedding(w, index *ts.Tensor) *ts.Tensor {
	return s.Do("embedding", func() (*ts.Tensor, error) { return ts.Embedding(w, index, -1, false, false) })
}

// EmbeddingBag returns, for each bag, the weighted sum of rows of w: indices INT64
// [n], offsets INT64 [bags], weights [n].
func (s *Scope) EmbeddingBag(w, indices, offsets, weights *ts.Tensor) *ts.Tensor {
	return s.Do("embedding_bag", func() (*ts.Tensor, error) {
		const sum = 0
		out, a, b, c, err := ts.EmbeddingBag(w, indices, offsets, false, sum, false, opt(weights), false)
		for _, t := range []*ts.Tensor{a, b, c} {
			if t != nil {
				_ = t.Drop()
			}
		}
		return out, err
	})
}

// CrossEntropy is the mean cross-entropy of logits [N,K] and INT64 targets [N];
// weight [K] may be nil, targets equal to ignore do not count.
func (s *Scope) CrossEntropy(logits, target, weight *ts.Tensor, ignore int64, smoothing float64) *ts.Tensor {
	logits = s.full(logits)
	return s.Do("cross_entropy", func() (*ts.Tensor, error) {
		return logits.CrossEntropyLoss(target, opt(weight), ts.ReductionMean, ignore, smoothing, false)
	})
}

// BCEWithLogits is the element-wise binary cross-entropy (no reduction).
func (s *Scope) BCEWithLogits(logits, target *ts.Tensor) *ts.Tensor {
	logits = s.full(logits)
	return s.Do("binary_cross_entropy_with_logits", func() (*ts.Tensor, error) {
		return logits.BinaryCrossEntropyWithLogits(target, ts.None, ts.None, ts.ReductionNone, false)
	})
}

// SmoothL1 is the element-wise smooth L1 loss (no reduction).
func (s *Scope) SmoothL1(x, target *ts.Tensor, beta float64) *ts.Tensor {
	x = s.full(x)
	return s.Do("smooth_l1", func() (*ts.Tensor, error) { return x.SmoothL1Loss(target, ts.ReductionNone, beta, false) })
}

// Detach cuts x from the graph; memory is shared.
func (s *Scope) Detach(x *ts.Tensor) *ts.Tensor {
	return s.Do("detach", func() (*ts.Tensor, error) { return x.Detach(false) })
}

// Leaf cuts x from the graph and makes autograd collect its gradient.
func (s *Scope) Leaf(x *ts.Tensor) *ts.Tensor {
	leaf := s.Detach(x)
	s.Act("requires_grad", func() error { return leaf.RequiresGrad_(true) })
	return leaf
}

// full is x in single precision where amp has made it less: sums, normalizations, softmax and
// losses need it.
func (s *Scope) full(x *ts.Tensor) *ts.Tensor {
	if !s.amp || s.err != nil {
		return x
	}
	if d := x.DType(); d != gotch.BFloat16 && d != gotch.Half {
		return x
	}
	return s.Cast(x, gotch.Float)
}

// Cast converts to another dtype.
func (s *Scope) Cast(x *ts.Tensor, dtype gotch.DType) *ts.Tensor {
	return s.Do("to", func() (*ts.Tensor, error) { return x.Totype(dtype, false) })
}

// To moves x to a device. From the host's memory to a GPU it does not wait: the copy is done in
// turn, and CUDA has taken the values when it returns, or holds the pinned memory until it has.
func (s *Scope) To(x *ts.Tensor, device gotch.Device) *ts.Tensor {
	return s.Do("to", func() (*ts.Tensor, error) {
		if device.Name == gotch.CPU.Name {
			return x.To(device, false)
		}
		return x.ToDtypeLayout(x.DType(), device, s.onCPU(x), false, false)
	})
}

func (s *Scope) onCPU(x *ts.Tensor) bool {
	where, err := x.Device()
	return err == nil && where.Name == gotch.CPU.Name
}

// Zeros makes a float tensor of zeros.
func (s *Scope) Zeros(device gotch.Device, shape ...int64) *ts.Tensor {
	return s.Do("zeros", func() (*ts.Tensor, error) { return ts.Zeros(shape, gotch.Float, device) })
}

// Full makes a float tensor of one value.
func (s *Scope) Full(device gotch.Device, v float64, shape ...int64) *ts.Tensor {
	return s.scalar("full", v, func(c *ts.Scalar) (*ts.Tensor, error) { return ts.Full(shape, c, gotch.Float, device) })
}

// Attention is softmax(q k^T / sqrt(d)) v for [B,heads,T,d]; p is the dropout of the
// attention weights in training mode.
func (s *Scope) Attention(q, k, v *ts.Tensor, p float64, train bool) *ts.Tensor {
	return s.Sub(func(s *Scope) *ts.Tensor {
		d := s.Dim(q, -1)
		if d == 0 {
			s.Failf(sdk.Internal, "attention over zero-width heads")
		}
		scores := s.MatMul(s.MulScalar(q, 1/math.Sqrt(float64(d))), s.Transpose(k, -2, -1))
		return s.MatMul(s.Dropout(s.Softmax(scores, -1), p, train), v)
	})
}
