package dataset

import (
	"fmt"
	"math"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"

	"github.com/alignedfusion/alignedfusion/internal/nifti"
	"github.com/alignedfusion/alignedfusion/internal/problem"
	"github.com/alignedfusion/alignedfusion/sdk"
)

// airHU is what lies outside a CT image.
const airHU = -1024

// The intensities of an encoder that declares none: Hounsfield units as they are
// for volumes, 0 to 1 for pictures.
var pictureIntensity = sdk.Intensity{Low: 0, High: 255, OutLow: 0, OutHigh: 1}

// volumes keeps the NIfTI volumes used last: neighbouring cases share one, and at
// the border between two volumes both are in use.
type volumes struct {
	mu   sync.Mutex
	last [2]*loadedVolume
	// files are volumes that can be read slice by slice; nil: this one cannot.
	files map[string]*nifti.Slices
}

// open returns a volume to be read slice by slice, or nil.
func (s *volumes) open(path string) *nifti.Slices {
	s.mu.Lock()
	defer s.mu.Unlock()
	file, known := s.files[path]
	if known {
		return file
	}
	if s.files == nil || len(s.files) >= openVolumesAtMost {
		s.closeFiles()
		s.files = map[string]*nifti.Slices{}
	}
	file, err := nifti.OpenSlices(path)
	if err != nil { // whoever reads it whole says why it cannot be read
		file = nil
	}
	s.files[path] = file
	return file
}

// openVolumesAtMost bounds the open files.
const openVolumesAtMost = 256

func (s *volumes) closeFiles() {
	for _, f := range s.files {
		if f != nil {
			f.Release()
		}
	}
}

// volumeSlice reads a slice through the cache.
func (l *Loader) volumeSlice(path string, file *nifti.Slices, n int) (*plane, error) {
	return l.opt.Cache.image(fmt.Sprintf("slice\x00%s\x00%d", path, n), func() (*plane, error) {
		data, err := file.Read(n)
		if err != nil {
			return nil, problem.At(path, 0, "", "%v", err)
		}
		return &plane{h: file.Height, w: file.Width, hu32: data}, nil
	})
}

type loadedVolume struct {
	path string
	v    *nifti.Volume
}

func (s *volumes) get(path string) (*nifti.Volume, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.last {
		if l != nil && l.path == path {
			return l.v, nil
		}
	}
	v, err := nifti.Read(path)
	if err != nil {
		return nil, problem.At(path, 0, "", "%v", err)
	}
	s.last[1], s.last[0] = s.last[0], &loadedVolume{path, v}
	return v, nil
}

// slice returns slice number n of the stack that a case's modality lies in.
func (l *Loader) slice(c *Case, modality string, s *stack, n int) (*plane, error) {
	if s != nil && s.nifti != "" {
		if file := l.volumes.open(s.nifti); file != nil {
			return l.volumeSlice(s.nifti, file, n)
		}
		return l.opt.Cache.fromDisk(s.nifti, fmt.Sprintf("slice %d", n), func() (*plane, error) {
			v, err := l.volumes.get(s.nifti)
			if err != nil {
				return nil, err
			}
			size := v.Height * v.Width
			if n < 0 || (n+1)*size > len(v.Data) {
				return nil, problem.At(s.nifti, 0, "", "slice %d is not in the volume of %d slices", n, v.Depth)
			}
			return &plane{h: v.Height, w: v.Width, hu32: v.Data[n*size : (n+1)*size]}, nil
		})
	}
	path := c.Images[modality]
	if s != nil {
		path = s.files[n]
	}
	decode := l.data.pictureDecoder(Volume)
	p, err := l.opt.Cache.decoded(path, "slice", func() (*plane, error) { return decode(path) })
	if err != nil {
		return nil, err
	}
	if size := c.sight(modality).size; p.h != size[0] || p.w != size[1] {
		return nil, problem.At(path, 0, "", "is %d x %d pixels, the key slice %s is %d x %d", p.w, p.h, filepath.Base(c.Images[modality]), size[1], size[0])
	}
	return p, nil
}

