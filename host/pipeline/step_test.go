package pipeline

import (
	"context"
	"maps"
	"math"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

// recorder writes down the calls that a pipeline makes.
type recorder struct {
	calls  []string
	frozen []string
}

// recorded is an Instance that a recorder listens to.
type recorded struct {
	Instance
	role sdk.Kind
	to   *recorder
}

func (r *recorder) note(role sdk.Kind, call string) { r.calls = append(r.calls, string(role)+" "+call) }

func (i recorded) Forward(ctx context.Context, req *sdk.ForwardRequest) (*sdk.ForwardResponse, error) {
	i.to.note(i.role, "forward")
	return i.Instance.Forward(ctx, req)
}

func (i recorded) Backward(ctx context.Context, req *sdk.BackwardRequest) (*sdk.BackwardResponse, error) {
	i.to.note(i.role, "backward")
	return i.Instance.Backward(ctx, req)
}

func (i recorded) ForwardBackward(ctx context.Context, f *sdk.ForwardRequest, b *sdk.BackwardRequest) (*sdk.ForwardResponse, *sdk.BackwardResponse, error) {
	i.to.note(i.role, "forward-backward")
	return i.Instance.ForwardBackward(ctx, f, b)
}

func (i recorded) ZeroGrad(ctx context.Context) error {
	i.to.note(i.role, "zero-grad")
	return i.Instance.ZeroGrad(ctx)
}

func (i recorded) GradNorm(ctx context.Context) (float64, error) {
	i.to.note(i.role, "grad-norm")
	return i.Instance.GradNorm(ctx)
}

func (i recorded) Step(ctx context.Context, req *sdk.StepRequest) error {
	i.to.note(i.role, "step")
	return i.Instance.Step(ctx, req)
}

// openRecorded opens encoder, fusion and classifier; the fusion is in a process of its
// own.
func openRecorded(t *testing.T, frozen ...sdk.Kind) (*Pipeline, *recorder) {
	t.Helper()
	r := &recorder{}
	sources := []Source{source(sdk.KindEncoder, "encoder", nil), source(sdk.KindFusion, "fusion", nil), source(sdk.KindHead, "classifier", nil)}
	for i := range sources {
		s := &sources[i]
		if s.Role == sdk.KindFusion {
			s.Process = "another"
		}
		s.Frozen = slices.Contains(frozen, s.Role)
		open := s.Open
		s.Open = func(ctx context.Context, req *sdk.OpenRequest) (Instance, *sdk.OpenResponse, error) {
			if req.Frozen {
				r.frozen = append(r.frozen, req.Stage)
			}
			instance, resp, err := open(ctx, req)
			return recorded{instance, s.Role, r}, resp, err
		}
		s.StepAll = func(ctx context.Context, instances []Instance, requests []*sdk.StepRequest) error {
			r.calls = append(r.calls, "step-all")
			for k, i := range instances {
				if err := i.(recorded).Instance.Step(ctx, requests[k]); err != nil {
					return err
				}
			}
			return nil
		}
	}
	req := base
	req.Constants = map[string]*tensor.Tensor{"value.embedding": tensor.OfFloat32s(make([]float32, 2*3*4), 2, 3, 4)}
	p, err := Open(t.Context(), sources, hostPorts, req)
	if err != nil {
		t.Fatal(err)
	}
	return p, r
}

func rates(rate float64) map[sdk.Kind]map[string]float64 {
	out := map[sdk.Kind]map[string]float64{}
	for _, role := range []sdk.Kind{sdk.KindEncoder, sdk.KindFusion, sdk.KindHead} {
		out[role] = map[string]float64{"learning_rate": rate}
	}
	return out
}

func TestAStepMakesNoMoreCallsThanItMust(t *testing.T) {
	p, r := openRecorded(t)
	s := &Stepper{Pipeline: p, Seed: 1}
	for step, want := range [][]string{
		{"encoder zero-grad", "fusion zero-grad", "head zero-grad",
			"encoder forward", "fusion forward", "head forward-backward", "fusion backward", "encoder backward", "step-all", "fusion step"},
		{"encoder forward", "fusion forward", "head forward-backward", "fusion backward", "encoder backward", "step-all", "fusion step"},
	} {
		r.calls = nil
		if _, err := s.Step(t.Context(), step, []Batch{batch(2, 1)}, rates(0.1)); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, r.calls); diff != "" {
			t.Errorf("step %d (-want +got):\n%s", step, diff)
		}
	}
}

