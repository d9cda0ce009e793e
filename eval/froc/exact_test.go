package froc

import (
	"cmp"
	"fmt"
	"math"
	"math/big"
	"math/rand/v2"
	"slices"
	"testing"
)

// fraction is a quality of a hit, greater for a better one, in whole numbers.
type fraction struct{ num, den int64 }

func (f fraction) compare(o fraction) int { return cmp.Compare(f.num*o.den, o.num*f.den) }

// cube is a region with whole corners x1 y1 z1 x2 y2 z2.
type cube [6]int64

// extents are the overlap of two cubes and their sizes on the first axes, each side one longer
// with plus.
func (c cube) extents(o cube, axes int, plus int64) (inter, size, other int64) {
	inter, size, other = 1, 1, 1
	for k := range axes {
		inter *= max(0, min(c[k+3], o[k+3])-max(c[k], o[k])+plus)
		size *= c[k+3] - c[k] + plus
		other *= o[k+3] - o[k] + plus
	}
	return inter, size, other
}

// apart is four times the squared distance of the centres on axes from to end.
func (c cube) apart(o cube, from, end int) (d int64) {
	for k := from; k < end; k++ {
		side := c[k] + c[k+3] - o[k] - o[k+3]
		d += side * side
	}
	return d
}

// rule says how good a hit a mark is on a lesion, and whether it is one.
type rule func(mark, lesion cube) (fraction, bool)

func atLeast(num, den int64, strict bool, of func(mark, lesion cube) fraction) rule {
	return func(mark, lesion cube) (fraction, bool) {
		f := of(mark, lesion)
		c := f.compare(fraction{num, den})
		return f, c > 0 || c == 0 && !strict
	}
}

func iou(axes int, plus int64) func(a, b cube) fraction {
	return func(a, b cube) fraction {
		inter, x, y := a.extents(b, axes, plus)
		return fraction{inter, x + y - inter}
	}
}

func iobb(axes int, plus int64) func(a, b cube) fraction {
	return func(a, b cube) fraction {
		inter, x, _ := a.extents(b, axes, plus)
		return fraction{inter, x}
	}
}

// within is the rule that the centres are nearer than half the longest side of the lesion.
func within(axes int) rule {
	return func(mark, lesion cube) (fraction, bool) {
		d, side := mark.apart(lesion, 0, axes), int64(0)
		for k := range axes {
			side = max(side, lesion[k+3]-lesion[k])
		}
		return fraction{-d, 1}, d < side*side
	}
}

// inCube is the rule that a mark's first corner is a voxel of the lesion.
func inCube(mark, lesion cube) (fraction, bool) {
	for k := range 3 {
		if mark[k] < lesion[k] || mark[k] >= lesion[k+3] {
			return fraction{0, 1}, false
		}
	}
	return fraction{1, 1}, true
}

func centreInside(axes int) rule {
	return func(mark, lesion cube) (fraction, bool) {
		for k := range axes {
			if c := mark[k] + mark[k+3]; c < 2*lesion[k] || c > 2*lesion[k+3] {
				return fraction{0, 1}, false
			}
		}
		return fraction{1, 1}, true
	}
}

// either is a hit by one of two rules, as good as the first says.
func either(a, b rule) rule {
	return func(mark, lesion cube) (fraction, bool) {
		f, hit := a(mark, lesion)
		_, other := b(mark, lesion)
		return f, hit || other
	}
}

// definition is a preset written out a second time, from the challenge's text.
type definition struct {
	hit, ignored rule // ignored: nil as hit
	shape        func(c cube, lesion bool) Region
}

func flat(c cube, _ bool) Region {
	return Box(float64(c[0]), float64(c[1]), float64(c[3]), float64(c[4]))
}

func solid(c cube, _ bool) Region {
	return Box3D(float64(c[0]), float64(c[1]), float64(c[2]), float64(c[3]), float64(c[4]), float64(c[5]))
}

func voxels(c cube, _ bool) Region {
	var out [6]float64
	for k := range c {
		out[k] = float64(c[k])
	}
	return cubeMask(out)
}

