package itfusion

import (
	"fmt"

	"github.com/sugarme/gotch"
	"github.com/sugarme/gotch/ts"

	"github.com/alignedfusion/alignedfusion/internal/stat"
	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/fusion"
	"github.com/alignedfusion/alignedfusion/sdk/fusion/transformer"
	"github.com/alignedfusion/alignedfusion/sdk/torchstage"
)

// absent is the logit of the places of the value axis an attribute does not use:
// its probability is exactly zero in float32.
const absent = -1e4

// reconstructor is F_rec of Eq. 10: a two-layer perceptron on the attended token,
// and a cross-entropy over the attribute's value set.
type reconstructor struct {
	frame            *fusion.Frame
	linear1, linear2 transformer.Affine
	temperature      float64
	regression       *transformer.Affine // [A·K, A·K + modalities·d]; nil without
	values           *ts.Tensor          // text embeddings of the value set [A,K,E]
	padding          *ts.Tensor          // [A,K]: 0 for a value, absent elsewhere
	// targets[a][v] is the target distribution over K for value v.
	targets [][][]float32
}

func newReconstructor(b *torchstage.Build, frame *fusion.Frame, set method) (*reconstructor, error) {
	a, k, e := int64(len(frame.Attributes)), frame.K, frame.Embedding
	values := b.Request.Constants["value.embedding"]
	if values == nil {
		return nil, sdk.Errorf(sdk.InvalidArgument, "constant value.embedding is missing: reconstruction needs the embedding of every attribute value, FP32 [%d %d %d]", a, k, e)
	}
	if len(values.Shape) != 3 || values.Shape[0] != a || values.Shape[1] != k || values.Shape[2] != e {
		return nil, &sdk.Error{
			Code: sdk.InvalidArgument, Port: "value.embedding", Given: values.String(),
			Wanted: fmt.Sprintf("FP32 [%d %d %d] (attributes, largest value set, text embedding)", a, k, e),
		}
	}
	r := &reconstructor{
		frame: frame, temperature: set.Temperature,
		linear1: transformer.Linear(b.Params, "reconstruction.linear1", frame.Width, frame.Width),
		linear2: transformer.Linear(b.Params, "reconstruction.linear2", frame.Width, frame.Width),
	}
	if set.Regression {
		from, to := a*k+int64(len(frame.Modalities))*frame.Width, a*k
		r.regression = &transformer.Affine{
			Weight: b.Params.Parameter("reconstruction.regression.weight", []int64{to, from}, torchstage.Zeros()),
			Bias:   b.Params.Parameter("reconstruction.regression.bias", []int64{to}, torchstage.Zeros()),
		}
	}
	padding := make([]float32, a*k)
	for i, attribute := range frame.Attributes {
		n := len(attribute.Values)
		for j := n; j < int(k); j++ {
			padding[i*int(k)+j] = absent
		}
		var rows [][]float32
		for v := range n {
			rows = append(rows, target(v, n, int(k), attribute.Ordinal, set.OrdinalSmoothing))
		}
		r.targets = append(r.targets, rows)
	}
	r.values = b.Constant("value.embedding")
	r.padding = b.S.Keep(frame.Upload(b.S, padding, a, k))
	return r, b.S.Err()
}

// target is the distribution that value v of n is trained towards, padded to k
// places. Ordinal attributes give some of it to the neighbouring bins.
func target(v, n, k int, ordinal bool, smoothing float64) []float32 {
	t := make([]float32, k)
	t[v] = 1
	if !ordinal || smoothing == 0 {
		return t
	}
	var near []int
	for _, j := range []int{v - 1, v + 1} {
		if j >= 0 && j < n {
			near = append(near, j)
		}
	}
	t[v] = float32(1 - smoothing)
	for _, j := range near {
		t[j] = float32(smoothing / float64(len(near)))
	}
	return t
}

// reconstruction is what F_rec says of every attribute of every case.
type reconstruction struct {
	logits *ts.Tensor // [N,A,K]
	logp   *ts.Tensor // log-probabilities [N,A,K]
	token  *ts.Tensor // Σ p_k e_k [N,A,d]
}

