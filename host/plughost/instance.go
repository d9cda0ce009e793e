package plughost

import (
	"context"

	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/client"
)

// Instance is an opened stage of a running plugin. Its methods are those of the stage
// on the other side, with what each call cost.
type Instance struct {
	plugin   *Plugin
	instance *client.Instance
	label    string
}

// Open makes an instance of one of the plugin's stages.
func (p *Plugin) Open(ctx context.Context, req *sdk.OpenRequest) (*Instance, *sdk.OpenResponse, error) {
	manifest, err := p.manifest.Stage(req.Stage)
	if err != nil {
		return nil, nil, err
	}
	i := &Instance{plugin: p, label: string(manifest.Kind) + " " + manifest.Name}
	var resp *sdk.OpenResponse
	err = i.call(ctx, "open", func(ctx context.Context) (err error) {
		i.instance, resp, _, err = p.client.Open(ctx, req)
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	return i, resp, nil
}

func (i *Instance) call(ctx context.Context, name string, f func(context.Context) error) error {
	return i.plugin.call(ctx, i.label, name, f)
}

// Plugin returns the plugin the instance runs in.
func (i *Instance) Plugin() *Plugin { return i.plugin }

// Manifest returns the manifest of the instance's stage.
func (i *Instance) Manifest() *sdk.StageManifest { return i.instance.Manifest() }

// Inputs returns the input ports with the sizes that Open has filled in.
func (i *Instance) Inputs() []sdk.Port { return i.instance.Inputs() }

// Outputs returns the output ports with the sizes that Open has filled in.
func (i *Instance) Outputs() []sdk.Port { return i.instance.Outputs() }

// Forward runs the stage once; in TRAIN mode the context stays open until Backward or
// Release.
func (i *Instance) Forward(ctx context.Context, req *sdk.ForwardRequest) (resp *sdk.ForwardResponse, cost client.Cost, err error) {
	err = i.call(ctx, "forward", func(ctx context.Context) (err error) {
		resp, cost, err = i.instance.Forward(ctx, req)
		return err
	})
	return resp, cost, err
}

// Backward computes the gradients of a TRAIN context and ends it.
func (i *Instance) Backward(ctx context.Context, req *sdk.BackwardRequest) (resp *sdk.BackwardResponse, cost client.Cost, err error) {
	err = i.call(ctx, "backward", func(ctx context.Context) (err error) {
		resp, cost, err = i.instance.Backward(ctx, req)
		return err
	})
	return resp, cost, err
}

// Release ends contexts without gradients; ended and unknown ones are skipped.
func (i *Instance) Release(ctx context.Context, contexts ...uint64) error {
	return i.call(ctx, "release", func(ctx context.Context) error { return i.instance.Release(ctx, contexts...) })
}

// ZeroGrad clears the accumulated parameter gradients.
func (i *Instance) ZeroGrad(ctx context.Context) (cost client.Cost, err error) {
	err = i.call(ctx, "zero_grad", func(ctx context.Context) (err error) {
		cost, err = i.instance.ZeroGrad(ctx)
		return err
	})
	return cost, err
}

// GradNorm returns the L2 norm of the accumulated parameter gradients.
func (i *Instance) GradNorm(ctx context.Context) (norm float64, cost client.Cost, err error) {
	err = i.call(ctx, "grad_norm", func(ctx context.Context) (err error) {
		norm, cost, err = i.instance.GradNorm(ctx)
		return err
	})
	return norm, cost, err
}

// Step applies the optimizer once.
func (i *Instance) Step(ctx context.Context, req *sdk.StepRequest) (cost client.Cost, err error) {
	err = i.call(ctx, "step", func(ctx context.Context) (err error) {
		cost, err = i.instance.Step(ctx, req)
		return err
	})
	return cost, err
}

// Save writes weights and optimizer state into the existing folder dir and returns the
// names of the files.
func (i *Instance) Save(ctx context.Context, dir string) (files []string, cost client.Cost, err error) {
	err = i.call(ctx, "save", func(ctx context.Context) (err error) {
		files, err = i.plugin.host.saveThrough(dir, func(dir string) (files []string, err error) {
			files, cost, err = i.instance.Save(ctx, dir)
			return files, err
		})
		return err
	})
	return files, cost, err
}

// Load reads what Save wrote; weightsOnly leaves the optimizer's state alone.
func (i *Instance) Load(ctx context.Context, dir string, weightsOnly bool) (cost client.Cost, err error) {
	err = i.call(ctx, "load", func(ctx context.Context) (err error) {
		cost, err = i.instance.Load(ctx, dir, weightsOnly)
		return err
	})
	return cost, err
}

// Close ends the instance; the plugin's process lives on.
func (i *Instance) Close(ctx context.Context) error {
	return i.call(ctx, "close", func(ctx context.Context) error { return i.instance.Close(ctx) })
}
