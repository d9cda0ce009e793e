package froc

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/alignedfusion/alignedfusion/internal/stat"
)

// CurvePoint is the curve at one threshold: what is left when the predictions
// with score >= Threshold are kept.
type CurvePoint struct {
	Threshold      float64
	Found          int     // lesions found, as often as their images weigh
	FalsePositives int     // likewise
	FPPI           float64 // false positives per unit (image, volume or patient)
	Sensitivity    float64 // Found / lesions
}

// OperatingPoint is the sensitivity at a given number of false positives per unit.
type OperatingPoint struct {
	FPPI        float64
	Sensitivity float64
	// Threshold is the lowest score at which the false positives stay within
	// FPPI. It is NaN when already the highest score exceeds FPPI.
	Threshold float64
	// Reached is false when the system never makes that many false positives;
	// Sensitivity is then that of all its predictions, and Threshold its lowest score.
	Reached bool
}

// Counts says what was evaluated.
type Counts struct {
	Images            int `json:"images"`
	LesionFreeImages  int `json:"images_without_lesions"`
	Patients          int `json:"patients"`
	Units             int `json:"units"` // divisor of FPPI; with weights of images their sum
	Lesions           int `json:"lesions"`
	IgnoredLesions    int `json:"ignored_lesions"`
	Predictions       int `json:"predictions"`
	Found             int `json:"lesions_found"`
	TruePositives     int `json:"true_positives"` // predictions that found a lesion; fewer than Found where one found several
	FalsePositives    int `json:"false_positives"`
	Duplicates        int `json:"duplicates"`
	IgnoredMarks      int `json:"ignored_predictions"`
	OverCap           int `json:"predictions_over_cap"`
	TiedScores        int `json:"tied_predictions"` // predictions that share their score with an earlier one, cap applied
	ImagesWithoutMark int `json:"images_without_predictions"`
}

// Result is one system evaluated under one protocol. It refers to the Truth and
// the predictions it was made from, which must not change afterwards.
type Result struct {
	Protocol        Protocol
	Truth           *Truth
	Predictions     []Prediction
	Counts          Counts
	Curve           []CurvePoint     // one point per distinct score, thresholds descending
	OperatingPoints []OperatingPoint // at Protocol.FPPI
	MeanSensitivity float64          // mean over OperatingPoints
	AP              float64          // average precision by Protocol.AP
	Merit           FiguresOfMerit

	replicated *replicated // by Bootstrap or Compare

	matching *matching
	clusters clusters
	events   []event  // descending score
	ratings  []rating // descending score
	cases    []rating // the same of images by their highest mark

	stretches []stretch // of the curve, for sums over it
	steps     []uint32  // the clusters of its steps, see makeStretches
}

// event is a step of the curve: a lesion found or a false positive.
type event struct {
	score   float64
	cluster int32
	found   bool // a lesion found; otherwise a false positive
	last    bool // of its score
}

// clusters are the groups that are resampled together, sorted by name so that
// the order of input cannot matter.
type clusters struct {
	names   []string
	ofImage []int32
	lesions []int32 // counted lesions per cluster, as often as their images weigh
	units   []int32 // units per cluster
	counted int     // lesions of all clusters
}

// withLesion returns the number of clusters with a counted lesion: those that sensitivity
// is a mean over.
func (c *clusters) withLesion() int {
	n := 0
	for _, lesions := range c.lesions {
		if lesions > 0 {
			n++
		}
	}
	return n
}

// Evaluate matches predictions to the truth under the protocol. It returns an
// error when an input is malformed (see [Truth.Check]), when the hit rule
// cannot compare the given kinds of region, and [ErrNoImages] without images. No
// predictions is not an error: sensitivity is 0 everywhere. When every lesion is
// ignored or there is none, the error is [ErrNoLesions], and the result holds what
// is defined: counts and false positives; its sensitivities are NaN.
//
// Cost: O(N log N) in the predictions, plus predictions times lesions within
// each image.
func Evaluate(t *Truth, predictions []Prediction, p Protocol) (*Result, error) {
	return EvaluateContext(context.Background(), t, predictions, p)
}

