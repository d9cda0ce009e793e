package predictions

import (
	"cmp"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/alignedfusion/alignedfusion/host/runs"
	"github.com/alignedfusion/alignedfusion/host/workflow/detect"
	"github.com/alignedfusion/alignedfusion/internal/box"
	"github.com/alignedfusion/alignedfusion/sdk"
)

// VolumesDir of a split's predictions holds files of the same names for whole volumes: the
// lesions in them, and the findings that boxes of neighbouring slices are merged to.
const VolumesDir = "volumes"

// lesion is a lesion of a volume, in the slices first to last.
type lesion struct {
	volume      string
	box         box.Box
	class       int // -1: to be ignored
	first, last int
}

// lesions are those of the volumes that slices are of: equal boxes of a class on
// neighbouring slices are one lesion.
func lesions(predictions []Prediction) []lesion {
	var all []lesion
	for _, p := range predictions {
		add := func(b box.Box, class int) {
			all = append(all, lesion{p.Case.Stack, b, class, p.Case.KeySlice, p.Case.KeySlice})
		}
		for _, b := range p.Case.Boxes {
			add(b.Box, b.Class)
		}
		for _, r := range p.Case.Ignore {
			x1, y1, x2, y2 := r.Bounds()
			add(box.Box{X1: x1, Y1: y1, X2: x2, Y2: y2}, -1)
		}
	}
	slices.SortFunc(all, func(a, b lesion) int {
		return cmp.Or(cmp.Compare(a.volume, b.volume), cmp.Compare(a.class, b.class), cmp.Compare(a.box.X1, b.box.X1), cmp.Compare(a.box.Y1, b.box.Y1),
			cmp.Compare(a.box.X2, b.box.X2), cmp.Compare(a.box.Y2, b.box.Y2), cmp.Compare(a.first, b.first))
	})
	var out []lesion
	for _, l := range all {
		if n := len(out); n > 0 {
			if before := &out[n-1]; before.volume == l.volume && before.class == l.class && before.box == l.box && l.first <= before.last+1 {
				before.last = l.last
				continue
			}
		}
		out = append(out, l)
	}
	return out
}

// saveVolumes writes VolumesDir into dir. A slice is as thick as it is far from the next.
func saveVolumes(dir string, set Set) error {
	findings, err := Findings(set.Predictions, set.Labels, detect.MergeOptions{})
	if err != nil {
		return err
	}
	dir = filepath.Join(dir, VolumesDir)
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return err
	}
	corners := func(x1, y1, x2, y2 float64, first, last int) []string {
		return []string{number64(x1), number64(y1), number64(float64(first) - 0.5), number64(x2), number64(y2), number64(float64(last) + 0.5)}
	}
	sides := []string{"x1", "y1", "z1", "x2", "y2", "z2"}
	truth := [][]string{slices.Concat([]string{"image"}, sides, []string{"ignore"})}
	if classed(set.Labels) {
		truth[0] = append(truth[0], "class")
	}
	for _, l := range lesions(set.Predictions) {
		row := append(append([]string{l.volume}, corners(l.box.X1, l.box.Y1, l.box.X2, l.box.Y2, l.first, l.last)...), strconv.Itoa(min(0, l.class)*-1))
		if classed(set.Labels) {
			row = append(row, className(set.Labels, l.class))
		}
		truth = append(truth, row)
	}
	found := [][]string{slices.Concat([]string{"image"}, sides, []string{"score", "label"})}
	for _, f := range findings {
		found = append(found, append(append([]string{f.Stack}, corners(f.X1, f.Y1, f.X2, f.Y2, f.Z1, f.Z2)...), number32(f.Score), f.Label))
	}
	images := [][]string{{"image", "patient"}}
	for _, p := range set.Predictions {
		if row := []string{p.Case.Stack, p.Case.Patient}; !slices.Equal(images[len(images)-1], row) {
			images = append(images, row)
		}
	}
	for name, rows := range map[string][][]string{TruthFile: truth, ImagesFile: images, File: found} {
		data, err := asCSV(rows)
		if err == nil {
			err = runs.WriteFile(filepath.Join(dir, name), data)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// className is "" for what is to be ignored.
func className(labels []sdk.LabelSet, class int) string {
	if class < 0 {
		return ""
	}
	return labels[0].Classes[class]
}
