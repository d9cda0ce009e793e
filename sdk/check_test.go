package sdk

import (
	"strings"
	"testing"

	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

func zeros(shape ...int64) *tensor.Tensor {
	t, err := tensor.New(tensor.FP32, shape...)
	if err != nil {
		panic(err)
	}
	return t
}

var fusionInputs = []Port{
	{Name: "tokens.*", DType: tensor.FP32, Shape: []string{"N", "T", "C"}, Required: true},
	{Name: "report.embedding", DType: tensor.FP32, Shape: []string{"N", "A", "E"}},
	{Name: "map", DType: tensor.FP32, Shape: []string{"N", "4", "*", "H"}, SizeMultiple: 2},
	{Name: "odd", DType: tensor.FP32, Shape: []string{"B", "D", "H", "W"}, SizeMultiple: 2},
	{Name: "anything"},
}

var fusionOutputs = []Port{
	{Name: "tokens.*", DType: tensor.FP32, Shape: []string{"N", "T", "C"}, Required: true},
	{Name: "joint", DType: tensor.FP32, Shape: []string{"N", "J"}, Required: true},
	{Name: "weights", DType: tensor.FP32, Shape: []string{"N", "A"}, Required: true, OnRequest: true},
	{Name: "maps", DType: tensor.FP32, Shape: []string{"N", "F"}, Required: true, Resident: true},
}

func TestFamiliesHaveSizesPerMember(t *testing.T) {
	for _, test := range []struct {
		name            string
		inputs, outputs map[string]*tensor.Tensor
		wanted          map[string]bool
		words           string // of the error, "" for none
	}{
		{"modalities of their own sizes",
			map[string]*tensor.Tensor{"tokens.ct": zeros(2, 49, 64), "tokens.photo": zeros(2, 9, 32), "report.embedding": zeros(2, 3, 16)},
			map[string]*tensor.Tensor{"tokens.ct": zeros(2, 49, 64), "tokens.photo": zeros(2, 9, 32), "joint": zeros(2, 8)}, nil, ""},
		{"an output of another member's size",
			map[string]*tensor.Tensor{"tokens.ct": zeros(2, 49, 64), "tokens.photo": zeros(2, 9, 32)},
			map[string]*tensor.Tensor{"tokens.ct": zeros(2, 9, 64), "joint": zeros(2, 8)}, nil, `"tokens.ct" is FP32 [2 9 64], want FP32 [2 49 64]`},
		{"N is everybody's",
			map[string]*tensor.Tensor{"tokens.ct": zeros(2, 49, 64), "tokens.photo": zeros(3, 9, 32)}, nil, nil, `N is 2 since "tokens.ct"`},
		{"no member of a required family", map[string]*tensor.Tensor{"report.embedding": zeros(2, 3, 4)}, nil, nil, `"tokens.*" is missing`},
		{"a family needs a member's name", map[string]*tensor.Tensor{"tokens.": zeros(2, 3, 4)}, nil, nil, "not a declared input"},
		{"literal and free sizes",
			map[string]*tensor.Tensor{"tokens.ct": zeros(2, 1, 1), "map": zeros(2, 4, 6, 8)},
			map[string]*tensor.Tensor{"tokens.ct": zeros(2, 1, 1), "joint": zeros(2, 8)}, nil, ""},
		{"a wrong literal size", map[string]*tensor.Tensor{"tokens.ct": zeros(2, 1, 1), "map": zeros(2, 5, 6, 8)}, nil, nil, "want FP32 [2 4 * H]"},
		{"a size that is no multiple", map[string]*tensor.Tensor{"tokens.ct": zeros(2, 1, 1), "map": zeros(2, 4, 7, 8)}, nil, nil, "multiples of 2"},
		{"a size before the last two may be no multiple",
			map[string]*tensor.Tensor{"tokens.ct": zeros(3, 1, 1), "odd": zeros(1, 3, 6, 8)}, nil, nil, ""},
		{"bytes that do not fit the shape", map[string]*tensor.Tensor{"tokens.ct": {DType: tensor.FP32, Shape: []int64{1, 1, 1}}}, nil, nil, `"tokens.ct" is FP32 [1 1 1]: `},
		{"any shape", map[string]*tensor.Tensor{"tokens.ct": zeros(2, 1, 1), "anything": tensor.OfInt64s([]int64{1})},
			map[string]*tensor.Tensor{"tokens.ct": zeros(2, 1, 1), "joint": zeros(2, 8)}, nil, ""},
		{"no boxes at all", map[string]*tensor.Tensor{"tokens.ct": zeros(0, 3, 4)}, map[string]*tensor.Tensor{"tokens.ct": zeros(0, 3, 4), "joint": zeros(0, 8)}, nil, ""},
		{"an output on request is missing", map[string]*tensor.Tensor{"tokens.ct": zeros(2, 1, 1)},
			map[string]*tensor.Tensor{"tokens.ct": zeros(2, 1, 1), "joint": zeros(2, 8)}, map[string]bool{"weights": true}, `"weights" is missing`},
		{"a resident output leaves the process", map[string]*tensor.Tensor{"tokens.ct": zeros(2, 1, 1)},
			map[string]*tensor.Tensor{"tokens.ct": zeros(2, 1, 1), "joint": zeros(2, 8), "maps": zeros(2, 2)}, nil, "resident"},
		{"nothing behind a name", map[string]*tensor.Tensor{"tokens.ct": nil}, nil, nil, "without a tensor"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := NewPortCheck(fusionInputs, fusionOutputs)
			err := c.Inputs(test.inputs)
			code := InvalidArgument
			if err == nil && test.outputs != nil {
				err, code = c.Outputs(test.outputs, test.wanted), Internal
			}
			switch {
			case test.words == "" && err != nil:
				t.Error(err)
			case test.words != "" && (err == nil || !strings.Contains(err.Error(), test.words) || CodeOf(err) != code):
				t.Errorf("error %v (code %v), want %v with %q", err, CodeOf(err), code, test.words)
			}
		})
	}
}
