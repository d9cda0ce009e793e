package froc

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/alignedfusion/alignedfusion/eval/resample"
)

// world is a small random evaluation with many ties and overlaps.
type world struct {
	truth       *Truth
	predictions []Prediction
	protocol    Protocol
}

func drawWorld(t *rapid.T) world {
	var w world
	w.truth = &Truth{}
	images := rapid.IntRange(1, 6).Draw(t, "images")
	patients := rapid.IntRange(1, images).Draw(t, "patients")
	for i := range images {
		w.truth.Images = append(w.truth.Images, Image{
			ID: fmt.Sprint("i", i), Patient: fmt.Sprint("p", i%patients), Volume: fmt.Sprint("v", i%patients, "-", i%2),
		})
	}
	box := rapid.Custom(func(t *rapid.T) Region {
		x, y := rapid.IntRange(0, 8).Draw(t, "x"), rapid.IntRange(0, 8).Draw(t, "y")
		w, h := rapid.IntRange(1, 8).Draw(t, "w"), rapid.IntRange(1, 8).Draw(t, "h")
		return Box(float64(x), float64(y), float64(x+w), float64(y+h))
	})
	for range rapid.IntRange(1, 8).Draw(t, "lesions") {
		w.truth.Lesions = append(w.truth.Lesions, Lesion{
			Image: rapid.IntRange(0, images-1).Draw(t, "image"), Region: box.Draw(t, "lesion"),
			Ignore: rapid.IntRange(0, 4).Draw(t, "ignore") == 0,
		})
	}
	w.truth.Lesions[0].Ignore = false
	for range rapid.IntRange(0, 20).Draw(t, "predictions") {
		w.predictions = append(w.predictions, Prediction{
			Image: rapid.IntRange(0, images-1).Draw(t, "image"), Region: box.Draw(t, "mark"),
			Score: float64(rapid.IntRange(-3, 3).Draw(t, "score")),
		})
	}
	w.protocol = base()
	w.protocol.Name = "drawn"
	w.protocol.Hit = mustHit(rapid.SampledFrom([]string{
		"iou>=0.5", "iou>0.2", "iobb>=0.3", "iogt>0.5", "iomin>=0.6", "dice>=0.5", "minaxis>=0.5", "distance<radius", "distance<=2", "inside",
		"distance<radius | iou>=0.3",
	}).Draw(t, "hit"))
	w.protocol.PlusOne = rapid.Bool().Draw(t, "plus one")
	w.protocol.Duplicates = rapid.SampledFrom([]DuplicateRule{Free, FalsePositive}).Draw(t, "duplicates")
	w.protocol.Multiple = rapid.SampledFrom([]MultipleRule{All, One}).Draw(t, "multiple")
	w.protocol.Interpolation = rapid.SampledFrom([]Interpolation{Step, Linear}).Draw(t, "interpolation")
	w.protocol.AP = rapid.SampledFrom([]APRule{AllPoints, RecallGrid}).Draw(t, "ap")
	w.protocol.Unit = rapid.SampledFrom([]Group{PerImage, PerVolume, PerPatient}).Draw(t, "unit")
	w.protocol.FPPI = []float64{0, 0.2, 0.5, 1, 2}
	return w
}

