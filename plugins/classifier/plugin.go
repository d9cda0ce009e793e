// Package classifier serves image encoders (a small convolutional network,
// Darknet-tiny, ViT, Swin-T) and a classification head (Eq. 11).
package classifier

import (
	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/ports"
	"github.com/alignedfusion/alignedfusion/sdk/torchstage"
)

func limit(v float64) *float64 { return &v }

// pixels are what every encoder wants: grey values 0 to 255 as 0 to 1. What else a
// network was trained with (mean, standard deviation) is done inside.
var pixels = sdk.Intensity{Low: 0, High: 255, OutLow: 0, OutHigh: 1}

// Manifest describes the plugin.
func Manifest() sdk.Manifest {
	return sdk.Manifest{
		Name: "classifier", Version: "0.1.0", License: "Apache-2.0", Runtime: "libtorch",
		ModelCard: "Image encoders for photographs and slices in RGB, and a classification head. Weights of torchvision's and timm's ViT-B/16, " +
			"torchvision's Swin-T and Darknet-tiny can be loaded; none are shipped.",
		Stages: []sdk.StageManifest{
			{
				Name: "encoder", Kind: sdk.KindEncoder, Trainable: true,
				Summary: "image encoders conv, darknet, vit, swin_t: tokens of every image of a case",
				Inputs: []sdk.Port{ports.Images.Declare(ports.Intensity(pixels),
					ports.Help("RGB in [0,1]; resized to image_size where that is not 0"))},
				Outputs: []sdk.Port{ports.Tokens.Declare(ports.Required,
					ports.Help("tokens of each image, row by row; ViT's class token comes first"))},
				Settings: []sdk.Setting{
					{Name: "kind", Type: "string", Default: "conv", Choices: []string{"conv", "darknet", "vit", "swin_t"}, Help: "network"},
					{Name: "weights", Type: "path", Default: "", Help: "safetensors file: torchvision's or timm's names for vit, torchvision's for swin_t"},
					{Name: "frozen", Type: "bool", Default: "false", Help: "true: the network is not trained and its batch norms keep their statistics, so that tokens depend on the image alone"},
					{Name: "image_size", Type: "int", Default: "0", Min: limit(0), Max: limit(4096), Help: "side in pixels that images are resized to; 0: 224 for darknet and vit, as given for conv and swin_t"},
					{Name: "pool", Type: "int", Default: "1", Min: limit(1), Max: limit(64), Help: "conv, darknet, swin_t: a token is the mean over pool x pool cells of the map"},
					{Name: "width", Type: "int", Default: "0", Min: limit(0), Max: limit(8192), Help: "conv: channels of the first block (0: 32); vit: token size (0: 768)"},
					{Name: "layers", Type: "int", Default: "0", Min: limit(0), Max: limit(64), Help: "conv: blocks, each halving the map (0: 4); vit: layers (0: 12)"},
					{Name: "heads", Type: "int", Default: "0", Min: limit(0), Max: limit(256), Help: "vit: attention heads (0: width/64)"},
					{Name: "patch", Type: "int", Default: "16", Min: limit(1), Max: limit(256), Help: "vit: side of a patch in pixels"},
					{Name: "dropout", Type: "float", Default: "0", Min: limit(0), Max: limit(0.99), Help: "vit and swin_t: dropout on the branches"},
				},
			},
			{
				Name: "head", Kind: sdk.KindHead, Trainable: true, Tasks: []string{"classify"},
				Summary: "pooled tokens of every modality and the joint summary, layer norm, linear or MLP classifier",
				Inputs: []sdk.Port{
					ports.Tokens.Declare(ports.Help("visual tokens and report tokens, each with its own size")),
					ports.Joint.Declare(), ports.TargetLabel.Declare(), ports.TargetLabels.Declare(),
				},
				Outputs: []sdk.Port{ports.Logits.Declare(), ports.LogitsOf.Declare()},
				Settings: []sdk.Setting{
					{Name: "kind", Type: "string", Default: "linear", Choices: []string{"linear", "mlp"}, Help: "linear layer, or a hidden layer with GELU before it"},
					{Name: "hidden", Type: "int", Default: "256", Min: limit(1), Max: limit(65536), Help: "mlp: size of the hidden layer"},
					{Name: "norm", Type: "string", Default: "layer", Choices: []string{"layer", "batch"}, Help: "of t_cls: layer norm over a case's features, or batch norm per feature, for parts of different scale"},
					{Name: "dropout", Type: "float", Default: "0", Min: limit(0), Max: limit(0.99), Help: "dropout before the last layer"},
					{Name: "label_smoothing", Type: "float", Default: "0", Min: limit(0), Max: limit(0.99), Help: "share of the target given to all classes alike"},
				},
				Losses:  []string{"classification"},
				Metrics: []string{"accuracy"},
			},
		},
	}
}

// Plugin is what the plugin's program serves.
func Plugin() sdk.Plugin {
	return sdk.Plugin{Manifest: Manifest(), Open: torchstage.Open(map[string]torchstage.Builder{"encoder": buildEncoder, "head": buildHead})}
}
