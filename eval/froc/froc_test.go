package froc

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/alignedfusion/alignedfusion/eval/resample"
)

// mark is a prediction in a table of cases.
func mark(image int, r Region, score float64) Prediction {
	return Prediction{Image: image, Region: r, Score: score}
}

func images(n int) []Image {
	out := make([]Image, n)
	for i := range out {
		out[i].ID = string(rune('a' + i))
	}
	return out
}

func mustEvaluate(t *testing.T, truth *Truth, predictions []Prediction, p Protocol) *Result {
	t.Helper()
	r, err := Evaluate(truth, predictions, p)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func withHit(p Protocol, hit string) Protocol {
	p.Hit, p.IgnoreHit = mustHit(hit), nil
	return p
}

var lesionBox = Box(0, 0, 10, 10)

func TestTiedScoresAreOneStep(t *testing.T) {
	truth := &Truth{Images: images(2), Lesions: []Lesion{{Image: 0, Region: lesionBox}}}
	for _, order := range [][]Prediction{
		{mark(0, lesionBox, 0.5), mark(1, lesionBox, 0.5)},
		{mark(1, lesionBox, 0.5), mark(0, lesionBox, 0.5)},
	} {
		r := mustEvaluate(t, truth, order, StrictProtocol())
		want := []CurvePoint{{Threshold: 0.5, Found: 1, FalsePositives: 1, FPPI: 0.5, Sensitivity: 1}}
		if d := cmp.Diff(want, r.Curve); d != "" {
			t.Error(d)
		}
		if s := r.At(0.25).Sensitivity; s != 0 {
			t.Errorf("sensitivity %v before the only threshold, want 0", s)
		}
		if r.Counts.TiedScores != 1 {
			t.Errorf("%d tied scores, want 1", r.Counts.TiedScores)
		}
	}
}

func TestNoPredictionsGiveSensitivityZero(t *testing.T) {
	truth := &Truth{Images: images(2), Lesions: []Lesion{{Region: lesionBox}}}
	r := mustEvaluate(t, truth, nil, DeepLesion())
	for _, p := range r.OperatingPoints {
		if p.Sensitivity != 0 || p.Reached || !math.IsNaN(p.Threshold) {
			t.Errorf("%+v, want sensitivity 0, not reached, no threshold", p)
		}
	}
	if r.AP != 0 || r.MeanSensitivity != 0 {
		t.Errorf("AP %v, mean %v, want 0", r.AP, r.MeanSensitivity)
	}
	b, err := r.Bootstrap(BootstrapOptions{Replicates: 50})
	if err != nil {
		t.Fatal(err)
	}
	if want := (Interval{Low: 0, High: 0.975}); b.Mean != want { // what one patient can exclude
		t.Errorf("interval %v, want %v", b.Mean, want)
	}
}

func TestWithoutLesionsOrImagesThereIsAnError(t *testing.T) {
	if _, err := Evaluate(&Truth{}, nil, DeepLesion()); !errors.Is(err, ErrNoImages) {
		t.Errorf("error %v, want ErrNoImages", err)
	}
	for _, lesions := range [][]Lesion{nil, {{Region: lesionBox, Ignore: true}}} {
		if _, err := Evaluate(&Truth{Images: images(1), Lesions: lesions}, nil, DeepLesion()); !errors.Is(err, ErrNoLesions) {
			t.Errorf("error %v, want ErrNoLesions", err)
		}
	}
}

func TestBadInputIsNamed(t *testing.T) {
	truth := func() *Truth { return &Truth{Images: images(2), Lesions: []Lesion{{Region: lesionBox}}} }
	nan, inf := math.NaN(), math.Inf(1)
	for _, c := range []struct {
		name        string
		truth       func(*Truth)
		predictions []Prediction
		protocol    func(*Protocol)
		want        string
	}{
		{"NaN score", nil, []Prediction{mark(1, lesionBox, nan)}, nil, `mark 0 in image "b": score is NaN`},
		{"infinite score", nil, []Prediction{mark(1, lesionBox, inf)}, nil, `score is +Inf`},
		{"NaN coordinate", nil, []Prediction{mark(0, Box(nan, 0, 1, 1), 1)}, nil, `coordinate is NaN`},
		{"exchanged corners", nil, []Prediction{mark(0, Box(5, 0, 1, 1), 1)}, nil, `x2=1 is less than x1=5`},
		{"no region", nil, []Prediction{{Score: 1}}, nil, `region is undefined`},
		{"unknown image", nil, []Prediction{mark(2, lesionBox, 1)}, nil, `image index 2, want 0 to 1`},
		{"negative image", nil, []Prediction{mark(-1, lesionBox, 1)}, nil, `image index -1`},
		{"lesion's image", func(t *Truth) { t.Lesions[0].Image = 7 }, nil, nil, `lesion 0: image index 7`},
		{"lesion's corners", func(t *Truth) { t.Lesions[0].Region = Box(0, 9, 1, 1) }, nil, nil, `lesion 0 in image "a": y2=1 is less than y1=9`},
		{"negative radius", func(t *Truth) { t.Lesions[0].Region = Circle(0, 9, -1) }, nil, nil, `radius is -1`},
		{"image twice", func(t *Truth) { t.Images[1].ID = "a" }, nil, nil, `image id "a" stands twice`},
		{"volume of two patients", func(t *Truth) { t.Images[0].Volume, t.Images[1].Volume = "v", "v" }, nil, nil, `volume "v" has two patients`},
		{"2-D against 3-D", nil, []Prediction{mark(0, Box3D(0, 0, 0, 1, 1, 1), 1)}, nil, `a 3-D box mark cannot be compared with a 2-D box lesion`},
		{"mask against box", func(t *Truth) { t.Lesions[0].Region = Box3D(0, 0, 0, 1, 1, 1) },
			[]Prediction{mark(0, MaskRegion(&Mask{voxels: 1}), 1)}, func(p *Protocol) { p.Hit = mustHit("minaxis>0.5") }, `minaxis cannot compare a mask mark with a 3-D box lesion`},
		{"plane against a deep mask", nil, []Prediction{mark(0, MaskRegion(&Mask{voxels: 1, size: [3]int{1, 1, 2}}), 1)}, nil, `cannot be compared with a mask of several slices`},
		{"unknown depth", nil, nil, func(p *Protocol) { p.Hit = DBTex().Hit }, `needs the number of slices of image "a"`},
		{"unknown class rule", nil, nil, func(p *Protocol) { p.Classes = "mine" }, `classes is "mine"`},
		{"no hit rule", nil, nil, func(p *Protocol) { p.Hit = nil }, `has no hit rule`},
		{"unknown rule", nil, nil, func(p *Protocol) { p.Duplicates = "maybe" }, `duplicates is "maybe", want one of [free fp]`},
		{"descending FPPI", nil, nil, func(p *Protocol) { p.FPPI = []float64{2, 1} }, `must ascend`},
		{"no FPPI", nil, nil, func(p *Protocol) { p.FPPI = nil }, `lists no false positives`},
		{"negative FPPI", nil, nil, func(p *Protocol) { p.FPPI = []float64{-1} }, `-1 false positives per image`},
		{"torn unit", nil, nil, func(p *Protocol) { p.Unit, p.Cluster = PerPatient, PerImage }, `cluster "image" is smaller than unit "patient"`},
		{"negative cap", nil, nil, func(p *Protocol) { p.MaxPerImage = -1 }, `-1 marks per image`},
	} {
		t.Run(c.name, func(t *testing.T) {
			truth, protocol := truth(), DeepLesion()
			if c.truth != nil {
				c.truth(truth)
			}
			if c.protocol != nil {
				c.protocol(&protocol)
			}
			_, err := Evaluate(truth, c.predictions, protocol)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("error %v, want %q", err, c.want)
			}
		})
	}
}

