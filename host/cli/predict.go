package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/alignedfusion/alignedfusion/host/config"
	"github.com/alignedfusion/alignedfusion/host/page"
	"github.com/alignedfusion/alignedfusion/host/workflow"
	"github.com/alignedfusion/alignedfusion/host/workflow/detect"
	"github.com/alignedfusion/alignedfusion/host/workflow/predictions"
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
			&cli.StringFlag{Name: "entry", Usage: "write what the challenge of the data's layout takes (milk10k, isic, pad-ufes-20) to `FILE`.csv, too"},
			&cli.StringFlag{Name: "per", Usage: "classification: write an answer to each `WHOM`, slide or patient, in the place of each case: the mean of its cases' probabilities"},
			&cli.BoolFlag{Name: "vote", Usage: "with --per: each case counts for its most probable class alone"},
			&cli.BoolFlag{Name: "mirror", Usage: "predict every image mirrored, too; boxes are fused, probabilities averaged"},
			&cli.StringFlag{Name: "tta", Usage: "further passes, combined likewise: a `LIST` of mirror, flips (both ways), turns (all eight), scales (0.8, 1.25)"},
			&cli.StringSliceFlag{Name: "with", Usage: "combine with this other `RUN`: boxes as --merge says, probabilities of classes by their mean; repeatable"},
			&cli.StringFlag{Name: "merge", Usage: "detection: how boxes of passes and runs are combined: wbf (weighted box fusion, the default) or nms (the highest score of those that overlap)"},
			&cli.IntFlag{Name: "batch", Usage: "compute `N` cases together (default: as data.predict_batch of the run says)"},
			&cli.StringFlag{Name: "findings", Usage: "detection: merge boxes across the slices of each volume and write them to `FILE`.csv or .json"},
			&cli.Float64Flag{Name: "findings-iou", Value: 0.4, Usage: "IoU at which boxes of neighbouring slices belong together"},
			&cli.IntFlag{Name: "findings-gap", Value: 0, Usage: "slices without a box that a finding may bridge"},
			&cli.StringFlag{Name: "overlays", Usage: "detection: draw slices with lesions and marks, worst first, as PNG into this new or empty `DIR`", TakesFile: true},
			&cli.IntFlag{Name: "overlays-max", Value: 100, Usage: "draw `N` slices at most"},
			&cli.Float64Flag{Name: "overlays-score", Usage: "draw boxes that score `S` or more (default: those of the operating point nearest to 1 false positive an image; the 5 best of an image without targets)"},
			&cli.StringFlag{Name: "outputs", Usage: "write the maps that stages draw over the pictures (their outputs visual.*), a file of arrays per case, and of slides what each patch counts, as CSV and heat map, into this new or empty `DIR`", TakesFile: true},
			&cli.StringFlag{Name: "reconstruction", Usage: "write the probabilities of what reports do not mention, and how frequent each value is in training, to `FILE`.json or .csv"},
			&cli.StringFlag{Name: "reports", Usage: "`FILE` of the cases' reports, as for train (default: the run's own on its own data)"},
			&cli.Float64Flag{Name: "missing", Usage: "take this `SHARE` of the attribute values away first (default: as the run's data.missing_* say)"},
			&cli.StringFlag{Name: "checkpoint", Value: "best", Usage: "best, last or a step number"},
			&cli.BoolFlag{Name: "allow-changed", Usage: "predict although a plugin is not the one the run was trained with; the predictions say so"},
			shardFlag(),
			&cli.BoolFlag{Name: "json", Usage: "write the metrics to stdout as JSON"},
		}, pluginFlags()...),
		Action: runPredict,
	}
}

