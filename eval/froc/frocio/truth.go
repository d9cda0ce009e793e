package frocio

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/alignedfusion/alignedfusion/eval/froc"
	"github.com/alignedfusion/alignedfusion/internal/nearest"
	"github.com/alignedfusion/alignedfusion/internal/nifti"
	"github.com/alignedfusion/alignedfusion/internal/stat"
)

// Source names the files of a ground truth.
type Source struct {
	GroundTruth string // lesions; required
	Images      string // every searched image; empty: those the ground truth names
	Excluded    string // further lesions, all ignored; may be empty
}

// NoisyRule says how DeepLesion's Possibly_noisy lesions are treated.
type NoisyRule string

// The rules for noisy lesions.
const (
	NoisyDrop   NoisyRule = "drop"   // leave them out, as the published protocol does
	NoisyIgnore NoisyRule = "ignore" // keep their slices and ignore the lesions
	NoisyKeep   NoisyRule = "keep"   // count them
)

// MaskRule says how a label mask is divided into lesions.
type MaskRule string

// The rules for masks.
const (
	MaskLabels     MaskRule = "labels"     // every non-zero label is a lesion
	MaskComponents MaskRule = "components" // every 26-connected component of non-zero voxels is a lesion
)

// Coordinates says what points that are compared with masks count.
type Coordinates string

// The coordinates.
const (
	Voxel Coordinates = "voxel" // indices of the mask's grid, from 0
	RAS   Coordinates = "ras"   // millimetres to the right, front and top, as in NIfTI
	LPS   Coordinates = "lps"   // millimetres to the left, back and top, as in DICOM and ITK
)

// Options sets how files are read. The zero value reads strictly.
type Options struct {
	// Lenient drops and counts rows that cannot be used instead of refusing the file.
	Lenient bool
	// Split keeps images of that split alone: the value of the list's split
	// column, or train, val, test of DL_info.csv (where "" means test and "all" keeps all).
	Split       string
	Noisy       NoisyRule   // NoisyDrop (default), NoisyIgnore, NoisyKeep
	Category    string      // the class to evaluate alone, by name or COCO id; empty: all
	MaskLesions MaskRule    // MaskLabels (default) or MaskComponents
	Coordinates Coordinates // Voxel (default), RAS, LPS
	// SpacingMM are the millimetres per unit of x, y and z in images whose list does not say.
	SpacingMM [3]float64
	// Columns names the columns of roles that the header does not tell: image, score, class,
	// x1, y1, x2, y2, x, y, w, h, cx, cy, …, or a list in one cell: xyxy, xywh, cxcywh.
	Columns map[string]string
	// DecimalComma reads 1,5 as 1.5 in tables that are not separated by commas.
	DecimalComma bool
	Readers      ReaderRule // what becomes of the findings of several readers; default: each is a lesion
	Votes        int        // of ReadersVote: how many readers must agree
	Candidates   Candidates // what a mark of a map is; default: a component of one value
	// Threshold is that of CandidatesThreshold.
	Threshold float64
	IoUType   IoUType // of COCO's files: BBox (default) or Segm
}

// Check returns an error that names the option which makes no sense.
func (o Options) Check() error {
	_, err := o.resolved()
	return err
}

