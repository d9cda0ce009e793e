package dataset

import (
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/alignedfusion/alignedfusion/internal/box"
	"github.com/alignedfusion/alignedfusion/internal/nearest"
	"github.com/alignedfusion/alignedfusion/internal/nifti"
	"github.com/alignedfusion/alignedfusion/internal/problem"
	"github.com/alignedfusion/alignedfusion/internal/table"
	"github.com/alignedfusion/alignedfusion/sdk/ports"
)

// columns of volumes.csv and boxes.csv that are no attributes and no strata.
var (
	volumesReserved     = []string{"id", "path", "patient", "split", "series", "source"}
	volumeBoxesReserved = []string{"id", "class", "ignore"}
)

// keySlicesPerLesion are the slices of a lesion that are trained on: its middle and those
// a quarter of its height above and below. keySlicesPerVolume are as many slices without
// a lesion, spread over the volume.
const (
	keySlicesPerLesion = 3
	keySlicesPerVolume = 4
)

// box3 is a lesion's box in voxels as the volume is displayed (nifti.Frame).
type box3 struct {
	low, top [3]float64
	class    string
	ignore   bool
	strata   map[string]string
}

// openVolumes reads volumes.csv, boxes.csv and attributes.csv of a folder. Every axial
// slice of a volume is a case; some are key slices, to be trained on.
func openVolumes(o *opener) error {
	t, err := o.table(filepath.Join(o.path, "volumes.csv"))
	if err != nil {
		return err
	}
	if o.classifies(t) {
		return o.classifyVolumes(t)
	}
	if err := t.Need("id", "path"); err != nil {
		return err
	}
	if err := o.ownSplits(t); err != nil {
		return err
	}
	frames, err := o.volumeFrames(t)
	if err != nil {
		return err
	}
	boxes, withBoxes, err := o.volumeBoxes(frames)
	if err != nil {
		return err
	}
	attributes, err := o.volumeAttributes(t, frames, boxes)
	if err != nil {
		return err
	}
	o.d.Modalities = []string{Volume}
	var classes []string
	for _, list := range boxes {
		for _, b := range list {
			if !b.ignore && !slices.Contains(classes, b.class) {
				classes = append(classes, b.class)
			}
		}
	}
	slices.SortFunc(classes, compareClasses)
	o.setClasses(classes)
	for _, r := range t.Rows {
		id := t.Get(r, "id")
		if f := frames[id]; f != nil {
			o.volumeCases(t, r, f, boxes[id], withBoxes, attributes[id])
		}
	}
	return nil
}

// classifies reports whether whole volumes are to be classified: the task says so, or it says
// nothing and there are labels, and no lesions or volumes of several phases.
func (o *opener) classifies(t *table.Table) bool {
	there, _ := exists(filepath.Join(o.path, "boxes.csv"))
	labelled := slices.ContainsFunc(t.Columns, func(c string) bool { return c == "label" || strings.HasPrefix(c, "label.") })
	return o.opt.Task == Classify || o.opt.Task == "" && labelled && (!there || !t.Has("path"))
}

// classifyVolumes reads volumes.csv as a table of cases; boxes.csv says which regions are
// shown.
func (o *opener) classifyVolumes(t *table.Table) error {
	s := &scans{o: o, t: t}
	if there, _ := exists(filepath.Join(o.path, "boxes.csv")); there {
		if err := t.Need("id"); err != nil {
			return err
		}
		first := map[string]*volumeFrame{}
		for _, r := range t.Rows {
			name := t.Get(r, "path")
			for _, c := range t.Columns {
				if name == "" && ports.Scan(c) {
					name = t.Get(r, c)
				}
			}
			f := (*volumeFrame)(nil)
			if h, err := nifti.ReadHeader(imagePath(o.path, name)); err == nil { // else its file is reported as a case's
				f = &volumeFrame{name, h, h.Frame(), 0}
			}
			first[t.Get(r, "id")] = f
		}
		var err error
		if s.boxes, _, err = o.volumeBoxes(first); err != nil {
			return err
		}
	}
	extra, err := o.volumeAttributeTable(s.boxes)
	if err != nil {
		return err
	}
	return o.caseTable(s, extra)
}

