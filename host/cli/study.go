package cli

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/alignedfusion/alignedfusion/eval/resample"
	"github.com/alignedfusion/alignedfusion/host/config"
	"github.com/alignedfusion/alignedfusion/host/study"
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
				Action: func(c *cli.Context) error { return runStudy(c, config.Classify, missingBlocks) },
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
				Action: func(c *cli.Context) error { return runStudy(c, config.Classify, ablationBlocks) },
			},
			{
				Name:  "detection",
				Usage: "sensitivity over the share of the training patients, by fusion (Table 3)",
				Description: `The patients of a small share are among those of every larger one.

  alignedfusion study detection --data deeplesion:DIR --out studies/detection --split test`,
				Flags: append([]cli.Flag{
					&cli.StringFlag{Name: "fractions", Value: "0.25,0.5,1", Usage: "`LIST` of shares of the training patients"},
					&cli.StringFlag{Name: "methods", Value: "none,itfusion,sum,selfattn", Usage: "`LIST`, as of study missing"},
				}, studyFlags(config.Detect, "none")...),
				Action: func(c *cli.Context) error { return runStudy(c, config.Detect, detectionBlocks) },
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
	return append([]cli.Flag{
		&cli.StringFlag{Name: "data", Usage: "data `SPEC`", Required: true},
		&cli.StringFlag{Name: "out", Usage: "the study's `DIR`ectory", Required: true},
		&cli.StringFlag{Name: "split", Value: "val", Usage: "split to predict and compare on; val also chooses the checkpoints"},
		&cli.IntFlag{Name: "seeds", Value: seeds, Usage: "seeds 1 to `N`, each with masks of its own"},
		&cli.StringFlag{Name: "baseline", Value: baseline, Usage: "`METHOD` that the others are tested against; empty: no tests"},
		&cli.StringFlag{Name: "encoder", Usage: "`PLUGIN` of the images"},
		&cli.StringFlag{Name: "head", Usage: "`PLUGIN`"},
		&cli.StringFlag{Name: "attributes", Usage: "comma-separated `LIST` of attribute columns or sets of them (default: the data's)"},
		&cli.IntFlag{Name: "epochs", Usage: "times through the training split"},
		&cli.StringSliceFlag{Name: "set", Usage: "`[METHOD/]GROUP.KEY=VALUE`, repeatable; METHOD may be a pattern: itfusion*/fusion.layers=3"},
		&cli.StringSliceFlag{Name: "only", Usage: "make only this `CELL` (or pattern), repeatable"},
		&cli.BoolFlag{Name: "again", Usage: "make finished cells anew, their models included"},
		&cli.BoolFlag{Name: "dry-run", Usage: "print the cells and what they will cost, and stop"},
		&cli.BoolFlag{Name: "table", Usage: "make no cell: the table of those that are finished"},
		&cli.StringFlag{Name: "metric", Usage: "print this `METRIC` (default: balanced_accuracy, mean_sensitivity)"},
		&cli.IntFlag{Name: "bootstrap", Value: 1000, Usage: "bootstrap replicates and permutations `N`"},
		&cli.BoolFlag{Name: "json", Usage: "write the table to stdout as JSON"},
	}, pluginFlags()...)
}

// list splits at commas.
func list(text string) []string {
	var out []string
	for s := range strings.SplitSeq(text, ",") {
		if s = strings.TrimSpace(s); s != "" {
			out = append(out, s)
		}
	}
	return out
}

func shares(c *cli.Context, flag string, low float64) ([]float64, error) {
	var out []float64
	for _, text := range list(c.String(flag)) {
		v, err := strconv.ParseFloat(text, 64)
		if err != nil || !(v >= low && v <= 1) {
			return nil, usageError("--%s: %q, want numbers from %g to 1", flag, text, low)
		}
		if slices.Contains(out, v) {
			return nil, usageError("--%s: %q stands twice", flag, text)
		}
		out = append(out, v)
	}
	return out, nil
}

func parseMethods(names []string) ([]study.Method, error) {
	var out []study.Method
	seen := map[string]bool{}
	for _, name := range names {
		m, err := study.ParseMethod(name)
		if err != nil {
			return nil, usageError("--methods: %w", err)
		}
		if seen[m.Name] {
			return nil, usageError("--methods: %q stands twice", m.Name)
		}
		seen[m.Name] = true
		out = append(out, m)
	}
	return out, nil
}

func missingBlocks(c *cli.Context) ([]study.Block, error) {
	methods, err := parseMethods(list(c.String("methods")))
	if err != nil {
		return nil, err
	}
	var scenarios []study.Scenario
	for _, text := range list(c.String("scenarios")) {
		s, err := study.ParseScenario(text)
		if err != nil {
			return nil, usageError("--scenarios: %w", err)
		}
		scenarios = append(scenarios, s)
	}
	rates, err := shares(c, "rates", 0)
	if err != nil {
		return nil, err
	}
	return []study.Block{{Points: study.Points(scenarios, rates, []float64{1}), Methods: methods}}, nil
}

