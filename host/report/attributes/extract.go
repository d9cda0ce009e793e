package attributes

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"slices"

	"github.com/alignedfusion/alignedfusion/host/fault"
	"github.com/alignedfusion/alignedfusion/host/report"
	"github.com/alignedfusion/alignedfusion/host/report/llm"
	"github.com/alignedfusion/alignedfusion/host/report/rules"
	"github.com/alignedfusion/alignedfusion/host/report/schema"
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

// Extract fills the table of attributes from reports.
func Extract(ctx context.Context, o ExtractOptions) (*report.Table, *Record, error) {
	x, err := rules.Open(o.Rules)
	if err != nil {
		return nil, nil, fault.Wrap(fault.Data, err)
	}
	if o.Schema == nil {
		o.Schema = &x.Lexicon.Schema
	}
	reports, err := report.Read(o.Source)
	if err != nil {
		return nil, nil, fault.Wrap(fault.Data, err)
	}
	r := &Record{SchemaVersion: RecordVersion, Reports: len(reports), AttributeHash: o.Schema.Hash(), Schema: o.Schema}
	kept, err := r.keptRows(o.Corrected, o.Schema, x.Lexicon, reports)
	if err != nil {
		return nil, nil, fault.Wrap(fault.Data, err)
	}
	fresh := slices.DeleteFunc(slices.Clone(reports), func(one report.Report) bool { return kept[one.ID] != nil })
	var rows [][]schema.Cell
	if o.Client != nil {
		confirmed := false
		if rows, confirmed, err = r.extractByModel(ctx, o, fresh); !confirmed || err != nil {
			return nil, nil, err
		}
	} else {
		r.Method, r.Lexicon, r.LexiconSHA256 = "rules", x.Lexicon.Source.Name, x.Lexicon.Hash()
		t, err := x.Table(ctx, o.Schema, fresh)
		if err != nil {
			return nil, nil, dataUnlessStopped(ctx, err)
		}
		rows, r.OtherLanguage = t.Cells, otherLanguage(x, fresh)
	}
	table := &report.Table{Schema: *o.Schema}
	for _, one := range reports {
		cells := kept[one.ID]
		if cells == nil {
			cells, rows = rows[0], rows[1:]
		}
		table.IDs, table.Cells = append(table.IDs, one.ID), append(table.Cells, cells)
	}
	r.Attributes = schema.CountStates(o.Schema, table.Cells)
	return table, r, nil
}

// dataUnlessStopped is an error of the data, unless the context ended.
func dataUnlessStopped(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return err
	}
	return fault.Wrap(fault.Data, err)
}

// extractByModel reads reports unless the estimate is not confirmed.
func (r *Record) extractByModel(ctx context.Context, o ExtractOptions, reports []report.Report) (rows [][]schema.Cell, confirmed bool, err error) {
	if !o.Confirm(o.Client.EstimateExtract(o.Schema, reports)) {
		return nil, false, nil
	}
	rows, audit, err := o.Client.Extract(ctx, o.Schema, reports)
	if err != nil {
		return nil, true, err
	}
	r.Method, r.Audit = "llm", &audit
	r.byModel(o.Client, llm.Prompt(o.Schema))
	return rows, true, nil
}

// keptRows reads the corrected table, and checks its evidence against the reports.
func (r *Record) keptRows(path string, s *schema.Schema, lexicon *rules.Lexicon, reports []report.Report) (map[string][]schema.Cell, error) {
	if path == "" {
		return nil, nil
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	table, err := report.ParseTable(data, path, *s, lexicon.Synonym)
	if err != nil {
		return nil, err
	}
	byID := map[string]report.Report{}
	for _, one := range reports {
		byID[one.ID] = one
	}
	kept := map[string][]schema.Cell{}
	for n, id := range table.IDs {
		one, ok := byID[id]
		if !ok {
			return nil, fmt.Errorf("%s: row %d: no report has this id", path, n+2)
		}
		for i, cell := range table.Cells[n] {
			if e := cell.Evidence; !e.IsZero() && !one.Holds(e) {
				return nil, fmt.Errorf("%s: row %d: the evidence for %q is not in the report; correct or clear it", path, n+2, s.Attributes[i].Name)
			}
		}
		kept[id] = table.Cells[n]
	}
	r.extra = table.Extra
	sum := sha256.Sum256(data)
	r.Corrected, r.KeptRows = hex.EncodeToString(sum[:]), len(kept)
	return kept, nil
}
