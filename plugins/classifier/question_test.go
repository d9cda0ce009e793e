package classifier_test

import (
	"maps"
	"math"
	"strings"
	"testing"

	"github.com/alignedfusion/alignedfusion/plugins/classifier"
	"github.com/alignedfusion/alignedfusion/plugins/internal/stagetest"
	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

// asked opens a head with a question about a label set of some classes, and returns inputs.
func asked(t *testing.T, question string, classes ...string) (*stagetest.Stage, map[string]*tensor.Tensor) {
	t.Helper()
	f := stagetest.Read(t, "testdata/head_linear.safetensors")
	req := headRequest(t, f, map[string]string{"question": question, "label_smoothing": "0", "dropout": "0"})
	req.Labels = []sdk.LabelSet{{Name: "label", Classes: classes}}
	in := maps.Clone(f.Group("in."))
	labels := make([]int64, 5)
	for i := range labels {
		labels[i] = int64(i%(len(classes)+1)) - 1
	}
	in["target.label"] = tensor.OfInt64s(labels, 5)
	return stagetest.Open(t, classifier.Plugin(), req), in
}

// probabilities are the softmax of a row of logits.
func probabilities(row []float32) []float64 {
	out, sum := make([]float64, len(row)), 0.0
	for i, v := range row {
		out[i] = math.Exp(float64(v))
		sum += out[i]
	}
	for i := range out {
		out[i] /= sum
	}
	return out
}

func softplus(x float64) float64 { return math.Log1p(math.Exp(x)) }

// TestOrdinalIsTheProportionalOddsModel: probabilities, loss and gradients are those of
// McCullagh's cumulative links, computed here in float64.
func TestOrdinalIsTheProportionalOddsModel(t *testing.T) {
	s, in := asked(t, "ordinal", "1", "2", "3", "4")
	start := s.Weights()
	for k, want := range []float64{-math.Log(3), 0, math.Log(3)} { // a quarter of the cases in each class
		raw := stagetest.Floats(t, start["classifier.thresholds"])
		at := float64(raw[0])
		for _, gap := range raw[1 : k+1] {
			at += softplus(float64(gap))
		}
		if math.Abs(at-want) > 1e-6 {
			t.Errorf("threshold %d starts at %g, want %g", k, at, want)
		}
	}
	start["classifier.thresholds"] = tensor.OfFloat32s([]float32{-0.7, 0.2, -1.5}, 3)
	wide := stagetest.Floats(t, start["classifier.weight"])
	for i := range wide {
		wide[i] = float32(math.Sin(float64(i)))
	}
	load(t, s, start)
	r := s.Train(1, in)
	logits := stagetest.Floats(t, r.Outputs["logits"])
	theta := []float64{-0.7, -0.7 + softplus(0.2), -0.7 + softplus(0.2) + softplus(-1.5)}
	sigmoid := func(x float64) float64 { return 1 / (1 + math.Exp(-x)) }
	loss, known := 0.0, 0.0
	for n := range 5 {
		p := probabilities(logits[4*n : 4*n+4])
		f := theta[0] - math.Log(p[0]/(1-p[0])) // w·x, from the first class
		cumulative := 0.0
		for k := range 3 {
			cumulative += p[k]
			if math.Abs(cumulative-sigmoid(theta[k]-f)) > 1e-5 {
				t.Errorf("case %d: P(at most %d) = %g, want %g", n, k, cumulative, sigmoid(theta[k]-f))
			}
		}
		if label := n%5 - 1; label >= 0 {
			loss, known = loss-math.Log(p[label]), known+1
		}
	}
	if got := r.Losses["classification"]; math.Abs(got-loss/known) > 1e-5 {
		t.Errorf("loss %g, want %g", got, loss/known)
	}
	grad := s.Backward(nil, map[string]float64{"classification": 1})
	for port, g := range grads(t, s, in, grad) {
		if math.Abs(g[0]-g[1]) > 1e-3 {
			t.Errorf("d loss / d %s = %g, finite differences give %g", port, g[0], g[1])
		}
	}
}

// grads are a gradient of each input, as given and by finite differences.
func grads(t *testing.T, s *stagetest.Stage, in, given map[string]*tensor.Tensor) map[string][2]float64 {
	t.Helper()
	out := map[string][2]float64{}
	for port, g := range given {
		moved := func(by float32) float64 {
			there := maps.Clone(in)
			values := append([]float32(nil), stagetest.Floats(t, in[port])...)
			values[1] += by
			there[port] = tensor.OfFloat32s(values, in[port].Shape...)
			return s.Train(1, there).Losses["classification"]
		}
		const h = 1.0 / 64
		out[port] = [2]float64{float64(stagetest.Floats(t, g)[1]), (moved(h) - moved(-h)) / (2 * h)}
	}
	return out
}

// TestAFindingIsASigmoid: two logits of which the first is 0, and the binary cross-entropy.
func TestAFindingIsASigmoid(t *testing.T) {
	s, in := asked(t, "multilabel", "0", "1")
	r := s.Train(1, in)
	if n := len(stagetest.Floats(t, s.Weights()["classifier.bias"])); n != 1 {
		t.Errorf("%d rows, want one per finding", n)
	}
	logits := stagetest.Floats(t, r.Outputs["logits"])
	loss, known := 0.0, 0.0
	for n := range 5 {
		if logits[2*n] != 0 {
			t.Errorf("case %d: the logit of absence is %g", n, logits[2*n])
		}
		if label := n%3 - 1; label >= 0 {
			z := float64(logits[2*n+1])
			loss, known = loss+softplus(z)-float64(label)*z, known+1
		}
	}
	if got := r.Losses["classification"]; math.Abs(got-loss/known) > 1e-6 {
		t.Errorf("loss %g, want %g", got, loss/known)
	}
	f := stagetest.Read(t, "testdata/head_linear.safetensors")
	req := headRequest(t, f, map[string]string{"question": "multilabel"})
	req.Labels = []sdk.LabelSet{{Name: "edema", Classes: []string{"0", "1", "2"}}}
	_, err := stagetest.TryOpen(t, classifier.Plugin(), req)
	if want := `label set "edema" has the classes 0, 1, 2, want two`; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%v, want %s", err, want)
	}
}

