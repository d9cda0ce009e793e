package a3d

import (
	"fmt"
	"math"
	"math/rand/v2"

	"github.com/sugarme/gotch"
	"github.com/sugarme/gotch/ts"

	"github.com/alignedfusion/alignedfusion/plugins/a3d/boxops"
	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/torchstage"
)

// Region proposal network: matching, sampling and loss as published.
const (
	rpnNegativeIoU = 0.3
	rpnMinimumIoU  = 0.3
	rpnSamples     = 32
	rpnPositives   = 0.5
	rpnBeta        = 1.0 / 9
	proposalNMS    = 0.7
	// focalPrior is the objectness that every anchor starts with under the focal loss.
	focalPrior = 0.01
)

type rpn struct {
	config                             headConfig
	device                             gotch.Device
	conv, convBias                     *ts.Tensor
	cls, clsBias, regress, regressBias *ts.Tensor
	grid                               []boxops.Box // anchors of the map size seen last
	gridRows, gridColumns              int
	onDevice                           deviceAnchors
}

func newRPN(p *torchstage.Params, c headConfig, device gotch.Device) *rpn {
	n := int64(c.anchors.PerCell())
	small := torchstage.Normal(0, 0.01)
	prior := torchstage.Zeros()
	if c.gamma > 0 { // else the many backgrounds are all of the first loss (Lin et al. 2017, 3.3)
		prior = torchstage.Constant(-math.Log((1 - focalPrior) / focalPrior))
	}
	return &rpn{
		config:      c,
		device:      device,
		onDevice:    deviceAnchors{assigns: device.Name != gotch.CPU.Name, proposes: device.Name != gotch.CPU.Name && cudaKernels()},
		conv:        p.Parameter("rpn_head.rpn_conv.weight", []int64{c.rpn, c.pyramid, 3, 3}, small),
		convBias:    p.Parameter("rpn_head.rpn_conv.bias", []int64{c.rpn}, torchstage.Zeros()),
		cls:         p.Parameter("rpn_head.rpn_cls.weight", []int64{n, c.rpn, 1, 1}, small),
		clsBias:     p.Parameter("rpn_head.rpn_cls.bias", []int64{n}, prior),
		regress:     p.Parameter("rpn_head.rpn_reg.weight", []int64{4 * n, c.rpn, 1, 1}, small),
		regressBias: p.Parameter("rpn_head.rpn_reg.bias", []int64{4 * n}, torchstage.Zeros()),
	}
}

// forward returns the objectness logits [N, anchors] and the box deltas
// [N, anchors, 4], in the order of boxops.Anchors.Grid.
func (r *rpn) forward(s *torchstage.Scope, features *ts.Tensor) (logits, deltas *ts.Tensor) {
	out := s.SubAll(func(s *torchstage.Scope) []*ts.Tensor {
		if r.config.bf16 {
			features = s.Cast(features, gotch.BFloat16)
		}
		conv := func(x, weight, bias *ts.Tensor, padding int64) *ts.Tensor {
			return s.Conv2d(x, like(s, weight, x), like(s, bias, x), 1, padding, 1)
		}
		x := s.Relu(conv(features, r.conv, r.convBias, 1))
		shape := s.Shape(x)
		if s.Err() != nil {
			return []*ts.Tensor{nil, nil}
		}
		anchors := shape[2] * shape[3] * int64(r.config.anchors.PerCell())
		cls := s.Permute(toFloat(s, conv(x, r.cls, r.clsBias, 0)), 0, 2, 3, 1)
		reg := s.Permute(toFloat(s, conv(x, r.regress, r.regressBias, 0)), 0, 2, 3, 1)
		return []*ts.Tensor{s.Reshape(cls, shape[0], anchors), s.Reshape(reg, shape[0], anchors, 4)}
	})
	return out[0], out[1]
}

func (r *rpn) anchors(rows, columns int) []boxops.Box {
	if r.gridRows != rows || r.gridColumns != columns {
		r.grid, r.gridRows, r.gridColumns = r.config.anchors.Grid(rows, columns), rows, columns
		r.onDevice.free()
	}
	return r.grid
}

