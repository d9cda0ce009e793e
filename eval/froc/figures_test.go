package froc

import (
	"math"
	"slices"
	"strconv"
	"testing"

	"github.com/alignedfusion/alignedfusion/eval/resample"
)

// merits lists the figures of merit by name with their intervals.
func merits(b *Bootstrap) map[string]struct {
	interval Interval
	figure   func(FiguresOfMerit) float64
} {
	type pair = struct {
		interval Interval
		figure   func(FiguresOfMerit) float64
	}
	return map[string]pair{
		"AFROC":   {b.Merit.AFROC, func(f FiguresOfMerit) float64 { return f.AFROC }},
		"AFROC1":  {b.Merit.AFROC1, func(f FiguresOfMerit) float64 { return f.AFROC1 }},
		"WAFROC":  {b.Merit.WAFROC, func(f FiguresOfMerit) float64 { return f.WAFROC }},
		"WAFROC1": {b.Merit.WAFROC1, func(f FiguresOfMerit) float64 { return f.WAFROC1 }},
	}
}

// uneven has images with one and with three lesions and some with none, so that the four
// figures of merit differ.
func uneven() (*Truth, []Prediction) {
	truth := &Truth{Images: images(12)}
	var predictions []Prediction
	for i := range 12 {
		for k := range []int{0, 1, 3}[i%3] {
			box := Box(float64(20*k), 0, float64(20*k+10), 10)
			truth.Lesions = append(truth.Lesions, Lesion{Image: i, Region: box})
			predictions = append(predictions, mark(i, box, float64((7*i+3*k)%11)))
		}
		predictions = append(predictions, mark(i, Box(200, 200, 210, 210), float64((5*i)%9)))
	}
	return truth, predictions
}

// meritUnder sums the ratings up with the given weight per cluster.
func meritUnder(r *Result, weights []int32) FiguresOfMerit {
	sum := func(ratings []rating) *meritSum {
		var m meritSum
		for i := range ratings {
			if m.add(&ratings[i], float64(weights[ratings[i].cluster])); ratings[i].last {
				m.step()
			}
		}
		return &m
	}
	return figures(sum(r.ratings), sum(r.cases))
}

func TestEveryIntervalIsOfItsOwnFigure(t *testing.T) {
	truth, predictions := uneven()
	p := StrictProtocol()
	p.FPPI = []float64{0.25, 1}
	r := mustEvaluate(t, truth, predictions, p)
	o, err := resample.Options{Replicates: 80, Permutations: 10, Seed: 5}.Resolved()
	if err != nil {
		t.Fatal(err)
	}
	b, err := r.Bootstrap(o)
	if err != nil {
		t.Fatal(err)
	}
	tables, err := replicates(o, []*Result{r})
	if err != nil {
		t.Fatal(err)
	}
	columns, _ := tables[0].columns()
	var replicated [4][]float64
	for k := range o.Replicates {
		weights := make([]int32, r.Clusters())
		o.Draw(k, weights)
		f := meritUnder(r, weights)
		for i, v := range f.vector()[:4] {
			replicated[i] = append(replicated[i], v)
		}
	}
	order := map[string]int{"AFROC": 0, "AFROC1": 1, "WAFROC": 2, "WAFROC1": 3}
	seen := map[Interval]string{}
	for name, m := range merits(b) {
		if want := o.Interval(replicated[order[name]], m.figure(r.Merit), nil); m.interval != want {
			t.Errorf("%s: interval %v, want %v", name, m.interval, want)
		}
		if other, twice := seen[m.interval]; twice {
			t.Errorf("%s and %s have one interval: the data tell nothing", name, other)
		}
		seen[m.interval] = name
	}
	for i, want := range []struct {
		name string
		got  Interval
		at   float64
	}{{"first point", b.Points[0], r.OperatingPoints[0].Sensitivity}, {"second point", b.Points[1], r.OperatingPoints[1].Sensitivity}, {"mean", b.Mean, r.MeanSensitivity}, {"AP", b.AP, r.AP}} {
		wanted := o.Share(columns[i], want.at, nil, r.clusters.withLesion())
		if want.name == "AP" {
			wanted = o.Bounded(columns[i], want.at, nil, r.clusters.withLesion())
		}
		if want.got != wanted || want.at < wanted.Low || want.at > wanted.High {
			t.Errorf("%s %v: interval %v, want %v", want.name, want.at, want.got, wanted)
		}
	}
}

