package boxops

import (
	"math/rand/v2"
	"slices"
)

// Sampler draws a bounded number of positives and backgrounds for the loss.
type Sampler struct {
	// Count is the number drawn per image, positives and backgrounds together.
	Count int
	// PositiveFraction of Count is the most positives; backgrounds fill the rest.
	PositiveFraction float64
}

// Sample draws from assignments as Matcher.Assign returns them. Both lists are
// ascending; they depend on rng alone.
func (s Sampler) Sample(assigned []int32, rng *rand.Rand) (positives, backgrounds []int) {
	var positive, background int
	for _, a := range assigned {
		switch {
		case a >= 0:
			positive++
		case a == Background:
			background++
		}
	}
	positives = pick(assigned, positive, int(float64(s.Count)*s.PositiveFraction), rng, func(a int32) bool { return a >= 0 })
	backgrounds = pick(assigned, background, s.Count-len(positives), rng, func(a int32) bool { return a == Background })
	return positives, backgrounds
}

// pick draws want of the count indices that satisfy is, without replacement.
func pick(assigned []int32, count, want int, rng *rand.Rand, is func(int32) bool) []int {
	var ranks []int
	if count > want {
		// Floyd's algorithm: want distinct ranks below count, without a list of all.
		chosen := make(map[int]bool, want)
		for j := count - want; j < count; j++ {
			r := rng.IntN(j + 1)
			if chosen[r] {
				r = j
			}
			chosen[r] = true
			ranks = append(ranks, r)
		}
		slices.Sort(ranks)
	} else {
		for r := range count {
			ranks = append(ranks, r)
		}
	}
	out := make([]int, 0, len(ranks))
	rank := 0
	for i, a := range assigned {
		if len(out) == len(ranks) {
			break
		}
		if is(a) {
			if ranks[len(out)] == rank {
				out = append(out, i)
			}
			rank++
		}
	}
	return out
}
