package frocio

import (
	"math"
	"path/filepath"
	"testing"

	"github.com/alignedfusion/alignedfusion/eval/froc"
	"github.com/alignedfusion/alignedfusion/internal/realdata"
)

func luna16(t testing.TB, excluded bool) (*Truth, *Predictions) {
	dir := realdata.Path(t, "luna16")
	s := Source{GroundTruth: filepath.Join(dir, "annotations.csv"), Images: filepath.Join(dir, "seriesuids.csv")}
	if excluded {
		s.Excluded = filepath.Join(dir, "annotations_excluded.csv")
	}
	truth, err := ReadTruth(s, Options{})
	if err != nil {
		t.Fatal(err)
	}
	p, err := truth.ReadPredictions(filepath.Join(dir, "predictions_dpn26.csv"))
	if err != nil {
		t.Fatal(err)
	}
	return truth, p
}

// The figures are those of the challenge's own script on the candidates that
// wentaozhu/DeepLung publishes (.692 .769 .824 .865 .893 .917 .933, CPM .842).
func TestLUNA16CandidatesGiveThePublishedSensitivities(t *testing.T) {
	for _, c := range []struct {
		name     string
		excluded bool
		change   func(*froc.Protocol)
		want     []float64
		cpm      float64
	}{
		{"as the challenge", true, func(*froc.Protocol) {}, []float64{0.692243, 0.768971, 0.823777, 0.865093, 0.892917, 0.917369, 0.933390}, 0.841966},
		{"excluded findings as false positives", false, func(*froc.Protocol) {}, []float64{0.472175, 0.586847, 0.680438, 0.783305, 0.849916, 0.895447, 0.927487}, 0.742231},
		{"no cap", true, func(p *froc.Protocol) { p.MaxPerImage = 0 }, nil, 0.841966},
		{"duplicates as false positives", true, func(p *froc.Protocol) { p.Duplicates = froc.FalsePositive }, nil, 0.841966},
	} {
		t.Run(c.name, func(t *testing.T) {
			truth, p := luna16(t, c.excluded)
			protocol := froc.LUNA16()
			c.change(&protocol)
			r, err := froc.Evaluate(truth.Truth, p.Marks, protocol)
			if err != nil {
				t.Fatal(err)
			}
			for i, w := range c.want {
				if got := r.OperatingPoints[i].Sensitivity; math.Abs(got-w) > 5e-7 {
					t.Errorf("sensitivity at %v: %.6f, want %.6f", protocol.FPPI[i], got, w)
				}
			}
			if math.Abs(r.MeanSensitivity-c.cpm) > 5e-7 {
				t.Errorf("CPM %.6f, want %.6f", r.MeanSensitivity, c.cpm)
			}
		})
	}
}

func TestLUNA16CountsEqualTheChallengesScript(t *testing.T) {
	truth, p := luna16(t, true)
	r, err := froc.Evaluate(truth.Truth, p.Marks, froc.LUNA16())
	if err != nil {
		t.Fatal(err)
	}
	n := r.Counts
	for name, pair := range map[string][2]int{
		"scans": {n.Images, 888}, "scans without nodules": {n.LesionFreeImages, 287}, "nodules": {n.Lesions, 1186},
		"candidates": {n.Predictions, 55677}, "candidates after the cap": {n.Predictions - n.OverCap, 52708},
		"true positives": {n.Found, 1136}, "false positives": {n.FalsePositives, 46078},
		"duplicates": {n.Duplicates, 186}, "on excluded findings": {n.IgnoredMarks, 5308},
	} {
		if pair[0] != pair[1] {
			t.Errorf("%s: %d, want %d", name, pair[0], pair[1])
		}
	}
	uncapped := froc.LUNA16()
	uncapped.MaxPerImage = 0
	if r, err = froc.Evaluate(truth.Truth, p.Marks, uncapped); err != nil {
		t.Fatal(err)
	}
	if n := r.Counts; n.FalsePositives != 48907 || n.Duplicates != 190 || n.IgnoredMarks != 5444 {
		t.Errorf("without the cap: %+v, want 48907 false positives, 190 duplicates, 5444 ignored", n)
	}
	duplicates := froc.LUNA16()
	duplicates.Duplicates = froc.FalsePositive
	if r, err = froc.Evaluate(truth.Truth, p.Marks, duplicates); err != nil {
		t.Fatal(err)
	}
	// Of the 186 duplicates all but three stand on excluded findings as well.
	if n := r.Counts; n.FalsePositives != 46081 {
		t.Errorf("duplicates as FP: %d false positives, want 46081", n.FalsePositives)
	}
}

