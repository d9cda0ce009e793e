package itfusion_test

import (
	"maps"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/alignedfusion/alignedfusion/plugins/internal/stagetest"
	"github.com/alignedfusion/alignedfusion/plugins/itfusion"
	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

// request opens the stage for a fixture's inputs, weights and settings; more
// overrides settings.
func request(t testing.TB, f *stagetest.Fixture, more map[string]string) sdk.OpenRequest {
	t.Helper()
	set := f.Settings()
	set["weights"] = stagetest.WriteWeights(t, f.Group("param."))
	maps.Copy(set, more)
	return sdk.OpenRequest{
		Stage: "fusion", Settings: set, Train: true, Seed: 1, Inputs: f.Ports(), AttributeSchema: []byte(f.Metadata["schema"]),
		Constants: map[string]*tensor.Tensor{"value.embedding": f.Tensors["constant.value.embedding"]},
	}
}

func open(t testing.TB, fixture string, more map[string]string) (*stagetest.Stage, *stagetest.Fixture) {
	t.Helper()
	f := stagetest.Read(t, "testdata/"+fixture+".safetensors")
	return stagetest.Open(t, itfusion.Plugin(), request(t, f, more)), f
}

// with returns inputs in which one tensor is replaced.
func with[T any](inputs map[string]T, name string, x T) map[string]T {
	out := maps.Clone(inputs)
	out[name] = x
	return out
}

// shift adds by to elements [from,to) of an FP32 tensor.
func shift(t testing.TB, x *tensor.Tensor, from, to int, by float32) *tensor.Tensor {
	v := stagetest.Floats(t, x)
	for i := from; i < to; i++ {
		v[i] += by * float32(1+i%3)
	}
	return tensor.OfFloat32s(v, x.Shape...)
}

// oneLayer drops the weights of the second layer, for layers=1.
func oneLayer(t testing.TB, f *stagetest.Fixture) map[string]string {
	weights := map[string]*tensor.Tensor{}
	for name, w := range f.Group("param.") {
		if !strings.HasPrefix(name, "layers.1.") {
			weights[name] = w
		}
	}
	return map[string]string{"layers": "1", "weights": stagetest.WriteWeights(t, weights)}
}

func TestEveryEquationAgreesWithPyTorch(t *testing.T) {
	for _, name := range []string{"base", "bottleneck", "two_pass", "direct"} {
		t.Run(name, func(t *testing.T) {
			s, f := open(t, name, nil)
			for _, mode := range []string{"eval", "train"} {
				var r *sdk.ForwardResponse
				if mode == "eval" {
					r = s.Eval(f.Group("in."))
				} else {
					r = s.Train(1, f.Group("in."))
				}
				for port, want := range f.Group(mode + ".out.") {
					stagetest.Near(t, mode+" "+port, r.Outputs[port], want, 2e-5)
				}
				want := float64(stagetest.Floats(t, f.Tensors[mode+".loss"])[0])
				if got := r.Losses["reconstruction"]; math.Abs(got-want) > 1e-4 {
					t.Errorf("%s: reconstruction loss %g, want %g", mode, got, want)
				}
			}
			got := s.Backward(f.Group("train.grad.out."), map[string]float64{"reconstruction": 0.7})
			for port, want := range f.Group("train.grad.in.") {
				stagetest.Near(t, "gradient of "+port, got[port], want, 1e-4)
			}
			s.StepsByGradients(f.Group("param."), f.Group("train.grad.param."), 1e-4)
		})
	}
}

func TestEq5UnmentionedAttributeBypassesTheTextEncoder(t *testing.T) {
	s, f := open(t, "base", nil)
	in := f.Group("in.")
	r := s.Eval(in)
	e := in["report.embedding"]
	width := int(e.Shape[2])
	// Case 0, attribute 1 is unmentioned; attribute 0 is stated.
	if got := s.Eval(with(in, "report.embedding", shift(t, e, width, 2*width, 3))); !stagetest.Same(got.Outputs["tokens.report"], r.Outputs["tokens.report"]) {
		t.Error("the embedding of an unmentioned attribute has an influence")
	}
	if got := s.Eval(with(in, "report.embedding", shift(t, e, 0, width, 3))); stagetest.Same(got.Outputs["tokens.report"], r.Outputs["tokens.report"]) {
		t.Error("the embedding of a stated attribute has no influence")
	}
}

func TestEq5UnmentionedTokensOfTwoAttributesAreToldApart(t *testing.T) {
	for _, c := range []struct {
		identity string
		apart    bool
	}{{"true", true}, {"false", false}} {
		f := stagetest.Read(t, "testdata/base.safetensors")
		more := map[string]string{"identity": c.identity, "reconstruct": "false"}
		weights := f.Group("param.")
		for name := range weights {
			if strings.HasPrefix(name, "reconstruction.") || c.identity == "false" && name == "report.identity" {
				delete(weights, name)
			}
		}
		more["weights"] = stagetest.WriteWeights(t, weights)
		s := stagetest.Open(t, itfusion.Plugin(), request(t, f, more))
		// In case 2 the attributes region and itch are unmentioned.
		out := s.Eval(f.Group("in.")).Outputs["tokens.report"]
		a, d := int(out.Shape[1]), int(out.Shape[2])
		v := stagetest.Floats(t, out)
		region, itch := v[(2*a+2)*d:(2*a+3)*d], v[(2*a+3)*d:(2*a+4)*d]
		gap := 0.0
		for i := range region {
			gap = max(gap, math.Abs(float64(region[i]-itch[i])))
		}
		if apart := gap > 1e-3; apart != c.apart {
			t.Errorf("identity=%s: two unmentioned attributes differ by %g, want told apart = %v", c.identity, gap, c.apart)
		}
	}
}

func TestEq6SameIntermediateTokenEntersBothTokenSets(t *testing.T) {
	f := stagetest.Read(t, "testdata/base.safetensors")
	run := func(by float32) map[string]*tensor.Tensor {
		more := oneLayer(t, f)
		weights := stagetest.Read(t, more["weights"]).Tensors
		token := weights["intermediate.image+report"]
		weights["intermediate.image+report"] = shift(t, token, 0, token.Len(), by)
		more["weights"] = stagetest.WriteWeights(t, weights)
		return stagetest.Open(t, itfusion.Plugin(), request(t, f, more)).Eval(f.Group("in.")).Outputs
	}
	a, b := run(0), run(0.5)
	for _, port := range []string{"tokens.image", "tokens.report", "joint"} {
		if stagetest.Same(a[port], b[port]) {
			t.Errorf("%s does not depend on the intermediate token after one layer", port)
		}
	}
}

func TestEq7TokenSetsAttendToThemselvesOnly(t *testing.T) {
	f := stagetest.Read(t, "testdata/base.safetensors")
	s := stagetest.Open(t, itfusion.Plugin(), request(t, f, oneLayer(t, f)))
	in := f.Group("in.")
	image := in["tokens.image"]
	a, b := s.Eval(in).Outputs, s.Eval(with(in, "tokens.image", shift(t, image, 0, image.Len(), 1))).Outputs
	if !stagetest.Same(a["tokens.report"], b["tokens.report"]) {
		t.Error("with one layer the image reaches report tokens: they attend to each other directly")
	}
	if stagetest.Same(a["joint"], b["joint"]) {
		t.Error("the image does not reach the intermediate token")
	}
}

func TestEq8IntermediateTokenIsAveragedAndWrittenBack(t *testing.T) {
	// With two layers the averaged token carries the image to the report tokens and
	// the report to the image tokens: it does so only if it was written back.
	s, f := open(t, "base", nil)
	in := f.Group("in.")
	image, report := in["tokens.image"], in["report.embedding"]
	base := s.Eval(in).Outputs
	if got := s.Eval(with(in, "tokens.image", shift(t, image, 0, image.Len(), 1))).Outputs; stagetest.Same(base["tokens.report"], got["tokens.report"]) {
		t.Error("the image does not reach the report tokens in two layers")
	} else if stagetest.Same(base["reconstruction"], got["reconstruction"]) {
		t.Error("the image has no influence on the reconstruction")
	}
	if got := s.Eval(with(in, "report.embedding", shift(t, report, 0, report.Len(), 1))).Outputs; stagetest.Same(base["tokens.image"], got["tokens.image"]) {
		t.Error("the report does not reach the image tokens in two layers")
	}
}

func TestEq8StartLayerKeepsModalitiesApartBefore(t *testing.T) {
	// Three layers with intermediate tokens in the last one only: as with one layer,
	// the image cannot reach the report.
	f := stagetest.Read(t, "testdata/bottleneck.safetensors")
	s := stagetest.Open(t, itfusion.Plugin(), request(t, f, map[string]string{"start_layer": "2"}))
	in := f.Group("in.")
	image := in["tokens.image"]
	a, b := s.Eval(in).Outputs, s.Eval(with(in, "tokens.image", shift(t, image, 0, image.Len(), 1))).Outputs
	if !stagetest.Same(a["tokens.report"], b["tokens.report"]) {
		t.Error("the image reaches the report though only the last layer has intermediate tokens")
	}
	if stagetest.Same(a["joint"], b["joint"]) {
		t.Error("the image does not reach the intermediate tokens")
	}
}

func TestEq9KnownAttributesAreMaskedWithProbabilityP(t *testing.T) {
	s, f := open(t, "base", map[string]string{"mask_probability": "0.3"})
	in := f.Group("in.")
	// In the fixture 7 cells are stated or negated with a value; one is uncertain.
	const known, draws, p = 7, 600, 0.3
	total := 0.0
	for seed := range uint64(draws) {
		total += s.Train(seed, in).Metrics["masked"]
		s.Release()
	}
	mean, sd := draws*known*p, math.Sqrt(draws*known*p*(1-p))
	if math.Abs(total-mean) > 4*sd {
		t.Errorf("%g cells masked in %d draws, want %g ± %.1f", total, draws, mean, 4*sd)
	}
	a, b := s.Train(5, in).Outputs["tokens.report"].Clone(), (*tensor.Tensor)(nil)
	s.Release()
	b = s.Train(5, in).Outputs["tokens.report"]
	if !stagetest.Same(a, b) {
		t.Error("one seed gives two masks")
	}
	s.Release()
	if n := s.Eval(in).Metrics["masked"]; n != 0 {
		t.Errorf("%g cells masked at test, want none", n)
	}
}

func TestEq9WholeCasesAreMaskedBesides(t *testing.T) {
	// The fixture has three cases with 3, 2 and 2 known cells (one is uncertain).
	f := stagetest.Read(t, "testdata/base.safetensors")
	in := f.Group("in.")
	masked := func(settings map[string]string, draws int) []float64 {
		s, _ := open(t, "base", settings)
		counts := make([]float64, draws)
		for seed := range counts {
			counts[seed] = s.Train(uint64(seed), in).Metrics["masked"]
			s.Release()
		}
		return counts
	}
	if all := masked(map[string]string{"mask_probability": "0", "mask_whole": "1"}, 3); !slices.Equal(all, []float64{7, 7, 7}) {
		t.Errorf("mask_whole=1 masks %v of 7 known cells", all)
	}
	const draws, whole = 600, 0.25
	var sum float64
	for _, n := range masked(map[string]string{"mask_probability": "0", "mask_whole": "0.25"}, draws) {
		sum += n
	}
	// The number of masked cells of a draw has the variance w(1-w)·Σ known².
	if sd := math.Sqrt(draws * whole * (1 - whole) * 17); math.Abs(sum-draws*7*whole) > 4*sd {
		t.Errorf("%g cells masked in %d draws, want %g ± %.0f", sum, draws, draws*7*whole, 4*sd)
	}
	// The masks of single attributes are those of the seed whatever mask_whole is.
	single := masked(map[string]string{"mask_probability": "0.3"}, 40)
	both := masked(map[string]string{"mask_probability": "0.3", "mask_whole": "0.25"}, 40)
	same := 0
	for i := range single {
		if both[i] < single[i] {
			t.Errorf("seed %d: %g cells masked with mask_whole, %g without", i, both[i], single[i])
		}
		if both[i] == single[i] {
			same++
		}
	}
	if same == 0 || same == len(single) {
		t.Errorf("mask_whole=0.25 changes %d of %d draws, want some", len(single)-same, len(single))
	}
}

// firstStep is the length of a new stage's first step, its gradient's, averaged over seeds.
func firstStep(t *testing.T, f *stagetest.Fixture, settings map[string]string) float64 {
	s := stagetest.Open(t, itfusion.Plugin(), request(t, f, with(settings, "weights", "")))
	before, sum := s.Weights(), 0.0
	const seeds = 8
	for seed := range uint64(seeds) {
		r := s.Train(seed, f.Group("in."))
		grads := map[string]*tensor.Tensor{}
		for name, g := range f.Group("train.grad.out.") {
			if r.Outputs[name] != nil {
				grads[name] = g
			}
		}
		s.Backward(grads, map[string]float64{"reconstruction": 1})
	}
	s.Step(1)
	for name, w := range s.Weights() {
		a, b := stagetest.Floats(t, w), stagetest.Floats(t, before[name])
		for i := range a {
			sum += math.Pow(float64(a[i]-b[i])/seeds, 2)
		}
	}
	return math.Sqrt(sum)
}

func TestLearnedTokensStartAsLargeAsTheirNeighbours(t *testing.T) {
	f := stagetest.Read(t, "testdata/base.safetensors")
	// A layer norm divides the gradient of a token by the token's own deviation.
	small, large := firstStep(t, f, map[string]string{"token_start": "0.02"}), firstStep(t, f, map[string]string{"token_start": "1"})
	if small < 4*large {
		t.Errorf("gradient norm %g from tokens of 0.02, %g from tokens of 1: want a quarter at most", small, large)
	}
}

func TestTokensThatAreLeftOutDoNotRuleTheFirstStep(t *testing.T) {
	f := stagetest.Read(t, "testdata/base.safetensors")
	all := firstStep(t, f, map[string]string{"token_start": "1"})
	some := firstStep(t, f, map[string]string{"token_start": "1", "modality_dropout": "0.5"})
	if some > 3*all {
		t.Errorf("gradient norm %g with half of the images left out, %g without: a layer norm of zeros would make it hundreds of times as large", some, all)
	}
}

// The regression's logits are W·[8·known values; mean token] + b, and a value that is asked
// for is no feature.
func TestRegressionAddsWhatKnownValuesAndMeanTokensSay(t *testing.T) {
	plain, f := open(t, "base", nil)
	const attributes, k, d = 4, 3, 8
	params := f.Group("param.")
	weight, bias := stagetest.Random(5, attributes*k, attributes*k+d), stagetest.Random(6, attributes*k)
	params["reconstruction.regression.weight"], params["reconstruction.regression.bias"] = weight, bias
	s := stagetest.Open(t, itfusion.Plugin(), request(t, f, map[string]string{"regression": "true", "weights": stagetest.WriteWeights(t, params)}))
	in := f.Group("in.")
	before := stagetest.Floats(t, plain.Eval(in).Outputs["reconstruction"])
	after := stagetest.Floats(t, s.Eval(in).Outputs["reconstruction"])
	w, b := stagetest.Floats(t, weight), stagetest.Floats(t, bias)
	for n := range int(in["report.state"].Shape[0]) {
		features := slices.Concat(knownValues(t, in, n, attributes, k), meanToken(t, params, in, n, d))
		for a := range attributes {
			// A softmax leaves a constant per attribute open: compare with the first value.
			direct := func(v int) float64 {
				row := a*k + v
				sum := float64(b[row])
				for i, x := range features {
					sum += float64(w[row*len(features)+i]) * x
				}
				return sum
			}
			first := (n*attributes + a) * k
			for v := range k {
				if before[first+v] == 0 {
					continue // no value of this attribute
				}
				ratio := func(p []float32) float64 { return math.Log(float64(p[first+v]) / float64(p[first])) }
				if got, want := ratio(after)-ratio(before), direct(v)-direct(0); math.Abs(got-want) > 1e-3*(1+math.Abs(want)) {
					t.Errorf("case %d, attribute %d, value %d: logit rises by %g, want %g", n, a, v, got, want)
				}
			}
		}
	}
}

// knownValues is 8 at a case's stated and negated values and 0 elsewhere.
func knownValues(t *testing.T, in map[string]*tensor.Tensor, n, attributes, k int) []float64 {
	states, err := in["report.state"].Int8s()
	if err != nil {
		t.Fatal(err)
	}
	values, err := in["report.value"].Int64s()
	if err != nil {
		t.Fatal(err)
	}
	out := make([]float64, attributes*k)
	for a := range attributes {
		if i := n*attributes + a; (states[i] == 1 || states[i] == 2) && values[i] >= 0 {
			out[a*k+int(values[i])] = 8
		}
	}
	return out
}

// meanToken is the mean over a case's image tokens x of LayerNorm(Wx + b).
func meanToken(t *testing.T, params, in map[string]*tensor.Tensor, n, d int) []float64 {
	param := func(name string) []float32 { return stagetest.Floats(t, params["input.image."+name]) }
	w, b, gain, shift := param("projection.weight"), param("projection.bias"), param("norm.weight"), param("norm.bias")
	count, c := int(in["tokens.image"].Shape[1]), int(in["tokens.image"].Shape[2])
	x := stagetest.Floats(t, in["tokens.image"])
	out := make([]float64, d)
	for i := range count {
		token := x[(n*count+i)*c:][:c]
		y := make([]float64, d)
		var mean, variance float64
		for j := range y {
			y[j] = float64(b[j])
			for l, v := range token {
				y[j] += float64(w[j*c+l]) * float64(v)
			}
			mean += y[j] / float64(d)
		}
		for _, v := range y {
			variance += (v - mean) * (v - mean) / float64(d)
		}
		for j, v := range y {
			out[j] += ((v-mean)/math.Sqrt(variance+1e-5)*float64(gain[j]) + float64(shift[j])) / float64(count)
		}
	}
	return out
}

func TestTokensThatCannotRouteAreSaid(t *testing.T) {
	f := stagetest.Read(t, "testdata/bottleneck.safetensors")
	for start, said := range map[string]bool{"1": false, "2": true} {
		s := stagetest.Open(t, itfusion.Plugin(), request(t, f, map[string]string{"start_layer": start}))
		if notes := strings.Join(s.Response.Notes, " "); strings.Contains(notes, "give layers=4 or more") != said {
			t.Errorf("start_layer=%s of three layers: notes %q, want the layer said: %v", start, notes, said)
		}
	}
}

func TestSpreadMasksKeepTheMeanAndDifferMoreFromCaseToCase(t *testing.T) {
	s, f := open(t, "base", map[string]string{"mask_probability": "0.5", "mask_spread": "true"})
	in := f.Group("in.")
	const known, draws, p = 7, 600, 0.5
	var sum, squares float64
	for seed := range uint64(draws) {
		n := s.Train(seed, in).Metrics["masked"]
		s.Release()
		sum, squares = sum+n, squares+n*n
	}
	mean := sum / draws
	variance := squares/draws - mean*mean
	if math.Abs(mean-known*p) > 0.3 {
		t.Errorf("%.2f cells masked on average, want %g", mean, known*p)
	}
	// With one p for all cases the variance would be 7·p·(1-p) = 1.75.
	if variance < 2.1 {
		t.Errorf("variance of the number of masked cells %.2f, want well above 1.75", variance)
	}
}

// With branch_start=zero a new stage passes every token on as if it had no layers:
// nothing crosses from one modality to the other.
func TestLayersThatStartAtZeroPassTokensOn(t *testing.T) {
	for start, apart := range map[string]bool{"zero": true, "xavier": false} {
		f := stagetest.Read(t, "testdata/base.safetensors")
		s := stagetest.Open(t, itfusion.Plugin(), request(t, f, map[string]string{"branch_start": start, "weights": "", "mask_probability": "0"}))
		in := f.Group("in.")
		first := s.Eval(in).Outputs["joint"].Clone()
		image := in["tokens.image"]
		other := s.Eval(with(in, "tokens.image", shift(t, image, 0, len(stagetest.Floats(t, image)), 1))).Outputs["joint"]
		if same := stagetest.Same(first, other); same != apart {
			t.Errorf("branch_start=%s: the joint token is the same for other images: %v, want %v", start, same, apart)
		}
	}
}

func TestEq10LossCountsMaskedAndKnownAttributesOnly(t *testing.T) {
	s, f := open(t, "base", nil) // mask_probability=1: every known attribute
	in := f.Group("in.")
	if r := s.Train(1, in); r.Metrics["masked"] != 7 {
		t.Errorf("%g cells masked, want the 7 known ones: neither unmentioned nor uncertain", r.Metrics["masked"])
	} else if a := r.Metrics["mask_accuracy"]; a < 0 || a > 1 {
		t.Errorf("mask accuracy %g", a)
	}
	s.Release()
	// Nothing known: the loss is 0, and so is its gradient.
	none := with(in, "report.value", tensor.OfInt64s([]int64{-1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1}, 3, 4))
	if r := s.Train(1, none); r.Losses["reconstruction"] != 0 {
		t.Errorf("loss %g with no known attribute, want 0", r.Losses["reconstruction"])
	}
	for i, g := range stagetest.Floats(t, s.Backward(nil, map[string]float64{"reconstruction": 1})["tokens.image"]) {
		if g != 0 {
			t.Fatalf("gradient %g at element %d, want 0", g, i)
		}
	}
}

func TestEq10ValueOfAnUnmentionedAttributeIsNeverRead(t *testing.T) {
	s, f := open(t, "base", nil)
	in := f.Group("in.")
	// Case 0, attribute 1 is unmentioned; a careless caller gives its true value.
	leak := with(in, "report.value", tensor.OfInt64s([]int64{1, 2, 2, 0, -1, 1, 0, 1, 0, 2, -1, -1}, 3, 4))
	a := s.Train(1, in)
	s.Release()
	b := s.Train(1, leak)
	s.Release()
	if a.Losses["reconstruction"] != b.Losses["reconstruction"] || !stagetest.Same(a.Outputs["joint"], b.Outputs["joint"]) {
		t.Error("the value of an unmentioned attribute has an influence")
	}
}

func TestEq10ProbabilitiesCoverTheValueSetAndNothingElse(t *testing.T) {
	s, f := open(t, "base", nil)
	p := stagetest.Floats(t, s.Eval(f.Group("in.")).Outputs["reconstruction"])
	sizes := []int{2, 3, 3, 2}
	for row := 0; row < len(p)/3; row++ {
		sum := 0.0
		for k := range 3 {
			v := p[row*3+k]
			sum += float64(v)
			if k >= sizes[row%4] && v != 0 {
				t.Errorf("row %d: probability %g for a value that does not exist", row, v)
			}
		}
		if math.Abs(sum-1) > 1e-5 {
			t.Errorf("row %d: probabilities add up to %g", row, sum)
		}
	}
}

func TestEq10CalibrationFlattensProbabilitiesAndNothingElse(t *testing.T) {
	a, f := open(t, "base", nil)
	b, _ := open(t, "base", map[string]string{"calibration": "4"})
	x, y := a.Eval(f.Group("in.")).Outputs, b.Eval(f.Group("in.")).Outputs
	if !stagetest.Same(x["joint"], y["joint"]) || !stagetest.Same(x["tokens.report"], y["tokens.report"]) {
		t.Error("calibration changes what goes on downstream")
	}
	p, q := stagetest.Floats(t, x["reconstruction"]), stagetest.Floats(t, y["reconstruction"])
	for i := 0; i < len(p); i += 3 {
		norm := 0.0
		for k := range 3 {
			norm += math.Pow(float64(p[i+k]), 0.25)
		}
		for k := range 3 {
			if want := math.Pow(float64(p[i+k]), 0.25) / norm; math.Abs(want-float64(q[i+k])) > 1e-4 {
				t.Errorf("element %d: %g, want softmax(logits/4) = %g", i+k, q[i+k], want)
			}
		}
	}
}

func TestStopGradientKeepsTheDownstreamLossOutOfTheReconstruction(t *testing.T) {
	for _, stop := range []string{"false", "true"} {
		s, f := open(t, "base", map[string]string{"stop_gradient": stop})
		before := f.Group("param.")["reconstruction.linear2.weight"]
		s.Train(1, f.Group("in."))
		s.Backward(f.Group("train.grad.out."), nil) // no weight on l_rec
		s.Step(1)
		if moved := !stagetest.Same(before, s.Weights()["reconstruction.linear2.weight"]); moved != (stop == "false") {
			t.Errorf("stop_gradient=%s: the reconstruction network moved = %v", stop, moved)
		}
	}
}

func TestBackwardAgreesWithFiniteDifferences(t *testing.T) {
	s, f := open(t, "base", map[string]string{"mask_probability": "0.4", "dropout": "0.1"})
	in := f.Group("in.")
	grads := f.Group("train.grad.out.")
	for _, port := range []string{"tokens.image", "report.embedding"} {
		finiteDifferences(t, s, 3, in, port, grads, map[string]float64{"reconstruction": 0.5}, 1e-2, 2e-2)
	}
}

func TestOneModalityAloneAndReportAlone(t *testing.T) {
	f := stagetest.Read(t, "testdata/base.safetensors")
	for _, c := range []struct{ name, drop string }{{"report alone", "tokens."}, {"image alone", "report."}} {
		req := request(t, f, map[string]string{"weights": ""})
		req.Inputs = nil
		in := map[string]*tensor.Tensor{}
		for _, p := range request(t, f, nil).Inputs {
			if !strings.HasPrefix(p.Name, c.drop) {
				req.Inputs = append(req.Inputs, p)
				in[p.Name] = f.Tensors["in."+p.Name]
			}
		}
		if c.drop == "report." {
			req.AttributeSchema, req.Constants = nil, nil
		}
		r := stagetest.Open(t, itfusion.Plugin(), req).Eval(in)
		if got := r.Outputs["joint"].Shape; got[0] != 3 || got[1] != 8 {
			t.Errorf("%s: joint is %v, want [3 8]", c.name, got)
		}
		for port := range in {
			if strings.HasPrefix(port, "tokens.") && r.Outputs[port].String() != in[port].String() {
				t.Errorf("%s: %s is %v, want the shape it came in, %v", c.name, port, r.Outputs[port], in[port])
			}
		}
	}
}

func TestBadInputIsNamed(t *testing.T) {
	s, f := open(t, "base", nil)
	in := f.Group("in.")
	for _, c := range []struct {
		name, port, want string
		x                *tensor.Tensor
	}{
		{"state", "report.state", "want 0 (unmentioned) to 3", tensor.OfInt8s([]int8{1, 0, 1, 2, 0, 1, 7, 1, 2, 1, 0, 0}, 3, 4)},
		{"value", "report.value", `attribute "age" is 3, want -1 to 2`, tensor.OfInt64s([]int64{1, -1, 2, 0, -1, 3, 0, 1, 0, 2, -1, -1}, 3, 4)},
		{"attributes", "report.state", "want [3 4]", tensor.OfInt8s([]int8{1, 0, 1, 2, 0, 1}, 3, 2)},
	} {
		_, err := s.TryForward(false, 1, with(in, c.port, c.x))
		if err == nil || !strings.Contains(err.Error(), c.want) || sdk.CodeOf(err) != sdk.InvalidArgument {
			t.Errorf("%s: error %v, want an InvalidArgument with %q", c.name, err, c.want)
		}
	}
	for _, c := range []struct{ key, value, want string }{
		{"heads", "3", "divisor of width=8"},
		{"start_layer", "2", "start_layer"},
		{"weights", "/nonexistent.safetensors", "nonexistent"},
	} {
		_, err := stagetest.TryOpen(t, itfusion.Plugin(), request(t, f, map[string]string{c.key: c.value}))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s=%s: error %v, want %q", c.key, c.value, err, c.want)
		}
	}
	req := request(t, f, nil)
	req.Constants = nil
	if _, err := stagetest.TryOpen(t, itfusion.Plugin(), req); err == nil || !strings.Contains(err.Error(), "value.embedding") {
		t.Errorf("without the constant: error %v", err)
	}
}

