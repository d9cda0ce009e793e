package workflow

import (
	"context"
	"errors"
	"io"
	"os"
	"time"

	"github.com/alignedfusion/alignedfusion/host/config"
	"github.com/alignedfusion/alignedfusion/host/pipeline/loop"
	"github.com/alignedfusion/alignedfusion/host/runs"
	"github.com/alignedfusion/alignedfusion/internal/stat"
)

// Timing is what a few steps of a training cost.
type Timing struct {
	// Steps were timed; StepSec is their median, waiting for data included.
	Steps   int
	StepSec float64
	// ValidationSec is the validation's time, 0 without one; SetupSec that of all else:
	// starting plugins, opening data.
	ValidationSec, SetupSec float64
	// PeakRSSBytes is the most memory of the host and of each plugin, by name.
	PeakRSSBytes map[string]int64
}

// PlannedSteps is how many optimizer steps a training takes on so many cases, in all and per
// epoch.
func PlannedSteps(cases int, t config.Train) (total, perEpoch int) {
	return loop.TotalSteps(max(1, cases/t.BatchSize), t.Accumulate, t.Epochs, t.MaxSteps)
}

// TimeSteps trains that many steps of a configuration, which it changes to that end, in a
// temporary run. The directory and messages of o are not used.
func TimeSteps(ctx context.Context, o TrainOptions, steps int) (*Timing, error) {
	o.Config.Train.MaxSteps = steps
	dir, err := os.MkdirTemp("", "alignedfusion-probe-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	o.Dir, o.Messages = dir, io.Discard
	started := time.Now()
	if _, err := Train(ctx, o); err != nil {
		return nil, err
	}
	t := &Timing{SetupSec: time.Since(started).Seconds()}
	records, err := runs.ReadMetrics(dir)
	if err != nil {
		return nil, err
	}
	var each []float64
	for _, r := range records {
		t.SetupSec -= r.StepSec + r.DataSec
		if r.PeakRSSBytes != nil {
			t.PeakRSSBytes = r.PeakRSSBytes
		}
		if r.Kind == "step" {
			each = append(each, r.StepSec+r.DataSec)
		} else {
			t.ValidationSec = r.StepSec
		}
	}
	if t.Steps, t.StepSec = len(each), stat.Median(each); t.Steps == 0 {
		return nil, errors.New("the timed run has no steps")
	}
	return t, nil
}
