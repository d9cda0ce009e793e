// Package frocplot draws FROC and AFROC curves with confidence bands.
package frocplot

import (
	"cmp"
	"errors"
	"fmt"
	"image/color"
	"io"
	"math"
	"path/filepath"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"github.com/alignedfusion/alignedfusion/eval/froc"
	"github.com/alignedfusion/alignedfusion/internal/atomicfile"
)

// Curve is one system in a plot.
type Curve struct {
	Name   string
	Result *froc.Result
	Band   *froc.Band // optional confidence band of FROC curves
}

// Kind is what is drawn.
type Kind string

// The kinds of plots. AFROC has the share of images without lesions that a false positive
// lies on for its horizontal axis, AFROC1 that of all images.
const (
	FROC   Kind = "froc"
	AFROC  Kind = "afroc"
	AFROC1 Kind = "afroc1"
)

// Options sets the look of a plot. The zero value is a good plot.
type Options struct {
	Kind       Kind    // empty: FROC
	Title      string  // empty: kind, protocol and how many images, patients and lesions
	Linear     bool    // the axis of false positives; AFROC's is always linear
	MinFPPI    float64 // left end of the axis; 0: see Range, or 0 where it is linear
	MaxFPPI    float64 // right end; 0: see Range
	WidthInch  float64 // 0: 6
	HeightInch float64 // without the legend below; 0: 4.5
}

// Palette is Okabe and Ito's, which colour-blind readers can tell apart.
var Palette = []color.RGBA{
	{0, 114, 178, 255}, {213, 94, 0, 255}, {0, 158, 115, 255}, {204, 121, 167, 255},
	{230, 159, 0, 255}, {86, 180, 233, 255}, {0, 0, 0, 255},
}

// dashes tell curves apart that share a colour.
var dashes = [][]vg.Length{nil, {6, 3}, {2, 2}, {8, 3, 2, 3}}

// lineOf is the line of the n-th curve.
func lineOf(n int) draw.LineStyle {
	return draw.LineStyle{Color: Palette[n%len(Palette)], Width: vg.Points(1.5), Dashes: dashes[n/len(Palette)%len(dashes)]}
}

// ErrNoLesionFreeImages is returned for an AFROC plot where every image has a lesion.
var ErrNoLesionFreeImages = errors.New("every image has a lesion, so AFROC has no horizontal axis; --plot-kind afroc1 takes all images")

// Save draws the curves into path, whose ending says how: .svg, .png or .pdf. The legend
// stands below the axes, so that it hides no line. Text in SVG is drawn as outlines: it looks
// the same where a font is missing. PNG has 300 dots per inch. The file is written whole or
// not at all.
func Save(path string, o Options, curves ...Curve) error {
	if len(curves) == 0 {
		return errors.New("plot: no curves")
	}
	format := strings.TrimPrefix(strings.ToLower(filepath.Ext(path)), ".")
	if format != "svg" && format != "png" && format != "pdf" {
		return fmt.Errorf("plot %s: the ending is %q, want .svg, .png or .pdf", path, filepath.Ext(path))
	}
	if o.WidthInch == 0 {
		o.WidthInch = 6
	}
	if o.HeightInch == 0 {
		o.HeightInch = 4.5
	}
	p, err := build(o, curves)
	if err != nil {
		return fmt.Errorf("plot %s: %w", path, err)
	}
	width, height := vg.Length(o.WidthInch)*vg.Inch, vg.Length(o.HeightInch)*vg.Inch
	l := newLegend(curves, p.Legend.TextStyle, width)
	c := newPage(format, width, height+l.height())
	whole := draw.New(c)
	p.Draw(draw.Crop(whole, 0, -2*vg.Millimeter, l.height(), -vg.Millimeter))
	l.draw(draw.Crop(whole, 0, 0, 0, -height))
	if err := atomicfile.Write(path, func(w io.Writer) error { return c.write(w, p.Title.Text, l.names) }); err != nil {
		return fmt.Errorf("plot %w", err)
	}
	return nil
}

