package schema

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"sort"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

var (
	itch   = Attribute{Name: "itch", Kind: Binary, Values: []string{"no", "yes"}}
	region = Attribute{Name: "region", Kind: Categorical, Values: []string{"face", "upper arm", "back"}}
	age    = Attribute{Name: "age", Kind: Numeric, Values: []string{"under 30", "30 to 45", "45 or more"}, Edges: []float64{30, 45}, Ordinal: true}
)

func TestEq5PromptsOfTheFourStates(t *testing.T) {
	for _, c := range []struct {
		a    Attribute
		cell string
		want string
	}{
		{region, "Upper  Arm", "region: upper arm."},
		{region, "no", "region: no."},
		{region, "possibly back", "region: possibly back."},
		{region, "?back", "region: possibly back."},
		{region, "", ""},
		{region, "scalp", "region: scalp."},
		{itch, "1", "itch: yes."},
		{itch, "False", "itch: no."},
		{itch, "-1", "itch: possibly yes."},
		{age, "44.9", "age: 30 to 45."},
		{age, "45", "age: 45 or more."},
		{age, "possibly 3", "age: possibly under 30."},
	} {
		cell, err := ParseCell(c.a, c.cell)
		if err != nil {
			t.Fatal(err)
		}
		if got := Prompt(c.a, cell); got != c.want {
			t.Errorf("prompt of %s=%q: %q, want %q", c.a.Name, c.cell, got, c.want)
		}
	}
	if diff := cmp.Diff([]string{"itch: no.", "itch: yes."}, ValuePrompts(itch)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"age: under 30.", "age: 30 to 45.", "age: 45 or more."}, ValuePrompts(age)); diff != "" {
		t.Error(diff)
	}
}

func TestStatesOfCells(t *testing.T) {
	yesNo := Attribute{Name: "grew", Kind: Categorical, Values: []string{"yes", "no", "unknown"}}
	for _, c := range []struct {
		a     Attribute
		text  string
		state State
		value int
		known bool
	}{
		{itch, "", Unmentioned, -1, false},
		{itch, " ", Unmentioned, -1, false},
		{itch, "0", Negated, 0, true},
		{itch, "no", Negated, 0, true},
		{itch, "yes", Stated, 1, true},
		{itch, "uncertain", Uncertain, 1, false},
		{itch, "rarely", Stated, -1, false},
		{region, "no", Negated, -1, false},
		{region, "BACK", Stated, 2, true},
		{region, "possibly scalp", Uncertain, -1, false},
		{yesNo, "no", Negated, 1, true},
		{age, "30", Stated, 1, true},
		{age, "30 to 45", Stated, 1, true},
		{age, "-5", Stated, 0, true},
	} {
		cell, err := ParseCell(c.a, c.text)
		if err != nil {
			t.Fatal(err)
		}
		if cell.State != c.state || cell.Value != c.value || cell.Known() != c.known {
			t.Errorf("%s=%q: %v value %d known %v, want %v %d %v", c.a.Name, c.text, cell.State, cell.Value, cell.Known(), c.state, c.value, c.known)
		}
	}
	for _, bad := range []string{"old", "NaN", "inf", "12 years"} {
		if _, err := ParseCell(age, bad); err == nil || !strings.Contains(err.Error(), strconv.Quote(bad)) {
			t.Errorf("age=%q: error %v does not name the value", bad, err)
		}
	}
}

func TestValidateRefusesBadSchemas(t *testing.T) {
	for _, c := range []struct {
		name string
		attr []Attribute
		want string
	}{
		{"no attributes", nil, "no attributes"},
		{"one value", []Attribute{{Name: "a", Kind: Categorical, Values: []string{"x"}}}, "at least 2"},
		{"duplicate name", []Attribute{itch, {Name: "Itch", Kind: Binary, Values: []string{"no", "yes"}}}, "already used"},
		{"duplicate value", []Attribute{{Name: "a", Kind: Categorical, Values: []string{"x", " X"}}}, "occurs twice"},
		{"empty name", []Attribute{{Name: " ", Kind: Binary, Values: []string{"no", "yes"}}}, "name is empty"},
		{"empty value", []Attribute{{Name: "a", Kind: Binary, Values: []string{"no", ""}}}, "is empty"},
		{"binary of three", []Attribute{{Name: "a", Kind: Binary, Values: []string{"a", "b", "c"}}}, "want 2"},
		{"edge count", []Attribute{{Name: "a", Kind: Numeric, Values: []string{"a", "b"}}}, "one edge less"},
		{"edge order", []Attribute{{Name: "a", Kind: Numeric, Values: []string{"a", "b", "c"}, Edges: []float64{2, 2}}}, "not above"},
		{"edge nan", []Attribute{{Name: "a", Kind: Numeric, Values: []string{"a", "b"}, Edges: []float64{math.NaN()}}}, "finite"},
		{"kind", []Attribute{{Name: "a", Kind: "colour", Values: []string{"a", "b"}}}, "kind"},
		{"edges on categorical", []Attribute{{Name: "a", Kind: Categorical, Values: []string{"a", "b"}, Edges: []float64{1}}}, "only numeric"},
	} {
		err := (&Schema{c.attr}).Validate()
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one with %q", c.name, err, c.want)
		}
	}
	if err := (&Schema{[]Attribute{itch, region, age}}).Validate(); err != nil {
		t.Error(err)
	}
}

