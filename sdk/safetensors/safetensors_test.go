package safetensors

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

func TestWriteThenReadGivesEqualTensors(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.safetensors")
	want := map[string]*tensor.Tensor{
		"b.weight": tensor.OfFloat32s([]float32{1, -2, float32(math.Inf(1)), 4, 5, 6}, 2, 3),
		"a":        tensor.OfInt64s([]int64{7}, 1),
		"empty":    tensor.OfFloat32s(nil, 0, 4),
	}
	if err := Write(path, want, map[string]string{"step": "3"}); err != nil {
		t.Fatal(err)
	}
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if diff := cmp.Diff([]string{"a", "b.weight", "empty"}, f.Names()); diff != "" {
		t.Error(diff)
	}
	if f.Metadata()["step"] != "3" {
		t.Errorf("metadata = %v", f.Metadata())
	}
	for name, w := range want {
		got, err := f.Tensor(name)
		if err != nil {
			t.Fatal(err)
		}
		if got.DType != w.DType || !bytes.Equal(got.Data, w.Data) || !cmp.Equal(got.Shape, w.Shape) {
			t.Errorf("%s = %v, want %v", name, got, w)
		}
	}
	entries, _ := os.ReadDir(filepath.Dir(path))
	if len(entries) != 1 {
		t.Errorf("temporary files left: %v", entries)
	}
}

func file(header string, data int) []byte {
	var b bytes.Buffer
	binary.Write(&b, binary.LittleEndian, uint64(len(header)))
	b.WriteString(header)
	b.Write(make([]byte, data))
	return b.Bytes()
}

func TestOpenRefusesBrokenFiles(t *testing.T) {
	cases := map[string][]byte{
		"empty":            {},
		"header too long":  file(`{}`, 0)[:9],
		"huge header":      append([]byte{0, 0, 0, 0, 0, 0, 0, 128}, '{', '}'),
		"not json":         file(`{]`, 0),
		"unknown dtype":    file(`{"a":{"dtype":"F99","shape":[1],"data_offsets":[0,4]}}`, 4),
		"negative size":    file(`{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}`, 4),
		"overflow":         file(`{"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,4]}}`, 4),
		"shape mismatch":   file(`{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}`, 4),
		"out of bounds":    file(`{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}`, 4),
		"gap":              file(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}`, 8),
		"overlap":          file(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}`, 4),
		"undescribed data": file(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}`, 8),
	}
	for name, content := range cases {
		path := filepath.Join(t.TempDir(), "x.safetensors")
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := Open(path)
		if err == nil {
			f.Close()
			t.Errorf("%s: accepted", name)
		} else if !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v is no ErrFormat", name, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(file(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}`, 4))
	f.Add(file(`{"__metadata__":{"k":"v"}}`, 0))
	f.Add([]byte{1, 2, 3})
	f.Fuzz(func(t *testing.T, content []byte) {
		file, err := parse(bytes.NewReader(content), int64(len(content)))
		if err != nil {
			return
		}
		for _, name := range file.Names() {
			got, err := file.Tensor(name)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if err := got.Check(); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
	})
}
