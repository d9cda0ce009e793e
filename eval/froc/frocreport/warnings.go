package frocreport

import (
	"context"
	"fmt"
	"hash/crc32"
	"math"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/alignedfusion/alignedfusion/eval/froc"
	"github.com/alignedfusion/alignedfusion/eval/froc/frocio"
	"github.com/alignedfusion/alignedfusion/eval/resample"
)

// reach refuses what the hit rule can never count: lesions that not even a mark of their own
// shape hits, which would stay in the denominator, and marks without extent under a rule of
// overlaps. With lenient such lesions are left out and counted in a warning.
func reach(path string, truth *frocio.Truth, protocol froc.Protocol, lenient bool) error {
	lost, first := 0, ""
	unreachable := func(l froc.Lesion) bool {
		// the middle of a mask may lie outside of it; its own shape always overlaps it
		if l.Ignore || l.Region.Kind() == froc.KindMask || protocol.Hits(l.Region, l.Region) {
			return false
		}
		if lost++; lost == 1 {
			first = fmt.Sprintf("image %q, %s", truth.Images[l.Image].ID, l.Region.String())
		}
		return true
	}
	rule := froc.FormatHit(protocol.Hit)
	kept := slices.DeleteFunc(slices.Clone(truth.Lesions), unreachable)
	switch {
	case lost == 0:
		return nil
	case !lenient:
		return fmt.Errorf("%s: no mark can hit %d of the lesions by the rule %s: they have no size, or one that overflows (the first: %s); "+
			"correct them, mark them ignore=1, take a rule such as --hit \"distance<=5\", or leave them out with --lenient", path, lost, rule, first)
	}
	truth.Lesions = kept
	truth.Warnings = append(truth.Warnings, fmt.Sprintf("%s: left out %d lesions that no mark can hit by the rule %s (the first: %s)", path, lost, rule, first))
	return nil
}

// markReach is reach for marks.
func markReach(path string, marks []froc.Prediction, protocol froc.Protocol) (warning string, err error) {
	able := func(m *froc.Prediction) bool {
		c, like := m.Region.Centre(), m.Region
		switch m.Region.Kind() {
		case froc.KindMask:
			return true
		case froc.KindPoint2D:
			like = froc.Circle(c[0], c[1], max(m.Region.Radius(), 1))
		case froc.KindPoint3D:
			like = froc.Sphere(c[0], c[1], c[2], max(m.Region.Radius(), 1))
		}
		return protocol.Hits(m.Region, like)
	}
	var count atomic.Int64
	_ = resample.Ranges(context.Background(), len(marks), func(from, to int) { // which never ends early
		for i := from; i < to; i++ {
			if !able(&marks[i]) {
				count.Add(1)
			}
		}
	})
	unable := int(count.Load())
	rule := froc.FormatHit(protocol.Hit)
	switch {
	case unable == 0:
		return "", nil
	case unable == len(marks):
		return "", fmt.Errorf("%s: no mark can hit anything by the rule %s: marks without a size overlap nothing; "+
			"for points take a rule of distances, such as --hit \"distance<radius\" or inside, or a preset such as luna16", path, rule)
	}
	return fmt.Sprintf("%s: %d of %d marks can hit nothing by the rule %s: they have no size, or one that overflows", path, unable, len(marks), rule), nil
}

// box is a region's bounding box: low in 0 to 2, high in 3 to 5.
type box [6]float64

func boundsOf(r *froc.Region) box {
	low, high := r.Bounds()
	return box{low[0], low[1], low[2], high[0], high[1], high[2]}
}

// touches reports whether two boxes share a point; both may be flat.
func (b box) touches(o box) bool {
	for a := range 3 {
		if b[a] > o[a+3] || o[a] > b[a+3] {
			return false
		}
	}
	return true
}

// flat reports whether a box has no area in the plane: it is a point, then.
func (b box) flat() bool { return b[0] >= b[3] || b[1] >= b[4] }

