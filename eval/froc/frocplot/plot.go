// Package frocplot draws FROC curves with confidence bands.
package frocplot

import (
	"errors"
	"fmt"
	"image/color"
	"io"
	"math"
	"path/filepath"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
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
	Band   *froc.Band // optional confidence band
}

// Options sets the look of a plot. The zero value is a good plot.
type Options struct {
	Title      string
	MinFPPI    float64 // left end of the logarithmic axis; 0: see Range
	MaxFPPI    float64 // right end; 0: see Range
	WidthInch  float64 // 0: 6
	HeightInch float64 // 0: 4.5
}

// palette is Okabe and Ito's, which colour-blind readers can tell apart.
var palette = []color.RGBA{
	{0, 114, 178, 255}, {213, 94, 0, 255}, {0, 158, 115, 255}, {204, 121, 167, 255},
	{230, 159, 0, 255}, {86, 180, 233, 255}, {0, 0, 0, 255},
}

// Save draws the curves into path, whose ending says how: .svg, .png or .pdf.
// The horizontal axis is logarithmic. The file is written whole or not at all.
func Save(path string, o Options, curves ...Curve) error {
	if len(curves) == 0 {
		return errors.New("plot: no curves")
	}
	format := strings.TrimPrefix(strings.ToLower(filepath.Ext(path)), ".")
	if format != "svg" && format != "png" && format != "pdf" {
		return fmt.Errorf("plot %s: the ending is %q, want .svg, .png or .pdf", path, filepath.Ext(path))
	}
	p, err := build(o, curves)
	if err != nil {
		return fmt.Errorf("plot %s: %w", path, err)
	}
	width, height := font.Length(o.WidthInch), font.Length(o.HeightInch)
	if width == 0 {
		width = 6
	}
	if height == 0 {
		height = 4.5
	}
	picture, err := p.WriterTo(width*vg.Inch, height*vg.Inch, format)
	if err != nil {
		return fmt.Errorf("plot %s: %w", path, err)
	}
	err = atomicfile.Write(path, func(w io.Writer) error {
		_, err := picture.WriteTo(w)
		return err
	})
	if err != nil {
		return fmt.Errorf("plot %w", err)
	}
	return nil
}

func build(o Options, curves []Curve) (*plot.Plot, error) {
	first := curves[0].Result.Protocol
	low, high := Range(first)
	if o.MinFPPI != 0 {
		low = o.MinFPPI
	}
	if o.MaxFPPI != 0 {
		high = o.MaxFPPI
	}
	if !(low > 0 && high > low) {
		return nil, fmt.Errorf("FPPI axis from %v to %v; both must be positive and ascend", low, high)
	}
	p := plot.New()
	p.Title.Text = o.Title
	p.X.Label.Text = "false positives per " + string(first.Unit)
	p.Y.Label.Text = "sensitivity"
	p.X.Scale = plot.LogScale{}
	p.X.Min, p.X.Max, p.Y.Min, p.Y.Max = low, high, 0, 1
	p.X.Tick.Marker = powersOfTwo{}
	p.Y.Tick.Marker = tenths{}
	p.Legend.Top = false
	p.Legend.YOffs = 4 * vg.Millimeter
	p.Legend.XOffs = -2 * vg.Millimeter
	grid := plotter.NewGrid()
	grid.Horizontal.Color = color.Gray{225}
	grid.Vertical.Color = color.Gray{225}
	p.Add(grid)
	for i, c := range curves {
		colour := palette[i%len(palette)]
		if c.Band != nil {
			end := high
			if n := len(c.Result.Curve); n > 0 {
				end = min(end, c.Result.Curve[n-1].FPPI)
			}
			band, err := polygon(c.Band, low, end, colour)
			if err != nil {
				return nil, err
			}
			if band != nil {
				p.Add(band)
			}
		}
		line, err := plotter.NewLine(points(c.Result, low, high))
		if err != nil {
			return nil, err
		}
		line.Color, line.Width = colour, vg.Points(1.5)
		p.Add(line)
		marks := make(plotter.XYs, 0, len(c.Result.OperatingPoints))
		for _, at := range c.Result.OperatingPoints {
			if at.Reached && at.FPPI >= low && at.FPPI <= high {
				marks = append(marks, plotter.XY{X: at.FPPI, Y: at.Sensitivity})
			}
		}
		if len(marks) > 0 {
			scatter, err := plotter.NewScatter(marks)
			if err != nil {
				return nil, err
			}
			scatter.Color, scatter.Radius, scatter.Shape = colour, vg.Points(2.5), draw.CircleGlyph{}
			p.Add(scatter)
		}
		if c.Name != "" {
			p.Legend.Add(c.Name, line)
		}
	}
	return p, nil
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
func points(r *froc.Result, low, high float64) plotter.XYs {
	const samples = 400 // more than the pixels of a column would not show
	out := plotter.XYs{{X: low, Y: r.At(low).Sensitivity}}
	for k := 1; k <= samples; k++ {
		x := low * math.Pow(high/low, float64(k)/samples)
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
