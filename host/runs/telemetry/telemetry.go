// Package telemetry sends what a run measures to a collector as OpenTelemetry metrics, over
// OTLP and HTTP. Where to, and how often, say OpenTelemetry's own variables
// (https://opentelemetry.io/docs/specs/otel/protocol/exporter): nothing is sent without them.
// OpenTelemetry's own modules would be a tenth of what the program takes to compile.
package telemetry

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/alignedfusion/alignedfusion/host/runs"
)

// closing is how long the end of a run waits for a collector.
const closing = 5 * time.Second

// Sender sends records. It is not for several goroutines at once.
type Sender struct {
	to      *collector
	run     string
	version string
	stop    context.CancelFunc
	stopped chan struct{}

	lock   sync.Mutex
	latest map[string]gauge
}

// gauge is the last value of a metric.
type gauge struct {
	value float64
	at    time.Time
}

// Open begins to send: every number of a record under its name in TensorBoard, as
// alignedfusion.train.loss, with the attribute run. What a collector does not take is given
// to failed. It fails, as wrong usage, where no variable names a collector, or where one
// cannot be understood.
func Open(run, version string, failed func(error)) (*Sender, error) {
	to, interval, err := fromVariables(version)
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	s := &Sender{to: to, run: run, version: version, stop: stop, stopped: make(chan struct{}), latest: map[string]gauge{}}
	go func() {
		defer close(s.stopped)
		for tick := time.Tick(interval); ; {
			select {
			case <-ctx.Done():
				return
			case <-tick:
				if err := s.send(ctx); err != nil && ctx.Err() == nil {
					failed(err)
				}
			}
		}
	}()
	return s, nil
}

// Record takes a record's numbers; they are sent with the next export.
func (s *Sender) Record(r runs.Record) {
	s.lock.Lock()
	defer s.lock.Unlock()
	now := time.Now()
	take := func(name string, v float64) {
		s.latest["alignedfusion."+strings.ReplaceAll(name, "/", ".")] = gauge{v, now}
	}
	r.Scalars(take)
	take(r.Group()+"/step", float64(r.Step))
	take(r.Group()+"/epoch", float64(r.Epoch))
}

// Close sends what is left.
func (s *Sender) Close() error {
	s.stop()
	<-s.stopped
	ctx, cancel := context.WithTimeout(context.Background(), closing)
	defer cancel()
	return s.send(ctx)
}

// send sends the last value of every metric.
func (s *Sender) send(ctx context.Context) error {
	s.lock.Lock()
	latest := maps.Clone(s.latest)
	s.lock.Unlock()
	if len(latest) == 0 {
		return nil
	}
	metrics := message{}.message(1, message{}.text(1, "alignedfusion").text(2, s.version))
	for _, name := range slices.Sorted(maps.Keys(latest)) {
		point := message{}.instant(3, latest[name].at).double(4, latest[name].value).message(7, attribute("run", s.run))
		metrics = metrics.message(2, message{}.text(1, name).message(5, message{}.message(1, point)))
	}
	return s.to.post(ctx, message{}.message(1, message{}.message(1, s.to.about).message(2, metrics)))
}
