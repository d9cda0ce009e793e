// Package sum is the baseline that adds the mean report token onto every visual
// token: fusion without attention.
package sum

import (
	"github.com/sugarme/gotch/ts"

	"github.com/alignedfusion/alignedfusion/internal/release"
	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/fusion"
	"github.com/alignedfusion/alignedfusion/sdk/ports"
	"github.com/alignedfusion/alignedfusion/sdk/torchstage"
)

// Manifest describes the plugin.
func Manifest() sdk.Manifest {
	inputs, outputs := fusion.Ports()
	return sdk.Manifest{
		Name: "sum", Version: release.Version, License: "Apache-2.0", Runtime: "libtorch", Capabilities: []string{sdk.CapabilityAMP, sdk.CapabilityFP16},
		ModelCard: "Element-wise sum of the mean report token and every visual token. No pretrained weights.",
		Stages: []sdk.StageManifest{{
			Name: "fusion", Kind: sdk.KindFusion, Trainable: true,
			Summary: "element-wise sum of the mean report token and every visual token",
			Inputs:  inputs, Outputs: outputs, Settings: sdk.SettingsOf(fusion.FrameSettings{}),
		}},
	}
}

// Plugin is what the plugin's program serves.
func Plugin() sdk.Plugin {
	return sdk.Plugin{Manifest: Manifest(), Open: torchstage.Open(map[string]torchstage.Builder{"fusion": build})}
}

type module struct{ *fusion.Frame }

func build(b *torchstage.Build) (torchstage.Module, error) {
	set, err := sdk.DecodeSettings[fusion.FrameSettings](b.Request.Settings)
	if err != nil {
		return nil, err
	}
	frame, err := fusion.New(b, set)
	if err != nil {
		return nil, err
	}
	frame.Norms(b.Params)
	frame.Joint(b, frame.Width)
	return &module{frame}, frame.LoadWeights(b)
}

// Forward gives v_t + mean_i(r_i) for every visual token v_t; joint is the mean of
// the streams' means.
func (m *module) Forward(s *torchstage.Scope, in *torchstage.Inputs) *torchstage.Outputs {
	out := &torchstage.Outputs{Tensors: map[string]*ts.Tensor{}}
	var means []*ts.Tensor
	var summary *ts.Tensor // [N,1,d]
	if len(m.Attributes) > 0 {
		cells := m.Cells(s, in)
		if s.Err() != nil {
			return out
		}
		tokens := m.Normalize(s, fusion.Report, m.Tokens(s, cells, m.Hidden(s, cells, nil)))
		summary = s.Mean(tokens, []int64{1}, true)
		out.Tensors[ports.TokensReport.Name] = tokens
		means = append(means, s.Mean(tokens, []int64{1}, false))
	}
	for _, mod := range m.Modalities {
		x := m.Normalize(s, mod.Name, m.Visual(s, in, mod.Name))
		means = append(means, s.Mean(x, []int64{1}, false))
		if summary != nil {
			x = s.Add(x, summary)
		}
		out.Tensors[ports.Tokens.Of(mod.Name).Name] = m.Back(s, in, mod.Name, x)
	}
	out.Tensors[ports.Joint.Name] = s.Mean(s.Stack(means, 1), []int64{1}, false)
	return out
}
