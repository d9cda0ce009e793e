// Package wordpiece is BERT's tokenizer (Devlin et al. 2019): basic tokenization
// into words and punctuation, then greedy longest-match WordPiece. It follows
// the published reference implementation; special tokens in the text, such as
// "[MASK]", are text.
package wordpiece

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/cases"
	"golang.org/x/text/language"
	"golang.org/x/text/unicode/norm"
)

// The special tokens every vocabulary must have.
const (
	Unknown   = "[UNK]"
	Classify  = "[CLS]"
	Separator = "[SEP]"
	Padding   = "[PAD]"
)

// maxWordRunes is the longest word that is looked up; longer ones are unknown.
const maxWordRunes = 100

// maxVocabBytes bounds a vocabulary file; the multilingual ones have 1 MB.
const maxVocabBytes = 64 << 20

// Vocab maps word pieces to ids, which are line numbers of vocab.txt.
type Vocab struct {
	ids    map[string]int32
	pieces []string
	// longest is the length in bytes of the longest piece.
	longest int
}

// LoadVocab reads vocab.txt.
func LoadVocab(path string) (*Vocab, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("wordpiece vocabulary: %w", err)
	}
	if info.Size() > maxVocabBytes {
		return nil, fmt.Errorf("wordpiece vocabulary: %s has %d bytes; want at most %d", path, info.Size(), maxVocabBytes)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("wordpiece vocabulary: %w", err)
	}
	v, err := ParseVocab(data)
	if err != nil {
		return nil, fmt.Errorf("wordpiece vocabulary %s: %w", path, err)
	}
	return v, nil
}

// ParseVocab reads a vocabulary: one piece per line, the line number is the id.
// Pieces of an empty line or listed twice, broken UTF-8 and missing special
// tokens are errors.
func ParseVocab(data []byte) (*Vocab, error) {
	if !utf8.Valid(data) {
		return nil, errors.New("not UTF-8")
	}
	v := &Vocab{ids: map[string]int32{}}
	lines := bufio.NewScanner(bytes.NewReader(data))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		piece := strings.TrimSuffix(lines.Text(), "\r")
		if piece == "" {
			return nil, fmt.Errorf("line %d is empty", len(v.pieces)+1)
		}
		if first, twice := v.ids[piece]; twice {
			return nil, fmt.Errorf("lines %d and %d are the same piece", first+1, len(v.pieces)+1)
		}
		v.ids[piece] = int32(len(v.pieces))
		v.pieces = append(v.pieces, piece)
		v.longest = max(v.longest, len(piece))
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("line %d: %w", len(v.pieces)+1, err)
	}
	return v, v.check()
}

// NewVocab makes a vocabulary of ids by piece, which are those from 0 on.
func NewVocab(ids map[string]int32) (*Vocab, error) {
	v := &Vocab{ids: ids, pieces: make([]string, len(ids))}
	for piece, id := range ids {
		if id < 0 || int(id) >= len(ids) || v.pieces[id] != "" || piece == "" {
			return nil, fmt.Errorf("the ids are not those from 0 to %d, one a piece", len(ids)-1)
		}
		v.pieces[id] = piece
		v.longest = max(v.longest, len(piece))
	}
	return v, v.check()
}

// check wants the special tokens.
func (v *Vocab) check() error {
	for _, special := range []string{Unknown, Classify, Separator, Padding} {
		if _, ok := v.ids[special]; !ok {
			return fmt.Errorf("the piece %s is missing", special)
		}
	}
	return nil
}

// Len is the number of pieces.
func (v *Vocab) Len() int { return len(v.pieces) }

// ID returns a piece's id, and whether the vocabulary has it.
func (v *Vocab) ID(piece string) (int32, bool) {
	id, ok := v.ids[piece]
	return id, ok
}

// Tokenizer turns text into ids. It is safe for concurrent use.
type Tokenizer struct {
	vocab        *Vocab
	lower, strip bool
}

// New returns a tokenizer. lowerCase is do_lower_case of tokenizer_config.json:
// it lower-cases and strips accents; a cased model does neither.
func New(v *Vocab, lowerCase bool) *Tokenizer {
	return &Tokenizer{vocab: v, lower: lowerCase, strip: lowerCase}
}

// StripAccents overrides whether accents are stripped (strip_accents of
// tokenizer_config.json).
func (t *Tokenizer) StripAccents(on bool) *Tokenizer {
	c := *t
	c.strip = on
	return &c
}

// Encode returns the ids of [CLS] text [SEP], cut to maxLen ids (at least 2;
// 0 means no limit): pieces are dropped from the end, [SEP] stays.
func (t *Tokenizer) Encode(text string, maxLen int) ([]int32, error) {
	if maxLen < 0 || maxLen == 1 {
		return nil, fmt.Errorf("wordpiece: maximum length %d; want 0 (none) or at least 2", maxLen)
	}
	ids := []int32{t.vocab.ids[Classify]}
	for _, word := range t.Words(text) {
		ids = t.appendPieces(ids, word)
		if maxLen > 0 && len(ids) >= maxLen-1 {
			ids = ids[:maxLen-1]
			break
		}
	}
	return append(ids, t.vocab.ids[Separator]), nil
}

