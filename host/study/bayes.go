// need no tensors: naive Bayes and multinomial logistic regression on attributes.
package study

import (
	"fmt"
	"math"

	"github.com/alignedfusion/alignedfusion/internal/stat"
)

// Missing is the value of an attribute that is not known.
const Missing = -1

// NaiveBayes classifies rows of categorical values. Values that are missing drop
// out of the product, in training and in prediction alike: nothing takes their place.
type NaiveBayes struct {
	prior []float64     // log p(class)
	given [][][]float64 // [attribute][class][value] log p(value | class)
}

// TrainNaiveBayes counts rows [n][A] of value indices (Missing where unknown) with
// labels in [0, classes). sizes holds the number of values per attribute; alpha is
// added to every count of values (1 is Laplace's rule), not to the classes': a class
// without rows is never predicted.
func TrainNaiveBayes(rows [][]int64, sizes []int, labels []int, classes int, alpha float64) (*NaiveBayes, error) {
	if err := check(rows, sizes, labels, classes); err != nil {
		return nil, fmt.Errorf("naive bayes: %w", err)
	}
	if !(alpha > 0) {
		return nil, fmt.Errorf("naive bayes: alpha is %g, want more than 0", alpha)
	}
	nb := &NaiveBayes{prior: make([]float64, classes)}
	for _, y := range labels {
		nb.prior[y]++
	}
	for c, n := range nb.prior {
		nb.prior[c] = math.Log(n / float64(len(labels)))
	}
	for a, size := range sizes {
		table := make([][]float64, classes)
		for c := range table {
			table[c] = make([]float64, size)
		}
		total := make([]float64, classes)
		for i, row := range rows {
			if v := row[a]; v >= 0 {
				table[labels[i]][v]++
				total[labels[i]]++
			}
		}
		for c := range table {
			for v := range table[c] {
				table[c][v] = math.Log((table[c][v] + alpha) / (total[c] + alpha*float64(size)))
			}
		}
		nb.given = append(nb.given, table)
	}
	return nb, nil
}

// Predict returns the probability of every class for a row of values.
func (nb *NaiveBayes) Predict(row []int64) []float64 {
	p := append([]float64(nil), nb.prior...)
	for a, v := range row {
		if v < 0 || a >= len(nb.given) {
			continue
		}
		for c := range p {
			if int(v) < len(nb.given[a][c]) {
				p[c] += nb.given[a][c][v]
			}
		}
	}
	return stat.Softmax(p)
}

func check(rows [][]int64, sizes, labels []int, classes int) error {
	if len(rows) == 0 || len(rows) != len(labels) {
		return fmt.Errorf("%d rows and %d labels, want as many of each and at least one", len(rows), len(labels))
	}
	if classes < 2 {
		return fmt.Errorf("%d classes, want at least 2", classes)
	}
	for i, row := range rows {
		if len(row) != len(sizes) {
			return fmt.Errorf("row %d has %d values, want %d", i, len(row), len(sizes))
		}
		for a, v := range row {
			if v < Missing || v >= int64(sizes[a]) {
				return fmt.Errorf("row %d, attribute %d: value %d, want -1 to %d", i, a, v, sizes[a]-1)
			}
		}
		if labels[i] < 0 || labels[i] >= classes {
			return fmt.Errorf("row %d: label %d, want 0 to %d", i, labels[i], classes-1)
		}
	}
	return nil
}

// Reconstruct predicts each attribute from the others by naive Bayes trained on
// rows, the yardstick for a fusion stage's reconstruction: probs[i][a] is the
// distribution over attribute a's values for test row i, whatever the row says of a.
func Reconstruct(rows [][]int64, sizes []int, alpha float64, test [][]int64) (probs [][][]float64, err error) {
	probs = make([][][]float64, len(test))
	for i := range probs {
		probs[i] = make([][]float64, len(sizes))
	}
	for a, size := range sizes {
		var known [][]int64
		var labels []int
		for _, row := range rows {
			if row[a] >= 0 {
				known, labels = append(known, without(row, a)), append(labels, int(row[a]))
			}
		}
		rest := append(append([]int(nil), sizes[:a]...), sizes[a+1:]...)
		nb, err := TrainNaiveBayes(known, rest, labels, size, alpha)
		if err != nil {
			return nil, fmt.Errorf("attribute %d: %w", a, err)
		}
		for i, row := range test {
			probs[i][a] = nb.Predict(without(row, a))
		}
	}
	return probs, nil
}

func without(row []int64, a int) []int64 {
	return append(append([]int64(nil), row[:a]...), row[a+1:]...)
}
