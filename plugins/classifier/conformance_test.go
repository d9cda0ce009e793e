package classifier_test

import (
	"testing"

	"github.com/alignedfusion/alignedfusion/plugins/classifier"
	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/conformance"
	"github.com/alignedfusion/alignedfusion/sdk/plugintest"
)

func TestConformance(t *testing.T) {
	plugintest.Conformance(t, classifier.Plugin(), conformance.Options{
		Settings: map[string]map[string]string{"encoder": {"width": "4", "layers": "2"}},
		Shapes: map[string]map[string][]int64{
			"encoder": {"image.photo": {2, 3, 16, 16}},
			"head":    {"tokens.photo": {2, 4, 6}, "tokens.report": {2, 3, 8}, "joint": {2, 8}, "target.label": {2}},
		},
		Labels: map[string][]sdk.LabelSet{"head": {{Name: "diagnosis", Classes: []string{"a", "b", "c"}}}},
	})
}
