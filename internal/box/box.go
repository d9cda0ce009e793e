// Package box is the algebra of axis-parallel boxes in the plane. Coordinates are
// continuous: a box is X2-X1 wide.
//
// eval/froc keeps a type of its own: its regions are boxes, slices, balls or masks,
// compared with or without the +1 pixel of published protocols, and strangers read them
// in its documentation.
package box

import (
	"cmp"
	"strconv"
	"strings"
)

// Box has its corners at (X1, Y1) and (X2, Y2), in pixels; X1 <= X2 and Y1 <= Y2.
type Box struct{ X1, Y1, X2, Y2 float64 }

// Detection is a box that a detector found.
type Detection struct {
	Box
	Score float64
	// Class indexes the label set.
	Class int
}

// Valid reports whether the corners are in order; not for NaN.
func (b Box) Valid() bool { return b.X1 <= b.X2 && b.Y1 <= b.Y2 }

// Area is 0 for a box whose corners are not in order.
func (b Box) Area() float64 {
	return float64(max(b.X2-b.X1, 0) * max(b.Y2-b.Y1, 0))
}

// Centre is the middle of the box.
func (b Box) Centre() (x, y float64) { return (b.X1 + b.X2) / 2, (b.Y1 + b.Y2) / 2 }

// Clip cuts off what lies outside another box. What lies wholly outside becomes a line
// or a point on its border.
func (b Box) Clip(to Box) Box {
	return Box{clamp(b.X1, to.X1, to.X2), clamp(b.Y1, to.Y1, to.Y2), clamp(b.X2, to.X1, to.X2), clamp(b.Y2, to.Y1, to.Y2)}
}

func clamp(v, low, high float64) float64 { return max(low, min(v, high)) }

// Enclose is the smallest box around two.
func (b Box) Enclose(o Box) Box {
	return Box{min(b.X1, o.X1), min(b.Y1, o.Y1), max(b.X2, o.X2), max(b.Y2, o.Y2)}
}

// Grow moves every side outwards.
func (b Box) Grow(by float64) Box { return Box{b.X1 - by, b.Y1 - by, b.X2 + by, b.Y2 + by} }

// Touches reports whether two boxes share a point, borders included.
func (b Box) Touches(o Box) bool {
	return b.X1 <= o.X2 && o.X1 <= b.X2 && b.Y1 <= o.Y2 && o.Y1 <= b.Y2
}

// Within reports whether the box lies in another, borders included.
func (b Box) Within(o Box) bool {
	return b.X1 >= o.X1 && b.Y1 >= o.Y1 && b.X2 <= o.X2 && b.Y2 <= o.Y2
}

// FlipX mirrors the box left-right in an image of the given width in pixels.
func (b Box) FlipX(width float64) Box { return Box{width - b.X2, b.Y1, width - b.X1, b.Y2} }

// Compare orders boxes by position.
func (b Box) Compare(o Box) int {
	return cmp.Or(cmp.Compare(b.X1, o.X1), cmp.Compare(b.Y1, o.Y1), cmp.Compare(b.X2, o.X2), cmp.Compare(b.Y2, o.Y2))
}

// String writes the corners with seven digits.
func (b Box) String() string {
	texts := make([]string, 4)
	for i, v := range [4]float64{b.X1, b.Y1, b.X2, b.Y2} {
		texts[i] = strconv.FormatFloat(v, 'g', 7, 64)
	}
	return "(" + strings.Join(texts, ", ") + ")"
}

// IoU is intersection over union; 0 when the boxes do not overlap.
func IoU(a, b Box) float64 {
	w, h := min(a.X2, b.X2)-max(a.X1, b.X1), min(a.Y2, b.Y2)-max(a.Y1, b.Y1)
	if w <= 0 || h <= 0 {
		return 0
	}
	shared := float64(w * h)
	return shared / (a.Area() + b.Area() - shared)
}

// ByScore orders detections from the highest score down; equal scores by class and
// position, so that a result does not depend on the order given.
func ByScore(a, b Detection) int {
	return cmp.Or(cmp.Compare(b.Score, a.Score), cmp.Compare(a.Class, b.Class), a.Compare(b.Box))
}
