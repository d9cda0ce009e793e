// Command plugin serves the toy stages to a host under test. Called by the name
// misfit its classifier wants a port in a shape that no stage of toy gives.
package main

import (
	"os"
	"path/filepath"

	"github.com/alignedfusion/alignedfusion/host/pipeline/internal/toy"
	"github.com/alignedfusion/alignedfusion/sdk/serve"
)

func main() {
	p := toy.Plugin()
	if filepath.Base(os.Args[0]) == "misfit" {
		p.Manifest.Name = "misfit"
		for i := range p.Manifest.Stages {
			if s := &p.Manifest.Stages[i]; s.Name == "classifier" {
				s.Inputs[1].Shape = []string{"N", "C", "2"}
			}
		}
	}
	serve.Plugin(p)
}
