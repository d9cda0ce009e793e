package cli

import (
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/alignedfusion/alignedfusion/host/doctor"
)

func doctorCommand() *cli.Command {
	return &cli.Command{
		Name:  "doctor",
		Usage: "say what is wrong with this machine and how to mend it",
		Description: `Checks processor, memory, disk, libraries and every plugin (by starting it).
Exit code 1 when a check fails; a warning does not.`,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "json", Usage: "print the findings as JSON"},
			&cli.StringSliceFlag{Name: "plugin-dir", Usage: "search this folder for plugins first (repeatable)", TakesFile: true},
		},
		Action: func(c *cli.Context) error {
			if c.NArg() > 0 {
				return usageError("doctor takes flags only, not %q", c.Args().First())
			}
			report := doctor.Examine(c.Context, doctor.Options{PluginDirs: c.StringSlice("plugin-dir")})
			if c.Bool("json") {
				if err := writeJSON(c.App.Writer, report); err != nil {
					return err
				}
			} else {
				for _, f := range report.Findings {
					fmt.Fprintf(c.App.Writer, "%-4s  %s: %s\n", strings.ToUpper(string(f.Status)), f.Check, f.Detail)
					if f.Mend != "" {
						fmt.Fprintf(c.App.Writer, "      to mend: %s\n", f.Mend)
					}
				}
			}
			if failed := report.Failed(); failed > 0 {
				return fmt.Errorf("%d of %d checks failed", failed, len(report.Findings))
			}
			return nil
		},
	}
}
