package cli

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"github.com/alignedfusion/alignedfusion/eval/classify"
	"github.com/alignedfusion/alignedfusion/eval/froc"
	"github.com/alignedfusion/alignedfusion/eval/froc/frocio"
	"github.com/alignedfusion/alignedfusion/eval/resample"
	"github.com/alignedfusion/alignedfusion/host/config"
	"github.com/alignedfusion/alignedfusion/host/runs"
	"github.com/alignedfusion/alignedfusion/host/workflow"
	"github.com/alignedfusion/alignedfusion/host/workflow/predictions"
	"github.com/alignedfusion/alignedfusion/internal/problem"
	"github.com/alignedfusion/alignedfusion/internal/table"
	"github.com/alignedfusion/alignedfusion/sdk"
)

func compareCommand() *cli.Command {
	return &cli.Command{
		Name:      "compare",
		Usage:     "compare runs: operating points side by side, confidence intervals, paired p-values",
		ArgsUsage: "[NAME=]RUN...",
		Description: `Every further run is compared with the first on the same cases; whole patients are resampled and
exchanged. A run's predictions are those that ` + "`alignedfusion predict`" + ` (or training, for the validation
split) left in it. A detector's predictions file can stand in the place of a run.

  alignedfusion compare --split test --plot froc.svg runs/none runs/itfusion
  alignedfusion compare --ground-truth truth.csv --images images.csv a=a.csv b=b.csv`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "split", Usage: "split to compare on (default: test where all runs have it, else val)"},
			&cli.StringFlag{Name: "ground-truth", Usage: "`FILE` with the lesions, when only files are compared"},
			&cli.StringFlag{Name: "images", Usage: "`FILE` that lists every image, when only files are compared"},
			&cli.StringFlag{Name: "protocol", Usage: "FROC protocol (default: the first run's)"},
			&cli.StringFlag{Name: "fppi", Usage: "`LIST` of false positives per image (default: the first run's)"},
			&cli.IntFlag{Name: "bootstrap", Value: 1000, Usage: "bootstrap replicates and permutations `N`"},
			&cli.Uint64Flag{Name: "seed", Usage: "of the random numbers"},
			&cli.BoolFlag{Name: "all-pairs", Usage: "compare every pair of systems"},
			&cli.StringFlag{Name: "plot", Usage: "draw the FROC curves into `FILE`.svg, .png or .pdf"},
			&cli.BoolFlag{Name: "json", Usage: "write JSON to stdout"},
		},
		Action: func(c *cli.Context) error {
			if c.NArg() == 0 {
				return usageError("compare needs runs; see `alignedfusion compare --help`")
			}
			return compareRuns(c, comparison{
				Split: c.String("split"), GroundTruth: c.String("ground-truth"), Images: c.String("images"),
				Protocol: c.String("protocol"), FPPI: c.String("fppi"), Bootstrap: c.Int("bootstrap"), Seed: c.Uint64("seed"),
				AllPairs: c.Bool("all-pairs"), Plot: c.String("plot"), JSON: c.Bool("json"),
			}, parseSystems(c.Args().Slice()))
		},
	}
}

// comparison is what is compared, and how.
type comparison struct {
	Split, GroundTruth, Images string
	Protocol, FPPI             string
	// Bootstrap 0 means 1000.
	Bootstrap int
	Seed      uint64
	AllPairs  bool
	Plot      string
	JSON      bool
}

// system is a run directory or a file of predictions.
type system struct{ name, path string }

func (s system) isRun() bool { return runs.IsRun(s.path) }

func runName(dir string) string {
	if abs, err := filepath.Abs(dir); err == nil {
		dir = abs
	}
	return filepath.Base(dir)
}

// parseSystems splits NAME=PATH; without a name the folder's or file's own is taken.
func parseSystems(args []string) []system {
	var out []system
	for _, arg := range args {
		s := system{path: arg}
		if name, path, named := strings.Cut(arg, "="); named {
			if _, err := os.Stat(arg); err != nil {
				s.name, s.path = name, path
			}
		}
		if s.name == "" {
			s.name = strings.TrimSuffix(runName(s.path), ".csv")
		}
		out = append(out, s)
	}
	return out
}

