package pipeline

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/alignedfusion/alignedfusion/host/fault"
	"github.com/alignedfusion/alignedfusion/internal/nearest"
	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/ports"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

// Host is the name under which the host's own ports appear in messages.
const Host = "the host"

// PortError is returned when what one stage gives does not fit what another wants, and
// when a stage has a port that nobody is at the other end of and no catalogue knows, by a
// name that is reserved or looks like a known one (Stranger).
type PortError struct {
	// Consumer is the stage that wants the port, Producer the one that gives it
	// (empty when nothing does), Before the stage before the consumer.
	Consumer, Producer, Before string
	Port                       string
	Given, Wanted              string
	Advice                     string
	// Stranger is "input" or "output" for a port without another end, Meant the name it
	// may be a slip of.
	Stranger, Meant string
}

// Fault is fault.Plugin.
func (e *PortError) Fault() fault.Kind { return fault.Plugin }

// Error names both stages:
// `head mlp: input "joint" is FP32 [N 192] from fusion sum, want FP32 [N 256]`,
// or what was meant: `head mlp: input "target.labels": nobody gives it; did you mean "target.label"?`.
func (e *PortError) Error() string {
	if e.Stranger != "" {
		text := e.Consumer + ": " + strange(e.Stranger, e.Port, e.Meant)
		if e.Meant == "" {
			text += "; names that begin like it are reserved: take another for a port of your own"
		}
		return text
	}
	text := fmt.Sprintf("%s: input %q ", e.Consumer, e.Port)
	if e.Producer == "" {
		text += "is given by nothing before it"
		if e.Before != "" {
			text += ", which is " + e.Before
		}
	} else {
		text += fmt.Sprintf("is %s from %s", e.Given, e.Producer)
	}
	text += ", want " + e.Wanted
	if e.Advice != "" {
		text += " (" + e.Advice + ")"
	}
	return text
}

// strange says that a port has no other end.
func strange(side, port, meant string) string {
	return fmt.Sprintf("%s %q: nobody %s it", side, port, map[string]string{"input": "gives", "output": "reads"}[side]) + nearest.Question(meant)
}

// offered is a port that stages further down can use.
type offered struct {
	sdk.Port
	from    string
	process string
	// keeper is who keeps it in the process; "" where it leaves it.
	keeper string
}

// keeps are the outputs of stage i that stay in its process: those that stages after it read,
// all of them in the same process.
func keeps(sources []Source, i int) (names []string) {
	s := sources[i]
	for _, out := range s.Stage.Outputs {
		if out.Resident || out.OnRequest || !s.Keep {
			continue
		}
		read, away := false, false
		for _, later := range sources[i+1:] {
			for _, in := range later.Stage.Inputs {
				if matches(in.Name, out.Name) || matches(out.Name, in.Name) {
					read, away = true, away || !later.Keep || later.Process != s.Process
				}
			}
		}
		if read && !away {
			names = append(names, out.Name)
		}
	}
	return names
}

// kept are the makers of the inputs that come from the process itself.
func (b offers) kept(s Source, feeding []sdk.Port) (map[string]string, error) {
	out := map[string]string{}
	for _, p := range feeding {
		o := b[p.Name]
		if o.keeper == "" {
			continue
		}
		if _, family := sdk.Family(p.Name); family {
			return nil, &RoleError{fmt.Sprintf("%s: which of %s %s makes is not known before it runs, so that they cannot stay in the process; leave --colocate out", s.name(), p.Name, o.from)}
		}
		out[p.Name] = o.keeper
	}
	return out, nil
}

// offers is what is on offer at one place of the pipeline, by port name.
type offers map[string]offered

func newOffers(hostPorts []sdk.Port) offers {
	b := offers{}
	for _, p := range hostPorts {
		b[p.Name] = offered{p, Host, "", ""}
	}
	return b
}

