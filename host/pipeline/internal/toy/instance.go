package toy

import (
	"context"
	"math"

	"github.com/alignedfusion/alignedfusion/sdk"
)

// Instance is a stage as a pipeline calls it, with no process, SDK and client in between.
type Instance struct{ trained }

type trained interface {
	sdk.Stage
	sdk.Trainer
	sdk.Saver
}

// OpenInstance is Open for a pipeline in this process.
func OpenInstance(ctx context.Context, req *sdk.OpenRequest) (*Instance, *sdk.OpenResponse, error) {
	stage, resp, err := Open(ctx, req)
	if err != nil {
		return nil, nil, err
	}
	return &Instance{stage.(trained)}, resp, nil
}

// Backward answers the gradients' norm as well.
func (i *Instance) Backward(ctx context.Context, req *sdk.BackwardRequest) (*sdk.BackwardResponse, error) {
	resp, err := i.trained.Backward(ctx, req)
	if err == nil && req.GradNorm {
		resp.GradNorm, err = i.GradNorm(ctx)
	}
	return resp, err
}

// ForwardBackward is one after the other.
func (i *Instance) ForwardBackward(ctx context.Context, f *sdk.ForwardRequest, b *sdk.BackwardRequest) (*sdk.ForwardResponse, *sdk.BackwardResponse, error) {
	resp, err := i.Forward(ctx, f)
	if err != nil {
		return nil, nil, err
	}
	for _, l := range resp.Losses {
		if math.IsNaN(l) || math.IsInf(l, 0) {
			return resp, nil, i.Release(ctx, f.Context)
		}
	}
	grads, err := i.Backward(ctx, b)
	return resp, grads, err
}

// Step clears the gradients as well.
func (i *Instance) Step(ctx context.Context, req *sdk.StepRequest) error {
	if err := i.trained.Step(ctx, req); err != nil || !req.ZeroGrad {
		return err
	}
	return i.ZeroGrad(ctx)
}
