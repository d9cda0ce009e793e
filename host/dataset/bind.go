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
	var unreadable, unknown Problems
	for i := range d.Cases {
		c := &d.Cases[i]
		cells := make(map[string]schema.Cell, len(s.Attributes))
		for _, a := range s.Attributes {
			cell, err := d.bind(a, c)
			switch {
			case err != nil:
				unreadable.Add(cell.Origin, 0, a.Name, "case %q: %v", c.ID, err)
			case cell.Foreign():
				unknown.Add(cell.Origin, 0, a.Name, "case %q: %q is no value of its set %s", c.ID, problem.Clip(cell.Raw, 40), problem.Quote(a.Values))
			}
			cells[a.Name] = cell
		}
		if c.Attributes == nil {
			c.Attributes = cells
			continue
		}
		clear(c.Attributes) // copies of the case share the map
		for name, cell := range cells {
			c.Attributes[name] = cell
		}
	}
	if strict {
		unreadable = append(unreadable, unknown...)
	}
	if err := unreadable.Err(); err != nil {
		return err
	}
	d.warnOfUnknown(s, unknown)
	d.Schema, d.AttributeColumns = s, s.Names()
	return nil
}

// bind is a case's cell of one attribute.
func (d *Dataset) bind(a schema.Attribute, c *Case) (schema.Cell, error) {
	cell, ok := c.Attributes[a.Name]
	if !ok {
		return schema.Cell{Value: -1}, nil
	}
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
