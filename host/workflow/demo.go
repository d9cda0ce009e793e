package workflow

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/alignedfusion/alignedfusion/host/config"
	"github.com/alignedfusion/alignedfusion/host/dataset"
	"github.com/alignedfusion/alignedfusion/host/dataset/synth"
	"github.com/alignedfusion/alignedfusion/host/plughost"
	"github.com/alignedfusion/alignedfusion/host/workflow/predictions"
)

// demoFusions are what the demo compares, the baseline first.
var demoFusions = []string{config.None, "sum", "selfattn", "itfusion"}

// The demo's recipe, chosen on the validation split. A detector without fusion is
// trained first; all four compared systems start from it and train on alike, so that
// what differs is the fusion alone. The fusion learns ten times slower than the head:
// the gradient of the reconstruction is mostly noise at first, and under AdamW it would
// move the joint token faster than the head can learn what the token says.
var (
	demoSettings     = []string{"train.batch_size=4"}
	demoBaseSettings = []string{"train.epochs=8", "train.lr=0.002"}
	demoLastSettings = []string{"train.epochs=8", "train.lr=0.001", "train.fusion_lr_factor=0.1"}
)

// DemoOptions of Demo.
type DemoOptions struct {
	// Dir gets the data, the runs (runs/detector and one per fusion), and the plot.
	Dir string
	// Patients is the number of synthetic ones (0: 240), Seed that of data and training.
	Patients int
	Seed     uint64
	// Set are settings of all trainings, as GROUP.KEY=VALUE.
	Set []string
	// Device is cpu when it is empty.
	Device  string
	Version string
	Plugins plughost.Options
	// Messages receives progress and warnings.
	Messages io.Writer
}

// Demo writes a synthetic set in DeepLesion's layout, trains the tiny detector, trains it
// on without and with three fusions, and compares them on the test split. What is there
// already is not made again.
func Demo(ctx context.Context, o DemoOptions) (*Comparison, error) {
	for _, name := range append([]string{"a3d"}, demoFusions[1:]...) {
		if _, err := plughost.Find(name, o.Plugins.Dirs); err != nil {
			return nil, fmt.Errorf("%w; `make build` builds the plugins", err)
		}
	}
	data := filepath.Join(o.Dir, "data")
	if _, err := os.Stat(filepath.Join(data, "DL_info.csv")); err != nil {
		fmt.Fprintf(o.Messages, "demo: writing synthetic CT slices to %s\n", data)
		if err := os.MkdirAll(o.Dir, 0o777); err != nil {
			return nil, err
		}
		if _, err := synth.DeepLesion(ctx, data, synth.DeepLesionOptions{Patients: o.Patients, Seed: o.Seed}); err != nil {
			return nil, err
		}
	}
	base := filepath.Join(o.Dir, "runs", "detector")
	fmt.Fprintf(o.Messages, "demo: the detector\n")
	if err := o.train(ctx, config.None, base, "", demoBaseSettings); err != nil {
		return nil, fmt.Errorf("demo: the detector: %w", err)
	}
	var systems []System
	for i, fusion := range demoFusions {
		fmt.Fprintf(o.Messages, "demo: the detector with fusion %s (%d of %d)\n", fusion, i+1, len(demoFusions))
		dir := filepath.Join(o.Dir, "runs", fusion)
		err := o.train(ctx, fusion, dir, base, demoLastSettings)
		if err == nil {
			err = o.predict(ctx, dir)
		}
		if err != nil {
			return nil, fmt.Errorf("demo: fusion %s: %w", fusion, err)
		}
		systems = append(systems, System{Name: fusion, Path: dir})
	}
	return Compare(CompareOptions{AllowChanged: true, Systems: systems, Split: "test"})
}

// predict predicts the test split, unless that is done.
func (o DemoOptions) predict(ctx context.Context, dir string) error {
	if _, err := os.Stat(filepath.Join(predictions.Dir(dir, "test"), predictions.File)); err == nil {
		return nil
	}
	_, err := Predict(ctx, PredictOptions{AllowChanged: true, Run: dir, Split: "test", Checkpoint: "best", Plugins: o.Plugins, Messages: o.Messages})
	return err
}

// train trains a detector from the weights of another run.
func (o DemoOptions) train(ctx context.Context, fusion, dir, from string, settings []string) error {
	made, err := TrainOnce(ctx, TrainOptions{Dir: dir, Program: "alignedfusion", Version: o.Version, Plugins: o.Plugins, Messages: o.Messages},
		func() (*config.Config, error) {
			c, err := config.New(config.Detect)
			if err != nil {
				return nil, err
			}
			c.Data, c.Fusion.Plugin, c.Init, c.Seed, c.Threads = "deeplesion:"+filepath.Join(o.Dir, "data"), fusion, from, o.Seed, o.Plugins.Threads
			if c.Device = o.Device; c.Device == "" {
				c.Device = "cpu"
			}
			for _, s := range slices.Concat(demoSettings, settings, o.Set) {
				if err := c.Set(s); err != nil {
					return nil, &config.Error{Err: err}
				}
			}
			return c, nil
		})
	if errors.Is(err, ErrChanged) || errors.Is(err, dataset.ErrData) {
		err = fmt.Errorf("%w; remove %s to begin anew", err, dir)
	}
	if made && err == nil {
		fmt.Fprint(o.Messages, Transport(dir))
	}
	return err
}
