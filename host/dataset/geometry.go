package dataset

import "math"

// Geometry maps original pixels to network pixels:
//
//	xn = A[0]*x + A[1]*y + A[2]
//	yn = A[3]*x + A[4]*y + A[5]
type Geometry struct {
	A [6]float64
	// Height and Width are the original image's size in pixels.
	Height, Width int
	// NetHeight and NetWidth are the size of the network's input with padding.
	NetHeight, NetWidth int
}

// ToNetwork maps a point of the original image into the network's input.
func (g Geometry) ToNetwork(x, y float64) (xn, yn float64) {
	return g.A[0]*x + g.A[1]*y + g.A[2], g.A[3]*x + g.A[4]*y + g.A[5]
}

// ToOriginal maps a point of the network's input back.
func (g Geometry) ToOriginal(xn, yn float64) (x, y float64) {
	return g.inverse().ToNetwork(xn, yn)
}

// BoxToOriginal maps a box of the network's input back to the original image: the
// hull of its corners, clipped to the image.
func (g Geometry) BoxToOriginal(x1, y1, x2, y2 float64) (ox1, oy1, ox2, oy2 float64) {
	inv := g.inverse()
	ox1, oy1, ox2, oy2 = math.Inf(1), math.Inf(1), math.Inf(-1), math.Inf(-1)
	for _, p := range [4][2]float64{{x1, y1}, {x2, y1}, {x1, y2}, {x2, y2}} {
		x, y := inv.ToNetwork(p[0], p[1])
		ox1, oy1 = min(ox1, x), min(oy1, y)
		ox2, oy2 = max(ox2, x), max(oy2, y)
	}
	w, h := float64(g.Width-1), float64(g.Height-1)
	return clamp(ox1, 0, w), clamp(oy1, 0, h), clamp(ox2, 0, w), clamp(oy2, 0, h)
}

func (g Geometry) inverse() Geometry {
	a := g.A
	det := a[0]*a[4] - a[1]*a[3]
	var r Geometry
	r.A[0], r.A[1] = a[4]/det, -a[1]/det
	r.A[3], r.A[4] = -a[3]/det, a[0]/det
	r.A[2] = -(r.A[0]*a[2] + r.A[1]*a[5])
	r.A[5] = -(r.A[3]*a[2] + r.A[4]*a[5])
	return r
}

// then returns the map that applies g first and next second.
func (g Geometry) then(next [6]float64) Geometry {
	a, b := g.A, next
	g.A = [6]float64{
		b[0]*a[0] + b[1]*a[3], b[0]*a[1] + b[1]*a[4], b[0]*a[2] + b[1]*a[5] + b[2],
		b[3]*a[0] + b[4]*a[3], b[3]*a[1] + b[4]*a[4], b[3]*a[2] + b[4]*a[5] + b[5],
	}
	return g
}

func clamp(v, low, high float64) float64 { return max(low, min(v, high)) }
