package rules

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/alignedfusion/alignedfusion/host/report/schema"
	"github.com/alignedfusion/alignedfusion/internal/table"
)

// TestUnseenSentences counts what comes out right of sentences that were written before
// the rules, by their author, who saw once which of them failed; -v says the figures.
func TestUnseenSentences(t *testing.T) {
	sentences, err := table.Read("testdata/unseen/sentences.csv")
	if err != nil {
		t.Fatal(err)
	}
	extractors := map[string]Extractor{"chest": extractor(t, "")}
	for _, name := range []string{"ct", "skin"} {
		data, err := os.ReadFile(filepath.Join("testdata", "unseen", name+".yaml"))
		if err != nil {
			t.Fatal(err)
		}
		extractors[name] = extractor(t, string(data))
	}
	type count struct{ right, all int }
	counts := map[string]*count{"all": {}, "size": {}}
	for _, row := range sentences.Rows {
		get := func(name string) string { return sentences.Get(row, name) }
		x := extractors[get("lexicon")]
		i := x.Lexicon.Schema.Index(get("attribute"))
		c := x.Extract(one(strings.ReplaceAll(get("text"), `\n`, "\n")))[i]
		kind := get("kind")
		if counts[kind] == nil {
			counts[kind] = &count{}
		}
		right := asWord(c.State) == get("state")
		if v := get("value"); v != "" {
			a := x.Lexicon.Schema.Attributes[i]
			right = right && strings.TrimPrefix(schema.FormatCell(a, c), "possibly ") == v
		}
		for _, n := range []string{kind, "all"} {
			counts[n].all++
			if right {
				counts[n].right++
			}
		}
	}
	for kind, n := range counts {
		t.Logf("%-12s %3d of %3d", kind, n.right, n.all)
	}
	if n := counts["all"]; float64(n.right) < 0.95*float64(n.all) {
		t.Errorf("%d of %d right", n.right, n.all)
	}
}

func asWord(s schema.State) string {
	return [...]string{schema.Unmentioned: "unmentioned", schema.Stated: "stated", schema.Negated: "negated", schema.Uncertain: "uncertain"}[s]
}
