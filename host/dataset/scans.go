package dataset

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/alignedfusion/alignedfusion/host/dataset/importer"
	"github.com/alignedfusion/alignedfusion/internal/box"
	"github.com/alignedfusion/alignedfusion/internal/nifti"
	"github.com/alignedfusion/alignedfusion/internal/problem"
	"github.com/alignedfusion/alignedfusion/internal/table"
	"github.com/alignedfusion/alignedfusion/sdk/ports"
)

// What a classifier is shown of a volume: Options of the spec's key view.
const (
	viewWhole  = "whole"  // all of it
	viewRegion = "region" // a box or the extent of a mask, with a margin
	viewSlices = "slices" // a key slice and its neighbours, at the distance asked for
)

// regionColumns are the corners of a case's region, in the coordinates of the data spec.
var regionColumns = []string{"x1", "y1", "z1", "x2", "y2", "z2"}

// scanColumn is a column of volumes, or of slices in the place of pictures, and one of the
// modalities that are made of it: one per window.
type scanColumn struct{ column, modality string }

// scans are the volumes of a table of cases.
type scans struct {
	o       *opener
	t       *table.Table
	columns []scanColumn
	// boxes are the lesions of boxes.csv by case, in voxels of its first volume as displayed.
	boxes  map[string][]box3
	frames map[string]*volumeFrame // by path; nil: its file is at fault
	cases  []scanCase
}

// scanCase is a case whose volumes are to be shown.
type scanCase struct {
	at    int
	row   table.Row
	paths map[string]string // by column
	first *volumeFrame
	// low and top are the region in voxels of first as displayed, or, ofMask, in mm towards
	// right, anterior, superior.
	low, top [3]float64
	region   bool
	ofMask   bool
	mask     string
}

// expand makes a modality of a column, or one of each of several windows: volume.soft and
// volume.lung of volume.
func (s *scans) expand(column, modality string) []string {
	given, _ := s.o.windowsOf(modality)
	if len(given) < 2 || !ports.Scan(modality) {
		s.o.d.windows[modality] = given
		s.columns = append(s.columns, scanColumn{column, modality})
		return []string{modality}
	}
	var out []string
	for _, w := range given {
		name := ports.Volumes.Of(w.name).Name
		if member, ok := ports.Volumes.Member(modality); ok {
			name = ports.Volumes.Of(member + "." + w.name).Name
		}
		s.o.d.windows[name] = []window{w}
		s.columns = append(s.columns, scanColumn{column, name})
		out = append(out, name)
	}
	return out
}

// add notes a case's volumes, by column, and reads their headers. A volume of a table wants a
// window: nothing else says what its values mean.
func (s *scans) add(at int, r table.Row, paths map[string]string) {
	if !slices.ContainsFunc(s.columns, func(k scanColumn) bool { return paths[k.column] != "" && ports.Scan(k.modality) }) {
		return
	}
	o := s.o
	c := scanCase{at: at, row: r, paths: map[string]string{}}
	for _, k := range s.columns {
		path := paths[k.column]
		if path == "" || !ports.Scan(k.modality) {
			continue
		}
		if _, said := o.windowsOf(k.modality); !said && o.layout == "table" {
			o.problems.Add(s.t.Path, r.Line, k.column, "%s is a volume, and no window says what of its values is shown: add window=LOW,HIGH to the data spec (Hounsfield units for CT, 1%%,99%% for MR), window=soft or another of CT's, or window=encoder for what the encoder declares", filepath.ToSlash(path))
			return
		}
		f := s.frame(r, k.column, path)
		if f == nil {
			return
		}
		c.paths[k.column] = path
		if c.first == nil {
			c.first = f
		}
	}
	if c.first == nil {
		return
	}
	s.readRegion(&c)
	s.cases = append(s.cases, c)
}

