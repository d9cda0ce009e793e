package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/alignedfusion/alignedfusion/eval/froc"
	"github.com/alignedfusion/alignedfusion/host/fault"
	"github.com/alignedfusion/alignedfusion/host/page"
	"github.com/alignedfusion/alignedfusion/host/runs"
	"github.com/alignedfusion/alignedfusion/host/workflow"
	"github.com/alignedfusion/alignedfusion/internal/atomicfile"
)

// notOfThePage are the flags of froc that write files or print.
var notOfThePage = []string{"json", "out", "plot", "plot-kind", "plot-axis", "curve", "lesions", "marks", "false-positives", "min"}

// pageFlags are those of report and of view.
func pageFlags() []cli.Flag {
	flags := []cli.Flag{
		&cli.StringSliceFlag{Name: "predictions", TakesFile: true, Usage: "`[NAME=]FILE` of a detector's marks, in the place of a run or beside runs; repeatable"},
		&cli.StringFlag{Name: "data", Usage: "data `SPEC` with the pictures and attributes (default: the first run's own data)"},
		&cli.StringFlag{Name: "reports", Usage: "`FILE` of the cases' reports, as for predict"},
		&cli.StringFlag{Name: "study", Usage: "`DIR`ectory of a study whose table is shown, too"},
		&cli.StringFlag{Name: "split", Usage: "split that was predicted (default: test where all runs have it, else val)"},
		&cli.BoolFlag{Name: "ids", Usage: "show ids of cases and patients, and paths, as they are (default: hashes)"},
		&cli.StringFlag{Name: "protocol", Usage: "FROC protocol (default: the first run's; of files: deeplesion)"},
		&cli.BoolFlag{Name: "allow-changed", Usage: "show runs whose plugins are not those of the training"},
	}
	for _, f := range frocFlags() {
		if !slices.Contains(notOfThePage, f.Names()[0]) {
			flags = append(flags, f)
		}
	}
	return flags
}

func reportCommand() *cli.Command {
	return &cli.Command{
		Name:      "report",
		Usage:     "one HTML file that shows what the model did: curves, worst cases, slices with boxes, attributes",
		ArgsUsage: "[NAME=]RUN...",
		Description: `The file asks for nothing from anywhere and opens by double click. It shows the predictions that
` + "`alignedfusion predict`" + ` left in the runs, the first run being what others are compared with, or those of
files. docs/tutorials/report-page.md says how to read it.

  alignedfusion report runs/none runs/itfusion --out report.html
  alignedfusion report --ground-truth truth.csv --images images.csv --predictions boxes.csv --out report.html`,
		Flags: slices.Concat([]cli.Flag{
			&cli.StringFlag{Name: "out", Usage: "HTML `FILE` to write; it holds pictures and words of reports, and only its owner may read it", Required: true},
			&cli.Float64Flag{Name: "max-mib", Value: 50, Usage: "largest size of the file; what does not fit is left out, and said"},
			&cli.BoolFlag{Name: "counterfactuals", Usage: "predict again first, also without the reports, with shuffled and with contradicting ones, and keep that in the runs"},
		}, pageFlags(), pluginFlags()),
		Action: runReport,
	}
}

func viewCommand() *cli.Command {
	return &cli.Command{
		Name:      "view",
		Usage:     "serve the page of report on this machine alone, with all slices at full resolution, until Ctrl-C",
		ArgsUsage: "[NAME=]RUN... | SPEC",
		Description: `For sets that are too large for a file, and for data without predictions (a data SPEC). The server listens
on 127.0.0.1 alone and answers to the printed address only, which holds a random token.`,
		Flags: append([]cli.Flag{
			&cli.IntFlag{Name: "port", Usage: "`PORT` to listen at (default: a free one)"},
		}, pageFlags()...),
		Action: runView,
	}
}

func runReport(c *cli.Context) error {
	out := c.String("out")
	if err := checkOutput("out", out, []string{".html", ".htm"}); err != nil {
		return err
	}
	if mib := c.Float64("max-mib"); !(mib >= 1 && mib <= 2000) {
		return usageError("--max-mib %g, want 1 to 2000", mib)
	}
	o, err := pageOptions(c)
	if err != nil {
		return err
	}
	if len(o.Compare.Systems) == 0 && o.Study == "" {
		return usageError("report needs runs, or --predictions with --ground-truth, or --study; see `alignedfusion report --help`")
	}
	if c.Bool("counterfactuals") {
		if err := predictAgain(c, o); err != nil {
			return err
		}
	}
	return writePage(c, o, out, c.Float64("max-mib"))
}

