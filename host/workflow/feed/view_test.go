package feed

import (
	"slices"
	"strings"
	"testing"
)

func TestViewsAreEachOnceAndBeginWithThePictureAsItIs(t *testing.T) {
	views, err := Views([]string{"scales", "mirror", "turns", "flips"})
	if err != nil || len(views) != 10 || views[0] != (View{}) {
		t.Fatalf("%v (%v), want 10 that begin as it is", views, err)
	}
	for i, v := range views {
		if slices.Contains(views[:i], v) {
			t.Errorf("%+v comes twice", v)
		}
	}
	if _, err := Views([]string{"flip"}); err == nil || !strings.Contains(err.Error(), `did you mean "flips"?`) {
		t.Errorf("%v, want the nearest name", err)
	}
}
