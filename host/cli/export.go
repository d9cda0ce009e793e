package cli

import (
	"fmt"
	"math"
	"os"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/alignedfusion/alignedfusion/host/dataset"
	"github.com/alignedfusion/alignedfusion/host/export"
	"github.com/alignedfusion/alignedfusion/host/workflow"
	"github.com/alignedfusion/alignedfusion/host/workflow/predictions"
)

// exporter is a format that findings are written in.
type exporter struct {
	name, usage, description string
	flags                    []cli.Flag
	write                    func(*cli.Context, *exportInput) ([]string, error)
}

// exportInput is what every exporter gets: findings (nil where --masks stand for them), their
// data, and what found them.
type exportInput struct {
	findings  *export.Findings
	data      *dataset.Dataset
	algorithm export.Algorithm
}

// plain is an exporter that needs findings and data alone.
func plain(write func(*export.Findings, *dataset.Dataset, string) ([]string, error)) func(*cli.Context, *exportInput) ([]string, error) {
	return func(c *cli.Context, in *exportInput) ([]string, error) {
		return write(in.findings, in.data, c.String("out"))
	}
}

var dicomFlag = &cli.StringFlag{Name: "dicom", Usage: "`FOLDER` of the scans' DICOM files (default: what data import was given)", TakesFile: true}

var exporters = []exporter{
	{"dicom-sr", "DICOM structured reports: a measurement group per finding", `Writes OUT/VOLUME_sr.dcm, a Comprehensive 3D SR of TID 1500 beside the series that data import made the volume of:
per finding its tracking identifier, a closed POLYLINE on each of its images, diameter, volume and score, and the plugins
with their hashes. Patient and study are those of the images. What a fusion recovers is marked as an algorithm's output.`,
		[]cli.Flag{dicomFlag, &cli.StringFlag{Name: "reconstruction", Usage: "`FILE`.json of predict --reconstruction: what the fusion recovers for the key images", TakesFile: true}},
		func(c *cli.Context, in *exportInput) ([]string, error) {
			o := export.DICOMOptions{Data: in.data, Source: c.String("dicom"), Out: c.String("out"), Algorithm: in.algorithm}
			if path := c.String("reconstruction"); path != "" {
				recovered, _, err := predictions.ReadReconstructions(path)
				if err != nil {
					return nil, dataError(err)
				}
				o.Recovered = map[string][]export.Recovered{}
				for id, list := range recovered {
					for _, r := range list {
						o.Recovered[id] = append(o.Recovered[id], export.Recovered{Attribute: r.Attribute, Summary: r.Summary})
					}
				}
			}
			return export.WriteReports(c.Context, in.findings, o)
		}},
	{"dicom-seg", "DICOM segmentations of boxes or of label volumes", `Writes OUT/VOLUME_seg.dcm, a binary segmentation of the series that data import made the volume of: a segment per
finding, its box filled, or with --masks one per label.`,
		[]cli.Flag{dicomFlag, &cli.StringFlag{Name: "masks", Usage: "`FOLDER` of label volumes VOLUME.nii on the volumes' own grids, in the place of --findings", TakesFile: true}},
		func(c *cli.Context, in *exportInput) ([]string, error) {
			return export.WriteSegmentations(c.Context, in.findings, c.String("masks"),
				export.DICOMOptions{Data: in.data, Source: c.String("dicom"), Out: c.String("out"), Algorithm: in.algorithm})
		}},
	{"labelmap", "NIfTI label volumes: the n-th best box is n", `Writes OUT/VOLUME.nii on the volume's own grid, and VOLUME.json with the class, label and score of each value.
data import --masks reads them.`, nil, plain(export.WriteLabelMaps)},
	{"slicer", "3D Slicer markups: a region of interest per finding", "Writes OUT/VOLUME.mrk.json in mm (LPS), boxes along the volume's axes.", nil, plain(export.WriteSlicer)},
	{"coco", "COCO results, with the images and boxes of their splits", "Writes OUT/annotations.json and OUT/results.json of boxes of single images (predict --out); pycocotools and froc read them.", nil, plain(export.WriteCOCO)},
	{"nndetection", "nnDetection's lists of boxes", `Writes OUT/VOLUME_boxes.json with pred_boxes (x1 y1 x2 y2 z1 z2: columns, rows, slices as displayed), pred_scores and
pred_labels; froc reads the folder.`, nil, plain(export.WriteNNDetection)},
}

