package frocio

import (
	"encoding/json"
	"io"
	"math"

	"github.com/alignedfusion/alignedfusion/eval/froc"
	"github.com/alignedfusion/alignedfusion/eval/resample"
)

// SchemaVersion is the version of the JSON report. It grows when a field changes
// its meaning or goes; new fields do not change it.
const SchemaVersion = 1

// Number is a float64 that JSON writes as null when it is not finite.
type Number float64

// MarshalJSON implements json.Marshaler.
func (n Number) MarshalJSON() ([]byte, error) {
	if v := float64(n); math.IsNaN(v) || math.IsInf(v, 0) {
		return []byte("null"), nil
	}
	return json.Marshal(float64(n))
}

// Range is a confidence interval, null when there is none.
type Range *[2]Number

// NewRange describes an interval.
func NewRange(i froc.Interval) Range {
	if math.IsNaN(i.Low) {
		return nil
	}
	return &[2]Number{Number(i.Low), Number(i.High)}
}

// Protocol is the resolved set of rules.
type Protocol struct {
	froc.Protocol
	Hit       string `json:"hit"`
	IgnoreHit string `json:"ignore_hit"`
}

// Point is an operating point.
type Point struct {
	FPPI        float64 `json:"fppi"`
	Sensitivity Number  `json:"sensitivity"`
	Threshold   Number  `json:"threshold"` // null: already the highest score exceeds fppi
	Reached     bool    `json:"reached"`   // false: the system never makes that many false positives
	CI          Range   `json:"ci"`        // null without a bootstrap
}

// System is one system's evaluation.
type System struct {
	Name            string           `json:"name,omitempty"`
	Counts          froc.Counts      `json:"counts"`
	OperatingPoints []Point          `json:"operating_points"`
	MeanSensitivity Number           `json:"mean_sensitivity"`
	MeanCI          Range            `json:"mean_sensitivity_ci"`
	AP              Number           `json:"ap"`
	APCI            Range            `json:"ap_ci"`
	Merit           map[string]Merit `json:"figures_of_merit"`
	FPPerUnit       Number           `json:"false_positives_per_unit"` // of all marks
	Precision       Number           `json:"precision"`                // of all marks: true positives of those and false ones
	F1              Number           `json:"f1"`                       // of precision and the sensitivity of all marks
	SilentImages    int              `json:"images_without_lesions_silent"`
	WithoutLesion   int              `json:"replicates_without_lesion"`
	APAtIoU         []APAtIoU        `json:"ap_at_iou,omitempty"`
	APMean          *Number          `json:"ap_mean,omitempty"` // over APAtIoU
	COCO            *COCO            `json:"coco,omitempty"`
	Strata          []Stratum        `json:"strata,omitempty"`
	Classes         []Class          `json:"classes,omitempty"`
	Macro           *Macro           `json:"macro,omitempty"` // over Classes with lesions
}

// COCO are the figures of COCOeval; null where there are no lesions.
type COCO struct {
	AP       Number            `json:"ap"`
	AP50     Number            `json:"ap50"`
	AP75     Number            `json:"ap75"`
	APSmall  Number            `json:"ap_small"`
	APMedium Number            `json:"ap_medium"`
	APLarge  Number            `json:"ap_large"`
	AR1      Number            `json:"ar1"`
	AR10     Number            `json:"ar10"`
	AR100    Number            `json:"ar100"`
	ARSmall  Number            `json:"ar_small"`
	ARMedium Number            `json:"ar_medium"`
	ARLarge  Number            `json:"ar_large"`
	Classes  map[string]Number `json:"ap_by_class,omitempty"`
}

// NewCOCO describes COCOeval's figures.
func NewCOCO(f *froc.COCOFigures) *COCO {
	out := &COCO{Number(f.AP), Number(f.AP50), Number(f.AP75), Number(f.APSmall), Number(f.APMedium), Number(f.APLarge),
		Number(f.AR1), Number(f.AR10), Number(f.AR100), Number(f.ARSmall), Number(f.ARMedium), Number(f.ARLarge), map[string]Number{}}
	for _, c := range f.Classes {
		if c.Class != "" {
			out.Classes[c.Class] = Number(c.AP)
		}
	}
	return out
}

// Class is the evaluation of one class by itself; sensitivities are null where it has no
// lesions.
type Class struct {
	Class string `json:"class"`
	System
}

// Macro are means over the classes that have lesions.
type Macro struct {
	Classes         int      `json:"classes"`
	Sensitivity     []Number `json:"sensitivity"` // at each operating point
	MeanSensitivity Number   `json:"mean_sensitivity"`
	MeanCI          Range    `json:"mean_sensitivity_ci"`
	AP              Number   `json:"ap"`
	APCI            Range    `json:"ap_ci"`
}

// Merit is a figure of merit; null when no image qualifies.
type Merit struct {
	Value Number `json:"value"`
	CI    Range  `json:"ci"`
}

// APAtIoU is average precision at one IoU.
type APAtIoU struct {
	IoU float64 `json:"iou"`
	AP  Number  `json:"ap"`
}

// Stratum is the evaluation of one stratum.
type Stratum struct {
	Column string `json:"column"`
	Value  string `json:"value"`
	System
}

// Difference is a paired difference, B minus A.
type Difference struct {
	Value        Number `json:"difference"`
	CI           Range  `json:"ci"`
	Resolvable   Number `json:"resolvable"` // the smallest difference that the test set can resolve
	BootstrapP   Number `json:"p_bootstrap"`
	PermutationP Number `json:"p_permutation"`
}

// PointDifference is a paired difference at one FPPI.
type PointDifference struct {
	FPPI float64 `json:"fppi"`
	Difference
}

