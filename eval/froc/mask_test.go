package froc

import (
	"math/rand/v2"
	"reflect"
	"testing"
)

func TestAMaskOfRunsIsThatOfItsVoxels(t *testing.T) {
	rng := rand.New(rand.NewPCG(12, 13))
	for range 500 {
		nx, ny, nz := 1+rng.IntN(6), 1+rng.IntN(4), 1+rng.IntN(3)
		var indices []int
		var runs [][2]int
		for i := range nx * ny * nz {
			if rng.IntN(3) > 0 {
				continue
			}
			indices = append(indices, i)
			if n := len(runs); n > 0 && runs[n-1][1] == i && i%nx > 0 {
				runs[n-1][1]++
			} else {
				runs = append(runs, [2]int{i, i + 1})
			}
		}
		want, err := NewMask(nx, ny, nz, indices)
		if err != nil {
			t.Fatal(err)
		}
		got, err := NewMaskOfRuns(nx, ny, nz, runs)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("runs %v of %d x %d x %d: %+v (%v), want %+v", runs, nx, ny, nz, got, err, want)
		}
		// independent of how runs are summed up
		var centroid [3]float64
		for _, i := range indices {
			centroid[0] += float64(i % nx)
			centroid[1] += float64(i / nx % ny)
			centroid[2] += float64(i / nx / ny)
		}
		for a := range centroid {
			if n := float64(len(indices)); n > 0 && got.centroid[a] != centroid[a]/n {
				t.Fatalf("centroid %v, want the mean of %v", got.centroid, indices)
			}
		}
	}
}

func TestRunsThatAreNoneAreRefused(t *testing.T) {
	for name, runs := range map[string][][2]int{
		"over a row's end": {{2, 5}}, "empty": {{1, 1}}, "backwards": {{2, 1}}, "before the grid": {{-1, 1}}, "behind it": {{12, 13}},
		"out of order": {{5, 6}, {1, 2}}, "twice": {{0, 2}, {1, 3}}, "touching in a row": {{0, 1}, {1, 2}},
	} {
		if _, err := NewMaskOfRuns(4, 3, 1, runs); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := NewMaskOfRuns(4, 3, 1, [][2]int{{1, 4}, {4, 6}}); err != nil {
		t.Errorf("runs that touch over the end of a row: %v", err)
	}
}
