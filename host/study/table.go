package study

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/alignedfusion/alignedfusion/eval/classify"
	"github.com/alignedfusion/alignedfusion/eval/froc"
	"github.com/alignedfusion/alignedfusion/eval/froc/frocio"
	"github.com/alignedfusion/alignedfusion/eval/resample"
	"github.com/alignedfusion/alignedfusion/host/config"
	"github.com/alignedfusion/alignedfusion/host/dataset"
	"github.com/alignedfusion/alignedfusion/host/runs"
	"github.com/alignedfusion/alignedfusion/host/workflow/predictions"
	"github.com/alignedfusion/alignedfusion/internal/nearest"
)

// TableOptions of Table.
type TableOptions struct {
	// Baseline is the method that the others are tested against; empty tests nothing.
	Baseline string
	// Resample steers confidence intervals and tests.
	Resample resample.Options
}

// Number is a JSON number, null where undefined.
type Number = frocio.Number

// Figure is a mean over seeds.
type Figure struct {
	Mean Number `json:"mean"`
	// Low and High bound the 95 % confidence interval: patients are resampled, the same
	// ones for all seeds.
	Low  Number `json:"low"`
	High Number `json:"high"`
	// SD is the standard deviation over the seeds.
	SD Number `json:"sd"`
}

// Test compares a method with the baseline on the same cases and seeds.
type Test struct {
	Baseline   string `json:"baseline"`
	Difference Number `json:"difference"`
	Low        Number `json:"low"`
	High       Number `json:"high"`
	// P is two-sided: the two methods' answers are exchanged within patients. Holm is corrected for
	// all tests of the table.
	P    Number `json:"p"`
	Holm Number `json:"p_holm"`
}

// Row is one method at one point.
type Row struct {
	Scenario string `json:"scenario"`
	// Rate is the table's column; TrainRate and TestRate what was missing.
	Rate      float64 `json:"rate"`
	TrainRate float64 `json:"train_rate"`
	TestRate  float64 `json:"test_rate"`
	Fraction  float64 `json:"fraction"`
	// Task is the label set.
	Task   string   `json:"task,omitempty"`
	Method string   `json:"method"`
	Seeds  []uint64 `json:"seeds"`
	// Figures by metric; those without an interval have null there.
	Figures map[string]Figure `json:"figures"`
	Test    *Test             `json:"test,omitempty"`
	Cells   []string          `json:"cells"`
}

// Table is table.json.
type Table struct {
	SchemaVersion int `json:"schema_version"`
	Identity      `json:"study"`
	// Metric is the primary one, which is tested.
	Metric string `json:"metric"`
	// Primary are the primary ones of several label sets of different questions.
	Primary    map[string]string `json:"primary,omitempty"`
	Replicates int               `json:"bootstrap_replicates"`
	Rows       []Row             `json:"rows"`
	// Curves are over the rates at which the same models were predicted.
	Curves         []Curve          `json:"curves,omitempty"`
	Reconstruction []Reconstruction `json:"reconstruction,omitempty"`
	// Missing are cells that are not made yet.
	Missing []string `json:"missing_cells,omitempty"`
	// Warnings say what makes figures better than they should be, or a comparison void.
	Warnings []string `json:"warnings,omitempty"`
}

// Reconstruction is how well a method recovers what was taken away at a rate, over all
// attributes, cases and seeds.
type Reconstruction struct {
	Scenario  string  `json:"scenario"`
	Rate      float64 `json:"rate"`
	Method    string  `json:"method"`
	Attribute string  `json:"attribute"` // empty: all
	Values    int     `json:"values"`
	// Accuracy of the method, of the most frequent value, and of naive Bayes.
	Accuracy   Number `json:"accuracy"`
	Majority   Number `json:"majority"`
	NaiveBayes Number `json:"naive_bayes"`
	// ECE is the expected calibration error of the greatest probability in 10 bins, Calibrated
	// that of as many values whose probabilities mean what they say.
	ECE        Number    `json:"ece"`
	Calibrated ChanceECE `json:"ece_if_calibrated"`
	// Ways are the references, and what the method recovers more of than each, where the
	// values are known one by one.
	Ways []Way `json:"ways,omitempty"`
}

