package classify

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	"github.com/alignedfusion/alignedfusion/internal/interval"
)

// Times are one system's answers to a question after the time to an event.
type Times struct {
	time     []float64
	event    []bool
	bounds   []float64   // of the intervals
	survival [][]float64 // [case][bound]: the chance to come so far without the event
	expected []float64   // time to the event, or to the last bound
	order    []int       // of the cases, by time
	rank     []int       // of expected, from 0 on; equal ones are equal
	ranks    int
}

// NewTimes takes, of each case, the time and whether the event happened then (or the case was
// followed so far without it), and the probabilities [N][intervals] that it happens in each of
// the intervals of time, of which the last has no end (internal/interval names them).
func NewTimes(time []float64, event []bool, intervals []string, probabilities [][]float64) (*Times, error) {
	if len(time) != len(event) || len(time) != len(probabilities) {
		return nil, fmt.Errorf("%d times and %d events for %d rows of probabilities", len(time), len(event), len(probabilities))
	}
	if len(time) == 0 {
		return nil, ErrNoCases
	}
	bounds, err := interval.Bounds(intervals)
	if err != nil {
		return nil, err
	}
	t := &Times{time: time, event: event, bounds: bounds}
	for i, row := range probabilities {
		if err := checkRow(row, intervals); err != nil {
			return nil, fmt.Errorf("case %d%w", i, err)
		}
		if !(time[i] >= 0) || math.IsInf(time[i], 0) {
			return nil, fmt.Errorf("case %d: the time is %v, want 0 or more", i, time[i])
		}
		survival := make([]float64, len(bounds))
		left := 0.0
		for k := len(bounds) - 1; k >= 0; k-- {
			left += row[k+1]
			survival[k] = left
		}
		t.survival, t.expected = append(t.survival, survival), append(t.expected, ExpectedTime(bounds, row))
	}
	t.sort()
	return t, nil
}

// ExpectedTime is the mean time to an event, no longer than to the last bound, of the
// probabilities of intervals in each of which it is as likely at any time.
func ExpectedTime(bounds, probabilities []float64) float64 {
	sum, from, survival := 0.0, 0.0, 1.0
	for k, to := range bounds {
		next := survival - probabilities[k]
		sum += float64((to - from) * (survival + next) / 2)
		from, survival = to, next
	}
	return sum
}

func (t *Times) sort() {
	n := len(t.time)
	byExpected := make([]int, n)
	t.order, t.rank, t.ranks = make([]int, n), make([]int, n), 0
	for i := range n {
		t.order[i], byExpected[i] = i, i
	}
	slices.SortFunc(t.order, func(a, b int) int { return cmp.Compare(t.time[a], t.time[b]) })
	slices.SortFunc(byExpected, func(a, b int) int { return cmp.Compare(t.expected[a], t.expected[b]) })
	for k, i := range byExpected {
		if k > 0 && t.expected[i] > t.expected[byExpected[k-1]] {
			t.ranks++
		}
		t.rank[i] = t.ranks
	}
	t.ranks++
}

// Question is Survival.
func (*Times) Question() string { return Survival }

// Cases is their number.
func (t *Times) Cases() int { return len(t.time) }

// Truth is the time of each case and whether the event happened then.
func (t *Times) Truth() (time []float64, event []bool) { return t.time, t.event }

// Expected are the expected times (ExpectedTime), by case.
func (t *Times) Expected() []float64 { return t.expected }

func (t *Times) sameTruth(a Answers) bool {
	other, ok := a.(*Times)
	return ok && slices.Equal(t.time, other.time) && slices.Equal(t.event, other.event)
}

func (t *Times) exchange(a Answers, swapped []bool) (Answers, Answers) {
	other := a.(*Times)
	return t.with(other, swapped), other.with(t, swapped)
}

// with are the answers with those of other to some cases, at the times that these are of.
func (t *Times) with(other *Times, swapped []bool) *Times {
	out := *t
	out.survival, out.expected = slices.Clone(t.survival), slices.Clone(t.expected)
	same := slices.Equal(t.bounds, other.bounds)
	for i, is := range swapped {
		if !is {
			continue
		}
		out.survival[i], out.expected[i] = other.survival[i], other.expected[i]
		if !same {
			out.survival[i] = make([]float64, len(t.bounds))
			for k, time := range t.bounds {
				out.survival[i][k] = other.at(i, time)
			}
		}
	}
	out.sort()
	return &out
}

// sameTimes calls do for each time of the cases, from the first on, with the cases' indices.
func (t *Times) sameTimes(do func(cases []int)) {
	for k := 0; k < len(t.order); {
		end := k
		for end < len(t.order) && t.time[t.order[end]] == t.time[t.order[k]] {
			end++
		}
		do(t.order[k:end])
		k = end
	}
}

