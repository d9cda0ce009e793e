package classifier

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/sugarme/gotch/ts"

	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/ports"
	"github.com/alignedfusion/alignedfusion/sdk/safetensors"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
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

// encoder applies one backbone, or two, to every picture, or every volume, of a case.
type encoder struct {
	networks []network
	pool     int64 // a token is the mean over pool x pool cells of the map
	frozen   bool
	// modality tells several pictures of a case apart: [C] each, by the port of the tokens that
	// it is added to.
	modality map[string]*ts.Tensor
	pixels   []string // the ports of the pictures or volumes
}

// network is one of an encoder's.
type network struct {
	backbone
	size int64                          // side in pixels, 0 as given
	port func(pixels string) ports.Port // of the tokens of a picture
}

// second begins the names of the second network's parameters.
const second = "second."

// deepKinds are the kinds of networks for volumes; the others are for pictures.
var deepKinds = []string{"conv3d", "r3d_18"}

// modalityPrefix begins the names of the parameters that tell several pictures of a case apart.
const modalityPrefix = "modality."

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
	e := &encoder{pool: set.Pool, frozen: set.Frozen, modality: map[string]*ts.Tensor{}}
	deep := slices.Contains(deepKinds, set.Kind)
	if err := e.choosePixels(b, set, deep); err != nil {
		return nil, err
	}
	one, err := newNetwork(b, set)
	if err != nil {
		return nil, err
	}
	one.port = ports.TokensOf
	e.networks = []network{one}
	switch {
	case set.Second == "none" && set.SecondWeights != "":
		return nil, sdk.RefuseSetting("second_weights", "(%s) given, but there is no second network: the setting second says which", set.SecondWeights)
	case set.Second != "none" && deep:
		return nil, sdk.RefuseSetting("second", "%s given, want none with kind=%s: a second network is for pictures", set.Second, set.Kind)
	case set.Second != "none":
		var two network
		b.Params.Under(second, func() {
			two, err = newNetwork(b, encoderSettings{Kind: set.Second, ImageSize: set.ImageSize, Pool: set.Pool, Dropout: set.Dropout, Patch: 16})
		})
		if err != nil {
			return nil, err
		}
		two.port = func(pixels string) ports.Port { return ports.FurtherTokensOf(pixels, set.Second) }
		e.networks = append(e.networks, two)
	}
	for _, port := range e.pixels {
		for _, n := range e.networks {
			tokens := n.port(port).Name
			if sdk.FindPort(b.Outputs, tokens) != nil {
				return nil, sdk.Errorf(sdk.InvalidArgument, "two networks or pictures would both give %s: rename the picture %s", tokens, port)
			}
			t, c := n.tokens(n.size, e.pool)
			count := "T"
			switch {
			case ports.Bags.Has(port):
				count = "P"
			case t > 0 && !deep:
				count = strconv.FormatInt(t, 10)
			}
			b.Outputs = append(b.Outputs, ports.Named(tokens, ports.Required, ports.Shape("N", count, strconv.FormatInt(c, 10))))
			if len(e.pixels) > 1 && !set.Frozen {
				name, _ := ports.Tokens.Member(tokens)
				e.modality[tokens] = b.Params.Parameter(modalityPrefix+name, []int64{c}, torchstage.Zeros())
			}
		}
		in := ports.Named(port, ports.Required, ports.Intensity(pixels))
		if deep {
			in = ports.Named(port, ports.Required, ports.Intensity(hounsfield), ports.Shape("N", "1", strconv.FormatInt(set.Slices, 10), "H", "W"))
		}
		b.Inputs = append(b.Inputs, in)
	}
	if err := e.load(b, set); err != nil {
		return nil, err
	}
	if e.frozen {
		b.Params.Freeze("")
		// The host reads this note: it may keep the tokens instead of asking again.
		b.Notes = append(b.Notes, "frozen: tokens depend on the image alone")
	}
	return e, nil
}

// newNetwork makes the network of the settings' kind.
func newNetwork(b *torchstage.Build, set encoderSettings) (network, error) {
	n, err := network{size: set.ImageSize}, error(nil)
	if n.size == 0 && slices.Contains(imageNetKinds, set.Kind) {
		n.size = 224
	}
	switch set.Kind {
	case "conv", "conv3d":
		n.backbone, err = newConv(b.Params, set.Width, set.Layers, set.Kind == "conv3d")
	case "darknet":
		n.backbone = newDarknet(b.Params)
	case "mobilenet":
		n.backbone = newMobileNet(b.Params, set.Width)
	case "efficientnet_lite0":
		n.backbone = newEfficientNet(b.Params)
	case "vit":
		n.backbone, err = newViT(b.Params, set, n.size)
	case "swin_t":
		n.backbone, err = newSwin(b, set.Dropout)
	case "r3d_18":
		n.backbone = newR3D(b)
	}
	if err == nil && set.Pool > 1 && set.Kind == "vit" {
		err = sdk.RefuseSetting("pool", "%d given, want 1 with a vit: the class token has no place in a map", set.Pool)
	}
	return n, err
}

