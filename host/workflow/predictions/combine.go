package predictions

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"gonum.org/v1/gonum/floats"

	"github.com/alignedfusion/alignedfusion/host/config"
	"github.com/alignedfusion/alignedfusion/host/dataset"
	"github.com/alignedfusion/alignedfusion/host/runs"
	"github.com/alignedfusion/alignedfusion/host/workflow/detect"
	"github.com/alignedfusion/alignedfusion/sdk"
)

// Ways of merging the boxes of several sources, of predict --merge.
const (
	MergeFusion      = "wbf" // detect.Fuse
	MergeSuppression = "nms" // detect.Suppress
)

// Combine combines what several runs of one task, or passes of one run, predict for
// the same cases: boxes by merge (MergeFusion or MergeSuppression), probabilities of classes
// by their mean. Everything else is taken from the first.
func Combine(task, merge string, sources [][]Prediction) ([]Prediction, error) {
	if err := sameCases(sources); err != nil {
		return nil, err
	}
	if task == config.Detect {
		return combineBoxes(merge, sources)
	}
	out := slices.Clone(sources[0])
	for i := range out {
		mean := make([][]float64, len(out[i].Probabilities))
		for k := range mean {
			mean[k] = make([]float64, len(out[i].Probabilities[k]))
			for _, p := range sources {
				floats.AddScaled(mean[k], 1/float64(len(sources)), p[i].Probabilities[k])
			}
		}
		out[i].Probabilities, out[i].Own = mean, nil // no head has said this
	}
	return out, nil
}

func sameCases(sources [][]Prediction) error {
	for k, p := range sources {
		if !slices.EqualFunc(p, sources[0], func(a, b Prediction) bool { return a.Case.ID == b.Case.ID }) {
			return &config.Error{Err: fmt.Errorf("source %d predicts other cases than the first", k+1)}
		}
	}
	return nil
}

// combineBoxes keeps as many boxes of an image as the longest source has. The head's own
// metrics are of no combination.
func combineBoxes(merge string, sources [][]Prediction) ([]Prediction, error) {
	out := slices.Clone(sources[0])
	for i := range out {
		boxes := make([][]detect.Box, len(sources))
		most := 0
		for k, p := range sources {
			most = max(most, len(p[i].Boxes))
			boxes[k] = p[i].Boxes
		}
		merged := detect.Suppress(boxes)
		if merge != MergeSuppression {
			var err error
			if merged, err = detect.Fuse(boxes, detect.FuseOptions{}); err != nil {
				return nil, &config.Error{Err: err}
			}
		}
		out[i].Boxes, out[i].Own = merged[:min(most, len(merged))], nil
	}
	return out, nil
}

// VolumeFinding is a finding followed through the slices of a volume or series.
type VolumeFinding struct {
	Stack   string `json:"volume"`
	Patient string `json:"patient"`
	// Case is the slice with the best box.
	Case  string `json:"image"`
	Label string `json:"label"`
	detect.Finding
	// Place in the patient; nil where the volume does not say.
	Place *Place `json:"place,omitempty"`
}

// Findings merges the boxes of neighbouring slices of every volume.
func Findings(predictions []Prediction, labels []sdk.LabelSet, o detect.MergeOptions) ([]VolumeFinding, error) {
	volumes := map[string][]detect.Slice{}
	cases := map[string]map[int]*dataset.Case{}
	var names []string
	for i := range predictions {
		p := &predictions[i]
		name := p.Case.Stack
		if name == "" {
			name = p.Case.ID
		}
		if cases[name] == nil {
			names = append(names, name)
			cases[name] = map[int]*dataset.Case{}
		}
		cases[name][p.Case.KeySlice] = p.Case
		volumes[name] = append(volumes[name], detect.Slice{Z: p.Case.KeySlice, Boxes: slices.Clone(p.Boxes)})
	}
	var out []VolumeFinding
	for _, name := range names {
		found, err := detect.Merge(volumes[name], o)
		if err != nil {
			return nil, &config.Error{Err: err}
		}
		for _, f := range found {
			best := cases[name][f.BestZ]
			out = append(out, VolumeFinding{name, best.Patient, best.ID, labels[0].Classes[f.Class], f,
				placeOf(best.Place(f.X1, f.Y1, f.X2, f.Y2, f.Z1, f.Z2))})
		}
	}
	return out, nil
}

// WriteFindings writes findings as FILE.csv (image,x1,y1,x2,y2,z1,z2,score,label,
// key_image,slices,patient, where image is the volume, then the place in the patient;
// `alignedfusion froc` reads it) or FILE.json.
func WriteFindings(path string, findings []VolumeFinding) error {
	var data []byte
	var err error
	switch strings.ToLower(filepath.Ext(path)) {
	case ".csv":
		rows := [][]string{{"image", "x1", "y1", "x2", "y2", "z1", "z2", "score", "label", "key_image", "slices", "patient"}}
		placed := slices.ContainsFunc(findings, func(f VolumeFinding) bool { return f.Place != nil })
		if placed {
			rows[0] = append(rows[0], placeColumns...)
		}
		for _, f := range findings {
			rows = append(rows, []string{f.Stack, number32(f.X1), number32(f.Y1), number32(f.X2), number32(f.Y2),
				strconv.Itoa(f.Z1), strconv.Itoa(f.Z2), number32(f.Score), f.Label, f.Case, strconv.Itoa(f.Slices), f.Patient})
			if placed {
				rows[len(rows)-1] = append(rows[len(rows)-1], f.Place.cells()...)
			}
		}
		data, err = asCSV(rows)
	case ".json":
		if findings == nil {
			findings = []VolumeFinding{}
		}
		data, err = json.MarshalIndent(struct {
			SchemaVersion int             `json:"schema_version"`
			Findings      []VolumeFinding `json:"findings"`
		}{OutputVersion, findings}, "", "  ")
	default:
		return &config.Error{Err: fmt.Errorf("findings %s: the ending is %q, want .csv or .json", path, filepath.Ext(path))}
	}
	if err != nil {
		return fmt.Errorf("findings %s: %w", path, err)
	}
	return runs.WriteFile(path, data)
}
