package a3d

import (
	"math/rand/v2"
	"slices"

	"github.com/sugarme/gotch"
	"github.com/sugarme/gotch/ts"

	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/ports"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
	"github.com/alignedfusion/alignedfusion/sdk/torchstage"
)

// Pre-training without labels: the encoder hides squares of its volume, in all slices, and a head
// draws them again in the middle slice, as masked autoencoders do (He et al. 2022).
const (
	square       = 16 // side in pixels: a cell of the coarse map
	flatVariance = 1  // grey levels²: what is flatter than this is drawn as flat
)

// Resident ports for the head that draws: the middle slice as it was, and where it is hidden.
const (
	drawnSlice = "middle_slice"
	hiddenPort = "hidden"
)

func drawnPorts() []sdk.Port {
	return []sdk.Port{
		{Name: drawnSlice, DType: tensor.FP32, Shape: []string{"N", "H", "W"}, Resident: true, Help: "the middle slice as it was given, for the head reconstruct"},
		{Name: hiddenPort, DType: tensor.FP32, Shape: []string{"N", "H16", "W16"}, Resident: true, Help: "1 where a square of 16 x 16 pixels is hidden from it"},
	}
}

// hiddenSquares draws which squares [n,rows,columns] of volumes are hidden, as many in each.
func hiddenSquares(seed uint64, share float64, n, rows, columns int64) []float32 {
	out := make([]float32, n*rows*columns)
	cells := int(rows * columns)
	count := min(max(int(share*float64(cells)+0.5), 1), cells-1)
	for i := range n {
		rng := rand.New(rand.NewPCG(seed, uint64(i)))
		for _, at := range rng.Perm(cells)[:count] {
			out[int(i)*cells+at] = 1
		}
	}
	return out
}

// hideSquares is a volume [N,1,D,H,W] with zeros in squares of all its slices; out gets what the
// head wants to know.
func (e *encoder) hideSquares(s *torchstage.Scope, in *torchstage.Inputs, volume *ts.Tensor, out *torchstage.Outputs) *ts.Tensor {
	shape := s.Shape(volume)
	if s.Err() != nil {
		return volume
	}
	n, depth, h, w := shape[0], shape[2], shape[3], shape[4]
	rows, columns := h/square, w/square
	var hidden []float32
	if in.Train {
		hidden = hiddenSquares(in.Seed, e.shared.hide, n, rows, columns)
	} else { // the same of every picture, so that pictures and checkpoints can be compared
		hidden = slices.Repeat(hiddenSquares(0, e.shared.hide, 1, rows, columns), int(n))
	}
	where := s.To(s.FromFloat32s(hidden, n, rows, columns), e.device)
	out.Tensors[hiddenPort] = where
	out.Tensors[drawnSlice] = s.Contiguous(s.Select(s.Reshape(volume, n, depth, h, w), 1, depth/2))
	seen := s.AddScalar(s.MulScalar(s.UpsampleNearest2d(s.Unsqueeze(where, 1), h, w), -1), 1)
	return s.Mul(volume, s.Unsqueeze(seen, 2))
}

type drawingSettings struct {
	Hide float64 `setting:"hide" default:"0.5" above:"0" max:"0.95" help:"share of a volume's squares of 16 pixels that are hidden in training, at least one and not all"`
}

// drawing is the head that draws what is hidden, from the feature pyramid.
type drawing struct {
	pyramid                      *pyramid
	device                       gotch.Device
	conv, convBias, out, outBias *ts.Tensor
}

// What the head gives when it is asked.
var (
	drawnMap = sdk.Port{Name: ports.Visuals.Of("drawn").Name, DType: tensor.FP32, Shape: []string{"N", "H", "W"}, OnRequest: true,
		Help: "the slice as it is drawn: grey levels less the mean of their square, over its deviation"}
	drawingError = ports.Named(ports.Metrics.Of("reconstruction").Name, ports.LowerIsBetter, ports.Help("the loss of each case, with the same squares hidden in all"))
)

func drawingManifest() sdk.StageManifest {
	m := headManifest()
	return sdk.StageManifest{
		Name: "reconstruct", Kind: sdk.KindHead, Trainable: true, Tasks: []string{"detect"},
		Summary: "pre-training without labels: squares of the volume are hidden from the encoder, and drawn; finds no boxes",
		Inputs:  append(residents(), drawnPorts()...),
		Outputs: append(m.Outputs, drawnMap, drawingError), Settings: sdk.SettingsOf(drawingSettings{}),
		Losses: []string{"reconstruction"},
	}
}

