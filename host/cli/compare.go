package cli

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"github.com/alignedfusion/alignedfusion/eval/froc"
	"github.com/alignedfusion/alignedfusion/eval/froc/frocio"
	"github.com/alignedfusion/alignedfusion/eval/froc/frocreport"
	"github.com/alignedfusion/alignedfusion/host/workflow"
	"github.com/alignedfusion/alignedfusion/host/workflow/predictions"
)

func compareCommand() *cli.Command {
	return &cli.Command{
		Name:      "compare",
		Usage:     "compare runs: operating points side by side, confidence intervals, paired p-values",
		ArgsUsage: "[NAME=]RUN...",
		Description: `Every further run is compared with the first on the same cases; whole patients are resampled and
exchanged. A run's predictions are those that ` + "`alignedfusion predict`" + ` (or training, for the validation
split) left in it. A detector's predictions file can stand in the place of a run. Runs of one NAME are
the folds of a cross-validation: what each predicts for its own validation split is evaluated together.

  alignedfusion compare --split test --plot froc.svg runs/none runs/itfusion
  alignedfusion compare --ground-truth truth.csv --images images.csv a=a.csv b=b.csv
  alignedfusion compare none=runs/none0 none=runs/none1 itf=runs/itf0 itf=runs/itf1`,
		Flags: append([]cli.Flag{
			&cli.StringFlag{Name: "split", Usage: "split to compare on (default: test where all runs have it, else val)"},
			&cli.StringFlag{Name: "protocol", Usage: "FROC protocol (default: the first run's)"},
			&cli.StringFlag{Name: "per", Value: "image", Usage: "`WHAT` counts: image (slices, or cases, by themselves), volume (findings merged across the slices of volumes:);\nof classifiers slide or patient (the mean of the answers to its cases)"},
			&cli.BoolFlag{Name: "vote", Usage: "with --per slide or patient: each case counts for its most probable class alone"},
			&cli.StringSliceFlag{Name: "metric", Usage: "`NAME` of a further figure of classifiers, such as ap:CLASS; repeatable; alignedfusion help figures lists them"},
			&cli.BoolFlag{Name: "allow-changed", Usage: "compare runs that were predicted, or went on, with other plugins than they began with"},
		}, frocFlags()...),
		Action: runCompare,
	}
}

func runCompare(c *cli.Context) error {
	if c.NArg() == 0 {
		return usageError("compare needs runs; see `alignedfusion compare --help`")
	}
	settings, err := frocSettings(c)
	if err != nil {
		return err
	}
	gates, err := parseGates(c)
	if err != nil {
		return err
	}
	if err := checkFROCFiles(c); err != nil {
		return err
	}
	o := workflow.CompareOptions{
		Systems: parseSystems(c.Args().Slice()), Split: c.String("split"), Protocol: c.String("protocol"), FROC: settings,
		Rules:     func(p froc.Protocol) (froc.Protocol, error) { return overrideRules(c, p) },
		FPPIGiven: c.IsSet("fppi"),
		Resample:  settings.Resample, NoIntervals: settings.Resample.Replicates == 0, AllPairs: settings.AllPairs,
		AllowChanged: c.Bool("allow-changed"), PerVolume: c.String("per") == "volume", Figures: c.StringSlice("metric"),
	}
	switch per := c.String("per"); per {
	case "image", "volume":
		if c.Bool("vote") {
			return usageError("--vote goes with --per slide or --per patient: there cases vote")
		}
	case predictions.PerSlide, predictions.PerPatient:
		o.Per, o.Vote = per, c.Bool("vote")
	default:
		return usageError("--per %s: want image, volume, slide or patient", per)
	}
	for _, f := range frocFlags() {
		if name := f.Names()[0]; c.IsSet(name) && !slices.Contains(forClassifiersToo, name) {
			o.DetectorFlags = append(o.DetectorFlags, "--"+name)
		}
	}
	found, err := workflow.Compare(c.Context, o)
	if err != nil {
		return err
	}
	if found.Detection != nil && len(o.Figures) > 0 {
		return usageError("--metric: of classifiers, but %s is a detector; its figures are all printed", o.Systems[0].Name)
	}
	if found.Detection == nil {
		return writeComparison(c, found, o.AllPairs)
	}
	if err := writeFROCFiles(c, found.Detection.Full); err != nil {
		return err
	}
	if err := writeComparison(c, found, o.AllPairs); err != nil {
		return err
	}
	return gateError(found.Detection.Full.Check(gates))
}

// forClassifiersToo are the flags of compare that are not of detectors alone.
var forClassifiersToo = []string{"bootstrap", "permutations", "seed", "level", "ci", "all-pairs", "json"}

