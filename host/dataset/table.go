package dataset

import (
	"path/filepath"
	"slices"
	"strings"

	"github.com/alignedfusion/alignedfusion/internal/problem"
	"github.com/alignedfusion/alignedfusion/internal/table"
	"github.com/alignedfusion/alignedfusion/sdk/ports"
)

// single is the modality of the one picture of a case. Modalities are named like the
// ports that they feed.
var single = ports.Images.Of("main").Name

// openTable reads a classification table: id, pictures, patient, split, labels and
// attributes. An empty label is unknown or withheld, an empty attribute missing.
func openTable(o *opener) error {
	t, err := o.table(o.path)
	if err != nil {
		return err
	}
	o.d.Dir = filepath.Dir(o.path)
	return o.caseTable(&scans{o: o, t: t}, nil)
}

// caseTable reads a table of cases, with their pictures or volumes; extra has further
// attributes by id, nil: none.
func (o *opener) caseTable(s *scans, extra *attributesFile) error {
	t, d := s.t, o.d
	d.Task = Classify
	if err := t.Need("id"); err != nil {
		return err
	}
	if err := o.ownSplits(t); err != nil {
		return err
	}
	s.frames, d.windows = map[string]*volumeFrame{}, map[string][]window{}
	modalityOf, imageColumns, labelColumns, attributes := o.caseColumns(t)
	tokens := map[string]string{}
	for _, c := range imageColumns {
		if other, twice := tokens[ports.TokensOf(modalityOf[c]).Name]; twice {
			return problem.At(t.Path, 1, c, "the columns %s and %s name one modality", other, c)
		}
		tokens[ports.TokensOf(modalityOf[c]).Name] = c
	}
	if extra != nil {
		for _, c := range extra.columns {
			if slices.Contains(attributes, c) {
				return problem.At(extra.Path, 1, c, "the column stands in %s already", filepath.Base(t.Path))
			}
			attributes = append(attributes, c)
		}
	}
	tasks, err := o.chooseLabels(t, labelColumns, attributes)
	if err != nil {
		return err
	}
	attributes = slices.DeleteFunc(attributes, func(c string) bool {
		return slices.ContainsFunc(tasks, func(l labelColumn) bool { return l.column == c })
	})
	if d.AttributeColumns, err = o.chooseAttributes(attributes, attributes, nil); err != nil {
		return err
	}
	for _, c := range imageColumns {
		d.Modalities = append(d.Modalities, s.expand(c, modalityOf[c])...)
	}
	slices.Sort(d.Modalities)

	ids, patients, splits, lesions := t.Column("id"), t.Column("patient"), t.Column("split"), t.Column("lesion")
	lines := make([]int, len(ids.Texts))
	d.Cases = make([]Case, 0, len(t.Rows))
	pictures := o.newPictureReader(s, imageColumns)
	cells := o.attributeReader(t, attributes)
	whole := extra == nil && cells.lookAtAll()
	var extraCells *attributeReader
	var extraRows map[string][]table.Row
	if extra != nil {
		extraCells, extraRows = o.attributeReader(extra.Table, attributes), extra.rows(o, findIn(s.boxes))
	}
	for _, r := range t.Rows {
		id := ids.Text(r)
		if id == "" {
			o.problems.Add(t.Path, r.Line, "id", "is empty")
			continue
		}
		first := &lines[ids.Of[r.Number]]
		if *first > 0 {
			o.problems.Add(t.Path, r.Line, "id", "%q stands twice, first in line %d", problem.Clip(id, 60), *first)
			continue
		}
		*first = r.Line
		c := Case{ID: id, Patient: patients.Text(r), Split: splits.Text(r), Attributes: o.attributes().newRow()}
		if lesion := lesions.Text(r); lesion != "" {
			c.Strata = map[string]string{"lesion": lesion}
		}
		if !whole {
			cells.read(r, c.Attributes)
		}
		if more := extraRows[id]; more != nil {
			extraCells.readOver(more, c.Attributes)
		}
		for k := range tasks {
			task := &tasks[k]
			text := o.labelText(t, r, task.column, task.cells)
			task.texts = append(task.texts, text)
			if task.event != "" {
				task.events = append(task.events, o.labelText(t, r, task.event, task.eventCells))
			}
			c.HasTargets = c.HasTargets || text != ""
		}
		pictures.read(o.addCase(c, t.Path, r.Line), r)
	}
	s.strangers(extra, ids)
	s.show()
	if whole {
		cells.takeAll()
	}
	o.warnOfAbsent()
	o.labelSets(tasks, nil)
	if len(tasks) == 0 {
		o.unlabelled()
	}
	return nil
}

