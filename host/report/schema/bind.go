package schema

import (
	"fmt"
	"strconv"
)

// Written is a cell as it stands in a table while the schema is not known yet: Stated
// with its text as Raw, as a value that no schema knows, or Unmentioned. origin is its
// place, file:line.
func Written(text, origin string) Cell {
	c := Cell{Value: -1, Raw: text, Origin: origin}
	if text != "" {
		c.State = Stated
	}
	return c
}

// Bind gives a Written cell its state and value under the attribute. An error means that
// a numeric cell is no number.
func (a Attribute) Bind(c Cell) (Cell, error) {
	bound, err := ParseCell(a, c.Raw)
	bound.Evidence, bound.Origin = c.Evidence, c.Origin
	return bound, err
}

// Convert carries a cell of another attribute of the same kind over to a's value set:
// values by name, numbers by their own bins. A value that a does not know has Value -1.
func (a Attribute) Convert(from Attribute, c Cell) (Cell, error) {
	if from.Kind != a.Kind {
		return c, fmt.Errorf("attribute %q is %s here and %s in the schema", a.Name, from.Kind, a.Kind)
	}
	switch {
	case c.Value < 0 || a.Kind == Binary:
	case a.Kind == Numeric:
		v, err := strconv.ParseFloat(c.Raw, 64)
		if err != nil {
			return c, fmt.Errorf("attribute %q: a cell without its number", a.Name)
		}
		c.Value = a.Bin(v)
	default:
		name := from.Values[c.Value]
		if c.Value, _ = a.Find(name); c.Value < 0 { // only numbers can fail
			c.Raw = name
		}
	}
	return c, nil
}
