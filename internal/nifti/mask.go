package nifti

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"

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
	// Oriented says that the file places the voxels in space.
	Oriented bool
}

// VoxelOf returns the voxel indices of a point in millimetres (RAS).
func (m *Mask) VoxelOf(p [3]float64) [3]float64 { return Apply(&m.inverse, p) }

// PointOf returns the point in millimetres (RAS) of voxel indices.
func (m *Mask) PointOf(p [3]float64) [3]float64 { return Apply(&m.affine, p) }

// SpacingMM are the millimetres from one voxel to the next along x, y and z, to six digits:
// headers hold numbers of 32 bits.
func (m *Mask) SpacingMM() (mm [3]float64) {
	for a := range mm {
		length := math.Hypot(math.Hypot(m.affine[a], m.affine[4+a]), m.affine[8+a])
		mm[a], _ = strconv.ParseFloat(strconv.FormatFloat(length, 'g', 6, 64), 64) // what was just written
	}
	return mm
}

// Apply maps a point by a 3 x 4 matrix.
func Apply(m *[12]float64, p [3]float64) [3]float64 {
	var out [3]float64
	for i := range out {
		out[i] = float64(m[4*i]*p[0]) + float64(m[4*i+1]*p[1]) + float64(m[4*i+2]*p[2]) + m[4*i+3]
	}
	return out
}

// ReadMask reads the voxels other than 0 of a NIfTI file, of a pair .hdr and .img, of a
// MetaImage (.mha, .mhd) or of an NRRD (.nrrd, .nhdr). A voxel that is NaN and an orientation
// that cannot be inverted are errors: nothing could be compared.
func ReadMask(path string) (*Mask, error) {
	m, err := readVoxels(path, (*Header).mask)
	if errors.Is(err, ErrFormat) {
		err = fmt.Errorf("%s: %w", path, err)
	}
	return m, err
}

// mask reads the voxels behind a header.
func (h *Header) mask(counted *countingReader) (*Mask, error) {
	m := &Mask{Size: h.Dim, affine: h.Affine, Oriented: h.Oriented}
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
	return &Mask{Size: m.Size, affine: m.affine, inverse: m.inverse, Oriented: m.Oriented}
}

// SameGrid reports whether two masks have equal sizes and, where both say where they lie,
// equal places: no corner is farther from its like than a hundredth of a voxel.
func (m *Mask) SameGrid(o *Mask) bool {
	if m.Size != o.Size {
		return false
	}
	if !m.Oriented || !o.Oriented {
		return true
	}
	for corner := range 8 {
		var at [3]float64
		for a := range at {
			at[a] = float64((corner >> a & 1) * (m.Size[a] - 1))
		}
		back := m.VoxelOf(o.PointOf(at))
		for a := range at {
			if !(math.Abs(back[a]-at[a]) <= 0.01) {
				return false
			}
		}
	}
	return true
}

// Resampled returns the voxels of m whose nearest voxel in o is one of indices (ascending),
// by their places in space.
func (m *Mask) Resampled(o *Mask, indices []int) []int {
	nx, ny := o.Size[0], o.Size[1]
	low, high := [3]float64{math.Inf(1), math.Inf(1), math.Inf(1)}, [3]float64{math.Inf(-1), math.Inf(-1), math.Inf(-1)}
	for _, index := range indices {
		v := [3]float64{float64(index % nx), float64(index / nx % ny), float64(index / nx / ny)}
		for corner := range 8 {
			at := v
			for a := range at {
				at[a] += float64(corner>>a&1) - 0.5
			}
			at = m.VoxelOf(o.PointOf(at))
			for a := range at {
				low[a], high[a] = min(low[a], at[a]), max(high[a], at[a])
			}
		}
	}
	var first, last [3]int
	for a := range first {
		first[a], last[a] = int(math.Max(math.Floor(low[a]), 0)), int(math.Min(math.Ceil(high[a]), float64(m.Size[a]-1)))
	}
	var out []int
	for z := first[2]; z <= last[2]; z++ {
		for y := first[1]; y <= last[1]; y++ {
			for x := first[0]; x <= last[0]; x++ {
				p := o.VoxelOf(m.PointOf([3]float64{float64(x), float64(y), float64(z)}))
				if k, inside := o.index(p); inside {
					if _, found := slices.BinarySearch(indices, k); found {
						out = append(out, x+m.Size[0]*(y+m.Size[1]*z))
					}
				}
			}
		}
	}
	return out
}

// index is the linear index of the voxel nearest to p.
func (m *Mask) index(p [3]float64) (int, bool) {
	var v [3]int
	for a, x := range p {
		if !(x > -0.5 && x < float64(m.Size[a])-0.5) {
			return 0, false
		}
		v[a] = int(math.Round(x))
	}
	return v[0] + m.Size[0]*(v[1]+m.Size[1]*v[2]), true
}

// Where is the mask with the voxels whose value is wanted.
func (m *Mask) Where(want func(float64) bool) *Mask {
	out := m.Grid()
	for i, x := range m.Values {
		if want(x) {
			out.Indices, out.Values = append(out.Indices, m.Indices[i]), append(out.Values, x)
		}
	}
	return out
}

// Without is the mask less some voxels (ascending).
func (m *Mask) Without(indices []int) *Mask {
	out := m.Grid()
	for i, index := range m.Indices {
		if _, found := slices.BinarySearch(indices, index); !found {
			out.Indices, out.Values = append(out.Indices, index), append(out.Values, m.Values[i])
		}
	}
	return out
}

// Touch reports whether a voxel of a is one of b (ascending) or its neighbour.
func (m *Mask) Touch(a, b []int) bool {
	nx, ny := m.Size[0], m.Size[1]
	for _, index := range a {
		x, y, z := index%nx, index/nx%ny, index/nx/ny
		for k := max(z-1, 0); k <= min(z+1, m.Size[2]-1); k++ {
			for j := max(y-1, 0); j <= min(y+1, ny-1); j++ {
				for i := max(x-1, 0); i <= min(x+1, nx-1); i++ {
					if _, found := slices.BinarySearch(b, i+nx*(j+ny*k)); found {
						return true
					}
				}
			}
		}
	}
	return false
}
