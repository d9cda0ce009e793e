package classify

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/alignedfusion/alignedfusion/eval/resample"
	"github.com/alignedfusion/alignedfusion/internal/nearest"
)

// The questions that are answered by other than classes.
const (
	Regression = "regression" // a number: Numbers
	Survival   = "survival"   // the time to an event: Times
)

// Answers are what one system says about cases whose question is no choice among classes:
// Numbers or Times.
type Answers interface {
	// Question is Regression or Survival.
	Question() string
	// Cases is the number of cases.
	Cases() int
	// sameTruth reports whether the other's cases have the same truth.
	sameTruth(Answers) bool
	// exchange are these answers and others to the same cases, with those to some exchanged.
	exchange(other Answers, swapped []bool) (Answers, Answers)
}

// Measure is a figure of Answers, see [ParseMeasure].
type Measure struct {
	Name string
	// LessIsBetter is true of errors.
	LessIsBetter bool
	// Directed is true of what is neither better when less nor when more.
	Directed bool
	share    bool // between 0 and 1
	of       func(a Answers, w weights) float64
}

// Of computes the measure; NaN where the cases leave it undefined.
func (m Measure) Of(a Answers) float64 { return m.of(a, nil) }

// measureKind is a row of the table of measures.
type measureKind struct {
	question, name, about string
	at                    bool // NAME@T, T being a time
	less, share           bool
	// plain are shown unless others are asked for.
	plain bool
	// directed are neither better when less nor when more.
	directed bool
	of       func(a Answers, at float64, w weights) float64
}

// measureKinds are the measures; the first of a question is that by which its best checkpoint
// is chosen. They are scikit-learn's, SciPy's, lifelines' and scikit-survival's, but that what
// the cases leave undefined is NaN.
var measureKinds = []measureKind{
	{Regression, "mae", "mean absolute error", false, true, false, true, false, numbers((*moments).mae)},
	{Regression, "rmse", "root of the mean squared error", false, true, false, true, false, numbers((*moments).rmse)},
	{Regression, "r2", "share of the truth's variance that is explained; below 0 is worse than its mean", false, false, false, true, false, numbers((*moments).r2)},
	{Regression, "pearson", "linear correlation", false, false, false, false, false, numbers((*moments).pearson)},
	{Regression, "spearman", "correlation of the ranks; ties have their mean rank", false, false, false, true, false, spearman},
	{Regression, "bias", "mean of answer minus truth (Bland and Altman 1986)", false, false, false, true, true, numbers((*moments).bias)},
	{Regression, "loa_low", "lower limit of agreement: bias minus 1.96 standard deviations of the differences", false, false, false, true, true, numbers(func(m *moments) float64 { return m.bias() - m.spread() })},
	{Regression, "loa_high", "upper limit of agreement", false, false, false, true, true, numbers(func(m *moments) float64 { return m.bias() + m.spread() })},
	{Survival, "concordance", "share of the pairs whose order in time is right (Harrell 1982); ties count half", false, false, true, true, false, concordance},
	{Survival, "integrated_brier", "Brier score at the bounds of the intervals, integrated over time; censoring weighed by its inverse probability (Graf 1999)", false, true, false, true, false, integratedBrier},
	{Survival, "brier", "the same at the time T", true, true, false, false, false, brierAt},
	{Survival, "calibration", "share with the event by the time T (Kaplan and Meier) over the mean predicted one; 1 is right, above 1 is too low", true, false, false, false, true, calibrationAt},
}

// MeasureNames lists the names that [ParseMeasure] takes for a question, with what they mean.
func MeasureNames(question string) []string {
	var out []string
	for _, k := range measureKinds {
		if k.question != question {
			continue
		}
		name := k.name
		if k.at {
			name += "@T"
		}
		out = append(out, name+"\t"+k.about)
	}
	return out
}

// PlainMeasures are the names of the measures of a question that are shown of every system.
func PlainMeasures(question string) []string {
	var out []string
	for _, k := range measureKinds {
		if k.question == question && k.plain {
			out = append(out, k.name)
		}
	}
	return out
}

