package schema

import (
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"unicode"
)

// Quantity is a number with the unit of length behind it, "" for none.
type Quantity struct {
	Value float64
	Unit  string
}

var (
	quantityForm = regexp.MustCompile(`([-+]?\d+(?:[.,]\d+)?|[.]\d+)\s*-?\s*(mm|cm|millimet(?:er|re)s?|centimet(?:er|re)s?|µm|μm|um)?(?:[^\p{L}]|$)`)
	// unitMM are the lengths that can be told from each other, in millimetres.
	unitMM = map[string]float64{"mm": 1, "millimeter": 1, "millimetre": 1, "cm": 10, "centimeter": 10, "centimetre": 10, "µm": .001, "μm": .001, "um": .001}
	times  = regexp.MustCompile(`^\s*(?:x|×|\*|by)\s*$`)
)

// Quantities are the numbers of a text, in order; a comma may be decimal. In "1.2 x 0.9
// cm" the unit belongs to both.
func Quantities(text string) []Quantity {
	text = strings.ToLower(text)
	var all []Quantity
	var at [][2]int
	for from := 0; ; {
		m := quantityForm.FindStringSubmatchIndex(text[from:])
		if m == nil {
			break
		}
		number, unit, end := text[from+m[2]:from+m[3]], "", from+m[3]
		if m[4] >= 0 {
			unit, end = strings.TrimSuffix(text[from+m[4]:from+m[5]], "s"), from+m[5]
		}
		if from+m[2] > 0 && strings.ContainsAny(number[:1], "-+") { // "5-7 mm": no sign inside a text
			number = number[1:]
		}
		if v, err := strconv.ParseFloat(strings.Replace(number, ",", ".", 1), 64); err == nil {
			all, at = append(all, Quantity{v, unit}), append(at, [2]int{from + m[2], end})
		}
		from = end
	}
	for i := len(all) - 2; i >= 0; i-- {
		if all[i].Unit == "" && times.MatchString(text[at[i][1]:at[i+1][0]]) {
			all[i].Unit = all[i+1].Unit
		}
	}
	return all
}

// In converts a length; ok is false when one of the two units is none.
func (q Quantity) In(unit string) (v float64, ok bool) {
	from, to := unitMM[q.Unit], unitMM[unit]
	if from == 0 || to == 0 {
		return q.Value, false
	}
	// 1.2 cm are 12 mm, not 12.000000000000002.
	v, err := strconv.ParseFloat(strconv.FormatFloat(q.Value*from/to, 'g', 12, 64), 64)
	return v, err == nil
}

// Unit is the unit of length that a numeric attribute's name ends in ("size_mm", "depth
// (cm)"), "" for none.
func (a Attribute) Unit() string {
	if last := a.lastWord(); unitMM[last] != 0 {
		return last
	}
	return ""
}

// lastWord is the last of several words of the attribute's name, in small letters.
func (a Attribute) lastWord() string {
	words := strings.FieldsFunc(strings.ToLower(a.Name), func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) })
	if n := len(words); n > 1 {
		return words[n-1]
	}
	return ""
}

// otherUnits are the last words of names that are units and no lengths.
var otherUnits = map[string]bool{"hu": true, "ml": true, "cc": true, "suv": true, "percent": true}

// wholeQuantity is what a person writes into a cell: a number, perhaps with its unit.
var wholeQuantity = regexp.MustCompile(`^\s*([-+]?[\d.,]+(?:[eE][-+]?\d+)?)\s*(\p{L}*|%)\s*$`)

// Number reads a cell of a numeric attribute: "9", "9.5", "9,5", "9 mm", "-20 HU" where the name
// ends so. A length is converted to the attribute's unit.
func (a Attribute) Number(text string) (float64, error) {
	bad := fmt.Errorf("attribute %q: value %q: want a finite number or one of the bins %q", a.Name, text, a.Values)
	m := wholeQuantity.FindStringSubmatch(text)
	if m == nil {
		return 0, bad
	}
	if strings.Count(m[1], ",") == 1 && !strings.Contains(m[1], ".") {
		m[1] = strings.Replace(m[1], ",", ".", 1)
	}
	v, err := strconv.ParseFloat(m[1], 64)
	if err != nil || math.IsInf(v, 0) {
		return 0, bad
	}
	unit := strings.ToLower(m[2])
	last := a.lastWord()
	if unit == "" || unit == last || unit == "%" && last == "percent" {
		return v, nil
	}
	if unitMM[unit] == 0 || otherUnits[last] {
		return 0, bad
	}
	if own := a.Unit(); own != "" {
		v, _ = Quantity{v, unit}.In(own)
	}
	return v, nil
}
