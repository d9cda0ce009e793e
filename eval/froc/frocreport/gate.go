package frocreport

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/alignedfusion/alignedfusion/eval/froc"
)

// Gate is a least value of one figure; see [ParseGate].
type Gate struct {
	name  string
	least float64
	of    func(*froc.Result) float64
}

// ParseGate reads KEY=VALUE: the least mean sensitivity (mean), average precision (ap), area
// (afroc, afroc1), or sensitivity at N false positives (@N).
func ParseGate(text string) (Gate, error) {
	key, value, _ := strings.Cut(text, "=")
	least, err := strconv.ParseFloat(value, 64)
	if err != nil || math.IsNaN(least) {
		return Gate{}, fmt.Errorf("%q, want KEY=VALUE, for instance mean=0.80", text)
	}
	switch key {
	case "mean":
		return Gate{"mean sensitivity", least, func(r *froc.Result) float64 { return r.MeanSensitivity }}, nil
	case "ap":
		return Gate{key, least, func(r *froc.Result) float64 { return r.AP }}, nil
	case "afroc":
		return Gate{key, least, func(r *froc.Result) float64 { return r.Merit.AFROC }}, nil
	case "afroc1":
		return Gate{key, least, func(r *froc.Result) float64 { return r.Merit.AFROC1 }}, nil
	}
	at, isPoint := strings.CutPrefix(key, "@")
	if !isPoint {
		return Gate{}, fmt.Errorf("%q: %q is unknown, want mean, ap, afroc, afroc1 or @N", text, key)
	}
	fppi, err := strconv.ParseFloat(at, 64)
	if err != nil || !(fppi >= 0) {
		return Gate{}, fmt.Errorf("%q: %q is not a number of false positives", text, at)
	}
	return Gate{fmt.Sprintf("sensitivity at %g", fppi), least, func(r *froc.Result) float64 { return r.At(fppi).Sensitivity }}, nil
}

// Check returns an error that names every gate which a system misses, nil when there is
// none. A figure that is undefined misses its gate.
func (r *Report) Check(gates []Gate) error {
	var missed []error
	for _, s := range r.Systems {
		for _, g := range gates {
			if value := g.of(s.Result); !(value >= g.least) {
				missed = append(missed, fmt.Errorf("%s: %s is %.6f, below the gate of %g", s.Name, g.name, value, g.least))
			}
		}
	}
	return errors.Join(missed...)
}
