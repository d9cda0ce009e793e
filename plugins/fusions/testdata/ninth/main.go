// Command strongest serves a fusion: feature by feature, the strongest of the streams.
package main

import (
	"github.com/sugarme/gotch/ts"

	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/fusion"
	"github.com/alignedfusion/alignedfusion/sdk/ports"
	"github.com/alignedfusion/alignedfusion/sdk/serve"
	"github.com/alignedfusion/alignedfusion/sdk/torchstage"
)

// strongest is h = max_m mean(x_m), added to every token; the projections are the frame's.
type strongest struct{ *fusion.Frame }

func build(b *torchstage.Build) (torchstage.Module, error) {
	set, err := sdk.DecodeSettings[fusion.FrameSettings](b.Request.Settings)
	if err != nil {
		return nil, err
	}
	f, err := fusion.New(b, set)
	if err != nil {
		return nil, err
	}
	f.Norms(b.Params)
	f.Joint(b, f.Width)
	return &strongest{f}, f.LoadWeights(b)
}

func (m *strongest) Forward(s *torchstage.Scope, in *torchstage.Inputs) *torchstage.Outputs {
	out := &torchstage.Outputs{Tensors: map[string]*ts.Tensor{}}
	streams := m.Read(s, in) // [N,T,d] each: the modalities, then the report
	var h *ts.Tensor         // [N,1,d]
	for _, x := range streams {
		mean := s.Mean(x, []int64{1}, true)
		if h != nil {
			mean = s.Add(mean, s.Relu(s.Sub2(h, mean))) // the larger of the two
		}
		h = mean
	}
	for i, x := range streams {
		streams[i] = s.Add(x, h)
	}
	out.Tensors[ports.Joint.Name] = m.Finish(s, in, streams, out.Tensors)
	return out
}

func main() {
	inputs, outputs := fusion.Ports()
	serve.Plugin(sdk.Plugin{
		Manifest: sdk.Manifest{Name: "strongest", Version: "0.1.0", License: "Apache-2.0", Runtime: "libtorch",
			Stages: []sdk.StageManifest{{Name: "fusion", Kind: sdk.KindFusion, Trainable: true, Summary: "the strongest stream, feature by feature",
				Inputs: inputs, Outputs: outputs, Settings: sdk.SettingsOf(fusion.FrameSettings{})}}},
		Open: torchstage.Open(map[string]torchstage.Builder{"fusion": build}),
	})
}
