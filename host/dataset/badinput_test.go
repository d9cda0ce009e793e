package dataset

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"image/color"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/alignedfusion/alignedfusion/internal/table"
	"github.com/alignedfusion/alignedfusion/sdk"
)

// bombPNG is a valid signature and header that claims 60000 x 60000 pixels.
func bombPNG() string {
	h := append([]byte("\x89PNG\r\n\x1a\n"), 0, 0, 0, 13)
	chunk := append([]byte("IHDR"), 0, 0, 0xea, 0x60, 0, 0, 0xea, 0x60, 16, 0, 0, 0, 0)
	h = append(h, chunk...)
	return string(binary.BigEndian.AppendUint32(h, crc32.ChecksumIEEE(chunk)))
}

// TestBadDeepLesion: every fault is an ErrData that names file and row.
func TestBadDeepLesion(t *testing.T) {
	row := infoRow("000002_01_01_005.png", 2)
	for _, c := range []struct {
		name   string
		change func(t *testing.T, dir string)
		opt    Options
		want   []string
	}{
		{"missing table", func(t *testing.T, dir string) { os.Remove(filepath.Join(dir, "DL_info.csv")) }, Options{}, []string{"DL_info.csv: no such file"}},
		{"missing image", func(t *testing.T, dir string) { os.Remove(filepath.Join(dir, "Images_png/000002_01_01/005.png")) }, Options{},
			[]string{"DL_info.csv:3: File_name: image", "000002_01_01/005.png: no such file"}},
		{"missing folder of images", func(t *testing.T, dir string) { os.RemoveAll(filepath.Join(dir, "Images_png")) }, Options{}, []string{"Images_png: no such folder"}},
		{"wrong image size", func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, "Images_png/000002_01_01/005.png"), huPNG(t, 40, 40, func(x, y int) int { return 0 }))
		}, Options{}, []string{"DL_info.csv:3:", "is 40 x 40 pixels, the table says 48 x 40"}},
		{"8-bit PNG", func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, "Images_png/000002_01_01/005.png"), greyPNG(t, 48, 40, func(x, y int) uint8 { return 0 }))
		}, Options{}, []string{"DL_info.csv:3:", "8-bit grey png, want a 16-bit grey PNG"}},
		{"colour PNG", func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, "Images_png/000002_01_01/005.png"), rgbPNG(t, 48, 40, func(x, y int) color.NRGBA { return color.NRGBA{1, 2, 3, 255} }))
		}, Options{}, []string{"DL_info.csv:3:", "8-bit colour png"}},
		{"PNG bomb", func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, "Images_png/000002_01_01/005.png"), bombPNG())
		}, Options{},
			[]string{"DL_info.csv:3:", "claims 60000 x 60000 pixels"}},
		{"empty image", func(t *testing.T, dir string) { write(t, filepath.Join(dir, "Images_png/000002_01_01/005.png"), "") }, Options{},
			[]string{"DL_info.csv:3:", "the file is empty"}},
		{"box outside", func(t *testing.T, dir string) {
			edit(t, filepath.Join(dir, "DL_info.csv"), `"10, 11, 30, 29"`, `"40, 11, 70, 29"`)
		}, Options{},
			[]string{"DL_info.csv:2: Bounding_boxes: the box (39, 10, 69, 28) leaves the image 000001_01_01_005.png of 48 x 40"}},
		{"x2 < x1", func(t *testing.T, dir string) {
			edit(t, filepath.Join(dir, "DL_info.csv"), `"10, 11, 30, 29"`, `"30, 11, 10, 29"`)
		}, Options{},
			[]string{"DL_info.csv:2: Bounding_boxes: x2 < x1"}},
		{"box NaN", func(t *testing.T, dir string) {
			edit(t, filepath.Join(dir, "DL_info.csv"), `"10, 11, 30, 29"`, `"NaN, 11, 10, 29"`)
		}, Options{},
			[]string{`DL_info.csv:2: Bounding_boxes: "NaN" is not a finite number`}},
		{"three numbers", func(t *testing.T, dir string) {
			edit(t, filepath.Join(dir, "DL_info.csv"), `"10, 11, 30, 29"`, `"10, 11, 30"`)
		}, Options{},
			[]string{"DL_info.csv:2: Bounding_boxes", "has 3 numbers, want 4"}},
		{"NaN age", func(t *testing.T, dir string) { edit(t, filepath.Join(dir, "DL_info.csv"), "F,62.0,2", "F,NaN,2") }, Options{},
			[]string{`DL_info.csv:3: Patient_age: "NaN" is no value`, "missing=NaN"}},
		{"age", func(t *testing.T, dir string) { edit(t, filepath.Join(dir, "DL_info.csv"), "F,62.0,2", "F,old,2") }, Options{},
			[]string{`DL_info.csv:3: Patient_age: "old" is not a finite number`}},
		{"same lesion twice", func(t *testing.T, dir string) { edit(t, filepath.Join(dir, "DL_info.csv"), row, row+"\n"+row) }, Options{},
			[]string{"DL_info.csv:4: the same lesion as in line 3"}},
		{"split 4", func(t *testing.T, dir string) { edit(t, filepath.Join(dir, "DL_info.csv"), "F,62.0,2", "F,62.0,4") }, Options{},
			[]string{`DL_info.csv:3: Train_Val_Test: "4"`}},
		{"file name", func(t *testing.T, dir string) {
			edit(t, filepath.Join(dir, "DL_info.csv"), "000002_01_01_005.png", "../../etc/passwd")
		}, Options{},
			[]string{"DL_info.csv:3: File_name"}},
		{"key slice", func(t *testing.T, dir string) {
			edit(t, filepath.Join(dir, "DL_info.csv"), "000002_01_01_005.png,2,1,1,5", "000002_01_01_005.png,2,1,1,6")
		}, Options{},
			[]string{`DL_info.csv:3: Key_slice_index: is "6", the file name says 5`}},
		{"lesion type", func(t *testing.T, dir string) { edit(t, filepath.Join(dir, "DL_info.csv"), `",-1,0,`, `",9,0,`) }, Options{},
			[]string{"DL_info.csv:2: Coarse_lesion_type"}},
		{"missing column", func(t *testing.T, dir string) { edit(t, filepath.Join(dir, "DL_info.csv"), "Patient_age", "Age") }, Options{},
			[]string{`DL_info.csv:1: column "Patient_age" is absent`}},
		{"semicolons", func(t *testing.T, dir string) {
			path := filepath.Join(dir, "DL_info.csv")
			write(t, path, strings.ReplaceAll(read(t, path), ",", ";"))
		}, Options{}, []string{"DL_info.csv:1:", `separated by ";", want commas`}},
		{"unterminated quote", func(t *testing.T, dir string) {
			edit(t, filepath.Join(dir, "DL_info.csv"), `"10, 11, 30, 29"`, `"10, 11, 30, 29`)
		}, Options{},
			[]string{"DL_info.csv:2:", `"`}},
		{"empty table", func(t *testing.T, dir string) { write(t, filepath.Join(dir, "DL_info.csv"), "") }, Options{}, []string{"DL_info.csv: the table is empty"}},
		{"header alone", func(t *testing.T, dir string) { write(t, filepath.Join(dir, "DL_info.csv"), infoHeader+"\n") }, Options{}, []string{"DL_info.csv: a header without rows"}},
		{"unknown attribute", func(t *testing.T, dir string) {}, Options{Attributes: []string{"weight"}},
			[]string{`attribute column "weight" is unknown; there are "age", "gender", "location", "size"`}},
		{"attributes of unknown image", func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, "attributes.csv"), "File_name,density\nx.png,hyper\n")
		}, Options{},
			[]string{`attributes.csv:2: File_name: "x.png" is not in DL_info.csv`}},
		{"attributes twice", func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, "attributes.csv"), "File_name,density\n000001_01_01_005.png,a\n000001_01_01_005.png,b\n")
		}, Options{}, []string{`attributes.csv:3: File_name: "000001_01_01_005.png" stands twice, first in line 2`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := deepLesionDir(t)
			c.change(t, dir)
			_, err := Open("deeplesion:"+dir, c.opt)
			wantError(t, err, c.want...)
		})
	}
}