func (w *world) evaluate(t *rapid.T) *Result {
	r, err := Evaluate(w.truth, w.predictions, w.protocol)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// outcome is everything about a result that must not depend on the order of input.
type outcome struct {
	Counts Counts
	Curve  []CurvePoint
	Points []OperatingPoint
	Values []float64
	Scores []float64 // of the found lesions
}

func (r *Result) outcome() outcome {
	o := outcome{Counts: r.Counts, Curve: r.Curve, Points: r.OperatingPoints, Values: r.estimate()}
	for _, l := range r.LesionOutcomes() {
		o.Scores = append(o.Scores, l.Score)
	}
	slices.Sort(o.Scores)
	return o
}

var equalOutcomes = cmp.Options{cmpopts.EquateNaNs(), cmpopts.EquateApprox(0, 1e-12), cmpopts.EquateEmpty()}

// diffOutcomes compares two results; "" when they are equal.
func diffOutcomes(a, b *Result) string { return cmp.Diff(a.outcome(), b.outcome(), equalOutcomes) }

func shuffled[T any](rng *rand.Rand, in []T) (out []T, newPlace []int) {
	order := rng.Perm(len(in))
	out, newPlace = make([]T, len(in)), make([]int, len(in))
	for k, i := range order {
		out[k] = in[i]
		newPlace[i] = k
	}
	return out, newPlace
}

func TestOrderOfInputNeverMatters(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		w.protocol.MaxPerImage = rapid.IntRange(0, 4).Draw(t, "cap")
		w.protocol.CapTies = rapid.SampledFrom([]TieRule{DropTies, KeepTies}).Draw(t, "cap ties")
		before := w.evaluate(t)
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		mixed := w
		images, place := shuffled(rng, w.truth.Images)
		mixed.truth = &Truth{Images: images}
		mixed.truth.Lesions, _ = shuffled(rng, w.truth.Lesions)
		mixed.predictions, _ = shuffled(rng, w.predictions)
		for i := range mixed.truth.Lesions {
			mixed.truth.Lesions[i].Image = place[mixed.truth.Lesions[i].Image]
		}
		for i := range mixed.predictions {
			mixed.predictions[i].Image = place[mixed.predictions[i].Image]
		}
		after := mixed.evaluate(t)
		if d := cmp.Diff(before.outcome(), after.outcome(), equalOutcomes); d != "" {
			t.Fatalf("reordered input changes the result (-before +after):\n%s", d)
		}
		a, errA := before.Bootstrap(BootstrapOptions{Replicates: 20, Seed: 3})
		b, errB := after.Bootstrap(BootstrapOptions{Replicates: 20, Seed: 3})
		if !errors.Is(errA, errB) {
			t.Fatalf("errors %v and %v", errA, errB)
		}
		if d := cmp.Diff(a, b, equalOutcomes); d != "" {
			t.Fatalf("reordered input changes the bootstrap:\n%s", d)
		}
	})
}

func TestCurveEqualsKeepingPredictionsAtOrAboveEachThreshold(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		full := w.evaluate(t)
		for _, threshold := range []float64{-3, -2, -1, 0, 1, 2, 3} {
			kept := w
			kept.predictions = nil
			for _, p := range w.predictions {
				if p.Score >= threshold {
					kept.predictions = append(kept.predictions, p)
				}
			}
			part := kept.evaluate(t)
			found, fp := 0, 0
			for _, c := range full.Curve {
				if c.Threshold >= threshold {
					found, fp = c.Found, c.FalsePositives
				}
			}
			if part.Counts.Found != found || part.Counts.FalsePositives != fp {
				t.Fatalf("threshold %v: the curve says %d found, %d FP; keeping the predictions gives %d and %d",
					threshold, found, fp, part.Counts.Found, part.Counts.FalsePositives)
			}
		}
	})
}

func TestCurveAscendsAndStaysInRange(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		r := w.evaluate(t)
		before := CurvePoint{Threshold: math.Inf(1)}
		for _, p := range r.Curve {
			if p.Threshold >= before.Threshold || p.Found < before.Found || p.FalsePositives < before.FalsePositives ||
				p.Found+p.FalsePositives == before.Found+before.FalsePositives || p.Sensitivity > 1 {
				t.Fatalf("point %+v after %+v", p, before)
			}
			before = p
		}
		last := 0.0
		for _, p := range r.OperatingPoints {
			if p.Sensitivity < last {
				t.Fatalf("sensitivity falls with FPPI: %+v", r.OperatingPoints)
			}
			last = p.Sensitivity
		}
		for i, v := range r.estimate() {
			if !math.IsNaN(v) && (v < 0 || v > 1+1e-12) {
				t.Fatalf("statistic %d is %v", i, v)
			}
		}
		if n := r.Counts; n.TruePositives+n.FalsePositives+n.Duplicates+n.IgnoredMarks+n.OverCap != n.Predictions {
			t.Fatalf("the fates do not add up: %+v", n)
		}
	})
}

func TestCertainFalsePositiveNeverRaisesSensitivity(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		before := w.evaluate(t)
		w.predictions = append(w.predictions, Prediction{
			Image:  rapid.IntRange(0, len(w.truth.Images)-1).Draw(t, "image"),
			Region: Box(1000, 1000, 1001, 1001), Score: float64(rapid.IntRange(-4, 4).Draw(t, "score")),
		})
		after := w.evaluate(t)
		for i, p := range after.OperatingPoints {
			if p.Sensitivity > before.OperatingPoints[i].Sensitivity+1e-12 {
				t.Fatalf("sensitivity at %v rose from %v to %v", p.FPPI, before.OperatingPoints[i].Sensitivity, p.Sensitivity)
			}
		}
	})
}

