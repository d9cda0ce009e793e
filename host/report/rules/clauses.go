package rules

import "slices"

// clauseWords are single words by what they tell about clauses.
type clauseWords struct {
	// Openers begin a new statement after a comma, "and" or "with", unless the list
	// goes on with "or": "No pneumothorax, moderate effusion".
	Openers []string `yaml:"openers"`
	// Verbs are finite: what stands before one is its subject.
	Verbs []string `yaml:"verbs"`
	// Existential words after a verb only say that something is there.
	Existential []string `yaml:"existential"`
	// Starters, in the middle of a line and with a capital, begin a sentence whose
	// predecessor lacks its full stop; openers do as well.
	Starters []string `yaml:"starters"`
	And      []string `yaml:"and"`
	Or       []string `yaml:"or"`
	With     []string `yaml:"with"`
	// Negators begin pseudo-triggers that end the scope before them.
	Negators []string `yaml:"negators"`
	// Become words end a statement without a verb of what has become of its subject:
	// "effusion unchanged".
	Become []string `yaml:"become"`
	// Articles begin a noun phrase.
	Articles []string `yaml:"articles"`
	// Concessions after a comma qualify what stands before: "…, although this is uncertain".
	Concessions []string `yaml:"concessions"`
	// Expletives are subjects that stand for nothing: "it is difficult to exclude".
	Expletives []string `yaml:"expletives"`
	// Within, Definite: "in the X" takes X for granted ("no calcification in the nodule"),
	// unless it is X itself that RemainsOf words speak of ("no recurrence of the tumor").
	Within    []string `yaml:"within"`
	Definite  []string `yaml:"definite"`
	RemainsOf []string `yaml:"remains_of"`
	// Apart words do not stand on their own on either side of "or": "left or right".
	Apart []string `yaml:"apart"`
}

// wordClass is a set of the classes of clauseWords.
type wordClass uint16

const (
	opener wordClass = 1 << iota
	verb
	existential
	starter
	and
	or
	with
	negator
	expletive
	apart
	inside
	definite
	remainsOf
	concession
	become
	article
)

func (c clauseWords) classes() map[string]wordClass {
	words := map[string]wordClass{}
	for class, list := range map[wordClass][]string{
		opener: c.Openers, verb: c.Verbs, existential: c.Existential, starter: c.Starters, and: c.And, or: c.Or, with: c.With,
		negator: c.Negators, expletive: c.Expletives, apart: c.Apart, inside: c.Within, definite: c.Definite, remainsOf: c.RemainsOf, concession: c.Concessions, become: c.Become, article: c.Articles,
	} {
		for _, w := range list {
			words[w] |= class
		}
	}
	return words
}

func (e *Engine) is(t Token, class wordClass) bool { return e.words[t.Text]&class != 0 }

// boundaries marks the tokens before which a clause ends, for every property: after full
// stops inside the span, semicolons, colons, question marks and dashes between blanks; at
// a new subject after a comma or "and"; and where a full stop is missing. For polarity, a
// new statement after a comma, "and" or "with" ends one as well.
func (e *Engine) boundaries(tokens []Token, span Span) (closed, polarity []bool) {
	closed = make([]bool, span.End-span.Start)
	polarity = make([]bool, span.End-span.Start)
	for i := span.Start; i+1 < span.End; i++ {
		t, next := tokens[i], tokens[i+1]
		shut, soft := false, false
		switch {
		case t.Word:
			soft = e.is(t, and|with) && e.newStatement(tokens, span, i)
			shut = next.Capital && !t.Capital && e.is(next, opener|starter) && !e.is(t, and|or|with|verb|negator)
		case t.Text == ",":
			soft = e.newStatement(tokens, span, i) || e.ownPredicate(tokens, span, i)
		case t.Text == ":" && i > span.Start && startsDigit(tokens[i-1].Text) && !next.Space && startsDigit(next.Text): // 10:00
		case t.Text == ";" || t.Text == ":" || t.Text == "!" || t.Text == "\u2022":
			shut = true
		case t.Text == "?":
			shut = !t.Space && i > span.Start
		case t.Text == ".":
			shut = next.Space
		case t.Text == "-":
			shut = t.Space && next.Space
		}
		closed[i+1-span.Start], polarity[i+1-span.Start] = shut, shut || soft
	}
	for _, m := range e.subjects.find(tokens, span) {
		if m.Start > span.Start && (tokens[m.Start-1].Text == "," || e.is(tokens[m.Start-1], and)) {
			closed[m.Start-span.Start], polarity[m.Start-span.Start] = true, true
		}
	}
	return closed, polarity
}

// newStatement reports whether an opener follows the comma, "and" or "with" at i, and the
// list that may have begun before does not go on.
func (e *Engine) newStatement(tokens []Token, span Span, i int) bool {
	measured := tokens[i].Text == "," && tokens[i+1].Space && startsDigit(tokens[i+1].Text)
	if !e.is(tokens[i+1], opener) && !measured {
		return false
	}
	if e.is(tokens[i], with) {
		return true
	}
	for _, t := range tokens[i+1 : span.End] {
		switch {
		case e.is(t, or):
			return false
		case e.is(t, verb|with|negator) || t.Text == ";" || t.Text == ":":
			return true
		}
	}
	return true
}

// ownPredicate reports whether the words from the comma at i to the next one are a subject
// with a predicate of its own: "No effusion, cardiomegaly is unchanged", "no pneumothorax,
// effusion stable".
func (e *Engine) ownPredicate(tokens []Token, span Span, i int) bool {
	for j := i + 1; j < span.End; j++ {
		switch t := tokens[j]; {
		case e.is(t, or|and) || j == i+1 && e.is(t, concession):
			return false
		case !t.Word:
			return j > i+2 && e.endsStatement(tokens, span, i, tokens[j-1])
		case e.is(t, verb):
			return j > i+1 && j+1 < span.End && !e.is(tokens[j+1], existential)
		}
	}
	return span.End > i+2 && e.endsStatement(tokens, span, i, tokens[span.End-1])
}

