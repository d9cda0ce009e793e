package workflow

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/alignedfusion/alignedfusion/eval/classify"
	"github.com/alignedfusion/alignedfusion/host/config"
	"github.com/alignedfusion/alignedfusion/host/pipeline/loop"
	"github.com/alignedfusion/alignedfusion/host/runs"
	"github.com/alignedfusion/alignedfusion/host/workflow/predictions"
	"github.com/alignedfusion/alignedfusion/sdk"
)

// hasThreshold reports whether a threshold can be set between a label set's classes.
func hasThreshold(set sdk.LabelSet) bool { return set.Classed() && len(set.Classes) == 2 }

// checkThreshold refuses a train.threshold_by where no question has two classes.
func (s *Session) checkThreshold() error {
	if by := s.Config.Train.ThresholdBy; by != config.NoThreshold && !slices.ContainsFunc(s.Labels, hasThreshold) {
		return fmt.Errorf("train.threshold_by=%s is of questions with two classes, and %s asks %s of %d", by, s.Labels[0].Name, s.Labels[0].Asks(), len(s.Labels[0].Classes))
	}
	return nil
}

// threshold chooses the thresholds with the best checkpoint on the validation split, writes them
// into the run's labels, and what is predicted for the split anew with them.
func (t *training) threshold(ctx context.Context, s *Session) error {
	c := t.Config
	if c.Train.ThresholdBy == config.NoThreshold {
		return nil
	}
	if there, err := t.restoreBest(ctx, s); err != nil || !there {
		return err
	}
	predicted, err := s.predictBetweenSignals(ctx, t.data.Validation)
	if err != nil && errors.Is(err, ctx.Err()) {
		return loop.ErrStopped // --resume has nothing else left to do
	}
	if err != nil {
		return err
	}
	if err := t.chooseThresholds(s, predicted); err != nil {
		return err
	}
	if err := t.run.WriteJSON(runs.LabelsFile, t.data.Labels); err != nil {
		return err
	}
	return t.keepValidation(s, predicted)
}

// chooseThresholds sets those of the label sets of two classes.
func (t *training) chooseThresholds(s *Session, predicted []predictions.Prediction) error {
	by := t.Config.Train.ThresholdBy
	rule, err := classify.ParseThresholdRule(by)
	if err != nil {
		return err
	}
	for k := range t.data.Labels {
		t.data.Labels[k].Threshold = 0 // a run that goes on chooses anew
	}
	results, err := predictions.EvaluateClasses(t.data.Validation, predicted, t.data.Labels)
	if err != nil {
		return err
	}
	for k, e := range results {
		set := &t.data.Labels[k]
		if !hasThreshold(*set) {
			continue
		}
		if set.Threshold = e.Result.Threshold(rule); math.IsNaN(set.Threshold) {
			set.Threshold = 0
			fmt.Fprintf(t.Messages, "warning: no threshold of %s: the validation split has no cases of both classes; the likelier class is called\n", set.Name)
			continue
		}
		set.ThresholdBy = fmt.Sprintf("%s on %s", by, t.Config.DataSettings.ValidationSplit)
		fmt.Fprintln(t.Messages, thresholdNote(*set))
	}
	s.Labels = t.data.Labels
	return nil
}

// thresholdNote says which threshold a label set has; "" where none.
func thresholdNote(set sdk.LabelSet) string {
	if set.Threshold == 0 {
		return ""
	}
	return fmt.Sprintf("%s: %s is called from probability %.4g on (%s)", set.Name, set.Classes[1], set.Threshold, set.ThresholdBy)
}
