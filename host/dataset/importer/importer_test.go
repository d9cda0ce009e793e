package importer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/alignedfusion/alignedfusion/internal/nifti"
	"github.com/alignedfusion/alignedfusion/internal/table"
)

// expected is what testdata/make.py wrote into every series.
type expected struct {
	HU     [][][]float32 `json:"hu"`
	Origin [3]float64    `json:"origin_lps"`
	Column float64       `json:"column_mm"`
	Row    float64       `json:"row_mm"`
	Slice  float64       `json:"slice_mm"`
}

func want(t testing.TB) expected {
	t.Helper()
	raw, err := os.ReadFile("testdata/dicom/expected.json")
	if err != nil {
		t.Fatal(err)
	}
	var e expected
	if err := json.Unmarshal(raw, &e); err != nil {
		t.Fatal(err)
	}
	return e
}

func importOf(t testing.TB, o Options) (*Summary, error) {
	t.Helper()
	if o.Out == "" {
		o.Out = t.TempDir()
	}
	return Import(context.Background(), o)
}

// TestEverySyntaxGivesTheSameVolume: values and places of series that pydicom, dcmtk and
// gdcm wrote.
func TestEverySyntaxGivesTheSameVolume(t *testing.T) {
	e := want(t)
	names := []string{"explicit", "implicit", "big", "signed", "inverted", "multiframe", "rle", "lossless"}
	for predictor := range 7 {
		names = append(names, fmt.Sprintf("lossless%d", predictor+1))
	}
	if _, err := exec.LookPath("gdcmconv"); err == nil {
		names = append(names, "jpegls", "jpeg2000")
	} else {
		t.Log("gdcmconv is not here: JPEG-LS and JPEG 2000 are left out")
	}
	for _, name := range names {
		out := t.TempDir()
		s, err := importOf(t, Options{Source: filepath.Join("testdata/dicom", name), Out: out})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if s.Volumes != 1 || s.Written != 1 || s.Slices != 5 {
			t.Errorf("%s: %+v", name, s)
		}
		v, err := nifti.Read(filepath.Join(out, "volumes", name+".nii"))
		if err != nil {
			t.Fatal(err)
		}
		var flat []float32
		for _, slice := range e.HU {
			for _, row := range slice {
				flat = append(flat, row...)
			}
		}
		if !slices.Equal(v.Data, flat) {
			t.Errorf("%s: other values: %v", name, v.Data[:12])
		}
		for axis, mm := range [12]float64{-e.Column, 0, 0, -e.Origin[0], 0, -e.Row, 0, -e.Origin[1], 0, 0, e.Slice, e.Origin[2]} {
			if math.Abs(v.WorldRAS[axis]-mm) > 1e-5 {
				t.Errorf("%s: lies at %v", name, v.WorldRAS)
				break
			}
		}
	}
}

// TestHeadsSayWhatFilesSay: an image read up to its pixels is the one that is read with them.
func TestHeadsSayWhatFilesSay(t *testing.T) {
	files, err := filepath.Glob("testdata/dicom/*/*.dcm")
	if err != nil || len(files) < 100 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, path := range files {
		head, _, err := readInstance(path, false)
		whole, _, other := readInstance(path, true)
		if errors.Is(other, errCompressed) {
			other = nil // the header is read
		}
		if !reflect.DeepEqual(head, whole) || fmt.Sprint(err) != fmt.Sprint(other) {
			t.Errorf("%s: %+v, %v; want %+v, %v", path, head, err, whole, other)
		}
	}
}

// TestStoredBitsLieBelowTheHighBit: PS3.5, 8.1.1.
func TestStoredBitsLieBelowTheHighBit(t *testing.T) {
	in := &instance{bitsAllocated: 16, bitsStored: 12, highBit: 15}
	signed := &instance{bitsAllocated: 16, bitsStored: 12, highBit: 13, signed: true}
	if a, b, c := in.value(0x7b3f), signed.value(0x3ffc), signed.value(0x1ff0); a != 0x7b3 || b != -1 || c != 0x7fc {
		t.Errorf("%#x, %d, %#x", a, b, c)
	}
}