// lesionColumn names lesions, in boxes.csv and in attributes.csv.
const lesionColumn = "lesion"

// volumeAttributeTable reads attributes.csv, nil where there is none. Its rows are of lesions
// where boxes.csv names them.
func (o *opener) volumeAttributeTable(boxes map[string][]box3) (*attributesFile, error) {
	named := false
	for _, list := range boxes {
		named = named || slices.ContainsFunc(list, func(b box3) bool { return b.strata[lesionColumn] != "" })
	}
	return o.readAttributes(o.path, "id", map[bool]string{true: lesionColumn}[named])
}

// findIn finds lesions of volumes by their names.
func findIn(boxes map[string][]box3) func(id, lesion string) *namedLesion {
	return func(id, lesion string) *namedLesion {
		var found *namedLesion
		for _, b := range boxes[id] {
			if b.strata[lesionColumn] != lesion {
				continue
			}
			if found == nil {
				found = &namedLesion{}
			}
			size := b.top[0] - b.low[0]
			size *= b.top[1] - b.low[1]
			size *= b.top[2] - b.low[2]
			found.size, found.strata = max(found.size, size), append(found.strata, b.strata)
		}
		return found
	}
}

// volumeFrame is where a volume lies on disk and in the patient.
type volumeFrame struct {
	path   string
	header *nifti.Header
	frame  nifti.Frame
	bytes  int64
}

// volumeFrames reads the headers of the volumes, by id.
func (o *opener) volumeFrames(t *table.Table) (map[string]*volumeFrame, error) {
	frames := map[string]*volumeFrame{}
	var files []*volumeFrame
	lines := map[string]int{}
	for _, r := range t.Rows {
		id, path := t.Get(r, "id"), t.Get(r, "path")
		if first, twice := lines[id]; twice || id == "" || strings.Contains(id, "#") {
			o.problems.Add(t.Path, r.Line, "id", "%q is empty, holds a # or stands twice (first in line %d)", problem.Clip(id, 60), first)
			continue
		}
		lines[id] = r.Line
		frames[id] = nil // known, and not to be missed in the other tables where its file is at fault
		if !filepath.IsAbs(path) {
			path = filepath.Join(o.path, filepath.FromSlash(path))
		}
		info, err := os.Stat(path)
		if err == nil && info.IsDir() {
			o.problems.Add(t.Path, r.Line, "path", "%s is a folder; make a volume of its series with alignedfusion data import", filepath.ToSlash(path))
			continue
		}
		if err != nil {
			o.problems.Add(t.Path, r.Line, "path", "%v", problem.File(path, err))
			continue
		}
		h, err := nifti.ReadHeader(path)
		if err != nil {
			o.problems.Add(t.Path, r.Line, "path", "%s: %v; what is no NIfTI, MetaImage or NRRD is read by alignedfusion data import", filepath.ToSlash(path), err)
			continue
		}
		frames[id] = &volumeFrame{path, h, h.Frame(), info.Size()}
		files = append(files, frames[id])
	}
	o.warnOfFrames(files)
	return frames, nil
}

// warnOfFrames counts the volumes whose headers do not say what they should.
func (o *opener) warnOfFrames(files []*volumeFrame) {
	for _, rule := range []struct {
		lacks func(*volumeFrame) bool
		text  string
	}{
		{func(f *volumeFrame) bool { return f.frame.SpacingMM[0] == 0 && f.frame.Depth > 1 }, "%s not say how far apart its slices are: every slice stands in for its neighbours"},
		{func(f *volumeFrame) bool { return !f.header.Oriented }, "%s not say how it is oriented: its axes are taken as they are"},
		{func(f *volumeFrame) bool { return f.header.SkewDegrees() > nifti.Skewed }, "%s not have perpendicular axes, as under a tilted gantry: its slices are taken as they are, their places in mm are right"},
	} {
		lacking := slices.DeleteFunc(slices.Clone(files), func(f *volumeFrame) bool { return !rule.lacks(f) })
		switch n := len(lacking); {
		case n == 1:
			o.warn(rule.text, filepath.Base(lacking[0].path)+" does")
		case n > 1:
			o.warn(rule.text, fmt.Sprintf("%d volumes (first %s), each does", n, filepath.Base(lacking[0].path)))
		}
	}
}

