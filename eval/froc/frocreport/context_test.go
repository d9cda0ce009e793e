package frocreport_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"

	"github.com/alignedfusion/alignedfusion/eval/froc"
	"github.com/alignedfusion/alignedfusion/eval/froc/frocio"
	"github.com/alignedfusion/alignedfusion/eval/froc/frocreport"
	"github.com/alignedfusion/alignedfusion/eval/resample"
)

// endless is a context that is done once it has been asked so many times.
type endless struct {
	context.Context
	asked atomic.Int64
	until int64
}

func (c *endless) Err() error {
	if c.asked.Add(1) > c.until {
		return context.Canceled
	}
	return nil
}

// A run asks its context in every phase, and ends with exactly its error wherever it is done.
func TestACancelledRunEndsWithTheErrorOfItsContext(t *testing.T) {
	o := options(t, "good", "worse")
	o.Resample = resample.Options{Replicates: 20, Seed: 1, Method: resample.BCa}
	o.IoUs = []float64{0.5}
	whole := &endless{Context: t.Context(), until: 1 << 30}
	if _, err := frocreport.Run(whole, o); err != nil {
		t.Fatal(err)
	}
	for until := range whole.asked.Load() {
		ctx := &endless{Context: t.Context(), until: until}
		if r, err := frocreport.Run(ctx, o); err != context.Canceled || r != nil {
			t.Fatalf("cancelled after %d of %d questions: report %v, error %v, want %v alone", until, whole.asked.Load(), r, err, context.Canceled)
		}
	}
}

func TestACancelledStudyOfReadersEndsWithTheErrorOfItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	o := options(t, "good")
	_, err := frocreport.Readers(ctx, frocreport.ReaderOptions{
		Truth: o.Truth, Protocol: o.Protocol, Figure: froc.FigureWAFROC, Level: 0.95,
		Files: map[frocio.ReadingKey][]string{{Reader: "a"}: {o.Systems[0].Path}},
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want %v", err, context.Canceled)
	}
}
