// Package bpe is byte-level byte-pair encoding (Radford et al., Language models are
// unsupervised multitask learners, 2019), as tokenizer.json of RoBERTa and its kin holds
// it.
package bpe

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode"

	"golang.org/x/text/unicode/norm"
)

// File is what is read of a tokenizer.json.
type File struct {
	Normalizer *struct {
		Type         string `json:"type"`
		Lowercase    *bool  `json:"lowercase"`
		StripAccents *bool  `json:"strip_accents"`
	} `json:"normalizer"`
	PreTokenizer json.RawMessage `json:"pre_tokenizer"`
	Post         json.RawMessage `json:"post_processor"`
	Model        struct {
		Type   string            `json:"type"`
		Vocab  json.RawMessage   `json:"vocab"`
		Merges []json.RawMessage `json:"merges"`
	} `json:"model"`
	Added []struct {
		ID      int32  `json:"id"`
		Content string `json:"content"`
	} `json:"added_tokens"`
}

// Vocab reads the vocabulary of a model that has one of ids (BPE, WordPiece).
func (f *File) Vocab(ids *map[string]int32) error {
	if err := json.Unmarshal(f.Model.Vocab, ids); err != nil || len(*ids) == 0 {
		return errors.New("the vocabulary is no object of ids")
	}
	return nil
}

// Tokenizer turns text into ids. It is safe for concurrent use.
type Tokenizer struct {
	ids           map[string]int32
	ranks         map[[2]string]int
	added         map[string]int32
	before, after []int32
	prefixSpace   bool
	nfc           bool
}

// New reads the parts of a tokenizer.json that byte-level BPE has; others are errors that
// name them.
func New(f *File) (*Tokenizer, error) {
	if f.Model.Type != "BPE" {
		return nil, fmt.Errorf("the model is %q, want BPE", f.Model.Type)
	}
	t := &Tokenizer{ids: map[string]int32{}, ranks: map[[2]string]int{}, added: map[string]int32{}}
	if f.Normalizer != nil {
		if t.nfc = f.Normalizer.Type == "NFC"; !t.nfc {
			return nil, fmt.Errorf("the normalizer is %q, want none or NFC", f.Normalizer.Type)
		}
	}
	if err := f.Vocab(&t.ids); err != nil {
		return nil, err
	}
	for rank, raw := range f.Model.Merges {
		pair, err := merge(raw)
		if err != nil {
			return nil, fmt.Errorf("merge %d: %w", rank, err)
		}
		t.ranks[pair] = rank
	}
	for _, a := range f.Added {
		t.added[a.Content] = a.ID
	}
	if err := t.preTokenizer(f.PreTokenizer); err != nil {
		return nil, err
	}
	return t, t.postProcessor(f.Post)
}

// merge reads "a b" or ["a", "b"].
func merge(raw json.RawMessage) (pair [2]string, err error) {
	var text string
	if json.Unmarshal(raw, &text) == nil {
		a, b, ok := strings.Cut(text, " ")
		if !ok {
			return pair, errors.New("want two pieces")
		}
		return [2]string{a, b}, nil
	}
	var both []string
	if json.Unmarshal(raw, &both) != nil || len(both) != 2 {
		return pair, errors.New("want two pieces")
	}
	return [2]string{both[0], both[1]}, nil
}

func (t *Tokenizer) preTokenizer(raw json.RawMessage) error {
	var p struct {
		Type        string            `json:"type"`
		PrefixSpace bool              `json:"add_prefix_space"`
		Regex       *bool             `json:"use_regex"`
		Inner       []json.RawMessage `json:"pretokenizers"`
	}
	if json.Unmarshal(raw, &p) != nil {
		return errors.New("no pre_tokenizer, want ByteLevel")
	}
	if p.Type == "Sequence" && len(p.Inner) == 1 {
		return t.preTokenizer(p.Inner[0])
	}
	if p.Type != "ByteLevel" || p.Regex != nil && !*p.Regex {
		return fmt.Errorf("the pre_tokenizer is %q, want ByteLevel with its own rule", p.Type)
	}
	t.prefixSpace = p.PrefixSpace
	return nil
}

// Around reads of a post_processor what ids stand before and after a text.
func Around(raw json.RawMessage) (before, after []int32, err error) {
	var t Tokenizer
	err = t.postProcessor(raw)
	return t.before, t.after, err
}

// postProcessor reads what stands before and after a text: RobertaProcessing, or
// TemplateProcessing, perhaps in a Sequence.
func (t *Tokenizer) postProcessor(raw json.RawMessage) error {
	var p struct {
		Type   string            `json:"type"`
		Cls    []any             `json:"cls"`
		Sep    []any             `json:"sep"`
		Inner  []json.RawMessage `json:"processors"`
		Single []struct {
			Special  *struct{ ID string } `json:"SpecialToken"`
			Sequence *struct{ ID string } `json:"Sequence"`
		} `json:"single"`
		Specials map[string]struct {
			IDs []int32 `json:"ids"`
		} `json:"special_tokens"`
	}
	if json.Unmarshal(raw, &p) != nil {
		return errors.New("no post_processor, want what stands before and after a text")
	}
	switch p.Type {
	case "Sequence":
		for _, inner := range p.Inner {
			if err := t.postProcessor(inner); err != nil {
				return err
			}
		}
	case "ByteLevel":
	case "RobertaProcessing", "BertProcessing":
		for _, side := range []struct {
			given []any
			to    *[]int32
		}{{p.Cls, &t.before}, {p.Sep, &t.after}} {
			if len(side.given) != 2 {
				return errors.New("post_processor: want cls and sep with their ids")
			}
			id, ok := side.given[1].(float64)
			if !ok {
				return errors.New("post_processor: want cls and sep with their ids")
			}
			*side.to = []int32{int32(id)}
		}
	case "TemplateProcessing":
		to := &t.before
		for _, part := range p.Single {
			switch {
			case part.Sequence != nil:
				to = &t.after
			case part.Special != nil:
				*to = append(*to, p.Specials[part.Special.ID].IDs...)
			}
		}
	default:
		return fmt.Errorf("the post_processor is %q, want RobertaProcessing or TemplateProcessing", p.Type)
	}
	return nil
}

