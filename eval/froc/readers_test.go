package froc

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/alignedfusion/alignedfusion/eval/mrmc"
)

// readerStudy makes images of a line, every other one with lesions, and marks of readers who
// see more with the second modality.
func readerStudy(images, readers int) (*Truth, map[[2]int][]Prediction) {
	rng := rand.New(rand.NewPCG(5, 7))
	t := &Truth{}
	marks := map[[2]int][]Prediction{}
	for i := range images {
		t.Images = append(t.Images, Image{ID: fmt.Sprintf("i%02d", i)})
		for k := range i % 2 * (1 + i%3) {
			t.Lesions = append(t.Lesions, Lesion{Image: i, Region: Box(float64(100*k), 0, float64(100*k+10), 10)})
		}
		for r := range readers {
			for m := range 2 {
				key := [2]int{m, r}
				if rng.Float64() < 0.4 { // somewhere else
					marks[key] = append(marks[key], Prediction{Image: i, Region: Box(50, 50, 60, 60), Score: rng.Float64()})
				}
				for k := range i % 2 * (1 + i%3) {
					if rng.Float64() < 0.5+0.2*float64(m) {
						marks[key] = append(marks[key], Prediction{Image: i, Region: Box(float64(100*k), 0, float64(100*k+10), 10), Score: 0.3 + rng.Float64()})
					}
				}
			}
		}
	}
	return t, marks
}

// without is a study without one image, evaluated anew.
func without(t *Truth, marks []Prediction, image int) (*Truth, []Prediction) {
	out, at := &Truth{}, map[int]int{}
	for i, im := range t.Images {
		if i != image {
			at[i] = len(out.Images)
			out.Images = append(out.Images, im)
		}
	}
	for _, l := range t.Lesions {
		if l.Image != image {
			l.Image = at[l.Image]
			out.Lesions = append(out.Lesions, l)
		}
	}
	var kept []Prediction
	for _, p := range marks {
		if p.Image != image {
			p.Image = at[p.Image]
			kept = append(kept, p)
		}
	}
	return out, kept
}

func TestReadersAreAnalysedByFiguresWithoutEachCase(t *testing.T) {
	truth, marks := readerStudy(14, 3)
	protocol := StrictProtocol()
	value := map[Figure]func(*Result) float64{
		FigureMean: func(r *Result) float64 { return r.MeanSensitivity }, FigureAP: func(r *Result) float64 { return r.AP },
		FigureAFROC: func(r *Result) float64 { return r.Merit.AFROC }, FigureAFROC1: func(r *Result) float64 { return r.Merit.AFROC1 },
		FigureWAFROC: func(r *Result) float64 { return r.Merit.WAFROC }, FigureWAFROC1: func(r *Result) float64 { return r.Merit.WAFROC1 },
		FigureCaseAUROC: func(r *Result) float64 { return r.Merit.CaseAUROC }, FigureLROC: func(r *Result) float64 { return r.Merit.LROC },
	}
	evaluate := func(t *testing.T, truth *Truth, marks []Prediction) *Result {
		r, err := Evaluate(truth, marks, protocol)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	var readings []Reading
	for r := range 3 {
		for m := range 2 {
			readings = append(readings, Reading{fmt.Sprint("r", r), fmt.Sprint("m", m), evaluate(t, truth, marks[[2]int{m, r}])})
		}
	}
	for _, figure := range ReaderFigures() {
		got, err := AnalyzeReaders(readings, figure, 0.95)
		if err != nil {
			t.Fatal(err)
		}
		table := func(image int) [][]float64 {
			out := make([][]float64, 2)
			for m := range out {
				for r := range 3 {
					of, kept := truth, marks[[2]int{m, r}]
					if image >= 0 {
						of, kept = without(truth, kept, image)
					}
					out[m] = append(out[m], value[figure](evaluate(t, of, kept)))
				}
			}
			return out
		}
		study := mrmc.Study{Figures: table(-1)}
		for i := range truth.Images {
			study.LeftOut = append(study.LeftOut, table(i))
		}
		want, err := mrmc.Analyze(study, 0.95)
		if err != nil {
			t.Fatal(err)
		}
		a, b := got.RandomReadersRandomCases.Test, want.RandomReadersRandomCases.Test
		if math.Abs(a.F-b.F) > 1e-9*(1+b.F) || math.Abs(a.P-b.P) > 1e-9 || math.Abs(got.Cov3-want.Cov3) > 1e-12 || got.Cases != 14 {
			t.Errorf("%s: %+v, want %+v", figure, a, b)
		}
	}
}

func TestIncompleteReaderStudiesAreRefused(t *testing.T) {
	truth, marks := readerStudy(14, 2)
	of := func(m, r int) *Result {
		result, err := Evaluate(truth, marks[[2]int{m, r}], StrictProtocol())
		if err != nil {
			t.Fatal(err)
		}
		return result
	}
	full := []Reading{{"a", "x", of(0, 0)}, {"a", "y", of(1, 0)}, {"b", "x", of(0, 1)}, {"b", "y", of(1, 1)}}
	other, _ := readerStudy(14, 2)
	strange, err := Evaluate(other, marks[[2]int{1, 1}], StrictProtocol())
	if err != nil {
		t.Fatal(err)
	}
	for want, readings := range map[string][]Reading{
		`reader "b" has no marks with modality "y"`: full[:3],
		"twice":            append(full[:4:4], full[0]),
		"different truths": append(full[:3:3], Reading{"b", "y", strange}),
		"no readings":      nil,
	} {
		if _, err := AnalyzeReaders(readings, FigureAFROC, 0.95); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	if _, err := AnalyzeReaders(full, "jafroc", 0.95); err == nil || !strings.Contains(err.Error(), "wafroc") {
		t.Errorf("an unknown figure: %v", err)
	}
	lonely := &Truth{Images: truth.Images[:2], Lesions: []Lesion{{Image: 1, Region: Box(0, 0, 1, 1)}}}
	one, err := Evaluate(lonely, nil, StrictProtocol())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := AnalyzeReaders([]Reading{{"a", "x", one}}, FigureMean, 0.95); err == nil || !strings.Contains(err.Error(), "nothing is left to find") {
		t.Errorf("one lesion: %v", err)
	}
}
