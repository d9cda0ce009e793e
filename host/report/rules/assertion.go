package rules

import (
	"embed"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/goccy/go-yaml"
)

// Assertion is what a sentence says about one mention in it.
type Assertion struct {
	Negated      bool // the report says it is not there
	Possible     bool // held possible, never together with Negated
	Probable     bool // held likely
	Alternative  bool // one of several named explanations; Possible is set as well
	Historical   bool // before the present episode
	Standing     bool // Historical, but what is old of its kind is still there: "old fracture"
	Never        bool // denied of the past as well: "no history of bleeding"
	Hypothetical bool // an eventuality: "return if ..."
	Unassessed   bool // Hypothetical by what is said of the mention: "cannot be assessed"
	Other        bool // of somebody other than the patient
	// Trigger is the phrase that decided Negated, Possible or Probable; empty when
	// none.
	Trigger Span
}

//go:embed triggers.yaml triggers-de.yaml triggers-es.yaml
var builtinTriggers embed.FS

// Triggers is a trigger table: for every property the phrases that open a scope
// to the right (forward) or left (backward), that look like a trigger and are
// none (pseudo), and that end a scope (stop).
type Triggers struct {
	TriggersVersion int `yaml:"triggers_version"`
	// Lists are words that a phrase names as @NAME, in the place of a|b|c.
	Lists map[string][]string `yaml:"lists"`

	Negated  triggerPhrases `yaml:"negated"`
	Possible triggerPhrases `yaml:"possible"`
	// Probable phrases hold the mention likely, or name it as one of several
	// explanations.
	Probable triggerPhrases `yaml:"probable"`

	Historical   triggerPhrases `yaml:"historical"`
	Hypothetical triggerPhrases `yaml:"hypothetical"`
	Other        triggerPhrases `yaml:"other"`
	// NewSubject lists the phrases that start a new clause after a comma or "and".
	NewSubject []string `yaml:"new_subject"`
	// Idioms are phrases whose parts are no mention of anything ("mass effect").
	Idioms []string `yaml:"idioms"`
	// Clauses classes the words that tell where a clause begins and ends.
	Clauses clauseWords `yaml:"clauses"`
}

// expand puts the words of lists in the place of their names. A name that is no list stays,
// and matches its own letters only.
func (t *Triggers) expand(phrase string) string {
	for name, words := range t.Lists {
		phrase = strings.ReplaceAll(phrase, "@"+name, strings.Join(words, "|"))
	}
	return phrase
}

// triggerPhrases are the patterns (see pattern) of one property, by role.
type triggerPhrases struct {
	// Forward opens a scope to the right, Backward one to the left. Adjacent is
	// Forward over the next few words only.
	Forward  []string `yaml:"forward"`
	Backward []string `yaml:"backward"`
	Adjacent []string `yaml:"adjacent"`
	// Within decides by standing inside the mention itself.
	Within []string `yaml:"within"`
	// Answer decides about what stands before it and a colon, dash, question mark or
	// bracket ("Effusion: no").
	Answer []string `yaml:"answer"`
	// Current, after a mention, takes an adjacent phrase back: "previous effusion
	// persists".
	Current []string `yaml:"current"`
	// Either names another explanation beside the mention, on any side of it.
	Either []string `yaml:"either"`
	Pseudo []string `yaml:"pseudo"`
	Stop   []string `yaml:"stop"`
}

type role uint16

const (
	forward role = 1 << iota
	backward
	adjacent // forward over adjacentWords words
	within
	answer
	current
	pseudo
	stop
	either   // of Possible: another explanation is named as well
	possible // the trigger is of the property Possible, not Negated
	probable // or of Probable

	hedge = possible | probable
)

// adjacentWords is the reach of an adjacent trigger.
const adjacentWords = 4

// axis is a group of properties whose triggers close each other's scopes.
type axis struct {
	matcher *matcher
	roles   []role
}

// Engine applies a trigger table. It is safe for concurrent use.
type Engine struct {
	polarity, historical, hypothetical, other axis
	subjects, idioms                          *matcher
	words                                     map[string]wordClass
	present                                   presence
	language                                  string // of an embedded table: en, de, es
}

// embedded are the engines of the embedded trigger tables by language.
var embedded = map[string]func() (*Engine, error){"en": builtinEngine("triggers.yaml", "en"), "de": builtinEngine("triggers-de.yaml", "de"), "es": builtinEngine("triggers-es.yaml", "es")}

