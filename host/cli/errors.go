package cli

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"github.com/alignedfusion/alignedfusion/host/fault"
)

func usageError(format string, args ...any) error { return fault.Errorf(fault.Usage, format, args...) }

// dataError marks an error of a package that knows no kinds as bad input data.
func dataError(err error) error { return fault.Wrap(fault.Data, err) }

// pluginError marks an error without a kind as a plugin failure.
func pluginError(err error) error { return fault.Wrap(fault.Plugin, err) }

// resourceError marks an error without a kind as a lack of memory or disk.
func resourceError(err error) error { return fault.Wrap(fault.Resource, err) }

// gateError marks an error as a missed quality gate.
func gateError(err error) error { return fault.Wrap(fault.Gate, err) }

// codeOf is what the program ends with for an error.
func codeOf(err error) int {
	if err == nil {
		return 0
	}
	return fault.Of(err).Code()
}

// exitCodes names all exit codes in one line.
func exitCodes() string {
	var all []string
	for _, e := range fault.Exits {
		all = append(all, fmt.Sprintf("%d %s", e.Code, e.Meaning))
	}
	return strings.Join(all, ", ")
}

// exitCodesCommand prints fault.Exits; `make docs` writes docs/reference/exit-codes.md with it.
func exitCodesCommand() *cli.Command {
	return &cli.Command{
		Name:  "exit-codes",
		Usage: "say what the program's exit codes mean",
		Flags: []cli.Flag{&cli.BoolFlag{Name: "markdown", Usage: "as the page docs/reference/exit-codes.md"}},
		Action: func(c *cli.Context) error {
			if err := noArguments(c); err != nil {
				return err
			}
			if c.Bool("markdown") {
				_, err := io.WriteString(c.App.Writer, fault.Page())
				return err
			}
			w := tabwriter.NewWriter(c.App.Writer, 2, 0, 2, ' ', 0)
			for _, e := range fault.Exits {
				fmt.Fprintf(w, "%d\t%s\t%s; again: %s\n", e.Code, e.Meaning, e.When, e.Again)
			}
			return w.Flush()
		},
	}
}
