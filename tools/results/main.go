// Command results writes the tables of the docs from what studies left, so that no figure of
// them is typed by hand.
//
//	go run ./tools/results          write them
//	go run ./tools/results -check   fail where a page differs
//
// A page has, on lines of their own,
//
//	<!-- results: skin-folds.json grid accuracy balanced_accuracy -->
//	<!-- end of results -->
//
// and what stands between is made of docs/results/skin-folds.json: {"command": …, "table": the
// table.json of a study, its exchange.json, or what froc or compare --json writes}. Figures whose
// study is no longer on file are in kept.json, each table with where it comes from.
//
// A figure of the prose is a link, [.660][it50], to a definition that names its cell:
//
//	[it50]: skin-five.json "grid balanced_accuracy | itfusion | 50 %"
//
// See figures.go.
package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/alignedfusion/alignedfusion/host/study"
	"github.com/alignedfusion/alignedfusion/host/workflow/predictions"
)

func main() {
	check := flag.Bool("check", false, "change nothing; fail where a page is not what its results say")
	flag.Parse()
	if err := run(".", *check); err != nil {
		fmt.Fprintln(os.Stderr, "results:", err)
		os.Exit(1)
	}
}

// run goes through README.md and every page of docs below root.
func run(root string, check bool) error {
	read := func(name string) ([]byte, error) { return os.ReadFile(filepath.Join(root, "docs/results", name)) }
	return eachPage(root, func(path, page string) error {
		made, err := write(page, read)
		if err == nil {
			made, err = fillFigures(made, read)
		}
		switch {
		case err != nil:
			return fmt.Errorf("%s: %w", path, err)
		case made == page:
			return nil
		case check:
			return fmt.Errorf("%s differs from its results; run `make results`", path)
		}
		return os.WriteFile(path, []byte(made), 0o644)
	})
}

// eachPage calls f with README.md and every page of docs.
func eachPage(root string, f func(path, page string) error) error {
	visit := func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || filepath.Ext(path) != ".md" {
			return err
		}
		page, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return f(path, string(page))
	}
	if err := filepath.WalkDir(filepath.Join(root, "README.md"), visit); err != nil {
		return err
	}
	return filepath.WalkDir(filepath.Join(root, "docs"), visit)
}

const begin, end, closing = "<!-- results: ", "<!-- end of results -->", " -->"

// write fills in the blocks of a page; read returns a file of docs/results.
func write(page string, read func(name string) ([]byte, error)) (string, error) {
	var out strings.Builder
	inside := false
	for line := range strings.Lines(page) {
		text := strings.TrimSuffix(line, "\n")
		switch {
		case text == end:
			if !inside {
				return "", fmt.Errorf("%q without a beginning", end)
			}
			inside = false
		case inside:
			continue
		case strings.HasPrefix(text, begin) && strings.HasSuffix(text, closing):
			fields := strings.Fields(text[len(begin) : len(text)-len(closing)])
			if len(fields) < 2 {
				return "", fmt.Errorf("%q: want a file and what to make of it: %s", text, strings.Join(kinds(), ", "))
			}
			block, err := made(fields[0], fields[1], fields[2:], read)
			if err != nil {
				return "", fmt.Errorf("%s: %w", text, err)
			}
			out.WriteString(line + block)
			inside = true
			continue
		}
		out.WriteString(line)
	}
	if inside {
		return "", fmt.Errorf("a block of results has no %q", end)
	}
	return out.String(), nil
}

// result is a file of docs/results.
type result struct {
	// Command made Table, on the data that Data names.
	Command string          `json:"command"`
	Data    string          `json:"data"`
	Table   json.RawMessage `json:"table"`
}

// made is the text of one block.
func made(name, kind string, arguments []string, read func(name string) ([]byte, error)) (string, error) {
	data, err := read(name)
	if err != nil {
		return "", err
	}
	var r result
	if err := json.Unmarshal(data, &r); err != nil {
		return "", err
	}
	if r.Command == "" && kind != "kept" {
		return "", fmt.Errorf("no command: a result says what made it")
	}
	write, ok := writers[kind]
	if !ok {
		return "", fmt.Errorf("%q is none of %s", kind, strings.Join(kinds(), ", "))
	}
	return write(r, arguments)
}

