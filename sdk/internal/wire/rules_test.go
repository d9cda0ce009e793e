package wire

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/proto/stagev1"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

// script is a stage whose answers a test writes; log keeps the calls.
type script struct {
	forward  func(*sdk.ForwardRequest) (*sdk.ForwardResponse, error)
	backward func(*sdk.BackwardRequest) (*sdk.BackwardResponse, error)
	save     func(dir string) ([]string, error)
	norm     float64
	log      []string
	ended    []uint64
}

func (s *script) Forward(_ context.Context, r *sdk.ForwardRequest) (*sdk.ForwardResponse, error) {
	s.log = append(s.log, "forward")
	return s.forward(r)
}

func (s *script) Backward(_ context.Context, r *sdk.BackwardRequest) (*sdk.BackwardResponse, error) {
	s.log = append(s.log, "backward")
	return s.backward(r)
}

func (s *script) Release(_ context.Context, id uint64) error {
	s.ended = append(s.ended, id)
	s.log = append(s.log, "release")
	return nil
}
func (s *script) ZeroGrad(context.Context) error            { s.log = append(s.log, "zero"); return nil }
func (s *script) GradNorm(context.Context) (float64, error) { return s.norm, nil }
func (s *script) Step(context.Context, *sdk.StepRequest) error {
	s.log = append(s.log, "step")
	return nil
}
func (s *script) Close() error                                         { s.log = append(s.log, "close"); return nil }
func (s *script) Save(_ context.Context, dir string) ([]string, error) { return s.save(dir) }
func (s *script) Load(context.Context, string, bool) error             { s.log = append(s.log, "load"); return nil }

// untrained is a stage that only runs forward.
type untrained struct{ *script }

func (untrained) Backward() {} // not that of Trainer
func (untrained) Save()     {} // not that of Saver

// rig is a server with one stage, head "s": x [N 2] and y [N 2], one loss, one metric.
type rig struct {
	*Server
	stage *script
	id    uint64
}

func manifestOf(change func(m *sdk.StageManifest)) sdk.Manifest {
	m := sdk.StageManifest{
		Name: "s", Kind: sdk.KindHead, Trainable: true, Losses: []string{"l"}, Metrics: []string{"m"},
		Inputs:  []sdk.Port{{Name: "x", DType: tensor.FP32, Shape: []string{"N", "2"}, Differentiable: true}, {Name: "hint", DType: tensor.FP32, Shape: []string{"N"}}},
		Outputs: []sdk.Port{{Name: "y", DType: tensor.FP32, Shape: []string{"N", "2"}, Differentiable: true}, {Name: "count", DType: tensor.Int64, Shape: []string{"N"}}},
	}
	if change != nil {
		change(&m)
	}
	return sdk.Manifest{Name: "p", Stages: []sdk.StageManifest{m}}
}

func newRig(t *testing.T, train bool, group string, change func(m *sdk.StageManifest)) *rig {
	t.Helper()
	s := &script{
		forward: func(*sdk.ForwardRequest) (*sdk.ForwardResponse, error) {
			return &sdk.ForwardResponse{Outputs: map[string]*tensor.Tensor{"y": zeros(1, 2)}, Losses: map[string]float64{"l": 3}, Metrics: map[string]float64{"m": 4}, Notes: []string{"note"}}, nil
		},
		backward: func(*sdk.BackwardRequest) (*sdk.BackwardResponse, error) { return nil, nil },
	}
	r := &rig{Server: NewServer(sdk.Plugin{Manifest: manifestOf(change), Open: func(context.Context, *sdk.OpenRequest) (sdk.Stage, *sdk.OpenResponse, error) { return s, nil, nil }}), stage: s}
	opened, err := r.Open(t.Context(), &stagev1.OpenRequest{Stage: "s", Train: train, Group: group})
	if err != nil {
		t.Fatal(err)
	}
	r.id = opened.Instance
	return r
}

func wire(name string, x *tensor.Tensor, needsGrad bool) *stagev1.Tensor {
	return &stagev1.Tensor{Name: name, Dtype: string(x.DType), Shape: x.Shape, NeedsGrad: needsGrad, Payload: &stagev1.Tensor_Raw{Raw: x.Data}}
}

func (r *rig) run(t *testing.T, context uint64, mode stagev1.Mode, inputs ...*stagev1.Tensor) (*stagev1.ForwardResponse, error) {
	t.Helper()
	return r.Forward(t.Context(), &stagev1.ForwardRequest{Instance: r.id, Context: context, Mode: mode, Inputs: inputs})
}

func (r *rig) back(t *testing.T, request *stagev1.BackwardRequest) (*stagev1.BackwardResponse, error) {
	t.Helper()
	request.Instance = r.id
	return r.Server.Backward(t.Context(), request)
}

const train, eval = stagev1.Mode_MODE_TRAIN, stagev1.Mode_MODE_EVAL

// refused checks code and words of a call's status.
func refused(t *testing.T, err error, code sdk.Code, words ...string) {
	t.Helper()
	back := ErrorFromStatus(err, "p")
	if err == nil || sdk.CodeOf(back) != code {
		t.Errorf("error %v, want code %v", err, code)
		return
	}
	for _, w := range words {
		if !strings.Contains(back.Error(), w) {
			t.Errorf("error %q does not say %q", back, w)
		}
	}
}

func TestAnswersOfAStageReachTheHost(t *testing.T) {
	r := newRig(t, true, "", nil)
	got, err := r.run(t, 1, train, wire("x", zeros(1, 2), true))
	if err != nil || got.Losses["l"] != 3 || got.Metrics["m"] != 4 || !slices.Equal(got.Notes, []string{"note"}) || len(got.Outputs) != 1 || got.Cost.GetPeakRssBytes() < 1<<20 {
		t.Fatalf("%v, %v", got, err)
	}
	if norm, err := r.GradNorm(t.Context(), &stagev1.GradNormRequest{Instance: r.id}); err != nil || norm.Norm != 0 || norm.Cost == nil {
		t.Errorf("norm %v, %v", norm, err)
	}
	r.stage.norm = 5
	if norm, err := r.GradNorm(t.Context(), &stagev1.GradNormRequest{Instance: r.id}); err != nil || norm.Norm != 5 {
		t.Errorf("norm %v, %v", norm, err)
	}
}

