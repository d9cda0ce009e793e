package schema

import (
	"slices"
	"strconv"
)

// Count is how often an attribute is in each state.
type Count struct {
	Name        string `json:"name"`
	Stated      int    `json:"stated"`
	Negated     int    `json:"negated"`
	Uncertain   int    `json:"uncertain"`
	Unmentioned int    `json:"unmentioned"`
}

// CountStates counts the states of every attribute over rows of cells.
func CountStates(s *Schema, rows [][]Cell) []Count {
	counts := make([]Count, len(s.Attributes))
	for i, a := range s.Attributes {
		counts[i].Name = a.Name
		for _, cells := range rows {
			switch cells[i].State {
			case Stated:
				counts[i].Stated++
			case Negated:
				counts[i].Negated++
			case Uncertain:
				counts[i].Uncertain++
			default:
				counts[i].Unmentioned++
			}
		}
	}
	return counts
}

// AddCounts adds up counts of the same attributes; either may be nil.
func AddCounts(a, b []Count) []Count {
	if a == nil {
		return b
	}
	for i := range b {
		a[i].Stated, a[i].Negated = a[i].Stated+b[i].Stated, a[i].Negated+b[i].Negated
		a[i].Uncertain, a[i].Unmentioned = a[i].Uncertain+b[i].Uncertain, a[i].Unmentioned+b[i].Unmentioned
	}
	return a
}

// Frequent keeps the attributes that at least minShare of the rows mention, and that have
// two values or more: categorical ones in order of falling frequency, numbers in bins at
// quantiles of the rows. Rows are those of training reports and no other.
func Frequent(s *Schema, rows [][]Cell, minShare float64, bins int) *Schema {
	counts := CountStates(s, rows)
	chosen := &Schema{}
	for i, a := range s.Attributes {
		mentioned := len(rows) - counts[i].Unmentioned
		if mentioned == 0 || float64(mentioned) < minShare*float64(len(rows)) {
			continue
		}
		column := make([]Cell, len(rows))
		for n, cells := range rows {
			column[n] = cells[i]
		}
		switch a.Kind {
		case Categorical:
			a.Values = byFrequency(a, column)
		case Numeric:
			a.Edges = QuantileEdges(numbers(column), bins)
			a.Values = nil
			if len(a.Edges) > 0 {
				a.Values = BinLabels(a.Edges)
			}
		}
		if len(a.Values) >= 2 {
			chosen.Attributes = append(chosen.Attributes, a)
		}
	}
	return chosen
}

// byFrequency are the values that occur, the most frequent first.
func byFrequency(a Attribute, column []Cell) []string {
	count := map[string]int{}
	for _, c := range column {
		if c.Value >= 0 {
			count[a.Values[c.Value]]++
		}
	}
	values := slices.DeleteFunc(slices.Clone(a.Values), func(v string) bool { return count[v] == 0 })
	slices.SortStableFunc(values, func(x, y string) int { return count[y] - count[x] })
	return values
}

func numbers(column []Cell) []float64 {
	var out []float64
	for _, c := range column {
		if v, err := strconv.ParseFloat(c.Raw, 64); err == nil {
			out = append(out, v)
		}
	}
	return out
}
