package cli

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"github.com/alignedfusion/alignedfusion/eval/froc"
	"github.com/alignedfusion/alignedfusion/eval/froc/frocio"
	"github.com/alignedfusion/alignedfusion/eval/froc/frocplot"
	"github.com/alignedfusion/alignedfusion/eval/resample"
)

func frocCommand() *cli.Command {
	return &cli.Command{
		Name:  "froc",
		Usage: "evaluate lesion detections: FROC, operating points, confidence intervals, comparisons",
		Description: "Reads a ground truth and the predictions of one or more systems and prints the sensitivity at given\n" +
			"false positives per image. Every rule of a protocol can be overridden; the resolved set is in the output.\n" +
			"File formats and every choice are explained in docs/froc.md.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "protocol", Value: "strict", Usage: "rules to evaluate by; `alignedfusion froc protocols` lists them"},
			&cli.StringFlag{Name: "ground-truth", Usage: "`FILE` with the lesions: CSV, JSON Lines, COCO JSON, DL_info.csv, LUNA16 CSV or .npz"},
			&cli.StringSliceFlag{Name: "predictions", Usage: "`[NAME=]FILE` with the marks of a system; repeat it to compare systems with the first"},
			&cli.StringFlag{Name: "images", Usage: "`FILE` that lists every searched image, lesion-free ones included: image[,patient][,volume][,split]"},
			&cli.StringFlag{Name: "excluded", Usage: "`FILE` with regions to ignore"},
			&cli.StringFlag{Name: "split", Usage: "evaluate the images of this `SPLIT` alone (DL_info.csv: train, val, test or all; default test)"},
			&cli.BoolFlag{Name: "lenient", Usage: "drop and count rows that cannot be used, instead of refusing the file"},
			&cli.StringFlag{Name: "noisy", Usage: "DL_info.csv: `drop`, ignore or keep possibly noisy lesions"},
			&cli.StringFlag{Name: "category", Usage: "COCO: evaluate this `CATEGORY` alone, by name or id"},
			&cli.StringFlag{Name: "mask-lesions", Usage: "what a lesion of a mask is: `labels` or components"},
			&cli.StringFlag{Name: "coordinates", Usage: "of points compared with masks: `voxel`, ras or lps"},

			&cli.StringFlag{Name: "hit", Usage: "`RULE` for a hit, e.g. \"iou>=0.5\", \"distance<radius | iou>=0.3\", \"inside\""},
			&cli.StringFlag{Name: "ignore-hit", Usage: "`RULE` for a mark on an ignored lesion"},
			&cli.BoolFlag{Name: "plus-one", Usage: "measure a box from x1 to x2 as x2-x1+1 pixels"},
			&cli.StringFlag{Name: "duplicates", Usage: "further marks on a found lesion: `free` or fp"},
			&cli.StringFlag{Name: "multiple", Usage: "one mark finds `all` lesions it hits, or one"},
			&cli.IntFlag{Name: "max-per-image", Usage: "marks kept per image, 0 for all"},
			&cli.StringFlag{Name: "cap-ties", Usage: "marks tied at that limit: `drop` or keep"},
			&cli.StringFlag{Name: "fppi", Usage: "`LIST` of false positives per image, e.g. 0.5,1,2"},
			&cli.StringFlag{Name: "interpolation", Usage: "`step` or linear"},
			&cli.StringFlag{Name: "unit", Usage: "false positives per `image`, volume or patient"},
			&cli.StringFlag{Name: "cluster", Usage: "resample whole `patient`s, volumes or images"},
			&cli.StringFlag{Name: "ap", Usage: "average precision: `all-points` or recall-grid-101"},
			&cli.StringFlag{Name: "iou", Usage: "`LIST` of IoUs for average precision, e.g. 0.5,0.75 or 0.5:0.95:0.05"},

			&cli.IntFlag{Name: "bootstrap", Value: 1000, Usage: "bootstrap replicates `N`, 0 for no intervals"},
			&cli.IntFlag{Name: "permutations", Usage: "permutations `N` in comparisons (default: as many as replicates)"},
			&cli.Uint64Flag{Name: "seed", Usage: "of the random numbers"},
			&cli.StringFlag{Name: "ci", Value: string(resample.Percentile), Usage: "kind of interval: `percentile` or bca"},
			&cli.Float64Flag{Name: "level", Value: 0.95, Usage: "of the intervals"},
			&cli.BoolFlag{Name: "all-pairs", Usage: "compare every pair of systems, not only each with the first"},

			&cli.StringSliceFlag{Name: "strata", Usage: "`COLUMN` of the ground truth, or COLUMN:EDGE,EDGE for numbers; repeatable"},
			&cli.StringFlag{Name: "strata-rule", Value: string(froc.StrataIgnore), Usage: "lesions of other strata: `ignore`, or papers (biased: marks on them become false positives)"},

			&cli.BoolFlag{Name: "json", Usage: "write JSON to stdout"},
			&cli.StringFlag{Name: "out", Usage: "write the JSON to `FILE` as well"},
			&cli.StringFlag{Name: "plot", Usage: "draw the curves into `FILE`.svg, .png or .pdf"},
			&cli.StringFlag{Name: "curve", Usage: "write the whole curve to `FILE` (CSV)"},
			&cli.StringFlag{Name: "lesions", Usage: "write the fate of every lesion to `FILE` (CSV)"},
			&cli.StringFlag{Name: "marks", Usage: "write the fate of every prediction to `FILE` (CSV)"},
			&cli.StringFlag{Name: "false-positives", Usage: "write the false positives to `FILE` (CSV)"},
			&cli.StringSliceFlag{Name: "min", Usage: "`KEY=VALUE` gate, exit 7 below it: mean, ap, afroc, afroc1, or sensitivity at N as @N; repeatable"},
		},
		Action:      runFROC,
		Subcommands: []*cli.Command{frocProtocolsCommand()},
	}
}

