package main

import (
	"errors"
	"os"
	"regexp"
	"strings"
	"testing"
)

const folds = `{"command": "alignedfusion study missing --out s", "table": {"metric": "balanced_accuracy", "rows": [
	{"rate": 0, "fraction": 1, "method": "none", "figures": {"accuracy": {"mean": 0.6}, "balanced_accuracy": {"mean": 0.5}}},
	{"rate": 0, "fraction": 1, "method": "itfusion", "figures": {"accuracy": {"mean": 0.7}, "balanced_accuracy": {"mean": 0.65}},
	 "test": {"difference": 0.15, "low": -0.012, "high": 0.2}}],
	"reconstruction": [{"method": "itfusion", "rate": 0.5, "attribute": "", "values": 40, "accuracy": 0.6, "ece": 0.02,
	 "ways": [{"name": "mode", "accuracy": 0.55, "method_minus": {"value": 0.05, "low": 0.01, "high": 0.09}}]}]}}`

func reader(name string) ([]byte, error) {
	if name != "folds.json" {
		return nil, errors.New("no such file")
	}
	return []byte(folds), nil
}

func TestBlocksAreMadeFromResults(t *testing.T) {
	page := "# Title\n\n<!-- results: folds.json grid accuracy balanced_accuracy -->\nold\n<!-- end of results -->\n\n" +
		"<!-- results: folds.json recovery -->\n<!-- end of results -->\nend\n"
	want := "# Title\n\n<!-- results: folds.json grid accuracy balanced_accuracy -->\n" +
		"|  | 0 % |\n|---|---|\n| `none` | .600 / .500 |\n| `itfusion` | .700 / .650 (+.150 [−.012, .200]) |\n<!-- end of results -->\n\n" +
		"<!-- results: folds.json recovery -->\n| | values | method | ECE | mode (method minus it) |\n|---|---|---|---|---|\n" +
		"| **all, `itfusion` at 50 %** | 40 | .600 | .020 | .550 (+.050 [.010, .090]) |\n<!-- end of results -->\nend\n"
	want = strings.Replace(want, "| | values", "|  | values", 1)
	got, err := write(page, reader)
	if err != nil || got != want {
		t.Fatalf("%v\n%s\nwant\n%s", err, got, want)
	}
	if again, err := write(got, reader); err != nil || again != got {
		t.Errorf("a second time: %v\n%s", err, again)
	}
}

func TestWhatTheCasesResolveIsHalfOfTheInterval(t *testing.T) {
	got, err := made("folds.json", "resolves", nil, reader)
	if want := "|  | 0 % |\n|---|---|\n| `itfusion` | .106 |\n"; err != nil || got != want {
		t.Errorf("%v\n%s\nwant\n%s", err, got, want)
	}
}

func TestSharesOfThePatientsAreColumns(t *testing.T) {
	few := strings.Replace(folds, `"fraction": 1, "method": "itfusion"`, `"fraction": 0.25, "method": "itfusion"`, 1)
	for kind, want := range map[string]string{
		"grid":     "|  | 100 % | 25 % |\n|---|---|---|\n| `none` | .500 |\n| `itfusion` | .650 (+.150 [−.012, .200]) |\n",
		"resolves": "|  | 25 % |\n|---|---|\n| `itfusion` | .106 |\n",
	} {
		got, err := made("folds.json", kind, []string{"balanced_accuracy"}, func(string) ([]byte, error) { return []byte(few), nil })
		if err != nil || got != want {
			t.Errorf("%s: %v\n%s\nwant\n%s", kind, err, got, want)
		}
	}
}

func TestSensitivitiesOfDetectors(t *testing.T) {
	one := `{"name": "a", "counts": {"lesions": 9}, "operating_points": [{"fppi": 0.5, "sensitivity": 0.7, "ci": [0.6, 0.8]}],
		"mean_sensitivity": 0.7, "mean_sensitivity_ci": [0.61, 0.79]}`
	a, b := "| `a` | 9 | .700 [.600, .800] | .700 [.610, .790] |\n", "| `b` | 9 | .700 [.600, .800] | .700 [.610, .790] (+.010 [−.010, .030]) |\n"
	two := `{"systems": [` + one + "," + strings.Replace(one, `"a"`, `"b"`, 1) +
		`], "comparison": [{"a": "a", "b": "b", "mean_sensitivity": {"difference": 0.01, "ci": [-0.01, 0.03]}}]}`
	for table, want := range map[string]string{one: a, two: a + b} {
		got, err := sensitivities(result{Table: []byte(table)}, nil)
		if want = "|  | lesions | 0.5 FP | mean |\n|---|---|---|---|\n" + want; err != nil || got != want {
			t.Errorf("%v\n%s\nwant\n%s", err, got, want)
		}
	}
}

