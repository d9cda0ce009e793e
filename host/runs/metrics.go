package runs

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
)

// Record is one line of metrics.jsonl.
type Record struct {
	// Kind is step or validation.
	Kind string `json:"kind"`
	// Step is the number of optimizer steps done, this one included; Epoch counts from 1.
	Step  int `json:"step"`
	Epoch int `json:"epoch"`

	Loss         *float64           `json:"loss,omitempty"`
	Losses       map[string]float64 `json:"losses,omitempty"`
	Metrics      map[string]float64 `json:"metrics,omitempty"`
	GradNorm     float64            `json:"grad_norm,omitempty"`
	GradNorms    map[string]float64 `json:"grad_norms,omitempty"`
	LearningRate float64            `json:"learning_rate,omitempty"`
	Skipped      bool               `json:"skipped,omitempty"`
	// LossScale of the step where it computed in half precision, and Overflows, the steps so far
	// that were skipped for it.
	LossScale float64 `json:"loss_scale,omitempty"`
	Overflows int     `json:"overflows,omitempty"`
	// StepSec is the whole step, WallSec its calls as the host saw them, ComputeSec the
	// part of them inside plugins (the difference is transport), DataSec the wait for
	// the batch.
	StepSec    float64 `json:"step_sec,omitempty"`
	WallSec    float64 `json:"wall_sec,omitempty"`
	ComputeSec float64 `json:"compute_sec,omitempty"`
	DataSec    float64 `json:"data_sec,omitempty"`
	// PeakRSSBytes of the host and of each plugin, by name.
	PeakRSSBytes map[string]int64 `json:"peak_rss_bytes,omitempty"`
}

// Group is what the record's numbers are of: train or validation.
func (r Record) Group() string {
	if r.Kind == "validation" {
		return r.Kind
	}
	return "train"
}

// Scalars calls add with every number of the record under a name for programs that draw
// curves, GROUP/NAME: train/loss, validation/accuracy, train/memory_mib/host.
func (r Record) Scalars(add func(name string, v float64)) {
	group := r.Group() + "/"
	each := func(tag string, values map[string]float64) {
		for _, name := range slices.Sorted(maps.Keys(values)) {
			add(group+tag+name, values[name])
		}
	}
	each("", r.Metrics)
	if r.Kind == "step" {
		if r.Loss != nil {
			add(group+"loss", *r.Loss)
			add(group+"grad_norm", r.GradNorm)
		}
		each("loss/", r.Losses)
		each("grad_norm/", r.GradNorms)
		add(group+"learning_rate", r.LearningRate)
		if r.LossScale > 0 {
			add(group+"loss_scale", r.LossScale)
			add(group+"overflows", float64(r.Overflows))
		}
		add(group+"seconds/compute", r.ComputeSec)
		add(group+"seconds/waiting_for_data", r.DataSec)
	}
	add(group+"seconds/whole", r.StepSec)
	for _, name := range slices.Sorted(maps.Keys(r.PeakRSSBytes)) {
		add(group+"memory_mib/"+name, float64(r.PeakRSSBytes[name])/(1<<20))
	}
}

// Append adds a line to metrics.jsonl.
func (r *Run) Append(rec Record) error {
	if r.follows {
		return nil
	}
	if r.metrics == nil {
		f, err := os.OpenFile(r.Path(MetricsFile), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
		if err != nil {
			return diskError(err)
		}
		r.metrics = f
	}
	line, err := json.Marshal(rec)
	if err != nil {
		return fmt.Errorf("metrics of step %d: %w", rec.Step, err)
	}
	if _, err := r.metrics.Write(append(line, '\n')); err != nil {
		return diskError(fmt.Errorf("write %s: %w", r.Path(MetricsFile), err))
	}
	return nil
}

// RewindMetrics drops the lines of steps after the state's, that of a validation which is
// still to be done, and a half-written last line: a resumed run writes them again.
func (r *Run) RewindMetrics(state State) error {
	if r.follows {
		return nil
	}
	records, err := ReadMetrics(r.Dir)
	if err != nil {
		return err
	}
	var out bytes.Buffer
	for _, rec := range records {
		if rec.Step > state.Step || rec.Step == state.Step && rec.Kind == "validation" && state.Unvalidated {
			continue
		}
		line, err := json.Marshal(rec)
		if err != nil {
			return err
		}
		out.Write(append(line, '\n'))
	}
	if r.metrics != nil {
		if err := r.metrics.Close(); err != nil {
			return err
		}
		r.metrics = nil
	}
	return r.Write(MetricsFile, out.Bytes())
}

// ReadMetrics reads metrics.jsonl of a run; a half-written last line is left out.
func ReadMetrics(run string) ([]Record, error) {
	path := (&Run{Dir: run}).Path(MetricsFile)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	records, line, err := parseMetrics(data)
	if err != nil {
		return nil, fmt.Errorf("%s:%d: %w", path, line, err)
	}
	return records, nil
}

// parseMetrics reads records; line is the number of the line that err is about.
func parseMetrics(data []byte) (records []Record, line int, err error) {
	for text := range bytes.Lines(data) {
		line++
		var rec Record
		if err := json.Unmarshal(text, &rec); err != nil {
			if !bytes.HasSuffix(text, []byte("\n")) {
				break // the process was killed while writing this line
			}
			return nil, line, err
		}
		if rec.Kind != "step" && rec.Kind != "validation" || rec.Step < 0 || rec.Epoch < 0 {
			return nil, line, fmt.Errorf("kind %q, step %d, epoch %d: want step or validation, and no negative number", rec.Kind, rec.Step, rec.Epoch)
		}
		records = append(records, rec)
	}
	return records, line, nil
}
