package frocio

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/alignedfusion/alignedfusion/eval/froc"
)

// IoUType says what of the findings in COCO's files is compared.
type IoUType string

// The types, called as COCOeval calls them.
const (
	BBox IoUType = "bbox" // the boxes, or those around the segmentations
	Segm IoUType = "segm" // the pixels of the segmentations
)

// segmentation is a COCO segmentation: polygons, or run lengths down the columns of an image.
type segmentation struct {
	polygons      [][]float64
	runs          []int
	height, width int // of the image; 0 with polygons
}

func readSegmentation(raw json.RawMessage) (s segmentation, err error) {
	if len(raw) > 0 && raw[0] == '[' {
		if err := json.Unmarshal(raw, &s.polygons); err != nil {
			return s, fmt.Errorf("segmentation: %w", plainJSON(err))
		}
		for _, polygon := range s.polygons {
			if len(polygon)%2 != 0 || len(polygon) < 6 {
				return s, fmt.Errorf("segmentation has a polygon of %d numbers, want x, y of three points or more", len(polygon))
			}
		}
		return s, nil
	}
	if text, height, width, ok := packedObject(raw); ok && drawable(width, height) {
		s.height, s.width = height, width
		if s.runs, err = packedRuns(text); err != nil {
			return s, err
		}
		return s, s.within()
	}
	var runs struct {
		Size   []int           `json:"size"`
		Counts json.RawMessage `json:"counts"`
	}
	if err := json.Unmarshal(raw, &runs); err != nil || len(runs.Size) != 2 || !drawable(runs.Size[0], runs.Size[1]) {
		return s, errors.New("segmentation is neither polygons nor run lengths with size and counts")
	}
	s.height, s.width = runs.Size[0], runs.Size[1]
	text, packed := "", bytes.HasPrefix(runs.Counts, []byte(`"`))
	into := any(&s.runs)
	if packed {
		into = &text
	}
	if err := json.Unmarshal(runs.Counts, into); err != nil {
		return s, errors.New("counts of a segmentation are neither numbers nor text")
	}
	if packed {
		if s.runs, err = packedRuns(text); err != nil {
			return s, err
		}
	}
	return s, s.within()
}

// within refuses run lengths that are more than the image.
func (s *segmentation) within() error {
	left := s.height * s.width
	for _, n := range s.runs {
		if n < 0 || n > left {
			return fmt.Errorf("run lengths of a segmentation leave the image of %d x %d pixels", s.width, s.height)
		}
		left -= n
	}
	return nil
}

