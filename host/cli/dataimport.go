package cli

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/alignedfusion/alignedfusion/host/dataset/importer"
	"github.com/alignedfusion/alignedfusion/internal/nifti"
)

func dataImportCommand() *cli.Command {
	return &cli.Command{
		Name:      "import",
		Usage:     "make a data set of scans: DICOM series and volumes, boxes in a table or masks; of COCO, VOC, YOLO",
		ArgsUsage: "FOLDER",
		Description: `Writes OUT/volumes/*.nii, volumes.csv and boxes.csv, the layout volumes:OUT. A series is one volume; its id is its folder's
name. Voxels keep their place in the patient; names and numbers of patients do not leave the headers. What would have
to be guessed (missing slices, several images of one place, coordinates without a frame) is refused by file and row.
A folder of pictures with boxes of COCO, Pascal VOC or YOLO becomes the layout boxes:OUT. Repeating an import writes what is missing and keeps the columns of volumes.csv, the split above all.`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "out", Usage: "the data set's folder", Required: true, TakesFile: true},
			&cli.StringFlag{Name: "boxes", Usage: "a CSV of boxes: id or series, x1,y1,z1,x2,y2,z2 or centre and size, optional class, ignore", TakesFile: true},
			&cli.StringFlag{Name: "coordinates", Usage: "what the boxes are in: " + strings.Join(nifti.Frames, ", ") + " (lps and ras: mm)"},
			&cli.StringFlag{Name: "reports", Usage: "a CSV of reports or a folder of .txt, by the names of the scans or pictures: becomes reports.csv, for train --reports", TakesFile: true},
			&cli.StringFlag{Name: "masks", Usage: "a folder of label volumes named like the scans (default: labelsTr beside imagesTr)", TakesFile: true},
			&cli.StringFlag{Name: "instances", Usage: "what one lesion of a mask is: " + strings.Join(importer.InstanceRules, " or ") + " (default: component; label beside a JSON of instances)"},
			shardFlag(),
			&cli.BoolFlag{Name: "json", Usage: "print a summary as JSON"},
		},
		Action: dataImport,
	}
}

func dataImport(c *cli.Context) error {
	if c.NArg() != 1 {
		return usageError("data import takes one folder of scans, %d were given", c.NArg())
	}
	o := importer.Options{Source: c.Args().First(), Out: c.String("out"), Boxes: c.String("boxes"), Coordinates: c.String("coordinates"), Reports: c.String("reports"),
		Masks: c.String("masks"), Instances: c.String("instances")}
	if o.Boxes != "" && !slices.Contains(nifti.Frames, o.Coordinates) {
		return usageError("--coordinates %q: say what the boxes of %s are in, one of %s", o.Coordinates, o.Boxes, strings.Join(nifti.Frames, ", "))
	}
	if o.Boxes == "" && o.Coordinates != "" {
		return usageError("--coordinates is about --boxes, which is not given")
	}
	if o.Instances != "" && !slices.Contains(importer.InstanceRules, o.Instances) {
		return usageError("--instances %q, want %s", o.Instances, strings.Join(importer.InstanceRules, " or "))
	}
	o.Progress = func(done, all int, id string) { fmt.Fprintf(c.App.ErrWriter, "%d/%d %s\n", done, all, id) }
	d, err := divide(c)
	if err != nil {
		return err
	}
	var inputs map[string]string
	o.Found = func(scans map[string]string) (err error) {
		if inputs, err = importInputs(o, scans); err != nil || d.merged == nil {
			return err
		}
		return errors.Join(d.check(inputs), d.gatherVolumes(o.Out))
	}
	if !d.Whole() {
		o.Part = d.Range
	}
	s, err := importer.Import(c.Context, o)
	if errors.Is(err, importer.ErrPart) {
		return usageError("--shard %s: %w", d.Spec, err)
	}
	if err != nil {
		return err
	}
	if !d.Whole() {
		return d.leave(c, inputs, s.Made, fmt.Sprintf("%d of %d volumes, %d written", len(s.Made), s.Volumes, s.Written))
	}
	if c.Bool("json") {
		return writeJSON(c.App.Writer, s)
	}
	for _, n := range s.Notes {
		fmt.Fprintf(c.App.ErrWriter, "note: %s\n", n)
	}
	if s.Reports > 0 {
		fmt.Fprintf(c.App.ErrWriter, "%d reports: %s (train --reports)\n", s.Reports, filepath.ToSlash(filepath.Join(o.Out, "reports.csv")))
	}
	if s.Images > 0 {
		fmt.Fprintf(c.App.ErrWriter, "%d pictures, %d boxes; %d pictures written\ndata spec: %s\n", s.Images, s.Boxes, s.Written, s.Spec)
		return nil
	}
	fmt.Fprintf(c.App.ErrWriter, "%d volumes of %d patients, %d slices, %d boxes; %d volumes written\ndata spec: %s\n", s.Volumes, s.Patients, s.Slices, s.Boxes, s.Written, s.Spec)
	return nil
}
