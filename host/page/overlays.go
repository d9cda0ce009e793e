package page

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/image/draw"
	"golang.org/x/image/font"
	"golang.org/x/image/font/gofont/goregular"
	"golang.org/x/image/font/opentype"
	"golang.org/x/image/math/fixed"

	"github.com/alignedfusion/alignedfusion/eval/froc"
	"github.com/alignedfusion/alignedfusion/host/dataset"
	"github.com/alignedfusion/alignedfusion/host/fault"
	"github.com/alignedfusion/alignedfusion/host/workflow"
	"github.com/alignedfusion/alignedfusion/host/workflow/predictions"
	"github.com/alignedfusion/alignedfusion/internal/atomicfile"
)

// OverlayOptions of Overlays.
type OverlayOptions struct {
	// Dir is made where it is not there; at most Most pictures are written into it.
	Dir  string
	Most int
	// MinScore of a box that is drawn; nil: the score at the operating point nearest to one
	// false positive per image, or of images whose lesions are unknown the bestMarks.
	MinScore *float64
}

// bestMarks of an image are drawn where nothing says which scores matter.
const bestMarks = 5

// stroke is how a kind of box is drawn, here and by the page's script: its colour, and the
// lengths of dash and gap, 0: none.
type stroke struct {
	colour     color.RGBA
	on, off    int
	legend     string
	underneath bool // its text stands below the box
}

var strokes = map[string]stroke{
	"ref":     {color.RGBA{0xff, 0xd5, 0x4f, 255}, 0, 0, "lesion", true},
	"missed":  {color.RGBA{0xff, 0xd5, 0x4f, 255}, 7, 4, "missed (FN)", true},
	"ignored": {color.RGBA{0xb0, 0xb0, 0xb0, 255}, 2, 3, "", true},
	"tp":      {color.RGBA{0x4d, 0xd0, 0xe1, 255}, 0, 0, "finds a lesion (TP)", false},
	"fp":      {color.RGBA{0xff, 0x6e, 0xc7, 255}, 0, 0, "false positive (FP)", false},
	"other":   {color.RGBA{0xb0, 0xb0, 0xb0, 255}, 2, 3, "does not count", false},
	"mark":    {color.RGBA{0x4d, 0xd0, 0xe1, 255}, 0, 0, "box, not judged", false},
}

// legendOrder of the strokes below a picture.
var legendOrder = []string{"ref", "missed", "tp", "fp", "other", "mark"}

// overlaid is a box on a picture.
type overlaid struct {
	box         []float64
	kind, label string
}

// Overlays draws images of what was predicted with the reference and the predicted boxes,
// those that went worst first, and says how many of how many it drew and from which score
// on. Which box is a true positive is decided by the run's protocol.
func Overlays(ctx context.Context, r *workflow.PredictResult, o OverlayOptions) (said string, err error) {
	v, err := newOverlays(r, o)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(o.Dir, 0o777); err != nil {
		return "", fault.Wrap(fault.Resource, err)
	}
	order := v.worstFirst()
	order = order[:min(o.Most, len(order))]
	digits, nth := len(strconv.Itoa(len(order))), 0
	err = inOrder(ctx, order, v.draw, func(i int, data []byte) (bool, error) {
		nth++
		name := fmt.Sprintf("%0*d-%s.png", digits, nth, predictions.FileName(strings.TrimSuffix(r.Cases[i].ID, ".png")))
		return true, fault.Wrap(fault.Resource, atomicfile.WritePrivateBytes(filepath.Join(o.Dir, name), data))
	})
	return fmt.Sprintf("%d of %d images drawn, worst first, with %s", len(order), len(r.Cases), v.rule), err
}

// boardImages are drawn of each validation: the first ones of the split, so that they are the
// same ones every time.
const boardImages = 4