// frame reads a volume's header; nil where it cannot be.
func (s *scans) frame(r table.Row, column, path string) *volumeFrame {
	if f, known := s.frames[path]; known {
		return f
	}
	s.frames[path] = nil
	info, err := os.Stat(path)
	switch {
	case err != nil:
		s.o.problems.Add(s.t.Path, r.Line, column, "%v%s", problem.File(path, err), s.o.beside(path))
		return nil
	case info.IsDir():
		s.o.problems.Add(s.t.Path, r.Line, column, "%s is a folder; make a volume of its series with alignedfusion data import", filepath.ToSlash(path))
		return nil
	}
	h, err := nifti.ReadHeader(path)
	if err != nil {
		s.o.problems.Add(s.t.Path, r.Line, column, "%s: %v; what is no NIfTI, MetaImage or NRRD is read by alignedfusion data import", filepath.ToSlash(path), err)
		return nil
	}
	s.frames[path] = &volumeFrame{path, h, h.Frame(), info.Size()}
	return s.frames[path]
}

// readRegion takes a case's region from its columns or its boxes; a mask is read later.
func (s *scans) readRegion(c *scanCase) {
	o, r := s.o, c.row
	if name := s.t.Get(r, "mask"); name != "" && !o.missing(name) {
		c.mask = imagePath(o.d.Dir, name)
		return
	}
	var given []string
	for _, column := range regionColumns {
		if s.t.Get(r, column) != "" {
			given = append(given, column)
		}
	}
	if len(given) > 0 {
		var b box3
		columns, err := box.FindColumns(regionColumns, 3)
		if err == nil {
			b, err = o.volumeBox(s.t, r, columns, c.first)
		}
		if err != nil {
			o.problems.AddError(s.t.Path, r.Line, "", err)
			c.region = true // it is there, and refused
			return
		}
		c.low, c.top, c.region = b.low, b.top, true
		return
	}
	for _, b := range s.boxes[o.d.Cases[c.at].ID] {
		if b.ignore {
			continue
		}
		if !c.region {
			c.low, c.top, c.region = b.low, b.top, true
			continue
		}
		for a := range 3 {
			c.low[a], c.top[a] = min(c.low[a], b.low[a]), max(c.top[a], b.top[a])
		}
	}
}

// show decides what of the volumes is shown, and says so.
func (s *scans) show() {
	o := s.o
	s.readMasks()
	var files []*volumeFrame
	for _, f := range s.frames {
		if f != nil {
			files = append(files, f)
		}
	}
	slices.SortFunc(files, func(a, b *volumeFrame) int { return strings.Compare(a.path, b.path) })
	o.warnOfFrames(files)
	view := o.view
	regions := slices.ContainsFunc(s.cases, func(c scanCase) bool { return c.region || c.mask != "" })
	if view == "" {
		view = viewWhole
		if regions {
			view = viewRegion
		}
	}
	for i := range s.cases {
		c := &s.cases[i]
		if view == viewRegion && !c.region && c.mask == "" {
			o.problems.Add(s.t.Path, c.row.Line, "", "the case has no region to be shown: want a mask, corners (%s) or a box in boxes.csv, or view=whole in the data spec", strings.Join(regionColumns, ","))
			continue
		}
		s.showCase(c, view)
	}
}

// readMasks turns masks into the extents of their voxels, in parallel.
func (s *scans) readMasks() {
	errs := make([]error, len(s.cases))
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i := range s.cases {
		if c := &s.cases[i]; c.mask != "" {
			g.Go(func() error { errs[i] = c.readMask(s.o.maskValues); return nil })
		}
	}
	_ = g.Wait()
	for i, err := range errs {
		if err != nil {
			s.o.problems.Add(s.t.Path, s.cases[i].row.Line, "mask", "%v", err)
		}
	}
}

// readMask finds the extent of a mask's voxels of some values, of none: all but 0.
func (c *scanCase) readMask(values []float64) error {
	m, err := nifti.ReadMask(c.mask)
	if err != nil {
		return problem.File(c.mask, err)
	}
	low, top := [3]float64{math.Inf(1), math.Inf(1), math.Inf(1)}, [3]float64{math.Inf(-1), math.Inf(-1), math.Inf(-1)}
	for k, index := range m.Indices {
		if len(values) > 0 && !slices.Contains(values, m.Values[k]) {
			continue
		}
		at := [3]int{index % m.Size[0], index / m.Size[0] % m.Size[1], index / (m.Size[0] * m.Size[1])}
		for a := range 3 {
			low[a], top[a] = min(low[a], float64(at[a])), max(top[a], float64(at[a]))
		}
	}
	switch {
	case low[0] > top[0] && len(values) > 0:
		return fmt.Errorf("%s has no voxel of the values %v (mask= of the data spec)", filepath.ToSlash(c.mask), values)
	case low[0] > top[0]:
		return fmt.Errorf("%s has no voxel other than 0: there is no region to show", filepath.ToSlash(c.mask))
	}
	c.low, c.top = nifti.Hull(low, top, m.PointOf)
	c.region, c.ofMask = true, true
	return nil
}

