package froc

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/alignedfusion/alignedfusion/internal/nearest"
)

// The rules of a protocol are strings, so that they read the same in code, on the
// command line and in the output, of a type each, so that none takes another's place.
type (
	// DuplicateRule says what a further mark on a lesion already found is.
	DuplicateRule string
	// MultipleRule says how many lesions one mark may find.
	MultipleRule string
	// Interpolation says how sensitivity is read between the points of the curve.
	Interpolation string
	// TieRule says what becomes of marks tied at the limit of marks per image.
	TieRule string
	// Group is what false positives are counted per, or what the bootstrap resamples.
	Group string
	// APRule says how average precision sums precision up.
	APRule string
	// ClassRule says whether a mark must be of the lesion's class.
	ClassRule string
	// Assignment says which mark of several takes a lesion.
	Assignment string
	// TiedScores says what marks of one score are on the curve.
	TiedScores string
	// StrataRule says what becomes of the lesions of other strata.
	StrataRule string
)

// The rules.
const (
	Free           DuplicateRule = "free"            // it does not count
	FalsePositive  DuplicateRule = "fp"              // it is a false positive
	All            MultipleRule  = "all"             // every lesion it hits
	One            MultipleRule  = "one"             // at most one lesion, the best of those not yet found
	Best           MultipleRule  = "best"            // the lesion it fits best alone, though it be found already
	Step           Interpolation = "step"            // sensitivity of the last threshold within the FPPI asked for
	Linear         Interpolation = "linear"          // straight lines between the points of the curve, from (0, 0)
	DropTies       TieRule       = "drop"            // marks tied with the first one over the cap are dropped with it
	KeepTies       TieRule       = "keep"            // marks tied with the last one under the cap are kept with it
	PerImage       Group         = "image"           // every image for itself
	PerVolume      Group         = "volume"          // the images of one scan
	PerPatient     Group         = "patient"         // the images of one patient
	AllPoints      APRule        = "all-points"      // area under the precision envelope at every recall
	RecallGrid     APRule        = "recall-grid-101" // mean precision envelope at recall 0, 0.01, …, 1 (COCO)
	StepPrecision  APRule        = "step"            // area under precision itself, without envelope (scikit-learn, PI-CAI)
	ByScore        Assignment    = "score"           // the one of the highest score: the curve is that of keeping marks above a threshold
	ByOverlap      Assignment    = "overlap"         // most pairs, then most overlap, whatever the scores (PI-CAI); not threshold consistent
	OneStep        TiedScores    = "step"            // one step: no threshold can part them
	InputOrder     TiedScores    = "input"           // a step each, in the order of the input (COCOeval); the order then matters
	SameClass      ClassRule     = "same"            // a mark finds lesions of its own class alone
	AnyClasses     ClassRule     = "any"             // all classes are taken as one
	StrataIgnore   StrataRule    = "ignore"          // they are ignored
	StrataAsPapers StrataRule    = "papers"          // they are removed, marks on them become false positives
)

// Protocol is the complete set of rules of an evaluation.
type Protocol struct {
	Name        string      `json:"name"`
	Description string      `json:"description"`
	Source      string      `json:"source"`
	Hit         []Criterion `json:"-"` // a prediction hits a lesion when one of them holds
	IgnoreHit   []Criterion `json:"-"` // the same for ignored lesions; nil: Hit
	// PlusOne measures a box from x1 to x2 as x2-x1+1 pixels (corners are pixel
	// indices) instead of x2-x1 (corners are positions).
	PlusOne        bool    `json:"plus_one"`
	SliceTolerance float64 `json:"slice_tolerance"` // slices by which a 2-D box on a slice may lie apart

	Duplicates    DuplicateRule `json:"duplicates"`    // Free or FalsePositive
	Multiple      MultipleRule  `json:"multiple"`      // All, One or Best
	MaxPerImage   int           `json:"max_per_image"` // marks kept per image, highest scores first; 0: all
	CapTies       TieRule       `json:"cap_ties"`      // DropTies or KeepTies
	FPPI          []float64     `json:"fppi"`          // operating points, false positives per unit
	Interpolation Interpolation `json:"interpolation"` // Step or Linear
	Unit          Group         `json:"unit"`          // what false positives are counted per: PerImage, PerVolume, PerPatient
	Cluster       Group         `json:"cluster"`       // what the bootstrap resamples: PerPatient, PerVolume, PerImage
	AP            APRule        `json:"ap"`            // AllPoints, RecallGrid or StepPrecision
	Assignment    Assignment    `json:"assignment"`    // ByScore or ByOverlap
	Ties          TiedScores    `json:"ties"`          // OneStep or InputOrder
	Classes       ClassRule     `json:"classes"`       // SameClass or AnyClasses
}