func TestOnlyTheOrderOfScoresMatters(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		before := w.evaluate(t)
		scaled := w
		scaled.predictions = slices.Clone(w.predictions)
		for i := range scaled.predictions {
			scaled.predictions[i].Score = math.Exp(scaled.predictions[i].Score*3) - 7
		}
		after := scaled.evaluate(t)
		ignoreThresholds := cmp.FilterPath(func(p cmp.Path) bool {
			last := p.Last().String()
			return last == ".Threshold" || last == ".Scores"
		}, cmp.Ignore())
		if d := cmp.Diff(before.outcome(), after.outcome(), equalOutcomes, ignoreThresholds); d != "" {
			t.Fatalf("scaled scores change the result:\n%s", d)
		}
		// the permutation test exchanges marks of systems on different scales
		options := CompareOptions{BootstrapOptions: BootstrapOptions{Replicates: 30}}
		other := w
		other.predictions = w.predictions[:len(w.predictions)/2]
		rival := other.evaluate(t)
		same, errA := Compare([]Named{{"a", rival}, {"b", before}}, options)
		cross, errB := Compare([]Named{{"a", rival}, {"b", withTruth(after, rival)}}, options)
		if (errA == nil) != (errB == nil) {
			t.Fatalf("errors %v and %v", errA, errB)
		}
		if d := cmp.Diff(same, cross, equalOutcomes); d != "" {
			t.Fatalf("scaled scores change the comparison:\n%s", d)
		}
	})
}

func withTruth(r, of *Result) *Result {
	r.Truth = of.Truth
	return r
}

func TestReplicatesEqualMatchingTheDrawnPatientsAgain(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		r := w.evaluate(t)
		o := resample.Options{Seed: rapid.Uint64().Draw(t, "seed")}
		weights := make([]int32, r.Clusters())
		o.Draw(0, weights)
		// build the drawn patients as a data set of its own
		drawn := world{truth: &Truth{}, protocol: w.protocol}
		for i, im := range w.truth.Images {
			for copy := range int(weights[r.clusters.ofImage[i]]) {
				k := len(drawn.truth.Images)
				drawn.truth.Images = append(drawn.truth.Images, Image{
					ID: fmt.Sprint(im.ID, "#", copy), Patient: fmt.Sprint(im.Patient, "#", copy), Volume: fmt.Sprint(im.Volume, "#", copy),
				})
				for _, l := range w.truth.Lesions {
					if l.Image == i {
						l.Image = k
						drawn.truth.Lesions = append(drawn.truth.Lesions, l)
					}
				}
				for _, p := range w.predictions {
					if p.Image == i {
						p.Image = k
						drawn.predictions = append(drawn.predictions, p)
					}
				}
			}
		}
		again, err := Evaluate(drawn.truth, drawn.predictions, drawn.protocol)
		tables, failed := reweigh(BootstrapOptions{}, 1, []*Result{r}, o.Draw)
		if failed != nil {
			t.Fatal(failed)
		}
		row := tables[0][0]
		if errors.Is(err, ErrNoLesions) {
			if row != nil {
				t.Fatalf("no lesion was drawn, but the replicate has %v", row)
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(again.estimate(), row, equalOutcomes); d != "" {
			t.Fatalf("replicate differs from matching again (-again +replicate):\n%s", d)
		}
		for i, p := range again.OperatingPoints {
			if math.Abs(p.Sensitivity-row[i]) > 1e-12 {
				t.Fatalf("at %v: %v by the curve, %v by the replicate", p.FPPI, p.Sensitivity, row[i])
			}
		}
	})
}

func TestPermutationWithoutExchangeKeepsBothSystems(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		a := w.evaluate(t)
		other := w
		other.predictions = w.predictions[len(w.predictions)/2:]
		b := other.evaluate(t)
		byteful = rapid.SampledFrom([]int{1, 2, math.MaxUint8}).Draw(t, "byteful")
		defer func() { byteful = math.MaxUint8 }()
		x := newExchanger(a, b)
		// nothing is exchanged in the lanes of even numbers, everything in the others
		all := x.statistics(x.exchange(), slices.Repeat([]uint64{0x0100010001000100}, a.Clusters()))
		n := len(w.protocol.FPPI) + comparedBesides
		for lane, got := range all {
			want := [2][]float64{a.estimate()[:n], b.estimate()[:n]}
			if lane%2 == 1 {
				want[0], want[1] = want[1], want[0]
			}
			if d := cmp.Diff(want, got, equalOutcomes); d != "" {
				t.Fatalf("lane %d: the figures are not those of the systems:\n%s", lane, d)
			}
		}
	})
}

