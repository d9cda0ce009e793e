package dataset

import (
	"image/color"
	"path/filepath"
	"slices"
	"testing"
)

// twoPictures is a table of three cases, the second without a clinic picture and the third
// without a derm one.
func twoPictures(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "two.csv")
	write(t, path, "id,image.clinic,image.derm,split,label\n1,a.png,b.png,train,x\n2,,a.png,train,y\n3,b.png,NA,train,x\n")
	for i, name := range []string{"a.png", "b.png"} {
		write(t, filepath.Join(filepath.Dir(path), name), rgbPNG(t, 24, 20+4*i, func(x, y int) color.NRGBA {
			return color.NRGBA{uint8(90 * i), uint8(x), uint8(y), 255}
		}))
	}
	return path
}

func TestACaseMayLackSomeOfItsPictures(t *testing.T) {
	spec := "table:" + twoPictures(t) + "?missing=NA"
	d := mustOpen(t, spec, Options{})
	for _, want := range []string{"1 of 3 cases have no image.clinic: for them that modality is missing", "1 of 3 cases have no image.derm: for them that modality is missing"} {
		if !slices.Contains(d.Warnings, want) {
			t.Errorf("warnings %q, want %q", d.Warnings, want)
		}
	}
	for _, c := range d.Cases {
		if _, err := d.Fingerprint(&c); err != nil {
			t.Error(err)
		}
	}
	b := batches(t, d, d.Cases, LoaderOptions{Batch: 3, Targets: true, Load: LoadOptions{Size: 16}})[0]
	if !slices.Equal(b.Absent["image.clinic"], []bool{false, true, false}) || !slices.Equal(b.Absent["image.derm"], []bool{false, false, true}) {
		t.Errorf("absent: %v", b.Absent)
	}
	clinic := floats(t, b, "image.clinic")
	if size := len(clinic) / 3; !slices.Equal(clinic[size:2*size], clinic[:size]) {
		t.Error("another case's picture does not stand in the absent one's place")
	}
	// Alone the case has no other to take from, and the size is that of the picture it has.
	alone := batches(t, d, d.Cases[1:2], LoaderOptions{Batch: 1, Load: LoadOptions{}})[0]
	if got := alone.Tensors["image.clinic"].String(); got != "FP32 [1 3 20 24]" || slices.Max(floats(t, alone, "image.clinic")) != 0 {
		t.Errorf("%s, want zeros of 20 x 24", got)
	}
	if whole := batches(t, d, d.Cases[:1], LoaderOptions{Batch: 1})[0]; whole.Absent != nil {
		t.Errorf("absent in a whole case: %v", whole.Absent)
	}
}

func TestACaseWithoutAnyPictureIsRefused(t *testing.T) {
	path := twoPictures(t)
	edit(t, path, "2,,a.png", "2,,")
	_, err := Open("table:"+path+"?missing=NA", Options{})
	wantError(t, err, "two.csv:3: image.clinic: names no image, nor does image.derm: a case may lack some of its pictures, not all")
}
