package nifti

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"os"

	"github.com/alignedfusion/alignedfusion/internal/atomicfile"
)

// Image is a volume to be written. Exactly one of Int16 and Float32 is set; i runs
// fastest.
type Image struct {
	// Dim is the number of voxels along i, j, k.
	Dim [3]int
	// Affine maps i, j, k to mm towards right, anterior, superior (3 x 4).
	Affine  [12]float64
	Int16   []int16
	Float32 []float32
	// Note is kept in the header's descrip, at most 79 bytes.
	Note string
}

const (
	typeInt16, typeFloat32 = 4, 16
	// voxelOffset is a header of 348 bytes and four of no extension.
	voxelOffset = 352
	millimetres = 2
	// writtenAtOnce are the voxels that are turned into bytes together.
	writtenAtOnce = 1 << 18
	// scannerAnatomical is the code of a world frame that the scanner gave.
	scannerAnatomical = 1
)

// Write writes an uncompressed NIfTI-1 file, whole or not at all. Its voxels can be read
// slice by slice (OpenSlices).
func Write(path string, v *Image) error {
	voxels := v.Dim[0] * v.Dim[1] * v.Dim[2]
	kind, n := typeInt16, len(v.Int16)
	if v.Float32 != nil {
		kind, n = typeFloat32, len(v.Float32)
	}
	if n != voxels || min(v.Dim[0], v.Dim[1], v.Dim[2]) < 1 || max(v.Dim[0], v.Dim[1], v.Dim[2]) > math.MaxInt16 {
		return fmt.Errorf("%w: %d values for %d x %d x %d voxels", ErrFormat, n, v.Dim[0], v.Dim[1], v.Dim[2])
	}
	return atomicfile.Write(path, func(w io.Writer) error {
		b := bufio.NewWriterSize(w, 1<<20)
		if _, err := b.Write(v.header(kind)); err != nil {
			return err
		}
		for from := 0; from < n; from += writtenAtOnce { // all at once would take its bytes besides
			to := min(n, from+writtenAtOnce)
			var data any
			if v.Float32 != nil {
				data = v.Float32[from:to]
			} else {
				data = v.Int16[from:to]
			}
			if err := binary.Write(b, binary.LittleEndian, data); err != nil {
				return err
			}
		}
		return b.Flush()
	})
}

// header lays the fields out as nifti1.h has them.
func (v *Image) header(kind int) []byte {
	raw := make([]byte, voxelOffset)
	order := binary.LittleEndian
	float := func(at int, x float64) { order.PutUint32(raw[at:], math.Float32bits(float32(x))) }
	order.PutUint32(raw, 348)
	order.PutUint16(raw[40:], 3)
	float(76, 1)
	for axis := range 3 {
		order.PutUint16(raw[42+2*axis:], uint16(v.Dim[axis]))
		float(80+4*axis, math.Sqrt(v.Affine[axis]*v.Affine[axis]+v.Affine[4+axis]*v.Affine[4+axis]+v.Affine[8+axis]*v.Affine[8+axis]))
	}
	for k := 4; k <= 7; k++ {
		order.PutUint16(raw[40+2*k:], 1)
	}
	order.PutUint16(raw[70:], uint16(kind))
	order.PutUint16(raw[72:], uint16(8*voxelBytes(kind)))
	float(108, voxelOffset)
	float(112, 1)
	raw[123] = millimetres
	order.PutUint16(raw[254:], scannerAnatomical) // sform_code; there is no qform
	for k, x := range v.Affine {
		float(280+4*k, x)
	}
	copy(raw[148:227], v.Note)
	copy(raw[344:], "n+1\x00")
	return raw
}

// Note reads the descrip of a NIfTI-1 file that Write wrote, "" where there is none.
func Note(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	raw := make([]byte, 80)
	if _, err := f.ReadAt(raw, 148); err != nil {
		return ""
	}
	return string(bytes.TrimRight(raw, "\x00"))
}
