package pipeline

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/alignedfusion/alignedfusion/host/group"
	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

// Batch is what the host feeds a pipeline with.
type Batch struct {
	// IDs name the cases, for messages.
	IDs    []string
	Inputs map[string]*tensor.Tensor
	// Absent is ForwardOptions.Absent.
	Absent map[string][]bool
	// Weight of the losses, which are means over the cases, where processes share a batch
	// unevenly; 0 is 1.
	Weight float64
}

// Stepper is the training step as a machine without I/O: zero the gradients, run k
// micro-batches forward and backward with loss weights divided by k, clip by one
// global gradient norm, update every stage.
type Stepper struct {
	Pipeline *Pipeline
	// Seed is the run's seed.
	Seed uint64
	// LossWeights by loss name; a loss without a weight counts once.
	LossWeights map[string]float64
	// ClipNorm bounds the L2 norm over the gradients of all stages; 0 means no bound.
	ClipNorm float64
	// Group are the processes that take the step together, each with batches of its own; nil
	// for one alone. Losses, metrics and gradients are their means.
	Group *group.Group
	// SyncBatchNorm: stages meet in every Forward and Backward (Pipeline.Join), so that no process
	// may leave one out.
	SyncBatchNorm bool
	// LossScale is nil where gradients do not pass through half precision; part of what a
	// checkpoint must hold.
	LossScale *LossScale
	// SkippedLast says that the step before had no finite loss or gradient and was
	// skipped; part of what a checkpoint must hold.
	SkippedLast bool

	learning learning
}

// StepResult is what a step did.
type StepResult struct {
	// Loss is the weighted sum of losses, averaged over the micro-batches.
	Loss    float64
	Losses  map[string]float64
	Metrics map[string]float64
	// GradNorm is the global norm before clipping, Scale what the gradients were multiplied by.
	GradNorm, Scale float64
	// GradNorms are the norms of each role's gradients.
	GradNorms map[string]float64
	// Skipped says that the loss or the gradient was not finite and nothing was updated.
	Skipped bool
	// Overflowed says that it was skipped because a gradient was too large for half precision
	// at the scale of the loss, which has been halved.
	Overflowed bool
	Notes      []string
	// Cost of all calls of the step.
	Cost Cost
}

// ErrNotFinite is returned when two steps in a row have no finite loss or gradient.
var ErrNotFinite = errors.New("the loss or its gradient is not a finite number in two steps in a row")

// Step takes optimizer step number step (counted from 0) on the micro-batches.
// values gives each role its schedule values (learning_rate, …).
//
// The first step whose loss or gradient is NaN or infinite is skipped; when the next
// one is no better (but for a gradient that a smaller LossScale may mend), Step returns ErrNotFinite with the ids of its cases. A stage that
// takes no part in the learning ends training with a *StageError (see learning).
func (s *Stepper) Step(ctx context.Context, step int, batches []Batch, values map[sdk.Kind]map[string]float64) (StepResult, error) {
	before := s.Pipeline.Cost()
	result := StepResult{Losses: map[string]float64{}, Metrics: map[string]float64{}, GradNorms: map[string]float64{}, Scale: 1}
	if len(batches) == 0 {
		return result, errors.New("pipeline: a step needs at least one batch")
	}
	if err := s.zeroGrad(ctx); err != nil {
		return result, err
	}
	alone := s.Group == nil
	var norms map[sdk.Kind]float64
	var bad, ids []string
	for _, batch := range batches {
		ids = append(ids, batch.IDs...)
	}
	for i, batch := range batches {
		last := i == len(batches)-1
		share := cmp.Or(batch.Weight, 1) / float64(len(batches))
		seed := Seed(s.Seed, "step", step, i*s.Group.Count()+s.Group.Number())
		handed := make(chan error, 1) // the next one travels while this one is computed
		if last {
			handed <- nil
		} else {
			go func() { handed <- s.Pipeline.Prefetch(ctx, batches[i+1].Inputs) }()
		}
		run, err := s.Pipeline.Learn(ctx, ForwardOptions{Seed: seed, Absent: batch.Absent}, batch.Inputs,
			BackwardOptions{LossWeights: s.LossWeights, Scale: share * s.LossScale.value(), GradNorms: last && alone, Average: last && !alone, Always: s.SyncBatchNorm})
		if other := <-handed; err == nil {
			err = other
		}
		if err != nil {
			return result, refusal(step, batch, err)
		}
		result.Loss += share * run.Loss(s.LossWeights)
		for name, l := range run.Losses {
			result.Losses[name] += share * l
		}
		for name, m := range run.Metrics {
			result.Metrics[name] += share * m
		}
		result.Notes = append(result.Notes, run.Notes...)
		if !run.Finite() {
			bad = append(bad, s.badLosses(run.Losses)...)
			if !s.SyncBatchNorm {
				break
			}
		}
		norms = run.GradNorms
	}
	if !alone {
		var err error
		if bad, ids, err = s.share(ctx, &result, bad, ids); err != nil {
			return result, err
		}
	}
	if len(bad) > 0 {
		return s.skip(step, before, result, bad, ids)
	}
	var squares float64
	for _, m := range s.Pipeline.Members {
		if !m.Updates() {
			continue
		}
		norm, known := norms[m.Role]
		if !known { // the last batch passed the stage over
			var err error
			if norm, err = m.Instance.GradNorm(ctx); err != nil && !alone {
				err = fmt.Errorf("%w: %w", ErrAveraging, err)
			}
			if err != nil {
				return result, m.fail("gradient norm", err)
			}
		}
		norm /= s.LossScale.value()
		squares += norm * norm
		result.GradNorms[string(m.Role)] = norm
		if !finite(norm) {
			bad = append(bad, fmt.Sprintf("gradient of %s %s", m.Role, m.Plugin))
		}
	}
	result.GradNorm = math.Sqrt(squares)
	if !finite(result.GradNorm) && s.LossScale.overflow() {
		s.SkippedLast = false
		result.Skipped, result.Overflowed = true, true
		result.Cost = s.Pipeline.Cost().Sub(before)
		return result, nil
	}
	if !finite(result.GradNorm) {
		if len(bad) == 0 { // each stage's norm is finite, the sum of their squares overflows
			bad = []string{"global gradient norm"}
		}
		return s.skip(step, before, result, bad, ids)
	}
	if err := s.learning.check(s.Pipeline.Members, result); err != nil {
		return result, err
	}
	if s.ClipNorm > 0 && result.GradNorm > s.ClipNorm {
		result.Scale = s.ClipNorm / result.GradNorm
	}
	if err := s.update(ctx, values, result.Scale/s.LossScale.value()); err != nil {
		return result, err
	}
	s.LossScale.updated()
	s.SkippedLast = false
	result.Cost = s.Pipeline.Cost().Sub(before)
	return result, nil
}

