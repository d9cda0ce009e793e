package dataset

import (
	"context"
	"fmt"
	"image"
	"image/color"
	"path/filepath"
	"strings"
	"testing"

	"github.com/alignedfusion/alignedfusion/internal/nifti"
	"github.com/alignedfusion/alignedfusion/sdk"
)

var softTissue = &sdk.Intensity{Low: -150, High: 250, OutHigh: 1}

// sixteenBit is a grey picture of stored 16-bit values.
func sixteenBit(t testing.TB, value func(x, y int) uint16) string {
	img := image.NewGray16(image.Rect(0, 0, 8, 8))
	for y := range 8 {
		for x := range 8 {
			img.SetGray16(x, y, color.Gray16{Y: value(x, y)})
		}
	}
	return encode(t, img)
}

// TestImagesThatShowNothing: constant under the window in all of them is an error, in
// some a warning; CT without a negative value is a warning.
func TestImagesThatShowNothing(t *testing.T) {
	raw := sixteenBit(t, func(x, y int) uint16 { return uint16(500 * x) }) // without the offset of 32768
	ct := huPNG(t, 8, 8, func(x, y int) int { return -1000 + 200*x })
	shifted := huPNG(t, 8, 8, func(x, y int) int { return 200 * x })
	for _, test := range []struct {
		name   string
		slices []string
		want   string
		fails  bool
	}{
		{"CT", []string{ct, ct}, "", false},
		{"without offset", []string{raw, raw}, "16-bit slices hold HU + 32768", true},
		{"one without offset", []string{ct, raw}, "1 of 2 images looked at are constant", false},
		{"without intercept", []string{shifted, shifted}, "stored without its intercept of -1024", false},
		{"one image of bone", []string{ct, shifted}, "", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			for i, content := range test.slices {
				write(t, filepath.Join(dir, fmt.Sprintf("%d.png", i)), content)
			}
			d := mustOpen(t, "slices:"+dir+"?spacing_mm=2,1,1", Options{})
			warnings, err := Look(context.Background(), d, d.Cases, softTissue)
			text := strings.Join(warnings, "\n")
			if err != nil {
				text = err.Error()
			}
			if (err != nil) != test.fails || !strings.Contains(text, test.want) || test.want == "" && text != "" {
				t.Errorf("%q, %v; want %q", warnings, err, test.want)
			}
		})
	}
}

// TestBitsInUse: 16-bit pictures are scaled by the bits that hold their values, or by
// those that are declared.
func TestBitsInUse(t *testing.T) {
	for _, test := range []struct {
		options string
		largest uint16
		want    uint8
		warning string
	}{
		{"", 4095, 255, "12 bits"},
		{"", 1020, 254, "10 bits"},
		{"?bits=12", 1020, 64, ""},
		{"", 65535, 255, ""},
		{"?bits=16", 4112, 16, ""},
	} {
		d, err := suspectTable(t, test.options, cycle("u", "v"), cycle("a", "a", "b"))
		if err != nil {
			t.Fatal(err)
		}
		path := d.Cases[0].Images[single]
		write(t, path, sixteenBit(t, func(x, y int) uint16 { return uint16(int(test.largest) * (x + y) / 14) }))
		d = mustOpen(t, d.Spec, Options{})
		p, err := decodePicture(path, d.pictureBits)
		if err != nil || p.rgb[len(p.rgb)-1] != test.want || p.rgb[0] != 0 {
			t.Errorf("%s, largest %d: %v, %v, want %d", test.options, test.largest, p.rgb[len(p.rgb)-1], err, test.want)
		}
		if text := strings.Join(d.Warnings, "\n"); !strings.Contains(text, test.warning) || test.warning == "" && text != "" {
			t.Errorf("%s, largest %d: %q, want %q", test.options, test.largest, text, test.warning)
		}
	}
}

