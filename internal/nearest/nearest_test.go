package nearest

import (
	"testing"

	"pgregory.net/rapid"
)

func TestNearestName(t *testing.T) {
	known := []string{"epochs", "crop", "lr", "loss"}
	for given, want := range map[string]string{"epocs": "epochs", "crp": "crop", "crops": "crop", "Loss": "loss", "lr": "lr", "temperature": "", "zzz": ""} {
		if got := Name(given, known); got != want {
			t.Errorf("%q gives %q, want %q", given, got, want)
		}
	}
	if got := Name("x", nil); got != "" {
		t.Errorf("%q of no names", got)
	}
	if got := Name("cat", []string{"bat", "hat"}); got != "bat" {
		t.Errorf("%q of two that are equally near, want the first", got)
	}
}

func TestDistanceIsAMetric(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		word := rapid.StringOfN(rapid.RuneFrom([]rune("abc")), 0, 6, -1)
		a, b, c := word.Draw(t, "a"), word.Draw(t, "b"), word.Draw(t, "c")
		if (distance(a, b) == 0) != (a == b) {
			t.Fatalf("%q and %q are %d apart", a, b, distance(a, b))
		}
		if distance(a, b) != distance(b, a) {
			t.Fatalf("%q to %q is not as far as back", a, b)
		}
		if distance(a, c) > distance(a, b)+distance(b, c) {
			t.Fatalf("%q to %q is shorter by way of %q", a, c, b)
		}
		if got := distance(a+"x", a); got != 1 {
			t.Fatalf("one letter more is %d away", got)
		}
	})
}
