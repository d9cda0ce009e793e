package a3d

import (
	"github.com/sugarme/gotch"
	"github.com/sugarme/gotch/ts"

	"github.com/alignedfusion/alignedfusion/plugins/a3d/boxops"
	"github.com/alignedfusion/alignedfusion/sdk/torchstage"
)

// What package boxops does on the CPU is done on a GPU where the tensors are, by the operators
// of native/detection.h: nothing with a row per anchor crosses to the host or from it. The
// draws are those of the CPU, from the numbers of anchors to draw from.

// deviceAnchors are the anchors of an rpn's grid on its device, and what is done there; tests
// do it on the CPU.
type deviceAnchors struct {
	assigns  bool // anchors to lesions
	proposes bool // the best anchors become boxes and suppress one another, where nvcc has been
	// Of the grid: [A, 4], and whether each lies in the image.
	boxes, inside *ts.Tensor
}

func (d *deviceAnchors) free() {
	for _, t := range []*ts.Tensor{d.boxes, d.inside} {
		if t != nil {
			_ = t.Drop()
		}
	}
	d.boxes, d.inside = nil, nil
}

// put puts the anchors there, once for each size of the map.
func (r *rpn) put(s *torchstage.Scope, rows, columns int) {
	grid, d := r.anchors(rows, columns), &r.onDevice
	if d.boxes != nil {
		return
	}
	boxes, inside := boxTensor(s, grid, r.device), s.To(s.FromBools(r.inside(rows, columns)), r.device)
	if s.Err() == nil {
		d.boxes, d.inside = s.Keep(boxes), s.Keep(inside)
	}
}

func boxTensor(s *torchstage.Scope, boxes []boxops.Box, device gotch.Device) *ts.Tensor {
	values := make([]float32, 0, 4*len(boxes))
	for _, b := range boxes {
		values = append(values, b[:]...)
	}
	return s.To(s.FromFloat32s(values, int64(len(boxes)), 4), device)
}

// draw is sample on the device. It reads how many anchors of each image may be drawn.
func (r *rpn) draw(s *torchstage.Scope, seed uint64, rows, columns int, targets []target) drawn {
	if !r.onDevice.assigns {
		return r.sample(seed, rows, columns, targets).upload(s, r.device)
	}
	r.put(s, rows, columns)
	if s.Err() != nil || len(targets) == 0 {
		return drawn{}
	}
	anchors, inside := r.onDevice.boxes, r.onDevice.inside
	m, sampler := r.matcher(), r.sampler()
	inclusive := flag(m.Convention.Inclusive)
	var lesions, assigned []*ts.Tensor
	for _, t := range targets {
		lesions = append(lesions, boxTensor(s, t.boxes(), r.device))
		assigned = append(assigned, native(s, "assign", []*ts.Tensor{anchors, inside, lesions[len(lesions)-1], boxTensor(s, t.ignore, r.device)},
			number(float64(m.PositiveIoU)), number(float64(m.NegativeIoU)), number(float64(m.MinimumIoU)), inclusive))
	}
	counts := s.Int64s(native(s, "tally", assigned))
	if s.Err() != nil {
		return drawn{}
	}
	var index, labels, positive, deltas []*ts.Tensor
	var out drawn
	for n := range targets {
		base := int64(n) * int64(len(r.grid))
		positives, backgrounds := sampler.Ranks(int(counts[2*n]), int(counts[2*n+1]), random(seed, "rpn", n))
		take := func(ranks boxops.Ranks, lesions bool) *ts.Tensor {
			all, chosen := int64(0), make([]int64, len(ranks.Chosen))
			if ranks.Chosen == nil {
				all = int64(ranks.Count)
			}
			for i, v := range ranks.Chosen {
				chosen[i] = int64(v)
			}
			return native(s, "nth", []*ts.Tensor{assigned[n], s.To(s.FromInt64s(chosen), r.device)}, all, base, flag(lesions))
		}
		if k := positives.Len(); k > 0 {
			own := take(positives, true)
			positive, index, labels = append(positive, own), append(index, own), append(labels, s.Full(r.device, 1, int64(k)))
			deltas = append(deltas, native(s, "encode", []*ts.Tensor{anchors, lesions[n], assigned[n], own}, base, inclusive))
			out.positives += k
		}
		if k := backgrounds.Len(); k > 0 {
			index, labels = append(index, take(backgrounds, false)), append(labels, s.Zeros(r.device, int64(k)))
			out.count += k
		}
	}
	out.count += out.positives
	if out.count > 0 {
		out.index, out.labels = s.Cat(index, 0), s.Cat(labels, 0)
	}
	if out.positives > 0 {
		out.positive, out.deltas = s.Cat(positive, 0), s.Cat(deltas, 0)
	}
	return out
}

// deviceProposals is proposals on the device; what is read are the boxes that are left.
func (r *rpn) deviceProposals(s *torchstage.Scope, logits, deltas *ts.Tensor, rows, columns, pre, post int) ([]proposed, error) {
	r.put(s, rows, columns)
	out := make([]proposed, s.Dim(logits, 0))
	if s.Err() != nil {
		return out, nil
	}
	const columnsOf = 6 // corners, objectness, 1 if there is a box
	values := s.Float32s(s.Sub(func(s *torchstage.Scope) *ts.Tensor {
		return native(s, "propose", []*ts.Tensor{logits, deltas, r.onDevice.boxes}, int64(pre), int64(post), int64(rows*featureStride), int64(columns*featureStride),
			number(float64(float32(proposalNMS))), flag(r.config.convention().Inclusive))
	}))
	for n := range out {
		for own := values[n*len(values)/len(out) : (n+1)*len(values)/len(out)]; len(own) > 0; own = own[columnsOf:] {
			switch there := own[5]; {
			case there != there:
				return out, errDiverged
			case there == 1:
				out[n].boxes, out[n].objectness = append(out[n].boxes, boxops.Box(own)), append(out[n].objectness, own[4])
			}
		}
	}
	return out, nil
}

// alignOnDevice is pool by native/detection.h.
func alignOnDevice(s *torchstage.Scope, c headConfig, features *ts.Tensor, rois []roi, size int, device gotch.Device) *ts.Tensor {
	values := make([]float32, 0, 5*len(rois))
	for _, r := range rois {
		values = append(append(values, float32(r.image)), r.box[:]...)
	}
	a := c.align(size)
	return native(s, "roi_align", []*ts.Tensor{features, s.To(s.FromFloat32s(values, int64(len(rois)), 5), device)},
		int64(a.Size), int64(a.Samples), int64(a.Stride), flag(a.Legacy))
}
