package boxops

import "math"

// maxLogRatio bounds dw and dh: a box grows or shrinks by at most 1000/16.
var maxLogRatio = float32(math.Log(1000.0 / 16))

// Coder turns a box into regression targets relative to a reference box and back
// (R-CNN, appendix C): dx, dy in widths and heights of the reference, dw, dh as
// logarithms of the ratios, all divided by Std.
type Coder struct {
	Convention Convention
	// Std divides the targets; a zero value means 1.
	Std [4]float32
}

func (c Coder) std(i int) float32 {
	if c.Std[i] == 0 {
		return 1
	}
	return c.Std[i]
}

// Encode returns the targets of box relative to reference. Sizes below 1e-3 pixels
// are taken as 1e-3, so that boxes without width or height have finite targets.
func (c Coder) Encode(reference, box Box) [4]float32 {
	one := c.Convention.one()
	rw, rh := max(reference[2]-reference[0]+one, 1e-3), max(reference[3]-reference[1]+one, 1e-3)
	bw, bh := max(box[2]-box[0]+one, 1e-3), max(box[3]-box[1]+one, 1e-3)
	rx, ry := (reference[0]+reference[2])*0.5, (reference[1]+reference[3])*0.5
	bx, by := (box[0]+box[2])*0.5, (box[1]+box[3])*0.5
	return [4]float32{
		(bx - rx) / rw / c.std(0),
		(by - ry) / rh / c.std(1),
		float32(math.Log(float64(bw/rw))) / c.std(2),
		float32(math.Log(float64(bh/rh))) / c.std(3),
	}
}

// Decode applies deltas to reference; the inverse of Encode where dw and dh are
// within ±ln(1000/16).
func (c Coder) Decode(reference Box, deltas [4]float32) Box {
	one := c.Convention.one()
	rw, rh := reference[2]-reference[0]+one, reference[3]-reference[1]+one
	dw := min(max(deltas[2]*c.std(2), -maxLogRatio), maxLogRatio)
	dh := min(max(deltas[3]*c.std(3), -maxLogRatio), maxLogRatio)
	x := (reference[0]+reference[2])*0.5 + rw*(deltas[0]*c.std(0))
	y := (reference[1]+reference[3])*0.5 + rh*(deltas[1]*c.std(1))
	hw := rw * float32(math.Exp(float64(dw))) * 0.5
	hh := rh * float32(math.Exp(float64(dh))) * 0.5
	half := one * 0.5
	return Box{x - hw + half, y - hh + half, x + hw - half, y + hh - half}
}
