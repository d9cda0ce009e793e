package page

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"image"
	"image/color"
	"image/jpeg"
	"image/png"
	"math"
	"runtime"
	"slices"
	"sync"

	"github.com/alignedfusion/alignedfusion/host/dataset"
	"github.com/alignedfusion/alignedfusion/host/workflow/predictions"
)

// levels maps Hounsfield units to 8 bits so that each window has many levels: 3 HU a level
// between -200 and 300, where soft tissue is, 13 in the lung, 90 in bone and beyond.
var levels = [...]struct{ hu, level float64 }{{-1024, 0}, {-200, 64}, {300, 230}, {3071, 255}}

// levelHU are the Hounsfield units of the levels.
func levelHU() []float64 {
	out := make([]float64, 256)
	for k := range out {
		for i := 1; i < len(levels); i++ {
			a, b := levels[i-1], levels[i]
			if v := float64(k); v >= a.level && v <= b.level {
				out[k] = math.Round(a.hu + (v-a.level)*(b.hu-a.hu)/(b.level-a.level))
			}
		}
	}
	return out
}

// levelOf are the levels of -1024 to 3071 HU.
var levelOf = sync.OnceValue(func() (table [4096]uint8) {
	for k := range table {
		hu := float64(k - 1024)
		for i := 1; i < len(levels); i++ {
			if a, b := levels[i-1], levels[i]; hu >= a.hu && hu <= b.hu {
				table[k] = uint8(math.Round(a.level + (hu-a.hu)*(b.level-a.level)/(b.hu-a.hu)))
			}
		}
	}
	return table
})

// tileSetting is how tiles are kept.
type tileSetting struct{ side, quality int }

// tileSettings are tried from the best down, until all key slices fit.
var tileSettings = []tileSetting{{512, 85}, {512, 70}, {384, 70}, {256, 70}, {192, 60}}

// tile is a picture as an image of 8 bits, no side longer than the setting's.
func (s tileSetting) tile(p *dataset.Picture) image.Image {
	k := (max(p.Height, p.Width) + s.side - 1) / s.side
	h, w := max(1, p.Height/k), max(1, p.Width/k)
	if p.RGB != nil {
		out := image.NewRGBA(image.Rect(0, 0, w, h))
		for y := range h {
			for x := range w {
				var sum [3]int
				for i := range k * k {
					at := 3 * ((y*k+i/k)*p.Width + x*k + i%k)
					sum[0], sum[1], sum[2] = sum[0]+int(p.RGB[at]), sum[1]+int(p.RGB[at+1]), sum[2]+int(p.RGB[at+2])
				}
				out.SetRGBA(x, y, color.RGBA{uint8(sum[0] / (k * k)), uint8(sum[1] / (k * k)), uint8(sum[2] / (k * k)), 255})
			}
		}
		return out
	}
	out, table := image.NewGray(image.Rect(0, 0, w, h)), levelOf()
	for y := range h {
		for x := range w {
			var sum float64
			for i := range k * k {
				at := (y*k+i/k)*p.Width + x*k + i%k
				sum += float64(p.HU[at])
			}
			sum /= float64(k * k)
			if sum >= -1024 { // not NaN
				out.Pix[y*w+x] = table[int(min(sum+1024, 4095))]
			}
		}
	}
	return out
}

func (s tileSetting) encode(p *dataset.Picture) ([]byte, error) {
	var b bytes.Buffer
	err := jpeg.Encode(&b, s.tile(p), &jpeg.Options{Quality: s.quality})
	return b.Bytes(), err
}

// wanted is a picture to be put into the file.
type wanted struct {
	at, offset int
	modality   string
}

// name is the id of its element in the page.
func (w wanted) name() string { return fmt.Sprintf("t%d.%s.%d", w.at, w.modality, w.offset) }