// update applies the optimizer of every stage and clears its gradients, in one call for
// the stages of one process.
func (s *Stepper) update(ctx context.Context, values map[sdk.Kind]map[string]float64, scale float64) error {
	var updated []*Member
	for _, m := range s.Pipeline.Members {
		if m.Updates() {
			updated = append(updated, m)
		}
	}
	for len(updated) > 0 {
		first := updated[0]
		var together []Instance
		var requests []*sdk.StepRequest
		updated = slices.DeleteFunc(updated, func(m *Member) bool {
			if m != first && (first.StepAll == nil || m.Process != first.Process) {
				return false
			}
			together = append(together, m.Instance)
			requests = append(requests, &sdk.StepRequest{Values: values[m.Role], GradientScale: scale, ZeroGrad: true})
			m.zeroed = true
			return true
		})
		var err error
		if len(together) == 1 {
			err = first.Instance.Step(ctx, requests[0])
		} else {
			err = first.StepAll(ctx, together, requests)
		}
		if err != nil {
			return first.fail("step", err)
		}
	}
	return nil
}

// zeroGrad clears the gradients that are not known to be zero: those of the first step,
// of a step after a skipped one, and of stages that are not updated.
func (s *Stepper) zeroGrad(ctx context.Context) error {
	for _, m := range s.Pipeline.Members {
		if m.zeroed || !m.learns() {
			continue
		}
		if err := m.Instance.ZeroGrad(ctx); err != nil {
			return m.fail("zero gradients", err)
		}
		m.zeroed = true
	}
	return nil
}

// refusal says of which cases a stage refused a batch, as it does when they are at
// fault, or when its weights have diverged so far that it cannot even give a loss.
func refusal(step int, batch Batch, err error) error {
	var refused *sdk.Error
	if !errors.As(err, &refused) {
		return err
	}
	return fmt.Errorf("step %d, the batch with cases %s: %w", step+1, strings.Join(batch.IDs, ", "), err)
}

func finite(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }

// badLosses says which losses are no finite numbers, and whose they are.
func (s *Stepper) badLosses(losses map[string]float64) []string {
	var bad []string
	for _, m := range s.Pipeline.Members {
		for _, name := range m.Stage.Losses {
			if l, there := losses[name]; there && !finite(l) {
				bad = append(bad, fmt.Sprintf("loss %s of %s %s", name, m.Role, m.Plugin))
			}
		}
	}
	return bad
}

// skip ends a step in which something, bad, is no finite number, of the cases ids.
func (s *Stepper) skip(step int, before Cost, result StepResult, bad, ids []string) (StepResult, error) {
	result.Skipped = true
	result.Cost = s.Pipeline.Cost().Sub(before)
	if s.SkippedLast {
		return result, fmt.Errorf("step %d: %w: %s; the batch with cases %s; lower the learning rate (train.lr) or look at these cases",
			step+1, ErrNotFinite, strings.Join(bad, ", "), strings.Join(ids, ", "))
	}
	s.SkippedLast = true
	return result, nil
}
