package classify

import (
	"math"
	"strings"
	"testing"
)

func twoClasses(t *testing.T, labels []int, second ...float64) *Result {
	t.Helper()
	var rows [][]float64
	for _, p := range second {
		rows = append(rows, []float64{1 - p, p})
	}
	r, err := Evaluate(labels, rows, []string{"no", "yes"})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// By scikit-learn: fpr, tpr, at = roc_curve(y, p, drop_intermediate=False); at[argmax(tpr - fpr)],
// at[argmax(where(tpr >= X, 1-fpr, -1))] and at[argmax(where(1-fpr >= X, tpr, -1))].
func TestThresholdsAreThoseOfTheROCCurve(t *testing.T) {
	r := twoClasses(t, []int{0, 0, 1, 0, 1, 1, 0, 1}, 0.1, 0.2, 0.25, 0.3, 0.3, 0.7, 0.6, 0.9)
	for rule, want := range map[string]float64{"youden": 0.7, "sensitivity@0.7": 0.3, "sensitivity@0.9": 0.25, "specificity@0.7": 0.7, "specificity@0.5": 0.25, "specificity@0.3": 0.25, "specificity@0.9": 0.7} {
		by, err := ParseThresholdRule(rule)
		if err != nil {
			t.Fatal(err)
		}
		if got := r.Threshold(by); got != want {
			t.Errorf("%s: %g, want %g", rule, got, want)
		}
	}
	by, err := ParseThresholdRule("specificity@0.9")
	if err != nil {
		t.Fatal(err)
	}
	if got := twoClasses(t, []int{0, 1}, 0.8, 0.3).Threshold(by); !(got > 0.8) {
		t.Errorf("%g, want more than the greatest probability: none may be called", got)
	}
	for _, alone := range []*Result{twoClasses(t, []int{1, 1}, 0.8, 0.3), twoClasses(t, []int{0}, 0.8)} {
		if got := alone.Threshold(by); !math.IsNaN(got) {
			t.Errorf("%g of one class alone", got)
		}
	}
	for _, wrong := range []string{"", "best", "youden@0.5", "sensitivity", "sensitivity@1", "specificity@x"} {
		if _, err := ParseThresholdRule(wrong); err == nil || !strings.Contains(err.Error(), "want ") {
			t.Errorf("%q: %v", wrong, err)
		}
	}
}
