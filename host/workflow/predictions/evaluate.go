package predictions

import (
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/alignedfusion/alignedfusion/eval/classify"
	"github.com/alignedfusion/alignedfusion/eval/froc"
	"github.com/alignedfusion/alignedfusion/host/config"
	"github.com/alignedfusion/alignedfusion/host/dataset"
	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/ports"
)

// Protocol is the FROC protocol that a configuration validates with.
func Protocol(c *config.Config) (froc.Protocol, error) {
	p, err := froc.ProtocolByName(string(c.DataSettings.Protocol))
	if err != nil {
		return p, err
	}
	if points := c.DataSettings.FPPI; len(points) > 0 {
		p.FPPI = points
	}
	return p, p.Check()
}

// HasTargets reports whether every case's boxes or labels are known.
func HasTargets(cases []dataset.Case) bool {
	for i := range cases {
		if !cases[i].HasTargets {
			return false
		}
	}
	return len(cases) > 0
}

// Truth are the cases' boxes as the evaluation takes them. With several classes a lesion is
// found by marks of its own class alone; what is to be ignored is so for every class.
func Truth(cases []dataset.Case, labels []sdk.LabelSet) *froc.Truth {
	t := &froc.Truth{}
	if classed(labels) {
		t.Classes = labels[0].Classes
	}
	for i := range cases {
		c := &cases[i]
		t.Images = append(t.Images, froc.Image{ID: c.ID, Patient: c.Patient})
		for _, b := range c.Boxes {
			t.Lesions = append(t.Lesions, froc.Lesion{Image: i, Region: froc.Box(b.X1, b.Y1, b.X2, b.Y2), Class: int32(b.Class)})
		}
		for _, r := range c.Ignore {
			x1, y1, x2, y2 := r.Bounds()
			t.Lesions = append(t.Lesions, froc.Lesion{Image: i, Region: froc.Box(x1, y1, x2, y2), Ignore: true, Class: froc.AnyClass})
		}
	}
	return t
}

// classed reports whether boxes are of several classes.
func classed(labels []sdk.LabelSet) bool { return len(labels) > 0 && len(labels[0].Classes) > 1 }

// EvaluateBoxes is the FROC of predictions, one per case in their order.
func EvaluateBoxes(cases []dataset.Case, predictions []Prediction, labels []sdk.LabelSet, p froc.Protocol) (*froc.Result, error) {
	var marks []froc.Prediction
	for i := range predictions {
		for _, b := range predictions[i].Boxes {
			marks = append(marks, froc.Prediction{Image: i, Region: froc.Box(b.X1, b.Y1, b.X2, b.Y2), Score: b.Score, Class: int32(b.Class)})
		}
	}
	return froc.Evaluate(Truth(cases, labels), marks, p)
}

// Evaluated are a classifier's answers to one label set: Result where classes are asked,
// Answers where a number or a time is. Cases of which nothing is known are left out.
type Evaluated struct {
	Set     sdk.LabelSet
	Result  *classify.Result
	Answers classify.Answers
	// Cases are the indices of the cases that are evaluated.
	Cases []int
}

// EvaluateClasses evaluates predictions, per label set.
func EvaluateClasses(cases []dataset.Case, predictions []Prediction, sets []sdk.LabelSet) ([]Evaluated, error) {
	var out []Evaluated
	for k, set := range sets {
		e := Evaluated{Set: set}
		var labels, called []int
		var values, predicted []float64
		var events []bool
		var probabilities [][]float64
		for i := range cases {
			answer := predictions[i].Probabilities[k]
			if l, ok := cases[i].Labels[set.Name]; ok && l >= 0 && set.Classed() {
				labels, called = append(labels, l), append(called, Called(set, answer))
			} else if m, ok := cases[i].Measured[set.Name]; ok {
				values, events, predicted = append(values, m.Value), append(events, m.Event), append(predicted, answer[0])
			} else {
				continue
			}
			e.Cases, probabilities = append(e.Cases, i), append(probabilities, answer)
		}
		var err error
		switch set.Asks() {
		case sdk.AsksNumber:
			e.Answers, err = answersOf(classify.NewNumbers(values, predicted))
		case sdk.AsksTime:
			e.Answers, err = answersOf(classify.NewTimes(values, events, set.Classes, probabilities))
		default:
			e.Result, err = classify.EvaluateCalled(labels, called, probabilities, set.Classes)
		}
		if err != nil {
			return nil, fmt.Errorf("evaluate %s: %w", set.Name, err)
		}
		out = append(out, e)
	}
	return out, nil
}

// answersOf makes no interface of a nil pointer.
func answersOf[T classify.Answers](a T, err error) (classify.Answers, error) {
	if err != nil {
		return nil, err
	}
	return a, nil
}

// Score is the number that decides which checkpoint is best, with all that was measured.
func Score(c *config.Config, labels []sdk.LabelSet, cases []dataset.Case, predictions []Prediction) (name string, value float64, metrics map[string]float64, err error) {
	if name, value, metrics, err = score(c, labels, cases, predictions); err != nil {
		return "", 0, nil, err
	}
	for _, own := range OwnNames(predictions) {
		metrics[own] = OwnMean(predictions, own)
	}
	if own := string(c.Train.BestBy); ports.Metrics.Has(own) {
		name, value = own, OwnMean(predictions, own)
	}
	return name, value, finite(metrics), nil
}

