package attributes

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/alignedfusion/alignedfusion/host/fault"
	"github.com/alignedfusion/alignedfusion/host/report"
	"github.com/alignedfusion/alignedfusion/host/report/review"
	"github.com/alignedfusion/alignedfusion/host/report/rules"
	"github.com/alignedfusion/alignedfusion/host/report/schema"
)

// ReviewOptions say which table is shown beside which reports.
type ReviewOptions struct {
	Source report.Source
	// Table is the file of a table that Extract wrote. Its schema is Schema, or that of the
	// FILE.json beside it, or, without either, the lexicon's.
	Table  string
	Schema *schema.Schema
	Rules  rules.Options
	// Recovered and Calibration are what a run makes of what is not mentioned (see
	// review.Input); nil and "" without.
	Recovered   map[string][]review.Recovered
	Calibration string
}

// Review makes the page in which a person reviews a table, and says what it leaves out.
func Review(o ReviewOptions) (page []byte, warnings []string, err error) {
	reports, err := report.Read(o.Source)
	if err != nil {
		return nil, nil, fault.Wrap(fault.Data, err)
	}
	record, err := sidecar(o.Table)
	if err != nil {
		return nil, nil, fault.Wrap(fault.Data, err)
	}
	x, err := rules.Open(o.Rules)
	if err != nil {
		return nil, nil, fault.Wrap(fault.Data, err)
	}
	s := o.Schema
	if s == nil {
		s = record.Schema
	}
	if s == nil {
		s = &x.Lexicon.Schema
	}
	data, err := os.ReadFile(o.Table)
	if err != nil {
		return nil, nil, fault.Wrap(fault.Data, err)
	}
	t, err := report.ParseTable(data, o.Table, *s, x.Lexicon.Synonym)
	if err != nil {
		return nil, nil, fault.Wrap(fault.Data, err)
	}
	if len(t.Extra) > 0 {
		warnings = append(warnings, fmt.Sprintf("the table's columns %q are no attributes and are left out", t.Extra))
	}
	strangers := 0
	for id := range o.Recovered {
		if !slices.Contains(t.IDs, id) {
			strangers++
		}
	}
	if strangers > 0 {
		warnings = append(warnings, fmt.Sprintf("%d of %d reconstructed cases have no report of their id and are not shown", strangers, len(o.Recovered)))
	}
	page, err = review.Page(review.Input{Name: filepath.Base(o.Table), Table: &t, Reports: reports, Recovered: o.Recovered, Calibration: o.Calibration})
	if err != nil {
		err = fault.Wrap(fault.Data, fmt.Errorf("%s: %w", o.Table, err))
	}
	return page, warnings, err
}
