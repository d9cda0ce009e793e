package fusion

import (
	"math"

	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/fusion/transformer"
)

// FrameSettings are the settings that every fusion stage has; a stage embeds them in the
// struct of its own (see sdk.SettingsOf).
type FrameSettings struct {
	Width           int64    `setting:"width" default:"256" min:"1" max:"8192" help:"size d of the fused tokens"`
	Residual        bool     `setting:"residual" default:"true" help:"give visual tokens back as input + projection, so that fusion takes nothing away; false: projection alone"`
	Identity        bool     `setting:"identity" default:"true" help:"add the learned attribute-identity embedding; without it unmentioned attributes are alike"`
	ModalityDropout float64  `setting:"modality_dropout" default:"0" min:"0" max:"0.99" help:"probability that a case's tokens of a modality are zeroed in training, so that the others learn to do without"`
	TokenStart      float64  `setting:"token_start" default:"0.02" min:"0" max:"10" help:"standard deviation from which learned tokens start: t_UN, attribute identities, intermediate tokens; report tokens have 1"`
	Unmentioned     string   `setting:"unmentioned" default:"learned" choices:"learned,zero" help:"what stands for an unmentioned attribute: the learned token t_UN or a zero vector"`
	Weights         sdk.Path `setting:"weights" help:"safetensors file with this stage's weights, to start from"`
}

// AttentionSettings are those of a fusion stage with self-attention layers.
type AttentionSettings struct {
	Layers      int     `setting:"layers" default:"2" min:"1" max:"64" help:"self-attention layers"`
	Heads       int64   `setting:"heads" default:"8" min:"1" max:"256" help:"attention heads; must divide width"`
	FFN         float64 `setting:"ffn" default:"4" min:"0.125" max:"16" help:"hidden size of the feed-forward layer, in widths"`
	Dropout     float64 `setting:"dropout" default:"0.1" min:"0" max:"0.99" help:"dropout on residual branches and hidden layers"`
	BranchStart string  `setting:"branch_start" default:"xavier" choices:"xavier,zero" help:"first weights of the branches' last projections; zero: layers start as if they were not there"`
}

// Layer is the configuration of one layer on tokens of a width.
func (a AttentionSettings) Layer(width int64) (transformer.Config, error) {
	if width%a.Heads != 0 {
		return transformer.Config{}, sdk.RefuseSetting("heads", "%d given, want a divisor of width=%d", a.Heads, width)
	}
	hidden := max(1, int64(math.Round(a.FFN*float64(width))))
	return transformer.Config{Width: width, Heads: a.Heads, Hidden: hidden, Dropout: a.Dropout, ZeroBranches: a.BranchStart == "zero"}, nil
}