// pictureReader reads what the rows of a table of cases show. It looks at every path once.
type pictureReader struct {
	o     *opener
	s     *scans
	names []string
	cells []*table.Column
	// paths are those of the texts of each column, "" where one names none.
	paths [][]string
	// images are those of the first case with a text of the first column; the next ones share
	// them where they have the same.
	images []map[string]string
	// row are the paths of the row that is read, by column.
	row map[string]string
}

func (o *opener) newPictureReader(s *scans, columns []string) *pictureReader {
	p := &pictureReader{o: o, s: s, names: columns, row: map[string]string{}}
	for _, name := range columns {
		cells := s.t.Column(name)
		paths := make([]string, len(cells.Texts))
		for k, text := range cells.Texts {
			if text != "" && !o.missing(text) {
				paths[k] = imagePath(o.d.Dir, text)
			}
		}
		p.cells, p.paths = append(p.cells, cells), append(p.paths, paths)
	}
	if len(columns) > 0 {
		p.images = make([]map[string]string, len(p.paths[0]))
		o.expects = slices.Grow(o.expects, len(columns)*len(s.t.Rows))
	}
	return p
}

// read gives a case what its row shows.
func (p *pictureReader) read(at int, r table.Row) {
	if len(p.names) == 0 {
		return
	}
	clear(p.row)
	for k, name := range p.names {
		if path := p.paths[k][p.cells[k].Of[r.Number]]; path != "" {
			p.row[name] = path // else a missing modality, unless all are
		}
	}
	c := &p.o.d.Cases[at]
	c.Images = p.shared(r)
	for _, k := range p.s.columns {
		path := p.row[k.column]
		switch {
		case path == "" || ports.Scan(k.modality):
		case isScan(path):
			p.s.addSlice(at, r, k.column, k.modality, path)
		default:
			p.o.expect(expectedImage{caseIndex: at, path: path, column: k.column})
		}
	}
	p.s.add(at, r, p.row)
	p.o.needPicture(at, p.s.t.Path, r.Line, p.names)
}

// shared are the paths of the row that is read, by modality.
func (p *pictureReader) shared(r table.Row) map[string]string {
	known := &p.images[p.cells[0].Of[r.Number]]
	same, n := *known != nil, 0
	for _, k := range p.s.columns {
		path := p.row[k.column]
		same = same && (*known)[k.modality] == path
		if path != "" {
			n++
		}
	}
	if same && n == len(*known) {
		return *known
	}
	images := make(map[string]string, n)
	for _, k := range p.s.columns {
		if path := p.row[k.column]; path != "" {
			images[k.modality] = path
		}
	}
	if *known == nil {
		*known = images
	}
	return images
}

// labelText is a label's cell, "" where it is unknown.
func (o *opener) labelText(t *table.Table, r table.Row, column string, cells *table.Column) string {
	text := cells.Text(r)
	if o.missing(text) {
		return ""
	}
	if table.NotANumber(text) {
		o.problems.Add(t.Path, r.Line, column, "%q is no class; leave the cell empty where it is unknown", text)
		return ""
	}
	return text
}