// FirstImages draws the first images of a split as PNG, by name, as Overlays does.
func FirstImages(ctx context.Context, r *workflow.PredictResult) (map[string][]byte, error) {
	v, err := newOverlays(r, OverlayOptions{})
	if err != nil {
		return nil, err
	}
	out := map[string][]byte{}
	for i := range min(boardImages, len(r.Cases)) {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if out[r.Cases[i].ID], err = v.draw(i); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// overlays are the boxes of all images, by what they are.
type overlays struct {
	*Gathered
	boxes [][]overlaid
	rule  string
}

func newOverlays(r *workflow.PredictResult, o OverlayOptions) (*overlays, error) {
	v := &overlays{Gathered: &Gathered{data: r.Data, viewer: r.Data.Viewer()}, boxes: make([][]overlaid, len(r.Cases))}
	for i := range r.Cases {
		v.shown = append(v.shown, &r.Cases[i])
	}
	v.Document.Cases = make([]Case, len(r.Cases))
	if !r.Evaluable {
		return v, v.unjudged(r, o)
	}
	p, err := predictions.Protocol(r.Config)
	if err != nil {
		return nil, err
	}
	result, err := predictions.EvaluateBoxes(r.Cases, r.Predictions, r.Labels, p)
	if errors.Is(err, froc.ErrNoLesions) {
		return v, v.unjudged(r, o)
	}
	if err != nil {
		return nil, err
	}
	return v, v.judged(result, o)
}

// judged lists the boxes of images whose lesions are known.
func (v *overlays) judged(result *froc.Result, o OverlayOptions) error {
	d, err := newDetector(result, &workflow.Detection{})
	if err != nil {
		return err
	}
	at := result.OperatingPoints[0]
	for _, p := range result.OperatingPoints {
		if math.Abs(p.FPPI-1) < math.Abs(at.FPPI-1) {
			at = p
		}
	}
	least := at.Threshold
	v.rule = fmt.Sprintf("boxes scoring %s or more, the operating point at %g false positives per %s", brief(least), at.FPPI, result.Protocol.Unit)
	switch {
	case o.MinScore != nil:
		least = *o.MinScore
		v.rule = fmt.Sprintf("boxes scoring %s or more", brief(least))
	case math.IsNaN(least) || !at.Reached: // all of them are fewer
		least, v.rule = math.Inf(-1), "all boxes"
	}
	for j := range result.Truth.Lesions {
		l := &result.Truth.Lesions[j]
		class := ""
		if len(result.Truth.Classes) > 1 && l.Class >= 0 {
			class = result.Truth.Classes[l.Class]
		}
		one := overlaid{corners(&l.Region), "ref", class}
		switch {
		case l.Ignore:
			one.kind, one.label = "ignored", "ignored"
		case d.Found[j] < 0 || d.Score[d.Found[j]] < least:
			one.kind, one.label = "missed", strings.TrimSpace("missed "+class)
		}
		v.boxes[l.Image] = append(v.boxes[l.Image], one)
		v.Document.Lesions = append(v.Document.Lesions, Lesion{Case: l.Image, Ignore: l.Ignore})
	}
	words := map[string]string{"tp": "TP ", "fp": "FP ", "dup": "again ", "ign": "ignored ", "cap": "over cap "}
	for k, i := range d.Case {
		if d.Score[k] < least {
			continue
		}
		kind := d.Fate[k]
		if kind != "tp" && kind != "fp" {
			kind = "other"
		}
		v.boxes[i] = append(v.boxes[i], overlaid{d.Box[k], kind, words[d.Fate[k]] + brief(d.Score[k])})
	}
	v.Document.Detection = &Detection{Systems: []Detector{*d}}
	return nil
}

// unjudged lists the boxes of images whose lesions are unknown, or that have none at all:
// every box of those is a false positive.
func (v *overlays) unjudged(r *workflow.PredictResult, o OverlayOptions) error {
	v.rule = fmt.Sprintf("the %d best boxes of each", bestMarks)
	if o.MinScore != nil {
		v.rule = fmt.Sprintf("boxes scoring %s or more", brief(*o.MinScore))
	}
	d := Detector{}
	for i := range r.Predictions {
		marks := slices.Clone(r.Predictions[i].Boxes)
		slices.SortStableFunc(marks, func(a, b predictions.Box) int { return cmp.Compare(b.Score, a.Score) })
		kind, word, fate := "mark", "", "fp"
		if r.Cases[i].HasTargets && len(r.Cases[i].Boxes)+len(r.Cases[i].Ignore) == 0 {
			kind, word = "fp", "FP "
		}
		for _, b := range r.Cases[i].Boxes {
			v.boxes[i] = append(v.boxes[i], overlaid{[]float64{b.X1, b.Y1, b.X2, b.Y2}, "ref", ""})
		}
		for k, b := range marks {
			if o.MinScore == nil && k >= bestMarks || o.MinScore != nil && b.Score < *o.MinScore {
				break
			}
			v.boxes[i] = append(v.boxes[i], overlaid{[]float64{b.X1, b.Y1, b.X2, b.Y2}, kind, word + brief(b.Score)})
			d.Case, d.Score, d.Fate = append(d.Case, i), append(d.Score, b.Score), append(d.Fate, fate)
		}
	}
	v.Document.Detection = &Detection{Systems: []Detector{d}}
	return nil
}

// brief is a score with three digits.
func brief(v float64) string { return strconv.FormatFloat(v, 'g', 3, 64) }

// The shortest side of an overlay, smaller pictures being enlarged, and the height of a line
// of text, in pixels.
const (
	overlaySide = 512
	textSize    = 13
	lineHeight  = 18
)

// textFace is the font of overlays. Its glyphs are drawn by one goroutine at a time.
var textFace = sync.OnceValues(func() (font.Face, error) {
	parsed, err := opentype.Parse(goregular.TTF)
	if err != nil {
		return nil, err
	}
	return opentype.NewFace(parsed, &opentype.FaceOptions{Size: textSize, DPI: 72, Hinting: font.HintingFull})
})

var textInUse sync.Mutex

// draw is one image as PNG: soft tissue's window, the boxes, and what the colours mean.
func (v *overlays) draw(i int) ([]byte, error) {
	face, err := textFace()
	if err != nil {
		return nil, err
	}
	modality := v.data.Modalities[0]
	if slices.Contains(v.data.Modalities, dataset.Volume) {
		modality = dataset.Volume
	}
	p, err := v.picture(wanted{at: i, modality: modality})
	if err != nil {
		return nil, err
	}
	plain := windowed(p)
	k := (overlaySide + min(p.Width, p.Height) - 1) / min(p.Width, p.Height)
	out := image.NewRGBA(image.Rect(0, 0, k*p.Width, k*p.Height+2*lineHeight))
	draw.Draw(out, out.Rect, image.Black, image.Point{}, draw.Src)
	draw.NearestNeighbor.Scale(out, image.Rect(0, 0, k*p.Width, k*p.Height), plain, plain.Bounds(), draw.Src, nil)
	v.annotate(i, canvas{out, face, k * p.Height}, float64(k))
	var b bytes.Buffer
	err = (&png.Encoder{CompressionLevel: png.BestSpeed}).Encode(&b, out)
	return b.Bytes(), err
}

// annotate draws the boxes of an image, its id and what the colours mean.
func (v *overlays) annotate(i int, c canvas, scale float64) {
	textInUse.Lock()
	defer textInUse.Unlock()
	var labels []image.Rectangle
	for _, b := range v.boxes[i] {
		labels = append(labels, c.box(b, scale, labels))
	}
	c.text(4, c.rows+lineHeight-5, v.shown[i].ID, color.White)
	c.legend(v.boxes[i], c.rows+2*lineHeight-5)
}

// windowed is a picture in the window of soft tissue, or in its colours.
func windowed(p *dataset.Picture) *image.RGBA {
	out := image.NewRGBA(image.Rect(0, 0, p.Width, p.Height))
	for i := range p.Width * p.Height {
		px := out.Pix[4*i : 4*i+4]
		if p.RGB != nil {
			copy(px, p.RGB[3*i:3*i+3])
		} else if g := (p.HU[i] - softLow) * 255 / softWidth; g > 0 { // not NaN
			px[0] = uint8(min(g, 255))
			px[1], px[2] = px[0], px[0]
		}
		px[3] = 255
	}
	return out
}

// canvas is a picture that is drawn on, of so many rows above the lines of text.
type canvas struct {
	*image.RGBA
	face font.Face
	rows int
}

// box draws a rectangle two pixels wide at a scale, and its label, inside the picture and where
// it hides none of the labels before; it returns where the label is.
func (c canvas) box(b overlaid, scale float64, labels []image.Rectangle) image.Rectangle {
	s := strokes[b.kind]
	at := func(v float64, most int) int { return max(1, min(int(math.Round(v*scale)), most-2)) }
	x1, y1, x2, y2 := at(b.box[0], c.Rect.Dx()), at(b.box[1], c.rows), at(b.box[2], c.Rect.Dx()), at(b.box[3], c.rows)
	for x := x1; x <= x2; x++ {
		c.dot(x, y1, x-x1, s)
		c.dot(x, y2, x-x1, s)
	}
	for y := y1; y <= y2; y++ {
		c.dot(x1, y, y-y1, s)
		c.dot(x2, y, y-y1, s)
	}
	if b.label == "" {
		return image.Rectangle{}
	}
	width := font.MeasureString(c.face, b.label).Ceil()
	x, y, away := max(0, min(x1, c.Rect.Dx()-width-2)), y1-4, -lineHeight
	if s.underneath {
		y, away = y2+textSize, lineHeight
	}
	place := func(y int) image.Rectangle { return image.Rect(x-2, y-textSize+1, x+width+2, y+4) }
	hides := func(y int) bool { return slices.ContainsFunc(labels, place(y).Overlaps) }
	y = max(textSize, min(y, c.rows-3))
	for free := y; free >= textSize && free <= c.rows-3; free += away {
		if !hides(free) {
			y = free
			break
		}
	}
	draw.Draw(c, place(y), image.NewUniform(color.RGBA{0, 0, 0, 160}), image.Point{}, draw.Over)
	c.text(x, y, b.label, s.colour)
	return place(y)
}

// dot colours four pixels, unless they lie in a gap at this length along the line.
func (c canvas) dot(x, y, along int, s stroke) {
	if s.on > 0 && along%(s.on+s.off) >= s.on {
		return
	}
	for _, d := range [...][2]int{{0, 0}, {1, 0}, {0, 1}, {1, 1}} {
		c.SetRGBA(x+d[0], y+d[1], s.colour)
	}
}

func (c canvas) text(x, y int, text string, colour color.Color) {
	(&font.Drawer{Dst: c, Src: image.NewUniform(colour), Face: c.face, Dot: fixed.P(x, y)}).DrawString(text)
}

// legend names the kinds of boxes there are on the picture.
func (c canvas) legend(boxes []overlaid, y int) {
	x := 4
	for _, kind := range legendOrder {
		if !slices.ContainsFunc(boxes, func(b overlaid) bool { return b.kind == kind }) {
			continue
		}
		s := strokes[kind]
		for along := range lineHeight {
			c.dot(x+along, y-5, along, s)
		}
		c.text(x+lineHeight+4, y, s.legend, s.colour)
		x += lineHeight + 4 + font.MeasureString(c.face, s.legend).Ceil() + 12
	}
}
