package frocplot

import (
	"fmt"
	"image/png"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/alignedfusion/alignedfusion/eval/froc"
)

// curves are a system that finds every second of 40 lesions, with a band, and
// one without predictions.
func curves(t *testing.T) []Curve {
	t.Helper()
	truth := &froc.Truth{}
	var predictions []froc.Prediction
	for i := range 40 {
		truth.Images = append(truth.Images, froc.Image{ID: fmt.Sprint(i)})
		truth.Lesions = append(truth.Lesions, froc.Lesion{Image: i, Region: froc.Box(0, 0, 10, 10)})
		for k := range 4 {
			p := froc.Prediction{Image: i, Region: froc.Box(50, 50, 60, 60), Score: float64((i*7+k*13)%50) / 50}
			if k == 0 && i%2 == 0 {
				p.Region = froc.Box(0, 0, 10, 10)
			}
			predictions = append(predictions, p)
		}
	}
	full, err := froc.Evaluate(truth, predictions, froc.DeepLesion())
	if err != nil {
		t.Fatal(err)
	}
	empty, err := froc.Evaluate(truth, nil, froc.DeepLesion())
	if err != nil {
		t.Fatal(err)
	}
	low, high := Range(full.Protocol)
	band, err := full.Band(low, high, 20, froc.BootstrapOptions{Replicates: 50})
	if err != nil {
		t.Fatal(err)
	}
	return []Curve{{Name: "half found", Result: full, Band: band}, {Name: "nothing", Result: empty}}
}

func TestSaveWritesEveryFormat(t *testing.T) {
	dir := t.TempDir()
	for _, ending := range []string{".svg", ".png", ".pdf"} {
		path := filepath.Join(dir, "plot"+ending)
		if err := Save(path, Options{Title: "a title"}, curves(t)...); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if ending == ".svg" {
			for _, want := range []string{"<svg", "a title", "half found", "nothing", "sensitivity", "false positives per image", "1/4", "<path"} {
				if !strings.Contains(string(data), want) {
					t.Errorf("the SVG does not contain %q", want)
				}
			}
		}
	}
	file, err := os.Open(filepath.Join(dir, "plot.png"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	picture, err := png.Decode(file)
	if err != nil {
		t.Fatal(err)
	}
	if b := picture.Bounds(); b.Dx() < 400 || b.Dy() < 300 {
		t.Errorf("picture of %v", b)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 3 {
		t.Errorf("%d files are left, want 3 (%v)", len(entries), err)
	}
}

func TestSaveRefusesAndLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	all := curves(t)
	for _, c := range []struct {
		name    string
		options Options
		curves  []Curve
		want    string
	}{
		{"plot.gif", Options{}, all, `the ending is ".gif", want .svg, .png or .pdf`},
		{"plot.svg", Options{}, nil, "no curves"},
		{"plot.svg", Options{MinFPPI: 4, MaxFPPI: 1}, all, "must be positive and ascend"},
		{"absent/plot.svg", Options{}, all, "absent"},
	} {
		err := Save(filepath.Join(dir, c.name), c.options, c.curves...)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q", c.name, err, c.want)
		}
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("%d files are left (%v)", len(entries), err)
	}
}

// The drawn line is the interpolated curve and ends where the marks end.
func TestPointsFollowTheCurve(t *testing.T) {
	r := curves(t)[0].Result
	line := points(r, 0.25, 100)
	last := r.Curve[len(r.Curve)-1]
	if end := line[len(line)-1]; end.X != last.FPPI || end.Y != last.Sensitivity {
		t.Errorf("the line ends at %v, the curve at %v, %v", end, last.FPPI, last.Sensitivity)
	}
	for _, p := range line {
		if want := r.At(p.X).Sensitivity; p.Y != want {
			t.Errorf("at %v the line is at %v, the curve at %v", p.X, p.Y, want)
		}
	}
}