// score is Score without the head's own metrics.
func score(c *config.Config, labels []sdk.LabelSet, cases []dataset.Case, predictions []Prediction) (name string, value float64, metrics map[string]float64, err error) {
	metrics = map[string]float64{}
	if c.Task == config.Detect {
		p, err := Protocol(c)
		if err != nil {
			return "", 0, nil, err
		}
		name = "mean sensitivity"
		r, err := EvaluateBoxes(cases, predictions, labels, p)
		if errors.Is(err, froc.ErrNoLesions) {
			return name, math.NaN(), metrics, nil
		}
		if err != nil {
			return "", 0, nil, err
		}
		for _, o := range r.OperatingPoints {
			metrics[fmt.Sprintf("sensitivity@%g", o.FPPI)] = o.Sensitivity
		}
		metrics["mean_sensitivity"], metrics["average_precision"] = r.MeanSensitivity, r.AP
		if classed(labels) {
			classes, err := froc.ByClass(r.Truth, r.Predictions, p)
			if err != nil {
				return "", 0, nil, err
			}
			for _, c := range classes {
				metrics["mean_sensitivity."+c.Class] = c.Result.MeanSensitivity
			}
			metrics["mean_sensitivity_of_classes"] = froc.MacroMean(classes).MeanSensitivity
		}
		return name, r.MeanSensitivity, metrics, nil
	}
	results, err := EvaluateClasses(cases, predictions, labels)
	if err != nil {
		return "", 0, nil, err
	}
	defined := 0
	for _, e := range results {
		by, v, less, err := e.decides(c, len(labels) > 1)
		if err != nil {
			return "", 0, nil, err
		}
		e.describe(metrics, Suffix(labels, e.Set))
		metrics[by+Suffix(labels, e.Set)] = v
		said := strings.ReplaceAll(by, "_", " ")
		if by == string(config.MacroAUROC) {
			said = "macro AUROC"
		}
		if less {
			v, said = -v, "minus "+said
		}
		if !strings.Contains(name, said) {
			name = strings.TrimPrefix(name+", "+said, ", ")
		}
		if !math.IsNaN(v) { // a finding that no case has says nothing
			value, defined = value+v, defined+1
		}
	}
	return name, value / float64(defined), metrics, nil
}

// decides is the figure by which the best checkpoint is chosen.
func (e Evaluated) decides(c *config.Config, several bool) (name string, value float64, less bool, err error) {
	name = BestBy(c.Train.BestBy, e.Set, several)
	if e.Result != nil {
		f, err := classify.ParseFigure(name, e.Set.Classes)
		if err != nil {
			return "", 0, false, err
		}
		return name, f.Of(e.Result), f.LessIsBetter(), nil
	}
	m, err := classify.ParseMeasure(name, e.Answers.Question())
	if err != nil {
		return "", 0, false, err
	}
	return name, m.Of(e.Answers), m.LessIsBetter, nil
}

// BestBy is the figure of a label set that train.best_by chooses the best checkpoint by: that
// which is given or, where that is of another question or of the head's own, the usual one of
// the set's question; of one of several sets one that has no unit, since their mean decides.
func BestBy(given config.BestBy, set sdk.LabelSet, several bool) string {
	if set.Classed() {
		if _, err := classify.ParseFigure(string(given), set.Classes); err != nil {
			return string(config.BalancedAccuracy)
		}
		return string(given)
	}
	m, err := classify.ParseMeasure(string(given), set.Question)
	switch {
	case err == nil && !m.Directed && !(several && given == "mae"): // mae is of grades, too
		return string(given)
	case several && set.Asks() == sdk.AsksNumber:
		return "r2"
	}
	return classify.BestMeasures(set.Question)[0]
}

// BestBys are the figures of a label set that train.best_by takes.
func BestBys(set sdk.LabelSet) (names []string) {
	if !set.Classed() {
		return classify.BestMeasures(set.Question)
	}
	for _, figure := range classify.FigureNames() {
		name, _, _ := strings.Cut(figure, "\t")
		names = append(names, name)
	}
	return names
}

// describe adds the figures that are kept of every validation.
func (e Evaluated) describe(metrics map[string]float64, suffix string) {
	if e.Result != nil {
		m := e.Result.Metrics
		for name, v := range map[string]float64{"accuracy": m.Accuracy, "balanced_accuracy": m.BalancedAccuracy, "macro_auroc": m.MacroAUROC, "ece": m.ECE} {
			metrics[name+suffix] = v
		}
		return
	}
	for _, name := range classify.PlainMeasures(e.Set.Question) {
		if m, err := classify.ParseMeasure(name, e.Set.Question); err == nil {
			metrics[name+suffix] = m.Of(e.Answers)
		}
	}
}

// finite drops what is undefined: JSON has no NaN.
func finite(metrics map[string]float64) map[string]float64 {
	for name, v := range metrics {
		if math.IsNaN(v) || math.IsInf(v, 0) {
			delete(metrics, name)
		}
	}
	return metrics
}
