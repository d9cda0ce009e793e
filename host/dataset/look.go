package dataset

import (
	"context"
	"fmt"
	"math"
	"path/filepath"
	"slices"

	"github.com/alignedfusion/alignedfusion/internal/nifti"
	"github.com/alignedfusion/alignedfusion/internal/problem"
	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/ports"
)

// How many images Look decodes, how many of them may be volumes that cannot be read slice by
// slice, and how many slices it reads of the others.
const (
	lookedAt      = 8
	lookedVolumes = 2
	lookedSlices  = 5
)

// values are the extremes of an image's values, in Hounsfield units or grey.
type values struct {
	path      string
	low, high float64
	// units says that they are Hounsfield units: 16-bit slices and volumes.
	units bool
	// gaps says that some are no numbers.
	gaps bool
}

// leastContrast is the share of the encoder's window that the values of an image have to
// fill for anything to be seen.
const leastContrast = 0.005

func (v values) constant(window *sdk.Intensity) bool {
	if v.low == v.high {
		return true
	}
	return v.units && window != nil && min(v.high, window.High)-max(v.low, window.Low) < leastContrast*(window.High-window.Low)
}

// wrapped reports whether values lie at both ends of 16 bits: negative numbers that were
// written as if they had no sign.
func (v values) wrapped() bool { return v.units && v.low < -32000 && v.high > 32000 }

// extremes returns the smallest and the largest finite value of a decoded image.
func (p *plane) extremes(path string) values {
	v := values{path: path, low: math.Inf(1), high: math.Inf(-1), units: p.hu16 != nil || p.hu32 != nil}
	add := func(x float64) {
		if !math.IsInf(x, 0) {
			v.low, v.high = min(v.low, x), max(v.high, x)
		}
	}
	for _, x := range p.hu16 {
		add(float64(x))
	}
	for _, x := range p.hu32 {
		if x == x {
			add(float64(x))
		} else {
			v.gaps = true
		}
	}
	for _, x := range p.grey8 {
		add(float64(x))
	}
	for _, x := range p.rgb {
		add(float64(x))
	}
	if v.low > v.high { // no finite value at all
		v.low, v.high = 0, 0
	}
	return v
}

// Look decodes a few of the cases' images and asks whether anything can be seen in
// them: window is the range of Hounsfield units that the encoder sees, nil where that is
// unknown. Images that show nothing, all of those looked at, are an error that wraps
// ErrData; some of them, and CT without a value below 0, are warnings.
func Look(ctx context.Context, d *Dataset, cases []Case, window *sdk.Intensity) ([]string, error) {
	var seen []values
	opened := map[string]bool{}
	whole := 0
	n := min(lookedAt, len(cases))
	for i := range n {
		c := &cases[i*len(cases)/n]
		for _, modality := range d.Modalities {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			path := c.Images[modality]
			if path == "" || opened[path] {
				continue
			}
			opened[path] = true
			read := d.decoder(c, modality)
			if s := d.stacks[c.sight(modality).stack]; s != nil && s.nifti != "" {
				if file, err := nifti.OpenSlices(path); err == nil {
					read = func(path string) (*plane, error) { return someSlices(path, file) }
				} else if whole++; whole > lookedVolumes {
					continue
				}
			}
			p, err := read(path)
			if err != nil {
				return nil, err
			}
			v := p.extremes(path)
			v.units = v.units && !d.unitless(modality)
			seen = append(seen, v)
			if w := d.windows[modality]; len(w) > 0 {
				window = &sdk.Intensity{Low: w[0].low, High: w[0].high}
			}
		}
	}
	return judge(seen, window)
}

// decoder is how the image files of a case's modality are read, of a volume all slices
// below each other.
func (d *Dataset) decoder(c *Case, modality string) func(path string) (*plane, error) {
	if s := d.stacks[c.sight(modality).stack]; s != nil && s.nifti != "" {
		return decodeVolume
	}
	if c.sights[modality] != nil {
		modality = Volume // a slice in the place of a picture
	}
	return d.pictureDecoder(modality)
}

// pictureDecoder is how a modality's pictures and slices are read.
func (d *Dataset) pictureDecoder(modality string) func(path string) (*plane, error) {
	switch {
	case !ports.Scan(modality):
		return func(path string) (*plane, error) { return decodePicture(path, d.pictureBits) }
	case d.huOnly:
		return decodeHU
	}
	return decodeSlice
}

