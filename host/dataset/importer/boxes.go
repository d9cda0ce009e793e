package importer

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/alignedfusion/alignedfusion/internal/box"
	"github.com/alignedfusion/alignedfusion/internal/nearest"
	"github.com/alignedfusion/alignedfusion/internal/nifti"
	"github.com/alignedfusion/alignedfusion/internal/problem"
	"github.com/alignedfusion/alignedfusion/internal/table"
)

// InstanceRules say what one lesion of a mask is: a connected component of the voxels of
// one label, or a label.
var InstanceRules = []string{"component", "label"}

// box3 is a box in the voxels of the volume that is written, with the columns that come
// along.
type box3 struct {
	id       string
	low, top [3]float64
	class    string
	ignore   string
	extra    map[string]string
}

var idColumns = []string{"id", "volume", "scan", "series", "seriesuid", "seriesinstanceuid", "case", "image"}

// boxes reads the boxes of all scans, from a table and from masks.
func (o *Options) boxes(scans []*scan) (boxes []box3, notes []string, err error) {
	if o.Boxes != "" {
		if boxes, err = o.tableOfBoxes(scans); err != nil {
			return nil, nil, err
		}
	}
	masks := o.Masks
	if masks == "" && filepath.Base(o.Source) == "imagesTr" {
		if beside := filepath.Join(filepath.Dir(o.Source), "labelsTr"); isFolder(beside) {
			masks, o.Masks = beside, beside
			notes = append(notes, filepath.ToSlash(beside)+" is taken for the masks of "+filepath.ToSlash(o.Source))
		}
	}
	if masks == "" {
		return boxes, notes, nil
	}
	more, found, err := o.maskBoxes(scans, masks)
	return append(boxes, more...), append(notes, found...), err
}