// knownScale is the size of a known value among the regression's features. A value occurs
// in few cases, a token's number in all: as large as these it would be learned last.
const knownScale = 8

// regress gives the logits [N,A,K] of a multinomial logistic regression of every attribute
// on the other attributes' known values, those that are neither masked nor missing, and on
// the mean of each modality's tokens [N,T,d]; nil without. An attribute's own value is no
// feature where it is asked for.
func (r *reconstructor) regress(s *torchstage.Scope, c fusion.Cells, masked []bool, modalities []*ts.Tensor) *ts.Tensor {
	if r.regression == nil {
		return nil
	}
	n, a, k := int64(c.N), int64(len(r.frame.Attributes)), r.frame.K
	known := make([]float32, n*a*k)
	for i, v := range c.Value {
		if !masked[i] && fusion.Known(c.State[i], v) {
			known[int64(i)*k+v] = knownScale
		}
	}
	features := []*ts.Tensor{r.frame.Upload(s, known, n, a*k)}
	for _, x := range modalities {
		features = append(features, s.Mean(x, []int64{1}, false))
	}
	return s.Reshape(r.regression.Apply(s, s.Cat(features, 1)), n, a, k)
}

// run reads the attended report tokens [N,A,d] and adds prior logits [N,A,K], unless they are nil.
func (r *reconstructor) run(s *torchstage.Scope, tokens, prior *ts.Tensor) reconstruction {
	candidates := r.frame.Project(s, r.values) // e_k as report tokens [A,K,d]
	guess := r.linear2.Apply(s, s.Gelu(r.linear1.Apply(s, tokens)))
	byAttribute := s.Transpose(unit(s, guess), 0, 1) // [A,N,d]
	cosine := s.BMM(byAttribute, s.Transpose(unit(s, candidates), 1, 2))
	logits := s.Add(s.MulScalar(s.Transpose(cosine, 0, 1), 1/r.temperature), r.padding)
	if prior != nil {
		logits = s.Add(logits, prior)
	}
	logp := s.LogSoftmax(logits, 2)
	token := s.Transpose(s.BMM(s.Transpose(s.Exp(logp), 0, 1), candidates), 0, 1)
	return reconstruction{logits: logits, logp: logp, token: token}
}

// loss is Eq. 10's cross-entropy, averaged over the masked attributes; 0 when
// there is none. It adds the number of masked attributes and the share of them
// whose most probable value is the true one.
func (r *reconstructor) loss(s *torchstage.Scope, rec reconstruction, c fusion.Cells, masked []bool, out *torchstage.Outputs) *ts.Tensor {
	a, k := len(r.frame.Attributes), int(r.frame.K)
	targets := make([]float32, len(masked)*k)
	count := 0
	for i, chosen := range masked {
		if chosen {
			copy(targets[i*k:(i+1)*k], r.targets[i%a][c.Value[i]])
			count++
		}
	}
	out.Metrics["masked"] = float64(count)
	if count > 0 {
		out.Read(s, rec.logp, func(values []float64) {
			right := 0
			for i, chosen := range masked {
				if chosen && stat.ArgMax(values[i*k:(i+1)*k]) == int(c.Value[i]) {
					right++
				}
			}
			out.Metrics["mask_accuracy"] = float64(right) / float64(count)
		})
	}
	weights := r.frame.Upload(s, targets, int64(c.N), int64(a), int64(k))
	total := s.Do("sum", func() (*ts.Tensor, error) { return s.Mul(rec.logp, weights).Sum(gotch.Float, false) })
	return s.MulScalar(total, -1/float64(max(count, 1)))
}

// unit scales the last dimension to length 1.
func unit(s *torchstage.Scope, x *ts.Tensor) *ts.Tensor {
	squares := s.Sum(s.Mul(x, x), []int64{-1}, true)
	norm := s.Do("sqrt", func() (*ts.Tensor, error) { return s.AddScalar(squares, 1e-12).Sqrt(false) })
	return s.Div(x, norm)
}
