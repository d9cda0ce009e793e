// Package unigram is the unigram language model tokenizer (Kudo, Subword regularization, 2018),
// as sentencepiece trains it and tokenizer.json of XLM-RoBERTa, CamemBERT and their kin holds
// it: of all ways to cut a text into pieces the likeliest.
package unigram

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/alignedfusion/alignedfusion/plugins/bert/bpe"
)

// file is what is read of a tokenizer.json.
type file struct {
	Normalizer   json.RawMessage `json:"normalizer"`
	PreTokenizer json.RawMessage `json:"pre_tokenizer"`
	Post         json.RawMessage `json:"post_processor"`
	Model        struct {
		Type     string               `json:"type"`
		Unknown  *int32               `json:"unk_id"`
		Vocab    [][2]json.RawMessage `json:"vocab"`
		Fallback bool                 `json:"byte_fallback"`
	} `json:"model"`
}

// Tokenizer turns text into ids. It is safe for concurrent use.
type Tokenizer struct {
	pieces        map[string]piece
	longest       int // bytes of the longest piece
	unknown       int32
	unknownScore  float64
	before, after []int32
	normalize     []func(string) string
	// blank stands for the blanks of a text; words are cut at white space first.
	blank  string
	prefix bool
	words  bool
}

type piece struct {
	id    int32
	score float64
}

// unknownPenalty is how much less likely than any piece an unknown character is.
const unknownPenalty = 10

// New reads the parts of a tokenizer.json that such a tokenizer has; others are errors that
// name them.
func New(data []byte) (*Tokenizer, error) {
	var f file
	if err := json.Unmarshal(data, &f); err != nil {
		return nil, err
	}
	switch {
	case f.Model.Type != "Unigram":
		return nil, fmt.Errorf("the model is %q, want Unigram", f.Model.Type)
	case f.Model.Fallback:
		return nil, errors.New("the model falls back to bytes (byte_fallback), want one with an unknown piece")
	case f.Model.Unknown == nil || int(*f.Model.Unknown) >= len(f.Model.Vocab) || *f.Model.Unknown < 0:
		return nil, errors.New("the model has no unknown piece (unk_id)")
	}
	t := &Tokenizer{pieces: map[string]piece{}, unknown: *f.Model.Unknown}
	least := math.Inf(1)
	for id, entry := range f.Model.Vocab {
		var text string
		var score float64
		if json.Unmarshal(entry[0], &text) != nil || json.Unmarshal(entry[1], &score) != nil || math.IsNaN(score) {
			return nil, fmt.Errorf("entry %d of the vocabulary: want a piece and its score", id)
		}
		if _, twice := t.pieces[text]; !twice {
			t.pieces[text] = piece{int32(id), score}
		}
		t.longest, least = max(t.longest, len(text)), min(least, score)
	}
	t.unknownScore = least - unknownPenalty
	if err := t.normalizer(f.Normalizer); err != nil {
		return nil, err
	}
	if err := t.preTokenizer(f.PreTokenizer); err != nil {
		return nil, err
	}
	var err error
	t.before, t.after, err = bpe.Around(f.Post)
	return t, err
}

// preTokenizer reads Metaspace, perhaps behind WhitespaceSplit.
func (t *Tokenizer) preTokenizer(raw json.RawMessage) error {
	var p struct {
		Type        string            `json:"type"`
		Inner       []json.RawMessage `json:"pretokenizers"`
		Replacement string            `json:"replacement"`
		PrefixSpace *bool             `json:"add_prefix_space"`
		Scheme      string            `json:"prepend_scheme"`
		Split       *bool             `json:"split"`
	}
	if json.Unmarshal(raw, &p) != nil {
		return errors.New("no pre_tokenizer, want Metaspace")
	}
	switch p.Type {
	case "Sequence":
		for _, inner := range p.Inner {
			if err := t.preTokenizer(inner); err != nil {
				return err
			}
		}
		if t.blank == "" {
			return errors.New("the pre_tokenizer has no Metaspace")
		}
	case "WhitespaceSplit":
		t.words = true
	case "Metaspace":
		if p.Replacement == "" || p.Split != nil && !*p.Split {
			return errors.New("the pre_tokenizer's Metaspace: want a replacement, and to split")
		}
		t.blank = p.Replacement
		t.prefix = p.Scheme == "always" || p.Scheme == "first" && !t.words || p.Scheme == "" && (p.PrefixSpace == nil || *p.PrefixSpace)
		if p.Scheme == "first" && t.words {
			return errors.New(`the pre_tokenizer's Metaspace: prepend_scheme "first" behind WhitespaceSplit, want "always"`)
		}
	default:
		return fmt.Errorf("the pre_tokenizer is %q, want Metaspace, perhaps behind WhitespaceSplit", p.Type)
	}
	return nil
}

// ID returns a piece's id and whether there is one.
func (t *Tokenizer) ID(text string) (int32, bool) {
	p, ok := t.pieces[text]
	return p.id, ok
}

// Len is the least vocabulary size that holds every id.
func (t *Tokenizer) Len() int {
	n := int32(-1)
	for _, p := range t.pieces {
		n = max(n, p.id)
	}
	return int(n) + 1
}

// Encode returns the ids of a text with those before and after it.
func (t *Tokenizer) Encode(text string) ([]int32, error) {
	text = strings.ToValidUTF8(text, "\ufffd")
	for _, f := range t.normalize {
		text = f(text)
	}
	ids := append([]int32(nil), t.before...)
	for _, word := range t.cut(text) {
		ids = t.best(ids, word)
	}
	return append(ids, t.after...), nil
}

// cut parts a text before its blanks, which become t.blank.
func (t *Tokenizer) cut(text string) []string {
	parts := []string{text}
	if t.words {
		parts = strings.FieldsFunc(text, unicode.IsSpace)
	}
	var out []string
	for _, part := range parts {
		part = strings.ReplaceAll(part, " ", t.blank)
		if t.prefix && part != "" && !strings.HasPrefix(part, t.blank) {
			part = t.blank + part
		}
		for part != "" {
			end := len(part)
			if i := strings.Index(part[1:], t.blank); i >= 0 {
				end = i + 1
			}
			out, part = append(out, part[:end]), part[end:]
		}
	}
	return out
}

// best appends the ids of the likeliest pieces of a word (Viterbi). Unknown characters beside
// each other are one unknown piece.
func (t *Tokenizer) best(ids []int32, word string) []int32 {
	type node struct {
		score float64
		from  int
		id    int32
		seen  bool
	}
	nodes := make([]node, len(word)+1)
	nodes[0].seen = true
	reach := func(from, to int, id int32, score float64) {
		if n := &nodes[to]; !n.seen || score > n.score {
			*n = node{score, from, id, true}
		}
	}
	for i := 0; i < len(word); {
		_, width := utf8.DecodeRuneInString(word[i:])
		single := false
		for end := i + 1; end <= min(len(word), i+t.longest); end++ {
			if p, ok := t.pieces[word[i:end]]; ok {
				reach(i, end, p.id, nodes[i].score+p.score)
				single = single || end == i+width
			}
		}
		if !single {
			reach(i, i+width, t.unknown, nodes[i].score+t.unknownScore)
		}
		i += width
	}
	var backward []int32
	for i := len(word); i > 0; i = nodes[i].from {
		if k := len(backward); k == 0 || nodes[i].id != t.unknown || backward[k-1] != t.unknown {
			backward = append(backward, nodes[i].id)
		}
	}
	for k := len(backward) - 1; k >= 0; k-- {
		ids = append(ids, backward[k])
	}
	return ids
}
