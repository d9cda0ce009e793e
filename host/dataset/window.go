package dataset

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/alignedfusion/alignedfusion/internal/nearest"
	"github.com/alignedfusion/alignedfusion/internal/nifti"
	"github.com/alignedfusion/alignedfusion/internal/problem"
	"github.com/alignedfusion/alignedfusion/internal/table"
	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/ports"
)

// window is the range of values that is shown, black to white: Hounsfield units, or with
// share percentiles of the image's own values, for MR, whose values have no unit.
type window struct {
	name      string
	low, high float64
	share     bool
}

// windows are the ranges of Hounsfield units that radiologists look at CT in.
var windows = map[string]window{
	"soft":        {low: -160, high: 240},
	"lung":        {low: -1350, high: 150},
	"bone":        {low: -500, high: 1300},
	"brain":       {low: 0, high: 80},
	"liver":       {low: -45, high: 105},
	"mediastinum": {low: -125, high: 225},
}

// encodersWindow leaves the choice to the encoder.
const encodersWindow = "encoder"

// parseWindows reads windows joined by slashes: soft, -160,240 or 1%,99%; none for "encoder".
func parseWindows(text string) ([]window, error) {
	if text == encodersWindow {
		return []window{}, nil
	}
	var out []window
	for i, part := range strings.Split(text, "/") {
		w, known := windows[part]
		w.name = part
		if !known {
			w.name = fmt.Sprintf("w%d", i+1)
			plain := strings.ReplaceAll(part, "%", "")
			w.share = strings.Count(part, "%") == 2
			v, err := table.Numbers(plain, 2)
			names := slices.Sorted(maps.Keys(windows))
			switch {
			case err != nil || !w.share && plain != part:
				return nil, fmt.Errorf("%q, want LOW,HIGH (Hounsfield units for CT), LOW%%,HIGH%% (percentiles, for MR), encoder, or one of %s%s",
					part, strings.Join(names, ", "), nearest.Meant(part, names))
			case v[0] >= v[1]:
				return nil, fmt.Errorf("%q is empty or reversed, want LOW,HIGH", part)
			case w.share && (v[0] < 0 || v[1] > 100):
				return nil, fmt.Errorf("%q, want percentiles from 0%% to 100%%", part)
			}
			w.low, w.high = v[0], v[1]
		}
		out = append(out, w)
	}
	return out, nil
}

// of is the window's range of values; percentiles are taken of every so many values.
func (w window) of(values []float32) (low, high float64) {
	if !w.share {
		return w.low, w.high
	}
	const enough = 1 << 20
	step := max(1, len(values)/enough)
	var some []float32
	for i := 0; i < len(values); i += step {
		if v := values[i]; v == v { // not NaN
			some = append(some, v)
		}
	}
	if len(some) == 0 {
		return 0, 1
	}
	slices.Sort(some)
	at := func(percent float64) float64 { return float64(some[int(math.Round(percent/100*float64(len(some)-1)))]) }
	if low, high = at(w.low), at(w.high); low == high {
		high = low + 1
	}
	return low, high
}

// colored is a slice as a picture: a channel per window, the last one again where there are
// fewer than three.
func (p *plane) colored(windows []window) *plane {
	values := make([]float32, p.h*p.w)
	switch {
	case p.hu16 != nil:
		mix(values, p.hu16, p.hu16, 0)
	case p.hu32 != nil:
		copy(values, p.hu32)
	default:
		mix(values, p.grey8, p.grey8, 0)
	}
	out := &plane{h: p.h, w: p.w, rgb: make([]uint8, 3*len(values))}
	for channel := range 3 {
		low, high := windows[min(channel, len(windows)-1)].of(values)
		gain := float32(255 / (high - low))
		for i, v := range values {
			if g := (v - float32(low)) * gain; g > 0 { // not NaN
				out.rgb[3*i+channel] = uint8(min(g, 255) + 0.5)
			}
		}
	}
	return out
}

// windowOf is what a case's volume is shown in: the data's window, or the encoder's.
func (l *Loader) windowOf(c *Case, modality string) (windowing, error) {
	in := l.intensity[modality]
	given := l.data.windows[modality]
	if len(given) == 0 {
		return newWindowing(in), nil
	}
	low, high := given[0].low, given[0].high
	if given[0].share {
		v, err := l.opt.Cache.get(fmt.Sprintf("range\x00%s\x00%g\x00%g", c.Images[modality], low, high), func() (any, int64, error) {
			values, err := l.valuesOf(c, modality)
			if err != nil {
				return nil, 0, err
			}
			var r [2]float64
			r[0], r[1] = given[0].of(values)
			return r, 64, nil
		})
		if err != nil {
			return windowing{}, err
		}
		r := v.([2]float64)
		low, high = r[0], r[1]
	}
	seen := sdk.Intensity{OutLow: low, OutHigh: high}
	if in != nil {
		seen = *in
	}
	seen.Low, seen.High = low, high
	return newWindowing(&seen), nil
}

// valuesOf are all values of a case's volume.
func (l *Loader) valuesOf(c *Case, modality string) ([]float32, error) {
	path := c.Images[modality]
	v, err := nifti.Read(path)
	if err != nil {
		return nil, problem.At(path, 0, "", "%v", err)
	}
	return v.Data, nil
}

// unitless reports whether a modality's values have no unit: its window is in percentiles.
func (d *Dataset) unitless(modality string) bool {
	return slices.ContainsFunc(d.windows[modality], func(w window) bool { return w.share })
}

// windowsOf are the windows that a modality is shown in, of the options the one for it or the
// one for all; said is false where there is none.
func (o *opener) windowsOf(modality string) (given []window, said bool) {
	name, ok := ports.Volumes.Member(modality)
	if !ok {
		name, ok = ports.Images.Member(modality)
	}
	if given, said = o.windows[name]; !said || !ok {
		given, said = o.windows[""]
	}
	return given, said
}
