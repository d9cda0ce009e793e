package table

import (
	"bytes"
	"errors"
	"io"
	"os"
	"slices"
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
}

// columnReader reads the cells of a column.
type columnReader struct {
	texts Index
	of    []uint32
	// recent are 1 + the numbers of texts by their ends: most columns have few.
	recent [256]uint32
}

func (c *columnReader) add(text string) {
	slot := &c.recent[0]
	if n := len(text); n > 0 {
		slot = &c.recent[byte(n)+text[0]+7*text[n-1]]
	}
	if *slot == 0 || c.texts.Texts[*slot-1] != text {
		number, isNew := c.texts.Add(text)
		if isNew {
			c.texts.Texts[number] = strings.Clone(text) // else the whole row would be kept
		}
		*slot = uint32(number) + 1
	}
	c.of = append(c.of, *slot-1)
}

// addAll adds column k of a batch of rows, which have so many columns.
func (c *columnReader) addAll(b rowBatch, k, columns int) {
	for ; k < len(b.cells); k += columns {
		c.add(b.cells[k])
	}
	if b.more > 0 {
		c.of = slices.Grow(c.of, b.more)
		if len(c.texts.Texts) == len(c.of) { // names
			c.texts.Texts = slices.Grow(c.texts.Texts, b.more)
		}
	}
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
	p := &parser{r: r, bytes: len(data), columns: make([]columnReader, len(r.Columns)), batches: make(chan rowBatch, 2), used: make(chan []string, 4)}
	sorted := make(chan struct{})
	go func() { // while the next rows are read
		defer close(sorted)
		for b := range p.batches {
			for k := range p.columns {
				p.columns[k].addAll(b, k, len(p.columns))
			}
			select {
			case p.used <- b.cells[:0]:
			default:
			}
		}
	}()
	err = p.read()
	close(p.batches)
	<-sorted
	if err != nil {
		return nil, err
	}
	t := &Table{Path: path, Columns: r.Columns, Rows: p.rows, Content: data, index: r.index}
	for k := range p.columns {
		t.cells = append(t.cells, Column{p.columns[k].texts.Texts, p.columns[k].of})
	}
	return t, p.problems.Err()
}

// parser reads the rows of a table and has them sorted into columns.
type parser struct {
	r        *Reader
	bytes    int
	rows     []Row
	columns  []columnReader
	batches  chan rowBatch
	used     chan []string // cells of batches whose memory may be used again
	problems problem.List
}

// rowBatch are the cells of rows that were read, row by row.
type rowBatch struct {
	cells []string
	// more is how many rows are guessed to follow the first ones.
	more int
}

// blockBytes are read at once.
const blockBytes = 1 << 18

// read reads the rows in blocks, most of which are plain; the reader takes the others.
func (p *parser) read() error {
	if p.r.pending != nil { // the first row is data
		return p.slowly()
	}
	for {
		b, err := p.r.NextBlock(blockBytes)
		if err != nil || b.Text == "" {
			return err
		}
		before := len(p.rows)
		var batch rowBatch
		select {
		case batch.cells = <-p.used:
		default:
		}
		plain := p.r.Rows(b, func(cells []string, line int) bool {
			p.rows = append(p.rows, Row{line, len(p.rows)})
			batch.cells = append(batch.cells, cells...)
			return true
		})
		if !plain {
			p.rows = p.rows[:before]
			rest := p.r.Return(b, nil)
			if err := p.slowly(); err != nil || rest {
				return err
			}
			continue
		}
		if before == 0 { // as many more, and a few, as these are of the file
			batch.more = int(1.02 * float64(len(p.rows)) * (float64(p.bytes)/float64(len(b.Text)) - 1))
			p.rows = slices.Grow(p.rows, max(0, batch.more))
		}
		p.batches <- batch
	}
}

// slowly reads the rows that the reader has.
func (p *parser) slowly() error {
	for {
		cells, err := p.r.Next()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil && cells == nil:
			return err
		case err != nil:
			p.problems.AddError(p.r.path, p.r.Line(), "", err)
		default:
			p.rows = append(p.rows, Row{p.r.Line(), len(p.rows)})
			p.batches <- rowBatch{cells: slices.Clone(cells)}
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
	return t.cells[i].Text(r)
}

// Cells returns a row's cells.
func (t *Table) Cells(r Row) []string {
	cells := make([]string, len(t.Columns))
	for k := range cells {
		cells[k] = t.cells[k].Text(r)
	}
	return cells
}

// Text is the column's cell in a row, "" of an absent column (nil).
func (c *Column) Text(r Row) string {
	if c == nil {
		return ""
	}
	return c.Texts[c.Of[r.Number]]
}

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
