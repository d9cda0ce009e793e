package dataset

import (
	"fmt"
	"iter"
	"maps"
	"slices"

	"github.com/alignedfusion/alignedfusion/host/report/schema"
	"github.com/alignedfusion/alignedfusion/internal/table"
)

// Attributes are the attribute cells of one case: a row of a table that holds every
// different cell of a column once. The zero value has none. Copies of a case share them.
type Attributes struct {
	table *cellTable
	row   int
}

var unmentioned = schema.Cell{Value: -1}

// NewAttributes are the given cells, by attribute, of one case.
func NewAttributes(cells map[string]schema.Cell) Attributes {
	a := newCellTable(slices.Sorted(maps.Keys(cells))).newRow()
	for name, cell := range cells {
		a.set(name, cell)
	}
	return a
}

// Cell is the cell of an attribute, unmentioned where the case has none.
func (a Attributes) Cell(name string) schema.Cell {
	if c := a.column(name); c != nil {
		return c.cells[c.code(a.row)]
	}
	return unmentioned
}

// Mentions reports whether the case has a cell that says something about an attribute.
func (a Attributes) Mentions(name string) bool {
	c := a.column(name)
	return c != nil && c.cells[c.code(a.row)].State != schema.Unmentioned
}

// All yields the attributes and their cells.
func (a Attributes) All() iter.Seq2[string, schema.Cell] {
	return func(yield func(string, schema.Cell) bool) {
		for _, c := range a.columns() {
			if !yield(c.name, c.cells[c.code(a.row)]) {
				return
			}
		}
	}
}

// Equal reports whether two cases have the same cells of the same attributes.
func (a Attributes) Equal(b Attributes) bool {
	return maps.Equal(maps.Collect(a.All()), maps.Collect(b.All()))
}

func (a Attributes) columns() []*cellColumn {
	if a.table == nil {
		return nil
	}
	return a.table.columns
}

func (a Attributes) column(name string) *cellColumn {
	if a.table == nil {
		return nil
	}
	return a.table.column(name)
}

func (a Attributes) set(name string, cell schema.Cell) {
	c := a.column(name)
	c.put(a.row, c.add(cell))
}

// EditCells returns copies of the cases whose every cell is what change makes of it; i counts
// the cases. Where the cells were read is kept.
func EditCells(cases []Case, change func(i int, name string, cell schema.Cell) schema.Cell) []Case {
	out := slices.Clone(cases)
	t := newCellTable(nil)
	sources := map[*cellSource]*cellSource{}
	kept := map[*cellColumn][]uint32{} // 1 + the number of a cell that stays as it is
	for i := range out {
		old, edited := cases[i].Attributes, t.newRow()
		for _, c := range old.columns() {
			code := c.code(old.row)
			to, cell := t.need(c.name), change(i, c.name, c.cells[code])
			same := cell == c.cells[code]
			if c.from != nil && sources[c.from] == nil {
				sources[c.from] = &cellSource{file: c.from.file}
			}
			from := sources[c.from]
			if to.from == nil {
				to.from = from
			}
			if from != nil && to.from == from {
				from.put(edited.row, c.from.line(old.row))
			} else {
				cell.Origin = c.origin(old.row)
				same = false
			}
			if kept[c] == nil {
				kept[c] = make([]uint32, len(c.cells))
			}
			switch {
			case !same:
				to.put(edited.row, to.add(cell))
				continue
			case kept[c][code] == 0:
				kept[c][code] = 1 + to.add(cell)
			}
			to.put(edited.row, kept[c][code]-1)
		}
		out[i].Attributes = edited
	}
	return out
}

// CellCount is a cell, the number of cases that have it and the first of them.
type CellCount struct {
	schema.Cell
	Count, First int
}