// definitions are those of every preset.
var definitions = map[string]definition{
	"deeplesion":   {hit: atLeast(1, 2, false, iou(2, 1)), shape: flat},
	"strict":       {hit: atLeast(1, 2, false, iou(2, 0)), ignored: either(atLeast(1, 2, false, iou(2, 0)), centreInside(2)), shape: flat},
	"coco":         {hit: atLeast(1, 2, false, iou(2, 0)), ignored: atLeast(1, 2, false, iobb(2, 0)), shape: flat},
	"small-lesion": {hit: either(within(2), atLeast(3, 10, false, iou(2, 0))), ignored: within(2), shape: flat},
	"nndetection":  {hit: atLeast(1, 10, false, iou(3, 0)), ignored: atLeast(1, 10, false, iobb(3, 0)), shape: solid},
	"lens":         {hit: atLeast(3, 10, false, iobb(3, 1)), shape: solid},
	"picai":        {hit: atLeast(1, 10, false, iou(3, 0)), shape: voxels},
	"ribfrac":      {hit: atLeast(1, 5, true, iou(3, 0)), shape: voxels},
	"rexgrounding": {hit: atLeast(1, 5, false, func(a, b cube) fraction {
		inter, x, y := a.extents(b, 3, 0)
		return fraction{2 * inter, x + y}
	}), shape: voxels},
	"camelyon16": {hit: inCube, shape: func(c cube, lesion bool) Region {
		if lesion {
			return voxels(c, true)
		}
		return Sphere(float64(c[0]), float64(c[1]), float64(c[2]), 0)
	}},
	"luna16": {hit: within(3), shape: func(c cube, lesion bool) Region { // cubes, see draw
		return Sphere(float64(c[0]+c[3])/2, float64(c[1]+c[4])/2, float64(c[2]+c[5])/2, float64(c[3]-c[0])/2)
	}},
	"dbtex": {hit: func(mark, lesion cube) (fraction, bool) { // times 20 in the plane
		d, w, h := 400*mark.apart(lesion, 0, 2), 20*(lesion[3]-lesion[0]), 20*(lesion[4]-lesion[1])
		z := mark[2] + mark[5] - 2*lesion[2]
		return fraction{-d, 1}, d <= max(w*w+h*h, 200*200) && max(z, -z) <= 2*8/4
	}, shape: func(c cube, lesion bool) Region {
		x1, y1, x2, y2 := float64(20*c[0]), float64(20*c[1]), float64(20*c[3]), float64(20*c[4])
		if lesion {
			return SliceBox(x1, y1, x2, y2, float64(c[2]))
		}
		return Box3D(x1, y1, float64(c[2]), x2, y2, float64(c[5]))
	}},
}

// exactCase is a random case and its regions in whole numbers.
type exactCase struct {
	definition
	protocol     Protocol
	truth        *Truth
	marks        []Prediction
	lesionAt, at []cube
}

func (d definition) draw(rng *rand.Rand, p Protocol) *exactCase {
	c := &exactCase{definition: d, protocol: p, truth: &Truth{}}
	randomCube := func() (out cube) {
		side := 1 + rng.Int64N(5)
		for a := range 3 {
			out[a] = rng.Int64N(12)
			out[a+3] = out[a] + side
			if p.Name != "luna16" {
				out[a+3] = out[a] + 1 + rng.Int64N(5)
			}
		}
		return out
	}
	for i := range 1 + rng.IntN(4) {
		c.truth.Images = append(c.truth.Images, Image{ID: fmt.Sprint(i), Slices: 8})
	}
	classes := rng.IntN(3)
	for k := range classes {
		c.truth.Classes = append(c.truth.Classes, fmt.Sprint(k))
	}
	for n := range 1 + rng.IntN(7) {
		at := randomCube()
		c.lesionAt = append(c.lesionAt, at)
		c.truth.Lesions = append(c.truth.Lesions, Lesion{Image: rng.IntN(len(c.truth.Images)), Region: d.shape(at, true),
			Class: int32(rng.IntN(max(1, classes))), Ignore: n > 0 && rng.IntN(4) == 0})
	}
	many := rng.IntN(25)
	if p.MaxPerImage > 0 && rng.IntN(20) == 0 {
		many = 250 // more than the limit
	}
	for range many {
		at := randomCube()
		if rng.IntN(2) == 0 {
			at = c.lesionAt[rng.IntN(len(c.lesionAt))]
			if p.Name == "luna16" {
				at[0], at[3] = at[0]+1, at[3]+1
			} else {
				at[3]++
			}
		}
		class := int32(rng.IntN(max(1, classes)))
		if classes > 0 && rng.IntN(6) == 0 {
			class = AnyClass
		}
		c.at = append(c.at, at)
		c.marks = append(c.marks, Prediction{Image: rng.IntN(len(c.truth.Images)), Region: d.shape(at, false), Score: float64(rng.IntN(7)), Class: class})
	}
	return c
}

// hits returns how good mark i is on lesion j.
func (c *exactCase) hits(i, j int) (fraction, bool) {
	m, l := &c.marks[i], &c.truth.Lesions[j]
	if m.Image != l.Image || len(c.truth.Classes) > 0 && m.Class != l.Class && m.Class != AnyClass {
		return fraction{}, false
	}
	if l.Ignore && c.ignored != nil {
		return c.ignored(c.at[i], c.lesionAt[j])
	}
	return c.hit(c.at[i], c.lesionAt[j])
}

