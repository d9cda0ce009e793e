// Package loop runs the training loop: batches in, optimizer steps, validation at
// the end of epochs, checkpoints and metrics into the run directory.
package loop

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/alignedfusion/alignedfusion/host/group"
	"github.com/alignedfusion/alignedfusion/host/pipeline"
	"github.com/alignedfusion/alignedfusion/host/runs"
	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/safetensors"
)

// Batches is one pass over the training data, loaded in the background.
type Batches interface {
	// Next returns io.EOF after the last batch.
	Next(ctx context.Context) (pipeline.Batch, error)
	Close() error
}

// Source gives batches. What it gives depends on the epoch's number alone.
type Source interface {
	// Epoch begins with batch number start of an epoch (both counted from 0).
	Epoch(epoch, start int) (Batches, error)
	// BatchesPerEpoch is the number of micro-batches of every epoch.
	BatchesPerEpoch() int
}

// Validation is what a validation found. Metric decides which checkpoint is best: that of
// the greatest value, or the smallest. NaN means that it could not be computed.
type Validation struct {
	Metric  string
	Value   float64
	Metrics map[string]float64
	// LowerIsBetter says so of Value.
	LowerIsBetter bool
	// Latest makes this validation the best one, whatever number its value is.
	Latest bool
	// Keep is called when the validation is the best so far; it may be nil.
	Keep func() error
}

// Options of Loop.
type Options struct {
	Pipeline *pipeline.Pipeline
	Run      *runs.Run
	Source   Source
	// Validate runs the validation split; nil trains without validation. When ctx ends it
	// may return ctx.Err() early.
	Validate func(ctx context.Context) (Validation, error)
	Progress Progress

	Epochs int
	// MaxSteps ends training early; 0 does not.
	MaxSteps int
	// Accumulate is the number of micro-batches per optimizer step.
	Accumulate int
	// Patience ends training after that many validations in a row that were no better than
	// the best one; 0 never does.
	Patience int
	// ValidateEvery epochs, CheckpointEvery optimizer steps (0: at ends of epochs only).
	ValidateEvery, CheckpointEvery int
	Seed                           uint64
	LearningRate                   float64
	// LearningRateFactor per role, 1 where there is none. That of a stage that was opened
	// frozen (pipeline.Source.Frozen) is of no effect.
	LearningRateFactor map[sdk.Kind]float64
	Schedule           Schedule
	LossWeights        map[string]float64
	ClipNorm           float64
	// Averaged: checkpoints hold averaged weights (CheckAverages), which validations are run with.
	Averaged bool
	// PeakRSSBytes of the plugins, by name; may be nil.
	PeakRSSBytes func() map[string]int64
	// Group are the processes that train together, each with a Source of its own; nil: this
	// one alone.
	Group *group.Group
	// SyncBatchNorm is Stepper.SyncBatchNorm.
	SyncBatchNorm bool
	// ScaleLoss: a stage computes in half precision (pipeline.LossScale).
	ScaleLoss bool
}

// ErrStopped is returned when the context ended: a checkpoint holds all steps that were
// taken.
var ErrStopped = errors.New("training was stopped; a checkpoint holds every step taken")

// TotalSteps is the number of optimizer steps of a whole run.
func TotalSteps(batchesPerEpoch, accumulate, epochs, maxSteps int) (total, perEpoch int) {
	perEpoch = (batchesPerEpoch + accumulate - 1) / accumulate
	total = perEpoch * epochs
	if maxSteps > 0 {
		total = min(total, maxSteps)
	}
	return total, perEpoch
}

// Loop trains from a state (zero for a new run) to the end. When ctx ends, the step
// under way is finished, a checkpoint is written and ErrStopped returned; a validation
// under way is left and done again when the run goes on. Errors of stages, of data and of
// the disk end training at once; the last checkpoint stands.
func Loop(ctx context.Context, o Options, state runs.State) (runs.State, error) {
	l := &loop{Options: o, state: state}
	l.regroup()
	l.stepper = pipeline.Stepper{
		Pipeline: o.Pipeline, Group: o.Group, SyncBatchNorm: o.SyncBatchNorm, Seed: o.Seed, LossWeights: o.LossWeights, ClipNorm: o.ClipNorm,
		SkippedLast: state.SkippedLast,
	}
	if o.ScaleLoss {
		l.stepper.LossScale = pipeline.NewLossScale()
		if state.LossScale > 0 {
			*l.stepper.LossScale = pipeline.LossScale{Scale: state.LossScale, Good: state.LossScaleSteps, Skipped: state.Overflows}
		}
	}
	l.state.Seed = o.Seed
	o.Progress.Start(l.total, state.Step)
	if l.state.Unvalidated { // the run ended in the midst of this validation
		if err := l.validate(ctx); err != nil {
			return l.state, err
		}
	}
	for l.state.Epoch < o.Epochs && !l.ended() {
		if err := l.epoch(ctx); err != nil {
			return l.state, err
		}
	}
	return l.state, nil
}

