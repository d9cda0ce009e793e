package boxops

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/alignedfusion/alignedfusion/sdk/safetensors"
)

// reference holds values computed by testdata/reference.py with PyTorch and torchvision.
type reference struct {
	t *testing.T
	f *safetensors.File
}

func openReference(t *testing.T) *reference {
	t.Helper()
	f, err := safetensors.Open(filepath.Join("..", "testdata", "boxes.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	return &reference{t, f}
}

func (r *reference) floats(name string) []float32 {
	r.t.Helper()
	x, err := r.f.Tensor(name)
	if err != nil {
		r.t.Fatal(err)
	}
	v, err := x.Float32s()
	if err != nil {
		r.t.Fatal(err)
	}
	return v
}

func (r *reference) ints(name string) []int64 {
	r.t.Helper()
	x, err := r.f.Tensor(name)
	if err != nil {
		r.t.Fatal(err)
	}
	v, err := x.Int64s()
	if err != nil {
		r.t.Fatal(err)
	}
	return v
}

func (r *reference) boxes(name string) []Box {
	v := r.floats(name)
	out := make([]Box, len(v)/4)
	for i := range out {
		out[i] = Box(v[4*i:])
	}
	return out
}

func near(t *testing.T, name string, got, want []float32, tolerance float64) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %d values, want %d", name, len(got), len(want))
	}
	for i := range want {
		if d := math.Abs(float64(got[i] - want[i])); !(d <= tolerance*(1+math.Abs(float64(want[i])))) {
			t.Fatalf("%s: element %d is %g, want %g", name, i, got[i], want[i])
		}
	}
}

func flat(boxes []Box) []float32 {
	var out []float32
	for _, b := range boxes {
		out = append(out, b[:]...)
	}
	return out
}

var conventions = map[int]Convention{0: {}, 1: {Inclusive: true}}

func TestAnchorsAreThePublishedOnes(t *testing.T) {
	r := openReference(t)
	for legacy := range conventions {
		a := Anchors{Stride: 4, Sides: []float32{16, 24, 32, 48, 96, 192}, Ratios: []float32{0.5, 1, 2}, Rounded: legacy == 1}
		near(t, fmt.Sprintf("anchors, legacy %d", legacy), flat(a.Grid(3, 2)), r.floats(fmt.Sprintf("anchors.%d", legacy)), 1e-6)
	}
}

func TestBoxAlgebraAgreesWithPyTorch(t *testing.T) {
	r := openReference(t)
	a, b, deltas := r.boxes("a"), r.boxes("b"), r.boxes("deltas")
	for legacy, c := range conventions {
		var iou, encoded, decoded []float32
		for _, x := range a {
			for _, y := range b {
				iou = append(iou, c.IoU(x, y))
			}
		}
		coder := Coder{Convention: c}
		for i, y := range b {
			d := coder.Encode(a[i], y)
			encoded = append(encoded, d[:]...)
		}
		for i, d := range deltas {
			box := coder.Decode(a[i], d)
			decoded = append(decoded, box[:]...)
		}
		near(t, "IoU", iou, r.floats(fmt.Sprintf("iou.%d", legacy)), 1e-5)
		near(t, "encode", encoded, r.floats(fmt.Sprintf("encode.%d", legacy)), 1e-5)
		near(t, "decode", decoded, r.floats(fmt.Sprintf("decode.%d", legacy)), 1e-5)
	}
}

func TestNMSKeepsWhatTorchvisionKeeps(t *testing.T) {
	r := openReference(t)
	boxes := r.boxes("nms.boxes")
	for _, threshold := range []float32{0.01, 0.3, 0.5, 0.7} {
		var got []int64
		for _, k := range (Convention{}).NMS(boxes, threshold, 0) {
			got = append(got, int64(k))
		}
		if diff := cmp.Diff(r.ints(fmt.Sprintf("nms.%g", threshold)), got); diff != "" {
			t.Errorf("threshold %g (-want +got):\n%s", threshold, diff)
		}
	}
}

func apply(t Table, features []float32, channels int) []float32 {
	out := make([]float32, len(t.Offsets)*channels)
	for k, from := range t.Offsets {
		to := int64(len(t.Indices))
		if k+1 < len(t.Offsets) {
			to = t.Offsets[k+1]
		}
		for j := from; j < to; j++ {
			for c := range channels {
				out[k*channels+c] += t.Weights[j] * features[t.Indices[j]*int64(channels)+int64(c)]
			}
		}
	}
	return out
}

// channelsLast turns [n, c, size] into [n, size, c].
func channelsLast(v []float32, channels, size int) []float32 {
	out := make([]float32, len(v))
	for n := range len(v) / (channels * size) {
		for c := range channels {
			for i := range size {
				out[(n*size+i)*channels+c] = v[(n*channels+c)*size+i]
			}
		}
	}
	return out
}