func wantError(t *testing.T, err error, want ...string) {
	t.Helper()
	if err == nil {
		t.Fatal("no error")
	}
	if !errors.Is(err, ErrData) {
		t.Errorf("%v does not wrap ErrData", err)
	}
	for _, w := range want {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error %q does not hold %q", err, w)
		}
	}
}

func TestBadBoxes(t *testing.T) {
	for _, c := range []struct {
		name, file, old, new, want string
	}{
		{"x2 < x1", "boxes.csv", "a.png,4,5,10,12", "a.png,10,5,4,12", "boxes.csv:2: the box (10, 5, 4, 12) has no area"},
		{"outside", "boxes.csv", "a.png,4,5,10,12", "a.png,4,5,40,12", "boxes.csv:2: the box (4, 5, 40, 12) leaves the image a.png of 32 x 24"},
		{"NaN", "boxes.csv", "a.png,4", "a.png,nan", `boxes.csv:2: x1: "nan" is not a finite number`},
		{"unknown image", "boxes.csv", "a.png,4", "q.png,4", `boxes.csv:2: image: "q.png" is not in images.csv`},
		{"same box twice", "boxes.csv", "b.png,1,1,8,9,nodule", "b.png,1,1,8,9,nodule\nb.png,1,1,8,9,nodule", "boxes.csv:4: the same box as in line 3"},
		{"no column", "boxes.csv", "x2", "right", `boxes.csv:1: no columns of boxes: want x1,y1,x2,y2 or`},
		{"cells", "boxes.csv", "a.png,4,5,10,12,nodule", "a.png,4,5,10,12", "boxes.csv:2: 5 cells, the header has 6"},
		{"duplicate image", "images.csv", "b.png", "a.png", `images.csv:3: image: "a.png" stands twice, first in line 2`},
		{"missing image", "images.csv", "b.png", "z.png", "images.csv:3: image: image"},
		{"size", "images.csv", "p2,val,32,24", "p2,val,32,25", "is 32 x 24 pixels, the table says 32 x 25"},
		{"width", "images.csv", "p2,val,32,24", "p2,val,-1,24", `images.csv:3: width: "-1" is not a size`},
		{"path out of the folder", "images.csv", "b.png", "../b.png", `images.csv:3: image: "../b.png" is not the name of a file`},
		{"resource fork", "images.csv", "b.png", "._x.png", "resource forks"},
		{"no split column", "images.csv", "image,", "file,", `images.csv:1: column "image" is absent`},
		{"column twice", "images.csv", "height", "width", "images.csv:1: width: the column stands twice, at 4 and 5"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := boxesDir(t)
			write(t, filepath.Join(dir, "images", "._x.png"), "\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X")
			edit(t, filepath.Join(dir, c.file), c.old, c.new)
			_, err := Open("boxes:"+dir, Options{})
			wantError(t, err, c.want)
		})
	}
	t.Run("ignore", func(t *testing.T) {
		dir := boxesDir(t)
		write(t, filepath.Join(dir, "ignore.csv"), "image,cx,cy,radius\na.png,3,3,2\na.png,3,3,0\n")
		_, err := Open("boxes:"+dir, Options{})
		wantError(t, err, "ignore.csv:3: radius: 0 is not positive")
	})
	t.Run("class of another run", func(t *testing.T) {
		d := mustOpen(t, "boxes:"+boxesDir(t), Options{})
		labels := d.Labels
		labels[0].Classes = []string{"cyst"}
		_, err := Open("boxes:"+boxesDir(t), Options{LabelSets: labels})
		wantError(t, err, `boxes.csv:2: class: class "nodule" is unknown; there are "cyst"`)
	})
}

