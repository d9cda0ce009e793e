package corpus

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/alignedfusion/alignedfusion/host/report"
	"github.com/alignedfusion/alignedfusion/host/report/rules"
	"github.com/alignedfusion/alignedfusion/host/report/schema"
	"github.com/alignedfusion/alignedfusion/internal/realdata"
	"github.com/alignedfusion/alignedfusion/internal/table"
)

func TestScoreIsPrecisionRecallAndTheirHarmonicMean(t *testing.T) {
	// GenConText's counts on the kit give its published figures.
	s := NewScore(480, 8, 11)
	for name, c := range map[string][2]float64{"precision": {s.Precision, 98.36}, "recall": {s.Recall, 97.76}, "F1": {s.F1, 98.06}} {
		if math.Abs(c[0]-c[1]) > 0.005 {
			t.Errorf("%s %.3f, want %.2f", name, c[0], c[1])
		}
	}
	data, err := json.Marshal(NewScore(0, 0, 0))
	if err != nil || !strings.Contains(string(data), `"precision":null`) {
		t.Errorf("%s %v", data, err)
	}
}

func TestNegExKit(t *testing.T) {
	items, err := ReadNegEx(realdata.Path(t, "reports", "negex/rsAnnotations-1-120-random.txt"))
	if err != nil {
		t.Fatal(err)
	}
	engine, err := rules.DefaultEngine()
	if err != nil {
		t.Fatal(err)
	}
	r := EvaluateNegEx(engine, items)
	if r.Sentences != 2376 || r.Negation.TP+r.Negation.FN != 491 {
		t.Fatalf("%d sentences with %d negations, want 2376 with 491", r.Sentences, r.Negation.TP+r.Negation.FN)
	}
	// GenConText published 98.06 on the same file, GenNegEx 1.2 94.67 for the other.
	if r.Negation.F1 < 99.3 {
		t.Errorf("negation F1 %.2f, want at least 99.3", r.Negation.F1)
	}
	if r.WithPossible.F1 < 94.67 {
		t.Errorf("negation F1 with possible as negated %.2f, want at least 94.67", r.WithPossible.F1)
	}
	if r.Temporality.Accuracy < 95 || r.Experiencer.Accuracy < 99.5 {
		t.Errorf("temporality %.2f, experiencer %.2f", r.Temporality.Accuracy, r.Experiencer.Accuracy)
	}
}