// TestPlacesOfTurnedSeries: a coronal series is turned to axial slices, a tilted one keeps
// its slices; each voxel's value tells where it was made.
func TestPlacesOfTurnedSeries(t *testing.T) {
	e := want(t)
	for name, place := range map[string]func(k, row, column float64) [3]float64{
		"coronal": func(k, row, column float64) [3]float64 {
			return [3]float64{-10 + 0.7*column, -20 + 2.5*k, 30 - 0.8*row}
		},
		"tilted": func(k, row, column float64) [3]float64 {
			return [3]float64{-10 + 0.7*column, -20 + 0.7*k + 0.8*row, 30 + 2.4*k}
		},
	} {
		out := t.TempDir()
		s, err := importOf(t, Options{Source: filepath.Join("testdata/dicom", name), Out: out})
		if err != nil {
			t.Fatal(name, err)
		}
		if tilted := strings.Contains(strings.Join(s.Notes, "\n"), "the gantry is tilted by 16.3 degrees"); tilted != (name == "tilted") {
			t.Errorf("%s: %q", name, s.Notes)
		}
		v, err := nifti.Read(filepath.Join(out, "volumes", name+".nii"))
		if err != nil {
			t.Fatal(err)
		}
		for _, at := range [][3]int{{0, 0, 0}, {4, 8, 11}, {2, 3, 5}} {
			p := place(float64(at[0]), float64(at[1]), float64(at[2]))
			q := v.VoxelOf([3]float64{-p[0], -p[1], p[2]})
			i := int(math.Round(q[0])) + v.Width*(int(math.Round(q[1]))+v.Height*int(math.Round(q[2])))
			if v.Data[i] != e.HU[at[0]][at[1]][at[2]] {
				t.Errorf("%s: voxel %v lies at %v and holds %g", name, at, q, v.Data[i])
			}
		}
	}
}

// TestWhatWouldHaveToBeGuessed is refused by file, before anything is written.
func TestWhatWouldHaveToBeGuessed(t *testing.T) {
	for name, want := range map[string]string{
		"gap":        "1 slices are missing between them",
		"phases":     "the series holds several images of one place",
		"no_rescale": "is CT without RescaleSlope and RescaleIntercept",
	} {
		out := filepath.Join(t.TempDir(), "out")
		_, err := importOf(t, Options{Source: filepath.Join("testdata/dicom", name), Out: out})
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), ".dcm") {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
		if _, err := os.Stat(out); err == nil {
			t.Errorf("%s: something was written", name)
		}
	}
	t.Setenv("PATH", "")
	if _, err := importOf(t, Options{Source: "testdata/dicom/jpegls"}); err == nil || !strings.Contains(err.Error(), "needs gdcmconv") {
		t.Errorf("JPEG-LS without gdcmconv: %v", err)
	}
}

// TestImportGoesOn: what is there is not written again, the split column stays, patients
// are not named, and a copy of a slice is left out with a note.
func TestImportGoesOn(t *testing.T) {
	source, out := t.TempDir(), t.TempDir()
	for _, name := range []string{"explicit", "rle"} {
		if err := os.CopyFS(filepath.Join(source, name), os.DirFS(filepath.Join("testdata/dicom", name))); err != nil {
			t.Fatal(err)
		}
	}
	copied, err := os.ReadFile(filepath.Join(source, "explicit", "03.dcm"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(source, "explicit", "copy.dcm"), copied, 0o644); err != nil {
		t.Fatal(err)
	}
	s, err := importOf(t, Options{Source: source, Out: out})
	if err != nil || s.Written != 2 || s.Patients != 1 || !slices.Contains(s.Notes, "explicit: copy.dcm is a copy of 03.dcm") {
		t.Fatalf("%+v, %v", s, err)
	}
	path := filepath.Join(out, "volumes.csv")
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(raw), "Nobody") || strings.Contains(string(raw), "1234") {
		t.Errorf("the patient is named: %s", raw)
	}
	edited := strings.Replace(string(raw), ",,", ",train,", 1)
	if err := os.WriteFile(path, []byte(edited), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(out, "volumes", "rle.nii")); err != nil {
		t.Fatal(err)
	}
	if s, err = importOf(t, Options{Source: source, Out: out}); err != nil || s.Written != 1 {
		t.Errorf("%+v, %v", s, err)
	}
	if raw, _ := os.ReadFile(path); string(raw) != edited {
		t.Errorf("volumes.csv was %s, is %s", edited, raw)
	}
}