func builtinEngine(name, language string) func() (*Engine, error) {
	return sync.OnceValues(func() (*Engine, error) {
		data, err := builtinTriggers.ReadFile(name)
		if err != nil {
			return nil, err
		}
		e, err := ParseTriggers(data)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		e.language = language
		return e, nil
	})
}

// DefaultEngine returns the engine with the embedded English trigger table.
func DefaultEngine() (*Engine, error) { return embedded["en"]() }

// TriggersOf returns the engine with the embedded trigger table of a language: en, de, es.
func TriggersOf(language string) (*Engine, error) {
	if open, ok := embedded[language]; ok {
		return open()
	}
	return nil, fmt.Errorf("no embedded trigger table of the language %q; want en, de or es", language)
}

// OpenTriggers reads a trigger table in the layout of the embedded one, which "" names.
func OpenTriggers(path string) (*Engine, error) {
	if path == "" {
		return DefaultEngine()
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("trigger table: %w", err)
	}
	e, err := ParseTriggers(data)
	if err != nil {
		return nil, fmt.Errorf("trigger table %s: %w", path, err)
	}
	return e, nil
}

// ParseTriggers reads a trigger table from YAML. Unknown keys are refused.
func ParseTriggers(data []byte) (*Engine, error) {
	var t Triggers
	if err := yaml.UnmarshalWithOptions(data, &t, yaml.DisallowUnknownField()); err != nil {
		return nil, err
	}
	if t.TriggersVersion != 1 {
		return nil, fmt.Errorf("triggers_version is %d; want 1", t.TriggersVersion)
	}
	e := &Engine{}
	var errs []error
	build := func(name string, groups ...triggerPhrases) axis {
		var a axis
		var patterns []pattern
		index := map[string]int{}
		for g, group := range groups {
			for _, list := range []struct {
				r       role
				phrases []string
			}{
				{pseudo, group.Pseudo}, // first: wins against others of the same length
				{forward, group.Forward},
				{backward, group.Backward},
				{adjacent, group.Adjacent},
				{within, group.Within},
				{answer, group.Answer},
				{current, group.Current},
				{either | forward | backward, group.Either},
				{stop, group.Stop},
			} {
				r, phrases := list.r, list.phrases
				if r&(forward|backward|adjacent|within|answer) != 0 {
					r |= [...]role{0, possible, probable}[g]
				}
				for _, phrase := range phrases {
					if n, ok := index[phrase]; ok {
						a.roles[n] |= r
						continue
					}
					p, err := parsePattern(t.expand(phrase))
					if err != nil {
						errs = append(errs, fmt.Errorf("%s: %w", name, err))
						continue
					}
					index[phrase] = len(patterns)
					patterns = append(patterns, p)
					a.roles = append(a.roles, r)
				}
			}
		}
		a.matcher = newMatcher(patterns)
		return a
	}
	e.polarity = build("negated, possible, probable", t.Negated, t.Possible, t.Probable)
	e.historical = build("historical", t.Historical)
	e.hypothetical = build("hypothetical", t.Hypothetical)
	e.other = build("other", t.Other)
	e.subjects = build("new_subject", triggerPhrases{Stop: t.NewSubject}).matcher
	e.idioms = build("idioms", triggerPhrases{Pseudo: t.Idioms}).matcher
	e.words = t.Clauses.classes()
	for k, a := range e.axes() {
		e.present.add(a.matcher, k)
	}
	e.present.add(e.idioms, idiomBit)
	return e, errors.Join(errs...)
}

// idiomBit is that of idioms in an Engine's presence; the axes have those of their places.
const idiomBit = 4

// tag is a trigger found in a sentence.
type tag struct {
	Span
	role role
}

func (e *Engine) axes() [4]axis { return [4]axis{e.polarity, e.historical, e.hypothetical, e.other} }

// find returns the triggers in span. One that several phrases of the same polarity name
// has the roles of all of them.
func (a axis) find(tokens []Token, span Span) []tag {
	var tags []tag
	for _, m := range a.matcher.find(tokens, span) {
		t := tag{m.Span, a.roles[m.pattern]}
		if t.role&(pseudo|stop) == 0 {
			for _, n := range a.matcher.candidates(tokens[m.Start].Text) {
				if r := a.roles[n]; r&(pseudo|stop) == 0 && r&hedge == t.role&hedge && a.matcher.patterns[n].match(tokens[:m.End], m.Start) == m.End {
					t.role |= r
				}
			}
		}
		tags = append(tags, t)
	}
	return tags
}

