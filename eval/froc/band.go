package froc

import (
	"fmt"
	"math"
	"slices"
)

// Band is a pointwise confidence band along the curve.
type Band struct {
	FPPI      []float64
	Intervals []Interval // of the sensitivity at FPPI
}

// maxBandPoints is far above what a picture can show.
const maxBandPoints = 10_000

// Band bootstraps the curve between two numbers of false positives per unit, at
// n points spaced evenly on a logarithmic axis. The band is pointwise: it covers
// the true sensitivity at each single FPPI with the given level, not the whole
// curve at once.
func (r *Result) Band(low, high float64, n int, options BootstrapOptions) (*Band, error) {
	if !r.made() {
		return nil, errNoResult
	}
	if n < 1 || n > maxBandPoints {
		return nil, fmt.Errorf("band of %d points, want 1 to %d", n, maxBandPoints)
	}
	dense := *r
	dense.replicated = &replicated{}
	dense.Protocol.FPPI = nil
	for k := range n {
		x := low * math.Pow(high/low, float64(k)/float64(max(n-1, 1)))
		dense.Protocol.FPPI = append(dense.Protocol.FPPI, x)
	}
	dense.Protocol.FPPI = slices.Compact(dense.Protocol.FPPI)
	if err := dense.Protocol.Check(); err != nil {
		return nil, err
	}
	b, err := dense.Bootstrap(options)
	if err != nil {
		return nil, err
	}
	return &Band{FPPI: dense.Protocol.FPPI, Intervals: b.Points}, nil
}
