package classify

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"slices"
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
		for _, method := range []resample.Method{resample.Percentile, resample.BCa} {
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

func TestResultsThatEvaluateHasNotMadeAreRefused(t *testing.T) {
	made := fixture(t)[0].A.evaluate(t)
	for name, r := range map[string]*Result{"nil": nil, "zero": {}, "by hand": {Cases: 1, Labels: []int{0}, Classes: []string{"a", "b"}}} {
		if _, err := r.Bootstrap(nil, resample.Options{}); !errors.Is(err, errNoResult) {
			t.Errorf("%s: bootstrap: error %v", name, err)
		}
		if _, err := Compare([]Named{{"made", made}, {"other", r}}, nil, resample.Options{}); !errors.Is(err, errNoResult) {
			t.Errorf("%s: compare: error %v", name, err)
		}
	}
	if _, err := made.Bootstrap(nil, resample.Options{Level: 2}); err == nil || !strings.Contains(err.Error(), "level 2") {
		t.Errorf("error %v, want that of the level", err)
	}
	if _, err := Compare([]Named{{"a", made}, {"b", made}}, nil, resample.Options{Method: "x"}); err == nil || !strings.Contains(err.Error(), `"x"`) {
		t.Errorf("error %v, want that of the method", err)
	}
	if _, err := Compare(nil, nil, resample.Options{}); err == nil {
		t.Error("no systems are compared")
	}
}

// figuresOf lists every figure with an interval, by name.
var figuresOf = map[string]func(Metrics) float64{
	"accuracy":          func(m Metrics) float64 { return m.Accuracy },
	"balanced accuracy": func(m Metrics) float64 { return m.BalancedAccuracy },
	"macro AUROC":       func(m Metrics) float64 { return m.MacroAUROC },
	"ECE":               func(m Metrics) float64 { return m.ECE },
	"recall of 0":       func(m Metrics) float64 { return m.Recall[0] },
	"recall of 2":       func(m Metrics) float64 { return m.Recall[2] },
	"AUROC of 0":        func(m Metrics) float64 { return m.AUROC[0] },
	"AUROC of 2":        func(m Metrics) float64 { return m.AUROC[2] },
}

// replicatesOf evaluates a figure under the weights that the seed draws.
func replicatesOf(t *testing.T, r *Result, o resample.Options, figure func(Metrics) float64) []float64 {
	t.Helper()
	clusters, n, err := clusterOf(nil, r.Cases)
	if err != nil || n != r.Cases {
		t.Fatalf("%d clusters of %d cases (%v)", n, r.Cases, err)
	}
	out := make([]float64, o.Replicates)
	for k := range out {
		drawn, weights := make([]int32, n), make([]int32, n)
		o.Draw(k, drawn)
		for i, c := range clusters {
			weights[i] = drawn[c]
		}
		out[k] = figure(r.metrics(weights))
	}
	return out
}

// cases counts those of a class.
func (r *Result) cases(class int) (n int) {
	for _, label := range r.Labels {
		if label == class {
			n++
		}
	}
	return n
}

// All right and all wrong are no certainty: the interval reaches to what so many patients
// can exclude, and few patients are few whatever the number of their cases.
func TestIntervalsAtTheEdgeAreExact(t *testing.T) {
	var labels []int
	var right, wrong [][]float64
	for i := range 60 {
		labels = append(labels, i%2)
		row := []float64{0.9, 0.1}
		if i%2 == 1 {
			row = []float64{0.1, 0.9}
		}
		right, wrong = append(right, row), append(wrong, []float64{row[1], row[0]})
	}
	for name, c := range map[string]struct {
		rows     [][]float64
		patients []string
		want     resample.Interval
	}{
		"all right": {right, nil, resample.Interval{Low: 0.940371, High: 1}},
		"all wrong": {wrong, nil, resample.Interval{Low: 0, High: 0.059629}},
	} {
		r, err := Evaluate(labels, c.rows, []string{"a", "b"})
		if err != nil {
			t.Fatal(err)
		}
		b, err := r.Bootstrap(c.patients, resample.Options{Replicates: 100})
		if err != nil {
			t.Fatal(err)
		}
		if i := b.Accuracy; math.Abs(i.Low-c.want.Low) > 1e-6 || math.Abs(i.High-c.want.High) > 1e-6 {
			t.Errorf("%s: accuracy %v, want %v", name, i, c.want)
		}
		for _, i := range []resample.Interval{b.BalancedAccuracy, b.MacroAUROC, b.Recall[0], b.AUROC[1]} {
			if i.Low == i.High {
				t.Errorf("%s: an interval is the point %v", name, i.Low)
			}
		}
	}
}

func TestEveryIntervalIsOfItsOwnFigure(t *testing.T) {
	f := fixture(t)[1]
	a, b := f.A.evaluate(t), f.B.evaluate(t)
	o, err := resample.Options{Replicates: 50, Permutations: 20, Seed: 3}.Resolved()
	if err != nil {
		t.Fatal(err)
	}
	one, err := a.Bootstrap(nil, o)
	if err != nil {
		t.Fatal(err)
	}
	pairs, err := Compare([]Named{{"a", a}, {"b", b}}, nil, o)
	if err != nil {
		t.Fatal(err)
	}
	intervals := map[string]resample.Interval{
		"accuracy": one.Accuracy, "balanced accuracy": one.BalancedAccuracy, "macro AUROC": one.MacroAUROC, "ECE": one.ECE,
		"recall of 0": one.Recall[0], "recall of 2": one.Recall[2], "AUROC of 0": one.AUROC[0], "AUROC of 2": one.AUROC[2],
	}
	differences := map[string]Difference{
		"accuracy": pairs[0].Accuracy, "balanced accuracy": pairs[0].BalancedAccuracy, "macro AUROC": pairs[0].MacroAUROC, "ECE": pairs[0].ECE,
	}
	for name, figure := range figuresOf {
		ofA, ofB := replicatesOf(t, a, o, figure), replicatesOf(t, b, o, figure)
		want := o.Interval(ofA, figure(a.Metrics), nil)
		if count, isRecall := map[string]int{"recall of 0": a.cases(0), "recall of 2": a.cases(2)}[name]; isRecall {
			want = o.Share(ofA, figure(a.Metrics), nil, count)
		}
		if intervals[name] != want {
			t.Errorf("%s: interval %v, want %v", name, intervals[name], want)
		}
		d, ok := differences[name]
		if !ok {
			continue
		}
		between := resample.Minus(ofB, ofA)
		wanted := Difference{Value: figure(b.Metrics) - figure(a.Metrics), BootstrapP: resample.BootstrapP(between), PermutationP: d.PermutationP}
		wanted.CI, wanted.Resolvable = o.Difference(between, wanted.Value, nil, a.Cases)
		if d != wanted {
			t.Errorf("%s: difference %+v, want %+v", name, d, wanted)
		}
	}
}

// A confidence at the edge of two bins belongs to the lower one: (8/15, 9/15].
func TestBinsOfTheCalibrationErrorAreOpenOnTheLeft(t *testing.T) {
	classes := []string{"a", "b"}
	for name, c := range map[string]struct {
		confidence float64 // of a wrong prediction, beside a right one of 0.6 = 9/15
		want       float64
	}{
		"in the bin below the edge": {0.55, math.Abs(1-0.6-0.55) / 2},
		"in the bin above the edge": {0.65, (1 - 0.6 + 0.65) / 2},
		"certain":                   {1, (1 - 0.6 + 1) / 2},
	} {
		r, err := Evaluate([]int{0, 1}, [][]float64{{0.6, 0.4}, {c.confidence, 1 - c.confidence}}, classes)
		if err != nil {
			t.Fatal(err)
		}
		if math.Abs(r.Metrics.ECE-c.want) > 1e-12 {
			t.Errorf("%s: %v, want %v", name, r.Metrics.ECE, c.want)
		}
	}
	// the last two bins, and a probability that is rounded above 1
	for _, certain := range []float64{1, 1 + 1e-7} {
		r, err := Evaluate([]int{0, 1}, [][]float64{{0.9, 0.1}, {certain, 0}}, classes)
		if err != nil || math.Abs(r.Metrics.ECE-(1-0.9+certain)/2) > 1e-12 {
			t.Errorf("%v beside 0.9: %v (%v)", certain, r.Metrics.ECE, err)
		}
	}
	// the first two bins
	many := []string{"a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p"}
	even := make([]float64, len(many))
	for i := range even {
		even[i] = 1.0 / float64(len(many))
	}
	second := slices.Clone(even)
	second[0], second[1] = 0.1, 1.0/8-0.1
	r, err := Evaluate([]int{0, 1}, [][]float64{even, second}, many)
	if err != nil {
		t.Fatal(err)
	}
	if want := (1 - 1.0/16 + 0.1) / 2; math.Abs(r.Metrics.ECE-want) > 1e-12 {
		t.Errorf("in the first bin and the second %v, want %v", r.Metrics.ECE, want)
	}
}

func TestBordersOfProbabilities(t *testing.T) {
	classes := []string{"a", "b"}
	for name, c := range map[string]struct {
		row []float64
		ok  bool
	}{
		"sum a little low":      {[]float64{0.5, 0.4995}, true},
		"sum a little high":     {[]float64{0.5, 0.5005}, true},
		"sum too low":           {[]float64{0.5, 0.498}, false},
		"sum too high":          {[]float64{0.5, 0.502}, false},
		"certain with rounding": {[]float64{1 + 1e-7, 0}, true},
		"more than certain":     {[]float64{1 + 1e-5, 0}, false},
	} {
		if _, err := Evaluate([]int{0}, [][]float64{c.row}, classes); (err == nil) != c.ok {
			t.Errorf("%s: error %v", name, err)
		}
	}
	r, err := Evaluate([]int{1}, [][]float64{{0.5, 0.5}}, classes)
	if err != nil || r.Predicted[0] != 0 || r.Confusion[1][0] != 1 {
		t.Errorf("of equal probabilities %v is predicted (%v), want the first", r.Predicted, err)
	}
}

func TestClustersOfPatients(t *testing.T) {
	clusters, n, err := clusterOf([]string{"b", "a", "b", "", ""}, 5)
	if err != nil || n != 4 || clusters[0] != clusters[2] || clusters[0] == clusters[1] || clusters[3] == clusters[4] {
		t.Errorf("%v of %d clusters (%v), want b and a, and each nameless case by itself", clusters, n, err)
	}
}

func TestMcNemarCountsDiscordantCases(t *testing.T) {
	classes := []string{"a", "b"}
	right, wrong := []float64{0.9, 0.1}, []float64{0.2, 0.8}
	evaluate := func(rows ...[]float64) *Result {
		r, err := Evaluate(make([]int, len(rows)), rows, classes)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	got := mcNemar(evaluate(right, right, right, wrong, wrong), evaluate(right, wrong, wrong, right, wrong))
	// two to one of three coins: the smaller tail is 1/2, doubled it is 1
	if got != (McNemar{OnlyA: 2, OnlyB: 1, P: 1}) {
		t.Errorf("%+v", got)
	}
}
