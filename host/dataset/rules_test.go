package dataset

import (
	"context"
	"errors"
	"fmt"
	"image/color"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/alignedfusion/alignedfusion/host/report/schema"
	"github.com/alignedfusion/alignedfusion/internal/box"
	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

// A box may leave its image by the slack and is clipped; it must lie in it with some part.
func TestBoxesAtTheEdgeOfTheImage(t *testing.T) {
	for row, want := range map[string]string{ // of a picture of 32 x 24
		"-1,-1,5,5":       "(0, 0, 5, 5)",
		"-1.5,0,5,5":      "",
		"0,-1.5,5,5":      "",
		"2,3,32,24":       "(2, 3, 31, 23)",
		"2,3,32.5,5":      "",
		"2,3,5,24.5":      "",
		"31,23,31,23":     "",
		"31.5,3,31.75,5":  "",
		"3,23.5,5,23.75":  "",
		"-1,3,0,5":        "(0, 3, 0, 5)",
		"-1,3,-0.5,5":     "",
		"3,-1,5,0":        "(3, 0, 5, 0)",
		"3,-1,5,-0.5":     "",
		"1.5,2.25,1.5,20": "",
		"1.5,2.25,1.6,20": "(1.5, 2.25, 1.6, 20)",
	} {
		dir := boxesDir(t)
		edit(t, filepath.Join(dir, "boxes.csv"), "a.png,4,5,10,12", "a.png,"+row)
		d, err := Open("boxes:"+dir, Options{})
		if want == "" {
			if err == nil {
				t.Errorf("%s is accepted", row)
			}
			continue
		}
		if err != nil || d.Cases[0].Boxes[0].Box.String() != want {
			t.Errorf("%s: %v, want %s", row, err, want)
		}
	}
}

func TestNumbersOfDeepLesionHaveBounds(t *testing.T) {
	for _, test := range []struct {
		old, new string
		ok       bool
	}{
		{"F,62.0,1", "F,0,1", true}, {"F,62.0,1", "F,130,1", true}, {"F,62.0,1", "F,130.5,1", false}, {"F,62.0,1", "F,-1,1", false}, {"F,62.0,1", "F,,1", true},
		{`0.5",-1,0`, `0.5",1,0`, true}, {`0.5",-1,0`, `0.5",8,0`, true}, {`0.5",-1,0`, `0.5",9,0`, false}, {`0.5",-1,0`, `0.5",0,0`, false}, {`0.5",-1,0`, `0.5",-2,0`, false},
		{`-1,0,"1, 9"`, `-1,2,"1, 9"`, false}, {`"48, 40"`, `"48, 0"`, false}, {`"48, 40"`, `"0, 40"`, false}, {`"48, 40"`, `"48.5, 40"`, false}, {`"48, 40"`, `"48, 40.5"`, false},
		{`"48, 40"`, `"16385, 40"`, false}, {`"48, 40"`, `"48, 16385"`, false},
		{`"10, 11, 30, 29"`, `"10, 11, 10, 11"`, true}, {`"10, 11, 30, 29"`, `"30, 11, 10, 29"`, false}, {`"10, 11, 30, 29"`, `"10, 29, 30, 11"`, false},
		{`"10, 11, 30, 29"`, `"-4.5, 11, 30, 29"`, true}, {`"10, 11, 30, 29"`, `"-4.6, 11, 30, 29"`, false},
	} {
		dir := deepLesionDir(t)
		edit(t, filepath.Join(dir, "DL_info.csv"), test.old, test.new)
		if _, err := Open("deeplesion:"+dir, Options{}); (err == nil) != test.ok {
			t.Errorf("%s: %v", test.new, err)
		}
	}
}

func TestWhatIsNotThereIsSaid(t *testing.T) {
	gone := filepath.Join(t.TempDir(), "gone")
	for _, layout := range []string{"boxes", "slices", "nifti"} {
		if _, err := Open(layout+":"+gone, Options{}); err == nil || !strings.HasSuffix(err.Error(), gone+": no such file or folder") {
			t.Errorf("%s: %v", layout, err)
		}
	}
	empty := t.TempDir()
	write(t, filepath.Join(empty, "notes.txt"), "x")
	for layout, want := range map[string]string{"slices": "the folder holds no slices (PNG, JPEG, TIFF, BMP or WebP)", "nifti": "the folder holds no .nii or .nii.gz files"} {
		if _, err := Open(layout+":"+empty, Options{}); err == nil || !strings.HasSuffix(err.Error(), empty+": "+want) {
			t.Errorf("%s: %v", layout, err)
		}
	}
	for content, want := range map[string]string{
		"GIF89a, and more": `neither PNG, JPEG, TIFF, BMP nor WebP: it begins with "GIF89a, "; convert it to PNG`,
		"GIF":              `neither PNG, JPEG, TIFF, BMP nor WebP: it begins with "GIF"`,
		"":                 "the file is empty",
		"\xff\xd8\xff":     "the JPEG header is damaged",
	} {
		path := filepath.Join(t.TempDir(), "x.png")
		write(t, path, content)
		if _, err := readImageInfo(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", content, err, want)
		}
	}
	if _, err := readImageInfo(empty); err == nil || !strings.Contains(err.Error(), "is a folder") {
		t.Error(err)
	}
	path := filepath.Join(t.TempDir(), "g.png")
	write(t, path, greyPNG(t, 5, 3, func(x, y int) uint8 { return 9 }))
	if info, err := readImageInfo(path); err != nil || info.width != 5 || info.height != 3 || info.bits != 8 || info.channels != 1 || info.format != "png" || info.fileBytes == 0 {
		t.Errorf("%+v, %v", info, err)
	}
}

func TestOptionsOfASpec(t *testing.T) {
	dir := deepLesionDir(t)
	for query, want := range map[string]string{ // of the error, "" for none
		"noisy=drop-test": "", "noisy=keep": "", "noisy=some": `noisy="some", want drop-test, drop or keep`,
		"nan=missing": "", "nan=zero": `nan="zero", want missing`,
		"grey_hu=-1024,3071": "", "grey_hu=5,5": `"5,5" falls`, "grey_hu=6,5": `"6,5" falls`, "grey_hu=1": "grey_hu: ",
		"spacing_mm=5,1,1": "", "spacing_mm=0,1,1": "not positive", "spacing_mm=5,1": "spacing_mm (z,y,x): ",
		"attributes=": "", "attributes=age,gender": "", "attributes=weight": `attribute column "weight" is unknown; there are "age", "gender", "location", "size"`, "color=red": `option "color" is unknown`,
	} {
		_, err := Open("deeplesion:"+dir+"?"+query, Options{})
		if (err == nil) != (want == "") || err != nil && (!strings.Contains(err.Error(), want) || !errors.Is(err, ErrData)) {
			t.Errorf("%s: %v, want %q", query, err, want)
		}
	}
	all := []string{"a", "b", "c"}
	for _, test := range []struct {
		wanted []string
		want   string
	}{{nil, "[b]"}, {[]string{}, "[]"}, {[]string{"all"}, "[a b c]"}, {[]string{"c", "a", "c"}, "[c a]"}, {[]string{"pair", "a"}, "[b c a]"}} {
		got, err := chooseColumns("attribute", test.wanted, all, []string{"b"}, map[string][]string{"pair": {"b", "c"}})
		if err != nil || fmt.Sprint(got) != test.want || got == nil {
			t.Errorf("%v: %v, %v, want %s", test.wanted, got, err, test.want)
		}
	}
	if got := splitList(" a, ,b,"); fmt.Sprint(got) != "[a b]" || splitList("") == nil {
		t.Errorf("%v", got)
	}
}

func TestOrdersOfNamesAndClasses(t *testing.T) {
	names := []string{"10.png", "2.png", "1.png", "02.png", "a10", "a9", "a", "b1", "slice 3b", "slice 12a"}
	slices.SortFunc(names, compareNatural)
	if got := strings.Join(names, "|"); got != "1.png|02.png|2.png|10.png|a|a9|a10|b1|slice 3b|slice 12a" {
		t.Error(got)
	}
	classes := []string{"10", "9", "b", "1.5", "a", "-2"}
	slices.SortFunc(classes, compareClasses)
	if got := strings.Join(classes, "|"); got != "-2|1.5|9|10|a|b" {
		t.Error(got)
	}
	if compareClasses("1", "1.0") == 0 || compareNatural("a1", "a1") != 0 {
		t.Error("different texts are equal")
	}
	for name, want := range map[string]bool{"": true, "all": true, "train": true, "train+val": true, "val+train": true, "val": false, "trai": false} {
		if got := InSplit("train", name); got != want {
			t.Errorf("train is in %q: %v", name, got)
		}
	}
	for split, want := range map[string]bool{"fold1": true, "fold10": true, "fold0": false, "test": false, "folder": false, "": false} {
		if got := InSplit(split, "!fold0"); got != want {
			t.Errorf("%q is in all folds but fold0: %v", split, got)
		}
	}
	d := &Dataset{Spec: "s", Cases: []Case{{ID: "1", Split: "train"}, {ID: "2", Split: "val"}, {ID: "3", Split: "train"}, {ID: "4", Split: "a+b"}}}
	for name, want := range map[string]int{"": 4, "all": 4, "train": 2, "train+val": 3, "a+b": 1} {
		if got, err := d.Split(name); err != nil || len(got) != want {
			t.Errorf("%q: %d cases, %v, want %d", name, len(got), err, want)
		}
	}
	if _, err := d.Split("train+test"); err == nil || !strings.Contains(err.Error(), `split "test" has no cases`) {
		t.Error(err)
	}
	if _, err := (&Dataset{Spec: "s"}).Split("train"); err == nil || !strings.HasSuffix(err.Error(), "s: no cases at all") {
		t.Error(err)
	}
}

func TestNeighboursAreLookedForTowardsTheKeySlice(t *testing.T) {
	s := &stack{files: map[int]string{3: "", 5: "", 8: ""}}
	for n, want := range map[int]int{1: 3, 3: 3, 4: 5, 5: 5, 6: 5, 7: 5, 8: 8, 9: 8} {
		if got := s.nearest(n, 5); got != want {
			t.Errorf("slice %d is replaced by %d, want %d", n, got, want)
		}
	}
	v := &stack{nifti: "v.nii", depth: 4}
	for n, want := range map[int]int{-3: 0, 0: 0, 3: 3, 4: 3, 9: 3} {
		if got := v.nearest(n, 2); got != want {
			t.Errorf("slice %d of the volume is replaced by %d, want %d", n, got, want)
		}
	}
}

func TestDerm7ptValuesAreGroupedAsPublished(t *testing.T) {
	for _, row := range []string{"diagnosis|basal cell carcinoma|BCC", "diagnosis|blue nevus|NEV", "diagnosis|melanoma (in situ)|MEL", "diagnosis|melanoma metastasis|MEL",
		"diagnosis|seborrheic keratosis|SK", "diagnosis|dermatofibroma|MISC", "diagnosis|vascular lesion|MISC", "diagnosis|melanosis|MISC", "diagnosis|new|new",
		"pigmentation|diffuse regular|regular", "pigmentation|localized irregular|irregular", "pigmentation|absent|absent",
		"regression_structures|blue areas|present", "regression_structures|combinations|present", "regression_structures|absent|absent",
		"vascular_structures|comma|regular", "vascular_structures|wreath|regular", "vascular_structures|dotted|irregular", "vascular_structures|linear irregular|irregular",
		"streaks|regular|regular"} {
		f := strings.Split(row, "|")
		if got := derm7ptGroup(f[0], f[1]); got != f[2] {
			t.Errorf("%s %q is %q, want %q", f[0], f[1], got, f[2])
		}
	}
}

// planned makes a sample's plan of the first case of boxesDir (32 x 24, box 4,5 to 10,12).
func planned(t *testing.T, load LoadOptions, index int, change func(c *Case)) (*plan, error) {
	t.Helper()
	d := mustOpen(t, "boxes:"+boxesDir(t), Options{})
	cases := d.Cases[:1]
	if change != nil {
		change(&cases[0])
	}
	l, err := NewLoader(context.Background(), d, slices.Repeat(cases, index+1), LoaderOptions{Load: load, Targets: true, Ports: []sdk.Port{{Name: Volume}}})
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	return l.newPlan(index, 0)
}

func near(a, b float64) bool { return math.Abs(a-b) < 1e-4 }

// Rotation and scaling are about the centre of the content, whatever its sides are.
func TestRotationKeepsTheCentre(t *testing.T) {
	for index := range 8 {
		p, err := planned(t, LoadOptions{Augment: AugmentOptions{ShiftScaleRotate: 1, RotateDeg: 40, Scale: 0.3}}, index, nil)
		if err != nil {
			t.Fatal(err)
		}
		g := *p.geometry[Volume]
		if x, y := g.ToNetwork(15.5, 11.5); !near(x, 15.5) || !near(y, 11.5) {
			t.Errorf("the centre moves to %g, %g", x, y)
		}
		angle, f := math.Atan2(g.A[3], g.A[0])*180/math.Pi, g.scale()
		if math.Abs(angle) > 40 || f < 0.7 || f > 1.3 || math.Abs(angle) < 1e-3 || near(f, 1) {
			t.Errorf("turned by %g degrees, scaled by %g", angle, f)
		}
		if !near(g.A[0], g.A[4]) || !near(g.A[1], -g.A[3]) {
			t.Errorf("%v is no rotation", g.A)
		}
	}
	moved := false
	for index := range 8 {
		p, err := planned(t, LoadOptions{Augment: AugmentOptions{ShiftScaleRotate: 1, Shift: 0.25}}, index, nil)
		if err != nil {
			t.Fatal(err)
		}
		a := p.geometry[Volume].A
		if math.Abs(a[2]) > 8 || math.Abs(a[5]) > 6 {
			t.Errorf("shifted by %g, %g, want at most a quarter of the sides", a[2], a[5])
		}
		moved = moved || math.Abs(a[2]) > 4 && math.Abs(a[5]) > 0.5
	}
	if !moved {
		t.Error("nothing is shifted")
	}
}

func TestMirrorsAndTurnsMoveThePixels(t *testing.T) {
	for _, test := range []struct {
		augment AugmentOptions
		x, y    float64 // where pixel 4, 5 goes
		h, w    int
	}{
		{AugmentOptions{}, 4, 5, 24, 32},
		{AugmentOptions{FlipX: 1}, 27, 5, 24, 32},
		{AugmentOptions{FlipY: 1}, 4, 18, 24, 32},
		{AugmentOptions{Transpose: 1}, 5, 4, 32, 24},
	} {
		p, err := planned(t, LoadOptions{Augment: test.augment}, 0, nil)
		if err != nil {
			t.Fatal(err)
		}
		if x, y := p.geometry[Volume].ToNetwork(4, 5); !near(x, test.x) || !near(y, test.y) || p.contentHeight[Volume] != test.h || p.contentWidth[Volume] != test.w {
			t.Errorf("%+v: pixel 4, 5 goes to %g, %g in %d x %d", test.augment, x, y, p.contentWidth[Volume], p.contentHeight[Volume])
		}
	}
}

func TestSizesOfAPlan(t *testing.T) {
	for _, test := range []struct {
		load LoadOptions
		h, w int
	}{{LoadOptions{Size: 16}, 12, 16}, {LoadOptions{Zoom: 2}, 48, 64}, {LoadOptions{Zoom: 0.01}, 1, 1}, {LoadOptions{CropSize: 10}, 10, 10}, {LoadOptions{Size: 64, CropSize: 10}, 10, 10}} {
		p, err := planned(t, test.load, 0, nil)
		if err != nil || p.contentHeight[Volume] != test.h || p.contentWidth[Volume] != test.w {
			t.Errorf("%+v: %d x %d, %v", test.load, p.contentWidth[Volume], p.contentHeight[Volume], err)
		}
	}
	for index := range 6 {
		p, err := planned(t, LoadOptions{Augment: AugmentOptions{ResizedCropMin: 0.5}}, index, nil)
		if err != nil {
			t.Fatal(err)
		}
		g, h, w := p.geometry[Volume], float64(p.contentHeight[Volume]), float64(p.contentWidth[Volume])
		x1, y1, x2, y2 := g.BoxToOriginal(0, 0, w-1, h-1)
		if share := h * w / (24 * 32); share < 0.4 || share > 1.02 || w/h < 0.74 || w/h > 1.8 || x1 < 0 || y1 < 0 || x2 > 31 || y2 > 23 {
			t.Errorf("a crop of %g x %g from %g, %g", w, h, x1, y1)
		}
	}
	for _, size := range [][2]int{{0, 5}, {5, 0}} {
		_, err := planned(t, LoadOptions{}, 0, func(c *Case) { c.Size, c.Images = size, map[string]string{Volume: "elsewhere"} })
		if err == nil || !strings.Contains(err.Error(), "the size of volume is unknown") {
			t.Errorf("%v: %v", size, err)
		}
	}
	if _, err := planned(t, LoadOptions{}, 0, func(c *Case) { c.Images = nil }); err == nil || !strings.Contains(err.Error(), "has no volume") {
		t.Error(err)
	}
}

// A positive crop holds the lesion, whole when it fits; any other lies in the content.
func TestCropsLieInTheContentAndHoldTheLesion(t *testing.T) {
	g := Geometry{A: [6]float64{1, 0, 0, 0, 1, 0}}
	c := &Case{Boxes: []Box{{Box: box.Box{X1: 40, Y1: 20, X2: 48, Y2: 26}}}}
	rng := rand.New(rand.NewPCG(1, 2))
	seen := map[float64]bool{}
	for range 400 {
		x, y := cropOffset(c, g, LoadOptions{CropSize: 12, PositiveCrop: 1}, 60, 80, rng)
		if x > 40 || x+11 < 48 || y > 20 || y+11 < 26 || x != math.Floor(x) || y != math.Floor(y) {
			t.Fatalf("a crop from %g, %g cuts the lesion", x, y)
		}
		seen[x] = true
		x, y = cropOffset(c, g, LoadOptions{CropSize: 12}, 60, 80, rng)
		if x < 0 || x > 68 || y < 0 || y > 48 {
			t.Fatalf("a crop from %g, %g leaves the content", x, y)
		}
		seen[1000+x], seen[2000+y] = true, true
		x, y = cropOffset(c, g, LoadOptions{CropSize: 100}, 60, 80, rng)
		if x > 0 || x < -20 || y > 0 || y < -40 {
			t.Fatalf("content in a larger crop begins at %g, %g", -x, -y)
		}
		seen[3000+x] = true
	}
	for _, end := range []float64{37, 40, 1000, 1068, 2000, 2048, 2980, 3000} {
		if !seen[end] {
			t.Errorf("the end %g of the range is never drawn", end)
		}
	}
	if x, y := cropOffset(c, g, LoadOptions{CropSize: 6, PositiveCrop: 1}, 60, 80, rng); x != 41 || y < 20 || y > 21 {
		t.Errorf("a crop smaller than the lesion begins at %g, %g, want its middle", x, y)
	}
	corner := &Case{Boxes: []Box{{Box: box.Box{X1: 76, Y1: 1, X2: 79, Y2: 3}}}}
	for range 50 {
		if x, y := cropOffset(corner, g, LoadOptions{CropSize: 30, PositiveCrop: 1}, 60, 80, rng); x > 50 || x < 50 || y < 0 || y > 1 {
			t.Fatalf("a crop at the corner begins at %g, %g", x, y)
		}
	}
}

// A box of which less than 40 % is left becomes a region to ignore, one of which nothing is
// left goes.
func TestTargetsKeepWhatIsVisible(t *testing.T) {
	g := Geometry{A: [6]float64{1, 0, 0, 0, 1, 0}}
	nan := float32(math.NaN())
	for _, test := range []struct {
		box   Box
		boxes [][4]float32
		gone  [][4]float32
	}{
		{Box{Box: box.Box{X1: 1, Y1: 2, X2: 5, Y2: 6}, Class: 3}, [][4]float32{{1, 2, 5, 6}}, nil},
		{Box{Box: box.Box{X1: -6, Y1: 0, X2: 4, Y2: 10}}, [][4]float32{{0, 0, 4, 10}}, nil},
		{Box{Box: box.Box{X1: -6.1, Y1: 0, X2: 3.9, Y2: 10}}, nil, [][4]float32{{0, 0, 3.9, 10}}},
		{Box{Box: box.Box{X1: 16, Y1: 26, X2: 26, Y2: 30}}, nil, [][4]float32{{16, 26, 20, 29}}},
		{Box{Box: box.Box{X1: -9, Y1: 0, X2: -1, Y2: 4}}, nil, nil},
	} {
		p := &plan{c: &Case{Boxes: []Box{test.box}}}
		p.target(g, 29, 20)
		if diff := cmp.Diff([]any{test.boxes, test.gone}, []any{p.boxes, p.ignore}); diff != "" {
			t.Errorf("%+v: %s", test.box, diff)
		}
		if len(p.boxes) > 0 && (p.classes[0] != int64(test.box.Class) || !math.IsNaN(float64(p.recist[0][7]))) {
			t.Errorf("class %d, diameters %v, want NaN like %v", p.classes[0], p.recist[0], nan)
		}
	}
	double := Geometry{A: [6]float64{2, 0, 1, 0, 2, 0}}
	p := &plan{c: &Case{Boxes: []Box{{Box: box.Box{X1: 1, Y1: 1, X2: 3, Y2: 2}}}, RECIST: [][8]float64{{1, 1, 3, 1, 2, 1, 2, 2}},
		Ignore: []IgnoreRegion{{X: 5, Y: 6, Radius: 2}, {X1: 4, Y1: 4, X2: 5, Y2: 7}, {X: -9, Y: 5, Radius: 1}}}}
	p.target(double, 29, 20)
	if diff := cmp.Diff([]any{[][8]float32{{3, 2, 7, 2, 5, 2, 5, 4}}, [][4]float32{{7, 8, 15, 16}, {9, 8, 11, 14}}}, []any{p.recist, p.ignore}); diff != "" {
		t.Error(diff)
	}
}

// Pixels of the fast path have all four neighbours, and nearly all that have take it.
func TestInsideOfARow(t *testing.T) {
	for _, test := range []struct {
		a, b, limit float64
		n           int
	}{{1, 0, 9, 10}, {1, -3.5, 9, 20}, {0.5, 0.25, 9, 30}, {-1, 9, 9, 12}, {-0.3, 7, 9, 40}, {2, -50, 9, 10}, {0, 4, 9, 10}, {0, 0, 9, 10}, {0, 9, 9, 10}, {0, -1, 9, 10}, {0, 10, 9, 10}} {
		from, to := inside(test.a, test.b, test.limit, test.n)
		within := 0
		for x := range test.n {
			v := test.a*float64(x) + test.b
			if v >= 0 && v < test.limit {
				within++
			} else if x >= from && x < to {
				t.Errorf("%+v: pixel %d of [%d, %d) lies at %g", test, x, from, to, v)
			}
		}
		if constant := test.a == 0; from < 0 || to > test.n || !constant && within-(to-from) > 3 && within > 0 || constant && test.b == 4 && to-from != test.n {
			t.Errorf("%+v: [%d, %d), %d lie within", test, from, to, within)
		}
	}
	row := make([]float32, 5)
	copyRow(row, []uint8{1, 2, 3, 4, 5, 6}, 2, 3, -1, 1, 9)
	if !slices.Equal(row, []float32{9, 4, 5, 6, 9}) {
		t.Errorf("copied %v", row)
	}
	for _, y := range []int{-1, 2} {
		copyRow(row, []uint8{1, 2, 3, 4, 5, 6}, 2, 3, 0, y, 9)
		if !slices.Equal(row, []float32{9, 9, 9, 9, 9}) {
			t.Errorf("row %d gives %v", y, row)
		}
	}
}

func TestWindowMapsTheRangeAndClips(t *testing.T) {
	w := newWindowing(&sdk.Intensity{Low: -100, High: 100, OutLow: 0, OutHigh: 10})
	v := []float32{-101, -100, 0, 50, 100, 200, float32(math.NaN())}
	w.apply(v)
	if !slices.Equal(v, []float32{0, 0, 5, 7.5, 10, 10, 0}) || w.fill != 0 {
		t.Errorf("%v, fill %g", v, w.fill)
	}
	none := newWindowing(nil)
	v = []float32{-5000, 7, float32(math.NaN())}
	none.apply(v)
	if !slices.Equal(v, []float32{-5000, 7, airHU}) || none.fill != airHU {
		t.Errorf("without a window %v, fill %g", v, none.fill)
	}
}

func TestColoursChangeAboutTheMiddle(t *testing.T) {
	in := &sdk.Intensity{Low: 0, High: 1, OutLow: 0, OutHigh: 10, Mean: []float64{2}, Std: []float64{4}}
	l := &Loader{}
	out := []float32{0, 5, 7, 10}
	l.finishVolume(&plan{color: colorChange{brightness: 0.1, contrast: 0.5}}, newWindowing(in), out)
	if diff := cmp.Diff([]float32{(0 - 2) / 4.0, 1, (9 - 2) / 4.0, 2}, out); diff != "" {
		t.Errorf("volume: %s", diff)
	}
	p := &plan{color: colorChange{brightness: 0.1, contrast: 0.5, saturation: -1}}
	rgb := []float32{4, 6, 8} // one pixel; grey 0.299*4 + 0.587*6 + 0.114*8 = 5.63
	p.changeColors(rgb, 1, newWindowing(in))
	for c, v := range rgb {
		if !near(float64(v), (5.63-5)*1.5+6) {
			t.Errorf("channel %d is %g", c, v)
		}
	}
	rgb = []float32{4, 6, 8}
	(&plan{color: colorChange{saturation: 1}}).changeColors(rgb, 1, newWindowing(in))
	if !near(float64(rgb[0]), 5.63+2*(4-5.63)) || !near(float64(rgb[2]), 10) {
		t.Errorf("saturated %v, want grey plus twice the difference, clipped", rgb)
	}
	for _, test := range []struct {
		values  []float64
		channel int
		want    float64
	}{{nil, 1, 7}, {[]float64{1}, 2, 1}, {[]float64{1, 2, 3}, 1, 2}, {[]float64{1, 2}, 2, 2}} {
		if got := channelOf(test.values, test.channel, 7); got != test.want {
			t.Errorf("channel %d of %v is %g", test.channel, test.values, got)
		}
	}
	noise := make([]float32, 4000)
	(&plan{noiseSeed: 3}).addNoise(noise, 2)
	var squares float64
	for _, v := range noise {
		squares += float64(v) * float64(v)
	}
	if std := math.Sqrt(squares / 4000); std < 1.8 || std > 2.2 {
		t.Errorf("noise of %g, want 2", std)
	}
}

func TestIntensitiesThatMakeNoSenseAreRefused(t *testing.T) {
	good := sdk.Intensity{Low: 0, High: 1, OutLow: 0, OutHigh: 1, Mean: []float64{0}, Std: []float64{1}}
	if err := checkIntensity("p", &good); err != nil {
		t.Error(err)
	}
	for want, change := range map[string]func(in *sdk.Intensity){
		"NaN":                       func(in *sdk.Intensity) { in.Mean = []float64{math.NaN()} },
		"+Inf":                      func(in *sdk.Intensity) { in.High = math.Inf(1) },
		"[1, 1] to [0, 1] is empty": func(in *sdk.Intensity) { in.Low = 1 },
		"[0, 1] to [1, 1] is empty": func(in *sdk.Intensity) { in.OutLow = 1 },
		"deviation 0 is not":        func(in *sdk.Intensity) { in.Std = []float64{1, 0} },
	} {
		in := good
		change(&in)
		if err := checkIntensity("p", &in); err == nil || !strings.Contains(err.Error(), `port "p"`) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

func TestShrunkPixelsAreMeansOfTheirBlocks(t *testing.T) {
	src := []uint8{0, 2, 10, 4, 6, 20, 9, 9, 9} // 3 x 3
	g := Geometry{A: [6]float64{0.5, 0, -0.25, 0, 0.5, -0.25}}
	out, h, w, m := shrink(src, 3, 3, 1, g)
	if h != 1 || w != 1 || !slices.Equal(out, []uint8{3}) || !near(m.A[0], 1) || !near(m.A[2], 0) {
		t.Errorf("%v of %d x %d, map %v", out, h, w, m.A)
	}
	floats, _, _, _ := shrink([]float32{0, 2, 4, 7}, 2, 2, 1, g)
	if !slices.Equal(floats, []float32{3.25}) {
		t.Errorf("floats %v", floats)
	}
	two, _, _, _ := shrink([]uint8{0, 100, 2, 102, 4, 104, 6, 106}, 2, 2, 2, g)
	if !slices.Equal(two, []uint8{3, 103}) {
		t.Errorf("two channels %v", two)
	}
	if same, h, w, _ := shrink(src, 3, 3, 1, Geometry{A: [6]float64{0.6, 0, 0, 0, 0.6, 0}}); &same[0] != &src[0] || h != 3 || w != 3 {
		t.Error("what shrinks by less than two is averaged")
	}
}

func TestLoaderRefusesWhatMakesNoSense(t *testing.T) {
	d := mustOpen(t, "boxes:"+boxesDir(t), Options{})
	for name, opt := range map[string]LoaderOptions{
		"batch": {Batch: -1}, "workers": {Workers: -1}, "prefetch": {Prefetch: -1}, "start": {Start: -1}, "slices": {Load: LoadOptions{Slices: -1}},
		"size": {Load: LoadOptions{Size: -1}}, "crop": {Load: LoadOptions{CropSize: -1}}, "distance": {Load: LoadOptions{SliceSpacingMM: -1}}, "zoom": {Load: LoadOptions{Zoom: math.NaN()}},
	} {
		if l, err := NewLoader(context.Background(), d, d.Cases, opt); err == nil || !errors.Is(err, ErrData) {
			l.Close()
			t.Errorf("a bad %s is accepted", name)
		}
	}
	if _, err := NewLoader(context.Background(), d, nil, LoaderOptions{}); err == nil || !strings.Contains(err.Error(), "no cases") {
		t.Error(err)
	}
	for _, test := range []struct {
		batch  int
		drop   bool
		counts string
	}{{0, false, "[1 1 1 1]"}, {3, false, "[3 1]"}, {3, true, "[3]"}, {2, true, "[2 2]"}} {
		var counts []int
		for i, b := range batches(t, d, d.Cases, LoaderOptions{Batch: test.batch, DropLast: test.drop}) {
			counts = append(counts, len(b.Cases))
			if b.Index != i {
				t.Errorf("batch %d has number %d", i, b.Index)
			}
		}
		if fmt.Sprint(counts) != test.counts {
			t.Errorf("batches of %d: %v, want %s", test.batch, counts, test.counts)
		}
	}
}

func TestPortsFixSizes(t *testing.T) {
	d := mustOpen(t, "boxes:"+boxesDir(t), Options{})
	shape := func(dims ...string) []sdk.Port { return []sdk.Port{{Name: Volume, Shape: dims}} }
	for _, test := range []struct {
		ports []sdk.Port
		load  LoadOptions
		want  string // the volume, or words of the error
	}{
		{shape("N", "1", "D", "H", "W"), LoadOptions{}, "FP32 [1 1 1 24 32]"},
		{shape("N", "1", "3", "H", "W"), LoadOptions{}, "FP32 [1 1 3 24 32]"},
		{shape("N", "1", "3", "H", "W"), LoadOptions{Slices: 3}, "FP32 [1 1 3 24 32]"},
		{shape("N", "1", "3", "H", "W"), LoadOptions{Slices: 5}, "it wants 3 slices, 5 are asked for"},
		{shape("N", "1", "D", "64", "48"), LoadOptions{}, "FP32 [1 1 1 64 48]"},
		{shape("N", "1", "D", "64", "48"), LoadOptions{Size: 48}, "FP32 [1 1 1 64 48]"},
		{shape("N", "1", "D", "64", "48"), LoadOptions{Size: 49}, "images of 49 pixels do not fit"},
		{shape("N", "1", "D", "48", "48"), LoadOptions{CropSize: 48}, "FP32 [1 1 1 48 48]"},
		{shape("N", "1", "D", "48", "48"), LoadOptions{CropSize: 32}, "images of 32 pixels do not fit"},
		{[]sdk.Port{{Name: Volume, SizeMultiple: 20}}, LoadOptions{}, "FP32 [1 1 1 40 40]"},
		{[]sdk.Port{{Name: Volume, SizeMultiple: 20}}, LoadOptions{SizeMultiple: 16}, "FP32 [1 1 1 32 32]"},
		{[]sdk.Port{{Name: Volume, SizeMultiple: 8}}, LoadOptions{Size: 16}, "FP32 [1 1 1 16 16]"},
		{[]sdk.Port{{Name: "image.*", Required: true}}, LoadOptions{}, `the encoder wants "image.*"; the data have "volume"`},
	} {
		l, err := NewLoader(context.Background(), d, d.Cases[:1], LoaderOptions{Load: test.load, Ports: test.ports})
		if err != nil {
			if !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v %+v: %v, want %q", test.ports, test.load, err, test.want)
			}
			continue
		}
		b, err := l.Next()
		l.Close()
		if err != nil || b.Tensors[Volume].String() != test.want {
			t.Errorf("%v %+v: %v, %v, want %s", test.ports, test.load, b, err, test.want)
		}
	}
}

func TestSpacingIsThatOfTheNetworksPixels(t *testing.T) {
	d := mustOpen(t, "deeplesion:"+deepLesionDir(t), Options{})
	d.Cases[1].SpacingMM = [3]float64{}
	b := batches(t, d, d.Cases[:2], LoaderOptions{Batch: 2, Load: LoadOptions{Zoom: 0.5, SliceSpacingMM: 3}})[0]
	got, want := floats(t, b, "spacing"), []float32{3, 1.4, 1.6, 3, 2, 2}
	for i := range want {
		if !near(float64(got[i]), float64(want[i])) {
			t.Fatalf("%v, want %v", got, want)
		}
	}
}

// What `data check` counts, by split.
func TestCheckCountsAndDecodes(t *testing.T) {
	dir := boxesDir(t)
	write(t, filepath.Join(dir, "images.csv"), "image,patient,split,age\na.png,p1,train,50\nb.png,p2,val,\nc.png,p3,test,60\nd.png,p1,train,\n")
	write(t, filepath.Join(dir, "ignore.csv"), "image,cx,cy,radius\na.png,3,3,2\nd.png,3,3,1\n")
	r, err := Check(t.Context(), "boxes:"+dir, Options{Attributes: []string{"all"}}, true)
	if err != nil || len(r.Problems) > 0 {
		t.Fatal(err, r.Problems)
	}
	train := r.Splits["train"]
	if r.Cases != 4 || r.Patients != 3 || r.ImagesDecoded != 4 || train.Cases != 2 || train.Patients != 1 || train.WithTargets != 2 || train.Lesions != 1 || train.Ignored != 2 ||
		train.Labels["lesion"]["nodule"] != 1 || r.Splits["test"].WithTargets != 0 || r.Splits["val"].Missing["age"] != 1 || len(r.Hash) != 64 || r.Task != Detect {
		t.Errorf("%+v, train %+v", r, train)
	}
	if missing := train.Missing["age"] + r.Splits["test"].Missing["age"]; missing != 0.5 {
		t.Errorf("missing rates %v and %v", train.Missing, r.Splits["test"].Missing)
	}
	table := tableDir(t)
	r, err = Check(t.Context(), "table:"+table, Options{}, false)
	if err != nil || r.Splits["train"].Labels["label"]["a"] != 1 || r.Splits["train"].Labels["label"]["b"] != 1 || r.Splits["test"].Labels["label"]["a"] != 0 || r.ImagesDecoded != 0 {
		t.Errorf("%+v, %v", r.Splits["train"], err)
	}
	write(t, filepath.Join(filepath.Dir(table), "i", "2.png"), "\x89PNG\r\n\x1a\n")
	os.Remove(filepath.Join(filepath.Dir(table), "i", "3.png"))
	if r, err = Check(t.Context(), "table:"+table, Options{}, true); err != nil || len(r.Problems) != 2 || r.Cases != 0 {
		t.Errorf("%v, %v; want two problems", r.Problems, err)
	}
	if r, err = Check(t.Context(), "tabel:x", Options{}, true); err != nil || len(r.Problems) != 1 {
		t.Errorf("%v, %v", r, err)
	}
}

func TestModesAndFillAreAskedByAttribute(t *testing.T) {
	cases := []Case{{Attributes: written("a", "x", "b", "")}, {Attributes: written("a", "y", "b", "")}, {Attributes: written("a", "y", "c", "z")},
		{Attributes: written("a", "x")}}
	kinds := &schema.Schema{}
	for _, name := range []string{"a", "b", "c"} {
		kinds.Attributes = append(kinds.Attributes, schema.Attribute{Name: name, Kind: schema.Categorical, Values: []string{"x", "y", "z"}})
	}
	if diff := cmp.Diff(map[string]string{"a": "x", "c": "z"}, texts(NewAttributes(Modes(kinds, cases)))); diff != "" {
		t.Error(diff)
	}
	if _, err := Mask(cases, 1.1, 1); err == nil {
		t.Error("a rate above 1 is accepted")
	}
	all, err := Mask(cases, 1, 1)
	if err != nil || all[0].Attributes.Cell("a").State != schema.Unmentioned || cases[0].Attributes.Cell("a").Raw != "x" {
		t.Errorf("%v, %v, %v", all, cases, err)
	}
}

func TestPatientsInTwoSplitsAreCounted(t *testing.T) {
	o := &opener{d: &Dataset{Cases: []Case{{Patient: "p", Split: "a"}, {Patient: "p", Split: "b"}, {Patient: "p", Split: "b"}, {Patient: "", Split: "a"}, {Patient: "", Split: "b"}, {Patient: "q", Split: "a"}}}}
	o.checkPatients()
	if len(o.d.Warnings) != 1 || !strings.HasPrefix(o.d.Warnings[0], `1 patients are in more than one split, for example "p"`) {
		t.Error(o.d.Warnings)
	}
}

func TestPicturesOfEachKindAreDecoded(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "x.png")
	write(t, path, rgbPNG(t, 2, 1, func(x, y int) color.NRGBA { return color.NRGBA{uint8(x), 7, 9, 255} }))
	if p, err := decodePicture(path, 0); err != nil || !slices.Equal(p.rgb, []uint8{0, 7, 9, 1, 7, 9}) || p.bytes() != 6 {
		t.Errorf("%+v, %v", p, err)
	}
	if _, err := decodeSlice(path); err == nil || !strings.Contains(err.Error(), "a colour picture") {
		t.Error(err)
	}
	write(t, path, rgbPNG(t, 2, 1, func(x, y int) color.NRGBA { return color.NRGBA{uint8(x), uint8(x), uint8(x), 255} }))
	if p, err := decodeSlice(path); err != nil || !slices.Equal(p.grey8, []uint8{0, 1}) {
		t.Errorf("grey stored as colour: %+v, %v", p, err)
	}
	write(t, path, huPNG(t, 2, 1, func(x, y int) int { return 5*x - 1000 }))
	for _, decode := range []func(string) (*plane, error){decodeHU, decodeSlice} {
		if p, err := decode(path); err != nil || !slices.Equal(p.hu16, []int16{-1000, -995}) || p.bytes() != 4 {
			t.Errorf("%+v, %v", p, err)
		}
	}
	write(t, path, greyPNG(t, 3, 2, func(x, y int) uint8 { return uint8(10*y + x) }))
	if p, err := decodeSlice(path); err != nil || !slices.Equal(p.grey8, []uint8{0, 1, 2, 10, 11, 12}) || p.h != 2 || p.w != 3 {
		t.Errorf("%+v, %v", p, err)
	}
	if _, err := decodeHU(path); err == nil || !strings.Contains(err.Error(), "8-bit grey png, want a 16-bit grey PNG") {
		t.Error(err)
	}
}

func TestExifDirectoriesEndWhereTheyEnd(t *testing.T) {
	tiff := func(count byte, tag, value byte, more int) []byte {
		head := []byte{'I', 'I', 42, 0, 8, 0, 0, 0, count, 0}
		entry := []byte{tag, 1, 3, 0, 1, 0, 0, 0, value, 0, 0, 0}
		return append(append(head, entry...), make([]byte, more)...)[:22+more]
	}
	for _, test := range []struct {
		data []byte
		want int
	}{{tiff(1, 0x12, 6, 0), 6}, {tiff(1, 0x12, 8, 0), 8}, {tiff(1, 0x12, 9, 0), 1}, {tiff(1, 0x12, 0, 0), 1}, {tiff(1, 0x13, 6, 0), 1}, {tiff(0, 0x12, 6, 0), 1}, {tiff(9, 0x13, 6, 5), 1}, {tiff(1, 0x12, 6, 0)[:21], 1}, {nil, 1}, {[]byte("II*\x00\x08\x00\x00\x00"), 1}} {
		if got := tiffOrientation(test.data); got != test.want {
			t.Errorf("%v: orientation %d, want %d", test.data, got, test.want)
		}
	}
}

func TestIgnoredRegionsAreCirclesOrBoxes(t *testing.T) {
	for content, want := range map[string]string{
		"image,cx,cy,radius\na.png,5,6,2\n":           "[{0 0 0 0 5 6 2}]",
		"image,x1,y1,x2,y2\na.png,1,2,3,4\n":          "[{1 2 3 4 0 0 0}]",
		"image,x1,y1,x2,y2\na.png,1,2,1,2\n":          "[{1 2 1 2 0 0 0}]",
		"image,x1,y1,x2,y2\na.png,3,2,1,4\n":          "ignore.csv:2: x2 < x1",
		"image,x1,y1,x2,y2\na.png,1,4,3,2\n":          "ignore.csv:2: x2 < x1 or y2 < y1",
		"image,cx,cy,radius\nq.png,5,6,2\n":           `ignore.csv:2: image: "q.png" is not in images.csv`,
		"image,cx,cy,radius\na.png,5,x,y\na.png,,1,1": "3 problems",
		"image,cx,cy\na.png,5,6\n":                    `column "radius" is absent`,
	} {
		dir := boxesDir(t)
		write(t, filepath.Join(dir, "ignore.csv"), content)
		d, err := Open("boxes:"+dir, Options{})
		if err != nil && !strings.Contains(err.Error(), want) || err == nil && fmt.Sprint(d.Cases[0].Ignore) != want {
			t.Errorf("%q: %v, want %s", content, err, want)
		}
	}
	if x1, y1, x2, y2 := (IgnoreRegion{X: 5, Y: 6, Radius: 2}).Bounds(); x1 != 3 || y1 != 4 || x2 != 7 || y2 != 8 {
		t.Error(x1, y1, x2, y2)
	}
}

func TestClassificationTargetsAreNamedByTask(t *testing.T) {
	path := tableDir(t)
	d := mustOpen(t, "table:"+path+"?labels=label,sex", Options{})
	b := batches(t, d, d.Cases[:2], LoaderOptions{Batch: 2, Targets: true, Ports: []sdk.Port{{Name: "image.*"}}})[0]
	label, sex := b.Tensors["target.label.label"], b.Tensors["target.label.sex"]
	if !cmp.Equal(label, tensor.OfInt64s([]int64{1, 0})) || !cmp.Equal(sex, tensor.OfInt64s([]int64{0, 1})) {
		t.Errorf("%v %v", label, sex)
	}
}

func TestGreyRangesThatFallAreRefused(t *testing.T) {
	dir := boxesDir(t)
	write(t, filepath.Join(dir, "images.csv"), "image,split,grey_low_hu,grey_high_hu\na.png,train,10,5\nb.png,train,5,5\n")
	if _, err := Open("boxes:"+dir, Options{}); err == nil || !strings.Contains(err.Error(), "images.csv:2: grey_high_hu: is below grey_low_hu") || strings.Contains(err.Error(), "images.csv:3") {
		t.Error(err)
	}
}

// A quarter turn moves a box as it is; only other angles draw it anew around its diameters.
func TestQuarterTurnsMoveTheBoxItself(t *testing.T) {
	c := &Case{Boxes: []Box{{Box: box.Box{X1: 2, Y1: 4, X2: 10, Y2: 8}}}, RECIST: [][8]float64{{3, 6, 9, 6, 6, 7, 6, 7}}}
	for a, want := range map[[6]float64][4]float64{{1, 0, 0, 0, 1, 0}: {2, 4, 10, 8}, {0, 1, 0, 1, 0, 0}: {4, 2, 8, 10}, {0, -1, 20, 1, 0, 0}: {12, 2, 16, 10}} {
		if got := moveBox(Geometry{A: a}, c, 0); got != want {
			t.Errorf("%v: %v, want %v", a, got, want)
		}
	}
}
