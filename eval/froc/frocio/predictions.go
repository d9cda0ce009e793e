package frocio

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"fmt"
	"hash/maphash"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/alignedfusion/alignedfusion/eval/froc"
	"github.com/alignedfusion/alignedfusion/eval/resample"
	"github.com/alignedfusion/alignedfusion/internal/nifti"
	"github.com/alignedfusion/alignedfusion/internal/stat"
)

// Predictions are the marks of one system that were read.
type Predictions struct {
	Marks    []froc.Prediction
	Rows     []int32  // where each mark stands: the line of a table, the 0-based place in a JSON array or .npz
	LeftOut  int      // marks on images that the split or the noise filter left out
	Notes    []string // what was noticed while reading, for people
	Warnings []string // what makes the figures doubtful

	resampled bool // a map's grid was not that of its lesions
	labels    int  // maps of whole numbers, taken as scores
	files     int  // maps of whole numbers, taken as labels
	outside   int  // marks that lie outside of their lesions' grid
	arrays    bool // the axes of marks are those of an array, see arrayBox
	byFile    int  // marks whose image is called by its file instead of its id
	byTable   int  // tables without a column of images that are called like one

	readings map[ReadingKey]*Predictions // of [Truth.ReadReadings]: where the marks go instead
}

// ReadingKey names what one reader marked with one modality.
type ReadingKey struct{ Reader, Modality string }

// Compare orders readings by modality, then by reader.
func (k ReadingKey) Compare(o ReadingKey) int {
	return cmp.Or(cmp.Compare(k.Modality, o.Modality), cmp.Compare(k.Reader, o.Reader))
}

// Readings are the marks of several readers with several modalities.
type Readings struct {
	Of       map[ReadingKey]*Predictions
	Notes    []string
	Warnings []string
}

// Keys are the readings by modality, then by reader.
func (r *Readings) Keys() []ReadingKey {
	return slices.SortedFunc(maps.Keys(r.Of), ReadingKey.Compare)
}

// of are the predictions of a reading: those themselves, unless several are read.
func (p *Predictions) of(key ReadingKey) *Predictions {
	if p.readings == nil {
		return p
	}
	q := p.readings[key]
	if q == nil {
		q = &Predictions{}
		p.readings[key] = q
	}
	return q
}

func (p *Predictions) note(format string, args ...any) {
	p.Notes = append(p.Notes, fmt.Sprintf(format, args...))
}

func (p *Predictions) warn(format string, args ...any) {
	p.Warnings = append(p.Warnings, fmt.Sprintf(format, args...))
}

// ReadPredictions reads the marks of one system: a table, JSON, an .npz or a folder with a
// file an image; several of them where the system wrote several, for each fold of a cross
// validation for instance. A mark on an image which is not in the truth is an error, unless
// a filter left that image out.
func (t *Truth) ReadPredictions(path string, more ...string) (*Predictions, error) {
	return t.ReadPredictionsContext(context.Background(), path, more...)
}

// ReadPredictionsContext is ReadPredictions, ended by ctx as [ReadTruthContext] is.
func (t *Truth) ReadPredictionsContext(ctx context.Context, path string, more ...string) (*Predictions, error) {
	all, err := t.ReadSystems(ctx, append([]string{path}, more...))
	if err != nil {
		return nil, err
	}
	return all[0], nil
}

// ReadSystems reads the marks of several systems, each from its files. An option that no
// system's files have a use for is an error; one system is enough.
func (t *Truth) ReadSystems(ctx context.Context, systems ...[]string) ([]*Predictions, error) {
	t.ctx = ctx
	out := make([]*Predictions, len(systems))
	for i, files := range systems {
		out[i] = &Predictions{}
		if err := t.readAll(out[i], files); err != nil {
			return nil, err
		}
		if err := t.remark(files[0], out[i]); err != nil {
			return nil, err
		}
	}
	t.boxMasks(systems[0][0], out)
	return out, t.checkUses(systems[0][0], out...)
}

