package attributes

import (
	"context"
	"encoding/json"
	"fmt"
	"os"

	"github.com/goccy/go-yaml"

	"github.com/alignedfusion/alignedfusion/host/fault"
	"github.com/alignedfusion/alignedfusion/host/report"
	"github.com/alignedfusion/alignedfusion/host/report/llm"
	"github.com/alignedfusion/alignedfusion/host/report/rules"
	"github.com/alignedfusion/alignedfusion/host/report/schema"
)

// What Select keeps by frequency when nothing else is asked for.
const (
	DefaultMinShare = 0.01
	DefaultBins     = 5
)

// ReadSchema reads a schema from JSON, or from YAML with the same keys.
func ReadSchema(path string) (*schema.Schema, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fault.Wrap(fault.Data, err)
	}
	if !json.Valid(data) {
		if data, err = yaml.YAMLToJSON(data); err != nil {
			return nil, fault.Wrap(fault.Data, fmt.Errorf("%s: neither JSON nor YAML: %w", path, err))
		}
	}
	var s schema.Schema
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, fault.Wrap(fault.Data, fmt.Errorf("%s: %w", path, err))
	}
	return &s, nil
}

// SelectByFrequency keeps the lexicon's attributes that at least minShare of the training
// reports mention, orders categorical values by frequency and bins numbers at quantiles.
func SelectByFrequency(ctx context.Context, src report.Source, o rules.Options, minShare float64, bins int) (*schema.Schema, *Record, error) {
	x, err := rules.Open(o)
	if err != nil {
		return nil, nil, fault.Wrap(fault.Data, err)
	}
	reports, err := report.Read(src)
	if err != nil {
		return nil, nil, fault.Wrap(fault.Data, err)
	}
	t, err := x.Table(ctx, nil, reports)
	if err != nil {
		return nil, nil, dataUnlessStopped(ctx, err)
	}
	chosen := schema.Frequent(&t.Schema, t.Cells, minShare, bins)
	if err := chosen.Validate(); err != nil {
		return nil, nil, fault.Wrap(fault.Data, fmt.Errorf("no schema from %d reports with at least a share of %g: %w", len(reports), minShare, err))
	}
	r := &Record{SchemaVersion: RecordVersion, Method: "frequency", Reports: len(reports), AttributeHash: chosen.Hash(),
		Lexicon: x.Lexicon.Source.Name, LexiconSHA256: x.Lexicon.Hash(), Attributes: schema.CountStates(&t.Schema, t.Cells)}
	r.OtherLanguage = t.Unread
	return chosen, r, nil
}

// SelectByModel asks a language model for a schema on a sample of the training reports.
// confirm is shown what that takes; when it says no, the schema is nil.
func SelectByModel(ctx context.Context, src report.Source, c *llm.Client, sample int, confirm func(llm.Estimate) bool) (*schema.Schema, *Record, error) {
	reports, err := report.Read(src)
	if err != nil {
		return nil, nil, fault.Wrap(fault.Data, err)
	}
	if !confirm(c.EstimateSelect(reports, sample)) {
		return nil, nil, nil
	}
	chosen, err := c.Select(ctx, reports, sample)
	if err != nil {
		return nil, nil, err
	}
	r := &Record{SchemaVersion: RecordVersion, Method: "llm", Reports: len(reports), AttributeHash: chosen.Hash()}
	r.byModel(c, llm.SelectPrompt)
	return chosen, r, nil
}
