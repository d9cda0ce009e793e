// Package table reads CSV files with a header: comma-separated, UTF-8, LF or CRLF,
// with or without a byte order mark. Every error names the file and the line and is a
// problem.List; none shows what a cell holds.
package table

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/alignedfusion/alignedfusion/internal/nearest"
	"github.com/alignedfusion/alignedfusion/internal/problem"
)

// maxCellBytes is far above any real cell of names and numbers, maxTextBytes above any
// report.
const (
	maxCellBytes = 1 << 20
	maxTextBytes = 64 << 20
)

// Options steer how a table is read. The zero value is for tables of names and numbers.
type Options struct {
	// Text keeps cells as they are, with the space around them, and replaces what is no
	// UTF-8 by U+FFFD: for tables with running text, whose offsets count.
	Text bool
	// Headerless may take the first row for data, by returning the names of its
	// columns; nil means that it is the header.
	Headerless func(first []string) []string
	// AnySeparator takes semicolons or tabs for commas where the first line has them and
	// no comma: what spreadsheets write in many countries.
	AnySeparator bool
	// Foreign takes tables as other programs write them: separated by tabs, semicolons or
	// blanks where the header has no comma, with empty cells at the ends of rows and with
	// columns without a name, which are then called "unnamed: 0" and so on.
	Foreign bool
}

// Reader reads a table row by row.
type Reader struct {
	// Columns are the header's names, trimmed.
	Columns []string
	// Separator stands between the cells.
	Separator rune

	path    string
	foreign bool
	csv     *csv.Reader
	text    bool
	index   map[string]int
	pending []string // a first row that is data

	in        *bufio.Reader // what csv reads
	headerEnd int           // the last line of the header
	ahead     int           // the line that the next block begins at; 0: none was read
	skipped   int           // lines before those of csv
}

// NewReader reads the header; path is for messages.
func NewReader(path string, in io.Reader, o Options) (*Reader, error) {
	b := SkipMark(in)
	if start, err := b.Peek(2); err == nil && (bytes.Equal(start, []byte{0xff, 0xfe}) || bytes.Equal(start, []byte{0xfe, 0xff})) {
		return nil, problem.At(path, 1, "", "the text is UTF-16; save it as UTF-8")
	}
	r := &Reader{path: path, in: b, csv: csv.NewReader(b), text: o.Text, foreign: o.Foreign, index: map[string]int{}, Separator: ','}
	if o.Foreign || o.AnySeparator {
		r.Separator = separator(b, o.Foreign)
	}
	// a tab is white space: trimming would eat empty cells
	r.csv.FieldsPerRecord, r.csv.ReuseRecord, r.csv.TrimLeadingSpace = -1, true, !o.Text && r.Separator != '\t'
	r.csv.Comma = r.Separator
	first, err := r.read()
	if errors.Is(err, io.EOF) {
		return nil, problem.At(path, 0, "", "the table is empty, want a header and rows")
	}
	if err != nil {
		return nil, err
	}
	first = slices.Clone(first)
	if o.Headerless != nil {
		if names := o.Headerless(first); names != nil {
			r.pending, first = first, names
		}
	}
	return r, r.setHeader(first)
}

// SkipMark buffers a text, unless it is buffered, without the UTF-8 byte order mark that some
// programs put before it.
func SkipMark(in io.Reader) *bufio.Reader {
	b, buffered := in.(*bufio.Reader)
	if !buffered || b.Size() < 4096 { // csv would put a buffer of its own before a smaller one
		size := 1 << 20
		if text, short := in.(interface{ Len() int }); short {
			size = min(size, max(4096, text.Len()+1))
		}
		b = bufio.NewReaderSize(in, size)
	}
	mark := []byte("\xef\xbb\xbf")
	if start, err := b.Peek(len(mark)); err == nil && bytes.Equal(start, mark) {
		_, _ = b.Discard(len(mark)) // they lie in the buffer: this cannot fail
	}
	return b
}

// separator guesses what stands between the cells from the first line: a comma if there
// is one outside of quotes.
func separator(b *bufio.Reader, blanks bool) rune {
	start, _ := b.Peek(1 << 16)
	start = bytes.TrimLeft(start, "\r\n")
	if end := bytes.IndexAny(start, "\r\n"); end >= 0 {
		start = start[:end]
	}
	quoted := false
	bare := strings.Map(func(c rune) rune {
		if c == '"' {
			quoted = !quoted
		}
		if quoted {
			return -1
		}
		return c
	}, string(start))
	for _, sep := range ",\t;" {
		if strings.ContainsRune(bare, sep) {
			return sep
		}
	}
	if blanks && len(strings.Fields(bare)) > 2 {
		return ' '
	}
	return ','
}

