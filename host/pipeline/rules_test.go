package pipeline

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/alignedfusion/alignedfusion/host/fault"
	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

// probe is a stage that answers what a test says and keeps what it was asked.
type probe struct {
	plugin string
	log    *[]string // calls of all stages in order: "plugin call"

	outputs, gradients map[string]*tensor.Tensor
	losses, metrics    map[string]float64
	notes              []string
	norm               float64
	fails              map[string]error // by call
	cost               Cost

	forwards  []*sdk.ForwardRequest
	backwards []*sdk.BackwardRequest
	steps     []*sdk.StepRequest
}

func (p *probe) called(call string) error {
	*p.log = append(*p.log, p.plugin+" "+call)
	p.cost = p.cost.Add(Cost{Wall: 3 * time.Millisecond, Compute: time.Millisecond, Calls: 1})
	return p.fails[call]
}

func (p *probe) Forward(_ context.Context, req *sdk.ForwardRequest) (*sdk.ForwardResponse, error) {
	p.forwards = append(p.forwards, req)
	return &sdk.ForwardResponse{Outputs: p.outputs, Losses: p.losses, Metrics: p.metrics, Notes: p.notes}, p.called("forward")
}

func (p *probe) Backward(_ context.Context, req *sdk.BackwardRequest) (*sdk.BackwardResponse, error) {
	p.backwards = append(p.backwards, req)
	return p.backward(req), p.called("backward")
}

func (p *probe) backward(req *sdk.BackwardRequest) *sdk.BackwardResponse {
	resp := &sdk.BackwardResponse{InputGrads: p.gradients}
	if req.GradNorm {
		resp.GradNorm = p.norm
	}
	return resp
}

func (p *probe) ForwardBackward(_ context.Context, f *sdk.ForwardRequest, b *sdk.BackwardRequest) (*sdk.ForwardResponse, *sdk.BackwardResponse, error) {
	p.forwards = append(p.forwards, f)
	resp, err := &sdk.ForwardResponse{Outputs: p.outputs, Losses: p.losses, Metrics: p.metrics, Notes: p.notes}, p.called("forward-backward")
	if !(&Run{Losses: p.losses}).Finite() {
		return resp, nil, err
	}
	p.backwards = append(p.backwards, b)
	return resp, p.backward(b), err
}

func (p *probe) Step(_ context.Context, req *sdk.StepRequest) error {
	p.steps = append(p.steps, req)
	return p.called("step")
}

func (p *probe) GradNorm(context.Context) (float64, error)              { return p.norm, p.called("norm") }
func (p *probe) Release(context.Context, uint64) error                  { return p.called("release") }
func (p *probe) ZeroGrad(context.Context) error                         { return p.called("zero") }
func (p *probe) Close() error                                           { return p.called("close") }
func (p *probe) Save(context.Context, string) (files []string, _ error) { return nil, p.called("save") }
func (p *probe) Load(context.Context, string, bool) error               { return p.called("load") }
func (p *probe) Cost() Cost                                             { return p.cost }

// row is a pipeline of three probes, called eye, mix and out:
// image -> encoder -> tokens.x -> fusion -> joint; tokens.x and joint -> head, which owns
// the target. Everything can be trained.
type row struct {
	*Pipeline
	log           []string
	eye, mix, out *probe
}

func vector(v ...float32) *tensor.Tensor { return tensor.OfFloat32s(v, int64(len(v))) }

func probes() *row {
	r := &row{Pipeline: &Pipeline{}}
	port := func(name string, differentiable bool) sdk.Port {
		return sdk.Port{Name: name, Differentiable: differentiable}
	}
	add := func(role sdk.Kind, plugin string, inputs, outputs []sdk.Port, losses ...string) *probe {
		p := &probe{plugin: plugin, log: &r.log, outputs: map[string]*tensor.Tensor{}, fails: map[string]error{}, norm: 1}
		r.Members = append(r.Members, &Member{
			Source:   Source{Role: role, Plugin: plugin, Stage: sdk.StageManifest{Trainable: true, Losses: losses}},
			Instance: p,
			Opened:   &sdk.OpenResponse{TrainableCount: 1, Inputs: inputs, Outputs: outputs},
		})
		return p
	}
	tokens, joint := port("tokens.x", true), port("joint", true)
	r.eye = add(sdk.KindEncoder, "eye", []sdk.Port{port("image", true)}, []sdk.Port{tokens})
	r.mix = add(sdk.KindFusion, "mix", []sdk.Port{tokens}, []sdk.Port{joint}, "rec")
	r.out = add(sdk.KindHead, "out", []sdk.Port{tokens, joint, port("target", false)}, []sdk.Port{port("logits", true), {Name: "extra", OnRequest: true}}, "cls")
	r.eye.outputs["tokens.x"] = vector(1, 2)
	r.mix.outputs["joint"] = vector(3)
	r.out.outputs["logits"] = vector(4)
	r.out.losses = map[string]float64{"cls": 2}
	r.mix.losses = map[string]float64{"rec": 8}
	return r
}

func (r *row) input() map[string]*tensor.Tensor {
	return map[string]*tensor.Tensor{"image": vector(9), "target": vector(1)}
}

func (r *row) forward(t *testing.T, o ForwardOptions) *Run {
	t.Helper()
	run, err := r.Forward(t.Context(), o, r.input())
	if err != nil {
		t.Fatal(err)
	}
	return run
}

func names[V any](m map[string]V) string { return strings.Join(slices.Sorted(maps.Keys(m)), " ") }

