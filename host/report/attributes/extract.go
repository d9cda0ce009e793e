package attributes

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/alignedfusion/alignedfusion/host/fault"
	"github.com/alignedfusion/alignedfusion/host/report"
	"github.com/alignedfusion/alignedfusion/host/report/llm"
	"github.com/alignedfusion/alignedfusion/host/report/rules"
	"github.com/alignedfusion/alignedfusion/host/report/schema"
	"github.com/alignedfusion/alignedfusion/internal/atomicfile"
	"github.com/alignedfusion/alignedfusion/internal/digest"
)

// ExtractOptions say what is read from which reports, and by what.
type ExtractOptions struct {
	Source report.Source
	Rules  rules.Options
	// Schema is what is filled; nil means the lexicon's. By rules, its attributes must be
	// in the lexicon.
	Schema *schema.Schema
	// Corrected is the file of an earlier table, perhaps corrected by a person: its rows
	// are kept and only other reports are read.
	Corrected string
	// Client, unless nil, reads by a language model instead of rules. Confirm is shown what
	// that takes; when it says no, the table is nil.
	Client  *llm.Client
	Confirm func(llm.Estimate) bool
}

// batch is how many reports are in memory at a time when rules read them.
const batch = 2048

// Extract fills the table of attributes from reports and writes it to the file out, which
// appears whole or not at all. The record is nil when the estimate was not confirmed.
func Extract(ctx context.Context, o ExtractOptions, out string) (*Record, error) {
	x, err := rules.Open(o.Rules)
	if err != nil {
		return nil, fault.Wrap(fault.Data, err)
	}
	if o.Schema == nil {
		o.Schema = &x.Lexicon.Schema
	}
	e := &extraction{o: o, x: x, record: &Record{SchemaVersion: RecordVersion, AttributeHash: o.Schema.Hash(), Schema: o.Schema}}
	if err := e.readKept(o.Corrected); err != nil {
		return nil, fault.Wrap(fault.Data, err)
	}
	each := func(do func(report.Report) error) error { return report.Each(o.Source, do) }
	if o.Client != nil {
		reports, confirmed, err := e.byModel(ctx)
		if !confirmed || err != nil {
			return nil, err
		}
		each = func(do func(report.Report) error) error { return eachOf(reports, do) }
	} else {
		e.record.Method, e.record.Lexicon, e.record.LexiconSHA256 = "rules", x.Lexicon.Source.Name, x.Lexicon.Hash()
	}
	var read error // while the file is written
	err = atomicfile.WritePrivate(out, func(w io.Writer) error {
		to, err := report.NewTableWriter(w, *o.Schema)
		if err != nil {
			return err
		}
		if err, read = e.fill(ctx, each, to); err != nil || read != nil {
			return errors.Join(err, read)
		}
		return to.Flush()
	})
	switch {
	case read != nil:
		return nil, dataUnlessStopped(ctx, read)
	case err != nil:
		return nil, fault.Wrap(fault.Resource, err)
	}
	return e.record, nil
}

func eachOf(reports []report.Report, do func(report.Report) error) error {
	for _, r := range reports {
		if err := do(r); err != nil {
			return err
		}
	}
	return nil
}

// extraction is a table being filled.
type extraction struct {
	o      ExtractOptions
	x      rules.Extractor
	record *Record
	// kept are the rows of the corrected table, model those of a language model.
	kept  map[string]*keptRow
	model map[string][]schema.Cell
}

// keptRow is a row of the corrected table.
type keptRow struct {
	cells []schema.Cell
	row   int
	seen  bool // its report is there
}

