package rules

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func words(tokens []Token) []string {
	var out []string
	for _, t := range tokens {
		out = append(out, t.Text)
	}
	return out
}

func TestTokenizeFoldsCaseAccentsAndInvisibleCharacters(t *testing.T) {
	for in, want := range map[string][]string{
		"No Pneumothorax.":                {"no", "pneumothorax", "."},
		"patient’s x-ray":                 {"patient's", "x", "-", "ray"},
		"pneumo\u200bthorax":              {"pneumothorax"},
		"\u202eno\u202c mass":             {"no", "mass"},
		"œdème pulmonaire":                {"œdeme", "pulmonaire"},
		"e\u0301tat":                      {"etat"},
		"mass\x00ive":                     {"massive"},
		"a\xffb":                          {"a", "b"},
		"肺炎":                              {"肺炎"},
		"1.5 cm":                          {"1", ".", "5", "cm"},
		"3 – 4":                           {"3", "-", "4"},
		"":                                nil,
		" \t\n":                           nil,
		"quoted 'word' and don't":         {"quoted", "'", "word", "'", "and", "don't"},
		"\u200b":                          nil,
		"no\u200b":                        {"no"},
		"ﬁbrosis":                         {"fibrosis"},
		"left\u00a0lung":                  {"left", "lung"},
		"ground\u2011glass":               {"ground", "-", "glass"},
		"\ufeffheart":                     {"heart"},
		"effusion\u2028next":              {"effusion", "next"},
		strings.Repeat("a", 3) + "\u0000": {"aaa"},
	} {
		if diff := cmp.Diff(want, words(Tokenize(in))); diff != "" {
			t.Errorf("%q: %s", in, diff)
		}
	}
}

func TestPropertyTokensQuoteTheText(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.OneOf(rapid.String(), rapid.Map(rapid.SliceOf(rapid.Byte()), func(b []byte) string { return string(b) })).Draw(t, "s")
		checkTokens(t, s)
	})
}

func checkTokens(t interface{ Fatalf(string, ...any) }, s string) {
	tokens := Tokenize(s)
	end := 0
	for _, tok := range tokens {
		if tok.Start < end || tok.End <= tok.Start || tok.End > len(s) {
			t.Fatalf("token %+v after %d in %d bytes", tok, end, len(s))
		}
		if !utf8.ValidString(s[tok.Start:tok.End]) {
			t.Fatalf("token %+v quotes broken UTF-8", tok)
		}
		end = tok.End
	}
	next := 0
	for _, span := range sentences(tokens) {
		if span.Start != next || span.End <= span.Start || span.End-span.Start > maxSentenceTokens+8 {
			t.Fatalf("sentence %+v after %d", span, next)
		}
		next = span.End
	}
	if next != len(tokens) {
		t.Fatalf("sentences end at token %d of %d", next, len(tokens))
	}
}

func TestSentences(t *testing.T) {
	for in, want := range map[string][]string{
		"No mass. No nodule.":                      {"No mass.", "No nodule."},
		"Dr. Smith saw a 1.5 cm nodule. Stable.":   {"Dr. Smith saw a 1.5 cm nodule.", "Stable."},
		"1. Emphysema. 2. Nodule.":                 {"1. Emphysema.", "2. Nodule."},
		"cavity in the apex.There are opacities":   {"cavity in the apex.", "There are opacities"},
		"IMPRESSION:\nNo mass\n\nFINDINGS:\nClear": {"IMPRESSION:", "No mass", "FINDINGS:", "Clear"},
		"- clear lungs\n- small effusion":          {"- clear lungs", "- small effusion"},
		"heart is\nenlarged":                       {"heart is\nenlarged"},
		"Effusion? None. Really? Sure!":            {"Effusion? None.", "Really?", "Sure!"},
		"(No mass.) Next":                          {"(No mass.)", "Next"},
		"wait... done":                             {"wait...", "done"},
		"seen at 3 p.m. today":                     {"seen at 3 p.m. today"},
		"...":                                      {"..."},
	} {
		tokens := Tokenize(in)
		var got []string
		for _, s := range sentences(tokens) {
			got = append(got, in[tokens[s.Start].Start:tokens[s.End-1].End])
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q: %s", in, diff)
		}
	}
}

func find(t *testing.T, phrases []string, in string) []string {
	t.Helper()
	var patterns []pattern
	for _, p := range phrases {
		pattern, err := parsePattern(p)
		if err != nil {
			t.Fatal(err)
		}
		patterns = append(patterns, pattern)
	}
	tokens := Tokenize(in)
	var got []string
	for _, m := range newMatcher(patterns).find(tokens, Span{0, len(tokens)}) {
		got = append(got, phrases[m.pattern]+"="+in[tokens[m.Start].Start:tokens[m.End-1].End])
	}
	return got
}

