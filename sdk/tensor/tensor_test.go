package tensor

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"pgregory.net/rapid"
)

func TestDTypesAreDistinctInEveryFormat(t *testing.T) {
	seen := map[any]bool{}
	for _, d := range DTypes() {
		for _, key := range []any{d.DType, "safetensors " + d.Safetensors, "numpy " + d.NumPy, "torch " + d.Torch, "storage " + d.Storage, d.Scalar} {
			if key != "numpy " && seen[key] {
				t.Errorf("%s: %v is another dtype's too", d.DType, key)
			}
			seen[key] = true
		}
		if d.Safetensors == "" || d.Torch == "" || d.Storage == "" {
			t.Errorf("%+v has an empty name", d)
		}
	}
	changed := DTypes()
	changed[0].Size = 99
	if Bool.Size() != 1 {
		t.Error("the table can be changed from outside")
	}
}

func TestSizesAreThoseOfTheTypes(t *testing.T) {
	for d, want := range map[DType]int{Bool: 1, UInt8: 1, Int8: 1, Int16: 2, Int32: 4, Int64: 8, FP16: 2, BF16: 2, FP32: 4, FP64: 8, Bytes: 0, "FP8": 0, "": 0} {
		if d.Size() != want {
			t.Errorf("%s has %d bytes, want %d", d, d.Size(), want)
		}
		if known := want > 0 || d == Bytes; d.Known() != known {
			t.Errorf("%q known: %v", d, d.Known())
		}
		if n, ok := d.Names(); ok != (want > 0) || n.Size != want {
			t.Errorf("%q: names %+v, %v", d, n, ok)
		}
	}
	// c10/core/ScalarType.h
	for d, want := range map[DType]int32{UInt8: 0, Int8: 1, Int16: 2, Int32: 3, Int64: 4, FP16: 5, FP32: 6, FP64: 7, Bool: 11, BF16: 15} {
		if n, _ := d.Names(); n.Scalar != want {
			t.Errorf("%s is %d in libtorch, want %d", d, n.Scalar, want)
		}
	}
	// NumPy's names end in the bytes.
	for _, d := range DTypes() {
		if digits := strings.TrimLeft(d.NumPy, "|<biuf"); d.NumPy != "" && digits != string(rune('0'+d.Size)) {
			t.Errorf("%s: %s in NumPy and %d bytes", d.DType, d.NumPy, d.Size)
		}
	}
}

func TestDTypesAreFoundByTheirNames(t *testing.T) {
	for _, d := range DTypes() {
		for format, found := range map[string]func() (Names, bool){
			"safetensors": func() (Names, bool) { return FromSafetensors(d.Safetensors) },
			"storage":     func() (Names, bool) { return FromStorage(d.Storage) },
			"scalar":      func() (Names, bool) { return FromScalar(d.Scalar) },
			"numpy":       func() (Names, bool) { return FromNumPy(d.NumPy) },
		} {
			n, ok := found()
			if want := format != "numpy" || d.DType != BF16; ok != want || ok && n != d {
				t.Errorf("%s by %s: %+v, %v", d.DType, format, n, ok)
			}
		}
	}
	if _, ok := FromSafetensors("FP32"); ok {
		t.Error("a name of another format is found")
	}
	if _, ok := FromScalar(8); ok {
		t.Error("a complex dtype is found")
	}
}

func TestElementsIsTheProduct(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		shape := rapid.SliceOfN(rapid.Int64Range(0, 50), 0, 5).Draw(t, "shape")
		want := int64(1)
		for _, d := range shape {
			want *= d
		}
		if got, err := Elements(shape); err != nil || got != want {
			t.Fatalf("%v has %d elements (%v), want %d", shape, got, err, want)
		}
	})
}

