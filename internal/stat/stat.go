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
