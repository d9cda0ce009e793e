package a3d

import (
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

// presets: densenet121 is the published detector; tiny trains on a CPU in minutes.
var presets = map[string]arch{
	"densenet121": {
		stem: 64, growth: 32, bottle: 4, layers: [3]int{6, 12, 24}, pyramid: 512, tokens: 256,
		rpn: 512, fc: 2048, maskConv: 256,
		sides: []float32{16, 24, 32, 48, 96, 192}, ratios: []float32{0.5, 1, 2},
		preTrain: 12000, postTrain: 2000, preTest: 6000, postTest: 300, rois: 64,
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

// encoderConfig is what the encoder's settings say.
type encoderConfig struct {
	arch
	slices     int64 // of the volume given
	operator   string
	checkpoint bool
	bf16       bool
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

func parseEncoder(set sdk.Settings) (encoderConfig, error) {
	c := encoderConfig{arch: presets[set.String("preset")], slices: int64(set.Int("slices")), operator: set.String("operator")}
	c.checkpoint = set.Bool("checkpoint")
	c.bf16 = set.String("precision") == "bf16"
	if n := int64(set.Int("tokens")); n > 0 {
		c.tokens = n
	}
	return c, nil
}

// window returns the raw intensities that become 0 and 255 before 50 is subtracted.
func window(set sdk.Settings) (low, high float64, err error) {
	w := set.Floats("window")
	if len(w) != 2 || !(w[0] < w[1]) {
		return 0, 0, sdk.Errorf(sdk.InvalidArgument, "setting window: %q given, want low,high in HU with low below high", set.String("window"))
	}
	return w[0], w[1], nil
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
}

func parseHead(set sdk.Settings, enc encoderConfig, classes int) (headConfig, error) {
	c := headConfig{arch: enc.arch, classes: int64(max(classes, 1)), bf16: enc.bf16}
	c.legacy = set.String("compat") == "mmdet1"
	c.mask = set.Bool("mask")
	c.scoreMin = float32(set.Float("score_threshold"))
	c.nms = float32(set.Float("nms"))
	c.detections = set.Int("detections")
	pick := func(name string, into *[]float32) {
		if v := set.Floats(name); len(v) > 0 {
			*into = nil
			for _, f := range v {
				*into = append(*into, float32(f))
			}
		}
	}
	pick("anchor_sides", &c.sides)
	pick("anchor_ratios", &c.ratios)
	if n := set.Int("rois"); n > 0 {
		c.rois = n
	}
	c.anchors = boxops.Anchors{Stride: featureStride, Sides: c.sides, Ratios: c.ratios, Rounded: c.legacy}
	if err := c.anchors.Check(); err != nil {
		return c, sdk.Errorf(sdk.InvalidArgument, "settings anchor_sides, anchor_ratios: %w", err)
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
