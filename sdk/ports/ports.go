// Package ports is the catalogue of the ports that hosts and stages know by name: what
// each holds, who makes it and who may read it. Hosts, plugins, tests and docs take the
// names from here.
//
// A stage may have ports of its own besides: one that a stage makes and another reads
// concerns these two alone. Their names stay clear of the reserved ones (see Reserved).
package ports

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/alignedfusion/alignedfusion/internal/nearest"
	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

// Port is an entry of the catalogue.
type Port struct {
	// Name is exact ("joint") or a family ending in ".*" ("tokens.*").
	Name  string
	DType tensor.DType
	// Shape holds numbers and names of sizes, as sdk.Port's.
	Shape []string
	// Differentiable ports take part in Backward.
	Differentiable bool
	// Makers give the port, Readers may declare it as an input: kinds of stages, or Host.
	Makers, Readers []sdk.Kind
	// Required ports are always given where their task, data and mode call for them.
	Required bool
	// OnRequest outputs are computed only when a Forward asks for them.
	OnRequest bool
	// Task is detect or classify; empty: either.
	Task string
	Help string
}

var catalogue []Port

// add enters a port into the catalogue; entries keep their order.
func add(p Port) Port {
	catalogue = append(catalogue, p)
	return p
}

func dims(shape string) []string { return strings.Fields(shape) }

// All returns the catalogue.
func All() []Port { return slices.Clone(catalogue) }

// An Option says what a stage's port has besides what the catalogue says.
type Option func(*sdk.Port)

// Required makes a port that must be given, or is always returned.
func Required(p *sdk.Port) { p.Required = true }

// Differentiable lets a port that the catalogue does not say it of take part in Backward.
func Differentiable(p *sdk.Port) { p.Differentiable = true }

// LowerIsBetter says so of a metric.
func LowerIsBetter(p *sdk.Port) { p.LowerIsBetter = true }

// Shape gives sizes that are known, or other names for those that are not.
func Shape(shape ...string) Option { return func(p *sdk.Port) { p.Shape = shape } }

// Help says what this stage takes or gives, where that is more than the catalogue says.
func Help(text string) Option { return func(p *sdk.Port) { p.Help = text } }

// Intensity is what the host does to raw intensities.
func Intensity(i sdk.Intensity) Option { return func(p *sdk.Port) { p.Intensity = &i } }

// SizeMultiple makes the last two sizes multiples of n.
func SizeMultiple(n int64) Option { return func(p *sdk.Port) { p.SizeMultiple = n } }

// Declare is the port as a stage's manifest, a host's offer or an opened stage states it.
func (p Port) Declare(options ...Option) sdk.Port {
	out := sdk.Port{Name: p.Name, DType: p.DType, Shape: slices.Clone(p.Shape), Differentiable: p.Differentiable, OnRequest: p.OnRequest, Help: p.Help}
	for _, o := range options {
		o(&out)
	}
	return out
}

// Of returns the member of a family: Tokens.Of("ct") is the port tokens.ct.
func (p Port) Of(member string) Port {
	p.Name = p.prefix() + member
	return p
}

// Member returns what a name has after the family's prefix: "ct" for tokens.ct, which is
// a member of Tokens. It is false for other names.
func (p Port) Member(name string) (member string, ok bool) {
	prefix, family := sdk.Family(p.Name)
	member, within := strings.CutPrefix(name, prefix)
	return member, family && within && member != ""
}

// Has reports whether a name is the port's, or one of its family's members.
func (p Port) Has(name string) bool {
	_, member := p.Member(name)
	return member || name == p.Name
}

func (p Port) prefix() string { return strings.TrimSuffix(p.Name, "*") }

// Scan reports whether a name is that of a volume's port: volume, or one of volume.*.
func Scan(name string) bool { return Volume.Has(name) || Volumes.Has(name) }

// Pixels reports whether a name is that of a picture's, a volume's or a bag's port.
func Pixels(name string) bool { return Scan(name) || Images.Has(name) || Bags.Has(name) }

// SpacingOf is the spacing that comes with a volume's port.
func SpacingOf(volume string) Port {
	if member, ok := Volumes.Member(volume); ok {
		return Spacings.Of(member)
	}
	return Spacing
}

