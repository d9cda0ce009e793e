package frocreport

import (
	"fmt"
	"strings"
	"testing"

	"github.com/alignedfusion/alignedfusion/eval/froc"
	"github.com/alignedfusion/alignedfusion/eval/froc/frocio"
)

func TestOfManyMarksThoseOfSomeImagesTellTheCause(t *testing.T) {
	defer func(n int) { mostMarks = n }(mostMarks)
	mostMarks = 30
	truth := &frocio.Truth{Truth: &froc.Truth{}}
	var marks []froc.Prediction
	for i := range 200 {
		x, y := float64(10+i%7), float64(300+i%5)
		truth.Images = append(truth.Images, froc.Image{ID: fmt.Sprint("scan", i)})
		truth.Lesions = append(truth.Lesions, froc.Lesion{Image: i, Region: froc.Box(x, y, x+20, y+20)})
		marks = append(marks, froc.Prediction{Image: i, Region: froc.Box(y, x, y+20, x+20), Score: float64(i)})
	}
	r, err := froc.Evaluate(truth.Truth, marks, froc.StrictProtocol())
	if err != nil {
		t.Fatal(err)
	}
	said := noOverlap("marks.csv", truth, r)
	for _, want := range []string{"no mark touches a lesion (in some of the images", "x and y seem to be swapped", "y 300 to 324"} {
		if !strings.Contains(said, want) {
			t.Errorf("%q does not say %q", said, want)
		}
	}
	if p := placesOf(r); len(p.marks) < 5 || len(p.marks) > 100 {
		t.Errorf("%d marks of 200 were looked at, want about a seventh", len(p.marks))
	}
}
