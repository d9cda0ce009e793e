package pipeline

import (
	"slices"
	"testing"

	"github.com/alignedfusion/alignedfusion/sdk"
)

// A picture that a case lacks must change nothing, whatever stands in its place: neither
// what is said of the case nor what the encoder learns.
func TestWhatStandsInTheAbsentPicturesPlaceChangesNothing(t *testing.T) {
	learn := func(b Batch) (float64, map[sdk.Kind]float64) {
		t.Helper()
		p := openClassifier(t, true, nil)
		run, err := p.Learn(t.Context(), ForwardOptions{Seed: 1, Absent: b.Absent}, b.Inputs, BackwardOptions{Scale: 1, GradNorms: true})
		if err != nil {
			t.Fatal(err)
		}
		return run.Loss(nil), run.GradNorms
	}
	one, other := batch(3, 1), batch(3, 1)
	size := len(one.Inputs["image.rgb"].Data) / 3
	copy(other.Inputs["image.rgb"].Data[size:2*size], other.Inputs["image.rgb"].Data[:size])
	whole, _ := learn(one)
	if changed, _ := learn(other); changed == whole {
		t.Fatal("the loss does not depend on the picture: this test could not fail")
	}
	for _, b := range []*Batch{&one, &other} {
		b.Absent = map[string][]bool{"tokens.rgb": {false, true, false}}
	}
	loss, norms := learn(one)
	if l, n := learn(other); l != loss || n[sdk.KindEncoder] != norms[sdk.KindEncoder] {
		t.Errorf("loss %g and gradient %v with one picture in the place, %g and %v with another", loss, norms, l, n)
	}
	if loss == whole {
		t.Error("the loss is that of the whole case")
	}
}

func TestNoGradientGoesBackToAnEncoderThatSawNothing(t *testing.T) {
	p := openClassifier(t, true, nil)
	b := batch(2, 1)
	run, err := p.Learn(t.Context(), ForwardOptions{Seed: 1, Absent: map[string][]bool{"tokens.rgb": {true, true}, "tokens.depth": {true, true}}},
		b.Inputs, BackwardOptions{Scale: 1, GradNorms: true})
	if err != nil {
		t.Fatal(err)
	}
	if run.GradNorms[sdk.KindEncoder] != 0 || !(run.GradNorms[sdk.KindHead] > 0) {
		t.Errorf("gradient norms %v, want 0 for the encoder alone", run.GradNorms)
	}
	// What the fusion makes of the absent modality is not blanked, once it has learned something.
	if _, err := (&Stepper{Pipeline: p, Seed: 1}).Step(t.Context(), 0, []Batch{b}, rates(1)); err != nil {
		t.Fatal(err)
	}
	run, err = p.Forward(t.Context(), ForwardOptions{Absent: map[string][]bool{"tokens.rgb": {true, true}}}, b.Inputs)
	if err != nil {
		t.Fatal(err)
	}
	if v, err := run.Outputs["tokens.rgb"].Float32s(); err != nil || !slices.ContainsFunc(v, func(x float32) bool { return x != 0 }) {
		t.Errorf("the fusion's tokens are %v (%v), want some that are not 0", v, err)
	}
	_, err = p.Forward(t.Context(), ForwardOptions{Absent: map[string][]bool{"tokens.rgb": {true}}}, b.Inputs)
	if err == nil {
		t.Error("one flag for two cases was accepted")
	}
}
