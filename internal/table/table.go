package table

import (
	"bytes"
	"errors"
	"io"
	"os"
	"strings"

	"github.com/alignedfusion/alignedfusion/internal/problem"
)

// maxBytes bounds a table that is read whole, far above any real one.
const maxBytes = 512 << 20

// Table is a CSV file in memory. Its cells are trimmed; equal cells of a column are one text.
type Table struct {
	Path    string
	Columns []string
	Rows    []Row
	// Content is the file as it was read, for a hash.
	Content []byte

	index map[string]int
	cells []Column // parallel to Columns
}

// Row is one row: the line it begins at, and its number among the rows that were read.
type Row struct {
	Line, Number int
}

// Column holds every text of a column once, in the order in which they come, and which of
// them each row has.
type Column struct {
	Texts []string
	Of    []uint32

	*finder // while the table is read
}

// finder finds a text again.
type finder struct {
	known map[string]uint32
	// recent are 1 + the numbers of texts by their ends: most columns have few.
	recent [256]uint32
}

func (c *Column) add(text string) {
	slot := &c.recent[0]
	if n := len(text); n > 0 {
		slot = &c.recent[byte(n)+text[0]+7*text[n-1]]
	}
	if *slot == 0 || c.Texts[*slot-1] != text {
		*slot = c.find(text) + 1
	}
	c.Of = append(c.Of, *slot-1)
}

func (c *Column) find(text string) uint32 {
	k, ok := c.known[text]
	if !ok {
		k = uint32(len(c.Texts))
		text = strings.Clone(text) // else the whole row would be kept
		c.known[text] = k
		c.Texts = append(c.Texts, text)
	}
	return k
}

// Read reads a whole file. Rows that are too short or too long are left out and come
// as the error of a table that is there.
func Read(path string) (*Table, error) {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return nil, problem.File(path, err)
	case info.IsDir():
		return nil, problem.At(path, 0, "", "is a folder, want a CSV file")
	case info.Size() > maxBytes:
		return nil, problem.At(path, 0, "", "%d bytes are more than a table may have (%d)", info.Size(), maxBytes)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, problem.File(path, err)
	}
	return Parse(path, data)
}

// Parse is Read of content that is at hand; path is for messages.
func Parse(path string, data []byte) (*Table, error) {
	return ParseWith(path, data, Options{})
}

// ParseWith is Parse with options.
func ParseWith(path string, data []byte, o Options) (*Table, error) {
	r, err := NewReader(path, bytes.NewReader(data), o)
	if err != nil {
		return nil, err
	}
	t := &Table{Path: path, Columns: r.Columns, Content: data, index: r.index, cells: make([]Column, len(r.Columns))}
	for k := range t.cells {
		t.cells[k].finder = &finder{known: map[string]uint32{}}
	}
	var problems problem.List
	for {
		cells, err := r.Next()
		switch {
		case errors.Is(err, io.EOF):
			for k := range t.cells {
				t.cells[k].finder = nil
			}
			return t, problems.Err()
		case err != nil && cells == nil:
			return nil, err
		case err != nil:
			problems.AddError(path, r.Line(), "", err)
		default:
			t.Rows = append(t.Rows, Row{r.Line(), len(t.Rows)})
			for k, text := range cells {
				t.cells[k].add(text)
			}
		}
	}
}

// Need fails when a column is absent, naming those there are.
func (t *Table) Need(names ...string) error { return need(t.Path, t.Columns, names) }

// Has reports whether there is a column.
func (t *Table) Has(column string) bool { _, ok := t.index[column]; return ok }

// Get returns a cell, "" for an absent column.
func (t *Table) Get(r Row, column string) string {
	i, ok := t.index[column]
	if !ok {
		return ""
	}
	return t.cells[i].text(r)
}

// Cells returns a row's cells.
func (t *Table) Cells(r Row) []string {
	cells := make([]string, len(t.Columns))
	for k := range cells {
		cells[k] = t.cells[k].text(r)
	}
	return cells
}

func (c *Column) text(r Row) string { return c.Texts[c.Of[r.Number]] }

// Column returns a column, nil when it is absent.
func (t *Table) Column(name string) *Column {
	i, ok := t.index[name]
	if !ok {
		return nil
	}
	return &t.cells[i]
}

// Rename gives a column that is there another name; a column that has it leaves the table.
func (t *Table) Rename(from, to string) {
	columns, cells := t.Columns, t.cells
	t.Columns, t.cells, t.index = nil, nil, map[string]int{}
	for k, name := range columns {
		if name == to && from != to {
			continue
		}
		if name == from {
			name = to
		}
		t.index[name] = len(t.Columns)
		t.Columns, t.cells = append(t.Columns, name), append(t.cells, cells[k])
	}
}

// Where is the table with some of its rows.
func (t *Table) Where(keep func(Row) bool) *Table {
	some := *t
	some.Rows = nil
	for _, r := range t.Rows {
		if keep(r) {
			some.Rows = append(some.Rows, r)
		}
	}
	return &some
}
