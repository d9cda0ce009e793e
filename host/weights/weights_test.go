package weights

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/alignedfusion/alignedfusion/sdk/safetensors"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

// The state dict of testdata/make.py, written down by hand.
func want() map[string]*tensor.Tensor {
	var weight, transposed, slice []float32
	for i := range 24 {
		weight = append(weight, float32(i)/8)
	}
	for k := range 4 {
		for i := range 2 {
			for j := range 3 {
				transposed = append(transposed, float32(12*i+4*j+k)/8)
			}
		}
	}
	for i := range 2 {
		for j := 1; j < 3; j++ {
			for k := 0; k < 4; k += 2 {
				slice = append(slice, float32(12*i+4*j+k))
			}
		}
	}
	return map[string]*tensor.Tensor{
		"conv.weight":              tensor.OfFloat32s(weight, 2, 3, 4),
		"conv.transposed":          tensor.OfFloat32s(transposed, 4, 2, 3),
		"conv.slice":               tensor.OfFloat32s(slice, 2, 2, 2),
		"norm.half":                {DType: tensor.FP16, Shape: []int64{3}, Data: []byte{0x00, 0x3e, 0x80, 0xc0, 0xff, 0x7b}},
		"norm.bfloat":              {DType: tensor.BF16, Shape: []int64{3}, Data: []byte{0xc0, 0x3f, 0x10, 0xc0, 0x62, 0x7f}},
		"norm.double":              tensor.OfFloat64s([]float64{0.1}, 1),
		"norm.num_batches_tracked": {DType: tensor.Int64, Shape: []int64{}, Data: []byte{7, 0, 0, 0, 0, 0, 0, 0}},
		"flags":                    {DType: tensor.Bool, Shape: []int64{2}, Data: []byte{1, 0}},
		"bytes":                    {DType: tensor.UInt8, Shape: []int64{2}, Data: []byte{1, 255}},
		"empty":                    {DType: tensor.FP32, Shape: []int64{0, 3}},
	}
}

func imported(t *testing.T, name string) (map[string]*tensor.Tensor, *Report) {
	t.Helper()
	out := filepath.Join(t.TempDir(), "out.safetensors")
	report, err := Import(filepath.Join("testdata", name), out)
	if err != nil {
		t.Fatal(err)
	}
	f, err := safetensors.Open(out)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got := map[string]*tensor.Tensor{}
	for _, n := range f.Names() {
		if got[n], err = f.Tensor(n); err != nil {
			t.Fatal(err)
		}
	}
	return got, report
}

func TestImportReadsBothLayoutsOfTorchSave(t *testing.T) {
	for _, name := range []string{"zip.pth", "legacy.pth", "training.pth"} {
		t.Run(name, func(t *testing.T) {
			got, report := imported(t, name)
			for n, w := range want() {
				g := got[n]
				if g == nil {
					t.Errorf("%s is missing", n)
					continue
				}
				if g.String() != w.String() || !bytes.Equal(g.Data, w.Data) {
					t.Errorf("%s is %v % x, want %v % x", n, g, g.Data, w, w.Data)
				}
			}
			if len(got) != len(want()) {
				t.Errorf("%d tensors, want %d", len(got), len(want()))
			}
			if name == "training.pth" {
				if diff := cmp.Diff([]string{"meta", "optimizer"}, report.Skipped); diff != "" {
					t.Error(diff)
				}
			}
		})
	}
}

func TestImportRefusesWhatIsNotPlainData(t *testing.T) {
	for name, part := range map[string]string{
		"evil.pth":   `"posix.system"`,
		"module.pth": "torch.nn.modules.linear.Linear",
	} {
		out := filepath.Join(t.TempDir(), "out.safetensors")
		_, err := Import(filepath.Join("testdata", name), out)
		if !errors.Is(err, ErrUnsafe) || !strings.Contains(err.Error(), part) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v, want ErrUnsafe that names the file and %s", name, err, part)
		}
		if _, err := os.Stat(out); err == nil {
			t.Errorf("%s: a file was written", name)
		}
	}
	if _, err := os.Stat("owned"); err == nil {
		t.Error("the pickle was executed")
	}
}

func TestImportRefusesWhatHoldsNoWeights(t *testing.T) {
	for _, name := range []string{"list.pth", "plain.pkl", "make.py"} {
		if _, err := Import(filepath.Join("testdata", name), filepath.Join(t.TempDir(), "x")); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v, want ErrFormat", name, err)
		}
	}
}

func TestTruncatedCheckpointsAreErrors(t *testing.T) {
	for _, name := range []string{"zip.pth", "legacy.pth"} {
		data, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			t.Fatal(err)
		}
		for n := 0; n < len(data); n += 1 + len(data)/200 {
			if _, err := parseTorch(bytes.NewReader(data[:n]), int64(n)); err == nil {
				t.Errorf("%s cut to %d of %d bytes is accepted", name, n, len(data))
			}
		}
	}
}

func TestReadCountsWhatIsNotFinite(t *testing.T) {
	r, err := Read(filepath.Join("testdata", "nan.pth"))
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Entries) != 1 || r.Entries[0].NonFinite != 2 {
		t.Errorf("%+v, want one tensor with two elements that are not finite", r.Entries)
	}
	halves := &tensor.Tensor{DType: tensor.FP16, Shape: []int64{3}, Data: []byte{0, 0x7c, 1, 0xfc, 0xff, 0x7b}}
	brains := &tensor.Tensor{DType: tensor.BF16, Shape: []int64{3}, Data: []byte{0x80, 0x7f, 0xc0, 0xff, 0x7f, 0x7f}}
	if a, b := nonFinite(halves), nonFinite(brains); a != 2 || b != 2 {
		t.Errorf("%d halves and %d bfloats are not finite, want 2 and 2", a, b)
	}
}

func FuzzParseTorch(f *testing.F) {
	for _, name := range []string{"zip.pth", "legacy.pth", "training.pth", "evil.pth", "plain.pkl"} {
		data, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		value, err := parseTorch(bytes.NewReader(data), int64(len(data)))
		if err != nil {
			return
		}
		if tensors, _, err := stateDict(value); err == nil {
			for name, x := range tensors {
				if err := x.Check(); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
		}
	})
}
