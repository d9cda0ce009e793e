package froc

import (
	"math"
	"slices"
	"sort"
)

// near finds the lesions of an image that a mark may hit, without comparing it with all of
// them. It is right for every rule: what it passes over no rule can hit.
type near struct {
	axis    int // along which the lesions are ordered: 0 x, 1 y
	reaches []reach
	widest  float64 // of the reaches, along the axis
	found   []int32
}

// reach is where the bounding box of a mark must touch for it to hit a lesion, in x and y.
type reach struct {
	low, high [2]float64
	at        int32 // place in the list of lesions
}

// fewLesions are faster compared one by one.
var fewLesions = 24 // tests change it

// index prepares the lesions of an image; it reports whether it is worth it.
func (n *near) index(m *matcher, lesions []int32) bool {
	if len(lesions) < fewLesions || len(m.order) < fewLesions {
		return false
	}
	n.reaches = n.reaches[:0]
	for at, j := range lesions {
		l := &m.truth.Lesions[j]
		r := reach{low: [2]float64{math.Inf(1), math.Inf(1)}, high: [2]float64{math.Inf(-1), math.Inf(-1)}, at: int32(at)}
		for k := range m.rule(l) {
			r.extend(&m.rule(l)[k], &l.Region, &m.frame)
		}
		n.reaches = append(n.reaches, r)
	}
	var spread [2]float64 // of the lesions, in widths of the widest
	var widest [2]float64
	for a := range widest {
		low, high := math.Inf(1), math.Inf(-1)
		for _, r := range n.reaches {
			low, high = min(low, r.low[a]), max(high, r.high[a])
			widest[a] = max(widest[a], r.high[a]-r.low[a])
		}
		if spread[a] = (high - low) / widest[a]; !(spread[a] > 0) {
			spread[a] = 0 // a rule without bound
		}
	}
	n.axis = 0
	if spread[1] > spread[0] {
		n.axis = 1
	}
	n.widest = widest[n.axis]
	slices.SortFunc(n.reaches, func(a, b reach) int {
		if a.low[n.axis] < b.low[n.axis] {
			return -1
		}
		if a.low[n.axis] > b.low[n.axis] {
			return 1
		}
		return int(a.at - b.at)
	})
	return spread[n.axis] > 2
}

// extend makes room for what a criterion can hit; a little more, as both are rounded.
func (r *reach) extend(c *Criterion, l *Region, f *frame) {
	low, high := l.Bounds()
	centre := l.Centre()
	for a := range r.low {
		from, to := low[a]-1, high[a]+1 // the +1 convention, and voxels beside corners
		switch c.Measure {
		case Distance, InPlane:
			limit := max(c.Threshold*f.unit(c.Unit, l), c.AtLeast) / f.spacing[a]
			from, to = centre[a]-limit, centre[a]+limit
		case Slices:
			from, to = math.Inf(-1), math.Inf(1)
		}
		slack := float64(1e-9 * (1 + math.Abs(from) + math.Abs(to)))
		r.low[a], r.high[a] = min(r.low[a], from-slack), max(r.high[a], to+slack)
	}
}

// of returns the lesions that a mark may hit, in the order of the list.
func (n *near) of(p *Region) []int32 {
	low, high := p.Bounds()
	a, b := n.axis, 1-n.axis
	n.found = n.found[:0]
	first := sort.Search(len(n.reaches), func(k int) bool { return n.reaches[k].low[a] >= low[a]-float64(n.widest*(1+1e-9)) })
	for k := first; k < len(n.reaches) && n.reaches[k].low[a] <= high[a]; k++ {
		if r := &n.reaches[k]; r.high[a] >= low[a] && r.low[b] <= high[b] && r.high[b] >= low[b] {
			n.found = append(n.found, r.at)
		}
	}
	slices.Sort(n.found)
	return n.found
}
