package classify

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/alignedfusion/alignedfusion/eval/resample"
	"github.com/alignedfusion/alignedfusion/internal/nearest"
)

// Figure is a quantity that a result can be asked for by name, see [ParseFigure].
type Figure struct {
	Name  string
	Class int // the class it is of, one versus rest; -1: of all
	at    float64
	// bounded figures lie between 0 and 1; at the edges their intervals are widened to that of
	// a share of the class's patients.
	bounded bool
	of      func(r *Result, w weights) float64
}

// weights are how often each case counts; nil is once.
type weights []int32

func (w weights) of(i int) float64 {
	if w == nil {
		return 1
	}
	return float64(w[i])
}

// figureKind is a row of the table of figures.
type figureKind struct {
	name, about string
	perClass    bool
	at          bool // NAME@X, with X between 0 and 1
	unbounded   bool // a figure that does not lie between 0 and 1, or may well be 0
	of          func(r *Result, f Figure, w weights) float64
}

// figureKinds are the figures. Names, definitions and edge cases are scikit-learn's, but that
// what a set of cases leaves undefined is NaN instead of 0.
var figureKinds = []figureKind{
	{"accuracy", "share of the cases that are right", false, false, false, func(r *Result, _ Figure, w weights) float64 { return r.metrics(w).Accuracy }},
	{"balanced_accuracy", "mean recall of the classes", false, false, false, func(r *Result, _ Figure, w weights) float64 { return r.metrics(w).BalancedAccuracy }},
	{"macro_auroc", "mean area under the ROC curves of the classes", false, false, false, func(r *Result, _ Figure, w weights) float64 { return r.metrics(w).MacroAUROC }},
	{"ece", "expected calibration error, 15 bins", false, false, true, func(r *Result, _ Figure, w weights) float64 { return r.metrics(w).ECE }},
	{"macro_ap", "mean average precision of the classes", false, false, false, macro(averagePrecision)},
	{"macro_f1", "mean F1 of the classes", false, false, false, macro(f1)},
	{"micro_auroc", "area under the ROC curve of all pairs of a case and a class together", false, false, false, func(r *Result, _ Figure, w weights) float64 { area, _ := r.micro(w); return area }},
	{"micro_ap", "average precision of all pairs of a case and a class together", false, false, false, func(r *Result, _ Figure, w weights) float64 { _, ap := r.micro(w); return ap }},
	{"mae", "mean distance between the called and the true class, in classes, which are in order", false, false, true, func(r *Result, _ Figure, w weights) float64 {
		var sum, all float64
		for i, label := range r.Labels {
			sum, all = sum+float64(w.of(i)*math.Abs(float64(label-r.Predicted[i]))), all+w.of(i)
		}
		return sum / all
	}},
	{"brier", "mean squared distance of the probabilities from the truth (Brier 1950; halved for two classes)", false, false, true, brier},
	{"log_loss", "mean negative logarithm of the true class's probability", false, false, true, logLoss},
	{"kappa", "agreement beyond chance (Cohen 1960)", false, false, true, func(r *Result, _ Figure, w weights) float64 {
		return kappa(r, w, func(i, j int) float64 { return min(1, math.Abs(float64(i-j))) })
	}},
	{"quadratic_kappa", "the same for classes in order, errors weigh by their square (Cohen 1968)", false, false, true, func(r *Result, _ Figure, w weights) float64 {
		return kappa(r, w, func(i, j int) float64 { return float64((i - j) * (i - j)) })
	}},
	{"linear_kappa", "the same, errors weigh by their size", false, false, true, func(r *Result, _ Figure, w weights) float64 {
		return kappa(r, w, func(i, j int) float64 { return math.Abs(float64(i - j)) })
	}},
	{"mcc", "Matthews' correlation (Gorodkin 2004 for several classes)", false, false, true, matthews},
	{"auroc", "area under the ROC curve", true, false, false, func(r *Result, f Figure, w weights) float64 { return r.auroc(f.Class, w.of) }},
	{"ap", "average precision, a step per score", true, false, false, averagePrecision},
	{"f1", "harmonic mean of precision and recall", true, false, false, f1},
	{"precision", "share of the cases called so that are", true, false, false, func(r *Result, f Figure, w weights) float64 { c := r.counts(f.Class, w); return c.tp / (c.tp + c.fp) }},
	{"recall", "share of the class that is found: sensitivity", true, false, false, func(r *Result, f Figure, w weights) float64 { c := r.counts(f.Class, w); return c.tp / (c.tp + c.fn) }},
	{"specificity", "share of the others that are not called so", true, false, false, func(r *Result, f Figure, w weights) float64 { c := r.counts(f.Class, w); return c.tn / (c.tn + c.fp) }},
	{"sensitivity", "the greatest sensitivity at a specificity of at least X", true, true, false, func(r *Result, f Figure, w weights) float64 { return r.best(f, w, true) }},
	{"specificity", "the greatest specificity at a sensitivity of at least X", true, true, false, func(r *Result, f Figure, w weights) float64 { return r.best(f, w, false) }},
	{"net_benefit", "of acting from probability X on (Vickers and Elkin 2006): a point of the decision curve", true, true, true, netBenefit},
	{"calibration_slope", "of the logit in a logistic regression of the truth (Cox 1958); 1 is right, below 1 is too sure", true, false, true, func(r *Result, f Figure, w weights) float64 {
		slope, _ := r.recalibrate(f.Class, w, true)
		return slope
	}},
	{"calibration_intercept", "the same with slope 1: calibration in the large; 0 is right, above 0 is too low", true, false, true, func(r *Result, f Figure, w weights) float64 { _, in := r.recalibrate(f.Class, w, false); return in }},
}

