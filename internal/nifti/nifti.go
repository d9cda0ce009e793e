// Package nifti reads volumes, NIfTI-1 and NIfTI-2 (.nii, .nii.gz, .hdr and .img), MetaImage
// (.mha, .mhd) and NRRD (.nrrd, .nhdr), with limits on what a header may claim: whole, turned for display ([Read]), or the voxels other
// than 0 as they are stored ([ReadMask]).
//
// The format is described in the NIfTI-1 data format document (nifti1.h).
package nifti

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
)

// Limits, checked before anything is allocated.
const (
	maxSide   = 1 << 14
	maxVoxels = 1 << 30 // of a whole volume 4 GiB; breast tomosynthesis has a third of it
	// maxInflation is the best ratio that gzip reaches.
	maxInflation = 1032
)

// ErrFormat is wrapped by every error about a file's content.
var ErrFormat = errors.New("nifti")

// Header is what a volume's header says.
type Header struct {
	// Dim is the number of voxels along i, j, k (i runs fastest in the file).
	Dim [3]int
	// PixDimMM is the distance of voxels along i, j, k; NaN and 0 as stored.
	PixDimMM [3]float64
	// Datatype is the NIfTI code: 2 uint8, 4 int16, 8 int32, 16 float32, 64 float64,
	// 256 int8, 512 uint16, 768 uint32, 1024 int64, 1280 uint64.
	Datatype int
	// Slope and Intercept turn stored values into intensities; 1 and 0 where the
	// header has no scaling (slope 0 or not finite).
	Slope, Intercept float64
	// Oriented says that the header places the volume in space.
	Oriented bool
	// Affine maps i, j, k to mm towards right, anterior, superior (3 x 4).
	Affine [12]float64
	// Files are those that hold the volume, of a pair or a header with its data beside it two.
	Files []string

	offset int64
	order  binary.ByteOrder
	// flat says that the header has an orientation which maps space to a plane.
	flat bool
}

// Frame is a volume turned for display: columns run to the patient's left, rows to
// the back, slices to the head. Without orientation the axes stay as stored.
type Frame struct {
	Width, Height, Depth int
	// SpacingMM is z, y, x; 0 where the header gives nothing usable.
	SpacingMM [3]float64
	// WorldRAS maps column, row, slice to mm towards right, anterior, superior.
	WorldRAS [12]float64

	// axis[a] is the stored axis (0 i, 1 j, 2 k) of column, row, slice; flip[a]
	// says that it runs the other way.
	axis [3]int
	flip [3]bool
}

// Volume is a decoded volume in its Frame.
type Volume struct {
	Frame
	// Data is [Depth, Height, Width] in the header's intensities; NaN stays NaN.
	Data []float32
}

// ReadHeader reads a file's header.
func ReadHeader(path string) (*Header, error) {
	h, err := readVoxels(path, func(h *Header, _ *countingReader) (*Header, error) { return h, nil })
	if err == nil && h.Files == nil {
		h.Files = []string{path}
	}
	return h, err
}

// SkewDegrees is how far from perpendicular its axes are, at most: 0 but for a tilted gantry or a
// sheared affine.
func (h *Header) SkewDegrees() float64 {
	most := 0.0
	for a := range 3 {
		b := (a + 1) % 3
		var dot, aa, bb float64
		for row := range 3 {
			x, y := h.Affine[4*row+a], h.Affine[4*row+b]
			dot, aa, bb = dot+float64(x*y), aa+float64(x*x), bb+float64(y*y)
		}
		if aa > 0 && bb > 0 {
			most = max(most, math.Abs(math.Asin(min(1, max(-1, dot/math.Sqrt(aa*bb)))))*180/math.Pi)
		}
	}
	return most
}

// Skewed are the degrees from which on a volume's axes are not perpendicular; headers round.
const Skewed = 0.1

// Read reads a file's volume.
func Read(path string) (*Volume, error) {
	return readVoxels(path, (*Header).volume)
}

// readVoxels reads a NIfTI file, a pair, a MetaImage or an NRRD: use is given the header and what
// follows it.
func readVoxels[T any](path string, use func(h *Header, r *countingReader) (*T, error)) (*T, error) {
	switch {
	case isMeta(path):
		return readMeta(path, use)
	case isPair(path):
		return readPair(path, use)
	case isNRRD(path):
		return readNRRD(path, use)
	}
	return readFile(path, func(r io.Reader, available int64) (*T, error) {
		return unpacked(r, available, use)
	})
}

