package rules

import (
	_ "embed"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/alignedfusion/alignedfusion/host/report"
	"github.com/alignedfusion/alignedfusion/host/report/schema"
)

func extractor(t testing.TB, source string) Extractor {
	t.Helper()
	var lex *Lexicon
	var err error
	if source == "" {
		lex, err = OpenLexicon(ChestXRay)
	} else {
		lex, err = ParseLexicon([]byte(source))
	}
	if err != nil {
		t.Fatal(err)
	}
	engine, err := DefaultEngine()
	if err != nil {
		t.Fatal(err)
	}
	return Extractor{Lexicon: lex, Engine: engine}
}

func one(text string) report.Report {
	return report.Report{ID: "r", Sections: []report.Section{{Name: "findings", Text: text}}}
}

// states lists what is mentioned as name=cell.
func states(s schema.Schema, cells []schema.Cell) []string {
	var out []string
	for i, a := range s.Attributes {
		if cells[i].State != schema.Unmentioned {
			out = append(out, a.Name+"="+schema.FormatCell(a, cells[i]))
		}
	}
	return out
}

func TestFourStatesAreKeptApart(t *testing.T) {
	x := extractor(t, "")
	for _, c := range []struct {
		in   string
		want []string
	}{
		{"Small effusion. No pneumothorax. Possible pneumonia.", []string{"Effusion=1", "Pneumonia=-1", "Pneumothorax=0", "normal=0"}},
		{"No effusion. Possible effusion.", []string{"Effusion=-1", "normal=0"}},
		{"Possible effusion. Effusion.", []string{"Effusion=1", "normal=0"}},
		{"Heart size is normal. Lungs are clear.", []string{"Cardiomegaly=0", "normal=1"}},
		{"History of pneumonia. Mother had emphysema.", nil},
		{"Clear lungs. Strange thing behind it.", nil},
		{"Clear lungs. Aortic dissection.", []string{"normal=0"}},
		{"No acute cardiopulmonary disease.", []string{"normal=1"}},
		{"Old rib fracture.", []string{"normal=0"}},
		{"Return if pneumothorax develops.", nil},
		{"Probable edema.", []string{"Edema=1", "normal=0"}},
		{"", nil},
		{"  \n ", nil},
		{"...", nil},
	} {
		if diff := cmp.Diff(c.want, states(x.Lexicon.Schema, x.Extract(one(c.in)))); diff != "" {
			t.Errorf("%q: %s", c.in, diff)
		}
	}
	x.ProbableIsUncertain = true
	if diff := cmp.Diff([]string{"Edema=-1", "normal=0"}, states(x.Lexicon.Schema, x.Extract(one("Probable edema.")))); diff != "" {
		t.Error(diff)
	}
}

//go:embed testdata/own_lexicon.yaml
var ownLexicon string

func TestCategoriesAndMeasurementsWithUnits(t *testing.T) {
	x := extractor(t, ownLexicon)
	for _, c := range []struct {
		in   string
		want []string
	}{
		{"Left-sided effusion.", []string{"side=left"}},
		{"Effusion, possibly right.", []string{"side=possibly right"}},
		{"No effusion. Left nodule.", nil},
		{"A 1.2 cm nodule.", []string{"nodule_mm=12"}},
		{"Nodule of 8 x 6 mm", []string{"nodule_mm=8"}},
		{"nodule 0.5 x 0.7 cm, heart 12 cm", []string{"nodule_mm=7"}},
		{"12-mm nodule", []string{"nodule_mm=12"}},
		{"5mm nodule", []string{"nodule_mm=5"}},
		{".5 cm nodule", []string{"nodule_mm=5"}},
		{"2 nodules on 3 images", nil},
		{"No 5 mm nodule.", nil},
		{"possible 5 mm nodule", []string{"nodule_mm=possibly 5"}},
		{"nodule, 99999 cm", nil},
	} {
		if diff := cmp.Diff(c.want, states(x.Lexicon.Schema, x.Extract(one(c.in)))); diff != "" {
			t.Errorf("%q: %s", c.in, diff)
		}
	}
	cells := x.Extract(one("A 7 mm nodule."))
	want := schema.Cell{State: schema.Stated, Value: 1, Raw: "7", Evidence: schema.Evidence{Section: "findings", Start: 2, End: 6, Quote: "7 mm"}}
	if diff := cmp.Diff(want, cells[1]); diff != "" {
		t.Error(diff)
	}
}

func TestEvidenceCoversTriggerAndMention(t *testing.T) {
	x := extractor(t, "")
	r := report.Report{ID: "r", Sections: []report.Section{{Name: "findings", Text: "Clear."}, {Name: "impression", Text: "There is no évidence of pneumo\u200bthorax."}}}
	c := x.Extract(r)[x.Lexicon.Schema.Index("Pneumothorax")]
	if c.State != schema.Negated || c.Evidence.Section != "impression" || !strings.HasPrefix(c.Evidence.Quote, "no") || !strings.HasSuffix(c.Evidence.Quote, "thorax") || !r.Holds(c.Evidence) {
		t.Errorf("%+v", c)
	}
}

