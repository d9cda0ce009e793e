package attributes

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/alignedfusion/alignedfusion/host/report/rules"
	"github.com/alignedfusion/alignedfusion/host/report/schema"
)

// Reports that come as text are read with the lexicon named, else with the one that knows the
// most of the schema's attributes, else with chest-xray.
func TestTheLexiconOfReportsIsTheOneNamedOrTheSchemas(t *testing.T) {
	path := filepath.Join(t.TempDir(), "reports.csv")
	if err := os.WriteFile(path, []byte("id,report\na,There is a 9 mm nodule in the right upper lobe.\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	ct, err := rules.OpenLexicon("ct-lesion")
	if err != nil {
		t.Fatal(err)
	}
	unknown := schema.Schema{Attributes: slices.Clone(ct.Schema.Attributes[:1])}
	unknown.Attributes[0].Name = "of_nobody"
	for _, test := range []struct {
		lexicon string
		s       *schema.Schema
		has     string // an attribute of the table, or words of the error
	}{
		{"", nil, "Nodule"}, {"ct-lesion", nil, "lobe"}, {"", &ct.Schema, "lobe"},
		{"chest-xray", &ct.Schema, "chest-xray knows none of the schema's attributes"},
		{"", &unknown, "knows none of the schema's attributes"},
	} {
		r, err := Load(t.Context(), path, test.lexicon, test.s)
		if err != nil {
			if !strings.Contains(err.Error(), test.has) {
				t.Errorf("%q: %v", test.lexicon, err)
			}
		} else if !slices.Contains(r.Table.Schema.Names(), test.has) {
			t.Errorf("%q: %q, want %s", test.lexicon, r.Table.Schema.Names(), test.has)
		}
	}
}
