package page

import (
	"encoding/json"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/alignedfusion/alignedfusion/host/config"
	"github.com/alignedfusion/alignedfusion/host/dataset"
	"github.com/alignedfusion/alignedfusion/host/workflow"
	"github.com/alignedfusion/alignedfusion/host/workflow/predictions"
	"github.com/alignedfusion/alignedfusion/internal/box"
)

// predicted is the example with a mark on each lesion but those of the first image that has
// any, and a false positive in the second.
func predicted(t *testing.T) *workflow.PredictResult {
	t.Helper()
	e := newExample(t)
	r := &workflow.PredictResult{Config: &config.Config{}, Data: e.data, Evaluable: true}
	r.Config.Task, r.Config.DataSettings.Protocol = config.Detect, "deeplesion"
	first, alarmed := true, false
	for i := range e.data.Cases {
		with := false
		c := e.data.Cases[i]
		c.HasTargets = true
		p := predictions.Prediction{}
		for _, b := range c.Boxes {
			if !first {
				p.Boxes = append(p.Boxes, predictions.Box{Box: b.Box, Score: 0.5})
			}
			if !first && !alarmed {
				alarmed = true
				p.Boxes = append(p.Boxes, predictions.Box{Box: box.Box{X1: 1, Y1: 1, X2: 6, Y2: 6}, Score: 0.75})
			}
			with = true
		}
		first = first && !with
		r.Cases, r.Predictions = append(r.Cases, c), append(r.Predictions, p)
	}
	return r
}

// drawn counts the pixels of each kind's colour in a picture.
func drawn(t *testing.T, path string) map[string]int {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	p, err := png.Decode(f)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]int{}
	for y := p.Bounds().Min.Y; y < p.Bounds().Max.Y-2*lineHeight; y++ {
		for x := range p.Bounds().Dx() {
			c := color.RGBAModel.Convert(p.At(x, y)).(color.RGBA)
			for kind, s := range strokes {
				if c == s.colour {
					out[kind]++
				}
			}
		}
	}
	return out
}

func TestOverlaysShowMissedLesionsFirstInTheirColours(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "drawn")
	said, err := Overlays(t.Context(), predicted(t), OverlayOptions{Dir: dir, Most: 2})
	if err != nil || !strings.HasPrefix(said, "2 of 24 images drawn, worst first") {
		t.Fatal(said, err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.png"))
	if err != nil || len(files) != 2 {
		t.Fatal(files, err)
	}
	if n := drawn(t, files[0]); n["missed"] < 50 || n["tp"] > 0 || n["fp"] > 0 {
		t.Errorf("the missed lesion: %v", n)
	}
	if n := drawn(t, files[1]); n["fp"] < 50 || n["tp"] < 50 {
		t.Errorf("the false positive beside a found lesion: %v", n)
	}
}

func TestLabelsOfOverlaysDoNotLieOnEachOther(t *testing.T) {
	face, err := textFace()
	if err != nil {
		t.Fatal(err)
	}
	c := canvas{image.NewRGBA(image.Rect(0, 0, 500, 500)), face, 460}
	var labels []image.Rectangle
	for k := range 6 {
		kind := []string{"tp", "missed"}[k%2]
		at := c.box(overlaid{box: []float64{200 + 3*float64(k), 200, 260, 260}, kind: kind, label: kind + " 0.9"}, 1, labels)
		for _, before := range labels {
			if at.Overlaps(before) {
				t.Errorf("label %d at %v lies on that at %v", k, at, before)
			}
		}
		labels = append(labels, at)
	}
}

// A score above all makes every lesion a missed one, and draws no box.
func TestOverlaysFollowTheScoreAskedFor(t *testing.T) {
	dir, score := t.TempDir(), 0.8
	said, err := Overlays(t.Context(), predicted(t), OverlayOptions{Dir: dir, Most: 100, MinScore: &score})
	if err != nil || !strings.Contains(said, "24 of 24 images drawn, worst first, with boxes scoring 0.8 or more") {
		t.Fatal(said, err)
	}
	files, _ := filepath.Glob(filepath.Join(dir, "*.png"))
	for _, f := range files {
		if n := drawn(t, f); n["tp"]+n["fp"] > 0 {
			t.Errorf("%s: %v", f, n)
		}
	}
}

func TestImagesWithoutTargetsShowTheirBestBoxesUnjudged(t *testing.T) {
	r := predicted(t)
	r.Evaluable = false
	for i := range r.Cases {
		r.Cases[i].HasTargets, r.Cases[i].Boxes = false, nil
	}
	dir := t.TempDir()
	if _, err := Overlays(t.Context(), r, OverlayOptions{Dir: dir, Most: 1}); err != nil {
		t.Fatal(err)
	}
	files, _ := filepath.Glob(filepath.Join(dir, "*.png"))
	if n := drawn(t, files[0]); n["mark"] < 50 || n["fp"] > 0 || n["ref"] > 0 {
		t.Errorf("%v", n)
	}
}

// The script draws in the same colours and dashes, so that one legend holds for both.
func TestThePageDrawsBoxesAsOverlaysDo(t *testing.T) {
	for kind, s := range strokes {
		colour := fmt.Sprintf(`%s: "#%02x%02x%02x"`, kind, s.colour.R, s.colour.G, s.colour.B)
		dash := fmt.Sprintf("%s: [%d, %d]", kind, s.on, s.off)
		if kind == "mark" {
			continue // the page has a truth
		}
		if !strings.Contains(script, colour) || s.on > 0 && !strings.Contains(script, dash) {
			t.Errorf("the script has not %s with %s", colour, dash)
		}
	}
}

func TestNamesOfFilesSuitEverySystem(t *testing.T) {
	if got := predictions.FileName("a/b:c d\n1"); got != "a_b_c_d_1" {
		t.Errorf("%q", got)
	}
	if got := predictions.FileName(strings.Repeat("x", 200)); len(got) > 20 {
		t.Errorf("%q", got)
	}
}

// TestTheDataReadThePagesFlags: what people can choose on the page is what data sets know.
func TestTheDataReadThePagesFlags(t *testing.T) {
	want, err := json.Marshal(append([]string{""}, dataset.Flags...))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(script, "const flags = "+strings.ReplaceAll(string(want), ",", ", ")+";") {
		t.Errorf("page.js has other flags than %s", want)
	}
}
