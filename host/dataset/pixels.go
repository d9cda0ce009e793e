package dataset

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"image/jpeg"
	"image/png"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/image/bmp"
	"golang.org/x/image/tiff"
	"golang.org/x/image/webp"

	"github.com/alignedfusion/alignedfusion/host/dataset/importer"
	"github.com/alignedfusion/alignedfusion/internal/problem"
)

// Limits of an image, checked in its header before anything is allocated.
const (
	maxImageSide   = 16384
	maxImagePixels = 1 << 26
)

// imageInfo is what an image file's header says.
type imageInfo struct {
	format        string // png, jpeg, tiff, bmp or webp
	width, height int
	// bits per channel; channels without alpha.
	bits, channels int
	// orientation is the Exif orientation; width and height are the upright picture's.
	orientation int
	fileBytes   int64
}

// pictureKinds are what pictures may be, for messages.
const pictureKinds = "PNG, JPEG, TIFF, BMP or WebP"

// isPicture reports whether a file has the ending of a picture.
func isPicture(name string) bool {
	return slices.Contains([]string{".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp"}, strings.ToLower(filepath.Ext(name)))
}

// readImageInfo reads the header of a picture.
func readImageInfo(path string) (imageInfo, error) {
	f, err := os.Open(path)
	if err != nil {
		return imageInfo{}, problem.File(path, err)
	}
	defer f.Close()
	stat, err := f.Stat()
	if err != nil {
		return imageInfo{}, problem.File(path, err)
	}
	if stat.IsDir() {
		return imageInfo{}, problem.At(path, 0, "", "is a folder, want a file: %s", pictureKinds)
	}
	info, err := parseImageInfo(f)
	if err != nil {
		if strings.HasPrefix(filepath.Base(path), "._") {
			err = fmt.Errorf("%w (files named ._* are macOS resource forks, no pictures)", err)
		}
		return imageInfo{}, problem.At(path, 0, "", "%v", err)
	}
	info.fileBytes = stat.Size()
	if info.format == "jpeg" {
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return imageInfo{}, problem.File(path, err)
		}
		info.orientation = jpegOrientation(bufio.NewReader(f))
	}
	if info.orientation >= orientationTransposed {
		info.width, info.height = info.height, info.width
	}
	return info, nil
}

var pngSignature = []byte("\x89PNG\r\n\x1a\n")

// otherFormats are read by golang.org/x/image.
var otherFormats = []struct {
	name   string
	magic  []string // a dot is any byte
	config func(io.Reader) (image.Config, error)
	decode func(io.Reader) (image.Image, error)
}{
	{"tiff", []string{"II*\x00", "MM\x00*"}, tiff.DecodeConfig, tiff.Decode},
	{"bmp", []string{"BM"}, bmp.DecodeConfig, bmp.Decode},
	{"webp", []string{"RIFF....WEBP"}, webp.DecodeConfig, webp.Decode},
}

// begins reports whether data begin with a magic text.
func begins(data []byte, magic string) bool {
	if len(data) < len(magic) {
		return false
	}
	for i := range magic {
		if magic[i] != '.' && magic[i] != data[i] {
			return false
		}
	}
	return true
}

// parseOther reads the header of one of the otherFormats; known is false for a file of none.
func parseOther(head []byte, f io.ReadSeeker) (info imageInfo, known bool, err error) {
	for _, format := range otherFormats {
		if !slices.ContainsFunc(format.magic, func(m string) bool { return begins(head, m) }) {
			continue
		}
		c, err := format.config(f)
		if err != nil {
			return info, true, fmt.Errorf("the %s header is damaged, or of a kind that is not read: %w", format.name, err)
		}
		info = imageInfo{format: format.name, width: c.Width, height: c.Height, bits: 8, channels: 3, orientation: orientationAsStored}
		switch c.ColorModel {
		case color.GrayModel:
			info.channels = 1
		case color.Gray16Model:
			info.bits, info.channels = 16, 1
		case color.RGBA64Model, color.NRGBA64Model:
			info.bits = 16
		}
		if format.name == "tiff" {
			var pages bool
			if info.orientation, pages, err = tiffDirectory(f); err == nil && pages {
				err = errors.New("the TIFF holds several pages, want one picture: store each in a file of its own")
			}
		}
		return info, true, err
	}
	return info, false, nil
}

