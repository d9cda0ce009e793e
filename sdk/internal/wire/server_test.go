package wire_test

import (
	"bytes"
	"context"
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/client"
	"github.com/alignedfusion/alignedfusion/sdk/internal/wire"
	"github.com/alignedfusion/alignedfusion/sdk/plugintest"
	"github.com/alignedfusion/alignedfusion/sdk/plugintest/toy"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

// values makes n numbers that differ and stay small.
func values(n int) []float32 {
	out := make([]float32, n)
	for i := range out {
		out[i] = float32(math.Sin(float64(i)*1.7)) / 2
	}
	return out
}

func openLinear(t *testing.T, c *client.Client, settings map[string]string) *client.Instance {
	t.Helper()
	return plugintest.Open(t, c, &sdk.OpenRequest{Stage: "linear", Seed: 7, Train: true, Settings: settings,
		Optimizer: sdk.Optimizer{Name: "sgd", Values: map[string]float64{"momentum": 0.9}}})
}

func forward(t *testing.T, i *client.Instance, id uint64, train bool, inputs map[string]*tensor.Tensor) *sdk.ForwardResponse {
	t.Helper()
	resp, err := i.Forward(t.Context(), &sdk.ForwardRequest{Context: id, Train: train, Inputs: inputs,
		NeedsGrad: map[string]bool{"x": train}})
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

func wantCode(t *testing.T, err error, code sdk.Code, words ...string) {
	t.Helper()
	var e *sdk.Error
	if !errors.As(err, &e) {
		t.Fatalf("error is %v, want an *sdk.Error", err)
	}
	if e.Code != code {
		t.Errorf("code is %d, want %d: %v", e.Code, code, err)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error %q does not name %q", err, w)
		}
	}
}

func TestGradientsEqualFiniteDifferences(t *testing.T) {
	plugintest.EachTransport(t, toy.Linear(), func(t *testing.T, c *client.Client) {
		i := openLinear(t, c, nil)
		plugintest.CheckGradients(t, i, map[string]*tensor.Tensor{
			"x":       tensor.OfFloat32s(values(20), 5, 4),
			"desired": tensor.OfFloat32s(values(15), 5, 3),
		}, 1e-3)
	})
}

func TestTransportsGiveEqualBytes(t *testing.T) {
	// Large enough to leave the message for shared memory, and to overflow a first slot.
	const rows, in, out = 2000, 2, 150
	var got []map[string]*tensor.Tensor
	for _, transport := range []plugintest.Transport{plugintest.InBand, plugintest.SharedMemory} {
		c := plugintest.Start(t, toy.Linear(), transport)
		i := openLinear(t, c, map[string]string{"in": "2", "out": "150"})
		all := map[string]*tensor.Tensor{}
		for round := range 3 {
			resp := forward(t, i, 1, true, map[string]*tensor.Tensor{"x": tensor.OfFloat32s(values(rows*in), rows, in)})
			grads, err := i.Backward(t.Context(), &sdk.BackwardRequest{Context: 1,
				OutputGrads: map[string]*tensor.Tensor{"y": tensor.OfFloat32s(values(rows*out), rows, out)}})
			if err != nil {
				t.Fatal(err)
			}
			name := string(rune('a' + round))
			all["y"+name], all["x"+name] = resp.Outputs["y"], grads.InputGrads["x"]
		}
		got = append(got, all)
	}
	for name, a := range got[0] {
		if b := got[1][name]; b == nil || a.String() != b.String() || !bytes.Equal(a.Data, b.Data) {
			t.Errorf("%s differs between in-band and shared memory", name)
		}
	}
}

func TestContextRules(t *testing.T) {
	plugintest.EachTransport(t, toy.Linear(), func(t *testing.T, c *client.Client) {
		i := openLinear(t, c, nil)
		x := map[string]*tensor.Tensor{"x": tensor.OfFloat32s(values(4), 1, 4)}
		backward := func(id uint64) error {
			_, err := i.Backward(t.Context(), &sdk.BackwardRequest{Context: id})
			return err
		}
		forward(t, i, 99, false, x)
		wantCode(t, backward(99), sdk.NotFound, "context 99") // EVAL leaves nothing behind
		forward(t, i, 1, true, x)
		forward(t, i, 2, true, x)
		_, err := i.Forward(t.Context(), &sdk.ForwardRequest{Context: 3, Train: true, Inputs: x})
		wantCode(t, err, sdk.FailedPrecondition, "2 contexts are open", "plugin linear", "head linear", "forward")
		_, err = i.Forward(t.Context(), &sdk.ForwardRequest{Context: 2, Train: true, Inputs: x})
		wantCode(t, err, sdk.InvalidArgument, "context 2 is open")
		if err := backward(2); err != nil { // the other order
			t.Fatal(err)
		}
		if err := backward(1); err != nil {
			t.Fatal(err)
		}
		wantCode(t, backward(1), sdk.FailedPrecondition, "context 1 has ended")
		wantCode(t, backward(12345), sdk.NotFound, "context 12345")
		forward(t, i, 4, true, x)
		for _, id := range []uint64{4, 4, 777} { // idempotent
			if err := i.Release(t.Context(), id); err != nil {
				t.Fatal(err)
			}
		}
		wantCode(t, backward(4), sdk.FailedPrecondition)
	})
}

func TestRequestsAreCheckedAgainstTheManifest(t *testing.T) {
	c := plugintest.Start(t, toy.Linear(), plugintest.SharedMemory)
	i := openLinear(t, c, nil)
	good := func() *tensor.Tensor { return tensor.OfFloat32s(values(8), 2, 4) }
	for _, test := range []struct {
		name  string
		req   sdk.ForwardRequest
		words []string
	}{
		{"dtype", sdk.ForwardRequest{Inputs: map[string]*tensor.Tensor{"x": tensor.OfInt64s([]int64{1, 2, 3, 4}, 1, 4)}},
			[]string{`"x" is INT64 [1 4]`, "want FP32 [N C]"}},
		{"rank", sdk.ForwardRequest{Inputs: map[string]*tensor.Tensor{"x": tensor.OfFloat32s(values(4), 4)}},
			[]string{"FP32 [4]", "want FP32 [N C]"}},
		{"missing", sdk.ForwardRequest{Inputs: map[string]*tensor.Tensor{}}, []string{`"x" is missing`}},
		{"unknown", sdk.ForwardRequest{Inputs: map[string]*tensor.Tensor{"x": good(), "z": good()}}, []string{`"z"`, "x, desired"}},
		{"one name, one size", sdk.ForwardRequest{Inputs: map[string]*tensor.Tensor{"x": good(), "desired": tensor.OfFloat32s(values(9), 3, 3)}},
			[]string{"FP32 [2 4]", "want FP32 [3 C]", "N is 3"}},
		{"bytes do not fit the shape", sdk.ForwardRequest{Inputs: map[string]*tensor.Tensor{"x": {DType: tensor.FP32, Shape: []int64{2, 4}, Data: make([]byte, 31)}}},
			[]string{`"x"`, "31 bytes"}},
		{"negative size", sdk.ForwardRequest{Inputs: map[string]*tensor.Tensor{"x": {DType: tensor.FP32, Shape: []int64{-1, 4}}}}, []string{`"x"`, "negative"}},
		{"overflowing size", sdk.ForwardRequest{Inputs: map[string]*tensor.Tensor{"x": {DType: tensor.FP32, Shape: []int64{math.MaxInt64, 4}}}}, []string{`"x"`, "overflow"}},
		{"output that does not exist", sdk.ForwardRequest{Inputs: map[string]*tensor.Tensor{"x": good()}, Wanted: map[string]bool{"cube": true}}, []string{`"cube"`, "square"}},
		{"gradient in EVAL mode", sdk.ForwardRequest{Inputs: map[string]*tensor.Tensor{"x": good()}, NeedsGrad: map[string]bool{"x": true}}, []string{"TRAIN"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := i.Forward(t.Context(), &test.req)
			wantCode(t, err, sdk.InvalidArgument, test.words...)
			// The instance lives on.
			forward(t, i, 0, false, map[string]*tensor.Tensor{"x": good()})
		})
	}
	_, _, err := c.Open(t.Context(), &sdk.OpenRequest{Stage: "linear", Settings: map[string]string{"ou": "3"}})
	wantCode(t, err, sdk.InvalidArgument, `did you mean "out"`)
	_, _, err = c.Open(t.Context(), &sdk.OpenRequest{Stage: "nope"})
	wantCode(t, err, sdk.InvalidArgument, "linear")
	_, err = i.Backward(t.Context(), &sdk.BackwardRequest{Context: 1})
	wantCode(t, err, sdk.NotFound)
	forward(t, i, 5, true, map[string]*tensor.Tensor{"x": good()})
	_, err = i.Backward(t.Context(), &sdk.BackwardRequest{Context: 5, OutputGrads: map[string]*tensor.Tensor{"y": good()}})
	wantCode(t, err, sdk.InvalidArgument, `"y" is FP32 [2 4], want FP32 [2 3]`)
}

func TestOnRequestOutputsComeOnlyOnRequest(t *testing.T) {
	c := plugintest.Start(t, toy.Linear(), plugintest.InBand)
	i := openLinear(t, c, nil)
	x := map[string]*tensor.Tensor{"x": tensor.OfFloat32s(values(4), 1, 4)}
	if resp := forward(t, i, 0, false, x); resp.Outputs["square"] != nil {
		t.Error("square was not asked for")
	}
	resp, err := i.Forward(t.Context(), &sdk.ForwardRequest{Inputs: x, Wanted: map[string]bool{"square": true}})
	if err != nil || resp.Outputs["square"] == nil {
		t.Errorf("square is %v, error %v", resp, err)
	}
}

// train steps, save, load into another instance, and the same steps again.
func TestSaveAndLoadAreBitExact(t *testing.T) {
	c := plugintest.Start(t, toy.Linear(), plugintest.SharedMemory)
	inputs := map[string]*tensor.Tensor{"x": tensor.OfFloat32s(values(20), 5, 4), "desired": tensor.OfFloat32s(values(15), 5, 3)}
	train := func(i *client.Instance, steps int) {
		for k := range steps {
			if err := i.ZeroGrad(t.Context()); err != nil {
				t.Fatal(err)
			}
			forward(t, i, uint64(k), true, inputs)
			if _, err := i.Backward(t.Context(), &sdk.BackwardRequest{Context: uint64(k), LossWeights: map[string]float64{"mse": 1}}); err != nil {
				t.Fatal(err)
			}
			norm, err := i.GradNorm(t.Context())
			if err != nil || norm == 0 {
				t.Fatalf("norm %v, error %v", norm, err)
			}
			if err := i.Step(t.Context(), &sdk.StepRequest{Values: map[string]float64{"learning_rate": 0.1}, GradientScale: 1}); err != nil {
				t.Fatal(err)
			}
		}
	}
	through := openLinear(t, c, nil)
	train(through, 6)
	first := openLinear(t, c, nil)
	train(first, 3)
	dir := t.TempDir()
	if _, err := first.Save(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	second := openLinear(t, c, map[string]string{})
	if err := second.Load(t.Context(), dir, false); err != nil {
		t.Fatal(err)
	}
	train(second, 3)
	want := forward(t, through, 0, false, inputs).Outputs["y"].Data
	if diff := cmp.Diff(want, forward(t, second, 0, false, inputs).Outputs["y"].Data); diff != "" {
		t.Errorf("train 3, save, load, train 3 differs from train 6:\n%s", diff)
	}
	_, err := first.Save(t.Context(), filepath.Join(dir, "missing"))
	wantCode(t, err, sdk.InvalidArgument, "missing")
	if err := os.WriteFile(filepath.Join(dir, "weights.safetensors"), []byte("not safetensors"), 0o600); err != nil {
		t.Fatal(err)
	}
	err = second.Load(t.Context(), dir, false)
	wantCode(t, err, sdk.InvalidArgument, "weights.safetensors")
}

func TestClosedInstanceIsNotFound(t *testing.T) {
	c := plugintest.Start(t, toy.Linear(), plugintest.InBand)
	i := openLinear(t, c, nil)
	if err := i.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	_, err := i.Forward(t.Context(), &sdk.ForwardRequest{})
	wantCode(t, err, sdk.NotFound)
}

func TestManifestSurvivesJSON(t *testing.T) {
	m := toy.Linear().Manifest
	m.MaxOpenContexts = 2
	text, err := wire.ManifestJSON(m)
	if err != nil {
		t.Fatal(err)
	}
	back, err := wire.ManifestFromJSON(text)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(m, back); diff != "" {
		t.Error(diff)
	}
}
