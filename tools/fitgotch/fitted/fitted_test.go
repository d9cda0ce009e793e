// Package fitted_test checks what fitgotch changes and adds in gotch against
// the libtorch of this machine.
package fitted_test

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"unsafe"

	"github.com/sugarme/gotch"
	"github.com/sugarme/gotch/ts"
)

// TestMain keeps the tests' torch calls on one OS thread: errors and gradient
// mode are thread-local in libtorch.
func TestMain(m *testing.M) {
	if err := ts.SetNumThreads(1); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func lock(t *testing.T) {
	t.Helper()
	runtime.LockOSThread()
	t.Cleanup(runtime.UnlockOSThread)
}

func blob(t *testing.T, values []float32, shape ...int64) *ts.Tensor {
	t.Helper()
	view, err := ts.OfBlob(unsafe.Pointer(unsafe.SliceData(values)), shape, gotch.Float)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		view.Drop()
		runtime.KeepAlive(values)
	})
	return view
}

func values(t *testing.T, x *ts.Tensor) []float64 {
	t.Helper()
	n := x.Numel()
	out := make([]float64, n)
	wide, err := x.Totype(gotch.Double, false)
	if err != nil {
		t.Fatal(err)
	}
	defer wide.Drop()
	if n > 0 {
		if err := wide.CopyData(out, n); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

func equal(t *testing.T, got []float64, want ...float64) {
	t.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestOfBlobSharesMemoryWithItsOwner(t *testing.T) {
	lock(t)
	memory := make([]float32, 6)
	view := blob(t, memory, 2, 3)
	memory[4] = 7
	equal(t, values(t, view), 0, 0, 0, 0, 7, 0)
	address, err := view.DataPtrUnsafe()
	if err != nil || address != unsafe.Pointer(&memory[0]) {
		t.Errorf("DataPtrUnsafe = %v, %v; want the memory's own address", address, err)
	}
}

func TestOfBlobRefusesWhatItCannotWrap(t *testing.T) {
	lock(t)
	memory := make([]float32, 1)
	for name, call := range map[string]func() (*ts.Tensor, error){
		"negative size": func() (*ts.Tensor, error) {
			return ts.OfBlob(unsafe.Pointer(&memory[0]), []int64{2, -1}, gotch.Float)
		},
		"nil memory": func() (*ts.Tensor, error) { return ts.OfBlob(nil, []int64{2}, gotch.Float) },
		"no dtype":   func() (*ts.Tensor, error) { return ts.OfBlob(unsafe.Pointer(&memory[0]), nil, gotch.Invalid) },
	} {
		if x, err := call(); err == nil || x != nil {
			t.Errorf("%s: got %v, %v; want an error", name, x, err)
		}
	}
}

func TestDataPtrUnsafeRefusesStridedTensors(t *testing.T) {
	lock(t)
	view := blob(t, []float32{1, 2, 3, 4}, 2, 2)
	turned, err := view.Transpose(0, 1, false)
	if err != nil {
		t.Fatal(err)
	}
	defer turned.Drop()
	if _, err := turned.DataPtrUnsafe(); err == nil {
		t.Error("a transposed view has an address but not row-major values; want an error")
	}
}

func TestScalarShapesAndEmptyListsWork(t *testing.T) {
	lock(t)
	scalar := blob(t, []float32{5}) // shape []
	size, err := scalar.Size()
	if err != nil || len(size) != 0 {
		t.Fatalf("size of a scalar = %v, %v", size, err)
	}
	one := blob(t, []float32{5}, 1)
	reshaped, err := one.Reshape([]int64{}, false)
	if err != nil {
		t.Fatal(err)
	}
	defer reshaped.Drop()
	if d := reshaped.Dim(); d != 0 {
		t.Errorf("reshape to [] has %d dimensions", d)
	}
	equal(t, values(t, reshaped), 5)
}

func TestSizeAndStride(t *testing.T) {
	lock(t)
	view := blob(t, make([]float32, 24), 2, 3, 4)
	turned, err := view.Permute([]int64{2, 0, 1}, false)
	if err != nil {
		t.Fatal(err)
	}
	defer turned.Drop()
	size, err := turned.Size()
	if err != nil || fmt.Sprint(size) != "[4 2 3]" {
		t.Errorf("size = %v, %v", size, err)
	}
	stride, err := turned.Stride()
	if err != nil || fmt.Sprint(stride) != "[1 12 4]" {
		t.Errorf("stride = %v, %v", stride, err)
	}
}

func TestOperatorsWithSeveralResults(t *testing.T) {
	lock(t)
	view := blob(t, []float32{4, 1, 3, 2, 9, 8}, 2, 3)
	top, index, err := view.Topk(1, 1, true, true, false)
	if err != nil {
		t.Fatal(err)
	}
	defer top.Drop()
	defer index.Drop()
	equal(t, values(t, top), 4, 9)
	equal(t, values(t, index), 0, 1)
	parts, err := view.Split(2, 1)
	if err != nil {
		t.Fatal(err)
	}
	if len(parts) != 2 {
		t.Fatalf("%d parts, want 2", len(parts))
	}
	equal(t, values(t, parts[1]), 3, 8)
	for _, p := range parts {
		p.Drop()
	}
}

// leaf returns a tensor that records gradients.
func leaf(t *testing.T, data []float32, shape ...int64) *ts.Tensor {
	t.Helper()
	x, err := blob(t, data, shape...).SetRequiresGrad(true, false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { x.Drop() })
	return x
}

func TestBackwardWithGradientsIsAVectorJacobianProduct(t *testing.T) {
	lock(t)
	x := leaf(t, []float32{1, 2, 3}, 3)
	square, err := x.Mul(x, false)
	if err != nil {
		t.Fatal(err)
	}
	defer square.Drop()
	sum, err := x.Sum(gotch.Float, false)
	if err != nil {
		t.Fatal(err)
	}
	defer sum.Drop()
	incoming := blob(t, []float32{1, 10, 100}, 3)
	if err := ts.BackwardWithGradients([]*ts.Tensor{square, sum}, []*ts.Tensor{incoming, nil}, false); err != nil {
		t.Fatal(err)
	}
	gradient, err := x.Grad(false)
	if err != nil {
		t.Fatal(err)
	}
	defer gradient.Drop()
	equal(t, values(t, gradient), 2*1*1+1, 2*2*10+1, 2*3*100+1)
	if err := ts.BackwardWithGradients([]*ts.Tensor{square}, nil, false); err == nil {
		t.Error("one output and no gradients: want an error")
	}
}

func TestRunBackwardReturnsOneGradientPerInput(t *testing.T) {
	lock(t)
	x, y := leaf(t, []float32{2}, 1), leaf(t, []float32{5}, 1)
	product, err := x.Mul(y, false)
	if err != nil {
		t.Fatal(err)
	}
	defer product.Drop()
	gradients, err := ts.RunBackward([]*ts.Tensor{product}, []*ts.Tensor{x, y}, false, false)
	if err != nil {
		t.Fatal(err)
	}
	if len(gradients) != 2 {
		t.Fatalf("%d gradients, want 2", len(gradients))
	}
	equal(t, values(t, gradients[0]), 5)
	equal(t, values(t, gradients[1]), 2)
	for _, g := range gradients {
		g.Drop()
	}
}

func TestGradModeIsReportedAndRestored(t *testing.T) {
	lock(t)
	was, err := ts.SetGradEnabled(false)
	if err != nil || !was {
		t.Fatalf("gradients were recorded: %v, %v; want true", was, err)
	}
	ts.NoGrad(func() {})
	was, err = ts.SetGradEnabled(true)
	if err != nil || was {
		t.Errorf("after NoGrad inside a region without gradients: recording %v, %v; want false", was, err)
	}
}

func TestSameSeedSameNumbers(t *testing.T) {
	lock(t)
	draw := func() []float64 {
		if err := ts.ManualSeed(11); err != nil {
			t.Fatal(err)
		}
		x, err := ts.Randn([]int64{4}, gotch.Float, gotch.CPU)
		if err != nil {
			t.Fatal(err)
		}
		defer x.Drop()
		return values(t, x)
	}
	equal(t, draw(), draw()...)
}

func TestErrorsComeBack(t *testing.T) {
	lock(t)
	a := blob(t, make([]float32, 6), 2, 3)
	if _, err := a.Matmul(a, false); err == nil || !strings.Contains(err.Error(), "shapes cannot be multiplied") {
		t.Errorf("matmul of [2 3] and [2 3]: %v", err)
	}
}

// TestOperatorsDoNotLeak counts the resident memory of 200,000 small operators:
// unmended, each leaves 32 bytes behind, 6.4 MB in all.
func TestOperatorsDoNotLeak(t *testing.T) {
	lock(t)
	view := blob(t, make([]float32, 4), 4)
	churn := func(n int) {
		for range n {
			y, err := view.Relu(false)
			if err != nil {
				t.Fatal(err)
			}
			if err := y.Drop(); err != nil {
				t.Fatal(err)
			}
		}
		runtime.GC()
	}
	churn(50_000)
	before := residentKiB(t)
	churn(200_000)
	if grown := residentKiB(t) - before; grown > 3_000 {
		t.Errorf("resident memory grew by %d KiB over 200,000 operators", grown)
	}
}

func residentKiB(t *testing.T) int {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Skip(err)
	}
	for line := range strings.Lines(string(status)) {
		var kib int
		if n, _ := fmt.Sscanf(line, "VmRSS: %d kB", &kib); n == 1 {
			return kib
		}
	}
	t.Skip("no VmRSS in /proc/self/status")
	return 0
}

func TestDropFreesAScalarAtOnce(t *testing.T) {
	lock(t)
	before := len(ts.ExistingScalars)
	for range 1000 {
		if err := ts.FloatScalar(0.5).Drop(); err != nil {
			t.Fatal(err)
		}
	}
	if left := len(ts.ExistingScalars) - before; left > 0 {
		t.Errorf("%d of 1000 dropped scalars are still there", left)
	}
	c := ts.FloatScalar(2)
	for range 2 { // the second time does nothing
		if err := c.Drop(); err != nil {
			t.Fatal(err)
		}
	}
}

// On a CPU the lists are loops over the operators, bit for bit.
func TestForeachIsTheOperatorOnEachTensor(t *testing.T) {
	lock(t)
	was, err := ts.SetGradEnabled(false)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = ts.SetGradEnabled(was) }()
	fresh := func() (a, b []*ts.Tensor) {
		for i, n := range []int64{1, 7, 1000} {
			x, y := make([]float32, n), make([]float32, n)
			for k := range x {
				x[k], y[k] = float32(k%13)/7+0.1, float32(k%(i+5))/3+0.3
			}
			a, b = append(a, blob(t, x, n)), append(b, blob(t, y, n))
		}
		return a, b
	}
	c := ts.FloatScalar(0.3)
	defer func() { _ = c.Drop() }()
	for op, one := range map[string]func(a, b *ts.Tensor) (*ts.Tensor, error){
		"mul list":   func(a, b *ts.Tensor) (*ts.Tensor, error) { return a.Mul(b, false) },
		"add list":   func(a, b *ts.Tensor) (*ts.Tensor, error) { return a.Add(b, false) },
		"div list":   func(a, b *ts.Tensor) (*ts.Tensor, error) { return a.Div(b, false) },
		"mul number": func(a, _ *ts.Tensor) (*ts.Tensor, error) { return a.MulScalar(c, false) },
		"add number": func(a, _ *ts.Tensor) (*ts.Tensor, error) { return a.AddScalar(c, false) },
		"sqrt":       func(a, _ *ts.Tensor) (*ts.Tensor, error) { return a.Sqrt(false) },
		"norm":       func(a, _ *ts.Tensor) (*ts.Tensor, error) { return a.Norm(false) },
		"zero_":      func(a, _ *ts.Tensor) (*ts.Tensor, error) { return a, a.Zero_() },
		"mul_":       func(a, _ *ts.Tensor) (*ts.Tensor, error) { return a, a.MulScalar_(c) },
		"add_ list":  func(a, b *ts.Tensor) (*ts.Tensor, error) { return a, a.Add_(b) },
	} {
		name, of, _ := strings.Cut(op, " ")
		a, b := fresh()
		var right []*ts.Tensor
		if of == "list" {
			right = b
		}
		got, err := ts.Foreach(name, a, right, 0.3)
		if err != nil {
			t.Fatal(err)
		}
		inPlace := strings.HasSuffix(name, "_")
		if inPlace {
			got = a
		}
		a, b = fresh()
		for i := range a {
			want, err := one(a[i], b[i])
			if err != nil {
				t.Fatal(err)
			}
			equal(t, values(t, got[i]), values(t, want)...)
			if !inPlace {
				got[i].Drop()
				want.Drop()
			}
		}
	}
	a, b := fresh()
	for _, err := range []error{second(ts.Foreach("add_", a, b[:1], 0)), second(ts.Foreach("pow", a, nil, 2))} {
		if err == nil {
			t.Error("lists of two lengths, or an operator that is not there, want an error")
		}
	}
}

func second(_ []*ts.Tensor, err error) error { return err }
