package froc

import (
	"cmp"
	"fmt"
	"math"
)

// Kind says what a [Region] is.
type Kind uint8

// The kinds of regions.
const (
	KindBox2D    Kind = iota + 1 // corners in the plane
	KindBox3D                    // corners in space
	KindSliceBox                 // a 2-D box on one slice of a volume (P3D ground truth)
	KindPoint2D                  // centre and radius in the plane
	KindPoint3D                  // centre and radius in space
	KindMask                     // a set of voxels
)

var kindNames = [...]string{"undefined region", "2-D box", "3-D box", "2-D box on a slice", "2-D point", "3-D point", "mask"}

// String returns the kind in words.
func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// planar reports whether the kind has no third coordinate.
func (k Kind) planar() bool { return k == KindBox2D || k == KindPoint2D }

// Region is where a lesion or a prediction is. Coordinates are in whatever unit
// the caller uses for both (pixels, voxels or millimetres). Make one with
// [Box], [Box3D], [SliceBox], [Circle], [Sphere] or [MaskRegion].
type Region struct {
	kind Kind
	// Boxes: x1 y1 z1 x2 y2 z2 (2-D boxes have z1 = z2 = 0, slice boxes z1 = z2 =
	// the slice). Points: x y z radius. Masks: unused.
	c    [6]float64
	mask *Mask
}

// Box is a 2-D box with corners (x1, y1) and (x2, y2).
func Box(x1, y1, x2, y2 float64) Region {
	return Region{kind: KindBox2D, c: [6]float64{x1, y1, 0, x2, y2, 0}}
}

// Box3D is a 3-D box with corners (x1, y1, z1) and (x2, y2, z2).
func Box3D(x1, y1, z1, x2, y2, z2 float64) Region {
	return Region{kind: KindBox3D, c: [6]float64{x1, y1, z1, x2, y2, z2}}
}

// SliceBox is a 2-D box on slice z of a volume. Against a 3-D box it is compared
// in the plane, provided that the 3-D box contains the slice (the "P3D" rule of
// Yan et al., Learning from multiple datasets with heterogeneous and partial
// labels for universal lesion detection in CT, IEEE TMI 2020).
func SliceBox(x1, y1, x2, y2, z float64) Region {
	return Region{kind: KindSliceBox, c: [6]float64{x1, y1, z, x2, y2, z}}
}

// Circle is a 2-D point with a radius; predictions usually have radius 0.
func Circle(x, y, radius float64) Region {
	return Region{kind: KindPoint2D, c: [6]float64{x, y, 0, radius}}
}

// Sphere is a 3-D point with a radius; predictions usually have radius 0.
func Sphere(x, y, z, radius float64) Region {
	return Region{kind: KindPoint3D, c: [6]float64{x, y, z, radius}}
}

// MaskRegion is the set of voxels of m; without one it is undefined.
func MaskRegion(m *Mask) Region {
	if m == nil {
		return Region{}
	}
	return Region{kind: KindMask, mask: m}
}

// Kind returns what the region is.
func (r *Region) Kind() Kind { return r.kind }

// Mask returns the voxels of a mask region, nil for other kinds.
func (r *Region) Mask() *Mask { return r.mask }

// isBox reports whether the region has two corners.
func (r *Region) isBox() bool {
	return r.kind == KindBox2D || r.kind == KindBox3D || r.kind == KindSliceBox
}

// Bounds returns the corners of the region's bounding box; those of a point are
// its centre minus and plus the radius. Planar regions have z1 = z2 = 0.
func (r *Region) Bounds() (low, high [3]float64) {
	switch r.kind {
	case KindPoint2D:
		return [3]float64{r.c[0] - r.c[3], r.c[1] - r.c[3], 0}, [3]float64{r.c[0] + r.c[3], r.c[1] + r.c[3], 0}
	case KindPoint3D:
		return [3]float64{r.c[0] - r.c[3], r.c[1] - r.c[3], r.c[2] - r.c[3]},
			[3]float64{r.c[0] + r.c[3], r.c[1] + r.c[3], r.c[2] + r.c[3]}
	case KindMask:
		return r.mask.low, r.mask.high
	}
	return [3]float64{r.c[0], r.c[1], r.c[2]}, [3]float64{r.c[3], r.c[4], r.c[5]}
}

