package plughost

import (
	"context"

	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/client"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

// Instance is an opened stage of a running plugin, as host/pipeline uses it: the methods
// of the stage on the other side, whose failures are explained.
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
		i.instance, resp, err = p.client.Open(ctx, req)
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	for k, note := range resp.Notes {
		resp.Notes[k] = printable(note)
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

// Cost is what the instance's calls took so far.
func (i *Instance) Cost() client.Cost { return i.instance.Cost() }

// Prefetch begins to hand over inputs of a Forward to come; see client.Instance.
func (i *Instance) Prefetch(ctx context.Context, inputs map[string]*tensor.Tensor) error {
	return i.call(ctx, "prefetch", func(ctx context.Context) error { return i.instance.Prefetch(ctx, inputs) })
}

// Forward runs the stage once; in TRAIN mode the context stays open until Backward or
// Release.
func (i *Instance) Forward(ctx context.Context, req *sdk.ForwardRequest) (resp *sdk.ForwardResponse, err error) {
	err = i.call(ctx, "forward", func(ctx context.Context) (err error) {
		resp, err = i.instance.Forward(ctx, req)
		return err
	})
	return resp, err
}

// Backward computes the gradients of a TRAIN context and ends it.
func (i *Instance) Backward(ctx context.Context, req *sdk.BackwardRequest) (resp *sdk.BackwardResponse, err error) {
	err = i.call(ctx, "backward", func(ctx context.Context) (err error) {
		resp, err = i.instance.Backward(ctx, req)
		return err
	})
	return resp, err
}

// ForwardBackward is both in one call; see client.Instance.
func (i *Instance) ForwardBackward(ctx context.Context, f *sdk.ForwardRequest, b *sdk.BackwardRequest) (resp *sdk.ForwardResponse, grads *sdk.BackwardResponse, err error) {
	err = i.call(ctx, "forward and backward", func(ctx context.Context) (err error) {
		resp, grads, err = i.instance.ForwardBackward(ctx, f, b)
		return err
	})
	return resp, grads, err
}

// Release ends a context without gradients; an ended or unknown one is skipped.
func (i *Instance) Release(ctx context.Context, contextID uint64) error {
	return i.call(ctx, "release", func(ctx context.Context) error { return i.instance.Release(ctx, contextID) })
}

// ZeroGrad clears the accumulated parameter gradients.
func (i *Instance) ZeroGrad(ctx context.Context) error {
	return i.call(ctx, "zero_grad", i.instance.ZeroGrad)
}

// GradNorm returns the L2 norm of the accumulated parameter gradients.
func (i *Instance) GradNorm(ctx context.Context) (norm float64, err error) {
	err = i.call(ctx, "grad_norm", func(ctx context.Context) (err error) {
		norm, err = i.instance.GradNorm(ctx)
		return err
	})
	return norm, err
}

// Step applies the optimizer once.
func (i *Instance) Step(ctx context.Context, req *sdk.StepRequest) error {
	return i.call(ctx, "step", func(ctx context.Context) error { return i.instance.Step(ctx, req) })
}

// StepAll is Step of several instances of the plugin, each with its own request.
func (p *Plugin) StepAll(ctx context.Context, instances []*Instance, requests []*sdk.StepRequest) error {
	all := make([]*client.Instance, len(instances))
	for k, i := range instances {
		all[k] = i.instance
	}
	return p.call(ctx, "", "step", func(ctx context.Context) error { return client.StepAll(ctx, all, requests) })
}

// Join makes the instance one of a group of processes.
func (i *Instance) Join(ctx context.Context, req *sdk.JoinRequest) error {
	return i.call(ctx, "join", func(ctx context.Context) error { return i.instance.Join(ctx, req) })
}

// Average begins to average the gradients over the group.
func (i *Instance) Average(ctx context.Context) error {
	return i.call(ctx, "average", i.instance.Average)
}

// Save writes weights and optimizer state into the existing folder dir and returns the
// names of the files.
func (i *Instance) Save(ctx context.Context, dir string) (files []string, err error) {
	err = i.call(ctx, "save", func(ctx context.Context) (err error) {
		files, err = i.plugin.saveThrough(dir, func(dir string) ([]string, error) { return i.instance.Save(ctx, dir) })
		return err
	})
	return files, err
}

// Load reads what Save wrote; weightsOnly leaves the optimizer's state alone.
func (i *Instance) Load(ctx context.Context, dir string, weightsOnly bool) error {
	return i.call(ctx, "load", func(ctx context.Context) error { return i.instance.Load(ctx, dir, weightsOnly) })
}

// Close ends the instance; the plugin's process lives on. One that does not answer within
// the time for shutting down is killed: nothing that anybody waits for comes any more.
func (i *Instance) Close() error {
	ctx, cancel := context.WithTimeoutCause(context.Background(), i.plugin.host.options.ShutdownTimeout, errHung)
	defer cancel()
	return i.call(ctx, "close", i.instance.Close)
}
