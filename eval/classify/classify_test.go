package classify

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/alignedfusion/alignedfusion/eval/resample"
)

// figures are what scikit-learn says about one system.
type figures struct {
	Labels           []int
	Probabilities    [][]float64
	Accuracy         float64
	BalancedAccuracy float64 `json:"balanced_accuracy"`
	MacroAUROC       float64 `json:"macro_auroc"`
	AUROC, Recall    []float64
	Confusion        [][]int
	ECE              float64
}

type comparison struct {
	A, B    figures
	OnlyA   int `json:"only_a"`
	OnlyB   int `json:"only_b"`
	McNemar float64
}

var near = cmp.Options{cmpopts.EquateApprox(0, 1e-12), cmpopts.EquateNaNs()}

func fixture(t *testing.T) []comparison {
	t.Helper()
	raw, err := os.ReadFile("testdata/metrics.json")
	if err != nil {
		t.Fatal(err)
	}
	var all []comparison
	if err := json.Unmarshal(raw, &all); err != nil {
		t.Fatal(err)
	}
	if len(all) != 3 {
		t.Fatalf("%d cases, want 3", len(all))
	}
	return all
}

func (f *figures) evaluate(t *testing.T) *Result {
	t.Helper()
	var classes []string
	for c := range f.Probabilities[0] {
		classes = append(classes, fmt.Sprint("class ", c))
	}
	r, err := Evaluate(f.Labels, f.Probabilities, classes)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestMetricsEqualScikitLearn(t *testing.T) {
	for _, c := range fixture(t) {
		for _, f := range []figures{c.A, c.B} {
			r := f.evaluate(t)
			want := Metrics{f.Accuracy, f.BalancedAccuracy, f.MacroAUROC, f.ECE, f.Recall, f.AUROC}
			if d := cmp.Diff(want, r.Metrics, near); d != "" {
				t.Errorf("(-scikit-learn +ours):\n%s", d)
			}
			if d := cmp.Diff(f.Confusion, r.Confusion); d != "" {
				t.Error(d)
			}
		}
	}
}

func TestMcNemarEqualsScipysBinomialTest(t *testing.T) {
	for _, c := range fixture(t) {
		got := mcNemar(c.A.evaluate(t), c.B.evaluate(t))
		if d := cmp.Diff(McNemar{c.OnlyA, c.OnlyB, c.McNemar}, got, near); d != "" {
			t.Error(d)
		}
	}
	if got := mcNemar(fixture(t)[0].A.evaluate(t), fixture(t)[0].A.evaluate(t)); got.P != 1 {
		t.Errorf("a system against itself: %+v, want p = 1", got)
	}
}

func TestBadInputIsNamed(t *testing.T) {
	classes := []string{"a", "b"}
	for want, c := range map[string]struct {
		labels  []int
		probs   [][]float64
		classes []string
	}{
		"2 labels for 1 rows":                              {[]int{0, 1}, [][]float64{{1, 0}}, classes},
		"1 classes, want 2":                                {[]int{0}, [][]float64{{1}}, []string{"a"}},
		"case 0: label 2, want 0 to 1":                     {[]int{2}, [][]float64{{1, 0}}, classes},
		"case 0: label -1":                                 {[]int{-1}, [][]float64{{1, 0}}, classes},
		"case 0: 3 probabilities for 2 classes":            {[]int{0}, [][]float64{{1, 0, 0}}, classes},
		`case 0, class "b": probability NaN, want 0 to 1`:  {[]int{0}, [][]float64{{1, math.NaN()}}, classes},
		`case 0, class "a": probability -0.5, want 0 to 1`: {[]int{0}, [][]float64{{-0.5, 1.5}}, classes},
		"case 0: probabilities sum to 0.8":                 {[]int{0}, [][]float64{{0.4, 0.4}}, classes},
	} {
		if _, err := Evaluate(c.labels, c.probs, c.classes); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
	if _, err := Evaluate(nil, nil, classes); !errors.Is(err, ErrNoCases) {
		t.Errorf("error %v, want ErrNoCases", err)
	}
}

func TestClassWithoutCasesIsLeftOutOfMeans(t *testing.T) {
	r, err := Evaluate([]int{0, 0, 1}, [][]float64{{0.8, 0.1, 0.1}, {0.2, 0.5, 0.3}, {0.1, 0.9, 0}}, []string{"a", "b", "never"})
	if err != nil {
		t.Fatal(err)
	}
	want := Metrics{Accuracy: 2.0 / 3, BalancedAccuracy: 0.75, MacroAUROC: 1, Recall: []float64{0.5, 1, math.NaN()}, AUROC: []float64{1, 1, math.NaN()}}
	want.ECE = r.Metrics.ECE
	if d := cmp.Diff(want, r.Metrics, near); d != "" {
		t.Error(d)
	}
}

// drawn makes cases of few patients.
func drawn(t *rapid.T) (*Result, []string) {
	n := rapid.IntRange(2, 12).Draw(t, "n")
	var labels []int
	var probs [][]float64
	var patients []string
	for range n {
		labels = append(labels, rapid.IntRange(0, 2).Draw(t, "label"))
		a, b := rapid.IntRange(0, 4).Draw(t, "a"), rapid.IntRange(0, 4).Draw(t, "b")
		probs = append(probs, []float64{float64(a) / 8, float64(b) / 8, float64(8-a-b) / 8})
		patients = append(patients, fmt.Sprint("p", rapid.IntRange(0, 4).Draw(t, "patient")))
	}
	r, err := Evaluate(labels, probs, []string{"x", "y", "z"})
	if err != nil {
		t.Fatal(err)
	}
	return r, patients
}

func TestReplicatesEqualEvaluatingTheDrawnPatientsAgain(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r, patients := drawn(t)
		clusters, n, err := clusterOf(patients, r.Cases)
		if err != nil {
			t.Fatal(err)
		}
		o := resample.Options{Seed: rapid.Uint64().Draw(t, "seed")}
		weights := make([]int32, n)
		o.Draw(0, weights)
		var labels []int
		var probs [][]float64
		for i, c := range clusters {
			for range weights[c] {
				labels = append(labels, r.Labels[i])
				probs = append(probs, r.Probabilities[i])
			}
		}
		again, err := Evaluate(labels, probs, r.Classes)
		if err != nil {
			t.Fatal(err)
		}
		columns := reweigh(1, []*Result{r}, clusters, n, o.Draw)[0]
		for i, want := range again.Metrics.vector() {
			if d := cmp.Diff(want, columns[i][0], near); d != "" {
				t.Fatalf("figure %d (-again +replicate):\n%s", i, d)
			}
		}
	})
}