func (o Options) resolved() (Options, error) {
	if o.Noisy == "" {
		o.Noisy = NoisyDrop
	}
	if o.MaskLesions == "" {
		o.MaskLesions = MaskLabels
	}
	if o.Coordinates == "" {
		o.Coordinates = Voxel
	}
	for role, name := range o.Columns {
		if _, known := roleNames[role]; !known {
			roles := slices.Sorted(maps.Keys(roleNames))
			hint := nearest.Meant(role, roles)
			for _, r := range roles {
				if slices.Contains(roleNames[r], plain(role)) {
					hint = nearest.Question(r)
				}
			}
			if _, turned := roleNames[name]; turned {
				hint = fmt.Sprintf("; the role stands first: did you mean %s=%s?", name, role)
			}
			return o, fmt.Errorf("columns: %q is no role%s; there are %s", role, hint, strings.Join(roles, ", "))
		}
	}
	if o.Readers == ReadersVote && o.Votes < 2 {
		return o, fmt.Errorf("readers: vote=%d, want 2 or more", o.Votes)
	}
	return o, errors.Join(
		oneOf("noisy lesions", o.Noisy, NoisyDrop, NoisyIgnore, NoisyKeep),
		oneOf("mask lesions", o.MaskLesions, MaskLabels, MaskComponents),
		oneOf("coordinates", o.Coordinates, Voxel, RAS, LPS),
		oneOf("readers", o.Readers, "", ReadersUnion, ReadersVote, ReadersFuse),
		oneOf("candidates", o.Candidates, "", CandidatesComponents, CandidatesDynamic, CandidatesDynamicV2, CandidatesDynamicFast,
			CandidatesThreshold),
		oneOf("iou-type", o.IoUType, "", BBox, Segm),
	)
}

func oneOf[T ~string](name string, value T, want ...T) error {
	if !slices.Contains(want, value) {
		return fmt.Errorf("%s: %q, want one of %v", name, value, want)
	}
	return nil
}

// Truth is a ground truth that was read, together with what is needed to read
// predictions for it.
type Truth struct {
	*froc.Truth
	Notes    []string // what was noticed while reading, for people
	Warnings []string // what makes the figures doubtful

	ctx      context.Context // of the present call
	options  Options
	given    Options        // as they came, before defaults
	listed   bool           // the list of images was given: other ids are errors
	index    map[string]int // image id to index in Images
	list     []string       // every id of the list of images in its order, left-out ones included
	left     map[string]bool
	grids    map[int]*nifti.Mask // per image: the geometry of its mask, voxels dropped
	classes  classes
	problems *problems
	readers  []string              // per lesion; nil: nobody is named
	sizes    map[string][2]float64 // of images in pixels, width and height, by id; from the list of images
	likeness map[string]string     // see near
	aliases  map[string]int        // images by the name of their file, see alias
	named    bool                  // lesions have numbers instead of places: JAFROC
	first    string                // the first row of a list of images without a header
	uses     uses
	parts    int         // separate parts of labels that count as one lesion
	lastMask *nifti.Mask // see readMask
	lastPath string
	dlInfo   bool           // the ground truth is a DL_info.csv
	around   string         // of a mask: which label surrounds another one, or is 255
	polygons bool           // lines of YOLO's files have more numbers than a box
	yolo     int            // boxes of YOLO's files
	yoloOut  int            // those that leave their image
	splits   map[string]int // images, or rows, of each split that is evaluated
	normal   bool           // coordinates are shares of the image's sides
}

// Placed reports whether lesions have places; JAFROC's sheets only number them.
func (t *Truth) Placed() bool { return !t.named }

func (t *Truth) note(format string, args ...any) {
	t.Notes = append(t.Notes, fmt.Sprintf(format, args...))
}
func (t *Truth) warn(format string, args ...any) {
	t.Warnings = append(t.Warnings, fmt.Sprintf(format, args...))
}

// ReadTruth reads a ground truth. A file that cannot be used gives a
// [*DataError] or an error that names the file and row.
func ReadTruth(s Source, o Options) (*Truth, error) {
	return ReadTruthContext(context.Background(), s, o)
}

