package nifti

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io/fs"
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

func TestMasksEqualNibabel(t *testing.T) {
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
			v, err := ReadMask(filepath.Join("testdata", name))
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

// read reads a mask from content.
func read(raw []byte) (*Mask, error) {
	r, available, err := unpack(bytes.NewReader(raw), int64(len(raw)))
	if err != nil {
		return nil, err
	}
	return unpacked(r, available, (*Header).mask)
}

func TestMasksWithoutMeaningAreRefused(t *testing.T) {
	le := binary.LittleEndian
	float := func(h []byte, at int, v float64) { le.PutUint32(h[at:], math.Float32bits(float32(v))) }
	for name, c := range map[string]struct {
		change func([]byte)
		want   string
	}{
		"flat affine": {func(h []byte) { h[254] = 1 }, "cannot be inverted"},
		"infinite intercept": {func(h []byte) {
			float(h, 112, 1)
			float(h, 116, math.Inf(1))
		}, "scl_inter is +Inf"},
		"NaN voxel": {func(h []byte) {
			le.PutUint16(h[70:], 16)
			le.PutUint16(h[46:], 1) // half as many voxels of twice the size
			float(h, 352+4*5, math.NaN())
		}, "voxel 5 is NaN"},
	} {
		h := header()
		c.change(h)
		if _, err := read(h); !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q", name, err, c.want)
		}
	}
	if _, err := ReadMask("testdata/absent.nii"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v, want that there is no such file", err)
	}
}

func TestMaskOfUnknownSpacingCountsMillimetres(t *testing.T) {
	h := header()
	binary.LittleEndian.PutUint32(h[80:], 0) // pixdim[1]
	binary.LittleEndian.PutUint16(h[352+2*7:], 9)
	m, err := read(h)
	if err != nil {
		t.Fatal(err)
	}
	if len(m.Indices) != 1 || m.Indices[0] != 7 || m.Values[0] != 9 || m.PointOf([3]float64{3, 1, 1}) != [3]float64{3, 1, 1} {
		t.Errorf("voxels %v of %v, and 3, 1, 1 lies at %v", m.Indices, m.Values, m.PointOf([3]float64{3, 1, 1}))
	}
}

// FuzzMask: what is accepted lists voxels that are there, in order.
func FuzzMask(f *testing.F) {
	f.Add(header())
	for _, name := range []string{"uint8.nii.gz", "int16_scaled.nii", "float64_nifti2.nii.gz", "uint16_big.nii.gz"} {
		data, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 1<<16 {
			return
		}
		v, err := read(data)
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
