// Package split divides the rows of a data set's table into splits or folds, patients as
// a whole.
package split

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/alignedfusion/alignedfusion/internal/problem"
	"github.com/alignedfusion/alignedfusion/internal/table"
)

// Options of Write.
type Options struct {
	// By is the column whose values stay together; rows where it is empty stand alone.
	By string
	// Folds is the number of folds, fold0 and so on; 0: Ratio.
	Folds int
	// Ratio are the shares of train, val and test, in any unit.
	Ratio [3]float64
	// Stratify is a column whose values every split gets its share of; "" none.
	Stratify string
	Seed     uint64
	// Of are the splits whose rows are divided; all others keep theirs. Empty: every row.
	Of []string
	// Replace lets rows that have a split get a new one.
	Replace bool
}

// Summary counts what each split got.
type Summary struct {
	SchemaVersion int                       `json:"schema_version"`
	File          string                    `json:"file"`
	Groups        map[string]int            `json:"groups"`
	Rows          map[string]int            `json:"rows"`
	Strata        map[string]map[string]int `json:"strata,omitempty"`
}

// group is a patient.
type group struct {
	name    string
	rows    []int
	stratum string
}

// Write divides the rows of the CSV file from and writes them with a column split into
// the CSV file to, which may be the same. Equal options and rows give equal splits,
// whatever the order of the rows. An error wraps problem.ErrData.
func Write(from, to string, o Options) (*Summary, error) {
	t, err := table.Read(from)
	if err != nil {
		return nil, err
	}
	if err := t.Need(o.By); err != nil {
		return nil, err
	}
	if o.Stratify != "" {
		if err := t.Need(o.Stratify); err != nil {
			return nil, err
		}
	}
	for _, name := range o.Of {
		if !slices.ContainsFunc(t.Rows, func(r table.Row) bool { return t.Get(r, "split") == name }) {
			return nil, problem.At(from, 0, "split", "has no row of %q, which is to be divided", name)
		}
	}
	if t.Has("split") && !o.Replace && len(o.Of) == 0 {
		for _, r := range t.Rows {
			if text := t.Get(r, "split"); text != "" {
				return nil, problem.At(from, r.Line, "split", "is %q already: a new split may show in training what was tested on; add --replace where that is meant", problem.Clip(text, 40))
			}
		}
	}
	groups := groupsOf(t, o)
	names, shares := o.names()
	if len(groups) < len(names) {
		return nil, problem.At(from, 0, o.By, "has %d groups, too few for the %d splits %s", len(groups), len(names), strings.Join(names, ", "))
	}
	chosen := assign(groups, shares, o.Seed)
	s := &Summary{SchemaVersion: 1, File: filepath.ToSlash(to), Groups: map[string]int{}, Rows: map[string]int{}, Strata: map[string]map[string]int{}}
	splits := make([]string, len(t.Rows))
	for k, r := range t.Rows {
		splits[k] = t.Get(r, "split")
	}
	for k, g := range groups {
		name := names[chosen[k]]
		s.Groups[name]++
		s.Rows[name] += len(g.rows)
		if o.Stratify != "" {
			if s.Strata[g.stratum] == nil {
				s.Strata[g.stratum] = map[string]int{}
			}
			s.Strata[g.stratum][name]++
		}
		for _, r := range g.rows {
			splits[r] = name
		}
	}
	return s, write(t, to, splits)
}

func (o Options) names() (names []string, shares []float64) {
	for k := range o.Folds {
		names, shares = append(names, fmt.Sprintf("fold%d", k)), append(shares, 1)
	}
	if o.Folds > 0 {
		return names, shares
	}
	for k, name := range []string{"train", "val", "test"} {
		if o.Ratio[k] > 0 {
			names, shares = append(names, name), append(shares, o.Ratio[k])
		}
	}
	return names, shares
}

// groupsOf collects the rows of each group that is divided; its stratum is the most frequent value.
func groupsOf(t *table.Table, o Options) []group {
	byName := map[string]*group{}
	values := map[string]map[string]int{}
	for k, r := range t.Rows {
		if len(o.Of) > 0 && !slices.Contains(o.Of, t.Get(r, "split")) {
			continue
		}
		name := t.Get(r, o.By)
		if name == "" {
			name = "\x00" + strings.Join(t.Cells(r), "\x00")
		}
		g := byName[name]
		if g == nil {
			g = &group{name: name}
			byName[name], values[name] = g, map[string]int{}
		}
		g.rows = append(g.rows, k)
		if o.Stratify != "" {
			values[name][t.Get(r, o.Stratify)]++
		}
	}
	var out []group
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		g := byName[name]
		for _, v := range slices.Sorted(maps.Keys(values[name])) {
			if values[name][v] > values[name][g.stratum] || len(values[name]) == 1 {
				g.stratum = v
			}
		}
		out = append(out, *g)
	}
	return out
}

// assign gives every group a split: within each stratum the largest groups first, in an
// order drawn from the seed, to the split that lacks most of its share of the stratum's
// rows, and of all rows where that is equal.
func assign(groups []group, shares []float64, seed uint64) []int {
	order := rand.New(rand.NewPCG(seed, 0x5eed)).Perm(len(groups))
	slices.SortStableFunc(order, func(a, b int) int {
		if c := cmp.Compare(groups[a].stratum, groups[b].stratum); c != 0 {
			return c
		}
		return cmp.Compare(len(groups[b].rows), len(groups[a].rows))
	})
	total := 0.0
	for _, s := range shares {
		total += s
	}
	all := make([]float64, len(shares))
	within := map[string][]float64{}
	out := make([]int, len(groups))
	for _, k := range order {
		g := groups[k]
		have := within[g.stratum]
		if have == nil {
			have = make([]float64, len(shares))
			within[g.stratum] = have
		}
		best := 0
		for s := range shares {
			// Filled to what part of its share?
			a, b := have[s]/shares[s], have[best]/shares[best]
			if a < b || a == b && all[s]/shares[s] < all[best]/shares[best] {
				best = s
			}
		}
		out[k] = best
		have[best] += float64(len(g.rows))
		all[best] += float64(len(g.rows))
	}
	return out
}

func write(t *table.Table, to string, splits []string) error {
	columns := slices.Clone(t.Columns)
	at := slices.Index(columns, "split")
	if at < 0 {
		at = len(columns)
		columns = append(columns, "split")
	}
	rows := make([][]string, len(t.Rows))
	for k, r := range t.Rows {
		rows[k] = t.Cells(r)
		if at == len(t.Columns) {
			rows[k] = append(rows[k], "")
		}
		rows[k][at] = splits[k]
	}
	return table.Write(to, columns, rows)
}

// Repeat writes the splits of the images of images.csv into the boxes.csv beside it, where
// that has a column split, too. An error wraps problem.ErrData.
func Repeat(images string) error {
	beside := filepath.Join(filepath.Dir(images), "boxes.csv")
	if _, err := os.Stat(beside); filepath.Base(images) != "images.csv" || err != nil {
		return nil
	}
	t, err := table.Read(images)
	if err != nil {
		return err
	}
	boxes, err := table.Read(beside)
	if err != nil || !boxes.Has("split") {
		return err
	}
	of := map[string]string{}
	for _, r := range t.Rows {
		of[t.Get(r, "image")] = t.Get(r, "split")
	}
	splits := make([]string, len(boxes.Rows))
	for k, r := range boxes.Rows {
		splits[k] = of[boxes.Get(r, "image")]
	}
	return write(boxes, beside, splits)
}