// ReadTruthContext is ReadTruth, which ends with the error of ctx soon after that is done.
func ReadTruthContext(ctx context.Context, s Source, o Options) (*Truth, error) {
	given := o
	o, err := o.resolved()
	if err != nil {
		return nil, err
	}
	t := &Truth{
		Truth: &froc.Truth{}, ctx: ctx, options: o, given: given, uses: uses{columns: map[string]bool{}}, sizes: map[string][2]float64{}, index: map[string]int{}, splits: map[string]int{}, left: map[string]bool{},
		grids: map[int]*nifti.Mask{}, problems: &problems{lenient: o.Lenient},
	}
	if s.Images != "" {
		t.listed = true
		if err := t.readImages(s.Images); err != nil {
			return nil, err
		}
	}
	err = t.readGroundTruth(s.GroundTruth)
	if err == nil {
		err = t.mergeReaders(s.GroundTruth)
	}
	if err == nil {
		err = t.chooseCategory(s.GroundTruth)
	}
	if err == nil && s.Excluded != "" {
		err = t.readTableFile(s.Excluded, true)
	}
	if err == nil {
		err = t.checkOptions(s.GroundTruth)
	}
	if err == nil {
		err = t.checkDuplicates(s.GroundTruth)
	}
	if err == nil {
		err = t.problems.err()
	}
	if err != nil {
		return nil, err
	}
	t.Notes = append(t.Notes, t.problems.notes(s.GroundTruth)...)
	t.problems = nil
	t.warnNearIDs(cmp.Or(s.Images, s.GroundTruth))
	t.warnFirst(s.Images)
	t.sortClasses()
	if t.parts > 0 {
		t.warn("%s: masks have %d parts that lie apart from others of their label: each label is one lesion; --mask-lesions components takes every part for one "+
			"(--mask-lesions labels says that labels are meant)", s.GroundTruth, t.parts)
	}
	if len(t.left) > 0 {
		t.Notes = append(t.Notes, fmt.Sprintf("%d images left out by the split or the noise filter", len(t.left)))
	}
	if len(t.splits) > 1 && t.options.Split == "" {
		names := slices.Sorted(maps.Keys(t.splits))
		t.warn("%s: images of the splits %s are evaluated together; --split %s takes one, --split all says that all are meant",
			cmp.Or(s.Images, s.GroundTruth), someOf(names), clip(names[0]))
	}
	if !t.listed {
		t.Notes = append(t.Notes, "no list of images: images that the ground truth does not name are unknown, and lesion-free images do not count in the divisor")
	}
	t.notePolygons(s.GroundTruth, t.note)
	t.warnYOLO(s.GroundTruth, t.warn)
	if t.around != "" {
		t.warn("%s: %s: an organ around its lesions, or voxels to ignore? Every label counts as a lesion; a table image,mask,label_id names those that are "+
			"(--mask-lesions labels says that all are)", s.GroundTruth, t.around)
	}
	t.fillSpacing()
	if err := t.Truth.Check(); err != nil {
		return nil, fmt.Errorf("%s: %w", s.GroundTruth, err)
	}
	return t, nil
}

// notePolygons says once that polygons were read.
func (t *Truth) notePolygons(path string, note func(format string, args ...any)) {
	if t.polygons {
		note("%s: lines with more numbers than a box count as polygons, each as the box around it; the points of poses are none", path)
	}
	t.polygons = false
}

// warnYOLO warns of boxes of which more than a tenth leave their images.
func (t *Truth) warnYOLO(path string, warn func(format string, args ...any)) {
	if 10*t.yoloOut > t.yolo {
		warn("%s: %d of %d boxes leave their image: the lines of YOLO are class cx cy w h, then the score of a prediction; "+
			"does the score stand in the second place, or are these corners?", path, t.yoloOut, t.yolo)
	}
	t.yolo, t.yoloOut = 0, 0
}

// warnFirst warns of a first row that may be a header and counts as an image without lesions.
func (t *Truth) warnFirst(path string) {
	i, known := t.index[t.first]
	if !known || strings.ContainsAny(t.first, "0123456789") || slices.ContainsFunc(t.Lesions, func(l froc.Lesion) bool { return l.Image == i }) {
		return
	}
	t.warn("%s: the first row, %q, counts as an image without lesions; if it is a header, call it image, or say --columns image=%s", path, clip(t.first), clip(t.first))
}

