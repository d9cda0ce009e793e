package rules

import (
	"fmt"
	"slices"
	"strings"

	"github.com/alignedfusion/alignedfusion/host/report"
	"github.com/alignedfusion/alignedfusion/host/report/schema"
)

// Remark is what a reader of a lexicon would object to.
type Remark struct {
	Attribute string `json:"attribute"`
	Phrase    string `json:"phrase"`
	// Rule is unreachable, overlap, plural, non, blank, mark or comma.
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
//	blank        "a|a b" is a bar between words, not between phrases
//	mark         a ?, * or _ that stands where it has no meaning
//	comma        two phrases in one string
func (c *Lexicon) Lint() []Remark {
	out := c.misspelt()
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

// misspelt are the phrases of all lists that are hardly written as they are meant.
func (c *Lexicon) misspelt() []Remark {
	var out []Remark
	look := func(name string, lists ...[]string) {
		for _, phrase := range slices.Concat(lists...) {
			for _, field := range strings.Fields(phrase) {
				if rule, text := misspelt(field); rule != "" {
					out = append(out, Remark{name, phrase, rule, text})
				}
			}
			if w := repeated(phrase); w != "" {
				out = append(out, Remark{name, phrase, "blank", fmt.Sprintf("%q stands before and behind a bar, which joins single words; write the phrases one by one", w)})
			}
		}
	}
	of := func(p Phrases) []string { return slices.Concat(p.Mentions, p.Absent, p.Borderline, p.Not, p.Either) }
	for _, a := range c.Source.Attributes {
		look(a.Name, of(a.Phrases), a.Near)
		for _, v := range a.Values {
			look(a.Name, v.Mentions)
		}
	}
	look("abnormal", of(c.Source.Abnormal))
	look("harmless", c.Source.Harmless)
	return out
}

// misspelt says what is wrong with one field of a phrase.
func misspelt(field string) (rule, text string) {
	field = strings.TrimSuffix(field, "?")
	for _, word := range strings.Split(field, "|") {
		inner := strings.TrimSuffix(strings.TrimPrefix(word, "*"), "*")
		switch {
		case strings.HasSuffix(word, ",") && len(word) > 1:
			return "comma", fmt.Sprintf("%q has a comma; phrases are separate entries of the list", word)
		case len(word) > 1 && strings.Contains(word, "?"):
			return "mark", fmt.Sprintf("the ? of %q counts only behind all the words between bars", word)
		case len(inner) > 0 && strings.ContainsAny(inner, "*") || len(word) > 1 && strings.HasPrefix(word, "*") && strings.HasSuffix(word, "*"):
			return "mark", fmt.Sprintf("the * of %q counts only at one end of a word", word)
		case word == "_" && field != "_" || len(word) > 1 && strings.Contains(word, "_"):
			return "mark", fmt.Sprintf("the _ of %q counts only alone, for any one word", field)
		}
	}
	return "", ""
}

// repeated is a word that stands in one field with a bar and in another field of the phrase.
func repeated(phrase string) string {
	seen := map[string]bool{}
	bars := strings.Contains(phrase, "|")
	for _, field := range strings.Fields(phrase) {
		words := strings.Split(strings.TrimSuffix(field, "?"), "|")
		for _, w := range words {
			if bars && seen[w] && w != "_" {
				return w
			}
		}
		for _, w := range words {
			seen[w] = true
		}
	}
	return ""
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
