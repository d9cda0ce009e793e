package froc

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Measure is how a prediction's region is compared with a lesion's.
type Measure string

// The measures. Boxes and masks know all overlaps; a point with a radius counts
// as its bounding box.
const (
	IoU      Measure = "iou"      // intersection over union
	Dice     Measure = "dice"     // twice the intersection over the sum of sizes
	IoBB     Measure = "iobb"     // intersection over the predicted region
	IoGT     Measure = "iogt"     // intersection over the lesion
	IoMin    Measure = "iomin"    // intersection over the smaller region, max(IoBB, IoGT)
	MinAxis  Measure = "minaxis"  // least intersection over union of the extents along one axis; boxes and points only
	Distance Measure = "distance" // distance of the centres
	InPlane  Measure = "inplane"  // distance of the centres without their third coordinate
	Slices   Measure = "slices"   // distance of the centres along the third coordinate, in slices
	Inside   Measure = "inside"   // the predicted centre lies in the lesion (border included)
)

// Unit is what the threshold of a distance is a multiple of.
type Unit string

// The units of distances.
const (
	Absolute   Unit = ""         // of the coordinates; millimetres where images have a spacing
	OfRadius   Unit = "radius"   // the lesion's radius
	OfDiagonal Unit = "diagonal" // the diagonal of the lesion's box, of a 2-D box in the plane
	OfDepth    Unit = "depth"    // the number of the image's slices
)

// Criterion decides whether a prediction hits a lesion: an overlap of at least
// Threshold, or a distance of at most Threshold times Unit, but no less than
// AtLeast; Strict excludes equality. Inside has no threshold. The criteria of And
// must hold as well.
type Criterion struct {
	Measure   Measure
	Threshold float64
	Strict    bool
	Unit      Unit
	AtLeast   float64
	And       []Criterion
}

// isDistance reports whether less is better.
func (m Measure) isDistance() bool { return m == Distance || m == InPlane || m == Slices }

// frame is what a pair is measured in.
type frame struct {
	plusOne   float64    // 1 where corners are pixel indices
	tolerance float64    // slices by which a slice box may lie apart
	spacing   [3]float64 // millimetres per unit of x, y and z, 1 where unknown
	depth     float64    // slices of the image
}

// String writes the criterion in the form ParseHit reads.
func (c Criterion) String() string {
	text := string(Inside)
	if c.Measure != Inside {
		sign := ">"
		if c.Measure.isDistance() {
			sign = "<"
		}
		if !c.Strict {
			sign += "="
		}
		text = string(c.Measure) + sign + c.limitText()
	}
	for _, other := range c.And {
		text += " & " + other.String()
	}
	return text
}

func (c Criterion) limitText() string {
	format := func(v float64) string { return strconv.FormatFloat(v, 'g', -1, 64) }
	limit := format(c.Threshold)
	switch {
	case c.Unit != Absolute && c.Threshold == 1:
		limit = string(c.Unit)
	case c.Unit != Absolute:
		limit += "*" + string(c.Unit)
	}
	if c.AtLeast > 0 {
		return "max(" + limit + "," + format(c.AtLeast) + ")"
	}
	return limit
}

// FormatHit writes criteria in the form ParseHit reads.
func FormatHit(criteria []Criterion) string {
	texts := make([]string, len(criteria))
	for i, c := range criteria {
		texts[i] = c.String()
	}
	return strings.Join(texts, " | ")
}

// ParseHit reads criteria joined by "|", of which one must hold, each of them one or several
// joined by "&", which must all hold: "iou>=0.5", "iobb>0.3 & distance<radius",
// "distance<=10", "distance<max(1.5*radius,5)", "inplane<=0.5*diagonal & slices<=0.25*depth",
// "inside".
func ParseHit(text string) ([]Criterion, error) {
	var out []Criterion
	for part := range strings.SplitSeq(text, "|") {
		var all []Criterion
		for one := range strings.SplitSeq(part, "&") {
			one = strings.TrimSpace(one)
			c, err := parseCriterion(strings.ReplaceAll(one, " ", ""))
			if err != nil {
				return nil, fmt.Errorf("hit rule %q: %w", one, err)
			}
			all = append(all, c)
		}
		if len(all) > 1 {
			all[0].And = all[1:]
		}
		out = append(out, all[0])
	}
	return out, nil
}

func parseCriterion(s string) (Criterion, error) {
	if s == string(Inside) {
		return Criterion{Measure: Inside}, nil
	}
	at := strings.IndexAny(s, "<>")
	if at < 0 {
		return Criterion{}, fmt.Errorf("want MEASURE>=VALUE, distance<VALUE, distance<radius or inside")
	}
	c := Criterion{Measure: Measure(s[:at])}
	limit, equal := strings.CutPrefix(s[at+1:], "=")
	c.Strict = !equal
	want := byte('>')
	switch c.Measure {
	case IoU, Dice, IoBB, IoGT, IoMin, MinAxis:
	case Distance, InPlane, Slices:
		want = '<'
	default:
		return Criterion{}, fmt.Errorf("measure %q, want iou, dice, iobb, iogt, iomin, minaxis, distance, inplane, slices or inside", s[:at])
	}
	if s[at] != want {
		return Criterion{}, fmt.Errorf("%s is compared with %q, want %q", c.Measure, s[at], want)
	}
	if err := c.parseLimit(limit); err != nil {
		return Criterion{}, err
	}
	return c, c.check()
}