func TestFiguresOfMeritEqualTheirDefinition(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		for i := range w.truth.Lesions {
			w.truth.Lesions[i].Weight = rapid.SampledFrom([]float64{0, 0, 0.25, 0.5, 2}).Draw(t, "weight")
		}
		r := w.evaluate(t)
		highest := make([]float64, len(w.truth.Images))
		count, heavy := make([]float64, len(w.truth.Images)), make([]float64, len(w.truth.Images))
		for i := range highest {
			highest[i] = math.Inf(-1)
		}
		for _, o := range r.PredictionOutcomes() {
			if p := r.Predictions[o.Prediction]; o.Fate == FalseAlarm {
				highest[p.Image] = max(highest[p.Image], p.Score)
			}
		}
		outcomes := r.LesionOutcomes()
		for _, o := range outcomes {
			count[w.truth.Lesions[o.Lesion].Image]++
			heavy[w.truth.Lesions[o.Lesion].Image] += w.truth.Lesions[o.Lesion].Weight
		}
		var sum, pairs [4]float64
		for _, o := range outcomes {
			score := o.Score
			if !o.Found {
				score = math.Inf(-1)
			}
			for i, h := range highest {
				psi := 0.0
				if score > h {
					psi = 1
				} else if score == h {
					psi = 0.5
				}
				lesion := &w.truth.Lesions[o.Lesion]
				weight := 1 / count[lesion.Image]
				if heavy[lesion.Image] > 0 {
					weight = lesion.Weight / heavy[lesion.Image]
				}
				for k, use := range []bool{count[i] == 0, true, count[i] == 0, true} {
					if use {
						v := []float64{1, 1, weight, weight}[k]
						sum[k] += v * psi
						pairs[k] += v
					}
				}
			}
		}
		want := FiguresOfMerit{AFROC: sum[0] / pairs[0], AFROC1: sum[1] / pairs[1], WAFROC: sum[2] / pairs[2], WAFROC1: sum[3] / pairs[3]}
		want.CaseAUROC, want.LROC = byImages(w, r)
		want.rank(r.AP)
		if d := cmp.Diff(want, r.Merit, equalOutcomes); d != "" {
			t.Fatalf("figures of merit (-definition +result):\n%s", d)
		}
	})
}

// byImages computes the areas over images by comparing every image with lesions with every
// one without.
func byImages(w world, r *Result) (auroc, lroc float64) {
	type image struct {
		score                float64
		lesions, marks, hits int
	}
	rated := make([]image, len(w.truth.Images))
	for i := range rated {
		rated[i].score = math.Inf(-1)
	}
	for _, l := range w.truth.Lesions {
		if !l.Ignore {
			rated[l.Image].lesions++
		}
	}
	outcomes := r.PredictionOutcomes()
	counts := func(o PredictionOutcome) bool { return o.Fate != IgnoredMark && o.Fate != OverCap }
	for _, o := range outcomes {
		if p := r.Predictions[o.Prediction]; counts(o) {
			rated[p.Image].score = max(rated[p.Image].score, p.Score)
		}
	}
	for _, o := range outcomes {
		p := r.Predictions[o.Prediction]
		if im := &rated[p.Image]; counts(o) && p.Score == im.score {
			im.marks++
			if o.Lesion >= 0 && !w.truth.Lesions[o.Lesion].Ignore {
				im.hits++
			}
		}
	}
	var pairs float64
	for _, with := range rated {
		for _, without := range rated {
			if with.lesions == 0 || without.lesions > 0 {
				continue
			}
			psi := 0.0
			if with.score > without.score {
				psi = 1
			} else if with.score == without.score {
				psi = 0.5
			}
			pairs++
			auroc += psi
			if with.marks > 0 {
				lroc += psi * float64(with.hits) / float64(with.marks)
			}
		}
	}
	return auroc / pairs, lroc / pairs
}