func TestWhatCannotBeMadeIsSaid(t *testing.T) {
	for page, want := range map[string]string{
		"<!-- results: folds.json -->\n":                                     "want a file and what to make of it",
		"<!-- results: folds.json pie -->\n<!-- end of results -->\n":        `"pie" is none of command`,
		"<!-- results: other.json text -->\n<!-- end of results -->\n":       "no such file",
		"<!-- results: folds.json text -->\n":                                "has no",
		"<!-- end of results -->\n":                                          "without a beginning",
		"<!-- results: folds.json grid macro -->\n<!-- end of results -->\n": "method none has no macro",
	} {
		if _, err := write(page, reader); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", page, err, want)
		}
	}
}

func TestCurvesSayWhatIsAboveTheImageAloneAndHowOftenLessIsSurer(t *testing.T) {
	got, err := curves(result{Table: []byte(`{"curves": [{"method": "none", "rates": [0, 1], "area": {"value": 0.5, "low": 0.4, "high": 0.6}, "steps": {"steps": 4, "cases": 4}},
		{"method": "sum", "rates": [0, 1], "area": {"value": 0.6, "low": 0.5, "high": 0.7}, "minus_image_only": [{"value": 0.2, "low": 0.1, "high": 0.3}, {"value": -0.1, "low": -0.2, "high": 0}],
		 "steps": {"steps": 4, "rising": 1, "cases": 4, "cases_rising": 2, "right_with_fewest_wrong_with_most": 3}}]}`)}, nil)
	for _, want := range []string{"| minus image alone, 0 % | minus image alone, 100 % |", "| `none` | .500 [.400, .600] |  |  | 0.0 % | 0.0 % | 0 of 4 |\n",
		"| `sum` | .600 [.500, .700] | +.200 [.100, .300] | −.100 [−.200, .000] | 25.0 % | 50.0 % | 3 of 4 |\n"} {
		if err != nil || !strings.Contains(got, want) {
			t.Errorf("%v\n%s\nwant %s", err, got, want)
		}
	}
}

func TestAuditsSayWhoIsFoundOut(t *testing.T) {
	run := func(low string) string {
		return `{"name": "a", "audit": {"rows": [{"report": "own", "value": {"value": 0.9}},
			{"report": "without", "change": {"value": -0.4, "low": -0.5, "high": -0.3}}, {"report": "shuffled", "change": {"value": -0.3, "low": -0.4, "high": -0.2}}],
			"interaction": 0.01, "followed": {"report_minus_image": {"value": 0.2, "low": ` + low + `, "high": 0.4}}}}`
	}
	got, err := audits(result{Table: []byte(`{"runs": [` + run("0.1") + "," + run("-0.1") + `]}`)}, nil)
	for _, want := range []string{"| a | .900 | −.400 [−.500, −.300] | −.300 [−.400, −.200] | .010 | +.200 [.100, .400] | yes |\n", "+.200 [−.100, .400] | no |\n"} {
		if err != nil || !strings.Contains(got, want) {
			t.Errorf("%v\n%s\nwant %s", err, got, want)
		}
	}
}

func TestAKeptTableSaysWhereItComesFrom(t *testing.T) {
	one := `{"scored": {"command": "predict", "origin": "Scored elsewhere.", "columns": ["", "0 %"], "rows": [["sum", ".7"]]}, "bare": {"columns": ["a"]}}`
	got, err := kept(result{Table: []byte(one)}, []string{"scored"})
	if want := "|  | 0 % |\n|---|---|\n| sum | .7 |\n\nScored elsewhere.\n"; err != nil || got != want {
		t.Errorf("%v\n%s\nwant\n%s", err, got, want)
	}
	if _, err := kept(result{Table: []byte(one)}, []string{"bare"}); err == nil || !strings.Contains(err.Error(), "an origin") {
		t.Errorf("without an origin: %v", err)
	}
}

// linked is a figure that is a link to its cell.
var linked = regexp.MustCompile(`\[(?:[^\[\]]|\[[^\[\]]*\])*\]\[[^\]]+\]`)