// Pair is a comparison of two systems; the corrected p-values are of the mean.
type Pair struct {
	A                string            `json:"a"`
	B                string            `json:"b"`
	Mean             Difference        `json:"mean_sensitivity"`
	HolmBootstrapP   Number            `json:"p_bootstrap_holm"`
	HolmPermutationP Number            `json:"p_permutation_holm"`
	Verdict          resample.Verdict  `json:"verdict"` // of B: better, worse or not resolved
	Points           []PointDifference `json:"operating_points"`
	AP               Difference        `json:"ap"`
	AFROC            Difference        `json:"afroc"`
	AFROC1           Difference        `json:"afroc1"`
}

// Resampling says how intervals were made.
type Resampling struct {
	Replicates   int             `json:"replicates"`
	Permutations int             `json:"permutations"`
	Seed         uint64          `json:"seed"`
	Level        float64         `json:"level"`
	Method       resample.Method `json:"method"`
	Cluster      froc.Group      `json:"cluster"`
	Clusters     int             `json:"clusters"`
}

// Report is the whole outcome. With one system its fields stand at the top
// level; with several they stand under Systems.
type Report struct {
	SchemaVersion int         `json:"schema_version"`
	Protocol      Protocol    `json:"protocol"`
	Bootstrap     *Resampling `json:"bootstrap"` // null without
	Notes         []string    `json:"notes"`
	// Warnings say what makes figures better than they should be, or a comparison void.
	Warnings []string `json:"warnings,omitempty"`
	*System
	Systems    []System `json:"systems,omitempty"`
	Comparison []Pair   `json:"comparison,omitempty"`
}

// NewProtocol describes a protocol.
func NewProtocol(p froc.Protocol) Protocol {
	ignore := p.IgnoreHit
	if ignore == nil {
		ignore = p.Hit
	}
	return Protocol{p, froc.FormatHit(p.Hit), froc.FormatHit(ignore)}
}

// NewSystem describes a result; b may be nil.
func NewSystem(name string, r *froc.Result, b *froc.Bootstrap) System {
	s := System{
		Name: name, Counts: r.Counts, MeanSensitivity: Number(r.MeanSensitivity), AP: Number(r.AP),
		FPPerUnit: Number(r.FPPerUnit()),
		Merit:     map[string]Merit{}, SilentImages: r.Silent(),
	}
	precision, recall := r.AllMarks()
	s.Precision, s.F1 = Number(precision), Number(2*precision*recall/(precision+recall))
	var intervals froc.MeritIntervals
	if b != nil {
		intervals = b.Merit
	}
	for _, m := range []struct {
		key   string
		value float64
		ci    froc.Interval
	}{
		{"afroc", r.Merit.AFROC, intervals.AFROC}, {"afroc1", r.Merit.AFROC1, intervals.AFROC1},
		{"wafroc", r.Merit.WAFROC, intervals.WAFROC}, {"wafroc1", r.Merit.WAFROC1, intervals.WAFROC1},
		{"case_auroc", r.Merit.CaseAUROC, intervals.CaseAUROC}, {"lroc", r.Merit.LROC, intervals.LROC},
		{"ranking_score", r.Merit.Ranking, intervals.Ranking},
	} {
		one := Merit{Value: Number(m.value)}
		if b != nil {
			one.CI = NewRange(m.ci)
		}
		s.Merit[m.key] = one
	}
	for i, p := range r.OperatingPoints {
		point := Point{FPPI: p.FPPI, Sensitivity: Number(p.Sensitivity), Threshold: Number(p.Threshold), Reached: p.Reached}
		if b != nil {
			point.CI = NewRange(b.Points[i])
		}
		s.OperatingPoints = append(s.OperatingPoints, point)
	}
	if b == nil {
		return s
	}
	s.MeanCI, s.APCI, s.WithoutLesion = NewRange(b.Mean), NewRange(b.AP), b.WithoutLesion
	return s
}

// NewMacro describes a mean over classes, without intervals.
func NewMacro(m froc.Macro) *Macro {
	out := &Macro{Classes: m.Classes, MeanSensitivity: Number(m.MeanSensitivity), AP: Number(m.AP)}
	for _, s := range m.Sensitivity {
		out.Sensitivity = append(out.Sensitivity, Number(s))
	}
	return out
}

// NewPairs describes a comparison; fppi are the protocol's operating points.
func NewPairs(c *froc.Comparison, fppi []float64) []Pair {
	difference := func(d froc.Difference) Difference {
		return Difference{Number(d.Value), NewRange(d.CI), Number(d.Resolvable), Number(d.BootstrapP), Number(d.PermutationP)}
	}
	var out []Pair
	for _, p := range c.Pairs {
		pair := Pair{
			A: p.A, B: p.B, Mean: difference(p.Mean), AP: difference(p.AP), AFROC: difference(p.AFROC), AFROC1: difference(p.AFROC1),
			HolmBootstrapP: Number(p.HolmBootstrapP), HolmPermutationP: Number(p.HolmPermutationP), Verdict: p.Verdict,
		}
		for i, d := range p.Points {
			pair.Points = append(pair.Points, PointDifference{fppi[i], difference(d)})
		}
		out = append(out, pair)
	}
	return out
}

// NewResampling describes how a result's intervals were made.
func NewResampling(r *froc.Result, o froc.BootstrapOptions) *Resampling {
	return &Resampling{
		Replicates: o.Replicates, Permutations: o.Permutations, Seed: o.Seed, Level: o.Level, Method: o.Method,
		Cluster: r.Protocol.Cluster, Clusters: r.Clusters(),
	}
}

// WriteJSON writes v, a [Report] for instance, as indented JSON.
func WriteJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false) // hit rules contain < and >
	return e.Encode(v)
}