// readGroundTruth reads lesions of any format.
func (t *Truth) readGroundTruth(path string) error {
	if isFolder(path) {
		return t.readFolder(path)
	}
	if extension(path) == ".npz" {
		return t.readNPZ(path)
	}
	in, err := open(t.ctx, path)
	if err != nil {
		return err
	}
	defer in.Close()
	switch in.format() {
	case objectFormat:
		return t.readJSON(in)
	case arrayFormat:
		return fmt.Errorf("%s: is a JSON array; want a COCO ground truth with images and annotations: are these predictions?", path)
	case yoloFormat:
		return t.readYOLO(in, t.fileID(path))
	}
	return t.readTable(in, false)
}

// readTableFile is readTable of a path.
func (t *Truth) readTableFile(path string, excluded bool) error {
	in, err := open(t.ctx, path)
	if err != nil {
		return err
	}
	defer in.Close()
	return t.readTable(in, excluded)
}

// wants reports whether one split alone is evaluated.
func (t *Truth) wants() bool { return t.options.Split != "" && t.options.Split != "all" }

// layout is newLayout, with what the options declare noted as seen.
func (t *Truth) layout(tab *rowFile) (layout, error) {
	t.uses.seen = append(t.uses.seen, tab.header...)
	for _, name := range t.options.Columns {
		if slices.Contains(tab.header, name) {
			t.uses.columns[name] = true
		}
	}
	t.uses.comma = true
	l, err := t.options.newLayout(tab)
	if err == nil {
		err = t.options.settle(tab, &l)
	}
	return l, err
}

// addImage appends an image and returns its index.
func (t *Truth) addImage(im froc.Image) int {
	t.index[im.ID] = len(t.Images)
	t.list = append(t.list, im.ID)
	t.Images = append(t.Images, im)
	return len(t.Images) - 1
}

// expect takes memory for so many more images at once.
func (t *Truth) expect(more int) {
	more += more / 20
	t.Images, t.list = slices.Grow(t.Images, more), slices.Grow(t.list, more)
	index := make(map[string]int, len(t.index)+more)
	maps.Copy(index, t.index)
	t.index = index
}

// rows calls use for every row of a table. A row of the wrong width is a problem
// of that row alone.
func rows(t *rowFile, p *problems, use func(row []string) error) error {
	for {
		row, err := t.next()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil && row != nil:
			p.row(t.where(), "wrong number of fields", "%d fields, the header has %d", len(row), len(t.header))
		case err != nil:
			return err
		default:
			if err := use(row); err != nil {
				return err
			}
		}
	}
}

