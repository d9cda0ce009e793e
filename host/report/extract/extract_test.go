package extract

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/alignedfusion/alignedfusion/host/report/assertion"
	"github.com/alignedfusion/alignedfusion/host/report/lexicon"
	"github.com/alignedfusion/alignedfusion/host/report/schema"
	"github.com/alignedfusion/alignedfusion/host/report/text"
)

func rules(t testing.TB, source string) Rules {
	t.Helper()
	var lex *lexicon.Compiled
	var err error
	if source == "" {
		lex, err = lexicon.Open(lexicon.ChestXRay)
	} else {
		lex, err = lexicon.Parse([]byte(source))
	}
	if err != nil {
		t.Fatal(err)
	}
	engine, err := assertion.Default()
	if err != nil {
		t.Fatal(err)
	}
	return Rules{Lexicon: lex, Engine: engine}
}

func one(text string) Report {
	return Report{ID: "r", Sections: []Section{{Name: "findings", Text: text}}}
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
	x := rules(t, "")
	for _, c := range []struct {
		in   string
		want []string
	}{
		{"Small effusion. No pneumothorax. Possible pneumonia.", []string{"Effusion=1", "Pneumonia=-1", "Pneumothorax=0", "normal=0"}},
		{"No effusion. Possible effusion.", []string{"Effusion=-1", "normal=0"}},
		{"Possible effusion. Effusion.", []string{"Effusion=1", "normal=0"}},
		{"Heart size is normal. Lungs are clear.", []string{"Cardiomegaly=0", "normal=1"}},
		{"History of pneumonia. Mother had emphysema.", []string{"normal=1"}},
		{"Old rib fracture.", []string{"normal=0"}},
		{"Return if pneumothorax develops.", []string{"normal=1"}},
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

const ownLexicon = `
lexicon_version: 1
attributes:
  - name: side
    kind: categorical
    near: [effusion]
    values:
      - {name: left, mentions: [left, left sided]}
      - {name: right, mentions: [right]}
  - name: nodule_mm
    kind: numeric
    near: [nodule|nodules]
    unit_mm: 1
    edges: [6, 8]
`

func TestCategoriesAndMeasurementsWithUnits(t *testing.T) {
	x := rules(t, ownLexicon)
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
	x := rules(t, "")
	r := Report{ID: "r", Sections: []Section{{Name: "findings", Text: "Clear."}, {Name: "impression", Text: "There is no évidence of pneumo\u200bthorax."}}}
	c := x.Extract(r)[x.Lexicon.Schema.Index("Pneumothorax")]
	if c.State != schema.Negated || c.Evidence.Section != "impression" || !strings.HasPrefix(c.Evidence.Quote, "no") || !strings.HasSuffix(c.Evidence.Quote, "thorax") || !Check(r, c.Evidence) {
		t.Errorf("%+v", c)
	}
}

func TestControlAndBidiCharactersDoNotHideFindings(t *testing.T) {
	x := rules(t, "")
	for _, in := range []string{"\u202eNo\u202c pneumothorax.", "No\x00 pneumo\u2060thorax.", "\ufeffNo pneumothorax\u200f.", "No\x1b[31m pneumothorax."} {
		got := states(x.Lexicon.Schema, x.Extract(one(in)))
		if diff := cmp.Diff([]string{"Pneumothorax=0", "normal=1"}, got); diff != "" {
			t.Errorf("%q: %s", in, diff)
		}
	}
}

func TestOtherLanguagesAreLeftUnmentioned(t *testing.T) {
	x := rules(t, "")
	for _, in := range []string{"Kein Pneumothorax, kein Erguss.", "Pas de pneumothorax ni de nodule dans les poumons.",
		"右肺下叶见片状高密度影，考虑肺炎。", "No hay derrame pleural. El corazón es de tamaño normal."} {
		if got := states(x.Lexicon.Schema, x.Extract(one(in))); got != nil {
			t.Errorf("%q: %q", in, got)
		}
	}
}

func TestTenMegabytesTakeSeconds(t *testing.T) {
	if testing.Short() {
		t.Skip("10 MB")
	}
	x := rules(t, "")
	long := one(strings.Repeat("no pneumonia effusion heart ", 10<<20/28))
	done := make(chan []schema.Cell)
	go func() { done <- x.Extract(long) }()
	select {
	case cells := <-done:
		if cells[x.Lexicon.Schema.Index("Pneumonia")].State != schema.Negated {
			t.Error("pneumonia is not negated")
		}
	case <-time.After(2 * time.Minute): // a hang, not a benchmark
		t.Fatal("10 MB without a sentence end hang")
	}
}

func TestReadReports(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "r.csv")
	write := func(s string) {
		if err := os.WriteFile(path, []byte(s), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("\ufeffuid,labels,findings,impression,split\n1,secret,\"No mass,\nclear\",\xff bad,train\n2,x,,,test\n")
	got, err := ReadReports(Source{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	want := []Report{
		{"1", []Section{{"findings", "No mass,\nclear"}, {"impression", "\ufffd bad"}}},
		{"2", []Section{{"findings", ""}, {"impression", ""}}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	got, err = ReadReports(Source{Path: path, ID: "labels", Text: []string{"impression"}, Only: &[2]string{"split", "test"}})
	if err != nil || len(got) != 1 || got[0].ID != "x" || len(got[0].Sections) != 1 {
		t.Errorf("%v %v", got, err)
	}
	for _, c := range []struct{ content, want string }{
		{"", "empty"},
		{"uid,findings\n", "no report"},
		{"uid,findings\n1,PATIENTWORDS\n1,b\n", "rows 2 and 3"},
		{"uid,findings\n,PATIENTWORDS\n", "row 2"},
		{"uid,findings\n1,PATIENTWORDS,c\n", "line 2"},
		{"uid,findings\n1,\"PATIENTWORDS\n", "line"},
		{"name,findings\n1,a\n", "none of the columns"},
		{"uid,notes\n1,a\n", "none of the columns"},
		{"uid,uid,findings\n1,1,a\n", "occurs twice"},
	} {
		write(c.content)
		_, err := ReadReports(Source{Path: path})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: error %v, want one with %q", c.content, err, c.want)
		}
		if err != nil && strings.Contains(err.Error(), "PATIENTWORDS") {
			t.Errorf("report text in the error %v", err)
		}
	}
	if _, err := ReadReports(Source{Path: filepath.Join(dir, "none.csv")}); err == nil {
		t.Error("a missing file was accepted")
	}
	folder := filepath.Join(dir, "f[1]")
	if err := os.Mkdir(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, s := range map[string]string{"b.txt": "No mass", "a.txt": "", "c.md": "x"} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(s), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err = ReadReports(Source{Path: folder})
	if err != nil || len(got) != 2 || got[1].ID != "b" || got[1].Sections[0].Text != "No mass" {
		t.Errorf("%v %v", got, err)
	}
}

func TestTableRoundTripAndCorrection(t *testing.T) {
	x := rules(t, ownLexicon+`
  - name: mass
    kind: binary
    mentions: [mass]
`)
	reports := []Report{one("Effusion on the left, 7 mm nodule, no \u202emass."), one("")}
	reports[1].ID = "s"
	table := Table{Schema: x.Lexicon.Schema}
	for _, r := range reports {
		table.IDs = append(table.IDs, r.ID)
		table.Cells = append(table.Cells, x.Extract(r))
	}
	path := filepath.Join(t.TempDir(), "t.csv")
	if err := table.WriteFile(path); err != nil {
		t.Fatal(err)
	}
	back, err := ReadTable(path, x.Lexicon.Schema)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(table, back); diff != "" {
		t.Error(diff)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(data), "\u202e") || !strings.Contains(string(data), `\u202e`) {
		t.Errorf("the bidi character stands unescaped in %s", data)
	}

	corrected := "id,mass,side\nr,1,\ns,,possibly right\n"
	back, err = ParseTable([]byte(corrected), "t.csv", x.Lexicon.Schema)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"mass=1"}, states(back.Schema, back.Cells[0])); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"side=possibly right"}, states(back.Schema, back.Cells[1])); diff != "" {
		t.Error(diff)
	}
	for _, c := range []struct{ content, want string }{
		{"", "empty"},
		{"mass\n1\n", "no column id"},
		{"id,mass\nr,PATIENTWORDS\n", `row 2: column "mass"`},
		{"id,side\nr,PATIENTWORDS\n", `row 2: column "side"`},
		{"id,nodule_mm\nr,PATIENTWORDS\n", `row 2: column "nodule_mm"`},
		{"id,other\nr,1\n", "column 2"},
		{"id,mass\nr,1\nr,0\n", "row 3"},
		{"id,mass,mass.evidence\nr,1,PATIENTWORDS\n", "SECTION[START:END]"},
		{"id,mass\nr,1,PATIENTWORDS\n", "line 2"},
	} {
		_, err := ParseTable([]byte(c.content), "t.csv", x.Lexicon.Schema)
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "PATIENTWORDS") {
			t.Errorf("%q: error %v, want one with %q and without content", c.content, err, c.want)
		}
	}
}

func TestProjectCarriesCellsToAnotherSchema(t *testing.T) {
	x := rules(t, ownLexicon)
	cells := x.Extract(one("Effusion on the left, 7 mm nodule."))
	to := schema.Schema{Attributes: []schema.Attribute{
		{Name: "nodule_mm", Kind: schema.Numeric, Values: []string{"under 7", "7 or more"}, Edges: []float64{7}},
		{Name: "side", Kind: schema.Categorical, Values: []string{"right", "left"}},
	}}
	got, err := Project(x.Lexicon.Schema, cells, to)
	if err != nil || got[0].Value != 1 || got[1].Value != 1 {
		t.Errorf("%+v %v", got, err)
	}
	to.Attributes[1].Values = []string{"right", "both"}
	if got, err = Project(x.Lexicon.Schema, cells, to); err != nil || got[1].Value != -1 || got[1].Raw != "left" {
		t.Errorf("a value the schema lacks: %+v %v", got, err)
	}
	to.Attributes[1].Name = "colour"
	if _, err = Project(x.Lexicon.Schema, cells, to); err == nil || !strings.Contains(err.Error(), "colour") {
		t.Errorf("an unknown attribute: %v", err)
	}
}

func TestPropertyEvidenceIsVerbatim(t *testing.T) {
	x := rules(t, "")
	vocabulary := []string{"no", "possible", "pneumonia", "effusion", "heart", "size", "is", "normal", ".", ",", "and", "mass", "\u202e", "é", "\n", "but", "versus"}
	rapid.Check(t, func(t *rapid.T) {
		r := one(strings.Join(rapid.SliceOfN(rapid.SampledFrom(vocabulary), 0, 40).Draw(t, "words"), rapid.SampledFrom([]string{" ", "\u00a0", "  "}).Draw(t, "blank")))
		for i, c := range x.Extract(r) {
			if !c.Evidence.IsZero() && !Check(r, c.Evidence) {
				t.Fatalf("attribute %d: %+v is not in the report", i, c.Evidence)
			}
			if c.State != schema.Unmentioned && c.Evidence.IsZero() && x.Lexicon.Schema.Attributes[i].Name != "normal" {
				t.Fatalf("attribute %d: %+v has no evidence", i, c)
			}
			back, err := ParseEvidence(FormatEvidence(c.Evidence))
			if err != nil || back != c.Evidence {
				t.Fatalf("evidence %+v became %+v: %v", c.Evidence, back, err)
			}
		}
	})
}

func FuzzExtract(f *testing.F) {
	x := rules(f, "")
	y := rules(f, ownLexicon)
	f.Add("No effusion. 8 x 6 mm nodule (left), heart size is normal.")
	f.Fuzz(func(t *testing.T, s string) {
		if !utf8.ValidString(s) {
			s = clean(s)
		}
		for _, rules := range []Rules{x, y} {
			r := one(s)
			for _, c := range rules.Extract(r) {
				if !c.Evidence.IsZero() && !Check(r, c.Evidence) {
					t.Fatalf("%+v is not in the report", c.Evidence)
				}
			}
		}
	})
}

func FuzzParseEvidence(f *testing.F) {
	f.Add(`findings[3:7] "mass"`)
	f.Add(`a[b] "c[0:1] "x"`)
	f.Fuzz(func(t *testing.T, s string) {
		e, err := ParseEvidence(s)
		if err != nil || e.IsZero() {
			return
		}
		back, err := ParseEvidence(FormatEvidence(e))
		if err != nil || back != e {
			t.Fatalf("%q: %+v became %+v (%v)", s, e, back, err)
		}
	})
}

func FuzzParseTable(f *testing.F) {
	lex, err := lexicon.Parse([]byte(ownLexicon))
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte("id,side,nodule_mm,side.evidence\nr,left,8,\"s[0:1] \"\"x\"\"\"\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		table, err := ParseTable(data, "f", lex.Schema)
		if err == nil && len(table.IDs) != len(table.Cells) {
			t.Fatal("rows lost")
		}
	})
}

func FuzzMeasurements(f *testing.F) {
	f.Add("8 x 6 x 4.5 mm and .5cm by 12-mm")
	f.Fuzz(func(t *testing.T, s string) {
		tokens := text.Tokenize(s)
		for _, m := range measurements(tokens, text.Span{Start: 0, End: len(tokens)}) {
			if !(m.maxMM > 0 && m.maxMM <= maxLengthMM) || m.End <= m.Start {
				t.Fatalf("%+v", m)
			}
		}
	})
}

func BenchmarkExtractReport(b *testing.B) {
	x := rules(b, "")
	r := one("The cardiac silhouette and mediastinum size are within normal limits. There is no pulmonary edema. There is no focal consolidation. There is no evidence of pneumothorax. Small left pleural effusion.")
	b.ReportAllocs()
	for b.Loop() {
		x.Extract(r)
	}
}
