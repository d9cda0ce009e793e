package resample

import (
	"context"
	"encoding/json"
	"math"
	"os"
	"runtime"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"
)

func TestIntervalsEqualScipy(t *testing.T) {
	raw, err := os.ReadFile("testdata/intervals.json")
	if err != nil {
		t.Fatal(err)
	}
	var cases []struct {
		Name                  string
		Level, Estimate       float64
		Replicates, Jackknife []float64
		Percentile, BCa       [2]float64
	}
	if err := json.Unmarshal(raw, &cases); err != nil {
		t.Fatal(err)
	}
	if len(cases) != 6 {
		t.Fatalf("%d cases, want 6", len(cases))
	}
	for _, c := range cases {
		for method, want := range map[Method][2]float64{Percentile: c.Percentile, BCa: c.BCa} {
			got := Options{Level: c.Level, Method: method}.Interval(c.Replicates, c.Estimate, c.Jackknife)
			if math.Abs(got.Low-want[0]) > 1e-9 || math.Abs(got.High-want[1]) > 1e-9 {
				t.Errorf("%s, %s at %v: %v, want %v", c.Name, method, c.Level, got, want)
			}
		}
	}
}

func TestIntervalIsUndefinedWithoutEstimateOrReplicates(t *testing.T) {
	nan := math.NaN()
	o, err := Options{}.Resolved()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		replicates []float64
		estimate   float64
	}{{nil, 1}, {[]float64{1}, 1}, {[]float64{1, 2}, nan}, {[]float64{1, nan}, 1}} {
		if got := o.Interval(c.replicates, c.estimate, nil); !math.IsNaN(got.Low) || !math.IsNaN(got.High) {
			t.Errorf("%v around %v: %v, want NaN", c.replicates, c.estimate, got)
		}
	}
	if got := o.Interval([]float64{nan, 2, 2}, 2, nil); got != (Interval{Low: 2, High: 2}) {
		t.Errorf("NaN replicates are not left out: %v", got)
	}
}

func TestHolmByHand(t *testing.T) {
	got := Holm([]float64{0.04, 0.01, math.NaN(), 0.03, 0.5})
	want := []float64{0.12, 0.05, math.NaN(), 0.12, 1} // 5·.01; 4·.03; 3·.04; 2·.5
	if d := cmp.Diff(want, got, cmpopts.EquateNaNs(), cmpopts.EquateApprox(0, 1e-12)); d != "" {
		t.Error(d)
	}
}

func TestHolmNeverLowersAndKeepsTheOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := rapid.SliceOfN(rapid.Float64Range(0, 1), 1, 8).Draw(t, "p")
		got := Holm(p)
		for i := range p {
			if got[i] < p[i] || got[i] > 1 {
				t.Fatalf("%v became %v", p[i], got[i])
			}
			for j := range p {
				if p[i] < p[j] && got[i] > got[j] {
					t.Fatalf("%v became %v", p, got)
				}
			}
		}
	})
}

func TestBootstrapPByHand(t *testing.T) {
	for _, c := range []struct {
		replicates []float64
		want       float64
	}{
		{[]float64{1, 2, 3, 4}, 2.0 / 5},          // none at or below 0
		{[]float64{-1, 2, 3, 4}, 4.0 / 5},         // one
		{[]float64{0, 0, 0, 0}, 1},                // all on both sides
		{[]float64{-1, -2, -3, math.NaN()}, 0.5},  // NaN left out
		{[]float64{math.NaN()}, math.NaN()},       // nothing left
		{slices.Repeat([]float64{1}, 999), 0.002}, // never 0
	} {
		if got := BootstrapP(c.replicates); got != c.want && !(math.IsNaN(got) && math.IsNaN(c.want)) {
			t.Errorf("%v: %v, want %v", c.replicates, got, c.want)
		}
	}
}

func TestOptionsDefaultsAndErrors(t *testing.T) {
	got, err := Options{Seed: 3, Replicates: 50}.Resolved()
	if want := (Options{Replicates: 50, Permutations: 50, Seed: 3, Level: 0.95, Method: Percentile}); err != nil || got != want {
		t.Errorf("%+v, %v, want %+v", got, err, want)
	}
	for _, o := range []Options{{Replicates: 1}, {Permutations: -1}, {Level: 1}, {Level: math.NaN()}, {Method: "x"}} {
		if _, err := o.Resolved(); err == nil {
			t.Errorf("no error for %+v", o)
		}
	}
}

