package classifier

import (
	"cmp"
	"strconv"
	"strings"

	"github.com/sugarme/gotch/ts"

	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/fusion/transformer"
	"github.com/alignedfusion/alignedfusion/sdk/torchstage"
)

// vit is the vision transformer of Dosovitskiy et al. 2021 with a class token;
// parameters have torchvision's names.
type vit struct {
	patch, width, side int64 // side: patches in a row
	projection         transformer.Affine
	class, position    *ts.Tensor // [1,1,C], [1,1+T,C]
	layers             []*transformer.Layer
	norm               transformer.Affine
	drop               float64
}

const vitEps = 1e-6

var vitNames = transformer.Names{
	Norm1: "ln_1", Norm2: "ln_2",
	InProjection: "self_attention.in_proj_weight", InProjectionBias: "self_attention.in_proj_bias",
	OutProjection: "self_attention.out_proj", Linear1: "mlp.0", Linear2: "mlp.3",
}

func newViT(p *torchstage.Params, set encoderSettings, size int64) (*vit, error) {
	width := cmp.Or(set.Width, 768)
	heads := cmp.Or(set.Heads, max(1, width/64))
	if size%set.Patch != 0 {
		return nil, sdk.RefuseSetting("patch", "%d given, want a divisor of image_size=%d", set.Patch, size)
	}
	if width%heads != 0 {
		return nil, sdk.RefuseSetting("heads", "%d given, want a divisor of width=%d", heads, width)
	}
	v := &vit{patch: set.Patch, width: width, side: size / set.Patch, drop: set.Dropout}
	v.projection = transformer.Affine{
		Weight: p.Parameter("conv_proj.weight", []int64{width, 3, v.patch, v.patch}, torchstage.XavierUniform()),
		Bias:   p.Parameter("conv_proj.bias", []int64{width}, torchstage.Zeros()),
	}
	v.class = p.Parameter("class_token", []int64{1, 1, width}, torchstage.Normal(0, 0.02))
	v.position = p.Parameter("encoder.pos_embedding", []int64{1, 1 + v.side*v.side, width}, torchstage.Normal(0, 0.02))
	config := transformer.Config{Width: width, Heads: heads, Hidden: 4 * width, Dropout: v.drop, Eps: vitEps}
	for i := range cmp.Or(set.Layers, 12) {
		prefix := "encoder.layers.encoder_layer_" + strconv.FormatInt(i, 10) + "."
		v.layers = append(v.layers, transformer.New(p, prefix, config, vitNames))
	}
	v.norm = transformer.Norm(p, "encoder.ln", width)
	return v, nil
}

// normalize applies ImageNet's mean and standard deviation per channel.
func normalize(s *torchstage.Scope, x *ts.Tensor) *ts.Tensor {
	like := func(v ...float32) *ts.Tensor {
		t := s.FromFloat32s(v, 1, 3, 1, 1)
		return s.Do("to", func() (*ts.Tensor, error) {
			d, err := x.Device()
			if err != nil {
				return nil, err
			}
			return t.To(d, false)
		})
	}
	return s.Div(s.Sub2(x, like(0.485, 0.456, 0.406)), like(0.229, 0.224, 0.225))
}

func (v *vit) forward(s *torchstage.Scope, x *ts.Tensor, train bool) *ts.Tensor {
	n := s.Dim(x, 0)
	y := s.Conv2d(normalize(s, x), v.projection.Weight, v.projection.Bias, v.patch, 0, 1)
	y = s.Cat([]*ts.Tensor{s.Expand(v.class, n, 1, v.width), rows(s, y)}, 1)
	y = s.Dropout(s.Add(y, v.position), v.drop, train)
	for _, l := range v.layers {
		y = l.Forward(s, y, nil, train)
	}
	return v.norm.Normalize(s, y, v.width, vitEps)
}

func (v *vit) tokens(int64, int64) (t, c int64) { return 1 + v.side*v.side, v.width }

func (v *vit) load() torchstage.LoadOptions {
	return torchstage.LoadOptions{
		Ignore: []string{"heads.*", "head.*", "fc_norm.*", "pre_logits.*"},
		Rename: func(name string) string {
			name = strings.NewReplacer("mlp.linear_1.", "mlp.0.", "mlp.linear_2.", "mlp.3.").Replace(name)
			return timmViT(name)
		},
	}
}

// timmViT turns timm's names into torchvision's; others pass unchanged.
func timmViT(name string) string {
	switch name {
	case "cls_token":
		return "class_token"
	case "pos_embed":
		return "encoder.pos_embedding"
	}
	for _, r := range [][2]string{{"patch_embed.proj.", "conv_proj."}, {"norm.", "encoder.ln."}} {
		if rest, ok := strings.CutPrefix(name, r[0]); ok {
			return r[1] + rest
		}
	}
	rest, ok := strings.CutPrefix(name, "blocks.")
	if !ok {
		return name
	}
	number, rest, ok := strings.Cut(rest, ".")
	if !ok {
		return name
	}
	return "encoder.layers.encoder_layer_" + number + "." + strings.NewReplacer(
		"norm1.", "ln_1.", "norm2.", "ln_2.", "attn.qkv.weight", "self_attention.in_proj_weight", "attn.qkv.bias", "self_attention.in_proj_bias",
		"attn.proj.", "self_attention.out_proj.", "mlp.fc1.", "mlp.0.", "mlp.fc2.", "mlp.3.").Replace(rest)
}
