package wordpiece

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func vocab(t testing.TB) *Vocab {
	t.Helper()
	v, err := LoadVocab(filepath.Join("testdata", "vocab.txt"))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

type reference struct {
	Text           string
	Uncased, Cased []int32
}

func compare(t *testing.T, v *Vocab, path string) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var cases []reference
	if err := json.Unmarshal(data, &cases); err != nil {
		t.Fatal(err)
	}
	if len(cases) != 1000 {
		t.Fatalf("%d cases, want 1000", len(cases))
	}
	wrong := 0
	for _, c := range cases {
		for lower, want := range map[bool][]int32{true: c.Uncased, false: c.Cased} {
			got, err := New(v, lower).Encode(c.Text, 0)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				if wrong++; wrong <= 10 {
					t.Errorf("%+q, lower case %v: %v, want %v", c.Text, lower, pieces(v, got), pieces(v, want))
				}
			}
		}
	}
	if wrong > 10 {
		t.Errorf("%d of 2000 differ", wrong)
	}
}

func pieces(v *Vocab, ids []int32) []string {
	var out []string
	for _, id := range ids {
		out = append(out, v.pieces[id])
	}
	return out
}

func TestIDsEqualThePythonReference(t *testing.T) {
	compare(t, vocab(t), filepath.Join("testdata", "cases.json"))
}

// TestIDsEqualThePythonReferenceOnRealVocabulary needs a BERT vocabulary and the
// cases that `python3 reference.py VOCAB 1000` prints for it.
func TestIDsEqualThePythonReferenceOnRealVocabulary(t *testing.T) {
	path, cases := os.Getenv("ALIGNEDFUSION_BERT_VOCAB"), os.Getenv("ALIGNEDFUSION_BERT_CASES")
	if path == "" || cases == "" {
		t.Skip("set ALIGNEDFUSION_BERT_VOCAB to a vocab.txt and ALIGNEDFUSION_BERT_CASES to its cases")
	}
	v, err := LoadVocab(path)
	if err != nil {
		t.Fatal(err)
	}
	compare(t, v, cases)
}

func TestWordsFollowBasicTokenization(t *testing.T) {
	for _, c := range []struct {
		in            string
		uncased       []string
		casedIfDiffer []string
	}{
		{"Pleural effusion: no.", []string{"pleural", "effusion", ":", "no", "."}, []string{"Pleural", "effusion", ":", "no", "."}},
		{"CAFÉ", []string{"cafe"}, []string{"CAFÉ"}},
		{"左肺lung", []string{"左", "肺", "lung"}, nil},
		{"カタカナ", []string{"カタカナ"}, nil},
		{"a\u200bb\x00c\ufffd", []string{"abc"}, nil},
		{"x\u00a0y\u3000z", []string{"x", "y", "z"}, nil},
		{"$5^2", []string{"$", "5", "^", "2"}, nil},
		{"[MASK]", []string{"[", "mask", "]"}, []string{"[", "MASK", "]"}},
		{"\u0301", nil, []string{"\u0301"}},
		{"", nil, nil},
	} {
		cased := c.casedIfDiffer
		if cased == nil {
			cased = c.uncased
		}
		v := vocab(t)
		if diff := cmp.Diff(c.uncased, New(v, true).Words(c.in)); diff != "" {
			t.Errorf("%q uncased: %s", c.in, diff)
		}
		if diff := cmp.Diff(cased, New(v, false).Words(c.in)); diff != "" {
			t.Errorf("%q cased: %s", c.in, diff)
		}
	}
	if got := New(vocab(t), true).StripAccents(false).Words("CAFÉ"); len(got) != 1 || got[0] != "café" {
		t.Errorf("lower case with accents: %q", got)
	}
	if got := New(vocab(t), false).StripAccents(true).Words("CAFÉ"); len(got) != 1 || got[0] != "CAFE" {
		t.Errorf("cased without accents: %q", got)
	}
}

func TestWordPieceIsGreedyLongestMatch(t *testing.T) {
	v, err := ParseVocab([]byte("[PAD]\n[UNK]\n[CLS]\n[SEP]\nun\n##aff\n##able\n##a\nunaff\n##b\n肺"))
	if err != nil {
		t.Fatal(err)
	}
	tok := New(v, true)
	for in, want := range map[string][]string{
		"unaffable":                    {"unaff", "##able"},
		"unaffab":                      {"unaff", "##a", "##b"},
		"unaffx":                       {"[UNK]"},
		"肺炎":                           {"肺", "[UNK]"},
		"un un":                        {"un", "un"},
		"un" + strings.Repeat("a", 98): append([]string{"un"}, repeat("##a", 98)...),
		"un" + strings.Repeat("a", 99): {"[UNK]"},
	} {
		if in == "un"+strings.Repeat("a", 98) {
			want[0] = "un"
		}
		var ids []int32
		for _, word := range tok.Words(in) {
			ids = tok.appendPieces(ids, word)
		}
		if diff := cmp.Diff(want, pieces(v, ids)); diff != "" {
			t.Errorf("%q: %s", in, diff)
		}
	}
}

