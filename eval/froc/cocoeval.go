package froc

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/alignedfusion/alignedfusion/eval/resample"
)

// COCOFigures are the twelve figures of COCOeval, means over classes. Average precision (AP)
// is over ten IoUs from 0.5 to 0.95 unless one is named, average recall (AR) the mean of the
// highest recalls at those IoUs. Areas are small below 32² pixels, large above 96². A figure
// without lesions is NaN, where COCOeval prints -1.
type COCOFigures struct {
	AP, AP50, AP75, APSmall, APMedium, APLarge     float64
	AR1, AR10, AR100, ARSmall, ARMedium, ARLarge   float64 // at most 1, 10, 100 marks per image; 100 by area
	Classes                                        []COCOClass
	Lesions, LesionsSmall, LesionsMedium, LesionsL int // without crowds
}

// COCOClass is the average precision of one class.
type COCOClass struct {
	Class    string
	AP, AP50 float64
}

// cocoAreas are the limits of areas in pixels, both included: all, small, medium, large.
var cocoAreas = [4][2]float64{{0, 1e10}, {0, 32 * 32}, {32 * 32, 96 * 96}, {96 * 96, 1e10}}

var cocoLimits = [3]int{1, 10, 100}

const cocoIoUs = 10

// cocoIoU are the IoUs from which a mark hits, as numpy.linspace(0.5, 0.95, 10) rounds them: a
// mark of exactly 0.85 hits at 0.85, which 0.5 + 7 * 0.05 in binary is above.
var cocoIoU = [cocoIoUs]float64{0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.8999999999999999, 0.95}

// COCOeval evaluates as pycocotools 2.0.11 does. Ignored lesions are crowds: marks on them, by
// intersection over the mark, count as nothing. Marks of one score are one step, unless ties
// is InputOrder, which is COCOeval's own order.
func COCOeval(t *Truth, predictions []Prediction, ties TiedScores) (*COCOFigures, error) {
	return COCOevalContext(context.Background(), t, predictions, ties)
}

// COCOevalContext is COCOeval, ended by ctx as [EvaluateContext] is.
func COCOevalContext(ctx context.Context, t *Truth, predictions []Prediction, ties TiedScores) (*COCOFigures, error) {
	p := COCO(0.5)
	p.Ties = ties
	if err := p.Check(); err != nil {
		return nil, err
	}
	if err := t.Check(); err != nil {
		return nil, err
	}
	if i := slices.IndexFunc(t.Images, func(im Image) bool { return im.weight() != 1 }); i >= 0 {
		return nil, fmt.Errorf("COCO's figures have no weights of images, and image %q weighs %d: leave the weights out", t.Images[i].ID, t.Images[i].Weight)
	}
	if err := checkPredictions(t, predictions); err != nil {
		return nil, err
	}
	if err := checkKinds(t, predictions, &p); err != nil {
		return nil, err
	}
	names := t.Classes
	if len(names) == 0 {
		names = []string{""}
	}
	// per area, limit and IoU: the values of the classes that have lesions
	precision, recall := [4][cocoIoUs][]float64{}, [4][3][]float64{}
	out := &COCOFigures{}
	for class, name := range names {
		c, err := newCOCOClass(ctx, t, predictions, int32(class), ties)
		if err != nil {
			return nil, err
		}
		for area := range cocoAreas {
			lesions := c.match(area)
			*[]*int{&out.Lesions, &out.LesionsSmall, &out.LesionsMedium, &out.LesionsL}[area] += lesions
			if lesions == 0 {
				continue
			}
			for k := range cocoIoUs {
				for l, limit := range cocoLimits {
					ap, highest := c.accumulate(k, l, lesions)
					recall[area][l] = append(recall[area][l], highest)
					if limit == 100 {
						precision[area][k] = append(precision[area][k], ap)
					}
				}
			}
			if area == 0 {
				own := COCOClass{Class: name}
				for k := range cocoIoUs {
					own.AP += precision[0][k][len(precision[0][k])-1] / cocoIoUs
				}
				own.AP50 = precision[0][0][len(precision[0][0])-1]
				out.Classes = append(out.Classes, own)
			}
		}
	}
	over := func(area int) float64 { return meanOf(slices.Concat(precision[area][:]...)) }
	out.AP, out.APSmall, out.APMedium, out.APLarge = over(0), over(1), over(2), over(3)
	out.AP50, out.AP75 = meanOf(precision[0][0]), meanOf(precision[0][5])
	out.AR1, out.AR10, out.AR100 = meanOf(recall[0][0]), meanOf(recall[0][1]), meanOf(recall[0][2])
	out.ARSmall, out.ARMedium, out.ARLarge = meanOf(recall[1][2]), meanOf(recall[2][2]), meanOf(recall[3][2])
	return out, nil
}

