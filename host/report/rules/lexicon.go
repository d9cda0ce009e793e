package rules

import (
	_ "embed"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/goccy/go-yaml"

	"github.com/alignedfusion/alignedfusion/host/report/schema"
	"github.com/alignedfusion/alignedfusion/internal/digest"
	"github.com/alignedfusion/alignedfusion/internal/nearest"
	"github.com/alignedfusion/alignedfusion/internal/problem"
)

// ChestXRay names the embedded lexicon: the fourteen findings that chest
// radiograph corpora are labelled with, and whether the report is normal.
const ChestXRay = "chest-xray"

//go:embed chest-xray.yaml
var chestXRay []byte

// lexiconFile is a file as it is written. phrases are pattern.
type lexiconFile struct {
	LexiconVersion int    `yaml:"lexicon_version"`
	Name           string `yaml:"name"`
	// Languages are those that the phrases are of: en (the default), de, es.
	Languages  []string `yaml:"languages"`
	Attributes []entry  `yaml:"attributes"`
	// Abnormal lists further things that a report with a "nothing_else" attribute
	// must not state.
	Abnormal Phrases `yaml:"abnormal"`
	// Harmless lists what a sentence may speak of in a report with a "nothing_else"
	// attribute that is stated.
	Harmless []string `yaml:"harmless"`
}

// Phrases find one thing.
type Phrases struct {
	// Mentions find it; whether it is there depends on the sentence.
	Mentions []string `yaml:"mentions"`
	// Absent phrases say by themselves that it is not there ("heart size is
	// normal").
	Absent []string `yaml:"absent"`
	// Borderline phrases say by themselves that it is uncertain ("heart size at
	// the upper limit of normal").
	Borderline []string `yaml:"borderline"`
	// Not lists phrases that contain a mention and mean something else.
	Not []string `yaml:"not"`
	// Either lists what, named as the alternative ("atelectasis or scarring"), leaves the
	// mention likely; any other alternative makes it possible.
	Either []string `yaml:"either"`
}

// entry is one attribute.
type entry struct {
	Name string      `yaml:"name"`
	Kind schema.Kind `yaml:"kind"`
	// Phrases find a binary attribute, and what a numeric one is measured on.
	Phrases `yaml:",inline"`
	// Values are the value set of a categorical attribute.
	Values []Value `yaml:"values"`
	// Near makes values and measurements count only in a sentence that states one
	// of these phrases.
	Near []string `yaml:"near"`
	// UnitMM is what a length is written in, in millimetres: 1 for mm, 10 for cm.
	UnitMM float64 `yaml:"unit_mm"`
	// Unit names what a numeric attribute is measured in, instead of UnitMM: mm, cm, um,
	// HU, SUV, %, ml, /mm2, /10HPF, or count for how many there are.
	Unit string `yaml:"unit"`
	// Distance makes lengths count that are the way from or to the thing: "margin 3 mm from
	// the tumor".
	Distance bool `yaml:"distance"`
	// Extent is which of several extents counts, from the largest: 2 for the short axis
	// of "8 x 6 mm". 0 is the largest.
	Extent int `yaml:"extent"`
	// Time "prior" reads what was measured before ("previously 6 mm"); "" and "current"
	// what is measured now.
	Time string `yaml:"time"`
	// Edges are the inner bin edges of a numeric attribute, in its unit.
	Edges []float64 `yaml:"edges"`
	// NothingElse makes a binary attribute negated when the report states another binary
	// attribute or an abnormal phrase. It is stated by its own mentions, unless a sentence
	// speaks of something that the lexicon does not know.
	NothingElse bool `yaml:"nothing_else"`
}

// Value is one value of a categorical attribute and the phrases that state it.
type Value struct {
	Name     string   `yaml:"name"`
	Mentions []string `yaml:"mentions"`
}

// sense says what a matched phrase means.
type sense int8

// The senses of a phrase.
const (
	mention sense = iota
	absent
	borderline
	other  // not the attribute at all
	denial // "margin is not clear"
)