func TestBadTable(t *testing.T) {
	for _, c := range []struct {
		name, old, new, want string
	}{
		{"duplicate id", "2,i/2.png", "1,i/2.png", `data.csv:3: id: "1" stands twice, first in line 2`},
		{"empty id", "2,i/2.png", ",i/2.png", "data.csv:3: id: is empty"},
		{"NaN age", "50,f", "NaN,f", `data.csv:2: age: "NaN" is no value`},
		{"age", "50,f", "150,f", "data.csv:2: age: 150 is no age"},
		{"missing image", "i/2.png", "i/9.png", "data.csv:3: image: image"},
		{"no image", "i/2.png", "", "data.csv:3: image: names no image"},
		{"NaN label", "train,b", "train,nan", `data.csv:2: label: "nan" is no class`},
		{"no id", "id,", "nr,", `data.csv:1: column "id" is absent`},
		{"unnamed column", "age,sex", ",sex", "data.csv:1: column 6 has no name"},
		{"quote", "50,f", `"50,f`, "data.csv:2: a quote opened here is not closed"},
		{"bare quote", "50,f", `5"0,f`, `data.csv:2: bare " in`},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := tableDir(t)
			edit(t, path, c.old, c.new)
			_, err := Open("table:"+path, Options{})
			wantError(t, err, c.want)
		})
	}
	path := tableDir(t)
	_, err := Open("table:"+path, Options{Labels: []string{"diagnosis"}})
	wantError(t, err, `label column "diagnosis" is unknown; there are "label", "age", "sex"`)
	_, err = Open("table:"+path+"?colour=red", Options{})
	wantError(t, err, `option "colour" is unknown`)
	for _, spec := range []string{"table", "tabel:x", "table:", ""} {
		_, err = Open(spec, Options{})
		wantError(t, err, "want LAYOUT:PATH", "deeplesion, boxes, table, volumes, patches, derm7pt, milk10k, isic, pad-ufes-20, nifti, slices, image")
	}
	d := mustOpen(t, "table:"+path, Options{})
	_, err = d.Split("tset")
	wantError(t, err, `split "tset" has no cases; did you mean "test"?; there are "test" (1 cases), "train" (2 cases), "val" (1 cases)`)
}

