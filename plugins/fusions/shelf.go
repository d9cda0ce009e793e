// Package fusions is a shelf of published fusions to compare with: each is a file of its
// own, named after what it does, on the frame that all fusions share (sdk/fusion). They see
// the same tokens and give the same outputs, and differ in what happens in between.
//
// Each is a plugin of its name (`--fusion film`), and a stage of the plugin fusions, which has
// them all (`--fusion fusions:film`).
package fusions

import (
	"github.com/sugarme/gotch/ts"

	"github.com/alignedfusion/alignedfusion/internal/release"
	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/fusion"
	"github.com/alignedfusion/alignedfusion/sdk/ports"
	"github.com/alignedfusion/alignedfusion/sdk/torchstage"
)

// method is one fusion. fuse gets every stream's tokens [N,T,d] in the order of
// Frame.Streams, stores the outputs tokens.* (Frame.Finish) and returns joint [N,J].
type method interface {
	fuse(s *torchstage.Scope, in *torchstage.Inputs, streams []*ts.Tensor, out *torchstage.Outputs) *ts.Tensor
}

// entry is a fusion's place on the shelf.
type entry struct {
	name, summary, paper string
	// manifest has what the stage has besides, settings above all.
	manifest sdk.StageManifest
	build    torchstage.Builder
}

// plain are the settings of a fusion that has none of its own; others embed it.
type plain struct{ fusion.FrameSettings }

func (p plain) frame() fusion.FrameSettings { return p.FrameSettings }

// place puts a fusion on the shelf: make declares its parameters and the joint output.
func place[S interface{ frame() fusion.FrameSettings }](name, summary, paper string, make func(b *torchstage.Build, f *fusion.Frame, set S) (method, error)) entry {
	var defaults S
	return entry{name, summary, paper, sdk.StageManifest{Settings: sdk.SettingsOf(defaults)}, func(b *torchstage.Build) (torchstage.Module, error) {
		set, err := sdk.DecodeSettings[S](b.Request.Settings)
		if err != nil {
			return nil, err
		}
		frame, err := fusion.New(b, set.frame())
		if err != nil {
			return nil, err
		}
		frame.Norms(b.Params)
		m, err := make(b, frame, set)
		if err != nil {
			return nil, err
		}
		return &module{frame, m}, frame.LoadWeights(b)
	}}
}

// shelf has the fusions, the simplest first.
var shelf = []entry{concat(), gated(), film(), crossAttention(), lowRank(), late(), bottleneck(), hyper()}

// Named is the plugin of a name: one fusion, stage fusion; or all of them, each a stage of its
// own, under any name that is none of theirs.
func Named(name string) sdk.Plugin {
	chosen, one := shelf, false
	for i, e := range shelf {
		if e.name == name {
			chosen, one = shelf[i:i+1], true
		}
	}
	m := sdk.Manifest{Name: "fusions", Version: release.Version, License: "Apache-2.0", Runtime: "libtorch", Capabilities: []string{sdk.CapabilityAMP, sdk.CapabilityFP16},
		ModelCard: "Published fusions on one frame, to compare with. No pretrained weights."}
	builders := map[string]torchstage.Builder{}
	for _, e := range chosen {
		stage := e.stage()
		if one {
			stage.Name = "fusion"
			m.Name, m.ModelCard = e.name, e.summary+". "+e.paper+" No pretrained weights."
		}
		builders[stage.Name] = e.build
		m.Stages = append(m.Stages, stage)
	}
	return sdk.Plugin{Manifest: m, Open: torchstage.Open(builders)}
}

// stage is the manifest of a fusion's stage.
func (e entry) stage() sdk.StageManifest {
	m := e.manifest
	inputs, outputs := fusion.Ports()
	m.Name, m.Kind, m.Trainable, m.Summary = e.name, sdk.KindFusion, true, e.summary
	m.Inputs, m.Outputs = append(inputs, m.Inputs...), outputs
	return m
}

// module is a fusion that has been opened.
type module struct {
	*fusion.Frame
	method
}

// Forward implements torchstage.Module.
func (m *module) Forward(s *torchstage.Scope, in *torchstage.Inputs) *torchstage.Outputs {
	out := &torchstage.Outputs{Tensors: map[string]*ts.Tensor{}, Losses: map[string]*ts.Tensor{}, Metrics: map[string]float64{}}
	streams := m.Read(s, in)
	if s.Err() == nil {
		out.Tensors[ports.Joint.Name] = m.fuse(s, in, streams, out)
	}
	return out
}

// pooled are the means of the streams [N,d], one for each.
func pooled(s *torchstage.Scope, streams []*ts.Tensor) (means []*ts.Tensor) {
	for _, x := range streams {
		means = append(means, s.Mean(x, []int64{1}, false))
	}
	return means
}

// spread adds h [N,d] to every token of every stream.
func spread(s *torchstage.Scope, streams []*ts.Tensor, h *ts.Tensor) (out []*ts.Tensor) {
	for _, x := range streams {
		out = append(out, s.Add(x, s.Unsqueeze(h, 1)))
	}
	return out
}

// condition is what modulates the modalities [N,d]: the report's mean, and without a report
// the mean over all modalities.
func condition(s *torchstage.Scope, f *fusion.Frame, streams []*ts.Tensor) *ts.Tensor {
	if len(f.Attributes) > 0 {
		return s.Mean(streams[len(streams)-1], []int64{1}, false)
	}
	return s.Mean(s.Stack(pooled(s, streams), 1), []int64{1}, false)
}
