package dataset

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/alignedfusion/alignedfusion/internal/box"
)

func TestBalancedSamplerDrawsEveryClassEquallyOften(t *testing.T) {
	d := manyPictures(t, 12)
	for i := range d.Cases { // one in six is of the rare class
		d.Cases[i].Labels = map[string]int{"label": map[bool]int{true: 1}[i%6 == 0]}
	}
	draw := func(epoch int) []*Batch {
		return batches(t, d, d.Cases, LoaderOptions{Batch: 4, Shuffle: true, Balance: true, Epoch: epoch, Load: LoadOptions{Size: 16, Augment: PictureAugment()}})
	}
	all := draw(0)
	counts, seen := map[int]int{}, map[string]int{}
	for _, b := range all {
		for i, c := range b.Cases {
			counts[c.Labels["label"]]++
			size := len(b.Tensors["image.main"].Data) / len(b.Cases)
			seen[fmt.Sprintf("%s %x", c.ID, b.Tensors["image.main"].Data[i*size:(i+1)*size])]++
		}
	}
	if counts[0] != 6 || counts[1] != 6 {
		t.Errorf("%v cases of each class, want 6 and 6", counts)
	}
	if len(seen) != 12 { // a case that comes again is varied anew
		t.Errorf("%d different samples, want 12", len(seen))
	}
	if !equalBatches(t, all, draw(0)) || equalBatches(t, all, draw(1)) {
		t.Error("the draw is not a function of seed and epoch")
	}
}

func TestProcessesShareTheBatchesOfOne(t *testing.T) {
	d := manyPictures(t, 11)
	for _, c := range []struct{ ranks, batch, want int }{{2, 2, 2}, {3, 1, 3}, {2, 8, 1}} { // the last has one batch of all
		o := LoaderOptions{Batch: c.batch * c.ranks, Shuffle: true, DropLast: c.want > 1, Load: LoadOptions{Size: 16}}
		whole := batches(t, d, d.Cases, o)
		if o.Batch = c.batch; len(whole) != c.want {
			t.Fatalf("%d batches, want %d", len(whole), c.want)
		}
		got, weights := make([][]string, len(whole)), make([]float64, len(whole))
		for o.Ranks = c.ranks; o.Rank < c.ranks; o.Rank++ {
			for i, b := range batches(t, d, d.Cases, o) {
				weights[i] += b.Weight
				for _, one := range b.Cases {
					got[i] = append(got[i], one.ID)
				}
				if share := b.Weight / float64(c.ranks) * float64(len(whole[i].Cases)); math.Abs(share-float64(len(b.Cases))) > 1e-9 {
					t.Errorf("%+v: a part of %d of %d cases has the weight %g", c, len(b.Cases), len(whole[i].Cases), b.Weight)
				}
			}
		}
		for i, b := range whole {
			var want []string
			for _, one := range b.Cases {
				want = append(want, one.ID)
			}
			if !slices.Equal(got[i], want) || math.Abs(weights[i]-float64(c.ranks)) > 1e-9 {
				t.Errorf("%+v: batch %d has the cases %v with weights of %g in all, want %v", c, i, got[i], weights[i], want)
			}
		}
	}
	if _, err := NewLoader(t.Context(), d, d.Cases[:2], LoaderOptions{Ranks: 3}); !errors.Is(err, ErrData) {
		t.Errorf("2 cases for 3 processes: %v", err)
	}
}

func TestBalancedSamplerTakesAnImagesRarestClass(t *testing.T) {
	of := func(classes ...int) Case {
		var c Case
		for _, k := range classes {
			c.Boxes = append(c.Boxes, Box{Box: box.Box{X2: 1, Y2: 1}, Class: k})
		}
		return c
	}
	cases := []Case{of(0), of(0), of(0, 1), of(0), of(), of()} // class 1 is rare, two images have none
	got := balanced(cases, []int{0, 1, 2, 3, 4, 5})
	if want := []int{4, 0, 2, 5, 1, 2}; !slices.Equal(got, want) {
		t.Errorf("drew %v, want %v", got, want)
	}
}
