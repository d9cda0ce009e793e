package workflow

import (
	"maps"
	"slices"
	"strings"

	"github.com/alignedfusion/alignedfusion/eval/classify"
	"github.com/alignedfusion/alignedfusion/eval/froc/frocio"
	"github.com/alignedfusion/alignedfusion/eval/resample"
	"github.com/alignedfusion/alignedfusion/host/dataset"
)

// FigureRow is a figure of one system that was asked for by name.
type FigureRow struct {
	Figure string `json:"figure"`
	System string `json:"system"`
	Metric
	// Difference is that to the first system, P the bootstrap's that it is 0, PermutationP that of
	// exchanging the two systems' answers within patients.
	Difference   *Metric       `json:"difference,omitempty"`
	P            frocio.Number `json:"p_bootstrap,omitempty"`
	PermutationP frocio.Number `json:"p_permutation,omitempty"`
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

// figureRows are those of the k-th figure: a system each, those after the first with their
// difference to it.
func figureRows(figure string, systems []string, each [][]classify.Estimate, differences [][]classify.Difference, k int) (rows []FigureRow) {
	for s, name := range systems {
		row := FigureRow{Figure: figure, System: name, Metric: newMetric(each[s][k].Value, each[s][k].CI)}
		if s > 0 {
			d := differences[s-1][k]
			m := newMetric(d.Value, d.CI)
			row.Difference, row.P, row.PermutationP = &m, frocio.Number(d.BootstrapP), frocio.Number(d.PermutationP)
		}
		rows = append(rows, row)
	}
	return rows
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
	systems, names := make([]*classify.Result, len(named)), make([]string, len(named))
	for i, s := range named {
		systems[i], names[i] = s.Result, s.Name
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
		rows = append(rows, figureRows(f.Name, names, each, differences, k)...)
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

// ownFigures are the heads' own metrics that the systems' predictions have: the mean over the
// cases that have one, with intervals and differences to the first system over the cases that
// have it in both, patients resampled. patientOf is by case.
func ownFigures(names []string, metrics []map[string]map[string]float64, patientOf map[string]string, o resample.Options) ([]FigureRow, error) {
	all := map[string]bool{}
	for _, m := range metrics {
		for name := range m {
			all[name] = true
		}
	}
	o, err := o.Resolved()
	if err != nil {
		return nil, usage("%w", err)
	}
	var rows []FigureRow
	for _, figure := range slices.Sorted(maps.Keys(all)) {
		for s, m := range metrics {
			values, there := m[figure]
			if !there {
				continue
			}
			mean := meansOf(patientOf, values)
			row := FigureRow{Figure: figure, System: names[s], Metric: meanMetric(mean, o)}
			if first := metrics[0][figure]; s > 0 && first != nil {
				differences := map[string]float64{}
				for id, v := range values {
					if before, both := first[id]; both {
						differences[id] = v - before
					}
				}
				d := meansOf(patientOf, differences)
				m := meanMetric(d, o)
				row.Difference, row.P, row.PermutationP = &m, frocio.Number(resample.BootstrapP(d.Replicates(o))), frocio.Number(d.PermutationP(o))
			}
			rows = append(rows, row)
		}
	}
	return rows, nil
}

// meansOf are values, by case, resampled by patient, in the order of the patients' names; a
// case without a patient is its own.
func meansOf(patientOf map[string]string, values map[string]float64) resample.Means {
	patient := func(id string) string { return dataset.PatientOf(patientOf[id], id) }
	ids := slices.Sorted(maps.Keys(values))
	slices.SortStableFunc(ids, func(a, b string) int { return strings.Compare(patient(a), patient(b)) })
	patients, ordered := make([]string, len(ids)), make([]float64, len(ids))
	for i, id := range ids {
		patients[i], ordered[i] = patient(id), values[id]
	}
	return resample.NewMeans(patients, ordered)
}

func meanMetric(m resample.Means, o resample.Options) Metric {
	estimate := m.Mean()
	return newMetric(estimate, o.Interval(m.Replicates(o), estimate, m.Jackknife()))
}
