// Package selfattn is the baseline of direct token-wise attention: one transformer
// over the tokens of all modalities together.
package selfattn

import (
	"fmt"

	"github.com/sugarme/gotch/ts"

	"github.com/alignedfusion/alignedfusion/internal/release"
	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/fusion"
	"github.com/alignedfusion/alignedfusion/sdk/fusion/transformer"
	"github.com/alignedfusion/alignedfusion/sdk/ports"
	"github.com/alignedfusion/alignedfusion/sdk/torchstage"
)

type settings struct {
	fusion.FrameSettings
	fusion.AttentionSettings
}

// Manifest describes the plugin.
func Manifest() sdk.Manifest {
	inputs, outputs := fusion.Ports()
	return sdk.Manifest{
		Name: "selfattn", Version: release.Version, License: "Apache-2.0", Runtime: "libtorch", Capabilities: []string{sdk.CapabilityAMP, sdk.CapabilityFP16},
		ModelCard: "Self-attention over the tokens of all modalities together. No pretrained weights.",
		Stages: []sdk.StageManifest{{
			Name: "fusion", Kind: sdk.KindFusion, Trainable: true,
			Summary: "direct token-wise attention: one transformer over all tokens",
			Inputs:  inputs, Outputs: outputs,
			Settings: sdk.SettingsOf(settings{}),
		}},
	}
}

// Plugin is what the plugin's program serves.
func Plugin() sdk.Plugin {
	return sdk.Plugin{Manifest: Manifest(), Open: torchstage.Open(map[string]torchstage.Builder{"fusion": build})}
}

type module struct {
	*fusion.Frame
	layers []*transformer.Layer
}

func build(b *torchstage.Build) (torchstage.Module, error) {
	set, err := sdk.DecodeSettings[settings](b.Request.Settings)
	if err != nil {
		return nil, err
	}
	config, err := set.Layer(set.Width)
	if err != nil {
		return nil, err
	}
	frame, err := fusion.New(b, set.FrameSettings)
	if err != nil {
		return nil, err
	}
	m := &module{Frame: frame}
	for l := range set.Layers {
		m.layers = append(m.layers, transformer.New(b.Params, fmt.Sprintf("layers.%d.joint.", l), config, transformer.TorchNames))
	}
	frame.Norms(b.Params)
	frame.Joint(b, frame.Width)
	return m, frame.LoadWeights(b)
}

// Forward attends over [visual tokens ; report tokens]; joint is the mean of the
// streams' means.
func (m *module) Forward(s *torchstage.Scope, in *torchstage.Inputs) *torchstage.Outputs {
	out := &torchstage.Outputs{Tensors: map[string]*ts.Tensor{}}
	streams := m.Read(s, in)
	if s.Err() != nil {
		return out
	}
	x := s.Cat(streams, 1)
	for _, layer := range m.layers {
		x = layer.Forward(s, x, nil, in.Train)
	}
	out.Tensors[ports.Joint.Name] = m.Finish(s, in, fusion.Split(s, x, streams), out.Tensors)
	return out
}
