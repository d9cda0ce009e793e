package importer

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/alignedfusion/alignedfusion/host/report"
	"github.com/alignedfusion/alignedfusion/internal/nearest"
	"github.com/alignedfusion/alignedfusion/internal/problem"
	"github.com/alignedfusion/alignedfusion/internal/table"
)

// reportsFile is where the reports lie in the data set.
const reportsFile = "reports.csv"

// reports are the texts of the reports by the ids that the data set has, and the names of
// their sections.
type reports struct {
	sections []string
	rows     map[string]map[string]string
}

// readReports reads the reports of Options.Reports; known has the data set's ids by every name
// that the source has for them. Reports of nothing that is imported are left out, and counted.
func (o *Options) readReports(known map[string]string) (*reports, []string, error) {
	if o.Reports == "" {
		return nil, nil, nil
	}
	source := report.Source{Path: o.Reports}
	if !isFolder(o.Reports) {
		column, err := reportColumn(o.Reports)
		if err != nil {
			return nil, nil, err
		}
		source.ID = column
	}
	out := &reports{rows: map[string]map[string]string{}}
	of, strangers, first := map[string]string{}, 0, ""
	err := report.Each(source, func(r report.Report) error {
		id, ok := known[r.ID]
		if !ok {
			if strangers++; first == "" {
				first = r.ID
			}
			return nil
		}
		if other, twice := of[id]; twice {
			return fmt.Errorf("the reports %q and %q are both of %s", problem.Clip(other, 60), problem.Clip(r.ID, 60), id)
		}
		of[id] = r.ID
		row := map[string]string{"id": id}
		for _, section := range r.Sections {
			if row[section.Name] = section.Text; !slices.Contains(out.sections, section.Name) {
				out.sections = append(out.sections, section.Name)
			}
		}
		out.rows[id] = row
		return nil
	})
	switch {
	case err != nil:
		return nil, nil, problem.At(o.Reports, 0, "", "%v", err)
	case len(of) == 0:
		hint := nearest.Meant(first, slices.Sorted(maps.Keys(known)))
		return nil, nil, problem.At(o.Reports, 0, "", "none of its %d reports is of a scan or picture here: the first is of %q%s", strangers, problem.Clip(first, 60), hint)
	}
	var notes []string
	ids := map[string]bool{}
	for _, id := range known {
		ids[id] = true
	}
	if strangers > 0 {
		notes = append(notes, fmt.Sprintf("%d reports are of nothing here, the first of %q: left out", strangers, problem.Clip(first, 60)))
	}
	if n := len(ids) - len(of); n > 0 {
		notes = append(notes, fmt.Sprintf("%d of %d have no report", n, len(ids)))
	}
	return out, notes, nil
}

// reportColumn is the column of a table that says what its reports are of, "" for one that
// tables of reports usually have.
func reportColumn(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", problem.File(path, err)
	}
	defer f.Close()
	r, err := table.NewReader(path, f, table.Options{Text: true, AnySeparator: true})
	if err != nil {
		return "", err
	}
	for _, name := range idColumns {
		if at := slices.IndexFunc(r.Columns, func(c string) bool { return strings.EqualFold(c, name) }); at >= 0 {
			return r.Columns[at], nil
		}
	}
	return "", nil
}

// write puts reports.csv into a data set; what it has of others is kept.
func (r *reports) write(dir string, s *Summary) error {
	if r == nil {
		return nil
	}
	s.Reports = len(r.rows)
	_, err := mergeTable(filepath.Join(dir, reportsFile), append([]string{"id"}, r.sections...), r.rows)
	return err
}
