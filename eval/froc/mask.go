package froc

import (
	"cmp"
	"fmt"
	"math"
	"slices"
)

// Mask is a set of voxels of a grid, stored as runs along x. It is immutable.
type Mask struct {
	size     [3]int // nx, ny, nz
	runs     []run  // ascending, disjoint
	voxels   int
	centroid [3]float64

	low, high [3]float64 // the least and the greatest voxel along each axis
}

type run struct{ start, end int } // linear voxel indices x + nx*(y + ny*z), half open

// NewMask makes a mask of the grid of nx*ny*nz voxels from linear indices
// x + nx*(y + ny*z), which may come in any order and more than once. It returns
// an error when an index lies outside the grid.
func NewMask(nx, ny, nz int, indices []int) (*Mask, error) {
	if err := checkGrid(nx, ny, nz); err != nil {
		return nil, err
	}
	sorted := slices.Clone(indices)
	slices.Sort(sorted)
	var runs [][2]int
	for _, i := range sorted {
		if i < 0 || i >= nx*ny*nz {
			return nil, fmt.Errorf("voxel index %d lies outside the grid of %d x %d x %d", i, nx, ny, nz)
		}
		if n := len(runs); n > 0 && i < runs[n-1][1] {
			continue
		} else if n > 0 && i == runs[n-1][1] && i%nx != 0 {
			runs[n-1][1]++
		} else {
			runs = append(runs, [2]int{i, i + 1})
		}
	}
	return NewMaskOfRuns(nx, ny, nz, runs)
}

// NewMaskOfRuns is NewMask of runs along x: the first voxel of each and the one behind its
// last. They ascend, each within its row, and no two touch in one row.
func NewMaskOfRuns(nx, ny, nz int, runs [][2]int) (*Mask, error) {
	if err := checkGrid(nx, ny, nz); err != nil {
		return nil, err
	}
	m := &Mask{size: [3]int{nx, ny, nz}, runs: make([]run, len(runs))}
	var sum [3]int
	for k, r := range runs {
		start, n := r[0], r[1]-r[0]
		x, row := start%nx, start/nx
		switch {
		case start < 0 || n <= 0 || x+n > nx || row >= ny*nz:
			return nil, fmt.Errorf("voxels %d to %d are no run in a row of the grid of %d x %d x %d voxels", start, r[1], nx, ny, nz)
		case k > 0 && (start < runs[k-1][1] || start == runs[k-1][1] && x > 0):
			return nil, fmt.Errorf("the run from voxel %d begins before or right at the end of the one before, %d", start, runs[k-1][1])
		}
		m.runs[k] = run{start, r[1]}
		m.voxels += n
		sum[0] += n * (2*x + n - 1) / 2
		sum[1] += n * (row % ny)
		sum[2] += n * (row / ny)
	}
	m.low, m.high = m.bounds()
	if m.voxels > 0 {
		for a, s := range sum {
			m.centroid[a] = float64(s) / float64(m.voxels)
		}
	}
	return m, nil
}

func checkGrid(nx, ny, nz int) error {
	if nx <= 0 || ny <= 0 || nz <= 0 || ny > math.MaxInt/nx || nz > math.MaxInt/(nx*ny) {
		return fmt.Errorf("mask of %d x %d x %d voxels; every side must be positive and their product an int", nx, ny, nz)
	}
	return nil
}

// Voxels returns the number of voxels.
func (m *Mask) Voxels() int { return m.voxels }

// contains reports whether the voxel nearest to p (voxel indices) is in the mask.
func (m *Mask) contains(p [3]float64) bool {
	var v [3]int
	for a, x := range p {
		if !(x >= -0.5 && x < float64(m.size[a])-0.5) {
			return false
		}
		v[a] = int(x + 0.5)
	}
	i := v[0] + m.size[0]*(v[1]+m.size[1]*v[2])
	k, found := slices.BinarySearchFunc(m.runs, i, func(r run, i int) int { return cmp.Compare(r.start, i) })
	return found || k > 0 && i < m.runs[k-1].end
}

// intersection returns the number of voxels in both masks.
func (m *Mask) intersection(o *Mask) int {
	for a := range m.low {
		if m.low[a] > o.high[a] || o.low[a] > m.high[a] {
			return 0
		}
	}
	n := 0
	for i, j := 0, 0; i < len(m.runs) && j < len(o.runs); {
		a, b := m.runs[i], o.runs[j]
		if low, high := max(a.start, b.start), min(a.end, b.end); low < high {
			n += high - low
		}
		if a.end < b.end {
			i++
		} else {
			j++
		}
	}
	return n
}

// inBox counts the mask's voxels in a region's bounding box, and the voxels of its grid that
// the box covers. Voxel i reaches from i to i+1 as pixels do; with the +1 convention corners
// are the first and the last voxel. A planar region lies in the first slice.
func (m *Mask) inBox(r *Region, f *frame) (inter, size int) {
	low, high := r.Bounds()
	var first, end [3]int // half open
	size = 1
	for a := range first {
		l, h := math.Ceil(low[a]-0.5), math.Ceil(high[a]-0.5)
		switch {
		case a == 2 && (r.kind.planar() || r.kind == KindSliceBox):
			l, h = math.Ceil(low[a]-0.5-f.tolerance), math.Floor(high[a]+0.5+f.tolerance)+1
			if f.tolerance == 0 {
				h = l + 1
			}
		case f.plusOne == 1:
			l, h = math.Ceil(low[a]-0.5), math.Floor(high[a]+0.5)+1
		}
		first[a], end[a] = int(max(l, 0)), int(min(h, float64(m.size[a])))
		size *= max(0, end[a]-first[a])
	}
	if size == 0 {
		return 0, 0
	}
	nx, ny := m.size[0], m.size[1]
	for _, run := range m.runs {
		if z := run.start / nx / ny; z < first[2] || z >= end[2] {
			continue
		}
		if y := run.start / nx % ny; y < first[1] || y >= end[1] {
			continue
		}
		x := run.start % nx
		inter += max(0, min(x+run.end-run.start, end[0])-max(x, first[0]))
	}
	return inter, size
}

func (m *Mask) bounds() (low, high [3]float64) {
	first := true
	for _, r := range m.runs {
		y, z := r.start/m.size[0]%m.size[1], r.start/m.size[0]/m.size[1]
		a := [3]float64{float64(r.start % m.size[0]), float64(y), float64(z)}
		b := [3]float64{float64((r.end - 1) % m.size[0]), float64(y), float64(z)}
		if first {
			low, high, first = a, b, false
			continue
		}
		for k := range low {
			low[k], high[k] = min(low[k], a[k]), max(high[k], b[k])
		}
	}
	return low, high
}

func (m *Mask) compare(o *Mask) int {
	return slices.CompareFunc(m.runs, o.runs, func(a, b run) int {
		return cmp.Or(cmp.Compare(a.start, b.start), cmp.Compare(a.end, b.end))
	})
}
