package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/alignedfusion/alignedfusion/eval/resample"
	"github.com/alignedfusion/alignedfusion/host/config"
	"github.com/alignedfusion/alignedfusion/host/runs"
	"github.com/alignedfusion/alignedfusion/host/shard"
	"github.com/alignedfusion/alignedfusion/host/study"
	"github.com/alignedfusion/alignedfusion/host/workflow"
)

func studyCommand() *cli.Command {
	return &cli.Command{
		Name:  "study",
		Usage: "train and compare many pipelines: missing attributes, ablations, detection",
		Description: `A study is a grid of cells: a method, trained with one seed at one missing rate (or on one share of the
training patients), predicted at one rate. Models are ordinary runs below --out/runs; cells that differ in
the predicted split's rate alone share one. What is finished is not made again: a study that was stopped
goes on, and methods, rates and seeds may be added later. It ends with one table (also --out/table.csv and
table.json) and a plot (plot.svg).`,
		Subcommands: []*cli.Command{
			{
				Name:  "missing",
				Usage: "accuracy over the share of missing attributes, by scenario and method (Tables 1 and 2)",
				Description: `Values are taken away completely at random per case and attribute, on top of those that are missing by
themselves; a seed's masks are nested and the same for all methods. Validation is corrupted at the
training rate.

  alignedfusion study missing --data table:skin/data.csv --out studies/skin --seeds 5 \
    --set encoder.kind=darknet --set encoder.frozen=true --set encoder.weights=darknet_tiny.safetensors \
    --set data.augment=none

Methods:
` + strings.TrimRight(study.Names(), "\n"),
				Flags: append([]cli.Flag{
					&cli.StringFlag{Name: "scenarios", Value: "M-Tr+C-Te,C-Tr+M-Te,M-Tr+M-Te", Usage: "`LIST`; M50-Tr is 50 % in every column"},
					&cli.StringFlag{Name: "rates", Value: "0,0.1,0.2,0.3,0.4,0.5", Usage: "`LIST` of shares of the values that are taken away"},
					&cli.StringFlag{Name: "methods", Value: "none,attributes,pattern,naive-bayes,logistic,sum,selfattn,bottleneck4,itfusion,itfusion-noit,itfusion-norec", Usage: "`LIST`"},
				}, studyFlags(config.Classify, "itfusion")...),
				Action: func(c *cli.Context) error {
					return runStudy(c, config.Classify, study.Grid{Scenarios: c.String("scenarios"), Rates: c.String("rates"), Fractions: "1"})
				},
			},
			{
				Name:  "recovery",
				Usage: "which attributes that were taken away come back, by the method, by forests, naive Bayes and the mode",
				Description: `Each attribute by itself and all together, with 95 % intervals over patients of what the method recovers
more than each reference. The forest reads the attributes that are left, "forest with image" the mean
tokens of the frozen encoder, too.

  alignedfusion data split --folds 5 --stratify label --replace --out folds.csv table:skin/data.csv
  alignedfusion study recovery --data table:folds.csv --folds 0,1,2,3,4 --out studies/recovery \
    --set encoder.kind=darknet --set encoder.frozen=true --set encoder.weights=darknet_tiny.safetensors \
    --set data.augment=none --set fusion.regression=true`,
				Flags: append([]cli.Flag{
					&cli.StringFlag{Name: "rates", Value: "0.5", Usage: "`LIST` of shares of the values that are taken away"},
					&cli.StringFlag{Name: "methods", Value: "itfusion", Usage: "`LIST`, as of study missing, of those that reconstruct"},
				}, studyFlags(config.Classify, "")...),
				Action: func(c *cli.Context) error {
					return runStudy(c, config.Classify, study.Grid{Scenarios: "C-Tr+M-Te", Rates: c.String("rates"), Fractions: "1"})
				},
			},
			{
				Name:  "ablation",
				Usage: "with and without intermediate token over missing rates; mask probabilities (Table 4)",
				Description: `The method with and without intermediate token and reconstruction over the rates, and with every mask
probability at the rates of --mask-rates.

  alignedfusion study ablation --data derm7pt:DIR --out studies/ablation`,
				Flags: append([]cli.Flag{
					&cli.StringFlag{Name: "scenarios", Value: "M-Tr+C-Te", Usage: "`LIST`, as of study missing"},
					&cli.StringFlag{Name: "rates", Value: "0,0.1,0.2,0.3,0.4,0.5", Usage: "`LIST` of shares of the values that are taken away"},
					&cli.StringFlag{Name: "methods", Value: "itfusion,itfusion-noit,itfusion-norec", Usage: "`LIST`, as of study missing"},
					&cli.StringFlag{Name: "mask-probabilities", Value: "0,0.1,0.2,0.3,0.4,0.5", Usage: "`LIST` of p; empty: none"},
					&cli.StringFlag{Name: "mask-rates", Value: "0", Usage: "`LIST` of missing rates to try the mask probabilities at"},
				}, studyFlags(config.Classify, "itfusion")...),
				Action: func(c *cli.Context) error {
					return runStudy(c, config.Classify, study.Grid{Scenarios: c.String("scenarios"), Rates: c.String("rates"), Fractions: "1",
						MaskProbabilities: c.String("mask-probabilities"), MaskRates: c.String("mask-rates")})
				},
			},
			{
				Name:  "exchange",
				Usage: "fusions where the report selects what counts in the picture, and where evidence adds up",
				Description: `Writes synthetic sets (data synth --layout table --context) below --out and compares the fusions on
each, on tokens of frozen random convolutions: what is learned is the fusion and the head. Lookup: two
bits of the report say which of four squares is the label. Additive: the majority of squares and bits is.

  alignedfusion study exchange --out studies/exchange --noise-tokens 0,12`,
				Flags: append([]cli.Flag{
					&cli.StringFlag{Name: "contexts", Value: "lookup,additive", Usage: "`LIST` of lookup and additive"},
					&cli.StringFlag{Name: "noise-tokens", Value: "0", Usage: "`LIST` of numbers of squares beside the four that count"},
					&cli.IntFlag{Name: "cases", Value: 1024, Usage: "`N` cases to train on"},
					&cli.IntFlag{Name: "patients", Usage: "`N` patients of each set, a fifth of whom are predicted (default: 4 times the cases)"},
					&cli.StringFlag{Name: "methods", Value: "itfusion-norec,selfattn,sum", Usage: "`LIST`, as of study missing"},
				}, without(studyFlags(config.Classify, "selfattn"), "data", "split", "folds", "encoder", "head", "attributes", "reports", "metric", "only", "again", "dry-run", "shard", "devices", "submit", "tasks")...),
				Action: studyExchange,
			},
			{
				Name:  "shortcuts",
				Usage: "what a run's answers owe to the report, and whether they look at the image",
				Description: `Predicts the split with its own reports, without any, with those of other patients and with
contradicting ones. A fusion that fires on the report alone says, with another patient's report, what
is true of that patient.

  alignedfusion study shortcuts --run runs/itfusion --split test`,
				Flags: append([]cli.Flag{
					&cli.StringFlag{Name: "run", Usage: "run `DIR`ectory", Required: true},
					&cli.StringFlag{Name: "data", Usage: "data `SPEC` (default: the run's own data)"},
					&cli.StringFlag{Name: "split", Usage: "split to predict (default: test on the run's data, else all)"},
					&cli.StringFlag{Name: "checkpoint", Value: "best", Usage: "best, last or a step number"},
					&cli.IntFlag{Name: "bootstrap", Value: 1000, Usage: "bootstrap replicates `N`"},
					&cli.StringFlag{Name: "out", Usage: "write the result to `FILE`.json, too", TakesFile: true},
					&cli.BoolFlag{Name: "json", Usage: "write the result to stdout as JSON"},
				}, pluginFlags()...),
				Action: studyShortcuts,
			},
			{
				Name:  "detection",
				Usage: "sensitivity over the share of the training patients, by fusion (Table 3)",
				Description: `The patients of a small share are among those of every larger one. With --rates beside 0: whole reports
in training, and that share of their values taken away from those that are predicted.

  alignedfusion study detection --data deeplesion:DIR --out studies/detection --split test
  alignedfusion study detection --data deeplesion:DIR --out studies/missing --fractions 1 --rates 0,0.5,1`,
				Flags: append([]cli.Flag{
					&cli.StringFlag{Name: "fractions", Value: "0.25,0.5,1", Usage: "`LIST` of shares of the training patients"},
					&cli.StringFlag{Name: "rates", Value: "0", Usage: "`LIST` of shares of the values that are taken away"},
					&cli.StringFlag{Name: "methods", Value: "none,itfusion,sum,selfattn", Usage: "`LIST`, as of study missing"},
				}, studyFlags(config.Detect, "none")...),
				Action: func(c *cli.Context) error {
					scenario := "C-Tr+C-Te"
					if c.String("rates") != "0" {
						scenario = "C-Tr+M-Te"
					}
					return runStudy(c, config.Detect, study.Grid{Scenarios: scenario, Rates: c.String("rates"), Fractions: c.String("fractions")})
				},
			},
		},
	}
}

