// Package nifti reads the non-zero voxels of label masks and detection maps from
// NIfTI-1 and NIfTI-2 files (.nii, .nii.gz), which is all that evaluation needs.
package nifti

import (
	"bufio"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strings"

	"gonum.org/v1/gonum/mat"
)

// Volume is a 3-D image of which only the voxels other than 0 are kept.
type Volume struct {
	Size    [3]int // nx, ny, nz
	Indices []int  // linear indices x + nx*(y + ny*z) of the non-zero voxels, ascending
	Values  []float64
	affine  [3][4]float64 // voxel indices to millimetres, RAS
	inverse [3][4]float64
}

// VoxelOf returns the voxel indices of a point in millimetres (RAS).
func (v *Volume) VoxelOf(p [3]float64) [3]float64 { return apply(&v.inverse, p) }

// PointOf returns the point in millimetres (RAS) of voxel indices.
func (v *Volume) PointOf(p [3]float64) [3]float64 { return apply(&v.affine, p) }

func apply(m *[3][4]float64, p [3]float64) [3]float64 {
	var out [3]float64
	for i := range out {
		out[i] = m[i][0]*p[0] + m[i][1]*p[1] + m[i][2]*p[2] + m[i][3]
	}
	return out
}

// maxVoxels bounds the grid: 2048 x 2048 x 4096.
const maxVoxels = 1 << 34

// ReadFile reads a .nii or .nii.gz file.
func ReadFile(path string) (*Volume, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	v, err := Read(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return v, nil
}

// Read reads a NIfTI file, compressed or not. It returns an error when the file is
// not NIfTI, is cut short, has more than three dimensions longer than 1, has a
// type that is not a real number, or contains NaN.
func Read(r io.Reader) (*Volume, error) {
	b := bufio.NewReaderSize(r, 1<<16)
	if start, err := b.Peek(2); err == nil && start[0] == 0x1f && start[1] == 0x8b {
		z, err := gzip.NewReader(b)
		if err != nil {
			return nil, err
		}
		b = bufio.NewReaderSize(z, 1<<16)
	}
	h, err := readHeader(b)
	if err != nil {
		return nil, err
	}
	return h.readVoxels(b)
}

type header struct {
	order     binary.ByteOrder
	raw       []byte
	dim       [8]int64
	datatype  int
	pixdim    [8]float64
	offset    int64 // of the voxels
	slope     float64
	intercept float64
	qform     int
	sform     int
	quatern   [6]float64 // b, c, d, offset x, y, z
	srow      [3][4]float64
}

func readHeader(r io.Reader) (*header, error) {
	first := make([]byte, 4)
	if _, err := io.ReadFull(r, first); err != nil {
		return nil, errors.New("not NIfTI: shorter than a header")
	}
	h := &header{}
	size := 0
	for _, order := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
		if n := order.Uint32(first); n == 348 || n == 540 {
			h.order, size = order, int(n)
		}
	}
	if size == 0 {
		return nil, errors.New("not NIfTI: the file does not begin with a header of 348 or 540 bytes")
	}
	h.raw = make([]byte, size)
	copy(h.raw, first)
	if _, err := io.ReadFull(r, h.raw[4:]); err != nil {
		return nil, errors.New("not NIfTI: shorter than a header")
	}
	if size == 348 {
		return h, h.version1()
	}
	return h, h.version2()
}

func (h *header) i16(at int) int64 { return int64(int16(h.order.Uint16(h.raw[at:]))) }
func (h *header) i32(at int) int64 { return int64(int32(h.order.Uint32(h.raw[at:]))) }
func (h *header) i64(at int) int64 { return int64(h.order.Uint64(h.raw[at:])) }
func (h *header) f32(at int) float64 {
	return float64(math.Float32frombits(h.order.Uint32(h.raw[at:])))
}
func (h *header) f64(at int) float64 { return math.Float64frombits(h.order.Uint64(h.raw[at:])) }

// version1 reads the fields of nifti1.h.
func (h *header) version1() error {
	if m := string(h.raw[344:347]); m != "n+1" {
		return fmt.Errorf("not a single-file NIfTI-1: magic %q, want \"n+1\"", m)
	}
	for i := range 8 {
		h.dim[i], h.pixdim[i] = h.i16(40+2*i), h.f32(76+4*i)
	}
	h.datatype = int(h.i16(70))
	h.offset = int64(h.f32(108))
	h.slope, h.intercept = h.f32(112), h.f32(116)
	h.qform, h.sform = int(h.i16(252)), int(h.i16(254))
	for i := range 6 {
		h.quatern[i] = h.f32(256 + 4*i)
	}
	for i := range 12 {
		h.srow[i/4][i%4] = h.f32(280 + 4*i)
	}
	return nil
}

