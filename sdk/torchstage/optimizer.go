package torchstage

import (
	"fmt"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/sugarme/gotch/ts"

	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/safetensors"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

// Optimizers' default values: SGD as the detector's schedule publishes them, AdamW
// as Loshchilov and Hutter 2019.
var optimizerDefaults = map[string]map[string]float64{
	"sgd":   {"momentum": 0.9, "weight_decay": 1e-4, "nesterov": 0, sdk.EMA: 0},
	"adamw": {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.05, sdk.EMA: 0},
}

// resolveOptimizer fills in defaults and refuses names that neither this SDK nor the module has.
func resolveOptimizer(o sdk.Optimizer, m Module) (sdk.Optimizer, error) {
	if o.Name == "" {
		o.Name = "sgd"
	}
	known := slices.Sorted(maps.Keys(optimizerDefaults))
	defaults, ok := optimizerDefaults[o.Name]
	if own, has := m.(Optimizer); has && !ok {
		known = append(known, own.OptimizerName())
		defaults, ok = map[string]float64{sdk.EMA: 0}, o.Name == own.OptimizerName()
	}
	if !ok {
		return o, sdk.Errorf(sdk.InvalidArgument, "optimizer %q, want %s", o.Name, strings.Join(known, " or "))
	}
	values := map[string]float64{}
	for k, v := range defaults {
		values[k] = v
	}
	for k, v := range o.Values {
		if _, ok := defaults[k]; !ok {
			return o, sdk.Errorf(sdk.InvalidArgument, "optimizer %s has no value %q", o.Name, k)
		}
		values[k] = v
	}
	if d := values[sdk.EMA]; !(d >= 0 && d < 1) {
		return o, sdk.Errorf(sdk.InvalidArgument, "optimizer value %s is %g, want 0 (no averaged weights) to below 1", sdk.EMA, d)
	}
	return sdk.Optimizer{Name: o.Name, Values: values}, nil
}

func (p *Params) zeroGrad(s *Scope) {
	for _, e := range p.trained() {
		if g := s.Grad(e.value); g != nil {
			d := s.Detach(g)
			s.Act("zero", d.Zero_)
		}
	}
}

// gradNorm is the L2 norm over all gradients, summed in float64.
func (p *Params) gradNorm(s *Scope) float64 {
	var norms []*ts.Tensor
	for _, e := range p.trained() {
		if g := s.Grad(e.value); g != nil {
			norms = append(norms, s.Do("norm", func() (*ts.Tensor, error) { return g.Norm(false) }))
		}
	}
	if len(norms) == 0 {
		return 0
	}
	sum := 0.0
	for _, v := range s.Float32s(s.Stack(norms, 0)) {
		sum += float64(v) * float64(v)
	}
	return math.Sqrt(sum)
}

// step applies SGD with momentum (Sutskever et al. 2013 in PyTorch's form:
// v = momentum*v + g, p = p - lr*v, weight decay added to g) or AdamW (Loshchilov and
// Hutter 2019, Algorithm 2), or the module's own rule. Parameters without a gradient stay as
// they are.
func (p *Params) step(s *Scope, m Module, o sdk.Optimizer, lr, scale float64) {
	p.steps++
	if decay := o.Values[sdk.EMA]; decay > 0 {
		p.keepAverages(s)
		defer p.average(s, sdk.EMADecay(decay, p.steps))
	}
	for _, e := range p.trained() {
		g := s.Grad(e.value)
		if g == nil {
			continue
		}
		if e.state == nil {
			e.state = map[string]*ts.Tensor{}
		}
		s.SubAll(func(s *Scope) []*ts.Tensor {
			g := s.Detach(g)
			if scale != 1 {
				s.act1("mul_", scale, g.MulScalar_)
			}
			w := s.Detach(e.value)
			switch o.Name {
			case "adamw":
				p.adamw(s, e, w, g, o.Values, lr)
			case "sgd":
				p.sgd(s, e, w, g, o.Values, lr)
			default:
				e.updates++
				u := &Update{Name: e.name, Value: w, Gradient: g, Rate: lr, Number: int(e.updates), params: p, entry: e}
				m.(Optimizer).Update(s, u)
			}
			return nil
		})
	}
}

// averageState names the averaged value among a parameter's states, valueState its own value
// in the optimizer's file where weightsFile holds the average, countState the number of its
// updates in that file.
const averageState, valueState, countState = "average", "value", "step"

// keepAverages begins the average of every parameter that has none with its value.
func (p *Params) keepAverages(s *Scope) {
	for _, e := range p.trained() {
		if e.state[averageState] == nil {
			p.setState(s, e, averageState, s.MulScalar(s.Detach(e.value), 1))
		}
	}
}

func (p *Params) setState(s *Scope, e *param, name string, t *ts.Tensor) {
	if s.err != nil {
		return
	}
	if e.state == nil {
		e.state = map[string]*ts.Tensor{}
	}
	e.state[name] = s.Keep(t)
}

// average moves every average towards its parameter: average = d·average + (1-d)·value.
func (p *Params) average(s *Scope, d float64) {
	for _, e := range p.trained() {
		if s.err != nil {
			return
		}
		s.SubAll(func(s *Scope) []*ts.Tensor {
			mean, part := e.state[averageState], s.MulScalar(s.Detach(e.value), 1-d)
			s.act1("mul_", d, mean.MulScalar_)
			s.Act("add_", func() error { return mean.Add_(part) })
			return nil
		})
	}
}

// act1 runs an in-place op that takes one scalar.
func (s *Scope) act1(op string, v float64, f func(c *ts.Scalar) error) {
	s.Act(op, func() error {
		c := ts.FloatScalar(v)
		defer func() { _ = c.Drop() }()
		return f(c)
	})
}

func (p *Params) sgd(s *Scope, e *param, w, g *ts.Tensor, v map[string]float64, lr float64) {
	if v["weight_decay"] != 0 {
		g = s.Add(g, s.MulScalar(w, v["weight_decay"]))
	}
	if m := v["momentum"]; m != 0 {
		buffer, ok := e.state["momentum"]
		if !ok {
			buffer = s.Keep(s.MulScalar(g, 1))
			if s.err != nil {
				return
			}
			e.state["momentum"] = buffer
		} else {
			s.act1("mul_", m, buffer.MulScalar_)
			s.Act("add_", func() error { return buffer.Add_(g) })
		}
		if v["nesterov"] != 0 {
			g = s.Add(g, s.MulScalar(buffer, m))
		} else {
			g = buffer
		}
	}
	update := s.MulScalar(g, -lr)
	s.Act("add_", func() error { return w.Add_(update) })
}

func (p *Params) adamw(s *Scope, e *param, w, g *ts.Tensor, v map[string]float64, lr float64) {
	for _, name := range []string{"exp_avg", "exp_avg_sq"} {
		if e.state[name] == nil {
			zero := s.Keep(s.Zeros(p.device, e.shape...))
			if s.err != nil {
				return
			}
			e.state[name] = zero
		}
	}
	// The first update of a parameter may come after other parameters' (a branch that
	// was not used): its bias correction counts its own updates.
	e.updates++
	n := e.updates
	b1, b2 := v["beta1"], v["beta2"]
	m, q := e.state["exp_avg"], e.state["exp_avg_sq"]
	s.act1("mul_", b1, m.MulScalar_)
	first := s.MulScalar(g, 1-b1)
	s.Act("add_", func() error { return m.Add_(first) })
	s.act1("mul_", b2, q.MulScalar_)
	second := s.MulScalar(s.Mul(g, g), 1-b2)
	s.Act("add_", func() error { return q.Add_(second) })
	if v["weight_decay"] != 0 {
		s.act1("mul_", 1-lr*v["weight_decay"], w.MulScalar_)
	}
	root := s.MulScalar(s.Do("sqrt", func() (*ts.Tensor, error) { return q.Sqrt(false) }), 1/math.Sqrt(1-math.Pow(b2, n)))
	update := s.MulScalar(s.Div(m, s.AddScalar(root, v["eps"])), -lr/(1-math.Pow(b1, n)))
	s.Act("add_", func() error { return w.Add_(update) })
}

// Update is what an Optimizer is given of one parameter.
type Update struct {
	// Name of the parameter; its Value, which Move changes; its Gradient, scaled already.
	Name            string
	Value, Gradient *ts.Tensor
	// Rate is the learning rate, Number counts the parameter's updates from 1.
	Rate   float64
	Number int

	params *Params
	entry  *param
}

// State is what SetState has stored of the parameter under a name, zero at first.
func (u *Update) State(s *Scope, name string) *ts.Tensor {
	if t := u.entry.state[name]; t != nil {
		return t
	}
	return s.Zeros(u.params.device, u.entry.shape...)
}

// SetState stores a tensor with the parameter, under any name but average, value and step. It
// is saved with the optimizer.
func (u *Update) SetState(s *Scope, name string, t *ts.Tensor) {
	old := u.entry.state[name]
	u.params.setState(s, u.entry, name, s.MulScalar(t, 1)) // a copy: t may be the gradient itself
	if s.err == nil && old != nil {
		s.Own(old)
	}
}

// Move adds a step to the parameter.
func (u *Update) Move(s *Scope, step *ts.Tensor) {
	s.Act("add_", func() error { return u.Value.Add_(step) })
}

const (
	weightsFile   = "weights.safetensors"
	optimizerFile = "optimizer.safetensors"
)

// save writes what the stage computes with into weightsFile, what only training needs into
// optimizerFile. Where averages are kept, they are the weights, and each parameter's own
// value is a state.
func (p *Params) save(s *Scope, dir string, o sdk.Optimizer) ([]string, error) {
	weights, state := map[string]*tensor.Tensor{}, map[string]*tensor.Tensor{}
	for _, e := range p.list {
		weights[e.name] = s.ToTensor(e.value, nil)
		for name, t := range e.state {
			state[e.name+"#"+name] = s.ToTensor(t, nil)
		}
		if e.updates > 0 {
			state[e.name+"#"+countState] = tensor.OfFloat32s([]float32{float32(e.updates)}, 1)
		}
		if mean := state[e.name+"#"+averageState]; mean != nil {
			delete(state, e.name+"#"+averageState)
			weights[e.name], state[e.name+"#"+valueState] = mean, weights[e.name]
		}
	}
	if s.err != nil {
		return nil, s.err
	}
	about := map[string]string{"format": "pt"}
	if decay := o.Values[sdk.EMA]; decay > 0 {
		about[sdk.EMA] = strconv.FormatFloat(decay, 'g', -1, 64)
	}
	if err := safetensors.Write(filepath.Join(dir, weightsFile), weights, about); err != nil {
		return nil, err
	}
	meta := map[string]string{"optimizer": o.Name, "steps": strconv.FormatInt(p.steps, 10)}
	if err := safetensors.Write(filepath.Join(dir, optimizerFile), state, meta); err != nil {
		return nil, err
	}
	return []string{weightsFile, optimizerFile}, nil
}

func (p *Params) load(s *Scope, dir string, o sdk.Optimizer, weightsOnly bool) error {
	var opt LoadOptions
	if weightsOnly {
		opt.Missing = p.optional
		opt.Rename = func(name string) string {
			if p.byName[name] == nil && matches(p.optional, name) {
				return ""
			}
			return name
		}
	}
	if err := p.LoadFile(s, filepath.Join(dir, weightsFile), opt); err != nil || weightsOnly {
		return err
	}
	f, err := safetensors.Open(filepath.Join(dir, optimizerFile))
	if err != nil {
		return err
	}
	defer f.Close()
	if saved := f.Metadata()["optimizer"]; saved != o.Name {
		return sdk.Errorf(sdk.InvalidArgument, "%s was saved by optimizer %q, the stage uses %q", optimizerFile, saved, o.Name)
	}
	if p.steps, err = strconv.ParseInt(f.Metadata()["steps"], 10, 64); err != nil {
		return fmt.Errorf("%s: steps: %w", optimizerFile, err)
	}
	for _, e := range p.list {
		for _, t := range e.state {
			_ = t.Drop()
		}
		e.state, e.updates = nil, 0
	}
	for _, name := range f.Names() {
		owner, kind, ok := strings.Cut(name, "#")
		e := p.byName[owner]
		if !ok || e == nil {
			return sdk.Errorf(sdk.InvalidArgument, "%s: %q belongs to no parameter", optimizerFile, name)
		}
		t, err := f.Tensor(name)
		if err != nil {
			return err
		}
		if kind == countState {
			counts, err := t.Float32s()
			if err != nil || len(counts) != 1 {
				return sdk.Errorf(sdk.InvalidArgument, "%s: %q is no number of updates", optimizerFile, name)
			}
			e.updates = float64(counts[0])
			continue
		}
		value := s.To(s.FromTensor(t), p.device)
		if kind == valueState { // the weights that were read are the average
			if o.Values[sdk.EMA] > 0 {
				p.setState(s, e, averageState, s.MulScalar(s.Detach(e.value), 1))
			}
			s.copyInto(e.value, value)
			continue
		}
		p.setState(s, e, kind, value)
	}
	return s.err
}
