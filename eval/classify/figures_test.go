package classify

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/alignedfusion/alignedfusion/eval/resample"
)

func readJSON(t *testing.T, path string, into any) {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, into); err != nil {
		t.Fatal(err)
	}
}

// predicted is one system of testdata/metrics.json.
type predicted struct {
	Labels        []int
	Probabilities [][]float64
}

func (p predicted) result(t *testing.T) *Result {
	t.Helper()
	var classes []string
	for c := range p.Probabilities[0] {
		classes = append(classes, strconv.Itoa(c))
	}
	r, err := Evaluate(p.Labels, p.Probabilities, classes)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestFiguresAreThoseOfScikitLearn(t *testing.T) {
	var given []struct{ A, B predicted }
	var wanted []struct{ A, B map[string]float64 }
	readJSON(t, "testdata/metrics.json", &given)
	readJSON(t, "testdata/figures.json", &wanted)
	for i := range given {
		for name, pair := range map[string]struct {
			r    *Result
			want map[string]float64
		}{"a": {given[i].A.result(t), wanted[i].A}, "b": {given[i].B.result(t), wanted[i].B}} {
			for figure, want := range pair.want {
				f, err := ParseFigure(figure, pair.r.Classes)
				if err != nil {
					t.Fatal(err)
				}
				if got := f.Of(pair.r); math.Abs(got-want) > 1e-9 {
					t.Errorf("case %d%s: %s is %v, want %v", i, name, figure, got, want)
				}
			}
		}
	}
}

func TestVariancesOfAreasAreDeLongsAndWithPatientsObuchowskis(t *testing.T) {
	var given []struct{ A, B predicted }
	var wanted []struct {
		Patients  []int
		Variances []struct{ Cases, Patients [3]float64 }
	}
	readJSON(t, "testdata/metrics.json", &given)
	readJSON(t, "testdata/figures.json", &wanted)
	for i := range given {
		systems := []*Result{given[i].A.result(t), given[i].B.result(t)}
		var patients []string
		for _, p := range wanted[i].Patients {
			patients = append(patients, fmt.Sprint("p", p))
		}
		for class, want := range wanted[i].Variances {
			for _, c := range []struct {
				patients []string
				want     [3]float64
			}{{nil, want.Cases}, {patients, want.Patients}} {
				areas, pairs, err := AUROCs(systems, class, c.patients, 0.95)
				if err != nil {
					t.Fatal(err)
				}
				for k, got := range []float64{areas[0].StdErr, areas[1].StdErr, pairs[0].StdErr} {
					if math.Abs(got*got-c.want[k]) > 1e-12 {
						t.Errorf("case %d, class %d, %v patients: variance %v, want %v", i, class, c.patients != nil, got*got, c.want[k])
					}
				}
			}
		}
	}
}

// Of equal systems no difference has a variance, and no test is made of it.
func TestEqualSystemsHaveNoTestOfTheirAreas(t *testing.T) {
	var given []struct{ A predicted }
	readJSON(t, "testdata/metrics.json", &given)
	r := given[0].A.result(t)
	_, pairs, err := AUROCs([]*Result{r, r}, 1, nil, 0.95)
	if err != nil || pairs[0].Difference != 0 || !math.IsNaN(pairs[0].P) {
		t.Errorf("%+v %v", pairs, err)
	}
}

func TestWhatTheCasesLeaveUndefinedIsNaN(t *testing.T) {
	r, err := Evaluate([]int{0, 0, 0}, [][]float64{{0.9, 0.1}, {0.8, 0.2}, {0.7, 0.3}}, []string{"no", "yes"})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"auroc", "ap", "recall:yes", "precision:yes", "f1:yes", "sensitivity@0.9", "specificity@0.9", "kappa", "mcc", "calibration_slope", "calibration_intercept"} {
		f, err := ParseFigure(name, r.Classes)
		if err != nil {
			t.Fatal(err)
		}
		if got := f.Of(r); !math.IsNaN(got) {
			t.Errorf("%s without a positive case: %v", name, got)
		}
	}
	areas, _, err := AUROCs([]*Result{r}, 1, nil, 0.95)
	if err != nil || !math.IsNaN(areas[0].AUROC) || !math.IsNaN(areas[0].StdErr) {
		t.Errorf("%+v %v", areas, err)
	}
	separated, err := Evaluate([]int{0, 0, 1, 1}, [][]float64{{0.9, 0.1}, {0.8, 0.2}, {0.3, 0.7}, {0.2, 0.8}}, []string{"no", "yes"})
	if err != nil {
		t.Fatal(err)
	}
	f, _ := ParseFigure("calibration_slope", separated.Classes)
	if got := f.Of(separated); !math.IsNaN(got) {
		t.Errorf("the slope of separated cases is %v", got)
	}
}

// At the edge the replicates are all equal, and the interval is that of a share.
func TestTheIntervalOfAFigureAtTheEdgeIsNoPoint(t *testing.T) {
	var labels []int
	var rows [][]float64
	for i := range 40 {
		labels = append(labels, i%2)
		rows = append(rows, [][]float64{{0.9, 0.1}, {0.1, 0.9}}[i%2])
	}
	r, err := Evaluate(labels, rows, []string{"no", "yes"})
	if err != nil {
		t.Fatal(err)
	}
	f, err := ParseFigure("sensitivity@0.9", r.Classes)
	if err != nil {
		t.Fatal(err)
	}
	each, _, err := Estimates([]*Result{r}, []Figure{f}, nil, resample.Options{Replicates: 100})
	if want := math.Pow(0.025, 1.0/20); err != nil || each[0][0].Value != 1 || math.Abs(each[0][0].CI.Low-want) > 1e-9 {
		t.Errorf("%+v %v, want from %v: 20 of 20", each, err, want)
	}
}

