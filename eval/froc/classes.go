package froc

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/alignedfusion/alignedfusion/eval/resample"
)

// ClassResult is the evaluation of one class: its lesions against the marks of that class.
type ClassResult struct {
	Class  string
	Result *Result // of a class without lesions: counts and false positives, sensitivities are NaN
}

// Macro are means over the classes that have lesions, each weighing the same.
type Macro struct {
	Classes         int       // with lesions
	Sensitivity     []float64 // at each of Protocol.FPPI
	MeanSensitivity float64
	AP              float64
}

// ByClass evaluates every class of the truth by itself, in the order of Truth.Classes: its
// lesions, and the marks of the class and of [AnyClass]. The limit of marks per image and
// the false positives per image are then those of the class.
func ByClass(t *Truth, predictions []Prediction, p Protocol) ([]ClassResult, error) {
	return ByClassContext(context.Background(), t, predictions, p)
}

// ByClassContext is ByClass, ended by ctx as [EvaluateContext] is.
func ByClassContext(ctx context.Context, t *Truth, predictions []Prediction, p Protocol) ([]ClassResult, error) {
	if t == nil {
		return nil, ErrNoImages
	}
	if len(t.Classes) == 0 {
		return nil, errors.New("by class: the ground truth has no classes")
	}
	var out []ClassResult
	for k, class := range t.Classes {
		part := *t
		part.Lesions = nil
		of := func(c int32) bool { return c == int32(k) || c == AnyClass }
		for _, l := range t.Lesions {
			if of(l.Class) {
				part.Lesions = append(part.Lesions, l)
			}
		}
		var marks []Prediction
		for i := range predictions {
			if of(predictions[i].Class) {
				marks = append(marks, predictions[i])
			}
		}
		r, err := EvaluateContext(ctx, &part, marks, p)
		if err != nil && !errors.Is(err, ErrNoLesions) {
			return nil, fmt.Errorf("class %q: %w", class, err)
		}
		out = append(out, ClassResult{class, r})
	}
	return out, nil
}

// MacroMean averages the classes that have lesions; without any the figures are NaN.
func MacroMean(classes []ClassResult) Macro {
	var m Macro
	var rows [][]float64
	for _, c := range classes {
		if c.Result.Counts.Lesions > 0 {
			rows = append(rows, c.Result.estimate())
		}
	}
	if m.Classes = len(rows); m.Classes == 0 {
		return Macro{MeanSensitivity: math.NaN(), AP: math.NaN()}
	}
	k := len(rows[0]) - len(new(FiguresOfMerit).vector()) - 2
	mean := meanRows(rows)
	m.Sensitivity, m.MeanSensitivity, m.AP = mean[:k], mean[k], mean[k+1]
	return m
}

// MacroBootstrap resamples the same clusters for every class and returns the intervals of
// the macro mean sensitivity and AP. A class without lesions in a replicate is left out of
// that replicate.
func MacroBootstrap(classes []ClassResult, options BootstrapOptions) (mean, ap Interval, err error) {
	o, err := options.Resolved()
	if err != nil {
		return mean, ap, err
	}
	var tables []table
	patients := math.MaxInt
	for _, c := range classes {
		if c.Result.Counts.Lesions > 0 {
			made, err := replicates(o, []*Result{c.Result})
			if err != nil {
				return mean, ap, err
			}
			tables = append(tables, made[0])
			patients = min(patients, c.Result.clusters.withLesion())
		}
	}
	if len(tables) == 0 {
		return mean, ap, ErrNoLesions
	}
	k := len(classes[0].Result.Protocol.FPPI)
	var means, aps []float64
	for i := range o.Replicates {
		var rows [][]float64
		for _, t := range tables {
			if t[i] != nil {
				rows = append(rows, t[i])
			}
		}
		if len(rows) > 0 {
			row := meanRows(rows)
			means, aps = append(means, row[k]), append(aps, row[k+1])
		}
	}
	m := MacroMean(classes)
	o.Method = resample.Percentile // a mean over changing classes has no jackknife
	return o.Share(means, m.MeanSensitivity, nil, patients), o.Bounded(aps, m.AP, nil, patients), nil
}

// meanRows averages rows of equal length, column by column.
func meanRows(rows [][]float64) []float64 {
	out := make([]float64, len(rows[0]))
	for _, row := range rows {
		for i, v := range row {
			out[i] += v / float64(len(rows))
		}
	}
	return out
}
