package tensor

import "slices"

// DType names an element type as the Open Inference Protocol does.
type DType string

// The dtypes of the stage protocol. What other formats call them stands in the table below.
const (
	Bool  DType = "BOOL"
	UInt8 DType = "UINT8"
	Int8  DType = "INT8"
	Int16 DType = "INT16"
	Int32 DType = "INT32"
	Int64 DType = "INT64"
	FP16  DType = "FP16"
	BF16  DType = "BF16"
	FP32  DType = "FP32"
	FP64  DType = "FP64"
	// Bytes elements are a uint32 length and that many bytes each.
	Bytes DType = "BYTES"
)

// Names are what a dtype of fixed size is called elsewhere.
type Names struct {
	DType DType
	// Size is the bytes of one element.
	Size int
	// Safetensors is the name in a safetensors header, NumPy the descr of an .npy header
	// ("" where NumPy has no such dtype).
	Safetensors, NumPy string
	// Torch is the attribute of the module torch, Storage the class of its pickled
	// storages, Scalar libtorch's number of it (c10::ScalarType).
	Torch, Storage string
	Scalar         int32
}

// table is the one place that knows every dtype of fixed size: all other code, the
// Python SDK's included, looks here.
var table = []Names{
	{Bool, 1, "BOOL", "|b1", "bool", "BoolStorage", 11},
	{UInt8, 1, "U8", "|u1", "uint8", "ByteStorage", 0},
	{Int8, 1, "I8", "|i1", "int8", "CharStorage", 1},
	{Int16, 2, "I16", "<i2", "int16", "ShortStorage", 2},
	{Int32, 4, "I32", "<i4", "int32", "IntStorage", 3},
	{Int64, 8, "I64", "<i8", "int64", "LongStorage", 4},
	{FP16, 2, "F16", "<f2", "float16", "HalfStorage", 5},
	{BF16, 2, "BF16", "", "bfloat16", "BFloat16Storage", 15},
	{FP32, 4, "F32", "<f4", "float32", "FloatStorage", 6},
	{FP64, 8, "F64", "<f8", "float64", "DoubleStorage", 7},
}

// DTypes returns every dtype of fixed size with its names.
func DTypes() []Names { return slices.Clone(table) }

// Names returns what d is called elsewhere; false for Bytes and for unknown dtypes.
func (d DType) Names() (Names, bool) { return find(func(n *Names) bool { return n.DType == d }) }

// FromSafetensors returns the dtype with a name of the safetensors format.
func FromSafetensors(name string) (Names, bool) {
	return find(func(n *Names) bool { return n.Safetensors == name })
}

// FromNumPy returns the dtype that an .npy header describes.
func FromNumPy(descr string) (Names, bool) {
	return find(func(n *Names) bool { return n.NumPy == descr && descr != "" })
}

// FromStorage returns the dtype of a pickled storage of a class of the module torch.
func FromStorage(class string) (Names, bool) {
	return find(func(n *Names) bool { return n.Storage == class })
}

// FromScalar returns the dtype with a number of libtorch's.
func FromScalar(number int32) (Names, bool) {
	return find(func(n *Names) bool { return n.Scalar == number })
}

func find(called func(*Names) bool) (Names, bool) {
	for i := range table {
		if called(&table[i]) {
			return table[i], true
		}
	}
	return Names{}, false
}

// Size returns the bytes of one element; 0 for Bytes and for unknown dtypes.
func (d DType) Size() int {
	for i := range table {
		if table[i].DType == d {
			return table[i].Size
		}
	}
	return 0
}

// Known reports whether d is one of the protocol's dtypes.
func (d DType) Known() bool { return d == Bytes || d.Size() > 0 }
