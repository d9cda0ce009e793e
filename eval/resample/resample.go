// Package resample holds the statistics that evaluations share: cluster
// bootstrap weights, percentile and BCa intervals, p-values and their
// correction. Random numbers come from the seed and the replicate's number
// alone, so that threads never change a result.
package resample

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"gonum.org/v1/gonum/stat/distuv"

	"github.com/alignedfusion/alignedfusion/internal/stat"
)

// Method is a kind of bootstrap interval.
type Method string

// The methods.
const (
	Percentile Method = "percentile" // quantiles of the replicates
	BCa        Method = "bca"        // bias-corrected and accelerated (Efron 1987)
)

// Options sets how clusters are resampled.
type Options struct {
	Replicates   int     // of the bootstrap; 0: 1000
	Permutations int     // of the permutation test; 0: as many as Replicates
	Seed         uint64  // equal seeds give equal results
	Level        float64 // of the intervals; 0: 0.95
	Method       Method  // Percentile or BCa; empty: Percentile
	// Context ends resampling early, with its error; nil: never.
	Context context.Context `json:"-"`
	// Division shares the replicates and permutations among processes; nil: all are made here.
	Division *Division `json:"-"`
}

// Resolved returns the options with defaults filled in, or an error that names
// the option which makes no sense.
func (o Options) Resolved() (Options, error) {
	o.Replicates = cmp.Or(o.Replicates, 1000)
	o.Permutations = cmp.Or(o.Permutations, o.Replicates)
	o.Level = cmp.Or(o.Level, 0.95)
	o.Method = cmp.Or(o.Method, Percentile)
	switch {
	case o.Replicates < 2:
		return o, fmt.Errorf("bootstrap: %d replicates, want 2 or more", o.Replicates)
	case o.Permutations < 1:
		return o, fmt.Errorf("permutation test: %d permutations, want 1 or more", o.Permutations)
	case !(o.Level > 0 && o.Level < 1):
		return o, fmt.Errorf("bootstrap: level %v, want a number between 0 and 1", o.Level)
	case o.Method != Percentile && o.Method != BCa:
		return o, fmt.Errorf("bootstrap: method %q, want %s or %s", o.Method, Percentile, BCa)
	}
	return o, nil
}

// Interval is a confidence interval. Both ends are NaN where it is undefined.
type Interval struct{ Low, High float64 }

// Draw adds to weights how often each cluster is drawn in a replicate: as many
// draws with replacement as there are clusters.
func (o Options) Draw(replicate int, weights []int32) {
	rng := rand.New(rand.NewPCG(o.Seed, uint64(replicate)))
	for range weights {
		weights[rng.IntN(len(weights))]++
	}
}

// Exchange sets for each cluster whether the two systems are exchanged in a
// permutation. Its random numbers are independent of Draw's.
func (o Options) Exchange(permutation int, exchanged []bool) {
	rng := rand.New(rand.NewPCG(^o.Seed, uint64(permutation)))
	for i := range exchanged {
		exchanged[i] = rng.Uint32()&1 == 1
	}
}

// jackknifeGroups bounds the cost of the jackknife: beyond it, groups of
// clusters are left out together. The acceleration is a ratio of third to second
// moments of sums of influences and estimates the same number either way.
const jackknifeGroups = 1000

// JackknifeGroups returns how many weightings LeaveOut has for n clusters.
func JackknifeGroups(n int) int { return min(n, jackknifeGroups) }

// LeaveOut adds 1 to the weight of every cluster that is not in the group.
func LeaveOut(group int, weights []int32) {
	groups := JackknifeGroups(len(weights))
	for i := range weights {
		if i%groups != group {
			weights[i]++
		}
	}
}

// Parallel runs work on all processors. next hands out 0 to n-1, each once, and
// then false.
func Parallel(n int, work func(next func() (int, bool))) {
	_ = ParallelContext(context.Background(), n, work) // which never ends early
}

// ParallelContext is Parallel, but next hands out no more once ctx is done, whose error it
// then returns; nil is never done.
func ParallelContext(ctx context.Context, n int, work func(next func() (int, bool))) error {
	if ctx == nil {
		ctx = context.Background()
	}
	var counter atomic.Int64
	next := func() (int, bool) {
		i := int(counter.Add(1)) - 1
		return i, i < n && ctx.Err() == nil
	}
	var wg sync.WaitGroup
	for range min(n, runtime.GOMAXPROCS(0)) {
		wg.Go(func() { work(next) })
	}
	wg.Wait()
	return ctx.Err()
}

