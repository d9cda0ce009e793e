package plan

import (
	"context"
	"math"
	"slices"

	"github.com/alignedfusion/alignedfusion/host/dataset"
	"github.com/alignedfusion/alignedfusion/internal/stat"
)

// Quantiles are the smallest value, the quantiles .05, .25, .5, .75, .95 and the largest of
// some numbers (linear between neighbours).
type Quantiles [7]float64

// quantilePlaces are the places of Quantiles.
var quantilePlaces = [7]float64{0, 0.05, 0.25, 0.5, 0.75, 0.95, 1}

// Median is the quantile .5.
func (q Quantiles) Median() float64 { return q[3] }

// Fingerprint is what a data set looks like. Measured are the cases of Split; lists that
// have no value (an unknown slice distance) are nil.
type Fingerprint struct {
	Split    string `json:"split"`
	Cases    int    `json:"cases"`
	Patients int    `json:"patients"`
	// Sides are the longer sides of the images.
	Sides *Quantiles `json:"image_longer_side_px,omitempty"`
	// PixelMM and SliceMM are the distances of pixels and of slices in mm.
	PixelMM *Quantiles `json:"pixel_mm,omitempty"`
	SliceMM *Quantiles `json:"slice_distance_mm,omitempty"`
	// Context is the share of the cases that have neighbouring slices.
	Context float64 `json:"cases_with_neighbouring_slices"`
	// BoxSides are sqrt(width x height) in original pixels, BoxMM the same in mm where the
	// size of a pixel is known, BoxRatios height over width.
	Boxes     int        `json:"boxes"`
	BoxSides  *Quantiles `json:"box_side_px,omitempty"`
	BoxMM     *Quantiles `json:"box_side_mm,omitempty"`
	BoxRatios *Quantiles `json:"box_height_over_width,omitempty"`
	// HU are the percentiles .5, 50 and 99.5 of the Hounsfield units in and around boxes
	// (of whole images where there is no box) of HUImages images.
	HU       *[3]float64 `json:"hu_percentiles_0.5_50_99.5,omitempty"`
	HUImages int         `json:"images_read"`
	// Classes counts boxes, or cases by label set; Missing is the share of cases without a
	// value by attribute column.
	Classes map[string]map[string]int `json:"classes,omitempty"`
	Missing map[string]float64        `json:"missing_rates,omitempty"`

	// sides are the sorted sides of all boxes.
	sides []float64
}

// readImages is how many images are decoded for their Hounsfield units.
const readImages = 64

func quantiles(values []float64) *Quantiles {
	if len(values) == 0 {
		return nil
	}
	slices.Sort(values)
	var q Quantiles
	for i, at := range quantilePlaces {
		q[i] = stat.Quantile(values, at)
	}
	return &q
}

// measure takes the fingerprint of the cases of a split.
func measure(ctx context.Context, d *dataset.Dataset, split string, cases []dataset.Case) (*Fingerprint, error) {
	f := &Fingerprint{Split: split, Cases: len(cases), Classes: map[string]map[string]int{}, Missing: map[string]float64{}}
	patients := map[string]bool{}
	var longer, pixel, slice, mm, ratios []float64
	for i := range cases {
		c := &cases[i]
		patients[c.Patient] = true
		if side := max(c.Size[0], c.Size[1]); side > 0 {
			longer = append(longer, float64(side))
		}
		if c.SpacingMM[0] > 0 {
			slice = append(slice, c.SpacingMM[0])
		}
		if c.SpacingMM[1] > 0 {
			pixel = append(pixel, c.SpacingMM[1])
		}
		for _, b := range c.Boxes {
			side := math.Sqrt(b.Area())
			f.sides = append(f.sides, side)
			ratios = append(ratios, (b.Y2-b.Y1)/max(b.X2-b.X1, 1e-6))
			if c.SpacingMM[1] > 0 {
				mm = append(mm, side*c.SpacingMM[1])
			}
		}
		f.countClasses(d, c)
		for _, a := range d.AttributeColumns {
			if !c.Attributes.Mentions(a) {
				f.Missing[a] += 1 / float64(len(cases))
			}
		}
	}
	delete(patients, "")
	f.Patients, f.Boxes = len(patients), len(f.sides)
	f.Sides, f.PixelMM, f.SliceMM = quantiles(longer), quantiles(pixel), quantiles(slice)
	f.BoxSides, f.BoxMM, f.BoxRatios = quantiles(f.sides), quantiles(mm), quantiles(ratios)
	if d.Task == dataset.Detect {
		f.Context = 1 - float64(d.Flat(cases))/float64(len(cases))
		return f, f.readHU(ctx, d, cases)
	}
	return f, nil
}

func (f *Fingerprint) countClasses(d *dataset.Dataset, c *dataset.Case) {
	for _, set := range d.Labels {
		if f.Classes[set.Name] == nil {
			f.Classes[set.Name] = map[string]int{}
		}
		if k, ok := c.Labels[set.Name]; ok && k >= 0 {
			f.Classes[set.Name][set.Classes[k]]++
		}
		for _, b := range c.Boxes {
			f.Classes[set.Name][set.Classes[b.Class]]++
		}
	}
}

// readHU reads the Hounsfield units in and around the boxes of some cases: the box and half
// its side on every side. Grey pictures have none.
func (f *Fingerprint) readHU(ctx context.Context, d *dataset.Dataset, cases []dataset.Case) error {
	chosen := slices.DeleteFunc(slices.Clone(cases), func(c dataset.Case) bool { return f.Boxes > 0 && len(c.Boxes) == 0 })
	viewer := d.Viewer()
	n := min(readImages, len(chosen))
	var values []float64
	for k := range n {
		if err := ctx.Err(); err != nil {
			return err
		}
		c := &chosen[k*len(chosen)/n]
		p, err := viewer.Picture(c, dataset.Volume, 0)
		if err != nil {
			return err
		}
		if p.HU == nil {
			continue
		}
		f.HUImages++
		values = appendAround(values, p, c.Boxes)
	}
	if len(values) == 0 {
		return nil
	}
	slices.Sort(values)
	f.HU = &[3]float64{stat.Quantile(values, 0.005), stat.Quantile(values, 0.5), stat.Quantile(values, 0.995)}
	return nil
}

// appendAround adds the values in and around boxes, or of every fourth row and column.
func appendAround(values []float64, p *dataset.Picture, boxes []dataset.Box) []float64 {
	add := func(x1, y1, x2, y2, step int) {
		for y := max(y1, 0); y <= min(y2, p.Height-1); y += step {
			for x := max(x1, 0); x <= min(x2, p.Width-1); x += step {
				if v := float64(p.HU[y*p.Width+x]); !math.IsNaN(v) && !math.IsInf(v, 0) {
					values = append(values, v)
				}
			}
		}
	}
	for _, b := range boxes {
		around := b.Grow(math.Sqrt(b.Area()) / 2)
		step := 1 + int(around.X2-around.X1)/64
		add(int(around.X1), int(around.Y1), int(around.X2), int(around.Y2), step)
	}
	if len(boxes) == 0 {
		add(0, 0, p.Width-1, p.Height-1, 4)
	}
	return values
}
