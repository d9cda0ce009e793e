package main

import (
	"math"
	"testing"

	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/conformance"
	"github.com/alignedfusion/alignedfusion/sdk/plugintest"
	"github.com/alignedfusion/alignedfusion/sdk/sample"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

func TestConformance(t *testing.T) {
	plugintest.Conformance(t, plugin(), conformance.Options{})
}

// Eq. 9: the weights of an image's tokens add up to one.
func TestAttentionAddsUpToOne(t *testing.T) {
	c := plugintest.Start(t, plugin(), plugintest.SharedMemory)
	inputs := map[string]*tensor.Tensor{}
	ports := manifest().Stages[0].Inputs
	shapes := map[string][]int64{"tokens.ct": {2, 7, 6}, "tokens.report": {2, 3, 5}}
	if err := sample.Inputs(ports, shapes, 1, inputs); err != nil {
		t.Fatal(err)
	}
	i := plugintest.Open(t, c, &sdk.OpenRequest{Stage: "head", Inputs: sample.Feeding(ports, inputs),
		Labels: []sdk.LabelSet{{Name: "type", Classes: []string{"benign", "malignant"}}}})
	resp, err := i.Forward(t.Context(), &sdk.ForwardRequest{Inputs: inputs, Wanted: map[string]bool{"attention": true}})
	if err != nil {
		t.Fatal(err)
	}
	weights, err := resp.Outputs["attention"].Float32s()
	if err != nil || len(weights) != 20 {
		t.Fatalf("attention is %s, error %v", resp.Outputs["attention"], err)
	}
	for n := range 2 {
		var sum float64
		for _, w := range weights[n*10 : (n+1)*10] {
			sum += float64(w)
		}
		if math.Abs(sum-1) > 1e-5 {
			t.Errorf("case %d: the weights add up to %g", n, sum)
		}
	}
}