// studyFlags are shared by all studies.
func studyFlags(task, baseline string) []cli.Flag {
	seeds := 5
	if task == config.Detect {
		seeds = 1
	}
	var folds []cli.Flag
	if task == config.Classify {
		folds = append(folds, &cli.StringFlag{Name: "folds", Usage: "predict these folds of data split --folds, each by models of the others: a `LIST` as 0,1,2,3,4;\n" +
			"a setting of one fold: --set fold0/GROUP.KEY=VALUE"})
	}
	return append(append(folds,
		&cli.StringFlag{Name: "data", Usage: "data `SPEC`", Required: true},
		&cli.StringFlag{Name: "out", Usage: "the study's `DIR`ectory", Required: true},
		&cli.StringFlag{Name: "split", Value: "val", Usage: "split to predict and compare on; val also chooses the checkpoints"},
		&cli.IntFlag{Name: "seeds", Value: seeds, Usage: "seeds 1 to `N`, each with masks of its own"},
		&cli.StringFlag{Name: "baseline", Value: baseline, Usage: "`METHOD` that the others are tested against; empty: no tests"},
		&cli.StringFlag{Name: "encoder", Usage: "`PLUGIN` of the images"},
		&cli.StringFlag{Name: "head", Usage: "`PLUGIN`"},
		&cli.StringFlag{Name: "attributes", Usage: "comma-separated `LIST` of attribute columns or sets of them (default: the data's)"},
		&cli.StringFlag{Name: "reports", Usage: "`FILE` of the reports of methods +sentence and +whole (default: reports.csv of the data)"},
		&cli.IntFlag{Name: "epochs", Usage: "times through the training split"},
		&cli.StringSliceFlag{Name: "set", Usage: "`[METHOD/]GROUP.KEY=VALUE`, repeatable; METHOD may be a pattern: itfusion*/fusion.layers=3"},
		&cli.StringSliceFlag{Name: "only", Usage: "make only this `CELL` (or pattern), repeatable"},
		&cli.BoolFlag{Name: "again", Usage: "make finished cells anew, their models included"},
		&cli.BoolFlag{Name: "dry-run", Usage: "print the cells and what they will cost, and stop"},
		&cli.BoolFlag{Name: "table", Usage: "make no cell: the table of those that are finished"},
		shardFlag(),
		&cli.StringFlag{Name: "submit", Usage: "with --dry-run: print what a cluster takes, a shard per task: `KIND` slurm (an array script) or k8s (an Indexed Job)"},
		&cli.IntFlag{Name: "tasks", Usage: "shards of --submit, `N` (default: one for each model, 1000 at most)"},
		&cli.StringFlag{Name: "devices", Usage: "`LIST` of devices, such as cuda:0,cuda:1, that make a model each at a time (default: one, --device)"},
		&cli.StringFlag{Name: "metric", Usage: "print this `METRIC` (default: balanced_accuracy, mean_sensitivity)"},
		&cli.IntFlag{Name: "bootstrap", Value: 1000, Usage: "bootstrap replicates and permutations `N`"},
		&cli.BoolFlag{Name: "json", Usage: "write the table to stdout as JSON"},
	), pluginFlags()...)
}

