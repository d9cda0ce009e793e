package froc

import (
	"fmt"
	"math"
	"slices"
)

// Rules of a protocol. They are strings so that they read the same in code, on
// the command line and in the output.
const (
	Free           = "free"            // Duplicates: a further mark on a lesion already found does not count
	FalsePositive  = "fp"              // Duplicates: a further mark on a lesion already found is a false positive
	All            = "all"             // Multiple: one mark finds every lesion it hits
	One            = "one"             // Multiple: one mark finds at most one lesion
	Step           = "step"            // Interpolation: sensitivity of the last threshold within the FPPI asked for
	Linear         = "linear"          // Interpolation: straight lines between the points of the curve, from (0, 0)
	DropTies       = "drop"            // CapTies: marks tied with the first one over the cap are dropped with it
	KeepTies       = "keep"            // CapTies: marks tied with the last one under the cap are kept with it
	PerImage       = "image"           // Unit and Cluster
	PerVolume      = "volume"          // Unit and Cluster
	PerPatient     = "patient"         // Unit and Cluster
	AllPoints      = "all-points"      // AP: area under the precision envelope at every recall
	RecallGrid     = "recall-grid-101" // AP: mean precision envelope at recall 0, 0.01, …, 1 (COCO)
	StrataIgnore   = "ignore"          // lesions of other strata are ignored
	StrataAsPapers = "papers"          // lesions of other strata are removed, marks on them become false positives
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
	PlusOne       bool      `json:"plus_one"`
	Duplicates    string    `json:"duplicates"`    // Free or FalsePositive
	Multiple      string    `json:"multiple"`      // All or One
	MaxPerImage   int       `json:"max_per_image"` // marks kept per image, highest scores first; 0: all
	CapTies       string    `json:"cap_ties"`      // DropTies or KeepTies
	FPPI          []float64 `json:"fppi"`          // operating points, false positives per unit
	Interpolation string    `json:"interpolation"` // Step or Linear
	Unit          string    `json:"unit"`          // what false positives are counted per: PerImage, PerVolume, PerPatient
	Cluster       string    `json:"cluster"`       // what the bootstrap resamples: PerPatient, PerVolume, PerImage
	AP            string    `json:"ap"`            // AllPoints or RecallGrid
}

func mustHit(text string) []Criterion {
	c, err := ParseHit(text)
	if err != nil {
		panic(err) // only for the constant rules below
	}
	return c
}

func base() Protocol {
	return Protocol{
		Duplicates: Free, Multiple: All, CapTies: DropTies, Interpolation: Step,
		Unit: PerImage, Cluster: PerPatient, AP: AllPoints,
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
	p.Hit, p.PlusOne = mustHit("iou>=0.5"), true
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
	p.Hit = mustHit("distance<radius")
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
	p.Hit, p.PlusOne = mustHit("iobb>=0.3"), true
	p.FPPI, p.Interpolation = eighthToEight(), Linear
	return p
}

// PICAI matches masks like the PI-CAI challenge (IoU >= 0.1, one candidate per
// lesion, further candidates on it are free) but in the order of scores instead
// of by one assignment over all thresholds, so that the curve stays threshold
// consistent.
func PICAI() Protocol {
	p := base()
	p.Name = "picai"
	p.Description = "mask against mask, IoU >= 0.1, one candidate per lesion, duplicates free, per case"
	p.Source = "after picai_eval (DIAGNijmegen), with matching in score order instead of Hungarian assignment"
	p.Hit, p.Multiple = mustHit("iou>=0.1"), One
	p.FPPI = eighthToEight()
	return p
}

// COCO is greedy matching as in the COCO evaluation: each lesion is found once
// by the highest-scoring mark with IoU >= iou, further marks are false
// positives, 100 marks per image, AP on 101 recall values.
func COCO(iou float64) Protocol {
	p := base()
	p.Name = "coco"
	p.Description = "2-D boxes, one mark per lesion at the given IoU, duplicates are FP, 100 marks per image, AP on 101 recall values"
	p.Source = "pycocotools COCOeval (cocodataset/cocoapi); Lin et al., ECCV 2014"
	p.Hit = []Criterion{{Measure: IoU, Threshold: iou}}
	p.IgnoreHit = []Criterion{{Measure: IoBB, Threshold: iou}}
	p.Duplicates, p.Multiple, p.MaxPerImage, p.CapTies, p.AP = FalsePositive, One, 100, KeepTies, RecallGrid
	p.FPPI = []float64{0.5, 1, 2, 4}
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
	p.Hit, p.IgnoreHit = mustHit("distance<radius | iou>=0.3"), mustHit("distance<radius")
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
	p.Hit, p.IgnoreHit = mustHit("iou>=0.5"), mustHit("iou>=0.5 | inside")
	p.Duplicates, p.Multiple = FalsePositive, One
	p.FPPI = eighthToEight()
	return p
}

func eighthToEight() []float64 { return []float64{0.125, 0.25, 0.5, 1, 2, 4, 8} }

// Protocols returns every preset.
func Protocols() []Protocol {
	return []Protocol{DeepLesion(), LUNA16(), LENS(), PICAI(), COCO(0.5), SmallLesion(), StrictProtocol()}
}

// ProtocolByName returns the preset of that name.
func ProtocolByName(name string) (Protocol, error) {
	var names []string
	for _, p := range Protocols() {
		if p.Name == name {
			return p, nil
		}
		names = append(names, p.Name)
	}
	return Protocol{}, fmt.Errorf("protocol %q is unknown, want one of %v", name, names)
}

// Check returns an error that names the first rule which is missing or unknown.
func (p *Protocol) Check() error {
	if len(p.Hit) == 0 {
		return fmt.Errorf("protocol %q has no hit rule", p.Name)
	}
	for _, c := range slices.Concat(p.Hit, p.IgnoreHit) {
		if err := c.check(); err != nil {
			return err
		}
	}
	for _, rule := range []struct {
		name, value string
		want        []string
	}{
		{"duplicates", p.Duplicates, []string{Free, FalsePositive}},
		{"multiple", p.Multiple, []string{All, One}},
		{"cap ties", p.CapTies, []string{DropTies, KeepTies}},
		{"interpolation", p.Interpolation, []string{Step, Linear}},
		{"unit", p.Unit, []string{PerImage, PerVolume, PerPatient}},
		{"cluster", p.Cluster, []string{PerImage, PerVolume, PerPatient}},
		{"ap", p.AP, []string{AllPoints, RecallGrid}},
	} {
		if !slices.Contains(rule.want, rule.value) {
			return fmt.Errorf("protocol %q: %s is %q, want one of %v", p.Name, rule.name, rule.value, rule.want)
		}
	}
	// A cluster must contain whole units, or a resample would tear one apart.
	rank := map[string]int{PerImage: 0, PerVolume: 1, PerPatient: 2}
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

// ignoreHit returns the rule for ignored lesions.
func (p *Protocol) ignoreHit() []Criterion {
	if p.IgnoreHit != nil {
		return p.IgnoreHit
	}
	return p.Hit
}
