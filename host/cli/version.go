package cli

import (
	"fmt"
	"runtime"

	"github.com/urfave/cli/v2"

	"github.com/alignedfusion/alignedfusion/host/plughost"
	"github.com/alignedfusion/alignedfusion/sdk"
)

func versionCommand() *cli.Command {
	return &cli.Command{
		Name:  "version",
		Usage: "print the versions of the program and of the stage protocol",
		Flags: []cli.Flag{&cli.BoolFlag{Name: "json", Usage: "print them as JSON"}},
		Action: func(c *cli.Context) error {
			if c.NArg() > 0 {
				return usageError("version takes flags only, not %q", c.Args().First())
			}
			v := struct {
				SchemaVersion int    `json:"schema_version"`
				Version       string `json:"version"`
				Protocol      int    `json:"stage_protocol"`
				Go            string `json:"go"`
				Platform      string `json:"platform"`
			}{1, Version, sdk.ProtocolMajor, runtime.Version(), plughost.System}
			if c.Bool("json") {
				return writeJSON(c.App.Writer, v)
			}
			_, err := fmt.Fprintf(c.App.Writer, "alignedfusion %s, stage protocol %d, %s, %s\n", v.Version, v.Protocol, v.Go, v.Platform)
			return err
		},
	}
}