// writePage gathers and writes the page.
func writePage(c *cli.Context, o page.Options, out string, maxMiB float64) error {
	g, err := page.Gather(c.Context, o)
	if err != nil {
		return err
	}
	file, err := g.HTML(c.Context, maxMiB)
	if err != nil {
		return err
	}
	if err := atomicfile.WritePrivateBytes(out, file); err != nil {
		return resourceError(err)
	}
	for _, w := range g.Document.Warnings {
		fmt.Fprintf(c.App.ErrWriter, "warning: %s\n", w)
	}
	fmt.Fprintf(c.App.ErrWriter, "%s\n%s (%.1f MiB): open it in a browser\n", g.Document.Pictures.Note, out, float64(len(file))/(1<<20))
	return nil
}

// predictAgain predicts the split with every run that reads attributes, as predict does, and
// with other reports.
func predictAgain(c *cli.Context, o page.Options) error {
	done := 0
	for _, s := range o.Compare.Systems {
		if !runs.IsRun(s.Path) {
			continue
		}
		r, err := workflow.ReadRun(s.Path)
		if err != nil {
			return err
		}
		if r.Schema == nil {
			continue
		}
		done++
		fmt.Fprintf(c.App.ErrWriter, "%s: predicting with other reports\n", s.Name)
		if _, err := workflow.Predict(c.Context, workflow.PredictOptions{Run: s.Path, Checkpoint: "best", Split: o.Compare.Split, Counterfactuals: true,
			AllowChanged: c.Bool("allow-changed"), Device: c.String("device"), Threads: c.Int("threads"), Plugins: pluginOptions(c), Messages: c.App.ErrWriter}); err != nil {
			return err
		}
	}
	if done == 0 {
		return usageError("--counterfactuals: none of the runs reads attributes, so nothing would change")
	}
	return nil
}

func runView(c *cli.Context) error {
	o, err := pageOptions(c)
	if err != nil {
		return err
	}
	if len(o.Compare.Systems) == 0 && o.Data == "" {
		return usageError("view needs runs, --predictions with --ground-truth, or a data SPEC; see `alignedfusion view --help`")
	}
	if port := c.Int("port"); port < 0 || port > 65535 {
		return usageError("--port %d, want 1 to 65535, or 0 for a free one", port)
	}
	g, err := page.Gather(c.Context, o)
	if err != nil {
		return err
	}
	for _, w := range g.Document.Warnings {
		fmt.Fprintf(c.App.ErrWriter, "warning: %s\n", w)
	}
	err = g.Serve(c.Context, c.Int("port"), func(url string) {
		fmt.Fprintf(c.App.Writer, "%s\n", url)
		fmt.Fprintf(c.App.ErrWriter, "open this address on this machine; Ctrl-C ends\n")
	})
	return fault.Wrap(fault.Resource, err)
}

// pageOptions reads the flags and arguments that report and view share. A single argument
// that is a data spec is data alone.
func pageOptions(c *cli.Context) (o page.Options, err error) {
	settings, err := frocSettings(c)
	if err != nil {
		return o, err
	}
	o = page.Options{Data: c.String("data"), Reports: c.String("reports"), Study: c.String("study"), IDs: c.Bool("ids"), Version: Version}
	args := c.Args().Slice()
	if len(args) == 1 && c.Command.Name == "view" && o.Data == "" && isSpec(args[0]) {
		o.Data, args = args[0], nil
	}
	o.Compare = workflow.CompareOptions{
		Systems: append(parseSystems(args), parseSystems(c.StringSlice("predictions"))...), Split: c.String("split"), Protocol: c.String("protocol"), FROC: settings,
		Rules:     func(p froc.Protocol) (froc.Protocol, error) { return overrideRules(c, p) },
		FPPIGiven: c.IsSet("fppi"),
		Resample:  settings.Resample, NoIntervals: settings.Resample.Replicates == 0, AllPairs: settings.AllPairs,
		AllowChanged: c.Bool("allow-changed"),
	}
	return o, nil
}

// isSpec reports whether an argument is LAYOUT:PATH and no folder of that name.
func isSpec(arg string) bool {
	if _, err := os.Stat(arg); err == nil {
		return false
	}
	layout, _, ok := strings.Cut(arg, ":")
	return ok && layout != "" && !strings.ContainsAny(layout, string(filepath.Separator)+"=.")
}
