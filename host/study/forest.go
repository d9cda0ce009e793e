package study

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
)

// Forest is a random forest (Breiman 2001): trees on bootstrap samples, each split the best
// of a random few features by Gini impurity.
type Forest struct {
	edges   [][]float64 // [feature] upper edges of all bins but the last
	trees   [][]node
	classes int
}

// node is a split, rows whose bin of the feature is at most bin to the left, or a leaf.
type node struct {
	feature     int // -1 in a leaf
	bin         uint8
	left, right int
	share       []float64 // of each class, in a leaf
}

// ForestOptions steer TrainForest.
type ForestOptions struct {
	// Trees is their number; 0 means 100. MinLeaf is the fewest rows in a leaf; 0 means 1.
	Trees, MinLeaf int
	Seed           uint64
}

// forestBins is the most values of a feature that are told apart: a feature with more is
// cut at quantiles of the training rows.
const forestBins = 64

// TrainForest fits rows of features [n][F] with labels in [0, classes). A split looks at
// the square root of F features, and at more while none of them divides the rows.
func TrainForest(features [][]float64, labels []int, classes int, o ForestOptions) (*Forest, error) {
	n := len(features)
	if n == 0 || n != len(labels) || classes < 2 {
		return nil, fmt.Errorf("random forest: %d rows, %d labels, %d classes; want as many rows as labels and at least 2 classes", n, len(labels), classes)
	}
	for i, row := range features {
		if len(row) != len(features[0]) || labels[i] < 0 || labels[i] >= classes {
			return nil, fmt.Errorf("random forest: row %d has %d features and label %d, want %d features and a label from 0 to %d", i, len(row), labels[i], len(features[0]), classes-1)
		}
	}
	if o.Trees == 0 {
		o.Trees = 100
	}
	f := &Forest{classes: classes}
	bins := make([][]uint8, len(features[0]))
	for j := range bins {
		column := make([]float64, n)
		for i, row := range features {
			column[i] = row[j]
		}
		f.edges = append(f.edges, binEdges(column))
		bins[j] = make([]uint8, n)
		for i, v := range column {
			bins[j][i] = bin(f.edges[j], v)
		}
	}
	for t := range o.Trees {
		g := &grower{bins: bins, labels: labels, classes: classes, minLeaf: max(1, o.MinLeaf),
			few: max(1, int(math.Sqrt(float64(len(bins))))), rng: rand.New(rand.NewPCG(o.Seed, uint64(t)))}
		rows := make([]int, n)
		for i := range rows {
			rows[i] = g.rng.IntN(n)
		}
		g.grow(rows)
		f.trees = append(f.trees, g.nodes)
	}
	return f, nil
}

// binEdges are the middles between the distinct values, or between quantiles of the column
// where there are many.
func binEdges(column []float64) []float64 {
	values := slices.Clone(column)
	slices.Sort(values)
	if distinct := slices.Compact(slices.Clone(values)); len(distinct) <= forestBins {
		values = distinct
	} else {
		for b := range forestBins {
			distinct[b] = values[b*(len(values)-1)/(forestBins-1)]
		}
		values = slices.Compact(distinct[:forestBins])
	}
	var edges []float64
	for i := 1; i < len(values); i++ {
		edges = append(edges, (values[i-1]+values[i])/2)
	}
	return edges
}

// bin is the first whose upper edge v does not exceed.
func bin(edges []float64, v float64) uint8 {
	at, _ := slices.BinarySearch(edges, v)
	return uint8(at)
}

// grower makes one tree.
type grower struct {
	bins                  [][]uint8 // [feature][row]
	labels                []int
	classes, minLeaf, few int
	rng                   *rand.Rand
	nodes                 []node
}

// grow adds the tree of the rows and returns its place among the nodes.
func (g *grower) grow(rows []int) int {
	at := len(g.nodes)
	count := make([]float64, g.classes)
	for _, i := range rows {
		count[g.labels[i]]++
	}
	g.nodes = append(g.nodes, node{feature: -1})
	feature, cut, found := -1, uint8(0), false
	if slices.Max(count) < float64(len(rows)) && len(rows) >= 2*g.minLeaf {
		feature, cut, found = g.split(rows, count)
	}
	if !found {
		for c := range count {
			count[c] /= float64(len(rows))
		}
		g.nodes[at].share = count
		return at
	}
	var left, right []int
	for _, i := range rows {
		if g.bins[feature][i] <= cut {
			left = append(left, i)
		} else {
			right = append(right, i)
		}
	}
	l := g.grow(left)
	r := g.grow(right)
	g.nodes[at] = node{feature: feature, bin: cut, left: l, right: r}
	return at
}

// split finds the cut with the least Gini impurity: the greatest sum over both sides of
// squared class counts divided by the side's rows.
func (g *grower) split(rows []int, count []float64) (feature int, cut uint8, found bool) {
	best := 0.0
	order := g.rng.Perm(len(g.bins))
	for looked, f := range order {
		if looked >= g.few && found {
			break
		}
		var in [forestBins][]float64
		for _, i := range rows {
			b := g.bins[f][i]
			if in[b] == nil {
				in[b] = make([]float64, g.classes)
			}
			in[b][g.labels[i]]++
		}
		left := make([]float64, g.classes)
		n := 0.0
		for b := range in {
			if in[b] == nil {
				continue
			}
			for c, k := range in[b] {
				left[c] += k
				n += k
			}
			rest := float64(len(rows)) - n
			if n < float64(g.minLeaf) || rest < float64(g.minLeaf) {
				continue
			}
			var l, r float64
			for c, k := range left {
				l += k * k
				r += (count[c] - k) * (count[c] - k)
			}
			if score := l/n + r/rest; !found || score > best {
				best, feature, cut, found = score, f, uint8(b), true
			}
		}
	}
	return feature, cut, found
}

// Predict returns the probability of every class for a row of features: the mean over the
// trees of the shares in its leaf.
func (f *Forest) Predict(row []float64) []float64 {
	bins := make([]uint8, len(row))
	for j, v := range row {
		bins[j] = bin(f.edges[j], v)
	}
	p := make([]float64, f.classes)
	for _, tree := range f.trees {
		at := 0
		for tree[at].feature >= 0 {
			if bins[tree[at].feature] <= tree[at].bin {
				at = tree[at].left
			} else {
				at = tree[at].right
			}
		}
		for c, share := range tree[at].share {
			p[c] += share / float64(len(f.trees))
		}
	}
	return p
}
