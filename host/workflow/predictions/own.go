package predictions

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/alignedfusion/alignedfusion/host/dataset"
	"github.com/alignedfusion/alignedfusion/host/npz"
	"github.com/alignedfusion/alignedfusion/host/pipeline"
	"github.com/alignedfusion/alignedfusion/host/runs"
	"github.com/alignedfusion/alignedfusion/internal/table"
	"github.com/alignedfusion/alignedfusion/sdk/ports"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

// What RUN/predictions/SPLIT has of stages that give more than is asked of all.
const (
	// MetricsFile has the head's own metrics, a row per case: id,metric.NAME…, empty where a
	// case has none.
	MetricsFile = "metrics.csv"
	// VisualsDir has the maps over each case's picture, see WriteVisuals.
	VisualsDir = "visuals"
)

// Map is what a stage drew over a case's picture.
type Map struct {
	// Values are H rows of W.
	Values []float32
	H, W   int
	// X1 to Y2 are the corners that it covers, in pixels of the original picture.
	X1, Y1, X2, Y2 float64
}

// Metrics reads the head's own metrics of a batch into its predictions.
func (d *Decoder) Metrics(given map[string]*tensor.Tensor, out []Prediction) error {
	for name, t := range given {
		values, err := t.Float32s()
		if err != nil || len(values) != len(out) {
			return d.Head.WrongOutput("output %q is %s, want FP32 [%d]", name, t, len(out))
		}
		for i, v := range values {
			if math.IsInf(float64(v), 0) {
				return d.Head.WrongOutput("output %q is %v, want a finite number, or NaN where case %d has none", name, v, i)
			}
			if math.IsNaN(float64(v)) {
				continue
			}
			if out[i].Own == nil {
				out[i].Own = map[string]float64{}
			}
			out[i].Own[name] = float64(v)
		}
	}
	return nil
}

// Visuals reads the maps of a batch, by name, into its predictions.
func Visuals(run *pipeline.Run, names []string, b *dataset.Batch, out []Prediction) error {
	for _, name := range names {
		t := run.Outputs[name]
		if t == nil {
			return fmt.Errorf("output %q was asked for and is not among the answers", name)
		}
		values, err := t.Float32s()
		if err != nil || len(t.Shape) != 3 || t.Shape[0] != int64(len(out)) || len(values) == 0 {
			return fmt.Errorf("output %q is %s, want FP32 [%d H W]", name, t, len(out))
		}
		h, w := int(t.Shape[1]), int(t.Shape[2])
		for i := range out {
			if out[i].Maps == nil {
				out[i].Maps = map[string]Map{}
			}
			m := Map{Values: slices.Clone(values[i*h*w : (i+1)*h*w]), H: h, W: w}
			if slices.ContainsFunc(m.Values, func(v float32) bool { return math.IsNaN(float64(v)) || math.IsInf(float64(v), 0) }) {
				return fmt.Errorf("output %q of case %q is not finite", name, b.Cases[i].ID)
			}
			m.X2, m.Y2 = float64(b.Cases[i].Size[1]), float64(b.Cases[i].Size[0])
			if size := pictureSize(run); size != nil && i < len(b.Geometry) {
				m.X1, m.Y1 = b.Geometry[i].ToOriginal(0, 0)
				m.X2, m.Y2 = b.Geometry[i].ToOriginal(float64(size[1]), float64(size[0]))
			}
			out[i].Maps[name] = m
		}
	}
	return nil
}

// pictureSize are height and width of what the encoder was given, its padding included; nil
// where it was given nothing.
func pictureSize(run *pipeline.Run) []int64 {
	for _, name := range slices.Sorted(maps.Keys(run.Outputs)) {
		if t := run.Outputs[name]; ports.Pixels(name) && len(t.Shape) > 2 {
			return t.Shape[len(t.Shape)-2:]
		}
	}
	return nil
}

// OwnNames are the head's own metrics that predictions have.
func OwnNames(predictions []Prediction) []string {
	names := map[string]bool{}
	for _, p := range predictions {
		for name := range p.Own {
			names[name] = true
		}
	}
	return slices.Sorted(maps.Keys(names))
}

// OwnMean is the mean of a metric over the cases that have it; NaN where none has.
func OwnMean(predictions []Prediction, name string) float64 {
	sum, n := 0.0, 0.0
	for _, p := range predictions {
		if v, ok := p.Own[name]; ok {
			sum, n = sum+v, n+1
		}
	}
	return sum / n
}

