package frocio

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/alignedfusion/alignedfusion/eval/froc"
)

var imageNames = []string{"image", "image_id", "seriesuid", "file_name"}

type geometry int

const (
	noGeometry geometry = iota
	box2D
	sliceBox
	box3D
	point2D
	point3D
	maskFile
)

// layout says which column of a table means what.
type layout struct {
	image, score, patient, volume, split, ignore, class int // -1: no such column

	geometry geometry
	coords   []int // columns of the coordinates, in the order of the region's constructor
	names    []string
	radius   int
	diameter bool // the radius column holds diameters
	luna     bool // a negative diameter means 10 mm

	rest []int // further columns
}

func newLayout(t *rowFile) (layout, error) {
	taken := make([]bool, len(t.header))
	lower := make([]string, len(t.header))
	for i, name := range t.header {
		if lower[i] = strings.ToLower(name); slices.Contains(lower[:i], lower[i]) {
			return layout{}, fmt.Errorf("%s:1: column %q stands twice", t.file, name)
		}
	}
	column := func(names ...string) int {
		for _, name := range names {
			if i := slices.Index(lower, name); i >= 0 {
				taken[i] = true
				return i
			}
		}
		return -1
	}
	var l layout
	if l.image = column(imageNames...); l.image < 0 {
		return l, fmt.Errorf("%s:1: no column %q; the header is %q", t.file, "image", strings.Join(t.header, ","))
	}
	l.score, l.patient, l.volume = column("score", "probability"), column("patient"), column("volume")
	l.split, l.ignore = column("split"), column("ignore")
	l.radius = -1
	l.class = slices.IndexFunc(lower, func(name string) bool { return slices.Contains(classNames, name) })
	has := func(names ...string) bool {
		for _, name := range names {
			if !slices.Contains(lower, name) {
				return false
			}
		}
		return true
	}
	use := func(g geometry, names ...string) {
		l.geometry, l.names = g, names
		for _, name := range names {
			l.coords = append(l.coords, column(name))
		}
	}
	point := func(x, y, z string) {
		if has(z) {
			use(point3D, x, y, z)
		} else {
			use(point2D, x, y)
		}
		if l.radius = column("radius"); l.radius < 0 {
			l.radius = column("diameter", "diameter_mm")
			l.diameter = l.radius >= 0
		}
	}
	switch {
	case has("x1", "y1", "x2", "y2", "z1", "z2"):
		use(box3D, "x1", "y1", "z1", "x2", "y2", "z2")
	case has("x1", "y1", "x2", "y2", "z"):
		use(sliceBox, "x1", "y1", "x2", "y2", "z")
	case has("x1", "y1", "x2", "y2"):
		use(box2D, "x1", "y1", "x2", "y2")
	case has("x", "y"):
		point("x", "y", "z")
	case has("cx", "cy"):
		point("cx", "cy", "cz")
	case has("coordx", "coordy", "coordz"):
		point("coordx", "coordy", "coordz")
		l.luna = true
	case has("mask"):
		use(maskFile, "mask")
	}
	for i := range t.header {
		if !taken[i] {
			l.rest = append(l.rest, i)
		}
	}
	return l, nil
}

// empty reports whether a row has no coordinates at all.
func (l *layout) empty(row []string) bool {
	for _, c := range l.coords {
		if row[c] != "" {
			return false
		}
	}
	return l.radius < 0 || row[l.radius] == ""
}

// region reads the row's coordinates. Masks are not read here.
func (l *layout) region(row []string) (froc.Region, error) {
	var v [6]float64
	for i, c := range l.coords {
		x, err := number(row[c])
		if err != nil {
			return froc.Region{}, fmt.Errorf("%s %w", l.names[i], err)
		}
		v[i] = x
	}
	radius := 0.0
	if l.radius >= 0 {
		var err error
		if radius, err = number(row[l.radius]); err != nil {
			return froc.Region{}, fmt.Errorf("radius or diameter %w", err)
		}
		if l.luna && l.diameter && radius < 0 {
			radius = 10 // noduleCADEvaluationLUNA16.py: findings without a size
		}
		if l.diameter {
			radius /= 2
		}
	}
	var r froc.Region
	switch l.geometry {
	case box2D:
		r = froc.Box(v[0], v[1], v[2], v[3])
	case sliceBox:
		r = froc.SliceBox(v[0], v[1], v[2], v[3], v[4])
	case box3D:
		r = froc.Box3D(v[0], v[1], v[2], v[3], v[4], v[5])
	case point2D:
		r = froc.Circle(v[0], v[1], radius)
	case point3D:
		r = froc.Sphere(v[0], v[1], v[2], radius)
	}
	return r, r.Check()
}

// number reads a finite number.
func number(text string) (float64, error) {
	v, err := strconv.ParseFloat(text, 64)
	if err != nil {
		// Excel pads and people leave blanks: only then is a second try worth its time
		if v, err = strconv.ParseFloat(strings.TrimSpace(text), 64); err != nil {
			return 0, fmt.Errorf("is %q, want a number", text)
		}
	}
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return 0, fmt.Errorf("is %q, want a finite number", text)
	}
	return v, nil
}

// flag reads a yes or no.
func flag(text string) (bool, error) {
	switch strings.ToLower(strings.TrimSpace(text)) {
	case "", "0", "0.0", "false", "no":
		return false, nil
	case "1", "1.0", "true", "yes":
		return true, nil
	}
	return false, fmt.Errorf("ignore is %q, want 0 or 1", text)
}

func finite(score float64) error {
	if math.IsNaN(score) || math.IsInf(score, 0) {
		return fmt.Errorf("score is %v, want a finite number", score)
	}
	return nil
}
