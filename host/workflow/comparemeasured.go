package workflow

import (
	"fmt"
	"strings"

	"github.com/alignedfusion/alignedfusion/eval/classify"
	"github.com/alignedfusion/alignedfusion/eval/resample"
	"github.com/alignedfusion/alignedfusion/host/workflow/predictions"
	"github.com/alignedfusion/alignedfusion/internal/problem"
	"github.com/alignedfusion/alignedfusion/internal/table"
)

// Measured is a comparison of systems that answer with a number or with the time to an event,
// as `compare --json` writes it.
type Measured struct {
	SchemaVersion int `json:"schema_version"`
	// Task is the label set's name where there are several.
	Task     string `json:"task,omitempty"`
	Split    string `json:"split"`
	Question string `json:"question"`
	// Unit of the numbers or times; "" unknown.
	Unit  string `json:"unit,omitempty"`
	Cases int    `json:"cases"`
	// Events are the cases whose event happened, where a time is asked.
	Events   int         `json:"events,omitempty"`
	Figures  []FigureRow `json:"figures"`
	Warnings []string    `json:"warnings,omitempty"`
	Notes    []string    `json:"notes,omitempty"`

	// IDs and Patients are those of the cases that are evaluated; Answers are parallel to
	// Systems.
	IDs, Patients []string           `json:"-"`
	Systems       []string           `json:"-"`
	Answers       []classify.Answers `json:"-"`
}

// truthKind is a column of what is true of a classifier's cases: which question it belongs to,
// and the suffix of the label set's other columns.
func truthKind(column string) (kind, suffix string) {
	kind, suffix, several := strings.Cut(column, ".")
	if several {
		suffix = "." + suffix
	}
	return kind, suffix
}

// compareMeasured compares the systems' answers to the question of a column of the truth.
func compareMeasured(o CompareOptions, truth *table.Table, column string, patientOf map[string]string) (*Measured, error) {
	kind, suffix := truthKind(column)
	var answers []classify.Answers
	var names, ids, patients []string
	for _, s := range o.Systems {
		read := readNumbers
		if kind == predictions.TimeColumn {
			read = readTimes
		}
		one, found, err := read(s.predictions(o.Split), truth, suffix)
		if err != nil {
			return nil, bad(err)
		}
		answers, names, ids = append(answers, one), append(names, s.Name), found
	}
	for _, id := range ids {
		patients = append(patients, patientOf[id])
	}
	out, err := newMeasured(names, answers, patients, o.Figures, o.Resample)
	if err != nil {
		return nil, err
	}
	out.Task, out.Split, out.IDs = strings.TrimPrefix(suffix, "."), o.Split, ids
	return out, nil
}

// newMeasured has the plain figures of a question and those of others that are its own.
func newMeasured(names []string, answers []classify.Answers, patients, others []string, o resample.Options) (*Measured, error) {
	o, err := o.Resolved()
	if err != nil {
		return nil, usage("%w", err)
	}
	question := answers[0].Question()
	out := &Measured{SchemaVersion: 1, Question: question, Cases: answers[0].Cases(), Systems: names, Answers: answers, Patients: patients}
	if t, ok := answers[0].(*classify.Times); ok {
		_, events := t.Truth()
		for _, e := range events {
			if e {
				out.Events++
			}
		}
	}
	if few := resample.Warning(classify.Patients(patients, out.Cases), "patient"); few != "" {
		out.Notes = append(out.Notes, few)
	}
	var measures []classify.Measure
	for _, name := range append(classify.PlainMeasures(question), others...) {
		m, err := classify.ParseMeasure(name, question)
		if err != nil {
			return nil, usage("--metric: %w", err)
		}
		measures = append(measures, m)
	}
	each, differences, err := classify.MeasureEstimates(answers, measures, patients, o)
	if err != nil {
		return nil, bad(err)
	}
	for k, m := range measures {
		out.Figures = append(out.Figures, figureRows(m.Name, names, each, differences, k)...)
	}
	return out, nil
}

// answerReader finds the rows of predictions by case.
type answerReader struct {
	given *table.Table
	rowOf map[string]table.Row
}

func readAnswers(path string) (*answerReader, error) {
	given, err := table.Read(path)
	if err != nil {
		return nil, err
	}
	a := &answerReader{given, map[string]table.Row{}}
	for _, r := range given.Rows {
		a.rowOf[given.Get(r, "id")] = r
	}
	return a, nil
}

// row is that of a case.
func (a *answerReader) row(id string) (table.Row, error) {
	r, ok := a.rowOf[id]
	if !ok {
		return r, fmt.Errorf("%s: case %q is not among the predictions", a.given.Path, id)
	}
	return r, nil
}

// each calls f with every row of the truth that has something in a column and the row of the same
// case among the predictions, and returns the cases' ids.
func (a *answerReader) each(truth *table.Table, column string, f func(r, at table.Row) error) (ids []string, err error) {
	for _, r := range truth.Rows {
		if truth.Get(r, column) == "" {
			continue
		}
		id := truth.Get(r, "id")
		at, err := a.row(id)
		if err == nil {
			err = f(r, at)
		}
		if err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	return ids, nil
}

// named are the classes or intervals that have a column of probabilities.
func (a *answerReader) named(prefix string) (out []string) {
	for _, name := range a.given.Columns {
		if one, ok := strings.CutPrefix(name, prefix); ok {
			out = append(out, one)
		}
	}
	return out
}

func number(t *table.Table, r table.Row, column string) (float64, error) {
	v, err := table.Number(t.Get(r, column))
	if err != nil {
		return 0, problem.At(t.Path, r.Line, column, "%q, want a number", t.Get(r, column))
	}
	return v, nil
}

func readNumbers(path string, truth *table.Table, suffix string) (classify.Answers, []string, error) {
	given, err := readAnswers(path)
	if err != nil {
		return nil, nil, err
	}
	column := predictions.ValueColumn + suffix
	if err := given.given.Need("id", column); err != nil {
		return nil, nil, err
	}
	var values, predicted []float64
	ids, err := given.each(truth, column, func(r, at table.Row) error {
		v, err := number(truth, r, column)
		if err != nil {
			return err
		}
		p, err := number(given.given, at, column)
		values, predicted = append(values, v), append(predicted, p)
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	out, err := classify.NewNumbers(values, predicted)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	return out, ids, nil
}

func readTimes(path string, truth *table.Table, suffix string) (classify.Answers, []string, error) {
	given, err := readAnswers(path)
	if err != nil {
		return nil, nil, err
	}
	prefix := "p" + suffix + "_"
	intervals := given.named(prefix)
	var times []float64
	var events []bool
	var probabilities [][]float64
	ids, err := given.each(truth, predictions.TimeColumn+suffix, func(r, at table.Row) error {
		time, err := number(truth, r, predictions.TimeColumn+suffix)
		if err != nil {
			return err
		}
		p, err := readProbabilities(given.given, at, prefix, intervals)
		times, events, probabilities = append(times, time), append(events, truth.Get(r, predictions.EventColumn+suffix) == "1"), append(probabilities, p)
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	out, err := classify.NewTimes(times, events, intervals, probabilities)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	return out, ids, nil
}
