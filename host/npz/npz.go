// Package npz moves tensors to and from NumPy's .npz archives, so that a plugin's
// numbers can be compared with anything NumPy reads.
//
// Arrays are C-ordered and little-endian: bool, int8 to int64, uint8, float16, float32
// and float64, and strings, which are BYTES tensors. Everything else is refused with
// words on what to do. BF16, which NumPy does not know, is written as float32.
package npz

import (
	"archive/zip"
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"sort"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/sbinet/npyio/npy"

	"github.com/alignedfusion/alignedfusion/internal/atomicfile"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

// ErrFormat is returned when a file is not an archive of arrays this package can take.
var ErrFormat = errors.New("not a usable .npz file")

// Read reads all arrays of an archive by name.
func Read(path string) (map[string]*tensor.Tensor, error) {
	archive, err := zip.OpenReader(path)
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		return nil, fmt.Errorf("%s: %w: %w", path, ErrFormat, err)
	}
	defer archive.Close()
	out := map[string]*tensor.Tensor{}
	for _, entry := range archive.File {
		name, ok := strings.CutSuffix(entry.Name, ".npy")
		if !ok {
			return nil, fmt.Errorf("%s: %w: entry %q is not an .npy array", path, ErrFormat, entry.Name)
		}
		t, err := readEntry(entry)
		if err != nil {
			return nil, fmt.Errorf("%s: array %q: %w", path, name, err)
		}
		out[name] = t
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%s: %w: it holds no array", path, ErrFormat)
	}
	return out, nil
}

func readEntry(entry *zip.File) (*tensor.Tensor, error) {
	r, err := entry.Open()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	defer r.Close()
	buffered := bufio.NewReader(r)
	header, err := readHeader(buffered, int64(entry.UncompressedSize64))
	if err != nil {
		return nil, err
	}
	return readArray(buffered, header, int64(entry.UncompressedSize64))
}

// readHeader turns the panics with which the npy package meets a malformed header into
// errors, and refuses a header longer than the bytes there are before it allocates one.
func readHeader(r *bufio.Reader, present int64) (h npy.Header, err error) {
	if start, err := r.Peek(12); err == nil && start[6] > 1 {
		if length := int64(binary.LittleEndian.Uint32(start[8:])); length > present {
			return h, fmt.Errorf("%w: header of %d bytes in an array of %d", ErrFormat, length, present)
		}
	}
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: malformed header: %v", ErrFormat, p)
		}
	}()
	reader, err := npy.NewReader(r)
	if err != nil {
		return h, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	return reader.Header, nil
}

func readArray(r io.Reader, h npy.Header, present int64) (*tensor.Tensor, error) {
	shape := make([]int64, len(h.Descr.Shape))
	for i, n := range h.Descr.Shape {
		shape[i] = int64(n)
	}
	elements, err := tensor.Elements(shape)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	if h.Descr.Fortran && len(shape) > 1 {
		return nil, fmt.Errorf("%w: Fortran order; save numpy.ascontiguousarray(x)", ErrFormat)
	}
	if kind, width, ok := stringType(h.Descr.Type); ok {
		return readStrings(r, shape, elements, kind, width, present)
	}
	dtype, ok := tensor.FromNumPy(h.Descr.Type)
	if !ok {
		return nil, fmt.Errorf("%w: dtype %q, want bool, int8 to int64, uint8, float16 to float64 (little-endian) or strings; save x.astype(numpy.float32), say", ErrFormat, h.Descr.Type)
	}
	if size := int64(dtype.Size); elements > present/size {
		return nil, fmt.Errorf("%w: shape %v needs %d bytes or more, %d are there", ErrFormat, shape, elements, present)
	}
	t, err := tensor.New(dtype.DType, shape...)
	if err != nil {
		return nil, err
	}
	if err := fill(r, t.Data); err != nil {
		return nil, err
	}
	return t, nil
}

// fill reads exactly the array's bytes.
func fill(r io.Reader, data []byte) error {
	if _, err := io.ReadFull(r, data); err != nil {
		return fmt.Errorf("%w: truncated data: %w", ErrFormat, err)
	}
	if n, _ := io.Copy(io.Discard, io.LimitReader(r, 1)); n != 0 {
		return fmt.Errorf("%w: more bytes than the shape has", ErrFormat)
	}
	return nil
}

// stringType reads "<U12" (UTF-32) and "|S12" (bytes).
func stringType(descr string) (kind byte, width int64, ok bool) {
	if len(descr) < 3 || (descr[:2] != "<U" && descr[:2] != "|S") {
		return 0, 0, false
	}
	n, err := strconv.ParseInt(descr[2:], 10, 32)
	return descr[1], n, err == nil && n >= 0
}

