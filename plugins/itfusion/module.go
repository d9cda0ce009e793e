package itfusion

import (
	"fmt"
	"strconv"

	"github.com/sugarme/gotch/ts"

	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/fusion"
	"github.com/alignedfusion/alignedfusion/sdk/fusion/transformer"
	"github.com/alignedfusion/alignedfusion/sdk/ports"
	"github.com/alignedfusion/alignedfusion/sdk/torchstage"
)

const eps = 1e-5

// module is one opened fusion stage.
type module struct {
	*fusion.Frame
	method
	streams []string
	// pairs of stream indices; a single stream is paired with itself.
	pairs        [][2]int
	intermediate []*ts.Tensor // per pair [B,d]; empty without intermediate tokens
	interNorm    transformer.Affine
	layers       []map[string]*transformer.Layer
	rec          *reconstructor // nil without reconstruction
}

func build(b *torchstage.Build) (torchstage.Module, error) {
	set, err := sdk.DecodeSettings[settings](b.Request.Settings)
	if err != nil {
		return nil, err
	}
	config, err := set.Layer(set.Width)
	if err != nil {
		return nil, err
	}
	if set.StartLayer >= set.Layers {
		return nil, sdk.RefuseSetting("start_layer", "%d given, want less than layers=%d, or the modalities never meet", set.StartLayer, set.Layers)
	}
	frame, err := fusion.New(b, set.FrameSettings)
	if err != nil {
		return nil, err
	}
	if set.Intermediate && len(frame.Streams()) > 1 && set.Layers-set.StartLayer < 2 {
		b.Notes = append(b.Notes, fmt.Sprintf("start_layer=%d with layers=%d: intermediate tokens pass one layer, and a modality sees another only in the second: "+
			"the joint summary alone joins them; give layers=%d or more for tokens that know of each other", set.StartLayer, set.Layers, set.StartLayer+2))
	}
	p := b.Params
	m := &module{Frame: frame, method: set.method, streams: frame.Streams()}
	frame.Norms(p)
	groups := m.streams
	switch {
	case !set.Intermediate:
		groups = []string{"joint"}
	case set.ShareWeights:
		groups = []string{"shared"}
	}
	for l := range set.Layers {
		byStream := map[string]*transformer.Layer{}
		for _, g := range groups {
			byStream[g] = transformer.New(p, fmt.Sprintf("layers.%d.%s.", l, g), config, transformer.TorchNames)
		}
		if len(groups) == 1 {
			for _, name := range m.streams {
				byStream[name] = byStream[groups[0]]
			}
		}
		m.layers = append(m.layers, byStream)
	}
	jointWidth := set.Width
	if m.Intermediate {
		for i := range m.streams {
			for j := i + 1; j < len(m.streams); j++ {
				m.pairs = append(m.pairs, [2]int{i, j})
			}
		}
		if len(m.streams) == 1 {
			m.pairs = [][2]int{{0, 0}}
		}
		for _, pair := range m.pairs {
			name := "intermediate." + m.streams[pair[0]] + "+" + m.streams[pair[1]]
			m.intermediate = append(m.intermediate, p.Parameter(name, []int64{m.TokensPerPair, set.Width}, torchstage.Normal(0, set.TokenStart)))
		}
		m.interNorm = transformer.Norm(p, "norm.intermediate", set.Width)
		jointWidth *= int64(len(m.pairs))
	}
	frame.Joint(b, jointWidth)
	if len(m.Attributes) > 0 && set.Reconstruct {
		if m.rec, err = newReconstructor(b, frame, set.method); err != nil {
			return nil, err
		}
		b.Outputs = append(b.Outputs, ports.Reconstruction.Declare(ports.Required,
			ports.Shape("N", strconv.Itoa(len(m.Attributes)), strconv.FormatInt(m.K, 10))))
		b.Losses = []string{"reconstruction"}
	}
	return m, frame.LoadWeights(b)
}

