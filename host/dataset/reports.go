package dataset

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/alignedfusion/alignedfusion/host/report/schema"
	"github.com/alignedfusion/alignedfusion/internal/nearest"
	"github.com/alignedfusion/alignedfusion/internal/problem"
)

// joins are the ways in which a report may name its cases, in the order they are tried.
var joins = []struct {
	name string
	key  func(c *Case) string
}{
	{"id", func(c *Case) string { return c.ID }},
	{"image name without its ending", func(c *Case) string { return strings.TrimSuffix(filepath.Base(c.ID), filepath.Ext(c.ID)) }},
	{"volume", func(c *Case) string { return c.Stack }},
	{"patient", func(c *Case) string { return c.Patient }},
}

// joinReports gives the cases the cells of their reports.
func (o *opener) joinReports() error {
	t := o.opt.Reports
	if t == nil {
		return nil
	}
	d := o.d
	for _, name := range t.Schema.Names() {
		if slices.Contains(d.AttributeColumns, name) {
			return problem.At(o.opt.ReportsPath, 0, name, "is a column of %s too; choose the data's columns with --attributes", d.Spec)
		}
	}
	rows := map[string]int{}
	for n, id := range t.IDs {
		rows[id] = n
	}
	for _, join := range joins {
		matched := o.matchReports(join.key, rows)
		if len(matched) == 0 {
			continue
		}
		if join.name != "id" {
			o.warn("%s: no report has the id of a case; reports belong to cases by their %s", o.opt.ReportsPath, join.name)
		}
		if err := o.checkJoin(join.name, join.key, matched); err != nil {
			return err
		}
		o.warnOfUnmatched(join.key, rows, matched)
		o.addCells(join.key, rows)
		return nil
	}
	id := d.Cases[0].ID
	near := ""
	if n := nearestOr(id, t.IDs); n != t.IDs[0] {
		near = fmt.Sprintf(", the report nearest to it %q", n)
	}
	return problem.At(o.opt.ReportsPath, 0, "", "none of its %d reports belongs to one of the %d cases of %s: the first report is %q, the first case %q%s",
		len(t.IDs), len(d.Cases), d.Spec, t.IDs[0], id, near)
}

// matchReports returns the cases of each report that has some.
func (o *opener) matchReports(key func(*Case) string, rows map[string]int) map[string][]int {
	matched := map[string][]int{}
	for i := range o.d.Cases {
		k := key(&o.d.Cases[i])
		if _, ok := rows[k]; ok && k != "" {
			matched[k] = append(matched[k], i)
		}
	}
	return matched
}

// checkJoin refuses reports of which it is not clear what they were written about: an
// image's name must be that of one case, a patient must have one volume or one case.
func (o *opener) checkJoin(name string, key func(*Case) string, matched map[string][]int) error {
	if name == "id" || name == "volume" {
		return nil
	}
	var problems Problems
	for _, id := range o.opt.Reports.IDs {
		cases := matched[id]
		for _, i := range cases {
			if first := &o.d.Cases[cases[0]]; i != cases[0] && (name != "patient" || o.d.Cases[i].Stack != first.Stack || first.Stack == "") {
				problems.Add(o.opt.ReportsPath, 0, "", "the report %q may be about %q or %q, both of this %s; name reports by the cases' ids", id, first.ID, o.d.Cases[i].ID, name)
				break
			}
		}
	}
	return problems.Err()
}

// warnOfUnmatched counts what has no partner on either side.
func (o *opener) warnOfUnmatched(key func(*Case) string, rows map[string]int, matched map[string][]int) {
	t, d := o.opt.Reports, o.d
	var keys, strays, bare []string
	for i := range d.Cases {
		k := key(&d.Cases[i])
		keys = append(keys, k)
		if _, ok := rows[k]; !ok {
			bare = append(bare, d.Cases[i].ID)
		}
	}
	for _, id := range t.IDs {
		if matched[id] == nil {
			strays = append(strays, id)
		}
	}
	if len(strays) > 0 {
		o.warn("%s: %d of %d reports belong to no case, the first is %q, nearest to it %q", o.opt.ReportsPath, len(strays), len(t.IDs), strays[0], nearestOr(strays[0], keys))
	}
	if len(bare) > 0 {
		o.warn("%s: %d of %d cases have no report, the first is %q, nearest to it %q: their attributes are unmentioned", o.opt.ReportsPath, len(bare), len(d.Cases), bare[0], nearestOr(bare[0], t.IDs))
	}
}

// nearestOr is the name nearest to the one given, or the first.
func nearestOr(name string, known []string) string {
	if n := nearest.Name(name, known); n != "" {
		return n
	}
	return known[0]
}

// addCells puts the reports' cells among the cases' attributes.
func (o *opener) addCells(key func(*Case) string, rows map[string]int) {
	t, d := o.opt.Reports, o.d
	for _, name := range t.Schema.Names() {
		o.attributes().need(name)
	}
	for i := range d.Cases {
		c := &d.Cases[i]
		if c.Attributes.table == nil {
			c.Attributes = o.attributes().newRow()
		}
		n, ok := rows[key(c)]
		if !ok {
			continue
		}
		for k, a := range t.Schema.Attributes {
			cell := t.Cells[n][k]
			if cell.Origin == "" {
				cell.Origin = fmt.Sprintf("%s: report %q", o.opt.ReportsPath, t.IDs[n])
			}
			c.Attributes.set(a.Name, cell)
		}
	}
	d.AttributeColumns = append(slices.Clone(d.AttributeColumns), t.Schema.Names()...)
	bound := &schema.Schema{}
	for _, a := range t.Schema.Attributes {
		if a.Kind != "" { // else its cells are as they were written
			bound.Attributes = append(bound.Attributes, a)
		}
	}
	d.Schema = bound
}
