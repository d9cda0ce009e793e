package boxops

import "math"

// Ellipse is a pseudo-mask from a RECIST measurement: four quarter-ellipses
// through the end points of the two diameters, about the point where these cross
// (Yan et al., MULAN, MICCAI 2019, section 3).
type Ellipse struct {
	cx, cy float64
	ux, uy float64 // unit vector along the long diameter
	vx, vy float64 // unit vector along the short diameter
	// semi-axes towards the ends: long start, long end, short start, short end
	axes [4]float64
	det  float64
}

// EllipseOf makes the mask of a measurement given as x, y of the long diameter's
// two ends, then of the short one's, in pixels. Where the diameters do not cross,
// the centre is the mean of the points on each nearest to the crossing of their
// lines. Diameters without length, or parallel ones, give the circle or ellipse
// about the mean of the four points that reaches the nearest sensible extent.
func EllipseOf(recist [8]float32) Ellipse {
	var p [8]float64
	for i, v := range recist {
		p[i] = float64(v)
	}
	lx, ly := p[2]-p[0], p[3]-p[1]
	sx, sy := p[6]-p[4], p[7]-p[5]
	long, short := math.Hypot(lx, ly), math.Hypot(sx, sy)
	cross := lx*sy - ly*sx
	var e Ellipse
	if long < 1e-6 || short < 1e-6 || math.Abs(cross) < 1e-3*long*short {
		r := math.Max(math.Max(long, short)/2, 0.5)
		e.cx, e.cy = (p[0]+p[2]+p[4]+p[6])/4, (p[1]+p[3]+p[5]+p[7])/4
		e.ux, e.vy, e.det = 1, 1, 1
		e.axes = [4]float64{r, r, r, r}
		return e
	}
	// Parameters of the crossing along each diameter, kept inside it.
	dx, dy := p[4]-p[0], p[5]-p[1]
	a := clampTo((dx*sy-dy*sx)/cross, 0.02, 0.98)
	b := clampTo((dx*ly-dy*lx)/cross, 0.02, 0.98)
	e.cx = (p[0] + a*lx + p[4] + b*sx) / 2
	e.cy = (p[1] + a*ly + p[5] + b*sy) / 2
	e.ux, e.uy, e.vx, e.vy = lx/long, ly/long, sx/short, sy/short
	e.det = e.ux*e.vy - e.uy*e.vx
	e.axes = [4]float64{a * long, (1 - a) * long, b * short, (1 - b) * short}
	return e
}

func clampTo(v, low, high float64) float64 { return math.Min(math.Max(v, low), high) }

// Contains reports whether the point lies in the mask.
func (e Ellipse) Contains(x, y float64) bool {
	dx, dy := x-e.cx, y-e.cy
	s := (dx*e.vy - dy*e.vx) / e.det
	t := (e.ux*dy - e.uy*dx) / e.det
	as, at := e.axes[0], e.axes[2]
	if s > 0 {
		as = e.axes[1]
	}
	if t > 0 {
		at = e.axes[3]
	}
	return (s/as)*(s/as)+(t/at)*(t/at) <= 1
}

// Mask samples the ellipse at the centres of size × size equal cells of box and
// returns 1 inside and 0 outside, row by row.
func (e Ellipse) Mask(box Box, size int) []float32 {
	out := make([]float32, size*size)
	w, h := float64(box[2]-box[0])/float64(size), float64(box[3]-box[1])/float64(size)
	for j := range size {
		for i := range size {
			if e.Contains(float64(box[0])+(float64(i)+0.5)*w, float64(box[1])+(float64(j)+0.5)*h) {
				out[j*size+i] = 1
			}
		}
	}
	return out
}
