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

// rows lays a map [N,C,H,W] out as tokens [N,H·W,C].
func rows(s *torchstage.Scope, x *ts.Tensor) *ts.Tensor {
	n, c := s.Dim(x, 0), s.Dim(x, 1)
	return s.Contiguous(s.Transpose(s.Reshape(x, n, c, -1), 1, 2))
}

// conv is a small residual network to train from scratch: every block halves the
// map and doubles the channels.
type conv struct {
	blocks []convBlock
	width  int64
}

type convBlock struct {
	conv1, conv2, short *ts.Tensor
	norm1, norm2        batchNorm
}

func newConv(p *torchstage.Params, width, layers int64) (*conv, error) {
	width, layers = cmp.Or(width, 32), cmp.Or(layers, 4)
	if layers > 8 {
		return nil, sdk.RefuseSetting("layers", "%d given, want at most 8 with kind=conv: each layer doubles the channels", layers)
	}
	net := &conv{width: width}
	in := int64(3)
	for i := range int(layers) {
		out := width << i
		name := "blocks." + strconv.Itoa(i)
		net.blocks = append(net.blocks, convBlock{
			conv1: p.Parameter(name+".conv1.weight", []int64{out, in, 3, 3}, torchstage.KaimingNormal(true)),
			norm1: newBatchNorm(p, name+".norm1", out),
			conv2: p.Parameter(name+".conv2.weight", []int64{out, out, 3, 3}, torchstage.KaimingNormal(true)),
			norm2: newBatchNorm(p, name+".norm2", out),
			short: p.Parameter(name+".short.weight", []int64{out, in, 1, 1}, torchstage.KaimingNormal(true)),
		})
		in = out
	}
	return net, nil
}

func (c *conv) forward(s *torchstage.Scope, x *ts.Tensor, train bool) *ts.Tensor {
	const eps = 1e-5
	x = s.ChannelsLast(s.AddScalar(s.MulScalar(x, 2), -1))
	for _, b := range c.blocks {
		x = s.Sub(func(s *torchstage.Scope) *ts.Tensor {
			y := s.Relu(b.norm1.apply(s, s.Conv2d(x, b.conv1, nil, 2, 1, 1), train, eps))
			y = b.norm2.apply(s, s.Conv2d(y, b.conv2, nil, 1, 1, 1), train, eps)
			return s.Relu(s.Add(y, s.Conv2d(x, b.short, nil, 2, 0, 1)))
		})
	}
	return x
}

func (c *conv) tokens(size, pool int64) (t, channels int64) {
	for range c.blocks {
		size = (size + 1) / 2
	}
	return (size / pool) * (size / pool), c.width << (len(c.blocks) - 1)
}

func (c *conv) load() torchstage.LoadOptions { return torchstage.LoadOptions{} }
