// Package rules reads attributes from report text by rules: text is split into words and
// sentences, a lexicon finds mentions, the assertion engine says how the sentence speaks of
// them (NegEx, Chapman et al. 2001, rule-file version 2009, and ConText, Harkema et al.
// 2009), and lengths are read with their units. All spans are byte offsets into the text as
// it was given, so that evidence can be quoted verbatim.
package rules

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// Token is a word or a single punctuation mark.
type Token struct {
	// Start and End are byte offsets into the text, End exclusive.
	Start, End int
	// Text is the folded form: lower case, without accents, format characters
	// (zero-width, bidi) and control characters; apostrophes are '.
	Text string
	// Word says that the token consists of letters or digits.
	Word bool
	// Lines is the number of line breaks between the token before and this one.
	Lines int
	// Space says that white space stands before the token.
	Space bool
	// Capital says that a capital and a small letter begin it.
	Capital bool
	// Upper says that there is a capital in it behind its first letter, or alone.
	Upper bool
}

// Span is a range of tokens, End exclusive.
type Span struct{ Start, End int }

// Tokenize splits s. Words are runs of letters, digits and combining marks, with
// single apostrophes inside; format and control characters inside a word belong
// to it but do not show in its Text. Everything else that is not white space is
// a token of its own. Invalid UTF-8 separates words.
func Tokenize(s string) []Token {
	tokens := make([]Token, 0, len(s)/5+1)
	lines, space := 0, false
	for i := 0; i < len(s); {
		r, w := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && w <= 1:
			space = true
			i++
			continue
		case unicode.IsSpace(r):
			if r == '\n' || r == '\u2028' || r == '\u2029' {
				lines++
			}
			space = true
			i += w
			continue
		case invisible(r):
			i += w
			continue
		case r == '\\' && escapedBreak(s[i:]):
			if s[i+1] == 'n' {
				lines++
			}
			space = true
			i += 2
			continue
		case !wordRune(r):
			tokens = append(tokens, Token{Start: i, End: i + w, Text: foldMark(r), Lines: lines, Space: space})
			i += w
		default:
			end, plain := wordEnd(s, i)
			tokens = append(tokens, Token{Start: i, End: end, Text: foldWord(s[i:end], plain), Word: true, Lines: lines, Space: space, Capital: !plain && capital(s[i:end]), Upper: !plain && upperIn(s[i:end])})
			i = end
		}
		lines, space = 0, false
	}
	return tokens
}

func capital(word string) bool {
	first, w := utf8.DecodeRuneInString(word)
	second, _ := utf8.DecodeRuneInString(word[w:])
	return unicode.IsUpper(first) && unicode.IsLower(second)
}

func upperIn(word string) bool {
	_, w := utf8.DecodeRuneInString(word)
	return strings.ContainsFunc(word[w:], unicode.IsUpper) || w == len(word) && strings.ToLower(word) != word
}

// escapedBreak reports whether s begins with a line break or tab that an export has written
// as two characters.
func escapedBreak(s string) bool {
	if len(s) < 2 || s[1] != 'n' && s[1] != 'r' && s[1] != 't' {
		return false
	}
	return len(s) == 2 || s[2] < 'a' || s[2] > 'z'
}

func wordRune(r rune) bool {
	if r < utf8.RuneSelf {
		return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9'
	}
	return unicode.IsLetter(r) || unicode.IsDigit(r) || unicode.Is(unicode.M, r)
}

func invisible(r rune) bool {
	return unicode.Is(unicode.Cf, r) || unicode.Is(unicode.Cc, r) && !unicode.IsSpace(r)
}

func apostrophe(r rune) bool { return r == '\'' || r == '\u2019' || r == '\u02BC' }

// wordEnd returns the end of the word that starts at i, and whether it is plain
// lower-case ASCII.
func wordEnd(s string, i int) (end int, plain bool) {
	plain = true
	end = i
	for j := i; j < len(s); {
		c := s[j]
		if 'a' <= c && c <= 'z' || '0' <= c && c <= '9' {
			j++
			end = j
			continue
		}
		r, w := utf8.DecodeRuneInString(s[j:])
		switch {
		case r == utf8.RuneError && w <= 1:
			return end, plain
		case wordRune(r):
			plain = false
			j += w
			end = j
		case invisible(r):
			plain = false
			j += w // belongs to the word only if more of it follows
		case apostrophe(r):
			next, nw := utf8.DecodeRuneInString(s[j+w:])
			if nw == 0 || !unicode.IsLetter(next) {
				return end, plain
			}
			plain = false
			j += w
		default:
			return end, plain
		}
	}
	return end, plain
}

func foldWord(w string, plain bool) string {
	if plain {
		return w
	}
	ascii := true
	for i := 0; i < len(w); i++ {
		if w[i] >= utf8.RuneSelf || w[i] < 0x20 {
			ascii = false
			break
		}
	}
	if ascii {
		return strings.ToLower(w)
	}
	var b strings.Builder
	for _, r := range norm.NFKD.String(w) {
		switch {
		case invisible(r) || unicode.Is(unicode.Mn, r):
		case r == '\u00df' || r == '\u1e9e':
			b.WriteString("ss")
		case apostrophe(r):
			b.WriteByte('\'')
		default:
			b.WriteRune(unicode.ToLower(r))
		}
	}
	return b.String()
}

func foldMark(r rune) string {
	switch r {
	case '\u2010', '\u2011', '\u2012', '\u2013', '\u2014', '\u2212':
		return "-"
	case '\u2018', '\u2019', '\u02BC':
		return "'"
	}
	return string(r)
}

