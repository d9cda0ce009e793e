package frocreport

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/alignedfusion/alignedfusion/eval/froc/frocio"
	"github.com/alignedfusion/alignedfusion/eval/froc/frocplot"
)

// Table is one of the tables of single marks and lesions.
type Table string

// The tables, named as the flags of `alignedfusion froc` are.
const (
	Curve          Table = "curve"           // every step of the curve
	Lesions        Table = "lesions"         // the fate of every lesion
	Marks          Table = "marks"           // the fate of every prediction
	FalsePositives Table = "false-positives" // the false positives alone
)

// Tables lists all tables.
func Tables() []Table { return []Table{Curve, Lesions, Marks, FalsePositives} }

// Write writes a table of one system.
func (t Table) Write(w io.Writer, s Evaluated) error {
	switch t {
	case Curve:
		return frocio.WriteCurve(w, s.Result)
	case Lesions:
		return frocio.WriteLesions(w, s.Result, s.Rows)
	}
	return frocio.WriteMarks(w, s.Result, s.Rows, t == FalsePositives)
}

// SaveTable writes a table into path, whole or not at all. With several systems there is a
// file for each, its name put before the ending.
func (r *Report) SaveTable(path string, t Table) error {
	for _, s := range r.Systems {
		target := path
		if len(r.Systems) > 1 {
			target = strings.TrimSuffix(path, filepath.Ext(path)) + "." + s.Name + filepath.Ext(path)
		}
		if err := frocio.WriteFile(target, func(w io.Writer) error { return t.Write(w, s) }); err != nil {
			return err
		}
	}
	return nil
}

// Plot says what SavePlot draws.
type Plot struct {
	Kind PlotKind // empty: PlotFROC
	// Linear is the axis of false positives of FROC curves.
	Linear bool
}

// PlotKind is what a plot shows.
type PlotKind string

// PlotStrata draws a FROC curve per stratum and system; the others are frocplot's.
const (
	PlotFROC   = PlotKind(frocplot.FROC)
	PlotAFROC  = PlotKind(frocplot.AFROC)
	PlotAFROC1 = PlotKind(frocplot.AFROC1)
	PlotStrata = PlotKind("strata")
)

// PlotKinds lists all kinds.
func PlotKinds() []PlotKind { return []PlotKind{PlotFROC, PlotAFROC, PlotAFROC1, PlotStrata} }

// SavePlot draws the systems' curves into path (.svg, .png or .pdf), those of FROC with bands
// where there are intervals.
func (r *Report) SavePlot(path string, p Plot) error {
	first := r.Systems[0].Result.Protocol
	o := frocplot.Options{Kind: frocplot.Kind(p.Kind), Linear: p.Linear}
	if p.Kind == PlotStrata {
		o.Kind, o.Title = frocplot.FROC, frocplot.Title("FROC of strata", r.Systems[0].Result)
		curves, err := r.strataCurves()
		if err != nil {
			return err
		}
		return frocplot.Save(path, o, curves...)
	}
	const points = 60 // of a band
	bands := r.Document.Bootstrap != nil && (p.Kind == PlotFROC || p.Kind == "")
	var curves []frocplot.Curve
	for _, one := range r.Systems {
		curve := frocplot.Curve{Name: one.Name, Result: one.Result}
		if bands {
			low, high := frocplot.Range(first)
			if p.Linear {
				low /= 16 // the band begins near 0
			}
			band, err := one.Result.Band(low, high, points, r.options.Resample)
			if err != nil {
				return err
			}
			curve.Band = band
		}
		curves = append(curves, curve)
	}
	return frocplot.Save(path, o, curves...)
}

// strataCurves are a curve for each stratum of each system, with its number of lesions.
func (r *Report) strataCurves() (curves []frocplot.Curve, err error) {
	for _, s := range r.Systems {
		for k, by := range r.options.Strata {
			for _, one := range s.strata[k] {
				name := fmt.Sprintf("%s %s (%d lesions)", by.Column, one.Name, one.Result.Counts.Lesions)
				if len(r.Systems) > 1 {
					name = s.Name + ", " + name
				}
				curves = append(curves, frocplot.Curve{Name: name, Result: one.Result})
			}
		}
	}
	if len(curves) == 0 {
		return nil, errors.New("a plot of strata needs strata (--strata COLUMN)")
	}
	return curves, nil
}
