package plan

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/alignedfusion/alignedfusion/host/dataset"
)

// boxesOf writes a boxes: data set of 16 images of 600 x 400 pixels, value 100 HU in the
// boxes and -900 elsewhere. Box k is 10+2k wide and high; boxes of class rare are one of 16.
func boxesOf(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "images"), 0o777); err != nil {
		t.Fatal(err)
	}
	images, boxes := "image,patient,split,spacing_mm,age\n", "image,x1,y1,x2,y2,class\n"
	for k := range 16 {
		side := 10 + 2*k
		img := image.NewGray16(image.Rect(0, 0, 600, 400))
		for y := range 400 {
			for x := range 600 {
				hu := -900
				if x >= 100 && x <= 100+side && y >= 50 && y <= 50+side {
					hu = 100
				}
				img.SetGray16(x, y, color.Gray16{Y: uint16(hu + 32768)})
			}
		}
		f, err := os.Create(filepath.Join(dir, "images", fmt.Sprintf("%d.png", k)))
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(png.Encode(f, img), f.Close()); err != nil {
			t.Fatal(err)
		}
		age := map[bool]string{true: "60"}[k%4 > 0]
		images += fmt.Sprintf("%d.png,p%d,train,0.5,%s\n", k, k/2, age)
		class := map[bool]string{true: "rare", false: "usual"}[k == 3]
		boxes += fmt.Sprintf("%d.png,100,50,%d,%d,%s\n", k, 100+side, 50+side, class)
	}
	for name, text := range map[string]string{"images.csv": images, "boxes.csv": boxes} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestFingerprintMeasuresWhatIsThere(t *testing.T) {
	p, err := Make(context.Background(), "boxes:"+boxesOf(t), "")
	if err != nil {
		t.Fatal(err)
	}
	f := p.Fingerprint
	// Sides 10, 12, …, 40: quantile q is 10 + 30 q.
	want := Quantiles{10, 11.5, 17.5, 25, 32.5, 38.5, 40}
	if d := cmp.Diff(&want, f.BoxSides); d != "" {
		t.Errorf("box sides (-want +got):\n%s", d)
	}
	if f.BoxMM.Median() != 12.5 || f.PixelMM.Median() != 0.5 || f.SliceMM != nil || f.Context != 0 || f.Sides[6] != 600 || f.BoxRatios[0] != 1 {
		t.Errorf("%+v", f)
	}
	if f.Cases != 16 || f.Patients != 8 || f.Boxes != 16 || f.Split != "train" || f.Missing["age"] != 0.25 || f.HUImages != 16 {
		t.Errorf("%+v", f)
	}
	if d := cmp.Diff(map[string]map[string]int{"lesion": {"rare": 1, "usual": 15}}, f.Classes); d != "" {
		t.Error(d)
	}
	if *f.HU != [3]float64{-900, -900, 100} {
		t.Errorf("HU %v", *f.HU)
	}
}

func TestSettingsFollowFromTheFingerprint(t *testing.T) {
	p, err := Make(context.Background(), "boxes:"+boxesOf(t), "")
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, s := range p.Settings {
		got[s.Name] = s.Value
		if s.Why == "" {
			t.Errorf("%s: no reason", s.Name)
		}
	}
	want := map[string]string{
		"encoder.slices": "1", "data.zoom": "1", "data.crop": "256", // 600 px are more than 512; twice the side is 77
		"encoder.window":     "-900,100",
		"head.anchor_sides":  "12,16,22,28,34",             // 10 + 30 q at .05 .2 .4 .6 .8; 38.5 at .95 is less than 1.2 times 34
		"head.anchor_ratios": "1", "train.batch_size": "2", // 16 cases, 8 steps an epoch
		"data.sampler": "balanced",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("settings (-want +got):\n%s", d)
	}
}

func TestPlanDependsOnNumbersAsStated(t *testing.T) {
	for name, test := range map[string]struct {
		f    Fingerprint
		want map[string]string
	}{
		"small lesions in thin slices": {Fingerprint{Cases: 1000, Context: 1, sides: []float64{4, 4, 4}, SliceMM: &Quantiles{3: 1}, BoxMM: &Quantiles{3: 4}, Sides: &Quantiles{5: 512}, BoxSides: &Quantiles{5: 4}, BoxRatios: &Quantiles{1: 0.5, 5: 2}},
			map[string]string{"data.slice_spacing_mm": "2", "encoder.slices": "3", "data.zoom": "2", "data.crop": "256", "head.anchor_sides": "8", "head.anchor_ratios": "0.5,1,2", "train.batch_size": "16"}},
		"large lesions in large pictures": {Fingerprint{Cases: 1000, Context: 1, sides: []float64{100, 100}, SliceMM: &Quantiles{3: 5}, BoxMM: &Quantiles{3: 90}, Sides: &Quantiles{5: 2048}, BoxSides: &Quantiles{5: 100}, BoxRatios: &Quantiles{1: 1, 5: 1}},
			map[string]string{"data.slice_spacing_mm": "5", "encoder.slices": "7", "data.zoom": "0.5", "data.crop": "256", "head.anchor_sides": "50", "head.anchor_ratios": "1", "train.batch_size": "4"}},
	} {
		p := &Plan{Fingerprint: &test.f}
		p.detect()
		got := map[string]string{}
		for _, s := range p.Settings {
			got[s.Name] = s.Value
		}
		if d := cmp.Diff(test.want, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
	}
}

func TestPlanIsReadBackOrRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "plan.json")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	want := Plan{SchemaVersion: Version, Data: "boxes:x", DataSHA256: "ab", Task: dataset.Detect, Plugin: "a3d", Fingerprint: &Fingerprint{Split: "train", HU: &[3]float64{1, 2, 3}}}
	text, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	write(string(text))
	got, err := Read(path)
	if err != nil || !cmp.Equal(want, *got, cmp.AllowUnexported(Fingerprint{})) {
		t.Errorf("%+v, %v", got, err)
	}
	for text, want := range map[string]string{
		"":                                  "is no plan",
		"{}":                                "schema_version is 0",
		`{"schema_version": 1}`:             "data_sha256 or task is absent",
		`{"schema_version": 1, "batch": 3}`: `unknown field "batch"`,
		strings.Replace(string(text), ":1,", ":2,", 1): "schema_version is 2",
	} {
		write(text)
		if _, err := Read(path); !errors.Is(err, dataset.ErrData) || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40s: %v, want %q", text, err, want)
		}
	}
}

func TestNothingIsPlannedWithoutBoxes(t *testing.T) {
	dir := boxesOf(t)
	if err := os.Remove(filepath.Join(dir, "boxes.csv")); err != nil {
		t.Fatal(err)
	}
	if _, err := Make(context.Background(), "boxes:"+dir, ""); !errors.Is(err, dataset.ErrData) || !strings.Contains(err.Error(), "have no box") {
		t.Error(err)
	}
}
