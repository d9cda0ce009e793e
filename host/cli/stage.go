package cli

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/alignedfusion/alignedfusion/host/config"
	"github.com/alignedfusion/alignedfusion/host/npz"
	"github.com/alignedfusion/alignedfusion/host/workflow/onestage"
	"github.com/alignedfusion/alignedfusion/sdk"
)

func stageCommand() *cli.Command {
	return &cli.Command{
		Name:  "stage",
		Usage: "run one stage of a plugin by itself: compare with PyTorch, measure, check gradients",
		Subcommands: []*cli.Command{
			{
				Name:  "forward",
				Usage: "run a stage on the arrays of an .npz file and write its outputs to another",
				UsageText: "alignedfusion stage forward --plugin a3d --stage encoder --set preset=densenet121 \\\n" +
					"     --weights W.safetensors --in x.npz --out y.npz",
				Description: "Arrays are named like the stage's input ports. Losses and metrics are written as scalars\n" +
					"loss.NAME and metric.NAME. An array \"value.embedding\" that is no input is handed to the stage as a constant.",
				Flags: append(stageFlags(),
					&cli.StringFlag{Name: "in", Required: true, Usage: "`X.npz` with the inputs"},
					&cli.StringFlag{Name: "out", Required: true, Usage: "`Y.npz` to write"},
					&cli.StringFlag{Name: "outputs", Usage: "extra outputs that are computed on request, `A,B`"},
					modeFlag(),
				),
				Action: stageForward,
			},
			{
				Name:  "bench",
				Usage: "measure a stage on seeded random data",
				UsageText: "alignedfusion stage bench --plugin a3d --stage encoder --shape volume=1x1x7x512x512 \\\n" +
					"     --mode train --steps 5 --json",
				Description: "A step is one Forward, in train mode with one Backward (all output gradients and losses), with --whole-step\n" +
					"also the gradient's norm, an optimizer step of length zero and clearing the gradients: a whole training step.\n" +
					"Times are the host's, transport included. Inputs whose sizes follow from --shape need none of their own.",
				Flags: append(stageFlags(),
					&cli.StringSliceFlag{Name: "shape", Usage: "`PORT=1x1x7x512x512`, repeatable"},
					&cli.StringFlag{Name: "in", Usage: "`X.npz` with inputs instead of random ones"},
					&cli.StringFlag{Name: "outputs", Usage: "extra outputs that are computed on request, `A,B`"},
					modeFlag(),
					&cli.BoolFlag{Name: "whole-step", Usage: "in train mode, make every call of a training step"},
					&cli.IntFlag{Name: "steps", Value: 10, Usage: "`N` measured steps"},
					&cli.IntFlag{Name: "warmup", Value: 1, Usage: "`N` steps before them"},
					&cli.BoolFlag{Name: "json", Usage: "print JSON"},
				),
				Action: stageBench,
			},
			{
				Name:  "grad",
				Usage: "compare a stage's gradients with finite differences",
				UsageText: "alignedfusion stage grad --plugin ./bin/my-head --stage mlp --shape joint=4x256 --shape target.label=4\n" +
					"alignedfusion stage grad --plugin itfusion --stage itfusion --in x.npz --tolerance 0.01",
				Description: "Ends with exit code 7 when a relative error exceeds the tolerance.",
				Flags: append(stageFlags(),
					&cli.StringSliceFlag{Name: "shape", Usage: "`PORT=4x256`, repeatable; filled with seeded random data"},
					&cli.StringFlag{Name: "in", Usage: "`X.npz` with inputs instead of random ones"},
					&cli.Float64Flag{Name: "tolerance", Value: 0.02, Usage: "largest relative error, `R`"},
					&cli.BoolFlag{Name: "json", Usage: "print JSON"},
				),
				Action: stageGrad,
			},
		},
	}
}

func modeFlag() cli.Flag {
	return &cli.StringFlag{Name: "mode", Value: "eval", Usage: "`eval|train`"}
}

func stageFlags() []cli.Flag {
	return append(pluginFlags(),
		&cli.StringFlag{Name: "plugin", Required: true, Usage: "`NAME|PATH` of the plugin; a path has a slash"},
		&cli.StringFlag{Name: "stage", Usage: "`NAME` of the stage; may be left out when the plugin has one"},
		&cli.StringSliceFlag{Name: "set", Usage: "setting `KEY=VALUE` of the stage, repeatable"},
		&cli.StringFlag{Name: "weights", Usage: "`W.safetensors`, the same as --set weights=W.safetensors"},
		&cli.StringSliceFlag{Name: "labels", Usage: "classes of a task, `TASK=a,b,c`, repeatable"},
		&cli.StringFlag{Name: "schema", Usage: "attribute schema `FILE.json`"},
		&cli.Uint64Flag{Name: "seed", Value: 1, Usage: "`N` for the stage's and the data's randomness"},
		&cli.BoolFlag{Name: "in-band", Usage: "send tensors inside the messages instead of through shared memory"},
	)
}