// ReadReadings reads the marks of several readers with several modalities from tables with
// a column reader and, for more than one modality, a column modality: JAFROC's TP and FP
// sheets, or any table of marks.
func (t *Truth) ReadReadings(path string, more ...string) (*Readings, error) {
	return t.ReadReadingsContext(context.Background(), path, more...)
}

// ReadReadingsContext is ReadReadings, ended by ctx as [ReadTruthContext] is.
func (t *Truth) ReadReadingsContext(ctx context.Context, path string, more ...string) (*Readings, error) {
	t.ctx = ctx
	p := &Predictions{readings: map[ReadingKey]*Predictions{}}
	if err := t.readAll(p, append([]string{path}, more...)); err != nil {
		return nil, err
	}
	if len(p.Marks) > 0 {
		return nil, fmt.Errorf("%s: marks without a reader: want tables with a column reader", path)
	}
	r := &Readings{Of: p.readings, Notes: p.Notes, Warnings: p.Warnings}
	for _, key := range r.Keys() {
		one := r.Of[key]
		if err := t.remark(fmt.Sprintf("%s (reader %s, modality %s)", path, key.Reader, key.Modality), one); err != nil {
			return nil, err
		}
		r.Notes, r.Warnings = append(r.Notes, one.Notes...), append(r.Warnings, one.Warnings...)
	}
	return r, t.checkUses(path, slices.Collect(maps.Values(r.Of))...)
}

// readAll reads files that belong together.
func (t *Truth) readAll(p *Predictions, paths []string) error {
	problems := &problems{lenient: t.options.Lenient}
	ends := make([]int, len(paths))
	for k, file := range paths {
		if err := t.readPredictions(file, p, problems); err != nil {
			return err
		}
		ends[k] = len(p.Marks)
	}
	if err := problems.err(); err != nil {
		return err
	}
	if !t.named { // JAFROC has a table of hits and one of other marks
		t.warnShared(paths, ends, p)
	}
	p.Notes = append(p.Notes, problems.notes(paths[0])...)
	return nil
}

// warnShared warns of images that have marks of one class in several files of a system, which
// end at the given marks: folds share no image.
func (t *Truth) warnShared(paths []string, ends []int, p *Predictions) {
	if len(paths) < 2 {
		return
	}
	type key struct {
		image int
		class int32
	}
	first, shared := map[key]int{}, map[int]bool{}
	file, said := 0, ""
	for i := range p.Marks {
		for i >= ends[file] {
			file++
		}
		m := &p.Marks[i]
		of, known := first[key{m.Image, m.Class}]
		if !known {
			first[key{m.Image, m.Class}] = file
		} else if of != file && !shared[m.Image] {
			if shared[m.Image] = true; said == "" {
				said = fmt.Sprintf("the first: %q in %s and %s", clip(t.Images[m.Image].ID), paths[of], paths[file])
			}
		}
	}
	if len(shared) > 0 {
		p.warn("%d images have marks in several files of one system (%s), and all of them count; give each system a NAME of its own to compare them", len(shared), said)
	}
}

// remark moves the marks of one system to where they belong and says what was noticed in them.
func (t *Truth) remark(path string, p *Predictions) error {
	if err := t.toVoxels(path, p); err != nil {
		return err
	}
	t.noteClasses(path, p)
	p.warnMarks(path, t)
	if p.LeftOut > 0 {
		p.note("%s: %d marks on images left out", path, p.LeftOut)
	}
	if p.labels > 0 {
		p.warn("%s: the values of %d maps are whole numbers and are taken as scores; if they are labels, give the scores in a table image,mask,label_id,score", path, p.labels)
	}
	if p.files > 0 {
		p.warn("%s: %d files are maps of labels, which have no scores: every component of a label is a mark of score 1", path, p.files)
	}
	if t.uses.outlines {
		p.note("%s: segmentations are compared as the boxes around them; --iou-type segm compares their pixels", path)
		t.uses.outlines = false
	}
	t.notePolygons(path, p.note)
	t.warnYOLO(path, p.warn)
	if p.byTable > 0 {
		p.note("%s: %d tables have no column of images: their rows are of the image that the file is called", path, p.byTable)
	}
	if p.byFile > 0 {
		p.note("%s: %d marks name their image by its file_name instead of its id", path, p.byFile)
	}
	if p.outside > 0 {
		p.warn("%s: %d marks lie outside of the lesions' grid in space and are not counted", path, p.outside)
	}
	return nil
}

