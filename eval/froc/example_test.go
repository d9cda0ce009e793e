package froc_test

import (
	"fmt"

	"github.com/alignedfusion/alignedfusion/eval/froc"
)

// Two slices of one patient and a lesion-free slice of another.
func exampleTruth() *froc.Truth {
	return &froc.Truth{
		Images: []froc.Image{
			{ID: "a1", Patient: "a"}, {ID: "a2", Patient: "a"}, {ID: "b1", Patient: "b"},
		},
		Lesions: []froc.Lesion{
			{Image: 0, Region: froc.Box(10, 10, 30, 30)},
			{Image: 1, Region: froc.Box(50, 50, 60, 70)},
			{Image: 1, Region: froc.Box(80, 80, 90, 90), Ignore: true},
		},
	}
}

func ExampleEvaluate() {
	truth := exampleTruth()
	predictions := []froc.Prediction{
		{Image: 0, Region: froc.Box(11, 10, 30, 31), Score: 0.9},
		{Image: 2, Region: froc.Box(5, 5, 9, 9), Score: 0.8},
		{Image: 1, Region: froc.Box(80, 80, 91, 90), Score: 0.7}, // on an ignored lesion
		{Image: 1, Region: froc.Box(50, 50, 61, 70), Score: 0.3},
	}
	protocol := froc.DeepLesion()
	protocol.FPPI = []float64{0.25, 0.5, 1}
	result, err := froc.Evaluate(truth, predictions, protocol)
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, p := range result.OperatingPoints {
		fmt.Printf("%.2f FP per image: sensitivity %.2f, threshold %.1f, reached %v\n", p.FPPI, p.Sensitivity, p.Threshold, p.Reached)
	}
	fmt.Printf("mean %.3f, false positives %d, ignored %d\n", result.MeanSensitivity, result.Counts.FalsePositives, result.Counts.IgnoredMarks)
	// Output:
	// 0.25 FP per image: sensitivity 0.50, threshold 0.9, reached true
	// 0.50 FP per image: sensitivity 1.00, threshold 0.3, reached false
	// 1.00 FP per image: sensitivity 1.00, threshold 0.3, reached false
	// mean 0.833, false positives 1, ignored 1
}

func ExampleCompare() {
	truth := exampleTruth()
	protocol := froc.DeepLesion()
	better, err := froc.Evaluate(truth, []froc.Prediction{
		{Image: 0, Region: froc.Box(10, 10, 30, 30), Score: 0.9},
		{Image: 1, Region: froc.Box(50, 50, 60, 70), Score: 0.8},
	}, protocol)
	if err != nil {
		fmt.Println(err)
		return
	}
	worse, err := froc.Evaluate(truth, []froc.Prediction{
		{Image: 0, Region: froc.Box(10, 10, 30, 30), Score: 2.5},
	}, protocol)
	if err != nil {
		fmt.Println(err)
		return
	}
	comparison, err := froc.Compare([]froc.Named{{Name: "worse", Result: worse}, {Name: "better", Result: better}},
		froc.CompareOptions{BootstrapOptions: froc.BootstrapOptions{Replicates: 200, Seed: 1}})
	if err != nil {
		fmt.Println(err)
		return
	}
	pair := comparison.Pairs[0]
	fmt.Printf("%s - %s: %+.2f, replicates without a lesion: %v\n", pair.B, pair.A, pair.Mean.Value, comparison.WithoutLesion > 0)
	// Output:
	// better - worse: +0.50, replicates without a lesion: true
}