func (t *Truth) readImages(path string) error {
	tab, err := openTable(t.ctx, path, true)
	if err != nil {
		return err
	}
	defer tab.close()
	if len(tab.header) == 1 {
		tab.header[0] = "image" // openTable has seen that it names images
	}
	l, err := t.layout(tab)
	if err != nil {
		return err
	}
	if tab.bare {
		t.note("%s: no header: every row is an image", path)
	}
	t.uses.split = t.uses.split || l.split >= 0
	width, height := l.imageSize(tab)
	weight := l.imageWeight
	if t.wants() && l.split < 0 {
		return fmt.Errorf("%s:1: no column %q to choose %q by", path, "split", t.options.Split)
	}
	var aside []string
	for _, c := range l.rest {
		if name := tab.header[c]; c != width && c != height && c != weight && !slices.Contains(geometryNames, strings.ToLower(strings.TrimSpace(name))) {
			aside = append(aside, name)
		}
	}
	if len(aside) > 0 {
		hint := ""
		if k := slices.IndexFunc(aside, func(name string) bool { return strings.Contains(plain(name), "weight") }); k >= 0 {
			hint = fmt.Sprintf("; --columns image-weight=%s makes each image count so many times", clip(aside[k]))
		}
		t.note("%s: columns not used: %s%s", path, clip(strings.Join(aside, ", ")), hint)
	}
	splits := t.splits
	geometry := geometryColumns(tab.header, l.number)
	heading := t.options.Columns["image"]
	err = rows(tab, t.problems, func(row []string) error {
		im := froc.Image{ID: strings.TrimSpace(row[l.image])}
		if tab.bare && len(t.list) == 0 {
			if im.ID == heading {
				t.uses.columns[heading] = true
				return nil
			}
			t.first = im.ID
		}
		if l.patient >= 0 {
			im.Patient = strings.TrimSpace(row[l.patient])
		}
		if l.volume >= 0 {
			im.Volume = strings.TrimSpace(row[l.volume])
		}
		if err := geometry(row, &im); err != nil {
			t.problems.row(tab.where(), "bad geometry", "%v", err)
			return nil
		}
		if im.ID == "" {
			t.problems.row(tab.where(), "empty image id", "image is empty")
			return nil
		}
		if weight >= 0 {
			w, err := l.number(row[weight])
			if im.Weight = int(w); err != nil || w != math.Trunc(w) || w < 1 || w > froc.MaxWeight {
				t.problems.row(tab.where(), "bad weight", "%s is %q, want the whole number of images that this one stands for, 1 to %d", tab.header[weight], clip(row[weight]), froc.MaxWeight)
				return nil
			}
		}
		_, twice := t.index[im.ID]
		if twice || t.left[im.ID] {
			t.problems.row(tab.where(), "image id twice", "image id %q stands twice", clip(im.ID))
			return nil
		}
		if width >= 0 {
			w, _ := l.number(row[width])
			h, _ := l.number(row[height])
			t.sizes[im.ID] = [2]float64{w, h} // what is no number is asked for where it is needed
		}
		if l.split >= 0 {
			split := strings.TrimSpace(row[l.split])
			splits[split]++
			if t.wants() && split != t.options.Split {
				t.left[im.ID] = true
				t.list = append(t.list, im.ID)
				return nil
			}
		}
		t.addImage(im)
		const sample = 1000 // rows from which the others are guessed
		if len(t.Images) == sample {
			t.expect(tab.rowsLeft(sample))
		}
		return nil
	})
	if err == nil && len(t.Images) == 0 && len(splits) > 0 && t.problems.total == 0 {
		return fmt.Errorf("%s: no image of split %q; there are %v", path, t.options.Split, slices.Sorted(maps.Keys(splits)))
	}
	if weight >= 0 {
		stand := 0 // for so many
		for i := range t.Images {
			stand += t.Images[i].Weight
		}
		t.note("%s: %d images stand for %d by the column %s: lesions, marks and images count as often as it says", path, len(t.Images), stand, tab.header[weight])
	}
	return err
}

// image finds the index of a ground truth row's image. ok is false when the row
// is to be passed over: its image was left out, or is unknown and noted as a problem.
func (t *Truth) image(id, where string) (index int, ok bool) {
	if i, known := t.index[id]; known {
		return i, true
	}
	if t.left[id] {
		return 0, false
	}
	switch {
	case id == "":
		t.problems.row(where, "empty image id", "image is empty")
		return 0, false
	case t.listed:
		t.problems.row(where, "unknown image id", "image %q is not in the list of images%s", clip(id), t.hint(id))
		return 0, false
	}
	return t.addImage(froc.Image{ID: id}), true
}

