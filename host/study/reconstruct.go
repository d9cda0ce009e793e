package study

import (
	"context"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/alignedfusion/alignedfusion/eval/resample"
	"github.com/alignedfusion/alignedfusion/host/config"
	"github.com/alignedfusion/alignedfusion/host/dataset"
	"github.com/alignedfusion/alignedfusion/host/report/schema"
	"github.com/alignedfusion/alignedfusion/host/workflow"
	"github.com/alignedfusion/alignedfusion/host/workflow/feed"
	"github.com/alignedfusion/alignedfusion/internal/stat"
)

// AttributeScore is how often an attribute that was taken away is recovered.
type AttributeScore struct {
	Attribute string `json:"attribute"`
	// Cases whose value was there and was taken away.
	Cases int `json:"cases"`
	// Right are those whose most probable reconstructed value is the true one, of the
	// method, of the training data's most frequent value, and of naive Bayes on the
	// other attributes that are left.
	Right      int `json:"right"`
	Majority   int `json:"majority"`
	NaiveBayes int `json:"naive_bayes"`
	// Confidence is the sum of the greatest probabilities, for calibration.
	Confidence float64 `json:"confidence"`
	// Bins holds cases, right ones and confidence per tenth of the greatest
	// probability, for the expected calibration error.
	Bins [10][3]float64 `json:"bins"`
	// Values are the cases one by one.
	Values []RecoveredValue `json:"values,omitempty"`
}

// RecoveredValue is one value that was taken away: whose, and which ways find it.
type RecoveredValue struct {
	Patient string `json:"patient"`
	// Right names the ways that find it, "method" among them.
	Right []string `json:"right"`
	// Value is the true one's index, Probabilities are the method's, to four digits.
	Value         int       `json:"value"`
	Probabilities []float64 `json:"p,omitempty"`
}

// The ways of guessing a value.
const (
	byMethod      = "method"
	byMode        = "mode"
	byBayes       = "naive Bayes"
	byForest      = "forest"
	byForestImage = "forest with image"
)

// ways are the references, in the order of the table.
var ways = []string{byMode, byBayes, byForest, byForestImage}

// hidden is what a study took away from a split, and what is known otherwise.
type hidden struct {
	config *config.Config
	schema *schema.Schema
	sizes  []int // values per attribute
	// train and seen are what is there to guess from, truth the values before.
	train, seen, truth [][]int64
	training, cases    []dataset.Case
}

func (s *Study) hidden(c Cell) (*hidden, error) {
	cfg, err := s.config(c.Model)
	if err != nil {
		return nil, err
	}
	left, err := feed.ReadTable(cfg, s.split(c), &c.TestRate)
	if err != nil {
		return nil, err
	}
	zero := 0.0
	whole, err := feed.ReadTable(cfg, s.split(c), &zero)
	if err != nil {
		return nil, err
	}
	h := &hidden{config: cfg, schema: left.Schema, training: left.Training, cases: left.Cases}
	for _, attribute := range left.Schema.Attributes {
		h.sizes = append(h.sizes, len(attribute.Values))
	}
	h.train, h.seen = knownValues(left.Schema, left.Training), knownValues(left.Schema, left.Cases)
	h.truth = knownValues(left.Schema, originals(whole.Data.Cases, left.Cases))
	return h, nil
}

// reconstruction compares the reconstructed probabilities with the values that the
// study took away. Values that were missing by themselves have no truth.
func (s *Study) reconstruction(ctx context.Context, c Cell, p *workflow.PredictResult) ([]AttributeScore, error) {
	if c.TestRate == 0 || !reconstructs(p) {
		return nil, nil
	}
	h, err := s.hidden(c)
	if err != nil {
		return nil, err
	}
	guesses, err := s.guess(ctx, c, h)
	if err != nil {
		return nil, err
	}
	scores := make([]AttributeScore, len(h.sizes))
	place := map[string]int{}
	for a, attribute := range h.schema.Attributes {
		scores[a].Attribute, place[attribute.Name] = attribute.Name, a
	}
	for i, prediction := range p.Predictions {
		for _, r := range prediction.Reconstructed {
			a, ok := place[r.Attribute]
			if !ok || h.truth[i][a] < 0 || len(r.Probabilities) != h.sizes[a] {
				continue
			}
			// The same case of every seed is one patient.
			value := RecoveredValue{Patient: dataset.PatientOf(prediction.Case.Patient, prediction.Case.ID), Right: []string{}}
			want, got := int(h.truth[i][a]), stat.ArgMax(r.Probabilities)
			value.Value = want
			for _, v := range r.Probabilities {
				value.Probabilities = append(value.Probabilities, math.Round(v*1e4)/1e4)
			}
			if got == want {
				value.Right = append(value.Right, byMethod)
			}
			for _, way := range ways {
				if g := guesses[way]; g != nil && g[i][a] == want {
					value.Right = append(value.Right, way)
				}
			}
			scores[a].add(value, r.Probabilities[got])
		}
	}
	return scores, nil
}

