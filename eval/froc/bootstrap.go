package froc

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"gonum.org/v1/gonum/stat/distuv"
)

// Methods of a bootstrap interval.
const (
	Percentile = "percentile" // quantiles of the replicates
	BCa        = "bca"        // bias-corrected and accelerated (Efron 1987)
)

// BootstrapOptions sets how clusters are resampled.
type BootstrapOptions struct {
	Replicates int     // 0: 1000
	Seed       uint64  // equal seeds give equal results
	Level      float64 // of the intervals; 0: 0.95
	Method     string  // Percentile or BCa; empty: Percentile
}

func (o BootstrapOptions) resolved() (BootstrapOptions, error) {
	if o.Replicates == 0 {
		o.Replicates = 1000
	}
	if o.Level == 0 {
		o.Level = 0.95
	}
	if o.Method == "" {
		o.Method = Percentile
	}
	switch {
	case o.Replicates < 2:
		return o, fmt.Errorf("bootstrap: %d replicates, want 2 or more", o.Replicates)
	case !(o.Level > 0 && o.Level < 1):
		return o, fmt.Errorf("bootstrap: level %v, want a number between 0 and 1", o.Level)
	case o.Method != Percentile && o.Method != BCa:
		return o, fmt.Errorf("bootstrap: method %q, want %s or %s", o.Method, Percentile, BCa)
	}
	return o, nil
}

// Interval is a confidence interval. Both ends are NaN where it is undefined.
type Interval struct{ Low, High float64 }

// Bootstrap holds the confidence intervals of one result.
type Bootstrap struct {
	Options BootstrapOptions // resolved
	Points  []Interval       // sensitivity at each of Protocol.FPPI
	Mean    Interval         // mean sensitivity
	AP      Interval
	// WithoutLesion counts the replicates in which no lesion was drawn. They
	// have no sensitivity and are left out of the intervals.
	WithoutLesion int
}

// ErrTooFewReplicates is returned when fewer than two replicates contain a lesion.
var ErrTooFewReplicates = errors.New("bootstrap: fewer than two replicates contain a lesion")

// Bootstrap resamples clusters (patients, unless the protocol says otherwise)
// with replacement and returns confidence intervals. It works on the steps of
// the curve; nothing is matched again.
//
// Cost: O(replicates · steps), spread over all processors.
func (r *Result) Bootstrap(options BootstrapOptions) (*Bootstrap, error) {
	o, err := options.resolved()
	if err != nil {
		return nil, err
	}
	k := len(r.Protocol.FPPI)
	out := &Bootstrap{Options: o}
	columns, dropped := resample(o, []*Result{r})[0].columns()
	out.WithoutLesion = dropped
	if o.Replicates-dropped < 2 {
		return nil, ErrTooFewReplicates
	}
	var jack [][]float64
	if o.Method == BCa {
		jack = jackknife([]*Result{r})[0].mustColumns()
	}
	estimate := r.estimate()
	intervals := make([]Interval, len(columns))
	for i, c := range columns {
		var j []float64
		if jack != nil {
			j = jack[i]
		}
		intervals[i] = interval(o, c, estimate[i], j)
	}
	out.Points, out.Mean, out.AP = intervals[:k], intervals[k], intervals[k+1]
	return out, nil
}

// table holds the statistics of every replicate: len(FPPI) sensitivities, their
// mean, AP. A replicate without a lesion is nil.
type table [][]float64

// columns returns one slice per statistic, in the order of the replicates, and
// the number of replicates left out.
func (t table) columns() (columns [][]float64, dropped int) {
	for _, row := range t {
		if row == nil {
			dropped++
			continue
		}
		if columns == nil {
			columns = make([][]float64, len(row))
		}
		for i, v := range row {
			columns[i] = append(columns[i], v)
		}
	}
	return columns, dropped
}

func (t table) mustColumns() [][]float64 {
	columns, _ := t.columns()
	return columns
}

// generator returns the random numbers of one replicate. Each has its own
// stream, so that threads cannot change the result.
func generator(seed uint64, replicate int) *rand.Rand {
	return rand.New(rand.NewPCG(seed, uint64(replicate)))
}

