package bert

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"

	"github.com/sugarme/gotch/ts"

	"github.com/alignedfusion/alignedfusion/sdk/fusion/transformer"
	"github.com/alignedfusion/alignedfusion/sdk/torchstage"
)

// lite is the Universal Sentence Encoder Lite (Cer et al. 2018): two layers of an older make,
// whose weights lie as TensorFlow's do, [in,out].
type lite struct {
	config
	word, rates *ts.Tensor // rates of the positions' sines
	layers      []liteLayer
	widen, head kernel
}

// readLite reads the config.json that `alignedfusion models get` writes.
func (c *config) readLite(data []byte) error {
	var doc struct {
		Words int64 `json:"embedding_size"`
	}
	if err := json.Unmarshal(data, &doc); err != nil {
		return err
	}
	if c.narrow = doc.Words; c.narrow < 2 || c.narrow > 1<<16 || c.heads < 1 || c.narrow%(2*c.heads) != 0 {
		return fmt.Errorf("embedding_size %d, want a multiple of %d heads", c.narrow, c.heads)
	}
	c.mean, c.normalize = true, true
	return nil
}

type liteLayer struct {
	attention, feeding transformer.Affine // norms
	qkv, out, in, back kernel
	from               int64 // width of what comes in
}

// kernel is a weight [in,out], perhaps behind dimensions of 1, with its bias.
type kernel struct {
	weight, bias *ts.Tensor
	in, out      int64
}

func (k kernel) apply(s *torchstage.Scope, x *ts.Tensor) *ts.Tensor {
	return s.Add(s.MatMul(x, s.Reshape(k.weight, k.in, k.out)), k.bias)
}

func newLite(p *torchstage.Params, c config) *lite {
	zeros := torchstage.Zeros() // every value comes from the file
	dense := func(weight, bias string, shape ...int64) kernel {
		n := len(shape)
		return kernel{p.Parameter(weight, shape, zeros), p.Parameter(bias, shape[n-1:], zeros), shape[n-2], shape[n-1]}
	}
	norm := func(name string, width int64) transformer.Affine {
		return transformer.Affine{Weight: p.Parameter(name+"_scale", []int64{width}, zeros), Bias: p.Parameter(name+"_bias", []int64{width}, zeros)}
	}
	m := &lite{config: c}
	m.word = p.Parameter("Embeddings_en", []int64{c.vocabulary, c.narrow}, zeros)
	m.rates = p.Parameter("Layer_0.AddTimingSignal.TimingSignal.ExpandDims_1", []int64{1, c.narrow / 2}, zeros)
	m.widen = dense("Layer_0.dense.kernel", "Layer_0.dense.bias", c.narrow, c.width)
	from := c.narrow
	for i := range c.layers {
		name := "Layer_" + strconv.FormatInt(i, 10) + "."
		m.layers = append(m.layers, liteLayer{
			attention: norm(name+"layer_norm.layer_norm", from), feeding: norm(name+"FFN.layer_norm.layer_norm", c.width), from: from,
			qkv:  dense(name+"MultiheadAttention.qkv_transform.kernel", name+"MultiheadAttention.qkv_transform.bias", 1, 1, from, 3*from),
			out:  dense(name+"MultiheadAttention.output_transform.kernel", name+"MultiheadAttention.output_transform.bias", 1, 1, from, c.width),
			in:   dense(name+"FFN.conv1.kernel", name+"FFN.conv1.bias", c.width, c.hidden),
			back: dense(name+"FFN.conv2.kernel", name+"FFN.conv2.bias", c.hidden, c.width),
		})
		from = c.width
	}
	m.head = dense("hidden_layers.tanh_layer_0.weights", "hidden_layers.tanh_layer_0.bias", c.width, c.width)
	return m
}

func (m *lite) run(s *torchstage.Scope, ids, hide *ts.Tensor) *ts.Tensor {
	t := s.Dim(ids, 1)
	hide = perHead(s, hide, m.heads)
	x := s.Add(s.MulScalar(s.Embedding(m.word, ids), 2), m.timing(s, t))
	for i, l := range m.layers {
		x = s.Sub(func(s *torchstage.Scope) *ts.Tensor {
			y := l.qkv.apply(s, l.attention.Normalize(s, x, l.from, m.eps))
			part := func(k int64) *ts.Tensor { return split(s, s.Narrow(y, 2, k*l.from, l.from), m.heads) }
			q := s.MulScalar(part(0), 1/math.Sqrt(float64(l.from/m.heads)))
			y = l.out.apply(s, attend(s, q, part(1), part(2), hide, m.heads))
			if i == 0 {
				return s.Add(m.widen.apply(s, x), y)
			}
			return s.Add(x, y)
		})
		x = s.Sub(func(s *torchstage.Scope) *ts.Tensor {
			y := s.Relu(l.in.apply(s, l.feeding.Normalize(s, x, m.width, m.eps)))
			return s.Add(x, l.back.apply(s, y))
		})
	}
	return x
}

// timing tells the positions apart, [T,narrow]: sines, then cosines.
func (m *lite) timing(s *torchstage.Scope, t int64) *ts.Tensor {
	rates := s.Float32s(m.rates)
	half := int64(len(rates))
	out := make([]float32, t*2*half)
	for i := range t {
		for k, rate := range rates {
			angle := float64(i) * float64(rate)
			out[i*2*half+int64(k)], out[i*2*half+half+int64(k)] = float32(math.Sin(angle)), float32(math.Cos(angle))
		}
	}
	return s.To(s.FromFloat32s(out, t, 2*half), m.device)
}

// pooled finishes the mean of a text's tokens.
func (m *lite) pooled(s *torchstage.Scope, x *ts.Tensor) *ts.Tensor {
	return s.Tanh(m.head.apply(s, x))
}
