package froc

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"reflect"
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
	differences, clusters := make([]Difference, len(estimateA)), ra.clusters.withLesion()
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
	k := len(ra.Protocol.FPPI)
	return Pair{A: systems[a].Name, B: systems[b].Name, Points: differences[:k], Mean: differences[k], AP: differences[k+1],
		AFROC: differences[k+2], AFROC1: differences[k+3]}, nil
}

// placed is a step or a rating of one of two systems, placed by the false
// positives that its own system makes down to its score.
type placed[T any] struct {
	place  int
	second bool // of the second system
	last   bool // of its place
	what   T
}

// merge sorts the steps or ratings of two systems by place.
func merge[T any](a, b []placed[T]) []placed[T] {
	out := slices.Concat(a, b)
	for i := range b {
		out[len(a)+i].second = true
	}
	slices.SortFunc(out, func(x, y placed[T]) int { return cmp.Compare(x.place, y.place) })
	for i := range out {
		out[i].last = i+1 == len(out) || out[i+1].place != out[i].place
	}
	return out
}

// exchanger computes the statistics of two systems after exchanging their marks
// within some clusters. What it sums up is packed, a word per step or rating, so that a
// permutation reads as little memory as possible.
type exchanger struct {
	a, b           *Result
	segments       []segment
	codes          []uint32 // of steps: cluster<<2 | found<<1 | second
	ratings, cases []exchangedRating
}

// segment is a stretch of false positives, and the one place after it at which lesions are
// found: between the two the sensitivities stand still.
type segment struct{ middle, end int } // ends of both in codes

// exchangedRating is a rating of one of two systems.
type exchangedRating struct {
	code   uint32 // cluster<<5 | alone<<4 | last<<3 | lesion<<2 | normal<<1 | second
	weight float64
}

func newExchanger(a, b *Result) *exchanger {
	eventsA, ratingsA, casesA := a.place()
	eventsB, ratingsB, casesB := b.place()
	x := &exchanger{a: a, b: b, ratings: packRatings(merge(ratingsA, ratingsB)), cases: packRatings(merge(casesA, casesB))}
	events := merge(eventsA, eventsB)
	x.codes = make([]uint32, len(events))
	start := 0 // of the present place
	found := false
	for i, e := range events {
		x.codes[i] = uint32(e.what.cluster)<<2 | bit(e.what.found)<<1 | bit(e.second)
		found = found || e.what.found
		if !e.last {
			continue
		}
		if found || i+1 == len(events) {
			x.segments = append(x.segments, segment{start, i + 1})
		}
		start, found = i+1, false
	}
	return x
}

func packRatings(ratings []placed[rating]) []exchangedRating {
	out := make([]exchangedRating, len(ratings))
	start, lesions := 0, false // of the present place
	for i, e := range ratings {
		out[i] = exchangedRating{
			uint32(e.what.cluster)<<5 | bit(e.last)<<3 | bit(e.what.lesion)<<2 | bit(e.what.normal)<<1 | bit(e.second), e.what.weight,
		}
		lesions = lesions || e.what.lesion
		if !e.last {
			continue
		}
		if !lesions {
			for k := start; k <= i; k++ {
				out[k].code = out[k].code&^(1<<3) | 1<<4
			}
		}
		start, lesions = i+1, false
	}
	return out
}

func bit(b bool) uint32 {
	if b {
		return 1
	}
	return 0
}

// statistics returns those of both systems; exchanged holds 0 or 1 per cluster.
func (x *exchanger) statistics(walkers *[2]*walker, exchanged []uint32) [2][]float64 {
	for _, w := range walkers {
		w.start(x.a.Counts.Units, x.a.Counts.Lesions)
	}
	var sums [4]int // false positives of both systems, lesions found by both
	count := func(codes []uint32) {
		// four counts of 16 bits each
		for len(codes) > 0 {
			n := min(len(codes), math.MaxUint16)
			packed := uint64(0)
			for _, code := range codes[:n] {
				packed += 1 << (((code & 3) ^ exchanged[code>>2]) << 4)
			}
			for k := range sums {
				sums[k] += int(packed >> (16 * k) & math.MaxUint16)
			}
			codes = codes[n:]
		}
	}
	at := 0
	for _, s := range x.segments {
		for _, end := range [2]int{s.middle, s.end} {
			if at == end {
				continue
			}
			count(x.codes[at:end])
			walkers[0].step(sums[2], sums[0])
			walkers[1].step(sums[3], sums[1])
			at = end
		}
	}
	ratings, cases := exchangeRatings(x.ratings, exchanged), exchangeRatings(x.cases, exchanged)
	var all [2][]float64
	for s, w := range walkers {
		figures, out := figures(&ratings[s], &cases[s]), w.finish()
		figures.rank(out[len(out)-1])
		all[s] = append(out, figures.vector()...)
	}
	return all
}