// FigureNames lists the names [ParseFigure] takes, with what they mean.
func FigureNames() []string {
	var out []string
	for _, k := range figureKinds {
		name := k.name
		if k.at {
			name += "@X"
		}
		if k.perClass {
			name += ":CLASS"
		}
		out = append(out, name+"\t"+k.about)
	}
	return out
}

// IsFigure reports whether a name, of whatever class, is that of a figure of classes.
func IsFigure(text string) bool {
	name, _, _ := strings.Cut(text, ":")
	name, _, hasAt := strings.Cut(name, "@")
	return slices.ContainsFunc(figureKinds, func(k figureKind) bool { return k.name == name && k.at == hasAt })
}

// ParseFigure reads NAME, NAME:CLASS, or NAME@X:CLASS for the figures at a threshold. Without
// a class, a figure of classes is that of the last of two classes.
func ParseFigure(text string, classes []string) (Figure, error) {
	name, class, hasClass := strings.Cut(text, ":")
	name, at, hasAt := strings.Cut(name, "@")
	i := slices.IndexFunc(figureKinds, func(k figureKind) bool { return k.name == name && k.at == hasAt })
	if i < 0 {
		i = slices.IndexFunc(figureKinds, func(k figureKind) bool { return k.name == name })
	}
	if i < 0 {
		var names []string
		for _, k := range figureKinds {
			names = append(names, k.name)
		}
		return Figure{}, fmt.Errorf("figure %q is unknown%s; there are %s", name, nearest.Meant(name, names), strings.Join(names, ", "))
	}
	k := figureKinds[i]
	f := Figure{Name: text, Class: -1, bounded: !k.unbounded}
	switch {
	case hasClass && !k.perClass:
		return f, fmt.Errorf("figure %q: %s is of all classes, not of one", text, name)
	case hasClass:
		if f.Class = slices.Index(classes, class); f.Class < 0 {
			return f, fmt.Errorf("figure %q: class %q is unknown%s; there are %s", text, class, nearest.Meant(class, classes), strings.Join(classes, ", "))
		}
	case k.perClass && len(classes) == 2:
		f.Class = 1
		f.Name += ":" + classes[1]
	case k.perClass:
		return f, fmt.Errorf("figure %q is of one class; want %s:CLASS with one of %s", text, text, strings.Join(classes, ", "))
	}
	if hasAt != k.at {
		return f, fmt.Errorf("figure %q: want %s", text, map[bool]string{true: name + "@X with X between 0 and 1, such as " + name + "@0.9", false: name + " without @"}[k.at])
	}
	if k.at {
		v, err := strconv.ParseFloat(at, 64)
		if err != nil || !(v > 0 && v < 1) {
			return f, fmt.Errorf("figure %q: %q, want a number between 0 and 1", text, at)
		}
		f.at = v
	}
	f.of = func(r *Result, w weights) float64 { return k.of(r, f, w) }
	return f, nil
}

