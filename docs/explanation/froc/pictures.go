// Draws the pictures of docs/explanation/froc.md from the real LUNA16 candidates and the
// real DeepLesion boxes:
//
//	go run ./docs/explanation/froc FOLDER_WITH_luna16_AND_deeplesion docs/explanation/froc
package main

import (
	"fmt"
	"log"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"

	"github.com/alignedfusion/alignedfusion/eval/froc"
	"github.com/alignedfusion/alignedfusion/eval/froc/frocio"
	"github.com/alignedfusion/alignedfusion/eval/froc/frocplot"
)

func main() {
	log.SetFlags(0)
	if len(os.Args) != 3 {
		log.Fatal("usage: go run ./docs/explanation/froc DATA OUT")
	}
	data, out := os.Args[1], os.Args[2]
	for _, draw := range []func(data, out string) error{excluded, ties, interpolation, strata} {
		if err := draw(data, out); err != nil {
			log.Fatal(err)
		}
	}
}

func luna16(data string) (*frocio.Truth, []froc.Prediction, error) {
	dir := filepath.Join(data, "luna16")
	truth, err := frocio.ReadTruth(frocio.Source{
		GroundTruth: filepath.Join(dir, "annotations.csv"), Images: filepath.Join(dir, "seriesuids.csv"),
		Excluded: filepath.Join(dir, "annotations_excluded.csv"),
	}, frocio.Options{})
	if err != nil {
		return nil, nil, err
	}
	p, err := truth.ReadPredictions(filepath.Join(dir, "predictions_dpn26.csv"))
	if err != nil {
		return nil, nil, err
	}
	return truth, p.Marks, nil
}

// curve evaluates and, with replicates, bootstraps a band.
func curve(name string, t *froc.Truth, marks []froc.Prediction, p froc.Protocol, replicates int) (frocplot.Curve, error) {
	r, err := froc.Evaluate(t, marks, p)
	if err != nil {
		return frocplot.Curve{}, err
	}
	c := frocplot.Curve{Name: name, Result: r}
	fmt.Printf("%-45s mean %.4f, FP %d\n", name, r.MeanSensitivity, r.Counts.FalsePositives)
	if replicates > 0 {
		low, high := frocplot.Range(p)
		c.Band, err = r.Band(low, high, 40, froc.BootstrapOptions{Replicates: replicates, Seed: 1})
	}
	return c, err
}

func save(out, name string, curves []frocplot.Curve) error {
	return frocplot.Save(filepath.Join(out, name), frocplot.Options{WidthInch: 5, HeightInch: 3.5}, curves...)
}

// excluded: one detector, with excluded findings ignored and counted as false positives.
func excluded(data, out string) error {
	truth, marks, err := luna16(data)
	if err != nil {
		return err
	}
	ignoring, err := curve("excluded findings ignored", truth.Truth, marks, froc.LUNA16(), 500)
	if err != nil {
		return err
	}
	bare := *truth.Truth
	bare.Lesions = nil
	for _, l := range truth.Lesions {
		if !l.Ignore {
			bare.Lesions = append(bare.Lesions, l)
		}
	}
	counting, err := curve("counted as false positives", &bare, marks, froc.LUNA16(), 500)
	if err != nil {
		return err
	}
	return save(out, "excluded.svg", []frocplot.Curve{ignoring, counting})
}