// maxSliceOffset bounds how many slices away a neighbour is looked for, whatever
// nonsense the slice distance is.
const maxSliceOffset = 4096

// tap is one resampled slice: (1-weight) of slice low plus weight of slice high.
type tap struct {
	low, high int
	weight    float64
}

// sliceTaps resamples the stack to depth slices spacingMM apart, the key slice in
// the middle (depth/2). Offset p lies at p*spacing/interval slices, and every offset
// has its own weight, frac(p*spacing/interval), on either side of the key slice. A
// slice that does not exist is replaced by the nearest one towards the key slice; an
// unknown interval repeats the key slice.
func sliceTaps(s *stack, key, depth int, spacingMM, intervalMM float64) []tap {
	taps := make([]tap, depth)
	for i := range taps {
		taps[i] = tap{key, key, 0}
		if s == nil || !(intervalMM > 0) {
			continue
		}
		position := clamp(float64(i-depth/2)*spacingMM/intervalMM, -maxSliceOffset, maxSliceOffset)
		low := math.Floor(position)
		weight := position - low
		if weight > 1-1e-6 { // rounding of an offset that meets a slice
			low, weight = low+1, 0
		}
		taps[i].low = s.nearest(key+int(low), key)
		taps[i].high = taps[i].low
		if weight > 1e-6 {
			taps[i].high, taps[i].weight = s.nearest(key+int(low)+1, key), weight
		}
	}
	return taps
}

// renderVolume fills out [depth, NetHeight, NetWidth].
func (l *Loader) renderVolume(p *plan, modality string, out []float32) error {
	g, c, v := p.geometry[modality], p.c, p.c.sight(modality)
	window, err := l.windowOf(c, modality)
	if err != nil {
		return err
	}
	s := l.data.stacks[v.stack]
	var part []float32
	var layers []layer[float32]
	var h, w int
	var m Geometry
	size := g.NetHeight * g.NetWidth
	taps := v.taps(s, l.depth, l.opt.Load.SliceSpacingMM)
	for i, of := range taps {
		if i > 0 && slices.Equal(of, taps[i-1]) {
			continue // copied below
		}
		scratch := l.scratch(v.size[0] * v.size[1])
		defer l.pool.Put(&scratch)
		for k, t := range of {
			low, err := l.slice(c, modality, s, t.low)
			if err != nil {
				return err
			}
			high := low
			if t.high != t.low {
				if high, err = l.slice(c, modality, s, t.high); err != nil {
					return err
				}
				if (low.hu16 == nil) != (high.hu16 == nil) || (low.hu32 == nil) != (high.hu32 == nil) {
					return problem.At(s.files[t.high], 0, "", "is of another depth (bits per pixel) than the slice %s", filepath.ToSlash(s.files[t.low]))
				}
			}
			if low.h*low.w != len(scratch) {
				return problem.At(c.Images[modality], 0, "", "the file changed: its slices are %d x %d pixels, %d x %d when the data set was opened", low.w, low.h, v.size[1], v.size[0])
			}
			if k == 0 {
				blend(scratch, low, high, t.weight, c, window)
				continue
			}
			if part == nil {
				part = make([]float32, len(scratch))
			}
			blend(part, low, high, t.weight, c, window)
			for at, x := range part {
				scratch[at] += x
			}
		}
		if len(of) > 1 {
			for at := range scratch {
				scratch[at] /= float32(len(of))
			}
		}
		one := layer[float32]{dst: out[i*size : (i+1)*size], fill: float32(window.fill)}
		one.src, h, w, m = shrink(scratch, v.size[0], v.size[1], 1, *g)
		layers = append(layers, one)
	}
	warp(layers, h, w, 1, m, g.NetHeight, g.NetWidth, p.contentHeight[modality], p.contentWidth[modality])
	for i := 1; i < len(taps); i++ {
		if slices.Equal(taps[i], taps[i-1]) {
			copy(out[i*size:(i+1)*size], out[(i-1)*size:i*size])
		}
	}
	l.finishVolume(p, window, out)
	return nil
}