func (t *Truth) readPredictions(path string, p *Predictions, problems *problems) error {
	if isFolder(path) {
		return t.readPredictionFolder(path, p, problems)
	}
	if extension(path) == ".npz" {
		return t.readNPZPredictions(path, "", p, problems)
	}
	if nifti.IsVolume(path) {
		return t.readPredictionFile(path, p, problems)
	}
	in, err := open(t.ctx, path)
	if err != nil {
		return err
	}
	defer in.Close()
	if start, _ := in.Peek(1 << 10); len(bytes.TrimSpace(start)) == 0 && len(start) < 1<<10 && extension(path) != ".json" {
		p.warn("%s: is empty: no marks", path)
		return nil
	}
	switch in.format() {
	case arrayFormat:
		return t.decodeCOCOResults(path, in.Reader, p, problems)
	case objectFormat:
		return t.decodeObject(in, p, problems)
	case yoloFormat, markFormat:
		return t.readHeaderless(in, t.fileID(path), p, problems)
	}
	return t.readPredictionTable(in, p, problems)
}

func (p *Predictions) add(m froc.Prediction, row int) {
	p.Marks, p.Rows = append(p.Marks, m), append(p.Rows, int32(row))
}

// imageOf finds a prediction's image; ok is false when the mark is to be passed over.
func (t *Truth) imageOf(id string, p *Predictions, problems *problems, where func() string) (int, bool) {
	if i, known := t.index[id]; known {
		return i, true
	}
	if t.left[id] {
		p.LeftOut++
		return 0, false
	}
	if i, known := t.aliases[id]; known && i >= 0 {
		p.byFile++
		return i, true
	}
	hint := "the list of images"
	if !t.listed {
		hint = "the ground truth; list every searched image with --images if it is lesion-free"
	}
	problems.row(where(), "unknown image id", "image %q is not in %s%s", clip(id), hint, t.hint(id))
	return 0, false
}

