package a3d

import (
	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
	"github.com/alignedfusion/alignedfusion/sdk/torchstage"
)

// sizeMultiple of height and width: the strides up to 16 and one pooling more, as
// the reference pads.
const sizeMultiple = 32

func limit(v float64) *float64 { return &v }

// Resident ports: what the head takes from the encoder inside the process.
var residentMaps = [3]string{"map4", "map8", "map16"}

// The tokens before any fusion, and the port of the fusion stage's joint token.
const (
	ownTokens = "own_tokens"
	jointPort = "joint"
)

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

func encoderManifest() sdk.StageManifest {
	return sdk.StageManifest{
		Name: "encoder", Kind: sdk.KindEncoder, Trainable: true, Tasks: []string{"detect"},
		Summary: "truncated DenseNet over the slices of a volume; tokens of the stride-16 map",
		Inputs: []sdk.Port{
			{Name: "volume", DType: tensor.FP32, Shape: []string{"N", "1", "D", "H", "W"}, Required: true,
				Intensity: &sdk.Intensity{Low: -1024, High: 2050, OutLow: -50, OutHigh: 205}, SizeMultiple: sizeMultiple,
				Help: "D slices about the one to be searched, windowed to 0..255 minus 50"},
			{Name: "spacing", DType: tensor.FP32, Shape: []string{"N", "3"},
				Help: "mm, z y x; z is the slice distance that operator=alignshift shifts by"},
		},
		Outputs: append([]sdk.Port{
			{Name: "tokens.volume", DType: tensor.FP32, Shape: []string{"N", "T", "C"}, Required: true, Differentiable: true,
				Help: "one token per cell of the stride-16 map, row by row"},
			{Name: "features", DType: tensor.FP32, Shape: []string{"N", "F", "H4", "W4"}, OnRequest: true,
				Help: "the feature pyramid's level of stride 4, without fusion"},
		}, residents()...),
		Settings: []sdk.Setting{
			{Name: "preset", Type: "string", Default: "tiny", Choices: []string{"tiny", "densenet121"},
				Help: "densenet121 is the published network; tiny is for CPUs"},
			{Name: "slices", Type: "int", Default: "3", Min: limit(1), Max: limit(63), Help: "D, the slices of a volume"},
			{Name: "operator", Type: "string", Default: opA3D, Choices: []string{opA3D, opAlignShift, opTSM, opFlat, opConv3D},
				Help: "how slices exchange context"},
			{Name: "tokens", Type: "int", Default: "0", Min: limit(0), Max: limit(4096), Help: "width of tokens.volume; 0 takes the preset's"},
			{Name: "window", Type: "floats", Default: "-1024,2050", Help: "HU that become 0 and 255"},
			{Name: "precision", Type: "string", Default: "fp32", Choices: []string{"fp32", "bf16"},
				Help: "bf16 computes convolutions in bfloat16; parameters stay FP32"},
			{Name: "checkpoint", Type: "bool", Default: "false", Help: "recompute dense layers in the backward pass instead of keeping their activations"},
			{Name: "weights", Type: "path", Default: "", Help: "safetensors to start from: a detector's state dict or torchvision's densenet121"},
		},
	}
}

