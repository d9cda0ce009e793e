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

// EvaluateClasses are the metrics of predictions, per label set. Cases whose label in
// the set is unknown are left out.
func EvaluateClasses(cases []dataset.Case, predictions []Prediction, sets []sdk.LabelSet) ([]*classify.Result, error) {
	var out []*classify.Result
	for k, set := range sets {
		var labels []int
		var probabilities [][]float64
		for i := range cases {
			if l, ok := cases[i].Labels[set.Name]; ok && l >= 0 {
				labels = append(labels, l)
				probabilities = append(probabilities, predictions[i].Probabilities[k])
			}
		}
		r, err := classify.Evaluate(labels, probabilities, set.Classes)
		if err != nil {
			return nil, fmt.Errorf("evaluate %s: %w", set.Name, err)
		}
		out = append(out, r)
	}
	return out, nil
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
	by := c.Train.BestBy
	if by == config.Last || ports.Metrics.Has(string(by)) {
		by = config.BalancedAccuracy
	}
	if name = strings.ReplaceAll(string(by), "_", " "); by == config.MacroAUROC {
		name = "macro AUROC"
	}
	defined := 0
	for i, r := range results {
		f, err := classify.ParseFigure(string(by), r.Classes)
		if err != nil {
			return "", 0, nil, err
		}
		v := f.Of(r)
		metrics[string(by)+taskSuffix(labels, labels[i])] = v
		if f.LessIsBetter() {
			v, name = -v, "minus "+strings.TrimPrefix(name, "minus ")
		}
		if !math.IsNaN(v) { // a finding that no case has says nothing
			value, defined = value+v, defined+1
		}
		suffix := ""
		if len(results) > 1 {
			suffix = "." + labels[i].Name
		}
		metrics["accuracy"+suffix] = r.Metrics.Accuracy
		metrics["balanced_accuracy"+suffix] = r.Metrics.BalancedAccuracy
		metrics["macro_auroc"+suffix] = r.Metrics.MacroAUROC
		metrics["ece"+suffix] = r.Metrics.ECE
	}
	return name, value / float64(defined), metrics, nil
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
