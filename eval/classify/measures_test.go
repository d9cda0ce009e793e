package classify

import (
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/alignedfusion/alignedfusion/eval/resample"
	"github.com/alignedfusion/alignedfusion/internal/interval"
)

type measured struct {
	Truth, Predicted []float64
	Time, Bounds     []float64
	Event            []bool
	Probabilities    [][]float64
	Want             map[string]float64
}

func (m measured) answers(t *testing.T) Answers {
	t.Helper()
	var a Answers
	var err error
	if m.Time == nil {
		a, err = NewNumbers(m.Truth, m.Predicted)
	} else {
		a, err = NewTimes(m.Time, m.Event, interval.Names(m.Bounds), m.Probabilities)
	}
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// repeated are the same cases, each as often as it weighs.
func (m measured) repeated(w weights) measured {
	var out measured
	out.Bounds = m.Bounds
	for i, n := range w {
		for range n {
			if m.Time == nil {
				out.Truth, out.Predicted = append(out.Truth, m.Truth[i]), append(out.Predicted, m.Predicted[i])
			} else {
				out.Time, out.Event, out.Probabilities = append(out.Time, m.Time[i]), append(out.Event, m.Event[i]), append(out.Probabilities, m.Probabilities[i])
			}
		}
	}
	return out
}

func readMeasured(t *testing.T) []measured {
	t.Helper()
	var all struct{ Numbers, Times []measured }
	readJSON(t, "testdata/measures.json", &all)
	return slices.Concat(all.Numbers, all.Times)
}

// The values are scikit-learn's, SciPy's, lifelines' and scikit-survival's: testdata/measures.py.
func TestMeasuresAreThoseOfThePeers(t *testing.T) {
	seen := map[string]bool{}
	for i, m := range readMeasured(t) {
		a := m.answers(t)
		for name, want := range m.Want {
			f, err := ParseMeasure(name, a.Question())
			if err != nil {
				t.Fatal(err)
			}
			kind, _, _ := strings.Cut(name, "@")
			seen[a.Question()+kind] = true
			if got := f.Of(a); !(math.Abs(got-want) < 1e-9) {
				t.Errorf("set %d: %s %.12f, want %.12f", i, name, got, want)
			}
		}
	}
	for _, k := range measureKinds {
		if !seen[k.question+k.name] {
			t.Errorf("%s of %s is compared with no peer", k.name, k.question)
		}
	}
}

func TestAWeightIsARepeatedCase(t *testing.T) {
	for i, m := range readMeasured(t) {
		a := m.answers(t)
		w := make(weights, a.Cases())
		for k := range w {
			w[k] = int32(k * 7 % 4)
		}
		if m.Time != nil { // the last time bounds the integral
			w[a.(*Times).order[a.Cases()-1]] = 2
		}
		b := m.repeated(w).answers(t)
		for name := range m.Want {
			f, err := ParseMeasure(name, a.Question())
			if err != nil {
				t.Fatal(err)
			}
			if got, want := f.of(a, w), f.Of(b); !(math.Abs(got-want) < 1e-9) {
				t.Errorf("set %d: %s %.12f with weights, %.12f of repeated cases", i, name, got, want)
			}
		}
	}
}

func TestMeasuresAtTheEdgesAreUndefined(t *testing.T) {
	same, err := NewNumbers([]float64{3, 3, 3}, []float64{1, 2, 3})
	if err != nil {
		t.Fatal(err)
	}
	censored, err := NewTimes([]float64{1, 2}, []bool{false, false}, []string{"0-1", "1-"}, [][]float64{{0.2, 0.8}, {0.5, 0.5}})
	if err != nil {
		t.Fatal(err)
	}
	for name, a := range map[string]Answers{"r2": same, "pearson": same, "spearman": same, "concordance": censored, "brier@9": censored} {
		f, err := ParseMeasure(name, a.Question())
		if err != nil {
			t.Fatal(err)
		}
		if v := f.Of(a); !math.IsNaN(v) {
			t.Errorf("%s is %g, want it undefined", name, v)
		}
	}
	for _, c := range []struct{ name, question, want string }{
		{"auroc", Regression, `figure "auroc" is none of the question regression; there are mae, rmse`},
		{"mae", Survival, "there are concordance, integrated_brier"},
		{"brier", Survival, "want brier@T with a time T"},
		{"brier@-1", Survival, "want a time of more than 0"},
		{"mae@1", Regression, "want mae without @"},
	} {
		if _, err := ParseMeasure(c.name, c.question); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s of %s: %v, want %s", c.name, c.question, err, c.want)
		}
	}
	for _, err := range []error{
		func() error {
			_, err := NewTimes([]float64{-1}, []bool{true}, []string{"0-1", "1-"}, [][]float64{{1, 0}})
			return err
		}(),
		func() error {
			_, err := NewTimes([]float64{1}, []bool{true}, []string{"a", "b"}, [][]float64{{1, 0}})
			return err
		}(),
		func() error {
			_, err := NewTimes([]float64{1}, []bool{true}, []string{"0-1", "1-"}, [][]float64{{1, 1}})
			return err
		}(),
		func() error { _, err := NewNumbers([]float64{math.NaN()}, []float64{1}); return err }(),
	} {
		if err == nil {
			t.Error("no error of input that is none")
		}
	}
}

