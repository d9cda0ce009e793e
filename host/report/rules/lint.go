package rules

import (
	"fmt"
	"strings"

	"github.com/alignedfusion/alignedfusion/host/report"
	"github.com/alignedfusion/alignedfusion/host/report/schema"
)

// Remark is what a reader of a lexicon would object to.
type Remark struct {
	Attribute string `json:"attribute"`
	Phrase    string `json:"phrase"`
	// Rule is unreachable, overlap, plural or non.
	Rule string `json:"rule"`
	Text string `json:"text"`
}

func (r Remark) String() string {
	return fmt.Sprintf("%s: %q: %s: %s", r.Attribute, r.Phrase, r.Rule, r.Text)
}

// Lint tries every phrase of the lexicon on the words that it is written in:
//
//	unreachable  another phrase of the attribute takes its words and means the same
//	overlap      another one takes them and means something else
//	plural       a noun is found and its plural is not
//	non          "non-X" is taken for X
func (c *Lexicon) Lint() []Remark {
	var out []Remark
	for i, a := range c.Schema.Attributes {
		m := c.match[i]
		for n, p := range m.matcher.patterns {
			words := p.example()
			tokens := Tokenize(words)
			remark := func(rule, format string, args ...any) {
				out = append(out, Remark{a.Name, p.source, rule, fmt.Sprintf(format, args...)})
			}
			if won := m.winner(tokens); won >= 0 && won != n {
				if m.senses[won] != m.senses[n] || m.values[won] != m.values[n] {
					remark("overlap", "%q means %s, as %q says", words, m.meaning(won, a), m.matcher.patterns[won].source)
				} else if p.literal() {
					remark("unreachable", "%q finds the same", m.matcher.patterns[won].source)
				}
				continue
			}
			if m.senses[n] != mention {
				continue
			}
			if s := plural(p, words); s != "" && m.winner(Tokenize(s)) < 0 {
				remark("plural", "%q is not found", s)
			}
			if a.Kind == schema.Binary && c.statesNon(i, words) {
				remark("non", "%q states it; list it under absent or not", "non-"+words)
			}
		}
	}
	return out
}

// winner is the pattern that takes all the tokens, -1 for none.
func (m *phraseMatcher) winner(tokens []Token) int {
	for _, f := range m.matcher.find(tokens, Span{End: len(tokens)}) {
		if f.Start == 0 && f.End == len(tokens) {
			return f.pattern
		}
	}
	return -1
}

// meaning is what a pattern stands for, for a message.
func (m *phraseMatcher) meaning(n int, a schema.Attribute) string {
	if k := m.values[n]; k >= 0 {
		return a.Values[k]
	}
	return [...]string{mention: "a mention", absent: "its absence", borderline: "doubt", other: "something else"}[m.senses[n]]
}

// example is the shortest text that the pattern is written for: of alternatives the first.
func (p pattern) example() string {
	var words []string
	for _, e := range p.elems {
		if !e.any && !e.optional {
			words = append(words, strings.Join(e.alts[0].tokens, " "))
		} else if e.any && !e.optional {
			words = append(words, "some")
		}
	}
	return strings.Join(words, " ")
}

// literal reports whether the pattern stands for one text alone.
func (p pattern) literal() bool {
	for _, e := range p.elems {
		if e.any || e.optional || len(e.alts) != 1 || e.alts[0].prefix || e.alts[0].suffix {
			return false
		}
	}
	return true
}

// nouns are the endings of words that reports use in the plural.
var nouns = []string{"nodule", "mass", "lesion", "cyst", "tumor", "tumour", "node", "opacity", "effusion", "fracture", "calcification", "stone", "focus", "infiltrate", "ulcer", "papule", "plaque",
	"macule", "metastasis", "hernia", "scar", "granuloma", "embolism", "abscess", "septum", "vessel", "margin"}

// plural is the example with its last word, a noun, in the plural; "" when it is none.
func plural(p pattern, words string) string {
	last := p.elems[len(p.elems)-1]
	if last.any || len(last.alts) == 0 || last.alts[0].prefix {
		return ""
	}
	for _, noun := range nouns {
		stem, ok := strings.CutSuffix(words, noun)
		if !ok || stem != "" && !strings.HasSuffix(stem, " ") {
			continue
		}
		switch {
		case noun == "focus":
			return stem + "foci"
		case strings.HasSuffix(noun, "is"), strings.HasSuffix(noun, "um"):
			return stem + map[string]string{"metastasis": "metastases", "septum": "septa"}[noun]
		case strings.HasSuffix(noun, "y"):
			return stem + strings.TrimSuffix(noun, "y") + "ies"
		case strings.HasSuffix(noun, "s"):
			return stem + noun + "es"
		}
		return stem + noun + "s"
	}
	return ""
}

// statesNon reports whether "non-X" states attribute i by the lexicon and the embedded
// triggers.
func (c *Lexicon) statesNon(i int, words string) bool {
	engine, err := DefaultEngine()
	if err != nil || strings.ContainsRune(words, ' ') {
		return false
	}
	cells := Extractor{Lexicon: c, Engine: engine}.Extract(report.Report{Sections: []report.Section{{Name: "report", Text: "There is a non-" + words + " finding."}}})
	return cells[i].State == schema.Stated
}
