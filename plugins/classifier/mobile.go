package classifier

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/sugarme/gotch/ts"

	"github.com/alignedfusion/alignedfusion/sdk/tensor"
	"github.com/alignedfusion/alignedfusion/sdk/torchstage"
)

// mobileEps is that of the batch norms of both networks.
const mobileEps = 1e-3

// relu6 is the rectifier of both networks.
func relu6(s *torchstage.Scope, x *ts.Tensor) *ts.Tensor { return s.Clamp(x, 0, 6) }

// samePadded is a convolution padded as TensorFlow does ("SAME"): a map of n becomes one of
// ceil(n/stride), and where the padding is odd there is more of it below and to the right.
func samePadded(s *torchstage.Scope, x, weight, bias *ts.Tensor, stride, groups int64) *ts.Tensor {
	kernel := s.Dim(weight, 2)
	pad := func(n int64) (before, behind int64) {
		total := max(0, ((n+stride-1)/stride-1)*stride+kernel-n)
		return total / 2, total - total/2
	}
	top, bottom := pad(s.Dim(x, 2))
	left, right := pad(s.Dim(x, 3))
	if top == bottom && left == right && top == left {
		return s.Conv2d(x, weight, bias, stride, top, groups)
	}
	return s.Conv2d(s.Pad(x, left, right, top, bottom), weight, bias, stride, 0, groups)
}

// halved is a side after so many convolutions of stride 2 that are padded as TensorFlow does.
func halved(size int64, times int) int64 {
	for range times {
		size = (size + 1) / 2
	}
	return size
}

// mobilenet is the trunk of MobileNet v1 (Howard et al. 2017): after a first convolution 13 pairs
// of a depthwise and a pointwise one. Layers have the names that Keras gives them.
type mobilenet struct {
	width  int64
	layers []mobileLayer
}

// mobileLayer is a convolution without bias, its batch norm and a rectifier.
type mobileLayer struct {
	weight         *ts.Tensor
	norm           batchNorm
	stride, groups int64
}

// mobilenetPlan lists each pair's output channels, as multiples of those of the first convolution,
// and its stride.
var mobilenetPlan = [13]struct{ out, stride int64 }{
	{2, 1}, {4, 2}, {4, 1}, {8, 2}, {8, 1}, {16, 2}, {16, 1}, {16, 1}, {16, 1}, {16, 1}, {16, 1}, {32, 2}, {32, 1},
}

func newMobileNet(p *torchstage.Params, width int64) *mobilenet {
	if width == 0 {
		width = 24 // alpha 0.75
	}
	m := &mobilenet{width: width}
	add := func(name string, out, in, kernel, stride, groups int64) {
		m.layers = append(m.layers, mobileLayer{
			weight: p.Parameter(name+".weight", []int64{out, in / groups, kernel, kernel}, torchstage.KaimingNormal(true)),
			norm:   newBatchNorm(p, name+"_bn", out), stride: stride, groups: groups,
		})
	}
	add("conv1", width, 3, 3, 2, 1)
	in := width
	for i, l := range mobilenetPlan {
		n, out := strconv.Itoa(i+1), l.out*width
		add("conv_dw_"+n, in, in, 3, l.stride, in)
		add("conv_pw_"+n, out, in, 1, 1, 1)
		in = out
	}
	return m
}

// forward is the convolution and the batch norm behind it, which in inference are one.
func (l mobileLayer) forward(s *torchstage.Scope, x *ts.Tensor, train bool) *ts.Tensor {
	if !train {
		n := l.norm
		weight, bias := s.FoldNorm(l.weight, n.weight, n.bias, n.mean, n.variance, mobileEps)
		return samePadded(s, x, weight, bias, l.stride, l.groups)
	}
	return l.norm.apply(s, samePadded(s, x, l.weight, nil, l.stride, l.groups), true, mobileEps)
}

func (m *mobilenet) forward(s *torchstage.Scope, x *ts.Tensor, train bool) *ts.Tensor {
	x = s.ChannelsLast(s.AddScalar(s.MulScalar(x, 2), -1))
	for _, l := range m.layers {
		x = s.Sub(func(s *torchstage.Scope) *ts.Tensor { return relu6(s, l.forward(s, x, train)) })
	}
	return x
}

func (m *mobilenet) tokens(size, pool int64) (t, c int64) {
	side := halved(size, 5) / pool
	return side * side, 32 * m.width
}

// kerasNames are what PyTorch calls Keras's parameters.
var kerasNames = map[string]string{"kernel": "weight", "depthwise_kernel": "weight", "gamma": "weight", "beta": "bias",
	"moving_mean": "running_mean", "moving_variance": "running_var"}

