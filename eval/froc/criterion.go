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
	Inside   Measure = "inside"   // the predicted centre lies in the lesion (border included)
)

// Criterion decides whether a prediction hits a lesion: an overlap of at least
// Threshold, or a centre distance of at most Threshold; Strict excludes
// equality. With ByRadius the threshold of a distance is the lesion's radius
// times Threshold. Inside has no threshold.
type Criterion struct {
	Measure   Measure
	Threshold float64
	Strict    bool
	ByRadius  bool
}

// String writes the criterion in the form ParseHit reads.
func (c Criterion) String() string {
	number := strconv.FormatFloat(c.Threshold, 'g', -1, 64)
	equal := "="
	if c.Strict {
		equal = ""
	}
	switch {
	case c.Measure == Inside:
		return "inside"
	case c.Measure == Distance && c.ByRadius && c.Threshold == 1:
		return "distance<" + equal + "radius"
	case c.Measure == Distance && c.ByRadius:
		return "distance<" + equal + number + "*radius"
	case c.Measure == Distance:
		return "distance<" + equal + number
	}
	return string(c.Measure) + ">" + equal + number
}

// FormatHit writes criteria in the form ParseHit reads.
func FormatHit(criteria []Criterion) string {
	texts := make([]string, len(criteria))
	for i, c := range criteria {
		texts[i] = c.String()
	}
	return strings.Join(texts, " | ")
}

// ParseHit reads criteria joined by "|", of which one must hold: "iou>=0.5",
// "iobb>0.3", "distance<radius", "distance<=10", "distance<1.5*radius", "inside".
func ParseHit(text string) ([]Criterion, error) {
	var out []Criterion
	for part := range strings.SplitSeq(text, "|") {
		part = strings.TrimSpace(part)
		c, err := parseCriterion(strings.ReplaceAll(part, " ", ""))
		if err != nil {
			return nil, fmt.Errorf("hit rule %q: %w", part, err)
		}
		out = append(out, c)
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
	c := Criterion{Measure: Measure(s[:at]), Strict: true}
	number, equal := strings.CutPrefix(s[at+1:], "=")
	c.Strict = !equal
	want := byte('>')
	switch c.Measure {
	case IoU, Dice, IoBB, IoGT, IoMin, MinAxis:
	case Distance:
		want = '<'
		if number == "radius" {
			c.Threshold, c.ByRadius = 1, true
		} else if factor, ok := strings.CutSuffix(number, "*radius"); ok {
			number, c.ByRadius = factor, true
		}
	default:
		return Criterion{}, fmt.Errorf("measure %q, want iou, dice, iobb, iogt, iomin, minaxis, distance or inside", s[:at])
	}
	if s[at] != want {
		return Criterion{}, fmt.Errorf("%s is compared with %q, want %q", c.Measure, s[at], want)
	}
	if number != "radius" {
		v, err := strconv.ParseFloat(number, 64)
		if err != nil || math.IsNaN(v) || math.IsInf(v, 0) || v < 0 {
			return Criterion{}, fmt.Errorf("threshold %q, want a number of 0 or more", number)
		}
		c.Threshold = v
	}
	return c, c.check()
}

func (c Criterion) check() error {
	switch c.Measure {
	case Inside:
		return nil
	case Distance:
		if !(c.Threshold >= 0) || math.IsInf(c.Threshold, 0) {
			return fmt.Errorf("criterion %s: threshold must be 0 or more", c)
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
	if prediction == KindMask || lesion == KindMask {
		switch {
		case prediction == KindMask && lesion == KindMask && c.Measure != MinAxis:
			return ""
		case prediction == KindPoint3D && lesion == KindMask && c.Measure == Inside:
			return ""
		}
		return fmt.Sprintf("%s cannot compare a %s prediction with a %s lesion", c.Measure, prediction, lesion)
	}
	if prediction.planar() != lesion.planar() {
		return fmt.Sprintf("a %s prediction cannot be compared with a %s lesion", prediction, lesion)
	}
	return ""
}

// measure compares one pair. raw is the overlap, the squared distance of the
// centres, or for Inside 1 or 0; hit says whether the criterion holds.
func (c *Criterion) measure(p, l *Region, plusOne float64) (raw float64, hit bool) {
	switch c.Measure {
	case Distance:
		limit := c.Threshold
		if c.ByRadius {
			limit *= l.Radius()
		}
		// squares are compared, as the reference scripts do
		raw, limit = squaredDistance(p, l), float64(limit*limit)
		return raw, raw < limit || !c.Strict && raw == limit
	case Inside:
		if inside(p, l, plusOne) {
			return 1, true
		}
		return 0, false
	}
	raw = c.overlap(p, l, plusOne)
	return raw, raw > c.Threshold || !c.Strict && raw == c.Threshold
}

// quality turns a raw value into "greater is better".
func (c *Criterion) quality(raw float64) float64 {
	if c.Measure == Distance {
		return -raw
	}
	return raw
}

// shown turns a raw value into the one that is reported.
func (c *Criterion) shown(raw float64) float64 {
	if c.Measure == Distance {
		return math.Sqrt(raw)
	}
	return raw
}

// overlap measures how two regions overlap, 0 to 1.
func (c *Criterion) overlap(p, l *Region, plusOne float64) float64 {
	if p.kind == KindMask {
		return ratio(c.Measure, float64(p.mask.intersection(l.mask)), float64(p.mask.voxels), float64(l.mask.voxels))
	}
	axes, apart := sharedAxes(p, l)
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
// compared in the plane; apart is true when its slice is not in the other region.
func sharedAxes(p, l *Region) (axes int, apart bool) {
	if p.kind.planar() {
		return 2, false
	}
	if p.kind != KindSliceBox && l.kind != KindSliceBox {
		return 3, false
	}
	cp, cl := p.corners(), l.corners()
	return 2, cp[5] < cl[2] || cl[5] < cp[2]
}

// squaredDistance keeps every product out of fused multiply-add, so that all
// machines agree on pairs exactly at the radius.
func squaredDistance(p, l *Region) float64 {
	if p.kind == KindPoint3D && l.kind == KindPoint3D {
		x, y, z := p.c[0]-l.c[0], p.c[1]-l.c[1], p.c[2]-l.c[2]
		return float64(x*x) + float64(y*y) + float64(z*z)
	}
	axes := 3
	if p.kind != KindMask {
		n, apart := sharedAxes(p, l)
		if apart {
			return math.Inf(1)
		}
		axes = n
	}
	a, b := p.Centre(), l.Centre()
	sum := 0.0
	for i := range axes {
		sum += float64((a[i] - b[i]) * (a[i] - b[i]))
	}
	return sum
}

// inside reports whether the prediction's centre lies in the lesion.
func inside(p, l *Region, plusOne float64) bool {
	switch {
	case l.kind == KindMask:
		return l.mask.contains(p.Centre())
	case l.isBox():
		axes, apart := sharedAxes(p, l)
		centre := p.Centre()
		for a := range axes {
			// with the +1 convention the last pixel reaches half a pixel further on both sides
			if centre[a] < l.c[a]-plusOne/2 || centre[a] > l.c[a+3]+plusOne/2 {
				return false
			}
		}
		return !apart
	}
	return squaredDistance(p, l) <= float64(l.c[3]*l.c[3])
}
