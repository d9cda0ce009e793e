package page

import (
	"bytes"
	"cmp"
	"errors"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/alignedfusion/alignedfusion/eval/froc"
	"github.com/alignedfusion/alignedfusion/eval/froc/frocio"
	"github.com/alignedfusion/alignedfusion/eval/froc/frocplot"
	"github.com/alignedfusion/alignedfusion/eval/froc/frocreport"
	"github.com/alignedfusion/alignedfusion/host/dataset"
	"github.com/alignedfusion/alignedfusion/host/fault"
	"github.com/alignedfusion/alignedfusion/host/workflow"
)

// bandPoints of the interval along a curve.
const bandPoints = 40

// sizeEdgesMM part lesions by their diameter, as reports of DeepLesion's literature do.
var sizeEdgesMM = []float64{10, 30}

// addDetection adds lesions, marks and curves.
func (g *Gathered) addDetection(d *workflow.Detection, by []frocreport.Strata) (err error) {
	first := d.Results[0].Result
	truth := first.Truth
	var ids []string
	for _, im := range truth.Images {
		ids = append(ids, im.ID)
	}
	g.addCases(ids, func(i int) string { return truth.Images[i].Patient })
	report := d.Report
	out := &Detection{Units: first.Counts.Units, Consistent: first.Protocol.Assignment == froc.ByScore}
	var rules bytes.Buffer
	frocreport.WriteRules(&rules, first.Protocol)
	for line := range strings.Lines(rules.String()) {
		out.Rules = append(out.Rules, strings.TrimSpace(line))
	}
	g.nameStrata(truth)
	out.StrataColumns = truth.Strata
	for j := range truth.Lesions {
		l := &truth.Lesions[j]
		one := Lesion{Case: l.Image, Box: corners(&l.Region), Ignore: l.Ignore, Strata: l.Strata}
		if l.Class >= 0 && int(l.Class) < len(truth.Classes) {
			one.Class = truth.Classes[l.Class]
		}
		g.Document.Lesions = append(g.Document.Lesions, one)
	}
	for i, r := range d.Results {
		if first.Counts.Lesions > 0 {
			if report.Systems[i].Strata, err = g.strata(r.Result, d, by, out); err != nil {
				return err
			}
		}
		one, err := newDetector(r.Result, d)
		if err != nil {
			return err
		}
		out.Systems = append(out.Systems, *one)
	}
	g.Document.Notes, g.Document.Warnings = append(g.Document.Notes, report.Notes...), append(g.Document.Warnings, report.Warnings...)
	out.Report, g.Document.Detection = report, out
	return nil
}

// nameStrata gives the lesions of a truth without strata those of the data's boxes, which it
// recognises by their corners.
func (g *Gathered) nameStrata(t *froc.Truth) {
	if len(t.Strata) > 0 || g.data == nil {
		return
	}
	columns := map[string]bool{}
	found := make([]map[string]string, len(t.Lesions))
	for j := range t.Lesions {
		l := &t.Lesions[j]
		if g.shown[l.Image] == nil || l.Ignore {
			continue
		}
		if b := boxOf(g.shown[l.Image], corners(&l.Region)); b != nil {
			found[j] = b.Strata
			for name := range b.Strata {
				columns[name] = true
			}
		}
	}
	t.Strata = slices.Sorted(maps.Keys(columns))
	if len(t.Strata) == 0 {
		t.Strata = nil
	}
	for j := range t.Lesions {
		t.Lesions[j].Strata = make([]string, len(t.Strata))
		for k, name := range t.Strata {
			t.Lesions[j].Strata[k] = found[j][name]
		}
	}
}

func boxOf(c *dataset.Case, at []float64) *dataset.Box {
	for k := range c.Boxes {
		b := &c.Boxes[k]
		if math.Abs(b.X1-at[0])+math.Abs(b.Y1-at[1])+math.Abs(b.X2-at[2])+math.Abs(b.Y2-at[3]) < 0.05 {
			return b
		}
	}
	return nil
}

// strata evaluates a system by the columns that were asked for, else by all that its lesions
// have, and adds to the detection which lesions each stratum holds.
func (g *Gathered) strata(r *froc.Result, d *workflow.Detection, by []frocreport.Strata, into *Detection) (out []frocio.Stratum, err error) {
	if by == nil {
		for k, column := range r.Truth.Strata {
			by = append(by, frocreport.Strata{Column: column, Edges: sizeEdges(r.Truth, k)})
		}
	}
	into.StrataLesions = [][]int{}
	for _, one := range by {
		parts, err := froc.Strata(r.Truth, r.Predictions, r.Protocol, one.Column, one.Edges, froc.StrataIgnore)
		if err != nil {
			return nil, fault.Wrap(fault.Data, err)
		}
		if len(parts) > strataAtMost {
			continue // numbers, or ids: no table of them helps anybody
		}
		for _, part := range parts {
			var b *froc.Bootstrap
			if d.Intervals {
				if b, err = part.Result.Bootstrap(d.Resample); err != nil && !errors.Is(err, froc.ErrTooFewReplicates) {
					return nil, err
				}
			}
			members := []int{}
			for _, o := range part.Result.LesionOutcomes() {
				members = append(members, o.Lesion)
			}
			into.StrataLesions = append(into.StrataLesions, members)
			out = append(out, frocio.Stratum{Column: one.Column, Value: part.Name, System: frocio.NewSystem("", part.Result, b)})
		}
	}
	return out, nil
}