// concordance is lifelines' concordance_index of the expected times: two cases are a pair where
// the event of one came first; of equal times an event comes before what is censored.
func concordance(a Answers, _ float64, w weights) float64 {
	t := a.(*Times)
	var groups [][]int
	t.sameTimes(func(cases []int) { groups = append(groups, cases) })
	later := newCounts(t.ranks) // the cases that came after
	var right, pairs float64
	for g := len(groups) - 1; g >= 0; g-- {
		for _, i := range groups[g] {
			if !t.event[i] {
				later.add(t.rank[i], w.of(i))
			}
		}
		for _, i := range groups[g] {
			if v := w.of(i); t.event[i] && v > 0 {
				upTo, below := later.upTo(t.rank[i]), later.upTo(t.rank[i]-1)
				right += float64(v * (later.all - upTo + float64((upTo-below)/2)))
				pairs += float64(v * later.all)
			}
		}
		for _, i := range groups[g] {
			if t.event[i] {
				later.add(t.rank[i], w.of(i))
			}
		}
	}
	return right / pairs
}

// rankCounts are counts of ranks that can be added to and summed up from the first on (Fenwick 1994).
type rankCounts struct {
	sums []float64
	all  float64
}

func newCounts(ranks int) *rankCounts { return &rankCounts{sums: make([]float64, ranks+1)} }

func (c *rankCounts) add(rank int, v float64) {
	c.all += v
	for k := rank + 1; k < len(c.sums); k += k & -k {
		c.sums[k] += v
	}
}

func (c *rankCounts) upTo(rank int) float64 {
	sum := 0.0
	for k := rank + 1; k > 0; k -= k & -k {
		sum += c.sums[k]
	}
	return sum
}

// kaplanMeier is the chance, at each case's time, that the event (or the censoring, of which
// events at the same time come before) has not happened; and at, the same at a time.
func (t *Times) kaplanMeier(w weights, censoring bool, until float64) (each []float64, at float64) {
	each = make([]float64, len(t.time))
	left, chance := 0.0, 1.0
	for i := range t.time {
		left += w.of(i)
	}
	at = 1
	t.sameTimes(func(cases []int) {
		var events, censored float64
		for _, i := range cases {
			if t.event[i] {
				events += w.of(i)
			} else {
				censored += w.of(i)
			}
		}
		switch {
		case censoring && censored > 0:
			chance *= 1 - censored/(left-events)
		case !censoring && events > 0:
			chance *= 1 - events/left
		}
		left -= events + censored
		for _, i := range cases {
			each[i] = chance
		}
		if t.time[cases[0]] <= until {
			at = chance
		}
	})
	return each, at
}

// at is the chance of a case to come to a time without the event, which is as likely at any
// time of an interval; NaN behind the last bound.
func (t *Times) at(i int, time float64) float64 {
	k := interval.Of(t.bounds, time)
	if k == len(t.bounds) {
		if time == t.bounds[k-1] {
			return t.survival[i][k-1]
		}
		return math.NaN()
	}
	from, before := 0.0, 1.0
	if k > 0 {
		from, before = t.bounds[k-1], t.survival[i][k-1]
	}
	return before + (t.survival[i][k]-before)*(time-from)/(t.bounds[k]-from)
}

// brierAt is scikit-survival's brier_score with the censoring of the cases themselves. What is
// censored before counts through the others; a chance of 0 not to be censored counts nothing.
func brierAt(a Answers, time float64, w weights) float64 {
	t := a.(*Times)
	followed, so := t.kaplanMeier(w, true, time)
	var sum, all float64
	for i := range t.time {
		v, s := w.of(i), t.at(i, time)
		all += v
		switch {
		case t.time[i] > time && so > 0:
			sum += float64(v * (1 - s) * (1 - s) / so)
		case t.time[i] <= time && t.event[i] && followed[i] > 0:
			sum += float64(v * s * s / followed[i])
		}
		if math.IsNaN(s) {
			return math.NaN()
		}
	}
	return sum / all
}

// integratedBrier is the trapezoidal integral between the first and the last bound to which
// some case was followed, over their distance.
func integratedBrier(a Answers, _ float64, w weights) float64 {
	t := a.(*Times)
	last := t.time[t.order[len(t.order)-1]]
	var sum, before float64
	n := 0
	for n < len(t.bounds) && t.bounds[n] < last {
		b := brierAt(a, t.bounds[n], w)
		if n > 0 {
			sum += float64((t.bounds[n] - t.bounds[n-1]) * (before + b) / 2)
		}
		before, n = b, n+1
	}
	switch n {
	case 0:
		return math.NaN()
	case 1:
		return before
	}
	return sum / (t.bounds[n-1] - t.bounds[0])
}

func calibrationAt(a Answers, time float64, w weights) float64 {
	t := a.(*Times)
	_, without := t.kaplanMeier(w, false, time)
	var predicted, all float64
	for i := range t.time {
		predicted, all = predicted+float64(w.of(i)*(1-t.at(i, time))), all+w.of(i)
	}
	return (1 - without) / (predicted / all)
}