func repeat(s string, n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = s
	}
	return out
}

func TestEncodeCutsAndKeepsSeparator(t *testing.T) {
	v := vocab(t)
	tok := New(v, true)
	for _, c := range []struct {
		maxLen int
		want   string
	}{{0, "[CLS] no mass no mass [SEP]"}, {6, "[CLS] no mass no mass [SEP]"}, {5, "[CLS] no mass no [SEP]"}, {2, "[CLS] [SEP]"}} {
		ids, err := tok.Encode("No mass, no mass"[:7]+" no mass", c.maxLen)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(pieces(v, ids), " "); got != c.want {
			t.Errorf("maximum %d: %s, want %s", c.maxLen, got, c.want)
		}
	}
	for _, bad := range []int{-1, 1} {
		if _, err := tok.Encode("x", bad); err == nil {
			t.Errorf("maximum length %d accepted", bad)
		}
	}
}

func TestParseVocabRefuses(t *testing.T) {
	special := "[PAD]\n[UNK]\n[CLS]\n[SEP]\n"
	for _, c := range []struct{ data, want string }{
		{"", "missing"},
		{"[PAD]\n[UNK]\n[CLS]\n", "[SEP] is missing"},
		{special + "a\na\n", "lines 5 and 6"},
		{special + "\nb\n", "line 5 is empty"},
		{special + "\xff\n", "UTF-8"},
	} {
		if _, err := ParseVocab([]byte(c.data)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: error %v, want one with %q", c.data, err, c.want)
		}
	}
	v, err := ParseVocab([]byte(strings.ReplaceAll(special, "\n", "\r\n") + "a"))
	if err != nil || v.Len() != 5 || v.pieces[4] != "a" {
		t.Errorf("%+v %v", v, err)
	}
	if id, ok := v.ID("a"); !ok || id != 4 {
		t.Errorf("id of a: %d %v", id, ok)
	}
	if _, err := LoadVocab("testdata/none.txt"); err == nil {
		t.Error("a missing file was accepted")
	}
}

func TestPropertyPiecesJoinToTheWord(t *testing.T) {
	v := vocab(t)
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.String().Draw(t, "text")
		tok := New(v, rapid.Bool().Draw(t, "lower"))
		for _, word := range tok.Words(text) {
			ids := tok.appendPieces(nil, word)
			if len(ids) == 1 && v.pieces[ids[0]] == Unknown {
				continue
			}
			joined := v.pieces[ids[0]]
			for _, id := range ids[1:] {
				joined += strings.TrimPrefix(v.pieces[id], "##")
			}
			if joined != word {
				t.Fatalf("pieces of %q join to %q", word, joined)
			}
		}
	})
}

func FuzzEncode(f *testing.F) {
	v := vocab(f)
	for _, s := range []string{"No mass.", "\xff\x00é\u0301肺", "İΣ\u2028", strings.Repeat("a", 101)} {
		f.Add(s, 16)
	}
	f.Fuzz(func(t *testing.T, s string, maxLen int) {
		for _, lower := range []bool{true, false} {
			tok := New(v, lower)
			ids, err := tok.Encode(s, maxLen)
			if err != nil {
				continue
			}
			if maxLen > 0 && len(ids) > maxLen || len(ids) < 2 {
				t.Fatalf("%d ids, maximum %d", len(ids), maxLen)
			}
			for _, w := range tok.Words(s) {
				if w == "" || !utf8.ValidString(w) || strings.ContainsFunc(w, space) {
					t.Fatalf("word %q", w)
				}
			}
		}
	})
}

func FuzzParseVocab(f *testing.F) {
	f.Add([]byte("[PAD]\n[UNK]\n[CLS]\n[SEP]\na\n##b"))
	f.Fuzz(func(t *testing.T, data []byte) {
		v, err := ParseVocab(data)
		if err != nil {
			return
		}
		for i := range v.Len() {
			if id, ok := v.ID(v.pieces[i]); !ok || id != int32(i) {
				t.Fatalf("piece %d has id %d", i, id)
			}
		}
	})
}

func BenchmarkEncode(b *testing.B) {
	tok := New(vocab(b), true)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := tok.Encode("Pleural effusion on the left; no pneumothorax, heart size normal.", 128); err != nil {
			b.Fatal(err)
		}
	}
}
