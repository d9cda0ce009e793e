package dataset

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func write(t testing.TB, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func read(t testing.TB, path string) string {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// edit replaces text in a file; the text must be there.
func edit(t testing.TB, path, old, new string) {
	t.Helper()
	content := read(t, path)
	if !strings.Contains(content, old) {
		t.Fatalf("%s does not hold %q", path, old)
	}
	write(t, path, strings.Replace(content, old, new, 1))
}

func encode(t testing.TB, img image.Image) string {
	t.Helper()
	var b bytes.Buffer
	if err := png.Encode(&b, img); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// huPNG is a 16-bit slice whose HU at x, y is hu(x, y).
func huPNG(t testing.TB, w, h int, hu func(x, y int) int) string {
	img := image.NewGray16(image.Rect(0, 0, w, h))
	for y := range h {
		for x := range w {
			img.SetGray16(x, y, color.Gray16{Y: uint16(hu(x, y) + 32768)})
		}
	}
	return encode(t, img)
}

func greyPNG(t testing.TB, w, h int, grey func(x, y int) uint8) string {
	img := image.NewGray(image.Rect(0, 0, w, h))
	for y := range h {
		for x := range w {
			img.SetGray(x, y, color.Gray{Y: grey(x, y)})
		}
	}
	return encode(t, img)
}

func rgbPNG(t testing.TB, w, h int, at func(x, y int) color.NRGBA) string {
	img := image.NewNRGBA(image.Rect(0, 0, w, h))
	for y := range h {
		for x := range w {
			img.SetNRGBA(x, y, at(x, y))
		}
	}
	return encode(t, img)
}

const infoHeader = "File_name,Patient_index,Study_index,Series_ID,Key_slice_index,Measurement_coordinates,Bounding_boxes,Lesion_diameters_Pixel_,Normalized_lesion_location,Coarse_lesion_type,Possibly_noisy,Slice_range,Spacing_mm_px_,Image_size,DICOM_windows,Patient_gender,Patient_age,Train_Val_Test"

// infoRow is a row of DL_info.csv of a 48 x 40 slice with a lesion from 15,16 to 25,24
// (1-based box 10,11 to 30,29).
func infoRow(file string, split int) string {
	return fmt.Sprintf(`%s,%s,1,1,%d,"15, 20, 25, 20, 20, 16, 20, 24","10, 11, 30, 29","10, 8","0.4, 0.5, 0.5",-1,0,"1, 9","0.8, 0.7, 2","48, 40","-175, 275",F,62.0,%d`,
		file, strings.TrimLeft(file[:6], "0"), atoi(file[13:16]), split)
}

func atoi(s string) int {
	n := 0
	for _, c := range s {
		n = 10*n + int(c-'0')
	}
	return n
}

// deepLesionDir makes a small valid data set: one key slice in train, val and test
// each, with neighbours; HU at x, y of slice n is 10 n + x.
func deepLesionDir(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	rows := []string{infoHeader, infoRow("000001_01_01_005.png", 1), infoRow("000002_01_01_005.png", 2), infoRow("000003_01_01_005.png", 3)}
	write(t, filepath.Join(dir, "DL_info.csv"), strings.Join(rows, "\n")+"\n")
	for p := 1; p <= 3; p++ {
		for n := 3; n <= 8; n++ {
			write(t, filepath.Join(dir, "Images_png", fmt.Sprintf("%06d_01_01", p), fmt.Sprintf("%03d.png", n)),
				huPNG(t, 48, 40, func(x, y int) int { return 10*n + x }))
		}
	}
	return dir
}

// boxesDir makes a small valid boxes: data set.
func boxesDir(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "images.csv"), "image,patient,split,width,height\na.png,p1,train,32,24\nb.png,p2,val,32,24\nc.png,p3,test,32,24\nd.png,p1,train,32,24\n")
	write(t, filepath.Join(dir, "boxes.csv"), "image,x1,y1,x2,y2,class\na.png,4,5,10,12,nodule\nb.png,1,1,8,9,nodule\n")
	for _, n := range []string{"a", "b", "c", "d"} {
		write(t, filepath.Join(dir, "images", n+".png"), greyPNG(t, 32, 24, func(x, y int) uint8 { return uint8(x + y) }))
	}
	return dir
}

// tableDir makes a small valid table: data set and returns the table's path.
func tableDir(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "data.csv"), "id,image,patient,split,label,age,sex\n1,i/1.png,p1,train,b,50,f\n2,i/2.png,p2,train,a,,m\n3,i/3.png,p3,val,a,61,\n4,i/4.png,p4,test,,70,f\n")
	for i := 1; i <= 4; i++ {
		write(t, filepath.Join(dir, "i", fmt.Sprintf("%d.png", i)), rgbPNG(t, 20, 16, func(x, y int) color.NRGBA {
			return color.NRGBA{uint8(10 * i), uint8(x), uint8(y), 255}
		}))
	}
	return filepath.Join(dir, "data.csv")
}

func mustOpen(t testing.TB, spec string, opt Options) *Dataset {
	t.Helper()
	d, err := Open(spec, opt)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// batches reads a loader to its end.
func batches(t testing.TB, d *Dataset, cases []Case, opt LoaderOptions) []*Batch {
	t.Helper()
	l, err := NewLoader(context.Background(), d, cases, opt)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var out []*Batch
	for {
		b, err := l.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, b)
	}
}

func floats(t testing.TB, b *Batch, name string) []float32 {
	t.Helper()
	v, err := b.Tensors[name].Float32s()
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return v
}