// ChanceECE is a calibration error that is chance alone: its mean, and a bound that one of twenty
// exceeds, of independent values.
type ChanceECE struct {
	Mean Number `json:"mean"`
	High Number `json:"high"`
}

// Way is another way to guess what was taken away: mode, naive Bayes, forest (on the
// attributes that are left) and forest with image (on the encoder's mean tokens, too).
type Way struct {
	Name     string `json:"name"`
	Accuracy Number `json:"accuracy"`
	// Difference is the method minus this way.
	Difference Bounded `json:"method_minus"`
}

// pooled is one method at one point over all its seeds.
type pooled struct {
	row        Row
	classified *classify.Result
	detected   *froc.Result
	outcomes   []froc.LesionOutcome // of detected, with the models' own scores
	answers    classify.Answers     // where a number or a time is asked
	patients   []string
	// labels and probabilities of classified.
	labels        []int
	probabilities [][]float64
	task          string
	// of is what was pooled once; a method without attributes stands at several points.
	of *pooled
}

// Table computes the table from the finished cells of the plan.
func (s *Study) Table(o TableOptions) (*Table, error) {
	options, err := o.Resample.Resolved()
	if err != nil {
		return nil, &config.Error{Err: err}
	}
	t := &Table{SchemaVersion: Version, Identity: s.Identity, Metric: "balanced_accuracy", Replicates: options.Replicates}
	if s.Task == config.Detect {
		t.Metric = "mean_sensitivity"
	}
	var tests []*Test
	absent := map[string]bool{}
	var points []*pooled
	kept := map[string]*pooled{} // by cells: a method without attributes stands in every column
	for _, block := range s.Plan.Blocks {
		for _, point := range block.Points {
			var column []*pooled
			for _, m := range block.Methods {
				results, names, err := s.finished(point, m, absent)
				if err != nil {
					return nil, err
				}
				if len(results) == 0 {
					continue
				}
				t.choosePrimary(results[0].Classified)
				for task := range max(1, len(results[0].Classified)) {
					key := fmt.Sprint(task, names)
					p := kept[key]
					if p == nil {
						if p, err = s.pool(results, task, options); err != nil {
							return nil, fmt.Errorf("method %s: %w", m.Name, err)
						}
						p.row.Cells, p.of = names, p
						kept[key] = p
					}
					here := *p
					here.row.Scenario, here.row.Rate, here.row.TrainRate, here.row.TestRate = point.Scenario, point.Rate, point.TrainRate, point.TestRate
					here.row.Fraction, here.row.Method = point.Fraction, m.Name
					column = append(column, &here)
				}
				t.Reconstruction = append(t.Reconstruction, reconstructed(point, m, results, options)...)
			}
			for _, p := range column {
				if base := baseOf(column, p, o.Baseline); base != nil {
					if p.row.Test, err = compare(base, p, options); err != nil {
						return nil, fmt.Errorf("%s against %s: %w", p.row.Method, o.Baseline, err)
					}
					if p.row.Test != nil {
						tests = append(tests, p.row.Test)
					}
				}
			}
			for _, p := range column {
				t.Rows = append(t.Rows, p.row)
			}
			points = append(points, column...)
		}
	}
	if t.Curves, err = curves(points, options); err != nil {
		return nil, err
	}
	raw := make([]float64, len(tests))
	for i, test := range tests {
		raw[i] = float64(test.P)
	}
	for i, p := range resample.Holm(raw) {
		tests[i].Holm = Number(p)
	}
	for name := range absent {
		t.Missing = append(t.Missing, name)
	}
	slices.Sort(t.Missing)
	t.Warnings, err = s.warnings()
	return t, err
}

// choosePrimary sets the primary metrics of questions for numbers and times.
func (t *Table) choosePrimary(sets []Classified) {
	if !slices.ContainsFunc(sets, func(c Classified) bool { return c.Question != "" }) {
		return
	}
	t.Primary = map[string]string{}
	for k, c := range sets {
		primary := "balanced_accuracy"
		if c.Question != "" {
			primary = classify.PlainMeasures(c.Question)[0]
		}
		if t.Primary[c.Task] = primary; k == 0 {
			t.Metric = primary
		}
	}
}

