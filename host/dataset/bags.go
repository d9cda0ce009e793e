package dataset

import (
	"math/rand/v2"
	"slices"
)

// defaultBagSize is the number of patches of a bag where none is asked for.
const defaultBagSize = 64

// Bags divide cases that are bags of more patches than size into bags of at most size, spread
// over the slide alike, which show every patch once. of is the case that each is of; where
// nothing is to be divided, bags are the cases and of is nil.
func Bags(cases []Case, size int) (bags []Case, of []int) {
	if size == 0 {
		size = defaultBagSize
	}
	if !slices.ContainsFunc(cases, func(c Case) bool { return len(c.Patches) > size }) {
		return cases, nil
	}
	for i, c := range cases {
		n := max(1, (len(c.Patches)+size-1)/size)
		for first := range n {
			bag := c
			bag.Patches = nil
			for k := first; k < len(c.Patches); k += n {
				bag.Patches = append(bag.Patches, c.Patches[k])
			}
			bags, of = append(bags, bag), append(of, i)
		}
	}
	return bags, of
}

// draw chooses the patches of a case's bag: in training at random, without one coming twice as
// long as there are others; else spread over all of them. Of fewer than a bag's some come again.
func (l *Loader) draw(c *Case, rng *rand.Rand) []Patch {
	n, size := len(c.Patches), l.opt.Load.BagSize
	if size == 0 {
		size = defaultBagSize
	}
	var order []int
	if l.opt.Shuffle {
		order = rng.Perm(n)
	}
	bag := make([]Patch, size)
	for k := range bag {
		at := k % n
		switch {
		case order != nil:
			at = order[k%n]
		case n > size:
			at = k * n / size
		}
		bag[k] = c.Patches[at]
	}
	return bag
}

// planBag plans each patch of a bag as a picture of its own.
func (l *Loader) planBag(p *plan, rng *rand.Rand) {
	bag := l.draw(p.c, rng)
	for _, patch := range bag {
		p.picks = append(p.picks, patch.Number)
	}
	for _, m := range l.modalities {
		for _, patch := range bag {
			one := &plan{c: &Case{ID: p.c.ID, at: p.c.at, Images: map[string]string{m: patch.Path}},
				geometry: map[string]*Geometry{}, contentHeight: map[string]int{}, contentWidth: map[string]int{}}
			l.planModality(one, m, l.data.sizes[patch.Path], [4]float64{}, rng)
			one.color, one.noiseSeed = l.drawColor(rng), rng.Uint64()
			p.patches = append(p.patches, one)
			p.contentHeight[m], p.contentWidth[m] = max(p.contentHeight[m], one.contentHeight[m]), max(p.contentWidth[m], one.contentWidth[m])
		}
		p.geometry[m] = p.patches[0].geometry[m]
	}
}
