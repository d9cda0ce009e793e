package stat

import (
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func TestSoftmaxIsADistributionThatShiftsDoNotChange(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		z := rapid.SliceOfN(rapid.Float64Range(-700, 700), 1, 6).Draw(t, "z")
		shift := rapid.Float64Range(-500, 500).Draw(t, "shift")
		p, sum := Softmax(z), 0.0
		moved := slices.Clone(z)
		for i := range moved {
			moved[i] += shift
			sum += p[i]
		}
		if math.Abs(sum-1) > 1e-12 || ArgMax(p) != ArgMax(z) && p[ArgMax(z)] != slices.Max(p) {
			t.Fatalf("%v of %v", p, z)
		}
		for i, v := range Softmax(moved) {
			if math.Abs(v-p[i]) > 1e-9 {
				t.Fatalf("%v, shifted %v", p, Softmax(moved))
			}
		}
	})
	if p := Softmax([]float64{0, math.Log(3)}); math.Abs(p[0]-0.25) > 1e-15 || math.Abs(p[1]-0.75) > 1e-15 {
		t.Errorf("%v, want 1/4 and 3/4", p)
	}
	if Softmax(nil) != nil {
		t.Error("nothing has probabilities")
	}
}

func TestMedian(t *testing.T) {
	values := []float64{9, 1, 4}
	for _, c := range []struct {
		values []float64
		want   float64
	}{{values, 4}, {[]float64{8, 1, 4, 2}, 3}, {[]float64{5}, 5}} {
		if got := Median(c.values); got != c.want {
			t.Errorf("%v of %v, want %v", got, c.values, c.want)
		}
	}
	if !math.IsNaN(Median(nil)) || values[0] != 9 {
		t.Error("nothing has a median, or the values were moved")
	}
}

func TestArgMaxIsTheFirstOfEquals(t *testing.T) {
	if got := ArgMax([]float64{1, 3, 3, 2}); got != 1 {
		t.Errorf("%d, want 1", got)
	}
	if ArgMax([]float32{-2, -1}) != 1 || ArgMax([]float64(nil)) != -1 {
		t.Error("of negative values, or of nothing")
	}
}