// What a step does in few calls is what the separate calls do, bit for bit.
func TestAStepEqualsItsSeparateCalls(t *testing.T) {
	b := []Batch{batch(2, 1), batch(3, 2)}
	together, _ := openRecorded(t)
	separate, _ := openRecorded(t)
	s := &Stepper{Pipeline: together, Seed: 1, ClipNorm: 0.1}
	for step := range 3 {
		got, err := s.Step(t.Context(), step, b, rates(0.1))
		if err != nil {
			t.Fatal(err)
		}
		want := stepByStep(t, separate, step, b, 0.1)
		if diff := cmp.Diff(want, got.GradNorms); diff != "" || got.Scale == 1 {
			t.Errorf("step %d, scale %v: gradient norms differ (-want +got):\n%s", step, got.Scale, diff)
		}
	}
	for _, role := range []sdk.Kind{sdk.KindEncoder, sdk.KindFusion, sdk.KindHead} {
		if saved(t, together, role) != saved(t, separate, role) {
			t.Errorf("the weights of the %s differ", role)
		}
	}
}

// stepByStep is a step in separate calls.
func stepByStep(t *testing.T, p *Pipeline, step int, batches []Batch, clip float64) map[string]float64 {
	t.Helper()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, m := range p.Members {
		check(m.Instance.ZeroGrad(t.Context()))
	}
	for i, b := range batches {
		run, err := p.Forward(t.Context(), ForwardOptions{Train: true, Seed: Seed(1, "step", step, i)}, b.Inputs)
		check(err)
		check(run.Backward(t.Context(), BackwardOptions{Scale: 1 / float64(len(batches))}))
	}
	norms, squares := map[string]float64{}, 0.0
	for _, m := range p.Members {
		norm, err := m.Instance.GradNorm(t.Context())
		check(err)
		norms[string(m.Role)] = norm
		squares += norm * norm
	}
	for _, m := range p.Members {
		check(m.Instance.Step(t.Context(), &sdk.StepRequest{Values: rates(0.1)[m.Role], GradientScale: clip / math.Sqrt(squares)}))
	}
	return norms
}

// saved is what a stage writes into a checkpoint.
func saved(t *testing.T, p *Pipeline, role sdk.Kind) string {
	t.Helper()
	dir := t.TempDir()
	if _, err := p.Member(role).Instance.Save(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	return string(mustRead(t, dir+"/weights.safetensors")) + string(mustRead(t, dir+"/optimizer.safetensors"))
}

// unaware is a stage that does not know that it is frozen: it answers that it learns.
type unaware struct{ Source }

func (u unaware) open(ctx context.Context, req *sdk.OpenRequest) (Instance, *sdk.OpenResponse, error) {
	told := *req
	told.Frozen = false
	return u.Open(ctx, &told)
}

func TestOnlyTheFrozenStageStaysAsItIs(t *testing.T) {
	stages := map[sdk.Kind]string{sdk.KindEncoder: "encoder", sdk.KindFusion: "fusion", sdk.KindHead: "classifier"}
	for frozen, stage := range stages {
		p, r := openRecorded(t, frozen)
		if !slices.Equal(r.frozen, []string{stage}) {
			t.Errorf("%v were told that they are frozen, want %s", r.frozen, stage)
		}
		stepsAllBut(t, p, frozen, "a frozen "+stage)
	}
}

func TestAStageThatDoesNotKnowThatItIsFrozenIsNotUpdatedEither(t *testing.T) {
	encoder, head := source(sdk.KindEncoder, "encoder", nil), source(sdk.KindHead, "classifier", nil)
	encoder.Frozen, encoder.Open = true, unaware{encoder}.open
	p, err := Open(t.Context(), []Source{encoder, head}, hostPorts, base)
	if err != nil {
		t.Fatal(err)
	}
	stepsAllBut(t, p, sdk.KindEncoder, "an encoder of an old plugin")
}

// stepsAllBut makes two steps after which every stage but one has changed.
func stepsAllBut(t *testing.T, p *Pipeline, frozen sdk.Kind, name string) {
	t.Helper()
	before := map[sdk.Kind]string{}
	for _, m := range p.Members {
		before[m.Role] = saved(t, p, m.Role)
	}
	s := &Stepper{Pipeline: p, Seed: 1}
	for step := range 2 {
		result, err := s.Step(t.Context(), step, []Batch{batch(3, uint64(step))}, rates(0.1))
		if err != nil {
			t.Fatal(err)
		}
		if _, there := result.GradNorms[string(frozen)]; there || len(result.GradNorms) != len(p.Members)-1 {
			t.Errorf("%s: gradient norms of %v", name, slices.Collect(maps.Keys(result.GradNorms)))
		}
	}
	for _, m := range p.Members {
		if changed := saved(t, p, m.Role) != before[m.Role]; changed == (m.Role == frozen) {
			t.Errorf("%s: %s changed: %v", name, m.Role, changed)
		}
	}
}
