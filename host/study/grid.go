package study

import (
	"fmt"
	"slices"
	"strconv"

	"github.com/alignedfusion/alignedfusion/host/config"
)

// Grid names what a study crosses, in lists separated by commas.
type Grid struct {
	// Methods as ParseMethod and Scenarios as ParseScenario read them.
	Methods, Scenarios string
	// Rates are shares of the attribute values, Fractions of the training patients.
	Rates, Fractions string
	// MaskProbabilities of the method are tried besides, in training at each of MaskRates.
	MaskProbabilities, MaskRates string
}

// Blocks are the grids that it stands for. The errors are of type *config.Error and name
// the flags of `study`.
func (g Grid) Blocks() ([]Block, error) {
	blocks, err := g.blocks()
	if err != nil {
		return nil, &config.Error{Err: err}
	}
	return blocks, nil
}

func (g Grid) blocks() ([]Block, error) {
	methods, err := parsed("methods", config.List(g.Methods), ParseMethod, func(m Method) string { return m.Name })
	if err != nil {
		return nil, err
	}
	scenarios, err := parsed("scenarios", config.List(g.Scenarios), ParseScenario, func(s Scenario) string { return s.Name })
	if err != nil {
		return nil, err
	}
	rates, err := shares("rates", g.Rates, 0)
	if err != nil {
		return nil, err
	}
	fractions, err := shares("fractions", g.Fractions, 0.001)
	if err != nil {
		return nil, err
	}
	masks, err := shares("mask-probabilities", g.MaskProbabilities, 0)
	if err != nil {
		return nil, err
	}
	maskRates, err := shares("mask-rates", g.MaskRates, 0)
	if err != nil {
		return nil, err
	}
	blocks := []Block{{Points: Points(scenarios, rates, fractions), Methods: methods}}
	if len(masks) == 0 {
		return blocks, nil
	}
	masked := Block{Points: Points([]Scenario{{"M-Tr+C-Te", -1, 0}}, maskRates, fractions)}
	for _, p := range masks {
		m, err := ParseMethod(fmt.Sprintf("itfusion-p%g", p))
		if err != nil {
			return nil, err
		}
		masked.Methods = append(masked.Methods, m)
	}
	return append(blocks, masked), nil
}

// parsed reads the members of a list, none of which may stand twice.
func parsed[T any](flag string, texts []string, parse func(string) (T, error), name func(T) string) ([]T, error) {
	var out []T
	for _, text := range texts {
		v, err := parse(text)
		if err != nil {
			return nil, fmt.Errorf("--%s: %w", flag, err)
		}
		if slices.ContainsFunc(out, func(other T) bool { return name(other) == name(v) }) {
			return nil, fmt.Errorf("--%s: %q stands twice", flag, text)
		}
		out = append(out, v)
	}
	return out, nil
}

func shares(flag, text string, low float64) ([]float64, error) {
	return parsed(flag, config.List(text), func(s string) (float64, error) {
		v, err := strconv.ParseFloat(s, 64)
		if err != nil || !(v >= low && v <= 1) {
			return 0, fmt.Errorf("%q, want numbers from %g to 1", s, low)
		}
		return v, nil
	}, number)
}