func TestRoIAlignAgreesWithTorchvision(t *testing.T) {
	r := openReference(t)
	features := channelsLast(r.floats("align.features"), 5, 12*16)
	var images []int32
	for _, n := range r.ints("align.image") {
		images = append(images, int32(n))
	}
	align := RoIAlign{Size: 7, Samples: 2, Stride: 4}
	table := align.Table(r.boxes("align.regions"), images, 12, 16)
	near(t, "aligned", apply(table, features, 5), channelsLast(r.floats("align.out"), 5, 49), 1e-5)
	align.Legacy = true
	legacy := align.Table(r.boxes("align.legacy.regions"), images, 12, 16)
	near(t, "legacy", apply(legacy, features, 5), channelsLast(r.floats("align.legacy.out"), 5, 49), 1e-5)

	// The gradient is the transposed sum.
	weigh := channelsLast(r.floats("align.weigh"), 5, 49)
	gradient := make([]float32, len(features))
	for k, from := range table.Offsets {
		to := int64(len(table.Indices))
		if k+1 < len(table.Offsets) {
			to = table.Offsets[k+1]
		}
		for j := from; j < to; j++ {
			for c := range 5 {
				gradient[table.Indices[j]*5+int64(c)] += table.Weights[j] * weigh[k*5+c]
			}
		}
	}
	near(t, "gradient", gradient, channelsLast(r.floats("align.grad"), 5, 12*16), 1e-4)
}

func TestLegacyRoIAlignOfARegionWithoutExtentIsFinite(t *testing.T) {
	align := RoIAlign{Size: 2, Samples: 2, Stride: 4, Legacy: true}
	table := align.Table([]Box{{9, 9, 3, 3}}, []int32{0}, 8, 8)
	for k, v := range apply(table, make([]float32, 64), 1) {
		if v != 0 {
			t.Errorf("cell %d is %g, want 0 from a map of zeros", k, v)
		}
	}
	if len(table.Offsets) != 4 {
		t.Errorf("%d cells, want 4", len(table.Offsets))
	}
}

func drawBox(t *rapid.T, label string) Box {
	x, y := rapid.Float32Range(-20, 100).Draw(t, label+"x"), rapid.Float32Range(-20, 100).Draw(t, label+"y")
	w, h := rapid.Float32Range(0, 60).Draw(t, label+"w"), rapid.Float32Range(0, 60).Draw(t, label+"h")
	return Box{x, y, x + w, y + h}
}

func TestIoUIsSymmetricWithin0And1AndOneWithItself(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := Convention{Inclusive: rapid.Bool().Draw(t, "inclusive")}
		a, b := drawBox(t, "a"), drawBox(t, "b")
		x, y := c.IoU(a, b), c.IoU(b, a)
		if x != y || !(x >= 0) || x > 1.000001 {
			t.Fatalf("IoU %g and %g", x, y)
		}
		if c.Area(a) > 0 && math.Abs(float64(c.IoU(a, a))-1) > 1e-6 {
			t.Fatalf("IoU with itself %g", c.IoU(a, a))
		}
	})
}

func TestDecodeUndoesEncode(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := Coder{Convention: Convention{Inclusive: rapid.Bool().Draw(t, "inclusive")}, Std: [4]float32{0.1, 0.1, 0.2, 0.2}}
		a, b := drawBox(t, "a"), drawBox(t, "b")
		a[2], a[3], b[2], b[3] = a[2]+2, a[3]+2, b[2]+2, b[3]+2
		got := c.Decode(a, c.Encode(a, b))
		for i := range b {
			if math.Abs(float64(got[i]-b[i])) > 1e-3 {
				t.Fatalf("%v decodes to %v", b, got)
			}
		}
	})
}

func TestNMSWithAGridIsNMSWithAllPairs(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := Convention{Inclusive: rapid.Bool().Draw(t, "inclusive")}
		threshold := rapid.SampledFrom([]float32{0, 0.04, 0.06, 0.3, 0.5, 0.7, 0.95}).Draw(t, "threshold")
		limit := rapid.IntRange(0, 20).Draw(t, "limit")
		boxes := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Box { return drawBox(t, "") }), 0, 60).Draw(t, "boxes")
		want := []int{}
		for i, b := range boxes {
			if limit > 0 && len(want) == limit {
				break
			}
			keep := true
			for _, k := range want {
				keep = keep && !(c.IoU(b, boxes[k]) > threshold)
			}
			if keep {
				want = append(want, i)
			}
		}
		if diff := cmp.Diff(want, c.NMS(boxes, threshold, limit)); diff != "" {
			t.Fatal(diff)
		}
	})
}

