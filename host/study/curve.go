package study

import (
	"cmp"
	"fmt"
	"io"
	"math"
	"slices"
	"text/tabwriter"

	"github.com/alignedfusion/alignedfusion/eval/resample"
	"github.com/alignedfusion/alignedfusion/host/config"
	"github.com/alignedfusion/alignedfusion/internal/stat"
)

// rise is by how much the probability of the truth must grow, when attributes are taken
// away, to count: less is noise of the arithmetic and of no consequence.
const rise = 0.02

// Bounded is a figure with its 95 % confidence interval, patients resampled.
type Bounded struct {
	Value Number `json:"value"`
	Low   Number `json:"low"`
	High  Number `json:"high"`
}

// Curve is a method's primary metric over the share of attributes that are taken away from
// the predicted split, with the models as they are.
type Curve struct {
	Scenario string    `json:"scenario"`
	Fraction float64   `json:"fraction"`
	Task     string    `json:"task,omitempty"`
	Method   string    `json:"method"`
	Rates    []float64 `json:"rates"`
	// Area is the mean height of the curve: trapezoids over the rates, divided by their span.
	Area Bounded `json:"area"`
	// ImageOnly is the curve minus that of the image alone at each rate, ImageOnlyArea the
	// difference of the areas; absent without the method none.
	ImageOnly     []Bounded `json:"minus_image_only,omitempty"`
	ImageOnlyArea *Bounded  `json:"area_minus_image_only,omitempty"`
	Steps         Steps     `json:"steps"`
}

// Steps counts where fewer attributes make a model surer of the truth: where the probability
// of the true class (of a lesion: the score of the box that finds it, 0 without one) rises by
// more than 0.02 from a rate to the next. It needs not be a fault: an attribute may mislead.
type Steps struct {
	// Steps are cases (lesions) times neighbouring rates; Rising those that rise.
	Steps  int `json:"steps"`
	Rising int `json:"rising"`
	// Expected are the rises of as many steps if the answers to more attributes meant what they
	// say: where the classes that would rise have together the probability p, p of them. Absent
	// of lesions.
	Expected float64 `json:"expected_rising,omitempty"`
	// Cases are cases times seeds; CasesRising those with such a step.
	Cases       int `json:"cases"`
	CasesRising int `json:"cases_rising"`
	// WrongWithMore are right (found) at the greatest rate and wrong (missed) at the least.
	WrongWithMore int `json:"right_with_fewest_wrong_with_most"`
}

// truth is how sure a method is of what is true, per case (lesion) and seed, and whether it
// is right.
type truth struct {
	sure  []float64
	right []bool
	// classes are the probabilities of all; nil of lesions.
	classes [][]float64
}

// truth of the pooled cases.
func (p *pooled) truth() truth {
	var t truth
	if p.detected != nil {
		for _, o := range p.outcomes {
			score := o.Score
			if !o.Found {
				score = 0
			}
			t.sure, t.right = append(t.sure, score), append(t.right, o.Found)
		}
		return t
	}
	t.classes = p.probabilities
	for i, label := range p.labels {
		t.sure = append(t.sure, p.probabilities[i][label])
		t.right = append(t.right, stat.ArgMax(p.probabilities[i]) == label)
	}
	return t
}

// metric is the primary one of the pooled cases.
func (p *pooled) metric() float64 {
	if p.detected != nil {
		return p.detected.MeanSensitivity
	}
	return p.classified.Metrics.BalancedAccuracy
}

// replicates are the primary metric's, the same patients in all that are compared.
func (p *pooled) replicates(o resample.Options) ([]float64, error) {
	if p.detected != nil {
		return p.detected.MeanReplicates(o)
	}
	return p.classified.BalancedReplicates(p.patients, o)
}

// curveKey names a curve: what is the same in all of its points.
type curveKey struct {
	scenario, task, method string
	fraction               float64
}

// curves makes a curve of every method that is predicted at two rates or more by the same
// models, in the order of the points.
func curves(points []*pooled, o resample.Options) ([]Curve, error) {
	points = slices.DeleteFunc(slices.Clone(points), func(p *pooled) bool { return p.answers != nil }) // they are of classes
	groups := map[curveKey][]*pooled{}
	var order []curveKey
	for _, p := range points {
		k := curveKey{p.row.Scenario, p.task, p.row.Method, p.row.Fraction}
		if groups[k] == nil {
			order = append(order, k)
		}
		groups[k] = append(groups[k], p)
	}
	made := map[*pooled][]float64{}
	replicates := func(line []*pooled) (rows [][]float64, err error) {
		for _, p := range line {
			if made[p.of] == nil {
				if made[p.of], err = p.replicates(o); err != nil {
					return nil, fmt.Errorf("method %s: %w", p.row.Method, err)
				}
			}
			rows = append(rows, made[p.of])
		}
		return rows, nil
	}
	var out []Curve
	for _, k := range order {
		line := sorted(groups[k])
		if len(line) < 2 || !oneModel(line) {
			continue
		}
		rows, err := replicates(line)
		if err != nil {
			return nil, err
		}
		c := Curve{Scenario: k.scenario, Task: k.task, Method: k.method, Fraction: k.fraction, Steps: steps(line)}
		heights := make([]float64, len(line))
		for i, p := range line {
			c.Rates, heights[i] = append(c.Rates, p.row.TestRate), p.metric()
		}
		c.Area = bounded(o, area(c.Rates, heights), areas(c.Rates, rows))
		image := sorted(groups[curveKey{k.scenario, k.task, config.None, k.fraction}])
		if k.method != config.None && comparable(line, image) {
			base, err := replicates(image)
			if err != nil {
				return nil, err
			}
			low := make([]float64, len(line))
			for i, p := range image {
				low[i] = p.metric()
				c.ImageOnly = append(c.ImageOnly, bounded(o, heights[i]-low[i], resample.Minus(rows[i], base[i])))
			}
			d := bounded(o, area(c.Rates, heights)-area(c.Rates, low), resample.Minus(areas(c.Rates, rows), areas(c.Rates, base)))
			c.ImageOnlyArea = &d
		}
		out = append(out, c)
	}
	return out, nil
}