func TestElementsRefusesNegativeSizesAndOverflow(t *testing.T) {
	for _, c := range []struct {
		shape []int64
		want  int64 // -1: an error
	}{
		{nil, 1}, {[]int64{0}, 0}, {[]int64{-1}, -1}, {[]int64{3, -2}, -1}, {[]int64{0, -1}, -1},
		{[]int64{math.MaxInt64}, math.MaxInt64}, {[]int64{math.MaxInt64, 1}, math.MaxInt64}, {[]int64{math.MaxInt64, 2}, -1},
		{[]int64{1 << 31, 1 << 31}, 1 << 62}, {[]int64{1 << 32, 1 << 31}, -1}, {[]int64{math.MaxInt64 / 3, 3}, math.MaxInt64 / 3 * 3},
		{[]int64{math.MaxInt64/3 + 1, 3}, -1}, {[]int64{0, math.MaxInt64, math.MaxInt64}, 0},
	} {
		got, err := Elements(c.shape)
		if (err != nil) != (c.want < 0) || err == nil && got != c.want || err != nil && !errors.Is(err, ErrShape) {
			t.Errorf("%v: %d, %v; want %d", c.shape, got, err, c.want)
		}
	}
}

func TestNewIsZeroedAlignedAndOfTheRightSize(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := rapid.SampledFrom(DTypes()).Draw(t, "dtype")
		shape := rapid.SliceOfN(rapid.Int64Range(0, 7), 0, 4).Draw(t, "shape")
		n, _ := Elements(shape)
		x, err := New(d.DType, shape...)
		if err != nil {
			t.Fatal(err)
		}
		if x.DType != d.DType || !slices.Equal(x.Shape, shape) || len(x.Data) != int(n)*d.Size || x.Len() != int(n) {
			t.Fatalf("%s with %d bytes and %d elements, want %d", x, len(x.Data), x.Len(), n)
		}
		if slices.ContainsFunc(x.Data, func(b byte) bool { return b != 0 }) {
			t.Fatal("not zero")
		}
		if err := x.Check(); err != nil || !x.Aligned() {
			t.Fatalf("check %v, aligned %v", err, x.Aligned())
		}
		if len(x.Data) > 0 && uintptr(unsafe.Pointer(&x.Data[0]))%8 != 0 {
			t.Fatal("not aligned to eight bytes")
		}
		if len(shape) > 0 {
			shape[0]++
			if slices.Equal(x.Shape, shape) {
				t.Fatal("shares the shape it was given")
			}
		}
	})
}

func TestNewRefusesWhatHasNoSize(t *testing.T) {
	for _, c := range []struct {
		dtype DType
		shape []int64
		is    error
	}{
		{FP32, []int64{-1}, ErrShape}, {FP32, []int64{math.MaxInt64}, ErrShape}, {FP64, []int64{1 << 60, 1}, ErrShape},
		{Bytes, []int64{2}, nil}, {"FP8", []int64{2}, nil},
	} {
		x, err := New(c.dtype, c.shape...)
		if err == nil || x != nil || c.is != nil && !errors.Is(err, c.is) {
			t.Errorf("%s %v: %v, %v", c.dtype, c.shape, x, err)
		}
	}
}

func TestCheckComparesDataWithShape(t *testing.T) {
	for _, d := range DTypes() {
		for length, want := range map[int]bool{6 * d.Size: true, 6*d.Size - 1: false, 6*d.Size + 1: false, 0: false, 12 * d.Size: false} {
			x := &Tensor{DType: d.DType, Shape: []int64{2, 3}, Data: make([]byte, length)}
			if err := x.Check(); (err == nil) != want || err != nil && !errors.Is(err, ErrShape) {
				t.Errorf("%s in %d bytes: %v", x, length, err)
			}
		}
	}
	for _, x := range []*Tensor{
		{DType: "FP8", Shape: []int64{1}, Data: []byte{0}},
		{DType: FP32, Shape: []int64{-1}},
		{DType: FP64, Shape: []int64{1 << 61}}, // its bytes overflow to 0
		{DType: Bytes, Shape: []int64{1}},
		{DType: Bytes, Shape: []int64{-1}},
	} {
		if err := x.Check(); err == nil {
			t.Errorf("%s passes", x)
		}
	}
	if err := OfStrings("a", "").Check(); err != nil {
		t.Error(err)
	}
}

func TestLenOfABrokenShapeIsZero(t *testing.T) {
	if n := (&Tensor{Shape: []int64{-2}}).Len(); n != 0 {
		t.Errorf("%d", n)
	}
	if n := (&Tensor{}).Len(); n != 1 {
		t.Errorf("a scalar has %d elements", n)
	}
}

