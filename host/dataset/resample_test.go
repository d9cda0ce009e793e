package dataset

import (
	"encoding/json"
	"fmt"
	"image/color"
	"math"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"pgregory.net/rapid"

	"github.com/alignedfusion/alignedfusion/internal/box"
	"github.com/alignedfusion/alignedfusion/sdk"
)

type fixtures struct {
	Resize []struct {
		Height, Width, Size int
		Source, Out         []float32
		OutHeight           int `json:"out_height"`
		OutWidth            int `json:"out_width"`
	}
	Affine struct {
		Height, Width int
		Source, Out   []float32
		Forward       [6]float64
		Fill          float32
	}
	Stacks []struct {
		IntervalMM float64 `json:"interval_mm"`
		Depth, Key int
		Values     []float64
		Out        []float64
	}
}

func loadFixtures(t *testing.T) fixtures {
	var f fixtures
	if err := json.Unmarshal([]byte(read(t, "testdata/resample.json")), &f); err != nil {
		t.Fatal(err)
	}
	return f
}

func wantClose(t *testing.T, what string, got, want []float32, tolerance float64) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %d values, want %d", what, len(got), len(want))
	}
	for i := range want {
		if math.Abs(float64(got[i]-want[i])) > tolerance {
			t.Fatalf("%s: value %d is %g, want %g", what, i, got[i], want[i])
		}
	}
}

// TestResizeAgainstPyTorch: torch.nn.functional.interpolate, bilinear, align_corners=False.
func TestResizeAgainstPyTorch(t *testing.T) {
	for _, c := range loadFixtures(t).Resize {
		l := &Loader{opt: LoaderOptions{Load: LoadOptions{Size: c.Size}}}
		p := &plan{c: &Case{}, geometry: map[string]*Geometry{}, contentHeight: map[string]int{}, contentWidth: map[string]int{}}
		l.planModality(p, Volume, [2]int{c.Height, c.Width}, [4]float64{}, rand.New(rand.NewPCG(1, 1)))
		g := p.geometry[Volume]
		if p.contentHeight[Volume] != c.OutHeight || p.contentWidth[Volume] != c.OutWidth {
			t.Fatalf("content is %d x %d, want %d x %d", p.contentHeight[Volume], p.contentWidth[Volume], c.OutHeight, c.OutWidth)
		}
		got := make([]float32, c.OutHeight*c.OutWidth)
		warp([]layer[float32]{{c.Source, 0, got, 0}}, c.Height, c.Width, 1, *g, c.OutHeight, c.OutWidth, c.OutHeight, c.OutWidth)
		wantClose(t, fmt.Sprintf("%d x %d to %d", c.Height, c.Width, c.Size), got, c.Out, 1e-3)
	}
}

// TestRotationAgainstPyTorch: torch.nn.functional.grid_sample; outside stands fill.
func TestRotationAgainstPyTorch(t *testing.T) {
	c := loadFixtures(t).Affine
	got := make([]float32, len(c.Out))
	warp([]layer[float32]{{c.Source, 0, got, c.Fill}}, c.Height, c.Width, 1, Geometry{A: c.Forward}, c.Height, c.Width, c.Height, c.Width)
	wantClose(t, "rotation", got, c.Out, 1e-4)
}