func TestDifferencesAreOfTheirOwnFigure(t *testing.T) {
	truth, predictions := uneven()
	p := StrictProtocol()
	p.FPPI = []float64{0.25, 1}
	a := mustEvaluate(t, truth, predictions, p)
	b := mustEvaluate(t, truth, predictions[:len(predictions)-6], p)
	c, err := Compare([]Named{{"a", a}, {"b", b}}, CompareOptions{BootstrapOptions: BootstrapOptions{Replicates: 40, Permutations: 40}})
	if err != nil {
		t.Fatal(err)
	}
	pair := c.Pairs[0]
	for name, d := range map[string][2]float64{
		"first point": {pair.Points[0].Value, b.OperatingPoints[0].Sensitivity - a.OperatingPoints[0].Sensitivity},
		"last point":  {pair.Points[1].Value, b.OperatingPoints[1].Sensitivity - a.OperatingPoints[1].Sensitivity},
		"mean":        {pair.Mean.Value, b.MeanSensitivity - a.MeanSensitivity},
		"AP":          {pair.AP.Value, b.AP - a.AP},
		"AFROC":       {pair.AFROC.Value, b.Merit.AFROC - a.Merit.AFROC},
		"AFROC1":      {pair.AFROC1.Value, b.Merit.AFROC1 - a.Merit.AFROC1},
	} {
		if d[0] != d[1] {
			t.Errorf("%s: difference %v, want %v", name, d[0], d[1])
		}
	}
}

func TestCentreRadiusAndBoundsOfEveryKind(t *testing.T) {
	mask, err := NewMask(4, 3, 2, []int{0, 1, 12, 13})
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		region            Region
		centre, low, high [3]float64
		radius            float64
	}{
		"box":       {Box(1, 2, 5, 10), [3]float64{3, 6, 0}, [3]float64{1, 2, 0}, [3]float64{5, 10, 0}, 4},
		"3-D box":   {Box3D(1, 2, 10, 5, 4, 31), [3]float64{3, 3, 20.5}, [3]float64{1, 2, 10}, [3]float64{5, 4, 31}, 10.5},
		"slice box": {SliceBox(1, 2, 9, 4, 7), [3]float64{5, 3, 7}, [3]float64{1, 2, 7}, [3]float64{9, 4, 7}, 4},
		"circle":    {Circle(3, 4, 2), [3]float64{3, 4, 0}, [3]float64{1, 2, 0}, [3]float64{5, 6, 0}, 2},
		"sphere":    {Sphere(3, 4, 9, 2), [3]float64{3, 4, 9}, [3]float64{1, 2, 7}, [3]float64{5, 6, 11}, 2},
		"mask":      {MaskRegion(mask), [3]float64{0.5, 0, 0.5}, [3]float64{0, 0, 0}, [3]float64{1, 0, 1}, math.Cbrt(3 * 4 / (4 * math.Pi))},
	} {
		low, high := c.region.Bounds()
		if got := c.region.Centre(); got != c.centre || low != c.low || high != c.high || c.region.Radius() != c.radius {
			t.Errorf("%s: centre %v, bounds %v to %v, radius %v; want %v, %v, %v, %v", name, got, low, high, c.region.Radius(), c.centre, c.low, c.high, c.radius)
		}
	}
}