// volumeBoxes reads boxes.csv: corners in stored voxels (0 is the centre of the first),
// or in mm towards left, posterior, head or right, anterior, superior where the spec says
// coordinates=lps or ras.
func (o *opener) volumeBoxes(frames map[string]*volumeFrame) (map[string][]box3, bool, error) {
	path := filepath.Join(o.path, "boxes.csv")
	if there, _ := exists(path); !there {
		o.warn("there is no boxes.csv: no case has targets")
		return nil, false, nil
	}
	t, err := o.tableOrNone(path) // without rows every volume is free of lesions
	if err != nil {
		return nil, false, err
	}
	if err := t.Need("id"); err != nil {
		return nil, false, err
	}
	columns, err := box.FindColumns(t.Columns, 3)
	if err != nil {
		return nil, false, problem.At(path, 1, "", "%v", err)
	}
	boxes, lines := map[string][]box3{}, map[string][]int{}
	var given [3]box.Axis
	for _, r := range t.Rows {
		id := t.Get(r, "id")
		f, ok := frames[id]
		if ok && f == nil {
			continue
		}
		if !ok {
			names := make([]string, 0, len(frames))
			for n := range frames {
				names = append(names, n)
			}
			slices.Sort(names)
			o.problems.Add(t.Path, r.Line, "id", "%q is not in volumes.csv%s", problem.Clip(id, 60), nearest.Meant(id, names))
			continue
		}
		b, err := o.volumeBox(t, r, columns, f)
		if err != nil {
			o.problems.AddError(t.Path, r.Line, "", err)
			continue
		}
		if twin := slices.IndexFunc(boxes[id], func(q box3) bool { return q.low == b.low && q.top == b.top }); twin >= 0 {
			o.problems.Add(t.Path, r.Line, "", "the same box as in line %d", lines[id][twin])
			continue
		}
		boxes[id], lines[id] = append(boxes[id], b), append(lines[id], r.Line)
		if low, top, err := numbersOfBox(t, r, columns); err == nil && columns.AreCorners() && o.inVoxels() {
			for a := range given {
				given[a].Add(low[a], top[a], float64(f.header.Dim[a]))
			}
		}
	}
	if box.LikelySides(&given[0], &given[1], &given[2]) {
		o.warn("boxes.csv: the second corners of its %d boxes do not move with the first ones and all fit their volumes as sides: are they sides? then give the centre and the sides, cx,cy,cz,dx,dy,dz", len(given[0].Low))
	}
	return boxes, true, nil
}

// inVoxels reports whether the boxes of volumes are in voxels.
func (o *opener) inVoxels() bool { return o.opt.Coordinates == "" || o.opt.Coordinates == "voxel" }

// numbersOfBox are the corners of a row's box.
func numbersOfBox(t *table.Table, r table.Row, columns box.Columns) (low, top [3]float64, err error) {
	v := make([]float64, len(columns.Names))
	for k, c := range columns.Names {
		if v[k], err = table.Number(t.Get(r, c)); err != nil {
			return low, top, problem.At(t.Path, r.Line, c, "%v", err)
		}
	}
	low, top = columns.Corners(v)
	return low, top, nil
}