func TestOperatingPointsBelowAtAndBeyondTheCurve(t *testing.T) {
	// two images; false positives at .9 and .5, lesions found at .7 and .3
	truth := &Truth{Images: images(2), Lesions: []Lesion{{Image: 0, Region: lesionBox}, {Image: 1, Region: lesionBox}}}
	predictions := []Prediction{
		mark(0, Box(50, 50, 60, 60), 0.9), mark(0, lesionBox, 0.7), mark(1, Box(50, 50, 60, 60), 0.5), mark(1, lesionBox, 0.3),
	}
	nan := math.NaN()
	for _, c := range []struct {
		interpolation Interpolation
		fppi          float64
		want          OperatingPoint
	}{
		{Step, 0, OperatingPoint{Sensitivity: 0, Threshold: nan, Reached: true}},
		{Step, 0.49, OperatingPoint{Sensitivity: 0, Threshold: nan, Reached: true}},
		{Step, 0.5, OperatingPoint{Sensitivity: 0.5, Threshold: 0.7, Reached: true}},
		{Step, 0.75, OperatingPoint{Sensitivity: 0.5, Threshold: 0.7, Reached: true}},
		{Step, 1, OperatingPoint{Sensitivity: 1, Threshold: 0.3, Reached: true}},
		{Step, 1.01, OperatingPoint{Sensitivity: 1, Threshold: 0.3, Reached: false}},
		{Linear, 0.25, OperatingPoint{Sensitivity: 0, Threshold: nan, Reached: true}},
		{Linear, 0.5, OperatingPoint{Sensitivity: 0.5, Threshold: 0.7, Reached: true}},
		{Linear, 0.75, OperatingPoint{Sensitivity: 0.5, Threshold: 0.7, Reached: true}},
		{Linear, 9, OperatingPoint{Sensitivity: 1, Threshold: 0.3, Reached: false}},
	} {
		p := StrictProtocol()
		p.Interpolation, p.FPPI = c.interpolation, []float64{c.fppi}
		r := mustEvaluate(t, truth, predictions, p)
		c.want.FPPI = c.fppi
		if d := cmp.Diff(c.want, r.OperatingPoints[0], equalOutcomes); d != "" {
			t.Errorf("%s at %v (-want +got):\n%s", c.interpolation, c.fppi, d)
		}
	}
}

func TestFPPIThatFallsOnAWholeCountIncludesIt(t *testing.T) {
	// as many images as DeepLesion's test split: 1, 2, 4 and 8 FP per image are whole counts
	const n = 4817
	truth := &Truth{Lesions: []Lesion{{Region: lesionBox}}}
	var predictions []Prediction
	for i := range n {
		truth.Images = append(truth.Images, Image{ID: strings.Repeat("x", 1) + string(rune(i+1000))})
	}
	for i := range 9 * n {
		predictions = append(predictions, mark(i%n, Box(90, 90, 99, 99), 1-float64(i)/(10*n)))
	}
	// the lesion is found right after the k·n-th false positive
	for _, k := range []float64{1, 2, 4, 8} {
		score := 1 - (k*n-0.5)/(10*n)
		all := append(predictions[:len(predictions):len(predictions)], mark(0, lesionBox, score))
		for _, interpolation := range []Interpolation{Step, Linear} {
			p := StrictProtocol()
			p.FPPI, p.Interpolation = []float64{k}, interpolation
			if r := mustEvaluate(t, truth, all, p); r.OperatingPoints[0].Sensitivity != 1 {
				t.Errorf("%s: at %v FP per image the lesion is not found", interpolation, k)
			}
		}
	}
}

