package gradcheck_test

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/gradcheck"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

// analytic is y = sin(x)·exp(x/2) with the derivative times factor.
type analytic struct {
	factor float64
	x      map[uint64][]float32
}

var ports = []sdk.Port{{Name: "x", DType: tensor.FP32, Differentiable: true}, {Name: "n", DType: tensor.Int64}}

func (a *analytic) Manifest() *sdk.StageManifest { return &sdk.StageManifest{Inputs: ports} }
func (a *analytic) Inputs() []sdk.Port           { return ports }
func (a *analytic) Outputs() []sdk.Port {
	return []sdk.Port{{Name: "y", DType: tensor.FP32, Differentiable: true}}
}

func (a *analytic) Forward(_ context.Context, req *sdk.ForwardRequest) (*sdk.ForwardResponse, error) {
	x, err := req.Inputs["x"].Float32s()
	if err != nil {
		return nil, err
	}
	y := make([]float32, len(x))
	var loss float64
	for i, v := range x {
		y[i] = float32(math.Sin(float64(v)) * math.Exp(float64(v)/2))
		loss += float64(v) * float64(v) / 2
	}
	a.x[req.Context] = x
	return &sdk.ForwardResponse{Outputs: map[string]*tensor.Tensor{"y": tensor.OfFloat32s(y)}, Losses: map[string]float64{"half square": loss}}, nil
}

func (a *analytic) Backward(_ context.Context, req *sdk.BackwardRequest) (*sdk.BackwardResponse, error) {
	g := make([]float32, len(a.x[req.Context]))
	if given := req.OutputGrads["y"]; given != nil {
		values, err := given.Float32s()
		if err != nil {
			return nil, err
		}
		copy(g, values)
	}
	out := make([]float32, len(g))
	for i, v := range a.x[req.Context] {
		x := float64(v)
		out[i] = float32(a.factor*float64(g[i])*math.Exp(x/2)*(math.Cos(x)+math.Sin(x)/2) + req.LossWeights["half square"]*x)
	}
	return &sdk.BackwardResponse{InputGrads: map[string]*tensor.Tensor{"x": tensor.OfFloat32s(out)}}, nil
}

func (a *analytic) Release(_ context.Context, id uint64) error {
	delete(a.x, id)
	return nil
}

func check(t *testing.T, factor float64, inputs map[string]*tensor.Tensor) ([]gradcheck.Result, error) {
	t.Helper()
	return gradcheck.Check(t.Context(), &analytic{factor, map[uint64][]float32{}}, inputs, gradcheck.Options{Seed: 3, Directions: 4})
}

func TestFindsARightAndAWrongDerivative(t *testing.T) {
	values := make([]float32, 200)
	for i := range values {
		values[i] = float32(math.Cos(float64(i)))
	}
	inputs := map[string]*tensor.Tensor{"x": tensor.OfFloat32s(values)}
	right, err := check(t, 1, inputs)
	if err != nil || len(right) != 4 {
		t.Fatalf("%d results, error %v", len(right), err)
	}
	if worst := gradcheck.Worst(right); worst.RelativeError > 1e-3 {
		t.Errorf("a right derivative is off by %+v", worst)
	}
	wrong, err := check(t, 1.05, inputs)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range wrong {
		if r.RelativeError < 5e-3 {
			t.Errorf("a derivative that is 5 %% too large passes: %+v", r)
		}
	}
}

// Central differences across a corner lead to the mean of its two slopes; each side has its own.
func TestACornerHasTwoSlopes(t *testing.T) {
	corner := func(x float64) (float64, float64, error) { return math.Sin(3*x) + 2*math.Max(x, 0) + x*x, x, nil }
	for _, test := range []struct {
		name     string
		estimate func(float64, func(float64) (float64, float64, error)) (float64, float64, float64, error)
		want     float64
	}{{"central", gradcheck.Derivative, 4}, {"left", gradcheck.Left, 3}, {"right", gradcheck.Right, 5}} {
		slope, _, spread, err := test.estimate(2, corner)
		if err != nil || math.Abs(slope-test.want) > 2*spread+1e-3 || spread > 0.05 {
			t.Errorf("%s: %g ± %g, error %v; want %g", test.name, slope, spread, err, test.want)
		}
	}
}

// Noise as large as that of single precision, under which estimates wander for small steps,
// leaves the derivative of a smooth function narrow, by sides as well.
func TestASmoothFunctionInNoiseHasANarrowSlope(t *testing.T) {
	random := rand.New(rand.NewPCG(7, 8))
	noisy := func(x float64) (float64, float64, error) { return math.Exp(x) + 1e-6*random.NormFloat64(), x, nil }
	for name, estimate := range map[string]func(float64, func(float64) (float64, float64, error)) (float64, float64, float64, error){
		"central": gradcheck.Derivative, "left": gradcheck.Left, "right": gradcheck.Right,
	} {
		slope, step, spread, err := estimate(2, noisy)
		if open := 2*spread + 4e-6/step; err != nil || math.Abs(slope-1) > open || open > 0.02 {
			t.Errorf("%s: %g ± %g, error %v", name, slope, open, err)
		}
	}
}

// A gradient that a slice which is off by one leaves out is a two-hundredth of all, and weighs
// nothing along a direction that follows what is left.
func TestEdgesFindWhatASliceLeavesOut(t *testing.T) {
	if n := len(gradcheck.Edges([]int64{2, 5, 1, 8})); n != 4 {
		t.Errorf("%d edges of two halves, five rows and eight columns, want 4", n)
	}
	gradient := make([]float64, 40)
	for _, part := range append(gradcheck.Edges([]int64{5, 8}), gradcheck.Halves(40)...) {
		d := gradcheck.Direction(gradient, part, rand.New(rand.NewPCG(1, 2)))
		for i, v := range d {
			if (v != 0) != part(i) {
				t.Errorf("a direction has %g at %d, outside of its part", v, i)
			}
		}
	}
}

// A loss whose gradient is missing does not hide behind large outputs: terms weigh the same.
func TestTermsWeighTheSame(t *testing.T) {
	factors := gradcheck.Balance(map[string]float64{"large": 100, "small": 0.5, "tiny": 1e-9, "none": 0})
	for name, want := range map[string]float64{"large": 1, "small": 200, "tiny": 1e3, "none": 1} {
		if factors[name] != want {
			t.Errorf("%s has factor %g, want %g", name, factors[name], want)
		}
	}
}

func TestNothingToCompare(t *testing.T) {
	if _, err := check(t, 1, map[string]*tensor.Tensor{"n": tensor.OfInt64s([]int64{1})}); !errors.Is(err, gradcheck.ErrNothing) {
		t.Errorf("error is %v, want ErrNothing", err)
	}
}
