package cli

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"github.com/alignedfusion/alignedfusion/host/config"
	"github.com/alignedfusion/alignedfusion/host/dataset/plan"
	"github.com/alignedfusion/alignedfusion/host/workflow"
	"github.com/alignedfusion/alignedfusion/host/workflow/feed"
)

func dataPlanCommand() *cli.Command {
	return &cli.Command{
		Name:      "plan",
		Usage:     "measure a data set and derive the settings of a training: anchors, window, crop, slices, batch",
		ArgsUsage: "SPEC",
		Description: `Prints what the training cases look like, the settings that follow, each with its reason, and what an epoch costs: that
comes from --steps timed steps in a temporary run on this machine. train --plan FILE uses the settings and refuses other data.`,
		Flags: append([]cli.Flag{
			&cli.StringFlag{Name: "out", Usage: "write the plan here, for train --plan", TakesFile: true},
			&cli.StringFlag{Name: "split", Usage: "the `SPLIT` to measure (default: train, or all but test)"},
			&cli.IntFlag{Name: "steps", Usage: "`N` steps to time; 0: none", Value: 4},
			&cli.StringFlag{Name: "encoder", Usage: "`PLUGIN` to time (default: a3d, or classifier)"},
			&cli.StringFlag{Name: "head", Usage: "`PLUGIN` to time (default: a3d, or classifier)"},
			&cli.BoolFlag{Name: "json", Usage: "print the plan as JSON"},
		}, pluginFlags()...),
		Action: dataPlan,
	}
}

func dataPlan(c *cli.Context) error {
	if c.NArg() != 1 {
		return usageError("data plan takes one data spec, %d were given; for example: alignedfusion data plan volumes:DIR", c.NArg())
	}
	if c.Int("steps") < 0 {
		return usageError("--steps %d, want 0 or more", c.Int("steps"))
	}
	if err := checkOutput("out", c.String("out"), nil); err != nil {
		return err
	}
	p, err := plan.Make(c.Context, c.Args().First(), c.String("split"))
	if err != nil {
		return err
	}
	if err := estimate(c, p); err != nil {
		return err
	}
	if out := c.String("out"); out != "" {
		if err := writeJSONFile(out, p); err != nil {
			return err
		}
	}
	if c.Bool("json") {
		return writeJSON(c.App.Writer, p)
	}
	return printPlan(c.App.Writer, p)
}

// planned is a plan as a request takes it.
func planned(p *plan.Plan) *config.Plan {
	out := &config.Plan{Task: string(p.Task), Data: p.Data, Plugin: p.Plugin}
	for _, s := range p.Settings {
		out.Settings = append(out.Settings, [2]string{s.Name, s.Value})
	}
	return out
}

// estimate times some steps of the plan's training. A plugin that cannot be run is no
// failure of the plan: it says so.
func estimate(c *cli.Context, p *plan.Plan) error {
	steps := c.Int("steps")
	if steps == 0 {
		p.Unmeasured = "no step was timed (--steps 0)"
		return nil
	}
	r := config.Request{Plan: planned(p), Encoder: given[string](c, "encoder"), Head: given[string](c, "head"), Threads: given[int](c, "threads"), Device: given[string](c, "device"),
		Set: []string{"data.validation_split=", "data.train_split=" + p.Fingerprint.Split}}
	cfg, err := r.Config()
	if err != nil {
		return err
	}
	settings := cfg.Train
	cases, err := feed.TrainingCases(cfg)
	if err != nil {
		return err
	}
	fmt.Fprintf(c.App.ErrWriter, "timing %d steps with %s and %s\n", steps, cfg.Encoder.Plugin, cfg.Head.Plugin)
	timed, err := workflow.TimeSteps(c.Context, workflow.TrainOptions{Config: cfg, Program: c.App.Name, Version: Version, Plugins: pluginOptions(c)}, steps)
	if err != nil {
		if c.Context.Err() != nil {
			return err
		}
		p.Unmeasured = err.Error()
		return nil
	}
	_, perEpoch := workflow.PlannedSteps(cases, settings)
	p.Estimate = &plan.Estimate{StepSec: timed.StepSec, EpochSec: timed.StepSec * float64(perEpoch), PeakRSSBytes: timed.PeakRSSBytes,
		Basis: fmt.Sprintf("%d steps timed on this machine with encoder %s and head %s, no fusion, %d threads on %s; %d steps are an epoch, its validation comes on top",
			timed.Steps, cfg.Encoder.Plugin, cfg.Head.Plugin, cfg.Threads, cfg.Device, perEpoch)}
	return nil
}

// printPlan writes a plan for a person to read.
func printPlan(out io.Writer, p *plan.Plan) error {
	f := p.Fingerprint
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "%s\t%s, split %s\nhash\t%s\n", p.Data, p.Task, f.Split, p.DataSHA256)
	fmt.Fprintf(w, "cases, patients\t%d, %d\n\n\tleast\t5 %%\t25 %%\tmedian\t75 %%\t95 %%\tmost\n", f.Cases, f.Patients)
	for _, row := range []struct {
		name string
		q    *plan.Quantiles
	}{{"image's longer side, px", f.Sides}, {"pixel, mm", f.PixelMM}, {"slice distance, mm", f.SliceMM}, {"box side, px", f.BoxSides}, {"box side, mm", f.BoxMM}, {"box height over width", f.BoxRatios}} {
		if row.q == nil {
			continue
		}
		fmt.Fprint(w, row.name)
		for _, v := range row.q {
			fmt.Fprintf(w, "\t%.4g", v)
		}
		fmt.Fprintln(w)
	}
	fmt.Fprintln(w)
	if f.HU != nil {
		fmt.Fprintf(w, "HU, percentiles .5 50 99.5\t%.0f %.0f %.0f (%d images)\n", f.HU[0], f.HU[1], f.HU[2], f.HUImages)
	}
	for _, set := range slices.Sorted(maps.Keys(f.Classes)) {
		for _, class := range slices.Sorted(maps.Keys(f.Classes[set])) {
			fmt.Fprintf(w, "%s %s\t%d\n", set, class, f.Classes[set][class])
		}
	}
	for _, a := range slices.Sorted(maps.Keys(f.Missing)) {
		fmt.Fprintf(w, "missing %s\t%.1f %%\n", a, 100*f.Missing[a])
	}
	fmt.Fprintln(w)
	for _, s := range p.Settings {
		fmt.Fprintf(w, "%s=%s\t%s\n", s.Name, s.Value, s.Why)
	}
	fmt.Fprintln(w)
	if e := p.Estimate; e != nil {
		var memory []string
		for _, name := range slices.Sorted(maps.Keys(e.PeakRSSBytes)) {
			memory = append(memory, fmt.Sprintf("%s %d MiB", name, e.PeakRSSBytes[name]>>20))
		}
		fmt.Fprintf(w, "epoch\t%.0f s, steps of %.2f s\nmemory\t%s\nbasis\t%s\n", e.EpochSec, e.StepSec, strings.Join(memory, ", "), e.Basis)
	} else {
		fmt.Fprintf(w, "epoch, memory\tunknown: %s\n", p.Unmeasured)
	}
	return w.Flush()
}