// unpacked reads a NIfTI file from an unpacked stream.
func unpacked[T any](r io.Reader, available int64, use func(h *Header, r *countingReader) (*T, error)) (*T, error) {
	counted := &countingReader{r: r}
	h, err := parse(counted, available)
	if err != nil {
		return nil, err
	}
	return use(h, counted)
}

func readFile[T any](path string, read func(r io.Reader, available int64) (*T, error)) (*T, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	r, available, err := unpack(f, info.Size())
	if err != nil {
		return nil, err
	}
	return read(r, available)
}

// unpack opens gzip by its signature, whatever the file is called, and returns the
// most bytes that can follow.
func unpack(file io.Reader, size int64) (io.Reader, int64, error) {
	r := bufio.NewReaderSize(file, 1<<16)
	magic, err := r.Peek(2)
	if err != nil {
		return nil, 0, fmt.Errorf("%w: the file has %d bytes, a header has 348", ErrFormat, size)
	}
	if magic[0] != 0x1f || magic[1] != 0x8b {
		return r, size, nil
	}
	z, err := gzip.NewReader(r)
	if err != nil {
		return nil, 0, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	return bufio.NewReaderSize(z, 1<<16), size * maxInflation, nil
}

// parse reads a header of either version; available bounds what the file can hold.
func parse(r io.Reader, available int64) (*Header, error) {
	raw := make([]byte, 540)
	if _, err := io.ReadFull(r, raw[:348]); err != nil {
		return nil, fmt.Errorf("%w: the header is cut off: %w", ErrFormat, err)
	}
	h := &Header{}
	switch {
	case binary.LittleEndian.Uint32(raw) == 348 || binary.LittleEndian.Uint32(raw) == 540:
		h.order = binary.LittleEndian
	case binary.BigEndian.Uint32(raw) == 348 || binary.BigEndian.Uint32(raw) == 540:
		h.order = binary.BigEndian
	default:
		return nil, fmt.Errorf("%w: the file begins with % x, a header with its size 348 or 540", ErrFormat, raw[:4])
	}
	var fields rawFields
	if h.order.Uint32(raw) == 348 {
		if !bytes.Equal(raw[344:348], []byte("n+1\x00")) {
			return nil, fmt.Errorf("%w: magic is %q, want \"n+1\" (header and voxels in one file)", ErrFormat, raw[344:348])
		}
		fields = version1(raw, h.order)
	} else {
		if _, err := io.ReadFull(r, raw[348:]); err != nil {
			return nil, fmt.Errorf("%w: the header is cut off: %w", ErrFormat, err)
		}
		if !bytes.Equal(raw[4:8], []byte("n+2\x00")) {
			return nil, fmt.Errorf("%w: magic is %q, want \"n+2\" (header and voxels in one file)", ErrFormat, raw[4:8])
		}
		fields = version2(raw, h.order)
	}
	if err := h.set(fields); err != nil {
		return nil, err
	}
	return h, h.fits(available)
}

// rawFields are the parts of both header versions that matter here.
type rawFields struct {
	headerBytes      int64
	dim              [8]int64
	datatype         int
	pixdim           [8]float64
	offset           float64
	slope, intercept float64
	qform, sform     int
	quaternion       [3]float64
	qoffset          [3]float64
	srow             [12]float64
	units            int
}

// parsePair reads the header of a NIfTI-1 pair, or an Analyze 7.5 header, which has no orientation.
func parsePair(r io.Reader) (*Header, error) {
	raw := make([]byte, 348)
	if _, err := io.ReadFull(r, raw); err != nil {
		return nil, fmt.Errorf("%w: the header is cut off: %w", ErrFormat, err)
	}
	h := &Header{order: binary.LittleEndian}
	if binary.BigEndian.Uint32(raw) == 348 {
		h.order = binary.BigEndian
	} else if binary.LittleEndian.Uint32(raw) != 348 {
		return nil, fmt.Errorf("%w: the file begins with % x, a header with its size 348", ErrFormat, raw[:4])
	}
	f := version1(raw, h.order)
	f.headerBytes = 0
	if !bytes.Equal(raw[344:348], []byte("ni1\x00")) {
		f.qform, f.sform, f.slope, f.intercept = 0, 0, 0, 0
	}
	return h, h.set(f)
}

func version1(raw []byte, order binary.ByteOrder) rawFields {
	i16 := func(at int) int { return int(int16(order.Uint16(raw[at:]))) }
	f32 := func(at int) float64 { return float64(math.Float32frombits(order.Uint32(raw[at:]))) }
	f := rawFields{headerBytes: 348, datatype: i16(70), offset: f32(108), slope: f32(112), intercept: f32(116),
		qform: i16(252), sform: i16(254), units: int(raw[123])}
	for i := range 8 {
		f.dim[i], f.pixdim[i] = int64(i16(40+2*i)), f32(76+4*i)
	}
	for i := range 3 {
		f.quaternion[i], f.qoffset[i] = f32(256+4*i), f32(268+4*i)
	}
	for i := range 12 {
		f.srow[i] = f32(280 + 4*i)
	}
	return f
}

func version2(raw []byte, order binary.ByteOrder) rawFields {
	i64 := func(at int) int64 { return int64(order.Uint64(raw[at:])) }
	f64 := func(at int) float64 { return math.Float64frombits(order.Uint64(raw[at:])) }
	i32 := func(at int) int { return int(int32(order.Uint32(raw[at:]))) }
	f := rawFields{headerBytes: 540, datatype: int(int16(order.Uint16(raw[12:]))), offset: float64(i64(168)), slope: f64(176), intercept: f64(184),
		qform: i32(344), sform: i32(348), units: i32(500)}
	for i := range 8 {
		f.dim[i], f.pixdim[i] = i64(16+8*i), f64(104+8*i)
	}
	for i := range 3 {
		f.quaternion[i], f.qoffset[i] = f64(352+8*i), f64(376+8*i)
	}
	for i := range 12 {
		f.srow[i] = f64(400 + 8*i)
	}
	return f
}

func (h *Header) set(f rawFields) error {
	if f.dim[0] < 1 || f.dim[0] > 7 {
		return fmt.Errorf("%w: dim[0] is %d, want 1 to 7", ErrFormat, f.dim[0])
	}
	voxels := int64(1)
	for i := 1; i <= 7; i++ {
		n := int64(1)
		if int64(i) <= f.dim[0] {
			n = f.dim[i]
		}
		if n < 1 || n > maxSide {
			return fmt.Errorf("%w: dim[%d] is %d, want 1 to %d", ErrFormat, i, n, maxSide)
		}
		if i > 3 {
			if n != 1 {
				return fmt.Errorf("%w: dim[%d] is %d: a series of volumes, want one volume", ErrFormat, i, n)
			}
			continue
		}
		h.Dim[i-1] = int(n)
		voxels *= n
	}
	if voxels > maxVoxels {
		return fmt.Errorf("%w: %d x %d x %d voxels, at most %d are read", ErrFormat, h.Dim[0], h.Dim[1], h.Dim[2], maxVoxels)
	}
	h.Datatype = f.datatype
	if voxelBytes(f.datatype) == 0 {
		return fmt.Errorf("%w: datatype %d is not read; there are 2, 4, 8, 16, 64, 256, 512, 768, 1024, 1280 (integers, float32, float64)", ErrFormat, f.datatype)
	}
	if !(f.offset >= float64(f.headerBytes) && f.offset <= 1<<40) {
		return fmt.Errorf("%w: vox_offset is %g, want at least %d", ErrFormat, f.offset, f.headerBytes)
	}
	h.offset = int64(f.offset)
	h.Slope, h.Intercept = f.slope, f.intercept
	if h.Slope == 0 || math.IsNaN(h.Slope) || math.IsInf(h.Slope, 0) {
		h.Slope, h.Intercept = 1, 0
	}
	if math.IsNaN(h.Intercept) || math.IsInf(h.Intercept, 0) {
		return fmt.Errorf("%w: scl_inter is %v, want a finite number", ErrFormat, h.Intercept)
	}
	mm := 1.0
	switch f.units & 7 {
	case 1:
		mm = 1000 // metres
	case 3:
		mm = 0.001 // micrometres
	}
	for i := range 3 {
		h.PixDimMM[i] = math.Abs(f.pixdim[i+1]) * mm
	}
	h.orient(f, mm)
	return nil
}

// orient takes the sform where it is set, else the qform (nifti1.h, methods 3 and 2).
func (h *Header) orient(f rawFields, mm float64) {
	switch {
	case f.sform > 0:
		h.Affine = f.srow
	case f.qform > 0:
		h.Affine = quaternionAffine(f)
	default:
		h.Affine = [12]float64{h.PixDimMM[0], 0, 0, 0, 0, h.PixDimMM[1], 0, 0, 0, 0, h.PixDimMM[2], 0}
		return
	}
	for i := range h.Affine {
		h.Affine[i] *= mm
	}
	a := h.Affine
	det := a[0]*(a[5]*a[10]-a[6]*a[9]) - a[1]*(a[4]*a[10]-a[6]*a[8]) + a[2]*(a[4]*a[9]-a[5]*a[8])
	h.Oriented = !math.IsNaN(det) && !math.IsInf(det, 0) && math.Abs(det) > 1e-12
	if h.flat = !h.Oriented; h.flat {
		h.Affine = [12]float64{h.PixDimMM[0], 0, 0, 0, 0, h.PixDimMM[1], 0, 0, 0, 0, h.PixDimMM[2], 0}
	}
}

func quaternionAffine(f rawFields) [12]float64 {
	b, c, d := f.quaternion[0], f.quaternion[1], f.quaternion[2]
	a := math.Sqrt(max(0, 1-b*b-c*c-d*d))
	x, y, z := math.Abs(f.pixdim[1]), math.Abs(f.pixdim[2]), math.Abs(f.pixdim[3])
	if f.pixdim[0] < 0 { // qfac
		z = -z
	}
	return [12]float64{
		(a*a + b*b - c*c - d*d) * x, 2 * (b*c - a*d) * y, 2 * (b*d + a*c) * z, f.qoffset[0],
		2 * (b*c + a*d) * x, (a*a + c*c - b*b - d*d) * y, 2 * (c*d - a*b) * z, f.qoffset[1],
		2 * (b*d - a*c) * x, 2 * (c*d + a*b) * y, (a*a + d*d - b*b - c*c) * z, f.qoffset[2],
	}
}

// Frame tells how the volume is turned for display. Oblique volumes are turned to
// the nearest axes.
func (h *Header) Frame() Frame {
	f := Frame{axis: [3]int{0, 1, 2}}
	if h.Oriented {
		f.axis = h.nearestAxes()
		// Columns run left and rows run back: against right and anterior.
		for a, sign := range [3]float64{-1, -1, 1} {
			f.flip[a] = sign*h.Affine[4*a+f.axis[a]] < 0
		}
	}
	f.Width, f.Height, f.Depth = h.Dim[f.axis[0]], h.Dim[f.axis[1]], h.Dim[f.axis[2]]
	for a := range 3 {
		mm := h.PixDimMM[f.axis[a]]
		if h.Oriented {
			c := f.axis[a]
			mm = math.Sqrt(h.Affine[c]*h.Affine[c] + h.Affine[4+c]*h.Affine[4+c] + h.Affine[8+c]*h.Affine[8+c])
		}
		if !(mm > 0) || math.IsInf(mm, 0) {
			mm = 0
		}
		f.SpacingMM[2-a] = mm
	}
	for row := range 3 {
		f.WorldRAS[4*row+3] = h.Affine[4*row+3]
		for a := range 3 {
			v := h.Affine[4*row+f.axis[a]]
			if f.flip[a] {
				f.WorldRAS[4*row+3] += v * float64(h.Dim[f.axis[a]]-1)
				v = -v
			}
			f.WorldRAS[4*row+a] = v
		}
	}
	return f
}

// VoxelOf maps mm towards right, anterior, superior to column, row, slice.
func (f Frame) VoxelOf(p [3]float64) [3]float64 {
	a := f.WorldRAS
	x, y, z := p[0]-a[3], p[1]-a[7], p[2]-a[11]
	det := a[0]*(a[5]*a[10]-a[6]*a[9]) - a[1]*(a[4]*a[10]-a[6]*a[8]) + a[2]*(a[4]*a[9]-a[5]*a[8])
	return [3]float64{
		((a[5]*a[10]-a[6]*a[9])*x + (a[2]*a[9]-a[1]*a[10])*y + (a[1]*a[6]-a[2]*a[5])*z) / det,
		((a[6]*a[8]-a[4]*a[10])*x + (a[0]*a[10]-a[2]*a[8])*y + (a[2]*a[4]-a[0]*a[6])*z) / det,
		((a[4]*a[9]-a[5]*a[8])*x + (a[1]*a[8]-a[0]*a[9])*y + (a[0]*a[5]-a[1]*a[4])*z) / det,
	}
}

// steps tell where the first of the stored voxels lies in a displayed volume (axes 3) or
// slice (2), and where a step along each stored axis leads.
func (f *Frame) steps(dim [3]int, axes int) (start int, step [3]int) {
	strides := [3]int{1, f.Width, f.Width * f.Height}
	for a := range axes {
		c := f.axis[a]
		step[c] = strides[a]
		if f.flip[a] {
			start += strides[a] * (dim[c] - 1)
			step[c] = -strides[a]
		}
	}
	return start, step
}

// Hull is the box around the moved corners of a box.
func Hull(low, top [3]float64, move func(p [3]float64) [3]float64) (movedLow, movedTop [3]float64) {
	for a := range 3 {
		movedLow[a], movedTop[a] = math.Inf(1), math.Inf(-1)
	}
	for corner := range 8 {
		p := low
		for a := range 3 {
			if corner>>a&1 == 1 {
				p[a] = top[a]
			}
		}
		p = move(p)
		for a := range 3 {
			movedLow[a], movedTop[a] = min(movedLow[a], p[a]), max(movedTop[a], p[a])
		}
	}
	return movedLow, movedTop
}

// Frames are what coordinates may be in: indices of the voxels as a file stores them (0 is
// the centre of the first), mm towards left, posterior, head (DICOM, ITK), or towards right,
// anterior, superior (NIfTI).
var Frames = []string{"voxel", "lps", "ras"}

// ToRAS moves a point of one of the Frames to mm towards right, anterior, superior; affine
// does so for the stored voxels. Any other frame, "" too, is voxel.
func ToRAS(frame string, affine *[12]float64, p [3]float64) [3]float64 {
	switch frame {
	case "lps":
		return [3]float64{-p[0], -p[1], p[2]}
	case "ras":
		return p
	}
	return Apply(affine, p)
}

// nearestAxes pairs world axes with stored axes so that the sum of the direction
// cosines is largest.
func (h *Header) nearestAxes() [3]int {
	var norm [3]float64
	for c := range 3 {
		norm[c] = math.Sqrt(h.Affine[c]*h.Affine[c] + h.Affine[4+c]*h.Affine[4+c] + h.Affine[8+c]*h.Affine[8+c])
	}
	best, bestSum := [3]int{0, 1, 2}, math.Inf(-1)
	for _, p := range [6][3]int{{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}} {
		sum := 0.0
		for world, c := range p {
			sum += math.Abs(h.Affine[4*world+c]) / norm[c]
		}
		if sum > bestSum+1e-9 {
			best, bestSum = p, sum
		}
	}
	return best
}

func voxelBytes(datatype int) int {
	switch datatype {
	case 2, 256:
		return 1
	case 4, 512:
		return 2
	case 8, 16, 768:
		return 4
	case 64, 1024, 1280:
		return 8
	}
	return 0
}

// volume reads the voxels behind a header, turned to the header's frame.
func (h *Header) volume(counted *countingReader) (*Volume, error) {
	v := &Volume{Frame: h.Frame(), Data: make([]float32, h.Dim[0]*h.Dim[1]*h.Dim[2])}
	start, step := v.steps(h.Dim, 3)
	return v, h.rows(counted, func(j, k int, row []float64) error {
		to := start + k*step[2] + j*step[1]
		for _, x := range row {
			v.Data[to] = float32(x)
			to += step[0]
		}
		return nil
	})
}

// rows reads the voxels behind the header, row by row along i, as intensities.
func (h *Header) rows(r *countingReader, use func(j, k int, row []float64) error) error {
	if _, err := io.CopyN(io.Discard, r, h.offset-r.n); err != nil {
		return fmt.Errorf("%w: the file ends before its voxels: %w", ErrFormat, err)
	}
	size := voxelBytes(h.Datatype)
	raw, row := make([]byte, h.Dim[0]*size), make([]float64, h.Dim[0])
	for k := range h.Dim[2] {
		for j := range h.Dim[1] {
			if _, err := io.ReadFull(r, raw); err != nil {
				return fmt.Errorf("%w: the voxels are cut off after %d bytes: %w", ErrFormat, r.n, err)
			}
			for i := range row {
				row[i] = value(raw[i*size:], h.Datatype, h.order)*h.Slope + h.Intercept
			}
			if err := use(j, k, row); err != nil {
				return err
			}
		}
	}
	// gzip checks its sum at the end; what may follow the voxels is not ours.
	if _, err := io.CopyN(io.Discard, r, 1<<20); errors.Is(err, gzip.ErrChecksum) {
		return fmt.Errorf("%w: %w: the file is damaged", ErrFormat, err)
	}
	return nil
}

func value(b []byte, datatype int, order binary.ByteOrder) float64 {
	switch datatype {
	case 2:
		return float64(b[0])
	case 4:
		return float64(int16(order.Uint16(b)))
	case 8:
		return float64(int32(order.Uint32(b)))
	case 16:
		return float64(math.Float32frombits(order.Uint32(b)))
	case 64:
		return math.Float64frombits(order.Uint64(b))
	case 256:
		return float64(int8(b[0]))
	case 512:
		return float64(order.Uint16(b))
	case 768:
		return float64(order.Uint32(b))
	case 1024:
		return float64(int64(order.Uint64(b)))
	default: // 1280; parse lets nothing else pass
		return float64(order.Uint64(b))
	}
}

type countingReader struct {
	r io.Reader
	n int64
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}
