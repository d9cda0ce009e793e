package selfattn_test

import (
	"testing"

	"github.com/alignedfusion/alignedfusion/plugins/internal/stagetest"
	"github.com/alignedfusion/alignedfusion/plugins/selfattn"
	"github.com/alignedfusion/alignedfusion/sdk"
)

func TestAgreesWithPyTorch(t *testing.T) {
	f := stagetest.Read(t, "testdata/selfattn.safetensors")
	set := f.Settings()
	set["weights"] = stagetest.WriteWeights(t, f.Group("param."))
	s := stagetest.Open(t, selfattn.Plugin(), sdk.OpenRequest{
		Stage: "fusion", Settings: set, Train: true, Inputs: f.Ports(), AttributeSchema: []byte(f.Metadata["schema"]),
	})
	in := f.Group("in.")
	for mode, r := range map[string]*sdk.ForwardResponse{"eval": s.Eval(in), "train": s.Train(1, in)} {
		for port, want := range f.Group("out.") {
			stagetest.Near(t, mode+" "+port, r.Outputs[port], want, 1e-5)
		}
	}
	got := s.Backward(f.Group("grad.out."), nil)
	stagetest.Near(t, "gradient of tokens.image", got["tokens.image"], f.Tensors["grad.in.tokens.image"], 1e-4)
}
