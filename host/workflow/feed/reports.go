package feed

import (
	"encoding/json"
	"fmt"

	"github.com/alignedfusion/alignedfusion/host/config"
	"github.com/alignedfusion/alignedfusion/host/dataset"
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
	states  map[string][]int8  // by case id, [A]
	values  map[string][]int64 // by case id, [A]
	prompts map[string][]string
	vectors map[string][]float32 // by prompt, [E]
}

// SchemaOf builds the attribute schema from the training cases; nil when the data have
// no attribute columns.
func SchemaOf(d *dataset.Dataset, training []dataset.Case) (*schema.Schema, []string, error) {
	if len(d.AttributeColumns) == 0 {
		return nil, nil, nil
	}
	table := schema.Table{Columns: d.AttributeColumns}
	for i := range training {
		table.Rows = append(table.Rows, row(d.AttributeColumns, &training[i]))
	}
	s, skipped, err := schema.FromColumns(table, schema.Options{})
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %s: attributes: %w; choose columns with --attributes, or none with --attributes=", dataset.ErrData, d.Spec, err)
	}
	var warnings []string
	for _, k := range skipped {
		warnings = append(warnings, fmt.Sprintf("attribute %q is left out: %s", k.Column, k.Reason))
	}
	return s, warnings, nil
}

func row(columns []string, c *dataset.Case) []string {
	cells := make([]string, len(columns))
	for i, name := range columns {
		cells[i] = c.Attributes[name]
	}
	return cells
}

// NewReports encodes every case; cache keeps the embeddings. A column that the data do
// not have is unmentioned everywhere: a case without a report is predicted too. The
// stages see the schema that data.impute makes of s.
func NewReports(s *schema.Schema, cases []dataset.Case, encoder embed.Encoder, cache embed.Cache, impute config.Impute) (_ *Reports, err error) {
	r := &Reports{Schema: s, Encoder: encoder, impute: impute, states: map[string][]int8{}, values: map[string][]int64{},
		prompts: map[string][]string{}, vectors: map[string][]float32{}}
	seen := stageSchema(s, impute)
	if r.StageSchema, err = json.Marshal(seen); err != nil {
		return nil, err
	}
	columns := s.Names()
	var all []string
	unseen := map[string]int{}
	for i := range cases {
		c := &cases[i]
		e, err := schema.Encode(s, schema.Table{Columns: columns, Rows: [][]string{row(columns, c)}})
		if err != nil {
			return nil, fmt.Errorf("%w: %s: case %q: %w", dataset.ErrData, c.Origin, c.ID, err)
		}
		encodeForStages(seen, impute, e)
		r.states[c.ID], r.values[c.ID], r.prompts[c.ID] = e.States[0], e.Values[0], e.Prompts[0]
		all = append(all, e.Prompts[0]...)
		for _, u := range e.Unseen {
			unseen[u.Attribute]++
		}
	}
	for _, name := range columns {
		if n := unseen[name]; n > 0 {
			r.Warnings = append(r.Warnings, fmt.Sprintf("attribute %q: %d cells hold values that training never saw; their value counts as unknown", name, n))
		}
	}
	values := 0
	for _, a := range seen.Attributes {
		values = max(values, len(a.Values))
		all = append(all, schema.ValuePrompts(a)...)
	}
	vectors, _, err := cache.Embed(encoder, all)
	if err != nil {
		return nil, err
	}
	for i, prompt := range all {
		r.vectors[prompt] = vectors[i]
	}
	constant := make([]float32, len(s.Attributes)*values*encoder.Dim)
	for a, attribute := range seen.Attributes {
		for k, prompt := range schema.ValuePrompts(attribute) {
			copy(constant[(a*values+k)*encoder.Dim:], r.vectors[prompt])
		}
	}
	r.ValueEmbeddings = tensor.OfFloat32s(constant, int64(len(s.Attributes)), int64(values), int64(encoder.Dim))
	return r, nil
}

// Of encodes other cases in the same way.
func (r *Reports) Of(cases []dataset.Case) (*Reports, error) {
	return NewReports(r.Schema, cases, r.reusing(), embed.Cache{}, r.impute)
}

// States are the states of a case's attributes, [A].
func (r *Reports) States(id string) []int8 { return r.states[id] }

// reusing is the reports' encoder, asked for prompts alone that it has not embedded
// yet: a plugin's has been closed by then.
func (r *Reports) reusing() embed.Encoder {
	e := r.Encoder
	e.Encode = func(prompts []string) ([][]float32, error) {
		out := make([][]float32, len(prompts))
		for i, p := range prompts {
			if out[i] = r.vectors[p]; out[i] != nil {
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
		id := cases[i].ID
		states = append(states, r.states[id]...)
		values = append(values, r.values[id]...)
		for k, prompt := range r.prompts[id] {
			copy(embedding[(i*a+k)*e:], r.vectors[prompt])
		}
	}
	inputs[ports.ReportState.Name] = tensor.OfInt8s(states, int64(n), int64(a))
	inputs[ports.ReportValue.Name] = tensor.OfInt64s(values, int64(n), int64(a))
	inputs[ports.ReportEmbedding.Name] = tensor.OfFloat32s(embedding, int64(n), int64(a), int64(e))
}
