package a3d

import (
	"fmt"
	"math/rand/v2"
	"runtime"

	"github.com/sugarme/gotch"
	"github.com/sugarme/gotch/ts"
	"golang.org/x/sys/cpu"

	"github.com/alignedfusion/alignedfusion/sdk/torchstage"
)

// Batch normalisation as in torchvision's DenseNet.
const (
	normMomentum = 0.1
	normEps      = 1e-5
)

// norm is a batch normalisation over slices, rows and columns.
type norm struct{ weight, bias, mean, variance *ts.Tensor }

func newNorm(p *torchstage.Params, name string, channels int64) norm {
	shape := []int64{channels}
	return norm{
		p.Parameter(name+".weight", shape, torchstage.Ones()),
		p.Parameter(name+".bias", shape, torchstage.Zeros()),
		p.Buffer(name+".running_mean", shape, torchstage.Zeros()),
		p.Buffer(name+".running_var", shape, torchstage.Ones()),
	}
}

func (n norm) forward(s *torchstage.Scope, x *ts.Tensor, train bool) *ts.Tensor {
	return s.BatchNorm(x, n.weight, n.bias, n.mean, n.variance, train, normMomentum, normEps)
}

// unit is what stands before and in a convolution of a dense layer:
// BN - ReLU - slice mixing - convolution.
type unit struct {
	norm   norm
	mix    *ts.Tensor // [D, D, C], learned; nil for the other operators
	weight *ts.Tensor // [out, C, k, k], or [out, C, 3, k, k] with conv3d
}

// denseLayer is a 1x1 and a 3x3 unit.
type denseLayer struct{ one, three unit }

type transition struct {
	norm   norm
	weight *ts.Tensor
}

// backbone is the network from the volume to the three collapsed maps.
type backbone struct {
	encoderConfig
	device     gotch.Device
	general    bool // never take the fused kernels; tests compare the two
	stem       *ts.Tensor
	stemNorm   norm
	blocks     [3][]denseLayer
	collapse   [3]*ts.Tensor // [C, C, D, 1, 1]; nil when slices are channels
	transition [2]transition
}

const prefix = "backbone."

// mixInit is the identity for every channel plus U(-0.1, 0.1) on every entry.
func mixInit(values []float32, shape []int64, rng *rand.Rand) {
	torchstage.Uniform(-mixNoise, mixNoise)(values, shape, rng)
	for d := range shape[0] {
		for c := range shape[2] {
			values[(d*shape[1]+d)*shape[2]+c]++
		}
	}
}

func newBackbone(p *torchstage.Params, c encoderConfig, device gotch.Device) *backbone {
	b := &backbone{encoderConfig: c, device: device}
	in := int64(1)
	if c.operator == opFlat {
		in = c.slices
	}
	conv := torchstage.KaimingNormal(false)
	b.stem = p.Parameter(prefix+"conv0.weight", []int64{c.stem, in, 7, 7}, conv)
	b.stemNorm = newNorm(p, prefix+"norm0", c.stem)
	width := c.stem
	bottle := c.bottle * c.growth
	for i, layers := range c.layers {
		for l := range layers {
			name := fmt.Sprintf("%sdenseblock%d.denselayer%d.", prefix, i+1, l+1)
			b.blocks[i] = append(b.blocks[i], denseLayer{
				one:   newUnit(p, c, name, 1, width, bottle, 1),
				three: newUnit(p, c, name, 2, bottle, c.growth, 3),
			})
			width += c.growth
		}
		if c.operator != opFlat {
			b.collapse[i] = p.Parameter(fmt.Sprintf("%sreductionz%d.reduction_z_conv.weight", prefix, i+1),
				[]int64{width, width, c.slices, 1, 1}, conv)
		}
		if i < len(b.transition) {
			name := fmt.Sprintf("%stransition%d.", prefix, i+1)
			b.transition[i] = transition{newNorm(p, name+"norm", width),
				p.Parameter(name+"conv.weight", []int64{width / 2, width, 1, 1}, conv)}
			width /= 2
		}
	}
	return b
}

func newUnit(p *torchstage.Params, c encoderConfig, name string, index int, in, out, kernel int64) unit {
	u := unit{norm: newNorm(p, fmt.Sprintf("%snorm%d", name, index), in)}
	conv := fmt.Sprintf("%sconv%d.", name, index)
	shape := []int64{out, in, kernel, kernel}
	if c.operator == opConv3D && kernel == 3 {
		shape = []int64{out, in, 3, 3, 3}
	}
	u.weight = p.Parameter(conv+"weight", shape, torchstage.KaimingNormal(false))
	if c.operator == opA3D {
		u.mix = p.Parameter(conv+"adaptive_align_weights", []int64{c.slices, c.slices, in}, mixInit)
	}
	return u
}

