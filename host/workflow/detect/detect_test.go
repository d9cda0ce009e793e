package detect

import (
	"math"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/alignedfusion/alignedfusion/internal/box"
)

var closely = cmpopts.EquateApprox(1e-9, 1e-9)

// found is a detection in short.
func found(x1, y1, x2, y2, score float64, class int) Box {
	return Box{Box: box.Box{X1: x1, Y1: y1, X2: x2, Y2: y2}, Score: score, Class: class}
}

func TestFuseIsTheScoreWeightedMean(t *testing.T) {
	got, err := Fuse([][]Box{
		{found(0, 0, 10, 10, 0.8, 0), found(50, 50, 60, 60, 0.6, 0)},
		{found(1, 0, 11, 10, 0.4, 0), found(0, 0, 10, 10, 0.5, 1)},
	}, FuseOptions{})
	if err != nil {
		t.Fatal(err)
	}
	want := []Box{
		// (0.8·0 + 0.4·1)/1.2 = 1/3; mean score 0.6, seen by both
		found(1.0/3, 0, 10+1.0/3, 10, 0.6, 0),
		// seen by one of two: half its score
		found(50, 50, 60, 60, 0.3, 0),
		// another class does not join
		found(0, 0, 10, 10, 0.25, 1),
	}
	if diff := cmp.Diff(want, got, closely); diff != "" {
		t.Error(diff)
	}
}

func TestFuseWeighsSources(t *testing.T) {
	got, err := Fuse([][]Box{{found(0, 0, 10, 10, 0.5, 0)}, {found(2, 0, 12, 10, 0.5, 0)}}, FuseOptions{Weights: []float64{3, 1}})
	if err != nil {
		t.Fatal(err)
	}
	// ranks 1.5 and 0.5: x1 = 0.5·2/2 = 0.5; score (1.5 + 0.5)/(3 + 1)
	if diff := cmp.Diff([]Box{found(0.5, 0, 10.5, 10, 0.5, 0)}, got, closely); diff != "" {
		t.Error(diff)
	}
	// Duplicates of one source do not count as agreement.
	got, err = Fuse([][]Box{{found(0, 0, 10, 10, 0.5, 0), found(0, 0, 10, 10, 0.5, 0)}, nil}, FuseOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]Box{found(0, 0, 10, 10, 0.25, 0)}, got, closely); diff != "" {
		t.Error(diff)
	}
}

func TestFuseOfOneSourceWithoutOverlapsChangesNothing(t *testing.T) {
	boxes := []Box{found(0, 0, 10, 10, 0.9, 0), found(20, 0, 30, 10, 0.7, 1), found(40, 0, 50, 10, 0.7, 0)}
	got, err := Fuse([][]Box{boxes}, FuseOptions{})
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(boxes, box.ByScore)
	if diff := cmp.Diff(boxes, got, closely); diff != "" {
		t.Error(diff)
	}
}

func drawBoxes(t *rapid.T, label string) []Box {
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Box {
		x, y := rapid.Float64Range(0, 50).Draw(t, "x"), rapid.Float64Range(0, 50).Draw(t, "y")
		return found(x, y, x+rapid.Float64Range(0, 20).Draw(t, "w"), y+rapid.Float64Range(0, 20).Draw(t, "h"),
			rapid.Float64Range(0, 1).Draw(t, "score"), rapid.IntRange(0, 1).Draw(t, "class"))
	}), 0, 12).Draw(t, label)
}

func TestFuseDoesNotDependOnTheOrderOfBoxes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := drawBoxes(t, "a"), drawBoxes(t, "b")
		want, err := Fuse([][]Box{a, b}, FuseOptions{})
		if err != nil {
			t.Fatal(err)
		}
		got, err := Fuse([][]Box{rapid.Permutation(a).Draw(t, "order"), b}, FuseOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got, closely, cmpopts.EquateEmpty()); diff != "" {
			t.Fatal(diff)
		}
		for _, f := range got {
			if !(f.Score >= 0 && f.Score <= 1) || f.X2 < f.X1-1e-9 || f.Y2 < f.Y1-1e-9 {
				t.Fatalf("fused box %+v", f)
			}
		}
	})
}

func TestFlipXTwiceIsTheSame(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		boxes := drawBoxes(t, "boxes")
		if diff := cmp.Diff(boxes, FlipX(FlipX(boxes, 64), 64), closely, cmpopts.EquateEmpty()); diff != "" {
			t.Fatal(diff)
		}
	})
	if diff := cmp.Diff([]Box{found(54, 1, 62, 5, 1, 0)}, FlipX([]Box{found(2, 1, 10, 5, 1, 0)}, 64)); diff != "" {
		t.Error(diff)
	}
}

func TestMergeFollowsALesionThroughSlices(t *testing.T) {
	volume := []Slice{
		{3, []Box{found(10, 10, 20, 20, 0.5, 0)}},
		{4, []Box{found(11, 10, 21, 20, 0.9, 0), found(60, 60, 70, 70, 0.4, 0)}},
		{5, []Box{found(12, 10, 22, 20, 0.7, 0), found(12, 10, 22, 20, 0.65, 1)}},
		{7, []Box{found(13, 10, 23, 20, 0.6, 0)}},
		{9, []Box{found(13, 10, 23, 20, 0.3, 0)}},
	}
	got, err := Merge(volume, MergeOptions{Gap: 1})
	if err != nil {
		t.Fatal(err)
	}
	want := []Finding{
		{10, 10, 23, 20, 3, 9, 0.9, 4, 0, 5},
		{12, 10, 22, 20, 5, 5, 0.65, 5, 1, 1},
		{60, 60, 70, 70, 4, 4, 0.4, 4, 0, 1},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	got, err = Merge(volume, MergeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 5 || got[0].Z1 != 3 || got[0].Z2 != 5 {
		t.Errorf("without a gap: %+v", got)
	}
}

func TestMergeUsesEveryBoxOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var volume []Slice
		boxes := 0
		for z := range rapid.IntRange(0, 6).Draw(t, "slices") {
			s := Slice{z, drawBoxes(t, "boxes")}
			boxes += len(s.Boxes)
			volume = append(volume, s)
		}
		found, err := Merge(volume, MergeOptions{IoU: rapid.Float64Range(0.01, 0.9).Draw(t, "iou"), Gap: rapid.IntRange(0, 2).Draw(t, "gap")})
		if err != nil {
			t.Fatal(err)
		}
		sum, last := 0, math.Inf(1)
		for _, f := range found {
			sum += f.Slices
			if f.Score > last || f.BestZ < f.Z1 || f.BestZ > f.Z2 || f.Slices > f.Z2-f.Z1+1 {
				t.Fatalf("finding %+v after score %g", f, last)
			}
			last = f.Score
		}
		if sum != boxes {
			t.Fatalf("%d boxes in findings, %d given", sum, boxes)
		}
	})
}

func TestOptionsThatMakeNoSense(t *testing.T) {
	for _, o := range []FuseOptions{{IoU: 1}, {IoU: math.NaN()}, {Weights: []float64{1}}, {Weights: []float64{1, 0}}, {Weights: []float64{1, math.Inf(1)}}} {
		if _, err := Fuse(make([][]Box, 2), o); err == nil {
			t.Errorf("%+v is accepted", o)
		}
	}
	for _, o := range []MergeOptions{{IoU: -1}, {IoU: math.NaN()}, {Gap: -1}} {
		if _, err := Merge(nil, o); err == nil {
			t.Errorf("%+v is accepted", o)
		}
	}
}
