package a3d

import (
	"math"
	"slices"

	"github.com/sugarme/gotch"
	"github.com/sugarme/gotch/ts"

	"github.com/alignedfusion/alignedfusion/plugins/a3d/boxops"
	"github.com/alignedfusion/alignedfusion/sdk/ports"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
	"github.com/alignedfusion/alignedfusion/sdk/torchstage"
)

// Box head: matching, sampling and loss as published.
const (
	roiPositives = 0.25
	roiSize      = 7
	roiBeta      = 1.0
)

// roi is a region of an image; match is its lesion, nil for background.
type roi struct {
	box        boxops.Box
	image      int32
	match      *lesion
	objectness float32 // of a proposal
}

// regions are the proposals of all images, one after the other.
func regions(proposals []proposed) []roi {
	var out []roi
	for n, p := range proposals {
		for i, b := range p.boxes {
			out = append(out, roi{box: b, image: int32(n), objectness: p.objectness[i]})
		}
	}
	return out
}

// sampleRoIs draws the regions the box head learns from. The lesions themselves are
// among the candidates. suspicion has a number for every proposal of regions, by which hard
// backgrounds are taken; nil where all are drawn.
func (c headConfig) sampleRoIs(seed uint64, proposals []proposed, targets []target, suspicion []float32) []roi {
	matcher := boxops.Matcher{Convention: c.convention(), PositiveIoU: c.roiIoU, NegativeIoU: c.background, MinimumIoU: c.roiIoU}
	sampler := boxops.Sampler{Count: c.rois, PositiveFraction: roiPositives}
	var out []roi
	for n := range targets {
		t := &targets[n]
		lesions := t.boxes()
		boxes := proposals[n].boxes
		assigned := matcher.Assign(boxes, lesions, t.ignore, nil)
		candidates := append(append([]boxops.Box{}, lesions...), boxes...)
		own := make([]int32, len(lesions), len(candidates))
		for i := range own {
			own[i] = int32(i)
		}
		assigned = append(own, assigned...)
		positives, backgrounds := sampler.Sample(assigned, random(seed, "rcnn", n))
		if suspicion != nil {
			backgrounds = c.harden(backgrounds, assigned, append(make([]float32, len(lesions)), suspicion[:len(boxes)]...))
			suspicion = suspicion[len(boxes):]
		}
		for _, i := range positives {
			out = append(out, roi{box: candidates[i], image: int32(n), match: &t.lesions[assigned[i]]})
		}
		for _, i := range backgrounds {
			out = append(out, roi{box: candidates[i], image: int32(n)})
		}
	}
	return out
}

// harden puts the backgrounds of the greatest suspicion in the place of a share of those drawn
// (online hard example mining, Shrivastava, Gupta and Girshick 2016).
func (c headConfig) harden(drawn []int, assigned []int32, suspicion []float32) []int {
	var hard []int
	for _, i := range boxops.Order(suspicion) {
		if assigned[i] == boxops.Background && len(hard) < int(math.Round(c.hard*float64(len(drawn)))) {
			hard = append(hard, i)
		}
	}
	for _, i := range drawn {
		if len(hard) < len(drawn) && !slices.Contains(hard, i) {
			hard = append(hard, i)
		}
	}
	return hard
}

// pool is RoIAlign: it returns [K, size·size, C] for K regions of features
// [N, C, rows, columns] in channels-last memory. RoIAlign is a weighted sum of
// feature cells, which libtorch's embedding_bag computes, backwards too.
func pool(s *torchstage.Scope, c headConfig, features *ts.Tensor, rois []roi, size int, device gotch.Device) *ts.Tensor {
	return s.Sub(func(s *torchstage.Scope) *ts.Tensor {
		shape := s.Shape(features)
		if s.Err() != nil {
			return nil
		}
		if device.Name != gotch.CPU.Name {
			return alignOnDevice(s, c, features, rois, size, device)
		}
		boxes, images := make([]boxops.Box, len(rois)), make([]int32, len(rois))
		for i, r := range rois {
			boxes[i], images[i] = r.box, r.image
		}
		t := c.align(size).Table(boxes, images, int(shape[2]), int(shape[3]))
		cells := s.Reshape(s.Permute(features, 0, 2, 3, 1), -1, shape[1])
		bags := s.EmbeddingBag(cells, s.To(s.FromInt64s(t.Indices), device), s.To(s.FromInt64s(t.Offsets), device),
			s.To(s.FromFloat32s(t.Weights), device))
		return s.Reshape(bags, int64(len(rois)), int64(size*size), shape[1])
	})
}