// What a stage answers is held to its manifest; the graph of a bad answer is let go.
func TestBadAnswersAreTheStagesFault(t *testing.T) {
	answer := func(change func(*sdk.ForwardResponse)) func(*sdk.ForwardRequest) (*sdk.ForwardResponse, error) {
		return func(*sdk.ForwardRequest) (*sdk.ForwardResponse, error) {
			resp := &sdk.ForwardResponse{Outputs: map[string]*tensor.Tensor{"y": zeros(1, 2)}}
			change(resp)
			return resp, nil
		}
	}
	for _, test := range []struct {
		name     string
		forward  func(*sdk.ForwardRequest) (*sdk.ForwardResponse, error)
		code     sdk.Code
		words    []string
		released bool
	}{
		{"an undeclared output", answer(func(r *sdk.ForwardResponse) { r.Outputs["z"] = zeros(1) }), sdk.Internal, []string{`"z"`, "y, count"}, true},
		{"a wrong shape", answer(func(r *sdk.ForwardResponse) { r.Outputs["y"] = zeros(1, 3) }), sdk.Internal, []string{`"y" is FP32 [1 3]`}, true},
		{"an undeclared loss", answer(func(r *sdk.ForwardResponse) { r.Losses = map[string]float64{"k": 1} }), sdk.Internal, []string{`loss "k"`, `["l"]`}, true},
		{"an undeclared metric", answer(func(r *sdk.ForwardResponse) { r.Metrics = map[string]float64{"k": 1} }), sdk.Internal, []string{`metric "k"`}, true},
		{"nothing", func(*sdk.ForwardRequest) (*sdk.ForwardResponse, error) { return nil, nil }, sdk.Internal, []string{"no response and no error"}, false},
		{"a panic", func(*sdk.ForwardRequest) (*sdk.ForwardResponse, error) { panic("ouch") }, sdk.Internal, []string{"head s: forward", "panic: ouch", "log has the stack"}, false},
		{"an error", func(*sdk.ForwardRequest) (*sdk.ForwardResponse, error) {
			return nil, sdk.Errorf(sdk.ResourceExhausted, "8 bytes")
		}, sdk.ResourceExhausted, []string{"head s: forward: 8 bytes"}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newRig(t, true, "", nil)
			r.stage.forward = test.forward
			_, err := r.run(t, 1, train, wire("x", zeros(1, 2), false))
			refused(t, err, test.code, test.words...)
			if got := slices.Equal(r.stage.ended, []uint64{1}); got != test.released {
				t.Errorf("contexts released: %v", r.stage.ended)
			}
			_, err = r.back(t, &stagev1.BackwardRequest{Context: 1})
			refused(t, err, sdk.NotFound, "context 1 does not exist")
		})
	}
	r := newRig(t, true, "", nil)
	r.stage.forward = answer(func(r *sdk.ForwardResponse) { r.Losses = map[string]float64{"k": 1} })
	if _, err := r.run(t, 1, eval); err == nil || len(r.stage.ended) != 0 {
		t.Errorf("EVAL: error %v, released %v; want nothing to release", err, r.stage.ended)
	}
}

func TestBadRequestsAreTheCallersFault(t *testing.T) {
	x := wire("x", zeros(1, 2), false)
	for _, test := range []struct {
		name    string
		request *stagev1.ForwardRequest
		code    sdk.Code
		words   []string
	}{
		{"no mode", &stagev1.ForwardRequest{}, sdk.InvalidArgument, []string{"want EVAL or TRAIN"}},
		{"given twice", &stagev1.ForwardRequest{Mode: eval, Inputs: []*stagev1.Tensor{x, x}}, sdk.InvalidArgument, []string{`"x" is given twice`}},
		{"a gradient of what is not differentiable", &stagev1.ForwardRequest{Mode: train, Inputs: []*stagev1.Tensor{x, wire("hint", zeros(1), true)}}, sdk.InvalidArgument, []string{`"hint"`, "differentiable"}},
		{"a gradient in EVAL", &stagev1.ForwardRequest{Mode: eval, Inputs: []*stagev1.Tensor{wire("x", zeros(1, 2), true)}}, sdk.InvalidArgument, []string{`"x"`, "TRAIN"}},
		{"an output that is none", &stagev1.ForwardRequest{Mode: eval, Outputs: []string{"z"}}, sdk.InvalidArgument, []string{`"z"`, "[y count]"}},
		{"bytes outside the memory", &stagev1.ForwardRequest{Mode: eval, Inputs: []*stagev1.Tensor{{Name: "x", Dtype: "FP32", Shape: []int64{1, 2},
			Payload: &stagev1.Tensor_Shared{Shared: &stagev1.SharedRef{Offset: 64, Size: 8}}}}}, sdk.InvalidArgument, []string{`"x" is FP32 [1 2]`, "bytes 64 to 72"}},
	} {
		r := newRig(t, true, "", nil)
		test.request.Instance = r.id
		_, err := r.Forward(t.Context(), test.request)
		refused(t, err, test.code, test.words...)
		if len(r.stage.log) > 0 {
			t.Errorf("%s: the stage was called", test.name)
		}
	}
	r := newRig(t, false, "", nil)
	_, err := r.run(t, 1, train)
	refused(t, err, sdk.FailedPrecondition, "opened for inference", "open it with train set")
	_, err = r.Step(t.Context(), &stagev1.StepRequest{Instance: r.id, Values: map[string]float64{"rate": 1}})
	refused(t, err, sdk.InvalidArgument, "no value of learning_rate")
	if _, err := r.Step(t.Context(), &stagev1.StepRequest{Instance: r.id, Values: map[string]float64{"learning_rate": 1}}); err != nil || !slices.Equal(r.stage.log, []string{"step"}) {
		t.Errorf("%v, %q", err, r.stage.log)
	}
}

