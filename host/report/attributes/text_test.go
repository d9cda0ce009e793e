package attributes

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/alignedfusion/alignedfusion/host/report/schema"
)

const written = `id,findings,impression
a,"Mass in the left kidney.
It enhances, cf. the 3.5 cm cyst of 2019.",Suspicious.
b,,No mass.
c,,
`

// prompts are what a text encoder is shown of each report, token by token.
func prompts(t *testing.T, r *Reports) map[string][]string {
	t.Helper()
	out := map[string][]string{}
	for n, id := range r.Table.IDs {
		out[id] = []string{}
		for k, a := range r.Table.Schema.Attributes {
			out[id] = append(out[id], schema.Prompt(a, r.Table.Cells[n][k]))
		}
	}
	return out
}

// A token is a sentence or the whole report, as it is written; what is not there is unmentioned.
func TestReportsAreTokensAsTheyAreWritten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "reports.csv")
	if err := os.WriteFile(path, []byte(written), 0o644); err != nil {
		t.Fatal(err)
	}
	load := func(sentences bool, s *schema.Schema) *Reports {
		r, err := LoadText(t.Context(), path, sentences, s)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Table.Schema.Validate(); err != nil {
			t.Fatal(err)
		}
		return r
	}
	const first, second = "Mass in the left kidney.", "It enhances, cf. the 3.5 cm cyst of 2019."
	whole, each := load(false, nil), load(true, nil)
	if diff := cmp.Diff(map[string][]string{"a": {first + " " + second + " Suspicious."}, "b": {"No mass."}, "c": {""}}, prompts(t, whole)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(map[string][]string{"a": {first, second, "Suspicious."}, "b": {"No mass.", "", ""}, "c": {"", "", ""}}, prompts(t, each)); diff != "" {
		t.Error(diff)
	}
	if whole.SHA256 != each.SHA256 || whole.SHA256 == "" {
		t.Errorf("hashes %q and %q of one file", whole.SHA256, each.SHA256)
	}
	if cell := each.Table.Cells[1][0]; cell.Known() || cell.State != schema.Stated {
		t.Errorf("%+v: a sentence is said, and is no value that could be reconstructed", cell)
	}
	two := &schema.Schema{Attributes: append(each.Table.Schema.Attributes[:2:2], schema.Attribute{Name: "age", Kind: schema.Numeric})}
	if got := prompts(t, load(true, two))["a"]; !cmp.Equal(got, []string{first, second + " Suspicious."}) {
		t.Errorf("with two tokens: %q", got)
	}
	if _, err := LoadText(t.Context(), filepath.Join(filepath.Dir(path), "none.csv"), false, nil); err == nil || !strings.Contains(err.Error(), "none.csv") {
		t.Errorf("no file: %v", err)
	}
}