// Sentence is one sentence with its triggers found; Assess may be called for
// any number of mentions in it.
type Sentence struct {
	engine *Engine
	tokens []Token
	span   Span
	tags   [4][]tag // polarity, historical, hypothetical, other
	idioms []match
	// closed[i] says that a clause boundary lies before token span.Start+i; those of
	// polarity are more.
	closed, polarity []bool
	// value says that a mention is a value of something, which is not taken for granted.
	value bool
}

// Read finds the triggers of the sentence tokens[span.Start:span.End].
func (e *Engine) Read(tokens []Token, span Span) *Sentence {
	s := &Sentence{engine: e, tokens: tokens, span: span}
	bits := e.present.of(tokens, span)
	for k, a := range e.axes() {
		if bits&(1<<k) != 0 {
			s.tags[k] = slices.DeleteFunc(a.find(tokens, span), func(t tag) bool { return s.ofNumbers(t) })
		}
	}
	if bits&(1<<idiomBit) != 0 {
		s.idioms = e.idioms.find(tokens, span)
	}
	s.closed, s.polarity = e.boundaries(tokens, span)
	return s
}

// ofNumbers reports whether a trigger only belongs to numbers: a "versus" before one ("9
// mm versus 6 mm"), a "0" that is the end of one.
func (s *Sentence) ofNumbers(t tag) bool {
	i := t.End
	if i < s.span.End && s.tokens[i].Text == "." {
		i++
	}
	if t.End-t.Start == 1 && s.tokens[t.Start].Text == "0" && t.Start > s.span.Start && !s.tokens[t.Start].Space {
		return true // 1.0
	}
	return t.role&either != 0 && t.End-t.Start == 1 && i < s.span.End && startsDigit(s.tokens[i].Text)
}

// of is the sentence with mentions as values of something, or as things.
func (s *Sentence) of(value bool) *Sentence {
	if s.value == value {
		return s
	}
	other := *s
	other.value = value
	return &other
}

// idiom reports whether the mention is a part of a phrase that means something else.
func (s *Sentence) idiom(mention Span) bool {
	for _, m := range s.idioms {
		if m.Start <= mention.Start && mention.End <= m.End && m.End-m.Start > mention.End-mention.Start {
			return true
		}
	}
	return false
}

// Assess says how the sentence speaks of the mention, a span of its tokens.
// Triggers inside the mention are ignored.
func (s *Sentence) Assess(mention Span) Assertion {
	var a Assertion
	for k := range s.tags {
		for _, t := range s.tags[k] {
			if t.Start < mention.Start && t.End > mention.Start || t.Start < mention.End && t.End > mention.End {
				s = s.without(mention)
				break
			}
		}
	}
	eventual := s.governs(s.tags[2], mention)
	a.Unassessed = eventual.role != 0 && eventual.Start >= mention.End
	a.Hypothetical = eventual.role != 0 || s.advises()
	statement := *s
	statement.closed = s.polarity
	t := statement.governs(s.tags[0], mention)
	if t.role == 0 && !a.Hypothetical {
		t = s.alternative(mention)
	}
	if t.role != 0 && !(t.End <= mention.Start && s.excepted(mention)) && !s.characterizes(t, mention) {
		a.Possible = t.role&possible != 0
		a.Probable = !a.Possible && t.role&probable != 0
		a.Negated = t.role&hedge == 0
		a.Alternative = a.Possible && t.role&either != 0
		a.Trigger = t.Span
	}
	past := s.governs(s.tags[1], mention)
	a.Historical = past.role != 0 && !((past.role&adjacent != 0 || past.Start >= mention.End) && s.isCurrent(mention, past, a))
	a.Standing = a.Historical && past.role&adjacent != 0 && past.End-past.Start == 1 && standingWords[s.tokens[past.Start].Text]
	a.Never = a.Negated && a.Historical && a.Trigger.Start <= past.Start && past.End <= a.Trigger.End
	a.Other = s.governs(s.tags[3], mention).role != 0
	return a
}

// anyWords begin advice for whatever may come, with one of dutyWords.
var (
	anyWords  = wordSet("any every")
	dutyWords = wordSet("should must requires require needs need warrants warrant")
)

