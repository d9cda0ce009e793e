package a3d_test

import (
	"testing"

	"github.com/alignedfusion/alignedfusion/plugins/a3d"
	"github.com/alignedfusion/alignedfusion/sdk/conformance"
	"github.com/alignedfusion/alignedfusion/sdk/plugintest"
)

func TestConformance(t *testing.T) {
	plugintest.Conformance(t, a3d.Plugin(), conformance.Options{})
}