func ablationBlocks(c *cli.Context) ([]study.Block, error) {
	blocks, err := missingBlocks(c)
	if err != nil {
		return nil, err
	}
	masks, err := shares(c, "mask-probabilities", 0)
	if err != nil || len(masks) == 0 {
		return blocks, err
	}
	var names []string
	for _, p := range masks {
		names = append(names, fmt.Sprintf("itfusion-p%g", p))
	}
	methods, err := parseMethods(names)
	if err != nil {
		return nil, err
	}
	rates, err := shares(c, "mask-rates", 0)
	if err != nil {
		return nil, err
	}
	complete, err := study.ParseScenario("M-Tr+C-Te")
	if err != nil {
		return nil, err
	}
	return append(blocks, study.Block{Points: study.Points([]study.Scenario{complete}, rates, []float64{1}), Methods: methods}), nil
}

func detectionBlocks(c *cli.Context) ([]study.Block, error) {
	methods, err := parseMethods(list(c.String("methods")))
	if err != nil {
		return nil, err
	}
	fractions, err := shares(c, "fractions", 0.001)
	if err != nil {
		return nil, err
	}
	complete, err := study.ParseScenario("C-Tr+C-Te")
	if err != nil {
		return nil, err
	}
	return []study.Block{{Points: study.Points([]study.Scenario{complete}, []float64{0}, fractions), Methods: methods}}, nil
}

func runStudy(c *cli.Context, task string, blocks func(*cli.Context) ([]study.Block, error)) error {
	if err := noArguments(c); err != nil {
		return err
	}
	if c.Int("seeds") < 1 {
		return usageError("--seeds is %d, want 1 or more", c.Int("seeds"))
	}
	o := study.Options{
		Dir: c.String("out"), Only: c.StringSlice("only"), Again: c.Bool("again"), Threads: c.Int("threads"),
		Program: "alignedfusion", Version: Version, Plugins: pluginOptions(c), Messages: c.App.ErrWriter,
		Identity: study.Identity{Task: task, Data: c.String("data"), Split: c.String("split"), Encoder: c.String("encoder"), Head: c.String("head"),
			Epochs: c.Int("epochs"), Set: c.StringSlice("set"), Device: c.String("device")},
	}
	if c.IsSet("attributes") {
		attributes := append([]string{}, list(c.String("attributes"))...)
		o.Attributes = &attributes
	}
	var err error
	if o.Plan.Blocks, err = blocks(c); err != nil {
		return err
	}
	for seed := range c.Int("seeds") {
		o.Plan.Seeds = append(o.Plan.Seeds, uint64(seed+1))
	}
	baseline := c.String("baseline")
	if baseline != "" && !slices.ContainsFunc(o.Plan.Blocks, func(b study.Block) bool {
		return slices.ContainsFunc(b.Methods, func(m study.Method) bool { return m.Name == baseline })
	}) {
		if c.IsSet("baseline") {
			return usageError("--baseline %q is none of the methods", baseline)
		}
		baseline = ""
	}
	s, err := study.Open(o)
	if err != nil {
		return err
	}
	if !c.Bool("table") {
		if err := studyCosts(c, s); err != nil {
			return err
		}
		if c.Bool("dry-run") {
			return nil
		}
		if err := s.Run(c.Context); err != nil {
			return err
		}
	}
	t, err := s.Table(study.TableOptions{Baseline: baseline, Resample: resample.Options{Replicates: c.Int("bootstrap")}})
	if err != nil {
		return err
	}
	if len(t.Rows) == 0 {
		return usageError("%s has no finished cells of this study", o.Dir)
	}
	if err := s.Save(t); err != nil {
		return err
	}
	if n := len(t.Missing); n > 0 {
		fmt.Fprintf(c.App.ErrWriter, "%d cells are not made yet; the first is %s\n", n, t.Missing[0])
	}
	if c.Bool("json") {
		return writeJSON(c.App.Writer, t)
	}
	return t.Write(c.App.Writer, c.String("metric"))
}

// studyCosts prints what is still to be done and how long it will take; with --dry-run
// also the cells.
func studyCosts(c *cli.Context, s *study.Study) error {
	pending, err := s.Pending()
	if err != nil {
		return err
	}
	out := c.App.ErrWriter
	if c.Bool("dry-run") {
		out = c.App.Writer
		for _, cell := range pending {
			fmt.Fprintln(out, cell.Name())
		}
	}
	if len(pending) == 0 {
		fmt.Fprintln(out, "study: every cell is finished")
		return nil
	}
	costs, err := s.Estimate(c.Context)
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "method\tmodels\tcells\ttraining\tprediction\twhole\tbasis")
	var total float64
	for _, cost := range costs {
		fmt.Fprintf(w, "%s\t%d\t%d\t%s\t%s\t%s\t%s\n", cost.Method, cost.Models, cost.Cells,
			seconds(cost.TrainSec), seconds(cost.PredictSec), seconds(cost.TotalSec()), cost.Basis)
		total += cost.TotalSec()
	}
	fmt.Fprintf(w, "all\t\t%d\t\t\t%s\t\n", len(pending), seconds(total))
	return w.Flush()
}

func seconds(sec float64) string {
	return time.Duration(sec * float64(time.Second)).Round(time.Second).String()
}
