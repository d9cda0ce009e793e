// Package npz moves tensors to and from NumPy's .npz archives, so that a plugin's
// numbers can be compared with anything NumPy reads. Strings are BYTES tensors; BF16,
// which NumPy does not know, is written as float32.
package npz

import (
	"encoding/binary"
	"fmt"

	"github.com/alignedfusion/alignedfusion/internal/npz"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

// ErrFormat is wrapped when a file is not an archive of arrays that become tensors.
var ErrFormat = npz.ErrFormat

// Read reads all arrays of an archive by name.
func Read(path string) (map[string]*tensor.Tensor, error) {
	arrays, err := npz.Read(path)
	if err != nil {
		return nil, err
	}
	out := make(map[string]*tensor.Tensor, len(arrays))
	for name, a := range arrays {
		if out[name], err = toTensor(a); err != nil {
			return nil, fmt.Errorf("%s: array %q: %w", path, name, err)
		}
	}
	return out, nil
}

func toTensor(a *npz.Array) (*tensor.Tensor, error) {
	if a.Strings != nil {
		t := tensor.OfStrings(a.Strings...)
		t.Shape = a.Shape
		return t, nil
	}
	names, ok := tensor.FromNumPy(a.Type)
	if !ok {
		return nil, fmt.Errorf("%w: dtype %q is no tensor's; save x.astype(numpy.float32), say", ErrFormat, a.Type)
	}
	t, err := tensor.New(names.DType, a.Shape...)
	if err != nil {
		return nil, err
	}
	copy(t.Data, a.Data) // into memory that every typed view may use
	return t, nil
}

// Write writes tensors as an archive, whole or not at all.
func Write(path string, tensors map[string]*tensor.Tensor) error {
	arrays := make(map[string]*npz.Array, len(tensors))
	for name, t := range tensors {
		var err error
		if arrays[name], err = toArray(t); err != nil {
			return fmt.Errorf("%s: array %q: %w", path, name, err)
		}
	}
	return npz.Write(path, arrays)
}

func toArray(t *tensor.Tensor) (*npz.Array, error) {
	if err := t.Check(); err != nil {
		return nil, err
	}
	switch t.DType {
	case tensor.Bytes:
		values, err := t.Strings()
		return &npz.Array{Shape: t.Shape, Strings: append([]string{}, values...)}, err
	case tensor.BF16:
		return &npz.Array{Type: "<f4", Shape: t.Shape, Data: widen(t.Data)}, nil
	}
	names, _ := t.DType.Names()
	return &npz.Array{Type: names.NumPy, Shape: t.Shape, Data: t.Data}, nil
}

// widen turns BF16 into float32, exactly.
func widen(data []byte) []byte {
	out := make([]byte, 0, 2*len(data))
	for i := 0; i+1 < len(data); i += 2 {
		out = binary.LittleEndian.AppendUint32(out, uint32(binary.LittleEndian.Uint16(data[i:]))<<16)
	}
	return out
}
