package torchstage

import (
	"fmt"
	"math"
	"path"
	"sort"
	"strings"

	"github.com/sugarme/gotch"
	"github.com/sugarme/gotch/ts"

	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/safetensors"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

type param struct {
	name   string
	shape  []int64
	value  *ts.Tensor
	buffer bool
	frozen bool
	// state of the optimizer, by its name in the optimizer's file.
	state map[string]*ts.Tensor
	// updates by AdamW or a rule of the module's own, countState in the optimizer's file. It stays on the host:
	// a number on a device would be waited for at every parameter of every step.
	updates float64
}

// Params are the parameters and buffers of a stage, by their full dotted names.
type Params struct {
	s      *Scope // only while building
	seed   uint64
	device gotch.Device
	list   []*param
	byName map[string]*param
	steps  int64
	prefix string // of the names of what is made, see Under
	// optional holds path.Match patterns, see Optional.
	optional []string
}

func newParams(s *Scope, seed uint64, device gotch.Device) *Params {
	return &Params{s: s, seed: seed, device: device, byName: map[string]*param{}}
}

func (p *Params) add(name string, shape []int64, init Init, buffer bool) *ts.Tensor {
	s, name := p.s, p.prefix+name
	if s.err != nil {
		return s.void
	}
	if _, ok := p.byName[name]; ok {
		s.Failf(sdk.Internal, "parameter %q is made twice", name)
		return s.void
	}
	t, err := tensor.New(tensor.FP32, shape...)
	if err != nil {
		s.Fail(fmt.Errorf("parameter %s: %w", name, err))
		return s.void
	}
	values, err := t.Float32s()
	if err != nil {
		s.Fail(err)
		return s.void
	}
	init(values, shape, NewRand(p.seed, name))
	value := s.To(s.FromTensor(t), p.device)
	if !buffer {
		value = s.Leaf(value)
	}
	if s.err != nil {
		return s.void
	}
	s.Keep(value)
	entry := &param{name: name, shape: append([]int64(nil), shape...), value: value, buffer: buffer}
	p.list = append(p.list, entry)
	p.byName[name] = entry
	return value
}

// Under has the names of all that build makes begin with prefix: for a network that is part of a
// greater one.
func (p *Params) Under(prefix string, build func()) {
	outer := p.prefix
	p.prefix += prefix
	build()
	p.prefix = outer
}

// Parameter makes a trainable FP32 parameter. The tensor lives as long as the stage.
func (p *Params) Parameter(name string, shape []int64, init Init) *ts.Tensor {
	return p.add(name, shape, init, false)
}

// Buffer makes a tensor that is saved but not trained (running statistics).
func (p *Params) Buffer(name string, shape []int64, init Init) *ts.Tensor {
	return p.add(name, shape, init, true)
}

// Freeze stops the training of every parameter whose name starts with prefix.
func (p *Params) Freeze(prefix string) {
	for _, e := range p.list {
		if !e.buffer && !e.frozen && strings.HasPrefix(e.name, prefix) {
			e.frozen = true
			p.s.Act("requires_grad", func() error { return e.value.RequiresGrad_(false) })
		}
	}
}

// Optional names parameters (path.Match patterns) that belong to some pipelines only:
// when weights alone are loaded, a file may lack them, which leaves them as they are,
// or have them where the stage does not.
func (p *Params) Optional(patterns ...string) { p.optional = append(p.optional, patterns...) }

// Frozen reports whether a parameter has been frozen.
func (p *Params) Frozen(name string) bool { e := p.byName[name]; return e != nil && e.frozen }

// Names lists parameters and buffers in order of creation.
func (p *Params) Names() []string {
	var out []string
	for _, e := range p.list {
		out = append(out, e.name)
	}
	return out
}

// Get returns a parameter or buffer by name, nil when there is none.
func (p *Params) Get(name string) *ts.Tensor {
	if e := p.byName[name]; e != nil {
		return e.value
	}
	return nil
}

func (p *Params) counts() (all, trainable int64) {
	for _, e := range p.list {
		if e.buffer {
			continue
		}
		n, _ := tensor.Elements(e.shape)
		all += n
		if !e.frozen {
			trainable += n
		}
	}
	return all, trainable
}

func (p *Params) trained() []*param {
	var out []*param
	for _, e := range p.list {
		if !e.buffer && !e.frozen {
			out = append(out, e)
		}
	}
	return out
}

func (p *Params) free() {
	for _, e := range p.list {
		_ = e.value.Drop()
		for _, t := range e.state {
			_ = t.Drop()
		}
	}
	p.list, p.byName = nil, map[string]*param{}
}

// LoadOptions say how the names of a weights file become those of the stage.
type LoadOptions struct {
	// Rename maps a file's name to a parameter's; "" leaves the tensor out.
	Rename func(name string) string
	// Ignore holds path.Match patterns of file names that are accepted and unused.
	Ignore []string
	// Missing holds path.Match patterns of parameters the file need not have.
	Missing []string
	// Transform, when set, may change a tensor on its way (by the parameter's name).
	Transform func(name string, t *tensor.Tensor) (*tensor.Tensor, error)
}

// LoadFile reads weights from a safetensors file into parameters and buffers. Half
// precision is converted. It fails, changing nothing, with a list of the missing,
// unexpected and mismatched names, and for NaN or infinite weights.
func (p *Params) LoadFile(s *Scope, file string, opt LoadOptions) error {
	f, err := safetensors.Open(file)
	if err != nil {
		return &sdk.Error{Code: sdk.InvalidArgument, Err: err, Advice: "weights are safetensors; `alignedfusion weights import` converts others"}
	}
	defer f.Close()
	found := map[string]string{}
	var missing, unexpected, mismatched []string
	for _, name := range f.Names() {
		if matches(opt.Ignore, name) {
			continue
		}
		target := name
		if opt.Rename != nil {
			if target = opt.Rename(name); target == "" {
				continue
			}
		}
		if p.byName[target] == nil {
			unexpected = append(unexpected, name)
			continue
		}
		found[target] = name
	}
	loaded := map[string]*tensor.Tensor{}
	for _, e := range p.list {
		name, ok := found[e.name]
		if !ok {
			if !matches(opt.Missing, e.name) {
				missing = append(missing, e.name)
			}
			continue
		}
		t, err := f.Tensor(name)
		if err != nil {
			return err
		}
		if opt.Transform != nil {
			if t, err = opt.Transform(e.name, t); err != nil {
				return &sdk.Error{Code: sdk.InvalidArgument, Err: fmt.Errorf("%s: %s: %w", file, name, err)}
			}
		}
		if fmt.Sprint(t.Shape) != fmt.Sprint(e.shape) {
			mismatched = append(mismatched, fmt.Sprintf("%s is %v, want %v", name, t.Shape, e.shape))
			continue
		}
		if t, err = toFloat32(t); err != nil {
			return &sdk.Error{Code: sdk.InvalidArgument, Err: fmt.Errorf("%s: %s: %w", file, name, err)}
		}
		loaded[e.name] = t
	}
	if len(missing)+len(unexpected)+len(mismatched) > 0 {
		return &sdk.Error{Code: sdk.InvalidArgument, Given: fmt.Sprintf("weights %s do not fit: %s%s%s", file,
			list("missing", missing), list("unexpected", unexpected), list("mismatched", mismatched)),
			Advice: "the weights belong to another architecture or preset"}
	}
	return p.assign(s, loaded)
}

func matches(patterns []string, name string) bool {
	for _, pattern := range patterns {
		if ok, err := path.Match(pattern, name); ok && err == nil {
			return true
		}
	}
	return false
}

func list(what string, names []string) string {
	if len(names) == 0 {
		return ""
	}
	sort.Strings(names)
	shown := names
	const most = 20
	more := ""
	if len(shown) > most {
		shown, more = shown[:most], fmt.Sprintf(" and %d more", len(names)-most)
	}
	return fmt.Sprintf("\n  %s (%d): %s%s", what, len(names), strings.Join(shown, ", "), more)
}

// assign copies values into parameters in place.
func (p *Params) assign(s *Scope, values map[string]*tensor.Tensor) error {
	s.NoGrad(func() {
		for name, t := range values {
			e := p.byName[name]
			s.SubAll(func(s *Scope) []*ts.Tensor {
				source := s.To(s.FromTensor(t), p.device)
				s.copyInto(e.value, source)
				return nil
			})
		}
	})
	return s.err
}

// copyInto overwrites dst with src of the same shape.
func (s *Scope) copyInto(dst, src *ts.Tensor) {
	flat := s.Detach(dst)
	s.Act("zero", flat.Zero_)
	s.Act("copy", func() error { return flat.Add_(src) })
}

// toFloat32 converts half, bfloat and double precision and refuses NaN and Inf.
func toFloat32(t *tensor.Tensor) (*tensor.Tensor, error) {
	out := t
	if t.DType != tensor.FP32 {
		var err error
		if out, err = tensor.New(tensor.FP32, t.Shape...); err != nil {
			return nil, err
		}
		dst, err := out.Float32s()
		if err != nil {
			return nil, err
		}
		switch t.DType {
		case tensor.FP16:
			for i := range dst {
				dst[i] = halfToFloat(uint16(t.Data[2*i]) | uint16(t.Data[2*i+1])<<8)
			}
		case tensor.BF16:
			for i := range dst {
				dst[i] = math.Float32frombits(uint32(t.Data[2*i])<<16 | uint32(t.Data[2*i+1])<<24)
			}
		case tensor.FP64:
			src, err := t.Float64s()
			if err != nil {
				return nil, err
			}
			for i := range dst {
				dst[i] = float32(src[i])
			}
		case tensor.Int64:
			src, err := t.Int64s()
			if err != nil {
				return nil, err
			}
			for i := range dst {
				dst[i] = float32(src[i])
			}
		default:
			return nil, fmt.Errorf("dtype %s, want FP32, FP16, BF16 or FP64", t.DType)
		}
	}
	values, err := out.Float32s()
	if err != nil {
		return nil, err
	}
	for i, v := range values {
		if v != v || math.IsInf(float64(v), 0) {
			return nil, fmt.Errorf("element %d is %v; weights must be finite", i, v)
		}
	}
	return out, nil
}

// halfToFloat converts IEEE 754 binary16.
func halfToFloat(h uint16) float32 {
	sign, exponent, fraction := uint32(h>>15)<<31, uint32(h>>10)&31, uint32(h)&1023
	switch exponent {
	case 31:
		return math.Float32frombits(sign | 255<<23 | fraction<<13)
	case 0:
		v := float32(fraction) / (1 << 24)
		if sign != 0 {
			v = -v
		}
		return v
	}
	return math.Float32frombits(sign | (exponent+112)<<23 | fraction<<13)
}
