package froc

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/alignedfusion/alignedfusion/eval/resample"
)

// Fate is what became of a prediction.
type Fate uint8

// The fates of a prediction.
const (
	TruePositive Fate = iota + 1 // found a lesion
	FalseAlarm                   // hit nothing, or a lesion already found where duplicates count: a false positive
	Duplicate                    // hit only lesions already found, where duplicates are free
	IgnoredMark                  // hit an ignored lesion and no other
	OverCap                      // dropped by the limit of marks per image
)

var fateNames = [...]string{"", "true positive", "false positive", "duplicate", "ignored", "over cap"}

// String returns the fate in words.
func (f Fate) String() string {
	if int(f) < len(fateNames) {
		return fateNames[f]
	}
	return fmt.Sprintf("fate %d", uint8(f))
}

// matching holds the fate of every prediction and lesion; slices are parallel
// to the predictions and to the lesions.
type matching struct {
	fate   []Fate
	lesion []int32   // per prediction: the lesion it hits best, ignored ones included; -1: none
	found  []int32   // per lesion: the prediction that found it; -1: none
	raw    []float64 // per lesion: the raw measure of that hit, by the first criterion
}

// candidate is one pair that satisfies the hit rule.
type candidate struct {
	prediction, lesion int32
	quality            float64 // greater is better
	raw                float64
}

type matcher struct {
	protocol    *Protocol
	truth       *Truth
	predictions []Prediction
	frame       frame // of the present image
	out         *matching

	order      []int32
	scores     []float64
	near       near
	candidates []candidate
	byBest     []float64 // per position in order: quality of the best candidate
	offsets    []int
}

// match runs the protocol's matching, image by image, on all processors.
func match(ctx context.Context, t *Truth, predictions []Prediction, p *Protocol) (*matching, error) {
	out := &matching{
		fate:   make([]Fate, len(predictions)),
		lesion: make([]int32, len(predictions)),
		found:  make([]int32, len(t.Lesions)),
		raw:    make([]float64, len(t.Lesions)),
	}
	for i := range out.found {
		out.found[i] = -1
		out.raw[i] = math.NaN()
	}
	predictionsOf := groupByImage(len(t.Images), len(predictions), func(i int) int { return predictions[i].Image })
	lesionsOf := groupByImage(len(t.Images), len(t.Lesions), func(i int) int { return t.Lesions[i].Image })

	const block = 256 // images handed out at a time
	err := resample.ParallelContext(ctx, (len(t.Images)+block-1)/block, func(next func() (int, bool)) {
		m := matcher{protocol: p, truth: t, predictions: predictions, out: out}
		for k, ok := next(); ok; k, ok = next() {
			for i := k * block; i < min((k+1)*block, len(t.Images)); i++ {
				m.frame = p.frame(&t.Images[i])
				m.image(predictionsOf.of(i), lesionsOf.of(i))
			}
		}
	})
	return out, err
}

// frame returns what the pairs of an image are measured in.
func (p *Protocol) frame(im *Image) frame {
	f := frame{tolerance: p.SliceTolerance, spacing: noSpacing, depth: float64(im.Slices)}
	if p.PlusOne {
		f.plusOne = 1
	}
	for a, v := range im.SpacingMM {
		if v > 0 {
			f.spacing[a] = v
		}
	}
	return f
}

// groups is a counting sort of items by image.
type groups struct {
	starts []int32
	items  []int32
}

func (g groups) of(image int) []int32 { return g.items[g.starts[image]:g.starts[image+1]] }

func groupByImage(images, n int, image func(int) int) groups {
	g := groups{starts: make([]int32, images+1), items: make([]int32, n)}
	for i := range n {
		g.starts[image(i)+1]++
	}
	for i := range images {
		g.starts[i+1] += g.starts[i]
	}
	next := slices.Clone(g.starts)
	for i := range n {
		k := image(i)
		g.items[next[k]] = int32(i)
		next[k]++
	}
	return g
}

// image decides the fates of one image's predictions.
func (m *matcher) image(predictions, lesions []int32) {
	m.order = m.order[:0]
	for _, i := range predictions {
		m.out.lesion[i] = -1
		m.order = append(m.order, i)
	}
	m.cap()
	m.findCandidates(lesions)
	switch {
	case m.protocol.Assignment == ByOverlap:
		m.assignByOverlap()
	case m.protocol.Duplicates == Free && m.protocol.Multiple != One:
		m.assignFree()
	default:
		m.assignGreedy()
	}
}