func frocProtocolsCommand() *cli.Command {
	return &cli.Command{
		Name:  "protocols",
		Usage: "list and explain the presets of --protocol",
		Flags: []cli.Flag{&cli.BoolFlag{Name: "json", Usage: "write JSON to stdout"}},
		Action: func(c *cli.Context) error {
			if c.NArg() > 0 {
				return usageError("froc protocols takes no arguments, got %q", c.Args().First())
			}
			if c.Bool("json") {
				list := struct {
					SchemaVersion int               `json:"schema_version"`
					Protocols     []frocio.Protocol `json:"protocols"`
				}{SchemaVersion: frocio.SchemaVersion}
				for _, p := range froc.Protocols() {
					list.Protocols = append(list.Protocols, frocio.NewProtocol(p))
				}
				return frocio.WriteJSON(c.App.Writer, list)
			}
			for _, p := range froc.Protocols() {
				fmt.Fprintf(c.App.Writer, "%s\n  %s\n  source: %s\n", p.Name, p.Description, p.Source)
				writeRules(c.App.Writer, p)
				fmt.Fprintln(c.App.Writer)
			}
			return nil
		},
	}
}

func writeRules(w io.Writer, p froc.Protocol) {
	described := frocio.NewProtocol(p)
	limit := "no limit of marks"
	if p.MaxPerImage > 0 {
		limit = fmt.Sprintf("at most %d marks per image (ties at the limit: %s)", p.MaxPerImage, p.CapTies)
	}
	pixel := ""
	if p.PlusOne {
		pixel = " (+1 pixel)"
	}
	fmt.Fprintf(w, "  hit: %s%s; ignored: %s\n  duplicates: %s; one mark finds: %s; %s\n  FP per %s at %s, %s interpolation; resampled: %s\n",
		described.Hit, pixel, described.IgnoreHit, p.Duplicates, p.Multiple, limit, p.Unit, formatList(p.FPPI), p.Interpolation, p.Cluster)
}

func formatList(values []float64) string {
	texts := make([]string, len(values))
	for i, v := range values {
		texts[i] = strconv.FormatFloat(v, 'g', -1, 64)
	}
	return strings.Join(texts, ", ")
}

// frocSystem is one system under evaluation.
type frocSystem struct {
	name, path string
	rows       []int32
	result     *froc.Result
	bootstrap  *froc.Bootstrap
	report     frocio.System
}