func TestFiguresAreAskedForByName(t *testing.T) {
	three := []string{"a", "b", "c"}
	for text, want := range map[string]string{
		"acuracy": `did you mean "accuracy"`, "f1": "want f1:CLASS", "f1:d": `class "d" is unknown`, "accuracy:a": "of all classes",
		"sensitivity:a": "sensitivity@0.9", "auroc@0.5:a": "without @", "net_benefit@1:a": "between 0 and 1", "net_benefit@x:a": "between 0 and 1",
	} {
		if _, err := ParseFigure(text, three); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
	f, err := ParseFigure("auroc", []string{"no", "yes"})
	if err != nil || f.Name != "auroc:yes" || f.Class != 1 {
		t.Errorf("%+v %v", f, err)
	}
	if len(FigureNames()) != len(figureKinds) {
		t.Error("a figure has no name")
	}
}

// A case that counts twice is a case that is there twice.
func TestWeightsAreRepeatedCases(t *testing.T) {
	classes := []string{"a", "b", "c"}
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(3, 20).Draw(t, "cases")
		var labels, twice []int
		var rows, rowsTwice [][]float64
		w := make(weights, n)
		for i := range n {
			label := rapid.IntRange(0, 2).Draw(t, "label")
			p := rapid.Float64Range(0, 1).Draw(t, "p")
			q := rapid.Float64Range(0, 1-p).Draw(t, "q")
			row := []float64{p, q, 1 - p - q}
			labels, rows = append(labels, label), append(rows, row)
			w[i] = int32(rapid.IntRange(0, 3).Draw(t, "weight"))
			for range w[i] {
				twice, rowsTwice = append(twice, label), append(rowsTwice, row)
			}
		}
		if len(twice) == 0 {
			return
		}
		a, err := Evaluate(labels, rows, classes)
		if err != nil {
			t.Fatal(err)
		}
		b, err := Evaluate(twice, rowsTwice, classes)
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range figureKinds {
			if strings.HasPrefix(k.name, "calibration") {
				continue // found to 1e-12 in other steps
			}
			name := k.name
			if k.at {
				name += "@0.7"
			}
			if k.perClass {
				name += ":b"
			}
			f, err := ParseFigure(name, classes)
			if err != nil {
				t.Fatal(err)
			}
			if x, y := f.of(a, w), f.Of(b); math.Abs(x-y) > 1e-9 && !(math.IsNaN(x) && math.IsNaN(y)) {
				t.Fatalf("%s: weighted %v, repeated %v", name, x, y)
			}
		}
	})
}

func TestEstimatesAreThoseOfTheBootstrap(t *testing.T) {
	var given []struct{ A, B predicted }
	readJSON(t, "testdata/metrics.json", &given)
	systems := []*Result{given[1].A.result(t), given[1].B.result(t)}
	var figures []Figure
	for _, name := range []string{"macro_auroc", "ece"} {
		f, err := ParseFigure(name, systems[0].Classes)
		if err != nil {
			t.Fatal(err)
		}
		figures = append(figures, f)
	}
	o := resample.Options{Replicates: 200, Seed: 1}
	each, differences, err := Estimates(systems, figures, nil, o)
	if err != nil {
		t.Fatal(err)
	}
	ece, err := systems[1].Bootstrap(nil, o)
	if err != nil {
		t.Fatal(err)
	}
	if got := each[1][1]; got.CI != ece.ECE || got.Value != systems[1].Metrics.ECE {
		t.Errorf("%+v, want %v", got, ece.ECE)
	}
	pairs, err := Compare([]Named{{"a", systems[0]}, {"b", systems[1]}}, nil, o)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := differences[0][0], pairs[0].MacroAUROC; got.CI != want.CI || got.BootstrapP != want.BootstrapP || got.Value != want.Value {
		t.Errorf("%+v, want %+v", got, want)
	}
}

// train.best_by takes the figures of all classes: which of them count errors.
func TestErrorsAreBetterWhenLess(t *testing.T) {
	for _, k := range figureKinds {
		if k.perClass {
			continue
		}
		f, err := ParseFigure(k.name, []string{"a", "b"})
		if err != nil {
			t.Fatal(err)
		}
		r, err := Evaluate([]int{0, 1, 0, 1}, [][]float64{{0.9, 0.1}, {0.1, 0.9}, {0.9, 0.1}, {0.1, 0.9}}, []string{"a", "b"})
		if err != nil {
			t.Fatal(err)
		}
		worse, err := Evaluate([]int{0, 1, 0, 1}, [][]float64{{0.9, 0.1}, {0.9, 0.1}, {0.9, 0.1}, {0.1, 0.9}}, []string{"a", "b"})
		if err != nil {
			t.Fatal(err)
		}
		if less := f.Of(worse) > f.Of(r); less != f.LessIsBetter() {
			t.Errorf("%s: right %g, wrong %g, less is better: %v", k.name, f.Of(r), f.Of(worse), f.LessIsBetter())
		}
	}
}