// TestAllProblemsAreListed: one run shows every fault, not the first only.
func TestAllProblemsAreListed(t *testing.T) {
	path := tableDir(t)
	edit(t, path, "50,f", "NaN,f")
	edit(t, path, "i/3.png", "i/33.png")
	_, err := Open("table:"+path, Options{})
	wantError(t, err, "2 problems", "data.csv:2: age", "data.csv:4: image")
}

func TestTruncatedPNGIsFoundWhenDecoded(t *testing.T) {
	dir := deepLesionDir(t)
	path := filepath.Join(dir, "Images_png/000002_01_01/005.png")
	content := read(t, path)
	write(t, path, content[:len(content)/2])
	d := mustOpen(t, "deeplesion:"+dir, Options{})
	l, err := NewLoader(context.Background(), d, d.Cases, LoaderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for err == nil {
		_, err = l.Next()
	}
	wantError(t, err, `case "000002_01_01_005.png"`, "DL_info.csv:3", "000002_01_01/005.png: cannot be decoded, it is cut off or damaged")
	report, err := Check(context.Background(), "deeplesion:"+dir, Options{}, true)
	if err != nil {
		t.Fatal(err)
	}
	if len(report.Problems) != 1 || !strings.Contains(report.Problems[0].String(), "005.png: cannot be decoded") || report.ImagesDecoded != 17 {
		t.Errorf("%d decoded, problems %v", report.ImagesDecoded, report.Problems)
	}
}

func TestNeighbourOfAnotherSizeOrDepth(t *testing.T) {
	dir := deepLesionDir(t)
	neighbour := filepath.Join(dir, "Images_png/000001_01_01/004.png")
	for want, content := range map[string]string{
		"004.png: is 20 x 40 pixels, the key slice 005.png is 48 x 40": huPNG(t, 20, 40, func(x, y int) int { return 0 }),
		"004.png: 8-bit grey png, want a 16-bit":                       greyPNG(t, 48, 40, func(x, y int) uint8 { return 0 }),
	} {
		write(t, neighbour, content)
		d := mustOpen(t, "deeplesion:"+dir, Options{})
		l, err := NewLoader(context.Background(), d, d.Cases, LoaderOptions{Load: LoadOptions{Slices: 3}})
		if err != nil {
			t.Fatal(err)
		}
		_, err = l.Next()
		l.Close()
		wantError(t, err, want)
	}
}

func TestMixedDepthsInAFolderOfSlices(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "1.png"), greyPNG(t, 8, 8, func(x, y int) uint8 { return 0 }))
	write(t, filepath.Join(dir, "2.png"), huPNG(t, 8, 8, func(x, y int) int { return 0 }))
	d := mustOpen(t, "slices:"+dir+"?spacing_mm=4,1,1", Options{})
	l, err := NewLoader(context.Background(), d, d.Cases, LoaderOptions{Load: LoadOptions{Slices: 3}})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, err = l.Next()
	wantError(t, err, "of another depth")
}

