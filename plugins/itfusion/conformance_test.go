package itfusion_test

import (
	"testing"

	"github.com/alignedfusion/alignedfusion/plugins/itfusion"
	"github.com/alignedfusion/alignedfusion/sdk/conformance"
	"github.com/alignedfusion/alignedfusion/sdk/plugintest"
)

func TestConformance(t *testing.T) {
	plugintest.Conformance(t, itfusion.Plugin(), conformance.Options{
		Settings: map[string]map[string]string{"fusion": {"width": "8", "layers": "1", "heads": "2", "reconstruct": "false", "dropout": "0"}},
		Shapes: map[string]map[string][]int64{"fusion": {
			"tokens.image": {2, 5, 6}, "tokens.other": {2, 3, 8},
			"report.embedding": {2, 3, 10}, "report.state": {2, 3}, "report.value": {2, 3},
		}},
		AttributeSchema: []byte(`{"schema_version": 1, "attributes": [
			{"name": "a", "kind": "binary", "values": ["no", "yes"]},
			{"name": "b", "kind": "binary", "values": ["no", "yes"]},
			{"name": "c", "kind": "categorical", "values": ["x", "y", "z"]}]}`),
	})
}
