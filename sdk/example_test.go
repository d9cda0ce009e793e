package sdk_test

import (
	"context"
	"fmt"

	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/ports"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

// Settings are the fields of a struct; what is wrong is said with what would be right.
func ExampleDecodeSettings() {
	type settings struct {
		Width int    `setting:"width" default:"256" min:"1" help:"size of a token"`
		Norm  string `setting:"norm" default:"layer" choices:"layer,batch"`
	}
	s, err := sdk.DecodeSettings[settings](map[string]string{"norm": "batch"})
	fmt.Println(s, err)
	_, err = sdk.DecodeSettings[settings](map[string]string{"width": "0"})
	fmt.Println(err)
	// Output:
	// {256 batch} <nil>
	// setting width: 0 given, want at least 1
}

// counter is a stage in plain Go that only infers: its one number per case is the length of the
// prompt.
type counter struct{}

func (counter) Forward(_ context.Context, req *sdk.ForwardRequest) (*sdk.ForwardResponse, error) {
	prompts, err := req.Inputs[ports.Text.Name].Strings()
	if err != nil {
		return nil, err
	}
	lengths := make([]float32, len(prompts))
	for i, p := range prompts {
		lengths[i] = float32(len(p))
	}
	return &sdk.ForwardResponse{Outputs: map[string]*tensor.Tensor{
		ports.Embedding.Name: tensor.OfFloat32s(lengths, int64(len(lengths)), 1),
	}}, nil
}

func (counter) Release(context.Context, uint64) error { return nil }
func (counter) Close() error                          { return nil }

// A plugin is a manifest and a function that opens its stages; serve.Plugin(plugin) in main makes
// a program of it.
func ExamplePlugin() {
	plugin := sdk.Plugin{
		Manifest: sdk.Manifest{
			Name: "counter", Version: "1.0.0", License: "Apache-2.0", Runtime: "Go",
			Stages: []sdk.StageManifest{{
				Name: "text", Kind: sdk.KindText,
				Inputs:  []sdk.Port{ports.Text.Declare(ports.Required)},
				Outputs: []sdk.Port{ports.Embedding.Declare(ports.Required)},
			}},
		},
		Open: func(context.Context, *sdk.OpenRequest) (sdk.Stage, *sdk.OpenResponse, error) {
			return counter{}, &sdk.OpenResponse{}, nil
		},
	}
	ctx := context.Background()
	stage, _, err := plugin.Open(ctx, &sdk.OpenRequest{Stage: "text"})
	if err != nil {
		fmt.Println(err)
		return
	}
	resp, err := stage.Forward(ctx, &sdk.ForwardRequest{Inputs: map[string]*tensor.Tensor{"text": tensor.OfStrings("size: small", "none")}})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(resp.Outputs["embedding"].Float32s())
	// Output:
	// [11 4] <nil>
}
