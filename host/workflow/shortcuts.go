package workflow

import (
	"context"

	"github.com/alignedfusion/alignedfusion/eval/resample"
	"github.com/alignedfusion/alignedfusion/host/workflow/predictions"
)

// Shortcuts predicts a split with its own reports, without them, with those of other patients
// and with contradicting ones, and says what the answers owe to the report.
func Shortcuts(ctx context.Context, o PredictOptions, r resample.Options) (*predictions.Shortcuts, error) {
	o.Counterfactuals = true
	p, err := Predict(ctx, o)
	if err != nil {
		return nil, err
	}
	if !p.Evaluable {
		return nil, usage("--split %s: it has cases without targets, so nothing can be measured", p.Split)
	}
	protocol, err := predictions.Protocol(p.Config)
	if err != nil {
		return nil, err
	}
	s, err := predictions.NewShortcuts(p.Config.Task, p.Labels, p.Cases, p.Predictions, p.Counterfactuals, protocol, r)
	if err != nil {
		return nil, err
	}
	s.Run, s.Split = RunName(o.Run), p.Split
	return s, nil
}
