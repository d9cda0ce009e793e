package classify

import (
	"fmt"
	"math"
	"slices"
	"sync/atomic"

	"gonum.org/v1/gonum/stat/distuv"

	"github.com/alignedfusion/alignedfusion/eval/resample"
)

// Intervals holds the confidence intervals of the metrics of one result.
type Intervals struct {
	Options          resample.Options // resolved
	Accuracy         resample.Interval
	BalancedAccuracy resample.Interval
	MacroAUROC       resample.Interval
	ECE              resample.Interval
	Recall           []resample.Interval // per class
	AUROC            []resample.Interval // per class
}

// vector lists the figures in a fixed order, so that they can be resampled alike.
func (m Metrics) vector() []float64 {
	return slices.Concat([]float64{m.Accuracy, m.BalancedAccuracy, m.MacroAUROC, m.ECE}, m.Recall, m.AUROC)
}

// Bootstrap resamples patients [N] with replacement and returns confidence
// intervals. nil patients, or an empty name, make each case its own patient.
func (r *Result) Bootstrap(patients []string, options resample.Options) (*Intervals, error) {
	o, clusters, n, err := r.resampling(patients, options)
	if err != nil {
		return nil, err
	}
	systems := []*Result{r}
	replicates := reweigh(o.Replicates, systems, clusters, n, o.Draw)[0]
	jack := jackknife(o, systems, clusters, n)
	all := make([]resample.Interval, len(replicates))
	patientsOf := r.patients(clusters, n)
	for i, estimate := range r.Metrics.vector() {
		bound, of := o.Bounded, n
		switch class := (i - 4) % len(r.Classes); {
		case i == 0:
			bound = o.Share
		case i == 1 || i == 2:
			of = slices.Min(patientsOf)
		case i == 3: // an error of calibration may well be 0
			all[i] = o.Interval(replicates[i], estimate, jack[0][i])
			continue
		case i < 4+len(r.Classes):
			bound, of = o.Share, patientsOf[class]
		default:
			of = min(patientsOf[class], n-patientsOf[class])
		}
		all[i] = bound(replicates[i], estimate, jack[0][i], of)
	}
	k := 4 + len(r.Classes)
	return &Intervals{
		Options: o, Accuracy: all[0], BalancedAccuracy: all[1], MacroAUROC: all[2], ECE: all[3],
		Recall: all[4:k], AUROC: all[k:],
	}, nil
}

// BalancedReplicates returns the balanced accuracy in every replicate of Bootstrap, for
// intervals of what is computed from several results; NaN where a replicate has no cases.
// Results of the same patients and seed have the same patients in the same replicate.
func (r *Result) BalancedReplicates(patients []string, options resample.Options) ([]float64, error) {
	o, clusters, n, err := r.resampling(patients, options)
	if err != nil {
		return nil, err
	}
	return reweigh(o.Replicates, []*Result{r}, clusters, n, o.Draw)[0][1], nil // in the order of Metrics.vector
}

// resampling resolves options and numbers the patients [N] of a result, 0 to n-1.
func (r *Result) resampling(patients []string, options resample.Options) (o resample.Options, clusters []int32, n int, err error) {
	if o, err = options.Resolved(); err != nil {
		return o, nil, 0, err
	}
	if !r.made() {
		return o, nil, 0, errNoResult
	}
	clusters, n, err = clusterOf(patients, r.Cases)
	return o, clusters, n, err
}

// patients counts, per class, the patients with a case of it; n patients where a class has
// none, since no figure of it is then defined.
func (r *Result) patients(clusters []int32, n int) []int {
	seen := make([]map[int32]bool, len(r.Classes))
	for i, label := range r.Labels {
		if seen[label] == nil {
			seen[label] = map[int32]bool{}
		}
		seen[label][clusters[i]] = true
	}
	out := make([]int, len(r.Classes))
	for c := range out {
		if out[c] = len(seen[c]); out[c] == 0 {
			out[c] = n
		}
	}
	return out
}

// Patients returns the number of different patients of that many cases; patients are as
// for Bootstrap.
func Patients(patients []string, cases int) int {
	_, n, err := clusterOf(patients, cases)
	if err != nil {
		return 0
	}
	return n
}

