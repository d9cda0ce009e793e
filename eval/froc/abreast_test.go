package froc

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
)

// step moves to the next point of the curve.
func (w *walker) step(found, fp int) {
	if found == w.found && fp == w.fp {
		return
	}
	if fp > w.most {
		w.read(w.found, w.fp, found, fp)
		w.most = w.limit()
	}
	w.rise(found, fp)
	w.found, w.fp = found, fp
}

// walked is what statistics returns for one weighting, read step by step.
func walked(r *Result, drawn []int32, w weighting) []float64 {
	one := newWalker(&r.Protocol)
	one.start(w.units, w.lesions)
	found, fp := 0, 0
	for _, e := range r.events {
		if n := int(drawn[e.cluster]); e.found {
			found += n
		} else {
			fp += n
		}
		if e.last {
			one.step(found, fp)
		}
	}
	out := one.finish()
	m := meritUnder(r, drawn)
	m.rank(out[len(out)-1])
	return append(out, m.vector()...)
}

func TestWeightingsSideBySideAreThoseOfEach(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	for _, c := range []struct {
		images, marks int
		digits        float64 // of scores: few make ties
		heaviest      int
	}{{5, 40, 9, 3}, {5, 40, 1e9, math.MaxUint16}, {60, 9000, 200, 4}, {60, 9000, 1e9, 900}, {400, 12000, 1e9, 6}, {3, 9000, 1, 2}} {
		truth, predictions := benchmarkData(c.images, c.marks)
		for i := range predictions {
			predictions[i].Score = math.Floor(predictions[i].Score*c.digits) / c.digits
		}
		for _, p := range []Protocol{DeepLesion(), StrictProtocol(), COCO(0.5), PICAI()} {
			p.MaxPerImage, p.Assignment, p.FPPI = 0, ByScore, []float64{0, 0.3, 1, 8, 90, 1e9}
			r := mustEvaluate(t, truth, predictions, p)
			words, lanes, heaviest := make([]weightWords, r.Clusters()), make([]weighting, 1+rng.IntN(abreast)), 0
			drawn := make([][]int32, len(lanes))
			for lane := range lanes {
				drawn[lane] = make([]int32, r.Clusters())
				for k := range drawn[lane] {
					n := rng.IntN(c.heaviest + 1)
					drawn[lane][k], heaviest = int32(n), max(heaviest, n)
					words[k].set(lane, int32(n))
				}
				lanes[lane] = r.clusters.weighting(drawn[lane])
			}
			all := r.statistics(newWalkers(&r.Protocol), words, heaviest, lanes)
			for lane := range lanes {
				want, got := walked(r, drawn[lane], lanes[lane]), all[lane]
				if fmt.Sprint(got) != fmt.Sprint(want) {
					t.Errorf("%s, %+v, weighting %d: %v, want %v", p.Name, c, lane, got, want)
				}
			}
		}
	}
}
