package frocio

import (
	"encoding/csv"
	"io"
	"math"
	"strconv"

	"github.com/alignedfusion/alignedfusion/eval/froc"
	"github.com/alignedfusion/alignedfusion/internal/atomicfile"
)

// WriteFile writes path whole or not at all: a failed call leaves the old file
// as it was. Pipes and devices are written to directly.
func WriteFile(path string, write func(io.Writer) error) error {
	return atomicfile.Write(path, write)
}

func text(v float64) string {
	if math.IsNaN(v) {
		return ""
	}
	return strconv.FormatFloat(v, 'g', -1, 64)
}

func writeRows(w io.Writer, header []string, rows func(write func(...string))) error {
	c := csv.NewWriter(w)
	if err := c.Write(header); err != nil {
		return err
	}
	rows(func(fields ...string) {
		// csv.Writer keeps its first error, which Error returns below
		_ = c.Write(fields)
	})
	c.Flush()
	return c.Error()
}

// WriteCurve writes the whole curve: one row per distinct score.
func WriteCurve(w io.Writer, r *froc.Result) error {
	header := []string{"threshold", "fppi", "sensitivity", "lesions_found", "false_positives"}
	return writeRows(w, header, func(write func(...string)) {
		for _, p := range r.Curve {
			write(text(p.Threshold), text(p.FPPI), text(p.Sensitivity), strconv.Itoa(p.Found), strconv.Itoa(p.FalsePositives))
		}
	})
}

var regionHeader = []string{"kind", "x1", "y1", "z1", "x2", "y2", "z2", "radius"}

func regionFields(r *froc.Region) []string {
	low, high := r.Bounds()
	radius := math.NaN()
	switch r.Kind() {
	case froc.KindPoint2D, froc.KindPoint3D:
		low, high, radius = r.Centre(), r.Centre(), r.Radius()
	}
	return []string{
		r.Kind().String(), text(low[0]), text(low[1]), text(low[2]), text(high[0]), text(high[1]), text(high[2]), text(radius),
	}
}

// WriteLesions writes one row per counted lesion: whether it was found, by the
// prediction of which row (see Predictions.Rows), at what score and rank, and
// what the first hit criterion measured.
func WriteLesions(w io.Writer, r *froc.Result, rows []int32) error {
	header := append([]string{"image", "patient"}, regionHeader...)
	header = append(header, r.Truth.Strata...)
	header = append(header, "found", "prediction_row", "score", "rank", "match")
	return writeRows(w, header, func(write func(...string)) {
		for _, o := range r.LesionOutcomes() {
			l := &r.Truth.Lesions[o.Lesion]
			im := &r.Truth.Images[l.Image]
			row := append([]string{im.ID, im.Patient}, regionFields(&l.Region)...)
			for i := range r.Truth.Strata {
				value := ""
				if i < len(l.Strata) {
					value = l.Strata[i]
				}
				row = append(row, value)
			}
			if o.Found {
				row = append(row, "1", strconv.Itoa(int(rows[o.Prediction])), text(o.Score), strconv.Itoa(o.Rank), text(o.Value))
			} else {
				row = append(row, "0", "", "", "", "")
			}
			write(row...)
		}
	})
}

// WriteMarks writes one row per prediction with its fate and, where it hit a
// lesion, that lesion's 0-based place in the ground truth; with falsePositives,
// only the false positives.
func WriteMarks(w io.Writer, r *froc.Result, rows []int32, falsePositives bool) error {
	header := append([]string{"prediction_row", "image", "patient"}, regionHeader...)
	header = append(header, "score", "rank", "fate", "lesion")
	return writeRows(w, header, func(write func(...string)) {
		for _, o := range r.PredictionOutcomes() {
			if falsePositives && o.Fate != froc.FalseAlarm {
				continue
			}
			p := &r.Predictions[o.Prediction]
			im := &r.Truth.Images[p.Image]
			row := append([]string{strconv.Itoa(int(rows[o.Prediction])), im.ID, im.Patient}, regionFields(&p.Region)...)
			rank, lesion := "", ""
			if o.Rank > 0 {
				rank = strconv.Itoa(o.Rank)
			}
			if o.Lesion >= 0 {
				lesion = strconv.Itoa(o.Lesion)
			}
			write(append(row, text(p.Score), rank, o.Fate.String(), lesion)...)
		}
	})
}