func TestGradientsAreHeldToTheForward(t *testing.T) {
	y, x := zeros(1, 2), zeros(1, 2)
	for _, test := range []struct {
		name    string
		request *stagev1.BackwardRequest
		answer  map[string]*tensor.Tensor
		code    sdk.Code
		words   []string // none: accepted
	}{
		{"all is well", &stagev1.BackwardRequest{OutputGrads: []*stagev1.Tensor{wire("y", y, false)}, LossWeights: map[string]float64{"l": 1}}, map[string]*tensor.Tensor{"x": x}, 0, nil},
		{"an absent gradient is zero", &stagev1.BackwardRequest{}, map[string]*tensor.Tensor{"x": x}, 0, nil},
		{"of an output that is not differentiable", &stagev1.BackwardRequest{OutputGrads: []*stagev1.Tensor{wire("count", y, false)}}, nil, sdk.InvalidArgument, []string{`"count" is not a differentiable output`, "[y]"}},
		{"of another shape", &stagev1.BackwardRequest{OutputGrads: []*stagev1.Tensor{wire("y", zeros(2, 2), false)}}, nil, sdk.InvalidArgument, []string{`"y" is FP32 [2 2], want FP32 [1 2]`}},
		{"of another dtype", &stagev1.BackwardRequest{OutputGrads: []*stagev1.Tensor{wire("y", tensor.OfInt32s([]int32{1, 2}, 1, 2), false)}}, nil, sdk.InvalidArgument, []string{`"y" is INT32 [1 2], want FP32 [1 2]`}},
		{"a weight of no loss", &stagev1.BackwardRequest{LossWeights: map[string]float64{"k": 1}}, nil, sdk.InvalidArgument, []string{`loss "k"`}},
		{"an answer without the gradient", &stagev1.BackwardRequest{}, nil, sdk.Internal, []string{`"x" is without a gradient`, "want FP32 [1 2]"}},
		{"an answer of another shape", &stagev1.BackwardRequest{}, map[string]*tensor.Tensor{"x": zeros(1, 3)}, sdk.Internal, []string{`"x" is FP32 [1 3], want FP32 [1 2]`}},
		{"an answer nobody asked for", &stagev1.BackwardRequest{}, map[string]*tensor.Tensor{"x": x, "hint": zeros(1)}, sdk.Internal, []string{`"hint" is not an input whose gradient was asked for`}},
		{"an answer without bytes", &stagev1.BackwardRequest{}, map[string]*tensor.Tensor{"x": {DType: tensor.FP32, Shape: []int64{1, 2}}}, sdk.Internal, []string{`"x" is FP32 [1 2]`, "bytes"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newRig(t, true, "", nil)
			r.stage.backward = func(*sdk.BackwardRequest) (*sdk.BackwardResponse, error) {
				return &sdk.BackwardResponse{InputGrads: test.answer}, nil
			}
			r.stage.forward = func(*sdk.ForwardRequest) (*sdk.ForwardResponse, error) {
				return &sdk.ForwardResponse{Outputs: map[string]*tensor.Tensor{"y": y, "count": tensor.OfInt64s([]int64{1}, 1)}}, nil
			}
			if _, err := r.run(t, 1, train, wire("x", x, true), wire("hint", zeros(1), false)); err != nil {
				t.Fatal(err)
			}
			test.request.Context = 1
			got, err := r.back(t, test.request)
			if len(test.words) == 0 {
				if err != nil || len(got.InputGrads) != 1 || got.Cost == nil {
					t.Errorf("%v, %v", got, err)
				}
				return
			}
			refused(t, err, test.code, test.words...)
		})
	}
}

func TestEndedContextsAreToldFromUnknownOnes(t *testing.T) {
	r := newRig(t, true, "", nil)
	for id := range uint64(endedMemory + 2) {
		if _, err := r.run(t, id, train); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Release(t.Context(), &stagev1.ReleaseRequest{Instance: r.id, Contexts: []uint64{id, id, 1 << 40}}); err != nil {
			t.Fatal(err)
		}
	}
	if len(r.stage.ended) != endedMemory+2 {
		t.Errorf("the stage let %d contexts go, want each once", len(r.stage.ended))
	}
	for id, code := range map[uint64]sdk.Code{0: sdk.NotFound, 1: sdk.NotFound, 2: sdk.FailedPrecondition, endedMemory + 1: sdk.FailedPrecondition} {
		_, err := r.back(t, &stagev1.BackwardRequest{Context: id})
		refused(t, err, code)
	}
	if _, err := r.run(t, 2, train); err != nil { // a number may be used again
		t.Fatal(err)
	}
	if _, err := r.back(t, &stagev1.BackwardRequest{Context: 2}); err != nil {
		t.Error(err)
	}
}

// EVAL runs of a stage with residents in a group stay; the oldest makes room.
func TestResidentsOfEvalStayUntilNewerOnesCome(t *testing.T) {
	resident := func(m *sdk.StageManifest) { m.Outputs = append(m.Outputs, sdk.Port{Name: "maps", Resident: true}) }
	r := newRig(t, true, "g", resident)
	for id := range uint64(3) {
		if _, err := r.run(t, id, eval); err != nil {
			t.Fatal(err)
		}
	}
	if !slices.Equal(r.stage.ended, []uint64{0}) {
		t.Errorf("released %v, want the oldest of three, for two may be open", r.stage.ended)
	}
	_, err := r.back(t, &stagev1.BackwardRequest{Context: 1})
	refused(t, err, sdk.FailedPrecondition, "context 1 is an EVAL run")
	_, err = r.run(t, 2, eval)
	refused(t, err, sdk.InvalidArgument, "context 2 is open already")
	for id := range uint64(2) { // TRAIN contexts have their own bound
		if _, err := r.run(t, 10+id, train); err != nil {
			t.Fatal(err)
		}
	}
	_, err = r.run(t, 12, train)
	refused(t, err, sdk.FailedPrecondition, "2 contexts are open")
	if _, err := r.run(t, 3, eval); err != nil || !slices.Equal(r.stage.ended, []uint64{0, 1}) {
		t.Errorf("%v; released %v, want the oldest EVAL run", err, r.stage.ended)
	}
	_, err = r.Forward(t.Context(), &stagev1.ForwardRequest{Instance: r.id, Context: 20, Mode: eval, Outputs: []string{"maps"}})
	refused(t, err, sdk.InvalidArgument, `"maps"`, "[y count]")

	alone := newRig(t, true, "", resident) // no group, nobody to keep them for
	for id := range uint64(3) {
		if _, err := alone.run(t, id, eval); err != nil {
			t.Fatal(err)
		}
	}
	if len(alone.stage.ended) > 0 || len(alone.instances[alone.id].open) > 0 {
		t.Errorf("EVAL runs stay without a group")
	}
}

// shown is a stage that is shown inputs ahead.
type shown struct {
	*script
	seen map[uint64]*tensor.Tensor
}

func (s *shown) Prefetch(_ context.Context, r *sdk.PrefetchRequest) error {
	s.seen[r.Ticket] = r.Inputs["x"].Clone()
	return nil
}

// Inputs are shown while a Forward runs, which would hang otherwise; the next says which they were.
func TestInputsAreShownBesideARunningCall(t *testing.T) {
	r := newRig(t, false, "", nil)
	s := &shown{r.stage, map[uint64]*tensor.Tensor{}}
	r.instances[r.id].stage = s
	x := tensor.OfFloat32s([]float32{1, 2}, 1, 2)
	var tickets []uint64
	r.stage.forward = func(req *sdk.ForwardRequest) (*sdk.ForwardResponse, error) {
		tickets = append(tickets, req.Ticket)
		_, err := r.Prefetch(t.Context(), &stagev1.PrefetchRequest{Instance: r.id, Ticket: 5, Inputs: []*stagev1.Tensor{wire("x", x, false)}})
		return nil, err
	}
	for _, ticket := range []uint64{0, 5} {
		_, _ = r.Forward(t.Context(), &stagev1.ForwardRequest{Instance: r.id, Context: ticket + 1, Mode: stagev1.Mode_MODE_EVAL, Ticket: ticket,
			Inputs: []*stagev1.Tensor{wire("x", x, false)}})
	}
	if !slices.Equal(tickets, []uint64{0, 5}) || s.seen[5] == nil || !slices.Equal(s.seen[5].Data, x.Data) {
		t.Errorf("tickets %v, shown %v", tickets, s.seen)
	}
	_, err := r.Prefetch(t.Context(), &stagev1.PrefetchRequest{Instance: r.id + 1})
	refused(t, err, sdk.NotFound, "does not exist")
}

