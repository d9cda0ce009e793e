package froc

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
)

// challenge is a preset with its hit rule written out a second time, from the challenge's
// text: value is greater for a better hit, and hit says whether it is one.
type challenge struct {
	protocol Protocol
	value    func(mark, lesion [6]float64) (value float64, hit bool)
}

// randomCube has whole corners x1 y1 z1 x2 y2 z2 within 16.
func randomCube(rng *rand.Rand) [6]float64 {
	var c [6]float64
	for a := range 3 {
		c[a] = float64(rng.IntN(12))
		c[a+3] = c[a] + 1 + float64(rng.IntN(5))
	}
	return c
}

func cubeOverlap(a, b [6]float64) (inter, union float64) {
	inter, sizeA, sizeB := 1.0, 1.0, 1.0
	for k := range 3 {
		inter *= max(0, min(a[k+3], b[k+3])-max(a[k], b[k]))
		sizeA *= a[k+3] - a[k]
		sizeB *= b[k+3] - b[k]
	}
	return inter, sizeA + sizeB - inter
}

func cubeMask(c [6]float64) Region {
	var voxels []int
	for z := int(c[2]); z < int(c[5]); z++ {
		for y := int(c[1]); y < int(c[4]); y++ {
			for x := int(c[0]); x < int(c[3]); x++ {
				voxels = append(voxels, x+20*(y+20*z))
			}
		}
	}
	m, err := NewMask(20, 20, 20, voxels)
	if err != nil {
		panic(err)
	}
	return MaskRegion(m)
}

// marks and lesions of one challenge case, as regions and as numbers.
func (c *challenge) draw(rng *rand.Rand) (t *Truth, marks []Prediction, lesionAt, markAt [][6]float64) {
	t = &Truth{}
	for i := range 1 + rng.IntN(4) {
		t.Images = append(t.Images, Image{ID: fmt.Sprint(i), Slices: 8})
	}
	classes := rng.IntN(3)
	for k := range classes {
		t.Classes = append(t.Classes, fmt.Sprint(k))
	}
	class := func() int32 { return int32(rng.IntN(max(1, classes))) }
	for range 1 + rng.IntN(6) {
		at := randomCube(rng)
		lesionAt = append(lesionAt, at)
		t.Lesions = append(t.Lesions, Lesion{Image: rng.IntN(len(t.Images)), Region: c.shape(at, true), Class: class()})
	}
	for range rng.IntN(25) {
		at := randomCube(rng)
		if rng.IntN(2) == 0 {
			at = lesionAt[rng.IntN(len(lesionAt))]
			at[3]++
		}
		markAt = append(markAt, at)
		marks = append(marks, Prediction{Image: rng.IntN(len(t.Images)), Region: c.shape(at, false), Score: float64(rng.IntN(6)) / 6, Class: class()})
	}
	return t, marks, lesionAt, markAt
}

func (c *challenge) shape(at [6]float64, lesion bool) Region {
	switch c.protocol.Name {
	case "dbtex":
		if lesion {
			return SliceBox(at[0]*20, at[1]*20, at[3]*20, at[4]*20, at[2])
		}
		return Box3D(at[0]*20, at[1]*20, at[2], at[3]*20, at[4]*20, at[5])
	case "camelyon16":
		if !lesion {
			return Sphere(at[0], at[1], at[2], 0)
		}
	case "nndetection":
		return Box3D(at[0], at[1], at[2], at[3], at[4], at[5])
	}
	return cubeMask(at)
}