// CellsOf returns every different cell that the cases have of an attribute, in the order of
// the cases.
func CellsOf(cases []Case, name string) []CellCount {
	var out []CellCount
	var last *cellColumn
	var at []int // 1 + the place in out of each of last's cells
	all := map[*cellColumn][]int{}
	eachCell(cases, name, func(i int, column *cellColumn, code uint32) {
		if column != last {
			if last, at = column, all[column]; at == nil {
				at = make([]int, len(column.cells))
				all[column] = at
			}
		}
		if at[code] == 0 {
			out = append(out, CellCount{Cell: column.cells[code], First: i})
			at[code] = len(out)
		}
		out[at[code]-1].Count++
	})
	return out
}

// eachCell visits the cells that the cases have of an attribute, by column and number.
func eachCell(cases []Case, name string, visit func(i int, column *cellColumn, code uint32)) {
	none := &cellColumn{cells: []schema.Cell{unmentioned}}
	var t *cellTable
	column := none
	for i := range cases {
		a := cases[i].Attributes
		if a.table != t {
			t = a.table
			if column = a.column(name); column == nil {
				column = none
			}
		}
		visit(i, column, column.code(a.row))
	}
}

// cellTable holds cells by column and row.
type cellTable struct {
	columns []*cellColumn
	index   map[string]int
	rows    int
}

// cellColumn holds every different cell of a column once.
type cellColumn struct {
	name string
	// cells are the different ones; the first is unmentioned.
	cells []schema.Cell
	// of says which of them a row has; rows beyond its end have the first.
	of []uint32
	// known finds a cell among cells while rows are added.
	known map[schema.Cell]uint32
	// from says where the cells were read.
	from *cellSource
}

// cellSource says at which line of a file each row was read.
type cellSource struct {
	file  string
	lines []int32
}

func newCellTable(names []string) *cellTable {
	t := &cellTable{index: map[string]int{}}
	for _, name := range names {
		t.need(name)
	}
	return t
}

// need adds a column that is not there.
func (t *cellTable) need(name string) *cellColumn {
	if c := t.column(name); c != nil {
		return c
	}
	t.index[name] = len(t.columns)
	t.columns = append(t.columns, &cellColumn{name: name, cells: []schema.Cell{unmentioned}})
	return t.columns[len(t.columns)-1]
}

func (t *cellTable) column(name string) *cellColumn {
	if k, ok := t.index[name]; ok {
		return t.columns[k]
	}
	return nil
}

func (t *cellTable) newRow() Attributes {
	t.rows++
	return Attributes{t, t.rows - 1}
}

func (c *cellColumn) code(row int) uint32 {
	if row < len(c.of) {
		return c.of[row]
	}
	return 0
}

// add returns the number of a cell among cells.
func (c *cellColumn) add(cell schema.Cell) uint32 {
	if c.known == nil {
		c.known = map[schema.Cell]uint32{}
		for k, known := range c.cells {
			c.known[known] = uint32(k)
		}
	}
	k, ok := c.known[cell]
	if !ok {
		k = uint32(len(c.cells))
		c.cells, c.known[cell] = append(c.cells, cell), k
	}
	return k
}

func (c *cellColumn) put(row int, code uint32) {
	for len(c.of) <= row {
		c.of = append(c.of, 0)
	}
	c.of[row] = code
}

func (s *cellSource) put(row, line int) {
	for len(s.lines) <= row {
		s.lines = append(s.lines, 0)
	}
	s.lines[row] = int32(line)
}

// line is that of a row, 0 where it is not known.
func (s *cellSource) line(row int) int {
	if row < len(s.lines) {
		return int(s.lines[row])
	}
	return 0
}

// origin is where a cell was read, file:line.
func (c *cellColumn) origin(row int) string {
	cell := c.cells[c.code(row)]
	if cell.Origin != "" || c.from == nil {
		return cell.Origin
	}
	if line := c.from.line(row); line > 0 {
		return fmt.Sprintf("%s:%d", c.from.file, line)
	}
	return c.from.file
}

