// Package itfusion is AlignedFusion's own fusion stage: intermediate-token fusion
// of any number of modalities (Eq. 6-8) with masked and missed token
// reconstruction (Eq. 9-10).
package itfusion

import (
	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/fusion"
	"github.com/alignedfusion/alignedfusion/sdk/ports"
	"github.com/alignedfusion/alignedfusion/sdk/torchstage"
)

// Settings of the stage. The defaults are the method's.
func settings() []sdk.Setting {
	own := []sdk.Setting{
		{Name: "intermediate", Type: "bool", Default: "true", Help: "false: one self-attention over all tokens of all modalities (ablation without intermediate token)"},
		{Name: "tokens_per_pair", Type: "int", Default: "1", Min: fusion.Limit(1), Max: fusion.Limit(1024), Help: "intermediate tokens B per pair of modalities; 4 is the bottleneck attention of MBT"},
		{Name: "share_weights", Type: "bool", Default: "false", Help: "one set of layers for all modalities"},
		{Name: "start_layer", Type: "int", Default: "0", Min: fusion.Limit(0), Max: fusion.Limit(63), Help: "first layer with intermediate tokens; the ones before see their own modality only"},
		{Name: "mask_probability", Type: "float", Default: "0.3", Min: fusion.Limit(0), Max: fusion.Limit(1), Help: "probability p with which a known attribute is masked in training (Eq. 9)"},
		{Name: "mask_spread", Type: "bool", Default: "false", Help: "draw each case's own p uniformly between 0 and 2p: for reports that differ in how much they leave out"},
		{Name: "reconstruct", Type: "bool", Default: "true", Help: "false: no reconstruction network and no l_rec; masking stays a matter of mask_probability"},
		{Name: "temperature", Type: "float", Default: "0.07", Min: fusion.Limit(1e-3), Max: fusion.Limit(100), Help: "tau of the reconstruction's logits"},
		{Name: "two_pass", Type: "bool", Default: "false", Help: "fill in the reconstructed tokens and run the attention again"},
		{Name: "stop_gradient", Type: "bool", Default: "false", Help: "keep the downstream loss out of the reconstruction network"},
		{Name: "ordinal_smoothing", Type: "float", Default: "0.1", Min: fusion.Limit(0), Max: fusion.Limit(0.9), Help: "target probability given to the neighbouring bins of an ordinal attribute"},
		{Name: "calibration", Type: "float", Default: "1", Min: fusion.Limit(1e-3), Max: fusion.Limit(1000), Help: "divides the logits of the reported probabilities; fitted on validation data"},
	}
	return append(append(fusion.FrameSettings(), fusion.AttentionSettings()...), own...)
}

// Manifest describes the plugin.
func Manifest() sdk.Manifest {
	inputs, outputs := fusion.Ports()
	outputs = append(outputs, ports.Reconstruction.Declare(
		ports.Help("probabilities over each attribute's value set, with attributes and reconstruct=true")))
	return sdk.Manifest{
		Name: "itfusion", Version: "0.1.0", License: "Apache-2.0", Runtime: "libtorch",
		ModelCard: "AlignedFusion's intermediate-token fusion with masked token reconstruction. No pretrained weights; learns from any tokens.",
		Stages: []sdk.StageManifest{{
			Name: "fusion", Kind: sdk.KindFusion, Trainable: true,
			Summary:  "intermediate tokens between modalities, reconstruction of unmentioned attributes",
			Inputs:   inputs,
			Outputs:  outputs,
			Settings: settings(),
			Losses:   []string{"reconstruction"},
			Metrics:  []string{"masked", "mask_accuracy"},
		}},
	}
}

// Plugin is what the plugin's program serves.
func Plugin() sdk.Plugin {
	return sdk.Plugin{Manifest: Manifest(), Open: torchstage.Open(map[string]torchstage.Builder{"fusion": build})}
}