func isFolder(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

func (o *Options) tableOfBoxes(scans []*scan) ([]box3, error) {
	if !slices.Contains(nifti.Frames, o.Coordinates) {
		return nil, problem.At(o.Boxes, 0, "", "it is not said what the coordinates are in: want one of %s", strings.Join(nifti.Frames, ", "))
	}
	t, err := table.Read(o.Boxes)
	if err != nil {
		return nil, err
	}
	lower := map[string]string{}
	for _, c := range t.Columns {
		lower[strings.ToLower(c)] = c
	}
	column := func(names ...string) string {
		for _, n := range names {
			if c, ok := lower[n]; ok {
				return c
			}
		}
		return ""
	}
	id := column(idColumns...)
	if id == "" {
		return nil, problem.At(o.Boxes, 1, "", "no column names the scan; want one of %s", problem.Quote(idColumns))
	}
	columns, err := box.FindColumns(t.Columns, 3)
	if err != nil {
		return nil, problem.At(o.Boxes, 1, "", "%v", err)
	}
	known := byName(scans)
	class, ignore := column("class", "label"), column("ignore")
	used := append([]string{id, class, ignore}, columns.Names...)
	var problems problem.List
	var out []box3
	for _, r := range t.Rows {
		one, ok := known[t.Get(r, id)]
		if !ok {
			given := t.Get(r, id)
			hint := nearest.Meant(given, slices.Sorted(maps.Keys(known)))
			problems.Add(t.Path, r.Line, id, "no scan is called %q%s", problem.Clip(given, 80), hint)
			continue
		}
		v := make([]float64, len(columns.Names))
		bad := len(problems)
		for k, n := range columns.Names {
			if v[k], err = table.Number(t.Get(r, n)); err != nil {
				problems.Add(t.Path, r.Line, n, "%v", err)
			}
		}
		if len(problems) > bad {
			continue
		}
		low, top := columns.Corners(v)
		err := extent(low, top)
		if err == nil {
			low, top, err = o.toVoxels(one, low, top)
		}
		if err != nil {
			problems.Add(t.Path, r.Line, "", "%v", err)
			continue
		}
		b := box3{id: one.id, low: low, top: top, class: t.Get(r, class), ignore: t.Get(r, ignore), extra: map[string]string{}}
		for _, c := range t.Columns {
			if !slices.Contains(used, c) {
				b.extra[c] = t.Get(r, c)
			}
		}
		out = append(out, b)
	}
	return out, problems.Err()
}

// byName finds scans by their id, series, source folder or file.
func byName(scans []*scan) map[string]*scan {
	known := map[string]*scan{}
	twice := map[string]bool{}
	for _, s := range scans {
		for _, n := range []string{s.id, s.series, filepath.Base(s.source), niftiName(s.source)} {
			if other, ok := known[n]; ok && other != s {
				twice[n] = true
			}
			known[n] = s
		}
	}
	for n := range twice {
		delete(known, n)
	}
	for _, s := range scans {
		known[s.id] = s
	}
	delete(known, "")
	return known
}

// extent refuses boxes that are flat or turned.
func extent(low, top [3]float64) error {
	for a := range 3 {
		if !(low[a] < top[a]) {
			return fmt.Errorf("the box has no extent along %s: %g to %g", "xyz"[a:a+1], low[a], top[a])
		}
	}
	return nil
}

// toVoxels moves a box into the voxels of the volume that is written and refuses what
// lies outside of it.
func (o *Options) toVoxels(s *scan, low, top [3]float64) (a, b [3]float64, err error) {
	out := s.written()
	dim := [3]int{out.Width, out.Height, out.Depth}
	a, b = nifti.Hull(low, top, func(p [3]float64) [3]float64 { return out.VoxelOf(nifti.ToRAS(o.Coordinates, &s.affine, p)) })
	for axis := range 3 {
		if b[axis] < 0 || a[axis] > float64(dim[axis]-1) {
			return a, b, fmt.Errorf("the box lies outside the scan %s: along %s from %.1f to %.1f of its %d voxels; are the coordinates really %s?",
				s.id, "xyz"[axis:axis+1], a[axis], b[axis], dim[axis], o.Coordinates)
		}
		a[axis], b[axis] = max(a[axis], 0), min(b[axis], float64(dim[axis]-1))
	}
	return a, b, nil
}

// written is the frame in which the scan is written: DICOM as it is, NIfTI turned.
func (s *scan) written() nifti.Frame {
	if !nifti.IsVolume(s.source) {
		return nifti.Frame{Width: s.dim[0], Height: s.dim[1], Depth: s.dim[2], WorldRAS: s.affine}
	}
	h := nifti.Header{Dim: s.dim, Affine: s.affine, Oriented: true}
	return h.Frame()
}

// maskBoxes makes a box of every lesion of a mask.
func (o *Options) maskBoxes(scans []*scan, folder string) (boxes []box3, notes []string, err error) {
	rule := o.Instances
	if rule != "" && !slices.Contains(InstanceRules, rule) {
		return nil, nil, fmt.Errorf("instances %q, want one of %s", rule, strings.Join(InstanceRules, ", "))
	}
	var problems problem.List
	for _, s := range scans {
		path, err := maskOf(folder, s)
		if errors.Is(err, fs.ErrNotExist) {
			notes = append(notes, fmt.Sprintf("%s has no mask in %s: it is taken to be free of lesions", s.id, filepath.ToSlash(folder)))
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		found, err := boxesOfMask(s, path, rule)
		if err != nil {
			problems.AddError(path, 0, "", err)
			continue
		}
		boxes = append(boxes, found...)
	}
	return boxes, notes, problems.Err()
}

func maskOf(folder string, s *scan) (string, error) {
	for _, ending := range []string{".nii.gz", ".nii", ".nrrd", ".seg.nrrd", ".mha", ".mhd"} {
		path := filepath.Join(folder, niftiName(filepath.Base(s.id))+ending)
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	return "", fs.ErrNotExist
}

func boxesOfMask(s *scan, path, rule string) ([]box3, error) {
	m, err := nifti.ReadMask(path)
	if err != nil {
		return nil, problem.At(path, 0, "", "%v", err)
	}
	classes, err := classesOf(path)
	if err != nil {
		return nil, err
	}
	names, err := labelNames(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	if rule == "" && classes != nil {
		rule = "label" // nnDetection: a label is an instance
	}
	out := s.written()
	dim := [3]int{out.Width, out.Height, out.Depth}
	var boxes []box3
	var half [3]float64 // what a voxel of the mask reaches to either way, in voxels of the scan
	origin := out.VoxelOf(m.PointOf([3]float64{}))
	for axis := range 3 {
		var step [3]float64
		step[axis] = 1
		for a, x := range out.VoxelOf(m.PointOf(step)) {
			half[a] += math.Abs(x-origin[a]) / 2
		}
	}
	outside := false
	add := func(class string, voxels []int) {
		b := box3{id: s.id, class: class, extra: map[string]string{"voxels": strconv.Itoa(len(voxels))}}
		for a := range 3 {
			b.low[a], b.top[a] = math.Inf(1), math.Inf(-1)
		}
		nx, ny := m.Size[0], m.Size[1]
		for _, v := range voxels {
			p := out.VoxelOf(m.PointOf([3]float64{float64(v % nx), float64(v / nx % ny), float64(v / nx / ny)}))
			for a := range 3 {
				b.low[a], b.top[a] = min(b.low[a], p[a]-half[a]), max(b.top[a], p[a]+half[a])
			}
		}
		for a := range 3 {
			outside = outside || b.top[a] < 0 || b.low[a] > float64(dim[a]-1)
			b.low[a], b.top[a] = max(b.low[a], 0), min(b.top[a], float64(dim[a]-1))
		}
		boxes = append(boxes, b)
	}
	byLabel := map[int][]int{}
	for k, v := range m.Indices {
		label := int(math.Round(m.Values[k]))
		if math.Abs(m.Values[k]-float64(label)) > 1e-3 {
			return nil, problem.At(path, 0, "", "holds the value %g: labels of a mask are whole numbers", m.Values[k])
		}
		byLabel[label] = append(byLabel[label], v)
	}
	for _, label := range slices.Sorted(maps.Keys(byLabel)) {
		if classes == nil && unnamed(names, label) {
			return nil, problem.At(path, 0, "", "holds the label %d, which dataset.json does not name: name it there, or leave it out of the mask", label)
		}
		if rule == "label" {
			class := named(names, label)
			if classes != nil {
				if class = classes[label]; class == "" {
					return nil, problem.At(path, 0, "", "label %d has no class in its JSON of instances", label)
				}
			}
			add(class, byLabel[label])
			continue
		}
		one := m.Grid()
		one.Indices = byLabel[label]
		for _, component := range one.Components() {
			for i, at := range component {
				component[i] = one.Indices[at]
			}
			add(named(names, label), component)
		}
	}
	if outside {
		return nil, problem.At(path, 0, "", "has a lesion outside of the scan %s, by the places that both say: is the mask of this scan, and does its header say where it lies?", s.id)
	}
	slices.SortStableFunc(boxes, func(a, b box3) int { return cmp.Compare(a.low[2], b.low[2]) })
	return boxes, nil
}
