package embed

import (
	"math"
	"testing"
)

func cosine(a, b []float32) float64 {
	ab, aa, bb := 0.0, 0.0, 0.0
	for i := range a {
		ab, aa, bb = ab+float64(a[i]*b[i]), aa+float64(a[i]*a[i]), bb+float64(b[i]*b[i])
	}
	return ab / math.Sqrt(aa*bb)
}

func TestCenteredValuesArePartedAndKeepTheirAttribute(t *testing.T) {
	// Two attributes whose values lie at cosine .98 within, and .38 between the attributes.
	one := [][]float32{{1, 0.2, 0.1, 0}, {1, 0.2, -0.1, 0}}
	two := [][]float32{{0.2, 1, 0, 0.1}, {0.2, 1, 0, -0.1}}
	if c := cosine(one[0], one[1]); c < 0.97 {
		t.Fatalf("the values lie at cosine %.3f, want close together", c)
	}
	a, b := Centered(one, one[0]), Centered(one, one[1])
	if c := cosine(a, b); math.Abs(c) > 1e-6 {
		t.Errorf("two centred values lie at cosine %.3f, want 0: as much is shared as is not", c)
	}
	if c := cosine(a, Centered(two, two[0])); c > 0.3 {
		t.Errorf("values of two attributes lie at cosine %.3f, want far apart", c)
	}
	if c := cosine(a, a) * math.Sqrt(float64(a[0]*a[0]+a[1]*a[1]+a[2]*a[2]+a[3]*a[3])); math.Abs(c-1) > 1e-6 {
		t.Errorf("a centred value has length %.4f, want 1", c)
	}
}

func TestWhatCannotBeCenteredStays(t *testing.T) {
	v := []float32{1, 2}
	for name, got := range map[string][]float32{
		"one value":    Centered([][]float32{v}, v),
		"equal values": Centered([][]float32{v, v}, v),
	} {
		if got[0] != 1 || got[1] != 2 {
			t.Errorf("%s: %v, want it as it was", name, got)
		}
	}
	if got := Centered([][]float32{v, {3, 4}}, []float32{0, 0}); got[0] != 0 || got[1] != 0 {
		t.Errorf("an unmentioned attribute became %v, want zeros", got)
	}
}
