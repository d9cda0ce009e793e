package predictions

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/alignedfusion/alignedfusion/host/runs"
	"github.com/alignedfusion/alignedfusion/internal/box"
)

// Files of RUN/predictions/SPLIT that not every run has.
const (
	// ReconstructionFile holds what WriteReconstructions writes.
	ReconstructionFile = "reconstruction.json"
	// CounterfactualFile holds Counterfactuals.
	CounterfactualFile = "counterfactuals.json"
)

// CounterfactualKind says what stands in the place of a case's report.
type CounterfactualKind string

// The kinds.
const (
	WithoutReport CounterfactualKind = "without"       // nothing is mentioned
	Shuffled      CounterfactualKind = "shuffled"      // the report of another patient
	Contradicting CounterfactualKind = "contradicting" // every known value is another one
)

// CounterfactualKinds are all kinds, in the order in which they are shown.
func CounterfactualKinds() []CounterfactualKind {
	return []CounterfactualKind{WithoutReport, Shuffled, Contradicting}
}

// sameBoxIoU is the overlap from which on boxes of two predictions are one.
const sameBoxIoU = 0.5

// Counterfactuals are the answers to the cases' images with other reports.
type Counterfactuals struct {
	SchemaVersion int `json:"schema_version"`
	// Cases by id and kind.
	Cases map[string]map[CounterfactualKind]Counterfactual `json:"cases"`
	// Answers are the predictions by kind, in the order of the cases, and Donors the place of
	// the case whose report each has when shuffled; files do not hold them.
	Answers map[CounterfactualKind][]Prediction `json:"-"`
	Donors  []int                               `json:"-"`
}

// Counterfactual is one case's answer.
type Counterfactual struct {
	// Scores are those of a detector's boxes, in the order of the case's predictions: the
	// score of the box of the same class that overlaps most (IoU of 0.5 or more), null where
	// there is none.
	Scores []*float64 `json:"scores,omitempty"`
	// Probabilities of a classifier, per label set.
	Probabilities [][]float64 `json:"probabilities,omitempty"`
}

// NewCounterfactuals are none yet.
func NewCounterfactuals() *Counterfactuals {
	return &Counterfactuals{SchemaVersion: OutputVersion, Cases: map[string]map[CounterfactualKind]Counterfactual{},
		Answers: map[CounterfactualKind][]Prediction{}}
}

// Add puts the predictions with other reports beside the cases' own, which are in the same order.
func (c *Counterfactuals) Add(kind CounterfactualKind, own, other []Prediction) {
	c.Answers[kind] = other
	for i, p := range own {
		answer := Counterfactual{Probabilities: other[i].Probabilities}
		for _, b := range p.Boxes {
			answer.Scores = append(answer.Scores, scoreOfSame(b, other[i].Boxes))
		}
		if c.Cases[p.Case.ID] == nil {
			c.Cases[p.Case.ID] = map[CounterfactualKind]Counterfactual{}
		}
		c.Cases[p.Case.ID][kind] = answer
	}
}

func scoreOfSame(b Box, among []Box) *float64 {
	var best *float64
	most := sameBoxIoU
	for k := range among {
		if o := &among[k]; o.Class == b.Class {
			if iou := box.IoU(b.Box, o.Box); iou >= most && (best == nil || iou > most) {
				best, most = &o.Score, iou
			}
		}
	}
	return best
}

// Write writes them; nil removes those of an earlier prediction, which no longer fit.
func (c *Counterfactuals) Write(path string) error {
	if c == nil {
		if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	data, err := json.Marshal(c)
	if err != nil {
		return err
	}
	return runs.WriteFile(path, append(data, '\n'))
}

// ReadCounterfactuals reads a file that Write wrote; nil where there is none.
func ReadCounterfactuals(path string) (*Counterfactuals, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var c Counterfactuals
	if err := json.Unmarshal(data, &c); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if c.SchemaVersion != OutputVersion {
		return nil, fmt.Errorf("%s: schema_version is %d; this program reads %d", path, c.SchemaVersion, OutputVersion)
	}
	return &c, nil
}