// presets are the protocols with a name, in the order in which they are listed. To add
// one, add a line here and its constructor below: command line, settings, help and
// `froc protocols` take it from this table.
var presets = []func() Protocol{DeepLesion, LUNA16, LENS, PICAI, func() Protocol { return COCO(0.5) }, NNDetection, RibFrac, CAMELYON16,
	DBTex, ReXGrounding, SmallLesion, StrictProtocol}

// Protocols returns every preset.
func Protocols() []Protocol {
	out := make([]Protocol, len(presets))
	for i, preset := range presets {
		out[i] = preset()
	}
	return out
}

// ProtocolNames returns the names of the presets.
func ProtocolNames() []string {
	var names []string
	for _, p := range Protocols() {
		names = append(names, p.Name)
	}
	return names
}

// ProtocolByName returns the preset of that name.
func ProtocolByName(name string) (Protocol, error) {
	names := ProtocolNames()
	if i := slices.Index(names, name); i >= 0 {
		return presets[i](), nil
	}
	return Protocol{}, fmt.Errorf("protocol %q is unknown%s; there are %s", name, nearest.Meant(name, names), strings.Join(names, ", "))
}

// overlap is the rule that a measure reaches a threshold.
func overlap(m Measure, threshold float64) []Criterion {
	return []Criterion{{Measure: m, Threshold: threshold}}
}

// withinRadius is LUNA16's rule: the centres are nearer than the lesion's radius.
func withinRadius() []Criterion {
	return []Criterion{{Measure: Distance, Threshold: 1, Strict: true, Unit: OfRadius}}
}

func base() Protocol {
	return Protocol{
		Duplicates: Free, Multiple: All, CapTies: DropTies, Interpolation: Step,
		Unit: PerImage, Cluster: PerPatient, AP: AllPoints, Classes: SameClass,
		Assignment: ByScore, Ties: OneStep,
	}
}

// DeepLesion is the rule of the DeepLesion literature (3DCE, MULAN, AlignShift,
// A3D, SATr): boxes on key slices, IoU >= 0.5 with the +1 pixel convention,
// further marks on a found lesion are free, one mark may find several lesions,
// sensitivity linearly interpolated at false positives per key slice.
func DeepLesion() Protocol {
	p := base()
	p.Name = "deeplesion"
	p.Description = "2-D boxes on key slices, IoU >= 0.5 (+1 pixel), duplicates free, mean sensitivity at 0.5, 1, 2, 4 FP per slice"
	p.Source = "evaluation code of 3DCE/MULAN (rsummers11/CADLab) and AlignShift/A3D (M3DV/AlignShift)"
	p.Hit, p.PlusOne = overlap(IoU, 0.5), true
	p.FPPI, p.Interpolation = []float64{0.5, 1, 2, 4}, Linear
	return p
}

// LUNA16 is the rule of the LUNA16 challenge: a mark hits when it is nearer to
// the nodule's centre than its radius, marks on excluded findings are ignored,
// at most 100 marks per scan, mean sensitivity (CPM) at 1/8 to 8 FP per scan.
func LUNA16() Protocol {
	p := base()
	p.Name = "luna16"
	p.Description = "3-D points, centre distance < radius, excluded findings ignored, 100 marks per scan, CPM at 1/8 … 8 FP per scan"
	p.Source = "LUNA16 challenge, noduleCADEvaluationLUNA16.py; Setio et al., Medical Image Analysis 42 (2017)"
	p.Hit = withinRadius()
	p.MaxPerImage, p.FPPI, p.Interpolation = 100, eighthToEight(), Linear
	return p
}

