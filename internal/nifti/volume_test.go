package nifti

import (
	"bytes"
	"compress/zlib"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// metaVoxels are a 3 x 2 x 2 volume of shorts with two voxels other than 0.
func metaVoxels(order binary.ByteOrder) []byte {
	var b bytes.Buffer
	_ = binary.Write(&b, order, []int16{0, 0, 7, 0, 0, 0, 0, -2, 0, 0, 0, 0})
	return b.Bytes()
}

const metaHeader = "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = %s\nCompressedData = %s\nTransformMatrix = 1 0 0 0 1 0 0 0 1\n" +
	"Offset = 10 20 30\nElementSpacing = 0.5 2 4\nDimSize = 3 2 2\nElementType = MET_SHORT\nElementDataFile = %s\n"

// As SimpleITK places it: ITK's axes point left and back, NIfTI's right and front.
func TestMetaImagesAreReadInPlace(t *testing.T) {
	dir := t.TempDir()
	var packed bytes.Buffer
	z := zlib.NewWriter(&packed)
	_, _ = z.Write(metaVoxels(binary.LittleEndian))
	_ = z.Close()
	for name, content := range map[string][]byte{
		"plain.mha":  append(fmt.Appendf(nil, metaHeader, "False", "False", "LOCAL"), metaVoxels(binary.LittleEndian)...),
		"big.mha":    append(fmt.Appendf(nil, metaHeader, "True", "False", "LOCAL"), metaVoxels(binary.BigEndian)...),
		"packed.mha": append(fmt.Appendf(nil, metaHeader, "False", "True", "LOCAL"), packed.Bytes()...),
		"apart.mhd":  fmt.Appendf(nil, metaHeader, "False", "False", "apart.raw"),
		"apart.raw":  metaVoxels(binary.LittleEndian),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"plain.mha", "big.mha", "packed.mha", "apart.mhd"} {
		m, err := ReadMask(filepath.Join(dir, name))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if !slices.Equal(m.Indices, []int{2, 7}) || !slices.Equal(m.Values, []float64{7, -2}) || m.Size != [3]int{3, 2, 2} {
			t.Errorf("%s: %v %v of %v", name, m.Indices, m.Values, m.Size)
		}
		if got := m.PointOf([3]float64{2, 1, 1}); got != [3]float64{-11, -22, 34} {
			t.Errorf("%s: voxel 2 1 1 lies at %v, want -11 -22 34", name, got)
		}
	}
	for name, content := range map[string]string{"a.mha": "", "b.mha": "NDims = 3\n", "c.mha": fmt.Sprintf(metaHeader, "False", "False", "../up.raw"), "d.mha": fmt.Sprintf(metaHeader, "False", "False", "LOCAL")} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadMask(path); !errors.Is(err, ErrFormat) {
			t.Errorf("%q: %v", content, err)
		}
	}
}

// A header and voxels in two files are the volume of one file.
func TestPairsOfHeaderAndVoxels(t *testing.T) {
	raw, err := os.ReadFile("testdata/type4_little.nii")
	if err != nil {
		t.Fatal(err)
	}
	whole, err := ReadMask("testdata/type4_little.nii")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	header := slices.Clone(raw[:348])
	copy(header[344:], "ni1\x00")
	copy(header[108:112], []byte{0, 0, 0, 0})
	for name, content := range map[string][]byte{"x.hdr": header, "x.img": raw[352:]} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"x.hdr", "x.img"} {
		m, err := ReadMask(filepath.Join(dir, name))
		if err != nil || !slices.Equal(m.Indices, whole.Indices) || !slices.Equal(m.Values, whole.Values) || !m.SameGrid(whole) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A grid turned round is another grid, whose voxels are found by their places.
func TestVoxelsOfAnotherGridAreFoundByTheirPlace(t *testing.T) {
	grid := func(affine [12]float64, size [3]int) *Mask {
		h := &Header{Oriented: true, Affine: affine}
		m := &Mask{Size: size, affine: affine, Oriented: true}
		if err := m.invert(h); err != nil {
			t.Fatal(err)
		}
		return m
	}
	ras := grid([12]float64{1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0}, [3]int{4, 3, 2})
	lps := grid([12]float64{-1, 0, 0, 3, 0, -1, 0, 2, 0, 0, 1, 0}, [3]int{4, 3, 2})
	if ras.SameGrid(lps) || !ras.SameGrid(ras) {
		t.Error("a grid and its mirror image are the same")
	}
	if got := ras.Resampled(lps, []int{0, 1}); !slices.Equal(got, []int{10, 11}) {
		t.Errorf("voxels %v, want 10 11", got)
	}
	fine := grid([12]float64{0.5, 0, 0, -0.25, 0, 0.5, 0, -0.25, 0, 0, 0.5, -0.25}, [3]int{8, 6, 4})
	if got := fine.Resampled(ras, []int{0}); len(got) != 8 {
		t.Errorf("a voxel is %d voxels of half the side, want 8", len(got))
	}
}

func FuzzMetaImage(f *testing.F) {
	f.Add(append(fmt.Appendf(nil, metaHeader, "False", "False", "LOCAL"), metaVoxels(binary.LittleEndian)...))
	f.Add([]byte("NDims = 2\nDimSize = 1 1\nElementType = MET_UCHAR\nElementDataFile = LOCAL\n\x01"))
	path := filepath.Join(f.TempDir(), "x.mha")
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		m, err := ReadMask(path)
		if err == nil && len(m.Indices) != len(m.Values) {
			t.Errorf("%d voxels, %d values", len(m.Indices), len(m.Values))
		}
	})
}
