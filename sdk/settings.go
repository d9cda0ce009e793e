package sdk

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"sort"
	"strconv"
	"strings"

	"github.com/alignedfusion/alignedfusion/internal/nearest"
)

// Settings holds setting values as text. ResolveSettings makes a complete and checked one,
// DecodeSettings a struct.
type Settings map[string]string

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
	for _, name := range slices.Sorted(maps.Keys(given)) {
		d, ok := known[name]
		if !ok {
			return nil, unknownSetting(name, declared)
		}
		value := given[name]
		if d.Type != "path" && (d.Type != "string" || len(d.Choices) > 0) {
			value = strings.TrimSpace(value)
		}
		if err := d.check(value); err != nil {
			return nil, RefuseSetting(name, "%w", err)
		}
		out[name] = value
	}
	return out, nil
}

func unknownSetting(name string, declared []Setting) error {
	var all []string
	for _, d := range declared {
		all = append(all, d.Name)
	}
	best := nearest.Name(name, all)
	sort.Strings(all)
	hint := "; known: " + strings.Join(all, ", ")
	switch {
	case best != "":
		hint = fmt.Sprintf(", did you mean %q? known: %s", best, strings.Join(all, ", "))
	case len(all) == 0:
		hint = ": the stage has no settings"
	}
	return &Error{Code: InvalidArgument, Setting: name, Err: fmt.Errorf("unknown setting %q%s", name, hint)}
}

func (d Setting) check(value string) error {
	if len(d.Choices) > 0 {
		if !slices.ContainsFunc(d.Choices, func(choice string) bool { return FindPort([]Port{{Name: choice}}, value) != nil }) {
			return fmt.Errorf("%q given, want one of %s", value, strings.Join(d.Choices, ", "))
		}
		return nil
	}
	switch d.Type {
	case "bool":
		if _, err := strconv.ParseBool(value); err != nil {
			return fmt.Errorf("%q given, want true or false", value)
		}
	case "int", "float":
		return d.checkNumbers([]string{value}, map[string]string{"int": "a whole number", "float": "a number"}[d.Type])
	case "ints", "floats":
		return d.checkNumbers(fields(value), map[string]string{"ints": "whole numbers", "floats": "numbers"}[d.Type]+" with commas between")
	}
	return nil
}

// checkNumbers checks the numbers of one value; wanted says what they should be.
func (d Setting) checkNumbers(texts []string, wanted string) error {
	last := math.Inf(-1)
	for _, text := range texts {
		v, err := strconv.ParseFloat(text, 64)
		if err == nil && strings.HasPrefix(d.Type, "int") {
			_, err = strconv.Atoi(text)
		}
		if err != nil || math.IsNaN(v) || math.IsInf(v, 0) {
			return fmt.Errorf("%q given, want %s", strings.Join(texts, ","), wanted)
		}
		for _, bound := range []struct {
			at     *float64
			kept   func(v, at float64) bool
			wanted string
		}{
			{d.Min, func(v, at float64) bool { return v >= at }, "at least"},
			{d.Max, func(v, at float64) bool { return v <= at }, "at most"},
			{d.Above, func(v, at float64) bool { return v > at }, "more than"},
			{d.Below, func(v, at float64) bool { return v < at }, "less than"},
		} {
			if bound.at != nil && !bound.kept(v, *bound.at) {
				return fmt.Errorf("%s given, want %s %g", text, bound.wanted, *bound.at)
			}
		}
		if d.Rising && v <= last {
			return fmt.Errorf("%q given, want numbers that rise from one to the next", strings.Join(texts, ","))
		}
		last = v
	}
	return nil
}