func (b offers) names() []string {
	names := make([]string, 0, len(b))
	for n := range b {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

// matches reports whether a port name falls under a declared one, which is exact
// ("joint") or a family ("tokens.*").
func matches(declared, name string) bool {
	return sdk.FindPort([]sdk.Port{{Name: declared}}, name) != nil
}

func describe(d tensor.DType, shape []string) string {
	return string(d) + " " + tensor.FormatShape(shape)
}

// fits compares what is given with what is wanted: equal dtype, equal rank, and equal
// sizes where both are numbers. Named sizes are each stage's own business; an empty
// dtype or shape takes any.
func fits(given, wanted sdk.Port) bool {
	if given.DType != "" && wanted.DType != "" && given.DType != wanted.DType {
		return false
	}
	if len(given.Shape) == 0 || len(wanted.Shape) == 0 {
		return true
	}
	if len(given.Shape) != len(wanted.Shape) {
		return false
	}
	for i := range given.Shape {
		a, errA := strconv.ParseInt(given.Shape[i], 10, 64)
		b, errB := strconv.ParseInt(wanted.Shape[i], 10, 64)
		if errA == nil && errB == nil && a >= 0 && b >= 0 && a != b {
			return false
		}
	}
	return true
}

// connect checks a stage's inputs against what is on offer and returns the offered ports
// that will feed it, in name order. before is the stage before it, "" for the first.
func (b offers) connect(s Source, inputs []sdk.Port, before string) ([]sdk.Port, error) {
	var feeding []sdk.Port
	given := map[string]bool{}
	for _, name := range b.names() {
		want := sdk.FindPort(inputs, name)
		if want == nil {
			continue
		}
		p := b[name]
		wrong := &PortError{Consumer: s.name(), Producer: p.from, Port: name, Given: describe(p.DType, p.Shape), Wanted: describe(want.DType, want.Shape) + ", declared by " + s.Plugin}
		if want.Resident || p.Resident {
			switch {
			case want.Resident && p.Resident && p.process == s.Process:
				given[name] = true
			case want.Required:
				wrong.Advice = "the port stays inside one plugin: take both stages from the same plugin"
				return nil, wrong
			}
			continue // an optional port of another process is simply not there
		}
		if !fits(p.Port, *want) {
			return nil, wrong
		}
		given[name] = true
		feeding = append(feeding, p.Port)
	}
	for _, want := range inputs {
		if b.feeds(want, given) {
			continue
		}
		if err := b.refuseStranger(s, want); err != nil {
			return nil, err
		}
		if !want.Required {
			continue
		}
		missing := &PortError{Consumer: s.name(), Before: before, Port: want.Name, Wanted: describe(want.DType, want.Shape) + ", declared by " + s.Plugin,
			Advice: "on offer: " + strings.Join(b.names(), ", ")}
		if want.Resident {
			missing.Advice = "the port stays inside one plugin: take the stage before it from " + s.Plugin + " too"
		}
		return nil, missing
	}
	return feeding, nil
}

// feeds reports whether one of the ports on offer is, or may turn out to be, what an
// input wants. given are the ports on offer that the stage takes.
func (b offers) feeds(want sdk.Port, given map[string]bool) bool {
	return slices.ContainsFunc(b.names(), func(n string) bool {
		// A family on offer may turn out to have the exact port as a member.
		_, open := sdk.Family(n)
		return given[n] && matches(want.Name, n) || open && matches(n, want.Name)
	})
}

// refuseStranger refuses an input that nobody feeds when it is a slip of a known name, or
// reserved and not known.
func (b offers) refuseStranger(s Source, want sdk.Port) error {
	if want.Resident || ports.Find(want.Name) != nil {
		return nil
	}
	meant := ports.Typo(want.Name, b.names()...)
	if meant == "" && !ports.Reserved(want.Name) {
		return nil
	}
	if meant == "" {
		meant = ports.Nearest(want.Name, b.names()...)
	}
	return &PortError{Consumer: s.name(), Stranger: "input", Port: want.Name, Meant: meant}
}

// strangers names the optional inputs of a stage that nobody feeds and no catalogue
// knows: ports that are the stage's own, and whose other end is missing.
func (b offers) strangers(s Source, feeding []sdk.Port) (notes []string) {
	given := map[string]bool{}
	for _, p := range feeding {
		given[p.Name] = true
	}
	for _, want := range s.Stage.Inputs {
		if !want.Resident && ports.Find(want.Name) == nil && !b.feeds(want, given) {
			notes = append(notes, s.name()+": "+strange("input", want.Name, ports.Nearest(want.Name, b.names()...)))
		}
	}
	return notes
}

// checkOutputs refuses outputs that no later stage reads and that are slips of known
// names.
func checkOutputs(sources []Source) error {
	for i, s := range sources {
		for _, out := range s.Stage.Outputs {
			read := slices.ContainsFunc(sources[i+1:], func(later Source) bool { return sdk.FindPort(later.Stage.Inputs, out.Name) != nil })
			if meant := ports.Typo(out.Name); meant != "" && !read && !out.Resident {
				return &PortError{Consumer: s.name(), Stranger: "output", Port: out.Name, Meant: meant}
			}
		}
	}
	return nil
}

// leftOut are the optional outputs of the catalogue that Open left out although it named
// others: this instance will not make them, as a fusion without attributes makes no
// tokens.report. What a port of the plugin's own means is not known here.
func leftOut(declared, opened []sdk.Port) map[string]bool {
	left := map[string]bool{}
	for _, p := range declared {
		_, family := sdk.Family(p.Name)
		known := ports.Find(p.Name) != nil
		named := slices.ContainsFunc(opened, func(o sdk.Port) bool { return o.Name == p.Name })
		if len(opened) > 0 && known && !named && !family && !p.Required && !p.Resident && !p.OnRequest {
			left[p.Name] = true
		}
	}
	return left
}

// offer puts a stage's outputs on offer. A family output stands for one port
// per member of the families the stage takes in; where those say nothing and the
// stage has not named any member, the family itself is on offer.
func (b offers) offer(s Source, inputs, outputs []sdk.Port, keeps []string) {
	add := offers{}
	for _, out := range outputs {
		keeper := ""
		if slices.ContainsFunc(keeps, func(name string) bool { return matches(name, out.Name) }) {
			keeper = string(s.Role)
		}
		prefix, isFamily := sdk.Family(out.Name)
		if !isFamily {
			add[out.Name] = offered{out, s.name(), s.Process, keeper}
			continue
		}
		named := slices.ContainsFunc(outputs, func(p sdk.Port) bool { return p.Name != out.Name && matches(out.Name, p.Name) })
		for _, in := range inputs {
			inPrefix, ok := sdk.Family(in.Name)
			if !ok {
				continue
			}
			for name := range b {
				if !matches(in.Name, name) {
					continue
				}
				port := out
				port.Name = prefix + strings.TrimPrefix(name, inPrefix)
				named = named || port.Name != out.Name
				if sdk.FindPort(outputs, port.Name).Name != port.Name { // else it is declared on its own
					add[port.Name] = offered{port, s.name(), s.Process, keeper}
				}
			}
		}
		if !named {
			add[out.Name] = offered{out, s.name(), s.Process, keeper}
		}
	}
	for name, p := range add {
		b[name] = p
	}
}

// RoleError is returned when a stage cannot play the role it was given, or when its
// plugin has none that could.
type RoleError struct{ Text string }

func (e *RoleError) Error() string { return e.Text }

// Fault is fault.Usage.
func (e *RoleError) Fault() fault.Kind { return fault.Usage }

// Check compares the ports of a whole pipeline by its manifests, before anything is
// opened. The error is a *PortError that names the stages, or a *RoleError.
func Check(sources []Source, hostPorts []sdk.Port, task string) error {
	on := newOffers(hostPorts)
	before := ""
	for _, s := range sources {
		if s.Stage.Kind != s.Role {
			return &RoleError{fmt.Sprintf("%s: stage %q of plugin %s is of kind %s, want %s", s.name(), s.Stage.Name, s.Plugin, s.Stage.Kind, s.Role)}
		}
		if len(s.Stage.Tasks) > 0 && !slices.Contains(s.Stage.Tasks, task) {
			return &RoleError{fmt.Sprintf("%s: stage %q is made for %s, not for %s", s.name(), s.Stage.Name, strings.Join(s.Stage.Tasks, ", "), task)}
		}
		if _, err := on.connect(s, s.Stage.Inputs, before); err != nil {
			return err
		}
		on.offer(s, s.Stage.Inputs, s.Stage.Outputs, nil)
		before = s.name()
	}
	if err := checkLosses(sources); err != nil {
		return err
	}
	return checkOutputs(sources)
}

// checkLosses refuses two stages that declare a loss of one name: both would be trained on,
// and one weight and one figure would stand for them.
func checkLosses(sources []Source) error {
	by := map[string]Source{}
	for _, s := range sources {
		for _, name := range s.Stage.Losses {
			if other, ok := by[name]; ok {
				return &RoleError{fmt.Sprintf("loss %q is declared by %s and by %s: a loss has one stage; rename it in one of the manifests", name, other.name(), s.name())}
			}
			by[name] = s
		}
	}
	return nil
}