func (t *Truth) readTable(in *input, excluded bool) error {
	tab, err := tableOf(in, false)
	if err != nil {
		return err
	}
	path := tab.file
	if isDLInfo(tab.header) {
		return t.readDLInfo(tab)
	}
	l, err := t.layout(tab)
	if err != nil {
		return err
	}
	if l.imageWeight >= 0 {
		return fmt.Errorf("%s:1: column %q weighs images; give it in the list of images (--images), a weight of lesions as lesion_weight", path, clip(tab.header[l.imageWeight]))
	}
	beside := l.geometry == noGeometry && l.score < 0 && slices.ContainsFunc(tab.header, func(name string) bool { return slices.Contains(roleNames["voxel"], plain(name)) })
	if beside {
		l.besideMasks(tab)
	}
	if l.geometry == noGeometry || l.geometry == listOfMarks {
		return fmt.Errorf("%s:1: no coordinates; want x1,y1,x2,y2[,z1,z2], x,y,width,height, cx,cy,w,h, x,y[,z],radius or mask; the header is %q; "+
			"--columns x1=NAME,… says which columns they are", path, header(tab))
	}
	t.uses.split = t.uses.split || l.split >= 0
	if l.geometry == namedLesion {
		t.named = true
		t.note("%s: lesions have numbers and no places (JAFROC): a mark that names one hits it", path)
	}
	if l.comma && !l.points {
		t.note("%s: decimal commas", path)
	}
	if l.order == sizes && l.geometry != maskFile {
		t.note("%s: %s is the corner nearest to 0, then the sides; --columns cx=NAME,cy=NAME says that it is the centre", path, strings.Join(l.names, ","))
	}
	if !excluded {
		for _, c := range l.rest {
			t.Strata = append(t.Strata, tab.header[c])
		}
	}
	number := slices.IndexFunc(tab.header, func(name string) bool { return plain(name) == "classid" || plain(name) == "categoryid" })
	if number == l.class {
		number = -1
	}
	if l.score >= 0 && !excluded {
		t.warn("%s: has a column %q: are these predictions? Every row counts as a lesion", path, clip(tab.header[l.score]))
	}
	other := l.otherImage(tab.header)
	if t.listed || excluded || t.options.Columns["image"] != "" {
		other = -1
	}
	ids, others, read := map[string]bool{}, map[string]bool{}, 0
	err = rows(tab, t.problems, func(row []string) error {
		id := strings.TrimSpace(row[l.image])
		if other >= 0 {
			ids[id], others[row[other]] = true, true
			read++
		}
		if l.split >= 0 && !t.listed {
			split := strings.TrimSpace(row[l.split])
			if t.wants() && split != t.options.Split {
				t.left[id] = true
				return nil
			}
			t.splits[split]++
		}
		i, ok := t.image(id, tab.where())
		if !ok {
			return nil
		}
		for _, key := range []struct {
			column int
			name   string
			value  *string
		}{{l.patient, "patient", &t.Images[i].Patient}, {l.volume, "volume", &t.Images[i].Volume}} {
			if key.column < 0 {
				continue
			}
			switch v := strings.TrimSpace(row[key.column]); {
			case *key.value == "":
				*key.value = v
			case v != "" && v != *key.value:
				t.problems.row(tab.where(), "two "+key.name+"s of one image", "%s %q, but image %q has %q elsewhere", key.name, v, id, *key.value)
				return nil
			}
		}
		if l.empty(row) {
			return nil
		}
		if l.class >= 0 && l.geometry != maskFile && l.noFinding(row, tab.line()) {
			return nil
		}
		lesion := froc.Lesion{Image: i, Ignore: excluded, Class: froc.AnyClass}
		if l.class >= 0 && !excluded {
			lesion.Class = t.class(row[l.class])
			if number >= 0 {
				t.classNumber(row[number], lesion.Class)
			}
		}
		if l.weight >= 0 {
			if lesion.Weight, err = l.number(row[l.weight]); err != nil || lesion.Weight < 0 {
				t.problems.row(tab.where(), "bad weight", "%s %q, want a number of 0 or more", tab.header[l.weight], clip(row[l.weight]))
				return nil
			}
		}
		if l.ignore >= 0 {
			ignore, err := flag(row[l.ignore])
			if err != nil {
				t.problems.row(tab.where(), "bad ignore flag", "%v", err)
				return nil
			}
			lesion.Ignore = lesion.Ignore || ignore
		}
		if !excluded {
			for _, c := range l.rest {
				lesion.Strata = append(lesion.Strata, row[c])
			}
		}
		if l.geometry == maskFile {
			return t.addMask(lesion, &l, row, tab)
		}
		if lesion.Region, err = l.place(row, tab.line()); err != nil {
			t.problems.row(tab.where(), "bad coordinates", "%v", err)
			return nil
		}
		if l.reader >= 0 && !excluded {
			t.readBy(row[l.reader])
		}
		t.Lesions = append(t.Lesions, lesion)
		return nil
	})
	if err == nil && read > 1 && len(ids) == read && len(others) < read {
		image, name := tab.header[l.image], tab.header[other]
		return fmt.Errorf("%s:1: column %q has another value in every row, as numbers of findings have: which column names the image? "+
			"--columns image=%s or --columns image=%s says so", path, clip(image), clip(image), clip(name))
	}
	return err
}