// sorted are the points of a line by rate, each rate once.
func sorted(line []*pooled) []*pooled {
	line = slices.Clone(line)
	slices.SortStableFunc(line, func(a, b *pooled) int { return cmp.Compare(a.row.TestRate, b.row.TestRate) })
	return slices.CompactFunc(line, func(a, b *pooled) bool { return a.row.TestRate == b.row.TestRate })
}

// oneModel reports whether all points are of the same trained models.
func oneModel(line []*pooled) bool {
	return !slices.ContainsFunc(line, func(p *pooled) bool {
		return p.row.TrainRate != line[0].row.TrainRate || !slices.Equal(p.row.Seeds, line[0].row.Seeds)
	})
}

// comparable reports whether two lines have the same rates and seeds.
func comparable(a, b []*pooled) bool {
	return slices.EqualFunc(a, b, func(p, q *pooled) bool {
		return p.row.TestRate == q.row.TestRate && slices.Equal(p.row.Seeds, q.row.Seeds)
	})
}

// area is the mean height over the rates, by trapezoids.
func area(rates, heights []float64) float64 {
	sum := 0.0
	for i := 1; i < len(rates); i++ {
		sum += (rates[i] - rates[i-1]) * (heights[i] + heights[i-1]) / 2
	}
	return sum / (rates[len(rates)-1] - rates[0])
}

// areas are those of the replicates; rows holds the replicates of each rate.
func areas(rates []float64, rows [][]float64) []float64 {
	out := make([]float64, len(rows[0]))
	heights := make([]float64, len(rates))
	for b := range out {
		for i := range rates {
			heights[i] = rows[i][b]
		}
		out[b] = area(rates, heights)
	}
	return out
}

func bounded(o resample.Options, value float64, replicates []float64) Bounded {
	i := o.Interval(replicates, value, nil)
	return Bounded{Number(value), Number(i.Low), Number(i.High)}
}

// steps compares the answers of neighbouring rates.
func steps(line []*pooled) Steps {
	var s Steps
	first := line[0].truth()
	before := first
	rising := make([]bool, len(first.sure))
	for _, p := range line[1:] {
		now := p.truth()
		for i := range now.sure {
			s.Steps++
			if now.sure[i] > before.sure[i]+rise {
				s.Rising++
				rising[i] = true
			}
			if before.classes != nil && now.classes != nil {
				for k, probability := range before.classes[i] {
					if now.classes[i][k] > probability+rise {
						s.Expected += probability
					}
				}
			}
		}
		before = now
	}
	for i := range rising {
		s.Cases++
		if rising[i] {
			s.CasesRising++
		}
		if before.right[i] && !first.right[i] {
			s.WrongWithMore++
		}
	}
	return s
}

// writeCurves prints the curves' areas, what they are above the image alone, and their
// steps.
func writeCurves(w io.Writer, all []Curve, metric string) error {
	if len(all) == 0 {
		return nil
	}
	fmt.Fprintf(w, "\nover the rates: mean %s, minus image only, and how often fewer attributes raise p(true) by more than %g\n", metric, rise)
	tab := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tab, "method\trates\tmean\tminus image only\tsmallest such difference\tsteps\tcases")
	for _, c := range all {
		name, whole, least := c.Method, "-", "-"
		for _, part := range []string{c.Task, c.Scenario} {
			if part != "" {
				name += ", " + part
			}
		}
		if c.ImageOnlyArea != nil {
			i := lowest(c.ImageOnly)
			whole, least = c.ImageOnlyArea.signed(), fmt.Sprintf("%s at %g %%", c.ImageOnly[i].signed(), 100*c.Rates[i])
		}
		n := len(c.Rates)
		fmt.Fprintf(tab, "%s\t%g-%g %%\t%.3f [%.3f %.3f]\t%s\t%s\t%.1f %%\t%.1f %%\n", name, 100*c.Rates[0], 100*c.Rates[n-1],
			float64(c.Area.Value), float64(c.Area.Low), float64(c.Area.High), whole, least,
			100*share(c.Steps.Rising, c.Steps.Steps), 100*share(c.Steps.CasesRising, c.Steps.Cases))
	}
	return tab.Flush()
}

// lowest is the place of the smallest difference.
func lowest(all []Bounded) int {
	best := 0
	for i := range all {
		if all[i].Value < all[best].Value {
			best = i
		}
	}
	return best
}

func (b Bounded) signed() string {
	return fmt.Sprintf("%+.3f [%+.3f %+.3f]", float64(b.Value), float64(b.Low), float64(b.High))
}

func share(part, whole int) float64 {
	if whole == 0 {
		return math.NaN()
	}
	return float64(part) / float64(whole)
}