// forward returns the three collapsed maps [N, C, H/4, W/4], /8 and /16 of a volume
// [N, 1, D, H, W].
func (b *backbone) forward(s *torchstage.Scope, volume *ts.Tensor, m *mixer, train bool) []*ts.Tensor {
	return s.SubAll(func(s *torchstage.Scope) []*ts.Tensor {
		shape := s.Shape(volume)
		if s.Err() != nil {
			return nil
		}
		n, h, w := shape[0], shape[3], shape[4]
		x := s.Reshape(volume, n*b.depth(), b.slices/b.depth(), h, w)
		x = b.stemForward(s, x, train)
		if b.bf16 {
			x = s.Cast(x, gotch.BFloat16)
		}
		var maps []*ts.Tensor
		for i := range b.blocks {
			x = b.block(s, x, i, m, train)
			maps = append(maps, toFloat(s, b.collapsed(s, x, i, n)))
			if i < len(b.transition) {
				x = b.transition[i].forward(s, x, train)
			}
		}
		return maps
	})
}

// like converts a parameter to the type of the activations it meets.
func like(s *torchstage.Scope, parameter, x *ts.Tensor) *ts.Tensor {
	if parameter == nil || x.DType() != gotch.BFloat16 {
		return parameter
	}
	return s.Cast(parameter, gotch.BFloat16)
}

func toFloat(s *torchstage.Scope, x *ts.Tensor) *ts.Tensor {
	if x.DType() != gotch.BFloat16 {
		return x
	}
	return s.Cast(x, gotch.Float)
}

// stemForward is conv0 - norm0 - relu0 - pool0.
func (b *backbone) stemForward(s *torchstage.Scope, x *ts.Tensor, train bool) *ts.Tensor {
	return s.Sub(func(s *torchstage.Scope) *ts.Tensor {
		if train {
			y := s.ChannelsLast(s.Conv2d(x, b.stem, nil, 2, 3, 1))
			return s.MaxPool2d(s.Relu(b.stemNorm.forward(s, y, true)), 3, 2, 1)
		}
		// In inference the normalisation is part of the convolution, and the ReLU
		// comes after the pooling, with which it commutes.
		n := b.stemNorm
		weight, shift := s.FoldNorm(b.stem, n.weight, n.bias, n.mean, n.variance, normEps)
		return s.Relu(s.MaxPool2d(s.ChannelsLast(s.Conv2d(x, weight, shift, 2, 3, 1)), 3, 2, 1))
	})
}

// vectors reports whether this processor has what the kernels' loops are compiled for (has_loops
// in native/slice_mix.h); tests pretend that it has not.
var vectors = runtime.GOARCH != "amd64" || cpu.X86.HasAVX2 && cpu.X86.HasFMA

// fused reports whether the kernel for dense blocks takes maps of this kind: float or
// bfloat16, not on a CPU without vectors, channels in multiples of 16, 1, 3, 5, 7 or 9 slices, 2-D convolutions.
func (b *backbone) fused(dtype gotch.DType) bool {
	n := b.depth()
	if b.general || !vectors && b.device.Name == gotch.CPU.Name || dtype != gotch.Float && dtype != gotch.BFloat16 || b.operator == opConv3D || n%2 == 0 || n > 9 {
		return false
	}
	width := b.arch.stem
	for _, layers := range b.layers {
		if width%16 != 0 || b.growth%16 != 0 {
			return false
		}
		width = (width + int64(layers)*b.growth) / 2
	}
	return true
}

// block appends the output of every dense layer to the channels of x.
func (b *backbone) block(s *torchstage.Scope, x *ts.Tensor, index int, m *mixer, train bool) *ts.Tensor {
	if b.fused(x.DType()) && !(train && s.SyncBatchNorm()) {
		return b.fusedBlock(s, x, index, m, train)
	}
	return s.Sub(func(s *torchstage.Scope) *ts.Tensor {
		for _, layer := range b.blocks[index] {
			in := x
			y := s.Sub(func(s *torchstage.Scope) *ts.Tensor {
				return layer.three.forward(s, layer.one.forward(s, in, m, train), m, train)
			})
			x = s.Cat([]*ts.Tensor{x, y}, 1)
		}
		return x
	})
}

