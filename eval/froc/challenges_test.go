package froc

import (
	"math"
	"testing"
)

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