// advises reports whether the sentence is of no case at hand: "Any new nodule should be reported".
func (s *Sentence) advises() bool {
	return anyWords[s.tokens[s.span.Start].Text] && slices.ContainsFunc(s.tokens[s.span.Start:s.span.End], func(t Token) bool { return dutyWords[t.Text] })
}

// standingWords before a mention make it old, and not gone.
var standingWords = wordSet("old remote healed")

// onceWords before a value make it that of another time, whatever has become of the thing.
var onceWords = wordSet("previously formerly initially originally once")

// named reports whether the mention is a particular one, which then exists: "the nodule".
func (s *Sentence) named(mention Span) bool {
	i := mention.Start - 1
	for i >= s.span.Start && (s.tokens[i].Word || decimal(s.tokens, i) || s.tokens[i].Text == "-") && !s.engine.is(s.tokens[i], definite|inside|verb|and|or|with) {
		i--
	}
	return i >= s.span.Start && s.engine.is(s.tokens[i], definite)
}

// exceptWords begin the triggers that except something from a denial, and exceptedOnes are what
// of its kind is excepted.
var (
	exceptWords  = wordSet("except besides apart aside other save beyond with")
	exceptedOnes = wordSet("one ones those that two three")
)

// excepted reports whether a trigger after the mention excepts some of its kind from a denial:
// "no nodule besides the one in the lingula".
func (s *Sentence) excepted(mention Span) bool {
	for _, t := range s.tags[0] {
		if t.Start < mention.End || t.role&stop == 0 || !exceptWords[s.tokens[t.Start].Text] || s.crosses(mention.End, t.Start) {
			continue
		}
		i := t.End
		if first := s.tokens[t.Start].Text; (first == "except" || first == "with") && i+1 < s.span.End && (s.tokens[i].Text == "for" || first == "with") && strings.HasPrefix(s.tokens[i+1].Text, "a") && s.engine.is(s.tokens[i+1], article) || first == "with" && s.engine.is(s.tokens[i], article) {
			return true
		}
		for i < s.span.End && (s.engine.is(s.tokens[i], article) || s.tokens[i].Text == "for") {
			i++
		}
		return i < s.span.End && exceptedOnes[s.tokens[i].Text]
	}
	return false
}

// characterWords say of a thing what it may be, and not whether it is.
var characterWords = wordSet("indeterminate suspicious concerning worrisome")

// characterizes reports whether a hedge behind a particular thing is of its kind: "the nodule is
// indeterminate".
func (s *Sentence) characterizes(t tag, mention Span) bool {
	return t.role&possible != 0 && t.Start >= mention.End && characterWords[s.tokens[t.End-1].Text] && s.named(mention)
}

// without is the sentence with triggers looked for only outside the mention: a
// trigger that reaches into it ("no change" before "change in hearing") gives
// way to a shorter one.
func (s *Sentence) without(mention Span) *Sentence {
	cut := *s
	for k, a := range s.engine.axes() {
		cut.tags[k] = nil
		for _, part := range []Span{{Start: s.span.Start, End: mention.Start}, mention, {Start: mention.End, End: s.span.End}} {
			cut.tags[k] = append(cut.tags[k], a.find(s.tokens, part)...)
		}
	}
	return &cut
}

// isCurrent reports whether the clause goes on to say of a mention of the past what has
// become of it.
func (s *Sentence) isCurrent(mention Span, past tag, a Assertion) bool {
	if a.Negated && (a.Trigger.Start >= mention.End || past.role&adjacent != 0 && a.Trigger.End <= past.Start) {
		return true
	}
	if s.value && past.End == mention.Start && onceWords[s.tokens[past.Start].Text] {
		return false // "previously smooth, is now spiculated"
	}
	for _, t := range s.tags[1] {
		if t.role&current != 0 && t.Start >= mention.End && (past.Start < mention.End || t.Start >= past.End) && !s.crosses(mention.End, t.Start) && !s.otherNoun(mention.End, t.Start) {
			return true
		}
	}
	return false
}