// parseLimit reads 0.5, and of distances radius, 0.5*diagonal and max(radius,5).
func (c *Criterion) parseLimit(limit string) (err error) {
	number := func(text string) (v float64) {
		if v, err = strconv.ParseFloat(text, 64); err != nil || math.IsNaN(v) || math.IsInf(v, 0) || v < 0 {
			err = fmt.Errorf("threshold %q, want a number of 0 or more", text)
		}
		return v
	}
	if !c.Measure.isDistance() {
		c.Threshold = number(limit)
		return err
	}
	if inner, isMax := strings.CutPrefix(limit, "max("); isMax && strings.HasSuffix(inner, ")") {
		first, floor, two := strings.Cut(strings.TrimSuffix(inner, ")"), ",")
		if !two {
			return fmt.Errorf("%q, want max(radius,VALUE)", limit)
		}
		if c.AtLeast = number(floor); err != nil {
			return err
		}
		limit = first
	}
	c.Threshold = 1
	for _, unit := range []Unit{OfRadius, OfDiagonal, OfDepth} {
		if limit == string(unit) {
			c.Unit = unit
			return nil
		}
		if factor, ok := strings.CutSuffix(limit, "*"+string(unit)); ok {
			c.Unit, limit = unit, factor
			break
		}
	}
	c.Threshold = number(limit)
	return err
}

func (c Criterion) check() error {
	for _, other := range c.And {
		if len(other.And) > 0 {
			return fmt.Errorf("criterion %s: conditions within conditions", c)
		}
		if err := other.check(); err != nil {
			return err
		}
	}
	switch c.Measure {
	case Inside:
		return nil
	case Distance, InPlane, Slices:
		if !(c.Threshold >= 0 && c.AtLeast >= 0) || math.IsInf(c.Threshold, 0) || math.IsInf(c.AtLeast, 0) {
			return fmt.Errorf("criterion %s: threshold must be 0 or more", c)
		}
		if (c.Measure == Slices) != (c.Unit == OfDepth) && c.Unit != Absolute {
			return fmt.Errorf("criterion %s: %s cannot be a multiple of %s", c, c.Measure, c.Unit)
		}
		return nil
	case IoU, Dice, IoBB, IoGT, IoMin, MinAxis:
		if !(c.Threshold >= 0 && c.Threshold <= 1) {
			return fmt.Errorf("criterion %s: threshold must lie in 0 to 1", c)
		}
		if c.Threshold == 0 && !c.Strict {
			return fmt.Errorf("criterion %s: would hold for every pair; use > instead of >=", c)
		}
		return nil
	}
	return fmt.Errorf("criterion has the unknown measure %q", c.Measure)
}

// applicable says why a criterion cannot compare two kinds of region, or "".
func (c Criterion) applicable(prediction, lesion Kind) string {
	for _, other := range c.And {
		if reason := other.applicable(prediction, lesion); reason != "" {
			return reason
		}
	}
	if prediction == KindMask || lesion == KindMask {
		if c.Measure == MinAxis {
			return fmt.Sprintf("%s cannot compare a %s mark with a %s lesion", c.Measure, prediction, lesion)
		}
		return ""
	}
	if prediction.planar() != lesion.planar() {
		return fmt.Sprintf("a %s mark cannot be compared with a %s lesion", prediction, lesion)
	}
	if c.Measure == Slices && prediction.planar() {
		return fmt.Sprintf("slices cannot compare a %s mark with a %s lesion", prediction, lesion)
	}
	return ""
}

// measure compares one pair. raw is the overlap, the squared distance of the
// centres, or for Inside 1 or 0; hit says whether the criterion holds.
func (c *Criterion) measure(p, l *Region, f *frame) (raw float64, hit bool) {
	raw, hit = c.own(p, l, f)
	for k := 0; k < len(c.And) && hit; k++ {
		_, hit = c.And[k].own(p, l, f)
	}
	return raw, hit
}

// own is measure without And.
func (c *Criterion) own(p, l *Region, f *frame) (raw float64, hit bool) {
	switch c.Measure {
	case Distance, InPlane, Slices:
		limit := max(c.Threshold*f.unit(c.Unit, l), c.AtLeast)
		// squares are compared, as the reference scripts do
		raw, limit = squaredDistance(c.Measure, p, l, f), float64(limit*limit)
		return raw, raw < limit || !c.Strict && raw == limit
	case Inside:
		if inside(p, l, f) {
			return 1, true
		}
		return 0, false
	}
	raw = c.overlap(p, l, f)
	return raw, raw > c.Threshold || !c.Strict && raw == c.Threshold
}

