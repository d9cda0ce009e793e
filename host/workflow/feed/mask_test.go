package feed

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/alignedfusion/alignedfusion/host/config"
	"github.com/alignedfusion/alignedfusion/host/dataset"
	"github.com/alignedfusion/alignedfusion/host/report/embed"
	"github.com/alignedfusion/alignedfusion/host/report/schema"
	"github.com/alignedfusion/alignedfusion/sdk"
)

// configuration is a task's own, changed by settings.
func configuration(t *testing.T, task string, sets ...string) *config.Config {
	t.Helper()
	c, err := config.New(task)
	if err != nil {
		t.Fatal(err)
	}
	c.Data = "boxes:x"
	for _, s := range sets {
		if err := c.Set(s); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Resolve(); err != nil {
		t.Fatal(err)
	}
	return c
}

// spoiled counts the values that are left per split after MaskAttributes on 200 cases of 4
// values in each split.
func spoiled(t *testing.T, rate *float64, sets ...string) map[string]int {
	t.Helper()
	c := configuration(t, config.Classify, sets...)
	d := &dataset.Dataset{}
	for _, split := range []string{"train", "val", "test"} {
		for i := range 200 {
			d.Cases = append(d.Cases, dataset.Case{ID: fmt.Sprint(split, i), Split: split,
				Attributes: written("a", "1", "b", "2", "c", "3", "d", "4", "none", "")})
		}
	}
	if err := MaskAttributes(d, c, rate); err != nil {
		t.Fatal(err)
	}
	left := map[string]int{}
	for _, c := range d.Cases {
		for _, v := range c.Attributes.All() {
			if v.State != schema.Unmentioned {
				left[c.Split]++
			}
		}
	}
	return left
}

func TestEverySplitLosesItsShareOfTheValues(t *testing.T) {
	about := func(n, want int) bool { return n > want-60 && n < want+60 } // 4 standard deviations at most
	left := spoiled(t, nil, "data.missing_train=0.5", "data.missing_test=0.25")
	if !about(left["train"], 400) || !about(left["val"], 400) || !about(left["test"], 600) {
		t.Errorf("training 0.5, test 0.25: %v of 800 are left; validation has the training's rate", left)
	}
	left = spoiled(t, nil, "data.missing_train=0.5", "data.missing_test=0.25")
	if !about(left["train"], 400) || !about(left["test"], 600) {
		t.Errorf("training 0.5, test 0.25: %v of 800 are left", left)
	}
	left = spoiled(t, nil, "data.missing_train=0.5", "data.missing_validation=0")
	if !about(left["train"], 400) || left["val"] != 800 || left["test"] != 800 {
		t.Errorf("training 0.5, validation 0: %v of 800 are left", left)
	}
	quarter := 0.25
	left = spoiled(t, &quarter, "data.missing_train=0.5", "data.missing_test=0.25")
	if !about(left["train"], 600) || !about(left["val"], 600) || !about(left["test"], 600) {
		t.Errorf("one rate for all, 0.25: %v of 800 are left", left)
	}
}

func TestSmallerFractionsHoldWholePatientsOfTheLarger(t *testing.T) {
	var cases []dataset.Case
	for i := range 100 {
		c := dataset.Case{ID: fmt.Sprint("c", i), Patient: fmt.Sprint("p", i%40)}
		if i >= 80 {
			c.Patient = "" // 20 cases that are their own patient: 60 patients
		}
		cases = append(cases, c)
	}
	patients := func(cases []dataset.Case) []string {
		var out []string
		for _, c := range cases {
			if c.Patient == "" {
				c.Patient = c.ID
			}
			out = append(out, c.Patient)
		}
		slices.Sort(out)
		return slices.Compact(out)
	}
	larger := cases
	for _, share := range []float64{1, 0.5, 0.25, 0.1} {
		kept := fraction(cases, share, 7)
		if got, want := len(patients(kept)), int(60*share); got != want {
			t.Errorf("share %v keeps %d patients, want %d", share, got, want)
		}
		for _, p := range patients(kept) {
			if !slices.Contains(patients(larger), p) {
				t.Errorf("share %v has patient %s, the larger share has not", share, p)
			}
		}
		for _, c := range cases {
			in := slices.ContainsFunc(kept, func(k dataset.Case) bool { return k.ID == c.ID })
			if c.Patient != "" && in != slices.Contains(patients(kept), c.Patient) {
				t.Errorf("share %v: patient %s is cut in two", share, c.Patient)
			}
		}
		larger = kept
	}
	if cmp.Equal(patients(fraction(cases, 0.25, 7)), patients(fraction(cases, 0.25, 8))) {
		t.Error("two seeds chose the same patients")
	}
}

func TestBalancedClassesWeighAlike(t *testing.T) {
	var cases []dataset.Case
	for i, label := range []int{0, 0, 0, 0, 0, 0, 1, 1, 3, -1} {
		cases = append(cases, dataset.Case{ID: fmt.Sprint(i), Labels: map[string]int{"label": label}})
	}
	sets := []sdk.LabelSet{{Name: "label", Classes: []string{"a", "b", "absent", "d"}}}
	balance(sets, cases)
	// 9 known labels, 3 classes that occur: 9/(3·6), 9/(3·2), none, 9/(3·1).
	if diff := cmp.Diff([]float64{0.5, 1.5, 0, 3}, sets[0].ClassWeights); diff != "" {
		t.Error(diff)
	}
}

// The stages see "missing" as one more value, or nothing but present and missing.
func TestMissingBecomesAValue(t *testing.T) {
	s := &schema.Schema{Attributes: []schema.Attribute{
		{Name: "age", Kind: schema.Numeric, Values: []string{"under 50", "50 or more"}, Edges: []float64{50}, Ordinal: true},
		{Name: "itch", Kind: schema.Binary, Values: []string{"no", "yes"}},
		{Name: "region", Kind: schema.Categorical, Values: []string{"arm", "face"}},
	}}
	cases := []dataset.Case{{ID: "full", Attributes: written("age", "55", "itch", "0", "region", "face")},
		{ID: "empty", Attributes: written()}, {ID: "odd", Attributes: written("region", "moon", "itch", "-1")}}
	bind(t, s, cases)
	type told struct {
		States  []int8
		Values  []int64
		Prompts []string
	}
	for impute, want := range map[config.Impute]map[string]told{
		"none": {
			"full":  {[]int8{1, 2, 1}, []int64{1, 0, 1}, []string{"age: 50 or more.", "itch: no.", "region: face."}},
			"empty": {[]int8{0, 0, 0}, []int64{-1, -1, -1}, []string{"", "", ""}},
			"odd":   {[]int8{0, 3, 1}, []int64{-1, 1, -1}, []string{"", "itch: possibly yes.", "region: moon."}},
		},
		"category": {
			"full":  {[]int8{1, 1, 1}, []int64{1, 0, 1}, []string{"age: 50 or more.", "itch: no.", "region: face."}},
			"empty": {[]int8{1, 1, 1}, []int64{2, 2, 2}, []string{"age: (missing).", "itch: (missing).", "region: (missing)."}},
			"odd":   {[]int8{1, 3, 1}, []int64{2, 1, -1}, []string{"age: (missing).", "itch: possibly yes.", "region: moon."}},
		},
		"pattern": {
			"full":  {[]int8{1, 1, 1}, []int64{0, 0, 0}, []string{"age: present.", "itch: present.", "region: present."}},
			"empty": {[]int8{1, 1, 1}, []int64{1, 1, 1}, []string{"age: (missing).", "itch: (missing).", "region: (missing)."}},
			"odd":   {[]int8{1, 1, 1}, []int64{1, 0, 0}, []string{"age: (missing).", "itch: present.", "region: present."}},
		},
	} {
		r, err := NewReports(s, cases, hashed(t, 8), embed.Cache{}, impute)
		if err != nil {
			t.Fatal(err)
		}
		for id, w := range want {
			var got told
			for k, cell := range r.Cells(id) {
				got.States, got.Values = append(got.States, int8(cell.State)), append(got.Values, int64(cell.Value))
				got.Prompts = append(got.Prompts, schema.Prompt(r.stages.Attributes[k], cell))
			}
			if diff := cmp.Diff(w, got); diff != "" {
				t.Errorf("%s, case %s: %s", impute, id, diff)
			}
		}
		if got, want := r.ValueEmbeddings.Shape[1], map[config.Impute]int64{"none": 2, "category": 3, "pattern": 2}[impute]; got != want {
			t.Errorf("%s: value sets of %d, want %d", impute, got, want)
		}
	}
}