type loop struct {
	Options
	state   runs.State
	stepper pipeline.Stepper
	total   int
	// ahead is how many more steps were taken than the place in the epochs says: those of
	// fewer processes.
	ahead int
}

// regroup finds the place in the epochs of a run that goes on with another number of
// processes: the batch of all processes that holds the next case. Its schedule goes on from
// there.
func (l *loop) regroup() {
	before, now := max(1, l.state.Ranks), l.Group.Count()
	l.state.Batch = l.state.Batch * before / now
	if l.state.Ranks = now; now == 1 {
		l.state.Ranks = 0
	}
	total, perEpoch := TotalSteps(l.Source.BatchesPerEpoch(), l.Accumulate, l.Epochs, l.MaxSteps)
	l.ahead = l.state.Step - l.state.Epoch*perEpoch - (l.state.Batch+l.Accumulate-1)/l.Accumulate
	l.total = total + l.ahead
}

func (l *loop) epoch(ctx context.Context) (err error) {
	// The signal that ends ctx must not tear down the step under way.
	work := context.WithoutCancel(ctx)
	batches, err := l.Source.Epoch(l.state.Epoch, l.state.Batch)
	if err != nil {
		return err
	}
	next := l.fetch(work, batches)
	defer func() {
		err = errors.Join(err, batches.Close())
		<-next // nobody may read what is closed, or call a stage, once this returns
	}()
	for !l.ended() {
		waited := time.Now()
		f := <-next
		if f.err != nil {
			return f.err
		}
		if len(f.group) == 0 {
			break
		}
		took := time.Since(waited)
		next = l.fetch(work, batches)
		if err := l.step(work, f.group, took); err != nil {
			return err
		}
		if l.epochDone() || l.ended() {
			break // its checkpoint is that of the end
		}
		if l.Group.Stopping(ctx) {
			return errors.Join(ErrStopped, l.checkpoint(work))
		}
		if l.CheckpointEvery > 0 && l.state.Step%l.CheckpointEvery == 0 {
			if err := l.checkpoint(work); err != nil {
				return err
			}
		}
	}
	return l.endEpoch(ctx)
}

func (l *loop) epochDone() bool { return l.state.Batch >= l.Source.BatchesPerEpoch() }
func (l *loop) ended() bool     { return l.state.Step >= l.total || l.stale() }

// stale says that the patience with validations that are no better is at its end.
func (l *loop) stale() bool { return l.Patience > 0 && l.state.Stale >= l.Patience }

// epochNumber counts the epoch of the last step from 1.
func (l *loop) epochNumber() int {
	if l.state.Batch == 0 {
		return l.state.Epoch
	}
	return l.state.Epoch + 1
}

// endEpoch writes the checkpoint first: what fails in the validation must not cost the
// epoch.
func (l *loop) endEpoch(ctx context.Context) error {
	if !l.epochDone() && !l.ended() {
		return fmt.Errorf("epoch %d gave %d batches, want %d", l.state.Epoch+1, l.state.Batch, l.Source.BatchesPerEpoch())
	}
	if l.epochDone() {
		l.state.Epoch, l.state.Batch = l.state.Epoch+1, 0
	}
	l.state.Unvalidated = l.Validate != nil && (l.ended() || l.epochNumber()%l.ValidateEvery == 0)
	if err := l.checkpoint(context.WithoutCancel(ctx)); err != nil {
		return err
	}
	if l.state.Unvalidated {
		if err := l.validate(ctx); err != nil {
			return err
		}
	}
	if l.Group.Stopping(ctx) && !l.ended() {
		return ErrStopped
	}
	return nil
}

// fetched is a step's micro-batches, or why there are none.
type fetched struct {
	group []pipeline.Batch
	err   error
}

// fetch collects the micro-batches of the next step and begins to hand over the first, while the
// step under way computes. The channel is closed afterwards.
func (l *loop) fetch(ctx context.Context, batches Batches) <-chan fetched {
	out := make(chan fetched, 1)
	go func() {
		defer close(out)
		group, err := NextGroup(ctx, batches, l.Accumulate)
		if err == nil && len(group) > 0 {
			err = l.Pipeline.Prefetch(ctx, group[0].Inputs)
		}
		out <- fetched{group, err}
	}()
	return out
}

