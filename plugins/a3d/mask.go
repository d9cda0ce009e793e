package a3d

import (
	"fmt"

	"github.com/sugarme/gotch"
	"github.com/sugarme/gotch/ts"

	"github.com/alignedfusion/alignedfusion/plugins/a3d/boxops"
	"github.com/alignedfusion/alignedfusion/sdk/torchstage"
)

// Mask head: sizes and loss as published.
const (
	maskPool   = 14
	maskSize   = 28
	maskConvs  = 4
	diceSmooth = 0.01
)

// maskHead learns the shape of the lesions from pseudo-masks; it shares the features
// and helps them, and returns nothing.
type maskHead struct {
	config             headConfig
	device             gotch.Device
	conv, convBias     [maskConvs]*ts.Tensor
	up, upBias         *ts.Tensor
	logits, logitsBias *ts.Tensor
}

func newMaskHead(p *torchstage.Params, c headConfig, device gotch.Device) *maskHead {
	h := &maskHead{config: c, device: device}
	in := c.pyramid
	for i := range maskConvs {
		name := fmt.Sprintf("mask_head.convs.%d.conv.", i)
		h.conv[i] = p.Parameter(name+"weight", []int64{c.maskConv, in, 3, 3}, torchstage.KaimingNormal(true))
		h.convBias[i] = p.Parameter(name+"bias", []int64{c.maskConv}, torchstage.Zeros())
		in = c.maskConv
	}
	h.up = p.Parameter("mask_head.upsample.weight", []int64{in, c.maskConv, 2, 2}, torchstage.KaimingNormal(true))
	h.upBias = p.Parameter("mask_head.upsample.bias", []int64{c.maskConv}, torchstage.Zeros())
	h.logits = p.Parameter("mask_head.conv_logits.weight", []int64{c.classes + 1, c.maskConv, 1, 1}, torchstage.KaimingNormal(true))
	h.logitsBias = p.Parameter("mask_head.conv_logits.bias", []int64{c.classes + 1}, torchstage.Zeros())
	return h
}

// forward returns mask logits [K, classes+1, 28, 28].
func (h *maskHead) forward(s *torchstage.Scope, features *ts.Tensor, rois []roi) *ts.Tensor {
	return s.Sub(func(s *torchstage.Scope) *ts.Tensor {
		cells := pool(s, h.config, features, rois, maskPool, h.device)
		x := s.Permute(s.Reshape(cells, int64(len(rois)), maskPool, maskPool, -1), 0, 3, 1, 2)
		if h.config.bf16 {
			x = s.Cast(x, gotch.BFloat16)
		}
		for i := range h.conv {
			x = s.Relu(s.Conv2d(x, like(s, h.conv[i], x), like(s, h.convBias[i], x), 1, 1, 1))
		}
		x = s.Relu(s.ConvTranspose2d(x, like(s, h.up, x), like(s, h.upBias, x), 2, 0))
		return toFloat(s, s.Conv2d(x, like(s, h.logits, x), like(s, h.logitsBias, x), 1, 0, 1))
	})
}

// loss adds mask: soft Dice (Milletari et al. 2016, with smoothing 0.01) of every
// positive region whose lesion has a RECIST measurement, averaged.
func (h *maskHead) loss(s *torchstage.Scope, features *ts.Tensor, rois []roi, out *torchstage.Outputs) {
	var positive []roi
	var masks []float32
	var rows []int64
	for _, r := range rois {
		if r.match == nil || !r.match.masked {
			continue
		}
		rows = append(rows, int64(len(positive))*(h.config.classes+1)+r.match.class+1)
		positive = append(positive, r)
		masks = append(masks, boxops.EllipseOf(r.match.recist).Mask(r.box, maskSize)...)
	}
	if len(positive) == 0 {
		out.Losses["mask"] = s.Zeros(h.device)
		return
	}
	n := int64(len(positive))
	logits := s.Reshape(h.forward(s, features, positive), n*(h.config.classes+1), maskSize*maskSize)
	picked := s.IndexSelect(logits, 0, s.To(s.FromInt64s(rows), h.device))
	out.Losses["mask"] = softDice(s, picked, s.To(s.FromFloat32s(masks, n, maskSize*maskSize), h.device))
}

// softDice is 1 - (2 Σ p t + 0.01) / (Σ p + Σ t + 0.01) with p the sigmoid of the logits
// [K, cells], averaged over K.
func softDice(s *torchstage.Scope, logits, target *ts.Tensor) *ts.Tensor {
	return s.Sub(func(s *torchstage.Scope) *ts.Tensor {
		p := s.Sigmoid(logits)
		overlap := s.AddScalar(s.MulScalar(s.Sum(s.Mul(p, target), []int64{1}, false), 2), diceSmooth)
		sizes := s.AddScalar(s.Add(s.Sum(p, []int64{1}, false), s.Sum(target, []int64{1}, false)), diceSmooth)
		dice := s.Mean(s.Div(overlap, sizes), []int64{0}, false)
		return s.AddScalar(s.MulScalar(dice, -1), 1)
	})
}
