package a3d

import (
	"bytes"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/alignedfusion/alignedfusion/plugins/internal/stagetest"
	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/ports"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

// TestAClassifiersTokensAreTheDetectors: the frozen encoder of a classifier, started from a
// detector's weights, makes of every volume the tokens of the detector, bit for bit.
func TestAClassifiersTokensAreTheDetectors(t *testing.T) {
	d := openDetector(t, 1, sdk.Settings{"slices": "3"}, nil)
	first, targets := blobs(rand.New(rand.NewPCG(3, 3)), 2, 3, 64)
	second, _ := blobs(rand.New(rand.NewPCG(4, 4)), 2, 3, 64)
	d.train(1, first, targets) // its batch norms have seen something
	d.encoder.Step(0.01)
	weights := stagetest.WriteWeights(t, d.encoder.Weights())
	classifier := stagetest.Open(t, Plugin(), sdk.OpenRequest{Stage: "encoder", Task: "classify", Threads: 1, Train: true, Group: "classifier", Seed: 9,
		Settings: sdk.Settings{"slices": "3", "frozen": "true", "weights": weights}, Optimizer: sdk.Optimizer{Name: "sgd", Values: map[string]float64{"momentum": 0, "weight_decay": 0}},
		Inputs: []sdk.Port{ports.Named("volume.art"), ports.Named("volume.ven")}})
	if n := classifier.Response.TrainableCount; n != 0 {
		t.Errorf("%d parameters of a frozen encoder are trained", n)
	}
	in := map[string]*tensor.Tensor{"volume.art": first, "volume.ven": second}
	for mode, out := range map[string]map[string]*tensor.Tensor{"eval": classifier.Eval(in).Outputs, "train": classifier.Train(5, in).Outputs} {
		if len(out) != 2 {
			t.Fatalf("%s: %d outputs, want the tokens of two volumes", mode, len(out))
		}
		for name, volume := range map[string]*tensor.Tensor{"tokens.art": first, "tokens.ven": second} {
			want := d.encoder.Eval(map[string]*tensor.Tensor{"volume": volume}).Outputs["tokens.volume"]
			if got := out[name]; got == nil || !bytes.Equal(got.Data, want.Data) {
				t.Errorf("%s: %s is not what the detector makes of the volume", mode, name)
			}
		}
	}
}

// TestPicturesAreNoVolumes: a classifier on pictures alone is told what encodes them.
func TestPicturesAreNoVolumes(t *testing.T) {
	_, err := stagetest.TryOpen(t, Plugin(), sdk.OpenRequest{Stage: "encoder", Task: "classify", Inputs: []sdk.Port{ports.Named("image.main")}})
	if err == nil || !strings.Contains(err.Error(), "the data have no volume") {
		t.Errorf("%v", err)
	}
}

func TestTwoProcessesNormalizeAsOne(t *testing.T) {
	req := sdk.OpenRequest{Stage: "encoder", Task: "classify", Train: true, Seed: 9, Settings: sdk.Settings{"slices": "3"},
		Inputs: []sdk.Port{ports.Named("volume")}}
	in := map[string]*tensor.Tensor{"volume": stagetest.Random(5, 3, 1, 3, 32, 32)}
	stagetest.TwoNormalizeAsOne(t, Plugin(), req, in, ports.TokensOf("volume").Name)
}
