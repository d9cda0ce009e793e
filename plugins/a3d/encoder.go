package a3d

import (
	"fmt"
	"math"

	"github.com/sugarme/gotch/ts"

	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/ports"
	"github.com/alignedfusion/alignedfusion/sdk/torchstage"
)

// shared is what the encoder leaves in the group for the head.
type shared struct {
	config  encoderConfig
	pyramid *pyramid
	frozen  bool
	hide    float64 // share of the squares that a drawing head wants hidden
}

const sharedName = "a3d.encoder"

// encoder is the stage from volumes to tokens.
type encoder struct {
	*backbone
	pyramid                *pyramid
	tokenWeight, tokenBias *ts.Tensor // [C, C16], [C]
	// volumes are the ports of the volumes: one for a detector, the phases or sequences of a
	// case for a classifier.
	volumes []string
	frozen  bool
	detects bool // a head in this process takes the maps
	shared  *shared
}

func buildEncoder(b *torchstage.Build) (torchstage.Module, error) {
	set, err := sdk.DecodeSettings[encoderSettings](b.Request.Settings)
	if err != nil {
		return nil, err
	}
	c, err := set.config()
	if err != nil {
		return nil, err
	}
	c.bf16, b.Autocast = c.bf16 || b.Request.AMP, false // its own operators know both
	e := &encoder{backbone: newBackbone(b.Params, c, b.Device), pyramid: newPyramid(b.Params, c), frozen: set.Frozen}
	coarse := c.channels()[2]
	e.tokenWeight = b.Params.Parameter("token_proj.weight", []int64{c.tokens, coarse}, torchstage.XavierUniform())
	e.tokenBias = b.Params.Parameter("token_proj.bias", []int64{c.tokens}, torchstage.Zeros())
	if set.Weights != "" {
		if err := loadEncoder(b, c, string(set.Weights)); err != nil {
			return nil, err
		}
	}
	if set.Frozen {
		b.Params.Freeze("")
		// The host reads this note: it may keep the tokens instead of asking again.
		b.Notes = append(b.Notes, "frozen: tokens depend on the volume alone")
	}
	return e, e.declare(b, c)
}

// declare states the ports of this instance: a detector's, or tokens alone for a classifier.
func (e *encoder) declare(b *torchstage.Build, c encoderConfig) error {
	for _, p := range b.Request.Inputs {
		if ports.Scan(p.Name) {
			e.volumes = append(e.volumes, p.Name)
		}
	}
	e.detects = b.Request.Task != "classify"
	switch {
	case e.detects:
		e.volumes = []string{ports.Volume.Name}
	case len(e.volumes) == 0 && len(b.Request.Inputs) > 0:
		return sdk.Errorf(sdk.InvalidArgument, "the data have no volume; pictures are encoded by other plugins, such as classifier")
	case len(e.volumes) == 0:
		e.volumes = []string{ports.Volume.Name}
	}
	seen := intensity
	seen.Low, seen.High = c.low, c.high
	for _, name := range e.volumes {
		b.Inputs = append(b.Inputs, ports.Named(name, ports.Required, ports.SizeMultiple(sizeMultiple), ports.Intensity(seen),
			ports.Shape("N", "1", fmt.Sprint(c.slices), "H", "W")))
		spacing := ports.SpacingOf(name).Declare()
		spacing.Required = c.operator == opAlignShift
		b.Inputs = append(b.Inputs, spacing)
		b.Outputs = append(b.Outputs, ports.TokensOf(name).Declare(ports.Required, ports.Shape("N", "T", fmt.Sprint(c.tokens))))
	}
	if !e.detects {
		return nil
	}
	e.shared = &shared{config: c, pyramid: e.pyramid, frozen: e.frozen}
	b.Group.Put(sharedName, e.shared)
	features := *sdk.FindPort(encoderManifest().Outputs, "features")
	features.Shape = []string{"N", fmt.Sprint(c.pyramid), "H4", "W4"}
	b.Outputs = append(append(append(b.Outputs, features), residents()...), drawnPorts()...)
	return nil
}

// Forward implements torchstage.Module.
func (e *encoder) Forward(s *torchstage.Scope, in *torchstage.Inputs) *torchstage.Outputs {
	out := &torchstage.Outputs{Tensors: map[string]*ts.Tensor{}}
	for _, name := range e.volumes {
		var maps []*ts.Tensor
		if e.frozen {
			s.NoGrad(func() { maps = e.encode(s, in, name, out) })
		} else {
			maps = e.encode(s, in, name, out)
		}
		if s.Err() != nil {
			return nil
		}
		if in.Wanted["features"] {
			out.Tensors["features"] = e.pyramid.forward(s, maps)
		}
		if e.detects {
			for i, resident := range residentMaps {
				out.Tensors[resident] = maps[i]
			}
			tokens := out.Tensors[ports.TokensOf(name).Name]
			out.Tensors[ownTokens] = s.Do("alias", func() (*ts.Tensor, error) { return tokens.Alias(false) })
		}
	}
	return out
}

