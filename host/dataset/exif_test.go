package dataset

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"image"
	"image/color"
	"image/jpeg"
	"path/filepath"
	"strings"
	"testing"
)

// exifJPEG is a picture of 32 x 16 stored pixels whose quarters are red and green
// above blue and white, with an Exif orientation.
func exifJPEG(t testing.TB, order binary.AppendByteOrder, orientation uint16) string {
	t.Helper()
	img := image.NewNRGBA(image.Rect(0, 0, 32, 16))
	for y := range 16 {
		for x := range 32 {
			img.Set(x, y, [2][2]color.NRGBA{
				{{255, 0, 0, 255}, {0, 255, 0, 255}},
				{{0, 0, 255, 255}, {255, 255, 255, 255}},
			}[y/8][x/16])
		}
	}
	var b bytes.Buffer
	if err := jpeg.Encode(&b, img, &jpeg.Options{Quality: 95}); err != nil {
		t.Fatal(err)
	}
	mark := map[bool]string{true: "MM", false: "II"}[order == binary.AppendByteOrder(binary.BigEndian)]
	tiff := order.AppendUint32(order.AppendUint16([]byte(mark), 42), 8)
	tiff = order.AppendUint16(tiff, 2)
	entry := func(tag, kind uint16, value []byte) {
		tiff = order.AppendUint32(order.AppendUint16(order.AppendUint16(tiff, tag), kind), 1)
		tiff = append(tiff, value...)
	}
	entry(0x0100, 4, order.AppendUint32(nil, 32)) // ImageWidth
	entry(0x0112, 3, append(order.AppendUint16(nil, orientation), 0, 0))
	tiff = order.AppendUint32(tiff, 0)
	xmp := segment("http://ns.adobe.com/xap/1.0/\x00<x/>")
	return b.String()[:2] + xmp + "\xff" + segment("Exif\x00\x00"+string(tiff)) + b.String()[2:]
}

// segment is one of the application segments APP1.
func segment(payload string) string {
	return string(binary.BigEndian.AppendUint16([]byte{0xff, 0xe1}, uint16(len(payload)+2))) + payload
}

// TestExifOrientationIsApplied: where the file's first row and column lie in the
// picture is what the Exif standard says of each orientation.
func TestExifOrientationIsApplied(t *testing.T) {
	for orientation, sides := range map[uint16][2]string{ // of row 0, of column 0
		1: {"top", "left"}, 2: {"top", "right"}, 3: {"bottom", "right"}, 4: {"bottom", "left"},
		5: {"left", "top"}, 6: {"right", "top"}, 7: {"right", "bottom"}, 8: {"left", "bottom"},
	} {
		for name, order := range map[string]binary.AppendByteOrder{"little": binary.LittleEndian, "big": binary.BigEndian} {
			t.Run(fmt.Sprintf("%d %s", orientation, name), func(t *testing.T) {
				dir := t.TempDir()
				path := filepath.Join(dir, "p.jpg")
				write(t, path, exifJPEG(t, order, orientation))
				opposite := map[string]string{"top": "bottom", "bottom": "top", "left": "right", "right": "left"}
				h, w := 16, 32
				if sides[0] == "left" || sides[0] == "right" {
					h, w = 32, 16
				}
				write(t, filepath.Join(dir, "data.csv"), "id,image,patient,split,label\n1,p.jpg,p,train,a\n")
				if c := mustOpen(t, "table:"+filepath.Join(dir, "data.csv"), Options{}).Cases[0]; c.Size != [2]int{h, w} {
					t.Errorf("the recorded size is %v, want %d x %d", c.Size, h, w)
				}
				p, err := decodePicture(path, 0)
				if err != nil {
					t.Fatal(err)
				}
				grey, err := decodeSlice(path)
				if err != nil {
					t.Fatal(err)
				}
				if p.h != h || p.w != w || grey.h != h || grey.w != w || len(p.rgb) != 3*h*w || len(grey.grey8) != h*w {
					t.Fatalf("decoded %d x %d and %d x %d, want %d x %d", p.h, p.w, grey.h, grey.w, h, w)
				}
				for _, quarter := range []struct {
					row, column string // sides of the picture
					rgb         [3]uint8
				}{
					{sides[0], sides[1], [3]uint8{255, 0, 0}},
					{sides[0], opposite[sides[1]], [3]uint8{0, 255, 0}},
					{opposite[sides[0]], sides[1], [3]uint8{0, 0, 255}},
					{opposite[sides[0]], opposite[sides[1]], [3]uint8{255, 255, 255}},
				} {
					x, y := w/4, h/4
					if quarter.row == "right" || quarter.column == "right" {
						x = 3 * w / 4
					}
					if quarter.row == "bottom" || quarter.column == "bottom" {
						y = 3 * h / 4
					}
					at := y*w + x
					for k, want := range quarter.rgb {
						if got := p.rgb[3*at+k]; max(got, want)-min(got, want) > 20 {
							t.Errorf("colour at (%d, %d) is %v, want %v", x, y, p.rgb[3*at:3*at+3], quarter.rgb)
							break
						}
					}
					r, g, b := float64(quarter.rgb[0]), float64(quarter.rgb[1]), float64(quarter.rgb[2])
					if want := 0.299*r + 0.587*g + 0.114*b; float64(grey.grey8[at]) < want-20 || float64(grey.grey8[at]) > want+20 {
						t.Errorf("grey at (%d, %d) is %d, want %.0f", x, y, grey.grey8[at], want)
					}
				}
			})
		}
	}
}

// TestDamagedExifIsUpright: a picture is read as stored where its metadata make no sense.
func TestDamagedExifIsUpright(t *testing.T) {
	whole := exifJPEG(t, binary.LittleEndian, 6)
	for name, text := range map[string]string{
		"orientation 0":       exifJPEG(t, binary.LittleEndian, 0),
		"orientation 9":       exifJPEG(t, binary.LittleEndian, 9),
		"directory outside":   strings.Replace(whole, "II*\x00\x08\x00\x00\x00", "II*\x00\xff\xff\xff\xff", 1),
		"too many entries":    strings.Replace(exifJPEG(t, binary.LittleEndian, 9), "\x08\x00\x00\x00\x02\x00", "\x08\x00\x00\x00\xff\xff", 1),
		"orientation of text": strings.Replace(whole, "\x12\x01\x03\x00", "\x12\x01\x02\x00", 1),
		"no Exif":             strings.Replace(whole, "Exif", "Xxxx", 1),
	} {
		path := filepath.Join(t.TempDir(), "p.jpg")
		write(t, path, text)
		p, err := decodePicture(path, 0)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if p.h != 16 || p.w != 32 {
			t.Errorf("%s: read as %d x %d", name, p.h, p.w)
		}
	}
}

// FuzzJPEGOrientation: no file panics or gives anything but the eight orientations.
func FuzzJPEGOrientation(f *testing.F) {
	f.Add([]byte(exifJPEG(f, binary.LittleEndian, 6)))
	f.Add([]byte(exifJPEG(f, binary.BigEndian, 3)))
	f.Add([]byte("\xff\xd8\xff\xe1\x00\x00"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if o := jpegOrientation(bufio.NewReader(bytes.NewReader(raw))); o < 1 || o > 8 {
			t.Errorf("orientation %d", o)
		}
	})
}
