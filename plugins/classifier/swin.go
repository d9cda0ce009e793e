package classifier

import (
	"fmt"
	"math"

	"github.com/sugarme/gotch"
	"github.com/sugarme/gotch/ts"

	"github.com/alignedfusion/alignedfusion/sdk/fusion/transformer"
	"github.com/alignedfusion/alignedfusion/sdk/torchstage"
)

// swin is Swin-T (Liu et al. 2021): windows of 7x7 tokens, every second block
// shifted by 3, maps of 1/4, 1/8, 1/16 and 1/32 of the picture. Parameters have
// torchvision's names. The map of the last stage gives the tokens.
type swin struct {
	embed     transformer.Affine
	embedNorm transformer.Affine
	stages    []swinStage
	norm      transformer.Affine
	drop      float64
	device    gotch.Device
	// index [49·49] looks up the relative position of two tokens of a window.
	index *ts.Tensor
}

type swinStage struct {
	width  int64
	heads  int64
	blocks []swinBlock
	// merge and mergeNorm lead to the next stage; nil in the last.
	merge     *ts.Tensor
	mergeNorm transformer.Affine
}

type swinBlock struct {
	norm1, norm2 transformer.Affine
	qkv, proj    transformer.Affine
	mlp1, mlp2   transformer.Affine
	table        *ts.Tensor // [13·13, heads]
	shift        int64
}

const (
	swinWindow = 7
	swinEps    = 1e-5
)

func newSwin(b *torchstage.Build, dropout float64) (*swin, error) {
	p := b.Params
	const first = 96
	n := &swin{
		embed: transformer.Affine{
			Weight: p.Parameter("features.0.0.weight", []int64{first, 3, 4, 4}, torchstage.XavierUniform()),
			Bias:   p.Parameter("features.0.0.bias", []int64{first}, torchstage.Zeros()),
		},
		embedNorm: transformer.Norm(p, "features.0.2", first), drop: dropout, device: b.Device,
	}
	for i, depth := range []int{2, 2, 6, 2} {
		width := int64(first) << i
		st := swinStage{width: width, heads: 3 << i}
		for j := range depth {
			name := fmt.Sprintf("features.%d.%d.", 2*i+1, j)
			block := swinBlock{
				norm1: transformer.Norm(p, name+"norm1", width), norm2: transformer.Norm(p, name+"norm2", width),
				qkv: transformer.Linear(p, name+"attn.qkv", width, 3*width), proj: transformer.Linear(p, name+"attn.proj", width, width),
				mlp1: transformer.Linear(p, name+"mlp.0", width, 4*width), mlp2: transformer.Linear(p, name+"mlp.3", 4*width, width),
				table: p.Parameter(name+"attn.relative_position_bias_table", []int64{(2*swinWindow - 1) * (2*swinWindow - 1), st.heads}, torchstage.Normal(0, 0.02)),
			}
			if j%2 == 1 {
				block.shift = swinWindow / 2
			}
			st.blocks = append(st.blocks, block)
		}
		if i < 3 {
			name := fmt.Sprintf("features.%d.", 2*i+2)
			st.merge = p.Parameter(name+"reduction.weight", []int64{2 * width, 4 * width}, torchstage.XavierUniform())
			st.mergeNorm = transformer.Norm(p, name+"norm", 4*width)
		}
		n.stages = append(n.stages, st)
	}
	n.norm = transformer.Norm(p, "norm", first<<3)
	var index []int64
	for a := range int64(swinWindow * swinWindow) {
		for c := range int64(swinWindow * swinWindow) {
			dy, dx := a/swinWindow-c/swinWindow, a%swinWindow-c%swinWindow
			index = append(index, (dy+swinWindow-1)*(2*swinWindow-1)+dx+swinWindow-1)
		}
	}
	n.index = b.S.Keep(b.S.To(b.S.FromInt64s(index, int64(len(index))), b.Device))
	return n, b.S.Err()
}

func (n *swin) forward(s *torchstage.Scope, x *ts.Tensor, train bool) *ts.Tensor {
	x = s.Permute(s.Conv2d(normalize(s, x), n.embed.Weight, n.embed.Bias, 4, 0, 1), 0, 2, 3, 1) // [N,H,W,C]
	x = n.embedNorm.Normalize(s, x, n.stages[0].width, swinEps)
	for _, st := range n.stages {
		for _, b := range st.blocks {
			x = s.Add(x, s.Sub(func(s *torchstage.Scope) *ts.Tensor {
				return n.attend(s, st, b, b.norm1.Normalize(s, x, st.width, swinEps), train)
			}))
			x = s.Add(x, s.Sub(func(s *torchstage.Scope) *ts.Tensor {
				y := s.Gelu(b.mlp1.Apply(s, b.norm2.Normalize(s, x, st.width, swinEps)))
				return s.Dropout(b.mlp2.Apply(s, s.Dropout(y, n.drop, train)), n.drop, train)
			}))
		}
		if st.merge != nil {
			x = s.Linear(st.mergeNorm.Normalize(s, quarters(s, x), 4*st.width, swinEps), st.merge, nil)
		}
	}
	last := n.stages[len(n.stages)-1].width
	x = n.norm.Normalize(s, x, last, swinEps)
	return s.Permute(x, 0, 3, 1, 2)
}