// corners returns the bounding box of a box or point: low in 0 to 2, high in 3
// to 5. That of a box is the region's own and must not be changed.
func (r *Region) corners() *[6]float64 {
	if r.isBox() {
		return &r.c
	}
	low, high := r.Bounds()
	return &[6]float64{low[0], low[1], low[2], high[0], high[1], high[2]}
}

// Centre returns the middle of a box, the point itself, or the centroid of a mask.
func (r *Region) Centre() [3]float64 {
	switch r.kind {
	case KindPoint2D, KindPoint3D:
		return [3]float64{r.c[0], r.c[1], r.c[2]}
	case KindMask:
		return r.mask.centroid
	}
	return [3]float64{(r.c[0] + r.c[3]) / 2, (r.c[1] + r.c[4]) / 2, (r.c[2] + r.c[5]) / 2}
}

// Radius returns the radius of a point, half the longest side of a box, and for
// a mask the radius of the ball with as many voxels.
func (r *Region) Radius() float64 { return r.radius(noSpacing) }

// noSpacing leaves coordinates as they are.
var noSpacing = [3]float64{1, 1, 1}

// radius is Radius in millimetres, for boxes and masks in units of that spacing. That of a
// point is in millimetres already.
func (r *Region) radius(spacing [3]float64) float64 {
	switch r.kind {
	case KindPoint2D, KindPoint3D:
		return r.c[3]
	case KindMask:
		return math.Cbrt(3 * float64(r.mask.voxels) * spacing[0] * spacing[1] * spacing[2] / (4 * math.Pi))
	}
	return max((r.c[3]-r.c[0])*spacing[0], (r.c[4]-r.c[1])*spacing[1], (r.c[5]-r.c[2])*spacing[2]) / 2
}

// Check returns an error when a coordinate is not finite, a box has its corners
// exchanged, or a radius is negative.
func (r *Region) Check() error {
	if r == nil || r.kind == 0 {
		return fmt.Errorf("region is undefined; make it with Box, Sphere, …")
	}
	if r.kind == KindMask {
		if r.mask.voxels == 0 {
			return fmt.Errorf("mask is empty")
		}
		return nil
	}
	for _, v := range r.c {
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return fmt.Errorf("coordinate is %v, want a finite number", v)
		}
	}
	if r.isBox() {
		for i, axis := range [...]string{"x", "y", "z"} {
			if r.c[i+3] < r.c[i] {
				return fmt.Errorf("%s2=%v is less than %s1=%v", axis, r.c[i+3], axis, r.c[i])
			}
		}
	} else if r.c[3] < 0 {
		return fmt.Errorf("radius is %v, want 0 or more", r.c[3])
	}
	return nil
}

// compareRegions orders regions by content, so that ties can be broken
// independently of input order.
func compareRegions(a, b *Region) int {
	if c := cmp.Compare(a.kind, b.kind); c != 0 {
		return c
	}
	for i := range a.c {
		if c := cmp.Compare(a.c[i], b.c[i]); c != 0 {
			return c
		}
	}
	if a.mask != nil && b.mask != nil {
		return a.mask.compare(b.mask)
	}
	return 0
}

// String shows the region's kind and coordinates.
func (r *Region) String() string {
	switch r.kind {
	case KindBox2D:
		return fmt.Sprintf("box [%g %g %g %g]", r.c[0], r.c[1], r.c[3], r.c[4])
	case KindBox3D:
		return fmt.Sprintf("box [%g %g %g %g %g %g]", r.c[0], r.c[1], r.c[2], r.c[3], r.c[4], r.c[5])
	case KindSliceBox:
		return fmt.Sprintf("box [%g %g %g %g] on slice %g", r.c[0], r.c[1], r.c[3], r.c[4], r.c[2])
	case KindPoint2D:
		return fmt.Sprintf("point [%g %g] radius %g", r.c[0], r.c[1], r.c[3])
	case KindPoint3D:
		return fmt.Sprintf("point [%g %g %g] radius %g", r.c[0], r.c[1], r.c[2], r.c[3])
	case KindMask:
		return fmt.Sprintf("mask of %d voxels", r.mask.voxels)
	}
	return r.kind.String()
}