func headManifest() sdk.StageManifest {
	return sdk.StageManifest{
		Name: "head", Kind: sdk.KindHead, Trainable: true, Tasks: []string{"detect"},
		Summary: "feature pyramid, region proposals, box head and optional mask head",
		Inputs: append([]sdk.Port{
			{Name: "tokens.volume", DType: tensor.FP32, Shape: []string{"N", "T", "C"}, Required: true, Differentiable: true,
				Help: "the encoder's tokens, fused or not"},
			{Name: jointPort, DType: tensor.FP32, Shape: []string{"N", "J"}, Differentiable: true,
				Help: "the fusion stage's joint token; added to every place of the coarse map through a projection that starts at zero"},
			{Name: "target.boxes", DType: tensor.FP32, Shape: []string{"M", "4"}, Help: "lesions of all images, x1 y1 x2 y2 in input pixels; training only"},
			{Name: "target.image", DType: tensor.Int32, Shape: []string{"M"}, Help: "image of each lesion"},
			{Name: "target.class", DType: tensor.Int64, Shape: []string{"M"}, Help: "class of each lesion; absent means 0"},
			{Name: "target.recist", DType: tensor.FP32, Shape: []string{"M", "8"}, Help: "ends of the long and the short diameter; NaN where unknown; for mask=true"},
			{Name: "target.ignore", DType: tensor.FP32, Shape: []string{"I", "4"}, Help: "regions that are neither lesion nor background"},
			{Name: "target.ignore.image", DType: tensor.Int32, Shape: []string{"I"}, Help: "image of each ignore region"},
		}, residents()...),
		Outputs: []sdk.Port{
			{Name: "boxes", DType: tensor.FP32, Shape: []string{"K", "4"}, Help: "x1 y1 x2 y2 in input pixels; EVAL only"},
			{Name: "scores", DType: tensor.FP32, Shape: []string{"K"}, Help: "probability of the class"},
			{Name: "labels", DType: tensor.Int64, Shape: []string{"K"}, Help: "class of each box, from 0"},
			{Name: "image", DType: tensor.Int32, Shape: []string{"K"}, Help: "image of each box"},
		},
		Settings: []sdk.Setting{
			{Name: "compat", Type: "string", Default: "none", Choices: []string{"none", "mmdet1"},
				Help: "mmdet1: inclusive corners, rounded anchors and RoIAlign of the reference implementation"},
			{Name: "anchor_sides", Type: "floats", Default: "", Min: limit(1), Help: "sides of square anchors in pixels; empty takes the preset's"},
			{Name: "anchor_ratios", Type: "floats", Default: "", Help: "anchor height over width; empty takes 0.5,1,2"},
			{Name: "rois", Type: "int", Default: "0", Min: limit(0), Max: limit(4096), Help: "regions sampled per image for the box loss; 0 takes the preset's"},
			{Name: "mask", Type: "bool", Default: "false", Help: "train a mask head on pseudo-masks from target.recist"},
			{Name: "score_threshold", Type: "float", Default: "0.0005", Min: limit(0), Max: limit(1), Help: "boxes below it are not returned"},
			{Name: "nms", Type: "float", Default: "0.5", Min: limit(0), Max: limit(1), Help: "IoU above which the lower of two boxes is dropped"},
			{Name: "detections", Type: "int", Default: "50", Min: limit(1), Max: limit(10000), Help: "most boxes per image"},
			{Name: "weights", Type: "path", Default: "", Help: "safetensors to start from: a detector's state dict"},
		},
		Losses:  []string{"rpn_cls", "rpn_box", "rcnn_cls", "rcnn_box", "mask"},
		Metrics: []string{"rpn_positives", "rcnn_positives", "rcnn_accuracy"},
	}
}

// Manifest describes the plugin.
func Manifest() sdk.Manifest {
	return sdk.Manifest{
		Name: "a3d", Version: "0.1.0", License: "Apache-2.0", Runtime: "libtorch",
		ModelCard: "A3D-style lesion detector for CT slices with context. Input: D slices 2 mm apart, HU windowed to [-1024, 2050], 0..255 minus 50. " +
			"No pretrained weights included; densenet121 takes torchvision's ImageNet weights or a checkpoint of the reference implementation.",
		Stages: []sdk.StageManifest{encoderManifest(), headManifest()},
	}
}

// Plugin is what the plugin's program serves.
func Plugin() sdk.Plugin {
	return sdk.Plugin{
		Manifest: Manifest(),
		Open:     torchstage.Open(map[string]torchstage.Builder{"encoder": buildEncoder, "head": buildHead}),
	}
}