func parseImageInfo(f io.ReadSeeker) (imageInfo, error) {
	r := bufio.NewReader(f)
	head, err := r.Peek(33)
	if len(head) < 3 {
		if err == nil || errors.Is(err, io.EOF) {
			err = errors.New("the file is empty")
		}
		return imageInfo{}, err
	}
	info := imageInfo{orientation: orientationAsStored}
	head = slices.Clone(head)
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return info, err
	}
	r.Reset(f)
	other, known, err := parseOther(head, f)
	switch {
	case err != nil:
		return other, err
	case known:
		info = other
	case bytes.HasPrefix(head, pngSignature):
		if len(head) < 33 || string(head[12:16]) != "IHDR" {
			return info, errors.New("the PNG header is cut off or damaged")
		}
		w, h := binary.BigEndian.Uint32(head[16:]), binary.BigEndian.Uint32(head[20:])
		if w > maxImageSide || h > maxImageSide {
			return info, fmt.Errorf("the header claims %d x %d pixels, sides of at most %d are read", w, h, maxImageSide)
		}
		info = imageInfo{format: "png", orientation: orientationAsStored, width: int(w), height: int(h), bits: int(head[24])}
		switch head[25] {
		case 0, 4:
			info.channels = 1
		case 2, 6:
			info.channels = 3
		case 3:
			info.channels, info.bits = 3, 8 // palette entries have 8 bits per channel
		default:
			return info, fmt.Errorf("PNG colour type %d is not defined", head[25])
		}
	case head[0] == 0xff && head[1] == 0xd8:
		c, err := jpeg.DecodeConfig(r)
		if err != nil {
			return info, fmt.Errorf("the JPEG header is damaged: %w", err)
		}
		info = imageInfo{format: "jpeg", orientation: orientationAsStored, width: c.Width, height: c.Height, bits: 8, channels: 3}
		if c.ColorModel == color.GrayModel {
			info.channels = 1
		}
	default:
		return info, fmt.Errorf("neither %s: it begins with %q; convert it to PNG", strings.ReplaceAll(pictureKinds, " or ", " nor "), head[:min(8, len(head))])
	}
	if info.width == 0 || info.height == 0 {
		return info, fmt.Errorf("the header claims %d x %d pixels", info.width, info.height)
	}
	if info.width > maxImageSide || info.height > maxImageSide || info.width*info.height > maxImagePixels {
		return info, fmt.Errorf("the header claims %d x %d pixels, at most %d in all and %d per side are read",
			info.width, info.height, maxImagePixels, maxImageSide)
	}
	return info, nil
}

// plane is one decoded slice or picture; exactly one of the pixel slices is set.
type plane struct {
	h, w int
	// hu16 and hu32 hold Hounsfield units, grey8 grey values [h, w].
	hu16  []int16
	hu32  []float32
	grey8 []uint8
	// rgb holds [h, w, 3].
	rgb []uint8
}

func (p *plane) bytes() int64 {
	return int64(2*len(p.hu16) + 4*len(p.hu32) + len(p.grey8) + len(p.rgb))
}

// decodeImage reads a picture as it is stored; imageInfo.orientation says how to turn
// it upright.
func decodeImage(path string) (image.Image, imageInfo, error) {
	info, err := readImageInfo(path)
	if err != nil {
		return nil, info, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, info, problem.File(path, err)
	}
	defer f.Close()
	decode := map[string]func(io.Reader) (image.Image, error){"png": png.Decode, "jpeg": jpeg.Decode}
	for _, format := range otherFormats {
		decode[format.name] = format.decode
	}
	img, err := decode[info.format](bufio.NewReader(f))
	var unsupported tiff.UnsupportedError
	switch {
	case errors.As(err, &unsupported):
		return nil, info, problem.At(path, 0, "", "is a TIFF of a kind that is not read (%v); convert it to PNG", err)
	case err != nil:
		return nil, info, problem.At(path, 0, "", "cannot be decoded, it is cut off or damaged: %v", err)
	}
	return img, info, nil
}

// decodeHU reads a 16-bit grey PNG whose values minus 32768 are Hounsfield units.
func decodeHU(path string) (*plane, error) {
	img, info, err := decodeImage(path)
	if err != nil {
		return nil, err
	}
	g, ok := img.(*image.Gray16)
	if !ok {
		return nil, problem.At(path, 0, "", "%s", wantHU(info))
	}
	return huPlane(g), nil
}

func huPlane(g *image.Gray16) *plane {
	p := storedPlane(g)
	p.hu16 = make([]int16, p.h*p.w)
	for y := range p.h {
		row := g.Pix[y*g.Stride : y*g.Stride+2*p.w]
		out := p.hu16[y*p.w : (y+1)*p.w]
		for x := range out {
			out[x] = int16(int(binary.BigEndian.Uint16(row[2*x:])) - 32768)
		}
	}
	return p
}

func wantHU(info imageInfo) string {
	kind := "grey"
	if info.channels == 3 {
		kind = "colour"
	}
	return fmt.Sprintf("%d-bit %s %s, want a 16-bit grey PNG whose values minus 32768 are Hounsfield units", info.bits, kind, info.format)
}