func TestAStageThatCannotTrainIsNotAsked(t *testing.T) {
	open := func(m sdk.Manifest, stage sdk.Stage) (*Server, *stagev1.OpenResponse, error) {
		s := NewServer(sdk.Plugin{Manifest: m, Open: func(context.Context, *sdk.OpenRequest) (sdk.Stage, *sdk.OpenResponse, error) { return stage, nil, nil }})
		r, err := s.Open(t.Context(), &stagev1.OpenRequest{Stage: "s"})
		return s, r, err
	}
	plain := manifestOf(func(m *sdk.StageManifest) { m.Trainable = false })
	inner := &script{}
	s, r, err := open(plain, untrained{inner})
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.ZeroGrad(t.Context(), &stagev1.ZeroGradRequest{Instance: r.Instance})
	refused(t, err, sdk.Unimplemented, "cannot be trained")
	_, err = s.Forward(t.Context(), &stagev1.ForwardRequest{Instance: r.Instance, Mode: train})
	refused(t, err, sdk.Unimplemented, "cannot be trained")
	_, err = s.Save(t.Context(), &stagev1.SaveRequest{Instance: r.Instance, Dir: t.TempDir()})
	refused(t, err, sdk.Unimplemented, "no state to save")
	_, err = s.Open(t.Context(), &stagev1.OpenRequest{Stage: "s", Train: true})
	refused(t, err, sdk.Unimplemented, "cannot be trained")
	_, _, err = open(manifestOf(nil), untrained{inner})
	refused(t, err, sdk.Internal, "does not implement sdk.Trainer")
	if !slices.Equal(inner.log, []string{"close"}) {
		t.Errorf("calls %q, want the stage that was refused closed", inner.log)
	}
}

func TestOpenHandsOverWhatTheHostSent(t *testing.T) {
	var got *sdk.OpenRequest
	m := manifestOf(func(m *sdk.StageManifest) { m.Settings = []sdk.Setting{{Name: "width", Type: "int", Default: "3"}} })
	s := NewServer(sdk.Plugin{Manifest: m, Open: func(_ context.Context, r *sdk.OpenRequest) (sdk.Stage, *sdk.OpenResponse, error) {
		got = r
		return &script{}, &sdk.OpenResponse{ParameterCount: 7, TrainableCount: 5, Notes: []string{"note"}, Inputs: []sdk.Port{{Name: "x", Shape: []string{"N", "2"}}}, Outputs: []sdk.Port{{Name: "y"}}}, nil
	}})
	sent := sdk.OpenRequest{
		Stage: "s", Settings: sdk.Settings{"width": "4"}, Seed: 9, Device: "cpu", Threads: 2, Train: true, Group: "g", Task: "classify",
		Inputs: []sdk.Port{{Name: "x", DType: tensor.FP32, Shape: []string{"N", "2"}}}, AttributeSchema: []byte("{}"),
		Labels:    []sdk.LabelSet{{Name: "d", Classes: []string{"a", "b"}, ClassWeights: []float64{1, 2}}},
		Optimizer: sdk.Optimizer{Name: "sgd", Values: map[string]float64{"momentum": 0.5}}, Constants: map[string]*tensor.Tensor{"value.embedding": tensor.OfFloat32s([]float32{1, 2}, 2)},
	}
	request := OpenToProto(&sent)
	constant := wire("value.embedding", sent.Constants["value.embedding"], false)
	request.Constants = []*stagev1.Tensor{constant}
	resp, err := s.Open(t.Context(), request)
	if err != nil || resp.ParameterCount != 7 || resp.TrainableCount != 5 || len(resp.Notes) != 1 || resp.Inputs[0].Name != "x" || resp.Outputs[0].Name != "y" || resp.Cost == nil {
		t.Fatalf("%v, %v", resp, err)
	}
	clear(constant.Payload.(*stagev1.Tensor_Raw).Raw) // the bytes of a constant are the call's, the stage keeps a copy
	sent.Constants = map[string]*tensor.Tensor{"value.embedding": tensor.OfFloat32s([]float32{1, 2}, 2)}
	if diff := cmp.Diff(&sent, got); diff != "" {
		t.Errorf("what the stage is opened with: %s", diff)
	}
	constant.Shape = []int64{3}
	_, err = s.Open(t.Context(), request)
	refused(t, err, sdk.InvalidArgument, `"value.embedding" is a bad constant`, "head s: open")
	_, err = s.Open(t.Context(), &stagev1.OpenRequest{Stage: "s", Settings: map[string]string{"width": "x"}})
	refused(t, err, sdk.InvalidArgument, "width")
	for _, test := range []struct {
		open sdk.OpenFunc
		word string
	}{
		{func(context.Context, *sdk.OpenRequest) (sdk.Stage, *sdk.OpenResponse, error) { return nil, nil, nil }, "no stage and no error"},
		{func(context.Context, *sdk.OpenRequest) (sdk.Stage, *sdk.OpenResponse, error) { panic("ouch") }, "panic: ouch"},
	} {
		_, err := NewServer(sdk.Plugin{Manifest: m, Open: test.open}).Open(t.Context(), &stagev1.OpenRequest{Stage: "s"})
		refused(t, err, sdk.Internal, test.word)
	}
}

func TestAHeadPromisesItsLossesUnlessItSaysOtherwise(t *testing.T) {
	for _, test := range []struct {
		kind       sdk.Kind
		said, want []string
	}{
		{sdk.KindHead, nil, []string{"a", "b"}},
		{sdk.KindHead, []string{"b"}, []string{"b"}},
		{sdk.KindHead, []string{}, nil},
		{sdk.KindHead, []string{"other.x"}, []string{"other.x"}},
		{sdk.KindFusion, nil, nil},
		{sdk.KindFusion, []string{"a"}, []string{"a"}},
	} {
		m := manifestOf(func(m *sdk.StageManifest) { m.Kind, m.Losses = test.kind, []string{"a", "b", "other.*"} })
		resp, err := NewServer(sdk.Plugin{Manifest: m, Open: func(context.Context, *sdk.OpenRequest) (sdk.Stage, *sdk.OpenResponse, error) {
			return &script{}, &sdk.OpenResponse{Losses: test.said}, nil
		}}).Open(t.Context(), &stagev1.OpenRequest{Stage: "s"})
		if err != nil || !slices.Equal(resp.GetLosses(), test.want) {
			t.Errorf("a %s that says %q: %q, %v, want %q", test.kind, test.said, resp.GetLosses(), err, test.want)
		}
	}
	m := manifestOf(func(m *sdk.StageManifest) { m.Losses = []string{"a"} })
	_, err := NewServer(sdk.Plugin{Manifest: m, Open: func(context.Context, *sdk.OpenRequest) (sdk.Stage, *sdk.OpenResponse, error) {
		return &script{}, &sdk.OpenResponse{Losses: []string{"c"}}, nil
	}}).Open(t.Context(), &stagev1.OpenRequest{Stage: "s"})
	refused(t, err, sdk.Internal, `loss "c" is not in the manifest`)
}

