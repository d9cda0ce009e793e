package a3d

import (
	"github.com/sugarme/gotch"
	"github.com/sugarme/gotch/ts"

	"github.com/alignedfusion/alignedfusion/sdk/torchstage"
)

// Constants of the AlignShift operator: an eighth of the channels takes part of the
// next slice, another of the previous one; slices 2 mm apart are shifted wholly.
const (
	shiftFold        = 8
	alignReferenceMM = 2.0
	// mixNoise is the half-width of the noise a3d's weights start with.
	mixNoise = 0.1
)

// shiftWeights returns the slice-mixing weights [volumes, D, D, C] (source, target,
// channel) of the parameter-free operators. keep is the part of a slice's own value
// in the shifted channels, one per volume: 0 for a hard shift (TSM) and
// 1 - min(2 mm / distance, 1) for AlignShift. At the ends of the volume TSM shifts
// in zeros and AlignShift keeps the slice's own value.
func shiftWeights(keep []float64, slices, channels int64, padZero bool) []float32 {
	fold := channels / shiftFold
	out := make([]float32, int64(len(keep))*slices*slices*channels)
	for n, own := range keep {
		at := func(source, target, c int64) *float32 {
			return &out[((int64(n)*slices+source)*slices+target)*channels+c]
		}
		for target := range slices {
			for c := range channels {
				source := target
				switch {
				case c < fold:
					source = target + 1
				case c < 2*fold:
					source = target - 1
				}
				switch {
				case source == target:
					*at(target, target, c) = 1
				case source < 0 || source >= slices:
					*at(target, target, c) = 1
					if padZero {
						*at(target, target, c) = float32(own)
					}
				default:
					*at(target, target, c) = float32(own)
					*at(source, target, c) = float32(1 - own)
				}
			}
		}
	}
	return out
}

// mixer gives the slice-mixing weights of one Forward.
type mixer struct {
	operator string
	slices   int64
	device   gotch.Device
	// For the parameter-free operators: the part of its own value that a slice keeps,
	// per volume, and the weights made of it by number of channels.
	keep    []float64
	byWidth map[int64]*ts.Tensor
}

// weights returns [1 or N, D, D, C]; nil when the operator does not mix, and for 2.5d
// the trivial weights of one slice.
func (m *mixer) weights(s *torchstage.Scope, learned *ts.Tensor, channels int64) *ts.Tensor {
	switch m.operator {
	case opA3D:
		return s.Unsqueeze(learned, 0)
	case opTSM, opAlignShift, opFlat:
		if w := m.byWidth[channels]; w != nil {
			return w
		}
		values := shiftWeights(m.keep, m.slices, channels, m.operator == opTSM)
		w := s.Keep(s.To(s.FromFloat32s(values, int64(len(m.keep)), m.slices, m.slices, channels), m.device))
		m.byWidth[channels] = w
		return w
	}
	return nil
}

func (m *mixer) free() {
	for _, w := range m.byWidth {
		_ = w.Drop()
	}
}
