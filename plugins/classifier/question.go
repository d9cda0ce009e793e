package classifier

import (
	"math"
	"math/rand/v2"
	"strings"

	"github.com/sugarme/gotch"
	"github.com/sugarme/gotch/ts"

	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/fusion/transformer"
	"github.com/alignedfusion/alignedfusion/sdk/torchstage"
)

// answer turns what is known of a case [N,width] into logits [N,classes] whose softmax are the
// probabilities of a label set's classes, whatever is asked.
type answer interface {
	of(s *torchstage.Scope, x *ts.Tensor) *ts.Tensor
}

// newAnswer makes what answers a label set's question; rows is the width of its logits.
func newAnswer(b *torchstage.Build, question, name string, set sdk.LabelSet, width int64) (_ answer, rows int64, err error) {
	p, classes := b.Params, int64(len(set.Classes))
	if question == sdk.AsksNumber {
		return oneOf{newLayer(p, name, 1, width)}, 1, nil
	}
	if classes < 2 {
		return nil, 0, sdk.Errorf(sdk.InvalidArgument, "label set %q has %d classes, want at least 2", set.Name, classes)
	}
	switch question {
	case sdk.AsksFinding:
		if classes != 2 {
			return nil, 0, sdk.Errorf(sdk.InvalidArgument, "setting question=multilabel: label set %q has the classes %s, want two: a finding is not there (0) or there (1)", set.Name, strings.Join(set.Classes, ", "))
		}
		return finding{newLayer(p, name, 1, width)}, classes, nil
	case sdk.AsksTime:
		return hazards{newLayer(p, name, classes-1, width)}, classes, nil
	case sdk.AsksGrade:
		b.Notes = append(b.Notes, "question=ordinal: the classes of "+set.Name+" are in the order "+strings.Join(set.Classes, " < "))
		return &ordinal{
			weight:     p.Parameter(name+".weight", []int64{1, width}, torchstage.Normal(0, 0.01)),
			thresholds: p.Parameter(name+".thresholds", []int64{classes - 1}, evenThresholds),
			classes:    classes,
		}, classes, nil
	}
	return oneOf{newLayer(p, name, classes, width)}, classes, nil
}

func newLayer(p *torchstage.Params, name string, rows, width int64) transformer.Affine {
	return transformer.Affine{
		Weight: p.Parameter(name+".weight", []int64{rows, width}, torchstage.Normal(0, 0.01)),
		Bias:   p.Parameter(name+".bias", []int64{rows}, torchstage.Zeros()),
	}
}

// oneOf is a linear classifier, a row per class; or linear regression, with one row.
type oneOf struct{ layer transformer.Affine }

func (a oneOf) of(s *torchstage.Scope, x *ts.Tensor) *ts.Tensor { return a.layer.Apply(s, x) }

// finding is logistic regression: the softmax of 0 and z is the sigmoid of z, and its
// cross-entropy the binary one.
type finding struct{ layer transformer.Affine }

func (a finding) of(s *torchstage.Scope, x *ts.Tensor) *ts.Tensor {
	z := a.layer.Apply(s, x)
	return s.Cat([]*ts.Tensor{s.MulScalar(z, 0), z}, 1)
}

// ordinal is the proportional odds model (McCullagh 1980, eq. 2.1): the odds that a case lies
// at or below class k are exp(threshold_k - w·x), with thresholds that rise. The logits are
// the logarithms of the classes' probabilities.
type ordinal struct {
	weight *ts.Tensor // [1,width]
	// thresholds [classes-1]: the first, then how far each lies above the one before it, as
	// the inverse of a softplus.
	thresholds *ts.Tensor
	classes    int64
}

// evenThresholds make all classes as likely where nothing is known of a case.
func evenThresholds(values []float32, shape []int64, _ *rand.Rand) {
	k := float64(shape[0] + 1)
	at := func(i int) float64 { return math.Log(float64(i+1) / (k - float64(i+1))) }
	for i := range values {
		values[i] = float32(at(i))
		if i > 0 {
			values[i] = float32(math.Log(math.Expm1(at(i) - at(i-1))))
		}
	}
}

