package workflow

import (
	"math"
	"testing"
)

// sweepOf are the points of a loss over the logarithm of the rate, until it diverges.
func sweepOf(loss func(log10 float64) float64) *Sweep {
	s := &Sweep{}
	for n := range sweepSteps {
		at := -7 + 8*float64(n)/(sweepSteps-1)
		if s.Diverged = s.diverges(loss(at)); s.Diverged {
			break
		}
		s.Points = append(s.Points, SweepPoint{LearningRate: math.Pow(10, at), Loss: loss(at)})
	}
	s.judge()
	return s
}

// The suggestion is a tenth of the rate at which the loss, smoothed, is lowest; noise of a
// single step does not move it, and what diverges ends the sweep.
func TestSuggestedRateIsATenthOfTheLowestLoss(t *testing.T) {
	valley := func(x float64) float64 { return 1 - 0.5*math.Exp(-(x+2)*(x+2)) + math.Exp(8*(x+0.5)) }
	for name, loss := range map[string]func(float64) float64{
		"smooth": valley,
		"one step far below": func(x float64) float64 {
			if math.Abs(x+5) < 0.04 {
				return 0
			}
			return valley(x)
		},
	} {
		s := sweepOf(loss)
		if d := math.Abs(math.Log10(s.Suggested) + 3); d > 0.25 || !s.Diverged || s.LowestRate != 10*s.Suggested {
			t.Errorf("%s: suggested %g, diverged %v, want about 0.001 and a sweep that ends", name, s.Suggested, s.Diverged)
		}
		if last := s.Points[len(s.Points)-1]; last.LearningRate > 1 || last.Loss > 8 {
			t.Errorf("%s: the sweep went on to a loss of %g at %g", name, last.Loss, last.LearningRate)
		}
	}
	if s := sweepOf(func(float64) float64 { return 0.7 }); s.Suggested != 0 || s.Diverged || len(s.Points) != sweepSteps {
		t.Errorf("a loss that stays: %g suggested after %d points", s.Suggested, len(s.Points))
	}
}