// answered opens a head with questions about label sets, and returns its answer to inputs.
func answered(t *testing.T, set map[string]string, sets []sdk.LabelSet, targets map[string]*tensor.Tensor) (*stagetest.Stage, map[string]*tensor.Tensor) {
	t.Helper()
	f := stagetest.Read(t, "testdata/head_linear.safetensors")
	all := map[string]string{"label_smoothing": "0", "dropout": "0"}
	maps.Copy(all, set)
	req := headRequest(t, f, all)
	req.Labels = sets
	in := maps.Clone(f.Group("in."))
	delete(in, "target.label")
	maps.Copy(in, targets)
	return stagetest.Open(t, classifier.Plugin(), req), in
}

// wantGradients compares gradients of the loss with finite differences.
func wantGradients(t *testing.T, s *stagetest.Stage, in map[string]*tensor.Tensor) {
	t.Helper()
	for port, g := range grads(t, s, in, s.Backward(nil, map[string]float64{"classification": 1})) {
		if math.Abs(g[0]-g[1]) > 1e-3 {
			t.Errorf("d loss / d %s = %g, finite differences give %g", port, g[0], g[1])
		}
	}
}

// TestANumberIsLinearRegression: one logit, half the mean squared error of those that are known.
func TestANumberIsLinearRegression(t *testing.T) {
	want := []float32{0.5, -1, float32(math.NaN()), 2, 0}
	s, in := answered(t, map[string]string{"question": "regression"}, []sdk.LabelSet{{Name: "size"}}, map[string]*tensor.Tensor{"target.value": tensor.OfFloat32s(want, 5)})
	r := s.Train(1, in)
	logits := stagetest.Floats(t, r.Outputs["logits"])
	if len(logits) != 5 {
		t.Fatalf("%d logits, want one per case", len(logits))
	}
	loss := 0.0
	for i, v := range want {
		if d := float64(logits[i] - v); i != 2 {
			loss += d * d / 2 / 4
		}
	}
	if got := r.Losses["classification"]; math.Abs(got-loss) > 1e-6 {
		t.Errorf("loss %g, want %g", got, loss)
	}
	wantGradients(t, s, in)
}

