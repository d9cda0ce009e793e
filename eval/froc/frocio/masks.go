package frocio

import (
	"fmt"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"strings"

	"github.com/alignedfusion/alignedfusion/eval/froc"
	"github.com/alignedfusion/alignedfusion/internal/nifti"
)

// readMask reads the NIfTI file that a row names, relative to its table.
func readMask(name string, tab *rowFile) (*nifti.Mask, error) {
	path := strings.TrimSpace(name)
	if !nifti.IsNIfTI(path) {
		return nil, fmt.Errorf("%s: mask %q, want a .nii or .nii.gz file", tab.where(), name)
	}
	if !filepath.IsAbs(path) {
		path = filepath.Join(filepath.Dir(tab.file), path)
	}
	v, err := nifti.ReadMask(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", tab.where(), err)
	}
	return v, nil
}

// addMask adds the lesions of one label mask; a mask without any says that the
// image has none.
func (t *Truth) addMask(proto froc.Lesion, name string, tab *rowFile) error {
	v, err := readMask(name, tab)
	if err != nil {
		return err
	}
	if grid := t.grids[proto.Image]; grid != nil && !grid.SameGrid(v) {
		return fmt.Errorf("%s: mask of %v voxels, but another mask of the image has %v", tab.where(), v.Size, grid.Size)
	}
	t.grids[proto.Image] = v.Grid()
	var parts [][]int
	if t.options.MaskLesions == MaskComponents {
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
			labels[value] = append(labels[value], v.Indices[i])
		}
		if len(labels) > 1000 {
			return fmt.Errorf("%s: %d labels; is this an image instead of a mask?", tab.where(), len(labels))
		}
		for _, label := range slices.Sorted(maps.Keys(labels)) {
			parts = append(parts, labels[label])
		}
	}
	for _, indices := range parts {
		m, err := froc.NewMask(v.Size[0], v.Size[1], v.Size[2], indices)
		if err != nil {
			return fmt.Errorf("%s: %w", tab.where(), err)
		}
		l := proto
		l.Region = froc.MaskRegion(m)
		t.Lesions = append(t.Lesions, l)
	}
	return nil
}

// addMap adds the marks of one detection map: its connected components, each
// scored by its greatest value.
func (t *Truth) addMap(image int, name string, tab *rowFile, p *Predictions, problems *problems) error {
	v, err := readMask(name, tab)
	if err != nil {
		return err
	}
	if grid := t.grids[image]; grid != nil && !grid.SameGrid(v) {
		return fmt.Errorf("%s: detection map of %v voxels, but the image's mask has %v", tab.where(), v.Size, grid.Size)
	}
	for _, c := range v.Components() {
		score := math.Inf(-1)
		indices := make([]int, len(c))
		for i, k := range c {
			indices[i] = v.Indices[k]
			score = max(score, v.Values[k])
		}
		if math.IsInf(score, 0) {
			problems.row(tab.where(), "bad score", "score is %v, want a finite number", score)
			continue
		}
		m, err := froc.NewMask(v.Size[0], v.Size[1], v.Size[2], indices)
		if err != nil {
			return fmt.Errorf("%s: %w", tab.where(), err)
		}
		p.add(froc.Prediction{Image: image, Region: froc.MaskRegion(m), Score: score, Class: froc.AnyClass}, tab.line())
	}
	return nil
}
