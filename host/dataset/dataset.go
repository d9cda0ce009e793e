package dataset

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/alignedfusion/alignedfusion/host/report"
	"github.com/alignedfusion/alignedfusion/host/report/schema"
	"github.com/alignedfusion/alignedfusion/internal/box"
	"github.com/alignedfusion/alignedfusion/internal/nearest"
	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/ports"
)

// Task is what a data set has targets for.
type Task string

// The tasks.
const (
	Detect   Task = "detect"
	Classify Task = "classify"
)

// Volume is the modality whose images are axial slices with their neighbours.
var Volume = ports.Volume.Name

// NoisyRule says what happens to lesions that DL_info.csv flags Possibly_noisy.
type NoisyRule string

// The rules; the zero value is NoisyDropTest, the published test protocol.
const (
	NoisyDropTest NoisyRule = ""
	NoisyDrop     NoisyRule = "drop"
	NoisyKeep     NoisyRule = "keep"
)

// Options steer Open. The zero value takes each layout's defaults. Every field
// can also stand in the spec, where it wins: deeplesion:DIR?noisy=keep&nan=missing.
type Options struct {
	// Labels names the label columns (classification) or the class column of the
	// boxes (detection). nil: table: label or all label.<task>; derm7pt: diagnosis;
	// boxes: class; deeplesion: one class, "lesion". Spec key "labels".
	Labels []string
	// Attributes names the attribute columns. nil takes all but those that tell what is
	// to be found; an empty slice none; "all" all there are. deeplesion: age, gender and
	// the columns of attributes.csv; "paper" is age, gender, location, size. derm7pt:
	// all but management and the labels; sets "A", "B" and "C". Spec key "attributes".
	Attributes []string
	// LabelSets fixes the classes and their order, as a trained run knows them: a
	// value outside them is an error. nil: the values found, sorted.
	LabelSets []sdk.LabelSet
	// Noisy says what happens to lesions flagged Possibly_noisy. Spec key "noisy".
	Noisy NoisyRule
	// GreyHU are the Hounsfield units of grey 0 and of the largest grey value of
	// slices that are no HU themselves (8-bit PNG, JPEG). Both zero: grey fills the
	// encoder's declared window. Spec key "grey_hu", for example grey_hu=-1024,3071.
	GreyHU [2]float64
	// NaNMissing reads the cells NaN, nan and NA as missing instead of refusing them.
	// Spec key "nan=missing".
	NaNMissing bool
	// Coordinates of the boxes of volumes: voxel (also ""), lps or ras, the latter in mm.
	// Spec key "coordinates".
	Coordinates string
	// Missing are words that mean that nothing is known, in any case of letters. Spec key
	// "missing", for example missing=NA,UNK,-.
	Missing []string
	// SharedPatients lets a patient be in two splits; else that is a problem for Check. The
	// warning comes along with every result either way. Spec key "patients=shared".
	SharedPatients bool
	// PictureBits are the bits in use of 16-bit pictures: a value v becomes
	// v*255/(2^bits-1). 0: as few of 8, 10, 12, 14, 16 as hold the values of some of them.
	// Spec key "bits".
	PictureBits int
	// Reports are joined to the cases by their ids; nil: none. ReportsPath names them in
	// messages.
	Reports     *report.Table
	ReportsPath string
	// Schema, unless nil, names the attributes in the place of Attributes: those columns of
	// it are taken that the data have and the reports have not.
	Schema *schema.Schema
	// Asked is what the label columns ask, as sdk.ParseQuestions takes it. The label columns
	// that it names are the default of Labels.
	Asked string
	// Task decides what image: and slices: become; empty: slices: and nifti: are
	// volumes (detect), image: is a picture (classify).
	Task Task
}

// Box is a lesion's box on the key slice, in pixels of the original image.
type Box struct {
	box.Box
	// Class indexes the data set's label set.
	Class int
	// Strata hold what a stratified evaluation may want: lesion_type, diameter_mm.
	Strata map[string]string
}

// IgnoreRegion is a finding that counts neither as lesion nor as background: a
// circle where Radius > 0, a box otherwise. Original pixels.
type IgnoreRegion struct {
	X1, Y1, X2, Y2 float64
	X, Y, Radius   float64
}

// Bounds returns the box around the region.
func (r IgnoreRegion) Bounds() (x1, y1, x2, y2 float64) {
	if r.Radius > 0 {
		return r.X - r.Radius, r.Y - r.Radius, r.X + r.Radius, r.Y + r.Radius
	}
	return r.X1, r.Y1, r.X2, r.Y2
}