func compareRuns(c *cli.Context, o comparison, systems []system) error {
	names := map[string]bool{}
	var cfg *config.Config
	for _, s := range systems {
		if names[s.name] {
			return usageError("two systems are called %q; name them as NAME=RUN", s.name)
		}
		names[s.name] = true
		if !s.isRun() {
			if info, err := os.Stat(s.path); err != nil {
				return usageError("%w", err)
			} else if info.IsDir() {
				return usageError("%s: %w", s.path, runs.ErrNotARun)
			}
			continue
		}
		r, err := workflow.ReadRun(s.path)
		if err != nil {
			return dataError(err)
		}
		if cfg == nil {
			cfg = r.Config
		} else if cfg.Task != r.Config.Task {
			return usageError("%s is a run of the task %s, the others of %s", s.path, r.Config.Task, cfg.Task)
		}
	}
	if o.Split == "" {
		o.Split = commonSplit(systems)
	}
	if cfg != nil && cfg.Task == config.Classify {
		return compareClassifiers(c, o, systems)
	}
	return compareDetectors(c, o, systems, cfg)
}

// commonSplit is test where all runs have it, else the first that they share.
func commonSplit(systems []system) string {
	var shared []string
	first := true
	for _, s := range systems {
		if !s.isRun() {
			continue
		}
		splits := predictions.Splits(s.path)
		if first {
			shared, first = splits, false
		}
		shared = slices.DeleteFunc(slices.Clone(shared), func(split string) bool { return !slices.Contains(splits, split) })
	}
	for _, split := range []string{"test", "val"} {
		if slices.Contains(shared, split) {
			return split
		}
	}
	if len(shared) > 0 {
		return shared[0]
	}
	return "test"
}

// truthDir is the folder with what is true of the split; all runs must agree on it.
func truthDir(systems []system, split string) (string, error) {
	var dir string
	for _, s := range systems {
		if !s.isRun() {
			continue
		}
		mine := predictions.Dir(s.path, split)
		if _, err := os.Stat(filepath.Join(mine, predictions.File)); err != nil {
			return "", usageError("%s has no predictions of split %q (it has %s); make them with `alignedfusion predict --run %s --split %s --out FILE`",
				s.path, split, strings.Join(append(predictions.Splits(s.path), "none else"), ", "), s.path, split)
		}
		if dir == "" {
			dir = mine
			continue
		}
		for _, name := range []string{predictions.TruthFile, predictions.ImagesFile} {
			a, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				return "", dataError(err)
			}
			b, err := os.ReadFile(filepath.Join(mine, name))
			if err != nil {
				return "", dataError(err)
			}
			if !bytes.Equal(a, b) {
				return "", dataError(fmt.Errorf("%s and %s differ: the runs were predicted on different data", filepath.Join(dir, name), filepath.Join(mine, name)))
			}
		}
	}
	return dir, nil
}

func (o comparison) options() resample.Options {
	return resample.Options{Replicates: o.Bootstrap, Seed: o.Seed}
}

func compareDetectors(c *cli.Context, o comparison, systems []system, cfg *config.Config) error {
	protocol, err := o.protocol(cfg)
	if err != nil {
		return err
	}
	source := frocio.Source{GroundTruth: o.GroundTruth, Images: o.Images}
	if cfg != nil {
		dir, err := truthDir(systems, o.Split)
		if err != nil {
			return err
		}
		source = frocio.Source{GroundTruth: filepath.Join(dir, predictions.TruthFile), Images: filepath.Join(dir, predictions.ImagesFile)}
	} else if o.GroundTruth == "" {
		return usageError("compare of files needs --ground-truth (and --images for images without lesions)")
	}
	truth, err := frocio.ReadTruth(source, frocio.Options{})
	if err != nil {
		return dataError(err)
	}
	var results []frocSystem
	for _, s := range systems {
		path := s.path
		if s.isRun() {
			path = filepath.Join(predictions.Dir(s.path, o.Split), predictions.File)
		}
		predictions, err := truth.ReadPredictions(path)
		if err != nil {
			return dataError(err)
		}
		r, err := froc.Evaluate(truth.Truth, predictions.Marks, protocol)
		if err != nil {
			return dataError(fmt.Errorf("%s: %w", path, err))
		}
		results = append(results, frocSystem{name: s.name, path: path, result: r})
	}
	return reportDetectors(c, o, results)
}

func (o comparison) protocol(cfg *config.Config) (froc.Protocol, error) {
	name, points := o.Protocol, o.FPPI
	var own []float64
	if cfg != nil {
		if name == "" {
			name = string(cfg.DataSettings.Protocol)
		}
		if points == "" && o.Protocol == "" {
			own = cfg.DataSettings.FPPI
		}
	}
	if name == "" {
		name = "deeplesion"
	}
	p, err := froc.ProtocolByName(name)
	if err != nil {
		return p, usageError("--protocol: %w", err)
	}
	if points != "" {
		if own, err = parseNumbers(points); err != nil {
			return p, usageError("--fppi: %w", err)
		}
	}
	if len(own) > 0 {
		p.FPPI = own
	}
	if err := p.Check(); err != nil {
		return p, usageError("%w", err)
	}
	return p, nil
}

