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

// Ranks are places in a list of count: Chosen, ascending, or all of them where it is nil.
type Ranks struct {
	Count  int
	Chosen []int
}

// Len is the number of places.
func (r Ranks) Len() int {
	if r.Chosen != nil {
		return len(r.Chosen)
	}
	return r.Count
}

// Ranks draws from the numbers of positives and backgrounds of an image; what is drawn depends
// on them and on rng alone.
func (s Sampler) Ranks(positive, background int, rng *rand.Rand) (positives, backgrounds Ranks) {
	positives = draw(positive, int(float64(s.Count)*s.PositiveFraction), rng)
	return positives, draw(background, s.Count-positives.Len(), rng)
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
	p, b := s.Ranks(positive, background, rng)
	return pick(assigned, p, func(a int32) bool { return a >= 0 }), pick(assigned, b, func(a int32) bool { return a == Background })
}

// draw draws want of count places without replacement.
func draw(count, want int, rng *rand.Rand) Ranks {
	if count <= want {
		return Ranks{Count: count}
	}
	// Floyd's algorithm: want distinct ranks below count, without a list of all.
	chosen, ranks := make(map[int]bool, want), make([]int, 0, want)
	for j := count - want; j < count; j++ {
		r := rng.IntN(j + 1)
		if chosen[r] {
			r = j
		}
		chosen[r] = true
		ranks = append(ranks, r)
	}
	slices.Sort(ranks)
	return Ranks{count, ranks}
}

// pick gives the indices at ranks among those that satisfy is.
func pick(assigned []int32, ranks Ranks, is func(int32) bool) []int {
	out := make([]int, 0, ranks.Len())
	rank := 0
	for i, a := range assigned {
		if len(out) == ranks.Len() {
			break
		}
		if is(a) {
			if ranks.Chosen == nil || ranks.Chosen[len(out)] == rank {
				out = append(out, i)
			}
			rank++
		}
	}
	return out
}
