package dataset

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"image"
	"image/color"
	"io"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/image/bmp"
	"golang.org/x/image/tiff"
)

// asText encodes a picture.
func asText(t testing.TB, write func(io.Writer) error) string {
	t.Helper()
	var b bytes.Buffer
	if err := write(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// losslessWebP is what Pillow 12 writes of the picture below.
const losslessWebP = "UklGRjQAAABXRUJQVlA4TCcAAAAvA4AAAF8gEEj8zSIaYYZRmIP5Ty4HggAShVhimWWWWSaN6H9gugMA"

// TestTIFFBMPAndWebPShowTheSamePixels: the same picture, whatever it is stored as.
func TestTIFFBMPAndWebPShowTheSamePixels(t *testing.T) {
	dir := t.TempDir()
	img := image.NewNRGBA(image.Rect(0, 0, 4, 3))
	for i := range 12 {
		img.SetNRGBA(i%4, i/4, color.NRGBA{uint8(10 * i), uint8(200 - 10*i), 7, 255})
	}
	web, err := base64.StdEncoding.DecodeString(losslessWebP)
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		"a.png": encode(t, img), "a.webp": string(web),
		"a.bmp": asText(t, func(w io.Writer) error { return bmp.Encode(w, img) }),
		"a.tif": asText(t, func(w io.Writer) error {
			return tiff.Encode(w, img, &tiff.Options{Compression: tiff.Deflate, Predictor: true})
		}),
	} {
		path := filepath.Join(dir, name)
		write(t, path, content)
		p, err := decodePicture(path, 0)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for i := range 12 {
			if p.w != 4 || p.h != 3 || !bytes.Equal(p.rgb[3*i:3*i+3], []uint8{uint8(10 * i), uint8(200 - 10*i), 7}) {
				t.Fatalf("%s: %d x %d, %v", name, p.w, p.h, p.rgb)
			}
		}
	}
}

// TestDeepTIFFIsAsDeepPNG: 16-bit slices are Hounsfield units, 16-bit pictures are scaled.
func TestDeepTIFFIsAsDeepPNG(t *testing.T) {
	img := image.NewGray16(image.Rect(0, 0, 4, 4))
	for i := range 16 {
		img.SetGray16(i%4, i/4, color.Gray16{Y: uint16(32768 + 100*i)})
	}
	path := filepath.Join(t.TempDir(), "a.tiff")
	write(t, path, asText(t, func(w io.Writer) error { return tiff.Encode(w, img, nil) }))
	p, err := decodeSlice(path)
	if err != nil || p.hu16[5] != 500 {
		t.Errorf("%v, %v", p, err)
	}
	if p, err = decodePicture(path, 16); err != nil || p.rgb[0] != 128 {
		t.Errorf("%v, %v", p, err)
	}
	d := mustOpen(t, "slices:"+path, Options{})
	l, err := NewLoader(context.Background(), d, d.Cases, LoaderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	b, err := l.Next()
	if err != nil {
		t.Fatal(err)
	}
	if v, err := b.Tensors["volume"].Float32s(); err != nil || v[5] != 500 {
		t.Errorf("%v, %v", v, err)
	}
}

// oddTIFF is a TIFF of 2 x 1 grey pixels with a tag Orientation; next is where its second page
// begins.
func oddTIFF(orientation uint16, next uint32) string {
	raw := []byte("II*\x00\x0a\x00\x00\x00\x05\xc8")
	entries := [][3]uint32{{256, 3, 2}, {257, 3, 1}, {258, 3, 8}, {259, 3, 1}, {262, 3, 1}, {273, 4, 8}, {274, 3, uint32(orientation)}, {277, 3, 1}, {278, 3, 1}, {279, 4, 2}}
	raw = binary.LittleEndian.AppendUint16(raw, uint16(len(entries)))
	for _, e := range entries {
		raw = binary.LittleEndian.AppendUint16(binary.LittleEndian.AppendUint16(raw, uint16(e[0])), uint16(e[1]))
		raw = binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(raw, 1), e[2])
	}
	return string(binary.LittleEndian.AppendUint32(raw, next))
}

// TestTIFFsDirectory: a picture is turned upright as a JPEG is; a second page is refused.
func TestTIFFsDirectory(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a.tif")
	write(t, path, oddTIFF(6, 0))
	p, err := decodePicture(path, 0)
	if err != nil || p.w != 1 || p.h != 2 || p.rgb[0] != 5 || p.rgb[3] != 200 {
		t.Errorf("%+v, %v", p, err)
	}
	for want, content := range map[string]string{
		"holds several pages": oddTIFF(1, 8), "the tiff header is damaged": "II*\x00", "the bmp header is damaged": "BMxxxxxxxx", "the webp header is damaged": "RIFF0000WEBPVP8 ",
	} {
		write(t, path, content)
		if _, err := readImageInfo(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}
