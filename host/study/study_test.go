package study

import (
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/big"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/alignedfusion/alignedfusion/eval/classify"
	"github.com/alignedfusion/alignedfusion/eval/resample"
)

func method(t *testing.T, name string) Method {
	t.Helper()
	m, err := ParseMethod(name)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func scenario(t *testing.T, name string) Scenario {
	t.Helper()
	s, err := ParseScenario(name)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestScenariosSetTheRatesOfTrainingAndTest(t *testing.T) {
	for name, want := range map[string][2]float64{
		"M-Tr+C-Te": {0.3, 0}, "C-Tr+M-Te": {0, 0.3}, "M-Tr+M-Te": {0.3, 0.3}, "C-Tr+C-Te": {0, 0}, "M50-Tr+M-Te": {0.5, 0.3},
	} {
		p := Points([]Scenario{scenario(t, name)}, []float64{0.3}, []float64{1})[0]
		if got := [2]float64{p.TrainRate, p.TestRate}; got != want {
			t.Errorf("%s at 0.3: training and test %v, want %v", name, got, want)
		}
	}
	for _, bad := range []string{"", "M-Te", "C20-Tr+M-Te", "M150-Tr+C-Te", "M-Tr+C-Te "} {
		if _, err := ParseScenario(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

// Cells that differ in the test's rate alone share a model: C-Tr trains once per seed
// and method, a method without attributes once per seed.
func TestModelsAreSharedBetweenCells(t *testing.T) {
	p := Plan{Seeds: []uint64{1, 2}, Blocks: []Block{{
		Points:  Points([]Scenario{scenario(t, "M-Tr+C-Te"), scenario(t, "C-Tr+M-Te"), scenario(t, "M-Tr+M-Te")}, []float64{0, 0.25, 0.5}, []float64{1}),
		Methods: []Method{method(t, "none"), method(t, "itfusion")},
	}}}
	var models, cells []string
	for _, c := range p.Cells() {
		cells = append(cells, c.Name())
		if m := c.Model.Name(); len(models) == 0 || models[len(models)-1] != m {
			models = append(models, m)
		}
	}
	want := []string{"none_tr0_s1", "itfusion_tr0_s1", "itfusion_tr0.25_s1", "itfusion_tr0.5_s1", "none_tr0_s2", "itfusion_tr0_s2", "itfusion_tr0.25_s2", "itfusion_tr0.5_s2"}
	if diff := cmp.Diff(want, models); diff != "" {
		t.Errorf("models, each once and its cells together: %s", diff)
	}
	// Per seed: none 1; itfusion 3 (C-Tr) + 2 (M-Tr+C-Te) + 2 (M-Tr+M-Te).
	if len(cells) != 2*8 {
		t.Errorf("%d cells, want 16: %v", len(cells), cells)
	}
	if _, err := only(p.Cells(), []string{"sum*"}); err == nil {
		t.Error("--only took a pattern without cells")
	}
	some, err := only(p.Cells(), []string{"itfusion_tr0.5_s1_*"})
	if err != nil || len(some) != 2 {
		t.Errorf("one model's cells: %v, %v", some, err)
	}
}

func TestMethodsAreSettings(t *testing.T) {
	o := Options{Identity: Identity{Task: "classify", Data: "table:x.csv", Encoder: "enc", Epochs: 3,
		Set: []string{"fusion.width=64", "encoder.frozen=true", "itfusion*/fusion.layers=3", "train.lr=0.1"}}}
	type got struct{ Encoder, Fusion, Tokens, Mask, Layers, Width, Impute, Epochs, Rate, Validation, Seed string }
	for name, want := range map[string]got{
		"none":              {"enc", "none", "", "", "", "", "none", "3", "0.25", "-1", "9"},
		"attributes":        {"none", "selfattn", "", "", "", "64", "none", "3", "0.25", "-1", "9"},
		"pattern":           {"none", "selfattn", "", "", "", "64", "pattern", "3", "0.25", "-1", "9"},
		"bottleneck4":       {"enc", "itfusion", "4", "0", "3", "64", "none", "3", "0.25", "-1", "9"},
		"itfusion":          {"enc", "itfusion", "", "", "3", "64", "none", "3", "0.25", "-1", "9"},
		"itfusion-p0.4":     {"enc", "itfusion", "", "0.4", "3", "64", "none", "3", "0.25", "-1", "9"},
		"selfattn+category": {"enc", "selfattn", "", "", "", "64", "category", "3", "0.25", "-1", "9"},
		"mine=a:b":          {"enc", "a", "", "", "", "64", "none", "3", "0.25", "-1", "9"},
	} {
		c, err := o.config(Model{Method: method(t, name), Rate: 0.25, Fraction: 1, Seed: 9})
		if err != nil {
			t.Fatal(err)
		}
		s, d := c.Fusion.Settings, c.DataSettings
		if diff := cmp.Diff(want, got{c.Encoder.Plugin, c.Fusion.Plugin, s["tokens_per_pair"], s["mask_probability"], s["layers"], s["width"],
			string(d.Impute), fmt.Sprint(c.Train.Epochs), fmt.Sprint(d.MissingTrain), fmt.Sprint(d.MissingValidation), fmt.Sprint(d.MissingSeed)}); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		if c.Seed != 9 || c.Train.LearningRate != 0.1 {
			t.Errorf("%s: seed %d, lr %g", name, c.Seed, c.Train.LearningRate)
		}
	}
	for _, bad := range []string{"", "best", "none+mode", "itfusion+x", "naive-bayes+zero", "itfusion-p2", "a/b=sum", "=sum"} {
		if _, err := ParseMethod(bad); err == nil {
			t.Errorf("method %q was taken", bad)
		}
	}
}

// fabricate writes the cells of a plan: labels of 3 classes on 30 cases of 20
// patients; good is how often a method is right.
func fabricate(t *testing.T, s *Study, good map[string]float64) {
	t.Helper()
	for _, c := range s.cells {
		rng := rand.New(rand.NewPCG(c.Seed, uint64(len(c.Name()))))
		one := Classified{Task: "label", Classes: []string{"a", "b", "c"}}
		for i := range 90 {
			label := i % 3
			if i > 60 {
				label = 0
			}
			p := []float64{0.1, 0.1, 0.1}
			guess := label
			if rng.Float64() > good[c.Method.Name] {
				guess = (label + 1 + rng.IntN(2)) % 3
			}
			p[guess] = 0.8
			one.IDs, one.Patients = append(one.IDs, number(float64(i))), append(one.Patients, number(float64(i%40)))
			one.Labels, one.Probabilities = append(one.Labels, label), append(one.Probabilities, p)
		}
		r, err := classify.Evaluate(one.Labels, one.Probabilities, one.Classes)
		if err != nil {
			t.Fatal(err)
		}
		cell := CellResult{SchemaVersion: Version, Cell: c.Name(), Method: c.Method.Name, Seed: c.Seed, Split: s.split(c), TrainSec: 60, PredictSec: 2,
			Metrics: map[string]float64{"accuracy": r.Metrics.Accuracy, "balanced_accuracy": r.Metrics.BalancedAccuracy}, Classified: []Classified{one}}
		if c.Method.Name == "itfusion" && c.TestRate > 0 {
			score := AttributeScore{Attribute: "age", Cases: 10, Right: 6, Majority: 4, NaiveBayes: 5}
			score.Bins[5], score.Bins[9] = [3]float64{5, 2, 2.75}, [3]float64{5, 4, 4.75}
			cell.Reconstruction = []AttributeScore{score}
		}
		data, err := json.Marshal(cell)
		if err != nil {
			t.Fatal(err)
		}
		dir := s.path("cells", c.Name())
		if err := errors.Join(os.MkdirAll(dir, 0o777), os.WriteFile(filepath.Join(dir, "cell.json"), data, 0o666)); err != nil {
			t.Fatal(err)
		}
	}
}

func fabricated(t *testing.T) (*Study, *Table) {
	t.Helper()
	o := Options{Dir: t.TempDir(), Messages: io.Discard, Identity: Identity{Task: "classify", Data: "table:x", Split: "val"},
		Plan: Plan{Seeds: []uint64{1, 2, 3}, Blocks: []Block{{
			Points:  Points([]Scenario{scenario(t, "C-Tr+M-Te")}, []float64{0, 0.5}, []float64{1}),
			Methods: []Method{method(t, "none"), method(t, "sum"), method(t, "itfusion")},
		}}}}
	s, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	fabricate(t, s, map[string]float64{"none": 0.5, "sum": 0.85, "itfusion": 0.9})
	table, err := s.Table(TableOptions{Baseline: "itfusion", Resample: resample.Options{Replicates: 300, Seed: 1}})
	if err != nil {
		t.Fatal(err)
	}
	return s, table
}

// The joint result of all seeds has the mean over the seeds, so that its interval and
// its test are those of the mean.
func TestPooledSeedsHaveTheMeanOverSeeds(t *testing.T) {
	s, table := fabricated(t)
	if len(table.Rows) != 6 || len(table.Missing) != 0 {
		t.Fatalf("%d rows, missing %v", len(table.Rows), table.Missing)
	}
	for _, r := range table.Rows {
		var accuracy, balanced float64
		for _, name := range r.Cells {
			c := CellResult{}
			data, err := os.ReadFile(s.path("cells", name, "cell.json"))
			if err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal(data, &c); err != nil {
				t.Fatal(err)
			}
			accuracy, balanced = accuracy+c.Metrics["accuracy"]/3, balanced+c.Metrics["balanced_accuracy"]/3
		}
		for metric, want := range map[string]float64{"accuracy": accuracy, "balanced_accuracy": balanced} {
			f := r.Figures[metric]
			if math.Abs(float64(f.Mean)-want) > 1e-12 || !(float64(f.Low) < want && want < float64(f.High)) || !(f.SD > 0) {
				t.Errorf("%s at %v: %s is %+v, want a mean of %v inside its interval", r.Method, r.Rate, metric, f, want)
			}
		}
		if r.Method == "itfusion" {
			if r.Test != nil {
				t.Error("the baseline was tested against itself")
			}
			continue
		}
		base := table.Rows[slices.IndexFunc(table.Rows, func(b Row) bool { return b.Method == "itfusion" && b.Rate == r.Rate })]
		want := balanced - float64(base.Figures["balanced_accuracy"].Mean)
		if r.Test == nil || math.Abs(float64(r.Test.Difference)-want) > 1e-12 {
			t.Fatalf("%s at %v: test %+v, want a difference of %v", r.Method, r.Rate, r.Test, want)
		}
		if r.Method == "none" && !(r.Test.Holm < 0.05) || r.Test.Holm < r.Test.P {
			t.Errorf("%s at %v: p %v, corrected %v", r.Method, r.Rate, r.Test.P, r.Test.Holm)
		}
	}
}

func TestHolmIsOverAllTestsOfTheTable(t *testing.T) {
	_, table := fabricated(t)
	var p, holm []float64
	for _, r := range table.Rows {
		if r.Test != nil {
			p, holm = append(p, float64(r.Test.P)), append(holm, float64(r.Test.Holm))
		}
	}
	if diff := cmp.Diff(resample.Holm(p), holm); diff != "" || len(p) != 4 {
		t.Errorf("%d tests: %s", len(p), diff)
	}
}

func TestReconstructionSumsSeeds(t *testing.T) {
	_, table := fabricated(t)
	// 10 values per seed, |2-2.75|/10 + |4-4.75|/10 = 0.15.
	want := Reconstruction{"C-Tr+M-Te", 0.5, "itfusion", "age", 30, 0.6, 0.4, 0.5, 0.15, table.Reconstruction[0].Calibrated, nil}
	all := want
	all.Attribute = ""
	if len(table.Reconstruction) != 2 {
		t.Fatalf("%+v", table.Reconstruction)
	}
	near := cmp.Comparer(func(a, b Number) bool { return math.Abs(float64(a-b)) < 1e-12 })
	if diff := cmp.Diff([]Reconstruction{all, want}, table.Reconstruction, near); diff != "" {
		t.Error(diff)
	}
}

// The mean deviation of the number of right answers from what their probability says, summed
// over all numbers that there can be.
func TestChanceIsWhatACalibratedErrorWouldBe(t *testing.T) {
	bins := [10][3]float64{3: {7, 1, 2.45}, 6: {12, 12, 7.8}}
	want, variance, measured := 0.0, 0.0, (1.45+4.2)/19
	for _, b := range bins {
		n, p, mean, square := int(b[0]), b[2]/b[0], 0.0, 0.0
		for k := range n + 1 {
			chance := float64(new(big.Int).Binomial(int64(n), int64(k)).Int64()) * math.Pow(p, float64(k)) * math.Pow(1-p, float64(n-k))
			d := math.Abs(float64(k) - b[2])
			mean, square = mean+chance*d, square+chance*d*d
		}
		want, variance = want+mean, variance+square-mean*mean
	}
	ece, mean, high := calibrationError(bins)
	if math.Abs(ece-measured) > 1e-12 || math.Abs(mean-want/19) > 1e-12 || math.Abs(high-(want+1.6449*math.Sqrt(variance))/19) > 1e-9 {
		t.Errorf("%g, by chance %g to %g; want %g, %g", ece, mean, high, measured, want/19)
	}
}

func TestTableIsWrittenAsTextCSVJSONAndPlot(t *testing.T) {
	s, table := fabricated(t)
	if err := s.Save(table); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(s.path("table.csv"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	rows, err := csv.NewReader(f).ReadAll()
	if err != nil || len(rows) != 7 {
		t.Fatalf("%d rows, %v", len(rows), err)
	}
	if want := []string{"C-Tr+M-Te", "0.5", "0", "0.5", "1", "", "itfusion", "3"}; !slices.Equal(rows[6][:8], want) {
		t.Errorf("last row %q, want %q", rows[6][:8], want)
	}
	var back Table
	data, err := os.ReadFile(s.path("table.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &back); err != nil || len(back.Rows) != 6 || back.Data != "table:x" {
		t.Errorf("table.json: %v, %+v", err, back.Identity)
	}
	if data, err = os.ReadFile(s.path("plot.svg")); err != nil || !strings.Contains(string(data), "<svg") || strings.Contains(string(data), "<text") {
		t.Errorf("plot: %v", err)
	}
	var text strings.Builder
	if err := table.Write(&text, ""); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"C-Tr+M-Te, balanced accuracy on split val", "missing   0 %", "50 %", "] -\n", "of 30 values taken away 0.600 recovered"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("no %q in\n%s", want, &text)
		}
	}
	if err := table.Write(io.Discard, "f1"); err == nil || !strings.Contains(err.Error(), "balanced_accuracy, accuracy") {
		t.Errorf("unknown metric: %v", err)
	}
}

// Seeds that are not made yet leave their row with those that are; such rows are
// tested only against a baseline of the same seeds.
func TestUnfinishedSeedsAreSaid(t *testing.T) {
	s, _ := fabricated(t)
	if err := os.RemoveAll(s.path("cells", "sum_tr0_s2_te0.5")); err != nil {
		t.Fatal(err)
	}
	table, err := s.Table(TableOptions{Baseline: "itfusion", Resample: resample.Options{Replicates: 20}})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(table.Missing, []string{"sum_tr0_s2_te0.5"}) {
		t.Errorf("missing %v", table.Missing)
	}
	for _, r := range table.Rows {
		if r.Method == "sum" && r.Rate == 0.5 && (r.Test != nil || !slices.Equal(r.Seeds, []uint64{1, 3})) {
			t.Errorf("%+v", r)
		}
	}
	costs, err := s.Estimate(t.Context())
	if err != nil || len(costs) != 1 {
		t.Fatalf("%v, %+v", err, costs)
	}
	// One model (its run is not there) and one cell, as the five finished ones took.
	if c := costs[0]; c.Models != 1 || c.Cells != 1 || c.TotalSec() != 62 || c.Basis != "5 finished cells" {
		t.Errorf("%+v", c)
	}
}

func TestDamagedCellIsNamed(t *testing.T) {
	s, _ := fabricated(t)
	path := s.path("cells", "sum_tr0_s2_te0.5", "cell.json")
	if err := os.WriteFile(path, []byte("{"), 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Table(TableOptions{}); err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "remove it") {
		t.Errorf("%v", err)
	}
}
