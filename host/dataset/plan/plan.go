package plan

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"

	"github.com/alignedfusion/alignedfusion/host/dataset"
	"github.com/alignedfusion/alignedfusion/internal/problem"
	"github.com/alignedfusion/alignedfusion/internal/stat"
)

// Version is the schema_version of a plan's file.
const Version = 1

// Setting is one that the data imply.
type Setting struct {
	// Name is GROUP.KEY as --set takes it.
	Name  string `json:"name"`
	Value string `json:"value"`
	// Why says from what it follows.
	Why string `json:"why"`
}

// Estimate is what a training by the plan costs.
type Estimate struct {
	// Basis says from what the figures come.
	Basis string `json:"basis"`
	// StepSec and EpochSec are one optimizer step and one epoch without its validation.
	StepSec  float64 `json:"step_sec"`
	EpochSec float64 `json:"epoch_sec"`
	// PeakRSSBytes is the most memory of the host and of each plugin, by name.
	PeakRSSBytes map[string]int64 `json:"peak_rss_bytes"`
}

// Plan is what `data plan` writes and `train --plan` reads.
type Plan struct {
	SchemaVersion int    `json:"schema_version"`
	Data          string `json:"data"`
	// DataSHA256 is the data set's hash: a plan holds for these data alone.
	DataSHA256 string       `json:"data_sha256"`
	Task       dataset.Task `json:"task"`
	// Plugin is the encoder and head that the settings of those groups are for.
	Plugin      string       `json:"plugin"`
	Fingerprint *Fingerprint `json:"fingerprint"`
	Settings    []Setting    `json:"settings"`
	// Estimate is nil where no step was timed; Unmeasured says why.
	Estimate   *Estimate `json:"estimate,omitempty"`
	Unmeasured string    `json:"unmeasured,omitempty"`
}

// Make plans a training on the cases of a split; "" is train or, where there is no such
// split, all but test. An error wraps dataset.ErrData, unless ctx ended.
func Make(ctx context.Context, spec, split string) (*Plan, error) {
	d, err := dataset.Open(spec, dataset.Options{})
	if err != nil {
		return nil, err
	}
	if split == "" {
		switch counts := d.Splits(); {
		case counts["train"] > 0:
			split = "train"
		case counts["test"] > 0 && len(counts) > 1:
			split = "!test"
		default:
			split = "all"
		}
	}
	cases, err := d.Split(split)
	if err != nil {
		return nil, err
	}
	cases = dataset.KeySlices(cases)
	absolute, err := dataset.AbsoluteSpec(spec)
	if err != nil {
		return nil, err
	}
	p := &Plan{SchemaVersion: Version, Data: absolute, DataSHA256: d.Hash, Task: d.Task, Plugin: "a3d"}
	if p.Fingerprint, err = measure(ctx, d, split, cases); err != nil {
		return nil, err
	}
	if p.Task == dataset.Classify {
		p.Plugin = "classifier"
		p.classify()
		return p, nil
	}
	if p.Fingerprint.Boxes == 0 {
		return nil, fmt.Errorf("%w: %s: the %d cases of split %q have no box: nothing can be planned for a detector", dataset.ErrData, spec, len(cases), split)
	}
	p.detect()
	return p, nil
}

// Read reads a plan. An error wraps dataset.ErrData and says where the file is no plan.
func Read(path string) (*Plan, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, problem.File(path, err)
	}
	var p Plan
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&p); err != nil {
		return nil, problem.At(path, 0, "", "is no plan of `data plan`: %v", err)
	}
	switch {
	case p.SchemaVersion != Version:
		return nil, problem.At(path, 0, "", "schema_version is %d; this program reads %d", p.SchemaVersion, Version)
	case p.Data == "" || p.DataSHA256 == "" || p.Task == "":
		return nil, problem.At(path, 0, "", "is no plan of `data plan`: data, data_sha256 or task is absent")
	}
	return &p, nil
}

func (p *Plan) set(name, why string, values ...float64) {
	texts := make([]string, len(values))
	for i, v := range values {
		texts[i] = strconv.FormatFloat(v, 'g', 6, 64)
	}
	p.Settings = append(p.Settings, Setting{name, strings.Join(texts, ","), why})
}

// What a network of stride 4 and a processor can do with: the shortest side of a box, the
// longest side of an image that is not cropped, the pixels of a batch.
const (
	leastBoxSide = 8.
	longestSide  = 512.
	batchPixels  = 4 * 3 * 512 * 512
)