func TestDuplicatesAndMultipleLesions(t *testing.T) {
	two := &Truth{Images: images(1), Lesions: []Lesion{{Region: Box(0, 0, 10, 10)}, {Region: Box(0, 2, 10, 12)}}}
	over := Box(0, 1, 10, 11)
	for _, c := range []struct {
		name                  string
		duplicates            DuplicateRule
		multiple              MultipleRule
		predictions           []Prediction
		found, tp, fp, copies int
	}{
		{"one mark over two lesions finds both", Free, All, []Prediction{mark(0, over, 1)}, 2, 1, 0, 0},
		{"one mark over two lesions finds one", Free, One, []Prediction{mark(0, over, 1)}, 1, 1, 0, 0},
		{"two marks find both", Free, One, []Prediction{mark(0, over, 1), mark(0, over, 0.5)}, 2, 2, 0, 0},
		{"a third mark is free", Free, One, []Prediction{mark(0, over, 1), mark(0, over, 0.5), mark(0, over, 0.2)}, 2, 2, 0, 1},
		{"a third mark is an FP", FalsePositive, One, []Prediction{mark(0, over, 1), mark(0, over, 0.5), mark(0, over, 0.2)}, 2, 2, 1, 0},
		{"a second mark is an FP where one finds all", FalsePositive, All, []Prediction{mark(0, over, 1), mark(0, over, 0.5)}, 2, 1, 1, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := withHit(StrictProtocol(), "iou>=0.5")
			p.Duplicates, p.Multiple = c.duplicates, c.multiple
			n := mustEvaluate(t, two, c.predictions, p).Counts
			if d := cmp.Diff([]int{c.found, c.tp, c.fp, c.copies}, []int{n.Found, n.TruePositives, n.FalsePositives, n.Duplicates}); d != "" {
				t.Errorf("found, TP, FP, duplicates (-want +got):\n%s", d)
			}
		})
	}
}

// The mark with the higher score finds the lesion although the other fits
// better; matching by overlap over all thresholds calls it a false positive.
func TestHigherScoreWinsOverBetterOverlap(t *testing.T) {
	truth := &Truth{Images: images(1), Lesions: []Lesion{{Region: lesionBox}}}
	r := mustEvaluate(t, truth, []Prediction{mark(0, lesionBox, 0.1), mark(0, Box(0, 0, 10, 14), 0.95)}, StrictProtocol())
	o := r.LesionOutcomes()[0]
	if o.Prediction != 1 || o.Rank != 1 || o.Score != 0.95 || math.Abs(o.Value-100.0/140) > 1e-12 {
		t.Errorf("lesion found by %+v, want prediction 1", o)
	}
}

func TestEveryLesionFoundReachesSensitivityOne(t *testing.T) {
	truth := &Truth{Images: images(2), Lesions: []Lesion{{Image: 0, Region: lesionBox}, {Image: 1, Region: lesionBox}}}
	r := mustEvaluate(t, truth, []Prediction{mark(0, lesionBox, 0.9), mark(0, Box(50, 50, 60, 60), 0.6), mark(1, lesionBox, 0.3)}, StrictProtocol())
	if s := r.At(1).Sensitivity; s != 1 {
		t.Errorf("sensitivity %v, want 1: both lesions are found", s)
	}
}

func TestIgnoredLesionsHaveNoEffect(t *testing.T) {
	ignored := Box(50, 50, 60, 60)
	truth := &Truth{Images: images(1), Lesions: []Lesion{{Region: lesionBox}, {Region: ignored, Ignore: true}}}
	base := []Prediction{mark(0, lesionBox, 0.5)}
	for _, p := range []Protocol{DeepLesion(), StrictProtocol(), COCO(0.5)} {
		want := mustEvaluate(t, truth, base, p)
		got := mustEvaluate(t, truth, append(base, mark(0, ignored, 0.9), mark(0, ignored, 0.2)), p)
		if d := cmp.Diff(want.Curve, got.Curve); d != "" {
			t.Errorf("%s: marks on an ignored lesion move the curve:\n%s", p.Name, d)
		}
		if got.Counts.IgnoredMarks != 2 || got.Counts.Lesions != 1 || got.Counts.IgnoredLesions != 1 {
			t.Errorf("%s: counts %+v", p.Name, got.Counts)
		}
	}
}

