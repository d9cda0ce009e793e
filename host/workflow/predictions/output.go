package predictions

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/alignedfusion/alignedfusion/eval/classify"
	"github.com/alignedfusion/alignedfusion/host/config"
	"github.com/alignedfusion/alignedfusion/host/dataset"
	"github.com/alignedfusion/alignedfusion/host/npz"
	"github.com/alignedfusion/alignedfusion/host/runs"
	"github.com/alignedfusion/alignedfusion/internal/interval"
	"github.com/alignedfusion/alignedfusion/internal/stat"
	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/ports"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

// OutputVersion is the schema_version of JSON predictions and reconstructions.
const OutputVersion = 1

// Files of RUN/predictions/SPLIT.
const (
	File = "predictions.csv"
	// TruthFile holds the boxes, ImagesFile every image (detect); TruthFile the labels (classify).
	// With several classes of boxes, truth says each one's.
	TruthFile  = "truth.csv"
	ImagesFile = "images.csv"
	// warningsFile holds a set's warnings.
	warningsFile = "warnings.json"
)

// number32 is the shortest text that reads back as the same float32.
func number32(v float64) string { return strconv.FormatFloat(v, 'g', -1, 32) }

// Set are the predictions of a split's cases.
type Set struct {
	Task        string
	Labels      []sdk.LabelSet
	Predictions []Prediction
	// Warnings say what makes their figures better than they should be, or a comparison
	// with them void.
	Warnings []string
}

// Write writes predictions as FILE.csv, .json or .npz, whole or not at all.
func Write(path string, set Set) error {
	task, labels, predictions := set.Task, set.Labels, set.Predictions
	var data []byte
	var err error
	switch strings.ToLower(filepath.Ext(path)) {
	case ".csv":
		data, err = predictionsCSV(task, labels, predictions)
	case ".json":
		data, err = predictionsJSON(set)
	case ".npz":
		if err := npz.Write(path, predictionsNPZ(task, labels, predictions)); err != nil {
			return fmt.Errorf("predictions %s: %w", path, err)
		}
		return nil
	default:
		return fmt.Errorf("predictions %s: the ending is %q, want .csv, .json or .npz", path, filepath.Ext(path))
	}
	if err != nil {
		return fmt.Errorf("predictions %s: %w", path, err)
	}
	return runs.WriteFile(path, data)
}

// WriteEntry writes the answers to a challenge's cases as the challenge takes them: a row per case,
// the probability of a class per column, 0 where the run does not know the class.
func WriteEntry(path string, entry *dataset.Entry, set Set) error {
	if len(set.Labels) != 1 || !set.Labels[0].Classed() {
		return fmt.Errorf("entry %s: %d questions are answered, want one that asks for classes", path, len(set.Labels))
	}
	rows := [][]string{{entry.Key}}
	place, known := make([]int, len(entry.Columns)), false
	for k, c := range entry.Columns {
		rows[0] = append(rows[0], c.Name)
		place[k] = slices.Index(set.Labels[0].Classes, c.Class)
		known = known || place[k] >= 0
	}
	if !known {
		return fmt.Errorf("entry %s: the run's classes %s are none of the challenge's", path, strings.Join(set.Labels[0].Classes, ", "))
	}
	for _, p := range set.Predictions {
		row := []string{p.Case.ID}
		for _, at := range place {
			v := 0.0
			if at >= 0 {
				v = p.Probabilities[0][at]
			}
			row = append(row, number32(v))
		}
		rows = append(rows, row)
	}
	data, err := asCSV(rows)
	if err != nil {
		return err
	}
	return runs.WriteFile(path, data)
}

func asCSV(rows [][]string) ([]byte, error) {
	var b bytes.Buffer
	w := csv.NewWriter(&b)
	err := w.WriteAll(rows)
	return b.Bytes(), err
}