func TestEachStageGetsThePortsItDeclares(t *testing.T) {
	r := probes()
	r.Members[2].Opened.Inputs[1].Resident = true // joint stays where it is
	r.forward(t, ForwardOptions{})
	run := r.forward(t, ForwardOptions{Seed: 7, Wanted: map[string]bool{"extra": true, "logits": true, "nothing": true}})
	for _, test := range []struct {
		p      *probe
		role   string
		inputs string
		wanted string
	}{{r.eye, "encoder", "image", ""}, {r.mix, "fusion", "tokens.x", ""}, {r.out, "head", "target tokens.x", "extra"}} {
		req := test.p.forwards[1]
		if got := names(req.Inputs); got != test.inputs {
			t.Errorf("%s got inputs %q, want %q", test.role, got, test.inputs)
		}
		if got := names(req.Wanted); got != test.wanted {
			t.Errorf("%s is asked for %q, want %q", test.role, got, test.wanted)
		}
		if req.Seed != Seed(7, test.role) || req.Train || req.Context != 2 || test.p.forwards[0].Context != 1 {
			t.Errorf("%s: seed %d, train %v, contexts %d and %d", test.role, req.Seed, req.Train, test.p.forwards[0].Context, req.Context)
		}
		if x, err := req.NewOutput("y", tensor.FP32, 2, 3); err != nil || x.String() != "FP32 [2 3]" {
			t.Errorf("%s: NewOutput gives %v, %v", test.role, x, err)
		}
	}
	if got := names(run.Outputs); got != "image joint logits target tokens.x" {
		t.Errorf("outputs are %q", got)
	}
}

func TestAnswersOfAllStagesAreGathered(t *testing.T) {
	r := probes()
	r.mix.metrics, r.out.metrics = map[string]float64{"m": 1}, map[string]float64{"o": 2}
	r.mix.notes, r.out.notes = []string{"first"}, []string{"second"}
	run := r.forward(t, ForwardOptions{})
	if diff := cmp.Diff([]any{map[string]float64{"rec": 8, "cls": 2}, map[string]float64{"m": 1, "o": 2}, []string{"first", "second"}},
		[]any{run.Losses, run.Metrics, run.Notes}); diff != "" {
		t.Error(diff)
	}
	if run, err := probes().Forward(t.Context(), ForwardOptions{}, nil); err != nil || len(run.Outputs) != 3 {
		t.Errorf("without inputs: %v, %v; want the stages' three outputs", run, err)
	}
}

// A gradient is asked for when it reaches parameters further up, and only then.
func TestGradientsAreAskedForWhereSomebodyLearns(t *testing.T) {
	for _, test := range []struct {
		name     string
		change   func(r *row)
		mix, out string // inputs whose gradients are wanted
	}{
		{"all train", func(*row) {}, "tokens.x", "joint tokens.x"},
		{"the encoder has nothing to train", func(r *row) { r.Members[0].Opened.TrainableCount = 0 }, "", "joint"},
		{"the encoder cannot train", func(r *row) { r.Members[0].Stage.Trainable = false }, "", "joint"},
		{"a fusion without parameters passes gradients on", func(r *row) { r.Members[1].Opened.TrainableCount = 0 }, "tokens.x", "joint tokens.x"},
		{"only the head learns", func(r *row) { r.Members[0].Opened.TrainableCount, r.Members[1].Opened.TrainableCount = 0, 0 }, "", ""},
		{"the fusion cannot train", func(r *row) { r.Members[1].Stage.Trainable = false }, "", "tokens.x"},
		{"tokens are not differentiable for the head", func(r *row) { r.Members[2].Opened.Inputs[0].Differentiable = false }, "tokens.x", "joint"},
		{"the encoder's tokens are not differentiable", func(r *row) { r.Members[0].Opened.Outputs[0].Differentiable = false }, "", "joint"},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := probes()
			// A slice of ports is shared between stages: each test has its own.
			for _, m := range r.Members {
				m.Opened.Inputs, m.Opened.Outputs = slices.Clone(m.Opened.Inputs), slices.Clone(m.Opened.Outputs)
			}
			test.change(r)
			r.forward(t, ForwardOptions{Train: true})
			if got := names(r.mix.forwards[0].NeedsGrad); got != test.mix {
				t.Errorf("fusion: gradients of %q, want %q", got, test.mix)
			}
			if got := names(r.out.forwards[0].NeedsGrad); got != test.out {
				t.Errorf("head: gradients of %q, want %q", got, test.out)
			}
			if got := names(r.eye.forwards[0].NeedsGrad); got != "" {
				t.Errorf("gradients of the host's %q are of use to nobody", got)
			}
		})
	}
	r := probes()
	r.forward(t, ForwardOptions{})
	if got := names(r.out.forwards[0].NeedsGrad); got != "" {
		t.Errorf("EVAL mode: gradients of %q", got)
	}
}