// boxHead classifies regions and refines their boxes.
type boxHead struct {
	config               headConfig
	device               gotch.Device
	fc, fcBias           [2]*ts.Tensor
	cls, clsBias         *ts.Tensor // class 0 is background
	regress, regressBias *ts.Tensor // four deltas per class, background's unused
}

func newBoxHead(p *torchstage.Params, c headConfig, device gotch.Device) *boxHead {
	h := &boxHead{config: c, device: device}
	in := c.pyramid * roiSize * roiSize
	for i, name := range []string{"bbox_head.shared_fcs.0.", "bbox_head.shared_fcs.1."} {
		h.fc[i] = p.Parameter(name+"weight", []int64{c.fc, in}, torchstage.XavierUniform())
		h.fcBias[i] = p.Parameter(name+"bias", []int64{c.fc}, torchstage.Zeros())
		in = c.fc
	}
	n := c.classes + 1
	h.cls = p.Parameter("bbox_head.fc_cls.weight", []int64{n, in}, torchstage.Normal(0, 0.01))
	h.clsBias = p.Parameter("bbox_head.fc_cls.bias", []int64{n}, torchstage.Zeros())
	h.regress = p.Parameter("bbox_head.fc_reg.weight", []int64{4 * n, in}, torchstage.Normal(0, 0.001))
	h.regressBias = p.Parameter("bbox_head.fc_reg.bias", []int64{4 * n}, torchstage.Zeros())
	return h
}

// forward returns class logits [K, classes+1] and deltas [K, classes+1, 4].
func (h *boxHead) forward(s *torchstage.Scope, features *ts.Tensor, rois []roi) (logits, deltas *ts.Tensor) {
	out := s.SubAll(func(s *torchstage.Scope) []*ts.Tensor {
		n := int64(len(rois))
		// The reference flattens [C, 7, 7].
		x := s.Reshape(s.Transpose(pool(s, h.config, features, rois, roiSize, h.device), 1, 2), n, -1)
		if h.config.bf16 {
			x = s.Cast(x, gotch.BFloat16)
		}
		for i := range h.fc {
			x = s.Relu(s.Linear(x, like(s, h.fc[i], x), like(s, h.fcBias[i], x)))
		}
		x = toFloat(s, x)
		return []*ts.Tensor{s.Linear(x, h.cls, h.clsBias),
			s.Reshape(s.Linear(x, h.regress, h.regressBias), n, h.config.classes+1, 4)}
	})
	return out[0], out[1]
}

// suspicion is the probability of a lesion in each region.
func (h *boxHead) suspicion(s *torchstage.Scope, features *ts.Tensor, rois []roi) []float32 {
	out := make([]float32, len(rois))
	s.NoGrad(func() {
		logits, _ := h.forward(s, features, rois)
		for i, p := range s.Float32s(s.Select(s.Softmax(logits, 1), 1, 0)) {
			out[i] = 1 - p
		}
	})
	return out
}

// loss adds rcnn_cls (cross-entropy over the sampled regions) and rcnn_box (smooth L1
// over the positives, divided by the number of sampled regions).
func (h *boxHead) loss(s *torchstage.Scope, features *ts.Tensor, rois []roi, out *torchstage.Outputs) {
	if len(rois) == 0 {
		out.Losses["rcnn_cls"], out.Losses["rcnn_box"] = s.Zeros(h.device), s.Zeros(h.device)
		return
	}
	logits, deltas := h.forward(s, features, rois)
	coder := h.config.boxCoder()
	labels := make([]int64, len(rois))
	var rows []int64
	var wanted []float32
	for i, r := range rois {
		if r.match == nil {
			continue
		}
		labels[i] = r.match.class + 1
		rows = append(rows, int64(i)*(h.config.classes+1)+labels[i])
		d := coder.Encode(r.box, r.match.box)
		wanted = append(wanted, d[:]...)
	}
	target := s.To(s.FromInt64s(labels), h.device)
	out.Losses["rcnn_cls"] = s.CrossEntropy(logits, target, nil, -100, 0)
	out.Metrics["rcnn_positives"] = float64(len(rows))
	best := s.Do("argmax", func() (*ts.Tensor, error) { return logits.Argmax([]int64{1}, false, false) })
	out.Read(s, best, func(values []float64) {
		right := 0
		for i, v := range values {
			if int64(v) == labels[i] {
				right++
			}
		}
		out.Metrics["rcnn_accuracy"] = float64(right) / float64(len(rois))
	})
	if len(rows) == 0 {
		out.Losses["rcnn_box"] = s.Zeros(h.device)
		return
	}
	picked := s.IndexSelect(s.Reshape(deltas, -1, 4), 0, s.To(s.FromInt64s(rows), h.device))
	l1 := s.SmoothL1(picked, s.To(s.FromFloat32s(wanted, int64(len(rows)), 4), h.device), roiBeta)
	out.Losses["rcnn_box"] = s.MulScalar(s.Sum(l1, nil, false), 1/float64(len(rois)))
}