// TokensOf are the tokens of a picture's, a bag's or a volume's port: tokens.ct of image.ct, of
// bag.ct and of volume.ct, tokens.volume of volume.
func TokensOf(pixels string) Port {
	for _, family := range []Port{Images, Bags, Volumes} {
		if member, ok := family.Member(pixels); ok {
			return Tokens.Of(member)
		}
	}
	return Tokens.Of(pixels)
}

// FurtherTokensOf are the tokens that a further network makes of what TokensOf are made of:
// tokens.ct+vit.
func FurtherTokensOf(pixels, network string) Port {
	p := TokensOf(pixels)
	p.Name += further + network
	return p
}

const further = "+"

// FurtherTokens reports whether a name is that of FurtherTokensOf pixels.
func FurtherTokens(name, pixels string) bool {
	return strings.HasPrefix(name, TokensOf(pixels).Name+further)
}

// LabelTarget is the target of one label set: target.label when there is a single set,
// else target.label.<set>.
func LabelTarget(sets []sdk.LabelSet, set string) Port {
	return ofSet(TargetLabel, TargetLabels, sets, set)
}

// NumberTarget is the target of a label set that asks for a number, and CensoredTarget says,
// beside LabelTarget, which times of one that asks for the time to an event are censored. Both
// are as LabelTarget.
func NumberTarget(sets []sdk.LabelSet, set string) Port {
	return ofSet(TargetValue, TargetValues, sets, set)
}

// CensoredTarget: see NumberTarget.
func CensoredTarget(sets []sdk.LabelSet, set string) Port {
	return ofSet(TargetCensored, TargetsCensored, sets, set)
}

// LabelLogits is logits or logits.<set>, as LabelTarget.
func LabelLogits(sets []sdk.LabelSet, set string) Port { return ofSet(Logits, LogitsOf, sets, set) }

func ofSet(single, family Port, sets []sdk.LabelSet, set string) Port {
	if len(sets) > 1 {
		return family.Of(set)
	}
	return single
}

// Target reports whether a name is a training target's.
func Target(name string) bool { return head(name) == head(TargetLabel.Name) }

// BoxTargets are the targets of a detector.
func BoxTargets() []Port {
	return slices.DeleteFunc(All(), func(p Port) bool { return !Target(p.Name) || p.Task != detect })
}

// Named declares the port with a name, as Port.Declare does. A name that the catalogue
// does not have makes a port of any dtype and shape.
func Named(name string, options ...Option) sdk.Port {
	p := Find(name)
	if p == nil {
		p = &Port{}
	}
	out := p.Declare(options...)
	out.Name = name
	return out
}

// Find returns the catalogue's entry for a name, exact or a family's member; nil when
// the name is nobody's.
func Find(name string) *Port {
	var family *Port
	for i := range catalogue {
		p := &catalogue[i]
		if p.Name == name {
			return p
		}
		if p.Has(name) && (family == nil || len(p.Name) > len(family.Name)) {
			family = p
		}
	}
	return family
}

func head(name string) string {
	first, _, _ := strings.Cut(name, ".")
	return first
}

// Reserved reports whether a name belongs to the catalogue's families: what stands before
// its first dot begins a catalogued name too (target, report, tokens, …). Nobody but the
// makers that the catalogue names gives such ports.
func Reserved(name string) bool {
	return slices.ContainsFunc(catalogue, func(p Port) bool { return head(p.Name) == head(name) })
}

// Typo returns the name that an unknown one is a slip of: one of others, or the
// catalogue's. It is "" for known names and for names of a stage's own.
func Typo(name string, others ...string) string {
	if Find(name) != nil {
		return ""
	}
	return nearest.Typo(name, candidates(name, others))
}

// Nearest returns the known name that resembles an unknown one most, "" when none does.
func Nearest(name string, others ...string) string {
	return nearest.Name(name, candidates(name, others))
}