// clusterOf numbers the patients in the order of their names.
func clusterOf(patients []string, cases int) (clusters []int32, n int, err error) {
	clusters = make([]int32, cases)
	if patients != nil && len(patients) != cases {
		return nil, 0, fmt.Errorf("%d patients for %d cases", len(patients), cases)
	}
	names := make([]string, cases)
	for i := range names {
		if patients == nil || patients[i] == "" {
			names[i] = fmt.Sprintf("\x00case %d", i) // sorts before, and differs from, every name
		} else {
			names[i] = patients[i]
		}
	}
	sorted := slices.Clone(names)
	slices.Sort(sorted)
	sorted = slices.Compact(sorted)
	for i, name := range names {
		k, _ := slices.BinarySearch(sorted, name)
		clusters[i] = int32(k)
	}
	return clusters, len(sorted), nil
}

// reweigh returns, per system and figure, its values under count weightings of
// the n clusters. A weighting without cases gives NaN.
func reweigh(count int, systems []*Result, clusters []int32, n int, draw func(int, []int32)) [][][]float64 {
	out := make([][][]float64, len(systems))
	for s, r := range systems {
		out[s] = make([][]float64, len(r.Metrics.vector()))
		for i := range out[s] {
			out[s][i] = make([]float64, count)
		}
	}
	resample.Parallel(count, func(next func() (int, bool)) {
		weights, cases := make([]int32, n), make([]int32, len(clusters))
		for b, ok := next(); ok; b, ok = next() {
			clear(weights)
			draw(b, weights)
			for i, c := range clusters {
				cases[i] = weights[c]
			}
			for s, r := range systems {
				for i, v := range r.metrics(cases).vector() {
					out[s][i][b] = v
				}
			}
		}
	})
	return out
}

// jackknife returns empty values unless the method needs them.
func jackknife(o resample.Options, systems []*Result, clusters []int32, n int) [][][]float64 {
	if o.Method == resample.BCa {
		return reweigh(resample.JackknifeGroups(n), systems, clusters, n, resample.LeaveOut)
	}
	return reweigh(0, systems, clusters, n, nil)
}

// Named is one system in a comparison.
type Named struct {
	Name   string
	Result *Result
}

// Difference is one figure of system B minus that of system A.
type Difference struct {
	Value        float64
	CI           resample.Interval
	Resolvable   float64 // the smallest difference that so many patients can resolve
	BootstrapP   float64 // two-sided, from the bootstrap distribution of the difference
	PermutationP float64 // two-sided, from exchanging the two systems' predictions within patients
}

// McNemar counts the cases on which exactly one of two systems is right. P is
// the exact two-sided binomial p-value (McNemar, Psychometrika 12, 1947). It
// treats cases as independent: with several cases per patient it is too small,
// and the permutation p-value of the accuracy is the one to report.
type McNemar struct {
	OnlyA, OnlyB int
	P            float64
}

// Pair is system B compared with system A on the same cases.
type Pair struct {
	A, B             string
	Accuracy         Difference
	BalancedAccuracy Difference // the primary endpoint
	MacroAUROC       Difference
	ECE              Difference
	McNemar          McNemar
	// HolmBootstrapP and HolmPermutationP are the p-values of BalancedAccuracy,
	// corrected for the number of pairs by Holm's method.
	HolmBootstrapP, HolmPermutationP float64
	// Verdict says whether B is better than A: BalancedAccuracy differs by no less than is
	// resolvable, and HolmPermutationP is significant at the level of the intervals.
	Verdict resample.Verdict
}

