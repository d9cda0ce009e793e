package sdk

import (
	"fmt"
	"slices"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/alignedfusion/alignedfusion/sdk/proto/stagev1"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

// DefaultOpenContexts bounds the open TRAIN contexts of an instance whose manifest
// does not say otherwise.
const DefaultOpenContexts = 2

// The capabilities of a plugin that is served by this SDK.
const (
	// CapabilitySharedMemory: it understands Attach.
	CapabilitySharedMemory = "shared-memory"
	// CapabilityForwardBackward: it understands ForwardBackward.
	CapabilityForwardBackward = "forward-backward"
	// CapabilityBackwardNorm: Backward answers the gradients' norm where it is asked for.
	CapabilityBackwardNorm = "backward-norm"
	// CapabilityStepZeroGrad: Step clears the gradients where it is asked to.
	CapabilityStepZeroGrad = "step-zero-grad"
	// CapabilityStepAll: it understands StepAll.
	CapabilityStepAll = "step-all"
)

// Capabilities are those of every plugin that is served by this SDK.
func Capabilities() []string {
	return []string{CapabilitySharedMemory, CapabilityForwardBackward, CapabilityBackwardNorm, CapabilityStepZeroGrad, CapabilityStepAll}
}

// Proto converts the manifest to its wire form. Hosts and harnesses use it; a
// plugin author does not need to.
func (m Manifest) Proto() *stagev1.PluginManifest {
	out := &stagev1.PluginManifest{
		Name:            m.Name,
		Version:         m.Version,
		ProtocolMajor:   ProtocolMajor,
		Capabilities:    m.Capabilities,
		License:         m.License,
		ModelCard:       m.ModelCard,
		Runtime:         m.Runtime,
		MaxOpenContexts: uint32(m.OpenContexts()),
	}
	for _, s := range m.Stages {
		out.Stages = append(out.Stages, s.proto())
	}
	return out
}

// OpenContexts returns the bound on open TRAIN contexts per instance.
func (m Manifest) OpenContexts() int {
	if m.MaxOpenContexts <= 0 {
		return DefaultOpenContexts
	}
	return m.MaxOpenContexts
}

// Stage returns the manifest of a stage by name. It fails with an *Error that lists
// the stages there are.
func (m Manifest) Stage(name string) (*StageManifest, error) {
	var names []string
	for i := range m.Stages {
		if m.Stages[i].Name == name {
			return &m.Stages[i], nil
		}
		names = append(names, m.Stages[i].Name)
	}
	return nil, &Error{
		Code:   InvalidArgument,
		Err:    fmt.Errorf("plugin %s has no stage %q", m.Name, name),
		Wanted: fmt.Sprintf("one of %v", names),
	}
}

// JSON is the manifest as `--describe` prints it: the protobuf JSON form of
// PluginManifest with the field names of the .proto file.
func (m Manifest) JSON() ([]byte, error) {
	return protojson.MarshalOptions{Multiline: true, UseProtoNames: true}.Marshal(m.Proto())
}

// ManifestFromJSON reads what JSON wrote. Unknown fields are ignored: they belong to
// a later minor of the protocol.
func ManifestFromJSON(data []byte) (Manifest, error) {
	var p stagev1.PluginManifest
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(data, &p); err != nil {
		return Manifest{}, fmt.Errorf("manifest: %w", err)
	}
	if p.ProtocolMajor != ProtocolMajor {
		return Manifest{}, fmt.Errorf("manifest: plugin %q speaks protocol major %d, want %d", p.Name, p.ProtocolMajor, ProtocolMajor)
	}
	return ManifestFromProto(&p), nil
}

// ManifestFromProto converts from the wire form.
func ManifestFromProto(p *stagev1.PluginManifest) Manifest {
	out := Manifest{
		Name:            p.GetName(),
		Version:         p.GetVersion(),
		License:         p.GetLicense(),
		ModelCard:       p.GetModelCard(),
		Runtime:         p.GetRuntime(),
		Capabilities:    p.GetCapabilities(),
		MaxOpenContexts: int(p.GetMaxOpenContexts()),
	}
	for _, s := range p.GetStages() {
		out.Stages = append(out.Stages, stageFromProto(s))
	}
	return out
}

func (s StageManifest) proto() *stagev1.StageManifest {
	out := &stagev1.StageManifest{
		Name:      s.Name,
		Kind:      string(s.Kind),
		Summary:   s.Summary,
		Inputs:    PortsToProto(s.Inputs),
		Outputs:   PortsToProto(s.Outputs),
		Losses:    s.Losses,
		Metrics:   s.Metrics,
		Tasks:     s.Tasks,
		Trainable: s.Trainable,
	}
	for _, set := range s.Settings {
		out.Settings = append(out.Settings, &stagev1.Setting{
			Name: set.Name, Type: set.Type, Default: set.Default, Choices: set.Choices,
			Min: set.Min, Max: set.Max, Above: set.Above, Below: set.Below, Rising: set.Rising, Help: set.Help,
		})
	}
	return out
}

func stageFromProto(s *stagev1.StageManifest) StageManifest {
	out := StageManifest{
		Name:      s.GetName(),
		Kind:      Kind(s.GetKind()),
		Summary:   s.GetSummary(),
		Inputs:    PortsFromProto(s.GetInputs()),
		Outputs:   PortsFromProto(s.GetOutputs()),
		Losses:    s.GetLosses(),
		Metrics:   s.GetMetrics(),
		Tasks:     s.GetTasks(),
		Trainable: s.GetTrainable(),
	}
	for _, set := range s.GetSettings() {
		out.Settings = append(out.Settings, Setting{
			Name: set.GetName(), Type: set.GetType(), Default: set.GetDefault(), Choices: set.GetChoices(),
			Min: set.Min, Max: set.Max, Above: set.Above, Below: set.Below, Rising: set.GetRising(), Help: set.GetHelp(),
		})
	}
	return out
}

// PortsToProto converts ports to their wire form.
func PortsToProto(ports []Port) []*stagev1.Port {
	var out []*stagev1.Port
	for _, p := range ports {
		q := &stagev1.Port{
			Name: p.Name, Dtype: string(p.DType), Shape: p.Shape,
			Required: p.Required, Differentiable: p.Differentiable, Resident: p.Resident,
			SizeMultiple: p.SizeMultiple, OnRequest: p.OnRequest, Help: p.Help,
		}
		if i := p.Intensity; i != nil {
			q.Intensity = &stagev1.Intensity{Low: i.Low, High: i.High, OutLow: i.OutLow, OutHigh: i.OutHigh, Mean: i.Mean, Std: i.Std}
		}
		out = append(out, q)
	}
	return out
}

// PortsFromProto converts ports from their wire form.
func PortsFromProto(ports []*stagev1.Port) []Port {
	var out []Port
	for _, p := range ports {
		q := Port{
			Name: p.GetName(), DType: tensor.DType(p.GetDtype()), Shape: p.GetShape(),
			Required: p.GetRequired(), Differentiable: p.GetDifferentiable(), Resident: p.GetResident(),
			SizeMultiple: p.GetSizeMultiple(), OnRequest: p.GetOnRequest(), Help: p.GetHelp(),
		}
		if i := p.GetIntensity(); i != nil {
			q.Intensity = &Intensity{Low: i.GetLow(), High: i.GetHigh(), OutLow: i.GetOutLow(), OutHigh: i.GetOutHigh(), Mean: i.GetMean(), Std: i.GetStd()}
		}
		out = append(out, q)
	}
	return out
}

// Proto converts everything but the constants, which travel as tensors.
func (r *OpenRequest) Proto() *stagev1.OpenRequest {
	out := &stagev1.OpenRequest{
		Stage: r.Stage, Settings: r.Settings, Seed: r.Seed, Device: r.Device,
		Threads: int32(r.Threads), Train: r.Train, Frozen: r.Frozen, Group: r.Group,
		Inputs: PortsToProto(r.Inputs), AttributeSchema: r.AttributeSchema,
		Optimizer: &stagev1.Optimizer{Name: r.Optimizer.Name, Values: r.Optimizer.Values},
		Task:      r.Task,
	}
	for _, l := range r.Labels {
		out.Labels = append(out.Labels, &stagev1.LabelSet{Name: l.Name, Classes: l.Classes, ClassWeights: l.ClassWeights})
	}
	return out
}

func openFromProto(r *stagev1.OpenRequest) *OpenRequest {
	out := &OpenRequest{
		Stage: r.GetStage(), Settings: Settings(r.GetSettings()), Seed: r.GetSeed(), Device: r.GetDevice(),
		Threads: int(r.GetThreads()), Train: r.GetTrain(), Frozen: r.GetFrozen(), Group: r.GetGroup(),
		Inputs: PortsFromProto(r.GetInputs()), AttributeSchema: r.GetAttributeSchema(),
		Optimizer: Optimizer{Name: r.GetOptimizer().GetName(), Values: r.GetOptimizer().GetValues()},
		Task:      r.GetTask(),
	}
	for _, l := range r.GetLabels() {
		out.Labels = append(out.Labels, LabelSet{Name: l.GetName(), Classes: l.GetClasses(), ClassWeights: l.GetClassWeights()})
	}
	return out
}

// TensorFromProto views a tensor of the wire: in-band bytes, or a piece of the shared
// memory. It fails when the reference leaves the memory or the bytes do not fit the
// shape. The view of shared memory is not a copy.
func TensorFromProto(p *stagev1.Tensor, memory []byte) (*tensor.Tensor, error) {
	t := &tensor.Tensor{DType: tensor.DType(p.GetDtype()), Shape: slices.Clone(p.GetShape())}
	switch payload := p.GetPayload().(type) {
	case *stagev1.Tensor_Shared:
		offset, size := payload.Shared.GetOffset(), payload.Shared.GetSize()
		if offset > uint64(len(memory)) || size > uint64(len(memory))-offset {
			return nil, fmt.Errorf("bytes %d to %d of a shared memory of %d bytes", offset, offset+size, len(memory))
		}
		if offset%tensor.Alignment != 0 {
			return nil, fmt.Errorf("shared memory offset %d is not a multiple of %d", offset, tensor.Alignment)
		}
		t.Data = memory[offset : offset+size : offset+size]
	case *stagev1.Tensor_Raw:
		t.Data = payload.Raw
	}
	if err := t.Check(); err != nil {
		return nil, err
	}
	if !t.Aligned() {
		t = t.Clone()
	}
	return t, nil
}
