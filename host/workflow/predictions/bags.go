package predictions

import (
	"cmp"
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"io"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/alignedfusion/alignedfusion/host/dataset"
	"github.com/alignedfusion/alignedfusion/host/pipeline"
	"github.com/alignedfusion/alignedfusion/host/runs"
	"github.com/alignedfusion/alignedfusion/internal/atomicfile"
	"github.com/alignedfusion/alignedfusion/internal/stat"
	"github.com/alignedfusion/alignedfusion/sdk/ports"
)

// Weights reads how much each patch of a batch's bags counts, by the names of the ports
// weighting.*, into its predictions: the sum over the patch's tokens.
func Weights(run *pipeline.Run, names []string, b *dataset.Batch, out []Prediction) error {
	if b.Bags == nil {
		return nil
	}
	for _, name := range names {
		t := run.Outputs[name]
		if t == nil {
			return fmt.Errorf("output %q was asked for and is not among the answers", name)
		}
		values, err := t.Float32s()
		if err != nil || len(t.Shape) != 2 || t.Shape[0] != int64(len(out)) || len(values)%(len(out)*len(b.Bags[0])) != 0 {
			return fmt.Errorf("output %q is %s, want FP32 [%d T], T being a multiple of the %d patches of a bag", name, t, len(out), len(b.Bags[0]))
		}
		tokens := len(values) / len(out)
		for i := range out {
			weights := map[int]float64{} // by the patch's number; a patch that came again has the sum
			for k, v := range values[i*tokens : (i+1)*tokens] {
				weights[b.Bags[i][k*len(b.Bags[i])/tokens]] += float64(v)
			}
			if out[i].Weights == nil {
				out[i].Weights = map[string]map[int]float64{}
			}
			out[i].Weights[name] = weights
		}
	}
	return nil
}

// OfBags joins the predictions of the bags that cases were divided into (dataset.Bags):
// probabilities, and the head's own metrics, are the means over the bags, each counting as many
// times as it has patches. shown are the patches of each bag.
func OfBags(all []Prediction, shown []int) []Prediction {
	var out []Prediction
	for first := 0; first < len(all); {
		end, patches := first+1, float64(shown[first])
		for end < len(all) && all[end].Case == all[first].Case {
			patches += float64(shown[end])
			end++
		}
		if end == first+1 {
			out, first = append(out, all[first]), end
			continue
		}
		joined := all[first]
		joined.Probabilities, joined.Own, joined.Weights, joined.Maps = nil, map[string]float64{}, map[string]map[int]float64{}, nil
		for _, p := range all[first].Probabilities {
			joined.Probabilities = append(joined.Probabilities, make([]float64, len(p)))
		}
		for k := first; k < end; k++ {
			share := float64(shown[k]) / patches
			for set, p := range all[k].Probabilities {
				for class, v := range p {
					joined.Probabilities[set][class] += share * v
				}
			}
			for name, v := range all[k].Own {
				joined.Own[name] += share * v
			}
			for name, weights := range all[k].Weights {
				if joined.Weights[name] == nil {
					joined.Weights[name] = map[int]float64{}
				}
				for patch, v := range weights {
					joined.Weights[name][patch] += share * v
				}
			}
		}
		out, first = append(out, joined), end
	}
	return out
}

// WriteAttention writes of each slide the weights of its patches below dir: NAME.attention.csv
// (patch,x,y and a column attention.MODALITY for each port, the heaviest first) and, where the patches say where
// they lie, a heat map NAME.attention.png, NAME being the slide's. Patches below the folder data
// are named from there. It returns how many slides there are.
func WriteAttention(dir, data string, predictions []Prediction) (slides int, err error) {
	for _, p := range predictions {
		if len(p.Weights) == 0 {
			continue
		}
		if err := os.MkdirAll(dir, 0o777); err != nil {
			return slides, err
		}
		name := filepath.Join(dir, FileName(p.Case.ID)+".attention")
		data, err := asCSV(attentionRows(data, p))
		if err != nil {
			return slides, err
		}
		if err := runs.WriteFile(name+".csv", data); err != nil {
			return slides, err
		}
		if img := heatMap(p); img != nil {
			if err := atomicfile.Write(name+".png", func(w io.Writer) error { return png.Encode(w, img) }); err != nil {
				return slides, err
			}
		}
		slides++
	}
	return slides, nil
}

