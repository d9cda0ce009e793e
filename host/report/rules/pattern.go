package rules

import (
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"
)

// maxPatternWords bounds a pattern, so that matching stays linear.
const maxPatternWords = 16

// maxOptionalWords bounds the words of a pattern that may be left out: each
// doubles the ways to match.
const maxOptionalWords = 10

// pattern is a phrase to look for, written as words between blanks:
//
//	no evidence of      these words
//	no|without          either (an alternative may have marks inside: r/o)
//	any?                may be left out
//	nodul*              any word that starts so (at least three letters)
//	*ectomy             any word that ends so (at least four letters at the start of a pattern)
//	_                   any one word but "not", "possibly" and their like
//
// Words match their folded form. A hyphen in the text between two words of a
// pattern is skipped: "peri hilar" also finds "peri-hilar".
type pattern struct {
	source string
	elems  []elem
}

type elem struct {
	alts     []alternative
	any      bool
	optional bool
}

// alternative is a run of folded tokens; a single one may be a prefix or a suffix.
type alternative struct {
	tokens         []string
	prefix, suffix bool
}

// matches reports whether a token of a text is the k-th of the run.
func (a alternative) matches(got string, k int) bool {
	w := a.tokens[k]
	return got == w || possessive(got) == w || a.prefix && strings.HasPrefix(got, w) || a.suffix && strings.HasSuffix(got, w)
}

// possessive is a word without its 's: "breslow's".
func possessive(word string) string { return strings.TrimSuffix(word, "'s") }

// String returns the pattern as it was written.
func (p pattern) String() string { return p.source }

// parsePattern reads a pattern.
func parsePattern(source string) (pattern, error) {
	p := pattern{source: source}
	bad := func(format string, args ...any) (pattern, error) {
		return pattern{}, fmt.Errorf("phrase %q: %s", source, fmt.Sprintf(format, args...))
	}
	required, optional := false, 0
	for _, field := range strings.Fields(source) {
		var e elem
		word := field
		if len(word) > 1 && strings.HasSuffix(word, "?") {
			e.optional = true
			word = strings.TrimSuffix(word, "?")
		}
		switch {
		case word == "_":
			e.any = true
			if len(p.elems) == 0 {
				return bad("starts with _, which matches everywhere")
			}
		default:
			for _, written := range strings.Split(word, "|") {
				alt, err := parseAlternative(written, len(p.elems) == 0)
				if err != nil {
					return bad("%q: %v", field, err)
				}
				e.alts = append(e.alts, alt)
			}
		}
		required = required || !e.optional && !e.any
		if e.optional {
			optional++
		}
		p.elems = append(p.elems, e)
	}
	switch {
	case !required:
		return bad("has no word that must be there")
	case optional > maxOptionalWords:
		return bad("has %d words that may be left out; want at most %d", optional, maxOptionalWords)
	case len(p.elems) > maxPatternWords:
		return bad("has %d words; want at most %d", len(p.elems), maxPatternWords)
	}
	return p, nil
}

// parseAlternative reads one of the words between bars.
func parseAlternative(written string, first bool) (a alternative, err error) {
	switch {
	case len(written) > 1 && strings.HasPrefix(written, "*"):
		if a.suffix, written = true, written[1:]; first && len(written) < 4 {
			return a, errors.New("want at least four letters behind a * at the start")
		}
	case len(written) > 1 && strings.HasSuffix(written, "*"):
		a.prefix, written = true, written[:len(written)-1]
	}
	tokens := Tokenize(written)
	for _, t := range tokens {
		a.tokens = append(a.tokens, t.Text)
	}
	switch {
	case len(tokens) == 0:
		return a, errors.New("an empty alternative")
	case a.prefix && (len(tokens) != 1 || !tokens[0].Word || len(tokens[0].Text) < 3):
		return a, errors.New("want at least three letters before *")
	}
	return a, nil
}

// denials are the words that "_" does not stand for: "margin _? involved" is not found in
// "margin not involved", nor in "margin possibly involved".
var denials = wordSet("no not never nor without possibly questionably perhaps equivocally")

// match returns the end of the longest match of p at token i, or -1.
func (p pattern) match(tokens []Token, i int) int {
	return matchElems(p.elems, tokens, i, i)
}

func matchElems(elems []elem, tokens []Token, start, i int) int {
	if len(elems) == 0 {
		return i
	}
	e := elems[0]
	best := -1
	try := func(from int) {
		if e.any {
			if from < len(tokens) && tokens[from].Word && !denials[tokens[from].Text] {
				best = max(best, matchElems(elems[1:], tokens, start, from+1))
			}
			return
		}
		for _, alt := range e.alts {
			end := from
			for k := range alt.tokens {
				if end >= len(tokens) || !alt.matches(tokens[end].Text, k) {
					end = -1
					break
				}
				end++
			}
			if end > 0 {
				best = max(best, matchElems(elems[1:], tokens, start, end))
			}
		}
	}
	try(i)
	if best < 0 && i > start && i+1 < len(tokens) && tokens[i].Text == "-" {
		try(i + 1)
	}
	if e.optional {
		best = max(best, matchElems(elems[1:], tokens, start, i))
	}
	return best
}

// firsts lists the folded tokens (or their beginnings or ends) a match can start with.
func (p pattern) firsts() (exact, prefixes, suffixes []string) {
	for _, e := range p.elems {
		if !e.any {
			for _, alt := range e.alts {
				switch {
				case alt.prefix:
					prefixes = append(prefixes, alt.tokens[0])
				case alt.suffix:
					suffixes = append(suffixes, alt.tokens[0])
				default:
					exact = append(exact, alt.tokens[0])
				}
			}
		}
		if !e.optional {
			break
		}
	}
	return exact, prefixes, suffixes
}

