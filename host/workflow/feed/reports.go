package feed

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/alignedfusion/alignedfusion/host/config"
	"github.com/alignedfusion/alignedfusion/host/dataset"
	"github.com/alignedfusion/alignedfusion/host/report/attributes"
	"github.com/alignedfusion/alignedfusion/host/report/embed"
	"github.com/alignedfusion/alignedfusion/host/report/schema"
	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/ports"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

// Reports are the encoded attributes of all cases.
type Reports struct {
	Schema *schema.Schema
	// Encoder embedded the prompts.
	Encoder embed.Encoder
	// ValueEmbeddings are those of every attribute's values, FP32 [A,K,E].
	ValueEmbeddings *tensor.Tensor
	// StageSchema is the schema as the stages see it, JSON.
	StageSchema []byte
	Warnings    []string

	impute  config.Impute
	stages  *schema.Schema                // StageSchema
	cells   map[string]dataset.Attributes // by case id
	raw     map[string][]float32          // what Encoder gives, by prompt, [E]
	vectors map[string][]float32          // the same, centred where Encoder asks for it
}

// SchemaOf builds the attribute schema from the training cases; nil when the data have
// no attribute columns. Attributes that come with a schema keep it, but for those of
// unselected ones that hardly a training case mentions.
func SchemaOf(d *dataset.Dataset, training []dataset.Case, unselected bool) (*schema.Schema, []string, error) {
	known := &schema.Schema{}
	if d.Schema != nil {
		known = d.Schema
	}
	var columns []string
	for _, name := range d.AttributeColumns {
		if known.Index(name) < 0 {
			columns = append(columns, name)
		}
	}
	s, warnings := &schema.Schema{}, []string(nil)
	if len(columns) > 0 {
		var err error
		if s, warnings, err = schemaOfColumns(d, columns, training); err != nil {
			return nil, nil, err
		}
	}
	if unselected {
		known = frequent(known, training)
	}
	s.Attributes = append(s.Attributes, known.Attributes...)
	if len(d.AttributeColumns) == 0 {
		return nil, nil, nil
	}
	if err := s.Validate(); err != nil {
		return nil, nil, fmt.Errorf("%w: %s: attributes: %w", dataset.ErrData, d.Spec, err)
	}
	return s, warnings, nil
}

// frequent are the attributes that enough of the training cases mention.
func frequent(s *schema.Schema, training []dataset.Case) *schema.Schema {
	rows := make([][]schema.Cell, len(training))
	for i := range training {
		for _, a := range s.Attributes {
			rows[i] = append(rows[i], training[i].Attributes.Cell(a.Name))
		}
	}
	return schema.Frequent(s, rows, attributes.DefaultMinShare, attributes.DefaultBins)
}

// schemaOfColumns learns the schema of columns of text.
func schemaOfColumns(d *dataset.Dataset, columns []string, training []dataset.Case) (*schema.Schema, []string, error) {
	texts := make([]schema.Column, len(columns))
	for k, name := range columns {
		texts[k].Name = name
		for _, c := range dataset.CellsOf(training, name) {
			texts[k].Cells = append(texts[k].Cells, schema.TextCount{Text: c.Raw, N: c.Count})
		}
	}
	s, skipped, err := schema.FromColumns(texts, len(training), schema.Options{})
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %s: attributes: %w; choose columns with --attributes, or none with --attributes=", dataset.ErrData, d.Spec, err)
	}
	var warnings []string
	for _, k := range skipped {
		warnings = append(warnings, fmt.Sprintf("attribute %q is left out: %s", k.Column, k.Reason))
	}
	return s, warnings, nil
}

// NewReports encodes every case's cells, which are bound to s; cache keeps the
// embeddings. What a case does not have is unmentioned: a case without a report is
// predicted too. The stages see the schema that data.impute makes of s.
func NewReports(s *schema.Schema, cases []dataset.Case, encoder embed.Encoder, cache embed.Cache, impute config.Impute) (_ *Reports, err error) {
	r := &Reports{Schema: s, Encoder: encoder, impute: impute, stages: stageSchema(s, impute),
		cells: make(map[string]dataset.Attributes, len(cases)), raw: map[string][]float32{}}
	if r.StageSchema, err = json.Marshal(r.stages); err != nil {
		return nil, err
	}
	for i := range cases {
		r.cells[cases[i].ID] = cases[i].Attributes
	}
	all := r.prompts(cases)
	values := 0
	for _, a := range r.stages.Attributes {
		values = max(values, len(a.Values))
		all = append(all, schema.ValuePrompts(a)...)
	}
	vectors, _, err := cache.Embed(encoder, all)
	if err != nil {
		return nil, err
	}
	for i, prompt := range all {
		r.raw[prompt] = vectors[i]
	}
	r.center(cases)
	constant := make([]float32, len(s.Attributes)*values*encoder.Dim)
	for a, attribute := range r.stages.Attributes {
		for k, prompt := range schema.ValuePrompts(attribute) {
			copy(constant[(a*values+k)*encoder.Dim:], r.vectors[prompt])
		}
	}
	r.ValueEmbeddings = tensor.OfFloat32s(constant, int64(len(s.Attributes)), int64(values), int64(encoder.Dim))
	return r, nil
}