// LENS is the rule of the multi-dataset universal lesion detector LENS: 3-D
// boxes against 3-D boxes or against a 2-D box on one slice, intersection over
// the detected box >= 0.3, 1/8 to 8 FP per volume.
func LENS() Protocol {
	p := base()
	p.Name = "lens"
	p.Description = "3-D boxes (2-D ground truth on a slice allowed), IoBB >= 0.3 (+1), duplicates free, 1/8 … 8 FP per volume"
	p.Source = "Yan et al., IEEE TMI 2020, general_detection_evaluation (rsummers11/CADLab, LENS)"
	p.Hit, p.PlusOne = overlap(IoBB, 0.3), true
	p.FPPI, p.Interpolation = eighthToEight(), Linear
	return p
}

// PICAI is picai_eval 1.4.13: masks, IoU >= 0.1, one candidate per lesion by the assignment
// with the most pairs and then the most overlap, further candidates on it free, average
// precision without envelope, AUROC of cases, ranking score. With Assignment set to ByScore
// the curve is threshold consistent.
func PICAI() Protocol {
	p := base()
	p.Name = "picai"
	p.Description = "mask against mask, IoU >= 0.1, one candidate per lesion by overlap, duplicates free, per case; AP, case AUROC, ranking score"
	p.Source = "picai_eval 1.4.13 (DIAGNijmegen)"
	p.Hit, p.Multiple, p.Assignment, p.AP = overlap(IoU, 0.1), One, ByOverlap, StepPrecision
	p.FPPI = eighthToEight()
	return p
}

// COCO is greedy matching as in the COCO evaluation: each lesion is found once
// by the highest-scoring mark with IoU >= iou, further marks are false
// positives, 100 marks per image, AP on 101 recall values. [COCOeval] has the
// twelve figures over IoUs, areas and classes.
func COCO(iou float64) Protocol {
	p := base()
	p.Name = "coco"
	p.Description = "2-D boxes, one mark per lesion at the given IoU, duplicates are FP, 100 marks per image, AP on 101 recall values"
	p.Source = "pycocotools 2.0.11, COCOeval (cocodataset/cocoapi); Lin et al., ECCV 2014"
	p.Hit = overlap(IoU, iou)
	p.IgnoreHit = overlap(IoBB, iou)
	p.Duplicates, p.Multiple, p.MaxPerImage, p.CapTies, p.AP = FalsePositive, One, 100, KeepTies, RecallGrid
	p.FPPI = []float64{0.5, 1, 2, 4}
	return p
}

// NNDetection is nnDetection's FROC: COCO's matching at IoU 0.1, linear interpolation at 1/8
// to 8 false positives per image. Its figures are by class; see [ByClass].
func NNDetection() Protocol {
	p := COCO(0.1)
	p.Name = "nndetection"
	p.Description = "2-D or 3-D boxes, one mark per lesion at IoU >= 0.1, duplicates are FP, 100 marks per image, 1/8 … 8 FP per image"
	p.Source = "nnDetection 0.1, nndet/evaluator/detection (MIC-DKFZ/nnDetection)"
	p.FPPI, p.Interpolation = eighthToEight(), Linear
	return p
}

// RibFrac is the rule of the RibFrac challenge: masks, IoU > 0.2, a mark belongs to the
// fracture it overlaps most, further marks on it are free, 0.5 to 8 false positives per scan.
// The challenge looks at 100 thresholds, 0 to 0.99; here every score is one.
func RibFrac() Protocol {
	p := base()
	p.Name = "ribfrac"
	p.Description = "mask against mask, IoU > 0.2, a mark belongs to the fracture it fits best, duplicates free, 0.5 … 8 FP per scan"
	p.Source = "ribfrac/evaluation.py (M3DV/RibFrac-Challenge)"
	p.Hit = []Criterion{{Measure: IoU, Threshold: 0.2, Strict: true}}
	p.Multiple, p.FPPI, p.Interpolation = Best, []float64{0.5, 1, 2, 4, 8}, Linear
	return p
}

