package report

import (
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/alignedfusion/alignedfusion/host/report/schema"
	"github.com/alignedfusion/alignedfusion/internal/atomicfile"
	"github.com/alignedfusion/alignedfusion/internal/nearest"
	"github.com/alignedfusion/alignedfusion/internal/problem"
	"github.com/alignedfusion/alignedfusion/internal/table"
)

// Table is a filled attribute table. Cells has one row per report and one cell
// per attribute.
type Table struct {
	Schema schema.Schema
	IDs    []string
	Cells  [][]schema.Cell
	// Unread names the reports in a language that the rules do not know.
	Unread []string
	// Extra names the columns of the file it was read from that are none of the schema's.
	Extra []string
}

// WriteCSV writes the table as a person can read and correct it: the column id,
// one column per attribute (schema.FormatCell: 1, 0, -1 and empty for binary
// attributes; the value, "no", "possibly VALUE" and empty for others), then one
// column "NAME.evidence" per attribute: SECTION[START:END] "QUOTE", with byte
// offsets and unprintable characters escaped.
func (t Table) WriteCSV(w io.Writer) error {
	out, err := NewTableWriter(w, t.Schema)
	if err != nil {
		return err
	}
	for n, id := range t.IDs {
		if err := out.Row(id, t.Cells[n]); err != nil {
			return err
		}
	}
	return out.Flush()
}

// TableWriter writes a table row by row, as Table.WriteCSV does.
type TableWriter struct {
	csv    *csv.Writer
	schema schema.Schema
	row    []string
}

// NewTableWriter writes the header.
func NewTableWriter(w io.Writer, s schema.Schema) (*TableWriter, error) {
	out := &TableWriter{csv: csv.NewWriter(w), schema: s}
	header := append([]string{"id"}, s.Names()...)
	for _, name := range s.Names() {
		header = append(header, name+schema.EvidenceSuffix)
	}
	return out, out.csv.Write(header)
}

// Row writes one report's cells, one per attribute of the schema.
func (w *TableWriter) Row(id string, cells []schema.Cell) error {
	w.row = append(w.row[:0], id)
	for i, a := range w.schema.Attributes {
		w.row = append(w.row, schema.FormatCell(a, cells[i]))
	}
	for i := range w.schema.Attributes {
		w.row = append(w.row, FormatEvidence(cells[i]))
	}
	return w.csv.Write(w.row)
}

// Flush writes what is left; an error of an earlier Row may come only now.
func (w *TableWriter) Flush() error {
	w.csv.Flush()
	return w.csv.Error()
}

// WriteFile writes the table to a file that appears whole or not at all, and that only its
// owner may read: evidence quotes reports.
func (t Table) WriteFile(path string) error { return atomicfile.WritePrivate(path, t.WriteCSV) }

// FormatEvidence writes a cell's evidence as SECTION[START:END] "QUOTE", after "accepted" or
// "corrected" when a person has seen the cell; "" for neither.
func FormatEvidence(c schema.Cell) string {
	e := c.Evidence
	if e.IsZero() {
		return c.Review
	}
	return strings.TrimSpace(fmt.Sprintf("%s %s[%d:%d] %s", c.Review, e.Section, e.Start, e.End, strconv.Quote(e.Quote)))
}

// ParseEvidence reads what FormatEvidence writes into a cell.
func ParseEvidence(s string, c *schema.Cell) (err error) {
	s = strings.TrimSpace(s)
	for _, mark := range []string{schema.Accepted, schema.Corrected} {
		if rest, ok := strings.CutPrefix(s, mark); ok && (rest == "" || rest[0] == ' ') {
			c.Review, s = mark, strings.TrimSpace(rest)
			break
		}
	}
	c.Evidence, err = parseEvidence(s)
	return err
}

func parseEvidence(s string) (schema.Evidence, error) {
	if s == "" {
		return schema.Evidence{}, nil
	}
	bad := errors.New(`want SECTION[START:END] "QUOTE"`)
	head, quoted, ok := strings.Cut(s, "] \"")
	open := strings.LastIndexByte(head, '[')
	if !ok || open < 0 {
		return schema.Evidence{}, bad
	}
	from, to, ok := strings.Cut(head[open+1:], ":")
	if !ok {
		return schema.Evidence{}, bad
	}
	start, err1 := strconv.Atoi(from)
	end, err2 := strconv.Atoi(to)
	quote, err3 := strconv.Unquote(`"` + quoted)
	if err1 != nil || err2 != nil || err3 != nil || start < 0 || end < start || end-start != len(quote) {
		return schema.Evidence{}, bad
	}
	return schema.Evidence{Section: head[:open], Start: start, End: end, Quote: quote}, nil
}

// Synonym gives the value that an attribute's cell means by a word that is not of its value
// set; nil knows none.
type Synonym func(attribute, text string) (value string, ok bool)

