package ports

import (
	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

// Who makes and reads the ports below, besides the kinds of stages.
const Host sdk.Kind = "host"

var (
	byHost     = []sdk.Kind{Host}
	byFusion   = []sdk.Kind{sdk.KindFusion}
	byHead     = []sdk.Kind{sdk.KindHead}
	byText     = []sdk.Kind{sdk.KindText}
	inPipeline = []sdk.Kind{sdk.KindEncoder, sdk.KindFusion, sdk.KindHead}
	afterward  = []sdk.Kind{sdk.KindFusion, sdk.KindHead}
)

const (
	detect   = "detect"
	classify = "classify"
)

// What the host reads from the data.
var (
	Volume = add(Port{Name: "volume", DType: tensor.FP32, Shape: dims("N 1 D H W"), Makers: byHost, Readers: inPipeline, Required: true,
		Help: "D slices about the one to be searched, intensities as the encoder's port declares"})
	Volumes = add(Port{Name: "volume.*", DType: tensor.FP32, Shape: dims("N 1 D H W"), Makers: byHost, Readers: inPipeline, Required: true, Task: classify,
		Help: "the same of one of several phases or sequences of a case"})
	Spacing = add(Port{Name: "spacing", DType: tensor.FP32, Shape: dims("N 3"), Makers: byHost, Readers: inPipeline, Required: true,
		Help: "mm between network pixels (z, y, x), with volume"})
	Spacings = add(Port{Name: "spacing.*", DType: tensor.FP32, Shape: dims("N 3"), Makers: byHost, Readers: inPipeline, Required: true, Task: classify,
		Help: "the same, with volume.*"})
	Images = add(Port{Name: "image.*", DType: tensor.FP32, Shape: dims("N 3 H W"), Makers: byHost, Readers: inPipeline, Required: true,
		Help: "RGB image of a modality, intensities as the encoder's port declares"})
	Bags = add(Port{Name: "bag.*", DType: tensor.FP32, Shape: dims("N P 3 H W"), Makers: byHost, Readers: inPipeline, Required: true, Task: classify,
		Help: "P patches of each case's slide, RGB, intensities as the encoder's port declares; of a slide with fewer some come again"})
	ReportEmbedding = add(Port{Name: "report.embedding", DType: tensor.FP32, Shape: dims("N A E"), Differentiable: true, Makers: byHost, Readers: inPipeline,
		Help: "text embedding of each attribute's prompt, zero where unmentioned"})
	ReportState = add(Port{Name: "report.state", DType: tensor.Int8, Shape: dims("N A"), Makers: byHost, Readers: inPipeline,
		Help: "0 unmentioned, 1 stated, 2 negated, 3 uncertain"})
	ReportValue = add(Port{Name: "report.value", DType: tensor.Int64, Shape: dims("N A"), Makers: byHost, Readers: inPipeline,
		Help: "index into the attribute's value set, -1 unknown"})
)

// What training is to reach.
var (
	TargetLabel = add(Port{Name: "target.label", DType: tensor.Int64, Shape: dims("N"), Makers: byHost, Readers: afterward, Required: true, Task: classify,
		Help: "class index, -1 unknown; with one label set"})
	TargetLabels = add(Port{Name: "target.label.*", DType: tensor.Int64, Shape: dims("N"), Makers: byHost, Readers: afterward, Task: classify,
		Help: "class index per label set, -1 unknown; with several"})
	TargetValue = add(Port{Name: "target.value", DType: tensor.FP32, Shape: dims("N"), Makers: byHost, Readers: afterward, Task: classify,
		Help: "in the place of target.label where a number is asked: in standard deviations from the mean of training, NaN unknown"})
	TargetValues = add(Port{Name: "target.value.*", DType: tensor.FP32, Shape: dims("N"), Makers: byHost, Readers: afterward, Task: classify,
		Help: "the same per label set; with several"})
	TargetCensored = add(Port{Name: "target.censored", DType: tensor.Int8, Shape: dims("N"), Makers: byHost, Readers: afterward, Task: classify,
		Help: "where the time to an event is asked: 1 if the event lies in the interval target.label or in a later one, 0 if in that one"})
	TargetsCensored = add(Port{Name: "target.censored.*", DType: tensor.Int8, Shape: dims("N"), Makers: byHost, Readers: afterward, Task: classify,
		Help: "the same per label set; with several"})
	TargetBoxes = add(Port{Name: "target.boxes", DType: tensor.FP32, Shape: dims("M 4"), Makers: byHost, Readers: afterward, Required: true, Task: detect,
		Help: "lesions of all images, x1 y1 x2 y2 in input pixels; M may be 0"})
	TargetImage = add(Port{Name: "target.image", DType: tensor.Int32, Shape: dims("M"), Makers: byHost, Readers: afterward, Required: true, Task: detect,
		Help: "image of each lesion"})
	TargetClass = add(Port{Name: "target.class", DType: tensor.Int64, Shape: dims("M"), Makers: byHost, Readers: afterward, Required: true, Task: detect,
		Help: "class of each lesion"})
	TargetRECIST = add(Port{Name: "target.recist", DType: tensor.FP32, Shape: dims("M 8"), Makers: byHost, Readers: afterward, Required: true, Task: detect,
		Help: "ends of the long and the short diameter; NaN where unknown"})
	TargetIgnore = add(Port{Name: "target.ignore", DType: tensor.FP32, Shape: dims("I 4"), Makers: byHost, Readers: afterward, Required: true, Task: detect,
		Help: "regions that are neither lesion nor background; I may be 0"})
	TargetIgnoreImage = add(Port{Name: "target.ignore.image", DType: tensor.Int32, Shape: dims("I"), Makers: byHost, Readers: afterward, Required: true, Task: detect,
		Help: "image of each ignore region"})
)

// What stages give each other.
var (
	Tokens = add(Port{Name: "tokens.*", DType: tensor.FP32, Shape: dims("N T C"), Differentiable: true, Makers: []sdk.Kind{sdk.KindEncoder, sdk.KindFusion}, Readers: afterward, Required: true,
		Help: "tokens of a modality, each with its own T and C; the encoder's, then the fusion's in the same shape"})
	TokensReport = add(Port{Name: "tokens.report", DType: tensor.FP32, Shape: dims("N A D"), Differentiable: true, Makers: byFusion, Readers: byHead,
		Help: "one token per attribute; with attributes only"})
	Joint = add(Port{Name: "joint", DType: tensor.FP32, Shape: dims("N J"), Differentiable: true, Makers: byFusion, Readers: byHead, Required: true,
		Help: "summary of all modalities after fusion"})
)

// What a pipeline gives the host.
var (
	Reconstruction = add(Port{Name: "reconstruction", DType: tensor.FP32, Shape: dims("N A K"), Makers: byFusion, Readers: byHost,
		Help: "probabilities over each attribute's value set"})
	Boxes = add(Port{Name: "boxes", DType: tensor.FP32, Shape: dims("K 4"), Makers: byHead, Readers: byHost, Required: true, Task: detect,
		Help: "x1 y1 x2 y2 in input pixels"})
	Scores = add(Port{Name: "scores", DType: tensor.FP32, Shape: dims("K"), Makers: byHead, Readers: byHost, Required: true, Task: detect,
		Help: "probability of each box's class"})
	BoxLabels = add(Port{Name: "labels", DType: tensor.Int64, Shape: dims("K"), Makers: byHead, Readers: byHost, Task: detect,
		Help: "class of each box, from 0; absent means 0"})
	BoxImage = add(Port{Name: "image", DType: tensor.Int32, Shape: dims("K"), Makers: byHead, Readers: byHost, Required: true, Task: detect,
		Help: "image of each box"})
	Logits = add(Port{Name: "logits", DType: tensor.FP32, Shape: dims("N classes"), Makers: byHead, Readers: byHost, Required: true, Task: classify,
		Help: "with one label set; where a number is asked [N 1], as target.value"})
	LogitsOf = add(Port{Name: "logits.*", DType: tensor.FP32, Shape: dims("N classes"), Makers: byHead, Readers: byHost, Task: classify,
		Help: "per label set; with several"})
)

// What a stage gives the host beside its answer, when it is asked for.
var (
	Metrics = add(Port{Name: "metric.*", DType: tensor.FP32, Shape: dims("N"), Makers: byHead, Readers: byHost, OnRequest: true,
		Help: "a metric of the head's own of each case, NaN where it has none; the targets are given where it is asked for"})
	Weighting = add(Port{Name: "weighting.*", DType: tensor.FP32, Shape: dims("N T"), Makers: byHead, Readers: byHost, OnRequest: true, Task: classify,
		Help: "how much each token of a modality counts in the answer; those of a case sum to 1"})
	Visuals = add(Port{Name: "visual.*", DType: tensor.FP32, Shape: dims("N rows columns"), Makers: inPipeline, Readers: byHost, OnRequest: true,
		Help: "a map over the picture (attention, saliency) of any size, stretched over it; the greater, the brighter"})
)

// What a text encoder, which runs before the pipeline, reads and gives.
var (
	Text = add(Port{Name: "text", DType: tensor.Bytes, Shape: dims("N"), Makers: byHost, Readers: byText, Required: true,
		Help: "prompts in UTF-8"})
	Embedding = add(Port{Name: "embedding", DType: tensor.FP32, Shape: dims("N E"), Makers: byText, Readers: byHost, Required: true,
		Help: "one vector per prompt"})
)