func TestSavedFilesLieInTheFolder(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "w"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		dir, file string
		code      sdk.Code
		word      string // "" for none
	}{
		{dir, "w", 0, ""},
		{dir, "v", sdk.Internal, "saved file"},
		{dir, "../w", sdk.Internal, `"../w" lies outside`},
		{filepath.Join(dir, "missing"), "w", sdk.InvalidArgument, "missing"},
		{filepath.Join(dir, "w"), "w", sdk.InvalidArgument, "not a folder"},
	} {
		r := newRig(t, true, "", nil)
		r.stage.save = func(string) ([]string, error) { return []string{test.file}, nil }
		got, err := r.Save(t.Context(), &stagev1.SaveRequest{Instance: r.id, Dir: test.dir})
		if test.word == "" {
			if err != nil || !slices.Equal(got.Files, []string{"w"}) || got.Cost == nil {
				t.Errorf("%v, %v", got, err)
			}
			continue
		}
		refused(t, err, test.code, test.word)
	}
	r := newRig(t, true, "", nil)
	r.stage.save = func(string) ([]string, error) { return []string{"v"}, sdk.Errorf(sdk.ResourceExhausted, "disk full") }
	_, err := r.Save(t.Context(), &stagev1.SaveRequest{Instance: r.id, Dir: dir})
	refused(t, err, sdk.ResourceExhausted, "disk full")
	if _, err := r.Load(t.Context(), &stagev1.LoadRequest{Instance: r.id, Dir: dir}); err != nil || !slices.Equal(r.stage.log, []string{"load"}) {
		t.Errorf("%v, %q", err, r.stage.log)
	}
}

func TestShutdownClosesEveryInstanceAndEndsOnce(t *testing.T) {
	r := newRig(t, true, "", nil)
	var ended []string
	r.plugin.Shutdown = func() { ended = append(ended, "shutdown") }
	r.Exit = func() { ended = append(ended, "exit") }
	for range 2 {
		if _, err := r.Shutdown(t.Context(), &stagev1.ShutdownRequest{DeadlineMs: 60_000}); err != nil {
			t.Fatal(err)
		}
	}
	if !slices.Equal(r.stage.log, []string{"close"}) || !slices.Equal(ended, []string{"shutdown", "exit", "exit"}) {
		t.Errorf("calls %q, %q", r.stage.log, ended)
	}
	_, err := r.run(t, 1, eval)
	refused(t, err, sdk.NotFound, "instance 1 does not exist")
	_, err = r.Open(t.Context(), &stagev1.OpenRequest{Stage: "s"})
	refused(t, err, sdk.FailedPrecondition, "shutting down")
	if !slices.Equal(r.stage.log, []string{"close", "close"}) {
		t.Errorf("calls %q, want what was opened too late closed", r.stage.log)
	}
}

// A stage that hangs in Close does not keep the process beyond the deadline.
func TestShutdownKeepsItsDeadline(t *testing.T) {
	r := newRig(t, true, "", nil)
	hang := make(chan struct{})
	r.plugin.Shutdown = func() { <-hang }
	defer close(hang)
	if _, err := r.Shutdown(t.Context(), &stagev1.ShutdownRequest{DeadlineMs: 1}); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("error %v, want the deadline", err)
	}
}

func TestSharedMemoryIsAttachedOnceAndWhole(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "memory"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := file.Truncate(4096); err != nil {
		t.Fatal(err)
	}
	s := NewServer(sdk.Plugin{})
	attach := func(r *stagev1.AttachRequest) error {
		_, err := s.Attach(t.Context(), r)
		return err
	}
	path := &stagev1.AttachRequest_Path{Path: file.Name()}
	refused(t, attach(&stagev1.AttachRequest{How: path, Size: 4095}), sdk.InvalidArgument, "4096 bytes, the request says 4095")
	refused(t, attach(&stagev1.AttachRequest{How: &stagev1.AttachRequest_Path{Path: file.Name() + "x"}, Size: 4096}), sdk.InvalidArgument, "memoryx")
	refused(t, attach(&stagev1.AttachRequest{How: &stagev1.AttachRequest_InheritedFd{InheritedFd: 9999}, Size: 4096}), sdk.InvalidArgument, "file descriptor 9999")
	refused(t, attach(&stagev1.AttachRequest{Size: 4096}), sdk.Unimplemented, "inherited_fd or path")
	empty, err := os.Create(file.Name() + "-empty")
	if err != nil {
		t.Fatal(err)
	}
	defer empty.Close()
	refused(t, attach(&stagev1.AttachRequest{How: &stagev1.AttachRequest_Path{Path: empty.Name()}}), sdk.InvalidArgument, "0 bytes")
	if err := attach(&stagev1.AttachRequest{How: &stagev1.AttachRequest_InheritedFd{InheritedFd: int32(file.Fd())}, Size: 4096}); err != nil {
		t.Fatal(err)
	}
	defer unmapShared(s.memory)
	s.memory[0] = 7
	if b := make([]byte, 1); len(s.shared()) != 4096 {
		t.Errorf("%d bytes are mapped", len(s.shared()))
	} else if _, err := file.ReadAt(b, 0); err != nil || b[0] != 7 {
		t.Errorf("the memory is not shared: %v, %v", b, err)
	}
	refused(t, attach(&stagev1.AttachRequest{How: path, Size: 4096}), sdk.FailedPrecondition, "attached already")
}

