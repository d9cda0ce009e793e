package a3d

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/safetensors"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
	"github.com/alignedfusion/alignedfusion/sdk/torchstage"
)

// Names in weights files. A detector's state dict has the parameters of both stages;
// each takes its own. Mixing weights stand in the reference's checkpoints also for
// the convolutions that do not mix: these are accepted and unused.
var (
	headNames    = []string{"rpn_head.*", "bbox_head.*", "mask_head.*", "fusion_*"}
	encoderNames = []string{"backbone.*", "token_proj.*"}
	unusedNames  = []string{
		"*.num_batches_tracked",
		"backbone.conv0.adaptive_align_weights",
		"backbone.transition*.conv.adaptive_align_weights",
	}
)

// torchvision's older files write norm1 as norm.1.
var oldDenseName = regexp.MustCompile(`^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\..*)$`)

// Layers that torchvision's densenet121 has beyond the third dense block.
var truncatedNames = []string{"denseblock4.", "transition3.", "norm5."}

// fromImageNet turns a name of torchvision's densenet121 into one of the encoder; ""
// leaves the tensor out.
func fromImageNet(name string) string {
	name, ok := strings.CutPrefix(name, "features.")
	if !ok {
		return "" // the classifier
	}
	for _, beyond := range truncatedNames {
		if strings.HasPrefix(name, beyond) {
			return ""
		}
	}
	if m := oldDenseName.FindStringSubmatch(name); m != nil {
		name = m[1] + m[2]
	}
	return prefix + name
}

// greenChannel keeps the green input channel of ImageNet's first convolution.
func greenChannel(inputs int64) func(name string, t *tensor.Tensor) (*tensor.Tensor, error) {
	return func(name string, t *tensor.Tensor) (*tensor.Tensor, error) {
		if name != prefix+"conv0.weight" || len(t.Shape) != 4 || t.Shape[1] != 3 || inputs == 3 {
			return t, nil
		}
		size := int64(t.DType.Size())
		plane := t.Shape[2] * t.Shape[3] * size
		out, err := tensor.New(t.DType, t.Shape[0], inputs, t.Shape[2], t.Shape[3])
		if err != nil {
			return nil, err
		}
		for o := range t.Shape[0] {
			green := t.Data[(o*3+1)*plane : (o*3+2)*plane]
			for i := range inputs {
				copy(out.Data[(o*inputs+i)*plane:], green)
			}
		}
		return out, nil
	}
}

// layout says whose names a weights file has.
type layout int

const (
	detectorLayout layout = iota // backbone.*, rpn_head.*, …
	backboneLayout               // the reference's backbone alone: conv0.weight, …
	imageNetLayout               // torchvision's densenet121: features.*
)

func layoutOf(file string) (layout, error) {
	f, err := safetensors.Open(file)
	if err != nil {
		return 0, &sdk.Error{Code: sdk.InvalidArgument, Err: fmt.Errorf("setting weights: %w", err),
			Advice: "weights are safetensors; `alignedfusion weights import` converts others"}
	}
	defer f.Close()
	found := detectorLayout
	for _, name := range f.Names() {
		switch {
		case strings.HasPrefix(name, "features."):
			return imageNetLayout, nil
		case strings.HasPrefix(name, prefix):
			return detectorLayout, nil
		case strings.HasPrefix(name, "denseblock1."):
			found = backboneLayout
		}
	}
	return found, nil
}

// loadEncoder starts the encoder from a detector's state dict, from that of its backbone
// alone, or from torchvision's ImageNet weights, whose first convolution gives its green
// channel.
func loadEncoder(b *torchstage.Build, c encoderConfig, file string) error {
	names, err := layoutOf(file)
	if err != nil {
		return err
	}
	opt := torchstage.LoadOptions{Ignore: append(append([]string{}, headNames...), unusedNames...), Missing: []string{"token_proj.*"}}
	switch names {
	case backboneLayout:
		for _, pattern := range unusedNames {
			opt.Ignore = append(opt.Ignore, strings.TrimPrefix(pattern, prefix))
		}
		opt.Rename = func(name string) string { return prefix + name }
	case imageNetLayout:
		inputs := int64(1)
		if c.operator == opFlat {
			inputs = c.slices
		}
		opt.Rename, opt.Transform = fromImageNet, greenChannel(inputs)
		opt.Missing = append(opt.Missing, "*.adaptive_align_weights", "backbone.reductionz*", "backbone.lateral*")
		b.Notes = append(b.Notes, "backbone started from ImageNet weights")
	}
	return b.Params.LoadFile(b.S, file, opt)
}

// loadHead starts the head from a detector's state dict. The mask head may be absent,
// and is left out when mask=false.
func loadHead(b *torchstage.Build, c headConfig, file string) error {
	names, err := layoutOf(file)
	if err != nil {
		return err
	}
	if names != detectorLayout {
		return sdk.Errorf(sdk.InvalidArgument, "setting weights: %s holds ImageNet weights or a backbone alone, which the head has no use for; give them to the encoder", file)
	}
	opt := torchstage.LoadOptions{Ignore: append(append([]string{}, encoderNames...), unusedNames...), Missing: []string{"fusion_*", "mask_head.*"}}
	if !c.mask {
		opt.Ignore = append(opt.Ignore, "mask_head.*")
	}
	return b.Params.LoadFile(b.S, file, opt)
}
