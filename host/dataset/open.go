package dataset

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/alignedfusion/alignedfusion/internal/box"
	"github.com/alignedfusion/alignedfusion/internal/nearest"
	"github.com/alignedfusion/alignedfusion/internal/nifti"
	"github.com/alignedfusion/alignedfusion/internal/problem"
	"github.com/alignedfusion/alignedfusion/internal/table"
	"github.com/alignedfusion/alignedfusion/sdk"
)

// opener collects what a layout reads.
type opener struct {
	d       *Dataset
	opt     Options
	path    string
	spacing [3]float64 // spec option spacing_mm, for slices without a table
	layout  string
	view    string              // spec option view, for volumes to be classified
	level   string              // spec option level, for patches
	windows map[string][]window // spec option window, by modality; "": all
	// marginMM is shown about a region, maskValues are the voxels of a mask that count.
	marginMM   float64
	maskValues []float64
	classes    []string // spec option classes, in their order
	asked      sdk.Asked
	target     string // spec option target of deeplesion
	lesionFree int    // spec option lesion_free of deeplesion
	// also are further folders of deeplesion (spec option also).
	also []string
	// prefixes begin the names of what lies in those folders.
	prefixes map[string]string
	// split is the column of the spec option split, "" once its table is read; ownSplit says
	// that it was given.
	split    string
	ownSplit bool
	// exclude is the table of cases to leave out (spec option exclude), called are the cases by
	// their names in it.
	exclude  string
	called   map[string][]int
	problems Problems
	pending  []pendingBox
	expects  []expectedImage
	infos    map[string]imageInfo
	// read is the hash of the tables read so far.
	read hash.Hash
	// cells are the attributes of the cases.
	cells *cellTable
	// boxColumns are those of the boxes of pictures.
	boxColumns box.Columns
	// listed are the names in a folder by their stems.
	listed map[string]map[string]string
}

type place struct {
	file string
	line int
}

func (p place) String() string {
	if p.line == 0 {
		return p.file
	}
	return fmt.Sprintf("%s:%d", p.file, p.line)
}

// addCase appends a case and returns its index.
func (o *opener) addCase(c Case, file string, line int) int {
	c.at = place{file, line}
	o.d.Cases = append(o.d.Cases, c)
	return len(o.d.Cases) - 1
}

// pendingBox is a box, or a region to ignore, whose place is checked once the image's size
// is known.
type pendingBox struct {
	caseIndex, boxIndex int
	place               place
	column              string
	// slack is how far in pixels the box may leave the image; it is then clipped.
	slack  float64
	ignore bool
}

// expectedImage is an image file whose header Open checks. Of a large table there are many.
type expectedImage struct {
	caseIndex int
	path      string
	// column of the table that the case is from.
	column string
	// width and height that a table declares, 0 where it does not.
	width, height int32
	// hu demands a 16-bit grey PNG.
	hu bool
}

// Open reads and checks a data set: its tables completely, of its images the
// headers (format, depth, size); `data check` decodes pixels as well. Problems with
// the data are returned together as Problems, which wrap ErrData and name file and
// line. A split or layout that does not exist, an option that nobody knows: ErrData too.
func Open(spec string, opt Options) (*Dataset, error) {
	// Of what reading a large table takes little stays: the memory is worth more than the time.
	defer debug.SetGCPercent(debug.SetGCPercent(readingGCPercent))
	o, layout, err := newOpener(spec, opt)
	if err != nil {
		return nil, err
	}
	if err := layout.open(o); err != nil {
		return nil, err
	}
	if o.split != "" {
		return nil, fmt.Errorf("%w: data spec %q: option split=%s has no effect: %s has no table of splits beside its own", ErrData, spec, o.split, layout)
	}
	if o.also != nil {
		return nil, fmt.Errorf("%w: data spec %q: option also=%s has no effect: it is for deeplesion", ErrData, spec, strings.Join(o.also, ","))
	}
	if err := o.leaveOut(); err != nil {
		return nil, err
	}
	return o.finish()
}

