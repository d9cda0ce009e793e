package pipeline

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/ports"
)

// headWith is the toy's classifier with other ports.
func headWith(change func(*sdk.StageManifest)) Source {
	s := source(sdk.KindHead, "classifier", nil)
	s.Stage.Inputs, s.Stage.Outputs = slices.Clone(s.Stage.Inputs), slices.Clone(s.Stage.Outputs)
	change(&s.Stage)
	return s
}

func TestInputsThatNobodyGivesAreRefusedByTheNameThatWasMeant(t *testing.T) {
	for given, want := range map[string]string{
		"target.labels":   `head toy: input "target.labels": nobody gives it; did you mean "target.label"?`,
		"image.rbg":       "", // a modality: the data may have it
		"tokens.anything": "",
		"target.class.of": `head toy: input "target.class.of": nobody gives it; did you mean "target.class"?`,
		"report.xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx": `head toy: input "report.xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx": nobody gives it; ` +
			`names that begin like it are reserved: take another for a port of your own`,
		"target.boxes": "", // known: other data have it
		"my.own":       "",
		"jiont":        `head toy: input "jiont": nobody gives it; did you mean "joint"?`,
	} {
		head := headWith(func(s *sdk.StageManifest) { s.Inputs = append(s.Inputs, sdk.Port{Name: given}) })
		err := Check([]Source{source(sdk.KindEncoder, "encoder", nil), head}, hostPorts, "classify")
		got := ""
		if err != nil {
			got = err.Error()
			if e := (&PortError{}); !errors.As(err, &e) {
				t.Errorf("%s: %T, want a *PortError", given, err)
			}
		}
		if got != want {
			t.Errorf("%s:\n%s, want\n%s", given, got, want)
		}
	}
}

func TestPortsOfAPluginsOwnAreTheBusinessOfBothEnds(t *testing.T) {
	encoder := source(sdk.KindEncoder, "encoder", nil)
	encoder.Stage.Outputs = append(slices.Clone(encoder.Stage.Outputs), sdk.Port{Name: "score"}, sdk.Port{Name: "target.maps"})
	head := headWith(func(s *sdk.StageManifest) {
		s.Inputs = append(s.Inputs, sdk.Port{Name: "score", Required: true}, sdk.Port{Name: "target.maps"})
	})
	if err := Check([]Source{encoder, head}, hostPorts, "classify"); err != nil {
		t.Errorf("ports that one stage makes and another reads: %v", err)
	}
	resident := headWith(func(s *sdk.StageManifest) {
		s.Inputs = append(s.Inputs, sdk.Port{Name: "target.labels", Resident: true})
	})
	if err := Check([]Source{source(sdk.KindEncoder, "encoder", nil), resident}, hostPorts, "classify"); err != nil {
		t.Errorf("a resident port: %v", err)
	}
}

func TestOutputsThatLookLikeKnownOnesAreRefused(t *testing.T) {
	head := headWith(func(s *sdk.StageManifest) { s.Outputs = []sdk.Port{{Name: "logit"}} })
	err := Check([]Source{source(sdk.KindEncoder, "encoder", nil), head}, hostPorts, "classify")
	if want := `head toy: output "logit": nobody reads it; did you mean "logits"?`; err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
	head = headWith(func(s *sdk.StageManifest) {
		s.Outputs = append(s.Outputs, sdk.Port{Name: "attention"}, sdk.Port{Name: "logit", Resident: true})
	})
	if err := Check([]Source{source(sdk.KindEncoder, "encoder", nil), head}, hostPorts, "classify"); err != nil {
		t.Errorf("outputs of its own: %v", err)
	}
}

func TestOptionalPortsOfAStrangerAreNoted(t *testing.T) {
	encoder := source(sdk.KindEncoder, "encoder", nil)
	encoder.Stage.Outputs = append(slices.Clone(encoder.Stage.Outputs), sdk.Port{Name: "prior.masks"})
	head := headWith(func(s *sdk.StageManifest) {
		s.Inputs = append(s.Inputs, sdk.Port{Name: "prior.map"}, sdk.Port{Name: "prior.masks"}, ports.TargetBoxes.Declare())
	})
	p, err := Open(t.Context(), []Source{encoder, head}, hostPorts, base)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if want := []string{`head toy: input "prior.map": nobody gives it; did you mean "prior.masks"?`}; !slices.Equal(p.Notes, want) {
		t.Errorf("notes %q, want %q", p.Notes, want)
	}
}