// endsStatement reports whether the word last ends a statement without a verb that began at
// the comma at i: "effusion stable", or, when "or" has ended the list before, "effusion seen".
func (e *Engine) endsStatement(tokens []Token, span Span, i int, last Token) bool {
	listed := slices.ContainsFunc(tokens[span.Start:i], func(t Token) bool { return e.is(t, or) })
	return e.is(last, become) || listed && e.is(last, existential)
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

// joint reports whether a comma or "and" lies between tokens from and to.
func (s *Sentence) joint(from, to int) bool {
	for _, t := range s.tokens[from:max(from, to)] {
		if t.Text == "," || s.engine.is(t, and) {
			return true
		}
	}
	return false
}

// newPredicate reports whether "and" and a finite verb stand between tokens from and to: "no
// enhancement and is well defined".
func (s *Sentence) newPredicate(from, to int) bool {
	for i := from; i+1 < to; i++ {
		if s.engine.is(s.tokens[i], and) && s.engine.is(s.tokens[i+1], verb) {
			return true
		}
	}
	return false
}

// predicate reports whether a trigger is, or ends, the predicate of a sentence: it begins
// with a verb, or one stands up to two words before it.
func (s *Sentence) predicate(t tag) bool {
	for i := t.Start; i >= max(t.Start-2, s.span.Start) && s.tokens[i].Word; i-- {
		if s.engine.is(s.tokens[i], verb) {
			return i == s.span.Start || !s.engine.is(s.tokens[i-1], expletive)
		}
	}
	return false
}

// attributive reports whether a trigger describes what stands after it and not before: one
// word before a noun ("effusion, absent breath sounds"), a time before a number ("8 mm, last
// year 6 mm").
func (s *Sentence) attributive(t tag) bool {
	if t.Start > s.span.Start && s.tokens[t.Start-1].Text == "," && t.End < s.span.End && startsDigit(s.tokens[t.End].Text) {
		return true
	}
	if t.End-t.Start > 1 || t.Start == s.span.Start || t.End >= s.span.End || !s.tokens[t.Start].Word {
		return false
	}
	before, next := s.tokens[t.Start-1], s.tokens[t.End]
	return (before.Text == "," || s.engine.is(before, and|or)) && next.Word && !s.engine.is(next, verb|and|or|with|existential)
}

// ofMeasurement reports whether a trigger stands beside a length in a bracket after the mention,
// and is of that alone: "nodule 16 mm (12 mm in 2020)", "(a year ago 12 mm)".
func (s *Sentence) ofMeasurement(mention Span, t tag) bool {
	if len(lengths.measurements(s.tokens, Span{mention.End, t.Start})) > 1 {
		return true // "38 mm vs 45 mm on the prior"
	}
	open, length := -1, false
	for i := mention.End; i < s.span.End; i++ {
		switch text := s.tokens[i].Text; {
		case text == "(":
			open, length = i, false
		case text == ")":
			if open >= 0 && open < t.Start && t.Start < i {
				return length
			}
			open = -1
		case lengths.factors[text] != 0:
			length = true
		}
	}
	return false
}

// subject reports whether the mention is in the subject of the predicate t after it, or is
// what t describes. A mention with a predicate of its own is not, nor is one before a
// comma that no list is made of ("small effusion, pneumothorax is not seen").
func (s *Sentence) subject(mention Span, t tag) bool {
	comma, coordinated, own := false, false, false
	for i := mention.End; i < t.Start; i++ {
		w := s.tokens[i]
		switch {
		case w.Text == ",":
			if own {
				return false
			}
			comma, coordinated = true, false
		case s.engine.is(w, and|or):
			if own && !s.engine.is(s.tokens[i+1], verb) { // "has improved and is no longer seen" goes on
				return false
			}
			coordinated = true
		case s.engine.is(w, verb) && i+2 < t.Start:
			own = true
		}
	}
	return !comma || coordinated || s.tokens[t.Start-1].Text == ","
}

// presupposed reports whether the mention stands in "in the X", behind a noun after token
// from that the sentence speaks of instead: "no calcification in the nodule" has a nodule.
func (s *Sentence) presupposed(from int, mention Span) bool {
	if s.value {
		return false
	}
	i := mention.Start - 1
	for i > from && (s.tokens[i].Word || decimal(s.tokens, i) || s.tokens[i].Text == "-") && !s.engine.is(s.tokens[i], definite|inside|verb|and|or|with) {
		i--
	}
	if i > from && s.tokens[i-1].Text == "that" && s.engine.is(s.tokens[i], definite) {
		return true // "no evidence that the nodule has grown"
	}
	if i-1 < from || !s.engine.is(s.tokens[i], definite) {
		return false
	}
	k := i - 2
	switch genitive := s.tokens[i].Text == "der" || s.tokens[i].Text == "des"; { // "keine Anreicherung der Läsion"
	case genitive && !s.engine.is(s.tokens[i-1], inside):
		k = i - 1
	case i-2 < from || !s.engine.is(s.tokens[i-1], inside):
		return false
	}
	for k > from && s.engine.is(s.tokens[k], verb|existential) {
		k-- // "no fat is seen within the mass"
	}
	noun := s.tokens[k]
	return noun.Word && !s.engine.is(noun, remainsOf|verb|definite|inside|negator|existential|and|or)
}