func TestDrawsAreDeterministicAndSumUp(t *testing.T) {
	a, b, c := make([]int32, 50), make([]int32, 50), make([]int32, 50)
	Options{Seed: 1}.Draw(7, a)
	Options{Seed: 1}.Draw(7, b)
	Options{Seed: 2}.Draw(7, c)
	if !slices.Equal(a, b) || slices.Equal(a, c) {
		t.Error("draws do not follow the seed")
	}
	sum := int32(0)
	for _, w := range a {
		sum += w
	}
	if sum != 50 {
		t.Errorf("%d clusters drawn, want 50", sum)
	}
}

func TestExchangeTossesAFairCoin(t *testing.T) {
	exchanged := make([]bool, 100)
	heads := 0
	for k := range 200 {
		Options{Seed: 9}.Exchange(k, exchanged)
		for _, e := range exchanged {
			if e {
				heads++
			}
		}
	}
	// 20,000 tosses: the standard deviation is 71
	if heads < 9600 || heads > 10400 {
		t.Errorf("%d of 20000 exchanged", heads)
	}
}

func TestJackknifeLeavesEveryClusterOutOnce(t *testing.T) {
	for _, n := range []int{1, 7, 1000, 2503} {
		left := make([]int, n)
		for g := range JackknifeGroups(n) {
			weights := make([]int32, n)
			LeaveOut(g, weights)
			for i, w := range weights {
				left[i] += 1 - int(w)
			}
		}
		if slices.Min(left) != 1 || slices.Max(left) != 1 {
			t.Errorf("%d clusters: left out %d to %d times", n, slices.Min(left), slices.Max(left))
		}
	}
}

func TestParallelHandsOutEveryNumberOnce(t *testing.T) {
	const n = 1000
	done := make([]int32, n)
	Parallel(n, func(next func() (int, bool)) {
		for i, ok := next(); ok; i, ok = next() {
			done[i]++
		}
	})
	if slices.Min(done) != 1 || slices.Max(done) != 1 {
		t.Errorf("numbers handed out %d to %d times", slices.Min(done), slices.Max(done))
	}
}

func TestNothingIsNotANumber(t *testing.T) {
	for name, got := range map[string]float64{
		"quantile of nothing":    Quantile(nil, 0.5),
		"quantile below 0":       Quantile([]float64{1, 2}, -0.1),
		"quantile above 1":       Quantile([]float64{1, 2}, 1.1),
		"quantile at NaN":        Quantile([]float64{1, 2}, math.NaN()),
		"p-value of nothing":     BootstrapP(nil),
		"interval of nothing":    Options{}.Interval(nil, 1, nil).Low,
		"BCa without replicates": Options{Method: BCa}.Interval(nil, 1, nil).High,
	} {
		if !math.IsNaN(got) {
			t.Errorf("%s is %v", name, got)
		}
	}
	if got := Minus([]float64{3, 4}, []float64{1}); len(got) != 1 || got[0] != 2 {
		t.Errorf("of different lengths: %v", got)
	}
	if len(Holm(nil)) != 0 || len(Minus(nil, nil)) != 0 || JackknifeGroups(0) != 0 {
		t.Error("nothing gives something")
	}
	Options{}.Draw(0, nil)
	Options{}.Exchange(0, nil)
	LeaveOut(0, nil)
	Parallel(0, nil)
}

func TestADoneContextHandsOutNothing(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	handed := 0
	work := func(next func() (int, bool)) {
		for _, ok := next(); ok; _, ok = next() {
			handed++
			cancel()
		}
	}
	if err := ParallelContext(ctx, 1_000_000, work); err != context.Canceled || handed == 0 || handed > runtime.GOMAXPROCS(0) {
		t.Errorf("%d handed out, error %v", handed, err)
	}
	if err := ParallelContext(ctx, 5, func(func() (int, bool)) {}); err != context.Canceled {
		t.Errorf("error %v, want %v", err, context.Canceled)
	}
}