// within is the case's region in voxels of one of its volumes as displayed.
func (c *scanCase) within(f *volumeFrame) (low, top [3]float64) {
	if f == c.first && !c.ofMask {
		return c.low, c.top
	}
	return nifti.Hull(c.low, c.top, func(p [3]float64) [3]float64 {
		if !c.ofMask {
			p = nifti.Apply(&c.first.frame.WorldRAS, p)
		}
		return f.frame.VoxelOf(p)
	})
}

// showCase makes the sights of a case's volumes.
func (s *scans) showCase(c *scanCase, view string) {
	o := s.o
	one := &o.d.Cases[c.at]
	for _, k := range s.columns {
		path := c.paths[k.column]
		if path == "" {
			continue
		}
		f := s.frames[path]
		name := o.relative(path)
		o.d.stacks[name] = &stack{nifti: path, depth: f.frame.Depth, fileBytes: f.bytes}
		v := &sight{stack: name, key: (f.frame.Depth - 1) / 2, size: [2]int{f.frame.Height, f.frame.Width}, spacingMM: f.frame.SpacingMM,
			low: -0.5, top: float64(f.frame.Depth) - 0.5}
		var err error
		switch {
		case view == viewRegion:
			err = s.showRegion(c, f, v)
		case view == viewSlices:
			v.low, v.top = 0, 0
			err = s.showSlices(c, f, v)
		}
		if err != nil {
			o.problems.Add(s.t.Path, c.row.Line, k.column, "%v", err)
			return
		}
		if one.sights == nil {
			one.sights = map[string]*sight{}
		}
		one.sights[k.modality] = v
		if one.Size == [2]int{} {
			one.Size, one.SpacingMM = v.size, v.spacingMM
		}
	}
}

// showRegion cuts a volume to the case's region with its margin.
func (s *scans) showRegion(c *scanCase, f *volumeFrame, v *sight) error {
	low, top := c.within(f)
	size := [3]float64{float64(f.frame.Width), float64(f.frame.Height), float64(f.frame.Depth)}
	for a := range 3 {
		if !(low[a] <= size[a]-0.5 && top[a] >= -0.5) {
			return fmt.Errorf("the region lies outside the volume %s: %s from %.1f to %.1f of %g voxels as displayed; do region and volume belong together, and are the coordinates right (coordinates=voxel, lps or ras)?",
				filepath.ToSlash(f.path), "xyz"[a:a+1], low[a], top[a], size[a])
		}
		mm := f.frame.SpacingMM[2-a]
		if !(mm > 0) {
			mm = 1
		}
		low[a], top[a] = low[a]-s.o.marginMM/mm, top[a]+s.o.marginMM/mm
	}
	v.key = int(clamp(math.Round((low[2]+top[2])/2), 0, size[2]-1))
	v.crop = [4]float64{max(0, math.Floor(low[0])), max(0, math.Floor(low[1])), min(size[0]-1, math.Ceil(top[0])), min(size[1]-1, math.Ceil(top[1]))}
	v.low, v.top = max(-0.5, low[2]-0.5), min(size[2]-0.5, top[2]+0.5)
	return nil
}

// showSlices finds the key slice: that of the column slice, or the middle of the region.
func (s *scans) showSlices(c *scanCase, f *volumeFrame, v *sight) error {
	var z float64
	text := s.t.Get(c.row, "slice")
	switch n, err := strconv.Atoi(text); {
	case text == "" && c.region:
		low, top := c.within(f)
		z = (low[2] + top[2]) / 2
	case text == "":
		return fmt.Errorf("the case has no key slice: want its number in a column slice (0 is the lowest), a mask or a box, or another view in the data spec")
	case err != nil:
		return fmt.Errorf("slice %q, want a whole number, 0 for the lowest slice", problem.Clip(text, 20))
	default:
		z = float64(n)
		if f != c.first {
			middle := [3]float64{float64(c.first.frame.Width-1) / 2, float64(c.first.frame.Height-1) / 2, z}
			z = f.frame.VoxelOf(nifti.Apply(&c.first.frame.WorldRAS, middle))[2]
		}
	}
	if v.key = int(math.Round(z)); v.key < 0 || v.key >= f.frame.Depth {
		return fmt.Errorf("slice %d is not in the volume %s of %d slices (the lowest is 0)", v.key, filepath.ToSlash(f.path), f.frame.Depth)
	}
	return nil
}

