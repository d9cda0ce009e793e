package onestage

import (
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/alignedfusion/alignedfusion/host/fault"
	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

func TestStageMayBeLeftOutWhereThereIsOne(t *testing.T) {
	one := sdk.Manifest{Name: "p", Stages: []sdk.StageManifest{{Name: "a"}}}
	two := sdk.Manifest{Name: "p", Stages: []sdk.StageManifest{{Name: "a"}, {Name: "b"}}}
	if s, err := oneStage(one, ""); err != nil || s.Name != "a" {
		t.Errorf("got %v, %v, want stage a", s, err)
	}
	if s, err := oneStage(two, "b"); err != nil || s.Name != "b" {
		t.Errorf("got %v, %v, want stage b", s, err)
	}
	for _, name := range []string{"", "c"} {
		if _, err := oneStage(two, name); err == nil || !strings.Contains(err.Error(), "a, b") {
			t.Errorf("stage %q: %v, want an error that lists the stages", name, err)
		}
	}
}

func TestLossesAndMetricsAreScalarsAmongTheArrays(t *testing.T) {
	resp := &sdk.ForwardResponse{Outputs: map[string]*tensor.Tensor{"y": tensor.OfFloat32s([]float32{1})},
		Losses: map[string]float64{"l": 2}, Metrics: map[string]float64{"m": 3}}
	arrays := Arrays(resp)
	if len(arrays) != 3 || len(resp.Outputs) != 1 {
		t.Errorf("%d arrays and %d outputs, want 3 and 1", len(arrays), len(resp.Outputs))
	}
	for name, want := range map[string]float64{"loss.l": 2, "metric.m": 3} {
		if v, err := arrays[name].Float64s(); err != nil || len(v) != 1 || v[0] != want || len(arrays[name].Shape) != 0 {
			t.Errorf("%s is %v, %v, want the scalar %v", name, v, err, want)
		}
	}
}

func TestFirstNumberThatIsNotFiniteIsFound(t *testing.T) {
	inf := float32(math.Inf(1))
	if i, v := notFinite(tensor.OfFloat32s([]float32{0, inf, 2})); v == nil || i != 1 || *v != inf {
		t.Errorf("got %v at %d, want +Inf at 1", v, i)
	}
	if _, v := notFinite(tensor.OfFloat32s([]float32{0, 1})); v != nil {
		t.Errorf("got %v among finite numbers", *v)
	}
}

func TestRefusedArraysAreTheDatasFaultAndMadeUpOnesTheUsers(t *testing.T) {
	refused := &sdk.Error{Code: sdk.InvalidArgument, Call: "forward"}
	for own, want := range map[bool]fault.Kind{true: fault.Data, false: fault.Usage} {
		if got := fault.Of((&Stage{own: own}).refusal(refused)); got != want {
			t.Errorf("own inputs %v: kind %v, want %v", own, got, want)
		}
	}
	if other := errors.New("x"); (&Stage{}).refusal(other) != other {
		t.Error("another error was changed")
	}
}
