package schema

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"sort"
	"strconv"
	"strings"
)

// EvidenceSuffix ends the name of a column that holds where the cells of the
// column before the suffix were read.
const EvidenceSuffix = ".evidence"

// Column is what rows have in a column: every different text and the number of rows with it;
// the empty text is missing.
type Column struct {
	Name  string
	Cells []TextCount
}

// TextCount is a text and how often it comes.
type TextCount struct {
	Text string
	N    int
}

// Options steer FromColumns. The zero value guesses kinds and makes at most 5 bins.
type Options struct {
	// Kinds overrides the guessed kind of single columns.
	Kinds map[string]Kind
	// Bins is the number of quantile bins of numeric columns; 0 means 5.
	Bins int
	// MaxValues is the largest value set; rarer values are left out and count as
	// never seen. 0 means 64.
	MaxValues int
}

// Skipped names a column that cannot become an attribute, and why.
type Skipped struct {
	Column, Reason string
}

// FromColumns builds a schema from what so many training rows hold and nothing else, so that
// no test value shapes it. Categorical values are ordered by falling frequency
// (ties by name), columns of yes/no words become binary, numeric columns are
// binned at training quantiles. Columns with fewer than two distinct values are
// skipped and returned with the reason.
func FromColumns(columns []Column, rows int, o Options) (*Schema, []Skipped, error) {
	if o.Bins == 0 {
		o.Bins = 5
	}
	if o.MaxValues == 0 {
		o.MaxValues = 64
	}
	if o.Bins < 2 || o.MaxValues < 2 {
		return nil, nil, fmt.Errorf("schema from columns: %d bins, %d values at most; want at least 2 of each", o.Bins, o.MaxValues)
	}
	for name := range o.Kinds {
		if !slices.ContainsFunc(columns, func(c Column) bool { return c.Name == name }) {
			return nil, nil, fmt.Errorf("schema from columns: kinds: there is no column %q", name)
		}
	}
	s := &Schema{}
	var skipped []Skipped
	for _, column := range columns {
		if strings.HasSuffix(column.Name, EvidenceSuffix) {
			skipped = append(skipped, Skipped{column.Name, "evidence of another column"})
			continue
		}
		cells := filled(column.Cells)
		kind, given := o.Kinds[column.Name]
		if !given {
			kind = guessKind(cells)
		}
		a, reason, err := columnAttribute(column.Name, kind, cells, rows, o)
		if err != nil {
			return nil, nil, fmt.Errorf("schema from columns: %w", err)
		}
		if reason != "" {
			skipped = append(skipped, Skipped{column.Name, reason})
			continue
		}
		s.Attributes = append(s.Attributes, a)
	}
	if err := s.Validate(); err != nil {
		return nil, skipped, fmt.Errorf("schema from columns: %w", err)
	}
	return s, skipped, nil
}

// filled are the cells that hold a text, with single blanks between its words.
func filled(cells []TextCount) []TextCount {
	var out []TextCount
	for _, c := range cells {
		if text := strings.Join(strings.Fields(c.Text), " "); text != "" {
			out = append(out, TextCount{text, c.N})
		}
	}
	return out
}

func guessKind(cells []TextCount) Kind {
	binary, numeric := true, true
	for _, c := range cells {
		key := fold(c.Text)
		if _, ok := boolWords[key]; !ok && key != "-1" && key != "uncertain" && !strings.HasPrefix(key, possibly) {
			binary = false
		}
		if v, err := strconv.ParseFloat(key, 64); err != nil || math.IsNaN(v) || math.IsInf(v, 0) {
			numeric = false
		}
	}
	switch {
	case len(cells) == 0:
		return Categorical
	case binary:
		return Binary
	case numeric:
		return Numeric
	}
	return Categorical
}