// TestWarpEqualsItsDefinition compares every pixel with bilinear interpolation written
// out, for turns, mirrors and shifts that meet the border exactly too.
func TestWarpEqualsItsDefinition(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h, w := rapid.IntRange(1, 9).Draw(t, "h"), rapid.IntRange(1, 9).Draw(t, "w")
		channels := rapid.IntRange(1, 3).Draw(t, "channels")
		src := make([]uint8, h*w*channels)
		for i := range src {
			src[i] = uint8(37 * i)
		}
		angle := rapid.OneOf(rapid.Float64Range(-4, 4), rapid.Map(rapid.IntRange(-4, 4), func(k int) float64 { return float64(k) * math.Pi / 2 })).Draw(t, "angle")
		scale := rapid.OneOf(rapid.Float64Range(0.3, 3), rapid.Just(1.0)).Draw(t, "scale")
		shift := rapid.OneOf(rapid.Float64Range(-9, 9), rapid.Map(rapid.IntRange(-9, 9), func(k int) float64 { return float64(k) }))
		g := Geometry{A: [6]float64{scale * math.Cos(angle), -scale * math.Sin(angle), shift.Draw(t, "dx"), scale * math.Sin(angle), scale * math.Cos(angle), shift.Draw(t, "dy")}}
		if rapid.Bool().Draw(t, "flip") {
			g = g.then([6]float64{-1, 0, float64(w - 1), 0, 1, 0})
		}
		const side = 12
		got := make([]float32, side*side)
		channel := channels - 1
		other := layer[uint8]{src, 0, make([]float32, side*side), 7}
		warp([]layer[uint8]{other, {src, channel, got, -1}}, h, w, channels, g, side, side, side-1, side-2)
		pixel := func(x, y int) float64 {
			return float64(src[(min(max(y, 0), h-1)*w+min(max(x, 0), w-1))*channels+channel])
		}
		for y := range side {
			for x := range side {
				sx, sy := g.ToOriginal(float64(x), float64(y))
				border := min(math.Abs(sx+0.5), math.Abs(sy+0.5), math.Abs(sx-float64(w)+0.5), math.Abs(sy-float64(h)+0.5))
				if border < 1e-9 {
					continue // either is right
				}
				want := -1.0
				if y < side-1 && x < side-2 && sx > -0.5 && sy > -0.5 && sx < float64(w)-0.5 && sy < float64(h)-0.5 {
					ix, iy := int(math.Floor(sx)), int(math.Floor(sy))
					fx, fy := sx-float64(ix), sy-float64(iy)
					want = (1-fy)*((1-fx)*pixel(ix, iy)+fx*pixel(ix+1, iy)) + fy*((1-fx)*pixel(ix, iy+1)+fx*pixel(ix+1, iy+1))
				}
				if math.Abs(float64(got[y*side+x])-want) > 1e-3 {
					t.Fatalf("pixel %d, %d from %g, %g is %g, want %g", x, y, sx, sy, got[y*side+x], want)
				}
			}
		}
	})
}

// TestSliceWeightsAgainstNumpy: every offset has its own weight frac(p*2/interval), on
// both sides; beyond the stack the nearest slice stands in (numpy.interp).
func TestSliceWeightsAgainstNumpy(t *testing.T) {
	for _, c := range loadFixtures(t).Stacks {
		s := &stack{files: map[int]string{}}
		for n := range c.Values {
			s.files[n] = "x"
		}
		for i, tp := range sliceTaps(s, c.Key, c.Depth, 2, c.IntervalMM) {
			got := (1-tp.weight)*c.Values[tp.low] + tp.weight*c.Values[tp.high]
			if math.Abs(got-c.Out[i]) > 1e-3 {
				t.Errorf("interval %g, depth %d, slice %d: %g, want %g (%+v)", c.IntervalMM, c.Depth, i, got, c.Out[i], tp)
			}
		}
	}
}

// TestFiveMillimetreSlicesGetTheRightWeights: for 5 mm data offset 2 needs 0.8 (a
// known defect of published loaders gives it 0.4).
func TestFiveMillimetreSlicesGetTheRightWeights(t *testing.T) {
	s := &stack{files: map[int]string{8: "", 9: "", 10: "", 11: "", 12: ""}}
	taps := sliceTaps(s, 10, 7, 2, 5)
	want := []tap{{8, 9, 0.8}, {9, 10, 0.2}, {9, 10, 0.6}, {10, 10, 0}, {10, 11, 0.4}, {10, 11, 0.8}, {11, 12, 0.2}}
	for i, w := range want {
		if taps[i].low != w.low || taps[i].high != w.high || math.Abs(taps[i].weight-w.weight) > 1e-12 {
			t.Errorf("slice %d: %+v, want %+v", i, taps[i], w)
		}
	}
}

