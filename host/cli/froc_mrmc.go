package cli

import (
	"io"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/alignedfusion/alignedfusion/eval/froc"
	"github.com/alignedfusion/alignedfusion/eval/froc/frocio"
	"github.com/alignedfusion/alignedfusion/eval/froc/frocreport"
)

// notOfReaders are the flags of froc that a study with several readers has no use for: its
// intervals come from the analysis of variance.
var notOfReaders = []string{"iou", "bootstrap", "permutations", "seed", "ci", "all-pairs", "strata", "strata-rule", "by-class",
	"plot", "plot-kind", "plot-axis", "curve", "lesions", "marks", "false-positives", "min", "readers"}

func frocMRMCCommand() *cli.Command {
	flags := []cli.Flag{
		&cli.StringFlag{Name: "protocol", Value: "strict", Usage: "`NAME` of the rules to evaluate by; alignedfusion froc protocols lists them"},
		&cli.StringSliceFlag{Name: "predictions", TakesFile: true, Usage: "`FILE` with the marks of all readers in a column reader (and modality), or MODALITY/READER=FILE for one of them; repeatable"},
		&cli.StringFlag{Name: "figure", Value: string(froc.FigureWAFROC), Usage: "`NAME` of the figure of merit: mean (sensitivity), ap, afroc, afroc1, wafroc, wafroc1, auroc or lroc"},
	}
	for _, f := range frocFlags() {
		if !slices.Contains(notOfReaders, f.Names()[0]) {
			flags = append(flags, f)
		}
	}
	return &cli.Command{
		Name:  "mrmc",
		Usage: "compare modalities that several readers have read (MRMC, JAFROC)",
		Description: "Every reader reads every case with every modality. Modalities are compared by the analysis of variance of\n" +
			"Obuchowski and Rockette with the degrees of freedom of Hillis; its covariances come from the jackknife over\n" +
			"patients. It answers for other readers and other cases, for these readers, and for these cases.\n\n" +
			"  alignedfusion froc mrmc --ground-truth truth.csv --images images.csv --predictions TP.csv --predictions FP.csv\n" +
			"  alignedfusion froc mrmc --ground-truth truth.csv --predictions alone/r1=a.csv --predictions aided/r1=b.csv …",
		Flags:  flags,
		Action: runFROCMRMC,
	}
}

func runFROCMRMC(c *cli.Context) error {
	if err := noArguments(c); err != nil {
		return err
	}
	for _, name := range []string{"ground-truth", "predictions"} {
		if !c.IsSet(name) {
			return usageError("froc mrmc needs --%s; see `alignedfusion froc mrmc --help`", name)
		}
	}
	settings, err := frocSettings(c)
	if err != nil {
		return err
	}
	o := frocreport.ReaderOptions{
		Truth: settings.Truth, Read: settings.Read, Figure: froc.Figure(c.String("figure")), Level: c.Float64("level"),
		Files: map[frocio.ReadingKey][]string{},
	}
	if !slices.Contains(froc.ReaderFigures(), o.Figure) {
		return usageError("--figure %q, want one of %v", o.Figure, froc.ReaderFigures())
	}
	if o.Level == 0 {
		o.Level = 0.95
	}
	if o.Protocol, err = froc.ProtocolByName(c.String("protocol")); err != nil {
		return usageError("--protocol: %w", err)
	}
	if o.Protocol, err = overrideRules(c, o.Protocol); err != nil {
		return err
	}
	for _, text := range c.StringSlice("predictions") {
		name, path := splitName(text)
		if name == "" {
			o.Tables = append(o.Tables, path)
			continue
		}
		modality, reader, both := strings.Cut(name, "/")
		if !both || modality == "" || reader == "" {
			return usageError("--predictions %q: want MODALITY/READER=FILE, or a FILE with a column reader", text)
		}
		key := frocio.ReadingKey{Reader: reader, Modality: modality}
		o.Files[key] = append(o.Files[key], path)
	}
	if err := checkOutput("out", c.String("out"), nil); err != nil {
		return err
	}
	report, err := frocreport.Readers(c.Context, o)
	if err != nil {
		return dataError(err)
	}
	if path := c.String("out"); path != "" {
		if err := frocio.WriteFile(path, func(w io.Writer) error { return frocio.WriteJSON(w, report) }); err != nil {
			return err
		}
	}
	if c.Bool("json") {
		return frocio.WriteJSON(c.App.Writer, report)
	}
	return report.WriteText(c.App.Writer)
}