// warnings are those of the finished cells, each once with the cells it is about.
func (s *Study) warnings() ([]string, error) {
	var texts []string
	cells := map[string][]string{}
	for _, c := range s.cells {
		found, err := predictions.Warnings(s.path("cells", c.Name()), s.split(c))
		if err != nil {
			return nil, err
		}
		for _, text := range found {
			if cells[text] == nil {
				texts = append(texts, text)
			}
			cells[text] = append(cells[text], c.Name())
		}
	}
	for i, text := range texts {
		texts[i] = fmt.Sprintf("%s (%d cells, the first is %s)", text, len(cells[text]), cells[text][0])
	}
	return texts, nil
}

// finished are a method's results at a point, in the order of the seeds.
func (s *Study) finished(point Point, m Method, absent map[string]bool) (results []*CellResult, names []string, err error) {
	for _, seed := range s.Plan.Seeds {
		var folds []*CellResult
		var cells []string
		for _, fold := range s.Plan.folds() {
			c := point.cell(m, seed, fold)
			r, err := s.result(c)
			if err != nil {
				return nil, nil, err
			}
			if r == nil {
				absent[c.Name()] = true
				continue
			}
			folds, cells = append(folds, r), append(cells, c.Name())
		}
		if len(folds) < len(s.Plan.folds()) {
			continue // a seed counts with all of its folds
		}
		r, err := joined(folds)
		if err != nil {
			return nil, nil, err
		}
		results, names = append(results, r), append(names, cells...)
	}
	return results, names, nil
}

func baseOf(column []*pooled, p *pooled, baseline string) *pooled {
	for _, other := range column {
		if other.row.Method == baseline && other != p && other.task == p.task && slices.Equal(other.row.Seeds, p.row.Seeds) {
			return other
		}
	}
	return nil
}

// pool joins the cells of all seeds. The cases of every seed stand behind each other:
// with as many of each class in each, accuracy and recalls of all together are the
// means over the seeds, and a patient's cases of all seeds are resampled together.
func (s *Study) pool(results []*CellResult, task int, o resample.Options) (*pooled, error) {
	p := &pooled{row: Row{Figures: map[string]Figure{}}}
	for _, r := range results {
		p.row.Seeds = append(p.row.Seeds, r.Seed)
	}
	suffix := ""
	if len(results[0].Classified) > 1 {
		p.task = results[0].Classified[task].Task
		suffix = "." + p.task
		p.row.Task = p.task
	}
	for name := range results[0].Metrics {
		metric, ok := strings.CutSuffix(name, suffix)
		if ok && (suffix != "" || !strings.Contains(name, ".") || s.Task == config.Detect) {
			p.row.Figures[metric] = overSeeds(results, name)
		}
	}
	if s.Task == config.Detect {
		return p, s.poolDetections(p, results, o)
	}
	all := Classified{Classes: results[0].Classified[task].Classes, Question: results[0].Classified[task].Question}
	for _, r := range results {
		c := r.Classified[task]
		if !slices.Equal(c.Classes, all.Classes) {
			return nil, fmt.Errorf("the seeds know other classes: %s and %s", strings.Join(all.Classes, ", "), strings.Join(c.Classes, ", "))
		}
		all.Labels, all.Called, all.Probabilities = append(all.Labels, c.Labels...), append(all.Called, c.Called...), append(all.Probabilities, c.Probabilities...)
		all.Values, all.Events = append(all.Values, c.Values...), append(all.Events, c.Events...)
		for i, patient := range c.Patients { // the same case of every seed is one patient
			p.patients = append(p.patients, dataset.PatientOf(patient, c.IDs[i]))
		}
	}
	p.labels, p.probabilities = all.Labels, all.Probabilities
	var err error
	if p.classified, p.answers, err = all.evaluate(); err != nil {
		return nil, err
	}
	if p.answers != nil {
		return p, p.boundMeasures(o)
	}
	ci, err := p.classified.Bootstrap(p.patients, o)
	if err != nil {
		return nil, err
	}
	p.bound("accuracy", ci.Accuracy)
	p.bound("balanced_accuracy", ci.BalancedAccuracy)
	return p, nil
}