func TestStringIsDTypeAndShape(t *testing.T) {
	var none *Tensor
	for want, x := range map[string]*Tensor{"FP32 [2 256]": {DType: FP32, Shape: []int64{2, 256}}, "INT8 []": {DType: Int8}, "nothing": none} {
		if got := x.String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	if got := FormatShape([]string{"N", "256"}); got != "[N 256]" {
		t.Errorf("%q", got)
	}
	if got := FormatShape(nil); got != "[]" {
		t.Errorf("%q", got)
	}
}

func TestCloneSharesNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		data := rapid.SliceOf(rapid.Byte()).Draw(t, "data")
		x := &Tensor{DType: UInt8, Shape: []int64{int64(len(data))}, Data: data}
		y := x.Clone()
		if y.DType != x.DType || !slices.Equal(x.Shape, y.Shape) || !bytes.Equal(x.Data, y.Data) {
			t.Fatalf("%v and %v", x, y)
		}
		if len(data) > 0 && uintptr(unsafe.Pointer(&y.Data[0]))%8 != 0 {
			t.Fatal("not aligned to eight bytes")
		}
		y.Shape[0]++
		for i := range y.Data {
			y.Data[i]++
		}
		if x.Shape[0] != int64(len(data)) || len(data) > 0 && x.Data[0] == y.Data[0] {
			t.Fatal("the copy is the original")
		}
	})
}

// roundTrip checks that values go into a tensor and are seen in it, and that the view of
// another dtype is refused.
func roundTrip[E comparable](t *testing.T, dtype DType, values []E, of func([]E, ...int64) *Tensor, view func(*Tensor) ([]E, error)) {
	t.Helper()
	x := of(values)
	if x.DType != dtype || !slices.Equal(x.Shape, []int64{int64(len(values))}) || x.Check() != nil {
		t.Fatalf("%s of %d values: %v", x, len(values), x.Check())
	}
	got, err := view(x)
	if err != nil || !slices.Equal(got, values) {
		t.Fatalf("%s: %v (%v), want %v", dtype, got, err, values)
	}
	if len(values) > 0 {
		got[0] = values[len(values)-1]
		if again, _ := view(x); again[0] != values[len(values)-1] {
			t.Fatalf("%s: the view is a copy", dtype)
		}
		x = of(values)
		if kept := values[0]; true {
			values[0] = values[len(values)-1]
			if again, _ := view(x); again[0] != kept {
				t.Fatalf("%s: the tensor shares the values it was made of", dtype)
			}
			values[0] = kept
		}
	}
	if len(values)%2 == 0 {
		x = of(values, 2, int64(len(values)/2))
		if got, err := view(x); err != nil || !slices.Equal(got, values) || len(x.Shape) != 2 {
			t.Fatalf("%s: %v, %v", x, got, err)
		}
	}
	if err := of(values, int64(len(values)+1)).Check(); err == nil {
		t.Fatalf("%s: a shape that does not fit passes", dtype)
	}
	for _, d := range DTypes() {
		if d.DType == dtype {
			continue
		}
		other, err := New(d.DType, 1)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := view(other); err == nil || got != nil || !strings.Contains(err.Error(), "want "+string(dtype)) {
			t.Fatalf("a view of %s as %s: %v, %v", d.DType, dtype, got, err)
		}
	}
	if _, err := view(nil); err == nil || !strings.Contains(err.Error(), "nothing given") {
		t.Fatalf("a view of nothing: %v", err)
	}
	short := of(values)
	short.Shape = []int64{int64(len(values) + 1)}
	if _, err := view(short); !errors.Is(err, ErrShape) {
		t.Fatalf("a view of too little data: %v", err)
	}
}

func TestViewsShowWhatWasPutIn(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		bits := rapid.SliceOf(rapid.Int64()).Draw(rt, "values")
		roundTrip(t, Int64, bits, OfInt64s, (*Tensor).Int64s)
		roundTrip(t, Int32, mapped(bits, func(v int64) int32 { return int32(v) }), OfInt32s, (*Tensor).Int32s)
		roundTrip(t, Int8, mapped(bits, func(v int64) int8 { return int8(v) }), OfInt8s, (*Tensor).Int8s)
		roundTrip(t, FP32, mapped(bits, func(v int64) float32 { return float32(v) }), OfFloat32s, (*Tensor).Float32s)
		roundTrip(t, FP64, mapped(bits, func(v int64) float64 { return float64(v) }), OfFloat64s, (*Tensor).Float64s)
	})
	x, err := New(UInt8, 3)
	if err != nil {
		t.Fatal(err)
	}
	x.Data[1] = 200
	if got, err := x.UInt8s(); err != nil || !slices.Equal(got, []uint8{0, 200, 0}) {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := OfInt8s([]int8{1}).UInt8s(); err == nil {
		t.Error("INT8 as UINT8")
	}
}

