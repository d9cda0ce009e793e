package dataset

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"maps"
	"math/rand/v2"
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

// Mask returns copies of the cases in which every value is missing with
// probability rate, independently per case and attribute (missing completely at
// random). Under one seed the values missing at a low rate are missing at every
// higher one. Values that are missing already stay so and do not count: rate speaks
// of the values there are. It fails for a rate outside [0, 1].
func Mask(cases []Case, rate float64, seed uint64) ([]Case, error) {
	if !(rate >= 0 && rate <= 1) {
		return nil, fmt.Errorf("missing rate is %v, want 0 to 1", rate)
	}
	return editValues(cases, func(c *Case, name, value string) string {
		if Rank(seed, c.ID, name) < rate {
			return ""
		}
		return value
	}), nil
}

// Modes returns the most frequent value of every attribute over the cases (the first
// in alphabetical order among equals); attributes without a value have none.
func Modes(cases []Case) map[string]string {
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
func Fill(cases []Case, modes map[string]string) []Case {
	return editValues(cases, func(_ *Case, name, value string) string {
		if value == "" {
			return modes[name]
		}
		return value
	})
}

// editValues maps every attribute value of copies of the cases.
func editValues(cases []Case, change func(c *Case, name, value string) string) []Case {
	out := make([]Case, len(cases))
	for i := range cases {
		out[i] = cases[i]
		out[i].Attributes = maps.Clone(cases[i].Attributes)
		for name, value := range cases[i].Attributes {
			out[i].Attributes[name] = change(&cases[i], name, value)
		}
	}
	return out
}
