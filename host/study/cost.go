package study

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/alignedfusion/alignedfusion/host/runs"
	"github.com/alignedfusion/alignedfusion/host/workflow"
	"github.com/alignedfusion/alignedfusion/host/workflow/feed"
	"github.com/alignedfusion/alignedfusion/internal/stat"
)

// probeSteps are timed where no finished cell tells what a method costs.
const probeSteps = 6

// Cost is what a method's unfinished cells will take.
type Cost struct {
	Method string
	// Models to train and cells to predict.
	Models, Cells int
	// TrainSec and PredictSec are of one model and one cell.
	TrainSec, PredictSec float64
	// Basis says where the figures come from.
	Basis string
}

// TotalSec is the whole.
func (c Cost) TotalSec() float64 {
	return float64(c.Models)*c.TrainSec + float64(c.Cells)*c.PredictSec
}

// Pending are the cells that Run will make.
func (s *Study) Pending() ([]Cell, error) {
	var pending []Cell
	for _, c := range s.cells {
		r, err := s.result(c)
		if err != nil {
			return nil, err
		}
		if r == nil || s.Again {
			pending = append(pending, c)
		}
	}
	return pending, nil
}

// Estimate says what the unfinished cells will cost: from finished cells of the same
// method, else from a few timed steps in a temporary run.
func (s *Study) Estimate(ctx context.Context) ([]Cost, error) {
	pending, err := s.Pending()
	if err != nil {
		return nil, err
	}
	var costs []Cost
	at := map[string]int{}
	models := map[string]bool{}
	first := map[string]Model{}
	for _, c := range pending {
		i, ok := at[c.Method.Name]
		if !ok {
			i = len(costs)
			at[c.Method.Name], first[c.Method.Name] = i, c.Model
			costs = append(costs, Cost{Method: c.Method.Name})
		}
		costs[i].Cells++
		if manifest, err := runs.ReadManifest(s.runDir(c.Model)); err == nil && manifest.Status == "done" && !s.Again {
			continue
		}
		if !models[c.Model.Name()] && c.Method.host == nil {
			models[c.Model.Name()] = true
			costs[i].Models++
		}
	}
	setups := map[int]float64{}
	for i := range costs {
		c := &costs[i]
		known, err := s.fromFinished(c)
		if err != nil {
			return nil, err
		}
		if known {
			continue
		}
		setup, err := s.probe(ctx, first[c.Method], c)
		if err != nil {
			return nil, fmt.Errorf("method %s: %w", c.Method, err)
		}
		if setup > 0 {
			setups[i] = setup
		}
	}
	// The first timed run of a frozen encoder also encodes every image, once for all: the
	// shortest start is what a model pays.
	if len(setups) > 0 {
		setup := slices.Min(slices.Collect(maps.Values(setups)))
		for i := range setups {
			costs[i].TrainSec += setup
			costs[i].PredictSec += setup
		}
	}
	return costs, nil
}

// fromFinished takes the medians over a method's finished cells.
func (s *Study) fromFinished(c *Cost) (bool, error) {
	var train, predict []float64
	for _, cell := range s.Plan.Cells() {
		if cell.Method.Name != c.Method {
			continue
		}
		r, err := s.result(cell)
		if err != nil {
			return false, err
		}
		if r == nil {
			continue
		}
		if cell.Method.host != nil {
			predict = append(predict, r.TrainSec)
			continue
		}
		train, predict = append(train, r.TrainSec), append(predict, r.PredictSec)
	}
	if len(predict) == 0 {
		return false, nil
	}
	c.PredictSec = stat.Median(predict)
	if len(train) > 0 {
		c.TrainSec = stat.Median(train)
	}
	c.Basis = fmt.Sprintf("%d finished cells", len(predict))
	return true, nil
}

// probe trains a few steps in a temporary run. setupSec is what the run took besides
// steps and validation: starting plugins, opening data.
func (s *Study) probe(ctx context.Context, m Model, c *Cost) (setupSec float64, err error) {
	if m.Method.host != nil {
		c.Basis = "not timed: computed by the host, seconds to a minute each"
		return 0, nil
	}
	cfg, err := s.on(s.Devices[0], m)
	if err != nil {
		return 0, err
	}
	settings := cfg.Train
	fmt.Fprintf(s.Messages, "study: timing %d steps of %s\n", probeSteps, m.Method.Name)
	timed, err := workflow.TimeSteps(ctx, workflow.TrainOptions{Config: cfg, Program: s.Program, Version: s.Options.Version, Plugins: s.Plugins, Tokens: s.tokens}, probeSteps)
	if err != nil {
		return 0, err
	}
	cases, err := feed.TrainingCases(cfg)
	if err != nil {
		return 0, err
	}
	total, perEpoch := workflow.PlannedSteps(cases, settings)
	validations := float64(total) / float64(perEpoch) / float64(settings.ValidateEvery)
	c.TrainSec = float64(total)*timed.StepSec + validations*timed.ValidationSec
	c.PredictSec = timed.ValidationSec
	c.Basis = fmt.Sprintf("%d timed steps of %.2f s", timed.Steps, timed.StepSec)
	return timed.SetupSec, nil
}
