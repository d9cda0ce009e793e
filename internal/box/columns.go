package box

import (
	"fmt"
	"slices"
	"strings"
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