func runFROC(c *cli.Context) error {
	if c.NArg() > 0 {
		return usageError("froc takes no arguments, got %q; files are given by flags", c.Args().First())
	}
	for _, name := range []string{"ground-truth", "predictions"} {
		if !c.IsSet(name) {
			return usageError("froc needs --%s; see `alignedfusion froc --help`", name)
		}
	}
	protocol, err := frocProtocol(c)
	if err != nil {
		return err
	}
	gates, err := parseGates(c.StringSlice("min"))
	if err != nil {
		return err
	}
	ious, err := parseIoUs(c.String("iou"))
	if err != nil {
		return err
	}
	strata, err := parseStrata(c.StringSlice("strata"))
	if err != nil {
		return err
	}
	options := resample.Options{
		Replicates: c.Int("bootstrap"), Permutations: c.Int("permutations"), Seed: c.Uint64("seed"),
		Level: c.Float64("level"), Method: resample.Method(c.String("ci")),
	}
	withBootstrap := options.Replicates != 0
	if options, err = options.Resolved(); err != nil {
		return usageError("%w", err)
	}
	systems, err := frocSystems(c.StringSlice("predictions"))
	if err != nil {
		return err
	}

	truth, err := frocio.ReadTruth(
		frocio.Source{GroundTruth: c.String("ground-truth"), Images: c.String("images"), Excluded: c.String("excluded")},
		frocio.Options{
			Lenient: c.Bool("lenient"), Split: c.String("split"), Noisy: frocio.NoisyRule(c.String("noisy")), Category: c.String("category"),
			MaskLesions: frocio.MaskRule(c.String("mask-lesions")), Coordinates: frocio.Coordinates(c.String("coordinates")),
		})
	if err != nil {
		return dataError(err)
	}
	report := frocio.Report{SchemaVersion: frocio.SchemaVersion, Protocol: frocio.NewProtocol(protocol), Notes: append([]string{}, truth.Notes...)}
	for i := range systems {
		s := &systems[i]
		predictions, err := truth.ReadPredictions(s.path)
		if err != nil {
			return dataError(err)
		}
		report.Notes = append(report.Notes, predictions.Notes...)
		s.rows = predictions.Rows
		if s.result, err = froc.Evaluate(truth.Truth, predictions.Marks, protocol); err != nil {
			return dataError(fmt.Errorf("%s: %w", s.path, err))
		}
		if withBootstrap {
			if s.bootstrap, err = s.result.Bootstrap(options); err != nil {
				return dataError(fmt.Errorf("%s: %w", s.path, err))
			}
		}
		s.report = frocio.NewSystem(s.name, s.result, s.bootstrap)
		if err := addAPAtIoU(&s.report, s.result, protocol, ious); err != nil {
			return dataError(err)
		}
		for _, by := range strata {
			if err := addStrata(&s.report, s.result, protocol, by, froc.StrataRule(c.String("strata-rule")), withBootstrap, options); err != nil {
				return dataError(err)
			}
		}
	}
	if withBootstrap {
		report.Bootstrap = frocio.NewResampling(systems[0].result, options)
		const few = 20 // below, replicates hardly vary the way new patients would
		if n := report.Bootstrap.Clusters; n < few {
			report.Notes = append(report.Notes, fmt.Sprintf("only %d %ss to resample: the intervals and bootstrap p-values are too optimistic, trust the permutation test", n, protocol.Cluster))
		}
	}
	if len(strata) > 0 && froc.StrataRule(c.String("strata-rule")) == froc.StrataAsPapers {
		report.Notes = append(report.Notes, "warning: --strata-rule papers counts marks on lesions of other strata as false positives; the strata are biased downwards and only fit to be compared with published tables made that way")
	}
	if len(systems) == 1 {
		systems[0].report.Name = ""
		report.System = &systems[0].report
	} else {
		for _, s := range systems {
			report.Systems = append(report.Systems, s.report)
		}
		if withBootstrap {
			if report.Comparison, err = compareSystems(systems, options, c.Bool("all-pairs")); err != nil {
				return dataError(err)
			}
		}
	}
	if err := writeFROCFiles(c, systems, &report, options, withBootstrap); err != nil {
		return err
	}
	for _, note := range report.Notes {
		fmt.Fprintf(c.App.ErrWriter, "note: %s\n", note)
	}
	if c.Bool("json") {
		err = frocio.WriteJSON(c.App.Writer, &report)
	} else {
		err = writeFROCText(c.App.Writer, protocol, systems, &report)
	}
	if err != nil {
		return err
	}
	return checkGates(gates, systems)
}

