package workflow

import (
	"context"
	"slices"

	"github.com/alignedfusion/alignedfusion/host/dataset"
	"github.com/alignedfusion/alignedfusion/host/report/schema"
	"github.com/alignedfusion/alignedfusion/host/workflow/predictions"
)

// counterfactuals predicts the cases again with each kind of other report, in the same
// session, and puts the answers beside those of the cases' own reports.
func (s *Session) counterfactuals(ctx context.Context, cases []dataset.Case, own []predictions.Prediction) (*predictions.Counterfactuals, error) {
	known := s.Feed.Reports
	if known == nil {
		return nil, nil
	}
	defer func() { s.Feed.Reports = known }()
	out := predictions.NewCounterfactuals()
	out.Donors = strangers(cases, s.Config.Seed)
	for _, kind := range predictions.CounterfactualKinds() {
		changed := otherReports(kind, s.Schema, cases, out.Donors)
		var err error
		if s.Feed.Reports, err = known.Of(changed); err != nil {
			return nil, err
		}
		predicted, err := s.Predict(ctx, changed, nil)
		if err != nil {
			return nil, err
		}
		out.Add(kind, own, predicted)
	}
	return out, nil
}

// otherReports are the cases with other attributes: none, those of another patient (from, by
// case), or values that contradict their own.
func otherReports(kind predictions.CounterfactualKind, s *schema.Schema, cases []dataset.Case, from []int) []dataset.Case {
	return dataset.EditCells(cases, func(i int, name string, cell schema.Cell) schema.Cell {
		k := s.Index(name)
		switch {
		case kind == predictions.Shuffled:
			return cases[from[i]].Attributes.Cell(name)
		case k >= 0 && kind == predictions.WithoutReport:
			return schema.Cell{Value: -1}
		case k >= 0 && kind == predictions.Contradicting:
			return contradicted(s.Attributes[k], cell)
		}
		return cell
	})
}

// strangers gives every case one of another patient, by chance of the seed, each once where
// patients allow it.
func strangers(cases []dataset.Case, seed uint64) []int {
	order := make([]int, len(cases))
	rank := make([]float64, len(cases))
	for i := range cases {
		order[i], rank[i] = i, dataset.Rank(seed, cases[i].ID, "shuffled reports")
	}
	slices.SortFunc(order, func(a, b int) int {
		if rank[a] < rank[b] {
			return -1
		}
		return 1
	})
	from := make([]int, len(cases))
	for k, i := range order {
		step := 1
		for p := cases[i].Patient; p != "" && step < len(order) && cases[order[(k+step)%len(order)]].Patient == p; {
			step++
		}
		from[i] = order[(k+step)%len(order)]
	}
	return from
}

// contradicted is a cell that says another value: of two values the other, of ordered ones
// the one farther away, else the next. What is unmentioned or uncertain stays.
func contradicted(a schema.Attribute, c schema.Cell) schema.Cell {
	n := len(a.Values)
	if !c.Known() || n < 2 {
		return c
	}
	value := (c.Value + 1) % n
	if a.Ordinal || a.Kind == schema.Numeric {
		if value = 0; 2*c.Value < n {
			value = n - 1
		}
	}
	if value == c.Value {
		value = (value + 1) % n
	}
	out := schema.Cell{State: schema.Stated, Value: value, Raw: a.Values[value]}
	if a.Kind == schema.Binary && value == 0 {
		out.State = schema.Negated
	}
	return out
}
