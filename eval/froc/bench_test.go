package froc

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// benchmarkData makes images with a lesion each and n predictions, a twentieth of them hits.
func benchmarkData(images, n int) (*Truth, []Prediction) {
	rng := rand.New(rand.NewPCG(1, 2))
	t := &Truth{}
	box := func() Region {
		x, y := 400*rng.Float64(), 400*rng.Float64()
		return Box(x, y, x+10+60*rng.Float64(), y+10+60*rng.Float64())
	}
	for i := range images {
		t.Images = append(t.Images, Image{ID: fmt.Sprint(i), Patient: fmt.Sprint("p", i/7)})
		t.Lesions = append(t.Lesions, Lesion{Image: i, Region: box()})
	}
	predictions := make([]Prediction, n)
	for i := range predictions {
		image := rng.IntN(images)
		predictions[i] = Prediction{Image: image, Region: box(), Score: rng.Float64()}
		if i%20 == 0 {
			predictions[i].Region = t.Lesions[image].Region
			predictions[i].Score += 0.5
		}
	}
	return t, predictions
}

// BenchmarkEvaluate shows cost against size: ns per prediction should grow as its logarithm.
func BenchmarkEvaluate(b *testing.B) {
	for _, n := range []int{1e4, 1e5, 1e6} {
		t, predictions := benchmarkData(n/10, n)
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Evaluate(t, predictions, DeepLesion()); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/prediction")
		})
	}
}

// BenchmarkBootstrap shows the cost of 1000 replicates against size.
func BenchmarkBootstrap(b *testing.B) {
	for _, n := range []int{1e4, 1e5, 1e6} {
		t, predictions := benchmarkData(n/10, n)
		r, err := Evaluate(t, predictions, DeepLesion())
		if err != nil {
			b.Fatal(err)
		}
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			for b.Loop() {
				if _, err := r.Bootstrap(BootstrapOptions{Replicates: 1000}); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n)/1000, "ns/step")
		})
	}
}