func runPredict(c *cli.Context) error {
	if err := noArguments(c); err != nil {
		return err
	}
	out, findings, reconstruction, entry := c.String("out"), c.String("findings"), c.String("reconstruction"), c.String("entry")
	for _, file := range []struct {
		flag, path string
		endings    []string
	}{{"out", out, []string{".csv", ".json", ".npz"}}, {"findings", findings, []string{".csv", ".json"}}, {"reconstruction", reconstruction, []string{".csv", ".json"}}, {"entry", entry, []string{".csv"}}} {
		if err := checkOutput(file.flag, file.path, file.endings); err != nil {
			return err
		}
	}
	o := workflow.PredictOptions{
		Run: c.String("run"), Reports: c.String("reports"), With: c.StringSlice("with"), Data: c.String("data"), Split: c.String("split"), Checkpoint: c.String("checkpoint"),
		Merge: c.String("merge"), Batch: c.Int("batch"),
		TTA: config.List(c.String("tta")), AllowChanged: c.Bool("allow-changed"), Findings: findings != "", Reconstruction: reconstruction != "", Overlays: c.String("overlays") != "", Outputs: c.String("outputs") != "",
		Device: c.String("device"), Threads: c.Int("threads"), Plugins: pluginOptions(c), Messages: c.App.ErrWriter,
	}
	o.Per, o.Entry = c.String("per"), entry != ""
	switch {
	case c.IsSet("per") && o.Per != predictions.PerSlide && o.Per != predictions.PerPatient:
		return usageError("--per %q, want %s or %s", o.Per, predictions.PerSlide, predictions.PerPatient)
	case c.Bool("vote") && o.Per == "":
		return usageError("--vote goes with --per: there the cases of a slide or of a patient vote")
	}
	if c.IsSet("batch") && o.Batch < 1 {
		return usageError("--batch %d, want 1 or more", o.Batch)
	}
	if err := errors.Join(checkOverlays(c), checkFolder("outputs", c.String("outputs"))); err != nil {
		return err
	}
	if c.Bool("mirror") {
		o.TTA = append(o.TTA, "mirror")
	}
	if c.IsSet("missing") {
		rate := c.Float64("missing")
		o.Missing = &rate
	}
	d, err := divide(c)
	if err != nil {
		return err
	}
	if o.Outputs && (!d.Whole() || d.merged != nil) {
		return usageError("--outputs: shards keep no maps; predict without shards for them")
	}
	if o.Shard = d.Spec; d.merged != nil {
		parts, err := made[workflow.Part](d.merged)
		if err != nil {
			return err
		}
		if o.Merged, err = workflow.Join(parts); err != nil {
			return err
		}
	}
	result, err := workflow.Predict(c.Context, o)
	if err != nil {
		return err
	}
	if !d.Whole() {
		return d.leave(c, result.Inputs, result.Part, fmt.Sprintf("%d cases of split %q", len(result.Predictions), result.Split))
	}
	if err := d.check(result.Inputs); err != nil {
		return err
	}
	set := result.Set()
	if o.Per != "" {
		set.Predictions, _ = predictions.Grouped(set.Predictions, o.Per, c.Bool("vote"))
	}
	if err := predictions.Write(out, set); err != nil {
		return err
	}
	if entry != "" {
		if err := predictions.WriteEntry(entry, result.Data.Entry, result.Set()); err != nil {
			return err
		}
	}
	if findings != "" {
		if err := writeFindings(c, findings, result); err != nil {
			return err
		}
	}
	if reconstruction != "" {
		if err := predictions.WriteReconstructions(reconstruction, result.Calibration, result.Predictions); err != nil {
			return err
		}
		fmt.Fprintln(c.App.ErrWriter, result.Calibration)
	}
	if dir := c.String("outputs"); dir != "" {
		n, err := predictions.WriteVisuals(dir, result.Predictions)
		if err != nil {
			return err
		}
		if n > 0 {
			fmt.Fprintf(c.App.ErrWriter, "maps of %d cases: %s\n", n, dir)
		}
		if n, err = predictions.WriteAttention(dir, result.Data.Dir, result.Predictions); err != nil {
			return err
		}
		if n > 0 {
			fmt.Fprintf(c.App.ErrWriter, "weights of the patches of %d slides: %s\n", n, dir)
		}
	}
	if o.Overlays {
		if err := drawOverlays(c, result); err != nil {
			return err
		}
	}
	fmt.Fprintf(c.App.ErrWriter, "%d cases of split %q predicted with the checkpoint of step %d: %s\n",
		len(result.Predictions), result.Split, result.Step, out)
	if result.Evaluable {
		if result.NotKept != "" {
			fmt.Fprintf(c.App.ErrWriter, "note: the run does not keep these, for %s: `alignedfusion compare` shows them by their file\n", result.NotKept)
		}
		return evaluatePredictions(c, result)
	}
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

// checkOutput refuses a file that could not be written in the end; nil endings allow any, and none.
func checkOutput(flag, path string, endings []string) error {
	if path == "" && (flag != "out" || endings == nil) {
		return nil
	}
	if ending := filepath.Ext(path); endings != nil && !slices.Contains(endings, strings.ToLower(ending)) {
		last := len(endings) - 1
		want := endings[last]
		if last > 0 {
			want = strings.Join(endings[:last], ", ") + " or " + want
		}
		return usageError("--%s %s: the ending is %q, want %s", flag, path, ending, want)
	}
	return checkFile("--"+flag, path)
}

// checkFile refuses the name of a file to write that is a folder's, or lies in none.
func checkFile(what, path string) error {
	if path == "" {
		return usageError("%s: want the name of a file", what)
	}
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		return usageError("%s %s: this is a folder, want the name of a file", what, path)
	}
	if info, err := os.Stat(filepath.Dir(path)); err != nil || !info.IsDir() {
		return usageError("%s %s: there is no folder %s; make it first", what, path, filepath.Dir(path))
	}
	return nil
}

// checkOverlays refuses a folder with files, whose pictures would be taken for these, and
// numbers that draw nothing.
func checkOverlays(c *cli.Context) error {
	dir := c.String("overlays")
	if dir == "" {
		for _, flag := range []string{"overlays-max", "overlays-score"} {
			if c.IsSet(flag) {
				return usageError("--%s needs --overlays DIR", flag)
			}
		}
		return nil
	}
	if n := c.Int("overlays-max"); n < 1 {
		return usageError("--overlays-max %d, want 1 or more", n)
	}
	return checkFolder("overlays", dir)
}

// checkFolder refuses a folder that files are to be written into and that holds some, which
// would be taken for these; "" is none.
func checkFolder(flag, dir string) error {
	if dir == "" {
		return nil
	}
	switch entries, err := os.ReadDir(dir); {
	case errors.Is(err, fs.ErrNotExist):
		return checkOutput(flag, dir, nil)
	case err != nil:
		return usageError("--%s: %w", flag, err)
	case len(entries) > 0:
		return usageError("--%s %s: the folder is not empty, it holds %s; name a new one", flag, dir, entries[0].Name())
	}
	return nil
}

func drawOverlays(c *cli.Context, result *workflow.PredictResult) error {
	o := page.OverlayOptions{Dir: c.String("overlays"), Most: c.Int("overlays-max")}
	if c.IsSet("overlays-score") {
		score := c.Float64("overlays-score")
		o.MinScore = &score
	}
	said, err := page.Overlays(c.Context, result, o)
	if err != nil {
		return err
	}
	fmt.Fprintf(c.App.ErrWriter, "%s: %s\n", said, o.Dir)
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