// NextGroup collects the micro-batches of a step; none at the end of the epoch.
func NextGroup(ctx context.Context, batches Batches, accumulate int) ([]pipeline.Batch, error) {
	var group []pipeline.Batch
	for len(group) < accumulate {
		b, err := batches.Next(ctx)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		group = append(group, b)
	}
	return group, nil
}

// StepValues are what the stages take an optimizer step with: the learning rate times the
// factor of each role, 1 where there is none.
func StepValues(p *pipeline.Pipeline, rate float64, factors map[sdk.Kind]float64) map[sdk.Kind]map[string]float64 {
	values := map[sdk.Kind]map[string]float64{}
	for _, m := range p.Members {
		factor, ok := factors[m.Role]
		if !ok {
			factor = 1
		}
		values[m.Role] = map[string]float64{sdk.LearningRate: rate * factor}
	}
	return values
}

// addPlace tells stages with a learning rate of their own where in the training they are.
func (l *loop) addPlace(values map[sdk.Kind]map[string]float64) {
	for _, m := range l.Pipeline.Members {
		if !m.OwnSchedule() {
			continue
		}
		base := StepValues(l.Pipeline, l.LearningRate, l.LearningRateFactor)[m.Role][sdk.LearningRate]
		maps.Copy(values[m.Role], map[string]float64{sdk.BaseRate: base,
			sdk.StepNumber: float64(l.state.Step - l.ahead), sdk.StepCount: float64(l.total - l.ahead)})
	}
}

func (l *loop) step(ctx context.Context, group []pipeline.Batch, waited time.Duration) error {
	rate := l.LearningRate * l.Schedule.Factor(l.state.Step-l.ahead)
	values := StepValues(l.Pipeline, rate, l.LearningRateFactor)
	l.addPlace(values)
	var scale pipeline.LossScale // of this step
	if l.stepper.LossScale != nil {
		scale = *l.stepper.LossScale
	}
	started := time.Now()
	result, err := l.stepper.Step(ctx, l.state.Step, group, values)
	took := time.Since(started)
	if err != nil {
		return err
	}
	l.state.Step++
	l.state.Batch += len(group)
	l.state.SkippedLast = l.stepper.SkippedLast
	if next := l.stepper.LossScale; next != nil {
		l.state.LossScale, l.state.LossScaleSteps, l.state.Overflows = next.Scale, next.Good, next.Skipped
	}
	record := runs.Record{
		Kind: "step", Step: l.state.Step, Epoch: l.state.Epoch + 1,
		GradNorm: result.GradNorm, GradNorms: result.GradNorms, LearningRate: rate, Skipped: result.Skipped, Metrics: result.Metrics,
		LossScale: scale.Scale, Overflows: l.state.Overflows,
		StepSec: took.Seconds(), WallSec: result.Cost.Wall.Seconds(), ComputeSec: result.Cost.Compute.Seconds(), DataSec: waited.Seconds(),
	}
	if l.PeakRSSBytes != nil {
		record.PeakRSSBytes = l.PeakRSSBytes()
	}
	if result.Skipped {
		// JSON has no NaN: the line says that the step was skipped.
		record.GradNorm, record.GradNorms, record.Metrics = 0, nil, nil
		why := "the loss or its gradient is not a finite number"
		if result.Overflowed {
			why = fmt.Sprintf("a gradient is too large for half precision; the loss is scaled by %g from here on instead of %g (%d steps skipped so far)", l.state.LossScale, scale.Scale, l.state.Overflows)
		}
		l.Progress.Warn(fmt.Sprintf("step %d skipped: %s", l.state.Step, why))
	} else {
		record.Loss, record.Losses = &result.Loss, result.Losses
	}
	if err := l.Run.Append(record); err != nil {
		return err
	}
	l.Progress.Step(record)
	return nil
}