// attributeReader reads attribute cells from the rows of a table. It looks at every
// different text of a column once.
type attributeReader struct {
	o       *opener
	t       *table.Table
	from    *cellSource
	columns []readColumn
}

type readColumn struct {
	name  string
	texts *table.Column
	to    *cellColumn // nil: checked, not used
	// second says that the cells of other cases were read elsewhere.
	second bool
	// code is 1 + that of the cell of each text, 0 where it has not been looked at.
	code []uint32
	bad  map[uint32]error
}

// attributeReader reads the named columns of a table; those among the data set's attribute
// columns are kept.
func (o *opener) attributeReader(t *table.Table, names []string) *attributeReader {
	a := &attributeReader{o: o, t: t, from: &cellSource{file: t.Path}}
	for _, name := range names {
		texts := t.Column(name)
		if texts == nil {
			continue
		}
		c := readColumn{name: name, texts: texts, code: make([]uint32, len(texts.Texts)), bad: map[uint32]error{}}
		if slices.Contains(o.d.AttributeColumns, name) {
			c.to = o.attributes().need(name)
			if c.second = c.to.from != nil; !c.second {
				c.to.from = a.from
			}
		}
		a.columns = append(a.columns, c)
	}
	return a
}

// attributes are the cells of the data set that is being read.
func (o *opener) attributes() *cellTable {
	if o.cells == nil {
		o.cells = newCellTable(o.d.AttributeColumns)
	}
	return o.cells
}

// read puts the cells of a table's row into a case's.
func (a *attributeReader) read(r table.Row, into Attributes) {
	a.from.put(into.row, r.Line)
	for k := range a.columns {
		c := &a.columns[k]
		switch {
		case !a.understand(c, r):
		case c.second:
			a.put(c, r, into)
		case c.to != nil:
			c.to.put(into.row, c.code[c.texts.Of[r.Number]]-1)
		}
	}
}

// understand finds out what a row says in a column, or names the problem.
func (a *attributeReader) understand(c *readColumn, r table.Row) bool {
	text := c.texts.Of[r.Number]
	c.look(a.o, text)
	if err := c.bad[text]; err != nil {
		a.o.problems.Add(a.t.Path, r.Line, c.name, "%v", err)
		return false
	}
	return true
}

// look finds out what a text of the column says.
func (c *readColumn) look(o *opener, text uint32) {
	if c.code[text] > 0 {
		return
	}
	cell, err := o.attributeCell(c.name, c.texts.Texts[text])
	c.code[text] = 1
	if err != nil {
		c.bad[text] = err
	} else if c.to != nil {
		c.code[text] += c.to.add(cell)
	}
}

// lookAtAll looks at every text of the columns, and reports whether none of them is wrong.
func (a *attributeReader) lookAtAll() bool {
	for k := range a.columns {
		c := &a.columns[k]
		for text := range c.texts.Texts {
			if c.look(a.o, uint32(text)); c.bad[uint32(text)] != nil {
				return false
			}
		}
	}
	return true
}

// takeAll is read of every row of the table for the case of the same number, in the place of
// the table's own columns, which are used up: of a large table there is no second copy.
func (a *attributeReader) takeAll() {
	for _, r := range a.t.Rows {
		a.from.put(r.Number, r.Line)
	}
	for k := range a.columns {
		c := &a.columns[k]
		if c.to == nil {
			continue
		}
		for row, text := range c.texts.Of {
			c.texts.Of[row] = c.code[text] - 1
		}
		c.to.of, c.texts.Of = c.texts.Of, nil
	}
}

// attributeCell checks an attribute's text; ages have to be some.
func (o *opener) attributeCell(name, text string) (schema.Cell, error) {
	text, err := o.attribute(text)
	if err == nil && name == "age" && text != "" {
		if _, words := table.Number(text); words == nil {
			err = checkAge(text)
		}
	}
	return schema.Written(text, ""), err
}