// CAMELYON16 is the rule of that challenge: a point hits the metastasis in whose mask it
// lies, further points are free, points on isolated tumour cells (ignored lesions) count as
// nothing, 1/4 to 8 false positives per slide.
func CAMELYON16() Protocol {
	p := base()
	p.Name = "camelyon16"
	p.Description = "points in masks or boxes, duplicates free, isolated tumour cells ignored, 1/4 … 8 FP per slide"
	p.Source = "CAMELYON16 challenge, Evaluation_FROC.py; Ehteshami Bejnordi et al., JAMA 318 (2017)"
	p.Hit = []Criterion{{Measure: Inside}}
	p.Multiple, p.FPPI, p.Interpolation = Best, []float64{0.25, 0.5, 1, 2, 4, 8}, Linear
	return p
}

// DBTex is the rule of the DBTex challenges of breast tomosynthesis: the centres are nearer
// in the plane than half the diagonal of the lesion's box or 100 pixels, and within a quarter
// of the image's slices. Images need their number of slices.
func DBTex() Protocol {
	p := base()
	p.Name = "dbtex"
	p.Description = "3-D boxes, in-plane centre distance <= max(half diagonal, 100 px), within 25 % of the slices, 1 … 4 FP per volume"
	p.Source = "duke_dbt_data.py (mazurowski-lab/duke-dbt-data)"
	p.Hit = []Criterion{{
		Measure: InPlane, Threshold: 0.5, Unit: OfDiagonal, AtLeast: 100, And: []Criterion{{Measure: Slices, Threshold: 0.25, Unit: OfDepth}},
	}}
	p.Multiple, p.FPPI, p.Interpolation = Best, []float64{1, 2, 3, 4}, Linear
	return p
}

// ReXGrounding is the rule of ReXGroundingCT for instances: an image is a sentence of a
// report, which speaks of no finding, one or several; masks, Dice >= 0.2, one mark per
// finding. A mark for a sentence that denies is a false positive.
func ReXGrounding() Protocol {
	p := base()
	p.Name = "rexgrounding"
	p.Description = "an image is a sentence with 0, 1 or n findings; masks, Dice >= 0.2, one mark per finding, duplicates are FP"
	p.Source = "ReXGroundingCT leaderboard (rexrank.ai); Baharoon et al., 2025"
	p.Hit = overlap(Dice, 0.2)
	p.Duplicates, p.Multiple, p.FPPI = FalsePositive, One, []float64{0.25, 0.5, 1, 2}
	return p
}

// SmallLesion is for lesions of a few pixels, where a shift of one pixel ruins
// any IoU: a mark hits when its centre is nearer than the lesion's radius or
// the boxes overlap with IoU >= 0.3. A mark centred in an ignored region is ignored.
func SmallLesion() Protocol {
	p := base()
	p.Name = "small-lesion"
	p.Description = "2-D boxes of a few pixels, centre distance < radius or IoU >= 0.3, duplicates free, mean sensitivity at 0.5, 1, 2 FP per image"
	p.Source = "this project; the centre rule is LUNA16's in the plane"
	p.Hit, p.IgnoreHit = append(withinRadius(), overlap(IoU, 0.3)...), withinRadius()
	p.FPPI = []float64{0.5, 1, 2}
	return p
}

