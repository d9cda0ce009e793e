package rules

import (
	"strconv"
)

// measurement is a length in a text: "12 mm", "1.2 cm", "8 x 6 x 4 mm".
type measurement struct {
	Span
	maxMM float64
}

// unitsMM are the lengths reports are written in. Inches are left out: reports
// that use them measure bullets and catheters.
var unitsMM = map[string]float64{
	"mm": 1, "millimeter": 1, "millimeters": 1, "millimetre": 1, "millimetres": 1,
	"cm": 10, "centimeter": 10, "centimeters": 10, "centimetre": 10, "centimetres": 10,
}

// maxLengthMM is the largest length taken for one: nothing in a body is longer.
const maxLengthMM = 2500

// measurements returns the lengths in span, in order.
func measurements(tokens []Token, span Span) []measurement {
	var found []measurement
	for i := span.Start; i < span.End; {
		m, ok := lengthAt(tokens[:span.End], i)
		if !ok {
			i++
			continue
		}
		found = append(found, m)
		i = m.End
	}
	return found
}

// lengthAt reads number [unit] (x number [unit])* with a unit at the end.
func lengthAt(tokens []Token, i int) (measurement, bool) {
	start := i
	var values []float64
	var units []float64
	for {
		v, unit, next, ok := numberAt(tokens, i)
		if !ok {
			break
		}
		values = append(values, v)
		if unit == 0 && next < len(tokens) {
			j := next
			if tokens[j].Text == "-" && j+1 < len(tokens) { // 12-mm
				j++
			}
			if u, ok := unitsMM[tokens[j].Text]; ok {
				unit, next = u, j+1
			}
		}
		units = append(units, unit)
		i = next
		if i+1 >= len(tokens) || !times(tokens[i].Text) {
			break
		}
		if _, _, _, more := numberAt(tokens, i+1); !more {
			break
		}
		i++
	}
	if len(values) == 0 || units[len(units)-1] == 0 {
		return measurement{}, false
	}
	m := measurement{Span: Span{Start: start, End: i}}
	unit := units[len(units)-1]
	for k := len(values) - 1; k >= 0; k-- { // "8 x 6 mm": the unit holds backwards
		if units[k] != 0 {
			unit = units[k]
		}
		m.maxMM = max(m.maxMM, values[k]*unit)
	}
	return m, m.maxMM > 0 && m.maxMM <= maxLengthMM
}

func times(mark string) bool { return mark == "x" || mark == "by" || mark == "\u00d7" || mark == "*" }

// numberAt reads 12, 1.2, .5 or 12mm at token i; unit is 0 when none is glued on.
func numberAt(tokens []Token, i int) (v, unitMM float64, next int, ok bool) {
	if i >= len(tokens) {
		return 0, 0, i, false
	}
	j := i
	digits := ""
	if tokens[j].Text == "." {
		digits = "0"
	} else {
		word := tokens[j].Text
		n := 0
		for n < len(word) && word[n] >= '0' && word[n] <= '9' {
			n++
		}
		if n == 0 || n > 6 {
			return 0, 0, i, false
		}
		digits = word[:n]
		if n < len(word) {
			u, ok := unitsMM[word[n:]]
			v, _ := strconv.ParseFloat(digits, 64)
			return v, u, j + 1, ok
		}
		j++
	}
	if j+1 < len(tokens) && tokens[j].Text == "." && tokens[j+1].Word && !tokens[j+1].Space && (j == i || !tokens[j].Space) {
		word := tokens[j+1].Text
		n := 0
		for n < len(word) && word[n] >= '0' && word[n] <= '9' {
			n++
		}
		if n > 0 && n <= 6 {
			v, err := strconv.ParseFloat(digits+"."+word[:n], 64)
			if n == len(word) {
				return v, 0, j + 2, err == nil
			}
			u, ok := unitsMM[word[n:]]
			return v, u, j + 2, ok
		}
	}
	if j == i {
		return 0, 0, i, false
	}
	v, err := strconv.ParseFloat(digits, 64)
	return v, 0, j, err == nil
}
