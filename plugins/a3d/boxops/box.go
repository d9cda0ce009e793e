package boxops

import (
	"errors"
	"fmt"
	"math"
)

// Box is x1, y1, x2, y2 in pixels.
type Box [4]float32

// ErrBox is returned when a box has corners that are not finite or out of order.
var ErrBox = errors.New("bad box")

// Finite reports whether no corner is NaN or infinite.
func (b Box) Finite() bool {
	for _, v := range b {
		if f := float64(v); math.IsNaN(f) || math.IsInf(f, 0) {
			return false
		}
	}
	return true
}

// Check reports corners that are not finite, and x2 < x1 or y2 < y1, with ErrBox.
func (b Box) Check() error {
	if !b.Finite() {
		return fmt.Errorf("%w: [%g %g %g %g] is not finite", ErrBox, b[0], b[1], b[2], b[3])
	}
	if b[2] < b[0] || b[3] < b[1] {
		return fmt.Errorf("%w: [%g %g %g %g], want x1 ≤ x2 and y1 ≤ y2", ErrBox, b[0], b[1], b[2], b[3])
	}
	return nil
}

// Convention says what the corners of a box mean.
type Convention struct {
	// Inclusive corners are pixel indices: a box is x2-x1+1 wide, as in
	// mmdetection 1. Otherwise it is x2-x1 wide.
	Inclusive bool
}

func (c Convention) one() float32 {
	if c.Inclusive {
		return 1
	}
	return 0
}

// Area returns the area of b in square pixels, 0 for an inverted box.
func (c Convention) Area(b Box) float32 {
	w, h := b[2]-b[0]+c.one(), b[3]-b[1]+c.one()
	if w <= 0 || h <= 0 {
		return 0
	}
	return w * h
}

// Intersection returns the area common to a and b in square pixels.
func (c Convention) Intersection(a, b Box) float32 {
	w := min(a[2], b[2]) - max(a[0], b[0]) + c.one()
	if w <= 0 {
		return 0
	}
	h := min(a[3], b[3]) - max(a[1], b[1]) + c.one()
	if h <= 0 {
		return 0
	}
	return w * h
}

// IoU returns intersection over union; 0 when the union is empty.
func (c Convention) IoU(a, b Box) float32 {
	inter := c.Intersection(a, b)
	if inter == 0 {
		return 0
	}
	return inter / (c.Area(a) + c.Area(b) - inter)
}

// Clip moves the corners into an image of the given size in pixels: to
// [0, width] × [0, height], or [0, width-1] × [0, height-1] for inclusive corners.
func (c Convention) Clip(b Box, width, height float32) Box {
	w, h := width-c.one(), height-c.one()
	return Box{clamp(b[0], w), clamp(b[1], h), clamp(b[2], w), clamp(b[3], h)}
}

func clamp(v, high float32) float32 { return min(max(v, 0), high) }
