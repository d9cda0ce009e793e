package a3d

import (
	"github.com/alignedfusion/alignedfusion/internal/release"
	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/ports"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
	"github.com/alignedfusion/alignedfusion/sdk/torchstage"
)

// sizeMultiple of height and width: the strides up to 16 and one pooling more, as
// the reference pads.
const sizeMultiple = 32

// Resident ports: what the head takes from the encoder inside the process.
var residentMaps = [3]string{"map4", "map8", "map16"}

// The tokens before any fusion, and the port of the fusion stage's joint token.
const ownTokens = "own_tokens"

// volumeTokens are the tokens that leave the encoder, and come back fused.
var volumeTokens = ports.Tokens.Of(ports.Volume.Name)

func residents() []sdk.Port {
	var out []sdk.Port
	for i, name := range residentMaps {
		n := []string{"4", "8", "16"}[i]
		out = append(out, sdk.Port{Name: name, DType: tensor.FP32, Shape: []string{"N", "C" + n, "H" + n, "W" + n},
			Required: true, Differentiable: true, Resident: true, Help: "feature map of stride " + n + ", slices collapsed"})
	}
	return append(out, sdk.Port{Name: ownTokens, DType: tensor.FP32, Shape: []string{"N", "T", "C"},
		Required: true, Differentiable: true, Resident: true, Help: "the tokens before any fusion"})
}

// intensity is what the published detector sees of Hounsfield units.
var intensity = sdk.Intensity{Low: -1024, High: 2050, OutLow: -50, OutHigh: 205}

func encoderManifest() sdk.StageManifest {
	return sdk.StageManifest{
		Name: "encoder", Kind: sdk.KindEncoder, Trainable: true, Tasks: []string{"detect", "classify"},
		Summary: "truncated DenseNet over the slices of a volume; tokens of the stride-16 map",
		Inputs: []sdk.Port{
			ports.Volume.Declare(ports.SizeMultiple(sizeMultiple), ports.Intensity(intensity),
				ports.Help("D slices about the one to be searched, windowed to 0..255 minus 50")),
			ports.Volumes.Declare(ports.SizeMultiple(sizeMultiple), ports.Intensity(intensity),
				ports.Help("the same of several phases or sequences, for classification; one network sees them all")),
			ports.Spacing.Declare(ports.Help("mm, z y x; z is the slice distance that operator=alignshift shifts by")),
			ports.Spacings.Declare(),
		},
		Outputs: append([]sdk.Port{
			volumeTokens.Declare(ports.Help("one token per cell of the stride-16 map, row by row")),
			ports.Tokens.Declare(ports.Help("the same of volume.*")),
			{Name: "features", DType: tensor.FP32, Shape: []string{"N", "F", "H4", "W4"}, OnRequest: true,
				Help: "the feature pyramid's level of stride 4, without fusion"},
		}, append(residents(), drawnPorts()...)...),
		Settings: sdk.SettingsOf(encoderSettings{}),
	}
}

func headManifest() sdk.StageManifest {
	return sdk.StageManifest{
		Name: "head", Kind: sdk.KindHead, Trainable: true, Tasks: []string{"detect"},
		Summary: "feature pyramid, region proposals, box head and optional mask head",
		Inputs: append([]sdk.Port{
			volumeTokens.Declare(ports.Required, ports.Help("the encoder's tokens, fused or not")),
			ports.Joint.Declare(ports.Help("the fusion stage's joint token; added to every place of the coarse map through a projection that starts at zero")),
			ports.TargetBoxes.Declare(), ports.TargetImage.Declare(),
			ports.TargetClass.Declare(ports.Help("class of each lesion; absent means 0")),
			ports.TargetRECIST.Declare(ports.Help("ends of the long and the short diameter; NaN where unknown; for mask=true")),
			ports.TargetIgnore.Declare(), ports.TargetIgnoreImage.Declare(),
		}, residents()...),
		Outputs: []sdk.Port{
			ports.Boxes.Declare(ports.Help("x1 y1 x2 y2 in input pixels; EVAL only")),
			ports.Scores.Declare(), ports.BoxLabels.Declare(), ports.BoxImage.Declare(),
		},
		Settings: sdk.SettingsOf(headSettings{}),
		Losses:   []string{"rpn_cls", "rpn_box", "rcnn_cls", "rcnn_box", "mask"},
		Metrics:  []string{"rpn_positives", "rcnn_positives", "rcnn_accuracy"},
	}
}

// Manifest describes the plugin.
func Manifest() sdk.Manifest {
	return sdk.Manifest{
		Name: "a3d", Version: release.Version, License: "Apache-2.0", Runtime: "libtorch", Capabilities: []string{sdk.CapabilityAMP},
		ModelCard: "A3D-style lesion detector for CT slices with context. Input: D slices 2 mm apart, HU windowed to [-1024, 2050], 0..255 minus 50. " +
			"No pretrained weights included; densenet121 takes torchvision's ImageNet weights or a checkpoint of the reference implementation.",
		Stages: []sdk.StageManifest{encoderManifest(), headManifest(), drawingManifest()},
	}
}

// Plugin is what the plugin's program serves.
func Plugin() sdk.Plugin {
	return sdk.Plugin{
		Manifest: Manifest(),
		Open:     torchstage.Open(map[string]torchstage.Builder{"encoder": buildEncoder, "head": buildHead, "reconstruct": buildDrawing}),
	}
}