func exportCommand() *cli.Command {
	cmd := &cli.Command{Name: "export", Usage: "write for other programs: findings as DICOM, NIfTI, 3D Slicer, COCO, nnDetection; a run's model card", Subcommands: cardCommands()}
	for _, e := range exporters {
		cmd.Subcommands = append(cmd.Subcommands, &cli.Command{
			Name: e.name, Usage: e.usage, Description: e.description,
			Flags: append([]cli.Flag{
				&cli.StringFlag{Name: "findings", Usage: "`FILE`.csv or .json of predict --findings or, for boxes of single slices, --out", TakesFile: true},
				&cli.StringFlag{Name: "run", Usage: "`RUN` that found them: says the data, and in DICOM the plugins with their hashes"},
				&cli.StringFlag{Name: "data", Usage: "data `SPEC` of the findings (default: the run's)"},
				&cli.StringFlag{Name: "out", Usage: "`FOLDER` to write to; it is made", Required: true, TakesFile: true},
				&cli.Float64Flag{Name: "min-score", Usage: "leave findings below this score out"},
				&cli.BoolFlag{Name: "json", Usage: "list the files as JSON"},
			}, e.flags...),
			Action: func(c *cli.Context) error { return runExport(c, e) },
		})
	}
	return cmd
}

func runExport(c *cli.Context, e exporter) error {
	if err := noArguments(c); err != nil {
		return err
	}
	in, err := openExport(c)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(c.String("out"), 0o777); err != nil {
		return usageError("--out: %w", err)
	}
	paths, err := e.write(c, in)
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return writeJSON(c.App.Writer, struct {
			SchemaVersion int      `json:"schema_version"`
			Files         []string `json:"files"`
		}{1, append([]string{}, paths...)})
	}
	if in.findings != nil {
		fmt.Fprintf(c.App.ErrWriter, "%d findings, ", len(in.findings.List))
	}
	fmt.Fprintf(c.App.ErrWriter, "%d files: %s\n", len(paths), strings.Join(paths, " "))
	return nil
}

// openExport reads run, data and findings.
func openExport(c *cli.Context) (*exportInput, error) {
	path, masks, spec := c.String("findings"), c.String("masks"), c.String("data")
	if (path == "") == (masks == "") {
		if c.Command.Name == "dicom-seg" {
			return nil, usageError("export dicom-seg takes --findings or --masks, one of them")
		}
		return nil, usageError("--findings is missing; see `%s --help`", c.Command.HelpName)
	}
	in := &exportInput{algorithm: export.AlgorithmOf(nil, Version)}
	if dir := c.String("run"); dir != "" {
		r, err := workflow.ReadRun(dir)
		if err != nil {
			return nil, err
		}
		if in.algorithm = export.AlgorithmOf(r.Manifest, Version); spec == "" {
			spec = r.Config.Data
		}
	}
	if spec == "" {
		return nil, usageError("--data is missing: say what the findings are of, with --data or --run; see `%s --help`", c.Command.HelpName)
	}
	var err error
	if in.data, err = dataset.Open(spec, dataset.Options{Task: dataset.Detect}); err != nil || path == "" {
		return in, err
	}
	if in.data.Task != dataset.Detect {
		return nil, usageError("--data %s: the layout is for classification, findings are boxes", spec)
	}
	least := math.Inf(-1)
	if c.IsSet("min-score") {
		least = c.Float64("min-score")
	}
	in.findings, err = export.ReadFindings(path, in.data, least)
	return in, err
}