// random returns the generator of one image's sampling; what names its use.
func random(seed uint64, what string, image int) *rand.Rand {
	return torchstage.NewRand(seed, fmt.Sprintf("%s %d", what, image))
}

// anchorSample are the anchors drawn for the loss, numbered over all images, and
// what they should have become.
type anchorSample struct {
	index  []int64
	labels []float32 // 1 for lesion, 0 for background
	// positive are the indices of the lesions' anchors, deltas their targets, four each.
	positive []int64
	deltas   []float32
}

func (r *rpn) matcher() boxops.Matcher {
	return boxops.Matcher{Convention: r.config.convention(), PositiveIoU: r.config.rpnIoU, NegativeIoU: rpnNegativeIoU, MinimumIoU: rpnMinimumIoU}
}

// sampler takes all anchors for the focal loss.
func (r *rpn) sampler() boxops.Sampler {
	if r.config.gamma > 0 {
		return boxops.Sampler{Count: math.MaxInt32, PositiveFraction: rpnPositives}
	}
	return boxops.Sampler{Count: rpnSamples, PositiveFraction: rpnPositives}
}

// inside reports which anchors lie within an image.
func (r *rpn) inside(rows, columns int) []bool {
	return r.config.convention().Inside(r.anchors(rows, columns), float32(columns*featureStride), float32(rows*featureStride))
}

// sample matches the anchors of every image to its lesions and draws from them.
func (r *rpn) sample(seed uint64, rows, columns int, targets []target) anchorSample {
	anchors, inside := r.anchors(rows, columns), r.inside(rows, columns)
	coder, matcher, sampler := r.config.rpnCoder(), r.matcher(), r.sampler()
	var out anchorSample
	for n, t := range targets {
		lesions := t.boxes()
		assigned := matcher.Assign(anchors, lesions, t.ignore, inside)
		positives, backgrounds := sampler.Sample(assigned, random(seed, "rpn", n))
		base := int64(n) * int64(len(anchors))
		for _, i := range positives {
			out.index, out.labels = append(out.index, base+int64(i)), append(out.labels, 1)
			out.positive = append(out.positive, base+int64(i))
			d := coder.Encode(anchors[i], lesions[assigned[i]])
			out.deltas = append(out.deltas, d[:]...)
		}
		for _, i := range backgrounds {
			out.index, out.labels = append(out.index, base+int64(i)), append(out.labels, 0)
		}
	}
	return out
}

// drawn is an anchorSample on the device. The tensors are nil where there are none.
type drawn struct {
	index, labels, positive, deltas *ts.Tensor
	count, positives                int
}

func (a anchorSample) upload(s *torchstage.Scope, device gotch.Device) drawn {
	d := drawn{count: len(a.index), positives: len(a.positive)}
	if d.count > 0 {
		d.index, d.labels = s.To(s.FromInt64s(a.index), device), s.To(s.FromFloat32s(a.labels), device)
	}
	if n := int64(d.positives); n > 0 {
		d.positive, d.deltas = s.To(s.FromInt64s(a.positive), device), s.To(s.FromFloat32s(a.deltas, n, 4), device)
	}
	return d
}

// loss adds rpn_cls (binary cross-entropy) and rpn_box (smooth L1), both divided by
// the number of sampled anchors; with the focal loss by that of the lesions' anchors.
func (r *rpn) loss(s *torchstage.Scope, logits, deltas *ts.Tensor, sample drawn, out *torchstage.Outputs) {
	out.Metrics["rpn_positives"] = float64(sample.positives)
	out.Losses["rpn_cls"], out.Losses["rpn_box"] = s.Zeros(r.device), s.Zeros(r.device)
	if sample.count == 0 {
		return
	}
	pick := func(x, index *ts.Tensor, shape ...int64) *ts.Tensor {
		return s.IndexSelect(s.Reshape(x, shape...), 0, index)
	}
	share := 1 / float64(sample.count)
	x := pick(logits, sample.index, -1)
	each := s.BCEWithLogits(x, sample.labels)
	if r.config.gamma > 0 {
		share = 1 / float64(max(1, sample.positives))
		each = focal(s, each, x, sample.labels, r.config.gamma, r.config.alpha)
	}
	out.Losses["rpn_cls"] = s.MulScalar(s.Sum(each, nil, false), share)
	if sample.positives > 0 {
		l1 := s.SmoothL1(pick(deltas, sample.positive, -1, 4), sample.deltas, rpnBeta)
		out.Losses["rpn_box"] = s.MulScalar(s.Sum(l1, nil, false), share)
	}
}