func TestSlotHandsOutAlignedRoomWhileItLasts(t *testing.T) {
	memory := make([]byte, 1<<20)
	for i := range memory {
		memory[i] = 0xff
	}
	s := newSlot(memory, &stagev1.SharedRef{Offset: 128, Size: 192})
	first, err := s.tensor("a", tensor.FP32, 2)
	if err != nil {
		t.Fatal(err)
	}
	second, err := s.tensor("b", tensor.UInt8, 128)
	if err != nil {
		t.Fatal(err)
	}
	if &first.Data[0] != &memory[128] || &second.Data[0] != &memory[192] || first.Data[0] != 0 || len(first.Data) != 8 || cap(first.Data) != 8 {
		t.Error("tensors do not lie one after the other at multiples of 64, cleared")
	}
	full, err := s.tensor("c", tensor.UInt8, 1)
	if err != nil || len(full.Data) != 1 {
		t.Fatalf("%v, %v", full, err)
	}
	for _, shape := range [][]int64{{-1}, {1 << 62, 4}} {
		if x, err := s.tensor("d", tensor.FP32, shape...); err == nil {
			t.Errorf("%v gives %v", shape, x)
		}
	}
	out := s.write(map[string]*tensor.Tensor{"a": first, "b": second, "c": full})
	for i, want := range []*stagev1.SharedRef{{Offset: 128, Size: 8}, {Offset: 192, Size: 128}, nil} {
		if got := out[i].GetShared(); got.GetOffset() != want.GetOffset() || got.GetSize() != want.GetSize() {
			t.Errorf("%s lies at %v, want %v", out[i].Name, got, want)
		}
	}
	if out[2].GetRaw() == nil {
		t.Error("what found no room is not in the message")
	}
	for _, ref := range []*stagev1.SharedRef{nil, {Offset: 1, Size: 64}, {Offset: 1 << 20, Size: 64}, {Offset: 64, Size: 1 << 20}, {Offset: 2 << 20}} {
		if s := newSlot(memory, ref); len(s.memory) > 0 {
			t.Errorf("slot %v has %d bytes", ref, len(s.memory))
		}
	}
	if s := newSlot(memory, &stagev1.SharedRef{Offset: 64, Size: 1<<20 - 64}); len(s.memory) != 1<<20-64 {
		t.Error("a slot may reach to the end of the memory")
	}
}

// A tensor that the author made is copied where that costs less than the message.
func TestLargeOutputsAreCopiedIntoTheSlot(t *testing.T) {
	memory := make([]byte, 1<<16)
	for bytes, shared := range map[int64]bool{inBandBytes: false, inBandBytes + 1: true} {
		x, err := tensor.New(tensor.UInt8, bytes)
		if err != nil {
			t.Fatal(err)
		}
		x.Data[bytes-1] = 9
		out := newSlot(memory, &stagev1.SharedRef{Size: 1 << 16}).write(map[string]*tensor.Tensor{"x": x})
		back, err := TensorFromProto(out[0], memory)
		if err != nil || !cmp.Equal(back, x) || (out[0].GetShared() != nil) != shared {
			t.Errorf("%d bytes: shared %v, error %v", bytes, out[0].GetShared(), err)
		}
	}
}

func TestTensorsOfTheWireStayInsideTheMemory(t *testing.T) {
	memory := make([]byte, 192)
	for _, test := range []struct {
		offset, size uint64
		word         string // "" for none
	}{
		{128, 64, ""},
		{192, 0, "bytes"},
		{128, 65, "bytes 128 to 193 of a shared memory of 192 bytes"},
		{256, 0, "bytes 256 to 256"},
		{32, 64, "not a multiple of 64"},
	} {
		x, err := TensorFromProto(&stagev1.Tensor{Dtype: "UINT8", Shape: []int64{64}, Payload: &stagev1.Tensor_Shared{Shared: &stagev1.SharedRef{Offset: test.offset, Size: test.size}}}, memory)
		if test.word == "" {
			if err != nil || &x.Data[0] != &memory[test.offset] || cap(x.Data) != int(test.size) {
				t.Errorf("%v, %v; want a view of the memory", x, err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), test.word) {
			t.Errorf("%d bytes at %d: %v, want %q", test.size, test.offset, err, test.word)
		}
	}
	odd := make([]byte, 9)[1:]
	if x, err := TensorFromProto(&stagev1.Tensor{Dtype: "FP32", Shape: []int64{2}, Payload: &stagev1.Tensor_Raw{Raw: odd}}, nil); err != nil || !x.Aligned() {
		t.Errorf("in-band bytes at an odd place: %v, %v", x, err)
	}
}

func TestErrorsTravelWhole(t *testing.T) {
	for code, name := range map[sdk.Code]string{sdk.Internal: "Internal", sdk.InvalidArgument: "InvalidArgument", sdk.FailedPrecondition: "FailedPrecondition", sdk.NotFound: "NotFound",
		sdk.ResourceExhausted: "ResourceExhausted", sdk.Unimplemented: "Unimplemented", sdk.Code(99): "Code(99)"} {
		if code.String() != name {
			t.Errorf("code %d is called %s", code, code)
		}
	}
	full := &sdk.Error{Code: sdk.InvalidArgument, Stage: "head s", Call: "forward", Port: "x", Given: "FP32 [1]", Wanted: "FP32 [2]", Advice: "mend it", Err: errors.New("cause")}
	var back *sdk.Error
	if err := ErrorFromStatus(StatusError(full, "other", "other"), "p"); !errors.As(err, &back) {
		t.Fatal(err)
	}
	if got, want := back.Error(), `plugin p: head s: forward: "x" is FP32 [1], want FP32 [2]: cause (mend it)`; got != want || back.Code != sdk.InvalidArgument {
		t.Errorf("%v %s\nwant %s", back.Code, got, want)
	}
	for want, err := range map[string]error{
		"plugin p: head s: open: plain":             errors.New("plain"),
		"plugin p: head s: open: around: inner":     errorf("around: %w", sdk.Errorf(sdk.NotFound, "inner")),
		`plugin p: head s: open: "x" (hint)`:        &sdk.Error{Port: "x", Advice: "hint"},
		"plugin p: head s: open: given, want other": &sdk.Error{Given: "given", Wanted: "other"},
		"plugin p: head s: open: why, want other":   &sdk.Error{Err: errors.New("why"), Wanted: "other"},
	} {
		if got := ErrorFromStatus(StatusError(err, "head s", "open"), "p").Error(); got != want {
			t.Errorf("%s\nwant %s", got, want)
		}
	}
	if got := sdk.CodeOf(ErrorFromStatus(StatusError(errorf("around: %w", sdk.Errorf(sdk.NotFound, "inner")), "", ""), "")); got != sdk.NotFound {
		t.Errorf("words around an error change its code to %v", got)
	}
	if StatusError(nil, "s", "c") != nil || ErrorFromStatus(nil, "p") != nil {
		t.Error("no error became one")
	}
	for err, code := range map[error]codes.Code{context.Canceled: codes.Canceled, context.DeadlineExceeded: codes.DeadlineExceeded} {
		sent := StatusError(errorf("call: %w", err), "s", "c")
		if status.Code(sent) != code || ErrorFromStatus(sent, "p") != sent {
			t.Errorf("%v became %v", err, sent)
		}
	}
	bare := ErrorFromStatus(status.Error(codes.Unimplemented, "unknown method"), "p")
	if sdk.CodeOf(bare) != sdk.Unimplemented || bare.Error() != "plugin p: unknown method" {
		t.Errorf("a status without details: %v", bare)
	}
	if broken := status.Error(codes.Unavailable, "connection lost"); ErrorFromStatus(broken, "p") != broken {
		t.Error("a broken connection became a stage's error")
	}
	if plain := errors.New("no status"); ErrorFromStatus(plain, "p") != plain {
		t.Error("what is no status changed")
	}
}

func errorf(format string, args ...any) error {
	return sdk.Errorf(sdk.Internal, format, args...).(*sdk.Error).Err
}

func TestManifestsTravelWhole(t *testing.T) {
	low := -1.0
	m := sdk.Manifest{
		Name: "p", Version: "1", License: "L", ModelCard: "card", Runtime: "Go", Capabilities: []string{"train"}, MaxOpenContexts: 3,
		Stages: []sdk.StageManifest{{
			Name: "s", Kind: sdk.KindHead, Summary: "sum", Losses: []string{"l"}, Metrics: []string{"m"}, Tasks: []string{"detect"}, Trainable: true,
			Inputs: []sdk.Port{{Name: "x", DType: tensor.FP32, Shape: []string{"N"}, Required: true, Differentiable: true, SizeMultiple: 8, Help: "in",
				Intensity: &sdk.Intensity{Low: 1, High: 2, OutLow: 3, OutHigh: 4, Mean: []float64{5}, Std: []float64{6}}}},
			Outputs:  []sdk.Port{{Name: "y", Resident: true, OnRequest: true}},
			Settings: []sdk.Setting{{Name: "k", Type: "float", Default: "0", Min: &low, Max: &low, Help: "set"}, {Name: "c", Type: "string", Default: "a", Choices: []string{"a", "b"}}},
		}},
	}
	if diff := cmp.Diff(m, ManifestFromProto(ManifestToProto(m))); diff != "" {
		t.Error(diff)
	}
	for given, want := range map[int]int{-1: 2, 0: 2, 1: 1, 5: 5} {
		if got := (sdk.Manifest{MaxOpenContexts: given}).OpenContexts(); got != want {
			t.Errorf("%d open contexts mean %d, want %d", given, got, want)
		}
	}
	if _, err := m.Stage("t"); err == nil || !strings.Contains(err.Error(), `plugin p has no stage "t", want one of [s]`) {
		t.Error(err)
	}
	for text, word := range map[string]string{`{"name": "p", "protocol_major": 2}`: `plugin "p" speaks protocol major 2, want 1`, `{`: "manifest"} {
		if _, err := ManifestFromJSON([]byte(text)); err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("%s: %v", text, err)
		}
	}
	if back, err := ManifestFromJSON([]byte(`{"name": "p", "protocol_major": 1, "of a later minor": 1}`)); err != nil || back.Name != "p" {
		t.Errorf("unknown fields: %v, %v", back, err)
	}
	for _, capabilities := range [][]string{nil, {"train"}, {sdk.CapabilitySharedMemory}} {
		s := NewServer(sdk.Plugin{Manifest: sdk.Manifest{Capabilities: capabilities}})
		got, err := s.Describe(t.Context(), nil)
		if err != nil || strings.Count(strings.Join(got.Manifest.Capabilities, " "), sdk.CapabilitySharedMemory) != 1 {
			t.Errorf("capabilities %v, %v; want shared-memory once", got, err)
		}
	}
}