// decodeSlice reads a slice of any kind: DICOM as it is rescaled, 16-bit grey as HU, 8-bit grey or JPEG
// as grey (the luminance of a JPEG).
func decodeSlice(path string) (*plane, error) {
	if !isPicture(path) && importer.IsDICOM(path) {
		values, h, w, err := importer.ReadSlice(path)
		return &plane{h: h, w: w, hu32: values}, err
	}
	img, info, err := decodeImage(path)
	if err != nil {
		return nil, err
	}
	p := storedPlane(img)
	switch m := img.(type) {
	case *image.Gray16:
		if info.orientation != orientationAsStored {
			return nil, problem.At(path, 0, "", "its tag Orientation is %d: store the slice upright", info.orientation)
		}
		return huPlane(m), nil
	case *image.Gray:
		p.grey8 = compact(m.Pix, m.Stride, p.w, p.h)
	case *image.YCbCr:
		p.grey8 = compact(m.Y, m.YStride, p.w, p.h)
	default:
		rgb := toRGB(img)
		p.grey8 = make([]uint8, p.h*p.w)
		for i := range p.grey8 {
			r, g, b := rgb[3*i], rgb[3*i+1], rgb[3*i+2]
			if r != g || g != b {
				return nil, problem.At(path, 0, "", "a colour picture, want a grey slice")
			}
			p.grey8[i] = r
		}
	}
	p.orient(info.orientation)
	return p, nil
}

func storedPlane(img image.Image) *plane {
	b := img.Bounds()
	return &plane{h: b.Dy(), w: b.Dx()}
}

func compact(pix []uint8, stride, w, h int) []uint8 {
	out := make([]uint8, w*h)
	for y := range h {
		copy(out[y*w:(y+1)*w], pix[y*stride:y*stride+w])
	}
	return out
}

// decodePicture reads a picture as 8-bit RGB; of 16-bit channels the lower bits are
// in use, 0 means all. Transparent pixels are black.
func decodePicture(path string, bits int) (*plane, error) {
	img, info, err := decodeImage(path)
	if err != nil {
		return nil, err
	}
	p := storedPlane(img)
	if info.bits == 16 {
		p.rgb = toRGB16(img, bits)
	} else {
		p.rgb = toRGB(img)
	}
	p.orient(info.orientation)
	return p, nil
}

func toRGB(img image.Image) []uint8 {
	b := img.Bounds()
	rgba, ok := img.(*image.RGBA)
	if !ok {
		rgba = image.NewRGBA(image.Rect(0, 0, b.Dx(), b.Dy()))
		draw.Draw(rgba, rgba.Bounds(), img, b.Min, draw.Src)
	}
	out := make([]uint8, 0, 3*b.Dx()*b.Dy())
	for y := range b.Dy() {
		row := rgba.Pix[y*rgba.Stride:]
		for x := range b.Dx() {
			out = append(out, row[4*x], row[4*x+1], row[4*x+2])
		}
	}
	return out
}

// toRGB16 scales the values of 16-bit channels from 0 to 2^bits-1 to 0 to 255.
func toRGB16(img image.Image, bits int) []uint8 {
	if bits == 0 {
		bits = 16
	}
	top := uint32(1)<<bits - 1
	scaled := func(v uint32) uint8 { return uint8((min(v, top)*255 + top/2) / top) }
	b := img.Bounds()
	out := make([]uint8, 0, 3*b.Dx()*b.Dy())
	for y := b.Min.Y; y < b.Max.Y; y++ {
		for x := b.Min.X; x < b.Max.X; x++ {
			r, g, b, _ := img.At(x, y).RGBA()
			out = append(out, scaled(r), scaled(g), scaled(b))
		}
	}
	return out
}

// largest16 is the largest value of a picture's 16-bit channels.
func largest16(img image.Image) uint32 {
	b := img.Bounds()
	var largest uint32
	for y := b.Min.Y; y < b.Max.Y; y++ {
		for x := b.Min.X; x < b.Max.X; x++ {
			r, g, b, _ := img.At(x, y).RGBA()
			largest = max(largest, r, g, b)
		}
	}
	return largest
}

// sampledPictures are enough to see how many bits of 16 are in use.
const sampledPictures = 32

// choosePictureBits finds out how many bits of 16-bit pictures are in use, unless the
// options say it: cameras and scanners give 10 to 14.
func (o *opener) choosePictureBits() error {
	o.d.pictureBits = o.opt.PictureBits
	if o.d.Task != Classify || o.d.pictureBits > 0 {
		return nil
	}
	var deep []string
	for path, info := range o.infos {
		if info.bits == 16 && o.d.stacks[o.relative(path)] == nil {
			deep = append(deep, path)
		}
	}
	if len(deep) == 0 {
		return nil
	}
	slices.Sort(deep)
	var largest uint32
	for i := range min(len(deep), sampledPictures) {
		img, _, err := decodeImage(deep[i*len(deep)/min(len(deep), sampledPictures)])
		if err != nil {
			return err
		}
		largest = max(largest, largest16(img))
	}
	for o.d.pictureBits = 8; uint32(1)<<o.d.pictureBits <= largest; {
		o.d.pictureBits += 2
	}
	if o.d.pictureBits < 16 {
		o.warn("%d pictures have 16 bits (first %s) and the largest value %d: %d bits are taken to be in use; add bits=%d, or what is right, to the data spec",
			len(deep), filepath.ToSlash(deep[0]), largest, o.d.pictureBits, o.d.pictureBits)
	}
	return nil
}
