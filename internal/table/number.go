package table

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/alignedfusion/alignedfusion/internal/problem"
)

// Number reads a finite number.
func Number(text string) (float64, error) {
	v, err := strconv.ParseFloat(text, 64)
	if err != nil || math.IsNaN(v) || math.IsInf(v, 0) {
		return 0, fmt.Errorf("%q is not a finite number", problem.Clip(text, 40))
	}
	return v, nil
}

// Numbers reads exactly n finite numbers separated by commas.
func Numbers(text string, n int) ([]float64, error) {
	parts := strings.Split(text, ",")
	if len(parts) != n {
		return nil, fmt.Errorf("%q has %d numbers, want %d", problem.Clip(text, 80), len(parts), n)
	}
	out := make([]float64, n)
	for i, p := range parts {
		v, err := Number(strings.TrimSpace(p))
		if err != nil {
			return nil, err
		}
		out[i] = v
	}
	return out, nil
}

// NotANumber reports whether a cell spells NaN or an infinity.
func NotANumber(text string) bool {
	v, err := strconv.ParseFloat(text, 64)
	return err == nil && (math.IsNaN(v) || math.IsInf(v, 0))
}
