package workflow

import (
	"fmt"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/alignedfusion/alignedfusion/host/config"
	"github.com/alignedfusion/alignedfusion/host/dataset"
	"github.com/alignedfusion/alignedfusion/host/workflow/predictions"
	"github.com/alignedfusion/alignedfusion/internal/table"
	"github.com/alignedfusion/alignedfusion/sdk"
)

// group joins what every system says of the cases of a slide or patient in a folder of its own
// below dir, and returns how many of these have cases that differ in their truth.
func (o *CompareOptions) group(given []*RunFiles, dir string) (note string, err error) {
	first := slices.IndexFunc(given, func(r *RunFiles) bool { return r != nil })
	if first < 0 || given[first].Config.Task != config.Classify {
		return "", usage("--per %s: of classifiers, want image or volume", o.Per)
	}
	truth, err := truthDir(o.Systems, o.Split)
	if err != nil {
		return "", err
	}
	for i := range o.Systems {
		s, labels := &o.Systems[i], given[first].Labels
		if given[i] != nil {
			labels = given[i].Labels
		}
		all, err := readAnswered(s.predictions(o.Split), truth, labels)
		if err != nil {
			return "", bad(err)
		}
		groups, mixed := predictions.Grouped(all, o.Per, o.Vote)
		if note = ""; mixed > 0 {
			note = fmt.Sprintf("%d of %d %ss have cases that differ in what is true of them, and are left out", mixed, len(groups), o.Per)
		}
		s.grouped = filepath.Join(dir, "grouped", strconv.Itoa(i))
		if err := predictions.SaveTo(s.grouped, predictions.Set{Task: config.Classify, Labels: labels, Predictions: groups}); err != nil {
			return "", err
		}
	}
	return note, nil
}

// readAnswered reads a file of a classifier's predictions, with what the folder truth says of its
// cases.
func readAnswered(path, truth string, labels []sdk.LabelSet) ([]predictions.Prediction, error) {
	given, err := readAnswers(path)
	if err != nil {
		return nil, err
	}
	cases, err := readTruth(truth, labels)
	if err != nil {
		return nil, err
	}
	out := make([]predictions.Prediction, len(cases))
	for i := range cases {
		row, err := given.row(cases[i].ID)
		if err != nil {
			return nil, err
		}
		out[i].Case = &cases[i]
		for _, set := range labels {
			suffix := predictions.Suffix(labels, set)
			var answer []float64
			if set.Asks() == sdk.AsksNumber {
				v, err := number(given.given, row, predictions.ValueColumn+suffix)
				if err != nil {
					return nil, err
				}
				answer = []float64{v}
			} else if answer, err = readProbabilities(given.given, row, "p"+suffix+"_", set.Classes); err != nil {
				return nil, err
			}
			out[i].Probabilities = append(out[i].Probabilities, answer)
		}
	}
	return out, nil
}

// readTruth reads the cases that predictions.Save has left in a folder.
func readTruth(dir string, labels []sdk.LabelSet) ([]dataset.Case, error) {
	truth, err := table.Read(filepath.Join(dir, predictions.TruthFile))
	if err != nil {
		return nil, err
	}
	images, err := table.Read(filepath.Join(dir, predictions.ImagesFile))
	if err != nil {
		return nil, err
	}
	out := make([]dataset.Case, len(truth.Rows))
	for i, r := range truth.Rows {
		c := &out[i]
		c.ID, c.Labels, c.Measured = truth.Get(r, "id"), map[string]int{}, map[string]dataset.Measured{}
		c.Patient, c.Stack = images.Get(images.Rows[i], "patient"), images.Get(images.Rows[i], predictions.SlideColumn)
		for _, set := range labels {
			suffix := predictions.Suffix(labels, set)
			switch set.Asks() {
			case sdk.AsksNumber, sdk.AsksTime:
				column := predictions.ValueColumn
				if set.Asks() == sdk.AsksTime {
					column = predictions.TimeColumn
				}
				if truth.Get(r, column+suffix) == "" {
					continue
				}
				v, err := number(truth, r, column+suffix)
				if err != nil {
					return nil, err
				}
				c.Measured[set.Name] = dataset.Measured{Value: v, Event: truth.Get(r, predictions.EventColumn+suffix) == "1"}
			default:
				if k := slices.Index(set.Classes, truth.Get(r, predictions.LabelColumn+suffix)); k >= 0 {
					c.Labels[set.Name] = k
				}
			}
		}
	}
	return out, nil
}