// frocProtocol takes the preset and applies the flags that override its rules.
func frocProtocol(c *cli.Context) (froc.Protocol, error) {
	p, err := froc.ProtocolByName(c.String("protocol"))
	if err != nil {
		return p, usageError("--protocol: %w", err)
	}
	for flag, rule := range map[string]*[]froc.Criterion{"hit": &p.Hit, "ignore-hit": &p.IgnoreHit} {
		if !c.IsSet(flag) {
			continue
		}
		if *rule, err = froc.ParseHit(c.String(flag)); err != nil {
			return p, usageError("--%s: %w", flag, err)
		}
	}
	override(c, "duplicates", &p.Duplicates)
	override(c, "multiple", &p.Multiple)
	override(c, "cap-ties", &p.CapTies)
	override(c, "interpolation", &p.Interpolation)
	override(c, "unit", &p.Unit)
	override(c, "cluster", &p.Cluster)
	override(c, "ap", &p.AP)
	if c.IsSet("plus-one") {
		p.PlusOne = c.Bool("plus-one")
	}
	if c.IsSet("max-per-image") {
		p.MaxPerImage = c.Int("max-per-image")
	}
	if c.IsSet("fppi") {
		if p.FPPI, err = parseNumbers(c.String("fppi")); err != nil {
			return p, usageError("--fppi: %w", err)
		}
	}
	if err := p.Check(); err != nil {
		return p, usageError("%w", err)
	}
	return p, nil
}

// override sets a rule when its flag is given; Protocol.Check knows the choices.
func override[T ~string](c *cli.Context, flag string, rule *T) {
	if c.IsSet(flag) {
		*rule = T(c.String(flag))
	}
}

// parseNumbers reads a list such as 0.5,1,2.
func parseNumbers(text string) ([]float64, error) {
	var out []float64
	for part := range strings.SplitSeq(text, ",") {
		v, err := strconv.ParseFloat(strings.TrimSpace(part), 64)
		if err != nil || math.IsNaN(v) || math.IsInf(v, 0) {
			return nil, fmt.Errorf("%q in %q, want numbers separated by commas", part, text)
		}
		out = append(out, v)
	}
	return out, nil
}

// parseIoUs reads a list, or FIRST:LAST:STEP.
func parseIoUs(text string) ([]float64, error) {
	if text == "" {
		return nil, nil
	}
	var ious []float64
	var err error
	if parts := strings.Split(text, ":"); len(parts) == 3 {
		if ious, err = parseNumbers(strings.Join(parts, ",")); err == nil {
			first, last, step := ious[0], ious[1], ious[2]
			if !(step >= 0.001) {
				return nil, usageError("--iou %q: the step must be 0.001 or more", text)
			}
			ious = nil
			for k := 0; first+float64(k)*step <= last+step/2; k++ {
				ious = append(ious, math.Round((first+float64(k)*step)*1e6)/1e6)
			}
		}
	} else {
		ious, err = parseNumbers(text)
	}
	if err != nil {
		return nil, usageError("--iou: %w", err)
	}
	for _, v := range ious {
		if !(v > 0 && v <= 1) {
			return nil, usageError("--iou %q: %v does not lie between 0 and 1", text, v)
		}
	}
	return ious, nil
}

type stratifyBy struct {
	column string
	edges  []float64
}

func parseStrata(texts []string) ([]stratifyBy, error) {
	var out []stratifyBy
	for _, text := range texts {
		column, edges, ranged := strings.Cut(text, ":")
		by := stratifyBy{column: column}
		if ranged {
			var err error
			if by.edges, err = parseNumbers(edges); err != nil {
				return nil, usageError("--strata: %w", err)
			}
		}
		out = append(out, by)
	}
	return out, nil
}

// gate is a least value of one figure.
type gate struct {
	key   string
	fppi  float64 // of a key @N
	least float64
}