// add counts a value whose most probable guess has the probability top.
func (a *AttributeScore) add(v RecoveredValue, top float64) {
	one := func(way string) int {
		if slices.Contains(v.Right, way) {
			return 1
		}
		return 0
	}
	a.Cases++
	a.Right, a.Majority, a.NaiveBayes = a.Right+one(byMethod), a.Majority+one(byMode), a.NaiveBayes+one(byBayes)
	a.Confidence += top
	bin := &a.Bins[min(9, int(top*10))]
	bin[0]++
	bin[1] += float64(one(byMethod))
	bin[2] += top
	a.Values = append(a.Values, v)
}

// calibrationError is the expected calibration error of the bins, and what that of as many
// independent values would be if the probabilities meant what they say: its mean, and a bound
// that one of twenty exceeds.
func calibrationError(bins [10][3]float64) (ece, mean, bound float64) {
	total, variance := 0.0, 0.0
	for _, b := range bins {
		n, p := b[0], b[2]/b[0]
		if n == 0 {
			continue
		}
		total += n
		ece += math.Abs(b[1] - b[2])
		if p <= 0 || p >= 1 {
			continue
		}
		// The mean deviation of a binomial is 2νP(ν)(1-p), ν the first number above np (De Moivre).
		nu := math.Floor(n*p) + 1
		choose := func(k float64) float64 {
			v, _ := math.Lgamma(k + 1)
			return v
		}
		deviation := 2 * nu * math.Exp(choose(n)-choose(nu)-choose(n-nu)+nu*math.Log(p)+(n-nu+1)*math.Log(1-p))
		mean += deviation
		variance += n*p*(1-p) - deviation*deviation
	}
	const oneSided = 1.6449 // of a normal distribution, 95 %
	return ece / total, mean / total, (mean + oneSided*math.Sqrt(max(0, variance))) / total
}

// guess makes every reference's guess of every attribute of the cases [cases][A]; methods
// with the same seed, fold and rates share them.
func (s *Study) guess(ctx context.Context, c Cell, h *hidden) (map[string][][]int, error) {
	key := fmt.Sprint(c.Seed, c.Fold, c.Rate, c.TestRate, c.Fraction)
	if known := s.guesses[key]; known != nil {
		return known, nil
	}
	bayes, err := Reconstruct(h.train, h.sizes, 1, h.seen)
	if err != nil {
		return nil, err
	}
	modes := make([]int, len(h.sizes))
	for a, size := range h.sizes {
		counts := make([]float64, size)
		for _, row := range h.train {
			if row[a] >= 0 {
				counts[row[a]]++
			}
		}
		modes[a] = stat.ArgMax(counts)
	}
	all := map[string][][]int{byMode: slices.Repeat([][]int{modes}, len(h.cases)), byBayes: make([][]int, len(h.cases))}
	for i := range h.cases {
		for a := range h.sizes {
			all[byBayes][i] = append(all[byBayes][i], stat.ArgMax(bayes[i][a]))
		}
	}
	if s.Forests {
		if all[byForest], err = h.forests(nil, nil); err != nil {
			return nil, err
		}
		if h.config.Encoder.Plugin != config.None {
			both := slices.Concat(h.training, h.cases)
			features, err := s.featuresOf(ctx, h.config, c.Fold, both, both)
			if err != nil {
				return nil, err
			}
			if all[byForestImage], err = h.forests(features[:len(h.training)], features[len(h.training):]); err != nil {
				return nil, err
			}
		}
	}
	s.guesses[key] = all
	return all, nil
}

// Settings of the reference's forests: hiddenCopies of every training row, each with half of
// its values hidden, beside the row itself, for what is predicted lacks values, too.
const (
	hiddenCopies = 3
	forestLeaf   = 5
)

