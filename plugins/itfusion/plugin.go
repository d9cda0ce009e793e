// Package itfusion is AlignedFusion's own fusion stage: intermediate-token fusion
// of any number of modalities (Eq. 6-8) with masked and missed token
// reconstruction (Eq. 9-10).
package itfusion

import (
	"github.com/alignedfusion/alignedfusion/internal/release"
	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/fusion"
	"github.com/alignedfusion/alignedfusion/sdk/ports"
	"github.com/alignedfusion/alignedfusion/sdk/torchstage"
)

// settings of the stage. The defaults are the method's.
type settings struct {
	fusion.FrameSettings
	fusion.AttentionSettings
	method
}

// method are the settings that are AlignedFusion's own.
type method struct {
	Intermediate     bool    `setting:"intermediate" default:"true" help:"false: one self-attention over all tokens of all modalities (ablation without intermediate token)"`
	TokensPerPair    int64   `setting:"tokens_per_pair" default:"1" min:"1" max:"1024" help:"intermediate tokens B per pair of modalities; 4 is the bottleneck attention of MBT"`
	ShareWeights     bool    `setting:"share_weights" default:"false" help:"one set of layers for all modalities"`
	StartLayer       int     `setting:"start_layer" default:"0" min:"0" max:"63" help:"first layer with intermediate tokens; the ones before see their own modality only"`
	MaskProbability  float64 `setting:"mask_probability" default:"0.3" min:"0" max:"1" help:"probability p with which a known attribute is masked in training (Eq. 9)"`
	MaskSpread       bool    `setting:"mask_spread" default:"false" help:"draw each case's own p uniformly between 0 and 2p: for reports that differ in how much they leave out"`
	MaskWhole        float64 `setting:"mask_whole" default:"0" min:"0" max:"1" help:"share of the training cases of which every known attribute is masked, so that an image without any report is not new"`
	Reconstruct      bool    `setting:"reconstruct" default:"true" help:"false: no reconstruction network and no l_rec; masking stays a matter of mask_probability"`
	Temperature      float64 `setting:"temperature" default:"0.07" min:"0.001" max:"100" help:"tau of the reconstruction's logits"`
	TwoPass          bool    `setting:"two_pass" default:"false" help:"fill in the reconstructed tokens and run the attention again"`
	StopGradient     bool    `setting:"stop_gradient" default:"false" help:"keep the downstream loss out of the reconstruction network"`
	Regression       bool    `setting:"regression" default:"false" help:"add to the reconstruction's logits a logistic regression on what is known: the other attributes' values and every modality's mean token"`
	OrdinalSmoothing float64 `setting:"ordinal_smoothing" default:"0.1" min:"0" max:"0.9" help:"target probability given to the neighbouring bins of an ordinal attribute"`
	Calibration      float64 `setting:"calibration" default:"1" min:"0.001" max:"1000" help:"divides the logits of the reported probabilities; fitted on validation data"`
}

// Manifest describes the plugin.
func Manifest() sdk.Manifest {
	inputs, outputs := fusion.Ports()
	outputs = append(outputs, ports.Reconstruction.Declare(
		ports.Help("probabilities over each attribute's value set, with attributes and reconstruct=true")))
	return sdk.Manifest{
		Name: "itfusion", Version: release.Version, License: "Apache-2.0", Runtime: "libtorch", Capabilities: []string{sdk.CapabilityAMP, sdk.CapabilityFP16},
		ModelCard: "AlignedFusion's intermediate-token fusion with masked token reconstruction. No pretrained weights; learns from any tokens.",
		Stages: []sdk.StageManifest{{
			Name: "fusion", Kind: sdk.KindFusion, Trainable: true,
			Summary:  "intermediate tokens between modalities, reconstruction of unmentioned attributes",
			Inputs:   inputs,
			Outputs:  outputs,
			Settings: sdk.SettingsOf(settings{}),
			Losses:   []string{"reconstruction"},
			Metrics:  []string{"masked", "mask_accuracy"},
		}},
	}
}

// Plugin is what the plugin's program serves.
func Plugin() sdk.Plugin {
	return sdk.Plugin{Manifest: Manifest(), Open: torchstage.Open(map[string]torchstage.Builder{"fusion": build})}
}