// columnAttribute makes one attribute of a column's non-empty training cells, of so many
// rows. A reason says why there can be none.
func columnAttribute(name string, kind Kind, cells []TextCount, rows int, o Options) (Attribute, string, error) {
	if len(cells) == 0 {
		return Attribute{}, "no value in the training rows", nil
	}
	a := Attribute{Name: name, Kind: kind}
	switch kind {
	case Binary:
		a.Values = []string{"no", "yes"}
		var seen [2]bool
		words := true // absent/present keep their words
		n := 0
		for _, c := range cells {
			cell, err := ParseCell(a, c.Text)
			if err != nil {
				return a, "", err
			}
			if cell.Value < 0 {
				return a, "", fmt.Errorf("column %q is declared binary but has the value %q", name, c.Text)
			}
			n += c.N
			seen[cell.Value] = true
			if k := fold(c.Text); k != "absent" && k != "present" {
				words = false
			}
		}
		// What some reports state, or deny, and others leave out still tells them apart.
		if (!seen[0] || !seen[1]) && n == rows {
			return a, "the same value in every training row", nil
		}
		if words {
			a.Values = []string{"absent", "present"}
		}
		return a, "", nil
	case Numeric:
		a.Ordinal = true
		count := map[float64]int{}
		for _, c := range cells {
			v, err := strconv.ParseFloat(c.Text, 64)
			if err != nil || math.IsNaN(v) || math.IsInf(v, 0) {
				return a, "", fmt.Errorf("column %q: value %q: want a finite number", name, c.Text)
			}
			count[v] += c.N
		}
		a.Edges = quantileEdges(count, o.Bins)
		if len(a.Edges) == 0 {
			return a, "one distinct value in the training rows", nil
		}
		a.Values = BinLabels(a.Edges)
		return a, "", nil
	case Categorical:
		count := map[string]int{}
		spelling := map[string]string{}
		for _, c := range cells {
			t := c.Text
			if k := fold(t); strings.HasPrefix(k, possibly) {
				t = strings.TrimSpace(t[len(possibly):])
			}
			k := fold(t)
			if k == "" {
				continue
			}
			count[k] += c.N
			if s, ok := spelling[k]; !ok || t < s {
				spelling[k] = t
			}
		}
		keys := make([]string, 0, len(count))
		for k := range count {
			keys = append(keys, k)
		}
		sort.Slice(keys, func(i, j int) bool {
			if count[keys[i]] != count[keys[j]] {
				return count[keys[i]] > count[keys[j]]
			}
			return keys[i] < keys[j]
		})
		if len(keys) < 2 {
			return a, "one distinct value in the training rows", nil
		}
		if len(keys) > o.MaxValues {
			keys = keys[:o.MaxValues]
		}
		for _, k := range keys {
			a.Values = append(a.Values, spelling[k])
		}
		return a, "", nil
	}
	return a, "", fmt.Errorf("column %q: kind %q; want categorical, binary or numeric", name, kind)
}

// QuantileEdges returns at most bins-1 strictly increasing inner edges at the
// quantiles j/bins of values (linear interpolation between order statistics,
// Hyndman and Fan's type 7). With no more distinct values than bins, the edges
// lie half-way between neighbours, one bin per value. Every bin holds at least
// one of values; there are no edges when all are equal.
func QuantileEdges(values []float64, bins int) []float64 {
	count := map[float64]int{}
	for _, v := range values {
		count[v]++
	}
	return quantileEdges(count, bins)
}

// quantileEdges is QuantileEdges of values that come so often.
func quantileEdges(count map[float64]int, bins int) []float64 {
	distinct := slices.Sorted(maps.Keys(count))
	var edges []float64
	if len(distinct) <= bins {
		for i := 1; i < len(distinct); i++ {
			e := distinct[i-1]/2 + distinct[i]/2
			if e <= distinct[i-1] { // neighbours in floating point
				e = distinct[i]
			}
			edges = append(edges, e)
		}
		return edges
	}
	n := 0
	upTo := make([]int, len(distinct)) // values up to each
	for i, v := range distinct {
		n += count[v]
		upTo[i] = n
	}
	sorted := func(k int) float64 { return distinct[sort.SearchInts(upTo, k+1)] }
	last := distinct[0]
	for j := 1; j < bins; j++ {
		h := float64(j) / float64(bins) * float64(n-1)
		lo := int(math.Floor(h))
		hi := min(lo+1, n-1)
		f := h - float64(lo)
		e := sorted(lo)*(1-f) + sorted(hi)*f
		// Raise the edge to the next value present: the bins stay the same and
		// their range reads in the column's own numbers.
		e = distinct[min(sort.SearchFloat64s(distinct, e), len(distinct)-1)]
		if e > last {
			edges = append(edges, e)
			last = e
		}
	}
	return edges
}

// BinLabels writes the ranges of the len(edges)+1 bins: "under 30", "30 to 45",
// "45 or more". The lower end of a range belongs to it, the upper does not.
func BinLabels(edges []float64) []string {
	num := func(v float64) string { return strconv.FormatFloat(v, 'g', -1, 64) }
	labels := []string{"under " + num(edges[0])}
	for i := 1; i < len(edges); i++ {
		labels = append(labels, num(edges[i-1])+" to "+num(edges[i]))
	}
	return append(labels, num(edges[len(edges)-1])+" or more")
}