// otherNoun reports whether the words between the last comma before token to and it name
// something else: "resection of a tumor, lungs now clear".
func (s *Sentence) otherNoun(from, to int) bool {
	noun := false
	for i := to - 1; i >= from; i-- {
		switch t := s.tokens[i]; {
		case t.Text == ",":
			return noun
		case t.Word && !startsDigit(t.Text) && lengths.factors[t.Text] == 0 && !closedWords[t.Text] && !sizeWords[t.Text] && !pastWords[t.Text] && !nowWords[t.Text] && t.Text != "appearance" && t.Text != "finding" &&
			!s.engine.is(t, opener|verb|existential|and|or|with|article|expletive|become|definite):
			noun = true
		}
	}
	return false
}

// governs returns the trigger whose scope the mention lies in; the zero tag when there is
// none. An answer goes first, then negation before possibility, then a trigger on the left
// before one on the right (NegEx 2009: PREN, POST, PREP, POSP).
func (s *Sentence) governs(tags []tag, mention Span) tag {
	if len(tags) == 0 {
		return tag{}
	}
	for _, t := range tags {
		if t.role&within != 0 && t.Start >= mention.Start && t.End <= mention.End {
			return t
		}
	}
	if s.value && startsDigit(s.tokens[mention.End-1].Text) && mention.End < s.span.End && s.tokens[mention.End].Text == ":" {
		return s.left(tags, mention) // "BI-RADS 1: negative" says what 1 means
	}
	if t := s.answer(tags, mention); t.role != 0 {
		return t
	}
	left, right := s.left(tags, mention), s.right(tags, mention)
	if left.role != 0 && (left.role&hedge == 0 || right.role == 0 || right.role&hedge != 0) {
		return left
	}
	return right
}

// left is the trigger that opens its scope to the mention from the left. Triggers in
// between that do not open to the right are passed over, unless they end the clause.
func (s *Sentence) left(tags []tag, mention Span) tag {
	for i := len(tags) - 1; i >= 0; i-- {
		t := tags[i]
		if t.End > mention.Start || s.leavesBrackets(t.End, mention.Start) {
			continue
		}
		switch {
		case s.crosses(s.after(t), mention.Start), s.newPredicate(t.End, mention.Start):
			return tag{}
		case s.sharesHead(t, mention):
			continue
		case s.opens(t, mention.Start):
			if s.presupposed(t.End, mention) {
				return tag{}
			}
			if t.role&hedge != 0 {
				t.role = s.outer(tags[:i], t)
			}
			return t
		case t.role&stop != 0,
			t.role&pseudo != 0 && s.engine.is(s.tokens[t.Start], negator),
			t.role&backward != 0 && s.predicate(t) && s.joint(t.End, mention.Start):
			return tag{}
		}
	}
	return tag{}
}

// sharesHead reports whether a "rather than" compares two adjectives of the mention, which
// itself is not denied: "cystic rather than solid mass".
func (s *Sentence) sharesHead(t tag, mention Span) bool {
	if s.tokens[t.Start].Text != "rather" || t.Start == s.span.Start || mention.Start <= t.End || s.crosses(t.End, mention.Start) {
		return false
	}
	before := s.tokens[t.Start-1].Text
	return before == "glass" || before == "benign" || before != "fluid" && slices.ContainsFunc(adjectiveEndings, func(e string) bool { return strings.HasSuffix(before, e) })
}

var adjectiveEndings = []string{"ic", "ous", "ed", "al", "id", "ar", "ent", "ant", "ive", "tty"}

// right is the trigger that opens its scope to the mention from the right.
func (s *Sentence) right(tags []tag, mention Span) tag {
	for k, t := range tags {
		if t.Start < mention.End || t.role == current {
			continue
		}
		switch {
		case s.crosses(mention.End, t.Start):
			return tag{}
		case t.role&backward != 0 && (s.attributive(t) || s.ofMeasurement(mention, t)), t.role == stop && s.engine.is(s.tokens[t.Start], inside):
			continue
		case t.role&backward != 0 && s.presupposed(s.span.Start, mention):
			return tag{}
		case t.role&backward != 0 && s.subject(mention, t):
			if k+1 < len(tags) && t.role&probable != 0 && tags[k+1].Start == t.End && tags[k+1].role&backward != 0 {
				return tags[k+1] // "is likely absent"
			}
			return t
		}
		return tag{}
	}
	return tag{}
}

