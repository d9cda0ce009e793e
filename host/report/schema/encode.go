package schema

import "fmt"

// Unseen is a table value that the schema does not know: it becomes Stated (or
// Uncertain) with Value -1.
type Unseen struct {
	Row       int // index into the table's rows
	Attribute string
	Raw       string
}

// Encoded is a table as the report ports want it. N rows, A attributes.
type Encoded struct {
	States  [][]int8   // [N][A] report.state
	Values  [][]int64  // [N][A] report.value, -1 unknown
	Prompts [][]string // [N][A] text of each cell, "" where unmentioned
	Cells   [][]Cell   // [N][A]
	Unseen  []Unseen
}

// Encode reads every row's cells. The table must have a column for every
// attribute; other columns are ignored. Errors name row and column.
func Encode(s *Schema, t Table) (*Encoded, error) {
	cols := make([]int, len(s.Attributes))
	for i, a := range s.Attributes {
		j, err := t.column(a.Name)
		if err != nil {
			return nil, fmt.Errorf("encode attributes: %w", err)
		}
		cols[i] = j
	}
	e := &Encoded{}
	for n, row := range t.Rows {
		states := make([]int8, len(cols))
		values := make([]int64, len(cols))
		prompts := make([]string, len(cols))
		cells := make([]Cell, len(cols))
		for i, j := range cols {
			if j >= len(row) {
				return nil, fmt.Errorf("encode attributes: row %d has %d cells, want %d", n, len(row), len(t.Columns))
			}
			a := s.Attributes[i]
			c, err := ParseCell(a, row[j])
			if err != nil {
				return nil, fmt.Errorf("encode attributes: row %d: %w", n, err)
			}
			if c.Value < 0 && (c.State == Stated || c.State == Uncertain) {
				e.Unseen = append(e.Unseen, Unseen{n, a.Name, c.Raw})
			}
			states[i], values[i], prompts[i], cells[i] = int8(c.State), int64(c.Value), Prompt(a, c), c
		}
		e.States = append(e.States, states)
		e.Values = append(e.Values, values)
		e.Prompts = append(e.Prompts, prompts)
		e.Cells = append(e.Cells, cells)
	}
	return e, nil
}
