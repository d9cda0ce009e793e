package froc

// walker reads the operating points and the average precision off a curve that
// is handed to it step by step, from the highest threshold down. It is what the
// estimate, the bootstrap and the permutation test share.
type walker struct {
	fppi           []float64
	linear         bool
	ap             string
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
	for len(w.out) < len(w.fppi) {
		x := w.fppi[len(w.out)]
		if float64(fp)/float64(w.units) <= x {
			break
		}
		s := float64(w.found)
		if w.linear {
			s += float64(found-w.found) * (x*float64(w.units) - float64(w.fp)) / float64(fp-w.fp)
		}
		w.out = append(w.out, s/float64(w.lesions))
	}
	if found > w.found {
		// of points with equal recall the first is the most precise
		w.apFound, w.apFP = append(w.apFound, found), append(w.apFP, fp)
	}
	w.found, w.fp = found, fp
}

// finish returns the sensitivity at each of Protocol.FPPI, their mean, and AP.
func (w *walker) finish() []float64 {
	for len(w.out) < len(w.fppi) {
		w.out = append(w.out, float64(w.found)/float64(w.lesions))
	}
	mean := 0.0
	for _, s := range w.out {
		mean += s / float64(len(w.fppi))
	}
	return append(w.out, mean, w.averagePrecision())
}

// averagePrecision of precision = lesions found / (lesions found + false
// positives) against recall = lesions found / lesions. Duplicates that the
// protocol sets free lower nothing. AllPoints is the area under the envelope of
// precision (the greatest at a recall or beyond), RecallGrid is COCOeval's mean
// of the envelope at recall 0, 0.01, …, 1.
func (w *walker) averagePrecision() float64 {
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
	for ; at >= 0; at-- {
		envelope = max(envelope, precision())
		before := 0
		if at > 0 {
			before = w.apFound[at-1]
		}
		area += float64(w.apFound[at]-before) / float64(w.lesions) * envelope
	}
	return area
}

// statistics walks the steps with the given weight per cluster (nil: 1 each) and
// returns the sensitivity at each of Protocol.FPPI, their mean, AP, and the
// figures of merit.
func (r *Result) statistics(w *walker, weights []int32, units, lesions int) []float64 {
	w.start(units, lesions)
	found, fp := 0, 0
	for i := range r.events {
		e := &r.events[i]
		n := 1
		if weights != nil {
			n = int(weights[e.cluster])
		}
		if e.found {
			found += n
		} else {
			fp += n
		}
		if e.last {
			w.step(found, fp)
		}
	}
	figures := r.merit(weights)
	return append(w.finish(), figures.vector()...)
}

// estimate returns the statistics of the result itself.
func (r *Result) estimate() []float64 {
	return r.statistics(newWalker(&r.Protocol), nil, r.Counts.Units, r.Counts.Lesions)
}