func TestSchemaJSONRoundTripAndHash(t *testing.T) {
	s := &Schema{[]Attribute{itch, region, age}}
	data, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	var back Schema
	if err := json.Unmarshal(data, &back); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(*s, back); diff != "" {
		t.Error(diff)
	}
	if s.Hash() != back.Hash() {
		t.Error("hash changed over a round trip")
	}
	back.Attributes[1].Values = []string{"upper arm", "face", "back"}
	if s.Hash() == back.Hash() {
		t.Error("hash is blind to the order of values")
	}
	for _, bad := range []string{
		`{"schema_version": 2, "attributes": []}`,
		`{"schema_version": 1, "attributes": [{"name": "a", "kind": "binary", "values": ["x", "y"], "odrinal": true}]}`,
		`{"schema_version": 1, "attributes": [{"name": "a", "kind": "categorical", "values": ["x"]}]}`,
		`[]`,
	} {
		if err := json.Unmarshal([]byte(bad), &back); err == nil {
			t.Errorf("%s was accepted", bad)
		}
	}
}

// columnsOf counts the cells of rows.
func columnsOf(names []string, rows ...[]string) []Column {
	out := make([]Column, len(names))
	for k, name := range names {
		out[k].Name = name
		for _, row := range rows {
			at := slices.IndexFunc(out[k].Cells, func(c TextCount) bool { return c.Text == row[k] })
			if at < 0 {
				at = len(out[k].Cells)
				out[k].Cells = append(out[k].Cells, TextCount{Text: row[k]})
			}
			out[k].Cells[at].N++
		}
	}
	return out
}

func TestFromColumnsUsesTrainingRowsOnly(t *testing.T) {
	training := columnsOf([]string{"region", "itch", "age", "veil", "same", "empty", "region.evidence"},
		[]string{"FACE", "0", "10", "absent", "x", "", "e"},
		[]string{"BACK", "1", "20", "present", "x", "", ""},
		[]string{"BACK", "", "30", "", "x", "", "f"},
		[]string{"ARM", "1", "40", "absent", "", "", ""})
	s, skipped, err := FromColumns(training, 4, Options{Bins: 2})
	if err != nil {
		t.Fatal(err)
	}
	want := &Schema{[]Attribute{
		{Name: "region", Kind: Categorical, Values: []string{"BACK", "ARM", "FACE"}},
		{Name: "itch", Kind: Binary, Values: []string{"no", "yes"}},
		{Name: "age", Kind: Numeric, Values: []string{"under 30", "30 or more"}, Edges: []float64{30}, Ordinal: true},
		{Name: "veil", Kind: Binary, Values: []string{"absent", "present"}},
	}}
	if diff := cmp.Diff(want, s); diff != "" {
		t.Error(diff)
	}
	if len(skipped) != 3 {
		t.Errorf("skipped %v, want same, empty and region.evidence", skipped)
	}
}

func TestBindReadsAWrittenCellUnderTheSchema(t *testing.T) {
	for _, c := range []struct {
		a    Attribute
		text string
		want Cell
	}{
		{region, "NOSE", Cell{State: Stated, Value: -1, Raw: "NOSE", Origin: "f:2"}},
		{itch, "1", Cell{State: Stated, Value: 1, Raw: "1", Origin: "f:2"}},
		{itch, "0", Cell{State: Negated, Value: 0, Raw: "0", Origin: "f:2"}},
		{age, "99", Cell{State: Stated, Value: 2, Raw: "99", Origin: "f:2"}},
		{age, "", Cell{Value: -1, Origin: "f:2"}},
	} {
		got, err := c.a.Bind(Written(c.text, "f:2"))
		if err != nil || got != c.want {
			t.Errorf("%s=%q: %+v, %v; want %+v", c.a.Name, c.text, got, err, c.want)
		}
	}
	if w := Written("x", "f:2"); w.State != Stated || !w.Foreign() {
		t.Errorf("a written cell is %+v, want stated and of unknown value", w)
	}
	if w := Written("", "f:2"); w.State != Unmentioned || w.Value != -1 || w.Foreign() {
		t.Errorf("an empty cell is %+v, want unmentioned", w)
	}
	evidence := Evidence{Section: "s", End: 1, Quote: "x"}
	if got, err := age.Bind(Cell{State: Stated, Value: -1, Raw: "old", Evidence: evidence, Origin: "f:3"}); err == nil || got.Origin != "f:3" || got.Evidence != evidence {
		t.Errorf("a word for a number: %+v, %v; want an error and the place", got, err)
	}
}

