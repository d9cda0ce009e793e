package study

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/alignedfusion/alignedfusion/eval/froc"
)

// Seeds whose scores are on scales of their own: the joint sensitivities are the means of the
// seeds', which they were not if one threshold cut the scores as they are.
func TestJoinedDetectionsHaveTheMeanOverSeeds(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	truth := &froc.Truth{}
	for i := range 40 {
		truth.Images = append(truth.Images, froc.Image{ID: fmt.Sprint(i), Patient: fmt.Sprint(i / 2)})
		truth.Lesions = append(truth.Lesions, froc.Lesion{Image: i, Region: froc.Box(10, 10, 30, 30)})
	}
	for _, protocol := range []froc.Protocol{froc.DeepLesion(), froc.SmallLesion()} {
		var seeds, raw []detections
		means := make([]float64, len(protocol.FPPI))
		for seed, scale := range []float64{1, 30, 0.01} {
			var marks []froc.Prediction
			for i := range truth.Images {
				// Two boxes on the lesion, as a detector gives them, and some beside it.
				for range 2 {
					if rng.Float64() < 0.7 {
						marks = append(marks, froc.Prediction{Image: i, Region: froc.Box(11, 10, 30, 31), Score: scale * (rng.Float64() + 0.2)})
					}
				}
				for k := range 4 {
					at := 40 + 20*float64(k)
					marks = append(marks, froc.Prediction{Image: i, Region: froc.Box(at, 10, at+9, 30), Score: scale * rng.Float64()})
				}
			}
			own, err := froc.Evaluate(truth, marks, protocol)
			if err != nil {
				t.Fatal(err)
			}
			for k, p := range own.OperatingPoints {
				means[k] += p.Sensitivity / 3
			}
			seeds = append(seeds, detections{uint64(seed), truth, onOneScale(own)})
			raw = append(raw, detections{uint64(seed), truth, marks})
		}
		all, marks := joinDetections(seeds)
		joined, err := froc.Evaluate(all, marks, protocol)
		if err != nil {
			t.Fatal(err)
		}
		all, marks = joinDetections(raw)
		plain, err := froc.Evaluate(all, marks, protocol)
		if err != nil {
			t.Fatal(err)
		}
		differs := false
		for k, p := range joined.OperatingPoints {
			if math.Abs(p.Sensitivity-means[k]) > 1e-12 {
				t.Errorf("%s at %g FP: %.4f, want the seeds' mean %.4f", protocol.Name, p.FPPI, p.Sensitivity, means[k])
			}
			differs = differs || math.Abs(plain.OperatingPoints[k].Sensitivity-means[k]) > 0.01
		}
		if !differs {
			t.Errorf("%s: the scores as they are give the mean, too: the test shows nothing", protocol.Name)
		}
	}
}
