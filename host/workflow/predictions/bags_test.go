package predictions

import (
	"image/color"
	"image/png"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/alignedfusion/alignedfusion/host/dataset"
	"github.com/alignedfusion/alignedfusion/host/pipeline"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

// A bag's weights go to its patches: tokens of one patch together, a patch that came again once.
func TestWeightsOfTokensAreThoseOfTheirPatches(t *testing.T) {
	run := &pipeline.Run{Outputs: map[string]*tensor.Tensor{"weighting.patch": tensor.OfFloat32s([]float32{0.1, 0.2, 0.3, 0.1, 0.05, 0.25}, 1, 6)}}
	out := []Prediction{{Case: &dataset.Case{ID: "s"}}}
	if err := Weights(run, []string{"weighting.patch"}, &dataset.Batch{Bags: [][]int{{4, 1, 4}}}, out); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[int]float64{4: 0.6, 1: 0.4}, out[0].Weights["weighting.patch"], cmpopts.EquateApprox(0, 1e-6)); diff != "" {
		t.Error(diff)
	}
	run.Outputs["weighting.patch"] = tensor.OfFloat32s([]float32{1, 2}, 1, 2)
	if err := Weights(run, []string{"weighting.patch"}, &dataset.Batch{Bags: [][]int{{4, 1, 4}}}, out); err == nil || !strings.Contains(err.Error(), "multiple of the 3 patches") {
		t.Errorf("error %v", err)
	}
}

// The bags of a slide count as many times as they have patches.
func TestBagsOfASlideAreOneAnswer(t *testing.T) {
	a, b := &dataset.Case{ID: "a"}, &dataset.Case{ID: "b"}
	got := OfBags([]Prediction{
		{Case: a, Probabilities: [][]float64{{1, 0}}, Weights: map[string]map[int]float64{"w": {0: 0.5, 2: 0.25, 4: 0.25}}},
		{Case: a, Probabilities: [][]float64{{0.5, 0.5}}, Weights: map[string]map[int]float64{"w": {1: 1}}},
		{Case: b, Probabilities: [][]float64{{0.25, 0.75}}},
	}, []int{3, 1, 2})
	if len(got) != 2 {
		t.Fatalf("%d answers", len(got))
	}
	want := [][]float64{{0.875, 0.125}}
	if diff := cmp.Diff(want, got[0].Probabilities); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(map[int]float64{0: 0.375, 2: 0.1875, 4: 0.1875, 1: 0.25}, got[0].Weights["w"]); diff != "" {
		t.Error(diff)
	}
	if got[1].Case != b || got[1].Probabilities[0][1] != 0.75 {
		t.Errorf("the other slide: %+v", got[1])
	}
}

// The table has the heaviest patch first; the heat map shows it white in its place, and grey
// where there is no patch.
func TestAttentionIsATableAndAHeatMap(t *testing.T) {
	dir := t.TempDir()
	c := &dataset.Case{ID: "s/1", Patches: []dataset.Patch{{Path: filepath.FromSlash("/data/slides/s/a.png"), Number: 0, X: 96, Y: 0}, {Path: filepath.FromSlash("/data/slides/b.png"), Number: 1, X: 0, Y: 192}, {Path: filepath.FromSlash("/data/c.png"), Number: 2, X: 0, Y: 0}}}
	p := Prediction{Case: c, Weights: map[string]map[int]float64{"weighting.patch": {0: 0.25, 1: 0.75}}}
	if n, err := WriteAttention(dir, filepath.FromSlash("/data/slides"), []Prediction{p, {Case: &dataset.Case{ID: "none"}}}); err != nil || n != 1 {
		t.Fatal(n, err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "s_1.attention.csv"))
	if err != nil || string(text) != "patch,x,y,attention.patch\nb.png,0,192,0.75\ns/a.png,96,0,0.25\n/data/c.png,0,0,0\n" {
		t.Errorf("%v %q", err, text)
	}
	f, err := os.Open(filepath.Join(dir, "s_1.attention.png"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	img, err := png.Decode(f)
	if err != nil {
		t.Fatal(err)
	}
	side := img.Bounds().Dx() / 2 // two columns, three rows: 0, 96, 192
	if side < 1 || img.Bounds().Dy() != 3*side {
		t.Fatalf("heat map of %v", img.Bounds())
	}
	for place, want := range map[[2]int]color.RGBA{{0, 2}: {255, 255, 255, 255}, {0, 0}: {0, 0, 0, 255}, {1, 0}: {255, 0, 0, 255}, {1, 1}: {0xc0, 0xc0, 0xc0, 255}} {
		if got := color.RGBAModel.Convert(img.At(place[0]*side+side/2, place[1]*side+side/2)); got != want {
			t.Errorf("place %v is %v, want %v", place, got, want)
		}
	}
	c.Patches[0].X = 1e9 // no grid that could be drawn
	c.Patches[1].X = 1
	if heatMap(p) != nil {
		t.Error("a map of a billion columns was drawn")
	}
}

// Patches answer for their slide, and slides for their patient: by their mean or by vote.
func TestAnswersOfSlidesAndPatients(t *testing.T) {
	var all []Prediction
	for _, c := range []struct {
		slide, patient string
		p              float64
	}{{"s1", "a", 0.9}, {"s1", "a", 0.45}, {"s2", "b", 0.2}, {"s1", "a", 0.45}, {"s3", "a", 0.2}, {"", "", 0.3}} {
		all = append(all, Prediction{Case: &dataset.Case{ID: "alone", Stack: c.slide, Patient: c.patient}, Probabilities: [][]float64{{c.p, 1 - c.p}}})
	}
	for _, c := range []struct {
		per  string
		vote bool
		want map[string]float64
	}{
		{PerSlide, false, map[string]float64{"s1": 0.6, "s2": 0.2, "s3": 0.2, "alone": 0.3}},
		{PerSlide, true, map[string]float64{"s1": 1.0 / 3, "s2": 0, "s3": 0, "alone": 0}},
		{PerPatient, false, map[string]float64{"a": 0.5, "b": 0.2, "alone": 0.3}},
		{PerPatient, true, map[string]float64{"a": 0.25, "b": 0, "alone": 0}},
	} {
		got := map[string]float64{}
		groups, _ := Grouped(all, c.per, c.vote)
		for _, p := range groups {
			got[p.Case.ID] = p.Probabilities[0][0]
		}
		if diff := cmp.Diff(c.want, got, cmpopts.EquateApprox(0, 1e-12)); diff != "" {
			t.Errorf("per %s, vote %v: %s", c.per, c.vote, diff)
		}
	}
}
