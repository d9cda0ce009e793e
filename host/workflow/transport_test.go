package workflow

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/alignedfusion/alignedfusion/host/config"
	"github.com/alignedfusion/alignedfusion/host/dataset/synth"
	"github.com/alignedfusion/alignedfusion/host/pipeline"
	"github.com/alignedfusion/alignedfusion/host/plughost"
	"github.com/alignedfusion/alignedfusion/host/workflow/feed"
	"github.com/alignedfusion/alignedfusion/sdk"
)

// BenchmarkTransportOfATrainingStep measures what of a training step is not the plugins'
// own time: copying in and out, gRPC, the host's supervision and the pipeline itself.
// Plugins compute on one thread each. Batches are loaded before the clock starts: the
// loader's part is another measurement; the next one is handed over while a step computes.
// The last case is a step of the detector as it was published, 7 slices of 512 pixels; the
// one before has the same slices and a small network, which is what a GPU's step leaves of
// transport: its time is what docs/results/epoch.py takes.
//
//	go test -run xxx -bench TransportOfATrainingStep -benchtime 300x ./host/workflow
//	go test -run xxx -bench 'TransportOfATrainingStep/7x512x512$' -benchtime 5x ./host/workflow
func BenchmarkTransportOfATrainingStep(b *testing.B) {
	plugins, err := filepath.Abs("../../bin/plugins")
	if err != nil {
		b.Fatal(err)
	}
	if _, err := plughost.Find("a3d", []string{plugins}); err != nil {
		b.Skipf("%v: `make build` builds the plugins", err)
	}
	demo := []string{"train.batch_size=4", "train.lr=0.001"}
	for _, c := range []struct {
		name, fusion string
		patients     int
		side         int
		settings     []string
		colocate     bool
	}{
		{"none", config.None, 24, 128, demo, false},
		{"sum", "sum", 24, 128, demo, false},
		{"itfusion", "itfusion", 24, 128, demo, false},
		{"itfusion/colocated", "itfusion", 24, 128, demo, true},
		{"7x512x512/tiny", config.None, 6, 512, []string{"train.batch_size=1", "data.slices=7", "encoder.slices=7", "encoder.preset=tiny"}, false},
		{"7x512x512", config.None, 6, 512, []string{"train.batch_size=1", "data.slices=7", "encoder.slices=7", "encoder.preset=densenet121"}, false},
	} {
		b.Run(c.name, func(b *testing.B) {
			data := filepath.Join(b.TempDir(), "data")
			if _, err := synth.DeepLesion(b.Context(), data, synth.DeepLesionOptions{Patients: c.patients, Size: c.side, Seed: 1}); err != nil {
				b.Fatal(err)
			}
			cfg, err := config.New(config.Detect)
			if err != nil {
				b.Fatal(err)
			}
			cfg.Data, cfg.Fusion.Plugin, cfg.Device, cfg.Threads = "deeplesion:"+data, c.fusion, "cpu", 1
			for _, s := range c.settings {
				if err := cfg.Set(s); err != nil {
					b.Fatal(err)
				}
			}
			benchmarkSteps(b, cfg, plugins, c.colocate)
		})
	}
}

func benchmarkSteps(b *testing.B, cfg *config.Config, plugins string, colocate bool) {
	b.Helper()
	if err := cfg.Resolve(); err != nil {
		b.Fatal(err)
	}
	t, err := feed.PrepareTraining(cfg)
	if err != nil {
		b.Fatal(err)
	}
	s, err := Open(b.Context(), Options{Config: cfg, Data: t.Data, Schema: t.Schema, Labels: t.Labels, Train: true,
		Plugins: plughost.Options{Dirs: []string{plugins}, AllowUnregistered: true, Colocate: colocate}})
	if err != nil {
		b.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			b.Error(err)
		}
	}()
	batches := loadedBatches(b, s.Feed.Source(b.Context(), t.Training))
	rates := map[sdk.Kind]map[string]float64{}
	for _, m := range s.Pipeline.Members {
		rates[m.Role] = map[string]float64{"learning_rate": cfg.Train.LearningRate}
	}
	stepper := &pipeline.Stepper{Pipeline: s.Pipeline, Seed: cfg.Seed, ClipNorm: cfg.Train.ClipNorm}
	var wall time.Duration
	var cost pipeline.Cost
	step := func(k int) {
		handed := make(chan error, 1) // as in training
		start := time.Now()
		go func() { handed <- s.Pipeline.Prefetch(b.Context(), batches[(k+1)%len(batches)].Inputs) }()
		result, err := stepper.Step(b.Context(), k, batches[k%len(batches):][:1], rates)
		wall, cost = wall+time.Since(start), cost.Add(result.Cost)
		if err := errors.Join(err, <-handed); err != nil {
			b.Fatal(err)
		}
	}
	const warmUp = 3
	for k := range warmUp {
		step(k)
	}
	wall, cost = 0, pipeline.Cost{}
	steps := 0
	for b.Loop() {
		step(warmUp + steps)
		steps++
	}
	transport := wall - cost.Compute
	b.ReportMetric(100*transport.Seconds()/wall.Seconds(), "transport-%")
	b.ReportMetric(float64(transport.Microseconds())/float64(steps), "transport-µs/step")
	b.ReportMetric(float64(cost.Calls)/float64(steps), "calls/step")
}

// loadedBatches are the first batches of the first epoch, in memory.
func loadedBatches(b *testing.B, source *feed.Source) (out []pipeline.Batch) {
	b.Helper()
	batches, err := source.Epoch(0, 0)
	if err != nil {
		b.Fatal(err)
	}
	for range min(source.BatchesPerEpoch(), 8) {
		batch, err := batches.Next(context.Background())
		if err != nil {
			b.Fatal(err)
		}
		out = append(out, batch)
	}
	if err := batches.Close(); err != nil {
		b.Fatal(err)
	}
	return out
}
