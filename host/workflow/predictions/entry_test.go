package predictions

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/alignedfusion/alignedfusion/host/dataset"
	"github.com/alignedfusion/alignedfusion/sdk"
)

// An entry has the challenge's columns in its order; a class that the run does not know is 0.
func TestAnEntryHasTheChallengesColumns(t *testing.T) {
	set := Set{Task: "classify", Labels: []sdk.LabelSet{{Name: "label", Classes: []string{"BCC", "MEL"}}},
		Predictions: []Prediction{{Case: &dataset.Case{ID: "IL_1"}, Probabilities: [][]float64{{0.25, 0.75}}}}}
	entry := &dataset.Entry{Key: "lesion_id", Columns: []dataset.EntryColumn{{Name: "MEL", Class: "MEL"}, {Name: "NV", Class: "NV"}, {Name: "BCC", Class: "BCC"}}}
	path := filepath.Join(t.TempDir(), "entry.csv")
	if err := WriteEntry(path, entry, set); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(path); string(got) != "lesion_id,MEL,NV,BCC\nIL_1,0.75,0,0.25\n" {
		t.Errorf("%s", got)
	}
	set.Labels[0].Classes = []string{"dark", "bright"}
	if err := WriteEntry(path, entry, set); err == nil || !strings.Contains(err.Error(), "none of the challenge's") {
		t.Errorf("error %v", err)
	}
}
