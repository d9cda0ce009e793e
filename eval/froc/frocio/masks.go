package frocio

import (
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/alignedfusion/alignedfusion/eval/froc"
	"github.com/alignedfusion/alignedfusion/internal/nifti"
)

// Candidates says what a mark of a map is: a 26-connected component in any case.
type Candidates string

// The rules for candidates. Without one, a map is a detection map: every component has one
// value, its score, and others are refused.
const (
	// CandidatesComponents takes the components of what is not 0, scored by their greatest value.
	CandidatesComponents Candidates = "components"
	// CandidatesThreshold takes those of Options.Threshold and more, scored likewise.
	CandidatesThreshold Candidates = "threshold"
	// CandidatesDynamic takes the components of 1/2.5 of the highest value and more, drops
	// those of at most ten voxels, and keeps the one with the greatest value; then the same
	// with what is left: at most five, none touching another, until no component is large
	// enough or the highest value is below 0.01. It is PI-CAI's rule, "dynamic" of
	// report_guided_annotation 0.3.4.
	CandidatesDynamic Candidates = "dynamic"
	// CandidatesDynamicV2 goes on where no component is large enough, without those voxels.
	CandidatesDynamicV2 Candidates = "dynamic-v2"
	// CandidatesDynamicFast takes all components of the first step.
	CandidatesDynamicFast Candidates = "dynamic-fast"
)

// The numbers of CandidatesDynamic.
const (
	dynamicFactor = 2.5
	dynamicMost   = 5
	dynamicVoxels = 10 // a candidate has more
	dynamicLeast  = 0.01
)

// besideMasks makes a table without coordinates one of masks that lie beside it, named after
// the image: RibFrac's.
func (l *layout) besideMasks(tab *rowFile) {
	c := columns{t: tab, taken: make([]bool, len(tab.header))}
	for _, name := range tab.header {
		c.plain = append(c.plain, plain(name))
	}
	if l.voxel = c.find("voxel"); l.voxel >= 0 {
		l.geometry = maskFile
		l.rest = slices.DeleteFunc(l.rest, func(i int) bool { return i == l.voxel })
	}
}

// maskPath is the file of the mask that a row is about, relative to its table.
func (l *layout) maskPath(row []string, tab *rowFile) (string, error) {
	folder := filepath.Dir(tab.file)
	if len(l.coords) == 0 {
		id := strings.TrimSpace(row[l.image])
		for _, ending := range []string{"", "-label", "_label", "-pred", "_pred", "_seg"} {
			for _, kind := range []string{".nii.gz", ".nii", ".mha", ".nrrd"} {
				if path := filepath.Join(folder, id+ending+kind); fileThere(path) {
					return path, nil
				}
			}
		}
		return "", fmt.Errorf("%s: no column of masks, and no %s.nii.gz or %s-label.nii.gz beside the table", tab.where(), clip(id), clip(id))
	}
	path := strings.TrimSpace(row[l.coords[0]])
	if !nifti.IsVolume(path) {
		return "", fmt.Errorf("%s: mask %q, want a .nii, .nii.gz, .mha, .mhd, .nrrd, .nhdr or .hdr file", tab.where(), clip(path))
	}
	if !filepath.IsAbs(path) {
		path = filepath.Join(folder, path)
	}
	return path, nil
}

