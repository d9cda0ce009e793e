package bert

import (
	"github.com/sugarme/gotch/ts"

	"github.com/alignedfusion/alignedfusion/sdk/fusion/transformer"
	"github.com/alignedfusion/alignedfusion/sdk/torchstage"
)

// split parts the columns of y [N,T,heads·h] among the heads: [N·heads,T,h].
func split(s *torchstage.Scope, y *ts.Tensor, heads int64) *ts.Tensor {
	n, t, h := s.Dim(y, 0), s.Dim(y, 1), s.Dim(y, 2)/heads
	return s.Reshape(s.Transpose(s.Reshape(y, n, t, heads, h), 1, 2), n*heads, t, h)
}

// attend is attention over q, k, v [N·heads,T,h], with q scaled already and bias
// [N·heads,1 or T,T] added to the logits; the heads come back beside each other: [N,T,heads·h].
func attend(s *torchstage.Scope, q, k, v, bias *ts.Tensor, heads int64) *ts.Tensor {
	n, t, h := s.Dim(q, 0)/heads, s.Dim(q, 1), s.Dim(q, 2)
	y := transformer.Attention(s, q, k, v, bias)
	return s.Reshape(s.Transpose(s.Reshape(y, n, heads, t, h), 1, 2), n, t, heads*h)
}

// perHead repeats a bias [N,1,rows,T] for every head: [N·heads,rows,T].
func perHead(s *torchstage.Scope, bias *ts.Tensor, heads int64) *ts.Tensor {
	n, rows, t := s.Dim(bias, 0), s.Dim(bias, 2), s.Dim(bias, 3)
	return s.Reshape(s.Expand(bias, n, heads, rows, t), n*heads, rows, t)
}
