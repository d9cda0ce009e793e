package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"

	"github.com/urfave/cli/v2"

	"github.com/alignedfusion/alignedfusion/eval/resample"
	"github.com/alignedfusion/alignedfusion/host/card"
	"github.com/alignedfusion/alignedfusion/host/workflow"
)

// licenseID is what an SPDX identifier looks like.
var licenseID = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9.+-]*$`)

// cards are the descriptions of a run that export writes.
var cards = []struct {
	name, usage, description string
	write                    func(*card.Card, string) (string, error)
}{
	{"model-card", "a model card (README.md) with a model-index, for model hubs", `Writes OUT/README.md: what the run is, its figures with intervals, its warnings, its data and plugins by their hashes.
What only its author knows is left open, by name. Ids and folders are left out.`, (*card.Card).WriteModelCard},
	{"monai", "the metadata.json of a MONAI bundle", `Writes OUT/configs/metadata.json, which describes the run as the MONAI bundle specification wants it. MONAI does not run
it: the bundle has no network of MONAI's.`, (*card.Card).WriteMONAI},
}

// cardCommands are the subcommands of export that describe a run.
func cardCommands() (commands []*cli.Command) {
	for _, one := range cards {
		commands = append(commands, &cli.Command{
			Name: one.name, Usage: one.usage, ArgsUsage: "RUN", Description: one.description,
			Flags: []cli.Flag{
				&cli.StringFlag{Name: "out", Usage: "`FOLDER` to write to; it is made", Required: true, TakesFile: true},
				&cli.StringFlag{Name: "split", Usage: "split of the figures (default: test where it was predicted, else val)"},
				&cli.StringFlag{Name: "license", Usage: "`ID` of the weights' licence, as SPDX writes it: apache-2.0"},
				&cli.IntFlag{Name: "bootstrap", Value: 1000, Usage: "bootstrap replicates `N`"},
				&cli.BoolFlag{Name: "allow-changed", Usage: "describe a run whose plugins are not those of the training"},
			},
			Action: func(c *cli.Context) error { return runCard(c, one.write) },
		})
	}
	return commands
}

func runCard(c *cli.Context, write func(*card.Card, string) (string, error)) error {
	if c.NArg() != 1 {
		return usageError("%s takes one RUN; see `%s --help`", c.Command.FullName(), c.Command.HelpName)
	}
	license, replicates := c.String("license"), c.Int("bootstrap")
	if license != "" && !licenseID.MatchString(license) {
		return usageError("--license %q: want an SPDX identifier such as apache-2.0", license)
	}
	if replicates < 1 {
		return usageError("--bootstrap %d: want 1 or more", replicates)
	}
	one, err := card.New(c.Context, card.Options{
		Run: c.Args().First(), License: license,
		Compare: workflow.CompareOptions{Split: c.String("split"), AllowChanged: c.Bool("allow-changed"), Resample: resample.Options{Replicates: replicates}},
	})
	if err != nil {
		return err
	}
	if err := os.MkdirAll(c.String("out"), 0o777); err != nil {
		return usageError("--out: %w", err)
	}
	path, err := write(one, c.String("out"))
	if err != nil {
		return err
	}
	fmt.Fprintf(c.App.ErrWriter, "%d figures of the split %s: %s\n", one.Figures(), one.Split, filepath.ToSlash(path))
	for _, w := range one.Warnings {
		fmt.Fprintf(c.App.ErrWriter, "warning: %s\n", w)
	}
	return nil
}
