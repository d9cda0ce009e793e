package loop

import (
	"encoding/json"
	"math"
	"os"
	"testing"

	"pgregory.net/rapid"
)

// The reference values are those of PyTorch's schedulers (testdata/make_reference.py).
func TestFactorsEqualPyTorch(t *testing.T) {
	data, err := os.ReadFile("testdata/reference.json")
	if err != nil {
		t.Fatal(err)
	}
	var all map[string]json.RawMessage
	if err := json.Unmarshal(data, &all); err != nil {
		t.Fatal(err)
	}
	for name, s := range map[string]Schedule{
		"cosine_100_min_0.05":            {Name: "cosine", TotalSteps: 100, MinFactor: 0.05},
		"step_30_60_gamma_0.1":           {Name: "step", Milestones: []int{30, 60}, Gamma: 0.1},
		"warmup_20_from_0.01":            {WarmupSteps: 20, WarmupFactor: 0.01},
		"warmup_20_from_0.01_step_30_60": {Name: "step", Milestones: []int{30, 60}, Gamma: 0.1, WarmupSteps: 20, WarmupFactor: 0.01},
	} {
		if err := s.Validate(); err != nil {
			t.Fatal(err)
		}
		var want []float64
		if err := json.Unmarshal(all[name], &want); err != nil || len(want) == 0 {
			t.Fatalf("%s: %v, %d values", name, err, len(want))
		}
		for step, w := range want {
			if got := s.Factor(step); math.Abs(got-w) > 1e-9 {
				t.Errorf("%s: factor at step %d is %.12f, want %.12f", name, step, got, w)
			}
		}
	}
}

func TestCosineAfterWarmupStartsAtOneAndEndsAtTheMinimum(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		warmup := rapid.IntRange(0, 50).Draw(t, "warmup")
		s := Schedule{
			Name: "cosine", WarmupSteps: warmup, WarmupFactor: rapid.Float64Range(0, 1).Draw(t, "from"),
			TotalSteps: warmup + rapid.IntRange(1, 500).Draw(t, "rest"), MinFactor: rapid.Float64Range(0, 1).Draw(t, "min"),
		}
		if err := s.Validate(); err != nil {
			t.Fatal(err)
		}
		if got := s.Factor(warmup); math.Abs(got-1) > 1e-12 {
			t.Fatalf("factor after the warm-up is %g", got)
		}
		for _, past := range []int{0, 1, 1000} {
			if got := s.Factor(s.TotalSteps + past); math.Abs(got-s.MinFactor) > 1e-12 {
				t.Fatalf("factor at the end is %g, want %g", got, s.MinFactor)
			}
		}
		last := s.Factor(warmup)
		for step := warmup + 1; step <= s.TotalSteps; step++ {
			if f := s.Factor(step); f > last+1e-12 {
				t.Fatalf("factor rises from %g to %g at step %d", last, f, step)
			} else {
				last = f
			}
		}
	})
}

func TestValidateRefusesWhatMakesNoSense(t *testing.T) {
	for name, s := range map[string]Schedule{
		"name":              {Name: "polynomial"},
		"negative warm-up":  {WarmupSteps: -1},
		"warm-up factor":    {WarmupSteps: 3, WarmupFactor: 2},
		"all warm-up":       {Name: "cosine", TotalSteps: 5, WarmupSteps: 5},
		"minimum":           {Name: "cosine", TotalSteps: 5, MinFactor: -0.1},
		"falling milestone": {Name: "step", Milestones: []int{5, 3}},
	} {
		if s.Validate() == nil {
			t.Errorf("%s: %+v was accepted", name, s)
		}
	}
}
