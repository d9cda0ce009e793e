package workflow

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/alignedfusion/alignedfusion/eval/classify"
	"github.com/alignedfusion/alignedfusion/eval/froc/frocio"
	"github.com/alignedfusion/alignedfusion/eval/froc/frocreport"
	"github.com/alignedfusion/alignedfusion/eval/resample"
	"github.com/alignedfusion/alignedfusion/host/config"
	"github.com/alignedfusion/alignedfusion/host/workflow/predictions"
	"github.com/alignedfusion/alignedfusion/internal/problem"
	"github.com/alignedfusion/alignedfusion/internal/table"
	"github.com/alignedfusion/alignedfusion/sdk"
)

// Classification is a comparison of classifiers on one label set, as `compare --json`
// writes it.
type Classification struct {
	SchemaVersion int `json:"schema_version"`
	// Task is the label set's name where there are several.
	Task       string           `json:"task,omitempty"`
	Split      string           `json:"split"`
	Classes    []string         `json:"classes"`
	Systems    []Classifier     `json:"systems"`
	Comparison []ClassifierPair `json:"comparison,omitempty"`
	Figures    []FigureRow      `json:"figures,omitempty"` // those asked for
	Warnings   []string         `json:"warnings,omitempty"`
	Notes      []string         `json:"notes,omitempty"` // what a reader of the figures must know

	// IDs and Patients are those of the cases with a label; Results are parallel to Systems.
	IDs, Patients []string         `json:"-"`
	Results       []classify.Named `json:"-"`
	// Set is its place among all label sets.
	Set int `json:"-"`
}

// Metric is a figure with its 95 % interval.
type Metric struct {
	Value frocio.Number    `json:"value"`
	CI    [2]frocio.Number `json:"ci"`
}

// Classifier are the figures of one system.
type Classifier struct {
	Name             string            `json:"name"`
	Cases            int               `json:"cases"`
	Accuracy         Metric            `json:"accuracy"`
	BalancedAccuracy Metric            `json:"balanced_accuracy"`
	MacroAUROC       Metric            `json:"macro_auroc"`
	ECE              Metric            `json:"ece"`
	Recall           map[string]Metric `json:"recall"`
}

// ClassifierPair are the differences of B to A.
type ClassifierPair struct {
	A                string `json:"a"`
	B                string `json:"b"`
	BalancedAccuracy Metric `json:"balanced_accuracy"`
	// Resolvable is the smallest difference of balanced accuracy that the cases can resolve;
	// Verdict says whether B is better: significantly, and by no less.
	Resolvable       frocio.Number    `json:"resolvable"`
	Verdict          resample.Verdict `json:"verdict"`
	PermutationP     frocio.Number    `json:"p_permutation"`
	HolmPermutationP frocio.Number    `json:"p_permutation_holm"`
	Accuracy         Metric           `json:"accuracy"`
	MacroAUROC       Metric           `json:"macro_auroc"`
}

func newMetric(v float64, ci resample.Interval) Metric {
	return Metric{frocio.Number(v), [2]frocio.Number{frocio.Number(ci.Low), frocio.Number(ci.High)}}
}

func compareClassifiers(o CompareOptions, given []*RunFiles) (out []*Classification, measured []*Measured, err error) {
	dir, err := truthDir(o.Systems, o.Split)
	if err != nil {
		return nil, nil, err
	}
	truth, err := table.Read(filepath.Join(dir, predictions.TruthFile))
	if err != nil {
		return nil, nil, bad(err)
	}
	images, err := table.Read(filepath.Join(dir, predictions.ImagesFile))
	if err != nil {
		return nil, nil, bad(err)
	}
	patientOf := map[string]string{}
	for _, r := range images.Rows {
		patientOf[images.Get(r, "image")] = images.Get(r, "patient")
	}
	asked := o.Figures
	figures, err := shareFigures(asked, truth.Columns[1:])
	if err != nil {
		return nil, nil, err
	}
	refused := map[string]error{} // figures, until a label set takes them
	for _, column := range truth.Columns[1:] {
		kind, _ := truthKind(column)
		o.Figures = figures[kind]
		switch kind {
		case predictions.EventColumn:
			continue
		case predictions.ValueColumn, predictions.TimeColumn:
			one, err := compareMeasured(o, truth, column, patientOf)
			if err != nil {
				return nil, nil, err
			}
			if set := given[0].labelSet(one.Task); set != nil {
				one.Unit = set.Unit
			}
			measured = append(measured, one)
			continue
		}
		one, err := compareLabels(o, truth, column, patientOf, refused)
		if err != nil {
			return nil, nil, err
		}
		one.Set = len(out) + len(measured)
		one.Notes = append(one.Notes, thresholdNotes(given, o.Systems, one.Task)...)
		out = append(out, one)
	}
	for _, name := range asked {
		if err := refused[name]; err != nil {
			return nil, nil, err
		}
	}
	return out, measured, nil
}

