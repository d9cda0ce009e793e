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

// modern is ModernBERT (Warner et al. 2024): rotary positions, gated perceptrons, norms before
// the branches, and layers that see a window beside layers that see the whole text.
type modern struct {
	config
	word        *ts.Tensor
	first, last transformer.Affine
	layers      []modernLayer
}

// modernConfig is what a configuration of ModernBERT says besides.
type modernConfig struct {
	attentionBias, perceptronBias, normBias bool
	// whole are the layers that see the whole text; the others see reach tokens to each side.
	whole                   []bool
	reach                   int64
	wholeTheta, windowTheta float64
}

// readModern reads what is ModernBERT's own of a config.json.
func (c *config) readModern(data []byte) error {
	doc := struct {
		Eps            float64  `json:"norm_eps"`
		Activation     string   `json:"hidden_activation"`
		AttentionBias  bool     `json:"attention_bias"`
		PerceptronBias bool     `json:"mlp_bias"`
		NormBias       bool     `json:"norm_bias"`
		Positions      int64    `json:"max_position_embeddings"`
		Every          int64    `json:"global_attn_every_n_layers"`
		Window         int64    `json:"local_attention"`
		WholeTheta     float64  `json:"global_rope_theta"`
		WindowTheta    *float64 `json:"local_rope_theta"`
		// Newer files say the same so.
		Kinds []string `json:"layer_types"`
		Ropes map[string]struct {
			Theta float64 `json:"rope_theta"`
			Kind  string  `json:"rope_type"`
		} `json:"rope_parameters"`
	}{Eps: 1e-5, Activation: "gelu", Positions: 8192, Every: 3, Window: 128, WholeTheta: 160000}
	if err := json.Unmarshal(data, &doc); err != nil {
		return err
	}
	if c.layers < 0 || c.layers > 1<<10 || doc.Every < 1 || doc.Window < 2 {
		return fmt.Errorf("%d layers, the whole text in each %d., a window of %d tokens: want numbers above 0", c.layers, doc.Every, doc.Window)
	}
	c.eps, c.activation, c.positions, c.tokenTypes = doc.Eps, doc.Activation, doc.Positions, 0
	c.modern = modernConfig{
		attentionBias: doc.AttentionBias, perceptronBias: doc.PerceptronBias, normBias: doc.NormBias,
		reach: doc.Window / 2, wholeTheta: doc.WholeTheta, windowTheta: 10000,
	}
	if doc.WindowTheta != nil {
		c.modern.windowTheta = *doc.WindowTheta
	}
	const whole, window = "full_attention", "sliding_attention"
	for kind, to := range map[string]*float64{whole: &c.modern.wholeTheta, window: &c.modern.windowTheta} {
		if r, ok := doc.Ropes[kind]; ok {
			if r.Kind != "" && r.Kind != "default" {
				return fmt.Errorf("rope_type %q, want default", r.Kind)
			}
			*to = r.Theta
		}
	}
	for i := range c.layers {
		sees := i%doc.Every == 0
		if i < int64(len(doc.Kinds)) {
			if sees = doc.Kinds[i] == whole; !sees && doc.Kinds[i] != window {
				return fmt.Errorf("layer_types %q, want %s or %s", doc.Kinds[i], whole, window)
			}
		}
		c.modern.whole = append(c.modern.whole, sees)
	}
	if c.heads > 0 && c.width/c.heads%2 != 0 {
		return fmt.Errorf("heads of %d numbers, want an even number", c.width/c.heads)
	}
	return nil
}

type modernLayer struct {
	attention, perceptron transformer.Affine // norms; the first layer has none before its attention
	qkv, out, in, back    transformer.Affine
	// whole says that the layer sees the whole text.
	whole bool
}