func exchangeRatings(ratings []exchangedRating, exchanged []uint32) (sums [2]meritSum) {
	var all, normal [2]int // images since the last lesion
	for i := range ratings {
		e := &ratings[i]
		side := e.code&1 ^ exchanged[e.code>>5]
		if e.code&(1<<4) != 0 {
			all[side]++
			normal[side] += int(e.code >> 1 & 1)
			continue
		}
		for s := range sums {
			sums[s].all += float64(all[s])
			sums[s].normal += float64(normal[s])
		}
		all, normal = [2]int{}, [2]int{}
		m := &sums[side]
		if e.code&4 != 0 {
			m.lesions++
			m.weight += e.weight
		} else {
			m.groupA++
			m.groupNormal += float64(e.code >> 1 & 1)
		}
		if e.code&8 != 0 {
			sums[0].step()
			sums[1].step()
		}
	}
	for s := range sums {
		sums[s].all += float64(all[s])
		sums[s].normal += float64(normal[s])
	}
	return sums
}

func (x *exchanger) walkers() *[2]*walker {
	return &[2]*walker{newWalker(&x.a.Protocol), newWalker(&x.b.Protocol)}
}

// permute counts, for every statistic, the permutations whose difference is at
// least as far from 0 as the observed one.
func permute(a, b *Result, o CompareOptions, observed []float64) ([]int, error) {
	x := newExchanger(a, b)
	counts := make([]atomic.Int64, len(observed))
	err := resample.ParallelContext(o.Context, o.Permutations, func(next func() (int, bool)) {
		exchanged, words := make([]bool, len(a.clusters.names)), make([]uint32, len(a.clusters.names))
		walkers := x.walkers()
		for k, ok := next(); ok; k, ok = next() {
			if !o.Division.Mine(k) {
				continue
			}
			o.Exchange(k, exchanged)
			for i, yes := range exchanged {
				words[i] = bit(yes)
			}
			all := x.statistics(walkers, words)
			for i, d := range resample.Minus(all[1], all[0]) {
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
	return out, errors.Join(err, o.Division.Counts(out))
}

// place puts the steps after the f-th false positive at place 2f, and a score
// that makes false positives, the f-th the last of them, at place 2f-1, so that
// each system alone keeps its curve. Ratings stand where the step of their score
// does; unmarked ones come last.
func (r *Result) place() (events []placed[event], ratings, cases []placed[rating]) {
	ratings, cases = make([]placed[rating], 0, len(r.ratings)), make([]placed[rating], 0, len(r.cases))
	// put places the ratings from that score up
	put := func(from []rating, to *[]placed[rating], score float64, place int) {
		for at := len(*to); at < len(from) && from[at].score >= score; at++ {
			*to = append(*to, placed[rating]{place: place, what: from[at]})
		}
	}
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
			events = append(events, placed[event]{place: place, what: e})
		}
		score := r.events[start].score
		above := math.Nextafter(score, math.Inf(1)) // marks that are no step of the curve
		put(r.ratings, &ratings, above, 2*before)
		put(r.cases, &cases, above, 2*before)
		put(r.ratings, &ratings, score, place)
		put(r.cases, &cases, score, place)
	}
	lowest := -math.MaxFloat64
	put(r.ratings, &ratings, lowest, 2*fp)
	put(r.cases, &cases, lowest, 2*fp)
	put(r.ratings, &ratings, math.Inf(-1), math.MaxInt)
	put(r.cases, &cases, math.Inf(-1), math.MaxInt)
	return events, ratings, cases
}