// wantedOf lists the pictures of the cases, those that matter most first: the key slices of
// all cases, then the neighbours of the first cases, nearest first.
func (g *Gathered) wantedOf(order []int, neighbours bool) (out []wanted) {
	for _, i := range order {
		c := &g.Document.Cases[i]
		if !neighbours {
			for _, m := range c.Modalities {
				out = append(out, wanted{i, 0, m})
			}
			continue
		}
		if !slices.Contains(c.Modalities, dataset.Volume) {
			continue
		}
		for d := 1; d <= max(-c.Low, c.High) && d <= neighboursAtMost; d++ {
			for _, offset := range []int{-d, d} {
				if offset >= c.Low && offset <= c.High {
					out = append(out, wanted{i, offset, dataset.Volume})
				}
			}
		}
	}
	return out
}

// neighboursAtMost are kept on either side of a key slice in a file.
const neighboursAtMost = 4

// worstFirst orders the cases: missed lesions, then the scores of false positives.
func (g *Gathered) worstFirst() []int {
	worth := make([]float64, len(g.Document.Cases))
	if d := g.Document.Detection; d != nil {
		for _, s := range d.Systems {
			top := slices.Max(append([]float64{1e-9}, s.Score...))
			for j, found := range s.Found {
				l := &g.Document.Lesions[j]
				if !l.Ignore && found < 0 {
					worth[l.Case] = max(worth[l.Case], 2)
				} else if !l.Ignore {
					worth[l.Case] = max(worth[l.Case], 2-s.Score[found]/top)
				}
			}
			for k, fate := range s.Fate {
				if fate == "fp" {
					worth[s.Case[k]] = max(worth[s.Case[k]], s.Score[k]/top)
				}
			}
		}
	}
	order := make([]int, len(worth))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(worth[b], worth[a]) })
	return order
}

// read decodes and encodes a picture.
func (g *Gathered) read(w wanted, s tileSetting) ([]byte, error) {
	p, err := g.picture(w)
	if err != nil {
		return nil, err
	}
	return s.encode(p)
}

// The window of soft tissue, in HU: its low end and its width.
const softLow, softWidth = -160, 400

// picture is in colours or in Hounsfield units: grey values without units fill the window of
// soft tissue, which the page opens with.
func (g *Gathered) picture(w wanted) (*dataset.Picture, error) {
	if m, drawn := g.drawn[w.at][w.modality]; drawn {
		w.modality = g.Document.Cases[w.at].Modalities[0]
		under, err := g.picture(w)
		if err != nil {
			return nil, err
		}
		return drawnOver(under, m), nil
	}
	p, err := g.viewer.Picture(g.shown[w.at], w.modality, w.offset)
	if err != nil || p.Grey == nil {
		return p, err
	}
	p.HU = make([]float32, len(p.Grey))
	for i, v := range p.Grey {
		p.HU[i] = softLow + softWidth*float32(v)/255
	}
	return p, nil
}

// drawnOver is a picture with a map over it, cell by cell: clear where the map is least, red
// in between, yellow where it is greatest.
func drawnOver(p *dataset.Picture, m predictions.Map) *dataset.Picture {
	plain := windowed(p)
	out := &dataset.Picture{Height: p.Height, Width: p.Width, RGB: make([]uint8, 3*p.Height*p.Width)}
	low, high := slices.Min(m.Values), slices.Max(m.Values)
	for i := range p.Height * p.Width {
		row := int((float64(i/p.Width) + 0.5 - m.Y1) / (m.Y2 - m.Y1) * float64(m.H))
		column := int((float64(i%p.Width) + 0.5 - m.X1) / (m.X2 - m.X1) * float64(m.W))
		heat := float32(0)
		if row >= 0 && row < m.H && column >= 0 && column < m.W && high > low {
			heat = (m.Values[row*m.W+column] - low) / (high - low)
		}
		for c, colour := range [3]float32{255, 255 * heat, 0} {
			cover := 0.6 * heat
			out.RGB[3*i+c] = uint8(float32(plain.Pix[4*i+c])*(1-cover) + colour*cover)
		}
	}
	return out
}

// sampledTiles are enough to foresee how large all will be.
const sampledTiles = 12

