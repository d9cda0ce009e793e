package torchstage

import (
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"unsafe"

	"github.com/sugarme/gotch"
	lib "github.com/sugarme/gotch/libtch"
	"github.com/sugarme/gotch/ts"

	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

// FromTensor copies t into libtorch memory on the CPU.
func (s *Scope) FromTensor(t *tensor.Tensor) *ts.Tensor {
	named, ok := t.DType.Names()
	if !ok {
		s.Failf(sdk.InvalidArgument, "dtype %s is unknown to torch", t.DType)
		return s.void
	}
	return s.Do("from memory", func() (*ts.Tensor, error) {
		return copyIn(unsafe.Pointer(unsafe.SliceData(t.Data)), t.Shape, named, t.Data)
	})
}

// copyIn makes a tensor with a copy of the bytes at p; owner keeps them alive.
func copyIn(p unsafe.Pointer, shape []int64, dtype tensor.Names, owner any) (*ts.Tensor, error) {
	var none [1]int64
	if p == nil {
		p = unsafe.Pointer(&none)
	}
	dims := shape
	if len(dims) == 0 {
		dims = none[:0:1]
	}
	c := lib.AtTensorOfData(p, dims, uint(len(shape)), uint(dtype.Size), int(dtype.Scalar))
	runtime.KeepAlive(owner)
	if err := ts.TorchErr(); err != nil {
		return nil, err
	}
	return ts.New(c), nil
}

// upload copies an input into the host's memory, where it can be looked at, and from there to a
// device. A GPU fetches it by itself from memory that stays where it is; nobody waits.
func (s *Scope) upload(t *tensor.Tensor, device gotch.Device) (host, there *ts.Tensor) {
	host = s.onHost(t, device.Name != gotch.CPU.Name)
	return host, s.To(host, device)
}

// onHost is FromTensor, into pinned memory where that is asked for and can be had.
func (s *Scope) onHost(t *tensor.Tensor, pinned bool) *ts.Tensor {
	named, ok := t.DType.Names()
	if !pinned || !ok || len(t.Data) == 0 || s.err != nil {
		return s.FromTensor(t)
	}
	memory, err := ts.OfBlob(unsafe.Pointer(unsafe.SliceData(t.Data)), t.Shape, gotch.CKind2DType(named.Scalar))
	if err != nil {
		s.Fail(torchError("from memory", err))
		return s.void
	}
	out, err := memory.PinMemory(gotch.CudaBuilder(0), false)
	_ = memory.Drop()
	runtime.KeepAlive(t)
	if err != nil { // the system bounds it
		return s.FromTensor(t)
	}
	return s.Own(out)
}

// FromFloat32s copies values into a float tensor; without a shape it is one-dimensional.
func (s *Scope) FromFloat32s(values []float32, shape ...int64) *ts.Tensor {
	return s.fromSlice(tensor.OfFloat32s(values, shape...))
}

// FromInt64s copies values into an INT64 tensor; without a shape it is one-dimensional.
func (s *Scope) FromInt64s(values []int64, shape ...int64) *ts.Tensor {
	return s.fromSlice(tensor.OfInt64s(values, shape...))
}

// FromBools copies values into a boolean tensor.
func (s *Scope) FromBools(values []bool, shape ...int64) *ts.Tensor {
	data := make([]byte, len(values))
	for i, v := range values {
		if v {
			data[i] = 1
		}
	}
	if len(shape) == 0 {
		shape = []int64{int64(len(values))}
	}
	return s.fromSlice(&tensor.Tensor{DType: tensor.Bool, Shape: shape, Data: data})
}

func (s *Scope) fromSlice(t *tensor.Tensor) *ts.Tensor {
	if err := t.Check(); err != nil {
		s.Fail(err)
		return s.void
	}
	return s.FromTensor(t)
}

// ToTensor copies t out of libtorch, into memory that alloc gives (nil: Go memory).
func (s *Scope) ToTensor(t *ts.Tensor, alloc func(dtype tensor.DType, shape ...int64) (*tensor.Tensor, error)) *tensor.Tensor {
	if s.err != nil {
		return nil
	}
	named, ok := tensor.FromScalar(int32(t.DType().CKind()))
	if !ok {
		s.Failf(sdk.Internal, "a tensor of torch dtype %v cannot leave the plugin", t.DType())
		return nil
	}
	if alloc == nil {
		alloc = tensor.New
	}
	out, err := alloc(named.DType, s.Shape(t)...)
	if err != nil {
		s.Fail(err)
		return nil
	}
	reads.Add(1)
	s.copyOut(t, out.Data)
	return out
}

var reads atomic.Int64

// Reads counts how often this process has taken values out of libtorch, where a GPU lets the
// processor wait; inputs do not count, which lie in the host's memory as well.
func Reads() int64 { return reads.Load() }

// Given is the copy of an input in the host's memory, for what is checked there; another
// tensor is given back as it is.
func (s *Scope) Given(t *ts.Tensor) *ts.Tensor {
	if h := s.given[t]; h != nil {
		return h
	}
	return t
}

// Floats reads several tensors at once, row-major each: a GPU lets the processor wait once.
// Integers up to 2^53 are exact.
func (s *Scope) Floats(tensors ...*ts.Tensor) [][]float64 {
	out := make([][]float64, len(tensors))
	if len(tensors) == 0 {
		return out
	}
	flat := s.Sub(func(s *Scope) *ts.Tensor {
		var parts []*ts.Tensor
		for _, t := range tensors {
			parts = append(parts, s.Reshape(s.Cast(s.Detach(t), gotch.Double), -1))
		}
		return s.Cat(parts, 0)
	})
	all := s.Float64s(flat)
	for i, t := range tensors {
		n := elements(s.Shape(t))
		if s.err != nil {
			return make([][]float64, len(tensors))
		}
		out[i], all = all[:n:n], all[n:]
	}
	return out
}

// copyOut copies t's elements, row-major, to dst.
func (s *Scope) copyOut(t *ts.Tensor, dst []byte) {
	if len(dst) == 0 || s.err != nil {
		return
	}
	inner := &Scope{void: s.void}
	flat := inner.Contiguous(inner.To(inner.Detach(t), gotch.CPU))
	if inner.err == nil {
		p, err := flat.DataPtr()
		if err != nil {
			inner.err = torchError("data pointer", err)
		} else {
			copy(dst, unsafe.Slice((*byte)(p), len(dst)))
		}
	}
	for _, o := range inner.owned {
		_ = o.Drop()
	}
	s.Fail(inner.err)
}

// elements are those of a tensor of libtorch's, whose number fits.
func elements(shape []int64) int64 {
	n := int64(1)
	for _, d := range shape {
		n *= d
	}
	return n
}

func values[E any](s *Scope, t *ts.Tensor, dtype gotch.DType) []E {
	if s.err != nil {
		return nil
	}
	if h := s.given[t]; h != nil {
		t = h
	} else {
		reads.Add(1)
	}
	inner := &Scope{void: s.void}
	cast := inner.Cast(inner.Detach(t), dtype)
	n := elements(inner.Shape(cast))
	out := make([]E, n)
	if n > 0 {
		var e E
		inner.copyOut(cast, unsafe.Slice((*byte)(unsafe.Pointer(&out[0])), n*int64(unsafe.Sizeof(e))))
	}
	for _, o := range inner.owned {
		_ = o.Drop()
	}
	s.Fail(inner.err)
	return out
}

// Float32s copies t out as float32, row-major; nil after an error.
func (s *Scope) Float32s(t *ts.Tensor) []float32 { return values[float32](s, t, gotch.Float) }

// Float64s copies t out as float64, row-major; nil after an error.
func (s *Scope) Float64s(t *ts.Tensor) []float64 { return values[float64](s, t, gotch.Double) }

// Int64s copies t out as int64, row-major; nil after an error.
func (s *Scope) Int64s(t *ts.Tensor) []int64 { return values[int64](s, t, gotch.Int64) }

// Scalar reads a one-element tensor; 0 after an error.
func (s *Scope) Scalar(t *ts.Tensor) float64 {
	v := s.Float64s(t)
	if len(v) != 1 {
		if s.err == nil {
			s.Failf(sdk.Internal, "a scalar was expected, %d values found", len(v))
		}
		return 0
	}
	return v[0]
}

// parseDevice understands cpu, cuda and cuda:N.
func parseDevice(name string) (gotch.Device, error) {
	switch {
	case name == "" || name == "cpu":
		return gotch.CPU, nil
	case name == "cuda":
		return gotch.CudaBuilder(0), nil
	}
	number, found := strings.CutPrefix(name, "cuda:")
	n, err := strconv.ParseUint(number, 10, 8)
	if !found || err != nil {
		return gotch.CPU, refuseDevice("%q is no device, want cpu, cuda or cuda:N", name)
	}
	return gotch.CudaBuilder(uint(n)), nil
}

func refuseDevice(format string, args ...any) error {
	return &sdk.Error{Code: sdk.InvalidArgument, Setting: "device", Err: fmt.Errorf(format, args...), Advice: "see --device"}
}

// useDevice makes a device ready, or says in one line why it cannot be used: libtorch's
// own answer is its table of operators.
func useDevice(s *Scope, device gotch.Device, name string) error {
	if device.Name == gotch.CPU.Name {
		return nil
	}
	s.Zeros(device, 1)
	if s.err == nil {
		return nil
	}
	return refuseDevice("%s: %s", name, deviceProblem(s.err.Error()))
}

// deviceProblem is what libtorch's words about a device it cannot use come to.
func deviceProblem(text string) string {
	for _, sign := range []string{"from the 'CUDA' backend", "not linked with support for cuda", "not compiled with CUDA"} {
		if strings.Contains(text, sign) {
			return "this libtorch has no CUDA"
		}
	}
	text, _, _ = strings.Cut(text, "\nException raised from")
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return lines[0]
}