// Patients, not cases, are resampled: with all cases of one patient twice, the interval is as
// wide as with each once.
func TestMeasuresAreResampledByPatient(t *testing.T) {
	m := readMeasured(t)[0]
	twice := make(weights, len(m.Truth))
	var patients, pairs []string
	for i := range twice {
		twice[i] = 2
		name := string(rune('A'+i/26)) + string(rune('a'+i%26))
		patients, pairs = append(patients, name), append(pairs, name, name)
	}
	f, err := ParseMeasure("mae", Regression)
	if err != nil {
		t.Fatal(err)
	}
	o := resample.Options{Replicates: 200}
	one, _, err := MeasureEstimates([]Answers{m.answers(t)}, []Measure{f}, patients, o)
	if err != nil {
		t.Fatal(err)
	}
	two, _, err := MeasureEstimates([]Answers{m.repeated(twice).answers(t)}, []Measure{f}, pairs, o)
	if err != nil {
		t.Fatal(err)
	}
	a, b := one[0][0], two[0][0]
	if math.Abs(a.CI.Low-b.CI.Low) > 1e-9 || math.Abs(a.CI.High-b.CI.High) > 1e-9 || !(a.CI.Low < a.Value && a.Value < a.CI.High) {
		t.Errorf("%+v with each case once, %+v with each twice", a, b)
	}
}

