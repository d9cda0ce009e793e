package report

import (
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/alignedfusion/alignedfusion/host/report/schema"
	"github.com/alignedfusion/alignedfusion/internal/atomicfile"
	"github.com/alignedfusion/alignedfusion/internal/problem"
	"github.com/alignedfusion/alignedfusion/internal/table"
)

// Table is a filled attribute table. Cells has one row per report and one cell
// per attribute.
type Table struct {
	Schema schema.Schema
	IDs    []string
	Cells  [][]schema.Cell
}

// WriteCSV writes the table as a person can read and correct it: the column id,
// one column per attribute (schema.FormatCell: 1, 0, -1 and empty for binary
// attributes; the value, "no", "possibly VALUE" and empty for others), then one
// column "NAME.evidence" per attribute: SECTION[START:END] "QUOTE", with byte
// offsets and unprintable characters escaped.
func (t Table) WriteCSV(w io.Writer) error {
	out := csv.NewWriter(w)
	header := append([]string{"id"}, t.Schema.Names()...)
	for _, name := range t.Schema.Names() {
		header = append(header, name+schema.EvidenceSuffix)
	}
	if err := out.Write(header); err != nil {
		return err
	}
	for n, id := range t.IDs {
		row := []string{id}
		for i, a := range t.Schema.Attributes {
			row = append(row, schema.FormatCell(a, t.Cells[n][i]))
		}
		for i := range t.Schema.Attributes {
			row = append(row, FormatEvidence(t.Cells[n][i].Evidence))
		}
		if err := out.Write(row); err != nil {
			return err
		}
	}
	out.Flush()
	return out.Error()
}

// WriteFile writes the table to a file that appears whole or not at all, and that only its
// owner may read: evidence quotes reports.
func (t Table) WriteFile(path string) error {
	var b bytes.Buffer
	if err := t.WriteCSV(&b); err != nil {
		return err
	}
	return atomicfile.WritePrivate(path, b.Bytes())
}

// FormatEvidence writes evidence as SECTION[START:END] "QUOTE"; "" for none.
func FormatEvidence(e schema.Evidence) string {
	if e.IsZero() {
		return ""
	}
	return fmt.Sprintf("%s[%d:%d] %s", e.Section, e.Start, e.End, strconv.Quote(e.Quote))
}

// ParseEvidence reads what FormatEvidence writes.
func ParseEvidence(s string) (schema.Evidence, error) {
	s = strings.TrimSpace(s)
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

// ReadTable reads a table that WriteCSV wrote and a person may have corrected:
// attributes may be left out or reordered, evidence may be missing or cleared. A
// value outside the value set, an unknown column or a broken evidence cell is an
// error that names the row and column, never the content.
func ReadTable(path string, s schema.Schema) (Table, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return Table{}, fmt.Errorf("attribute table: %w", err)
	}
	t, err := ParseTable(data, path, s)
	if err != nil {
		return Table{}, fmt.Errorf("attribute table: %w", err)
	}
	return t, nil
}

// ParseTable is ReadTable on bytes; path is for errors. The columns ignored may be there
// besides the attributes.
func ParseTable(data []byte, path string, s schema.Schema, ignored ...string) (Table, error) {
	in, header, err := openCSV(bytes.NewReader(data), path)
	if err != nil {
		return Table{}, err
	}
	id := -1
	values := make([]int, len(s.Attributes))
	evidence := make([]int, len(s.Attributes))
	for i := range values {
		values[i], evidence[i] = -1, -1
	}
	for j, name := range header {
		base, isEvidence := strings.CutSuffix(name, schema.EvidenceSuffix)
		switch i := s.Index(base); {
		case name == "id":
			id = j
		case i >= 0 && isEvidence:
			evidence[i] = j
		case s.Index(name) >= 0:
			values[s.Index(name)] = j
		case slices.Contains(ignored, name):
		default:
			return Table{}, fmt.Errorf("%s: column %d is neither id nor an attribute (%q) nor its evidence", path, j+1, s.Names())
		}
	}
	if id < 0 {
		return Table{}, fmt.Errorf("%s has no column id", path)
	}
	t := Table{Schema: s}
	rows := map[string]int{}
	for row := 2; ; row++ {
		record, err := in.Next()
		if errors.Is(err, io.EOF) {
			return t, nil
		}
		if err != nil {
			return Table{}, err
		}
		name := strings.TrimSpace(clean(record[id]))
		if first, dup := rows[name]; dup || name == "" {
			return Table{}, fmt.Errorf("%s: row %d: the id is empty or that of row %d", path, row, first)
		}
		rows[name] = row
		cells := make([]schema.Cell, len(s.Attributes))
		for i, a := range s.Attributes {
			cells[i] = schema.Cell{Value: -1}
			if values[i] < 0 {
				continue
			}
			c, err := a.Bind(schema.Written(clean(record[values[i]]), fmt.Sprintf("%s:%d", path, row)))
			if err != nil || c.Foreign() {
				return Table{}, fmt.Errorf("%s: row %d: column %q holds no value of its set %q", path, row, a.Name, a.Values)
			}
			if evidence[i] >= 0 && c.State != schema.Unmentioned {
				if c.Evidence, err = ParseEvidence(record[evidence[i]]); err != nil {
					return Table{}, fmt.Errorf("%s: row %d: column %q: %w", path, row, header[evidence[i]], err)
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
