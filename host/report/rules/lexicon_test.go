package rules

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestChestXRayHasFourteenFindingsAndNormal(t *testing.T) {
	c, err := OpenLexicon(ChestXRay)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia", "Pneumothorax",
		"Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural_Thickening", "Hernia", "normal"}
	if diff := cmp.Diff(want, c.Schema.Names()); diff != "" {
		t.Error(diff)
	}
	if len(c.Hash()) != 64 {
		t.Errorf("hash %q", c.Hash())
	}
}

func TestSensesOfPhrases(t *testing.T) {
	c, err := OpenLexicon(ChestXRay)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		attribute, in string
		want          []sense
	}{
		{"Cardiomegaly", "heart size is normal", []sense{absent}},
		{"Cardiomegaly", "heart size at the upper limits of normal", []sense{absent}},
		{"Cardiomegaly", "enlarged cardiac silhouette", []sense{borderline}},
		{"Cardiomegaly", "heart is mildly enlarged", []sense{mention}},
		{"Cardiomegaly", "heart is not significantly enlarged", []sense{absent}},
		{"Effusion", "pericardial effusion", nil},
		{"Effusion", "pleural effusions", []sense{mention}},
		{"Emphysema", "subcutaneous emphysema", nil},
		{"Fibrosis", "cystic fibrosis", nil},
		{"Hernia", "hiatal hernia", nil},
	} {
		tokens := Tokenize(tc.in)
		var got []sense
		for _, f := range c.match[c.Schema.Index(tc.attribute)].find(tokens, Span{Start: 0, End: len(tokens)}) {
			got = append(got, f.sense)
		}
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("%s in %q: %s", tc.attribute, tc.in, diff)
		}
	}
}

func TestJSONIsReadAsWell(t *testing.T) {
	path := filepath.Join(t.TempDir(), "own.json")
	data := `{"lexicon_version": 1, "attributes": [{"name": "side", "kind": "categorical", "near": ["effusion"],
	  "values": [{"name": "left", "mentions": ["left"]}, {"name": "right", "mentions": ["right"]}]}]}`
	if err := os.WriteFile(path, []byte(data), 0o644); err != nil {
		t.Fatal(err)
	}
	c, err := OpenLexicon(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"left", "right"}, c.Schema.Attributes[0].Values); diff != "" {
		t.Error(diff)
	}
}

func TestParseRefusesBadLexicons(t *testing.T) {
	entry := func(s string) string { return "lexicon_version: 1\nattributes:\n  - " + s }
	for _, c := range []struct{ lexicon, want string }{
		{"lexicon_version: 3", "want 1"},
		{"lexicon_version: 1", "no attributes"},
		{"lexicon_version: 1\nattribute: []", "unknown field"},
		{entry("{name: a, kind: binary}"), "no mentions"},
		{entry("{name: a, kind: colour, mentions: [x]}"), "kind"},
		{entry("{name: a, kind: binary, mentions: [x, x]}"), "listed twice"},
		{entry("{name: a, kind: binary, mentions: ['_ x']}"), "starts with _"},
		{entry("{name: a, kind: categorical, values: [{name: v, mentions: [x]}]}"), "at least 2"},
		{entry("{name: a, kind: categorical, values: [{name: v}, {name: w, mentions: [x]}]}"), "no mentions"},
		{entry("{name: a, kind: numeric, near: [x], unit_mm: 1}"), "edges"},
		{entry("{name: a, kind: numeric, near: [x], unit_mm: 1, edges: [2, 1]}"), "not above"},
		{entry("{name: a, kind: binary, mentions: [x]}\n  - {name: A, kind: binary, mentions: [y]}"), "already used"},
		{entry("{name: a, kind: categorical, nothing_else: true, values: [{name: v, mentions: [x]}, {name: w, mentions: [y]}]}"), "nothing_else"},
	} {
		if _, err := ParseLexicon([]byte(c.lexicon)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: error %v, want one with %q", c.lexicon, err, c.want)
		}
	}
	if _, err := OpenLexicon("testdata/none.yaml"); err == nil || !strings.Contains(err.Error(), ChestXRay) {
		t.Errorf("a missing file: %v does not name the embedded lexicon", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(chestXRay)
	f.Add([]byte("lexicon_version: 1\nattributes: [{name: a, kind: numeric, near: [x], unit_mm: 1, edges: [1]}]"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := ParseLexicon(data)
		if err != nil {
			return
		}
		tokens := Tokenize("no heart x enlarged")
		for _, m := range c.match {
			m.find(tokens, Span{Start: 0, End: len(tokens)})
		}
	})
}