// Ranges runs work on all processors for every stretch of the numbers 0 to n-1, until ctx is
// done, whose error it then returns.
func Ranges(ctx context.Context, n int, work func(from, to int)) error {
	const size = 1 << 14
	return ParallelContext(ctx, (n+size-1)/size, func(next func() (int, bool)) {
		for k, ok := next(); ok; k, ok = next() {
			work(k*size, min((k+1)*size, n))
		}
	})
}

// Interval turns replicates into a confidence interval around the estimate;
// jackknife is used by BCa alone. NaN replicates are left out. The interval is
// NaN when the estimate is or fewer than two replicates remain.
func (o Options) Interval(replicates []float64, estimate float64, jackknife []float64) Interval {
	sorted := finite(replicates)
	if math.IsNaN(estimate) || len(sorted) < 2 {
		return Interval{math.NaN(), math.NaN()}
	}
	slices.Sort(sorted)
	low, high := (1-o.Level)/2, (1+o.Level)/2
	if o.Method == BCa {
		low, high = bcaLevels(sorted, estimate, finite(jackknife), low, high)
	}
	return Interval{Quantile(sorted, low), Quantile(sorted, high)}
}

// nearEdge is the number of clusters on the rarer side of a share (patients with a miss,
// or with a hit) below which replicates of it are too coarse: at 0 they are all equal.
const nearEdge = 5

// Share is the interval of a share of n independent clusters. Within five clusters of 0 or
// 1 a bootstrap hardly sees the rarer side, at 0 and 1 not at all: there the interval is
// widened to the exact one.
func (o Options) Share(replicates []float64, estimate float64, jackknife []float64, n int) Interval {
	i := o.Interval(replicates, estimate, jackknife)
	if x := float64(estimate * float64(n)); x < nearEdge || float64(n)-x < nearEdge {
		i = i.union(o.Exact(estimate, n))
	}
	return i
}

// Bounded is the interval of a figure between 0 and 1 that is no share, as an area is: it
// is widened where the estimate is exactly 0 or 1.
func (o Options) Bounded(replicates []float64, estimate float64, jackknife []float64, n int) Interval {
	i := o.Interval(replicates, estimate, jackknife)
	if estimate == 0 || estimate >= 1-1e-9 { // sums of parts are rounded
		i = i.union(o.Exact(estimate, n))
	}
	return i
}

// union contains both intervals; it is NaN where i is.
func (i Interval) union(other Interval) Interval {
	if math.IsNaN(i.Low) || math.IsNaN(other.Low) {
		return i
	}
	return Interval{min(i.Low, other.Low), max(i.High, other.High)}
}

// Exact is the interval of Clopper and Pearson (Biometrika 26, 1934) of a share of n; the
// share times n need not be whole. It is NaN for n of 0.
func (o Options) Exact(share float64, n int) Interval {
	if n <= 0 || !(share >= 0 && share <= 1+1e-9) {
		return Interval{math.NaN(), math.NaN()}
	}
	if share >= 1-1e-9 {
		share = 1
	}
	x, tail, i := float64(share*float64(n)), float64((1-o.Level)/2), Interval{0, 1}
	if rest := float64(n) - x; x > 0 {
		i.Low = distuv.Beta{Alpha: x, Beta: rest + 1}.Quantile(tail)
	}
	if rest := float64(n) - x; rest > 0 {
		i.High = distuv.Beta{Alpha: x + 1, Beta: rest}.Quantile(1 - tail)
	}
	return i
}

// Difference is the interval of a paired difference over n clusters, and the smallest
// difference that such a set can resolve: half the interval's width, and no less than what
// it takes for the fewest clusters that can be significant in a test of signs (6 of n at a
// level of 0.95). Where no replicate differs from the others the interval reaches as far as
// a share of clusters that none of n showed.
func (o Options) Difference(replicates []float64, estimate float64, jackknife []float64, n int) (i Interval, resolvable float64) {
	i = o.Interval(replicates, estimate, jackknife)
	if math.IsNaN(i.Low) || n == 0 {
		return i, math.NaN()
	}
	if i.Low == i.High {
		unseen := o.Exact(0, n).High
		i = i.union(Interval{max(-1, estimate-unseen), min(1, estimate+unseen)})
	}
	signs := math.Ceil(1 - math.Log2(1-o.Level) - 1e-9)
	return i, max((i.High-i.Low)/2, min(1, signs/float64(n)))
}

// Verdict says whether a system is better than another.
type Verdict string

// The verdicts.
const (
	Better     Verdict = "better"
	Worse      Verdict = "worse"
	Unresolved Verdict = "not resolved" // not significant, or less than the set can resolve
)

