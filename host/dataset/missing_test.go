package dataset

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/alignedfusion/alignedfusion/host/report/schema"
)

func attributeTable(n int) []Case {
	var cases []Case
	for i := range n {
		cases = append(cases, Case{ID: fmt.Sprint("case", i), Attributes: written(
			"sex", []string{"female", "male", ""}[i%3], "age", fmt.Sprint(20+i%50), "site", "arm")})
	}
	return cases
}

func TestMasksAreNested(t *testing.T) {
	cases := attributeTable(200)
	rapid.Check(t, func(t *rapid.T) {
		low := rapid.Float64Range(0, 1).Draw(t, "low")
		high := rapid.Float64Range(low, 1).Draw(t, "high")
		seed := rapid.Uint64().Draw(t, "seed")
		few, err := Mask(cases, low, seed)
		if err != nil {
			t.Fatal(err)
		}
		many, err := Mask(cases, high, seed)
		if err != nil {
			t.Fatal(err)
		}
		for i := range cases {
			for name := range cases[i].Attributes.All() {
				if few[i].Attributes.Cell(name).State == schema.Unmentioned && many[i].Attributes.Cell(name).State != schema.Unmentioned {
					t.Fatalf("%s of %s is missing at %g and present at %g", name, cases[i].ID, low, high)
				}
			}
		}
	})
}

func TestRateIsTheShareOfTheValuesThereAre(t *testing.T) {
	cases := attributeTable(3000)
	for _, rate := range []float64{0, 0.1, 0.5, 0.9, 1} {
		got, err := Mask(cases, rate, 3)
		if err != nil {
			t.Fatal(err)
		}
		present, gone := 0, 0
		for i := range cases {
			for name, value := range cases[i].Attributes.All() {
				if value.State == schema.Unmentioned {
					continue
				}
				present++
				if got[i].Attributes.Cell(name).State == schema.Unmentioned {
					gone++
				}
			}
		}
		// Four standard errors of a binomial share.
		tolerance := 4 * math.Sqrt(rate*(1-rate)/float64(present))
		if share := float64(gone) / float64(present); math.Abs(share-rate) > tolerance {
			t.Errorf("rate %g took away %g", rate, share)
		}
	}
	if cases[0].Attributes.Cell("sex").Raw != "female" {
		t.Error("the given cases were changed")
	}
	for _, rate := range []float64{-0.1, 1.1, math.NaN()} {
		if _, err := Mask(cases, rate, 0); err == nil {
			t.Errorf("rate %g accepted", rate)
		}
	}
}

func TestSeedsGiveDifferentMasks(t *testing.T) {
	cases := attributeTable(100)
	a, _ := Mask(cases, 0.5, 1)
	b, _ := Mask(cases, 0.5, 2)
	again, _ := Mask(cases, 0.5, 1)
	opt := cmp.AllowUnexported(Case{}, place{})
	if cmp.Equal(a, b, opt) {
		t.Error("two seeds give one mask")
	}
	if !cmp.Equal(a, again, opt) {
		t.Error("one seed gives two masks")
	}
}

// written makes cells as a table gives them, of names and texts in turn.
func written(pairs ...string) Attributes {
	cells := map[string]schema.Cell{}
	for i := 0; i < len(pairs); i += 2 {
		cells[pairs[i]] = schema.Written(pairs[i+1], "data.csv:7")
	}
	return NewAttributes(cells)
}

// texts are cells as they were written.
func texts(a Attributes) map[string]string {
	out := map[string]string{}
	for name, c := range a.All() {
		out[name] = c.Raw
	}
	return out
}

var patientSchema = &schema.Schema{Attributes: []schema.Attribute{
	{Name: "sex", Kind: schema.Categorical, Values: []string{"male", "female"}},
	{Name: "site", Kind: schema.Categorical, Values: []string{"arm", "face"}},
	{Name: "age", Kind: schema.Numeric, Values: []string{"under 50", "50 or more"}, Edges: []float64{50}},
}}

func TestModesFillWhatIsMissing(t *testing.T) {
	d := &Dataset{Cases: []Case{
		{ID: "1", Attributes: written("sex", "female", "age", "61")},
		{ID: "2", Attributes: written("sex", "male", "age", "40")},
		{ID: "3", Attributes: written("sex", "", "age", "61")},
	}}
	if err := d.Bind(patientSchema, true); err != nil {
		t.Fatal(err)
	}
	modes := Modes(patientSchema, d.Cases)
	want := map[string]schema.Cell{"sex": {State: schema.Stated, Value: 1, Raw: "female"}, "age": {State: schema.Stated, Value: 1, Raw: "61"}}
	if diff := cmp.Diff(want, modes); diff != "" {
		t.Error(diff)
	}
	if got := Fill(d.Cases, modes)[2].Attributes; got.Cell("sex").Value != 1 || got.Cell("site").State != schema.Unmentioned || got.Cell("age").Raw != "61" {
		t.Errorf("filled = %v", got)
	}
	if d.Cases[2].Attributes.Cell("sex").State != schema.Unmentioned {
		t.Error("the given cases were changed")
	}
}

func TestBindGivesEveryCaseACellPerAttribute(t *testing.T) {
	d := &Dataset{Cases: []Case{
		{ID: "1", Attributes: written("sex", "Female", "age", "50", "colour", "red")},
		{ID: "2"},
		{ID: "3", Attributes: written("sex", "both", "site", "possibly arm")},
	}}
	copied := d.Cases[0]
	if err := d.Bind(patientSchema, false); err != nil {
		t.Fatal(err)
	}
	c := maps.Collect(d.Cases[0].Attributes.All())
	if len(c) != 3 || c["sex"].Value != 1 || c["age"].Value != 1 || c["site"] != (schema.Cell{Value: -1}) || c["sex"].Origin != "data.csv:7" {
		t.Errorf("bound = %+v", c)
	}
	if copied.Attributes.Cell("sex").Value != 1 {
		t.Error("a copy of the case kept the cells as they were written")
	}
	if d.Cases[1].Attributes.Cell("sex") != (schema.Cell{Value: -1}) || d.Cases[2].Attributes.Cell("site").State != schema.Uncertain {
		t.Errorf("bound = %+v, %+v", d.Cases[1].Attributes, d.Cases[2].Attributes)
	}
	if got := strings.Join(d.Warnings, "\n"); !strings.Contains(got, `attribute "sex": 1 cells`) || !strings.Contains(got, "data.csv:7") {
		t.Errorf("warnings %q", got)
	}
	// A second schema takes the cells over.
	other := &schema.Schema{Attributes: []schema.Attribute{{Name: "age", Kind: schema.Numeric, Values: []string{"under 60", "60 or more"}, Edges: []float64{60}}}}
	if err := d.Bind(other, true); err != nil || d.Cases[0].Attributes.Cell("age").Value != 0 || len(d.AttributeColumns) != 1 {
		t.Errorf("%v, %+v", err, d.Cases[0].Attributes)
	}
}

func TestBindNamesTheCellThatTheSchemaDoesNotKnow(t *testing.T) {
	for text, strict := range map[string]bool{"old": false, "moon": true} {
		name := map[string]string{"old": "age", "moon": "site"}[text]
		d := &Dataset{Cases: []Case{{ID: "d", Attributes: written(name, text)}}}
		err := d.Bind(patientSchema, strict)
		if !errors.Is(err, ErrData) || !strings.Contains(err.Error(), "data.csv:7: "+name) || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: %v; want ErrData with row, column and cell", text, err)
		}
	}
}