// notEnd are abbreviations that a full stop does not end a sentence after.
var notEnd = map[string]bool{
	"dr": true, "mr": true, "mrs": true, "ms": true, "prof": true, "st": true, "vs": true, "eg": true, "ie": true,
	"e": true, "g": true, "i": true, "approx": true, "ca": true, "fig": true, "resp": true, "incl": true, "pt": true,
	"n": true, "p": true, "a": true, "m": true, "v": true, "z": true, "o": true, "u": true, "bzw": true, "ggf": true, "evtl": true, "bds": true, "cf": true, "al": true, "max": true, "est": true, "avg": true, "vol": true, "diam": true, "meas": true, "prev": true, "ser": true, "img": true, "lt": true, "rt": true, "min": true,
}

// maxSentenceTokens parts text without sentence ends, so that the work per
// sentence stays bounded.
const maxSentenceTokens = 400

// sentences groups tokens into sentences: they end at . ! ? (not inside numbers,
// not after common abbreviations, not at a "?" that stands before what it
// questions, and not before its answer), at a blank line, before a numbered or
// bulleted item that starts a line or follows a sentence end, at a line
// break after a colon or before a capital, and after 400 tokens. Closing quotes
// and brackets stay with the sentence they close.
func sentences(tokens []Token) []Span {
	var spans []Span
	start := 0
	flush := func(end int) {
		if end > start {
			spans = append(spans, Span{start, end})
		}
		start = end
	}
	for i := range tokens {
		t := tokens[i]
		if i-start >= maxSentenceTokens || i > start && (t.Lines >= 2 || t.Lines == 1 && (itemStart(tokens, i) || tokens[i-1].Text == ":" || t.Capital && !unfinished[tokens[i-1].Text] || newRow(tokens, start, i))) {
			flush(i)
		}
		if t.Word || i < start {
			continue
		}
		switch t.Text {
		case "!":
		case "?":
			if !endsQuestion(tokens, start, i) {
				continue
			}
		case ".":
			if !endsSentence(tokens, start, i) {
				continue
			}
		default:
			continue
		}
		end := i + 1
		for end < len(tokens) && !tokens[end].Space && closing(tokens[end].Text) {
			end++
		}
		flush(end)
	}
	flush(len(tokens))
	return spans
}

// newRow reports whether the line that begins at token i, though not with a capital and small
// letters, does not go on with the one before: "PR: negative", "LLL nodule | 5 mm", "pT2" behind
// a number.
func newRow(tokens []Token, start, i int) bool {
	const longest = 4
	if unfinished[tokens[i-1].Text] {
		return false
	}
	table, fields := false, false
	for _, t := range tokens[start:i] {
		table, fields = table || t.Text == "|", fields || t.Text == ":"
	}
	field := false
	for k := i + 1; k < min(len(tokens), i+longest+1) && tokens[k].Lines == 0; k++ {
		if field = tokens[k].Text == ":"; field || !tokens[k].Word && tokens[k].Text != "/" && tokens[k].Text != "-" {
			break
		}
	}
	last := tokens[i-1].Text
	return table || field && (fields || tokens[i].Upper) || tokens[i].Upper && (startsDigit(last) || last == ")" || lengths.factors[last] != 0)
}

// unfinished are the words and marks after which a line with a capital goes on.
var unfinished = wordSet(", - ( / and or nor the a an of in on at to from with without no by for is are was were")

// answers are the words that answer a question before them.
var answers = wordSet("no none nil not negative neg absent yes possible possibly probable probably unlikely nein keine keiner ja si")

// endsQuestion decides about the question mark at token i of the sentence that starts at
// token start.
func endsQuestion(tokens []Token, start, i int) bool {
	if i+1 == len(tokens) {
		return true
	}
	next := tokens[i+1]
	switch {
	case i == start || tokens[i].Space || tokens[i-1].Text == "(":
		return false // "?pneumonia", "pneumonia (?)"
	case next.Word:
		return next.Space && !answers[next.Text]
	}
	return next.Text != "," && next.Text != "/"
}

func closing(mark string) bool {
	switch mark {
	case ")", "]", "\"", "'", "\u201d", ".", "!", "?":
		return true
	}
	return false
}

// itemStart reports whether a list item starts at token i: "-", "*", "1." or "1)".
func itemStart(tokens []Token, i int) bool {
	t := tokens[i]
	if !t.Word {
		return (t.Text == "-" || t.Text == "*" || t.Text == "\u2022") && i+1 < len(tokens) && tokens[i+1].Space
	}
	return number(t.Text) && len(t.Text) <= 2 && i+1 < len(tokens) && !tokens[i+1].Space && (tokens[i+1].Text == "." || tokens[i+1].Text == ")")
}

// ordinalWords stand before a German ordinal: "im 7. Brustwirbel".
var ordinalWords = wordSet("im am der des dem den zum vom beim die das")

func number(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != ""
}

// endsSentence decides about the full stop at token i of the sentence that
// starts at token start.
func endsSentence(tokens []Token, start, i int) bool {
	if i+1 == len(tokens) {
		return true
	}
	next := tokens[i+1]
	if (i == start || tokens[i].Space) && next.Word && !next.Space && startsDigit(next.Text) {
		return false // .5
	}
	if i == start {
		return true
	}
	prev := tokens[i-1]
	if prev.Word && !tokens[i].Space {
		if !next.Space && startsDigit(next.Text) && startsDigit(prev.Text[len(prev.Text)-1:]) || number(prev.Text) && i-1 == start {
			return false // 1.5, or the number of an item
		}
		if notEnd[prev.Text] || prev.Text == "b" && i-3 >= start && tokens[i-3].Text == "z" || number(prev.Text) && len(prev.Text) <= 2 && i-2 >= start && ordinalWords[tokens[i-2].Text] {
			return false
		}
	}
	if !next.Space && !next.Word {
		return closing(next.Text) // "...": the last one ends it
	}
	return true
}
