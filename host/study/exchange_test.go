package study

import (
	"strings"
	"testing"
)

func TestExchangePrintsALinePerFusionAndAColumnPerSet(t *testing.T) {
	_, table := fabricated(t)
	var text strings.Builder
	all := &ExchangeTable{Cases: 512, Dials: []Dial{{"lookup", 0, table}, {"additive", 12, table}}}
	if err := all.Write(&text); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"trained on 512 cases", "lookup, 0 noise", "additive, 12 noise", "\nsum ", "\nitfusion "} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("no %q in\n%s", want, &text)
		}
	}
	for name, o := range map[string]ExchangeOptions{
		"--contexts":     {Contexts: "look", NoiseTokens: "0", Cases: 100},
		"--noise-tokens": {Contexts: "lookup", NoiseTokens: "few", Cases: 100},
		"--cases 2":      {Contexts: "lookup", NoiseTokens: "0", Cases: 2},
		"--patients 100": {Contexts: "lookup", NoiseTokens: "0", Cases: 80, Patients: 100},
	} {
		o.Dir = t.TempDir()
		if _, err := Exchange(t.Context(), o); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
