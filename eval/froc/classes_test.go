package froc

import (
	"errors"
	"math"
	"testing"

	"pgregory.net/rapid"
)

// classed is a world whose lesions and marks have classes.
func classed(t *rapid.T) world {
	w := drawWorld(t)
	w.truth.Classes = []string{"a", "b", "c"}
	for i := range w.truth.Lesions {
		w.truth.Lesions[i].Class = int32(rapid.IntRange(-1, 1).Draw(t, "class")) // c has no lesions
	}
	for i := range w.predictions {
		w.predictions[i].Class = int32(rapid.IntRange(-1, 2).Draw(t, "class"))
	}
	return w
}

// A class by itself is what remains when every other class's lesions and marks are deleted.
func TestAClassIsEvaluatedAsIfItWereAlone(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := classed(t)
		classes, err := ByClass(w.truth, w.predictions, w.protocol)
		if err != nil {
			t.Fatal(err)
		}
		for k, c := range classes {
			alone := world{truth: &Truth{Images: w.truth.Images}, protocol: w.protocol}
			for _, l := range w.truth.Lesions {
				if l.Class == int32(k) || l.Class == AnyClass {
					alone.truth.Lesions = append(alone.truth.Lesions, l)
				}
			}
			for _, p := range w.predictions {
				if p.Class == int32(k) || p.Class == AnyClass {
					alone.predictions = append(alone.predictions, p)
				}
			}
			r, err := Evaluate(alone.truth, alone.predictions, w.protocol)
			if err != nil && !errors.Is(err, ErrNoLesions) {
				t.Fatal(err)
			}
			if d := diffOutcomes(r, c.Result); d != "" {
				t.Fatalf("class %s:\n%s", c.Class, d)
			}
		}
	})
}

// With every class in one file, the lesions found and the false positives of the whole are
// the sums over classes, as long as no limit of marks is shared.
func TestTheWholeIsTheSumOfItsClasses(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := classed(t)
		for i := range w.truth.Lesions {
			w.truth.Lesions[i].Class = max(0, w.truth.Lesions[i].Class)
		}
		for i := range w.predictions {
			w.predictions[i].Class = max(0, w.predictions[i].Class)
		}
		whole := w.evaluate(t)
		classes, err := ByClass(w.truth, w.predictions, w.protocol)
		if err != nil {
			t.Fatal(err)
		}
		found, fp := 0, 0
		for _, c := range classes {
			found += c.Result.Counts.Found
			fp += c.Result.Counts.FalsePositives
		}
		if found != whole.Counts.Found || fp != whole.Counts.FalsePositives {
			t.Fatalf("%d found and %d false positives by class, %d and %d of the whole", found, fp, whole.Counts.Found, whole.Counts.FalsePositives)
		}
	})
}

func TestMacroMeanLeavesOutClassesWithoutLesions(t *testing.T) {
	truth := &Truth{Images: images(4), Classes: []string{"a", "b", "none"}, Lesions: []Lesion{
		{Image: 0, Region: lesionBox, Class: 0}, {Image: 1, Region: lesionBox, Class: 0}, {Image: 2, Region: lesionBox, Class: 1},
	}}
	predictions := []Prediction{
		{Image: 0, Region: lesionBox, Score: 0.9, Class: 0}, {Image: 2, Region: lesionBox, Score: 0.8, Class: 1},
		{Image: 3, Region: lesionBox, Score: 0.7, Class: 2}, {Image: 1, Region: lesionBox, Score: 0.6, Class: 1},
	}
	classes, err := ByClass(truth, predictions, StrictProtocol())
	if err != nil {
		t.Fatal(err)
	}
	if n := classes[2].Result; n.Counts.FalsePositives != 1 || !math.IsNaN(n.MeanSensitivity) || !math.IsNaN(n.AP) {
		t.Errorf("class without lesions: %d false positives, mean %v, AP %v, want 1, NaN, NaN", n.Counts.FalsePositives, n.MeanSensitivity, n.AP)
	}
	m := MacroMean(classes)
	if m.Classes != 2 || math.Abs(m.MeanSensitivity-0.75) > 1e-12 || math.Abs(m.AP-0.75) > 1e-12 || math.Abs(m.Sensitivity[0]-0.75) > 1e-12 {
		t.Errorf("%+v, want the mean of 0.5 and 1 over 2 classes", m)
	}
	mean, ap, err := MacroBootstrap(classes, BootstrapOptions{Replicates: 200})
	if err != nil || mean.Low > 0.75 || mean.High < 0.75 || ap.Low > 0.75 || ap.High < 0.75 {
		t.Errorf("intervals %v, %v, error %v, want around 0.75", mean, ap, err)
	}
	if r := mustEvaluate(t, truth, predictions, StrictProtocol()); r.Counts.Found != 2 {
		t.Errorf("%d lesions found, want 2: one mark is of another class", r.Counts.Found)
	}
	p := StrictProtocol()
	p.Classes = AnyClasses
	if r := mustEvaluate(t, truth, predictions, p); r.Counts.Found != 3 {
		t.Errorf("%d lesions found with all classes as one, want 3", r.Counts.Found)
	}
	if _, err := Evaluate(truth, []Prediction{{Region: lesionBox, Class: 3}}, p); err == nil {
		t.Error("class 3 of 3 is accepted")
	}
}