// EvaluateContext is Evaluate, which ends matching with the error of ctx once that is done.
func EvaluateContext(ctx context.Context, t *Truth, predictions []Prediction, p Protocol) (*Result, error) {
	if err := errors.Join(p.Check(), t.Check()); err != nil {
		return nil, err
	}
	if err := checkPredictions(t, predictions); err != nil {
		return nil, err
	}
	if err := checkKinds(t, predictions, &p); err != nil {
		return nil, err
	}
	var err error
	r := &Result{Protocol: p, Truth: t, Predictions: predictions, replicated: &replicated{}}
	r.Protocol.FPPI = slices.Clone(p.FPPI)
	if r.clusters, err = makeClusters(t, &p); err != nil {
		return nil, err
	}
	r.countInput()
	if r.matching, err = match(ctx, t, predictions, &p); err != nil {
		return nil, err
	}
	r.countFates()
	if err := r.makeEvents(); err != nil {
		return nil, err
	}
	r.makeStretches()
	r.makeRatings()
	r.makeCurve()
	for _, x := range p.FPPI {
		r.OperatingPoints = append(r.OperatingPoints, r.At(x))
	}
	estimate := r.estimate()
	r.MeanSensitivity, r.AP = estimate[len(p.FPPI)], estimate[len(p.FPPI)+1]
	m := estimate[len(p.FPPI)+2:] // in the order of FiguresOfMerit.vector
	r.Merit = FiguresOfMerit{m[0], m[1], m[2], m[3], m[4], m[5], m[6]}
	if r.Counts.Lesions == 0 {
		return r, ErrNoLesions
	}
	return r, nil
}

// errNoResult is returned for a result that Evaluate has not made.
var errNoResult = errors.New("no result: make one with Evaluate")

// made reports whether the result is Evaluate's.
func (r *Result) made() bool { return r != nil && r.matching != nil }

// checkKinds compares the kinds that occur, not every pair.
func checkKinds(t *Truth, predictions []Prediction, p *Protocol) error {
	var lesionKinds, ignoreKinds, predictionKinds kinds
	for i := range t.Lesions {
		if t.Lesions[i].Ignore {
			ignoreKinds.add(&t.Lesions[i].Region)
		} else {
			lesionKinds.add(&t.Lesions[i].Region)
		}
	}
	for i := range predictions {
		predictionKinds.add(&predictions[i].Region)
	}
	check := func(rule []Criterion, of *kinds) error {
		for l, there := range of.there {
			for k, predicted := range predictionKinds.there {
				if !there || !predicted {
					continue
				}
				for _, c := range rule {
					if reason := c.applicable(Kind(k), Kind(l)); reason != "" {
						return fmt.Errorf("protocol %q: %s", p.Name, reason)
					}
				}
			}
		}
		if of.planar() && predictionKinds.deep || of.deep && predictionKinds.planar() {
			return fmt.Errorf("protocol %q: a region in the plane cannot be compared with a mask of several slices; give boxes z, or z1 and z2", p.Name)
		}
		return nil
	}
	return errors.Join(check(p.Hit, &lesionKinds), check(p.ignoreHit(), &ignoreKinds), checkDepth(t, p))
}

// kinds are those that occur.
type kinds struct {
	there [KindMask + 1]bool
	deep  bool // a mask has several slices
}

func (k *kinds) add(r *Region) {
	k.there[r.kind] = true
	k.deep = k.deep || r.kind == KindMask && r.mask.size[2] > 1
}

func (k *kinds) planar() bool { return k.there[KindBox2D] || k.there[KindPoint2D] }

// checkDepth returns an error where a rule needs an image's slices and they are unknown.
func checkDepth(t *Truth, p *Protocol) error {
	for _, c := range slices.Concat(p.Hit, p.ignoreHit()) {
		for _, one := range append([]Criterion{c}, c.And...) {
			if one.Unit != OfDepth {
				continue
			}
			for i := range t.Images {
				if t.Images[i].Slices <= 0 {
					return fmt.Errorf("protocol %q: rule %s needs the number of slices of image %q (a column slices of the list of images)",
						p.Name, one, t.Images[i].ID)
				}
			}
		}
	}
	return nil
}