func meanOf(values []float64) float64 {
	sum := 0.0
	for _, v := range values {
		sum += v
	}
	return sum / float64(len(values)) // NaN of none
}

// cocoImage is one image of one class.
type cocoImage struct {
	order   int     // of the image's id
	marks   []int32 // by descending score, at most the 100th's ties
	lesions []int32
	iou     []float64 // marks by lesions
	areas   []float64 // of the marks
	fate    [cocoIoUs][]Fate
	within  [len(cocoLimits)]int // marks that each limit keeps
}

// cocoClass is one class.
type cocoClass struct {
	truth       *Truth
	predictions []Prediction
	ties        TiedScores
	images      []*cocoImage
	steps       []cocoStep // in the order of the curve
}

// cocoStep is a mark of one image on the curve of all.
type cocoStep struct {
	score float64
	image *cocoImage
	rank  int // among the image's marks
}

func newCOCOClass(ctx context.Context, t *Truth, predictions []Prediction, class int32, ties TiedScores) (*cocoClass, error) {
	c := &cocoClass{truth: t, predictions: predictions, ties: ties}
	of := func(k int32) bool { return len(t.Classes) == 0 || k == class || k == AnyClass }
	place := t.imageOrder()
	at := make([]*cocoImage, len(t.Images))
	image := func(i int) *cocoImage {
		if at[i] == nil {
			at[i] = &cocoImage{order: place[i]}
			c.images = append(c.images, at[i])
		}
		return at[i]
	}
	for j := range t.Lesions {
		if l := &t.Lesions[j]; of(l.Class) {
			im := image(l.Image)
			im.lesions = append(im.lesions, int32(j))
		}
	}
	for i := range predictions {
		if p := &predictions[i]; of(p.Class) {
			im := image(p.Image)
			im.marks = append(im.marks, int32(i))
		}
	}
	err := resample.ParallelContext(ctx, len(c.images), func(next func() (int, bool)) {
		for i, ok := next(); ok; i, ok = next() {
			c.prepare(c.images[i])
		}
	})
	for _, im := range c.images {
		for d, i := range im.marks {
			c.steps = append(c.steps, cocoStep{predictions[i].Score, im, d})
		}
		for l, limit := range cocoLimits {
			im.within[l] = c.within(im, limit)
		}
	}
	slices.SortFunc(c.steps, func(a, b cocoStep) int {
		return cmp.Or(cmp.Compare(b.score, a.score), cmp.Compare(a.image.order, b.image.order), cmp.Compare(a.rank, b.rank))
	})
	return c, err
}

// prepare sorts an image's marks and compares them with its lesions.
func (c *cocoClass) prepare(im *cocoImage) {
	best := func(i int32) float64 { return 0 }
	if c.ties == OneStep {
		quality := make(map[int32]float64, len(im.marks))
		for _, i := range im.marks {
			for _, j := range im.lesions {
				quality[i] = max(quality[i], c.overlap(i, j))
			}
		}
		best = func(i int32) float64 { return quality[i] }
		slices.SortStableFunc(im.lesions, func(a, b int32) int {
			return compareRegions(&c.truth.Lesions[a].Region, &c.truth.Lesions[b].Region)
		})
	}
	slices.SortStableFunc(im.marks, func(a, b int32) int {
		pa, pb := &c.predictions[a], &c.predictions[b]
		if d := cmp.Compare(pb.Score, pa.Score); d != 0 || c.ties == InputOrder {
			return d
		}
		return cmp.Or(cmp.Compare(best(b), best(a)), compareRegions(&pa.Region, &pb.Region))
	})
	im.marks = im.marks[:c.within(im, cocoLimits[2])]
	im.iou, im.areas = make([]float64, 0, len(im.marks)*len(im.lesions)), make([]float64, len(im.marks))
	for d, i := range im.marks {
		im.areas[d] = c.predictions[i].Region.area()
		for _, j := range im.lesions {
			im.iou = append(im.iou, c.overlap(i, j))
		}
	}
	for k := range im.fate {
		im.fate[k] = make([]Fate, len(im.marks))
	}
}