func TestCriteria(t *testing.T) {
	mask := func(indices ...int) Region {
		m, err := NewMask(4, 4, 4, indices)
		if err != nil {
			t.Fatal(err)
		}
		return MaskRegion(m)
	}
	for _, c := range []struct {
		name       string
		hit        string
		plusOne    bool
		prediction Region
		lesion     Region
		want       bool
	}{
		{"IoU exactly at the threshold", "iou>=0.5", false, Box(0, 0, 10, 5), Box(0, 0, 10, 10), true},
		{"IoU exactly at the threshold, strict", "iou>0.5", false, Box(0, 0, 10, 5), Box(0, 0, 10, 10), false},
		{"+1 pixel: 5 of 10 rows", "iou>=0.5", true, Box(0, 0, 9, 4), Box(0, 0, 9, 9), true},
		{"the same without +1: 4 of 9 rows", "iou>=0.5", false, Box(0, 0, 9, 4), Box(0, 0, 9, 9), false},
		{"touching boxes with +1 share a row", "iou>0", true, Box(0, 0, 9, 4), Box(0, 4, 9, 9), true},
		{"touching boxes without", "iou>0", false, Box(0, 0, 9, 4), Box(0, 4, 9, 9), false},
		{"zero area against itself", "iou>0", false, Box(3, 3, 3, 3), Box(3, 3, 3, 3), false},
		{"one pixel against itself", "iou>=1", true, Box(3, 3, 3, 3), Box(3, 3, 3, 3), true},
		{"IoBB of a small box inside", "iobb>=1", false, Box(2, 2, 4, 4), Box(0, 0, 10, 10), true},
		{"IoGT of a small box inside", "iogt>=0.5", false, Box(2, 2, 4, 4), Box(0, 0, 10, 10), false},
		{"IoMin of a small box inside", "iomin>=1", false, Box(2, 2, 4, 4), Box(0, 0, 10, 10), true},
		{"Dice 2·50/150", "dice>0.66", false, Box(0, 0, 10, 5), Box(0, 0, 10, 10), true},
		{"least axis: 10/10 and 4/10", "minaxis>0.4", false, Box(0, 0, 10, 4), Box(0, 0, 10, 10), false},
		{"distance below the radius", "distance<radius", false, Sphere(3, 4, 0, 0), Sphere(0, 0, 0, 5.01), true},
		{"distance equal to the radius, strict", "distance<radius", false, Sphere(3, 4, 0, 0), Sphere(0, 0, 0, 5), false},
		{"distance equal to the radius", "distance<=radius", false, Sphere(3, 4, 0, 0), Sphere(0, 0, 0, 5), true},
		{"distance within 1.5 radii", "distance<=1.5*radius", false, Sphere(3, 4, 0, 0), Sphere(0, 0, 0, 3.4), true},
		{"distance in units", "distance<=5", false, Circle(3, 4, 0), Circle(0, 0, 1), true},
		{"a box's radius is half its longest side", "distance<radius", false, Box(4, 0, 6, 2), Box(0, 0, 2, 8.01), false},
		{"and within it", "distance<radius", false, Box(0, 4, 2, 6), Box(0, 0, 2, 8.01), true},
		{"either rule", "distance<radius | iou>=0.3", false, Box(0, 0, 10, 10), Box(0, 0, 10, 4), true},
		{"neither rule", "distance<=1 | iou>=0.5", false, Box(0, 0, 10, 10), Box(0, 0, 10, 4), false},
		{"centre inside a box, on the border", "inside", false, Box(8, 0, 12, 2), Box(0, 0, 10, 10), true},
		{"centre outside a box", "inside", false, Box(9, 0, 12, 2), Box(0, 0, 10, 10), false},
		{"centre in the last pixel", "inside", true, Box(9, 0, 12, 2), Box(0, 0, 10, 10), true},
		{"centre inside a circle", "inside", false, Circle(3, 4, 0), Circle(0, 0, 5), true},
		{"3-D boxes", "iou>=0.5", false, Box3D(0, 0, 0, 4, 4, 2), Box3D(0, 0, 0, 4, 4, 4), true},
		{"3-D boxes apart in depth", "iou>0", false, Box3D(0, 0, 0, 4, 4, 2), Box3D(0, 0, 2, 4, 4, 4), false},
		{"slice box in a 3-D box", "iobb>=1", false, Box3D(0, 0, 5, 4, 4, 9), SliceBox(0, 0, 4, 4, 7), true},
		{"slice box outside a 3-D box", "iobb>0", false, Box3D(0, 0, 5, 4, 4, 9), SliceBox(0, 0, 4, 4, 10), false},
		{"slice boxes of one slice", "iou>=1", false, SliceBox(0, 0, 4, 4, 7), SliceBox(0, 0, 4, 4, 7), true},
		{"slice boxes of two slices", "iou>0", false, SliceBox(0, 0, 4, 4, 8), SliceBox(0, 0, 4, 4, 7), false},
		{"distance from another slice", "distance<=9", false, Box3D(0, 0, 8, 4, 4, 9), SliceBox(0, 0, 4, 4, 7), false},
		{"a sphere counts as its box", "iou>=1", false, Sphere(1, 1, 1, 1), Box3D(0, 0, 0, 2, 2, 2), true},
		{"point in a mask", "inside", false, Sphere(1.4, 0.6, 0, 0), mask(1, 5), true},
		{"point beside a mask", "inside", false, Sphere(1.6, 0.6, 0, 0), mask(1, 5), false},
		{"point off the grid", "inside", false, Sphere(-0.6, 0, 0, 0), mask(0), false},
		{"masks", "iou>=0.5", false, mask(0, 1, 2), mask(1, 2, 3), true},
		{"masks that share too little", "iou>0.5", false, mask(0, 1, 2), mask(1, 2, 3), false},
		{"masks in runs that end at a row", "iou>=1", false, mask(3, 4, 5), mask(5, 4, 3), true},
	} {
		t.Run(c.name, func(t *testing.T) {
			truth := &Truth{Images: images(1), Lesions: []Lesion{{Region: c.lesion}}}
			p := withHit(StrictProtocol(), c.hit)
			p.PlusOne = c.plusOne
			if got := mustEvaluate(t, truth, []Prediction{mark(0, c.prediction, 1)}, p).Counts.Found == 1; got != c.want {
				t.Errorf("%s against %s by %s: hit %v, want %v", &c.prediction, &c.lesion, c.hit, got, c.want)
			}
		})
	}
}

func TestParseHitRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"":                    "want MEASURE>=VALUE",
		"iou":                 "want MEASURE>=VALUE",
		"iou<0.5":             `compared with '<', want '>'`,
		"distance>5":          `compared with '>', want '<'`,
		"overlap>=0.5":        `measure "overlap"`,
		"iou>=1.5":            "0 to 1",
		"iou>=0":              "every pair",
		"iou>=NaN":            "want a number",
		"iou>=-1":             "want a number",
		"distance<x*radius":   "want a number",
		"iou>=0.5 | nonsense": `hit rule "nonsense"`,
	} {
		if _, err := ParseHit(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ParseHit(%q): error %v, want %q", text, err, want)
		}
	}
}

func TestHitRulesReadBackAsWritten(t *testing.T) {
	for _, text := range []string{
		"iou>=0.5", "iou>0.5", "distance<radius", "distance<=radius", "distance<1.5*radius", "distance<=10", "inside",
		"distance<radius | iou>=0.3",
	} {
		c, err := ParseHit(text)
		if err != nil {
			t.Fatal(err)
		}
		if got := FormatHit(c); got != text {
			t.Errorf("%q reads back as %q", text, got)
		}
	}
}

func TestPresetsAreSoundAndFoundByName(t *testing.T) {
	for _, p := range Protocols() {
		if err := p.Check(); err != nil {
			t.Error(err)
		}
		again, err := ProtocolByName(p.Name)
		if err != nil || again.Source != p.Source || p.Source == "" || p.Description == "" {
			t.Errorf("preset %q: %v, source %q", p.Name, err, p.Source)
		}
	}
	if _, err := ProtocolByName("nonsense"); err == nil {
		t.Error("an unknown preset is no error")
	}
}

func TestCapKeepsTheHighestScores(t *testing.T) {
	truth := &Truth{Images: images(1), Lesions: []Lesion{{Region: lesionBox}}}
	far := Box(90, 90, 99, 99)
	predictions := []Prediction{mark(0, far, 0.9), mark(0, far, 0.5), mark(0, far, 0.5), mark(0, lesionBox, 0.1)}
	for _, c := range []struct {
		ties      TieRule
		limit, fp int
	}{{DropTies, 2, 1}, {KeepTies, 2, 3}, {DropTies, 3, 3}, {KeepTies, 3, 3}, {DropTies, 4, 3}} {
		p := DeepLesion()
		p.MaxPerImage, p.CapTies = c.limit, c.ties
		n := mustEvaluate(t, truth, predictions, p).Counts
		if n.FalsePositives != c.fp || n.OverCap != len(predictions)-n.FalsePositives-n.TruePositives {
			t.Errorf("%d marks, ties %s: %+v, want %d false positives", c.limit, c.ties, n, c.fp)
		}
	}
}

func TestFalsePositivesPerVolumeAndPatient(t *testing.T) {
	truth := &Truth{
		Images: []Image{
			{ID: "1", Patient: "p", Volume: "v"}, {ID: "2", Patient: "p", Volume: "v"},
			{ID: "3", Patient: "p", Volume: "w"}, {ID: "4", Patient: "q", Volume: "x"},
		},
		Lesions: []Lesion{{Region: lesionBox}},
	}
	predictions := []Prediction{mark(1, lesionBox, 1), mark(2, lesionBox, 1), mark(3, lesionBox, 1)}
	for unit, want := range map[Group]float64{PerImage: 3.0 / 4, PerVolume: 3.0 / 3, PerPatient: 3.0 / 2} {
		p := StrictProtocol()
		p.Unit = unit
		r := mustEvaluate(t, truth, predictions, p)
		if got := r.Curve[len(r.Curve)-1].FPPI; got != want {
			t.Errorf("%v FP per %s, want %v", got, unit, want)
		}
	}
}

func TestStrataIgnoreOrRemoveOtherStrata(t *testing.T) {
	truth := &Truth{
		Images: images(2), Strata: []string{"organ", "size"},
		Lesions: []Lesion{
			{Image: 0, Region: lesionBox, Strata: []string{"lung", "4"}},
			{Image: 1, Region: lesionBox, Strata: []string{"liver", "30"}},
		},
	}
	predictions := []Prediction{mark(0, lesionBox, 0.5), mark(1, lesionBox, 0.9)}
	p := StrictProtocol()
	p.FPPI = []float64{0}
	for rule, want := range map[StrataRule][]float64{StrataIgnore: {1, 1}, StrataAsPapers: {1, 0}} {
		strata, err := Strata(truth, predictions, p, "organ", nil, rule)
		if err != nil {
			t.Fatal(err)
		}
		// the liver mark, scored higher, is a false positive for the lung by the papers' rule
		if strata[0].Name != "liver" || strata[1].Name != "lung" {
			t.Fatalf("strata %q, %q", strata[0].Name, strata[1].Name)
		}
		if got := []float64{strata[0].Result.MeanSensitivity, strata[1].Result.MeanSensitivity}; !cmp.Equal(got, want) {
			t.Errorf("rule %s: sensitivities %v, want %v", rule, got, want)
		}
	}
	strata, err := Strata(truth, predictions, p, "size", []float64{4, 10}, StrataIgnore)
	if err != nil {
		t.Fatal(err)
	}
	if len(strata) != 2 || strata[0].Name != "<=4" || strata[1].Name != ">10" {
		t.Errorf("strata %v", strata)
	}
	for _, bad := range []struct {
		column string
		edges  []float64
		rule   StrataRule
	}{{"age", nil, StrataIgnore}, {"organ", []float64{1}, StrataIgnore}, {"size", []float64{2, 1}, StrataIgnore}, {"size", nil, "else"}} {
		if _, err := Strata(truth, predictions, p, bad.column, bad.edges, bad.rule); err == nil {
			t.Errorf("no error for %+v", bad)
		}
	}
}

