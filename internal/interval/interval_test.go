package interval

import (
	"slices"
	"strings"
	"testing"
)

func TestNamesSayTheBounds(t *testing.T) {
	bounds := []float64{0.5, 6, 24}
	names := Names(bounds)
	if want := []string{"0-0.5", "0.5-6", "6-24", "24-"}; !slices.Equal(names, want) {
		t.Fatalf("%q, want %q", names, want)
	}
	if back, err := Bounds(names); err != nil || !slices.Equal(back, bounds) {
		t.Errorf("%v %v, want %v", back, err, bounds)
	}
	for _, wrong := range []string{"0-6", "benign malignant", "0-6 7-", "0-6 6-3 3-", "0-6 6-12", ""} {
		if b, err := Bounds(strings.Fields(wrong)); err == nil {
			t.Errorf("%q: bounds %v, want an error", wrong, b)
		}
	}
}

func TestABoundBeginsAnInterval(t *testing.T) {
	for time, want := range map[float64]int{0: 0, 5.9: 0, 6: 1, 23: 1, 24: 2, 1000: 2} {
		if got := Of([]float64{6, 24}, time); got != want {
			t.Errorf("%g lies in %d, want %d", time, got, want)
		}
	}
}

func TestIntervalsHoldAsManyTimes(t *testing.T) {
	if got, want := Between([]float64{8, 1, 2, 3, 4, 5, 6, 7.12345}, 4), []float64{3, 5, 7.123}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if got, want := Between([]float64{0, 0, 2, 2, 2, 2}, 4), []float64{2}; !slices.Equal(got, want) { // 0 begins the first one as it is
		t.Errorf("%v, want %v", got, want)
	}
}
