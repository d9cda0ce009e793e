package rules

import (
	"math"
	"slices"
	"strconv"
)

// measurement is a quantity in a text: "12 mm", "8 x 6 x 4 mm", "5-8 mm", "-40 HU".
type measurement struct {
	Span
	// values are the extents in the base unit, the largest first; of a range the upper end.
	values []float64
}

// unit is what a numeric attribute is measured in.
type unit struct {
	// factors are the spellings, folded, and what one of them is in the base unit.
	factors map[string]float64
	// before lists words that stand before the number instead ("SUV 4.5").
	before map[string]bool
	// counted are the words that may stand between the number and the unit.
	counted map[string]bool
	// max bounds the absolute value.
	max float64
	// signed allows values below zero.
	signed bool
	// assumed is the factor of numbers without a unit, where a heading names it; 0 where none does.
	assumed float64
}

// lengths are the units of length in millimetres. Inches are left out: reports that use
// them measure bullets and catheters.
var lengths = unit{max: 2500, factors: map[string]float64{
	"mm": 1, "mms": 1, "millimeter": 1, "millimeters": 1, "millimetre": 1, "millimetres": 1, "milimetros": 1,
	"cm": 10, "cms": 10, "centimeter": 10, "centimeters": 10, "centimetre": 10, "centimetres": 10, "zentimeter": 10, "centimetros": 10,
	"um": 0.001, "\u03bcm": 0.001, "micron": 0.001, "microns": 0.001, "micrometer": 0.001, "micrometers": 0.001,
}}

// units are the units a lexicon may name, besides lengths. Rates are written as their
// pieces: "/mm2" is a stroke and "mm2".
var units = map[string]unit{
	"mm": lengths, "cm": lengths, "um": lengths,
	"HU":     {max: 4000, signed: true, before: wordSet("hu"), factors: map[string]float64{"hu": 1, "he": 1, "uh": 1, "hounsfield": 1, "hounsfieldunit": 1, "hounsfieldunits": 1, "hounsfieldeinheiten": 1}},
	"SUV":    {max: 200, factors: map[string]float64{"suv": 1}, before: wordSet("suv suvmax suvmean suvpeak suvbw max mean peak")},
	"%":      {max: 100, factors: map[string]float64{"%": 1, "percent": 1, "pct": 1, "prozent": 1}},
	"ml":     {max: 20000, factors: map[string]float64{"ml": 1, "cc": 1, "ccm": 1, "cm3": 1, "cm\u00b3": 1, "milliliter": 1, "milliliters": 1, "mm3": 0.001, "mm\u00b3": 0.001, "l": 1000, "liter": 1000}},
	"/mm2":   {max: 1000, counted: mitoses, factors: rates(map[string]float64{"mm2": 1, "mm\u00b2": 1, "1mm2": 1, "2mm2": 0.5, "squaremm": 1, "squaremillimeter": 1, "squaremillimetre": 1, "mmsquared": 1})},
	"/10HPF": {max: 1000, counted: mitoses, factors: rates(map[string]float64{"10hpf": 1, "10hpfs": 1, "10highpowerfields": 1, "tenhighpowerfields": 1, "tenhpf": 1, "hpf": 10, "highpowerfield": 10})},
	"count":  {max: 1000},
}

// rates are the spellings of so many per something.
func rates(per map[string]float64) map[string]float64 {
	out := map[string]float64{}
	for what, factor := range per {
		for _, word := range []string{"/", "per", "in"} {
			out[word+what] = factor
		}
	}
	return out
}

var mitoses = wordSet("mitosis mitoses mitotic figure figures")

// inMM is what a named unit of length is in millimetres.
var inMM = map[string]float64{"mm": 1, "cm": 10, "um": 0.001}

// numberWords are numbers written out.
var numberWords = map[string]float64{
	"one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10, "half": 0.5,
}

// piece is a part of a token: a run of digits or of anything else.
type piece struct {
	text  string
	token int
	space bool // white space before it
}

// pieces parts the tokens of span where digits and letters meet: "11x9mm" is five pieces.
func pieces(tokens []Token, span Span) []piece {
	out := make([]piece, 0, span.End-span.Start)
	for i := span.Start; i < span.End; i++ {
		text, space := tokens[i].Text, tokens[i].Space
		for text != "" {
			n := 1
			for n < len(text) && startsDigit(text[n:]) == startsDigit(text) {
				n++
			}
			out = append(out, piece{text[:n], i, space})
			text, space = text[n:], false
		}
	}
	return out
}