// focal weighs the cross-entropy of logits with labels 0 and 1 by alpha_t·(1-p_t)^gamma (Lin et
// al. 2017, eq. 5). 1-p_t is the probability of the other label, whose cross-entropy is
// -log(1-p_t): so nothing cancels, and no logarithm of 0 is taken.
func focal(s *torchstage.Scope, entropy, logits, labels *ts.Tensor, gamma, alpha float64) *ts.Tensor {
	other := s.AddScalar(s.MulScalar(labels, -1), 1)
	factor := s.Exp(s.MulScalar(s.BCEWithLogits(logits, other), -gamma))
	weights := s.AddScalar(s.MulScalar(labels, 2*alpha-1), 1-alpha)
	return s.Mul(weights, s.Mul(factor, entropy))
}

// errDiverged is returned when the network's outputs are no numbers.
var errDiverged = sdk.Errorf(sdk.Internal, "region proposals are not finite: the network has diverged; lower the learning rate or the clipping norm")

// proposed are the regions of an image that may hold a lesion, with their objectness.
type proposed struct {
	boxes      []boxops.Box
	objectness []float32
}

// proposals returns the best boxes of every image, highest score first: pre by score,
// decoded, clipped to the image, then at most post after NMS. It returns errDiverged
// when a box is not finite.
func (r *rpn) proposals(s *torchstage.Scope, logits, deltas *ts.Tensor, rows, columns, pre, post int) ([]proposed, error) {
	if r.onDevice.proposes {
		return r.deviceProposals(s, logits, deltas, rows, columns, pre, post)
	}
	anchors := r.anchors(rows, columns)
	convention, coder := r.config.convention(), r.config.rpnCoder()
	width, height := float32(columns*featureStride), float32(rows*featureStride)
	images := int(s.Dim(logits, 0))
	out := make([]proposed, images)
	var read [][]float64 // of each image: anchors, their deltas, their objectness
	s.NoGrad(func() {
		s.SubAll(func(s *torchstage.Scope) []*ts.Tensor {
			var back []*ts.Tensor
			for n := range int64(images) {
				best, index := topk(s, s.Select(logits, 0, n), int64(min(pre, len(anchors))))
				back = append(back, index, s.IndexSelect(s.Select(deltas, 0, n), 0, index), s.Sigmoid(best))
			}
			read = s.Floats(back...)
			return nil
		})
	})
	if s.Err() != nil {
		return out, nil
	}
	for n := range images {
		which, values, objectness := read[3*n], singles(read[3*n+1]), singles(read[3*n+2])
		boxes := make([]boxops.Box, len(which))
		for i, a := range which {
			boxes[i] = convention.Clip(coder.Decode(anchors[int(a)], [4]float32(values[4*i:])), width, height)
			if !boxes[i].Finite() {
				return out, errDiverged
			}
		}
		for _, k := range convention.NMS(boxes, proposalNMS, post) {
			out[n].boxes, out[n].objectness = append(out[n].boxes, boxes[k]), append(out[n].objectness, objectness[k])
		}
	}
	return out, nil
}

// topk returns the k largest values of a vector and their indices, largest first.
func topk(s *torchstage.Scope, x *ts.Tensor, k int64) (values, index *ts.Tensor) {
	values = s.Do("topk", func() (*ts.Tensor, error) {
		v, i, err := x.Topk(k, 0, true, true, false)
		index = i
		return v, err
	})
	if index == nil {
		return values, values
	}
	return values, s.Own(index)
}
