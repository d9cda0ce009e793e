package pipeline

import (
	"context"
	"maps"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

// Tokens that the host brings stand for the encoder: losses, outputs and the gradients
// of the other stages are those of the images, and the encoder is not called.
func TestGivenTokensStandForTheEncoder(t *testing.T) {
	ctx := context.Background()
	p := openClassifier(t, true, map[string]string{"noise": "0", "frozen": "true"})
	defer p.Close()
	b := batch(3, 1)
	type outcome struct {
		Losses map[string]float64
		Norms  []float64
	}
	run := func(inputs map[string]*tensor.Tensor) outcome {
		t.Helper()
		for _, m := range p.Members {
			if err := m.Instance.ZeroGrad(ctx); err != nil {
				t.Fatal(err)
			}
		}
		r, err := p.Forward(ctx, ForwardOptions{Train: true, Seed: 5}, inputs)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Backward(ctx, BackwardOptions{Scale: 1}); err != nil {
			t.Fatal(err)
		}
		out := outcome{Losses: r.Losses}
		for _, m := range p.Members[1:] {
			norm, err := m.Instance.GradNorm(ctx)
			if err != nil {
				t.Fatal(err)
			}
			out.Norms = append(out.Norms, norm)
		}
		return out
	}
	want := run(b.Inputs)
	alone := &Pipeline{Members: p.Members[:1]}
	r, err := alone.Forward(ctx, ForwardOptions{}, b.Inputs)
	if err != nil {
		t.Fatal(err)
	}
	given := maps.Clone(b.Inputs)
	for name := range b.Inputs {
		if strings.HasPrefix(name, "image.") {
			delete(given, name)
			given["tokens."+strings.TrimPrefix(name, "image.")] = r.Outputs["tokens."+strings.TrimPrefix(name, "image.")]
		}
	}
	if len(p.Member(sdk.KindEncoder).Makes()) == 0 {
		t.Fatal("the encoder names no tokens")
	}
	if diff := cmp.Diff(want, run(given)); diff != "" {
		t.Errorf("given tokens (-images +tokens): %s", diff)
	}
}
