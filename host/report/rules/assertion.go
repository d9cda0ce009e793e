package rules

import (
	_ "embed"
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/goccy/go-yaml"
)

// Assertion is what a sentence says about one mention in it.
type Assertion struct {
	Negated      bool // the report says it is not there
	Possible     bool // held possible, never together with Negated
	Probable     bool // held likely, or one of several named explanations
	Historical   bool // before the present episode
	Hypothetical bool // an eventuality: "return if ..."
	Other        bool // of somebody other than the patient
	// Trigger is the phrase that decided Negated, Possible or Probable; empty when
	// none.
	Trigger Span
}

//go:embed triggers.yaml
var builtinTriggers []byte

// Triggers is a trigger table: for every property the phrases that open a scope
// to the right (forward) or left (backward), that look like a trigger and are
// none (pseudo), and that end a scope (stop).
type Triggers struct {
	TriggersVersion int            `yaml:"triggers_version"`
	Negated         triggerPhrases `yaml:"negated"`
	Possible        triggerPhrases `yaml:"possible"`
	// Probable phrases hold the mention likely, or name it as one of several
	// explanations.
	Probable triggerPhrases `yaml:"probable"`

	Historical   triggerPhrases `yaml:"historical"`
	Hypothetical triggerPhrases `yaml:"hypothetical"`
	Other        triggerPhrases `yaml:"other"`
	// NewSubject lists the phrases that start a new clause after a comma or "and".
	NewSubject []string `yaml:"new_subject"`
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
	Pseudo []string `yaml:"pseudo"`
	Stop   []string `yaml:"stop"`
}

type role uint8

const (
	forward role = 1 << iota
	backward
	adjacent // forward over adjacentWords words
	within
	pseudo
	stop
	possible // the trigger is of the property Possible, not Negated
	probable // or of Probable

	hedge = possible | probable
)

// adjacentWords is the reach of an adjacent trigger.
const adjacentWords = 3

// axis is a group of properties whose triggers close each other's scopes.
type axis struct {
	matcher *matcher
	roles   []role
}

// Engine applies a trigger table. It is safe for concurrent use.
type Engine struct {
	polarity, historical, hypothetical, other axis
	subjects                                  *matcher
}

var defaultEngine = sync.OnceValues(func() (*Engine, error) { return ParseTriggers(builtinTriggers) })

