// Command go-head serves a classification head with gated attention pooling (Ilse,
// Tomczak, Welling 2018, eq. 9): every token h_k gets a weight
//
//	a_k = softmax_k( wᵀ (tanh(V h_k) ⊙ sigmoid(U h_k)) )
//
// and the weighted mean of all tokens goes through a linear layer. The weights are an
// output on request: they say which tokens decided.
package main

import (
	"strconv"

	"github.com/sugarme/gotch/ts"

	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/ports"
	"github.com/alignedfusion/alignedfusion/sdk/serve"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
	"github.com/alignedfusion/alignedfusion/sdk/torchstage"
)

type settings struct {
	Width     int64 `setting:"width" default:"64" min:"1" help:"size that tokens are projected to"`
	Attention int64 `setting:"attention" default:"32" min:"1" help:"size of the attention's hidden layer"`
}

func manifest() sdk.Manifest {
	return sdk.Manifest{
		Name: "go-head", Version: "1.0.0", License: "Apache-2.0", Runtime: "libtorch", Capabilities: []string{sdk.CapabilityAMP, sdk.CapabilityFP16},
		ModelCard: "Gated attention pooling over the tokens of all modalities. Starts untrained; takes any tokens.",
		Stages: []sdk.StageManifest{{
			Name: "head", Kind: sdk.KindHead, Summary: "gated attention pooling and a linear layer",
			Tasks: []string{"classify"}, Trainable: true,
			Inputs: []sdk.Port{
				ports.Tokens.Declare(ports.Required),
				ports.TargetLabel.Declare(),
			},
			Outputs: []sdk.Port{
				ports.Logits.Declare(ports.Required, ports.Differentiable),
				{Name: "attention", DType: tensor.FP32, Shape: []string{"N", "tokens"}, OnRequest: true, Help: "weights of all tokens, modality by modality"},
			},
			Settings: sdk.SettingsOf(settings{}),
			Losses:   []string{"classification"},
		}},
	}
}

// linear is y = x·Wᵀ + b.
type linear struct{ weight, bias *ts.Tensor }

func newLinear(p *torchstage.Params, name string, in, out int64) linear {
	return linear{p.Parameter(name+".weight", []int64{out, in}, torchstage.XavierUniform()),
		p.Parameter(name+".bias", []int64{out}, torchstage.Zeros())}
}

func (l linear) apply(s *torchstage.Scope, x *ts.Tensor) *ts.Tensor {
	return s.Linear(x, l.weight, l.bias)
}

type head struct {
	ports               []string
	projections         []linear // one per modality, [width, C]
	v, u, w, classifier linear
}

func build(b *torchstage.Build) (torchstage.Module, error) {
	if len(b.Request.Labels) != 1 {
		return nil, sdk.Errorf(sdk.InvalidArgument, "%d label sets given, want one", len(b.Request.Labels))
	}
	set, err := sdk.DecodeSettings[settings](b.Request.Settings)
	if err != nil {
		return nil, err
	}
	width, hidden := set.Width, set.Attention
	h := &head{}
	for _, p := range b.Request.Inputs {
		if !ports.Tokens.Has(p.Name) {
			continue
		}
		c, err := strconv.ParseInt(p.Shape[2], 10, 64)
		if err != nil {
			return nil, sdk.Errorf(sdk.InvalidArgument, "input %s has shape %v, want a number in the last place", p.Name, p.Shape)
		}
		h.ports = append(h.ports, p.Name)
		h.projections = append(h.projections, newLinear(b.Params, "project."+p.Name, c, width))
	}
	h.v, h.u = newLinear(b.Params, "attention.v", width, hidden), newLinear(b.Params, "attention.u", width, hidden)
	h.w = newLinear(b.Params, "attention.w", hidden, 1)
	h.classifier = newLinear(b.Params, "classifier", width, int64(len(b.Request.Labels[0].Classes)))
	return h, nil
}

// Forward computes the logits, the loss when labels are given, and the attention when
// it is asked for.
func (h *head) Forward(s *torchstage.Scope, in *torchstage.Inputs) *torchstage.Outputs {
	var parts []*ts.Tensor
	for i, name := range h.ports {
		x := in.Tensors[name] // [N, T, C]
		if x == nil {
			s.Failf(sdk.InvalidArgument, "input %q was there when the head was opened and is missing now", name)
			return nil
		}
		parts = append(parts, h.projections[i].apply(s, x))
	}
	x := s.Cat(parts, 1)                                                    // [N, tokens, width]
	gate := s.Mul(s.Tanh(h.v.apply(s, x)), s.Sigmoid(h.u.apply(s, x)))      // [N, tokens, hidden]
	attention := s.Softmax(s.Squeeze(h.w.apply(s, gate), 2), 1)             // [N, tokens]
	pooled := s.Sum(s.Mul(x, s.Unsqueeze(attention, 2)), []int64{1}, false) // [N, width]
	logits := h.classifier.apply(s, pooled)                                 // [N, classes]
	out := &torchstage.Outputs{Tensors: map[string]*ts.Tensor{ports.Logits.Name: logits}}
	if in.Wanted["attention"] {
		out.Tensors["attention"] = attention
	}
	if target := in.Tensors[ports.TargetLabel.Name]; target != nil {
		out.Losses = map[string]*ts.Tensor{"classification": s.CrossEntropy(logits, target, nil, -1, 0)}
	}
	return out
}

func plugin() sdk.Plugin {
	return sdk.Plugin{Manifest: manifest(), Open: torchstage.Open(map[string]torchstage.Builder{"head": build})}
}

func main() { serve.Plugin(plugin()) }
