package a3d

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"

	"github.com/sugarme/gotch"
	"github.com/sugarme/gotch/ts"

	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/ports"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
	"github.com/alignedfusion/alignedfusion/sdk/torchstage"
)

// head is the stage from tokens and feature maps to boxes.
type head struct {
	config  headConfig
	device  gotch.Device
	shared  *shared
	fusion  *ts.Tensor // [C16, C], zero at the start
	joint   *ts.Tensor // [C16, J], zero at the start; nil without a joint token
	gate    *ts.Tensor // [P, J], zero at the start; nil without a joint token
	rpn     *rpn
	boxHead *boxHead
	mask    *maskHead // nil without mask=true
}

func buildHead(b *torchstage.Build) (torchstage.Module, error) {
	left, ok := b.Group.Get(sharedName).(*shared)
	if !ok {
		return nil, sdk.Errorf(sdk.FailedPrecondition, "the head needs plugin a3d's encoder: open it first, in the same process and group")
	}
	classes := 1
	if len(b.Request.Labels) > 0 {
		classes = len(b.Request.Labels[0].Classes)
	}
	set, err := sdk.DecodeSettings[headSettings](b.Request.Settings)
	if err != nil {
		return nil, err
	}
	c, err := set.config(left.config, classes)
	if err != nil {
		return nil, err
	}
	b.Autocast = false // as its encoder
	for _, p := range b.Request.Inputs {
		if p.Name == volumeTokens.Name && len(p.Shape) == 3 && p.Shape[2] != "C" && p.Shape[2] != fmt.Sprint(c.tokens) {
			return nil, &sdk.Error{Code: sdk.InvalidArgument, Port: p.Name, Given: "FP32 " + tensor.FormatShape(p.Shape),
				Wanted: fmt.Sprintf("FP32 [N T %d]", c.tokens), Advice: "a fusion stage must give tokens.volume back in the encoder's width"}
		}
	}
	h := &head{config: c, device: b.Device, shared: left}
	coarse := left.config.channels()[2]
	h.fusion = b.Params.Parameter("fusion_proj.weight", []int64{coarse, c.tokens}, torchstage.Zeros())
	b.Params.Optional("fusion_joint.*", "fusion_gate.*") // a detector trained without fusion has none
	m := headManifest()
	m.Inputs[0].Shape = []string{"N", "T", fmt.Sprint(c.tokens)}
	for _, p := range b.Request.Inputs {
		if p.Name != ports.Joint.Name {
			continue
		}
		width, err := strconv.ParseInt(p.Shape[len(p.Shape)-1], 10, 64)
		if err != nil || width <= 0 || len(p.Shape) != 2 {
			return nil, &sdk.Error{Code: sdk.InvalidArgument, Port: p.Name, Given: "FP32 " + tensor.FormatShape(p.Shape),
				Wanted: "FP32 [N J] with J a number", Advice: "the fusion stage must say its joint token's width when it is opened"}
		}
		h.joint = b.Params.Parameter("fusion_joint.weight", []int64{coarse, width}, torchstage.Zeros())
		h.gate = b.Params.Parameter("fusion_gate.weight", []int64{int64(left.config.pyramid), width}, torchstage.Zeros())
		m.Inputs[1].Shape = p.Shape
	}
	h.rpn = newRPN(b.Params, c, b.Device)
	h.boxHead = newBoxHead(b.Params, c, b.Device)
	if c.mask {
		h.mask = newMaskHead(b.Params, c, b.Device)
	} else {
		b.Losses = slices.DeleteFunc(m.Losses, func(name string) bool { return name == "mask" })
	}
	if set.Weights != "" {
		if err := loadHead(b, c, string(set.Weights)); err != nil {
			return nil, err
		}
	}
	b.Inputs, b.Outputs = m.Inputs, m.Outputs
	return h, nil
}

// Forward implements torchstage.Module.
func (h *head) Forward(s *torchstage.Scope, in *torchstage.Inputs) *torchstage.Outputs {
	maps := make([]*ts.Tensor, len(residentMaps))
	for i, name := range residentMaps {
		maps[i] = in.Resident[name]
	}
	maps[2] = h.fuse(s, maps[2], in.Tensors[volumeTokens.Name], in.Resident[ownTokens], in.Tensors[ports.Joint.Name])
	features := h.scale(s, h.shared.pyramid.forward(s, maps), in.Tensors[ports.Joint.Name])
	shape := s.Shape(features)
	if s.Err() != nil {
		return nil
	}
	images := int(shape[0])
	logits, deltas := h.rpn.forward(s, features)
	if in.Train {
		targets := h.targets(s, in, images)
		if s.Err() != nil {
			return nil
		}
		return h.losses(s, in, features, logits, deltas, targets)
	}
	return h.detect(s, features, logits, deltas)
}

