package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"github.com/alignedfusion/alignedfusion/host/runs"
	"github.com/alignedfusion/alignedfusion/host/weights"
)

func weightsCommand() *cli.Command {
	return &cli.Command{
		Name:  "weights",
		Usage: "convert PyTorch checkpoints to safetensors, list weight files",
		Subcommands: []*cli.Command{
			{
				Name:      "import",
				Usage:     "convert a PyTorch checkpoint (.pth, .pt) to safetensors without running anything in it",
				ArgsUsage: "FROM.pth TO.safetensors",
				Description: "Reads what torch.save wrote, in its zip or its older layout: a state dict, or a training checkpoint\n" +
					"with one inside (the rest is left out). Only instructions that build tensors and containers are\n" +
					"followed; a file with anything else is refused. A prefix module. on every name is removed.",
				Flags: []cli.Flag{
					&cli.BoolFlag{Name: "force", Usage: "replace TO when it exists"},
					&cli.BoolFlag{Name: "json", Usage: "write a description of the weights as JSON to stdout"},
				},
				Action: runWeightsImport,
			},
			{
				Name:      "export",
				Usage:     "copy what a stage of a run has learned to a safetensors file",
				ArgsUsage: "TO.safetensors",
				Description: "The file is what a stage's own setting weights takes, in this or another run, and what other programs read:\n\n" +
					"  alignedfusion weights export --run runs/image --role encoder image.safetensors",
				Flags: []cli.Flag{
					&cli.StringFlag{Name: "run", Usage: "`RUN` directory", Required: true},
					&cli.StringFlag{Name: "role", Usage: "encoder, fusion or head", Required: true},
					&cli.StringFlag{Name: "checkpoint", Value: "best", Usage: "best, last or a step `NUMBER`"},
					&cli.BoolFlag{Name: "force", Usage: "replace TO when it exists"},
				},
				Action: runWeightsExport,
			},
			{
				Name:      "inspect",
				Usage:     "list the tensors of a safetensors file or PyTorch checkpoint",
				ArgsUsage: "FILE",
				Flags:     []cli.Flag{&cli.BoolFlag{Name: "json", Usage: "write JSON to stdout"}},
				Action:    runWeightsInspect,
			},
		},
	}
}

func runWeightsImport(c *cli.Context) error {
	if c.NArg() != 2 {
		return usageError("%d arguments given, want FROM.pth TO.safetensors", c.NArg())
	}
	from, to := c.Args().Get(0), c.Args().Get(1)
	if err := checkWeightsTarget(c, to); err != nil {
		return err
	}
	report, err := weights.Import(from, to)
	if err != nil {
		return weightsError(err)
	}
	if c.Bool("json") {
		return writeWeightsJSON(c, to, report)
	}
	fmt.Fprintf(c.App.ErrWriter, "%s: %d tensors, %d elements\n", to, len(report.Entries), report.Elements)
	if len(report.Skipped) > 0 {
		fmt.Fprintf(c.App.ErrWriter, "left out, no weights: %s\n", strings.Join(report.Skipped, ", "))
	}
	warnNonFinite(c, report)
	return nil
}

// checkWeightsTarget refuses a name that is no safetensors file's or is taken.
func checkWeightsTarget(c *cli.Context, to string) error {
	if filepath.Ext(to) != ".safetensors" {
		return usageError("%s given, want a name that ends in .safetensors", to)
	}
	if _, err := os.Lstat(to); err == nil && !c.Bool("force") {
		return usageError("%s exists; --force replaces it", to)
	}
	return checkFile("TO", to)
}

// weightsFile is what stages call the file of their weights in a checkpoint.
const weightsFile = "weights.safetensors"

func runWeightsExport(c *cli.Context) error {
	if c.NArg() != 1 {
		return usageError("%d arguments given, want TO.safetensors", c.NArg())
	}
	to, role := c.Args().First(), c.String("role")
	if err := checkWeightsTarget(c, to); err != nil {
		return err
	}
	if roles := []string{"encoder", "fusion", "head"}; !slices.Contains(roles, role) {
		return usageError("--role %s given, want one of %s", role, strings.Join(roles, ", "))
	}
	checkpoint, warnings, err := runs.Find(c.String("run"), c.String("checkpoint"))
	if err != nil {
		return err
	}
	for _, w := range warnings {
		fmt.Fprintf(c.App.ErrWriter, "warning: %s\n", w)
	}
	data, err := os.ReadFile(filepath.Join(checkpoint.StageDir(role), weightsFile))
	if errors.Is(err, fs.ErrNotExist) {
		return dataError(fmt.Errorf("%s: its %s has no %s: it learns nothing, or keeps what it learned in a form of its own", checkpoint.Dir, role, weightsFile))
	}
	if err != nil {
		return err
	}
	if err := runs.WriteFile(to, data); err != nil {
		return err
	}
	fmt.Fprintf(c.App.ErrWriter, "%s: the %s of step %d\n", to, role, checkpoint.State.Step)
	return nil
}

func runWeightsInspect(c *cli.Context) error {
	if c.NArg() != 1 {
		return usageError("%d arguments given, want FILE", c.NArg())
	}
	report, err := weights.Read(c.Args().First())
	if err != nil {
		return weightsError(err)
	}
	if c.Bool("json") {
		return writeWeightsJSON(c, c.Args().First(), report)
	}
	w := tabwriter.NewWriter(c.App.Writer, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "name\tdtype\tshape\tbytes")
	for _, e := range report.Entries {
		fmt.Fprintf(w, "%s\t%s\t%v\t%d\n", e.Name, e.DType, e.Shape, e.Bytes)
	}
	fmt.Fprintf(w, "%d tensors\t\t%d elements\t%d\n", len(report.Entries), report.Elements, report.Bytes)
	if err := w.Flush(); err != nil {
		return err
	}
	warnNonFinite(c, report)
	return nil
}

func warnNonFinite(c *cli.Context, report *weights.Report) {
	for _, e := range report.Entries {
		if e.NonFinite > 0 {
			fmt.Fprintf(c.App.ErrWriter, "warning: %s has %d elements that are NaN or infinite; a stage refuses such weights\n", e.Name, e.NonFinite)
		}
	}
}

func writeWeightsJSON(c *cli.Context, file string, report *weights.Report) error {
	e := json.NewEncoder(c.App.Writer)
	e.SetIndent("", "  ")
	return e.Encode(struct {
		SchemaVersion int    `json:"schema_version"`
		File          string `json:"file"`
		*weights.Report
	}{1, file, report})
}

// weightsError sorts failures: what the file holds is bad data, the disk is a resource.
func weightsError(err error) error {
	if errors.Is(err, weights.ErrFormat) || errors.Is(err, weights.ErrUnsafe) || errors.Is(err, fs.ErrNotExist) {
		return dataError(err)
	}
	var path *fs.PathError
	if errors.As(err, &path) {
		return resourceError(err)
	}
	return dataError(err)
}