// LessIsBetter reports whether a figure counts errors.
func (f Figure) LessIsBetter() bool {
	return slices.Contains([]string{"brier", "log_loss", "ece", "mae"}, f.Name)
}

// Of computes the figure of a result; NaN where the cases leave it undefined.
func (f Figure) Of(r *Result) float64 { return f.of(r, nil) }

// Estimate is a figure with its interval, clustered by patient.
type Estimate struct {
	Value float64
	CI    resample.Interval
}

// Estimates are figures of systems on the same cases: [system][figure]; and, for every further
// system, its difference to the first: [system-1][figure].
func Estimates(systems []*Result, figures []Figure, patients []string, options resample.Options) (each [][]Estimate, differences [][]Difference, err error) {
	for _, r := range systems {
		if !r.made() {
			return nil, nil, errNoResult
		}
	}
	e := estimator{systems: len(systems), figures: len(figures), cases: systems[0].Cases,
		of: func(s, k int, w weights) float64 { return figures[k].of(systems[s], w) },
		bound: func(s, k int, clusters []int32, n int) int {
			if !figures[k].bounded {
				return 0
			}
			return systems[s].patientsOf(figures[k], clusters, n)
		},
		exchanged: func(s int, swapped []bool) (func(k int) float64, func(k int) float64) {
			a, b := exchange(systems[0], systems[s], swapped)
			return func(k int) float64 { return figures[k].Of(a) }, func(k int) float64 { return figures[k].Of(b) }
		}}
	return e.estimates(patients, options)
}

// estimator resamples figures of systems on the same cases.
type estimator struct {
	systems, figures, cases int
	// of is a figure of a system.
	of func(system, figure int, w weights) float64
	// bound is the number of patients that a figure between 0 and 1 is known of; 0: it does not
	// lie there.
	bound func(system, figure int, clusters []int32, n int) int
	// exchanged are the figures of the first system and of another one with their answers to some
	// cases exchanged.
	exchanged func(system int, swapped []bool) (first, other func(figure int) float64)
}

func (e *estimator) estimates(patients []string, options resample.Options) (each [][]Estimate, differences [][]Difference, err error) {
	o, err := options.Resolved()
	if err != nil {
		return nil, nil, err
	}
	clusters, n, err := clusterOf(patients, e.cases)
	if err != nil {
		return nil, nil, err
	}
	replicates := e.values(clusters, n, o.Replicates, o.Draw)
	jack := e.values(clusters, n, 0, nil)
	if o.Method == resample.BCa {
		jack = e.values(clusters, n, resample.JackknifeGroups(n), resample.LeaveOut)
	}
	var first []float64
	for s := range e.systems {
		var row []Estimate
		var against []Difference
		var exceed []int
		if s > 0 {
			exceed = e.permute(s, clusters, n, o)
		}
		for k := range e.figures {
			v := e.of(s, k, nil)
			one := Estimate{v, o.Interval(replicates[s][k], v, jack[s][k])}
			if patients := e.bound(s, k, clusters, n); patients > 0 {
				one.CI = o.Bounded(replicates[s][k], v, jack[s][k], patients)
			}
			row = append(row, one)
			if s == 0 {
				first = append(first, v)
				continue
			}
			d := Difference{Value: v - first[k], BootstrapP: math.NaN(), PermutationP: math.NaN()}
			apart := resample.Minus(replicates[s][k], replicates[0][k])
			d.CI, d.Resolvable = o.Difference(apart, d.Value, resample.Minus(jack[s][k], jack[0][k]), n)
			if !math.IsNaN(d.Value) {
				d.BootstrapP = resample.BootstrapP(apart)
				d.PermutationP = float64(1+exceed[k]) / float64(1+o.Permutations)
			}
			against = append(against, d)
		}
		each = append(each, row)
		if s > 0 {
			differences = append(differences, against)
		}
	}
	return each, differences, nil
}

