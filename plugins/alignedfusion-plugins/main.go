// Command alignedfusion-plugins serves the project's plugins. It is one program for all of
// them, each under a name of its own (hard links; the file names lists them): as a program
// each, linking them took as long as compiling them, and they were six times as large.
package main

import (
	_ "embed"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/alignedfusion/alignedfusion/plugins/a3d"
	"github.com/alignedfusion/alignedfusion/plugins/bert"
	"github.com/alignedfusion/alignedfusion/plugins/classifier"
	"github.com/alignedfusion/alignedfusion/plugins/fusions"
	"github.com/alignedfusion/alignedfusion/plugins/itfusion"
	"github.com/alignedfusion/alignedfusion/plugins/selfattn"
	"github.com/alignedfusion/alignedfusion/plugins/sum"
	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/serve"
)

//go:embed names
var names string

func main() {
	called, known := filepath.Base(os.Args[0]), strings.Fields(names)
	name := strings.TrimPrefix(called, "alignedfusion-plugin-")
	if !slices.Contains(known, name) {
		fmt.Fprintf(os.Stderr, "%s: call this program alignedfusion-plugin-NAME, by the name of the plugin that it is to serve: %s\n", called, strings.Join(known, ", "))
		os.Exit(2)
	}
	others := map[string]func() sdk.Plugin{}
	for _, other := range known {
		if other != name {
			others[other] = func() sdk.Plugin { return keeping(named(other)) }
		}
	}
	serve.Together(keeping(named(name)), others)
}

// keeping says of a plugin that its tensors can stay in the process: all are made of torchstage.
func keeping(p sdk.Plugin) sdk.Plugin {
	p.Manifest.Capabilities = append(slices.Clone(p.Manifest.Capabilities), sdk.CapabilityKeep)
	return p
}

func named(name string) sdk.Plugin {
	switch name {
	case "a3d":
		return a3d.Plugin()
	case "bert":
		return bert.Plugin()
	case "classifier":
		return classifier.Plugin()
	case "itfusion":
		return itfusion.Plugin()
	case "selfattn":
		return selfattn.Plugin()
	case "sum":
		return sum.Plugin()
	}
	return fusions.Named(name)
}
