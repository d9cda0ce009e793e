package conformance_test

import (
	"testing"

	"github.com/alignedfusion/alignedfusion/sdk/conformance"
	"github.com/alignedfusion/alignedfusion/sdk/internal/testplugins"
	"github.com/alignedfusion/alignedfusion/sdk/plugintest"
)

func TestAPluginThatKeepsEveryRulePasses(t *testing.T) {
	plugintest.Conformance(t, testplugins.Linear(), conformance.Options{
		Settings: map[string]map[string]string{"linear": {"in": "16"}},
	})
}