// found is a phrase found in a text.
type found struct {
	Span
	sense sense
	// value is the index of a categorical value, -1 otherwise.
	value int
	// denied says that "non" stands before it.
	denied bool
}

// phraseMatcher finds one attribute's phrases.
type phraseMatcher struct {
	matcher *matcher
	words   map[string]bool // of its phrases; a prefix has its *
	senses  []sense
	values  []int
}

// find returns the phrases that lie in span; other ones are left out. A phrase is found
// behind "non", "non-" and in a word that begins so or with "un", and before "-free", and
// denied there, unless it has the "non" itself.
func (m *phraseMatcher) find(tokens []Token, span Span) []found {
	var all []found
	for _, f := range m.matcher.find(tokens, span) {
		switch s := m.senses[f.pattern]; s {
		case other:
		case denial:
			all = append(all, found{f.Span, mention, m.values[f.pattern], true})
		default:
			all = append(all, found{f.Span, s, m.values[f.pattern], denied(tokens, span, f.Span)})
		}
	}
	for i := span.Start; i < span.End; i++ {
		for _, prefix := range denyingPrefixes {
			if rest, ok := strings.CutPrefix(tokens[i].Text, prefix); ok && len(rest) > 3 && names(m.words, rest) {
				all = append(all, m.behindDenial(tokens, span, i, rest)...)
			}
		}
	}
	return all
}

// denyingPrefixes are the beginnings of words that deny the rest.
var denyingPrefixes = []string{"non", "un"}

// behindDenial finds phrases in which token i counts as the rest of its word.
func (m *phraseMatcher) behindDenial(tokens []Token, span Span, i int, rest string) []found {
	const reach = 3
	from, to := max(span.Start, i-reach), min(span.End, i+reach+1)
	cut := slices.Clone(tokens[from:to])
	cut[i-from].Text = rest
	for _, f := range m.matcher.find(cut, Span{0, len(cut)}) {
		if at := i - from; f.Start <= at && at < f.End && m.senses[f.pattern] == mention {
			return []found{{Span{f.Start + from, f.End + from}, mention, m.values[f.pattern], true}}
		}
	}
	return nil
}

// denied reports whether "non" or "non-" stands before a phrase, or "-free" behind it.
func denied(tokens []Token, span, phrase Span) bool {
	if k := phrase.End; k+1 < span.End && tokens[k].Text == "-" && !tokens[k].Space && tokens[k+1].Text == "free" {
		return true
	}
	i := phrase.Start
	if i > span.Start+1 && tokens[i-1].Text == "-" {
		i--
	}
	return i > span.Start && tokens[i-1].Text == "non"
}

// Lexicon is a lexicon ready for use. It is safe for concurrent use.
type Lexicon struct {
	Source lexiconFile
	hash   string
	Schema schema.Schema
	// match, near and either have one matcher per attribute; the latter two are nil
	// where the attribute has none.
	match, near, either []*phraseMatcher
	abnormal, harmless  *phraseMatcher
	present             presence
	words               map[string]bool // of all phrases; a prefix has its *
}

// languages are those of the phrases.
func (c *Lexicon) languages() []string {
	if len(c.Source.Languages) == 0 {
		return []string{"en"}
	}
	return c.Source.Languages
}

// names reports whether a word is one of the lexicon's phrases.
func (c *Lexicon) names(word string) bool { return names(c.words, word) }

// names reports whether a word is in a set; a prefix has its *.
func names(words map[string]bool, word string) bool {
	if words[word] {
		return true
	}
	for n := 3; n <= len(word); n++ {
		if words[word[:n]+"*"] || words["*"+word[len(word)-n:]] {
			return true
		}
	}
	return false
}

// Hash is the sha256 of the lexicon's file, in hex.
func (c *Lexicon) Hash() string { return c.hash }

var builtin = sync.OnceValues(func() (*Lexicon, error) { return ParseLexicon(chestXRay) })

