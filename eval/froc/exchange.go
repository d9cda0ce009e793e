package froc

import (
	"cmp"
	"errors"
	"math"
	"slices"
	"sync/atomic"

	"github.com/alignedfusion/alignedfusion/eval/resample"
)

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

// exchanger computes what systems are compared by after exchanging the marks of two of them
// within some clusters. Permutations are summed up side by side, each in a byte of a word, so
// that a step or a rating is read once for all of them.
type exchanger struct {
	a, b     *Result
	steps    []uint32 // of curves: cluster<<2 | found<<1 | second
	segments []segment
	images   []uint32 // their ratings: cluster<<2 | normal<<1 | second
	lesions  []uint32 // cluster<<2 | second
	rated    []ratedPlace
}

// segment is a stretch of false positives, and the one place after it at which lesions are
// found: between the two the sensitivities stand still.
type segment struct{ middle, end int } // ends of both in steps

// ratedPlace is a place at which lesions are rated: the end of the images rated higher, that
// of the images rated alike, and that of its lesions.
type ratedPlace struct{ higher, alike, lesions int }

const lanes = 8 // permutations in a word

const ones = 0x0101010101010101

func newExchanger(a, b *Result) *exchanger {
	eventsA, ratingsA := a.place()
	eventsB, ratingsB := b.place()
	x := &exchanger{a: a, b: b}
	events := merge(eventsA, eventsB)
	x.steps = make([]uint32, len(events))
	start := 0 // of the present place
	found := false
	for i, e := range events {
		x.steps[i] = uint32(e.what.cluster)<<2 | bit(e.what.found)<<1 | bit(e.second)
		found = found || e.what.found
		if !e.last {
			continue
		}
		if found || i+1 == len(events) {
			x.segments = append(x.segments, segment{start, i + 1})
		}
		start, found = i+1, false
	}
	x.rate(merge(ratingsA, ratingsB))
	return x
}

func (x *exchanger) rate(ratings []placed[rating]) {
	higher, before := 0, 0
	for _, e := range ratings {
		if code := uint32(e.what.cluster)<<2 | bit(e.second); e.what.lesion {
			x.lesions = append(x.lesions, code)
		} else {
			x.images = append(x.images, code|bit(e.what.normal)<<1)
		}
		if !e.last {
			continue
		}
		if len(x.lesions) > before {
			x.rated = append(x.rated, ratedPlace{higher, len(x.images), len(x.lesions)})
		}
		higher, before = len(x.images), len(x.lesions)
	}
}

func bit(b bool) uint32 {
	if b {
		return 1
	}
	return 0
}

// tally counts codes by their bit 1, of each system, in each lane.
type tally [lanes][2][2]int // lane, bit 1, system

// add counts codes after the exchange: exchanged has a byte of 0 or 1 per cluster and lane.
func (t *tally) add(codes []uint32, exchanged []uint64) {
	for len(codes) > 0 {
		n := min(len(codes), math.MaxUint8)
		var first, marked uint64 // codes of the second system, by bit 1
		marks := 0
		for _, code := range codes[:n] {
			second := exchanged[code>>2] ^ -uint64(code&1)&ones
			with := -uint64(code >> 1 & 1)
			first += second &^ with
			marked += second & with
			marks += int(code >> 1 & 1)
		}
		for lane := range t {
			one, two := int(first&math.MaxUint8), int(marked&math.MaxUint8)
			first, marked = first>>8, marked>>8
			t[lane][0][1] += one
			t[lane][0][0] += n - marks - one
			t[lane][1][1] += two
			t[lane][1][0] += marks - two
		}
		codes = codes[n:]
	}
}

// comparedBesides is the number of figures that systems are compared by besides the operating
// points: the mean sensitivity, AP, AFROC and AFROC1.
const comparedBesides = 4

// statistics returns, for every lane, those figures of both systems.
func (x *exchanger) statistics(walkers *[lanes][2]*walker, exchanged []uint64) (all [lanes][2][]float64) {
	for lane := range walkers {
		for _, w := range walkers[lane] {
			w.start(x.a.Counts.Units, x.a.clusters.counted)
		}
	}
	var steps tally // bit 1: lesions found, else false positives
	at := 0
	for _, s := range x.segments {
		for _, end := range [2]int{s.middle, s.end} {
			if at == end {
				continue
			}
			steps.add(x.steps[at:end], exchanged)
			for lane := range walkers {
				for k, w := range walkers[lane] {
					w.step(steps[lane][1][k], steps[lane][0][k])
				}
			}
			at = end
		}
	}
	areas := x.areas(exchanged)
	for lane := range walkers {
		for k, w := range walkers[lane] {
			all[lane][k] = append(w.finish(), areas[lane][k][:]...)
		}
	}
	return all
}

