package froc

import (
	"cmp"
	"math"
	"slices"

	"github.com/alignedfusion/alignedfusion/internal/stat"
)

// FiguresOfMerit are areas under curves. AFROC is the chance that a lesion is rated
// higher than the highest-rated false positive of an image. Unmarked lesions and
// images without false positives have the lowest rating; equal ratings count half.
// CaseAUROC and LROC rate an image by its highest mark, marks on ignored lesions left
// out: CaseAUROC is the chance that an image with lesions is rated higher than one
// without, LROC the chance that it is and that this mark lies on a lesion (of several
// highest marks, the share that does). A figure is NaN when no image qualifies.
//
// Source: Chakraborty and Berbaum, Medical Physics 31 (2004), the JAFROC figure
// of merit, which is AFROC here; Chakraborty and Zhai, Medical Physics 43 (2016)
// for the weighted figures; Swensson, Medical Physics 23 (1996) for LROC.
type FiguresOfMerit struct {
	AFROC   float64 // against images without a counted lesion
	AFROC1  float64 // against all images
	WAFROC  float64 // as AFROC; every image with lesions weighs the same, its lesions by Lesion.Weight
	WAFROC1 float64 // as AFROC1, weighted likewise
	// CaseAUROC is picai_eval's AUROC; Ranking is PI-CAI's score, the mean of CaseAUROC and
	// of average precision.
	CaseAUROC, LROC, Ranking float64
}

func (f *FiguresOfMerit) vector() []float64 {
	return []float64{f.AFROC, f.AFROC1, f.WAFROC, f.WAFROC1, f.CaseAUROC, f.LROC, f.Ranking}
}

// rank fills in the ranking score.
func (f *FiguresOfMerit) rank(ap float64) { f.Ranking = (f.CaseAUROC + ap) / 2 }

// rating is a lesion, or the highest false positive of an image. Among the ratings of cases
// it is an image by its highest mark.
type rating struct {
	score   float64 // -Inf: unmarked
	cluster int32
	lesion  bool    // or an image with counted lesions, as a case
	normal  bool    // of an image: it has no counted lesion
	weight  float64 // of a lesion: its share among the counted lesions of its image; of a case: 1 where its mark lies on a lesion
	last    bool    // of its score
	alone   bool    // no lesion has its score: there is nothing to weigh against it
}

// sortRatings orders ratings by score and then by content, so that sums of them are equal to
// the last bit in any order of input.
func sortRatings(ratings []rating) {
	keys, places, sorted := make([]uint64, len(ratings)), make([]uint32, len(ratings)), make([]rating, len(ratings))
	for i := range ratings {
		keys[i], places[i] = ^stat.Key(ratings[i].score), uint32(i)
	}
	stat.SortKeys(keys, places)
	for i, place := range places {
		sorted[i] = ratings[place]
	}
	copy(ratings, sorted)
	start := 0
	for i := range ratings {
		ratings[i].last = false
		if i+1 < len(ratings) && ratings[i+1].score == ratings[i].score {
			continue
		}
		slices.SortFunc(ratings[start:i+1], func(a, b rating) int {
			first := 0
			if a.lesion != b.lesion {
				first = 1
				if a.lesion {
					first = -1
				}
			}
			return cmp.Or(first, cmp.Compare(a.weight, b.weight), cmp.Compare(a.cluster, b.cluster))
		})
		ratings[i].last = true
		if !ratings[start].lesion { // lesions stand first
			for k := start; k <= i; k++ {
				ratings[k].alone, ratings[k].last = true, false
			}
		}
		start = i + 1
	}
}

