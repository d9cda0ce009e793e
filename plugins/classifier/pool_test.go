package classifier_test

import (
	"math"
	"slices"
	"testing"

	"github.com/alignedfusion/alignedfusion/plugins/classifier"
	"github.com/alignedfusion/alignedfusion/plugins/internal/stagetest"
	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

// pooled opens a head of one modality with a pool and returns its weights and the tokens that it
// is shown, [N,T,C].
func pooled(t *testing.T, settings map[string]string) (*stagetest.Stage, map[string][]float32, *tensor.Tensor) {
	t.Helper()
	s := stagetest.Open(t, classifier.Plugin(), sdk.OpenRequest{Stage: "head", Settings: settings, Train: true, Seed: 5,
		Inputs: []sdk.Port{{Name: "tokens.patch", DType: tensor.FP32, Shape: []string{"N", "P", "3"}}},
		Labels: []sdk.LabelSet{{Name: "label", Classes: []string{"a", "b"}}}})
	weights := map[string][]float32{}
	for name, x := range s.Weights() {
		weights[name] = stagetest.Floats(t, x)
	}
	return s, weights, stagetest.Random(7, 2, 5, 3)
}

func dot(a, b []float32) (sum float64) {
	for i := range a {
		sum += float64(a[i]) * float64(b[i])
	}
	return sum
}

// scores of the tokens of one case by what the pool has learned, as its equation has them.
var scores = map[string]func(w map[string][]float32, h []float32) float64{
	"mean": func(map[string][]float32, []float32) float64 { return 0 },
	"gated": func(w map[string][]float32, h []float32) (score float64) { // Ilse et al. 2018, eq. 9
		for l, v := range w["pool.patch.w.weight"] {
			score += float64(v) * math.Tanh(dot(w["pool.patch.v.weight"][3*l:3*l+3], h)) / (1 + math.Exp(-dot(w["pool.patch.u.weight"][3*l:3*l+3], h)))
		}
		return score
	},
	"topk": func(w map[string][]float32, h []float32) float64 {
		return dot(w["pool.patch.score.weight"], h) + float64(w["pool.patch.score.bias"][0])
	},
}

// The weights of the tokens are those of the equation, and sum to 1; of topk the others are 0.
func TestPoolsWeighTokensByTheirEquations(t *testing.T) {
	for kind, score := range scores {
		s, w, h := pooled(t, map[string]string{"pool": kind, "pool_width": "4", "topk": "2"})
		got := attention(t, s, h)
		tokens := stagetest.Floats(t, h)
		for i := range 2 {
			var all []float64
			for k := range 5 {
				all = append(all, score(w, tokens[(i*5+k)*3:(i*5+k)*3+3]))
			}
			least := slices.Sorted(slices.Values(all))[0]
			if kind == "topk" {
				least = slices.Sorted(slices.Values(all))[3]
			}
			sum := 0.0
			for _, v := range all {
				if v >= least {
					sum += math.Exp(v)
				}
			}
			for k, v := range all {
				want := math.Exp(v) / sum
				if v < least {
					want = 0
				}
				if d := math.Abs(float64(got[i*5+k]) - want); d > 1e-6 {
					t.Errorf("%s: case %d, token %d has the weight %g, want %g", kind, i, k, got[i*5+k], want)
				}
			}
		}
	}
}

func attention(t *testing.T, s *stagetest.Stage, h *tensor.Tensor) []float32 {
	t.Helper()
	r, err := s.Stage.Forward(t.Context(), &sdk.ForwardRequest{Context: 99, Inputs: map[string]*tensor.Tensor{"tokens.patch": h}, Wanted: map[string]bool{"weighting.patch": true},
		NewOutput: func(_ string, dtype tensor.DType, shape ...int64) (*tensor.Tensor, error) {
			return tensor.New(dtype, shape...)
		}})
	if err != nil {
		t.Fatal(err)
	}
	return stagetest.Floats(t, r.Outputs["weighting.patch"])
}

// What a patch adds does not depend on its place in the bag, and the gradients of the tokens are
// those of finite differences, in every pool.
func TestPoolsForgetOrderAndHaveTheirGradients(t *testing.T) {
	for _, kind := range []string{"mean", "max", "gated", "topk"} {
		s, _, h := pooled(t, map[string]string{"pool": kind, "pool_width": "4", "topk": "2"})
		values := stagetest.Floats(t, h)
		logits := func(v []float32) []float32 {
			return stagetest.Floats(t, s.Eval(map[string]*tensor.Tensor{"tokens.patch": tensor.OfFloat32s(v, 2, 5, 3)}).Outputs["logits"])
		}
		turned := slices.Clone(values)
		for i := range 2 {
			for k := range 5 {
				copy(turned[(i*5+k)*3:], values[(i*5+(k+2)%5)*3:(i*5+(k+2)%5)*3+3])
			}
		}
		stagetest.Near(t, kind+" turned", tensor.OfFloat32s(logits(turned), 2, 2), tensor.OfFloat32s(logits(values), 2, 2), 1e-5)

		s.Train(1, map[string]*tensor.Tensor{"tokens.patch": h})
		up := []float32{1, -0.5, 0.25, 2}
		got := stagetest.Floats(t, s.Backward(map[string]*tensor.Tensor{"logits": tensor.OfFloat32s(up, 2, 2)}, nil)["tokens.patch"])
		want := make([]float32, len(values))
		const step = 1e-2
		for i := range values {
			at := func(d float32) float64 {
				v := slices.Clone(values)
				v[i] += d
				return dot(up, logits(v))
			}
			want[i] = float32((at(step) - at(-step)) / (2 * step))
		}
		stagetest.Near(t, kind+" gradient", tensor.OfFloat32s(got, 2, 5, 3), tensor.OfFloat32s(want, 2, 5, 3), 2e-2)
	}
}

// A bag's tokens are those of its patches as pictures, each the mean over its map.
func TestABagIsItsPatches(t *testing.T) {
	set := map[string]string{"width": "4", "layers": "2"}
	bag := stagetest.Formula("in.bag", []int64{2, 3, 3, 16, 16})
	req := request(set)
	req.Inputs = []sdk.Port{{Name: "bag.patch", DType: tensor.FP32, Shape: []string{"N", "P", "3", "H", "W"}}}
	got := stagetest.Open(t, classifier.Plugin(), req).Eval(map[string]*tensor.Tensor{"bag.patch": bag}).Outputs["tokens.patch"]
	alone := encoder(t, set, "patch").Eval(map[string]*tensor.Tensor{"image.patch": tensor.OfFloat32s(stagetest.Floats(t, bag), 6, 3, 16, 16)}).Outputs["tokens.patch"]
	want := make([]float32, 6*8)
	for i, v := range stagetest.Floats(t, alone) {
		want[i/(16*8)*8+i%8] += v / 16
	}
	stagetest.Near(t, "tokens", got, tensor.OfFloat32s(want, 2, 3, 8), 1e-5)
}
