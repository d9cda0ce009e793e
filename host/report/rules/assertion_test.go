package rules

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// assess marks the mention as <...> in the sentence.
func assess(t interface{ Fatalf(string, ...any) }, e *Engine, marked string) Assertion {
	before, rest, ok := strings.Cut(marked, "<")
	mention, after, ok2 := strings.Cut(rest, ">")
	if !ok || !ok2 {
		t.Fatalf("no mention in %q", marked)
	}
	sentence := before + mention + after
	tokens := Tokenize(sentence)
	var span Span
	for i, tok := range tokens {
		if tok.Start <= len(before) {
			span.Start = i
		}
		if tok.Start < len(before)+len(mention) {
			span.End = i + 1
		}
	}
	return e.Read(tokens, Span{Start: 0, End: len(tokens)}).Assess(span)
}

func kind(a Assertion) string {
	var s []string
	for _, p := range []struct {
		on   bool
		name string
	}{{a.Negated, "negated"}, {a.Possible, "possible"}, {a.Probable, "probable"}, {a.Historical, "historical"}, {a.Hypothetical, "hypothetical"}, {a.Other, "other"}} {
		if p.on {
			s = append(s, p.name)
		}
	}
	return strings.Join(s, " ")
}

func TestRules(t *testing.T) {
	e, err := DefaultEngine()
	if err != nil {
		t.Fatal(err)
	}
	for rule, cases := range map[string]map[string]string{
		"a forward trigger negates to the end of its scope": {
			"No <mass> or nodule.":                                            "negated",
			"No mass, nodule or <effusion>.":                                  "negated",
			"She denies chest pain and <fever>.":                              "negated",
			"Without evidence of <fracture>":                                  "negated",
			"<mass> in the left lung":                                         "",
			"The test was negative for <malaria>.":                            "negated",
			"GI ROS is -ve for change, bleeding (occult nor overt), <anemia>": "negated",
		},
		"a backward trigger negates what stands before it": {
			"<Pneumonia> was ruled out.":              "negated",
			"<Effusion> is not seen.":                 "negated",
			"<ALLERGIES> - NONE.":                     "negated historical",
			"<Pneumonia> is unlikely.":                "negated",
			"BK <virus> is negative.":                 "negated",
			"The <edema> has resolved.":               "negated",
			"the <infarct> with negative deflections": "",
		},
		"conjunctions, subjects and stops end a scope": {
			"No fever but <cough>.":                              "",
			"She denies pain, however <edema> is present.":       "",
			"No cause of the <pain> was found.":                  "",
			"He has no fever, and he has <cough>.":               "",
			"No mass; <effusion> on the left.":                   "",
			"No mass and a small <effusion>.":                    "",
			"No pneumothorax, small <effusion>.":                 "",
			"no biliary dilatation and positive for <stones>":    "",
			"No effusion seen, hilar <calcifications>.":          "",
			"(slides not submitted for review) shows <leukemia>": "",
		},
		"pseudo-triggers do not negate": {
			"No change in the <nodule>.":                                "",
			"Not only <mass> but also effusion":                         "",
			"without significant interval change of mild <atelectasis>": "",
			"gram negative <sepsis>":                                    "",
		},
		"a trigger that reaches into the mention gives way": {
			"In general, no <change in vision>.": "negated",
		},
		"possible": {
			"Possible <pneumonia>.":                 "possible",
			"Cannot exclude <pneumonia>.":           "possible",
			"<Pneumonia> cannot be ruled out.":      "possible",
			"<Pneumonia> is not entirely excluded.": "possible",
			"Rule out <mucocele>.":                  "possible",
			"This may represent <myeloma>.":         "possible",
			"suspicious for <malignancy>":           "possible",
			"<mass> is suspected":                   "possible",
			"<pneumonia> is less likely":            "possible",
			"<atelectasis> versus infiltrate":       "possible",
			"atelectasis vs <infiltrate>":           "possible",
		},
		"probable": {
			"Probable <effusion>.":                    "probable",
			"Favored to be <atelectasis> over edema.": "probable",
			"most likely <viral syndrome>":            "probable",
			"The pain was likely secondary to <gout>": "",
		},
		"an outer negation or hedge goes before an inner hedge": {
			"No nodules suspicious for <cancer>.":            "negated",
			"May represent atelectasis versus <infiltrate>.": "possible",
			"No fever, likely <pneumonia>.":                  "probable",
			"No suspicious <opacity>":                        "negated",
		},
		"historical": {
			"History of <cancer>.":                           "historical",
			"PAST MEDICAL HISTORY:  <Hypertension>, gout.":   "historical",
			"status post <fracture>":                         "historical",
			"history of gout who presents with <chest pain>": "",
			"HISTORY OF PRESENT ILLNESS: <fever>":            "",
			"SOCIAL HISTORY: Denies <alcohol>.":              "negated historical",
			"two day history of <fever>":                     "",
		},
		"hypothetical": {
			"Return if there is <fever> or pus.":                   "hypothetical",
			"Call if any of the following are noted: <nosebleeds>": "hypothetical",
			"overlap could obscure a small <nodule>":               "hypothetical",
			"Cannot exclude <mass>":                                "possible",
		},
		"experiencer": {
			"Her mother had <breast cancer>.":    "other",
			"family history of <colon cancer>":   "historical other",
			"Her sister, the patient has <gout>": "",
		},
	} {
		t.Run(rule, func(t *testing.T) {
			for marked, want := range cases {
				if got := kind(assess(t, e, marked)); got != want {
					t.Errorf("%s: %q, want %q", marked, got, want)
				}
			}
		})
	}
}

