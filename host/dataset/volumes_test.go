package dataset

import (
	"context"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/alignedfusion/alignedfusion/internal/nifti"
)

// orientations store one scan of 6 x 5 x 4 voxels, 0.8 x 0.7 x 2 mm, in several ways: at
// says which voxel of the scan (towards left, back and head) lies at i, j, k.
var orientations = map[string]struct {
	dim    [3]int
	affine [12]float64
	at     func(i, j, k int) (x, y, z int)
}{
	"lps":      {[3]int{6, 5, 4}, [12]float64{-.8, 0, 0, 10, 0, -.7, 0, 20, 0, 0, 2, -30}, func(i, j, k int) (int, int, int) { return i, j, k }},
	"ras":      {[3]int{6, 5, 4}, [12]float64{.8, 0, 0, 6, 0, .7, 0, 17.2, 0, 0, 2, -30}, func(i, j, k int) (int, int, int) { return 5 - i, 4 - j, k }},
	"las":      {[3]int{6, 5, 4}, [12]float64{-.8, 0, 0, 10, 0, .7, 0, 17.2, 0, 0, 2, -30}, func(i, j, k int) (int, int, int) { return i, 4 - j, k }},
	"down":     {[3]int{6, 5, 4}, [12]float64{-.8, 0, 0, 10, 0, -.7, 0, 20, 0, 0, -2, -24}, func(i, j, k int) (int, int, int) { return i, j, 3 - k }},
	"sagittal": {[3]int{5, 4, 6}, [12]float64{0, 0, -.8, 10, -.7, 0, 0, 20, 0, 2, 0, -30}, func(i, j, k int) (int, int, int) { return k, i, j }},
}

func scanValue(x, y, z int) int16 { return int16(x + 10*y + 100*z - 500) }

// volumesDir writes the scan in every orientation, with one lesion given in mm (LPS):
// x from 1 to 3, y from 1 to 4, z from 1 to 2 of the scan's voxels.
func volumesDir(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	volumes, boxes := "id,path,patient,split,sex\n", "id,x1,y1,z1,x2,y2,z2,class\n"
	for _, name := range []string{"lps", "ras", "las", "down", "sagittal"} {
		o := orientations[name]
		v := &nifti.Image{Dim: o.dim, Affine: o.affine, Int16: make([]int16, 120)}
		for k := range o.dim[2] {
			for j := range o.dim[1] {
				for i := range o.dim[0] {
					v.Int16[i+o.dim[0]*(j+o.dim[1]*k)] = scanValue(o.at(i, j, k))
				}
			}
		}
		if err := nifti.Write(filepath.Join(dir, name+".nii"), v); err != nil {
			t.Fatal(err)
		}
		volumes += name + "," + name + ".nii,p_" + name + ",train,f\n"
		boxes += name + ",-9.2,-19.3,-28,-7.6,-17.2,-26,mass\n"
	}
	write(t, filepath.Join(dir, "volumes.csv"), volumes)
	write(t, filepath.Join(dir, "boxes.csv"), boxes)
	return dir
}

// TestOneScanInFiveOrientations: slices, boxes and places in the patient are the same.
func TestOneScanInFiveOrientations(t *testing.T) {
	d := mustOpen(t, "volumes:"+volumesDir(t)+"?coordinates=lps", Options{})
	if len(d.Cases) != 20 || d.Labels[0].Classes[0] != "mass" {
		t.Fatalf("%d cases, %v", len(d.Cases), d.Labels)
	}
	for i := range d.Cases {
		c := &d.Cases[i]
		lesion := c.KeySlice == 1 || c.KeySlice == 2
		if (len(c.Boxes) == 1) != lesion || !c.HasTargets || c.Size != [2]int{5, 6} {
			t.Errorf("%s: %+v", c.ID, c)
			continue
		}
		if lesion {
			b := c.Boxes[0]
			for k, want := range [4]float64{1, 1, 3, 4} {
				if got := [4]float64{b.X1, b.Y1, b.X2, b.Y2}[k]; math.Abs(got-want) > 1e-4 {
					t.Errorf("%s: the box is %v", c.ID, b.Box)
				}
			}
			p := c.Place(b.X1, b.Y1, b.X2, b.Y2, 1, 2)
			for k, want := range [6]float64{-9.2, -19.3, -29, -7.6, -17.2, -25} {
				if got := slices.Concat(p.LowLPS[:], p.TopLPS[:])[k]; math.Abs(got-want) > 0.01 {
					t.Errorf("%s: lies at %v to %v, want %g at %d", c.ID, p.LowLPS, p.TopLPS, want, k)
				}
			}
			if math.Abs(p.DiameterMM-2.1) > 1e-4 || math.Abs(p.VolumeMM3-math.Pi/6*1.6*2.1*4) > 1e-3 {
				t.Errorf("%s: %g mm, %g mm3", c.ID, p.DiameterMM, p.VolumeMM3)
			}
			// The stored voxels in the box hold the lesion's values.
			o := orientations[c.Stack]
			middle := [3]int{}
			for a := range 3 {
				middle[a] = int(math.Round((p.LowVoxel[a] + p.TopVoxel[a]) / 2))
			}
			if x, y, z := o.at(middle[0], middle[1], middle[2]); x != 2 || y < 2 || y > 3 || z < 1 || z > 2 {
				t.Errorf("%s: the stored box %v to %v is about %d, %d, %d", c.ID, p.LowVoxel, p.TopVoxel, x, y, z)
			}
		}
	}
	for _, b := range batches(t, d, d.Cases, LoaderOptions{Load: LoadOptions{Slices: 1}}) {
		c := b.Cases[0]
		values, err := b.Tensors[Volume].Float32s()
		if err != nil {
			t.Fatal(err)
		}
		if want := float32(scanValue(4, 3, c.KeySlice)); values[4+6*3] != want {
			t.Errorf("%s: the pixel is %g, want %g", c.ID, values[4+6*3], want)
		}
	}
}

