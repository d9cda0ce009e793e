package cli

import "github.com/urfave/cli/v2"

func pluginNewCommand() *cli.Command { return &cli.Command{Name: "new"} }