// within returns how many marks of an image a limit keeps: with OneStep those tied with the
// last as well.
func (c *cocoClass) within(im *cocoImage, limit int) int {
	n := min(limit, len(im.marks))
	if c.ties == OneStep {
		for n > 0 && n < len(im.marks) && c.predictions[im.marks[n]].Score == c.predictions[im.marks[n-1]].Score {
			n++
		}
	}
	return n
}

func (c *cocoClass) overlap(i, j int32) float64 {
	l := &c.truth.Lesions[j]
	criterion := Criterion{Measure: IoU}
	if l.Ignore {
		criterion.Measure = IoBB
	}
	return criterion.overlap(&c.predictions[i].Region, &l.Region, &frame{})
}

// match decides every mark's fate for one area and returns the number of lesions of it.
func (c *cocoClass) match(area int) int {
	low, high := cocoAreas[area][0], cocoAreas[area][1]
	outside := func(v float64) bool { return v < low || v > high }
	lesions := 0
	for _, im := range c.images {
		ignored := make([]bool, len(im.lesions))
		order := make([]int, 0, len(im.lesions)) // counted lesions first
		for g, j := range im.lesions {
			l := &c.truth.Lesions[j]
			size := l.Area
			if size == 0 {
				size = l.Region.area()
			}
			if ignored[g] = l.Ignore || outside(size); !ignored[g] {
				order = append(order, g)
			}
		}
		lesions += len(order)
		for g := range im.lesions {
			if ignored[g] {
				order = append(order, g)
			}
		}
		for k := range cocoIoUs {
			c.matchImage(im, order, ignored, k)
			for d := range im.marks {
				if im.fate[k][d] == FalseAlarm && outside(im.areas[d]) {
					im.fate[k][d] = IgnoredMark
				}
			}
		}
	}
	return lesions
}

// matchImage gives each mark the lesion it overlaps most of those left, counted ones first.
func (c *cocoClass) matchImage(im *cocoImage, order []int, ignored []bool, k int) {
	taken := make([]bool, len(im.lesions))
	for d := range im.marks {
		least, found := cocoIoU[k], -1
		for _, g := range order {
			if taken[g] && !c.truth.Lesions[im.lesions[g]].Ignore {
				continue
			}
			if found >= 0 && !ignored[found] && ignored[g] {
				break
			}
			if v := im.iou[d*len(im.lesions)+g]; v >= least {
				least, found = v, g
			}
		}
		switch {
		case found < 0:
			im.fate[k][d] = FalseAlarm
		case ignored[found]:
			im.fate[k][d] = IgnoredMark
		default:
			im.fate[k][d] = TruePositive
		}
		if found >= 0 {
			taken[found] = true
		}
	}
}

// accumulate returns average precision on 101 recall values and the highest recall, with at
// most so many marks per image as the limit says.
func (c *cocoClass) accumulate(k, limit, lesions int) (ap, recall float64) {
	w := walker{ap: RecallGrid, lesions: lesions}
	found, fp, score := 0, 0, math.NaN()
	for _, s := range c.steps {
		if s.rank >= s.image.within[limit] || s.image.fate[k][s.rank] == IgnoredMark {
			continue
		}
		if c.ties == InputOrder || s.score != score {
			w.rise(found, fp) // of the step before
		}
		score = s.score
		if s.image.fate[k][s.rank] == TruePositive {
			found++
		} else {
			fp++
		}
	}
	w.rise(found, fp)
	return w.averagePrecision(), float64(found) / float64(lesions)
}

// area returns the area of a box or a disc, or the voxels of a mask.
func (r *Region) area() float64 {
	if r.kind == KindMask {
		return float64(r.mask.voxels)
	}
	c := r.corners()
	return (c[3] - c[0]) * (c[4] - c[1])
}