// scratch is memory for the pixels of a slice; whoever is done with it puts it into the pool.
func (l *Loader) scratch(pixels int) []float32 {
	if old, ok := l.pool.Get().(*[]float32); ok && cap(*old) >= pixels {
		return (*old)[:pixels]
	}
	return make([]float32, pixels)
}

// windowing is an intensity range prepared for use; it maps v to v*gain+offset
// between outLow and outHigh.
type windowing struct {
	gain, offset, outLow, outHigh float64
	fill                          float64
	intensity                     *sdk.Intensity
}

func newWindowing(in *sdk.Intensity) windowing {
	if in == nil {
		return windowing{gain: 1, outLow: math.Inf(-1), outHigh: math.Inf(1), fill: airHU}
	}
	gain := (in.OutHigh - in.OutLow) / (in.High - in.Low)
	return windowing{gain: gain, offset: in.OutLow - in.Low*gain, outLow: min(in.OutLow, in.OutHigh), outHigh: max(in.OutLow, in.OutHigh),
		fill: in.OutLow, intensity: in}
}

// apply windows values in place; NaN becomes the lowest value.
func (w windowing) apply(out []float32) {
	gain, offset, low, high := float32(w.gain), float32(w.offset), float32(w.outLow), float32(w.outHigh)
	lowest := low
	if math.IsInf(w.outLow, -1) {
		lowest = airHU // for NaN where there is no window
	}
	for i, v := range out {
		v = v*gain + offset
		switch {
		case v > high:
			v = high
		case !(v >= low): // NaN too
			v = lowest
		}
		out[i] = v
	}
}

// blend mixes two slices in Hounsfield units and windows the result.
func blend(out []float32, low, high *plane, weight float64, c *Case, window windowing) {
	switch {
	case low.hu16 != nil:
		window.blend16(out, low.hu16, high.hu16, float32(weight))
		return
	case low.hu32 != nil:
		mix(out, low.hu32, high.hu32, float32(weight))
	default:
		mix(out, low.grey8, high.grey8, float32(weight))
		from, to := c.greyHU[0], c.greyHU[1]
		if from == to { // nobody said: grey fills the window
			from, to = 0, 255
			if in := window.intensity; in != nil {
				from, to = in.Low, in.High
			}
		}
		step, start := float32((to-from)/255), float32(from)
		for i, v := range out {
			out[i] = start + v*step
		}
	}
	window.apply(out)
}

// blend16 is mix and apply in one pass over whole numbers, none of which is NaN.
func (w windowing) blend16(out []float32, low, high []int16, weight float32) {
	gain, offset, lowest, highest := float32(w.gain), float32(w.offset), float32(w.outLow), float32(w.outHigh)
	out, high = out[:len(low)], high[:len(low)]
	if weight == 0 {
		for i, v := range low {
			out[i] = max(lowest, min(float32(v)*gain+offset, highest))
		}
		return
	}
	for i, v := range low {
		x := float32(v)
		x += weight * (float32(high[i]) - x)
		out[i] = max(lowest, min(x*gain+offset, highest))
	}
}

func mix[T uint8 | int16 | float32](out []float32, low, high []T, weight float32) {
	if weight == 0 {
		for i, v := range low {
			out[i] = float32(v)
		}
		return
	}
	high = high[:len(low)]
	for i, v := range low {
		x := float32(v)
		out[i] = x + weight*(float32(high[i])-x)
	}
}

// finishVolume changes brightness and contrast, adds noise and normalises.
func (l *Loader) finishVolume(p *plan, w windowing, out []float32) {
	if w.intensity == nil {
		return
	}
	span := w.outHigh - w.outLow
	middle := (w.outLow + w.outHigh) / 2
	if p.color.brightness != 0 || p.color.contrast != 0 {
		gain := float32(1 + p.color.contrast)
		add := float32(middle + p.color.brightness*span)
		mid, lowest, highest := float32(middle), float32(w.outLow), float32(w.outHigh)
		for i, v := range out {
			out[i] = max(lowest, min((v-mid)*gain+add, highest))
		}
	}
	p.addNoise(out, l.opt.Load.Augment.NoiseStd*span)
	normalise(out, w.intensity, 0)
}

