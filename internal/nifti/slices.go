package nifti

import (
	"fmt"
	"os"
	"runtime"
)

// Slices reads an uncompressed volume slice by slice, turned as its Frame says. It is
// safe for use by several goroutines.
type Slices struct {
	Frame
	header *Header
	file   *os.File
}

// OpenSlices opens an uncompressed NIfTI file. It fails with ErrFormat for one that is
// compressed or whose stored slices are not the frame's: those are read whole (Read).
func OpenSlices(path string) (*Slices, error) {
	if !IsNIfTI(path) {
		return nil, fmt.Errorf("%w: only a NIfTI file is read by slices", ErrFormat)
	}
	h, err := ReadHeader(path)
	if err != nil {
		return nil, err
	}
	f := h.Frame()
	if f.axis[2] != 2 {
		return nil, fmt.Errorf("%w: the stored slices are not axial", ErrFormat)
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	var magic [2]byte
	if _, err := file.ReadAt(magic[:], 0); err != nil || magic[0] == 0x1f && magic[1] == 0x8b {
		file.Close()
		return nil, fmt.Errorf("%w: the file is compressed", ErrFormat)
	}
	return &Slices{f, h, file}, nil
}

// Close closes the file.
func (s *Slices) Close() error { return s.file.Close() }

// Release lets the file be closed once nobody reads it any more.
func (s *Slices) Release() { runtime.AddCleanup(s, func(f *os.File) { f.Close() }, s.file) }

// Read returns slice n as [Height, Width] in the header's intensities.
func (s *Slices) Read(n int) ([]float32, error) {
	if n < 0 || n >= s.Depth {
		return nil, fmt.Errorf("%w: slice %d is not in the volume of %d slices", ErrFormat, n, s.Depth)
	}
	h := s.header
	if s.flip[2] {
		n = s.Depth - 1 - n
	}
	size := voxelBytes(h.Datatype)
	raw := make([]byte, h.Dim[0]*h.Dim[1]*size)
	if _, err := s.file.ReadAt(raw, h.offset+int64(n)*int64(len(raw))); err != nil {
		return nil, fmt.Errorf("%w: the voxels are cut off: %w", ErrFormat, err)
	}
	start, step := s.steps(h.Dim, 2)
	out := make([]float32, h.Dim[0]*h.Dim[1])
	for j := range h.Dim[1] {
		to := start + j*step[1]
		for i := range h.Dim[0] {
			at := raw[(j*h.Dim[0]+i)*size:]
			var v float64
			if h.Datatype == typeInt16 {
				v = float64(int16(h.order.Uint16(at)))
			} else {
				v = value(at, h.Datatype, h.order)
			}
			out[to] = float32(v*h.Slope + h.Intercept)
			to += step[0]
		}
	}
	return out, nil
}
