package boxops

// RoIAlign is linear in the features: every output cell is a weighted sum of a few
// feature-map cells. RoIAlign makes the table of those sums.
type RoIAlign struct {
	// Size is the number of output cells along each side.
	Size int
	// Samples is the number of sampling points per output cell along each side.
	Samples int
	// Stride is the feature map's stride in pixels.
	Stride int
	// Legacy is the sampling of mmdetection 1: the region ends at x2+1, nothing is
	// shifted by half a cell, and a region may have no extent. Otherwise it is the
	// "aligned" one: pixel centres at half-integers (Detectron2).
	Legacy bool
}

// Table says how output cells are summed from feature cells. Output cell k, of
// region k/(Size·Size), is the sum of Weights[j]·feature[Indices[j]] for j from
// Offsets[k] up to the next offset.
type Table struct {
	Indices []int64
	Weights []float32
	Offsets []int64
}

// point is a feature coordinate along one axis with its weight.
type point struct {
	index  int
	weight float32
}

// Table samples regions of images in a feature map of rows × columns cells. Feature
// cell (n, y, x) has index (n·rows+y)·columns+x: features are [N, rows, columns, C].
// Sampling points outside the map by more than a cell count as zero.
func (r RoIAlign) Table(regions []Box, images []int32, rows, columns int) Table {
	cells := len(regions) * r.Size * r.Size
	t := Table{
		Offsets: make([]int64, 0, cells),
		Indices: make([]int64, 0, cells*9),
		Weights: make([]float32, 0, cells*9),
	}
	xs, ys := make([][]point, r.Size), make([][]point, r.Size)
	for k, b := range regions {
		r.axis(xs, b[0], b[2], columns)
		r.axis(ys, b[1], b[3], rows)
		base := int64(images[k]) * int64(rows)
		for _, py := range ys {
			for _, px := range xs {
				t.Offsets = append(t.Offsets, int64(len(t.Indices)))
				for _, y := range py {
					line := (base + int64(y.index)) * int64(columns)
					for _, x := range px {
						t.Indices = append(t.Indices, line+int64(x.index))
						t.Weights = append(t.Weights, y.weight*x.weight)
					}
				}
			}
		}
	}
	return t
}

// axis fills in, for every output cell along one axis, the feature coordinates it
// reads and their weights: bilinear sampling is separable.
func (r RoIAlign) axis(out [][]point, low, high float32, length int) {
	scale := 1 / float32(r.Stride)
	start, size := low*scale, float32(0)
	if r.Legacy {
		size = max((high+1)*scale-start, 0)
	} else {
		start -= 0.5
		size = high*scale - 0.5 - start
	}
	bin := size / float32(r.Size)
	for p := range r.Size {
		out[p] = out[p][:0]
		for i := range r.Samples {
			v := start + float32(p)*bin + (float32(i)+0.5)*bin/float32(r.Samples)
			if !(v >= -1 && v <= float32(length)) {
				continue
			}
			v = max(v, 0)
			lower := int(v)
			if lower >= length-1 {
				out[p] = add(out[p], length-1, 1)
				continue
			}
			fraction := v - float32(lower)
			out[p] = add(out[p], lower, 1-fraction)
			out[p] = add(out[p], lower+1, fraction)
		}
		for j := range out[p] {
			out[p][j].weight /= float32(r.Samples)
		}
	}
}

func add(points []point, index int, weight float32) []point {
	if weight == 0 {
		return points
	}
	for i := range points {
		if points[i].index == index {
			points[i].weight += weight
			return points
		}
	}
	return append(points, point{index, weight})
}