func TestOrderOfCasesNeverMatters(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r, patients := drawn(t)
		order := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0)).Perm(r.Cases)
		var labels []int
		var probs [][]float64
		var mixed []string
		for _, i := range order {
			labels, probs, mixed = append(labels, r.Labels[i]), append(probs, r.Probabilities[i]), append(mixed, patients[i])
		}
		again, err := Evaluate(labels, probs, r.Classes)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(r.Metrics, again.Metrics, near); d != "" {
			t.Fatal(d)
		}
		o := resample.Options{Replicates: 20}
		a, err := r.Bootstrap(patients, o)
		if err != nil {
			t.Fatal(err)
		}
		b, err := again.Bootstrap(mixed, o)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(a, b, near); d != "" {
			t.Fatal(d)
		}
	})
}

func TestIntervalsHoldTheEstimate(t *testing.T) {
	for _, c := range fixture(t) {
		r := c.A.evaluate(t)
		for _, method := range []string{resample.Percentile, resample.BCa} {
			i, err := r.Bootstrap(nil, resample.Options{Replicates: 300, Method: method})
			if err != nil {
				t.Fatal(err)
			}
			for name, pair := range map[string]struct {
				value    float64
				interval resample.Interval
			}{
				"accuracy": {r.Metrics.Accuracy, i.Accuracy}, "balanced accuracy": {r.Metrics.BalancedAccuracy, i.BalancedAccuracy},
				"AUROC": {r.Metrics.MacroAUROC, i.MacroAUROC}, "recall": {r.Metrics.Recall[1], i.Recall[1]}, "AUROC of a class": {r.Metrics.AUROC[1], i.AUROC[1]},
			} {
				if pair.value < pair.interval.Low || pair.value > pair.interval.High || pair.interval.Low == pair.interval.High {
					t.Errorf("%s, %s: %v outside %v", method, name, pair.value, pair.interval)
				}
			}
		}
	}
}

