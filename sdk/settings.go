package sdk

import (
	"fmt"
	"sort"
	"strconv"
	"strings"
)

// Settings holds setting values as text; the typed getters parse them. ResolveSettings
// makes a complete and checked one.
type Settings map[string]string

// Int parses a value that ResolveSettings has checked; 0 when absent.
func (s Settings) Int(name string) int {
	n, _ := strconv.Atoi(strings.TrimSpace(s[name]))
	return n
}

// Float parses a value that ResolveSettings has checked; 0 when absent.
func (s Settings) Float(name string) float64 {
	f, _ := strconv.ParseFloat(strings.TrimSpace(s[name]), 64)
	return f
}

// Bool parses a value that ResolveSettings has checked; false when absent.
func (s Settings) Bool(name string) bool {
	b, _ := strconv.ParseBool(strings.TrimSpace(s[name]))
	return b
}

// String returns the text; "" when absent.
func (s Settings) String(name string) string { return s[name] }

// Ints parses a comma-separated list that ResolveSettings has checked.
func (s Settings) Ints(name string) []int {
	var out []int
	for _, f := range fields(s[name]) {
		n, _ := strconv.Atoi(f)
		out = append(out, n)
	}
	return out
}

// Floats parses a comma-separated list that ResolveSettings has checked.
func (s Settings) Floats(name string) []float64 {
	var out []float64
	for _, f := range fields(s[name]) {
		v, _ := strconv.ParseFloat(f, 64)
		out = append(out, v)
	}
	return out
}

func fields(text string) []string {
	if strings.TrimSpace(text) == "" {
		return nil
	}
	parts := strings.Split(text, ",")
	for i := range parts {
		parts[i] = strings.TrimSpace(parts[i])
	}
	return parts
}

// ResolveSettings fills in defaults and checks given values against the declared
// settings. Unknown names fail with the nearest known one.
func ResolveSettings(declared []Setting, given map[string]string) (Settings, error) {
	out := Settings{}
	known := map[string]Setting{}
	for _, d := range declared {
		known[d.Name] = d
		out[d.Name] = d.Default
	}
	names := make([]string, 0, len(given))
	for name := range given {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		d, ok := known[name]
		if !ok {
			return nil, unknownSetting(name, declared)
		}
		if err := d.check(given[name]); err != nil {
			return nil, fmt.Errorf("setting %s: %w", name, err)
		}
		out[name] = given[name]
	}
	return out, nil
}

func unknownSetting(name string, declared []Setting) error {
	best, bestDistance := "", len(name)/2+2
	var all []string
	for _, d := range declared {
		all = append(all, d.Name)
		if n := distance(name, d.Name); n < bestDistance {
			best, bestDistance = d.Name, n
		}
	}
	sort.Strings(all)
	if best != "" {
		return fmt.Errorf("unknown setting %q, did you mean %q? known: %s", name, best, strings.Join(all, ", "))
	}
	if len(all) == 0 {
		return fmt.Errorf("unknown setting %q: the stage has no settings", name)
	}
	return fmt.Errorf("unknown setting %q; known: %s", name, strings.Join(all, ", "))
}

func (d Setting) check(value string) error {
	value = strings.TrimSpace(value)
	if len(d.Choices) > 0 {
		for _, c := range d.Choices {
			if c == value {
				return nil
			}
		}
		return fmt.Errorf("%q given, want one of %s", value, strings.Join(d.Choices, ", "))
	}
	inRange := func(f float64) error {
		if f != f {
			return fmt.Errorf("%q given, want a number", value)
		}
		if d.Min != nil && f < *d.Min {
			return fmt.Errorf("%s given, want at least %g", value, *d.Min)
		}
		if d.Max != nil && f > *d.Max {
			return fmt.Errorf("%s given, want at most %g", value, *d.Max)
		}
		return nil
	}
	switch d.Type {
	case "int":
		n, err := strconv.Atoi(value)
		if err != nil {
			return fmt.Errorf("%q given, want a whole number", value)
		}
		return inRange(float64(n))
	case "float":
		f, err := strconv.ParseFloat(value, 64)
		if err != nil {
			return fmt.Errorf("%q given, want a number", value)
		}
		return inRange(f)
	case "bool":
		if _, err := strconv.ParseBool(value); err != nil {
			return fmt.Errorf("%q given, want true or false", value)
		}
	case "ints":
		for _, f := range fields(value) {
			n, err := strconv.Atoi(f)
			if err != nil {
				return fmt.Errorf("%q given, want whole numbers with commas between", value)
			}
			if err := inRange(float64(n)); err != nil {
				return err
			}
		}
	case "floats":
		for _, f := range fields(value) {
			v, err := strconv.ParseFloat(f, 64)
			if err != nil {
				return fmt.Errorf("%q given, want numbers with commas between", value)
			}
			if err := inRange(v); err != nil {
				return err
			}
		}
	}
	return nil
}

// distance is the Levenshtein distance, for "did you mean".
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		previous := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := previous
			if a[i-1] != b[j-1] {
				cost++
			}
			previous = row[j]
			row[j] = min(cost, row[j]+1, row[j-1]+1)
		}
	}
	return row[len(b)]
}
