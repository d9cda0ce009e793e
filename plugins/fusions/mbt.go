package fusions

import (
	"fmt"

	"github.com/sugarme/gotch/ts"

	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/fusion"
	"github.com/alignedfusion/alignedfusion/sdk/fusion/transformer"
	"github.com/alignedfusion/alignedfusion/sdk/torchstage"
)

// bottlenecks are the Multimodal Bottleneck Transformer of Nagrani et al. 2021 ("Attention
// Bottlenecks for Multimodal Fusion", sec. 3.3): B tokens z that all streams share are
// the only way from one to another,
//
//	[x_m ; ẑ_m] = Layer_m([x_m ; z]),   z ← mean_m ẑ_m.
//
// The first start_layer layers see their own stream alone. It assumes that little needs to
// pass between streams. itfusion has such tokens for every pair of streams instead.
type bottlenecks struct {
	*fusion.Frame
	shared *ts.Tensor // [B,d]
	start  int
	layers [][]*transformer.Layer // by layer, then stream
}

type bottleneckSettings struct {
	attentionSettings
	Bottlenecks int64 `setting:"bottlenecks" default:"4" min:"1" max:"1024" help:"tokens B that all streams share"`
	StartLayer  int   `setting:"start_layer" default:"1" min:"0" max:"63" help:"first layer with shared tokens; the ones before see their own stream alone"`
}

func bottleneck() entry {
	return place("mbt", "a few tokens shared by all streams are the only way between them", "Nagrani et al. 2021 (MBT).",
		func(b *torchstage.Build, f *fusion.Frame, set bottleneckSettings) (method, error) {
			config, err := set.Layer(f.Width)
			if err != nil {
				return nil, err
			}
			if set.StartLayer >= set.Layers {
				return nil, sdk.RefuseSetting("start_layer", "%d given, want less than layers=%d, or the streams never meet", set.StartLayer, set.Layers)
			}
			m := &bottlenecks{Frame: f, start: set.StartLayer}
			m.shared = b.Params.Parameter("bottlenecks", []int64{set.Bottlenecks, f.Width}, torchstage.Normal(0, 0.02))
			for l := range set.Layers {
				var layer []*transformer.Layer
				for _, stream := range f.Streams() {
					layer = append(layer, transformer.New(b.Params, fmt.Sprintf("layers.%d.%s.", l, stream), config, transformer.TorchNames))
				}
				m.layers = append(m.layers, layer)
			}
			f.Joint(b, f.Width)
			return m, nil
		})
}

func (m *bottlenecks) fuse(s *torchstage.Scope, in *torchstage.Inputs, streams []*ts.Tensor, out *torchstage.Outputs) *ts.Tensor {
	b := s.Dim(m.shared, 0)
	shared := s.Expand(s.Unsqueeze(m.shared, 0), s.Dim(streams[0], 0), b, m.Width)
	for l, layer := range m.layers {
		var copies []*ts.Tensor
		for i, x := range streams {
			if l < m.start {
				streams[i] = layer[i].Forward(s, x, nil, in.Train)
				continue
			}
			t := s.Dim(x, 1)
			y := layer[i].Forward(s, s.Cat([]*ts.Tensor{x, shared}, 1), nil, in.Train)
			streams[i], copies = s.Narrow(y, 1, 0, t), append(copies, s.Narrow(y, 1, t, b))
		}
		if len(copies) > 0 {
			shared = s.Mean(s.Stack(copies, 1), []int64{1}, false)
		}
	}
	return m.Finish(s, in, streams, out.Tensors)
}