func (o *opener) volumeBox(t *table.Table, r table.Row, columns box.Columns, f *volumeFrame) (b box3, err error) {
	for _, c := range t.Columns {
		if text := t.Get(r, c); text != "" && !slices.Contains(volumeBoxesReserved, c) && !slices.Contains(columns.Names, c) {
			if b.strata == nil {
				b.strata = map[string]string{}
			}
			b.strata[c] = text
		}
	}
	if b.class = t.Get(r, "class"); b.class == "" || o.missing(b.class) {
		b.class = "lesion"
	}
	switch text := strings.ToLower(t.Get(r, "ignore")); text {
	case "", "0", "no", "false":
	case "1", "yes", "true":
		b.ignore = true
	default:
		return b, problem.At(t.Path, r.Line, "ignore", "%q is neither 1 nor 0", problem.Clip(text, 20))
	}
	low, top, err := numbersOfBox(t, r, columns)
	if err != nil {
		return b, err
	}
	for a := range 3 {
		if !(low[a] < top[a]) {
			return b, problem.At(t.Path, r.Line, "", "the box has no extent along %s: %g to %g; want corners, the least first (centre and size are cx,cy,cz,dx,dy,dz), a lesion on one slice from a half below to a half above",
				"xyz"[a:a+1], low[a], top[a])
		}
	}
	if size := f.header.Dim; slices.Max(top[:]) <= 1 && slices.Min(low[:]) >= 0 && slices.Min(size[:2]) >= 8 && size[2] > 1 && o.inVoxels() {
		return b, problem.At(t.Path, r.Line, "", "the box lies between 0 and 1: it is in shares of the volume's sides, want voxels (times the number of voxels along each side)")
	}
	b.low, b.top = f.display(low, top, o.opt.Coordinates)
	size := [3]float64{float64(f.frame.Width), float64(f.frame.Height), float64(f.frame.Depth)}
	for a := range 3 {
		if b.low[a] < -boxSlack || b.top[a] > size[a]-1+boxSlack {
			in := o.opt.Coordinates
			if in == "" {
				in = "voxel"
			}
			return b, problem.At(t.Path, r.Line, "", "the box leaves its volume: %s from %.2f to %.2f of %g voxels as displayed; are the coordinates %s (spec option coordinates=voxel, lps or ras)?",
				"xyz"[a:a+1], b.low[a], b.top[a], size[a], in)
		}
		b.low[a], b.top[a] = clamp(b.low[a], 0, size[a]-1), clamp(b.top[a], 0, size[a]-1)
	}
	return b, nil
}

// display moves a box into the voxels of the frame that is displayed.
func (f *volumeFrame) display(low, top [3]float64, coordinates string) (a, b [3]float64) {
	return nifti.Hull(low, top, func(p [3]float64) [3]float64 {
		return f.frame.VoxelOf(nifti.ToRAS(coordinates, &f.header.Affine, p))
	})
}

// volumeAttributes reads the attribute columns of volumes.csv and of attributes.csv, by
// volume: its slices share them.
func (o *opener) volumeAttributes(t *table.Table, frames map[string]*volumeFrame, boxes map[string][]box3) (map[string]Attributes, error) {
	var all []string
	for _, c := range t.Columns {
		label := c == "label" || strings.HasPrefix(c, "label.") // what a classifier is to find
		if !slices.Contains(volumesReserved, c) && !strings.HasSuffix(c, ".evidence") && !label && !ports.Scan(c) {
			all = append(all, c)
		}
	}
	extra, err := o.volumeAttributeTable(boxes)
	if err != nil {
		return nil, err
	}
	if extra != nil {
		for _, c := range extra.columns {
			if slices.Contains(all, c) {
				return nil, problem.At(extra.Path, 1, c, "the column stands in volumes.csv already")
			}
			all = append(all, c)
		}
	}
	if o.d.AttributeColumns, err = o.chooseAttributes(all, all, nil); err != nil {
		return nil, err
	}
	attributes := make(map[string]Attributes, len(frames))
	rowOf := func(id string) Attributes {
		if _, known := attributes[id]; !known {
			attributes[id] = o.attributes().newRow()
		}
		return attributes[id]
	}
	cells := o.attributeReader(t, all)
	for _, r := range t.Rows {
		if id := t.Get(r, "id"); frames[id] != nil {
			cells.read(r, rowOf(id))
		}
	}
	if extra == nil {
		return attributes, nil
	}
	for _, r := range extra.Rows {
		id := extra.Get(r, "id")
		if _, known := frames[id]; !known {
			o.problems.Add(extra.Path, r.Line, "id", "%q is not in volumes.csv", problem.Clip(id, 60))
		}
	}
	cells = o.attributeReader(extra.Table, all)
	rows := extra.rows(o, findIn(boxes))
	for _, id := range slices.Sorted(maps.Keys(rows)) {
		if frames[id] != nil {
			cells.readOver(rows[id], rowOf(id))
		}
	}
	return attributes, nil
}