// encode makes the maps of a volume and its tokens.
func (e *encoder) encode(s *torchstage.Scope, in *torchstage.Inputs, name string, out *torchstage.Outputs) []*ts.Tensor {
	volume := in.Tensors[name]
	if volume == nil {
		s.Failf(sdk.InvalidArgument, "input %q is missing", name)
		return nil
	}
	e.checkVolume(s, name, volume)
	m := e.mixer(s, in, name)
	if s.Err() != nil {
		return nil
	}
	defer m.free()
	if e.detects && e.shared.hide > 0 {
		volume = e.hideSquares(s, in, volume, out)
	}
	maps := e.backbone.forward(s, volume, m, in.Train && !in.Frozen && !e.frozen)
	out.Tensors[ports.TokensOf(name).Name] = e.tokens(s, maps[2])
	return maps
}

// tokens projects every cell of the coarse map: [N, T, C].
func (e *encoder) tokens(s *torchstage.Scope, coarse *ts.Tensor) *ts.Tensor {
	return s.Sub(func(s *torchstage.Scope) *ts.Tensor {
		shape := s.Shape(coarse)
		if s.Err() != nil {
			return nil
		}
		cells := s.Reshape(s.Permute(coarse, 0, 2, 3, 1), shape[0], shape[2]*shape[3], shape[1])
		return s.Linear(cells, e.tokenWeight, e.tokenBias)
	})
}

func (e *encoder) checkVolume(s *torchstage.Scope, name string, volume *ts.Tensor) {
	shape := s.Shape(volume)
	if s.Err() != nil {
		return
	}
	bad := func(wanted, advice string) {
		s.Fail(&sdk.Error{Code: sdk.InvalidArgument, Port: name, Given: fmt.Sprintf("FP32 %v", shape), Wanted: wanted, Advice: advice})
	}
	switch {
	case len(shape) != 5 || shape[1] != 1 || shape[0] < 1:
		bad("FP32 [N 1 D H W]", "")
	case shape[2] != e.slices:
		bad(fmt.Sprintf("%d slices", e.slices), fmt.Sprintf("open the encoder with slices=%d, or give volumes of %d slices", shape[2], e.slices))
	case shape[3] < sizeMultiple || shape[4] < sizeMultiple || shape[3]%sizeMultiple != 0 || shape[4]%sizeMultiple != 0:
		bad(fmt.Sprintf("height and width in multiples of %d", sizeMultiple), "pad the images")
	}
	s.NoGrad(func() {
		// A sum is finite only if every value is (values are of moderate size).
		if sum := s.Scalar(s.Sum(s.Given(volume), nil, false)); s.Err() == nil && (math.IsNaN(sum) || math.IsInf(sum, 0)) {
			s.Fail(&sdk.Error{Code: sdk.InvalidArgument, Port: name, Err: fmt.Errorf("holds NaN or infinite values")})
		}
	})
}

// mixer checks the spacing that comes with a volume and prepares the slice mixing of one call.
func (e *encoder) mixer(s *torchstage.Scope, in *torchstage.Inputs, volume string) *mixer {
	port := ports.SpacingOf(volume).Name
	m := &mixer{operator: e.operator, slices: e.depth(), device: e.device, byWidth: map[int64]*ts.Tensor{}, keep: []float64{0}}
	spacing := in.Tensors[port]
	if spacing == nil {
		if e.operator == opAlignShift {
			s.Fail(&sdk.Error{Code: sdk.InvalidArgument, Port: port, Given: "absent", Wanted: "FP32 [N 3] in mm",
				Advice: "operator=alignshift shifts by the slice distance"})
		}
		return m
	}
	volumes, values := s.Dim(in.Tensors[volume], 0), s.Float32s(spacing)
	if s.Err() != nil {
		return m
	}
	if int64(len(values)) != 3*volumes {
		s.Fail(&sdk.Error{Code: sdk.InvalidArgument, Port: port, Given: fmt.Sprintf("FP32 %v", s.Shape(spacing)), Wanted: fmt.Sprintf("FP32 [%d 3]", volumes)})
		return m
	}
	for i, v := range values {
		if !(v > 0) || math.IsInf(float64(v), 0) {
			s.Fail(&sdk.Error{Code: sdk.InvalidArgument, Port: port, Given: fmt.Sprintf("%g along %s in volume %d", v, []string{"z", "y", "x"}[i%3], i/3),
				Wanted: "a finite distance above 0 mm"})
			return m
		}
	}
	if e.operator == opAlignShift {
		m.keep = nil
		for n := range volumes {
			m.keep = append(m.keep, 1-math.Min(alignReferenceMM/float64(values[3*n]), 1))
		}
	}
	return m
}
