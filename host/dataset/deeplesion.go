package dataset

import (
	"errors"
	"fmt"
	"iter"
	"maps"
	"math"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/alignedfusion/alignedfusion/host/report/schema"
	"github.com/alignedfusion/alignedfusion/internal/deeplesion"
	"github.com/alignedfusion/alignedfusion/internal/problem"
	"github.com/alignedfusion/alignedfusion/internal/table"
)

// The attributes that DL_info.csv itself gives. Location and size are annotations
// of the very lesion to be found.
var (
	deepLesionDefault = []string{"age", "gender"}
	deepLesionPaper   = []string{"age", "gender", "location", "size"}
)

// lesionType is the target of classifying DeepLesion's lesions.
const lesionType = "coarse_lesion_type"

var deepLesionName = regexp.MustCompile(`^(\d{6}_\d{2}_\d{2})_(\d{3})\.png$`)

func openDeepLesion(o *opener) error {
	t, err := o.table(filepath.Join(o.path, "DL_info.csv"))
	if err != nil {
		return err
	}
	if err := o.deepLesionCases(t); err != nil {
		return err
	}
	if err := o.deepLesionImages(); err != nil || o.lesionFree == 0 {
		return err
	}
	if o.target != "" {
		return fmt.Errorf("%w: %s: lesion_free is for detection: what has a type is a lesion", ErrData, o.d.Spec)
	}
	o.addLesionFree(t)
	return nil
}

const (
	// maxLesionFree bounds the spec option lesion_free.
	maxLesionFree = 1000
	// lesionFreeMM is how far beyond a lesion's radius a slice has to lie from its key slice.
	lesionFreeMM = 10
)

// addLesionFree adds slices without a marked lesion to the training split, spread over those of
// each of its series that lie clear of every lesion of DL_info.csv, noisy ones included.
func (o *opener) addLesionFree(t *table.Table) {
	type mark struct {
		slice   int
		reachMM float64
	}
	marks := map[string][]mark{}
	for _, r := range t.Rows {
		if l, err := parseLesion(t, r); err == nil {
			marks[l.series] = append(marks[l.series], mark{l.keySlice, l.DiameterMM()/2 + lesionFreeMM})
		}
	}
	var series []Case // the first case of each
	splits := map[string]map[string]bool{}
	for _, c := range o.d.Cases {
		if splits[c.Stack] == nil {
			splits[c.Stack] = map[string]bool{}
			series = append(series, c)
		}
		splits[c.Stack][c.Split] = true
	}
	added := 0
	for _, c := range series {
		if !splits[c.Stack]["train"] || len(splits[c.Stack]) > 1 || c.SpacingMM[0] <= 0 {
			continue
		}
		free := slices.DeleteFunc(slices.Sorted(maps.Keys(o.d.stacks[c.Stack].files)), func(n int) bool {
			return slices.ContainsFunc(marks[c.Stack], func(m mark) bool {
				return float64(math.Abs(float64(n-m.slice))*c.SpacingMM[0]) < m.reachMM
			})
		})
		most := min(o.lesionFree, len(free))
		for k := range most {
			o.addFreeSlice(c, free[(2*k+1)*len(free)/(2*most)])
		}
		added += most
	}
	o.warn("lesion_free=%d adds %d slices without a marked lesion to the training split; DeepLesion does not mark every lesion", o.lesionFree, added)
}

// addFreeSlice adds slice n of a case's series, with what is known of its patient.
func (o *opener) addFreeSlice(of Case, n int) {
	free := of
	free.ID, free.KeySlice = fmt.Sprintf("%s_%03d.png", of.Stack, n), n
	free.Images = map[string]string{Volume: o.d.stacks[of.Stack].files[n]}
	free.Boxes, free.RECIST, free.Ignore = nil, nil, nil
	free.Attributes = o.attributes().newRow()
	for name, cell := range of.Attributes.All() {
		if name != "location" && name != "size" { // of a lesion
			free.Attributes.set(name, cell)
		}
	}
	i := o.addCase(free, of.at.file, of.at.line)
	o.expect(expectedImage{caseIndex: i, path: free.Images[Volume], column: "File_name", width: int32(of.Size[1]), height: int32(of.Size[0]), hu: true})
}

