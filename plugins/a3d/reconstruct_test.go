package a3d

import (
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/alignedfusion/alignedfusion/plugins/internal/stagetest"
	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
	"github.com/alignedfusion/alignedfusion/sdk/torchstage"
)

// openDrawing is an encoder that hides squares, and the head that draws them.
func openDrawing(t testing.TB, share string) *detector {
	t.Helper()
	d := &detector{t: t}
	request := sdk.OpenRequest{Stage: "encoder", Settings: sdk.Settings{"slices": "3"}, Seed: 1, Threads: 2, Train: true, Group: t.Name()}
	d.encoder = stagetest.Open(t, Plugin(), request)
	request.Stage, request.Settings, request.Inputs = "reconstruct", sdk.Settings{"hide": share}, d.encoder.Response.Outputs
	d.head = stagetest.Open(t, Plugin(), request)
	return d
}

// By its definition, square by square.
func TestDrawingErrorIsThatOfNormalisedHiddenSquares(t *testing.T) {
	const n, rows, columns = 2, 2, 3
	drawn, slice := noise(1, n, rows*square, columns*square), noise(2, n, rows*square, columns*square)
	hidden := []float32{1, 0, 0, 1, 1, 0, 0, 0, 0, 0, 1, 0}
	flat, _ := slice.Float32s() // the last hidden square has one grey level, 60
	for y := range square {
		for x := range square {
			flat[(rows*square+square+y)*columns*square+square+x] = 60
		}
	}
	var got []float32
	run(t, func(s *torchstage.Scope, _ later) {
		got = s.Float32s(drawingErrors(s, s.FromTensor(drawn), s.FromTensor(slice), s.FromFloat32s(hidden, n, rows, columns)))
	})
	xs, ys := stagetest.Floats(t, drawn), stagetest.Floats(t, slice)
	var sum, squares [n]float64
	for i, h := range hidden {
		if h == 0 {
			continue
		}
		squares[i/(rows*columns)]++
		at := func(v []float32, k int) float64 {
			y := i/columns*square + k/square // volumes stand one below the other
			return float64(v[y*columns*square+i%columns*square+k%square])
		}
		var mean, variance, e float64
		for k := range square * square {
			mean += at(ys, k) / (square * square)
		}
		for k := range square * square {
			variance += math.Pow(at(ys, k)-mean, 2) / (square * square)
		}
		for k := range square * square {
			e += math.Pow(at(xs, k)-(at(ys, k)-mean)/math.Sqrt(variance+1), 2) / (square * square)
		}
		sum[i/(rows*columns)] += e
	}
	for i, g := range got {
		if want := sum[i] / squares[i]; math.Abs(float64(g)-want) > 1e-5*want {
			t.Errorf("picture %d: %.7g, want %.7g", i, g, want)
		}
	}
}

func TestDrawnPixelsLieInTheirCells(t *testing.T) {
	cells := noise(1, 2, 16, 3, 5)
	var got []float32
	run(t, func(s *torchstage.Scope, _ later) { got = s.Float32s(pixelsOf(s, s.FromTensor(cells))) })
	v := stagetest.Floats(t, cells)
	for i, g := range got {
		n, y, x := i/(12*20), i/20%12, i%20
		if want := v[((n*16+4*(y%4)+x%4)*3+y/4)*5+x/4]; g != want {
			t.Fatalf("pixel %d %d of picture %d is %g, want %g", y, x, n, g, want)
		}
	}
}