// writeMetrics writes a MetricsFile, or removes that of an earlier prediction.
func writeMetrics(path string, predictions []Prediction) error {
	names := OwnNames(predictions)
	if len(names) == 0 {
		return removed(os.Remove(path))
	}
	rows := [][]string{append([]string{"id"}, names...)}
	for _, p := range predictions {
		row := []string{p.Case.ID}
		for _, name := range names {
			text := ""
			if v, ok := p.Own[name]; ok {
				text = number32(v)
			}
			row = append(row, text)
		}
		rows = append(rows, row)
	}
	data, err := asCSV(rows)
	if err != nil {
		return err
	}
	return runs.WriteFile(path, data)
}

func removed(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// ReadMetrics reads a MetricsFile: per metric the value of each case that has it, by id. It
// is empty where there is no file.
func ReadMetrics(path string) (map[string]map[string]float64, error) {
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	t, err := table.Read(path)
	if err != nil {
		return nil, err
	}
	out := map[string]map[string]float64{}
	for _, name := range t.Columns[1:] {
		out[name] = map[string]float64{}
		for _, r := range t.Rows {
			text := t.Get(r, name)
			if text == "" {
				continue
			}
			v, err := table.Number(text)
			if err != nil {
				return nil, fmt.Errorf("%s:%d: %s: %q, want a number", path, r.Line, name, text)
			}
			out[name][t.Get(r, t.Columns[0])] = v
		}
	}
	return out, nil
}

// caseID is the array that names, in a file of maps, the case that they are of.
const caseID = "id"

// WriteVisuals writes the maps of each case into a file NAME.npz of its own below dir, NAME
// being the case's id as far as that can be in a file's name: the array id, and by the
// port's name the map [H W] and, with the ending .place, the corners x1 y1 x2 y2 that it
// covers in pixels of the original picture. It returns how many files there are.
func WriteVisuals(dir string, predictions []Prediction) (files int, err error) {
	taken := map[string]bool{}
	for _, p := range predictions {
		if len(p.Maps) == 0 {
			continue
		}
		arrays := map[string]*tensor.Tensor{caseID: tensor.OfStrings(p.Case.ID)}
		for name, m := range p.Maps {
			arrays[name] = tensor.OfFloat32s(m.Values, int64(m.H), int64(m.W))
			arrays[name+placeEnding] = tensor.OfFloat32s([]float32{float32(m.X1), float32(m.Y1), float32(m.X2), float32(m.Y2)}, 4)
		}
		name := FileName(p.Case.ID)
		if taken[strings.ToLower(name)] {
			name += "-" + dataset.Pseudonym(p.Case.ID)
		}
		taken[strings.ToLower(name)] = true
		if err := os.MkdirAll(dir, 0o777); err != nil {
			return files, err
		}
		if err := npz.Write(filepath.Join(dir, name+".npz"), arrays); err != nil {
			return files, err
		}
		files++
	}
	return files, nil
}

const placeEnding = ".place"

// ReadVisuals reads what WriteVisuals wrote: the maps of each case, by its id and their
// names. It is empty where there is no folder.
func ReadVisuals(dir string) (map[string]map[string]Map, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.npz"))
	if err != nil {
		return nil, err
	}
	out := map[string]map[string]Map{}
	for _, path := range files {
		arrays, err := npz.Read(path)
		if err != nil {
			return nil, err
		}
		wrong := func() error { return fmt.Errorf("%s: it is no file of maps as `predict --outputs` writes them", path) }
		if arrays[caseID] == nil {
			return nil, wrong()
		}
		ids, err := arrays[caseID].Strings()
		if err != nil || len(ids) != 1 {
			return nil, wrong()
		}
		out[ids[0]] = map[string]Map{}
		for name, t := range arrays {
			if name == caseID || strings.HasSuffix(name, placeEnding) {
				continue
			}
			values, err := t.Float32s()
			if err != nil || len(t.Shape) != 2 || len(values) == 0 || arrays[name+placeEnding] == nil {
				return nil, wrong()
			}
			at, err := arrays[name+placeEnding].Float32s()
			if err != nil || len(at) != 4 {
				return nil, wrong()
			}
			out[ids[0]][name] = Map{Values: values, H: int(t.Shape[0]), W: int(t.Shape[1]), X1: float64(at[0]), Y1: float64(at[1]), X2: float64(at[2]), Y2: float64(at[3])}
		}
	}
	return out, nil
}
