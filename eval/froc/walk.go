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
	most      int       // false positives within the next operating point, see limit
	apFound   []int32   // points at which more lesions were found
	apFP      []int32
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
	w.most = w.limit()
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
	if n := len(w.apFound); n == 0 && found > 0 || n > 0 && found > int(w.apFound[n-1]) {
		w.apFound, w.apFP = append(w.apFound, int32(found)), append(w.apFP, int32(fp))
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
// of the envelope at recall 0, 0.01, …, 1. Sums are divided at the end: that of a perfect
// curve is exactly 1.
func (w *walker) averagePrecision() float64 {
	if w.lesions == 0 {
		return math.NaN()
	}
	area, at := 0.0, len(w.apFound)-1
	precision := func() float64 { return float64(w.apFound[at]) / float64(w.apFound[at]+w.apFP[at]) }
	if w.ap == RecallGrid {
		envelope := 0.0
		for k := 100; k >= 0; k-- {
			recall := min(float64(k)*0.01, 1) // numpy.linspace(0, 1, 101), to the last bit
			for ; at >= 0 && float64(w.apFound[at])/float64(w.lesions) >= recall; at-- {
				envelope = max(envelope, precision())
			}
			area += envelope
		}
		return area / 101
	}
	if w.ap == StepPrecision {
		before := int32(0)
		for at = 0; at < len(w.apFound); at++ {
			area += float64(float64(w.apFound[at]-before) * precision())
			before = w.apFound[at]
		}
		return area / float64(w.lesions)
	}
	found, fps := w.apFound, w.apFP[:len(w.apFound)]
	highest := uint64(0) // the envelope's bits, in the order of numbers that are not negative
	for ; at >= 0; at-- {
		highest = max(highest, math.Float64bits(float64(found[at])/float64(found[at]+fps[at])))
		more := found[at]
		if at > 0 {
			more -= found[at-1]
		}
		area += float64(float64(more) * math.Float64frombits(highest))
	}
	return area / float64(w.lesions)
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
