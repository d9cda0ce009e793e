package study

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"

	"github.com/alignedfusion/alignedfusion/eval/froc/frocplot"
)

// Panels are square; the legend stands in a strip of its own beside them.
const (
	panelInch  = 4.5
	legendInch = 1.8
)

// band is a method's line with its intervals.
type band struct {
	plotter.XYs
	plotter.YErrors
}

// plot draws one panel per scenario and label set: the primary metric over the missing
// rate, or over the share of the training data where that is what varies. nil where
// there is nothing to draw.
func (t *Table) plot() ([]byte, error) {
	byFraction := t.byFraction()
	var titles, methods []string
	lines := map[[2]string]*band{}
	spread := 0.0 // between the methods at one place
	for _, r := range t.Rows {
		f, ok := r.Figures[t.Metric]
		if !ok {
			continue
		}
		title, x := r.Scenario, 100*r.Rate
		if byFraction {
			title, x = fmt.Sprintf("%s, %g %% missing", r.Scenario, 100*r.Rate), 100*r.Fraction
		}
		spread = max(spread, x/200)
		if r.Task != "" {
			title = r.Task + ": " + title
		}
		if !slices.Contains(titles, title) {
			titles = append(titles, title)
		}
		if !slices.Contains(methods, r.Method) {
			methods = append(methods, r.Method)
		}
		l := lines[[2]string{title, r.Method}]
		if l == nil {
			l = &band{}
			lines[[2]string{title, r.Method}] = l
		}
		l.XYs = append(l.XYs, plotter.XY{X: x, Y: float64(f.Mean)})
		low, high := float64(f.Low), float64(f.High)
		if low != low { // no interval
			low, high = float64(f.Mean), float64(f.Mean)
		}
		l.YErrors = append(l.YErrors, struct{ Low, High float64 }{float64(f.Mean) - low, high - float64(f.Mean)})
	}
	if len(titles) == 0 {
		return nil, nil
	}
	width := vg.Length(len(titles))*panelInch*vg.Inch + legendInch*vg.Inch
	picture := vgsvg.New(width, panelInch*vg.Inch)
	canvas := frocplot.Outlined(picture) // text looks the same without its font
	legend := plot.NewLegend()
	legend.Top, legend.Left, legend.YPosition = true, true, draw.PosCenter
	named := map[string]bool{}
	panels := make([]*plot.Plot, len(titles))
	low, high := 1.0, 0.0
	for i, title := range titles {
		p := plot.New()
		p.Title.Text = title
		p.X.Label.Text = "attributes missing, %"
		if byFraction {
			p.X.Label.Text = "training patients, %"
		}
		p.Y.Label.Text = strings.ReplaceAll(t.Metric, "_", " ")
		p.Add(plotter.NewGrid())
		for k, m := range methods {
			l := lines[[2]string{title, m}]
			if l == nil {
				continue
			}
			for j := range l.XYs { // so that intervals do not hide each other
				l.XYs[j].X += spread * (float64(k) - float64(len(methods)-1)/2)
			}
			shade := frocplot.Palette[k%len(frocplot.Palette)]
			line, points, err := plotter.NewLinePoints(l.XYs)
			if err != nil {
				return nil, fmt.Errorf("plot: %w", err)
			}
			line.Color, points.Color, points.Shape = shade, shade, draw.CircleGlyph{}
			if k >= len(frocplot.Palette) { // dashes tell the methods beyond the colours apart
				line.Dashes = []vg.Length{vg.Points(4), vg.Points(2)}
			}
			bars, err := plotter.NewYErrorBars(l)
			if err != nil {
				return nil, fmt.Errorf("plot: %w", err)
			}
			bars.Color = shade
			p.Add(line, points, bars)
			if !named[m] {
				named[m] = true
				legend.Add(m, line, points)
			}
			for j, xy := range l.XYs {
				low, high = min(low, xy.Y-l.YErrors[j].Low), max(high, xy.Y+l.YErrors[j].High)
			}
		}
		panels[i] = p
	}
	margin := max(0.02, 0.05*(high-low))
	for i, p := range panels {
		p.Y.Min, p.Y.Max = low-margin, high+margin
		left := vg.Length(i) * panelInch * vg.Inch
		p.Draw(draw.Crop(draw.New(canvas), left, left+panelInch*vg.Inch-width, 0, 0))
	}
	legend.Draw(draw.Crop(draw.New(canvas), width-(legendInch-0.1)*vg.Inch, 0, 0, -0.4*vg.Inch))
	var b bytes.Buffer
	if _, err := picture.WriteTo(&b); err != nil {
		return nil, fmt.Errorf("plot: %w", err)
	}
	return b.Bytes(), nil
}
