package froc

import (
	"encoding/json"
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/alignedfusion/alignedfusion/eval/resample"
)

// rect is a box 10 wide.
func rect(height float64) Region { return Box(0, 0, 10, height) }

// divided is a bootstrap and a comparison of two systems, made with a division.
func divided(t *testing.T, d *resample.Division) (*Bootstrap, *Comparison, error) {
	t.Helper()
	truth := &Truth{}
	var near, far []Prediction
	for i := range 30 {
		truth.Images = append(truth.Images, Image{ID: fmt.Sprintf("i%d", i), Patient: fmt.Sprintf("p%d", i/2)})
		if i%3 == 0 {
			truth.Lesions = append(truth.Lesions, Lesion{Image: i, Region: rect(10)})
		}
		near = append(near, Prediction{Image: i, Region: rect(9), Score: float64(i%7) / 7})
		far = append(far, Prediction{Image: i, Region: rect(float64(2 + i%9)), Score: float64(i%5) / 5})
	}
	a, err := Evaluate(truth, near, DeepLesion())
	if err != nil {
		t.Fatal(err)
	}
	b, err := Evaluate(truth, far, DeepLesion())
	if err != nil {
		t.Fatal(err)
	}
	o := BootstrapOptions{Replicates: 40, Seed: 3, Method: resample.BCa, Division: d}
	boot, err := a.Bootstrap(o)
	if err != nil {
		return nil, nil, err
	}
	pairs, err := Compare([]Named{{"a", a}, {"b", b}}, CompareOptions{BootstrapOptions: o})
	return boot, pairs, err
}

func TestSharesOfReplicatesGiveTheWholesIntervalsAndPValues(t *testing.T) {
	boot, pairs, err := divided(t, nil)
	if err != nil {
		t.Fatal(err)
	}
	var all [][]resample.Values
	for share := range 3 {
		d := &resample.Division{Share: share, Shares: 3}
		if _, _, err := divided(t, d); err != nil {
			t.Fatal(err)
		}
		text, err := json.Marshal(d.Made)
		if err != nil {
			t.Fatal(err)
		}
		var made []resample.Values
		if err := json.Unmarshal(text, &made); err != nil {
			t.Fatal(err)
		}
		all = append(all, made)
	}
	merged, mergedPairs, err := divided(t, &resample.Division{Shares: 3, All: all})
	if err != nil {
		t.Fatal(err)
	}
	same := cmp.Options{cmpopts.EquateNaNs(), cmpopts.IgnoreFields(BootstrapOptions{}, "Division")}
	if d := cmp.Diff(boot, merged, same); d != "" {
		t.Errorf("intervals differ (-whole +merged):\n%s", d)
	}
	if d := cmp.Diff(pairs, mergedPairs, same); d != "" {
		t.Errorf("comparisons differ (-whole +merged):\n%s", d)
	}
	for name, wrong := range map[string][][]resample.Values{"a share is missing": all[:2], "another order": {all[2], all[0], all[1]}, "a loop is missing": {all[0], all[1], all[2][:1]}} {
		if _, _, err := divided(t, &resample.Division{Shares: 3, All: wrong}); name != "another order" && !errors.Is(err, resample.ErrDivision) {
			t.Errorf("%s: %v, want ErrDivision", name, err)
		}
	}
}
