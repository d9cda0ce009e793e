package dataset

import (
	"fmt"

	"github.com/alignedfusion/alignedfusion/host/report/schema"
	"github.com/alignedfusion/alignedfusion/internal/problem"
)

// Bind gives the cells of all cases their states and values under a schema, in place:
// after it every case has one cell for each of the schema's attributes and no other.
// Cells bound before are carried over. Values that the schema does not know are errors
// when strict, else they count as unknown and are warned of. Numbers that are none are
// errors always.
func (d *Dataset) Bind(s *schema.Schema, strict bool) error {
	bound := map[*cellTable][]boundColumn{}
	var unreadable, unknown Problems
	for i := range d.Cases {
		c := &d.Cases[i]
		t := c.Attributes.table
		if t == nil {
			continue
		}
		if bound[t] == nil {
			bound[t] = d.bindTable(t, s)
		}
		for k, a := range s.Attributes {
			b := &bound[t][k]
			if len(b.odd) == 0 {
				continue
			}
			code := b.column.code(c.Attributes.row)
			if text := b.odd[code]; text != "" && b.unreadable[code] {
				unreadable.Add(b.column.origin(c.Attributes.row), 0, a.Name, "case %q: %s", c.ID, text)
			} else if text != "" {
				unknown.Add(b.column.origin(c.Attributes.row), 0, a.Name, "case %q: %s", c.ID, text)
			}
		}
	}
	if strict {
		unreadable = append(unreadable, unknown...)
	}
	if err := unreadable.Err(); err != nil {
		return err
	}
	d.warnOfUnknown(s, unknown)
	for t, columns := range bound { // copies of the cases share the table
		t.columns, t.index = nil, map[string]int{}
		for k := range columns {
			t.index[columns[k].column.name] = k
			t.columns = append(t.columns, columns[k].column)
		}
	}
	d.Schema, d.AttributeColumns = s, s.Names()
	return nil
}

// boundColumn is a column under a schema.
type boundColumn struct {
	column *cellColumn
	// odd says of cells, by their numbers, why they do not fit; unreadable are those that
	// are errors always.
	odd        map[uint32]string
	unreadable map[uint32]bool
}

// bindTable returns the columns of the schema's attributes, bound.
func (d *Dataset) bindTable(t *cellTable, s *schema.Schema) []boundColumn {
	out := make([]boundColumn, len(s.Attributes))
	for k, a := range s.Attributes {
		from := t.column(a.Name)
		if from == nil {
			out[k].column = &cellColumn{name: a.Name, cells: []schema.Cell{unmentioned}}
			continue
		}
		b := boundColumn{&cellColumn{name: a.Name, of: from.of, from: from.from}, map[uint32]string{}, map[uint32]bool{}}
		for code, cell := range from.cells {
			cell, err := d.bind(a, cell)
			switch code := uint32(code); {
			case err != nil:
				b.odd[code], b.unreadable[code] = err.Error(), true
			case cell.Foreign() && a.Kind != schema.Text:
				b.odd[code] = fmt.Sprintf("%q is no value of its set %s", problem.Clip(cell.Raw, 40), problem.Quote(a.Values))
			}
			b.column.cells = append(b.column.cells, cell)
		}
		out[k] = b
	}
	return out
}

// bind is a cell of an attribute under the schema that has it as a.
func (d *Dataset) bind(a schema.Attribute, cell schema.Cell) (schema.Cell, error) {
	if d.Schema != nil {
		if k := d.Schema.Index(a.Name); k >= 0 {
			return a.Convert(d.Schema.Attributes[k], cell)
		}
	}
	return a.Bind(cell)
}

// warnOfUnknown counts values outside the schema by attribute.
func (d *Dataset) warnOfUnknown(s *schema.Schema, unknown Problems) {
	for _, name := range s.Names() {
		count, first := 0, ""
		for _, p := range unknown {
			if p.Column == name {
				if count++; count == 1 {
					first = p.File
				}
			}
		}
		if count > 0 {
			d.Warnings = append(d.Warnings, fmt.Sprintf("attribute %q: %d cells hold values that training never saw; their value counts as unknown, first in %s", name, count, first))
		}
	}
}