func readStrings(r io.Reader, shape []int64, elements int64, kind byte, width, present int64) (*tensor.Tensor, error) {
	if kind == 'U' {
		width *= 4
	}
	if width > 0 && elements > present/width {
		return nil, fmt.Errorf("%w: shape %v of strings needs more than the %d bytes there are", ErrFormat, shape, present)
	}
	data := make([]byte, elements*width)
	if err := fill(r, data); err != nil {
		return nil, err
	}
	values := make([]string, elements)
	for i := range values {
		cell := data[int64(i)*width : int64(i+1)*width]
		if kind == 'S' {
			values[i] = string(bytes.TrimRight(cell, "\x00"))
			continue
		}
		var b strings.Builder
		for k := 0; k < len(cell); k += 4 {
			c := binary.LittleEndian.Uint32(cell[k:])
			if c > utf8.MaxRune {
				return nil, fmt.Errorf("%w: string %d holds no text", ErrFormat, i)
			}
			b.WriteRune(rune(c))
		}
		values[i] = strings.TrimRight(b.String(), "\x00")
	}
	t := tensor.OfStrings(values...)
	t.Shape = shape
	return t, nil
}

// Write writes tensors as an archive, whole or not at all: into a temporary file of the
// same folder, which then takes the name.
func Write(path string, tensors map[string]*tensor.Tensor) error {
	return atomicfile.Write(path, func(w io.Writer) error { return write(w, tensors) })
}

func write(w io.Writer, tensors map[string]*tensor.Tensor) error {
	buffered := bufio.NewWriterSize(w, 1<<20)
	archive := zip.NewWriter(buffered)
	names := make([]string, 0, len(tensors))
	for name := range tensors {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		// Stored, not deflated: as numpy.savez does.
		entry, err := archive.CreateHeader(&zip.FileHeader{Name: name + ".npy", Method: zip.Store})
		if err != nil {
			return err
		}
		if err := writeArray(entry, tensors[name]); err != nil {
			return fmt.Errorf("array %q: %w", name, err)
		}
	}
	return errors.Join(archive.Close(), buffered.Flush())
}

func writeArray(w io.Writer, t *tensor.Tensor) error {
	if err := t.Check(); err != nil {
		return err
	}
	descr, data := "", t.Data
	switch t.DType {
	case tensor.BF16:
		descr, data = "<f4", widen(t.Data)
	case tensor.Bytes:
		var err error
		if descr, data, err = packStrings(t); err != nil {
			return err
		}
	default:
		named, _ := t.DType.Names()
		descr = named.NumPy
	}
	if _, err := w.Write(header(descr, t.Shape)); err != nil {
		return err
	}
	_, err := w.Write(data)
	return err
}

// header is the start of an .npy file of format version 1.0, padded so that the data
// begin at a multiple of 64 bytes.
func header(descr string, shape []int64) []byte {
	var sizes strings.Builder
	for i, n := range shape {
		if i > 0 {
			sizes.WriteString(", ")
		}
		fmt.Fprint(&sizes, n)
	}
	if len(shape) == 1 {
		sizes.WriteByte(',')
	}
	text := fmt.Sprintf("{'descr': '%s', 'fortran_order': False, 'shape': (%s), }", descr, sizes.String())
	const fixed = 10 // magic, version, length
	length := (fixed+len(text)+1+63)/64*64 - fixed
	out := append(npy.Magic[:], 1, 0)
	out = binary.LittleEndian.AppendUint16(out, uint16(length))
	out = append(out, text...)
	for len(out) < fixed+length-1 {
		out = append(out, ' ')
	}
	return append(out, '\n')
}

// widen turns BF16 into float32, exactly.
func widen(data []byte) []byte {
	out := make([]byte, 0, 2*len(data))
	for i := 0; i+1 < len(data); i += 2 {
		out = binary.LittleEndian.AppendUint32(out, uint32(binary.LittleEndian.Uint16(data[i:]))<<16)
	}
	return out
}

func packStrings(t *tensor.Tensor) (string, []byte, error) {
	values, err := t.Strings()
	if err != nil {
		return "", nil, err
	}
	width := 1
	runes := make([][]rune, len(values))
	for i, v := range values {
		runes[i] = []rune(v)
		width = max(width, len(runes[i]))
	}
	if width > math.MaxInt32/4 {
		return "", nil, fmt.Errorf("a string of %d characters is too long", width)
	}
	data := make([]byte, 0, len(values)*width*4)
	for _, r := range runes {
		for _, c := range append(slices.Clone(r), make([]rune, width-len(r))...) {
			data = binary.LittleEndian.AppendUint32(data, uint32(c))
		}
	}
	return fmt.Sprintf("<U%d", width), data, nil
}