// appendPieces splits a word into the longest pieces the vocabulary has, from the
// left; pieces inside a word start with ##. A word that cannot be split, or has
// more than 100 characters, is one [UNK].
func (t *Tokenizer) appendPieces(ids []int32, word string) []int32 {
	unknown := t.vocab.ids[Unknown]
	if utf8.RuneCountInString(word) > maxWordRunes {
		return append(ids, unknown)
	}
	n := len(ids)
	for start := 0; start < len(word); {
		prefix := ""
		if start > 0 {
			prefix = "##"
		}
		end := min(len(word), start+t.vocab.longest)
		found := false
		for ; end > start; end-- {
			if end < len(word) && !utf8.RuneStart(word[end]) {
				continue
			}
			if id, ok := t.vocab.ids[prefix+word[start:end]]; ok {
				ids, found = append(ids, id), true
				break
			}
		}
		if !found {
			return append(ids[:n], unknown)
		}
		start = end
	}
	return ids
}

// Words is basic tokenization: control characters dropped, blanks unified, CJK
// characters and punctuation each a word of their own, and for uncased models
// lower case and no accents.
func (t *Tokenizer) Words(text string) []string {
	var clean strings.Builder
	clean.Grow(len(text))
	for _, r := range text {
		switch {
		case r == 0 || r == utf8.RuneError || control(r):
		case space(r):
			clean.WriteByte(' ')
		case cjk(r):
			clean.WriteByte(' ')
			clean.WriteRune(r)
			clean.WriteByte(' ')
		default:
			clean.WriteRune(r)
		}
	}
	var words []string
	var lower cases.Caser
	if t.lower {
		lower = cases.Lower(language.Und, cases.HandleFinalSigma(true))
	}
	for _, word := range strings.FieldsFunc(clean.String(), pythonSpace) {
		if t.lower {
			word = lower.String(word)
		}
		if t.strip {
			word = stripAccents(word)
		}
		start := 0
		for i, r := range word {
			if !punctuation(r) {
				continue
			}
			words = appendWords(words, word[start:i])
			start = i + utf8.RuneLen(r)
			words = append(words, word[i:start])
		}
		words = appendWords(words, word[start:])
	}
	return words
}

// appendWords appends what lies between punctuation. Lower-casing and
// decomposition can bring forth blanks, which part words.
func appendWords(words []string, s string) []string {
	if s == "" {
		return words
	}
	return append(words, strings.FieldsFunc(s, pythonSpace)...)
}

func stripAccents(word string) string {
	for i := 0; ; i++ {
		if i == len(word) {
			return word
		}
		if word[i] >= utf8.RuneSelf {
			break
		}
	}
	return strings.Map(func(r rune) rune {
		if unicode.Is(unicode.Mn, r) {
			return -1
		}
		return r
	}, norm.NFD.String(word))
}

// control reports categories Cc, Cf, Co, Cs and unassigned, but for the three
// that count as blanks.
func control(r rune) bool {
	if r == '\t' || r == '\n' || r == '\r' {
		return false
	}
	return unicode.Is(unicode.C, r) || !unicode.In(r, unicode.L, unicode.M, unicode.N, unicode.P, unicode.S, unicode.Z)
}

func space(r rune) bool {
	return r == ' ' || r == '\t' || r == '\n' || r == '\r' || unicode.Is(unicode.Zs, r)
}

// pythonSpace is what str.split() parts at and clean text can still hold: blanks
// and the line and paragraph separators.
func pythonSpace(r rune) bool {
	return space(r) || r == '\u2028' || r == '\u2029'
}

// punctuation reports the ASCII marks that are no letter, digit or blank (some of
// them are symbols to Unicode), and category P.
func punctuation(r rune) bool {
	if r < utf8.RuneSelf {
		return r >= 33 && r <= 47 || r >= 58 && r <= 64 || r >= 91 && r <= 96 || r >= 123 && r <= 126
	}
	return unicode.Is(unicode.P, r)
}

// cjk reports the CJK ideographs (not kana or hangul, which stand in words).
func cjk(r rune) bool {
	switch {
	case r >= 0x4E00 && r <= 0x9FFF,
		r >= 0x3400 && r <= 0x4DBF,
		r >= 0x20000 && r <= 0x2A6DF,
		r >= 0x2A700 && r <= 0x2B73F,
		r >= 0x2B740 && r <= 0x2B81F,
		r >= 0x2B820 && r <= 0x2CEAF,
		r >= 0xF900 && r <= 0xFAFF,
		r >= 0x2F800 && r <= 0x2FA1F:
		return true
	}
	return false
}
