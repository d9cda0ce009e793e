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

func TestMisreadBoxesInSpaceAreSaid(t *testing.T) {
	type box = [6]float64 // the least corner, then the sides
	for _, c := range []struct {
		want string
		mark func(b box) froc.Region
	}{
		{"the marks seem to be the centre and the sides", func(b box) froc.Region { // read as the least corner and the sides
			x, y, z := b[0]+b[3]/2, b[1]+b[4]/2, b[2]+b[5]/2
			return froc.Box3D(x, y, z, x+b[3], y+b[4], z+b[5])
		}},
		{"the marks seem to be corners that were read as the centre and the sides", func(b box) froc.Region {
			w, h, d := b[0]+b[3], b[1]+b[4], b[2]+b[5]
			return froc.Box3D(b[0]-w/2, b[1]-h/2, b[2]-d/2, b[0]+w/2, b[1]+h/2, b[2]+d/2)
		}},
		{"x and z seem to be swapped", func(b box) froc.Region {
			return froc.Box3D(b[2], b[1], b[0], b[2]+b[5], b[1]+b[4], b[0]+b[3])
		}},
	} {
		truth := &frocio.Truth{Truth: &froc.Truth{}}
		var marks []froc.Prediction
		for i := range 8 {
			b := box{float64(100 + 9*i), float64(200 + 7*i), float64(40 + 5*i), 12, 20, 6}
			truth.Images = append(truth.Images, froc.Image{ID: fmt.Sprint("scan", i)})
			truth.Lesions = append(truth.Lesions, froc.Lesion{Image: i, Region: froc.Box3D(b[0], b[1], b[2], b[0]+b[3], b[1]+b[4], b[2]+b[5])})
			marks = append(marks, froc.Prediction{Image: i, Region: c.mark(b), Score: float64(i)})
		}
		r, err := froc.Evaluate(truth.Truth, marks, froc.StrictProtocol())
		if err != nil {
			t.Fatal(err)
		}
		if said := noOverlap("marks.csv", truth, r); !strings.Contains(said, c.want) {
			t.Errorf("%q does not say %q", said, c.want)
		}
	}
}

func TestDistancesBetweenSharesOfSidesAreSaid(t *testing.T) {
	truth := &froc.Truth{Images: []froc.Image{{ID: "a"}}, Lesions: []froc.Lesion{{Region: froc.Box(0.1, 0.2, 0.3, 0.45)}}}
	for rule, want := range map[string]bool{"distance<=5": true, "distance<max(0.5*radius,3)": true, "distance<radius": false, "iou>=0.5": false, "distance<=0.1": false} {
		p := froc.StrictProtocol()
		var err error
		if p.Hit, err = froc.ParseHit(rule); err != nil {
			t.Fatal(err)
		}
		if said := warnShares("t.csv", truth, p); (said != "") != want {
			t.Errorf("%s: %q", rule, said)
		}
	}
}
