// Package npz reads and writes NumPy's .npz archives of numbers and strings. Arrays that
// are Fortran-ordered or big-endian are turned while reading; what holds Python objects is
// refused with words on what to do.
package npz

import (
	"archive/zip"
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/sbinet/npyio/npy"

	"github.com/alignedfusion/alignedfusion/internal/atomicfile"
)

// ErrFormat is wrapped when a file is not an archive of arrays this package can take.
var ErrFormat = errors.New("not a usable .npz file")

// Array is one array of an archive.
type Array struct {
	// Type is NumPy's descr: "<f4", "|b1", …; of strings "<U12" or "|S12".
	Type  string
	Shape []int64
	// Data holds the numbers, C-ordered and little-endian; nil of strings.
	Data []byte
	// Strings holds the elements of an array of strings, nil of numbers.
	Strings []string
}

// Float reports whether the elements are floating-point numbers.
func (a *Array) Float() bool { return strings.HasPrefix(strings.TrimLeft(a.Type, "<|="), "f") }

// Numbers returns the elements as float64. Strings and complex numbers are errors.
func (a *Array) Numbers() ([]float64, error) {
	convert, ok := converters[strings.TrimLeft(a.Type, "<|=")]
	if !ok {
		return nil, fmt.Errorf("has the type %q, want a boolean, an integer, a float or a string", a.Type)
	}
	size, _, _ := layout(a.Type)
	out := make([]float64, int64(len(a.Data))/size)
	for i := range out {
		out[i] = convert(a.Data[int64(i)*size:])
	}
	return out, nil
}

var le = binary.LittleEndian

var converters = map[string]func([]byte) float64{
	"b1": func(b []byte) float64 { return float64(b[0]) },
	"u1": func(b []byte) float64 { return float64(b[0]) },
	"i1": func(b []byte) float64 { return float64(int8(b[0])) },
	"u2": func(b []byte) float64 { return float64(le.Uint16(b)) },
	"i2": func(b []byte) float64 { return float64(int16(le.Uint16(b))) },
	"u4": func(b []byte) float64 { return float64(le.Uint32(b)) },
	"i4": func(b []byte) float64 { return float64(int32(le.Uint32(b))) },
	"u8": func(b []byte) float64 { return float64(le.Uint64(b)) },
	"i8": func(b []byte) float64 { return float64(int64(le.Uint64(b))) },
	"f2": func(b []byte) float64 { return half(le.Uint16(b)) },
	"f4": func(b []byte) float64 { return float64(math.Float32frombits(le.Uint32(b))) },
	"f8": func(b []byte) float64 { return math.Float64frombits(le.Uint64(b)) },
}

// half is a float16: a sign, five bits of exponent, ten of fraction.
func half(bits uint16) float64 {
	sign, exponent, fraction := 1-2*float64(bits>>15), int(bits>>10&31), float64(bits&1023)
	switch {
	case exponent == 31 && fraction == 0:
		return math.Inf(int(sign))
	case exponent == 31:
		return math.NaN()
	case exponent == 0:
		return sign * math.Ldexp(fraction, -24)
	}
	return sign * math.Ldexp(1024+fraction, exponent-25)
}

// Archive is an open .npz file.
type Archive struct {
	path string
	zip  *zip.ReadCloser
}

// Open opens an archive. A file that is not there is os.ErrNotExist.
func Open(path string) (*Archive, error) {
	z, err := zip.OpenReader(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", path, ErrFormat, err)
	}
	return &Archive{path, z}, nil
}

// Close closes the file.
func (a *Archive) Close() error { return a.zip.Close() }

// Read returns the named array, nil when there is none.
func (a *Archive) Read(name string) (*Array, error) {
	i := slices.IndexFunc(a.zip.File, func(f *zip.File) bool { return f.Name == name+".npy" })
	if i < 0 {
		return nil, nil
	}
	out, err := readEntry(a.zip.File[i])
	if err != nil {
		return nil, fmt.Errorf("%s: array %q: %w", a.path, name, err)
	}
	return out, nil
}

