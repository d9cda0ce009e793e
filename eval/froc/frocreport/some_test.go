package frocreport

import (
	"fmt"
	"math/rand/v2"
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

func TestABadDetectorIsNotCalledMisread(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	between := func(low, high float64) float64 { return low + float64(rng.Float64()*(high-low)) }
	called, seen := 0, 0
	for range 200 {
		truth, misread := &frocio.Truth{Truth: &froc.Truth{}}, []froc.Prediction(nil)
		var marks []froc.Prediction
		for i := range 8 {
			w, h := between(6, 40), between(6, 40)
			x, y := between(0, 128-w), between(0, 128-h)
			truth.Images = append(truth.Images, froc.Image{ID: fmt.Sprint("scan", i)})
			truth.Lesions = append(truth.Lesions, froc.Lesion{Image: i, Region: froc.Box(x, y, x+w, y+h)})
			for k := range 6 {
				mw, mh := w*between(0.4, 2.2), h*between(0.4, 2.2)
				mx, my := between(0, 128-mw), between(0, 128-mh)
				if k == 0 { // near the lesion, but not on it
					mx, my = x+float64(w*between(-1.2, 1.2)), y+float64(h*between(-1.2, 1.2))
				}
				marks = append(marks, froc.Prediction{Image: i, Region: froc.Box(mx, my, mx+mw, my+mh), Score: rng.Float64()})
			}
			mx, my := x+float64(w*between(-0.1, 0.1)), y+float64(h*between(-0.1, 0.1))
			misread = append(misread, froc.Prediction{Image: i, Region: froc.Box(my, mx, my+h, mx+w), Score: rng.Float64()})
		}
		for _, one := range []struct {
			marks []froc.Prediction
			count *int
		}{{marks, &called}, {misread, &seen}} {
			r, err := froc.Evaluate(truth.Truth, one.marks, froc.StrictProtocol())
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(noOverlap("marks.csv", truth, r), "lesions would have one") {
				*one.count++
			}
		}
	}
	if called > 2 || seen < 190 {
		t.Errorf("of 200 bad detectors %d are called misread, of 200 misread files %d", called, seen)
	}
}