// version2 reads the fields of nifti2.h.
func (h *header) version2() error {
	if m := string(h.raw[4:7]); m != "n+2" {
		return fmt.Errorf("not a single-file NIfTI-2: magic %q, want \"n+2\"", m)
	}
	for i := range 8 {
		h.dim[i], h.pixdim[i] = h.i64(16+8*i), h.f64(104+8*i)
	}
	h.datatype = int(h.i16(12))
	h.offset = h.i64(168)
	h.slope, h.intercept = h.f64(176), h.f64(184)
	h.qform, h.sform = int(h.i32(344)), int(h.i32(348))
	for i := range 6 {
		h.quatern[i] = h.f64(352 + 8*i)
	}
	for i := range 12 {
		h.srow[i/4][i%4] = h.f64(400 + 8*i)
	}
	return nil
}

// decoder returns the function that reads one voxel of the header's datatype.
func (h *header) decoder() (func([]byte) float64, int, error) {
	o := h.order
	switch h.datatype {
	case 2:
		return func(b []byte) float64 { return float64(b[0]) }, 1, nil
	case 256:
		return func(b []byte) float64 { return float64(int8(b[0])) }, 1, nil
	case 4:
		return func(b []byte) float64 { return float64(int16(o.Uint16(b))) }, 2, nil
	case 512:
		return func(b []byte) float64 { return float64(o.Uint16(b)) }, 2, nil
	case 8:
		return func(b []byte) float64 { return float64(int32(o.Uint32(b))) }, 4, nil
	case 768:
		return func(b []byte) float64 { return float64(o.Uint32(b)) }, 4, nil
	case 1024:
		return func(b []byte) float64 { return float64(int64(o.Uint64(b))) }, 8, nil
	case 1280:
		return func(b []byte) float64 { return float64(o.Uint64(b)) }, 8, nil
	case 16:
		return func(b []byte) float64 { return float64(math.Float32frombits(o.Uint32(b))) }, 4, nil
	case 64:
		return func(b []byte) float64 { return math.Float64frombits(o.Uint64(b)) }, 8, nil
	}
	return nil, 0, fmt.Errorf("datatype %d, want an integer or floating-point type", h.datatype)
}

func (h *header) readVoxels(r io.Reader) (*Volume, error) {
	v := &Volume{}
	if h.dim[0] < 1 || h.dim[0] > 7 {
		return nil, fmt.Errorf("%d dimensions, want 1 to 7", h.dim[0])
	}
	total := int64(1)
	for i := range 7 {
		n := int64(1)
		if int64(i) < h.dim[0] {
			n = h.dim[i+1]
		}
		if n < 1 || n > maxVoxels/total {
			return nil, fmt.Errorf("size %v, want positive sides and at most %d voxels", h.dim[1:h.dim[0]+1], int64(maxVoxels))
		}
		if total *= n; i < 3 {
			v.Size[i] = int(n)
		} else if n > 1 {
			return nil, fmt.Errorf("size %v, want a single 3-D image", h.dim[1:h.dim[0]+1])
		}
	}
	decode, width, err := h.decoder()
	if err != nil {
		return nil, err
	}
	if err := h.geometry(v); err != nil {
		return nil, err
	}
	skip := h.offset - int64(len(h.raw))
	if skip < 0 || skip > 1<<30 {
		return nil, fmt.Errorf("voxels start at byte %d, want %d or more", h.offset, len(h.raw))
	}
	if _, err := io.CopyN(io.Discard, r, skip); err != nil {
		return nil, errors.New("cut short before the first voxel")
	}
	slope, intercept := h.slope, h.intercept
	if slope == 0 || math.IsNaN(slope) || math.IsInf(slope, 0) {
		slope, intercept = 1, 0 // nifti1.h: slope 0 means no scaling
	}
	if math.IsNaN(intercept) || math.IsInf(intercept, 0) {
		return nil, fmt.Errorf("scl_inter is %v", intercept)
	}
	buffer := make([]byte, width*(1<<14))
	for at := int64(0); at < total; {
		n := min(total-at, int64(len(buffer)/width))
		part := buffer[:n*int64(width)]
		if _, err := io.ReadFull(r, part); err != nil {
			return nil, fmt.Errorf("cut short: %d voxels, of which fewer than %d are there", total, at+n)
		}
		for k := range int(n) {
			value := decode(part[k*width:])*slope + intercept
			if math.IsNaN(value) {
				return nil, fmt.Errorf("voxel %d is NaN", at+int64(k))
			}
			if value != 0 {
				v.Indices, v.Values = append(v.Indices, int(at)+k), append(v.Values, value)
			}
		}
		at += n
	}
	return v, nil
}