func TestForeignAreValuesOutsideTheSet(t *testing.T) {
	for cell, want := range map[Cell]bool{
		{State: Stated, Value: -1}: true, {State: Uncertain, Value: -1}: true, {State: Negated, Value: -1}: false,
		{State: Unmentioned, Value: -1}: false, {State: Stated, Value: 0}: false, {State: Uncertain, Value: 1}: false,
	} {
		if cell.Foreign() != want {
			t.Errorf("%+v: foreign %v, want %v", cell, cell.Foreign(), want)
		}
	}
}

func TestConvertCarriesValuesByNameAndNumbersByBin(t *testing.T) {
	other := Attribute{Name: "region", Kind: Categorical, Values: []string{"back", "neck"}}
	if c, err := other.Convert(region, Cell{State: Uncertain, Value: 2}); err != nil || c != (Cell{State: Uncertain, Value: 0}) {
		t.Errorf("back is %+v, %v", c, err)
	}
	if c, err := other.Convert(region, Cell{State: Stated, Value: 0}); err != nil || c != (Cell{State: Stated, Value: -1, Raw: "face"}) {
		t.Errorf("a value that is not there is %+v, %v", c, err)
	}
	if c, err := other.Convert(region, Cell{State: Negated, Value: -1}); err != nil || c != (Cell{State: Negated, Value: -1}) {
		t.Errorf("a negation is %+v, %v", c, err)
	}
	coarse := Attribute{Name: "age", Kind: Numeric, Values: []string{"under 40", "40 or more"}, Edges: []float64{40}}
	if c, err := coarse.Convert(age, Cell{State: Stated, Value: 1, Raw: "44"}); err != nil || c.Value != 1 {
		t.Errorf("44 is %+v, %v", c, err)
	}
	if _, err := coarse.Convert(age, Cell{State: Stated, Value: 1, Raw: "30 to 45"}); err == nil {
		t.Error("a bin was carried over without its number")
	}
	if c, err := itch.Convert(Attribute{Name: "itch", Kind: Binary, Values: []string{"absent", "present"}}, Cell{State: Stated, Value: 1}); err != nil || c.Value != 1 {
		t.Errorf("a binary value is %+v, %v", c, err)
	}
	if _, err := itch.Convert(region, Cell{State: Stated, Value: 1}); err == nil || !strings.Contains(err.Error(), "categorical here and binary") {
		t.Errorf("another kind: %v", err)
	}
}

func TestFromColumnsRefusesWrongKinds(t *testing.T) {
	training := columnsOf([]string{"a"}, []string{"x"}, []string{"y"})
	for _, k := range []Kind{Binary, Numeric, "colour"} {
		if _, _, err := FromColumns(training, 2, Options{Kinds: map[string]Kind{"a": k}}); err == nil {
			t.Errorf("kind %s accepted for words", k)
		}
	}
	if _, _, err := FromColumns(columnsOf([]string{"a"}), 0, Options{}); err == nil {
		t.Error("a table without rows gave a schema")
	}
}

// Reference: numpy.quantile([1..10], [.2,.4,.6,.8]) = 2.8 4.6 6.4 8.2; the edges
// are the next values present.
func TestQuantileEdgesOfOneToTen(t *testing.T) {
	v := []float64{10, 9, 8, 7, 6, 5, 4, 3, 2, 1}
	if diff := cmp.Diff([]float64{3, 5, 7, 9}, QuantileEdges(v, 5)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]float64{1.5}, QuantileEdges([]float64{1, 2, 2, 1}, 5)); diff != "" {
		t.Error(diff)
	}
	if got := QuantileEdges([]float64{7, 7}, 5); got != nil {
		t.Errorf("edges %v of a constant column", got)
	}
}

func TestPropertyEveryBinHoldsATrainingValue(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := rapid.SliceOfN(rapid.Float64Range(-1e6, 1e6), 2, 60).Draw(t, "v")
		bins := rapid.IntRange(2, 9).Draw(t, "bins")
		a := Attribute{Name: "x", Kind: Numeric, Edges: QuantileEdges(v, bins)}
		if len(a.Edges) == 0 {
			sort.Float64s(v)
			if v[0] != v[len(v)-1] {
				t.Fatalf("no edges for %v", v)
			}
			return
		}
		if len(a.Edges) >= bins {
			t.Fatalf("%d edges for %d bins", len(a.Edges), bins)
		}
		a.Values = BinLabels(a.Edges)
		if err := (&Schema{[]Attribute{a}}).Validate(); err != nil {
			t.Fatal(err)
		}
		held := make([]int, len(a.Values))
		for _, x := range v {
			held[a.Bin(x)]++
		}
		for k, n := range held {
			if n == 0 {
				t.Fatalf("bin %d of %v is empty", k, a.Edges)
			}
		}
	})
}

