package dataset

import (
	"encoding/csv"
	"io/fs"
	"math"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/alignedfusion/alignedfusion/internal/problem"
	"github.com/alignedfusion/alignedfusion/internal/table"
	"github.com/alignedfusion/alignedfusion/sdk/ports"
)

// What is a case of patches: the option level of a data spec.
const (
	levelPatch = "patch" // every patch, with the attributes of its slide
	levelSlide = "slide" // every slide, as a bag of its patches
)

// The modalities of patches and of bags of them; their tokens have one name.
var (
	patchModality = ports.Images.Of("patch").Name
	bagModality   = ports.Bags.Of("patch").Name
)

// Patch is a tile of a slide.
type Patch struct {
	Path string
	// Number is its place among all patches of the slide, from 0.
	Number int
	// X and Y are where it lies in the slide, in pixels of its own choice; NaN: unknown.
	X, Y float64
}

// patchColumns of patches.csv and slides.csv are neither labels nor attributes.
var patchColumns = []string{"patch", "slide", "patient", "split", "x", "y"}

// patches are the tables of a set of tiles.
type patches struct {
	o *opener
	// tiles has a row per patch, others rows per slide: slides.csv and attributes.csv.
	tiles  *table.Table
	others []*slideTable
	slides []*slideRows // in the order of their first patches
}

// slideTable has a row per slide.
type slideTable struct {
	*table.Table
	key   string // the column that names the slide
	rows  map[string]table.Row
	cells *attributeReader
}

// slideRows are the rows of a slide's patches.
type slideRows struct {
	id         string
	rows       []table.Row
	patches    []Patch
	attributes Attributes
}

// labelOf is a label column of one of the tables.
type labelOf struct {
	task, column string
	from         *slideTable // nil: the tiles
	ofSlide      bool
}

// openPatches reads tiles of slides: patches.csv, or folders of tiles, and what is known of the
// slides. A case is a patch, or a slide as a bag of its patches.
func openPatches(o *opener) error {
	o.d.Task = Classify
	p := &patches{o: o}
	if err := p.read(); err != nil {
		return err
	}
	labels, err := p.columns()
	if err != nil {
		return err
	}
	p.collect()
	if len(o.problems) > 0 {
		return nil
	}
	level := o.level
	ofPatches := slices.ContainsFunc(labels, func(l labelOf) bool { return !l.ofSlide })
	if level == "" {
		level = levelSlide
		if ofPatches {
			level = levelPatch
		}
	}
	own := slices.DeleteFunc(slices.Clone(labels), func(l labelOf) bool { return l.ofSlide != (level == levelSlide) })
	if len(own) == 0 {
		if own = labels; len(own) > 0 && level == levelPatch {
			o.warn("the patches have no label of their own: each is learned with that of its slide")
		}
	}
	names := make([]string, len(own))
	for k, l := range own {
		names[k] = l.column
	}
	byDefault := names
	if slices.Contains(names, "label") {
		byDefault = []string{"label"}
	}
	chosen, err := chooseColumns("label", o.opt.Labels, names, byDefault, nil)
	if err != nil {
		return err
	}
	own = slices.DeleteFunc(own, func(l labelOf) bool { return !slices.Contains(chosen, l.column) })
	if level == levelSlide {
		o.d.Modalities = []string{bagModality}
		for _, l := range own {
			if !l.ofSlide {
				p.one(l.column, "a slide has one label (level=slide); label patches with level=patch")
			}
		}
	} else {
		o.d.Modalities = []string{patchModality}
	}
	p.cases(level, own)
	return nil
}

// read reads the tables. What is known of a slide stands with its patches, in slides.csv or in
// attributes.csv.
func (p *patches) read() (err error) {
	o := p.o
	_, folder := exists(o.path)
	file := o.path
	if folder {
		file = filepath.Join(o.path, "patches.csv")
	} else {
		o.d.Dir = filepath.Dir(o.path)
	}
	if there, _ := exists(file); folder && !there {
		p.tiles, err = o.tilesOf(o.path)
	} else {
		p.tiles, err = o.table(file)
	}
	if err != nil {
		return err
	}
	if err := p.tiles.Need("patch", "slide"); err != nil {
		return err
	}
	for _, name := range []string{"slides.csv", "attributes.csv"} {
		path := filepath.Join(o.path, name)
		if there, _ := exists(path); !folder || !there {
			continue
		}
		t, err := o.table(path)
		if err != nil {
			return err
		}
		s := &slideTable{Table: t, key: "slide", rows: map[string]table.Row{}}
		if !t.Has("slide") {
			s.key = "id"
		}
		if err := t.Need(s.key); err != nil {
			return err
		}
		for _, r := range t.Rows {
			id := t.Get(r, s.key)
			if first, twice := s.rows[id]; twice {
				o.problems.Add(path, r.Line, s.key, "%q stands twice, first in line %d", problem.Clip(id, 60), first.Line)
			}
			s.rows[id] = r
		}
		p.others = append(p.others, s)
	}
	for _, t := range append(tablesOf(p.others), p.tiles) {
		if o.split != "" && t.Has(o.split) {
			return o.ownSplits(t)
		}
	}
	return nil
}

