package study

import (
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/alignedfusion/alignedfusion/eval/classify"
	"github.com/alignedfusion/alignedfusion/host/config"
	"github.com/alignedfusion/alignedfusion/host/dataset"
	"github.com/alignedfusion/alignedfusion/host/report/schema"
	"github.com/alignedfusion/alignedfusion/host/workflow"
	"github.com/alignedfusion/alignedfusion/host/workflow/feed"
	"github.com/alignedfusion/alignedfusion/host/workflow/predictions"
	"github.com/alignedfusion/alignedfusion/sdk"
)

// problem is what a host method learns from, for one label set.
type problem struct {
	config *config.Config
	fold   string
	set    sdk.LabelSet
	// train and validation have known labels; test is what is predicted.
	train, validation, test []dataset.Case
	schema                  *schema.Schema
	sizes                   []int // values per attribute
}

// hostMethod returns the probabilities of the test cases.
type hostMethod func(ctx context.Context, s *Study, p *problem) ([][]float64, error)

// hostCell fits and predicts one label set after the other.
func (s *Study) hostCell(ctx context.Context, c Cell, device string) (*workflow.PredictResult, error) {
	cfg, err := s.on(device, c.Model)
	if err != nil {
		return nil, &config.Error{Err: err}
	}
	t, err := feed.ReadTable(cfg, s.split(c), &c.TestRate)
	if err != nil {
		return nil, err
	}
	out := &workflow.PredictResult{Config: cfg, Labels: t.Labels, Split: s.split(c), Cases: t.Cases, Evaluable: predictions.HasTargets(t.Cases)}
	out.Predictions = make([]predictions.Prediction, len(t.Cases))
	for i := range out.Predictions {
		out.Predictions[i].Case = &t.Cases[i]
	}
	for _, set := range t.Labels {
		if !set.Classed() {
			return nil, &config.Error{Err: fmt.Errorf("method %s classifies, and %s asks %s; leave it out with --methods", c.Method.Name, set.Name, set.Asks())}
		}
		p := &problem{config: cfg, fold: c.Fold, set: set, train: labelled(set, t.Training), validation: labelled(set, t.Validation), test: t.Cases, schema: t.Schema}
		for _, a := range t.Schema.Attributes {
			p.sizes = append(p.sizes, len(a.Values))
		}
		probabilities, err := c.Method.host(ctx, s, p)
		if err != nil {
			return nil, fmt.Errorf("%s, label set %s: %w", c.Method.Name, set.Name, err)
		}
		for i := range out.Predictions {
			out.Predictions[i].Probabilities = append(out.Predictions[i].Probabilities, probabilities[i])
		}
	}
	return out, nil
}

// values are the attributes of cases as indices into the value sets.
func (p *problem) values(cases []dataset.Case) [][]int64 {
	return knownValues(p.schema, cases)
}

// knownValues are the attributes of cases bound to s as indices into the value sets; what is not known as a fact is Missing.
func knownValues(s *schema.Schema, cases []dataset.Case) [][]int64 {
	out := make([][]int64, len(cases))
	for i := range cases {
		for _, a := range s.Attributes {
			v := int64(Missing)
			if c := cases[i].Attributes.Cell(a.Name); c.Known() {
				v = int64(c.Value)
			}
			out[i] = append(out[i], v)
		}
	}
	return out
}

func (p *problem) labels(cases []dataset.Case) []int {
	out := make([]int, len(cases))
	for i := range cases {
		out[i] = cases[i].Labels[p.set.Name]
	}
	return out
}

func naiveBayes(_ context.Context, _ *Study, p *problem) ([][]float64, error) {
	nb, err := TrainNaiveBayes(p.values(p.train), p.sizes, p.labels(p.train), len(p.set.Classes), 1)
	if err != nil {
		return nil, err
	}
	test := p.values(p.test)
	out := make([][]float64, len(test))
	for i, row := range test {
		out[i] = nb.Predict(row)
	}
	return out, nil
}

