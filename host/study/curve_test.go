package study

import (
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/alignedfusion/alignedfusion/eval/classify"
	"github.com/alignedfusion/alignedfusion/eval/resample"
)

// line pools classifiers that give the true class the probabilities sure[rate][case].
func line(t *testing.T, method string, rates []float64, sure [][]float64) []*pooled {
	t.Helper()
	var out []*pooled
	for k, rate := range rates {
		p := &pooled{row: Row{Scenario: "C-Tr+M-Te", Method: method, TestRate: rate, Fraction: 1, Seeds: []uint64{1}}}
		for i, v := range sure[k] {
			row := []float64{1 - v, 1 - v}
			row[i%2] = v
			p.labels, p.probabilities, p.patients = append(p.labels, i%2), append(p.probabilities, row), append(p.patients, fmt.Sprint(i/2))
		}
		var err error
		if p.classified, err = classify.Evaluate(p.labels, p.probabilities, []string{"a", "b"}); err != nil {
			t.Fatal(err)
		}
		p.of = p
		out = append(out, p)
	}
	return out
}

func TestCurveHasAreaDifferenceFromTheImageAndSteps(t *testing.T) {
	rates := []float64{0, 0.5, 1}
	all := line(t, "itfusion", rates, [][]float64{{.9, .9, .4, .9}, {.9, .8, .6, .9}, {.91, .3, .3, .2}})
	all = append(all, line(t, "none", rates, [][]float64{{.9, .4, .9, .4}, {.9, .4, .9, .4}, {.9, .4, .9, .4}})...)
	got, err := curves(all, resample.Options{Replicates: 200, Level: 0.95, Permutations: 200, Method: resample.Percentile})
	if err != nil || len(got) != 2 {
		t.Fatalf("%d curves, %v", len(got), err)
	}
	c := got[0]
	// Right of two and two: 3/4, 1, 1/4. Trapezoids: .5·.875 + .5·.625.
	if math.Abs(float64(c.Area.Value)-0.75) > 1e-12 || !(c.Area.Low <= c.Area.Value && c.Area.Value <= c.Area.High) {
		t.Errorf("area %+v, want 0.75 inside its interval", c.Area)
	}
	if math.Abs(float64(c.ImageOnlyArea.Value)-0.25) > 1e-12 || len(c.ImageOnly) != 3 || math.Abs(float64(c.ImageOnly[2].Value)+0.25) > 1e-12 {
		t.Errorf("minus image only: area %+v, rates %+v, want .25 and -.25 at the last", c.ImageOnlyArea, c.ImageOnly)
	}
	// .4 to .6 alone rises by more than .02; the first case is wrong at no rate.
	if want := (Steps{Steps: 8, Rising: 1, Cases: 4, CasesRising: 1, Expected: c.Steps.Expected}); c.Steps != want {
		t.Errorf("steps %+v, want %+v", c.Steps, want)
	}
	// Of the one class or the other: .9 to .8 has the other rise, which was
	// .1, .4 to .6 the one from .4; then .8 to .3 the other from .2, .6 to .3 from .4, .9 to .2 from .1.
	if math.Abs(c.Steps.Expected-(.1+.4+.2+.4+.1)) > 1e-12 {
		t.Errorf("%g rises would be expected, want 1.2", c.Steps.Expected)
	}
	if got[1].ImageOnly != nil || got[1].Steps.Rising != 0 {
		t.Errorf("the image alone is compared with itself or rises: %+v", got[1])
	}
	var text strings.Builder
	if err := writeCurves(&text, got, "balanced accuracy"); err != nil || !strings.Contains(text.String(), "+0.250 [") || !strings.Contains(text.String(), "at 100 %") {
		t.Errorf("%v\n%s", err, &text)
	}
}

// Models that were trained at the rate of their point are other models: no curve.
func TestCurveIsOfTheSameModels(t *testing.T) {
	all := line(t, "itfusion", []float64{0, 0.5}, [][]float64{{.9, .9}, {.8, .8}})
	all[1].row.TrainRate = 0.5
	if got, err := curves(all, resample.Options{Replicates: 20, Level: 0.95}); err != nil || len(got) != 0 {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestRightWithFewerAndWrongWithMoreIsCounted(t *testing.T) {
	all := line(t, "itfusion", []float64{0, 1}, [][]float64{{.3, .9}, {.8, .9}})
	got, err := curves(all, resample.Options{Replicates: 20, Level: 0.95, Method: resample.Percentile})
	if err != nil || len(got) != 1 || got[0].Steps.WrongWithMore != 1 || got[0].Steps.CasesRising != 1 {
		t.Errorf("%+v, %v", got, err)
	}
}
