package classifier

import (
	"strconv"

	"github.com/sugarme/gotch/ts"

	"github.com/alignedfusion/alignedfusion/sdk/torchstage"
)

// darknet is the trunk of Darknet-tiny (J. Redmon): 14 convolutions without bias,
// each with batch norm and a leaky rectifier, and 4 max-pools: 224² gives 14² tokens
// of size 512. The classifier of the original (convolutions 15 and 16) is left out.
type darknet struct{ layers []darknetLayer }

type darknetLayer struct {
	weight *ts.Tensor
	norm   batchNorm
	pad    int64
	pool   bool // 2x2 max-pool behind it
}

// darknetPlan lists output channels, kernel side and whether a pool follows.
var darknetPlan = []struct {
	out, kernel int64
	pool        bool
}{
	{16, 3, true}, {32, 3, true}, {16, 1, false}, {128, 3, false}, {16, 1, false}, {128, 3, true}, {32, 1, false},
	{256, 3, false}, {32, 1, false}, {256, 3, true}, {64, 1, false}, {512, 3, false}, {64, 1, false}, {512, 3, false},
}

func newDarknet(p *torchstage.Params) *darknet {
	d := &darknet{}
	in := int64(3)
	for i, l := range darknetPlan {
		n := strconv.Itoa(i + 1)
		d.layers = append(d.layers, darknetLayer{
			weight: p.Parameter("conv"+n+".weight", []int64{l.out, in, l.kernel, l.kernel}, torchstage.KaimingNormal(true)),
			norm:   newBatchNorm(p, "bn"+n, l.out),
			pad:    l.kernel / 2, pool: l.pool,
		})
		in = l.out
	}
	return d
}

func (d *darknet) forward(s *torchstage.Scope, x *ts.Tensor, train bool) *ts.Tensor {
	x = s.ChannelsLast(x)
	for _, l := range d.layers {
		x = s.Sub(func(s *torchstage.Scope) *ts.Tensor {
			y := s.LeakyRelu(l.norm.apply(s, s.Conv2d(x, l.weight, nil, 1, l.pad, 1), train, 1e-3), 0.1)
			if l.pool {
				y = s.MaxPool2d(y, 2, 2, 0)
			}
			return y
		})
	}
	return x
}

func (d *darknet) tokens(size, pool int64) (t, c int64) {
	side := size / 16 / pool
	return side * side, 512
}

func (d *darknet) load() torchstage.LoadOptions {
	return torchstage.LoadOptions{Ignore: []string{"conv15.*", "bn15.*", "conv16.*"}}
}