// near reports whether a mark could be meant for a lesion: boxes by a share of their union,
// points by touching.
func (b box) near(o box, share float64) bool {
	if b.flat() || o.flat() || !b.touches(o) {
		return b.touches(o)
	}
	inter, one, other := 1.0, 1.0, 1.0
	for a := range 3 {
		if b[a] == b[a+3] && o[a] == o[a+3] {
			continue
		}
		inter *= min(b[a+3], o[a+3]) - max(b[a], o[a])
		one *= b[a+3] - b[a]
		other *= o[a+3] - o[a]
	}
	return inter >= float64(share*(one+other-inter))
}

// misreading is a way in which coordinates are commonly written, seen from how they were read.
type misreading struct {
	text          string
	marks, lesion func(box) box // nil: as they are
	classes       bool          // the numbers of classes are at fault, not coordinates
}

// boxes in the plane have no extent along z, where those in space are misread as along x and y
func sidesRead(b box) box {
	b[3], b[4] = b[0]+b[3], b[1]+b[4]
	if b[2] != b[5] {
		b[5] += b[2]
	}
	return b
}

func cornersRead(b box) box {
	b[3], b[4] = b[3]-b[0], b[4]-b[1]
	if b[2] != b[5] {
		b[5] -= b[2]
	}
	return b
}

func centreRead(b box) box {
	for a := range 3 {
		half := float64((b[a+3] - b[a]) / 2)
		b[a], b[a+3] = b[a]-half, b[a+3]-half
	}
	return b
}

// cornersAsCentre undoes what made a box of its centre and sides: they were its corners.
func cornersAsCentre(b box) box {
	for a := range 3 {
		if b[a] != b[a+3] {
			b[a], b[a+3] = (b[a]+b[a+3])/2, b[a+3]-b[a]
		}
	}
	return b
}

var misreadings = []misreading{
	{text: "x and y seem to be swapped in one of the files", marks: func(b box) box { return box{b[1], b[0], b[2], b[4], b[3], b[5]} }},
	{text: "the marks seem to be x,y,width,height that were read as x1,y1,x2,y2 (--columns x=…,y=…,w=…,h=… says so)", marks: sidesRead},
	{text: "the marks seem to be x1,y1,x2,y2 that were read as x,y,width,height", marks: cornersRead},
	{text: "the marks seem to be corners that were read as the centre and the sides", marks: cornersAsCentre},
	{text: "the lesions seem to be x,y,width,height that were read as x1,y1,x2,y2 (--columns x=…,y=…,w=…,h=… says so)", lesion: sidesRead},
	{text: "the marks seem to be the centre and the sides that were read as x,y,width,height (--columns cx=…,cy=…,w=…,h=… says so)", marks: centreRead},
	{text: "the lesions seem to be the centre and the sides that were read as x,y,width,height (--columns cx=…,cy=…,w=…,h=… says so)", lesion: centreRead},
	{text: "x and y have the other sign in one of the files: LPS against RAS (--coordinates lps or ras, or turn them)", marks: func(b box) box { return box{-b[3], -b[4], b[2], -b[0], -b[1], b[5]} }},
	{text: "x and z seem to be swapped in one of the files (NumPy's order is z,y,x)", marks: func(b box) box { return box{b[2], b[1], b[0], b[5], b[4], b[3]} }},
	{text: "marks of another class do lie on the lesions: are the numbers of classes the same in both files (from 0 or from 1)? --classes any takes all as one", classes: true},
}

// fewest are the lesions that another reading must find, of fewer all.
const fewest = 3

// mostPairs and mostMarks bound the search for a cause.
const mostPairs = 5_000_000

var mostMarks = 1_000_000 // tests change it

// places are where lesions and marks lie: all of them or, of very many, those of some images.
type places struct {
	lesions []placed
	of      map[int][]int // lesions of an image
	marks   []placed
	ranges  [2]box // of lesions, of marks
	shares  [2]shares
	shared  bool // some mark is on an image with lesions
	some    bool // not all images
}

type placed struct {
	box
	image int
	class int32
}

