package corpus

import (
	"context"
	"fmt"
	"hash/fnv"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strings"

	"github.com/alignedfusion/alignedfusion/host/report"
	"github.com/alignedfusion/alignedfusion/host/report/rules"
	"github.com/alignedfusion/alignedfusion/host/report/schema"
	"github.com/alignedfusion/alignedfusion/internal/problem"
	"github.com/alignedfusion/alignedfusion/internal/stat"
	"github.com/alignedfusion/alignedfusion/internal/table"
)

// Gold holds binary labels of findings per report.
type Gold struct {
	Findings []string
	IDs      []string
	Labels   [][]bool // [report][finding]
}

// ReadGold reads a CSV file whose first column names the report and whose other
// columns are findings with 0 or 1.
func ReadGold(path string) (Gold, error) {
	t, err := table.Read(path)
	if err != nil {
		return Gold{}, fmt.Errorf("gold labels: %w", err)
	}
	if len(t.Columns) < 2 {
		return Gold{}, fmt.Errorf("gold labels: %s: want a header with the report's name and at least one finding", path)
	}
	g := Gold{Findings: t.Columns[1:]}
	for _, r := range t.Rows {
		labels := make([]bool, len(g.Findings))
		for i, v := range t.Cells(r)[1:] {
			if v != "0" && v != "1" {
				return Gold{}, fmt.Errorf("gold labels: %w", problem.At(path, r.Line, g.Findings[i], "is neither 0 nor 1"))
			}
			labels[i] = v == "1"
		}
		g.IDs = append(g.IDs, t.Get(r, t.Columns[0]))
		g.Labels = append(g.Labels, labels)
	}
	return g, nil
}

// folds is the number of parts that figures are also given on. The rules were
// written with the reports of the first four in view and scored on the last one
// only when they were done.
const folds = 5

// Fold returns the part a report belongs to: FNV-1a (32 bit) of its name, mod 5.
func Fold(id string) int {
	h := fnv.New32a()
	h.Write([]byte(id))
	return int(h.Sum32() % folds)
}

// FindingsResult holds the figures of extracted findings against gold labels.
type FindingsResult struct {
	Reports    int            `json:"reports"`
	PerFinding []FindingScore `json:"per_finding"`
	// Micro pools all findings but "normal"; Normal is in PerFinding.
	Micro Score `json:"micro"`
	// MicroUncertain counts uncertain findings as present.
	MicroUncertain Score `json:"micro_uncertain_counted_as_present"`
	// MacroF1 is the mean F1 of the findings with at least one positive report.
	MacroF1 float64 `json:"macro_f1"`
	// MicroCI is the 95 % interval of Micro.F1, bootstrapped over reports.
	MicroCI [2]float64 `json:"micro_f1_ci95"`
	// Folds are the micro scores of five parts by hash of the report's name, FoldCIs their intervals.
	Folds   []Score      `json:"micro_by_fold"`
	FoldCIs [][2]float64 `json:"micro_f1_ci95_by_fold"`
}

// FindingScore is one finding's score: stated against all else.
type FindingScore struct {
	Finding string `json:"finding"`
	Score
	Uncertain Score `json:"uncertain_counted_as_present"`
}

// MarshalJSON puts the finding beside its figures.
func (f FindingScore) MarshalJSON() ([]byte, error) {
	head, err := f.Score.MarshalJSON()
	if err != nil {
		return nil, err
	}
	tail, err := f.Uncertain.MarshalJSON()
	if err != nil {
		return nil, err
	}
	return fmt.Appendf(nil, `{"finding":%q,%s,"uncertain_counted_as_present":%s}`, f.Finding, head[1:len(head)-1], tail), nil
}

// NormalFinding is the label that is left out of the pooled figures: it says that
// there is none of the others.
const NormalFinding = "normal"