// reportDetectors prints one row per system: sensitivities, mean with interval, and
// the difference to the first system with interval and p-value.
func reportDetectors(c *cli.Context, o comparison, systems []frocSystem) error {
	options, err := o.options().Resolved()
	if err != nil {
		return usageError("%w", err)
	}
	protocol := systems[0].result.Protocol
	report := frocio.Report{SchemaVersion: frocio.SchemaVersion, Protocol: frocio.NewProtocol(protocol), Notes: []string{},
		Bootstrap: frocio.NewResampling(systems[0].result, options)}
	withBootstrap := true
	for i := range systems {
		s := &systems[i]
		s.bootstrap, err = s.result.Bootstrap(options)
		if errors.Is(err, froc.ErrTooFewReplicates) {
			withBootstrap, err = false, nil
			report.Notes = append(report.Notes, s.name+": too few patients with lesions for confidence intervals")
		}
		if err != nil {
			return err
		}
		s.report = frocio.NewSystem(s.name, s.result, s.bootstrap)
		report.Systems = append(report.Systems, s.report)
	}
	if len(systems) > 1 && withBootstrap {
		if report.Comparison, err = compareSystems(systems, options, o.AllPairs); err != nil {
			return dataError(err)
		}
	}
	if o.Plot != "" {
		if err := plotFROC(o.Plot, systems, options, withBootstrap); err != nil {
			return err
		}
	}
	if o.JSON {
		return frocio.WriteJSON(c.App.Writer, &report)
	}
	for _, note := range report.Notes {
		fmt.Fprintf(c.App.ErrWriter, "note: %s\n", note)
	}
	return writeDetectorTable(c, o, systems, &report)
}