// labelSet is a run's label set of a task, "" where there is one alone; nil: none.
func (r *RunFiles) labelSet(task string) *sdk.LabelSet {
	if r == nil {
		return nil
	}
	for k := range r.Labels {
		if len(r.Labels) == 1 || r.Labels[k].Name == task {
			return &r.Labels[k]
		}
	}
	return nil
}

// thresholdNotes say by which thresholds the systems' classes were called.
func thresholdNotes(given []*RunFiles, systems []System, task string) []string {
	var out []string
	for i, r := range given {
		if set := r.labelSet(task); set != nil && set.Threshold > 0 {
			out = append(out, systems[i].Name+": "+thresholdNote(*set))
		}
	}
	return out
}

// shareFigures gives each kind of question, by its column of the truth, those of the figures
// that are its own. Where there is one kind alone it is given all, so that it says what is none.
func shareFigures(figures, columns []string) (map[string][]string, error) {
	asked := map[string]string{} // by column
	for _, column := range columns {
		kind, _ := truthKind(column)
		switch kind {
		case predictions.ValueColumn:
			asked[kind] = classify.Regression
		case predictions.TimeColumn:
			asked[kind] = classify.Survival
		case predictions.LabelColumn:
			asked[kind] = ""
		}
	}
	out := map[string][]string{}
	for _, name := range figures {
		taken := false
		for kind, question := range asked {
			is := classify.IsFigure(name)
			if question != "" {
				_, err := classify.ParseMeasure(name, question)
				is = err == nil
			}
			if is || len(asked) == 1 {
				out[kind], taken = append(out[kind], name), true
			}
		}
		if !taken {
			return nil, usage("--metric: figure %q is of none of the runs' questions; alignedfusion help figures lists them", name)
		}
	}
	return out, nil
}

// compareLabels compares the systems on the label set of a column of the truth. Figures that its
// classes refuse are left out, and stand in refused unless another label set takes them.
func compareLabels(o CompareOptions, truth *table.Table, column string, patientOf map[string]string, refused map[string]error) (*Classification, error) {
	var named []classify.Named
	var ids, patients []string
	for _, s := range o.Systems {
		result, found, err := readClassified(s.predictions(o.Split), truth, column)
		if err != nil {
			return nil, bad(err)
		}
		named, ids = append(named, classify.Named{Name: s.Name, Result: result}), found
	}
	for _, id := range ids {
		patients = append(patients, patientOf[id])
	}
	one, err := newClassification(named, patients, o.Resample)
	if err != nil {
		return nil, err
	}
	one.IDs, one.Patients, one.Results = ids, patients, named
	o.Figures = slices.DeleteFunc(slices.Clone(o.Figures), func(name string) bool {
		_, err := classify.ParseFigure(name, one.Classes)
		before, known := refused[name]
		switch {
		case err == nil:
			refused[name] = nil
		case !known || before != nil:
			refused[name] = usage("--metric: %w", err)
		}
		return err != nil
	})
	if one.Figures, err = figuresOf(o, named, patients); err != nil {
		return nil, err
	}
	one.Task, one.Split = strings.TrimPrefix(strings.TrimPrefix(column, predictions.LabelColumn), "."), o.Split
	return one, nil
}

