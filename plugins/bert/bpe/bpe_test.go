package bpe

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

type reference struct {
	Tokenizer File
	Cases     []struct {
		Text string
		IDs  []int32
	}
}

func references(t testing.TB) []reference {
	t.Helper()
	data, err := os.ReadFile("testdata/cases.json")
	if err != nil {
		t.Fatal(err)
	}
	var all []reference
	if err := json.Unmarshal(data, &all); err != nil {
		t.Fatal(err)
	}
	return all
}

func TestIDsEqualThoseOfTheTokenizersPackage(t *testing.T) {
	for n, r := range references(t) {
		tok, err := New(&r.Tokenizer)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range r.Cases {
			got, err := tok.Encode(c.Text)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.IDs, got); diff != "" {
				t.Errorf("tokenizer %d, %q: %v, want %v", n, c.Text, got, c.IDs)
			}
		}
	}
}

func TestWhatIsNotByteLevelIsNamed(t *testing.T) {
	const good = `{"model":{"type":"BPE","vocab":{"a":0},"merges":[]},"pre_tokenizer":{"type":"ByteLevel"},"post_processor":{"type":"ByteLevel"}}`
	for _, c := range []struct{ old, new, want string }{
		{`"BPE"`, `"Unigram"`, `"Unigram", want BPE`},
		{`{"type":"ByteLevel"},"post`, `{"type":"Metaspace"},"post`, `"Metaspace", want ByteLevel`},
		{`"merges":[]`, `"merges":["ab"]`, "merge 0"},
		{`{"model"`, `{"normalizer":{"type":"Lowercase"},"model"`, `"Lowercase", want none or NFC`},
		{`{"type":"ByteLevel"}}`, `{"type":"Other"}}`, `"Other"`},
		{`{"a":0}`, `[["a",0]]`, "no object of ids"},
	} {
		var f File
		if err := json.Unmarshal([]byte(strings.Replace(good, c.old, c.new, 1)), &f); err != nil {
			t.Fatal(err)
		}
		if _, err := New(&f); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one with %q", c.new, err, c.want)
		}
	}
}

func FuzzEncode(f *testing.F) {
	tok, err := New(&references(f)[0].Tokenizer)
	if err != nil {
		f.Fatal(err)
	}
	f.Add("It's  12 mm.\n肺")
	f.Fuzz(func(t *testing.T, text string) {
		words := split(strings.ToValidUTF8(text, "\ufffd"))
		if got := strings.Join(words, ""); got != strings.ToValidUTF8(text, "\ufffd") {
			t.Fatalf("%q became %q", text, got)
		}
		if _, err := tok.Encode(text); err != nil {
			t.Fatal(err)
		}
	})
}