func (p *plan) addNoise(out []float32, std float64) {
	if std <= 0 {
		return
	}
	rng := rand.New(rand.NewPCG(p.noiseSeed, uint64(len(out))))
	for i := range out {
		out[i] += float32(std * rng.NormFloat64())
	}
}

// normalise subtracts channel's mean and divides by its standard deviation.
func normalise(out []float32, in *sdk.Intensity, channel int) {
	mean, std := channelOf(in.Mean, channel, 0), channelOf(in.Std, channel, 1)
	if mean == 0 && std == 1 {
		return
	}
	m, s := float32(mean), float32(1/std)
	for i, v := range out {
		out[i] = (v - m) * s
	}
}

// channelOf returns a channel's value; one value serves all channels.
func channelOf(values []float64, channel int, absent float64) float64 {
	switch {
	case len(values) == 0:
		return absent
	case channel < len(values):
		return values[channel]
	}
	return values[len(values)-1]
}

// renderPicture fills out [3, NetHeight, NetWidth].
func (l *Loader) renderPicture(p *plan, modality string, out []float32) error {
	path := p.c.Images[modality]
	pic, err := l.picture(p.c, modality)
	if err != nil {
		return err
	}
	g := p.geometry[modality]
	if pic.h != g.Height || pic.w != g.Width {
		return problem.At(path, 0, "", "the file changed: %d x %d pixels, %d x %d when the data set was opened", pic.w, pic.h, g.Width, g.Height)
	}
	in := l.intensity[modality]
	window := newWindowing(in)
	source, h, w, m := shrink(pic.rgb, pic.h, pic.w, 3, *g)
	size := g.NetHeight * g.NetWidth
	ch, cw := p.contentHeight[modality], p.contentWidth[modality]
	gain, offset := float32(window.gain), float32(window.offset)
	layers := make([]layer[uint8], 3)
	for channel := range layers {
		// What is outside the picture becomes the mean, which normalises to 0.
		fill := float32((channelOf(in.Mean, channel, in.OutLow) - window.offset) / window.gain)
		layers[channel] = layer[uint8]{source, channel, out[channel*size : (channel+1)*size], fill}
	}
	warp(layers, h, w, 3, m, g.NetHeight, g.NetWidth, ch, cw)
	for i, v := range out[:3*size] {
		out[i] = v*gain + offset
	}
	p.changeColors(out, size, window)
	p.addNoise(out, l.opt.Load.Augment.NoiseStd*(window.outHigh-window.outLow))
	for channel := range 3 {
		normalise(out[channel*size:(channel+1)*size], in, channel)
	}
	return nil
}

// picture is a case's picture, or the slice that is shown in its place in a window.
func (l *Loader) picture(c *Case, modality string) (*plane, error) {
	path := c.Images[modality]
	decode := func() (*plane, error) { return l.decodePicture(c, modality) }
	if v := c.sights[modality]; v != nil { // of a slice that is kept itself
		return l.opt.Cache.image(fmt.Sprintf("picture\x00%s\x00%d", path, v.key), decode)
	}
	return l.opt.Cache.decoded(path, fmt.Sprintf("picture of %d bits", l.data.pictureBits), decode)
}

func (l *Loader) decodePicture(c *Case, modality string) (*plane, error) {
	v := c.sights[modality]
	if v == nil {
		return decodePicture(c.Images[modality], l.data.pictureBits)
	}
	p, err := l.slice(c, modality, l.data.stacks[v.stack], v.key)
	if err != nil {
		return nil, err
	}
	return p.colored(l.data.windows[modality]), nil
}

func (p *plan) changeColors(out []float32, size int, w windowing) {
	if p.color == (colorChange{}) {
		return
	}
	middle := float32((w.outLow + w.outHigh) / 2)
	add := middle + float32(p.color.brightness*(w.outHigh-w.outLow))
	contrast, saturation := float32(1+p.color.contrast), float32(1+p.color.saturation)
	low, high := float32(w.outLow), float32(w.outHigh)
	r, g, b := out[:size], out[size:2*size], out[2*size:3*size]
	for i := range size {
		// Rec. 601 luma
		grey := 0.299*r[i] + 0.587*g[i] + 0.114*b[i]
		for _, c := range [3][]float32{r, g, b} {
			v := grey + saturation*(c[i]-grey)
			c[i] = max(low, min((v-middle)*contrast+add, high))
		}
	}
}