func (a *ordinal) of(s *torchstage.Scope, x *ts.Tensor) *ts.Tensor {
	f := s.Linear(x, a.weight, nil)
	var threshold, below *ts.Tensor // [1,1]; below [N,1]: how far a case lies above the threshold before
	var columns []*ts.Tensor
	for k := range a.classes - 1 {
		// P(k) = sigmoid(z_k) - sigmoid(z_k-1) = sigmoid(z_k)·sigmoid(-z_k-1)·(1 - exp(-gap)), and
		// with gap = softplus(raw) the last factor is sigmoid(raw).
		raw := s.Reshape(s.Narrow(a.thresholds, 0, k, 1), 1, 1)
		if k == 0 {
			threshold = raw
		} else {
			threshold = s.Sub2(threshold, logSigmoid(s, s.MulScalar(raw, -1)))
		}
		z := s.Sub2(threshold, f)
		column := logSigmoid(s, z)
		if k > 0 {
			column = s.Add(column, s.Add(logSigmoid(s, below), logSigmoid(s, raw)))
		}
		columns, below = append(columns, column), s.MulScalar(z, -1)
	}
	return s.Cat(append(columns, logSigmoid(s, below)), 1)
}

// logSigmoid of z [N,1], without overflow: the logarithm of the softmax of 0 and z.
func logSigmoid(s *torchstage.Scope, z *ts.Tensor) *ts.Tensor {
	return s.Narrow(s.LogSoftmax(s.Cat([]*ts.Tensor{s.MulScalar(z, 0), z}, 1), 1), 1, 1, 1)
}

// hazards are the chances that the event happens in an interval of time for a case that has
// come so far without it, a logistic regression each (Gensheimer and Narasimhan 2019, section
// 2.2). The last interval has no end: what is left is its. The logits are the logarithms of the
// intervals' probabilities.
type hazards struct{ layer transformer.Affine }

func (a hazards) of(s *torchstage.Scope, x *ts.Tensor) *ts.Tensor {
	z := a.layer.Apply(s, x)
	var columns []*ts.Tensor
	var survived *ts.Tensor // [N,1]: the logarithm of the chance to come so far
	for k := range s.Dim(z, 1) {
		one := s.Narrow(z, 1, k, 1)
		happens, passes := logSigmoid(s, one), logSigmoid(s, s.MulScalar(one, -1))
		if survived != nil {
			happens, passes = s.Add(survived, happens), s.Add(survived, passes)
		}
		columns, survived = append(columns, happens), passes
	}
	return s.Cat(append(columns, survived), 1)
}

// numberLoss is half the mean squared error of numbers [N,1] to targets [N], of which NaN are
// unknown; nil where all are.
func numberLoss(s *torchstage.Scope, numbers, target *ts.Tensor, device gotch.Device) *ts.Tensor {
	values := s.Float32s(target)
	known, sum := make([]float32, len(values)), 0.0
	for i, v := range values {
		if math.IsNaN(float64(v)) {
			values[i] = 0
			continue
		}
		known[i] = 1
		sum++
	}
	if sum == 0 || s.Err() != nil {
		return nil
	}
	n := int64(len(values))
	constant := func(v []float32) *ts.Tensor { return s.To(s.FromFloat32s(v, n, 1), device) }
	off := s.Mul(s.Sub2(numbers, constant(values)), constant(known))
	return s.MulScalar(s.Sum(s.Mul(off, off), nil, false), 0.5/sum)
}

// timeLoss is the mean of minus the logarithm of the likelihood of what is known: the chance of
// the interval labels[i] or, of a censored case, of that and all later ones. Labels below 0 are
// unknown; it is nil where all are.
func timeLoss(s *torchstage.Scope, logits *ts.Tensor, labels []int64, censored []int8, device gotch.Device) *ts.Tensor {
	n, classes := int64(len(labels)), s.Dim(logits, 1)
	var known float64
	chosen, shut := make([]float32, n*classes), make([]float32, n*classes)
	for i, label := range labels {
		if label < 0 {
			continue
		}
		known++
		row := int64(i) * classes
		chosen[row+label] = 1
		for c := range classes {
			if c < label || c > label && censored[i] == 0 {
				shut[row+c] = -1e9 // as good as a logarithm of 0
			}
		}
	}
	if known == 0 || s.Err() != nil {
		return nil
	}
	constant := func(v []float32) *ts.Tensor { return s.To(s.FromFloat32s(v, n, classes), device) }
	// The logarithm of a sum of exponentials is any of their logarithms less that of its share.
	one := constant(chosen)
	logSum := func(x *ts.Tensor) *ts.Tensor { return s.Sum(s.Mul(s.Sub2(x, s.LogSoftmax(x, 1)), one), nil, false) }
	return s.MulScalar(s.Sub2(logSum(logits), logSum(s.Add(logits, constant(shut)))), 1/known)
}