// Official counts of the test split: 4,927 lesions on 4,831 slices, 4,912 on
// 4,817 without the possibly noisy ones.
func TestDeepLesionTestSplitCounts(t *testing.T) {
	path := realdata.Path(t, "deeplesion/DL_info_test.csv")
	for _, c := range []struct {
		noisy           NoisyRule
		images, lesions int
	}{{NoisyDrop, 4817, 4912}, {NoisyKeep, 4831, 4927}} {
		truth, err := ReadTruth(Source{GroundTruth: path}, Options{Noisy: c.noisy})
		if err != nil {
			t.Fatal(err)
		}
		if len(truth.Images) != c.images || len(truth.Lesions) != c.lesions {
			t.Errorf("%s: %d images, %d lesions, want %d and %d", c.noisy, len(truth.Images), len(truth.Lesions), c.images, c.lesions)
		}
	}
}

// One pair of lesions of the test split overlaps with IoU 0.600: one mark on
// either finds both by the published rule.
func TestDeepLesionHasOneOverlappingPair(t *testing.T) {
	truth, err := ReadTruth(Source{GroundTruth: realdata.Path(t, "deeplesion/DL_info_test.csv")}, Options{Noisy: NoisyKeep})
	if err != nil {
		t.Fatal(err)
	}
	var marks []froc.Prediction
	for _, l := range truth.Lesions {
		marks = append(marks, froc.Prediction{Image: l.Image, Region: l.Region})
	}
	for multiple, duplicates := range map[froc.MultipleRule]int{froc.All: 0, froc.One: 0} {
		p := froc.DeepLesion()
		p.Multiple = multiple
		r, err := froc.Evaluate(truth.Truth, marks, p)
		if err != nil {
			t.Fatal(err)
		}
		if r.Counts.Found != 4927 || r.Counts.Duplicates != duplicates {
			t.Errorf("%s: %+v, want 4927 lesions found", multiple, r.Counts)
		}
	}
	// drop one of each pair's marks: only All still finds every lesion
	p := froc.DeepLesion()
	full, err := froc.Evaluate(truth.Truth, marks, p)
	if err != nil {
		t.Fatal(err)
	}
	lost := 0
	for i := range marks {
		image := marks[i].Image
		if i > 0 && marks[i-1].Image == image {
			without := append(append([]froc.Prediction{}, marks[:i]...), marks[i+1:]...)
			r, err := froc.Evaluate(truth.Truth, without, p)
			if err != nil {
				t.Fatal(err)
			}
			if r.Counts.Found == full.Counts.Found {
				lost++
			}
		}
	}
	if lost != 1 {
		t.Errorf("%d lesions are found by the mark on their neighbour, want 1", lost)
	}
}

func TestLungSlicesAreReadDirectly(t *testing.T) {
	dir := realdata.Path(t, "lung")
	truth, err := ReadTruth(Source{
		GroundTruth: filepath.Join(dir, "boxes.csv"), Images: filepath.Join(dir, "images.csv"), Excluded: filepath.Join(dir, "ignore.csv"),
	}, Options{Split: "val"})
	if err != nil {
		t.Fatal(err)
	}
	counted := 0
	var marks []froc.Prediction
	for _, l := range truth.Lesions {
		if !l.Ignore {
			counted++
		}
		c := l.Region.Centre()
		marks = append(marks, froc.Prediction{Image: l.Image, Region: froc.Box(c[0]-1, c[1]-1, c[0]+1, c[1]+1), Score: 1})
	}
	if len(truth.Images) != 154 {
		t.Errorf("%d images, want 154", len(truth.Images))
	}
	r, err := froc.Evaluate(truth.Truth, marks, froc.SmallLesion())
	if err != nil {
		t.Fatal(err)
	}
	if r.Counts.Found != counted || r.Counts.FalsePositives != 0 {
		t.Errorf("marks on every centre: %+v, want all %d found and no false positive", r.Counts, counted)
	}
}

// The reference script takes 9.7 s for these 55,677 candidates, with 1000
// bootstrap replicates or without.
func BenchmarkLUNA16(b *testing.B) {
	for name, replicates := range map[string]int{"without bootstrap": 0, "1000 replicates": 1000} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				truth, p := luna16(b, true)
				r, err := froc.Evaluate(truth.Truth, p.Marks, froc.LUNA16())
				if err != nil {
					b.Fatal(err)
				}
				if replicates > 0 {
					if _, err := r.Bootstrap(froc.BootstrapOptions{Replicates: replicates}); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}