// predictionsCSV: image,x1,y1,x2,y2,score,label,patient in original pixels, for volumes
// with the place in the patient (placeColumns), or
// id,predicted,p_<class>… (with several tasks predicted.<task>, p.<task>_<class>); where a number
// is asked value, where a time expected,p_<interval>….
func predictionsCSV(task string, labels []sdk.LabelSet, predictions []Prediction) ([]byte, error) {
	if task == config.Detect {
		rows := [][]string{{"image", "x1", "y1", "x2", "y2", "score", "label", "patient"}}
		placed := ofVolumes(predictions)
		if placed {
			rows[0] = append(rows[0], placeColumns...)
		}
		for _, p := range predictions {
			for _, b := range p.Boxes {
				rows = append(rows, []string{p.Case.ID, number32(b.X1), number32(b.Y1), number32(b.X2), number32(b.Y2),
					number32(b.Score), labels[0].Classes[b.Class], p.Case.Patient})
				if placed {
					place := placeOf(p.Case.Place(b.X1, b.Y1, b.X2, b.Y2, p.Case.KeySlice, p.Case.KeySlice))
					rows[len(rows)-1] = append(rows[len(rows)-1], place.cells()...)
				}
			}
		}
		return asCSV(rows)
	}
	header := []string{"id"}
	for _, set := range labels {
		suffix := Suffix(labels, set)
		header = append(header, answerColumns[set.Asks()]+suffix)
		for _, class := range set.Classes {
			header = append(header, "p"+suffix+"_"+class)
		}
	}
	rows := [][]string{header}
	for _, p := range predictions {
		row := []string{p.Case.ID}
		for k, set := range labels {
			one := p.Probabilities[k]
			if set.Classed() {
				row = append(row, set.Classes[Called(set, one)])
			} else {
				row = append(row, number32(Number(set, one)))
			}
			if set.Asks() == sdk.AsksNumber {
				continue
			}
			for _, v := range one {
				row = append(row, number32(v))
			}
		}
		rows = append(rows, row)
	}
	return asCSV(rows)
}

// answerColumns are the columns with the answer itself, by question: the class that is called,
// the number, the expected time to the event.
var answerColumns = map[string]string{
	sdk.AsksClasses: "predicted", sdk.AsksFinding: "predicted", sdk.AsksGrade: "predicted",
	sdk.AsksNumber: "value", sdk.AsksTime: "expected",
}

// Called is the class that a case is said to be of: the likeliest, or the second of two where
// its probability reaches the label set's threshold.
func Called(set sdk.LabelSet, probabilities []float64) int {
	if set.Threshold > 0 {
		if probabilities[1] >= set.Threshold {
			return 1
		}
		return 0
	}
	return stat.ArgMax(probabilities)
}

// Number is the answer to a question for a number, or the expected time to an event
// (classify.ExpectedTime).
func Number(set sdk.LabelSet, answer []float64) float64 {
	if set.Asks() == sdk.AsksNumber {
		return answer[0]
	}
	bounds, err := interval.Bounds(set.Classes)
	if err != nil {
		return math.NaN()
	}
	return classify.ExpectedTime(bounds, answer)
}

// ofVolumes reports whether slices of volumes were predicted that say where they lie.
func ofVolumes(predictions []Prediction) bool {
	return slices.ContainsFunc(predictions, func(p Prediction) bool { return p.Case.StoredRAS != nil })
}

// Suffix tells the columns of several tasks apart.
func Suffix(labels []sdk.LabelSet, set sdk.LabelSet) string {
	if len(labels) > 1 {
		return "." + set.Name
	}
	return ""
}

type boxJSON struct {
	X1    float64 `json:"x1"`
	Y1    float64 `json:"y1"`
	X2    float64 `json:"x2"`
	Y2    float64 `json:"y2"`
	Score float64 `json:"score"`
	Label string  `json:"label"`
	Place *Place  `json:"place,omitempty"`
}

type caseJSON struct {
	ID            string                        `json:"id"`
	Patient       string                        `json:"patient,omitempty"`
	Boxes         *[]boxJSON                    `json:"boxes,omitempty"`
	Predicted     map[string]string             `json:"predicted,omitempty"`
	Probabilities map[string]map[string]float64 `json:"probabilities,omitempty"`
	Values        map[string]float64            `json:"values,omitempty"`
	Reconstructed []Reconstructed               `json:"reconstructed,omitempty"`
}

type documentJSON struct {
	SchemaVersion int        `json:"schema_version"`
	Task          string     `json:"task,omitempty"`
	Warnings      []string   `json:"warnings,omitempty"`
	Calibration   string     `json:"calibration,omitempty"`
	Cases         []caseJSON `json:"cases"`
}

func encode(v any) ([]byte, error) {
	data, err := json.MarshalIndent(v, "", "  ")
	return append(data, '\n'), err
}