func (r *Reader) setHeader(names []string) error {
	if r.foreign {
		names = trimEmpty(names, 1)
		for i := range names {
			if names[i] = strings.TrimSpace(names[i]); names[i] == "" {
				names[i] = fmt.Sprintf("unnamed: %d", i)
			}
		}
		numbers := slices.DeleteFunc(slices.Clone(names), func(name string) bool { _, err := Number(name); return err != nil })
		if len(numbers) > 1 {
			return problem.At(r.path, r.Line(), "", "the first row holds the numbers %s: there is no header; put the columns' names above it, "+
				"image,x1,y1,x2,y2,score for instance", problem.Clip(strings.Join(numbers, ", "), 60))
		}
	}
	if len(names) == 1 && strings.ContainsAny(names[0], ";\t|") {
		sep := names[0][strings.IndexAny(names[0], ";\t|")]
		return problem.At(r.path, r.Line(), "", "the columns are separated by %q, want commas: %q", string(sep), problem.Clip(names[0], 60))
	}
	for i, name := range names {
		names[i] = strings.TrimSpace(name)
		if names[i] == "" {
			return problem.At(r.path, r.Line(), "", "column %d has no name", i+1)
		}
		if first, twice := r.index[names[i]]; twice {
			return problem.At(r.path, r.Line(), names[i], "the column stands twice, at %d and %d", first+1, i+1)
		}
		r.index[names[i]] = i
	}
	r.Columns = names
	return nil
}

// Next returns the next row, whose cells are valid until the next call; io.EOF after
// the last. A row of another width than the header comes together with an error: it may
// be passed over. After any other error, which comes without cells, reading ends.
func (r *Reader) Next() ([]string, error) {
	cells, err := r.pending, error(nil)
	if r.pending = nil; cells == nil {
		if cells, err = r.read(); err != nil {
			return nil, err
		}
	}
	if r.foreign {
		cells = trimEmpty(cells, len(r.Columns))
	}
	if len(cells) != len(r.Columns) {
		return cells, problem.At(r.path, r.Line(), "", "%d cells, the header has %d", len(cells), len(r.Columns))
	}
	return cells, nil
}

// trimEmpty drops empty cells at the end of a row that has more than n.
func trimEmpty(cells []string, n int) []string {
	for len(cells) > n && strings.TrimSpace(cells[len(cells)-1]) == "" {
		cells = cells[:len(cells)-1]
	}
	return cells
}

// Line is where the last row begins, counted from 1.
func (r *Reader) Line() int {
	line, _ := r.csv.FieldPos(0)
	return r.skipped + line
}

// Offset is how many bytes have been read.
func (r *Reader) Offset() int64 { return r.csv.InputOffset() }

// read returns the next row that is not blank, with clean cells.
func (r *Reader) read() ([]string, error) {
	for {
		cells, err := r.csv.Read()
		if err != nil {
			return nil, r.readError(err)
		}
		if r.Columns == nil {
			r.headerEnd, _ = r.csv.FieldPos(0)
			for _, name := range cells {
				r.headerEnd += strings.Count(name, "\n")
			}
		}
		for i := range cells {
			if err := r.clean(cells, i); err != nil {
				return nil, err
			}
		}
		if len(cells) > 1 || strings.TrimSpace(cells[0]) != "" {
			return cells, nil
		}
	}
}

func (r *Reader) readError(err error) error {
	var parse *csv.ParseError
	switch {
	case errors.Is(err, io.EOF):
		return io.EOF
	case !errors.As(err, &parse):
		return problem.File(r.path, err)
	case errors.Is(parse.Err, csv.ErrQuote) && parse.Line > parse.StartLine:
		return problem.At(r.path, r.skipped+parse.StartLine, "", "a quote opened here is not closed properly (up to line %d)", r.skipped+parse.Line)
	}
	return problem.At(r.path, r.skipped+parse.StartLine, "", "%v", parse.Err)
}

func (r *Reader) clean(cells []string, i int) error {
	c, most := cells[i], maxCellBytes
	if r.text {
		most = maxTextBytes
	}
	if len(c) > most {
		return problem.At(r.path, r.Line(), "", "cell %d has %d bytes, at most %d are read", i+1, len(c), most)
	}
	if strings.IndexByte(c, 0) >= 0 {
		return problem.At(r.path, r.Line(), "", "a zero byte: this is no text file")
	}
	switch {
	case r.text:
		cells[i] = strings.ToValidUTF8(c, "\ufffd")
	case !utf8.ValidString(c):
		return problem.At(r.path, r.Line(), "", "cell %d is not valid UTF-8", i+1)
	default:
		cells[i] = strings.TrimSpace(c)
	}
	return nil
}

// need fails when a column is absent, naming those there are and, of a single one, the
// nearest.
func need(path string, columns, names []string) error {
	absent := slices.DeleteFunc(slices.Clone(names), func(n string) bool { return slices.Contains(columns, n) })
	if len(absent) == 0 {
		return nil
	}
	meant := ""
	spare := slices.DeleteFunc(slices.Clone(columns), func(c string) bool { return slices.Contains(names, c) })
	if best := nearest.Name(absent[0], spare); len(absent) == 1 && best != "" {
		meant = "did you mean " + problem.Quote([]string{best}) + "? "
	}
	return problem.At(path, 1, "", "column %s is absent; %sthere are %s", problem.Quote(absent), meant, problem.Quote(columns))
}