// boundMeasures adds the intervals of numbers and times.
func (p *pooled) boundMeasures(o resample.Options) error {
	names := classify.PlainMeasures(p.answers.Question())
	measures := make([]classify.Measure, len(names))
	for k, name := range names {
		var err error
		if measures[k], err = classify.ParseMeasure(name, p.answers.Question()); err != nil {
			return err
		}
	}
	each, _, err := classify.MeasureEstimates([]classify.Answers{p.answers}, measures, p.patients, o)
	if err != nil {
		return err
	}
	for k, name := range names {
		p.bound(name, each[0][k].CI)
	}
	return nil
}

func (p *pooled) bound(metric string, ci resample.Interval) {
	f, ok := p.row.Figures[metric]
	if ok {
		f.Low, f.High = Number(ci.Low), Number(ci.High)
		p.row.Figures[metric] = f
	}
}

func overSeeds(results []*CellResult, metric string) Figure {
	var sum, squares, n float64
	for _, r := range results {
		if v, ok := r.Metrics[metric]; ok {
			sum, n = sum+v, n+1
		}
	}
	mean := sum / n
	for _, r := range results {
		if v, ok := r.Metrics[metric]; ok {
			squares += (v - mean) * (v - mean)
		}
	}
	return Figure{Number(mean), Number(math.NaN()), Number(math.NaN()), Number(math.Sqrt(squares / (n - 1)))}
}

// detections are one seed's marks on its truth.
type detections struct {
	seed  uint64
	truth *froc.Truth
	marks []froc.Prediction
}

// poolDetections joins the images of all seeds as images of their own, patients alike.
func (s *Study) poolDetections(p *pooled, results []*CellResult, o resample.Options) error {
	cfg, err := s.config(s.cells[0].Model)
	if err != nil {
		return err
	}
	protocol, err := predictions.Protocol(cfg)
	if err != nil {
		return err
	}
	var seeds []detections
	for _, r := range results {
		dir := predictions.Dir(s.path("cells", r.Cell), s.Split)
		truth, err := frocio.ReadTruth(frocio.Source{GroundTruth: filepath.Join(dir, predictions.TruthFile), Images: filepath.Join(dir, predictions.ImagesFile)}, frocio.Options{})
		if err != nil {
			return err
		}
		given, err := truth.ReadPredictions(filepath.Join(dir, predictions.File))
		if err != nil {
			return err
		}
		own, err := froc.Evaluate(truth.Truth, given.Marks, protocol)
		if err != nil {
			return err
		}
		p.outcomes = append(p.outcomes, own.LesionOutcomes()...)
		seeds = append(seeds, detections{r.Seed, truth.Truth, onOneScale(own)})
	}
	all, marks := joinDetections(seeds)
	// Systems are compared on one truth.
	name := fmt.Sprint(p.row.Seeds)
	if known := s.truths[name]; known == nil {
		s.truths[name] = all
	} else if !reflect.DeepEqual(known, all) {
		return errors.New("the cells are of different cases")
	} else {
		all = known
	}
	if p.detected, err = froc.Evaluate(all, marks, protocol); err != nil {
		return err
	}
	ci, err := p.detected.Bootstrap(o)
	if errors.Is(err, froc.ErrTooFewReplicates) {
		return nil
	}
	if err != nil {
		return err
	}
	p.bound("mean_sensitivity", ci.Mean)
	for i, point := range p.detected.OperatingPoints {
		p.bound("sensitivity@"+number(point.FPPI), ci.Points[i])
	}
	return nil
}