// makeClusters groups the images. The images of a unit must weigh the same.
func makeClusters(t *Truth, p *Protocol) (clusters, error) {
	key := func(im *Image, by Group) string {
		switch by {
		case PerPatient:
			return im.patient()
		case PerVolume:
			return im.volume()
		}
		return im.ID
	}
	c := clusters{ofImage: make([]int32, len(t.Images))}
	type named struct {
		name  string
		image int32
	}
	order := make([]named, len(t.Images))
	for i := range t.Images {
		order[i] = named{key(&t.Images[i], p.Cluster), int32(i)}
	}
	// a map of as many names would be waited for at every look
	slices.SortFunc(order, func(a, b named) int { return strings.Compare(a.name, b.name) })
	for k, o := range order {
		if k == 0 || o.name != order[k-1].name {
			c.names = append(c.names, o.name)
		}
		c.ofImage[o.image] = int32(len(c.names) - 1)
	}
	c.lesions, c.units = make([]int32, len(c.names)), make([]int32, len(c.names))
	seen := map[string]int{} // the first image of a unit
	total := 0
	for i := range t.Images {
		im := &t.Images[i]
		if total += im.weight(); total > max(len(t.Images), mostSteps) {
			return c, fmt.Errorf("images weigh more than %d together: divide the weights by a number", mostSteps)
		}
		if p.Unit != PerImage {
			unit := key(im, p.Unit)
			first, known := seen[unit]
			if !known {
				seen[unit] = i
			} else if other := &t.Images[first]; other.weight() != im.weight() {
				return c, fmt.Errorf("images %q and %q of one %s weigh %d and %d: false positives are counted per %s, whose images must weigh the same",
					other.ID, im.ID, p.Unit, other.weight(), im.weight(), p.Unit)
			} else {
				continue
			}
		}
		c.units[c.ofImage[i]] += int32(im.weight())
	}
	for i := range t.Lesions {
		if l := &t.Lesions[i]; !l.Ignore {
			c.lesions[c.ofImage[l.Image]] += int32(t.Images[l.Image].weight())
			c.counted += t.Images[l.Image].weight()
		}
	}
	return c, nil
}

func (r *Result) countInput() {
	t := r.Truth
	r.Counts.Images, r.Counts.Predictions = len(t.Images), len(r.Predictions)
	withLesion, withMark := make([]bool, len(t.Images)), make([]bool, len(t.Images))
	for i := range t.Lesions {
		if t.Lesions[i].Ignore {
			r.Counts.IgnoredLesions++
		} else {
			r.Counts.Lesions++
			withLesion[t.Lesions[i].Image] = true
		}
	}
	for i := range r.Predictions {
		withMark[r.Predictions[i].Image] = true
	}
	patients := map[string]bool{}
	for i := range t.Images {
		if r.Protocol.Cluster != PerPatient {
			patients[t.Images[i].patient()] = true
		}
		if !withLesion[i] {
			r.Counts.LesionFreeImages++
		}
		if !withMark[i] {
			r.Counts.ImagesWithoutMark++
		}
	}
	if r.Counts.Patients = len(patients); r.Protocol.Cluster == PerPatient {
		r.Counts.Patients = len(r.clusters.names)
	}
	for _, n := range r.clusters.units {
		r.Counts.Units += int(n)
	}
}

func (r *Result) countFates() {
	for _, f := range r.matching.fate {
		switch f {
		case TruePositive:
			r.Counts.TruePositives++
		case FalseAlarm:
			r.Counts.FalsePositives++
		case Duplicate:
			r.Counts.Duplicates++
		case IgnoredMark:
			r.Counts.IgnoredMarks++
		case OverCap:
			r.Counts.OverCap++
		}
	}
	for _, f := range r.matching.found {
		if f >= 0 {
			r.Counts.Found++
		}
	}
}