// Forward runs Eq. 5 to 10 on a batch.
func (m *module) Forward(s *torchstage.Scope, in *torchstage.Inputs) *torchstage.Outputs {
	out := &torchstage.Outputs{Tensors: map[string]*ts.Tensor{}, Losses: map[string]*ts.Tensor{}, Metrics: map[string]float64{}}
	tokens := make([]*ts.Tensor, len(m.streams))
	for i, mod := range m.Modalities {
		tokens[i] = m.Visual(s, in, mod.Name)
	}
	report := len(m.Modalities) // the report's place among the streams
	var (
		cells  fusion.Cells
		masked []bool
		hidden *ts.Tensor // [N,A,1]
	)
	if len(m.Attributes) > 0 {
		cells = m.Cells(s, in)
		if s.Err() != nil {
			return out
		}
		masked = m.chooseMask(cells, in)
		hidden = m.Hidden(s, cells, masked)
		tokens[report] = m.Tokens(s, cells, hidden)
	}
	after, inter := m.attend(s, tokens, in.Train)
	if m.rec != nil {
		r := m.rec.run(s, m.Normalize(s, fusion.Report, after[report]), m.rec.regress(s, cells, masked, tokens[:report]))
		filled := m.Identify(s, r.token)
		if m.StopGradient {
			filled = s.Detach(filled)
		}
		if m.TwoPass {
			again := append([]*ts.Tensor(nil), tokens...)
			again[report] = m.Fill(s, hidden, filled, tokens[report])
			after, inter = m.attend(s, again, in.Train)
		} else {
			after[report] = m.Fill(s, hidden, filled, after[report])
		}
		out.Losses["reconstruction"] = m.rec.loss(s, r, cells, masked, out)
		out.Tensors[ports.Reconstruction.Name] = s.Detach(s.Softmax(s.MulScalar(r.logits, 1/m.Calibration), 2))
	}
	mean := m.Finish(s, in, after, out.Tensors)
	if !m.Intermediate {
		out.Tensors[ports.Joint.Name] = mean
		return out
	}
	var joint []*ts.Tensor
	for _, t := range inter {
		joint = append(joint, m.interNorm.Normalize(s, s.Mean(t, []int64{1}, false), m.Width, eps))
	}
	out.Tensors[ports.Joint.Name] = s.Cat(joint, 1)
	return out
}

// Close frees the value set's embeddings.
func (m *module) Close() {
	if m.rec != nil {
		_, _ = m.rec.values.Drop(), m.rec.padding.Drop()
	}
}

// chooseMask draws Eq. 9's mask: every known attribute with probability p, in
// training only. With spread, a case's own p is uniform between 0 and 2p (1 at most):
// reports differ in how much they leave out. A case that mask_whole takes loses all of
// them: a case whose p is below 1 hardly ever does. The call's seed is the only source of
// chance; whole cases have a stream of their own, so that the other masks of a seed stay.
func (m *module) chooseMask(c fusion.Cells, in *torchstage.Inputs) []bool {
	masked := make([]bool, len(c.State))
	if !in.Train || m.MaskProbability == 0 && m.MaskWhole == 0 {
		return masked
	}
	rng, wholes := torchstage.NewRand(in.Seed, "mask"), torchstage.NewRand(in.Seed, "mask.whole")
	p, whole := m.MaskProbability, false
	for i := range masked {
		if i%len(m.Attributes) == 0 {
			if m.MaskSpread {
				p = 2 * m.MaskProbability * rng.Float64()
			}
			whole = wholes.Float64() < m.MaskWhole
		}
		// One draw per cell, known or not, keeps the masks of a seed alike when cells differ.
		drawn := rng.Float64() < p
		masked[i] = (drawn || whole) && fusion.Known(c.State[i], c.Value[i])
	}
	return masked
}

// attend runs all layers. tokens holds every stream [N,T,d]; it returns the streams
// and the intermediate tokens [N,B,d] of every pair.
func (m *module) attend(s *torchstage.Scope, tokens []*ts.Tensor, train bool) (streams, inter []*ts.Tensor) {
	streams = append(streams, tokens...)
	if !m.Intermediate {
		return m.attendDirect(s, streams, train), nil
	}
	n := s.Dim(tokens[0], 0)
	for _, t := range m.intermediate {
		inter = append(inter, s.Expand(s.Unsqueeze(t, 0), n, m.TokensPerPair, m.Width)) // Eq. 6
	}
	for l, layer := range m.layers {
		if l < m.StartLayer {
			for i, name := range m.streams {
				streams[i] = layer[name].Forward(s, streams[i], nil, train)
			}
			continue
		}
		copies := make([][]*ts.Tensor, len(m.pairs))
		for i, name := range m.streams {
			parts := []*ts.Tensor{streams[i]}
			var mine []int
			for k, pair := range m.pairs {
				if pair[0] == i || pair[1] == i {
					parts, mine = append(parts, inter[k]), append(mine, k)
				}
			}
			t := s.Dim(streams[i], 1)
			y := layer[name].Forward(s, s.Cat(parts, 1), nil, train) // Eq. 7
			streams[i] = s.Narrow(y, 1, 0, t)
			for j, k := range mine {
				copies[k] = append(copies[k], s.Narrow(y, 1, t+int64(j)*m.TokensPerPair, m.TokensPerPair))
			}
		}
		for k, c := range copies { // Eq. 8: averaged and written back
			if len(c) == 1 {
				inter[k] = c[0]
				continue
			}
			inter[k] = s.MulScalar(s.Add(c[0], c[1]), 0.5)
		}
	}
	return streams, inter
}

// attendDirect is the ablation without intermediate tokens.
func (m *module) attendDirect(s *torchstage.Scope, streams []*ts.Tensor, train bool) []*ts.Tensor {
	x := s.Cat(streams, 1)
	for _, layer := range m.layers {
		x = layer[m.streams[0]].Forward(s, x, nil, train)
	}
	return fusion.Split(s, x, streams)
}
