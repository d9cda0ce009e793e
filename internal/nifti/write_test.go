package nifti

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// TestWrittenVolumesAreReadBack: whole and slice by slice, in every orientation whose
// stored slices are axial; the others are refused for reading by slices.
func TestWrittenVolumesAreReadBack(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "x.nii")
	for name, affine := range map[string][12]float64{
		"lps":        {-.8, 0, 0, 3, 0, -.7, 0, 5, 0, 0, 2, -9},
		"ras":        {.8, 0, 0, 3, 0, .7, 0, 5, 0, 0, 2, -9},
		"head down":  {-.8, 0, 0, 3, 0, -.7, 0, 5, 0, 0, -2, -9},
		"transposed": {0, -.7, 0, 3, -.8, 0, 0, 5, 0, 0, 2, -9},
		"oblique":    {-.8, .1, 0, 3, .1, -.7, .2, 5, 0, .2, 2, -9},
	} {
		v := &Image{Dim: [3]int{3, 4, 5}, Affine: affine}
		for n := range 60 {
			v.Int16 = append(v.Int16, int16(7*n-100))
		}
		if err := Write(path, v); err != nil {
			t.Fatal(err)
		}
		whole, err := Read(path)
		if err != nil {
			t.Fatal(err)
		}
		s, err := OpenSlices(path)
		if err != nil {
			t.Fatal(err)
		}
		var all []float32
		for n := range s.Depth {
			slice, err := s.Read(n)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, slice...)
		}
		if !slices.Equal(all, whole.Data) || s.Frame != whole.Frame {
			t.Errorf("%s: slices and volume differ", name)
		}
		if _, err := s.Read(s.Depth); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
		h, err := ReadHeader(path)
		if err != nil || !h.Oriented {
			t.Fatal(err)
		}
		for k := range affine {
			if d := h.Affine[k] - affine[k]; d > 1e-6 || d < -1e-6 {
				t.Errorf("%s: affine %v, want %v", name, h.Affine, affine)
				break
			}
		}
		s.Close()
	}
	sagittal := &Image{Dim: [3]int{2, 2, 2}, Affine: [12]float64{0, 0, -1, 0, -1, 0, 0, 0, 0, 1, 0, 0}, Float32: make([]float32, 8)}
	if err := Write(path, sagittal); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenSlices(path); !errors.Is(err, ErrFormat) {
		t.Errorf("sagittal slices: %v", err)
	}
	if err := Write(path, &Image{Dim: [3]int{2, 2, 3}, Float32: make([]float32, 8)}); !errors.Is(err, ErrFormat) {
		t.Errorf("a volume of too few values: %v", err)
	}
	if err := os.Truncate(path, 360); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenSlices(path); !errors.Is(err, ErrFormat) {
		t.Errorf("cut off: %v", err)
	}
}