func parseGates(texts []string) ([]gate, error) {
	var out []gate
	for _, text := range texts {
		key, value, _ := strings.Cut(text, "=")
		least, err := strconv.ParseFloat(value, 64)
		if err != nil || math.IsNaN(least) {
			return nil, usageError("--min %q, want KEY=VALUE, for instance mean=0.80", text)
		}
		g := gate{key: key, least: least}
		if at, ok := strings.CutPrefix(key, "@"); ok {
			g.key = "@"
			if g.fppi, err = strconv.ParseFloat(at, 64); err != nil || !(g.fppi >= 0) {
				return nil, usageError("--min %q: %q is not a number of false positives", text, at)
			}
		} else if key != "mean" && key != "ap" && key != "afroc" && key != "afroc1" {
			return nil, usageError("--min %q: %q is unknown, want mean, ap, afroc, afroc1 or @N", text, key)
		}
		out = append(out, g)
	}
	return out, nil
}

func checkGates(gates []gate, systems []frocSystem) error {
	var missed []error
	for _, s := range systems {
		for _, g := range gates {
			value, name := 0.0, g.key
			switch g.key {
			case "mean":
				value, name = s.result.MeanSensitivity, "mean sensitivity"
			case "ap":
				value = s.result.AP
			case "afroc":
				value = s.result.Merit.AFROC
			case "afroc1":
				value = s.result.Merit.AFROC1
			default:
				value, name = s.result.At(g.fppi).Sensitivity, fmt.Sprintf("sensitivity at %g", g.fppi)
			}
			if !(value >= g.least) {
				missed = append(missed, fmt.Errorf("%s: %s is %.6f, below the gate of %g", s.name, name, value, g.least))
			}
		}
	}
	return gateError(errors.Join(missed...))
}

// frocSystems splits NAME=FILE; without a name the file's own is taken.
func frocSystems(texts []string) ([]frocSystem, error) {
	var out []frocSystem
	names := map[string]bool{}
	for _, text := range texts {
		s := frocSystem{path: text}
		if name, path, named := strings.Cut(text, "="); named {
			if _, err := os.Stat(text); err != nil {
				s.name, s.path = name, path
			}
		}
		if s.name == "" {
			s.name = strings.TrimSuffix(filepath.Base(s.path), filepath.Ext(s.path))
		}
		if names[s.name] {
			return nil, usageError("--predictions: two systems are called %q; name them as NAME=FILE", s.name)
		}
		names[s.name] = true
		out = append(out, s)
	}
	return out, nil
}

func addAPAtIoU(s *frocio.System, r *froc.Result, p froc.Protocol, ious []float64) error {
	if len(ious) == 0 {
		return nil
	}
	points, err := froc.AveragePrecisionAt(r.Truth, r.Predictions, p, ious)
	if err != nil {
		return err
	}
	var mean frocio.Number
	for _, at := range points {
		s.APAtIoU = append(s.APAtIoU, frocio.APAtIoU{IoU: at.IoU, AP: frocio.Number(at.AP)})
		mean += frocio.Number(at.AP / float64(len(points)))
	}
	s.APMean = &mean
	return nil
}

func addStrata(s *frocio.System, r *froc.Result, p froc.Protocol, by stratifyBy, rule froc.StrataRule, withBootstrap bool, o resample.Options) error {
	strata, err := froc.Strata(r.Truth, r.Predictions, p, by.column, by.edges, rule)
	if err != nil {
		return err
	}
	for _, stratum := range strata {
		var b *froc.Bootstrap
		if withBootstrap {
			b, err = stratum.Result.Bootstrap(o)
			if errors.Is(err, froc.ErrTooFewReplicates) {
				b = nil // a stratum of very few patients has no interval
			} else if err != nil {
				return err
			}
		}
		s.Strata = append(s.Strata, frocio.Stratum{Column: by.column, Value: stratum.Name, System: frocio.NewSystem("", stratum.Result, b)})
	}
	return nil
}

func compareSystems(systems []frocSystem, o resample.Options, allPairs bool) ([]frocio.Pair, error) {
	var named []froc.Named
	for _, s := range systems {
		named = append(named, froc.Named{Name: s.name, Result: s.result})
	}
	comparison, err := froc.Compare(named, froc.CompareOptions{BootstrapOptions: o, AllPairs: allPairs})
	if err != nil {
		return nil, err
	}
	return frocio.NewPairs(comparison, systems[0].result.Protocol.FPPI), nil
}

