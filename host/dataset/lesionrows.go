package dataset

import (
	"cmp"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strings"

	"github.com/alignedfusion/alignedfusion/internal/problem"
	"github.com/alignedfusion/alignedfusion/internal/table"
)

// attributesFile is an attributes.csv. Its rows are of images or volumes or, where a column says
// so, of their lesions.
type attributesFile struct {
	*table.Table
	// owner is the column of the image or volume, lesion that of the lesion, "" where there is
	// none; columns are the others.
	owner, lesion string
	columns       []string
	// splits of images take the place of the published ones; nil: those hold.
	splits map[string]string
}

// readAttributes reads the attributes.csv of a folder, nil where there is none; lesion is the
// column that names a lesion.
func (o *opener) readAttributes(folder, owner, lesion string) (*attributesFile, error) {
	path := filepath.Join(folder, "attributes.csv")
	if there, _ := exists(path); !there {
		return nil, nil
	}
	t, err := o.table(path)
	if err != nil {
		return nil, err
	}
	if err := t.Need(owner); err != nil {
		return nil, err
	}
	a := &attributesFile{Table: t, owner: owner}
	if t.Has(lesion) {
		a.lesion = lesion
	}
	a.nameColumns()
	return a, nil
}

func (a *attributesFile) nameColumns() {
	a.columns = slices.DeleteFunc(slices.Clone(a.Columns), func(c string) bool {
		return c == a.owner || c == a.lesion || a.splits != nil && c == "split" || strings.HasSuffix(c, ".evidence")
	})
}

// namedLesion is a lesion that rows of attributes.csv may be of.
type namedLesion struct {
	// size orders the lesions of an image or volume.
	size float64
	// strata are those of its boxes; none where the lesion is left out.
	strata []map[string]string
}

// rows are those of each image or volume in the order in which they are to be read, one over the
// other: those of its lesions, the largest last, then that of it as a whole. What is said of a
// lesion becomes strata of its boxes. find returns nil for a lesion that is not there.
func (a *attributesFile) rows(o *opener, find func(owner, lesion string) *namedLesion) map[string][]table.Row {
	type row struct {
		table.Row
		size float64
	}
	of := map[string][]row{}
	first := map[[2]string]int{}
	for _, r := range a.Rows {
		owner, lesion := a.Get(r, a.owner), ""
		if a.lesion != "" {
			lesion = a.Get(r, a.lesion)
		}
		if line, twice := first[[2]string{owner, lesion}]; twice {
			hint := ""
			if a.lesion == "" {
				hint = "; rows of single lesions name them in a column, as docs/reference/data.md says"
			}
			o.problems.Add(a.Path, r.Line, a.owner, "%q stands twice, first in line %d%s", problem.Clip(strings.TrimSpace(owner+" "+lesion), 60), line, hint)
			continue
		}
		first[[2]string{owner, lesion}] = r.Line
		if lesion == "" {
			of[owner] = append(of[owner], row{r, math.Inf(1)})
			continue
		}
		l := find(owner, lesion)
		if l == nil {
			o.problems.Add(a.Path, r.Line, a.lesion, "%q is no lesion of %s", problem.Clip(lesion, 60), problem.Clip(owner, 60))
			continue
		}
		for _, c := range a.columns {
			text, err := o.attribute(a.Get(r, c)) // an error is that of the cell when it is read
			for _, strata := range l.strata {
				if _, there := strata[c]; there {
					o.problems.Add(a.Path, r.Line, c, "is said of the lesion elsewhere already: name the column otherwise")
				} else if err == nil && text != "" {
					strata[c] = text
				}
			}
		}
		if len(l.strata) > 0 {
			of[owner] = append(of[owner], row{r, l.size})
		}
	}
	out := make(map[string][]table.Row, len(of))
	for owner, list := range of {
		slices.SortStableFunc(list, func(a, b row) int { return cmp.Compare(a.size, b.size) })
		for _, r := range list {
			out[owner] = append(out[owner], r.Row)
		}
	}
	return out
}

// readOver reads rows one over the other: an empty cell leaves what those before it say.
func (a *attributeReader) readOver(rows []table.Row, into Attributes) {
	if len(rows) == 1 {
		a.read(rows[0], into)
		return
	}
	for _, r := range rows {
		for k := range a.columns {
			c := &a.columns[k]
			if a.understand(c, r) && c.to != nil && c.to.cells[c.code[c.texts.Of[r.Number]]-1].Raw != "" {
				a.put(c, r, into)
			}
		}
	}
}

// put puts a cell with the place where it was read, which is not that of its row's others.
func (a *attributeReader) put(c *readColumn, r table.Row, into Attributes) {
	cell := c.to.cells[c.code[c.texts.Of[r.Number]]-1]
	cell.Origin = fmt.Sprintf("%s:%d", a.t.Path, r.Line)
	c.to.put(into.row, c.to.add(cell))
}