// readNumber reads 12, 1.2, 1,2, .5 or a number word at piece i, and the piece after it; next
// is i when there is none. A comma before three digits parts thousands.
func readNumber(p []piece, i int) (v float64, next int) {
	text, j := "0", i
	switch {
	case i >= len(p):
		return 0, i
	case startsDigit(p[i].text):
		text, j = p[i].text, i+1
	case p[i].text != "." || i > 0 && !p[i].space && startsDigit(p[i-1].text):
		v, ok := numberWords[p[i].text]
		if !ok {
			return 0, i
		}
		return fraction(p, v, i+1)
	}
	if j+1 < len(p) && !p[j+1].space && startsDigit(p[j+1].text) && (j == i || !p[j].space) {
		switch mark := p[j].text; {
		case mark == "," && len(p[j+1].text) == 3 && text != "0":
			text, j = text+p[j+1].text, j+2
		case mark == "." || mark == "," || mark == "\u00b7":
			text, j = text+"."+p[j+1].text, j+2
		}
	}
	if j == i || len(text) > 12 {
		return 0, i
	}
	v, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return 0, i
	}
	return fraction(p, v, j)
}

// vulgar are fractions of one character: "1½".
var vulgar = map[string]float64{"\u00bd": 0.5, "\u00bc": 0.25, "\u00be": 0.75}

// fraction adds what may follow a whole number: "1 1/2", "1/2", "8 ± 1", of which the eight
// counts, "one and a half".
func fraction(p []piece, v float64, j int) (float64, int) {
	at := func(k int, text string) bool { return k < len(p) && p[k].text == text }
	part := func(k int) float64 { // "1/2" at piece k
		if k+2 < len(p) && p[k+1].text == "/" && !p[k+1].space && !p[k+2].space {
			a, b := p[k].text, p[k+2].text
			if len(a) == 1 && len(b) == 1 && startsDigit(a) && startsDigit(b) && a < b {
				return float64(a[0]-'0') / float64(b[0]-'0')
			}
		}
		return 0
	}
	switch {
	case j < len(p) && !p[j].space && vulgar[p[j].text] > 0:
		return v + vulgar[p[j].text], j + 1
	case at(j, "and") && at(j+1, "a") && at(j+2, "half"):
		return v + 0.5, j + 3
	case part(j) > 0:
		return v + part(j), j + 3
	case j > 0 && part(j-1) > 0:
		return part(j - 1), j + 2
	}
	k := j
	for at(k, "\u00b1") || at(k, "+") || k > j && (at(k, "/") || at(k, "-")) {
		k++
	}
	if k > j && k < len(p) && startsDigit(p[k].text) {
		_, k = readNumber(p, k)
		return v, k
	}
	return v, j
}

// notLength are the pieces after a length that make it an area, a volume, a speed or a
// pressure.
var notLength = wordSet("2 3 \u00b2 \u00b3 ^ hg")

// factorAt reads a unit at piece i, perhaps after a hyphen ("12-mm") and what is counted
// ("3 mitoses per mm2").
func (u unit) factorAt(p []piece, i int) (factor float64, next int) {
	if i < len(p) && p[i].text == "-" {
		i++
	}
	if i+2 < len(p) && bracketed(p, i) && bracketed(p, i+2) { // 5.0 (CC) cm
		i += 3
	}
	for i < len(p) && u.counted[p[i].text] {
		i++
	}
	const longest = 7 // "/ 10 high - power fields"
	text, best := "", i
	for j := i; j < min(i+longest, len(p)); j++ {
		if p[j].text != "-" {
			text += p[j].text
		}
		if f, ok := u.factors[text]; ok && p[j].text != "-" {
			factor, best = f, j+1
		}
	}
	if best < len(p) && (notLength[p[best].text] && !p[best].space || p[best].text == "hg") {
		return 0, i
	}
	if best+1 < len(p) && p[best].text == "/" && !p[best].space && !startsDigit(p[best+1].text) {
		return 0, i // mm/h
	}
	return factor, best
}

