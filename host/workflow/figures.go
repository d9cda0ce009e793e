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
			row := FigureRow{Figure: figure, System: names[s], Metric: mean.interval(o)}
			if first := metrics[0][figure]; s > 0 && first != nil {
				differences := map[string]float64{}
				for id, v := range values {
					if before, both := first[id]; both {
						differences[id] = v - before
					}
				}
				d := meansOf(patientOf, differences)
				m := d.interval(o)
				row.Difference, row.P = &m, frocio.Number(resample.BootstrapP(d.replicates(o)))
			}
			rows = append(rows, row)
		}
	}
	return rows, nil
}

// means are the sum and the number of the values of each patient.
type means struct{ sum, count []float64 }

// meansOf collects values, by case, in the order of the patients' names; a case without a
// patient is its own.
func meansOf(patientOf map[string]string, values map[string]float64) means {
	type total struct{ sum, count float64 }
	patients := map[string]*total{}
	for _, id := range slices.Sorted(maps.Keys(values)) {
		name := dataset.PatientOf(patientOf[id], id)
		if patients[name] == nil {
			patients[name] = &total{}
		}
		patients[name].sum += values[id]
		patients[name].count++
	}
	var out means
	for _, name := range slices.Sorted(maps.Keys(patients)) {
		out.sum, out.count = append(out.sum, patients[name].sum), append(out.count, patients[name].count)
	}
	return out
}

// mean is that of all values, each patient counting as often as its weight says.
func (m means) mean(weights []int32) float64 {
	var sum, count float64
	for i, w := range weights {
		sum, count = sum+float64(w)*m.sum[i], count+float64(w)*m.count[i]
	}
	return sum / count
}

func (m means) replicates(o resample.Options) []float64 {
	return m.weighted(o.Replicates, o.Draw)
}

func (m means) weighted(n int, weigh func(k int, weights []int32)) []float64 {
	out := make([]float64, n)
	for k := range out {
		weights := make([]int32, len(m.sum))
		weigh(k, weights)
		out[k] = m.mean(weights)
	}
	return out
}

func (m means) interval(o resample.Options) Metric {
	ones := slices.Repeat([]int32{1}, len(m.sum))
	estimate := m.mean(ones)
	return newMetric(estimate, o.Interval(m.replicates(o), estimate, m.weighted(resample.JackknifeGroups(len(m.sum)), resample.LeaveOut)))
}