// A mask's bounding box, from runs that lie in several rows and slices of an uneven grid.
func TestBoundsOfAMaskOverRowsAndSlices(t *testing.T) {
	at := func(x, y, z int) int { return x + 5*(y+3*z) } // a grid of 5 x 3 x 4
	for name, c := range map[string]struct {
		voxels    []int
		low, high [3]float64
	}{
		"one voxel":      {[]int{at(4, 2, 3)}, [3]float64{4, 2, 3}, [3]float64{4, 2, 3}},
		"two rows":       {[]int{at(3, 1, 0), at(4, 1, 0), at(1, 2, 0)}, [3]float64{1, 1, 0}, [3]float64{4, 2, 0}},
		"three slices":   {[]int{at(2, 2, 1), at(3, 0, 2), at(1, 1, 3)}, [3]float64{1, 0, 1}, [3]float64{3, 2, 3}},
		"last in a row":  {[]int{at(4, 0, 0), at(0, 1, 0)}, [3]float64{0, 0, 0}, [3]float64{4, 1, 0}},
		"later is lower": {[]int{at(4, 2, 0), at(0, 0, 1)}, [3]float64{0, 0, 0}, [3]float64{4, 2, 1}},
	} {
		mask, err := NewMask(5, 3, 4, c.voxels)
		if err != nil {
			t.Fatal(err)
		}
		region := MaskRegion(mask)
		if low, high := region.Bounds(); low != c.low || high != c.high {
			t.Errorf("%s: %v to %v, want %v to %v", name, low, high, c.low, c.high)
		}
		for i := range 5 * 3 * 4 {
			centre := [3]float64{float64(i % 5), float64(i / 5 % 3), float64(i / 15)}
			if mask.contains(centre) != slices.Contains(c.voxels, i) {
				t.Errorf("%s: voxel %v", name, centre)
			}
		}
		for _, outside := range [][3]float64{{-0.6, 0, 0}, {4.5, 0, 0}, {0, 2.5, 0}, {0, 0, 3.5}, {0, -0.51, 0}} {
			if mask.contains(outside) {
				t.Errorf("%s: %v lies in the mask", name, outside)
			}
		}
	}
}

func TestCentreInsideABoxOnItsSliceAlone(t *testing.T) {
	inside := Criterion{Measure: Inside}
	slice := SliceBox(0, 0, 10, 10, 7)
	for name, c := range map[string]struct {
		mark Region
		want bool
	}{
		"through the slice": {Box3D(4, 4, 5, 6, 6, 9), true},
		"touching it":       {Box3D(4, 4, 7, 6, 6, 9), true},
		"below it":          {Box3D(4, 4, 2, 6, 6, 6), false},
		"above it":          {Box3D(4, 4, 8, 6, 6, 9), false},
		"beside the box":    {Box3D(14, 4, 5, 16, 6, 9), false},
	} {
		if _, hit := inside.measure(&c.mark, &slice, &frame{spacing: noSpacing}); hit != c.want {
			t.Errorf("%s: %v", name, hit)
		}
	}
}

// Among several lesions that a duplicate hits, the best is named.
func TestADuplicateNamesTheLesionItHitsBest(t *testing.T) {
	p := DeepLesion()
	near, exact := Box(0, 0, 10, 12), Box(0, 0, 10, 10)
	for name, lesions := range map[string][]Region{"exact last": {near, exact}, "exact first": {exact, near}} {
		truth := &Truth{Images: images(1)}
		want := slices.IndexFunc(lesions, func(r Region) bool { return r.String() == exact.String() })
		for _, r := range lesions {
			truth.Lesions = append(truth.Lesions, Lesion{Region: r})
		}
		r := mustEvaluate(t, truth, []Prediction{mark(0, near, 0.9), mark(0, exact, 0.5)}, p)
		out := r.PredictionOutcomes()
		if out[0].Fate != TruePositive || out[0].Lesion != 1-want || out[1].Fate != Duplicate || out[1].Lesion != want {
			t.Errorf("%s: %+v", name, out)
		}
	}
}

func TestBordersCountAsInside(t *testing.T) {
	inside := Criterion{Measure: Inside}
	lesion := Box(0, 0, 10, 10)
	for name, c := range map[string]struct {
		mark    Region
		plusOne float64
		want    bool
	}{
		"low border":                  {Box(-2, -3, 2, 3), 0, true},
		"high border":                 {Box(8, 7, 12, 13), 0, true},
		"below it":                    {Box(-2.1, 0, 2, 2), 0, false},
		"half a pixel below, +1":      {Box(-2.5, 0, 1.5, 2), 1, true},
		"more than half a pixel away": {Box(-2.6, 0, 1.5, 2), 1, false},
	} {
		if _, hit := inside.measure(&c.mark, &lesion, &frame{plusOne: c.plusOne, spacing: noSpacing}); hit != c.want {
			t.Errorf("%s: %v", name, hit)
		}
	}
}

