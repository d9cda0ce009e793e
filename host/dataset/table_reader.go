package dataset

import (
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Limits of a table, far above any real one.
const (
	maxTableBytes = 512 << 20
	maxCellBytes  = 1 << 20
)

// csvTable is a CSV file with a header. Cells are trimmed.
type csvTable struct {
	path    string
	columns []string
	index   map[string]int
	rows    []csvRow
	// content is what the data set's hash covers.
	content []byte
}

type csvRow struct {
	line  int
	cells []string
}

// readTable reads a CSV file: comma-separated, UTF-8, a header, LF or CRLF, with or
// without a byte order mark. Every error names the file and the line.
func readTable(path string) (*csvTable, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fileProblem(path, err)
	}
	if info.IsDir() {
		return nil, problem(path, 0, "", "is a folder, want a CSV file")
	}
	if info.Size() > maxTableBytes {
		return nil, problem(path, 0, "", "%d bytes are more than a table may have (%d)", info.Size(), maxTableBytes)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fileProblem(path, err)
	}
	return parseTable(path, data)
}

// fileProblem says what is wrong with a path without repeating it.
func fileProblem(path string, err error) error {
	switch {
	case errors.Is(err, os.ErrNotExist):
		return problem(path, 0, "", "no such file or folder")
	case errors.Is(err, os.ErrPermission):
		return problem(path, 0, "", "no permission to read it")
	}
	var pathErr *os.PathError
	if errors.As(err, &pathErr) {
		err = pathErr.Err
	}
	return problem(path, 0, "", "%v", err)
}

func parseTable(path string, data []byte) (*csvTable, error) {
	t := &csvTable{path: path, index: map[string]int{}, content: data}
	if bytes.HasPrefix(data, []byte{0xff, 0xfe}) || bytes.HasPrefix(data, []byte{0xfe, 0xff}) {
		return nil, problem(path, 1, "", "the text is UTF-16; save it as UTF-8")
	}
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	if len(bytes.TrimSpace(data)) == 0 {
		return nil, problem(path, 0, "", "the table is empty, want a header and rows")
	}
	if i := bytes.IndexByte(data, 0); i >= 0 {
		return nil, problem(path, 1+bytes.Count(data[:i], []byte("\n")), "", "a zero byte: this is no text file")
	}
	r := csv.NewReader(bytes.NewReader(data))
	r.FieldsPerRecord = -1
	r.ReuseRecord = true
	var problems Problems
	for {
		record, err := r.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		var parse *csv.ParseError
		if errors.As(err, &parse) {
			if errors.Is(parse.Err, csv.ErrQuote) && parse.Line > parse.StartLine {
				return nil, problem(path, parse.StartLine, "", "a quote opened here is not closed properly (up to line %d)", parse.Line)
			}
			return nil, problem(path, parse.StartLine, "", "%v", parse.Err)
		}
		if err != nil {
			return nil, problem(path, 0, "", "%v", err)
		}
		line, _ := r.FieldPos(0)
		cells := make([]string, len(record))
		for i, c := range record {
			if len(c) > maxCellBytes {
				return nil, problem(path, line, "", "cell %d has %d bytes, at most %d are read", i+1, len(c), maxCellBytes)
			}
			if !utf8.ValidString(c) {
				return nil, problem(path, line, "", "cell %d is not valid UTF-8", i+1)
			}
			cells[i] = strings.TrimSpace(c)
		}
		if t.columns == nil {
			if err := t.setHeader(line, cells); err != nil {
				return nil, err
			}
			continue
		}
		if len(cells) == 1 && cells[0] == "" {
			continue // a line of spaces
		}
		if len(cells) != len(t.columns) {
			problems.add(path, line, "", "%d cells, the header has %d", len(cells), len(t.columns))
			continue
		}
		t.rows = append(t.rows, csvRow{line, cells})
	}
	return t, problems.err()
}

func (t *csvTable) setHeader(line int, cells []string) error {
	if len(cells) == 1 && strings.ContainsAny(cells[0], ";\t|") {
		sep := cells[0][strings.IndexAny(cells[0], ";\t|")]
		return problem(t.path, line, "", "the columns are separated by %q, want commas: %q", string(sep), clip(cells[0], 60))
	}
	for i, name := range cells {
		if name == "" {
			return problem(t.path, line, "", "column %d has no name", i+1)
		}
		if first, twice := t.index[name]; twice {
			return problem(t.path, line, name, "the column stands twice, at %d and %d", first+1, i+1)
		}
		t.index[name] = i
	}
	t.columns = cells
	return nil
}

// need fails when a column is absent, naming those there are.
func (t *csvTable) need(names ...string) error {
	var absent []string
	for _, n := range names {
		if !t.has(n) {
			absent = append(absent, n)
		}
	}
	if len(absent) == 0 {
		return nil
	}
	return problem(t.path, 1, "", "column %s is absent; there are %s", quoteList(absent), quoteList(t.columns))
}

func (t *csvTable) has(column string) bool { _, ok := t.index[column]; return ok }

// get returns a cell, "" for an absent column.
func (t *csvTable) get(r csvRow, column string) string {
	i, ok := t.index[column]
	if !ok {
		return ""
	}
	return r.cells[i]
}

// parseNumber reads a finite number.
func parseNumber(text string) (float64, error) {
	v, err := strconv.ParseFloat(text, 64)
	if err != nil || math.IsNaN(v) || math.IsInf(v, 0) {
		return 0, fmt.Errorf("%q is not a finite number", clip(text, 40))
	}
	return v, nil
}

// parseNumbers reads exactly n finite numbers separated by commas.
func parseNumbers(text string, n int) ([]float64, error) {
	parts := strings.Split(text, ",")
	if len(parts) != n {
		return nil, fmt.Errorf("%q has %d numbers, want %d", clip(text, 80), len(parts), n)
	}
	out := make([]float64, n)
	for i, p := range parts {
		v, err := parseNumber(strings.TrimSpace(p))
		if err != nil {
			return nil, err
		}
		out[i] = v
	}
	return out, nil
}

// notANumber reports whether a cell spells NaN or an infinity.
func notANumber(text string) bool {
	v, err := strconv.ParseFloat(text, 64)
	return err == nil && (math.IsNaN(v) || math.IsInf(v, 0))
}

// missingWord reports whether a cell spells out that nothing is known.
func missingWord(text string) bool {
	return slices.Contains([]string{"nan", "na", "n/a", "null"}, strings.ToLower(text))
}

func clip(text string, n int) string {
	if len(text) <= n {
		return text
	}
	return strings.ToValidUTF8(text[:n], "") + "…"
}

func quoteList(names []string) string {
	quoted := make([]string, len(names))
	for i, n := range names {
		quoted[i] = strconv.Quote(clip(n, 60))
	}
	if len(quoted) > 40 {
		quoted = append(quoted[:40], fmt.Sprintf("… (%d in all)", len(names)))
	}
	return strings.Join(quoted, ", ")
}