// Compare estimates the differences of every further system to the first, with
// patients resampled and, for the permutation test, the two systems exchanged
// within patients. All results must have the same labels and classes; patients
// are as for Bootstrap.
func Compare(systems []Named, patients []string, options resample.Options) ([]Pair, error) {
	o, err := options.Resolved()
	if err != nil {
		return nil, err
	}
	if len(systems) < 2 {
		return nil, fmt.Errorf("compare: %d systems, want 2 or more", len(systems))
	}
	results := make([]*Result, len(systems))
	for i, s := range systems {
		if !s.Result.made() {
			return nil, fmt.Errorf("compare: system %q: %w", s.Name, errNoResult)
		}
		results[i] = s.Result
		if !slices.Equal(s.Result.Labels, results[0].Labels) || !slices.Equal(s.Result.Classes, results[0].Classes) {
			return nil, fmt.Errorf("compare: systems %q and %q have different cases or classes", systems[0].Name, s.Name)
		}
	}
	clusters, n, err := clusterOf(patients, results[0].Cases)
	if err != nil {
		return nil, err
	}
	replicates := reweigh(o.Replicates, results, clusters, n, o.Draw)
	jack := jackknife(o, results, clusters, n)
	var pairs []Pair
	for b := 1; b < len(systems); b++ {
		va, vb := results[0].Metrics.vector(), results[b].Metrics.vector()
		exceed := permute(results[0], results[b], clusters, n, o)
		differences := make([]Difference, 4)
		for i := range differences {
			d := &differences[i]
			d.Value = vb[i] - va[i]
			values := resample.Minus(replicates[b][i], replicates[0][i])
			d.CI, d.Resolvable = o.Difference(values, d.Value, resample.Minus(jack[b][i], jack[0][i]), n)
			d.BootstrapP, d.PermutationP = math.NaN(), math.NaN()
			if !math.IsNaN(d.Value) {
				d.BootstrapP = resample.BootstrapP(values)
				d.PermutationP = float64(1+exceed[i]) / float64(1+o.Permutations)
			}
		}
		pairs = append(pairs, Pair{
			A: systems[0].Name, B: systems[b].Name,
			Accuracy: differences[0], BalancedAccuracy: differences[1], MacroAUROC: differences[2], ECE: differences[3],
			McNemar: mcNemar(results[0], results[b]),
		})
	}
	bootstrap, permutation := make([]float64, len(pairs)), make([]float64, len(pairs))
	for i := range pairs {
		bootstrap[i], permutation[i] = pairs[i].BalancedAccuracy.BootstrapP, pairs[i].BalancedAccuracy.PermutationP
	}
	bootstrap, permutation = resample.Holm(bootstrap), resample.Holm(permutation)
	for i := range pairs {
		p := &pairs[i]
		p.HolmBootstrapP, p.HolmPermutationP = bootstrap[i], permutation[i]
		p.Verdict = o.Judge(p.BalancedAccuracy.Value, p.BalancedAccuracy.Resolvable, p.HolmPermutationP)
	}
	return pairs, nil
}

// permute counts, for each of the first four figures, the permutations whose
// difference is at least as far from 0 as the observed one. A permutation in
// which the figure is undefined counts as such, which errs on the safe side.
func permute(a, b *Result, clusters []int32, n int, o resample.Options) [4]int {
	va, vb := a.Metrics.vector(), b.Metrics.vector()
	var counts [4]atomic.Int64
	resample.Parallel(o.Permutations, func(next func() (int, bool)) {
		drawn, swapped := make([]bool, n), make([]bool, a.Cases)
		for k, ok := next(); ok; k, ok = next() {
			o.Exchange(k, drawn)
			for i, c := range clusters {
				swapped[i] = drawn[c]
			}
			first, second := exchange(a, b, swapped)
			da, db := first.Metrics.vector(), second.Metrics.vector()
			for i := range counts {
				if d := db[i] - da[i]; math.IsNaN(d) || resample.AsExtreme(d, vb[i]-va[i]) {
					counts[i].Add(1)
				}
			}
		}
	})
	var out [4]int
	for i := range counts {
		out[i] = int(counts[i].Load())
	}
	return out
}

// exchange are two results with their answers to some cases exchanged.
func exchange(a, b *Result, swapped []bool) (*Result, *Result) {
	pa, pb, ca, cb := slices.Clone(a.Probabilities), slices.Clone(b.Probabilities), slices.Clone(a.Predicted), slices.Clone(b.Predicted)
	for i, is := range swapped {
		if is {
			pa[i], pb[i], ca[i], cb[i] = pb[i], pa[i], cb[i], ca[i]
		}
	}
	// both inputs were accepted row by row before, so mixtures of their rows are
	return evaluate(a.Labels, ca, pa, a.Classes), evaluate(a.Labels, cb, pb, a.Classes)
}

func mcNemar(a, b *Result) McNemar {
	var m McNemar
	for i, label := range a.Labels {
		rightA, rightB := a.Predicted[i] == label, b.Predicted[i] == label
		if rightA && !rightB {
			m.OnlyA++
		} else if rightB && !rightA {
			m.OnlyB++
		}
	}
	m.P = 1
	if n := m.OnlyA + m.OnlyB; n > 0 {
		tail := distuv.Binomial{N: float64(n), P: 0.5}.CDF(float64(min(m.OnlyA, m.OnlyB)))
		m.P = min(1, 2*tail)
	}
	return m
}