// setting chooses the best setting with which the key slices fit into so many bytes.
func (g *Gathered) setting(keys []wanted, budget int64) (tileSetting, error) {
	n := min(sampledTiles, len(keys))
	for _, s := range tileSettings {
		var bytes int64
		for k := range n {
			data, err := g.read(keys[k*len(keys)/n], s)
			if err != nil {
				return s, err
			}
			bytes += int64(len(data))
		}
		if n == 0 || bytes*int64(len(keys))/int64(n) < budget*95/100 {
			return s, nil
		}
	}
	return tileSettings[len(tileSettings)-1], nil
}

// tiles makes the pictures that fit into budget bytes and hands them on in order, with base64
// a third larger than they are. It notes in the document what was left out.
func (g *Gathered) tiles(ctx context.Context, budget int64, put func(name string, data []byte) error) error {
	d := &g.Document
	order := g.worstFirst()
	keys := g.wantedOf(order, false)
	if g.viewer == nil || len(keys) == 0 {
		d.Pictures.Note = "There are no pictures in this file: the data were not given (--data), or could not be opened."
		return nil
	}
	budget = budget * 3 / 4 // base64
	s, err := g.setting(keys, budget)
	if err != nil {
		return err
	}
	counts := [2]int{}
	all := [2][]wanted{keys, g.wantedOf(order, true)}
	depth := make([]int, len(d.Cases))
	for round, list := range all {
		full := false
		err := inOrder(ctx, list, func(w wanted) ([]byte, error) { return g.read(w, s) }, func(w wanted, data []byte) (bool, error) {
			if full = int64(len(data)) > budget; full {
				return false, nil
			}
			budget -= int64(len(data))
			counts[round]++
			if depth[w.at]++; w.offset != 0 {
				depth[w.at] = max(depth[w.at], w.offset, -w.offset)
			}
			return true, put(w.name(), data)
		})
		if err != nil {
			return err
		}
		if full {
			break
		}
	}
	d.Pictures.Note = fmt.Sprintf("%d of %d pictures are in this file, and %d of %d neighbouring slices (up to %d on either side), worst cases first; "+
		"8 bits, sides of %d pixels at most, JPEG quality %d. `alignedfusion view` shows all in full.", counts[0], len(keys), counts[1], len(all[1]), neighboursAtMost, s.side, s.quality)
	return nil
}

// inOrder makes things on all processors and takes them in their order, until take says no.
func inOrder[T any](ctx context.Context, list []T, do func(T) ([]byte, error), take func(T, []byte) (bool, error)) error {
	type made struct {
		data []byte
		err  error
	}
	ahead := runtime.GOMAXPROCS(0)
	var pending []chan made
	for k := 0; k < len(list) || len(pending) > 0; {
		for ; k < len(list) && len(pending) < ahead; k++ {
			out, item := make(chan made, 1), list[k]
			go func() {
				data, err := do(item)
				out <- made{data, err}
			}()
			pending = append(pending, out)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		m := <-pending[0]
		item := list[k-len(pending)]
		pending = pending[1:]
		if m.err != nil {
			return m.err
		}
		if more, err := take(item, m.data); !more || err != nil {
			return err
		}
	}
	return nil
}

// full is a picture at full resolution and depth: PNG with HU + 32768 in red (high) and
// green (low byte), or as it is.
func full(p *dataset.Picture) ([]byte, error) {
	out := image.NewNRGBA(image.Rect(0, 0, p.Width, p.Height))
	for i := range p.Height * p.Width {
		px := out.Pix[4*i : 4*i+4]
		switch {
		case p.RGB != nil:
			copy(px, p.RGB[3*i:3*i+3])
		default:
			v := p.HU[i]
			if v != v {
				v = -1024
			}
			hu := int(max(-32768, min(32767, math.Round(float64(v))))) + 32768
			px[0], px[1] = uint8(hu>>8), uint8(hu)
		}
		px[3] = 255
	}
	var b bytes.Buffer
	err := (&png.Encoder{CompressionLevel: png.BestSpeed}).Encode(&b, out)
	return b.Bytes(), err
}
