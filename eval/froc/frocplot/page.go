package frocplot

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"html"
	"image/color"
	"io"
	"math"
	"strings"

	"golang.org/x/image/font/sfnt"
	"golang.org/x/image/math/fixed"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"
	"gonum.org/v1/plot/vg/vgpdf"
	"gonum.org/v1/plot/vg/vgsvg"
)

// page is what a plot is drawn on.
type page struct {
	vg.CanvasSizer
	picture io.WriterTo
	format  string
}

// dotsPerInch is what journals ask for of pictures with lines and text.
const dotsPerInch = 300

func newPage(format string, width, height vg.Length) page {
	switch format {
	case "svg":
		c := vgsvg.NewWith(vgsvg.UseWH(width, height))
		return page{Outlined(c), c, format}
	case "png":
		c := vgimg.PngCanvas{Canvas: vgimg.NewWith(vgimg.UseWH(width, height), vgimg.UseDPI(dotsPerInch))}
		return page{c, c, format}
	}
	c := vgpdf.New(width, height)
	return page{c, c, format}
}

// write writes the picture: SVG with its texts for who cannot see it, PNG with its size on
// paper.
func (p page) write(w io.Writer, title string, names []string) error {
	var b bytes.Buffer
	if _, err := p.picture.WriteTo(&b); err != nil {
		return err
	}
	data := b.Bytes()
	switch p.format {
	case "svg":
		title = html.EscapeString(strings.ReplaceAll(title, "\n", "; "))
		said := fmt.Sprintf("<title>%s</title>\n<desc>%s</desc>\n", title, html.EscapeString(strings.Join(names, "; ")))
		root := bytes.Index(data, []byte("<svg"))
		end := root + bytes.IndexByte(data[root:], '>') + 1
		data = append(data[:end:end], append([]byte("\n"+said), data[end:]...)...)
	case "png":
		data = sized(data)
	}
	_, err := w.Write(data)
	return err
}

// sized adds to a PNG how large it is on paper (chunk pHYs), behind its header.
func sized(data []byte) []byte {
	const header = 8 + 25 // signature and IHDR
	chunk := []byte("pHYs")
	perMetre := uint32(math.Round(dotsPerInch / 0.0254))
	chunk = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(chunk, perMetre), perMetre)
	chunk = append(chunk, 1)
	whole := binary.BigEndian.AppendUint32(nil, uint32(len(chunk)-4))
	whole = binary.BigEndian.AppendUint32(append(whole, chunk...), crc32.ChecksumIEEE(chunk))
	return append(data[:header:header], append(whole, data[header:]...)...)
}

// Outlined is an SVG on which text becomes the outlines of its glyphs.
func Outlined(c *vgsvg.Canvas) vg.CanvasSizer { return outlined{c} }

// outlined draws text as the outlines of its glyphs.
type outlined struct{ *vgsvg.Canvas }

// FillString fills the outlines.
func (c outlined) FillString(face font.Face, at vg.Point, text string) {
	if path := textPath(face, at, text); len(path) > 0 {
		c.Fill(path)
	}
}

// textPath are the outlines of what Face.Width measures: advances and kerning in the font's
// own units. A glyph that cannot be loaded leaves its space empty.
func textPath(face font.Face, at vg.Point, text string) (path vg.Path) {
	var buf sfnt.Buffer
	units := fixed.Int26_6(face.Face.UnitsPerEm())
	scale := face.Font.Size / vg.Length(units)
	var before sfnt.GlyphIndex
	for i, r := range text {
		glyph, err := face.Face.GlyphIndex(&buf, r)
		if err != nil {
			continue
		}
		if kern, err := face.Face.Kern(&buf, before, glyph, units, 0); err == nil && i > 0 {
			at.X += vg.Length(kern) * scale
		}
		if segments, err := face.Face.LoadGlyph(&buf, glyph, units, nil); err == nil {
			outline(&path, segments, at, scale)
		}
		if advance, err := face.Face.GlyphAdvance(&buf, glyph, units, 0); err == nil {
			at.X += vg.Length(advance) * scale
		}
		before = glyph
	}
	return path
}

// outline adds a glyph to a path; a font's y points down.
func outline(path *vg.Path, segments sfnt.Segments, at vg.Point, scale vg.Length) {
	to := func(p fixed.Point26_6) vg.Point {
		return vg.Point{X: at.X + vg.Length(p.X)*scale, Y: at.Y - vg.Length(p.Y)*scale}
	}
	for i, s := range segments {
		switch s.Op {
		case sfnt.SegmentOpMoveTo:
			if i > 0 {
				path.Close()
			}
			path.Move(to(s.Args[0]))
		case sfnt.SegmentOpLineTo:
			path.Line(to(s.Args[0]))
		case sfnt.SegmentOpQuadTo:
			path.QuadTo(to(s.Args[0]), to(s.Args[1]))
		case sfnt.SegmentOpCubeTo:
			path.CubeTo(to(s.Args[0]), to(s.Args[1]), to(s.Args[2]))
		}
	}
	if len(segments) > 0 {
		path.Close()
	}
}

// legend stands below the axes, in as many columns as the longest name allows.
type legend struct {
	style   draw.TextStyle
	names   []string // shortened to fit
	lines   []draw.LineStyle
	columns int
	cell    vg.Point // width and height
}

const (
	legendMargin = 12
	legendSwatch = 24
	legendGap    = 6
)

// newLegend leaves out curves without a name.
func newLegend(curves []Curve, style draw.TextStyle, width vg.Length) *legend {
	style.Font.Variant, style.Color = "Sans", color.Black
	l := &legend{style: style}
	width -= 2 * legendMargin
	const around = legendSwatch + 2*legendGap
	longest := vg.Length(1)
	for i, c := range curves {
		if c.Name == "" {
			continue
		}
		name := []rune(c.Name)
		for short := len(name); style.Width(string(name)) > width-around && short > 1; short-- {
			name = append([]rune(c.Name)[:short-1:short-1], '…')
		}
		l.names, l.lines = append(l.names, string(name)), append(l.lines, lineOf(i))
		longest = max(longest, style.Width(string(name)))
	}
	l.columns = max(1, min(len(l.names), int(width/(longest+around))))
	l.cell = vg.Point{X: width / vg.Length(l.columns), Y: 1.4 * style.Font.Size}
	return l
}

// height is what the legend takes below the axes.
func (l *legend) height() vg.Length {
	rows := (len(l.names) + l.columns - 1) / l.columns
	if rows == 0 {
		return 0
	}
	return vg.Length(rows)*l.cell.Y + legendGap
}

// place is the rectangle of the n-th name, its swatch included, in a canvas whose upper left
// corner is given.
func (l *legend) place(n int, left, top vg.Length) vg.Rectangle {
	x, y := left+legendMargin+vg.Length(n%l.columns)*l.cell.X, top-vg.Length(n/l.columns)*l.cell.Y
	return vg.Rectangle{Min: vg.Point{X: x, Y: y - l.cell.Y}, Max: vg.Point{X: x + l.cell.X, Y: y}}
}

func (l *legend) draw(c draw.Canvas) {
	for n, name := range l.names {
		at := l.place(n, c.Min.X, c.Max.Y)
		middle := (at.Min.Y + at.Max.Y) / 2
		c.StrokeLine2(l.lines[n], at.Min.X, middle, at.Min.X+legendSwatch, middle)
		c.FillText(l.style, vg.Point{X: at.Min.X + legendSwatch + legendGap, Y: at.Min.Y + l.style.Font.Size*0.35}, name)
	}
}
