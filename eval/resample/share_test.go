package resample

import (
	"math"
	"testing"

	"gonum.org/v1/gonum/stat/distuv"
)

// scipy.stats.binomtest(k, n).proportion_ci(level, "exact")
func TestExactIntervalIsClopperAndPearsons(t *testing.T) {
	for _, c := range []struct {
		k, n      int
		level     float64
		low, high float64
	}{
		{60, 60, 0.95, 0.940371, 1},
		{0, 60, 0.95, 0, 0.059629},
		{3, 10, 0.95, 0.066739, 0.652453},
		{3, 10, 0.9, 0.087264, 0.606624},
	} {
		i := Options{Level: c.level}.Exact(float64(c.k)/float64(c.n), c.n)
		if math.Abs(i.Low-c.low) > 1e-6 || math.Abs(i.High-c.high) > 1e-6 {
			t.Errorf("%d of %d at %v: %v, want %v to %v", c.k, c.n, c.level, i, c.low, c.high)
		}
	}
	if i := (Options{Level: 0.95}).Exact(0.5, 0); !math.IsNaN(i.Low) {
		t.Errorf("of nothing: %v, want NaN", i)
	}
}

// A better system never gets a lower bound below a worse one's.
func TestLowerBoundNeverFallsAsSharesRise(t *testing.T) {
	o := Options{Level: 0.95, Method: Percentile}
	const n = 60
	before := -1.0
	for k := range n + 1 {
		share := float64(k) / n
		var replicates []float64 // the quantiles of a binomial bootstrap
		b := distuv.Binomial{N: n, P: share}
		for v := range n + 1 {
			for range int(math.Round(2000 * b.Prob(float64(v)))) {
				replicates = append(replicates, float64(v)/n)
			}
		}
		i := o.Share(replicates, share, nil, n)
		if i.Low < before-1e-12 {
			t.Errorf("%d of %d: lower bound %v, that of one less is %v", k, n, i.Low, before)
		}
		if k == 0 || k == n {
			if i.Low == i.High {
				t.Errorf("%d of %d: a point, %v", k, n, i.Low)
			}
		}
		before = i.Low
	}
}

func TestDifferenceBelowSixPatientsIsNotResolved(t *testing.T) {
	o := Options{Level: 0.95, Method: Percentile}
	same := make([]float64, 100)
	i, least := o.Difference(same, 0, nil, 60)
	if math.Abs(i.High-0.059629) > 1e-6 || i.Low != -i.High {
		t.Errorf("no replicate differs: interval %v, want as far as a share that 60 did not show", i)
	}
	if least != 0.1 {
		t.Errorf("60 patients resolve %v, want 6 of 60", least)
	}
	for _, c := range []struct {
		difference, p float64
		want          Verdict
	}{{0.2, 0.01, Better}, {-0.2, 0.05, Worse}, {0.2, 0.06, Unresolved}, {0.09, 0.001, Unresolved}, {0.2, math.NaN(), Unresolved}} {
		if got := o.Judge(c.difference, least, c.p); got != c.want {
			t.Errorf("difference %v, p %v: %s, want %s", c.difference, c.p, got, c.want)
		}
	}
}

func TestFewPatientsAreWarnedOf(t *testing.T) {
	if Warning(50, "patient") == "" || Warning(51, "patient") != "" {
		t.Error("want a warning up to 50 patients")
	}
}