func TestControlAndBidiCharactersDoNotHideFindings(t *testing.T) {
	x := extractor(t, "")
	for _, in := range []string{"\u202eNo\u202c pneumothorax.", "No\x00 pneumo\u2060thorax.", "\ufeffNo pneumothorax\u200f.", "No\x1b[31m pneumothorax."} {
		got := states(x.Lexicon.Schema, x.Extract(one(in)))
		if diff := cmp.Diff([]string{"Pneumothorax=0"}, got); diff != "" {
			t.Errorf("%q: %s", in, diff)
		}
	}
}

func TestOtherLanguagesAreLeftUnmentioned(t *testing.T) {
	x := extractor(t, "")
	for _, in := range []string{"Pas de pneumothorax ni de nodule dans les poumons.",
		"右肺下叶见片状高密度影，考虑肺炎。", "Sem derrame pleural. Atelectasia basal.", "Bez odmy. Atelectasis."} {
		if got := states(x.Lexicon.Schema, x.Extract(one(in))); got != nil {
			t.Errorf("%q: %q", in, got)
		}
	}
}

func TestTwoMegabytesWithoutASentenceEndDoNotHang(t *testing.T) {
	if testing.Short() {
		t.Skip("2 MB")
	}
	x := extractor(t, "")
	long := one(strings.Repeat("no pneumonia effusion heart ", 2<<20/28))
	done := make(chan []schema.Cell)
	go func() { done <- x.Extract(long) }()
	select {
	case cells := <-done:
		if cells[x.Lexicon.Schema.Index("Pneumonia")].State != schema.Negated {
			t.Error("pneumonia is not negated")
		}
	case <-time.After(2 * time.Minute): // a hang, not a benchmark
		t.Fatal("2 MB without a sentence end hang")
	}
}

func TestPropertyEvidenceIsVerbatim(t *testing.T) {
	x := extractor(t, "")
	vocabulary := []string{"no", "possible", "pneumonia", "effusion", "heart", "size", "is", "normal", ".", ",", "and", "mass", "\u202e", "é", "\n", "but", "versus"}
	rapid.Check(t, func(t *rapid.T) {
		r := one(strings.Join(rapid.SliceOfN(rapid.SampledFrom(vocabulary), 0, 40).Draw(t, "words"), rapid.SampledFrom([]string{" ", "\u00a0", "  "}).Draw(t, "blank")))
		for i, c := range x.Extract(r) {
			if !c.Evidence.IsZero() && !r.Holds(c.Evidence) {
				t.Fatalf("attribute %d: %+v is not in the report", i, c.Evidence)
			}
			if c.State != schema.Unmentioned && c.Evidence.IsZero() {
				t.Fatalf("attribute %d: %+v has no evidence", i, c)
			}
			var back schema.Cell
			if err := report.ParseEvidence(report.FormatEvidence(c), &back); err != nil || back.Evidence != c.Evidence {
				t.Fatalf("evidence %+v became %+v: %v", c.Evidence, back, err)
			}
		}
	})
}

func FuzzExtract(f *testing.F) {
	x := extractor(f, "")
	y := extractor(f, ownLexicon)
	f.Add("No effusion. 8 x 6 mm nodule (left), heart size is normal.")
	f.Fuzz(func(t *testing.T, s string) {
		if !utf8.ValidString(s) {
			s = strings.ToValidUTF8(s, "\ufffd")
		}
		for _, rules := range []Extractor{x, y} {
			r := one(s)
			for _, c := range rules.Extract(r) {
				if !c.Evidence.IsZero() && !r.Holds(c.Evidence) {
					t.Fatalf("%+v is not in the report", c.Evidence)
				}
			}
		}
	})
}

func FuzzMeasurements(f *testing.F) {
	f.Add("8 x 6 x 4.5 mm and .5cm by 12-mm")
	f.Fuzz(func(t *testing.T, s string) {
		tokens := Tokenize(s)
		for name, u := range units {
			for _, m := range u.measurements(tokens, Span{Start: 0, End: len(tokens)}) {
				if len(m.values) == 0 || m.values[0] > u.max || m.End <= m.Start || !u.signed && m.values[0] < 0 {
					t.Fatalf("%s: %+v", name, m)
				}
			}
		}
	})
}

func BenchmarkExtractReport(b *testing.B) {
	x := extractor(b, "")
	r := one("The cardiac silhouette and mediastinum size are within normal limits. There is no pulmonary edema. There is no focal consolidation. There is no evidence of pneumothorax. Small left pleural effusion.")
	b.ReportAllocs()
	for b.Loop() {
		x.Extract(r)
	}
}

// TestWorkGrowsWithTheLengthAlone counts what is allocated, which every step of the rules
// does, for a text and for one four times as long.
func TestWorkGrowsWithTheLengthAlone(t *testing.T) {
	x := extractor(t, "")
	for name, sentence := range map[string]string{
		"sentences":     "No pneumothorax, small left effusion. Possible nodule in the right lung, 6 mm.\n",
		"no full stops": "no pneumothorax small left effusion and possible nodule or mass with opacity ",
		"headings":      "FINDINGS: Clear.\nHISTORY: Cough.\n",
		"brackets":      "((effusion) or [no mass",
	} {
		work := func(times int) float64 {
			r := one(strings.Repeat(sentence, times))
			return testing.AllocsPerRun(1, func() { x.Extract(r) })
		}
		if small, large := work(500), work(2000); large > 5*small {
			t.Errorf("%s: %.0f allocations for a text, %.0f for one four times as long", name, small, large)
		}
	}
}
