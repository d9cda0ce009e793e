package classify_test

import (
	"fmt"

	"github.com/alignedfusion/alignedfusion/eval/classify"
	"github.com/alignedfusion/alignedfusion/eval/resample"
)

// Six lesions of four patients: the metrics, and intervals that resample patients.
func ExampleEvaluate() {
	labels := []int{0, 0, 0, 0, 1, 1}
	probabilities := [][]float64{{0.9, 0.1}, {0.8, 0.2}, {0.6, 0.4}, {0.3, 0.7}, {0.2, 0.8}, {0.7, 0.3}}
	result, err := classify.Evaluate(labels, probabilities, []string{"nevus", "melanoma"})
	if err != nil {
		fmt.Println(err)
		return
	}
	m := result.Metrics
	fmt.Printf("accuracy %.3f, balanced %.3f, AUROC %.3f, recall %.2f\n", m.Accuracy, m.BalancedAccuracy, m.MacroAUROC, m.Recall)
	fmt.Println("true by predicted:", result.Confusion)

	patients := []string{"p1", "p1", "p2", "p3", "p3", "p4"}
	intervals, err := result.Bootstrap(patients, resample.Options{Replicates: 200, Seed: 1})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("95 %% interval of the accuracy: %.2f to %.2f\n", intervals.Accuracy.Low, intervals.Accuracy.High)
	// Output:
	// accuracy 0.667, balanced 0.625, AUROC 0.750, recall [0.75 0.50]
	// true by predicted: [[3 1] [1 1]]
	// 95 % interval of the accuracy: 0.14 to 1.00
}
