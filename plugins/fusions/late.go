package fusions

import (
	"slices"

	"github.com/sugarme/gotch/ts"

	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/fusion"
	"github.com/alignedfusion/alignedfusion/sdk/fusion/transformer"
	"github.com/alignedfusion/alignedfusion/sdk/ports"
	"github.com/alignedfusion/alignedfusion/sdk/torchstage"
)

// decisions fuse late: every stream decides by itself, and the decisions are weighed, as in
// the second stage of FusionM4Net (Tang et al. 2022, Medical Image Analysis 76):
//
//	p_m = softmax(W_m mean(x_m) + b_m),   p = Σ_m w_m p_m,   w = softmax(θ),   joint = p.
//
// The streams learn from a cross-entropy each, counted alike as there, and θ from that of p.
// FusionM4Net searches w on the validation cases instead. It assumes that streams add up:
// what only two of them together show is lost.
type decisions struct {
	*fusion.Frame
	alone bool
	tasks []decision
}

// decision is what is decided for one label set.
type decision struct {
	target  ports.Port
	classes int64
	streams []transformer.Affine
	weights *ts.Tensor // θ [streams,1]
}

type lateSettings struct {
	plain
	Alone bool `setting:"alone" default:"true" help:"give the head nothing but the mixed decision: all tokens are zero; false: the fused tokens too"`
}

func late() entry {
	e := place("late", "every stream decides by itself; the decisions' weights are learned", "Tang et al. 2022 (FusionM4Net).",
		func(b *torchstage.Build, f *fusion.Frame, set lateSettings) (method, error) {
			m := &decisions{Frame: f, alone: set.Alone}
			labels, width := b.Request.Labels, int64(0)
			if len(labels) == 0 {
				return nil, sdk.Errorf(sdk.InvalidArgument, "no label sets: late fusion weighs decisions, and there is none to make")
			}
			for _, l := range labels {
				if !l.Classed() {
					return nil, sdk.Errorf(sdk.InvalidArgument, "%q has no classes to decide between (%s), which is what late fusion weighs: take another fusion, or leave the question out", l.Name, l.Asks())
				}
				d := decision{target: ports.LabelTarget(labels, l.Name), classes: int64(len(l.Classes))}
				for _, stream := range f.Streams() {
					d.streams = append(d.streams, transformer.Linear(b.Params, "decision."+l.Name+"."+stream, f.Width, d.classes))
				}
				d.weights = b.Params.Parameter("weights."+l.Name, []int64{int64(len(d.streams)), 1}, torchstage.Zeros())
				m.tasks, width = append(m.tasks, d), width+d.classes
			}
			f.Joint(b, width)
			b.Losses = []string{"decisions"}
			return m, nil
		})
	e.manifest.Tasks = []string{"classify"}
	e.manifest.Inputs = []sdk.Port{ports.TargetLabel.Declare(), ports.TargetLabels.Declare()}
	e.manifest.Losses = []string{"decisions"}
	return e
}

func (m *decisions) fuse(s *torchstage.Scope, in *torchstage.Inputs, streams []*ts.Tensor, out *torchstage.Outputs) *ts.Tensor {
	means := pooled(s, streams)
	var mixed, losses []*ts.Tensor
	labelled := false
	for _, d := range m.tasks {
		p, loss := d.decide(s, means, in.Tensors[d.target.Name])
		mixed = append(mixed, p)
		labelled = labelled || in.Tensors[d.target.Name] != nil
		if loss != nil {
			losses = append(losses, loss)
		}
	}
	if len(losses) > 0 {
		out.Losses["decisions"] = s.Mean(s.Stack(losses, 0), []int64{0}, false)
	} else if labelled {
		out.Losses["decisions"] = s.MulScalar(s.Sum(mixed[0], []int64{0, 1}, false), 0) // nothing is known: nothing to learn
	}
	m.Finish(s, in, streams, out.Tensors)
	if m.alone {
		for name, x := range out.Tensors {
			out.Tensors[name] = s.MulScalar(x, 0)
		}
	}
	return s.Cat(mixed, 1)
}

// decide mixes the streams' decisions [N,classes] about means [N,d]; the loss is nil where
// no label of target is known.
func (d decision) decide(s *torchstage.Scope, means []*ts.Tensor, target *ts.Tensor) (mixed, loss *ts.Tensor) {
	var logits, each []*ts.Tensor
	for i, x := range means {
		logits = append(logits, d.streams[i].Apply(s, x))
	}
	p := s.Softmax(s.Stack(logits, 1), 2) // [N,streams,classes]
	if mixed = s.Sum(s.Mul(p, s.Softmax(d.weights, 0)), []int64{1}, false); target == nil {
		return mixed, nil
	}
	known := s.Int64s(target)
	if wrong := slices.IndexFunc(known, func(v int64) bool { return v < -1 || v >= d.classes }); wrong >= 0 {
		s.Failf(sdk.InvalidArgument, "%s of case %d is %d, want -1 (unknown) to %d", d.target.Name, wrong, known[wrong], d.classes-1)
	}
	if s.Err() != nil || !slices.ContainsFunc(known, func(v int64) bool { return v >= 0 }) {
		return mixed, nil
	}
	for _, z := range logits {
		each = append(each, s.CrossEntropy(z, target, nil, -1, 0))
	}
	together := s.CrossEntropy(s.Log(s.Clamp(mixed, 1e-12, 1)), target, nil, -1, 0)
	return mixed, s.Add(s.Mean(s.Stack(each, 0), []int64{0}, false), together)
}