// Copies of every case within its patient add no information: intervals must stay.
func TestIntervalsAreClusteredByPatient(t *testing.T) {
	f := fixture(t)[1].A
	r := f.evaluate(t)
	var labels []int
	var probs [][]float64
	var patients []string
	for i := range f.Labels {
		for range 5 {
			labels, probs, patients = append(labels, f.Labels[i]), append(probs, f.Probabilities[i]), append(patients, fmt.Sprintf("p%03d", i))
		}
	}
	copies, err := Evaluate(labels, probs, r.Classes)
	if err != nil {
		t.Fatal(err)
	}
	o := resample.Options{Replicates: 400, Seed: 2}
	one, err := r.Bootstrap(nil, o)
	if err != nil {
		t.Fatal(err)
	}
	five, err := copies.Bootstrap(patients, o)
	if err != nil {
		t.Fatal(err)
	}
	if w1, w5 := one.Accuracy.High-one.Accuracy.Low, five.Accuracy.High-five.Accuracy.Low; w5 < 0.8*w1 {
		t.Errorf("five copies of each case narrow the interval from %v to %v", w1, w5)
	}
}

func TestCompare(t *testing.T) {
	f := fixture(t)[1]
	a, b := f.A.evaluate(t), f.B.evaluate(t)
	pairs, err := Compare([]Named{{"a", a}, {"b", b}, {"again", a}}, nil, resample.Options{Replicates: 400})
	if err != nil {
		t.Fatal(err)
	}
	better, same := pairs[0], pairs[1]
	if got, want := better.Accuracy.Value, b.Metrics.Accuracy-a.Metrics.Accuracy; got != want {
		t.Errorf("difference %v, want %v", got, want)
	}
	if !(better.BalancedAccuracy.PermutationP < 0.05 && better.BalancedAccuracy.CI.Low > 0 && better.McNemar.P < 0.01) {
		t.Errorf("the more skilled system is not seen to be better: %+v", better)
	}
	if want := math.Min(1, 2*better.BalancedAccuracy.PermutationP); better.HolmPermutationP != want {
		t.Errorf("corrected p %v, want %v", better.HolmPermutationP, want)
	}
	if same.Accuracy.Value != 0 || same.Accuracy.PermutationP != 1 || same.McNemar.P != 1 {
		t.Errorf("a system against itself: %+v", same)
	}
}

func TestCompareRefuses(t *testing.T) {
	f := fixture(t)
	a, other := f[0].A.evaluate(t), f[1].A.evaluate(t)
	for want, c := range map[string]struct {
		systems  []Named
		patients []string
	}{
		"2 or more":         {[]Named{{"a", a}}, nil},
		"no result":         {[]Named{{"a", a}, {"b", nil}}, nil},
		"different cases":   {[]Named{{"a", a}, {"b", other}}, nil},
		"1 patients for 60": {[]Named{{"a", a}, {"b", a}}, []string{"p"}},
	} {
		if _, err := Compare(c.systems, c.patients, resample.Options{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
}

func ExampleEvaluate() {
	classes := []string{"benign", "malignant"}
	r, err := Evaluate([]int{0, 0, 1, 1}, [][]float64{{0.9, 0.1}, {0.4, 0.6}, {0.3, 0.7}, {0.2, 0.8}}, classes)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("accuracy %.2f, AUROC %.2f, recall of %s %.2f\n", r.Metrics.Accuracy, r.Metrics.MacroAUROC, classes[0], r.Metrics.Recall[0])
	// Output: accuracy 0.75, AUROC 1.00, recall of benign 0.50
}
