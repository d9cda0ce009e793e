package box

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"gonum.org/v1/gonum/stat"
)

// Columns are the columns of a table that hold its boxes.
type Columns struct {
	// Names are those of the table.
	Names []string

	dims  int
	shape shape
}

// shape says what the numbers of a box are.
type shape int

const (
	twoCorners shape = iota
	cornerSides
	// centreSides are the centre and the sides, or one diameter.
	centreSides
)

// ways to give boxes by the number of axes, in the order in which they are looked for; capitals
// do not count.
var ways = map[int][]struct {
	names string
	shape shape
}{
	2: {
		{"x1,y1,x2,y2", twoCorners}, {"x_min,y_min,x_max,y_max", twoCorners}, {"xmin,ymin,xmax,ymax", twoCorners},
		{"cx,cy,w,h", centreSides}, {"cx,cy,width,height", centreSides}, {"x,y,w,h", cornerSides}, {"x,y,width,height", cornerSides},
	},
	3: {
		{"x1,y1,z1,x2,y2,z2", twoCorners}, {"x_min,y_min,z_min,x_max,y_max,z_max", twoCorners}, {"xmin,ymin,zmin,xmax,ymax,zmax", twoCorners},
		{"cx,cy,cz,dx,dy,dz", centreSides}, {"cx,cy,cz,w,h,d", centreSides}, {"coordx,coordy,coordz,w,h,d", centreSides},
		{"coordx,coordy,coordz,diameter_mm", centreSides}, {"x,y,z,diameter_mm", centreSides},
	},
}

// FindColumns finds the columns of a table that hold its boxes of 2 or 3 axes. The error says
// what was wanted.
func FindColumns(columns []string, dims int) (Columns, error) {
	var wanted []string
	for _, way := range ways[dims] {
		c := Columns{dims: dims, shape: way.shape}
		for _, name := range strings.Split(way.names, ",") {
			if at := slices.IndexFunc(columns, func(given string) bool { return strings.EqualFold(given, name) }); at >= 0 {
				c.Names = append(c.Names, columns[at])
			}
		}
		if len(c.Names) == strings.Count(way.names, ",")+1 {
			return c, nil
		}
		wanted = append(wanted, way.names)
	}
	return Columns{}, fmt.Errorf("no columns of boxes: want %s; there are %q", strings.Join(wanted, " or "), columns)
}

// AreCorners reports whether the columns hold two corners.
func (c Columns) AreCorners() bool { return c.shape == twoCorners }

// HaveSides reports whether the columns hold a corner and sides.
func (c Columns) HaveSides() bool { return c.shape == cornerSides }

// Axis are the numbers of many boxes along one axis, and the sizes of their images.
type Axis struct{ Low, Top, Size []float64 }

// Add adds a box.
func (a *Axis) Add(low, top, size float64) {
	a.Low, a.Top, a.Size = append(a.Low, low), append(a.Top, top), append(a.Size, size)
}

// fewBoxes show no pattern.
const fewBoxes = 12

// LikelySides reports whether what stands for the greatest corners of boxes are their sides: along
// every axis none is too large for one, and the corners do not move with the least ones. Of
// lesions both corners move together, unless their sizes differ more than their places; about
// half of those that have the whole image would then leave it.
func LikelySides(axes ...*Axis) bool {
	for _, a := range axes {
		if len(a.Low) < fewBoxes {
			return false
		}
		for k, low := range a.Low {
			if low+a.Top[k] > a.Size[k] {
				return false
			}
		}
		if slices.Min(a.Low) == slices.Max(a.Low) {
			return false // which tells nothing
		}
		if together := stat.Correlation(a.Low, a.Top, nil); math.Abs(together) > 0.5 { // of one size it is no number
			return false
		}
	}
	return true
}

// LikelyCorners reports whether what stands for the sides of boxes are their greatest corners: along
// every axis all are beyond the least ones and move with them.
func LikelyCorners(axes ...*Axis) bool {
	for _, a := range axes {
		if len(a.Low) < fewBoxes || slices.Min(a.Low) == slices.Max(a.Low) {
			return false
		}
		sides := make([]float64, len(a.Low))
		for k, low := range a.Low {
			if sides[k] = a.Top[k] - low; sides[k] <= low {
				return false
			}
		}
		if !(stat.Correlation(a.Low, sides, nil) > 0.8) {
			return false
		}
	}
	return true
}

// Corners are the least and the greatest corner of the box that the columns' numbers give.
func (c Columns) Corners(v []float64) (low, top [3]float64) {
	for a := range c.dims {
		side := v[min(c.dims+a, len(v)-1)]
		switch c.shape {
		case cornerSides:
			low[a], top[a] = v[a], v[a]+side
		case centreSides:
			half := float64(side / 2)
			low[a], top[a] = v[a]-half, v[a]+half
		default:
			low[a], top[a] = v[a], side
		}
	}
	return low, top
}