// ties: the same detector with scores rounded to one digit, the ties taken as
// one step, and broken in favour of hits or of false positives.
func ties(data, out string) error {
	truth, marks, err := luna16(data)
	if err != nil {
		return err
	}
	p := froc.LUNA16()
	exact, err := froc.Evaluate(truth.Truth, marks, p)
	if err != nil {
		return err
	}
	fate := map[int]froc.Fate{}
	for _, o := range exact.PredictionOutcomes() {
		fate[o.Prediction] = o.Fate
	}
	var curves []frocplot.Curve
	for _, c := range []struct {
		name string
		push float64
	}{{"tied: hits first", 1e-6}, {"tied: one step", 0}, {"tied: false positives first", -1e-6}} {
		rounded := make([]froc.Prediction, len(marks))
		for i, m := range marks {
			rounded[i] = m
			rounded[i].Score = math.Round(m.Score*10) / 10
			if fate[i] == froc.TruePositive {
				rounded[i].Score += c.push
			}
		}
		p := froc.LUNA16()
		p.MaxPerImage = 0
		drawn, err := curve(c.name, truth.Truth, rounded, p, 0)
		if err != nil {
			return err
		}
		curves = append(curves, drawn)
	}
	return save(out, "ties.svg", curves)
}

// interpolation: few images, so that the curve's steps are seen. Synthetic.
func interpolation(_, out string) error {
	rng := rand.New(rand.NewPCG(4, 4))
	truth := &froc.Truth{}
	var marks []froc.Prediction
	for i := range 8 {
		truth.Images = append(truth.Images, froc.Image{ID: fmt.Sprint(i)})
		truth.Lesions = append(truth.Lesions, froc.Lesion{Image: i, Region: froc.Box(0, 0, 10, 10)})
		if i < 7 {
			marks = append(marks, froc.Prediction{Image: i, Region: froc.Box(0, 0, 10, 10), Score: 0.3 + 0.7*rng.Float64()})
		}
		for range 3 {
			marks = append(marks, froc.Prediction{Image: i, Region: froc.Box(90, 90, 99, 99), Score: rng.Float64()})
		}
	}
	for i := range marks {
		marks[i].Score = math.Round(marks[i].Score*8) / 8
	}
	var curves []frocplot.Curve
	for _, kind := range []froc.Interpolation{froc.Step, froc.Linear} {
		p := froc.StrictProtocol()
		p.Interpolation = kind
		p.FPPI = []float64{0.25, 0.5, 1, 2}
		drawn, err := curve(string(kind), truth, marks, p, 0)
		if err != nil {
			return err
		}
		curves = append(curves, drawn)
	}
	return save(out, "interpolation.svg", curves)
}

// strata: lung lesions of DeepLesion's test split, with other organs' lesions
// ignored or removed. The boxes are real, the marks synthetic: 85 % of the
// lesions found, 2.5 false positives per slice.
func strata(data, out string) error {
	truth, err := frocio.ReadTruth(frocio.Source{GroundTruth: filepath.Join(data, "deeplesion", "DL_info_test.csv")}, frocio.Options{})
	if err != nil {
		return err
	}
	rng := rand.New(rand.NewPCG(2, 2))
	var marks []froc.Prediction
	for _, l := range truth.Lesions {
		if rng.Float64() < 0.85 {
			marks = append(marks, froc.Prediction{Image: l.Image, Region: l.Region, Score: math.Sqrt(rng.Float64())})
		}
	}
	for i := range truth.Images {
		for range rng.IntN(6) {
			x, y := 400*rng.Float64(), 400*rng.Float64()
			marks = append(marks, froc.Prediction{Image: i, Region: froc.Box(x, y, x+30, y+30), Score: rng.Float64() * rng.Float64()})
		}
	}
	var curves []frocplot.Curve
	for _, rule := range []froc.StrataRule{froc.StrataIgnore, froc.StrataAsPapers} {
		all, err := froc.Strata(truth.Truth, marks, froc.DeepLesion(), "organ", nil, rule)
		if err != nil {
			return err
		}
		for _, s := range all {
			if s.Name == "lung" {
				fmt.Printf("%-45s mean %.4f, FP %d\n", "lung, rule "+string(rule), s.Result.MeanSensitivity, s.Result.Counts.FalsePositives)
				curves = append(curves, frocplot.Curve{Name: "lung lesions, rule " + string(rule), Result: s.Result})
			}
		}
	}
	return save(out, "strata.svg", curves)
}
