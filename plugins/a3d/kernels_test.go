package a3d

import (
	"strings"
	"testing"

	"github.com/sugarme/gotch"
	"github.com/sugarme/gotch/ts"

	"github.com/alignedfusion/alignedfusion/plugins/internal/stagetest"
	"github.com/alignedfusion/alignedfusion/sdk/torchstage"
)

// kernelCall is one call of an operator that a test may spoil.
type kernelCall struct {
	in      []*ts.Tensor
	numbers []int64
}

// layerTensors are the tensors of one dense layer in the order of dense_block's schema.
func layerTensors(s *torchstage.Scope, slices, width, inner, growth int64) []*ts.Tensor {
	random := func(shape ...int64) *ts.Tensor { return s.FromTensor(stagetest.Random(7, shape...)) }
	half := func(channels, out, k int64) []*ts.Tensor {
		return []*ts.Tensor{random(channels), random(channels), random(channels), s.Mul(random(channels), random(channels)),
			random(1, slices, slices, channels), random(out, channels, k, k)}
	}
	return append(half(width, inner, 1), half(inner, growth, 3)...)
}

// Places of a layer's tensors behind x.
const (
	atNormWeight = 1 + iota
	atNormBias
	atMean
	atVariance
	atMix
	atConv
	_
	_
	_
	_
	atMix2
	atConv2
)

