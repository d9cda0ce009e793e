package toy

import (
	"math"

	"github.com/alignedfusion/alignedfusion/internal/stat"
)

// node is a value of a computation and the derivative of the objective by it. A
// parameter's node lives as long as the stage, so that gradients accumulate.
type node struct{ v, g []float64 }

// constant is a value that nothing is derived by.
func constant(v []float64) *node { return &node{v: v, g: make([]float64, len(v))} }

// tape remembers how to go backwards through the operations done on it.
type tape struct{ back []func() }

// result is a value with the operation that carries its derivative on.
func (t *tape) result(v []float64, back func(g []float64)) *node {
	n := constant(v)
	t.back = append(t.back, func() { back(n.g) })
	return n
}

// backward goes through the operations in reverse order.
func (t *tape) backward() {
	for i := len(t.back) - 1; i >= 0; i-- {
		t.back[i]()
	}
}

// linear is x·Wᵀ for x [rows, in] and W [out, in].
func (t *tape) linear(x, w *node, in int) *node {
	rows, out := len(x.v)/in, len(w.v)/in
	y := make([]float64, rows*out)
	each := func(f func(y, x, w int)) {
		for k := range y {
			for c := range in {
				f(k, k/out*in+c, k%out*in+c)
			}
		}
	}
	each(func(k, i, j int) { y[k] += x.v[i] * w.v[j] })
	return t.result(y, func(g []float64) {
		each(func(k, i, j int) {
			x.g[i] += g[k] * w.v[j]
			w.g[j] += g[k] * x.v[i]
		})
	})
}

// term is a tensor in a sum, spread out or repeated as its index says.
type term struct {
	x    *node
	from func(k int) int
}

func same(k int) int { return k }

// row repeats a vector of n numbers in every row.
func row(n int) func(int) int { return func(k int) int { return k % n } }

// perCase repeats each of N rows of c numbers for every one of a case's tokens.
func perCase(tokens, c int) func(int) int {
	return func(k int) int { return k/(tokens*c)*c + k%c }
}

func (t *tape) sum(size int, terms ...term) *node {
	y := make([]float64, size)
	for _, a := range terms {
		for k := range y {
			y[k] += a.x.v[a.from(k)]
		}
	}
	return t.result(y, func(g []float64) {
		for _, a := range terms {
			for k := range g {
				a.x.g[a.from(k)] += g[k]
			}
		}
	})
}

// mean is the mean over a case's tokens of x [N, tokens, c], divided by parts.
func (t *tape) mean(x *node, tokens, c, parts int) *node {
	y, at, scale := make([]float64, len(x.v)/max(1, tokens)), perCase(tokens, c), 1/float64(tokens*parts)
	for k, v := range x.v {
		y[at(k)] += v * scale
	}
	return t.result(y, func(g []float64) {
		for k := range x.v {
			x.g[k] += g[at(k)] * scale
		}
	})
}

// times multiplies number by number with constants.
func (t *tape) times(x *node, factors []float64) *node {
	y := make([]float64, len(x.v))
	for k := range y {
		y[k] = x.v[k] * factors[k]
	}
	return t.result(y, func(g []float64) {
		for k := range g {
			x.g[k] += g[k] * factors[k]
		}
	})
}

// loss is a scalar with its derivative by x.
func (t *tape) loss(x *node, value float64, derivative []float64) *node {
	return t.result([]float64{value}, func(g []float64) {
		for k, d := range derivative {
			x.g[k] += g[0] * d
		}
	})
}

// crossEntropy is the mean over the rows whose label is not negative.
func (t *tape) crossEntropy(logits *node, classes int, labels []int64) *node {
	known, value, d := 0.0, 0.0, make([]float64, len(logits.v))
	for _, k := range labels {
		if k >= 0 {
			known++
		}
	}
	for i, k := range labels {
		if k < 0 {
			continue
		}
		p := stat.Softmax(logits.v[i*classes : (i+1)*classes])
		value -= math.Log(max(p[k], 1e-300)) / known
		p[k]--
		for j := range p {
			d[i*classes+j] = p[j] / known
		}
	}
	return t.loss(logits, value, d)
}

// binary is the mean binary cross-entropy, with the probabilities. The softplus form keeps
// it finite for confident mistakes.
func (t *tape) binary(logits *node, target []float64) (loss *node, p []float64) {
	value, d, n := 0.0, make([]float64, len(logits.v)), float64(len(logits.v))
	p = make([]float64, len(logits.v))
	for k, z := range logits.v {
		p[k] = 1 / (1 + math.Exp(-z))
		value += (math.Max(z, 0) - z*target[k] + math.Log1p(math.Exp(-math.Abs(z)))) / n
		d[k] = (p[k] - target[k]) / n
	}
	return t.loss(logits, value, d), p
}

// squared is the mean squared error.
func (t *tape) squared(x *node, target []float64) *node {
	value, d, n := 0.0, make([]float64, len(x.v)), float64(max(len(x.v), 1))
	for k, v := range x.v {
		d[k] = 2 * (v - target[k]) / n
		value += (v - target[k]) * (v - target[k]) / n
	}
	return t.loss(x, value, d)
}
