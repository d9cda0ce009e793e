package pipeline

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/ports"
)

// learners are an encoder, a fusion with a loss of its own, and a head.
func learners() []*Member {
	member := func(role sdk.Kind, in, out []sdk.Port, losses ...string) *Member {
		return &Member{Source: Source{Role: role, Plugin: "p", Stage: sdk.StageManifest{Losses: losses, Trainable: true}},
			Opened: &sdk.OpenResponse{Inputs: in, Outputs: out, TrainableCount: 7}}
	}
	tokens := []sdk.Port{ports.Tokens.Of("ct").Declare()}
	return []*Member{
		member(sdk.KindEncoder, nil, tokens),
		member(sdk.KindFusion, tokens, tokens, "reconstruction"),
		member(sdk.KindHead, []sdk.Port{ports.Tokens.Declare()}, []sdk.Port{ports.Logits.Declare()}, "classification"),
	}
}

// stepWith is a step with the loss of the head and the norms of the three stages.
func stepWith(loss, encoder, fusion, head float64) StepResult {
	return StepResult{Loss: loss, Losses: map[string]float64{"classification": loss},
		GradNorms: map[string]float64{"encoder": encoder, "fusion": fusion, "head": head}}
}

func refusedStage(t *testing.T, err error) sdk.Kind {
	t.Helper()
	if err == nil {
		return ""
	}
	var stage *StageError
	if !errors.As(err, &stage) {
		t.Fatalf("%T: %v, want a *StageError", err, err)
	}
	return stage.Role
}

func TestALossThatNeverArrivesStopsTheFirstStep(t *testing.T) {
	without := stepWith(0, 0, 0, 0)
	without.Losses = nil
	other := stepWith(1, 1, 1, 0)
	other.Losses = map[string]float64{"reconstruction": 1}
	silent := learners()
	silent[2].Stage.Losses = nil
	frozen := stepWith(0, 1, 1, 0)
	frozen.Losses = map[string]float64{"reconstruction": 1}
	delete(frozen.GradNorms, "head")
	for _, c := range []struct {
		name    string
		members []*Member
		step    StepResult
		want    sdk.Kind
	}{
		{"the head's arrives, the fusion's needs reports", learners(), stepWith(0.7, 1, 1, 1), ""},
		{"none arrives", learners(), without, sdk.KindHead},
		{"another stage's arrives", learners(), other, sdk.KindHead},
		{"the head declares none and none arrives", silent, without, sdk.KindHead},
		{"the head declares none and the fusion's arrives", silent, other, ""},
		{"the head is frozen", learners(), frozen, ""},
	} {
		err := (&learning{}).check(c.members, c.step)
		if got := refusedStage(t, err); got != c.want {
			t.Errorf("%s: %v, want the %q", c.name, err, c.want)
		}
	}
	err := (&learning{}).check(learners(), without)
	if want := "head p: train: a training forward returned none of its losses (classification)"; !strings.HasPrefix(err.Error(), want) {
		t.Errorf("%q, want %q", err, want)
	}
	forgets := learners()
	forgets[2].Opened.Losses = []string{"classification", "auxiliary"}
	err = (&learning{}).check(forgets, stepWith(0.7, 1, 1, 1))
	if want := "head p: train: a training forward did not return auxiliary, which Open promised (it returned classification 0.7)"; refusedStage(t, err) != sdk.KindHead || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("%v, want %q", err, want)
	}
	forgets[2].Opened.Losses = []string{"classification"}
	if err := (&learning{}).check(forgets, stepWith(0.7, 1, 1, 1)); err != nil {
		t.Errorf("of two declared losses these settings promise one: %v", err)
	}
	late := &learning{steps: 1}
	if err := late.check(learners(), without); err != nil {
		t.Errorf("a later step: %v", err)
	}
}

func TestAStageWithoutGradientsStopsTheFirstSteps(t *testing.T) {
	for _, c := range []struct {
		name string
		// step is what the step of a number, from 1, gives.
		step func(n int) StepResult
		// at is the step that stops, 0 for none, role the stage that it names.
		at   int
		role sdk.Kind
	}{
		{"all learn", func(int) StepResult { return stepWith(1, 1, 1, 1) }, 0, ""},
		{"the encoder never does", func(int) StepResult { return stepWith(1, 0, 1, 1) }, quietSteps, sdk.KindEncoder},
		{"the head never does", func(int) StepResult { return stepWith(1, 1, 1, 0) }, quietSteps, sdk.KindHead},
		{"a projection that starts at zero", func(n int) StepResult { return stepWith(1, float64(n-1), 1, 1) }, 0, ""},
		{"two behind each other", func(n int) StepResult { return stepWith(1, max(0, float64(n-2)), float64(n-1), 1) }, 0, ""},
		{"zero up to the last step that may be", func(n int) StepResult { return stepWith(1, max(0, float64(n-quietSteps+1)), 1, 1) }, 0, ""},
		{"zero later on", func(n int) StepResult {
			if n > 1 {
				return stepWith(1, 0, 0, 0)
			}
			return stepWith(1, 1, 1, 1)
		}, 0, ""},
		{"labels that are all unknown at first", func(n int) StepResult {
			if n < 20 {
				return stepWith(0, 0, 0, 0)
			}
			return stepWith(1, 1, 1, 1)
		}, 0, ""},
		{"a loss that is always zero", func(int) StepResult { return stepWith(0, 0, 0, 0) }, emptySteps, sdk.KindEncoder},
	} {
		l := &learning{}
		stopped := 0
		for n := 1; n <= 2*emptySteps && stopped == 0; n++ {
			if err := l.check(learners(), c.step(n)); err != nil {
				stopped = n
				if got := refusedStage(t, err); got != c.role {
					t.Errorf("%s: %v, want the %q", c.name, err, c.role)
				}
			}
		}
		if stopped != c.at {
			t.Errorf("%s: stopped at step %d, want %d", c.name, stopped, c.at)
		}
	}
	l := &learning{steps: quietSteps - 1, quiet: quietSteps - 1}
	err := l.check(learners(), stepWith(0.5, 0, 1, 1))
	for _, want := range []string{"encoder p: train: ", "exactly 0 in each of the first 5 steps", "7 trainable parameters", "classification 0.5", "train.encoder_lr_factor=0"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// counting counts the updates of an instance.
type counting struct {
	Instance
	steps *int
}

func (c *counting) Step(ctx context.Context, req *sdk.StepRequest) error {
	*c.steps++
	return c.Instance.Step(ctx, req)
}

func TestTheStepThatStopsUpdatesNothing(t *testing.T) {
	p := openClassifier(t, false, nil)
	head := p.Members[1]
	head.Stage.Losses = []string{"never"}
	stepped := 0
	for _, m := range p.Members {
		m.Instance = &counting{m.Instance, &stepped}
	}
	_, err := (&Stepper{Pipeline: p, Seed: 1}).Step(t.Context(), 0, []Batch{batch(2, 1)}, nil)
	if refusedStage(t, err) != sdk.KindHead || stepped != 0 {
		t.Errorf("%v after %d updates, want the head named before any", err, stepped)
	}
}
