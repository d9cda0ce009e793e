package cli

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"github.com/alignedfusion/alignedfusion/host/dataset"
	"github.com/alignedfusion/alignedfusion/host/dataset/synth"
	"github.com/alignedfusion/alignedfusion/internal/nearest"
)

func dataCommand() *cli.Command {
	return &cli.Command{
		Name:  "data",
		Usage: "import scans, check data sets, write synthetic ones",
		Subcommands: []*cli.Command{
			{
				Name:      "check",
				Usage:     "read a data set completely, count what is there and name every problem by file and row",
				ArgsUsage: "SPEC",
				Description: "SPEC is LAYOUT:PATH; options follow a question mark: deeplesion:DIR?noisy=keep&nan=missing.\n\n" +
					layoutList() + "\nExit code 3 when there are problems.",
				Flags: []cli.Flag{
					&cli.StringFlag{Name: "attributes", Usage: "attribute columns or sets, comma-separated: paper, A, B, C, all (default: the layout's)"},
					&cli.BoolFlag{Name: "headers-only", Usage: "read tables and image headers, not pixels"},
					&cli.BoolFlag{Name: "json", Usage: "print the report as JSON"},
				},
				Action: dataCheck,
			},
			dataImportCommand(),
			dataSplitCommand(),
			dataPlanCommand(),
			{
				Name:  "synth",
				Usage: "write a synthetic data set in a real layout, patient-wise splits",
				Description: `deeplesion: CT-like 16-bit slices with lesions and look-alikes; the report carries part of the truth.
table: pictures with attributes; the label depends on both.
kidney: CT volumes with a lesion each and reports in words; the label depends on both.
slides: patches of pathology slides; few show the tumour, the attributes tell its grade.
README.txt in the folder says exactly how.`,
				Flags: []cli.Flag{
					&cli.StringFlag{Name: "layout", Usage: strings.Join(synthLayouts, ", "), Required: true},
					&cli.StringFlag{Name: "out", Usage: "the new folder", Required: true, TakesFile: true},
					&cli.IntFlag{Name: "patients", Usage: "number of patients (default: 240 deeplesion and kidney, 600 table, 48 slides)"},
					&cli.IntFlag{Name: "key-slices", Usage: "key slices per patient (deeplesion)", Value: 2},
					&cli.IntFlag{Name: "size", Usage: "side of the images in pixels (default: 128 deeplesion, 64 table, 48 kidney, 32 slides)"},
					&cli.IntFlag{Name: "patches", Usage: "patches per slide on average (slides)", Value: 24},
					&cli.Float64Flag{Name: "missing", Usage: "probability that an attribute is missing, at random (0 with --context)", Value: 0.3},
					&cli.StringFlag{Name: "context", Usage: "squares and bits (table): lookup, two bits say which of four squares counts; additive, evidence adds up; order (deeplesion): the order of slices tells lesions from look-alikes; organ (deeplesion): the report says in which organ blobs count"},
					&cli.IntFlag{Name: "noise-tokens", Usage: "squares beside the four that count (--context lookup or additive)"},
					&cli.BoolFlag{Name: "questions", Usage: "add columns of findings, grades, numbers and times to an event (table)"},
					&cli.Uint64Flag{Name: "seed", Usage: "seed; the same seed writes the same files"},
					&cli.BoolFlag{Name: "json", Usage: "print a summary as JSON"},
				},
				Action: dataSynth,
			},
		},
	}
}

// layoutList has a line per layout of data sets.
func layoutList() string {
	var list strings.Builder
	for _, l := range dataset.Layouts() {
		fmt.Fprintf(&list, "  %s: %s\n", l, l.Help)
	}
	return list.String()
}

// synthLayouts are those of `data synth`.
var synthLayouts = []string{"deeplesion", "table", "kidney", "slides"}