// What stands in a hidden square of any slice reaches no token, and a detector sees all.
func TestHiddenSquaresAreSeenByNoSlice(t *testing.T) {
	const seed, side = 5, 64
	d := openDrawing(t, "0.4")
	hidden := hiddenSquares(seed, 0.4, 2, side/square, side/square)
	for n := range 2 {
		if count := len(slices.DeleteFunc(slices.Clone(hidden[n*16:(n+1)*16]), func(v float32) bool { return v == 0 })); count != 6 {
			t.Errorf("volume %d: %d of 16 squares are hidden, want 6", n, count)
		}
	}
	if slices.Equal(hidden[:16], hidden[16:]) || slices.Equal(hidden, hiddenSquares(seed+1, 0.4, 2, 4, 4)) {
		t.Error("volumes or steps hide the same squares")
	}
	whole := noise(7, 2, 1, 3, side, side)
	change := func(where float32) *tensor.Tensor {
		v := slices.Clone(stagetest.Floats(t, whole))
		for i := range v {
			n, y, x := i/(3*side*side), i/side%side, i%side
			if hidden[n*16+y/square*4+x/square] == where {
				v[i] += 50
			}
		}
		return tensor.OfFloat32s(v, whole.Shape...)
	}
	tokens := func(x *tensor.Tensor) []float32 {
		defer d.encoder.Release()
		return stagetest.Floats(t, d.encoder.Train(seed, map[string]*tensor.Tensor{"volume": x}).Outputs["tokens.volume"])
	}
	want := tokens(whole)
	if !slices.Equal(tokens(change(1)), want) {
		t.Error("what is hidden changes the tokens")
	}
	if slices.Equal(tokens(change(0)), want) {
		t.Error("what is seen does not change the tokens")
	}
	again := func(x *tensor.Tensor) []float32 {
		return stagetest.Floats(t, d.encoder.Eval(map[string]*tensor.Tensor{"volume": x}).Outputs["tokens.volume"])
	}
	one := slices.Clone(stagetest.Floats(t, whole))
	copy(one[len(one)/2:], one[:len(one)/2])
	if v := again(tensor.OfFloat32s(one, whole.Shape...)); !slices.Equal(v[:len(v)/2], v[len(v)/2:]) {
		t.Error("without training the squares depend on the place in the batch")
	}
}

func TestDrawingLearnsAndGivesItsEncoderToADetector(t *testing.T) {
	d := openDrawing(t, "0.5")
	volume, _ := blobs(rand.New(rand.NewPCG(4, 4)), 4, 3, 64)
	// Discs of one place: what is hidden follows from what is seen.
	v, _ := volume.Float32s()
	for n := 1; n < 4; n++ {
		copy(v[n*len(v)/4:(n+1)*len(v)/4], v[:len(v)/4])
	}
	var first, last float64
	for step := range 60 {
		d.encoder.Train(uint64(step), map[string]*tensor.Tensor{"volume": volume})
		r := d.head.Train(uint64(step), nil)
		d.head.Backward(nil, map[string]float64{"reconstruction": 1})
		d.encoder.Backward(nil, nil)
		d.encoder.Step(0.02)
		d.head.Step(0.02)
		if step < 5 {
			first += r.Losses["reconstruction"] / 5
		}
		if step >= 55 {
			last += r.Losses["reconstruction"] / 5
		}
	}
	if !(last < 0.7*first) {
		t.Errorf("loss %.3f, then %.3f; want a fall", first, last)
	}
	d.encoder.Eval(map[string]*tensor.Tensor{"volume": volume})
	if found := d.head.Eval(nil).Outputs["boxes"]; found == nil || found.Len() != 0 {
		t.Errorf("boxes %v, want none", found)
	}
	weights := stagetest.WriteWeights(t, d.encoder.Weights())
	got := openDetector(t, 2, sdk.Settings{"weights": weights, "slices": "3"}, nil).encoder
	in := map[string]*tensor.Tensor{"volume": volume}
	loaded := got.Weights()
	for name, w := range d.encoder.Weights() {
		stagetest.Near(t, name, loaded[name], w, 0)
	}
	if v := stagetest.Floats(t, got.Eval(in).Outputs["tokens.volume"]); slices.Equal(v, stagetest.Floats(t, d.encoder.Eval(in).Outputs["tokens.volume"])) {
		t.Error("a detector sees what the pre-training sees: squares are hidden from it")
	}
}

func TestDrawingRefusesAFrozenEncoder(t *testing.T) {
	e := stagetest.Open(t, Plugin(), sdk.OpenRequest{Stage: "encoder", Settings: sdk.Settings{"frozen": "true"}, Seed: 1, Train: true, Group: t.Name()})
	_, err := stagetest.TryOpen(t, Plugin(), sdk.OpenRequest{Stage: "reconstruct", Train: true, Group: t.Name(), Inputs: e.Response.Outputs})
	if err == nil || !strings.Contains(err.Error(), "encoder.frozen=true") {
		t.Errorf("error %v", err)
	}
}