func TestDistanceOfPointsCountsEveryAxis(t *testing.T) {
	lesion := Sphere(3, -5, 7, 1)
	for axis, p := range []Region{Sphere(5, -5, 7, 0), Sphere(3, -2, 7, 0), Sphere(3, -5, 3, 0)} {
		want := float64((axis + 2) * (axis + 2))
		if got := squaredDistance(Distance, &p, &lesion, &frame{spacing: noSpacing}); got != want {
			t.Errorf("along axis %d: %v, want %v", axis, got, want)
		}
	}
}

func TestLesionOfAnImageThatIsNotThere(t *testing.T) {
	for image, ok := range map[int]bool{-1: false, 0: true, 1: true, 2: false} {
		truth := &Truth{Images: images(2), Lesions: []Lesion{{Image: image, Region: lesionBox}}}
		if err := truth.Check(); (err == nil) != ok {
			t.Errorf("image %d of 2: error %v", image, err)
		}
	}
}

func TestABandAtOnePointHasOnePoint(t *testing.T) {
	truth, predictions := uneven()
	band, err := mustEvaluate(t, truth, predictions, StrictProtocol()).Band(1, 1, 4, BootstrapOptions{Replicates: 20})
	if err != nil || len(band.FPPI) != 1 || len(band.Intervals) != 1 {
		t.Errorf("%+v (%v)", band, err)
	}
}

// Sixty of sixty patients found is no certainty: the exact lower bound is .940; nothing
// found is alike.
func TestIntervalsAtTheEdgeAreExact(t *testing.T) {
	truth := &Truth{}
	var all, none []Prediction
	for i := range 60 {
		truth.Images = append(truth.Images, Image{ID: "i" + strconv.Itoa(i)}, Image{ID: "n" + strconv.Itoa(i)})
		truth.Lesions = append(truth.Lesions, Lesion{Image: 2 * i, Region: lesionBox})
		all = append(all, mark(2*i, lesionBox, 1))
		none = append(none, mark(2*i+1, lesionBox, 1))
	}
	for _, c := range []struct {
		predictions []Prediction
		want        Interval
	}{{all, Interval{Low: 0.940371, High: 1}}, {none, Interval{Low: 0, High: 0.059629}}} {
		r := mustEvaluate(t, truth, c.predictions, StrictProtocol())
		b, err := r.Bootstrap(BootstrapOptions{Replicates: 100})
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range []Interval{b.Mean, b.Points[2], b.AP} {
			if math.Abs(i.Low-c.want.Low) > 1e-6 || math.Abs(i.High-c.want.High) > 1e-6 {
				t.Errorf("interval %v, want %v", i, c.want)
			}
		}
	}
}

// The area below the drawn curve, by trapezoids, is the figure, which is summed up otherwise.
func TestTheAreaBelowTheAFROCCurveIsTheFigure(t *testing.T) {
	truth, predictions := uneven()
	r := mustEvaluate(t, truth, predictions, StrictProtocol())
	for all, want := range map[bool]float64{false: r.Merit.AFROC, true: r.Merit.AFROC1} {
		curve := r.AFROCCurve(all)
		area := 0.0
		for i := 1; i < len(curve); i++ {
			area += (curve[i].Images - curve[i-1].Images) * (curve[i].Lesions + curve[i-1].Lesions) / 2
		}
		if last := curve[len(curve)-1]; math.Abs(area-want) > 1e-12 || last != (AFROCPoint{1, 1}) {
			t.Errorf("all %v: area %v, the figure is %v; it ends at %v", all, area, want, last)
		}
	}
	full := &Truth{Images: images(1), Lesions: []Lesion{{Image: 0, Region: Box(0, 0, 9, 9)}}}
	if curve := mustEvaluate(t, full, nil, StrictProtocol()).AFROCCurve(false); curve != nil {
		t.Errorf("no image is free of lesions, and yet %v", curve)
	}
}