type sample interface{ ~uint8 | ~float32 }

// shrink averages blocks of k x k pixels where the geometry shrinks by k >= 2, so
// that the bilinear interpolation that follows does not alias. It returns the pixels,
// their size and the map from them to network pixels.
func shrink[T sample](src []T, h, w, channels int, g Geometry) ([]T, int, int, Geometry) {
	k := 0
	if s := g.scale(); s > 0 {
		k = int(1/s + 1e-9)
	}
	if k < 2 {
		return src, h, w, g
	}
	sh, sw := max(1, h/k), max(1, w/k)
	out := make([]T, sh*sw*channels)
	sums := make([]float32, sw*channels)
	half := float32(0.5) // rounds bytes
	if _, isFloat := any(out).([]float32); isFloat {
		half = 0
	}
	for y := range sh {
		clear(sums)
		y2 := min(h, (y+1)*k)
		for yy := y * k; yy < y2; yy++ {
			row := src[yy*w*channels : (yy+1)*w*channels]
			for x := range sw {
				for xx := x * k; xx < min(w, (x+1)*k); xx++ {
					for c := range channels {
						sums[x*channels+c] += float32(row[xx*channels+c])
					}
				}
			}
		}
		for x := range sw {
			count := float32((y2 - y*k) * (min(w, (x+1)*k) - x*k))
			for c := range channels {
				out[(y*sw+x)*channels+c] = T(sums[x*channels+c]/count + half)
			}
		}
	}
	f := float64(k)
	back := Geometry{A: [6]float64{f, 0, 0.5*f - 0.5, 0, f, 0.5*f - 0.5}} // shrunk to original pixels
	moved := back.then(g.A)
	moved.Height, moved.Width, moved.NetHeight, moved.NetWidth = sh, sw, g.NetHeight, g.NetWidth
	return out, sh, sw, moved
}

// layer is a channel of pixels [h, w, channels] on its way to [netH, netW].
type layer[T sample] struct {
	src     []T
	channel int
	dst     []float32
	// fill stands beyond the image and beyond the content.
	fill float32
}

// warp samples layers of one size bilinearly through the geometry. Where they are looked up is
// computed once for all of them.
func warp[T sample](layers []layer[T], h, w, channels int, g Geometry, netH, netW, contentH, contentW int) {
	inv := g.inverse().A
	maxX, maxY := float64(w)-0.5, float64(h)-0.5
	whole := func(v float64) bool { return v == math.Trunc(v) }
	copying := channels == 1 && inv[0] == 1 && inv[4] == 1 && inv[1] == 0 && inv[3] == 0 && whole(inv[2]) && whole(inv[5])
	at := make([]neighbours, contentW)
	for y := range netH {
		if y >= contentH {
			for _, l := range layers {
				fillRow(l.dst[y*netW:(y+1)*netW], l.fill)
			}
			continue
		}
		x0, y0 := inv[1]*float64(y)+inv[2], inv[4]*float64(y)+inv[5]
		x1, x2 := inside(inv[0], x0, float64(w-1), contentW)
		y1, y2 := inside(inv[3], y0, float64(h-1), contentW)
		x1, x2 = max(x1, y1), min(x2, y2)
		if x1 >= x2 {
			x1, x2 = contentW, contentW
		}
		// Away from the image's border all four neighbours exist.
		for x := x1; x < x2 && !copying; x++ {
			sx, sy := inv[0]*float64(x)+x0, inv[3]*float64(x)+y0
			ix, iy := int(sx), int(sy)
			at[x] = neighbours{(iy*w + ix) * channels, float32(sx - float64(ix)), float32(sy - float64(iy))}
		}
		for _, l := range layers {
			row := l.dst[y*netW : (y+1)*netW]
			fillRow(row[contentW:], l.fill)
			row = row[:contentW]
			if copying {
				copyRow(row, l.src, h, w, int(inv[2]), int(y0), l.fill)
				continue
			}
			interpolate(row[x1:x2], at[x1:x2], l.src[l.channel:], channels, w*channels)
			border := func(from, to int) {
				for x := from; x < to; x++ {
					sx, sy := inv[0]*float64(x)+x0, inv[3]*float64(x)+y0
					if sx < -0.5 || sy < -0.5 || sx > maxX || sy > maxY {
						row[x] = l.fill
						continue
					}
					sx, sy = clamp(sx, 0, float64(w-1)), clamp(sy, 0, float64(h-1))
					ix, iy := int(sx), int(sy)
					fx, fy := float32(sx-float64(ix)), float32(sy-float64(iy))
					jx, jy := min(ix+1, w-1), min(iy+1, h-1)
					a, b := float32(l.src[(iy*w+ix)*channels+l.channel]), float32(l.src[(iy*w+jx)*channels+l.channel])
					c, d := float32(l.src[(jy*w+ix)*channels+l.channel]), float32(l.src[(jy*w+jx)*channels+l.channel])
					top, bottom := a+fx*(b-a), c+fx*(d-c)
					row[x] = top + fy*(bottom-top)
				}
			}
			border(0, x1)
			border(x2, len(row))
		}
	}
}

