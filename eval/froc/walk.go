package froc

import "math"

// walker reads the operating points and the average precision off a curve that
// is handed to it step by step, from the highest threshold down. It is what the
// estimate, the bootstrap and the permutation test share.
type walker struct {
	fppi           []float64
	linear         bool
	ap             APRule
	units, lesions int

	out       []float64 // sensitivity at each of fppi, their mean, AP
	found, fp int       // after the last step
	apFound   []int     // points at which more lesions were found
	apFP      []int
}

func newWalker(p *Protocol) *walker {
	return &walker{fppi: p.FPPI, linear: p.Interpolation == Linear, ap: p.AP}
}

// start begins a curve of so many units and lesions.
func (w *walker) start(units, lesions int) {
	w.units, w.lesions = units, lesions
	w.out = make([]float64, 0, len(w.fppi)+6)
	w.found, w.fp = 0, 0
	w.apFound, w.apFP = w.apFound[:0], w.apFP[:0]
}

// step moves to the next point of the curve.
func (w *walker) step(found, fp int) {
	if found == w.found && fp == w.fp {
		return
	}
	w.read(w.found, w.fp, found, fp)
	w.rise(found, fp)
	w.found, w.fp = found, fp
}

// read takes the operating points from one point of the curve up to the next,
// which is excluded.
func (w *walker) read(found, fp, nextFound, nextFP int) {
	for len(w.out) < len(w.fppi) {
		x := w.fppi[len(w.out)]
		if float64(nextFP)/float64(w.units) <= x {
			break
		}
		s := float64(found)
		if w.linear {
			s += float64(nextFound-found) * (float64(x*float64(w.units)) - float64(fp)) / float64(nextFP-fp)
		}
		w.out = append(w.out, s/float64(w.lesions))
	}
}

// rise notes a point for average precision. Of points with equal recall the
// first is the most precise.
func (w *walker) rise(found, fp int) {
	if n := len(w.apFound); n == 0 && found > 0 || n > 0 && found > w.apFound[n-1] {
		w.apFound, w.apFP = append(w.apFound, found), append(w.apFP, fp)
	}
}

// finish returns the sensitivity at each of Protocol.FPPI, their mean, and AP.
func (w *walker) finish() []float64 {
	for len(w.out) < len(w.fppi) {
		w.out = append(w.out, float64(w.found)/float64(w.lesions))
	}
	sum := 0.0
	for _, s := range w.out {
		sum += s
	}
	return append(w.out, sum/float64(len(w.fppi)), w.averagePrecision())
}

// averagePrecision of precision = lesions found / (lesions found + false
// positives) against recall = lesions found / lesions. Duplicates that the
// protocol sets free lower nothing. AllPoints is the area under the envelope of
// precision (the greatest at a recall or beyond), RecallGrid is COCOeval's mean
// of the envelope at recall 0, 0.01, …, 1.
func (w *walker) averagePrecision() float64 {
	if w.lesions == 0 {
		return math.NaN()
	}
	area, envelope := 0.0, 0.0
	at := len(w.apFound) - 1
	precision := func() float64 { return float64(w.apFound[at]) / float64(w.apFound[at]+w.apFP[at]) }
	if w.ap == RecallGrid {
		for k := 100; k >= 0; k-- {
			recall := min(float64(k)*0.01, 1) // numpy.linspace(0, 1, 101), to the last bit
			for ; at >= 0 && float64(w.apFound[at])/float64(w.lesions) >= recall; at-- {
				envelope = max(envelope, precision())
			}
			area += envelope / 101
		}
		return area
	}
	if w.ap == StepPrecision {
		before := 0
		for at = 0; at < len(w.apFound); at++ {
			area += float64(float64(w.apFound[at]-before) / float64(w.lesions) * precision())
			before = w.apFound[at]
		}
		return area
	}
	for ; at >= 0; at-- {
		envelope = max(envelope, precision())
		before := 0
		if at > 0 {
			before = w.apFound[at-1]
		}
		area += float64(float64(w.apFound[at]-before) / float64(w.lesions) * envelope)
	}
	return area
}

// packed is a step of the curve in one word, so that a replicate reads as little
// memory as possible: cluster<<2 | found<<1 | stop, where stop marks the last
// step of a score at which a lesion was found.
type packed uint32

func (r *Result) pack() {
	r.packed = make([]packed, len(r.events))
	found := false
	for i, e := range r.events {
		code := packed(e.cluster) << 2
		if e.found {
			code |= 2
			found = true
		}
		if e.last {
			if found {
				code |= 1
			}
			found = false
		}
		r.packed[i] = code
	}
}

// statistics walks the steps with the given weight per cluster and returns the
// sensitivity at each of Protocol.FPPI, their mean, AP, and the figures of merit.
//
// The walk adds weights up and stops for two things alone: a score at which a
// lesion was found, for AP, and the score at which the false positives pass the
// next operating point.
func (r *Result) statistics(w *walker, weights []int32, units, lesions int) []float64 {
	w.start(units, lesions)
	found, fp := 0, 0
	limit := w.limit()
	for i, code := range r.packed {
		n := int(weights[code>>2])
		isFound := -int(code >> 1 & 1) // 0 or all ones
		found += n & isFound
		fp += n &^ isFound
		if code&1 != 0 {
			w.rise(found, fp)
		}
		if fp > limit {
			w.pass(r, weights, i, found, fp)
			limit = w.limit()
		}
	}
	w.found = found
	figures := r.merit(weights)
	out := w.finish()
	figures.rank(out[len(out)-1])
	return append(out, figures.vector()...)
}

// limit returns the most false positives that stay within the next operating point.
func (w *walker) limit() int {
	if len(w.out) == len(w.fppi) {
		return math.MaxInt
	}
	x := w.fppi[len(w.out)]
	if x*float64(w.units) > math.MaxInt32 {
		return math.MaxInt // more than there are predictions
	}
	n := int(x * float64(w.units))
	// the product was rounded; what counts is fp/units <= x
	for float64(n+1)/float64(w.units) <= x {
		n++
	}
	for n > 0 && float64(n)/float64(w.units) > x {
		n--
	}
	return n
}

// pass reads the operating points that lie before the score of step i, given the
// sums up to and with step i.
func (w *walker) pass(r *Result, weights []int32, i, found, fp int) {
	count := func(e *event, sign int) {
		n := sign * int(weights[e.cluster])
		if e.found {
			found += n
		} else {
			fp += n
		}
	}
	end := i
	for ; !r.events[end].last; end++ {
		count(&r.events[end+1], 1)
	}
	afterFound, afterFP := found, fp
	for k := end; k >= 0 && (k == end || !r.events[k].last); k-- {
		count(&r.events[k], -1)
	}
	w.read(found, fp, afterFound, afterFP)
}

// estimate returns the statistics of the result itself.
func (r *Result) estimate() []float64 {
	weights := make([]int32, len(r.clusters.names))
	for i := range weights {
		weights[i] = 1
	}
	return r.statistics(newWalker(&r.Protocol), weights, r.Counts.Units, r.Counts.Lesions)
}