// TestSlicesKeepTheirDistance: a missing number is a missing slice.
func TestSlicesKeepTheirDistance(t *testing.T) {
	dir := t.TempDir()
	for _, n := range []int{3, 4, 7} {
		write(t, filepath.Join(dir, fmt.Sprintf("s%03d.png", n)), huPNG(t, 8, 8, func(x, y int) int { return x }))
	}
	write(t, filepath.Join(dir, "notes.txt"), "x")
	d := mustOpen(t, "slices:"+dir+"?spacing_mm=2,1,1", Options{})
	if n := d.Cases[2].KeySlice; n != 4 || d.Cases[0].KeySlice != 0 {
		t.Errorf("slice 7 is number %d, want 4", n)
	}
	text := strings.Join(d.Warnings, "\n")
	if !strings.Contains(text, `2 slices are missing by their numbers, the first after s004.png`) || !strings.Contains(text, `1 files are no slices and are left out: "notes.txt"`) {
		t.Error(text)
	}
	write(t, filepath.Join(dir, "s005.jp2"), "x")
	_, err := Open("slices:"+dir, Options{})
	wantError(t, err, "s005.jp2: is no PNG, JPEG, TIFF, BMP or WebP: a slice would be missing")
}

// TestBoxesAsShares: boxes between 0 and 1 are no pixels.
func TestBoxesAsShares(t *testing.T) {
	dir := boxesDir(t)
	write(t, filepath.Join(dir, "boxes.csv"), "image,x1,y1,x2,y2\na.png,0.1,0.1,0.4,0.5\n")
	_, err := Open("boxes:"+dir, Options{})
	wantError(t, err, "boxes.csv:2: all 1 boxes lie between 0 and 1")
}

// TestCheckRefusesSharedPatients: training warns of them, a check does not pass unless
// the spec says that they are meant. TestCheckFindsTwins is beside it: the data differ
// in nothing else.
func TestCheckRefusesSharedPatients(t *testing.T) {
	dir := boxesDir(t)
	edit(t, filepath.Join(dir, "images.csv"), "p2,val", "p1,val")
	for options, want := range map[string]int{"": 1, "?patients=shared": 0} {
		r, err := Check(context.Background(), "boxes:"+dir+options, Options{}, false)
		if err != nil || len(r.Problems) != want {
			t.Errorf("%q: %v, %v", options, r.Problems, err)
		}
		if !strings.Contains(strings.Join(r.Warnings, "\n"), "in more than one split") {
			t.Errorf("%q: %q", options, r.Warnings)
		}
	}
}

// TestCheckFindsTwins: the same pixels under two names, in two splits.
func TestCheckFindsTwins(t *testing.T) {
	d, err := suspectTable(t, "", cycle("u", "v"), cycle("a", "a", "b"))
	if err != nil {
		t.Fatal(err)
	}
	write(t, d.Cases[3].Images[single], read(t, d.Cases[1].Images[single]))
	r, err := Check(context.Background(), d.Spec, Options{}, true)
	text := strings.Join(r.Warnings, "\n")
	if err != nil || !strings.Contains(text, "1 images show the same pixels") || !strings.Contains(text, `1 of them are in two splits, for example`) {
		t.Errorf("%q, %v", text, err)
	}
}

// TestLookReadsSlicesOfVolumes: of a volume that can be read slice by slice a few are read.
func TestLookReadsSlicesOfVolumes(t *testing.T) {
	dir := t.TempDir()
	image := &nifti.Image{Dim: [3]int{8, 8, 20}, Affine: [12]float64{-1, 0, 0, 0, 0, -1, 0, 0, 0, 0, 2, 0}, Int16: make([]int16, 1280)}
	for i := range image.Int16 {
		image.Int16[i] = int16(i - 1000)
	}
	path := filepath.Join(dir, "a.nii")
	if err := nifti.Write(path, image); err != nil {
		t.Fatal(err)
	}
	d := mustOpen(t, "nifti:"+path, Options{})
	file, err := nifti.OpenSlices(path)
	if err != nil {
		t.Fatal(err)
	}
	p, err := someSlices(path, file)
	if err != nil || p.h != 8*lookedSlices || p.hu32[0] != float32(2*64-1000) {
		t.Errorf("%d rows, %v, %v", p.h, p.hu32[0], err)
	}
	if warnings, err := Look(t.Context(), d, d.Cases, ctWindow); err != nil || len(warnings) > 0 {
		t.Errorf("%q, %v", warnings, err)
	}
}