// load takes Keras's names and order of axes as well as the network's own.
func (m *mobilenet) load() torchstage.LoadOptions {
	axes := map[string][]int{} // of the kernels that are as in Keras
	return torchstage.LoadOptions{
		Ignore: []string{"conv_preds.*"},
		Rename: func(name string) string {
			dot := strings.LastIndexByte(name, '.')
			own := kerasNames[name[dot+1:]]
			if own == "" {
				return name
			}
			own = name[:dot+1] + own
			switch name[dot+1:] {
			case "kernel": // [H,W,in,out]
				axes[own] = []int{3, 2, 0, 1}
			case "depthwise_kernel": // [H,W,C,1]
				axes[own] = []int{2, 3, 0, 1}
			}
			return own
		},
		Transform: func(name string, t *tensor.Tensor) (*tensor.Tensor, error) {
			order := axes[name]
			if order == nil {
				return t, nil
			}
			if len(t.Shape) != len(order) {
				return nil, fmt.Errorf("a kernel of %v, want four axes", t.Shape)
			}
			return permuted(t, order)
		},
	}
}

// permuted has a tensor's axes in another order.
func permuted(t *tensor.Tensor, order []int) (*tensor.Tensor, error) {
	shape, step := make([]int64, len(order)), make([]int64, len(order))
	for k, axis := range order {
		shape[k], step[k] = t.Shape[axis], 1
		for _, n := range t.Shape[axis+1:] {
			step[k] *= n
		}
	}
	out, err := tensor.New(t.DType, shape...)
	if err != nil {
		return nil, err
	}
	size, index := int64(t.DType.Size()), make([]int64, len(order))
	for at := int64(0); at < int64(len(out.Data)); at += size {
		from := int64(0)
		for k := range index {
			from += index[k] * step[k]
		}
		copy(out.Data[at:at+size], t.Data[from*size:])
		for k := len(index) - 1; k >= 0; k-- {
			if index[k]++; index[k] < shape[k] {
				break
			}
			index[k] = 0
		}
	}
	return out, nil
}

// efficientNet is EfficientNet-Lite0 (Tan and Le 2019, without squeeze and excitation and with
// ReLU6): 16 inverted bottlenecks and a pointwise convolution to 1,280 channels. Parameters have
// the names of the package efficientnet-lite-pytorch.
type efficientNet struct {
	stem, head mobileLayer
	blocks     []efficientBlock
}

type efficientBlock struct {
	expand, depth, project mobileLayer // expand.weight: nil in the first
	residual               bool
}

// efficientPlan lists how often each kind of block comes, its kernel, the stride of the first of
// them, how much it expands its input, and its output channels.
var efficientPlan = []struct{ times, kernel, stride, expand, out int64 }{
	{1, 3, 1, 1, 16}, {2, 3, 2, 6, 24}, {2, 5, 2, 6, 40}, {3, 3, 2, 6, 80}, {3, 5, 1, 6, 112}, {4, 5, 2, 6, 192}, {1, 3, 1, 6, 320},
}

const efficientWidth = 1280

func newEfficientNet(p *torchstage.Params) *efficientNet {
	layer := func(conv, norm string, out, in, kernel, stride, groups int64) mobileLayer {
		return mobileLayer{
			weight: p.Parameter(conv+".weight", []int64{out, in / groups, kernel, kernel}, torchstage.KaimingNormal(true)),
			norm:   newBatchNorm(p, norm, out), stride: stride, groups: groups,
		}
	}
	e := &efficientNet{stem: layer("_conv_stem", "_bn0", 32, 3, 3, 2, 1)}
	in := int64(32)
	for _, kind := range efficientPlan {
		for i := range kind.times {
			name, wide, stride := "_blocks."+strconv.Itoa(len(e.blocks))+".", in*kind.expand, int64(1)
			if i == 0 {
				stride = kind.stride
			}
			b := efficientBlock{residual: stride == 1 && in == kind.out}
			if kind.expand > 1 {
				b.expand = layer(name+"_expand_conv", name+"_bn0", wide, in, 1, 1, 1)
			}
			b.depth = layer(name+"_depthwise_conv", name+"_bn1", wide, wide, kind.kernel, stride, wide)
			b.project = layer(name+"_project_conv", name+"_bn2", kind.out, wide, 1, 1, 1)
			e.blocks = append(e.blocks, b)
			in = kind.out
		}
	}
	e.head = layer("_conv_head", "_bn1", efficientWidth, in, 1, 1, 1)
	return e
}

func (e *efficientNet) forward(s *torchstage.Scope, x *ts.Tensor, train bool) *ts.Tensor {
	// The original's grey values are (v - 127) / 128.
	x = s.ChannelsLast(s.AddScalar(s.MulScalar(x, 255.0/128), -127.0/128))
	x = relu6(s, e.stem.forward(s, x, train))
	for _, b := range e.blocks {
		x = s.Sub(func(s *torchstage.Scope) *ts.Tensor {
			y := x
			if b.expand.weight != nil {
				y = relu6(s, b.expand.forward(s, y, train))
			}
			y = b.project.forward(s, relu6(s, b.depth.forward(s, y, train)), train)
			if b.residual {
				y = s.Add(y, x)
			}
			return y
		})
	}
	return relu6(s, e.head.forward(s, x, train))
}

func (e *efficientNet) tokens(size, pool int64) (t, c int64) {
	side := halved(size, 5) / pool
	return side * side, efficientWidth
}

func (e *efficientNet) load() torchstage.LoadOptions {
	return torchstage.LoadOptions{Ignore: []string{"_fc.*", "*.num_batches_tracked"}}
}