// Every preset of a challenge equals its definition, computed threshold by threshold, on 300
// random cases with ties and classes.
func TestChallengesEqualTheirDefinitions(t *testing.T) {
	iou := func(least float64, strict bool) func(a, b [6]float64) (float64, bool) {
		return func(a, b [6]float64) (float64, bool) {
			inter, union := cubeOverlap(a, b)
			v := inter / union
			return v, v > least || v == least && !strict
		}
	}
	for _, c := range []challenge{
		{protocol: RibFrac(), value: iou(0.2, true)},
		{protocol: NNDetection(), value: iou(0.1, false)},
		{protocol: ReXGrounding(), value: func(a, b [6]float64) (float64, bool) {
			inter, union := cubeOverlap(a, b)
			v := 2 * inter / (union + inter)
			return v, v >= 0.2
		}},
		{protocol: CAMELYON16(), value: func(a, b [6]float64) (float64, bool) {
			for k := range 3 {
				if a[k] < b[k] || a[k] >= b[k+3] {
					return 0, false
				}
			}
			return 1, true
		}},
		{protocol: DBTex(), value: func(a, b [6]float64) (float64, bool) {
			x, y := 10*(a[0]+a[3])-10*(b[0]+b[3]), 10*(a[1]+a[4])-10*(b[1]+b[4])
			w, h := 20*(b[3]-b[0]), 20*(b[4]-b[1])
			d := math.Hypot(x, y)
			return -d, d <= max(math.Hypot(w, h)/2, 100) && math.Abs((a[2]+a[5])/2-b[2]) <= 8.0/4
		}},
	} {
		t.Run(c.protocol.Name, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(7, 7))
			for n := range 300 {
				truth, marks, lesionAt, markAt := c.draw(rng)
				r := mustEvaluate(t, truth, marks, c.protocol)
				for _, point := range r.Curve {
					found, fp := c.count(truth, marks, lesionAt, markAt, point.Threshold)
					if found != point.Found || fp != point.FalsePositives {
						t.Fatalf("case %d at %v: %d found and %d false positives, want %d and %d", n, point.Threshold, point.Found, point.FalsePositives, found, fp)
					}
				}
			}
		})
	}
}

// count evaluates the marks from a threshold up by the definition.
func (c *challenge) count(t *Truth, marks []Prediction, lesionAt, markAt [][6]float64, threshold float64) (found, fp int) {
	taken := map[int]bool{}
	one := c.protocol.Multiple == One
	for score := 1.0; score >= threshold-1e-9; score -= 1.0 / 6 {
		if one {
			// greedy within a score: the mark whose best hit is best goes first
			of, matched := c.greedy(t, marks, lesionAt, markAt, score, taken)
			fp += of - matched
			continue
		}
		for i, m := range marks {
			if math.Abs(m.Score-score) > 1e-9 {
				continue
			}
			value, lesion := math.Inf(-1), -1
			for j, l := range t.Lesions {
				if l.Image != m.Image || len(t.Classes) > 0 && l.Class != m.Class {
					continue
				}
				v, hit := c.value(markAt[i], lesionAt[j])
				if hit && (v > value || v == value && compareRegions(&l.Region, &t.Lesions[lesion].Region) < 0) {
					value, lesion = v, j
				}
			}
			if lesion < 0 {
				fp++
			} else {
				taken[lesion] = true
			}
		}
	}
	return len(taken), fp
}

// greedy gives the marks of one score their best lesions left, best hit first, and returns
// how many there are and how many got one.
func (c *challenge) greedy(t *Truth, marks []Prediction, lesionAt, markAt [][6]float64, score float64, taken map[int]bool) (of, matched int) {
	var order []int
	best := map[int]float64{}
	for i, m := range marks {
		if math.Abs(m.Score-score) > 1e-9 {
			continue
		}
		best[i] = math.Inf(-1)
		for j, l := range t.Lesions {
			if v, hit := c.value(markAt[i], lesionAt[j]); hit && l.Image == m.Image && (len(t.Classes) == 0 || l.Class == m.Class) {
				best[i] = max(best[i], v)
			}
		}
		at := len(order)
		for at > 0 && (best[order[at-1]] < best[i] || best[order[at-1]] == best[i] && compareRegions(&m.Region, &marks[order[at-1]].Region) < 0) {
			at--
		}
		order = append(order[:at], append([]int{i}, order[at:]...)...)
	}
	for _, i := range order {
		m, value, lesion := marks[i], math.Inf(-1), -1
		for j, l := range t.Lesions {
			if taken[j] || l.Image != m.Image || len(t.Classes) > 0 && l.Class != m.Class {
				continue
			}
			v, hit := c.value(markAt[i], lesionAt[j])
			if hit && (v > value || v == value && compareRegions(&l.Region, &t.Lesions[lesion].Region) < 0) {
				value, lesion = v, j
			}
		}
		if lesion >= 0 {
			taken[lesion] = true
			matched++
		}
	}
	return len(order), matched
}

