// Package classifier serves encoders of pictures (a small convolutional network,
// Darknet-tiny, MobileNet, EfficientNet-Lite0, ViT, Swin-T) and of volumes (the small network in three dimensions, R3D-18),
// and a classification head (Eq. 11).
package classifier

import (
	"github.com/alignedfusion/alignedfusion/internal/release"
	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/ports"
	"github.com/alignedfusion/alignedfusion/sdk/torchstage"
)

type encoderSettings struct {
	Kind      string   `setting:"kind" default:"auto" choices:"auto,conv,darknet,mobilenet,efficientnet_lite0,vit,swin_t,conv3d,r3d_18" help:"network; conv3d and r3d_18 are for volumes; auto: conv, or conv3d where the data have volumes and no pictures"`
	Weights   sdk.Path `setting:"weights" help:"safetensors file: torchvision's or timm's names for vit, torchvision's for swin_t and r3d_18, Keras's for mobilenet, those of efficientnet-lite-pytorch for efficientnet_lite0"`
	Frozen    bool     `setting:"frozen" default:"false" help:"true: the network is not trained and its batch norms keep their statistics, so that tokens depend on the image alone"`
	ImageSize int64    `setting:"image_size" default:"0" min:"0" max:"4096" help:"side in pixels that images are resized to; 0: 224 for darknet, mobilenet, efficientnet_lite0 and vit, as given for conv and swin_t"`
	Pool      int64    `setting:"pool" default:"1" min:"1" max:"64" help:"a token is the mean over pool x pool cells of the map, of volumes slice by slice; not with vit"`
	Width     int64    `setting:"width" default:"0" min:"0" max:"8192" help:"conv, conv3d: channels of the first block (0: 32); mobilenet: of the first convolution (0: 24, alpha 0.75); vit: token size (0: 768)"`
	Layers    int64    `setting:"layers" default:"0" min:"0" max:"64" help:"conv, conv3d: blocks, each halving the map (0: 4); vit: layers (0: 12)"`
	Heads     int64    `setting:"heads" default:"0" min:"0" max:"256" help:"vit: attention heads (0: width/64)"`
	Patch     int64    `setting:"patch" default:"16" min:"1" max:"256" help:"vit: side of a patch in pixels"`
	Slices    int64    `setting:"slices" default:"16" min:"1" max:"1024" help:"conv3d, r3d_18: slices of the volume that is shown"`
	Dropout   float64  `setting:"dropout" default:"0" min:"0" max:"0.99" help:"vit and swin_t: dropout on the branches"`
	// The second network has its plain architecture.
	Second        string   `setting:"second" default:"none" choices:"none,conv,darknet,mobilenet,efficientnet_lite0,vit,swin_t" help:"a second network on the same pictures; its tokens are a modality of its own: tokens.photo+mobilenet beside tokens.photo; width, layers, heads and patch are the first's alone"`
	SecondWeights sdk.Path `setting:"second_weights" help:"the second network's safetensors file; none where weights holds both networks, as that of a trained mixture does"`
}

type headSettings struct {
	Question       string  `setting:"question" default:"classes" help:"what the label columns ask: one of several classes; multilabel: whether a finding (1) is there, one sigmoid per column; ordinal: one of classes in order, by cumulative links; regression: a number; survival: the time to an event, by hazards of intervals (Gensheimer and Narasimhan 2019); or one for each column: grade:ordinal,size_mm:regression"`
	Weights        string  `setting:"question_weights" default:"" help:"weights of several questions in the loss, as in grade:1,size_mm:0.5; those not named weigh 1"`
	Kind           string  `setting:"kind" default:"linear" choices:"linear,mlp" help:"linear layer, or a hidden layer with GELU before it"`
	Hidden         int64   `setting:"hidden" default:"256" min:"1" max:"65536" help:"mlp: size of the hidden layer"`
	Pool           string  `setting:"pool" default:"mean" choices:"mean,max,gated,topk" help:"what a modality's tokens become: their mean, the greatest value of each feature, gated attention (Ilse et al. 2018), or the mean of the best topk tokens by a score"`
	TopK           int64   `setting:"topk" default:"8" min:"1" max:"65536" help:"pool=topk: tokens that count"`
	PoolWidth      int64   `setting:"pool_width" default:"64" min:"1" max:"65536" help:"pool=gated: size of the attention's layers"`
	Norm           string  `setting:"norm" default:"layer" choices:"layer,batch" help:"of t_cls: layer norm over a case's features, or batch norm per feature, for parts of different scale"`
	Dropout        float64 `setting:"dropout" default:"0" min:"0" max:"0.99" help:"dropout before the last layer"`
	LabelSmoothing float64 `setting:"label_smoothing" default:"0" min:"0" max:"0.99" help:"share of the target given to all classes alike"`
	FocalGamma     float64 `setting:"focal_gamma" default:"0" min:"0" max:"10" help:"focal loss (Lin et al. 2017, eq. 5): what is sure counts (1-p)^gamma; data.class_weights are its alpha; 0: cross-entropy"`
}

