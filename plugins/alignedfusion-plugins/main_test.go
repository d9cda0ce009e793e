package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/alignedfusion/alignedfusion/plugins/fusions"
)

// The host looks for files: each name is a link to the one program.
func TestEveryNameIsAPluginOfThatName(t *testing.T) {
	listed := strings.Fields(names)
	for _, name := range listed {
		if served := named(name).Manifest.Name; served != name {
			t.Errorf("under the name %s it serves %q", name, served)
		}
	}
	for _, stage := range fusions.Named("fusions").Manifest.Stages {
		if !slices.Contains(listed, stage.Name) {
			t.Errorf("%s stands on the shelf and has no name", stage.Name)
		}
	}
}