func TestMissingSliceIsReplacedTowardsTheKeySlice(t *testing.T) {
	s := &stack{files: map[int]string{2: "", 4: "", 5: "", 6: "", 9: ""}}
	for i, want := range []int{2, 4, 4, 5, 6, 6, 6} {
		if got := sliceTaps(s, 5, 7, 1, 1)[i]; got.low != want || got.weight != 0 {
			t.Errorf("slice %d comes from %+v, want %d", i, got, want)
		}
	}
}

func TestUnknownSpacingRepeatsTheKeySlice(t *testing.T) {
	s := &stack{files: map[int]string{4: "", 5: "", 6: ""}}
	for _, mm := range []float64{0, -1, math.NaN()} {
		for _, got := range sliceTaps(s, 5, 3, 2, mm) {
			if got != (tap{5, 5, 0}) {
				t.Errorf("interval %g: %+v", mm, got)
			}
		}
	}
	for _, text := range []string{"0.8, 0.7, NaN", "0.8, 0.7, 0", "0.8, 0.7, -5", "0.8, 0.7"} {
		dir := deepLesionDir(t)
		edit(t, filepath.Join(dir, "DL_info.csv"), "0.8, 0.7, 2", text)
		d := mustOpen(t, "deeplesion:"+dir, Options{})
		if len(d.Warnings) != 1 {
			t.Errorf("%q: warnings %v", text, d.Warnings)
		}
		b := batches(t, d, d.Cases[:1], LoaderOptions{Load: LoadOptions{Slices: 3}})[0]
		v := floats(t, b, Volume)
		size := 48 * 40
		for i := range size {
			if v[i] != v[size+i] || v[i] != v[2*size+i] || v[i] != float32(50+i%48) {
				t.Fatalf("%q: pixel %d: %g %g %g", text, i, v[i], v[size+i], v[2*size+i])
			}
		}
		if got := floats(t, b, "spacing"); got[0] != 2 || got[1] != 0.7 || got[2] != 0.8 {
			t.Errorf("%q: spacing %v", text, got)
		}
	}
}

// TestSlicesAreMixedInHU: slice n holds 10 n + x; 2 mm steps at 5 mm distance move by 4.
func TestSlicesAreMixedInHU(t *testing.T) {
	dir := deepLesionDir(t)
	edit(t, filepath.Join(dir, "DL_info.csv"), "0.8, 0.7, 2", "0.8, 0.7, 5")
	d := mustOpen(t, "deeplesion:"+dir, Options{})
	v := floats(t, batches(t, d, d.Cases[:1], LoaderOptions{Load: LoadOptions{Slices: 5}})[0], Volume)
	for k := range 5 {
		if got, want := v[k*48*40+7], float32(10*5+7+4*(k-2)); math.Abs(float64(got-want)) > 1e-3 {
			t.Errorf("slice %d: %g, want %g", k, got, want)
		}
	}
}

// TestPublishedWindow: [-1024, 2050] HU to 0..255, minus 50; outside is clipped.
func TestPublishedWindow(t *testing.T) {
	dir := deepLesionDir(t)
	hu := []int{-2000, -1024, 513, 2050, 3000}
	write(t, filepath.Join(dir, "Images_png/000001_01_01/005.png"), huPNG(t, 48, 40, func(x, y int) int { return hu[min(x, 4)] }))
	d := mustOpen(t, "deeplesion:"+dir, Options{})
	port := sdk.Port{Name: Volume, Shape: []string{"N", "1", "D", "H", "W"}, Required: true,
		Intensity: &sdk.Intensity{Low: -1024, High: 2050, OutLow: 0, OutHigh: 255, Mean: []float64{50}, Std: []float64{1}}}
	v := floats(t, batches(t, d, d.Cases[:1], LoaderOptions{Ports: []sdk.Port{port}})[0], Volume)
	for x, want := range []float32{-50, -50, 127.5 - 50, 205, 205} {
		if math.Abs(float64(v[x]-want)) > 1e-4 {
			t.Errorf("%d HU become %g, want %g", hu[x], v[x], want)
		}
	}
}