// OpenLexicon returns the embedded lexicon of that name (see Names), otherwise the file.
func OpenLexicon(nameOrPath string) (*Lexicon, error) {
	if c, err := embeddedLexicon(nameOrPath); c != nil || err != nil {
		return c, err
	}
	data, err := os.ReadFile(nameOrPath)
	if err != nil {
		if meant := nearest.Meant(nameOrPath, Names()); meant != "" { // no file was meant: the error is not wrapped
			return nil, fmt.Errorf("lexicon: %v%s; embedded are %s", err, meant, strings.Join(Names(), ", "))
		}
		return nil, fmt.Errorf("lexicon: %w; embedded are %s", err, strings.Join(Names(), ", "))
	}
	c, err := ParseLexicon(data)
	if err != nil {
		return nil, fmt.Errorf("lexicon %s: %w", nameOrPath, err)
	}
	return c, nil
}

// ParseLexicon reads a lexicon from YAML or JSON and compiles it. Unknown keys are
// refused.
func ParseLexicon(data []byte) (*Lexicon, error) {
	var l lexiconFile
	if err := yaml.UnmarshalWithOptions(data, &l, yaml.DisallowUnknownField()); err != nil {
		return nil, err
	}
	if l.LexiconVersion != 1 {
		return nil, fmt.Errorf("lexicon_version is %d; want 1", l.LexiconVersion)
	}
	c := &Lexicon{Source: l, hash: digest.Of(data)}
	var errs []error
	for i := range l.Attributes {
		e := &l.Attributes[i]
		a, err := e.attribute()
		if err != nil {
			errs = append(errs, fmt.Errorf("attribute %q: %w", e.Name, err))
			continue
		}
		c.Schema.Attributes = append(c.Schema.Attributes, a)
		m, err := compile(e.Phrases, e.Values)
		if err != nil {
			errs = append(errs, fmt.Errorf("attribute %q: %w", e.Name, err))
		}
		c.match = append(c.match, m)
		for _, list := range []struct {
			name    string
			phrases []string
			to      *[]*phraseMatcher
		}{{"near", e.Near, &c.near}, {"either", e.Either, &c.either}} {
			var m *phraseMatcher
			if len(list.phrases) > 0 {
				if m, err = compile(Phrases{Mentions: list.phrases}, nil); err != nil {
					errs = append(errs, fmt.Errorf("attribute %q: %s: %w", e.Name, list.name, err))
				}
			}
			*list.to = append(*list.to, m)
		}
	}
	var err error
	if c.abnormal, err = compile(l.Abnormal, nil); err != nil {
		errs = append(errs, fmt.Errorf("abnormal: %w", err))
	}
	if c.harmless, err = compile(Phrases{Mentions: l.Harmless}, nil); err != nil {
		errs = append(errs, fmt.Errorf("harmless: %w", err))
	}
	for _, name := range l.Languages {
		if _, ok := embedded[name]; !ok {
			errs = append(errs, fmt.Errorf("language %q; want en, de or es", name))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	c.collectWords()
	c.index()
	if err := c.Schema.Validate(); err != nil {
		return nil, err
	}
	return c, nil
}

// attribute makes the schema's attribute of an entry, and says what the entry
// lacks.
func (e *entry) attribute() (schema.Attribute, error) {
	a := schema.Attribute{Name: e.Name, Kind: e.Kind}
	switch e.Kind {
	case schema.Binary:
		a.Values = []string{"no", "yes"}
		if len(e.Values) > 0 || len(e.Edges) > 0 || e.UnitMM != 0 || len(e.Near) > 0 {
			return a, errors.New("a binary attribute has no values, near, edges or unit_mm")
		}
		if len(e.Mentions) == 0 {
			return a, errors.New("no mentions; want at least one phrase")
		}
	case schema.Categorical:
		if len(e.Mentions)+len(e.Absent)+len(e.Borderline) > 0 {
			return a, errors.New("a categorical attribute has its mentions under values")
		}
		for _, v := range e.Values {
			if len(v.Mentions) == 0 {
				return a, fmt.Errorf("value %q has no mentions", v.Name)
			}
			a.Values = append(a.Values, v.Name)
		}
	case schema.Numeric:
		if len(e.Near) == 0 || (e.UnitMM > 0) == (e.Unit != "") || len(e.Edges) == 0 || len(e.Mentions) > 0 {
			return a, errors.New("a numeric attribute needs near, unit_mm or unit, and edges, and has no mentions")
		}
		if _, ok := units[e.Unit]; e.Unit != "" && !ok {
			return a, fmt.Errorf("unit %q; want one of %s", e.Unit, problem.Quote(slices.Sorted(maps.Keys(units))))
		}
		if e.Time != "" && e.Time != "prior" && e.Time != "current" || e.Extent < 0 || e.Extent > 3 {
			return a, fmt.Errorf("time %q, extent %d; want current or prior, and 1 to 3", e.Time, e.Extent)
		}
		a.Edges, a.Values, a.Ordinal = e.Edges, schema.BinLabels(e.Edges), true
	default:
		return a, fmt.Errorf("kind %q; want binary, categorical or numeric", e.Kind)
	}
	if e.NothingElse && e.Kind != schema.Binary {
		return a, errors.New("nothing_else is for binary attributes")
	}
	return a, nil
}

// quantity is what a numeric attribute is measured in.
func (e *entry) quantity() unit {
	if e.Unit == "" {
		return lengths
	}
	return units[e.Unit]
}

// scale is the attribute's unit in the base unit of its quantity.
func (e *entry) scale() float64 {
	if e.UnitMM > 0 {
		return e.UnitMM
	}
	if mm, ok := inMM[e.Unit]; ok {
		return mm
	}
	return 1
}

func compile(p Phrases, values []Value) (*phraseMatcher, error) {
	m := &phraseMatcher{}
	var patterns []pattern
	var errs []error
	seen := map[string]bool{}
	add := func(phrases []string, s sense, value int) {
		for _, phrase := range phrases {
			pattern, err := parsePattern(answered(phrase, copula+"|:|-"))
			pattern.source = phrase
			if err == nil && seen[strings.Join(strings.Fields(phrase), " ")] {
				err = fmt.Errorf("phrase %q is listed twice", phrase)
			}
			if err != nil {
				errs = append(errs, err)
				continue
			}
			seen[strings.Join(strings.Fields(phrase), " ")] = true
			patterns = append(patterns, pattern)
			m.senses = append(m.senses, s)
			m.values = append(m.values, value)
			for _, form := range predicates {
				if p, err := parsePattern(answered(phrase, form.words)); err == nil && s == mention && p.source != phrase {
					patterns = append(patterns, p)
					m.senses = append(m.senses, form.sense)
					m.values = append(m.values, value)
				}
			}
		}
	}
	add(p.Not, other, -1) // first: wins against mentions of the same length
	add(p.Borderline, borderline, -1)
	add(p.Absent, absent, -1)
	add(p.Mentions, mention, -1)
	for k, v := range values {
		add(v.Mentions, mention, k)
	}
	add(elided(p.Mentions, seen), mention, -1)
	for k, v := range values {
		add(slices.Concat(elided(v.Mentions, seen), inverted(v.Mentions, seen)), mention, k)
	}
	m.matcher, m.words = newMatcher(patterns), map[string]bool{}
	m.matcher.collect(m.words)
	return m, errors.Join(errs...)
}

// The bits of abnormal and harmless phrases in a Lexicon's presence; attributes have those
// of their places.
const (
	harmlessBit = 62
	abnormalBit = 63
)

// index prepares the look whether a sentence may hold any phrase.
func (c *Lexicon) index() {
	for i := range c.match {
		c.present.add(c.match[i].matcher, min(i, sharedBit))
		if c.near[i] != nil {
			c.present.add(c.near[i].matcher, min(i, sharedBit))
		}
	}
	c.present.add(c.abnormal.matcher, abnormalBit)
	c.present.add(c.harmless.matcher, harmlessBit)
}

// collectWords gathers the words of all phrases that find attributes.
func (c *Lexicon) collectWords() {
	c.words = map[string]bool{}
	for _, m := range slices.Concat(c.match, c.near, []*phraseMatcher{c.abnormal, c.harmless}) {
		if m == nil {
			continue
		}
		m.matcher.collect(c.words)
	}
}

// elided are the forms of phrases of three plain words in which the middle one is one of
// two, and of two in which the first is: "right upper lobe" in "right upper and middle lobe",
// "perineural invasion" in "perineural or vascular invasion".
func elided(phrases []string, seen map[string]bool) []string {
	var out []string
	for _, phrase := range phrases {
		w := strings.Fields(phrase)
		var forms []string
		switch {
		case strings.ContainsAny(phrase, "_?-:"):
		case len(w) == 3 && !strings.ContainsAny(phrase, "*|"):
			last := w[2] + "|" + w[2] + "s"
			forms = []string{w[0] + " " + w[1] + " and|or|/ _ " + last, w[0] + " _ and|or|/ " + w[1] + " " + last}
		case len(w) == 2 && !copulas[w[1]] && !notNoun[w[0]] && !notNoun[w[1]]:
			forms = []string{w[0] + " deep|lateral|peripheral|radial|surgical|resection|inked|medial|superior|inferior|proximal|distal " + w[1], w[0] + " and|or|/|, _ " + w[1], w[0] + " , _ , and|or? _ " + w[1]}
		}
		for _, form := range forms {
			if !seen[form] {
				out = append(out, form)
			}
		}
	}
	return out
}

const copula = "is|are|was|were|appears|appear|remains|remain|seems|seem|looks|look"

var copulas = wordSet(strings.ReplaceAll(copula, "|", " "))

// predicates are what else may stand between the noun and the adjective of a phrase with a
// copula, and what it makes of it: "margins are not clear", "margins of resection are clear".
var predicates = []struct {
	words string
	sense sense
}{
	{copula + "|:|-? not|never", denial},
	{copula + "|:|-? possibly|questionably|perhaps|equivocally", borderline},
	{copula + "? clearly|focally|widely|narrowly|completely|all|also|now|grossly|both", mention},
	{"of|at|on|in the? _ _? " + copula, mention},
}

// answered is a phrase with other words in the place of its copula: "margin* is|are clear" with
// a colon among them finds "Margins: clear" as well. Whether it may be left out stays.
func answered(phrase, instead string) string {
	words := strings.Fields(phrase)
	for i, w := range words {
		bare := strings.TrimSuffix(w, "?")
		if i > 0 && !slices.ContainsFunc(strings.Split(bare, "|"), func(alt string) bool { return !copulas[alt] }) {
			words[i] = instead
			if !strings.Contains(instead, " ") {
				words[i] += w[len(bare):]
			}
		}
	}
	return strings.Join(words, " ")
}

// inverted are phrases of a word and a noun after it the other way round: of "atypical
// pigment? network" also "pigment network is atypical", "pigment network: atypical".
func inverted(phrases []string, seen map[string]bool) []string {
	var out []string
	for _, phrase := range phrases {
		first, rest, ok := strings.Cut(strings.Join(strings.Fields(phrase), " "), " ")
		if !ok || strings.ContainsAny(first, "?_:-") || strings.ContainsAny(rest, "_:") || slices.ContainsFunc(strings.FieldsFunc(rest, func(r rune) bool { return r == ' ' || r == '|' || r == '?' }), func(w string) bool { return copulas[w] || notNoun[w] }) {
			continue
		}
		if form := rest + " is|are " + first; !seen[form] {
			out = append(out, form)
		}
	}
	return out
}

// notNoun are words that a phrase of a word and its noun does not have.
var notNoun = wordSet("of in and or the to at with by i ii iii iv v vi vii viii")
