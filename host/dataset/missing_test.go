package dataset

import (
	"fmt"
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func attributeTable(n int) []Case {
	var cases []Case
	for i := range n {
		cases = append(cases, Case{ID: fmt.Sprint("case", i), Attributes: map[string]string{
			"sex": []string{"female", "male", ""}[i%3], "age": fmt.Sprint(20 + i%50), "site": "arm",
		}})
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
			for name := range cases[i].Attributes {
				if few[i].Attributes[name] == "" && many[i].Attributes[name] != "" {
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
			for name, value := range cases[i].Attributes {
				if value == "" {
					continue
				}
				present++
				if got[i].Attributes[name] == "" {
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
	if cases[0].Attributes["sex"] != "female" {
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
	opt := cmp.AllowUnexported(Case{})
	if cmp.Equal(a, b, opt) {
		t.Error("two seeds give one mask")
	}
	if !cmp.Equal(a, again, opt) {
		t.Error("one seed gives two masks")
	}
}

func TestModesFillWhatIsMissing(t *testing.T) {
	cases := []Case{
		{ID: "1", Attributes: map[string]string{"sex": "female", "site": ""}},
		{ID: "2", Attributes: map[string]string{"sex": "male", "site": ""}},
		{ID: "3", Attributes: map[string]string{"sex": "", "site": ""}},
	}
	modes := Modes(cases)
	if diff := cmp.Diff(map[string]string{"sex": "female"}, modes); diff != "" {
		t.Error(diff)
	}
	if got := Fill(cases, modes)[2].Attributes; got["sex"] != "female" || got["site"] != "" {
		t.Errorf("filled = %v", got)
	}
}
