package dataset

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"slices"

	"github.com/alignedfusion/alignedfusion/host/report/schema"
)

// MissingValue is the explicit value of the baseline that makes "missing" one more value.
const MissingValue = "(missing)"

// Rank returns the place in [0, 1) of an attribute's value in the order in which
// values are taken away. It depends on nothing but its arguments.
func Rank(seed uint64, caseID, attribute string) float64 {
	h := fnv.New128a()
	_, _ = h.Write([]byte(caseID))
	_, _ = h.Write([]byte{0})
	_, _ = h.Write([]byte(attribute))
	sum := h.Sum(nil)
	return rand.New(rand.NewPCG(seed^binary.LittleEndian.Uint64(sum[:8]), binary.LittleEndian.Uint64(sum[8:]))).Float64()
}

// Mask returns copies of the cases in which every attribute is unmentioned with
// probability rate, independently per case and attribute (missing completely at
// random). Under one seed the values missing at a low rate are missing at every
// higher one. Values that are missing already stay so and do not count: rate speaks
// of the values there are. It fails for a rate outside [0, 1].
func Mask(cases []Case, rate float64, seed uint64) ([]Case, error) {
	masked, err := MaskSplits(cases, func(string) float64 { return rate }, seed)
	return slices.Clone(masked), err
}

// MaskSplits is Mask at a rate for each split; where all rates are 0 it returns the cases
// themselves.
func MaskSplits(cases []Case, rateOf func(split string) float64, seed uint64) ([]Case, error) {
	rates, some := map[string]float64{}, false
	for i := range cases {
		split := cases[i].Split
		if _, known := rates[split]; known {
			continue
		}
		rate := rateOf(split)
		if !(rate >= 0 && rate <= 1) {
			return nil, fmt.Errorf("missing rate is %v, want 0 to 1", rate)
		}
		rates[split], some = rate, some || rate > 0
	}
	if !some {
		return cases, nil
	}
	return EditCells(cases, func(i int, name string, cell schema.Cell) schema.Cell {
		if rate := rates[cases[i].Split]; rate > 0 && Rank(seed, cases[i].ID, name) < rate {
			return unmentioned
		}
		return cell
	}), nil
}

// Modes returns the most frequent cell of every attribute of the schema that the cases
// are bound to (the first in alphabetical order among equals); attributes without a
// value have none.
func Modes(s *schema.Schema, cases []Case) map[string]schema.Cell {
	modes := map[string]schema.Cell{}
	for _, a := range s.Attributes {
		counts := map[string]int{}
		texts := map[string]schema.Cell{}
		best := ""
		for _, one := range CellsOf(cases, a.Name) {
			cell := one.Cell
			if cell.State == schema.Unmentioned {
				continue
			}
			text := schema.FormatCell(a, cell)
			counts[text] += one.Count
			if _, seen := texts[text]; !seen {
				cell.Evidence, cell.Origin = schema.Evidence{}, ""
				texts[text] = cell
			}
		}
		for text, n := range counts {
			if m := counts[best]; n > m || n == m && text < best {
				best = text
			}
		}
		if best != "" {
			modes[a.Name] = texts[best]
		}
	}
	return modes
}

// Fill returns copies of the cases in which an unmentioned attribute has the cell that
// modes has for it.
func Fill(cases []Case, modes map[string]schema.Cell) []Case {
	if len(modes) == 0 {
		return slices.Clone(cases)
	}
	return EditCells(cases, func(_ int, name string, cell schema.Cell) schema.Cell {
		if mode, ok := modes[name]; ok && cell.State == schema.Unmentioned {
			return mode
		}
		return cell
	})
}