func TestPropertyCellsSurviveTheTable(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := rapid.SampledFrom([]Attribute{itch, region, age}).Draw(t, "a")
		text := rapid.OneOf(
			rapid.SampledFrom(a.Values),
			rapid.SampledFrom([]string{"", "no", "yes", "0", "1", "-1", "33", "possibly back", "scalp", "?face", "possibly 12"}),
			rapid.Map(rapid.Float64Range(-100, 100), func(f float64) string { return fmt.Sprint(f) }),
		).Draw(t, "text")
		c, err := ParseCell(a, text)
		if err != nil {
			return
		}
		back, err := ParseCell(a, FormatCell(a, c))
		if err != nil {
			t.Fatal(err)
		}
		if back.State != c.State || back.Value != c.Value {
			t.Fatalf("%s=%q: %+v became %+v by %q", a.Name, text, c, back, FormatCell(a, c))
		}
	})
}

func FuzzParseCell(f *testing.F) {
	for _, s := range []string{"", "no", "possibly ", "?", "??", "1e309", "30 to 45", "\x00", "-1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, a := range []Attribute{itch, region, age} {
			c, err := ParseCell(a, text)
			if err == nil && c.Value >= len(a.Values) {
				t.Fatalf("value %d of %d", c.Value, len(a.Values))
			}
			if (c.State == Unmentioned) != (Prompt(a, c) == "") {
				t.Fatalf("state %v has prompt %q", c.State, Prompt(a, c))
			}
		}
	})
}

func FuzzSchemaJSON(f *testing.F) {
	f.Add([]byte(`{"schema_version":1,"attributes":[{"name":"a","kind":"numeric","values":["x","y"],"edges":[1]}]}`))
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var s Schema
		if json.Unmarshal(data, &s) == nil {
			if err := s.Validate(); err != nil {
				t.Fatalf("an invalid schema was accepted: %v", err)
			}
		}
	})
}

func TestWhatReportsOnlyStateOrOnlyDenyIsAnAttributeWhereOthersAreSilent(t *testing.T) {
	for name, test := range map[string]struct {
		cells []string
		left  bool
	}{
		"only stated":         {[]string{"yes", "", "yes"}, false},
		"only denied":         {[]string{"", "no", ""}, false},
		"only uncertain":      {[]string{"uncertain", "", ""}, false},
		"the same everywhere": {[]string{"yes", "yes", "yes"}, true},
		"nothing said":        {[]string{"", "", ""}, true},
	} {
		var rows [][]string
		for i, c := range test.cells {
			rows = append(rows, []string{c, []string{"yes", "no", "yes"}[i]})
		}
		s, skipped, err := FromColumns(columnsOf([]string{"effusion", "other"}, rows...), len(rows), Options{})
		if err != nil {
			t.Fatal(name, err)
		}
		if left := len(skipped) == 1 && skipped[0].Column == "effusion"; left != test.left {
			t.Errorf("%s: left out %v (%v), want %v", name, left, skipped, test.left)
		}
		if a := s.Attributes[0]; !test.left && (a.Kind != Binary || len(a.Values) != 2) {
			t.Errorf("%s: %+v, want no and yes", name, a)
		}
	}
}

func TestEveryWordForYesAndNo(t *testing.T) {
	a := Attribute{Name: "a", Kind: Binary, Values: []string{"no", "yes"}}
	for want, words := range map[int][]string{
		0: {"0", "no", "n", "false", "f", "absent", "negative", "neg", "No", "ABSENT"},
		1: {"1", "yes", "y", "true", "t", "present", "positive", "pos", "Yes"},
	} {
		for _, word := range words {
			if cell, err := ParseCell(a, word); err != nil || int(cell.Value) != want {
				t.Errorf("%q is value %d (%v), want %d", word, cell.Value, err, want)
			}
		}
	}
}

func TestIndexOfAnUnknownAttribute(t *testing.T) {
	s := &Schema{Attributes: []Attribute{{Name: "a"}, {Name: "b"}}}
	for name, want := range map[string]int{"a": 0, "b": 1, "c": -1, "": -1} {
		if got := s.Index(name); got != want {
			t.Errorf("index of %q is %d, want %d", name, got, want)
		}
	}
}
