package frocplot

import (
	"bytes"
	"fmt"
	"image/png"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/recorder"

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
			for _, want := range []string{"<svg", "<title>a title</title>", "<desc>half found; nothing</desc>", "<path"} {
				if !strings.Contains(string(data), want) {
					t.Errorf("the SVG does not contain %q", want)
				}
			}
			if strings.Contains(string(data), "<text") {
				t.Error("the SVG has text that needs a font")
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
	if b := picture.Bounds(); b.Dx() != 6*dotsPerInch || b.Dy() < 4*dotsPerInch {
		t.Errorf("picture of %v", b)
	}
	// 300 dots per inch are 11811 per metre.
	if data, err := os.ReadFile(filepath.Join(dir, "plot.png")); err != nil || !bytes.Contains(data[:80], []byte("pHYs\x00\x00\x2e\x23\x00\x00\x2e\x23\x01")) {
		t.Errorf("the PNG does not say its size on paper (%v): %q", err, data[:80])
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
		{"plot.svg", Options{Kind: "roc"}, all, `kind "roc", want froc, afroc or afroc1`},
		{"plot.svg", Options{Kind: AFROC}, all, "every image has a lesion"},
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
	line := points(r, 0.25, 100, false)
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

// A linear axis begins at 0, where the curve has its own value.
// A system with less false positives than the axis begins with is a dot, not an empty picture.
func TestACurveThatEndsBeforeTheAxisIsADot(t *testing.T) {
	truth := &froc.Truth{Images: make([]froc.Image, 8), Lesions: []froc.Lesion{{Region: froc.Box(0, 0, 9, 9)}}}
	for i := range truth.Images {
		truth.Images[i].ID = fmt.Sprint(i)
	}
	r, err := froc.Evaluate(truth, []froc.Prediction{{Region: froc.Box(0, 0, 9, 9), Score: 1}, {Image: 1, Region: froc.Box(0, 0, 9, 9), Score: 0.5}}, froc.DeepLesion())
	if err != nil {
		t.Fatal(err)
	}
	p, err := build(Options{}, []Curve{{Name: "sparing", Result: r}})
	if err != nil {
		t.Fatal(err)
	}
	var canvas recorder.Canvas
	p.Draw(draw.NewCanvas(&canvas, 300, 300))
	filled := false
	for n, a := range canvas.Actions {
		if set, ok := a.(*recorder.SetColor); ok && set.Color == lineOf(0).Color {
			_, fill := canvas.Actions[n+1].(*recorder.Fill)
			filled = filled || fill
		}
	}
	if !filled {
		t.Error("nothing is drawn of it")
	}
}

func TestALinearAxisBeginsAtZero(t *testing.T) {
	all := curves(t)
	p, err := build(Options{Linear: true}, all)
	if err != nil || p.X.Min != 0 {
		t.Fatal(err, p)
	}
	if line := points(all[0].Result, 0, 4, true); line[0].X != 0 || line[0].Y != all[0].Result.At(0).Sensitivity {
		t.Errorf("the line begins at %v", line[0])
	}
}

func TestTheTitleSaysHowManyThereAre(t *testing.T) {
	p, err := build(Options{Kind: AFROC1}, curves(t))
	if err != nil || p.Title.Text != "AFROC1, protocol deeplesion\nn = 40 images, 40 patients, 40 lesions" {
		t.Error(p.Title.Text, err)
	}
}

// The legend lies below the axes, inside the picture, and no name touches another: however
// many and long they are.
func TestTheLegendTouchesNeitherLinesNorItself(t *testing.T) {
	r := curves(t)[0].Result
	for _, names := range [][]string{{"a"}, {"a", "b", "c", "d", "e", "f", "g", "h", "i"}, {strings.Repeat("a long name ", 20), "b"}, {"fusion, organ lung (1234 lesions)", "none, organ abdomen (5 lesions)", "x"}} {
		var all []Curve
		for _, n := range names {
			all = append(all, Curve{Name: n, Result: r})
		}
		p, err := build(Options{}, all)
		if err != nil {
			t.Fatal(err)
		}
		const width, height = 6 * vg.Inch, 4.5 * vg.Inch
		l := newLegend(all, p.Legend.TextStyle, width)
		whole := draw.New(newPage("svg", width, height+l.height()))
		lowest := p.DataCanvas(draw.Crop(whole, 0, 0, l.height(), 0)).Min.Y
		var places []vg.Rectangle
		for n, name := range l.names {
			at := l.place(n, 0, l.height())
			if at.Max.Y >= lowest || at.Min.Y < 0 || at.Min.X < 0 || at.Max.X > width {
				t.Errorf("%q lies at %v, the axes above %v, the picture is %v wide", name, at, lowest, width)
			}
			if w := l.style.Width(name) + legendSwatch + legendGap; w > at.Max.X-at.Min.X {
				t.Errorf("%q is %v wide, its place %v", name, w, at.Max.X-at.Min.X)
			}
			for _, other := range places {
				if at.Min.X < other.Max.X-1e-6 && other.Min.X < at.Max.X-1e-6 && at.Min.Y < other.Max.Y-1e-6 && other.Min.Y < at.Max.Y-1e-6 {
					t.Errorf("%q at %v lies on %v", name, at, other)
				}
			}
			places = append(places, at)
		}
	}
}

// The outlines of a text reach as far as the layout takes it to be wide.
func TestOutlinesOfTextAreAsWideAsMeasured(t *testing.T) {
	p, err := build(Options{}, curves(t))
	if err != nil {
		t.Fatal(err)
	}
	style := p.Legend.TextStyle
	face := font.DefaultCache.Lookup(style.Font, style.Font.Size)
	var right vg.Length
	for _, c := range textPath(face, vg.Point{}, "nnn") {
		right = max(right, c.Pos.X)
	}
	if w := face.Width("nnn"); right < 0.9*w || right > w {
		t.Errorf("the outlines end at %v, the width is %v", right, w)
	}
}
