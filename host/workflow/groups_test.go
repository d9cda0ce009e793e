package workflow

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/alignedfusion/alignedfusion/host/config"
	"github.com/alignedfusion/alignedfusion/host/dataset"
	"github.com/alignedfusion/alignedfusion/host/runs"
	"github.com/alignedfusion/alignedfusion/host/workflow/predictions"
	"github.com/alignedfusion/alignedfusion/internal/table"
	"github.com/alignedfusion/alignedfusion/sdk"
)

// What is said of the patches of a slide is joined to an answer to the slide, which has the truth
// that its patches share; slides whose patches differ are counted and have none.
func TestAnswersToPatchesAreComparedBySlideAndPatient(t *testing.T) {
	labels := []sdk.LabelSet{{Name: "label", Classes: []string{"no", "yes"}}, {Name: "size", Question: sdk.AsksNumber}}
	var all []predictions.Prediction
	for _, c := range []struct {
		id, slide, patient string
		label              int
		p, size            float64
	}{{"a1", "a", "P1", 1, 0.9, 4}, {"b1", "b", "P1", 0, 0.2, 4}, {"a2", "a", "P1", 1, 0.4, 6}, {"c1", "c", "P2", 0, 0.1, 8}, {"a3", "a", "P1", 1, 0.4, 8}} {
		all = append(all, predictions.Prediction{Probabilities: [][]float64{{1 - c.p, c.p}, {c.size}},
			Case: &dataset.Case{ID: c.id, Stack: c.slide, Patient: c.patient, Labels: map[string]int{"label": c.label}, Measured: map[string]dataset.Measured{"size": {Value: 5}}}})
	}
	for _, c := range []struct {
		per          string
		vote         bool
		truth, given string
		note         string
	}{
		{predictions.PerSlide, false, "a yes 5, b no 5, c no 5", "a yes 6, b no 4, c no 8", ""},
		{predictions.PerSlide, true, "a yes 5, b no 5, c no 5", "a no 6, b no 4, c no 8", ""},
		{predictions.PerPatient, false, "P1  5, P2 no 5", "P1 no 5.5, P2 no 8", "1 of 2 patients have cases that differ in what is true of them, and are left out"},
	} {
		run, joined := t.TempDir(), t.TempDir()
		if err := predictions.Save(run, "test", predictions.Set{Task: config.Classify, Labels: labels, Predictions: all}); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(run, runs.ConfigFile), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		o := CompareOptions{Split: "test", Per: c.per, Vote: c.vote, Systems: []System{{Name: "one", Path: run}}}
		note, err := o.group([]*RunFiles{{Config: &config.Config{Wiring: config.Wiring{Task: config.Classify}}, Labels: labels}}, joined)
		if err != nil {
			t.Fatal(err)
		}
		if note != c.note {
			t.Errorf("per %s: note %q, want %q", c.per, note, c.note)
		}
		text := func(path string, columns ...string) (out string) {
			read, err := table.Read(path)
			if err != nil {
				t.Fatal(err)
			}
			for i, r := range read.Rows {
				if i > 0 {
					out += ", "
				}
				for k, column := range columns {
					if k > 0 {
						out += " "
					}
					out += read.Get(r, column)
				}
			}
			return out
		}
		dir := o.Systems[0].dir("test")
		if diff := cmp.Diff([]string{c.truth, c.given}, []string{text(filepath.Join(dir, predictions.TruthFile), "id", "label.label", "value.size"),
			text(o.Systems[0].predictions("test"), "id", "predicted.label", "value.size")}); diff != "" {
			t.Errorf("per %s, vote %v: %s", c.per, c.vote, diff)
		}
	}
}
