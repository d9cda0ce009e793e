package workflow

import (
	"context"
	"fmt"

	"github.com/alignedfusion/alignedfusion/host/config"
	"github.com/alignedfusion/alignedfusion/host/pipeline"
	"github.com/alignedfusion/alignedfusion/host/plughost"
	"github.com/alignedfusion/alignedfusion/sdk"
)

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
			return i, resp, nil
		},
		StepAll: func(ctx context.Context, instances []pipeline.Instance, requests []*sdk.StepRequest) error {
			own := make([]*plughost.Instance, len(instances))
			for k, i := range instances {
				own[k] = i.(*plughost.Instance)
			}
			return p.StepAll(ctx, own, requests)
		},
	}, p, nil
}
