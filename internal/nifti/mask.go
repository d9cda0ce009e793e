package nifti

import (
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"

	"gonum.org/v1/gonum/mat"
)

// Mask is a volume of which only the voxels other than 0 are kept, in the order in
// which they are stored: a label mask or a detection map.
type Mask struct {
	Size    [3]int // nx, ny, nz
	Indices []int  // linear indices x + nx*(y + ny*z) of the non-zero voxels, ascending
	Values  []float64
	affine  [12]float64 // voxel indices to millimetres, RAS
	inverse [12]float64
}

// VoxelOf returns the voxel indices of a point in millimetres (RAS).
func (m *Mask) VoxelOf(p [3]float64) [3]float64 { return Apply(&m.inverse, p) }

// PointOf returns the point in millimetres (RAS) of voxel indices.
func (m *Mask) PointOf(p [3]float64) [3]float64 { return Apply(&m.affine, p) }

// Apply maps a point by a 3 x 4 matrix.
func Apply(m *[12]float64, p [3]float64) [3]float64 {
	var out [3]float64
	for i := range out {
		out[i] = m[4*i]*p[0] + m[4*i+1]*p[1] + m[4*i+2]*p[2] + m[4*i+3]
	}
	return out
}

// ReadMask reads a file's voxels other than 0. A voxel that is NaN and an orientation
// that cannot be inverted are errors: nothing could be compared.
func ReadMask(path string) (*Mask, error) {
	m, err := readFile(path, readMask)
	if errors.Is(err, ErrFormat) {
		err = fmt.Errorf("%s: %w", path, err)
	}
	return m, err
}

func readMask(r io.Reader, available int64) (*Mask, error) {
	counted := &countingReader{r: r}
	h, err := parse(counted, available)
	if err != nil {
		return nil, err
	}
	m := &Mask{Size: h.Dim, affine: h.Affine}
	if err := m.invert(h); err != nil {
		return nil, err
	}
	return m, h.rows(counted, func(j, k int, row []float64) error {
		start := h.Dim[0] * (j + h.Dim[1]*k)
		for i, x := range row {
			if math.IsNaN(x) {
				return fmt.Errorf("%w: voxel %d is NaN", ErrFormat, start+i)
			}
			if x != 0 {
				m.Indices, m.Values = append(m.Indices, start+i), append(m.Values, x)
			}
		}
		return nil
	})
}

// invert makes the way back from space to voxels. Without an orientation, sides of
// unknown length count 1 mm.
func (m *Mask) invert(h *Header) error {
	if h.flat {
		return fmt.Errorf("%w: the orientation cannot be inverted", ErrFormat)
	}
	forward := mat.NewDense(4, 4, nil)
	for i := range 3 {
		if !h.Oriented && m.affine[5*i] == 0 {
			m.affine[5*i] = 1
		}
		forward.SetRow(i, m.affine[4*i:4*i+4])
	}
	forward.Set(3, 3, 1)
	var inverse mat.Dense
	if err := inverse.Inverse(forward); err != nil {
		return fmt.Errorf("%w: the orientation %v cannot be inverted", ErrFormat, m.affine)
	}
	for i := range 3 {
		copy(m.inverse[4*i:], inverse.RawRowView(i))
	}
	return nil
}

// Components returns the 26-connected components of the non-zero voxels, each
// as positions in Indices, in the order of their first voxel.
func (m *Mask) Components() [][]int {
	n := len(m.Indices)
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
	nx, ny := m.Size[0], m.Size[1]
	for i, index := range m.Indices {
		x, y, z := index%nx, index/nx%ny, index/nx/ny
		// the 13 neighbours that come before in memory
		for _, o := range earlier {
			if x+o[0] < 0 || x+o[0] >= nx || y+o[1] < 0 || y+o[1] >= ny || z+o[2] < 0 {
				continue
			}
			k, found := slices.BinarySearch(m.Indices[:i], index+o[0]+nx*(o[1]+ny*o[2]))
			if !found {
				continue
			}
			a, b := root(i), root(k)
			parent[max(a, b)] = min(a, b)
		}
	}
	var out [][]int
	component := map[int]int{}
	for i := range m.Indices {
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

// Grid returns the mask without its voxels, to keep its geometry alone.
func (m *Mask) Grid() *Mask {
	return &Mask{Size: m.Size, affine: m.affine, inverse: m.inverse}
}

// SameGrid reports whether two masks have equal sizes.
func (m *Mask) SameGrid(o *Mask) bool { return m.Size == o.Size }

// IsNIfTI reports whether a path has the ending of a NIfTI file.
func IsNIfTI(path string) bool {
	lower := strings.ToLower(path)
	return strings.HasSuffix(lower, ".nii") || strings.HasSuffix(lower, ".nii.gz")
}
