// Package missing takes attribute values away, to study what a method does without
// them, and fills them in as the simple baselines do.
package missing

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"maps"
	"math/rand/v2"

	"github.com/alignedfusion/alignedfusion/host/dataset"
)

// Category is the explicit value of the baseline that makes "missing" one more value.
const Category = "(missing)"

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

// Remove returns copies of the cases in which every value is missing with
// probability rate, independently per case and attribute (missing completely at
// random). Under one seed the values missing at a low rate are missing at every
// higher one. Values that are missing already stay so and do not count: rate speaks
// of the values there are. It fails for a rate outside [0, 1].
func Remove(cases []dataset.Case, rate float64, seed uint64) ([]dataset.Case, error) {
	if !(rate >= 0 && rate <= 1) {
		return nil, fmt.Errorf("missing rate is %v, want 0 to 1", rate)
	}
	return edit(cases, func(c *dataset.Case, name, value string) string {
		if Rank(seed, c.ID, name) < rate {
			return ""
		}
		return value
	}), nil
}

// Modes returns the most frequent value of every attribute over the cases (the first
// in alphabetical order among equals); attributes without a value have none.
func Modes(cases []dataset.Case) map[string]string {
	counts := map[string]map[string]int{}
	for i := range cases {
		for name, value := range cases[i].Attributes {
			if value == "" {
				continue
			}
			if counts[name] == nil {
				counts[name] = map[string]int{}
			}
			counts[name][value]++
		}
	}
	modes := map[string]string{}
	for name, values := range counts {
		for value, n := range values {
			best, ok := modes[name]
			if !ok || n > values[best] || n == values[best] && value < best {
				modes[name] = value
			}
		}
	}
	return modes
}

// Fill returns copies of the cases in which a missing value is replaced by modes'
// value of the attribute.
func Fill(cases []dataset.Case, modes map[string]string) []dataset.Case {
	return edit(cases, func(_ *dataset.Case, name, value string) string {
		if value == "" {
			return modes[name]
		}
		return value
	})
}

// Mark returns copies of the cases in which a missing value is the value Category.
func Mark(cases []dataset.Case) []dataset.Case {
	return edit(cases, func(_ *dataset.Case, _, value string) string {
		if value == "" {
			return Category
		}
		return value
	})
}

// edit maps every attribute value of copies of the cases.
func edit(cases []dataset.Case, change func(c *dataset.Case, name, value string) string) []dataset.Case {
	out := make([]dataset.Case, len(cases))
	for i := range cases {
		out[i] = cases[i]
		out[i].Attributes = maps.Clone(cases[i].Attributes)
		for name, value := range cases[i].Attributes {
			out[i].Attributes[name] = change(&cases[i], name, value)
		}
	}
	return out
}