// forests guesses every attribute from the others, one-hot and zero where missing, and from
// the features of the image, unless they are nil.
func (h *hidden) forests(trainImage, testImage [][]float64) ([][]int, error) {
	out := make([][]int, len(h.seen))
	for a, size := range h.sizes {
		var rows [][]int64
		var images [][]float64
		var labels []int
		for i, row := range h.train {
			if row[a] < 0 {
				continue
			}
			for copy := range hiddenCopies + 1 {
				hide := func(name string) bool {
					return copy > 0 && dataset.Rank(uint64(copy), h.training[i].ID, name) < 0.5
				}
				rows, labels = append(rows, h.without(row, a, hide)), append(labels, int(row[a]))
				if trainImage != nil {
					images = append(images, trainImage[i])
				}
			}
		}
		forest, err := TrainForest(beside(OneHot(rows, h.sizes, false), images), labels, size, ForestOptions{MinLeaf: forestLeaf, Seed: uint64(a)})
		if err != nil {
			return nil, fmt.Errorf("attribute %s: %w", h.schema.Attributes[a].Name, err)
		}
		var tests [][]int64
		for _, row := range h.seen {
			tests = append(tests, h.without(row, a, func(string) bool { return false }))
		}
		for i, row := range beside(OneHot(tests, h.sizes, false), testImage) {
			out[i] = append(out[i], stat.ArgMax(forest.Predict(row)))
		}
	}
	return out, nil
}

// without is a row in which attribute a and those that hide names are missing.
func (h *hidden) without(row []int64, a int, hide func(name string) bool) []int64 {
	row = slices.Clone(row)
	for j := range row {
		if j == a || hide(h.schema.Attributes[j].Name) {
			row[j] = Missing
		}
	}
	return row
}

// beside lays images behind rows; nil adds nothing.
func beside(rows, images [][]float64) [][]float64 {
	for i := range images {
		rows[i] = slices.Concat(rows[i], images[i])
	}
	return rows
}

// ways compares the method with every reference that guessed all values.
func (a *AttributeScore) ways(o resample.Options) []Way {
	var out []Way
	patients := make([]string, len(a.Values))
	for i, v := range a.Values {
		patients[i] = v.Patient
	}
	for _, way := range ways {
		above, ever := make([]float64, len(a.Values)), 0.0
		for i, v := range a.Values {
			if slices.Contains(v.Right, byMethod) {
				above[i]++
			}
			if slices.Contains(v.Right, way) {
				above[i]--
				ever++
			}
		}
		if ever == 0 {
			continue
		}
		m := resample.NewMeans(patients, above)
		out = append(out, Way{way, Number(ever / float64(len(a.Values))), bounded(o, m.Mean(), m.Replicates(o))})
	}
	return out
}

// writeRecovery prints, per attribute, what each way recovers and what the method is above it.
func (t *Table) writeRecovery(w io.Writer) error {
	for i, r := range t.Reconstruction {
		if i == 0 || r.Attribute == "" {
			fmt.Fprintf(w, "\n%s, %g %% taken away: share recovered, and the method minus each way [95 %% CI, patients resampled]\n", r.Method, 100*r.Rate)
		}
		if r.Attribute != "" {
			continue
		}
		tab := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		fmt.Fprintf(tab, "attribute\tvalues\tmethod\tECE\tif calibrated\t%s\n", strings.Join(ways, "\t"))
		for j, one := range t.Reconstruction[i:] {
			if j > 0 && one.Attribute == "" {
				break
			}
			name := one.Attribute
			if name == "" {
				name = "all"
			}
			fmt.Fprintf(tab, "%s\t%d\t%.3f\t%.3f\t%.3f", name, one.Values, float64(one.Accuracy), float64(one.ECE), float64(one.Calibrated.Mean))
			for _, way := range ways {
				text := "-"
				if k := slices.IndexFunc(one.Ways, func(x Way) bool { return x.Name == way }); k >= 0 {
					text = fmt.Sprintf("%.3f (%s)", float64(one.Ways[k].Accuracy), one.Ways[k].Difference.signed())
				}
				fmt.Fprintf(tab, "\t%s", text)
			}
			fmt.Fprintln(tab)
		}
		if err := tab.Flush(); err != nil {
			return err
		}
	}
	return nil
}

func reconstructs(p *workflow.PredictResult) bool {
	for i := range p.Predictions {
		if len(p.Predictions[i].Reconstructed) > 0 {
			return true
		}
	}
	return false
}

// originals are the cases of all with the identifiers of some, in their order.
func originals(all, some []dataset.Case) []dataset.Case {
	byID := map[string]*dataset.Case{}
	for i := range all {
		byID[all[i].ID] = &all[i]
	}
	out := make([]dataset.Case, len(some))
	for i := range some {
		out[i] = *byID[some[i].ID]
	}
	return out
}