// Of few patients all 2^n exchanges can be made: the p-value is the share of those whose difference
// is as far from 0.
func TestPermutationsExchangeSystemsWithinPatients(t *testing.T) {
	truth := []float64{3, 5, 8, 9, 12, 14, 20, 21}
	patients := []string{"a", "a", "b", "c", "c", "d", "e", "f"}
	x, y := []float64{3.5, 5.25, 9, 9.5, 12, 14.5, 21, 21.75}, []float64{5, 6, 8.5, 12, 13, 13, 24, 21.5}
	time, event := []float64{1, 2, 3, 4, 5, 6, 7, 8}, []bool{true, false, true, true, false, true, true, false}
	shares := func(p ...float64) (rows [][]float64) {
		for _, v := range p {
			rows = append(rows, []float64{v, 1 - v})
		}
		return rows
	}
	curves := [2][][]float64{shares(0.9, 0.8, 0.7, 0.65, 0.5, 0.4, 0.3, 0.2), shares(0.5, 0.9, 0.2, 0.3, 0.8, 0.45, 0.6, 0.1)}
	number := func(predicted []float64) Answers {
		a, err := NewNumbers(truth, predicted)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	when := func(rows [][]float64) Answers {
		a, err := NewTimes(time, event, []string{"0-9", "9-"}, rows)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	for _, c := range []struct {
		name, question string
		exchanged      func(swapped []bool) (a, b Answers)
	}{
		{"mae", Regression, func(s []bool) (Answers, Answers) { return number(mixed(x, y, s)), number(mixed(y, x, s)) }},
		{"spearman", Regression, func(s []bool) (Answers, Answers) { return number(mixed(x, y, s)), number(mixed(y, x, s)) }},
		{"concordance", Survival, func(s []bool) (Answers, Answers) {
			return when(mixed(curves[0], curves[1], s)), when(mixed(curves[1], curves[0], s))
		}},
		{"brier@5", Survival, func(s []bool) (Answers, Answers) {
			return when(mixed(curves[0], curves[1], s)), when(mixed(curves[1], curves[0], s))
		}},
	} {
		m, err := ParseMeasure(c.name, c.question)
		if err != nil {
			t.Fatal(err)
		}
		first, other := c.exchanged(make([]bool, len(patients)))
		observed, extreme := m.Of(other)-m.Of(first), 0
		for bits := range 64 {
			swapped := make([]bool, len(patients))
			for i, p := range patients {
				swapped[i] = bits>>(p[0]-'a')&1 == 1
			}
			a, b := c.exchanged(swapped)
			if math.Abs(m.Of(b)-m.Of(a)) >= math.Abs(observed)-1e-12 {
				extreme++
			}
		}
		_, apart, err := MeasureEstimates([]Answers{first, other}, []Measure{m}, patients, resample.Options{Replicates: 50, Permutations: 20000})
		if err != nil {
			t.Fatal(err)
		}
		if got, want := apart[0][0].PermutationP, float64(extreme)/64; math.Abs(got-want) > 0.02 || extreme == 64 {
			t.Errorf("%s: p %.4f, by enumeration %.4f", c.name, got, want)
		}
	}
}

// mixed are the rows of own, but those of others where exchanged.
func mixed[T any](own, others []T, exchanged []bool) []T {
	out := slices.Clone(own)
	for i, is := range exchanged {
		if is {
			out[i] = others[i]
		}
	}
	return out
}

// Systems whose intervals of time differ are exchanged, too: a curve is read at the other's bounds.
func TestSystemsWithOtherIntervalsAreExchanged(t *testing.T) {
	one, err := NewTimes([]float64{1, 3}, []bool{true, true}, []string{"0-2", "2-4", "4-"}, [][]float64{{0.5, 0.3, 0.2}, {0.1, 0.3, 0.6}})
	if err != nil {
		t.Fatal(err)
	}
	other, err := NewTimes([]float64{1, 3}, []bool{true, true}, []string{"0-4", "4-"}, [][]float64{{0.6, 0.4}, {0.4, 0.6}})
	if err != nil {
		t.Fatal(err)
	}
	a, b := one.exchange(other, []bool{true, false})
	if x, y := a.(*Times), b.(*Times); !slices.EqualFunc(x.survival, [][]float64{{0.7, 0.4}, {0.9, 0.6}}, alike) || !slices.EqualFunc(y.survival, [][]float64{{0.2}, {0.6}}, alike) {
		t.Errorf("%v, %v", x.survival, y.survival)
	}
}

func alike(a, b []float64) bool {
	return slices.EqualFunc(a, b, func(x, y float64) bool { return math.Abs(x-y) < 1e-12 })
}

// train.best_by takes every figure by which one answer is better than another.
func TestFiguresThatRankChooseTheBest(t *testing.T) {
	for _, name := range []string{"macro_auroc", "auroc:melanoma", "sensitivity@0.9", "net_benefit@0.2:b", "mae", "r2", "concordance", "brier@12"} {
		if err := CheckBest(name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, want := range map[string]string{
		"calibration_slope:a": "neither better when less nor when more", "bias": "neither better", "calibration@12": "neither better",
		"mean_sensitivity": `figure "mean_sensitivity" is unknown`, "concordanc": `did you mean "concordance"`, "auroc@0.5": `figure "auroc@0.5" is unknown; alignedfusion help figures`,
	} {
		if err := CheckBest(name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
}