func TestMatcherFollowsMaxIoU(t *testing.T) {
	m := Matcher{PositiveIoU: 0.7, NegativeIoU: 0.3, MinimumIoU: 0.3}
	lesions := []Box{{0, 0, 10, 10}, {100, 100, 110, 120}, {300, 300, 301, 301}}
	boxes := []Box{
		{0, 0, 10, 10},       // 1.0 with the first
		{0, 0, 10, 8},        // 0.8 with the first
		{0, 0, 10, 5},        // 0.5 with the first: neither
		{100, 100, 110, 110}, // 0.5 with the second, its best: taken though below 0.7
		{100, 110, 110, 120}, // as good as the one before: taken too
		{50, 50, 60, 60},     // background
		{290, 290, 310, 310}, // 1/400 with the third: too little even for its best
	}
	want := []int32{0, 0, Ignored, 1, 1, Background, Background}
	if diff := cmp.Diff(want, m.Assign(boxes, lesions, nil, nil)); diff != "" {
		t.Error(diff)
	}
	valid := []bool{false, true, true, true, true, true, true}
	want[0] = Ignored
	if diff := cmp.Diff(want, m.Assign(boxes, lesions, nil, valid)); diff != "" {
		t.Errorf("with the first box not valid: %s", diff)
	}
}

func TestImagesWithoutLesionsAreAllBackground(t *testing.T) {
	m := Matcher{PositiveIoU: 0.5, NegativeIoU: 0.5, MinimumIoU: 0.5}
	if diff := cmp.Diff([]int32{Background, Background}, m.Assign([]Box{{0, 0, 4, 4}, {9, 9, 12, 12}}, nil, nil, nil)); diff != "" {
		t.Error(diff)
	}
}

func TestIgnoreRegionsTakeBackgroundOutButNotPositives(t *testing.T) {
	m := Matcher{PositiveIoU: 0.5, NegativeIoU: 0.3, MinimumIoU: 0.3}
	boxes := []Box{{0, 0, 10, 10}, {40, 40, 50, 50}, {30, 30, 90, 90}, {200, 0, 210, 10}, {48, 48, 58, 58}}
	got := m.Assign(boxes, []Box{{0, 0, 10, 10}}, []Box{{0, 0, 10, 10}, {41, 41, 49, 49}}, nil)
	// inside the region; containing the region; elsewhere; touching less than half of it
	want := []int32{0, Ignored, Ignored, Background, Background}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestSamplerDrawsAtMostItsShareOfPositives(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := Sampler{Count: rapid.IntRange(1, 64).Draw(t, "count"), PositiveFraction: rapid.Float64Range(0, 1).Draw(t, "fraction")}
		assigned := rapid.SliceOfN(rapid.SampledFrom([]int32{0, 1, Background, Ignored}), 0, 200).Draw(t, "assigned")
		var positive, background int
		for _, a := range assigned {
			if a >= 0 {
				positive++
			} else if a == Background {
				background++
			}
		}
		seed := rapid.Uint64().Draw(t, "seed")
		p, n := s.Sample(assigned, rand.New(rand.NewPCG(seed, 1)))
		again, _ := s.Sample(assigned, rand.New(rand.NewPCG(seed, 1)))
		if diff := cmp.Diff(p, again); diff != "" {
			t.Fatalf("one seed, two samples: %s", diff)
		}
		if want := min(positive, int(float64(s.Count)*s.PositiveFraction)); len(p) != want {
			t.Fatalf("%d positives, want %d", len(p), want)
		}
		if want := min(background, s.Count-len(p)); len(n) != want {
			t.Fatalf("%d backgrounds, want %d", len(n), want)
		}
		for i, k := range p {
			if assigned[k] < 0 || i > 0 && p[i-1] >= k {
				t.Fatalf("positives %v of %v", p, assigned)
			}
		}
		for i, k := range n {
			if assigned[k] != Background || i > 0 && n[i-1] >= k {
				t.Fatalf("backgrounds %v of %v", n, assigned)
			}
		}
	})
}

func TestSamplerReachesEveryCandidate(t *testing.T) {
	assigned := []int32{Background, 0, Background, Background, Ignored, Background}
	seen := map[int]int{}
	rng := rand.New(rand.NewPCG(3, 4))
	const draws = 4000
	for range draws {
		_, n := Sampler{Count: 3, PositiveFraction: 0.5}.Sample(assigned, rng)
		for _, k := range n {
			seen[k]++
		}
	}
	for _, k := range []int{0, 2, 3, 5} { // two of four are drawn besides the positive
		if f := float64(seen[k]) / draws; math.Abs(f-0.5) > 0.05 {
			t.Errorf("candidate %d is drawn with frequency %.3f, want 0.5", k, f)
		}
	}
}

