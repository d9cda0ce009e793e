package study

import (
	"cmp"
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
	"github.com/alignedfusion/alignedfusion/host/workflow"
)

// demoGrid is what the demo compares, the baseline first: trained with three attributes of
// ten taken away, tested with all of them and with half.
var demoGrid = Grid{Methods: "none,sum,selfattn,itfusion", Scenarios: "M30-Tr+M-Te", Rates: "0,0.5", Fractions: "1"}

// The demo's recipe. A detector without fusion is trained first; all four compared systems
// start from it and train on alike, so that what differs is the fusion alone. The fusion
// learns ten times slower than the head: the gradient of the reconstruction is mostly noise
// at first, and under AdamW it would move the joint token faster than the head can learn
// what the token says.
var (
	demoSettings     = []string{"train.batch_size=4"}
	demoBaseSettings = []string{"train.epochs=8", "train.lr=0.002"}
	demoLastSettings = []string{"train.epochs=8", "train.lr=0.001", "train.fusion_lr_factor=0.1"}
)

// DemoOptions of Demo.
type DemoOptions struct {
	// Dir gets the data, the run that all start from (detector), and the study.
	Dir string
	// Patients is the number of synthetic ones (0: 160), Seed that of the data.
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

// Demo writes a synthetic set in DeepLesion's layout whose reports say which blobs are
// lesions, trains the tiny detector, trains it on without and with three fusions,
// and compares them on the test split with whole reports and with half of their attributes.
// What is there already is not made again.
func Demo(ctx context.Context, o DemoOptions) (*Table, error) {
	for _, name := range []string{"a3d", "sum", "selfattn", "itfusion"} {
		if _, err := plughost.Find(name, o.Plugins.Dirs); err != nil {
			return nil, fmt.Errorf("%w; `make build` builds the plugins", err)
		}
	}
	data, err := o.data(ctx)
	if err != nil {
		return nil, err
	}
	base := filepath.Join(o.Dir, "detector")
	fmt.Fprintf(o.Messages, "demo: the detector\n")
	if err := o.detector(ctx, data, base); err != nil {
		return nil, fmt.Errorf("demo: the detector: %w", err)
	}
	blocks, err := demoGrid.Blocks()
	if err != nil {
		return nil, err
	}
	s, err := Open(Options{Dir: filepath.Join(o.Dir, "study"), Plan: Plan{Blocks: blocks, Seeds: []uint64{1}}, Threads: o.Plugins.Threads,
		Program: "alignedfusion", Version: o.Version, Plugins: o.Plugins, Messages: o.Messages,
		Identity: Identity{Task: config.Detect, Data: data, Split: "test", Init: base, Set: slices.Concat(demoSettings, demoLastSettings, o.Set), Device: o.Device}})
	if err != nil {
		return nil, err
	}
	if err := s.Run(ctx); err != nil {
		return nil, fmt.Errorf("demo: %w", err)
	}
	t, err := s.Table(TableOptions{Baseline: config.None})
	if err != nil {
		return nil, err
	}
	return t, s.Save(t)
}

// data writes the synthetic set, with whole reports.
func (o DemoOptions) data(ctx context.Context) (spec string, err error) {
	dir, err := filepath.Abs(filepath.Join(o.Dir, "data"))
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(filepath.Join(dir, "DL_info.csv")); err == nil {
		return "deeplesion:" + dir, nil
	}
	fmt.Fprintf(o.Messages, "demo: writing synthetic CT slices to %s\n", dir)
	if err := os.MkdirAll(o.Dir, 0o777); err != nil {
		return "", err
	}
	_, err = synth.DeepLesion(ctx, dir, synth.DeepLesionOptions{Patients: cmp.Or(o.Patients, 160), Size: 96, Seed: o.Seed, Missing: -1})
	return "deeplesion:" + dir, err
}

// detector trains what all compared systems start from.
func (o DemoOptions) detector(ctx context.Context, data, dir string) error {
	_, err := workflow.TrainOnce(ctx, workflow.TrainOptions{Dir: dir, Program: "alignedfusion", Version: o.Version, Plugins: o.Plugins, Messages: o.Messages},
		func() (*config.Config, error) {
			task, fusion, seed := config.Detect, config.None, uint64(1)
			r := config.Request{Task: &task, Data: &data, Fusion: &fusion, Seed: &seed, Threads: &o.Plugins.Threads,
				Set: slices.Concat(demoSettings, demoBaseSettings, o.Set)}
			if o.Device != "" {
				r.Device = &o.Device
			}
			return r.Config()
		})
	if errors.Is(err, workflow.ErrChanged) || errors.Is(err, dataset.ErrData) {
		err = fmt.Errorf("%w; remove %s to begin anew", err, dir)
	}
	return err
}