func (t *Truth) readPredictionTable(in *input, p *Predictions, problems *problems) error {
	tab, err := tableOf(in, false)
	if err != nil {
		return err
	}
	path := tab.file
	t.nameByFile(tab, p)
	l, err := t.layout(tab)
	if err != nil {
		return err
	}
	var lastID string
	lastIndex := -1
	lastClass, lastClassIndex := "", int32(froc.AnyClass)
	if l.geometry == noGeometry {
		l.besideMasks(tab)
	}
	if l.geometry == maskFile && l.voxel < 0 && l.score >= 0 {
		l.labelIsVoxel(tab)
	}
	if l.geometry == noGeometry {
		return fmt.Errorf("%s:1: no coordinates; want x1,y1,x2,y2[,z1,z2], x,y,width,height, cx,cy,w,h or x,y[,z]; the header is %q; "+
			"--columns x1=NAME,… says which columns they are", path, header(tab))
	}
	if l.score < 0 && l.geometry != maskFile && l.geometry != listOfMarks {
		return fmt.Errorf("%s:1: no column %q; the header is %q; --columns score=NAME says which it is", path, "score", header(tab))
	}
	if len(t.Classes) == 0 {
		l.class = -1
	}
	var aside []string
	columns := readingColumns(tab.header)
	for _, c := range l.rest {
		if c != l.class && (p.readings == nil || c != columns.reader && c != columns.modality) {
			aside = append(aside, tab.header[c])
		}
	}
	if len(aside) > 0 {
		p.note("%s: columns not used: %s", path, clip(strings.Join(aside, ", ")))
	}
	all := p
	if all.readings != nil && columns.reader < 0 {
		return fmt.Errorf("%s:1: no column reader; the header is %q", path, header(tab))
	}
	var first *ReadingKey
	one := func(row []string) error {
		key := columns.key(row)
		if first == nil {
			first = &key
		}
		if all.readings == nil && key != *first {
			return fmt.Errorf("%s: reader %q, modality %q, and reader %q, modality %q before: a system is one reader with one modality; "+
				"compare them with `alignedfusion froc mrmc`, or give each as a file", tab.where(), clip(key.Reader), clip(key.Modality), clip(first.Reader), clip(first.Modality))
		}
		p := all.of(key)
		i, ok := lastIndex, true
		if lastIndex < 0 || row[l.image] != lastID {
			if i, ok = t.imageOf(row[l.image], p, problems, tab.where); !ok {
				return nil
			}
			// marks of one image mostly stand together: this saves most look-ups
			lastID, lastIndex = t.Images[i].ID, i
		}
		class := int32(froc.AnyClass)
		if l.class >= 0 {
			if row[l.class] != lastClass {
				lastClass = strings.Clone(row[l.class])
				lastClassIndex = t.markClass(lastClass)
			}
			class = lastClassIndex
		}
		if !t.keeps(class) {
			return nil
		}
		switch l.geometry {
		case maskFile:
			return t.addMapRow(i, class, &l, row, tab, p, problems)
		case listOfMarks:
			t.addList(i, &l, row, tab, p, problems)
			return nil
		}
		if missing(row[l.score]) && len(l.coords) > 0 && l.empty(row) {
			return nil // an image without a detection
		}
		score, err := l.number(row[l.score])
		if err != nil {
			problems.row(tab.where(), "bad score", "score %v", err)
			return nil
		}
		region, err := l.place(row, tab.line())
		if err != nil {
			problems.row(tab.where(), "bad coordinates", "%v", err)
			return nil
		}
		p.add(froc.Prediction{Image: i, Region: region, Score: score, Class: class}, tab.line())
		const sample = 1000 // rows from which the others are guessed
		if len(p.Marks) == sample {
			more := tab.rowsLeft(sample)
			more += more / 20
			p.Marks, p.Rows = slices.Grow(p.Marks, more), slices.Grow(p.Rows, more)
		}
		return nil
	}
	rest := func() error { return rows(tab, problems, one) }
	if tab.csv == nil || blockBytes == 0 || columns.reader >= 0 || l.geometry == maskFile || l.geometry == listOfMarks {
		return rest()
	}
	return t.readBlocks(tab, &l, p, rest)
}

// nameByFile gives a table without a column of images that is called like an image, as those of
// CAMELYON16 are, such a column.
func (t *Truth) nameByFile(tab *rowFile, p *Predictions) {
	isImage := func(name string) bool { return slices.Contains(roleNames["image"], plain(name)) }
	if tab.file == Stdin || t.options.Columns["image"] != "" || slices.ContainsFunc(tab.header, isImage) {
		return
	}
	id := t.fileID(filepath.Base(tab.file))
	if _, known := t.index[id]; !known && !t.left[id] {
		return
	}
	header, next := slices.Clone(tab.header), tab.next
	tab.header, tab.csv = append(header, "image"), nil // which has no such cells
	tab.next = func() ([]string, error) {
		row, err := next()
		if len(row) != len(header) {
			return row, err
		}
		return append(slices.Clip(row), id), err
	}
	p.byTable++
}

// readings are the columns that name who marked, and with what; -1 where there is none.
type readings struct{ reader, modality int }