func writeDetectorTable(c *cli.Context, o comparison, systems []frocSystem, report *frocio.Report) error {
	n := systems[0].report.Counts
	where := ""
	if o.Split != "" {
		where = fmt.Sprintf("split %s: ", o.Split)
	}
	fmt.Fprintf(c.App.Writer, "%s%d images, %d patients, %d lesions; protocol %s; sensitivity at false positives per image\n",
		where, n.Images, n.Patients, n.Lesions, systems[0].result.Protocol.Name)
	w := tabwriter.NewWriter(c.App.Writer, 0, 0, 2, ' ', 0)
	fmt.Fprint(w, "system")
	for _, p := range systems[0].report.OperatingPoints {
		fmt.Fprintf(w, "\t%g", p.FPPI)
	}
	fmt.Fprint(w, "\tmean\t95% CI")
	if len(report.Comparison) > 0 && !o.AllPairs {
		fmt.Fprintf(w, "\tdifference to %s\t95%% CI\tp", systems[0].name)
	}
	fmt.Fprintln(w)
	for i, s := range systems {
		fmt.Fprint(w, s.name)
		for _, p := range s.report.OperatingPoints {
			fmt.Fprintf(w, "\t%.3f", float64(p.Sensitivity))
		}
		fmt.Fprintf(w, "\t%.3f\t%s", float64(s.report.MeanSensitivity), shortRange(s.report.MeanCI))
		if i > 0 && len(report.Comparison) > 0 && !o.AllPairs {
			d := report.Comparison[i-1].Mean
			fmt.Fprintf(w, "\t%+.3f\t%s\t%.3f", float64(d.Value), shortRange(d.CI), float64(d.PermutationP))
		}
		fmt.Fprintln(w)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if o.AllPairs {
		return writeComparisonText(c.App.Writer, report)
	}
	return nil
}

func shortRange(r frocio.Range) string {
	if r == nil {
		return "-"
	}
	return fmt.Sprintf("%.3f to %.3f", float64(r[0]), float64(r[1]))
}

// classified are a run's classifications of one task.
type classified struct {
	name     string
	result   *classify.Result
	patients []string
}

// readClassified reads predictions.csv against truth.csv and images.csv. Cases
// without a label are left out.
func readClassified(name, path, truthDir, suffix string) (*classified, error) {
	truth, err := table.Read(filepath.Join(truthDir, predictions.TruthFile))
	if err != nil {
		return nil, err
	}
	images, err := table.Read(filepath.Join(truthDir, predictions.ImagesFile))
	if err != nil {
		return nil, err
	}
	given, err := table.Read(path)
	if err != nil {
		return nil, err
	}
	patientOf := map[string]string{}
	for _, r := range images.Rows {
		patientOf[images.Get(r, "image")] = images.Get(r, "patient")
	}
	rowOf := map[string]table.Row{}
	for _, r := range given.Rows {
		rowOf[given.Get(r, "id")] = r
	}
	prefix := "p" + suffix + "_"
	var classes []string
	for _, column := range given.Columns {
		if class, ok := strings.CutPrefix(column, prefix); ok {
			classes = append(classes, class)
		}
	}
	out := &classified{name: name}
	var labels []int
	var probabilities [][]float64
	for _, r := range truth.Rows {
		id, label := truth.Get(r, "id"), truth.Get(r, "label"+suffix)
		if label == "" {
			continue
		}
		k := slices.Index(classes, label)
		at, ok := rowOf[id]
		if k < 0 || !ok {
			return nil, fmt.Errorf("%s: case %q with label %q is not among the predictions of classes %s", path, id, label, strings.Join(classes, ", "))
		}
		var p []float64
		var sum float64
		for _, class := range classes {
			v, err := table.Number(given.Get(at, prefix+class))
			if err != nil || !(v >= 0 && v <= 1.001) {
				return nil, problem.At(path, at.Line, prefix+class, "%q, want a probability", given.Get(at, prefix+class))
			}
			p, sum = append(p, v), sum+v
		}
		for j := range p {
			p[j] /= sum // the file's digits do not quite add up to 1
		}
		labels, probabilities, out.patients = append(labels, k), append(probabilities, p), append(out.patients, patientOf[id])
	}
	if out.result, err = classify.Evaluate(labels, probabilities, classes); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return out, nil
}

func compareClassifiers(c *cli.Context, o comparison, systems []system) error {
	dir, err := truthDir(systems, o.Split)
	if err != nil {
		return err
	}
	truth, err := table.Read(filepath.Join(dir, predictions.TruthFile))
	if err != nil {
		return dataError(err)
	}
	for _, column := range truth.Columns[1:] {
		suffix := strings.TrimPrefix(column, "label")
		var all []classified
		for _, s := range systems {
			path := s.path
			if s.isRun() {
				path = filepath.Join(predictions.Dir(s.path, o.Split), predictions.File)
			}
			one, err := readClassified(s.name, path, dir, suffix)
			if err != nil {
				return dataError(err)
			}
			all = append(all, *one)
		}
		if err := reportClassifiers(c, o, strings.TrimPrefix(suffix, "."), all); err != nil {
			return err
		}
	}
	return nil
}

// metricJSON is a figure with its interval.
type metricJSON struct {
	Value frocio.Number    `json:"value"`
	CI    [2]frocio.Number `json:"ci"`
}

type classifierJSON struct {
	Name             string                `json:"name"`
	Cases            int                   `json:"cases"`
	Accuracy         metricJSON            `json:"accuracy"`
	BalancedAccuracy metricJSON            `json:"balanced_accuracy"`
	MacroAUROC       metricJSON            `json:"macro_auroc"`
	ECE              metricJSON            `json:"ece"`
	Recall           map[string]metricJSON `json:"recall"`
}

type classifierPairJSON struct {
	A                string        `json:"a"`
	B                string        `json:"b"`
	BalancedAccuracy metricJSON    `json:"balanced_accuracy"`
	PermutationP     frocio.Number `json:"p_permutation"`
	HolmPermutationP frocio.Number `json:"p_permutation_holm"`
	Accuracy         metricJSON    `json:"accuracy"`
	MacroAUROC       metricJSON    `json:"macro_auroc"`
}

func metric(v float64, ci resample.Interval) metricJSON {
	return metricJSON{frocio.Number(v), [2]frocio.Number{frocio.Number(ci.Low), frocio.Number(ci.High)}}
}

// reportClassifiers prints one row per system, with the difference in balanced accuracy
// to the first.
func reportClassifiers(c *cli.Context, o comparison, task string, systems []classified) error {
	options, err := o.options().Resolved()
	if err != nil {
		return usageError("%w", err)
	}
	var named []classify.Named
	report := struct {
		SchemaVersion int                  `json:"schema_version"`
		Task          string               `json:"task,omitempty"`
		Split         string               `json:"split"`
		Classes       []string             `json:"classes"`
		Systems       []classifierJSON     `json:"systems"`
		Comparison    []classifierPairJSON `json:"comparison,omitempty"`
	}{SchemaVersion: 1, Task: task, Split: o.Split, Classes: systems[0].result.Classes}
	for _, s := range systems {
		named = append(named, classify.Named{Name: s.name, Result: s.result})
		ci, err := s.result.Bootstrap(s.patients, options)
		if err != nil {
			return dataError(err)
		}
		m := s.result.Metrics
		one := classifierJSON{Name: s.name, Cases: s.result.Cases, Accuracy: metric(m.Accuracy, ci.Accuracy),
			BalancedAccuracy: metric(m.BalancedAccuracy, ci.BalancedAccuracy), MacroAUROC: metric(m.MacroAUROC, ci.MacroAUROC),
			ECE: metric(m.ECE, ci.ECE), Recall: map[string]metricJSON{}}
		for k, class := range s.result.Classes {
			one.Recall[class] = metric(m.Recall[k], ci.Recall[k])
		}
		report.Systems = append(report.Systems, one)
	}
	if len(systems) > 1 {
		pairs, err := classify.Compare(named, systems[0].patients, options)
		if err != nil {
			return dataError(err)
		}
		for _, p := range pairs {
			report.Comparison = append(report.Comparison, classifierPairJSON{A: p.A, B: p.B,
				BalancedAccuracy: metric(p.BalancedAccuracy.Value, p.BalancedAccuracy.CI), PermutationP: frocio.Number(p.BalancedAccuracy.PermutationP),
				HolmPermutationP: frocio.Number(p.HolmPermutationP),
				Accuracy:         metric(p.Accuracy.Value, p.Accuracy.CI), MacroAUROC: metric(p.MacroAUROC.Value, p.MacroAUROC.CI)})
		}
	}
	if o.JSON {
		return writeJSON(c.App.Writer, report)
	}
	title := fmt.Sprintf("split %s: %d cases, %d classes", o.Split, systems[0].result.Cases, len(systems[0].result.Classes))
	if task != "" {
		title = task + ": " + title
	}
	fmt.Fprintln(c.App.Writer, title)
	w := tabwriter.NewWriter(c.App.Writer, 0, 0, 2, ' ', 0)
	fmt.Fprint(w, "system\taccuracy\tbalanced accuracy\t95% CI\tmacro AUROC\tECE")
	if len(systems) > 1 {
		fmt.Fprintf(w, "\tdifference to %s\t95%% CI\tp", systems[0].name)
	}
	fmt.Fprintln(w)
	for i, s := range report.Systems {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s", s.Name, three(s.Accuracy.Value), three(s.BalancedAccuracy.Value), s.BalancedAccuracy.interval(),
			three(s.MacroAUROC.Value), three(s.ECE.Value))
		if i > 0 {
			p := report.Comparison[i-1]
			fmt.Fprintf(w, "\t%+.3f\t%s\t%.3f", float64(p.BalancedAccuracy.Value), p.BalancedAccuracy.interval(), float64(p.PermutationP))
		}
		fmt.Fprintln(w)
	}
	return w.Flush()
}

