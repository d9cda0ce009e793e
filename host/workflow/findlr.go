package workflow

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/alignedfusion/alignedfusion/host/pipeline"
	"github.com/alignedfusion/alignedfusion/host/pipeline/loop"
	"github.com/alignedfusion/alignedfusion/host/runs"
)

// Sweep is what FindRate measured: the loss of one optimizer step at each of rising learning
// rates.
type Sweep struct {
	SchemaVersion int          `json:"schema_version"`
	Points        []SweepPoint `json:"points"`
	// Diverged says that the sweep ended before its last rate, because the loss did.
	Diverged bool `json:"diverged"`
	// LowestRate has the lowest smoothed loss; Suggested is a tenth of it, 0 where no rate
	// lowered the loss.
	LowestRate float64 `json:"lowest_rate"`
	Suggested  float64 `json:"suggested_lr,omitempty"`
	// Data is the data spec.
	Data string `json:"data"`
}

// SweepPoint is one step: the loss before it at the rate it was taken with.
type SweepPoint struct {
	LearningRate float64 `json:"learning_rate"`
	Loss         float64 `json:"loss"`
	// Smoothed is the mean over sweepWindow points around.
	Smoothed float64 `json:"smoothed"`
}

const (
	sweepLow, sweepHigh = 1e-7, 10.0
	// sweepSteps are taken unless train.max_steps says otherwise.
	sweepSteps  = 100
	sweepWindow = 7
	// sweepEnd times the lowest loss ends the sweep.
	sweepEnd = 4
)

// FindRate trains for some steps (train.max_steps, or 100) while the learning rate rises
// exponentially from 1e-7 to 10 (Smith, Cyclical learning rates, WACV 2017, section 3.3), until
// the loss diverges. Nothing is kept: o.Dir is not used.
func FindRate(ctx context.Context, o TrainOptions) (*Sweep, error) {
	t := &training{TrainOptions: o}
	if err := t.prepare(); err != nil {
		return nil, err
	}
	s, err := Open(ctx, Options{Config: t.Config, Data: t.data.Data, Schema: t.data.Schema, Labels: t.data.Labels, Train: true, Plugins: t.Plugins, Tokens: t.Tokens})
	if err != nil {
		return nil, err
	}
	sweep, err := t.sweep(ctx, s)
	if err != nil {
		s.Abandon()
		return nil, err
	}
	s.finish(t.Messages)
	sweep.judge()
	return sweep, nil
}

func (t *training) sweep(ctx context.Context, s *Session) (*Sweep, error) {
	o, err := t.loopOptions(ctx, s)
	if err != nil {
		return nil, err
	}
	if t.Config.Init != "" {
		if err := t.initialise(ctx, s); err != nil {
			return nil, err
		}
	}
	for _, w := range t.allWarnings(s) {
		fmt.Fprintf(t.Messages, "warning: %s\n", w)
	}
	steps := o.MaxSteps
	if steps == 0 {
		steps = sweepSteps
	}
	progress := loop.NewProgress(t.Messages, 0)
	defer progress.Close()
	progress.Start(steps, 0)
	sweep := &Sweep{SchemaVersion: 1, Data: t.Config.Data}
	stepper := pipeline.Stepper{Pipeline: s.Pipeline, Seed: o.Seed, LossWeights: o.LossWeights, ClipNorm: o.ClipNorm}
	if o.ScaleLoss {
		stepper.LossScale = pipeline.NewLossScale()
	}
	for epoch := 0; len(sweep.Points) < steps && !sweep.Diverged; epoch++ {
		if err := sweepEpoch(ctx, o, &stepper, sweep, epoch, steps, progress); err != nil {
			return nil, err
		}
	}
	return sweep, nil
}

// sweepEpoch takes the steps of one pass over the training data.
func sweepEpoch(ctx context.Context, o loop.Options, stepper *pipeline.Stepper, sweep *Sweep, epoch, steps int, progress loop.Progress) (err error) {
	work := context.WithoutCancel(ctx) // the step under way is finished
	batches, err := o.Source.Epoch(epoch, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, batches.Close()) }()
	for len(sweep.Points) < steps {
		group, err := loop.NextGroup(work, batches, o.Accumulate)
		if err != nil || len(group) == 0 {
			return err
		}
		n := len(sweep.Points)
		rate := sweepLow * math.Pow(sweepHigh/sweepLow, float64(n)/float64(max(1, steps-1)))
		started := time.Now()
		result, err := stepper.Step(work, n, group, loop.StepValues(o.Pipeline, rate, o.LearningRateFactor))
		if err != nil {
			return err
		}
		if result.Overflowed {
			continue
		}
		if sweep.Diverged = result.Skipped || sweep.diverges(result.Loss); sweep.Diverged {
			return nil
		}
		sweep.Points = append(sweep.Points, SweepPoint{LearningRate: rate, Loss: result.Loss})
		progress.Step(runs.Record{Kind: "step", Step: n + 1, Epoch: epoch + 1, Loss: &result.Loss, LearningRate: rate, StepSec: time.Since(started).Seconds()})
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return nil
}

// diverges reports whether a loss and those of the two steps before it are, in the mean, more
// than sweepEnd times the lowest mean of three so far.
func (s *Sweep) diverges(loss float64) bool {
	mean := func(i int) float64 { return (s.Points[i-2].Loss + s.Points[i-1].Loss + s.Points[i].Loss) / 3 }
	n := len(s.Points)
	if n < 3 {
		return false
	}
	lowest := math.Inf(1)
	for i := 2; i < n; i++ {
		lowest = min(lowest, mean(i))
	}
	return (s.Points[n-2].Loss+s.Points[n-1].Loss+loss)/3 > sweepEnd*lowest
}

// judge smooths the losses and chooses: a tenth of the rate with the lowest smoothed loss,
// which lies well before where training gets worse. A lowest loss that is not a hundredth
// below the first one suggests nothing.
func (s *Sweep) judge() {
	lowest := -1
	for i := range s.Points {
		sum, n := 0.0, 0.0
		for _, p := range s.Points[max(0, i-sweepWindow/2):min(len(s.Points), i+sweepWindow/2+1)] {
			sum, n = sum+p.Loss, n+1
		}
		if s.Points[i].Smoothed = sum / n; lowest < 0 || s.Points[i].Smoothed < s.Points[lowest].Smoothed {
			lowest = i
		}
	}
	if lowest < 0 {
		return
	}
	if s.LowestRate = s.Points[lowest].LearningRate; s.Points[lowest].Smoothed < 0.99*s.Points[0].Smoothed {
		s.Suggested = s.LowestRate / 10
	}
}
