// Package classify evaluates classifiers: accuracy, balanced accuracy, AUROC,
// recall per class and calibration, with confidence intervals clustered by
// patient, and paired comparisons of systems.
package classify

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
)

// Result is one system's predictions on labelled cases, evaluated.
type Result struct {
	Classes       []string
	Cases         int
	Metrics       Metrics
	Confusion     [][]int // [true class][predicted class]
	Labels        []int
	Predicted     []int       // class that is called: of the greatest probability, the first of equals, or by a threshold
	Probabilities [][]float64 // as given
	order         [][]int32   // per class: cases by descending probability of the class
}

// Metrics are the figures of one result. A figure that the cases leave undefined
// is NaN: the recall and AUROC of a class without cases, for instance.
type Metrics struct {
	Accuracy         float64
	BalancedAccuracy float64   // mean recall over the classes that have cases
	MacroAUROC       float64   // mean one-versus-rest AUROC over the classes that have cases and counter-cases
	ECE              float64   // expected calibration error, see calibrationBins
	Recall           []float64 // per class
	AUROC            []float64 // per class, one versus rest; ties count half
}

// calibrationBins is the number of equal-width bins of the greatest probability
// in the expected calibration error (Guo et al., On calibration of modern neural
// networks, ICML 2017, eq. 3).
const calibrationBins = 15

// ErrNoCases is returned when there is nothing to evaluate.
var ErrNoCases = errors.New("no cases: accuracy is undefined")

// Evaluate computes the metrics of probs [N][len(classes)] against labels [N],
// which are indices into classes. Each row of probs must be finite, in 0 to 1,
// and sum to 1 within 1e-3. The slices are kept and must not change.
func Evaluate(labels []int, probs [][]float64, classes []string) (*Result, error) {
	return EvaluateCalled(labels, nil, probs, classes)
}

// EvaluateCalled is Evaluate of cases that are called as called [N] says, by a threshold of the
// caller's; nil: each as its greatest probability says.
func EvaluateCalled(labels, called []int, probs [][]float64, classes []string) (*Result, error) {
	if len(labels) != len(probs) {
		return nil, fmt.Errorf("%d labels for %d rows of probabilities", len(labels), len(probs))
	}
	if called != nil && len(called) != len(labels) {
		return nil, fmt.Errorf("%d classes are called for %d labels", len(called), len(labels))
	}
	if len(labels) == 0 {
		return nil, ErrNoCases
	}
	if len(classes) < 2 {
		return nil, fmt.Errorf("%d classes, want 2 or more", len(classes))
	}
	for i, row := range probs {
		if labels[i] < 0 || labels[i] >= len(classes) {
			return nil, fmt.Errorf("case %d: label %d, want 0 to %d", i, labels[i], len(classes)-1)
		}
		if called != nil && (called[i] < 0 || called[i] >= len(classes)) {
			return nil, fmt.Errorf("case %d is called %d, want 0 to %d", i, called[i], len(classes)-1)
		}
		if err := checkRow(row, classes); err != nil {
			return nil, fmt.Errorf("case %d%w", i, err)
		}
	}
	return evaluate(labels, called, probs, classes), nil
}

func checkRow(row []float64, classes []string) error {
	if len(row) != len(classes) {
		return fmt.Errorf(": %d probabilities for %d classes", len(row), len(classes))
	}
	sum := 0.0
	for c, v := range row {
		if !(v >= 0 && v <= 1+1e-6) {
			return fmt.Errorf(", class %q: probability %v, want 0 to 1", classes[c], v)
		}
		sum += v
	}
	if math.Abs(sum-1) > 1e-3 {
		return fmt.Errorf(": probabilities sum to %v, want 1", sum)
	}
	return nil
}

// evaluate is Evaluate of input that has been checked.
func evaluate(labels, called []int, probs [][]float64, classes []string) *Result {
	r := &Result{Classes: classes, Cases: len(labels), Labels: labels, Probabilities: probs, Predicted: make([]int, len(labels))}
	r.Confusion = make([][]int, len(classes))
	r.order = make([][]int32, len(classes))
	for c := range classes {
		r.Confusion[c] = make([]int, len(classes))
		r.order[c] = make([]int32, len(labels))
		for i := range labels {
			r.order[c][i] = int32(i)
		}
		slices.SortFunc(r.order[c], func(a, b int32) int { return cmp.Compare(probs[b][c], probs[a][c]) })
	}
	for i, row := range probs {
		for c, v := range row {
			if v > row[r.Predicted[i]] {
				r.Predicted[i] = c
			}
		}
		if called != nil {
			r.Predicted[i] = called[i]
		}
		r.Confusion[labels[i]][r.Predicted[i]]++
	}
	r.Metrics = r.metrics(nil)
	return r
}

// errNoResult is returned for a result that Evaluate has not made.
var errNoResult = errors.New("no result: make one with Evaluate")

// made reports whether the result is Evaluate's.
func (r *Result) made() bool { return r != nil && r.order != nil }

// metrics computes the figures with the given weight per case (nil: 1 each).
func (r *Result) metrics(weights []int32) Metrics {
	weight := func(i int) float64 {
		if weights == nil {
			return 1
		}
		return float64(weights[i])
	}
	classes := len(r.Classes)
	m := Metrics{Recall: make([]float64, classes), AUROC: make([]float64, classes)}
	cases, right := make([]float64, classes), make([]float64, classes)
	var total, correct float64
	var binConfidence, binCorrect [calibrationBins]float64
	for i, label := range r.Labels {
		w := weight(i)
		total += w
		cases[label] += w
		confidence := r.Probabilities[i][r.Predicted[i]]
		// bins are open on the left: (0, 1/15], (1/15, 2/15], …
		bin := min(max(int(math.Ceil(confidence*calibrationBins))-1, 0), calibrationBins-1)
		binConfidence[bin] += float64(w * confidence)
		if r.Predicted[i] == label {
			correct += w
			right[label] += w
			binCorrect[bin] += w
		}
	}
	m.Accuracy = correct / total
	for b := range calibrationBins {
		m.ECE += math.Abs(binCorrect[b]-binConfidence[b]) / total
	}
	for c := range classes {
		m.Recall[c] = right[c] / cases[c]
		m.AUROC[c] = r.auroc(c, weight)
	}
	m.BalancedAccuracy, m.MacroAUROC = meanDefined(m.Recall), meanDefined(m.AUROC)
	return m
}

// auroc is the chance that a case of the class gets a greater probability for it
// than a case of another class; ties count half (Mann-Whitney).
func (r *Result) auroc(class int, weight func(int) float64) float64 {
	var positives, negatives, above float64 // above: pairs in which the case of the class stands higher
	for k := 0; k < len(r.order[class]); {
		score := r.Probabilities[r.order[class][k]][class]
		var p, n float64
		for ; k < len(r.order[class]) && r.Probabilities[r.order[class][k]][class] == score; k++ {
			i := int(r.order[class][k])
			if r.Labels[i] == class {
				p += weight(i)
			} else {
				n += weight(i)
			}
		}
		above += float64(n * (positives + float64(p/2)))
		positives += p
		negatives += n
	}
	return above / (positives * negatives)
}

func meanDefined(values []float64) float64 {
	sum, n := 0.0, 0
	for _, v := range values {
		if !math.IsNaN(v) {
			sum += v
			n++
		}
	}
	return sum / float64(n)
}
