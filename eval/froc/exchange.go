package froc

import (
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

// merge joins the steps or ratings of two systems, both in the order of their places.
func merge[T any](a, b []placed[T]) []placed[T] {
	out := make([]placed[T], 0, len(a)+len(b))
	for len(a) > 0 || len(b) > 0 {
		if len(b) == 0 || len(a) > 0 && a[0].place <= b[0].place {
			out, a = append(out, a[0]), a[1:]
		} else {
			out, b = append(out, b[0]), b[1:]
			out[len(out)-1].second = true
		}
	}
	for i := range out {
		out[i].last = i+1 == len(out) || out[i+1].place != out[i].place
	}
	return out
}

// exchanger computes what systems are compared by after exchanging the marks of two of them
// within some clusters. Permutations are summed up side by side, each in a byte of a word, so
// that a step or a rating is read once for all of them.
type exchanger struct {
	a, b    *Result
	steps   []uint32 // of the curves up to the last lesion found, see code
	strides []stride // of steps
	ratings []uint32 // coded alike
	places  []ratedPlace

	normal, images, lesions int // that one system rates: images without a counted lesion, images, lesions
}

const lanes = 8 // permutations in a word

const ones = 0x0101010101010101

// byteful is the most that a byte of a word counts.
var byteful = math.MaxUint8 // tests change it

// stride is a piece of the curves: false positives, then lesions found, a byteful of either.
type stride struct {
	fp, found uint8
	tied      bool // they come at once, not one after the other
	open      bool // its place goes on in the next stride: no point of the curves is here
}

// ratedPlace is a piece of the ratings: images without a counted lesion, others, and lesions
// that are rated lower than all images so far; a byteful of each. Lesions rated like images
// stand before them and again behind them, so that these count half; others weigh double.
type ratedPlace struct{ normal, other, lesions, double uint8 }

func newExchanger(a, b *Result) *exchanger {
	eventsA, ratingsA := a.place()
	eventsB, ratingsB := b.place()
	x := &exchanger{a: a, b: b, steps: make([]uint32, 0, len(eventsA)+len(eventsB)), ratings: make([]uint32, 0, len(ratingsA)+len(ratingsB))}
	var before, fp, found []uint32 // before: false positives of places without a lesion
	for _, e := range merge(eventsA, eventsB) {
		if c := code(e.what.cluster, e.second); e.what.found {
			found = append(found, c)
		} else {
			fp = append(fp, c)
		}
		switch {
		case !e.last:
			continue
		case len(found) == 0:
			before = append(before, fp...)
		case len(fp) == 0:
			x.addStrides(before, found, false)
			before = before[:0]
		default:
			x.addStrides(before, nil, false)
			x.addStrides(fp, found, true)
			before = before[:0]
		}
		fp, found = fp[:0], found[:0]
	}
	x.rate(merge(ratingsA, ratingsB))
	return x
}

// code is a step's or a rating's cluster and system.
func code(cluster int32, second bool) uint32 { return uint32(cluster)<<1 | bit(second) }

// cut takes a byteful off codes.
func cut(codes *[]uint32) []uint32 {
	n := min(len(*codes), byteful)
	some := (*codes)[:n]
	*codes = (*codes)[n:]
	return some
}

// addStrides adds false positives and the lesions found behind them or, where they are tied, with them.
func (x *exchanger) addStrides(fp, found []uint32, tied bool) {
	for len(fp) > 0 || len(found) > 0 {
		some, hit := cut(&fp), []uint32(nil)
		if len(fp) == 0 {
			hit = cut(&found)
		}
		x.steps = append(append(x.steps, some...), hit...)
		x.strides = append(x.strides, stride{uint8(len(some)), uint8(len(hit)), tied, tied && len(fp) > 0 || len(hit) > 0 && len(found) > 0})
	}
}

func (x *exchanger) rate(ratings []placed[rating]) {
	for _, e := range x.a.ratings {
		switch {
		case e.lesion:
			x.lesions++
		case e.normal:
			x.normal++
			fallthrough
		default:
			x.images++
		}
	}
	var normal, other, alikeNormal, alikeOther, lesions []uint32
	for _, e := range ratings {
		c := code(e.what.cluster, e.second)
		switch {
		case e.what.lesion:
			lesions = append(lesions, c)
		case e.what.normal:
			alikeNormal = append(alikeNormal, c)
		default:
			alikeOther = append(alikeOther, c)
		}
		if !e.last {
			continue
		}
		if alone := len(alikeNormal)+len(alikeOther) == 0; len(lesions) > 0 {
			x.addPlaces(normal, other, lesions, uint8(bit(alone)))
			normal, other = normal[:0], other[:0]
			if !alone {
				x.addPlaces(alikeNormal, alikeOther, lesions, 0)
			}
		} else {
			normal, other = append(normal, alikeNormal...), append(other, alikeOther...)
		}
		lesions, alikeNormal, alikeOther = lesions[:0], alikeNormal[:0], alikeOther[:0]
	}
}

// addPlaces adds images and the lesions that are rated lower.
func (x *exchanger) addPlaces(normal, other, lesions []uint32, double uint8) {
	for len(normal) > 0 || len(other) > 0 || len(lesions) > 0 {
		n, o, below := cut(&normal), cut(&other), []uint32(nil)
		if len(normal) == 0 && len(other) == 0 {
			below = cut(&lesions)
		}
		x.ratings = append(append(append(x.ratings, n...), o...), below...)
		x.places = append(x.places, ratedPlace{uint8(len(n)), uint8(len(o)), uint8(len(below)), double})
	}
}

func bit(b bool) uint32 {
	if b {
		return 1
	}
	return 0
}

// exchange is what a goroutine works with: what a stride or a rated place holds of each
// system, in lanes.
type exchange struct {
	second                            []uint64 // of a code: 1 where the exchange makes it the second system's
	fp, found, normal, other, lesions [2][]uint64
	walkers                           [2]*walker
}

func (x *exchanger) exchange() *exchange {
	e := &exchange{second: make([]uint64, 2*len(x.a.clusters.names)), walkers: [2]*walker{newWalker(&x.a.Protocol), newWalker(&x.b.Protocol)}}
	for k := range 2 {
		e.fp[k], e.found[k] = make([]uint64, len(x.strides)), make([]uint64, len(x.strides))
		e.normal[k], e.other[k], e.lesions[k] = make([]uint64, len(x.places)), make([]uint64, len(x.places)), make([]uint64, len(x.places))
	}
	return e
}

// count puts how many of n codes are each system's and returns the codes behind them.
func (e *exchange) count(codes []uint32, n uint8, into *[2][]uint64, at int) []uint32 {
	second := uint64(0)
	for _, c := range codes[:n] {
		second += e.second[c]
	}
	into[0][at], into[1][at] = uint64(n)*ones-second, second
	return codes[n:]
}

// comparedBesides is the number of figures that systems are compared by besides the operating
// points: the mean sensitivity, AP, AFROC and AFROC1.
const comparedBesides = 4

// statistics returns, for every lane, those figures of both systems. exchanged has a byte of 0
// or 1 per cluster and lane.
func (x *exchanger) statistics(e *exchange, exchanged []uint64) (all [lanes][2][]float64) {
	for i, word := range exchanged {
		e.second[2*i], e.second[2*i+1] = word, word^ones
	}
	codes := x.steps
	for i, s := range x.strides {
		codes = e.count(codes, s.fp, &e.fp, i)
		codes = e.count(codes, s.found, &e.found, i)
	}
	codes = x.ratings
	for i, p := range x.places {
		codes = e.count(codes, p.normal, &e.normal, i)
		codes = e.count(codes, p.other, &e.other, i)
		codes = e.count(codes, p.lesions, &e.lesions, i)
	}
	for k, w := range e.walkers {
		areas := x.areas(e, k)
		for lane := range all {
			w.start(x.a.Counts.Units, x.a.clusters.counted)
			w.stride(x.strides, e.fp[k], e.found[k], 8*lane)
			all[lane][k] = append(w.finish(), areas[lane][:]...)
		}
	}
	return all
}

// stride walks along a curve whose strides are bytes of words.
func (w *walker) stride(strides []stride, fps, founds []uint64, shift int) {
	shift &= 63
	fps, founds = fps[:len(strides)], founds[:len(strides)]
	apFound, apFP := slices.Grow(w.apFound, len(strides))[:len(strides)], slices.Grow(w.apFP, len(strides))[:len(strides)]
	var found, fp, before, beforeFP, n int
	most := w.most
	for i, s := range strides {
		fp += int(uint8(fps[i] >> shift))
		found += int(uint8(founds[i] >> shift))
		if s.open {
			continue
		}
		if fp > most {
			next := before
			if s.tied {
				next = found
			}
			w.read(before, beforeFP, next, fp)
			most = w.limit()
		}
		apFound[n], apFP[n] = int32(found), int32(fp)
		if found > before {
			n++ // see rise
		}
		before, beforeFP = found, fp
	}
	w.found, w.fp, w.most = before, beforeFP, most
	w.apFound, w.apFP = apFound[:n], apFP[:n]
}

// areas returns AFROC and AFROC1 of a system in every lane. Two lanes, half a word apart, are
// summed up at once, in 32 bits each.
func (x *exchanger) areas(e *exchange, k int) (out [lanes][2]float64) {
	const two = math.MaxUint8<<32 | math.MaxUint8
	normals, others, lesions := e.normal[k], e.other[k], e.lesions[k]
	room := max(1, math.MaxUint32/(2*x.images+1)) // places whose sums 32 bits hold
	for low := range lanes / 2 {
		shift := 8 * low & 63
		var normal, all uint64      // images so far
		var sums, sumsAll [2]uint64 // twice those rated higher than lesions
		for from := 0; from < len(x.places); from += room {
			var above, aboveAll uint64 // the same of these places
			places := x.places[from:min(from+room, len(x.places))]
			normals, others, lesions := normals[from:][:len(places)], others[from:][:len(places)], lesions[from:][:len(places)]
			for i, p := range places {
				n := normals[i] >> shift & two
				normal += n
				all += n + others[i]>>shift&two
				below := lesions[i] >> shift & two
				if p.lesions <= 1 {
					whole := below * math.MaxUint32 // every bit of a lane with a lesion
					above += (normal & whole) << (p.double & 1)
					aboveAll += (all & whole) << (p.double & 1)
					continue
				}
				for h := range sums {
					times := below >> (32 * h) & math.MaxUint8 << p.double
					sums[h] += times * (normal >> (32 * h) & math.MaxUint32)
					sumsAll[h] += times * (all >> (32 * h) & math.MaxUint32)
				}
			}
			for h := range sums {
				sums[h] += above >> (32 * h) & math.MaxUint32
				sumsAll[h] += aboveAll >> (32 * h) & math.MaxUint32
			}
		}
		for h := range sums {
			out[low+lanes/2*h] = [2]float64{
				rest(float64(sums[h])/2, float64(x.lesions*x.normal)),
				rest(float64(sumsAll[h])/2, float64(x.lesions*x.images)),
			}
		}
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
		e := x.exchange()
		for block, ok := next(); ok; block, ok = next() {
			clear(words)
			for lane, k := range blocks[block] {
				o.Exchange(k, exchanged)
				for i, yes := range exchanged {
					words[i] |= uint64(bit(yes)) << (8 * lane)
				}
			}
			all := x.statistics(e, words)
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
