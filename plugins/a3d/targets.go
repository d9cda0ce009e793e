package a3d

import (
	"fmt"

	"github.com/alignedfusion/alignedfusion/plugins/a3d/boxops"
	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/ports"
	"github.com/alignedfusion/alignedfusion/sdk/torchstage"
)

// lesion is one target.
type lesion struct {
	box    boxops.Box
	class  int64
	recist [8]float32
	masked bool // recist is known
}

// target holds the lesions and ignore regions of one image; both may be empty.
type target struct {
	lesions []lesion
	ignore  []boxops.Box
}

func (t target) boxes() []boxops.Box {
	out := make([]boxops.Box, len(t.lesions))
	for i, l := range t.lesions {
		out[i] = l.box
	}
	return out
}

func badTarget(s *torchstage.Scope, port, given, wanted string) {
	s.Fail(&sdk.Error{Code: sdk.InvalidArgument, Port: port, Given: given, Wanted: wanted})
}

// targets sorts the target ports by image. Failures go to s.
func (h *head) targets(s *torchstage.Scope, in *torchstage.Inputs, images int) []target {
	out := make([]target, images)
	if in.Tensors[ports.TargetBoxes.Name] == nil || in.Tensors[ports.TargetImage.Name] == nil {
		badTarget(s, ports.TargetBoxes.Name, "absent, or target.image is", "both for training; images without lesions have no rows")
		return out
	}
	boxes, owner := readBoxes(s, in, ports.TargetBoxes.Name, ports.TargetImage.Name, images)
	var classes []int64
	if t := in.Tensors[ports.TargetClass.Name]; t != nil {
		classes = s.Int64s(t)
	}
	var recist []float32
	if t := in.Tensors[ports.TargetRECIST.Name]; t != nil && h.config.mask {
		recist = s.Float32s(t)
	}
	if s.Err() != nil {
		return out
	}
	if classes != nil && len(classes) != len(boxes) {
		badTarget(s, ports.TargetClass.Name, fmt.Sprintf("of %d rows", len(classes)), fmt.Sprintf("%d, one per row of target.boxes", len(boxes)))
		return out
	}
	if recist != nil && len(recist) != 8*len(boxes) {
		badTarget(s, ports.TargetRECIST.Name, fmt.Sprintf("of %d values", len(recist)), fmt.Sprintf("FP32 [%d 8], one row per row of target.boxes", len(boxes)))
		return out
	}
	for i, b := range boxes {
		l := lesion{box: b}
		if classes != nil {
			if l.class = classes[i]; l.class < 0 || l.class >= h.config.classes {
				badTarget(s, ports.TargetClass.Name, fmt.Sprintf("%d in row %d", l.class, i), fmt.Sprintf("0 to %d", h.config.classes-1))
				return out
			}
		}
		if recist != nil {
			copy(l.recist[:], recist[8*i:])
			l.masked = true
			for _, v := range l.recist {
				l.masked = l.masked && v == v
			}
		}
		out[owner[i]].lesions = append(out[owner[i]].lesions, l)
	}
	if in.Tensors[ports.TargetIgnore.Name] != nil {
		if in.Tensors[ports.TargetIgnoreImage.Name] == nil {
			badTarget(s, ports.TargetIgnoreImage.Name, "absent", "INT32 [I] with target.ignore")
			return out
		}
		regions, image := readBoxes(s, in, ports.TargetIgnore.Name, ports.TargetIgnoreImage.Name, images)
		for i, r := range regions {
			out[image[i]].ignore = append(out[image[i]].ignore, r)
		}
	}
	return out
}

// readBoxes reads a [M,4] port and the [M] port that says whose each row is.
func readBoxes(s *torchstage.Scope, in *torchstage.Inputs, port, ownerPort string, images int) ([]boxops.Box, []int64) {
	values, owner := s.Float32s(in.Tensors[port]), s.Int64s(in.Tensors[ownerPort])
	if s.Err() != nil {
		return nil, nil
	}
	if len(values) != 4*len(owner) {
		badTarget(s, port, fmt.Sprintf("of %d values", len(values)), fmt.Sprintf("FP32 [%d 4], as many rows as %s", len(owner), ownerPort))
		return nil, nil
	}
	boxes := make([]boxops.Box, len(owner))
	for i := range boxes {
		copy(boxes[i][:], values[4*i:])
		if err := boxes[i].Check(); err != nil {
			s.Fail(&sdk.Error{Code: sdk.InvalidArgument, Port: port, Err: fmt.Errorf("row %d: %w", i, err)})
			return nil, nil
		}
		if owner[i] < 0 || owner[i] >= int64(images) {
			badTarget(s, ownerPort, fmt.Sprintf("%d in row %d", owner[i], i), fmt.Sprintf("0 to %d", images-1))
			return nil, nil
		}
	}
	return boxes, owner
}
