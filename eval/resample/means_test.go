package resample

import (
	"math"
	"slices"
	"testing"
)

// A replicate's mean is that of the values of the clusters drawn, each as often as it is drawn.
func TestMeansOfReplicatesAreThoseOfTheClustersDrawn(t *testing.T) {
	clusters, values := []string{"b", "a", "b", "c"}, []float64{1, 4, 3, 10}
	of := map[int][]float64{0: {1, 3}, 1: {4}, 2: {10}} // by place: b, a, c
	m := NewMeans(clusters, values)
	if m.Mean() != 4.5 {
		t.Errorf("mean %v, want 4.5", m.Mean())
	}
	o := Options{Replicates: 50, Seed: 7}
	for b, got := range m.Replicates(o) {
		drawn := make([]int32, 3)
		o.Draw(b, drawn)
		var all []float64
		for k, times := range drawn {
			all = append(all, slices.Repeat(of[k], int(times))...)
		}
		want := 0.0
		for _, v := range all {
			want += v / float64(len(all))
		}
		if math.Abs(got-want) > 1e-12 {
			t.Errorf("replicate %d of %v: %v, want %v", b, drawn, got, want)
		}
	}
	if got, want := m.Jackknife(), []float64{7, 14.0 / 3, 8.0 / 3}; !slices.EqualFunc(got, want, func(a, b float64) bool { return math.Abs(a-b) < 1e-12 }) {
		t.Errorf("without a cluster each: %v, want %v", got, want)
	}
	if !math.IsNaN(NewMeans(nil, nil).Mean()) {
		t.Error("the mean of nothing is a number")
	}
}