// openStage opens the stage that the flags ask for.
func openStage(c *cli.Context, train bool) (*onestage.Stage, error) {
	o := onestage.Options{Host: pluginOptions(c), Plugin: c.String("plugin"), Stage: c.String("stage"), Device: c.String("device"), Threads: c.Int("threads"),
		Seed: c.Uint64("seed"), Train: train, Wanted: config.List(c.String("outputs"))}
	o.Host.InBand = c.Bool("in-band")
	var err error
	if o.Settings, err = keyValues("set", c.StringSlice("set")); err != nil {
		return nil, err
	}
	if w := c.String("weights"); w != "" {
		o.Settings["weights"] = w
	}
	if o.Labels, err = labelSets(c.StringSlice("labels")); err != nil {
		return nil, err
	}
	if path := c.String("schema"); path != "" {
		if o.Schema, err = os.ReadFile(path); err != nil {
			return nil, dataError(err)
		}
	}
	if o.Sizes, err = shapes(c.StringSlice("shape")); err != nil {
		return nil, err
	}
	if path := c.String("in"); path != "" {
		if o.Inputs, err = npz.Read(path); err != nil {
			return nil, dataError(err)
		}
	}
	return onestage.Open(c.Context, o)
}

func keyValues(flag string, given []string) (map[string]string, error) {
	out := map[string]string{}
	for _, g := range given {
		k, v, ok := strings.Cut(g, "=")
		if !ok || k == "" {
			return nil, usageError("--%s %q: want KEY=VALUE", flag, g)
		}
		out[strings.TrimSpace(k)] = v
	}
	return out, nil
}

// shapes parses --shape PORT=1x1x7x512x512.
func shapes(given []string) (map[string][]int64, error) {
	texts, err := keyValues("shape", given)
	if err != nil {
		return nil, err
	}
	out := map[string][]int64{}
	for name, text := range texts {
		shape := []int64{}
		for _, field := range strings.Split(text, "x") {
			n, err := strconv.ParseInt(strings.TrimSpace(field), 10, 64)
			if err != nil || n < 1 {
				return nil, usageError("--shape %s=%s: want sizes of at least 1 with x between, as in 1x1x7x512x512", name, text)
			}
			shape = append(shape, n)
		}
		out[name] = shape
	}
	return out, nil
}

func labelSets(given []string) ([]sdk.LabelSet, error) {
	var out []sdk.LabelSet
	for _, g := range given {
		name, classes, ok := strings.Cut(g, "=")
		if !ok || classes == "" {
			return nil, usageError("--labels %q: want TASK=class,class", g)
		}
		out = append(out, sdk.LabelSet{Name: name, Classes: strings.Split(classes, ",")})
	}
	return out, nil
}

func modeOf(c *cli.Context) (train bool, err error) {
	switch c.String("mode") {
	case "eval":
		return false, nil
	case "train":
		return true, nil
	}
	return false, usageError("--mode %q: want eval or train", c.String("mode"))
}

func stageForward(c *cli.Context) (err error) {
	if err := checkFile("--out", c.String("out")); err != nil {
		return err
	}
	train, err := modeOf(c)
	if err != nil {
		return err
	}
	s, err := openStage(c, train)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	resp, cost, err := s.Forward(c.Context)
	if err != nil {
		return err
	}
	arrays := onestage.Arrays(resp)
	if err := npz.Write(c.String("out"), arrays); err != nil {
		return err
	}
	for _, note := range resp.Notes {
		fmt.Fprintln(c.App.ErrWriter, note)
	}
	for _, name := range slices.Sorted(maps.Keys(arrays)) {
		fmt.Fprintf(c.App.ErrWriter, "%-24s %s\n", name, arrays[name])
	}
	fmt.Fprintf(c.App.ErrWriter, "%s written; %.3f s, of which %.3f s transport\n", c.String("out"), cost.Wall.Seconds(), cost.Transport().Seconds())
	return s.Finite(resp)
}

func stageBench(c *cli.Context) (err error) {
	train, err := modeOf(c)
	if err != nil {
		return err
	}
	if c.Bool("whole-step") && !train {
		return usageError("--whole-step: a training step needs --mode train")
	}
	if c.Int("steps") < 1 || c.Int("warmup") < 0 {
		return usageError("--steps %d --warmup %d: want at least 1 and 0", c.Int("steps"), c.Int("warmup"))
	}
	s, err := openStage(c, train)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	report, err := s.Bench(c.Context, onestage.BenchOptions{Warmup: c.Int("warmup"), Steps: c.Int("steps"), WholeStep: c.Bool("whole-step")})
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return writeJSON(c.App.Writer, report)
	}
	fmt.Fprintf(c.App.Writer, "%s %s, %s, %d steps: median %.4f s (min %.4f, max %.4f), transport %.4f s, peak memory %.0f MiB\n",
		report.Plugin, report.Stage, report.Mode, report.Steps, report.MedianSeconds, report.MinSeconds, report.MaxSeconds,
		report.MedianTransportSeconds, float64(report.PeakRSSBytes)/(1<<20))
	return nil
}

func stageGrad(c *cli.Context) (err error) {
	s, err := openStage(c, true)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	begin := time.Now()
	report, worst, err := s.Gradients(c.Context, c.Float64("tolerance"))
	if err != nil {
		return err
	}
	if c.Bool("json") {
		if err := writeJSON(c.App.Writer, report); err != nil {
			return err
		}
	} else {
		w := tabwriter.NewWriter(c.App.Writer, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "input\tgradient\tfinite differences\trelative error")
		for _, d := range report.Directions {
			fmt.Fprintf(w, "%s\t%.6g\t%.6g\t%.1e\n", d.Input, d.Analytic, d.Numeric, d.RelativeError)
		}
		if err := w.Flush(); err != nil {
			return err
		}
		fmt.Fprintf(c.App.ErrWriter, "%d directions in %.1f s\n", len(report.Directions), time.Since(begin).Seconds())
	}
	if !report.Passed {
		return gateError(fmt.Errorf("the gradient of %q differs from finite differences by %.2g, want at most %g", worst.Input, worst.RelativeError, report.Tolerance))
	}
	return nil
}
