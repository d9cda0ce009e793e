package classifier

import (
	"math"
	"math/rand/v2"
	"strings"

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

func newAnswer(b *torchstage.Build, question, name string, set sdk.LabelSet, width int64) (answer, error) {
	p, classes := b.Params, int64(len(set.Classes))
	rows := int64(1)
	switch question {
	case "classes":
		rows = classes
	case "multilabel":
		if classes != 2 {
			return nil, sdk.Errorf(sdk.InvalidArgument, "setting question=multilabel: label set %q has the classes %s, want two: a finding is not there (0) or there (1)", set.Name, strings.Join(set.Classes, ", "))
		}
	case "ordinal":
		a := &ordinal{
			weight:     p.Parameter(name+".weight", []int64{1, width}, torchstage.Normal(0, 0.01)),
			thresholds: p.Parameter(name+".thresholds", []int64{classes - 1}, evenThresholds),
			classes:    classes,
		}
		b.Notes = append(b.Notes, "question=ordinal: the classes of "+set.Name+" are in the order "+strings.Join(set.Classes, " < "))
		return a, nil
	}
	layer := transformer.Affine{
		Weight: p.Parameter(name+".weight", []int64{rows, width}, torchstage.Normal(0, 0.01)),
		Bias:   p.Parameter(name+".bias", []int64{rows}, torchstage.Zeros()),
	}
	if question == "multilabel" {
		return finding{layer}, nil
	}
	return oneOf{layer}, nil
}

// oneOf is a linear classifier, a row per class.
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