// areas returns AFROC and AFROC1 of both systems in every lane.
func (x *exchanger) areas(exchanged []uint64) (out [lanes][2][2]float64) {
	var images tally // bit 1: without a counted lesion
	var lesions [lanes][2]int
	var above [lanes][2][2]int // twice the images rated higher than lesions: normal, all
	at, lesionAt := 0, 0
	for _, place := range x.rated {
		images.add(x.images[at:place.higher], exchanged)
		var alike, here tally
		alike.add(x.images[place.higher:place.alike], exchanged)
		here.add(x.lesions[lesionAt:place.lesions], exchanged)
		at, lesionAt = place.alike, place.lesions
		for lane := range images {
			for k := range 2 {
				im, same, n := &images[lane], &alike[lane], here[lane][0][k]
				lesions[lane][k] += n
				above[lane][k][0] += n * (2*im[1][k] + same[1][k])
				above[lane][k][1] += n * (2*(im[0][k]+im[1][k]) + same[0][k] + same[1][k])
				im[0][k] += same[0][k]
				im[1][k] += same[1][k]
			}
		}
	}
	images.add(x.images[at:], exchanged)
	for lane := range out {
		for k := range 2 {
			normal, all := images[lane][1][k], images[lane][0][k]+images[lane][1][k]
			out[lane][k][0] = rest(float64(above[lane][k][0])/2, float64(lesions[lane][k]*normal))
			out[lane][k][1] = rest(float64(above[lane][k][1])/2, float64(lesions[lane][k]*all))
		}
	}
	return out
}

func (x *exchanger) walkers() *[lanes][2]*walker {
	out := &[lanes][2]*walker{}
	for lane := range out {
		out[lane] = [2]*walker{newWalker(&x.a.Protocol), newWalker(&x.b.Protocol)}
	}
	return out
}

// permute counts, for every figure, the permutations whose difference is at least as far
// from 0 as the observed one.
func permute(a, b *Result, o CompareOptions, observed []float64) ([]int, error) {
	x := newExchanger(a, b)
	counts := make([]atomic.Int64, len(a.Protocol.FPPI)+comparedBesides)
	var mine []int // permutations
	for k := range o.Permutations {
		if o.Division.Mine(k) {
			mine = append(mine, k)
		}
	}
	blocks := slices.Collect(slices.Chunk(mine, lanes))
	err := resample.ParallelContext(o.Context, len(blocks), func(next func() (int, bool)) {
		exchanged, words := make([]bool, len(a.clusters.names)), make([]uint64, len(a.clusters.names))
		walkers := x.walkers()
		for block, ok := next(); ok; block, ok = next() {
			clear(words)
			for lane, k := range blocks[block] {
				o.Exchange(k, exchanged)
				for i, yes := range exchanged {
					words[i] |= uint64(bit(yes)) << (8 * lane)
				}
			}
			all := x.statistics(walkers, words)
			for lane := range blocks[block] {
				for i, d := range resample.Minus(all[lane][1], all[lane][0]) {
					if resample.AsExtreme(d, observed[i]) {
						counts[i].Add(1)
					}
				}
			}
		}
	})
	out := make([]int, len(counts))
	for i := range counts {
		out[i] = int(counts[i].Load())
	}
	return out, errors.Join(err, o.Division.Counts(out))
}

// place puts the steps after the f-th false positive at place 2f, and a score
// that makes false positives, the f-th the last of them, at place 2f-1, so that
// each system alone keeps its curve. Ratings stand where the step of their score
// does; unmarked ones come last.
func (r *Result) place() (events []placed[event], ratings []placed[rating]) {
	ratings = make([]placed[rating], 0, len(r.ratings))
	// put places the ratings from that score up
	put := func(score float64, place int) {
		for at := len(ratings); at < len(r.ratings) && r.ratings[at].score >= score; at++ {
			ratings = append(ratings, placed[rating]{place: place, what: r.ratings[at]})
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
		put(above, 2*before)
		put(score, place)
	}
	put(-math.MaxFloat64, 2*fp)
	put(math.Inf(-1), math.MaxInt)
	return events, ratings
}
