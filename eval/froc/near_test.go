package froc

import (
	"math"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// The index passes over no lesion that a mark hits: with it and without it every fate, lesion
// and figure is the same.
func TestIndexChangesNothing(t *testing.T) {
	defer func(n int) { fewLesions = n }(fewLesions)
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		for k, l := range slices.Clone(w.truth.Lesions) { // more of them, further apart
			low, high := l.Region.Bounds()
			d := float64(20 * (k + 1))
			l.Region = Box(low[0]+d, low[1], high[0]+d, high[1])
			w.truth.Lesions = append(w.truth.Lesions, l)
			w.predictions = append(w.predictions, Prediction{Image: l.Image, Region: l.Region, Score: float64(k % 3)})
		}
		w.protocol.Multiple = rapid.SampledFrom([]MultipleRule{All, One, Best}).Draw(t, "multiple")
		w.protocol.Hit = mustHit(rapid.SampledFrom([]string{
			FormatHit(w.protocol.Hit), "distance<max(0.4*radius,3)", "inplane<=0.5*diagonal | iou>0.9", "iou>=0.3 & distance<=1",
		}).Draw(t, "rule"))
		w.truth.Images[0].SpacingMM = [3]float64{0.5, 2, 1}
		evaluate := func(few int) ([]PredictionOutcome, outcome) {
			fewLesions = few
			r := w.evaluate(t)
			return r.PredictionOutcomes(), r.outcome()
		}
		marks, figures := evaluate(1)
		marksWithout, figuresWithout := evaluate(math.MaxInt)
		if d := cmp.Diff(marksWithout, marks) + cmp.Diff(figuresWithout, figures, equalOutcomes); d != "" {
			t.Fatalf("(-without index +with):\n%s", d)
		}
	})
}