func kinds() []string {
	var names []string
	for name := range writers {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// writers are what can be made of a result, by name.
var writers = map[string]func(result, []string) (string, error){
	// command is the command that made it.
	"command": func(r result, _ []string) (string, error) {
		return "\n    " + strings.ReplaceAll(r.Command, "\n", "\n    ") + "\n\n", nil
	},
	// text is what the study prints.
	"text": func(r result, _ []string) (string, error) {
		var b bytes.Buffer
		t, err := decode[study.Table](r)
		if err == nil {
			err = t.Write(&b, "")
		}
		return "```\n" + b.String() + "```\n", err
	},
	"grid":      grid,
	"curves":    curves,
	"resolves":  resolves,
	"recovery":  recovery,
	"exchange":  exchange,
	"froc":      sensitivities,
	"kept":      kept,
	"shortcuts": audits,
}

func decode[T any](r result) (*T, error) {
	var t T
	err := json.Unmarshal(r.Table, &t)
	return &t, err
}

// short is a figure as the tables of the docs have it: .712.
func short(v study.Number) string {
	return strings.Replace(fmt.Sprintf("%.3f", float64(v)), "0.", ".", 1)
}

func signed(b study.Bounded) string {
	sign := "+"
	if b.Value < 0 {
		sign, b.Value = "−", -b.Value
	}
	bound := func(v study.Number) string { return strings.Replace(short(v), "-", "−", 1) }
	return fmt.Sprintf("%s%s [%s, %s]", sign, short(b.Value), bound(b.Low), bound(b.High))
}

// rows joins cells to a table in Markdown.
func rows(table [][]string) string {
	var b strings.Builder
	for i, row := range table {
		b.WriteString("| " + strings.Join(row, " | ") + " |\n")
		if i == 0 {
			b.WriteString(strings.Repeat("|---", len(row)) + "|\n")
		}
	}
	return b.String()
}

// grid has a row per method and a column per missing rate, or per share of the training patients:
// the metrics that are named, and the difference from the baseline where it was tested.
func grid(r result, metrics []string) (string, error) {
	t, err := decode[study.Table](r)
	if err != nil {
		return "", err
	}
	head := []string{""}
	var methods []string
	for i, row := range t.Rows {
		if column := t.Column(&t.Rows[i]); !slices.Contains(head, column) {
			head = append(head, column)
		}
		if !slices.Contains(methods, row.Method) {
			methods = append(methods, row.Method)
		}
	}
	table := [][]string{head}
	for _, m := range methods {
		line := []string{"`" + m + "`"}
		for _, row := range t.Rows {
			if row.Method != m {
				continue
			}
			var figures []string
			for _, metric := range metrics {
				f, ok := row.Figures[metric]
				if !ok {
					return "", fmt.Errorf("method %s has no %s", m, metric)
				}
				figures = append(figures, short(f.Mean))
			}
			text := strings.Join(figures, " / ")
			if row.Test != nil && slices.Contains(metrics, t.Metric) {
				text += " (" + signed(study.Bounded{Value: row.Test.Difference, Low: row.Test.Low, High: row.Test.High}) + ")"
			}
			line = append(line, text)
		}
		table = append(table, line)
	}
	return rows(table), nil
}

// resolves has the smallest difference from the baseline that the cases can resolve: half of the
// interval's width.
func resolves(r result, _ []string) (string, error) {
	t, err := decode[study.Table](r)
	if err != nil {
		return "", err
	}
	table := [][]string{{""}}
	for k, row := range t.Rows {
		if row.Test == nil {
			continue
		}
		if column := t.Column(&t.Rows[k]); !slices.Contains(table[0], column) {
			table[0] = append(table[0], column)
		}
		i := slices.IndexFunc(table, func(line []string) bool { return line[0] == "`"+row.Method+"`" })
		if i < 0 {
			i, table = len(table), append(table, []string{"`" + row.Method + "`"})
		}
		table[i] = append(table[i], short((row.Test.High-row.Test.Low)/2))
	}
	return rows(table), nil
}

// curves has a row per method that was predicted at several rates: what it is above the image
// alone at each, and how often fewer attributes make it surer of the truth.
func curves(r result, _ []string) (string, error) {
	t, err := decode[study.Table](r)
	if err != nil {
		return "", err
	}
	if len(t.Curves) == 0 {
		return "", fmt.Errorf("no curves")
	}
	table := [][]string{{"", "mean over the rates"}}
	for _, rate := range t.Curves[0].Rates {
		table[0] = append(table[0], fmt.Sprintf("minus image alone, %g %%", 100*rate))
	}
	expected := slices.ContainsFunc(t.Curves, func(c study.Curve) bool { return c.Steps.Expected > 0 })
	table[0] = append(table[0], "steps that rise")
	if expected {
		table[0] = append(table[0], "if calibrated")
	}
	table[0] = append(table[0], "cases with one", "right without, wrong with")
	for _, c := range t.Curves {
		line := []string{"`" + c.Method + "`", fmt.Sprintf("%s [%s, %s]", short(c.Area.Value), short(c.Area.Low), short(c.Area.High))}
		for i := range c.Rates {
			text := ""
			if i < len(c.ImageOnly) {
				text = signed(c.ImageOnly[i])
			}
			line = append(line, text)
		}
		percent := func(part float64, whole int) string { return fmt.Sprintf("%.1f %%", 100*part/float64(whole)) }
		line = append(line, percent(float64(c.Steps.Rising), c.Steps.Steps))
		if expected {
			line = append(line, percent(c.Steps.Expected, c.Steps.Steps))
		}
		table = append(table, append(line, percent(float64(c.Steps.CasesRising), c.Steps.Cases),
			fmt.Sprintf("%d of %d", c.Steps.WrongWithMore, c.Steps.Cases)))
	}
	return rows(table), nil
}

// recovery has a row per attribute of the methods that are named, or of all.
func recovery(r result, methods []string) (string, error) {
	t, err := decode[study.Table](r)
	if err != nil {
		return "", err
	}
	table := [][]string{{"", "values", "method", "ECE"}}
	for _, one := range t.Reconstruction {
		if len(methods) > 0 && !slices.Contains(methods, one.Method) {
			continue
		}
		if len(table) == 1 {
			for _, way := range one.Ways {
				table[0] = append(table[0], way.Name+" (method minus it)")
			}
		}
		name := one.Attribute
		if name == "" {
			name = fmt.Sprintf("**all, `%s` at %g %%**", one.Method, 100*one.Rate)
		}
		ece := short(one.ECE)
		if one.Calibrated.High > 0 {
			table[0][3] = "ECE (if calibrated: mean, 95 %)"
			ece += fmt.Sprintf(" (%s, %s)", short(one.Calibrated.Mean), short(one.Calibrated.High))
		}
		line := []string{name, fmt.Sprint(one.Values), short(one.Accuracy), ece}
		for _, way := range one.Ways {
			line = append(line, fmt.Sprintf("%s (%s)", short(way.Accuracy), signed(way.Difference)))
		}
		table = append(table, line)
	}
	return rows(table), nil
}

// exchange has a row per fusion and a column per set.
func exchange(r result, _ []string) (string, error) {
	t, err := decode[study.ExchangeTable](r)
	if err != nil {
		return "", err
	}
	table := [][]string{{""}}
	for _, d := range t.Dials {
		table[0] = append(table[0], fmt.Sprintf("%s, %d noise tokens", d.Context, d.NoiseTokens))
	}
	for i, first := range t.Dials[0].Table.Rows {
		line := []string{"`" + first.Method + "`"}
		for _, d := range t.Dials {
			row := d.Table.Rows[i]
			text := short(row.Figures[d.Table.Metric].Mean)
			if row.Test != nil {
				text += " (" + signed(study.Bounded{Value: row.Test.Difference, Low: row.Test.Low, High: row.Test.High}) + ")"
			}
			line = append(line, text)
		}
		table = append(table, line)
	}
	return rows(table), nil
}

// audits has a row per run of study shortcuts: what its answers owe to the report.
func audits(r result, _ []string) (string, error) {
	t, err := decode[struct {
		Runs []struct {
			Name  string                `json:"name"`
			Audit predictions.Shortcuts `json:"audit"`
		} `json:"runs"`
	}](r)
	if err != nil {
		return "", err
	}
	change := func(e predictions.Estimate) string {
		return signed(study.Bounded{Value: e.Value, Low: e.Low, High: e.High})
	}
	table := [][]string{{"", "own report", "without", "another patient's", "interaction", "that patient's truth minus the image's", "found out"}}
	for _, run := range t.Runs {
		a := run.Audit
		line := []string{run.Name, short(a.Rows[0].Value.Value)}
		for _, row := range a.Rows[1:3] {
			line = append(line, change(*row.Change))
		}
		found := "no"
		if a.Followed.ReportAlone() {
			found = "yes"
		}
		table = append(table, append(line, short(a.Interaction), change(a.Followed.Difference), found))
	}
	return rows(table), nil
}

// kept is a table whose study is no longer on file, or that was scored elsewhere: its figures are
// in the file as they were read, and the page says where they come from.
func kept(r result, arguments []string) (string, error) {
	all, err := decode[map[string]struct {
		Command, Origin string
		Columns         []string
		Rows            [][]string
	}](r)
	if err != nil {
		return "", err
	}
	if len(arguments) != 1 {
		return "", fmt.Errorf("want the name of one table")
	}
	one, ok := (*all)[arguments[0]]
	if !ok || one.Command == "" || one.Origin == "" {
		return "", fmt.Errorf("table %s: want it with a command and an origin", arguments[0])
	}
	return rows(append([][]string{one.Columns}, one.Rows...)) + "\n" + one.Origin + "\n", nil
}

// detectors is what froc and compare write with --json: of one system at the top level.
type detectors struct {
	detector
	Systems    []detector `json:"systems"`
	Comparison []struct {
		B    string     `json:"b"`
		Mean difference `json:"mean_sensitivity"`
	} `json:"comparison"`
}

type detector struct {
	Name   string `json:"name"`
	Counts struct {
		Lesions int `json:"lesions"`
	} `json:"counts"`
	Points []struct {
		FPPI        float64         `json:"fppi"`
		Sensitivity study.Number    `json:"sensitivity"`
		CI          [2]study.Number `json:"ci"`
	} `json:"operating_points"`
	Mean study.Number    `json:"mean_sensitivity"`
	CI   [2]study.Number `json:"mean_sensitivity_ci"`
}

type difference struct {
	Value study.Number    `json:"difference"`
	CI    [2]study.Number `json:"ci"`
}

// sensitivities has a row per detector and a column per number of false positives, and what
// it is above the first detector on average.
func sensitivities(r result, _ []string) (string, error) {
	t, err := decode[detectors](r)
	if err != nil {
		return "", err
	}
	if t.Systems == nil {
		t.Systems = []detector{t.detector}
	}
	within := func(v study.Number, ci [2]study.Number) string {
		return fmt.Sprintf("%s [%s, %s]", short(v), short(ci[0]), short(ci[1]))
	}
	table := [][]string{{"", "lesions"}}
	for _, p := range t.Systems[0].Points {
		table[0] = append(table[0], fmt.Sprintf("%g FP", p.FPPI))
	}
	table[0] = append(table[0], "mean")
	for _, s := range t.Systems {
		line := []string{"", fmt.Sprint(s.Counts.Lesions)}
		if s.Name != "" {
			line[0] = "`" + s.Name + "`"
		}
		for _, p := range s.Points {
			line = append(line, within(p.Sensitivity, p.CI))
		}
		mean := within(s.Mean, s.CI)
		for _, c := range t.Comparison {
			if c.B == s.Name {
				mean += " (" + signed(study.Bounded{Value: c.Mean.Value, Low: c.Mean.CI[0], High: c.Mean.CI[1]}) + ")"
			}
		}
		table = append(table, append(line, mean))
	}
	return rows(table), nil
}
