package boxops

import (
	"math"
	"slices"
)

// NMS walks boxes in the order given, highest score first, and returns the indices
// of those whose IoU with every box kept before is at most threshold. It stops
// after limit boxes; limit 0 means no limit.
//
// Two boxes can only exceed an IoU of t when their centres lie within
// (1-t)/(2t) widths and heights of each other, so that only kept boxes of nearby
// cells of a grid are compared; the result is that of comparing all.
func (c Convention) NMS(boxes []Box, threshold float32, limit int) []int {
	if limit <= 0 || limit > len(boxes) {
		limit = len(boxes)
	}
	keep := make([]int, 0, limit)
	if len(boxes) == 0 {
		return keep
	}
	grid := newNMSGrid(boxes, threshold)
	one := c.one()
	for i, b := range boxes {
		if len(keep) == limit {
			break
		}
		area := c.Area(b)
		x0, x1 := grid.columnRange(b)
		y0, y1 := grid.rowRange(b)
		suppressed := false
	cells:
		for y := y0; y <= y1; y++ {
			for x := x0; x <= x1; x++ {
				for _, k := range grid.cells[y*grid.columns+x] {
					w := min(b[2], k.box[2]) - max(b[0], k.box[0]) + one
					h := min(b[3], k.box[3]) - max(b[1], k.box[1]) + one
					if w <= 0 || h <= 0 {
						continue
					}
					inter := w * h
					if inter/(area+k.area-inter) > threshold {
						suppressed = true
						break cells
					}
				}
			}
		}
		if suppressed {
			continue
		}
		keep = append(keep, i)
		cell := grid.row(centre(b[1], b[3]))*grid.columns + grid.column(centre(b[0], b[2]))
		grid.cells[cell] = append(grid.cells[cell], keptBox{b, area})
	}
	return keep
}

type keptBox struct {
	box  Box
	area float32
}

// nmsGrid holds the kept boxes by the cell of their centre.
type nmsGrid struct {
	originX, originY float32
	cell             float32
	columns, rows    int
	reach            float32 // in widths or heights; infinite for low thresholds
	cells            [][]keptBox
}

const nmsGridCells = 24 // along the longer side

func centre(a, b float32) float32 { return 0.5 * (a + b) }

func newNMSGrid(boxes []Box, threshold float32) *nmsGrid {
	g := &nmsGrid{originX: math.MaxFloat32, originY: math.MaxFloat32}
	maxX, maxY := float32(-math.MaxFloat32), float32(-math.MaxFloat32)
	for _, b := range boxes {
		x, y := centre(b[0], b[2]), centre(b[1], b[3])
		g.originX, g.originY = min(g.originX, x), min(g.originY, y)
		maxX, maxY = max(maxX, x), max(maxY, y)
	}
	g.cell = max((maxX-g.originX)/nmsGridCells, (maxY-g.originY)/nmsGridCells, 1)
	g.columns = int((maxX-g.originX)/g.cell) + 1
	g.rows = int((maxY-g.originY)/g.cell) + 1
	g.reach = float32(math.Inf(1))
	if threshold > 0.05 {
		g.reach = (1 - threshold) / (2 * threshold) * 1.001
	}
	g.cells = make([][]keptBox, g.columns*g.rows)
	return g
}

func cellOf(v, origin, size float32, count int) int {
	f := (v - origin) / size
	if !(f > 0) {
		return 0
	}
	if f >= float32(count) {
		return count - 1
	}
	return int(f)
}

func (g *nmsGrid) column(x float32) int { return cellOf(x, g.originX, g.cell, g.columns) }
func (g *nmsGrid) row(y float32) int    { return cellOf(y, g.originY, g.cell, g.rows) }

// The +1 covers the inclusive convention's extra pixel and rounding.
func (g *nmsGrid) columnRange(b Box) (int, int) {
	x, r := centre(b[0], b[2]), (b[2]-b[0]+1)*g.reach+1
	return g.column(x - r), g.column(x + r)
}

func (g *nmsGrid) rowRange(b Box) (int, int) {
	y, r := centre(b[1], b[3]), (b[3]-b[1]+1)*g.reach+1
	return g.row(y - r), g.row(y + r)
}

// Order returns the indices of scores from highest to lowest; equal scores keep
// their order.
func Order(scores []float32) []int {
	order := make([]int, len(scores))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int {
		switch {
		case scores[a] > scores[b]:
			return -1
		case scores[a] < scores[b]:
			return 1
		}
		return 0
	})
	return order
}