// cap drops the marks over the protocol's limit from m.order.
func (m *matcher) cap() {
	limit := m.protocol.MaxPerImage
	if limit == 0 || len(m.order) <= limit {
		return
	}
	if m.protocol.Ties == InputOrder {
		slices.SortStableFunc(m.order, func(a, b int32) int { return cmp.Compare(m.predictions[b].Score, m.predictions[a].Score) })
		for _, i := range m.order[limit:] {
			m.out.fate[i] = OverCap
		}
		m.order = m.order[:limit]
		return
	}
	m.scores = m.scores[:0]
	for _, i := range m.order {
		m.scores = append(m.scores, m.predictions[i].Score)
	}
	slices.SortFunc(m.scores, func(a, b float64) int { return cmp.Compare(b, a) })
	kept := m.order[:0]
	for _, i := range m.order {
		score := m.predictions[i].Score
		if score > m.scores[limit] || m.protocol.CapTies == KeepTies && score >= m.scores[limit-1] {
			kept = append(kept, i)
		} else {
			m.out.fate[i] = OverCap
		}
	}
	m.order = kept
}

// findCandidates lists, for every prediction in m.order, the counted lesions it
// hits, and notes in m.out.fate whether it hits an ignored one.
func (m *matcher) findCandidates(lesions []int32) {
	m.candidates, m.byBest, m.offsets = m.candidates[:0], m.byBest[:0], m.offsets[:0]
	indexed := m.near.index(m, lesions)
	for _, i := range m.order {
		m.offsets = append(m.offsets, len(m.candidates))
		best, ignored := math.Inf(-1), candidate{lesion: -1}
		m.out.fate[i] = FalseAlarm
		if indexed {
			for _, at := range m.near.of(&m.predictions[i].Region) {
				best = m.compare(i, lesions[at], best, &ignored)
			}
		} else {
			for _, j := range lesions {
				best = m.compare(i, j, best, &ignored)
			}
		}
		m.byBest = append(m.byBest, best)
	}
	m.offsets = append(m.offsets, len(m.candidates))
}

// compare adds lesion j to the candidates of prediction i when the mark hits it, and returns
// the quality of the best candidate; best and ignored are those before.
func (m *matcher) compare(i, j int32, best float64, ignored *candidate) float64 {
	if m.otherClass(i, j) {
		return best
	}
	l := &m.truth.Lesions[j]
	rule := m.rule(l)
	raw, hit := hits(rule, &m.predictions[i].Region, &m.truth.Lesions[j].Region, &m.frame)
	if !hit {
		return best
	}
	c := candidate{i, j, rule[0].quality(raw), raw}
	if l.Ignore {
		if ignored.lesion < 0 || m.betterLesion(c, *ignored) {
			*ignored = c
		}
		m.out.fate[i], m.out.lesion[i] = IgnoredMark, ignored.lesion
		return best
	}
	first := m.offsets[len(m.offsets)-1]
	if m.protocol.Multiple == Best && len(m.candidates) > first {
		if m.betterLesion(c, m.candidates[first]) {
			m.candidates[first] = c
		}
	} else {
		m.candidates = append(m.candidates, c)
	}
	return max(best, c.quality)
}

// rule returns the hit rule for a lesion.
func (m *matcher) rule(l *Lesion) []Criterion {
	if l.Ignore && !l.otherStratum {
		return m.protocol.ignoreHit()
	}
	return m.protocol.Hit
}

// otherClass reports whether prediction i is of another class than lesion j.
func (m *matcher) otherClass(i, j int32) bool {
	if len(m.truth.Classes) == 0 || m.protocol.Classes == AnyClasses {
		return false
	}
	p, l := m.predictions[i].Class, m.truth.Lesions[j].Class
	return p != l && p != AnyClass && l != AnyClass
}

// hits reports whether one of a rule's criteria holds for a mark and a lesion; raw is the
// measure of the first criterion, which ranks hits.
func hits(rule []Criterion, mark, lesion *Region, f *frame) (raw float64, hit bool) {
	raw, hit = rule[0].measure(mark, lesion, f)
	for k := 1; k < len(rule) && !hit; k++ {
		_, hit = rule[k].measure(mark, lesion, f)
	}
	return raw, hit
}

