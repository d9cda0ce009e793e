package resample

import "math"

// Means is a mean of values whose clusters are resampled: a value counts as often as its
// cluster is drawn. A cluster's place is that of its first value.
type Means struct{ sum, count []float64 }

// NewMeans takes values and the names of their clusters, a name for each value.
func NewMeans(clusters []string, values []float64) Means {
	var m Means
	place := map[string]int{}
	for i, name := range clusters {
		k, known := place[name]
		if !known {
			k = len(place)
			place[name] = k
			m.sum, m.count = append(m.sum, 0), append(m.count, 0)
		}
		m.sum[k] += values[i]
		m.count[k]++
	}
	return m
}

// Mean is that of all values; NaN of none.
func (m Means) Mean() float64 {
	ones := make([]int32, len(m.sum))
	for i := range ones {
		ones[i] = 1
	}
	return m.weighted(ones)
}

// Replicates are the means of the replicates that o draws.
func (m Means) Replicates(o Options) []float64 { return m.each(o.Replicates, o.Draw) }

// Jackknife are the means without each group of clusters, for Interval.
func (m Means) Jackknife() []float64 { return m.each(JackknifeGroups(len(m.sum)), LeaveOut) }

// PermutationP is the two-sided p-value of a mean of paired differences: two systems exchanged
// within a cluster turn the sign of its differences.
func (m Means) PermutationP(o Options) float64 {
	mean := m.Mean()
	if math.IsNaN(mean) {
		return mean
	}
	count := 0.0
	for _, n := range m.count {
		count += n
	}
	exceed, exchanged := 0, make([]bool, len(m.sum))
	for k := range o.Permutations {
		o.Exchange(k, exchanged)
		sum := 0.0
		for i, v := range m.sum {
			if exchanged[i] {
				v = -v
			}
			sum += v
		}
		if AsExtreme(sum/count, mean) {
			exceed++
		}
	}
	return float64(1+exceed) / float64(1+o.Permutations)
}

func (m Means) each(n int, weigh func(k int, weights []int32)) []float64 {
	out := make([]float64, n)
	weights := make([]int32, len(m.sum))
	for k := range out {
		clear(weights)
		weigh(k, weights)
		out[k] = m.weighted(weights)
	}
	return out
}

func (m Means) weighted(weights []int32) float64 {
	var sum, count float64
	for i, w := range weights {
		sum, count = sum+float64(float64(w)*m.sum[i]), count+float64(float64(w)*m.count[i])
	}
	return sum / count
}
