package unigram

import (
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"
)

// references are tokenizers trained by the tokenizers package 0.23.3 on a few sentences, with
// its ids of texts: with NFKC and Metaspace; with NFKD, Lowercase, StripAccents and
// WhitespaceSplit before Metaspace; with a table that sentencepiece 0.2 compiled and Replace.
func references(t testing.TB) (all []struct {
	Tokenizer json.RawMessage
	Cases     []struct {
		Text string
		IDs  []int32
	}
}) {
	t.Helper()
	data, err := os.ReadFile("testdata/cases.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &all); err != nil {
		t.Fatal(err)
	}
	return all
}

func TestIDsEqualThoseOfTheTokenizersPackage(t *testing.T) {
	for n, r := range references(t) {
		tok, err := New(r.Tokenizer)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range r.Cases {
			got, err := tok.Encode(c.Text)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(got, c.IDs) {
				t.Errorf("tokenizer %d, %q: %v, want %v", n, c.Text, got, c.IDs)
			}
		}
	}
}

func TestWhatIsNoSuchTokenizerIsNamed(t *testing.T) {
	const good = `{"model":{"type":"Unigram","unk_id":0,"vocab":[["<unk>",0],["a",-1]],"byte_fallback":false},"normalizer":null,"pre_tokenizer":{"type":"Metaspace","replacement":"_"},"post_processor":{"type":"ByteLevel"}}`
	if _, err := New([]byte(good)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ old, new, want string }{
		{`"Unigram"`, `"BPE"`, `"BPE", want Unigram`},
		{`"unk_id":0`, `"unk_id":9`, "no unknown piece"},
		{`"byte_fallback":false`, `"byte_fallback":true`, "byte_fallback"},
		{`["a",-1]`, `["a","b"]`, "entry 1"},
		{`"normalizer":null`, `"normalizer":{"type":"Prepend"}`, `"Prepend"`},
		{`"normalizer":null`, `"normalizer":{"type":"Precompiled","precompiled_charsmap":"/////w=="}`, "a trie of"},
		{`"normalizer":null`, `"normalizer":{"type":"Replace","pattern":{"Regex":"x+"}}`, "x+"},
		{`"Metaspace"`, `"ByteLevel"`, `"ByteLevel", want Metaspace`},
		{`"post_processor":{"type":"ByteLevel"}`, `"post_processor":{"type":"Other"}`, `"Other"`},
	} {
		if _, err := New([]byte(strings.Replace(good, c.old, c.new, 1))); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one with %q", c.new, err, c.want)
		}
	}
}

func FuzzEncode(f *testing.F) {
	var all []*Tokenizer
	for _, r := range references(f) {
		tok, err := New(r.Tokenizer)
		if err != nil {
			f.Fatal(err)
		}
		all = append(all, tok)
	}
	f.Add("It's  12 mm.\n肺 e\u0301 \u200d")
	f.Fuzz(func(t *testing.T, text string) {
		for _, tok := range all {
			ids, err := tok.Encode(text)
			if err != nil || len(ids) < 2 || slices.ContainsFunc(ids, func(id int32) bool { return id < 0 || int(id) >= tok.Len() }) {
				t.Fatalf("%q became %v, %v", text, ids, err)
			}
		}
	})
}
