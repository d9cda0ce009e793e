package wire

import (
	"fmt"
	"slices"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/proto/stagev1"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

// ManifestToProto converts a manifest to its wire form.
func ManifestToProto(m sdk.Manifest) *stagev1.PluginManifest {
	out := &stagev1.PluginManifest{
		Name:            m.Name,
		Version:         m.Version,
		ProtocolMajor:   sdk.ProtocolMajor,
		Capabilities:    m.Capabilities,
		License:         m.License,
		ModelCard:       m.ModelCard,
		Runtime:         m.Runtime,
		MaxOpenContexts: uint32(m.OpenContexts()),
	}
	for _, s := range m.Stages {
		out.Stages = append(out.Stages, stageToProto(s))
	}
	return out
}

// ManifestJSON is the manifest as `--describe` prints it: the protobuf JSON form of
// PluginManifest with the field names of the .proto file.
func ManifestJSON(m sdk.Manifest) ([]byte, error) {
	return protojson.MarshalOptions{Multiline: true, UseProtoNames: true}.Marshal(ManifestToProto(m))
}

// ManifestFromJSON reads what ManifestJSON wrote. Unknown fields are ignored: they belong to
// a later minor of the protocol.
func ManifestFromJSON(data []byte) (sdk.Manifest, error) {
	var p stagev1.PluginManifest
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(data, &p); err != nil {
		return sdk.Manifest{}, fmt.Errorf("manifest: %w", err)
	}
	if p.ProtocolMajor != sdk.ProtocolMajor {
		return sdk.Manifest{}, fmt.Errorf("manifest: plugin %q speaks protocol major %d, want %d", p.Name, p.ProtocolMajor, sdk.ProtocolMajor)
	}
	return ManifestFromProto(&p), nil
}

// ManifestFromProto converts from the wire form.
func ManifestFromProto(p *stagev1.PluginManifest) sdk.Manifest {
	out := sdk.Manifest{
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

func stageToProto(s sdk.StageManifest) *stagev1.StageManifest {
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
		Optimizer: s.Optimizer,
		Schedule:  s.Schedule,
	}
	for _, set := range s.Settings {
		out.Settings = append(out.Settings, &stagev1.Setting{
			Name: set.Name, Type: set.Type, Default: set.Default, Choices: set.Choices,
			Min: set.Min, Max: set.Max, Above: set.Above, Below: set.Below, Rising: set.Rising, Help: set.Help,
		})
	}
	return out
}

func stageFromProto(s *stagev1.StageManifest) sdk.StageManifest {
	out := sdk.StageManifest{
		Name:      s.GetName(),
		Kind:      sdk.Kind(s.GetKind()),
		Summary:   s.GetSummary(),
		Inputs:    PortsFromProto(s.GetInputs()),
		Outputs:   PortsFromProto(s.GetOutputs()),
		Losses:    s.GetLosses(),
		Metrics:   s.GetMetrics(),
		Tasks:     s.GetTasks(),
		Trainable: s.GetTrainable(),
		Optimizer: s.GetOptimizer(),
		Schedule:  s.GetSchedule(),
	}
	for _, set := range s.GetSettings() {
		out.Settings = append(out.Settings, sdk.Setting{
			Name: set.GetName(), Type: set.GetType(), Default: set.GetDefault(), Choices: set.GetChoices(),
			Min: set.Min, Max: set.Max, Above: set.Above, Below: set.Below, Rising: set.GetRising(), Help: set.GetHelp(),
		})
	}
	return out
}

// PortsToProto converts ports to their wire form.
func PortsToProto(ports []sdk.Port) []*stagev1.Port {
	var out []*stagev1.Port
	for _, p := range ports {
		q := &stagev1.Port{
			Name: p.Name, Dtype: string(p.DType), Shape: p.Shape,
			Required: p.Required, Differentiable: p.Differentiable, Resident: p.Resident,
			SizeMultiple: p.SizeMultiple, OnRequest: p.OnRequest, LowerIsBetter: p.LowerIsBetter, Help: p.Help,
		}
		if i := p.Intensity; i != nil {
			q.Intensity = &stagev1.Intensity{Low: i.Low, High: i.High, OutLow: i.OutLow, OutHigh: i.OutHigh, Mean: i.Mean, Std: i.Std}
		}
		out = append(out, q)
	}
	return out
}

// PortsFromProto converts ports from their wire form.
func PortsFromProto(ports []*stagev1.Port) []sdk.Port {
	var out []sdk.Port
	for _, p := range ports {
		q := sdk.Port{
			Name: p.GetName(), DType: tensor.DType(p.GetDtype()), Shape: p.GetShape(),
			Required: p.GetRequired(), Differentiable: p.GetDifferentiable(), Resident: p.GetResident(),
			SizeMultiple: p.GetSizeMultiple(), OnRequest: p.GetOnRequest(), LowerIsBetter: p.GetLowerIsBetter(), Help: p.GetHelp(),
		}
		if i := p.GetIntensity(); i != nil {
			q.Intensity = &sdk.Intensity{Low: i.GetLow(), High: i.GetHigh(), OutLow: i.GetOutLow(), OutHigh: i.GetOutHigh(), Mean: i.GetMean(), Std: i.GetStd()}
		}
		out = append(out, q)
	}
	return out
}

// OpenToProto converts everything but the constants, which travel as tensors.
func OpenToProto(r *sdk.OpenRequest) *stagev1.OpenRequest {
	out := &stagev1.OpenRequest{
		Stage: r.Stage, Settings: r.Settings, Seed: r.Seed, Device: r.Device,
		Threads: int32(r.Threads), Train: r.Train, Frozen: r.Frozen, Amp: r.AMP, Group: r.Group,
		Inputs: PortsToProto(r.Inputs), AttributeSchema: r.AttributeSchema,
		Optimizer: &stagev1.Optimizer{Name: r.Optimizer.Name, Values: r.Optimizer.Values},
		Task:      r.Task,
		Fp16:      r.FP16,
		Keeps:     r.Keeps, Keeper: r.Keeper, Kept: r.Kept,
	}
	if a := r.Arithmetic; a != nil {
		out.Arithmetic = &stagev1.Arithmetic{Tf32: a.TF32, CudnnBenchmark: a.Benchmark, Deterministic: a.Deterministic}
	}
	for _, l := range r.Labels {
		out.Labels = append(out.Labels, &stagev1.LabelSet{Name: l.Name, Classes: l.Classes, ClassWeights: l.ClassWeights})
	}
	return out
}

func openFromProto(r *stagev1.OpenRequest) *sdk.OpenRequest {
	out := &sdk.OpenRequest{
		Stage: r.GetStage(), Settings: sdk.Settings(r.GetSettings()), Seed: r.GetSeed(), Device: r.GetDevice(),
		Threads: int(r.GetThreads()), Train: r.GetTrain(), Frozen: r.GetFrozen(), AMP: r.GetAmp(), Group: r.GetGroup(),
		Inputs: PortsFromProto(r.GetInputs()), AttributeSchema: r.GetAttributeSchema(),
		Optimizer: sdk.Optimizer{Name: r.GetOptimizer().GetName(), Values: r.GetOptimizer().GetValues()},
		Task:      r.GetTask(),
		FP16:      r.GetFp16(),
		Keeps:     r.GetKeeps(), Keeper: r.GetKeeper(), Kept: r.GetKept(),
	}
	if a := r.GetArithmetic(); a != nil {
		out.Arithmetic = &sdk.Arithmetic{TF32: a.GetTf32(), Benchmark: a.GetCudnnBenchmark(), Deterministic: a.GetDeterministic()}
	}
	for _, l := range r.GetLabels() {
		out.Labels = append(out.Labels, sdk.LabelSet{Name: l.GetName(), Classes: l.GetClasses(), ClassWeights: l.GetClassWeights()})
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