// best returns the counted lesion that mark i fits best of those that may be, -1 without one.
func (c *exactCase) best(i int, may func(j int) bool) (lesion int, quality fraction) {
	lesion = -1
	for j := range c.truth.Lesions {
		if q, hit := c.hits(i, j); hit && !c.truth.Lesions[j].Ignore && may(j) {
			d := 1
			if lesion >= 0 {
				d = cmp.Or(q.compare(quality), compareLesions(&c.truth.Lesions[lesion], &c.truth.Lesions[j]))
			}
			if d > 0 {
				lesion, quality = j, q
			}
		}
	}
	return lesion, quality
}

func (c *exactCase) onIgnored(i int) bool {
	return slices.ContainsFunc(c.lesions(true), func(j int) bool { _, hit := c.hits(i, j); return hit })
}

// lesions lists the ignored lesions, or the others.
func (c *exactCase) lesions(ignored bool) (out []int) {
	for j := range c.truth.Lesions {
		if c.truth.Lesions[j].Ignore == ignored {
			out = append(out, j)
		}
	}
	return out
}

// kept are the marks within the limit per image.
func (c *exactCase) kept() (out []int) {
	for i := range c.marks {
		higher, asHigh := 0, 0 // marks of its image
		for k := range c.marks {
			if c.marks[k].Image == c.marks[i].Image && c.marks[k].Score > c.marks[i].Score {
				higher++
			} else if c.marks[k].Image == c.marks[i].Image && c.marks[k].Score == c.marks[i].Score {
				asHigh++
			}
		}
		limit := cmp.Or(c.protocol.MaxPerImage, len(c.marks))
		if higher+asHigh <= limit || c.protocol.CapTies == KeepTies && higher < limit {
			out = append(out, i)
		}
	}
	return out
}

// exactPoint is the curve at a threshold.
type exactPoint struct{ score, found, fp int }

// curve lists the points of all scores at which something steps, by the definition.
func (c *exactCase) curve() (points []exactPoint) {
	kept := c.kept()
	overlap := c.assigned(kept)
	taken, fp := map[int]bool{}, 0
	for score := 6; score >= 0; score-- {
		var group []int
		for _, i := range kept {
			if int(c.marks[i].Score) == score {
				group = append(group, i)
			}
		}
		anyLesion := func(int) bool { return true }
		slices.SortFunc(group, func(a, b int) int { // the better hit goes first
			la, qa := c.best(a, anyLesion)
			lb, qb := c.best(b, anyLesion)
			d := cmp.Compare(bit(lb >= 0), bit(la >= 0))
			if d == 0 && la >= 0 {
				d = qb.compare(qa)
			}
			return cmp.Or(d, compareMarks(&c.marks[a], &c.marks[b]))
		})
		for _, i := range group {
			lesion, _ := c.best(i, anyLesion)
			free := c.onIgnored(i) || lesion >= 0 && c.protocol.Duplicates == Free
			switch c.protocol.Multiple {
			case All:
				for _, j := range c.lesions(false) {
					if _, hit := c.hits(i, j); hit {
						taken[j] = true
					}
				}
			case Best:
				if lesion >= 0 {
					taken[lesion] = true
				}
			default:
				left, _ := c.best(i, func(j int) bool { return !taken[j] })
				if c.protocol.Assignment == ByOverlap {
					left = overlap[i]
				}
				if left >= 0 {
					taken[left], free = true, true
				}
			}
			if !free {
				fp++
			}
		}
		last := exactPoint{}
		if len(points) > 0 {
			last = points[len(points)-1]
		}
		if len(taken) != last.found || fp != last.fp {
			points = append(points, exactPoint{score, len(taken), fp})
		}
	}
	return points
}

// assigned gives lesions to marks by the assignment with the most pairs and then the most
// overlap, found by trying all; nil where two are equally good and find lesions at other
// scores.
func (c *exactCase) assigned(kept []int) map[int]int {
	if c.protocol.Assignment != ByOverlap {
		return nil
	}
	out := map[int]int{}
	for _, i := range kept {
		out[i] = -1
	}
	for image := range c.truth.Images {
		var lesions []int
		for _, j := range c.lesions(false) {
			if c.truth.Lesions[j].Image == image {
				lesions = append(lesions, j)
			}
		}
		type choice struct {
			of     map[int]int // mark to lesion
			pairs  int
			sum    *big.Rat
			scores string
		}
		var best []choice
		var try func(k int, now choice)
		try = func(k int, now choice) {
			if k == len(lesions) {
				scores := []float64{}
				for i := range now.of {
					scores = append(scores, c.marks[i].Score)
				}
				slices.Sort(scores)
				now.scores = fmt.Sprint(scores)
				if len(best) > 0 {
					d := cmp.Or(cmp.Compare(now.pairs, best[0].pairs), now.sum.Cmp(best[0].sum))
					if d < 0 {
						return
					} else if d > 0 {
						best = nil
					}
				}
				best = append(best, now)
				return
			}
			try(k+1, now)
			for _, i := range kept {
				if q, hit := c.hits(i, lesions[k]); hit {
					if _, has := now.of[i]; has {
						continue
					}
					next := choice{map[int]int{i: lesions[k]}, now.pairs + 1, new(big.Rat).Add(now.sum, big.NewRat(q.num, q.den)), ""}
					for a, b := range now.of {
						next.of[a] = b
					}
					try(k+1, next)
				}
			}
		}
		try(0, choice{map[int]int{}, 0, new(big.Rat), ""})
		for _, other := range best {
			if other.scores != best[0].scores {
				return nil
			}
		}
		for i, j := range best[0].of {
			out[i] = j
		}
	}
	return out
}