// TestATimeIsAHazardOfEachInterval: probabilities and likelihood are those of Gensheimer and
// Narasimhan 2019 (section 3.1), computed here in float64 from the hazards.
func TestATimeIsAHazardOfEachInterval(t *testing.T) {
	intervals := []int64{0, 2, -1, 1, 3}
	censored := []int8{0, 1, 0, 0, 1}
	s, in := answered(t, map[string]string{"question": "survival"}, []sdk.LabelSet{{Name: "time", Classes: []string{"0-1", "1-2", "2-4", "4-"}}},
		map[string]*tensor.Tensor{"target.label": tensor.OfInt64s(intervals, 5), "target.censored": tensor.OfInt8s(censored, 5)})
	start := s.Weights()
	wide := stagetest.Floats(t, start["classifier.weight"])
	for i := range wide {
		wide[i] = float32(math.Sin(float64(i)))
	}
	load(t, s, start)
	r := s.Train(1, in)
	logits := stagetest.Floats(t, r.Outputs["logits"])
	loss := 0.0
	for n, k := range intervals {
		p := probabilities(logits[4*n : 4*n+4])
		sum := 0.0
		for c, v := range logits[4*n : 4*n+4] { // they are logarithms of probabilities
			sum += math.Exp(float64(v))
			if math.Abs(math.Exp(float64(v))-p[c]) > 1e-6 {
				t.Errorf("case %d: logit %d is %g, the softmax %g", n, c, v, p[c])
			}
		}
		left := 1.0
		for c := range p {
			if k >= 0 && int64(c) < k { // survived: log(1 - hazard)
				loss -= math.Log(1-p[c]/left) / 4
			}
			if int64(c) == k && censored[n] == 0 {
				loss -= math.Log(p[c]/left) / 4
			}
			left -= p[c]
		}
	}
	if got := r.Losses["classification"]; math.Abs(got-loss) > 1e-5 {
		t.Errorf("loss %g, want %g", got, loss)
	}
	wantGradients(t, s, in)
}

// TestSeveralQuestionsAreWeighed: the loss is the weighted mean of theirs, each as if asked alone.
func TestSeveralQuestionsAreWeighed(t *testing.T) {
	sets := []sdk.LabelSet{{Name: "a", Classes: []string{"x", "y"}}, {Name: "b"}}
	targets := map[string]*tensor.Tensor{"target.label.a": tensor.OfInt64s([]int64{0, 1, -1, 1, 0}, 5), "target.value.b": tensor.OfFloat32s([]float32{1, 2, 3, 4, 5}, 5)}
	lossOf := func(weights string) float64 {
		s, in := answered(t, map[string]string{"question": "b:regression", "question_weights": weights}, sets, targets)
		return s.Train(1, in).Losses["classification"]
	}
	a, b := lossOf("b:0"), lossOf("a:0")
	if got, want := lossOf("b:3"), (a+3*b)/4; math.Abs(got-want) > 1e-6 || a == b {
		t.Errorf("loss %g, want %g", got, want)
	}
	for wrong, want := range map[string]string{"a:0,b:0": "leaves no question", "c:1": "with a name of a, b", "a:x": "want a number from 0"} {
		req := headRequest(t, stagetest.Read(t, "testdata/head_linear.safetensors"), map[string]string{"question_weights": wrong})
		req.Labels = []sdk.LabelSet{{Name: "a", Classes: []string{"x", "y"}}, {Name: "b", Classes: []string{"x", "y"}}}
		if _, err := stagetest.TryOpen(t, classifier.Plugin(), req); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", wrong, err, want)
		}
	}
}

func TestQuestionsThatCannotBeAskedAreRefused(t *testing.T) {
	for _, c := range []struct{ question, focal, want string }{
		{"regressio", "0", `question "regressio" is unknown; there are classes, multilabel, ordinal, regression, survival`},
		{"c:regression", "0", `names "c", which is no label set of the data`},
		{"regression", "2", "has no classes that label_smoothing and focal_gamma could weigh"},
	} {
		req := headRequest(t, stagetest.Read(t, "testdata/head_linear.safetensors"), map[string]string{"question": c.question, "focal_gamma": c.focal, "label_smoothing": "0"})
		req.Labels = []sdk.LabelSet{{Name: "a", Classes: []string{"x", "y"}}}
		if _, err := stagetest.TryOpen(t, classifier.Plugin(), req); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %s", c.question, err, c.want)
		}
	}
}
