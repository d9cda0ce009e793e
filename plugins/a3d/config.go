package a3d

import (
	"cmp"
	"fmt"

	"github.com/alignedfusion/alignedfusion/plugins/a3d/boxops"
	"github.com/alignedfusion/alignedfusion/sdk"
)

// Strides of the three maps the pyramid is made of, in pixels.
var strides = [3]int64{4, 8, 16}

// featureStride is the stride of the pyramid's only level.
const featureStride = 4

// arch holds the sizes of a preset.
type arch struct {
	stem      int64     // channels of conv0
	growth    int64     // channels a dense layer adds
	bottle    int64     // channels of a dense layer's 1x1 convolution, in growths
	layers    [3]int    // dense layers of the blocks
	pyramid   int64     // channels of the feature pyramid
	tokens    int64     // width of tokens.volume
	rpn       int64     // channels of the proposal network's 3x3 convolution
	fc        int64     // width of the box head's hidden layers
	maskConv  int64     // channels of the mask head
	sides     []float32 // anchors, pixels
	ratios    []float32 // height over width
	preTrain  int       // proposals before NMS, training
	postTrain int       // proposals after NMS, training
	preTest   int
	postTest  int
	rois      int // RoIs sampled per image for the box head's loss
}

// presets: densenet121 is the published detector; tiny trains on a CPU in minutes, small in hours.
var presets = map[string]arch{
	"densenet121": {
		stem: 64, growth: 32, bottle: 4, layers: [3]int{6, 12, 24}, pyramid: 512, tokens: 256,
		rpn: 512, fc: 2048, maskConv: 256,
		sides: []float32{16, 24, 32, 48, 96, 192}, ratios: []float32{0.5, 1, 2},
		preTrain: 12000, postTrain: 2000, preTest: 6000, postTest: 300, rois: 64,
	},
	"small": {
		stem: 48, growth: 24, bottle: 4, layers: [3]int{4, 6, 8}, pyramid: 96, tokens: 128,
		rpn: 96, fc: 256, maskConv: 48,
		sides: []float32{8, 12, 18, 26, 40, 64}, ratios: []float32{0.5, 1, 2},
		preTrain: 2000, postTrain: 500, preTest: 2000, postTest: 200, rois: 64,
	},
	"tiny": {
		stem: 32, growth: 16, bottle: 2, layers: [3]int{2, 2, 2}, pyramid: 32, tokens: 64,
		rpn: 32, fc: 64, maskConv: 16,
		sides: []float32{6, 9, 13, 19, 28, 42}, ratios: []float32{0.5, 1, 2},
		preTrain: 1000, postTrain: 200, preTest: 1000, postTest: 100, rois: 64,
	},
}

// Operators that bring the context of neighbouring slices into a dense layer.
const (
	opA3D        = "a3d"        // learned mixing of slices, per channel
	opAlignShift = "alignshift" // shift by the slice distance, an eighth of the channels each way
	opTSM        = "tsm"        // shift by one slice
	opFlat       = "2.5d"       // slices are the input channels of a 2-D network
	opConv3D     = "conv3d"     // 3x3x3 convolutions
)

type encoderSettings struct {
	Preset     string    `setting:"preset" default:"tiny" choices:"tiny,small,densenet121" help:"densenet121 is the published network; tiny and small are for CPUs"`
	Slices     int64     `setting:"slices" default:"3" min:"1" max:"63" help:"D, the slices of a volume"`
	Operator   string    `setting:"operator" default:"a3d" choices:"a3d,alignshift,tsm,2.5d,conv3d" help:"how slices exchange context"`
	Tokens     int64     `setting:"tokens" default:"0" min:"0" max:"4096" help:"width of tokens.volume; 0 takes the preset's"`
	Window     []float64 `setting:"window" default:"-1024,2050" rising:"true" help:"HU that become 0 and 255"`
	Precision  string    `setting:"precision" default:"fp32" choices:"fp32,bf16" help:"bf16 computes convolutions in bfloat16, as train.amp does; parameters stay FP32"`
	Checkpoint bool      `setting:"checkpoint" default:"false" help:"recompute dense layers in the backward pass instead of keeping their activations"`
	Frozen     bool      `setting:"frozen" default:"false" help:"true: the network is not trained and its batch norms keep their statistics; for classification, whose tokens are then made once"`
	Weights    sdk.Path  `setting:"weights" help:"safetensors to start from: a detector's state dict or torchvision's densenet121"`
}