// makeCases lists images by the descending score of their highest mark. lesions counts those
// of each image.
func (r *Result) makeCases(lesions []int) {
	type top struct {
		score         float64
		marks, inside int // of that score; on a counted lesion
	}
	tops := make([]top, len(r.Truth.Images))
	for i := range tops {
		tops[i].score = math.Inf(-1)
	}
	for i, f := range r.matching.fate {
		if f == OverCap || f == IgnoredMark {
			continue
		}
		t, score := &tops[r.Predictions[i].Image], r.Predictions[i].Score
		if score > t.score {
			*t = top{score: score}
		}
		if score == t.score {
			t.marks++
			if j := r.matching.lesion[i]; j >= 0 && !r.Truth.Lesions[j].Ignore {
				t.inside++
			}
		}
	}
	r.cases = make([]rating, 0, len(tops))
	for i, t := range tops {
		c := rating{score: t.score, cluster: r.clusters.ofImage[i], lesion: lesions[i] > 0, normal: lesions[i] == 0}
		if c.lesion && t.marks > 0 {
			c.weight = float64(t.inside) / float64(t.marks)
		}
		for range r.Truth.Images[i].weight() {
			r.cases = append(r.cases, c)
		}
	}
	sortRatings(r.cases)
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
	weights := make([]float64, len(r.Truth.Images))
	for i := range r.Truth.Lesions {
		if l := &r.Truth.Lesions[i]; !l.Ignore {
			lesions[l.Image]++
		}
	}
	for _, l := range byWeight(r.Truth.Lesions) {
		weights[l.Image] += l.Weight
	}
	share := func(l *Lesion) float64 {
		if weights[l.Image] > 0 {
			return l.Weight / weights[l.Image]
		}
		return 1 / float64(lesions[l.Image])
	}
	r.ratings = make([]rating, 0, len(highest)+r.Counts.Lesions)
	for i, score := range highest {
		for range r.Truth.Images[i].weight() {
			r.ratings = append(r.ratings, rating{score: score, cluster: r.clusters.ofImage[i], normal: lesions[i] == 0})
		}
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
		one := rating{score: score, cluster: r.clusters.ofImage[l.Image], lesion: true, weight: share(l)}
		for range r.Truth.Images[l.Image].weight() {
			r.ratings = append(r.ratings, one)
		}
	}
	sortRatings(r.ratings)
	r.makeCases(lesions)
}

// AFROCPoint is the share of images that a false positive lies on, and that of lesions found.
type AFROCPoint struct{ Images, Lesions float64 }

// AFROCCurve lists the steps of the AFROC curve as the threshold falls, from 0, 0 to 1, 1: the
// images are those without a counted lesion, or all. The area below it, by trapezoids, is
// FiguresOfMerit.AFROC, or AFROC1. It is nil where no lesion or no image counts.
func (r *Result) AFROCCurve(all bool) []AFROCPoint {
	var at, total AFROCPoint
	add := func(e *rating, to *AFROCPoint) {
		if e.lesion {
			to.Lesions++
		} else if all || e.normal {
			to.Images++
		}
	}
	for i := range r.ratings {
		add(&r.ratings[i], &total)
	}
	if total.Images == 0 || total.Lesions == 0 {
		return nil
	}
	curve := []AFROCPoint{{}}
	for i := range r.ratings {
		add(&r.ratings[i], &at)
		if i+1 == len(r.ratings) || r.ratings[i+1].score != r.ratings[i].score {
			curve = append(curve, AFROCPoint{at.Images / total.Images, at.Lesions / total.Lesions})
		}
	}
	return curve
}

// byWeight lists counted lesions that have a weight by it, so that sums of weights do not
// depend on the order of input.
func byWeight(lesions []Lesion) (out []*Lesion) {
	for i := range lesions {
		if l := &lesions[i]; !l.Ignore && l.Weight > 0 {
			out = append(out, l)
		}
	}
	slices.SortFunc(out, func(a, b *Lesion) int { return cmp.Compare(a.Weight, b.Weight) })
	return out
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
	case e.alone:
		m.all += n
		if e.normal {
			m.normal += n
		}
	case e.lesion:
		m.lesions += n
		m.weight += float64(n * e.weight)
	case e.normal:
		m.groupNormal += n
		m.groupA += n
	default:
		m.groupA += n
	}
}

// step closes a score.
func (m *meritSum) step() {
	normal, all := m.normal+float64(m.groupNormal/2), m.all+float64(m.groupA/2)
	m.above += float64(m.lesions * normal)
	m.aboveAll += float64(m.lesions * all)
	m.weighted += float64(m.weight * normal)
	m.weightedAll += float64(m.weight * all)
	m.totalLesions += m.lesions
	m.totalWeight += m.weight
	m.normal += m.groupNormal
	m.all += m.groupA
	m.groupNormal, m.groupA, m.lesions, m.weight = 0, 0, 0, 0
}

// figures turns the sums over ratings and over cases into areas.
func figures(m, cases *meritSum) FiguresOfMerit {
	return FiguresOfMerit{
		AFROC:     rest(m.above, m.totalLesions*m.normal),
		AFROC1:    rest(m.aboveAll, m.totalLesions*m.all),
		WAFROC:    rest(m.weighted, m.totalWeight*m.normal),
		WAFROC1:   rest(m.weightedAll, m.totalWeight*m.all),
		CaseAUROC: rest(cases.above, cases.totalLesions*cases.normal),
		LROC:      (float64(cases.totalWeight*cases.normal) - cases.weighted) / (cases.totalLesions * cases.normal),
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
