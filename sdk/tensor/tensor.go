// Package tensor holds the arrays that cross between host and plugins:
// row-major, contiguous, little-endian, named by the Open Inference Protocol's
// dtypes.
package tensor

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"unsafe"
)

// ErrShape is returned when a shape is negative, overflows or does not fit the data.
var ErrShape = errors.New("tensor: shape does not fit the data")

// Tensor is a dtype, a shape and the bytes of a row-major array. Data may lie in
// shared memory: then it is valid until the call (or its TRAIN context) ends.
type Tensor struct {
	DType DType
	Shape []int64
	Data  []byte
}

// Elements returns the product of shape (1 for a scalar).
// It fails with ErrShape for negative sizes and on overflow.
func Elements(shape []int64) (int64, error) {
	n := int64(1)
	for _, d := range shape {
		if d < 0 {
			return 0, fmt.Errorf("%w: negative size in %v", ErrShape, shape)
		}
		if d != 0 && n > math.MaxInt64/d {
			return 0, fmt.Errorf("%w: %v overflows", ErrShape, shape)
		}
		n *= d
	}
	return n, nil
}

// New returns a zeroed tensor. It fails with ErrShape for bad shapes and for Bytes.
func New(dtype DType, shape ...int64) (*Tensor, error) {
	n, err := Elements(shape)
	if err != nil {
		return nil, err
	}
	size := int64(dtype.Size())
	if size == 0 {
		return nil, fmt.Errorf("tensor: dtype %q has no fixed element size", dtype)
	}
	if n > math.MaxInt64/size {
		return nil, fmt.Errorf("%w: %v overflows", ErrShape, shape)
	}
	// Eight-byte backing keeps every typed view aligned.
	words := make([]uint64, (n*size+7)/8)
	var data []byte
	if len(words) > 0 {
		data = unsafe.Slice((*byte)(unsafe.Pointer(&words[0])), n*size)
	}
	return &Tensor{DType: dtype, Shape: slices.Clone(shape), Data: data}, nil
}

// Check reports whether dtype is known and the data's length fits the shape.
func (t *Tensor) Check() error {
	n, err := Elements(t.Shape)
	if err != nil {
		return err
	}
	if t.DType == Bytes {
		_, err := t.Strings()
		return err
	}
	size := int64(t.DType.Size())
	if size == 0 {
		return fmt.Errorf("tensor: unknown dtype %q", t.DType)
	}
	if n > math.MaxInt64/size || int64(len(t.Data)) != n*size {
		return fmt.Errorf("%w: %s %v holds %d bytes", ErrShape, t.DType, t.Shape, len(t.Data))
	}
	return nil
}

// Len returns the number of elements, 0 for an invalid shape.
func (t *Tensor) Len() int {
	n, err := Elements(t.Shape)
	if err != nil {
		return 0
	}
	return int(n)
}

// String is the form used in messages: FP32 [2 256].
func (t *Tensor) String() string {
	if t == nil {
		return "nothing"
	}
	return fmt.Sprintf("%s %v", t.DType, t.Shape)
}

// Clone copies the tensor into memory of its own.
func (t *Tensor) Clone() *Tensor {
	words := make([]uint64, (len(t.Data)+7)/8)
	var data []byte
	if len(words) > 0 {
		data = unsafe.Slice((*byte)(unsafe.Pointer(&words[0])), len(t.Data))
	}
	copy(data, t.Data)
	return &Tensor{DType: t.DType, Shape: slices.Clone(t.Shape), Data: data}
}

type element interface {
	~uint8 | ~int8 | ~int16 | ~int32 | ~int64 | ~float32 | ~float64
}

func view[E element](t *Tensor, want DType) ([]E, error) {
	if t == nil {
		return nil, fmt.Errorf("tensor: nothing given, want %s", want)
	}
	if t.DType != want {
		return nil, fmt.Errorf("tensor: dtype is %s, want %s", t.DType, want)
	}
	if err := t.Check(); err != nil {
		return nil, err
	}
	if len(t.Data) == 0 {
		return nil, nil
	}
	var e E
	size := int(unsafe.Sizeof(e))
	pointer := unsafe.Pointer(unsafe.SliceData(t.Data))
	if uintptr(pointer)%uintptr(size) != 0 {
		return nil, fmt.Errorf("tensor: %s data is not aligned to %d bytes", want, size)
	}
	return unsafe.Slice((*E)(pointer), len(t.Data)/size), nil
}

// Float32s views the data as float32 without copying; an error for another dtype.
func (t *Tensor) Float32s() ([]float32, error) { return view[float32](t, FP32) }