// weightPorts are the ports that a slide has weights of, in order.
func (p *Prediction) weightPorts() []string {
	names := make([]string, 0, len(p.Weights))
	for name := range p.Weights {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func attentionRows(data string, p Prediction) [][]string {
	names := p.weightPorts()
	order := slices.Clone(p.Case.Patches)
	first := p.Weights[names[0]]
	slices.SortStableFunc(order, func(a, b dataset.Patch) int { return cmp.Compare(first[b.Number], first[a.Number]) })
	place := func(v float64) string {
		if math.IsNaN(v) {
			return ""
		}
		return number64(v)
	}
	rows := [][]string{{"patch", "x", "y"}}
	for _, name := range names {
		modality, _ := ports.Weighting.Member(name)
		rows[0] = append(rows[0], "attention."+modality)
	}
	for _, patch := range order {
		path := patch.Path
		if below, err := filepath.Rel(data, path); err == nil && filepath.IsLocal(below) {
			path = below
		}
		row := []string{filepath.ToSlash(path), place(patch.X), place(patch.Y)}
		for _, name := range names {
			row = append(row, strconv.FormatFloat(p.Weights[name][patch.Number], 'g', 6, 64))
		}
		rows = append(rows, row)
	}
	return rows
}

// heatSide bounds the longer side of a heat map in cells, and is about what it has in pixels.
const heatSide = 1024

// heatMap draws the first port's weights where the patches lie, the heaviest white; grey where
// there is no patch. It is nil where the places are not known.
func heatMap(p Prediction) image.Image {
	weights := p.Weights[p.weightPorts()[0]]
	x, y := axis(p.Case.Patches, func(t dataset.Patch) float64 { return t.X }), axis(p.Case.Patches, func(t dataset.Patch) float64 { return t.Y })
	step := min(x.step, y.step) // tiles are squares
	if math.IsNaN(step) {
		return nil
	}
	if x, y = x.by(step), y.by(step); max(x.cells, y.cells) > heatSide {
		return nil
	}
	most := 0.0
	for _, v := range weights {
		most = max(most, v)
	}
	side := max(1, heatSide/max(x.cells, y.cells, heatSide/16))
	img := image.NewRGBA(image.Rect(0, 0, x.cells*side, y.cells*side))
	draw.Draw(img, img.Bounds(), image.NewUniform(color.Gray{0xc0}), image.Point{}, draw.Src)
	for _, t := range p.Case.Patches {
		at, c := [2]int{x.cell(t.X), y.cell(t.Y)}, heat(weights[t.Number]/most)
		for dy := range side {
			for dx := range side {
				img.SetRGBA(at[0]*side+dx, at[1]*side+dy, c)
			}
		}
	}
	return img
}

// grid are the places of patches along one axis.
type grid struct {
	low, high, step float64 // step: infinite where there is one place
	cells           int
}

// by is the grid with another step.
func (g grid) by(step float64) grid {
	if g.step = step; math.IsInf(step, 0) {
		g.step = 1
	}
	g.cells = int(min(math.Round((g.high-g.low)/g.step), math.MaxInt32)) + 1
	return g
}

func (g grid) cell(v float64) int { return int(math.Round((v - g.low) / g.step)) }

// axis finds the extent and the smallest distance of places, NaN where one is not known.
func axis(patches []dataset.Patch, of func(dataset.Patch) float64) grid {
	var all []float64
	for _, t := range patches {
		if math.IsNaN(of(t)) {
			return grid{step: math.NaN()}
		}
		all = append(all, of(t))
	}
	slices.Sort(all)
	all = slices.Compact(all)
	g := grid{low: all[0], high: all[len(all)-1], step: math.Inf(1)}
	for i := 1; i < len(all); i++ {
		g.step = min(g.step, all[i]-all[i-1])
	}
	return g
}

// heat is the colour of a share 0 to 1: black, red, yellow, white.
func heat(share float64) color.RGBA {
	level := func(from float64) uint8 { return uint8(255 * max(0, min((share-from)*3, 1))) }
	return color.RGBA{level(0), level(1.0 / 3), level(2.0 / 3), 255}
}

// Who an answer is about, where it is not about a case: what Grouped knows.
const (
	PerSlide   = "slide"
	PerPatient = "patient"
)

// Grouped are the answers to slides or patients of several cases each, in the order of their
// first cases: the mean of the cases' probabilities or, vote, the share of the cases of which a
// class is the most probable one. A case without a slide or a patient is its own. What is true of
// all cases of a group is true of it; mixed groups have cases that differ in that.
func Grouped(all []Prediction, per string, vote bool) (out []Prediction, mixed int) {
	number := map[string]int{}
	differ := map[int]bool{}
	var cases []float64
	for _, p := range all {
		name := p.Case.Patient
		if per == PerSlide {
			name = p.Case.Stack
		}
		name = cmp.Or(name, p.Case.ID)
		at, known := number[name]
		if !known {
			at = len(out)
			number[name] = at
			group := Prediction{Case: &dataset.Case{ID: name, Patient: p.Case.Patient, Split: p.Case.Split, Labels: maps.Clone(p.Case.Labels), Measured: maps.Clone(p.Case.Measured)}}
			for _, v := range p.Probabilities {
				group.Probabilities = append(group.Probabilities, make([]float64, len(v)))
			}
			out, cases = append(out, group), append(cases, 0)
		}
		cases[at]++
		if keepSame(out[at].Case.Labels, p.Case.Labels) || keepSame(out[at].Case.Measured, p.Case.Measured) {
			differ[at] = true
		}
		for k, v := range p.Probabilities {
			if vote && len(v) > 1 {
				out[at].Probabilities[k][stat.ArgMax(v)]++
				continue
			}
			for class, x := range v {
				out[at].Probabilities[k][class] += x
			}
		}
	}
	for i := range out {
		for _, v := range out[i].Probabilities {
			for class := range v {
				v[class] /= cases[i]
			}
		}
	}
	return out, len(differ)
}

// keepSame takes away from what is known of a group what one of its cases does not share.
func keepSame[T comparable](group, own map[string]T) (differ bool) {
	for name, v := range group {
		if other, known := own[name]; !known || other != v {
			delete(group, name)
			differ = true
		}
	}
	return differ
}