// finiteDifferences compares the gradient of Σ out·g + Σ w·loss with respect to one
// FP32 input against central differences, on a few elements.
func finiteDifferences(t *testing.T, s *stagetest.Stage, seed uint64, inputs map[string]*tensor.Tensor, name string, grads map[string]*tensor.Tensor, losses map[string]float64, step, tolerance float64) {
	t.Helper()
	objective := func(in map[string]*tensor.Tensor) float64 {
		r := s.Train(seed, in)
		s.Release()
		total := 0.0
		for port, g := range grads {
			o, w := stagetest.Floats(t, r.Outputs[port]), stagetest.Floats(t, g)
			for i := range w {
				total += float64(o[i]) * float64(w[i])
			}
		}
		for loss, w := range losses {
			total += w * r.Losses[loss]
		}
		return total
	}
	s.Train(seed, inputs)
	analytic := stagetest.Floats(t, s.Backward(grads, losses)[name])
	shifted := func(i int, by float64) map[string]*tensor.Tensor {
		in := map[string]*tensor.Tensor{}
		for k, v := range inputs {
			in[k] = v
		}
		x := stagetest.Floats(t, inputs[name])
		x[i] += float32(by)
		in[name] = tensor.OfFloat32s(x, inputs[name].Shape...)
		return in
	}
	scale := 0.0
	for _, a := range analytic {
		scale = max(scale, math.Abs(float64(a)))
	}
	if scale == 0 {
		t.Errorf("gradient of %s is zero everywhere", name)
	}
	for i := 0; i < len(analytic); i += max(1, len(analytic)/12) {
		numeric := (objective(shifted(i, step)) - objective(shifted(i, -step))) / (2 * step)
		if d := math.Abs(numeric - float64(analytic[i])); d > tolerance*scale {
			t.Errorf("gradient of %s, element %d: backward gives %g, finite differences %g", name, i, analytic[i], numeric)
		}
	}
}
