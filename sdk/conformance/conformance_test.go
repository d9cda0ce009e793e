package conformance_test

import (
	"testing"

	"github.com/alignedfusion/alignedfusion/sdk/conformance"
	"github.com/alignedfusion/alignedfusion/sdk/plugintest"
	"github.com/alignedfusion/alignedfusion/sdk/plugintest/toy"
)

func TestAPluginThatKeepsEveryRulePasses(t *testing.T) {
	plugintest.Conformance(t, toy.Linear(), conformance.Options{
		Settings: map[string]map[string]string{"linear": {"in": "16"}},
	})
}