// onOneScale are a result's marks with scores that say how many false positives it has down to
// them, and before the next one keep their order. Two models' scores mean nothing to each other.
// One threshold cuts these at as many false positives in every seed, and the joint sensitivity is
// the mean over the seeds (but for false positives of one score, which are cut together).
func onOneScale(r *froc.Result) []froc.Prediction {
	scores := make([]float64, len(r.Predictions))
	for i, m := range r.Predictions {
		scores[i] = m.Score
	}
	slices.Sort(scores)
	slices.Reverse(scores)
	scores = slices.Compact(scores)
	made := map[float64]float64{}
	at, before, wrong := 0, 0, 0
	for i, score := range scores {
		before = wrong
		for ; at < len(r.Curve) && r.Curve[at].Threshold >= score; at++ {
			wrong = r.Curve[at].FalsePositives
		}
		place := 2 * wrong // lesions that are found after so many false positives
		if wrong > before {
			place-- // the false positives themselves
		}
		made[score] = -float64(place) - float64(i)/float64(len(scores))
	}
	marks := slices.Clone(r.Predictions)
	for i := range marks {
		marks[i].Score = made[marks[i].Score]
	}
	return marks
}

// joinDetections puts the images of seeds behind each other.
func joinDetections(seeds []detections) (*froc.Truth, []froc.Prediction) {
	all := &froc.Truth{}
	// class numbers the classes of all seeds alike: those of a file are in its own order.
	class := func(truth *froc.Truth, k int32) int32 {
		if k == froc.AnyClass || len(truth.Classes) == 0 {
			return k
		}
		at := slices.Index(all.Classes, truth.Classes[k])
		if at < 0 {
			at, all.Classes = len(all.Classes), append(all.Classes, truth.Classes[k])
		}
		return int32(at)
	}
	var marks []froc.Prediction
	for _, s := range seeds {
		first := len(all.Images)
		for _, image := range s.truth.Images {
			if image.Patient == "" {
				image.Patient = image.ID
			}
			image.ID = fmt.Sprintf("seed %d: %s", s.seed, image.ID)
			all.Images = append(all.Images, image)
		}
		for _, lesion := range s.truth.Lesions {
			lesion.Image, lesion.Class = lesion.Image+first, class(s.truth, lesion.Class)
			all.Lesions = append(all.Lesions, lesion)
		}
		for _, m := range s.marks {
			m.Image, m.Class = m.Image+first, class(s.truth, m.Class)
			marks = append(marks, m)
		}
	}
	return all, marks
}

// compare tests b against a; nil where it cannot be.
func compare(a, b *pooled, o resample.Options) (*Test, error) {
	t := &Test{Baseline: a.row.Method}
	if a.detected != nil {
		pairs, err := froc.Compare([]froc.Named{{Name: "a", Result: a.detected}, {Name: "b", Result: b.detected}}, froc.CompareOptions{BootstrapOptions: o})
		if errors.Is(err, froc.ErrTooFewReplicates) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		d := pairs.Pairs[0].Mean
		t.Difference, t.Low, t.High, t.P = Number(d.Value), Number(d.CI.Low), Number(d.CI.High), Number(d.PermutationP)
		return t, nil
	}
	if !slices.Equal(a.patients, b.patients) {
		return nil, errors.New("the cells are of different cases")
	}
	if a.answers != nil {
		m, err := classify.ParseMeasure(classify.PlainMeasures(a.answers.Question())[0], a.answers.Question())
		if err != nil {
			return nil, err
		}
		_, apart, err := classify.MeasureEstimates([]classify.Answers{a.answers, b.answers}, []classify.Measure{m}, a.patients, o)
		if err != nil {
			return nil, err
		}
		d := apart[0][0]
		t.Difference, t.Low, t.High, t.P = Number(d.Value), Number(d.CI.Low), Number(d.CI.High), Number(d.PermutationP)
		return t, nil
	}
	pairs, err := classify.Compare([]classify.Named{{Name: "a", Result: a.classified}, {Name: "b", Result: b.classified}}, a.patients, o)
	if err != nil {
		return nil, err
	}
	d := pairs[0].BalancedAccuracy
	t.Difference, t.Low, t.High, t.P = Number(d.Value), Number(d.CI.Low), Number(d.CI.High), Number(d.PermutationP)
	return t, nil
}

