package fusion

import (
	"math"

	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/fusion/transformer"
)

// LayerConfig reads AttentionSettings.
func LayerConfig(s sdk.Settings) (transformer.Config, error) {
	width, heads := int64(s.Int("width")), int64(s.Int("heads"))
	if width%heads != 0 {
		return transformer.Config{}, sdk.Errorf(sdk.InvalidArgument, "settings width=%d and heads=%d: width must be a multiple of heads", width, heads)
	}
	hidden := max(1, int64(math.Round(s.Float("ffn")*float64(width))))
	return transformer.Config{Width: width, Heads: heads, Hidden: hidden, Dropout: s.Float("dropout"),
		ZeroBranches: s.String("branch_start") == "zero"}, nil
}