// axes sets the horizontal axis and its ends.
func (o *Options) axes(p *plot.Plot, first *froc.Result) error {
	p.X.Label.Text = "false positives per " + string(first.Protocol.Unit)
	p.Y.Label.Text = "sensitivity"
	p.Y.Min, p.Y.Max, p.Y.Tick.Marker = 0, 1, tenths{}
	switch o.Kind {
	case AFROC, AFROC1:
		what := map[Kind]string{AFROC: "images without lesions", AFROC1: "all images"}[o.Kind]
		p.X.Label.Text, p.Y.Label.Text = "share of "+what+" with a false positive", "share of lesions found"
		p.X.Min, p.X.Max, p.X.Tick.Marker = 0, 1, tenths{}
		return nil
	case FROC, "":
		o.Kind = FROC
	default:
		return fmt.Errorf("kind %q, want %s, %s or %s", o.Kind, FROC, AFROC, AFROC1)
	}
	low, high := Range(first.Protocol)
	if o.Linear {
		low = 0
	} else {
		p.X.Scale, p.X.Tick.Marker = plot.LogScale{}, powersOfTwo{}
	}
	if o.MinFPPI != 0 {
		low = o.MinFPPI
	}
	if o.MaxFPPI != 0 {
		high = o.MaxFPPI
	}
	if !(high > low) || low < 0 || low == 0 && !o.Linear {
		return fmt.Errorf("FPPI axis from %v to %v; both must be positive and ascend", low, high)
	}
	p.X.Min, p.X.Max = low, high
	return nil
}

// Title says what is drawn, by which protocol and of how much.
func Title(what string, r *froc.Result) string {
	n := r.Counts
	return fmt.Sprintf("%s, protocol %s\nn = %d images, %d patients, %d lesions", what, r.Protocol.Name, n.Images, n.Patients, n.Lesions)
}