// TestBoxesInEveryFrame: one box in voxels, in mm of DICOM and in mm of NIfTI is one box.
func TestBoxesInEveryFrame(t *testing.T) {
	dir := t.TempDir()
	for coordinates, row := range map[string]string{
		"voxel": "1,2,1,5,6,3",
		"lps":   "-9.3,-18.4,32.5,-6.5,-15.2,37.5",
		"ras":   "6.5,15.2,32.5,9.3,18.4,37.5",
	} {
		csv := filepath.Join(dir, "boxes.csv")
		if err := os.WriteFile(csv, []byte("seriesuid,x1,y1,z1,x2,y2,z2,class,reader\nexplicit,"+row+",nodule,a\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		out := filepath.Join(dir, coordinates)
		if _, err := importOf(t, Options{Source: "testdata/dicom/explicit", Out: out, Boxes: csv, Coordinates: coordinates}); err != nil {
			t.Fatal(coordinates, err)
		}
		b, err := table.Read(filepath.Join(out, "boxes.csv"))
		if err != nil {
			t.Fatal(err)
		}
		for column, want := range map[string]float64{"x1": 1, "y1": 2, "z1": 1, "x2": 5, "y2": 6, "z2": 3} {
			if v, err := table.Number(b.Get(b.Rows[0], column)); err != nil || math.Abs(v-want) > 1e-6 {
				t.Errorf("%s: %s is %g, want %g", coordinates, column, v, want)
			}
		}
		if b.Get(b.Rows[0], "class") != "nodule" || b.Get(b.Rows[0], "reader") != "a" {
			t.Errorf("%s: %v", coordinates, b.Rows[0])
		}
	}
}

// TestBadBoxes: each is refused with its row.
func TestBadBoxes(t *testing.T) {
	for content, want := range map[string]string{
		"id,x1,y1,z1,x2,y2,z2\nexplicit,1,2,1,1,6,3\n":        "boxes.csv:2: the box has no extent along x",
		"id,x1,y1,z1,x2,y2,z2\nexplicit,100,2,1,101,6,3\n":    "boxes.csv:2: the box lies outside the scan explicit: along x",
		"id,x1,y1,z1,x2,y2,z2\nexplicti,1,2,1,5,6,3\n":        `boxes.csv:2: id: no scan is called "explicti"; did you mean "explicit"?`,
		"id,x1,y1,x2,y2\nexplicit,1,2,5,6\n":                  "boxes.csv:1: no columns of boxes",
		"number,x1,y1,z1,x2,y2,z2\nexplicit,1,2,1,5,6,3\n":    "boxes.csv:1: no column names the scan",
		"id,x1,y1,z1,x2,y2,z2\nexplicit,1,two,1,5,6,3\n":      "boxes.csv:2: y1:",
		"id,cx,cy,cz,dx,dy,dz\nexplicit,3,4,2,-4,4,2\n":       "boxes.csv:2: the box has no extent along x",
		"id,x,y,z,diameter_mm\nexplicit,3,4,-90,4\n":          "boxes.csv:2: the box lies outside the scan explicit: along z",
		"id,x1,y1,z1,x2,y2,z2\nexplicit,0.1,0.1,NaN,.2,.2,.2": "boxes.csv:2: z1:",
	} {
		dir := t.TempDir()
		csv := filepath.Join(dir, "boxes.csv")
		if err := os.WriteFile(csv, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		_, err := importOf(t, Options{Source: "testdata/dicom/explicit", Out: filepath.Join(dir, "out"), Boxes: csv, Coordinates: "voxel"})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", content, err, want)
		}
	}
}

// TestMasksBecomeBoxes: components of each label, or labels where a JSON names the class
// of instances; the box reaches half a voxel beyond the centres.
func TestMasksBecomeBoxes(t *testing.T) {
	dir := t.TempDir()
	images, labels := filepath.Join(dir, "imagesTr"), filepath.Join(dir, "labelsTr")
	for _, d := range []string{images, labels} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	affine := [12]float64{.8, 0, 0, 3, 0, .8, 0, 5, 0, 0, 2, -9} // RAS: the display turns columns and rows
	scan := &nifti.Image{Dim: [3]int{10, 10, 6}, Affine: affine, Int16: make([]int16, 600)}
	mask := &nifti.Image{Dim: scan.Dim, Affine: affine, Int16: make([]int16, 600)}
	set := func(x, y, z int, v int16) { mask.Int16[x+10*(y+10*z)] = v }
	set(2, 3, 1, 1)
	set(3, 3, 1, 1)
	set(3, 4, 2, 1)
	set(8, 8, 4, 1)
	set(6, 1, 3, 2)
	for path, v := range map[string]*nifti.Image{filepath.Join(images, "a_0000.nii"): scan, filepath.Join(labels, "a.nii"): mask} {
		if err := nifti.Write(path, v); err != nil {
			t.Fatal(err)
		}
	}
	read := func(out string) []string {
		b, err := table.Read(filepath.Join(out, "boxes.csv"))
		if err != nil {
			t.Fatal(err)
		}
		var rows []string
		for _, r := range b.Rows {
			rows = append(rows, strings.Join(b.Cells(r), " "))
		}
		slices.Sort(rows)
		return rows
	}
	out := filepath.Join(dir, "components")
	if _, err := importOf(t, Options{Source: images, Out: out}); err != nil {
		t.Fatal(err)
	}
	// Displayed columns run to the left: x becomes 9-x, y 9-y.
	want := []string{"a 0.5 0.5 3.5 1.5 1.5 4.5 1  1", "a 2.5 7.5 2.5 3.5 8.5 3.5 2  1", "a 5.5 4.5 0.5 7.5 6.5 2.5 1  3"}
	if got := read(out); !slices.Equal(got, want) {
		t.Errorf("components %q, want %q", got, want)
	}
	if err := os.WriteFile(filepath.Join(labels, "a.json"), []byte(`{"instances": {"1": 7, "2": 0}}`), 0o644); err != nil {
		t.Fatal(err)
	}
	out = filepath.Join(dir, "labels")
	if _, err := importOf(t, Options{Source: images, Out: out}); err != nil {
		t.Fatal(err)
	}
	want = []string{"a 0.5 0.5 0.5 7.5 6.5 4.5 7  4", "a 2.5 7.5 2.5 3.5 8.5 3.5 0  1"}
	if got := read(out); !slices.Equal(got, want) {
		t.Errorf("labels %q, want %q", got, want)
	}
}

// TestFoldersOfOtherTools: nnU-Net's and nnDetection's folder is understood as a whole; names
// of labels are taken from dataset.json, which names all or none; later channels are left out.
func TestFoldersOfOtherTools(t *testing.T) {
	for labels, want := range map[string]string{`{"background": 0, "tumour": 1}`: "tumour", `{"0": "background", "1": "cyst"}`: "cyst", `{"background": 0}`: "1",
		`{"background": 0, "any": [1, 2], "core": 2}`: "1", `{"background": 0, "cyst": 2}`: ""} {
		dir := t.TempDir()
		scan := &nifti.Image{Dim: [3]int{6, 6, 4}, Affine: [12]float64{-1, 0, 0, 0, 0, -1, 0, 0, 0, 0, 2, 0}, Int16: make([]int16, 144)}
		mask := *scan
		mask.Int16 = make([]int16, 144)
		mask.Int16[2+6*(3+6*1)] = 1
		for path, v := range map[string]*nifti.Image{"imagesTr/a_0000.nii": scan, "imagesTr/a_0001.nii": scan, "imagesTs/b_0000.nii": scan, "labelsTr/a.nii": &mask} {
			path = filepath.Join(dir, path)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := nifti.Write(path, v); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(dir, "dataset.json"), []byte(`{"labels": `+labels+`}`), 0o644); err != nil {
			t.Fatal(err)
		}
		out := t.TempDir()
		s, err := importOf(t, Options{Source: dir, Out: out})
		if want == "" {
			if err == nil || !strings.Contains(err.Error(), "a.nii: holds the label 1, which dataset.json does not name") {
				t.Errorf("a label without a name among named ones: %v", err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := table.Read(filepath.Join(out, "boxes.csv"))
		if err != nil {
			t.Fatal(err)
		}
		if s.Volumes != 1 || s.Boxes != 1 || b.Get(b.Rows[0], "class") != want || !strings.Contains(strings.Join(s.Notes, "\n"), "1 volumes are second or later channels") {
			t.Errorf("%+v, class %q, want %q", s, b.Get(b.Rows[0], "class"), want)
		}
	}
}

// TestBrokenFiles: two hundred damaged files give an error or a scan, nothing else, and
// nothing half-written.
func TestBrokenFiles(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, name := range []string{"explicit", "rle", "lossless", "multiframe"} {
		files, err := filepath.Glob(filepath.Join("testdata/dicom", name, "*.dcm"))
		if err != nil || len(files) == 0 {
			t.Fatal(err)
		}
		whole, err := os.ReadFile(files[0])
		if err != nil {
			t.Fatal(err)
		}
		for n := range 50 {
			raw := slices.Clone(whole)
			switch n % 3 {
			case 0:
				raw = raw[:rng.IntN(len(raw))]
			case 1:
				raw[132+rng.IntN(len(raw)-132)] ^= byte(1 + rng.IntN(255))
			default:
				at := 132 + rng.IntN(len(raw)-140)
				for k := range 8 {
					raw[at+k] = byte(rng.IntN(256))
				}
			}
			source, out := t.TempDir(), filepath.Join(t.TempDir(), "out")
			for _, f := range files {
				content := raw
				if f != files[0] {
					if content, err = os.ReadFile(f); err != nil {
						t.Fatal(err)
					}
				}
				if err := os.WriteFile(filepath.Join(source, filepath.Base(f)), content, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := importOf(t, Options{Source: source, Out: out}); err == nil {
				continue
			}
			if _, err := os.Stat(out); err == nil {
				t.Errorf("%s, %d: something was written", name, n)
			}
		}
	}
}

// TestBrokenVolumes: two hundred damaged NIfTI and NRRD files give an error or a scan, and
// nothing half-written.
func TestBrokenVolumes(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	image := &nifti.Image{Dim: [3]int{6, 5, 4}, Affine: [12]float64{-.8, 0, 0, 3, 0, -.8, 0, 5, 0, 0, 2, -9}, Int16: make([]int16, 120)}
	dir := t.TempDir()
	for i := range image.Int16 {
		image.Int16[i] = int16(rng.IntN(2000) - 1000)
	}
	if err := nifti.Write(filepath.Join(dir, "a.nii"), image); err != nil {
		t.Fatal(err)
	}
	voxels, err := os.ReadFile(filepath.Join(dir, "a.nii"))
	if err != nil {
		t.Fatal(err)
	}
	head := "NRRD0004\ntype: short\ndimension: 3\nspace: left-posterior-superior\nsizes: 6 5 4\nspace directions: (0.8,0,0) (0,0.8,0) (0,0,2)\n" +
		"endian: little\nencoding: raw\nspace origin: (0,0,0)\n\n"
	for name, whole := range map[string][]byte{"a.nii": voxels, "a.nrrd": append([]byte(head), voxels[352:]...)} {
		broken := 0
		for n := range 100 {
			raw := slices.Clone(whole)
			switch n % 3 {
			case 0:
				raw = raw[:rng.IntN(len(raw))]
			case 1:
				raw[rng.IntN(len(head))] ^= byte(1 + rng.IntN(255))
			default:
				at := rng.IntN(len(head) - 8)
				for k := range 8 {
					raw[at+k] = byte(rng.IntN(256))
				}
			}
			source, out := t.TempDir(), filepath.Join(t.TempDir(), "out")
			if err := os.WriteFile(filepath.Join(source, name), raw, 0o644); err != nil {
				t.Fatal(err)
			}
			if _, err := importOf(t, Options{Source: source, Out: out}); err == nil {
				continue
			}
			broken++
			if left, _ := filepath.Glob(filepath.Join(out, "volumes", "*")); len(left) > 0 {
				t.Errorf("%s, %d: left %v", name, n, left)
			}
		}
		if broken < 34 { // those that are cut off, at least
			t.Errorf("%s: %d of 100 are refused", name, broken)
		}
	}
}

func FuzzReadInstance(f *testing.F) {
	files, _ := filepath.Glob("testdata/dicom/*/01.dcm")
	for _, path := range files {
		raw, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		path := filepath.Join(t.TempDir(), "x.dcm")
		if err := os.WriteFile(path, raw, 0o644); err != nil {
			t.Fatal(err)
		}
		in, frames, err := readInstance(path, true)
		if err == nil && len(frames) != len(in.planes) {
			t.Errorf("%d frames of %d planes", len(frames), len(in.planes))
		}
	})
}

func FuzzLosslessJPEG(f *testing.F) {
	f.Add([]byte{0xff, 0xd8, 0xff, 0xc3, 0, 11, 8, 0, 2, 0, 2, 1, 1, 0x11, 0}, 2, 2)
	f.Fuzz(func(t *testing.T, raw []byte, width, height int) {
		if values, err := decodeLosslessJPEG(raw, width, height); err == nil && len(values) != width*height {
			t.Errorf("%d values of %d x %d", len(values), width, height)
		}
	})
}

// TestWhatIsNoScanIsLeftOut: a segmentation, a screenshot in colour and a report beside a series.
func TestWhatIsNoScanIsLeftOut(t *testing.T) {
	s, err := importOf(t, Options{Source: "testdata/dicom/others"})
	if err != nil {
		t.Fatal(err)
	}
	notes := strings.Join(s.Notes, "\n")
	for _, want := range []string{"1 DICOM segmentations or doses are left out", "shot.dcm: a series of one image", "1 files are no DICOM images"} {
		if s.Volumes != 1 || s.Slices != 5 || !strings.Contains(notes, want) {
			t.Errorf("%+v, want %q", s, want)
		}
	}
}

// TestNamesInFoldersAreSaid: the id of a scan comes from its folder.
func TestNamesInFoldersAreSaid(t *testing.T) {
	for folder, said := range map[string]bool{"KNOWN_nobody": true, "nobody": false, "1234": false} {
		source := filepath.Join(t.TempDir(), folder)
		if err := os.CopyFS(source, os.DirFS("testdata/dicom/explicit")); err != nil {
			t.Fatal(err)
		}
		s, err := importOf(t, Options{Source: source})
		if err != nil || strings.Contains(strings.Join(s.Notes, " "), "bear the patient's name") != said {
			t.Errorf("%s: %+v, %v", folder, s, err)
		}
	}
}

// TestAnImportBesideAnother: what was imported from another folder stays, its boxes too; what has
// changed in the source is written again.
func TestAnImportBesideAnother(t *testing.T) {
	dir, out := t.TempDir(), t.TempDir()
	image := &nifti.Image{Dim: [3]int{6, 5, 4}, Affine: [12]float64{-.8, 0, 0, 3, 0, -.8, 0, 5, 0, 0, 2, -9}, Int16: make([]int16, 120)}
	for _, name := range []string{"a", "b"} {
		source := filepath.Join(dir, name)
		if err := os.Mkdir(source, 0o777); err != nil {
			t.Fatal(err)
		}
		if err := nifti.Write(filepath.Join(source, name+".nii"), image); err != nil {
			t.Fatal(err)
		}
		boxes := filepath.Join(dir, name+".csv")
		if err := os.WriteFile(boxes, []byte("id,x1,y1,z1,x2,y2,z2\n"+name+",1,1,1,3,3,2\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := importOf(t, Options{Source: source, Out: out, Boxes: boxes, Coordinates: "voxel"}); err != nil {
			t.Fatal(err)
		}
	}
	for file, want := range map[string]int{"volumes.csv": 2, "boxes.csv": 2} {
		if rows, err := table.Read(filepath.Join(out, file)); err != nil || len(rows.Rows) != want {
			t.Errorf("%s: %+v, %v", file, rows, err)
		}
	}
	image.Int16[7] = 9
	if err := nifti.Write(filepath.Join(dir, "b", "b.nii"), image); err != nil {
		t.Fatal(err)
	}
	s, err := importOf(t, Options{Source: filepath.Join(dir, "b"), Out: out})
	if err != nil || s.Written != 1 || !strings.Contains(strings.Join(s.Notes, "\n"), "1 volumes of an import before are not among these scans") {
		t.Errorf("%+v, %v", s, err)
	}
	if v, err := nifti.Read(filepath.Join(out, "volumes", "b.nii")); err != nil || v.Data[7] != 9 {
		t.Errorf("%v, %v", v, err)
	}
}

// TestACopyShowsTheSame: a file with the identity and place of another one, but other pixels, is
// none.
func TestACopyShowsTheSame(t *testing.T) {
	source := t.TempDir()
	if err := os.CopyFS(source, os.DirFS("testdata/dicom/explicit")); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(filepath.Join(source, "03.dcm"))
	if err != nil {
		t.Fatal(err)
	}
	raw[len(raw)-5]++
	if err := os.WriteFile(filepath.Join(source, "x.dcm"), raw, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := importOf(t, Options{Source: source}); err == nil || !strings.Contains(err.Error(), "x.dcm: has the SOPInstanceUID and the place of 03.dcm, but other pixels") {
		t.Error(err)
	}
}

// TestManyNotesOfOneTextAreCounted: and a header's data beside it are no file that is left out.
func TestManyNotesOfOneTextAreCounted(t *testing.T) {
	source := t.TempDir()
	for _, name := range []string{"a", "B", "c", "d"} {
		head := "ObjectType = Image\nNDims = 3\nDimSize = 2 2 2\nElementType = MET_UCHAR\nElementDataFile = " + name + ".raw\n"
		for file, content := range map[string]string{name + ".MHD": head, name + ".raw": "12345678"} {
			if err := os.WriteFile(filepath.Join(source, file), []byte(content), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	out := t.TempDir()
	s, err := importOf(t, Options{Source: source, Out: out})
	if err != nil || len(s.Notes) != 1 || !strings.HasPrefix(s.Notes[0], "4 scans, the first is B, each: ") {
		t.Errorf("%+v, %v", s, err)
	}
	if _, err := os.Stat(filepath.Join(out, "volumes", "B.nii")); err != nil {
		t.Error(err)
	}
}

// TestAShearedVolumeIsSaid: and its places stay right.
func TestAShearedVolumeIsSaid(t *testing.T) {
	source := t.TempDir()
	affine := [12]float64{-.8, 0, 0, 3, 0, -.8, -.4, 5, 0, 0, 2, -9}
	if err := nifti.Write(filepath.Join(source, "a.nii"), &nifti.Image{Dim: [3]int{6, 5, 4}, Affine: affine, Int16: make([]int16, 120)}); err != nil {
		t.Fatal(err)
	}
	out := t.TempDir()
	s, err := importOf(t, Options{Source: source, Out: out})
	// the angle between (0, -.8, 0) and (0, -.4, 2) is 78.7 degrees
	if err != nil || !strings.Contains(strings.Join(s.Notes, "\n"), "a: its axes are 11.3 degrees from perpendicular") {
		t.Errorf("%+v, %v", s, err)
	}
	h, err := nifti.ReadHeader(filepath.Join(out, "volumes", "a.nii"))
	if err != nil {
		t.Fatal(err)
	}
	for k := range affine {
		if math.Abs(h.Affine[k]-affine[k]) > 1e-6 {
			t.Errorf("%v, want %v", h.Affine, affine)
		}
	}
}

// TestMasksOfOtherGrids: voxels of a mask count with their own sides; a mask that lies elsewhere or
// holds shares is refused.
func TestMasksOfOtherGrids(t *testing.T) {
	for name, c := range map[string]struct {
		side, x, value float64
		want           string // x1 and x2 of the box, or a part of the error
	}{
		"finer":     {.4, 3, 1, "0.75 1.25"}, // voxel 2 of .4 mm in voxels of .8 mm, half a side to either way
		"elsewhere": {.4, 500, 1, "has a lesion outside of the scan a"},
		"shares":    {.8, 3, .4, "holds the value 0.4"},
	} {
		source, masks, out := t.TempDir(), t.TempDir(), t.TempDir()
		if err := nifti.Write(filepath.Join(source, "a.nii"), &nifti.Image{Dim: [3]int{6, 5, 4}, Affine: [12]float64{-.8, 0, 0, 3, 0, -.8, 0, 5, 0, 0, 2, -9}, Int16: make([]int16, 120)}); err != nil {
			t.Fatal(err)
		}
		mask := &nifti.Image{Dim: [3]int{6, 5, 4}, Affine: [12]float64{-c.side, 0, 0, c.x, 0, -c.side, 0, 5, 0, 0, 2, -9}, Float32: make([]float32, 120)}
		mask.Float32[2+6*2+30] = float32(c.value)
		if err := nifti.Write(filepath.Join(masks, "a.nii"), mask); err != nil {
			t.Fatal(err)
		}
		_, err := importOf(t, Options{Source: source, Out: out, Masks: masks})
		found := fmt.Sprint(err)
		if err == nil {
			rows, err := table.Read(filepath.Join(out, "boxes.csv"))
			if err != nil || len(rows.Rows) != 1 {
				t.Fatalf("%+v, %v", rows, err)
			}
			var x [2]float64
			for k, column := range []string{"x1", "x2"} {
				if x[k], err = table.Number(rows.Get(rows.Rows[0], column)); err != nil {
					t.Fatal(err)
				}
			}
			found = fmt.Sprintf("%.2f %.2f", x[0], x[1])
		}
		if !strings.Contains(found, c.want) {
			t.Errorf("%s: %s, want %s", name, found, c.want)
		}
	}
}
