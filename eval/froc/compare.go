package froc

import (
	"errors"
	"fmt"
	"math"
	"reflect"

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
	Resolvable   float64 // the smallest difference that so many patients can resolve
	BootstrapP   float64 // two-sided, from the bootstrap distribution of the difference
	PermutationP float64 // two-sided, from exchanging the two systems within clusters
}

// Pair is system B compared with system A on the same clusters.
type Pair struct {
	A, B   string
	Mean   Difference   // mean sensitivity: the primary endpoint
	Points []Difference // sensitivity at each of Protocol.FPPI
	AP     Difference
	AFROC  Difference // figures of merit against lesion-free images; NaN when there are none
	AFROC1 Difference // and against all images
	// HolmBootstrapP and HolmPermutationP are the p-values of Mean, corrected for
	// the number of pairs by Holm's method. They bound the chance of any false
	// finding among the pairs.
	HolmBootstrapP, HolmPermutationP float64
	// Verdict says whether B is better than A: Mean differs by no less than is resolvable,
	// and HolmPermutationP is significant at the level of the intervals.
	Verdict resample.Verdict
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
	tables, err := replicates(o, results)
	if err != nil {
		return nil, err
	}
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
		left, err := jackknife(o, results)
		if err != nil {
			return nil, err
		}
		for _, t := range left {
			columns, _ := t.columns()
			jack = append(jack, columns)
		}
	}
	for a := range systems {
		for b := a + 1; b < len(systems); b++ {
			if a > 0 && !options.AllPairs {
				continue
			}
			pair, err := comparePair(systems, columns, jack, options, a, b)
			if err != nil {
				return nil, err
			}
			out.Pairs = append(out.Pairs, pair)
		}
	}
	correct(out.Pairs)
	for i := range out.Pairs {
		p := &out.Pairs[i]
		p.Verdict = o.Judge(p.Mean.Value, p.Mean.Resolvable, p.HolmPermutationP)
	}
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
	names := map[string]bool{}
	for _, s := range systems {
		if !s.Result.made() {
			return fmt.Errorf("compare: system %q: %w", s.Name, errNoResult)
		}
		if names[s.Name] {
			return fmt.Errorf("compare: two systems are called %q", s.Name)
		}
		names[s.Name] = true
		if err := sameQuestion(systems[0].Result, s.Result); err != nil {
			return fmt.Errorf("compare: systems %q and %q were evaluated %w", systems[0].Name, s.Name, err)
		}
	}
	return nil
}

// sameQuestion refuses results that cannot be compared case by case.
func sameQuestion(a, b *Result) error {
	if a.Truth != b.Truth {
		return errors.New("on different truths")
	}
	if !reflect.DeepEqual(a.Protocol.rules(), b.Protocol.rules()) {
		return errors.New("under different protocols")
	}
	return nil
}

func comparePair(systems []Named, columns, jack [][][]float64, o CompareOptions, a, b int) (Pair, error) {
	ra, rb := systems[a].Result, systems[b].Result
	estimateA, estimateB := ra.estimate(), rb.estimate()
	exceed, err := permute(ra, rb, o, resample.Minus(estimateB, estimateA))
	if err != nil {
		return Pair{}, err
	}
	k := len(ra.Protocol.FPPI)
	differences, clusters := make([]Difference, k+comparedBesides), ra.clusters.withLesion()
	for i := range differences {
		d := &differences[i]
		d.Value = estimateB[i] - estimateA[i]
		replicates := resample.Minus(columns[b][i], columns[a][i])
		var j []float64
		if jack != nil {
			j = resample.Minus(jack[b][i], jack[a][i])
		}
		d.CI, d.Resolvable = o.Difference(replicates, d.Value, j, clusters)
		d.BootstrapP, d.PermutationP = math.NaN(), math.NaN()
		if !math.IsNaN(d.Value) {
			d.BootstrapP = resample.BootstrapP(replicates)
			d.PermutationP = float64(1+exceed[i]) / float64(1+o.Permutations)
		}
	}
	return Pair{A: systems[a].Name, B: systems[b].Name, Points: differences[:k], Mean: differences[k], AP: differences[k+1],
		AFROC: differences[k+2], AFROC1: differences[k+3]}, nil
}