// otherImage is a second column that may name the image where the first may number the rows; -1 without one.
func (l *layout) otherImage(header []string) int {
	if !slices.Contains([]string{"id", "uid", "uuid", "name"}, plain(header[l.image])) {
		return -1
	}
	return slices.IndexFunc(header, func(name string) bool {
		return plain(name) != plain(header[l.image]) && slices.Contains(roleNames["image"], plain(name))
	})
}

// noFinding reports whether a row says, as VinDr's tables do by a box of one pixel in the
// corner, that there is nothing.
func (l *layout) noFinding(row []string, line int) bool {
	if !slices.Contains([]string{"nofinding", "nofindings", "normal", "14"}, plain(row[l.class])) {
		return false
	}
	r, err := l.place(row, line)
	low, high := r.Bounds()
	return err == nil && low == [3]float64{} && high == [3]float64{1, 1}
}

// imageSize returns the columns of an image's width and height, -1 without both.
func (l *layout) imageSize(tab *rowFile) (width, height int) {
	width, height = l.width, l.height
	if width < 0 && l.geometry == noGeometry {
		c := columns{t: tab, taken: make([]bool, len(tab.header))}
		for _, name := range tab.header {
			c.plain = append(c.plain, plain(name))
		}
		width, height = c.find("w"), c.find("h")
	}
	if width < 0 || height < 0 {
		return -1, -1
	}
	return width, height
}

// checkDuplicates refuses counted lesions that stand twice: one mark would find both.
func (t *Truth) checkDuplicates(path string) error {
	type key struct {
		image int
		text  string
		class int32
	}
	if !t.anyTwice() {
		return nil
	}
	seen := make(map[key]bool, len(t.Lesions))
	drawn := ""
	if len(t.readers) > 0 {
		drawn = "; --readers union, vote=K or fuse makes one lesion of what several readers marked"
	}
	t.Lesions = slices.DeleteFunc(t.Lesions, func(l froc.Lesion) bool {
		if l.Ignore || l.Region.Kind() == froc.KindMask {
			return false
		}
		k := key{l.Image, l.Region.String(), l.Class}
		if seen[k] {
			t.problems.row(path, "lesion twice", "image %q has the lesion %s twice%s", clip(t.Images[l.Image].ID), k.text, drawn)
			return true
		}
		seen[k] = true
		return false
	})
	return nil
}

// anyTwice is false where no lesion stands twice, which is soon known.
func (t *Truth) anyTwice() bool {
	type key struct {
		image  int
		region froc.Region
		class  int32
	}
	hashes, seed := make([]uint64, len(t.Lesions)), maphash.MakeSeed()
	for i := range t.Lesions {
		l := &t.Lesions[i]
		hashes[i] = maphash.Comparable(seed, key{l.Image, l.Region, l.Class})
	}
	stat.SortKeys(hashes, nil)
	for i := 1; i < len(hashes); i++ {
		if hashes[i] == hashes[i-1] {
			return true
		}
	}
	return false
}
