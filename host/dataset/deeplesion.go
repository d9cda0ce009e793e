package dataset

import (
	"cmp"
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

// deepFolder is a folder that looks like DeepLesion's.
type deepFolder struct {
	dir string
	// prefix begins the names of images, patients and series of a folder of the spec option also:
	// numbers begin anew in each.
	prefix string
	info   *table.Table
	extra  *attributesFile
}

func openDeepLesion(o *opener) error {
	folders, err := o.deepFolders()
	if err != nil {
		return err
	}
	if err := o.deepLesionCases(folders); err != nil {
		return err
	}
	if err := o.deepLesionImages(folders); err != nil || o.lesionFree == 0 {
		return err
	}
	if o.target != "" {
		return fmt.Errorf("%w: %s: lesion_free is for detection: what has a type is a lesion", ErrData, o.d.Spec)
	}
	o.addLesionFree(folders)
	return nil
}

// deepFolders reads the tables of the folder and of those that the spec option also names.
func (o *opener) deepFolders() ([]*deepFolder, error) {
	folders := []*deepFolder{{dir: o.path}}
	for _, dir := range o.also {
		prefix := filepath.Base(filepath.Clean(dir)) + "/"
		if slices.ContainsFunc(folders, func(f *deepFolder) bool { return f.prefix == prefix }) {
			return nil, problem.At(dir, 0, "", "has the name of another folder of also=: cases and patients are told apart by it; rename one")
		}
		dir = filepath.Clean(dir)
		folders = append(folders, &deepFolder{dir: dir, prefix: prefix})
		o.prefixes[dir+string(filepath.Separator)] = prefix
	}
	o.also = nil
	given := o.split
	for _, f := range folders {
		var err error
		if f.info, err = o.table(filepath.Join(f.dir, "DL_info.csv")); err != nil {
			return nil, err
		}
		if err := f.info.Need(deeplesion.Columns...); err != nil {
			return nil, err
		}
		if f.extra, err = o.readAttributes(f.dir, "File_name", "Bounding_boxes"); err != nil {
			return nil, err
		}
		switch {
		case given == "":
			continue
		case f.extra == nil && len(folders) > 1:
			return nil, problem.At(f.dir, 0, "", "has no attributes.csv with the column %s, which the spec option split takes the splits from", given)
		case f.extra == nil:
			continue
		}
		o.split = given // of each folder
		if err := o.ownSplits(f.extra.Table); err != nil {
			return nil, err
		}
		f.extra.splits = make(map[string]string, len(f.extra.Rows))
		for _, r := range f.extra.Rows {
			file, split := f.extra.Get(r, "File_name"), f.extra.Get(r, "split")
			if other := f.extra.splits[file]; other != "" && split != "" && split != other {
				o.problems.Add(f.extra.Path, r.Line, given, "%q, another row of the image says %q", problem.Clip(split, 20), problem.Clip(other, 20))
			}
			f.extra.splits[file] = cmp.Or(split, f.extra.splits[file])
		}
		f.extra.nameColumns()
	}
	return folders, nil
}

const (
	// maxLesionFree bounds the spec option lesion_free.
	maxLesionFree = 1000
	// lesionFreeMM is how far beyond a lesion's radius a slice has to lie from its key slice.
	lesionFreeMM = 10
)

// addLesionFree adds slices without a marked lesion to the training split, spread over those of
// each of its series that lie clear of every lesion of DL_info.csv, noisy ones included.
func (o *opener) addLesionFree(folders []*deepFolder) {
	type mark struct {
		slice   int
		reachMM float64
	}
	marks := map[string][]mark{}
	ofLesions := []string{"location", "size"} // attributes that a slice without one has not
	for _, f := range folders {
		for _, r := range f.info.Rows {
			if l, err := f.parse(r); err == nil {
				marks[l.series] = append(marks[l.series], mark{l.keySlice, l.DiameterMM()/2 + lesionFreeMM})
			}
		}
		if f.extra != nil && f.extra.lesion != "" {
			ofLesions = append(ofLesions, f.extra.columns...)
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
			o.addFreeSlice(c, free[(2*k+1)*len(free)/(2*most)], ofLesions)
		}
		added += most
	}
	o.warn("lesion_free=%d adds %d slices without a marked lesion to the training split; DeepLesion does not mark every lesion", o.lesionFree, added)
}

// addFreeSlice adds slice n of a case's series, with what is known of its patient.
func (o *opener) addFreeSlice(of Case, n int, ofLesions []string) {
	free := of
	free.ID, free.KeySlice = fmt.Sprintf("%s_%03d.png", of.Stack, n), n
	free.Images = map[string]string{Volume: o.d.stacks[of.Stack].files[n]}
	free.Boxes, free.RECIST, free.Ignore = nil, nil, nil
	free.Attributes = o.attributes().newRow()
	for name, cell := range of.Attributes.All() {
		if !slices.Contains(ofLesions, name) {
			free.Attributes.set(name, cell)
		}
	}
	i := o.addCase(free, of.at.file, of.at.line)
	o.expect(expectedImage{caseIndex: i, path: free.Images[Volume], column: "File_name", width: int32(of.Size[1]), height: int32(of.Size[0]), hu: true})
}

// deepLesionCases reads DL_info.csv and attributes.csv into cases, one per key slice.
func (o *opener) deepLesionCases(folders []*deepFolder) error {
	var columns []string
	for _, f := range folders {
		if f.extra == nil {
			continue
		}
		for _, name := range f.extra.columns {
			if slices.Contains(deepLesionPaper, name) {
				return problem.At(f.extra.Path, 1, name, "the column stands in DL_info.csv already")
			}
			if !slices.Contains(columns, name) {
				columns = append(columns, name)
			}
		}
	}
	all, byDefault := slices.Concat(deepLesionPaper, columns), slices.Concat(deepLesionDefault, columns)
	d := o.d
	if o.opt.Task == Classify && o.target == "" {
		return fmt.Errorf("%w: %s: deeplesion has boxes to detect; to classify its lesions, add target=%s to the data spec", ErrData, d.Spec, lesionType)
	}
	if o.target != "" {
		return o.classifyLesions(folders, columns)
	}
	var err error
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
	named := map[[2]string]*namedLesion{} // by image and box
	for l := range o.lesions(folders) {
		key := [2]string{l.id, l.Box.String()}
		if named[key] == nil {
			named[key], named[[2]string{l.id}] = &namedLesion{}, &namedLesion{}
		}
		if o.tooNoisy(l) {
			continue
		}
		i, known := byFile[l.id]
		if !known {
			i = o.addCase(l.newCase(o.attributes().newRow()), l.info.Path, l.line)
			byFile[l.id] = i
		}
		c := &d.Cases[i]
		if c.Split != l.Split || c.Size != l.size || c.SpacingMM != l.SpacingMM {
			o.problems.Add(l.info.Path, l.line, "File_name", "%s has another split, size or spacing in %s", l.File, c.at)
			continue
		}
		if twin := slices.IndexFunc(c.RECIST, func(m [8]float64) bool { return m == l.recist }); twin >= 0 {
			o.problems.Add(l.info.Path, l.line, "", "the same lesion as in line %d", lines[l.id][twin])
			continue
		}
		o.pending = append(o.pending, pendingBox{i, len(c.Boxes), place{l.info.Path, l.line}, "Bounding_boxes", deeplesion.Padding + 0.5, false})
		target := l.target()
		named[key].size, named[key].strata = l.LongPixels, append(named[key].strata, target.Strata)
		c.Boxes = append(c.Boxes, target)
		c.RECIST = append(c.RECIST, l.recist)
		lines[l.id] = append(lines[l.id], l.line)

		// An image has one report: its largest lesion gives location and size.
		values := map[string]string{"age": l.age, "gender": l.gender}
		if l.LongPixels > diameters[l.id] {
			diameters[l.id] = l.LongPixels
			values["location"], values["size"] = l.Type, target.Strata["diameter_mm"]
		}
		// Age and gender are checked whether they are used or not.
		for _, name := range slices.Sorted(maps.Keys(values)) {
			text, err := o.lesionAttribute(name, values[name])
			if err != nil {
				o.problems.Add(l.info.Path, l.line, map[string]string{"age": "Patient_age", "gender": "Patient_gender"}[name], "%v", err)
			} else if slices.Contains(d.AttributeColumns, name) {
				c.Attributes.set(name, schema.Written(text, l.place()))
			}
		}
	}
	for _, f := range folders {
		o.joinAttributes(f, byFile, named)
	}
	return nil
}

// lesions yields the lesions of rows of DL_info.csv that can be read, in the split that holds for
// them; the others are problems.
func (o *opener) lesions(folders []*deepFolder) iter.Seq[*lesion] {
	return func(yield func(*lesion) bool) {
		for _, f := range folders {
			for _, r := range f.info.Rows {
				l, err := f.parse(r)
				if err != nil {
					o.problems.AddError(f.info.Path, r.Line, "", err)
					continue
				}
				if f.extra != nil && f.extra.splits != nil {
					l.Split = f.extra.splits[l.File]
				}
				if !yield(l) {
					return
				}
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

// joinAttributes gives cases what attributes.csv says of their images and of the lesions there;
// named are all images of DL_info.csv, by "" for the box, and their lesions.
func (o *opener) joinAttributes(f *deepFolder, byFile map[string]int, named map[[2]string]*namedLesion) {
	if f.extra == nil {
		return
	}
	for _, r := range f.extra.Rows {
		if file := f.extra.Get(r, "File_name"); named[[2]string{f.prefix + file}] == nil {
			o.problems.Add(f.extra.Path, r.Line, "File_name", "%q is not in DL_info.csv", problem.Clip(file, 60))
		}
	}
	cells := o.attributeReader(f.extra.Table, f.extra.columns)
	rows := f.extra.rows(o, func(file, text string) *namedLesion {
		b, err := deeplesion.ParseBox(text)
		if err != nil {
			return nil
		}
		return named[[2]string{f.prefix + file, b.String()}]
	})
	for _, file := range slices.Sorted(maps.Keys(rows)) {
		if i, ok := byFile[f.prefix+file]; ok { // else a slice whose lesions are all left out as noisy
			cells.readOver(rows[file], o.d.Cases[i].Attributes)
		}
	}
}

// lesion is one row of DL_info.csv with what only training reads.
type lesion struct {
	*deeplesion.Lesion
	*deepFolder
	line                int
	id, patient, series string // with the folder's prefix
	keySlice            int
	recist              [8]float64
	size                [2]int
	gender, age         string
}

// place is where the lesion was read.
func (l *lesion) place() string { return fmt.Sprintf("%s:%d", l.info.Path, l.line) }

func (f *deepFolder) parse(r table.Row) (*lesion, error) {
	t := f.info
	fail := func(column, format string, args ...any) (*lesion, error) {
		return nil, problem.At(t.Path, r.Line, column, format, args...)
	}
	common, err := deeplesion.Parse(func(column string) string { return t.Get(r, column) })
	var cell *deeplesion.CellError
	if errors.As(err, &cell) {
		return fail(cell.Column, "%v", cell.Err)
	}
	l := &lesion{Lesion: common, deepFolder: f, line: r.Line, gender: t.Get(r, "Patient_gender"), age: t.Get(r, "Patient_age")}
	m := deepLesionName.FindStringSubmatch(l.File)
	if m == nil {
		return fail("File_name", "%q is not PPPPPP_SS_EE_NNN.png", problem.Clip(l.File, 60))
	}
	l.id, l.series, l.patient = f.prefix+l.File, f.prefix+m[1], f.prefix+m[1][:6]
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

func (l *lesion) newCase(attributes Attributes) Case {
	c := Case{ID: l.id, Patient: l.patient, Split: l.Split, HasTargets: true, KeySlice: l.keySlice,
		Images: map[string]string{Volume: filepath.Join(l.dir, "Images_png", strings.TrimPrefix(l.series, l.prefix), fmt.Sprintf("%03d.png", l.keySlice))},
		Stack:  l.series, SpacingMM: l.SpacingMM, Size: l.size, Attributes: attributes}
	if l.SpacingMM[0] > 0 {
		c.Strata = map[string]string{"slice_spacing_mm": formatNumber(l.SpacingMM[0])}
	}
	return c
}

// deepLesionImages lists the series' folders and expects every key slice.
func (o *opener) deepLesionImages(folders []*deepFolder) error {
	for _, f := range folders {
		root := filepath.Join(f.dir, "Images_png")
		if _, folder := exists(root); !folder {
			return problem.At(root, 0, "", "no such folder; DeepLesion's slices lie in Images_png/PPPPPP_SS_EE/NNN.png")
		}
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
		dir := filepath.Dir(c.Images[Volume])
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
