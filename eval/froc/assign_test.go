package froc

import (
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func TestAssignmentHasTheMostWeight(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rows, columns := rapid.IntRange(1, 5).Draw(t, "rows"), rapid.IntRange(1, 5).Draw(t, "columns")
		weight := make([][]float64, rows)
		for r := range weight {
			for range columns {
				weight[r] = append(weight[r], float64(rapid.IntRange(0, 4).Draw(t, "weight"))/4)
			}
		}
		sum, used := 0.0, map[int]bool{}
		for r, c := range assignMost(weight) {
			if c < 0 {
				continue
			}
			if used[c] {
				t.Fatalf("column %d is given twice", c)
			}
			used[c] = true
			sum += weight[r][c]
		}
		var most func(r int, used uint) float64
		most = func(r int, used uint) float64 {
			if r == rows {
				return 0
			}
			best := most(r+1, used)
			for c := range columns {
				if used>>c&1 == 0 {
					best = max(best, weight[r][c]+most(r+1, used|1<<c))
				}
			}
			return best
		}
		if want := most(0, 0); math.Abs(sum-want) > 1e-9 {
			t.Fatalf("weight %v, want %v", sum, want)
		}
	})
}

// picai_eval keeps the candidate that overlaps more, whatever its score; in the order of
// scores the higher one finds the lesion.
func TestAssignmentByOverlapDoesNotLookAtScores(t *testing.T) {
	truth := &Truth{Images: images(2), Lesions: []Lesion{{Region: lesionBox}}}
	predictions := []Prediction{mark(0, Box(0, 0, 10, 4), 0.95), mark(0, Box(0, 0, 10, 9), 0.1)}
	for assignment, want := range map[Assignment]float64{ByOverlap: 0.1, ByScore: 0.95} {
		p := PICAI()
		p.Assignment = assignment
		r := mustEvaluate(t, truth, predictions, p)
		if got := r.LesionOutcomes()[0].Score; got != want || r.Counts.Duplicates != 1 || r.Counts.FalsePositives != 0 {
			t.Errorf("%s: found at %v with %+v, want %v and one duplicate", assignment, got, r.Counts, want)
		}
	}
}

func TestOrderOfInputNeverMattersForAssignmentByOverlap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		w.protocol.Multiple, w.protocol.Assignment, w.protocol.Hit = One, ByOverlap, mustHit("iou>=0.1")
		before := w.evaluate(t)
		w.predictions = slices.Clone(w.predictions)
		slices.Reverse(w.predictions)
		if d := diffOutcomes(before, w.evaluate(t)); d != "" {
			t.Fatal(d)
		}
	})
}
