package feed

import (
	"slices"
	"testing"

	"github.com/alignedfusion/alignedfusion/host/config"
	"github.com/alignedfusion/alignedfusion/host/report/rules"
)

// report.lexicon takes the lexicons that there are.
func TestChoicesOfTheLexiconAreTheBuiltInOnes(t *testing.T) {
	if got, want := config.Lexicon("").Choices()[1:], rules.Names(); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}