// geometry fills in the affine: sform if there is one, else qform, else the
// voxel sizes alone (nifti1.h, methods 3, 2 and 1).
func (h *header) geometry(v *Volume) error {
	size := func(i int) float64 {
		if s := math.Abs(h.pixdim[i]); s > 0 {
			return s
		}
		return 1
	}
	switch {
	case h.sform > 0:
		v.affine = h.srow
	case h.qform > 0:
		b, c, d := h.quatern[0], h.quatern[1], h.quatern[2]
		a := math.Sqrt(max(0, 1-b*b-c*c-d*d))
		rotation := [3][3]float64{
			{a*a + b*b - c*c - d*d, 2 * (b*c - a*d), 2 * (b*d + a*c)},
			{2 * (b*c + a*d), a*a + c*c - b*b - d*d, 2 * (c*d - a*b)},
			{2 * (b*d - a*c), 2 * (c*d + a*b), a*a + d*d - b*b - c*c},
		}
		flip := 1.0
		if h.pixdim[0] < 0 {
			flip = -1
		}
		for i := range 3 {
			v.affine[i] = [4]float64{
				rotation[i][0] * size(1), rotation[i][1] * size(2), rotation[i][2] * size(3) * flip, h.quatern[3+i],
			}
		}
	default:
		for i := range 3 {
			v.affine[i][i] = size(i + 1)
		}
	}
	m := mat.NewDense(4, 4, nil)
	for i := range 3 {
		m.SetRow(i, v.affine[i][:])
	}
	m.Set(3, 3, 1)
	var inverse mat.Dense
	if err := inverse.Inverse(m); err != nil {
		return fmt.Errorf("the affine %v cannot be inverted", v.affine)
	}
	for i := range 3 {
		copy(v.inverse[i][:], inverse.RawRowView(i))
	}
	return nil
}

// Components returns the 26-connected components of the non-zero voxels, each
// as positions in Indices, in the order of their first voxel.
func (v *Volume) Components() [][]int {
	n := len(v.Indices)
	parent := make([]int, n)
	for i := range parent {
		parent[i] = i
	}
	root := func(i int) int {
		for parent[i] != i {
			parent[i] = parent[parent[i]]
			i = parent[i]
		}
		return i
	}
	nx, ny := v.Size[0], v.Size[1]
	for i, index := range v.Indices {
		x, y, z := index%nx, index/nx%ny, index/nx/ny
		// the 13 neighbours that come before in memory
		for _, o := range earlier {
			if x+o[0] < 0 || x+o[0] >= nx || y+o[1] < 0 || y+o[1] >= ny || z+o[2] < 0 {
				continue
			}
			k, found := slices.BinarySearch(v.Indices[:i], index+o[0]+nx*(o[1]+ny*o[2]))
			if !found {
				continue
			}
			a, b := root(i), root(k)
			parent[max(a, b)] = min(a, b)
		}
	}
	var out [][]int
	component := map[int]int{}
	for i := range v.Indices {
		r := root(i)
		c, known := component[r]
		if !known {
			c = len(out)
			component[r] = c
			out = append(out, nil)
		}
		out[c] = append(out[c], i)
	}
	return out
}

var earlier = func() (out [][3]int) {
	for z := -1; z <= 0; z++ {
		for y := -1; y <= 1; y++ {
			for x := -1; x <= 1; x++ {
				if z < 0 || y < 0 || y == 0 && x < 0 {
					out = append(out, [3]int{x, y, z})
				}
			}
		}
	}
	return out
}()

// Grid returns the volume without its voxels, to keep its geometry alone.
func (v *Volume) Grid() *Volume {
	return &Volume{Size: v.Size, affine: v.affine, inverse: v.inverse}
}

// SameGrid reports whether two volumes have equal sizes.
func (v *Volume) SameGrid(o *Volume) bool { return v.Size == o.Size }

// IsNIfTI reports whether a path has the ending of a NIfTI file.
func IsNIfTI(path string) bool {
	lower := strings.ToLower(path)
	return strings.HasSuffix(lower, ".nii") || strings.HasSuffix(lower, ".nii.gz")
}