// Case is one example: a key slice with its neighbours, or the pictures of one
// finding.
type Case struct {
	// ID is unique: the image's name (detection) or the id column (classification).
	ID      string
	Patient string
	Split   string
	// Images holds a path per modality; for Volume it is the key slice, or the
	// NIfTI file. Cases may share it, as they may Labels and Strata.
	Images map[string]string
	Boxes  []Box
	// Patches are the tiles of a slide that is a case, in the order of the table; nil for others.
	Patches []Patch
	// RECIST holds one pair of diameters per box as x,y of four end points in
	// original pixels (long axis first), or is nil where the layout has none.
	RECIST [][8]float64
	Ignore []IgnoreRegion
	// Labels holds a class index per label set, -1 where unknown or withheld.
	Labels map[string]int
	// Measured holds a number or a time per label set that asks for one, none where it is
	// unknown.
	Measured map[string]Measured
	// HasTargets is false where boxes or labels are withheld.
	HasTargets bool
	// Attributes has a cell for every attribute column. Until the data set is bound to a
	// schema (Bind), cells are as schema.Written makes them.
	Attributes Attributes
	// SpacingMM is z, y, x; 0 where unknown.
	SpacingMM [3]float64
	// Size is height, width in pixels.
	Size [2]int
	// Sweep marks a slice that is predicted and not trained on.
	Sweep bool
	// KeySlice is the slice's number in its series or its index in the NIfTI volume.
	KeySlice int
	// Stack names the series or volume that the slice belongs to, or the slide of a patch; ""
	// for pictures.
	Stack string
	// WorldRAS maps column, row, slice (pixels) to mm towards right, anterior,
	// superior as a 3 x 4 matrix; nil where the input does not say.
	WorldRAS *[12]float64
	// StoredRAS maps the voxels i, j, k as the file stores them to mm likewise.
	StoredRAS *[12]float64
	// Strata hold what an evaluation may group images by.
	Strata map[string]string

	// sights say how volumes, and slices in a window, are shown, by modality; a modality that
	// is not among them is shown as Stack, KeySlice, SpacingMM and Size say.
	sights map[string]*sight
	// at is where the case was read.
	at place
	// greyHU are the HU of the smallest and largest grey value; equal: unknown.
	greyHU [2]float64
}

// PatientOf is whose a case is where cases of a patient stay together: the patient's, or, where
// no patient is known, its own.
func PatientOf(patient, id string) string {
	if patient == "" {
		return "\x00" + id
	}
	return patient
}

// Origin is where the case was read, file:line.
func (c *Case) Origin() string { return c.at.String() }

// Dataset is an opened data set: tables read and checked, pixels not yet.
type Dataset struct {
	// Spec is what Open was given, Dir the folder its paths are relative to.
	Spec, Dir string
	Task      Task
	// Labels are the classification tasks, or the one set of lesion classes.
	Labels []sdk.LabelSet
	// AttributeColumns are the keys of every case's Attributes, in order.
	AttributeColumns []string
	// Schema is what the cells are bound to; nil before Bind.
	Schema *schema.Schema
	// Modalities are "volume" or "image.<name>", sorted.
	Modalities []string
	Cases      []Case
	// Hash is the SHA-256 over the tables' bytes and the image files' names and
	// sizes, in hexadecimal.
	Hash string
	// Entry is how the challenge that the data are of wants its test cases answered; nil: none.
	Entry *Entry
	// Warnings tell what was let pass, one line each. Leaks are those of them for which
	// results are better than they should be.
	Warnings, Leaks []string

	stacks map[string]*stack
	// windows that volumes, and slices in the place of pictures, are shown in, by modality;
	// none: the encoder's.
	windows map[string][]window
	// sizes holds height, width by image file.
	sizes map[string][2]int
	// huOnly: slices are 16-bit PNG in Hounsfield units and nothing else.
	huOnly bool
	// gate holds what a check refuses although one can train on it.
	gate Problems
	// patients are the numbers of the cases' patients as they were read (patientNumbers).
	patients []int32
	// pictureBits are the bits in use of 16-bit pictures.
	pictureBits int
}

// Splits returns the names of the splits with their number of cases, sorted.
func (d *Dataset) Splits() map[string]int {
	counts := map[string]int{}
	for i := range d.Cases {
		counts[d.Cases[i].Split]++
	}
	return counts
}

// InSplit reports whether a case of split belongs to what name names: the split, one of
// several joined by "+" as in "train+val", every split but one as in "!train", or, for ""
// and "all", any. All but a fold is the other folds: a test split beside them is withheld.
func InSplit(split, name string) bool {
	if but, ok := strings.CutPrefix(name, "!"); ok {
		return split != but && split != "" && (!isFold(but) || isFold(split))
	}
	return name == "" || name == "all" || split == name || slices.Contains(strings.Split(name, "+"), split)
}

// isFold reports whether a split is one of data split --folds.
func isFold(split string) bool {
	number, ok := strings.CutPrefix(split, "fold")
	_, err := strconv.ParseUint(number, 10, 32)
	return ok && err == nil
}

// Split returns the cases that InSplit finds in name, in the order of the table (Open
// warns of patients in two splits). It fails with ErrData for a split without cases,
// naming the splits there are.
func (d *Dataset) Split(name string) ([]Case, error) {
	if name == "" || name == "all" {
		return d.Cases, nil
	}
	counts, n := d.Splits(), 0
	for split, its := range counts {
		if InSplit(split, name) {
			n += its
		}
	}
	if counts[name] == 0 {
		for _, part := range strings.Split(name, "+") {
			if part = strings.TrimPrefix(part, "!"); counts[part] == 0 {
				return nil, d.noSuchSplit(part, counts)
			}
		}
	}
	cases := make([]Case, 0, n)
	for i := range d.Cases {
		if InSplit(d.Cases[i].Split, name) {
			cases = append(cases, d.Cases[i])
		}
	}
	return cases, nil
}

func (d *Dataset) noSuchSplit(name string, counts map[string]int) error {
	var there []string
	for split, n := range counts {
		there = append(there, fmt.Sprintf("%q (%d cases)", split, n))
	}
	slices.Sort(there)
	if len(there) == 0 {
		return fmt.Errorf("%w: %s: no cases at all", ErrData, d.Spec)
	}
	return fmt.Errorf("%w: %s: split %q has no cases%s; there are %s", ErrData, d.Spec, name, nearest.Meant(name, slices.Collect(maps.Keys(counts))), strings.Join(there, ", "))
}
