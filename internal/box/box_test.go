package box

import (
	"math"
	"testing"

	"pgregory.net/rapid"
)

func draw(t *rapid.T, label string) Box {
	side := rapid.IntRange(-20, 20)
	x, y := side.Draw(t, label+" x"), side.Draw(t, label+" y")
	w, h := rapid.IntRange(0, 15).Draw(t, label+" w"), rapid.IntRange(0, 15).Draw(t, label+" h")
	return Box{float64(x), float64(y), float64(x + w), float64(y + h)}
}

func TestIoUOfKnownBoxes(t *testing.T) {
	for name, c := range map[string]struct {
		a, b Box
		want float64
	}{
		"the same":          {Box{0, 0, 10, 4}, Box{0, 0, 10, 4}, 1},
		"a shared corner":   {Box{0, 0, 4, 6}, Box{2, 3, 6, 9}, 6.0 / 42}, // 2 wide, 3 high
		"one in the other":  {Box{0, 0, 10, 10}, Box{2, 2, 4, 7}, 0.1},
		"a shared side":     {Box{0, 0, 10, 10}, Box{10, 0, 20, 10}, 0},
		"apart in x":        {Box{0, 0, 10, 10}, Box{12, 0, 20, 10}, 0},
		"apart in y":        {Box{0, 0, 10, 10}, Box{0, 12, 10, 20}, 0},
		"empty in the same": {Box{5, 5, 5, 5}, Box{5, 5, 5, 5}, 0},
	} {
		if got := IoU(c.a, c.b); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

// On whole coordinates a box is a set of unit squares: counting them is an independent way.
func TestIoUCountsUnitSquares(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := draw(t, "a"), draw(t, "b")
		within := func(box Box, x, y float64) bool { return x >= box.X1 && x < box.X2 && y >= box.Y1 && y < box.Y2 }
		both, either := 0, 0
		for x := -20.0; x < 36; x++ {
			for y := -20.0; y < 36; y++ {
				inA, inB := within(a, x, y), within(b, x, y)
				if inA && inB {
					both++
				}
				if inA || inB {
					either++
				}
			}
		}
		want := 0.0
		if either > 0 {
			want = float64(both) / float64(either)
		}
		if got := IoU(a, b); math.Abs(got-want) > 1e-12 || got != IoU(b, a) {
			t.Fatalf("%v and %v: %v, want %v", a, b, got, want)
		}
	})
}

func TestBoxAlgebra(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := draw(t, "a"), draw(t, "b")
		around := a.Enclose(b)
		if !a.Within(around) || !b.Within(around) || around.Area() < max(a.Area(), b.Area()) || around != b.Enclose(a) {
			t.Fatalf("%v does not enclose %v and %v", around, a, b)
		}
		if (a.Enclose(b) == b) != a.Within(b) {
			t.Fatalf("%v in %v", a, b)
		}
		cut := a.Clip(b)
		if !cut.Valid() || !cut.Within(b) || cut.Clip(b) != cut || a.Within(b) && cut != a {
			t.Fatalf("%v clipped to %v is %v", a, b, cut)
		}
		if a.Touches(b) != b.Touches(a) || a.Touches(b) != cut.Within(a) || IoU(a, b) > 0 && !a.Touches(b) {
			t.Fatalf("%v touches %v: %v", a, b, a.Touches(b))
		}
		if a.FlipX(7).FlipX(7) != a || a.FlipX(7).Area() != a.Area() {
			t.Fatalf("%v flipped is %v", a, a.FlipX(7))
		}
		if a.Compare(b) != -b.Compare(a) || (a.Compare(b) == 0) != (a == b) {
			t.Fatalf("%v against %v: %d", a, b, a.Compare(b))
		}
	})
}

func TestPartsOfABox(t *testing.T) {
	b := Box{1, 2, 4, 12}
	if x, y := b.Centre(); x != 2.5 || y != 7 || b.Area() != 30 || b.Grow(1) != (Box{0, 1, 5, 13}) || b.FlipX(10) != (Box{6, 2, 9, 12}) {
		t.Errorf("centre %v, %v, area %v, grown %v, flipped %v", x, y, b.Area(), b.Grow(1), b.FlipX(10))
	}
	if got := (Box{1, 2.5, 1.0 / 3, 1e10}).String(); got != "(1, 2.5, 0.3333333, 1e+10)" {
		t.Error(got)
	}
	for name, b := range map[string]Box{"x": {2, 0, 1, 1}, "y": {0, 2, 1, 1}, "NaN": {math.NaN(), 0, 1, 1}} {
		if b.Valid() || b.Area() > 0 {
			t.Errorf("%s: %v is a box", name, b)
		}
	}
	if edge := (Box{3, 3, 3, 3}); !edge.Valid() || !edge.Touches(Box{0, 0, 3, 3}) || edge.Touches(Box{0, 0, 2, 3}) || edge.Touches(Box{0, 4, 3, 5}) {
		t.Error("a point on the border")
	}
}

func TestOrderOfDetections(t *testing.T) {
	first := Detection{Box{0, 0, 1, 1}, 0.9, 1}
	for name, later := range map[string]Detection{
		"score": {Box{0, 0, 1, 1}, 0.8, 0}, "class": {Box{0, 0, 1, 1}, 0.9, 2}, "position": {Box{0, 0, 1, 2}, 0.9, 1},
	} {
		if ByScore(first, later) >= 0 || ByScore(later, first) <= 0 {
			t.Errorf("%s does not decide", name)
		}
	}
	if ByScore(first, first) != 0 {
		t.Error("equal detections differ")
	}
}
