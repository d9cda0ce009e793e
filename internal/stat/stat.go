// Package stat holds the few statistics that several rooms need and gonum has not.
package stat

import (
	"math"
	"slices"
)

// Softmax turns log-weights into probabilities; nil of nothing.
func Softmax(z []float64) []float64 {
	if len(z) == 0 {
		return nil
	}
	high := slices.Max(z)
	out := make([]float64, len(z))
	var sum float64
	for i, v := range z {
		out[i] = math.Exp(v - high)
		sum += out[i]
	}
	for i := range out {
		out[i] /= sum
	}
	return out
}

// Median is the middle value, or the mean of the two middle ones; NaN of nothing.
func Median(values []float64) float64 {
	n := len(values)
	if n == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(values))
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// Quantile interpolates linearly between order statistics (type 7 of Hyndman and
// Fan, the default of numpy and R). sorted must ascend. It is NaN of nothing and for
// a q outside 0 to 1. Evaluations are made of it: its products are rounded by themselves.
func Quantile(sorted []float64, q float64) float64 {
	if len(sorted) == 0 || !(q >= 0 && q <= 1) {
		return math.NaN()
	}
	at := float64(q * float64(len(sorted)-1))
	i := int(at)
	if i >= len(sorted)-1 {
		return sorted[len(sorted)-1]
	}
	return sorted[i] + float64((at-float64(i))*(sorted[i+1]-sorted[i]))
}

// ArgMax is the place of the greatest value, the first of equals; -1 of nothing. NaN is
// never the greatest unless it stands first.
func ArgMax[T float32 | float64](values []T) int {
	best := -1
	for i, v := range values {
		if best < 0 || v > values[best] {
			best = i
		}
	}
	return best
}
