package dataset

import (
	"fmt"
	"image"
	"image/color"
	"math"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

// tile is a picture of one grey.
func tile(t testing.TB, side int, grey uint8) string {
	img := image.NewNRGBA(image.Rect(0, 0, side, side))
	for i := range side * side {
		img.SetNRGBA(i%side, i/side, color.NRGBA{grey, grey, grey, 255})
	}
	return encode(t, img)
}

// slidesFolder writes three slides of 1, 3 and 10 tiles, of a grey each, and what is known of them.
func slidesFolder(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	rows := "patch,slide,x,y,label\n"
	grey := 0
	for s, n := range []int{1, 3, 10} {
		for k := range n {
			grey += 10
			name := fmt.Sprintf("t/%d_%d.png", s, k)
			write(t, filepath.Join(dir, name), tile(t, 8, uint8(grey)))
			rows += fmt.Sprintf("%s,s%d,%d,0,%s\n", name, s, 8*k, []string{"no", "yes"}[k%2])
		}
	}
	write(t, filepath.Join(dir, "patches.csv"), rows)
	write(t, filepath.Join(dir, "slides.csv"), "slide,patient,split,label,grade\ns0,p,train,a,1\ns1,p,train,b,2\ns2,q,val,a,\n")
	return dir
}

func TestPatchesAreCasesWithTheAttributesOfTheirSlide(t *testing.T) {
	d, err := Open("patches:"+slidesFolder(t), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if len(d.Cases) != 14 || d.Cases[3].Patient != "p" || d.Cases[3].Split != "train" || d.Cases[3].Attributes.Cell("grade").Raw != "2" || d.Cases[3].Stack != "s1" {
		t.Errorf("%d cases, the fourth %+v", len(d.Cases), d.Cases[3])
	}
	if set := d.Labels[0]; !slices.Equal(set.Classes, []string{"no", "yes"}) || d.Cases[2].Labels["label"] != 1 {
		t.Errorf("labels %v, of the third %v", d.Labels, d.Cases[2].Labels)
	}
}

// Folders without a table: a folder is a slide, X_Y.png says where a tile lies.
func TestFoldersOfTilesAreSlides(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"a/0_0.png", "a/20/3_4.png", "b/1_0.png"} {
		write(t, filepath.Join(dir, name), tile(t, 8, 9))
	}
	write(t, filepath.Join(dir, "slides.csv"), "slide,split,label\na,train,x\nb,val,y\n")
	d, err := Open("patches:"+dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if len(d.Cases) != 2 || len(d.Cases[0].Patches) != 2 || d.Cases[0].Patches[1].X != 3 || d.Cases[0].Patches[1].Y != 4 || d.Modalities[0] != bagModality {
		t.Errorf("cases %+v of %v", d.Cases, d.Modalities)
	}
}

func TestBadPatchesAreRefusedByRow(t *testing.T) {
	for name, c := range map[string]struct {
		options, file, old, new string
		want                    []string
	}{
		"a slide without patches":        {"", "slides.csv", "s2,q", "s9,q,val,a,\ns2,q", []string{`slides.csv:4: slide: the slide "s9" has no patches`}},
		"a slide that is not known":      {"", "slides.csv", "s1,p,train,b,2\n", "", []string{`patches.csv:3: slide: "s1" is not in slides.csv`}},
		"a slide twice":                  {"", "slides.csv", "s1,p", "s0,p", []string{`slides.csv:3: slide: "s0" stands twice, first in line 2`}},
		"a patch twice":                  {"", "patches.csv", "t/1_1.png", "t/1_0.png", []string{`patches.csv:4: patch: "t/1_0.png" stands twice, first in line 3`}},
		"a label of the patches":         {"?level=slide&labels=label", "slides.csv", "slide,patient,split,label", "slide,patient,split,other", []string{`patches.csv:4: label: "yes", and "no" in line 3 of the same slide "s1"`}},
		"a place that is none":           {"", "patches.csv", "t/1_1.png,s1,8", "t/1_1.png,s1,left", []string{`patches.csv:4: x: "left"`}},
		"other sizes":                    {"", "t/1_1.png", "", "12", []string{`patches.csv:4: patch: the patch`, `is 12 x 12 pixels, most others are 8 x 8`}},
		"a split in both":                {"", "patches.csv", "patch,slide,x,y,label", "patch,slide,x,split,label", []string{"slides.csv:1: split: the column stands in patches.csv already"}},
		"attributes that differ":         {"", "patches.csv", "x,y,label", "stain,y,label", []string{`patches.csv:4: stain: "8", and "0" in line 3 of the same slide "s1"`}},
		"a level that is none":           {"?level=case", "", "", "", []string{`level="case", want patch or slide`}},
		"a patch that is not there":      {"", "patches.csv", "t/1_1.png", "t/7_1.png", []string{"patches.csv:4", "t/7_1.png"}},
		"a row without its slide's name": {"", "patches.csv", "t/1_1.png,s1", "t/1_1.png,", []string{"patches.csv:4: a patch and its slide have to be named"}},
	} {
		dir := slidesFolder(t)
		switch {
		case c.new == "12":
			write(t, filepath.Join(dir, c.file), tile(t, 12, 9))
		case c.file != "":
			edit(t, filepath.Join(dir, c.file), c.old, c.new)
		}
		_, err := Open("patches:"+dir+c.options, Options{})
		for _, want := range c.want {
			if err == nil || !strings.Contains(filepath.ToSlash(err.Error()), want) {
				t.Errorf("%s: %v, want %q", name, err, want)
			}
		}
	}
}

// A patient in two splits through two slides is a leak, and refused by data check.
func TestAPatientInTwoSplitsThroughTwoSlides(t *testing.T) {
	dir := slidesFolder(t)
	edit(t, filepath.Join(dir, "slides.csv"), "s2,q", "s2,p")
	r, err := Check(t.Context(), "patches:"+dir+"?level=slide", Options{}, false)
	if err != nil || len(r.Problems) != 1 || !strings.Contains(r.Problems[0].Message, "patient") {
		t.Errorf("%v, problems %v", err, r.Problems)
	}
}

// Bags of a prediction show every patch of a slide once, spread over it.
func TestBagsShowEveryPatchOnce(t *testing.T) {
	for n := 1; n < 40; n += 3 {
		var c Case
		for k := range n {
			c.Patches = append(c.Patches, Patch{Number: k})
		}
		bags, of := Bags([]Case{{ID: "other"}, c}, 7)
		var seen []int
		for i, b := range bags {
			if len(b.Patches) > 7 || of != nil && len(b.Patches) > 0 && of[i] != 1 {
				t.Errorf("%d patches: bag %d has %d, of case %d", n, i, len(b.Patches), of[i])
			}
			for _, p := range b.Patches {
				seen = append(seen, p.Number)
			}
		}
		slices.Sort(seen)
		for k := range n {
			if len(seen) != n || seen[k] != k {
				t.Fatalf("%d patches: seen %v", n, seen)
			}
		}
	}
}

// greys are those of the patches of each case of a batch of bags.
func greys(t *testing.T, d *Dataset, shuffle bool, epoch int) map[string][]int {
	t.Helper()
	port := sdk.Port{Name: "bag.*", DType: tensor.FP32, Shape: []string{"N", "P", "3", "H", "W"}, Intensity: &sdk.Intensity{High: 255, OutHigh: 255}}
	l, err := NewLoader(t.Context(), d, d.Cases, LoaderOptions{Load: LoadOptions{BagSize: 4, Size: 8, Seed: 1}, Batch: 3, Shuffle: shuffle, Epoch: epoch, Ports: []sdk.Port{port}, Targets: true})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	b, err := l.Next()
	if err != nil {
		t.Fatal(err)
	}
	x := b.Tensors["bag.patch"]
	if !slices.Equal(x.Shape, []int64{3, 4, 3, 8, 8}) {
		t.Fatalf("bag.patch is %v", x)
	}
	values, err := x.Float32s()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][]int{}
	for i := range b.Cases {
		for k := range 4 {
			first := values[(i*4+k)*3*64:][:3*64]
			grey := int(math.Round(float64(first[0])))
			if slices.ContainsFunc(first, func(v float32) bool { return math.Abs(float64(v-first[0])) > 0.01 }) {
				t.Fatalf("patch %d of %s is not of one grey", k, b.Cases[i].ID)
			}
			if want := b.Cases[i].Patches[b.Bags[i][k]]; grey != map[string]int{"s0": 10, "s1": 20, "s2": 50}[b.Cases[i].ID]+10*want.Number {
				t.Errorf("patch %d of %s is %d, and said to be number %d", k, b.Cases[i].ID, grey, want.Number)
			}
			out[b.Cases[i].ID] = append(out[b.Cases[i].ID], grey)
		}
	}
	return out
}

// A step sees a bag of a fixed size of every slide, whatever number of patches it has: of many
// others in each epoch, of few some again, and none twice as long as there are others.
func TestBagsAreOfOneSize(t *testing.T) {
	d, err := Open("patches:"+slidesFolder(t)+"?level=slide", Options{})
	if err != nil {
		t.Fatal(err)
	}
	still := greys(t, d, false, 0)
	for id, want := range map[string][]int{"s0": {10, 10, 10, 10}, "s1": {20, 30, 40, 20}, "s2": {50, 70, 100, 120}} {
		if !slices.Equal(still[id], want) {
			t.Errorf("%s shows %v, want %v", id, still[id], want)
		}
	}
	one, again, other := greys(t, d, true, 0), greys(t, d, true, 0), greys(t, d, true, 1)
	if !slices.Equal(one["s2"], again["s2"]) || slices.Equal(one["s2"], other["s2"]) {
		t.Errorf("epoch 0 shows %v and %v, epoch 1 %v", one["s2"], again["s2"], other["s2"])
	}
	if s := slices.Compact(slices.Sorted(slices.Values(one["s2"]))); len(s) != 4 {
		t.Errorf("a patch twice of ten: %v", one["s2"])
	}
	if s := slices.Compact(slices.Sorted(slices.Values(one["s1"]))); len(s) != 3 {
		t.Errorf("three patches are shown as %v", one["s1"])
	}
}

// BenchmarkLoaderPatches decodes tiles of 96 x 96 as training at patch level does, on all cores.
func BenchmarkLoaderPatches(b *testing.B) {
	dir, rows := b.TempDir(), "patch,slide,split,label\n"
	for n := range 256 {
		img := image.NewNRGBA(image.Rect(0, 0, 96, 96))
		seed := uint32(n)
		for at := range img.Pix {
			seed = seed*1664525 + 1013904223
			img.Pix[at] = 200 + uint8(seed>>28)
			if at%4 == 3 {
				img.Pix[at] = 255
			}
		}
		write(b, filepath.Join(dir, fmt.Sprintf("%d.png", n)), encode(b, img))
		rows += fmt.Sprintf("%d.png,s,train,%d\n", n, n%2)
	}
	write(b, filepath.Join(dir, "patches.csv"), rows)
	d, err := Open("patches:"+dir, Options{})
	if err != nil {
		b.Fatal(err)
	}
	cases := slices.Repeat(d.Cases, 8)
	port := sdk.Port{Name: "image.*", DType: tensor.FP32, Shape: []string{"N", "3", "H", "W"}, Intensity: &sdk.Intensity{High: 255, OutHigh: 1}}
	for name, load := range map[string]LoadOptions{"plain": {Size: 96}, "augmented": {Size: 96, Augment: PictureAugment()}} {
		b.Run(name, func(b *testing.B) {
			for range b.N {
				batches(b, d, cases, LoaderOptions{Load: load, Ports: []sdk.Port{port}, Batch: 32, Workers: runtime.GOMAXPROCS(0)})
			}
			b.ReportMetric(float64(b.N*len(cases))/b.Elapsed().Seconds(), "patches/s")
		})
	}
}
