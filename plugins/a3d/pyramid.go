package a3d

import (
	"fmt"

	"github.com/sugarme/gotch/ts"

	"github.com/alignedfusion/alignedfusion/sdk/torchstage"
)

// pyramid is the one-level feature pyramid: lateral 1x1 convolutions of the three
// maps, added from coarse to fine. Its parameters belong to the encoder; the head
// evaluates it after fusion.
type pyramid struct {
	weight, bias [3]*ts.Tensor // by map, fine to coarse
}

func newPyramid(p *torchstage.Params, c encoderConfig) *pyramid {
	out := &pyramid{}
	for i, channels := range c.channels() {
		name := fmt.Sprintf("%slateral%d.", prefix, i+2)
		out.weight[i] = p.Parameter(name+"weight", []int64{c.pyramid, channels, 1, 1}, torchstage.KaimingUniform(1))
		out.bias[i] = p.Parameter(name+"bias", []int64{c.pyramid}, torchstage.Zeros())
	}
	return out
}

// forward returns the level of stride 4, [N, pyramid, H/4, W/4] in channels-last memory.
func (f *pyramid) forward(s *torchstage.Scope, maps []*ts.Tensor) *ts.Tensor {
	return s.Sub(func(s *torchstage.Scope) *ts.Tensor {
		var out *ts.Tensor
		for i := len(maps) - 1; i >= 0; i-- {
			lateral := s.Conv2d(maps[i], f.weight[i], f.bias[i], 1, 0, 1)
			if out == nil {
				out = lateral
				continue
			}
			shape := s.Shape(lateral)
			if s.Err() != nil {
				return nil
			}
			out = s.Add(s.UpsampleNearest2d(out, shape[2], shape[3]), lateral)
		}
		return s.ChannelsLast(out)
	})
}