// TestGreySlices: 8-bit grey fills the window, or the HU range that was declared.
func TestGreySlices(t *testing.T) {
	dir := boxesDir(t)
	write(t, filepath.Join(dir, "images/a.png"), greyPNG(t, 32, 24, func(x, y int) uint8 { return uint8(min(x*51, 255)) }))
	in := &sdk.Intensity{Low: -1000, High: 1000, OutLow: 0, OutHigh: 1}
	first := func(spec string) []float32 {
		d := mustOpen(t, spec, Options{})
		return floats(t, batches(t, d, d.Cases[:1], LoaderOptions{Load: LoadOptions{Intensity: in}})[0], Volume)[:6]
	}
	wantClose(t, "window", first("boxes:"+dir), []float32{0, 0.2, 0.4, 0.6, 0.8, 1}, 1e-6)
	wantClose(t, "declared", first("boxes:"+dir+"?grey_hu=-1000,0"), []float32{0, 0.1, 0.2, 0.3, 0.4, 0.5}, 1e-6)
	write(t, filepath.Join(dir, "images.csv"), "image,split,grey_low_hu,grey_high_hu\na.png,train,0,1000\nb.png,train,,\n")
	wantClose(t, "column", first("boxes:"+dir), []float32{0.5, 0.6, 0.7, 0.8, 0.9, 1}, 1e-6)
}

func randomGeometry(t *rapid.T) Geometry {
	g := Geometry{A: [6]float64{1, 0, 0, 0, 1, 0}, Height: 60, Width: 80}
	s := rapid.Float64Range(0.3, 3).Draw(t, "scale")
	a := rapid.Float64Range(-math.Pi, math.Pi).Draw(t, "angle")
	g = g.then([6]float64{s * math.Cos(a), -s * math.Sin(a), rapid.Float64Range(-50, 50).Draw(t, "dx"), s * math.Sin(a), s * math.Cos(a), rapid.Float64Range(-50, 50).Draw(t, "dy")})
	if rapid.Bool().Draw(t, "flip") {
		g = g.then([6]float64{-1, 0, 79, 0, 1, 0})
	}
	return g
}

func TestGeometryRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := randomGeometry(t)
		x, y := rapid.Float64Range(0, 80).Draw(t, "x"), rapid.Float64Range(0, 60).Draw(t, "y")
		xn, yn := g.ToNetwork(x, y)
		if bx, by := g.ToOriginal(xn, yn); math.Abs(bx-x) > 1e-8 || math.Abs(by-y) > 1e-8 {
			t.Errorf("(%g, %g) comes back as (%g, %g)", x, y, bx, by)
		}
	})
}