func predictionsJSON(set Set) ([]byte, error) {
	task, labels, predictions := set.Task, set.Labels, set.Predictions
	doc := documentJSON{SchemaVersion: OutputVersion, Task: task, Warnings: set.Warnings, Cases: []caseJSON{}}
	for _, p := range predictions {
		c := caseJSON{ID: p.Case.ID, Patient: p.Case.Patient, Reconstructed: p.Reconstructed}
		if task == config.Detect {
			boxes := []boxJSON{}
			for _, b := range p.Boxes {
				boxes = append(boxes, boxJSON{b.X1, b.Y1, b.X2, b.Y2, b.Score, labels[0].Classes[b.Class],
					placeOf(p.Case.Place(b.X1, b.Y1, b.X2, b.Y2, p.Case.KeySlice, p.Case.KeySlice))})
			}
			c.Boxes = &boxes
		} else {
			c.Predicted, c.Probabilities = map[string]string{}, map[string]map[string]float64{}
			for k, set := range labels {
				if !set.Classed() {
					if c.Values == nil {
						c.Values = map[string]float64{}
					}
					c.Values[set.Name] = Number(set, p.Probabilities[k])
				} else {
					c.Predicted[set.Name] = set.Classes[Called(set, p.Probabilities[k])]
				}
				if len(set.Classes) == 0 {
					continue
				}
				each := map[string]float64{}
				for i, class := range set.Classes {
					each[class] = p.Probabilities[k][i]
				}
				c.Probabilities[set.Name] = each
			}
		}
		doc.Cases = append(doc.Cases, c)
	}
	return encode(doc)
}

// predictionsNPZ: boxes [K,4], scores [K], labels [K], image [K] (rows of image_ids),
// image_ids [N] and classes; or ids [N] and, per task, probabilities [N,classes] and classes.
func predictionsNPZ(task string, labels []sdk.LabelSet, predictions []Prediction) map[string]*tensor.Tensor {
	n := int64(len(predictions))
	var ids []string
	for _, p := range predictions {
		ids = append(ids, p.Case.ID)
	}
	if task == config.Detect {
		var boxes, scores []float32
		var class, image []int64
		for i, p := range predictions {
			for _, x := range p.Boxes {
				boxes = append(boxes, float32(x.X1), float32(x.Y1), float32(x.X2), float32(x.Y2))
				scores, class, image = append(scores, float32(x.Score)), append(class, int64(x.Class)), append(image, int64(i))
			}
		}
		k := int64(len(scores))
		return map[string]*tensor.Tensor{
			ports.Boxes.Name: tensor.OfFloat32s(boxes, k, 4), ports.Scores.Name: tensor.OfFloat32s(scores, k),
			ports.BoxLabels.Name: tensor.OfInt64s(class, k), ports.BoxImage.Name: tensor.OfInt64s(image, k),
			"image_ids": tensor.OfStrings(ids...), "classes": tensor.OfStrings(labels[0].Classes...),
		}
	}
	out := map[string]*tensor.Tensor{"ids": tensor.OfStrings(ids...)}
	for k, set := range labels {
		var p []float32
		for i := range predictions {
			for _, v := range predictions[i].Probabilities[k] {
				p = append(p, float32(v))
			}
		}
		suffix := Suffix(labels, set)
		if set.Asks() == sdk.AsksNumber {
			out["value"+suffix] = tensor.OfFloat32s(p, n)
			continue
		}
		out["probabilities"+suffix] = tensor.OfFloat32s(p, n, int64(len(set.Classes)))
		out["classes"+suffix] = tensor.OfStrings(set.Classes...)
	}
	return out
}

// Save keeps a split's predictions, with what is true of it, in the run directory, where
// compare finds them.
func Save(run, split string, set Set) error {
	return SaveTo(Dir(run, split), set)
}

// SaveTo is Save into a folder.
func SaveTo(dir string, set Set) error {
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return err
	}
	if err := Write(filepath.Join(dir, File), set); err != nil {
		return err
	}
	truth, images := truthRows(set.Task, set.Labels, set.Predictions)
	for name, rows := range map[string][][]string{TruthFile: truth, ImagesFile: images} {
		data, err := asCSV(rows)
		if err != nil {
			return err
		}
		if err := runs.WriteFile(filepath.Join(dir, name), data); err != nil {
			return err
		}
	}
	if err := writeMetrics(filepath.Join(dir, MetricsFile), set.Predictions); err != nil {
		return err
	}
	if ofVolumes(set.Predictions) {
		if err := saveVolumes(dir, set); err != nil {
			return err
		}
	}
	data, err := encode(warningsJSON{OutputVersion, slices.Concat([]string{}, set.Warnings)})
	if err != nil {
		return err
	}
	return runs.WriteFile(filepath.Join(dir, warningsFile), data)
}

