package torchstage

import (
	"fmt"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/sugarme/gotch"
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

// gradients are those that there are of the parameters that are trained, and whose they are.
func (p *Params) gradients(s *Scope) (of []*param, grads []*ts.Tensor) {
	for _, e := range p.trained() {
		if g := s.Grad(e.value); g != nil {
			of, grads = append(of, e), append(grads, g)
		}
	}
	return of, grads
}

func (p *Params) zeroGrad(s *Scope) {
	_, grads := p.gradients(s)
	s.each("zero_", grads, nil, 0)
}

// gradNorm is the L2 norm over all gradients, summed in float64.
func (p *Params) gradNorm(s *Scope) float64 {
	_, grads := p.gradients(s)
	if len(grads) == 0 {
		return 0
	}
	sum := 0.0
	for _, v := range s.Float32s(s.Stack(s.each("norm", grads, nil, 0), 0)) {
		sum += float64(v) * float64(v)
	}
	return math.Sqrt(sum)
}

// each runs an operator on lists of tensors, see ts.Foreach.
func (s *Scope) each(op string, a, b []*ts.Tensor, v float64) []*ts.Tensor {
	if s.err != nil {
		return slices.Repeat([]*ts.Tensor{s.void}, len(a))
	}
	out, err := ts.Foreach(op, a, b, v)
	if err != nil {
		s.err = torchError(op, err)
		return slices.Repeat([]*ts.Tensor{s.void}, len(a))
	}
	s.owned = append(s.owned, out...)
	return out
}

// lotElements bounds the elements of a lot on a CPU, whose cache they should fit, and on a GPU,
// which wants few kernels: what is computed in between is kept for a lot at a time.
var lotElements = map[bool]int64{true: 1 << 16, false: 1 << 25}

// lots divides parameters into such as one kernel takes, and which have had as many updates.
func (p *Params) lots(all []*param, do func(first, end int)) {
	most := lotElements[p.device.Name == gotch.CPU.Name]
	first, sum := 0, int64(0)
	for i, e := range all {
		n := elements(e.shape)
		if i > first && (sum+n > most || e.updates != all[first].updates) {
			do(first, i)
			first, sum = i, 0
		}
		sum += n
	}
	if first < len(all) {
		do(first, len(all))
	}
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
	all, grads := p.gradients(s)
	if scale != 1 {
		s.each("mul_", grads, nil, scale)
	}
	p.lots(all, func(first, end int) {
		s.SubAll(func(s *Scope) []*ts.Tensor {
			lot, g := all[first:end], grads[first:end]
			switch o.Name {
			case "adamw":
				p.adamw(s, lot, valuesOf(lot), g, o.Values, lr)
			case "sgd":
				p.sgd(s, lot, valuesOf(lot), g, o.Values, lr)
			default:
				for i, e := range lot {
					e.updates++
					u := &Update{Name: e.name, Value: s.Detach(e.value), Gradient: s.Detach(g[i]), Rate: lr, Number: int(e.updates), params: p, entry: e}
					s.SubAll(func(s *Scope) []*ts.Tensor { m.(Optimizer).Update(s, u); return nil })
				}
			}
			return nil
		})
	})
}

// valuesOf are the values of parameters.
func valuesOf(lot []*param) (out []*ts.Tensor) {
	for _, e := range lot {
		out = append(out, e.value)
	}
	return out
}

// statesOf are the states of parameters by a name.
func statesOf(lot []*param, name string) (out []*ts.Tensor) {
	for _, e := range lot {
		out = append(out, e.state[name])
	}
	return out
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
	all := p.trained()
	p.lots(all, func(first, end int) {
		if s.err != nil {
			return // there may be no averages
		}
		s.SubAll(func(s *Scope) []*ts.Tensor {
			means := statesOf(all[first:end], averageState)
			s.each("mul_", means, nil, d)
			s.each("add_", means, s.each("mul", valuesOf(all[first:end]), nil, 1-d), 0)
			return nil
		})
	})
}

func (p *Params) sgd(s *Scope, lot []*param, w, g []*ts.Tensor, v map[string]float64, lr float64) {
	if v["weight_decay"] != 0 {
		g = s.each("add", g, s.each("mul", w, nil, v["weight_decay"]), 0)
	}
	if m := v["momentum"]; m != 0 {
		var old, push []*ts.Tensor
		for i, e := range lot {
			if b := e.state["momentum"]; b != nil {
				old, push = append(old, b), append(push, g[i])
			} else {
				p.setState(s, e, "momentum", s.MulScalar(g[i], 1))
			}
		}
		s.each("mul_", old, nil, m)
		s.each("add_", old, push, 0)
		if s.err != nil {
			return // there may be no buffers
		}
		buffers := statesOf(lot, "momentum")
		if v["nesterov"] != 0 {
			g = s.each("add", g, s.each("mul", buffers, nil, m), 0)
		} else {
			g = buffers
		}
	}
	s.each("add_", w, s.each("mul", g, nil, -lr), 0)
}

func (p *Params) adamw(s *Scope, lot []*param, w, g []*ts.Tensor, v map[string]float64, lr float64) {
	for _, e := range lot {
		for _, name := range []string{"exp_avg", "exp_avg_sq"} {
			if e.state[name] == nil {
				p.setState(s, e, name, s.Zeros(p.device, e.shape...))
			}
		}
		e.updates++
	}
	if s.err != nil {
		return // there may be no states
	}
	// The first update of a parameter may come after other parameters' (a branch that
	// was not used): its bias correction counts its own updates.
	n := lot[0].updates
	b1, b2 := v["beta1"], v["beta2"]
	m, q := statesOf(lot, "exp_avg"), statesOf(lot, "exp_avg_sq")
	s.each("mul_", m, nil, b1)
	s.each("add_", m, s.each("mul", g, nil, 1-b1), 0)
	s.each("mul_", q, nil, b2)
	s.each("add_", q, s.each("mul", s.each("mul", g, g, 0), nil, 1-b2), 0)
	if v["weight_decay"] != 0 {
		s.each("mul_", w, nil, 1-lr*v["weight_decay"])
	}
	root := s.each("mul", s.each("sqrt", q, nil, 0), nil, 1/math.Sqrt(1-math.Pow(b2, n)))
	update := s.each("mul", s.each("div", m, s.each("add", root, nil, v["eps"]), 0), nil, -lr/(1-math.Pow(b1, n)))
	s.each("add_", w, update, 0)
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