// makeEvents lists the steps of the curve by descending score, each as often as its image
// weighs. Too many are an error.
func (r *Result) makeEvents() error {
	n := r.Counts.Found + r.Counts.FalsePositives
	if found, _, fp := r.weighed(); found+fp > max(n, mostSteps) {
		return fmt.Errorf("with their weights images make %d steps of the curve, at most %d are counted: divide the weights by a number", found+fp, mostSteps)
	} else {
		n = found + fp
	}
	keys, beside := make([]uint64, 0, n), make([]uint32, 0, n) // cluster<<1 | found
	var marks []int32                                          // of each event, where the order of input decides
	inOrder := r.Protocol.Ties == InputOrder
	add := func(prediction int, image int, found bool) {
		for range r.Truth.Images[image].weight() {
			keys = append(keys, ^stat.Key(r.Predictions[prediction].Score))
			beside = append(beside, uint32(r.clusters.ofImage[image])<<1|bit(found))
			if inOrder {
				marks = append(marks, int32(prediction))
			}
		}
	}
	for j, i := range r.matching.found {
		if i >= 0 {
			add(int(i), r.Truth.Lesions[j].Image, true)
		}
	}
	for i, f := range r.matching.fate {
		if f == FalseAlarm {
			add(i, r.Predictions[i].Image, false)
		}
	}
	if !inOrder {
		stat.SortKeys(keys, beside)
	}
	r.events = make([]event, n)
	for i, code := range beside {
		r.events[i] = event{score: stat.FromKey(^keys[i]), cluster: int32(code >> 1), found: code&1 == 1, last: i+1 == n || keys[i+1] != keys[i]}
	}
	if inOrder {
		r.sortByInput(marks)
	}
	return nil
}

// weighed counts the lesions found, the marks that found them and the false positives, each
// as often as its image weighs.
func (r *Result) weighed() (found, hits, fp int) {
	if !r.made() {
		return 0, 0, 0
	}
	for j, i := range r.matching.found {
		if i >= 0 {
			found += r.Truth.Images[r.Truth.Lesions[j].Image].weight()
		}
	}
	for i, f := range r.matching.fate {
		switch f {
		case TruePositive:
			hits += r.Truth.Images[r.Predictions[i].Image].weight()
		case FalseAlarm:
			fp += r.Truth.Images[r.Predictions[i].Image].weight()
		}
	}
	return found, hits, fp
}

// FPPerUnit is the number of false positives of all marks per unit, weighted.
func (r *Result) FPPerUnit() float64 {
	_, _, fp := r.weighed()
	return float64(fp) / float64(r.Counts.Units)
}

// sortByInput orders the events by score, then by the ids of images (as numbers, where all
// are), then by the order of input, and makes each mark a step of its own.
func (r *Result) sortByInput(marks []int32) {
	place := r.Truth.imageOrder()
	order := make([]int, len(marks))
	for k := range order {
		order[k] = k
	}
	slices.SortStableFunc(order, func(a, b int) int {
		pa, pb := &r.Predictions[marks[a]], &r.Predictions[marks[b]]
		return cmp.Or(cmp.Compare(pb.Score, pa.Score), cmp.Compare(place[pa.Image], place[pb.Image]), cmp.Compare(marks[a], marks[b]))
	})
	events := make([]event, len(order))
	for k, at := range order {
		events[k] = r.events[at]
		events[k].last = k+1 == len(order) || marks[order[k+1]] != marks[at]
	}
	r.events = events
}

// makeCurve sums the events up. Scores at which nothing steps (duplicates,
// ignored marks) leave no point, because the curve does not move there.
func (r *Result) makeCurve() {
	var found, fp, points int
	for i := range r.events {
		if r.events[i].last {
			points++
		}
	}
	r.Curve = slices.Grow(r.Curve, points)
	for i := range r.events {
		if r.events[i].found {
			found++
		} else {
			fp++
		}
		if !r.events[i].last {
			continue
		}
		r.Curve = append(r.Curve, CurvePoint{
			Threshold: r.events[i].score, Found: found, FalsePositives: fp,
			FPPI:        float64(fp) / float64(r.Counts.Units),
			Sensitivity: float64(found) / float64(r.clusters.counted),
		})
	}
	keys := r.rankedKeys()
	for i := 1; i < len(keys); i++ {
		if keys[i] == keys[i-1] {
			r.Counts.TiedScores++
		}
	}
}

// rankedKeys are the keys (see [stat.Key]) of the scores of all predictions that are not over
// the cap, descending: those of ^score ascend.
func (r *Result) rankedKeys() []uint64 {
	keys := make([]uint64, 0, len(r.Predictions))
	for i := range r.Predictions {
		if r.matching.fate[i] != OverCap {
			keys = append(keys, ^stat.Key(r.Predictions[i].Score))
		}
	}
	stat.SortKeys(keys, nil)
	return keys
}

// AllMarks returns the precision and the sensitivity of all marks together, whatever their
// scores; precision is NaN without true and false positives.
func (r *Result) AllMarks() (precision, sensitivity float64) {
	found, hits, fp := r.weighed()
	return float64(hits) / float64(hits+fp), float64(found) / float64(r.clusters.counted)
}