// deepLesionCases reads DL_info.csv and attributes.csv into cases, one per key slice.
func (o *opener) deepLesionCases(t *table.Table) error {
	if err := t.Need(deeplesion.Columns...); err != nil {
		return err
	}
	extra, err := o.attributeTable()
	if err != nil {
		return err
	}
	all := slices.Clone(deepLesionPaper)
	byDefault := slices.Clone(deepLesionDefault)
	for _, name := range extra.columns {
		if slices.Contains(all, name) {
			return problem.At(extra.path, 1, name, "the column stands in DL_info.csv already")
		}
		all, byDefault = append(all, name), append(byDefault, name)
	}
	d := o.d
	if o.opt.Task == Classify && o.target == "" {
		return fmt.Errorf("%w: %s: deeplesion has boxes to detect; to classify its lesions, add target=%s to the data spec", ErrData, d.Spec, lesionType)
	}
	if o.target != "" {
		return o.classifyLesions(t, extra)
	}
	d.AttributeColumns, err = o.chooseAttributes(all, byDefault, map[string][]string{"paper": deepLesionPaper})
	if err != nil {
		return err
	}
	if slices.Contains(d.AttributeColumns, "location") || slices.Contains(d.AttributeColumns, "size") {
		o.leak("the attributes location and size are annotations of the very lesion to be found: at test they leak")
	}
	o.setClasses([]string{"lesion"})
	d.Modalities, d.huOnly = []string{Volume}, true

	byFile := map[string]int{}
	diameters := map[string]float64{}
	lines := map[string][]int{}
	listed := map[string]bool{}
	for r, l := range o.lesions(t, extra) {
		listed[l.File] = true
		if o.tooNoisy(l) {
			continue
		}
		i, known := byFile[l.File]
		if !known {
			i = o.addCase(l.newCase(o.path, o.attributes().newRow()), t.Path, r.Line)
			byFile[l.File] = i
		}
		c := &d.Cases[i]
		if c.Split != l.Split || c.Size != l.size || c.SpacingMM != l.SpacingMM {
			o.problems.Add(t.Path, r.Line, "File_name", "%s has another split, size or spacing in %s", l.File, c.at)
			continue
		}
		if twin := slices.IndexFunc(c.RECIST, func(m [8]float64) bool { return m == l.recist }); twin >= 0 {
			o.problems.Add(t.Path, r.Line, "", "the same lesion as in line %d", lines[l.File][twin])
			continue
		}
		o.pending = append(o.pending, pendingBox{i, len(c.Boxes), place{t.Path, r.Line}, "Bounding_boxes", deeplesion.Padding + 0.5, false})
		target := l.target()
		c.Boxes = append(c.Boxes, target)
		c.RECIST = append(c.RECIST, l.recist)
		lines[l.File] = append(lines[l.File], r.Line)

		// An image has one report: its largest lesion gives location and size.
		values := map[string]string{"age": l.age, "gender": l.gender}
		if l.LongPixels > diameters[l.File] {
			diameters[l.File] = l.LongPixels
			values["location"], values["size"] = l.Type, target.Strata["diameter_mm"]
		}
		// Age and gender are checked whether they are used or not.
		for _, name := range slices.Sorted(maps.Keys(values)) {
			text, err := o.lesionAttribute(name, values[name])
			if err != nil {
				o.problems.Add(t.Path, r.Line, map[string]string{"age": "Patient_age", "gender": "Patient_gender"}[name], "%v", err)
			} else if slices.Contains(d.AttributeColumns, name) {
				c.Attributes.set(name, schema.Written(text, fmt.Sprintf("%s:%d", t.Path, r.Line)))
			}
		}
	}
	o.joinAttributes(extra, byFile, listed)
	return nil
}