// ownSplits takes the column of the spec option split, where it is given, for that of the
// splits.
func (o *opener) ownSplits(t *table.Table) error {
	if o.split == "" {
		return nil
	}
	if err := t.Need(o.split); err != nil {
		return err
	}
	t.Rename(o.split, "split")
	o.split, o.ownSplit = "", true
	return nil
}

// readingGCPercent is how much garbage may come to what is in use while tables are read, in
// per cent.
const readingGCPercent = 15

func newOpener(spec string, opt Options) (*opener, Layout, error) {
	layout, path, options, err := layoutOf(spec)
	if err != nil {
		return nil, layout, err
	}
	o := &opener{opt: opt, layout: layout.Name, infos: map[string]imageInfo{}, prefixes: map[string]string{}, read: sha256.New(), windows: map[string][]window{}, marginMM: 10}
	if options != "" {
		if err := o.setOptions(options[1:]); err != nil {
			return nil, layout, fmt.Errorf("%w: data spec %q: %w", ErrData, spec, err)
		}
	}
	if o.asked, err = sdk.ParseQuestions(opt.Asked); err != nil {
		return nil, layout, fmt.Errorf("head.question: %w", err)
	}
	o.path = filepath.Clean(path)
	o.d = &Dataset{Spec: spec, Dir: o.path, Task: Detect, stacks: map[string]*stack{}, sizes: map[string][2]int{}}
	return o, layout, nil
}