// Silent returns the number of images without a counted lesion on which there is no false
// positive.
func (r *Result) Silent() int {
	if !r.made() {
		return 0
	}
	loud := make([]bool, len(r.Truth.Images)) // or with lesions
	for i := range r.Truth.Lesions {
		if l := &r.Truth.Lesions[i]; !l.Ignore {
			loud[l.Image] = true
		}
	}
	for i, f := range r.matching.fate {
		if f == FalseAlarm {
			loud[r.Predictions[i].Image] = true
		}
	}
	silent := 0
	for _, heard := range loud {
		if !heard {
			silent++
		}
	}
	return silent
}

// At returns the operating point at fppi false positives per unit, by the
// protocol's interpolation.
func (r *Result) At(fppi float64) OperatingPoint {
	if !r.made() {
		return OperatingPoint{FPPI: fppi, Sensitivity: math.NaN(), Threshold: math.NaN()}
	}
	// the first point that exceeds fppi
	next, _ := slices.BinarySearchFunc(r.Curve, fppi, func(p CurvePoint, x float64) int {
		if p.FPPI <= x {
			return -1
		}
		return 1
	})
	point := OperatingPoint{FPPI: fppi, Threshold: math.NaN()}
	last := CurvePoint{}
	if next > 0 {
		last = r.Curve[next-1]
		point.Threshold = last.Threshold
	}
	point.Sensitivity = last.Sensitivity
	point.Reached = next < len(r.Curve) || last.FPPI >= fppi && len(r.Curve) > 0
	if r.Protocol.Interpolation == Linear && next < len(r.Curve) {
		after := r.Curve[next]
		point.Sensitivity += (after.Sensitivity - last.Sensitivity) * (fppi - last.FPPI) / (after.FPPI - last.FPPI)
	}
	return point
}

// LesionOutcome is the fate of one lesion.
type LesionOutcome struct {
	Lesion     int  // index into Truth.Lesions
	Found      bool // by any prediction
	Prediction int  // index of the highest-scoring prediction that found it; -1: none
	Score      float64
	Rank       int     // 1 + predictions with a higher score, cap applied; 0: not found
	Value      float64 // what the first hit criterion measured; NaN: not found
}

// LesionOutcomes returns the fate of every counted lesion, in the order of Truth.Lesions.
func (r *Result) LesionOutcomes() []LesionOutcome {
	if !r.made() {
		return nil
	}
	rank := r.ranker()
	var out []LesionOutcome
	for j, i := range r.matching.found {
		if r.Truth.Lesions[j].Ignore {
			continue
		}
		o := LesionOutcome{Lesion: j, Prediction: int(i), Score: math.NaN(), Value: math.NaN()}
		if i >= 0 {
			o.Found, o.Score, o.Value = true, r.Predictions[i].Score, r.Protocol.Hit[0].shown(r.matching.raw[j])
			o.Rank = rank(o.Score)
		}
		out = append(out, o)
	}
	return out
}

// PredictionOutcome is the fate of one prediction.
type PredictionOutcome struct {
	Prediction int // index into Result.Predictions
	Fate       Fate
	Lesion     int // the lesion it found or hit, ignored ones included; -1: none
	Rank       int // 1 + predictions with a higher score, cap applied; 0: over the cap
}

// PredictionOutcomes returns the fate of every prediction, in their order.
func (r *Result) PredictionOutcomes() []PredictionOutcome {
	if !r.made() {
		return nil
	}
	rank := r.ranker()
	out := make([]PredictionOutcome, len(r.Predictions))
	for i, f := range r.matching.fate {
		out[i] = PredictionOutcome{Prediction: i, Fate: f, Lesion: int(r.matching.lesion[i])}
		if f != OverCap {
			out[i].Rank = rank(r.Predictions[i].Score)
		}
	}
	return out
}

func (r *Result) ranker() func(score float64) int {
	keys := r.rankedKeys()
	return func(score float64) int {
		n, _ := slices.BinarySearch(keys, ^stat.Key(score))
		return n + 1
	}
}

// Clusters returns the number of groups that the bootstrap resamples.
func (r *Result) Clusters() int {
	if !r.made() {
		return 0
	}
	return len(r.clusters.names)
}