// neighbours are the four pixels about a point: where the upper left one lies, and how far
// right of and below it the point is.
type neighbours struct {
	at     int
	fx, fy float32
}

// interpolate samples pixels that lie right and down apart.
func interpolate[T sample](row []float32, at []neighbours, src []T, right, down int) {
	at = at[:len(row)]
	for x, p := range at {
		upper, lower := src[p.at:p.at+right+1], src[p.at+down:p.at+down+right+1]
		a, b := float32(upper[0]), float32(upper[right])
		c, d := float32(lower[0]), float32(lower[right])
		top, bottom := a+p.fx*(b-a), c+p.fx*(d-c)
		row[x] = top + p.fy*(bottom-top)
	}
}

// inside returns whole numbers from <= x < to, within 0 and n, for which a*x+b surely
// lies in [0, limit): a pixel is left out at either end for rounding.
func inside(a, b, limit float64, n int) (from, to int) {
	const rounding = 1e-6
	if math.Abs(a)*float64(n) < rounding { // constant along the row
		if b >= rounding && b < limit-rounding {
			return 0, n
		}
		return 0, 0
	}
	first, last := -b/a, (limit-b)/a
	if first > last {
		first, last = last, first
	}
	return int(clamp(math.Ceil(first)+1, 0, float64(n))), int(clamp(math.Floor(last), 0, float64(n)))
}

func fillRow(row []float32, v float32) {
	for i := range row {
		row[i] = v
	}
}

// copyRow copies row y of src from column x on.
func copyRow[T sample](row []float32, src []T, h, w, x, y int, fill float32) {
	if y < 0 || y >= h {
		fillRow(row, fill)
		return
	}
	for i := range row {
		if at := x + i; at >= 0 && at < w {
			row[i] = float32(src[y*w+at])
		} else {
			row[i] = fill
		}
	}
}

// checkIntensity refuses reversed and non-finite ranges.
func checkIntensity(port string, in *sdk.Intensity) error {
	for _, v := range append([]float64{in.Low, in.High, in.OutLow, in.OutHigh}, append(in.Mean, in.Std...)...) {
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return fmt.Errorf("port %q: its intensity range holds %g", port, v)
		}
	}
	if in.Low >= in.High || in.OutLow >= in.OutHigh {
		return fmt.Errorf("port %q: intensity [%g, %g] to [%g, %g] is empty or reversed", port, in.Low, in.High, in.OutLow, in.OutHigh)
	}
	for _, s := range in.Std {
		if s <= 0 {
			return fmt.Errorf("port %q: standard deviation %g is not positive", port, s)
		}
	}
	return nil
}
