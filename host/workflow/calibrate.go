package workflow

import (
	"context"
	"errors"

	"github.com/alignedfusion/alignedfusion/host/dataset"
	"github.com/alignedfusion/alignedfusion/host/pipeline/loop"
	"github.com/alignedfusion/alignedfusion/host/runs"
	"github.com/alignedfusion/alignedfusion/host/workflow/predictions"
	"github.com/alignedfusion/alignedfusion/sdk/ports"
)

// calibrationFile of a run holds its Calibration.
const calibrationFile = "calibration.json"

const (
	// hiddenShare of the values that are left to the validation split is hidden.
	hiddenShare = 0.3
	// leastHidden are too few to fit a temperature on.
	leastHidden = 30
	// hiddenSeed keeps these masks apart from those of data.missing_seed.
	hiddenSeed = 0x63616c6962726174
)

// restoreBest gives the stages the weights of the best checkpoint; there is false where
// nothing could be measured on the validation split.
func (t *training) restoreBest(ctx context.Context, s *Session) (there bool, err error) {
	checkpoint, _, err := runs.Find(t.Dir, "best")
	if errors.Is(err, runs.ErrNoCheckpoint) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, loop.Restore(context.WithoutCancel(ctx), s.Pipeline, checkpoint, true)
}

// calibrate fits the temperature and writes calibration.json, where the run
// reconstructs attributes and the validation split has enough of them.
func (t *training) calibrate(ctx context.Context, s *Session) error {
	if _, reconstructs := s.Pipeline.Output(ports.Reconstruction.Name); !reconstructs || s.Feed.Reports == nil || len(t.data.Validation) == 0 {
		return nil
	}
	if there, err := t.restoreBest(ctx, s); err != nil || !there {
		return err
	}
	seed := uint64(t.Config.DataSettings.MissingSeed)
	hidden, err := dataset.Mask(t.data.Validation, hiddenShare, seed^hiddenSeed)
	if err != nil {
		return err
	}
	answers, err := s.hiddenAnswers(ctx, t.data.Validation, hidden)
	if err != nil && errors.Is(err, ctx.Err()) {
		return loop.ErrStopped // --resume has nothing else left to do
	}
	if err != nil || len(answers) < leastHidden {
		return err
	}
	c, err := predictions.Calibrate(answers)
	if err != nil {
		return err
	}
	return t.run.WriteJSON(calibrationFile, c)
}

// hiddenAnswers predicts the cases from which values were hidden, and keeps the
// reconstructions of those.
func (s *Session) hiddenAnswers(ctx context.Context, whole, hidden []dataset.Case) ([]predictions.Answer, error) {
	known := s.Feed.Reports
	defer func() { s.Feed.Reports = known }()
	var err error
	if s.Feed.Reports, err = known.Of(hidden); err != nil {
		return nil, err
	}
	predicted, err := s.predictBetweenSignals(ctx, hidden)
	if err != nil {
		return nil, err
	}
	var answers []predictions.Answer
	for i, p := range predicted {
		for _, r := range p.Reconstructed {
			if cell := whole[i].Attributes.Cell(r.Attribute); cell.Known() {
				answers = append(answers, predictions.Answer{Probabilities: r.Probabilities, Value: cell.Value})
			}
		}
	}
	return answers, nil
}
