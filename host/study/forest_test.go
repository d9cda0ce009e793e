package study

import (
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/alignedfusion/alignedfusion/eval/resample"
	"github.com/alignedfusion/alignedfusion/internal/stat"
)

// forestData are the rows of testdata/forest.py, made of splitmix64.
func forestData() (x [][]float64, y []int) {
	state := uint64(7)
	uniform := func() float64 {
		state += 0x9E3779B97F4A7C15
		z := state
		z = (z ^ z>>30) * 0xBF58476D1CE4E5B9
		z = (z ^ z>>27) * 0x94D049BB133111EB
		return float64((z^z>>31)>>40) / (1 << 24)
	}
	for range 1200 {
		row := make([]float64, 12)
		for j := range row {
			if row[j] = uniform(); j >= 8 {
				row[j] = math.Floor(3 * row[j])
			}
		}
		one := 0.0
		if row[9] == 1 {
			one = 0.4
		}
		label := stat.ArgMax([]float64{row[0] + 0.5*row[8], 2*row[1]*row[2] + one, 0.3 + 0.6*row[3]})
		if noise := uniform(); noise < 0.15 {
			label = int(noise * 20)
		}
		x, y = append(x, row), append(y, label)
	}
	return x, y
}

// scikit-learn 1.9: .785 to .795 with leaves of one row, .783 to .788 with five, over five seeds.
func TestForestIsAsGoodAsScikitLearns(t *testing.T) {
	x, y := forestData()
	for leaf, want := range map[int]float64{1: 0.790, 5: 0.785} {
		f, err := TrainForest(x[:600], y[:600], 3, ForestOptions{Trees: 300, MinLeaf: leaf, Seed: 1})
		if err != nil {
			t.Fatal(err)
		}
		right, sum := 0.0, 0.0
		for i, row := range x[600:] {
			p := f.Predict(row)
			sum += p[0] + p[1] + p[2]
			if stat.ArgMax(p) == y[600+i] {
				right++
			}
		}
		if got := right / 600; math.Abs(got-want) > 0.015 || math.Abs(sum-600) > 1e-6 {
			t.Errorf("leaves of %d: accuracy %.4f, want %.3f ± .015; probabilities sum to %g in 600 rows", leaf, got, want, sum)
		}
	}
}

func TestForestRefusesWhatItCannotLearnFrom(t *testing.T) {
	for name, make := range map[string]func() error{
		"no rows":   func() error { _, err := TrainForest(nil, nil, 2, ForestOptions{}); return err },
		"a label":   func() error { _, err := TrainForest([][]float64{{1}}, []int{2}, 2, ForestOptions{}); return err },
		"one class": func() error { _, err := TrainForest([][]float64{{1}}, []int{0}, 1, ForestOptions{}); return err },
		"ragged":    func() error { _, err := TrainForest([][]float64{{1}, {}}, []int{0, 1}, 2, ForestOptions{}); return err },
	} {
		if make() == nil {
			t.Errorf("%s was taken", name)
		}
	}
}

// Two patients with two values each: the method finds three, naive Bayes one, so it is .5 above.
func TestWaysAreComparedValueByValue(t *testing.T) {
	a := AttributeScore{Attribute: "age"}
	for _, v := range []RecoveredValue{
		{Patient: "p", Right: []string{byMethod, byBayes}}, {Patient: "p", Right: []string{byMethod}},
		{Patient: "q", Right: []string{byMethod}}, {Patient: "q"},
	} {
		a.add(v, 0.5)
	}
	o, err := resample.Options{Replicates: 200, Seed: 1}.Resolved()
	if err != nil {
		t.Fatal(err)
	}
	got := a.ways(o)
	if len(got) != 1 || got[0].Name != byBayes || got[0].Accuracy != 0.25 || got[0].Difference.Value != 0.5 || a.Right != 3 || a.NaiveBayes != 1 {
		t.Errorf("%+v, %+v", got, a)
	}
	// Both patients differ by one of two values: whoever is drawn, the difference is .5.
	if d := got[0].Difference; d.Low != 0.5 || d.High != 0.5 {
		t.Errorf("interval %+v of a difference that is the same in both patients", d)
	}
	// The second patient's values are found by both: the difference is 0 to .5.
	a.Values[2].Right, a.Values[3].Right = []string{byMethod, byBayes}, []string{byMethod, byBayes}
	if d := a.ways(o)[0].Difference; d.Value != 0.25 || d.Low != 0 || d.High != 0.5 {
		t.Errorf("interval %+v of a difference of .5 in one of two patients", d)
	}
}

// Every case of all folds is in the joined result once, and its figures are of all together.
func TestFoldsAreJoinedPerSeed(t *testing.T) {
	o := Options{Dir: t.TempDir(), Identity: Identity{Task: "classify", Data: "table:x", Split: foldsSplit},
		Plan: Plan{Seeds: []uint64{1, 2}, Folds: []string{"fold0", "fold1"}, Blocks: []Block{{
			Points:  Points([]Scenario{scenario(t, "C-Tr+M-Te")}, []float64{0, 0.5}, []float64{1}),
			Methods: []Method{method(t, "none"), method(t, "itfusion")},
		}}}}
	s, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(s.cells); n != 2*2*(1+2) {
		t.Fatalf("%d cells, want those of two folds and seeds", n)
	}
	fabricate(t, s, map[string]float64{"none": 0.5, "itfusion": 0.9})
	table, err := s.Table(TableOptions{Baseline: "itfusion", Resample: resample.Options{Replicates: 50, Seed: 1}})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range table.Rows {
		if !slices.Equal(r.Seeds, []uint64{1, 2}) || len(r.Cells) != 4 {
			t.Errorf("%s: seeds %v of cells %v, want two seeds of two folds each", r.Method, r.Seeds, r.Cells)
		}
		sum := 0.0
		for _, name := range r.Cells {
			for _, c := range s.cells {
				if c.Name() == name {
					one, err := s.result(c)
					if err != nil {
						t.Fatal(err)
					}
					sum += one.Metrics["accuracy"] / 4
				}
			}
		}
		if got := float64(r.Figures["accuracy"].Mean); math.Abs(got-sum) > 1e-12 {
			t.Errorf("%s: accuracy %g, want the mean %g of folds of one size", r.Method, got, sum)
		}
	}
}

func TestAFoldHasSettingsOfItsOwnAndNothingIsChosenOnIt(t *testing.T) {
	o := Options{Identity: Identity{Task: "classify", Data: "table:x.csv", Encoder: "enc", Set: []string{"fold1/encoder.weights=w1", "fold0/fusion.width=8"}}}
	for fold, want := range map[string]string{"fold0": "!fold0  last ", "fold1": "!fold1  last w1", "": "train val balanced_accuracy "} {
		c, err := o.config(Model{Method: method(t, "none"), Fraction: 1, Seed: 1, Fold: fold})
		if err != nil {
			t.Fatal(err)
		}
		d := c.DataSettings
		if got := fmt.Sprintf("%s %s %s %s", d.TrainSplit, d.ValidationSplit, c.Train.BestBy, c.Encoder.Settings["weights"]); got != want {
			t.Errorf("fold %q: %q, want %q", fold, got, want)
		}
	}
}