// fill reads the reports batch by batch and writes their rows in order. write is what
// failed in writing, read what failed in reading.
func (e *extraction) fill(ctx context.Context, each func(func(report.Report) error) error, to *report.TableWriter) (write, read error) {
	var pending []report.Report
	flush := func() error {
		rows, err := e.rows(ctx, pending)
		if err != nil {
			return err
		}
		for n, r := range pending {
			if write = to.Row(r.ID, rows[n]); write != nil {
				return write
			}
		}
		e.record.Reports += len(pending)
		e.record.Attributes = schema.AddCounts(e.record.Attributes, schema.CountStates(e.o.Schema, rows))
		pending = pending[:0]
		return nil
	}
	read = each(func(r report.Report) error {
		if pending = append(pending, r); len(pending) < batch {
			return nil
		}
		return flush()
	})
	if read == nil {
		read = flush()
	}
	if row := e.unseen(); read == nil && row > 0 {
		read = fmt.Errorf("%s: row %d: no report has this id", e.o.Corrected, row)
	}
	if write != nil {
		return write, nil
	}
	return nil, read
}

// unseen is the first row of the corrected table without a report, 0 when there is none.
func (e *extraction) unseen() int {
	first := 0
	for _, k := range e.kept {
		if !k.seen && (first == 0 || k.row < first) {
			first = k.row
		}
	}
	return first
}

// rows are the cells of some reports: what is kept, else what the model or the rules read.
func (e *extraction) rows(ctx context.Context, reports []report.Report) ([][]schema.Cell, error) {
	rows := make([][]schema.Cell, len(reports))
	var fresh []report.Report
	var at []int
	for n, r := range reports {
		switch k := e.kept[r.ID]; {
		case k != nil:
			if err := e.holds(k, r); err != nil {
				return nil, err
			}
			rows[n] = k.cells
		case e.o.Client != nil:
			rows[n] = e.model[r.ID]
		default:
			fresh, at = append(fresh, r), append(at, n)
		}
	}
	if e.o.Client != nil {
		return rows, nil
	}
	t, err := e.x.Table(ctx, e.o.Schema, fresh)
	if err != nil {
		return nil, err
	}
	for i, n := range at {
		rows[n] = t.Cells[i]
	}
	e.record.OtherLanguage = append(e.record.OtherLanguage, t.Unread...)
	return rows, nil
}

// holds checks that the evidence of a kept row is in its report.
func (e *extraction) holds(k *keptRow, r report.Report) error {
	k.seen = true
	for i, cell := range k.cells {
		if v := cell.Evidence; !v.IsZero() && !r.Holds(v) {
			return fmt.Errorf("%s: row %d: the evidence for %q is not in the report; correct or clear it", e.o.Corrected, k.row, e.o.Schema.Attributes[i].Name)
		}
	}
	return nil
}

// dataUnlessStopped is an error of the data, unless the context ended.
func dataUnlessStopped(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return err
	}
	return fault.Wrap(fault.Data, err)
}

// byModel reads the reports that are not kept, unless the estimate is not confirmed, and
// returns all.
func (e *extraction) byModel(ctx context.Context) (reports []report.Report, confirmed bool, err error) {
	if reports, err = report.Read(e.o.Source); err != nil {
		return nil, false, fault.Wrap(fault.Data, err)
	}
	fresh := slices.DeleteFunc(slices.Clone(reports), func(r report.Report) bool { return e.kept[r.ID] != nil })
	if !e.o.Confirm(e.o.Client.EstimateExtract(e.o.Schema, fresh)) {
		return nil, false, nil
	}
	rows, audit, err := e.o.Client.Extract(ctx, e.o.Schema, fresh)
	if err != nil {
		return nil, true, err
	}
	e.model = map[string][]schema.Cell{}
	for n, r := range fresh {
		e.model[r.ID] = rows[n]
	}
	e.record.Method, e.record.Audit = "llm", &audit
	e.record.byModel(e.o.Client, llm.Prompt(e.o.Schema))
	return reports, true, nil
}

// readKept reads the corrected table; its evidence is checked when its reports come.
func (e *extraction) readKept(path string) error {
	if path == "" {
		return nil
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	table, err := report.ParseTable(data, path, *e.o.Schema, e.x.Lexicon.Synonym)
	if err != nil {
		return err
	}
	e.kept = map[string]*keptRow{}
	for n, id := range table.IDs {
		e.kept[id] = &keptRow{cells: table.Cells[n], row: n + 2}
	}
	e.record.extra = table.Extra
	e.record.Corrected, e.record.KeptRows = digest.Of(data), len(e.kept)
	return nil
}