// parseSystems splits NAME=PATH; without a name the folder's or file's own is taken. The
// paths of one NAME are the folds of a system.
func parseSystems(args []string) []workflow.System {
	var out []workflow.System
	for _, arg := range args {
		var s workflow.System
		s.Name, s.Path = splitName(arg)
		if i := slices.IndexFunc(out, func(o workflow.System) bool { return o.Name == s.Name }); i >= 0 && s.Name != "" {
			out[i].Folds = append(out[i].Folds, s.Path)
			continue
		}
		if s.Name == "" {
			s.Name = strings.TrimSuffix(workflow.RunName(s.Path), ".csv")
		}
		out = append(out, s)
	}
	return out
}

// splitName splits NAME=PATH; a path that exists as it stands has no name.
func splitName(arg string) (name, path string) {
	if name, path, named := strings.Cut(arg, "="); named {
		if _, err := os.Stat(arg); err != nil {
			return name, path
		}
	}
	return "", arg
}

// compareRuns compares systems and prints the result.
func compareRuns(c *cli.Context, o workflow.CompareOptions) error {
	found, err := workflow.Compare(c.Context, o)
	if err != nil {
		return err
	}
	return writeComparison(c, found, o.AllPairs)
}

// writeComparison prints a comparison as text, the warnings below its tables, or as JSON.
func writeComparison(c *cli.Context, found *workflow.Comparison, allPairs bool) error {
	if d := found.Detection; d != nil {
		own := d.Report.Warnings
		d.Report.Warnings = append(slices.Clone(own), found.Warnings...)
		if c.Bool("json") {
			return frocio.WriteJSON(c.App.Writer, struct {
				*frocio.Report
				Figures []workflow.FigureRow `json:"figures,omitempty"`
			}{&d.Report, found.Own})
		}
		for _, note := range d.Report.Notes {
			fmt.Fprintf(c.App.ErrWriter, "note: %s\n", note)
		}
		for _, w := range own {
			fmt.Fprintf(c.App.ErrWriter, "warning: %s\n", w)
		}
		if err := writeDetectorTable(c.App.Writer, found.Split, &d.Report, allPairs); err != nil {
			return err
		}
		if err := d.Full.WriteParts(c.App.Writer); err != nil {
			return err
		}
	}
	for i, one := range found.Classification {
		one.Warnings = found.Warnings
		if c.Bool("json") && i == 0 {
			one.Figures = append(one.Figures, found.Own...)
		}
		write := writeClassifierTable
		if c.Bool("json") {
			write = func(w io.Writer, one *workflow.Classification) error { return writeJSON(w, one) }
		}
		if err := write(c.App.Writer, one); err != nil {
			return err
		}
		if !c.Bool("json") && len(one.Figures) > 0 {
			if err := writeFigures(c.App.Writer, one.Figures); err != nil {
				return err
			}
		}
		for _, note := range one.Notes {
			fmt.Fprintf(c.App.ErrWriter, "note: %s\n", note)
		}
	}
	for i, one := range found.Measured {
		one.Warnings = found.Warnings
		if c.Bool("json") {
			if i == 0 && len(found.Classification) == 0 {
				one.Figures = append(one.Figures, found.Own...)
			}
			if err := writeJSON(c.App.Writer, one); err != nil {
				return err
			}
		} else if err := writeMeasured(c.App.Writer, one); err != nil {
			return err
		}
		for _, note := range one.Notes {
			fmt.Fprintf(c.App.ErrWriter, "note: %s\n", note)
		}
	}
	if !c.Bool("json") {
		if len(found.Own) > 0 {
			fmt.Fprintln(c.App.Writer, "metrics of the heads' own: means over the cases")
			if err := writeFigures(c.App.Writer, found.Own); err != nil {
				return err
			}
		}
		for _, w := range found.Warnings {
			fmt.Fprintf(c.App.Writer, "warning: %s\n", w)
		}
	}
	return nil
}

