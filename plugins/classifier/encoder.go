package classifier

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/sugarme/gotch/ts"

	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/ports"
	"github.com/alignedfusion/alignedfusion/sdk/torchstage"
)

// backbone is a network that turns pictures or volumes into tokens.
type backbone interface {
	// forward maps [N,3,H,W] or [N,1,D,H,W] in [0,1] to a map [N,C,h,w] or [N,C,d,h,w], or to
	// tokens [N,T,C] that have no place in a map.
	forward(s *torchstage.Scope, x *ts.Tensor, train bool) *ts.Tensor
	// tokens returns T (0: not known) and C for a square picture, with means over pool x pool
	// cells of the map.
	tokens(size, pool int64) (t, c int64)
	// load names the file's tensors.
	load() torchstage.LoadOptions
}

// encoder applies one backbone to every picture, or every volume, of a case.
type encoder struct {
	net    backbone
	size   int64 // side in pixels, 0 as given
	pool   int64 // a token is the mean over pool x pool cells of the map
	frozen bool
	// modality tells several pictures of a case apart: [C] each, by port, added to the tokens.
	modality map[string]*ts.Tensor
	pixels   []string // the ports of the pictures or volumes
}

// deepKinds are the kinds of networks for volumes; the others are for pictures.
var deepKinds = []string{"conv3d", "r3d_18"}

// modalities are the parameters that tell several pictures of a case apart.
const modalities = "modality.*"

// imageNetKinds take pictures of 224 x 224 unless image_size says otherwise.
var imageNetKinds = []string{"darknet", "mobilenet", "efficientnet_lite0", "vit"}

func buildEncoder(b *torchstage.Build) (torchstage.Module, error) {
	set, err := sdk.DecodeSettings[encoderSettings](b.Request.Settings)
	if err != nil {
		return nil, err
	}
	if set.Kind == "auto" {
		set.Kind = kindFor(b.Request.Inputs)
	}
	e := &encoder{size: set.ImageSize, pool: set.Pool, frozen: set.Frozen, modality: map[string]*ts.Tensor{}}
	deep := slices.Contains(deepKinds, set.Kind)
	if err := e.choosePixels(b, set, deep); err != nil {
		return nil, err
	}
	if e.size == 0 && slices.Contains(imageNetKinds, set.Kind) {
		e.size = 224
	}
	switch set.Kind {
	case "conv", "conv3d":
		e.net, err = newConv(b.Params, set.Width, set.Layers, deep)
	case "darknet":
		e.net = newDarknet(b.Params)
	case "mobilenet":
		e.net = newMobileNet(b.Params, set.Width)
	case "efficientnet_lite0":
		e.net = newEfficientNet(b.Params)
	case "vit":
		e.net, err = newViT(b.Params, set, e.size)
	case "swin_t":
		e.net, err = newSwin(b, set.Dropout)
	case "r3d_18":
		e.net = newR3D(b)
	}
	if err != nil {
		return nil, err
	}
	if e.pool > 1 && set.Kind == "vit" {
		return nil, sdk.RefuseSetting("pool", "%d given, want 1 with kind=vit: the class token has no place in a map", e.pool)
	}
	t, c := e.net.tokens(e.size, e.pool)
	options := e.net.load()
	switch {
	case set.Frozen:
		options.Ignore = append(options.Ignore, modalities)
	case len(e.pixels) > 1:
		options.Missing = append(options.Missing, modalities)
		for _, port := range e.pixels {
			name, _ := ports.Tokens.Member(ports.TokensOf(port).Name)
			e.modality[port] = b.Params.Parameter("modality."+name, []int64{c}, torchstage.Zeros())
		}
	}
	if set.Weights != "" {
		if err := b.Params.LoadFile(b.S, string(set.Weights), options); err != nil {
			return nil, err
		}
	}
	if e.frozen {
		b.Params.Freeze("")
		// The host reads this note: it may keep the tokens instead of asking again.
		b.Notes = append(b.Notes, "frozen: tokens depend on the image alone")
	}
	count := "T"
	if t > 0 && !deep {
		count = strconv.FormatInt(t, 10)
	}
	for _, port := range e.pixels {
		in := ports.Named(port, ports.Required, ports.Intensity(pixels))
		count := count
		if ports.Bags.Has(port) {
			count = "P"
		}
		if deep {
			in = ports.Named(port, ports.Required, ports.Intensity(hounsfield), ports.Shape("N", "1", strconv.FormatInt(set.Slices, 10), "H", "W"))
		}
		b.Inputs = append(b.Inputs, in)
		b.Outputs = append(b.Outputs, ports.TokensOf(port).Declare(ports.Required, ports.Shape("N", count, strconv.FormatInt(c, 10))))
	}
	return e, nil
}