func dataSynth(c *cli.Context) error {
	if c.NArg() > 0 {
		return usageError("data synth takes flags only, not %q", c.Args().First())
	}
	missing := c.Float64("missing")
	if !(missing >= 0 && missing <= 1) {
		return usageError("--missing %g is no probability, want 0 to 1", missing)
	}
	context := c.String("context")
	slicewise := context == synth.Order || context == synth.Organ
	switch {
	case slicewise && c.String("layout") != "deeplesion":
		return usageError("--context %s goes with --layout deeplesion", context)
	case context != "" && !slicewise && c.String("layout") != "table":
		return usageError("--context %s goes with --layout table", context)
	case context != "" && !slicewise && c.IsSet("size"):
		return usageError("--size %d: the picture of --context %s is as large as its squares, 16 pixels each", c.Int("size"), context)
	case c.Bool("questions") && c.String("layout") != "table":
		return usageError("--questions goes with --layout table")
	case (context == "" || slicewise) && c.IsSet("noise-tokens"):
		return usageError("--noise-tokens %d goes with --context %s or %s", c.Int("noise-tokens"), synth.Lookup, synth.Additive)
	}
	if missing == 0 || context != "" && context != synth.Order && !c.IsSet("missing") {
		missing = -1 // the options' zero means their default
	}
	if err := positive(c, "patients", "key-slices", "size", "patches"); err != nil {
		return err
	}
	out := c.String("out")
	var summary *synth.Summary
	var err error
	var spec string
	switch layout := c.String("layout"); layout {
	case "deeplesion":
		spec = "deeplesion:" + out
		summary, err = synth.DeepLesion(c.Context, out, synth.DeepLesionOptions{Patients: c.Int("patients"), KeySlices: c.Int("key-slices"),
			Size: c.Int("size"), Missing: missing, Context: context, Seed: c.Uint64("seed")})
	case "table":
		spec = "table:" + strings.TrimSuffix(out, "/") + "/data.csv"
		summary, err = synth.Table(c.Context, out, synth.TableOptions{Patients: c.Int("patients"), Size: c.Int("size"), Missing: missing,
			Context: context, NoiseTokens: c.Int("noise-tokens"), Questions: c.Bool("questions"), Seed: c.Uint64("seed")})
	case "kidney":
		spec = "volumes:" + out
		summary, err = synth.Kidney(c.Context, out, synth.KidneyOptions{Patients: c.Int("patients"), Size: c.Int("size"), Missing: missing, Seed: c.Uint64("seed")})
	case "slides":
		spec = "patches:" + out
		summary, err = synth.Slides(c.Context, out, synth.SlidesOptions{Patients: c.Int("patients"), Patches: c.Int("patches"), Size: c.Int("size"), Missing: missing, Seed: c.Uint64("seed")})
	default:
		return usageError("--layout %q is unknown%s; there are %s", layout, meant(nearest.Name(layout, synthLayouts)), strings.Join(synthLayouts, ", "))
	}
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return writeJSON(c.App.Writer, struct {
			SchemaVersion int    `json:"schema_version"`
			Spec          string `json:"spec"`
			Synthetic     bool   `json:"synthetic"`
			*synth.Summary
		}{1, spec, true, summary})
	}
	fmt.Fprintf(c.App.ErrWriter, "synthetic data: %d patients, %d images; ", summary.Patients, summary.Files)
	for i, split := range []string{"train", "val", "test"} {
		if i > 0 {
			fmt.Fprint(c.App.ErrWriter, ", ")
		}
		fmt.Fprintf(c.App.ErrWriter, "%s %d", split, summary.Cases[split])
	}
	fmt.Fprintf(c.App.ErrWriter, "\ndata spec: %s\n", spec)
	return nil
}

func dataCheck(c *cli.Context) error {
	if c.NArg() != 1 {
		return usageError("data check takes one data spec, %d were given; for example: alignedfusion data check deeplesion:DIR", c.NArg())
	}
	var opt dataset.Options
	if c.IsSet("attributes") {
		opt.Attributes = []string{}
		for _, name := range strings.Split(c.String("attributes"), ",") {
			if name = strings.TrimSpace(name); name != "" {
				opt.Attributes = append(opt.Attributes, name)
			}
		}
	}
	r, err := dataset.Check(c.Context, c.Args().First(), opt, !c.Bool("headers-only"))
	if err != nil {
		return err
	}
	if c.Bool("json") {
		if err := writeJSON(c.App.Writer, r); err != nil {
			return err
		}
	} else {
		printReport(c, r)
	}
	if len(r.Problems) > 0 {
		if c.Bool("json") {
			return dataError(fmt.Errorf("%s: %d problems", r.Spec, len(r.Problems)))
		}
		return dataError(r.Problems)
	}
	return nil
}

func printReport(c *cli.Context, r *dataset.Report) {
	for _, w := range r.Warnings {
		fmt.Fprintf(c.App.ErrWriter, "warning: %s\n", w)
	}
	if r.Splits == nil {
		return
	}
	w := tabwriter.NewWriter(c.App.Writer, 0, 0, 2, ' ', 0)
	defer w.Flush()
	fmt.Fprintf(w, "%s\t%s\n", r.Spec, r.Task)
	fmt.Fprintf(w, "hash\t%s\n", r.Hash)
	fmt.Fprintf(w, "modalities\t%s\n", strings.Join(r.Modalities, ", "))
	fmt.Fprintf(w, "images decoded\t%d\n\n", r.ImagesDecoded)
	splits := slices.Sorted(maps.Keys(r.Splits))
	row := func(name string, value func(s *dataset.SplitCounts) string) {
		fmt.Fprint(w, name)
		for _, split := range splits {
			fmt.Fprintf(w, "\t%s", value(r.Splits[split]))
		}
		fmt.Fprintln(w)
	}
	number := func(of func(s *dataset.SplitCounts) int) func(s *dataset.SplitCounts) string {
		return func(s *dataset.SplitCounts) string { return fmt.Sprint(of(s)) }
	}
	fmt.Fprint(w, "split")
	for _, split := range splits {
		fmt.Fprintf(w, "\t%s", split)
	}
	fmt.Fprintln(w)
	row("cases", number(func(s *dataset.SplitCounts) int { return s.Cases }))
	row("patients", number(func(s *dataset.SplitCounts) int { return s.Patients }))
	row("with targets", number(func(s *dataset.SplitCounts) int { return s.WithTargets }))
	if r.Task == dataset.Detect {
		row("lesions", number(func(s *dataset.SplitCounts) int { return s.Lesions }))
		row("regions to ignore", number(func(s *dataset.SplitCounts) int { return s.Ignored }))
	}
	classes := map[[2]string]bool{}
	for _, s := range r.Splits {
		for task, counts := range s.Labels {
			for class := range counts {
				classes[[2]string{task, class}] = true
			}
		}
	}
	for _, key := range slices.SortedFunc(maps.Keys(classes), func(a, b [2]string) int { return slices.Compare(a[:], b[:]) }) {
		row(key[0]+" "+key[1], number(func(s *dataset.SplitCounts) int { return s.Labels[key[0]][key[1]] }))
	}
	for _, a := range r.AttributeColumns {
		row("missing "+a, func(s *dataset.SplitCounts) string { return fmt.Sprintf("%.1f %%", 100*s.Missing[a]) })
	}
}