// Float64s views the data as float64 without copying; an error for another dtype.
func (t *Tensor) Float64s() ([]float64, error) { return view[float64](t, FP64) }

// Int64s views the data as int64 without copying; an error for another dtype.
func (t *Tensor) Int64s() ([]int64, error) { return view[int64](t, Int64) }

// Int32s views the data as int32 without copying; an error for another dtype.
func (t *Tensor) Int32s() ([]int32, error) { return view[int32](t, Int32) }

// Int8s views the data as int8 without copying; an error for another dtype.
func (t *Tensor) Int8s() ([]int8, error) { return view[int8](t, Int8) }

// UInt8s views the data as uint8 without copying; an error for another dtype.
func (t *Tensor) UInt8s() ([]uint8, error) { return view[uint8](t, UInt8) }

func of[E element](dtype DType, values []E, shape []int64) *Tensor {
	if len(shape) == 0 {
		shape = []int64{int64(len(values))}
	}
	t, err := New(dtype, shape...)
	if err != nil || t.Len() != len(values) {
		// A wrong literal shape is a bug of the caller; Check reports it where the tensor is used.
		t = &Tensor{DType: dtype, Shape: slices.Clone(shape)}
	}
	var e E
	if len(values) > 0 && len(t.Data) > 0 {
		copy(t.Data, unsafe.Slice((*byte)(unsafe.Pointer(&values[0])), len(values)*int(unsafe.Sizeof(e))))
	}
	return t
}

// OfFloat32s copies values into an FP32 tensor; without a shape it is one-dimensional.
// A shape that does not fit gives a tensor whose Check fails.
func OfFloat32s(values []float32, shape ...int64) *Tensor { return of(FP32, values, shape) }

// OfFloat64s copies values into an FP64 tensor, as OfFloat32s.
func OfFloat64s(values []float64, shape ...int64) *Tensor { return of(FP64, values, shape) }

// OfInt64s copies values into an INT64 tensor, as OfFloat32s.
func OfInt64s(values []int64, shape ...int64) *Tensor { return of(Int64, values, shape) }

// OfInt32s copies values into an INT32 tensor, as OfFloat32s.
func OfInt32s(values []int32, shape ...int64) *Tensor { return of(Int32, values, shape) }

// OfInt8s copies values into an INT8 tensor, as OfFloat32s.
func OfInt8s(values []int8, shape ...int64) *Tensor { return of(Int8, values, shape) }

// OfStrings packs values into a one-dimensional BYTES tensor.
func OfStrings(values ...string) *Tensor {
	var data []byte
	for _, v := range values {
		data = binary.LittleEndian.AppendUint32(data, uint32(len(v)))
		data = append(data, v...)
	}
	return &Tensor{DType: Bytes, Shape: []int64{int64(len(values))}, Data: data}
}

// Strings unpacks a BYTES tensor. It fails with ErrShape when lengths do not add up.
func (t *Tensor) Strings() ([]string, error) {
	if t.DType != Bytes {
		return nil, fmt.Errorf("tensor: dtype is %s, want %s", t.DType, Bytes)
	}
	want, err := Elements(t.Shape)
	if err != nil {
		return nil, err
	}
	var out []string
	rest := t.Data
	for len(rest) > 0 {
		if len(rest) < 4 {
			return nil, fmt.Errorf("%w: BYTES element without a length", ErrShape)
		}
		n := int64(binary.LittleEndian.Uint32(rest))
		if n > int64(len(rest)-4) {
			return nil, fmt.Errorf("%w: BYTES element of %d bytes, %d present", ErrShape, n, len(rest)-4)
		}
		out = append(out, string(rest[4:4+n]))
		rest = rest[4+n:]
	}
	if int64(len(out)) != want {
		return nil, fmt.Errorf("%w: %d BYTES elements, shape %v", ErrShape, len(out), t.Shape)
	}
	return out, nil
}

// FormatShape writes a shape of names and numbers as messages show it: [N 256].
func FormatShape(shape []string) string { return "[" + strings.Join(shape, " ") + "]" }

// Alignment in bytes of every tensor in shared memory.
const Alignment = 64

// Aligned reports whether the data starts at a multiple of the element size, which
// the typed views need.
func (t *Tensor) Aligned() bool {
	size := t.DType.Size()
	if size <= 1 || len(t.Data) == 0 {
		return true
	}
	return uintptr(unsafe.Pointer(unsafe.SliceData(t.Data)))%uintptr(size) == 0
}