// assignFree: each lesion is found by its highest-scoring hit, each prediction
// finds all lesions for which it is that hit, and other hits are duplicates.
func (m *matcher) assignFree() {
	for k, i := range m.order {
		mine := m.candidates[m.offsets[k]:m.offsets[k+1]]
		if len(mine) == 0 {
			continue
		}
		m.out.fate[i] = Duplicate
		best := mine[0]
		for _, c := range mine {
			if m.betterLesion(c, best) {
				best = c
			}
			current := m.out.found[c.lesion]
			if current < 0 || m.betterFinder(c, candidate{current, c.lesion, m.protocol.Hit[0].quality(m.out.raw[c.lesion]), 0}) {
				m.out.found[c.lesion], m.out.raw[c.lesion] = i, c.raw
			}
		}
		m.out.lesion[i] = best.lesion
	}
	for _, c := range m.candidates {
		if m.out.found[c.lesion] == c.prediction {
			m.out.fate[c.prediction] = TruePositive
			if m.out.found[m.out.lesion[c.prediction]] != c.prediction {
				m.out.lesion[c.prediction] = c.lesion
			}
		}
	}
}

// betterFinder orders two hits on one lesion: score, then quality, then content.
func (m *matcher) betterFinder(a, b candidate) bool {
	pa, pb := &m.predictions[a.prediction], &m.predictions[b.prediction]
	if m.protocol.Ties == InputOrder {
		return cmp.Or(cmp.Compare(pa.Score, pb.Score), cmp.Compare(b.prediction, a.prediction)) > 0
	}
	return cmp.Or(
		cmp.Compare(pa.Score, pb.Score),
		cmp.Compare(a.quality, b.quality),
		compareMarks(pb, pa),
	) > 0
}

// compareMarks and compareLesions order by content, so that the order of input never matters.
func compareMarks(a, b *Prediction) int {
	return cmp.Or(compareRegions(&a.Region, &b.Region), cmp.Compare(a.Class, b.Class))
}

func compareLesions(a, b *Lesion) int {
	return cmp.Or(compareRegions(&a.Region, &b.Region), cmp.Compare(a.Class, b.Class))
}

// betterLesion orders two hits of one prediction: quality, then content.
func (m *matcher) betterLesion(a, b candidate) bool {
	if m.protocol.Ties == InputOrder { // COCOeval takes the last of equals
		return cmp.Or(cmp.Compare(a.quality, b.quality), cmp.Compare(a.lesion, b.lesion)) > 0
	}
	return cmp.Or(
		cmp.Compare(a.quality, b.quality),
		compareLesions(&m.truth.Lesions[b.lesion], &m.truth.Lesions[a.lesion]),
	) > 0
}

// assignGreedy walks the predictions by descending score; each takes lesions
// not yet found. Within equal scores the better hit goes first and content
// decides the rest, so that the order of input never matters.
func (m *matcher) assignGreedy() {
	positions := make([]int, len(m.order))
	for k := range positions {
		positions[k] = k
	}
	slices.SortFunc(positions, func(a, b int) int {
		pa, pb := &m.predictions[m.order[a]], &m.predictions[m.order[b]]
		if m.protocol.Ties == InputOrder {
			return cmp.Or(cmp.Compare(pb.Score, pa.Score), cmp.Compare(m.order[a], m.order[b]))
		}
		return cmp.Or(
			cmp.Compare(pb.Score, pa.Score),
			cmp.Compare(m.byBest[b], m.byBest[a]),
			compareMarks(pa, pb),
		)
	})
	for _, k := range positions {
		i := m.order[k]
		mine := m.candidates[m.offsets[k]:m.offsets[k+1]]
		if len(mine) == 0 {
			continue
		}
		ignored := m.out.fate[i] == IgnoredMark
		best, bestFree := -1, -1
		for n, c := range mine {
			if best < 0 || m.betterLesion(c, mine[best]) {
				best = n
			}
			if m.out.found[c.lesion] >= 0 {
				continue
			}
			if bestFree < 0 || m.betterLesion(c, mine[bestFree]) {
				bestFree = n
			}
			if m.protocol.Multiple == All {
				m.out.found[c.lesion], m.out.raw[c.lesion] = i, c.raw
			}
		}
		switch {
		case bestFree >= 0:
			c := mine[bestFree]
			m.out.found[c.lesion], m.out.raw[c.lesion] = i, c.raw
			m.out.fate[i], m.out.lesion[i] = TruePositive, c.lesion
		case m.protocol.Duplicates == Free:
			m.out.fate[i], m.out.lesion[i] = Duplicate, mine[best].lesion
		case ignored:
			// the second mark on a found lesion that also lies on an ignored one
		default:
			m.out.fate[i], m.out.lesion[i] = FalseAlarm, mine[best].lesion
		}
	}
}