func newModern(p *torchstage.Params, c config) *modern {
	zeros := torchstage.Zeros() // every value comes from the file
	linear := func(name string, in, out int64, bias bool) transformer.Affine {
		a := transformer.Affine{Weight: p.Parameter(name+".weight", []int64{out, in}, zeros)}
		if bias {
			a.Bias = p.Parameter(name+".bias", []int64{out}, zeros)
		}
		return a
	}
	norm := func(name string) transformer.Affine {
		a := transformer.Affine{Weight: p.Parameter(name+".weight", []int64{c.width}, zeros)}
		if c.modern.normBias {
			a.Bias = p.Parameter(name+".bias", []int64{c.width}, zeros)
		}
		return a
	}
	m := &modern{config: c}
	m.word = p.Parameter("embeddings.tok_embeddings.weight", []int64{c.vocabulary, c.width}, zeros)
	m.first, m.last = norm("embeddings.norm"), norm("final_norm")
	for i := range c.layers {
		prefix := "layers." + strconv.FormatInt(i, 10) + "."
		l := modernLayer{whole: c.modern.whole[i]}
		if i > 0 {
			l.attention = norm(prefix + "attn_norm")
		}
		l.qkv = linear(prefix+"attn.Wqkv", c.width, 3*c.width, c.modern.attentionBias)
		l.out = linear(prefix+"attn.Wo", c.width, c.width, c.modern.attentionBias)
		l.perceptron = norm(prefix + "mlp_norm")
		l.in = linear(prefix+"mlp.Wi", c.width, 2*c.hidden, c.modern.perceptronBias)
		l.back = linear(prefix+"mlp.Wo", c.hidden, c.width, c.modern.perceptronBias)
		m.layers = append(m.layers, l)
	}
	return m
}

func (m *modern) run(s *torchstage.Scope, ids, hide *ts.Tensor) *ts.Tensor {
	t := s.Dim(ids, 1)
	everywhere := perHead(s, hide, m.heads)
	window := perHead(s, s.Add(hide, m.window(s, t)), m.heads)
	far, near := m.rotation(s, t, m.modern.wholeTheta), m.rotation(s, t, m.modern.windowTheta)
	x := m.first.Normalize(s, s.Embedding(m.word, ids), m.width, m.eps)
	for i, l := range m.layers {
		x = s.Sub(func(s *torchstage.Scope) *ts.Tensor {
			y := x
			if i > 0 {
				y = l.attention.Normalize(s, x, m.width, m.eps)
			}
			if l.whole {
				return s.Add(x, m.attend(s, l, y, everywhere, far))
			}
			return s.Add(x, m.attend(s, l, y, window, near))
		})
		x = s.Sub(func(s *torchstage.Scope) *ts.Tensor {
			y := l.in.Apply(s, l.perceptron.Normalize(s, x, m.width, m.eps))
			y = s.Mul(s.Gelu(s.Narrow(y, 2, 0, m.hidden)), s.Narrow(y, 2, m.hidden, m.hidden))
			return s.Add(x, l.back.Apply(s, y))
		})
	}
	return m.last.Normalize(s, x, m.width, m.eps)
}

// rotation holds the cosines and sines of the positions' angles, [T,h] each.
type rotation struct{ cos, sin *ts.Tensor }

func (m *modern) rotation(s *torchstage.Scope, t int64, theta float64) rotation {
	h := m.width / m.heads
	cos, sin := make([]float32, t*h), make([]float32, t*h)
	for i := range t {
		for k := range h {
			angle := float64(i) * math.Pow(theta, -float64(2*(k%(h/2)))/float64(h))
			cos[i*h+k], sin[i*h+k] = float32(math.Cos(angle)), float32(math.Sin(angle))
		}
	}
	return rotation{s.To(s.FromFloat32s(cos, t, h), m.device), s.To(s.FromFloat32s(sin, t, h), m.device)}
}

// turn rotates x [B,T,h]: its first and second half are the axes.
func (r rotation) turn(s *torchstage.Scope, x *ts.Tensor) *ts.Tensor {
	half := s.Dim(x, 2) / 2
	turned := s.Cat([]*ts.Tensor{s.Neg(s.Narrow(x, 2, half, half)), s.Narrow(x, 2, 0, half)}, 2)
	return s.Add(s.Mul(x, r.cos), s.Mul(turned, r.sin))
}

// window hides what is further away than the layers see, [1,1,T,T].
func (m *modern) window(s *torchstage.Scope, t int64) *ts.Tensor {
	bias := make([]float32, t*t)
	for i := range t {
		for k := range t {
			if i-k > m.modern.reach || k-i > m.modern.reach {
				bias[i*t+k] = hidden
			}
		}
	}
	return s.To(s.FromFloat32s(bias, 1, 1, t, t), m.device)
}

func (m *modern) attend(s *torchstage.Scope, l modernLayer, x, bias *ts.Tensor, r rotation) *ts.Tensor {
	y := l.qkv.Apply(s, x)
	part := func(k int64) *ts.Tensor { return split(s, s.Narrow(y, 2, k*m.width, m.width), m.heads) }
	q := s.MulScalar(r.turn(s, part(0)), 1/math.Sqrt(float64(m.width/m.heads)))
	return l.out.Apply(s, attend(s, q, r.turn(s, part(1)), part(2), bias, m.heads))
}