// figures are the sensitivities at the operating points, their mean and AP, in fractions.
func (c *exactCase) figures(points []exactPoint) (out []*big.Rat) {
	units, lesions := int64(len(c.truth.Images)), int64(len(c.lesions(false)))
	mean := new(big.Rat)
	for _, x := range c.protocol.FPPI {
		at := new(big.Rat).SetFloat64(x)
		at.Mul(at, big.NewRat(units, 1)) // false positives
		last, sensitivity := exactPoint{}, new(big.Rat)
		for _, p := range points {
			if big.NewRat(int64(p.fp), 1).Cmp(at) > 0 {
				if c.protocol.Interpolation == Linear {
					slope := big.NewRat(int64(p.found-last.found), int64(p.fp-last.fp))
					sensitivity.Mul(slope, at.Sub(at, big.NewRat(int64(last.fp), 1)))
				}
				break
			}
			last = p
		}
		sensitivity.Add(sensitivity, big.NewRat(int64(last.found), 1))
		sensitivity.Quo(sensitivity, big.NewRat(lesions, 1))
		out = append(out, sensitivity)
		mean.Add(mean, sensitivity)
	}
	return append(out, mean.Quo(mean, big.NewRat(int64(len(c.protocol.FPPI)), 1)), c.averagePrecision(points, lesions))
}

func (c *exactCase) averagePrecision(points []exactPoint, lesions int64) *big.Rat {
	area, before := new(big.Rat), 0
	precision := func(p exactPoint) *big.Rat { return big.NewRat(int64(p.found), int64(p.found+p.fp)) }
	envelope := func(enough func(found int) bool) *big.Rat { // the greatest precision with so many found
		greatest := new(big.Rat)
		for _, p := range points {
			if p.found > 0 && enough(p.found) && precision(p).Cmp(greatest) > 0 {
				greatest = precision(p)
			}
		}
		return greatest
	}
	if c.protocol.AP == RecallGrid {
		for k := range 101 {
			recall := min(float64(k)*0.01, 1) // COCOeval compares rounded numbers
			e := envelope(func(found int) bool { return float64(found)/float64(lesions) >= recall })
			area.Add(area, e.Quo(e, big.NewRat(101, 1)))
		}
		return area
	}
	for _, p := range points {
		if p.found == before {
			continue
		}
		high := precision(p)
		if c.protocol.AP == AllPoints {
			high = envelope(func(found int) bool { return found >= p.found })
		}
		area.Add(area, high.Mul(high, big.NewRat(int64(p.found-before), lesions)))
		before = p.found
	}
	return area
}

// Every preset equals its definition, in exact fractions, on 300 random cases with ties,
// classes, ignored lesions and more marks than the limit.
func TestPresetsEqualTheirDefinitionsInFractions(t *testing.T) {
	for _, p := range Protocols() {
		d, ok := definitions[p.Name]
		if !ok {
			t.Errorf("%s: no definition", p.Name)
			continue
		}
		rng := rand.New(rand.NewPCG(7, 7))
		for n := 0; n < 300; n++ {
			c := d.draw(rng, p)
			if p.Assignment == ByOverlap && c.assigned(c.kept()) == nil {
				n-- // several assignments are right
				continue
			}
			r := mustEvaluate(t, c.truth, c.marks, p)
			var got []exactPoint
			for _, point := range r.Curve {
				got = append(got, exactPoint{int(point.Threshold), point.Found, point.FalsePositives})
			}
			want := c.curve()
			if !slices.Equal(got, want) {
				t.Fatalf("%s, case %d: the curve is %v, want %v", p.Name, n, got, want)
			}
			var values []float64
			for _, o := range r.OperatingPoints {
				values = append(values, o.Sensitivity)
			}
			for k, exact := range c.figures(want) {
				w, _ := exact.Float64()
				if v := append(values, r.MeanSensitivity, r.AP)[k]; math.Abs(v-w) > 1e-13 {
					t.Fatalf("%s, case %d: figure %d is %v, want %v", p.Name, n, k, v, exact)
				}
			}
		}
	}
}
