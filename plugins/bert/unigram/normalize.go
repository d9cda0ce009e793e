package unigram

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode"

	"golang.org/x/text/unicode/norm"
)

// normalizer reads what is done to a text first: Precompiled (sentencepiece's table), the
// Unicode forms, Lowercase, StripAccents, Strip, Replace, in a Sequence.
func (t *Tokenizer) normalizer(raw json.RawMessage) error {
	if len(raw) == 0 || string(raw) == "null" {
		return nil
	}
	var n struct {
		Type    string            `json:"type"`
		Inner   []json.RawMessage `json:"normalizers"`
		Table   string            `json:"precompiled_charsmap"`
		Content string            `json:"content"`
		Left    bool              `json:"strip_left"`
		Right   bool              `json:"strip_right"`
		Pattern struct {
			String, Regex string
		} `json:"pattern"`
	}
	if err := json.Unmarshal(raw, &n); err != nil {
		return fmt.Errorf("normalizer: %w", err)
	}
	add := func(f func(string) string) { t.normalize = append(t.normalize, f) }
	switch n.Type {
	case "Sequence":
		for _, inner := range n.Inner {
			if err := t.normalizer(inner); err != nil {
				return err
			}
		}
	case "Precompiled":
		table, err := parseTable(n.Table)
		if err != nil {
			return fmt.Errorf("normalizer: %w", err)
		}
		add(table.apply)
	case "NFC":
		add(norm.NFC.String)
	case "NFD":
		add(norm.NFD.String)
	case "NFKC":
		add(norm.NFKC.String)
	case "NFKD":
		add(norm.NFKD.String)
	case "Lowercase":
		add(strings.ToLower)
	case "StripAccents":
		add(func(s string) string {
			return strings.Map(func(r rune) rune {
				if unicode.Is(unicode.M, r) {
					return -1
				}
				return r
			}, s)
		})
	case "Strip":
		add(func(s string) string {
			if n.Left {
				s = strings.TrimLeftFunc(s, unicode.IsSpace)
			}
			if n.Right {
				s = strings.TrimRightFunc(s, unicode.IsSpace)
			}
			return s
		})
	case "Replace":
		switch {
		case n.Pattern.String != "":
			add(func(s string) string { return strings.ReplaceAll(s, n.Pattern.String, n.Content) })
		case n.Pattern.Regex == " {2,}":
			add(func(s string) string { return runs(s, n.Content) })
		default:
			return fmt.Errorf("the normalizer replaces %q, want a text or \" {2,}\"", n.Pattern.Regex)
		}
	default:
		return fmt.Errorf("the normalizer is %q, want Precompiled, NFC, NFD, NFKC, NFKD, Lowercase, StripAccents, Strip or Replace", n.Type)
	}
	return nil
}

// runs replaces two blanks and more.
func runs(s, by string) string {
	var b strings.Builder
	for i := 0; i < len(s); {
		k := i
		for k < len(s) && s[k] == ' ' {
			k++
		}
		switch {
		case k > i+1:
			b.WriteString(by)
			i = k
		default:
			b.WriteByte(s[i])
			i++
		}
	}
	return b.String()
}

// table is sentencepiece's precompiled normalization: a double-array trie (Darts) of what is
// replaced, whose values are places in the replacements, each ended by a zero.
type table struct {
	trie []uint32
	by   string
}

func parseTable(encoded string) (*table, error) {
	data, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return nil, fmt.Errorf("precompiled_charsmap: %w", err)
	}
	if len(data) < 4 {
		return nil, errors.New("precompiled_charsmap is too short")
	}
	size := int64(binary.LittleEndian.Uint32(data))
	if size%4 != 0 || size > int64(len(data)-4) {
		return nil, fmt.Errorf("precompiled_charsmap: a trie of %d bytes in %d", size, len(data))
	}
	t := &table{by: string(data[4+size:])}
	for i := int64(4); i < 4+size; i += 4 {
		t.trie = append(t.trie, binary.LittleEndian.Uint32(data[i:]))
	}
	return t, nil
}

// longestCluster is the most bytes that are looked up at once.
const longestCluster = 5

// apply replaces a character with its marks when the table knows the beginning of it, else
// each character by itself.
func (t *table) apply(s string) string {
	var b strings.Builder
	for s != "" {
		n := cluster(s)
		part := s[:n]
		s = s[n:]
		if by, ok := t.replacement(part); ok && n <= longestCluster {
			b.WriteString(by)
			continue
		}
		for _, r := range part {
			if by, ok := t.replacement(string(r)); ok {
				b.WriteString(by)
			} else {
				b.WriteRune(r)
			}
		}
	}
	return b.String()
}

// cluster is the length in bytes of a character with the marks and joiners on it.
func cluster(s string) int {
	if strings.HasPrefix(s, "\r\n") {
		return 2
	}
	for i, r := range s {
		if i > 0 && !unicode.Is(unicode.M, r) && r != '\u200d' {
			return i
		}
	}
	return len(s)
}

// replacement is what stands for the shortest beginning of key that the trie holds.
func (t *table) replacement(key string) (string, bool) {
	unit := func(i uint32) (uint32, bool) {
		if int64(i) >= int64(len(t.trie)) {
			return 0, false
		}
		return t.trie[i], true
	}
	offset := func(u uint32) uint32 { return (u >> 10) << ((u & (1 << 9)) >> 6) }
	u, ok := unit(0)
	at := offset(u)
	for i := 0; ok && i < len(key) && key[i] != 0; i++ {
		at ^= uint32(key[i])
		if u, ok = unit(at); !ok || u&(1<<31|0xff) != uint32(key[i]) {
			return "", false
		}
		at ^= offset(u)
		if u>>8&1 == 1 {
			leaf, ok := unit(at)
			start := int64(leaf &^ (1 << 31))
			if !ok || start > int64(len(t.by)) {
				return "", false
			}
			by, _, _ := strings.Cut(t.by[start:], "\x00")
			return by, true
		}
	}
	return "", false
}
