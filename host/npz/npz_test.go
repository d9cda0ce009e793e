package npz

import (
	"errors"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/alignedfusion/alignedfusion/internal/npz"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

func TestReadWhatNumPyWrote(t *testing.T) {
	got, err := Read("../../internal/npz/testdata/all.npz")
	if err != nil {
		t.Fatal(err)
	}
	f32 := make([]float32, 24)
	for i := range f32 {
		f32[i] = float32(i) / 7
	}
	want := map[string]*tensor.Tensor{
		"f16":       {DType: tensor.FP16, Shape: []int64{1, 3}, Data: []byte{0x00, 0x38, 0x00, 0xc0, 0xff, 0x7b}},
		"f32":       tensor.OfFloat32s(f32, 2, 3, 4),
		"f64":       tensor.OfFloat64s([]float64{math.Pi, math.Inf(-1), math.NaN()}),
		"i8":        tensor.OfInt8s([]int8{-128, 127}, 1, 2),
		"i16":       {DType: tensor.Int16, Shape: []int64{2}, Data: []byte{0xd4, 0xfe, 0x2c, 0x01}},
		"i32":       tensor.OfInt32s([]int32{1 << 30}),
		"i64":       tensor.OfInt64s([]int64{-(1 << 60), 7}),
		"u8":        {DType: tensor.UInt8, Shape: []int64{2}, Data: []byte{0, 255}},
		"flag":      {DType: tensor.Bool, Shape: []int64{2}, Data: []byte{1, 0}},
		"text":      tensor.OfStrings("métastase", "", "肝"),
		"bytes":     tensor.OfStrings("liver", "ab"),
		"scalar":    {DType: tensor.FP32, Shape: []int64{}, Data: []byte{0, 0, 0x20, 0x40}},
		"empty":     {DType: tensor.FP32, Shape: []int64{0, 4}, Data: []byte{}},
		"tokens.ct": tensor.OfFloat32s([]float32{1, 1, 1, 1}, 1, 2, 2),
	}
	// NumPy's NaN is the quiet one of the platform; Go's has another payload.
	nan, _ := want["f64"].Float64s()
	gotNaN, err := got["f64"].Float64s()
	if err != nil || !math.IsNaN(gotNaN[2]) {
		t.Errorf("f64 is %v, error %v", gotNaN, err)
	} else {
		gotNaN[2] = nan[2]
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("arrays (-want +got):\n%s", diff)
	}
	if x, err := Read("../../internal/npz/testdata/compressed.npz"); err != nil || x["x"].String() != "FP32 [4 5]" {
		t.Errorf("compressed: %v, error %v", x, err)
	}
}

func TestWhatWeWriteNumPyReads(t *testing.T) {
	python := "/usr/bin/python3"
	if out, err := exec.Command(python, "-c", "import numpy").CombinedOutput(); err != nil {
		t.Skipf("no NumPy: %s", out)
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "x.npz")
	err := Write(path, map[string]*tensor.Tensor{
		"a.b":  tensor.OfFloat32s([]float32{1, 2, 3, 4, 5, 6}, 2, 3),
		"bf16": {DType: tensor.BF16, Shape: []int64{2}, Data: []byte{0x80, 0x3f, 0x20, 0xc0}},
		"text": tensor.OfStrings("é", "lung"),
		"n":    tensor.OfInt64s([]int64{-5}),
		"none": tensor.OfFloat32s(nil, 0, 4),
		"s":    {DType: tensor.FP64, Shape: []int64{}, Data: make([]byte, 8)},
	})
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(python, "-c", `
import numpy, sys
x = numpy.load(sys.argv[1])
for k in sorted(x): print(k, x[k].dtype, x[k].shape, x[k].tolist())`, path).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	want := `a.b float32 (2, 3) [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]
bf16 float32 (2,) [1.0, -2.5]
n int64 (1,) [-5]
none float32 (0, 4) []
s float64 () 0.0
text <U4 (2,) ['é', 'lung']
`
	if diff := cmp.Diff(want, string(out)); diff != "" {
		t.Error(diff)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Errorf("left behind: %v", entries)
	}
}

func TestArraysThatAreNoTensorsAreNamed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.npz")
	if err := npz.Write(path, map[string]*npz.Array{"odd": {Type: "<u4", Shape: []int64{1}, Data: make([]byte, 4)}}); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(path); !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), `array "odd"`) || !strings.Contains(err.Error(), "<u4") {
		t.Errorf("error %v, want one that names the array and its type", err)
	}
	if err := Write(path, map[string]*tensor.Tensor{"short": {DType: tensor.FP32, Shape: []int64{2}, Data: make([]byte, 4)}}); !errors.Is(err, tensor.ErrShape) {
		t.Errorf("error %v, want ErrShape", err)
	}
}
