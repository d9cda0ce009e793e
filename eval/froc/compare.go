package froc

import (
	"cmp"
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/alignedfusion/alignedfusion/eval/resample"
)

// Named is one system in a comparison.
type Named struct {
	Name   string
	Result *Result
}

// CompareOptions sets how systems are compared.
type CompareOptions struct {
	BootstrapOptions
	AllPairs bool // compare every pair instead of every system with the first
}

// Difference is one quantity of system B minus that of system A.
type Difference struct {
	Value        float64
	CI           Interval
	BootstrapP   float64 // two-sided, from the bootstrap distribution of the difference
	PermutationP float64 // two-sided, from exchanging the two systems within clusters
}

// Pair is system B compared with system A on the same clusters.
type Pair struct {
	A, B   string
	Mean   Difference   // mean sensitivity: the primary endpoint
	Points []Difference // sensitivity at each of Protocol.FPPI
	AP     Difference
	// HolmBootstrapP and HolmPermutationP are the p-values of Mean, corrected for
	// the number of pairs by Holm's method. They bound the chance of any false
	// finding among the pairs.
	HolmBootstrapP, HolmPermutationP float64
}

// Comparison is the outcome of Compare.
type Comparison struct {
	Options       CompareOptions // resolved
	Pairs         []Pair
	WithoutLesion int // bootstrap replicates left out because they contain no lesion
}

// Compare estimates the differences between two or more systems. All results
// must stem from one Truth and one protocol. In every replicate all systems see
// the same clusters, so that what makes a patient hard for both cancels.
//
// The permutation test exchanges the two systems' marks within clusters drawn by
// coin. Scores of two systems are not on one scale; before the exchange each
// step is therefore placed by the false positives its own system makes down to
// that score. P-values are (1 + count) / (1 + replicates), never 0.
func Compare(systems []Named, options CompareOptions) (*Comparison, error) {
	o, err := options.Resolved()
	if err != nil {
		return nil, err
	}
	options.BootstrapOptions = o
	if err := checkComparable(systems); err != nil {
		return nil, err
	}
	results := make([]*Result, len(systems))
	for i, s := range systems {
		results[i] = s.Result
	}
	tables := replicates(o, results)
	columns := make([][][]float64, len(systems))
	out := &Comparison{Options: options}
	for s, t := range tables {
		columns[s], out.WithoutLesion = t.columns()
	}
	if o.Replicates-out.WithoutLesion < 2 {
		return nil, ErrTooFewReplicates
	}
	var jack [][][]float64
	if o.Method == resample.BCa {
		for _, t := range jackknife(results) {
			columns, _ := t.columns()
			jack = append(jack, columns)
		}
	}
	for a := range systems {
		for b := a + 1; b < len(systems); b++ {
			if a > 0 && !options.AllPairs {
				continue
			}
			out.Pairs = append(out.Pairs, comparePair(systems, columns, jack, options, a, b))
		}
	}
	correct(out.Pairs)
	return out, nil
}

// correct fills in the corrected p-values.
func correct(pairs []Pair) {
	bootstrap, permutation := make([]float64, len(pairs)), make([]float64, len(pairs))
	for i, p := range pairs {
		bootstrap[i], permutation[i] = p.Mean.BootstrapP, p.Mean.PermutationP
	}
	bootstrap, permutation = resample.Holm(bootstrap), resample.Holm(permutation)
	for i := range pairs {
		pairs[i].HolmBootstrapP, pairs[i].HolmPermutationP = bootstrap[i], permutation[i]
	}
}

func checkComparable(systems []Named) error {
	if len(systems) < 2 {
		return fmt.Errorf("compare: %d systems, want 2 or more", len(systems))
	}
	first := systems[0].Result
	names := map[string]bool{}
	for _, s := range systems {
		if s.Result == nil {
			return fmt.Errorf("compare: system %q has no result", s.Name)
		}
		if names[s.Name] {
			return fmt.Errorf("compare: two systems are called %q", s.Name)
		}
		names[s.Name] = true
		if s.Result.Truth != first.Truth {
			return fmt.Errorf("compare: systems %q and %q were evaluated on different truths", systems[0].Name, s.Name)
		}
		a, b := first.Protocol, s.Result.Protocol
		if !slices.Equal(a.FPPI, b.FPPI) || a.Interpolation != b.Interpolation || a.Unit != b.Unit || a.Cluster != b.Cluster ||
			a.AP != b.AP || FormatHit(a.Hit) != FormatHit(b.Hit) || FormatHit(a.ignoreHit()) != FormatHit(b.ignoreHit()) ||
			a.PlusOne != b.PlusOne || a.Duplicates != b.Duplicates || a.Multiple != b.Multiple ||
			a.MaxPerImage != b.MaxPerImage || a.CapTies != b.CapTies {
			return fmt.Errorf("compare: systems %q and %q were evaluated under different protocols", systems[0].Name, s.Name)
		}
	}
	return nil
}