func (o *opener) setOptions(query string) error {
	// A percent sign that escapes nothing is one: window=1%,99%.
	query = strings.NewReplacer("%,", "%25,", "%/", "%25/", "%&", "%25&").Replace(query + "&")
	values, err := url.ParseQuery(query)
	if err != nil {
		return fmt.Errorf("option: %w", err)
	}
	for _, key := range slices.Sorted(maps.Keys(values)) {
		value := values.Get(key)
		if name, one := strings.CutPrefix(key, "window."); one || key == "window" {
			given, err := parseWindows(value)
			if err != nil {
				return fmt.Errorf("%s: %w", key, err)
			}
			if !one {
				name = ""
			}
			o.windows[name] = given
			continue
		}
		switch key {
		case "labels":
			o.opt.Labels = splitList(value)
		case "attributes":
			o.opt.Attributes = splitList(value)
		case "classes":
			if o.classes = splitList(value); len(o.classes) < 2 {
				return fmt.Errorf("classes=%q, want two classes or more in their order, such as classes=low,mid,high", value)
			}
		case "view":
			if o.view = value; !slices.Contains([]string{viewWhole, viewRegion, viewSlices}, value) {
				return fmt.Errorf("view=%q, want whole, region or slices", value)
			}
		case "level":
			if o.level = value; value != levelPatch && value != levelSlide {
				return fmt.Errorf("level=%q, want patch or slide", value)
			}
		case "margin_mm":
			mm, err := table.Number(value)
			if err != nil || mm < 0 {
				return fmt.Errorf("margin_mm=%q, want a distance in mm, 0 or more", value)
			}
			o.marginMM = mm
		case "mask":
			for _, part := range splitList(value) {
				v, err := table.Number(part)
				if err != nil || v == 0 {
					return fmt.Errorf("mask=%q, want the values of the mask's voxels that are meant, such as 1,2", value)
				}
				o.maskValues = append(o.maskValues, v)
			}
		case "lesion_free":
			n, err := strconv.Atoi(value)
			if err != nil || n < 1 || n > maxLesionFree {
				return fmt.Errorf("lesion_free=%q, want 1 to %d slices of each training series", value, maxLesionFree)
			}
			o.lesionFree = n
		case "target":
			if o.target = value; value != lesionType {
				return fmt.Errorf("target=%q, want %s", value, lesionType)
			}
		case "split":
			if o.split = value; value == "" {
				return errors.New("split is empty, want the column that has the splits")
			}
		case "also":
			if o.also = splitList(value); len(o.also) == 0 {
				return errors.New("also is empty, want further folders like DeepLesion's")
			}
		case "exclude":
			if o.exclude = value; value == "" {
				return errors.New("exclude is empty, want a table of the cases to leave out: id[,flag]")
			}
		case "noisy":
			o.opt.Noisy = NoisyRule(value)
			if value == "drop-test" {
				o.opt.Noisy = NoisyDropTest
			} else if o.opt.Noisy != NoisyDrop && o.opt.Noisy != NoisyKeep {
				return fmt.Errorf("noisy=%q, want drop-test, drop or keep", value)
			}
		case "missing":
			o.opt.Missing = splitList(value)
		case "patients":
			if value != "shared" {
				return fmt.Errorf("patients=%q, want shared", value)
			}
			o.opt.SharedPatients = true
		case "nan":
			if value != "missing" {
				return fmt.Errorf("nan=%q, want missing", value)
			}
			o.opt.NaNMissing = true
		case "bits":
			bits, err := strconv.Atoi(value)
			if err != nil || bits < 8 || bits > 16 {
				return fmt.Errorf("bits=%q, want 8 to 16, the bits in use of 16-bit pictures", value)
			}
			o.opt.PictureBits = bits
		case "coordinates":
			if !slices.Contains(nifti.Frames, value) {
				return fmt.Errorf("coordinates=%q, want voxel, lps or ras", value)
			}
			o.opt.Coordinates = value
		case "grey_hu":
			v, err := table.Numbers(value, 2)
			if err == nil && v[0] >= v[1] {
				err = fmt.Errorf("%q falls, want LOW,HIGH", value)
			}
			if err != nil {
				return fmt.Errorf("grey_hu: %w", err)
			}
			o.opt.GreyHU = [2]float64(v)
		case "spacing_mm":
			v, err := table.Numbers(value, 3)
			if err == nil && slices.Min(v) <= 0 {
				err = fmt.Errorf("%q has a distance that is not positive; leave the option out where it is unknown", value)
			}
			if err != nil {
				return fmt.Errorf("spacing_mm (z,y,x): %w", err)
			}
			o.spacing = [3]float64(v)
		default:
			options := []string{"also", "attributes", "bits", "classes", "coordinates", "exclude", "grey_hu", "labels", "lesion_free", "level", "margin_mm", "mask", "missing", "nan", "noisy", "patients", "spacing_mm", "split", "target", "view", "window"}
			return fmt.Errorf("option %q is unknown%s; there are %s", key, nearest.Meant(key, options), strings.Join(options, ", "))
		}
	}
	return nil
}

// splitList splits at commas; the empty text is an empty, non-nil list.
func splitList(text string) []string {
	out := []string{}
	for _, part := range strings.Split(text, ",") {
		if part = strings.TrimSpace(part); part != "" {
			out = append(out, part)
		}
	}
	return out
}

// table reads a table that takes part in the hash. Rows of wrong length are
// recorded as problems; a table that cannot be read at all, or has no rows, is the error.
func (o *opener) table(path string) (*table.Table, error) {
	t, err := o.tableOrNone(path)
	if err == nil && len(t.Rows) == 0 && len(o.problems) == 0 {
		err = problem.At(path, 0, "", "a header without rows")
	}
	return t, err
}

// tableOrNone is table for one that may have no rows.
func (o *opener) tableOrNone(path string) (*table.Table, error) {
	t, err := table.Read(path)
	if t == nil {
		return nil, err
	}
	if err != nil {
		o.problems.AddError(path, 0, "", err)
	}
	o.hashTable(t)
	return t, nil
}

// hashTable makes a table part of the hash and lets go of its content.
func (o *opener) hashTable(t *table.Table) {
	fmt.Fprintf(o.read, "table %s %d\n", filepath.Base(t.Path), len(t.Content))
	o.read.Write(t.Content)
	large := len(t.Content) > largeTable
	if t.Content = nil; large {
		debug.FreeOSMemory() // before the cases need as much
	}
}