// A row of a table with a figure such as .712 outside of a block was typed by hand, unless it is a link.
func TestNoTableOfFiguresIsTyped(t *testing.T) {
	figure := regexp.MustCompile(`(?m)^\|.*[ *|]\.\d{3}\b`)
	eachProse(t, func(path, prose string) {
		if row := figure.FindString(linked.ReplaceAllString(prose, "")); row != "" {
			t.Errorf("%s: %s…: a table of figures is made of a file of docs/results", path, row)
		}
	})
}

// A figure such as .712 of the prose is a link to its cell; where no file has it, the paragraph says why.
func TestNoFigureOfTheProseIsTyped(t *testing.T) {
	figure, code := regexp.MustCompile(`(?:^|[^\w=.])\.\d{3}\b`), regexp.MustCompile("(?s)```.*?```|`[^`]*`")
	eachProse(t, func(path, prose string) {
		for _, paragraph := range regexp.MustCompile(`\n(?:\s*\n|\s*(?:[*-]|\d+\.) )`).Split(code.ReplaceAllString(prose, ""), -1) {
			paragraph = linked.ReplaceAllString(paragraph, "")
			if typed := figure.FindString(paragraph); typed != "" && !strings.HasPrefix(paragraph, "    ") && !strings.Contains(paragraph, "<!-- by hand:") {
				t.Errorf("%s: %q is typed by hand in\n%s", path, typed, paragraph)
			}
		}
	})
}

// eachProse calls f with what stands outside of the blocks of each page.
func eachProse(t *testing.T, f func(path, prose string)) {
	t.Helper()
	blocks := regexp.MustCompile("(?s)" + begin + ".*?" + end)
	if err := eachPage("../..", func(path, page string) error {
		f(path, blocks.ReplaceAllString(page, ""))
		return nil
	}); err != nil {
		t.Error(err)
	}
}

func TestFiguresOfTheProseAreThoseOfTheirCells(t *testing.T) {
	defined := "\n\n[it]: folds.json \"grid balanced_accuracy | itfusion | 0 %\"\n[d]: results/folds.json \"grid balanced_accuracy | itfusion | 0 % | 2\"\n" +
		"[more]: folds.json \"grid balanced_accuracy | itfusion minus none | 0 %\"\n"
	page := "It has [.1][it], [+.1 [.0,\n.1]][d] or [.7][d] above none, **[+.2][more]**." + defined
	want := "It has [.650][it], [+.150 [−.012, .200]][d] or [.150][d] above none, **[+.150][more]**." + defined
	if got, err := fillFigures(page, reader); err != nil || got != want {
		t.Errorf("%v\n%s\nwant\n%s", err, got, want)
	}
	for where, want := range map[string]string{
		"grid accuracy | sum | 0 %":        `no row "sum"`,
		"grid accuracy | none | 50 %":      `no column "50 %"; there are 0 %`,
		"grid accuracy | none | 0 % | 2":   "has 1 figures, want figure 2",
		"grid accuracy | none | 0 % | two": "want 1 or more",
		"grid accuracy":                    "with bars between",
		"pie | none | 0 %":                 "is none of command",
	} {
		if _, err := fillFigures("[.1][a]\n\n[a]: folds.json \""+where+"\"\n", reader); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", where, err, want)
		}
	}
	if _, err := fillFigures("\n[a]: folds.json \"grid accuracy | none | 0 %\"\n", reader); err == nil || !strings.Contains(err.Error(), "no figure of the page uses it") {
		t.Errorf("not used: %v", err)
	}
}

// README has no blocks: what it says of results stands in the pages that have.
func TestFiguresOfREADMEStandInTheDocs(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	var docs strings.Builder
	for _, path := range []string{"results/demo.md", "results/skin.md", "explanation/a3d.md", "explanation/froc.md"} {
		page, err := os.ReadFile("../../docs/" + path)
		if err != nil {
			t.Fatal(err)
		}
		docs.Write(page)
	}
	for _, figure := range regexp.MustCompile(`(?m)^(?:none|sum|selfattn|itfusion) .*$|[ (]\.\d{3,}`).FindAllString(string(readme), -1) {
		if !strings.Contains(docs.String(), strings.Trim(figure, " (")) {
			t.Errorf("README says %q, which no page of the docs does", figure)
		}
	}
}

func TestPagesAreWhatTheirResultsSay(t *testing.T) {
	if err := run("../..", true); err != nil {
		t.Error(err)
	}
}