// BestMeasures are the names of the measures of a question of which one answer can be better
// than another without a time or a direction.
func BestMeasures(question string) []string {
	var out []string
	for _, k := range measureKinds {
		if k.question == question && !k.at && !k.directed {
			out = append(out, k.name)
		}
	}
	return out
}

// CheckBest refuses a name by which no answers, whatever the question, can be better than others.
// What only a question's classes can tell is left to [ParseFigure].
func CheckBest(text string) error {
	if IsFigure(text) {
		if strings.HasPrefix(text, "calibration_") {
			return fmt.Errorf("figure %q is neither better when less nor when more", text)
		}
		return nil
	}
	var names []string
	for _, k := range figureKinds {
		names = append(names, k.name)
	}
	for _, question := range []string{Regression, Survival} {
		m, err := ParseMeasure(text, question)
		switch {
		case err == nil && m.Directed:
			return fmt.Errorf("figure %q is neither better when less nor when more", text)
		case err == nil:
			return nil
		}
		names = append(names, BestMeasures(question)...)
	}
	name, _, _ := strings.Cut(text, ":")
	name, _, _ = strings.Cut(name, "@")
	return fmt.Errorf("figure %q is unknown%s; alignedfusion help figures lists them", text, nearest.Meant(name, names))
}

// ParseMeasure reads NAME, or NAME@T for the measures at a time, of a question.
func ParseMeasure(text, question string) (Measure, error) {
	name, at, hasAt := strings.Cut(text, "@")
	var names []string
	for _, k := range measureKinds {
		if k.question != question {
			continue
		}
		names = append(names, k.name)
		if k.name != name {
			continue
		}
		m := Measure{Name: text, LessIsBetter: k.less, Directed: k.directed, share: k.share}
		var t float64
		if hasAt != k.at {
			return m, fmt.Errorf("figure %q: want %s", text, map[bool]string{true: name + "@T with a time T, such as " + name + "@24", false: name + " without @"}[k.at])
		}
		if k.at {
			var err error
			if t, err = strconv.ParseFloat(at, 64); err != nil || !(t > 0) || math.IsInf(t, 0) {
				return m, fmt.Errorf("figure %q: %q, want a time of more than 0", text, at)
			}
		}
		m.of = func(a Answers, w weights) float64 { return k.of(a, t, w) }
		return m, nil
	}
	return Measure{}, fmt.Errorf("figure %q is none of the question %s%s; there are %s", text, question, nearest.Meant(name, names), strings.Join(names, ", "))
}

// MeasureEstimates are measures of systems on the same cases: [system][measure]; and, for every
// further system, its difference to the first: [system-1][measure]. Patients are as for
// Bootstrap.
func MeasureEstimates(systems []Answers, measures []Measure, patients []string, options resample.Options) (each [][]Estimate, differences [][]Difference, err error) {
	for _, s := range systems {
		if !systems[0].sameTruth(s) {
			return nil, nil, errors.New("the systems have different cases")
		}
	}
	e := estimator{systems: len(systems), figures: len(measures), cases: systems[0].Cases(),
		of: func(s, k int, w weights) float64 { return measures[k].of(systems[s], w) },
		bound: func(s, k int, clusters []int32, n int) int {
			if measures[k].share {
				return n
			}
			return 0
		},
		exchanged: func(s int, swapped []bool) (func(k int) float64, func(k int) float64) {
			a, b := systems[0].exchange(systems[s], swapped)
			return func(k int) float64 { return measures[k].Of(a) }, func(k int) float64 { return measures[k].Of(b) }
		}}
	return e.estimates(patients, options)
}

// Numbers are one system's answers to a question for a number.
type Numbers struct{ truth, predicted []float64 }

// NewNumbers takes what is true of each case and what is predicted, finite numbers.
func NewNumbers(truth, predicted []float64) (*Numbers, error) {
	if len(truth) != len(predicted) {
		return nil, fmt.Errorf("%d numbers for %d predicted", len(truth), len(predicted))
	}
	if len(truth) == 0 {
		return nil, ErrNoCases
	}
	for i := range truth {
		if v := truth[i] + predicted[i]; math.IsNaN(v) || math.IsInf(v, 0) {
			return nil, fmt.Errorf("case %d: %v predicted for %v, want finite numbers", i, predicted[i], truth[i])
		}
	}
	return &Numbers{truth, predicted}, nil
}