func readingColumns(header []string) readings {
	return readings{
		slices.IndexFunc(header, func(name string) bool { return slices.Contains(roleNames["reader"], plain(name)) }),
		slices.IndexFunc(header, func(name string) bool {
			return slices.Contains([]string{"modality", "modalityid", "treatment"}, plain(name))
		}),
	}
}

func (r readings) key(row []string) (key ReadingKey) {
	if r.reader >= 0 {
		key.Reader = strings.Clone(row[r.reader])
		if r.modality >= 0 {
			key.Modality = strings.Clone(row[r.modality])
		}
	}
	return key
}

// labelIsVoxel takes a column label beside masks and scores for the value of a mark's voxels.
func (l *layout) labelIsVoxel(tab *rowFile) {
	i := slices.IndexFunc(tab.header, func(name string) bool { return plain(name) == "label" })
	if i >= 0 {
		l.voxel = i
		l.rest = slices.DeleteFunc(l.rest, func(k int) bool { return k == i })
		if l.class == i {
			l.class = -1
		}
	}
}

// addMapRow adds the marks of the map that a row names.
func (t *Truth) addMapRow(image int, class int32, l *layout, row []string, tab *rowFile, p *Predictions, problems *problems) error {
	m := mapMark{image: image, class: class}
	var err error
	if m.label, err = l.label(row); err != nil {
		problems.row(tab.where(), "bad label", "%v", err)
		return nil
	}
	if m.label != nil && *m.label == 0 {
		return nil // RibFrac lists the background
	}
	if l.score >= 0 {
		score, err := l.number(row[l.score])
		if err != nil {
			problems.row(tab.where(), "bad score", "score %v", err)
			return nil
		}
		m.score = &score
	}
	if m.path, err = l.maskPath(row, tab); err != nil {
		return err
	}
	return t.addMap(m, tab.where(), tab.line(), p, problems)
}

// addList adds the marks of a cell that holds several.
func (t *Truth) addList(image int, l *layout, row []string, tab *rowFile, p *Predictions, problems *problems) {
	marks, err := l.listedMarks(row[l.coords[0]])
	if err != nil {
		problems.row(tab.where(), "bad marks", "%v", err)
		return
	}
	for _, m := range marks {
		class := int32(froc.AnyClass)
		if len(t.Classes) > 0 {
			class = t.markClass(m.class)
		}
		if t.keeps(class) {
			p.add(froc.Prediction{Image: image, Region: m.region, Score: m.score, Class: class}, tab.line())
		}
	}
}

// readPredictionFolder reads a folder with a file an image.
func (t *Truth) readPredictionFolder(folder string, p *Predictions, problems *problems) error {
	files, err := filesOf(folder)
	if err != nil {
		return err
	}
	there := make(map[string]string, len(files))
	for _, path := range files {
		if err := once(there, t.fileID(filepath.Base(path)), path); err != nil {
			return err
		}
		if err := t.readPredictionFile(path, p, problems); err != nil {
			return err
		}
	}
	absent, first := 0, ""
	for i := range t.Images {
		if id := t.Images[i].ID; there[id] == "" {
			if absent++; absent == 1 {
				first = id
			}
		}
	}
	if absent > 0 {
		say := p.warn
		if extension(files[0]) == ".txt" {
			say = p.note // detectors of YOLO's kind write no file where they find nothing
		}
		say("%s: no file for %d of %d images (the first: %q), which count as images without a mark", folder, absent, len(t.Images), clip(first))
	}
	return nil
}

