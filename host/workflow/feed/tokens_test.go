package feed

import (
	"os"
	"slices"
	"testing"

	"github.com/alignedfusion/alignedfusion/host/dataset"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

// slideOf is a slide of n patches.
func slideOf(id string, n int) dataset.Case {
	c := dataset.Case{ID: id}
	for k := range n {
		c.Patches = append(c.Patches, dataset.Patch{Number: k})
	}
	return c
}

// The tokens of a slide are kept bag by bag, found again in its folder, and given for the
// patches that a step shows.
func TestTokensOfSlidesAreKeptByPatch(t *testing.T) {
	cases := []dataset.Case{slideOf("a", 3), slideOf("b", 2)}
	total := map[string]int{"a": 3, "b": 2}
	// Token t of patch p of slide s is [100s+10p+t, its negative].
	encoded := func(slides []float32, bags [][]int) map[string]*tensor.Tensor {
		var v []float32
		for i, s := range slides {
			for _, p := range bags[i] {
				for k := range 2 {
					v = append(v, 100*s+10*float32(p)+float32(k), -(100*s + 10*float32(p) + float32(k)))
				}
			}
		}
		return map[string]*tensor.Tensor{"tokens.patch": tensor.OfFloat32s(v, int64(len(slides)), int64(2*len(bags[0])), 2)}
	}
	dir := t.TempDir()
	cache := NewTokenStore(1 << 20).of([32]byte{1})
	cache.dir = dir
	for _, b := range []struct {
		cases  []dataset.Case
		slides []float32
		bags   [][]int
	}{{cases[:1], []float32{1}, [][]int{{0, 2}}}, {[]dataset.Case{cases[0], cases[1]}, []float32{1, 2}, [][]int{{1, 1}, {0, 1}}}} {
		if cache.covers(cases) {
			t.Error("tokens are said to be known before they are")
		}
		if more, err := cache.keep(&dataset.Batch{Cases: b.cases, Bags: b.bags}, encoded(b.slides, b.bags), total); err != nil || !more {
			t.Fatal(more, err)
		}
	}
	again := NewTokenStore(1 << 20).of([32]byte{1})
	again.dir = dir
	again.readSlides(cases)
	for name, c := range map[string]*tokenCache{"kept": cache, "from disk": again} {
		if !c.covers(cases) {
			t.Fatalf("%s: not all tokens are known", name)
		}
		in := map[string]*tensor.Tensor{}
		bags := [][]int{{2, 0, 2}, {1, 0, 1}}
		c.add(in, cases, bags)
		want := encoded([]float32{1, 2}, bags)["tokens.patch"]
		if got := in["tokens.patch"]; got == nil || !slices.Equal(got.Shape, []int64{2, 6, 2}) || string(got.Data) != string(want.Data) {
			t.Errorf("%s: bags are %v, want those of %v", name, got, bags)
		}
		whole := map[string]*tensor.Tensor{}
		c.add(whole, cases[:1], nil)
		if got := whole["tokens.patch"]; got == nil || !slices.Equal(got.Shape, []int64{1, 6, 2}) {
			t.Errorf("%s: the whole slide is %v, want six tokens", name, got)
		}
	}
	// A file that was cut off, or of another number of patches, is made anew; no room is said.
	if err := os.Truncate(cache.file("a"), 40); err != nil {
		t.Fatal(err)
	}
	other := NewTokenStore(1 << 20).of([32]byte{1})
	other.dir = dir
	other.readSlides([]dataset.Case{cases[0], slideOf("b", 5)})
	if len(other.cases) > 0 {
		t.Errorf("taken from disk: %v", other.cases)
	}
	small := NewTokenStore(10).of([32]byte{1})
	if more, err := small.keep(&dataset.Batch{Cases: cases[:1], Bags: [][]int{{0, 2}}}, encoded([]float32{1}, [][]int{{0, 2}}), total); err != nil || more {
		t.Errorf("48 bytes were kept in 10: %v %v", more, err)
	}
}