func fileThere(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// readMask reads a mask, the last one only once: tables name one in several rows.
func (t *Truth) readMask(path, where string) (*nifti.Mask, error) {
	if t.lastMask != nil && t.lastPath == path {
		return t.lastMask, nil
	}
	if err := t.ctx.Err(); err != nil {
		return nil, err
	}
	m, err := nifti.ReadMask(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", where, err)
	}
	t.lastMask, t.lastPath = m, path
	return m, nil
}

// label reads which value of its mask a row is about; nil: all of it.
func (l *layout) label(row []string) (*float64, error) {
	if l.voxel < 0 {
		return nil, nil
	}
	v, err := number(row[l.voxel])
	if err != nil {
		return nil, fmt.Errorf("label %w", err)
	}
	return &v, nil
}

// addMask adds the lesions of the mask that a row names.
func (t *Truth) addMask(proto froc.Lesion, l *layout, row []string, tab *rowFile) error {
	label, err := l.label(row)
	if err != nil {
		t.problems.row(tab.where(), "bad label", "%v", err)
		return nil
	}
	if label != nil && *label == 0 {
		return nil // RibFrac lists the background
	}
	path, err := l.maskPath(row, tab)
	if err != nil {
		return err
	}
	return t.addMaskFile(proto, path, label, tab.where())
}

// addMaskFile adds the lesions of one label mask, or that of one label; a mask without any
// says that the image has none.
func (t *Truth) addMaskFile(proto froc.Lesion, path string, label *float64, where string) error {
	v, err := t.readMask(path, where)
	if err != nil {
		return err
	}
	classes, err := instanceClasses(path)
	if err != nil {
		return err
	}
	if grid := t.grids[proto.Image]; grid != nil && !grid.SameGrid(v) {
		return fmt.Errorf("%s: mask of %v voxels, but another mask of the image has %v, or lies elsewhere in space", where, v.Size, grid.Size)
	}
	t.grids[proto.Image] = v.Grid()
	t.spacingOf(v, proto.Image)
	if label == nil && len(v.Values) > 0 {
		// one value alone is a mask, whatever it is
		if least := slices.Min(v.Values); least < 0 || !whole(v.Values) && least != slices.Max(v.Values) {
			return fmt.Errorf("%s: %s is no mask: values from %v to %v beside 0, want whole numbers from 1 for lesions and 0 elsewhere; "+
				"take a threshold, or resample labels by the nearest voxel", where, path, least, slices.Max(v.Values))
		}
	}
	if all, filled := v.Size[0]*v.Size[1]*v.Size[2], len(v.Indices); label == nil && t.given.MaskLesions != MaskLabels && t.around == "" && 10*filled > 9*all {
		t.around = fmt.Sprintf("%d %% of the voxels of %s are no background (is the mask inverted?)", 100*filled/all, clip(path))
	}
	var parts [][]int
	if t.options.MaskLesions == MaskComponents && label == nil {
		for _, c := range v.Components() {
			indices := make([]int, len(c))
			for i, k := range c {
				indices[i] = v.Indices[k]
			}
			parts = append(parts, indices)
		}
	} else {
		labels := map[float64][]int{}
		for i, value := range v.Values {
			if label == nil || value == *label {
				labels[value] = append(labels[value], v.Indices[i])
			}
		}
		if label != nil && len(labels) == 0 {
			t.problems.row(where, "label not in the mask", "%s has no voxel of label %v", path, *label)
			return nil
		}
		if len(labels) > 1000 {
			return fmt.Errorf("%s: %d labels; is this an image instead of a mask?", where, len(labels))
		}
		if t.given.MaskLesions == "" && label == nil {
			if apart := len(v.Components()); apart > len(labels) {
				t.parts += apart - len(labels)
			}
		}
		for _, value := range slices.Sorted(maps.Keys(labels)) {
			parts = append(parts, labels[value])
		}
		if t.given.MaskLesions == "" && label == nil && t.around == "" {
			t.around = doubtful(v, labels)
		}
	}
	for _, indices := range parts {
		m, err := froc.NewMask(v.Size[0], v.Size[1], v.Size[2], indices)
		if err != nil {
			return fmt.Errorf("%s: %w", where, err)
		}
		l := proto
		l.Region = froc.MaskRegion(m)
		if classes != nil {
			if l.Class, err = t.instanceClass(classes, v, indices); err != nil {
				return fmt.Errorf("%s: %s: %w", where, path, err)
			}
		}
		t.Lesions = append(t.Lesions, l)
	}
	return nil
}

// doubtful says which label of a mask may be no lesion: one that surrounds another, as an organ
// does in labels of several tissues, or 255 beside others; "" without one.
func doubtful(v *nifti.Mask, labels map[float64][]int) string {
	const most = 50 // labels that are compared
	values := slices.Sorted(maps.Keys(labels))
	if n := len(values); n < 2 || n > most {
		return ""
	} else if values[n-1] == 255 && values[n-2] < 254 {
		return "label 255 stands beside others"
	}
	boxes := make([][2][3]int, len(values)) // the first and the last voxel along each axis
	for k, value := range values {
		b := &boxes[k]
		for n, i := range labels[value] {
			for a, x := range [3]int{i % v.Size[0], i / v.Size[0] % v.Size[1], i / v.Size[0] / v.Size[1]} {
				if n == 0 {
					b[0][a], b[1][a] = x, x
				}
				b[0][a], b[1][a] = min(b[0][a], x), max(b[1][a], x)
			}
		}
	}
	for i, outer := range boxes {
		for k, inner := range boxes {
			inside := len(labels[values[i]]) > 8*len(labels[values[k]])
			for a := range 3 {
				flat := outer[0][a] == outer[1][a] // a mask in the plane
				inside = inside && (flat || outer[0][a] < inner[0][a] && inner[1][a] < outer[1][a])
			}
			if inside {
				return fmt.Sprintf("label %v surrounds label %v", values[i], values[k])
			}
		}
	}
	return ""
}

// mapMark is what a row says of the marks in its map.
type mapMark struct {
	image int
	path  string
	score *float64 // nil: the map's values are scores
	label *float64 // of the only voxels that count; nil: all
	class int32
	file  bool // a file of a folder: whole numbers are labels, not scores
}

// addMap adds the marks of one map.
func (t *Truth) addMap(m mapMark, where string, line int, p *Predictions, problems *problems) error {
	v, err := t.readMask(m.path, where)
	if err != nil {
		return err
	}
	parts, scores, err := t.marksOf(v, m)
	if err != nil {
		return fmt.Errorf("%s: %s: %w", where, m.path, err)
	}
	grid := t.grids[m.image]
	if m.score == nil && !m.file && len(v.Values) > 0 && t.options.Candidates == "" && whole(v.Values) {
		p.labels++
	} else if m.file && len(v.Values) > 0 && whole(v.Values) {
		p.files++
	}
	resampled := grid != nil && !grid.SameGrid(v)
	if resampled && !(grid.Oriented && v.Oriented) {
		return fmt.Errorf("%s: %s has %v voxels, but the image's mask has %v, and not both say where they lie in space", where, m.path, v.Size, grid.Size)
	}
	if resampled {
		if !p.resampled {
			p.note("%s: its grid is not that of the lesions: marks are resampled by world coordinates (nearest voxel)", m.path)
		}
		p.resampled = true
	} else {
		grid = v
	}
	for k, indices := range parts {
		if math.IsInf(scores[k], 0) {
			problems.row(where, "bad score", "score is %v, want a finite number", scores[k])
			continue
		}
		if resampled {
			if indices = grid.Resampled(v, indices); len(indices) == 0 {
				p.outside++
				continue
			}
		}
		mask, err := froc.NewMask(grid.Size[0], grid.Size[1], grid.Size[2], indices)
		if err != nil {
			return fmt.Errorf("%s: %w", where, err)
		}
		p.add(froc.Prediction{Image: m.image, Region: froc.MaskRegion(mask), Score: scores[k], Class: m.class}, line)
	}
	return nil
}

// marksOf divides a map into marks: the voxels of each and its score.
func (t *Truth) marksOf(v *nifti.Mask, m mapMark) (parts [][]int, scores []float64, err error) {
	if m.label != nil {
		v = v.Where(func(x float64) bool { return x == *m.label })
		if m.score == nil {
			return nil, nil, fmt.Errorf("a label but no score")
		}
	}
	if m.score != nil {
		if m.label == nil && len(v.Values) > 0 && slices.Max(v.Values) != slices.Min(v.Values) {
			return nil, nil, fmt.Errorf("the mask has several values and the row has a score: say by a column label_id which of them it is")
		}
		if len(v.Indices) == 0 {
			return nil, nil, fmt.Errorf("no voxel of the mark is in the mask")
		}
		return [][]int{v.Indices}, []float64{*m.score}, nil
	}
	if m.file && t.options.Candidates == "" && whole(v.Values) {
		return labelMarks(v)
	}
	t.uses.candidates = true
	switch t.options.Candidates {
	case CandidatesDynamic, CandidatesDynamicV2:
		parts, scores = dynamic(v, t.options.Candidates == CandidatesDynamicV2)
		return parts, scores, nil
	case CandidatesDynamicFast:
		parts, scores = largeParts(v, dynamicThreshold(v, single(v.Values)))
		return parts, scores, nil
	case CandidatesThreshold:
		least := t.options.Threshold
		v = v.Where(func(x float64) bool { return x >= least })
	}
	for _, c := range v.Components() {
		score, least := math.Inf(-1), math.Inf(1)
		indices := make([]int, len(c))
		for i, k := range c {
			indices[i] = v.Indices[k]
			score, least = max(score, v.Values[k]), min(least, v.Values[k])
		}
		if t.options.Candidates == "" && (least < score || least < 0) {
			return nil, nil, fmt.Errorf("is no detection map: a component of %d voxels has values from %v to %v, want a background of 0 and one value a candidate; "+
				"--candidates dynamic or threshold=T divides a map of probabilities, components takes what is not 0", len(c), least, score)
		}
		parts, scores = append(parts, indices), append(scores, score)
	}
	return parts, scores, nil
}

// whole reports whether all values are whole numbers.
func whole(values []float64) bool {
	return !slices.ContainsFunc(values, func(x float64) bool { return x != math.Trunc(x) })
}

// labelMarks divides a map of labels, as nnU-Net writes: every component of a label is a
// mark, of no score of its own.
func labelMarks(v *nifti.Mask) (parts [][]int, scores []float64, err error) {
	labels := slices.Compact(slices.Sorted(slices.Values(v.Values)))
	if len(labels) > 1000 {
		return nil, nil, fmt.Errorf("has %d labels; is this an image?", len(labels))
	}
	for _, label := range labels {
		one := v.Where(func(x float64) bool { return x == label })
		for _, c := range one.Components() {
			indices := make([]int, len(c))
			for i, k := range c {
				indices[i] = one.Indices[k]
			}
			parts, scores = append(parts, indices), append(scores, 1)
		}
	}
	return parts, scores, nil
}

// dynamic divides a soft map; see CandidatesDynamic and, for on, CandidatesDynamicV2.
func dynamic(v *nifti.Mask, on bool) (parts [][]int, scores []float64) {
	rounded := single(v.Values)
	var taken []int
	for len(parts) < dynamicMost && len(v.Values) > 0 && slices.Max(v.Values) >= dynamicLeast {
		least := dynamicThreshold(v, rounded)
		large, highest := largeParts(v, least)
		if len(large) == 0 && !on {
			break
		} else if len(large) == 0 {
			v = v.Where(func(x float64) bool { return x <= least })
			continue
		}
		k := slices.Index(highest, slices.Max(highest))
		if !v.Touch(large[k], taken) {
			parts, scores = append(parts, large[k]), append(scores, highest[k])
			taken = append(taken, large[k]...)
			slices.Sort(taken)
		}
		v = v.Without(large[k])
	}
	return parts, scores
}

// dynamicThreshold is the share of the highest value from which voxels are of a candidate,
// rounded as a map of 32 bits has it.
func dynamicThreshold(v *nifti.Mask, rounded bool) float64 {
	if len(v.Values) == 0 {
		return 0
	}
	least := slices.Max(v.Values) / dynamicFactor
	if rounded {
		least = float64(float32(least))
	}
	return least
}

// single reports whether the values are numbers of 32 bits.
func single(values []float64) bool {
	return !slices.ContainsFunc(values, func(x float64) bool { return x != float64(float32(x)) })
}

// largeParts are the components of a value and more that have more than dynamicVoxels, and
// the greatest value of each.
func largeParts(v *nifti.Mask, least float64) (parts [][]int, highest []float64) {
	v = v.Where(func(x float64) bool { return x >= least && x > 0 })
	for _, c := range v.Components() {
		if len(c) <= dynamicVoxels {
			continue
		}
		part, top := make([]int, len(c)), math.Inf(-1)
		for i, k := range c {
			part[i], top = v.Indices[k], max(top, v.Values[k])
		}
		parts, highest = append(parts, part), append(highest, top)
	}
	return parts, highest
}