// dimensionWords may stand between the extents of one thing and say which is which.
var dimensionWords = wordSet(`ap tr cc transverse craniocaudal anteroposterior long short axis length width height depth in
	long-axis diameter by tv si ml lr axiale transversale sagittale ausdehnung durchmesser extension diametro kraniokaudale kraniokaudal craniokaudal craneocaudal transversal koronar maximal maximum sagittal axial coronal transaxial vertical horizontal wide tall thick deep high`)

func times(mark string) bool {
	return mark == "x" || mark == "by" || mark == "\u00d7" || mark == "*" || mark == "mal" || mark == "por"
}

// separator reads what stands between two numbers of one measurement; ranges are joined
// by a dash, "to", "bis", "and" or their like.
func separator(p []piece, i int) (isRange bool, next int) {
	j := i
	for j < len(p) && (dimensionWords[p[j].text] && p[j].text != "by" || bracketed(p, j)) {
		j++
	}
	switch {
	case j >= len(p):
	case times(p[j].text) || p[j].text == "/" && !p[j].space && j > i:
		return false, j + 1
	case j == i && enumerated(p, j):
		return false, j + 1
	case j == i && p[j].text == "," && axisNamed(p, j):
		for j++; dimensionWords[p[j].text] || p[j].text == ":"; j++ {
		}
		return false, j
	case j == i && (p[j].text == "-" || p[j].text == "bis" || p[j].text == "and" || toWords[p[j].text]):
		return true, j + 1
	}
	return false, i
}

// axisNamed reports whether the number before the comma at piece i is named as an extent and has
// no unit, and another extent follows: "long diameter 61, short diameter 44 mm".
func axisNamed(p []piece, i int) bool {
	k := i - 1
	for k > 0 && (startsDigit(p[k].text) || p[k].text == "." || p[k].text == ":") {
		k--
	}
	j := i + 1
	for j < len(p) && (dimensionWords[p[j].text] || p[j].text == ":") {
		j++
	}
	return startsDigit(p[i-1].text) && dimensionWords[p[max(k, 0)].text] && j > i+1 && j < len(p) && startsDigit(p[j].text)
}

// bracketed reports whether the piece is a bracket about the name of an axis: "(AP)".
func bracketed(p []piece, j int) bool {
	return p[j].text == "(" && j+1 < len(p) && dimensionWords[p[j+1].text] || p[j].text == ")" && j > 0 && dimensionWords[p[j-1].text]
}

// enumerated reports whether the comma at piece i goes on with numbers up to "and" and the
// last: "21, 14 and 9 mm".
func enumerated(p []piece, i int) bool {
	if p[i].text != "," {
		return false
	}
	for i < len(p) && p[i].text == "," {
		_, next := readNumber(p, i+1)
		if next == i+1 {
			return false
		}
		i = next
	}
	if i >= len(p) || p[i].text != "and" {
		return false
	}
	_, next := readNumber(p, i+1)
	return next > i+1 && next < len(p) && !startsDigit(p[next].text)
}

// quantityAt reads a measurement in u that starts at piece i; next is i when there is none.
func (u unit) quantityAt(p []piece, i int) (m measurement, next int) {
	negative := u.signed && i > 0 && (p[i-1].text == "minus" || p[i-1].text == "-" && !p[i].space && (i == 1 || p[i-1].space || p[i-2].text == "("))
	var values, factors []float64
	ranged := false
	j := i
	for {
		v, after := readNumber(p, j)
		if after == j {
			break
		}
		f, end := u.factorAt(p, after)
		if f != 0 {
			after = end
		}
		if f == 0 && year(p[j].text) && after == j+1 {
			break
		}
		values, factors, next = append(values, v), append(factors, f), after
		isRange, more := separator(p, after)
		if more == after || isRange && (ranged || changed(p, i) || p[more-1].text == "auf") {
			if isRange && f == 0 && changed(p, i) { // from 6 to 9 mm: the unit is the same
				_, end := readNumber(p, more)
				factors[len(factors)-1], _ = u.factorAt(p, end)
			}
			break
		}
		if _, ahead := readNumber(p, more); ahead == more || isRange && !u.rangeEnd(p, more) {
			break
		}
		ranged = ranged || isRange
		j = more
	}
	return u.assemble(p, i, next, values, factors, ranged, negative)
}