type headSettings struct {
	Compat         string    `setting:"compat" default:"none" choices:"none,mmdet1" help:"mmdet1: inclusive corners, rounded anchors and RoIAlign of the reference implementation"`
	AnchorSides    []float64 `setting:"anchor_sides" min:"1" help:"sides of square anchors in pixels; empty takes the preset's"`
	AnchorRatios   []float64 `setting:"anchor_ratios" above:"0" help:"anchor height over width; empty takes 0.5,1,2"`
	RPNIoU         float64   `setting:"rpn_iou" default:"0.7" min:"0.3" max:"1" help:"anchors that overlap a lesion by this IoU learn it; 0.5 gives lesions of a few pixels more of them"`
	RoIIoU         float64   `setting:"roi_iou" default:"0.5" above:"0" max:"1" help:"regions that overlap a lesion by this IoU are that lesion to the box head"`
	BackgroundIoU  float64   `setting:"background_iou" default:"1" min:"0" max:"1" help:"regions below this IoU and below roi_iou with every lesion are background to the box head; what lies between the two is neither"`
	RoIs           int       `setting:"rois" default:"0" min:"0" max:"4096" help:"regions sampled per image for the box loss; 0 takes the preset's"`
	HardBackground float64   `setting:"hard_background" default:"0" min:"0" max:"1" help:"share of the sampled background regions that are not drawn but those the box head takes for lesions most (Shrivastava et al. 2016)"`
	FocalGamma     float64   `setting:"focal_gamma" default:"0" min:"0" max:"10" help:"of the objectness; 0: cross-entropy over 32 sampled anchors; above: focal loss (Lin et al. 2017, eq. 5) over all, divided by those on lesions"`
	FocalAlpha     float64   `setting:"focal_alpha" default:"0.25" above:"0" below:"1" help:"with focal_gamma: weight of anchors on lesions, 1 - it that of the rest"`
	Mask           bool      `setting:"mask" default:"false" help:"train a mask head on pseudo-masks from target.recist"`
	Score          string    `setting:"score" default:"class" choices:"class,mean" help:"a box's score: the box head's probability, or the geometric mean of it and the region's objectness"`
	ScoreThreshold float64   `setting:"score_threshold" default:"0.0005" min:"0" max:"1" help:"boxes below it are not returned"`
	NMS            float64   `setting:"nms" default:"0.5" min:"0" max:"1" help:"IoU above which the lower of two boxes is dropped"`
	Detections     int       `setting:"detections" default:"50" min:"1" max:"10000" help:"most boxes per image"`
	Weights        sdk.Path  `setting:"weights" help:"safetensors to start from: a detector's state dict"`
}

// encoderConfig is what the encoder's settings say.
type encoderConfig struct {
	arch
	slices     int64 // of the volume given
	operator   string
	checkpoint bool
	bf16       bool
	low, high  float64 // the raw intensities that become 0 and 255 before 50 is subtracted
}

// depth is the number of slices the network carries: 1 when slices are channels.
func (c encoderConfig) depth() int64 {
	if c.operator == opFlat {
		return 1
	}
	return c.slices
}

// channels of the three maps.
func (c encoderConfig) channels() [3]int64 {
	var out [3]int64
	n := c.stem
	for i, layers := range c.layers {
		n += int64(layers) * c.growth
		out[i] = n
		n /= 2
	}
	return out
}

func (set encoderSettings) config() (encoderConfig, error) {
	if len(set.Window) != 2 {
		return encoderConfig{}, sdk.RefuseSetting("window", "%d numbers given, want low,high in HU", len(set.Window))
	}
	c := encoderConfig{
		arch: presets[set.Preset], slices: set.Slices, operator: set.Operator,
		checkpoint: set.Checkpoint, bf16: set.Precision == "bf16", low: set.Window[0], high: set.Window[1],
	}
	c.tokens = cmp.Or(set.Tokens, c.tokens)
	return c, nil
}

// headConfig is what the head's settings say.
type headConfig struct {
	arch
	legacy     bool // the conventions of mmdetection 1
	classes    int64
	mask       bool
	bf16       bool
	scoreMin   float32
	nms        float32
	detections int
	anchors    boxops.Anchors
	gamma      float64 // of the objectness' focal loss; 0: cross-entropy over samples
	alpha      float64
	rpnIoU     float32 // from which an anchor learns a lesion
	roiIoU     float32 // from which a region is a lesion
	background float32 // below which a region is background, at most roiIoU
	hard       float64 // share of background regions that are the worst mistakes
	meanScore  bool    // scores are geometric means with the objectness
}

func (set headSettings) config(enc encoderConfig, classes int) (headConfig, error) {
	c := headConfig{
		arch: enc.arch, classes: int64(max(classes, 1)), bf16: enc.bf16, legacy: set.Compat == "mmdet1", mask: set.Mask,
		scoreMin: float32(set.ScoreThreshold), nms: float32(set.NMS), detections: set.Detections,
		gamma: set.FocalGamma, alpha: set.FocalAlpha, rpnIoU: float32(set.RPNIoU), roiIoU: float32(set.RoIIoU), background: float32(min(set.RoIIoU, set.BackgroundIoU)),
		hard: set.HardBackground, meanScore: set.Score == "mean",
	}
	pick := func(given []float64, into *[]float32) {
		if len(given) == 0 {
			return
		}
		*into = nil
		for _, f := range given {
			*into = append(*into, float32(f))
		}
	}
	pick(set.AnchorSides, &c.sides)
	pick(set.AnchorRatios, &c.ratios)
	c.rois = cmp.Or(set.RoIs, c.rois)
	c.anchors = boxops.Anchors{Stride: featureStride, Sides: c.sides, Ratios: c.ratios, Rounded: c.legacy}
	if err := c.anchors.Check(); err != nil {
		return c, sdk.RefuseSetting("anchor_sides", "(or anchor_ratios): %w", err)
	}
	return c, nil
}

func (c headConfig) convention() boxops.Convention { return boxops.Convention{Inclusive: c.legacy} }

// rpnCoder and boxCoder turn network outputs into boxes.
func (c headConfig) rpnCoder() boxops.Coder { return boxops.Coder{Convention: c.convention()} }

func (c headConfig) boxCoder() boxops.Coder {
	return boxops.Coder{Convention: c.convention(), Std: [4]float32{0.1, 0.1, 0.2, 0.2}}
}

func (c headConfig) align(size int) boxops.RoIAlign {
	return boxops.RoIAlign{Size: size, Samples: 2, Stride: featureStride, Legacy: c.legacy}
}

func (c headConfig) String() string {
	return fmt.Sprintf("%d anchors per cell, %d classes", c.anchors.PerCell(), c.classes)
}
