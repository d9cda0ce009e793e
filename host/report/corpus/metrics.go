package corpus

import (
	"encoding/json"
	"math"
)

// Score is precision, recall and their harmonic mean in percent, from counts. A
// figure that is 0/0 is NaN, null in JSON.
type Score struct {
	TP, FP, FN            int
	Precision, Recall, F1 float64
}

// NewScore computes a score.
func NewScore(tp, fp, fn int) Score {
	return Score{
		TP: tp, FP: fp, FN: fn,
		Precision: percent(tp, tp+fp),
		Recall:    percent(tp, tp+fn),
		F1:        percent(2*tp, 2*tp+fp+fn),
	}
}

func percent(n, of int) float64 {
	if of == 0 {
		return math.NaN()
	}
	return 100 * float64(n) / float64(of)
}

// MarshalJSON writes undefined figures as null and rounds to 0.01.
func (s Score) MarshalJSON() ([]byte, error) {
	round := func(v float64) *float64 {
		if math.IsNaN(v) {
			return nil
		}
		v = math.Round(v*100) / 100
		return &v
	}
	return json.Marshal(struct {
		Precision *float64 `json:"precision"`
		Recall    *float64 `json:"recall"`
		F1        *float64 `json:"f1"`
		TP        int      `json:"tp"`
		FP        int      `json:"fp"`
		FN        int      `json:"fn"`
	}{round(s.Precision), round(s.Recall), round(s.F1), s.TP, s.FP, s.FN})
}

// counts gathers a two-class confusion.
type counts struct{ tp, fp, fn, tn int }

func (c *counts) add(gold, predicted bool) {
	switch {
	case gold && predicted:
		c.tp++
	case gold:
		c.fn++
	case predicted:
		c.fp++
	default:
		c.tn++
	}
}

func (c *counts) plus(o counts) {
	c.tp += o.tp
	c.fp += o.fp
	c.fn += o.fn
	c.tn += o.tn
}

func (c counts) score() Score { return NewScore(c.tp, c.fp, c.fn) }
