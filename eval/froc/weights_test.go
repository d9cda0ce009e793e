package froc

import (
	"errors"
	"fmt"
	"math/big"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// weightedData is random, with few scores; copied has every image as often as it weighs.
func weightedData(rng *rand.Rand) (t *Truth, marks []Prediction, copied *Truth, copiedMarks []Prediction) {
	t, copied = &Truth{}, &Truth{}
	box := func() Region {
		x := float64(rng.IntN(12))
		return Box(x, 0, x+5+float64(rng.IntN(3)), 6)
	}
	for i := range 2 + rng.IntN(8) {
		im := Image{ID: fmt.Sprint("i", i), Patient: fmt.Sprint("p", i/2), Weight: rng.IntN(5)}
		t.Images = append(t.Images, im)
		var lesions []Lesion
		for range rng.IntN(3) {
			lesions = append(lesions, Lesion{Image: i, Region: box(), Ignore: rng.IntN(8) == 0, Weight: float64(rng.IntN(3))})
		}
		var on []Prediction
		for range rng.IntN(5) {
			on = append(on, Prediction{Image: i, Region: box(), Score: float64(rng.IntN(6))})
		}
		t.Lesions, marks = append(t.Lesions, lesions...), append(marks, on...)
		for n := range im.weight() {
			k := len(copied.Images)
			copied.Images = append(copied.Images, Image{ID: fmt.Sprint("i", i, "/", n), Patient: im.Patient})
			for _, l := range lesions {
				l.Image = k
				copied.Lesions = append(copied.Lesions, l)
			}
			for _, p := range on {
				p.Image = k
				copiedMarks = append(copiedMarks, p)
			}
		}
	}
	return t, marks, copied, copiedMarks
}

func TestAnImageThatWeighsNIsNImages(t *testing.T) {
	rng := rand.New(rand.NewPCG(8, 9))
	compared := 0
	for range 300 {
		truth, marks, copied, copiedMarks := weightedData(rng)
		for _, p := range []Protocol{DeepLesion(), StrictProtocol(), LUNA16(), PICAI(), NNDetection()} {
			if p.Name == "luna16" {
				p.Hit = overlap(IoU, 0.3)
			}
			a, errA := Evaluate(truth, marks, p)
			b, errB := Evaluate(copied, copiedMarks, p)
			if errors.Is(errA, ErrNoLesions) && errors.Is(errB, ErrNoLesions) {
				continue
			}
			if errA != nil || errB != nil {
				t.Fatal(errA, errB)
			}
			same := cmp.Options{cmpopts.EquateNaNs(), cmpopts.EquateApprox(0, 1e-15)}
			for name, pair := range map[string][2]any{
				"curve": {a.Curve, b.Curve}, "points": {a.OperatingPoints, b.OperatingPoints}, "mean": {a.MeanSensitivity, b.MeanSensitivity}, "AP": {a.AP, b.AP},
				"figures of merit": {a.Merit, b.Merit}, "units": {a.Counts.Units, b.Counts.Units}, "FP per unit": {a.FPPerUnit(), b.FPPerUnit()}, "AFROC": {a.AFROCCurve(true), b.AFROCCurve(true)},
			} {
				if d := cmp.Diff(pair[1], pair[0], same); d != "" {
					t.Fatalf("%s, %s (-copies +weights):\n%s", p.Name, name, d)
				}
			}
			o := BootstrapOptions{Replicates: 20, Seed: 4}
			ia, errA := a.Bootstrap(o)
			ib, errB := b.Bootstrap(o)
			if d := cmp.Diff(ib, ia, same); d != "" || fmt.Sprint(errA) != fmt.Sprint(errB) {
				t.Fatalf("%s, intervals %v %v (-copies +weights):\n%s", p.Name, errA, errB, d)
			}
			compared++
		}
	}
	if compared < 1000 {
		t.Errorf("only %d cases have lesions", compared)
	}
}

func TestWeightedComparisonsAreThoseOfCopies(t *testing.T) {
	rng := rand.New(rand.NewPCG(10, 11))
	for range 40 {
		truth, marks, copied, copiedMarks := weightedData(rng)
		p := StrictProtocol()
		of := func(truth *Truth, marks []Prediction) (*Comparison, error) {
			a, err := Evaluate(truth, marks, p)
			if err != nil {
				return nil, err
			}
			b, err := Evaluate(truth, marks[:0:0], p)
			if err != nil {
				return nil, err
			}
			return Compare([]Named{{"a", a}, {"b", b}}, CompareOptions{BootstrapOptions: BootstrapOptions{Replicates: 20, Seed: 4}})
		}
		got, err := of(truth, marks)
		want, wantErr := of(copied, copiedMarks)
		if d := cmp.Diff(want, got, cmpopts.EquateNaNs(), cmpopts.EquateApprox(0, 1e-15)); d != "" || fmt.Sprint(err) != fmt.Sprint(wantErr) {
			t.Fatalf("%v %v (-copies +weights):\n%s", err, wantErr, d)
		}
	}
}

func TestWeightedSensitivityInExactFractions(t *testing.T) {
	// one mark an image: of 7 images with a lesion weight 3, 1, 4, … those with even numbers are hit
	truth, marks := &Truth{}, []Prediction(nil)
	weights := []int{3, 1, 4, 1, 5, 9, 2, 6, 5}
	found, lesions, alarms, images := new(big.Rat), new(big.Rat), new(big.Rat), new(big.Rat)
	for i, w := range weights {
		truth.Images = append(truth.Images, Image{ID: fmt.Sprint(i), Weight: w})
		weight := big.NewRat(int64(w), 1)
		images.Add(images, weight)
		if i < 7 {
			truth.Lesions = append(truth.Lesions, Lesion{Image: i, Region: Box(0, 0, 9, 9)})
			lesions.Add(lesions, weight)
		}
		mark := Prediction{Image: i, Region: Box(20, 0, 29, 9), Score: 1}
		if i%2 == 0 && i < 7 {
			mark.Region = Box(0, 0, 9, 9)
			found.Add(found, weight)
		} else {
			alarms.Add(alarms, weight)
		}
		marks = append(marks, mark)
	}
	r := mustEvaluate(t, truth, marks, StrictProtocol())
	last := r.Curve[len(r.Curve)-1]
	sensitivity, _ := found.Quo(found, lesions).Float64()
	rate, _ := alarms.Quo(alarms, images).Float64()
	if last.Sensitivity != sensitivity || last.FPPI != rate || r.FPPerUnit() != rate {
		t.Errorf("sensitivity %v at %v (%v) false positives an image, want %v at %v", last.Sensitivity, last.FPPI, r.FPPerUnit(), sensitivity, rate)
	}
}

func TestWeightsThatCannotBeAreRefused(t *testing.T) {
	lesion := []Lesion{{Region: Box(0, 0, 9, 9)}}
	perPatient := StrictProtocol()
	perPatient.Unit = PerPatient
	many := &Truth{Lesions: lesion}
	for i := range 20_000 {
		many.Images = append(many.Images, Image{ID: fmt.Sprint(i), Weight: MaxWeight})
	}
	for want, c := range map[string]struct {
		truth *Truth
		p     Protocol
	}{
		`image "a": weight -1`:       {&Truth{Images: []Image{{ID: "a", Weight: -1}}, Lesions: lesion}, StrictProtocol()},
		`"a" and "b" of one patient`: {&Truth{Images: []Image{{ID: "a", Patient: "p", Weight: 2}, {ID: "b", Patient: "p"}}, Lesions: lesion}, perPatient},
		"weigh more than":            {many, StrictProtocol()},
	} {
		if _, err := Evaluate(c.truth, nil, c.p); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
	weighted := &Truth{Images: []Image{{ID: "a", Weight: 2}}, Lesions: lesion}
	if _, err := COCOeval(weighted, nil, OneStep); err == nil || !strings.Contains(err.Error(), "no weights of images") {
		t.Errorf("COCOeval: %v", err)
	}
}