// fuse adds what fusion changed in the tokens to the coarse map, and the joint token,
// what the report says of the whole patient, everywhere. Without fusion, and with
// projections that are still zero, the map stays what it is to the last bit.
func (h *head) fuse(s *torchstage.Scope, coarse, fused, own, joint *ts.Tensor) *ts.Tensor {
	shape, given, want := s.Shape(coarse), s.Shape(fused), s.Shape(own)
	if s.Err() != nil {
		return coarse
	}
	if fmt.Sprint(given) != fmt.Sprint(want) {
		s.Fail(&sdk.Error{Code: sdk.InvalidArgument, Port: volumeTokens.Name, Given: fmt.Sprintf("FP32 %v", given),
			Wanted: fmt.Sprintf("FP32 %v", want), Advice: "a fusion stage must give tokens.volume back in the shape it got"})
		return coarse
	}
	return s.Sub(func(s *torchstage.Scope) *ts.Tensor {
		change := s.Linear(s.Sub2(fused, own), h.fusion, nil)
		if h.joint != nil {
			if joint == nil {
				s.Fail(&sdk.Error{Code: sdk.InvalidArgument, Port: ports.Joint.Name, Given: "missing", Wanted: "the joint token announced when the head was opened"})
				return nil
			}
			change = s.Add(change, s.Unsqueeze(s.Linear(joint, h.joint, nil), 1))
		}
		residual := s.Permute(s.Reshape(change, shape[0], shape[2], shape[3], shape[1]), 0, 3, 1, 2)
		return s.Add(coarse, residual)
	})
}

// scale multiplies every channel of the FPN map by 1 + a projection of the joint token
// (FiLM, Perez et al. 2018, without its shift). A finding that decides which of two
// kinds of spot is the lesion is a product of the two; a shift alone teaches it only
// slowly. The projection starts at zero: the map stays what it is to the last bit.
func (h *head) scale(s *torchstage.Scope, features, joint *ts.Tensor) *ts.Tensor {
	if h.gate == nil || s.Err() != nil {
		return features
	}
	return s.Sub(func(s *torchstage.Scope) *ts.Tensor {
		factor := s.AddScalar(s.Linear(joint, h.gate, nil), 1)
		return s.Mul(features, s.Unsqueeze(s.Unsqueeze(factor, 2), 3))
	})
}

// losses runs the training half: proposals, sampling, box and mask heads.
func (h *head) losses(s *torchstage.Scope, in *torchstage.Inputs, features, logits, deltas *ts.Tensor, targets []target) *torchstage.Outputs {
	shape := s.Shape(features)
	if s.Err() != nil {
		return nil
	}
	out := &torchstage.Outputs{Losses: map[string]*ts.Tensor{}, Metrics: map[string]float64{}}
	rows, columns := int(shape[2]), int(shape[3])
	h.rpn.loss(s, logits, deltas, h.rpn.draw(s, in.Seed, rows, columns, targets), out)
	proposals, err := h.rpn.proposals(s, logits, deltas, rows, columns, h.config.preTrain, h.config.postTrain)
	if errors.Is(err, errDiverged) {
		// No box head without proposals. A loss that is no number makes the host skip the
		// step; it ends training with the batch's cases when that happens again.
		out.Losses["rpn_box"] = s.AddScalar(s.Zeros(h.device), math.NaN())
		return out
	}
	if s.Fail(err); s.Err() != nil {
		return nil
	}
	var suspicion []float32
	if all := regions(proposals); h.config.hard > 0 && len(all) > 0 {
		suspicion = h.boxHead.suspicion(s, features, all)
	}
	picked := h.config.sampleRoIs(in.Seed, proposals, targets, suspicion)
	h.boxHead.loss(s, features, picked, out)
	if h.mask != nil {
		h.mask.loss(s, features, picked, out)
	}
	return out
}
