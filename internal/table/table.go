package table

import (
	"bytes"
	"errors"
	"io"
	"os"

	"github.com/alignedfusion/alignedfusion/internal/problem"
)

// maxBytes bounds a table that is read whole, far above any real one.
const maxBytes = 512 << 20

// Table is a CSV file in memory. Its cells are trimmed.
type Table struct {
	Path    string
	Columns []string
	Rows    []Row
	// Content is the file as it was read, for a hash.
	Content []byte

	index map[string]int
}

// Row is one row and the line it begins at.
type Row struct {
	Line  int
	Cells []string
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
	t := &Table{Path: path, Columns: r.Columns, Content: data, index: r.index}
	var problems problem.List
	for {
		cells, err := r.Next()
		switch {
		case errors.Is(err, io.EOF):
			return t, problems.Err()
		case err != nil && cells == nil:
			return nil, err
		case err != nil:
			problems.AddError(path, r.Line(), "", err)
		default:
			t.Rows = append(t.Rows, Row{r.Line(), append([]string(nil), cells...)})
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
	return r.Cells[i]
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
