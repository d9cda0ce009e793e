package workflow

import (
	"strings"

	"github.com/alignedfusion/alignedfusion/eval/classify"
	"github.com/alignedfusion/alignedfusion/eval/froc/frocio"
)

// FigureRow is a figure of one system that was asked for by name.
type FigureRow struct {
	Figure string `json:"figure"`
	System string `json:"system"`
	Metric
	// Difference is that to the first system, P the bootstrap's that it is 0.
	Difference *Metric       `json:"difference,omitempty"`
	P          frocio.Number `json:"p_bootstrap,omitempty"`
	// DeLong are the same for an area under the ROC curve of one class, without resampling;
	// clustered by patient after Obuchowski.
	DeLong *DeLongRow `json:"delong,omitempty"`
}

// DeLongRow is an area's interval, and the test of its difference to the first system.
type DeLongRow struct {
	CI         [2]frocio.Number  `json:"ci"`
	Difference *[2]frocio.Number `json:"difference_ci,omitempty"`
	P          frocio.Number     `json:"p,omitempty"`
}

// figuresOf computes the figures that were asked for, those of one name together.
func figuresOf(o CompareOptions, named []classify.Named, patients []string) ([]FigureRow, error) {
	if len(o.Figures) == 0 {
		return nil, nil
	}
	var figures []classify.Figure
	for _, name := range o.Figures {
		f, err := classify.ParseFigure(name, named[0].Result.Classes)
		if err != nil {
			return nil, usage("--metric: %w", err)
		}
		figures = append(figures, f)
	}
	systems := make([]*classify.Result, len(named))
	for i, s := range named {
		systems[i] = s.Result
	}
	resampled, err := o.Resample.Resolved()
	if err != nil {
		return nil, usage("%w", err)
	}
	each, differences, err := classify.Estimates(systems, figures, patients, resampled)
	if err != nil {
		return nil, bad(err)
	}
	var rows []FigureRow
	for k, f := range figures {
		first := len(rows)
		for s, system := range named {
			row := FigureRow{Figure: f.Name, System: system.Name, Metric: newMetric(each[s][k].Value, each[s][k].CI)}
			if s > 0 {
				d := differences[s-1][k]
				m := newMetric(d.Value, d.CI)
				row.Difference, row.P = &m, frocio.Number(d.BootstrapP)
			}
			rows = append(rows, row)
		}
		if !strings.HasPrefix(f.Name, "auroc") {
			continue
		}
		areas, pairs, err := classify.AUROCs(systems, f.Class, patients, resampled.Level)
		if err != nil {
			return nil, bad(err)
		}
		for s, a := range areas {
			d := &DeLongRow{CI: [2]frocio.Number{frocio.Number(a.CI.Low), frocio.Number(a.CI.High)}}
			if s > 0 {
				p := pairs[s-1]
				d.Difference, d.P = &[2]frocio.Number{frocio.Number(p.CI.Low), frocio.Number(p.CI.High)}, frocio.Number(p.P)
			}
			rows[first+s].DeLong = d
		}
	}
	return rows, nil
}