// TestMovedBoxHoldsTheLesion: the moved box touches the moved ellipse that the box
// encloses, and with diameters it keeps their distance to the box.
func TestMovedBoxHoldsTheLesion(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := randomGeometry(t)
		x, y := rapid.Float64Range(10, 70).Draw(t, "x"), rapid.Float64Range(10, 50).Draw(t, "y")
		rx, ry := rapid.Float64Range(1, 10).Draw(t, "rx"), rapid.Float64Range(1, 10).Draw(t, "ry")
		c := &Case{Boxes: []Box{{Box: box.Box{X1: x - rx, Y1: y - ry, X2: x + rx, Y2: y + ry}}}}
		b := moveBox(g, c, 0)
		x1, x2 := math.Inf(1), math.Inf(-1)
		for k := range 3600 {
			sin, cos := math.Sincos(float64(k) * math.Pi / 1800)
			px, py := g.ToNetwork(x+rx*cos, y+ry*sin)
			x1, x2 = min(x1, px), max(x2, px)
			if px < b[0]-1e-9 || px > b[2]+1e-9 || py < b[1]-1e-9 || py > b[3]+1e-9 {
				t.Fatalf("(%g, %g) lies outside %v", px, py, b)
			}
		}
		if x1-b[0] > 1e-3*g.scale()*10 || b[2]-x2 > 1e-3*g.scale()*10 {
			t.Errorf("box %v is wider than the ellipse from %g to %g", b, x1, x2)
		}

		a := rapid.Float64Range(0, math.Pi).Draw(t, "axis")
		sin, cos := math.Sincos(a)
		r := [8]float64{x - rx*cos, y - rx*sin, x + rx*cos, y + rx*sin, x + ry*sin, y - ry*cos, x - ry*sin, y + ry*cos}
		hx1, hy1, hx2, hy2 := hull(r[:])
		c = &Case{Boxes: []Box{{Box: box.Box{X1: hx1 - 5, Y1: hy1 - 5, X2: hx2 + 5, Y2: hy2 + 5}}}, RECIST: [][8]float64{r}}
		b = moveBox(g, c, 0)
		moved := moveRECIST(g, r)
		mx1, my1, mx2, my2 := hull(moved[:])
		for i, d := range []float64{mx1 - b[0], my1 - b[1], b[2] - mx2, b[3] - my2} {
			axisAligned := g.A[1] == 0 && g.A[3] == 0
			if !axisAligned && math.Abs(d-5*g.scale()) > 1e-6 {
				t.Errorf("side %d is %g from the diameters, want %g", i, d, 5*g.scale())
			}
		}
	})
}

// TestAugmentedBoxesStayOnTheirLesions renders a bright ellipse and compares where it
// is after every augmentation with the box delivered.
func TestAugmentedBoxesStayOnTheirLesions(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "images.csv"), "image,split\na.png,train\n")
	write(t, filepath.Join(dir, "boxes.csv"), "image,x1,y1,x2,y2\na.png,70,40,89,51\n")
	write(t, filepath.Join(dir, "images/a.png"), greyPNG(t, 128, 96, func(x, y int) uint8 {
		if dx, dy := (float64(x)-79.5)/10, (float64(y)-45.5)/6; dx*dx+dy*dy <= 1 {
			return 255
		}
		return 0
	}))
	d := mustOpen(t, "boxes:"+dir, Options{})
	augment := DetectionAugment()
	augment.ShiftScaleRotate, augment.FlipY, augment.Transpose = 1, 0.5, 0.5
	for _, load := range []LoadOptions{{Augment: AnyWayAugment(), Zoom: 2}, {Augment: augment, Zoom: 2}, {Augment: augment, Size: 200}, {Augment: augment, CropSize: 64, PositiveCrop: 1}, {}} {
		load.Intensity = &sdk.Intensity{Low: 0, High: 1, OutLow: 0, OutHigh: 1}
		load.Seed = 5
		for epoch := range 12 {
			b := batches(t, d, d.Cases, LoaderOptions{Load: load, Targets: true, Epoch: epoch})[0]
			box := floats(t, b, "target.boxes")
			if len(box) != 4 {
				t.Fatalf("%d box values in epoch %d", len(box), epoch)
			}
			g := b.Geometry[0]
			v := floats(t, b, Volume)
			x1, y1, x2, y2 := g.NetWidth, g.NetHeight, -1, -1
			for i, p := range v {
				if p > 0.5 {
					x, y := i%g.NetWidth, i/g.NetWidth
					x1, y1, x2, y2 = min(x1, x), min(y1, y), max(x2, x), max(y2, y)
				}
			}
			tolerance := 1.5 * max(1, g.scale())
			for k, seen := range []int{x1, y1, x2, y2} {
				if math.Abs(float64(seen)-float64(box[k])) > tolerance {
					t.Errorf("%+v epoch %d: the lesion spans (%d, %d, %d, %d), the box says %v", load, epoch, x1, y1, x2, y2, box)
					break
				}
			}
			ox1, oy1, ox2, oy2 := g.BoxToOriginal(float64(box[0]), float64(box[1]), float64(box[2]), float64(box[3]))
			if ox1 > 71 || oy1 > 41 || ox2 < 88 || oy2 < 50 {
				t.Errorf("box comes back as %g %g %g %g", ox1, oy1, ox2, oy2)
			}
		}
	}
}

