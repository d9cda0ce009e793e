package froc

import "math"

// abreast is the number of weightings of clusters that are summed up side by side, so that a
// step of the curve is read once for all of them.
const abreast = 16

// weightWords are the weights of one cluster in every weighting, 16 bits each, four in a word. A
// resample draws as often as there are clusters: one that it draws 65,536 times never comes.
type weightWords [abreast / 4]uint64

func (w *weightWords) set(lane int, n int32) { w[lane/4] |= uint64(n) << (16 * (lane % 4)) }

func (w *weightWords) of(lane int) int { return int(w[lane/4] >> (16 * (lane % 4)) & math.MaxUint16) }

// weighting is what a curve needs besides the weights.
type weighting struct{ units, lesions int }

// stretch is a piece of the curve that ends with a score: false positives, and the lesions
// found at its last score. Both are places in steps.
type stretch struct{ middle, end int }

// longStretch is from where a stretch ends although no lesion is found.
const longStretch = 4096

// makeStretches divides the steps. Within a stretch false positives come first.
func (r *Result) makeStretches() {
	r.steps = make([]uint32, len(r.events))
	start, found := 0, 0
	for i := range r.events {
		if r.events[i].found {
			found++
		}
		if !r.events[i].last || found == 0 && i-start < longStretch && i+1 < len(r.events) {
			continue
		}
		s := stretch{middle: i + 1 - found, end: i + 1}
		fp, hit := start, s.middle
		for _, e := range r.events[start:s.end] {
			if e.found {
				r.steps[hit] = uint32(e.cluster)
				hit++
			} else {
				r.steps[fp] = uint32(e.cluster)
				fp++
			}
		}
		r.stretches = append(r.stretches, s)
		start, found = s.end, 0
	}
}

// sums are of weights, in every weighting.
type sums [abreast]int

// add adds the weights of steps, of which heaviest is the greatest.
func (s *sums) add(steps []uint32, of []weightWords, heaviest int) {
	for len(steps) > 0 {
		n := min(len(steps), math.MaxUint16/max(heaviest, 1)) // so that no 16 bits overflow
		var a, b, c, d uint64
		for _, cluster := range steps[:n] {
			w := &of[cluster]
			a += w[0]
			b += w[1]
			c += w[2]
			d += w[3]
		}
		for k, word := range [...]uint64{a, b, c, d} {
			s[4*k] += int(word & math.MaxUint16)
			s[4*k+1] += int(word >> 16 & math.MaxUint16)
			s[4*k+2] += int(word >> 32 & math.MaxUint16)
			s[4*k+3] += int(word >> 48)
		}
		steps = steps[n:]
	}
}

// walkerSet is what a goroutine reads curves with.
type walkerSet [abreast]*walker

func newWalkers(p *Protocol) *walkerSet {
	out := &walkerSet{}
	for lane := range out {
		out[lane] = newWalker(p)
	}
	return out
}

// statistics returns, for every weighting, the sensitivity at each of
// Protocol.FPPI, their mean, AP, and the figures of merit.
//
// Sums stop for two things alone: a score at which a lesion was found, for AP, and a stretch
// in which the false positives pass the next operating point.
func (r *Result) statistics(walkers *walkerSet, of []weightWords, heaviest int, lanes []weighting) (out [abreast][]float64) {
	var found, fp sums
	for lane, w := range lanes {
		walkers[lane].start(w.units, w.lesions)
	}
	start := 0
	for _, s := range r.stretches {
		foundBefore, before := found, fp
		fp.add(r.steps[start:s.middle], of, heaviest)
		found.add(r.steps[s.middle:s.end], of, heaviest)
		for lane, w := range walkers[:len(lanes)] {
			if fp[lane] > w.most {
				w.pass(r.events[start:s.end], of, lane, foundBefore[lane], before[lane])
			}
			if s.end > s.middle {
				w.rise(found[lane], fp[lane])
			}
		}
		start = s.end
	}
	merits := r.merits(of, len(lanes))
	for lane := range lanes {
		walkers[lane].found = found[lane]
		figures := walkers[lane].finish()
		merits[lane].rank(figures[len(figures)-1])
		out[lane] = append(figures, merits[lane].vector()...)
	}
	return out
}

// pass reads the operating points that lie within a stretch, given the sums before it.
func (w *walker) pass(events []event, of []weightWords, lane, found, fp int) {
	afterFound, afterFP := found, fp
	for _, e := range events {
		if n := of[e.cluster].of(lane); e.found {
			afterFound += n
		} else {
			afterFP += n
		}
		if !e.last {
			continue
		}
		if afterFP > w.most {
			w.read(found, fp, afterFound, afterFP)
			w.most = w.limit()
		}
		found, fp = afterFound, afterFP
	}
}

// estimate returns the statistics of the result itself.
func (r *Result) estimate() []float64 {
	of := make([]weightWords, len(r.clusters.names))
	for i := range of {
		of[i].set(0, 1)
	}
	out := r.statistics(newWalkers(&r.Protocol), of, 1, []weighting{{r.Counts.Units, r.clusters.counted}})
	return out[0]
}

// merits sums the ratings up under each of the first weightings.
func (r *Result) merits(of []weightWords, lanes int) (out [abreast]FiguresOfMerit) {
	sum := func(ratings []rating) *[abreast]meritSum {
		var m [abreast]meritSum
		for i := range ratings {
			e := &ratings[i]
			w := &of[e.cluster]
			for lane := range lanes {
				if m[lane].add(e, float64(w.of(lane))); e.last {
					m[lane].step()
				}
			}
		}
		return &m
	}
	rated, cases := sum(r.ratings), sum(r.cases)
	for lane := range lanes {
		out[lane] = figures(&rated[lane], &cases[lane])
	}
	return out
}