// permute counts, for each figure, the permutations whose difference of a system to the first is
// at least as far from 0 as the observed one, as [permute] does.
func (e *estimator) permute(s int, clusters []int32, n int, o resample.Options) []int {
	observed := make([]float64, e.figures)
	for k := range observed {
		observed[k] = e.of(s, k, nil) - e.of(0, k, nil)
	}
	counts := make([]atomic.Int64, e.figures)
	resample.Parallel(o.Permutations, func(next func() (int, bool)) {
		drawn, swapped := make([]bool, n), make([]bool, len(clusters))
		for p, ok := next(); ok; p, ok = next() {
			o.Exchange(p, drawn)
			for i, c := range clusters {
				swapped[i] = drawn[c]
			}
			first, other := e.exchanged(s, swapped)
			for k := range counts {
				if d := other(k) - first(k); math.IsNaN(d) || resample.AsExtreme(d, observed[k]) {
					counts[k].Add(1)
				}
			}
		}
	})
	out := make([]int, e.figures)
	for k := range out {
		out[k] = int(counts[k].Load())
	}
	return out
}

// values are [system][figure][replicate].
func (e *estimator) values(clusters []int32, n, count int, draw func(int, []int32)) [][][]float64 {
	out := make([][][]float64, e.systems)
	for s := range out {
		out[s] = make([][]float64, e.figures)
		for k := range out[s] {
			out[s][k] = make([]float64, count)
		}
	}
	resample.Parallel(count, func(next func() (int, bool)) {
		drawn, cases := make([]int32, n), make(weights, len(clusters))
		for b, ok := next(); ok; b, ok = next() {
			clear(drawn)
			draw(b, drawn)
			for i, c := range clusters {
				cases[i] = drawn[c]
			}
			for s := range out {
				for k := range out[s] {
					out[s][k][b] = e.of(s, k, cases)
				}
			}
		}
	})
	return out
}

// patientsOf is the number of patients that bound what is known of a figure: those of its
// class or those without, whichever are fewer; of a figure of all, those of the rarest class.
func (r *Result) patientsOf(f Figure, clusters []int32, n int) int {
	each := r.patients(clusters, n)
	if f.Class < 0 {
		return slices.Min(each)
	}
	return max(1, min(each[f.Class], n-each[f.Class]))
}

// counts are the cells of one class's table, one versus rest.
type counts struct{ tp, fp, fn, tn float64 }

func (r *Result) counts(class int, w weights) (c counts) {
	for i, label := range r.Labels {
		switch is, called := label == class, r.Predicted[i] == class; {
		case is && called:
			c.tp += w.of(i)
		case is:
			c.fn += w.of(i)
		case called:
			c.fp += w.of(i)
		default:
			c.tn += w.of(i)
		}
	}
	return c
}

// macro is the mean of a figure over the classes for which it is defined.
func macro(of func(*Result, Figure, weights) float64) func(*Result, Figure, weights) float64 {
	return func(r *Result, _ Figure, w weights) float64 {
		values := make([]float64, len(r.Classes))
		for c := range values {
			values[c] = of(r, Figure{Class: c}, w)
		}
		return meanDefined(values)
	}
}

