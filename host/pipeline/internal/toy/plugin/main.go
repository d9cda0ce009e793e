// Command plugin serves the toy stages to a host under test. Called by the name
// misfit its classifier wants a port in a shape that no stage of toy gives, by the name
// forgetful it declares a loss that it never returns.
package main

import (
	"os"
	"path/filepath"
	"slices"

	"github.com/alignedfusion/alignedfusion/host/pipeline/internal/toy"
	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/serve"
)

func main() {
	p := toy.Plugin()
	classifier := &p.Manifest.Stages[slices.IndexFunc(p.Manifest.Stages, func(s sdk.StageManifest) bool { return s.Name == "classifier" })]
	switch name := filepath.Base(os.Args[0]); name {
	case "misfit":
		p.Manifest.Name, classifier.Inputs[1].Shape = name, []string{"N", "C", "2"}
	case "forgetful":
		p.Manifest.Name, classifier.Losses = name, append(classifier.Losses, "auxiliary")
	}
	serve.Plugin(p)
}