// resample draws o.Replicates times as many clusters as there are, with
// replacement, and computes the statistics of every system on each draw.
func resample(o BootstrapOptions, systems []*Result) []table {
	return reweigh(o.Replicates, systems, func(b int, weights []int32) {
		rng := generator(o.Seed, b)
		for range weights {
			weights[rng.IntN(len(weights))]++
		}
	})
}

// jackknifeGroups bounds the cost of the jackknife: beyond it, groups of
// clusters are left out together. The acceleration is a ratio of third to second
// moments of sums of influences and estimates the same number either way.
const jackknifeGroups = 1000

// jackknife leaves out every cluster (or group of clusters) once.
func jackknife(systems []*Result) []table {
	groups := min(len(systems[0].clusters.names), jackknifeGroups)
	return reweigh(groups, systems, func(g int, weights []int32) {
		for i := range weights {
			if i%groups != g {
				weights[i] = 1
			}
		}
	})
}

// reweigh computes the statistics of systems that share their clusters under n
// weightings. draw gets zeroed weights.
func reweigh(n int, systems []*Result, draw func(i int, weights []int32)) []table {
	c := &systems[0].clusters
	out := make([]table, len(systems))
	for s := range systems {
		out[s] = make(table, n)
	}
	parallel(n, func(next func() (int, bool)) {
		weights := make([]int32, len(c.names))
		walkers := make([]*walker, len(systems))
		for s, r := range systems {
			walkers[s] = newWalker(&r.Protocol)
		}
		for i, ok := next(); ok; i, ok = next() {
			clear(weights)
			draw(i, weights)
			units, lesions := 0, 0
			for k, w := range weights {
				units += int(w * c.units[k])
				lesions += int(w * c.lesions[k])
			}
			if lesions == 0 || units == 0 {
				continue
			}
			for s, r := range systems {
				out[s][i] = r.statistics(walkers[s], weights, units, lesions)
			}
		}
	})
	return out
}

// parallel runs work on all processors; next hands out 0 to n-1, each once.
func parallel(n int, work func(next func() (int, bool))) {
	var counter atomic.Int64
	next := func() (int, bool) {
		i := int(counter.Add(1)) - 1
		return i, i < n
	}
	var wg sync.WaitGroup
	for range min(n, runtime.GOMAXPROCS(0)) {
		wg.Go(func() { work(next) })
	}
	wg.Wait()
}

// interval turns replicates into a confidence interval around the estimate.
func interval(o BootstrapOptions, replicates []float64, estimate float64, jack []float64) Interval {
	sorted := slices.Clone(replicates)
	slices.Sort(sorted)
	if math.IsNaN(estimate) || math.IsNaN(sorted[0]) {
		return Interval{math.NaN(), math.NaN()}
	}
	low, high := (1-o.Level)/2, (1+o.Level)/2
	if o.Method == BCa {
		low, high = bcaLevels(sorted, estimate, jack, low, high)
	}
	return Interval{quantile(sorted, low), quantile(sorted, high)}
}

// quantile interpolates linearly between order statistics (type 7 of Hyndman and
// Fan, the default of numpy and R).
func quantile(sorted []float64, q float64) float64 {
	at := q * float64(len(sorted)-1)
	i := int(at)
	if i >= len(sorted)-1 {
		return sorted[len(sorted)-1]
	}
	return sorted[i] + (at-float64(i))*(sorted[i+1]-sorted[i])
}

// bcaLevels moves the quantile levels by bias correction and acceleration
// (Efron, Better bootstrap confidence intervals, JASA 82, 1987, eq. 2.3 and
// 6.6). Replicates equal to the estimate count half, since sensitivities are
// discrete.
func bcaLevels(sorted []float64, estimate float64, jack []float64, low, high float64) (float64, float64) {
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
	for _, v := range jack {
		mean += v / float64(len(jack))
	}
	var second, third float64
	for _, v := range jack {
		d := mean - v
		second += d * d
		third += d * d * d
	}
	acceleration := 0.0
	if second > 0 {
		acceleration = third / (6 * math.Pow(second, 1.5))
	}
	move := func(level float64) float64 {
		z := z0 + distuv.UnitNormal.Quantile(level)
		return distuv.UnitNormal.CDF(z0 + z/(1-acceleration*z))
	}
	return move(low), move(high)
}