// TestKeySlicesAreTrainedOn: the slices of the lesion and some without; the others are
// swept in predictions.
func TestKeySlicesAreTrainedOn(t *testing.T) {
	key := keySlices([]box3{{low: [3]float64{0, 0, 10}, top: [3]float64{9, 9, 18}}, {low: [3]float64{0, 0, 30}, top: [3]float64{9, 9, 31}, ignore: true}}, 60)
	var numbers []int
	for z, k := range key {
		if k {
			numbers = append(numbers, z)
		}
	}
	if !slices.Equal(numbers, []int{6, 12, 14, 16, 27, 41, 53}) {
		t.Error(numbers)
	}
	if key := keySlices(nil, 3); !slices.Equal(key, []bool{true, true, true}) {
		t.Error(key)
	}
	cases := []Case{{ID: "a", Sweep: true}, {ID: "b"}}
	if kept := KeySlices(cases); len(kept) != 1 || kept[0].ID != "b" || len(cases) != 2 {
		t.Error(kept)
	}
}

// TestBadVolumes: each is refused with file and row.
func TestBadVolumes(t *testing.T) {
	for _, c := range []struct{ file, old, new, want string }{
		{"volumes.csv", "ras,ras.nii", "lps,ras.nii", `volumes.csv:3: id: "lps" is empty, holds a # or stands twice (first in line 2)`},
		{"volumes.csv", "ras.nii", "rsa.nii", "volumes.csv:3: path: "},
		{"boxes.csv", "ras,", "rsa,", `boxes.csv:3: id: "rsa" is not in volumes.csv; did you mean "ras"?`},
		{"boxes.csv", "lps,-9.2", "lps,nine", "boxes.csv:2: x1: "},
		{"boxes.csv", "lps,-9.2", "lps,-7.6", "boxes.csv:2: the box has no extent along x"},
		{"boxes.csv", "lps,-9.2,-19.3,-28,-7.6,-17.2,-26", "lps,9.2,19.3,-28,11,22,-26", "are the coordinates lps"},
		{"boxes.csv", "ras,", "lps,", "boxes.csv:3: the same box as in line 2"},
		{"boxes.csv", "class\n", "ignore\n", `boxes.csv:2: ignore: "mass" is neither 1 nor 0`},
	} {
		dir := volumesDir(t)
		edit(t, filepath.Join(dir, c.file), c.old, c.new)
		_, err := Open("volumes:"+dir+"?coordinates=lps", Options{})
		wantError(t, err, c.want)
	}
	_, err := Open("volumes:"+volumesDir(t), Options{})
	wantError(t, err, "the box leaves its volume")
	_, err = Open("volumes:"+volumesDir(t)+"?coordinates=mm", Options{})
	wantError(t, err, `coordinates="mm", want voxel, lps or ras`)
}

// TestVolumesWithoutLesions are trained on where boxes.csv is there and has no row.
func TestVolumesWithoutLesions(t *testing.T) {
	dir := volumesDir(t)
	write(t, filepath.Join(dir, "boxes.csv"), "id,x1,y1,z1,x2,y2,z2\n")
	d := mustOpen(t, "volumes:"+dir, Options{})
	if !d.Cases[0].HasTargets || strings.Join(d.AttributeColumns, " ") != "sex" {
		t.Errorf("%+v", d.Cases[0])
	}
	r, err := Check(context.Background(), d.Spec, Options{}, true)
	if err != nil || len(r.Problems) > 0 || r.ImagesDecoded != 5 {
		t.Errorf("%+v, %v", r, err)
	}
}

// TestBoxesInEveryColumns: corners, corner and sides, centre and sides are the same boxes, in
// capitals too.
func TestBoxesInEveryColumns(t *testing.T) {
	boxesOf := func(spec string) (out [][]Box) {
		d := mustOpen(t, spec, Options{})
		for i := range d.Cases {
			out = append(out, d.Cases[i].Boxes)
		}
		if len(d.AttributeColumns) > 1 {
			t.Errorf("%s: attributes %q", spec, d.AttributeColumns)
		}
		return out
	}
	dir := volumesDir(t)
	table := filepath.Join(t.TempDir(), "set.csv")
	write(t, filepath.Join(filepath.Dir(table), "images", "a.png"), greyPNG(t, 40, 40, func(x, y int) uint8 { return uint8(x + y) }))
	for _, c := range []struct {
		spec, path string
		tables     []string
	}{
		{"volumes:" + dir, filepath.Join(dir, "boxes.csv"), []string{"id,x1,y1,z1,x2,y2,z2\nras,1,1,1,3,4,2\n", "id,CX,CY,CZ,DX,DY,DZ\nras,2,2.5,1.5,2,3,1\n"}},
		{"boxes:" + table, table, []string{"image,x1,y1,x2,y2\na.png,4,5,10,9\n", "image,XMin,YMin,XMax,YMax\na.png,4,5,10,9\n", "image,x,y,width,height\na.png,4,5,6,4\n", "image,cx,cy,w,h\na.png,7,7,6,4\n"}},
	} {
		var want [][]Box
		for k, text := range c.tables {
			write(t, c.path, text)
			got := boxesOf(c.spec)
			if k == 0 {
				want = got
			}
			if d := cmp.Diff(want, got); d != "" || !slices.ContainsFunc(got, func(b []Box) bool { return len(b) > 0 }) {
				t.Errorf("%q: %s", text, d)
			}
		}
	}
}
