package embed

import "math"

// Centered gives the embeddings of one attribute's prompts in which what its values share
// weighs as much as what tells them apart. values are the embeddings of its values, [K,E];
// of v it returns (m/|m| + (v-m)/r)/sqrt(2), with m their mean and r the mean length of
// their distances from it: encoders of sentences put "margin: smooth" and "margin:
// spiculated" at a cosine of .9 or more, since most of the words are the same. Values that do
// not differ, or are one alone, are left as they are; zeros stay zeros.
func Centered(values [][]float32, v []float32) []float32 {
	mean, length := center(values)
	spread := 0.0
	for _, value := range values {
		spread += norm2(value, mean) / float64(len(values))
	}
	if zero := make([]float64, len(v)); length == 0 || spread < 1e-6*length || norm2(v, zero) == 0 {
		return v
	}
	out := make([]float32, len(v))
	for i, x := range v {
		out[i] = float32((mean[i]/length + (float64(x)-mean[i])/spread) / math.Sqrt2)
	}
	return out
}

// center is the mean of vectors and its length.
func center(values [][]float32) (mean []float64, length float64) {
	for _, v := range values {
		if mean == nil {
			mean = make([]float64, len(v))
		}
		for i, x := range v {
			mean[i] += float64(x) / float64(len(values))
		}
	}
	for _, m := range mean {
		length += m * m
	}
	return mean, math.Sqrt(length)
}

// norm2 is the Euclidean distance of v from the point.
func norm2(v []float32, point []float64) float64 {
	sum := 0.0
	for i, x := range v {
		d := float64(x) - point[i]
		sum += d * d
	}
	return math.Sqrt(sum)
}