func TestOpenedPortsSaySizesAndManifestsWhatAPortIs(t *testing.T) {
	declared := []sdk.Port{
		{Name: "x", DType: tensor.FP32, Shape: []string{"N", "C"}, Required: true, Differentiable: true, SizeMultiple: 16, Intensity: &sdk.Intensity{High: 1}, Help: "declared"},
		{Name: "tokens.*", DType: tensor.FP32, Resident: true, OnRequest: true},
	}
	opened := []sdk.Port{
		{Name: "x", DType: tensor.FP64, Shape: []string{"N", "8"}, SizeMultiple: 4},
		{Name: "tokens.ct", Shape: []string{"N", "T", "6"}, Help: "opened", SizeMultiple: 2, Intensity: &sdk.Intensity{High: 9}},
		{Name: "own", Shape: []string{"1"}, Required: true},
	}
	want := []sdk.Port{
		{Name: "x", DType: tensor.FP32, Shape: []string{"N", "8"}, Required: true, Differentiable: true, SizeMultiple: 16, Intensity: &sdk.Intensity{High: 1}, Help: "declared"},
		{Name: "tokens.ct", DType: tensor.FP32, Shape: []string{"N", "T", "6"}, Resident: true, OnRequest: true, SizeMultiple: 2, Help: "opened", Intensity: &sdk.Intensity{High: 9}},
		{Name: "own", Shape: []string{"1"}, Required: true},
		declared[1],
	}
	if diff := cmp.Diff(want, sdk.KnownPorts(declared, opened)); diff != "" {
		t.Error(diff)
	}
}

func TestGuardNamesStageAndCall(t *testing.T) {
	if err := guard("head s", "step", func() error { return nil }); err != nil {
		t.Error(err)
	}
	err := guard("head s", "step", func() error { panic("ouch") })
	if err == nil || !strings.HasPrefix(err.Error(), "head s: step: panic: ouch") {
		t.Error(err)
	}
	before := time.Now()
	if c := cost(before.Add(-time.Second)); c.ComputeNs < int64(time.Second) {
		t.Errorf("a second costs %d ns", c.ComputeNs)
	}
}