// largeTable is a table's size in bytes from which on its text is given back at once.
const largeTable = 16 << 20

func (o *opener) warn(format string, args ...any) {
	o.d.Warnings = append(o.d.Warnings, fmt.Sprintf(format, args...))
}

// leak warns of what makes results better than they should be.
func (o *opener) leak(format string, args ...any) {
	o.warn(format, args...)
	o.d.Leaks = append(o.d.Leaks, fmt.Sprintf(format, args...))
}

func (o *opener) expect(e expectedImage) { o.expects = append(o.expects, e) }

// finish checks images and boxes and computes the hash.
func (o *opener) finish() (*Dataset, error) {
	d := o.d
	if err := o.readHeaders(); err != nil {
		return nil, err
	}
	if len(o.problems) == 0 {
		o.checkBoxes()
	}
	if o.layout == "patches" && len(o.problems) == 0 {
		o.checkTiles()
	}
	if len(d.Cases) == 0 && len(o.problems) == 0 {
		o.problems.Add(o.path, 0, "", "no cases")
	}
	if err := o.problems.Err(); err != nil {
		return nil, err
	}
	o.checkPatients()
	o.windowPictures()
	if err := o.choosePictureBits(); err != nil {
		return nil, err
	}
	o.warnOfUntrained()
	o.suspect()
	o.hash()
	return d, o.joinReports()
}