// without leaves out the flags of these names.
func without(flags []cli.Flag, names ...string) []cli.Flag {
	return slices.DeleteFunc(flags, func(f cli.Flag) bool { return slices.Contains(names, f.Names()[0]) })
}

func studyShortcuts(c *cli.Context) error {
	if err := noArguments(c); err != nil {
		return err
	}
	if err := errors.Join(positive(c, "bootstrap"), checkOutput("out", c.String("out"), nil)); err != nil {
		return err
	}
	s, err := workflow.Shortcuts(c.Context, workflow.PredictOptions{Run: c.String("run"), Data: c.String("data"), Split: c.String("split"), Checkpoint: c.String("checkpoint"),
		Device: c.String("device"), Threads: c.Int("threads"), Plugins: pluginOptions(c), Messages: c.App.ErrWriter}, resample.Options{Replicates: c.Int("bootstrap")})
	if err != nil {
		return err
	}
	if out := c.String("out"); out != "" {
		data, err := json.MarshalIndent(s, "", "  ")
		if err != nil {
			return err
		}
		if err := runs.WriteFile(out, append(data, '\n')); err != nil {
			return err
		}
	}
	if c.Bool("json") {
		return writeJSON(c.App.Writer, s)
	}
	return s.Write(c.App.Writer)
}