// relative is a path as it is seen from the data set's folder: stacks are called so, for a
// hash that does not depend on where the folder lies.
func (o *opener) relative(path string) string {
	if rel, err := filepath.Rel(o.d.Dir, path); err == nil {
		path = rel
	}
	return filepath.ToSlash(path)
}

// isScan reports whether a file that stands in the place of a picture is a scan.
func isScan(path string) bool {
	return !isPicture(path) && (nifti.IsVolume(path) || importer.IsDICOM(path))
}

// addSlice takes a slice, DICOM or one of a NIfTI volume, in the place of a picture.
func (s *scans) addSlice(at int, r table.Row, column, modality, path string) {
	o := s.o
	fail := func(format string, args ...any) { o.problems.Add(s.t.Path, r.Line, column, format, args...) }
	given, said := o.windowsOf(modality)
	if len(given) == 0 || !said {
		fail("%s is a scan, whose values are no grey: add window=LOW,HIGH to the data spec (Hounsfield units for CT, 1%%,99%% for MR) or window=soft/lung/bone, a channel each", filepath.ToSlash(path))
		return
	}
	v := &sight{stack: o.relative(path)}
	if nifti.IsVolume(path) {
		f := s.frame(r, column, path)
		if f == nil {
			return
		}
		v.size = [2]int{f.frame.Height, f.frame.Width}
		if text := s.t.Get(r, "slice"); text != "" || f.frame.Depth > 1 {
			n, err := strconv.Atoi(text)
			if err != nil || n < 0 || n >= f.frame.Depth {
				fail("%s has %d slices, want the number of one in the column slice (0 is the lowest), got %q; a column called volume takes the whole", filepath.ToSlash(path), f.frame.Depth, problem.Clip(text, 20))
				return
			}
			v.key = n
		}
		o.d.stacks[v.stack] = &stack{nifti: path, depth: f.frame.Depth, fileBytes: f.bytes}
	} else {
		h, w, err := importer.SliceSize(path)
		if err != nil {
			fail("%v", err)
			return
		}
		info, err := os.Stat(path)
		if err != nil {
			fail("%v", problem.File(path, err))
			return
		}
		v.size = [2]int{h, w}
		o.d.stacks[v.stack] = &stack{files: map[int]string{0: path}, fileBytes: info.Size()}
	}
	o.setSight(at, modality, v)
}

func (o *opener) setSight(at int, modality string, v *sight) {
	c := &o.d.Cases[at]
	if c.sights == nil {
		c.sights = map[string]*sight{}
	}
	c.sights[modality] = v
	o.d.sizes[c.Images[modality]] = v.size
	if c.Size == [2]int{} {
		c.Size = v.size
	}
}

// windowPictures shows 16-bit grey pictures in the window of the data spec: as Hounsfield
// units, which they hold plus 32768.
func (o *opener) windowPictures() {
	if len(o.windows) == 0 {
		return
	}
	for i := range o.d.Cases {
		for m, path := range o.d.Cases[i].Images {
			given, _ := o.windowsOf(m)
			info, known := o.infos[path]
			if !known || len(given) == 0 || info.bits != 16 || info.channels != 1 || !ports.Images.Has(m) {
				continue
			}
			name := o.relative(path)
			o.d.stacks[name] = &stack{files: map[int]string{0: path}, fileBytes: info.fileBytes}
			o.setSight(i, m, &sight{stack: name, size: [2]int{info.height, info.width}})
			o.d.windows[m] = given
		}
	}
	if !slices.ContainsFunc(o.d.Cases, func(c Case) bool { return len(c.sights) > 0 }) {
		o.warn("the window of the data spec changes nothing: no image is a volume, a DICOM file or has 16 bits")
	}
}
