package frocio

import (
	"runtime"
	"slices"

	"github.com/alignedfusion/alignedfusion/eval/froc"
	"github.com/alignedfusion/alignedfusion/eval/resample"
	"github.com/alignedfusion/alignedfusion/internal/table"
)

// blockBytes is how much of a table a processor reads at a time; 0: every row by itself.
var blockBytes = 1 << 20 // tests change it

// readBlocks reads the marks of a table block by block on all processors, straight to where
// they stay. A block in which some row needs a closer look is read again by rest, row by row,
// in its turn: marks, notes and errors are those of reading all rows that way.
func (t *Truth) readBlocks(tab *rowFile, l *layout, p *Predictions, rest func() error) error {
	var blocks []table.Block
	size := blockBytes
	if tab.size > 0 { // so that memory is taken for what is there
		size = min(size, int(tab.size)+1)
	}
	for {
		for len(blocks) < 2*runtime.GOMAXPROCS(0) {
			b, err := tab.csv.NextBlock(size)
			if err != nil {
				return err
			}
			if b.Text == "" {
				break
			}
			blocks = append(blocks, b)
		}
		if len(blocks) == 0 {
			return nil
		}
		read := t.readPlain(tab, l, p, blocks)
		if err := tab.ctx.Err(); err != nil {
			return err
		}
		if read == len(blocks) {
			blocks = blocks[:0]
			continue
		}
		all := tab.csv.Return(blocks[read], blocks[read+1:])
		if err := rest(); err != nil || all {
			return err
		}
		blocks = slices.Delete(blocks, 0, read+1)
	}
}

// readPlain adds the marks of blocks up to the first that is not plain; it returns its place.
func (t *Truth) readPlain(tab *rowFile, l *layout, p *Predictions, blocks []table.Block) int {
	lines, bytes := 0, 0
	for _, b := range blocks {
		lines, bytes = lines+b.Lines, bytes+len(b.Text)
	}
	start := len(p.Marks)
	if cap(p.Marks)-start < lines {
		// for the whole table, so that memory for it is taken once
		whole := int(1.02 * float64(lines) * max(1, float64(tab.size)/float64(bytes)))
		p.Marks, p.Rows = slices.Grow(p.Marks, whole), slices.Grow(p.Rows, whole)
	}
	marks, rows := p.Marks[start:start+lines], p.Rows[start:start+lines]
	makers := make([]plainMarks, len(blocks))
	at := 0
	for k, b := range blocks {
		makers[k] = plainMarks{truth: t, layout: l, marks: marks[at : at : at+b.Lines], rows: rows[at : at : at+b.Lines], image: -1}
		at += b.Lines
	}
	plain := make([]bool, len(blocks))
	_ = resample.ParallelContext(tab.ctx, len(blocks), func(next func() (int, bool)) { // whose error is the caller's
		for k, ok := next(); ok; k, ok = next() {
			plain[k] = tab.csv.Rows(blocks[k], makers[k].add)
		}
	})
	for k := range makers {
		if !plain[k] {
			return k
		}
		p.Marks, p.Rows = append(p.Marks, makers[k].marks...), append(p.Rows, makers[k].rows...)
		p.LeftOut += makers[k].leftOut
	}
	return len(blocks)
}

// plainMarks makes marks of rows with which nothing is wrong, a mark of each.
type plainMarks struct {
	truth   *Truth
	layout  *layout
	marks   []froc.Prediction
	rows    []int32
	leftOut int
	image   int    // of the row before; -1: none
	id      string // of the row before, as it stands there: that of t.Images lies far away
}

// add is false for a row that needs a closer look.
func (m *plainMarks) add(row []string, line int) bool {
	t, l := m.truth, m.layout
	if id := row[l.image]; m.image < 0 || id != m.id {
		i, known := t.index[id]
		if !known && t.left[id] {
			m.leftOut++
			return true
		}
		if !known {
			return false
		}
		m.image, m.id = i, id
	}
	class := int32(froc.AnyClass)
	if l.class >= 0 {
		var known bool
		if class, known = t.knownClass(row[l.class]); !known {
			return false
		}
	}
	if !t.keeps(class) {
		return true
	}
	score, err := l.number(row[l.score])
	if err != nil {
		return false
	}
	region, err := l.place(row, line)
	if err != nil {
		return false
	}
	m.marks = append(m.marks, froc.Prediction{Image: m.image, Region: region, Score: score, Class: class})
	m.rows = append(m.rows, int32(line))
	return true
}
