// Command alignedfusion wires encoder, fusion and head plugins into lesion
// detection and classification pipelines. It never links libtorch.
package main

import (
	"os"

	"github.com/alignedfusion/alignedfusion/host/cli"
)

func main() { os.Exit(cli.Main(os.Args, os.Stdout, os.Stderr)) }
