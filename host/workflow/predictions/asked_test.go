package predictions

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/alignedfusion/alignedfusion/host/config"
	"github.com/alignedfusion/alignedfusion/host/dataset"
	"github.com/alignedfusion/alignedfusion/host/pipeline"
	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

// asked are questions of three kinds, with answers of a head for two cases.
func asked(t *testing.T) ([]sdk.LabelSet, []dataset.Case, []Prediction) {
	t.Helper()
	sets := []sdk.LabelSet{
		{Name: "dx", Classes: []string{"no", "yes"}, Threshold: 0.3, ThresholdBy: "youden"},
		{Name: "size_mm", Question: sdk.AsksNumber, Unit: "mm", Mean: 10, SD: 4},
		{Name: "os", Question: sdk.AsksTime, Classes: []string{"0-2", "2-6", "6-"}},
	}
	cases := []dataset.Case{
		{ID: "a", Labels: map[string]int{"dx": 1}, Measured: map[string]dataset.Measured{"size_mm": {Value: 13}, "os": {Value: 1, Event: true}}},
		{ID: "b", Labels: map[string]int{"dx": 0}, Measured: map[string]dataset.Measured{"size_mm": {Value: 9}, "os": {Value: 7.5}}},
	}
	d := decoder(config.Classify)
	d.Labels = sets
	log := func(p float64) float32 { return float32(math.Log(p)) }
	out := make([]Prediction, 2)
	err := d.probabilities(&pipeline.Run{Outputs: map[string]*tensor.Tensor{
		"logits.dx":      tensor.OfFloat32s([]float32{log(0.625), log(0.375), log(0.75), log(0.25)}, 2, 2),
		"logits.size_mm": tensor.OfFloat32s([]float32{0.5, -1}, 2, 1),
		"logits.os":      tensor.OfFloat32s([]float32{log(0.5), log(0.25), log(0.25), log(0.25), log(0.25), log(0.5)}, 2, 3),
	}}, out)
	if err != nil {
		t.Fatal(err)
	}
	for i := range out {
		out[i].Case = &cases[i]
	}
	return sets, cases, out
}

func TestAnswersStandInTheirOwnColumns(t *testing.T) {
	sets, _, predictions := asked(t)
	dir := t.TempDir()
	set := Set{Task: config.Classify, Labels: sets, Predictions: predictions}
	if err := Save(dir, "test", set); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		// 2·(1+0.5)/2 + 4·(0.5+0.25)/2 = 3
		File:      "id,predicted.dx,p.dx_no,p.dx_yes,value.size_mm,expected.os,p.os_0-2,p.os_2-6,p.os_6-\na,yes,0.625,0.375,12,3,0.5,0.25,0.25\nb,no,0.75,0.25,6,4.25,0.25,0.25,0.5\n",
		TruthFile: "id,label.dx,value.size_mm,time.os,event.os\na,yes,13,1,1\nb,no,9,7.5,0\n",
	} {
		got, err := os.ReadFile(filepath.Join(Dir(dir, "test"), name))
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != want {
			t.Errorf("%s:\n%s, want\n%s", name, got, want)
		}
	}
	data, err := predictionsJSON(set)
	if err != nil {
		t.Fatal(err)
	}
	var doc documentJSON
	if err := json.Unmarshal(data, &doc); err != nil {
		t.Fatal(err)
	}
	a := doc.Cases[0]
	if a.Values["size_mm"] != 12 || math.Abs(a.Values["os"]-3) > 1e-6 || a.Predicted["dx"] != "yes" || len(a.Predicted) != 1 || a.Probabilities["os"]["6-"] == 0 {
		t.Errorf("%+v", a)
	}
	arrays := predictionsNPZ(config.Classify, sets, predictions)
	if v, err := arrays["value.size_mm"].Float32s(); err != nil || v[0] != 12 || arrays["probabilities.size_mm"] != nil {
		t.Errorf("%v %v", arrays, err)
	}
}

// The best checkpoint of several questions is that of the greatest mean of figures without unit.
func TestSeveralQuestionsChooseOneCheckpoint(t *testing.T) {
	sets, cases, predictions := asked(t)
	c, err := config.New(config.Classify)
	if err != nil {
		t.Fatal(err)
	}
	name, value, metrics, err := score(c, sets, cases, predictions)
	if err != nil {
		t.Fatal(err)
	}
	r2 := 1 - (1.0+9)/8
	if want := (1 + r2 + 1) / 3; name != "balanced accuracy, r2, concordance" || math.Abs(value-want) > 1e-6 {
		t.Errorf("%s %g, want %g", name, value, want)
	}
	for name, want := range map[string]float64{"balanced_accuracy.dx": 1, "mae.size_mm": 2, "concordance.os": 1, "r2.size_mm": r2} {
		if math.Abs(metrics[name]-want) > 1e-6 {
			t.Errorf("%s %g, want %g", name, metrics[name], want)
		}
	}
	for given, want := range map[config.BestBy]string{config.BalancedAccuracy: "mae", "rmse": "rmse", config.Last: "mae", "loa_low": "mae"} {
		if got := BestBy(given, sets[1], false); got != want {
			t.Errorf("%s of a number: %s, want %s", given, got, want)
		}
	}
	if got := BestBy("integrated_brier", sets[2], true); got != "integrated_brier" {
		t.Errorf("%s", got)
	}
}