// Whatever a plugin prints for --describe is read or refused, and what is read can be
// written again.
func FuzzManifestFromJSON(f *testing.F) {
	text, err := ManifestJSON(manifestOf(nil))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte(`{"name": "p", "protocol_major": 1, "max_open_contexts": 4294967295}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		m, err := ManifestFromJSON(text)
		if err != nil {
			return
		}
		again, err := ManifestJSON(m)
		if err != nil {
			return // texts that are no UTF-8
		}
		back, err := ManifestFromJSON(again)
		if err != nil {
			t.Fatalf("%s was written and is refused: %v", again, err)
		}
		if m.MaxOpenContexts = m.OpenContexts(); !cmp.Equal(m, back, cmpopts.EquateEmpty()) {
			t.Errorf("read %+v, read again %+v", m, back)
		}
	})
}

func zeros(shape ...int64) *tensor.Tensor {
	t, err := tensor.New(tensor.FP32, shape...)
	if err != nil {
		panic(err)
	}
	return t
}

// Whatever a message says about a tensor, reading it neither panics nor reads outside
// the memory, and what is accepted is sound.
func FuzzTensorFromProto(f *testing.F) {
	f.Add("FP32", int64(2), int64(3), uint64(0), uint64(24), []byte{}, true)
	f.Add("FP32", int64(2), int64(3), uint64(64), uint64(24), make([]byte, 24), false)
	f.Add("BYTES", int64(1), int64(1), uint64(0), uint64(8), []byte{1, 0, 0, 0, 65}, false)
	f.Add("INT64", int64(1)<<62, int64(1)<<62, ^uint64(0)-63, uint64(128), []byte{}, true)
	f.Fuzz(func(t *testing.T, dtype string, a, b int64, offset, size uint64, raw []byte, shared bool) {
		memory := make([]byte, 1024)
		p := &stagev1.Tensor{Name: "x", Dtype: dtype, Shape: []int64{a, b}, Payload: &stagev1.Tensor_Raw{Raw: raw}}
		if shared {
			p.Payload = &stagev1.Tensor_Shared{Shared: &stagev1.SharedRef{Offset: offset, Size: size}}
		}
		x, err := TensorFromProto(p, memory)
		if err != nil {
			return
		}
		if err := x.Check(); err != nil || !x.Aligned() {
			t.Errorf("accepted %s with %d bytes: %v", x, len(x.Data), err)
		}
	})
}

func TestARefusedSettingIsNamedOnTheOtherSideOfTheWire(t *testing.T) {
	err := ErrorFromStatus(StatusError(sdk.RefuseSetting("width", "%d given, want a multiple of %d", 5, 2), "head h", "open"), "mine")
	var refused *sdk.Error
	if !errors.As(err, &refused) || refused.Setting != "width" || err.Error() != "plugin mine: head h: open: setting width: 5 given, want a multiple of 2" {
		t.Errorf("%v", err)
	}
}

func TestBoundsOfSettingsCrossTheWire(t *testing.T) {
	m := sdk.StageManifest{Settings: sdk.SettingsOf(struct {
		Width int     `setting:"width" default:"8" min:"1" max:"64" help:"of a layer"`
		Rate  float64 `setting:"rate" default:"0.5" min:"0" below:"1"`
		Norm  string  `setting:"norm" default:"layer" choices:"layer,batch"`
	}{})}
	if diff := cmp.Diff(m.Settings, stageFromProto(stageToProto(m)).Settings); diff != "" {
		t.Error(diff)
	}
}

func TestCallThatWasGivenUpIsNotRun(t *testing.T) {
	r := newRig(t, true, "", nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.Forward(ctx, &stagev1.ForwardRequest{Instance: r.id, Context: 1, Mode: eval}); err == nil {
		t.Error("no error")
	}
	if len(r.stage.log) > 0 {
		t.Errorf("the stage was asked for %v", r.stage.log)
	}
}

func TestWhatCannotStayInTheProcessIsRefused(t *testing.T) {
	m := manifestOf(func(m *sdk.StageManifest) { m.Inputs[0].Name, m.Inputs[0].Required = "x.*", true })
	m.Capabilities = []string{sdk.CapabilityKeep}
	var got *sdk.OpenRequest
	stage := &script{forward: func(*sdk.ForwardRequest) (*sdk.ForwardResponse, error) {
		return &sdk.ForwardResponse{Outputs: map[string]*tensor.Tensor{"count": tensor.OfInt64s([]int64{1}, 1)}}, nil
	}}
	open := func(m sdk.Manifest, r *stagev1.OpenRequest) (*Server, *stagev1.OpenResponse, error) {
		s := NewServer(sdk.Plugin{Manifest: m, Open: func(_ context.Context, r *sdk.OpenRequest) (sdk.Stage, *sdk.OpenResponse, error) {
			got = r
			return stage, nil, nil
		}})
		r.Stage = "s"
		resp, err := s.Open(t.Context(), r)
		return s, resp, err
	}
	for _, test := range []struct {
		request *stagev1.OpenRequest
		words   []string
	}{
		{&stagev1.OpenRequest{Keeps: []string{"y"}, Keeper: "a"}, []string{"one group"}},
		{&stagev1.OpenRequest{Group: "g", Keeps: []string{"y"}}, []string{"no name to keep them under"}},
		{&stagev1.OpenRequest{Group: "g", Keeps: []string{"z"}, Keeper: "a"}, []string{`"z"`}},
		{&stagev1.OpenRequest{Group: "g", Kept: map[string]string{"z": "a"}}, []string{`"z"`}},
	} {
		_, _, err := open(m, test.request)
		refused(t, err, sdk.InvalidArgument, test.words...)
	}
	_, _, err := open(manifestOf(nil), &stagev1.OpenRequest{Group: "g", Keeps: []string{"y"}, Keeper: "a"})
	refused(t, err, sdk.Unimplemented, "capability keep")

	// What is kept is neither given nor answered; a family of which a member is kept is given.
	s, r, err := open(m, &stagev1.OpenRequest{Group: "g", Keeps: []string{"y"}, Keeper: "b", Kept: map[string]string{"x.a": "a"}})
	if err != nil || !slices.Equal(got.Keeps, []string{"y"}) || got.Keeper != "b" || got.Kept["x.a"] != "a" {
		t.Fatalf("%v; opened with %+v", err, got)
	}
	if _, err := s.Forward(t.Context(), &stagev1.ForwardRequest{Instance: r.Instance, Context: 1, Mode: eval}); err != nil {
		t.Error(err)
	}
	if len(s.instances[r.Instance].open) != 1 {
		t.Error("an EVAL run of a stage that keeps something has ended by itself")
	}
	_, err = s.Forward(t.Context(), &stagev1.ForwardRequest{Instance: r.Instance, Context: 2, Mode: eval, Inputs: []*stagev1.Tensor{wire("x.a", zeros(1, 2), false)}})
	refused(t, err, sdk.InvalidArgument, `"x.a"`, "resident")
}

func TestAProgramServesItsOtherPluginsByName(t *testing.T) {
	r := newRig(t, false, "", nil)
	r.Others = map[string]func() sdk.Plugin{"q": func() sdk.Plugin {
		m := manifestOf(func(m *sdk.StageManifest) { m.Name = "other" })
		m.Name = "q"
		return sdk.Plugin{Manifest: m, Open: func(context.Context, *sdk.OpenRequest) (sdk.Stage, *sdk.OpenResponse, error) {
			return &script{}, nil, nil
		}}
	}}
	for asked, want := range map[string]string{"": "p", "p": "p", "q": "q"} {
		d, err := r.Describe(t.Context(), &stagev1.DescribeRequest{Plugin: asked})
		if err != nil || d.Manifest.Name != want || !slices.Contains(d.Manifest.Capabilities, sdk.CapabilityTogether) {
			t.Errorf("%q: %v, %v", asked, d, err)
		}
	}
	_, err := r.Describe(t.Context(), &stagev1.DescribeRequest{Plugin: "z"})
	refused(t, err, sdk.InvalidArgument, `no plugin "z"`, "[p q]")
	if _, err := r.Open(t.Context(), &stagev1.OpenRequest{Plugin: "q", Stage: "other"}); err != nil {
		t.Error(err)
	}
	_, err = r.Open(t.Context(), &stagev1.OpenRequest{Stage: "other"})
	refused(t, err, sdk.InvalidArgument, `plugin p has no stage "other"`)
	if slices.Contains(newRig(t, false, "", nil).Manifest().Capabilities, sdk.CapabilityTogether) {
		t.Error("a program of one plugin says that it has others")
	}
}