func TestTriggerIsReported(t *testing.T) {
	e, err := DefaultEngine()
	if err != nil {
		t.Fatal(err)
	}
	a := assess(t, e, "There is no evidence of <mass> here.")
	if diff := cmp.Diff(Span{Start: 2, End: 5}, a.Trigger); diff != "" {
		t.Error(diff)
	}
}

func TestPropertyCaseAndBlanksDoNotMatter(t *testing.T) {
	e, err := DefaultEngine()
	if err != nil {
		t.Fatal(err)
	}
	vocabulary := []string{"no", "evidence", "of", "mass", ",", "and", "but", "history", "if", "possible", "versus", "not", "seen", "(", ")", ":", "mother", "was", "ruled", "out"}
	rapid.Check(t, func(t *rapid.T) {
		left := strings.Join(rapid.SliceOfN(rapid.SampledFrom(vocabulary), 0, 12).Draw(t, "left"), " ")
		right := strings.Join(rapid.SliceOfN(rapid.SampledFrom(vocabulary), 0, 12).Draw(t, "right"), " ")
		plain := left + " <nodule> " + right
		loud := strings.ReplaceAll(strings.ToUpper(plain), " ", " \t ")
		a, b := assess(t, e, plain), assess(t, e, loud)
		if a != b {
			t.Fatalf("%q: %+v, in capitals %+v", plain, a, b)
		}
		if a.Negated && (a.Possible || a.Probable) || a.Possible && a.Probable {
			t.Fatalf("%q is %+v", plain, a)
		}
	})
}

func TestPropertyASemicolonShutsEverythingOut(t *testing.T) {
	e, err := DefaultEngine()
	if err != nil {
		t.Fatal(err)
	}
	vocabulary := []string{"no", "evidence", "of", "mass", ",", "history", "if", "possible", "versus", "mother"}
	rapid.Check(t, func(t *rapid.T) {
		left := strings.Join(rapid.SliceOfN(rapid.SampledFrom(vocabulary), 0, 12).Draw(t, "left"), " ")
		if got := kind(assess(t, e, left+" ; <nodule> ; "+left)); got != "" {
			t.Fatalf("%q around semicolons: %s", left, got)
		}
	})
}

func TestParseRefusesBadTables(t *testing.T) {
	for _, c := range []struct{ table, want string }{
		{"triggers_version: 2", "want 1"},
		{"triggers_version: 1\nnegatedd: {}", "unknown field"},
		{"triggers_version: 1\nnegated: {forward: ['no*']}", "three letters"},
		{"[", ""},
	} {
		if _, err := ParseTriggers([]byte(c.table)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: error %v, want one with %q", c.table, err, c.want)
		}
	}
	if _, err := OpenTriggers("testdata/none.yaml"); err == nil {
		t.Error("a missing file was accepted")
	}
}

func FuzzAssess(f *testing.F) {
	f.Add("no evidence of mass (seen), but history of", uint(3), uint(2))
	f.Fuzz(func(t *testing.T, s string, start, length uint) {
		e, err := DefaultEngine()
		if err != nil {
			t.Fatal(err)
		}
		tokens := Tokenize(s)
		if len(tokens) == 0 {
			return
		}
		from := int(start % uint(len(tokens)))
		to := from + 1 + int(length%uint(len(tokens)-from))
		e.Read(tokens, Span{Start: 0, End: len(tokens)}).Assess(Span{Start: from, End: to})
	})
}
