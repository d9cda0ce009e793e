package classifier

import (
	"cmp"
	"strconv"

	"github.com/sugarme/gotch/ts"

	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/torchstage"
)

// batchNorm are the parameters of one batch norm.
type batchNorm struct{ weight, bias, mean, variance *ts.Tensor }

func newBatchNorm(p *torchstage.Params, name string, c int64) batchNorm {
	return batchNorm{
		p.Parameter(name+".weight", []int64{c}, torchstage.Ones()),
		p.Parameter(name+".bias", []int64{c}, torchstage.Zeros()),
		p.Buffer(name+".running_mean", []int64{c}, torchstage.Zeros()),
		p.Buffer(name+".running_var", []int64{c}, torchstage.Ones()),
	}
}

func (n batchNorm) apply(s *torchstage.Scope, x *ts.Tensor, train bool, eps float64) *ts.Tensor {
	return s.BatchNorm(x, n.weight, n.bias, n.mean, n.variance, train, 0.1, eps)
}

// rows lays a map [N,C,…] out as tokens [N,places,C].
func rows(s *torchstage.Scope, x *ts.Tensor) *ts.Tensor {
	n, c := s.Dim(x, 0), s.Dim(x, 1)
	return s.Contiguous(s.Transpose(s.Reshape(x, n, c, -1), 1, 2))
}

// conv is a small residual network to train from scratch, in two dimensions or in three: every
// block halves the map and doubles the channels.
type conv struct {
	blocks []convBlock
	width  int64
	deep   bool // three dimensions
}

type convBlock struct {
	conv1, conv2, short *ts.Tensor
	norm1, norm2        batchNorm
}

// newConv declares a network for pictures [N,3,H,W] or, deep, for volumes [N,1,D,H,W].
func newConv(p *torchstage.Params, width, layers int64, deep bool) (*conv, error) {
	width, layers = cmp.Or(width, 32), cmp.Or(layers, 4)
	if layers > 8 {
		return nil, sdk.RefuseSetting("layers", "%d given, want at most 8 with kind=conv or conv3d: each layer doubles the channels", layers)
	}
	net := &conv{width: width, deep: deep}
	in, three, one := int64(3), []int64{3, 3}, []int64{1, 1}
	if deep {
		in, three, one = 1, []int64{3, 3, 3}, []int64{1, 1, 1}
	}
	kernel := func(out, in int64, sides []int64) []int64 { return append([]int64{out, in}, sides...) }
	for i := range int(layers) {
		out := width << i
		name := "blocks." + strconv.Itoa(i)
		net.blocks = append(net.blocks, convBlock{
			conv1: p.Parameter(name+".conv1.weight", kernel(out, in, three), torchstage.KaimingNormal(true)),
			norm1: newBatchNorm(p, name+".norm1", out),
			conv2: p.Parameter(name+".conv2.weight", kernel(out, out, three), torchstage.KaimingNormal(true)),
			norm2: newBatchNorm(p, name+".norm2", out),
			short: p.Parameter(name+".short.weight", kernel(out, in, one), torchstage.KaimingNormal(true)),
		})
		in = out
	}
	return net, nil
}

func (c *conv) forward(s *torchstage.Scope, x *ts.Tensor, train bool) *ts.Tensor {
	const eps = 1e-5
	x = s.AddScalar(s.MulScalar(x, 2), -1)
	if !c.deep {
		x = s.ChannelsLast(x)
	}
	for _, b := range c.blocks {
		x = s.Sub(func(s *torchstage.Scope) *ts.Tensor {
			y := s.Relu(b.norm1.apply(s, c.convolve(s, x, b.conv1, 2, 1), train, eps))
			y = b.norm2.apply(s, c.convolve(s, y, b.conv2, 1, 1), train, eps)
			return s.Relu(s.Add(y, c.convolve(s, x, b.short, 2, 0)))
		})
	}
	return x
}

func (c *conv) convolve(s *torchstage.Scope, x, weight *ts.Tensor, stride, padding int64) *ts.Tensor {
	if c.deep {
		return s.Conv3d(x, weight, nil, cube(stride), cube(padding), 1)
	}
	return s.Conv2d(x, weight, nil, stride, padding, 1)
}

// cube is the same number along slices, rows and columns.
func cube(v int64) []int64 { return []int64{v, v, v} }

func (c *conv) tokens(size, pool int64) (t, channels int64) {
	for range c.blocks {
		size = (size + 1) / 2
	}
	return (size / pool) * (size / pool), c.width << (len(c.blocks) - 1)
}

func (c *conv) load() torchstage.LoadOptions { return torchstage.LoadOptions{} }
