package workflow

import (
	"testing"

	"github.com/alignedfusion/alignedfusion/host/dataset"
	"github.com/alignedfusion/alignedfusion/host/report/schema"
	"github.com/alignedfusion/alignedfusion/host/workflow/predictions"
	"github.com/alignedfusion/alignedfusion/internal/box"
)

func TestOtherReportsSayNothingAnothersOrTheContrary(t *testing.T) {
	s := &schema.Schema{Attributes: []schema.Attribute{
		{Name: "mass", Kind: schema.Binary, Values: []string{"no", "yes"}},
		{Name: "size", Kind: schema.Numeric, Values: []string{"small", "medium", "large"}, Ordinal: true},
	}}
	var cases []dataset.Case
	for i, patient := range []string{"p", "p", "q", "r"} {
		cases = append(cases, dataset.Case{ID: string(rune('a' + i)), Patient: patient, Attributes: dataset.NewAttributes(map[string]schema.Cell{
			"mass": {State: schema.Stated, Value: 1}, "size": {State: schema.Stated, Value: 0, Raw: patient}})})
	}
	donors := strangers(cases, 1)
	for _, c := range otherReports(predictions.WithoutReport, s, cases, donors) {
		if c.Attributes.Cell("mass").State != schema.Unmentioned || c.Attributes.Cell("size").State != schema.Unmentioned {
			t.Errorf("without: %v", c.Attributes)
		}
	}
	for i, c := range otherReports(predictions.Shuffled, s, cases, donors) {
		if c.Attributes.Cell("size").Raw == cases[i].Patient {
			t.Errorf("case %s keeps its patient's report", c.ID)
		}
	}
	for _, c := range otherReports(predictions.Contradicting, s, cases, donors) {
		if m, z := c.Attributes.Cell("mass"), c.Attributes.Cell("size"); m.State != schema.Negated || m.Value != 0 || z.Value != 2 || z.State != schema.Stated {
			t.Errorf("contradicting: %v", c.Attributes)
		}
	}
	if cases[0].Attributes.Cell("mass").State != schema.Stated {
		t.Error("the cases themselves were changed")
	}
}

func TestAScoreWithAnotherReportIsThatOfTheSameBox(t *testing.T) {
	c := &dataset.Case{ID: "a"}
	at := func(x, score float64, class int) predictions.Box {
		return predictions.Box{Box: box.Box{X1: x, X2: x + 10, Y2: 10}, Score: score, Class: class}
	}
	all := predictions.NewCounterfactuals()
	all.Add(predictions.WithoutReport, []predictions.Prediction{{Case: c, Boxes: []predictions.Box{at(0, .9, 0), at(50, .8, 0), at(90, .7, 0)}}},
		[]predictions.Prediction{{Boxes: []predictions.Box{at(51, .3, 0), at(1, .6, 0), at(2, .99, 0), at(90, .5, 1)}}})
	got := all.Cases["a"][predictions.WithoutReport].Scores
	if len(got) != 3 || got[0] == nil || *got[0] != .6 || got[1] == nil || *got[1] != .3 || got[2] != nil {
		t.Errorf("%v", got)
	}
}