func TestQuarterEllipsesPassThroughTheRECISTEnds(t *testing.T) {
	// Long axis from 10 to 50 along x crossing at 20, short axis 4 up and 12 down.
	e := EllipseOf([8]float32{10, 30, 50, 30, 20, 26, 20, 42})
	for _, p := range []struct {
		x, y   float64
		inside bool
	}{
		{20, 30, true}, {10.5, 30, true}, {9.5, 30, false}, {49.5, 30, true}, {50.5, 30, false},
		{20, 26.5, true}, {20, 25.5, false}, {20, 41.5, true}, {20, 42.5, false},
		{20 + 30*0.7, 30 + 12*0.7, true}, {20 + 30*0.72, 30 + 12*0.72, false}, // quarter towards the long ends
		{20 - 10*0.72, 30 - 4*0.72, false}, {20 - 10*0.7, 30 - 4*0.7, true},
	} {
		if e.Contains(p.x, p.y) != p.inside {
			t.Errorf("(%g, %g): inside is %v, want %v", p.x, p.y, !p.inside, p.inside)
		}
	}
	area := 0.0
	for _, v := range e.Mask(Box{0, 16, 60, 52}, 360) {
		area += float64(v) * 60 * 36 / (360 * 360)
	}
	if want := math.Pi / 4 * (10 + 30) * (4 + 12); math.Abs(area-want) > 0.01*want {
		t.Errorf("area %g, want %g", area, want)
	}
}

func TestEllipseOfDegenerateMeasurementsIsFinite(t *testing.T) {
	for _, m := range [][8]float32{
		{5, 5, 5, 5, 5, 5, 5, 5},          // a point
		{0, 0, 10, 0, 2, 0, 6, 0},         // parallel
		{0, 0, 10, 0, 20, -3, 20, 3},      // the diameters do not cross
		{0, 0, 10, 10, 0, 10, 10, 0},      // equal
		{100, 100, 90, 80, 95, 95, 96, 9}, // skewed
	} {
		e := EllipseOf(m)
		if !e.Contains(e.cx, e.cy) {
			t.Errorf("%v: the centre (%g, %g) is not inside", m, e.cx, e.cy)
		}
	}
}

func TestCheckNamesBadBoxes(t *testing.T) {
	nan := float32(math.NaN())
	for _, b := range []Box{{nan, 0, 1, 1}, {0, 0, float32(math.Inf(1)), 1}, {5, 0, 4, 1}, {0, 5, 1, 4}} {
		if err := b.Check(); !errors.Is(err, ErrBox) {
			t.Errorf("%v: %v, want ErrBox", b, err)
		}
	}
	if err := (Box{3, 3, 3, 3}).Check(); err != nil {
		t.Errorf("a box of zero size: %v", err)
	}
	if (Anchors{Stride: 4}).Check() == nil || (Anchors{Stride: 4, Sides: []float32{nan}, Ratios: []float32{1}}).Check() == nil {
		t.Error("anchors without or with NaN sides are accepted")
	}
}

func manyBoxes(n int) []Box {
	rng := rand.New(rand.NewPCG(5, 6))
	out := make([]Box, n)
	for i := range out {
		x, y := rng.Float32()*512, rng.Float32()*512
		w, h := float32(math.Exp(rng.Float64()*3+1)), float32(math.Exp(rng.Float64()*3+1))
		out[i] = Box{x - w/2, y - h/2, x + w/2, y + h/2}
	}
	return out
}

func BenchmarkNMS12000(b *testing.B) {
	boxes := manyBoxes(12000)
	for b.Loop() {
		Convention{}.NMS(boxes, 0.7, 0)
	}
}

func BenchmarkAssign294912Anchors(b *testing.B) {
	anchors := Anchors{Stride: 4, Sides: []float32{16, 24, 32, 48, 96, 192}, Ratios: []float32{0.5, 1, 2}}.Grid(128, 128)
	m := Matcher{PositiveIoU: 0.7, NegativeIoU: 0.3, MinimumIoU: 0.3}
	for b.Loop() {
		m.Assign(anchors, []Box{{100, 100, 130, 125}, {300, 200, 340, 260}}, nil, nil)
	}
}

func BenchmarkRoIAlignTable1000(b *testing.B) {
	boxes, images := manyBoxes(1000), make([]int32, 1000)
	for b.Loop() {
		RoIAlign{Size: 7, Samples: 2, Stride: 4}.Table(boxes, images, 128, 128)
	}
}
