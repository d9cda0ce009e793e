// Package telemetry sends what a run measures to a collector as OpenTelemetry metrics, over
// OTLP and HTTP. Where to, and how often, say OpenTelemetry's own variables
// (https://opentelemetry.io/docs/specs/otel/protocol/exporter): nothing is sent without them.
package telemetry

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetrichttp"
	"go.opentelemetry.io/otel/metric"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"

	"github.com/alignedfusion/alignedfusion/host/fault"
	"github.com/alignedfusion/alignedfusion/host/runs"
)

// endpoints are the variables that name a collector.
var endpoints = []string{"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"}

// closing is how long the end of a run waits for a collector.
const closing = 5 * time.Second

// Sender sends records. It is not for several goroutines at once.
type Sender struct {
	provider *sdkmetric.MeterProvider
	meter    metric.Meter
	gauges   map[string]metric.Float64Gauge
	run      metric.MeasurementOption
}

// Open begins to send: every number of a record under its name in TensorBoard, as
// alignedfusion.train.loss, with the attribute run. What a collector does not take is given
// to failed. It fails, as wrong usage, where no variable names a collector.
func Open(run, version string, failed func(error)) (*Sender, error) {
	there := false
	for _, name := range endpoints {
		there = there || os.Getenv(name) != ""
	}
	if !there {
		return nil, fault.Errorf(fault.Usage, "no collector is named: set %s, for example to http://localhost:4318", strings.Join(endpoints, " or "))
	}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(failed))
	ctx := context.Background()
	exporter, err := otlpmetrichttp.New(ctx)
	if err != nil {
		return nil, fault.Wrap(fault.Usage, err)
	}
	about, err := resource.New(ctx, resource.WithFromEnv(), resource.WithTelemetrySDK(),
		resource.WithAttributes(attribute.String("service.name", "alignedfusion"), attribute.String("service.version", version)))
	if err != nil {
		return nil, fault.Wrap(fault.Usage, err)
	}
	provider := sdkmetric.NewMeterProvider(sdkmetric.WithResource(about), sdkmetric.WithReader(sdkmetric.NewPeriodicReader(exporter)))
	return &Sender{
		provider: provider, meter: provider.Meter("alignedfusion", metric.WithInstrumentationVersion(version)),
		gauges: map[string]metric.Float64Gauge{}, run: metric.WithAttributes(attribute.String("run", run)),
	}, nil
}

// Record takes a record's numbers; they are sent with the next export.
func (s *Sender) Record(r runs.Record) (err error) {
	take := func(name string, v float64) {
		name = "alignedfusion." + strings.ReplaceAll(name, "/", ".")
		gauge, ok := s.gauges[name]
		if !ok {
			var problem error
			if gauge, problem = s.meter.Float64Gauge(name); problem != nil {
				err = fmt.Errorf("OpenTelemetry: %w", problem)
				return
			}
			s.gauges[name] = gauge
		}
		gauge.Record(context.Background(), v, s.run)
	}
	r.Scalars(take)
	take(r.Group()+"/step", float64(r.Step))
	take(r.Group()+"/epoch", float64(r.Epoch))
	return err
}

// Close sends what is left.
func (s *Sender) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), closing)
	defer cancel()
	return s.provider.Shutdown(ctx)
}
