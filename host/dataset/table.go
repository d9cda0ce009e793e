package dataset

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/alignedfusion/alignedfusion/host/report/schema"
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
	d := o.d
	d.Task = Classify
	d.Dir = filepath.Dir(o.path)
	if err := t.Need("id"); err != nil {
		return err
	}
	// One picture per case is the modality image.main.
	modalityOf := map[string]string{}
	var imageColumns, labelColumns, attributes []string
	for _, c := range t.Columns {
		switch {
		case c == "image":
			modalityOf[c] = single
			imageColumns = append(imageColumns, c)
		case ports.Images.Has(c):
			modalityOf[c] = c
			imageColumns = append(imageColumns, c)
		case c == "label" || strings.HasPrefix(c, "label."):
			labelColumns = append(labelColumns, c)
		case slices.Contains([]string{"id", "patient", "split", "lesion"}, c) || strings.HasSuffix(c, ".evidence"):
		default:
			attributes = append(attributes, c)
		}
	}
	if t.Has("image") && t.Has(single) {
		return problem.At(t.Path, 1, single, "the columns image and image.main name one modality")
	}
	byDefault := labelColumns
	if slices.Contains(labelColumns, "label") {
		byDefault = []string{"label"}
	}
	selectable := append(slices.Clone(labelColumns), attributes...)
	labels, err := chooseColumns("label", o.opt.Labels, selectable, byDefault, nil)
	if err != nil {
		return err
	}
	attributes = slices.DeleteFunc(attributes, func(c string) bool { return slices.Contains(labels, c) })
	if d.AttributeColumns, err = o.chooseAttributes(attributes, attributes, nil); err != nil {
		return err
	}
	for _, m := range modalityOf {
		d.Modalities = append(d.Modalities, m)
	}
	slices.Sort(d.Modalities)

	taskOf := func(column string) string { return strings.TrimPrefix(column, "label.") }
	columnOf := map[string]string{}
	var tasks []string
	for _, column := range labels {
		tasks = append(tasks, taskOf(column))
		columnOf[taskOf(column)] = column
	}
	byID := map[string]int{}
	var values []map[string]string
	for _, r := range t.Rows {
		id := t.Get(r, "id")
		if id == "" {
			o.problems.Add(t.Path, r.Line, "id", "is empty")
			continue
		}
		if first, twice := byID[id]; twice {
			o.problems.Add(t.Path, r.Line, "id", "%q stands twice, first in line %d", problem.Clip(id, 60), o.places[first].line)
			continue
		}
		c := Case{ID: id, Patient: t.Get(r, "patient"), Split: t.Get(r, "split"), Images: map[string]string{},
			Attributes: make(map[string]schema.Cell, len(d.AttributeColumns)), Strata: map[string]string{}}
		if lesion := t.Get(r, "lesion"); lesion != "" {
			c.Strata["lesion"] = lesion
		}
		o.readAttributes(t, r, attributes, &c)
		given := map[string]string{}
		for _, column := range labels {
			text := t.Get(r, column)
			if o.missing(text) {
				text = ""
			}
			if table.NotANumber(text) {
				o.problems.Add(t.Path, r.Line, column, "%q is no class; leave the cell empty where it is unknown", text)
				continue
			}
			given[taskOf(column)] = text
			c.HasTargets = c.HasTargets || text != ""
		}
		i := o.addCase(c, t.Path, r.Line)
		byID[id] = i
		values = append(values, given)
		for _, column := range imageColumns {
			name := t.Get(r, column)
			if name == "" || o.missing(name) {
				continue // a missing modality, unless all are
			}
			path := imagePath(d.Dir, name)
			o.d.Cases[i].Images[modalityOf[column]] = path
			o.expect(expectedImage{caseIndex: i, path: path, place: place{t.Path, r.Line}, column: column})
		}
		o.needPicture(i, t.Path, r.Line, imageColumns)
	}
	o.warnOfAbsent()
	o.labelSets(tasks, values, nil, func(task string) string { return columnOf[task] })
	if len(tasks) == 0 {
		o.unlabelled()
	}
	return nil
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
	for i := range o.d.Cases {
		o.d.Cases[i].Labels = map[string]int{}
		for _, set := range o.d.Labels {
			o.d.Cases[i].Labels[set.Name] = -1
		}
	}
}

// readAttributes checks a row's attribute cells, used or not, and keeps those chosen.
func (o *opener) readAttributes(t *table.Table, r table.Row, all []string, c *Case) {
	origin := fmt.Sprintf("%s:%d", t.Path, r.Line) // one text for all cells of the row
	for _, name := range all {
		text, err := o.attribute(t.Get(r, name))
		if err == nil && name == "age" && text != "" {
			if _, words := table.Number(text); words == nil {
				err = checkAge(text)
			}
		}
		if err != nil {
			o.problems.Add(t.Path, r.Line, name, "%v", err)
		}
		if slices.Contains(o.d.AttributeColumns, name) {
			c.Attributes[name] = schema.Written(text, origin)
		}
	}
}

// warnOfUntrained names the classes that the training split does not have, unless it
// has no label at all: then nothing is to be trained.
func (o *opener) warnOfUntrained() {
	for _, set := range o.d.Labels {
		trained := map[string]bool{}
		for _, cell := range o.classCells(set.Name, set.Classes) {
			if o.d.Cases[cell.caseIndex].Split == "train" {
				trained[cell.text] = true
			}
		}
		for _, class := range set.Classes {
			if len(trained) > 0 && !trained[class] {
				o.warn("class %q of %s is absent from the training split", class, set.Name)
			}
		}
	}
}