// Judge says whether a difference is both significant at the level and no smaller than what
// the set can resolve.
func (o Options) Judge(difference, resolvable, p float64) Verdict {
	switch {
	case !(p <= 1-o.Level+1e-12 && math.Abs(difference) >= resolvable):
		return Unresolved
	case difference > 0:
		return Better
	}
	return Worse
}

// FewClusters is the number of clusters up to which intervals are too narrow: at 40
// patients those of 95 % cover 91 to 92 %.
const FewClusters = 50

// Warning says that there are few clusters to resample, named by unit; "" where there are
// enough.
func Warning(clusters int, unit string) string {
	if clusters > FewClusters {
		return ""
	}
	return fmt.Sprintf("only %d %ss to resample: intervals and bootstrap p-values are too optimistic "+
		"(at 40 patients a 95 %% interval covers 91 to 92 %%); trust the permutation test", clusters, unit)
}

func finite(values []float64) []float64 {
	return slices.DeleteFunc(slices.Clone(values), math.IsNaN)
}

// Quantile interpolates linearly between order statistics (type 7 of Hyndman and
// Fan, the default of numpy and R). sorted must ascend. It is NaN of nothing and for
// a q outside 0 to 1.
func Quantile(sorted []float64, q float64) float64 { return stat.Quantile(sorted, q) }

// bcaLevels moves the quantile levels by bias correction and acceleration
// (Efron, Better bootstrap confidence intervals, JASA 82, 1987; Efron and
// Tibshirani, An introduction to the bootstrap, eq. 14.9 to 14.15). Replicates
// equal to the estimate count half, since rates of counts are discrete.
func bcaLevels(sorted []float64, estimate float64, jackknife []float64, low, high float64) (float64, float64) {
	below := 0.0
	for _, v := range sorted {
		if v < estimate {
			below++
		} else if v == estimate {
			below += 0.5
		}
	}
	share := below / float64(len(sorted))
	if share == 0 || share == 1 {
		return low, high // no bias correction exists: percentile
	}
	z0 := distuv.UnitNormal.Quantile(share)
	mean := 0.0
	for _, v := range jackknife {
		mean += v / float64(len(jackknife))
	}
	var second, third float64
	for _, v := range jackknife {
		d := mean - v
		second += float64(d * d)
		third += float64(d * d * d)
	}
	acceleration := 0.0
	if second > 0 {
		acceleration = third / (6 * math.Pow(second, 1.5))
	}
	move := func(level float64) float64 {
		z := z0 + distuv.UnitNormal.Quantile(level)
		return distuv.UnitNormal.CDF(z0 + z/(1-float64(acceleration*z)))
	}
	return move(low), move(high)
}

// BootstrapP is the two-sided p-value of replicates of a difference: twice the
// smaller tail at 0, which is the level at which the percentile interval just
// touches 0. NaN replicates are left out; it is never 0.
func BootstrapP(replicates []float64) float64 {
	var low, high, n int
	for _, v := range replicates {
		if math.IsNaN(v) {
			continue
		}
		n++
		if v <= 0 {
			low++
		}
		if v >= 0 {
			high++
		}
	}
	if n == 0 {
		return math.NaN()
	}
	return min(1, 2*float64(1+min(low, high))/float64(1+n))
}

// AsExtreme reports whether a permuted difference is at least as far from 0 as
// the observed one. Equal counts may differ in the last bits of their mean.
func AsExtreme(permuted, observed float64) bool {
	return math.Abs(permuted) >= math.Abs(observed)-1e-12
}

// Holm corrects p-values for their number: the i-th smallest of m is multiplied
// by m-i+1 and never falls below its predecessor (Holm, Scand. J. Statist. 6,
// 1979). It bounds the chance of any false finding. NaN stays NaN and counts.
func Holm(p []float64) []float64 {
	order := make([]int, len(p))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(i, j int) int {
		if math.IsNaN(p[i]) || math.IsNaN(p[j]) {
			return cmp.Compare(p[j], p[i]) // NaN last
		}
		return cmp.Compare(p[i], p[j])
	})
	out := make([]float64, len(p))
	floor := 0.0
	for k, i := range order {
		if math.IsNaN(p[i]) {
			out[i] = p[i]
			continue
		}
		floor = max(floor, min(1, p[i]*float64(len(p)-k)))
		out[i] = floor
	}
	return out
}

// Minus returns b - a element by element, as far as both go.
func Minus(b, a []float64) []float64 {
	out := make([]float64, min(len(a), len(b)))
	for i := range out {
		out[i] = b[i] - a[i]
	}
	return out
}