// writeFROCFiles writes the files the flags ask for. With several systems the
// name of each is put before the ending.
func writeFROCFiles(c *cli.Context, systems []frocSystem, report *frocio.Report, o resample.Options, withBootstrap bool) error {
	for _, file := range []struct {
		flag  string
		write func(io.Writer, *frocSystem) error
	}{
		{"curve", func(w io.Writer, s *frocSystem) error { return frocio.WriteCurve(w, s.result) }},
		{"lesions", func(w io.Writer, s *frocSystem) error { return frocio.WriteLesions(w, s.result, s.rows) }},
		{"marks", func(w io.Writer, s *frocSystem) error { return frocio.WriteMarks(w, s.result, s.rows, false) }},
		{"false-positives", func(w io.Writer, s *frocSystem) error { return frocio.WriteMarks(w, s.result, s.rows, true) }},
	} {
		path := c.String(file.flag)
		if path == "" {
			continue
		}
		for i := range systems {
			s := &systems[i]
			target := path
			if len(systems) > 1 {
				target = strings.TrimSuffix(path, filepath.Ext(path)) + "." + s.name + filepath.Ext(path)
			}
			if err := frocio.WriteFile(target, func(w io.Writer) error { return file.write(w, s) }); err != nil {
				return fmt.Errorf("--%s: %w", file.flag, err)
			}
		}
	}
	if path := c.String("out"); path != "" {
		if err := frocio.WriteFile(path, func(w io.Writer) error { return frocio.WriteJSON(w, report) }); err != nil {
			return fmt.Errorf("--out: %w", err)
		}
	}
	if path := c.String("plot"); path != "" {
		return plotFROC(path, systems, o, withBootstrap)
	}
	return nil
}

func plotFROC(path string, systems []frocSystem, o resample.Options, withBootstrap bool) error {
	var curves []frocplot.Curve
	for _, s := range systems {
		curve := frocplot.Curve{Name: s.name, Result: s.result}
		if withBootstrap {
			low, high := frocplot.Range(s.result.Protocol)
			const points = 60
			band, err := s.result.Band(low, high, points, o)
			if err != nil {
				return err
			}
			curve.Band = band
		}
		curves = append(curves, curve)
	}
	return frocplot.Save(path, frocplot.Options{}, curves...)
}

func writeFROCText(w io.Writer, protocol froc.Protocol, systems []frocSystem, report *frocio.Report) error {
	fmt.Fprintf(w, "protocol %s: %s\n", protocol.Name, protocol.Description)
	writeRules(w, protocol)
	for _, s := range systems {
		n := s.report.Counts
		fmt.Fprintf(w, "\n%s\n", s.name)
		fmt.Fprintf(w, "  %d images (%d without lesions, %d without predictions), %d patients; FP counted per %s: %d\n",
			n.Images, n.LesionFreeImages, n.ImagesWithoutMark, n.Patients, protocol.Unit, n.Units)
		fmt.Fprintf(w, "  %d lesions, %d found; %d ignored lesions\n", n.Lesions, n.Found, n.IgnoredLesions)
		fmt.Fprintf(w, "  %d predictions (%d tied): %d true positives, %d false positives, %d duplicates, %d ignored, %d over the cap\n",
			n.Predictions, n.TiedScores, n.TruePositives, n.FalsePositives, n.Duplicates, n.IgnoredMarks, n.OverCap)
		if n.Patients < n.Images {
			per := func(count int) float64 { return float64(count) / float64(n.Patients) }
			fmt.Fprintf(w, "  per patient: %.1f images, %.2f lesions, %.1f predictions, %.1f false positives\n",
				per(n.Images), per(n.Lesions), per(n.Predictions), per(n.FalsePositives))
		}
		if s.report.WithoutLesion > 0 {
			fmt.Fprintf(w, "  %d bootstrap replicates contain no lesion and are left out\n", s.report.WithoutLesion)
		}
		table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		fmt.Fprintf(table, "  FP/%s\tsensitivity\t%s\tthreshold\t\n", protocol.Unit, intervalTitle(report.Bootstrap))
		for _, p := range s.report.OperatingPoints {
			mark := ""
			if !p.Reached {
				mark = "not reached"
			}
			fmt.Fprintf(table, "  %g\t%s\t%s\t%s\t%s\n", p.FPPI, figure(p.Sensitivity), formatRange(p.CI), threshold(p.Threshold), mark)
		}
		fmt.Fprintf(table, "  mean\t%s\t%s\t\t\n", figure(s.report.MeanSensitivity), formatRange(s.report.MeanCI))
		fmt.Fprintf(table, "  AP\t%s\t%s\t\t\n", figure(s.report.AP), formatRange(s.report.APCI))
		for _, key := range []string{"afroc", "afroc1"} {
			m := s.report.Merit[key]
			note := ""
			if math.IsNaN(float64(m.Value)) {
				note = "undefined: no lesion-free images"
			}
			fmt.Fprintf(table, "  %s\t%s\t%s\t\t%s\n", strings.ToUpper(key), figure(m.Value), formatRange(m.CI), note)
		}
		for _, at := range s.report.APAtIoU {
			fmt.Fprintf(table, "  AP at IoU %g\t%s\t\t\t\n", at.IoU, figure(at.AP))
		}
		if s.report.APMean != nil {
			fmt.Fprintf(table, "  AP, mean over IoU\t%s\t\t\t\n", figure(*s.report.APMean))
		}
		if err := table.Flush(); err != nil {
			return err
		}
		if err := writeStrataText(w, protocol, s.report.Strata, report.Bootstrap); err != nil {
			return err
		}
	}
	return writeComparisonText(w, report)
}

func writeStrataText(w io.Writer, protocol froc.Protocol, strata []frocio.Stratum, b *frocio.Resampling) error {
	if len(strata) == 0 {
		return nil
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(table, "\n  stratum\tlesions\tmean\t%s", intervalTitle(b))
	for _, x := range protocol.FPPI {
		fmt.Fprintf(table, "\t@%g", x)
	}
	fmt.Fprintln(table)
	for _, s := range strata {
		fmt.Fprintf(table, "  %s %s\t%d\t%s\t%s", s.Column, s.Value, s.Counts.Lesions, figure(s.MeanSensitivity), formatRange(s.MeanCI))
		for _, p := range s.OperatingPoints {
			fmt.Fprintf(table, "\t%s", figure(p.Sensitivity))
		}
		fmt.Fprintln(table)
	}
	return table.Flush()
}

func writeComparisonText(w io.Writer, report *frocio.Report) error {
	if len(report.Comparison) == 0 {
		return nil
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(table, "\nmean sensitivity\tdifference\t%s\tp bootstrap\tp permutation\tHolm\t\n", intervalTitle(report.Bootstrap))
	for _, p := range report.Comparison {
		fmt.Fprintf(table, "%s - %s\t%+.4f\t%s\t%.4f\t%.4f\t%.4f, %.4f\t\n", p.B, p.A, float64(p.Mean.Value), formatRange(p.Mean.CI),
			float64(p.Mean.BootstrapP), float64(p.Mean.PermutationP), float64(p.HolmBootstrapP), float64(p.HolmPermutationP))
		for _, at := range p.Points {
			fmt.Fprintf(table, "  at %g\t%+.4f\t%s\t%.4f\t%.4f\t\t\n", at.FPPI, float64(at.Value), formatRange(at.CI),
				float64(at.BootstrapP), float64(at.PermutationP))
		}
	}
	return table.Flush()
}

func intervalTitle(b *frocio.Resampling) string {
	if b == nil {
		return ""
	}
	return fmt.Sprintf("%g%% CI", 100*b.Level)
}

func figure(n frocio.Number) string {
	if math.IsNaN(float64(n)) {
		return "-"
	}
	return fmt.Sprintf("%.4f", float64(n))
}

func threshold(n frocio.Number) string {
	if math.IsNaN(float64(n)) {
		return "none"
	}
	return fmt.Sprintf("%.6g", float64(n))
}

func formatRange(r frocio.Range) string {
	if r == nil {
		return ""
	}
	return fmt.Sprintf("%.4f to %.4f", float64(r[0]), float64(r[1]))
}
