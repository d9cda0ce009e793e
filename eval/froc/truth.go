package froc

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"

	"github.com/alignedfusion/alignedfusion/internal/stat"
)

// Image is one searched image: a slice, a volume or a scan.
type Image struct {
	ID      string
	Patient string // the cluster for resampling; empty: the image is its own patient
	Volume  string // the scan a slice belongs to; empty: the image is its own volume
	// SpacingMM are the millimetres per unit of x, y and z, by which distances are measured;
	// 0: 1, coordinates are as they are. The radius of a point is in millimetres then.
	SpacingMM [3]float64
	Slices    int // the image's depth, for rules of a share of it; 0: unknown
	// Weight says how many images this one stands for where the sample is weighted: its
	// lesions, its marks and itself count so many times everywhere, as if it were there as
	// often. 0: once.
	Weight int
}

// weight is how often an image counts.
func (im *Image) weight() int { return max(im.Weight, 1) }

// patient returns the patient's key; images without one stand for themselves.
func (im *Image) patient() string {
	if im.Patient != "" {
		return im.Patient
	}
	return im.ID
}

func (im *Image) volume() string {
	if im.Volume != "" {
		return im.Volume
	}
	return im.ID
}

// Lesion is one annotated finding.
type Lesion struct {
	Image  int // index into Truth.Images
	Region Region
	Ignore bool     // neither finding it nor missing it counts, and marks on it are not false positives
	Strata []string // values for Truth.Strata, in its order; may be nil
	// Class is an index into Truth.Classes, [AnyClass] for a region that marks of every class
	// may hit. Without Truth.Classes it means nothing.
	Class int32
	// Weight is its share among the lesions of its image in the weighted figures of merit, in
	// any unit; 0 throughout an image: all weigh the same.
	Weight float64
	// Area is that of the lesion's shape where the region is only its box, as a COCO
	// annotation has it; 0: the region's. It decides the size of COCO's areas.
	Area float64

	otherStratum bool // ignored for the stratum being evaluated: still hit by the rule of counted lesions
}

// Truth is what is known about the images.
type Truth struct {
	Images  []Image  // every searched image once, lesion-free ones included: their number is the divisor of FPPI
	Lesions []Lesion // findings, ignored ones included
	Strata  []string // names of the columns of Lesion.Strata
	// Classes are what lesions and predictions are of; empty: all are of one. Marks find
	// lesions of their own class alone, unless the protocol says [AnyClasses].
	Classes []string
}

// AnyClass is the class of a lesion or a mark that goes with every class.
const AnyClass = -1

// Prediction is one mark of a detector. Only the order of scores matters.
type Prediction struct {
	Image  int // index into Truth.Images
	Region Region
	Score  float64 // finite; greater is more suspicious
	Class  int32   // index into Truth.Classes, or AnyClass; without Truth.Classes it means nothing
}

// MaxWeight is the greatest weight of an image, and mostSteps what the steps of a curve may be
// with weights: those of an image are there as often as it weighs.
const MaxWeight, mostSteps = 10_000, 1 << 27

// ErrNoLesions is returned when no lesion counts, so that sensitivity is undefined.
var ErrNoLesions = errors.New("no lesion counts: sensitivity is undefined")

// ErrNoImages is returned when the truth lists no image, so that false
// positives per image are undefined.
var ErrNoImages = errors.New("no images: false positives per image are undefined")

// Check returns an error that names the first image or lesion which cannot be
// evaluated: an image id twice, a volume with two patients, an index out of
// range, or a region that [Region.Check] refuses.
func (t *Truth) Check() error {
	if t == nil || len(t.Images) == 0 {
		return ErrNoImages
	}
	if a, b, twice := stat.Twice(len(t.Images), func(i int) string { return t.Images[i].ID }); twice {
		return fmt.Errorf("image id %q stands twice, as images %d and %d", t.Images[a].ID, a, b)
	}
	patientOf := map[string]string{}
	for i := range t.Images {
		im := &t.Images[i]
		for _, v := range im.SpacingMM {
			if !(v >= 0) || math.IsInf(v, 0) {
				return fmt.Errorf("image %q: spacing %v, want millimetres above 0", im.ID, im.SpacingMM)
			}
		}
		if im.Weight < 0 || im.Weight > MaxWeight {
			return fmt.Errorf("image %q: weight %d, want 0 to %d", im.ID, im.Weight, MaxWeight)
		}
		if im.Volume == "" {
			continue
		}
		if p, known := patientOf[im.Volume]; known && p != im.patient() {
			return fmt.Errorf("volume %q has two patients, %q and %q", im.Volume, p, im.patient())
		}
		patientOf[im.Volume] = im.patient()
	}
	for i := range t.Lesions {
		l := &t.Lesions[i]
		if l.Image < 0 || l.Image >= len(t.Images) {
			return fmt.Errorf("lesion %d: image index %d, want 0 to %d", i, l.Image, len(t.Images)-1)
		}
		if err := l.Region.Check(); err != nil {
			return fmt.Errorf("lesion %d in image %q: %w", i, t.Images[l.Image].ID, err)
		}
		if !(l.Weight >= 0) || math.IsInf(l.Weight, 0) {
			return fmt.Errorf("lesion %d in image %q: weight %v, want 0 or more", i, t.Images[l.Image].ID, l.Weight)
		}
		if err := t.checkClass(l.Class); err != nil {
			return fmt.Errorf("lesion %d in image %q: %w", i, t.Images[l.Image].ID, err)
		}
	}
	return nil
}

// imageOrder returns the place of every image in the order of ids: as numbers where all are
// numbers, else as text.
func (t *Truth) imageOrder() []int {
	numbers := make([]int64, len(t.Images))
	numeric := true
	order := make([]int, len(t.Images))
	for i := range t.Images {
		order[i] = i
		n, err := strconv.ParseInt(t.Images[i].ID, 10, 64)
		numbers[i], numeric = n, numeric && err == nil
	}
	slices.SortFunc(order, func(a, b int) int {
		if numeric {
			return cmp.Compare(numbers[a], numbers[b])
		}
		return cmp.Compare(t.Images[a].ID, t.Images[b].ID)
	})
	place := make([]int, len(order))
	for k, i := range order {
		place[i] = k
	}
	return place
}

// checkClass returns an error for an index that is no class.
func (t *Truth) checkClass(class int32) error {
	if len(t.Classes) > 0 && (class < AnyClass || int(class) >= len(t.Classes)) {
		return fmt.Errorf("class %d, want 0 to %d, or %d for any", class, len(t.Classes)-1, AnyClass)
	}
	return nil
}

func checkPredictions(t *Truth, predictions []Prediction) error {
	for i := range predictions {
		p := &predictions[i]
		if p.Image < 0 || p.Image >= len(t.Images) {
			return fmt.Errorf("mark %d: image index %d, want 0 to %d", i, p.Image, len(t.Images)-1)
		}
		if math.IsNaN(p.Score) || math.IsInf(p.Score, 0) {
			return fmt.Errorf("mark %d in image %q: score is %v, want a finite number", i, t.Images[p.Image].ID, p.Score)
		}
		if err := p.Region.Check(); err != nil {
			return fmt.Errorf("mark %d in image %q: %w", i, t.Images[p.Image].ID, err)
		}
		if err := t.checkClass(p.Class); err != nil {
			return fmt.Errorf("mark %d in image %q: %w", i, t.Images[p.Image].ID, err)
		}
	}
	return nil
}