// readClassified reads predictions against a label column of the truth, with the ids of
// the cases. Cases without a label are left out.
func readClassified(path string, truth *table.Table, column string) (*classify.Result, []string, error) {
	read, err := readAnswers(path)
	if err != nil {
		return nil, nil, err
	}
	given, suffix := read.given, strings.TrimPrefix(column, predictions.LabelColumn)
	prefix := "p" + suffix + "_"
	classes := read.named(prefix)
	var labels, called []int
	var probabilities [][]float64
	ids, err := read.each(truth, column, func(r, at table.Row) error {
		k := slices.Index(classes, truth.Get(r, column))
		if k < 0 {
			return fmt.Errorf("%s: case %q with label %q is not among the predictions of classes %s", path, truth.Get(r, "id"), truth.Get(r, column), strings.Join(classes, ", "))
		}
		p, err := readProbabilities(given, at, prefix, classes)
		if err != nil {
			return err
		}
		says := slices.Index(classes, given.Get(at, "predicted"+suffix))
		if says < 0 {
			return problem.At(path, at.Line, "predicted"+suffix, "%q, want one of the classes %s", given.Get(at, "predicted"+suffix), strings.Join(classes, ", "))
		}
		labels, called, probabilities = append(labels, k), append(called, says), append(probabilities, p)
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	result, err := classify.EvaluateCalled(labels, called, probabilities, classes)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	return result, ids, nil
}

func readProbabilities(t *table.Table, at table.Row, prefix string, classes []string) ([]float64, error) {
	var p []float64
	var sum float64
	for _, class := range classes {
		text := t.Get(at, prefix+class)
		v, err := table.Number(text)
		if err != nil || !(v >= 0 && v <= 1.001) {
			return nil, problem.At(t.Path, at.Line, prefix+class, "%q, want a probability", text)
		}
		p, sum = append(p, v), sum+v
	}
	for j := range p {
		p[j] /= sum // the file's digits do not quite add up to 1
	}
	return p, nil
}

// newClassification has one row per system, with the differences to the first.
func newClassification(named []classify.Named, patients []string, o resample.Options) (*Classification, error) {
	o, err := o.Resolved()
	if err != nil {
		return nil, usage("%w", err)
	}
	out := &Classification{SchemaVersion: 1, Classes: named[0].Result.Classes}
	if few := resample.Warning(classify.Patients(patients, named[0].Result.Cases), "patient"); few != "" {
		out.Notes = append(out.Notes, few)
	}
	for _, s := range named {
		ci, err := s.Result.Bootstrap(patients, o)
		if err != nil {
			return nil, bad(err)
		}
		m := s.Result.Metrics
		one := Classifier{Name: s.Name, Cases: s.Result.Cases, Accuracy: newMetric(m.Accuracy, ci.Accuracy),
			BalancedAccuracy: newMetric(m.BalancedAccuracy, ci.BalancedAccuracy), MacroAUROC: newMetric(m.MacroAUROC, ci.MacroAUROC),
			ECE: newMetric(m.ECE, ci.ECE), Recall: map[string]Metric{}}
		for k, class := range s.Result.Classes {
			one.Recall[class] = newMetric(m.Recall[k], ci.Recall[k])
		}
		out.Systems = append(out.Systems, one)
	}
	if len(named) == 1 {
		return out, nil
	}
	pairs, err := classify.Compare(named, patients, o)
	if err != nil {
		return nil, bad(err)
	}
	for _, p := range pairs {
		out.Comparison = append(out.Comparison, ClassifierPair{A: p.A, B: p.B,
			BalancedAccuracy: newMetric(p.BalancedAccuracy.Value, p.BalancedAccuracy.CI), Resolvable: frocio.Number(p.BalancedAccuracy.Resolvable),
			Verdict: p.Verdict, PermutationP: frocio.Number(p.BalancedAccuracy.PermutationP),
			HolmPermutationP: frocio.Number(p.HolmPermutationP),
			Accuracy:         newMetric(p.Accuracy.Value, p.Accuracy.CI), MacroAUROC: newMetric(p.MacroAUROC.Value, p.MacroAUROC.CI)})
	}
	return out, nil
}

// Evaluate are the figures of what a run predicted. It fails with froc.ErrNoLesions where
// there is nothing to find.
func Evaluate(r *PredictResult) (_ *Comparison, err error) {
	out := &Comparison{Split: r.Split, Warnings: r.Warnings}
	if out.Own, err = ownOf(r); err != nil {
		return nil, err
	}
	if r.Config.Task == config.Detect {
		p, err := predictions.Protocol(r.Config)
		if err != nil {
			return nil, err
		}
		result, err := predictions.EvaluateBoxes(r.Cases, r.Predictions, r.Labels, p)
		if err != nil {
			return nil, err
		}
		o := frocreport.Options{Protocol: p, ByClass: len(result.Truth.Classes) > 0}
		if o.Resample, err = o.Resample.Resolved(); err != nil {
			return nil, err
		}
		system := frocreport.Evaluated{System: frocreport.System{Name: RunName(r.Run), Path: r.Run}, Result: result}
		full, err := frocreport.Describe(o, []frocreport.Evaluated{system}, frocreport.Remarks{})
		if err != nil {
			return nil, err
		}
		out.Detection = newDetection(full, o.Resample)
		return out, nil
	}
	results, err := predictions.EvaluateClasses(r.Cases, r.Predictions, r.Labels)
	if err != nil {
		return nil, err
	}
	for _, e := range results {
		var patients []string
		for _, i := range e.Cases {
			patients = append(patients, r.Cases[i].Patient)
		}
		task := ""
		if len(r.Labels) > 1 {
			task = e.Set.Name
		}
		name := RunName(r.Run)
		if e.Answers != nil {
			one, err := newMeasured([]string{name}, []classify.Answers{e.Answers}, patients, nil, resample.Options{})
			if err != nil {
				return nil, err
			}
			one.Split, one.Task, one.Unit = r.Split, task, e.Set.Unit
			out.Measured = append(out.Measured, one)
			continue
		}
		one, err := newClassification([]classify.Named{{Name: name, Result: e.Result}}, patients, resample.Options{})
		if err != nil {
			return nil, err
		}
		one.Split, one.Task = r.Split, task
		if note := thresholdNote(e.Set); note != "" {
			one.Notes = append(one.Notes, note)
		}
		out.Classification = append(out.Classification, one)
	}
	return out, nil
}

// ownOf are the figures of the head's own metrics in what a run predicted.
func ownOf(r *PredictResult) ([]FigureRow, error) {
	own, patientOf := map[string]map[string]float64{}, map[string]string{}
	for i, p := range r.Predictions {
		patientOf[r.Cases[i].ID] = r.Cases[i].Patient
		for name, v := range p.Own {
			if own[name] == nil {
				own[name] = map[string]float64{}
			}
			own[name][r.Cases[i].ID] = v
		}
	}
	return ownFigures([]string{RunName(r.Run)}, []map[string]map[string]float64{own}, patientOf, resample.Options{})
}
