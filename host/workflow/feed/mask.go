package feed

import (
	"math"
	"slices"

	"github.com/alignedfusion/alignedfusion/host/config"
	"github.com/alignedfusion/alignedfusion/host/dataset"
	"github.com/alignedfusion/alignedfusion/host/report/schema"
	"github.com/alignedfusion/alignedfusion/sdk"
)

// MaskAttributes removes attribute values from the data as the configuration says
// (data.missing_*), or at one rate for all splits.
func MaskAttributes(d *dataset.Dataset, c *config.Config, rate *float64) error {
	s := &c.DataSettings
	rateOf := func(split string) float64 {
		switch {
		case rate != nil:
			return *rate
		case dataset.InSplit(split, s.TrainSplit):
			return s.MissingTrain
		case !validatedOn(s, split):
			return s.MissingTest
		case s.MissingValidation < 0:
			return s.MissingTrain
		}
		return s.MissingValidation
	}
	cases, err := dataset.MaskSplits(d.Cases, rateOf, uint64(s.MissingSeed))
	if err == nil {
		d.Cases = cases
	}
	return err
}

// validatedOn reports whether a split is one that the best checkpoint is chosen on; an
// empty data.validation_split chooses on none.
func validatedOn(c *config.Data, split string) bool {
	return c.ValidationSplit != "" && dataset.InSplit(split, c.ValidationSplit)
}

// fraction keeps the cases of a share of the patients, rounded up. Under one seed the
// patients of a small share are among those of every larger one. A case without a
// patient is its own.
func fraction(cases []dataset.Case, share float64, seed uint64) []dataset.Case {
	if share >= 1 {
		return cases
	}
	patient := func(c *dataset.Case) string { return dataset.PatientOf(c.Patient, c.ID) }
	rank := map[string]float64{}
	for i := range cases {
		p := patient(&cases[i])
		rank[p] = dataset.Rank(seed, p, "")
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
		if !sets[k].Classed() {
			continue
		}
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

// stageSchema is the schema as the stages see it under data.impute.
func stageSchema(s *schema.Schema, impute config.Impute) *schema.Schema {
	if impute != config.ImputeCategory && impute != config.ImputePattern {
		return s
	}
	seen := &schema.Schema{}
	for _, a := range s.Attributes {
		values := []string{"present"}
		if impute == config.ImputeCategory {
			values = slices.Clone(a.Values)
		}
		seen.Attributes = append(seen.Attributes, schema.Attribute{
			Name: a.Name, Kind: schema.Categorical, Values: append(values, dataset.MissingValue),
		})
	}
	return seen
}

// cellForStages puts a cell into the terms of the attribute that the stages see: "missing"
// is its last value. Cells of unknown value keep their own text.
func cellForStages(seen schema.Attribute, impute config.Impute, c schema.Cell) schema.Cell {
	if impute != config.ImputeCategory && impute != config.ImputePattern {
		return c
	}
	switch {
	case c.State == schema.Unmentioned:
		c.Value = len(seen.Values) - 1
	case impute == config.ImputePattern:
		c.Value = 0
	case c.Value < 0 || c.State == schema.Uncertain:
		return c
	}
	c.State = schema.Stated
	return c
}