// load starts the networks from the files of the settings. A file of both has the second's
// parameters under their prefix.
func (e *encoder) load(b *torchstage.Build, set encoderSettings) error {
	first := e.networks[0].load()
	if set.Frozen {
		first.Ignore = append(first.Ignore, modalityPrefix+"*")
	} else {
		first.Missing = append(first.Missing, modalityPrefix+"*")
	}
	if len(e.networks) == 1 {
		if set.Weights == "" {
			return nil
		}
		return b.Params.LoadFile(b.S, string(set.Weights), first)
	}
	var own, others []string
	for _, name := range b.Params.Names() {
		if strings.HasPrefix(name, second) {
			others = append(others, name)
		} else {
			own = append(own, name)
		}
	}
	if set.Weights != "" {
		both, err := holdsSecond(string(set.Weights))
		switch {
		case err != nil:
			return err
		case both && set.SecondWeights != "":
			return sdk.RefuseSetting("second_weights", "(%s) given, but weights (%s) holds both networks; leave one of them out", set.SecondWeights, set.Weights)
		case !both:
			first.Missing = append(first.Missing, others...)
			if set.SecondWeights == "" {
				b.Notes = append(b.Notes, "the second network starts as drawn: weights has the first alone, and there are no second_weights")
			}
		}
		if rename := first.Rename; rename != nil {
			first.Rename = func(name string) string {
				if strings.HasPrefix(name, second) {
					return name
				}
				return rename(name)
			}
		}
		if err := b.Params.LoadFile(b.S, string(set.Weights), first); err != nil {
			return err
		}
	}
	if set.SecondWeights == "" {
		return nil
	}
	other := e.networks[1].load()
	rename, transform := other.Rename, other.Transform
	other.Missing, other.Ignore = append(other.Missing, own...), append(other.Ignore, modalityPrefix+"*")
	other.Rename = func(name string) string {
		if rename != nil {
			name = rename(name)
		}
		if name == "" {
			return ""
		}
		return second + name
	}
	if transform != nil {
		other.Transform = func(name string, t *tensor.Tensor) (*tensor.Tensor, error) {
			return transform(strings.TrimPrefix(name, second), t)
		}
	}
	return b.Params.LoadFile(b.S, string(set.SecondWeights), other)
}

// holdsSecond reports whether a file has parameters of a second network.
func holdsSecond(file string) (bool, error) {
	f, err := safetensors.Open(file)
	if err != nil {
		return false, &sdk.Error{Code: sdk.InvalidArgument, Err: err, Advice: "weights are safetensors; `alignedfusion weights import` converts others"}
	}
	defer f.Close()
	return slices.ContainsFunc(f.Names(), func(name string) bool { return strings.HasPrefix(name, second) }), nil
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
		for _, n := range e.networks {
			encode := e.encode
			if ports.Bags.Has(port) {
				encode = e.encodeBag
			}
			var y *ts.Tensor
			if e.frozen {
				s.NoGrad(func() { y = encode(s, n, x, false) })
			} else {
				y = encode(s, n, x, in.Train)
			}
			tokens := n.port(port).Name
			if m := e.modality[tokens]; m != nil {
				y = s.Add(y, m)
			}
			out.Tensors[tokens] = y
		}
	}
	return out
}

// encode makes tokens [N,T,C] of pictures or volumes.
func (e *encoder) encode(s *torchstage.Scope, net network, x *ts.Tensor, train bool) *ts.Tensor {
	y := net.forward(s, net.resize(s, x), train)
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
func (e *encoder) encodeBag(s *torchstage.Scope, net network, x *ts.Tensor, train bool) *ts.Tensor {
	shape := s.Shape(x)
	if s.Err() != nil {
		return x
	}
	n, p := shape[0], shape[1]
	y := e.encode(s, net, s.Reshape(x, n*p, shape[2], shape[3], shape[4]), train)
	if _, classToken := net.backbone.(*vit); classToken {
		y = s.Select(y, 1, 0)
	} else {
		y = s.Mean(y, []int64{1}, false)
	}
	return s.Reshape(y, n, p, -1)
}

// Close frees what the networks hold besides their parameters.
func (e *encoder) Close() {
	for _, n := range e.networks {
		if c, ok := n.backbone.(interface{ close() }); ok {
			c.close()
		}
	}
}

// resize brings pictures to the network's size: area averages when both sides
// shrink, bilinear interpolation otherwise.
func (n network) resize(s *torchstage.Scope, x *ts.Tensor) *ts.Tensor {
	h, w := s.Dim(x, 2), s.Dim(x, 3)
	if s.Err() != nil || n.size == 0 || h == n.size && w == n.size {
		return x
	}
	if h >= n.size && w >= n.size {
		return s.AdaptiveAvgPool2d(x, n.size, n.size)
	}
	return s.Do("upsample_bilinear2d", func() (*ts.Tensor, error) {
		return x.UpsampleBilinear2d([]int64{n.size, n.size}, false, nil, nil, false)
	})
}
