package nifti

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// expected is what nibabel and scipy say about a file.
type expected struct {
	Size       [3]int
	Indices    []int
	Values     []float64
	Components int
	Labels     []int
	Voxel      [3]float64
	Point      [3]float64
}

func TestVolumesEqualNibabel(t *testing.T) {
	raw, err := os.ReadFile("testdata/volumes.json")
	if err != nil {
		t.Fatal(err)
	}
	var all map[string]expected
	if err := json.Unmarshal(raw, &all); err != nil {
		t.Fatal(err)
	}
	if len(all) != 6 {
		t.Fatalf("%d volumes, want 6", len(all))
	}
	near := cmpopts.EquateApprox(0, 1e-4) // headers hold float32
	for name, want := range all {
		t.Run(name, func(t *testing.T) {
			v, err := ReadFile(filepath.Join("testdata", name))
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(want.Size, v.Size); d != "" {
				t.Error(d)
			}
			if d := cmp.Diff(want.Indices, v.Indices); d != "" {
				t.Error(d)
			}
			if d := cmp.Diff(want.Values, v.Values, near); d != "" {
				t.Error(d)
			}
			if d := cmp.Diff(want.Point, v.PointOf(want.Voxel), near); d != "" {
				t.Errorf("point of a voxel: %s", d)
			}
			if d := cmp.Diff(want.Voxel, v.VoxelOf(want.Point), near); d != "" {
				t.Errorf("voxel of a point: %s", d)
			}
			components := v.Components()
			if len(components) != want.Components {
				t.Fatalf("%d components, want %d", len(components), want.Components)
			}
			for _, c := range components {
				for _, k := range c {
					if want.Labels[k] != want.Labels[c[0]] {
						t.Fatalf("voxels %d and %d share a component, but not by scipy", c[0], k)
					}
				}
			}
			if grid := v.Grid(); !grid.SameGrid(v) || grid.Indices != nil || grid.PointOf(want.Voxel) != v.PointOf(want.Voxel) {
				t.Error("the grid differs from its volume")
			}
		})
	}
}

// small is a valid NIfTI-1 file of 2x1x1 bytes.
func small() []byte {
	h := make([]byte, 352, 354)
	le := binary.LittleEndian
	le.PutUint32(h, 348)
	for i, d := range []uint16{3, 2, 1, 1} {
		le.PutUint16(h[40+2*i:], d)
	}
	le.PutUint16(h[70:], 2)
	le.PutUint32(h[108:], math.Float32bits(352))
	copy(h[344:], "n+1\x00")
	return append(h, 0, 7)
}

func TestDamagedFilesAreRefused(t *testing.T) {
	le := binary.LittleEndian
	for name, c := range map[string]struct {
		change func([]byte) []byte
		want   string
	}{
		"empty":             {func([]byte) []byte { return nil }, "shorter than a header"},
		"short header":      {func(b []byte) []byte { return b[:100] }, "shorter than a header"},
		"no NIfTI":          {func(b []byte) []byte { b[0] = 1; return b }, "does not begin with a header"},
		"two-file NIfTI":    {func(b []byte) []byte { copy(b[344:], "ni1"); return b }, `magic "ni1"`},
		"no dimensions":     {func(b []byte) []byte { le.PutUint16(b[40:], 0); return b }, "0 dimensions"},
		"negative side":     {func(b []byte) []byte { le.PutUint16(b[42:], 0xffff); return b }, "positive sides"},
		"huge":              {func(b []byte) []byte { copy(b[42:], "\xff\x7f\xff\x7f\xff\x7f"); return b }, "at most"},
		"time series":       {func(b []byte) []byte { b[40] = 4; b[48] = 3; return b }, "single 3-D image"},
		"complex numbers":   {func(b []byte) []byte { b[70] = 32; return b }, "datatype 32"},
		"voxels in header":  {func(b []byte) []byte { le.PutUint32(b[108:], math.Float32bits(10)); return b }, "voxels start at byte 10"},
		"no voxels":         {func(b []byte) []byte { return b[:352] }, "cut short"},
		"cut short":         {func(b []byte) []byte { return b[:353] }, "cut short"},
		"cut before voxels": {func(b []byte) []byte { return b[:350] }, "before the first voxel"},
		"flat affine":       {func(b []byte) []byte { b[254] = 1; return b }, "cannot be inverted"},
		"infinite intercept": {func(b []byte) []byte {
			le.PutUint32(b[112:], math.Float32bits(1))
			le.PutUint32(b[116:], 0x7f800000)
			return b
		}, "scl_inter"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Read(bytes.NewReader(c.change(small())))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
	if v, err := Read(bytes.NewReader(small())); err != nil || len(v.Indices) != 1 || v.Values[0] != 7 {
		t.Errorf("the undamaged file gives %+v, %v", v, err)
	}
}

func FuzzRead(f *testing.F) {
	f.Add(small())
	for _, name := range []string{"uint8.nii.gz", "int16_scaled.nii", "float64_nifti2.nii.gz", "uint16_big.nii.gz"} {
		data, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		v, err := Read(bytes.NewReader(data))
		if err != nil {
			return
		}
		total := v.Size[0] * v.Size[1] * v.Size[2]
		for i, index := range v.Indices {
			if index < 0 || index >= total || v.Values[i] == 0 || math.IsNaN(v.Values[i]) || i > 0 && index <= v.Indices[i-1] {
				t.Fatalf("voxel %d of %d is %v", index, total, v.Values[i])
			}
		}
		if len(v.Indices) < 1000 {
			v.Components()
		}
	})
}