// TestTolerantReading: byte order mark, CRLF and blank lines are no problem.
func TestTolerantReading(t *testing.T) {
	path := tableDir(t)
	plain := mustOpen(t, "table:"+path, Options{})
	write(t, path, "\xef\xbb\xbf"+strings.ReplaceAll(read(t, path), "\n", "\r\n")+"\r\n")
	d := mustOpen(t, "table:"+path, Options{})
	if len(d.Cases) != len(plain.Cases) || d.Cases[1].Attributes.Cell("sex").Raw != "m" || d.Cases[0].ID != "1" {
		t.Errorf("%+v", d.Cases)
	}
	for content, want := range map[string]string{
		"id,label\n1,a,b\n2,a\n": "data.csv:2: 3 cells, the header has 2",
	} {
		write(t, path, content)
		_, err := Open("table:"+path, Options{})
		wantError(t, err, want)
	}
}

func TestSlicesOfAFolder(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"s10.png", "s9.png", "s8.png"} {
		write(t, filepath.Join(dir, name), greyPNG(t, 8, 6, func(x, y int) uint8 { return uint8(len(name)) }))
	}
	write(t, filepath.Join(dir, "._s8.png"), "junk")
	write(t, filepath.Join(dir, "Thumbs.db"), "junk")
	d := mustOpen(t, "slices:"+dir, Options{})
	var ids []string
	for i, c := range d.Cases {
		ids = append(ids, c.ID)
		if c.KeySlice != i || c.HasTargets || c.Size != [2]int{6, 8} {
			t.Errorf("%+v", c)
		}
	}
	if strings.Join(ids, " ") != "s8.png s9.png s10.png" {
		t.Errorf("order %v", ids)
	}
	if len(d.Warnings) != 2 || !strings.Contains(d.Warnings[0], "spacing_mm") || !strings.Contains(d.Warnings[1], "grey_hu=LOW,HIGH") {
		t.Errorf("warnings %v", d.Warnings)
	}
	if d := mustOpen(t, "slices:"+dir+"?spacing_mm=5,1,1&grey_hu=-1000,1000", Options{}); len(d.Warnings) > 0 {
		t.Errorf("warnings %v", d.Warnings)
	}
	for value, want := range map[string]string{
		"0,1,1": "not positive", "5,-1,1": "not positive", "NaN,1,1": "not a finite number", "1,1": "has 2 numbers, want 3",
	} {
		_, err := Open("slices:"+dir+"?spacing_mm="+value, Options{})
		wantError(t, err, "spacing_mm (z,y,x): ", want)
	}
	write(t, filepath.Join(dir, "s11.png"), greyPNG(t, 8, 7, func(x, y int) uint8 { return 0 }))
	_, err := Open("slices:"+dir, Options{})
	wantError(t, err, "s11.png: is 8 x 7 pixels, the first slice is 8 x 6")
	_, err = Open("slices:"+t.TempDir(), Options{})
	wantError(t, err, "holds no slices (PNG, JPEG, TIFF, BMP or WebP)")
	_, err = Open("nifti:"+t.TempDir(), Options{})
	wantError(t, err, "holds no .nii")
	write(t, filepath.Join(dir, "x.nii"), "junk")
	_, err = Open("nifti:"+filepath.Join(dir, "x.nii"), Options{})
	wantError(t, err, "x.nii:")
	write(t, filepath.Join(dir, "notes.txt"), "junk")
	_, err = Open("image:"+filepath.Join(dir, "notes.txt"), Options{})
	wantError(t, err, "notes.txt: neither PNG, JPEG")
}

