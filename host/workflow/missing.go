package workflow

import (
	"fmt"
	"math"
	"slices"

	"github.com/alignedfusion/alignedfusion/host/config"
	"github.com/alignedfusion/alignedfusion/host/dataset"
	"github.com/alignedfusion/alignedfusion/host/dataset/missing"
	"github.com/alignedfusion/alignedfusion/host/report/schema"
	"github.com/alignedfusion/alignedfusion/sdk"
)

// modesFile of a run holds what data.impute=mode fills in, by attribute.
const modesFile = "modes.json"

// takeAway removes attribute values from the data as the configuration says
// (data.missing_*), or at one rate for all splits.
func takeAway(d *dataset.Dataset, c *config.Config, rate *float64) error {
	s := &c.DataSettings
	rateOf := func(split string) float64 {
		switch {
		case rate != nil:
			return *rate
		case dataset.InSplit(split, s.TrainSplit):
			return s.MissingTrain
		case !dataset.InSplit(split, s.ValidationSplit):
			return 0
		case s.MissingValidation < 0:
			return s.MissingTrain
		}
		return s.MissingValidation
	}
	cases := make([]dataset.Case, 0, len(d.Cases))
	for i := range d.Cases {
		one, err := missing.Remove(d.Cases[i:i+1], rateOf(d.Cases[i].Split), uint64(s.MissingSeed))
		if err != nil {
			return err
		}
		cases = append(cases, one...)
	}
	d.Cases = cases
	return nil
}

// fraction keeps the cases of a share of the patients, rounded up. Under one seed the
// patients of a small share are among those of every larger one. A case without a
// patient is its own.
func fraction(cases []dataset.Case, share float64, seed uint64) []dataset.Case {
	patient := func(c *dataset.Case) string {
		if c.Patient == "" {
			return "\x00" + c.ID
		}
		return c.Patient
	}
	rank := map[string]float64{}
	for i := range cases {
		p := patient(&cases[i])
		rank[p] = missing.Rank(seed, p, "")
	}
	var ranks []float64
	for _, r := range rank {
		ranks = append(ranks, r)
	}
	slices.Sort(ranks)
	kept := int(math.Ceil(share * float64(len(ranks))))
	if kept >= len(ranks) {
		return cases
	}
	return slices.DeleteFunc(slices.Clone(cases), func(c dataset.Case) bool { return kept == 0 || rank[patient(&c)] > ranks[kept-1] })
}

// balance gives every class the weight cases/(classes·its cases), so that each counts
// alike in the loss; a class without training cases weighs nothing.
func balance(sets []sdk.LabelSet, training []dataset.Case) {
	for k := range sets {
		counts := make([]float64, len(sets[k].Classes))
		known, present := 0.0, 0.0
		for i := range training {
			if l, ok := training[i].Labels[sets[k].Name]; ok && l >= 0 {
				counts[l]++
				known++
			}
		}
		for _, n := range counts {
			if n > 0 {
				present++
			}
		}
		sets[k].ClassWeights = make([]float64, len(counts))
		for class, n := range counts {
			if n > 0 {
				sets[k].ClassWeights[class] = known / (present * n)
			}
		}
	}
}

// toldSchema is the schema as the stages see it under data.impute.
func toldSchema(s *schema.Schema, impute config.Impute) *schema.Schema {
	if impute != config.ImputeCategory && impute != config.ImputePattern {
		return s
	}
	told := &schema.Schema{}
	for _, a := range s.Attributes {
		values := []string{"present"}
		if impute == config.ImputeCategory {
			values = slices.Clone(a.Values)
		}
		told.Attributes = append(told.Attributes, schema.Attribute{
			Name: a.Name, Kind: schema.Categorical, Values: append(values, missing.Category),
		})
	}
	return told
}

// tell puts the encoded cells of one case into the terms of the told schema: "missing"
// is its last value. Cells of unknown value keep their own text.
func tell(told *schema.Schema, impute config.Impute, e *schema.Encoded) {
	if impute != config.ImputeCategory && impute != config.ImputePattern {
		return
	}
	for a, attribute := range told.Attributes {
		state, value := &e.States[0][a], &e.Values[0][a]
		switch {
		case schema.State(*state) == schema.Unmentioned:
			*value = int64(len(attribute.Values) - 1)
		case impute == config.ImputePattern:
			*value = 0
		case *value < 0 || schema.State(*state) == schema.Uncertain:
			continue
		}
		*state = int8(schema.Stated)
		e.Prompts[0][a] = schema.ValuePrompts(attribute)[*value]
	}
}

// Table are the cases of a configuration with the attributes that are left to them.
type Table struct {
	Data                 *dataset.Dataset
	Training, Validation []dataset.Case
	// Cases of the split asked for, at the rate asked for.
	Cases  []dataset.Case
	Labels []sdk.LabelSet
	Schema *schema.Schema
}

// ReadTable reads what a method needs that has no plugins: training and validation
// cases as Train sees them, and a split as PredictRun sees it. c must be resolved. The
// data must have attributes.
func ReadTable(c *config.Config, split string, rate *float64) (*Table, error) {
	plain := *c
	plain.Fusion = config.Stage{Plugin: "reports"} // so that attributes are read
	t := &training{TrainOptions: TrainOptions{Config: &plain}}
	if err := t.prepareData(); err != nil {
		return nil, err
	}
	if t.schema == nil {
		return nil, &ConfigError{Err: fmt.Errorf("%s has no attributes to learn from", c.Data)}
	}
	d, err := OpenData(c.Data, &plain, nil, nil)
	if err != nil {
		return nil, err
	}
	if err := takeAway(d, c, rate); err != nil {
		return nil, &ConfigError{Err: err}
	}
	cases, err := d.Split(split)
	return &Table{Data: d, Training: t.training, Validation: t.validation, Cases: cases, Labels: t.labels, Schema: t.schema}, err
}

// TrainingCases counts the cases that a configuration trains on. c must be resolved.
func TrainingCases(c *config.Config) (int, error) {
	t := &training{TrainOptions: TrainOptions{Config: c}}
	err := t.openData(nil, nil)
	return len(t.training), err
}
