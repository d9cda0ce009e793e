package table

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/alignedfusion/alignedfusion/internal/problem"
)

// tens are the powers of ten by which Decimal divides.
var tens = [...]float64{1, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15}

// Decimal reads what most numbers in tables are, a sign and at most 15 digits with a point or
// none, in a fraction of the time of strconv.ParseFloat, with the same result: digits and
// power of ten are exact then, and their quotient is rounded once. ok is false for all else.
func Decimal(text string) (v float64, ok bool) {
	digits := text
	if text != "" && (text[0] == '-' || text[0] == '+') {
		digits = text[1:]
	}
	if len(digits) > 16 {
		return 0, false
	}
	n, point := int64(0), -1
	for i := range len(digits) {
		switch c := digits[i]; {
		case '0' <= c && c <= '9':
			n = 10*n + int64(c-'0')
		case c == '.' && point < 0:
			point = i
		default:
			return 0, false
		}
	}
	count, after := len(digits), 0
	if point >= 0 {
		count, after = count-1, len(digits)-1-point
	}
	if count < 1 || count > 15 {
		return 0, false
	}
	if v = float64(n) / tens[after]; text[0] == '-' {
		v = -v
	}
	return v, true
}

// Number reads a finite number.
func Number(text string) (float64, error) {
	if v, ok := Decimal(text); ok {
		return v, nil
	}
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
	if text == "" || !strings.ContainsRune("+-iInN", rune(text[0])) {
		return false
	}
	v, err := strconv.ParseFloat(text, 64)
	return err == nil && (math.IsNaN(v) || math.IsInf(v, 0))
}
