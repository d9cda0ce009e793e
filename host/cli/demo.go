package cli

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/alignedfusion/alignedfusion/host/config"
	"github.com/alignedfusion/alignedfusion/host/dataset"
	"github.com/alignedfusion/alignedfusion/host/dataset/synth"
	"github.com/alignedfusion/alignedfusion/host/plughost"
	"github.com/alignedfusion/alignedfusion/host/runs"
	"github.com/alignedfusion/alignedfusion/host/workflow"
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

// demoBase is the run that the compared ones start from.
const demoBase = "detector"

func demoCommand() *cli.Command {
	return &cli.Command{
		Name:  "demo",
		Usage: "train and compare four detectors on a synthetic CT set: none, sum, selfattn and itfusion",
		Description: `Writes a synthetic set in DeepLesion's layout (--out/data; its README.txt says what the reports know),
trains the tiny detector, trains it on without and with three fusions, predicts the test split and
prints one table. What is already there is not made again: the demo goes on where it was stopped.`,
		Flags: append([]cli.Flag{
			&cli.StringFlag{Name: "out", Value: "demo", Usage: "`DIR`ectory for data, runs, table and plot"},
			&cli.Uint64Flag{Name: "seed", Value: 1, Usage: "of the data and of the training"},
			&cli.IntFlag{Name: "patients", Usage: "number of synthetic patients (default 240)"},
			&cli.StringSliceFlag{Name: "set", Usage: "`GROUP.KEY=VALUE` for all four trainings, repeatable"},
			&cli.BoolFlag{Name: "json", Usage: "write the comparison to stdout as JSON"},
		}, pluginFlags()...),
		Action: runDemo,
	}
}

func runDemo(c *cli.Context) error {
	if err := noArguments(c); err != nil {
		return err
	}
	started := time.Now()
	out := c.String("out")
	for _, name := range append([]string{"a3d"}, demoFusions[1:]...) {
		if _, err := plughost.Find(name, c.StringSlice("plugin-dir")); err != nil {
			return fmt.Errorf("%w; `make build` builds the plugins", err)
		}
	}
	data := filepath.Join(out, "data")
	if _, err := os.Stat(filepath.Join(data, "DL_info.csv")); err != nil {
		fmt.Fprintf(c.App.ErrWriter, "demo: writing synthetic CT slices to %s\n", data)
		if err := os.MkdirAll(out, 0o777); err != nil {
			return err
		}
		if _, err := synth.DeepLesion(c.Context, data, synth.DeepLesionOptions{Patients: c.Int("patients"), Seed: c.Uint64("seed")}); err != nil {
			return err
		}
	}
	base := filepath.Join(out, "runs", demoBase)
	fmt.Fprintf(c.App.ErrWriter, "demo: the detector\n")
	if err := demoTrain(c, "deeplesion:"+data, config.None, base, "", demoBaseSettings); err != nil {
		return fmt.Errorf("demo: the detector: %w", err)
	}
	var systems []workflow.System
	for i, fusion := range demoFusions {
		fmt.Fprintf(c.App.ErrWriter, "demo: the detector with fusion %s (%d of %d)\n", fusion, i+1, len(demoFusions))
		dir := filepath.Join(out, "runs", fusion)
		if err := demoTrain(c, "deeplesion:"+data, fusion, dir, base, demoLastSettings); err != nil {
			return fmt.Errorf("demo: fusion %s: %w", fusion, err)
		}
		if err := demoPredict(c, dir); err != nil {
			return fmt.Errorf("demo: fusion %s: %w", fusion, err)
		}
		systems = append(systems, workflow.System{Name: fusion, Path: dir})
	}
	plot := filepath.Join(out, "froc.svg")
	if err := compareRuns(c, workflow.CompareOptions{Systems: systems, Split: "test"}, plot); err != nil {
		return err
	}
	fmt.Fprintf(c.App.ErrWriter, "demo: %s; synthetic data (see %s); FROC curves: %s\n", time.Since(started).Round(time.Second),
		filepath.Join(data, "README.txt"), plot)
	return nil
}

// demoPredict predicts the test split, unless that is done.
func demoPredict(c *cli.Context, dir string) error {
	if _, err := os.Stat(filepath.Join(predictions.Dir(dir, "test"), predictions.File)); err == nil {
		return nil
	}
	_, err := workflow.Predict(c.Context, workflow.PredictOptions{Run: dir, Split: "test", Checkpoint: "best",
		Plugins: pluginOptions(c), Messages: c.App.ErrWriter})
	return err
}

// demoTrain trains a detector from the weights of another run, or goes on with one that
// was stopped; it does nothing when that is done.
func demoTrain(c *cli.Context, data, fusion, dir, from string, settings []string) error {
	if m, err := runs.ReadManifest(dir); err == nil && m.Status == "done" {
		return nil
	}
	o := workflow.TrainOptions{Dir: dir, Program: "alignedfusion", Version: Version, Plugins: pluginOptions(c), Messages: c.App.ErrWriter}
	if runs.IsRun(dir) {
		o.Resume = true
	} else {
		cfg, err := config.New(config.Detect)
		if err != nil {
			return err
		}
		cfg.Data, cfg.Fusion.Plugin, cfg.Init = data, fusion, from
		cfg.Seed, cfg.Threads, cfg.Device = c.Uint64("seed"), c.Int("threads"), "cpu"
		if c.IsSet("device") {
			cfg.Device = c.String("device")
		}
		for _, s := range slices.Concat(demoSettings, settings, c.StringSlice("set")) {
			if err := cfg.Set(s); err != nil {
				return usageError("%w", err)
			}
		}
		o.Config = cfg
	}
	_, err := workflow.Train(c.Context, o)
	if errors.Is(err, workflow.ErrChanged) || errors.Is(err, dataset.ErrData) {
		err = fmt.Errorf("%w; remove %s to begin anew", err, dir)
	}
	if err == nil {
		writeTransport(c.App.ErrWriter, dir)
	}
	return err
}