// detect derives the settings of a detector.
func (p *Plan) detect() {
	f := p.Fingerprint
	spacing := p.planSlices()
	depth := p.planDepth(spacing)

	small, longer := stat.Quantile(f.sides, 0.1), f.Sides[5]
	zoom := 1.
	for zoom < 4 && small*zoom < leastBoxSide {
		zoom *= 2
	}
	for longer*zoom > 2*longestSide && small*zoom/2 >= leastBoxSide {
		zoom /= 2
	}
	p.set("data.zoom", fmt.Sprintf("a tenth of the boxes are smaller than %.3g px; the network wants %g px", small, leastBoxSide), zoom)

	side := longer * zoom
	crop := 0.
	if side > longestSide {
		if crop = 32 * math.Ceil(max(256, 2*f.BoxSides[5]*zoom)/32); crop >= side {
			crop = 0
		}
	}
	why := fmt.Sprintf("images are %.0f network px long: whole ones fit", side)
	if crop > 0 {
		side, why = crop, fmt.Sprintf("images are %.0f network px long; a crop holds twice the side of nearly all boxes (%.0f)", side, f.BoxSides[5]*zoom)
	}
	p.set("data.crop", why, crop)

	if f.HU != nil {
		low, high := 50*math.Floor(f.HU[0]/50), 50*math.Ceil(f.HU[2]/50)
		if high > low {
			p.set("encoder.window", fmt.Sprintf("percentiles .5 and 99.5 of the HU in and around lesions of %d images: %.0f, %.0f", f.HUImages, f.HU[0], f.HU[2]), low, high)
		}
	}
	p.planAnchors(zoom)
	p.planBatch(depth*side*side, batchPixels, 16, fmt.Sprintf("%g slices of %.0f² px per case", depth, side))
	p.planSampler()
}

// planSlices takes the distance to which slices are resampled.
func (p *Plan) planSlices() float64 {
	f, spacing := p.Fingerprint, 2.
	if f.SliceMM == nil || f.Context == 0 {
		return spacing
	}
	why := "as published: most slices lie closer"
	if mm := f.SliceMM.Median(); mm > spacing {
		spacing, why = math.Round(10*mm)/10, "the median distance of the slices: closer ones would be interpolated"
	}
	p.set("data.slice_spacing_mm", why, spacing)
	return spacing
}

// planDepth takes the number of slices: as many as a lesion of median size has, 3 to 7.
func (p *Plan) planDepth(spacing float64) float64 {
	f := p.Fingerprint
	if f.Context < 0.5 {
		p.set("encoder.slices", "most cases have no neighbouring slices", 1)
		return 1
	}
	why, depth := "the size of lesions in mm is unknown", 3.
	if f.BoxMM != nil {
		n := f.BoxMM.Median() / spacing
		depth = min(7, max(3, 2*math.Round((n-1)/2)+1))
		why = fmt.Sprintf("a lesion of median size (%.3g mm) goes through %.3g slices %g mm apart; 3 to 7", f.BoxMM.Median(), n, spacing)
	}
	p.set("encoder.slices", why, depth)
	return depth
}

// anchorPlaces are the quantiles of the boxes' sides that become anchors; two anchors
// differ by leastAnchorStep.
var anchorPlaces = []float64{0.05, 0.2, 0.4, 0.6, 0.8, 0.95}

const leastAnchorStep = 1.2

// planAnchors takes anchors from the sides of the boxes in network pixels.
func (p *Plan) planAnchors(zoom float64) {
	f := p.Fingerprint
	var sides []float64
	for _, at := range anchorPlaces {
		side := max(1, math.Round(stat.Quantile(f.sides, at)*zoom))
		if n := len(sides); n == 0 || side >= leastAnchorStep*sides[n-1] {
			sides = append(sides, side)
		}
	}
	p.set("head.anchor_sides", fmt.Sprintf("quantiles of the %d boxes' sides in network px", f.Boxes), sides...)
	ratios, why := []float64{0.5, 1, 2}, "boxes are long and wide"
	if q := f.BoxRatios; q[1] > 1/1.5 && q[5] < 1.5 {
		ratios, why = []float64{1}, "nine tenths of the boxes are nearly square"
	}
	p.set("head.anchor_ratios", why, ratios...)
}

// leastSteps is how many steps an epoch has at least.
const leastSteps = 8

// planBatch takes as many cases as a batch holds, a power of two.
func (p *Plan) planBatch(perCase, most, limit float64, why string) {
	batch := 1.
	for 2*batch*perCase <= most && 2*batch <= min(limit, float64(p.Fingerprint.Cases)/leastSteps) {
		batch *= 2
	}
	p.set("train.batch_size", why, batch)
}

// Classes are rare from this share of the most frequent one down.
const rareShare = 0.1

func (p *Plan) rare() (rarest, frequent int) {
	for _, counts := range p.Fingerprint.Classes {
		for _, n := range counts {
			if rarest == 0 || n < rarest {
				rarest = n
			}
			frequent = max(frequent, n)
		}
	}
	return rarest, frequent
}

func (p *Plan) planSampler() {
	if rarest, frequent := p.rare(); float64(rarest) < rareShare*float64(frequent) {
		p.Settings = append(p.Settings, Setting{"data.sampler", "balanced", fmt.Sprintf("the rarest class is there %d times, the most frequent %d times", rarest, frequent)})
	}
}

// classify derives the settings of a classifier.
func (p *Plan) classify() {
	f := p.Fingerprint
	side := 128.
	if f.Sides != nil {
		side = min(224, max(32, 32*math.Floor(f.Sides.Median()/32)))
		p.set("data.size", fmt.Sprintf("pictures are %.0f px long in the median; 32 to 224", f.Sides.Median()), side)
	}
	p.planBatch(side*side, 32*128*128, 32, fmt.Sprintf("pictures of %.0f² px", side))
	p.planSampler()
}
