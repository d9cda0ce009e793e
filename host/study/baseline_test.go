package study

import (
	"encoding/csv"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/alignedfusion/alignedfusion/internal/realdata"
)

func readCSV(t *testing.T, path string) ([]string, [][]string) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	rows, err := csv.NewReader(f).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	return rows[0], rows[1:]
}

func accuracies(predicted, labels []int, classes int) (accuracy, balanced float64) {
	right, total := make([]float64, classes), make([]float64, classes)
	all := 0.0
	for i, y := range labels {
		total[y]++
		if predicted[i] == y {
			right[y]++
			all++
		}
	}
	for c := range classes {
		balanced += right[c] / total[c] / float64(classes)
	}
	return 100 * all / float64(len(labels)), 100 * balanced
}

func best(p []float64) int {
	at := 0
	for i, v := range p {
		if v > p[at] {
			at = i
		}
	}
	return at
}

// The figures are those of an independent computation on the official split
// (Laplace 1, complete attributes, diagnosis of five classes).
func TestNaiveBayesReproducesDerm7ptFigures(t *testing.T) {
	dir := realdata.Path(t, "derm7pt")
	header, rows := readCSV(t, filepath.Join(dir, "meta.csv"))
	column := map[string]int{}
	for i, name := range header {
		column[name] = i
	}
	label := func(diagnosis string) int {
		switch {
		case diagnosis == "basal cell carcinoma":
			return 0
		case len(diagnosis) > 8 && diagnosis[:8] == "melanoma" || diagnosis == "melanoma":
			return 1
		case diagnosis == "seborrheic keratosis":
			return 2
		case len(diagnosis) > 5 && diagnosis[len(diagnosis)-5:] == "nevus":
			return 3
		}
		return 4
	}
	split := func(name string) []int {
		_, lines := readCSV(t, filepath.Join(dir, name+"_indexes.csv"))
		var out []int
		for _, l := range lines {
			i, err := strconv.Atoi(l[0])
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, i)
		}
		return out
	}
	criteria := []string{"pigment_network", "streaks", "pigmentation", "regression_structures", "dots_and_globules", "blue_whitish_veil", "vascular_structures"}
	clean := []string{"elevation", "location", "sex"}
	four := append([]string{"level_of_diagnostic_difficulty"}, clean...)
	five := append([]string{"management"}, four...)
	for _, c := range []struct {
		name               string
		columns            []string
		accuracy, balanced float64
	}{
		{"five metadata", five, 66.33, 44.5},
		{"without management", four, 55.95, 30.2},
		{"elevation, location, sex", clean, 55.70, 26.1},
		{"criteria", criteria, 70.63, 46.2},
		{"criteria and clean metadata", append(append([]string{}, criteria...), clean...), 71.39, 52.4},
		{"criteria and five metadata", append(append([]string{}, criteria...), five...), 76.96, 65.4},
	} {
		sizes := make([]int, len(c.columns))
		index := make([]map[string]int64, len(c.columns))
		for a := range index {
			index[a] = map[string]int64{}
		}
		encode := func(rowNumbers []int) (values [][]int64, labels []int) {
			for _, i := range rowNumbers {
				var v []int64
				for a, name := range c.columns {
					cell := rows[i][column[name]]
					k, ok := index[a][cell]
					if !ok {
						k = int64(len(index[a]))
						index[a][cell] = k
					}
					v = append(v, k)
				}
				values, labels = append(values, v), append(labels, label(rows[i][column["diagnosis"]]))
			}
			return values, labels
		}
		all := make([]int, len(rows))
		for i := range all {
			all[i] = i
		}
		encode(all) // the value sets
		for a := range sizes {
			sizes[a] = len(index[a])
		}
		train, y := encode(split("train"))
		test, want := encode(split("test"))
		nb, err := TrainNaiveBayes(train, sizes, y, 5, 1)
		if err != nil {
			t.Fatal(err)
		}
		var predicted []int
		for _, row := range test {
			predicted = append(predicted, best(nb.Predict(row)))
		}
		accuracy, balanced := accuracies(predicted, want, 5)
		if math.Abs(accuracy-c.accuracy) > 0.3 || math.Abs(balanced-c.balanced) > 0.3 {
			t.Errorf("%s: accuracy %.2f, balanced %.1f; want %.2f, %.1f", c.name, accuracy, balanced, c.accuracy, c.balanced)
		}
	}
}