func TestBackwardWeighsLossesAndSumsGradients(t *testing.T) {
	r := probes()
	r.out.gradients = map[string]*tensor.Tensor{"tokens.x": vector(1, 2), "joint": vector(5), "target": vector(7)}
	r.mix.gradients = map[string]*tensor.Tensor{"tokens.x": vector(10, 30)}
	run := r.forward(t, ForwardOptions{Train: true})
	r.log = nil
	if err := run.Backward(t.Context(), BackwardOptions{LossWeights: map[string]float64{"rec": 0.5}, Scale: 0.25}); err != nil {
		t.Fatal(err)
	}
	if want := []string{"out backward", "mix backward", "eye backward"}; !slices.Equal(r.log, want) {
		t.Errorf("calls are %q, want %q", r.log, want)
	}
	if diff := cmp.Diff(map[string]float64{"cls": 0.25}, r.out.backwards[0].LossWeights); diff != "" {
		t.Errorf("weights of the head's losses: %s", diff)
	}
	if diff := cmp.Diff(map[string]float64{"rec": 0.125}, r.mix.backwards[0].LossWeights); diff != "" {
		t.Errorf("weights of the fusion's losses: %s", diff)
	}
	for _, test := range []struct {
		p    *probe
		want map[string]*tensor.Tensor
	}{{r.out, map[string]*tensor.Tensor{}}, {r.mix, map[string]*tensor.Tensor{"joint": vector(5)}}, {r.eye, map[string]*tensor.Tensor{"tokens.x": vector(11, 32)}}} {
		if diff := cmp.Diff(test.want, test.p.backwards[0].OutputGrads); diff != "" {
			t.Errorf("gradients that reach %s: %s", test.p.plugin, diff)
		}
		if test.p.backwards[0].Context != 1 {
			t.Errorf("%s: context %d, want that of its forward", test.p.plugin, test.p.backwards[0].Context)
		}
	}
	if got := r.out.gradients["tokens.x"]; !cmp.Equal(got, vector(1, 2)) {
		t.Errorf("the sum overwrote a stage's gradient: %v", got.Data)
	}
	if err := run.Backward(t.Context(), BackwardOptions{Scale: 1}); err == nil {
		t.Error("a second backward of one run is accepted")
	}
	if err := run.Release(t.Context()); err != nil || len(r.log) != 3 {
		t.Errorf("releasing an ended run calls %q, %v", r.log[3:], err)
	}
}

func TestGradientsThatCannotBeSummedNameTheStage(t *testing.T) {
	for _, test := range []struct {
		gradient *tensor.Tensor
		want     string
	}{
		{vector(1, 2, 3), "[2] and [3] differ"},
		{tensor.OfInt64s([]int64{1, 2}, 2), "INT64"},
	} {
		r := probes()
		r.out.gradients = map[string]*tensor.Tensor{"tokens.x": vector(1, 2)}
		r.mix.gradients = map[string]*tensor.Tensor{"tokens.x": test.gradient}
		err := r.forward(t, ForwardOptions{Train: true}).Backward(t.Context(), BackwardOptions{Scale: 1})
		if err == nil || !strings.HasPrefix(err.Error(), `fusion mix: backward: gradient of "tokens.x": `) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%v; want it to name the fusion and %q", err, test.want)
		}
		if len(r.eye.backwards) > 0 || r.log[len(r.log)-1] != "eye release" {
			t.Errorf("calls are %q; want the encoder released", r.log)
		}
	}
	if got, err := sum(tensor.OfInt64s([]int64{1}, 1), vector(1)); err == nil {
		t.Errorf("an INT64 gradient was added: %v", got)
	}
}

// A call that fails ends the contexts of all stages, even when the caller has gone.
func TestFailingBackwardReleasesTheOthers(t *testing.T) {
	r := probes()
	r.mix.fails["backward"] = errors.New("broken")
	run := r.forward(t, ForwardOptions{Train: true})
	r.log = nil
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := run.Backward(ctx, BackwardOptions{Scale: 1})
	var stage *StageError
	if !errors.As(err, &stage) || stage.Role != sdk.KindFusion || stage.Plugin != "mix" || stage.Call != "backward" || err.Error() != "fusion mix: backward: broken" {
		t.Errorf("error is %v, want one of the fusion's backward", err)
	}
	if want := []string{"out backward", "mix backward", "mix release", "eye release"}; !slices.Equal(r.log, want) {
		t.Errorf("calls are %q, want %q", r.log, want)
	}
}