func TestALossHasOneStage(t *testing.T) {
	encoder := source(sdk.KindEncoder, "encoder", nil)
	encoder.Stage.Losses = []string{"contrast", "classification"}
	head := headWith(func(s *sdk.StageManifest) { s.Losses = []string{"classification"} })
	err := Check([]Source{encoder, head}, hostPorts, "classify")
	want := `loss "classification" is declared by encoder toy and by head toy: a loss has one stage; rename it in one of the manifests`
	if e := (&RoleError{}); !errors.As(err, &e) || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
	encoder.Stage.Losses = []string{"contrast"}
	if err := Check([]Source{encoder, head}, hostPorts, "classify"); err != nil {
		t.Errorf("losses of different names: %v", err)
	}
}

func TestAnOptionalOutputThatOpenLeavesOutFeedsNobody(t *testing.T) {
	for _, c := range []struct {
		named []sdk.Port
		want  bool
	}{
		{nil, true}, // Open says nothing about sizes: what is declared stands
		{[]sdk.Port{ports.Tokens.Of("volume").Declare(ports.Shape("N", "T", "6"))}, false},
	} {
		encoder := source(sdk.KindEncoder, "encoder", nil)
		encoder.Stage.Outputs = append(slices.Clone(encoder.Stage.Outputs), ports.TokensReport.Declare())
		openEncoder := encoder.Open
		encoder.Open = func(ctx context.Context, req *sdk.OpenRequest) (Instance, *sdk.OpenResponse, error) {
			i, r, err := openEncoder(ctx, req)
			r.Outputs = c.named
			return i, r, err
		}
		head := source(sdk.KindHead, "classifier", nil)
		openHead := head.Open
		got := false
		head.Open = func(ctx context.Context, req *sdk.OpenRequest) (Instance, *sdk.OpenResponse, error) {
			got = slices.ContainsFunc(req.Inputs, func(p sdk.Port) bool { return p.Name == ports.TokensReport.Name })
			return openHead(ctx, req)
		}
		p, err := Open(t.Context(), []Source{encoder, head}, hostPorts, base)
		if err == nil {
			err = p.Close()
		}
		if got != c.want {
			t.Errorf("Open named %d outputs: the head is opened with tokens.report: %v, want %v (%v)", len(c.named), got, c.want, err)
		}
	}
}

// What stays in a process is what stages after it read there, and none elsewhere.
func TestOutputsStayWhereAllTheirReadersAre(t *testing.T) {
	source := func(process string, keep bool, inputs, outputs []sdk.Port) Source {
		return Source{Process: process, Keep: keep, Stage: sdk.StageManifest{Inputs: inputs, Outputs: outputs}}
	}
	named := func(names ...string) (out []sdk.Port) {
		for _, name := range names {
			out = append(out, sdk.Port{Name: name})
		}
		return out
	}
	outputs := append(named("tokens.*", "tokens.ct", "unread"), sdk.Port{Name: "map", Resident: true}, sdk.Port{Name: "asked", OnRequest: true})
	reads := named("tokens.ct", "map", "asked")
	for _, test := range []struct {
		name   string
		stages []Source
		want   []string
	}{
		{"all in one process", []Source{source("p", true, nil, outputs), source("p", true, named("tokens.*"), nil), source("p", true, reads, nil)}, []string{"tokens.*", "tokens.ct"}},
		{"a member of the family is read", []Source{source("p", true, nil, named("tokens.*")), source("p", true, reads, nil)}, []string{"tokens.*"}},
		{"one reader in another process", []Source{source("p", true, nil, outputs), source("p", true, named("tokens.*"), nil), source("q", true, reads, nil)}, nil},
		{"a reader that cannot", []Source{source("p", true, nil, outputs), source("p", false, reads, nil)}, nil},
		{"a maker that cannot", []Source{source("p", false, nil, outputs), source("p", true, reads, nil)}, nil},
		{"nobody reads", []Source{source("p", true, nil, outputs)}, nil},
	} {
		if got := keeps(test.stages, 0); !slices.Equal(got, test.want) {
			t.Errorf("%s: %q, want %q", test.name, got, test.want)
		}
	}
	on := offers{}
	s := source("p", true, nil, named("tokens.*", "x"))
	s.Role = sdk.KindEncoder
	on.offer(s, nil, s.Stage.Outputs, []string{"tokens.*"})
	if kept, err := on.kept(s, named("x")); err != nil || len(kept) > 0 {
		t.Errorf("%v, %v: what is not kept is kept", kept, err)
	}
	if _, err := on.kept(s, named("tokens.*")); err == nil {
		t.Error("tokens of unknown names can be taken from the process")
	}
}
