package llm

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/alignedfusion/alignedfusion/host/report"
	"github.com/alignedfusion/alignedfusion/host/report/schema"
)

// minQuoteLetters keeps a quote from being true of every report.
const minQuoteLetters = 3

// folded is a text in the form in which quotes are compared: lower case, one kind of dash
// and quotation mark, and blanks only where they part two words or two numbers.
type folded struct {
	runes []rune
	// at is the byte offset of each rune in the text; end that behind its last byte.
	at, end []int
}

func fold(text string) folded {
	var f folded
	blank := false
	for i, r := range text {
		if unicode.IsSpace(r) || unicode.Is(unicode.Cf, r) {
			blank = blank || unicode.IsSpace(r)
			continue
		}
		switch {
		case unicode.Is(unicode.Pd, r) || r == '\u2212':
			r = '-'
		case strings.ContainsRune("\u2018\u2019\u201a\u00b4`", r):
			r = '\''
		case strings.ContainsRune("\u201c\u201d\u201e\u00ab\u00bb", r):
			r = '"'
		}
		r = unicode.ToLower(r)
		if n := len(f.runes); blank && n > 0 && parts(f.runes[n-1], r) {
			f.runes, f.at, f.end = append(f.runes, ' '), append(f.at, f.end[n-1]), append(f.end, i)
		}
		_, width := utf8.DecodeRuneInString(text[i:])
		f.runes, f.at, f.end = append(f.runes, r), append(f.at, i), append(f.end, i+width)
		blank = false
	}
	return f
}

// parts reports whether a blank between the two tells something: "12 mm" is "12mm", but
// "1 2" is not "12", nor "a typical" "atypical".
func parts(a, b rune) bool {
	return unicode.IsLetter(a) && unicode.IsLetter(b) || unicode.IsDigit(a) && unicode.IsDigit(b)
}

// locate finds a quote in the report, case and blanks aside: from the start of a word to
// the end of one, with at least minQuoteLetters letters or digits. The evidence is the
// report's own words.
func locate(r report.Report, quote string) (schema.Evidence, bool) {
	q := fold(strings.Trim(strings.TrimSpace(quote), "\u2026"))
	letters := 0
	for _, c := range q.runes {
		if isWord(c) {
			letters++
		}
	}
	if letters < minQuoteLetters {
		return schema.Evidence{}, false
	}
	want := string(q.runes)
	for _, s := range r.Sections {
		text := fold(s.Text)
		all := string(text.runes)
		for from, runes := 0, 0; ; {
			at := strings.Index(all[from:], want)
			if at < 0 {
				break
			}
			first := runes + utf8.RuneCountInString(all[from:from+at])
			last := first + len(q.runes) - 1
			if text.whole(first, last) {
				start, end := text.at[first], text.end[last]
				return schema.Evidence{Section: s.Name, Start: start, End: end, Quote: s.Text[start:end]}, true
			}
			_, w := utf8.DecodeRuneInString(want)
			from, runes = from+at+w, first+1
		}
	}
	return schema.Evidence{}, false
}

// whole reports whether runes first to last neither begin nor end inside a word.
func (f folded) whole(first, last int) bool {
	cuts := func(a, b int) bool {
		return a >= 0 && b < len(f.runes) && isWord(f.runes[a]) && isWord(f.runes[b]) && f.end[a] == f.at[b]
	}
	return !cuts(first-1, first) && !cuts(last, last+1)
}

func isWord(r rune) bool {
	return r != utf8.RuneError && (unicode.IsLetter(r) || unicode.IsDigit(r))
}

// number reads the value given for a numeric attribute and checks it against the words it
// is said to stand in: in the attribute's unit, or as it stands there and then converted.
func number(a schema.Attribute, given, quote string) (float64, bool) {
	values := schema.Quantities(given)
	if len(values) != 1 {
		return 0, false
	}
	v := values[0]
	if v.Unit != "" && a.Unit() != "" {
		x, _ := v.In(a.Unit())
		v = schema.Quantity{Value: x, Unit: a.Unit()}
	}
	written := schema.Quantities(quote)
	for _, q := range written {
		if x, _ := q.In(a.Unit()); x == v.Value {
			return x, true
		}
	}
	for _, q := range written {
		if x, converted := q.In(a.Unit()); converted && v.Unit == "" && q.Value == v.Value {
			return x, true
		}
	}
	return 0, false
}