// lesions yields the rows of DL_info.csv that can be read, in the split that holds for them;
// the others are problems.
func (o *opener) lesions(t *table.Table, extra *attributeColumns) iter.Seq2[table.Row, *lesion] {
	return func(yield func(table.Row, *lesion) bool) {
		for _, r := range t.Rows {
			l, err := parseLesion(t, r)
			if err != nil {
				o.problems.AddError(t.Path, r.Line, "", err)
				continue
			}
			if extra.splits != nil {
				l.Split = extra.splits[l.File]
			}
			if !yield(r, l) {
				return
			}
		}
	}
}

// tooNoisy reports whether a lesion is left out because its annotation is known to be noisy.
func (o *opener) tooNoisy(l *lesion) bool {
	return l.Noisy && (o.opt.Noisy == NoisyDrop || o.opt.Noisy == NoisyDropTest && l.Split == "test")
}

// lesionAttribute reads what DL_info.csv says of a patient or lesion; ages are numbers there.
func (o *opener) lesionAttribute(name, text string) (string, error) {
	text, err := o.attribute(text)
	if err == nil && name == "age" && text != "" {
		err = checkAge(text)
	}
	return text, err
}

func checkAge(text string) error {
	age, err := table.Number(text)
	if err == nil && (age < 0 || age > 130) {
		err = fmt.Errorf("%s is no age in years", text)
	}
	return err
}

// attributeTable reads the optional attributes.csv: File_name and any columns.
func (o *opener) attributeTable() (*attributeColumns, error) {
	path := filepath.Join(o.path, "attributes.csv")
	if there, _ := exists(path); !there {
		return &attributeColumns{}, nil
	}
	t, err := o.table(path)
	if err != nil {
		return nil, err
	}
	if err := t.Need("File_name"); err != nil {
		return nil, err
	}
	out := &attributeColumns{path: path, table: t}
	if o.split != "" {
		if err := o.ownSplits(t); err != nil {
			return nil, err
		}
		out.splits = make(map[string]string, len(t.Rows))
		for _, r := range t.Rows {
			out.splits[t.Get(r, "File_name")] = t.Get(r, "split")
		}
	}
	out.columns = slices.DeleteFunc(slices.Clone(t.Columns), func(c string) bool {
		return c == "File_name" || c == "split" && o.ownSplit || strings.HasSuffix(c, ".evidence")
	})
	return out, nil
}

type attributeColumns struct {
	path    string
	table   *table.Table
	columns []string
	// splits of images take the place of the published ones; nil: those hold.
	splits map[string]string
}

// joinAttributes adds the report's columns to the cases of their images; listed are
// all images of DL_info.csv.
func (o *opener) joinAttributes(extra *attributeColumns, byFile map[string]int, listed map[string]bool) {
	if extra.table == nil {
		return
	}
	seen := map[string]int{}
	cells := o.attributeReader(extra.table, extra.columns)
	for _, r := range extra.table.Rows {
		file := extra.table.Get(r, "File_name")
		if first, twice := seen[file]; twice {
			o.problems.Add(extra.path, r.Line, "File_name", "%q stands twice, first in line %d", problem.Clip(file, 60), first)
			continue
		}
		seen[file] = r.Line
		if !listed[file] {
			o.problems.Add(extra.path, r.Line, "File_name", "%q is not in DL_info.csv", problem.Clip(file, 60))
			continue
		}
		i, ok := byFile[file]
		if !ok {
			continue // a slice whose lesions are all left out as noisy
		}
		cells.read(r, o.d.Cases[i].Attributes)
	}
}

// lesion is one row of DL_info.csv with what only training reads.
type lesion struct {
	*deeplesion.Lesion
	patient, series string
	keySlice        int
	recist          [8]float64
	size            [2]int
	gender, age     string
}