// readHeaders reads the headers of all expected images and compares them with what
// the tables say.
func (o *opener) readHeaders() error {
	type result struct {
		info imageInfo
		err  error
	}
	var results []result
	number := map[string]int{} // cases may share an image
	for _, e := range o.expects {
		if _, known := number[e.path]; !known {
			number[e.path] = len(results)
			results = append(results, result{})
		}
	}
	var g errgroup.Group
	g.SetLimit(2 * runtime.GOMAXPROCS(0))
	for path, i := range number {
		g.Go(func() error {
			results[i].info, results[i].err = readImageInfo(path)
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for _, e := range o.expects {
		info, err := results[number[e.path]].info, results[number[e.path]].err
		c := &o.d.Cases[e.caseIndex]
		if err != nil {
			if known, ok := err.(Problems); ok && c.at.line > 0 {
				o.problems.Add(c.at.file, c.at.line, e.column, "image %s: %s%s", filepath.ToSlash(e.path), known[0].Message, o.beside(e.path))
			} else {
				o.problems.AddError(e.path, 0, "", err)
			}
			continue
		}
		if e.hu && (info.format != "png" || info.bits != 16 || info.channels != 1) {
			o.problems.Add(c.at.file, c.at.line, e.column, "image %s: %s", filepath.ToSlash(e.path), wantHU(info))
			continue
		}
		if (e.width > 0 && int(e.width) != info.width) || (e.height > 0 && int(e.height) != info.height) {
			o.problems.Add(c.at.file, c.at.line, e.column, "image %s is %d x %d pixels, the table says %d x %d",
				filepath.ToSlash(e.path), info.width, info.height, e.width, e.height)
			continue
		}
		o.infos[e.path] = info
		o.d.sizes[e.path] = [2]int{info.height, info.width}
		if c.Size == [2]int{} {
			c.Size = [2]int{info.height, info.width}
		}
	}
	return nil
}

// checkBoxes refuses boxes outside their image and clips those within the slack.
func (o *opener) checkBoxes() {
	if o.normalised() {
		p := o.pending[0]
		o.problems.Add(p.place.file, p.place.line, p.column, "all %d boxes lie between 0 and 1: they are shares of the image's sides, want pixels (x times the width, y times the height)", len(o.pending))
		return
	}
	for _, p := range o.pending {
		c := &o.d.Cases[p.caseIndex]
		if p.ignore {
			x1, y1, x2, y2 := c.Ignore[p.boxIndex].Bounds()
			if x2 < 0 || y2 < 0 || x1 > float64(c.Size[1]-1) || y1 > float64(c.Size[0]-1) {
				o.problems.Add(p.place.file, p.place.line, "", "the region to ignore lies outside the image %s of %d x %d pixels", c.ID, c.Size[1], c.Size[0])
			}
			continue
		}
		b := &c.Boxes[p.boxIndex]
		image := box.Box{X2: float64(c.Size[1] - 1), Y2: float64(c.Size[0] - 1)}
		if !b.Within(image.Grow(p.slack)) || !b.Touches(image) {
			o.problems.Add(p.place.file, p.place.line, p.column, "the box %s leaves the image %s of %d x %d pixels (0-based)",
				b.Box, c.ID, c.Size[1], c.Size[0])
			continue
		}
		b.Box = b.Clip(image)
	}
}

// normalised reports whether boxes, all of them, lie in the corner pixel of images that
// have many.
func (o *opener) normalised() bool {
	for _, p := range o.pending {
		c := &o.d.Cases[p.caseIndex]
		var x1, y1, x2, y2 float64
		if p.ignore {
			x1, y1, x2, y2 = c.Ignore[p.boxIndex].Bounds()
		} else {
			b := c.Boxes[p.boxIndex]
			x1, y1, x2, y2 = b.X1, b.Y1, b.X2, b.Y2
		}
		if min(c.Size[0], c.Size[1]) < 8 || x1 < 0 || y1 < 0 || x2 > 1 || y2 > 1 {
			return false
		}
	}
	return len(o.pending) > 0
}

// beside names a file beside the one that is absent whose name differs in case or ending:
// the end of a message, "" where there is none.
func (o *opener) beside(path string) string {
	if _, err := os.Stat(path); err == nil {
		return ""
	}
	folder := filepath.Dir(path)
	if o.listed == nil {
		o.listed = map[string]map[string]string{}
	}
	names, known := o.listed[folder]
	if !known {
		list, err := sortedNames(folder)
		if err != nil && folder != filepath.Dir(folder) {
			return o.beside(folder) // it may be the folder that is called otherwise
		}
		names = map[string]string{}
		for _, n := range list {
			names[stem(n)] = n
		}
		o.listed[folder] = names
	}
	return nearest.Question(names[stem(filepath.Base(path))])
}

// stem is a file's name in small letters without the ending of an image.
func stem(name string) string {
	if isPicture(name) {
		name = strings.TrimSuffix(name, filepath.Ext(name))
	}
	return strings.ToLower(name)
}

// imagePath is where an image that a table names lies; names may be written with
// backslashes, as Windows writes them.
func imagePath(folder, name string) string {
	path := name
	if !filepath.IsAbs(path) {
		path = filepath.Join(folder, name)
	}
	if strings.Contains(name, `\`) {
		if there, _ := exists(path); !there {
			return imagePath(folder, strings.ReplaceAll(name, `\`, "/"))
		}
	}
	return path
}

func formatNumber(v float64) string { return strconv.FormatFloat(v, 'g', 7, 64) }

// checkPatients warns of patients in two splits: their cases leak.
func (o *opener) checkPatients() {
	var first []int // case of each patient
	leaks := map[int32][2]int{}
	for i, patient := range o.d.patientNumbers() {
		if patient < 0 {
			continue
		}
		if int(patient) == len(first) {
			first = append(first, i)
			continue
		}
		if k := first[patient]; o.d.Cases[k].Split != o.d.Cases[i].Split {
			if _, known := leaks[patient]; !known {
				leaks[patient] = [2]int{k, i}
			}
		}
	}
	if len(leaks) == 0 {
		o.suspectPatients(first)
		return
	}
	one := slices.MinFunc(slices.Collect(maps.Values(leaks)), func(a, b [2]int) int {
		return strings.Compare(o.d.Cases[a[0]].Patient, o.d.Cases[b[0]].Patient)
	})
	a, b := &o.d.Cases[one[0]], &o.d.Cases[one[1]]
	o.leak("%d patients are in more than one split, for example %q in %q (%s) and %q (%s): results on such splits are too good",
		len(leaks), a.Patient, a.Split, a.at, b.Split, b.at)
	if !o.opt.SharedPatients {
		o.d.gate.Add(b.at.file, b.at.line, "patient", "%d patients are in more than one split, for example %q, in %q already (%s): split by patient, or add patients=shared to the data spec where that is meant",
			len(leaks), a.Patient, a.Split, a.at)
	}
}

// patientNumbers gives every patient a number, in the order of the cases, -1 where none is
// named.
func (d *Dataset) patientNumbers() []int32 {
	if d.patients != nil {
		return d.patients
	}
	var known table.Index
	d.patients = make([]int32, len(d.Cases))
	for i := range d.Cases {
		switch name := d.Cases[i].Patient; {
		case name == "":
			d.patients[i] = -1
		case i > 0 && d.Cases[i-1].Patient == name:
			d.patients[i] = d.patients[i-1]
		default:
			number, _ := known.Add(name)
			d.patients[i] = int32(number)
		}
	}
	return d.patients
}

// suspectPatients warns of patients in two splits whose names differ in spelling alone;
// first has a case of each patient.
func (o *opener) suspectPatients(first []int) {
	plain := func(i int) bool { return plainSpelling(o.d.Cases[i].Patient) }
	if !slices.ContainsFunc(first, func(i int) bool { return !plain(i) }) {
		return
	}
	var spellings table.Index
	var alike []int // the first case of each spelling
	n, example := 0, [2]int{}
	for _, i := range first {
		k, isNew := spellings.Add(spellingKey(o.d.Cases[i].Patient))
		if isNew {
			alike = append(alike, i)
		} else if other := alike[k]; o.d.Cases[other].Split != o.d.Cases[i].Split {
			if n++; n == 1 {
				example = [2]int{other, i}
			}
		}
	}
	if n > 0 {
		a, b := &o.d.Cases[example[0]], &o.d.Cases[example[1]]
		o.leak("%d patients may be in two splits under names that differ only in spelling, for example %q in %q (%s) and %q in %q (%s): results on such splits are too good",
			n, a.Patient, a.Split, a.at, b.Patient, b.Split, b.at)
	}
}

func (o *opener) hash() {
	h := o.read
	for _, path := range slices.Sorted(maps.Keys(o.infos)) {
		name := path
		if rel, err := filepath.Rel(o.d.Dir, path); err == nil {
			name = rel
		}
		for folder, prefix := range o.prefixes {
			if rest, ok := strings.CutPrefix(path, folder); ok {
				name = prefix + rest
			}
		}
		fmt.Fprintf(h, "image %s %d\n", filepath.ToSlash(name), o.infos[path].fileBytes)
	}
	for _, name := range slices.Sorted(maps.Keys(o.d.stacks)) {
		s := o.d.stacks[name]
		fmt.Fprintf(h, "stack %s %v %d %d\n", name, slices.Sorted(maps.Keys(s.files)), s.depth, s.fileBytes)
	}
	o.d.Hash = hex.EncodeToString(h.Sum(nil))
}

// chooseAttributes names the attribute columns to be read.
func (o *opener) chooseAttributes(all, byDefault []string, sets map[string][]string) ([]string, error) {
	if s := o.opt.Schema; s != nil {
		return slices.DeleteFunc(s.Restrict(all).Names(), func(name string) bool {
			return o.opt.Reports != nil && o.opt.Reports.Schema.Index(name) >= 0
		}), nil
	}
	return chooseColumns("attribute", o.opt.Attributes, all, byDefault, sets)
}

// chooseColumns resolves Options.Attributes or Options.Labels against what a
// layout has: all columns, its default, and named sets.
func chooseColumns(what string, wanted, all, byDefault []string, sets map[string][]string) ([]string, error) {
	if wanted == nil {
		return byDefault, nil
	}
	out := []string{}
	for _, name := range wanted {
		members, isSet := sets[name]
		if name == "all" {
			members, isSet = all, true
		}
		if !isSet {
			if !slices.Contains(all, name) {
				return nil, fmt.Errorf("%w: %s column %q is unknown%s; there are %s", ErrData, what, name, nearest.Meant(name, all), problem.Quote(all))
			}
			members = []string{name}
		}
		for _, m := range members {
			if !slices.Contains(out, m) {
				out = append(out, m)
			}
		}
	}
	return out, nil
}

// missingWord reports whether a cell spells out that nothing is known.
func missingWord(text string) bool {
	return slices.Contains([]string{"nan", "na", "n/a", "null"}, strings.ToLower(text))
}

// missing reports whether a cell holds one of Options.Missing, in any case.
func (o *opener) missing(text string) bool {
	return slices.ContainsFunc(o.opt.Missing, func(word string) bool { return strings.EqualFold(word, text) })
}

// attribute checks an attribute cell: NaN and infinities are refused unless
// Options.NaNMissing reads them as missing.
func (o *opener) attribute(text string) (string, error) {
	if o.opt.NaNMissing && missingWord(text) || o.missing(text) {
		return "", nil
	}
	if table.NotANumber(text) {
		return "", fmt.Errorf("%q is no value; leave the cell empty where it is missing, or add missing=%s to the data spec", text, text)
	}
	return text, nil
}

// compareClasses orders numbers by value and everything else by text.
func compareClasses(a, b string) int {
	x, errX := strconv.ParseFloat(a, 64)
	y, errY := strconv.ParseFloat(b, 64)
	if errX == nil && errY == nil && x != y {
		if x < y {
			return -1
		}
		return 1
	}
	return strings.Compare(a, b)
}

// setClasses names the lesion classes of a detection data set: those a run fixes,
// else those found, else one.
func (o *opener) setClasses(found []string) {
	set := sdk.LabelSet{Name: "lesion", Classes: found}
	if len(o.opt.LabelSets) > 0 {
		set = o.opt.LabelSets[0]
	}
	if len(set.Classes) == 0 {
		set.Classes = []string{"lesion"}
	}
	o.d.Labels = []sdk.LabelSet{set}
}

// exists reports whether a path is there, and whether it is a folder.
func exists(path string) (there, folder bool) {
	info, err := os.Stat(path)
	return err == nil, err == nil && info.IsDir()
}

// sortedNames lists a folder without hidden files, macOS resource forks and
// Windows' thumbnail database.
func sortedNames(dir string) ([]string, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, problem.File(dir, err)
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil && err != io.EOF {
		return nil, problem.File(dir, err)
	}
	names = slices.DeleteFunc(names, func(n string) bool { return strings.HasPrefix(n, ".") || n == "Thumbs.db" })
	slices.SortFunc(names, compareNatural)
	return names, nil
}

// compareNatural orders names with runs of digits by their value: 2.png before 10.png.
func compareNatural(a, b string) int {
	i, j := 0, 0
	for i < len(a) && j < len(b) {
		if isDigit(a[i]) && isDigit(b[j]) {
			p, q := i, j
			for i < len(a) && isDigit(a[i]) {
				i++
			}
			for j < len(b) && isDigit(b[j]) {
				j++
			}
			x, y := strings.TrimLeft(a[p:i], "0"), strings.TrimLeft(b[q:j], "0")
			if len(x) != len(y) {
				return len(x) - len(y)
			}
			if c := strings.Compare(x, y); c != 0 {
				return c
			}
			continue
		}
		if a[i] != b[j] {
			return int(a[i]) - int(b[j])
		}
		i++
		j++
	}
	if c := (len(a) - i) - (len(b) - j); c != 0 {
		return c
	}
	return strings.Compare(a, b)
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }
