package cli

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/alignedfusion/alignedfusion/eval/froc"
	"github.com/alignedfusion/alignedfusion/eval/froc/frocio"
	"github.com/alignedfusion/alignedfusion/eval/froc/frocplot"
	"github.com/alignedfusion/alignedfusion/eval/froc/frocreport"
	"github.com/alignedfusion/alignedfusion/eval/resample"
)

func frocCommand() *cli.Command {
	return &cli.Command{
		Name:  "froc",
		Usage: "evaluate marks of lesions: FROC, operating points, confidence intervals, comparisons",
		Description: "Reads a ground truth and the predictions of one or more systems and prints the sensitivity at given\n" +
			"false positives per image. Every rule of a protocol can be overridden; the resolved set is in the output.\n" +
			"File formats: docs/reference/froc-files.md; every choice: docs/explanation/froc.md.",
		Flags: append([]cli.Flag{
			shardFlag(),
			&cli.StringFlag{Name: "protocol", Value: "strict", Usage: "`NAME` of the rules to evaluate by; alignedfusion froc protocols lists them"},
			&cli.StringSliceFlag{Name: "predictions", TakesFile: true, Usage: "`[NAME=]FILE` or folder with the marks of a system, - is standard input; repeat it to compare systems with the first, with one NAME for the files of one system"},
			&cli.StringFlag{Name: "split", Usage: "evaluate the images of this `SPLIT` alone (DL_info.csv: train, val, test or all; default test)"},
		}, frocFlags()...),
		Action:      runFROC,
		Subcommands: []*cli.Command{frocProtocolsCommand(), frocMRMCCommand()},
	}
}

// frocFlags are those of froc and of compare.
func frocFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "ground-truth", TakesFile: true, Usage: "`FILE` or folder with the lesions: CSV, JSON Lines, COCO or MONAI JSON, DL_info.csv, LUNA16 CSV, .npz, masks, YOLO labels; - is standard input"},
		&cli.StringFlag{Name: "images", Usage: "`FILE` that lists every searched image, lesion-free ones included: image[,patient][,volume][,split][,width,height]"},
		&cli.StringFlag{Name: "excluded", Usage: "`FILE` with regions to ignore"},
		&cli.BoolFlag{Name: "lenient", Usage: "drop and count rows that cannot be used, instead of refusing the file"},
		&cli.StringFlag{Name: "noisy", Usage: "`RULE` for possibly noisy lesions of DL_info.csv: drop, ignore or keep"},
		&cli.StringFlag{Name: "category", Usage: "evaluate this `CLASS` alone, by name or COCO id"},
		&cli.StringFlag{Name: "mask-lesions", Usage: "`WHAT` a lesion of a mask is: labels or components"},
		&cli.StringSliceFlag{Name: "columns", Usage: "`ROLE=COLUMN,…` where the header does not tell: x=left,w=bw, cx=, score=, image=, or a box in one cell: xywh=, xyxy=, cxcywh="},
		&cli.BoolFlag{Name: "decimal-comma", Usage: "1,5 is 1.5 in tables separated by semicolons or tabs"},
		&cli.StringFlag{Name: "readers", Usage: "one lesion of what several readers marked: `RULE` union, vote=K or fuse"},
		&cli.StringFlag{Name: "candidates", Usage: "what a mark of a soft map is: `RULE` components, threshold=T, dynamic (PI-CAI's), dynamic-v2 or dynamic-fast"},
		&cli.StringFlag{Name: "iou-type", Usage: "`WHAT` of COCO files is compared: bbox, or segm for the pixels of segmentations"},
		&cli.StringFlag{Name: "coordinates", Usage: "`FRAME` of points compared with masks: voxel, ras or lps"},

		&cli.StringFlag{Name: "hit", Usage: "`RULE` for a hit, e.g. \"iou>=0.5\", \"distance<radius | iou>=0.3\", \"inplane<=max(0.5*diagonal,100) & slices<=2\", \"inside\""},
		&cli.StringFlag{Name: "ignore-hit", Usage: "`RULE` for a mark on an ignored lesion"},
		&cli.BoolFlag{Name: "plus-one", Usage: "measure a box from x1 to x2 as x2-x1+1 pixels"},
		&cli.StringFlag{Name: "classes", Usage: "`WHICH` lesions a mark finds: those of the same class, or of any"},
		&cli.BoolFlag{Name: "by-class", Usage: "evaluate every class by itself as well, and their mean"},
		&cli.Float64Flag{Name: "slice-tolerance", Usage: "a 2-D box on a slice counts as on all slices within `N`"},
		&cli.StringFlag{Name: "spacing", Usage: "`X,Y,Z` millimetres per unit of the coordinates, for distances (default: the list of images', else 1)"},
		&cli.StringFlag{Name: "duplicates", Usage: "`RULE` for further marks on a found lesion: free or fp"},
		&cli.StringFlag{Name: "multiple", Usage: "`HOW` many of the lesions it hits a mark finds: all, one (the best of those left) or best (that alone)"},
		&cli.IntFlag{Name: "max-per-image", Usage: "marks kept per image, 0 for all"},
		&cli.StringFlag{Name: "cap-ties", Usage: "`RULE` for marks tied at that limit: drop or keep"},
		&cli.StringFlag{Name: "fppi", Usage: "`LIST` of false positives per image, e.g. 0.5,1,2"},
		&cli.StringFlag{Name: "interpolation", Usage: "`KIND` of line between the points of the curve: step or linear"},
		&cli.StringFlag{Name: "unit", Usage: "`UNIT` of false positives: per image, volume or patient"},
		&cli.StringFlag{Name: "cluster", Usage: "`UNIT` that is resampled whole: patient, volume or image"},
		&cli.StringFlag{Name: "ap", Usage: "`KIND` of average precision: all-points, recall-grid-101 or step"},
		&cli.StringFlag{Name: "assignment", Usage: "`BY` what marks are given to lesions: score, or overlap (picai_eval)"},
		&cli.StringFlag{Name: "ties", Usage: "`RULE` for marks of one score: one step, or a step each in the order of input (COCOeval)"},
		&cli.StringFlag{Name: "iou", Usage: "`LIST` of IoUs for average precision, e.g. 0.5,0.75 or 0.5:0.95:0.05"},

		&cli.IntFlag{Name: "bootstrap", Value: 1000, Usage: "bootstrap replicates `N`, 0 for no intervals"},
		&cli.IntFlag{Name: "permutations", Usage: "permutations `N` in comparisons (default: as many as replicates)"},
		&cli.Uint64Flag{Name: "seed", Usage: "of the random numbers"},
		&cli.StringFlag{Name: "ci", Value: string(resample.Percentile), Usage: "`KIND` of interval: percentile or bca"},
		&cli.Float64Flag{Name: "level", Value: 0.95, Usage: "of the intervals"},
		&cli.BoolFlag{Name: "all-pairs", Usage: "compare every pair of systems, not only each with the first"},

		&cli.StringSliceFlag{Name: "strata", Usage: "`COLUMN` of the ground truth, or COLUMN:EDGE,EDGE for numbers; repeatable"},
		&cli.StringFlag{Name: "strata-rule", Value: string(froc.StrataIgnore), Usage: "`RULE` for lesions of other strata: ignore, or papers (biased: marks on them become false positives)"},

		&cli.BoolFlag{Name: "json", Usage: "write JSON to stdout"},
		&cli.StringFlag{Name: "out", Usage: "write the JSON to `FILE` as well"},
		&cli.StringFlag{Name: "plot", Usage: "draw the curves into `FILE`.svg, .png or .pdf"},
		&cli.StringFlag{Name: "plot-kind", Value: string(frocreport.PlotFROC), Usage: "`KIND` of curves of --plot: froc, afroc (false positives on images without lesions), afroc1 (on all images) or strata (FROC of each, with --strata)"},
		&cli.StringFlag{Name: "plot-axis", Value: "log", Usage: "`AXIS` of false positives of --plot: log or linear"},
		&cli.StringFlag{Name: "curve", Usage: "write the whole curve to `FILE` (CSV)"},
		&cli.StringFlag{Name: "lesions", Usage: "write the fate of every lesion to `FILE` (CSV)"},
		&cli.StringFlag{Name: "marks", Usage: "write the fate of every mark to `FILE` (CSV)"},
		&cli.StringFlag{Name: "false-positives", Usage: "write the false positives to `FILE` (CSV)"},
		&cli.StringSliceFlag{Name: "min", Usage: "`KEY=VALUE` gate, exit 7 below it: mean, ap, afroc, afroc1, or sensitivity at N as @N; repeatable"},
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
				frocreport.WriteRules(c.App.Writer, p)
				fmt.Fprintln(c.App.Writer)
			}
			return nil
		},
	}
}

func runFROC(c *cli.Context) error {
	if c.NArg() > 0 {
		hint := "files are given by flags: --ground-truth FILE --predictions FILE"
		if _, err := strconv.ParseFloat(c.Args().First(), 64); err == nil {
			hint = "lists of numbers are written with commas: --fppi 0.5,1,2"
		}
		return usageError("froc takes no arguments, got %q; %s", c.Args().First(), hint)
	}
	for _, name := range []string{"ground-truth", "predictions"} {
		if !c.IsSet(name) {
			return usageError("froc needs --%s; see `alignedfusion froc --help`", name)
		}
	}
	o, err := frocOptions(c)
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
	d, err := divide(c)
	if err != nil {
		return err
	}
	inputs, err := d.froc(c, &o)
	if err != nil {
		return err
	}
	// Of ten million marks little is garbage: collecting it twice as often costs no time and
	// saves a sixth of the memory.
	debug.SetGCPercent(50)
	report, err := frocreport.Run(c.Context, o)
	if err != nil {
		return dataError(err)
	}
	if !d.Whole() {
		return d.leave(c, inputs, o.Resample.Division.Made, fmt.Sprintf("a share of %d loops of replicates and permutations", len(o.Resample.Division.Made)))
	}
	if err := writeFROCFiles(c, report); err != nil {
		return err
	}
	for _, note := range report.Document.Notes {
		fmt.Fprintf(c.App.ErrWriter, "note: %s\n", note)
	}
	for _, warning := range report.Document.Warnings {
		fmt.Fprintf(c.App.ErrWriter, "warning: %s\n", warning)
	}
	write := report.WriteText
	if c.Bool("json") {
		write = report.WriteJSON
	}
	if err := write(c.App.Writer); err != nil {
		return err
	}
	return gateError(report.Check(gates))
}

func parseGates(c *cli.Context) (gates []frocreport.Gate, err error) {
	for _, text := range c.StringSlice("min") {
		g, err := frocreport.ParseGate(text)
		if err != nil {
			return nil, usageError("--min %w", err)
		}
		gates = append(gates, g)
	}
	return gates, nil
}

func frocOptions(c *cli.Context) (o frocreport.Options, err error) {
	if o, err = frocSettings(c); err != nil {
		return o, err
	}
	if o.Protocol, err = froc.ProtocolByName(c.String("protocol")); err != nil {
		return o, usageError("--protocol: %w", err)
	}
	if o.Protocol, err = overrideRules(c, o.Protocol); err != nil {
		return o, err
	}
	o.Systems = frocSystems(c.StringSlice("predictions"))
	if err := oneStdin(append([]string{o.Truth.GroundTruth, o.Truth.Images, o.Truth.Excluded}, paths(o.Systems)...)); err != nil {
		return o, err
	}
	if err := o.Check(); err != nil {
		return o, usageError("%w", err)
	}
	return o, nil
}

// frocSettings are what the flags say besides the protocol and the systems.
func frocSettings(c *cli.Context) (o frocreport.Options, err error) {
	if o.IoUs, err = parseIoUs(c.String("iou")); err != nil {
		return o, err
	}
	if o.Strata, err = parseStrata(c.StringSlice("strata")); err != nil {
		return o, err
	}
	o.StrataRule = froc.StrataRule(c.String("strata-rule"))
	o.Truth = frocio.Source{GroundTruth: c.String("ground-truth"), Images: c.String("images"), Excluded: c.String("excluded")}
	o.Read = frocio.Options{
		Lenient: c.Bool("lenient"), Split: c.String("split"), Noisy: frocio.NoisyRule(c.String("noisy")), Category: c.String("category"),
		MaskLesions: frocio.MaskRule(c.String("mask-lesions")), Coordinates: frocio.Coordinates(c.String("coordinates")),
		IoUType: frocio.IoUType(c.String("iou-type")),
	}
	if c.IsSet("spacing") {
		mm, err := parseNumbers(c.String("spacing"))
		if err != nil {
			return o, usageError("--spacing: %w", err)
		}
		if len(mm) != 3 || slices.Min(mm) <= 0 {
			return o, usageError("--spacing %q, want three lengths above 0, of x, y and z", c.String("spacing"))
		}
		o.Read.SpacingMM = [3]float64(mm)
	}
	if err := readFROCRules(c, &o.Read); err != nil {
		return o, err
	}
	o.AllPairs, o.ByClass = c.Bool("all-pairs"), c.Bool("by-class")
	o.Resample = resample.Options{
		Replicates: c.Int("bootstrap"), Permutations: c.Int("permutations"), Seed: c.Uint64("seed"),
		Level: c.Float64("level"), Method: resample.Method(c.String("ci")),
	}
	return o, nil
}

// frocSystems reads [NAME=]FILE; files of one name are one system's.
func frocSystems(texts []string) (out []frocreport.System) {
	named := map[string]int{}
	for _, text := range texts {
		name, path := splitName(text)
		if k, again := named[name]; again && name != "" {
			out[k].More = append(out[k].More, path)
			continue
		}
		if name != "" {
			named[name] = len(out)
		} else if name = strings.TrimSuffix(filepath.Base(strings.TrimSuffix(path, ".gz")), filepath.Ext(strings.TrimSuffix(path, ".gz"))); path == frocio.Stdin {
			name = "stdin"
		}
		out = append(out, frocreport.System{Name: name, Path: path})
	}
	return out
}

func paths(systems []frocreport.System) (out []string) {
	for _, s := range systems {
		out = append(append(out, s.Path), s.More...)
	}
	return out
}

// oneStdin refuses to read standard input twice.
func oneStdin(paths []string) error {
	n := 0
	for _, p := range paths {
		if p == frocio.Stdin {
			n++
		}
	}
	if n > 1 {
		return usageError("- (standard input) is given %d times, it can be read once", n)
	}
	return nil
}

// readFROCRules reads the flags that say how files are understood.
func readFROCRules(c *cli.Context, o *frocio.Options) error {
	o.DecimalComma = c.Bool("decimal-comma")
	for _, text := range c.StringSlice("columns") {
		for part := range strings.SplitSeq(text, ",") {
			role, column, ok := strings.Cut(part, "=")
			role, column = strings.TrimSpace(role), strings.TrimSpace(column)
			if !ok || role == "" || column == "" {
				return usageError("--columns %q, want ROLE=COLUMN separated by commas", text)
			}
			if o.Columns == nil {
				o.Columns = map[string]string{}
			}
			o.Columns[role] = column
		}
	}
	rule, value, valued := strings.Cut(c.String("readers"), "=")
	o.Readers = frocio.ReaderRule(rule)
	var err error
	if o.Votes, err = strconv.Atoi(value); (err != nil || o.Readers != frocio.ReadersVote) && (valued || o.Readers == frocio.ReadersVote) {
		return usageError("--readers %q, want union, vote=K or fuse", c.String("readers"))
	}
	rule, value, valued = strings.Cut(c.String("candidates"), "=")
	o.Candidates = frocio.Candidates(rule)
	if o.Threshold, err = strconv.ParseFloat(value, 64); (err != nil || !(o.Threshold > 0) || o.Candidates != frocio.CandidatesThreshold) &&
		(valued || o.Candidates == frocio.CandidatesThreshold) {
		return usageError("--candidates %q, want components, dynamic, dynamic-v2, dynamic-fast or threshold=T with T above 0", c.String("candidates"))
	}
	if err := o.Check(); err != nil {
		return usageError("%w", err)
	}
	return nil
}

// checkFROCFiles refuses files that could not be written, before anything is computed.
func checkFROCFiles(c *cli.Context) error {
	paths := map[string][]string{"out": nil, "plot": {".svg", ".png", ".pdf"}}
	for _, table := range frocreport.Tables() {
		paths[string(table)] = nil
	}
	for _, flag := range slices.Sorted(maps.Keys(paths)) {
		if path := c.String(flag); path != "" {
			if err := checkOutput(flag, path, paths[flag]); err != nil {
				return err
			}
		}
	}
	return checkPlot(c)
}

// checkPlot refuses a plot that cannot be drawn.
func checkPlot(c *cli.Context) error {
	kind, axis := frocreport.PlotKind(c.String("plot-kind")), c.String("plot-axis")
	switch {
	case !slices.Contains(frocreport.PlotKinds(), kind):
		return usageError("--plot-kind %s: want froc, afroc, afroc1 or strata", kind)
	case axis != "log" && axis != "linear":
		return usageError("--plot-axis %s: want log or linear", axis)
	case c.String("plot") == "" && (c.IsSet("plot-kind") || c.IsSet("plot-axis")):
		return usageError("--plot-kind and --plot-axis need --plot FILE")
	case c.IsSet("plot-axis") && axis == "log" && strings.HasPrefix(string(kind), "afroc"):
		return usageError("--plot-axis log: the axes of %s are shares from 0 to 1, which are linear", kind)
	case kind == frocreport.PlotStrata && len(c.StringSlice("strata")) == 0:
		return usageError("--plot-kind strata needs --strata COLUMN")
	}
	return nil
}

// writeFROCFiles writes the files the flags ask for.
func writeFROCFiles(c *cli.Context, report *frocreport.Report) error {
	for _, table := range frocreport.Tables() {
		if path := c.String(string(table)); path != "" {
			if err := report.SaveTable(path, table); err != nil {
				return fmt.Errorf("--%s: %w", table, err)
			}
		}
	}
	if path := c.String("out"); path != "" {
		if err := frocio.WriteFile(path, report.WriteJSON); err != nil {
			return fmt.Errorf("--out: %w", err)
		}
	}
	if path := c.String("plot"); path != "" {
		err := report.SavePlot(path, frocreport.Plot{Kind: frocreport.PlotKind(c.String("plot-kind")), Linear: c.String("plot-axis") == "linear"})
		if errors.Is(err, frocplot.ErrNoLesionFreeImages) {
			err = dataError(err)
		}
		return err
	}
	return nil
}

// overrideRules applies the flags that override a protocol's rules.
func overrideRules(c *cli.Context, p froc.Protocol) (froc.Protocol, error) {
	var err error
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
	override(c, "classes", &p.Classes)
	override(c, "assignment", &p.Assignment)
	override(c, "ties", &p.Ties)
	if c.IsSet("plus-one") {
		p.PlusOne = c.Bool("plus-one")
	}
	if c.IsSet("slice-tolerance") {
		p.SliceTolerance = c.Float64("slice-tolerance")
	}
	if c.IsSet("max-per-image") {
		p.MaxPerImage = c.Int("max-per-image")
	}
	if c.IsSet("fppi") {
		if p.FPPI, err = parseNumbers(c.String("fppi")); err != nil {
			return p, usageError("--fppi: %w", err)
		}
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

func parseStrata(texts []string) ([]frocreport.Strata, error) {
	var out []frocreport.Strata
	for _, text := range texts {
		column, edges, ranged := strings.Cut(text, ":")
		by := frocreport.Strata{Column: column}
		if ranged {
			var err error
			if by.Edges, err = parseNumbers(edges); err != nil {
				return nil, usageError("--strata: %w", err)
			}
		}
		out = append(out, by)
	}
	return out, nil
}