func TestPatternsFindThePhrase(t *testing.T) {
	for _, c := range []struct {
		phrases []string
		in      string
		want    []string
	}{
		{[]string{"no evidence of"}, "No  evidence\nOF mass; no evidence", []string{"no evidence of=No  evidence\nOF"}},
		{[]string{"no|without any? sign|signs of"}, "without signs of X, no any sign of", []string{"no|without any? sign|signs of=without signs of", "no|without any? sign|signs of=no any sign of"}},
		{[]string{"nodul*"}, "Nodular nodule nod", []string{"nodul*=Nodular", "nodul*=nodule"}},
		{[]string{"heart _? _? enlarged"}, "heart is mildly enlarged. heart , enlarged", []string{"heart _? _? enlarged=heart is mildly enlarged"}},
		{[]string{"peri hilar"}, "peri-hilar peri - hilar", []string{"peri hilar=peri-hilar", "peri hilar=peri - hilar"}},
		{[]string{"r/o"}, "R/O mass", []string{"r/o=R/O"}},
		{[]string{"no", "no evidence of", "evidence"}, "no evidence of evidence", []string{"no evidence of=no evidence of", "evidence=evidence"}},
		{[]string{"a b", "b c d"}, "a b c d", []string{"b c d=b c d"}},
		{[]string{"any? mass"}, "mass any mass", []string{"any? mass=mass", "any? mass=any mass"}},
		{[]string{"don't"}, "I don’t", []string{"don't=don’t"}},
	} {
		if diff := cmp.Diff(c.want, find(t, c.phrases, c.in)); diff != "" {
			t.Errorf("%q in %q: %s", c.phrases, c.in, diff)
		}
	}
}

func TestParsePatternRefuses(t *testing.T) {
	for _, bad := range []string{"", "any?", "_ mass", "no*", "a||b", "| a", strings.Repeat("a ", 17), strings.Repeat("_? ", 11) + "a", "a " + strings.Repeat("_? ", 11)} {
		if _, err := parsePattern(bad); err == nil {
			t.Errorf("pattern %q accepted", bad)
		}
	}
}

func TestPropertyMatchesAreOrderedAndApart(t *testing.T) {
	vocabulary := []string{"no", "evidence", "of", "mass", "-", "any", "nodule", "nodular"}
	rapid.Check(t, func(t *rapid.T) {
		in := strings.Join(rapid.SliceOfN(rapid.SampledFrom(vocabulary), 0, 30).Draw(t, "text"), " ")
		var patterns []pattern
		for _, p := range []string{"no evidence of?", "evidence of any? mass", "nodul*", "mass _? nodule", "of"} {
			pattern, err := parsePattern(p)
			if err != nil {
				t.Fatal(err)
			}
			patterns = append(patterns, pattern)
		}
		tokens := Tokenize(in)
		end := 0
		for _, m := range newMatcher(patterns).find(tokens, Span{0, len(tokens)}) {
			if m.Start < end || m.End <= m.Start {
				t.Fatalf("match %+v after %d in %q", m, end, in)
			}
			end = m.End
		}
	})
}

func TestLanguage(t *testing.T) {
	x := extractor(t, "")
	for in, want := range map[string]string{
		"Kein Pneumothorax. Pleuraerguss links.":                                "de",
		"Pneumothorax: keiner.":                                                 "de",
		"Das Herz ist nicht vergrößert; no pneumothorax in the lung":            "de",
		"Sin derrame pleural. Los campos pulmonares del paciente.":              "es",
		"No hay derrame pleural ni neumotórax. El corazón es de tamaño normal.": "es",
		"Pas de pneumothorax, les poumons sont clairs sans nodule.":             "",
		"Cuore di dimensioni normali. Non versamento pleurico.":                 "",
		"Coração normal. Não há derrame. Atelectasia basal.":                    "",
		"Hart normaal, geen vocht in de longen.":                                "",
		"Bez odmy opłucnowej. Atelektaza po prawej.":                            "",
		"Pnömotoraks yok. Atelektazi izlenmedi.":                                "",
		"Ei pneumothoraxia. Atelektaasi oikealla.":                              "",
		"Bez pneumothoraxu, atelektáza vpravo.":                                 "",
		"Ingen pneumothorax eller atelektase.":                                  "",
		"Nincs pneumothorax, atelectasia bal oldalon.":                          "",
		"Fără pneumothorax. Atelectazie bazală stângă.":                         "",
		"Tidak tampak pneumothorax.":                                            "",
		"Nema pneumotoraksa.":                                                   "",
		"右肺下叶见片状高密度影，考虑肺炎。":                                                     "",
		"Лёгкие без очаговых теней. Сердце не увеличено. (CT 2.5 mm)":           "",
		"لا يوجد انصباب جنبي":                                                   "",
		"No pneumothorax.":                                                      "en",
		"Pneumothorax.":                                                         "en",
		"Small right apical PTX.":                                               "en",
		"Non-specific opacities. Heart size normal.":                            "en",
		"Hay fever. Chest normal.":                                              "en",
		"Normal.":                                                               "en",
		"5 mm nodule, attenuation 40 HU ± 3 μm":                                 "en",
		"The heart is normal in size. We do not see a mass.":                    "en",
		"": "en",
	} {
		if got := Language(one(in), x.Lexicon.names); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func FuzzTokenize(f *testing.F) {
	f.Add("No acute disease. 1. Mass 1.5 cm\n\n- x")
	f.Add("\xff\u202e\u0300a'\u200b'")
	f.Fuzz(func(t *testing.T, s string) { checkTokens(t, s) })
}

func FuzzParsePattern(f *testing.F) {
	f.Add("no|without any? evidence of", "no evidence of mass")
	f.Add("nodul* _? r/o", "nodule r/o")
	f.Fuzz(func(t *testing.T, phrase, in string) {
		p, err := parsePattern(phrase)
		if err != nil {
			return
		}
		tokens := Tokenize(in)
		for _, m := range newMatcher([]pattern{p}).find(tokens, Span{0, len(tokens)}) {
			if m.End <= m.Start || m.End > len(tokens) {
				t.Fatalf("match %+v of %d tokens", m, len(tokens))
			}
		}
	})
}