// floatNIfTI is a volume of FP32 voxels that does not say how it is oriented.
func floatNIfTI(t testing.TB, size [3]int16, spacing [3]float32, voxels []float32) string {
	t.Helper()
	le := binary.LittleEndian
	h := make([]byte, 352)
	le.PutUint32(h, 348)
	le.PutUint16(h[40:], 3)
	for i := range 3 {
		le.PutUint16(h[42+2*i:], uint16(size[i]))
		le.PutUint32(h[80+4*i:], math.Float32bits(spacing[i]))
	}
	le.PutUint16(h[70:], 16)
	le.PutUint16(h[72:], 32)
	le.PutUint32(h[108:], math.Float32bits(352))
	copy(h[344:], "n+1\x00")
	for _, v := range voxels {
		h = le.AppendUint32(h, math.Float32bits(v))
	}
	return string(h)
}

// TestNIfTIWithoutSpacing: a slice distance that is no number repeats the key slice,
// and is said; voxels that are no numbers become air.
func TestNIfTIWithoutSpacing(t *testing.T) {
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	voxels := make([]float32, 2*3*4)
	for i := range voxels {
		voxels[i] = float32(100 * (i / 6)) // 0, 100, 200, 300 HU
	}
	voxels[6], voxels[7] = nan, inf
	for _, mm := range []float32{0, nan, inf} {
		path := filepath.Join(t.TempDir(), "v.nii")
		write(t, path, floatNIfTI(t, [3]int16{2, 3, 4}, [3]float32{1, 1, mm}, voxels))
		d := mustOpen(t, "nifti:"+path, Options{})
		if len(d.Warnings) != 2 || !strings.Contains(d.Warnings[0], "v.nii does not say how far apart its slices are") {
			t.Errorf("%v mm: warnings %v", mm, d.Warnings)
		}
		if r, err := Check(context.Background(), d.Spec, Options{}, true); err != nil || !strings.Contains(strings.Join(r.Warnings, "\n"), "1 of 1 images looked at hold voxels that are no numbers (NaN), the first is "+path) {
			t.Errorf("%q, %v", r.Warnings, err)
		}
		in := &sdk.Intensity{Low: -1000, High: 1000, OutLow: 0, OutHigh: 1}
		b := batches(t, d, d.Cases[1:2], LoaderOptions{Load: LoadOptions{Slices: 3, Intensity: in}})[0]
		v := floats(t, b, Volume)
		for i, x := range v {
			if math.IsNaN(float64(x)) || x < 0 || x > 1 {
				t.Fatalf("%v mm: voxel %d is %v", mm, i, x)
			}
		}
		slice := len(v) / 3
		for i := range slice {
			if v[i] != v[slice+i] || v[i] != v[2*slice+i] {
				t.Fatalf("%v mm: the neighbours differ from the key slice at %d: %v %v %v", mm, i, v[i], v[slice+i], v[2*slice+i])
			}
		}
	}
}

// FuzzImageInfo: no header panics, and what is accepted keeps to the limits.
func FuzzImageInfo(f *testing.F) {
	f.Add([]byte(bombPNG()))
	f.Add([]byte(huPNG(f, 3, 2, func(x, y int) int { return x })))
	f.Add([]byte(oddTIFF(3, 0)))
	f.Add([]byte("RIFF0000WEBPVP8 "))
	f.Add([]byte("\xff\xd8\xff\xc0\x00\x11\x08\x00\x10\x00\x10\x03\x01\x22\x00\x02\x11\x01\x03\x11\x01"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		info, err := parseImageInfo(bytes.NewReader(raw))
		if err == nil && (info.width < 1 || info.height < 1 || info.width*info.height > maxImagePixels || info.width > maxImageSide || info.height > maxImageSide) {
			t.Errorf("accepted %+v", info)
		}
	})
}