// Read reads all arrays of a file by name.
func Read(path string) (map[string]*Array, error) {
	a, err := Open(path)
	if err != nil {
		return nil, err
	}
	defer a.Close()
	out := map[string]*Array{}
	for _, entry := range a.zip.File {
		name, ok := strings.CutSuffix(entry.Name, ".npy")
		if !ok {
			return nil, fmt.Errorf("%s: %w: entry %q is not an .npy array", path, ErrFormat, entry.Name)
		}
		if out[name], err = a.Read(name); err != nil {
			return nil, err
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%s: %w: it holds no array", path, ErrFormat)
	}
	return out, nil
}

func readEntry(entry *zip.File) (*Array, error) {
	present := entry.UncompressedSize64
	// deflate cannot expand more than 1032-fold: a greater claim is a damaged or hostile file
	if present > 1100*entry.CompressedSize64+1<<16 {
		return nil, fmt.Errorf("%w: it claims %d bytes in %d", ErrFormat, present, entry.CompressedSize64)
	}
	r, err := entry.Open()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	defer r.Close()
	buffered := bufio.NewReader(r)
	header, err := readHeader(buffered, int64(present))
	if err != nil {
		return nil, err
	}
	return readArray(buffered, header, int64(present))
}

// readHeader turns the panics with which the npy package meets a malformed header into
// errors, and refuses a header longer than the bytes there are before it allocates one.
func readHeader(r *bufio.Reader, present int64) (h npy.Header, err error) {
	if start, err := r.Peek(12); err == nil && start[6] > 1 {
		if length := int64(le.Uint32(start[8:])); length > present {
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

// layout returns the bytes of an element and, of strings, their kind: 'U' (UTF-32) or
// 'S' (bytes); ok is false for what is no such type.
func layout(descr string) (size int64, kind byte, ok bool) {
	code := strings.TrimLeft(descr, "<>|=")
	if len(code) < 2 {
		return 0, 0, false
	}
	n, err := strconv.ParseInt(code[1:], 10, 32)
	switch {
	case err != nil || n < 0:
		return 0, 0, false
	case code[0] == 'U':
		return 4 * n, 'U', true
	case code[0] == 'S':
		return n, 'S', true
	}
	return n, 0, n > 0 && strings.IndexByte("biuf", code[0]) >= 0
}

func readArray(r io.Reader, h npy.Header, present int64) (*Array, error) {
	a := &Array{Type: h.Descr.Type, Shape: make([]int64, len(h.Descr.Shape))}
	elements := int64(1)
	for i, n := range h.Descr.Shape {
		a.Shape[i] = int64(n)
		if n < 0 {
			return nil, fmt.Errorf("%w: negative size in %v", ErrFormat, h.Descr.Shape)
		}
		if n != 0 && elements > math.MaxInt64/int64(n) {
			return nil, fmt.Errorf("%w: %v overflows", ErrFormat, h.Descr.Shape)
		}
		elements *= int64(n)
	}
	size, kind, ok := layout(a.Type)
	switch {
	case !ok && strings.Contains(a.Type, "O"):
		return nil, fmt.Errorf("%w: the array holds Python objects, which reading would run; save numbers or strings: x.astype(numpy.float32), x.astype(str)", ErrFormat)
	case !ok:
		return nil, fmt.Errorf("%w: dtype %q, want numbers or strings; save x.astype(numpy.float32), say", ErrFormat, a.Type)
	case size > 0 && elements > present/size:
		return nil, fmt.Errorf("%w: shape %v needs %d bytes each, %d are there", ErrFormat, a.Shape, size, present)
	case kind != 0 && elements > present:
		return nil, fmt.Errorf("%w: %v strings in %d bytes", ErrFormat, a.Shape, present)
	}
	a.Data = make([]byte, elements*size)
	if err := fill(r, a.Data); err != nil {
		return nil, err
	}
	a.turn(h.Descr.Fortran, size, kind)
	if kind == 0 {
		return a, nil
	}
	a.Strings = make([]string, elements)
	for i := range a.Strings {
		text, ok := decode(a.Data[int64(i)*size:int64(i+1)*size], kind)
		if !ok {
			return nil, fmt.Errorf("%w: string %d holds no text", ErrFormat, i)
		}
		a.Strings[i] = text
	}
	a.Data = nil
	return a, nil
}

// turn makes data little-endian and C-ordered.
func (a *Array) turn(fortran bool, size int64, kind byte) {
	if strings.HasPrefix(a.Type, ">") {
		a.Type = "<" + a.Type[1:]
		unit := size
		if kind == 'U' {
			unit = 4
		}
		if kind != 'S' {
			for at := int64(0); at+unit <= int64(len(a.Data)) && unit > 1; at += unit {
				slices.Reverse(a.Data[at : at+unit])
			}
		}
	}
	if !fortran || len(a.Shape) < 2 || size == 0 {
		return
	}
	turned := make([]byte, 0, len(a.Data))
	place := make([]int64, len(a.Shape))
	for range int64(len(a.Data)) / size {
		from, stride := int64(0), int64(1)
		for k, n := range a.Shape {
			from += place[k] * stride
			stride *= n
		}
		turned = append(turned, a.Data[from*size:(from+1)*size]...)
		for k := len(place) - 1; k >= 0; k-- {
			if place[k]++; place[k] < a.Shape[k] {
				break
			}
			place[k] = 0
		}
	}
	a.Data = turned
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

// decode reads one string of NumPy's, which are padded with zeros.
func decode(cell []byte, kind byte) (string, bool) {
	if kind == 'S' {
		return string(bytes.TrimRight(cell, "\x00")), true
	}
	var b strings.Builder
	for k := 0; k < len(cell); k += 4 {
		c := le.Uint32(cell[k:])
		if c > utf8.MaxRune {
			return "", false
		}
		b.WriteRune(rune(c))
	}
	return strings.TrimRight(b.String(), "\x00"), true
}

// Write writes arrays as an archive, whole or not at all. Type is not needed of strings.
func Write(path string, arrays map[string]*Array) error {
	return atomicfile.Write(path, func(w io.Writer) error {
		archive := zip.NewWriter(w)
		for _, name := range slices.Sorted(maps.Keys(arrays)) {
			// Stored, not deflated: as numpy.savez does.
			entry, err := archive.CreateHeader(&zip.FileHeader{Name: name + ".npy", Method: zip.Store})
			if err != nil {
				return err
			}
			if err := writeArray(entry, arrays[name]); err != nil {
				return fmt.Errorf("array %q: %w", name, err)
			}
		}
		return archive.Close()
	})
}

func writeArray(w io.Writer, a *Array) error {
	descr, data := a.Type, a.Data
	if a.Strings != nil {
		descr, data = packStrings(a.Strings)
	}
	if size, _, ok := layout(descr); !ok || size < 1 {
		return fmt.Errorf("NumPy has no type %q", descr)
	}
	if _, err := w.Write(header(descr, a.Shape)); err != nil {
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
	out = le.AppendUint16(out, uint16(length))
	out = append(out, text...)
	for len(out) < fixed+length-1 {
		out = append(out, ' ')
	}
	return append(out, '\n')
}

func packStrings(values []string) (descr string, data []byte) {
	width := 1
	for _, v := range values {
		width = max(width, utf8.RuneCountInString(v))
	}
	data = make([]byte, 0, len(values)*width*4)
	for _, v := range values {
		end := len(data) + 4*width
		for _, c := range v {
			data = le.AppendUint32(data, uint32(c))
		}
		data = append(data, make([]byte, end-len(data))...)
	}
	return fmt.Sprintf("<U%d", width), data
}
