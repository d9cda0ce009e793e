package pipeline

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"

	"github.com/alignedfusion/alignedfusion/host/group"
	"github.com/alignedfusion/alignedfusion/sdk"
)

// ErrAveraging is in the chain of an error that may come of another process's end: a stage
// waited in vain for the gradients of the others.
var ErrAveraging = errors.New("the gradients could not be averaged")

// Join makes every stage that is updated one of its role's group. Afterwards all processes
// have the parameters of rank 0. With syncBatchNorm they normalise by the statistics of all
// batches together, see Stepper.SyncBatchNorm. A nil group leaves everything as it is.
func (p *Pipeline) Join(ctx context.Context, g *group.Group, syncBatchNorm bool) error {
	if g == nil {
		return nil
	}
	for _, m := range p.Members {
		if !m.Updates() {
			continue
		}
		port := 0
		if g.Number() == 0 {
			var err error
			if port, err = group.FreePort(g.Where(0)); err != nil {
				return err
			}
		}
		ports, err := group.Gather(g, port)
		if err != nil {
			return err
		}
		err = sdk.Errorf(sdk.Unimplemented, "the stage cannot share its gradients")
		if parallel, ok := m.Instance.(sdk.Parallel); ok {
			err = parallel.Join(ctx, &sdk.JoinRequest{Rank: g.Number(), Size: g.Count(), Address: g.Where(g.Number()),
				Store: net.JoinHostPort(g.Where(0), strconv.Itoa(ports[0])), SyncBatchNorm: syncBatchNorm,
				AveragedBy: func(by string) { m.AveragedBy = by }})
		}
		if sdk.CodeOf(err) == sdk.Unimplemented {
			return m.fail("join", fmt.Errorf("%s %s cannot be trained in %d processes: %w", m.Role, m.Plugin, g.Count(), err))
		}
		if err != nil {
			return m.fail("join", fmt.Errorf("%w: %w", ErrAveraging, err))
		}
	}
	return nil
}

// average has a stage that is updated begin to average its gradients, once a step.
func (m *Member) average(ctx context.Context) error {
	if m.averaged || !m.Updates() {
		return nil
	}
	m.averaged, m.zeroed = true, false
	if err := m.Instance.(sdk.Parallel).Average(ctx); err != nil {
		return m.fail("average", fmt.Errorf("%w: %w", ErrAveraging, err))
	}
	return nil
}

// shared is what a process tells the others of its part of a step.
type shared struct {
	Loss            float64
	Losses, Metrics map[string]float64
	Bad, IDs        []string
}

// share puts the means over all processes into the result. A process whose loss is no number
// averages as well, or the others would wait; what is bad, and in which cases, they all learn.
func (s *Stepper) share(ctx context.Context, result *StepResult, bad, ids []string) (allBad, allIDs []string, err error) {
	for _, m := range s.Pipeline.Members {
		if err := m.average(ctx); err != nil {
			return nil, nil, err
		}
		m.averaged = false
	}
	all, err := group.Gather(s.Group, shared{result.Loss, result.Losses, result.Metrics, bad, ids})
	if err != nil {
		return nil, nil, err
	}
	result.Loss, result.Losses, result.Metrics = 0, map[string]float64{}, map[string]float64{}
	part := 1 / float64(len(all))
	for rank, one := range all {
		result.Loss += part * one.Loss
		for name, v := range one.Losses {
			result.Losses[name] += part * v
		}
		for name, v := range one.Metrics {
			result.Metrics[name] += part * v
		}
		for _, what := range one.Bad {
			allBad = append(allBad, fmt.Sprintf("%s (rank %d)", what, rank))
		}
		if len(one.Bad) > 0 {
			allIDs = append(allIDs, one.IDs...)
		}
	}
	if len(allBad) == 0 { // should a gradient be no number, it is one of these cases'
		for _, one := range all {
			allIDs = append(allIDs, one.IDs...)
		}
	}
	return allBad, slices.Clip(allIDs), nil
}