func parseLesion(t *table.Table, r table.Row) (*lesion, error) {
	fail := func(column, format string, args ...any) (*lesion, error) {
		return nil, problem.At(t.Path, r.Line, column, format, args...)
	}
	common, err := deeplesion.Parse(func(column string) string { return t.Get(r, column) })
	var cell *deeplesion.CellError
	if errors.As(err, &cell) {
		return fail(cell.Column, "%v", cell.Err)
	}
	l := &lesion{Lesion: common, gender: t.Get(r, "Patient_gender"), age: t.Get(r, "Patient_age")}
	m := deepLesionName.FindStringSubmatch(l.File)
	if m == nil {
		return fail("File_name", "%q is not PPPPPP_SS_EE_NNN.png", problem.Clip(l.File, 60))
	}
	l.series, l.patient = m[1], m[1][:6]
	l.keySlice, _ = strconv.Atoi(m[2])
	if key := t.Get(r, "Key_slice_index"); key != strconv.Itoa(l.keySlice) {
		return fail("Key_slice_index", "is %q, the file name says %d", problem.Clip(key, 20), l.keySlice)
	}
	recist, err := table.Numbers(t.Get(r, "Measurement_coordinates"), 8)
	if err != nil {
		return fail("Measurement_coordinates", "%v", err)
	}
	for i, v := range recist {
		l.recist[i] = v - 1 // the table counts pixels from 1
	}
	size, err := table.Numbers(t.Get(r, "Image_size"), 2)
	if err != nil || size[0] < 1 || size[1] < 1 || size[0] > maxImageSide || size[1] > maxImageSide ||
		size[0] != float64(int(size[0])) || size[1] != float64(int(size[1])) {
		return fail("Image_size", "%q is not \"width, height\" in pixels", problem.Clip(t.Get(r, "Image_size"), 40))
	}
	l.size = [2]int{int(size[1]), int(size[0])}
	if word, ok := map[string]string{"M": "male", "F": "female"}[l.gender]; ok {
		l.gender = word
	}
	return l, nil
}

// target is the lesion's box with what a stratified evaluation may want.
func (l *lesion) target() Box {
	b := Box{Box: l.Box, Strata: map[string]string{}}
	if l.Type != "" {
		b.Strata["lesion_type"] = l.Type
	}
	if mm := l.DiameterMM(); mm > 0 {
		b.Strata["diameter_mm"] = strconv.FormatFloat(mm, 'f', 2, 64)
	}
	return b
}

func (l *lesion) newCase(dir string, attributes Attributes) Case {
	c := Case{ID: l.File, Patient: l.patient, Split: l.Split, HasTargets: true, KeySlice: l.keySlice,
		Images: map[string]string{Volume: filepath.Join(dir, "Images_png", l.series, fmt.Sprintf("%03d.png", l.keySlice))},
		Stack:  l.series, SpacingMM: l.SpacingMM, Size: l.size, Attributes: attributes}
	if l.SpacingMM[0] > 0 {
		c.Strata = map[string]string{"slice_spacing_mm": formatNumber(l.SpacingMM[0])}
	}
	return c
}

// deepLesionImages lists the series' folders and expects every key slice.
func (o *opener) deepLesionImages() error {
	root := filepath.Join(o.path, "Images_png")
	if _, folder := exists(root); !folder {
		return problem.At(root, 0, "", "no such folder; DeepLesion's slices lie in Images_png/PPPPPP_SS_EE/NNN.png")
	}
	unknownSpacing := 0
	for i := range o.d.Cases {
		c := &o.d.Cases[i]
		o.expect(expectedImage{caseIndex: i, path: c.Images[Volume], column: "File_name",
			width: int32(c.Size[1]), height: int32(c.Size[0]), hu: true})
		if c.SpacingMM[0] == 0 {
			unknownSpacing++
		}
		if o.d.stacks[c.Stack] != nil {
			continue
		}
		s := &stack{files: map[int]string{}}
		o.d.stacks[c.Stack] = s
		dir := filepath.Join(root, c.Stack)
		if _, folder := exists(dir); !folder {
			continue // the expected key slice reports it
		}
		names, err := sortedNames(dir)
		if err != nil {
			return err
		}
		for _, name := range names {
			base, isPNG := strings.CutSuffix(name, ".png")
			if n, err := strconv.Atoi(base); isPNG && err == nil {
				s.files[n] = filepath.Join(dir, name)
			}
		}
	}
	if unknownSpacing > 0 {
		o.warn("%d key slices have no slice spacing (Spacing_mm_px_ is absent, NaN or not positive): the key slice stands in for its neighbours", unknownSpacing)
	}
	return nil
}
