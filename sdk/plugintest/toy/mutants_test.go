package toy

import (
	"cmp"
	"context"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/conformance"
	"github.com/alignedfusion/alignedfusion/sdk/plugintest"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

// mutant is a stage with a fault of its mathematics.
type mutant struct {
	*Stage
	fault fault
	last  map[string][]float32
}

// fault says what goes wrong; what is nil is right.
type fault struct {
	name string
	// params and inputs change a gradient before it is added or returned.
	params func(name string, g []float64)
	inputs func(g []float64)
	// answer changes an EVAL answer of n cases; last is the one before.
	answer func(y, last []float32, n int)
	// write changes an input.
	write func(x []float32)
	// loss changes what is returned of a loss.
	loss func(v float64) float64
	// respond changes the whole answer.
	respond func(r *sdk.ForwardResponse)
	step    func(s *Stage, r *sdk.StepRequest)
	norm    func(v float64) float64
	load    func(s *Stage)
}

// Forward computes on copies of the parameters' nodes, whose gradients the fault changes on
// their way: the first operation of a tape is the last to go backwards.
func (m *mutant) Forward(ctx context.Context, req *sdk.ForwardRequest) (*sdk.ForwardResponse, error) {
	if m.fault.write != nil {
		for _, t := range req.Inputs {
			if x, err := t.Float32s(); err == nil {
				m.fault.write(x)
			}
		}
	}
	own := m.Stage.params
	views := map[string]*param{}
	for name, p := range own {
		views[name] = &param{node: node{v: p.v, g: make([]float64, len(p.g))}, shape: p.shape, velocity: p.velocity}
	}
	m.Stage.params = views
	resp, err := m.Stage.Forward(ctx, req)
	m.Stage.params = own
	if err != nil {
		return nil, err
	}
	if c := m.runs[req.Context]; req.Train && c != nil {
		c.back = slices.Insert(c.back, 0, func() {
			for name, view := range views {
				if m.fault.params != nil {
					m.fault.params(name, view.g)
				}
				for i, g := range view.g {
					own[name].g[i] += g
				}
			}
			for _, x := range c.inputs {
				if m.fault.inputs != nil {
					m.fault.inputs(x.g)
				}
			}
		})
	}
	if m.fault.respond != nil {
		m.fault.respond(resp)
	}
	for name, v := range resp.Losses {
		if m.fault.loss != nil {
			resp.Losses[name] = m.fault.loss(v)
		}
	}
	for name, t := range resp.Outputs {
		y, err := t.Float32s()
		if err != nil || req.Train || m.fault.answer == nil || len(y) == 0 {
			continue
		}
		now := slices.Clone(y)
		m.fault.answer(y, m.last[name], int(t.Shape[0]))
		m.last[name] = now
	}
	return resp, nil
}

// Step updates as the fault has it.
func (m *mutant) Step(ctx context.Context, req *sdk.StepRequest) error {
	if m.fault.step != nil {
		changed := *req
		changed.Values = maps.Clone(req.Values)
		m.fault.step(m.Stage, &changed)
		req = &changed
	}
	return m.Stage.Step(ctx, req)
}

// GradNorm answers as the fault has it.
func (m *mutant) GradNorm(ctx context.Context) (float64, error) {
	v, err := m.Stage.GradNorm(ctx)
	if m.fault.norm != nil {
		v = m.fault.norm(v)
	}
	return v, err
}

// Load reads, and then goes wrong.
func (m *mutant) Load(ctx context.Context, dir string, weightsOnly bool) error {
	err := m.Stage.Load(ctx, dir, weightsOnly)
	if err == nil && m.fault.load != nil {
		m.fault.load(m.Stage)
	}
	return err
}

// mutate makes every stage of a plugin a mutant.
func mutate(p sdk.Plugin, f fault) sdk.Plugin {
	p.Open = func(ctx context.Context, req *sdk.OpenRequest) (sdk.Stage, *sdk.OpenResponse, error) {
		s, resp, err := Open(ctx, req)
		if err != nil {
			return nil, nil, err
		}
		return &mutant{s, f, map[string][]float32{}}, resp, nil
	}
	return p
}

func scaled(by float64) func([]float64) {
	return func(g []float64) {
		for i := range g {
			g[i] *= by
		}
	}
}

func rolled(g []float64) {
	first := slices.Clone(g[:min(1, len(g))])
	copy(g, g[min(1, len(g)):])
	copy(g[max(0, len(g)-1):], first)
}

func halved(g []float64) { clear(g[len(g)/2:]) }

func of(part string, f func([]float64)) func(string, []float64) {
	return func(name string, g []float64) {
		if strings.Contains(name, part) {
			f(g)
		}
	}
}

var (
	gradients = map[string]func([]float64){
		"negated": scaled(-1), "doubled": scaled(2), "a tenth too small": scaled(0.9), "detached": scaled(0),
		"moved by one": rolled, "half forgotten": halved,
	}
	answers = map[string]func(y, last []float32, n int){
		"the batch's mean leaks": func(y, _ []float32, n int) {
			row := len(y) / max(n, 1)
			for j := range row {
				var mean float32
				for i := range n {
					mean += y[i*row+j] / float32(n)
				}
				for i := range n {
					y[i*row+j] -= 0.1 * mean
				}
			}
		},
		"the case before leaks": func(y, _ []float32, n int) {
			row := len(y) / max(n, 1)
			for i := len(y) - 1; i >= row; i-- {
				y[i] += 0.01 * y[i-row]
			}
		},
		"the batch's largest number normalizes": func(y, _ []float32, _ int) {
			largest := slices.Max(y)
			for i := range y {
				y[i] /= 1 + largest*largest
			}
		},
		"the call before leaks": func(y, last []float32, _ int) {
			for i := range min(len(y), len(last)) {
				y[i] += 0.01 * last[i]
			}
		},
	}
	others = map[string][]fault{
		"linear": {
			{name: "a step of twice the rate", step: func(_ *Stage, r *sdk.StepRequest) { r.Values["learning_rate"] *= 2 }},
			{name: "a step upwards", step: func(_ *Stage, r *sdk.StepRequest) { r.GradientScale = -r.GradientScale }},
			{name: "a step without clipping", step: func(_ *Stage, r *sdk.StepRequest) { r.GradientScale = 1 }},
			{name: "a step without bias", step: func(s *Stage, _ *sdk.StepRequest) { clear(s.params["bias"].g) }},
			{name: "a decay nobody asked for", step: func(s *Stage, r *sdk.StepRequest) {
				for _, p := range s.params {
					for i := range p.v {
						p.v[i] *= 1 - 0.1*r.Values["learning_rate"]
					}
				}
			}},
			{name: "the norm of the weights alone", norm: func(v float64) float64 { return 0.9 * v }},
			{name: "the squared norm", norm: func(v float64) float64 { return v * v }},
			{name: "bias is not loaded", load: func(s *Stage) { clear(s.params["bias"].v) }},
			{name: "momentum is not loaded", load: func(s *Stage) { clear(s.params["weight"].velocity) }},
			{name: "half a loss", loss: func(v float64) float64 { return v / 2 }},
			{name: "a loss with a sign", loss: func(v float64) float64 { return -v }},
			{name: "a row too few", respond: func(r *sdk.ForwardResponse) {
				y := r.Outputs["y"]
				y.Shape = []int64{y.Shape[0] - 1, y.Shape[1]}
				y.Data = y.Data[:4*y.Shape[0]*y.Shape[1]]
			}},
			{name: "double precision", respond: func(r *sdk.ForwardResponse) {
				r.Outputs["y"] = tensor.OfFloat64s(make([]float64, r.Outputs["y"].Len()), r.Outputs["y"].Shape...)
			}},
			{name: "columns as rows", respond: func(r *sdk.ForwardResponse) {
				s := r.Outputs["y"].Shape
				s[0], s[1] = s[1], s[0]
			}},
			{name: "no loss", respond: func(r *sdk.ForwardResponse) { clear(r.Losses) }},
		},
		"encoder":    {{name: "the image is normalized in place", write: func(x []float32) { x[0] = x[0]/2 + 1 }}},
		"fusion":     {{name: "tokens are added to in place", write: func(x []float32) { x[len(x)-1]++ }}},
		"classifier": {{name: "a loss of the sum", loss: func(v float64) float64 { return 2 * v }}, {name: "tokens are scaled in place", write: func(x []float32) { x[1] = 2*x[1] + 1 }}},
		"detector":   {{name: "a loss of the sum", loss: func(v float64) float64 { return 3 * v }}},
	}
)

// Every plugin with a fault of its mathematics is caught. A run ends at its first failure.
func TestValidateCatchesEveryMutant(t *testing.T) {
	caught := 0
	for _, stage := range []string{"linear", "encoder", "fusion", "detector", "classifier"} {
		faults := slices.Clone(others[stage])
		for name, f := range gradients {
			if stage != "fusion" { // without attributes it has no parameters
				faults = append(faults, fault{name: "gradients of weights " + name, params: of("weight", f)})
			}
			if stage != "encoder" {
				faults = append(faults, fault{name: "gradients of inputs " + name, inputs: f})
			}
		}
		if stage != "fusion" {
			faults = append(faults, fault{name: "bias detached", params: of("bias", scaled(0))}, fault{name: "bias negated", params: of("bias", scaled(-1))})
		}
		for name, f := range answers {
			faults = append(faults, fault{name: name, answer: f})
		}
		p, o := Plugin(), conformance.Options{Seed: 1, Stages: []string{stage}}
		if stage == "linear" {
			p, o.Settings = Linear(), map[string]map[string]string{"linear": {"in": "16"}}
		}
		for _, f := range faults {
			t.Run(stage+"/"+f.name, func(t *testing.T) {
				if why := firstFailure(t, mutate(p, f), o); why == "" {
					t.Error("the suite passed it")
				} else {
					caught++
					t.Log(why)
				}
			})
		}
	}
	if caught < 40 {
		t.Errorf("%d mutants were caught, want 40 at least", caught)
	}
}

// What is right passes, whatever the sample inputs and the directions of the probes are.
func TestValidateHasNoFalseAlarm(t *testing.T) {
	runs, err := strconv.ParseUint(cmp.Or(os.Getenv("ALIGNEDFUSION_RUNS"), "3"), 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	for seed := range runs {
		for _, stage := range []string{"encoder", "fusion", "detector", "classifier"} {
			if why := firstFailure(t, Plugin(), conformance.Options{Seed: seed + 2, Stages: []string{stage}, Iterations: 4}); why != "" {
				t.Errorf("seed %d: %s", seed+2, why)
			}
		}
		if why := firstFailure(t, Linear(), conformance.Options{Seed: seed + 2, Settings: map[string]map[string]string{"linear": {"in": "16"}}}); why != "" {
			t.Errorf("seed %d: %s", seed+2, why)
		}
	}
}

// firstFailure validates a plugin until a case fails, and says which.
func firstFailure(t *testing.T, p sdk.Plugin, o conformance.Options) (why string) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	o.Progress = func(r conformance.Result) {
		if r.Status == conformance.Fail && why == "" {
			why = r.String()
			cancel()
		}
	}
	_, err := conformance.Run(ctx, conformance.Target{Connect: func(context.Context) (*conformance.Connection, error) {
		return plugintest.Serve(t.Context(), p)
	}}, o)
	if err != nil && why == "" {
		t.Fatal(err)
	}
	return why
}