func placesOf(r *froc.Result) *places {
	every := 1 + len(r.Predictions)/mostMarks
	p := &places{of: map[int][]int{}, some: every > 1}
	// by the id, so that the order of rows cannot matter
	looked := func(image int) bool {
		return !p.some || crc32.ChecksumIEEE([]byte(r.Truth.Images[image].ID))%uint32(every) == 0
	}
	withLesion := make([]bool, len(r.Truth.Images))
	for k := range p.ranges {
		for a := range 3 {
			p.ranges[k][a], p.ranges[k][a+3] = math.Inf(1), math.Inf(-1)
		}
	}
	place := func(k int, region *froc.Region, image int, class int32) placed {
		b, all := boundsOf(region), &p.ranges[k]
		for a := range 3 {
			all[a], all[a+3] = min(all[a], b[a]), max(all[a+3], b[a+3])
		}
		p.shares[k].add(region)
		if len(r.Truth.Classes) == 0 || r.Protocol.Classes == froc.AnyClasses {
			class = froc.AnyClass
		}
		return placed{b, image, class}
	}
	for i := range r.Truth.Lesions {
		l := &r.Truth.Lesions[i]
		if l.Ignore {
			continue
		}
		withLesion[l.Image] = true
		if at := place(0, &l.Region, l.Image, l.Class); looked(l.Image) {
			p.of[l.Image] = append(p.of[l.Image], len(p.lesions))
			p.lesions = append(p.lesions, at)
		}
	}
	for i := range r.Predictions {
		m := &r.Predictions[i]
		p.shared = p.shared || withLesion[m.Image]
		if at := place(1, &m.Region, m.Image, m.Class); looked(m.Image) {
			p.marks = append(p.marks, at)
		}
	}
	return p
}

// reached counts the lesions that a mark is near to when the files are read as m says, and
// says whether any mark touches any lesion. As they are a quarter of the union is near; another
// reading must bring half, which a bad detector's boxes, moved or made larger, seldom get.
func (p *places) reached(m misreading) (n int, touching bool) {
	share := 0.5
	if m.marks == nil && m.lesion == nil {
		share = 0.25
	}
	found := make([]bool, len(p.lesions))
	pairs := 0
	for i := range p.marks {
		mark := p.marks[i]
		if m.marks != nil {
			mark.box = m.marks(mark.box)
		}
		for _, k := range p.of[mark.image] {
			l := p.lesions[k]
			if m.lesion != nil {
				l.box = m.lesion(l.box)
			}
			if pairs++; pairs > mostPairs {
				return n, touching
			}
			touching = touching || mark.touches(l.box)
			alike := m.classes || mark.class == l.class || mark.class == froc.AnyClass || l.class == froc.AnyClass
			if alike && !found[k] && mark.near(l.box, share) {
				found[k] = true
				n++
			}
		}
	}
	return n, touching
}

// scaled returns the factor by which marks seem to be too small or too large: the median of
// lesion to mark, of sides and centres, over images with one lesion and one mark; 0 without.
func (p *places) scaled() float64 {
	marks := map[int][]int{}
	for i := range p.marks {
		marks[p.marks[i].image] = append(marks[p.marks[i].image], i)
	}
	var factors []float64
	for image, lesions := range p.of {
		if len(lesions) != 1 || len(marks[image]) != 1 {
			continue
		}
		l, m := p.lesions[lesions[0]].box, p.marks[marks[image][0]].box
		for a := range 2 {
			factors = append(factors, (l[a]+l[a+3])/(m[a]+m[a+3]), (l[a+3]-l[a])/(m[a+3]-m[a]))
		}
	}
	factors = slices.DeleteFunc(factors, func(f float64) bool { return !(f > 0) || math.IsInf(f, 0) })
	if len(factors) == 0 {
		return 0
	}
	slices.Sort(factors)
	return factors[len(factors)/2]
}