// unit is the length that a threshold is a multiple of.
func (f *frame) unit(u Unit, l *Region) float64 {
	switch u {
	case OfRadius:
		return l.radius(f.spacing)
	case OfDepth:
		return f.depth
	case OfDiagonal:
		low, high := l.Bounds()
		x, y, z := (high[0]-low[0])*f.spacing[0], (high[1]-low[1])*f.spacing[1], (high[2]-low[2])*f.spacing[2]
		return math.Sqrt(float64(x*x) + float64(y*y) + float64(z*z))
	}
	return 1
}

// quality turns a raw value into "greater is better".
func (c *Criterion) quality(raw float64) float64 {
	if c.Measure.isDistance() {
		return -raw
	}
	return raw
}

// shown turns a raw value into the one that is reported.
func (c *Criterion) shown(raw float64) float64 {
	if c.Measure.isDistance() {
		return math.Sqrt(raw)
	}
	return raw
}

// overlap measures how two regions overlap, 0 to 1.
func (c *Criterion) overlap(p, l *Region, f *frame) float64 {
	plusOne := f.plusOne
	switch {
	case p.kind == KindMask && l.kind == KindMask:
		return ratio(c.Measure, float64(p.mask.intersection(l.mask)), float64(p.mask.voxels), float64(l.mask.voxels))
	case p.kind == KindMask:
		inter, size := p.mask.inBox(l, f)
		return ratio(c.Measure, float64(inter), float64(p.mask.voxels), float64(size))
	case l.kind == KindMask:
		inter, size := l.mask.inBox(p, f)
		return ratio(c.Measure, float64(inter), float64(size), float64(l.mask.voxels))
	}
	axes, apart := sharedAxes(p, l, f.tolerance)
	if apart {
		return 0
	}
	// corners: low in 0 to 2, high in 3 to 5
	cp, cl := p.corners(), l.corners()
	inter, sizeP, sizeL, least := 1.0, 1.0, 1.0, math.Inf(1)
	for a := range axes {
		overlap := max(min(cp[a+3], cl[a+3])-max(cp[a], cl[a])+plusOne, 0)
		extentP, extentL := cp[a+3]-cp[a]+plusOne, cl[a+3]-cl[a]+plusOne
		inter *= overlap
		sizeP *= extentP
		sizeL *= extentL
		least = min(least, ratio(IoU, overlap, extentP, extentL))
	}
	if c.Measure == MinAxis {
		return least
	}
	return ratio(c.Measure, inter, sizeP, sizeL)
}

// ratio is 0 when its divisor is, so that empty regions overlap nothing.
func ratio(m Measure, inter, sizeP, sizeL float64) float64 {
	divisor := sizeP + sizeL - inter
	switch m {
	case Dice:
		inter, divisor = 2*inter, sizeP+sizeL
	case IoBB:
		divisor = sizeP
	case IoGT:
		divisor = sizeL
	case IoMin:
		divisor = min(sizeP, sizeL)
	}
	if divisor <= 0 {
		return 0
	}
	return inter / divisor
}

// sharedAxes returns on how many axes two regions are compared. A slice box is
// compared in the plane; apart is true when its slice lies further from the other
// region than the tolerance.
func sharedAxes(p, l *Region, tolerance float64) (axes int, apart bool) {
	if p.kind.planar() || l.kind.planar() {
		return 2, false
	}
	if p.kind != KindSliceBox && l.kind != KindSliceBox {
		return 3, false
	}
	lowP, highP := p.Bounds()
	lowL, highL := l.Bounds()
	return 2, highP[2]+tolerance < lowL[2] || highL[2]+tolerance < lowP[2]
}

// squaredDistance keeps every product out of fused multiply-add, so that all
// machines agree on pairs exactly at the radius.
func squaredDistance(m Measure, p, l *Region, f *frame) float64 {
	first, axes := 0, 3
	switch m {
	case InPlane:
		axes = 2
	case Slices:
		first = 2
	default:
		if p.kind != KindPoint3D || l.kind != KindPoint3D {
			n, apart := sharedAxes(p, l, f.tolerance)
			if apart {
				return math.Inf(1)
			}
			axes = n
		}
	}
	a, b := p.Centre(), l.Centre()
	sum := 0.0
	for i := first; i < axes; i++ {
		d := a[i] - b[i]
		if m != Slices {
			d *= f.spacing[i]
		}
		sum += float64(d * d)
	}
	return sum
}

// inside reports whether the prediction's centre lies in the lesion.
func inside(p, l *Region, f *frame) bool {
	switch {
	case l.kind == KindMask:
		return l.mask.contains(p.Centre())
	case l.isBox():
		axes, apart := sharedAxes(p, l, f.tolerance)
		centre := p.Centre()
		for a := range axes {
			// with the +1 convention the last pixel reaches half a pixel further on both sides
			if centre[a] < l.c[a]-float64(f.plusOne/2) || centre[a] > l.c[a+3]+float64(f.plusOne/2) {
				return false
			}
		}
		return !apart
	}
	return squaredDistance(Distance, p, l, f) <= float64(l.c[3]*l.c[3])
}