func studyExchange(c *cli.Context) error {
	if err := noArguments(c); err != nil {
		return err
	}
	if err := positive(c, "cases", "patients", "seeds", "epochs", "bootstrap"); err != nil {
		return err
	}
	t, err := study.Exchange(c.Context, study.ExchangeOptions{MakeOptions: studyOptions(c, config.Classify, study.Grid{}),
		Contexts: c.String("contexts"), NoiseTokens: c.String("noise-tokens"), Cases: c.Int("cases"), Patients: c.Int("patients")})
	if err != nil {
		return goesOn(c, err)
	}
	if c.Bool("json") {
		return writeJSON(c.App.Writer, t)
	}
	return t.Write(c.App.Writer)
}

// device is a device's name.
var device = regexp.MustCompile(`^(cpu|cuda(:[0-9]+)?)$`)

func runStudy(c *cli.Context, task string, grid study.Grid) error {
	if err := noArguments(c); err != nil {
		return err
	}
	if err := positive(c, "seeds", "epochs", "bootstrap", "tasks"); err != nil {
		return err
	}
	if c.String("folds") != "" && c.IsSet("split") {
		return usageError("--split %s: with --folds each fold is what is predicted; leave one of the two out", c.String("split"))
	}
	o := studyOptions(c, task, grid)
	if o.Devices = config.List(c.String("devices")); c.IsSet("devices") {
		if i := slices.IndexFunc(o.Devices, func(d string) bool { return !device.MatchString(d) }); i >= 0 || len(o.Devices) == 0 {
			return usageError("--devices %q: want cpu, cuda or cuda:N, with commas between", c.String("devices"))
		}
		kinds := map[string]bool{}
		for _, d := range o.Devices {
			kind, _, _ := strings.Cut(d, ":")
			if kinds[kind] = true; kind != "cpu" { // the default of a study's identity
				o.Device = kind
			}
		}
		if c.IsSet("device") || len(kinds) > 1 {
			return usageError("--devices %s: want devices of one kind, and no --device besides: what differs between kinds must not differ between methods", c.String("devices"))
		}
	}
	if c.IsSet("submit") || c.IsSet("tasks") {
		return submitStudy(c, o)
	}
	d, err := divide(c)
	if err != nil {
		return err
	}
	switch {
	case d.merged != nil:
		if err := d.gatherStudy(c); err != nil {
			return err
		}
		o.TableOnly = true
	case !d.Whole() && o.TableOnly:
		return usageError("--shard and --table: a shard makes cells, and merge the table of all")
	case !d.Whole():
		o.Shard = d.Spec
		o.Made = func(part *study.Part, inputs map[string]string) error {
			return d.leave(c, inputs, part, fmt.Sprintf("%d cells", len(part.Cells)))
		}
	}
	t, err := study.Make(c.Context, o)
	if err != nil || t == nil {
		return goesOn(c, err)
	}
	if c.Bool("json") {
		return writeJSON(c.App.Writer, t)
	}
	return t.Write(c.App.Writer, c.String("metric"))
}