func (m metricJSON) interval() string {
	return fmt.Sprintf("%s to %s", three(m.CI[0]), three(m.CI[1]))
}

func three(n frocio.Number) string {
	if math.IsNaN(float64(n)) {
		return "-"
	}
	return fmt.Sprintf("%.3f", float64(n))
}

// evaluatePredictions prints the metrics of what predict made.
func evaluatePredictions(c *cli.Context, r *workflow.PredictResult) error {
	o := comparison{Split: r.Split, JSON: c.Bool("json")}
	if r.Config.Task == config.Detect {
		p, err := predictions.Protocol(r.Config)
		if err != nil {
			return err
		}
		result, err := predictions.EvaluateBoxes(r.Cases, r.Predictions, p)
		if errors.Is(err, froc.ErrNoLesions) {
			fmt.Fprintln(c.App.ErrWriter, "the split has no lesions: sensitivity is undefined")
			return nil
		}
		if err != nil {
			return err
		}
		return reportDetectors(c, o, []frocSystem{{name: runName(r.Run), result: result}})
	}
	results, err := predictions.EvaluateClasses(r.Cases, r.Predictions, r.Labels)
	if err != nil {
		return err
	}
	for i, result := range results {
		one := classified{name: runName(r.Run), result: result}
		for k := range r.Cases {
			if l, ok := r.Cases[k].Labels[r.Labels[i].Name]; ok && l >= 0 {
				one.patients = append(one.patients, r.Cases[k].Patient)
			}
		}
		if err := reportClassifiers(c, o, taskTitle(r.Labels, i), []classified{one}); err != nil {
			return err
		}
	}
	return nil
}

func taskTitle(sets []sdk.LabelSet, i int) string {
	if len(sets) == 1 {
		return ""
	}
	return sets[i].Name
}
