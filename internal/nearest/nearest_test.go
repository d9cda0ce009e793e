package nearest

import (
	"testing"

	"pgregory.net/rapid"
)

func TestDistanceCountsWrongMissingAddedAndSwappedLetters(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{
		{"", "", 0}, {"", "abc", 3}, {"abc", "", 3}, {"abc", "abc", 0}, {"abc", "abd", 1}, {"abc", "ab", 1},
		{"ab", "abc", 1}, {"abcd", "acbd", 1}, {"ba", "ab", 1}, {"kitten", "sitting", 3}, {"abc", "xyz", 3}, {"abcd", "badc", 2},
	} {
		if got := distance(c.a, c.b); got != c.want {
			t.Errorf("distance(%q, %q) = %d, want %d", c.a, c.b, got, c.want)
		}
	}
}

func TestNameIsNearOrBeginsSo(t *testing.T) {
	known := []string{"deeplesion", "luna16", "lens", "itfusion", "compare"}
	for given, want := range map[string]string{"deepleison": "deeplesion", "luna": "luna16", "itf": "itfusion", "lenz": "lens", "foobar": "", "lu": ""} {
		if got := Name(given, known); got != want {
			t.Errorf("Name(%q) = %q, want %q", given, got, want)
		}
	}
}

func TestTypoIsASlipAndNotAnotherName(t *testing.T) {
	known := []string{"target.label", "target.boxes", "logits", "scores", "image", "joint"}
	for given, want := range map[string]string{
		"target.labels": "target.label", "target_label": "target.label", "TARGET.LABEL": "target.label", "tagret.label": "target.label",
		"target.lbl": "target.label", "target.lb": "", "logit": "logits", "Logits": "logits", "score": "scores", "lgoits": "logits", "jiont": "joint",
		"logits": "", "attention": "", "lo": "", "imagery": "", "points": "",
	} {
		if got := Typo(given, known); got != want {
			t.Errorf("Typo(%q) = %q, want %q", given, got, want)
		}
	}
}

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

func TestDistanceIsSymmetricAndZeroForEqualsAlone(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		word := rapid.StringOfN(rapid.RuneFrom([]rune("abc")), 0, 6, -1)
		a, b := word.Draw(t, "a"), word.Draw(t, "b")
		if (distance(a, b) == 0) != (a == b) {
			t.Fatalf("%q and %q are %d apart", a, b, distance(a, b))
		}
		if distance(a, b) != distance(b, a) {
			t.Fatalf("%q to %q is not as far as back", a, b)
		}
		if got := distance(a+"x", a); got != 1 {
			t.Fatalf("one letter more is %d away", got)
		}
	})
}

func TestMeantNamesWhatIsNearAndNothingElse(t *testing.T) {
	known := []string{"deeplesion", "luna16", "lens", "val"}
	for given, want := range map[string]string{
		"deeplesoin": `; did you mean "deeplesion"?`, "valid": `; did you mean "val"?`, "LUNA-16": `; did you mean "luna16"?`,
		"lens": "", "nonsense": "", "": "", "x": "",
	} {
		if got := Meant(given, known); got != want {
			t.Errorf("%q: %q, want %q", given, got, want)
		}
	}
}
