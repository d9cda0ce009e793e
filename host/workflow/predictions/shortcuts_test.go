package predictions_test

import (
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/alignedfusion/alignedfusion/eval/froc"
	"github.com/alignedfusion/alignedfusion/eval/resample"
	"github.com/alignedfusion/alignedfusion/host/dataset"
	"github.com/alignedfusion/alignedfusion/host/workflow/predictions"
	"github.com/alignedfusion/alignedfusion/internal/box"
	"github.com/alignedfusion/alignedfusion/sdk"
)

// audited makes predictions of cases in a ring, each with its neighbour's report when shuffled:
// answer says what a model makes of the image of case i with the report of case j, -1 without one.
func audited(t *testing.T, task string, answer func(i, j int) predictions.Prediction) *predictions.Shortcuts {
	t.Helper()
	labels := []sdk.LabelSet{{Name: "label", Classes: []string{"a", "b", "c"}}}
	protocol := froc.Protocol{}
	if task == "detect" {
		labels[0].Classes = labels[0].Classes[:1]
		var err error
		if protocol, err = froc.ProtocolByName("deeplesion"); err != nil {
			t.Fatal(err)
		}
	}
	var cases []dataset.Case
	for i := range 60 {
		cases = append(cases, dataset.Case{ID: fmt.Sprint(i), Patient: fmt.Sprint("p", i/2), HasTargets: true, Labels: map[string]int{"label": i % 3},
			Boxes: []dataset.Box{{Box: lesionOf(i)}}})
	}
	other := predictions.NewCounterfactuals()
	all := func(report func(i int) int) []predictions.Prediction {
		var out []predictions.Prediction
		for i := range cases {
			p := answer(i, report(i))
			p.Case = &cases[i]
			out = append(out, p)
		}
		return out
	}
	donor := func(i int) int { return (i + 4) % len(cases) }
	own := all(func(i int) int { return i })
	for i := range cases {
		other.Donors = append(other.Donors, donor(i))
	}
	other.Add(predictions.WithoutReport, own, all(func(int) int { return -1 }))
	other.Add(predictions.Shuffled, own, all(donor))
	other.Add(predictions.Contradicting, own, all(func(i int) int { return (i + 1) % len(cases) }))
	s, err := predictions.NewShortcuts(task, labels, cases, own, other, protocol, resample.Options{Replicates: 100, Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// lesionOf is where case i's lesion lies: neighbours' do not touch.
func lesionOf(i int) box.Box {
	x := float64(20 * (i % 10))
	return box.Box{X1: x, Y1: 10, X2: x + 12, Y2: 22}
}

func sure(class int) predictions.Prediction {
	p := []float64{0.1, 0.1, 0.1}
	if class < 0 {
		p = []float64{1. / 3, 1. / 3, 1. / 3}
	} else {
		p[class] = 0.8
	}
	return predictions.Prediction{Probabilities: [][]float64{p}}
}

func TestAFusionThatFiresOnTheReportAloneIsFoundOut(t *testing.T) {
	for name, one := range map[string]struct {
		answer      func(i, j int) predictions.Prediction
		alone       bool
		interaction float64
		moved       float64 // with another patient's report
	}{
		"the report alone": {func(_, j int) predictions.Prediction {
			if j < 0 {
				return sure(-1)
			}
			return sure(j % 3)
		}, true, 0, 1},
		"the image alone": {func(i, _ int) predictions.Prediction { return sure(i % 3) }, false, 0, 0},
		// What the report says is read off the image: nothing adds up.
		"both or nothing": {func(i, j int) predictions.Prediction {
			if i == j {
				return sure(i % 3)
			}
			return sure(-1)
		}, false, 1, 1},
	} {
		s := audited(t, "classify", one.answer)
		if got := s.Followed.ReportAlone(); got != one.alone {
			t.Errorf("%s: found out %v, want %v: %+v", name, got, one.alone, s.Followed)
		}
		if math.Abs(float64(s.Interaction)-one.interaction) > 1e-9 {
			t.Errorf("%s: interaction %g, want %g", name, float64(s.Interaction), one.interaction)
		}
		shuffled := s.Rows[2]
		if shuffled.Report != "shuffled" || name != "both or nothing" && math.Abs(float64(shuffled.Moved)-one.moved) > 1e-9 {
			t.Errorf("%s: %+v, want %g of the answers changed", name, shuffled, one.moved)
		}
		var text strings.Builder
		if err := s.Write(&text); err != nil || strings.Contains(text.String(), "a shortcut") != one.alone {
			t.Errorf("%s: %v\n%s", name, err, &text)
		}
	}
}

func TestBoxesThatFollowTheReportAreFoundOut(t *testing.T) {
	boxAt := func(i int) predictions.Prediction {
		if i < 0 {
			return predictions.Prediction{}
		}
		return predictions.Prediction{Boxes: []predictions.Box{{Box: lesionOf(i), Score: 0.9}}}
	}
	report := audited(t, "detect", func(_, j int) predictions.Prediction { return boxAt(j) })
	image := audited(t, "detect", func(i, _ int) predictions.Prediction { return boxAt(i) })
	if !report.Followed.ReportAlone() || report.Rows[0].Value.Value != 1 || report.Rows[2].Value.Value != 0 || report.Rows[2].Moved != 1 {
		t.Errorf("boxes where the report's patient has a lesion: %+v", report)
	}
	if image.Followed.ReportAlone() || image.Rows[2].Moved != 0 || image.Rows[1].Change.Value != 0 {
		t.Errorf("boxes where the image has a lesion: %+v", image)
	}
}
