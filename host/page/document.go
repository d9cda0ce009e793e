// Package page shows what one or more systems did with the images of a split: one HTML file
// that asks for nothing from anywhere (HTML), or the same page with slices on demand (Serve).
// Both show a Document, which Gather makes of runs, or of a ground truth and predictions.
package page

import (
	"github.com/alignedfusion/alignedfusion/eval/froc/frocio"
	"github.com/alignedfusion/alignedfusion/host/report/schema"
	"github.com/alignedfusion/alignedfusion/host/runs"
	"github.com/alignedfusion/alignedfusion/host/workflow"
	"github.com/alignedfusion/alignedfusion/host/workflow/predictions"
)

// DocumentVersion is the schema_version of a Document.
const DocumentVersion = 1

// Document is everything the page shows but the pixels.
type Document struct {
	SchemaVersion int    `json:"schema_version"`
	Title         string `json:"title"`
	Version       string `json:"version"`
	Made          string `json:"made"` // UTC
	Task          string `json:"task"` // detect or classify; empty: data alone
	Split         string `json:"split,omitempty"`
	// Hashed says that ids and names of files are pseudonyms.
	Hashed     bool            `json:"hashed"`
	Systems    []System        `json:"systems"`
	Cases      []Case          `json:"cases"`
	Attributes []Attribute     `json:"attributes,omitempty"`
	Lesions    []Lesion        `json:"lesions,omitempty"`
	Detection  *Detection      `json:"detection,omitempty"`
	Classified []Classified    `json:"classified,omitempty"`
	Measured   []Measured      `json:"measured,omitempty"`
	Study      any             `json:"study,omitempty"` // table.json of a study
	Warnings   []string        `json:"warnings,omitempty"`
	Notes      []string        `json:"notes,omitempty"`
	Checklist  []ChecklistItem `json:"checklist,omitempty"`
	Pictures   Pictures        `json:"pictures"`
}

// System is a run, or a file of predictions.
type System struct {
	Name string `json:"name"`
	// Manifest and Config are a run's, Training the points of its curves.
	Manifest    *runs.Manifest `json:"manifest,omitempty"`
	Config      string         `json:"config,omitempty"`
	Training    []runs.Record  `json:"training,omitempty"`
	Calibration string         `json:"calibration,omitempty"`
	// Recovered are values of what reports do not mention, by case.
	Recovered map[int][]predictions.Reconstructed `json:"recovered,omitempty"`
	// Probabilities with other reports, by kind: [case][label set][class], null where unknown.
	Counterfactual map[predictions.CounterfactualKind][][][]float64 `json:"counterfactual,omitempty"`
}

// Case is an image, or the pictures of a finding.
type Case struct {
	ID      string `json:"id"`
	Patient string `json:"patient,omitempty"`
	Height  int    `json:"h,omitempty"`
	Width   int    `json:"w,omitempty"`
	// SpacingMM is z, y, x.
	SpacingMM [3]float64 `json:"mm"`
	// Modalities are those with pictures; Low to High the offsets of the slices there are.
	Modalities []string `json:"pictures,omitempty"`
	Low        int      `json:"low,omitempty"`
	High       int      `json:"high,omitempty"`
	// Key is the number of the key slice in its volume.
	Key int `json:"key,omitempty"`
	// Cells are parallel to Document.Attributes; nil where the case has none.
	Cells []Cell `json:"cells,omitempty"`
}

// Attribute is one of the schema's, with how frequent its values are in training.
type Attribute struct {
	Name   string      `json:"name"`
	Kind   schema.Kind `json:"kind"`
	Values []string    `json:"values"`
	Prior  []float64   `json:"prior,omitempty"`
}

// Cell is what a report says of an attribute.
type Cell struct {
	State string `json:"s"`
	Text  string `json:"t,omitempty"`
	Words string `json:"w,omitempty"` // the report's own
}

// Lesion is one of the ground truth, its box as x1 y1 x2 y2, or with z1 z2 behind them.
type Lesion struct {
	Case   int       `json:"case"`
	Box    []float64 `json:"box"`
	Class  string    `json:"class,omitempty"`
	Ignore bool      `json:"ignore,omitempty"`
	Strata []string  `json:"strata,omitempty"` // parallel to Detection.StrataColumns
}

// Detection is the evaluation of detectors.
type Detection struct {
	Report        frocio.Report `json:"report"`
	Rules         []string      `json:"rules"`
	StrataColumns []string      `json:"strata_columns,omitempty"`
	// StrataLesions are those of each of a system's strata, in the order of the report.
	StrataLesions [][]int `json:"strata_lesions,omitempty"`
	// Consistent says that a mark's fate does not depend on the threshold.
	Consistent bool       `json:"consistent"`
	Units      int        `json:"units"`
	Systems    []Detector `json:"systems"` // parallel to Document.Systems
}

// Detector are the marks and the curve of one system. The slices of marks are parallel.
type Detector struct {
	Case  []int       `json:"case"`
	Box   [][]float64 `json:"box"`
	Score []float64   `json:"score"`
	Class []string    `json:"class,omitempty"`
	Fate  []string    `json:"fate"`   // tp, fp, dup, ign or cap
	Mark  []int       `json:"lesion"` // the lesion that it found or hit; -1: none
	// Other scores of the box with other reports, null where the box is not there then.
	Other map[predictions.CounterfactualKind][]*float64 `json:"other,omitempty"`
	// Found is the mark that found each lesion, Near the one that overlaps it most without
	// finding it, NearIoU by how much; -1: none.
	Found   []int     `json:"found"`
	Near    []int     `json:"near"`
	NearIoU []float64 `json:"near_iou"`
	// Curve has threshold, lesions found and false positives of each step, the threshold falling.
	Curve [][3]float64 `json:"curve"`
	// Band has FPPI and the interval of the sensitivity there.
	Band [][3]frocio.Number `json:"band,omitempty"`
}

// Classified is the evaluation of classifiers on one label set.
type Classified struct {
	*workflow.Classification
	Case  []int `json:"case"`
	Label []int `json:"label"`
	// Probability is [system][case][class].
	Probability [][][]float64 `json:"probability"`
	// Set is its place among all label sets.
	Set int `json:"set"`
}

// Measured is the evaluation of answers to a question for a number or a time.
type Measured struct {
	*workflow.Measured
	Case []int `json:"case"`
	// Truth are the numbers or times, Event whether the event happened then.
	Truth []float64 `json:"truth"`
	Event []bool    `json:"event,omitempty"`
	// Answer is [system][case], of a time the expected one.
	Answer [][]float64 `json:"answer"`
}

// Pictures says how pixels are kept.
type Pictures struct {
	// Served says that they are asked for one by one, at full depth.
	Served bool `json:"served,omitempty"`
	// LevelHU are the Hounsfield units of the 256 grey levels in a file.
	LevelHU []float64 `json:"level_hu,omitempty"`
	// Note says what is there and what was left out.
	Note string `json:"note,omitempty"`
}

// ChecklistItem is an item of a reporting guideline, filled in from where it is known.
type ChecklistItem struct {
	Item   string `json:"item"`   // CLAIM 2024's number
	STARD  string `json:"stard"`  // that of STARD 2015, which STARD-AI extends; may be empty
	Topic  string `json:"topic"`  // in our words
	Text   string `json:"text"`   // empty: needs the author
	Source string `json:"source"` // where the text comes from
}