// writeDetectorTable prints one row per system: sensitivities, mean with interval, and
// the difference to the first system with interval and p-value.
func writeDetectorTable(out io.Writer, split string, report *frocio.Report, allPairs bool) error {
	systems := report.Systems
	n := systems[0].Counts
	where := ""
	if split != "" {
		where = fmt.Sprintf("split %s: ", split)
	}
	fmt.Fprintf(out, "%s%d images, %d patients, %d lesions; protocol %s; sensitivity at false positives per image\n",
		where, n.Images, n.Patients, n.Lesions, report.Protocol.Name)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprint(w, "system")
	for _, p := range systems[0].OperatingPoints {
		fmt.Fprintf(w, "\t%g", p.FPPI)
	}
	fmt.Fprint(w, "\tmean\t95% CI")
	if len(report.Comparison) > 0 && !allPairs {
		fmt.Fprintf(w, "\tdifference to %s\t95%% CI\tresolvable\tp\tverdict", systems[0].Name)
	}
	fmt.Fprintln(w)
	for i, s := range systems {
		fmt.Fprint(w, s.Name)
		for _, p := range s.OperatingPoints {
			fmt.Fprintf(w, "\t%.3f", float64(p.Sensitivity))
		}
		fmt.Fprintf(w, "\t%.3f\t%s", float64(s.MeanSensitivity), shortRange(s.MeanCI))
		if i > 0 && len(report.Comparison) > 0 && !allPairs {
			p := report.Comparison[i-1]
			d := p.Mean
			fmt.Fprintf(w, "\t%+.3f\t%s\t%s\t%.3f\t%s", float64(d.Value), shortRange(d.CI), three(d.Resolvable), float64(d.PermutationP), p.Verdict)
		}
		fmt.Fprintln(w)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if allPairs {
		return frocreport.WriteComparison(out, report)
	}
	return nil
}

func shortRange(r frocio.Range) string {
	if r == nil {
		return "-"
	}
	return fmt.Sprintf("%.3f to %.3f", float64(r[0]), float64(r[1]))
}

// writeClassifierTable prints one row per system, with the difference in balanced accuracy
// to the first.
func writeClassifierTable(out io.Writer, report *workflow.Classification) error {
	systems := report.Systems
	title := fmt.Sprintf("split %s: %d cases, %d classes", report.Split, systems[0].Cases, len(report.Classes))
	if report.Task != "" {
		title = report.Task + ": " + title
	}
	fmt.Fprintln(out, title)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprint(w, "system\taccuracy\tbalanced accuracy\t95% CI\tmacro AUROC\tECE")
	if len(systems) > 1 {
		fmt.Fprintf(w, "\tdifference to %s\t95%% CI\tresolvable\tp\tverdict", systems[0].Name)
	}
	fmt.Fprintln(w)
	for i, s := range systems {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s", s.Name, three(s.Accuracy.Value), three(s.BalancedAccuracy.Value), interval(s.BalancedAccuracy),
			three(s.MacroAUROC.Value), three(s.ECE.Value))
		if i > 0 {
			p := report.Comparison[i-1]
			fmt.Fprintf(w, "\t%+.3f\t%s\t%s\t%.3f\t%s", float64(p.BalancedAccuracy.Value), interval(p.BalancedAccuracy), three(p.Resolvable),
				float64(p.PermutationP), p.Verdict)
		}
		fmt.Fprintln(w)
	}
	return w.Flush()
}

// writeMeasured prints the figures of answers that are numbers or times.
func writeMeasured(out io.Writer, one *workflow.Measured) error {
	title := fmt.Sprintf("split %s: %d cases, %s", one.Split, one.Cases, one.Question)
	if one.Events > 0 {
		title += fmt.Sprintf(", %d events", one.Events)
	}
	if one.Unit != "" {
		title += " in " + one.Unit
	}
	if one.Task != "" {
		title = one.Task + ": " + title
	}
	fmt.Fprintln(out, title)
	return writeFigures(out, one.Figures)
}

// writeFigures prints the figures that --metric asked for.
func writeFigures(out io.Writer, rows []workflow.FigureRow) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	differs := slices.ContainsFunc(rows, func(r workflow.FigureRow) bool { return r.Difference != nil })
	areas := slices.ContainsFunc(rows, func(r workflow.FigureRow) bool { return r.DeLong != nil })
	fmt.Fprint(w, "figure\tsystem\tvalue\t95% CI")
	if differs {
		fmt.Fprint(w, "\tdifference\t95% CI\tp")
	}
	if areas {
		fmt.Fprint(w, "\tDeLong CI\tDeLong p")
	}
	fmt.Fprintln(w)
	for _, r := range rows {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s", r.Figure, r.System, three(r.Value), interval(r.Metric))
		if d := r.Difference; d != nil {
			fmt.Fprintf(w, "\t%s\t%s\t%s", three(d.Value), interval(*d), three(r.PermutationP))
		} else if differs {
			fmt.Fprint(w, "\t\t\t")
		}
		if d := r.DeLong; d != nil {
			fmt.Fprintf(w, "\t%s to %s", three(d.CI[0]), three(d.CI[1]))
			if d.Difference != nil {
				fmt.Fprintf(w, "\t%s", three(d.P))
			}
		}
		fmt.Fprintln(w)
	}
	return w.Flush()
}

func interval(m workflow.Metric) string {
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
	found, err := workflow.Evaluate(r)
	if errors.Is(err, froc.ErrNoLesions) {
		fmt.Fprintln(c.App.ErrWriter, "the split has no lesions: sensitivity is undefined")
		return nil
	}
	if err != nil {
		return err
	}
	if !c.Bool("json") {
		found.Warnings = nil // they were printed before the prediction
	}
	return writeComparison(c, found, false)
}
