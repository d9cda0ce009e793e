package frocreport

import (
	"io"
	"path/filepath"
	"strings"

	"github.com/alignedfusion/alignedfusion/eval/froc"
	"github.com/alignedfusion/alignedfusion/eval/froc/frocio"
	"github.com/alignedfusion/alignedfusion/eval/froc/frocplot"
	"github.com/alignedfusion/alignedfusion/eval/resample"
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

// SavePlot draws the systems' curves into path (.svg, .png or .pdf), with bands where there
// are intervals.
func (r *Report) SavePlot(path string) error {
	return SavePlot(path, Named(r.Systems), r.resample, r.Document.Bootstrap != nil)
}

// SavePlot draws curves into path (.svg, .png or .pdf), with confidence bands if asked to.
func SavePlot(path string, results []froc.Named, o resample.Options, bands bool) error {
	const points = 60 // of a band
	var curves []frocplot.Curve
	for _, one := range results {
		curve := frocplot.Curve{Name: one.Name, Result: one.Result}
		if bands {
			low, high := frocplot.Range(one.Result.Protocol)
			band, err := one.Result.Band(low, high, points, o)
			if err != nil {
				return err
			}
			curve.Band = band
		}
		curves = append(curves, curve)
	}
	return frocplot.Save(path, frocplot.Options{}, curves...)
}