// fusedBlock is block in one kernel, see native/dense_block.h.
func (b *backbone) fusedBlock(s *torchstage.Scope, x *ts.Tensor, index int, m *mixer, train bool) *ts.Tensor {
	return s.Sub(func(s *torchstage.Scope) *ts.Tensor {
		in := []*ts.Tensor{x}
		for _, layer := range b.blocks[index] {
			for _, u := range []unit{layer.one, layer.three} {
				channels := s.Dim(u.norm.weight, 0)
				in = append(in, u.norm.weight, u.norm.bias, u.norm.mean, u.norm.variance, m.weights(s, u.mix, channels), u.weight)
			}
		}
		return native(s, "dense_block", in, b.depth(), b.growth, flag(train), flag(b.checkpoint))
	})
}

func flag(on bool) int64 {
	if on {
		return 1
	}
	return 0
}

// forward is BN - ReLU - slice mixing - convolution.
func (u unit) forward(s *torchstage.Scope, x *ts.Tensor, m *mixer, train bool) *ts.Tensor {
	return s.Sub(func(s *torchstage.Scope) *ts.Tensor {
		channels := s.Dim(x, 1)
		if s.Err() != nil {
			return nil
		}
		mix := m.weights(s, u.mix, channels)
		z := s.Relu(u.norm.forward(s, x, train))
		if mix != nil && m.operator != opFlat {
			z = native(s, "slice_mix", []*ts.Tensor{z, mix}, m.slices)
		}
		weight := s.Shape(u.weight)
		if s.Err() != nil {
			return nil
		}
		if len(weight) == 5 {
			return m.conv3d(s, z, like(s, u.weight, z))
		}
		return s.Conv2d(z, like(s, u.weight, z), nil, 1, weight[2]/2, 1)
	})
}

// conv3d convolves along the slices too: it is a 2-D convolution over the channels
// of a slice and its two neighbours, zeros beyond the ends.
func (m *mixer) conv3d(s *torchstage.Scope, x, weight *ts.Tensor) *ts.Tensor {
	shape, w := s.Shape(x), s.Shape(weight)
	if s.Err() != nil {
		return nil
	}
	n, c, rows, columns := shape[0], shape[1], shape[2], shape[3]
	volumes := s.Reshape(s.Permute(x, 0, 2, 3, 1), n/m.slices, m.slices, rows, columns, c)
	padded := s.Pad(volumes, 0, 0, 0, 0, 0, 0, 1, 1)
	var near []*ts.Tensor
	for offset := range int64(3) {
		near = append(near, s.Narrow(padded, 1, offset, m.slices))
	}
	wide := s.Permute(s.Reshape(s.Cat(near, 4), n, rows, columns, 3*c), 0, 3, 1, 2)
	flat := s.Reshape(s.Permute(weight, 0, 2, 1, 3, 4), w[0], 3*c, w[3], w[4])
	return s.Conv2d(wide, flat, nil, 1, w[3]/2, 1)
}

// forward is BN - ReLU - 1x1 convolution - 2x2 average, with the average before the
// convolution: the two commute, and the convolution then has a quarter of the cells.
func (t transition) forward(s *torchstage.Scope, x *ts.Tensor, train bool) *ts.Tensor {
	return s.Sub(func(s *torchstage.Scope) *ts.Tensor {
		return s.Conv2d(s.AvgPool2d(s.Relu(t.norm.forward(s, x, train)), 2, 2), like(s, t.weight, x), nil, 1, 0, 1)
	})
}

// collapsed turns the slices of a block's output into one map per volume: a
// convolution over all slices and channels of a cell.
func (b *backbone) collapsed(s *torchstage.Scope, x *ts.Tensor, index int, volumes int64) *ts.Tensor {
	if b.collapse[index] == nil {
		// A view of its own, so that the map can be handed over by itself.
		return s.Do("alias", func() (*ts.Tensor, error) { return x.Alias(false) })
	}
	return s.Sub(func(s *torchstage.Scope) *ts.Tensor {
		shape := s.Shape(x)
		if s.Err() != nil {
			return nil
		}
		c, rows, columns := shape[1], shape[2], shape[3]
		// Slice by slice side by side, every cell has D·C channels: a 1x1 convolution,
		// which oneDNN does twice as fast as the BLAS does the same product.
		cells := s.Reshape(s.Permute(s.Reshape(s.Permute(x, 0, 2, 3, 1), volumes, b.slices, rows*columns, c), 0, 2, 1, 3),
			volumes, rows, columns, b.slices*c)
		weight := like(s, s.Reshape(s.Permute(s.Reshape(b.collapse[index], c, c, b.slices), 0, 2, 1), c, b.slices*c, 1, 1), x)
		return s.Conv2d(s.Permute(cells, 0, 3, 1, 2), weight, nil, 1, 0, 1)
	})
}