// quarters joins every 2x2 tokens into one of four times the size, column by column.
func quarters(s *torchstage.Scope, x *ts.Tensor) *ts.Tensor {
	x = padTo(s, x, 2)
	n, h, w, c := s.Dim(x, 0), s.Dim(x, 1), s.Dim(x, 2), s.Dim(x, 3)
	x = s.Reshape(x, n, h/2, 2, w/2, 2, c)
	return s.Reshape(s.Permute(x, 0, 1, 3, 4, 2, 5), n, h/2, w/2, 4*c)
}

// padTo pads [N,H,W,C] with zeros at the bottom and right to multiples of m.
func padTo(s *torchstage.Scope, x *ts.Tensor, m int64) *ts.Tensor {
	right, bottom := (m-s.Dim(x, 2)%m)%m, (m-s.Dim(x, 1)%m)%m
	if right == 0 && bottom == 0 {
		return x
	}
	return s.Pad(x, 0, 0, 0, right, 0, bottom)
}

// attend is self-attention inside windows of the cyclically shifted map x [N,H,W,C].
func (n *swin) attend(s *torchstage.Scope, st swinStage, b swinBlock, x *ts.Tensor, train bool) *ts.Tensor {
	const win = swinWindow
	h0, w0 := s.Dim(x, 1), s.Dim(x, 2)
	x = padTo(s, x, win)
	batch, h, w := s.Dim(x, 0), s.Dim(x, 1), s.Dim(x, 2)
	if s.Err() != nil {
		return x
	}
	shiftY, shiftX := b.shift, b.shift
	if h <= win { // one window high: nothing to shift into
		shiftY = 0
	}
	if w <= win {
		shiftX = 0
	}
	shifted := shiftY+shiftX > 0
	if shifted {
		x = s.Roll(x, []int64{-shiftY, -shiftX}, []int64{1, 2})
	}
	windows := (h / win) * (w / win)
	x = s.Reshape(x, batch, h/win, win, w/win, win, st.width)
	x = s.Reshape(s.Permute(x, 0, 1, 3, 2, 4, 5), batch*windows, win*win, st.width)
	size := st.width / st.heads
	qkv := s.Permute(s.Reshape(b.qkv.Apply(s, x), batch*windows, win*win, 3, st.heads, size), 2, 0, 3, 1, 4)
	q, k, v := s.Select(qkv, 0, 0), s.Select(qkv, 0, 1), s.Select(qkv, 0, 2) // [B,heads,49,size]
	logits := s.MatMul(s.MulScalar(q, 1/math.Sqrt(float64(size))), s.Transpose(k, 2, 3))
	bias := s.Permute(s.Reshape(s.IndexSelect(b.table, 0, n.index), win*win, win*win, st.heads), 2, 0, 1)
	logits = s.Add(logits, bias)
	if shifted {
		mask := s.To(s.FromFloat32s(shiftMask(h, w, shiftY, shiftX), 1, windows, 1, win*win, win*win), n.device)
		logits = s.Reshape(logits, batch, windows, st.heads, win*win, win*win)
		logits = s.Reshape(s.Add(logits, mask), batch*windows, st.heads, win*win, win*win)
	}
	y := s.MatMul(s.Softmax(logits, 3), v)
	y = s.Reshape(s.Transpose(y, 1, 2), batch*windows, win*win, st.width)
	y = s.Dropout(b.proj.Apply(s, y), n.drop, train)
	y = s.Permute(s.Reshape(y, batch, h/win, w/win, win, win, st.width), 0, 1, 3, 2, 4, 5)
	y = s.Reshape(y, batch, h, w, st.width)
	if shifted {
		y = s.Roll(y, []int64{shiftY, shiftX}, []int64{1, 2})
	}
	return s.Narrow(s.Narrow(y, 1, 0, h0), 2, 0, w0)
}

// shiftMask hides tokens that the cyclic shift brought next to each other from the
// opposite borders: -100 in [windows,49,49] where two tokens come from different regions.
func shiftMask(h, w, shiftY, shiftX int64) []float32 {
	const win = swinWindow
	region := func(y, x int64) int64 {
		band := func(v, size, shift int64) int64 {
			switch {
			case v < size-win:
				return 0
			case v < size-shift:
				return 1
			}
			return 2
		}
		return 3*band(y, h, shiftY) + band(x, w, shiftX)
	}
	var mask []float32
	for wy := range h / win {
		for wx := range w / win {
			for a := range int64(win * win) {
				for c := range int64(win * win) {
					v := float32(0)
					if region(wy*win+a/win, wx*win+a%win) != region(wy*win+c/win, wx*win+c%win) {
						v = -100
					}
					mask = append(mask, v)
				}
			}
		}
	}
	return mask
}

func (n *swin) tokens(size, pool int64) (t, c int64) {
	side := size / 4
	for range 3 {
		side = (side + 1) / 2
	}
	return (side / pool) * (side / pool), 768
}

func (n *swin) load() torchstage.LoadOptions {
	return torchstage.LoadOptions{Ignore: []string{"head.*", "*.relative_position_index"}}
}

// close frees the lookup table.
func (n *swin) close() { _ = n.index.Drop() }