// reconstructed sums the cells' scores, per attribute and over all.
func reconstructed(point Point, m Method, results []*CellResult, o resample.Options) []Reconstruction {
	byName := map[string]*AttributeScore{}
	order := []string{""}
	byName[""] = &AttributeScore{}
	for _, r := range results {
		for _, a := range r.Reconstruction {
			if byName[a.Attribute] == nil {
				byName[a.Attribute] = &AttributeScore{}
				order = append(order, a.Attribute)
			}
			for _, sum := range []*AttributeScore{byName[""], byName[a.Attribute]} {
				sum.Cases, sum.Right, sum.Majority, sum.NaiveBayes = sum.Cases+a.Cases, sum.Right+a.Right, sum.Majority+a.Majority, sum.NaiveBayes+a.NaiveBayes
				sum.Values = append(sum.Values, a.Values...)
				for b := range sum.Bins {
					for k := range sum.Bins[b] {
						sum.Bins[b][k] += a.Bins[b][k]
					}
				}
			}
		}
	}
	var out []Reconstruction
	for _, name := range order {
		a := byName[name]
		if a.Cases == 0 {
			continue
		}
		n := float64(a.Cases)
		ece, mean, high := calibrationError(a.Bins)
		out = append(out, Reconstruction{point.Scenario, point.Rate, m.Name, name, a.Cases,
			Number(float64(a.Right) / n), Number(float64(a.Majority) / n), Number(float64(a.NaiveBayes) / n),
			Number(ece), ChanceECE{Number(mean), Number(high)}, a.ways(o)})
	}
	return out
}

// Save writes table.json, table.csv and plot.svg into the study's folder.
func (s *Study) Save(t *Table) error {
	data, err := json.MarshalIndent(t, "", "  ")
	if err != nil {
		return err
	}
	if err := runs.WriteFile(s.path("table.json"), append(data, '\n')); err != nil {
		return err
	}
	if data, err = t.csv(); err != nil {
		return err
	}
	if err := runs.WriteFile(s.path("table.csv"), data); err != nil {
		return err
	}
	if data, err = t.plot(); err != nil || data == nil {
		return err
	}
	return runs.WriteFile(s.path("plot.svg"), data)
}