// Question is Regression.
func (*Numbers) Question() string { return Regression }

// Cases is their number.
func (n *Numbers) Cases() int { return len(n.truth) }

// Pairs are what is true and what is predicted, by case.
func (n *Numbers) Pairs() (truth, predicted []float64) { return n.truth, n.predicted }

func (n *Numbers) sameTruth(a Answers) bool {
	other, ok := a.(*Numbers)
	return ok && slices.Equal(n.truth, other.truth)
}

func (n *Numbers) exchange(a Answers, swapped []bool) (Answers, Answers) {
	x, y := slices.Clone(n.predicted), slices.Clone(a.(*Numbers).predicted)
	for i, is := range swapped {
		if is {
			x[i], y[i] = y[i], x[i]
		}
	}
	return &Numbers{n.truth, x}, &Numbers{n.truth, y}
}

// moments are sums over the cases of x, which is true, and y, which is predicted.
type moments struct {
	n, absolute, squared      float64 // of y-x
	meanX, meanY, xx, yy, xy  float64 // the last three about the means
	meanDifference, aboutMean float64
}

func momentsOf(x, y []float64, w weights) *moments {
	m := &moments{}
	for i := range x {
		v, d := w.of(i), y[i]-x[i]
		m.n += v
		m.absolute, m.squared = m.absolute+float64(v*math.Abs(d)), m.squared+float64(v*d*d)
		m.meanX, m.meanY = m.meanX+float64(v*x[i]), m.meanY+float64(v*y[i])
		m.meanDifference += float64(v * d)
	}
	m.meanX, m.meanY, m.meanDifference = m.meanX/m.n, m.meanY/m.n, m.meanDifference/m.n
	for i := range x {
		v, dx, dy, d := w.of(i), x[i]-m.meanX, y[i]-m.meanY, y[i]-x[i]-m.meanDifference
		m.xx, m.yy, m.xy = m.xx+float64(v*dx*dx), m.yy+float64(v*dy*dy), m.xy+float64(v*dx*dy)
		m.aboutMean += float64(v * d * d)
	}
	return m
}

func (m *moments) mae() float64     { return m.absolute / m.n }
func (m *moments) rmse() float64    { return math.Sqrt(m.squared / m.n) }
func (m *moments) bias() float64    { return m.meanDifference }
func (m *moments) pearson() float64 { return m.xy / math.Sqrt(m.xx) / math.Sqrt(m.yy) }

// r2 is NaN where the truth does not vary.
func (m *moments) r2() float64 {
	if m.xx == 0 {
		return math.NaN()
	}
	return 1 - m.squared/m.xx
}

// spread is the half width of the limits of agreement; NaN with one case.
func (m *moments) spread() float64 { return float64(1.96 * math.Sqrt(m.aboutMean/(m.n-1))) }

func numbers(of func(*moments) float64) func(Answers, float64, weights) float64 {
	return func(a Answers, _ float64, w weights) float64 {
		n := a.(*Numbers)
		return of(momentsOf(n.truth, n.predicted, w))
	}
}

func spearman(a Answers, _ float64, w weights) float64 {
	n := a.(*Numbers)
	return momentsOf(ranks(n.truth, w), ranks(n.predicted, w), w).pearson()
}

// ranks from 1 on, of cases that come as often as they weigh; equal ones have their mean.
func ranks(values []float64, w weights) []float64 {
	order := make([]int, len(values))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return cmp.Compare(values[a], values[b]) })
	out := make([]float64, len(values))
	before := 0.0
	for k := 0; k < len(order); {
		end, alike := k, 0.0
		for ; end < len(order) && values[order[end]] == values[order[k]]; end++ {
			alike += w.of(order[end])
		}
		for ; k < end; k++ {
			out[order[k]] = before + float64((alike+1)/2)
		}
		before += alike
	}
	return out
}