// match is a pattern found in tokens.
type match struct {
	Span
	// pattern is the index of the pattern in the matcher's list.
	pattern int
}

// matcher finds many patterns at once.
type matcher struct {
	patterns []pattern
	exact    map[string][]int
	prefixes map[string][]int // by the first three bytes
	suffixes map[string][]int // by the last three bytes
}

// newMatcher prepares patterns. Matches refer to them by index.
func newMatcher(patterns []pattern) *matcher {
	m := &matcher{patterns: patterns, exact: map[string][]int{}, prefixes: map[string][]int{}, suffixes: map[string][]int{}}
	for n, p := range patterns {
		exact, prefixes, suffixes := p.firsts()
		for _, w := range unique(exact) {
			m.exact[w] = append(m.exact[w], n)
		}
		for i := range prefixes {
			prefixes[i] = prefixes[i][:3]
		}
		for i := range suffixes {
			suffixes[i] = suffixes[i][len(suffixes[i])-3:]
		}
		for _, w := range unique(suffixes) {
			m.suffixes[w] = append(m.suffixes[w], n)
		}
		for _, w := range unique(prefixes) {
			m.prefixes[w] = append(m.prefixes[w], n)
		}
	}
	return m
}

// presence tells which of several matchers may find anything in a sentence, by one look at
// each word.
type presence struct{ exact, prefixes, suffixes map[string]uint64 }

// sharedBit stands for all matchers beyond the bits of a word.
const sharedBit = 61

func bit(n int) uint64 { return 1 << min(n, sharedBit) }

// add puts matcher m, which may be nil, at bit n.
func (p *presence) add(m *matcher, n int) {
	if p.exact == nil {
		p.exact, p.prefixes, p.suffixes = map[string]uint64{}, map[string]uint64{}, map[string]uint64{}
	}
	if m == nil {
		return
	}
	for w := range m.exact {
		p.exact[w] |= 1 << n
	}
	for w := range m.prefixes {
		p.prefixes[w] |= 1 << n
	}
	for w := range m.suffixes {
		p.suffixes[w] |= 1 << n
	}
}

// of returns the bits of the matchers that have a pattern which may begin in span.
func (p *presence) of(tokens []Token, span Span) uint64 {
	var bits uint64
	for _, t := range tokens[span.Start:span.End] {
		bits |= p.word(t.Text)
		for _, prefix := range denyingPrefixes {
			if word, ok := strings.CutPrefix(t.Text, prefix); ok {
				bits |= p.word(word)
			}
		}
	}
	return bits
}

func (p *presence) word(w string) uint64 {
	bits := p.exact[w]
	if bare := possessive(w); len(bare) < len(w) {
		bits |= p.exact[bare]
	}
	if len(w) >= 3 {
		bits |= p.prefixes[w[:3]] | p.suffixes[w[len(w)-3:]]
	}
	return bits
}

// collect adds the words of all patterns to a set; a beginning and an end have their *.
func (m *matcher) collect(words map[string]bool) {
	for _, p := range m.patterns {
		for _, e := range p.elems {
			for _, alt := range e.alts {
				for _, w := range alt.tokens {
					if alt.prefix {
						w += "*"
					} else if alt.suffix {
						w = "*" + w
					}
					words[w] = true
				}
			}
		}
	}
}

func unique(words []string) []string {
	sort.Strings(words)
	out := words[:0]
	for i, w := range words {
		if i == 0 || w != words[i-1] {
			out = append(out, w)
		}
	}
	return out
}

// find returns the matches that start in span and end in it. Of overlapping
// matches the one with more tokens wins, then the one further left, then the
// pattern listed first. Matches are ordered by position.
func (m *matcher) find(tokens []Token, span Span) []match {
	within := tokens[:span.End]
	var found []match
	for i := span.Start; i < span.End; i++ {
		best := match{Span: Span{i, i}}
		for _, n := range m.candidates(tokens[i].Text) {
			if end := m.patterns[n].match(within, i); end > best.End || end == best.End && end > i && n < best.pattern {
				best = match{Span{i, end}, n}
			}
		}
		if best.End > i {
			found = append(found, best)
		}
	}
	return longest(found)
}

func (m *matcher) candidates(word string) []int {
	c := m.exact[word]
	if bare := possessive(word); len(bare) < len(word) && len(m.exact[bare]) > 0 {
		c = append(slices.Clone(c), m.exact[bare]...)
	}
	if len(word) < 3 {
		return c
	}
	if more := m.prefixes[word[:3]]; len(more) > 0 {
		c = slices.Concat(c, more)
	}
	if len(m.suffixes) > 0 {
		c = slices.Concat(c, m.suffixes[word[len(word)-3:]])
	}
	return c
}

// longest drops matches that overlap a better one. found is ordered by start.
func longest(found []match) []match {
	order := make([]int, len(found))
	for i := range order {
		order[i] = i
	}
	sort.SliceStable(order, func(a, b int) bool {
		x, y := found[order[a]], found[order[b]]
		return x.End-x.Start > y.End-y.Start
	})
	keep := make([]bool, len(found))
	for _, i := range order {
		free := true
		for j := i - 1; j >= 0 && found[i].Start-found[j].Start < 4*maxPatternWords; j-- {
			if keep[j] && found[j].End > found[i].Start {
				free = false
				break
			}
		}
		for j := i + 1; free && j < len(found) && found[j].Start < found[i].End; j++ {
			free = !keep[j]
		}
		keep[i] = free
	}
	out := found[:0]
	for i, m := range found {
		if keep[i] {
			out = append(out, m)
		}
	}
	return out
}
