package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/alignedfusion/alignedfusion/host/config"
	"github.com/alignedfusion/alignedfusion/host/workflow"
	"github.com/alignedfusion/alignedfusion/host/workflow/detect"
	"github.com/alignedfusion/alignedfusion/host/workflow/predictions"
	"github.com/alignedfusion/alignedfusion/sdk"
)

func predictCommand() *cli.Command {
	return &cli.Command{
		Name:  "predict",
		Usage: "run a trained pipeline on a split, or on images of your own",
		Description: `Detection writes image,x1,y1,x2,y2,score,label,patient in pixels of the original images; classification
id,predicted,p_<class>…. The ending of --out says how: .csv, .json or .npz. Where the data have
targets, the metrics are printed; predictions on the run's own data are kept in the run directory,
where ` + "`alignedfusion compare`" + ` finds them.

  alignedfusion predict --run runs/a --data deeplesion:DIR --split test --out test.csv
  alignedfusion predict --run runs/a --data slices:FOLDER --out boxes.json
  alignedfusion predict --run runs/b --data image:lesion.jpg --out lesion.csv`,
		Flags: append([]cli.Flag{
			&cli.StringFlag{Name: "run", Usage: "run `DIR`ectory", Required: true},
			&cli.StringFlag{Name: "data", Usage: "data `SPEC` (default: the run's own data)"},
			&cli.StringFlag{Name: "split", Usage: "split to predict, or all (default: test on the run's data, else all)"},
			&cli.StringFlag{Name: "out", Usage: "`FILE`.csv, .json or .npz", Required: true},
			&cli.BoolFlag{Name: "mirror", Usage: "predict every image mirrored, too; boxes are fused, probabilities averaged"},
			&cli.StringSliceFlag{Name: "with", Usage: "combine with this other `RUN`: boxes by weighted box fusion, probabilities of classes by their mean; repeatable"},
			&cli.StringFlag{Name: "findings", Usage: "detection: merge boxes across the slices of each volume and write them to `FILE`.csv or .json"},
			&cli.Float64Flag{Name: "findings-iou", Value: 0.4, Usage: "IoU at which boxes of neighbouring slices belong together"},
			&cli.IntFlag{Name: "findings-gap", Value: 0, Usage: "slices without a box that a finding may bridge"},
			&cli.StringFlag{Name: "reconstruction", Usage: "write the probabilities of what reports do not mention to `FILE`.json"},
			&cli.Float64Flag{Name: "missing", Usage: "take this `SHARE` of the attribute values away first (default: as the run's data.missing_* say)"},
			&cli.StringFlag{Name: "checkpoint", Value: "best", Usage: "best, last or a step number"},
			&cli.BoolFlag{Name: "json", Usage: "write the metrics to stdout as JSON"},
		}, pluginFlags()...),
		Action: runPredict,
	}
}

func runPredict(c *cli.Context) error {
	if err := noArguments(c); err != nil {
		return err
	}
	switch strings.ToLower(filepath.Ext(c.String("out"))) {
	case ".csv", ".json", ".npz":
	default:
		return usageError("--out %s: the ending is %q, want .csv, .json or .npz", c.String("out"), filepath.Ext(c.String("out")))
	}
	switch path := c.String("findings"); strings.ToLower(filepath.Ext(path)) {
	case ".csv", ".json":
	default:
		if path != "" {
			return usageError("--findings %s: the ending is %q, want .csv or .json", path, filepath.Ext(path))
		}
	}
	if err := checkPredict(c); err != nil {
		return err
	}
	o := workflow.PredictOptions{
		Run: c.String("run"), Data: c.String("data"), Split: c.String("split"), Checkpoint: c.String("checkpoint"),
		Device: c.String("device"), Threads: c.Int("threads"), Plugins: pluginOptions(c), Messages: c.App.ErrWriter,
	}
	if c.IsSet("missing") {
		rate := c.Float64("missing")
		o.Missing = &rate
	}
	o.Mirror = c.Bool("mirror")
	result, err := workflow.PredictRun(c.Context, o)
	if err != nil {
		return err
	}
	if err := combineRuns(c, o, result); err != nil {
		return err
	}
	if err := predictions.Write(c.String("out"), result.Set()); err != nil {
		return err
	}
	if path := c.String("findings"); path != "" {
		if err := writeFindings(c, path, result); err != nil {
			return err
		}
	}
	if path := c.String("reconstruction"); path != "" {
		if err := predictions.WriteReconstructions(path, result.Predictions); err != nil {
			return err
		}
	}
	fmt.Fprintf(c.App.ErrWriter, "%d cases of split %q predicted with the checkpoint of step %d: %s\n",
		len(result.Predictions), result.Split, result.Step, c.String("out"))
	if !result.Evaluable {
		if c.Bool("json") {
			return writeJSON(c.App.Writer, struct {
				SchemaVersion int      `json:"schema_version"`
				Cases         int      `json:"cases"`
				Note          string   `json:"note"`
				Warnings      []string `json:"warnings,omitempty"`
			}{1, len(result.Predictions), "the data have no targets", result.Warnings})
		}
		fmt.Fprintln(c.App.ErrWriter, "the data have no targets: nothing is evaluated")
		return nil
	}
	return evaluatePredictions(c, result)
}