// metrics are the names of the figures, the primary first.
func (t *Table) metrics() []string {
	names := []string{t.Metric}
	for _, r := range t.Rows {
		for name := range r.Figures {
			if !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	slices.Sort(names[1:])
	return names
}

func (t *Table) csv() ([]byte, error) {
	text := func(n Number) string {
		if math.IsNaN(float64(n)) {
			return ""
		}
		return strconv.FormatFloat(float64(n), 'f', 6, 64)
	}
	header := []string{"scenario", "rate", "train_rate", "test_rate", "fraction", "task", "method", "seeds"}
	for _, m := range t.metrics() {
		header = append(header, m, m+"_low", m+"_high", m+"_sd")
	}
	rows := [][]string{append(header, "baseline", "difference", "difference_low", "difference_high", "p", "p_holm")}
	for _, r := range t.Rows {
		row := []string{r.Scenario, number(r.Rate), number(r.TrainRate), number(r.TestRate), number(r.Fraction), r.Task, r.Method, fmt.Sprint(len(r.Seeds))}
		for _, m := range t.metrics() {
			f, ok := r.Figures[m]
			if !ok {
				row = append(row, "", "", "", "")
				continue
			}
			row = append(row, text(f.Mean), text(f.Low), text(f.High), text(f.SD))
		}
		if c := r.Test; c != nil {
			row = append(row, c.Baseline, text(c.Difference), text(c.Low), text(c.High), text(c.P), text(c.Holm))
		} else {
			row = append(row, "", "", "", "", "", "")
		}
		rows = append(rows, row)
	}
	var b bytes.Buffer
	err := csv.NewWriter(&b).WriteAll(rows)
	return b.Bytes(), err
}

// Column is what stands above a column of the text table.
func (t *Table) Column(r *Row) string {
	if t.byFraction() {
		return fmt.Sprintf("%g %%", 100*r.Fraction)
	}
	return fmt.Sprintf("%g %%", 100*r.Rate)
}

// byFraction reports whether the columns are shares of the training patients.
func (t *Table) byFraction() bool {
	return slices.ContainsFunc(t.Rows, func(r Row) bool { return r.Fraction != 1 })
}

// Write prints one grid of methods and rates per scenario for a metric (empty: the
// primary): mean, and below it in long form interval, seeds and test.
func (t *Table) Write(w io.Writer, metric string) error {
	if metric == "" {
		metric = t.Metric
	}
	if !slices.Contains(t.metrics(), metric) {
		return &config.Error{Err: fmt.Errorf("metric %q is unknown%s; there are %s", metric, nearest.Meant(metric, t.metrics()), strings.Join(t.metrics(), ", "))}
	}
	type grid struct{ scenario, task string }
	var grids []grid
	for _, r := range t.Rows {
		if g := (grid{r.Scenario, r.Task}); !slices.Contains(grids, g) {
			grids = append(grids, g)
		}
	}
	for i, g := range grids {
		if i > 0 {
			fmt.Fprintln(w)
		}
		shown := metric
		if own := t.Primary[g.task]; own != "" && metric == t.Metric {
			shown = own
		}
		var columns, methods []string
		cells := map[[2]string]string{}
		starred := false
		for k := range t.Rows {
			r := &t.Rows[k]
			f, ok := r.Figures[shown]
			if (grid{r.Scenario, r.Task}) != g || !ok {
				continue
			}
			c := t.Column(r)
			if !slices.Contains(columns, c) {
				columns = append(columns, c)
			}
			if !slices.Contains(methods, r.Method) {
				methods = append(methods, r.Method)
			}
			text := fmt.Sprintf("%.3f", float64(f.Mean))
			if low, high := float64(f.Low), float64(f.High); low == low {
				text += fmt.Sprintf(" [%.3f %.3f]", low, high)
			}
			if r.Test != nil && metric == t.Metric && r.Test.Holm < 0.05 {
				starred = true
				text += map[bool]string{true: " +", false: " -"}[r.Test.Difference > 0]
			}
			cells[[2]string{r.Method, c}] = text
		}
		title := g.scenario
		if g.task != "" {
			title = g.task + ": " + title
		}
		fmt.Fprintf(w, "%s, %s on split %s: mean over seeds [95 %% CI, patients resampled]\n", title, strings.ReplaceAll(shown, "_", " "), t.Split)
		tab := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		fmt.Fprintf(tab, "%s\t%s\n", map[bool]string{false: "missing", true: "training patients"}[t.byFraction()], strings.Join(columns, "\t"))
		for _, m := range methods {
			row := m
			for _, c := range columns {
				text := cells[[2]string{m, c}]
				if text == "" {
					text = "-"
				}
				row += "\t" + text
			}
			fmt.Fprintln(tab, row)
		}
		if err := tab.Flush(); err != nil {
			return err
		}
		if starred {
			fmt.Fprintln(w, "+ above, - below the baseline: permutation test, p < 0.05 after Holm's correction for all tests of the table")
		}
	}
	if metric == t.Metric {
		if err := writeCurves(w, t.Curves, strings.ReplaceAll(metric, "_", " ")); err != nil {
			return err
		}
	}
	for _, r := range t.Reconstruction {
		if r.Attribute == "" {
			fmt.Fprintf(w, "\n%s at %g %%, %s: of %d values taken away %.3f recovered (most frequent value %.3f, naive Bayes %.3f), ECE %.3f",
				r.Scenario, 100*r.Rate, r.Method, r.Values, float64(r.Accuracy), float64(r.Majority), float64(r.NaiveBayes), float64(r.ECE))
			if r.Calibrated.High > 0 {
				fmt.Fprintf(w, " (calibrated ones: %.3f, at most %.3f)", float64(r.Calibrated.Mean), float64(r.Calibrated.High))
			}
		}
	}
	if len(t.Reconstruction) > 0 {
		fmt.Fprintln(w)
	}
	if t.Forests {
		if err := t.writeRecovery(w); err != nil {
			return err
		}
	}
	for _, text := range t.Warnings {
		fmt.Fprintf(w, "warning: %s\n", text)
	}
	return nil
}
