package sdk

import (
	"fmt"
	"slices"
	"sort"
	"strconv"
	"strings"

	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

// PortCheck checks the tensors of one call against the ports of a stage: names, dtypes,
// ranks, literal sizes, and that one dimension name has one size. Within a family
// (tokens.*) a dimension name that no port with an exact name uses has one size per
// member: every modality may have its own number of tokens.
//
// Plugins check what they are asked and what they answer, hosts check what they get.
type PortCheck struct {
	inputs, outputs []Port
	families        []string // their prefixes
	shared          map[string]bool
	sizes           map[string]int64
	boundBy         map[string]string
}

// NewPortCheck starts the check of one call.
func NewPortCheck(inputs, outputs []Port) *PortCheck {
	c := &PortCheck{inputs: inputs, outputs: outputs,
		shared: map[string]bool{}, sizes: map[string]int64{}, boundBy: map[string]string{}}
	for _, p := range slices.Concat(inputs, outputs) {
		if prefix, ok := Family(p.Name); ok {
			c.families = append(c.families, prefix)
		}
	}
	for _, p := range slices.Concat(inputs, outputs) {
		if c.member(p.Name) != "" {
			continue
		}
		for _, d := range p.Shape {
			c.shared[d] = true
		}
	}
	return c
}

// Family reports whether name is a family of ports, and the prefix its members have:
// "tokens." for "tokens.*".
func Family(name string) (prefix string, ok bool) {
	if strings.HasSuffix(name, ".*") {
		return strings.TrimSuffix(name, "*"), true
	}
	return "", false
}

// member returns what follows the prefix in a name of a family, "" for exact ports.
func (c *PortCheck) member(name string) string {
	for _, prefix := range c.families {
		if strings.HasPrefix(name, prefix) {
			return strings.TrimPrefix(name, prefix)
		}
	}
	return ""
}

// FindPort returns the port that a tensor's name belongs to: the one of that name, or
// the family it is a member of; nil without one.
func FindPort(ports []Port, name string) *Port {
	var family *Port
	for i := range ports {
		if ports[i].Name == name {
			return &ports[i]
		}
		if prefix, ok := Family(ports[i].Name); ok && strings.HasPrefix(name, prefix) && len(name) > len(prefix) {
			family = &ports[i]
		}
	}
	return family
}

// KnownPorts merges the ports of a manifest with the ones Open has filled in: Open
// says sizes (and the intensity mapping), the manifest says what a port is. An opened
// port the manifest does not know stays as it is.
func KnownPorts(declared, opened []Port) []Port {
	var out []Port
	for _, o := range opened {
		if d := FindPort(declared, o.Name); d != nil {
			o.DType, o.Required, o.Differentiable = d.DType, d.Required, d.Differentiable
			o.Resident, o.OnRequest, o.LowerIsBetter, o.SizeMultiple = d.Resident, d.OnRequest, d.LowerIsBetter, max(o.SizeMultiple, d.SizeMultiple)
			if o.Intensity == nil {
				o.Intensity = d.Intensity
			}
			if o.Help == "" {
				o.Help = d.Help
			}
		}
		out = append(out, o)
	}
	for _, d := range declared {
		if !slices.ContainsFunc(opened, func(o Port) bool { return o.Name == d.Name }) {
			out = append(out, d)
		}
	}
	return out
}

// Inputs checks given inputs. The *Error it fails with has code InvalidArgument.
func (c *PortCheck) Inputs(given map[string]*tensor.Tensor) error {
	for _, name := range sortedNames(given) {
		if err := c.one("input", c.inputs, name, given[name]); err != nil {
			return err
		}
	}
	return c.required("input", c.inputs, given, func(Port) bool { return true }, InvalidArgument)
}

// Outputs checks a stage's answer. wanted holds the on-request outputs that were asked
// for. The *Error it fails with has code Internal: the stage is at fault.
func (c *PortCheck) Outputs(given map[string]*tensor.Tensor, wanted map[string]bool) error {
	for _, name := range sortedNames(given) {
		if err := c.one("output", c.outputs, name, given[name]); err != nil {
			err.Code = Internal
			return err
		}
	}
	return c.required("output", c.outputs, given, func(p Port) bool { return !p.OnRequest || wanted[p.Name] }, Internal)
}

func (c *PortCheck) required(what string, ports []Port, given map[string]*tensor.Tensor, asked func(Port) bool, code Code) error {
	for _, p := range ports {
		if !p.Required || p.Resident || !asked(p) {
			continue
		}
		found := false
		for name := range given {
			if FindPort(ports, name) == nil {
				continue
			}
			if prefix, ok := Family(p.Name); name == p.Name || ok && strings.HasPrefix(name, prefix) {
				found = true
			}
		}
		if !found {
			return &Error{Code: code, Port: p.Name, Given: "missing",
				Wanted: fmt.Sprintf("%s %s %s", what, p.DType, FormatShape(p.Shape)), Advice: p.Help}
		}
	}
	return nil
}

// FormatShape writes a shape of names and numbers as messages show it: [N 256].
func FormatShape(shape []string) string { return tensor.FormatShape(shape) }

func (c *PortCheck) one(what string, ports []Port, name string, t *tensor.Tensor) *Error {
	p := FindPort(ports, name)
	if p == nil {
		var all []string
		for _, q := range ports {
			all = append(all, q.Name)
		}
		return &Error{Code: InvalidArgument, Port: name, Given: "not a declared " + what, Wanted: "one of " + strings.Join(all, ", ")}
	}
	if p.Resident {
		return &Error{Code: InvalidArgument, Port: name, Given: "resident: it never leaves the plugin's process"}
	}
	if t == nil {
		return &Error{Code: InvalidArgument, Port: name, Given: "given without a tensor", Wanted: c.wanted(p, name)}
	}
	wrong := func() *Error {
		return &Error{Code: InvalidArgument, Port: name, Given: t.String(), Wanted: c.wanted(p, name)}
	}
	if err := t.Check(); err != nil {
		return &Error{Code: InvalidArgument, Port: name, Given: t.String(), Err: err}
	}
	if p.DType != "" && t.DType != p.DType {
		return wrong()
	}
	if len(p.Shape) == 0 {
		return nil
	}
	if len(t.Shape) != len(p.Shape) {
		return wrong()
	}
	for i, dim := range p.Shape {
		size := t.Shape[i]
		if want, literal := literalSize(dim); literal {
			if want >= 0 && want != size {
				return wrong()
			}
			continue
		}
		key := c.key(name, dim)
		bound, ok := c.sizes[key]
		if !ok {
			c.sizes[key], c.boundBy[key] = size, name
			continue
		}
		if bound != size {
			err := wrong()
			err.Advice = fmt.Sprintf("%s is %d since %q", dim, bound, c.boundBy[key])
			return err
		}
	}
	if m := p.SizeMultiple; m > 1 && len(t.Shape) >= 2 {
		for _, size := range t.Shape[len(t.Shape)-2:] {
			if size%m != 0 {
				err := wrong()
				err.Advice = fmt.Sprintf("the last two sizes must be multiples of %d", m)
				return err
			}
		}
	}
	return nil
}

// wanted writes a port's dtype and shape, with the sizes that names already have.
func (c *PortCheck) wanted(p *Port, name string) string {
	shape := slices.Clone(p.Shape)
	for i, dim := range shape {
		if _, literal := literalSize(dim); literal {
			continue
		}
		if size, ok := c.sizes[c.key(name, dim)]; ok {
			shape[i] = strconv.FormatInt(size, 10)
		}
	}
	dtype := string(p.DType)
	if dtype == "" {
		dtype = "any dtype"
	}
	if len(shape) == 0 {
		return dtype + " of any shape"
	}
	return dtype + " " + FormatShape(shape)
}

// key names a dimension: by itself, or together with the family member it belongs to.
func (c *PortCheck) key(name, dim string) string {
	if member := c.member(name); member != "" && !c.shared[dim] {
		return dim + "@" + member
	}
	return dim
}

// literalSize reads a dimension that is a number; -1, "*" and "" accept any size.
func literalSize(dim string) (int64, bool) {
	if dim == "" || dim == "*" {
		return -1, true
	}
	n, err := strconv.ParseInt(dim, 10, 64)
	if err != nil {
		return 0, false
	}
	return max(n, -1), true
}

func sortedNames[V any](m map[string]V) []string {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}
