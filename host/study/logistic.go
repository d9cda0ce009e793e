package study

import (
	"errors"
	"fmt"
	"math"

	"gonum.org/v1/gonum/optimize"

	"github.com/alignedfusion/alignedfusion/internal/stat"
)

// Logistic is multinomial logistic regression on standardised features.
type Logistic struct {
	mean, scale []float64
	weights     []float64 // [classes][features+1], the intercept last
	classes     int
}

// LogisticOptions steer TrainLogistic.
type LogisticOptions struct {
	// C is the inverse of the penalty's strength: the objective is
	// C·Σ w_i·loss_i + ½·Σ weights², intercepts free. 0 means 1.
	C float64
	// Balanced weighs every class alike however many rows it has.
	Balanced bool
	// Iterations bounds L-BFGS; 0 means 500.
	Iterations int
}

// TrainLogistic fits rows of features [n][F] with labels in [0, classes).
// Features are scaled to mean 0 and variance 1 over the rows first.
func TrainLogistic(features [][]float64, labels []int, classes int, o LogisticOptions) (*Logistic, error) {
	n := len(features)
	if n == 0 || n != len(labels) || classes < 2 {
		return nil, fmt.Errorf("logistic regression: %d rows, %d labels, %d classes; want as many rows as labels and at least 2 classes", n, len(labels), classes)
	}
	f := len(features[0])
	counts := make([]float64, classes)
	for i, row := range features {
		if len(row) != f {
			return nil, fmt.Errorf("logistic regression: row %d has %d features, want %d", i, len(row), f)
		}
		if labels[i] < 0 || labels[i] >= classes {
			return nil, fmt.Errorf("logistic regression: row %d: label %d, want 0 to %d", i, labels[i], classes-1)
		}
		counts[labels[i]]++
	}
	if o.C == 0 {
		o.C = 1
	}
	if o.Iterations == 0 {
		o.Iterations = 500
	}
	m := &Logistic{mean: make([]float64, f), scale: make([]float64, f), classes: classes}
	for j := range f {
		sum, squares := 0.0, 0.0
		for _, row := range features {
			sum += row[j]
		}
		m.mean[j] = sum / float64(n)
		for _, row := range features {
			squares += (row[j] - m.mean[j]) * (row[j] - m.mean[j])
		}
		if m.scale[j] = math.Sqrt(squares / float64(n)); !(m.scale[j] > 1e-12) {
			m.scale[j] = 1 // a constant column says nothing
		}
	}
	x := make([][]float64, n)
	weight := make([]float64, n)
	present := 0.0
	for _, c := range counts {
		if c > 0 {
			present++
		}
	}
	for i, row := range features {
		x[i] = m.standardise(row)
		weight[i] = o.C
		if o.Balanced {
			weight[i] *= float64(n) / (present * counts[labels[i]])
		}
	}
	width := f + 1
	logits := make([]float64, classes)
	objective := func(w, grad []float64) float64 {
		for i := range grad {
			grad[i] = 0
		}
		total := 0.0
		for c := range classes {
			for j, v := range w[c*width : c*width+f] {
				total += 0.5 * v * v
				if grad != nil {
					grad[c*width+j] = v
				}
			}
		}
		for i, row := range x {
			scores(w, row, logits)
			top := math.Inf(-1)
			for _, v := range logits {
				top = math.Max(top, v)
			}
			sum := 0.0
			for _, v := range logits {
				sum += math.Exp(v - top)
			}
			total += weight[i] * (top + math.Log(sum) - logits[labels[i]])
			if grad == nil {
				continue
			}
			for c, v := range logits {
				d := math.Exp(v-top) / sum
				if c == labels[i] {
					d--
				}
				d *= weight[i]
				g := grad[c*width : (c+1)*width]
				for j, xj := range row {
					g[j] += d * xj
				}
				g[f] += d
			}
		}
		return total
	}
	problem := optimize.Problem{
		Func: func(w []float64) float64 { return objective(w, nil) },
		Grad: func(grad, w []float64) { objective(w, grad) },
	}
	settings := &optimize.Settings{MajorIterations: o.Iterations, GradientThreshold: 1e-5 * float64(n)}
	result, err := optimize.Minimize(problem, make([]float64, classes*width), settings, &optimize.LBFGS{Store: 10})
	if result == nil || err != nil && !errors.Is(err, optimize.ErrLinesearcherFailure) {
		return nil, fmt.Errorf("logistic regression: %w", err)
	}
	m.weights = result.X
	return m, nil
}

func (m *Logistic) standardise(row []float64) []float64 {
	out := make([]float64, len(row))
	for j, v := range row {
		out[j] = (v - m.mean[j]) / m.scale[j]
	}
	return out
}

// scores writes the logits of one standardised row.
func scores(w, row, logits []float64) {
	width := len(row) + 1
	for c := range logits {
		part := w[c*width : (c+1)*width]
		sum := part[len(row)]
		for j, v := range row {
			sum += part[j] * v
		}
		logits[c] = sum
	}
}

// Predict returns the probability of every class for a row of features.
func (m *Logistic) Predict(row []float64) []float64 {
	logits := make([]float64, m.classes)
	scores(m.weights, m.standardise(row), logits)
	return stat.Softmax(logits)
}

// OneHot lays rows of value indices [n][A] out as features: one column per value,
// all zero where the value is missing. With missing, one more column per attribute
// says so.
func OneHot(rows [][]int64, sizes []int, missing bool) [][]float64 {
	width := 0
	for _, n := range sizes {
		width += n
		if missing {
			width++
		}
	}
	out := make([][]float64, len(rows))
	for i, row := range rows {
		x := make([]float64, width)
		at := 0
		for a, n := range sizes {
			switch v := row[a]; {
			case v >= 0 && v < int64(n):
				x[at+int(v)] = 1
			case missing:
				x[at+n] = 1
			}
			at += n
			if missing {
				at++
			}
		}
		out[i] = x
	}
	return out
}