func logisticAttributes(_ context.Context, _ *Study, p *problem) ([][]float64, error) {
	return p.logistic(func(_ []dataset.Case, oneHot [][]float64) ([][]float64, error) { return oneHot, nil })
}

func logistic(ctx context.Context, s *Study, p *problem) ([][]float64, error) {
	return p.logistic(func(cases []dataset.Case, oneHot [][]float64) ([][]float64, error) {
		seen, err := s.featuresOf(ctx, p.config, p.fold, cases, slices.Concat(p.train, p.validation, p.test))
		if err != nil {
			return nil, err
		}
		for i := range cases {
			seen[i] = slices.Concat(seen[i], oneHot[i])
		}
		return seen, nil
	})
}

// featuresOf are the features of cases; where one has none yet, those of all are made.
func (s *Study) featuresOf(ctx context.Context, c *config.Config, fold string, cases, all []dataset.Case) ([][]float64, error) {
	out := make([][]float64, len(cases))
	for i := range cases {
		key := [2]string{fold, cases[i].ID}
		if s.features[key] == nil {
			if err := s.readFeatures(ctx, c, fold, all); err != nil {
				return nil, err
			}
		}
		out[i] = s.features[key]
	}
	return out, nil
}

// readFeatures makes the features of all cases that have none yet.
func (s *Study) readFeatures(ctx context.Context, c *config.Config, fold string, cases []dataset.Case) error {
	seen := map[string]bool{}
	cases = slices.DeleteFunc(slices.Clone(cases), func(c dataset.Case) bool {
		again := s.features[[2]string{fold, c.ID}] != nil || seen[c.ID]
		seen[c.ID] = true
		return again
	})
	d, err := feed.OpenData(c.Data, c, nil, feed.Sources{Columns: []string{}})
	if err != nil {
		return err
	}
	features, err := workflow.Features(ctx, workflow.Options{Config: c, Data: d, Labels: d.Labels, Plugins: s.Plugins, Tokens: s.tokens}, cases)
	if err != nil {
		return err
	}
	for i := range cases {
		s.features[[2]string{fold, cases[i].ID}] = features[i]
	}
	return nil
}

// strengths are the values of C among which validation chooses.
var strengths = []float64{0.0003, 0.001, 0.01, 0.1, 1}

// middleStrength is taken where there is no validation split to choose on.
const middleStrength = 0.01

// logistic chooses the penalty by balanced accuracy on the validation split, as the
// plugins' checkpoints are chosen.
func (p *problem) logistic(features func(cases []dataset.Case, oneHot [][]float64) ([][]float64, error)) ([][]float64, error) {
	var x [3][][]float64
	for i, cases := range [][]dataset.Case{p.train, p.validation, p.test} {
		var err error
		if x[i], err = features(cases, OneHot(p.values(cases), p.sizes, false)); err != nil {
			return nil, err
		}
	}
	balanced := p.config.DataSettings.ClassWeights == config.Balanced
	best, chosen := math.Inf(-1), (*Logistic)(nil)
	tried := strengths
	if len(p.validation) == 0 {
		tried = []float64{middleStrength}
	}
	for _, c := range tried {
		m, err := TrainLogistic(x[0], p.labels(p.train), len(p.set.Classes), LogisticOptions{C: c, Balanced: balanced, Iterations: 200})
		if err != nil {
			return nil, err
		}
		if len(p.validation) == 0 {
			return predictAll(m, x[2]), nil
		}
		r, err := classify.Evaluate(p.labels(p.validation), predictAll(m, x[1]), p.set.Classes)
		if err != nil {
			return nil, err
		}
		if r.Metrics.BalancedAccuracy > best {
			best, chosen = r.Metrics.BalancedAccuracy, m
		}
	}
	return predictAll(chosen, x[2]), nil
}

func predictAll(m *Logistic, rows [][]float64) [][]float64 {
	out := make([][]float64, len(rows))
	for i, row := range rows {
		out[i] = m.Predict(row)
	}
	return out
}