func TestAveragePrecisionByHand(t *testing.T) {
	// lesions found at .9 and .4, false positive at .6: precision 1 at recall 1/2, 2/3 at recall 1
	truth := &Truth{Images: images(2), Lesions: []Lesion{{Image: 0, Region: lesionBox}, {Image: 1, Region: lesionBox}}}
	predictions := []Prediction{mark(0, lesionBox, 0.9), mark(0, Box(50, 50, 60, 60), 0.6), mark(1, lesionBox, 0.4)}
	for kind, want := range map[APRule]float64{
		AllPoints:  0.5*1 + 0.5*2/3,
		RecallGrid: (51*1 + 50*2.0/3) / 101, // 51 recalls from 0 to 0.5, 50 above
	} {
		p := StrictProtocol()
		p.AP = kind
		if got := mustEvaluate(t, truth, predictions, p).AP; math.Abs(got-want) > 1e-12 {
			t.Errorf("%s: %v, want %v", kind, got, want)
		}
	}
}

func TestPerfectAveragePrecisionIsExactlyOne(t *testing.T) {
	truth, predictions := &Truth{}, []Prediction(nil)
	for n := range 60 {
		truth.Images = images(n + 1)
		truth.Lesions = append(truth.Lesions, Lesion{Image: n, Region: lesionBox})
		predictions = append(predictions, mark(n, lesionBox, float64(n)))
		for _, rule := range []APRule{AllPoints, RecallGrid, StepPrecision} {
			p := StrictProtocol()
			p.AP = rule
			if r := mustEvaluate(t, truth, predictions, p); r.AP != 1 || r.MeanSensitivity != 1 {
				t.Errorf("%d lesions, %s: AP %v, mean sensitivity %v", n+1, rule, r.AP, r.MeanSensitivity)
			}
		}
	}
}

func TestReplicatesWithoutLesionAreLeftOutAndCounted(t *testing.T) {
	truth := &Truth{Images: images(2), Lesions: []Lesion{{Image: 0, Region: lesionBox}}}
	r := mustEvaluate(t, truth, []Prediction{mark(0, lesionBox, 1)}, StrictProtocol())
	const n = 4000
	b, err := r.Bootstrap(BootstrapOptions{Replicates: n})
	if err != nil {
		t.Fatal(err)
	}
	// both draws miss the only patient with a lesion: 1/4
	if share := float64(b.WithoutLesion) / n; math.Abs(share-0.25) > 0.03 {
		t.Errorf("%v of the replicates have no lesion, want about 0.25", share)
	}
	if math.Abs(b.Mean.Low-0.025) > 1e-12 || b.Mean.High != 1 {
		t.Errorf("interval %v, want 0.025 to 1: what one patient can exclude", b.Mean)
	}
}

func TestBootstrapIsDeterministicBySeed(t *testing.T) {
	truth, predictions := benchmarkData(40, 400)
	r := mustEvaluate(t, truth, predictions, DeepLesion())
	for _, method := range []resample.Method{resample.Percentile, resample.BCa} {
		run := func(seed uint64) *Bootstrap {
			b, err := r.Bootstrap(BootstrapOptions{Replicates: 200, Seed: seed, Method: method})
			if err != nil {
				t.Fatal(err)
			}
			return b
		}
		if d := cmp.Diff(run(1), run(1), equalOutcomes); d != "" {
			t.Errorf("%s: equal seeds differ:\n%s", method, d)
		}
		if run(1).Merit == run(2).Merit {
			t.Errorf("%s: different seeds agree", method)
		}
	}
}

func TestBootstrapOptionsAreChecked(t *testing.T) {
	truth, predictions := benchmarkData(4, 10)
	r := mustEvaluate(t, truth, predictions, DeepLesion())
	for _, o := range []BootstrapOptions{{Replicates: -1}, {Replicates: 1}, {Level: 1}, {Level: -0.5}, {Method: "else"}, {Permutations: -1}} {
		if _, err := r.Bootstrap(o); err == nil {
			t.Errorf("no error for %+v", o)
		}
	}
}

func TestBandHoldsTheCurve(t *testing.T) {
	truth, predictions := benchmarkData(60, 600)
	r := mustEvaluate(t, truth, predictions, DeepLesion())
	band, err := r.Band(0.25, 8, 9, BootstrapOptions{Replicates: 300})
	if err != nil {
		t.Fatal(err)
	}
	for i, x := range band.FPPI {
		if s := r.At(x).Sensitivity; s < band.Intervals[i].Low || s > band.Intervals[i].High {
			t.Errorf("sensitivity %v at %v lies outside %v", s, x, band.Intervals[i])
		}
	}
}