// volumeCases adds a case for every slice of a volume.
func (o *opener) volumeCases(t *table.Table, r table.Row, f *volumeFrame, boxes []box3, withBoxes bool, attributes Attributes) {
	id := t.Get(r, "id")
	s := &stack{nifti: f.path, depth: f.frame.Depth, fileBytes: f.bytes}
	o.d.stacks[id] = s
	key := keySlices(boxes, f.frame.Depth)
	patient := t.Get(r, "patient")
	if patient == "" {
		patient = id
	}
	for z := range f.frame.Depth {
		c := Case{ID: fmt.Sprintf("%s#%d", id, z), Patient: patient, Split: t.Get(r, "split"), Stack: id, KeySlice: z,
			Images: map[string]string{Volume: f.path}, SpacingMM: f.frame.SpacingMM, Size: [2]int{f.frame.Height, f.frame.Width},
			WorldRAS: &f.frame.WorldRAS, StoredRAS: &f.header.Affine, Attributes: attributes, HasTargets: withBoxes, Sweep: !key[z]}
		for _, b := range boxes {
			if float64(z) < b.low[2]-0.5 || float64(z) > b.top[2]+0.5 {
				continue
			}
			if b.ignore {
				c.Ignore = append(c.Ignore, IgnoreRegion{X1: b.low[0], Y1: b.low[1], X2: b.top[0], Y2: b.top[1]})
				continue
			}
			class := slices.Index(o.d.Labels[0].Classes, b.class)
			if class < 0 {
				o.problems.Add(filepath.Join(o.path, "boxes.csv"), 0, "class", "class %q is unknown; there are %s", problem.Clip(b.class, 60), problem.Quote(o.d.Labels[0].Classes))
				return
			}
			c.Boxes = append(c.Boxes, Box{Box: box.Box{X1: b.low[0], Y1: b.low[1], X2: b.top[0], Y2: b.top[1]}, Class: class, Strata: b.strata})
		}
		o.addCase(c, t.Path, r.Line)
	}
}

// keySlices are the slices to train on: those through the middle and the quarters of each
// lesion, and some without any.
func keySlices(boxes []box3, depth int) []bool {
	key := make([]bool, depth)
	occupied := make([]bool, depth)
	at := func(z float64) int { return int(clamp(math.Round(z), 0, float64(depth-1))) }
	for _, b := range boxes {
		for z := at(b.low[2]); z <= at(b.top[2]); z++ {
			occupied[z] = true
		}
		if b.ignore {
			continue
		}
		for k := range keySlicesPerLesion {
			key[at(b.low[2]+(b.top[2]-b.low[2])*float64(k+1)/(keySlicesPerLesion+1))] = true
		}
	}
	var free []int
	for z, taken := range occupied {
		if !taken {
			free = append(free, z)
		}
	}
	for k := range min(keySlicesPerVolume, len(free)) {
		key[free[(2*k+1)*len(free)/(2*min(keySlicesPerVolume, len(free)))]] = true
	}
	return key
}

// KeySlices leaves out the cases that volumes are swept by: those that are predicted and
// not trained on.
func KeySlices(cases []Case) []Case {
	if !slices.ContainsFunc(cases, func(c Case) bool { return c.Sweep }) {
		return cases
	}
	return slices.DeleteFunc(slices.Clone(cases), func(c Case) bool { return c.Sweep })
}