func TestNaiveBayesLeavesMissingValuesOut(t *testing.T) {
	// Attribute 1 is missing in every training row of class 0; a row without it must
	// be judged by attribute 0 alone: p(0|x) = 0.75·prior against 0.25·prior.
	rows := [][]int64{{0, Missing}, {0, Missing}, {1, 0}, {1, 1}}
	nb, err := TrainNaiveBayes(rows, []int{2, 2}, []int{0, 0, 1, 1}, 2, 1)
	if err != nil {
		t.Fatal(err)
	}
	if p := nb.Predict([]int64{0, Missing}); math.Abs(p[0]-0.75) > 1e-12 {
		t.Errorf("probability %g, want 0.75", p[0])
	}
	if p := nb.Predict([]int64{Missing, Missing}); math.Abs(p[0]-0.5) > 1e-12 {
		t.Errorf("nothing known: probability %g, want the prior 0.5", p[0])
	}
}

func TestReconstructUsesTheOtherAttributesOnly(t *testing.T) {
	rows := [][]int64{{0, 0}, {0, 0}, {1, 1}, {1, 1}, {1, Missing}}
	p, err := Reconstruct(rows, []int{2, 2}, 1, [][]int64{{Missing, 1}, {0, 1}})
	if err != nil {
		t.Fatal(err)
	}
	if p[0][0][1] < 0.7 || p[0][0][1] != p[1][0][1] {
		t.Errorf("p(attribute 0 = 1) is %g and %g, want the same high value whatever the row says of it", p[0][0][1], p[1][0][1])
	}
}

func TestLogisticRegressionStandsAtTheOptimum(t *testing.T) {
	// At the optimum the gradient of every free intercept is zero: the mean predicted
	// probability of a class is its share of the rows.
	var features [][]float64
	var labels []int
	for i := range 60 {
		x := float64(i%7) - 3
		features = append(features, []float64{x, 5, float64(i % 2)})
		labels = append(labels, map[bool]int{true: 1, false: (i / 7) % 2 * 2}[x > 0 && i%5 > 0])
	}
	m, err := TrainLogistic(features, labels, 3, LogisticOptions{C: 0.5})
	if err != nil {
		t.Fatal(err)
	}
	mean, share := make([]float64, 3), make([]float64, 3)
	right := 0
	for i, row := range features {
		p := m.Predict(row)
		for c := range p {
			mean[c] += p[c] / 60
		}
		share[labels[i]] += 1.0 / 60
		if best(p) == labels[i] {
			right++
		}
	}
	for c := range mean {
		if math.Abs(mean[c]-share[c]) > 1e-4 {
			t.Errorf("class %d: mean probability %g, share %g", c, mean[c], share[c])
		}
	}
	if right < 36 {
		t.Errorf("%d of 60 right", right)
	}
}

func TestOneHotKeepsMissingApart(t *testing.T) {
	x := OneHot([][]int64{{1, Missing}}, []int{2, 3}, true)
	want := []float64{0, 1, 0, 0, 0, 0, 1}
	for i := range want {
		if x[0][i] != want[i] {
			t.Fatalf("%v, want %v", x[0], want)
		}
	}
	if n := len(OneHot([][]int64{{1, Missing}}, []int{2, 3}, false)[0]); n != 5 {
		t.Errorf("%d columns, want 5", n)
	}
}

func TestBadRowsAreNamed(t *testing.T) {
	if _, err := TrainNaiveBayes([][]int64{{2}}, []int{2}, []int{0}, 2, 1); err == nil {
		t.Error("no error for a value outside its set")
	}
	if _, err := TrainNaiveBayes(nil, nil, nil, 2, 1); err == nil {
		t.Error("no error without rows")
	}
	if _, err := TrainLogistic([][]float64{{1}, {1, 2}}, []int{0, 1}, 2, LogisticOptions{}); err == nil {
		t.Error("no error for ragged rows")
	}
}