// strataAtMost of a column are shown.
const strataAtMost = 20

// sizeEdges are those of a column of diameters, nil for others.
func sizeEdges(t *froc.Truth, column int) []float64 {
	if !strings.HasSuffix(t.Strata[column], "_mm") {
		return nil
	}
	for j := range t.Lesions {
		if _, err := strconv.ParseFloat(t.Lesions[j].Strata[column], 64); err != nil && !t.Lesions[j].Ignore {
			return nil
		}
	}
	return sizeEdgesMM
}

var fates = map[froc.Fate]string{froc.TruePositive: "tp", froc.FalseAlarm: "fp", froc.Duplicate: "dup", froc.IgnoredMark: "ign", froc.OverCap: "cap"}

func newDetector(r *froc.Result, d *workflow.Detection) (*Detector, error) {
	out := &Detector{Case: []int{}, Box: [][]float64{}, Score: []float64{}, Fate: []string{}, Mark: []int{}, Curve: [][3]float64{}}
	for i, o := range r.PredictionOutcomes() {
		p := &r.Predictions[i]
		out.Case, out.Box, out.Score = append(out.Case, p.Image), append(out.Box, corners(&p.Region)), append(out.Score, p.Score)
		out.Fate, out.Mark = append(out.Fate, fates[o.Fate]), append(out.Mark, o.Lesion)
		if len(r.Truth.Classes) > 0 {
			class := ""
			if p.Class >= 0 {
				class = r.Truth.Classes[p.Class]
			}
			out.Class = append(out.Class, class)
		}
	}
	out.Found, out.Near, out.NearIoU = make([]int, len(r.Truth.Lesions)), make([]int, len(r.Truth.Lesions)), make([]float64, len(r.Truth.Lesions))
	for j := range out.Found {
		out.Found[j], out.Near[j] = -1, -1
	}
	for _, o := range r.LesionOutcomes() {
		out.Found[o.Lesion] = o.Prediction
	}
	out.nearest(r)
	for _, p := range r.Curve {
		out.Curve = append(out.Curve, [3]float64{p.Threshold, float64(p.Found), float64(p.FalsePositives)})
	}
	if !d.Intervals || len(r.Curve) == 0 {
		return out, nil
	}
	low, high := frocplot.Range(r.Protocol)
	band, err := r.Band(low, high, bandPoints, d.Resample)
	if errors.Is(err, froc.ErrTooFewReplicates) {
		return out, nil
	}
	if err != nil {
		return nil, err
	}
	for k, x := range band.FPPI {
		out.Band = append(out.Band, [3]frocio.Number{frocio.Number(x), frocio.Number(band.Intervals[k].Low), frocio.Number(band.Intervals[k].High)})
	}
	return out, nil
}

// nearest finds the mark that overlaps each lesion most without being the one that found it.
func (d *Detector) nearest(r *froc.Result) {
	marks := make([][]int, len(r.Truth.Images))
	for k, i := range d.Case {
		marks[i] = append(marks[i], k)
	}
	for j := range r.Truth.Lesions {
		l := &r.Truth.Lesions[j]
		at := corners(&l.Region)
		for _, k := range marks[l.Image] {
			if k == d.Found[j] {
				continue
			}
			if iou := overlap(at, d.Box[k]); iou > d.NearIoU[j] {
				d.Near[j], d.NearIoU[j] = k, math.Round(1000*iou)/1000
			}
		}
	}
}

// overlap is the intersection over union of two boxes, in the plane where one of them is.
func overlap(a, b []float64) float64 {
	axes := [][2]int{{0, 2}, {1, 3}}
	if len(a) == 6 && len(b) == 6 {
		axes = append(axes, [2]int{4, 5})
	}
	inter, sizeA, sizeB := 1.0, 1.0, 1.0
	for _, x := range axes {
		inter *= max(0, min(a[x[1]], b[x[1]])-max(a[x[0]], b[x[0]]))
		sizeA, sizeB = sizeA*(a[x[1]]-a[x[0]]), sizeB*(b[x[1]]-b[x[0]])
	}
	return inter / cmp.Or(sizeA+sizeB-inter, 1)
}

// counts are those of the truth.
func (g *Gathered) counts() froc.Counts { return g.Document.Detection.Report.Systems[0].Counts }