// submitStudy prints what a cluster takes to make a study with a shard in each task.
func submitStudy(c *cli.Context, o study.MakeOptions) error {
	s := shard.Submission{Out: c.String("out"), Tasks: c.Int("tasks"), Threads: c.Int("threads"), GPU: strings.HasPrefix(o.Device, "cuda"), Quoted: quoted}
	switch {
	case !c.IsSet("submit"):
		return usageError("--tasks is about --submit, which is not given")
	case !c.Bool("dry-run"):
		return usageError("--submit %s needs --dry-run: this program prints, and submits nothing; … --submit slurm --dry-run | sbatch", c.String("submit"))
	case c.IsSet("shard") || c.Bool("table"):
		return usageError("--submit goes with neither --shard nor --table: its tasks are the shards")
	case c.IsSet("devices"):
		return usageError("--submit does not go with --devices: each task has one device, and there are as many tasks as you like; --device cuda:0 asks for a GPU")
	case s.GPU && o.Device != "cuda" && o.Device != "cuda:0":
		return usageError("--device %s: a task has one GPU, which is cuda:0 there", o.Device)
	case c.IsSet("tasks") && s.Tasks < 1:
		return usageError("--tasks %d, want 1 or more", s.Tasks)
	}
	models, err := study.Models(o)
	if err != nil {
		return err
	}
	if s.Tasks > models {
		return usageError("--tasks %d, want at most %d: a task makes at least one of the study's models, of which there are as many", s.Tasks, models)
	}
	if s.Tasks == 0 {
		s.Tasks = min(models, 1000)
	}
	if s.Dir, err = os.Getwd(); err != nil {
		return err
	}
	program := "alignedfusion" // a container's
	if c.String("submit") == "slurm" {
		if program, err = os.Executable(); err != nil {
			return err
		}
	}
	s.Command = slices.Concat([]string{program}, commandWords(c), givenArgs(c, "submit", "tasks", "dry-run"))
	text, err := s.For(c.String("submit"))
	if err != nil {
		return err
	}
	_, err = fmt.Fprint(c.App.Writer, text)
	return err
}

// studyOptions are those of the flags that studies share.
func studyOptions(c *cli.Context, task string, grid study.Grid) study.MakeOptions {
	grid.Methods = c.String("methods")
	o := study.MakeOptions{
		Options: study.Options{
			Dir: c.String("out"), Only: c.StringSlice("only"), Again: c.Bool("again"), Threads: c.Int("threads"),
			Program: "alignedfusion", Version: Version, Plugins: pluginOptions(c), Messages: c.App.ErrWriter,
			Identity: study.Identity{Task: task, Data: c.String("data"), Split: c.String("split"), Attributes: listGiven(c, "attributes"),
				Encoder: c.String("encoder"), Head: c.String("head"), Epochs: c.Int("epochs"), Set: c.StringSlice("set"), Device: c.String("device"), Reports: c.String("reports"), Forests: c.Command.Name == "recovery"},
		},
		Grid: grid, Seeds: c.Int("seeds"), Folds: c.String("folds"), Baseline: given[string](c, "baseline"), DefaultBaseline: c.String("baseline"),
		Replicates: c.Int("bootstrap"), TableOnly: c.Bool("table"),
	}
	if c.Bool("dry-run") {
		o.DryRun = c.App.Writer
	}
	return o
}
