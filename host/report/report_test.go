package report_test

import (
	_ "embed"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/alignedfusion/alignedfusion/host/report"
	"github.com/alignedfusion/alignedfusion/host/report/rules"
	"github.com/alignedfusion/alignedfusion/host/report/schema"
)

//go:embed rules/testdata/own_lexicon.yaml
var ownLexicon string

func extractor(t testing.TB, source string) rules.Extractor {
	t.Helper()
	lex, err := rules.ParseLexicon([]byte(source))
	if err != nil {
		t.Fatal(err)
	}
	engine, err := rules.DefaultEngine()
	if err != nil {
		t.Fatal(err)
	}
	return rules.Extractor{Lexicon: lex, Engine: engine}
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

func TestReadReports(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "r.csv")
	write := func(s string) {
		if err := os.WriteFile(path, []byte(s), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("\ufeffuid,labels,findings,impression,split\n1,secret,\"No mass,\nclear\",\xff bad,train\n2,x,,,test\n")
	got, err := report.Read(report.Source{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	want := []report.Report{
		{"1", []report.Section{{"findings", "No mass,\nclear"}, {"impression", "\ufffd bad"}}},
		{"2", []report.Section{{"findings", ""}, {"impression", ""}}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	got, err = report.Read(report.Source{Path: path, ID: "labels", Text: []string{"impression"}, Only: &[2]string{"split", "test"}})
	if err != nil || len(got) != 1 || got[0].ID != "x" || len(got[0].Sections) != 1 {
		t.Errorf("%v %v", got, err)
	}
	for _, c := range []struct{ content, want string }{
		{"", "empty"},
		{"uid,findings\n", "no report"},
		{"uid,findings\n1,PATIENTWORDS\n1,b\n", "rows 2 and 3"},
		{"uid,findings\n,PATIENTWORDS\n", "row 2"},
		{"uid,findings\n1,PATIENTWORDS,c\n", ".csv:2: "},
		{"uid,findings\n1,\"PATIENTWORDS\n", ".csv:2: "},
		{"name,findings\n1,a\n", "none of the columns"},
		{"uid,notes\n1,a\n", "none of the columns"},
		{"uid,uid,findings\n1,1,a\n", "stands twice"},
	} {
		write(c.content)
		_, err := report.Read(report.Source{Path: path})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: error %v, want one with %q", c.content, err, c.want)
		}
		if err != nil && strings.Contains(err.Error(), "PATIENTWORDS") {
			t.Errorf("report text in the error %v", err)
		}
	}
	if _, err := report.Read(report.Source{Path: filepath.Join(dir, "none.csv")}); err == nil {
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
	got, err = report.Read(report.Source{Path: folder})
	if err != nil || len(got) != 2 || got[1].ID != "b" || got[1].Sections[0].Text != "No mass" {
		t.Errorf("%v %v", got, err)
	}
}

func TestTableRoundTripAndCorrection(t *testing.T) {
	x := extractor(t, ownLexicon+`
  - name: mass
    kind: binary
    mentions: [mass]
`)
	reports := []report.Report{one("Effusion on the left, 7 mm nodule, no \u202emass."), one("")}
	reports[1].ID = "s"
	table := report.Table{Schema: x.Lexicon.Schema}
	for _, r := range reports {
		table.IDs = append(table.IDs, r.ID)
		table.Cells = append(table.Cells, x.Extract(r))
	}
	path := filepath.Join(t.TempDir(), "t.csv")
	if err := table.WriteFile(path); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	back, err := report.ParseTable(data, path, x.Lexicon.Schema, nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(table, back, cmpopts.IgnoreFields(schema.Cell{}, "Origin")); diff != "" {
		t.Error(diff)
	}
	if strings.Contains(string(data), "\u202e") || !strings.Contains(string(data), `\u202e`) {
		t.Errorf("the bidi character stands unescaped in %s", data)
	}

	corrected := "id,mass,side\nr,1,\ns,,possibly right\n"
	back, err = report.ParseTable([]byte(corrected), "t.csv", x.Lexicon.Schema, nil)
	if err != nil {
		t.Fatal(err)
	}
	if back.Cells[0][2].Origin != "t.csv:2" {
		t.Errorf("the cell comes from %q, want t.csv:2", back.Cells[0][2].Origin)
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
		{"id,other\nr,1\n", "none of its columns is an attribute"},
		{"id,mass,syde\nr,1,left\n", `column "syde" is no attribute; is it "side"?`},
		{"id,mass\nr,1\nr,0\n", "row 3"},
		{"id,mass,mass.evidence\nr,1,PATIENTWORDS\n", "SECTION[START:END]"},
		{"id,mass\nr,1,PATIENTWORDS\n", ":2: "},
	} {
		_, err := report.ParseTable([]byte(c.content), "t.csv", x.Lexicon.Schema, nil)
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "PATIENTWORDS") {
			t.Errorf("%q: error %v, want one with %q and without content", c.content, err, c.want)
		}
	}
}

func TestTablesThatCameBackFromAPersonAreUnderstood(t *testing.T) {
	lexicon, err := rules.ParseLexicon([]byte(`lexicon_version: 1
name: l
attributes:
  - name: margin
    kind: categorical
    values: [{name: ill-defined, mentions: [indistinct]}, {name: smooth, mentions: [well circumscribed]}]
  - {name: size_mm, kind: numeric, near: [nodule], unit_mm: 1, edges: [6]}
  - {name: mass, kind: binary, mentions: [mass, lump]}
`))
	if err != nil {
		t.Fatal(err)
	}
	const file = "id;size_mm;seen by;margin;mass;mass.evidence\nr;9,5;AB;Well Circumscribed;lump;corrected\ns;1.2 cm;;possibly indistinct;;accepted\nt;9 mm;;ill defined;absent;\n"
	table, err := report.ParseTable([]byte(file), "t.csv", lexicon.Schema, lexicon.Synonym)
	if err != nil {
		t.Fatal(err)
	}
	want := [][]string{{"margin=smooth", "size_mm=9.5", "mass=1"}, {"margin=possibly ill-defined", "size_mm=12"}, {"margin=ill-defined", "size_mm=9", "mass=0"}}
	for n, cells := range table.Cells {
		if diff := cmp.Diff(want[n], states(table.Schema, cells)); diff != "" {
			t.Error(diff)
		}
	}
	if table.Cells[0][2].Review != schema.Corrected || table.Cells[1][2].Review != schema.Accepted || table.Cells[2][2].Review != "" {
		t.Errorf("marks %+v", table.Cells)
	}
	if diff := cmp.Diff([]string{"seen by"}, table.Extra); diff != "" {
		t.Error(diff)
	}
}

func TestProjectCarriesCellsToAnotherSchema(t *testing.T) {
	x := extractor(t, ownLexicon)
	cells := x.Extract(one("Effusion on the left, 7 mm nodule."))
	to := schema.Schema{Attributes: []schema.Attribute{
		{Name: "nodule_mm", Kind: schema.Numeric, Values: []string{"under 7", "7 or more"}, Edges: []float64{7}},
		{Name: "side", Kind: schema.Categorical, Values: []string{"right", "left"}},
	}}
	got, err := report.Project(x.Lexicon.Schema, cells, to)
	if err != nil || got[0].Value != 1 || got[1].Value != 1 {
		t.Errorf("%+v %v", got, err)
	}
	to.Attributes[1].Values = []string{"right", "both"}
	if got, err = report.Project(x.Lexicon.Schema, cells, to); err != nil || got[1].Value != -1 || got[1].Raw != "left" {
		t.Errorf("a value the schema lacks: %+v %v", got, err)
	}
	to.Attributes[1].Name = "colour"
	if _, err = report.Project(x.Lexicon.Schema, cells, to); err == nil || !strings.Contains(err.Error(), "colour") {
		t.Errorf("an unknown attribute: %v", err)
	}
}

func FuzzParseEvidence(f *testing.F) {
	f.Add(`findings[3:7] "mass"`)
	f.Add(`a[b] "c[0:1] "x"`)
	f.Add(`corrected findings[3:7] "mass"`)
	f.Fuzz(func(t *testing.T, s string) {
		var c, back schema.Cell
		if report.ParseEvidence(s, &c) != nil {
			return
		}
		if err := report.ParseEvidence(report.FormatEvidence(c), &back); err != nil || back != c {
			t.Fatalf("%q: %+v became %+v (%v)", s, c, back, err)
		}
	})
}

func FuzzParseTable(f *testing.F) {
	lex, err := rules.ParseLexicon([]byte(ownLexicon))
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte("id,side,nodule_mm,side.evidence\nr,left,8,\"s[0:1] \"\"x\"\"\"\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		table, err := report.ParseTable(data, "f", lex.Schema, lex.Synonym)
		if err == nil && len(table.IDs) != len(table.Cells) {
			t.Fatal("rows lost")
		}
	})
}

func TestALongReportInACellIsRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "r.csv")
	text := strings.Repeat("No effusion. ", 200_000) // 2.6 MB; cells of names end at 1 MiB
	if err := os.WriteFile(path, []byte("id,report\n1,"+text+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	reports, err := report.Read(report.Source{Path: path})
	if err != nil || len(reports[0].Sections[0].Text) != len(text) {
		t.Errorf("%d reports, %v", len(reports), err)
	}
}

func TestEachEndsWithTheFirstError(t *testing.T) {
	path := filepath.Join(t.TempDir(), "r.csv")
	if err := os.WriteFile(path, []byte("id,report\n1,a\n2,b\n3,c\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	enough := errors.New("enough")
	var seen []string
	err := report.Each(report.Source{Path: path}, func(r report.Report) error {
		seen = append(seen, r.ID)
		if r.ID == "2" {
			return enough
		}
		return nil
	})
	if !errors.Is(err, enough) || len(seen) != 2 {
		t.Errorf("%v after %q", err, seen)
	}
}
