package classifier

import (
	"strconv"

	"github.com/sugarme/gotch/ts"

	"github.com/alignedfusion/alignedfusion/sdk/torchstage"
)

// r3d is R3D-18 (Tran et al. 2018, "A Closer Look at Spatiotemporal Convolutions", sec. 3.2) as
// torchvision has it, under its names and without its last layer: a residual network of 3 x 3 x 3
// convolutions that halves slices and map three times after a stem that halves the map. The
// slices take the place of the frames of a film.
type r3d struct {
	stem       *ts.Tensor
	stemNorm   batchNorm
	layers     []r3dBlock
	mean, size *ts.Tensor // [1,3,1,1,1] of the films it is trained on: mean, standard deviation
}

type r3dBlock struct {
	stride                 int64
	conv1, conv2, short    *ts.Tensor // short: nil where input and output have one shape
	norm1, norm2, shortAdd batchNorm
}

func newR3D(b *torchstage.Build) *r3d {
	p := b.Params
	constant := func(v ...float32) *ts.Tensor { return b.S.Keep(b.S.To(b.S.FromFloat32s(v, 1, 3, 1, 1, 1), b.Device)) }
	net := &r3d{
		stem:     p.Parameter("stem.0.weight", []int64{64, 3, 3, 7, 7}, torchstage.KaimingNormal(true)),
		stemNorm: newBatchNorm(p, "stem.1", 64),
		mean:     constant(0.43216, 0.394666, 0.37645),
		size:     constant(0.22803, 0.22145, 0.216989),
	}
	in := int64(64)
	for layer := range 4 {
		out := int64(64) << layer
		for i := range 2 {
			name := "layer" + strconv.Itoa(layer+1) + "." + strconv.Itoa(i)
			block := r3dBlock{
				stride: 1,
				conv1:  p.Parameter(name+".conv1.0.weight", []int64{out, in, 3, 3, 3}, torchstage.KaimingNormal(true)),
				norm1:  newBatchNorm(p, name+".conv1.1", out),
				conv2:  p.Parameter(name+".conv2.0.weight", []int64{out, out, 3, 3, 3}, torchstage.KaimingNormal(true)),
				norm2:  newBatchNorm(p, name+".conv2.1", out),
			}
			if in != out {
				block.stride = 2
				block.short = p.Parameter(name+".downsample.0.weight", []int64{out, in, 1, 1, 1}, torchstage.KaimingNormal(true))
				block.shortAdd = newBatchNorm(p, name+".downsample.1", out)
			}
			net.layers = append(net.layers, block)
			in = out
		}
	}
	return net
}

func (r *r3d) forward(s *torchstage.Scope, x *ts.Tensor, train bool) *ts.Tensor {
	x = s.Div(s.Sub2(x, r.mean), r.size) // one channel becomes three
	x = s.Relu(r.stemNorm.apply(s, s.Conv3d(x, r.stem, nil, []int64{1, 2, 2}, []int64{1, 3, 3}, 1), train, eps))
	for _, b := range r.layers {
		x = s.Sub(func(s *torchstage.Scope) *ts.Tensor {
			y := s.Relu(b.norm1.apply(s, s.Conv3d(x, b.conv1, nil, cube(b.stride), cube(1), 1), train, eps))
			y = b.norm2.apply(s, s.Conv3d(y, b.conv2, nil, cube(1), cube(1), 1), train, eps)
			if b.short != nil {
				return s.Relu(s.Add(y, b.shortAdd.apply(s, s.Conv3d(x, b.short, nil, cube(b.stride), cube(0), 1), train, eps)))
			}
			return s.Relu(s.Add(y, x))
		})
	}
	return x
}

func (r *r3d) tokens(_, _ int64) (t, c int64) { return 0, 512 }

func (r *r3d) load() torchstage.LoadOptions {
	return torchstage.LoadOptions{Ignore: []string{"fc.*", "*.num_batches_tracked"}}
}

func (r *r3d) close() {
	_ = r.mean.Drop()
	_ = r.size.Drop()
}