// Every argument check of native/library.cpp and call.cpp is an error that says what was
// given; none of these calls may end the process.
func TestKernelsRefuseArgumentsTheyCannotUse(t *testing.T) {
	type spoil func(s *torchstage.Scope, c *kernelCall)
	replace := func(i int, shape ...int64) spoil {
		return func(s *torchstage.Scope, c *kernelCall) { c.in[i] = s.FromTensor(stagetest.Random(1, shape...)) }
	}
	change := func(i int, f func(s *torchstage.Scope, x *ts.Tensor) *ts.Tensor) spoil {
		return func(s *torchstage.Scope, c *kernelCall) { c.in[i] = f(s, c.in[i]) }
	}
	number := func(i int, v int64) spoil { return func(_ *torchstage.Scope, c *kernelCall) { c.numbers[i] = v } }
	double := func(s *torchstage.Scope, x *ts.Tensor) *ts.Tensor { return s.Cast(x, gotch.Double) }
	whole := func(s *torchstage.Scope, x *ts.Tensor) *ts.Tensor { return s.Cast(x, gotch.Int64) }
	elsewhere := func(s *torchstage.Scope, x *ts.Tensor) *ts.Tensor {
		return s.Do("sparse", func() (*ts.Tensor, error) { return x.ToSparseSparseDim(1, false) })
	}
	stride2 := func(s *torchstage.Scope, x *ts.Tensor) *ts.Tensor {
		return s.Select(s.Reshape(s.Cat([]*ts.Tensor{x, x}, 0), -1, 2), 1, 0)
	}
	gradient := func(s *torchstage.Scope, x *ts.Tensor) *ts.Tensor {
		return s.Do("leaf", func() (*ts.Tensor, error) { return x.SetRequiresGrad(true, false) })
	}
	drop := func(i int) spoil {
		return func(_ *torchstage.Scope, c *kernelCall) { c.in = append(c.in[:i:i], c.in[i+1:]...) }
	}
	for _, c := range []struct {
		name, op string
		spoil    spoil
		want     string
	}{
		{"no such operator", "nothing", func(*torchstage.Scope, *kernelCall) {}, "libtorch has no operator alignedfusion_a3d::nothing"},
		{"an absent tensor", "slice_mix", func(_ *torchstage.Scope, c *kernelCall) { c.in[1] = nil }, "tensor weights is missing"},
		{"too few tensors", "slice_mix", drop(1), "tensor weights is missing"},
		{"too many tensors", "slice_mix", func(_ *torchstage.Scope, c *kernelCall) { c.in = append(c.in, c.in[0]) }, "3 tensors and 1 numbers given, 2 and 1 taken"},
		{"too few numbers", "slice_mix", func(_ *torchstage.Scope, c *kernelCall) { c.numbers = nil }, "number slices is missing"},
		{"too many numbers", "slice_mix", func(_ *torchstage.Scope, c *kernelCall) { c.numbers = append(c.numbers, 1) }, "2 numbers given"},
		{"no slices", "slice_mix", number(0, 0), "slices is 0, want 1 or more"},
		{"negative slices", "slice_mix", number(0, -3), "slices is -3"},
		{"whole numbers", "slice_mix", change(0, whole), "want a dense floating-point map"},
		{"sparse map", "slice_mix", change(0, elsewhere), "want a dense floating-point map"},
		{"three dimensions", "slice_mix", replace(0, 6, 16, 4), "want [N*3, C, H, W]"},
		{"empty map", "slice_mix", replace(0, 6, 16, 0, 4), "want [N*3, C, H, W]"},
		{"slices that do not divide", "slice_mix", number(0, 5), "want [N*5, C, H, W]"},
		{"double weights", "slice_mix", change(1, double), "weights is CPUDoubleType"},
		{"sparse weights", "slice_mix", change(1, elsewhere), "weights is SparseCPUFloatType"},
		{"three-dimensional weights", "slice_mix", replace(1, 3, 3, 16), "want [1 or 2, 3, 3, 16]"},
		{"weights of three volumes", "slice_mix", replace(1, 3, 3, 3, 16), "want [1 or 2, 3, 3, 16]"},
		{"weights of other slices", "slice_mix", replace(1, 1, 5, 3, 16), "want [1 or 2, 3, 3, 16]"},
		{"weights of other targets", "slice_mix", replace(1, 1, 3, 5, 16), "want [1 or 2, 3, 3, 16]"},
		{"weights of other channels", "slice_mix", replace(1, 1, 3, 3, 32), "want [1 or 2, 3, 3, 16]"},

		{"no slices", "dense_block", number(0, 0), "slices is 0"},
		{"double map", "dense_block", change(0, double), "want float32 or bfloat16 on a GPU or a CPU"},
		{"channels that do not fill a vector", "dense_block", replace(0, 6, 15, 4, 5), "channels in multiples of 16"},
		{"an even number of slices", "dense_block", number(0, 2), "1, 3, 5, 7 or 9 slices"},
		{"no growth", "dense_block", number(1, 0), "growth is 0"},
		{"growth that does not fill a vector", "dense_block", number(1, 20), "growth is 20"},
		{"no layers", "dense_block", func(_ *torchstage.Scope, c *kernelCall) { c.in = c.in[:1] }, "0 tensors of layers"},
		{"part of a layer", "dense_block", drop(4), "11 tensors of layers, want a multiple of 12"},
		{"norm weight of another width", "dense_block", replace(atNormWeight, 32), "norm weight is [32]"},
		{"norm bias of two dimensions", "dense_block", replace(atNormBias, 16, 1), "norm bias is [16, 1]"},
		{"double mean", "dense_block", change(atMean, double), "running mean is CPUDoubleType"},
		{"mean with gaps", "dense_block", change(atMean, stride2), "running mean is [16] with strides [2]"},
		{"mean that wants a gradient", "dense_block", change(atMean, gradient), "running mean requires a gradient"},
		{"short variance", "dense_block", replace(atVariance, 8), "running variance is [8]"},
		{"mixing of another width", "dense_block", replace(atMix, 1, 3, 3, 32), "mixing before the first convolution is [1, 3, 3, 32]"},
		{"convolution of another width", "dense_block", replace(atConv, 32, 32, 1, 1), "first convolution is [32, 32, 1, 1], want [a multiple of 16, 16, k, k]"},
		{"bottleneck that does not fill a vector", "dense_block", replace(atConv, 20, 16, 1, 1), "first convolution is [20, 16, 1, 1]"},
		{"empty convolution", "dense_block", replace(atConv, 0, 16, 1, 1), "first convolution is [0, 16, 1, 1]"},
		{"even kernel", "dense_block", replace(atConv, 32, 16, 2, 2), "with odd k"},
		{"oblong kernel", "dense_block", replace(atConv, 32, 16, 1, 3), "with odd k"},
		{"convolution of three dimensions", "dense_block", replace(atConv, 32, 16, 1), "first convolution is [32, 16, 1]"},
		{"second mixing of another width", "dense_block", replace(atMix2, 1, 3, 3, 16), "mixing before the second convolution is [1, 3, 3, 16]"},
		{"second convolution of another growth", "dense_block", replace(atConv2, 32, 32, 3, 3), "second convolution is [32, 32, 3, 3], want [16, 32, k, k]"},
		{"double convolution", "dense_block", change(atConv2, double), "second convolution is CPUDoubleType"},
		{"second layer too narrow", "dense_block", func(s *torchstage.Scope, c *kernelCall) {
			c.in = append(c.in, layerTensors(s, 3, 16, 32, 16)...)
		}, "norm weight is [16] with strides [1], want [32]"},
	} {
		t.Run(c.op+"/"+c.name, func(t *testing.T) {
			err := torchstage.Run(func(s *torchstage.Scope) error {
				call := kernelCall{[]*ts.Tensor{s.FromTensor(stagetest.Random(3, 6, 16, 4, 5))}, []int64{3, 16, 1, 0}}
				if c.op == "dense_block" {
					call.in = append(call.in, layerTensors(s, 3, 16, 32, 16)...)
				} else {
					call.in = append(call.in, s.FromTensor(stagetest.Random(4, 1, 3, 3, 16)))
					call.numbers = call.numbers[:1]
				}
				if c.op != "nothing" {
					native(s, c.op, call.in, call.numbers...)
				}
				if err := s.Err(); err != nil {
					t.Fatalf("the unspoiled call: %v", err)
				}
				c.spoil(s, &call)
				if err := s.Err(); err != nil {
					t.Fatalf("spoiling: %v", err)
				}
				native(s, c.op, call.in, call.numbers...)
				return s.Err()
			})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
		})
	}
}