// someSlices reads slices spread over a volume, below each other, and closes the file.
func someSlices(path string, file *nifti.Slices) (*plane, error) {
	defer file.Close()
	p := &plane{w: file.Width}
	n := min(lookedSlices, file.Depth)
	for k := range n {
		values, err := file.Read((2*k + 1) * file.Depth / (2 * n))
		if err != nil {
			return nil, problem.At(path, 0, "", "%v", err)
		}
		p.hu32, p.h = append(p.hu32, values...), p.h+file.Height
	}
	return p, nil
}

func decodeVolume(path string) (*plane, error) {
	v, err := nifti.Read(path)
	if err != nil {
		return nil, problem.File(path, err)
	}
	return &plane{h: v.Height * v.Depth, w: v.Width, hu32: v.Data}, nil
}

// judge says what is wrong with values that were seen.
func judge(seen []values, window *sdk.Intensity) (warnings []string, err error) {
	var empty, positive []values
	units := 0
	wrapped := slices.DeleteFunc(slices.Clone(seen), func(v values) bool { return !v.wrapped() })
	if len(wrapped) > 0 {
		text := fmt.Sprintf("%d of %d images looked at have values at both ends of 16 bits, %s: negative values were written as numbers without a sign; 16-bit slices hold HU + 32768",
			len(wrapped), len(seen), wrapped[0].describe(nil))
		if len(wrapped) == len(seen) {
			return nil, problem.At(wrapped[0].path, 0, "", "%s", text)
		}
		warnings = append(warnings, text)
	}
	for _, v := range seen {
		if v.constant(window) {
			empty = append(empty, v)
		}
		if v.units {
			units++
			if v.low >= 0 {
				positive = append(positive, v)
			}
		}
	}
	if len(empty) > 0 {
		text := fmt.Sprintf("%d of %d images looked at are constant for the encoder: %s", len(empty), len(seen), empty[0].describe(window))
		if len(empty) == len(seen) {
			return nil, problem.At(empty[0].path, 0, "", "%s", text)
		}
		warnings = append(warnings, text)
	}
	if len(positive) > 0 && len(positive) == units && len(empty) < len(seen) && (window == nil || window.Low < 0) {
		warnings = append(warnings, fmt.Sprintf("no value below 0 in %d images looked at, %s: CT in Hounsfield units has air near -1000; was it stored without its intercept of -1024?",
			units, positive[0].describe(nil)))
	}
	if gaps := slices.DeleteFunc(slices.Clone(seen), func(v values) bool { return !v.gaps }); len(gaps) > 0 {
		warnings = append(warnings, fmt.Sprintf("%d of %d images looked at hold voxels that are no numbers (NaN), the first is %s: they are shown as air", len(gaps), len(seen), filepath.ToSlash(gaps[0].path)))
	}
	if units > 0 && units < len(seen) && window != nil {
		i := slices.IndexFunc(seen, func(v values) bool { return !v.units })
		warnings = append(warnings, fmt.Sprintf("%d of %d slices are no Hounsfield units but 8-bit grey, the first is %s: they are shown differently from the others", len(seen)-units, len(seen), filepath.ToSlash(seen[i].path)))
	}
	return warnings, nil
}

// describe names the file and its range, and the mend where that is known.
func (v values) describe(window *sdk.Intensity) string {
	text := fmt.Sprintf("%s has values from %s to %s", filepath.ToSlash(v.path), formatNumber(v.low), formatNumber(v.high))
	if window == nil || !v.units {
		return text
	}
	text += fmt.Sprintf(", the encoder sees %s to %s HU", formatNumber(window.Low), formatNumber(window.High))
	if v.low >= -0.5 && v.high <= 1 && v.low < v.high {
		text += "; values between 0 and 1 are no Hounsfield units: keep the scan as it was"
	}
	if v.low > 20000 && v.high > 32000 {
		text += "; it was stored as HU + 32768: subtract 32768"
	}
	if v.high < window.Low && v.low >= -32768 && v.high < -20000 {
		text += "; 16-bit slices hold HU + 32768: add 32768 (and the intercept) when they are written"
	}
	return text
}
