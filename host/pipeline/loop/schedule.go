package loop

import (
	"fmt"
	"math"
	"slices"
)

// Schedule says how a base value changes over a run. The zero value is constant 1.
type Schedule struct {
	// Name is constant, step or cosine; empty means constant.
	Name string
	// TotalSteps is the length of the run, which cosine needs.
	TotalSteps int
	// WarmupSteps rise linearly from WarmupFactor to 1: step 0 has WarmupFactor, step
	// WarmupSteps the schedule's own value.
	WarmupSteps  int
	WarmupFactor float64
	// Milestones are the steps at which step multiplies by Gamma.
	Milestones []int
	Gamma      float64
	// MinFactor is where cosine ends.
	MinFactor float64
}

// Validate reports what does not make sense.
func (s Schedule) Validate() error {
	switch s.Name {
	case "", "constant", "step", "cosine":
	default:
		return fmt.Errorf("schedule is %q, want constant, step or cosine", s.Name)
	}
	if s.WarmupSteps < 0 {
		return fmt.Errorf("warm-up is %d steps, want 0 or more", s.WarmupSteps)
	}
	if s.WarmupSteps > 0 && (s.WarmupFactor < 0 || s.WarmupFactor > 1) {
		return fmt.Errorf("warm-up factor is %g, want 0 to 1", s.WarmupFactor)
	}
	if s.Name == "cosine" {
		if s.TotalSteps <= s.WarmupSteps {
			return fmt.Errorf("cosine over %d steps with %d of warm-up: nothing is left to anneal over", s.TotalSteps, s.WarmupSteps)
		}
		if s.MinFactor < 0 || s.MinFactor > 1 {
			return fmt.Errorf("minimum factor is %g, want 0 to 1", s.MinFactor)
		}
	}
	if s.Name == "step" && !slices.IsSorted(s.Milestones) {
		return fmt.Errorf("milestones %v are not in rising order", s.Milestones)
	}
	return nil
}

// Factor returns what the base value is multiplied by at a step (counted from 0).
//
//	warm-up  w(t) = f + (1-f) t/W            for t < W, times the schedule's own value
//	step     Gamma^(number of milestones <= t)          (He et al. 2016, section 3.4)
//	cosine   m + (1-m)(1 + cos(pi (t-W)/(T-W)))/2       (Loshchilov and Hutter 2017, eq. 5)
//
// Cosine starts when the warm-up ends and stays at m after T.
func (s Schedule) Factor(step int) float64 {
	factor := 1.0
	switch s.Name {
	case "step":
		for _, m := range s.Milestones {
			if step >= m {
				factor *= s.Gamma
			}
		}
	case "cosine":
		progress := float64(max(0, step-s.WarmupSteps)) / float64(max(1, s.TotalSteps-s.WarmupSteps))
		factor = s.MinFactor + (1-s.MinFactor)*(1+math.Cos(math.Pi*min(1, progress)))/2
	}
	if step < s.WarmupSteps {
		factor *= s.WarmupFactor + (1-s.WarmupFactor)*float64(step)/float64(s.WarmupSteps)
	}
	return factor
}