// FuzzOpenDeepLesion: no cell makes Open panic, and what it accepts lies in its image.
func FuzzOpenDeepLesion(f *testing.F) {
	dir := deepLesionDir(f)
	f.Add("15, 20, 25, 20, 20, 16, 20, 24", "10, 11, 30, 29", "10, 8", "0.8, 0.7, 2", "48, 40", "62.0", "-1", "0")
	f.Add("", "NaN, 1e308, -1e308, 1", "1", "0, NaN, -3", "1e9, 1", "nan", "9", "2")
	f.Fuzz(func(t *testing.T, recist, box, diameters, spacing, size, age, kind, noisy string) {
		for _, s := range []string{recist, box, diameters, spacing, size, age, kind, noisy} {
			if strings.ContainsAny(s, "\"\n\r") {
				return
			}
		}
		row := `000001_01_01_005.png,1,1,1,5,"` + recist + `","` + box + `","` + diameters + `","0.4, 0.5, 0.5","` + kind + `","` + noisy + `","1, 9","` + spacing + `","` + size + `","-175, 275",F,"` + age + `",1`
		rows, err := table.Parse("DL_info.csv", []byte(infoHeader+"\n"+row+"\n"))
		if err != nil || len(rows.Rows) != 1 {
			return
		}
		o, _, err := newOpener("deeplesion:"+dir, Options{})
		if err != nil {
			t.Fatal(err)
		}
		if err := o.deepLesionCases([]*deepFolder{{dir: o.path, info: rows}}); err != nil {
			t.Fatal(err)
		}
		if len(o.problems) == 0 {
			o.checkBoxes()
		}
		if len(o.problems) > 0 {
			return
		}
		for _, c := range o.d.Cases {
			for _, b := range c.Boxes {
				if !(b.X1 >= 0 && b.X1 <= b.X2 && b.X2 <= float64(c.Size[1]-1) && b.Y1 >= 0 && b.Y1 <= b.Y2 && b.Y2 <= float64(c.Size[0]-1)) {
					t.Errorf("box %+v in an image of %v", b, c.Size)
				}
			}
		}
	})
}

// Whatever stands in a spec and in the tables of the other layouts is read or refused as
// bad data; boxes that are accepted lie in their images.
func FuzzOpenTables(f *testing.F) {
	f.Add("boxes", "noisy=keep", "image,split,width\na.png,train,\n", "image,x1,y1,x2,y2,class\na.png,1,1,3,3,n\n")
	f.Add("table", "labels=sex&nan=missing", "id,image,split,label,sex,age\n1,images/a.png,train,x,f,NaN\n", "")
	f.Add("derm7pt", "grey_hu=0,1&spacing_mm=1,1,1", "case_num,clinic,derm\n1,a,b\n", "indexes\n0\n")
	dir := f.TempDir()
	picture := greyPNG(f, 8, 6, func(x, y int) uint8 { return uint8(x) })
	write(f, filepath.Join(dir, "images", "a.png"), picture)
	f.Fuzz(func(t *testing.T, layout, query, first, second string) {
		paths := map[string]string{"boxes": dir, "derm7pt": dir, "table": filepath.Join(dir, "images.csv")}
		for name, text := range map[string]string{"images.csv": first, "boxes.csv": second, "meta.csv": first, "train_indexes.csv": second, "valid_indexes.csv": second, "test_indexes.csv": second} {
			write(t, filepath.Join(dir, name), text)
		}
		d, err := Open(layout+":"+paths[layout]+"?"+query, Options{})
		if err != nil {
			if paths[layout] != "" && !errors.Is(err, ErrData) {
				t.Errorf("not said to be bad data: %v", err)
			}
			return
		}
		for _, c := range d.Cases {
			for _, b := range c.Boxes {
				if !(b.X1 >= 0 && b.X1 <= b.X2 && b.X2 <= 7 && b.Y1 >= 0 && b.Y1 <= b.Y2 && b.Y2 <= 5) {
					t.Errorf("box %s of an image of 8 x 6", b.Box)
				}
			}
		}
	})
}
