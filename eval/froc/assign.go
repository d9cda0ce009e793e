package froc

import (
	"cmp"
	"math"
	"slices"
)

// assignByOverlap gives lesions to marks by the assignment with the most pairs and, of
// those, the most overlap. Scores play no part. A mark that hits but gets no lesion is a
// duplicate, or a false positive where duplicates count.
func (m *matcher) assignByOverlap() {
	var lesions []int32
	for _, c := range m.candidates {
		lesions = append(lesions, c.lesion)
	}
	slices.Sort(lesions)
	lesions = slices.Compact(lesions)
	m.sortByContent(lesions)
	row := make(map[int32]int, len(lesions))
	for k, j := range lesions {
		row[j] = k
	}
	var marks []int // positions in m.order of the marks that hit something
	for k := range m.order {
		if m.offsets[k] < m.offsets[k+1] {
			marks = append(marks, k)
		}
	}
	weight := make([][]float64, len(lesions))
	for k := range weight {
		weight[k] = make([]float64, len(marks))
	}
	at := make([][]candidate, len(marks))
	for column, k := range marks {
		at[column] = m.candidates[m.offsets[k]:m.offsets[k+1]]
		for _, c := range at[column] {
			weight[row[c.lesion]][column] = 1 + c.quality // pairs first, overlap second
		}
	}
	of := assignMost(weight)
	for column, k := range marks {
		i := m.order[k]
		best := at[column][0]
		given := -1
		for n, c := range at[column] {
			if m.betterLesion(c, best) {
				best = c
			}
			if of[row[c.lesion]] == column {
				given = n
			}
		}
		switch {
		case given >= 0:
			c := at[column][given]
			m.out.found[c.lesion], m.out.raw[c.lesion] = i, c.raw
			m.out.fate[i], m.out.lesion[i] = TruePositive, c.lesion
		case m.protocol.Duplicates == Free:
			m.out.fate[i], m.out.lesion[i] = Duplicate, best.lesion
		case m.out.fate[i] != IgnoredMark:
			m.out.lesion[i] = best.lesion
		}
	}
}

// sortByContent orders lesions, and the marks in m.order with their candidates, by what they
// are, so that the choice between equally good assignments does not depend on the order of
// input.
func (m *matcher) sortByContent(lesions []int32) {
	slices.SortFunc(lesions, func(a, b int32) int {
		return compareLesions(&m.truth.Lesions[a], &m.truth.Lesions[b])
	})
	positions := make([]int, len(m.order))
	for k := range positions {
		positions[k] = k
	}
	slices.SortFunc(positions, func(a, b int) int {
		pa, pb := &m.predictions[m.order[a]], &m.predictions[m.order[b]]
		return cmp.Or(compareMarks(pa, pb), cmp.Compare(pb.Score, pa.Score))
	})
	order, candidates, offsets := make([]int32, 0, len(m.order)), make([]candidate, 0, len(m.candidates)), []int{0}
	for _, k := range positions {
		order = append(order, m.order[k])
		candidates = append(candidates, m.candidates[m.offsets[k]:m.offsets[k+1]]...)
		offsets = append(offsets, len(candidates))
	}
	m.order, m.candidates, m.offsets = order, candidates, offsets
}

// assignMost returns for every row the column it gets, -1 for none, so that the sum of
// weights, none of them negative, is greatest; pairs of weight 0 are none. It grows one
// shortest augmenting path per row (Crouse, On implementing 2D rectangular assignment
// algorithms, IEEE Trans. Aerosp. Electron. Syst. 52, 2016), O(rows² · columns).
func assignMost(weight [][]float64) []int {
	rows := len(weight)
	if rows == 0 {
		return nil
	}
	columns := len(weight[0])
	if rows > columns { // the algorithm wants no more rows than columns
		turned := make([][]float64, columns)
		for c := range turned {
			turned[c] = make([]float64, rows)
			for r := range weight {
				turned[c][r] = weight[r][c]
			}
		}
		out := slices.Repeat([]int{-1}, rows)
		for c, r := range assignMost(turned) {
			if r >= 0 {
				out[r] = c
			}
		}
		return out
	}
	a := assigner{
		u: make([]float64, rows), v: make([]float64, columns), path: make([]int, columns),
		rowOf: slices.Repeat([]int{-1}, columns), columnOf: slices.Repeat([]int{-1}, rows), weight: weight,
	}
	for r := range rows {
		a.augment(r)
	}
	for r, c := range a.columnOf {
		if weight[r][c] == 0 {
			a.columnOf[r] = -1
		}
	}
	return a.columnOf
}

// assigner holds the dual variables and the assignment so far.
type assigner struct {
	weight          [][]float64
	u, v            []float64 // of rows and of columns
	path            []int     // per column: the row from which it was reached
	rowOf, columnOf []int
}

// augment assigns one more row along the shortest path to a free column.
func (a *assigner) augment(start int) {
	columns := len(a.v)
	shortest := slices.Repeat([]float64{math.Inf(1)}, columns)
	inRows, inColumns := make([]bool, len(a.u)), make([]bool, columns)
	remaining := make([]int, columns)
	for k := range remaining {
		remaining[k] = columns - 1 - k
	}
	least, sink := 0.0, -1
	for r := start; sink < 0; {
		inRows[r] = true
		next, lowest := -1, math.Inf(1)
		for k, c := range remaining {
			if d := least - a.weight[r][c] - a.u[r] - a.v[c]; d < shortest[c] {
				a.path[c], shortest[c] = r, d
			}
			if shortest[c] < lowest || shortest[c] == lowest && a.rowOf[c] < 0 {
				next, lowest = k, shortest[c]
			}
		}
		least = lowest
		c := remaining[next]
		if a.rowOf[c] < 0 {
			sink = c
		} else {
			r = a.rowOf[c]
		}
		inColumns[c] = true
		remaining[next] = remaining[len(remaining)-1]
		remaining = remaining[:len(remaining)-1]
	}
	a.u[start] += least
	for r, reached := range inRows {
		if reached && r != start {
			a.u[r] += least - shortest[a.columnOf[r]]
		}
	}
	for c, reached := range inColumns {
		if reached {
			a.v[c] -= least - shortest[c]
		}
	}
	for c := sink; ; {
		r := a.path[c]
		a.rowOf[c] = r
		a.columnOf[r], c = c, a.columnOf[r]
		if r == start {
			return
		}
	}
}
