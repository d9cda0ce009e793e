package froc

import (
	"cmp"
	"math"
	"slices"
)

// FiguresOfMerit are areas under AFROC curves: the chance that a lesion is rated
// higher than the highest-rated false positive of an image. Unmarked lesions and
// images without false positives have the lowest rating; equal ratings count half.
// A figure is NaN when no image qualifies.
//
// Source: Chakraborty and Berbaum, Medical Physics 31 (2004), the JAFROC figure
// of merit, which is AFROC here; Chakraborty and Zhai, Medical Physics 43 (2016)
// for the weighted figures.
type FiguresOfMerit struct {
	AFROC   float64 // against images without a counted lesion
	AFROC1  float64 // against all images
	WAFROC  float64 // as AFROC; every image with lesions weighs the same, however many it has
	WAFROC1 float64 // as AFROC1, weighted likewise
}

func (f *FiguresOfMerit) vector() []float64 {
	return []float64{f.AFROC, f.AFROC1, f.WAFROC, f.WAFROC1}
}

// rating is a lesion, or the highest false positive of an image.
type rating struct {
	score   float64 // -Inf: unmarked
	cluster int32
	lesion  bool
	normal  bool    // of an image: it has no counted lesion
	weight  float64 // of a lesion: 1 / counted lesions of its image
	last    bool    // of its score
}

// makeRatings lists lesions and images by descending rating.
func (r *Result) makeRatings() {
	highest := make([]float64, len(r.Truth.Images))
	lesions := make([]int, len(r.Truth.Images))
	for i := range highest {
		highest[i] = math.Inf(-1)
	}
	for i, f := range r.matching.fate {
		if p := &r.Predictions[i]; f == FalseAlarm {
			highest[p.Image] = max(highest[p.Image], p.Score)
		}
	}
	for i := range r.Truth.Lesions {
		if !r.Truth.Lesions[i].Ignore {
			lesions[r.Truth.Lesions[i].Image]++
		}
	}
	r.ratings = make([]rating, 0, len(highest)+r.Counts.Lesions)
	for i, score := range highest {
		r.ratings = append(r.ratings, rating{score: score, cluster: r.clusters.ofImage[i], normal: lesions[i] == 0})
	}
	for j, i := range r.matching.found {
		l := &r.Truth.Lesions[j]
		if l.Ignore {
			continue
		}
		score := math.Inf(-1)
		if i >= 0 {
			score = r.Predictions[i].Score
		}
		r.ratings = append(r.ratings, rating{
			score: score, cluster: r.clusters.ofImage[l.Image], lesion: true, weight: 1 / float64(lesions[l.Image]),
		})
	}
	slices.SortFunc(r.ratings, func(a, b rating) int { return cmp.Compare(b.score, a.score) })
	for i := range r.ratings {
		r.ratings[i].last = i+1 == len(r.ratings) || r.ratings[i+1].score != r.ratings[i].score
	}
}

// meritSum accumulates the figures of merit from ratings in descending order.
type meritSum struct {
	normal, all         float64 // images so far
	groupNormal, groupA float64 // images of the present score
	lesions, weight     float64 // of the present score
	totalLesions        float64
	totalWeight         float64
	// sums over lesions of the images rated higher, those of equal rating half
	above, aboveAll, weighted, weightedAll float64
}

func (m *meritSum) add(e *rating, n float64) {
	switch {
	case e.lesion:
		m.lesions += n
		m.weight += n * e.weight
	case e.normal:
		m.groupNormal += n
		m.groupA += n
	default:
		m.groupA += n
	}
}

// step closes a score.
func (m *meritSum) step() {
	normal, all := m.normal+m.groupNormal/2, m.all+m.groupA/2
	m.above += m.lesions * normal
	m.aboveAll += m.lesions * all
	m.weighted += m.weight * normal
	m.weightedAll += m.weight * all
	m.totalLesions += m.lesions
	m.totalWeight += m.weight
	m.normal += m.groupNormal
	m.all += m.groupA
	m.groupNormal, m.groupA, m.lesions, m.weight = 0, 0, 0, 0
}

func (m *meritSum) figures() FiguresOfMerit {
	return FiguresOfMerit{
		AFROC:   rest(m.above, m.totalLesions*m.normal),
		AFROC1:  rest(m.aboveAll, m.totalLesions*m.all),
		WAFROC:  rest(m.weighted, m.totalWeight*m.normal),
		WAFROC1: rest(m.weightedAll, m.totalWeight*m.all),
	}
}

// rest is 1 - part/whole, NaN without a whole. Sums of weights are rounded, so
// that a part may exceed its whole in the last bit.
func rest(part, whole float64) float64 {
	if whole == 0 {
		return math.NaN()
	}
	return max(0, 1-part/whole)
}

// merit sums the ratings up with the given weight per cluster (nil: 1 each).
func (r *Result) merit(weights []int32) FiguresOfMerit {
	var m meritSum
	for i := range r.ratings {
		e := &r.ratings[i]
		n := 1.0
		if weights != nil {
			n = float64(weights[e.cluster])
		}
		m.add(e, n)
		if e.last {
			m.step()
		}
	}
	return m.figures()
}