// singles are values of single precision that were read as others.
func singles(values []float64) []float32 {
	out := make([]float32, len(values))
	for i, v := range values {
		out[i] = float32(v)
	}
	return out
}

// detection is one box found.
type detection struct {
	box   boxops.Box
	score float32
	class int64
}

// detect runs the inference half.
func (h *head) detect(s *torchstage.Scope, features, logits, deltas *ts.Tensor) *torchstage.Outputs {
	shape := s.Shape(features)
	if s.Err() != nil {
		return nil
	}
	rows, columns := int(shape[2]), int(shape[3])
	proposals, err := h.rpn.proposals(s, logits, deltas, rows, columns, h.config.preTest, h.config.postTest)
	if s.Fail(err); s.Err() != nil {
		return nil
	}
	rois := regions(proposals)
	found := make([][]detection, len(proposals))
	if len(rois) > 0 {
		cls, refine := h.boxHead.forward(s, features, rois)
		read := s.Floats(s.Softmax(cls, 1), refine)
		scores, values := singles(read[0]), singles(read[1])
		if s.Err() != nil {
			return nil
		}
		found = h.config.results(rois, scores, values, len(proposals), float32(columns*featureStride), float32(rows*featureStride))
	}
	return &torchstage.Outputs{Raw: rawDetections(found)}
}

// results decodes, thresholds and suppresses, class by class, and keeps the best
// boxes of every image.
func (c headConfig) results(rois []roi, scores, deltas []float32, images int, width, height float32) [][]detection {
	convention, coder := c.convention(), c.boxCoder()
	out := make([][]detection, images)
	n := int(c.classes) + 1
	for image := range out {
		var all []detection
		for class := 1; class < n; class++ {
			var boxes []boxops.Box
			var own []float32
			for i, r := range rois {
				score := scores[i*n+class]
				if c.meanScore {
					score = float32(math.Sqrt(float64(score) * float64(r.objectness)))
				}
				if int(r.image) != image || !(score > c.scoreMin) {
					continue
				}
				d := [4]float32(deltas[(i*n+class)*4:])
				boxes = append(boxes, convention.Clip(coder.Decode(r.box, d), width, height))
				own = append(own, score)
			}
			order := boxops.Order(own)
			sorted := make([]boxops.Box, len(order))
			for i, k := range order {
				sorted[i] = boxes[k]
			}
			for _, k := range convention.NMS(sorted, c.nms, c.detections) {
				all = append(all, detection{sorted[k], own[order[k]], int64(class - 1)})
			}
		}
		rank := make([]float32, len(all))
		for i, d := range all {
			rank[i] = d.score
		}
		for i, k := range boxops.Order(rank) {
			if i == c.detections {
				break
			}
			out[image] = append(out[image], all[k])
		}
	}
	return out
}

func rawDetections(found [][]detection) map[string]*tensor.Tensor {
	var boxes, scores []float32
	var labels []int64
	var image []int32
	for n, list := range found {
		for _, d := range list {
			boxes = append(boxes, d.box[:]...)
			scores = append(scores, d.score)
			labels = append(labels, d.class)
			image = append(image, int32(n))
		}
	}
	k := int64(len(scores))
	return map[string]*tensor.Tensor{
		ports.Boxes.Name: tensor.OfFloat32s(boxes, k, 4), ports.Scores.Name: tensor.OfFloat32s(scores, k),
		ports.BoxLabels.Name: tensor.OfInt64s(labels, k), ports.BoxImage.Name: tensor.OfInt32s(image, k),
	}
}
