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
}

const sharedName = "a3d.encoder"

// encoder is the stage from a volume to tokens.
type encoder struct {
	*backbone
	pyramid                *pyramid
	tokenWeight, tokenBias *ts.Tensor // [C, C16], [C]
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
	e := &encoder{backbone: newBackbone(b.Params, c, b.Device), pyramid: newPyramid(b.Params, c)}
	coarse := c.channels()[2]
	e.tokenWeight = b.Params.Parameter("token_proj.weight", []int64{c.tokens, coarse}, torchstage.XavierUniform())
	e.tokenBias = b.Params.Parameter("token_proj.bias", []int64{c.tokens}, torchstage.Zeros())
	if set.Weights != "" {
		if err := loadEncoder(b, c, string(set.Weights)); err != nil {
			return nil, err
		}
	}
	b.Group.Put(sharedName, &shared{c, e.pyramid})
	m := encoderManifest()
	m.Inputs[0].Shape = []string{"N", "1", fmt.Sprint(c.slices), "H", "W"}
	m.Inputs[0].Intensity.Low, m.Inputs[0].Intensity.High = c.low, c.high
	m.Inputs[1].Required = c.operator == opAlignShift
	m.Outputs[0].Shape = []string{"N", "T", fmt.Sprint(c.tokens)}
	m.Outputs[1].Shape = []string{"N", fmt.Sprint(c.pyramid), "H4", "W4"}
	b.Inputs, b.Outputs = m.Inputs, m.Outputs
	return e, nil
}

// Forward implements torchstage.Module.
func (e *encoder) Forward(s *torchstage.Scope, in *torchstage.Inputs) *torchstage.Outputs {
	volume := in.Tensors[ports.Volume.Name]
	e.checkVolume(s, volume)
	m := e.mixer(s, in)
	if s.Err() != nil {
		return nil
	}
	defer m.free()
	maps := e.backbone.forward(s, volume, m, in.Train && !in.Frozen)
	tokens := e.tokens(s, maps[2])
	out := &torchstage.Outputs{Tensors: map[string]*ts.Tensor{volumeTokens.Name: tokens}}
	for i, name := range residentMaps {
		out.Tensors[name] = maps[i]
	}
	out.Tensors[ownTokens] = s.Do("alias", func() (*ts.Tensor, error) { return tokens.Alias(false) })
	if in.Wanted["features"] {
		out.Tensors["features"] = e.pyramid.forward(s, maps)
	}
	return out
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

func (e *encoder) checkVolume(s *torchstage.Scope, volume *ts.Tensor) {
	shape := s.Shape(volume)
	if s.Err() != nil {
		return
	}
	bad := func(wanted, advice string) {
		s.Fail(&sdk.Error{Code: sdk.InvalidArgument, Port: ports.Volume.Name, Given: fmt.Sprintf("FP32 %v", shape), Wanted: wanted, Advice: advice})
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
		if sum := s.Scalar(s.Sum(volume, nil, false)); s.Err() == nil && (math.IsNaN(sum) || math.IsInf(sum, 0)) {
			s.Fail(&sdk.Error{Code: sdk.InvalidArgument, Port: ports.Volume.Name, Err: fmt.Errorf("holds NaN or infinite values")})
		}
	})
}

// mixer checks the spacing and prepares the slice mixing of one call.
func (e *encoder) mixer(s *torchstage.Scope, in *torchstage.Inputs) *mixer {
	m := &mixer{operator: e.operator, slices: e.depth(), device: e.device, byWidth: map[int64]*ts.Tensor{}, keep: []float64{0}}
	spacing := in.Tensors[ports.Spacing.Name]
	if spacing == nil {
		if e.operator == opAlignShift {
			s.Fail(&sdk.Error{Code: sdk.InvalidArgument, Port: ports.Spacing.Name, Given: "absent", Wanted: "FP32 [N 3] in mm",
				Advice: "operator=alignshift shifts by the slice distance"})
		}
		return m
	}
	volumes, values := s.Dim(in.Tensors[ports.Volume.Name], 0), s.Float32s(spacing)
	if s.Err() != nil {
		return m
	}
	if int64(len(values)) != 3*volumes {
		s.Fail(&sdk.Error{Code: sdk.InvalidArgument, Port: ports.Spacing.Name, Given: fmt.Sprintf("FP32 %v", s.Shape(spacing)), Wanted: fmt.Sprintf("FP32 [%d 3]", volumes)})
		return m
	}
	for i, v := range values {
		if !(v > 0) || math.IsInf(float64(v), 0) {
			s.Fail(&sdk.Error{Code: sdk.InvalidArgument, Port: ports.Spacing.Name, Given: fmt.Sprintf("%g along %s in volume %d", v, []string{"z", "y", "x"}[i%3], i/3),
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