func buildDrawing(b *torchstage.Build) (torchstage.Module, error) {
	left, ok := b.Group.Get(sharedName).(*shared)
	if !ok {
		return nil, sdk.Errorf(sdk.FailedPrecondition, "the head needs plugin a3d's encoder: open it first, in the same process and group")
	}
	set, err := sdk.DecodeSettings[drawingSettings](b.Request.Settings)
	if err != nil {
		return nil, err
	}
	if left.frozen {
		return nil, sdk.Errorf(sdk.InvalidArgument, "the encoder is frozen (encoder.frozen=true), and it is what this head is to train")
	}
	left.hide = set.Hide
	b.Autocast = false // as its encoder
	c, p := left.config, b.Params
	h := &drawing{pyramid: left.pyramid, device: b.Device}
	h.conv = p.Parameter("draw.conv.weight", []int64{c.pyramid, c.pyramid, 3, 3}, torchstage.KaimingNormal(true))
	h.convBias = p.Parameter("draw.conv.bias", []int64{c.pyramid}, torchstage.Zeros())
	h.out = p.Parameter("draw.pixels.weight", []int64{featureStride * featureStride, c.pyramid, 1, 1}, torchstage.KaimingUniform(1))
	h.outBias = p.Parameter("draw.pixels.bias", []int64{featureStride * featureStride}, torchstage.Zeros())
	m := drawingManifest()
	b.Inputs, b.Outputs = m.Inputs, m.Outputs
	return h, nil
}

// Forward implements torchstage.Module.
func (h *drawing) Forward(s *torchstage.Scope, in *torchstage.Inputs) *torchstage.Outputs {
	out := &torchstage.Outputs{Tensors: map[string]*ts.Tensor{}, Losses: map[string]*ts.Tensor{}}
	if !in.Train {
		out.Raw = rawDetections(nil)
	}
	if !in.Train && !in.Wanted[drawnMap.Name] && !in.Wanted[drawingError.Name] {
		return out
	}
	maps := make([]*ts.Tensor, len(residentMaps))
	for i, name := range residentMaps {
		maps[i] = in.Resident[name]
	}
	y := s.Relu(s.Conv2d(h.pyramid.forward(s, maps), h.conv, h.convBias, 1, 1, 1))
	y = s.Conv2d(y, h.out, h.outBias, 1, 0, 1)
	drawn := pixelsOf(s, y)
	errors := drawingErrors(s, drawn, in.Resident[drawnSlice], in.Resident[hiddenPort])
	if in.Train {
		out.Losses["reconstruction"] = s.Mean(errors, []int64{0}, false)
	}
	if in.Wanted[drawnMap.Name] {
		out.Tensors[drawnMap.Name] = drawn
	}
	if in.Wanted[drawingError.Name] {
		out.Tensors[drawingError.Name] = errors
	}
	return out
}

// pixelsOf lays cells [N,16,H/4,W/4], each with the pixels of its square of 4 x 4 row by row, out
// as pictures [N,H,W].
func pixelsOf(s *torchstage.Scope, cells *ts.Tensor) *ts.Tensor {
	return s.Sub(func(s *torchstage.Scope) *ts.Tensor {
		shape := s.Shape(cells)
		if s.Err() != nil {
			return nil
		}
		n, rows, columns := shape[0], shape[2], shape[3]
		x := s.Permute(s.Reshape(cells, n, featureStride, featureStride, rows, columns), 0, 3, 1, 4, 2)
		return s.Reshape(x, n, rows*featureStride, columns*featureStride)
	})
}

// drawingErrors [N] of pictures [N,H,W] and slices [N,H,W] are each the mean over the hidden squares
// of the mean over their pixels of (drawn - (slice - m) / sqrt(v + 1))², m and v being the mean and
// the variance of the slice in the square: He et al. 2022, sec. 4.1, with normalised pixels.
func drawingErrors(s *torchstage.Scope, drawn, slice, hidden *ts.Tensor) *ts.Tensor {
	return s.Sub(func(s *torchstage.Scope) *ts.Tensor {
		shape := s.Shape(slice)
		if s.Err() != nil {
			return nil
		}
		n, rows, columns := shape[0], shape[1]/square, shape[2]/square
		squares := func(x *ts.Tensor) *ts.Tensor {
			return s.Reshape(s.Permute(s.Reshape(x, n, rows, square, columns, square), 0, 1, 3, 2, 4), n, rows, columns, square*square)
		}
		x := squares(slice)
		x = s.Sub2(x, s.Mean(x, []int64{3}, true))
		x = s.Div(x, s.Sqrt(s.AddScalar(s.Mean(s.Mul(x, x), []int64{3}, true), flatVariance)))
		off := s.Sub2(squares(drawn), x)
		each := s.Mean(s.Mul(off, off), []int64{3}, false)
		return s.Div(s.Sum(s.Mul(each, hidden), []int64{1, 2}, false), s.Sum(hidden, []int64{1, 2}, false))
	})
}