// TestOpenIFindings scores the training part of OpenI in five parts, once from its columns
// of findings and impression, once with all sections in one text under their headings. -v
// prints the figures of docs/how-to/attributes.md.
func TestOpenIFindings(t *testing.T) {
	gold, err := ReadGold(realdata.Path(t, "reports", "openi/gold_train.csv"))
	if err != nil {
		t.Fatal(err)
	}
	path := realdata.Path(t, "reports", "openi/indiana_reports.csv")
	split, err := report.Read(report.Source{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	x, err := rules.Open(rules.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for name, reports := range map[string][]report.Report{"columns": split, "one text": oneText(t, path)} {
		table, err := x.Table(context.Background(), nil, reports)
		if err != nil {
			t.Fatal(err)
		}
		r, err := EvaluateFindings(*table, gold)
		if err != nil {
			t.Fatal(err)
		}
		parts := make([]float64, len(r.Folds))
		for k, f := range r.Folds {
			parts[k] = f.F1
		}
		t.Logf("%s: micro F1 %.2f (%.1f), parts %.1f (%.1f)", name, r.Micro.F1, r.MicroCI, parts, r.FoldCIs)
		if r.Reports != 3080 || r.Micro.F1 < 95 {
			t.Errorf("%s: %d reports, micro F1 %.2f; want 3080 and at least 95", name, r.Reports, r.Micro.F1)
		}
		for _, f := range r.PerFinding {
			t.Logf("%s: %-20s P %.1f R %.1f F1 %.1f (%d)", name, f.Finding, f.Precision, f.Recall, f.F1, f.TP+f.FN)
			if f.TP+f.FN >= 10 && f.F1 < 85 {
				t.Errorf("%s: %s: F1 %.2f, want at least 85", name, f.Finding, f.F1)
			}
		}
	}
}

// oneText are the reports with all sections in one text, as most hospitals export them.
func oneText(t *testing.T, path string) []report.Report {
	t.Helper()
	raw, err := table.Read(path)
	if err != nil {
		t.Fatal(err)
	}
	var reports []report.Report
	for _, row := range raw.Rows {
		var b strings.Builder
		for _, name := range []string{"indication", "comparison", "findings", "impression"} {
			fmt.Fprintf(&b, "%s: %s\n", strings.ToUpper(name), raw.Get(row, name))
		}
		reports = append(reports, report.Report{ID: raw.Get(row, "uid"), Sections: []report.Section{{Name: "report", Text: b.String()}}})
	}
	return reports
}

func labelled(states map[string]schema.State) report.Table {
	s := schema.Schema{Attributes: []schema.Attribute{{Name: "Mass", Kind: schema.Binary, Values: []string{"no", "yes"}}, {Name: "normal", Kind: schema.Binary, Values: []string{"no", "yes"}}}}
	t := report.Table{Schema: s}
	for _, id := range []string{"1", "2", "3", "4"} {
		t.IDs = append(t.IDs, id)
		t.Cells = append(t.Cells, []schema.Cell{{State: states[id]}, {State: schema.Stated}})
	}
	return t
}

func TestFindingsAreScoredStatedAgainstTheRest(t *testing.T) {
	got := labelled(map[string]schema.State{"1": schema.Stated, "2": schema.Stated, "3": schema.Uncertain})
	gold := Gold{Findings: []string{"Mass", "normal"}, IDs: []string{"CXR1", "CXR2", "CXR3", "CXR4"}, Labels: [][]bool{{true, true}, {false, true}, {true, true}, {true, true}}}
	r, err := EvaluateFindings(got, gold)
	if err != nil {
		t.Fatal(err)
	}
	m, u := r.Micro, r.MicroUncertain
	if m.TP != 1 || m.FP != 1 || m.FN != 2 || u.TP != 2 || u.FN != 1 {
		t.Errorf("strict %+v, uncertain as present %+v", m, u)
	}
	if r.PerFinding[1].TP != 4 || r.MacroF1 != m.F1 {
		t.Errorf("normal is pooled: %+v", r)
	}
	total := 0
	for _, f := range r.Folds {
		total += f.TP + f.FN
	}
	// Of one report right, one false, two missed: F1 is 0 where the right one is not drawn.
	if ci := r.MicroCI; ci[0] != 0 || ci[1] <= m.F1 || len(r.FoldCIs) != len(r.Folds) {
		t.Errorf("interval %v of %.1f, parts %v", ci, m.F1, r.FoldCIs)
	}
	if total != 3 {
		t.Errorf("parts hold %d positives, want 3", total)
	}
	gold.IDs[0] = "CXR9"
	if _, err := EvaluateFindings(got, gold); err == nil {
		t.Error("a gold report without prediction was passed over")
	}
	gold.Findings[0] = "Fracture"
	if _, err := EvaluateFindings(got, gold); err == nil {
		t.Error("a gold finding without column was passed over")
	}
}

func TestLocateTakesTheMentionInCapitals(t *testing.T) {
	for _, c := range []struct {
		sentence, condition string
		want                string
	}{
		{"Edema and EDEMA again.", "edema", "EDEMA"},
		{"Neck supple,   NONTENDER.", "neck supple,  nontender", "Neck supple,   NONTENDER"},
		{"ALLERGIES:  no known ALLERGIES.", "allergies", "ALLERGIES"},
		{"MASSES AT THE RESECTIONto suggest", "masses at the resection", "MASSES AT THE RESECTIONto"},
		{"Nothing here.", "edema", ""},
	} {
		tokens, span, ok := Locate(c.sentence, c.condition)
		got := ""
		if ok {
			got = c.sentence[tokens[span.Start].Start:tokens[span.End-1].End]
		}
		if got != c.want {
			t.Errorf("%q in %q: %q, want %q", c.condition, c.sentence, got, c.want)
		}
	}
}

func TestCorporaRefuseBadFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	for _, content := range []string{"", "head\n", "head\na\tb\n"} {
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadNegEx(path); err == nil {
			t.Errorf("negex: %q accepted", content)
		}
	}
	for _, content := range []string{"", "id\n", "id,Mass\n1,2\n", "id,Mass\n1\n"} {
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadGold(path); err == nil {
			t.Errorf("gold: %q accepted", content)
		}
	}
	if _, err := ReadNegEx(path + "x"); err == nil {
		t.Error("a missing file was accepted")
	}
	if _, err := ReadGold(path + "x"); err == nil {
		t.Error("a missing file was accepted")
	}
}
