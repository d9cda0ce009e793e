package workflow

import "testing"

// The words by which the SDKs for Go and Python of before train.ema refuse it, and no others.
func TestRefusalsOfAveragedWeightsAreKnown(t *testing.T) {
	for text, want := range map[string]bool{
		`plugin itfusion: fusion fusion: open: optimizer adamw has no value "ema"`: true,
		`plugin mine: head mine: open: optimizer sgd has no value ema`:             true,
		`plugin mine: head mine: open: optimizer sgd has no value "emax"`:          false,
		`plugin mine: head mine: open: optimizer sgd has no value "beta1"`:         false,
	} {
		if got := noAverages.MatchString(text); got != want {
			t.Errorf("%s: %v", text, got)
		}
	}
}