// candidates are the names that name may stand for. Of a family that begins alike it is
// the member that ends like it.
func candidates(name string, others []string) []string {
	out := slices.Clone(others)
	parts := strings.Split(name, ".")
	for _, p := range catalogue {
		if _, family := sdk.Family(p.Name); !family {
			out = append(out, p.Name)
			continue
		}
		first := strings.TrimSuffix(p.prefix(), ".")
		own := strings.Count(p.Name, ".")
		if len(parts) <= own {
			continue
		}
		if begins := strings.Join(parts[:own], "."); begins == first || nearest.Typo(begins, []string{first}) != "" {
			out = append(out, p.prefix()+strings.Join(parts[own:], "."))
		}
	}
	return out
}

// Error is a port of a manifest that contradicts the catalogue.
type Error struct {
	Stage string
	// Side is "input" or "output".
	Side, Port    string
	Given, Wanted string
}

// Error formats as `stage mlp: input "target.label" is FP32 [N], want INT64 [N]`.
func (e *Error) Error() string {
	return fmt.Sprintf("stage %s: %s %q %s, want %s", e.Stage, e.Side, e.Port, e.Given, e.Wanted)
}

// Check compares a stage's declared ports with the catalogue: dtype, number of sizes,
// sizes that are numbers, who may make and who may read. Ports that stay within a plugin
// are its own. It fails with an *Error.
//
// An input that nobody can give (reserved and not catalogued, or a slip of a known name)
// and an output that is a slip of a known name fail as well; siblings are the other
// stages of the plugin, whose ports the stage may take.
func Check(s sdk.StageManifest, siblings []sdk.StageManifest) error {
	var made, read []sdk.Port
	for _, other := range siblings {
		made, read = append(made, other.Outputs...), append(read, other.Inputs...)
	}
	for _, p := range s.Inputs {
		if err := checkPort(s, "input", p, made); err != nil {
			return err
		}
	}
	for _, p := range s.Outputs {
		if err := checkPort(s, "output", p, read); err != nil {
			return err
		}
	}
	return nil
}

// checkPort checks one port of a stage. ends are the other stages' ports on its far side.
func checkPort(s sdk.StageManifest, side string, p sdk.Port, ends []sdk.Port) error {
	if p.Resident {
		return nil
	}
	wrong := func(given, wanted string) error {
		return &Error{Stage: s.Name, Side: side, Port: p.Name, Given: given, Wanted: wanted}
	}
	known := Find(p.Name)
	if known == nil {
		if sdk.FindPort(ends, p.Name) != nil {
			return nil
		}
		if name := Typo(p.Name); name != "" {
			return wrong("is no known port", fmt.Sprintf("%q, or a name that cannot be taken for it", name))
		}
		if side == "input" && Reserved(p.Name) {
			return wrong("is given by nobody", fmt.Sprintf("a known port, or a name that does not begin with %q", head(p.Name)))
		}
		return nil
	}
	if given := describe(p.DType, p.Shape); !agrees(*known, p) {
		return wrong("is "+given, describe(known.DType, known.Shape))
	}
	if known.OnRequest && !p.OnRequest {
		return wrong("is always returned", "an output on request")
	}
	if kinds := map[string][]sdk.Kind{"input": known.Readers, "output": known.Makers}[side]; !slices.Contains(kinds, s.Kind) {
		return wrong("of a stage of kind "+string(s.Kind), "kind "+join(kinds, " or "))
	}
	return nil
}

func describe(d tensor.DType, shape []string) string {
	return string(d) + " " + tensor.FormatShape(shape)
}

func join(kinds []sdk.Kind, separator string) string {
	var out []string
	for _, k := range kinds {
		out = append(out, string(k))
	}
	return strings.Join(out, separator)
}

// agrees reports whether a declaration can stand for the catalogue's port. An empty dtype
// or shape is any.
func agrees(known Port, declared sdk.Port) bool {
	if declared.DType != "" && declared.DType != known.DType {
		return false
	}
	if len(declared.Shape) == 0 {
		return true
	}
	if len(declared.Shape) != len(known.Shape) {
		return false
	}
	for i, d := range known.Shape {
		want, errWant := strconv.Atoi(d)
		size, errSize := strconv.Atoi(declared.Shape[i])
		if errWant == nil && errSize == nil && size >= 0 && size != want {
			return false
		}
	}
	return true
}
