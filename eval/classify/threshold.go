package classify

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// ThresholdRule says how a threshold on the probability of the second of two classes is chosen,
// see [ParseThresholdRule].
type ThresholdRule struct {
	name string
	at   float64
}

// ParseThresholdRule reads youden (the greatest sensitivity plus specificity, Youden 1950),
// sensitivity@X (the greatest specificity at a sensitivity of at least X) or specificity@X.
func ParseThresholdRule(text string) (ThresholdRule, error) {
	name, at, hasAt := strings.Cut(text, "@")
	r := ThresholdRule{name: name}
	switch {
	case name == "youden" && !hasAt:
		return r, nil
	case (name == "sensitivity" || name == "specificity") && hasAt:
		v, err := strconv.ParseFloat(at, 64)
		if err == nil && v > 0 && v < 1 {
			r.at = v
			return r, nil
		}
		return r, fmt.Errorf("%q: %q, want a share between 0 and 1", text, at)
	}
	return r, fmt.Errorf("%q, want youden, sensitivity@X or specificity@X, with X between 0 and 1", text)
}

// Threshold is the probability from which on the second class is called: one of those of the
// cases or, where none is to be called, just more than the greatest. Of equally good ones it is
// the greatest. It is NaN unless there are cases of both of two classes.
func (r *Result) Threshold(rule ThresholdRule) float64 {
	if len(r.Classes) != 2 {
		return math.NaN()
	}
	var positives, negatives float64
	for _, label := range r.Labels {
		if label == 1 {
			positives++
		} else {
			negatives++
		}
	}
	if positives == 0 || negatives == 0 {
		return math.NaN()
	}
	order := r.order[1]
	best, threshold := math.Inf(-1), math.NaN()
	look := func(tp, fp, at float64) {
		sensitivity, specificity := tp/positives, 1-fp/negatives
		worth := sensitivity + specificity
		switch rule.name {
		case "sensitivity":
			worth = worthOf(specificity, sensitivity, rule.at)
		case "specificity":
			worth = worthOf(sensitivity, specificity, rule.at)
		}
		if worth > best+1e-12 { // shares are rounded
			best, threshold = worth, at
		}
	}
	var tp, fp float64
	look(0, 0, math.Nextafter(r.Probabilities[order[0]][1], 2))
	at := 0
	r.descend(1, nil, func(p, n float64) {
		tp, fp = tp+p, fp+n
		score := r.Probabilities[order[at]][1]
		at += int(p + n)
		look(tp, fp, score)
	})
	return threshold
}

// worthOf is the figure that is to be great, below all others where the other is too small.
func worthOf(figure, other, least float64) float64 {
	if other < least-1e-12 {
		return -1 + other // the nearest where none is enough
	}
	return figure
}
