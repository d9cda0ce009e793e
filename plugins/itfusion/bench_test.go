package itfusion_test

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/alignedfusion/alignedfusion/plugins/internal/stagetest"
	"github.com/alignedfusion/alignedfusion/plugins/itfusion"
	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

// BenchmarkTrainStep is a step of the size the detector uses: 1,024 visual and 13
// report tokens, two cases, AdamW. testdata/bench.py times the same step in PyTorch.
func BenchmarkTrainStep(b *testing.B) {
	for _, threads := range []int{1, 2} {
		for _, width := range []int{64, 256} {
			b.Run(fmt.Sprintf("width=%d/threads=%d", width, threads), func(b *testing.B) { trainStep(b, width, threads) })
		}
	}
}

func trainStep(b *testing.B, width, threads int) {
	const n, tokens, attributes, values, embedding = 2, 1024, 13, 5, 768
	var list []map[string]any
	for i := range attributes {
		list = append(list, map[string]any{"name": fmt.Sprint("a", i), "kind": "categorical", "values": []string{"1", "2", "3", "4", "5"}})
	}
	schema, err := json.Marshal(map[string]any{"schema_version": 1, "attributes": list})
	if err != nil {
		b.Fatal(err)
	}
	s := stagetest.Open(b, itfusion.Plugin(), sdk.OpenRequest{
		Stage: "fusion", Settings: sdk.Settings{"width": fmt.Sprint(width)}, Train: true, Threads: threads, AttributeSchema: schema,
		Constants: map[string]*tensor.Tensor{"value.embedding": stagetest.Random(1, attributes, values, embedding)},
		Optimizer: sdk.Optimizer{Name: "adamw"},
		Inputs: []sdk.Port{
			{Name: "tokens.image", DType: tensor.FP32, Shape: []string{"N", "1024", fmt.Sprint(width)}},
			{Name: "report.embedding", DType: tensor.FP32, Shape: []string{"N", "13", "768"}},
			{Name: "report.state", DType: tensor.Int8, Shape: []string{"N", "13"}},
			{Name: "report.value", DType: tensor.Int64, Shape: []string{"N", "13"}},
		},
	})
	state, value := make([]int8, n*attributes), make([]int64, n*attributes)
	for i := range state {
		state[i], value[i] = 1, int64(i%values)
		if i%4 == 0 {
			state[i], value[i] = 0, -1
		}
	}
	in := map[string]*tensor.Tensor{
		"tokens.image":     stagetest.Random(2, n, tokens, int64(width)),
		"report.embedding": stagetest.Random(3, n, attributes, embedding),
		"report.state":     tensor.OfInt8s(state, n, attributes), "report.value": tensor.OfInt64s(value, n, attributes),
	}
	grads := map[string]*tensor.Tensor{
		"tokens.image": stagetest.Random(4, n, tokens, int64(width)), "tokens.report": stagetest.Random(5, n, attributes, int64(width)),
		"joint": stagetest.Random(6, n, int64(width)),
	}
	step := func(i int) {
		s.Train(uint64(i), in)
		s.Backward(grads, map[string]float64{"reconstruction": 1})
		s.Step(1e-4)
	}
	step(0)
	for i := 0; b.Loop(); i++ {
		step(i)
	}
}