func TestReleaseEndsWhatTheRunHolds(t *testing.T) {
	for _, test := range []struct {
		name   string
		train  bool
		change func(r *row)
		want   []string
	}{
		{"EVAL leaves nothing", false, func(*row) {}, nil},
		{"TRAIN, last first", true, func(*row) {}, []string{"out release", "mix release", "eye release"}},
		{"a stage that does not train", true, func(r *row) { r.Members[1].Stage.Trainable = false }, []string{"out release", "eye release"}},
		{"residents of EVAL", false, func(r *row) {
			r.Members[0].Opened.Outputs = append(r.Members[0].Opened.Outputs, sdk.Port{Name: "maps", Resident: true})
		}, []string{"eye release"}},
	} {
		r := probes()
		test.change(r)
		run := r.forward(t, ForwardOptions{Train: test.train})
		for range 2 {
			r.log = slices.Clone(r.log[:len(r.log):len(r.log)])
			if err := run.Release(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if got := r.log[3:]; !slices.Equal(got, test.want) {
			t.Errorf("%s: calls are %q, want %q", test.name, got, test.want)
		}
	}
	r := probes()
	r.mix.fails["release"] = errors.New("stuck")
	if err := r.forward(t, ForwardOptions{Train: true}).Release(t.Context()); err == nil || err.Error() != "fusion mix: release: stuck" || r.log[len(r.log)-1] != "eye release" {
		t.Errorf("error %v, calls %q; want the fusion named and the encoder released all the same", err, r.log)
	}
}

func TestLossIsTheWeightedSum(t *testing.T) {
	run := &Run{Losses: map[string]float64{"a": 2, "b": 3, "c": 5}}
	if got := run.Loss(map[string]float64{"a": 10, "b": 0, "unknown": 7}); got != 25 {
		t.Errorf("loss is %g, want 10*2 + 0*3 + 5", got)
	}
	for value, want := range map[float64]bool{1: true, math.Inf(1): false, math.Inf(-1): false} {
		if got := (&Run{Losses: map[string]float64{"a": 1, "b": value}}).Finite(); got != want {
			t.Errorf("losses 1 and %g: finite %v", value, got)
		}
	}
	if (&Run{Losses: map[string]float64{"a": math.NaN()}}).Finite() {
		t.Error("NaN counts as finite")
	}
}

func spent(wall, compute time.Duration, calls, peak int64) Cost {
	return Cost{Wall: wall, Compute: compute, Calls: calls, PeakRSSBytes: peak}
}

func TestCostIsThatOfAllStages(t *testing.T) {
	r := probes()
	r.Members = append(r.Members, &Member{Instance: struct{ Instance }{}}) // one that does not measure
	r.eye.cost, r.mix.cost, r.out.cost = spent(10, 4, 1, 5), spent(20, 10, 2, 9), spent(30, 16, 3, 7)
	if got, want := r.Cost(), spent(60, 30, 6, 9); got != want {
		t.Errorf("cost %v, want %v", got, want)
	}
	if got, want := spent(60, 30, 6, 9).Sub(spent(10, 4, 1, 5)), spent(50, 26, 5, 9); got != want {
		t.Errorf("difference %v, want %v", got, want)
	}
}

func TestOutputIsTheLastStageThatGivesIt(t *testing.T) {
	r := probes()
	r.Members[0].Opened.Outputs[0].Help = "first"
	r.Members[1].Opened.Outputs = append(r.Members[1].Opened.Outputs, sdk.Port{Name: "tokens.*", Help: "second"})
	if port, ok := r.Output("tokens.x"); !ok || port.Help != "second" {
		t.Errorf("tokens.x is %v, %v; want the fusion's", port, ok)
	}
	if port, ok := r.Output("boxes"); ok {
		t.Errorf("boxes is %v, want none", port)
	}
	if r.Member(sdk.KindHead).Plugin != "out" || r.Member(sdk.KindText) != nil {
		t.Error("a member is not found by its role")
	}
	r.Members[1].Stage.Losses = []string{"rec", "cls"}
	if got := r.LossNames(); !slices.Equal(got, []string{"cls", "rec"}) {
		t.Errorf("losses are %q, want each once, in order", got)
	}
}

func TestCloseClosesEveryStageLastFirst(t *testing.T) {
	r := probes()
	r.mix.fails["close"] = errors.New("stuck")
	if err := r.Close(); err == nil || err.Error() != "fusion mix: close: stuck" {
		t.Errorf("error is %v", err)
	}
	if want := []string{"out close", "mix close", "eye close"}; !slices.Equal(r.log, want) {
		t.Errorf("calls are %q, want %q", r.log, want)
	}
	if err := r.Close(); err != nil || len(r.log) != 3 {
		t.Errorf("closed twice: %v, %q", err, r.log)
	}
}

// A cause that names plugin, stage and call itself is not given a second name.
func TestStageErrorNamesTheStageOnce(t *testing.T) {
	cause := error(&sdk.Error{Plugin: "eye", Stage: "encoder eye", Call: "forward", Given: "broken"})
	err := &StageError{Role: sdk.KindEncoder, Plugin: "eye", Call: "forward", Err: cause}
	if err.Error() != cause.Error() || !errors.Is(err, cause) {
		t.Error(err)
	}
}

func TestFitsComparesTypesRanksAndNumbers(t *testing.T) {
	shape := func(dims string) sdk.Port { return sdk.Port{DType: tensor.FP32, Shape: strings.Fields(dims)} }
	for _, test := range []struct {
		given, wanted sdk.Port
		want          bool
	}{
		{shape("N 3"), shape("N 3"), true},
		{shape("N 3"), shape("N 4"), false},
		{shape("4 3"), shape("3 3"), false},
		{shape("0 3"), shape("3 3"), false},
		{shape("3 3"), shape("0 3"), false},
		{shape("-1 3"), shape("5 3"), true},
		{shape("5 3"), shape("-1 3"), true},
		{shape("N 3"), shape("5 3"), true},
		{shape("5 3"), shape("M 3"), true},
		{shape("N 3"), shape("N 3 1"), false},
		{shape(""), shape("N 3"), true},
		{shape("N 3"), shape(""), true},
		{sdk.Port{DType: tensor.Int64}, shape("N"), false},
		{sdk.Port{}, shape("N"), true},
		{shape("N"), sdk.Port{}, true},
	} {
		if got := fits(test.given, test.wanted); got != test.want {
			t.Errorf("%s %v given, %s %v wanted: %v", test.given.DType, test.given.Shape, test.wanted.DType, test.wanted.Shape, got)
		}
	}
}

// checked runs Check on stages given as ports; process "" means one of its own.
func checked(host []sdk.Port, stages ...Source) error {
	for i := range stages {
		stages[i].Role, stages[i].Stage.Kind = sdk.KindEncoder, sdk.KindEncoder
		stages[i].Plugin = fmt.Sprintf("s%d", i)
		if stages[i].Process == "" {
			stages[i].Process = stages[i].Plugin
		}
	}
	return Check(stages, host, "classify")
}

func stage(process string, inputs, outputs []sdk.Port) Source {
	return Source{Process: process, Stage: sdk.StageManifest{Inputs: inputs, Outputs: outputs}}
}

func TestResidentPortsStayInOneProcess(t *testing.T) {
	maps := []sdk.Port{{Name: "maps", DType: tensor.FP32, Shape: []string{"N"}, Resident: true}}
	wants := func(required, resident bool) []sdk.Port {
		return []sdk.Port{{Name: "maps", DType: tensor.FP32, Shape: []string{"N"}, Required: required, Resident: resident}}
	}
	for _, test := range []struct {
		name   string
		stages []Source
		want   string // "" for none
	}{
		{"one process", []Source{stage("p", nil, maps), stage("p", wants(true, true), nil)}, ""},
		{"two processes", []Source{stage("p", nil, maps), stage("q", wants(true, true), nil)}, "take both stages from the same plugin"},
		{"optional in another process", []Source{stage("p", nil, maps), stage("q", wants(false, true), nil)}, ""},
		{"a port that travels is wanted", []Source{stage("p", nil, maps), stage("p", wants(true, false), nil)}, "take both stages from the same plugin"},
		{"nobody makes it", []Source{stage("p", nil, nil), stage("p", wants(true, true), nil)}, "take the stage before it from s1 too"},
	} {
		if err := checked(nil, test.stages...); (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", test.name, err, test.want)
		}
	}
}

// A family output stands for one port per member that the stage takes in.
func TestFamilyOutputsFollowTheMembersTakenIn(t *testing.T) {
	images, tokens := []sdk.Port{{Name: "image.*"}}, []sdk.Port{{Name: "tokens.*"}}
	need := func(name string) Source { return stage("", []sdk.Port{{Name: name, Required: true}}, nil) }
	host := []sdk.Port{{Name: "image.ct"}, {Name: "image.photo"}, {Name: "report"}}
	for _, test := range []struct {
		name   string
		before []Source
		asked  string
		want   bool
	}{
		{"member", []Source{stage("", images, tokens)}, "tokens.photo", true},
		{"another member", []Source{stage("", images, tokens)}, "tokens.ct", true},
		{"no member", []Source{stage("", images, tokens)}, "tokens.report", false},
		{"members known, the family itself is not on offer", []Source{stage("", images, tokens)}, "tokens.*", true},
		{"no family taken in: any member may come", []Source{stage("", []sdk.Port{{Name: "report"}}, tokens)}, "tokens.report", true},
		{"a member declared on its own", []Source{stage("", nil, []sdk.Port{{Name: "tokens.*"}, {Name: "tokens.ct"}})}, "tokens.ct", true},
		{"then others are not", []Source{stage("", nil, []sdk.Port{{Name: "tokens.*"}, {Name: "tokens.ct"}})}, "tokens.photo", false},
		{"through two stages", []Source{stage("", images, tokens), stage("", tokens, tokens)}, "tokens.ct", true},
		{"what the host gives stays on offer", []Source{stage("", images, tokens)}, "report", true},
	} {
		if err := checked(host, append(test.before, need(test.asked))...); (err == nil) != test.want {
			t.Errorf("%s: %v", test.name, err)
		}
	}
	err := checked(host, stage("", images, []sdk.Port{{Name: "tokens.*", DType: tensor.FP32}, {Name: "tokens.ct", DType: tensor.FP64}}),
		stage("", []sdk.Port{{Name: "tokens.ct", DType: tensor.FP64, Required: true}}, nil))
	if err != nil {
		t.Errorf("a member declared on its own has its own dtype: %v", err)
	}
}

func TestPortErrorSaysWhoGivesAndWhoWants(t *testing.T) {
	for want, e := range map[string]PortError{
		`head mlp: input "joint" is FP32 [N 192] from fusion sum, want FP32 [N 256]`:                             {Consumer: "head mlp", Producer: "fusion sum", Port: "joint", Given: "FP32 [N 192]", Wanted: "FP32 [N 256]"},
		`head mlp: input "joint" is given by nothing before it, which is encoder a, want FP32 [N] (on offer: x)`: {Consumer: "head mlp", Before: "encoder a", Port: "joint", Wanted: "FP32 [N]", Advice: "on offer: x"},
		`head mlp: input "joint" is given by nothing before it, want FP32 [N]`:                                   {Consumer: "head mlp", Port: "joint", Wanted: "FP32 [N]"},
	} {
		if got := e.Error(); got != want {
			t.Errorf("%s\nwant %s", got, want)
		}
	}
}

// opening is a source whose Open keeps its request.
func opening(role sdk.Kind, plugin string, requests map[sdk.Kind]sdk.OpenRequest, log *[]string, fail error) Source {
	in := map[sdk.Kind]string{sdk.KindEncoder: "image", sdk.KindHead: "tokens.x"}[role]
	outputs := map[sdk.Kind][]sdk.Port{sdk.KindEncoder: {{Name: "tokens.x", DType: tensor.FP32, Shape: []string{"N", "C"}, Help: "declared"}}}[role]
	return Source{
		Role: role, Plugin: plugin, Settings: map[string]string{"width": "3"},
		Stage: sdk.StageManifest{Name: plugin, Kind: role, Inputs: []sdk.Port{{Name: in}}, Outputs: outputs,
			Settings: []sdk.Setting{{Name: "width", Type: "int", Default: "1"}, {Name: "depth", Type: "int", Default: "2"}}},
		Open: func(_ context.Context, req *sdk.OpenRequest) (Instance, *sdk.OpenResponse, error) {
			requests[role] = *req
			if fail != nil {
				return nil, nil, fail
			}
			resp := &sdk.OpenResponse{}
			for _, p := range outputs {
				resp.Outputs = append(resp.Outputs, sdk.Port{Name: p.Name, Shape: []string{"N", "3"}})
			}
			return &probe{plugin: plugin, log: log}, resp, nil
		},
	}
}

func TestOpenTellsEachStageWhatFeedsIt(t *testing.T) {
	requests := map[sdk.Kind]sdk.OpenRequest{}
	var log []string
	req := sdk.OpenRequest{Task: "classify", Seed: 5, Device: "cpu", Train: true}
	p, err := Open(t.Context(), []Source{opening(sdk.KindEncoder, "eye", requests, &log, nil), opening(sdk.KindHead, "out", requests, &log, nil)}, []sdk.Port{{Name: "image"}}, req)
	if err != nil {
		t.Fatal(err)
	}
	settings := sdk.Settings{"width": "3", "depth": "2"}
	want := map[sdk.Kind]sdk.OpenRequest{
		sdk.KindEncoder: {Stage: "eye", Task: "classify", Seed: Seed(5, "open", "encoder"), Device: "cpu", Train: true, Settings: settings, Inputs: []sdk.Port{{Name: "image"}}},
		sdk.KindHead: {Stage: "out", Task: "classify", Seed: Seed(5, "open", "head"), Device: "cpu", Train: true, Settings: settings,
			Inputs: []sdk.Port{{Name: "tokens.x", DType: tensor.FP32, Shape: []string{"N", "3"}, Help: "declared"}}},
	}
	if diff := cmp.Diff(want, requests); diff != "" {
		t.Error(diff)
	}
	if got := p.Members[1]; got.Plugin != "out" || got.Resolved["depth"] != "2" || got.Opened.Inputs[0].Name != "tokens.x" {
		t.Errorf("member is %+v", got)
	}
}

// A rule of a stage's own, and bfloat16, are asked of those that declare it, where the run says so.
func TestOpenAsksForWhatAStageDeclares(t *testing.T) {
	hosts := sdk.Optimizer{Name: "adamw", Values: map[string]float64{"beta1": 0.9, sdk.EMA: 0.99}}
	own := sdk.Optimizer{Name: "lion", Values: map[string]float64{sdk.EMA: 0.99}}
	for _, test := range []struct {
		rules, declares, can, wanted bool
		optimizer                    sdk.Optimizer
	}{
		{true, true, true, true, own}, {false, true, true, false, hosts}, {true, false, false, true, hosts},
	} {
		requests, log := map[sdk.Kind]sdk.OpenRequest{}, []string{}
		s := opening(sdk.KindEncoder, "eye", requests, &log, nil)
		if s.OwnRules, s.AMP = test.rules, test.can; test.declares {
			s.Stage.Optimizer, s.Stage.Schedule = "lion", "restarts"
		}
		p, err := Open(t.Context(), []Source{s}, []sdk.Port{{Name: "image"}}, sdk.OpenRequest{Task: "classify", Optimizer: hosts, AMP: test.wanted})
		if err != nil {
			t.Fatal(err)
		}
		got := requests[sdk.KindEncoder]
		if diff := cmp.Diff(test.optimizer, got.Optimizer); diff != "" || got.AMP != (test.can && test.wanted) || p.Members[0].OwnSchedule() != (test.rules && test.declares) {
			t.Errorf("%+v: amp %v, schedule %v, optimizer %s", test, got.AMP, p.Members[0].OwnSchedule(), diff)
		}
	}
}

func TestOpenClosesWhatItHasOpenedOnAnError(t *testing.T) {
	requests := map[sdk.Kind]sdk.OpenRequest{}
	for _, test := range []struct {
		cause error
		kind  fault.Kind
	}{{errors.New("no memory"), fault.Plugin}, {sdk.RefuseSetting("width", "3 given, want 4"), fault.Usage}} {
		var log []string
		_, err := Open(t.Context(), []Source{opening(sdk.KindEncoder, "eye", requests, &log, nil), opening(sdk.KindHead, "out", requests, &log, test.cause)}, []sdk.Port{{Name: "image"}}, sdk.OpenRequest{})
		var stage *StageError
		if !errors.As(err, &stage) || stage.Call != "open" || stage.Role != sdk.KindHead || stage.Fault() != test.kind || !errors.Is(err, test.cause) {
			t.Errorf("error is %v", err)
		}
		if !slices.Equal(log, []string{"eye close"}) {
			t.Errorf("calls are %q, want the encoder closed", log)
		}
	}
}

func (r *row) step(t *testing.T, s Stepper, batches int) StepResult {
	t.Helper()
	s.Pipeline = r.Pipeline
	result, err := s.Step(t.Context(), 4, slices.Repeat([]Batch{{IDs: []string{"a"}, Inputs: r.input()}}, batches), map[sdk.Kind]map[string]float64{
		sdk.KindEncoder: {"learning_rate": 1}, sdk.KindFusion: {"learning_rate": 2}, sdk.KindHead: {"learning_rate": 3}})
	if err != nil {
		t.Fatal(err)
	}
	return result
}

func TestStepAveragesOverTheMicroBatches(t *testing.T) {
	r := probes()
	r.out.metrics = map[string]float64{"accuracy": 0.5}
	r.out.notes = []string{"note"}
	got := r.step(t, Stepper{Seed: 3, LossWeights: map[string]float64{"rec": 0.5}}, 2)
	if got.Loss != 2+0.5*8 || got.Losses["rec"] != 8 || got.Metrics["accuracy"] != 0.5 || got.Skipped || len(got.Notes) != 2 {
		t.Errorf("%+v; want the mean of equal batches", got)
	}
	for i, req := range r.eye.forwards {
		if want := Seed(Seed(3, "step", 4, i), "encoder"); req.Seed != want {
			t.Errorf("micro-batch %d has seed %d, want one of its own", i, req.Seed)
		}
	}
	if w := r.out.backwards[1].LossWeights["cls"]; w != 0.5 {
		t.Errorf("the loss of one of two micro-batches weighs %g, want a half", w)
	}
	once := []string{"eye forward", "mix forward", "out forward-backward", "mix backward", "eye backward"}
	want := slices.Concat([]string{"eye zero", "mix zero", "out zero"}, once, once, []string{"eye step", "mix step", "out step"})
	if diff := cmp.Diff(want, r.log); diff != "" {
		t.Errorf("calls: %s", diff)
	}
	if got.Cost.Calls != int64(len(want)) || got.Cost.Wall != 3*got.Cost.Compute {
		t.Errorf("cost %+v of %d calls", got.Cost, len(want))
	}
}

func TestStepScalesByTheGlobalNorm(t *testing.T) {
	for _, test := range []struct{ clip, scale float64 }{{0, 1}, {14, 1}, {7, 1}, {3.5, 0.5}} {
		r := probes()
		r.eye.norm, r.mix.norm, r.out.norm = 2, 3, 6 // 4 + 9 + 36 = 49
		got := r.step(t, Stepper{ClipNorm: test.clip}, 1)
		if got.GradNorm != 7 || got.Scale != test.scale {
			t.Errorf("clip %g: norm %g, scale %g, want 7 and %g", test.clip, got.GradNorm, got.Scale, test.scale)
		}
		if diff := cmp.Diff(map[string]float64{"encoder": 2, "fusion": 3, "head": 6}, got.GradNorms); diff != "" {
			t.Error(diff)
		}
		for rate, p := range map[float64]*probe{1: r.eye, 2: r.mix, 3: r.out} {
			if s := p.steps[0]; s.GradientScale != test.scale || s.Values["learning_rate"] != rate {
				t.Errorf("%s: scale %g, learning rate %v", p.plugin, s.GradientScale, s.Values)
			}
		}
	}
}

// A stage that names no task is made for every one.
func TestAStageWithoutTasksFitsEveryTask(t *testing.T) {
	m := sdk.Manifest{Name: "p", Stages: []sdk.StageManifest{{Name: "any", Kind: sdk.KindHead}, {Name: "boxes", Kind: sdk.KindHead, Tasks: []string{"detect"}}}}
	if s, err := PickStage(m, sdk.KindHead, "", "classify"); err != nil || s.Name != "any" {
		t.Errorf("%v, %v; want the stage without tasks", s, err)
	}
	if _, err := PickStage(m, sdk.KindHead, "", "detect"); err == nil {
		t.Error("of two that fit one was chosen")
	}
}

// What is not updated counts neither in the norm nor in the step.
func TestOnlyWhatLearnsIsUpdated(t *testing.T) {
	for name, change := range map[string]func(*Member){
		"frozen":            func(m *Member) { m.Frozen = true },
		"no parameters":     func(m *Member) { m.Opened.TrainableCount = 0 },
		"cannot be trained": func(m *Member) { m.Stage.Trainable = false },
	} {
		r := probes()
		change(r.Members[0])
		got := r.step(t, Stepper{}, 1)
		if got.GradNorm != math.Sqrt2 || len(got.GradNorms) != 2 || len(r.eye.steps) != 0 || len(r.mix.steps) != 1 || slices.Contains(r.log, "eye norm") {
			t.Errorf("%s: norm %g of %v, calls %q; want the encoder left out", name, got.GradNorm, got.GradNorms, r.log)
		}
		for _, one := range r.eye.backwards {
			if one.GradNorm {
				t.Errorf("%s: the encoder is asked for a norm that nobody reads", name)
			}
		}
		if slices.Contains(r.log, "eye zero") != r.Members[0].learns() {
			t.Errorf("%s: gradients are cleared where they can arise: %q", name, r.log)
		}
	}
}

// Processes that meet in batch norm wait for each other in Backward too, so that none may
// leave one out, whatever its loss is.
func TestEveryBatchIsBackPropagatedWhereProcessesNormalizeTogether(t *testing.T) {
	r := probes()
	r.out.losses["cls"] = math.NaN()
	s := Stepper{Pipeline: r.Pipeline, SyncBatchNorm: true}
	result, err := s.Step(t.Context(), 0, []Batch{{Inputs: r.input()}, {Inputs: r.input()}}, nil)
	if err != nil || !result.Skipped {
		t.Fatalf("%+v, %v, want the step skipped", result, err)
	}
	if n := strings.Count(strings.Join(r.log, "\n"), "eye backward"); n != 2 {
		t.Errorf("the encoder was back-propagated %d times, want 2: %q", n, r.log)
	}
}

// Two bad steps in a row end with the reason; one good step between starts over.
func TestNotFiniteStepsSayWhatIsNotFinite(t *testing.T) {
	for want, change := range map[string]func(r *row){
		"loss cls of head out":                          func(r *row) { r.out.losses["cls"] = math.NaN() },
		"gradient of fusion mix":                        func(r *row) { r.mix.norm = math.Inf(1) },
		"gradient of encoder eye, gradient of head out": func(r *row) { r.eye.norm, r.out.norm = math.NaN(), math.NaN() },
		"global gradient norm":                          func(r *row) { r.eye.norm, r.mix.norm = 1e200, 1e200 },
		"loss rec of fusion mix, loss cls of head out":  func(r *row) { r.out.losses["cls"], r.mix.losses["rec"] = math.NaN(), math.Inf(1) },
	} {
		r := probes()
		change(r)
		s := Stepper{Pipeline: r.Pipeline}
		batches := []Batch{{IDs: []string{"a", "b"}, Inputs: r.input()}, {IDs: []string{"c"}, Inputs: r.input()}}
		first, err := s.Step(t.Context(), 0, batches, nil)
		if err != nil || !first.Skipped || !s.SkippedLast || first.Cost.Calls != int64(len(r.log)) {
			t.Errorf("%s: first %+v, %v; want it skipped", want, first, err)
		}
		if len(r.eye.steps) > 0 {
			t.Errorf("%s: a skipped step has updated the encoder", want)
		}
		gradients := len(r.eye.backwards) > 0
		r.log = nil
		second, err := s.Step(t.Context(), 1, batches, nil)
		text := "step 2: " + ErrNotFinite.Error() + ": " + want + "; the batch with cases a, b, c; lower the learning rate (train.lr) or look at these cases"
		if !errors.Is(err, ErrNotFinite) || err.Error() != text || !second.Skipped {
			t.Errorf("%v\nwant %s", err, text)
		}
		if got := slices.Equal(r.log[:3], []string{"eye zero", "mix zero", "out zero"}); got != gradients {
			t.Errorf("%s: calls after the skipped step are %q, want what it left cleared first: %v", want, r.log, gradients)
		}
	}
	r := probes()
	s := Stepper{Pipeline: r.Pipeline, SkippedLast: true}
	if _, err := s.Step(t.Context(), 0, []Batch{{Inputs: r.input()}}, nil); err != nil || s.SkippedLast {
		t.Errorf("after a good step: %v, skipped last %v", err, s.SkippedLast)
	}
}

func TestFailingCallsOfAStepNameStageAndCall(t *testing.T) {
	for call, want := range map[string]string{"zero": "zero gradients", "forward": "forward", "backward": "backward", "step": "step"} {
		r := probes()
		r.mix.fails[call] = errors.New("broken")
		_, err := (&Stepper{Pipeline: r.Pipeline}).Step(t.Context(), 0, []Batch{{Inputs: r.input()}}, nil)
		if err == nil || err.Error() != "fusion mix: "+want+": broken" {
			t.Errorf("%s: %v", call, err)
		}
	}
	r := probes()
	r.out.losses["cls"], r.mix.fails["release"] = math.NaN(), errors.New("broken")
	if _, err := (&Stepper{Pipeline: r.Pipeline}).Step(t.Context(), 0, []Batch{{Inputs: r.input()}}, nil); err == nil || err.Error() != "fusion mix: release: broken" {
		t.Errorf("release of a skipped batch: %v", err)
	}
	if _, err := (&Stepper{Pipeline: r.Pipeline}).Step(t.Context(), 0, nil, nil); err == nil {
		t.Error("a step without a batch is accepted")
	}
}

// Runs of earlier releases are repeated with their seeds: what a seed gives is fixed.
func TestSeedIsTheSameInEveryRelease(t *testing.T) {
	for want, got := range map[uint64]uint64{
		9313164154874788883:  Seed(0),
		13426649036020511788: Seed(1, "a", 2, uint64(3)),
		13957199994199415475: Seed(1<<63, "open", "encoder"),
	} {
		if got != want {
			t.Errorf("%d, want %d", got, want)
		}
	}
}

// Half precision has the losses scaled by one number and the gradients divided by it, so that
// norm, clipping and step are those without.
func TestTheLossScaleChangesNothingButTheLossesWeights(t *testing.T) {
	for _, scale := range []*LossScale{nil, {Scale: 1024}} {
		r := probes()
		r.eye.norm, r.mix.norm, r.out.norm = 2*scale.value(), 3*scale.value(), 6*scale.value()
		got := r.step(t, Stepper{ClipNorm: 3.5, LossScale: scale}, 2)
		if got.GradNorm != 7 || got.Scale != 0.5 || got.GradNorms["fusion"] != 3 || got.Overflowed {
			t.Errorf("scale %g: %+v, want norm 7 and clipping by a half", scale.value(), got)
		}
		if w := r.out.backwards[1].LossWeights["cls"]; w != 0.5*scale.value() {
			t.Errorf("scale %g: a loss weighs %g", scale.value(), w)
		}
		if s := r.mix.steps[0].GradientScale; s != 0.5/scale.value() {
			t.Errorf("scale %g: gradients are multiplied by %g", scale.value(), s)
		}
	}
}

// A gradient that overflows halves the scale as long as that can help, then it is one that is
// no number; 2,000 steps without one double it.
func TestAnOverflowHalvesTheLossScaleAndSkipsTheStep(t *testing.T) {
	r := probes()
	s := Stepper{Pipeline: r.Pipeline, LossScale: &LossScale{Scale: 4, Good: 10}}
	take := func() (StepResult, error) {
		return s.Step(t.Context(), 0, []Batch{{IDs: []string{"a"}, Inputs: r.input()}}, nil)
	}
	r.mix.norm = math.Inf(1)
	for i, want := range []LossScale{{2, 0, 1}, {1, 0, 2}} {
		result, err := take()
		if err != nil || !result.Skipped || !result.Overflowed || *s.LossScale != want || len(r.eye.steps) != 0 {
			t.Fatalf("step %d: %+v, %v, scale %+v, want it skipped and %+v", i, result, err, *s.LossScale, want)
		}
	}
	if result, err := take(); err != nil || !result.Skipped || result.Overflowed {
		t.Errorf("at scale 1: %+v, %v", result, err)
	}
	if _, err := take(); !errors.Is(err, ErrNotFinite) {
		t.Errorf("at scale 1, again: %v, want ErrNotFinite", err)
	}
	r.mix.norm, s.LossScale.Good = 1, 1999
	if _, err := take(); err != nil || *s.LossScale != (LossScale{2, 0, 2}) {
		t.Errorf("%v, scale %+v, want it doubled", err, *s.LossScale)
	}
}