func tablesOf(all []*slideTable) (out []*table.Table) {
	for _, s := range all {
		out = append(out, s.Table)
	}
	return out
}

// tilePlace are the column and row, or x and y, in a tile's name: 12_7.png.
var tilePlace = regexp.MustCompile(`(\d+)_(\d+)\.[A-Za-z]+$`)

// tilesOf makes a table of a folder: its folders are slides, the pictures below them patches.
func (o *opener) tilesOf(dir string) (*table.Table, error) {
	var text strings.Builder
	w := csv.NewWriter(&text)
	_ = w.Write([]string{"patch", "slide", "x", "y"})
	n := 0
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(dir, path)
		rel = filepath.ToSlash(rel)
		slide, _, below := strings.Cut(rel, "/")
		if err != nil || e.IsDir() || !below || !isPicture(path) {
			return err
		}
		row := []string{rel, slide, "", ""}
		if m := tilePlace.FindStringSubmatch(rel); m != nil {
			row[2], row[3] = m[1], m[2]
		}
		n++
		return w.Write(row)
	})
	if err != nil {
		return nil, problem.File(dir, err)
	}
	if n == 0 {
		return nil, problem.At(dir, 0, "", "there is no patches.csv, and no picture in a folder of a slide: want patches.csv (patch,slide,x,y,…) or %s/SLIDE/X_Y.png", filepath.ToSlash(dir))
	}
	w.Flush()
	t, err := table.Parse(filepath.Join(dir, "patches.csv"), []byte(text.String()))
	if err != nil {
		return nil, err
	}
	o.hashTable(t)
	return t, nil
}

// columns sorts the columns of all tables: labels of patches and of slides, and attributes,
// which are the slides'.
func (p *patches) columns() (labels []labelOf, err error) {
	o := p.o
	var attributes []string
	seen := map[string]*table.Table{}
	add := func(t *table.Table, from *slideTable) error {
		for _, c := range t.Columns {
			if c == "slide" || from != nil && c == from.key {
				continue
			}
			if first := seen[c]; first != nil && !isLabel(c) {
				return problem.At(t.Path, 1, c, "the column stands in %s already", filepath.Base(first.Path))
			}
			seen[c] = t
			name, ofSlide := strings.CutPrefix(c, "slide_")
			switch {
			case isLabel(c):
				labels = append(labels, labelOf{strings.TrimPrefix(c, "label."), c, from, from != nil})
			case ofSlide && isLabel(name):
				labels = append(labels, labelOf{strings.TrimPrefix(name, "label."), c, from, true})
			case !slices.Contains(patchColumns, c) && !strings.HasSuffix(c, ".evidence"):
				attributes = append(attributes, c)
			}
		}
		return nil
	}
	if err := add(p.tiles, nil); err != nil {
		return nil, err
	}
	for _, s := range p.others {
		if err := add(s.Table, s); err != nil {
			return nil, err
		}
	}
	if o.d.AttributeColumns, err = o.chooseAttributes(attributes, attributes, nil); err != nil {
		return nil, err
	}
	for _, s := range p.others {
		s.cells = o.attributeReader(s.Table, attributes)
	}
	return labels, nil
}

func isLabel(column string) bool { return column == "label" || strings.HasPrefix(column, "label.") }

// collect puts the patches to their slides. What is a slide's must be so in all of its rows.
func (p *patches) collect() {
	o, t := p.o, p.tiles
	number := map[string]int{}
	lines := map[string]int{}
	for _, r := range t.Rows {
		id, name := t.Get(r, "slide"), t.Get(r, "patch")
		if id == "" || name == "" {
			o.problems.Add(t.Path, r.Line, "", "a patch and its slide have to be named, got patch %q of slide %q", problem.Clip(name, 60), problem.Clip(id, 60))
			continue
		}
		if lines[name] > 0 {
			o.problems.Add(t.Path, r.Line, "patch", "%q stands twice, first in line %d", problem.Clip(name, 60), lines[name])
			continue
		}
		lines[name] = r.Line
		at, known := number[id]
		if !known {
			at = len(p.slides)
			number[id] = at
			p.slides = append(p.slides, &slideRows{id: id})
		}
		s := p.slides[at]
		s.rows = append(s.rows, r)
		s.patches = append(s.patches, Patch{Path: imagePath(o.d.Dir, name), Number: len(s.patches), X: p.place(r, "x"), Y: p.place(r, "y")})
	}
	cells := o.attributeReader(t, o.d.AttributeColumns)
	for _, s := range p.slides {
		s.attributes = o.attributes().newRow()
		cells.read(s.rows[0], s.attributes)
		for _, other := range p.others {
			r, ok := other.rows[s.id]
			if !ok {
				if other.key == "slide" {
					o.problems.Add(t.Path, s.rows[0].Line, "slide", "%q is not in %s", problem.Clip(s.id, 60), filepath.Base(other.Path))
				}
				continue
			}
			other.cells.read(r, s.attributes)
		}
	}
	for _, other := range p.others {
		for _, r := range other.Rows {
			if id := other.Get(r, other.key); number[id] == 0 && (len(p.slides) == 0 || p.slides[0].id != id) {
				o.problems.Add(other.Path, r.Line, other.key, "the slide %q has no patches in %s", problem.Clip(id, 60), filepath.Base(t.Path))
			}
		}
	}
	for _, c := range append([]string{"patient", "split"}, o.d.AttributeColumns...) {
		p.one(c, "what is known of a slide holds for all of its patches")
	}
}

