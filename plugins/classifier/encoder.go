package classifier

import (
	"sort"
	"strconv"

	"github.com/sugarme/gotch/ts"

	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/ports"
	"github.com/alignedfusion/alignedfusion/sdk/torchstage"
)

// backbone is a network that turns pictures into tokens.
type backbone interface {
	// forward maps [N,3,H,W] in [0,1] to a map [N,C,h,w], or to tokens [N,T,C] that
	// have no place in a map.
	forward(s *torchstage.Scope, x *ts.Tensor, train bool) *ts.Tensor
	// tokens returns T and C for a square picture, with means over pool x pool cells of
	// the map.
	tokens(size, pool int64) (t, c int64)
	// load names the file's tensors.
	load() torchstage.LoadOptions
}

// encoder applies one backbone to every image of a case.
type encoder struct {
	net    backbone
	size   int64 // side in pixels, 0 as given
	pool   int64 // a token is the mean over pool x pool cells of the map
	frozen bool
	// modality tells several images of a case apart: [C] each, added to the tokens.
	modality map[string]*ts.Tensor
	names    []string
}

func buildEncoder(b *torchstage.Build) (torchstage.Module, error) {
	set, err := sdk.DecodeSettings[encoderSettings](b.Request.Settings)
	if err != nil {
		return nil, err
	}
	e := &encoder{size: set.ImageSize, pool: set.Pool, frozen: set.Frozen, modality: map[string]*ts.Tensor{}}
	for _, p := range b.Request.Inputs {
		if name, ok := ports.Images.Member(p.Name); ok {
			e.names = append(e.names, name)
		}
	}
	sort.Strings(e.names)
	if len(e.names) == 0 {
		return nil, sdk.Errorf(sdk.InvalidArgument, "the data have no image.<modality> for the encoder; volumes are encoded by the plugin a3d (--encoder a3d)")
	}
	if e.size == 0 && (set.Kind == "darknet" || set.Kind == "vit") {
		e.size = 224
	}
	switch set.Kind {
	case "conv":
		e.net, err = newConv(b.Params, set.Width, set.Layers)
	case "darknet":
		e.net = newDarknet(b.Params)
	case "vit":
		e.net, err = newViT(b.Params, set, e.size)
	case "swin_t":
		e.net, err = newSwin(b, set.Dropout)
	}
	if err != nil {
		return nil, err
	}
	if e.pool > 1 && set.Kind == "vit" {
		return nil, sdk.RefuseSetting("pool", "%d given, want 1 with kind=vit: the class token has no place in a map", e.pool)
	}
	if set.Weights != "" {
		if err := b.Params.LoadFile(b.S, string(set.Weights), e.net.load()); err != nil {
			return nil, err
		}
	}
	t, c := e.net.tokens(e.size, e.pool)
	if e.frozen {
		b.Params.Freeze("")
		// The host reads this note: it may keep the tokens instead of asking again.
		b.Notes = append(b.Notes, "frozen: tokens depend on the image alone")
	} else if len(e.names) > 1 {
		for _, name := range e.names {
			e.modality[name] = b.Params.Parameter("modality."+name, []int64{c}, torchstage.Zeros())
		}
	}
	count := "T"
	if t > 0 {
		count = strconv.FormatInt(t, 10)
	}
	for _, name := range e.names {
		b.Inputs = append(b.Inputs, ports.Images.Of(name).Declare(ports.Required, ports.Intensity(pixels)))
		b.Outputs = append(b.Outputs, ports.Tokens.Of(name).Declare(ports.Required, ports.Shape("N", count, strconv.FormatInt(c, 10))))
	}
	return e, nil
}

// Forward encodes every image of the batch.
func (e *encoder) Forward(s *torchstage.Scope, in *torchstage.Inputs) *torchstage.Outputs {
	out := &torchstage.Outputs{Tensors: map[string]*ts.Tensor{}}
	for _, name := range e.names {
		image := ports.Images.Of(name).Name
		x := in.Tensors[image]
		if x == nil {
			s.Failf(sdk.InvalidArgument, "input %q is missing; a case without this image cannot be encoded", image)
			return out
		}
		var y *ts.Tensor
		if e.frozen {
			s.NoGrad(func() { y = e.encode(s, x, false) })
		} else {
			y = e.encode(s, x, in.Train)
		}
		if m := e.modality[name]; m != nil {
			y = s.Add(y, m)
		}
		out.Tensors[ports.Tokens.Of(name).Name] = y
	}
	return out
}

// encode makes tokens [N,T,C] of pictures.
func (e *encoder) encode(s *torchstage.Scope, x *ts.Tensor, train bool) *ts.Tensor {
	y := e.net.forward(s, e.resize(s, x), train)
	if shape := s.Shape(y); len(shape) != 4 {
		return y
	}
	if e.pool > 1 {
		if h, w := s.Dim(y, 2), s.Dim(y, 3); h < e.pool || w < e.pool {
			s.Failf(sdk.InvalidArgument, "setting pool=%d: the map is %d x %d for this picture, want at least pool x pool", e.pool, h, w)
			return y
		}
		y = s.AvgPool2d(y, e.pool, e.pool)
	}
	return rows(s, y)
}

// Close frees what the network holds besides its parameters.
func (e *encoder) Close() {
	if c, ok := e.net.(interface{ close() }); ok {
		c.close()
	}
}

// resize brings pictures to the network's size: area averages when both sides
// shrink, bilinear interpolation otherwise.
func (e *encoder) resize(s *torchstage.Scope, x *ts.Tensor) *ts.Tensor {
	h, w := s.Dim(x, 2), s.Dim(x, 3)
	if s.Err() != nil || e.size == 0 || h == e.size && w == e.size {
		return x
	}
	if h >= e.size && w >= e.size {
		return s.AdaptiveAvgPool2d(x, e.size, e.size)
	}
	return s.Do("upsample_bilinear2d", func() (*ts.Tensor, error) {
		return x.UpsampleBilinear2d([]int64{e.size, e.size}, false, nil, nil, false)
	})
}