// readPredictionFile reads a file that stands for one image.
func (t *Truth) readPredictionFile(path string, p *Predictions, problems *problems) error {
	id := t.fileID(filepath.Base(path))
	switch {
	case nifti.IsVolume(path):
		i, ok := t.imageOf(id, p, problems, func() string { return path })
		if !ok {
			return nil
		}
		return t.addMap(mapMark{image: i, path: path, class: froc.AnyClass, file: true}, path, 0, p, problems)
	case extension(path) == ".npz":
		return t.readNPZPredictions(path, id, p, problems)
	case extension(path) == ".txt" || extension(path) == ".csv":
		in, err := open(t.ctx, path)
		if err != nil {
			return err
		}
		defer in.Close()
		if in.format() == yoloFormat || in.format() == markFormat {
			return t.readHeaderless(in, id, p, problems)
		}
		if start, _ := in.Peek(1); len(start) == 0 {
			return nil // an image without a detection
		}
		return t.readPredictionTable(in, p, problems)
	}
	return t.readPredictions(path, p, problems)
}

// readHeaderless reads the marks of one image: YOLO's class cx cy w h score, or CAMELYON16's score,x,y.
func (t *Truth) readHeaderless(in *input, id string, p *Predictions, problems *problems) error {
	i, ok := t.imageOf(id, p, problems, func() string { return in.name })
	if !ok {
		return nil
	}
	if in.format() == yoloFormat {
		boxes, err := t.readYOLOFile(in, id, true, problems)
		for _, b := range boxes {
			class := int32(froc.AnyClass)
			if len(t.Classes) > 0 {
				class = t.markClass(b.class)
			}
			if t.keeps(class) {
				p.add(froc.Prediction{Image: i, Region: b.region, Score: b.score, Class: class}, b.line)
			}
		}
		return err
	}
	scanner := bufio.NewScanner(in)
	for line := 1; scanner.Scan(); line++ {
		text := strings.TrimSpace(scanner.Text())
		if text == "" {
			continue
		}
		v := numbersOf(strings.Split(text, ","))
		if len(v) != 3 {
			problems.row(fmt.Sprintf("%s:%d", in.name, line), "bad line", "%q, want score,x,y", clip(text))
			continue
		}
		p.add(froc.Prediction{Image: i, Region: froc.Circle(v[1], v[2], 0), Score: v[0], Class: froc.AnyClass}, line)
	}
	if err := scanner.Err(); err != nil {
		return fmt.Errorf("%s: %w", in.name, err)
	}
	return nil
}

// warnMarks warns of marks that say too little or too much.
func (p *Predictions) warnMarks(path string, t *Truth) {
	if len(p.Marks) < 2 {
		return
	}
	hashes := make([]uint64, len(p.Marks))
	seed := maphash.MakeSeed()
	var differ atomic.Bool
	_ = resample.Ranges(t.ctx, len(p.Marks), func(from, to int) { // a context that ends is noticed later
		for i := from; i < to; i++ {
			m := &p.Marks[i]
			if m.Score != p.Marks[0].Score && !differ.Load() {
				differ.Store(true)
			}
			low, high := m.Region.Bounds()
			hashes[i] = maphash.Comparable(seed, struct {
				low, high [3]float64
				score     float64
				image     int
				class     int32
				mask      *froc.Mask
			}{low, high, m.Score, m.Image, m.Class, m.Region.Mask()})
		}
	})
	if !differ.Load() {
		p.warn("%s: all %d marks have the score %v: the curve has a single step", path, len(p.Marks), p.Marks[0].Score)
	}
	sorted := slices.Clone(hashes)
	stat.SortKeys(sorted, nil)
	twice := map[uint64]bool{}
	repeated := 0
	for i := 1; i < len(sorted); i++ {
		if sorted[i] == sorted[i-1] {
			twice[sorted[i]] = true
			repeated++
		}
	}
	if repeated > 0 {
		k := slices.IndexFunc(hashes, func(h uint64) bool { return twice[h] })
		m := &p.Marks[k]
		p.warn("%s: %d marks repeat another with the same image, place and score, as that of row %d: image %q, %s, score %v; were rows written twice?",
			path, repeated, p.Rows[k], clip(t.Images[m.Image].ID), m.Region.String(), m.Score)
	}
}
