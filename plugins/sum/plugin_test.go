package sum_test

import (
	"maps"
	"math"
	"slices"
	"testing"

	"github.com/alignedfusion/alignedfusion/plugins/internal/stagetest"
	"github.com/alignedfusion/alignedfusion/plugins/sum"
	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

func open(t *testing.T, f *stagetest.Fixture, more map[string]string) *stagetest.Stage {
	t.Helper()
	set := f.Settings()
	set["weights"] = stagetest.WriteWeights(t, f.Group("param."))
	maps.Copy(set, more)
	return stagetest.Open(t, sum.Plugin(), sdk.OpenRequest{
		Stage: "fusion", Settings: set, Train: true, Inputs: f.Ports(), AttributeSchema: []byte(f.Metadata["schema"]),
	})
}

func TestAgreesWithPyTorch(t *testing.T) {
	f := stagetest.Read(t, "testdata/sum.safetensors")
	s := open(t, f, nil)
	in := f.Group("in.")
	for mode, r := range map[string]*sdk.ForwardResponse{"eval": s.Eval(in), "train": s.Train(1, in)} {
		for port, want := range f.Group("out.") {
			stagetest.Near(t, mode+" "+port, r.Outputs[port], want, 1e-5)
		}
	}
	got := s.Backward(f.Group("grad.out."), nil)
	stagetest.Near(t, "gradient of tokens.image", got["tokens.image"], f.Tensors["grad.in.tokens.image"], 1e-4)
}

// In training a case's tokens of a modality are zeroed as a whole, with the probability
// that is set, and nothing is learned from them; otherwise nothing changes.
func TestModalityDropoutZeroesWholeCases(t *testing.T) {
	const p, draws, port = 0.3, 200, "tokens.image"
	f := stagetest.Read(t, "testdata/sum.safetensors")
	in := f.Group("in.")
	cases := int(in[port].Shape[0])
	size := in[port].Len() / cases
	never := open(t, f, nil)
	plain := stagetest.Floats(t, never.Eval(in).Outputs[port])
	without := maps.Clone(in)
	without[port] = tensor.OfFloat32s(make([]float32, in[port].Len()), in[port].Shape...)
	zeroed := stagetest.Floats(t, never.Eval(without).Outputs[port])

	s := open(t, f, map[string]string{"modality_dropout": "0.3"})
	if got := stagetest.Floats(t, s.Eval(in).Outputs[port]); !slices.Equal(got, plain) {
		t.Error("prediction differs with modality_dropout")
	}
	dropped := 0
	for seed := range uint64(draws) {
		got := stagetest.Floats(t, s.Train(seed, in).Outputs[port])
		grad := stagetest.Floats(t, s.Backward(f.Group("grad.out."), nil)[port])
		for i := range cases {
			part := func(v []float32) []float32 { return v[i*size : (i+1)*size] }
			learns := slices.ContainsFunc(part(grad), func(v float32) bool { return v != 0 })
			switch {
			case slices.Equal(part(got), part(plain)):
				if !learns {
					t.Fatalf("seed %d, case %d: kept, but its gradient is zero", seed, i)
				}
			case slices.Equal(part(got), part(zeroed)):
				if dropped++; learns {
					t.Fatalf("seed %d, case %d: zeroed, but it has a gradient", seed, i)
				}
			default:
				t.Fatalf("seed %d, case %d: neither kept nor zeroed", seed, i)
			}
		}
	}
	n := float64(draws * cases)
	if share := float64(dropped) / n; math.Abs(share-p) > 4*math.Sqrt(p*(1-p)/n) {
		t.Errorf("%.3f of the cases were zeroed, want %g", share, p)
	}
}