func f1(r *Result, f Figure, w weights) float64 {
	c := r.counts(f.Class, w)
	return 2 * c.tp / (2*c.tp + c.fp + c.fn)
}

// averagePrecision sums precision times the rise of recall over the scores.
func averagePrecision(r *Result, f Figure, w weights) float64 {
	var tp, all, sum float64
	r.descend(f.Class, w, func(positives, negatives float64) {
		tp, all = tp+positives, all+positives+negatives
		if positives > 0 {
			sum += positives * tp / all
		}
	})
	return sum / tp
}

// micro are the AUROC and the average precision of all pairs of a case and a class, a pair
// being positive where the class is the case's.
func (r *Result) micro(w weights) (auroc, ap float64) {
	type pair struct{ score, positive, negative float64 }
	pairs := make([]pair, 0, len(r.Labels)*len(r.Classes))
	for i, row := range r.Probabilities {
		for c, p := range row {
			if c == r.Labels[i] {
				pairs = append(pairs, pair{p, w.of(i), 0})
			} else {
				pairs = append(pairs, pair{p, 0, w.of(i)})
			}
		}
	}
	slices.SortFunc(pairs, func(a, b pair) int { return cmp.Compare(b.score, a.score) })
	var tp, fp, above, sum float64
	for k := 0; k < len(pairs); {
		score, p, n := pairs[k].score, 0.0, 0.0
		for ; k < len(pairs) && pairs[k].score == score; k++ {
			p, n = p+pairs[k].positive, n+pairs[k].negative
		}
		above += float64(n * (tp + float64(p/2)))
		tp, fp = tp+p, fp+n
		if p > 0 {
			sum += float64(p * tp / (tp + fp))
		}
	}
	return above / (tp * fp), sum / tp
}

// descend calls step for each score of a class, from the greatest one on, with the weights of
// the cases of the class and of others.
func (r *Result) descend(class int, w weights, step func(positives, negatives float64)) {
	order := r.order[class]
	for k := 0; k < len(order); {
		score := r.Probabilities[order[k]][class]
		var p, n float64
		for ; k < len(order) && r.Probabilities[order[k]][class] == score; k++ {
			if i := int(order[k]); r.Labels[i] == class {
				p += w.of(i)
			} else {
				n += w.of(i)
			}
		}
		step(p, n)
	}
}

// best is the greatest sensitivity at a specificity of at least f.at, or the reverse.
func (r *Result) best(f Figure, w weights, sensitivity bool) float64 {
	c := r.counts(f.Class, w)
	positives, negatives := c.tp+c.fn, c.fp+c.tn
	if positives == 0 || negatives == 0 {
		return math.NaN()
	}
	var tp, fp float64
	found := 0.0
	look := func() {
		se, sp := tp/positives, 1-fp/negatives
		if !sensitivity {
			se, sp = sp, se
		}
		if sp >= f.at-1e-12 { // 1 - fp/n is rounded
			found = max(found, se)
		}
	}
	look()
	r.descend(f.Class, w, func(p, n float64) { tp, fp = tp+p, fp+n; look() })
	return found
}

func netBenefit(r *Result, f Figure, w weights) float64 {
	var tp, fp, all float64
	for i, label := range r.Labels {
		all += w.of(i)
		switch {
		case r.Probabilities[i][f.Class] < f.at:
		case label == f.Class:
			tp += w.of(i)
		default:
			fp += w.of(i)
		}
	}
	return tp/all - fp/all*f.at/(1-f.at)
}

func brier(r *Result, _ Figure, w weights) float64 {
	var sum, all float64
	for i, row := range r.Probabilities {
		all += w.of(i)
		for c, p := range row {
			d := p
			if c == r.Labels[i] {
				d = p - 1
			}
			sum += float64(w.of(i) * d * d)
		}
	}
	if len(r.Classes) == 2 {
		sum /= 2
	}
	return sum / all
}