// ID returns a piece's id, added ones included, and whether there is one.
func (t *Tokenizer) ID(piece string) (int32, bool) {
	if id, ok := t.added[piece]; ok {
		return id, true
	}
	id, ok := t.ids[piece]
	return id, ok
}

// Len is the least vocabulary size that holds every id.
func (t *Tokenizer) Len() int {
	n := int32(-1)
	for _, all := range []map[string]int32{t.ids, t.added} {
		for _, id := range all {
			n = max(n, id)
		}
	}
	return int(n) + 1
}

// Encode returns the ids of a text with those before and after it.
func (t *Tokenizer) Encode(text string) ([]int32, error) {
	if t.nfc {
		text = norm.NFC.String(text)
	}
	if t.prefixSpace && text != "" && !strings.HasPrefix(text, " ") {
		text = " " + text
	}
	ids := append([]int32(nil), t.before...)
	for text != "" {
		part, added := t.untilAdded(text)
		for _, word := range split(text[:part]) {
			var err error
			if ids, err = t.pieces(ids, word); err != nil {
				return nil, err
			}
		}
		if added != "" {
			ids = append(ids, t.added[added])
		}
		text = text[part+len(added):]
	}
	return append(ids, t.after...), nil
}

// untilAdded is where the first of the added pieces stands in a text, the longest of those
// there: ModernBERT has runs of blanks among them. Without one it is the text's end.
func (t *Tokenizer) untilAdded(text string) (at int, piece string) {
	at = len(text)
	for added := range t.added {
		if i := strings.Index(text, added); i >= 0 && added != "" && (i < at || i == at && len(added) > len(piece)) {
			at, piece = i, added
		}
	}
	return at, piece
}

// pieces appends the ids of a word: its bytes, joined pair by pair in the order of the
// merges.
func (t *Tokenizer) pieces(ids []int32, word string) ([]int32, error) {
	parts := make([]string, len(word))
	for i := range len(word) {
		parts[i] = byteNames[word[i]]
	}
	for len(parts) > 1 {
		best, at := -1, 0
		for i := range len(parts) - 1 {
			if rank, ok := t.ranks[[2]string{parts[i], parts[i+1]}]; ok && (best < 0 || rank < best) {
				best, at = rank, i
			}
		}
		if best < 0 {
			break
		}
		pair := [2]string{parts[at], parts[at+1]}
		joined := parts[:0:0]
		for i := 0; i < len(parts); i++ {
			if i+1 < len(parts) && parts[i] == pair[0] && parts[i+1] == pair[1] {
				joined = append(joined, pair[0]+pair[1])
				i++
			} else {
				joined = append(joined, parts[i])
			}
		}
		parts = joined
	}
	for _, p := range parts {
		id, ok := t.ids[p]
		if !ok {
			return nil, fmt.Errorf("the vocabulary lacks the piece %q: it is not byte-level", p)
		}
		ids = append(ids, id)
	}
	return ids, nil
}

// byteNames are the printable characters that stand for bytes: themselves where they are
// printable Latin-1, else the characters from U+0100 on.
var byteNames = func() (names [256]string) {
	next := rune(256)
	for b := range 256 {
		r := rune(b)
		if !(b >= '!' && b <= '~' || b >= 0xa1 && b <= 0xac || b >= 0xae) {
			r, next = next, next+1
		}
		names[b] = string(r)
	}
	return names
}()

// split is GPT-2's rule: contractions; letters, digits or other characters with the blank
// before them; blanks, of which the last one stays with the word that follows.
//
//	's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
func split(text string) []string {
	r := []rune(text)
	var words []string
	for i := 0; i < len(r); {
		end := i + contraction(r[i:])
		if end == i {
			start := i
			if r[i] == ' ' && i+1 < len(r) && !unicode.IsSpace(r[i+1]) {
				start++
			}
			of := class(r[start])
			for end = start + 1; end < len(r) && class(r[end]) == of; end++ {
			}
			if of == blank && end < len(r) && end > start+1 {
				end--
			}
		}
		words = append(words, string(r[i:end]))
		i = end
	}
	return words
}

func contraction(r []rune) int {
	for _, c := range []string{"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"} {
		if len(r) >= len(c) && string(r[:len(c)]) == c {
			return len(c)
		}
	}
	return 0
}

type kind int8

const (
	blank kind = iota
	letter
	digit
	mark
)

func class(r rune) kind {
	switch {
	case unicode.IsSpace(r):
		return blank
	case unicode.IsLetter(r):
		return letter
	case unicode.IsNumber(r):
		return digit
	}
	return mark
}
