package dataset

import "math"

// sight is what a case shows of the volume, or the run of slices, of one modality.
type sight struct {
	// stack is the name in Dataset.stacks.
	stack string
	// key is the slice in the middle, for pictures the only one.
	key int
	// size is height, width in pixels.
	size [2]int
	// spacingMM is z, y, x; 0 where unknown.
	spacingMM [3]float64
	// crop is the part of the slices that is shown: x1, y1, x2, y2, its first and last pixels.
	// Zero: the whole slice.
	crop [4]float64
	// low and top bound the slices over which the network's are spread, each a slice thick about
	// its number. Where they are equal the network's slices lie a fixed distance apart about key.
	low, top float64
}

// sight of a modality, where nothing else is said the case's own slice.
func (c *Case) sight(modality string) sight {
	if s := c.sights[modality]; s != nil {
		return *s
	}
	return sight{stack: c.Stack, key: c.KeySlice, size: c.Size, spacingMM: c.SpacingMM}
}

// distanceMM is how far apart the depth slices of the network lie; unless they are spread it
// is the distance asked for.
func (v sight) distanceMM(depth int, asked float64) float64 {
	if v.low == v.top {
		return asked
	}
	mm := v.spacingMM[0]
	if !(mm > 0) {
		mm = 1
	}
	return (v.top - v.low) * mm / float64(depth)
}

// taps are what each of depth slices is made of: the mean of so many resampled slices. A
// network slice that covers several of the volume's is their mean, so that nothing between
// them is lost; one that covers less than one is interpolated.
func (v sight) taps(s *stack, depth int, spacingMM float64) [][]tap {
	out := make([][]tap, depth)
	if v.low == v.top {
		for i, t := range sliceTaps(s, v.key, depth, spacingMM, v.spacingMM[0]) {
			out[i] = []tap{t}
		}
		return out
	}
	step := (v.top - v.low) / float64(depth)
	for i := range out {
		from := v.low + float64(i)*step
		first, last := int(math.Ceil(from)), int(math.Ceil(from+step))-1
		if last > first {
			for n := first; n <= last; n++ {
				at := s.nearest(n, v.key)
				out[i] = append(out[i], tap{at, at, 0})
			}
			continue
		}
		middle := from + step/2
		low := math.Floor(middle)
		t := tap{low: s.nearest(int(low), v.key), weight: middle - low}
		if t.high = s.nearest(int(low)+1, v.key); t.high == t.low || t.weight < 1e-6 {
			t.high, t.weight = t.low, 0
		}
		out[i] = []tap{t}
	}
	return out
}