// DefaultEngine returns the engine with the embedded trigger table.
func DefaultEngine() (*Engine, error) { return defaultEngine() }

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
				{forward, group.Forward},
				{backward, group.Backward},
				{adjacent, group.Adjacent},
				{within, group.Within},
				{pseudo, group.Pseudo},
				{stop, group.Stop},
			} {
				r, phrases := list.r, list.phrases
				if r&(forward|backward|adjacent|within) != 0 {
					r |= [...]role{0, possible, probable}[g]
				}
				for _, phrase := range phrases {
					if n, ok := index[phrase]; ok {
						a.roles[n] |= r
						continue
					}
					p, err := parsePattern(phrase)
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
	return e, errors.Join(errs...)
}

// tag is a trigger found in a sentence.
type tag struct {
	Span
	role role
}

func (e *Engine) axes() [4]axis { return [4]axis{e.polarity, e.historical, e.hypothetical, e.other} }

func (a axis) find(tokens []Token, span Span) []tag {
	var tags []tag
	for _, m := range a.matcher.find(tokens, span) {
		tags = append(tags, tag{m.Span, a.roles[m.pattern]})
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
	// closed[i] says that a clause boundary lies before token span.Start+i.
	closed []bool
}

// Read finds the triggers of the sentence tokens[span.Start:span.End].
func (e *Engine) Read(tokens []Token, span Span) *Sentence {
	s := &Sentence{engine: e, tokens: tokens, span: span}
	for k, a := range e.axes() {
		s.tags[k] = a.find(tokens, span)
	}
	s.closed = boundaries(tokens, span, e.subjects.find(tokens, span))
	return s
}

// boundaries marks the tokens before which a clause ends, for every property:
// full stops inside the span, semicolons, colons, dashes between blanks, and a
// comma or "and" that a new subject follows.
func boundaries(tokens []Token, span Span, subjects []match) []bool {
	closed := make([]bool, span.End-span.Start)
	for i := span.Start; i+1 < span.End; i++ {
		t := tokens[i]
		switch t.Text {
		case ";", ":", "!", "?", "\u2022":
			closed[i+1-span.Start] = true
		case ".":
			closed[i+1-span.Start] = tokens[i+1].Space
		case "-":
			closed[i+1-span.Start] = t.Space && tokens[i+1].Space
		}
	}
	for _, m := range subjects {
		if m.Start > span.Start {
			before := tokens[m.Start-1].Text
			if before == "," || before == "and" {
				closed[m.Start-span.Start] = true
			}
		}
	}
	return closed
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
	if r, trigger := s.governs(s.tags[0], mention); r != 0 {
		a.Possible = r&possible != 0
		a.Probable = !a.Possible && r&probable != 0
		a.Negated = r&hedge == 0
		a.Trigger = trigger
	}
	r, _ := s.governs(s.tags[1], mention)
	a.Historical = r != 0
	r, _ = s.governs(s.tags[2], mention)
	a.Hypothetical = r != 0
	r, _ = s.governs(s.tags[3], mention)
	a.Other = r != 0
	return a
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

// governs returns the role and place of the trigger whose scope the mention lies
// in; 0 when there is none. Negation goes before possibility, a trigger on the
// left before one on the right (NegEx 2009: PREN, POST, PREP, POSP).
func (s *Sentence) governs(tags []tag, mention Span) (role, Span) {
	var left, right tag
	for _, t := range tags {
		if t.role&within != 0 && t.Start >= mention.Start && t.End <= mention.End {
			return t.role, t.Span
		}
	}
	for i := len(tags) - 1; i >= 0; i-- {
		t := tags[i]
		if t.End > mention.Start || s.leavesBrackets(t.End, mention.Start) {
			continue
		}
		if s.opens(t, mention.Start) {
			left = t
			if t.role&hedge != 0 {
				left.role = s.outer(tags[:i], t)
			}
		}
		break
	}
	for _, t := range tags {
		if t.Start < mention.End {
			continue
		}
		if !s.crosses(mention.End, t.Start) && t.role&backward != 0 {
			right = t
		}
		break
	}
	switch {
	case left.role != 0 && (left.role&hedge == 0 || right.role == 0 || right.role&hedge != 0):
		return left.role, left.Span
	case right.role != 0:
		return right.role, right.Span
	}
	return 0, Span{}
}

// opens reports whether the scope that t opens to the right reaches token to.
func (s *Sentence) opens(t tag, to int) bool {
	return !s.crosses(t.End+1, to) && (t.role&forward != 0 || t.role&adjacent != 0 && to-t.End < adjacentWords)
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
	if !s.opens(t, h.Start) || s.leavesBrackets(t.End, h.Start) || t.role&probable != 0 {
		return h.role
	}
	for i := t.End; i < h.Start; i++ {
		if w := s.tokens[i].Text; w == "," || w == "and" {
			return h.role
		}
	}
	return t.role
}

// leavesBrackets reports whether a bracket that was open before token from is
// closed before token to: an aside does not govern what comes after it.
func (s *Sentence) leavesBrackets(from, to int) bool {
	depth := 0
	for i := from; i < to; i++ {
		switch s.tokens[i].Text {
		case "(", "[":
			depth++
		case ")", "]":
			if depth--; depth < 0 {
				return true
			}
		}
	}
	return false
}

// crosses reports whether a clause boundary lies after token from-1 and at or
// before token to.
func (s *Sentence) crosses(from, to int) bool {
	for i := from; i <= to; i++ {
		if s.closed[i-s.span.Start] {
			return true
		}
	}
	return false
}