func TestCompareFindsADifferenceAndNone(t *testing.T) {
	truth, predictions := benchmarkData(80, 800)
	all := mustEvaluate(t, truth, predictions, DeepLesion())
	var worse []Prediction
	for i, p := range predictions {
		if i%20 == 0 && i%40 == 0 {
			continue // every second hit is lost
		}
		worse = append(worse, p)
	}
	half := mustEvaluate(t, truth, worse, DeepLesion())
	c, err := Compare([]Named{{"all", all}, {"half", half}, {"again", all}}, CompareOptions{BootstrapOptions: BootstrapOptions{Replicates: 400, Seed: 1}})
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Pairs) != 2 || c.Pairs[0].B != "half" || c.Pairs[1].B != "again" {
		t.Fatalf("pairs %+v", c.Pairs)
	}
	half1, again := c.Pairs[0], c.Pairs[1]
	if half1.Mean.Value >= 0 || half1.Mean.CI.High >= 0 || half1.Mean.BootstrapP > 0.01 || half1.Mean.PermutationP > 0.01 {
		t.Errorf("half the hits lost: %+v", half1.Mean)
	}
	if want := math.Min(1, 2*half1.Mean.PermutationP); half1.HolmPermutationP != want {
		t.Errorf("corrected p %v, want %v", half1.HolmPermutationP, want)
	}
	if again.Mean.Value != 0 || again.Mean.BootstrapP != 1 || again.Mean.PermutationP != 1 || again.Verdict != resample.Unresolved ||
		again.Mean.CI.Low != -again.Mean.CI.High || again.Mean.CI.High == 0 {
		t.Errorf("a system against itself: %+v", again.Mean)
	}
	pairs, err := Compare([]Named{{"all", all}, {"half", half}, {"again", all}}, CompareOptions{AllPairs: true, BootstrapOptions: BootstrapOptions{Replicates: 10}})
	if err != nil || len(pairs.Pairs) != 3 {
		t.Errorf("%d pairs, error %v, want 3", len(pairs.Pairs), err)
	}
}

