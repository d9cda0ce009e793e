package sdk

import "fmt"

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
	// CapabilityDataParallel: it understands Join and Average.
	CapabilityDataParallel = "data-parallel"
	// CapabilitySyncBatchNorm: it understands JoinRequest.SyncBatchNorm.
	CapabilitySyncBatchNorm = "sync-batchnorm"
	// CapabilityArithmetic: it understands OpenRequest.Arithmetic.
	CapabilityArithmetic = "arithmetic"
	// CapabilityPrefetch: it understands Prefetch.
	CapabilityPrefetch = "prefetch"
)

// What is the author's to claim: CapabilityAMP, that its stages understand OpenRequest.AMP,
// CapabilityFP16, that they understand OpenRequest.FP16 with it, and CapabilityKeep, that they
// understand OpenRequest.Keeps and Kept, as all of package torchstage do.
const (
	CapabilityAMP  = "amp"
	CapabilityFP16 = "fp16"
	CapabilityKeep = "keep"
)

// CapabilityTogether is that of a program that serves several plugins in one process: each of
// them has it.
const CapabilityTogether = "together"

// Capabilities are those of every plugin that is served by this SDK.
func Capabilities() []string {
	return []string{CapabilitySharedMemory, CapabilityForwardBackward, CapabilityBackwardNorm, CapabilityStepZeroGrad, CapabilityStepAll, CapabilityDataParallel,
		CapabilitySyncBatchNorm, CapabilityArithmetic, CapabilityPrefetch}
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
