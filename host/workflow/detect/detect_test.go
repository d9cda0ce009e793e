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

// What ensemble-boxes 1.0.9 of PyPI (by the authors of weighted box fusion) gives for boxes of
// three sources with its weighted_boxes_fusion (iou_thr .55) and nms (iou_thr .5); it computes
// in single precision.
func TestFuseAndSuppressEqualEnsembleBoxes(t *testing.T) {
	sources := [][]Box{
		{found(0.036, 0.056, 0.183, 0.181, 0.411, 0), found(0.3, 0.081, 0.447, 0.283, 0.177, 0), found(0.513, 0.485, 0.689, 0.665, 0.906, 1),
			found(0.746, 0.119, 0.882, 0.364, 0.346, 0), found(0.085, 0.592, 0.313, 0.887, 0.594, 1), found(0.305, 0.112, 0.423, 0.272, 0.275, 1),
			found(0.544, 0.342, 0.644, 0.462, 0.191, 1)},
		{found(0.04, 0.037, 0.211, 0.163, 0.355, 0), found(0.294, 0.098, 0.454, 0.283, 0.535, 0), found(0.494, 0.517, 0.697, 0.678, 0.166, 1),
			found(0.762, 0.113, 0.894, 0.344, 0.522, 0), found(0.294, 0.101, 0.448, 0.273, 0.721, 1), found(0.248, 0.462, 0.348, 0.582, 0.357, 1)},
		{found(0.045, 0.057, 0.181, 0.178, 0.243, 0), found(0.282, 0.111, 0.435, 0.29, 0.432, 0), found(0.748, 0.102, 0.915, 0.363, 0.834, 0),
			found(0.097, 0.594, 0.315, 0.918, 0.228, 1), found(0.299, 0.099, 0.439, 0.294, 0.323, 1), found(0.003, 0.335, 0.103, 0.455, 0.216, 1)},
	}
	single := cmpopts.EquateApprox(1e-6, 1e-7)
	fused, err := Fuse(sources, FuseOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]Box{
		found(0.751887143, 0.10882961, 0.9018507, 0.357376039, 0.567333341, 0),
		found(0.297517806, 0.10280364, 0.440583795, 0.277934045, 0.439666659, 1),
		found(0.290396839, 0.100278847, 0.44574213, 0.285643369, 0.381333321, 0),
		found(0.510057867, 0.489955246, 0.690238774, 0.667013049, 0.357333342, 1),
		found(0.0395748243, 0.0495559983, 0.19236967, 0.173944503, 0.336333334, 0),
		found(0.0883284658, 0.592554748, 0.313554734, 0.895598531, 0.274000009, 1),
		found(0.248, 0.462, 0.348, 0.582, 0.119, 1),
		found(0.003, 0.335, 0.103, 0.455, 0.072, 1),
		found(0.544, 0.342, 0.644, 0.462, 0.0636666667, 1),
	}, fused, single); diff != "" {
		t.Errorf("wbf: %s", diff)
	}
	if diff := cmp.Diff([]Box{
		sources[0][2], sources[2][2], sources[1][4], sources[0][4], sources[1][1], sources[0][0], sources[1][5], sources[2][5], sources[0][6],
	}, Suppress(sources)); diff != "" {
		t.Errorf("nms: %s", diff)
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
	for _, o := range []FuseOptions{{IoU: 1}, {IoU: -0.5}, {IoU: math.NaN()}, {Weights: []float64{1}}, {Weights: []float64{1, 0}}, {Weights: []float64{1, math.Inf(1)}}} {
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

// spans are the first and last slices of findings.
func spans(found []Finding) (out [][2]int) {
	for _, f := range found {
		out = append(out, [2]int{f.Z1, f.Z2})
	}
	return out
}

func TestMergeJoinsFromTheThresholdOn(t *testing.T) {
	first := found(0, 0, 10, 10, 0.9, 0)
	for name, c := range map[string]struct {
		next Box
		iou  float64
		want [][2]int
	}{
		"at the default of 0.4": {found(0, 0, 4, 10, 0.5, 0), 0, [][2]int{{1, 2}}},
		"below it":              {found(0, 0, 3.9, 10, 0.5, 0), 0, [][2]int{{1, 1}, {2, 2}}},
		"at one's own":          {found(0, 0, 7, 10, 0.5, 0), 0.7, [][2]int{{1, 2}}},
		"below one's own":       {found(0, 0, 6.9, 10, 0.5, 0), 0.7, [][2]int{{1, 1}, {2, 2}}},
	} {
		got, err := Merge([]Slice{{1, []Box{first}}, {2, []Box{c.next}}}, MergeOptions{IoU: c.iou})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(c.want, spans(got)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestMergeTakesTheBoxThatOverlapsMost(t *testing.T) {
	seed := found(0, 0, 10, 10, 0.9, 0)
	exact, shifted := found(0, 0, 10, 10, 0.3, 0), found(2, 0, 12, 10, 0.8, 0)
	for name, next := range map[string][]Box{"most first": {exact, shifted}, "most last": {shifted, exact}} {
		got, err := Merge([]Slice{{1, []Box{seed}}, {2, next}}, MergeOptions{})
		if err != nil {
			t.Fatal(err)
		}
		want := []Finding{{0, 0, 10, 10, 1, 2, 0.9, 1, 0, 2}, {2, 0, 12, 10, 2, 2, 0.8, 2, 0, 1}}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	// of two that overlap as much, the one with the higher score: it lies left, the other right
	left, right := found(-2, 0, 8, 10, 0.5, 0), found(2, 0, 12, 10, 0.4, 0)
	for name, next := range map[string][]Box{"left first": {left, right}, "right first": {right, left}} {
		got, err := Merge([]Slice{{1, []Box{seed}}, {2, next}}, MergeOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if got[0].X1 != -2 || got[0].X2 != 10 || len(got) != 2 {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func TestMergeBeginsWithTheLowerSliceOfEquals(t *testing.T) {
	b := []Box{found(0, 0, 10, 10, 0.5, 0)}
	got, err := Merge([]Slice{{5, b}, {1, b}, {3, b}}, MergeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([][2]int{{1, 1}, {3, 3}, {5, 5}}, spans(got)); diff != "" {
		t.Error(diff)
	}
}

func TestScoresBelowTheLeastAreDropped(t *testing.T) {
	boxes := []Box{found(0, 0, 10, 10, 0.5, 0), found(20, 0, 30, 10, 0.49, 0)}
	fused, err := Fuse([][]Box{boxes}, FuseOptions{MinScore: 0.5})
	if err != nil || len(fused) != 1 {
		t.Errorf("fused %+v (%v)", fused, err)
	}
	merged, err := Merge([]Slice{{1, boxes}}, MergeOptions{MinScore: 0.5})
	if err != nil || len(merged) != 1 {
		t.Errorf("merged %+v (%v)", merged, err)
	}
}

func TestFuseJoinsAboveTheThresholdAlone(t *testing.T) {
	a := found(0, 0, 10, 10, 0.9, 0)
	for name, c := range map[string]struct {
		b    Box
		iou  float64
		want int
	}{
		"at 0.55":         {found(0, 0, 5.5, 10, 0.9, 0), 0, 2},
		"above 0.55":      {found(0, 0, 5.6, 10, 0.9, 0), 0, 1},
		"at one's own":    {found(0, 0, 3, 10, 0.9, 0), 0.3, 2},
		"above one's own": {found(0, 0, 3.1, 10, 0.9, 0), 0.3, 1},
	} {
		got, err := Fuse([][]Box{{a}, {c.b}}, FuseOptions{IoU: c.iou})
		if err != nil || len(got) != c.want {
			t.Errorf("%s: %+v (%v), want %d boxes", name, got, err, c.want)
		}
	}
}