// place is a coordinate of a patch, NaN where there is none.
func (p *patches) place(r table.Row, column string) float64 {
	text := p.tiles.Get(r, column)
	if text == "" {
		return math.NaN()
	}
	v, err := table.Number(text)
	if err != nil {
		p.o.problems.Add(p.tiles.Path, r.Line, column, "%v", err)
	}
	return v
}

// one refuses a column of the tiles that says different things of one slide.
func (p *patches) one(column, why string) {
	if !p.tiles.Has(column) {
		return
	}
	for _, s := range p.slides {
		first := p.tiles.Get(s.rows[0], column)
		for _, r := range s.rows[1:] {
			if text := p.tiles.Get(r, column); text != first {
				p.o.problems.Add(p.tiles.Path, r.Line, column, "%q, and %q in line %d of the same slide %q: %s", problem.Clip(text, 40), problem.Clip(first, 40), s.rows[0].Line, problem.Clip(s.id, 60), why)
				break
			}
		}
	}
}

// ofSlide is what a column of one of the tables says of a slide.
func (p *patches) ofSlide(s *slideRows, column string) string {
	for _, other := range p.others {
		if r, ok := other.rows[s.id]; ok && other.Has(column) {
			return other.Get(r, column)
		}
	}
	return p.tiles.Get(s.rows[0], column)
}

// cases makes a case of every patch or of every slide.
func (p *patches) cases(level string, labels []labelOf) {
	o, t := p.o, p.tiles
	tasks := make([]labelColumn, len(labels))
	for k, l := range labels {
		tasks[k] = labelColumn{task: l.task, column: l.column}
	}
	for _, s := range p.slides {
		first := Case{ID: s.id, Patient: p.ofSlide(s, "patient"), Split: p.ofSlide(s, "split"), Stack: s.id, Attributes: s.attributes}
		if first.Patient == "" {
			first.Patient = s.id // patches of a slide stay together
		}
		for i, r := range s.rows {
			c, modality := first, patchModality
			if level == levelSlide {
				c.Patches, modality = s.patches, bagModality
			} else {
				c.ID = t.Get(r, "patch")
			}
			if i == 0 || level == levelPatch {
				c.Images = map[string]string{modality: s.patches[i].Path}
				for k, l := range labels {
					text := t.Get(r, l.column)
					if l.ofSlide {
						text = p.ofSlide(s, l.column)
					}
					if o.missing(text) {
						text = ""
					}
					tasks[k].texts = append(tasks[k].texts, text)
					c.HasTargets = c.HasTargets || text != ""
				}
				o.addCase(c, t.Path, r.Line)
			}
			o.expect(expectedImage{caseIndex: len(o.d.Cases) - 1, path: s.patches[i].Path, column: "patch"})
		}
	}
	o.labelSets(tasks, nil)
	if len(tasks) == 0 {
		o.unlabelled()
	}
}

// checkTiles refuses patches of several sizes: scaled to one they would show the tissue at
// several magnifications.
func (o *opener) checkTiles() {
	count := map[[2]int]int{}
	for _, e := range o.expects {
		count[o.d.sizes[e.path]]++
	}
	var usual [2]int
	for size, n := range count {
		if n > count[usual] || n == count[usual] && size[0]*size[1] > usual[0]*usual[1] {
			usual = size
		}
	}
	for _, e := range o.expects {
		if size := o.d.sizes[e.path]; size != usual {
			at := o.d.Cases[e.caseIndex].at
			o.problems.Add(at.file, at.line, e.column, "the patch %s is %d x %d pixels, most others are %d x %d: want patches of one size (leave those at the slide's edge out, or pad them)", filepath.ToSlash(e.path), size[1], size[0], usual[1], usual[0])
		}
	}
}