func mapped[E any](values []int64, to func(int64) E) []E {
	out := make([]E, len(values))
	for i, v := range values {
		out[i] = to(v)
	}
	return out
}

func TestNumbersAreLittleEndian(t *testing.T) {
	if got := OfInt32s([]int32{0x01020304}).Data; !bytes.Equal(got, []byte{4, 3, 2, 1}) {
		t.Errorf("% x", got)
	}
	if got := binary.LittleEndian.Uint32(OfFloat32s([]float32{1.5}).Data); got != math.Float32bits(1.5) {
		t.Errorf("%x", got)
	}
}

func TestMisalignedDataIsRefused(t *testing.T) {
	backing, err := New(UInt8, 64)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range DTypes() {
		for shift := range 8 {
			x := &Tensor{DType: d.DType, Shape: []int64{2}, Data: backing.Data[shift : shift+2*d.Size]}
			if want := shift%d.Size == 0; x.Aligned() != want {
				t.Errorf("%s at %d: aligned %v", d.DType, shift, x.Aligned())
			}
		}
	}
	x := &Tensor{DType: FP32, Shape: []int64{1}, Data: backing.Data[2:6]}
	if _, err := x.Float32s(); err == nil || !strings.Contains(err.Error(), "aligned to 4 bytes") {
		t.Errorf("%v", err)
	}
	if empty := (&Tensor{DType: FP32, Shape: []int64{0}, Data: backing.Data[1:1]}); !empty.Aligned() {
		t.Error("nothing is not aligned")
	} else if got, err := empty.Float32s(); err != nil || got != nil {
		t.Errorf("a view of nothing: %v, %v", got, err)
	}
}

func TestStringsRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		values := rapid.SliceOf(rapid.String()).Draw(t, "values")
		x := OfStrings(values...)
		if x.DType != Bytes || x.Len() != len(values) {
			t.Fatalf("%s of %d", x, len(values))
		}
		got, err := x.Strings()
		if err != nil || !slices.Equal(got, values) {
			t.Fatalf("%q (%v), want %q", got, err, values)
		}
	})
	x := OfStrings("ab", "c")
	if want := []byte("\x02\x00\x00\x00ab\x01\x00\x00\x00c"); !bytes.Equal(x.Data, want) {
		t.Errorf("%q, want %q", x.Data, want)
	}
}

func TestBrokenStringsAreRefused(t *testing.T) {
	for _, x := range []*Tensor{
		{DType: Bytes, Shape: []int64{1}, Data: []byte{1, 0, 0}},
		{DType: Bytes, Shape: []int64{1}, Data: []byte{2, 0, 0, 0, 'a'}},
		{DType: Bytes, Shape: []int64{1}, Data: []byte{0xff, 0xff, 0xff, 0xff, 'a'}},
		{DType: Bytes, Shape: []int64{2}, Data: []byte{1, 0, 0, 0, 'a'}},
		{DType: Bytes, Shape: []int64{0}, Data: []byte{0, 0, 0, 0}},
		{DType: Bytes, Shape: []int64{-1}},
	} {
		if got, err := x.Strings(); !errors.Is(err, ErrShape) {
			t.Errorf("%q: %q, %v", x.Data, got, err)
		}
	}
	if _, err := OfInt8s([]int8{1}).Strings(); err == nil || !strings.Contains(err.Error(), "dtype is INT8, want BYTES") {
		t.Errorf("%v", err)
	}
	if got, err := (&Tensor{DType: Bytes, Shape: []int64{1, 1}, Data: []byte{0, 0, 0, 0}}).Strings(); err != nil || !slices.Equal(got, []string{""}) {
		t.Errorf("%q, %v", got, err)
	}
}