// packedObject reads {"size": [height, width], "counts": "packed run lengths"} as pycocotools
// writes it, which is most of a file of masks; ok is false for anything else.
func packedObject(raw []byte) (text string, height, width int, ok bool) {
	skip := func(token string) bool {
		raw = bytes.TrimLeft(raw, " \t\r\n")
		there := bytes.HasPrefix(raw, []byte(token))
		if there {
			raw = raw[len(token):]
		}
		return there
	}
	whole := func(into *int) bool {
		raw = bytes.TrimLeft(raw, " \t\r\n")
		n := 0
		for n < len(raw) && n < 9 && raw[n] >= '0' && raw[n] <= '9' {
			*into = *into*10 + int(raw[n]-'0')
			n++
		}
		zero := n > 1 && raw[0] == '0' // which is no JSON
		raw = raw[n:]
		return n > 0 && !zero
	}
	if !(skip("{") && skip(`"size"`) && skip(":") && skip("[") && whole(&height) && skip(",") && whole(&width) && skip("]") && skip(",") &&
		skip(`"counts"`) && skip(":") && skip(`"`)) {
		return "", 0, 0, false
	}
	end := bytes.IndexByte(raw, '"')
	if end < 0 {
		return "", 0, 0, false
	}
	text, raw = string(raw[:end]), raw[end+1:]
	if strings.Contains(text, `\`) { // the one character of packed runs that JSON escapes
		if strings.Contains(strings.ReplaceAll(text, `\\`, ""), `\`) {
			return "", 0, 0, false
		}
		text = strings.ReplaceAll(text, `\\`, `\`)
	}
	return text, height, width, skip("}") && len(bytes.TrimSpace(raw)) == 0
}

// drawable reports whether an image has a size, and not more pixels than fit into memory.
func drawable(width, height int) bool {
	const most = 1 << 28
	return width > 0 && height > 0 && width <= most && height <= most/width
}

// packedRuns unpacks COCO's run lengths: five bits a character from '0' on, the sixth says
// that more follow; from the third on, runs are differences to the last but one.
func packedRuns(text string) ([]int, error) {
	counts := make([]int, 0, len(text)/2+1)
	for len(text) > 0 {
		v, shift := 0, 0
		for more := true; more; shift += 5 {
			if len(text) == 0 || shift > 50 || text[0] < '0' || text[0] > '0'+63 {
				return nil, errors.New("counts of a segmentation are no packed run lengths")
			}
			c := int(text[0] - '0')
			text = text[1:]
			v |= c & 31 << shift
			if more = c&32 != 0; !more && c&16 != 0 {
				v |= -1 << (shift + 5)
			}
		}
		if len(counts) > 2 {
			v += counts[len(counts)-2]
		}
		counts = append(counts, v)
	}
	return counts, nil
}

// box is the box around a segmentation.
func (s *segmentation) box() (froc.Region, error) {
	low, high := [2]float64{math.Inf(1), math.Inf(1)}, [2]float64{math.Inf(-1), math.Inf(-1)}
	for _, polygon := range s.polygons {
		for i, v := range polygon {
			low[i%2], high[i%2] = min(low[i%2], v), max(high[i%2], v)
		}
	}
	if s.height > 0 {
		columns := s.columns(s.edges())
		if len(columns) == 0 {
			return froc.Region{}, errors.New("the segmentation is empty")
		}
		for _, c := range columns {
			low, high = [2]float64{min(low[0], float64(c.x)), min(low[1], float64(c.from))}, [2]float64{max(high[0], float64(c.x+1)), max(high[1], float64(c.to))}
		}
	}
	r := froc.Box(low[0], low[1], high[0], high[1])
	return r, r.Check()
}

// mask is the pixels of a segmentation in an image of that size, as COCO draws them.
func (s *segmentation) mask(width, height int) (froc.Region, error) {
	if s.height > 0 && (s.height != height || s.width != width) {
		return froc.Region{}, fmt.Errorf("the segmentation is of an image of %d x %d pixels, the image has %d x %d", s.width, s.height, width, height)
	}
	drawn := segmentation{runs: s.runs, height: height, width: width}
	columns := drawn.columns(drawn.edges())
	far := float64(2 * (width + height))
	for _, polygon := range s.polygons {
		if slices.Min(polygon) < -far || slices.Max(polygon) > far {
			return froc.Region{}, fmt.Errorf("a polygon reaches from %g to %g, far out of the image of %d x %d pixels", slices.Min(polygon), slices.Max(polygon), width, height)
		}
		columns = append(columns, drawn.columns(polygonEdges(polygon, width, height))...)
	}
	if len(columns) == 0 {
		return froc.Region{}, errors.New("the segmentation has no pixel")
	}
	m, err := froc.NewMaskOfRuns(width, height, 1, rowRuns(columns, width))
	if err != nil {
		return froc.Region{}, err
	}
	return froc.MaskRegion(m), nil
}

// column is a stretch of pixels down column x, from one row up to another, which is excluded.
type column struct{ x, from, to int }

// edges are the pixels, counted down the columns, at which the run lengths turn from outside
// to inside and back.
func (s *segmentation) edges() []int {
	out, at := make([]int, 0, len(s.runs)), 0
	for _, n := range s.runs {
		at += n
		out = append(out, at)
	}
	return out
}

// columns divides what lies between every first and second edge by columns. A last edge
// without a second goes on to the end of the image.
func (s *segmentation) columns(edges []int) (out []column) {
	out = make([]column, 0, len(edges)/2+1)
	for k := 0; k < len(edges); k += 2 {
		end := s.height * s.width
		if k+1 < len(edges) {
			end = edges[k+1]
		}
		for at := edges[k]; at < end; {
			x := at / s.height
			next := min(end, (x+1)*s.height)
			out = append(out, column{x, at - x*s.height, next - x*s.height})
			at = next
		}
	}
	return out
}

// rowRuns are the pixels of columns as runs along the rows, from the first pixel of each to
// the one behind its last.
func rowRuns(columns []column, width int) (runs [][2]int) {
	left, right, top, bottom := math.MaxInt, 0, math.MaxInt, 0
	for _, c := range columns {
		left, right, top, bottom = min(left, c.x), max(right, c.x+1), min(top, c.from), max(bottom, c.to)
	}
	wide := right - left
	set := make([]byte, wide*(bottom-top))
	for _, c := range columns {
		for at, end := (c.from-top)*wide+c.x-left, (c.to-top)*wide; at < end; at += wide {
			set[at] = 1
		}
	}
	runs = make([][2]int, 0, bottom-top)
	for y := top; y < bottom; y++ {
		row, first := set[(y-top)*wide:(y-top+1)*wide], y*width+left
		for at := bytes.IndexByte(row, 1); at >= 0; {
			n := bytes.IndexByte(row[at:], 0)
			if n < 0 {
				n = wide - at
			}
			runs = append(runs, [2]int{first + at, first + at + n})
			next := bytes.IndexByte(row[at+n:], 1)
			if next < 0 {
				break
			}
			at += n + next
		}
	}
	return runs
}

// polygonEdges are the edges of a polygon as COCO's masks have them: its outline is walked on a
// grid five times as fine, and where it steps over the middle of a column of pixels, the pixels
// below turn from outside to inside or back.
func polygonEdges(xy []float64, width, height int) (edges []int) {
	const fine = 5
	whole := func(v float64) int { return int(float64(fine*v) + 0.5) }
	cross := func(x0, y0, x1, y1 int) {
		if x0 == x1 {
			return
		}
		x := (float64(min(x0, x1))+0.5)/fine - 0.5
		if x != math.Floor(x) || x < 0 || x > float64(width-1) {
			return
		}
		y := math.Ceil(min(max((float64(min(y0, y1))+0.5)/fine-0.5, 0), float64(height)))
		edges = append(edges, int(x)*height+int(y))
	}
	n := len(xy) / 2
	lastX, lastY, begun := 0, 0, false
	visit := func(x, y int) {
		if begun {
			cross(lastX, lastY, x, y)
		}
		lastX, lastY, begun = x, y, true
	}
	for k := range n {
		x0, y0, x1, y1 := whole(xy[2*k]), whole(xy[2*k+1]), whole(xy[2*((k+1)%n)]), whole(xy[2*((k+1)%n)+1])
		walk(x0, y0, x1, y1, visit)
	}
	slices.Sort(edges)
	return edges
}

// walk visits the points of the grid on the way from one to another. The way back visits the
// same ones.
func walk(x0, y0, x1, y1 int, visit func(x, y int)) {
	dx, dy := max(x1-x0, x0-x1), max(y1-y0, y0-y1)
	steps, along := max(dx, dy), dx >= dy // along x
	back := along && x0 > x1 || !along && y0 > y1
	if back {
		x0, y0, x1, y1 = x1, y1, x0, y0
	}
	for k := range steps + 1 {
		if back {
			k = steps - k
		}
		switch {
		case steps == 0:
			visit(x0, y0)
		case along:
			visit(x0+k, int(float64(y0)+float64(float64(y1-y0)/float64(steps)*float64(k))+0.5))
		default:
			visit(int(float64(x0)+float64(float64(x1-x0)/float64(steps)*float64(k))+0.5), y0+k)
		}
	}
}