func build(o Options, curves []Curve) (*plot.Plot, error) {
	first := curves[0].Result
	p := plot.New()
	if err := o.axes(p, first); err != nil {
		return nil, err
	}
	p.Title.Text = cmp.Or(o.Title, Title(strings.ToUpper(string(o.Kind)), first))
	for _, style := range []*draw.TextStyle{&p.Title.TextStyle, &p.X.Label.TextStyle, &p.Y.Label.TextStyle, &p.X.Tick.Label, &p.Y.Tick.Label, &p.Legend.TextStyle} {
		style.Font.Variant = "Sans"
	}
	p.Title.TextStyle.Font.Size, p.Title.Padding = 10, 2*vg.Millimeter
	p.Legend.TextStyle.Font.Size = 10
	grid := plotter.NewGrid()
	grid.Horizontal.Color = color.Gray{225}
	grid.Vertical.Color = color.Gray{225}
	p.Add(grid)
	for i, c := range curves {
		add := o.addFROC
		if o.Kind != FROC {
			add = o.addAFROC
		}
		if err := add(p, c, lineOf(i)); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// addFROC adds a curve with its band, and dots at the operating points.
func (o *Options) addFROC(p *plot.Plot, c Curve, style draw.LineStyle) error {
	low, high, colour := p.X.Min, p.X.Max, style.Color.(color.RGBA)
	if c.Band != nil {
		end := high
		if n := len(c.Result.Curve); n > 0 {
			end = min(end, c.Result.Curve[n-1].FPPI)
		}
		band, err := polygon(c.Band, low, end, colour)
		if err != nil {
			return err
		}
		if band != nil {
			p.Add(band)
		}
	}
	drawn := points(c.Result, low, high, o.Linear)
	line, err := plotter.NewLine(drawn)
	if err != nil {
		return err
	}
	line.LineStyle = style
	p.Add(line)
	marks := make(plotter.XYs, 0, len(c.Result.OperatingPoints))
	for _, at := range c.Result.OperatingPoints {
		if at.Reached && at.FPPI >= low && at.FPPI <= high {
			marks = append(marks, plotter.XY{X: at.FPPI, Y: at.Sensitivity})
		}
	}
	if len(drawn) == 1 { // it ends where the axis begins: a dot there, else nothing would be seen of it
		marks = append(marks, drawn...)
	}
	if len(marks) == 0 {
		return nil
	}
	scatter, err := plotter.NewScatter(marks)
	if err != nil {
		return err
	}
	scatter.Color, scatter.Radius, scatter.Shape = colour, vg.Points(2.5), draw.CircleGlyph{}
	p.Add(scatter)
	return nil
}

func (o *Options) addAFROC(p *plot.Plot, c Curve, style draw.LineStyle) error {
	curve := c.Result.AFROCCurve(o.Kind == AFROC1)
	if curve == nil {
		return fmt.Errorf("%s: %w", c.Name, ErrNoLesionFreeImages)
	}
	var at plotter.XYs
	for _, step := range curve {
		at = append(at, plotter.XY{X: step.Images, Y: step.Lesions})
	}
	line, err := plotter.NewLine(at)
	if err != nil {
		return err
	}
	line.LineStyle = style
	p.Add(line)
	return nil
}

// Range returns the ends of the horizontal axis that suit a protocol: half its
// least and twice its greatest operating point.
func Range(p froc.Protocol) (low, high float64) {
	low = 1.0 / 16
	for _, x := range p.FPPI {
		if x > 0 {
			low = x / 2
			break
		}
	}
	return low, 2 * max(p.FPPI[len(p.FPPI)-1], low)
}

// points samples the curve as it is interpolated; it ends where the system's
// false positives end.
func points(r *froc.Result, low, high float64, linear bool) plotter.XYs {
	const samples = 400 // more than the pixels of a column would not show
	out := plotter.XYs{{X: low, Y: r.At(low).Sensitivity}}
	for k := 1; k <= samples; k++ {
		share := float64(k) / samples
		x := low + share*(high-low)
		if !linear {
			x = low * math.Pow(high/low, share)
		}
		at := r.At(x)
		if !at.Reached {
			if len(r.Curve) > 0 {
				if last := r.Curve[len(r.Curve)-1]; last.FPPI > low {
					out = append(out, plotter.XY{X: last.FPPI, Y: last.Sensitivity})
				}
			}
			break
		}
		if before := out[len(out)-1]; r.Protocol.Interpolation == froc.Step && at.Sensitivity != before.Y {
			out = append(out, plotter.XY{X: x, Y: before.Y})
		}
		out = append(out, plotter.XY{X: x, Y: at.Sensitivity})
	}
	return out
}

func polygon(b *froc.Band, low, high float64, colour color.RGBA) (*plotter.Polygon, error) {
	var upper, lower plotter.XYs
	for i, x := range b.FPPI {
		if x < low || x > high || math.IsNaN(b.Intervals[i].Low) {
			continue
		}
		upper = append(upper, plotter.XY{X: x, Y: b.Intervals[i].High})
		lower = append(lower, plotter.XY{X: x, Y: b.Intervals[i].Low})
	}
	if len(upper) < 2 {
		return nil, nil
	}
	for i := len(lower) - 1; i >= 0; i-- {
		upper = append(upper, lower[i])
	}
	shape, err := plotter.NewPolygon(upper)
	if err != nil {
		return nil, err
	}
	const alpha = 48
	shape.Color = color.RGBA{scale(colour.R, alpha), scale(colour.G, alpha), scale(colour.B, alpha), alpha}
	shape.LineStyle.Width = 0
	return shape, nil
}

// scale premultiplies a channel, as color.RGBA wants it.
func scale(v, alpha uint8) uint8 { return uint8(int(v) * int(alpha) / 255) }

type powersOfTwo struct{}

func (powersOfTwo) Ticks(low, high float64) []plot.Tick {
	var ticks []plot.Tick
	for k := math.Ceil(math.Log2(low) - 1e-9); math.Exp2(k) <= high*(1+1e-9); k++ {
		label := fmt.Sprintf("%g", math.Exp2(k))
		if k < 0 {
			label = fmt.Sprintf("1/%g", math.Exp2(-k))
		}
		ticks = append(ticks, plot.Tick{Value: math.Exp2(k), Label: label})
	}
	return ticks
}

type tenths struct{}

func (tenths) Ticks(low, high float64) []plot.Tick {
	var ticks []plot.Tick
	for k := range 11 {
		t := plot.Tick{Value: float64(k) / 10}
		if k%2 == 0 {
			t.Label = fmt.Sprintf("%.1f", t.Value)
		}
		ticks = append(ticks, t)
	}
	return ticks
}