// caseColumns sorts a table's columns: which show something, as which modality, which are
// labels, and which attributes.
func (o *opener) caseColumns(t *table.Table) (modalityOf map[string]string, images, labels, attributes []string) {
	modalityOf = map[string]string{}
	reserved := []string{"id", "patient", "split", "lesion"}
	folder := o.layout == "volumes"
	if folder {
		reserved = append(reserved, "series", "source")
	}
	scanned := func(c string) bool { return ports.Scan(c) || folder && c == "path" }
	if slices.ContainsFunc(t.Columns, scanned) {
		reserved = append(append(reserved, "mask", "slice"), regionColumns...)
	} else if len(o.windows) > 0 {
		reserved = append(reserved, "slice")
	}
	for _, c := range t.Columns {
		switch {
		case slices.Contains(reserved, c) || strings.HasSuffix(c, ".evidence"):
		case c == "image":
			modalityOf[c] = single // one picture per case is the modality image.main
		case c == "path" && folder:
			modalityOf[c] = Volume
		case ports.Scan(c) || ports.Images.Has(c):
			modalityOf[c] = c
		case o.ofTime(c):
		case c == "label" || strings.HasPrefix(c, "label."):
			labels = append(labels, c)
		default:
			attributes = append(attributes, c)
		}
		if modalityOf[c] != "" {
			images = append(images, c)
		}
	}
	return modalityOf, images, labels, attributes
}

// strangers refuses rows of attributes that belong to no case.
func (s *scans) strangers(extra *attributesFile, ids *table.Column) {
	if extra == nil {
		return
	}
	cases := make(map[string]bool, len(ids.Texts))
	for _, id := range ids.Texts {
		cases[id] = true
	}
	for _, r := range extra.Rows {
		if id := extra.Get(r, "id"); !cases[id] {
			s.o.problems.Add(extra.Path, r.Line, "id", "%q is not in %s", problem.Clip(id, 60), filepath.Base(s.t.Path))
		}
	}
}

// needPicture refuses a case without any of its pictures, whose columns are given.
func (o *opener) needPicture(caseIndex int, file string, line int, columns []string) {
	switch {
	case len(columns) == 0 || len(o.d.Cases[caseIndex].Images) > 0:
	case len(columns) == 1:
		o.problems.Add(file, line, columns[0], "names no image")
	default:
		o.problems.Add(file, line, columns[0], "names no image, nor does %s: a case may lack some of its pictures, not all", strings.Join(columns[1:], " or "))
	}
}

// warnOfAbsent counts the cases that lack a picture.
func (o *opener) warnOfAbsent() {
	for _, m := range o.d.Modalities {
		lacking := 0
		for i := range o.d.Cases {
			if o.d.Cases[i].Images[m] == "" {
				lacking++
			}
		}
		if lacking > 0 && len(o.problems) == 0 {
			o.warn("%d of %d cases have no %s: for them that modality is missing", lacking, len(o.d.Cases), m)
		}
	}
}

// unlabelled gives cases that come without labels the label sets of a run, unknown.
func (o *opener) unlabelled() {
	o.d.Labels = o.opt.LabelSets
	unknown := map[string]int{}
	for _, set := range o.d.Labels {
		unknown[set.Name] = -1
	}
	for i := range o.d.Cases {
		o.d.Cases[i].Labels = unknown
	}
}

// warnOfUntrained names the classes that the training split does not have, unless it
// has no label at all: then nothing is to be trained.
func (o *opener) warnOfUntrained() {
	for _, set := range o.d.Labels {
		trained := map[string]bool{}
		c := o.classColumn(set)
		for _, cell := range c.cells {
			if o.d.Cases[cell.caseIndex].Split == "train" {
				trained[c.texts[cell.text].text] = true
			}
		}
		for _, class := range set.Classes {
			if len(trained) > 0 && !trained[class] {
				o.warn("class %q of %s is absent from the training split", class, set.Name)
			}
		}
	}
}