type warningsJSON struct {
	SchemaVersion int      `json:"schema_version"`
	Warnings      []string `json:"warnings"`
}

// Warnings are those that were saved with a split's predictions; runs of 0.1 have none.
func Warnings(run, split string) ([]string, error) {
	path := filepath.Join(Dir(run, split), warningsFile)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var w warningsJSON
	if err := json.Unmarshal(data, &w); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return w.Warnings, nil
}

// Dir is the folder of a split's predictions.
func Dir(run, split string) string {
	if split == "" {
		split = "all"
	}
	return filepath.Join(run, runs.PredictionDir, split)
}

func truthRows(task string, labels []sdk.LabelSet, predictions []Prediction) (truth, images [][]string) {
	images = [][]string{{"image", "patient"}}
	tiles := task == config.Classify && slices.ContainsFunc(predictions, func(p Prediction) bool { return p.Case.Stack != "" && p.Case.Stack != p.Case.ID })
	if tiles {
		images[0] = append(images[0], SlideColumn)
	}
	for _, p := range predictions {
		row := []string{p.Case.ID, p.Case.Patient}
		if tiles {
			row = append(row, p.Case.Stack)
		}
		images = append(images, row)
	}
	if task == config.Detect {
		truth = [][]string{{"image", "x1", "y1", "x2", "y2", "ignore"}}
		add := func(id string, x1, y1, x2, y2 float64, ignore, class string) {
			row := []string{id, number64(x1), number64(y1), number64(x2), number64(y2), ignore}
			if classed(labels) {
				row = append(row, class)
			}
			truth = append(truth, row)
		}
		if classed(labels) {
			truth[0] = append(truth[0], "class")
		}
		for _, p := range predictions {
			for _, b := range p.Case.Boxes {
				add(p.Case.ID, b.X1, b.Y1, b.X2, b.Y2, "0", labels[0].Classes[b.Class])
			}
			for _, r := range p.Case.Ignore {
				x1, y1, x2, y2 := r.Bounds()
				add(p.Case.ID, x1, y1, x2, y2, "1", "")
			}
		}
		return truth, images
	}
	header := []string{"id"}
	for _, set := range labels {
		for _, column := range truthColumns[set.Asks()] {
			header = append(header, column+Suffix(labels, set))
		}
	}
	truth = [][]string{header}
	for _, p := range predictions {
		row := []string{p.Case.ID}
		for _, set := range labels {
			cells := make([]string, len(truthColumns[set.Asks()]))
			if l, ok := p.Case.Labels[set.Name]; ok && l >= 0 {
				cells[0] = set.Classes[l]
			}
			if m, ok := p.Case.Measured[set.Name]; ok {
				cells[0] = number64(m.Value)
				if set.Asks() == sdk.AsksTime {
					cells[1] = map[bool]string{true: "1", false: "0"}[m.Event]
				}
			}
			row = append(row, cells...)
		}
		truth = append(truth, row)
	}
	return truth, images
}

// Columns of what is true of a classifier's cases, by question. Where there are several the
// label set's name stands behind them with a full stop.
const (
	LabelColumn = "label"
	ValueColumn = "value"
	TimeColumn  = "time"
	EventColumn = "event"
	// SlideColumn of ImagesFile is what a patch is of, where the cases are patches.
	SlideColumn = "slide"
)

var truthColumns = map[string][]string{
	sdk.AsksClasses: {LabelColumn}, sdk.AsksFinding: {LabelColumn}, sdk.AsksGrade: {LabelColumn},
	sdk.AsksNumber: {ValueColumn}, sdk.AsksTime: {TimeColumn, EventColumn},
}

func number64(v float64) string { return strconv.FormatFloat(v, 'g', -1, 64) }

// FileName is an id as a part of a file's name on every system.
func FileName(id string) string {
	name := strings.Map(func(r rune) rune {
		if r < ' ' || strings.ContainsRune(`/\:*?"<>| `, r) {
			return '_'
		}
		return r
	}, id)
	if len(name) > 120 {
		return dataset.Pseudonym(id)
	}
	return name
}

// Splits lists the splits whose predictions a run keeps.
func Splits(run string) []string {
	entries, err := os.ReadDir(filepath.Join(run, runs.PredictionDir))
	if err != nil {
		return nil
	}
	var splits []string
	for _, e := range entries {
		if _, err := os.Stat(filepath.Join(run, runs.PredictionDir, e.Name(), File)); err == nil {
			splits = append(splits, e.Name())
		}
	}
	slices.Sort(splits)
	return splits
}