// year reports whether a number without a unit is one: "4 mm in 2019 and 6 mm now".
func year(digits string) bool {
	return len(digits) == 4 && (digits[:2] == "19" || digits[:2] == "20")
}

// rangeWords tell a range from a change: "ranging from 5 to 8 mm", "grown from 5 to 8 mm".
var rangeWords = wordSet("ranging range ranges ranged varying vary measuring sized between")

// changed reports whether the number at piece i is where a change began.
func changed(p []piece, i int) bool {
	if i > 1 && p[i-1].text == "medir" {
		i-- // "pasa de medir 5 cm a 3 cm"
	}
	return i > 0 && fromWords[p[i-1].text] && (i < 2 || !rangeWords[p[i-2].text])
}

// rangeEnd reports whether a number with a unit stands at piece i.
func (u unit) rangeEnd(p []piece, i int) bool {
	_, after := readNumber(p, i)
	f, _ := u.factorAt(p, after)
	return f != 0
}

// assemble applies the units, which hold backwards ("8 x 6 mm"), and orders the extents.
func (u unit) assemble(p []piece, from, next int, values, factors []float64, ranged, negative bool) (measurement, int) {
	for k := 1; k < len(factors); k++ { // "4 mm x 2"
		if factors[k] == 0 && k == len(factors)-1 && factors[k-1] != 0 {
			factors[k] = factors[k-1]
		}
	}
	if len(values) == 0 || factors[len(factors)-1] == 0 && !u.named(p, from) && !(u.assumed > 0 && plain(p, from, next)) {
		return measurement{}, from
	}
	factor := factors[len(factors)-1]
	if factor == 0 {
		factor = max(u.assumed, 1)
	}
	for k := len(values) - 1; k >= 0; k-- {
		if factors[k] != 0 {
			factor = factors[k]
		}
		values[k] *= factor
	}
	slices.SortFunc(values, func(a, b float64) int { return -sign(a - b) })
	if ranged {
		values = values[:1]
	}
	if negative {
		values[0] = -values[0]
		from--
	}
	if math.Abs(values[0]) > u.max || values[0] == 0 && u.before == nil && !u.signed && u.max == lengths.max {
		return measurement{}, from
	}
	return measurement{Span{p[from].token, p[next-1].token + 1}, values}, next
}

// heading is the factor of the unit that stands in a bracket before a colon: "Size (mm): 62".
func (u unit) heading(p []piece) float64 {
	for i := 1; i+2 < len(p); i++ {
		if f := u.factors[p[i].text]; f != 0 && p[i-1].text == "(" && p[i+1].text == ")" && p[i+2].text == ":" {
			return f
		}
		if u.before[p[i-1].text] && p[i].text == ":" && !startsDigit(p[i+1].text) && p[i+1].text != "-" { // "SUVmax: nodule 3.8"
			return 1
		}
	}
	return 0
}

// numbered are the words that a number without a unit counts: "image 61".
var numbered = wordSet("image images series slice segment station level number no im se bild serie segmento imagen # / ( -")

// plain reports whether the number at pieces from to next may be a size without a unit.
func plain(p []piece, from, next int) bool {
	return from > 0 && p[from].space && !numbered[p[from-1].text] && (next >= len(p) || p[next].text != ":" && p[next].text != "%")
}

func sign(v float64) int {
	switch {
	case v > 0:
		return 1
	case v < 0:
		return -1
	}
	return 0
}

// named reports whether a word that stands for the unit precedes the number at piece i.
func (u unit) named(p []piece, i int) bool {
	for j := i - 1; j >= max(0, i-4); j-- {
		switch text := p[j].text; {
		case u.before[text]:
			return true
		case text != ":" && text != "=" && text != "of" && text != "is" && text != "was" && text != ")" && text != "(":
			return false
		}
	}
	return false
}

// measurements returns the quantities in span, in order.
func (u unit) measurements(tokens []Token, span Span) []measurement {
	var found []measurement
	p := pieces(tokens, span)
	u.assumed = u.heading(p)
	for i := 0; i < len(p); {
		m, next := u.quantityAt(p, i)
		if m.values == nil {
			i++
			continue
		}
		found = append(found, m)
		i = max(next, i+1)
	}
	return found
}
