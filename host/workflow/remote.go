package workflow

import (
	"context"
	"fmt"

	"github.com/alignedfusion/alignedfusion/host/config"
	"github.com/alignedfusion/alignedfusion/host/pipeline"
	"github.com/alignedfusion/alignedfusion/host/plughost"
	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/client"
)

// remote is a plugin's instance as the pipeline wants it, keeping the books of what
// its calls cost.
type remote struct {
	instance *plughost.Instance
	cost     pipeline.Cost
	peakRSS  int64
}

var _ pipeline.Metered = (*remote)(nil)

func (r *remote) Cost() pipeline.Cost { return r.cost }

func (r *remote) spent(c client.Cost) {
	r.cost = r.cost.Add(pipeline.Cost{Wall: c.Wall, Compute: c.Compute, Calls: 1})
	r.peakRSS = max(r.peakRSS, c.PeakRSSBytes)
}

func (r *remote) Forward(ctx context.Context, req *sdk.ForwardRequest) (*sdk.ForwardResponse, error) {
	resp, cost, err := r.instance.Forward(ctx, req)
	r.spent(cost)
	return resp, err
}

func (r *remote) Backward(ctx context.Context, req *sdk.BackwardRequest) (*sdk.BackwardResponse, error) {
	resp, cost, err := r.instance.Backward(ctx, req)
	r.spent(cost)
	return resp, err
}

func (r *remote) Release(ctx context.Context, contextID uint64) error {
	return r.instance.Release(ctx, contextID)
}

func (r *remote) ZeroGrad(ctx context.Context) error {
	cost, err := r.instance.ZeroGrad(ctx)
	r.spent(cost)
	return err
}

func (r *remote) GradNorm(ctx context.Context) (float64, error) {
	norm, cost, err := r.instance.GradNorm(ctx)
	r.spent(cost)
	return norm, err
}

func (r *remote) Step(ctx context.Context, req *sdk.StepRequest) error {
	cost, err := r.instance.Step(ctx, req)
	r.spent(cost)
	return err
}

func (r *remote) Save(ctx context.Context, dir string) ([]string, error) {
	files, _, err := r.instance.Save(ctx, dir)
	return files, err
}

func (r *remote) Load(ctx context.Context, dir string, weightsOnly bool) error {
	_, err := r.instance.Load(ctx, dir, weightsOnly)
	return err
}

func (r *remote) Close() error { return r.instance.Close(context.Background()) }

// start launches the plugin of a role and picks its stage.
func start(ctx context.Context, host *plughost.Host, role sdk.Kind, c config.Stage, task string) (pipeline.Source, *plughost.Plugin, error) {
	p, err := host.Start(ctx, c.Plugin)
	if err != nil {
		return pipeline.Source{}, nil, fmt.Errorf("%s %s: %w", role, c.Ref(), err)
	}
	stage, err := pipeline.PickStage(p.Manifest(), role, c.Stage, task)
	if err != nil {
		return pipeline.Source{}, nil, &pipeline.RoleError{Text: fmt.Sprintf("%s %s: %v", role, c.Ref(), err)}
	}
	return pipeline.Source{
		Role: role, Plugin: p.Manifest().Name, Process: fmt.Sprint(p.PID()), Stage: *stage, Settings: c.Settings,
		Open: func(ctx context.Context, req *sdk.OpenRequest) (pipeline.Instance, *sdk.OpenResponse, error) {
			i, resp, err := p.Open(ctx, req)
			if err != nil {
				return nil, nil, err
			}
			return &remote{instance: i}, resp, nil
		},
	}, p, nil
}
