package table

import (
	"encoding/csv"
	"errors"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/alignedfusion/alignedfusion/internal/problem"
)

// Block is a stretch of whole lines of a table, to be read beside others.
type Block struct {
	Text  string
	Line  int // of its first line, counted from 1
	Lines int
}

// NextBlock returns the lines that come next, about size bytes of them, and an empty block
// at the end. Rows come from Next only after Return; the first row must be the header.
func (r *Reader) NextBlock(size int) (Block, error) {
	if r.ahead == 0 {
		r.ahead = r.headerEnd + 1
	}
	var text strings.Builder
	text.Grow(size + size/16)
	if _, err := io.CopyN(&text, r.in, int64(size)); err != nil && !errors.Is(err, io.EOF) {
		return Block{}, problem.File(r.path, err)
	}
	if text.Len() == size {
		rest, err := r.in.ReadBytes('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return Block{}, problem.File(r.path, err)
		}
		text.Write(rest)
	}
	b := Block{Text: text.String(), Line: r.ahead}
	b.Lines = strings.Count(b.Text, "\n")
	if b.Text != "" && !strings.HasSuffix(b.Text, "\n") {
		b.Lines++
	}
	r.ahead += b.Lines
	return b, nil
}

// Return makes Next return the rows of a block, and io.EOF behind them, after which blocks
// can be read again. Where a row with quotes may reach over the block's end, Next goes on
// with the blocks behind it, which must be all that were read, and with the rest of the
// table; all is true then.
func (r *Reader) Return(b Block, behind []Block) (all bool) {
	texts := []io.Reader{strings.NewReader(b.Text)}
	if all = strings.Contains(b.Text, `"`); all {
		for _, one := range behind {
			texts = append(texts, strings.NewReader(one.Text))
		}
		texts = append(texts, r.in)
	}
	next := csv.NewReader(io.MultiReader(texts...))
	next.FieldsPerRecord, next.ReuseRecord, next.TrimLeadingSpace, next.Comma = -1, true, r.csv.TrimLeadingSpace, r.csv.Comma
	r.csv, r.skipped = next, b.Line-1
	return all
}

// Rows calls use for every row of a block, as Next returns them, with the line it stands on.
// It is false, perhaps after some rows, where Next must read the block: at a row with an
// error, or with quotes that are not just around a cell.
func (r *Reader) Rows(b Block, use func(cells []string, line int) bool) bool {
	if r.text || r.Separator == ' ' || !utf8.ValidString(b.Text) || strings.IndexByte(b.Text, 0) >= 0 {
		return false
	}
	cells := make([]string, len(r.Columns))
	for line := b.Line; line < b.Line+b.Lines; line++ {
		var text string
		text, b.Text, _ = strings.Cut(b.Text, "\n")
		text = strings.TrimSuffix(text, "\r")
		switch ok := r.split(text, cells); {
		case ok && !use(cells, line):
			return false
		case !ok && (strings.TrimSpace(text) != "" || strings.IndexByte(text, byte(r.Separator)) >= 0):
			return false
		}
	}
	return true
}

// split fills in the cells of a line; it is false for one of another width and for what only
// a parser of CSV understands.
func (r *Reader) split(text string, cells []string) bool {
	separator, start, n := byte(r.Separator), 0, 0
	for i := 0; i <= len(text); i++ {
		if i < len(text) && text[i] != separator {
			continue
		}
		if n == len(cells) {
			return false
		}
		var ok bool
		if cells[n], ok = plainCell(text[start:i]); !ok {
			return false
		}
		n, start = n+1, i+1
	}
	return n == len(cells) && (n > 1 || cells[0] != "")
}

// plainCell returns a cell without the space or the quotes around it; it is false for other
// quotes.
func plainCell(cell string) (string, bool) {
	n := len(cell)
	if n == 0 || n > maxCellBytes {
		return cell, n == 0
	}
	quoted := strings.IndexByte(cell, '"') >= 0
	if quoted {
		if n < 2 || cell[0] != '"' || cell[n-1] != '"' || strings.IndexByte(cell[1:n-1], '"') >= 0 {
			return "", false
		}
		cell = cell[1 : n-1]
	}
	if quoted || edge(cell[0]) || edge(cell[n-1]) {
		cell = strings.TrimSpace(cell)
	}
	return cell, true
}

// edge reports whether a byte at the edge of a cell may be part of white space.
func edge(c byte) bool { return c <= ' ' || c >= utf8.RuneSelf }