// TestBoxMostlyOutsideACropIsIgnored: neither a target nor background.
func TestBoxMostlyOutsideACropIsIgnored(t *testing.T) {
	p := &plan{c: &Case{Boxes: []Box{{Box: box.Box{X1: -8, Y1: 10, X2: 2, Y2: 20}}, {Box: box.Box{X1: -2, Y1: 10, X2: 8, Y2: 20}}, {Box: box.Box{X1: 200, Y1: 0, X2: 210, Y2: 9}}},
		Ignore: []IgnoreRegion{{X: 5, Y: 5, Radius: 2}, {X: -50, Y: 5, Radius: 2}}}}
	p.target(Geometry{A: [6]float64{1, 0, 0, 0, 1, 0}}, 63, 63)
	if len(p.boxes) != 1 || p.boxes[0] != [4]float32{0, 10, 8, 20} {
		t.Errorf("targets %v", p.boxes)
	}
	if len(p.ignore) != 2 || p.ignore[0] != [4]float32{0, 10, 2, 20} || p.ignore[1] != [4]float32{3, 3, 7, 7} {
		t.Errorf("ignored %v", p.ignore)
	}
	if !math.IsNaN(float64(p.recist[0][0])) {
		t.Errorf("diameters %v where there are none", p.recist)
	}
}

// TestShrinkingAverages: a picture of one-pixel stripes becomes grey, not an alias.
func TestShrinkingAverages(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "p.png")
	write(t, path, rgbPNG(t, 128, 128, func(x, y int) color.NRGBA {
		v := uint8(200 * (x % 2))
		return color.NRGBA{v, 100, 50, 255}
	}))
	d := mustOpen(t, "image:"+path, Options{})
	v := floats(t, batches(t, d, d.Cases, LoaderOptions{Load: LoadOptions{Size: 32}})[0], "image.main")
	for i := range 32 * 32 {
		for c, want := range []float64{100.0 / 255, 100.0 / 255, 50.0 / 255} {
			if math.Abs(float64(v[c*32*32+i])-want) > 0.01 {
				t.Fatalf("pixel %d channel %d is %g, want %g", i, c, v[c*32*32+i], want)
			}
		}
	}
}

// TestPicturesAreNormalised: (v/255 - mean) / std, and padding is the mean.
func TestPicturesAreNormalised(t *testing.T) {
	path := tableDir(t)
	d := mustOpen(t, "table:"+path, Options{})
	port := sdk.Port{Name: "image.*", Shape: []string{"N", "3", "H", "W"}, Required: true, SizeMultiple: 8,
		Intensity: &sdk.Intensity{Low: 0, High: 255, OutLow: 0, OutHigh: 1, Mean: []float64{0.485, 0.456, 0.406}, Std: []float64{0.229, 0.224, 0.225}}}
	b := batches(t, d, d.Cases[:1], LoaderOptions{Ports: []sdk.Port{port}})[0]
	if s := b.Tensors["image.main"].Shape; s[2] != 16 || s[3] != 24 {
		t.Fatalf("shape %v, want 16 x 24 (multiples of 8)", s)
	}
	v := floats(t, b, "image.main")
	at := func(c, y, x int) float64 { return float64(v[(c*16+y)*24+x]) }
	for _, c := range []struct{ got, want float64 }{
		{at(0, 3, 7), (10.0/255 - 0.485) / 0.229}, {at(1, 3, 7), (7.0/255 - 0.456) / 0.224}, {at(2, 3, 7), (3.0/255 - 0.406) / 0.225},
		{at(0, 3, 22), 0}, {at(2, 15, 23), 0},
	} {
		if math.Abs(c.got-c.want) > 1e-5 {
			t.Errorf("got %g, want %g", c.got, c.want)
		}
	}
}