// noOverlap says, where few lesions are found and another reading of the files would find far
// more, what it is; where marks and lesions never touch, what ranges both have. "" otherwise.
func noOverlap(path string, truth *frocio.Truth, r *froc.Result) string {
	if !truth.Placed() || 2*r.Counts.Found > r.Counts.Lesions || r.Counts.Lesions == 0 || len(r.Predictions) == 0 {
		return ""
	}
	p := placesOf(r)
	as, touching := p.reached(misreading{})
	said := fmt.Sprintf("%s: %d of %d lesions have a mark near", path, as, len(p.lesions))
	if !touching {
		said = path + ": no mark touches a lesion"
	}
	if p.some {
		said += " (in some of the images, the others were not looked at)"
	}
	said += fmt.Sprintf(": lesions lie in %s, marks in %s", p.ranges[0].rangeText(), p.ranges[1].rangeText())
	lesions, marks := p.shares[0].likely(), p.shares[1].likely()
	switch {
	case !touching && !p.shared:
		return said + "; no mark is on an image that has lesions: are the image ids of both files the same?"
	case r.Counts.Found == 0 && marks && !lesions:
		return said + "; the marks seem to be normalised: shares of the image's sides, while the lesions are in pixels"
	case r.Counts.Found == 0 && lesions && !marks:
		return said + "; the lesions seem to be normalised: shares of the image's sides, while the marks are in pixels"
	}
	readings := misreadings
	if f := p.scaled(); f > 0 && (f < 0.8 || f > 1.25) {
		readings = append(slices.Clone(readings), misreading{
			text:  fmt.Sprintf("the marks seem to be in other units: times %.3g they lie on the lesions (was the image resized?)", f),
			marks: func(b box) box { return box{b[0] * f, b[1] * f, b[2], b[3] * f, b[4] * f, b[5]} },
		})
	}
	// Chance alone hardly finds half as many again, nor half of all lesions: a detector that is
	// only bad, of few lesions above all, is not called misread.
	best, guess := max(as+max(as/2, 1), (len(p.lesions)-1)/2, min(len(p.lesions), fewest)-1), ""
	for _, m := range readings {
		if n, _ := p.reached(m); n > best {
			best, guess = n, fmt.Sprintf("%s: %d lesions would have one", m.text, n)
		}
	}
	switch {
	case guess != "":
		return said + "; " + guess
	case !touching:
		return said + "; do both have one unit and origin (voxels or millimetres, pixels of one size)?"
	}
	return ""
}

func (b box) rangeText() string {
	var out []string
	for a, axis := range []string{"x", "y", "z"} {
		if a < 2 || b[a] != 0 || b[a+3] != 0 {
			out = append(out, fmt.Sprintf("%s %.6g to %.6g", axis, b[a], b[a+3]))
		}
	}
	return strings.Join(out, ", ")
}

// shares tells coordinates that are shares of an image's sides.
type shares struct{ beyond, broken bool }

// add looks at one more region. Those of masks are voxels, which are never shares.
func (s *shares) add(r *froc.Region) {
	const over = 0.1 // what a box may reach over the image's edge
	b := boundsOf(r)
	s.beyond = s.beyond || r.Kind() == froc.KindMask || min(b[0], b[1]) < -over || max(b[3], b[4]) > 1+over
	for _, v := range [...]float64{b[0], b[1], b[3], b[4]} {
		s.broken = s.broken || v != math.Trunc(v)
	}
}

// likely reports whether all regions lie within 0 to 1, and not on whole pixels.
func (s *shares) likely() bool { return s.broken && !s.beyond }

// warnShares warns of normalised boxes under a rule that counts pixels.
func warnShares(path string, truth *froc.Truth, protocol froc.Protocol) string {
	var s shares
	for i := range truth.Lesions {
		s.add(&truth.Lesions[i].Region)
	}
	if !s.likely() {
		return ""
	}
	if protocol.PlusOne {
		return path + ": all lesions lie within 0 to 1, and the protocol adds a pixel to every side: give boxes in pixels, or --plus-one=false"
	}
	for _, c := range protocol.Hit {
		for _, one := range append([]froc.Criterion{c}, c.And...) {
			if (one.Measure == froc.Distance || one.Measure == froc.InPlane) && (one.Unit == froc.Absolute && one.Threshold > 0.5 || one.AtLeast > 0.5) {
				return fmt.Sprintf("%s: all lesions lie within 0 to 1, as shares of the image's sides do, and the rule %s asks for distances as if in pixels or millimetres: "+
					"nearly every mark hits; give the sides of the images, or a rule in shares", path, froc.FormatHit(protocol.Hit))
			}
		}
	}
	return ""
}