// TableOf reads a table that `attributes extract` wrote; any other file holds the reports,
// and their table is made by rules.
func TableOf(ctx context.Context, path string, o rules.Options) (*report.Table, error) {
	x, err := rules.Open(o)
	if err != nil {
		return nil, err
	}
	text, err := report.HasText(path)
	if err != nil {
		return nil, err
	}
	if text {
		reports, err := report.Read(report.Source{Path: path})
		if err != nil {
			return nil, err
		}
		return x.Table(ctx, nil, reports)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	t, err := report.ParseTable(data, path, x.Lexicon.Schema, x.Lexicon.Synonym)
	return &t, err
}

// EvaluateFindings scores a filled table against gold labels. Names match with or
// without the prefix "CXR". Every gold report must be in the table.
func EvaluateFindings(t report.Table, g Gold) (FindingsResult, error) {
	row := map[string]int{}
	for n, id := range t.IDs {
		row[strings.TrimPrefix(id, "CXR")] = n
	}
	columns := make([]int, len(g.Findings))
	for k, f := range g.Findings {
		columns[k] = t.Schema.Index(f)
		if columns[k] < 0 || t.Schema.Attributes[columns[k]].Kind != schema.Binary {
			return FindingsResult{}, fmt.Errorf("gold finding %q is no binary attribute of the table, which has %q", f, t.Schema.Names())
		}
	}
	strict := make([]counts, len(columns))
	lenient := make([]counts, len(columns))
	byFold := make([][]counts, folds) // of each report
	for n, id := range g.IDs {
		m, ok := row[strings.TrimPrefix(id, "CXR")]
		if !ok {
			return FindingsResult{}, fmt.Errorf("gold report %q is not among the %d reports", id, len(t.IDs))
		}
		var pooled counts
		for k, i := range columns {
			state := t.Cells[m][i].State
			strict[k].add(g.Labels[n][k], state == schema.Stated)
			lenient[k].add(g.Labels[n][k], state == schema.Stated || state == schema.Uncertain)
			if g.Findings[k] != NormalFinding {
				pooled.add(g.Labels[n][k], state == schema.Stated)
			}
		}
		byFold[Fold(id)] = append(byFold[Fold(id)], pooled)
	}
	r := FindingsResult{Reports: len(g.IDs)}
	var micro, microLenient counts
	positive := 0
	for k, f := range g.Findings {
		r.PerFinding = append(r.PerFinding, FindingScore{f, strict[k].score(), lenient[k].score()})
		if f == NormalFinding {
			continue
		}
		micro.plus(strict[k])
		microLenient.plus(lenient[k])
		if strict[k].tp+strict[k].fn > 0 {
			positive++
			r.MacroF1 += strict[k].score().F1
		}
	}
	if positive > 0 {
		r.MacroF1 /= float64(positive)
	}
	r.Micro, r.MicroUncertain = micro.score(), microLenient.score()
	r.MicroCI = f1Interval(slices.Concat(byFold...))
	for _, part := range byFold {
		var sum counts
		for _, c := range part {
			sum.plus(c)
		}
		r.Folds, r.FoldCIs = append(r.Folds, sum.score()), append(r.FoldCIs, f1Interval(part))
	}
	return r, nil
}

// f1Interval is the 95 % interval of the F1 of reports' pooled counts: quantiles of 1,000
// resamples of the reports, of fixed seed.
func f1Interval(reports []counts) [2]float64 {
	const resamples = 1000
	random := rand.New(rand.NewPCG(1, 0))
	values := make([]float64, 0, resamples)
	for range resamples {
		var sum counts
		for range reports {
			sum.plus(reports[random.IntN(len(reports))])
		}
		if f1 := sum.score().F1; !math.IsNaN(f1) {
			values = append(values, f1)
		}
	}
	if len(values) == 0 {
		return [2]float64{}
	}
	slices.Sort(values)
	return [2]float64{stat.Quantile(values, 0.025), stat.Quantile(values, 0.975)}
}