// pixels are what every encoder wants: grey values 0 to 255 as 0 to 1. What else a
// network was trained with (mean, standard deviation) is done inside.
var pixels = sdk.Intensity{Low: 0, High: 255, OutLow: 0, OutHigh: 1}

// hounsfield are soft tissues, from fat to bone; the window of a data spec takes its place.
var hounsfield = sdk.Intensity{Low: -160, High: 240, OutLow: 0, OutHigh: 1}

// Manifest describes the plugin.
func Manifest() sdk.Manifest {
	return sdk.Manifest{
		Name: "classifier", Version: release.Version, License: "Apache-2.0", Runtime: "libtorch", Capabilities: []string{sdk.CapabilityAMP, sdk.CapabilityFP16},
		ModelCard: "Encoders for photographs and slices in RGB and for volumes, and a classification head. Weights of torchvision's and timm's ViT-B/16, " +
			"torchvision's Swin-T and R3D-18, MobileNet v1, EfficientNet-Lite0 and Darknet-tiny can be loaded; none are shipped.",
		Stages: []sdk.StageManifest{
			{
				Name: "encoder", Kind: sdk.KindEncoder, Trainable: true,
				Summary: "encoders of pictures (conv, darknet, mobilenet, efficientnet_lite0, vit, swin_t) and volumes (conv3d, r3d_18): tokens of each of a case",
				Inputs: []sdk.Port{ports.Images.Declare(ports.Intensity(pixels),
					ports.Help("RGB in [0,1]; resized to image_size where that is not 0")),
					ports.Bags.Declare(ports.Intensity(pixels), ports.Help("as pictures; each patch becomes one token")),
					ports.Volume.Declare(ports.Intensity(hounsfield), ports.Help("kind=conv3d and r3d_18, in [0,1]")), ports.Volumes.Declare(ports.Intensity(hounsfield))},
				Outputs: []sdk.Port{ports.Tokens.Declare(ports.Required,
					ports.Help("tokens of each image, row by row; ViT's class token comes first; tokens.NAME+KIND are those of a second network"))},
				Settings: sdk.SettingsOf(encoderSettings{}),
			},
			{
				Name: "head", Kind: sdk.KindHead, Trainable: true, Tasks: []string{"classify"},
				Summary: "pooled tokens of every modality and the joint summary, layer norm, linear or MLP classifier; classes, findings, grades, numbers or times to an event",
				Inputs: []sdk.Port{
					ports.Tokens.Declare(ports.Help("visual tokens and report tokens, each with its own size")),
					ports.Joint.Declare(), ports.TargetLabel.Declare(), ports.TargetLabels.Declare(),
					ports.TargetValue.Declare(), ports.TargetValues.Declare(), ports.TargetCensored.Declare(), ports.TargetsCensored.Declare(),
				},
				Outputs: []sdk.Port{ports.Logits.Declare(), ports.LogitsOf.Declare(),
					ports.Weighting.Declare(ports.Help("weight of each token; not with pool=max"))},
				Settings: sdk.SettingsOf(headSettings{}),
				Losses:   []string{"classification"},
				Metrics:  []string{"accuracy"},
			},
		},
	}
}

// Plugin is what the plugin's program serves.
func Plugin() sdk.Plugin {
	return sdk.Plugin{Manifest: Manifest(), Open: torchstage.Open(map[string]torchstage.Builder{"encoder": buildEncoder, "head": buildHead})}
}