// prompts are those of the cases' cells as the stages see them, by case and attribute.
func (r *Reports) prompts(cases []dataset.Case) []string {
	type prompt struct {
		first int
		text  string
	}
	var prompts []prompt
	for k, a := range r.Schema.Attributes {
		for _, c := range dataset.CellsOf(cases, a.Name) {
			prompts = append(prompts, prompt{c.First, r.prompt(k, c.Cell)})
		}
	}
	slices.SortStableFunc(prompts, func(a, b prompt) int { return a.first - b.first })
	all := make([]string, len(prompts))
	for i, p := range prompts {
		all[i] = p.text
	}
	return all
}

// prompt is that of a cell of attribute k as the stages see it.
func (r *Reports) prompt(k int, c schema.Cell) string {
	return schema.Prompt(r.stages.Attributes[k], cellForStages(r.stages.Attributes[k], r.impute, c))
}

// center makes vectors of raw: the same, or where the encoder asks for it every attribute's
// prompts centred by its values.
func (r *Reports) center(cases []dataset.Case) {
	r.vectors = r.raw
	if !r.Encoder.Center {
		return
	}
	r.vectors = maps.Clone(r.raw)
	for k, a := range r.stages.Attributes {
		prompts := schema.ValuePrompts(a)
		values := make([][]float32, len(prompts))
		for i, p := range prompts {
			values[i] = r.raw[p]
		}
		for _, c := range dataset.CellsOf(cases, r.Schema.Attributes[k].Name) {
			prompts = append(prompts, r.prompt(k, c.Cell))
		}
		for _, p := range prompts {
			r.vectors[p] = embed.Centered(values, r.raw[p])
		}
	}
}

// Of encodes other cases in the same way.
func (r *Reports) Of(cases []dataset.Case) (*Reports, error) {
	return NewReports(r.Schema, cases, r.reusing(), embed.Cache{}, r.impute)
}

// Cells are a case's attributes as the stages see them, [A].
func (r *Reports) Cells(id string) []schema.Cell {
	own, known := r.cells[id]
	if !known {
		return nil
	}
	cells := make([]schema.Cell, len(r.Schema.Attributes))
	for k, a := range r.Schema.Attributes {
		cells[k] = cellForStages(r.stages.Attributes[k], r.impute, own.Cell(a.Name))
	}
	return cells
}

// reusing is the reports' encoder, asked for prompts alone that it has not embedded
// yet: a plugin's has been closed by then.
func (r *Reports) reusing() embed.Encoder {
	e := r.Encoder
	e.Encode = func(prompts []string) ([][]float32, error) {
		out := make([][]float32, len(prompts))
		for i, p := range prompts {
			if out[i] = r.raw[p]; out[i] != nil {
				continue
			}
			v, err := r.Encoder.Encode([]string{p})
			if err != nil {
				return nil, err
			}
			out[i] = v[0]
		}
		return out, nil
	}
	return e
}

// ports are what the reports add to the host's ports.
func (r *Reports) ports() []sdk.Port {
	a, e := fmt.Sprint(len(r.Schema.Attributes)), fmt.Sprint(r.Encoder.Dim)
	return []sdk.Port{
		ports.ReportEmbedding.Declare(ports.Shape("N", a, e), ports.Required),
		ports.ReportState.Declare(ports.Shape("N", a), ports.Required),
		ports.ReportValue.Declare(ports.Shape("N", a), ports.Required),
	}
}

// add puts the reports of a batch's cases among its inputs.
func (r *Reports) add(inputs map[string]*tensor.Tensor, cases []dataset.Case) {
	n, a, e := len(cases), len(r.Schema.Attributes), r.Encoder.Dim
	states, values := make([]int8, 0, n*a), make([]int64, 0, n*a)
	embedding := make([]float32, n*a*e)
	for i := range cases {
		for k, cell := range r.Cells(cases[i].ID) {
			states, values = append(states, int8(cell.State)), append(values, int64(cell.Value))
			copy(embedding[(i*a+k)*e:], r.vectors[schema.Prompt(r.stages.Attributes[k], cell)])
		}
	}
	inputs[ports.ReportState.Name] = tensor.OfInt8s(states, int64(n), int64(a))
	inputs[ports.ReportValue.Name] = tensor.OfInt64s(values, int64(n), int64(a))
	inputs[ports.ReportEmbedding.Name] = tensor.OfFloat32s(embedding, int64(n), int64(a), int64(e))
}