// validate runs the validation that the last checkpoint waits for, and notes in it how
// that ended.
func (l *loop) validate(ctx context.Context) error {
	if l.Group.Stopping(ctx) {
		return ErrStopped
	}
	started, epoch := time.Now(), l.epochNumber()
	v, err := l.measure(ctx)
	if err != nil && errors.Is(err, ctx.Err()) {
		return ErrStopped
	}
	if err != nil {
		return err // of several processes, ErrStopped is what a signal to any of them gives
	}
	record := runs.Record{Kind: "validation", Step: l.state.Step, Epoch: epoch, Metrics: v.Metrics, StepSec: time.Since(started).Seconds()}
	best := l.state.Best
	better := !math.IsNaN(v.Value) && (v.Latest || best.Step == 0 || v.Value != best.Value && (v.Value < best.Value) == v.LowerIsBetter)
	l.state.Stale++
	if better {
		l.state.Stale = 0
		l.state.Best = runs.Best{Step: l.state.Step, Epoch: epoch, Metric: v.Metric, Value: v.Value}
		if v.Keep != nil {
			if err := v.Keep(); err != nil {
				return err
			}
		}
	}
	if err := l.Run.Append(record); err != nil {
		return err
	}
	l.state.Unvalidated = false
	if err := l.Run.Amend(l.state); err != nil {
		return err
	}
	l.Progress.Validation(record, v, better && !v.Latest)
	if l.stale() && l.state.Step < l.total {
		l.Progress.Warn(fmt.Sprintf("%d validations in a row were no better than that of epoch %d (train.patience): training ends after epoch %d of %d",
			l.state.Stale, l.state.Best.Epoch, epoch, l.Epochs))
	}
	return nil
}

// measure runs the validation, with the averaged weights where there are some: what is
// loaded to predict with is what the checkpoint holds, and all of it is loaded again to go on.
func (l *loop) measure(ctx context.Context) (Validation, error) {
	if !l.Averaged {
		return l.Validate(ctx)
	}
	c, _, err := runs.Find(l.Run.Dir, strconv.Itoa(l.state.Step))
	if err != nil {
		return Validation{}, err
	}
	work := context.WithoutCancel(ctx)
	if err := Restore(work, l.Pipeline, c, true); err != nil {
		return Validation{}, err
	}
	v, err := l.Validate(ctx)
	if err != nil {
		return v, err
	}
	return v, Restore(work, l.Pipeline, c, false)
}

func (l *loop) checkpoint(ctx context.Context) error {
	var roles []string
	members := map[string]*pipeline.Member{}
	for _, m := range l.Pipeline.Members {
		if !m.Stage.Trainable {
			continue
		}
		roles = append(roles, string(m.Role))
		members[string(m.Role)] = m
	}
	err := l.Run.Save(l.state, roles, func(role, dir string) error {
		m := members[role]
		if _, err := m.Instance.Save(ctx, dir); err != nil {
			return &pipeline.StageError{Role: m.Role, Plugin: m.Plugin, Call: "save", Err: err}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return l.Group.Wait() // nobody goes on before it stands
}

// CheckAverages fails for a stage that is trained and keeps no averaged weights: what it saves
// does not say that it holds some.
func CheckAverages(ctx context.Context, p *pipeline.Pipeline) error {
	for _, m := range p.Members {
		if !m.Updates() {
			continue
		}
		averaged, err := savesAverages(ctx, m)
		if err == nil && !averaged {
			err = fmt.Errorf("it keeps no averaged weights (its SDK is older, or not ours): train without train.ema, or freeze the stage (train.%s_lr_factor=0)", m.Role)
		}
		if err != nil {
			return &pipeline.StageError{Role: m.Role, Plugin: m.Plugin, Call: "save", Err: err}
		}
	}
	return nil
}

// savesAverages saves a stage and looks whether one of the files is of averages.
func savesAverages(ctx context.Context, m *pipeline.Member) (bool, error) {
	dir, err := os.MkdirTemp("", "alignedfusion-weights-")
	if err != nil {
		return false, err
	}
	defer os.RemoveAll(dir)
	names, err := m.Instance.Save(ctx, dir)
	for _, name := range names {
		if filepath.Ext(name) != ".safetensors" {
			continue
		}
		f, err := safetensors.Open(filepath.Join(dir, name))
		if err != nil {
			return false, err
		}
		about := f.Metadata()
		if f.Close(); about[sdk.EMA] != "" {
			return true, nil
		}
	}
	return false, err
}

// Restore loads a checkpoint into the stages; weightsOnly leaves optimizers alone.
func Restore(ctx context.Context, p *pipeline.Pipeline, c *runs.Checkpoint, weightsOnly bool) error {
	for _, m := range p.Members {
		if !m.Stage.Trainable {
			continue
		}
		if err := RestoreMember(ctx, m, c, weightsOnly); err != nil {
			return err
		}
	}
	return nil
}

// RestoreMember loads one stage's part of a checkpoint.
func RestoreMember(ctx context.Context, m *pipeline.Member, c *runs.Checkpoint, weightsOnly bool) error {
	dir, err := filepath.Abs(c.StageDir(string(m.Role)))
	if err != nil {
		return err
	}
	if err := m.Instance.Load(ctx, dir, weightsOnly); err != nil {
		return &pipeline.StageError{Role: m.Role, Plugin: m.Plugin, Call: "load " + dir, Err: err}
	}
	return nil
}