func TestCompareRefuses(t *testing.T) {
	truth, predictions := benchmarkData(4, 40)
	r := mustEvaluate(t, truth, predictions, DeepLesion())
	otherProtocol := mustEvaluate(t, truth, predictions, StrictProtocol())
	copied := *truth
	otherTruth := mustEvaluate(t, &copied, predictions, DeepLesion())
	for want, systems := range map[string][]Named{
		"2 or more":           {{"a", r}},
		"two systems":         {{"a", r}, {"a", r}},
		"no result":           {{"a", r}, {"b", nil}},
		"different truths":    {{"a", r}, {"b", otherTruth}},
		"different protocols": {{"a", r}, {"b", otherProtocol}},
	} {
		if _, err := Compare(systems, CompareOptions{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
}

// With one patient per system order, all 2^n exchanges can be enumerated.
func TestPermutationPValueEqualsEnumeration(t *testing.T) {
	const n = 6
	truth := &Truth{}
	var a, b []Prediction
	for i := range n {
		truth.Images = append(truth.Images, Image{ID: string(rune('a' + i))})
		truth.Lesions = append(truth.Lesions, Lesion{Image: i, Region: lesionBox})
		b = append(b, mark(i, lesionBox, 1)) // b finds every lesion, a none
	}
	p := StrictProtocol()
	p.FPPI = []float64{1}
	c, err := Compare([]Named{{"a", mustEvaluate(t, truth, a, p)}, {"b", mustEvaluate(t, truth, b, p)}},
		CompareOptions{BootstrapOptions: BootstrapOptions{Replicates: 2, Permutations: 40000}})
	if err != nil {
		t.Fatal(err)
	}
	// only the two exchanges of all or none are as extreme: 2 / 2^6
	if want := 2.0 / 64; math.Abs(c.Pairs[0].Mean.PermutationP-want) > 0.004 {
		t.Errorf("p %v, want about %v", c.Pairs[0].Mean.PermutationP, want)
	}
}

// The most false positives within an operating point are those whose quotient,
// rounded as the curve rounds it, does not exceed it.
func TestLimitOfAnOperatingPointIsExact(t *testing.T) {
	for units := 1; units < 400; units++ {
		for count := range 2 * units {
			exact := float64(count) / float64(units)
			for _, x := range []float64{exact, math.Nextafter(exact, -1), math.Nextafter(exact, 9), math.Round(exact*1000) / 1000} {
				if x < 0 {
					continue
				}
				w := walker{fppi: []float64{x}}
				w.start(units, 1)
				got := w.limit()
				if float64(got)/float64(units) > x || float64(got+1)/float64(units) <= x {
					t.Fatalf("%d units at %v: limit %d", units, x, got)
				}
			}
		}
	}
	w := walker{fppi: []float64{1e300}}
	w.start(10, 1)
	if got := w.limit(); got != math.MaxInt {
		t.Errorf("limit %d at 1e300, want none", got)
	}
}

// COCOeval's recalls are multiples of 0.01 as numpy rounds them: 35 of them
// (0 to 0.34) lie at or below 7/20, because 35·0.01 is a hair above 0.35.
func TestRecallGridIsNumpys(t *testing.T) {
	truth := &Truth{Images: images(1)}
	var predictions []Prediction
	for i := range 20 {
		r := Box(float64(20*i), 0, float64(20*i+10), 10)
		truth.Lesions = append(truth.Lesions, Lesion{Region: r})
		if i < 7 {
			predictions = append(predictions, mark(0, r, 1))
		}
	}
	if got, want := mustEvaluate(t, truth, predictions, COCO(0.5)).AP, 35.0/101; math.Abs(got-want) > 1e-12 {
		t.Errorf("AP %v, want %v", got, want)
	}
}

// Three marks tie in score and fit; which comes first decides how many are
// duplicates. Content must decide, not the order of input.
func TestTiedMarksOfEqualFitAreOrderedByContent(t *testing.T) {
	truth := &Truth{Images: images(1), Lesions: []Lesion{{Region: Box(0, 0, 10, 10)}, {Region: Box(5, 0, 15, 10)}}}
	both, first, second := mark(0, Box(7, 4, 8, 6), 1), mark(0, Box(1, 4, 2, 6), 1), mark(0, Box(13, 4, 14, 6), 1)
	p := withHit(StrictProtocol(), "inside")
	p.Multiple = All
	seen := map[int]bool{}
	for _, order := range [][]Prediction{
		{both, first, second}, {both, second, first}, {first, both, second}, {first, second, both}, {second, both, first}, {second, first, both},
	} {
		seen[mustEvaluate(t, truth, order, p).Counts.FalsePositives] = true
	}
	if len(seen) != 1 {
		t.Errorf("numbers of false positives by order: %v, want one number", seen)
	}
}

func TestTiedMarksTheBetterFitComesFirst(t *testing.T) {
	truth := &Truth{Images: images(1), Lesions: []Lesion{{Region: lesionBox}}}
	for _, p := range []Protocol{StrictProtocol(), DeepLesion()} {
		p.PlusOne = false
		r := mustEvaluate(t, truth, []Prediction{mark(0, Box(0, 0, 9, 7), 1), mark(0, Box(0, 0, 10, 9), 1), mark(0, Box(0, 0, 8, 10), 1)}, p)
		if o := r.LesionOutcomes()[0]; o.Prediction != 1 || o.Value != 0.9 {
			t.Errorf("%s: found by %+v, want prediction 1 with IoU 0.9", p.Name, o)
		}
	}
}

// A mark on another stratum's lesion is judged by the rule for lesions, although
// the rule for ignored regions is stricter.
func TestOtherStrataAreHitByTheRuleForLesions(t *testing.T) {
	truth := &Truth{Images: images(1), Strata: []string{"organ"}, Lesions: []Lesion{
		{Region: Box(0, 0, 20, 20), Strata: []string{"lung"}}, {Region: Box(50, 0, 70, 20), Strata: []string{"liver"}},
	}}
	// half a side aside: IoU 1/3, and the centre is as far as the radius, not nearer
	predictions := []Prediction{mark(0, Box(60, 0, 80, 20), 1)}
	strata, err := Strata(truth, predictions, SmallLesion(), "organ", nil, StrataIgnore)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range strata {
		if s.Result.Counts.FalsePositives != 0 {
			t.Errorf("%s: %+v, want no false positive", s.Name, s.Result.Counts)
		}
	}
}

func TestMaskGeometry(t *testing.T) {
	m, err := NewMask(4, 3, 2, []int{3, 4, 16, 4})
	if err != nil {
		t.Fatal(err)
	}
	r := MaskRegion(m)
	low, high := r.Bounds()
	if low != [3]float64{0, 0, 0} || high != [3]float64{3, 1, 1} || m.Voxels() != 3 || r.Mask() != m {
		t.Errorf("bounds %v to %v, %d voxels", low, high, m.Voxels())
	}
	if c := r.Centre(); c != [3]float64{1, 2.0 / 3, 1.0 / 3} {
		t.Errorf("centroid %v", c)
	}
	for _, bad := range []struct {
		size    [3]int
		indices []int
	}{{[3]int{0, 1, 1}, nil}, {[3]int{2, 2, 2}, []int{8}}, {[3]int{2, 2, 2}, []int{-1}}} {
		if _, err := NewMask(bad.size[0], bad.size[1], bad.size[2], bad.indices); err == nil {
			t.Errorf("no error for %+v", bad)
		}
	}
}

// Two systems of equal skill, the second on another scale of scores: the
// permutation test must reject about as often as it says. 300 data sets, so that
// a test of level 5 % rejects 15 times, with a standard deviation of 3.8.
func TestPermutationTestKeepsItsLevel(t *testing.T) {
	rejected := 0
	const sets = 300
	for set := range sets {
		rng := rand.New(rand.NewPCG(uint64(set), 77))
		truth := &Truth{}
		var a, b []Prediction
		for i := range 24 {
			truth.Images = append(truth.Images, Image{ID: fmt.Sprint(i), Patient: fmt.Sprint("p", i/2)})
			truth.Lesions = append(truth.Lesions, Lesion{Image: i, Region: lesionBox})
			for s, system := range []*[]Prediction{&a, &b} {
				scale := func(v float64) float64 {
					if s == 1 {
						return 1e6*v*v*v - 3
					}
					return v
				}
				if rng.Float64() < 0.7 {
					*system = append(*system, mark(i, lesionBox, scale(math.Sqrt(rng.Float64()))))
				}
				for range rng.IntN(5) {
					*system = append(*system, mark(i, Box(50, 50, 60, 60), scale(rng.Float64())))
				}
			}
		}
		p := StrictProtocol()
		p.FPPI = []float64{0.25, 0.5, 1}
		c, err := Compare([]Named{{"a", mustEvaluate(t, truth, a, p)}, {"b", mustEvaluate(t, truth, b, p)}},
			CompareOptions{BootstrapOptions: BootstrapOptions{Replicates: 2, Permutations: 199, Seed: uint64(set)}})
		if err != nil {
			t.Fatal(err)
		}
		if c.Pairs[0].Mean.PermutationP <= 0.05 {
			rejected++
		}
	}
	if rejected > 30 || rejected < 3 {
		t.Errorf("%d of %d data sets without a difference are rejected at 5 %%", rejected, sets)
	}
}

// mustHit reads a rule that a test spells out.
func mustHit(text string) []Criterion {
	c, err := ParseHit(text)
	if err != nil {
		panic(err)
	}
	return c
}