func comparePair(systems []Named, columns, jack [][][]float64, o CompareOptions, a, b int) Pair {
	ra, rb := systems[a].Result, systems[b].Result
	estimateA, estimateB := ra.estimate(), rb.estimate()
	exceed := permute(ra, rb, o, resample.Minus(estimateB, estimateA))
	differences := make([]Difference, len(estimateA))
	for i := range differences {
		d := &differences[i]
		d.Value = estimateB[i] - estimateA[i]
		replicates := resample.Minus(columns[b][i], columns[a][i])
		var j []float64
		if jack != nil {
			j = resample.Minus(jack[b][i], jack[a][i])
		}
		d.CI = o.Interval(replicates, d.Value, j)
		d.BootstrapP = resample.BootstrapP(replicates)
		d.PermutationP = float64(1+exceed[i]) / float64(1+o.Permutations)
	}
	k := len(ra.Protocol.FPPI)
	return Pair{A: systems[a].Name, B: systems[b].Name, Points: differences[:k], Mean: differences[k], AP: differences[k+1]}
}

// placedEvent is a step of one of two systems, placed by the false positives
// that its own system makes down to its score.
type placedEvent struct {
	place   int
	cluster int32
	found   bool
	second  bool // of the second system
	last    bool // of its place
}

// permute counts, for every statistic, the permutations whose difference is at
// least as far from 0 as the observed one.
func permute(a, b *Result, o CompareOptions, observed []float64) []int {
	events := slices.Concat(placeEvents(a, false), placeEvents(b, true))
	slices.SortFunc(events, func(x, y placedEvent) int { return cmp.Compare(x.place, y.place) })
	for i := range events {
		events[i].last = i+1 == len(events) || events[i+1].place != events[i].place
	}
	counts := make([]atomic.Int64, len(observed))
	resample.Parallel(o.Permutations, func(next func() (int, bool)) {
		exchanged := make([]bool, len(a.clusters.names))
		wa, wb := newWalker(&a.Protocol), newWalker(&b.Protocol)
		for k, ok := next(); ok; k, ok = next() {
			o.Exchange(k, exchanged)
			wa.start(a.Counts.Units, a.Counts.Lesions)
			wb.start(b.Counts.Units, b.Counts.Lesions)
			var found, fp [2]int
			for i := range events {
				e := &events[i]
				s := 0
				if e.second != exchanged[e.cluster] {
					s = 1
				}
				if e.found {
					found[s]++
				} else {
					fp[s]++
				}
				if e.last {
					wa.step(found[0], fp[0])
					wb.step(found[1], fp[1])
				}
			}
			for i, d := range resample.Minus(wb.finish(), wa.finish()) {
				if resample.AsExtreme(d, observed[i]) {
					counts[i].Add(1)
				}
			}
		}
	})
	out := make([]int, len(observed))
	for i := range counts {
		out[i] = int(counts[i].Load())
	}
	return out
}

// placeEvents puts the steps after the f-th false positive at place 2f, and a
// score that makes false positives, the f-th the last of them, at place 2f-1, so
// that each system alone keeps its curve.
func placeEvents(r *Result, second bool) []placedEvent {
	out := make([]placedEvent, 0, len(r.events))
	fp := 0
	for i := 0; i < len(r.events); {
		before, start := fp, i
		for more := true; more; i++ {
			if !r.events[i].found {
				fp++
			}
			more = !r.events[i].last
		}
		place := 2 * fp
		if fp > before {
			place--
		}
		for _, e := range r.events[start:i] {
			out = append(out, placedEvent{place: place, cluster: e.cluster, found: e.found, second: second})
		}
	}
	return out
}
