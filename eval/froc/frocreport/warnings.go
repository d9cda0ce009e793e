package frocreport

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/alignedfusion/alignedfusion/eval/froc"
	"github.com/alignedfusion/alignedfusion/eval/froc/frocio"
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
	able := func(m froc.Prediction) bool {
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
	unable := 0
	for _, m := range marks {
		if !able(m) {
			unable++
		}
	}
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

// misreadings are ways in which coordinates are commonly written, seen from how they were read.
var misreadings = []struct {
	text          string
	marks, lesion func(box) box
}{
	{"x and y seem to be swapped in one of the files", func(b box) box { return box{b[1], b[0], b[2], b[4], b[3], b[5]} }, nil},
	{"the marks seem to be x,y,width,height that were read as x1,y1,x2,y2 (--columns x=…,y=…,w=…,h=… says so)", func(b box) box { return box{b[0], b[1], b[2], b[0] + b[3], b[1] + b[4], b[5]} }, nil},
	{"the lesions seem to be x,y,width,height that were read as x1,y1,x2,y2 (--columns x=…,y=…,w=…,h=… says so)", nil, func(b box) box { return box{b[0], b[1], b[2], b[0] + b[3], b[1] + b[4], b[5]} }},
	{"the marks seem to be x1,y1,x2,y2 that were read as x,y,width,height", func(b box) box { return box{b[0], b[1], b[2], b[3] - b[0], b[4] - b[1], b[5]} }, nil},
	{"x and y have the other sign in one of the files: LPS against RAS (--coordinates lps or ras, or turn them)", func(b box) box { return box{-b[3], -b[4], b[2], -b[0], -b[1], b[5]} }, nil},
	{"x and z seem to be swapped in one of the files (NumPy's order is z,y,x)", func(b box) box { return box{b[2], b[1], b[0], b[5], b[4], b[3]} }, nil},
}

// mostPairs bounds the search for a cause.
const mostPairs = 5_000_000

// noOverlap says, where marks and lesions never touch, what ranges both have and what the
// cause may be; "" otherwise.
func noOverlap(path string, r *froc.Result) string {
	if r.Counts.Found > 0 || r.Counts.Lesions == 0 || len(r.Predictions) == 0 {
		return ""
	}
	lesions := map[int][]box{}
	var all [2]box // ranges of lesions and of marks
	for k := range all {
		for a := range 3 {
			all[k][a], all[k][a+3] = math.Inf(1), math.Inf(-1)
		}
	}
	widen := func(k int, b box) {
		for a := range 3 {
			all[k][a], all[k][a+3] = min(all[k][a], b[a]), max(all[k][a+3], b[a+3])
		}
	}
	for i := range r.Truth.Lesions {
		if l := &r.Truth.Lesions[i]; !l.Ignore {
			b := boundsOf(&l.Region)
			lesions[l.Image] = append(lesions[l.Image], b)
			widen(0, b)
		}
	}
	onLesionImages := 0
	for i := range r.Predictions {
		widen(1, boundsOf(&r.Predictions[i].Region))
		if len(lesions[r.Predictions[i].Image]) > 0 {
			onLesionImages++
		}
	}
	touching := func(mark, lesion func(box) box) int {
		n, pairs := 0, 0
		for i := range r.Predictions {
			m := boundsOf(&r.Predictions[i].Region)
			if mark != nil {
				m = mark(m)
			}
			for _, l := range lesions[r.Predictions[i].Image] {
				if lesion != nil {
					l = lesion(l)
				}
				if m.touches(l) {
					n++
				}
				if pairs++; pairs > mostPairs {
					return n
				}
			}
		}
		return n
	}
	if touching(nil, nil) > 0 {
		return ""
	}
	ranges := fmt.Sprintf("%s: no mark touches a lesion: lesions lie in %s, marks in %s", path, all[0].rangeText(), all[1].rangeText())
	if onLesionImages == 0 {
		return ranges + "; no mark is on an image that has lesions: are the image ids of both files the same?"
	}
	share := func(b box) bool { return max(b[3], b[4]) <= 1.5 && min(b[0], b[1]) >= -0.5 }
	switch {
	case share(all[1]) && !share(all[0]):
		return ranges + "; the marks seem to be normalised: shares of the image's sides, while the lesions are in pixels"
	case share(all[0]) && !share(all[1]):
		return ranges + "; the lesions seem to be normalised: shares of the image's sides, while the marks are in pixels"
	}
	best, guess := 0, ""
	for _, m := range misreadings {
		if n := touching(m.marks, m.lesion); n > best {
			best, guess = n, m.text
		}
	}
	if guess == "" {
		guess = "do both have one unit and origin (voxels or millimetres, pixels of one size)?"
	}
	return ranges + "; " + guess
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

// shares warns of normalised boxes under a rule that counts pixels.
func shares(path string, truth *froc.Truth, protocol froc.Protocol) string {
	if !protocol.PlusOne || len(truth.Lesions) == 0 {
		return ""
	}
	for i := range truth.Lesions {
		if b := boundsOf(&truth.Lesions[i].Region); max(b[3], b[4]) > 1.5 {
			return ""
		}
	}
	return path + ": all lesions lie within 0 to 1, and the protocol adds a pixel to every side: give boxes in pixels, or --plus-one=false"
}
