package fusion

import "github.com/alignedfusion/alignedfusion/sdk"

// Limit makes a bound of a setting.
func Limit(v float64) *float64 { return &v }

// FrameSettings are the settings that every fusion stage has.
func FrameSettings() []sdk.Setting {
	return []sdk.Setting{
		{Name: "width", Type: "int", Default: "256", Min: Limit(1), Max: Limit(8192), Help: "size d of the fused tokens"},
		{Name: "residual", Type: "bool", Default: "true", Help: "give visual tokens back as input + projection, so that fusion takes nothing away; false: projection alone"},
		{Name: "identity", Type: "bool", Default: "true", Help: "add the learned attribute-identity embedding; without it unmentioned attributes are alike"},
		{Name: "modality_dropout", Type: "float", Default: "0", Min: Limit(0), Max: Limit(0.99), Help: "probability that a case's tokens of a modality are zeroed in training, so that the others learn to do without"},
		{Name: "unmentioned", Type: "string", Default: "learned", Choices: []string{"learned", "zero"}, Help: "what stands for an unmentioned attribute: the learned token t_UN or a zero vector"},
		{Name: "weights", Type: "path", Default: "", Help: "safetensors file with this stage's weights, to start from"},
	}
}

// AttentionSettings are those of a fusion stage with self-attention layers.
func AttentionSettings() []sdk.Setting {
	return []sdk.Setting{
		{Name: "layers", Type: "int", Default: "2", Min: Limit(1), Max: Limit(64), Help: "self-attention layers"},
		{Name: "heads", Type: "int", Default: "8", Min: Limit(1), Max: Limit(256), Help: "attention heads; must divide width"},
		{Name: "ffn", Type: "float", Default: "4", Min: Limit(0.125), Max: Limit(16), Help: "hidden size of the feed-forward layer, in widths"},
		{Name: "dropout", Type: "float", Default: "0.1", Min: Limit(0), Max: Limit(0.99), Help: "dropout on residual branches and hidden layers"},
		{Name: "branch_start", Type: "string", Default: "xavier", Choices: []string{"xavier", "zero"}, Help: "first weights of the branches' last projections; zero: layers start as if they were not there"},
	}
}

// FrameOptions reads FrameSettings.
func FrameOptions(s sdk.Settings) Options {
	return Options{Width: int64(s.Int("width")), Identity: s.Bool("identity"), Residual: s.Bool("residual"), ModalityDropout: s.Float("modality_dropout"), Zero: s.String("unmentioned") == "zero"}
}
