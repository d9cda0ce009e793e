package boxops

import (
	"fmt"
	"math"
)

// Anchors describes the reference boxes at every cell of a feature map.
type Anchors struct {
	// Stride is the distance between neighbouring cells in pixels.
	Stride int
	// Sides are the side lengths of the square anchors in pixels.
	Sides []float32
	// Ratios are height over width; the area is that of the square.
	Ratios []float32
	// Rounded anchors are those of mmdetection 1: centred at (Stride-1)/2 with
	// inclusive corners rounded to whole pixels (half to even).
	Rounded bool
}

// PerCell is the number of anchors of one cell.
func (a Anchors) PerCell() int { return len(a.Sides) * len(a.Ratios) }

// Check reports a description that gives no anchors.
func (a Anchors) Check() error {
	if a.Stride < 1 || len(a.Sides) == 0 || len(a.Ratios) == 0 {
		return fmt.Errorf("anchors: stride %d, %d sides, %d ratios given, want at least one of each", a.Stride, len(a.Sides), len(a.Ratios))
	}
	for _, s := range a.Sides {
		if !(s >= 1) || s > 1e5 {
			return fmt.Errorf("anchors: side %g given, want 1 to 100000 pixels", s)
		}
	}
	for _, r := range a.Ratios {
		if !(r > 0.01) || r > 100 {
			return fmt.Errorf("anchors: ratio %g given, want 0.01 to 100", r)
		}
	}
	return nil
}

// Cell returns the anchors of the cell at the origin, ratio-major: the anchor of
// ratio r and side s is number r*len(Sides)+s.
func (a Anchors) Cell() []Box {
	out := make([]Box, 0, a.PerCell())
	for _, ratio := range a.Ratios {
		root := float32(math.Sqrt(float64(ratio)))
		for _, side := range a.Sides {
			w, h := side/root, side*root
			if a.Rounded {
				centre := 0.5 * float32(a.Stride-1)
				out = append(out, Box{
					roundEven(centre - 0.5*(w-1)), roundEven(centre - 0.5*(h-1)),
					roundEven(centre + 0.5*(w-1)), roundEven(centre + 0.5*(h-1)),
				})
				continue
			}
			centre := 0.5 * float32(a.Stride)
			out = append(out, Box{centre - w/2, centre - h/2, centre + w/2, centre + h/2})
		}
	}
	return out
}

func roundEven(v float32) float32 { return float32(math.RoundToEven(float64(v))) }

// Grid returns the anchors of a feature map of rows × columns cells. Anchor
// (y, x, k) is number (y*columns+x)*PerCell()+k.
func (a Anchors) Grid(rows, columns int) []Box {
	cell := a.Cell()
	out := make([]Box, 0, rows*columns*len(cell))
	for y := range rows {
		for x := range columns {
			dx, dy := float32(x*a.Stride), float32(y*a.Stride)
			for _, c := range cell {
				out = append(out, Box{c[0] + dx, c[1] + dy, c[2] + dx, c[3] + dy})
			}
		}
	}
	return out
}