func logLoss(r *Result, _ Figure, w weights) float64 {
	var sum, all float64
	for i, row := range r.Probabilities {
		all += w.of(i)
		sum -= float64(w.of(i) * math.Log(max(row[r.Labels[i]], smallest)))
	}
	return sum / all
}

// smallest is the probability that 0 is taken for where its logarithm is needed, and 1 -
// smallest that for 1: a double's precision, as in scikit-learn.
const smallest = 2.220446049250313e-16

// kappa is 1 - observed / expected disagreement; NaN where only one class is seen.
func kappa(r *Result, w weights, cost func(i, j int) float64) float64 {
	k := len(r.Classes)
	table := make([]float64, k*k)
	rows, columns, all := make([]float64, k), make([]float64, k), 0.0
	for i, label := range r.Labels {
		v, called := w.of(i), r.Predicted[i]
		table[label*k+called] += v
		rows[label] += v
		columns[called] += v
		all += v
	}
	var seen, expected float64
	for i := range k {
		for j := range k {
			seen += float64(cost(i, j) * table[i*k+j])
			expected += cost(i, j) * rows[i] * columns[j] / all
		}
	}
	return 1 - seen/expected
}

func matthews(r *Result, _ Figure, w weights) float64 {
	k := len(r.Classes)
	truth, called := make([]float64, k), make([]float64, k)
	var right, all float64
	for i, label := range r.Labels {
		v := w.of(i)
		truth[label] += v
		called[r.Predicted[i]] += v
		all += v
		if label == r.Predicted[i] {
			right += v
		}
	}
	var both, t2, c2 float64
	for c := range k {
		both += float64(truth[c] * called[c])
		t2 += float64(truth[c] * truth[c])
		c2 += float64(called[c] * called[c])
	}
	return (float64(right*all) - both) / math.Sqrt((float64(all*all)-c2)*(float64(all*all)-t2))
}

// recalibrate fits truth = logistic(intercept + slope·logit(p)) by Newton's method; with a
// slope of 1 where none is wanted. Both are NaN where the fit has no maximum: without cases of
// both kinds, or where the probabilities separate them.
func (r *Result) recalibrate(class int, w weights, withSlope bool) (slope, intercept float64) {
	x, y, v := make([]float64, r.Cases), make([]float64, r.Cases), make([]float64, r.Cases)
	for i, row := range r.Probabilities {
		p := min(max(row[class], smallest), 1-smallest)
		x[i], v[i] = math.Log(p/(1-p)), w.of(i)
		if r.Labels[i] == class {
			y[i] = 1
		}
	}
	slope = 1
	for range 100 {
		var gi, gs, hii, his, hss float64
		for i := range x {
			p := 1 / (1 + math.Exp(-intercept-float64(slope*x[i])))
			e, h := float64(v[i]*(y[i]-p)), float64(v[i]*p*(1-p))
			gi, gs = gi+e, gs+float64(e*x[i])
			hii, his, hss = hii+h, his+float64(h*x[i]), hss+float64(h*x[i]*x[i])
		}
		var di, ds float64
		if !withSlope {
			di = gi / hii
		} else {
			determinant := float64(hii*hss) - float64(his*his)
			di, ds = (float64(gi*hss)-float64(gs*his))/determinant, (float64(gs*hii)-float64(gi*his))/determinant
		}
		if math.IsNaN(di) || math.IsNaN(ds) || math.Abs(intercept)+math.Abs(slope) > 1e6 {
			break
		}
		// a long step overshoots where the likelihood is flat
		if far := max(math.Abs(di), math.Abs(ds)); far > 5 {
			di, ds = di*5/far, ds*5/far
		}
		intercept, slope = intercept+di, slope+ds
		if math.Abs(di)+math.Abs(ds) < 1e-12 {
			return slope, intercept
		}
		if math.Abs(slope) > 1e3 || math.Abs(intercept) > 1e3 {
			break
		}
	}
	return math.NaN(), math.NaN()
}