// ParseTable reads a table that WriteCSV wrote and a person may have corrected:
// attributes may be left out or reordered, evidence may be missing or cleared, columns
// separated by semicolons; further columns are named in Extra. A value outside the value
// set that is no synonym, a column that looks like a misspelt attribute or a broken
// evidence cell is an error that names the row and column, never the content; path is for
// errors.
func ParseTable(data []byte, path string, s schema.Schema, synonym Synonym) (Table, error) {
	in, header, err := openCSV(bytes.NewReader(data), path)
	if err != nil {
		return Table{}, err
	}
	t := Table{Schema: s}
	columns, err := t.columns(path, header)
	if err != nil {
		return Table{}, err
	}
	rows := map[string]int{}
	for row := 2; ; row++ {
		record, err := in.Next()
		if errors.Is(err, io.EOF) {
			return t, nil
		}
		if err != nil {
			return Table{}, err
		}
		name := strings.TrimSpace(clean(record[columns.id]))
		if first, dup := rows[name]; dup || name == "" {
			return Table{}, fmt.Errorf("%s: row %d: the id is empty or that of row %d", path, row, first)
		}
		rows[name] = row
		cells := make([]schema.Cell, len(s.Attributes))
		for i, a := range s.Attributes {
			cells[i] = schema.Cell{Value: -1}
			if columns.values[i] < 0 {
				continue
			}
			c, err := parseCell(a, clean(record[columns.values[i]]), fmt.Sprintf("%s:%d", path, row), synonym)
			if err != nil || c.Foreign() {
				return Table{}, fmt.Errorf("%s: row %d: column %q holds no value of its set %q", path, row, a.Name, a.Values)
			}
			if j := columns.evidence[i]; j >= 0 {
				if err := ParseEvidence(record[j], &c); err != nil {
					return Table{}, fmt.Errorf("%s: row %d: column %q: %w", path, row, header[j], err)
				}
				if c.State == schema.Unmentioned {
					c.Evidence = schema.Evidence{}
				}
			}
			if a.Kind != schema.Numeric {
				c.Raw = ""
			}
			cells[i] = c
		}
		t.IDs = append(t.IDs, name)
		t.Cells = append(t.Cells, cells)
	}
}

// parseCell reads a cell by the attribute's own words, else by a synonym.
func parseCell(a schema.Attribute, text, origin string, synonym Synonym) (schema.Cell, error) {
	c, err := a.Bind(schema.Written(text, origin))
	if err == nil && !c.Foreign() || synonym == nil {
		return c, err
	}
	word, doubt := strings.TrimSpace(text), ""
	if c.State == schema.Uncertain {
		word, doubt = c.Raw, "possibly "
	}
	if value, ok := synonym(a.Name, word); ok {
		return a.Bind(schema.Written(doubt+value, origin))
	}
	return c, err
}

// columnsOf says where things stand in a table's rows, -1 for nowhere.
type columnsOf struct {
	id               int
	values, evidence []int
}

// columns finds id, attributes and evidence among the header's names, and notes the others
// in Extra.
func (t *Table) columns(path string, header []string) (columnsOf, error) {
	n := len(t.Schema.Attributes)
	at := columnsOf{-1, slices.Repeat([]int{-1}, n), slices.Repeat([]int{-1}, n)}
	found := 0
	for j, name := range header {
		base, isEvidence := strings.CutSuffix(name, schema.EvidenceSuffix)
		switch i := t.Schema.Index(base); {
		case name == "id":
			at.id = j
		case i >= 0 && isEvidence:
			at.evidence[i] = j
		case t.Schema.Index(name) >= 0:
			at.values[t.Schema.Index(name)] = j
			found++
		default:
			t.Extra = append(t.Extra, name)
		}
	}
	if at.id < 0 {
		return at, fmt.Errorf("%s has no column id", path)
	}
	if found == 0 {
		return at, fmt.Errorf("%s: none of its columns is an attribute: want some of %q", path, t.Schema.Names())
	}
	for i, a := range t.Schema.Attributes {
		if like := nearest.Typo(a.Name, t.Extra); at.values[i] < 0 && like != "" {
			return at, fmt.Errorf("%s: column %q is no attribute; is it %q?", path, like, a.Name)
		}
	}
	return at, nil
}

// WrittenTable takes the cells of a table whose schema is not known as they are written:
// its attributes have names and no kind. Columns of evidence are left out.
func WrittenTable(t *table.Table) (*Table, error) {
	if err := t.Need("id"); err != nil {
		return nil, err
	}
	out := &Table{}
	for _, name := range t.Columns {
		if name != "id" && !strings.HasSuffix(name, schema.EvidenceSuffix) {
			out.Schema.Attributes = append(out.Schema.Attributes, schema.Attribute{Name: name})
		}
	}
	lines := map[string]int{}
	for _, r := range t.Rows {
		id := t.Get(r, "id")
		if first, twice := lines[id]; twice || id == "" {
			return nil, problem.At(t.Path, r.Line, "id", "is empty or that of line %d", first)
		}
		lines[id] = r.Line
		cells := make([]schema.Cell, len(out.Schema.Attributes))
		for i, name := range out.Schema.Names() {
			cells[i] = schema.Written(t.Get(r, name), fmt.Sprintf("%s:%d", t.Path, r.Line))
		}
		out.IDs, out.Cells = append(out.IDs, id), append(out.Cells, cells)
	}
	if len(out.IDs) == 0 || len(out.Schema.Attributes) == 0 {
		return nil, problem.At(t.Path, 0, "", "want a column id, columns of attributes, and rows")
	}
	return out, nil
}

// Project carries cells of one schema over to another that names the same
// attributes, perhaps fewer, in another order or with other value sets: values by
// name, numbers by their own bins. Attributes that the first schema lacks are an
// error.
func Project(from schema.Schema, cells []schema.Cell, to schema.Schema) ([]schema.Cell, error) {
	out := make([]schema.Cell, len(to.Attributes))
	for i, a := range to.Attributes {
		j := from.Index(a.Name)
		if j < 0 {
			return nil, fmt.Errorf("attribute %q is not known here; known are %q", a.Name, from.Names())
		}
		var err error
		if out[i], err = a.Convert(from.Attributes[j], cells[j]); err != nil {
			return nil, err
		}
	}
	return out, nil
}