// StrictProtocol is what we recommend for new work: IoU >= 0.5 without the +1
// pixel, one mark finds one lesion, every further mark costs a false positive,
// and no interpolation: each reported sensitivity was reached by a threshold.
func StrictProtocol() Protocol {
	p := base()
	p.Name = "strict"
	p.Description = "IoU >= 0.5, one mark per lesion, duplicates are FP, step interpolation, clusters are patients"
	p.Source = "this project's recommendation"
	p.Hit, p.IgnoreHit = overlap(IoU, 0.5), append(overlap(IoU, 0.5), Criterion{Measure: Inside})
	p.Duplicates, p.Multiple = FalsePositive, One
	p.FPPI = eighthToEight()
	return p
}

func eighthToEight() []float64 { return []float64{0.125, 0.25, 0.5, 1, 2, 4, 8} }

// Check returns an error that names the first rule which is missing or unknown.
func (p *Protocol) Check() error {
	if p == nil {
		return errors.New("no protocol")
	}
	if len(p.Hit) == 0 {
		return fmt.Errorf("protocol %q has no hit rule", p.Name)
	}
	for _, c := range slices.Concat(p.Hit, p.IgnoreHit) {
		if err := c.check(); err != nil {
			return err
		}
	}
	for _, err := range []error{
		oneOf("duplicates", p.Duplicates, Free, FalsePositive),
		oneOf("multiple", p.Multiple, All, One, Best),
		oneOf("cap ties", p.CapTies, DropTies, KeepTies),
		oneOf("interpolation", p.Interpolation, Step, Linear),
		oneOf("unit", p.Unit, PerImage, PerVolume, PerPatient),
		oneOf("cluster", p.Cluster, PerImage, PerVolume, PerPatient),
		oneOf("ap", p.AP, AllPoints, RecallGrid, StepPrecision),
		oneOf("assignment", p.Assignment, ByScore, ByOverlap),
		oneOf("ties", p.Ties, OneStep, InputOrder),
		oneOf("classes", p.Classes, SameClass, AnyClasses),
	} {
		if err != nil {
			return fmt.Errorf("protocol %q: %w", p.Name, err)
		}
	}
	if !(p.SliceTolerance >= 0) || math.IsInf(p.SliceTolerance, 0) {
		return fmt.Errorf("protocol %q: a tolerance of %v slices, want 0 or more", p.Name, p.SliceTolerance)
	}
	if p.Assignment == ByOverlap && p.Multiple != One {
		return fmt.Errorf("protocol %q: assignment by overlap gives a mark one lesion; multiple is %q", p.Name, p.Multiple)
	}
	// A cluster must contain whole units, or a resample would tear one apart.
	rank := map[Group]int{PerImage: 0, PerVolume: 1, PerPatient: 2}
	if rank[p.Cluster] < rank[p.Unit] {
		return fmt.Errorf("protocol %q: cluster %q is smaller than unit %q", p.Name, p.Cluster, p.Unit)
	}
	if p.MaxPerImage < 0 {
		return fmt.Errorf("protocol %q: %d marks per image, want 0 (all) or more", p.Name, p.MaxPerImage)
	}
	if len(p.FPPI) == 0 {
		return fmt.Errorf("protocol %q lists no false positives per image", p.Name)
	}
	for i, x := range p.FPPI {
		if !(x >= 0) || math.IsInf(x, 0) {
			return fmt.Errorf("protocol %q: %v false positives per image, want 0 or more", p.Name, x)
		}
		if i > 0 && x <= p.FPPI[i-1] {
			return fmt.Errorf("protocol %q: false positives per image must ascend, %v stands after %v", p.Name, x, p.FPPI[i-1])
		}
	}
	return nil
}

func oneOf[T ~string](name string, value T, want ...T) error {
	if !slices.Contains(want, value) {
		return fmt.Errorf("%s is %q, want one of %v", name, value, want)
	}
	return nil
}

// rules returns the protocol without what only describes it.
func (p Protocol) rules() Protocol {
	p.IgnoreHit = p.ignoreHit()
	p.Name, p.Description, p.Source = "", "", ""
	return p
}

// ignoreHit returns the rule for ignored lesions.
func (p *Protocol) ignoreHit() []Criterion {
	if p.IgnoreHit != nil {
		return p.IgnoreHit
	}
	return p.Hit
}
