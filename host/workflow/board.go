package workflow

import (
	"fmt"
	"maps"
	"slices"

	"github.com/alignedfusion/alignedfusion/host/pipeline/loop"
	"github.com/alignedfusion/alignedfusion/host/runs"
	"github.com/alignedfusion/alignedfusion/host/runs/events"
	"github.com/alignedfusion/alignedfusion/host/runs/telemetry"
)

// board writes TensorBoard's event files while a run trains. What cannot be written is said
// once and ends the files, not the training: metrics.jsonl holds all numbers.
type board struct {
	run  string
	w    *events.Writer
	warn func(text string)
	// pictures of the validation under way, by name.
	pictures map[string][]byte
}

func newBoard(run string, step int, warn func(text string)) (*board, error) {
	w, err := events.Open(run, step)
	if err != nil {
		return nil, err
	}
	return &board{run: run, w: w, warn: warn}, nil
}

func (b *board) failed(err error) {
	if err != nil && b.w != nil {
		b.warn(fmt.Sprintf("the event files of TensorBoard end here: %v", err))
		b.Close()
	}
}

// Start implements loop.Progress.
func (b *board) Start(int, int) {}

// Step implements loop.Progress.
func (b *board) Step(r runs.Record) {
	if b.w != nil {
		b.failed(b.w.Record(r))
	}
}

// Validation implements loop.Progress.
func (b *board) Validation(r runs.Record, _ loop.Validation, _ bool) {
	b.Step(r)
	for _, name := range slices.Sorted(maps.Keys(b.pictures)) {
		if b.w != nil {
			b.failed(b.w.Image("validation/"+name, r.Step, b.pictures[name]))
		}
	}
	b.pictures = nil
	if b.w != nil {
		b.failed(b.weights(r.Step))
	}
}

// weights writes how the weights are distributed that a validation is of: its checkpoint is
// saved before.
func (b *board) weights(step int) error {
	if c := runs.Saved(b.run, step); c != nil {
		return b.w.Weights(c)
	}
	return nil
}

// Warn implements loop.Progress.
func (b *board) Warn(string) {}

// Close implements loop.Progress.
func (b *board) Close() {
	if b.w == nil {
		return
	}
	w := b.w
	b.w = nil
	if err := w.Close(); err != nil {
		b.warn(err.Error())
	}
}

// sent gives what a run measures to a collector of OpenTelemetry.
type sent struct {
	*telemetry.Sender
	warn func(text string)
}

// Start implements loop.Progress.
func (s *sent) Start(int, int) {}

// Step implements loop.Progress.
func (s *sent) Step(r runs.Record) { s.Record(r) }

// Validation implements loop.Progress.
func (s *sent) Validation(r runs.Record, _ loop.Validation, _ bool) { s.Step(r) }

// Warn implements loop.Progress.
func (s *sent) Warn(string) {}

// Close implements loop.Progress.
func (s *sent) Close() {
	if err := s.Sender.Close(); err != nil {
		s.warn(fmt.Sprintf("OpenTelemetry: the last numbers were not taken: %v", err))
	}
}