// answer is the trigger that answers the mention before a colon, question mark, dash or
// bracket: "Effusion: none", "Effusion, right? No".
func (s *Sentence) answer(tags []tag, mention Span) tag {
	i, listed := mention.End, false
	for ; i < min(mention.End+6, s.span.End); i++ {
		t := s.tokens[i]
		if t.Text == "/" || t.Text == "," || s.engine.is(t, and|or) {
			listed = true
		} else if !t.Word || s.engine.is(t, verb|with) || !listed && i >= mention.End+3 {
			break
		}
	}
	if i+1 >= s.span.End || listed && s.tokens[i].Text != ":" {
		return tag{}
	}
	switch mark := s.tokens[i]; mark.Text {
	case ":", "=", "(", "?":
	case "-":
		if !mark.Space && !s.tokens[i+1].Space {
			return tag{}
		}
	default:
		return tag{}
	}
	for _, t := range tags {
		if t.Start != i+1 && (t.Start != i || t.End == i+1) || t.role&(answer|backward) == 0 {
			continue
		}
		if t.role&backward != 0 && s.ofMeasurement(mention, t) {
			continue
		}
		if t.role&backward != 0 || t.End >= s.span.End || !s.tokens[t.End].Word || s.repeats(mention, t.End) {
			return t
		}
	}
	return tag{}
}

// repeats reports whether the words from i on name the mention again: "Effusion: no
// pleural effusion".
func (s *Sentence) repeats(mention Span, i int) bool {
	const stem = 5
	for ; i < s.span.End && s.tokens[i].Word; i++ {
		for _, t := range s.tokens[mention.Start:mention.End] {
			if len(t.Text) >= stem && len(s.tokens[i].Text) >= stem && t.Text[:stem] == s.tokens[i].Text[:stem] {
				return true
			}
		}
	}
	return false
}

// alternative is the "or" or stroke that makes the mention one of several explanations:
// "atelectasis or early pneumonia".
func (s *Sentence) alternative(mention Span) tag {
	at := func(i int) bool {
		if i <= s.span.Start || i+1 >= s.span.End {
			return false
		}
		t, before, next := s.tokens[i], s.tokens[i-1], s.tokens[i+1]
		if t.Text != "/" && !s.engine.is(t, or) || !before.Word || !next.Word || abbreviated(s.tokens, i-1) || abbreviated(s.tokens, i+1) {
			return false
		}
		return !s.engine.is(before, apart|with|negator|verb) && !s.engine.is(next, apart|with|negator|verb) && !startsDigit(before.Text) && !strings.ContainsAny(next.Text, "0123456789") && next.Text != "hpf"
	}
	if at(mention.End) {
		return tag{Span{mention.End, mention.End + 1}, possible | either}
	}
	for i := mention.Start - 1; i >= max(mention.Start-3, s.span.Start); i-- {
		if at(i) && (s.tokens[i].Text != "/" || i >= mention.Start-2) {
			return tag{Span{i, i + 1}, possible | either}
		}
		if !s.tokens[i].Word {
			break
		}
	}
	return tag{}
}

func startsDigit(s string) bool { return s != "" && '0' <= s[0] && s[0] <= '9' }

// after is the token that a trigger's scope to the right begins behind: a colon directly
// after the trigger is part of it ("negative for: mass").
func (s *Sentence) after(t tag) int {
	if t.End < s.span.End && s.tokens[t.End].Text == ":" {
		return t.End + 2
	}
	return t.End + 1
}

// opens reports whether the scope that t opens to the right reaches token to. A trigger
// that opens both ways and ends a predicate has been used up by what stands before it.
func (s *Sentence) opens(t tag, to int) bool {
	if t.role&(forward|adjacent) == 0 || s.crosses(s.after(t), to) {
		return false
	}
	if t.role&backward != 0 && t.End < s.span.End && (s.tokens[t.End].Text == "," || s.predicate(t)) {
		return false
	}
	return t.role&forward != 0 || to-t.End < adjacentWords && !s.joint(t.End, to)
}

// outer is the role of the hedge h with regard to the last of tags, when that
// governs the hedge in the same phrase: "no nodules suspicious for cancer" denies
// the cancer, "may represent atelectasis versus infiltrate" holds both possible.
// A comma or "and" between the two starts anew ("no fever, likely pneumonia").
func (s *Sentence) outer(tags []tag, h tag) role {
	if len(tags) == 0 {
		return h.role
	}
	t := tags[len(tags)-1]
	if !s.opens(t, h.Start) || s.leavesBrackets(t.End, h.Start) || t.role&probable != 0 || s.joint(t.End, h.Start) {
		return h.role
	}
	return t.role
}