func TestBoxesAndPointsAreComparedWithMasks(t *testing.T) {
	mask := cubeMask([6]float64{2, 2, 2, 6, 6, 4}) // voxels 2 to 5, 2 to 5, 2 to 3
	for name, c := range map[string]struct {
		mark    Region
		rule    string
		plusOne bool
		spacing [3]float64
		want    float64
	}{
		"the same box":            {Box3D(2, 2, 2, 6, 6, 4), "iou>0", false, [3]float64{}, 1},
		"the same, last voxels":   {Box3D(2, 2, 2, 5, 5, 3), "iou>0", true, [3]float64{}, 1},
		"half of it":              {Box3D(2, 2, 2, 4, 6, 4), "dice>0", false, [3]float64{}, 2.0 * 16 / (16 + 32)},
		"a box on a slice":        {SliceBox(2, 2, 6, 6, 3), "iobb>0", false, [3]float64{}, 1},
		"its centre":              {Sphere(3.5, 3.5, 2.5, 0), "distance<=0", false, [3]float64{}, 0},
		"two slices of 5 mm away": {Sphere(3.5, 3.5, 4.5, 0), "distance<=10", false, [3]float64{1, 1, 5}, 10},
		"within its radius in mm": {Sphere(3.5, 3.5, 4.5, 0), "distance<5*radius", false, [3]float64{1, 1, 5}, 10},
		"a point in it":           {Sphere(5, 5, 3, 0), "inside", false, [3]float64{}, 1},
	} {
		p := StrictProtocol()
		p.Hit, p.IgnoreHit, p.PlusOne = mustHit(c.rule), nil, c.plusOne
		truth := &Truth{Images: []Image{{ID: "a", SpacingMM: c.spacing}}, Lesions: []Lesion{{Region: mask}}}
		r := mustEvaluate(t, truth, []Prediction{mark(0, c.mark, 1)}, p)
		if o := r.LesionOutcomes()[0]; !o.Found || math.Abs(o.Value-c.want) > 1e-12 {
			t.Errorf("%s: %s gives %v (found: %v), want %v", name, c.rule, o.Value, o.Found, c.want)
		}
		if c.mark.Kind() == KindBox3D { // and the other way round
			truth.Lesions[0].Region = c.mark
			r := mustEvaluate(t, truth, []Prediction{mark(0, mask, 1)}, p)
			if o := r.LesionOutcomes()[0]; !o.Found || math.Abs(o.Value-c.want) > 1e-12 {
				t.Errorf("%s, exchanged: %v, want %v", name, o.Value, c.want)
			}
		}
	}
}

func TestConditionsAreAllToHold(t *testing.T) {
	for text, want := range map[string]bool{
		"iou>=0.5":                        true,
		"iou>=0.5 & distance<=1":          true,
		"iou>=0.5 & distance<=0.5":        false,
		"iou>=0.5&distance<0.1|inside":    true,
		"distance<max(0.01*radius,1.5)":   true,
		"distance<=0.01*diagonal":         false,
		"iou>=0.9 | iou>=0.5 & inside":    true,
		"distance<=max(0.01*diagonal,2)":  true,
		"iou>=0.1 & iou>=0.2 & iou>=0.95": false,
	} {
		rule := mustHit(text)
		if again := mustHit(FormatHit(rule)); FormatHit(again) != FormatHit(rule) {
			t.Errorf("%q is written as %q and read as %q", text, FormatHit(rule), FormatHit(again))
		}
		p := StrictProtocol()
		p.Hit = rule
		r := mustEvaluate(t, &Truth{Images: images(1), Lesions: []Lesion{{Region: lesionBox}}}, []Prediction{mark(0, Box(1, 0, 11, 10), 1)}, p)
		if got := r.Counts.Found == 1; got != want {
			t.Errorf("%q: found %v, want %v", text, got, want)
		}
	}
	for _, text := range []string{"iou>=0.5 &", "distance<max(radius)", "slices<=radius", "distance<depth", "iou>=radius", "distance<max(radius,-1)"} {
		if _, err := ParseHit(text); err == nil {
			t.Errorf("%q is accepted", text)
		}
	}
}

func TestToleranceOfSlices(t *testing.T) {
	truth := &Truth{Images: images(1), Lesions: []Lesion{{Region: SliceBox(0, 0, 10, 10, 5)}}}
	for tolerance, want := range map[float64]int{0: 0, 1: 0, 2: 1} {
		p := StrictProtocol()
		p.SliceTolerance = tolerance
		if r := mustEvaluate(t, truth, []Prediction{mark(0, SliceBox(0, 0, 10, 10, 7), 1)}, p); r.Counts.Found != want {
			t.Errorf("tolerance %v: %d found, want %d", tolerance, r.Counts.Found, want)
		}
	}
}