// kindFor is the small network for what is given: pictures or, where there are none, volumes.
func kindFor(given []sdk.Port) string {
	kind := "conv"
	for _, p := range given {
		if !ports.Pixels(p.Name) {
			continue
		}
		if !ports.Scan(p.Name) {
			return "conv"
		}
		kind = "conv3d"
	}
	return kind
}

// choosePixels takes the pictures, or for deep the volumes, among the ports that are given.
func (e *encoder) choosePixels(b *torchstage.Build, set encoderSettings, deep bool) error {
	var others []string
	for _, p := range b.Request.Inputs {
		switch {
		case ports.Pixels(p.Name) && ports.Scan(p.Name) == deep:
			e.pixels = append(e.pixels, p.Name)
		case ports.Pixels(p.Name):
			others = append(others, p.Name)
		}
	}
	slices.Sort(e.pixels)
	wanted, mend := "picture", "encoder.kind=conv3d, encoder.kind=r3d_18 or --encoder a3d"
	if deep {
		wanted, mend = "volume", "another encoder.kind, such as conv"
	}
	switch {
	case len(e.pixels) == 0 && len(others) > 0:
		return sdk.Errorf(sdk.InvalidArgument, "the data have no %s for an encoder of kind=%s; %s takes %s", wanted, set.Kind, mend, strings.Join(others, ", "))
	case len(e.pixels) == 0:
		return sdk.Errorf(sdk.InvalidArgument, "the data have no %s for an encoder of kind=%s", wanted, set.Kind)
	case deep && set.ImageSize > 0:
		return sdk.RefuseSetting("image_size", "%d given, want 0 with kind=%s: data.size is the side of volumes", set.ImageSize, set.Kind)
	}
	for _, name := range others {
		b.Notes = append(b.Notes, fmt.Sprintf("%s is not looked at: an encoder of kind=%s takes %s", name, set.Kind, wanted))
	}
	return nil
}

// Forward encodes every picture or volume of the batch.
func (e *encoder) Forward(s *torchstage.Scope, in *torchstage.Inputs) *torchstage.Outputs {
	out := &torchstage.Outputs{Tensors: map[string]*ts.Tensor{}}
	for _, port := range e.pixels {
		x := in.Tensors[port]
		if x == nil {
			s.Failf(sdk.InvalidArgument, "input %q is missing; a case without this image cannot be encoded", port)
			return out
		}
		encode := e.encode
		if ports.Bags.Has(port) {
			encode = e.encodeBag
		}
		var y *ts.Tensor
		if e.frozen {
			s.NoGrad(func() { y = encode(s, x, false) })
		} else {
			y = encode(s, x, in.Train)
		}
		if m := e.modality[port]; m != nil {
			y = s.Add(y, m)
		}
		out.Tensors[ports.TokensOf(port).Name] = y
	}
	return out
}

// encode makes tokens [N,T,C] of pictures or volumes.
func (e *encoder) encode(s *torchstage.Scope, x *ts.Tensor, train bool) *ts.Tensor {
	y := e.net.forward(s, e.resize(s, x), train)
	shape := s.Shape(y)
	if len(shape) < 4 {
		return y
	}
	if e.pool > 1 {
		n, c, h, w := shape[0], shape[1], shape[len(shape)-2], shape[len(shape)-1]
		if h < e.pool || w < e.pool {
			s.Failf(sdk.InvalidArgument, "setting pool=%d: the map is %d x %d for this picture, want at least pool x pool", e.pool, h, w)
			return y
		}
		if len(shape) == 5 { // slice by slice
			y = s.Reshape(y, n, c*shape[2], h, w)
		}
		y = s.Reshape(s.AvgPool2d(y, e.pool, e.pool), n, c, -1)
	}
	return rows(s, y)
}

// encodeBag makes tokens [N,P,C] of bags [N,P,3,H,W]: a patch is one token, the mean over its map
// or, of ViT, its class token.
func (e *encoder) encodeBag(s *torchstage.Scope, x *ts.Tensor, train bool) *ts.Tensor {
	shape := s.Shape(x)
	if s.Err() != nil {
		return x
	}
	n, p := shape[0], shape[1]
	y := e.encode(s, s.Reshape(x, n*p, shape[2], shape[3], shape[4]), train)
	if _, classToken := e.net.(*vit); classToken {
		y = s.Select(y, 1, 0)
	} else {
		y = s.Mean(y, []int64{1}, false)
	}
	return s.Reshape(y, n, p, -1)
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