// checkPredict refuses what cannot come to a good end before anything is computed.
func checkPredict(c *cli.Context) error {
	if name := c.String("checkpoint"); name != "best" && name != "last" {
		if _, err := strconv.Atoi(name); err != nil {
			return usageError("--checkpoint %q: want best, last or a step number", name)
		}
	}
	for _, flag := range []string{"out", "findings", "reconstruction"} {
		path := c.String(flag)
		if path == "" {
			continue
		}
		if info, err := os.Stat(filepath.Dir(path)); err != nil || !info.IsDir() {
			return usageError("--%s %s: there is no folder %s", flag, path, filepath.Dir(path))
		}
	}
	r, err := workflow.ReadRun(c.String("run"))
	if err != nil {
		return err
	}
	task := r.Config.Task
	switch {
	case c.String("findings") != "" && task != config.Detect:
		return usageError("--findings: the run's task is %s, findings are merged in detection only", task)
	case c.Bool("mirror") && r.Config.Encoder.Plugin == config.None:
		return usageError("--mirror: the run has no encoder, so there are no images to mirror")
	case c.String("reconstruction") != "" && r.Config.Fusion.Plugin == config.None:
		return usageError("--reconstruction: the run has no fusion, so nothing is reconstructed")
	}
	for _, run := range c.StringSlice("with") {
		other, err := workflow.ReadRun(run)
		if err != nil {
			return err
		}
		if other.Config.Task != task {
			return usageError("--with %s: that run's task is %s, %s's is %s", run, other.Config.Task, c.String("run"), task)
		}
	}
	return nil
}

// combineRuns replaces boxes and probabilities by what all runs of --with say together.
func combineRuns(c *cli.Context, o workflow.PredictOptions, result *workflow.PredictResult) error {
	others := c.StringSlice("with")
	if len(others) == 0 {
		return nil
	}
	sources := [][]predictions.Prediction{result.Predictions}
	o.Data, o.Split = c.String("data"), result.Split
	if o.Data == "" {
		o.Data = result.Config.Data
	}
	for _, run := range others {
		o.Run = run
		other, err := workflow.PredictRun(c.Context, o)
		if err != nil {
			return err
		}
		if !slices.EqualFunc(other.Labels, result.Labels, func(a, b sdk.LabelSet) bool { return slices.Equal(a.Classes, b.Classes) }) {
			return usageError("--with %s: that run knows other classes", run)
		}
		sources = append(sources, other.Predictions)
		for _, w := range other.Warnings {
			result.Warnings = append(result.Warnings, workflow.RunName(run)+": "+w)
		}
	}
	combined, err := predictions.Combine(result.Config.Task, sources)
	if err != nil {
		return err
	}
	result.Predictions = combined
	return nil
}

func writeFindings(c *cli.Context, path string, result *workflow.PredictResult) error {
	o := detect.MergeOptions{IoU: c.Float64("findings-iou"), Gap: c.Int("findings-gap")}
	found, err := predictions.Findings(result.Predictions, result.Labels, o)
	if err == nil {
		err = predictions.WriteFindings(path, found)
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(c.App.ErrWriter, "%d findings in %d slices: %s\n", len(found), len(result.Predictions), path)
	return nil
}
